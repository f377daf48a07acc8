/* Layers: gradients of each, names, initialisation, ownership. */
#include "tests/unit/test_layer_fixture.h"

TestSuite(layer, .init = fixture_open, .fini = fixture_close);

/* ---- gradients ---- */

/* in[0] is x; the parameters behind it are changed in place, where the layer finds them. */
static hx_status forward(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    return hx_layer_forward(arg, c, in[0], out);
}

/* Truncation and rounding of the extrapolated differences stay near 1e-9 for functions of order 1. */
static void check_gradients(hx_layer *layer, hx_tensor *x) {
    hx_param_list list = {0};
    hx_tensor *in[32] = {x};
    double worst = 1;
    int n = 1;
    OK(hx_layer_params(layer, &list));
    for (int64_t i = 0; i < list.n_items; i++) in[n++] = list.items[i]->value;
    OK(hx_gradcheck(&ctx, forward, layer, in, n, &worst));
    cr_expect_lt(worst, 1e-7, "%s: worst relative difference %g", layer->type->name, worst);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

static void check_layer(hx_layer *layer, hx_shape shape) {
    HX_AUTO_TENSOR x = normal(shape, 5);
    hx_tensor_set_requires_grad(x, true);
    init_all(layer, 0.7);
    check_gradients(layer, x);
}

Test(layer, linear_has_right_gradients) {
    hx_layer *layer;
    OK(hx_linear_create(dev, HX_F64, 3, 4, true, &layer));
    check_layer(layer, HX_SHAPE(2, 2, 3));
    OK(hx_linear_create(dev, HX_F64, 3, 4, false, &layer));
    check_layer(layer, HX_SHAPE(5, 3));
}

Test(layer, norms_have_right_gradients) {
    hx_layer *layer;
    OK(hx_layernorm_create(dev, HX_F64, 5, 0, &layer));
    check_layer(layer, HX_SHAPE(2, 3, 5));
    OK(hx_rmsnorm_create(dev, HX_F64, 5, 0, &layer));
    check_layer(layer, HX_SHAPE(2, 3, 5));
}

/* y s of the sum of x and its transpose */
static hx_status add_to_norm(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    HX_AUTO_TENSOR turned = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR s = NULL;
    HX_TRY(hx_transpose(c, in[0], 0, 1, &turned));
    HX_TRY(hx_norm_add(arg, c, in[0], turned, &y, &s));
    return hx_mul(c, y, s, out);
}

Test(layer, norms_of_a_sum_have_right_gradients_recomputed_or_not) {
    for (int i = 0; i < 4; i++) {
        hx_layer *layer;
        hx_tensor *in[3];
        hx_param_list list = {0};
        double worst = 1;
        OK((i % 2 ? hx_layernorm_create : hx_rmsnorm_create)(dev, HX_F64, 5, 0, &layer));
        hx_layer_set_recompute(layer, i > 1);
        init_all(layer, 0.7);
        OK(hx_layer_params(layer, &list));
        in[0] = normal(HX_SHAPE(5, 5), 5);
        hx_tensor_set_requires_grad(in[0], true);
        for (int64_t k = 0; k < list.n_items; k++) in[k + 1] = list.items[k]->value;
        OK(hx_gradcheck(&ctx, add_to_norm, layer, in, 1 + (int)list.n_items, &worst));
        cr_expect_lt(worst, 1e-7, "%s%s: worst relative difference %g", layer->type->name, i > 1 ? ", recomputed" : "", worst);
        hx_tensor_destroy(&in[0]);
        hx_param_list_destroy(&list);
        hx_layer_destroy(&layer);
    }
}

Test(layer, a_norm_of_a_sum_runs_as_its_layer_does) {
    hx_layer *norm, *linear;
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 3, 4), 5);
    HX_AUTO_TENSOR r = normal(HX_SHAPE(2, 3, 4), 6);
    HX_AUTO_TENSOR zero = NULL;
    hx_tensor *y = NULL, *s = NULL, *sum, *want;
    OK(hx_layernorm_create(dev, HX_F64, 4, 0, &norm));
    OK(hx_linear_create(dev, HX_F64, 4, 4, false, &linear));
    init_all(norm, 0.7);
    OK(hx_add(&ctx, x, r, &sum));
    OK(hx_layer_forward(norm, &ctx, sum, &want));
    OK(hx_norm_add(norm, &ctx, x, r, &y, &s));
    double *a = values_of(want), *b = values_of(y), *c = values_of(sum), *d = values_of(s);
    cr_expect(memcmp(a, b, hx_tensor_bytes(y)) == 0 && memcmp(c, d, hx_tensor_bytes(s)) == 0, "other bits than one after the other");
    hx_tensor *all[] = {y, s, sum, want};
    for (int i = 0; i < 4; i++) hx_tensor_destroy(&all[i]);
    y = s = NULL;
    FAILS(hx_norm_add(linear, &ctx, x, r, &y, &s), HX_ERR_ARG);
    FAILS(hx_norm_add(norm, &ctx, x, NULL, &y, &s), HX_ERR_ARG);
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(4), &zero));
    FAILS(hx_norm_add(norm, &ctx, x, zero, &y, &s), HX_ERR_SHAPE);
    cr_expect(y == NULL && s == NULL && ctx.where == NULL);
    free(a), free(b), free(c), free(d);
    hx_layer_destroy(&linear);
    hx_layer_destroy(&norm);
}

Test(layer, embedding_has_right_gradients) {
    hx_layer *layer;
    HX_AUTO_TENSOR ids = ids_of(2, 3, (int32_t[]){0, 4, 0, 2, 2, 0});
    OK(hx_embedding_create(dev, HX_F64, 5, 3, &layer));
    init_all(layer, 0.7);
    check_gradients(layer, ids);
}

Test(layer, attention_has_right_gradients) {
    hx_layer *layer;
    OK(hx_attention_create(dev, HX_F64, 4, 2, 0, true, &layer));
    check_layer(layer, HX_SHAPE(2, 3, 4));
    OK(hx_attention_create(dev, HX_F64, 8, 4, 2, false,
                           &layer)); /* grouped: two query heads share a key head */
    check_layer(layer, HX_SHAPE(1, 3, 8));
}

Test(layer, activations_have_right_gradients) {
    const hx_op ops[] = {HX_OP_silu, HX_OP_gelu_tanh, HX_OP_gelu_erf, HX_OP_softplus, HX_OP_tanh, HX_OP_sigmoid};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        hx_layer *layer;
        OK(hx_activation_create(dev, ops[i], &layer));
        check_layer(layer, HX_SHAPE(2, 3));
    }
}

Test(layer, relu_has_right_gradients_away_from_its_kink) {
    hx_layer *layer;
    HX_AUTO_TENSOR x = NULL;
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(4), &x));
    OK(hx_tensor_write(stream, x, (double[]){-2, -1, 1, 2}));
    hx_tensor_set_requires_grad(x, true);
    OK(hx_activation_create(dev, HX_OP_relu, &layer));
    check_gradients(layer, x);
    OK(hx_leaky_relu_create(dev, 0.1, &layer));
    check_gradients(layer, x);
}

Test(layer, dropout_has_right_gradients) {
    hx_layer *layer;
    OK(hx_dropout_create(dev, 0.5,
                         &layer)); /* the mask is a function of (seed, path, step), so differences see one */
    check_layer(layer, HX_SHAPE(4, 4));
}

Test(layer, sequential_has_right_gradients) {
    hx_layer *parts[3], *layer;
    OK(hx_linear_create(dev, HX_F64, 3, 4, true, &parts[0]));
    OK(hx_activation_create(dev, HX_OP_tanh, &parts[1]));
    OK(hx_linear_create(dev, HX_F64, 4, 2, true, &parts[2]));
    OK(hx_sequential_create_consume(dev, parts, 3, &layer));
    for (int i = 0; i < 3; i++) cr_expect_null(parts[i]);
    check_layer(layer, HX_SHAPE(2, 3));
}

/* ---- dropout ---- */

Test(layer, dropout_masks_differ_between_layers_and_steps_and_vanish_in_evaluation) {
    hx_layer *parts[2], *layer;
    HX_AUTO_TENSOR x = NULL;
    hx_tensor *y[4];
    double *v[4];
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(8, 16), &x));
    OK(hx_tensor_fill(stream, x, 1));
    for (int i = 0; i < 2; i++) OK(hx_dropout_create(dev, 0.5, &parts[i]));
    OK(hx_sequential_create_consume(dev, parts, 2, &layer));
    OK(hx_layer_forward(layer->children[0], &ctx, x, &y[0]));
    OK(hx_layer_forward(layer->children[0], &ctx, x, &y[1]));
    OK(hx_layer_forward(layer->children[1], &ctx, x, &y[2]));
    ctx.step = 1;
    OK(hx_layer_forward(layer->children[0], &ctx, x, &y[3]));
    for (int i = 0; i < 4; i++) v[i] = values_of(y[i]);
    cr_expect_eq(memcmp(v[0], v[1], 128 * sizeof(double)), 0, "same layer, same step");
    cr_expect_neq(memcmp(v[0], v[2], 128 * sizeof(double)), 0, "another layer");
    cr_expect_neq(memcmp(v[0], v[3], 128 * sizeof(double)), 0, "another step");
    for (int i = 0; i < 128; i++) cr_expect(v[0][i] == 0 || v[0][i] == 2);
    for (int i = 0; i < 4; i++) {
        free(v[i]);
        hx_tensor_destroy(&y[i]);
    }
    ctx.training = false;
    OK(hx_layer_forward(layer, &ctx, x, &y[0]));
    cr_expect_eq(y[0], x);
    hx_tensor_destroy(&y[0]);
    hx_layer_destroy(&layer);
}

/* ---- names ---- */

Test(layer, parameters_are_listed_depth_first_under_their_paths) {
    hx_layer *parts[2], *layer;
    hx_param_list list = {0};
    OK(hx_linear_create(dev, HX_F32, 3, 4, true, &parts[0]));
    OK(hx_layernorm_create(dev, HX_F32, 4, 0, &parts[1]));
    OK(hx_sequential_create_consume(dev, parts, 2, &layer));
    OK(hx_layer_params(layer, &list));
    const char *const paths[] = {"0.weight", "0.bias", "1.weight", "1.bias"};
    cr_assert_eq(list.n_items, 4);
    for (int i = 0; i < 4; i++) cr_expect_str_eq(list.items[i]->path, paths[i]);
    cr_expect(list.items[0]->decays && !list.items[1]->decays && !list.items[2]->decays);
    cr_expect_eq(hx_param_list_count(&list), 12 + 4 + 4 + 4);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(layer, two_parameters_of_one_path_are_refused) {
    hx_layer *layer, *child;
    hx_param *param;
    hx_param_list list = {0};
    OK(hx_sequential_create_consume(dev, NULL, 0, &layer));
    OK(hx_linear_create(dev, HX_F32, 2, 2, false, &child));
    OK(hx_layer_add_consume(layer, "q", &child));
    OK(hx_layer_param(layer, "q.weight", HX_F32, HX_SHAPE(2), true, &param));
    FAILS(hx_layer_params(layer, &list), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "q.weight") != NULL, "%s", hx_error_message());
    cr_expect_null(list.items);
    hx_layer_destroy(&layer);
}

Test(layer, a_child_that_is_refused_is_destroyed) {
    hx_layer *layer, *child;
    OK(hx_sequential_create_consume(dev, NULL, 0, &layer));
    const char *const names[] = {"a.b", "", "a/b", NULL};
    for (int i = 0; i < 4; i++) {
        OK(hx_linear_create(dev, HX_F32, 2, 2, false, &child));
        FAILS(hx_layer_add_consume(layer, names[i], &child), HX_ERR_ARG);
        cr_expect_null(child);
    }
    OK(hx_linear_create(dev, HX_F32, 2, 2, false, &child));
    OK(hx_layer_add_consume(layer, "a", &child));
    OK(hx_linear_create(dev, HX_F32, 2, 2, false, &child));
    FAILS(hx_layer_add_consume(layer, "a", &child), HX_ERR_CONFIG);
    hx_layer *self = layer;
    FAILS(hx_layer_add_consume(layer->children[0], "loop", &self), HX_ERR_ARG);
    hx_layer_destroy(&layer); /* the fixture sees what was not given back */
}

Test(layer, a_path_that_is_too_long_is_refused) {
    char name[HX_NAME_BYTES];
    hx_layer *layer, *at, *child;
    hx_param_list list = {0};
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    OK(hx_sequential_create_consume(dev, NULL, 0, &layer));
    at = layer;
    for (int i = 0; i < 2; i++) {
        OK(hx_sequential_create_consume(dev, NULL, 0, &child));
        OK(hx_layer_add_consume(at, name, &child));
        at = at->children[0];
    }
    FAILS(hx_layer_params(layer, &list), HX_ERR_CONFIG);
    hx_layer_destroy(&layer);
}

Test(layer, a_frozen_parameter_asks_for_no_gradient) {
    hx_layer *layer;
    hx_param_list list = {0};
    OK(hx_linear_create(dev, HX_F64, 2, 2, true, &layer));
    cr_expect(hx_tensor_requires_grad(layer->params[0]->value));
    layer->params[0]->is_frozen = true;
    OK(hx_layer_params(layer, &list));
    cr_expect(!hx_tensor_requires_grad(layer->params[0]->value));
    cr_expect(hx_tensor_requires_grad(layer->params[1]->value));
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(layer, parts_that_do_not_cover_a_parameter_are_refused) {
    hx_layer *layer;
    hx_layout half;
    OK(hx_linear_create(dev, HX_F32, 3, 4, false, &layer));
    OK(hx_layout_full(&HX_SHAPE(2, 3), &half));
    const char *const names[] = {"a.weight", "b.weight"};
    FAILS(hx_param_set_parts(layer->params[0], 1, names, &half), HX_ERR_SHAPE);
    FAILS(hx_param_set_parts(layer->params[0], 2, names, (hx_layout[]){half, half}), HX_ERR_SHAPE);
    cr_expect_eq(layer->params[0]->n_parts, 0);
    hx_layout_destroy(&half);
    hx_layer_destroy(&layer);
}

Test(layer, sizes_that_make_no_layer_are_refused) {
    hx_layer *layer = NULL;
    FAILS(hx_linear_create(dev, HX_F32, 0, 3, true, &layer), HX_ERR_CONFIG);
    FAILS(hx_linear_create(dev, HX_F32, -1, 3, true, &layer), HX_ERR_CONFIG);
    FAILS(hx_linear_create(dev, HX_I32, 3, 3, true, &layer), HX_ERR_DTYPE);
    FAILS(hx_linear_create(dev, HX_F32, INT64_MAX, INT64_MAX, true, &layer), HX_ERR_OVERFLOW);
    FAILS(hx_attention_create(dev, HX_F32, 10, 3, 0, true, &layer), HX_ERR_CONFIG);
    FAILS(hx_attention_create(dev, HX_F32, 12, 4, 3, true, &layer), HX_ERR_CONFIG);
    FAILS(hx_attention_create(dev, HX_F32, INT64_MAX, 1, 0, true, &layer), HX_ERR_OVERFLOW);
    FAILS(hx_dropout_create(dev, 1, &layer), HX_ERR_CONFIG);
    FAILS(hx_dropout_create(dev, NAN, &layer), HX_ERR_CONFIG);
    FAILS(hx_layernorm_create(dev, HX_F32, 4, -1, &layer), HX_ERR_CONFIG);
    FAILS(hx_activation_create(dev, HX_OP_add, &layer), HX_ERR_ARG);
    cr_expect_null(layer);
}

Test(layer, inputs_that_do_not_fit_are_refused) {
    hx_layer *layer;
    hx_tensor *y = NULL;
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 5), 1);
    OK(hx_attention_create(dev, HX_F64, 4, 2, 0, true, &layer));
    init_all(layer, 1);
    FAILS(hx_layer_forward(layer, &ctx, x, &y), HX_ERR_SHAPE);
    FAILS(hx_layer_forward(NULL, &ctx, x, &y), HX_ERR_ARG);
    hx_layer_destroy(&layer);
    OK(hx_linear_create(dev, HX_F64, 4, 2, true, &layer));
    FAILS(hx_layer_forward(layer, &ctx, x, &y), HX_ERR_SHAPE);
    hx_layer_destroy(&layer);
    cr_expect_null(y);
}

/* ---- initialisation ---- */

Test(layer, parts_of_a_fused_weight_start_as_tensors_of_their_name_would) {
    hx_layer *fused, *plain, *child;
    OK(hx_attention_create(dev, HX_F64, 8, 4, 2, false, &fused));
    OK(hx_sequential_create_consume(dev, NULL, 0, &plain));
    OK(hx_linear_create(dev, HX_F64, 8, 4, false, &child)); /* rows of k: 2 heads of 2 */
    OK(hx_layer_add_consume(plain, "k", &child));
    init_all(fused, 0.02);
    init_all(plain, 0.02);
    double *a = values_of(fused->params[0]->value), *b = values_of(plain->children[0]->params[0]->value);
    cr_expect_eq(memcmp(a + 8 * 8, b, 4 * 8 * sizeof *b), 0);
    cr_expect_neq(memcmp(a, b, 4 * 8 * sizeof *b), 0);
    free(a);
    free(b);
    hx_layer_destroy(&fused);
    hx_layer_destroy(&plain);
}

Test(layer, a_slice_starts_with_the_values_of_the_whole) {
    hx_layer *whole, *slice;
    hx_layout layout;
    OK(hx_linear_create(dev, HX_F64, 6, 3, false, &whole));
    OK(hx_linear_create(dev, HX_F64, 2, 3, false, &slice)); /* columns 2 and 3 */
    OK(hx_layout_slice(&HX_SHAPE(3, 6), 1, 2, 2, &layout));
    OK(hx_param_set_parts(slice->params[0], 1, (const char *const[]){"weight"}, &layout));
    hx_layout_destroy(&layout);
    OK(hx_param_init(whole->params[0], stream, 9, HX_INIT_UNIFORM, 0.5));
    OK(hx_param_init(slice->params[0], stream, 9, HX_INIT_UNIFORM, 0.5));
    double *a = values_of(whole->params[0]->value), *b = values_of(slice->params[0]->value);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++) cr_expect_eq(b[i * 2 + j], a[i * 6 + 2 + j]);
    for (int i = 0; i < 18; i++) cr_expect(a[i] >= -0.5 && a[i] < 0.5);
    free(a);
    free(b);
    hx_layer_destroy(&whole);
    hx_layer_destroy(&slice);
}

Test(layer, initialisation_depends_on_the_seed) {
    hx_layer *layer;
    OK(hx_linear_create(dev, HX_F64, 4, 4, false, &layer));
    OK(hx_param_init(layer->params[0], stream, 1, HX_INIT_NORMAL, 1));
    double *a = values_of(layer->params[0]->value);
    OK(hx_param_init(layer->params[0], stream, 2, HX_INIT_NORMAL, 1));
    double *b = values_of(layer->params[0]->value);
    cr_expect_neq(memcmp(a, b, 16 * sizeof *a), 0);
    FAILS(hx_param_init(layer->params[0], stream, 2, HX_INIT_NORMAL, NAN), HX_ERR_ARG);
    FAILS(hx_param_init(layer->params[0], stream, 2, (hx_init_kind)77, 1), HX_ERR_ARG);
    free(a);
    free(b);
    hx_layer_destroy(&layer);
}

Test(layer, a_path_follows_the_tree_and_finds_the_layer) {
    hx_layer *leaf, *inner, *outer, *borrowed;
    OK(hx_activation_create(dev, HX_OP_relu, &leaf));
    borrowed = leaf;
    OK(hx_sequential_create_consume(dev, &leaf, 1, &inner));
    cr_expect_str_eq(borrowed->path, "0");
    OK(hx_sequential_create_consume(dev, NULL, 0, &outer));
    OK(hx_layer_add_consume(outer, "body", &inner));
    cr_expect_str_eq(borrowed->path, "body.0");
    cr_expect_eq(hx_layer_find(outer, "body.0"), borrowed);
    cr_expect_eq(hx_layer_find(outer, ""), outer);
    cr_expect_null(hx_layer_find(outer, "body.00"));
    cr_expect_null(hx_layer_find(outer, "bod"));
    hx_layer_destroy(&outer);
}

Test(layer, a_path_that_is_too_long_is_cut) {
    char name[100];
    hx_layer *leaf, *inner, *outer, *borrowed;
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    OK(hx_activation_create(dev, HX_OP_relu, &leaf));
    borrowed = leaf;
    OK(hx_sequential_create_consume(dev, NULL, 0, &inner));
    OK(hx_sequential_create_consume(dev, NULL, 0, &outer));
    OK(hx_layer_add_consume(inner, name, &leaf));
    OK(hx_layer_add_consume(outer, name, &inner));
    cr_expect_eq(strlen(borrowed->path), HX_NAME_BYTES - 1);
    hx_layer_destroy(&outer);
}

/* AdamW, parameter groups, the optimizer's state and the gradient norm. */
#include "core/optim/optim.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(optim, .init = fixture_open, .fini = fixture_close);

/* A layer whose bias is the vector to be optimised and whose weight [n,1] stays aside. */
static hx_layer *vector(int64_t n, const double *bias) {
    hx_layer *layer;
    hx_param_list list = {0};
    OK(hx_linear_create(dev, HX_F64, 1, n, true, &layer));
    OK(hx_layer_params(layer, &list));
    OK(hx_tensor_fill(stream, list.items[0]->value, 1));
    OK(hx_tensor_write(stream, list.items[1]->value, bias));
    hx_param_list_destroy(&list);
    return layer;
}

static void set_grad(hx_param *param, const double *values) {
    if (hx_tensor_grad(param->value) == NULL) {
        HX_AUTO_TENSOR g = NULL;
        OK(hx_tensor_create(dev, HX_F64, hx_tensor_shape(param->value), &g));
        OK(hx_tensor_set_grad(param->value, g));
    }
    OK(hx_tensor_write(stream, hx_tensor_grad(param->value), values));
}

static hx_optim_config table_config(void) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.beta1 = 0.9;
    c.beta2 = 0.999;
    c.eps = 1e-8;
    return c;
}

/* Five updates with g_t = [0.1 t, -0.2, 0.3 (-1)^t] scaled by 1/grad_scale. */
static void run_table(hx_optim *optim, hx_param *param, double grad_scale, hx_tensor *gscale) {
    for (int t = 1; t <= 5; t++) {
        const double g[3] = {0.1 * t / grad_scale, -0.2 / grad_scale, (t % 2 ? -0.3 : 0.3) / grad_scale};
        set_grad(param, g);
        OK(hx_optim_step(optim, &ctx, t, 0.01, gscale));
    }
}

static void expect_table(hx_param *param) {
    const double expected[3] = {0.951001564, -1.949010201, 0.514095041};
    double *got = values_of(param->value);
    for (int i = 0; i < 3; i++) cr_expect_float_eq(got[i], expected[i], 1e-8, "element %d: %.9f", i, got[i]);
    free(got);
}

Test(optim, adamw_follows_the_reference_table) {
    hx_layer *layer = vector(3, (double[]){1, -2, 0.5});
    hx_optim_config c = table_config();
    hx_optim *optim;
    const hx_param_group group = {
        .params = &layer->params[1], .n_params = 1, .lr_scale = 1, .weight_decay = 0.01};
    OK(hx_adamw_create(dev, stream, &group, 1, &c, &optim));
    run_table(optim, layer->params[1], 1, NULL);
    expect_table(layer->params[1]);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, adamw_multiplies_gradients_by_gscale) {
    hx_layer *layer = vector(3, (double[]){1, -2, 0.5});
    hx_optim_config c = table_config();
    hx_optim *optim;
    HX_AUTO_TENSOR gscale = NULL;
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &gscale));
    OK(hx_tensor_fill(stream, gscale, 0.125));
    const hx_param_group group = {
        .params = &layer->params[1], .n_params = 1, .lr_scale = 1, .weight_decay = 0.01};
    OK(hx_adamw_create(dev, stream, &group, 1, &c, &optim));
    run_table(optim, layer->params[1], 0.125, gscale);
    expect_table(layer->params[1]);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

/* With a zero gradient only the decay acts: p <- p (1 - lr lr_scale wd). */
Test(optim, groups_have_their_own_rate_and_decay) {
    hx_layer *layer = vector(2, (double[]){1, 1});
    hx_optim_config c = table_config();
    hx_optim *optim;
    const hx_param_group groups[2] = {
        {.params = &layer->params[0], .n_params = 1, .lr_scale = 1, .weight_decay = 0.1},
        {.params = &layer->params[1], .n_params = 1, .lr_scale = 0.5, .weight_decay = 0.4}};
    OK(hx_adamw_create(dev, stream, groups, 2, &c, &optim));
    for (int i = 0; i < 2; i++) set_grad(layer->params[i], (double[]){0, 0});
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    double *a = values_of(layer->params[0]->value), *b = values_of(layer->params[1]->value);
    cr_expect_float_eq(a[0], 1 - 0.1 * 0.1, 1e-15);
    cr_expect_float_eq(b[0], 1 - 0.1 * 0.5 * 0.4, 1e-15);
    free(a);
    free(b);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, the_usual_groups_decay_matrices_only) {
    hx_layer *layer = vector(2, (double[]){1, 1});
    hx_optim_config c = table_config();
    hx_param_list list = {0};
    hx_optim *optim;
    c.weight_decay = 0.5;
    OK(hx_layer_params(layer, &list));
    OK(hx_adamw_create_default(dev, stream, &list, &c, &optim));
    for (int i = 0; i < 2; i++) set_grad(layer->params[i], (double[]){0, 0});
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    double *a = values_of(layer->params[0]->value), *b = values_of(layer->params[1]->value);
    cr_expect_float_eq(a[0], 0.95, 1e-15);
    cr_expect_eq(b[0], 1);
    free(a);
    free(b);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, a_frozen_parameter_stays_and_needs_no_gradient) {
    hx_layer *layer = vector(2, (double[]){3, 4});
    hx_optim_config c = table_config();
    hx_param_list list = {0};
    hx_optim *optim;
    HX_AUTO_TENSOR squares = NULL;
    double value;
    layer->params[1]->is_frozen = true;
    OK(hx_layer_params(layer, &list));
    OK(hx_adamw_create_default(dev, stream, &list, &c, &optim));
    set_grad(layer->params[0], (double[]){1, 1});
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    double *b = values_of(layer->params[1]->value);
    cr_expect(b[0] == 3 && b[1] == 4);
    free(b);
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &squares));
    OK(hx_grad_sumsq(&ctx, &list, squares));
    OK(hx_tensor_item(stream, squares, &value));
    cr_expect_eq(value, 2);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, a_parameter_without_gradient_is_named_and_nothing_is_updated) {
    hx_layer *layer = vector(2, (double[]){3, 4});
    hx_optim_config c = table_config();
    hx_param_list list = {0};
    hx_optim *optim;
    HX_AUTO_TENSOR squares = NULL;
    OK(hx_layer_params(layer, &list));
    OK(hx_adamw_create_default(dev, stream, &list, &c, &optim));
    set_grad(layer->params[0], (double[]){1, 1});
    FAILS(hx_optim_step(optim, &ctx, 1, 0.1, NULL), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "bias") != NULL, "%s", hx_error_message());
    double *a = values_of(layer->params[0]->value);
    cr_expect_eq(a[0], 1);
    free(a);
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &squares));
    FAILS(hx_grad_sumsq(&ctx, &list, squares), HX_ERR_STATE);
    FAILS(hx_optim_step(optim, &ctx, 0, 0.1, NULL), HX_ERR_ARG);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, the_gradient_norm_spans_all_parameters) {
    hx_layer *layer = vector(2, (double[]){0, 0});
    hx_param_list list = {0};
    HX_AUTO_TENSOR squares = NULL;
    double value;
    OK(hx_layer_params(layer, &list));
    set_grad(layer->params[0], (double[]){1, -2});
    set_grad(layer->params[1], (double[]){3, 4});
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &squares));
    OK(hx_tensor_fill(stream, squares, 99));
    OK(hx_grad_sumsq(&ctx, &list, squares));
    OK(hx_tensor_item(stream, squares, &value));
    cr_expect_eq(value, 30);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(optim, state_is_listed_under_the_logical_names) {
    static const char *const names[] = {"/optim/m/q.weight",    "/optim/m/k.weight",   "/optim/m/v.weight",
                                        "/optim/m/proj.weight", "/optim/v/q.weight",   "/optim/v/k.weight",
                                        "/optim/v/v.weight",    "/optim/v/proj.weight"};
    hx_layer *layer;
    hx_optim_config c = table_config();
    hx_param_list list = {0};
    hx_state_list state = {0};
    hx_optim *optim;
    OK(hx_attention_create(dev, HX_F64, 8, 4, 2, false, &layer));
    OK(hx_layer_params(layer, &list));
    OK(hx_adamw_create_default(dev, stream, &list, &c, &optim));
    OK(hx_optim_state(optim, 1, 2, &state));
    cr_assert_eq(state.n_items, 8);
    for (int i = 0; i < 8; i++) {
        cr_expect_str_eq(state.items[i].name, names[i]);
        cr_expect(state.items[i].replica == 1 && state.items[i].n_replicas == 2);
        cr_expect_eq(state.items[i].dtype, HX_F64);
    }
    cr_expect_eq(state.items[0].data, state.items[2].data, "q, k and v share one tensor");
    cr_expect_eq(state.items[1].layout->boxes[0].local, 64, "k follows the 8 rows of q");
    cr_expect_eq(*(double *)state.items[0].data, 0, "moments start at zero");
    hx_state_list_destroy(&state);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, groups_and_numbers_without_meaning_are_refused) {
    hx_layer *layer = vector(2, (double[]){0, 0});
    hx_optim_config c = table_config();
    hx_optim *optim = NULL;
    hx_param *twice[2] = {layer->params[0], layer->params[0]};
    hx_param_group group = {.params = twice, .n_params = 2, .lr_scale = 1};
    FAILS(hx_adamw_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    group.n_params = 1;
    FAILS(hx_adamw_create(dev, stream, &group, 0, &c, &optim), HX_ERR_ARG);
    group.lr_scale = NAN;
    FAILS(hx_adamw_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    group.lr_scale = 1;
    c.beta2 = 1;
    FAILS(hx_adamw_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    cr_expect_null(optim);
    hx_layer_destroy(&layer);
}

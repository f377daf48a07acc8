/* LLaMA-shaped models: the parts that GPT-2 has not, the numbers of the whole, and that it learns. */
#include "tests/unit/test_layer_fixture.h"

TestSuite(llama, .init = fixture_open, .fini = fixture_close);

enum { F32, F64, BF16 }; /* the first choices of hx_gpt_config.dtype */

static hx_gpt_config tiny(int dtype) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.vocab = 11;
    c.ctx = 6;
    c.layers = 2;
    c.dim = 16;
    c.heads = 4;
    c.kv_heads = 2;
    c.mlp_dim = 20;
    c.norm = 1;
    c.norm_eps = 1e-6;
    c.positions = 1;
    c.mlp = 1;
    c.bias = false;
    c.tied = false;
    c.dtype = dtype;
    return c;
}

static hx_layer *create(const hx_gpt_config *config) {
    hx_layer *model = NULL;
    OK(hx_gpt_create(dev, config, &model));
    OK(hx_gpt_init(model, stream, 5));
    return model;
}

Test(llama, has_the_parameters_of_the_formula_under_its_names) {
    static const char *const names[] = {"tok.weight",
                                        "blocks.0.norm1.weight",
                                        "blocks.0.attn.q.weight",
                                        "blocks.0.attn.k.weight",
                                        "blocks.0.attn.v.weight",
                                        "blocks.0.attn.proj.weight",
                                        "blocks.0.norm2.weight",
                                        "blocks.0.mlp.gate.weight",
                                        "blocks.0.mlp.up.weight",
                                        "blocks.0.mlp.out.weight"};
    hx_gpt_config c = tiny(F64);
    hx_layer *model = create(&c);
    hx_param_list list = {0};
    size_t n = 0;
    OK(hx_layer_params(model, &list));
    const int64_t d = 16, kv = 8, wide = 20;
    cr_expect_eq(hx_param_list_count(&list),
                 2 * 11 * d + 2 * (2 * d * d + 2 * kv * d + 3 * wide * d + 2 * d) + d);
    for (int64_t i = 0; i < list.n_items && n < sizeof names / sizeof *names; i++)
        for (int k = 0; k < hx_param_n_logical(list.items[i]) && n < sizeof names / sizeof *names; k++) {
            char path[HX_NAME_BYTES];
            hx_param_logical(list.items[i], k, path, NULL);
            cr_expect_str_eq(path, names[n++]);
        }
    hx_param_list_destroy(&list);
    hx_layer_destroy(&model);
}

/* ---- SwiGLU ---- */

Test(llama, swiglu_is_silu_of_gate_times_up) {
    hx_layer *layer = NULL;
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR y = NULL;
    OK(hx_swiglu_create(dev, HX_F64, 2, 1, true, &layer));
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(1, 2), &x));
    OK(hx_tensor_write(stream, x, (double[]){1, 2}));
    OK(hx_tensor_write(stream, layer->params[0]->value, (double[]){.5, -.25, 1, 1})); /* gate, up */
    OK(hx_tensor_write(stream, layer->params[1]->value, (double[]){.25, 2}));
    OK(hx_tensor_write(stream, layer->children[0]->params[0]->value, (double[]){1, -2}));
    OK(hx_tensor_write(stream, layer->children[0]->params[1]->value, (double[]){0, .5}));
    OK(hx_layer_forward(layer, &ctx, x, &y));
    const double inner = .25 / (1 + exp(-.25)) * 5; /* gate .25, up 5 */
    double *v = values_of(y);
    cr_expect_float_eq(v[0], inner, 1e-15);
    cr_expect_float_eq(v[1], .5 - 2 * inner, 1e-15);
    free(v);
    hx_layer_destroy(&layer);
    FAILS(hx_swiglu_create(dev, HX_F64, 2, 0, true, &layer), HX_ERR_CONFIG);
}

static hx_status forward(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    return hx_layer_forward(arg, c, in[0], out);
}

/* Consumes the layer. */
static void check_gradients(hx_layer *layer, hx_tensor *x, const char *what) {
    hx_param_list list = {0};
    hx_tensor *in[64] = {x};
    double worst = 1;
    int n = 1;
    init_all(layer, 0.3);
    OK(hx_layer_params(layer, &list));
    for (int64_t i = 0; i < list.n_items; i++) in[n++] = list.items[i]->value;
    OK(hx_gradcheck(&ctx, forward, layer, in, n, &worst));
    cr_expect_lt(worst, 1e-8, "%s: worst relative difference %g", what, worst);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(llama, parts_and_whole_have_right_gradients) {
    hx_layer *layer = NULL;
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 3, 4), 5);
    HX_AUTO_TENSOR ids = ids_of(2, 3, (int32_t[]){1, 2, 4, 0, 1, 1});
    hx_tensor_set_requires_grad(x, true);
    OK(hx_swiglu_create(dev, HX_F64, 4, 6, true, &layer));
    check_gradients(layer, x, "swiglu");
    OK(hx_attention_create(dev, HX_F64, 4, 2, 1, false, &layer));
    OK(hx_attention_set_rotary(layer, 100));
    check_gradients(layer, x, "rotary attention");
    hx_gpt_config c = tiny(F64);
    c.layers = 1;
    OK(hx_gpt_create(dev, &c, &layer));
    check_gradients(layer, ids, "model");
}

/* ---- positions and masks ---- */

static hx_tensor *output(hx_layer *layer, hx_tensor *x) {
    hx_tensor *y = NULL;
    OK(hx_layer_forward(layer, &ctx, x, &y));
    return y;
}

static double largest_difference(hx_tensor *a, hx_tensor *b) {
    double *x = values_of(a), *y = values_of(b), most = 0;
    for (int64_t i = 0; i < hx_tensor_count(a); i++) most = fmax(most, fabs(x[i] - y[i]));
    free(x);
    free(y);
    return most;
}

/* Without positions the last token sees its predecessors as a set. */
Test(llama, rotary_positions_tell_orders_apart) {
    const int32_t forth[4] = {1, 2, 3, 4}, back[4] = {2, 1, 3, 4};
    for (int positions = 1; positions <= 2; positions++) {
        hx_gpt_config c = tiny(F64);
        c.layers = 1;
        c.positions = positions;
        hx_layer *model = create(&c);
        init_all(model, 0.3);
        HX_AUTO_TENSOR a = ids_of(1, 4, forth);
        HX_AUTO_TENSOR b = ids_of(1, 4, back);
        HX_AUTO_TENSOR x = output(model, a);
        HX_AUTO_TENSOR y = output(model, b);
        HX_AUTO_TENSOR x_last = NULL;
        HX_AUTO_TENSOR y_last = NULL;
        OK(hx_slice(&ctx, x, 1, 3, 4, 1, &x_last));
        OK(hx_slice(&ctx, y, 1, 3, 4, 1, &y_last));
        const double most = largest_difference(x_last, y_last);
        cr_expect(positions == 1 ? most > 1e-3 : most < 1e-12, "positions %d: %g", positions, most);
        hx_layer_destroy(&model);
    }
}

/* Scores depend on distances alone: behind a token that nobody may see everything is as without it. */
Test(llama, rotary_attention_depends_on_distances) {
    hx_layer *layer = NULL;
    HX_AUTO_TENSOR x = normal(HX_SHAPE(1, 5, 8), 4);
    HX_AUTO_TENSOR tail = NULL;
    HX_AUTO_TENSOR mask = NULL;
    HX_AUTO_TENSOR seen = NULL;
    OK(hx_attention_create(dev, HX_F64, 8, 2, 0, false, &layer));
    OK(hx_attention_set_rotary(layer, 10000));
    init_all(layer, 0.5);
    OK(hx_tensor_create(dev, HX_BOOL, HX_SHAPE(1, 5), &mask));
    OK(hx_tensor_write(stream, mask, (uint8_t[]){0, 1, 1, 1, 1}));
    OK(hx_attention_set_mask(layer, mask, true));
    HX_AUTO_TENSOR all = output(layer, x);
    OK(hx_slice(&ctx, all, 1, 1, 5, 1, &seen));
    OK(hx_attention_set_mask(layer, NULL, true));
    OK(hx_slice(&ctx, x, 1, 1, 5, 1, &tail));
    HX_AUTO_TENSOR alone = output(layer, tail);
    cr_expect_lt(largest_difference(seen, alone), 1e-14);
    hx_layer_destroy(&layer);
}

Test(llama, a_triangular_mask_is_the_causal_one) {
    hx_layer *layer = NULL;
    uint8_t lower[16];
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 4, 8), 4);
    HX_AUTO_TENSOR mask = NULL;
    OK(hx_attention_create(dev, HX_F64, 8, 2, 1, true, &layer));
    init_all(layer, 0.5);
    for (int i = 0; i < 16; i++) lower[i] = i % 4 <= i / 4;
    OK(hx_tensor_create(dev, HX_BOOL, HX_SHAPE(4, 4), &mask));
    OK(hx_tensor_write(stream, mask, lower));
    HX_AUTO_TENSOR causal = output(layer, x);
    OK(hx_attention_set_mask(layer, mask, false));
    HX_AUTO_TENSOR masked = output(layer, x);
    OK(hx_attention_set_mask(layer, NULL, false));
    HX_AUTO_TENSOR open = output(layer, x);
    cr_expect_lt(largest_difference(causal, masked), 1e-14);
    cr_expect_gt(largest_difference(causal, open), 1e-3);
    hx_layer_destroy(&layer);
}

Test(llama, settings_that_make_no_model_are_refused) {
    hx_layer *layer = NULL;
    HX_AUTO_TENSOR numbers = normal(HX_SHAPE(3, 3), 1);
    OK(hx_attention_create(dev, HX_F64, 6, 2, 0, false, &layer)); /* 3 elements per head */
    FAILS(hx_attention_set_rotary(layer, 10000), HX_ERR_CONFIG);
    FAILS(hx_attention_set_rotary(layer, NAN), HX_ERR_CONFIG);
    FAILS(hx_attention_set_mask(layer, numbers, true), HX_ERR_DTYPE);
    hx_layer_destroy(&layer);
    OK(hx_linear_create(dev, HX_F64, 2, 2, false, &layer));
    FAILS(hx_attention_set_rotary(layer, 10000), HX_ERR_ARG);
    FAILS(hx_attention_set_mask(layer, NULL, true), HX_ERR_ARG);
    hx_layer_destroy(&layer);
    for (int i = 0; i < 4; i++) {
        hx_gpt_config c = tiny(F64);
        if (i == 0) c.kv_heads = 3;
        if (i == 1) c.heads = 16, c.kv_heads = 0; /* 1 element per head */
        if (i == 2) c.positions = 3;
        if (i == 3) c.norm_eps = 0;
        FAILS(hx_gpt_create(dev, &c, &layer), HX_ERR_CONFIG);
        cr_expect_null(layer);
    }
}

/* ---- learning ---- */

/* Weights in f32 that follow the gradients; the model's own, of its dtype, are their rounded copies. */
typedef struct masters {
    hx_tensor *value[64];
} masters;

static void masters_open(masters *m, const hx_param_list *list) {
    for (int64_t i = 0; i < list->n_items; i++)
        OK(hx_cast(&ctx, list->items[i]->value, HX_F32, &m->value[i]));
}

static void masters_step(masters *m, const hx_param_list *list, double rate) {
    const hx_ctx saved = ctx;
    ctx = hx_no_grad(&ctx);
    for (int64_t i = 0; i < list->n_items; i++) {
        HX_AUTO_TENSOR update = NULL;
        hx_tensor *moved = NULL;
        OK(hx_affine(&ctx, hx_tensor_grad(list->items[i]->value), -rate, 0, &update));
        OK(hx_add(&ctx, m->value[i], update, &moved));
        OK(hx_copy_into(&ctx, moved, list->items[i]->value));
        hx_tensor_destroy(&m->value[i]);
        m->value[i] = moved;
    }
    ctx = saved;
}

/* Mean loss before the first and the last of n steps of gradient descent on one batch. */
static void learn(int dtype, double rate, int n, double *first, double *last) {
    hx_gpt_config c = tiny(dtype);
    hx_param_list list = {0};
    masters m = {0};
    hx_layer *model = create(&c);
    HX_AUTO_TENSOR ids = ids_of(2, 6, (int32_t[]){1, 7, 3, 9, 2, 5, 8, 0, 3, 3, 6, 10});
    HX_AUTO_TENSOR targets = ids_of(2, 6, (int32_t[]){7, 3, 9, 2, 5, 1, 0, 3, 3, 6, 10, 4});
    OK(hx_layer_params(model, &list));
    masters_open(&m, &list);
    ctx.tape = tape;
    for (int step = 0; step < n; step++) {
        HX_AUTO_TENSOR logits = NULL;
        HX_AUTO_TENSOR sum = NULL;
        HX_AUTO_TENSOR count = NULL;
        for (int64_t i = 0; i < list.n_items; i++) hx_tensor_grad_reset(list.items[i]->value);
        OK(hx_layer_forward(model, &ctx, ids, &logits));
        OK(hx_cross_entropy(&ctx, logits, targets, HX_IGNORE_INDEX, &sum, &count));
        OK(hx_tensor_item(stream, sum, last));
        *last /= 12;
        if (step == 0) *first = *last;
        OK(hx_backward(&ctx, sum, NULL));
        masters_step(&m, &list, rate / 12);
    }
    ctx.tape = NULL;
    for (int64_t i = 0; i < list.n_items; i++) hx_tensor_destroy(&m.value[i]);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&model);
}

Test(llama, learns_a_fixed_batch_by_heart_in_f32_and_bf16) {
    double first, last;
    for (int dtype = F32; dtype <= BF16; dtype += BF16 - F32) {
        learn(dtype, 0.5, 300, &first, &last);
        cr_expect_float_eq(first, log(11), 0.1, "a fresh model knows nothing: %g", first);
        cr_expect_lt(last, 0.1, "%s: loss after 300 steps: %g", dtype == F32 ? "f32" : "bf16", last);
    }
}

/* The GPT: what it is made of, what it computes, and that it learns. */
#include "core/optim/optim.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(gpt, .init = fixture_open, .fini = fixture_close);

static hx_gpt_config tiny(void) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.vocab = 11;
    c.ctx = 6;
    c.layers = 2;
    c.dim = 8;
    c.heads = 2;
    c.dtype = 1; /* f64 */
    return c;
}

static hx_layer *create(const hx_gpt_config *config) {
    hx_layer *gpt = NULL;
    OK(hx_gpt_create(dev, config, &gpt));
    OK(hx_gpt_init(gpt, stream, 5));
    return gpt;
}

static int64_t n_params(const hx_gpt_config *config) {
    hx_layer *gpt = create(config);
    hx_param_list list = {0};
    OK(hx_layer_params(gpt, &list));
    int64_t n = hx_param_list_count(&list);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&gpt);
    return n;
}

Test(gpt, has_the_number_of_parameters_of_the_formula) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    const int64_t d = c.dim, body = (c.vocab + c.ctx) * d + c.layers * (12 * d * d + 13 * d) + 2 * d;
    cr_expect_eq(n_params(&c), body);
    c.tied = false;
    cr_expect_eq(n_params(&c), body + c.vocab * d);
    c.tied = true;
    c.bias = false; /* linear layers lose 3d + d + 4d + d, norms keep theirs */
    cr_expect_eq(n_params(&c), body - c.layers * 9 * d);
    c.bias = true;
    c.norm = 1; /* rmsnorm has no bias */
    cr_expect_eq(n_params(&c), body - c.layers * 2 * d - d);
}

Test(gpt, stores_its_tensors_under_readable_names) {
    static const char *const names[] = {"tok.weight",
                                        "pos.weight",
                                        "blocks.0.norm1.weight",
                                        "blocks.0.norm1.bias",
                                        "blocks.0.attn.q.weight",
                                        "blocks.0.attn.k.weight",
                                        "blocks.0.attn.v.weight",
                                        "blocks.0.attn.q.bias",
                                        "blocks.0.attn.k.bias",
                                        "blocks.0.attn.v.bias",
                                        "blocks.0.attn.proj.weight",
                                        "blocks.0.attn.proj.bias",
                                        "blocks.0.norm2.weight",
                                        "blocks.0.norm2.bias",
                                        "blocks.0.mlp.in.weight",
                                        "blocks.0.mlp.in.bias",
                                        "blocks.0.mlp.out.weight",
                                        "blocks.0.mlp.out.bias",
                                        "norm.weight",
                                        "norm.bias",
                                        "head.weight"};
    const int n_names = (int)(sizeof names / sizeof *names);
    hx_gpt_config c = tiny();
    hx_param_list list = {0};
    hx_state_list state = {0};
    c.layers = 1;
    c.tied = false;
    hx_layer *gpt = create(&c);
    OK(hx_layer_params(gpt, &list));
    OK(hx_params_state(&list, NULL, &state));
    cr_assert_eq(state.n_items, n_names);
    for (int i = 0; i < n_names; i++) cr_expect_str_eq(state.items[i].name + strlen("/model/"), names[i]);
    cr_expect_eq(state.items[4].layout->shape.dims[0], c.dim);
    hx_state_list_destroy(&state);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&gpt);
}

Test(gpt, gives_logits_for_any_length_up_to_ctx) {
    hx_gpt_config c = tiny();
    hx_layer *gpt = create(&c);
    for (int64_t T = 1; T <= c.ctx; T++) {
        hx_tensor *logits;
        HX_AUTO_TENSOR ids = ids_of(2, T, (int32_t[12]){1, 2, 3});
        OK(hx_layer_forward(gpt, &ctx, ids, &logits));
        hx_shape s = hx_tensor_shape(logits);
        cr_expect(hx_shape_equal(&s, &HX_SHAPE(2, T, c.vocab)));
        hx_tensor_destroy(&logits);
    }
    hx_layer_destroy(&gpt);
}

Test(gpt, refuses_inputs_that_do_not_fit) {
    hx_gpt_config c = tiny();
    hx_layer *gpt = create(&c);
    hx_tensor *logits = NULL;
    HX_AUTO_TENSOR too_long = ids_of(1, 7, (int32_t[7]){0});
    HX_AUTO_TENSOR flat = NULL;
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(4), &flat));
    FAILS(hx_layer_forward(gpt, &ctx, too_long, &logits), HX_ERR_SHAPE);
    cr_expect(strstr(hx_error_message(), "ctx = 6") != NULL, "%s", hx_error_message());
    FAILS(hx_layer_forward(gpt, &ctx, flat, &logits), HX_ERR_SHAPE);
    cr_expect_null(logits);
    hx_layer_destroy(&gpt);
}

Test(gpt, refuses_configurations_that_make_no_model) {
    hx_layer *gpt = NULL;
    hx_gpt_config c = tiny();
    c.heads = 3;
    FAILS(hx_gpt_create(dev, &c, &gpt), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "3") && strstr(hx_error_message(), "8"), "%s", hx_error_message());
    for (int i = 0; i < 7; i++) {
        c = tiny();
        if (i == 0) c.vocab = 0;
        if (i == 1) c.ctx = -1;
        if (i == 2) c.layers = INT64_MAX;
        if (i == 3) c.dropout = NAN;
        if (i == 4) c.norm = 2;
        if (i == 5) c.activation = -1;
        if (i == 6) c.heads = 0;
        FAILS(hx_gpt_create(dev, &c, &gpt), HX_ERR_CONFIG);
    }
    cr_expect_null(gpt);
}

static hx_status forward(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    return hx_layer_forward(arg, c, in[0], out);
}

static void check_gradients(int norm, int activation, bool tied, int64_t T) {
    hx_gpt_config c = tiny();
    hx_param_list list = {0};
    hx_tensor *in[64];
    double worst = 1;
    int n = 1;
    c.layers = 1;
    c.dim =
        16; /* wide enough that no norm divides by a small deviation, which first differences cannot follow */
    c.vocab = 5;
    c.ctx = 3;
    c.mlp_ratio = 2;
    c.dropout = 0.2;
    c.norm = norm;
    c.activation = activation;
    c.tied = tied;
    hx_layer *gpt = create(&c);
    init_all(gpt, 0.3);
    HX_AUTO_TENSOR ids = ids_of(2, T, (int32_t[]){1, 2, 4, 0, 1, 1});
    in[0] = ids;
    OK(hx_layer_params(gpt, &list));
    for (int64_t i = 0; i < list.n_items; i++) in[n++] = list.items[i]->value;
    OK(hx_gradcheck(&ctx, forward, gpt, in, n, &worst));
    cr_expect_lt(worst, 1e-8, "norm %d, activation %d: worst relative difference %g", norm, activation,
                 worst);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&gpt);
}

Test(gpt, has_right_gradients) {
    check_gradients(0, 0, true, 3);
    check_gradients(1, 2, false, 2); /* fewer positions than ctx: the table's other rows get zeros */
}

Test(gpt, tied_logits_are_products_with_the_token_table) {
    hx_gpt_config c = tiny();
    hx_layer *tied = create(&c), *untied;
    c.tied = false;
    untied = create(&c);
    hx_param *tok = untied->children[0]->params[0],
             *head = untied->children[untied->n_children - 1]->params[0];
    cr_assert_str_eq(head->path, "head.weight");
    OK(hx_copy_into(&ctx, tok->value,
                    head->value)); /* the other tensors are the same already: same seed and paths */
    HX_AUTO_TENSOR ids = ids_of(1, 4, (int32_t[]){3, 1, 4, 1});
    HX_AUTO_TENSOR a = NULL;
    HX_AUTO_TENSOR b = NULL;
    OK(hx_layer_forward(tied, &ctx, ids, &a));
    OK(hx_layer_forward(untied, &ctx, ids, &b));
    double *x = values_of(a), *y = values_of(b);
    cr_expect_eq(memcmp(x, y, hx_tensor_bytes(a)), 0);
    free(x);
    free(y);
    hx_layer_destroy(&tied);
    hx_layer_destroy(&untied);
}

/* The same operations on the same numbers: equal to the last bit. */
Test(gpt, later_tokens_do_not_change_earlier_logits) {
    hx_gpt_config c = tiny();
    hx_layer *gpt = create(&c);
    init_all(gpt, 0.3);
    const int32_t base[6] = {1, 2, 3, 4, 5, 6};
    HX_AUTO_TENSOR ids = ids_of(1, 6, base);
    HX_AUTO_TENSOR logits = NULL;
    OK(hx_layer_forward(gpt, &ctx, ids, &logits));
    double *before = values_of(logits);
    for (int t = 1; t < 6; t++) {
        int32_t changed[6];
        memcpy(changed, base, sizeof base);
        changed[t] = 10;
        HX_AUTO_TENSOR other = ids_of(1, 6, changed);
        HX_AUTO_TENSOR y = NULL;
        OK(hx_layer_forward(gpt, &ctx, other, &y));
        double *after = values_of(y);
        const size_t n = (size_t)(t * c.vocab);
        cr_expect_eq(memcmp(before, after, n * sizeof *after), 0, "token %d", t);
        cr_expect_neq(memcmp(before + n, after + n, (size_t)c.vocab * sizeof *after), 0, "token %d", t);
        free(after);
    }
    free(before);
    hx_layer_destroy(&gpt);
}

static double deviation(const hx_param *param) {
    double *v = values_of(param->value), sum = 0;
    const int64_t n = hx_tensor_count(param->value);
    for (int64_t i = 0; i < n; i++) sum += v[i] * v[i];
    free(v);
    return sqrt(sum / (double)n);
}

Test(gpt, starts_with_the_deviations_of_its_formula) {
    hx_gpt_config c = tiny();
    hx_param_list list = {0};
    c.dim = 64;
    c.vocab = 100;
    hx_layer *gpt = create(&c);
    OK(hx_layer_params(gpt, &list));
    for (int64_t i = 0; i < list.n_items; i++) {
        const hx_param *p = list.items[i];
        const bool is_residual = strstr(p->path, "proj.weight") || strstr(p->path, "out.weight");
        const double got = deviation(p);
        if (strstr(p->path, "norm") && strstr(p->path, "weight"))
            cr_expect_eq(got, 1, "%s", p->path);
        else if (strstr(p->path, "bias"))
            cr_expect_eq(got, 0, "%s", p->path);
        /* 4096 draws or more (384 in pos): the deviation is known to about 4 % */
        else
            cr_expect_float_eq(got, is_residual ? 0.01 : 0.02, is_residual ? 0.001 : 0.003, "%s: %g", p->path,
                               got);
    }
    hx_param_list_destroy(&list);
    hx_layer_destroy(&gpt);
}

Test(gpt, learns_a_fixed_batch_by_heart) {
    hx_gpt_config c = tiny();
    hx_optim_config oc = HX_OPTIM_DEFAULT;
    hx_param_list list = {0};
    hx_optim *optim;
    double loss = INFINITY;
    c.dim = 16;
    hx_layer *gpt = create(&c);
    HX_AUTO_TENSOR ids = ids_of(2, 6, (int32_t[]){1, 7, 3, 9, 2, 5, 8, 0, 3, 3, 6, 10});
    HX_AUTO_TENSOR targets = ids_of(2, 6, (int32_t[]){7, 3, 9, 2, 5, 1, 0, 3, 3, 6, 10, 4});
    OK(hx_layer_params(gpt, &list));
    OK(hx_optim_create_default(dev, stream, &list, &oc, &optim));
    ctx.tape = tape;
    for (int64_t step = 1; step <= 200; step++) {
        HX_AUTO_TENSOR logits = NULL;
        HX_AUTO_TENSOR sum = NULL;
        HX_AUTO_TENSOR count = NULL;
        for (int64_t i = 0; i < list.n_items; i++) hx_tensor_grad_reset(list.items[i]->value);
        OK(hx_layer_forward(gpt, &ctx, ids, &logits));
        OK(hx_cross_entropy(&ctx, logits, targets, HX_IGNORE_INDEX, &sum, &count));
        OK(hx_tensor_item(stream, sum, &loss));
        loss /= 12;
        if (step == 1) cr_expect_float_eq(loss, log(11), 0.1, "a fresh model knows nothing: %g", loss);
        OK(hx_backward(&ctx, sum, NULL));
        OK(hx_optim_step(optim, &ctx, step, 0.01, NULL));
    }
    cr_expect_lt(loss, 0.02, "loss after 200 steps: %g", loss);
    hx_optim_destroy(&optim);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&gpt);
}

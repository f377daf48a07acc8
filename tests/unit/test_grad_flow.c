/* The flow report: norms by layer, and what is wrong with them. */
#include "core/analysis/grad_flow.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(grad_flow, .init = fixture_open, .fini = fixture_close);

/* The layer's weight gets a gradient of equal elements. */
static void give(hx_layer *layer, double value) {
    HX_AUTO_TENSOR y = NULL;
    hx_tensor *w = layer->params[0]->value;
    OK(hx_affine(&ctx, w, value, 0, &y));
    OK(hx_backward(&ctx, y, NULL));
}

static hx_layer *linears(int n) {
    hx_layer *layers[8], *sequence;
    for (int i = 0; i < n; i++) OK(hx_linear_create(dev, HX_F64, 3, 3, i == 0, &layers[i]));
    OK(hx_sequential_create_consume(dev, layers, n, &sequence));
    init_all(sequence, 1);
    return sequence;
}

Test(grad_flow, names_each_layer_and_what_its_gradient_does) {
    static const hx_flow_kind want[] = {HX_FLOW_OK, HX_FLOW_VANISHING, HX_FLOW_EXPLODING, HX_FLOW_NON_FINITE, HX_FLOW_NO_GRADIENT, HX_FLOW_FROZEN};
    static const double gradient[] = {2, 1e-8, 1e6, INFINITY};
    static const char *const words[] = {"0", "vanishing", "exploding", "non-finite", "no gradient", "frozen"};
    hx_layer *sequence = linears(6);
    hx_grad_flow flow;
    char text[2048], part[16];
    size_t n;
    ctx.tape = tape;
    for (int i = 0; i < 4; i++) give(sequence->children[i], gradient[i]);
    sequence->children[5]->params[0]->is_frozen = true;
    OK(hx_grad_flow_measure(&ctx, sequence, 1, &flow));
    cr_assert_eq(flow.n_items, 6);
    for (int i = 0; i < 6; i++) {
        cr_expect_eq(flow.items[i].kind, want[i], "layer %d is %d", i, flow.items[i].kind);
        cr_expect_eq(hx_grad_flow_count(&flow, want[i]), 1);
    }
    cr_expect_eq(flow.items[0].norm, 6); /* 9 elements of 2; the bias got none */
    cr_expect_eq(flow.items[0].n_elems, 9);
    OK(hx_grad_flow_text(&flow, text, sizeof text, &n));
    cr_expect_eq(n, strlen(text));
    for (int i = 0; i < 6; i++) cr_expect(strstr(text, words[i]) != NULL, "%s\nhas no %s", text, words[i]);
    OK(hx_grad_flow_text(&flow, part, sizeof part, &n));
    cr_expect(strlen(part) == sizeof part - 1 && strncmp(part, text, sizeof part - 1) == 0 && n == strlen(text));
    OK(hx_grad_flow_text(&flow, NULL, 0, &n));
    cr_expect_eq(n, strlen(text));
    printf("%s", text);
    hx_grad_flow_destroy(&flow);
    hx_layer_destroy(&sequence);
}

Test(grad_flow, norms_are_scaled_and_sum_up_to_the_global_norm) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    hx_layer *gpt;
    hx_grad_flow flow;
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR count = NULL;
    double squares = 0, direct = 0;
    hx_param_list list = {0};
    c.vocab = 7, c.ctx = 4, c.layers = 2, c.dim = 8, c.heads = 2, c.dtype = 1;
    OK(hx_gpt_create(dev, &c, &gpt));
    OK(hx_gpt_init(gpt, stream, 5));
    HX_AUTO_TENSOR ids = ids_of(1, 4, (int32_t[]){1, 2, 3, 4});
    ctx.tape = tape;
    OK(hx_layer_forward(gpt, &ctx, ids, &logits));
    OK(hx_cross_entropy(&ctx, logits, ids, HX_IGNORE_INDEX, &loss, &count));
    OK(hx_backward(&ctx, loss, NULL));
    OK(hx_layer_params(gpt, &list));
    for (int64_t i = 0; i < list.n_items; i++) {
        hx_tensor *g = hx_tensor_grad(list.items[i]->value);
        double *v = values_of(g);
        for (int64_t k = 0; k < hx_tensor_count(g); k++) direct += v[k] * v[k];
        free(v);
    }
    OK(hx_grad_flow_measure(&ctx, gpt, 0.25, &flow));
    for (int64_t i = 0; i < flow.n_items; i++) squares += flow.items[i].norm * flow.items[i].norm;
    cr_expect_float_eq(16 * squares, direct, 1e-12 * direct);
    cr_expect_str_eq(flow.items[0].path, "tok");
    cr_expect_str_eq(flow.items[3].path, "blocks.0.attn");
    cr_expect_eq(hx_grad_flow_count(&flow, HX_FLOW_OK), flow.n_items);
    hx_grad_flow_destroy(&flow);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&gpt);
}

/* Anomaly mode: the first number that is not finite is named, with the op, the element and the layer. */
#include "core/op/op_impl.h"
#include "tests/unit/test_layer_fixture.h"

static void open_watched(void) {
    fixture_open();
    ctx.anomaly = true;
    ctx.tape = tape;
}

TestSuite(anomaly, .init = open_watched, .fini = fixture_close);

static hx_tensor *values(const double *v, int64_t n) {
    hx_tensor *x = NULL;
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(n), &x));
    OK(hx_tensor_write(stream, x, v));
    hx_tensor_set_requires_grad(x, true);
    return x;
}

static void says(const char *text) { cr_expect(strstr(hx_error_message(), text) != NULL, "%s\nexpected: %s", hx_error_message(), text); }

Test(anomaly, names_the_op_that_made_it_and_the_element) {
    HX_AUTO_TENSOR x = values((double[]){1, 2, -3, 4}, 4);
    hx_tensor *y = NULL;
    FAILS(hx_unary(&ctx, HX_OP_log, x, &y), HX_ERR_NUMERIC);
    says("log: output 0 is not finite: element 2 is");
    says("from finite inputs");
    cr_expect_null(y);
    cr_expect_eq(hx_tape_length(tape), 0);
}

Test(anomaly, tells_an_op_that_made_it_from_one_that_was_given_it) {
    HX_AUTO_TENSOR x = values((double[]){1, 2}, 2);
    HX_AUTO_TENSOR bad = values((double[]){5, INFINITY}, 2);
    hx_tensor *y = NULL;
    FAILS(hx_add(&ctx, x, bad, &y), HX_ERR_NUMERIC);
    says("add: input 1 was not finite already: element 1 is inf");
}

Test(anomaly, leaves_alone_what_does_not_reach_a_result) {
    HX_AUTO_TENSOR x = values((double[]){1, NAN, 3}, 3);
    HX_AUTO_TENSOR part = NULL;
    HX_AUTO_TENSOR y = NULL;
    OK(hx_slice(&ctx, x, 0, 2, 3, 1, &part));
    OK(hx_unary(&ctx, HX_OP_exp, part, &y));
    ctx.anomaly = false;
    HX_AUTO_TENSOR off = NULL;
    OK(hx_unary(&ctx, HX_OP_exp, x, &off));
}

Test(anomaly, a_result_in_place_is_not_its_own_cause) {
    HX_AUTO_TENSOR x = values((double[]){1e308, 1}, 2);
    HX_AUTO_TENSOR y = values((double[]){1e308, 1}, 2);
    hx_ctx quiet = hx_no_grad(&ctx);
    FAILS(hx_op_run(&quiet, HX_OP_add, (hx_tensor *[]){x, y}, 2, NULL, 0, &x), HX_ERR_NUMERIC);
    says("add: output 0 is not finite: element 0 is inf");
}

Test(anomaly, names_the_layer_by_its_path) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    hx_layer *gpt;
    hx_tensor *y = NULL;
    c.vocab = 7, c.ctx = 4, c.layers = 3, c.dim = 8, c.heads = 2, c.dtype = 1;
    OK(hx_gpt_create(dev, &c, &gpt));
    OK(hx_gpt_init(gpt, stream, 5));
    HX_AUTO_TENSOR ids = ids_of(1, 4, (int32_t[]){1, 2, 3, 4});
    OK(hx_layer_forward(gpt, &ctx, ids, &y));
    hx_tensor_destroy(&y);
    cr_expect_null(ctx.where);
    OK(hx_tensor_fill(stream, hx_layer_find(gpt, "blocks.1.mlp.in")->params[0]->value, 1e308));
    FAILS(hx_layer_forward(gpt, &ctx, ids, &y), HX_ERR_NUMERIC);
    says("linear in blocks.1.mlp.in: output 0 is not finite");
    OK(hx_tensor_fill(stream, hx_layer_find(gpt, "blocks.1.norm2")->params[0]->value, INFINITY));
    FAILS(hx_layer_forward(gpt, &ctx, ids, &y), HX_ERR_NUMERIC);
    says("add_layernorm in blocks.1.norm2: input 2 was not finite already");
    cr_expect_null(ctx.where);
    hx_tape_reset(tape);
    hx_layer_destroy(&gpt);
}

static hx_status sqrt_forward(hx_layer *layer, hx_ctx *c, hx_tensor *x, hx_tensor **y) {
    (void)layer;
    return hx_unary(c, HX_OP_sqrt, x, y); /* its derivative at 0 is infinite */
}

static const hx_layer_type sqrt_type = {.name = "sqrt", .n_bytes = sizeof(hx_layer), .forward = sqrt_forward};

Test(anomaly, names_the_derivative_and_the_layer_that_was_recorded) {
    HX_AUTO_TENSOR x = values((double[]){4, 0}, 2);
    HX_AUTO_TENSOR y = NULL;
    hx_layer *layers[1], *sequence;
    OK(hx_layer_create(&sqrt_type, dev, &layers[0]));
    OK(hx_sequential_create_consume(dev, layers, 1, &sequence));
    OK(hx_layer_forward(sequence, &ctx, x, &y));
    hx_layer_destroy(&sequence); /* the tape needs no layer */
    FAILS(hx_backward(&ctx, y, NULL), HX_ERR_NUMERIC);
    says("in derivative of sqrt, recorded in 0");
    says("is not finite");
}

static hx_status nan_vjp(hx_vjp *v) {
    hx_tensor *dst;
    bool accumulate;
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    return hx_tensor_fill(v->ctx->stream, dst, NAN);
}

Test(anomaly, sees_what_a_derivative_writes_without_an_op) {
    HX_AUTO_TENSOR x = values((double[]){4, 0}, 2);
    HX_AUTO_TENSOR y = values((double[]){4, 0}, 2);
    hx_tensor_set_requires_grad(y, false);
    OK(hx_tape_record_custom(&ctx, &(hx_custom){.name = "mine", .vjp = nan_vjp}, &x, 1, &y, 1));
    FAILS(hx_backward(&ctx, y, NULL), HX_ERR_NUMERIC);
    says("derivative of mine: the gradient of input 0 is not finite: element 0 is");
}

Test(anomaly, a_gradient_that_arrives_bad_is_told_as_such) {
    HX_AUTO_TENSOR x = values((double[]){4, 1}, 2);
    HX_AUTO_TENSOR seed = values((double[]){1, INFINITY}, 2);
    HX_AUTO_TENSOR y = NULL;
    OK(hx_mul(&ctx, x, x, &y));
    FAILS(hx_backward(&ctx, y, seed), HX_ERR_NUMERIC);
    says("derivative of mul: the gradient that arrives at output 0 is not finite already: element 1 is inf");
}

Test(anomaly, complex_elements_are_counted_as_elements) {
    HX_AUTO_TENSOR x = NULL;
    int64_t at;
    double value;
    OK(hx_tensor_create(dev, HX_C128, HX_SHAPE(3), &x));
    for (int part = 0; part < 6; part++) {
        double parts[6] = {1, 2, 3, 4, 5, 6};
        parts[part] = NAN;
        OK(hx_tensor_write(stream, x, parts));
        OK(hx__find_non_finite(&ctx, x, &at, &value));
        cr_expect_eq(at, part / 2);
    }
}

Test(anomaly, is_silent_on_a_device_that_computes_nothing) {
    hx_device *meta;
    hx_stream *s;
    hx_tensor *x, *y = NULL;
    OK(hx_backend_register(&hx_backend_meta));
    OK(hx_device_open("meta", NULL, &meta));
    OK(hx_stream_create(meta, &s));
    OK(hx_tensor_create(meta, HX_F32, HX_SHAPE(3), &x));
    OK(hx_unary(&(hx_ctx){.device = meta, .stream = s, .anomaly = true}, HX_OP_exp, x, &y));
    hx_tensor_destroy(&x);
    hx_tensor_destroy(&y);
    hx_stream_destroy(&s);
    hx_device_close(&meta);
}

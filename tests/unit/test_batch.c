/* Batches of a stream's calls: what may happen within one, and what becomes of failures. A device that holds calls back is
 * made of ref's. */
#include "core/analysis/grad_flow.h"
#include "core/optim/optim.h"
#include "tests/unit/test_layer_fixture.h"

/* ---- the device ---- */

static hx_op_call held[16];
static int n_held, n_begun, n_ended;
static bool is_holding, end_fails;

static hx_status holding_exec(void *self, void *handle, const hx_op_call *call) {
    if (!is_holding) return hx_backend_ref.exec(self, handle, call);
    cr_assert_lt(n_held, 16);
    held[n_held++] = *call;
    return HX_OK;
}

static hx_status holding_batch(void *self, void *handle, bool begin) {
    hx_status status = HX_OK;
    is_holding = begin;
    *(begin ? &n_begun : &n_ended) += 1;
    for (int i = 0; i < n_held && status == HX_OK; i++) status = hx_backend_ref.exec(self, handle, &held[i]);
    n_held = 0;
    if (status == HX_OK && !begin && end_fails) status = HX_FAIL(HX_ERR_DEVICE, "the end failed");
    return status;
}

static hx_backend holding;

static void open_holding(void) {
    holding = hx_backend_ref;
    holding.name = "holding";
    holding.exec = holding_exec;
    holding.batch = holding_batch;
    OK(hx_backend_register(&holding));
    OK(hx_device_open("holding", NULL, &dev));
    OK(hx_stream_create(dev, &stream));
    OK(hx_tape_create(dev, &tape));
    ctx = (hx_ctx){.device = dev, .stream = stream};
}

TestSuite(batch, .init = open_holding, .fini = fixture_close);

static double item(hx_tensor *x) {
    double value;
    OK(hx_tensor_item(stream, x, &value));
    return value;
}

static hx_tensor *ones(void) {
    hx_tensor *x;
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(1), &x));
    OK(hx_tensor_fill(stream, x, 1));
    return x;
}

static hx_status add_one(hx_tensor *x) { return hx_op_run(&ctx, HX_OP_affine, &x, 1, &(hx_op_attr){.affine = {1, 1}}, 0, &x); }

/* ---- what a stream takes ---- */

static void call_nothing(void *arg) { (void)arg; }

static void check_states(void) {
    hx_event *event;
    char byte = 0;
    bool idle;
    OK(hx_event_create(dev, &event));
    FAILS(hx_stream_batch(stream, false), HX_ERR_STATE);
    OK(hx_stream_batch(stream, true));
    FAILS(hx_stream_batch(stream, true), HX_ERR_STATE);
    FAILS(hx_stream_sync(stream), HX_ERR_STATE);
    FAILS(hx_stream_poll(stream, &idle), HX_ERR_STATE);
    FAILS(hx_stream_copy(stream, &byte, &byte, 1, HX_COPY_TO_HOST), HX_ERR_STATE);
    FAILS(hx_stream_fill(stream, &byte, &byte, 1, 1), HX_ERR_STATE);
    FAILS(hx_stream_host_call(stream, call_nothing, NULL), HX_ERR_STATE);
    FAILS(hx_event_record(event, stream), HX_ERR_STATE);
    FAILS(hx_event_wait(event, stream), HX_ERR_STATE);
    OK(hx_stream_batch(stream, false));
    FAILS(hx_stream_batch(stream, false), HX_ERR_STATE);
    OK(hx_event_record(event, stream));
    OK(hx_event_wait(event, stream));
    OK(hx_stream_poll(stream, &idle));
    OK(hx_stream_sync(stream));
    hx_event_destroy(&event);
}

Test(batch, takes_nothing_but_ops_until_it_ends) { check_states(); }

Test(batch_of_no_slot, is_held_to_the_same_states, .init = fixture_open, .fini = fixture_close) { check_states(); }

Test(batch_of_no_slot, runs_calls_as_they_come, .init = fixture_open, .fini = fixture_close) {
    HX_AUTO_TENSOR x = ones();
    OK(hx_stream_batch(stream, true));
    OK(add_one(x));
    cr_expect_eq(*(double *)hx_tensor_data(x), 2);
    OK(hx_stream_batch(stream, false));
}

Test(batch, is_launched_by_its_end) {
    HX_AUTO_TENSOR x = ones();
    HX_AUTO_TENSOR y = ones();
    OK(hx_stream_batch(stream, true));
    OK(add_one(x));
    OK(add_one(y));
    cr_expect_eq(*(double *)hx_tensor_data(x), 1);
    OK(hx_stream_batch(stream, false));
    cr_expect(item(x) == 2 && item(y) == 2);
    OK(add_one(x));
    cr_expect_eq(item(x), 3);
}

/* ---- failures ---- */

Test(batch, a_failure_at_the_end_is_returned_and_the_batch_is_over) {
    HX_AUTO_TENSOR x = ones();
    end_fails = true;
    OK(hx_stream_batch(stream, true));
    OK(add_one(x));
    FAILS(hx_stream_batch(stream, false), HX_ERR_DEVICE);
    OK(hx_stream_sync(stream));
    cr_expect_eq(item(x), 2);
}

/* ---- who uses batches ---- */

static hx_layer *layer;
static hx_param_list params;

/* Two parameters, of which the first `n` have a gradient of ones. */
static void make_layer(int n) {
    OK(hx_linear_create(dev, HX_F64, 1, 2, true, &layer));
    OK(hx_layer_params(layer, &params));
    for (int64_t i = 0; i < params.n_items; i++) {
        HX_AUTO_TENSOR grad = NULL;
        OK(hx_tensor_fill(stream, params.items[i]->value, 1));
        OK(hx_tensor_create(dev, HX_F64, hx_tensor_shape(params.items[i]->value), &grad));
        OK(hx_tensor_fill(stream, grad, 1));
        if (i < n) OK(hx_tensor_set_grad(params.items[i]->value, grad));
    }
}

static void destroy_layer(void) {
    hx_param_list_destroy(&params);
    hx_layer_destroy(&layer);
}

Test(batch, an_update_a_norm_and_clipping_are_one_each) {
    const hx_optim_config config = HX_OPTIM_DEFAULT;
    HX_AUTO_TENSOR part = NULL;
    hx_optim *optim;
    make_layer(2);
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part));
    OK(hx_optim_create_default(dev, stream, &params, &config, &optim));
    OK(hx_grad_norm_part(&ctx, &params, 2, part));
    cr_expect(n_begun == 1 && n_ended == 1);
    cr_expect_eq(item(part), 4);
    OK(hx_clip_grad_value(&ctx, &params, 0.5));
    cr_expect(n_begun == 2 && n_ended == 2);
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    cr_expect(n_begun == 3 && n_ended == 3);
    cr_expect_lt(item(part), 5);
    ctx.anomaly = true;
    OK(hx_optim_step(optim, &ctx, 2, 0.1, NULL));
    cr_expect_eq(n_begun, 3, "anomaly mode looks at each op's outputs");
    hx_optim_destroy(&optim);
    destroy_layer();
}

Test(batch, a_report_of_gradients_is_one) {
    hx_grad_flow flow;
    make_layer(2);
    ctx.tape = tape;
    for (int64_t i = 0; i < params.n_items; i++) {
        HX_AUTO_TENSOR y = NULL;
        OK(hx_affine(&ctx, params.items[i]->value, 1, 0, &y));
        OK(hx_backward(&ctx, y, NULL));
    }
    OK(hx_grad_flow_measure(&ctx, layer, 1, &flow));
    cr_expect(n_begun == 1 && n_ended == 1);
    cr_expect(flow.n_items == 1 && flow.items[0].norm == 2, "4 elements of 1");
    hx_grad_flow_destroy(&flow);
    destroy_layer();
}

Test(batch, a_failure_within_is_returned_and_the_batch_is_over) {
    HX_AUTO_TENSOR part = NULL;
    make_layer(1);
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part));
    FAILS(hx_grad_norm_part(&ctx, &params, 2, part), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "bias") != NULL, "%s", hx_error_message());
    FAILS(hx_clip_grad_value(&ctx, &params, 0.5), HX_ERR_STATE);
    cr_expect(n_begun == 2 && n_ended == 2);
    OK(hx_stream_sync(stream));
    destroy_layer();
}

Test(batch, a_failure_of_its_end_is_that_of_the_update) {
    const hx_optim_config config = HX_OPTIM_DEFAULT;
    hx_optim *optim;
    make_layer(2);
    OK(hx_optim_create_default(dev, stream, &params, &config, &optim));
    end_fails = true;
    FAILS(hx_optim_step(optim, &ctx, 1, 0.1, NULL), HX_ERR_DEVICE);
    cr_expect(strstr(hx_error_message(), "the end failed") != NULL, "%s", hx_error_message());
    OK(hx_stream_sync(stream));
    hx_optim_destroy(&optim);
    destroy_layer();
}

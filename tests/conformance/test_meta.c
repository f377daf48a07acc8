/* A dry run: shapes, counts and errors as on a device that computes, and no memory behind them. */
#include <string.h>

#include "tests/conformance/battery.h"

Test(meta, takes_every_case_of_the_table) {
    conf_rig ref, meta;
    conf_rig_open("ref", 1, &ref);
    conf_rig_open("meta", 1, &meta);
    for (int i = 0; i < conf_n_cases; i++) {
        conf_operands in;
        conf_result out;
        char text[256];
        conf_operands_make(&ref, &conf_cases[i], HX_F32, &in);
        cr_expect_eq(conf_run(&meta, &conf_cases[i], HX_F32, &in, &out), HX_OK, "%s: %s",
                     conf_case_text(&conf_cases[i], HX_F32, text, sizeof text), hx_error_message());
        conf_result_free(&out);
        conf_operands_free(&in);
    }
    conf_rig_close(&meta);
    conf_rig_close(&ref);
}

Test(meta, counts_a_model_far_larger_than_memory) {
    conf_rig meta;
    hx_tensor *x, *w, *y = NULL;
    hx_device_stats stats;
    conf_rig_open("meta", 1, &meta);
    MUST(hx_tensor_create(meta.device, HX_F32, HX_SHAPE(1 << 20, 1 << 20), &x)); /* 4 TiB each */
    MUST(hx_tensor_create(meta.device, HX_F32, HX_SHAPE(1 << 20, 1 << 20), &w));
    MUST(hx_matmul(&meta.ctx, x, w, &y));
    hx_device_stats_get(meta.device, &stats);
    cr_expect_geq(stats.live_bytes, 3ll << 42);
    cr_expect_eq(*(const int64_t *)hx_device_native(meta.device, "live_bytes", NULL), stats.held_bytes);
    cr_expect_float_eq(stats.flops / 0x1p61, 1, 1e-9);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&w);
    hx_tensor_destroy(&x);
    hx_device_trim(meta.device);
    cr_expect_eq(*(const int64_t *)hx_device_native(meta.device, "live_bytes", NULL), 0);
    conf_rig_close(&meta);
}

Test(meta, refuses_to_hand_out_numbers_and_more_than_all_addresses) {
    conf_rig meta;
    hx_tensor *x = NULL, *huge = NULL;
    float values[4] = {1, 2, 3, 4};
    conf_rig_open("meta", 1, &meta);
    MUST(hx_tensor_create(meta.device, HX_F32, HX_SHAPE(4), &x));
    MUST(hx_tensor_write(meta.stream, x, values));
    cr_expect_neq(hx_tensor_read(meta.stream, x, values), HX_OK);
    cr_expect_eq(values[3], 4);
    hx_status status = HX_OK;
    for (int i = 0; i < 64 && status == HX_OK; i++) {
        hx_tensor_destroy(&huge);
        hx_device_trim(meta.device);
        status = hx_tensor_create(meta.device, HX_F64, HX_SHAPE((int64_t)1 << 57), &huge);
    }
    cr_expect_eq(status, HX_ERR_MEMORY, "%s", hx_status_name(status));
    hx_tensor_destroy(&huge);
    hx_tensor_destroy(&x);
    conf_rig_close(&meta);
}

Test(meta, gives_every_block_an_address_of_its_own_even_an_empty_one) {
    conf_rig meta;
    hx_tensor *x[8];
    conf_rig_open("meta", 1, &meta);
    for (int i = 0; i < 8; i++) MUST(hx_tensor_create(meta.device, HX_U8, HX_SHAPE(i % 2 ? 300 : 0), &x[i]));
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < i; k++) cr_expect_neq(hx_tensor_data(x[i]), hx_tensor_data(x[k]));
    for (int i = 0; i < 8; i++) hx_tensor_destroy(&x[i]);
    conf_rig_close(&meta);
}

Test(meta, streams_and_events_are_always_done) {
    conf_rig meta;
    hx_event *event;
    bool done = false;
    conf_rig_open("meta", 1, &meta);
    MUST(hx_event_create(meta.device, &event));
    MUST(hx_event_record(event, meta.stream));
    MUST(hx_event_wait(event, meta.stream));
    MUST(hx_event_poll(event, &done));
    cr_expect(done);
    done = false;
    MUST(hx_stream_poll(meta.stream, &done));
    cr_expect(done);
    MUST(hx_event_sync(event));
    hx_event_destroy(&event);
    conf_rig_close(&meta);
}

/* What the tests of layers, optimizers and the trainer share: one ref device, and small tensors. */
#ifndef HX_TESTS_UNIT_TEST_LAYER_FIXTURE_H
#define HX_TESTS_UNIT_TEST_LAYER_FIXTURE_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/gradcheck.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "tests/support/expect.h"

#define FAILS(call, code)                                                                                    \
    do {                                                                                                     \
        hx_status fails_ = (call);                                                                           \
        cr_expect_eq(fails_, (code), "%s gave %s, expected %s", #call, hx_status_name(fails_), #code);       \
    } while (0)

static hx_device *dev;
static hx_stream *stream;
static hx_tape *tape;
static hx_ctx ctx;

__attribute__((unused)) static void fixture_open(void) {
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &dev));
    OK(hx_stream_create(dev, &stream));
    OK(hx_tape_create(dev, &tape));
    ctx = (hx_ctx){.device = dev, .stream = stream, .training = true, .seed = 7};
}

/* Every tensor must have been given back. */
__attribute__((unused)) static void fixture_close(void) {
    hx_device_stats stats;
    hx_tape_destroy(&tape);
    hx_stream_destroy(&stream);
    hx_device_stats_get(dev, &stats);
    cr_expect_eq(stats.live_bytes, 0, "%lld bytes were not given back", (long long)stats.live_bytes);
    hx_device_close(&dev);
}

/* f64 tensor with values from a fixed stream, standard normal. */
__attribute__((unused)) static hx_tensor *normal(hx_shape shape, uint64_t id) {
    hx_tensor *x = NULL;
    OK(hx_tensor_create(dev, HX_F64, shape, &x));
    OK(hx_fill_normal(&ctx, x, (hx_rng){id, hx_rng_stream(HX_RNG_USER, id)}, 0, 0, 1));
    return x;
}

__attribute__((unused)) static hx_tensor *ids_of(int64_t B, int64_t T, const int32_t *values) {
    hx_tensor *x = NULL;
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(B, T), &x));
    OK(hx_tensor_write(stream, x, values));
    return x;
}

/* Values of an f64 tensor; free with free. */
__attribute__((unused)) static double *values_of(hx_tensor *x) {
    cr_assert_eq(hx_tensor_dtype(x), HX_F64);
    double *v = malloc(hx_tensor_bytes(x) + 1);
    OK(hx_tensor_read(stream, x, v));
    return v;
}

__attribute__((unused)) static void init_all(hx_layer *layer, double scale) {
    hx_param_list list = {0};
    OK(hx_layer_params(layer, &list));
    for (int64_t i = 0; i < list.n_items; i++)
        OK(hx_param_init(list.items[i], stream, 3, HX_INIT_NORMAL, scale));
    hx_param_list_destroy(&list);
}

#endif

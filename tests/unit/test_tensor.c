#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "backends/backends.h"
#include "core/op/ops.h"
#include "core/tensor/tensor.h"

static hx_device *dev;
static hx_stream *stream;
static hx_ctx ctx;

static void setup(void) {
    cr_assert_eq(hx_backend_register(&hx_backend_ref), HX_OK);
    cr_assert_eq(hx_device_open("ref", NULL, &dev), HX_OK);
    cr_assert_eq(hx_stream_create(dev, &stream), HX_OK);
    ctx = (hx_ctx){.device = dev, .stream = stream};
}

static void teardown(void) {
    hx_device_stats stats;
    hx_stream_destroy(&stream);
    hx_device_stats_get(dev, &stats);
    cr_expect_eq(stats.live_bytes, 0, "%lld bytes were not given back", (long long)stats.live_bytes);
    hx_device_close(&dev);
}

TestSuite(shape);
TestSuite(tensor, .init = setup, .fini = teardown);

Test(shape, broadcasting_follows_the_table) {
    static const struct {
        hx_shape a, b, want;
        bool ok;
    } rows[] = {
        {{2, {2, 3}}, {1, {3}}, {2, {2, 3}}, true},          {{0, {0}}, {2, {4, 5}}, {2, {4, 5}}, true},
        {{3, {2, 1, 4}}, {2, {3, 1}}, {3, {2, 3, 4}}, true}, {{1, {0}}, {1, {1}}, {1, {0}}, true},
        {{1, {2}}, {1, {3}}, {0, {0}}, false},               {{2, {2, 3}}, {2, {3, 2}}, {0, {0}}, false},
        {{1, {0}}, {1, {2}}, {0, {0}}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hx_shape got = {0};
        hx_status status = hx_shape_broadcast(&rows[i].a, &rows[i].b, &got);
        cr_assert_eq(status == HX_OK, rows[i].ok, "row %zu", i);
        if (rows[i].ok) cr_assert(hx_shape_equal(&got, &rows[i].want), "row %zu", i);
    }
}

Test(shape, counts_that_do_not_fit_are_refused) {
    hx_shape huge = HX_SHAPE(1ll << 40, 1ll << 40), hidden = HX_SHAPE(0, 1ll << 40, 1ll << 40), negative = HX_SHAPE(2, -1);
    cr_assert_eq(hx_shape_check(&huge), HX_ERR_OVERFLOW);
    cr_assert_eq(hx_shape_check(&hidden), HX_ERR_OVERFLOW);
    cr_assert_eq(hx_shape_check(&negative), HX_ERR_SHAPE);
}

Test(tensor, writes_through_a_view_are_seen_through_the_base) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR row = NULL;
    float out[6];
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 3), &x), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, x, 1), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 0, 1, 2, 1, &row), HX_OK);
    cr_assert(hx_tensor_shares(x, row));
    cr_assert_eq(hx_tensor_fill(stream, row, 7), HX_OK);
    cr_assert_eq(hx_tensor_read(stream, x, out), HX_OK);
    for (int i = 0; i < 6; i++) cr_assert_eq(out[i], i < 3 ? 1.0f : 7.0f);
}

Test(tensor, strided_views_read_in_their_own_order) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR s = NULL;
    int32_t in[6] = {0, 1, 2, 3, 4, 5}, out[6];
    cr_assert_eq(hx_tensor_create(dev, HX_I32, HX_SHAPE(2, 3), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, in), HX_OK);
    cr_assert_eq(hx_tensor_transpose(x, 0, 1, &t), HX_OK);
    cr_assert_eq(hx_tensor_read(stream, t, out), HX_OK);
    cr_assert_eq(memcmp(out, (int32_t[]){0, 3, 1, 4, 2, 5}, sizeof out), 0);
    cr_assert_eq(hx_tensor_slice(x, 1, 0, 3, 2, &s), HX_OK);
    cr_assert_eq(hx_tensor_read(stream, s, out), HX_OK);
    cr_assert_eq(memcmp(out, (int32_t[]){0, 2, 3, 5}, 16), 0);
}

Test(tensor, bad_views_are_refused_with_both_shapes) {
    HX_AUTO_TENSOR x = NULL;
    hx_tensor *y = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 3), &x), HX_OK);
    cr_assert_eq(hx_tensor_view(x, HX_SHAPE(4, 2), &y), HX_ERR_SHAPE);
    cr_assert(strstr(hx_error_message(), "[2,3]") && strstr(hx_error_message(), "[4,2]"), "%s", hx_error_message());
    cr_assert_eq(hx_tensor_view(x, HX_SHAPE(-1, -1), &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_view(x, HX_SHAPE(-1, 0), &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_slice(x, 2, 0, 1, 1, &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_slice(x, 0, 1, 3, 1, &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_slice(x, 0, 0, 2, 0, &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_permute(x, (int[]){0, 0}, &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_expand(x, HX_SHAPE(2, 4), &y), HX_ERR_SHAPE);
    cr_assert_eq(hx_tensor_window(x, 4, HX_SHAPE(3), &y), HX_ERR_SHAPE);
    cr_assert_null(y);
}

/* x is [4,6]; a strided view of it under another shape, or none. */
static const struct {
    const char *name;
    hx_shape shape;
    int64_t strides[HX_MAX_DIMS];
} viewed[] = {
    {"rows", {3, {2, 2, 6}}, {12, 6, 1}},   {"rows", {1, {24}}, {1}},
    {"turned", {3, {3, 2, 4}}, {2, 1, 6}},  {"turned", {3, {6, 2, 2}}, {1, 12, 6}},
    {"turned", {1, {24}}, {0}},             {"turned", {2, {4, 6}}, {0}},
    {"columns", {1, {12}}, {2}},            {"columns", {3, {2, 2, 3}}, {12, 6, 2}},
    {"left", {2, {12, 1}}, {0}},            {"left", {4, {1, 4, 1, 3}}, {12, 6, 3, 1}},
    {"wide", {1, {30}}, {0}},               {"wide", {3, {5, 2, 3}}, {0, 3, 1}},
};

static hx_status view_called(hx_tensor *x, const char *name, hx_tensor **out) {
    HX_AUTO_TENSOR row = NULL;
    if (strcmp(name, "turned") == 0) return hx_tensor_transpose(x, 0, 1, out);
    if (strcmp(name, "columns") == 0) return hx_tensor_slice(x, 1, 0, 6, 2, out);
    if (strcmp(name, "left") == 0) return hx_tensor_slice(x, 1, 0, 3, 1, out);
    HX_TRY(hx_tensor_slice(x, 0, 0, 1, 1, &row));
    return strcmp(name, "wide") == 0 ? hx_tensor_expand(row, HX_SHAPE(5, 6), out) : hx_tensor_view(x, HX_SHAPE(4, 6), out);
}

Test(tensor, a_strided_tensor_is_viewed_where_its_strides_allow_it_and_else_refused) {
    HX_AUTO_TENSOR x = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(4, 6), &x), HX_OK);
    for (size_t k = 0; k < sizeof viewed / sizeof *viewed; k++) {
        HX_AUTO_TENSOR strided = NULL;
        HX_AUTO_TENSOR y = NULL;
        cr_assert_eq(view_called(x, viewed[k].name, &strided), HX_OK, "%s", hx_error_message());
        bool is_allowed = viewed[k].strides[viewed[k].shape.ndim - 1] != 0;
        hx_status status = hx_tensor_view(strided, viewed[k].shape, &y);
        cr_expect_eq(status, is_allowed ? HX_OK : HX_ERR_SHAPE, "row %zu: %s", k, hx_status_name(status));
        for (int d = 0; status == HX_OK && d < viewed[k].shape.ndim; d++) {
            hx_array a = hx_tensor_array(y);
            cr_expect(a.dims[d] == 1 || a.strides[d] == viewed[k].strides[d], "row %zu dim %d: stride %lld", k, d,
                      (long long)a.strides[d]);
        }
    }
}

Test(tensor, squeeze_and_unsqueeze_of_a_strided_tensor_share_its_storage) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR u = NULL;
    HX_AUTO_TENSOR s = NULL;
    hx_tensor *none = NULL;
    float in[6] = {0, 1, 2, 3, 4, 5}, out[6];
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 3), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, in), HX_OK);
    cr_assert_eq(hx_tensor_transpose(x, 0, 1, &t), HX_OK);
    cr_assert_eq(hx_unsqueeze(&ctx, t, 1, &u), HX_OK);
    cr_assert_eq(hx_squeeze(&ctx, u, -2, &s), HX_OK);
    hx_shape shape = hx_tensor_shape(u);
    cr_expect(hx_shape_equal(&shape, &HX_SHAPE(3, 1, 2)) && hx_tensor_shares(u, x) && hx_tensor_shares(s, x));
    cr_assert_eq(hx_tensor_read(stream, s, out), HX_OK);
    cr_expect_eq(memcmp(out, (float[]){0, 3, 1, 4, 2, 5}, sizeof out), 0);
    cr_expect_eq(hx_squeeze(&ctx, u, 0, &none), HX_ERR_SHAPE);
    cr_expect_not_null(strstr(hx_error_message(), "x [3,1,2]: dim 0 has size 3: expected 1"), "%s", hx_error_message());
    cr_expect_eq(hx_unsqueeze(&ctx, u, 4, &none), HX_ERR_SHAPE);
}

Test(tensor, a_reshape_copies_only_when_it_must) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR split = NULL;
    HX_AUTO_TENSOR flat = NULL;
    float in[24], out[24];
    for (int i = 0; i < 24; i++) in[i] = (float)i;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(4, 6), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, in), HX_OK);
    cr_assert_eq(hx_tensor_transpose(x, 0, 1, &t), HX_OK);
    cr_assert_eq(hx_reshape(&ctx, t, HX_SHAPE(3, -1, 4), &split), HX_OK);
    cr_assert_eq(hx_reshape(&ctx, t, HX_SHAPE(-1), &flat), HX_OK);
    cr_expect(hx_tensor_shares(split, x));
    cr_expect_not(hx_tensor_shares(flat, x));
    for (int k = 0; k < 2; k++) {
        cr_assert_eq(hx_tensor_read(stream, k ? flat : split, out), HX_OK);
        for (int i = 0; i < 24; i++) cr_expect_eq(out[i], in[i % 4 * 6 + i / 4]);
    }
}

Test(tensor, complex_elements_are_pairs_of_reals) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR z = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR back = NULL;
    HX_AUTO_TENSOR odd = NULL;
    hx_tensor *none = NULL;
    float in[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, out[12];
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 3, 2), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, in), HX_OK);
    cr_assert_eq(hx_view_as_complex(&ctx, x, &z), HX_OK, "%s", hx_error_message());
    cr_expect(hx_tensor_dtype(z) == HX_C64 && hx_tensor_ndim(z) == 2 && hx_tensor_shares(z, x));
    cr_assert_eq(hx_tensor_transpose(z, 0, 1, &t), HX_OK);
    cr_assert_eq(hx_view_as_real(&ctx, t, &back), HX_OK);
    cr_expect(hx_tensor_shares(back, x) && hx_tensor_dtype(back) == HX_F32);
    cr_assert_eq(hx_tensor_read(stream, back, out), HX_OK);
    cr_expect_eq(memcmp(out, (float[]){0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11}, sizeof out), 0);
    /* no pairs: a last dim of 3; a part that begins at an odd element; a real where complex is due and the reverse */
    cr_expect_eq(hx_view_as_complex(&ctx, t, &none), HX_ERR_DTYPE);
    cr_expect_eq(hx_view_as_real(&ctx, x, &none), HX_ERR_DTYPE);
    cr_assert_eq(hx_tensor_view(x, HX_SHAPE(4, 3), &odd), HX_OK);
    cr_expect_eq(hx_view_as_complex(&ctx, odd, &none), HX_ERR_SHAPE);
    hx_tensor_destroy(&odd);
    cr_assert_eq(hx_tensor_window(x, 1, HX_SHAPE(5, 2), &odd), HX_OK);
    cr_expect_eq(hx_view_as_complex(&ctx, odd, &none), HX_ERR_SHAPE);
    cr_expect_null(none);
}

Test(tensor, an_output_that_repeats_elements_is_refused) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR one = NULL;
    HX_AUTO_TENSOR wide = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 3), &x), HX_OK);
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 1), &one), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, x, 1), HX_OK);
    cr_assert_eq(hx_tensor_expand(one, HX_SHAPE(2, 3), &wide), HX_OK);
    cr_expect_eq(hx_copy_into(&ctx, x, wide), HX_ERR_SHAPE);
    cr_expect_not_null(strstr(hx_error_message(), "repeats along dim 1"), "%s", hx_error_message());
}

Test(tensor, an_output_on_another_device_is_refused) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR y = NULL;
    hx_device *other;
    cr_assert_eq(hx_device_open("ref", NULL, &other), HX_OK);
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(3), &x), HX_OK);
    cr_assert_eq(hx_tensor_create(other, HX_F32, HX_SHAPE(3), &y), HX_OK);
    cr_expect_eq(hx_copy_into(&ctx, x, y), HX_ERR_DEVICE);
    cr_expect_eq(hx_fill_uniform(&ctx, y, (hx_rng){1, 0}, 0, 0, 1), HX_ERR_DEVICE);
    cr_expect_eq(hx_tensor_set_grad(x, y), HX_ERR_DEVICE);
    hx_tensor_destroy(&y);
    hx_device_close(&other);
}

/* Each op reads all of its operands' elements before it is done writing. */
Test(tensor, an_output_may_lie_beside_an_operand_but_not_across_it) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR square = NULL;
    hx_tensor *head, *tail, *left, *right, *even, *odd;
    float out[12];
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(3, 4), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, (float[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 0, 0, 2, 1, &head), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 0, 1, 3, 1, &tail), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 1, 0, 2, 1, &left), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 1, 2, 4, 1, &right), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 1, 0, 4, 2, &even), HX_OK);
    cr_assert_eq(hx_tensor_slice(x, 1, 1, 4, 2, &odd), HX_OK);
    cr_expect_eq(hx_copy_into(&ctx, head, tail), HX_ERR_ARG);
    cr_expect(strstr(hx_error_message(), "output 0 [2,4] overlaps operand 0 [2,4]"), "%s", hx_error_message());
    cr_expect_eq(hx_copy_into(&ctx, left, even), HX_ERR_ARG);
    cr_assert_eq(hx_tensor_window(x, 0, HX_SHAPE(3, 3), &square), HX_OK);
    cr_expect_eq(hx_op_run(&ctx, HX_OP_matmul, (hx_tensor *[]){square, square}, 2, &(hx_op_attr){.matmul = {.alpha = 1}}, 0, &square), HX_ERR_ARG);
    cr_assert_eq(hx_op_run(&ctx, HX_OP_square, &even, 1, NULL, 0, &even), HX_OK); /* itself */
    cr_assert_eq(hx_copy_into(&ctx, even, odd), HX_OK, "%s", hx_error_message());
    cr_assert_eq(hx_copy_into(&ctx, left, right), HX_OK, "%s", hx_error_message());
    cr_assert_eq(hx_tensor_read(stream, x, out), HX_OK);
    cr_expect_eq(memcmp(out, (float[]){0, 0, 0, 0, 16, 16, 16, 16, 64, 64, 64, 64}, sizeof out), 0);
    hx_tensor *views[] = {head, tail, left, right, even, odd};
    for (int i = 0; i < 6; i++) hx_tensor_destroy(&views[i]);
}

Test(tensor, a_view_whose_count_overflows_is_refused) {
    HX_AUTO_TENSOR empty = NULL;
    hx_tensor *y = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(0), &empty), HX_OK);
    cr_expect_eq(hx_tensor_view(empty, HX_SHAPE(1ll << 40, 1ll << 40, 0), &y), HX_ERR_OVERFLOW);
    cr_expect_eq(hx_tensor_view(empty, HX_SHAPE(1ll << 40, 1ll << 40, -1), &y), HX_ERR_SHAPE);
    cr_expect_null(y);
}

Test(tensor, freed_memory_is_reused) {
    hx_device_stats before, after;
    for (int i = 0; i < 100; i++) {
        HX_AUTO_TENSOR x = NULL;
        cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(1000, 10), &x), HX_OK);
        if (i == 0) hx_device_stats_get(dev, &before);
    }
    hx_device_stats_get(dev, &after);
    cr_assert_eq(after.n_raw_allocs, before.n_raw_allocs);
    cr_assert_geq(after.peak_bytes, 80000);
    cr_assert_leq(after.peak_bytes, 100000);
}

Test(tensor, ten_thousand_random_allocations_leave_nothing_behind) {
    enum { SLOTS = 64 };
    hx_tensor *slots[SLOTS] = {NULL};
    hx_device_stats before, halfway, after;
    const hx_rng rng = {7, hx_rng_stream(HX_RNG_USER, 0)};
    hx_device_stats_get(dev, &before);
    for (uint64_t i = 0; i < 10000; i++) {
        uint64_t bits = hx_rng_bits(rng, i);
        hx_tensor **slot = &slots[bits % SLOTS];
        if (*slot != NULL) hx_tensor_destroy(slot);
        else cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE((int64_t)(bits >> 8) % 20000), slot), HX_OK);
        if (i == 4999) hx_device_stats_get(dev, &halfway);
    }
    for (int i = 0; i < SLOTS; i++) hx_tensor_destroy(&slots[i]);
    hx_device_stats_get(dev, &after);
    cr_expect_eq(after.live_bytes, before.live_bytes);
    /* what is held is reused: it does not go on growing */
    cr_expect_leq(after.held_bytes, halfway.held_bytes + halfway.held_bytes / 8, "%lld bytes held, %lld halfway",
                  (long long)after.held_bytes, (long long)halfway.held_bytes);
}

/* Mean 1 with the deviation of a mean of n independent draws that are 0 or 1/(1-p). */
Test(tensor, dropout_keeps_the_mean) {
    enum { COUNT = 1 << 17 };
    ctx.training = true;
    ctx.seed = 5;
    for (int k = 1; k <= 9; k += 4) {
        double p = k / 10.0, mean, bound = 3 * sqrt(p / (1 - p) / COUNT);
        HX_AUTO_TENSOR x = NULL;
        HX_AUTO_TENSOR y = NULL;
        HX_AUTO_TENSOR m = NULL;
        cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(COUNT), &x), HX_OK);
        cr_assert_eq(hx_tensor_fill(stream, x, 1), HX_OK);
        cr_assert_eq(hx_dropout_op(&ctx, x, p, 1, &y), HX_OK);
        cr_assert_eq(hx_mean(&ctx, y, NULL, 0, false, &m), HX_OK);
        cr_assert_eq(hx_tensor_item(stream, m, &mean), HX_OK);
        cr_expect(fabs(mean - 1) <= bound, "p = %g: mean %g, expected 1 within %g", p, mean, bound);
    }
}

/* A backend whose work is known to be done only after a sync, and which is out of memory when told so. */
static struct {
    bool is_busy, is_full, freed_early;
} stingy;

static hx_status stingy_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out) {
    if (stingy.is_full) return HX_FAIL(HX_ERR_MEMORY, "full");
    return hx_backend_ref.alloc(self, kind, n_bytes, out);
}

static void stingy_free(void *self, hx_pool_kind kind, void *p, size_t n_bytes) {
    stingy.freed_early = stingy.freed_early || stingy.is_busy;
    stingy.is_full = false;
    hx_backend_ref.free(self, kind, p, n_bytes);
}

static hx_status stingy_fill(void *self, void *s, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    stingy.is_busy = true;
    return hx_backend_ref.fill(self, s, dst, pattern, pattern_bytes, n_items);
}

static hx_status stingy_sync(void *self, void *s) {
    stingy.is_busy = false;
    return hx_backend_ref.stream_sync(self, s);
}

Test(tensor, memory_goes_back_to_the_backend_only_after_the_work_that_uses_it) {
    static hx_backend backend;
    hx_device *device = NULL;
    hx_stream *first = NULL, *second = NULL;
    hx_tensor *x = NULL, *y = NULL;
    backend = hx_backend_ref;
    backend.name = "stingy";
    backend.alloc = stingy_alloc;
    backend.free = stingy_free;
    backend.fill = stingy_fill;
    backend.stream_sync = stingy_sync;
    cr_assert_eq(hx_backend_register(&backend), HX_OK);
    cr_assert_eq(hx_device_open("stingy", NULL, &device), HX_OK);
    cr_assert_eq(hx_stream_create(device, &first), HX_OK);
    cr_assert_eq(hx_stream_create(device, &second), HX_OK);
    hx_stream_destroy(&second);
    cr_assert_eq(hx_tensor_create(device, HX_F32, HX_SHAPE(1000), &x), HX_OK);
    cr_assert_eq(hx_tensor_fill(first, x, 1), HX_OK);
    hx_tensor_destroy(&x);
    stingy.is_full = true; /* until something is given back */
    cr_assert_eq(hx_tensor_create(device, HX_F32, HX_SHAPE(9000), &y), HX_OK, "%s", hx_error_message());
    cr_expect_not(stingy.freed_early);
    hx_tensor_destroy(&y);
    hx_stream_destroy(&first);
    hx_device_close(&device);
}

Test(tensor, an_absurd_size_is_refused_without_a_crash) {
    hx_tensor *x = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(1ll << 30, 1ll << 30), &x), HX_ERR_OVERFLOW);
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(1ll << 45), &x), HX_ERR_MEMORY);
    cr_assert_null(x);
}

Test(tensor, text_looks_like_numpys) {
    HX_AUTO_TENSOR x = NULL;
    char text[400];
    size_t n;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 2), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, (float[]){1, 2.5f, -3, 4}), HX_OK);
    cr_assert_eq(hx_tensor_print(stream, x, text, sizeof text, &n), HX_OK);
    cr_assert_str_eq(text, "[[  1, 2.5],\n [ -3,   4]]  f32 [2,2]");
    cr_assert_eq(n, strlen(text));
    cr_assert_eq(hx_tensor_print(stream, x, text, 5, &n), HX_OK);
    cr_assert_str_eq(text, "[[  ");
}

static const struct {
    hx_dtype dtype;
    double values[6]; /* three elements, in pairs if complex */
    const char *text;
} texts[] = {
    {HX_F64, {0.1, -2, 1e300}, "[   0.1,     -2, 1e+300]  f64 [3]"},
    {HX_BF16, {0.1, -2, 1e38}, "[     0.1,       -2, 9.97e+37]  bf16 [3]"},
    {HX_F16, {0.1, 2049, -1e9}, "[0.09998,    2048,    -inf]  f16 [3]"},
    {HX_I8, {-128, 127, 0}, "[-128,  127,    0]  i8 [3]"},
    {HX_U8, {0, 255, 7}, "[  0, 255,   7]  u8 [3]"},
    {HX_I64, {0x1p62, -1, 0}, "[4611686018427387904,                  -1,                   0]  i64 [3]"},
    {HX_BOOL, {1, 0, 1}, "[ true, false,  true]  bool [3]"},
    {HX_C64, {1, 2, 0, -1.5, -3, 0}, "[  1+2j, 0-1.5j,  -3+0j]  c64 [3]"},
    {HX_C128, {0.25, 1e-9, 1, 1, 0, 0}, "[0.25+1e-09j,        1+1j,        0+0j]  c128 [3]"},
};

Test(tensor, every_dtype_has_its_text) {
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
        HX_AUTO_TENSOR x = NULL;
        hx_dtype dtype = texts[k].dtype;
        double bytes[6];
        char text[200];
        for (int i = 0; i < 3; i++)
            hx_elem_set_complex(dtype, bytes, i, hx_dtype_is_complex(dtype) ? &texts[k].values[2 * i] : (double[2]){texts[k].values[i], 0});
        cr_assert_eq(hx_tensor_create(dev, dtype, HX_SHAPE(3), &x), HX_OK);
        cr_assert_eq(hx_tensor_write(stream, x, bytes), HX_OK);
        cr_assert_eq(hx_tensor_print(stream, x, text, sizeof text, NULL), HX_OK);
        cr_expect_str_eq(text, texts[k].text);
    }
}

Test(tensor, long_text_is_shortened) {
    HX_AUTO_TENSOR x = NULL;
    char text[2000];
    size_t n;
    cr_assert_eq(hx_tensor_create(dev, HX_I32, HX_SHAPE(2000), &x), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, x, 3), HX_OK);
    cr_assert_eq(hx_tensor_print(stream, x, text, sizeof text, &n), HX_OK);
    cr_assert_str_eq(text, "[3, 3, 3, ..., 3, 3, 3]  i32 [2000]");
}

Test(tensor, a_failed_op_leaves_nothing_behind) {
    HX_AUTO_TENSOR a = NULL;
    HX_AUTO_TENSOR b = NULL;
    hx_tensor *y = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(64, 128), &a), HX_OK);
    cr_assert_eq(hx_tensor_create(dev, HX_F32, HX_SHAPE(256, 512), &b), HX_OK);
    cr_assert_eq(hx_matmul(&ctx, a, b, &y), HX_ERR_SHAPE);
    cr_assert(strstr(hx_error_message(), "a [64,128] x b [256,512]: inner dims 128 and 256 differ"), "%s", hx_error_message());
    cr_assert_null(y);
}

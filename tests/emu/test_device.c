/* The cuda device on the emulator: what the battery's small operands do not reach. HELIX_CUDA_PLUGIN names the emulator,
 * HELIX_EMU_GPUS=2. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/op/ops.h"
#include "launch/compose.h"

#define MUST(call) cr_assert((call) == HX_OK, "%s", hx_error_message())

typedef struct rig {
    hx_device *device;
    hx_stream *stream;
    hx_ctx ctx;
} rig;

static rig rig_open(int index) {
    rig r = {0};
    MUST(hx_register_backends());
    MUST(hx_device_open("cuda", &(hx_device_config){.index = index}, &r.device));
    MUST(hx_stream_create(r.device, &r.stream));
    r.ctx = (hx_ctx){.device = r.device, .stream = r.stream};
    return r;
}

static void rig_close(rig *r) {
    hx_stream_destroy(&r->stream);
    hx_device_close(&r->device);
}

/* Numbers that every dtype tells apart from their neighbours, some of them beyond the integers' ranges. */
static void fill_elems(hx_dtype dtype, void *data, int64_t n) {
    static const double odd[] = {0, -1, 1.5, 300, -300, 3e9, -3e9, 1e19, NAN, INFINITY, -INFINITY, 1 + 0x1p-8 + 0x1p-40, 0x1p-30};
    for (int64_t i = 0; i < n; i++) {
        const double x = i % 3 ? (double)(i % 251) - 125 : odd[i / 3 % 13];
        hx_elem_set_complex(dtype, data, i, (double[2]){x, (double)(i % 7)});
    }
}

/* What one element becomes: the host's functions are what the backends promise. */
static void convert_elem(hx_dtype from, const void *x, int64_t i, hx_dtype to, void *y, int64_t j) {
    double part[2];
    hx_elem_get_complex(from, x, i, part);
    if (hx_dtype_is_float(from) || hx_dtype_is_complex(from)) hx_elem_set_complex(to, y, j, part);
    else hx_elem_set_int(to, y, j, hx_elem_get_int(from, x, i));
}

/* Copy the transpose (or the plain view) of an [n_rows,n_cols] array and compare with the host's conversion, bit for bit but
 * for the payloads of NaN. */
static void check_conversion(rig *r, hx_dtype from, hx_dtype to, int64_t n_rows, int64_t n_cols, bool is_transposed) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR view = NULL;
    HX_AUTO_TENSOR y = NULL;
    const int64_t n = n_rows * n_cols;
    const hx_shape shape = is_transposed ? HX_SHAPE(n_cols, n_rows) : HX_SHAPE(n_rows, n_cols);
    void *host_x, *host_y, *want;
    MUST(hx_mem_alloc_array(n, 16, &host_x));
    MUST(hx_mem_alloc_array(n, 16, &host_y));
    MUST(hx_mem_alloc_array(n, 16, &want));
    fill_elems(from, host_x, n);
    MUST(hx_tensor_create(r->device, from, HX_SHAPE(n_rows, n_cols), &x));
    MUST(hx_tensor_create(r->device, to, shape, &y));
    MUST(hx_tensor_write(r->stream, x, host_x));
    MUST(is_transposed ? hx_tensor_transpose(x, 0, 1, &view) : hx_tensor_view(x, shape, &view));
    MUST(hx_op_run(&r->ctx, HX_OP_copy, &view, 1, &(hx_op_attr){.copy.dtype = to}, 0, &y));
    MUST(hx_tensor_read(r->stream, y, host_y));
    for (int64_t i = 0; i < n; i++) {
        double a[2], b[2];
        convert_elem(from, host_x, is_transposed ? i % n_rows * n_cols + i / n_rows : i, to, want, i);
        hx_elem_get_complex(to, want, i, a);
        hx_elem_get_complex(to, host_y, i, b);
        cr_assert((a[0] == b[0] || (isnan(a[0]) && isnan(b[0]))) && (a[1] == b[1] || (isnan(a[1]) && isnan(b[1]))),
                  "%s to %s%s, element %lld: %g %g, expected %g %g", hx_dtype_name(from), hx_dtype_name(to), is_transposed ? " transposed" : "",
                  (long long)i, b[0], b[1], a[0], a[1]);
    }
    hx_mem_free(&host_x);
    hx_mem_free(&host_y);
    hx_mem_free(&want);
}

Test(device, converts_between_all_dtypes_as_the_host_does) {
    rig r = rig_open(0);
    for (int from = 0; from < HX_DTYPE_COUNT; from++)
        for (int to = 0; to < HX_DTYPE_COUNT; to++)
            for (int is_transposed = 0; is_transposed < 2; is_transposed++)
                check_conversion(&r, (hx_dtype)from, (hx_dtype)to, 35, 41, is_transposed);
    rig_close(&r);
}

Test(device, fills_any_place_with_any_pattern_and_nothing_beside_it) {
    rig r = rig_open(0);
    unsigned char pattern[16], host[256];
    void *p;
    for (int i = 0; i < 16; i++) pattern[i] = (unsigned char)(i + 1);
    MUST(hx_device_alloc(r.device, HX_POOL_GENERAL, sizeof host, &p));
    for (size_t bytes = 1; bytes <= 16; bytes *= 2)
        for (size_t start = 0; start < 48; start += bytes)
            for (size_t n = 1; n <= 48 / bytes; n += 3) {
                MUST(hx_stream_fill(r.stream, p, &(unsigned char){0xEE}, 1, sizeof host));
                MUST(hx_stream_fill(r.stream, (char *)p + start, pattern, bytes, (int64_t)n));
                MUST(hx_stream_copy(r.stream, host, p, sizeof host, HX_COPY_TO_HOST));
                MUST(hx_stream_sync(r.stream));
                for (size_t i = 0; i < sizeof host; i++) {
                    const bool is_inside = i >= start && i < start + n * bytes;
                    cr_assert_eq(host[i], is_inside ? pattern[(i - start) % bytes] : 0xEE, "%zu x %zu bytes at %zu: byte %zu", n, bytes, start, i);
                }
            }
    hx_device_free(r.device, HX_POOL_GENERAL, p, sizeof host);
    rig_close(&r);
}

Test(device, copies_large_pageable_memory_both_ways) {
    rig r = rig_open(1);
    const size_t n = ((size_t)9 << 20) + 13; /* two pieces and a bit */
    unsigned char *out = malloc(n), *back = malloc(n);
    void *p;
    cr_assert(out && back);
    MUST(hx_device_alloc(r.device, HX_POOL_GENERAL, n, &p));
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < n; i++) out[i] = (unsigned char)(i * 31 + i / 4099 + (size_t)round);
        MUST(hx_stream_copy(r.stream, p, out, n, HX_COPY_TO_DEVICE));
        MUST(hx_stream_copy(r.stream, back, p, n, HX_COPY_TO_HOST));
        MUST(hx_stream_sync(r.stream));
        cr_assert_eq(memcmp(out, back, n), 0);
    }
    hx_device_free(r.device, HX_POOL_GENERAL, p, n);
    free(out);
    free(back);
    rig_close(&r);
}

Test(device, refuses_in_words) {
    rig r = rig_open(0);
    hx_device *other;
    void *p;
    hx_tensor *x, *y;
    cr_assert_eq(hx_device_open("cuda", &(hx_device_config){.index = 2}, &other), HX_ERR_DEVICE);
    cr_assert(strstr(hx_error_message(), "cuda device 2: there are 2"), "%s", hx_error_message());
    cr_assert_eq(hx_device_alloc(r.device, HX_POOL_GENERAL, (size_t)1 << 40, &p), HX_ERR_MEMORY);
    cr_assert(strstr(hx_error_message(), "bytes are free of"), "%s", hx_error_message());
    MUST(hx_tensor_create(r.device, HX_C64, HX_SHAPE(2, 2), &x));
    cr_assert_eq(hx_fft(&r.ctx, x, 0, &y), HX_ERR_UNSUPPORTED);
    cr_assert(strstr(hx_error_message(), "fft: the cuda device has no kernel"), "%s", hx_error_message());
    hx_tensor_destroy(&x);
    rig_close(&r);
}

/* .npy files: made byte by byte as NumPy makes them, read back, and damaged in every way that a seed can think of. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backends.h"
#include "core/base/rng.h"
#include "core/op/ops.h"
#include "io/data/npy.h"
#include "tests/support/expect.h"

static char folder[256], path[512];
static hx_device *dev;
static hx_stream *stream;

static void open_all(void) {
    snprintf(folder, sizeof folder, "%.200s/helix-npy-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/x.npy", folder);
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &dev));
    OK(hx_stream_create(dev, &stream));
}

static void close_all(void) {
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
    unlink(path);
    cr_expect_eq(rmdir(folder), 0, "files were left behind");
}

TestSuite(npy, .init = open_all, .fini = close_all);

static void put(const void *bytes, size_t n) {
    FILE *f = fopen(path, "w");
    cr_assert(f && fwrite(bytes, 1, n, f) == n);
    fclose(f);
}

/* A file of version `major` with that header and those elements. Returns its bytes. */
static size_t make(uint8_t major, const char *header, const void *data, size_t n_bytes, uint8_t out[1024]) {
    size_t n = strlen(header), prefix = major == 1 ? 10 : 12;
    cr_assert_leq(prefix + n + n_bytes, 1024);
    memset(out, 0, prefix);
    memcpy(out, "\x93NUMPY", 6);
    out[6] = major;
    out[8] = (uint8_t)n;
    out[9] = (uint8_t)(n >> 8);
    memcpy(out + prefix, header, n);
    if (n_bytes > 0) memcpy(out + prefix + n, data, n_bytes);
    return prefix + n + n_bytes;
}

static hx_status load_made(uint8_t major, const char *header, const void *data, size_t n_bytes, hx_tensor **out) {
    uint8_t bytes[1024];
    put(bytes, make(major, header, data, n_bytes, bytes));
    return hx_npy_load(dev, stream, path, out);
}

/* ---- what NumPy writes, and what we write ---- */

/* numpy.save of numpy.arange(6, dtype="<i4").reshape(2, 3), NumPy 1.24 */
static const char saved_header[] = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }"
                                   "                                                          \n";
static const int32_t six[6] = {0, 1, 2, 3, 4, 5};

Test(npy, the_file_has_the_bytes_that_numpy_writes) {
    HX_AUTO_TENSOR x = NULL;
    uint8_t want[1024], got[1024];
    size_t n = make(1, saved_header, six, sizeof six, want);
    cr_assert_eq(n, 128 + sizeof six);
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(2, 3), &x));
    OK(hx_tensor_write(stream, x, six));
    OK(hx_npy_save(stream, x, path));
    FILE *f = fopen(path, "r");
    cr_assert_eq(fread(got, 1, sizeof got, f), n);
    fclose(f);
    cr_expect_arr_eq(got, want, n);
}

Test(npy, arrays_of_every_dtype_come_back_bit_by_bit) {
    static const hx_shape shapes[] = {{0, {0}}, {1, {7}}, {2, {3, 5}}, {2, {0, 4}}, {8, {1, 2, 1, 3, 1, 2, 1, 2}}};
    for (int d = 0; d < HX_DTYPE_COUNT; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            HX_AUTO_TENSOR x = NULL;
            HX_AUTO_TENSOR y = NULL;
            uint8_t in[512], out[512];
            for (size_t i = 0; i < sizeof in; i++) in[i] = (uint8_t)(d == HX_BOOL ? i % 3 == 0 : i * 37);
            OK(hx_tensor_create(dev, (hx_dtype)d, shapes[s], &x));
            OK(hx_tensor_write(stream, x, in));
            if (d == HX_BF16) {
                cr_expect_eq(hx_npy_save(stream, x, path), HX_ERR_UNSUPPORTED);
                continue;
            }
            OK(hx_npy_save(stream, x, path));
            OK(hx_npy_load(dev, stream, path, &y));
            OK(hx_tensor_read(stream, y, out));
            hx_shape shape = hx_tensor_shape(y);
            cr_expect(hx_tensor_dtype(y) == (hx_dtype)d && hx_shape_equal(&shape, &shapes[s]));
            cr_expect_eq(memcmp(in, out, hx_tensor_bytes(x)), 0, "%s", hx_dtype_name((hx_dtype)d));
        }
}

Test(npy, a_strided_tensor_is_written_in_its_own_order) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR y = NULL;
    int32_t out[6];
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(2, 3), &x));
    OK(hx_tensor_write(stream, x, six));
    OK(hx_tensor_transpose(x, 0, 1, &t));
    OK(hx_npy_save(stream, t, path));
    OK(hx_npy_load(dev, stream, path, &y));
    OK(hx_tensor_read(stream, y, out));
    cr_expect_arr_eq(out, ((int32_t[]){0, 3, 1, 4, 2, 5}), sizeof out);
}

Test(npy, fortran_order_is_turned_into_rows) {
    HX_AUTO_TENSOR x = NULL;
    int16_t in[24], out[24]; /* f16 bits; element (i, j, k) of [2,3,4] lies at i + 2 j + 6 k */
    for (int i = 0; i < 24; i++) in[i] = (int16_t)i;
    OK(load_made(1, "{'descr': '<f2', 'fortran_order': True, 'shape': (2, 3, 4), }\n", in, sizeof in, &x));
    OK(hx_tensor_read(stream, x, out));
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 4; k++) cr_expect_eq(out[(i * 3 + j) * 4 + k], i + 2 * j + 6 * k);
}

static const struct {
    uint8_t major;
    const char *header;
    hx_shape shape;
} accepted[] = {
    {1, saved_header, {2, {2, 3}}},
    {2, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n", {2, {2, 3}}},
    {3, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n", {2, {2, 3}}},
    {1, "{\"shape\":(6,),\"fortran_order\":False,\"descr\":\"=i4\"}", {1, {6}}},
    {1, " { 'shape' : ( 1 , 6 , ) , 'descr' : '<i4' , 'fortran_order' : True } \n", {2, {1, 6}}},
    {1, "{'descr': '|b1', 'fortran_order': False, 'shape': (2, 3, 4), }", {3, {2, 3, 4}}},
    {1, "{'descr': '>u1', 'fortran_order': False, 'shape': (24,), }", {1, {24}}},
};

Test(npy, the_headers_of_all_versions_are_read) {
    for (size_t k = 0; k < sizeof accepted / sizeof *accepted; k++) {
        HX_AUTO_TENSOR x = NULL;
        hx_status status = load_made(accepted[k].major, accepted[k].header, six, sizeof six, &x);
        cr_assert_eq(status, HX_OK, "%s: %s", accepted[k].header, hx_error_message());
        hx_shape shape = hx_tensor_shape(x);
        cr_expect(hx_shape_equal(&shape, &accepted[k].shape), "%s", accepted[k].header);
    }
}

Test(npy, a_scalar_and_bool_bytes_other_than_1_are_read) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR b = NULL;
    double value;
    uint8_t out[3];
    OK(load_made(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (), }", &(double){2.5}, 8, &x));
    OK(hx_tensor_item(stream, x, &value));
    cr_expect(value == 2.5 && hx_tensor_ndim(x) == 0);
    OK(load_made(1, "{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", (uint8_t[]){0, 1, 255}, 3, &b));
    OK(hx_tensor_read(stream, b, out));
    cr_expect_arr_eq(out, ((uint8_t[]){0, 1, 1}), 3);
}

/* ---- what is refused ---- */

static const struct {
    uint8_t major;
    const char *header;
    hx_status status;
    const char *words;
} refused[] = {
    {1, "{'descr': '>i4', 'fortran_order': False, 'shape': (2, 3), }", HX_ERR_UNSUPPORTED, "big-endian"},
    {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (12,), }", HX_ERR_UNSUPPORTED, "'<u2'"},
    {1, "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", HX_ERR_UNSUPPORTED, "'|O'"},
    {1, "{'descr': '', 'fortran_order': False, 'shape': (3,), }", HX_ERR_UNSUPPORTED, "''"},
    {1, "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (6,), }", HX_ERR_UNSUPPORTED, "records"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,2,3), }", HX_ERR_UNSUPPORTED, "8 dims"},
    {0, saved_header, HX_ERR_FORMAT, "version 0.0"},
    {4, saved_header, HX_ERR_FORMAT, "version 4.0"},
    {1, "", HX_ERR_FORMAT, "`{`"},
    {1, "{}", HX_ERR_FORMAT, "expected descr"},
    {1, "{'descr': '<i4', 'fortran_order': False}", HX_ERR_FORMAT, "expected descr"},
    {1, "{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (6,)}", HX_ERR_FORMAT, "twice"},
    {1, "{'descr': '<i4', 'other': 1, 'fortran_order': False, 'shape': (6,)}", HX_ERR_FORMAT, "`other`"},
    {1, "{'descr': '<i4', 'fortran_order': Maybe, 'shape': (6,)}", HX_ERR_FORMAT, "`F`"},
    {1, "{'descr': '<i4', 'fortran_order': Fals", HX_ERR_FORMAT, "True nor False"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (6)}", HX_ERR_FORMAT, "`,`"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (-6,)}", HX_ERR_FORMAT, "no number"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (2 3,)}", HX_ERR_FORMAT, "`,`"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3", HX_ERR_FORMAT, "`)`"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (6,)} x", HX_ERR_FORMAT, "follows"},
    {1, "{'descr': '<i4, 'fortran_order': False, 'shape': (6,)}", HX_ERR_UNSUPPORTED, "'<i4, '"},
    {1, "{'descr: '<i4', 'fortran_order': False, 'shape': (6,)}", HX_ERR_FORMAT, "`descr: `"},
    {1, "{'a key that is much longer than any of an array file': 1}", HX_ERR_FORMAT, "31 bytes"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (7,)}", HX_ERR_FORMAT, "24 bytes"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (5,)}", HX_ERR_FORMAT, "24 bytes"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (9223372036854775808,)}", HX_ERR_FORMAT, "63 bits"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 6)}", HX_ERR_FORMAT, "too large"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904, 0)}", HX_ERR_FORMAT, "too large"},
    {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (1099511627776,)}", HX_ERR_FORMAT, "do not hold"},
};

Test(npy, what_is_no_such_array_is_refused_by_name) {
    for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
        hx_tensor *x = NULL;
        cr_expect_eq(load_made(refused[k].major, refused[k].header, six, sizeof six, &x), refused[k].status, "%s: %s",
                     refused[k].header, hx_error_message());
        cr_expect(strstr(hx_error_message(), refused[k].words) && strstr(hx_error_message(), path), "`%s` lacks `%s`",
                  hx_error_message(), refused[k].words);
        cr_expect_null(x);
    }
}

Test(npy, what_cannot_be_read_or_written_says_why) {
    HX_AUTO_TENSOR x = NULL;
    hx_tensor *y = NULL;
    char inside[600];
    cr_expect_eq(hx_npy_load(dev, stream, path, &y), HX_ERR_IO);
    cr_expect_not_null(strstr(hx_error_message(), "No such file"), "%s", hx_error_message());
    cr_expect_eq(hx_npy_load(dev, stream, folder, &y), HX_ERR_IO);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(hx_npy_load(dev, stream, path, &y), HX_ERR_IO);
    cr_expect_not_null(strstr(hx_error_message(), "not a regular file"), "%s", hx_error_message());
    cr_assert_eq(unlink(path), 0);
    put("no array", 8);
    cr_expect_eq(hx_npy_load(dev, stream, path, &y), HX_ERR_FORMAT);
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(2, 3), &x));
    OK(hx_tensor_write(stream, x, six));
    snprintf(inside, sizeof inside, "%s/absent/x.npy", folder);
    cr_expect_eq(hx_npy_save(stream, x, inside), HX_ERR_IO);
    cr_expect_not_null(strstr(hx_error_message(), "absent/x.npy"), "%s", hx_error_message());
    cr_assert_eq(mkdir(inside, 0700), -1);
    cr_expect_null(y);
}

/* ---- damage ---- */

/* Bytes changed, removed, doubled or put in, one to four times. Returns the new length. */
static size_t damage(hx_rng rng, uint64_t *draws, uint8_t *bytes, size_t n) {
    static const char likely[] = "{}()',:<>|=0123456789fiucbTF \n\x93";
    for (uint64_t left = 1 + hx_rng_below(rng, (*draws)++, 4); left > 0 && n > 0; left--) {
        size_t at = (size_t)hx_rng_below(rng, (*draws)++, n), run = 1 + (size_t)hx_rng_below(rng, (*draws)++, 8);
        uint64_t how = hx_rng_below(rng, (*draws)++, 5);
        if (run > n - at) run = n - at;
        if (how == 0) bytes[at] = (uint8_t)hx_rng_bits(rng, (*draws)++);
        if (how == 1) bytes[at] = (uint8_t)likely[hx_rng_below(rng, (*draws)++, sizeof likely - 1)];
        if (how == 2) n = at;
        if (how == 3) {
            memmove(bytes + at, bytes + at + run, n - at - run);
            n -= run;
        }
        if (how == 4 && n + run <= 2048) {
            memmove(bytes + at + run, bytes + at, n - at);
            n += run;
        }
    }
    return n;
}

Test(npy, a_damaged_file_is_an_array_of_the_right_size_or_an_error) {
    enum { N_ROUNDS = 4000 };
    hx_rng rng = {1, 0};
    uint64_t draws = 0;
    int n_loaded = 0;
    for (int round = 0; round < N_ROUNDS; round++) {
        hx_tensor *x = NULL;
        uint8_t bytes[2048];
        const char *header = accepted[(size_t)round % (sizeof accepted / sizeof *accepted)].header;
        size_t n = make((uint8_t)(1 + round % 3), header, six, sizeof six, bytes);
        n = damage(rng, &draws, bytes, n);
        put(bytes, n);
        hx_status status = hx_npy_load(dev, stream, path, &x);
        bool is_known = status == HX_OK || status == HX_ERR_FORMAT || status == HX_ERR_UNSUPPORTED;
        cr_assert(is_known && (status == HX_OK) == (x != NULL), "round %d: %s", round, hx_error_message());
        if (x != NULL) cr_assert_leq(hx_tensor_bytes(x), n);
        n_loaded += x != NULL;
        hx_tensor_destroy(&x);
    }
    cr_expect(n_loaded > N_ROUNDS / 100 && n_loaded < N_ROUNDS, "%d of %d were accepted", n_loaded, N_ROUNDS);
}

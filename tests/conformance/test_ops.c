/* Every op of every computing backend against ref, on every case of the table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/battery.h"

static const hx_dtype dtypes[] = {HX_F32, HX_F64, HX_BF16, HX_F16};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

/* ---- one case ---- */

/* True if the op's shape rule takes no operands of the run's half type: a form of `unsupported` that all devices
 * share, so the message tells why. */
static bool is_refused(hx_dtype dtype, hx_status status) {
    return hx_dtype_is_half(dtype) && (status == HX_ERR_DTYPE || status == HX_ERR_UNSUPPORTED);
}

/* Make the operands of a case that says something of a dtype. Letters that stand for wider types than a half type would
 * say nothing of it: its own elements are passed instead. Cases of other dtypes altogether count once, with f32. */
static bool make_operands(conf_rig *ref, const conf_case *c, hx_dtype dtype, conf_operands *in) {
    bool follows = false;
    conf_operands_make(ref, c, dtype, in);
    if (dtype == HX_F32 || conf_case_has(c, in, dtype)) return true;
    for (int k = 0; k < in->n; k++) follows = follows || in->items[k].letter == 'a' || in->items[k].letter == 'x';
    if (follows && !c->out) conf_operands_retype(c, in, dtype);
    else conf_operands_free(in);
    return follows && !c->out;
}

static void judge(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype, conf_verdict *v) {
    conf_operands in;
    conf_result want, got;
    char text[512];
    if (!make_operands(ref, c, dtype, &in)) return;
    hx_status refused = conf_run(ref, c, dtype, &in, &want);
    cr_assert(refused == HX_OK || is_refused(dtype, refused), "%s", hx_error_message());
    hx_status status = conf_run(rig, c, dtype, &in, &got);
    if (status == HX_ERR_UNSUPPORTED || (refused != HX_OK && status == refused)) {
        conf_verdict_refused(v, status);
    } else if (status != HX_OK) {
        v->n_failed++;
        printf("FAILED %s: %s\n", conf_case_text(c, dtype, text, sizeof text), hx_error_message());
    } else if (conf_result_differ(c, dtype, &want, &got, false, text, sizeof text)) {
        v->n_failed++;
        printf("FAILED %s\n", text);
    } else {
        v->n_passed++;
    }
    conf_result_free(&got);
    conf_result_free(&want);
    conf_operands_free(&in);
}

Test(conformance, every_backend_computes_what_ref_computes) {
    conf_rig ref;
    conf_rig_open("ref", 1, &ref);
    int n_failed = 0;
    for (int b = 0; conf_backend(b) != NULL; b++) {
        static conf_verdict table[HX_OP_COUNT][N_DTYPES];
        conf_rig rig;
        memset(table, 0, sizeof table);
        conf_rig_open(conf_backend(b), 2, &rig);
        for (int i = 0; i < conf_n_cases; i++)
            for (int d = 0; d < N_DTYPES; d++)
                judge(&ref, &rig, &conf_cases[i], dtypes[d], &table[conf_cases[i].op][d]);
        conf_verdicts_print(hx_device_name(rig.device), dtypes, N_DTYPES, *table);
        for (int op = 0; op < HX_OP_COUNT; op++)
            for (int d = 0; d < N_DTYPES; d++) n_failed += table[op][d].n_failed;
        conf_rig_close(&rig);
    }
    conf_rig_close(&ref);
    cr_assert_eq(n_failed, 0, "%d cases differ from ref", n_failed);
}

Test(conformance, ref_has_a_kernel_that_writes_every_element_of_every_case) {
    conf_rig ref;
    char text[512];
    conf_rig_open("ref", 1, &ref);
    for (int i = 0; i < conf_n_cases; i++)
        for (int d = 0; d < N_DTYPES; d++) {
            conf_operands in;
            conf_result got;
            conf_operands_make(&ref, &conf_cases[i], dtypes[d], &in);
            hx_status status = conf_run(&ref, &conf_cases[i], dtypes[d], &in, &got);
            cr_expect(status == HX_OK || is_refused(dtypes[d], status), "%s", hx_error_message());
            cr_expect_not(conf_result_unwritten(&conf_cases[i], &got, text, sizeof text), "%s", text);
            conf_result_free(&got);
            conf_operands_free(&in);
        }
    conf_rig_close(&ref);
}

Test(conformance, every_op_has_a_case_in_the_table) {
    for (int op = 0; op < HX_OP_COUNT; op++) {
        int n = 0;
        for (int i = 0; i < conf_n_cases; i++) n += conf_cases[i].op == (hx_op)op;
        bool is_view = hx_op_info_get((hx_op)op)->flags & HX_OP_VIEW;
        cr_expect(is_view ? n == 0 : n >= 3, "%s has %d cases", hx_op_info_get((hx_op)op)->name, n);
    }
}

/* ---- what else a backend owes ---- */

static void check_threads(conf_rig *ref, conf_rig *one, conf_rig *three, const conf_case *c, hx_dtype dtype) {
    conf_operands in;
    conf_result want, got;
    char text[512];
    conf_operands_make(ref, c, dtype, &in);
    bool runs = conf_run(one, c, dtype, &in, &want) == HX_OK;
    runs = conf_run(three, c, dtype, &in, &got) == HX_OK && runs;
    cr_expect_not(runs && conf_result_differ(c, dtype, &want, &got, true, text, sizeof text),
                  "3 threads, not 1: %s", text);
    conf_result_free(&got);
    conf_result_free(&want);
    conf_operands_free(&in);
}

Test(conformance, results_do_not_depend_on_the_number_of_threads) {
    conf_rig ref, one, three;
    conf_rig_open("ref", 1, &ref);
    for (int b = 0; conf_backend(b) != NULL; b++) {
        conf_rig_open(conf_backend(b), 1, &one);
        conf_rig_open(conf_backend(b), 3, &three);
        for (int i = 0; i < conf_n_cases; i++) {
            check_threads(&ref, &one, &three, &conf_cases[i], HX_F32);
            check_threads(&ref, &one, &three, &conf_cases[i], HX_BF16);
        }
        conf_rig_close(&three);
        conf_rig_close(&one);
    }
    conf_rig_close(&ref);
}

/* Ops whose output may be their first input's memory. */
static bool is_elementwise(hx_op op) {
    return op <= HX_OP_leaky_relu_bwd || op == HX_OP_softmax || op == HX_OP_softmax_bwd || op == HX_OP_dropout ||
           op == HX_OP_log_softmax || op == HX_OP_log_softmax_bwd || op == HX_OP_cross_entropy_bwd;
}

/* Run a case onto its first operand, and compare with the result elsewhere. */
static void check_in_place(conf_rig *rig, const conf_case *c, const conf_operands *in,
                           const conf_result *want) {
    hx_tensor *x[HX_OP_MAX_IN] = {NULL}, *out[HX_OP_MAX_OUT] = {NULL};
    size_t item = hx_dtype_bytes(in->items[0].dtype);
    size_t n_bytes = (size_t)hx_shape_count(&in->items[0].shape) * item;
    unsigned char *values = malloc(n_bytes + 1);
    cr_assert_not_null(values);
    for (int k = 0; k < in->n; k++) conf_operand_upload(rig, &in->items[k], &x[k]);
    out[0] = x[0];
    MUST(hx_op_run(&rig->ctx, c->op, x, in->n, &c->attr, 0, out));
    MUST(hx_tensor_read(rig->stream, x[0], values));
    cr_expect(memcmp(values, want->out[0].bytes + CONF_GUARD * item, n_bytes) == 0,
              "%s(%s) in place on %s differs", hx_op_info_get(c->op)->name, c->in,
              hx_device_name(rig->device));
    for (int k = 0; k < in->n; k++) hx_tensor_destroy(&x[k]);
    free(values);
}

/* 1 if the case has been checked. */
static int check_dtype_in_place(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype) {
    conf_operands in;
    conf_result want;
    conf_operands_make(ref, c, dtype, &in);
    bool runs = !c->out && conf_run(rig, c, dtype, &in, &want) == HX_OK;
    if (runs) {
        check_in_place(rig, c, &in, &want);
        conf_result_free(&want);
    }
    conf_operands_free(&in);
    return runs;
}

Test(conformance, elementwise_ops_work_in_place) {
    conf_rig ref;
    int n_checked = 0;
    conf_rig_open("ref", 1, &ref);
    for (int b = -1; b < 0 || conf_backend(b) != NULL; b++) {
        conf_rig rig;
        conf_rig_open(b < 0 ? "ref" : conf_backend(b), 2, &rig);
        for (int i = 0; i < conf_n_cases; i++) {
            const conf_case *c = &conf_cases[i];
            if (!is_elementwise(c->op) || (strcmp(c->in, "3,5") != 0 && strcmp(c->in, "3,5 3,5") != 0 && strcmp(c->in, "3,5 i3 @2 d.") != 0))
                continue;
            n_checked += check_dtype_in_place(&ref, &rig, c, HX_F64);
            check_dtype_in_place(&ref, &rig, c, HX_BF16);
        }
        conf_rig_close(&rig);
    }
    conf_rig_close(&ref);
    cr_expect_geq(n_checked, 25);
}

static const struct {
    hx_dtype from, to;
    double in[6], out[6];
} conversions[] = {
    {HX_F32, HX_I32, {1.9, -1.9, NAN, INFINITY, -1e20, 0.5}, {1, -1, 0, INT32_MAX, INT32_MIN, 0}},
    {HX_F64,
     HX_I32,
     {2147483647.5, -2147483649.0, NAN, 7, -0.0, 1e300},
     {INT32_MAX, INT32_MIN, 0, 7, 0, INT32_MAX}},
    {HX_F64, HX_I64, {1e18, -1e18, NAN, 2.5, -2.5, -INFINITY}, {1e18, -1e18, 0, 2, -2, -0x1p63}},
    {HX_F64, HX_U8, {255, 256, -1, 254.9, NAN, 1e9}, {255, 255, 0, 254, 0, 255}},
    {HX_F64,
     HX_F32,
     {1, 1e300, -1e300, NAN, 0x1p-149, 1 + 0x1p-30},
     {1, INFINITY, -INFINITY, NAN, 0x1p-149, 1}},
    {HX_F32, HX_F64, {1, -2.5, INFINITY, NAN, 0x1p-149, 0}, {1, -2.5, INFINITY, NAN, 0x1p-149, 0}},
    {HX_I32, HX_F32, {0, 1, -1, 16777217, INT32_MAX, INT32_MIN}, {0, 1, -1, 16777216, 0x1p31, -0x1p31}},
    {HX_I32, HX_I64, {0, 1, -1, 16777217, INT32_MAX, INT32_MIN}, {0, 1, -1, 16777217, INT32_MAX, INT32_MIN}},
    {HX_I64, HX_F64, {0, 1, -1, 1e15, -1e15, 3}, {0, 1, -1, 1e15, -1e15, 3}},
    {HX_U8, HX_F32, {0, 1, 255, 128, 127, 3}, {0, 1, 255, 128, 127, 3}},
    {HX_U8, HX_I32, {0, 1, 255, 128, 127, 3}, {0, 1, 255, 128, 127, 3}},
    {HX_I64, HX_U8, {0, 1, 255, 128, 127, 3}, {0, 1, 255, 128, 127, 3}},
    {HX_I64, HX_I32, {0, -1, 255, 1e9, -1e9, 3}, {0, -1, 255, 1e9, -1e9, 3}},
    {HX_I32, HX_U8, {0, -1, 255, 256, 1000, 3}, {0, 0, 255, 255, 255, 3}},
    {HX_I64, HX_I8, {0, -128, -129, 127, 128, 1e18}, {0, -128, -128, 127, 127, 127}},
    {HX_U8, HX_I8, {0, 1, 127, 128, 255, 3}, {0, 1, 127, 127, 127, 3}},
    {HX_I8, HX_U8, {0, -1, -128, 127, 3, 5}, {0, 0, 0, 127, 3, 5}},
    {HX_F32, HX_I8, {1.9, -1.9, NAN, 127.9, 128, -1e9}, {1, -1, 0, 127, 127, -128}},
    {HX_F16, HX_I8, {1.5, -1.5, NAN, INFINITY, 300, -300}, {1, -1, 0, 127, 127, -128}},
    /* bool is x != 0; NaN is not 0 */
    {HX_F32, HX_BOOL, {0, -0.0, NAN, 1e-40, -3, INFINITY}, {0, 0, 1, 1, 1, 1}},
    {HX_I64, HX_BOOL, {0, 1, -1, 256, 1e18, 2}, {0, 1, 1, 1, 1, 1}},
    {HX_BOOL, HX_F32, {0, 1, 1, 0, 0, 1}, {0, 1, 1, 0, 0, 1}},
    {HX_BOOL, HX_BF16, {0, 1, 1, 0, 0, 1}, {0, 1, 1, 0, 0, 1}},
    /* f16: the largest number, the first that rounds to infinity, subnormals, ties to even */
    {HX_F32, HX_F16, {65504, 65519.99609375, 65520, -65520, 1e9, NAN}, {65504, 65504, INFINITY, -INFINITY, INFINITY, NAN}},
    {HX_F64, HX_F16, {65504, 65519.99999999, 65520, -65520, INFINITY, NAN}, {65504, 65504, INFINITY, -INFINITY, INFINITY, NAN}},
    {HX_F32, HX_F16, {0x1p-14, 0x1p-24, 0x1.8p-24, 0x1p-25, 0x1.000002p-25, 1023 * 0x1p-24},
     {0x1p-14, 0x1p-24, 0x1p-23, 0, 0x1p-24, 1023 * 0x1p-24}},
    {HX_F32, HX_F16, {2049, 2051, 2050, 1 + 0x1p-11, 1 + 0x1.8p-10, -2049}, {2048, 2052, 2050, 1, 1 + 0x1p-9, -2048}},
    {HX_F16, HX_F32, {65504, 0x1p-24, -0x1p-14, INFINITY, NAN, 1 + 0x1p-10}, {65504, 0x1p-24, -0x1p-14, INFINITY, NAN, 1 + 0x1p-10}},
    {HX_F32, HX_BF16, {257, 259, 258, 1 + 0x1p-8, 1 + 0x1.8p-7, -257}, {256, 260, 258, 1, 1 + 0x1p-6, -256}},
    {HX_F32, HX_BF16, {3.3895313892515355e38, 3.4028234663852886e38, 0x1p-133, 0x1p-134, INFINITY, NAN},
     {3.3895313892515355e38, INFINITY, 0x1p-133, 0, INFINITY, NAN}},
    /* rounded once: by way of f32 the first of a row would become a tie */
    {HX_F64, HX_BF16, {1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-8 - 0x1p-40, 1e300, -1e300, 257, 1e-300},
     {1 + 0x1p-7, 1, INFINITY, -INFINITY, 256, 0}},
    {HX_F64, HX_F16, {2049 + 0x1p-30, 2049 - 0x1p-30, 0x1p-25 + 0x1p-60, 0x1p-25, 1e300, 1e-300},
     {2050, 2048, 0x1p-24, 0, INFINITY, 0}},
    {HX_I32, HX_F16, {2049, 65519, 65520, -1, 0, INT32_MIN}, {2048, 65504, INFINITY, -1, 0, -INFINITY}},
    {HX_F32, HX_C64, {1.5, -2, INFINITY, 0, 3, 0x1p-149}, {1.5, -2, INFINITY, 0, 3, 0x1p-149}},
};

/* Convert six values on a device and read them back as f64, which every row's results fit into. */
static void check_conversion(conf_rig *rig, int row) {
    conf_operand in = {.dtype = conversions[row].from, .shape = HX_SHAPE(6), .base = HX_SHAPE(6)};
    hx_tensor *x, *y, *back;
    double got[6];
    in.values = (double[6]){0};
    memcpy(in.values, conversions[row].in, sizeof got);
    conf_operand_upload(rig, &in, &x);
    MUST(hx_cast(&rig->ctx, x, conversions[row].to, &y));
    MUST(hx_cast(&rig->ctx, y, HX_F64, &back));
    MUST(hx_tensor_read(rig->stream, back, got));
    for (int i = 0; i < 6; i++) {
        double want = conversions[row].out[i];
        cr_expect(got[i] == want || (isnan(got[i]) && isnan(want)),
                  "%s: %s %.17g to %s gives %.17g, expected %.17g", hx_device_name(rig->device),
                  hx_dtype_name(conversions[row].from), in.values[i], hx_dtype_name(conversions[row].to),
                  got[i], want);
    }
    hx_tensor_destroy(&back);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
}

Test(conformance, conversion_truncates_saturates_and_maps_nan_to_0) {
    for (int b = -1; b < 0 || conf_backend(b) != NULL; b++) {
        conf_rig rig;
        conf_rig_open(b < 0 ? "ref" : conf_backend(b), 2, &rig);
        for (size_t row = 0; row < sizeof conversions / sizeof *conversions; row++)
            check_conversion(&rig, (int)row);
        conf_rig_close(&rig);
    }
}

/* Integers beyond 2^53, which float64 does not tell apart. */
Test(conformance, integer_conversion_is_exact_or_saturates) {
    static const int64_t x[6] = {((int64_t)1 << 53) + 1, INT64_MAX, INT64_MIN, 300, -200, 0};
    static const struct {
        hx_dtype to;
        int64_t want[6];
    } rows[] = {{HX_I64, {((int64_t)1 << 53) + 1, INT64_MAX, INT64_MIN, 300, -200, 0}},
                {HX_I32, {INT32_MAX, INT32_MAX, INT32_MIN, 300, -200, 0}},
                {HX_U8, {255, 255, 0, 255, 0, 0}},
                {HX_I8, {127, 127, -128, 127, -128, 0}},
                {HX_BOOL, {1, 1, 1, 1, 1, 0}},
                {HX_F32, {(int64_t)1 << 53, INT64_MAX, INT64_MIN, 300, -200, 0}}};
    for (int b = -1; b < 0 || conf_backend(b) != NULL; b++) {
        conf_rig rig;
        hx_tensor *in, *out;
        conf_rig_open(b < 0 ? "ref" : conf_backend(b), 2, &rig);
        MUST(hx_tensor_create(rig.device, HX_I64, HX_SHAPE(6), &in));
        MUST(hx_tensor_write(rig.stream, in, x));
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
            int64_t got[6];
            MUST(hx_cast(&rig.ctx, in, rows[k].to, &out));
            MUST(hx_tensor_read(rig.stream, out, got));
            for (int i = 0; i < 6; i++)
                cr_expect_eq(hx_elem_get_int(rows[k].to, got, i), rows[k].want[i], "%s: %lld to %s",
                             hx_device_name(rig.device), (long long)x[i], hx_dtype_name(rows[k].to));
            hx_tensor_destroy(&out);
        }
        hx_tensor_destroy(&in);
        conf_rig_close(&rig);
    }
}

/* ---- every pair of dtypes: random bits, strided, on a device and on ref ---- */

enum { PAIR_ROWS = 61, PAIR_COLS = 34 };

/* The transpose of [PAIR_COLS,PAIR_ROWS] random bits, converted; to be freed. */
static void *convert_bits(conf_rig *rig, hx_dtype from, hx_dtype to) {
    enum { N = PAIR_ROWS * PAIR_COLS };
    static uint32_t bits[4 * N]; /* room for c128 */
    hx_tensor *x, *t, *y;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) bits[i] = hx_rng_bits((hx_rng){conf_seed(), 5}, i);
    for (size_t i = 0; i < N && from == HX_BOOL; i++) ((uint8_t *)bits)[i] &= 1;
    void *bytes = malloc(sizeof bits);
    cr_assert_not_null(bytes);
    MUST(hx_tensor_create(rig->device, from, HX_SHAPE(PAIR_COLS, PAIR_ROWS), &x));
    MUST(hx_tensor_write(rig->stream, x, bits));
    MUST(hx_transpose(&rig->ctx, x, 0, 1, &t));
    MUST(hx_cast(&rig->ctx, t, to, &y));
    MUST(hx_tensor_read(rig->stream, y, bytes));
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&t);
    hx_tensor_destroy(&x);
    return bytes;
}

static bool same_element(hx_dtype dtype, const void *a, const void *b, int64_t i) {
    double x[2], y[2];
    hx_elem_get_complex(dtype, a, i, x);
    hx_elem_get_complex(dtype, b, i, y);
    bool same = hx_elem_get_int(dtype, a, i) == hx_elem_get_int(dtype, b, i);
    for (int k = 0; k < 2; k++) same = same && (x[k] == y[k] || (isnan(x[k]) && isnan(y[k])));
    return same;
}

Test(conformance, every_backend_converts_every_pair_of_dtypes_as_ref_does) {
    conf_rig ref, rig;
    conf_rig_open("ref", 1, &ref);
    for (int b = 0; conf_backend(b) != NULL; b++) {
        conf_rig_open(conf_backend(b), 2, &rig);
        for (int pair = 0; pair < HX_DTYPE_COUNT * HX_DTYPE_COUNT; pair++) {
            hx_dtype from = (hx_dtype)(pair / HX_DTYPE_COUNT), to = (hx_dtype)(pair % HX_DTYPE_COUNT);
            void *want = convert_bits(&ref, from, to), *got = convert_bits(&rig, from, to);
            int64_t n_wrong = 0;
            for (int64_t i = 0; i < PAIR_ROWS * PAIR_COLS; i++) n_wrong += !same_element(to, want, got, i);
            cr_expect_eq(n_wrong, 0, "%s: %lld elements of %s to %s differ", hx_device_name(rig.device),
                         (long long)n_wrong, hx_dtype_name(from), hx_dtype_name(to));
            free(got);
            free(want);
        }
        conf_rig_close(&rig);
    }
    conf_rig_close(&ref);
}

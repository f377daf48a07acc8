/* Every op of every computing backend against ref, on every case of the table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/battery.h"

static const hx_dtype dtypes[] = {HX_F32, HX_F64, HX_BF16, HX_F16};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

/* ---- the table that is printed ---- */

typedef struct verdict {
    int n_passed, n_unsupported, n_failed;
    char reason[160]; /* of the last one that is unsupported */
} verdict;

static void print_verdicts(const char *backend, verdict (*table)[N_DTYPES]) {
    printf("%-20s %-8s", "op", "backend");
    for (int d = 0; d < N_DTYPES; d++) printf(" %-9s", hx_dtype_name(dtypes[d]));
    printf("\n");
    for (int op = 0; op < HX_OP_COUNT; op++) {
        if (hx_op_info_get((hx_op)op)->flags & HX_OP_VIEW) continue;
        printf("%-20s %-8s", hx_op_info_get((hx_op)op)->name, backend);
        for (int d = 0; d < N_DTYPES; d++) {
            const verdict *v = &table[op][d];
            if (v->n_failed)
                printf(" FAILED (%d of %d)", v->n_failed, v->n_failed + v->n_passed);
            else if (v->n_unsupported)
                printf(" unsupported (%s)", v->reason);
            else
                printf(" pass %-4d", v->n_passed);
        }
        printf("\n");
    }
}

/* ---- one case ---- */

/* True if the op's shape rule takes no operands of the run's half type: a form of `unsupported` that all devices
 * share, so the message tells why. */
static bool is_refused(hx_dtype dtype, hx_status status) {
    return hx_dtype_is_half(dtype) && (status == HX_ERR_DTYPE || status == HX_ERR_UNSUPPORTED);
}

static void judge(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype, verdict *v) {
    conf_operands in;
    conf_result want, got;
    char text[512];
    conf_operands_make(ref, c, dtype, &in);
    hx_status refused = conf_run(ref, c, dtype, &in, &want);
    cr_assert(refused == HX_OK || is_refused(dtype, refused), "%s", hx_error_message());
    hx_status status = conf_run(rig, c, dtype, &in, &got);
    if (status == HX_ERR_UNSUPPORTED || (refused != HX_OK && status == refused)) {
        v->n_unsupported++;
        snprintf(v->reason, sizeof v->reason, "%.150s", hx_error_message());
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
        static verdict table[HX_OP_COUNT][N_DTYPES];
        conf_rig rig;
        memset(table, 0, sizeof table);
        conf_rig_open(conf_backend(b), 2, &rig);
        for (int i = 0; i < conf_n_cases; i++)
            for (int d = 0; d < N_DTYPES; d++)
                judge(&ref, &rig, &conf_cases[i], dtypes[d], &table[conf_cases[i].op][d]);
        print_verdicts(hx_device_name(rig.device), table);
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
    return op <= HX_OP_gelu_erf_bwd || op == HX_OP_softmax || op == HX_OP_softmax_bwd || op == HX_OP_dropout;
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
            if (!is_elementwise(c->op) || (strcmp(c->in, "3,5") != 0 && strcmp(c->in, "3,5 3,5") != 0))
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
        cr_expect(got[i] == want || (got[i] != got[i] && want != want),
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

/* Which of the other dtypes each op takes: integers, bool and complex numbers, in the places of the table's cases whose
 * dtype follows the run's. A call either agrees with ref or is refused, with a message that names op and dtype, and
 * then has written nothing. */
#include <stdio.h>
#include <string.h>

#include "tests/conformance/battery.h"

static const hx_dtype dtypes[] = {HX_I8, HX_U8, HX_I32, HX_I64, HX_BOOL, HX_C64, HX_C128};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };
#define MOST_ELEMENTS 1000 /* of a case's operands: it is about dtypes, not about tiles */

static bool has_following_word(const char *list) {
    char words[256], *rest;
    snprintf(words, sizeof words, "%s", list);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        conf_operand operand;
        if (*word == '@') continue;
        conf_operand_parse(word, HX_F32, &operand);
        if (operand.letter == 0 || operand.letter == 'a' || operand.letter == 'x') return true;
    }
    return false;
}

/* The case has an operand whose dtype may be chosen. Outputs are operands where an op updates them; elsewhere the shape
 * rule has to say what they are. */
static bool is_fit(const conf_case *c) {
    bool updates = hx_op_info_get(c->op)->flags & HX_OP_INOUT;
    return updates ? has_following_word(c->in) || has_following_word(c->out) : !c->out && has_following_word(c->in);
}

static int64_t n_elements(const conf_operands *in) {
    int64_t n = 0;
    for (int k = 0; k < in->n; k++) n += hx_shape_count(&in->items[k].base);
    return n;
}

static bool is_same(const conf_result *a, const conf_result *b) {
    bool same = a->n_out == b->n_out;
    for (int k = 0; same && k < a->n_out; k++)
        same = a->out[k].n == b->out[k].n &&
               memcmp(a->out[k].bytes, b->out[k].bytes, (size_t)a->out[k].n * hx_dtype_bytes(a->out[k].dtype)) == 0;
    return same;
}

/* Why a refusal is not as it should be, or NULL. */
static const char *refusal_fault(const conf_case *c, hx_dtype dtype, hx_status status, const conf_result *before,
                                 const conf_result *after) {
    if (status != HX_ERR_DTYPE && status != HX_ERR_UNSUPPORTED) return "refused with another code";
    if (!strstr(hx_error_message(), hx_op_info_get(c->op)->name)) return "the message does not name the op";
    if (!strstr(hx_error_message(), hx_dtype_name(dtype))) return "the message does not name the dtype";
    return is_same(before, after) ? NULL : "refused, and yet something has been written";
}

/* What a device says of a case, and what its outputs were and are. */
static hx_status run(conf_rig *rig, const conf_case *c, hx_dtype dtype, const conf_operands *in, conf_result *before,
                     conf_result *after) {
    conf_call call;
    conf_call_make(rig, c, dtype, in, &call);
    conf_call_read(rig, &call, before);
    hx_status status = conf_call_run(rig, &call);
    conf_call_read(rig, &call, after);
    conf_call_free(&call);
    return status;
}

/* Why a result is wrong, or NULL. A complex product is two products and a sum, for which the rows of real numbers allow
 * no rounding. */
static const char *result_fault(const conf_case *c, hx_dtype dtype, hx_status on_ref, const conf_result *want,
                                const conf_result *got, char *text, size_t n_bytes) {
    conf_case rounded = *c;
    if (c->op == HX_OP_mul && hx_dtype_is_complex(dtype)) rounded.tolerance = CONF_MIXED;
    if (on_ref != HX_OK) return "computed, and ref refuses it";
    return conf_result_differ(&rounded, dtype, want, got, false, text, n_bytes) ? text : NULL;
}

static void judge(conf_rig *ref, conf_rig *rig, const conf_case *c, const conf_operands *in, hx_dtype dtype, conf_verdict *v) {
    conf_result want, got, before;
    char text[512], name[256];
    hx_status on_ref = run(ref, c, dtype, in, &before, &want);
    conf_result_free(&before);
    hx_status status = run(rig, c, dtype, in, &before, &got);
    const char *fault = status == HX_OK ? result_fault(c, dtype, on_ref, &want, &got, text, sizeof text)
                                        : refusal_fault(c, dtype, status, &before, &got);
    v->n_failed += fault != NULL;
    v->n_passed += !fault && status == HX_OK;
    if (!fault && status != HX_OK) conf_verdict_refused(v, status);
    if (fault)
        printf("FAILED %s on %s: %s %s\n", conf_case_text(c, dtype, name, sizeof name), hx_device_name(rig->device), fault,
               status == HX_OK ? "" : hx_error_message());
    conf_result_free(&before);
    conf_result_free(&got);
    conf_result_free(&want);
}

static void judge_case(conf_rig *ref, conf_rig *rig, const conf_case *c, conf_verdict row[N_DTYPES]) {
    conf_operands in;
    conf_operands_make(ref, c, HX_F32, &in); /* what a forward op makes exists in floating types */
    for (int d = 0; d < N_DTYPES && n_elements(&in) <= MOST_ELEMENTS; d++) {
        conf_operands_retype(c, &in, dtypes[d]);
        judge(ref, rig, c, &in, dtypes[d], &row[d]);
    }
    conf_operands_free(&in);
}

static void check_backend(const char *backend) {
    conf_rig ref, rig;
    conf_verdict table[HX_OP_COUNT][N_DTYPES] = {{{0}}};
    conf_rig_open("ref", 1, &ref);
    conf_rig_open(backend, 2, &rig);
    for (int i = 0; i < conf_n_cases; i++)
        if (is_fit(&conf_cases[i])) judge_case(&ref, &rig, &conf_cases[i], table[conf_cases[i].op]);
    conf_verdicts_print(backend, dtypes, N_DTYPES, *table);
    for (int op = 0; op < HX_OP_COUNT; op++) {
        const hx_op_info *info = hx_op_info_get((hx_op)op);
        for (int d = 0; d < N_DTYPES; d++) {
            const conf_verdict *v = &table[op][d];
            cr_expect_eq(v->n_failed, 0, "%s in %s on %s: %d calls are neither right nor properly refused", info->name,
                         hx_dtype_name(dtypes[d]), backend, v->n_failed);
            cr_expect(info->flags & HX_OP_VIEW || v->n_passed + v->n_refused + v->n_failed > 0, "%s has no case", info->name);
        }
    }
    conf_rig_close(&rig);
    conf_rig_close(&ref);
}

Test(dtypes, other_than_floating_are_computed_as_on_ref_or_refused_by_name) {
    check_backend("ref");
    for (int b = 0; conf_backend(b) != NULL; b++) check_backend(conf_backend(b));
}

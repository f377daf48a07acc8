/* The norm of a sum against the sum and the norm one after the other: results bit for bit, and gradients whatever of them
 * arrives and is wanted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "tests/conformance/battery.h"

/* ---- results ---- */

static bool is_add_norm(hx_op op) { return op == HX_OP_add_layernorm || op == HX_OP_add_rmsnorm; }
static hx_op norm_of(hx_op op) { return op == HX_OP_add_layernorm ? HX_OP_layernorm : HX_OP_rmsnorm; }

static void check_bits(conf_rig *rig, const conf_case *c, hx_dtype dtype, int k, hx_tensor *want, const conf_result *got) {
    char text[256];
    size_t n_bytes = hx_tensor_bytes(want);
    unsigned char *bytes = malloc(n_bytes + 1);
    cr_assert_not_null(bytes);
    MUST(hx_tensor_read(rig->stream, want, bytes));
    cr_expect_eq(hx_tensor_dtype(want), got->out[k].dtype);
    cr_expect(memcmp(bytes, got->out[k].bytes + CONF_GUARD * hx_dtype_bytes(got->out[k].dtype), n_bytes) == 0,
              "%s on %s: output %d has other bits than one after the other", conf_case_text(c, dtype, text, sizeof text),
              hx_device_name(rig->device), k);
    free(bytes);
}

static void check_results(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype) {
    conf_operands in;
    conf_result got;
    conf_call call;
    hx_tensor *out[HX_OP_MAX_OUT] = {NULL};
    const int last = hx_op_info_get(c->op)->n_out - 1;
    conf_operands_make(ref, c, dtype, &in);
    MUST(conf_run(rig, c, dtype, &in, &got));
    conf_call_make(rig, c, dtype, &in, &call);
    MUST(hx_op_run(&rig->ctx, HX_OP_add, call.views, 2, NULL, 0, &out[last]));
    hx_tensor *operands[] = {out[last], call.views[2], call.n_in > 3 ? call.views[3] : NULL};
    MUST(hx_op_run(&rig->ctx, norm_of(c->op), operands, in.n - 1, &c->attr, 0, out));
    for (int k = 0; k <= last; k++) check_bits(rig, c, dtype, k, out[k], &got);
    for (int k = 0; k <= last; k++) hx_tensor_destroy(&out[k]);
    conf_call_free(&call);
    conf_result_free(&got);
    conf_operands_free(&in);
}

/* On cuda a row is added up in packs of 16 bytes where its operands begin on them, else element by element: the sum that stands
 * between the two ops begins on one always, so that bits may differ where x or r does not. */
static bool is_grouped_alike(const conf_rig *rig, const conf_case *c) {
    const char *second = strchr(c->in, ' '), *third = second != NULL ? strchr(second + 1, ' ') : NULL;
    const char *view = strchr(c->in, 'u');
    return strcmp(hx_device_name(rig->device), "cuda") != 0 || view == NULL || (third != NULL && view > third);
}

/* Every case of the table whose outputs are all wanted, and as the shape rule makes them. */
static int check_backend(conf_rig *ref, const char *backend) {
    static const hx_dtype dtypes[] = {HX_F32, HX_F64, HX_BF16, HX_F16};
    conf_rig rig;
    int n_checked = 0;
    conf_rig_open(backend, 2, &rig);
    for (int i = 0; i < conf_n_cases; i++) {
        const conf_case *c = &conf_cases[i];
        if (!is_add_norm(c->op) || c->skip || c->out) continue;
        if (!is_grouped_alike(&rig, c)) continue;
        for (int d = 0; d < 4; d++) check_results(ref, &rig, c, dtypes[d]);
        n_checked++;
    }
    conf_rig_close(&rig);
    return n_checked;
}

Test(add_norm, has_the_bits_of_the_sum_and_the_norm_one_after_the_other) {
    conf_rig ref;
    conf_rig_open("ref", 1, &ref);
    cr_expect_geq(check_backend(&ref, "ref"), 15);
    for (int b = 0; conf_backend(b) != NULL; b++) cr_expect_geq(check_backend(&ref, conf_backend(b)), 15);
    conf_rig_close(&ref);
}

/* ---- gradients ---- */

enum { X, R, W, B, N_LEAVES, N_ROWS = 3, N_COLS = 5 };
enum { WITH_Y = 1, WITH_S = 2 };

/* Which leaves ask for a gradient, of what function, and how it is computed. */
typedef struct setting {
    hx_op op;
    unsigned wanted; /* bit k: leaf k */
    unsigned uses;   /* WITH_Y, WITH_S or both */
    bool is_twice;   /* x + x */
    bool is_fused;
} setting;

static hx_status norm_of_sum(hx_ctx *ctx, const setting *t, hx_tensor *const *leaf, hx_tensor **y, hx_tensor **s) {
    const bool centred = t->op == HX_OP_add_layernorm;
    hx_tensor *x = leaf[X], *r = leaf[t->is_twice ? X : R];
    if (t->is_fused && centred) return hx_add_layernorm_op(ctx, x, r, leaf[W], leaf[B], 0.1, y, s);
    if (t->is_fused) return hx_add_rmsnorm_op(ctx, x, r, leaf[W], 0.1, y, s);
    HX_TRY(hx_add(ctx, x, r, s));
    return centred ? hx_layernorm_op(ctx, *s, leaf[W], leaf[B], 0.1, y) : hx_rmsnorm_op(ctx, *s, leaf[W], 0.1, y);
}

/* A function in which x appears besides, so that gradients add up: x^2 + y^2, + s^3 */
static hx_status apply(hx_ctx *ctx, const setting *t, hx_tensor *const *leaf, hx_tensor **out) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR s = NULL;
    HX_AUTO_TENSOR square = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR y2 = NULL;
    HX_AUTO_TENSOR s2 = NULL;
    HX_AUTO_TENSOR s3 = NULL;
    HX_TRY(norm_of_sum(ctx, t, leaf, &y, &s));
    HX_TRY(hx_mul(ctx, leaf[X], leaf[X], &square));
    HX_TRY(hx_mul(ctx, y, y, &y2));
    HX_TRY(hx_mul(ctx, s, s, &s2));
    HX_TRY(hx_mul(ctx, s, s2, &s3));
    if (t->uses == WITH_Y) return hx_add(ctx, square, y2, out);
    if (t->uses == WITH_S) return hx_add(ctx, square, s3, out);
    HX_TRY(hx_add(ctx, square, y2, &sum));
    return hx_add(ctx, sum, s3, out);
}

typedef struct gradients {
    bool is_there[N_LEAVES];
    double values[N_LEAVES][N_ROWS * N_COLS];
} gradients;

static void differentiate(conf_rig *rig, const setting *t, gradients *out) {
    static const conf_case c = {.in = "3,5 3,5 5 5"};
    conf_operands in;
    hx_tensor *leaf[N_LEAVES], *y = NULL;
    hx_ctx ctx = rig->ctx;
    *out = (gradients){0};
    conf_operands_make(rig, &c, HX_F64, &in);
    for (int k = 0; k < N_LEAVES; k++) {
        conf_operand_upload(rig, &in.items[k], &leaf[k]);
        hx_tensor_set_requires_grad(leaf[k], t->wanted >> k & 1);
    }
    MUST(hx_tape_create(rig->device, &ctx.tape));
    MUST(apply(&ctx, t, leaf, &y));
    MUST(hx_backward(&ctx, y, NULL));
    for (int k = 0; k < N_LEAVES; k++) {
        hx_tensor *g = hx_tensor_grad(leaf[k]);
        out->is_there[k] = g != NULL;
        if (g != NULL) MUST(hx_tensor_read(rig->stream, g, out->values[k]));
    }
    hx_tensor_destroy(&y);
    hx_tape_destroy(&ctx.tape);
    for (int k = 0; k < N_LEAVES; k++) hx_tensor_destroy(&leaf[k]);
    conf_operands_free(&in);
}

/* The same gradients are there; 1e-13: a few sums of numbers about 10 in another order. */
static void check_setting(conf_rig *rig, const setting *t) {
    setting apart = *t;
    gradients want, got;
    apart.is_fused = false;
    differentiate(rig, &apart, &want);
    differentiate(rig, t, &got);
    for (int k = 0; k < N_LEAVES; k++) {
        double worst = 0;
        for (int i = 0; i < N_ROWS * N_COLS; i++) worst = fmax(worst, fabs(want.values[k][i] - got.values[k][i]));
        cr_expect(want.is_there[k] == got.is_there[k] && worst <= 1e-13,
                  "%s on %s, gradients of %x wanted, of %x, %s: that of operand %d is off by %g, %s expected", hx_op_info_get(t->op)->name,
                  hx_device_name(rig->device), t->wanted, t->uses, t->is_twice ? "x + x" : "x + r", k, worst, want.is_there[k] ? "one" : "none");
    }
}

static void check_gradients(const char *backend) {
    conf_rig rig;
    conf_rig_open(backend, 2, &rig);
    for (unsigned wanted = 1; wanted < 1u << N_LEAVES; wanted++)
        for (unsigned uses = WITH_Y; uses <= (WITH_Y | WITH_S); uses++)
            for (int i = 0; i < 4; i++) {
                setting t = {i < 2 ? HX_OP_add_layernorm : HX_OP_add_rmsnorm, wanted, uses, i % 2, true};
                const unsigned reached = uses & WITH_Y ? 15 : 3; /* by the function; r and b may have no part in it */
                if (wanted & reached & (t.is_twice ? ~(1u << R) : ~0u) & (i < 2 ? ~0u : ~(1u << B))) check_setting(&rig, &t);
            }
    conf_rig_close(&rig);
}

Test(add_norm, gradients_are_those_of_both_ops_whatever_arrives_and_is_wanted) {
    check_gradients("ref");
    for (int b = 0; conf_backend(b) != NULL; b++) check_gradients(conf_backend(b));
}

Test(add_norm, has_no_derivative_through_its_statistics) {
    conf_rig rig;
    conf_operands in;
    static const conf_case c = {.in = "3,5 3,5 5"};
    hx_tensor *x[3], *out[HX_OP_MAX_OUT] = {NULL};
    conf_rig_open("ref", 1, &rig);
    hx_ctx ctx = rig.ctx;
    conf_operands_make(&rig, &c, HX_F64, &in);
    for (int k = 0; k < 3; k++) conf_operand_upload(&rig, &in.items[k], &x[k]);
    hx_tensor_set_requires_grad(x[0], true);
    MUST(hx_tape_create(rig.device, &ctx.tape));
    MUST(hx_op_run(&ctx, HX_OP_add_rmsnorm, x, 3, NULL, 0, out));
    cr_expect_eq(hx_backward(&ctx, out[1], NULL), HX_ERR_UNSUPPORTED);
    cr_expect(strstr(hx_error_message(), "add_rmsnorm has no derivative through its output 1"), "%s", hx_error_message());
    hx_tape_destroy(&ctx.tape);
    for (int k = 0; k < HX_OP_MAX_OUT; k++) hx_tensor_destroy(&out[k]);
    for (int k = 0; k < 3; k++) hx_tensor_destroy(&x[k]);
    conf_operands_free(&in);
    conf_rig_close(&rig);
}

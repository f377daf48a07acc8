/* Attention where query and key do not see each other: nothing passes between them, not even NaN. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/battery.h"

/* Longer than a block of queries or keys of any kernel, and no multiple of one. */
enum { B = 1, T = 300, H = 2, D = 16, N = B * T * H * D };

typedef bool (*sees_fn)(int64_t t, int64_t s);

/* One forward and backward pass: q k v do in, what comes back out. */
typedef struct pass {
    double in[4][N]; /* q, k, v, do [B,T,H,D] */
    double out[4][N]; /* out, dq, dk, dv */
    double lse[B * H * T];
} pass;

static hx_tensor *upload(conf_rig *rig, hx_dtype dtype, hx_shape shape, double *values) {
    hx_tensor *x;
    conf_operand_upload(rig, &(conf_operand){.dtype = dtype, .shape = shape, .base = shape, .values = values}, &x);
    return x;
}

static void download(conf_rig *rig, hx_tensor *x, double *values) {
    HX_AUTO_TENSOR wide = NULL;
    MUST(hx_cast(&rig->ctx, x, HX_F64, &wide));
    MUST(hx_tensor_read(rig->stream, wide, values));
}

static hx_tensor *mask_make(conf_rig *rig, sees_fn sees) {
    static double values[T * T];
    for (int64_t t = 0; t < T; t++)
        for (int64_t s = 0; s < T; s++) values[t * T + s] = sees(t, s);
    return upload(rig, HX_BOOL, HX_SHAPE(T, T), values);
}

static void run(conf_rig *rig, hx_dtype dtype, bool causal, sees_fn sees, pass *p) {
    hx_tensor *x[7] = {NULL}, *y[2] = {NULL}, *g[3] = {NULL};
    hx_op_attr attr = {.attention = {0.25, causal}};
    for (int i = 0; i < 3; i++) x[i] = upload(rig, dtype, HX_SHAPE(B, T, H, D), p->in[i]);
    x[6] = sees ? mask_make(rig, sees) : NULL;
    hx_tensor *forward[] = {x[0], x[1], x[2], x[6]};
    MUST(hx_op_run(&rig->ctx, HX_OP_attention, forward, sees ? 4 : 3, &attr, 0, y));
    x[3] = hx_tensor_retain(y[0]);
    x[4] = hx_tensor_retain(y[1]);
    x[5] = upload(rig, dtype, HX_SHAPE(B, T, H, D), p->in[3]);
    MUST(hx_op_run(&rig->ctx, HX_OP_attention_bwd, x, sees ? 7 : 6, &attr, 0, g));
    download(rig, y[0], p->out[0]);
    download(rig, y[1], p->lse);
    for (int i = 0; i < 3; i++) download(rig, g[i], p->out[1 + i]);
    for (int i = 0; i < 3; i++) hx_tensor_destroy(&g[i]);
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&y[i]);
    for (int i = 0; i < 7; i++) hx_tensor_destroy(&x[i]);
}

/* And in bf16, for which the cpu has a form of its own. */
static void in_every_form(void (*body)(conf_rig *rig, hx_dtype dtype)) {
    conf_rig rig;
    conf_on_every_backend(body);
    conf_rig_open("cpu", 2, &rig);
    body(&rig, HX_BF16);
    conf_rig_close(&rig);
}

static pass *random_pass(void) {
    pass *p = calloc(1, sizeof *p);
    cr_assert_not_null(p);
    for (int i = 0; i < 4; i++)
        for (int64_t k = 0; k < N; k++) p->in[i][k] = 2 * hx_rng_uniform((hx_rng){conf_seed(), (uint64_t)i}, (uint64_t)k) - 1;
    return p;
}

/* Spoil the rows first, first + every, .. below last of a tensor with NaN and infinities. */
static void spoil(double *x, int64_t first, int64_t last, int64_t every) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int64_t t = first; t < last; t += every)
        for (int64_t i = 0; i < H * D; i++) x[t * H * D + i] = bad[i % 3];
}

/* Rows first .. last-1 of got are those of want. 1e-5 and 1e-13: sums of 300 terms about 1 in another order; 0.05: numbers of a few units, in
 * bf16 before and after their sums. */
static void expect_rows(const char *what, hx_dtype dtype, const double *want, const double *got, int64_t first, int64_t last) {
    double tolerance = dtype == HX_BF16 ? 0.05 : dtype == HX_F32 ? 1e-5 : 1e-13;
    int n_off = 0;
    for (int64_t t = first; t < last; t++)
        for (int64_t i = t * H * D; i < (t + 1) * H * D; i++)
            n_off += !(fabs(got[i] - want[i]) <= tolerance);
    cr_expect_eq(n_off, 0, "%s %s: rows %lld to %lld have changed", what, hx_dtype_name(dtype), (long long)first, (long long)last);
}

static void future_keys(conf_rig *rig, hx_dtype dtype) {
    enum { FIRST_BAD = 150 };
    pass *clean = random_pass(), *p = random_pass();
    run(rig, dtype, true, NULL, clean);
    spoil(p->in[1], FIRST_BAD, T, 1);
    spoil(p->in[2], FIRST_BAD, T, 1);
    run(rig, dtype, true, NULL, p);
    expect_rows("out", dtype, clean->out[0], p->out[0], 0, FIRST_BAD);
    expect_rows("dq", dtype, clean->out[1], p->out[1], 0, FIRST_BAD);
    cr_expect(isnan(p->out[0][FIRST_BAD * H * D]), "a query that sees NaN gets %g", p->out[0][FIRST_BAD * H * D]);
    free(p);
    free(clean);
}
Test(attention, nan_in_a_future_key_or_value_does_not_reach_a_query) { in_every_form(future_keys); }

static void past_queries(conf_rig *rig, hx_dtype dtype) {
    enum { FIRST_GOOD = 50 };
    pass *clean = random_pass(), *p = random_pass();
    run(rig, dtype, true, NULL, clean);
    spoil(p->in[0], 0, FIRST_GOOD, 1);
    spoil(p->in[3], 0, FIRST_GOOD, 1);
    run(rig, dtype, true, NULL, p);
    expect_rows("out", dtype, clean->out[0], p->out[0], FIRST_GOOD, T);
    for (int i = 1; i < 4; i++) expect_rows("gradient", dtype, clean->out[i], p->out[i], FIRST_GOOD, T);
    free(p);
    free(clean);
}
Test(attention, nan_in_a_query_does_not_reach_the_gradients_of_keys_it_does_not_see) { in_every_form(past_queries); }

enum { HIDDEN = 7 }; /* one key in seven is hidden, and one query in seven sees nothing */
static bool sees_most_keys(int64_t t, int64_t s) { return t >= 0 && s % HIDDEN != 0; }
static bool most_see(int64_t t, int64_t s) { return s >= 0 && t % HIDDEN != 0; }

static void hidden_keys(conf_rig *rig, hx_dtype dtype) {
    for (int causal = 0; causal < 2; causal++) {
        pass *clean = random_pass(), *p = random_pass();
        run(rig, dtype, causal, sees_most_keys, clean);
        spoil(p->in[1], 0, T, HIDDEN);
        spoil(p->in[2], 0, T, HIDDEN);
        run(rig, dtype, causal, sees_most_keys, p);
        for (int i = 0; i < 4; i++) expect_rows("masked", dtype, clean->out[i], p->out[i], 0, T);
        for (int64_t s = 0; s < T; s += HIDDEN)
            for (int64_t i = s * H * D; i < (s + 1) * H * D; i++)
                cr_assert(p->out[2][i] == 0 && p->out[3][i] == 0, "key %lld is hidden and has a gradient", (long long)s);
        free(p);
        free(clean);
    }
}
Test(attention, nan_behind_a_mask_stays_there_and_hidden_keys_get_gradient_0) { in_every_form(hidden_keys); }

static void blind_queries(conf_rig *rig, hx_dtype dtype) {
    pass *clean = random_pass(), *p = random_pass();
    run(rig, dtype, false, most_see, clean);
    spoil(p->in[0], 0, T, HIDDEN);
    spoil(p->in[3], 0, T, HIDDEN);
    run(rig, dtype, false, most_see, p);
    for (int i = 0; i < 4; i++) expect_rows("blind", dtype, clean->out[i], p->out[i], 0, T);
    for (int64_t t = 0; t < T; t += HIDDEN) {
        for (int64_t i = t * H * D; i < (t + 1) * H * D; i++) cr_assert(p->out[0][i] == 0 && p->out[1][i] == 0, "query %lld", (long long)t);
        for (int64_t h = 0; h < H; h++) cr_assert_eq(p->lse[h * T + t], -INFINITY, "logsumexp of query %lld", (long long)t);
    }
    free(p);
    free(clean);
}
Test(attention, a_query_without_a_key_gets_0_and_no_gradient_whatever_it_holds) { in_every_form(blind_queries); }

static bool sees_past(int64_t t, int64_t s) { return s <= t; }

static void causal_mask(conf_rig *rig, hx_dtype dtype) {
    pass *causal = random_pass(), *p = random_pass();
    run(rig, dtype, true, NULL, causal);
    run(rig, dtype, false, sees_past, p);
    for (int i = 0; i < 4; i++) expect_rows("masked", dtype, causal->out[i], p->out[i], 0, T);
    free(p);
    free(causal);
}
Test(attention, a_mask_of_the_past_is_causal_attention) { in_every_form(causal_mask); }

enum { FIRST_FINITE = 200 }; /* keys before have scores of -inf: blocks of them are without a finite maximum */
static bool sees_finite(int64_t t, int64_t s) { return t >= 0 && s >= FIRST_FINITE; }

static void infinite_scores(conf_rig *rig, hx_dtype dtype) {
    pass *hidden = random_pass(), *p = random_pass();
    for (int64_t row = 0; row < T * H; row++) {
        hidden->in[0][row * D] = p->in[0][row * D] = 1;
        if (row < FIRST_FINITE * H) p->in[1][row * D] = -INFINITY;
    }
    run(rig, dtype, false, sees_finite, hidden);
    run(rig, dtype, false, NULL, p);
    expect_rows("out", dtype, hidden->out[0], p->out[0], 0, T);
    expect_rows("gradient of v", dtype, hidden->out[3], p->out[3], 0, T);
    for (int64_t row = 0; row < T * H; row++) p->in[1][row * D] = -INFINITY;
    run(rig, dtype, false, NULL, p);
    cr_expect(isnan(p->out[0][0]), "a query whose scores are all -inf gets %g", p->out[0][0]);
    free(p);
    free(hidden);
}
Test(attention, a_score_of_minus_infinity_has_weight_0_unless_all_are) { in_every_form(infinite_scores); }

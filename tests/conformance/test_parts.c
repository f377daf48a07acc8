/* A vocabulary or a sequence in parts, on every backend: put together they are the whole. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "tests/conformance/battery.h"

/* Parts of a vocabulary of 23, as ranks hold them: cuts[n] ascending. */
enum { V = 23, C = 5, N = 40, N_CUTS = 5 };
static const int64_t cuts[][N_CUTS] = {{0, 23, 23, 23, 23}, {0, 12, 23, 23, 23}, {0, 1, 8, 8, 23}, {0, 6, 12, 18, 23}};
enum { N_SPLITS = sizeof cuts / sizeof *cuts };

static hx_tensor *tensor(conf_rig *rig, hx_dtype dtype, hx_shape shape, const double *values) {
    conf_operand operand = {.dtype = dtype, .shape = shape, .base = shape, .values = (double *)values};
    hx_tensor *x;
    conf_operand_upload(rig, &operand, &x);
    return x;
}

/* Elements as f64, to be freed. */
static double *values_of(conf_rig *rig, hx_tensor *x) {
    hx_tensor *wide;
    double *values = malloc((size_t)hx_tensor_count(x) * sizeof *values + 1);
    MUST(hx_cast(&rig->ctx, x, HX_F64, &wide));
    MUST(hx_tensor_read(rig->stream, wide, values));
    hx_tensor_destroy(&wide);
    return values;
}

static double item(conf_rig *rig, hx_tensor *x) {
    double value;
    MUST(hx_tensor_item(rig->stream, x, &value));
    return value;
}

/* Numbers of both signs. */
static const double *numbers(int64_t n, uint64_t stream) {
    static double values[N * V];
    for (int64_t i = 0; i < n; i++) values[i] = 6 * hx_rng_uniform((hx_rng){conf_seed(), stream}, (uint64_t)i) - 3;
    return values;
}

/* Ids of the vocabulary, one in eight being the one to ignore where that is wanted. */
static hx_tensor *ids_of(conf_rig *rig, bool ignores) {
    double ids[N];
    for (uint64_t i = 0; i < N; i++) {
        uint32_t bits = hx_rng_bits((hx_rng){conf_seed(), 3}, i);
        ids[i] = ignores && bits % 8 == 0 ? HX_IGNORE_INDEX : (double)(bits / 8 % V);
    }
    return tensor(rig, HX_I32, HX_SHAPE(N), ids);
}

static void expect_same(const conf_rig *rig, const double *got, const double *want, int64_t n, double within, const char *what) {
    for (int64_t i = 0; i < n; i++)
        cr_expect(fabs(got[i] - want[i]) <= within, "%s on %s: element %lld is %.17g, of the whole %.17g", what, hx_device_name(rig->device),
                  (long long)i, got[i], want[i]);
}

/* ---- a table ---- */

/* Rows of w by ids, and the gradient of w from dy; both as values, to be freed. */
static void look_up(conf_rig *rig, hx_tensor *ids, hx_tensor *w, hx_tensor *dy, int64_t from, double **rows, double **dw) {
    hx_op_attr attr = {.embedding = {.rows = hx_tensor_dim(w, 0), .start = from, .total = V}};
    hx_tensor *y, *grad = NULL;
    MUST(hx_embedding_part_op(&rig->ctx, ids, w, from, V, &y));
    MUST(hx_op_run(&rig->ctx, HX_OP_embedding_bwd, (hx_tensor *[]){ids, dy}, 2, &attr, 0, &grad));
    *rows = values_of(rig, y);
    *dw = values_of(rig, grad);
    hx_tensor_destroy(&grad);
    hx_tensor_destroy(&y);
}

static void lookup(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *ids = ids_of(rig, false), *w = tensor(rig, dtype, HX_SHAPE(V, C), numbers(V * C, 1));
    hx_tensor *dy = tensor(rig, dtype, HX_SHAPE(N, C), numbers(N * C, 2)), *whole, *part;
    MUST(hx_embedding_op(&rig->ctx, ids, w, &whole));
    double *want = values_of(rig, whole), *all_rows, *want_dw, *rows, *dw;
    look_up(rig, ids, w, dy, 0, &all_rows, &want_dw);
    expect_same(rig, all_rows, want, N * C, 0, "rows");
    for (int split = 0; split < N_SPLITS; split++) {
        double sum[N * C] = {0};
        for (int k = 0; k + 1 < N_CUTS; k++) {
            int64_t from = cuts[split][k], end = cuts[split][k + 1];
            MUST(hx_slice(&rig->ctx, w, 0, from, end, 1, &part));
            look_up(rig, ids, part, dy, from, &rows, &dw);
            for (int i = 0; i < N * C; i++) sum[i] += rows[i];
            expect_same(rig, dw, want_dw + from * C, (end - from) * C, 0, "dw");
            free(dw);
            free(rows);
            hx_tensor_destroy(&part);
        }
        expect_same(rig, sum, want, N * C, 0, "rows");
    }
    free(want_dw);
    free(all_rows);
    free(want);
    hx_tensor_destroy(&whole);
    hx_tensor_destroy(&dy);
    hx_tensor_destroy(&w);
    hx_tensor_destroy(&ids);
}
Test(parts, of_a_table_add_up_to_the_rows_of_the_whole_bit_for_bit) { conf_on_every_backend(lookup); }

/* ---- logits ---- */

/* What every rank knows once they have exchanged the logsumexp of their columns: that of all columns. */
static hx_tensor *joint_lse(conf_rig *rig, hx_dtype dtype, hx_tensor *const *parts, const int64_t *cut, hx_tensor *ids) {
    double max[N], sum[N] = {0}, *lse[N_CUTS - 1];
    for (int i = 0; i < N; i++) max[i] = -INFINITY;
    for (int k = 0; k + 1 < N_CUTS; k++) {
        hx_tensor *own;
        MUST(hx_logsumexp_part(&rig->ctx, parts[k], ids, cut[k], V, &own));
        cr_expect_eq(hx_tensor_dtype(own), hx_dtype_accum(dtype));
        lse[k] = values_of(rig, own);
        for (int i = 0; i < N; i++) max[i] = fmax(max[i], lse[k][i]);
        hx_tensor_destroy(&own);
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k + 1 < N_CUTS; k++) sum[i] += exp(lse[k][i] - max[i]);
        max[i] += log(sum[i]);
    }
    for (int k = 0; k + 1 < N_CUTS; k++) free(lse[k]);
    return tensor(rig, hx_dtype_accum(dtype), HX_SHAPE(N), max);
}

/* Loss, number of targets and gradient of logits: of the columns from `from` on under lse, or of all where that is NULL. */
typedef struct outcome {
    double sum, count, *grad;
} outcome;

static outcome differentiate(conf_rig *rig, hx_tensor *logits, hx_tensor *ids, int64_t from, hx_tensor *lse) {
    outcome o;
    hx_tensor *sum, *count;
    hx_ctx ctx = rig->ctx;
    MUST(hx_tape_create(rig->device, &ctx.tape));
    hx_tensor_set_requires_grad(logits, true);
    if (lse) MUST(hx_cross_entropy_part(&ctx, logits, ids, HX_IGNORE_INDEX, from, V, lse, &sum, &count));
    else MUST(hx_cross_entropy(&ctx, logits, ids, HX_IGNORE_INDEX, &sum, &count));
    MUST(hx_backward(&ctx, sum, NULL));
    o.sum = item(rig, sum);
    o.count = item(rig, count);
    o.grad = values_of(rig, hx_tensor_grad(logits));
    hx_tensor_destroy(&count);
    hx_tensor_destroy(&sum);
    hx_tape_destroy(&ctx.tape);
    return o;
}

/* Tensors of their own with the columns of each part. */
static void cut_columns(conf_rig *rig, hx_tensor *logits, const int64_t *cut, hx_tensor **parts) {
    for (int k = 0; k + 1 < N_CUTS; k++) {
        hx_tensor *view;
        MUST(hx_slice(&rig->ctx, logits, 1, cut[k], cut[k + 1], 1, &view));
        MUST(hx_cast(&rig->ctx, view, hx_tensor_dtype(view), &parts[k]));
        hx_tensor_destroy(&view);
    }
}

/* The whole is summed in another order; f32 rounds the logsumexp, of about 5, to 24 bits, and so the probabilities. */
static void expect_shares(conf_rig *rig, hx_dtype dtype, hx_tensor *logits, hx_tensor *ids, const int64_t *cut, const outcome *whole) {
    hx_tensor *parts[N_CUTS - 1];
    cut_columns(rig, logits, cut, parts);
    hx_tensor *lse = joint_lse(rig, dtype, parts, cut, ids);
    double sum = 0;
    for (int k = 0; k + 1 < N_CUTS; k++) {
        int64_t n = cut[k + 1] - cut[k];
        outcome part = differentiate(rig, parts[k], ids, cut[k], lse);
        sum += part.sum;
        cr_expect_eq(part.count, whole->count);
        for (int64_t r = 0; r < N; r++)
            expect_same(rig, part.grad + r * n, whole->grad + r * V + cut[k], n, dtype == HX_F64 ? 1e-14 : 1e-6, "dlogits");
        free(part.grad);
        hx_tensor_destroy(&parts[k]);
    }
    expect_same(rig, &sum, &whole->sum, 1, (dtype == HX_F64 ? 1e-12 : 1e-6) * whole->sum, "loss");
    hx_tensor_destroy(&lse);
}

static void loss(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *ids = ids_of(rig, true), *logits = tensor(rig, dtype, HX_SHAPE(N, V), numbers(N * V, 1));
    outcome whole = differentiate(rig, logits, ids, 0, NULL);
    for (int split = 0; split < N_SPLITS; split++) expect_shares(rig, dtype, logits, ids, cuts[split], &whole);
    free(whole.grad);
    hx_tensor_destroy(&logits);
    hx_tensor_destroy(&ids);
}
Test(parts, of_logits_lose_together_what_the_whole_loses) { conf_on_every_backend(loss); }

/* Under its own logsumexp a part's loss is not a share of the whole's: asking for its derivative is a mistake. */
static void own_lse(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *ids = ids_of(rig, true), *logits = tensor(rig, dtype, HX_SHAPE(N, V), numbers(N * V, 1)), *y[3] = {NULL};
    hx_tape *tape;
    MUST(hx_tape_create(rig->device, &tape));
    hx_ctx ctx = rig->ctx;
    ctx.tape = tape;
    hx_tensor_set_requires_grad(logits, true);
    MUST(hx_op_run(&ctx, HX_OP_cross_entropy, (hx_tensor *[]){logits, ids}, 2,
                   &(hx_op_attr){.cross_entropy = {.ignore_index = HX_IGNORE_INDEX, .start = 1, .total = V + 1}}, 0, y));
    cr_expect_eq(hx_backward(&ctx, y[0], NULL), HX_ERR_UNSUPPORTED);
    cr_expect(strstr(hx_error_message(), "logsumexp of the whole") != NULL, "%s", hx_error_message());
    for (int i = 0; i < 3; i++) hx_tensor_destroy(&y[i]);
    hx_tape_destroy(&tape);
    hx_tensor_destroy(&logits);
    hx_tensor_destroy(&ids);
}
Test(parts, of_logits_have_no_derivative_under_their_own_logsumexp) { conf_on_every_backend(own_lse); }

/* ---- a sequence ---- */

enum { B = 3, T = 7, D = 10, BASE = 5 };

/* Dropout of ones [B,n,D], tokens `from` on of the sequence, in samples BASE and following. */
static double *mask_of(conf_rig *rig, hx_dtype dtype, int64_t from, int64_t n, int64_t total) {
    hx_tensor *x, *y;
    hx_ctx ctx = rig->ctx;
    ctx.sample_base = BASE;
    ctx.seq_first = from;
    ctx.seq_total = total;
    MUST(hx_tensor_create(rig->device, dtype, HX_SHAPE(B, n, 2, D / 2), &x));
    MUST(hx_tensor_fill(rig->stream, x, 1));
    MUST(hx_dropout_op(&ctx, x, 0.5, 11, &y));
    double *mask = values_of(rig, y);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
    return mask;
}

static void dropout(conf_rig *rig, hx_dtype dtype) {
    static const int64_t from[] = {0, 0, 3, 6, 7, 2}, count[] = {7, 3, 3, 1, 0, 4};
    double *whole = mask_of(rig, dtype, 0, T, 0);
    for (int k = 0; k < 6; k++) {
        double *part = mask_of(rig, dtype, from[k], count[k], T);
        for (int64_t b = 0; b < B; b++)
            expect_same(rig, part + b * count[k] * D, whole + (b * T + from[k]) * D, count[k] * D, 0, "mask");
        free(part);
    }
    free(whole);
}
Test(parts, of_a_sequence_drop_what_the_whole_drops_bit_for_bit) { conf_on_every_backend(dropout); }

Test(parts, of_a_sequence_lie_within_it) {
    conf_rig rig;
    conf_rig_open("ref", 1, &rig);
    hx_tensor *x, *flat, *y = NULL;
    MUST(hx_tensor_create(rig.device, HX_F32, HX_SHAPE(B, 4, D), &x));
    MUST(hx_tensor_fill(rig.stream, x, 1));
    MUST(hx_reshape(&rig.ctx, x, HX_SHAPE(B, -1), &flat));
    rig.ctx.seq_total = T;
    for (int64_t first = -1; first <= 4; first += 5) {
        rig.ctx.seq_first = first;
        cr_expect_eq(hx_dropout_op(&rig.ctx, x, 0.5, 11, &y), HX_ERR_SHAPE, "%s", hx_error_message());
        cr_expect_null(y);
        MUST(hx_dropout_op(&rig.ctx, flat, 0.5, 11, &y)); /* has no tokens */
        hx_tensor_destroy(&y);
    }
    hx_tensor_destroy(&flat);
    hx_tensor_destroy(&x);
    conf_rig_close(&rig);
}

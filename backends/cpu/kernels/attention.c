/* Attention by blocks of queries and keys: the scores of a block live in a worker's scratch memory, products are
 * matrix products on the caller's thread, and blocks that the causal mask hides are left out.
 *
 * Forward: a task is one block of queries of one head. It walks over the blocks of keys, keeping each row's maximum
 * and sum, and rescales what it has accumulated when the maximum grows (Dao et al. 2022; Milakov & Gimelshein 2018).
 * Backward: a task is one key head with all its query heads; probabilities come back from the saved logsumexp.
 * bf16 operands are taken as they are stored. Scores, sums and what is accumulated are f32; probabilities and dS are rounded to bf16 for
 * the products that take them (as Dao et al. do), and each output once, at its end.
 *
 * A pair of query and key that do not see each other has weight 0, but 0 times an infinity or a NaN is NaN. Products
 * of blocks with such pairs look for numbers that are not finite in the rows concerned, and leave the pairs out one by
 * one where there are some. */
#include <math.h>
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/tensor/half.h"

/* A product packs its keys once for all its queries, so blocks are tall. Causality hides up to half of a block of keys on the diagonal,
 * so they are narrow. */
enum {
    Q_MOST = 264,      /* most queries of a block */
    Q_MULTIPLE = 12,   /* rows of a register tile */
    Q_LEAST = 36,      /* not cut below this for more tasks */
    TASKS_WANTED = 16, /* enough to keep some cores busy */
    K_BLOCK = 64
};

/* [B,T,H,D] with dense D */
typedef struct head_view {
    void *data;
    int64_t batch, step, head; /* strides of B, T and H */
} head_view;

/* Which keys a query sees besides causality; data NULL: all. */
typedef struct mask_view {
    const uint8_t *data;
    int64_t batch, head, query, key; /* strides, 0 where it repeats */
} mask_view;

typedef struct attention_job {
    head_view q, k, v, o, dout;
    head_view out[3]; /* forward: out; backward: dq, dk, dv; data NULL where not wanted */
    mask_view mask;
    void *lse;        /* [B,H,T] or NULL */
    void *scratch;
    int64_t scratch_each; /* elements per worker */
    int64_t B, T, H, D, S, G, group;
    int64_t q_block; /* queries of a block */
    double scale;
    bool causal, use_blas;
} attention_job;

/* Keys that query t sees are 0 .. n_visible-1. */
static int64_t n_visible(const attention_job *j, int64_t t) {
    return j->causal ? hx__max(0, hx__min(j->S, t + j->S - j->T + 1)) : j->S;
}

/* First query that sees key s. */
static int64_t first_query(const attention_job *j, int64_t s) {
    return j->causal ? hx__max(0, s - (j->S - j->T)) : 0;
}

/* Queries t .. t+m-1 of head h against keys s .. s+n-1 of key head g. */
typedef struct block {
    int64_t b, h, g, t, m, s, n;
} block;

/* The mask of query t from key s on, mask.key apart; NULL: every key is seen. */
static const uint8_t *mask_row(const attention_job *j, int64_t b, int64_t h, int64_t t, int64_t s) {
    const mask_view *v = &j->mask;
    return v->data ? v->data + b * v->batch + h * v->head + t * v->query + s * v->key : NULL;
}

/* Of the keys of a block that a query could see by its position, those that it sees: the first n_seen. */
static int64_t n_seen(const attention_job *j, const block *x, int64_t i) {
    return hx__max(0, hx__min(x->n, n_visible(j, x->t + i) - x->s));
}

/* Keys of a block that all its queries see are 0 .. n-1; there may be more among the others. */
static int64_t n_seen_by_all(const attention_job *j, const block *x) {
    return j->mask.data ? 0 : n_seen(j, x, 0);
}

/* Queries of a block that do not see all its keys are among 0 .. n-1. */
static int64_t n_half_blind(const attention_job *j, const block *x) {
    if (j->mask.data) return x->m;
    return hx__max(0, hx__min(x->m, first_query(j, x->s + x->n - 1) - x->t));
}

/* Does query t see any key? */
static bool sees_any(const attention_job *j, int64_t b, int64_t h, int64_t t) {
    const uint8_t *mask = mask_row(j, b, h, t, 0);
    int64_t n = n_visible(j, t), s = 0;
    while (mask && s < n && !mask[s * j->mask.key]) s++;
    return s < n;
}

static void mask_make(const hx_op_call *call, int i, mask_view *out) {
    const hx_array *a = &call->in[i];
    int64_t stride[4] = {0}; /* of B, H, T and S */
    if (i >= call->n_in || hx__cpu_absent(a)) return;
    for (int d = 0; d < a->ndim; d++)
        if (a->dims[d] != 1) stride[4 - a->ndim + d] = a->strides[d];
    *out = (mask_view){a->data, stride[0], stride[1], stride[2], stride[3]};
}

static hx_status to_scratch(hx_cpu *cpu, hx_array *a) {
    hx_shape shape = hx_array_shape(a);
    hx_shape_strides(&shape, a->strides);
    return hx__cpu_scratch_array(cpu, hx_array_count(a), hx_dtype_bytes(a->dtype), &a->data);
}

static bool has_dense_rows(const hx_array *a) {
    return (a->dims[3] <= 1 || a->strides[3] == 1) && (a->dims[1] <= 1 || a->strides[1] >= a->dims[3]);
}

/* Rows of one position must be dense and apart for BLAS; other operands are moved to scratch. */
static hx_status view_make(hx_cpu *cpu, hx_array *a, bool copy, head_view *out) {
    *out = (head_view){0};
    if (hx__cpu_absent(a)) return HX_OK;
    hx_array given = *a;
    if (!has_dense_rows(a)) {
        HX_TRY(to_scratch(cpu, a));
        if (copy) HX_TRY(copy_array(cpu, &given, a));
    }
    int64_t step = a->dims[1] > 1 ? a->strides[1] : a->dims[3];
    *out = (head_view){a->data, a->strides[0], hx__max(1, step), a->strides[2]};
    return HX_OK;
}

static hx_status copy_back(hx_cpu *cpu, const hx_array *from, const hx_array *to) {
    return from->data == to->data ? HX_OK : copy_array(cpu, from, to);
}

/* Blocks of n queries, equally long, of at most so many. */
static int64_t block_of(int64_t n, int64_t most) {
    int64_t even = hx__ceil_div(n, hx__max(1, hx__ceil_div(n, most)));
    return hx__max(Q_MULTIPLE, hx__ceil_div(even, Q_MULTIPLE) * Q_MULTIPLE);
}

static hx_status plan_common(hx_cpu *cpu, const hx_op_call *call, attention_job *j) {
    hx_array q = call->in[0], k = call->in[1], v = call->in[2];
    j->B = q.dims[0];
    j->T = q.dims[1];
    j->H = q.dims[2];
    j->D = q.dims[3];
    j->S = k.dims[1];
    j->G = k.dims[2];
    j->group = j->G > 0 ? j->H / j->G : 0;
    j->q_block = block_of(j->T, Q_MOST);
    j->scale = call->attr.attention.scale;
    j->use_blas = cpu->use_blas;
    j->causal = call->attr.attention.causal;
    HX_TRY(view_make(cpu, &q, true, &j->q));
    HX_TRY(view_make(cpu, &k, true, &j->k));
    return view_make(cpu, &v, true, &j->v);
}

/* *out and *lse come back as what the kernel writes: themselves, or scratch to be copied back. */
static hx_status plan_forward(hx_cpu *cpu, const hx_op_call *call, attention_job *j, hx_array *out, hx_array *lse) {
    HX_TRY(plan_common(cpu, call, j));
    while (j->q_block >= 2 * Q_LEAST && (double)j->B * (double)j->H * (double)hx__ceil_div(j->T, j->q_block) < TASKS_WANTED)
        j->q_block = block_of(j->q_block, hx__ceil_div(j->q_block, 2));
    mask_make(call, 3, &j->mask);
    HX_TRY(view_make(cpu, out, false, &j->out[0]));
    if (!hx__cpu_absent(lse) && !hx_array_is_contiguous(lse)) HX_TRY(to_scratch(cpu, lse));
    j->lse = lse->data;
    return HX_OK;
}

static hx_status plan_backward(hx_cpu *cpu, const hx_op_call *call, attention_job *j, hx_array out[3]) {
    hx_array o = call->in[3], lse = call->in[4], dout = call->in[5];
    HX_TRY(plan_common(cpu, call, j));
    mask_make(call, 6, &j->mask);
    HX_TRY(view_make(cpu, &o, true, &j->o));
    HX_TRY(view_make(cpu, &dout, true, &j->dout));
    if (!hx_array_is_contiguous(&lse)) {
        hx_array given = lse;
        HX_TRY(to_scratch(cpu, &lse));
        HX_TRY(copy_array(cpu, &given, &lse));
    }
    j->lse = lse.data;
    for (int i = 0; i < 3; i++) HX_TRY(view_make(cpu, &out[i], false, &j->out[i]));
    return HX_OK;
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/attention.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/attention.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/attention.inc"

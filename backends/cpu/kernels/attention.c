/* Attention by blocks of queries and keys: the scores of a block live in a worker's scratch memory, products are
 * matrix products on the caller's thread, and blocks that the causal mask hides are left out.
 *
 * Forward: a task is one block of queries of one head. It walks over the blocks of keys, keeping each row's maximum
 * and sum, and rescales what it has accumulated when the maximum grows (Dao et al. 2022; Milakov & Gimelshein 2018).
 * Backward: a task is one key head with all its query heads; probabilities come back from the saved logsumexp. */
#include <math.h>
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"

enum {
    Q_BLOCK = 64,
    K_BLOCK = 256 /* a block of f32 scores takes 64 KiB */
};

/* [B,T,H,D] with dense D */
typedef struct head_view {
    void *data;
    int64_t batch, step, head; /* strides of B, T and H */
} head_view;

typedef struct attention_job {
    head_view q, k, v, o, dout;
    head_view out[3]; /* forward: out; backward: dq, dk, dv; data NULL where not wanted */
    void *lse;        /* [B,H,T] or NULL */
    void *scratch;
    int64_t scratch_each; /* elements per worker */
    int64_t B, T, H, D, S, G, group, q_blocks;
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

static hx_status copy_array(hx_cpu *cpu, const hx_array *src, const hx_array *dst) {
    hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .in = {*src}, .out = {*dst}};
    return HX_K(copy)(cpu, &call);
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

static hx_status plan_common(hx_cpu *cpu, const hx_op_call *call, attention_job *j) {
    hx_array q = call->in[0], k = call->in[1], v = call->in[2];
    j->B = q.dims[0];
    j->T = q.dims[1];
    j->H = q.dims[2];
    j->D = q.dims[3];
    j->S = k.dims[1];
    j->G = k.dims[2];
    j->group = j->G > 0 ? j->H / j->G : 0;
    j->q_blocks = hx__ceil_div(j->T, Q_BLOCK);
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
    HX_TRY(view_make(cpu, out, false, &j->out[0]));
    if (!hx__cpu_absent(lse) && !hx_array_is_contiguous(lse)) HX_TRY(to_scratch(cpu, lse));
    j->lse = lse->data;
    return HX_OK;
}

static hx_status plan_backward(hx_cpu *cpu, const hx_op_call *call, attention_job *j, hx_array out[3]) {
    hx_array o = call->in[3], lse = call->in[4], dout = call->in[5];
    HX_TRY(plan_common(cpu, call, j));
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

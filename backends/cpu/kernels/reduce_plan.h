/* How a reduction over dims is divided. It is planned on merged dims, and takes one of two forms: either each output
 * takes in runs of input (in fixed blocks, whose partial results are joined in order), or, when the innermost dim is
 * kept, blocks of rows go into rows of partial results, which reads memory in order. */
#ifndef HX_BACKENDS_CPU_REDUCE_PLAN_H
#define HX_BACKENDS_CPU_REDUCE_PLAN_H

#include "backends/cpu/kernels/kernels.h"

enum {
    SUM_BLOCK = 32768,   /* elements of a block of a long sum */
    ROWS_BLOCK = 128,    /* rows of a block of column sums */
    COLUMN_CHUNK = 2048, /* columns that a task adds up */
    COLUMN_MIN = 8       /* narrower rows are summed output by output */
};

typedef struct dim_list {
    int ndim;
    int64_t dims[HX_MAX_DIMS], strides[HX_MAX_DIMS];
} dim_list;

typedef struct sum_plan {
    dim_list kept, kept_out; /* the same dims with the input's and with the output's strides */
    dim_list red;
    int64_t n_out, n_red; /* positions of kept and red */
    int64_t n_cols;       /* > 1: columns of row sums, taken out of kept */
    int64_t col_step_out;
    int64_t n_blocks, n_chunks, outs_per_task;
} sum_plan;

static inline int64_t dim_offset(const dim_list *d, int64_t position) {
    int64_t at = 0;
    for (int k = d->ndim - 1; k >= 0; k--) {
        at += position % d->dims[k] * d->strides[k];
        position /= d->dims[k];
    }
    return at;
}

static inline int64_t dim_count(const dim_list *d) {
    int64_t n = 1;
    for (int k = 0; k < d->ndim; k++) n *= d->dims[k];
    return n;
}

static inline void dim_push(dim_list *d, int64_t dim, int64_t stride) {
    d->dims[d->ndim] = dim;
    d->strides[d->ndim++] = stride;
}

/* The last two dims of d (and of `with`, if given) become one where their strides allow it. */
static inline void dim_merge(dim_list *d, dim_list *with) {
    int n = d->ndim;
    if (n < 2 || d->strides[n - 2] != d->strides[n - 1] * d->dims[n - 1]) return;
    if (with && with->strides[n - 2] != with->strides[n - 1] * with->dims[n - 1]) return;
    for (dim_list *l = d; l; l = l == d ? with : NULL) {
        l->dims[n - 2] *= l->dims[n - 1];
        l->strides[n - 2] = l->strides[n - 1];
        l->ndim--;
    }
}

static inline void sum_plan_make(sum_plan *p, const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0]; /* attr.stat begins as attr.reduce */
    *p = (sum_plan){.n_cols = 1};
    int next = 0, at_out = 0;
    for (int d = 0; d < x->ndim; d++) {
        bool summed = next < call->attr.reduce.n_dims && call->attr.reduce.dims[next] == d;
        next += summed;
        if (summed) {
            if (x->dims[d] != 1) dim_push(&p->red, x->dims[d], x->strides[d]);
            dim_merge(&p->red, NULL);
            at_out += call->attr.reduce.keepdim;
            continue;
        }
        if (x->dims[d] != 1) {
            dim_push(&p->kept, x->dims[d], x->strides[d]);
            dim_push(&p->kept_out, y->dims[at_out], y->strides[at_out]);
            dim_merge(&p->kept, &p->kept_out);
        }
        at_out++;
    }
    p->n_red = dim_count(&p->red);
    int last = p->kept.ndim - 1;
    if (last >= 0 && p->kept.strides[last] == 1 && p->kept.dims[last] >= COLUMN_MIN && p->n_red > 1) {
        p->n_cols = p->kept.dims[last];
        p->col_step_out = p->kept_out.strides[last];
        p->kept.ndim--;
        p->kept_out.ndim--;
        p->n_chunks = hx__ceil_div(p->n_cols, COLUMN_CHUNK);
    }
    p->n_out = dim_count(&p->kept);
    p->n_blocks = hx__max(1, hx__ceil_div(p->n_red, p->n_cols > 1 ? ROWS_BLOCK : SUM_BLOCK));
    p->outs_per_task = p->n_blocks > 1 ? 1 : hx__max(1, SUM_BLOCK / hx__max(1, p->n_red));
}

#endif

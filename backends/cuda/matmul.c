/* linear and matmul as calls of one product (gemm.h). Matrices are taken as they lie where one of their dims has stride 1: a
 * transposed operand is no copy. Others are copied to scratch first. Batch dims that lie evenly become one, a shared b
 * makes the batch more rows of one product; what batch dims remain beyond one are a loop over calls.
 */
#include "backends/cuda/gemm.h"

enum { A, B, C, N_MATRICES };

typedef struct product {
    hx_gemm g;
    hx_array matrix[N_MATRICES]; /* [..,m,k], [..,k,n], [..,m,n] */
    int n_dims; /* batch dims; those of size 1 are left out */
    int64_t dims[HX_MAX_DIMS], step[N_MATRICES][HX_MAX_DIMS];
} product;

/* Sizes and strides of a matrix, the last two dims of an array. */
typedef struct place {
    int64_t n_rows, n_cols, row, col;
} place;

static place place_of(const hx_array *a) {
    const int r = a->ndim - 2, c = a->ndim - 1;
    return (place){a->dims[r], a->dims[c], a->strides[r], a->strides[c]};
}

static hx_array transposed(const hx_array *a) {
    hx_array t = *a;
    const int r = a->ndim - 2, c = a->ndim - 1;
    t.dims[r] = a->dims[c], t.dims[c] = a->dims[r];
    t.strides[r] = a->strides[c], t.strides[c] = a->strides[r];
    return t;
}

/* True if the rows lie one after the other, each without gaps; the stride of a dim of size 1 is no matter. */
static bool has_rows(const place *p, int64_t *ld) {
    if ((p->n_cols > 1 && p->col != 1) || (p->n_rows > 1 && p->row < p->n_cols)) return false;
    *ld = p->n_rows > 1 ? p->row : p->n_cols;
    if (*ld < 1) *ld = 1;
    return true;
}

/* How gemm may read a matrix; false: not at all. */
static bool is_readable(const hx_array *a, bool *is_trans, int64_t *ld) {
    const hx_array t = transposed(a);
    const place rows = place_of(a), cols = place_of(&t);
    *is_trans = !has_rows(&rows, ld);
    return !*is_trans || has_rows(&cols, ld);
}

/* The array itself, or a dense copy, in which batch dims that repeat are not repeated. */
static hx_status make_readable(hx_cuda_stream *s, hx_array *a, bool *is_trans, int64_t *ld) {
    if (is_readable(a, is_trans, ld)) return HX_OK;
    for (int d = 0; d + 2 < a->ndim; d++)
        if (a->strides[d] == 0) a->dims[d] = 1;
    HX_TRY(hx__cuda_dense(s, a, a));
    (void)is_readable(a, is_trans, ld);
    return HX_OK;
}

/* Stride of an operand along batch dim d of C; dims that it lacks, or has with size 1, repeat. */
static int64_t batch_stride(const hx_array *a, const hx_array *c, int d) {
    const int own = d + a->ndim - c->ndim;
    return own >= 0 && a->dims[own] != 1 ? a->strides[own] : 0;
}

static void add_dim(product *p, int64_t size, const int64_t step[N_MATRICES]) {
    const int last = p->n_dims - 1;
    bool joins = last >= 0;
    for (int i = 0; i < N_MATRICES && joins; i++) joins = p->step[i][last] == size * step[i];
    const int at = joins ? last : p->n_dims++;
    p->dims[at] = joins ? p->dims[at] * size : size;
    for (int i = 0; i < N_MATRICES; i++) p->step[i][at] = step[i];
}

/* Batch dims, the last of which become rows of A and C where all their products share B. */
static void collect_dims(product *p) {
    const hx_array *c = &p->matrix[C];
    hx_gemm *g = &p->g;
    for (int d = 0; d + 2 < c->ndim; d++) {
        const int64_t step[N_MATRICES] = {batch_stride(&p->matrix[A], c, d), batch_stride(&p->matrix[B], c, d), c->strides[d]};
        if (c->dims[d] != 1) add_dim(p, c->dims[d], step);
    }
    for (int last = p->n_dims - 1; last >= 0 && !g->trans_a && p->step[B][last] == 0; last--) {
        if (p->step[A][last] != g->m * g->lda || p->step[C][last] != g->m * g->ldc) break;
        g->m *= p->dims[last];
        p->n_dims--;
    }
}

/* The last dim is gemm's batch, the others are counted through. */
static hx_status run_batches(hx_cuda_stream *s, product *p) {
    hx_gemm *g = &p->g;
    const int n_outer = p->n_dims > 0 ? p->n_dims - 1 : 0;
    const size_t in_bytes = hx_dtype_bytes(g->dtype), out_bytes = hx_dtype_bytes(g->out_dtype);
    int64_t n = 1;
    g->n_batch = p->n_dims > 0 ? p->dims[n_outer] : 1;
    g->stride_a = p->n_dims > 0 ? p->step[A][n_outer] : 0;
    g->stride_b = p->n_dims > 0 ? p->step[B][n_outer] : 0;
    g->stride_c = p->n_dims > 0 ? p->step[C][n_outer] : 0;
    for (int d = 0; d < n_outer; d++) n *= p->dims[d];
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, at[N_MATRICES] = {0};
        for (int d = n_outer - 1; d >= 0; d--) {
            for (int j = 0; j < N_MATRICES; j++) at[j] += rest % p->dims[d] * p->step[j][d];
            rest /= p->dims[d];
        }
        HX_TRY(hx__cuda_gemm(s, g, (const char *)p->matrix[A].data + (size_t)at[A] * in_bytes,
                             (const char *)p->matrix[B].data + (size_t)at[B] * in_bytes,
                             (char *)p->matrix[C].data + (size_t)at[C] * out_bytes));
    }
    return HX_OK;
}

/* C is written row by row: where it lies by columns, C^T = B^T A^T is asked for, and where it does neither, a copy is. */
static hx_status multiply(hx_cuda_stream *s, const hx_array *a, const hx_array *b, const hx_array *c, double alpha, bool accumulate,
                          const void *bias) {
    product p = {.g = {.dtype = a->dtype, .out_dtype = c->dtype, .alpha = alpha, .accumulate = accumulate, .bias = bias}};
    hx_gemm *g = &p.g;
    bool is_trans;
    bool is_direct = is_readable(c, &is_trans, &g->ldc) && !(is_trans && bias);
    const bool swaps = is_direct && is_trans;
    p.matrix[A] = swaps ? transposed(b) : *a;
    p.matrix[B] = swaps ? transposed(a) : *b;
    p.matrix[C] = swaps ? transposed(c) : *c;
    if (!is_direct) HX_TRY(hx__cuda_dense(s, c, &p.matrix[C])); /* with its contents, which may be added to */
    if (!is_direct) (void)is_readable(&p.matrix[C], &is_trans, &g->ldc);
    HX_TRY(make_readable(s, &p.matrix[A], &g->trans_a, &g->lda));
    HX_TRY(make_readable(s, &p.matrix[B], &g->trans_b, &g->ldb));
    const place at = place_of(&p.matrix[C]), left = place_of(&p.matrix[A]);
    g->m = at.n_rows, g->n = at.n_cols, g->k = left.n_cols;
    collect_dims(&p);
    HX_TRY(run_batches(s, &p));
    return is_direct ? HX_OK : hx__cuda_copy_array(s, &p.matrix[C], c);
}

hx_status hx__cuda_matmul(hx_cuda_stream *s, const hx_op_call *call) {
    return multiply(s, &call->in[0], &call->in[1], &call->out[0], call->attr.matmul.alpha, call->attr.matmul.accumulate, NULL);
}

/* A vector as a matrix of one row. */
static hx_array as_rows(const hx_array *a) {
    if (a->ndim > 1) return *a;
    return (hx_array){a->data, a->dtype, 2, {1, a->dims[0]}, {a->dims[0], a->strides[0]}};
}

hx_status hx__cuda_linear(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array x = as_rows(&call->in[0]), w = transposed(&call->in[1]), y = as_rows(&call->out[0]);
    const void *bias = NULL;
    if (call->n_in > 2 && !hx__cuda_absent(&call->in[2])) {
        hx_array dense = call->in[2];
        if (!hx_array_is_contiguous(&dense)) HX_TRY(hx__cuda_dense(s, &call->in[2], &dense));
        bias = dense.data;
    }
    return multiply(s, &x, &w, &y, 1, false, bias);
}

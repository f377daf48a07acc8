/* Products of tensors as tiles of matrix products, each computed by one call on one thread. The bits of Helix's own products do not
 * depend on tiles, so that there are as many as the threads want; for OpenBLAS the tiles' bounds follow from the shapes alone. So results do
 * not depend on the number of threads. Transposed views become
 * BLAS's flags; other strides are copied to scratch first. */
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "core/tensor/half.h"

enum {
    TILE_M = 1024, /* most rows and columns of a tile */
    TILE_N = 512,
    TILE_MIN = 96,   /* not cut below this */
    SLIVER_M = 12,   /* tiles are multiples of these */
    SLIVER_N = 32,
    TILES_WANTED = 16, /* of OpenBLAS, whose bits may depend on the tile: enough to keep some cores busy */
    TILES_A_THREAD = 4,
    BLAS_MOST = 3 /* rows or columns of a product that only streams a matrix: packing would cost more than it saves */
};

typedef struct product_plan {
    hx_gemm_shape shape; /* of one product */
    int n_batch;
    int64_t batch[HX_MAX_DIMS];
    int64_t batch_strides[3][HX_MAX_DIMS]; /* c, a, b */
    int64_t n_products;
    int64_t tile_m, tile_n, tiles_m, tiles_n;
} product_plan;

/* Replace a by a row-major copy in scratch. Dims that only repeat are not multiplied out. */
static hx_status to_scratch(hx_cpu *cpu, hx_array *a, bool keep_repeats) {
    hx_array small = *a, dense;
    for (int d = 0; d + 2 < a->ndim && keep_repeats; d++)
        if (small.strides[d] == 0 && small.dims[d] > 1) small.dims[d] = 1;
    dense = small;
    hx_shape shape = hx_array_shape(&small);
    hx_shape_strides(&shape, dense.strides);
    HX_TRY(hx__cpu_scratch_array(cpu, hx_array_count(&small), hx_dtype_bytes(a->dtype), &dense.data));
    HX_TRY(copy_array(cpu, &small, &dense));
    for (int d = 0; d < a->ndim; d++)
        if (small.dims[d] != a->dims[d]) dense.strides[d] = 0;
    memcpy(dense.dims, a->dims, sizeof dense.dims);
    *a = dense;
    return HX_OK;
}

static hx_status as_dense(hx_cpu *cpu, hx_array *a) {
    return hx_array_is_contiguous(a) ? HX_OK : to_scratch(cpu, a, false);
}

/* A matrix whose columns are next to each other and whose rows do not overlap. */
static bool is_row_major(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
    return (cols <= 1 || col_stride == 1) && (rows <= 1 || row_stride >= cols) && row_stride >= 0;
}

static bool rows_are_dense(const hx_array *a) {
    int n = a->ndim;
    return is_row_major(a->dims[n - 2], a->dims[n - 1], a->strides[n - 2], a->strides[n - 1]);
}

static bool is_transposed(const hx_array *a) {
    int n = a->ndim;
    return is_row_major(a->dims[n - 1], a->dims[n - 2], a->strides[n - 1], a->strides[n - 2]);
}

/* Make the last two dims something BLAS takes. */
static hx_status as_matrix(hx_cpu *cpu, hx_array *a, bool may_transpose) {
    if (rows_are_dense(a) || (may_transpose && is_transposed(a))) return HX_OK;
    return to_scratch(cpu, a, may_transpose);
}

/* Fold all dims but the last into rows of one matrix. */
static hx_status fold_rows(hx_cpu *cpu, hx_array *a) {
    int64_t n_rows, n_cols, stride = 0, next = 0;
    hx__cpu_rows(a, &n_rows, &n_cols);
    int last = a->ndim - 1;
    bool folds = n_cols <= 1 || a->strides[last] == 1;
    for (int d = last - 1; d >= 0; d--) {
        if (a->dims[d] == 1) continue;
        folds = folds && (stride == 0 ? a->strides[d] >= n_cols : a->strides[d] == next);
        if (stride == 0) stride = a->strides[d];
        next = a->strides[d] * a->dims[d];
    }
    if (n_rows > 0 && !folds) {
        HX_TRY(to_scratch(cpu, a, false));
        stride = n_cols;
    }
    a->ndim = 2;
    a->dims[0] = n_rows;
    a->dims[1] = n_cols;
    a->strides[0] = stride ? stride : n_cols;
    a->strides[1] = 1;
    return HX_OK;
}

/* Leading dim that BLAS accepts: at least the row's length, also where there is only one row. */
static int64_t leading(int64_t stride, int64_t rows, int64_t cols) {
    return rows > 1 ? stride : hx__max(1, cols);
}

static void plan_matrix(const hx_array *a, bool *transposed, int64_t *ld) {
    int64_t rows = a->dims[a->ndim - 2], cols = a->dims[a->ndim - 1];
    *transposed = !rows_are_dense(a);
    *ld = *transposed ? leading(a->strides[a->ndim - 1], cols, rows) : leading(a->strides[a->ndim - 2], rows, cols);
}

static void plan_batch(product_plan *p, const hx_array *arrays[3]) {
    const hx_array *c = arrays[0];
    p->n_products = 1;
    for (int d = 0; d + 2 < c->ndim; d++) {
        p->batch[d] = c->dims[d];
        p->n_products *= c->dims[d];
        for (int k = 0; k < 3; k++) {
            int own = d - (c->ndim - arrays[k]->ndim);
            p->batch_strides[k][d] = own < 0 || arrays[k]->dims[own] == 1 ? 0 : arrays[k]->strides[own];
        }
    }
    p->n_batch = c->ndim - 2;
}

/* One tall product instead of a batch, where b is the same for all and the rows of a and c run on. */
static void fold_batch(product_plan *p) {
    while (p->n_batch > 0 && !p->shape.ta) {
        int d = p->n_batch - 1;
        int64_t m = p->shape.m;
        if (p->batch_strides[2][d] != 0 || m < 1 || p->batch_strides[1][d] != m * p->shape.lda ||
            p->batch_strides[0][d] != m * p->shape.ldc)
            return;
        p->shape.m *= p->batch[d];
        if (p->batch[d] > 0) p->n_products /= p->batch[d];
        p->n_batch--;
    }
}

static void plan_matmul(product_plan *p, const hx_array *a, const hx_array *b, const hx_array *c) {
    *p = (product_plan){0};
    p->shape = (hx_gemm_shape){.m = a->dims[a->ndim - 2], .k = a->dims[a->ndim - 1], .n = b->dims[b->ndim - 1]};
    plan_matrix(a, &p->shape.ta, &p->shape.lda);
    plan_matrix(b, &p->shape.tb, &p->shape.ldb);
    p->shape.ldc = leading(c->strides[c->ndim - 2], p->shape.m, p->shape.n);
    plan_batch(p, (const hx_array *[3]){c, a, b});
    fold_batch(p);
}

/* Even parts of at most `most`, whole slivers of every instruction set. */
static int64_t part_of(int64_t n, int64_t most, int64_t sliver) {
    int64_t even = hx__ceil_div(n, hx__max(1, hx__ceil_div(n, most)));
    return hx__max(sliver, hx__ceil_div(even, sliver) * sliver);
}

/* A tile packs its columns of b once for all its rows, while rows of a are read in place unless a is transposed:
 * so tiles are tall, and square for a transposed a. */
static void plan_tiles(product_plan *p, int n_tiles_wanted) {
    int64_t m = p->shape.m, n = p->shape.n, aspect = p->shape.ta ? 1 : 8;
    p->tile_m = part_of(m, TILE_M, SLIVER_M);
    p->tile_n = part_of(n, TILE_N, SLIVER_N);
    for (;;) {
        p->tiles_m = hx__ceil_div(m, p->tile_m);
        p->tiles_n = hx__ceil_div(n, p->tile_n);
        if ((double)p->n_products * (double)p->tiles_m * (double)p->tiles_n >= n_tiles_wanted) return;
        if (p->tile_n >= 2 * TILE_MIN && p->tile_n * aspect >= p->tile_m)
            p->tile_n = part_of(p->tile_n, hx__ceil_div(p->tile_n, 2), SLIVER_N);
        else if (p->tile_m >= 2 * TILE_MIN)
            p->tile_m = part_of(p->tile_m, hx__ceil_div(p->tile_m, 2), SLIVER_M);
        else
            return;
    }
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/matmul.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/matmul.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/matmul.inc"

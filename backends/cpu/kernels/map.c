/* The elementwise engine. The operands' dims are merged where all of them allow it; what remains is walked in
 * fixed blocks of elements. Inside a block, operands that are dense over the run at hand are passed to the
 * function as they are; the others are gathered into (or scattered from) buffers that stay in the first-level
 * cache. So each op is one simple loop over dense memory, and all strides and broadcasts work. */
#include <string.h>
#include "backends/cpu/kernels/kernels.h"

enum {
    BLOCK = 16384, /* elements of a task */
    CHUNK = 512,   /* elements that pass through a buffer at once */
    ROW_MIN = 32   /* shorter rows are walked element by element */
};

typedef struct map_plan {
    int n_arrays, ndim;
    int64_t count;
    int64_t dims[HX_MAX_DIMS];
    int64_t strides[HX_MAP_ARRAYS][HX_MAX_DIMS];
    size_t bytes[HX_MAP_ARRAYS]; /* of an element */
    char *data[HX_MAP_ARRAYS];
    bool is_dense[HX_MAP_ARRAYS]; /* all of it */
    hx_map_fn fn;
    const void *param;
} map_plan;

/* Stride of array a along dim d of the output: right-aligned, 0 where it repeats. */
static int64_t stride_at(const hx_array *out, const hx_array *a, int d) {
    int own = d - (out->ndim - a->ndim);
    return own < 0 || (a->dims[own] == 1 && out->dims[d] != 1) ? 0 : a->strides[own];
}

static bool can_merge(const map_plan *p, const int64_t *strides, int64_t dim) {
    for (int k = 0; k < p->n_arrays; k++)
        if (p->strides[k][p->ndim - 1] != strides[k] * dim) return false;
    return true;
}

static void add_dim(map_plan *p, const int64_t *strides, int64_t dim) {
    if (dim == 1) return;
    if (p->ndim > 0 && can_merge(p, strides, dim))
        p->dims[p->ndim - 1] *= dim;
    else
        p->dims[p->ndim++] = dim;
    for (int k = 0; k < p->n_arrays; k++) p->strides[k][p->ndim - 1] = strides[k];
}

static void plan_make(map_plan *p, int n_arrays, const hx_array *arrays) {
    const hx_array *out = &arrays[0];
    p->n_arrays = n_arrays;
    p->ndim = 0;
    p->count = hx_array_count(out);
    for (int k = 0; k < n_arrays; k++) {
        p->bytes[k] = hx_dtype_bytes(arrays[k].dtype);
        p->data[k] = arrays[k].data;
    }
    for (int d = 0; d < out->ndim; d++) {
        int64_t strides[HX_MAP_ARRAYS];
        for (int k = 0; k < n_arrays; k++) strides[k] = stride_at(out, &arrays[k], d);
        add_dim(p, strides, out->dims[d]);
    }
    for (int k = 0; k < n_arrays; k++)
        p->is_dense[k] = p->ndim == 0 || (p->ndim == 1 && p->strides[k][0] == 1);
    if (p->ndim == 0) { /* one element */
        p->ndim = 1;
        p->dims[0] = 1;
        for (int k = 0; k < n_arrays; k++) p->strides[k][0] = 1;
    }
    /* an operand can be dense although another one keeps the dims apart */
    for (int k = 0; k < n_arrays; k++) {
        int64_t want = 1;
        bool dense = true;
        for (int d = p->ndim - 1; d >= 0; d--) {
            dense = dense && p->strides[k][d] == want;
            want *= p->dims[d];
        }
        p->is_dense[k] = p->is_dense[k] || dense;
    }
}

static int64_t offset_of(const map_plan *p, int k, const int64_t *index) {
    int64_t at = 0;
    for (int d = 0; d < p->ndim; d++) at += index[d] * p->strides[k][d];
    return at;
}

static void index_of(const map_plan *p, int64_t at, int64_t *index) {
    for (int d = p->ndim - 1; d >= 0; d--) {
        index[d] = at % p->dims[d];
        at /= p->dims[d];
    }
}

#define MOVE(type, to, to_stride, from, from_stride, n)                                                      \
    do {                                                                                                     \
        type *to_ = (type *)(to);                                                                            \
        const type *from_ = (const type *)(from);                                                            \
        for (int64_t i_ = 0; i_ < (n); i_++) to_[i_ * (to_stride)] = from_[i_ * (from_stride)];              \
    } while (0)

static void move(size_t bytes, void *to, int64_t to_stride, const void *from, int64_t from_stride, int64_t n) {
    switch (bytes) {
    case 1: MOVE(uint8_t, to, to_stride, from, from_stride, n); break;
    case 4: MOVE(uint32_t, to, to_stride, from, from_stride, n); break;
    default: MOVE(uint64_t, to, to_stride, from, from_stride, n); break;
    }
}

/* Move n elements between a buffer and array k from position `at` on, row piece by row piece. */
static void move_run(const map_plan *p, int k, int64_t at, int64_t n, char *buffer, bool gather) {
    int64_t index[HX_MAX_DIMS], last = p->ndim - 1, stride = p->strides[k][last];
    index_of(p, at, index);
    size_t bytes = p->bytes[k];
    while (n > 0) {
        int64_t run = hx__min(n, p->dims[last] - index[last]);
        char *data = p->data[k] + offset_of(p, k, index) * (int64_t)bytes;
        if (gather)
            move(bytes, buffer, 1, data, stride, run);
        else
            move(bytes, data, stride, buffer, 1, run);
        buffer += run * (int64_t)bytes;
        n -= run;
        index[last] += run;
        for (int64_t d = last; d > 0 && index[d] == p->dims[d]; d--) {
            index[d] = 0;
            index[d - 1]++;
        }
    }
}

/* One run of n elements at `at`; with by_row it lies within a row, whose dense operands need no buffer. */
static void map_run(const map_plan *p, int64_t at, int64_t n, bool by_row) {
    _Alignas(64) char buffer[HX_MAP_ARRAYS][CHUNK * 8];
    int64_t index[HX_MAX_DIMS], last = p->ndim - 1;
    void *ptr[HX_MAP_ARRAYS];
    bool buffered[HX_MAP_ARRAYS];
    index_of(p, at, index);
    for (int k = 0; k < p->n_arrays; k++) {
        bool dense = p->is_dense[k] || (by_row && p->strides[k][last] == 1);
        buffered[k] = !dense;
        ptr[k] = dense ? p->data[k] + offset_of(p, k, index) * (int64_t)p->bytes[k] : buffer[k];
        if (!dense && k > 0) move_run(p, k, at, n, buffer[k], true);
    }
    p->fn(n, ptr, p->param);
    if (buffered[0]) move_run(p, 0, at, n, buffer[0], false);
}

static void map_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const map_plan *p = arg;
    int64_t at = task * BLOCK, end = hx__min(at + BLOCK, p->count), inner = p->dims[p->ndim - 1];
    bool by_row = inner >= ROW_MIN, all_dense = true, row_dense = true;
    for (int k = 0; k < p->n_arrays; k++) {
        all_dense &= p->is_dense[k];
        row_dense &= p->is_dense[k] || p->strides[k][p->ndim - 1] == 1;
    }
    while (at < end) {
        int64_t n = end - at;
        if (!all_dense && by_row) n = hx__min(n, inner - at % inner);
        if (!all_dense && !(by_row && row_dense)) n = hx__min(n, CHUNK);
        map_run(p, at, n, by_row);
        at += n;
    }
}

hx_status HX_K(map)(hx_cpu *cpu, int n_arrays, const hx_array *arrays, hx_map_fn fn, const void *param, double cost) {
    map_plan p;
    plan_make(&p, n_arrays, arrays);
    if (p.count == 0) return HX_OK;
    p.fn = fn;
    p.param = param;
    hx__cpu_run(cpu, hx__ceil_div(p.count, BLOCK), cost * (double)p.count, map_task, &p);
    return HX_OK;
}

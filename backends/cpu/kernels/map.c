/* The elementwise engine. The operands' dims are merged where all of them allow it; what remains is walked in
 * fixed blocks of elements. Inside a block, operands that are dense over the run at hand are passed to the
 * function as they are; the others are gathered into (or scattered from) buffers that stay in the first-level
 * cache. So each op is one simple loop over dense memory, and all strides and broadcasts work. Half types are
 * widened to f32 on the way into a buffer and rounded on the way out. */
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "core/tensor/half.h"

enum {
    BLOCK = 16384, /* elements of a task */
    CHUNK = 512,   /* elements that pass through a buffer at once */
    ROW_MIN = 32   /* shorter rows are walked element by element */
};

typedef struct map_plan {
    int n_out, n_arrays, ndim;
    int64_t count;
    int64_t dims[HX_MAX_DIMS];
    int64_t strides[HX_MAP_ARRAYS][HX_MAX_DIMS];
    size_t bytes[HX_MAP_ARRAYS]; /* of an element */
    char *data[HX_MAP_ARRAYS];
    bool is_dense[HX_MAP_ARRAYS];  /* all of it */
    hx_dtype widens[HX_MAP_ARRAYS]; /* the half type that fn sees as f32; else HX_F32 */
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

static void plan_make(map_plan *p, int n_out, int n_arrays, const hx_array *arrays, bool widens) {
    const hx_array *out = &arrays[0];
    p->n_out = n_out;
    p->n_arrays = n_arrays;
    p->ndim = 0;
    p->count = hx_array_count(out);
    for (int k = 0; k < n_arrays; k++) {
        p->bytes[k] = hx_dtype_bytes(arrays[k].dtype);
        p->data[k] = arrays[k].data;
        p->widens[k] = widens && hx_dtype_is_half(arrays[k].dtype) ? arrays[k].dtype : HX_F32;
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

/* An element of c128. */
typedef struct pair {
    uint64_t word[2];
} pair;

static void move(size_t bytes, void *to, int64_t to_stride, const void *from, int64_t from_stride, int64_t n) {
    switch (bytes) {
    case 1: MOVE(uint8_t, to, to_stride, from, from_stride, n); break;
    case 2: MOVE(uint16_t, to, to_stride, from, from_stride, n); break;
    case 4: MOVE(uint32_t, to, to_stride, from, from_stride, n); break;
    case 8: MOVE(uint64_t, to, to_stride, from, from_stride, n); break;
    default: MOVE(pair, to, to_stride, from, from_stride, n); break;
    }
}

/* Half types to f32 and back, by the functions of half.h. A loop of its own for dense elements becomes vector code. */
#define CONVERT(to, to_stride, from, from_stride, n, how)                                                    \
    do {                                                                                                     \
        if ((to_stride) == 1 && (from_stride) == 1)                                                          \
            _Pragma("omp simd") for (int64_t i_ = 0; i_ < (n); i_++)(to)[i_] = how((from)[i_]);              \
        else                                                                                                 \
            for (int64_t i_ = 0; i_ < (n); i_++) (to)[i_ * (to_stride)] = how((from)[i_ * (from_stride)]);   \
    } while (0)

static void widen(hx_dtype dtype, float *restrict to, const uint16_t *restrict from, int64_t stride, int64_t n) {
    if (dtype == HX_BF16)
        CONVERT(to, 1, from, stride, n, hx__bf16_value);
    else
        CONVERT(to, 1, from, stride, n, hx__f16_value);
}

static void narrow(hx_dtype dtype, uint16_t *restrict to, int64_t stride, const float *restrict from, int64_t n) {
    if (dtype == HX_BF16)
        CONVERT(to, stride, from, 1, n, hx__bf16_bits);
    else
        CONVERT(to, stride, from, 1, n, hx__f16_bits);
}

/* n elements of array k from `data` on to a buffer, or back. */
static void move_piece(const map_plan *p, int k, void *data, int64_t stride, void *buffer, bool gather, int64_t n) {
    bool is_wide = p->widens[k] != HX_F32;
    if (gather && is_wide)
        widen(p->widens[k], buffer, data, stride, n);
    else if (gather)
        move(p->bytes[k], buffer, 1, data, stride, n);
    else if (is_wide)
        narrow(p->widens[k], data, stride, buffer, n);
    else
        move(p->bytes[k], data, stride, buffer, 1, n);
}

/* Move n elements between a buffer and array k from position `at` on, row piece by row piece. */
static void move_run(const map_plan *p, int k, int64_t at, int64_t n, char *buffer, bool gather) {
    int64_t index[HX_MAX_DIMS], last = p->ndim - 1, stride = p->strides[k][last];
    index_of(p, at, index);
    size_t in_buffer = p->widens[k] != HX_F32 ? sizeof(float) : p->bytes[k];
    if (p->is_dense[k]) { /* and of a half type */
        move_piece(p, k, p->data[k] + at * (int64_t)p->bytes[k], 1, buffer, gather, n);
        return;
    }
    while (n > 0) {
        int64_t run = hx__min(n, p->dims[last] - index[last]);
        char *data = p->data[k] + offset_of(p, k, index) * (int64_t)p->bytes[k];
        move_piece(p, k, data, stride, buffer, gather, run);
        buffer += run * (int64_t)in_buffer;
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
    _Alignas(64) char buffer[HX_MAP_ARRAYS][CHUNK * sizeof(pair)];
    int64_t index[HX_MAX_DIMS], last = p->ndim - 1;
    void *ptr[HX_MAP_ARRAYS];
    bool buffered[HX_MAP_ARRAYS];
    index_of(p, at, index);
    for (int k = 0; k < p->n_arrays; k++) {
        bool dense = (p->is_dense[k] || (by_row && p->strides[k][last] == 1)) && p->widens[k] == HX_F32;
        buffered[k] = !dense;
        ptr[k] = dense ? p->data[k] + offset_of(p, k, index) * (int64_t)p->bytes[k] : buffer[k];
        if (!dense && k >= p->n_out) move_run(p, k, at, n, buffer[k], true);
    }
    p->fn(n, ptr, p->param);
    for (int k = 0; k < p->n_out; k++)
        if (buffered[k]) move_run(p, k, at, n, buffer[k], false);
}

static void map_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const map_plan *p = arg;
    int64_t at = task * BLOCK, end = hx__min(at + BLOCK, p->count), inner = p->dims[p->ndim - 1];
    bool by_row = inner >= ROW_MIN, all_dense = true, row_dense = true;
    for (int k = 0; k < p->n_arrays; k++) {
        bool as_it_is = p->widens[k] == HX_F32;
        all_dense &= as_it_is && p->is_dense[k];
        row_dense &= as_it_is && (p->is_dense[k] || p->strides[k][p->ndim - 1] == 1);
    }
    while (at < end) {
        int64_t n = end - at;
        if (!all_dense && by_row) n = hx__min(n, inner - at % inner);
        if (!all_dense && !(by_row && row_dense)) n = hx__min(n, CHUNK);
        map_run(p, at, n, by_row);
        at += n;
    }
}

static hx_status map(hx_cpu *cpu, map_plan *p, hx_map_fn fn, const void *param, double cost) {
    if (p->count == 0) return HX_OK;
    p->fn = fn;
    p->param = param;
    hx__cpu_run(cpu, hx__ceil_div(p->count, BLOCK), cost * (double)p->count, map_task, p);
    return HX_OK;
}

hx_status HX_K(map)(hx_cpu *cpu, int n_out, int n_arrays, const hx_array *arrays, hx_map_fn fn, const void *param,
                    double cost) {
    map_plan p;
    plan_make(&p, n_out, n_arrays, arrays, true);
    return map(cpu, &p, fn, param, cost);
}

hx_status HX_K(map_stored)(hx_cpu *cpu, int n_arrays, const hx_array *arrays, hx_map_fn fn, const void *param,
                           double cost) {
    map_plan p;
    plan_make(&p, 1, n_arrays, arrays, false);
    return map(cpu, &p, fn, param, cost);
}

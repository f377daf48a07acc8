/* Elements wherever they lie: positions of strided operands, packs of 16 bytes, and elements of a dtype that is known when
 * the kernel runs.
 *
 *     hx_walk<2> w = hx_walk_make<2>({&call->out[0], &call->in[0]});      // on the host: dims are merged where they can be
 *     int64_t at[2];
 *     hx_walk_at(w, i, at);                                               // in the kernel: offsets of the i-th element
 *     hx_store_as(y.dtype, y.data, at[0], hx_load_as<float>(x.dtype, x.data, at[1]));
 */
#ifndef HX_BACKENDS_CUDA_WALK_CUH
#define HX_BACKENDS_CUDA_WALK_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backends/cuda/port.cuh"

/* Enough warps to hide the memory's latency with 32 registers a thread, and few enough threads to a block that the last
 * wave is short. */
#define HX_BLOCK 256
/* Blocks for each multiprocessor in a grid whose threads go on in strides: four waves of the eight that fit. */
#define HX_BLOCKS_PER_SM 32

/** Blocks of a grid of n_tasks, one to a block, whose blocks go on in strides of the grid. n_tasks > 0. */
static inline dim3 hx_grid(const hx_cuda_stream *s, int64_t n_tasks) {
    return dim3((unsigned)hx__cuda_min(n_tasks, (int64_t)s->device->n_sms * HX_BLOCKS_PER_SM));
}

/* ---- positions ---- */

/* K operands over one shape, in row-major order of positions. */
template <int K> struct hx_walk {
    int ndim; /* at least 1 */
    int64_t count;
    int64_t dims[HX_MAX_DIMS];
    int64_t strides[K][HX_MAX_DIMS]; /* elements; 0 repeats */
};

template <int K> hx_walk<K> hx_walk_empty(void) {
    hx_walk<K> w = {};
    w.ndim = w.count = w.dims[0] = 1;
    return w;
}

/** Append a dim; it becomes one with the last where all operands run on evenly. */
template <int K> void hx_walk_push(hx_walk<K> *w, int64_t dim, const int64_t (&strides)[K]) {
    bool runs_on = true;
    if (dim == 1) return;
    for (int k = 0; k < K; k++) runs_on = runs_on && w->strides[k][w->ndim - 1] == strides[k] * dim;
    /* the first dim of a walk that was empty is 1 and holds nothing */
    if (w->dims[w->ndim - 1] == 1) w->dims[w->ndim - 1] = dim;
    else if (runs_on) w->dims[w->ndim - 1] *= dim;
    else w->dims[w->ndim++] = dim;
    for (int k = 0; k < K; k++) w->strides[k][w->ndim - 1] = strides[k];
    w->count *= dim;
}

/** Take the last dim away. */
template <int K> void hx_walk_pop(hx_walk<K> *w) {
    w->count /= w->dims[w->ndim - 1];
    if (w->ndim > 1) w->ndim--;
    else *w = hx_walk_empty<K>();
}

/** Over the shape of arrays[0], to which the others broadcast. */
template <int K> hx_walk<K> hx_walk_make(const hx_array *const (&arrays)[K]) {
    const hx_array *out = arrays[0];
    hx_walk<K> w = hx_walk_empty<K>();
    for (int d = 0; d < out->ndim; d++) {
        int64_t strides[K];
        for (int k = 0; k < K; k++) {
            const int own = d - (out->ndim - arrays[k]->ndim);
            const bool repeats = own < 0 || (arrays[k]->dims[own] == 1 && out->dims[d] != 1);
            strides[k] = repeats ? 0 : arrays[k]->strides[own];
        }
        hx_walk_push(&w, out->dims[d], strides);
    }
    return w;
}

template <int K, class I> __device__ __forceinline__ void hx_walk_split(const hx_walk<K> &w, I i, int64_t (&at)[K]) {
    for (int k = 0; k < K; k++) at[k] = 0;
    for (int d = w.ndim - 1; d > 0; d--) {
        const I size = (I)w.dims[d], rest = i / size, index = i - rest * size;
        for (int k = 0; k < K; k++) at[k] += (int64_t)index * w.strides[k][d];
        i = rest;
    }
    for (int k = 0; k < K; k++) at[k] += (int64_t)i * w.strides[k][0];
}

/** Offsets of the i-th position. Division of 64 bits takes four times as long as that of 32, which do for most shapes. */
template <int K> __device__ __forceinline__ void hx_walk_at(const hx_walk<K> &w, int64_t i, int64_t (&at)[K]) {
    if (w.count <= UINT32_MAX) hx_walk_split<K, uint32_t>(w, (uint32_t)i, at);
    else hx_walk_split<K, int64_t>(w, i, at);
}

/* ---- packs ---- */

/* What one load or store instruction moves, 16 bytes at most. */
template <class T, int V = 16 / (int)sizeof(T)> struct alignas(sizeof(T) * V) hx_pack {
    T v[V];
};

static inline bool hx_is_aligned(const void *p, size_t n_bytes) { return (uintptr_t)p % n_bytes == 0; }

/* ---- elements of a dtype known at run time: the branch is the same for all threads ---- */

template <class A> __device__ __forceinline__ A hx_load_as(hx_dtype dtype, const void *data, int64_t at);
template <> __device__ __forceinline__ float hx_load_as<float>(hx_dtype dtype, const void *data, int64_t at) {
    if (dtype == HX_BF16) return hx_load(((const __nv_bfloat16 *)data)[at]);
    if (dtype == HX_F16) return hx_load(((const __half *)data)[at]);
    return ((const float *)data)[at];
}
template <> __device__ __forceinline__ double hx_load_as<double>(hx_dtype dtype, const void *data, int64_t at) {
    return dtype == HX_F64 ? ((const double *)data)[at] : (double)hx_load_as<float>(dtype, data, at);
}
template <> __device__ __forceinline__ int64_t hx_load_as<int64_t>(hx_dtype dtype, const void *data, int64_t at) {
    switch (dtype) {
    case HX_I64: return ((const int64_t *)data)[at];
    case HX_I32: return ((const int32_t *)data)[at];
    case HX_I8: return ((const int8_t *)data)[at];
    default: return ((const uint8_t *)data)[at]; /* u8, bool */
    }
}

/* x in f32, inexact values rounded to odd: rounding that to a half type is then rounding x to it once (Boldo & Melquiond
 * 2008, "Emulation of FMA and correctly rounded sums"), as f32 has more than two bits in excess of either. */
__device__ __forceinline__ float hx_round_to_odd(double x) {
    const float near = (float)x;
    uint32_t bits;
    if ((double)near == x || x != x) return near;
    memcpy(&bits, &near, sizeof bits);
    if (fabs((double)near) > fabs(x)) bits--; /* towards zero */
    bits |= 1;
    float odd;
    memcpy(&odd, &bits, sizeof odd);
    return odd;
}

__device__ __forceinline__ void hx_store_as(hx_dtype dtype, void *data, int64_t at, float x) {
    if (dtype == HX_BF16) hx_store((__nv_bfloat16 *)data + at, x);
    else if (dtype == HX_F16) hx_store((__half *)data + at, x);
    else ((float *)data)[at] = x;
}
__device__ __forceinline__ void hx_store_as(hx_dtype dtype, void *data, int64_t at, double x) {
    if (dtype == HX_F64) ((double *)data)[at] = x;
    else if (dtype == HX_F32) ((float *)data)[at] = (float)x;
    else hx_store_as(dtype, data, at, hx_round_to_odd(x));
}
/* of comparisons */
__device__ __forceinline__ void hx_store_as(hx_dtype, void *data, int64_t at, bool x) { ((uint8_t *)data)[at] = x; }

#endif

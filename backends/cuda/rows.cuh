/* What kernels over rows share: elements in packs of 16 bytes, operands of more than one type, and the threads of a row.
 *
 * The threads with one threadIdx.y work on a row together: a warp where a row is short, else a whole block. Thread x takes
 * the packs x, x + blockDim.x, ..: neighbours read neighbours, and each element is read and written by one thread, so that
 * an output may be the memory of an operand of the same type. blockDim.y rows share a block.
 *
 *     const hx_rows rows = hx_rows_of(n_rows, n_cols, V);
 *     HX_TRY(hx_launch(s, "scale", rows.grid, rows.block, 0, scale<T, V>, x, y, n_rows, n_cols));
 *     ...
 *     for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step())
 *         for (int64_t c = (int64_t)threadIdx.x * V; c < n_cols; c += (int64_t)blockDim.x * V) ...
 */
#ifndef HX_BACKENDS_CUDA_ROWS_CUH
#define HX_BACKENDS_CUDA_ROWS_CUH

#include <initializer_list>
#include <math.h>
#include <stdint.h>

#include "backends/cuda/port.cuh"

/* ---- packs: V elements, loaded and stored by 16 bytes ---- */

template <class T> struct hx_pack_of { enum { width = 16 / sizeof(T) }; };

template <class T, int V> struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) hx_pack { T item[V]; };

template <int V, class T, class A> __device__ __forceinline__ void hx_pack_load(const T *p, A (&x)[V]) {
    const hx_pack<T, V> pack = *reinterpret_cast<const hx_pack<T, V> *>(p);
    for (int i = 0; i < V; i++) x[i] = hx_load(pack.item[i]);
}
template <int V, class T, class A> __device__ __forceinline__ void hx_pack_store(T *p, const A (&x)[V]) {
    hx_pack<T, V> pack;
    for (int i = 0; i < V; i++) hx_store(&pack.item[i], x[i]);
    *reinterpret_cast<hx_pack<T, V> *>(p) = pack;
}

/** Whether dense rows of n_cols elements T at these addresses (NULL: none) are made of whole packs. */
template <class T> bool hx_is_packed(int64_t n_cols, std::initializer_list<const void *> rows) {
    uintptr_t bits = 0;
    for (const void *p : rows) bits |= (uintptr_t)p;
    return bits % 16 == 0 && n_cols % hx_pack_of<T>::width == 0;
}

/* ---- operands ---- */

/* An output of the operands' type T, or of f32 where that is a half type: its values are then not rounded. */
template <class T> struct hx_out {
    typedef hx_accum_t<T> A;
    T *narrow;
    A *wide; /* both NULL: not wanted */

    __host__ __device__ bool is_wanted() const { return narrow != NULL || wide != NULL; }
    __host__ __device__ const void *address() const { return wide ? (const void *)wide : (const void *)narrow; }

    /** [at..at+V-1] = x, or += x */
    template <int V> __device__ __forceinline__ void put(int64_t at, const A (&x)[V], bool accumulate) const {
        A sum[V];
        for (int i = 0; i < V; i++) sum[i] = 0;
        if (accumulate && wide) hx_pack_load(wide + at, sum);
        if (accumulate && !wide) hx_pack_load(narrow + at, sum);
        for (int i = 0; i < V; i++) sum[i] = accumulate ? sum[i] + x[i] : x[i];
        if (wide) hx_pack_store(wide + at, sum);
        else hx_pack_store(narrow + at, sum);
    }
};

template <class T> hx_out<T> hx_out_of(const hx_array *a) {
    hx_out<T> out = {NULL, NULL};
    if (hx__cuda_absent(a)) return out;
    if (hx_dtype_is_half(a->dtype)) out.narrow = static_cast<T *>(a->data);
    else out.wide = static_cast<hx_accum_t<T> *>(a->data);
    return out;
}

/* Integers of either type. */
struct hx_ids {
    const int32_t *narrow;
    const int64_t *wide;
    __device__ __forceinline__ int64_t at(int64_t i) const { return wide ? wide[i] : (int64_t)narrow[i]; }
};

static inline hx_ids hx_ids_of(const hx_array *a) {
    hx_ids ids = {NULL, NULL};
    if (a->dtype == HX_I64) ids.wide = static_cast<const int64_t *>(a->data);
    else ids.narrow = static_cast<const int32_t *>(a->data);
    return ids;
}

/* hx_part_knows and hx_part_has, for kernels. */
__device__ __forceinline__ bool hx_is_known(const hx_part &part, int64_t id) { return id >= 0 && id < part.total; }
__device__ __forceinline__ bool hx_is_here(const hx_part &part, int64_t id) { return id >= part.start && id - part.start < part.n; }

/* ---- the threads of a row ---- */

struct hx_rows {
    dim3 grid, block; /* block: threads of a row, rows of a block */
};

/* Eight warps to a block: enough to fill an SM with few blocks, and barriers of a row's own block stay short. A warp has up
 * to eight packs a lane to load at once, a block of 256 or 512 as many or more; a longer row is not worth more threads, as
 * the memory has enough requests by then. */
enum { HX_ROW_THREADS = 256, HX_ROW_WARPS = HX_ROW_THREADS / HX_WARP, HX_ROW_PACKS = 8, HX_ROW_GRID = 1 << 30 };

/** n_rows > 0, in packs of V. */
static inline hx_rows hx_rows_of(int64_t n_rows, int64_t n_cols, int V) {
    const int64_t n_packs = n_cols / V;
    hx_rows rows;
    if (n_packs <= HX_WARP * HX_ROW_PACKS) rows.block = dim3(HX_WARP, HX_ROW_WARPS);
    else rows.block = dim3(n_packs <= HX_ROW_THREADS * HX_ROW_PACKS ? HX_ROW_THREADS : 2 * HX_ROW_THREADS, 1);
    rows.grid = dim3((unsigned)hx__cuda_min(hx__cuda_ceil_div(n_rows, rows.block.y), HX_ROW_GRID));
    return rows;
}

__device__ __forceinline__ int64_t hx_row_first() { return (int64_t)blockIdx.x * blockDim.y + threadIdx.y; }
__device__ __forceinline__ int64_t hx_row_step() { return (int64_t)gridDim.x * blockDim.y; }

/** Over the threads of a row, in one order; each of them gets it. */
template <class A> __device__ __forceinline__ A hx_row_sum(A x) { return blockDim.x == HX_WARP ? hx_warp_sum(x) : hx_block_sum(x); }
template <class A> __device__ __forceinline__ A hx_row_max(A x) { return blockDim.x == HX_WARP ? hx_warp_max(x) : hx_block_max(x); }

/* What exponents are shifted by: a maximum of -inf is that of no finite element, whose exponentials are 0. */
template <class A> __device__ __forceinline__ A hx_exp_shift(A max) { return max == -(A)INFINITY ? (A)0 : max; }

/** Maximum of a row x [n_cols] and sum e^(x - max), in one pass: a thread's sum is scaled anew, once a pack, when its maximum
 *  rises (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"). The sum is NaN, as is that of
 *  e^(x - max), where x has a NaN or +inf or nothing but -inf. */
template <int V, class T, class A> __device__ __forceinline__ void hx_row_expsum(const T *x, int64_t n_cols, A *row_max, A *row_sum) {
    A max = -(A)INFINITY, sum = 0;
    for (int64_t c = (int64_t)threadIdx.x * V; c < n_cols; c += (int64_t)blockDim.x * V) {
        A z[V], most = max;
        hx_pack_load(x + c, z);
        for (int i = 0; i < V; i++) most = z[i] > most ? z[i] : most;
        const A shift = hx_exp_shift(most);
        if (most > max) sum *= exp(max - shift);
        for (int i = 0; i < V; i++) sum += exp(z[i] - shift);
        max = most;
    }
    const A most = hx_row_max(max);
    sum = hx_row_sum(sum * exp(max - hx_exp_shift(most)));
    *row_max = most;
    *row_sum = most == -(A)INFINITY ? (A)NAN : sum;
}

#endif

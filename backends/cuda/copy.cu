/* Copies and conversions between all dtypes and strides.
 *
 *   1. Dims of size 1 go, neighbours that lie evenly in both arrays become one: most copies end with one dim.
 *   2. Elements of one dtype are moved as words of their size, and as the widest words that both arrays are made of: a copy of
 *      contiguous rows moves 16 bytes a thread whatever the dtype. A dense copy is the runtime's.
 *   3. Between floating dtypes a kernel per pair converts, four elements a thread where both arrays are contiguous; every other
 *      pair is one kernel that branches on the two dtypes, alike in all threads: integers do not train.
 *   4. Where x is contiguous along another dim than y, 32 x 32 tiles pass through shared memory, so that both are read and
 *      written along what is contiguous in them.
 */
#include <limits.h>
#include <math.h>

#include "backends/cuda/port.cuh"

#define COPY_THREADS 256
#define TILE         32
#define TILE_ROWS    8 /* of a tile that a block of 32 x 8 threads works on at a time */
#define VECTOR       4

/* Element i of y, counted row-major, is at dst[sum i_d to[d]]; what it is made of at src[sum i_d from[d]]. */
struct hx_walk {
    int ndim; /* at least 1 */
    int64_t n;
    int64_t dims[HX_MAX_DIMS + 1], to[HX_MAX_DIMS + 1], from[HX_MAX_DIMS + 1];
};

/* ---- what happens to an element ---- */

/* A double as the float whose lowest bit tells that something was cut off (round to odd): rounding that once more to 16 bits
 * gives what rounding the double at once would (Boldo and Melquiond 2008). */
static __device__ __forceinline__ float to_odd(double x) {
    const float f = (float)x;
    unsigned int bits = __float_as_uint(f);
    if (x != x || (double)f == x) return f;
    if (fabs((double)f) > fabs(x)) bits--;
    return __uint_as_float(bits | 1u);
}

template <class A, class B> struct hx_convert {
    typedef A from_type;
    typedef B to_type;
    static __device__ __forceinline__ B of(A x) {
        B y;
        hx_store(&y, hx_load(x));
        return y;
    }
};
template <> struct hx_convert<double, float> {
    typedef double from_type;
    typedef float to_type;
    static __device__ __forceinline__ float of(double x) { return (float)x; }
};
template <> struct hx_convert<double, __nv_bfloat16> {
    typedef double from_type;
    typedef __nv_bfloat16 to_type;
    static __device__ __forceinline__ __nv_bfloat16 of(double x) { return __float2bfloat16_rn(to_odd(x)); }
};
template <> struct hx_convert<double, __half> {
    typedef double from_type;
    typedef __half to_type;
    static __device__ __forceinline__ __half of(double x) { return __float2half_rn(to_odd(x)); }
};
/* a word as it is */
template <class T> struct hx_move {
    typedef T from_type;
    typedef T to_type;
    static __device__ __forceinline__ T of(T x) { return x; }
};

/* An element of any dtype: whole numbers are not passed by way of floating point, which has no room for 64 bits. */
struct hx_item {
    bool is_whole;
    int64_t whole;
    double part[2];
};

static __device__ hx_item load_any(int dtype, const void *p, int64_t i) {
    hx_item x = {false, 0, {0, 0}};
    x.is_whole = dtype == HX_I32 || dtype == HX_I64 || dtype == HX_U8 || dtype == HX_I8 || dtype == HX_BOOL;
    switch (dtype) {
    case HX_F32: x.part[0] = ((const float *)p)[i]; break;
    case HX_F64: x.part[0] = ((const double *)p)[i]; break;
    case HX_BF16: x.part[0] = hx_load(((const __nv_bfloat16 *)p)[i]); break;
    case HX_F16: x.part[0] = hx_load(((const __half *)p)[i]); break;
    case HX_C64: x.part[0] = ((const float *)p)[2 * i], x.part[1] = ((const float *)p)[2 * i + 1]; break;
    case HX_C128: x.part[0] = ((const double *)p)[2 * i], x.part[1] = ((const double *)p)[2 * i + 1]; break;
    case HX_I32: x.whole = ((const int32_t *)p)[i]; break;
    case HX_I64: x.whole = ((const int64_t *)p)[i]; break;
    case HX_U8: x.whole = ((const uint8_t *)p)[i]; break;
    case HX_I8: x.whole = ((const int8_t *)p)[i]; break;
    case HX_BOOL: x.whole = ((const uint8_t *)p)[i] != 0; break;
    default: break;
    }
    return x;
}

/* Truncated; 2^63 is the least double above the range. */
static __device__ int64_t saturate(double x) {
    if (x != x) return 0;
    return x >= 0x1p63 ? LLONG_MAX : x < -0x1p63 ? LLONG_MIN : (int64_t)x;
}
static __device__ int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

static __device__ void store_any(int dtype, void *p, int64_t i, const hx_item &x) {
    const int64_t whole = x.is_whole ? x.whole : saturate(x.part[0]);
    const double real = x.is_whole ? (double)x.whole : x.part[0], imaginary = x.part[1];
    switch (dtype) {
    case HX_F32: ((float *)p)[i] = x.is_whole ? (float)x.whole : (float)real; break; /* rounded once */
    case HX_F64: ((double *)p)[i] = real; break;
    case HX_BF16: ((__nv_bfloat16 *)p)[i] = hx_convert<double, __nv_bfloat16>::of(real); break;
    case HX_F16: ((__half *)p)[i] = hx_convert<double, __half>::of(real); break;
    case HX_C64: ((float *)p)[2 * i] = (float)real, ((float *)p)[2 * i + 1] = (float)imaginary; break;
    case HX_C128: ((double *)p)[2 * i] = real, ((double *)p)[2 * i + 1] = imaginary; break;
    case HX_I32: ((int32_t *)p)[i] = (int32_t)clamp(whole, INT_MIN, INT_MAX); break;
    case HX_I64: ((int64_t *)p)[i] = whole; break;
    case HX_U8: ((uint8_t *)p)[i] = (uint8_t)clamp(whole, 0, UCHAR_MAX); break;
    case HX_I8: ((int8_t *)p)[i] = (int8_t)clamp(whole, SCHAR_MIN, SCHAR_MAX); break;
    case HX_BOOL: ((uint8_t *)p)[i] = x.is_whole ? x.whole != 0 : real != 0 || imaginary != 0; break;
    default: break;
    }
}

/* ---- kernels ---- */

/* Offsets of element i, whose index is taken apart from the last dim on. I is 32 bits wide where that is enough: divisions
 * of 64 bits cost several times as much. */
template <class I> static __device__ __forceinline__ void locate(const hx_walk &w, I i, int64_t *to, int64_t *from) {
    *to = *from = 0;
    for (int d = w.ndim - 1; d > 0; d--) {
        const I size = (I)w.dims[d], rest = i / size;
        const int64_t at = (int64_t)(i - rest * size);
        *to += at * w.to[d];
        *from += at * w.from[d];
        i = rest;
    }
    *to += (int64_t)i * w.to[0];
    *from += (int64_t)i * w.from[0];
}

/* A thread makes one element. */
template <class F, class I>
static __global__ void copy_strided(typename F::to_type *dst, const typename F::from_type *src, hx_walk w) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t to, from;
    if (i >= w.n) return;
    locate<I>(w, (I)i, &to, &from);
    dst[to] = F::of(src[from]);
}

template <class I> static __global__ void copy_any(void *dst, int to_dtype, const void *src, int from_dtype, hx_walk w) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t to, from;
    if (i >= w.n) return;
    locate<I>(w, (I)i, &to, &from);
    store_any(to_dtype, dst, to, load_any(from_dtype, src, from));
}

template <class T> struct alignas(VECTOR * sizeof(T)) hx_vector {
    T x[VECTOR];
};

/* A thread converts four neighbours with one load and one store. */
template <class F>
static __global__ void convert_vectors(hx_vector<typename F::to_type> *dst, const hx_vector<typename F::from_type> *src, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const hx_vector<typename F::from_type> x = src[i];
    hx_vector<typename F::to_type> y;
    for (int k = 0; k < VECTOR; k++) y.x[k] = F::of(x.x[k]);
    dst[i] = y;
}

/* A tile: 32 along y's last dim, `columns`, and 32 along dim `rows`, in which x is contiguous; blocks along z count the other
 * dims. The tile's rows are one word longer than 32, so that a column of it lies in different banks. */
template <class F>
static __global__ void copy_tiles(typename F::to_type *dst, const typename F::from_type *src, hx_walk outer, int64_t n_rows, int64_t n_columns,
                                  int64_t to_row, int64_t from_column, int64_t tiles_along_rows) {
    HX_SHARED(typename F::to_type, tile, [TILE][TILE + 1]);
    const int64_t row0 = (int64_t)(blockIdx.x % tiles_along_rows) * TILE, column0 = (int64_t)(blockIdx.x / tiles_along_rows) * TILE;
    const int x = (int)threadIdx.x;
    int64_t to, from;
    locate<int64_t>(outer, (int64_t)blockIdx.y, &to, &from);
    for (int c = (int)threadIdx.y; c < TILE; c += TILE_ROWS)
        if (row0 + x < n_rows && column0 + c < n_columns) tile[c][x] = F::of(src[from + row0 + x + (column0 + c) * from_column]);
    __syncthreads();
    for (int r = (int)threadIdx.y; r < TILE; r += TILE_ROWS)
        if (row0 + r < n_rows && column0 + x < n_columns) dst[to + (row0 + r) * to_row + column0 + x] = tile[x][r];
}

/* ---- choosing ---- */

static unsigned blocks_for(int64_t n) { return (unsigned)hx__cuda_ceil_div(n, COPY_THREADS); }
static bool is_aligned(const void *p, size_t n_bytes) { return (uintptr_t)p % n_bytes == 0; }

/* Dims of y from the first on; one joins the one before it if both arrays go through the two as through one. */
static hx_walk walk_of(const hx_array *y, const hx_array *x) {
    hx_walk w = {};
    w.n = 1;
    for (int d = 0; d < y->ndim; d++) {
        const int last = w.ndim - 1;
        const int64_t size = y->dims[d];
        w.n *= size;
        if (size == 1) continue;
        const bool joins = last >= 0 && w.to[last] == size * y->strides[d] && w.from[last] == size * x->strides[d];
        const int at = joins ? last : w.ndim++;
        w.dims[at] = joins ? w.dims[at] * size : size;
        w.to[at] = y->strides[d];
        w.from[at] = x->strides[d];
    }
    if (w.ndim == 0) w.dims[0] = w.to[0] = w.from[0] = w.ndim = 1;
    return w;
}

static bool is_dense(const hx_walk *w) { return w->ndim == 1 && w->to[0] == 1 && w->from[0] == 1; }

/* The dim in which x is contiguous where y is in the last; -1: there is none worth tiles. */
static int tile_dim(const hx_walk *w) {
    const int last = w->ndim - 1;
    if (w->to[last] != 1 || w->from[last] == 1 || w->from[last] == 0 || w->dims[last] < TILE / 2) return -1;
    for (int d = 0; d < last; d++)
        if (w->from[d] == 1 && w->dims[d] >= TILE / 2) return d;
    return -1;
}

template <class F> static hx_status run_tiles(hx_cuda_stream *s, void *dst, const void *src, const hx_walk *w, int dim, bool *is_done) {
    const int last = w->ndim - 1;
    hx_walk outer = {};
    outer.n = 1;
    for (int d = 0; d < last; d++) {
        if (d == dim) continue;
        outer.dims[outer.ndim] = w->dims[d];
        outer.to[outer.ndim] = w->to[d];
        outer.from[outer.ndim++] = w->from[d];
        outer.n *= w->dims[d];
    }
    if (outer.ndim == 0) outer.dims[0] = outer.ndim = 1;
    const int64_t along_rows = hx__cuda_ceil_div(w->dims[dim], TILE), along_columns = hx__cuda_ceil_div(w->dims[last], TILE);
    *is_done = outer.n <= USHRT_MAX && along_rows <= INT_MAX / along_columns; /* what a grid has room for */
    if (!*is_done) return HX_OK;
    return hx_launch(s, "copy_tiles", dim3((unsigned)(along_rows * along_columns), (unsigned)outer.n), dim3(TILE, TILE_ROWS), 0, copy_tiles<F>,
                     static_cast<typename F::to_type *>(dst), static_cast<const typename F::from_type *>(src), outer, w->dims[dim],
                     w->dims[last], w->to[dim], w->from[last], along_rows);
}

template <class F> static hx_status run_strided(hx_cuda_stream *s, void *dst, const void *src, const hx_walk *w) {
    const int dim = tile_dim(w);
    bool is_done = false;
    if (dim >= 0) HX_TRY(run_tiles<F>(s, dst, src, w, dim, &is_done));
    if (is_done) return HX_OK;
    return hx_launch(s, "copy_strided", blocks_for(w->n), COPY_THREADS, 0, w->n <= UINT_MAX ? copy_strided<F, uint32_t> : copy_strided<F, int64_t>,
                     static_cast<typename F::to_type *>(dst), static_cast<const typename F::from_type *>(src), *w);
}

/* Conversion between floating dtypes. */
template <class A, class B> static hx_status run_convert(hx_cuda_stream *s, void *dst, const void *src, const hx_walk *w) {
    typedef hx_convert<A, B> F;
    if (!is_dense(w) || !is_aligned(dst, VECTOR * sizeof(B)) || !is_aligned(src, VECTOR * sizeof(A))) return run_strided<F>(s, dst, src, w);
    const int64_t n_vectors = w->n / VECTOR;
    if (n_vectors > 0)
        HX_TRY(hx_launch(s, "convert_vectors", blocks_for(n_vectors), COPY_THREADS, 0, convert_vectors<F>, static_cast<hx_vector<B> *>(dst),
                         static_cast<const hx_vector<A> *>(src), n_vectors));
    hx_walk rest = *w;
    rest.n = rest.dims[0] = w->n - n_vectors * VECTOR;
    if (rest.n == 0) return HX_OK;
    return run_strided<F>(s, static_cast<B *>(dst) + n_vectors * VECTOR, static_cast<const A *>(src) + n_vectors * VECTOR, &rest);
}

template <class A> static hx_status run_convert_to(hx_cuda_stream *s, const hx_array *y, const void *src, const hx_walk *w) {
    HX_RETURN_BY_FLOAT(y->dtype, B, (run_convert<A, B>(s, y->data, src, w)));
}

static hx_status run_any(hx_cuda_stream *s, const hx_array *y, const hx_array *x, const hx_walk *w) {
    return hx_launch(s, "copy_any", blocks_for(w->n), COPY_THREADS, 0, w->n <= UINT_MAX ? copy_any<uint32_t> : copy_any<int64_t>, y->data,
                     (int)y->dtype, static_cast<const void *>(x->data), (int)x->dtype, *w);
}

/* Two neighbouring words become one of twice the size, as long as every address is a multiple of that. */
static bool widen(hx_walk *w, size_t *n_bytes, const void *dst, const void *src) {
    const int last = w->ndim - 1;
    if (*n_bytes == 16 || w->to[last] != 1 || w->from[last] != 1 || w->dims[last] % 2 != 0) return false;
    if (!is_aligned(dst, 2 * *n_bytes) || !is_aligned(src, 2 * *n_bytes)) return false;
    for (int d = 0; d < last; d++)
        if (w->to[d] % 2 != 0 || w->from[d] % 2 != 0) return false;
    for (int d = 0; d < last; d++) w->to[d] /= 2, w->from[d] /= 2;
    w->dims[last] /= 2;
    w->n /= 2;
    *n_bytes *= 2;
    return true;
}

/* Each word becomes two of half the size: a view of reals as complex numbers is aligned for reals only. */
static void halve(hx_walk *w, size_t *n_bytes) {
    for (int d = 0; d < w->ndim; d++) w->to[d] *= 2, w->from[d] *= 2;
    w->dims[w->ndim] = 2;
    w->to[w->ndim] = w->from[w->ndim] = 1;
    w->ndim++;
    w->n *= 2;
    *n_bytes /= 2;
}

static hx_status run_move(hx_cuda_stream *s, void *dst, const void *src, hx_walk w, size_t n_bytes) {
    if (is_dense(&w)) return hx__cuda_check(cudaMemcpyAsync(dst, src, (size_t)w.n * n_bytes, cudaMemcpyDeviceToDevice, s->handle), "copy");
    if (!is_aligned(dst, n_bytes) || !is_aligned(src, n_bytes)) halve(&w, &n_bytes);
    while (widen(&w, &n_bytes, dst, src)) {}
    switch (n_bytes) {
    case 1: return run_strided<hx_move<uint8_t>>(s, dst, src, &w);
    case 2: return run_strided<hx_move<uint16_t>>(s, dst, src, &w);
    case 4: return run_strided<hx_move<uint32_t>>(s, dst, src, &w);
    case 8: return run_strided<hx_move<uint64_t>>(s, dst, src, &w);
    default: return run_strided<hx_move<uint4>>(s, dst, src, &w);
    }
}

extern "C" hx_status hx__cuda_copy(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    const hx_walk w = walk_of(y, x);
    if (x->dtype == y->dtype) return run_move(s, y->data, x->data, w, hx_dtype_bytes(x->dtype));
    if (!hx_dtype_is_float(x->dtype) || !hx_dtype_is_float(y->dtype)) return run_any(s, y, x, &w);
    HX_RETURN_BY_FLOAT(x->dtype, A, run_convert_to<A>(s, y, x->data, &w));
}

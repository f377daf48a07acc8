/* What kernels are written with: the CUDA runtime's C++ headers, and a thin layer over what the emulator of the tests
 * (tests/emu) cannot take over by name.
 *
 *   - shared memory is declared with HX_SHARED and HX_DYNAMIC_SHARED, not with __shared__;
 *   - kernels are started with hx_launch, not with <<< >>>;
 *   - tensor cores and asynchronous copies are used through mma.cuh, inline assembly appears nowhere else;
 *   - __syncthreads, __syncwarp, the _sync shuffles and votes, integer atomics, __ldg, vector types, half types and math
 *     functions are used as they are.
 *
 *     HX_SHARED(float, tile, [32][33]);      // float tile[32][33], one per block
 *     HX_DYNAMIC_SHARED(float, rows);        // float *rows: the launch's shared_bytes, 128-byte aligned
 *     HX_TRY(hx_launch(s, "row_sums", grid, block, 0, row_sums<T>, x, y, n));
 */
#ifndef HX_BACKENDS_CUDA_PORT_CUH
#define HX_BACKENDS_CUDA_PORT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

#include "backends/cuda/cuda_impl.h"

#ifdef HX_EMULATED
#include "tests/emu/device.h"
#else
#define HX_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define HX_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(128) unsigned char hx_dynamic_shared[]; \
    type *name = reinterpret_cast<type *>(hx_dynamic_shared)
#define HX_NAME_KERNEL(name) ((void)0) /* the emulator's reports name kernels */
#endif

#define HX_WARP 32
#define HX_FULL_MASK 0xffffffffu

/** Start a kernel. A grid or block without threads is an error of the caller: return early on empty operands.
 *  @param shared_bytes  dynamic; more than 32 KiB are opted in to
 *  @return HX_ERR_DEVICE naming the kernel */
template <class... P, class... A>
hx_status hx_launch(hx_cuda_stream *s, const char *name, dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...), A... args) {
    char what[128];
    cudaError_t error = cudaSuccess;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = s->handle;
    HX_NAME_KERNEL(name);
    /* 48 KiB are the limit of static arrays and dynamic memory together. What is set is a limit too, of the kernel on this
     * device: a launch reads it when it is called, and one thread enqueues on a device, so that it may be set anew each time. */
    if (shared_bytes > 32 * 1024)
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
    if (error == cudaSuccess) return HX_OK;
    snprintf(what, sizeof what, "kernel %s, grid %u,%u,%u of %u threads, %zu bytes shared", name, grid.x, grid.y, grid.z,
             block.x * block.y * block.z, shared_bytes);
    return hx__cuda_check(error, what);
}

/* ---- calls launched as one: a table of them is the kernel's parameter ---- */

/* C is what the calls share, E what an entry has: `first` is the number of its first chunk in the launch. */
template <class C, class E> struct hx_table {
    static constexpr int MOST = (HX_CUDA_PARAM_BYTES - (int)sizeof(C) - 32) / (int)sizeof(E);
    C common;
    int64_t n_chunks;
    int n;
    E entries[MOST];
};

/** Append a call to the table that the stream holds. What it holds is launched first, unless the call fits there: same launch,
 *  same bytes of `common` (whose padding is zero), room for one more.
 *  @param n_chunks  of the entry, whose `first` is set here
 *  @return of a launch: that of the calls before, and outside of a batch that of this call */
template <class C, class E> hx_status hx_hold(hx_cuda_stream *s, hx_op op, hx_status (*launch)(hx_cuda_stream *), const C &common, E entry, int64_t n_chunks) {
    typedef hx_table<C, E> table;
    static_assert(sizeof(table) <= sizeof s->held.table, "a kernel takes no more parameters");
    table *t = reinterpret_cast<table *>(s->held.table);
    if (s->held.launch != launch || t->n == table::MOST || memcmp(&t->common, &common, sizeof common) != 0) HX_TRY(hx__cuda_launch_held(s));
    if (!s->held.launch) {
        memcpy(&t->common, &common, sizeof common);
        t->n_chunks = t->n = 0;
    }
    s->held.launch = launch;
    s->held.op = op;
    entry.first = t->n_chunks;
    t->entries[t->n++] = entry;
    t->n_chunks += n_chunks;
    return s->is_batch ? HX_OK : hx__cuda_launch_held(s);
}

/** The entry that a chunk belongs to: the last that begins there or before. All threads of a block take the same way. */
template <class C, class E> __device__ __forceinline__ const E &hx_entry_of(const hx_table<C, E> &t, int64_t chunk) {
    int low = 0, high = t.n;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (t.entries[middle].first <= chunk) low = middle;
        else high = middle;
    }
    return t.entries[low];
}

/* ---- element types: computed with in f32, or in f64 for f64 ---- */

template <class T> struct hx_accum { typedef float type; };
template <> struct hx_accum<double> { typedef double type; };
template <class T> using hx_accum_t = typename hx_accum<T>::type;

__device__ __forceinline__ float hx_load(float x) { return x; }
__device__ __forceinline__ double hx_load(double x) { return x; }
__device__ __forceinline__ float hx_load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float hx_load(__half x) { return __half2float(x); }
__device__ __forceinline__ void hx_store(float *p, float x) { *p = x; }
__device__ __forceinline__ void hx_store(double *p, double x) { *p = x; }
__device__ __forceinline__ void hx_store(__nv_bfloat16 *p, float x) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void hx_store(__half *p, float x) { *p = __float2half_rn(x); }

/** Return `call`, in which T stands for the C++ type of a floating dtype: HX_RETURN_BY_FLOAT(x->dtype, T, run<T>(s, call)) */
#define HX_RETURN_BY_FLOAT(dtype, T, call)                                                                    \
    switch (dtype) {                                                                                          \
    case HX_F32: { typedef float T; return call; }                                                            \
    case HX_F64: { typedef double T; return call; }                                                           \
    case HX_BF16: { typedef __nv_bfloat16 T; return call; }                                                   \
    case HX_F16: { typedef __half T; return call; }                                                           \
    default: return HX_FAIL(HX_ERR_INTERNAL, "dtype %s reached a floating-point kernel", hx_dtype_name(dtype)); \
    }

/* ---- reductions in a fixed order: the same bits whatever the scheduling ---- */

template <class T> __device__ __forceinline__ T hx_warp_sum(T x) {
    for (int lane = HX_WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(HX_FULL_MASK, x, lane);
    return x;
}
/* NaN wins, as in the ops */
template <class T> __device__ __forceinline__ T hx_max_nan(T a, T b) { return a > b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T hx_warp_max(T x) {
    for (int lane = HX_WARP / 2; lane > 0; lane /= 2) x = hx_max_nan(x, __shfl_xor_sync(HX_FULL_MASK, x, lane));
    return x;
}
struct hx_join_sum {
    template <class T> __device__ __forceinline__ T warp(T x) const { return hx_warp_sum(x); }
    template <class T> __device__ __forceinline__ T two(T a, T b) const { return a + b; }
};
struct hx_join_max {
    template <class T> __device__ __forceinline__ T warp(T x) const { return hx_warp_max(x); }
    template <class T> __device__ __forceinline__ T two(T a, T b) const { return hx_max_nan(a, b); }
};
template <class J, class T> __device__ T hx_block_join(J join, T x) {
    HX_SHARED(T, part, [HX_WARP]);
    const int warp = (int)threadIdx.x / HX_WARP, n_warps = (int)blockDim.x / HX_WARP;
    x = join.warp(x);
    __syncthreads(); /* part may still be read from the last call */
    if (threadIdx.x % HX_WARP == 0) part[warp] = x;
    __syncthreads();
    T all = part[0];
    for (int i = 1; i < n_warps; i++) all = join.two(all, part[i]);
    return all;
}
/** Sum and maximum over a block of whole warps, at most 1024 threads along x; every thread gets it. All threads call it. */
template <class T> __device__ T hx_block_sum(T x) { return hx_block_join(hx_join_sum(), x); }
template <class T> __device__ T hx_block_max(T x) { return hx_block_join(hx_join_max(), x); }

#endif

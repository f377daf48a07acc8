/* The parts of a gradient's norm: sum of squares, sum of sizes, largest size, of all tensors that a batch holds for one output.
 *
 * 1. norm_chunks: a block adds a chunk of a tensor, 16384 elements, each of its threads those of every 256th pack of 16 bytes.
 *    Bound by reading the gradients once; the parts that it leaves in scratch are a 4096th of that or less.
 * 2. norm_join: one block; a warp adds the parts of a tensor, then one thread adds the tensors to the output in their order.
 *
 * norm_blocks keeps the part of each 4096 elements instead: one kernel, a block of threads for each, of all tensors of a batch.
 *
 * All is f64 from the first term on, whose square may not fit f32. Which thread adds what depends on the tensors' sizes and
 * dtype alone, and tensor follows tensor: a batch has the bits of the calls one by one, on any device. */
#include "backends/cuda/walk.cuh"

enum {
    CHUNK = 16384,   /* elements: few enough parts for one block, enough chunks to occupy the device */
    JOIN_BLOCK = 512 /* threads: 16 tensors at once */
};

/* ---- what is added ---- */

struct of_squares {
    static __device__ __forceinline__ double join(double a, double b) { return a + b; }
    static __device__ __forceinline__ double term(double x) { return x * x; }
    static __device__ __forceinline__ double warp(double x) { return hx_warp_sum(x); }
    static __device__ __forceinline__ double block(double x) { return hx_block_sum(x); }
};
struct of_sizes : of_squares {
    static __device__ __forceinline__ double term(double x) { return fabs(x); }
};
struct of_largest {
    static __device__ __forceinline__ double join(double a, double b) { return hx_max_nan(a, b); }
    static __device__ __forceinline__ double term(double x) { return fabs(x); }
    static __device__ __forceinline__ double warp(double x) { return hx_warp_max(x); }
    static __device__ __forceinline__ double block(double x) { return hx_block_max(x); }
};

/* ---- the kernels ---- */

struct norm_common {
    double *y;
};
struct norm_entry {
    const void *x; /* [n] */
    int64_t n, first;
    bool accumulate; /* added to what y holds after the tensor before */
};
typedef hx_table<norm_common, norm_entry> norm_table;

/* The terms of x [end] from i on, a pack of them at most. */
template <class F, class T> static __device__ __forceinline__ double add_pack(const T *x, bool is_packed, int64_t i, int64_t end, double sum) {
    constexpr int PACK = 16 / sizeof(T);
    if (is_packed && i + PACK <= end) {
        const hx_pack<T> pack = *reinterpret_cast<const hx_pack<T> *>(x + i);
        for (int e = 0; e < PACK; e++) sum = F::join(sum, F::term((double)hx_load(pack.v[e])));
        return sum;
    }
    for (int e = 0; e < PACK && i + e < end; e++) sum = F::join(sum, F::term((double)hx_load(x[i + e])));
    return sum;
}

/* The terms of x [from,end), by all threads of a block; the part is thread 0's. Which thread adds what depends on end - from and
 * on T alone. */
template <class F, class T> static __device__ __forceinline__ double add_range(const T *x, int64_t from, int64_t end) {
    constexpr int PACK = 16 / sizeof(T);
    const bool is_packed = (uintptr_t)x % 16 == 0;
    double sum = 0;
    for (int64_t i = from + (int)threadIdx.x * PACK; i < end; i += HX_BLOCK * PACK) sum = add_pack<F>(x, is_packed, i, end, sum);
    return F::block(sum);
}

/* parts [t.n_chunks] */
template <class F, class T> static __global__ void norm_chunks(const __grid_constant__ norm_table t, double *parts) {
    for (int64_t chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const norm_entry &x = hx_entry_of(t, chunk);
        const int64_t from = (chunk - x.first) * CHUNK, end = from + CHUNK < x.n ? from + CHUNK : x.n;
        const double sum = add_range<F>((const T *)x.x, from, end);
        if (threadIdx.x == 0) parts[chunk] = sum;
    }
}

template <class F> static __global__ void norm_join(const __grid_constant__ norm_table t, const double *parts) {
    HX_SHARED(double, total, [norm_table::MOST]);
    const int lane = (int)threadIdx.x % HX_WARP;
    for (int k = (int)threadIdx.x / HX_WARP; k < t.n; k += JOIN_BLOCK / HX_WARP) {
        const int64_t end = k + 1 < t.n ? t.entries[k + 1].first : t.n_chunks;
        double sum = 0;
        for (int64_t i = t.entries[k].first + lane; i < end; i += HX_WARP) sum = F::join(sum, parts[i]);
        sum = F::warp(sum);
        if (lane == 0) total[k] = sum;
    }
    __syncthreads();
    if (threadIdx.x != JOIN_BLOCK - 1) return; /* not one that has written the first total: without the barrier it would show */
    double all = t.entries[0].accumulate ? *t.common.y : 0;
    for (int k = 0; k < t.n; k++) all = t.entries[k].accumulate ? F::join(all, total[k]) : total[k];
    *t.common.y = all;
}

struct blocks_common {
    int64_t none; /* an entry has all there is to know */
};
struct blocks_entry {
    const void *x; /* [n] */
    double *y;     /* [ceil(n/HX_NORM_BLOCK)] */
    int64_t n, first;
};
typedef hx_table<blocks_common, blocks_entry> blocks_table;

template <class F, class T> static __global__ void norm_blocks(const __grid_constant__ blocks_table t) {
    for (int64_t chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const blocks_entry &e = hx_entry_of(t, chunk);
        const int64_t from = (chunk - e.first) * HX_NORM_BLOCK, end = from + HX_NORM_BLOCK < e.n ? from + HX_NORM_BLOCK : e.n;
        const double sum = add_range<F>((const T *)e.x, from, end);
        if (threadIdx.x == 0) e.y[chunk - e.first] = sum;
    }
}

/* ---- their launch ---- */

template <class F, class T> static hx_status launch_norm(hx_cuda_stream *s) {
    const norm_table *t = reinterpret_cast<const norm_table *>(s->held.table);
    void *parts;
    HX_TRY(hx__cuda_scratch(s, (size_t)t->n_chunks * sizeof(double), &parts));
    if (t->n_chunks > 0)
        HX_TRY(hx_launch(s, "norm_chunks", hx_grid(s, t->n_chunks), dim3(HX_BLOCK), 0, norm_chunks<F, T>, *t, (double *)parts));
    return hx_launch(s, "norm_join", dim3(1), dim3(JOIN_BLOCK), 0, norm_join<F>, *t, (const double *)parts);
}

template <class F, class T> static hx_status hold_norm(hx_cuda_stream *s, const hx_op_call *call) {
    const norm_common common = {(double *)call->out[0].data};
    const norm_entry entry = {call->in[0].data, hx__cuda_count(&call->in[0]), 0, call->attr.reduce.accumulate};
    return hx_hold(s, call->op, launch_norm<F, T>, common, entry, hx__cuda_ceil_div(entry.n, CHUNK));
}

template <class T> static hx_status norm_part(hx_cuda_stream *s, const hx_op_call *call) {
    switch (call->op) {
    case HX_OP_sumsq: return hold_norm<of_squares, T>(s, call);
    case HX_OP_sumabs: return hold_norm<of_sizes, T>(s, call);
    default: return hold_norm<of_largest, T>(s, call);
    }
}

hx_status hx__cuda_norm_part(hx_cuda_stream *s, const hx_op_call *call) {
    HX_RETURN_BY_FLOAT(call->in[0].dtype, T, norm_part<T>(s, call));
}

template <class F, class T> static hx_status launch_blocks(hx_cuda_stream *s) {
    const blocks_table *t = reinterpret_cast<const blocks_table *>(s->held.table);
    if (t->n_chunks == 0) return HX_OK;
    return hx_launch(s, "norm_blocks", hx_grid(s, t->n_chunks), dim3(HX_BLOCK), 0, norm_blocks<F, T>, *t);
}

template <class F, class T> static hx_status hold_blocks(hx_cuda_stream *s, const hx_op_call *call) {
    const blocks_common common = {0};
    const blocks_entry entry = {call->in[0].data, (double *)call->out[0].data, hx__cuda_count(&call->in[0]), 0};
    return hx_hold(s, call->op, launch_blocks<F, T>, common, entry, hx__cuda_ceil_div(entry.n, HX_NORM_BLOCK));
}

template <class T> static hx_status run_blocks(hx_cuda_stream *s, const hx_op_call *call) {
    const double p = call->attr.blocks.p;
    if (p == 2) return hold_blocks<of_squares, T>(s, call);
    return p == 1 ? hold_blocks<of_sizes, T>(s, call) : hold_blocks<of_largest, T>(s, call);
}

hx_status hx__cuda_norm_blocks(hx_cuda_stream *s, const hx_op_call *call) {
    HX_RETURN_BY_FLOAT(call->in[0].dtype, T, run_blocks<T>(s, call));
}

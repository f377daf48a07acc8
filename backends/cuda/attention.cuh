/* What the two kinds of attention kernels of the cuda backend have in common: operands as heads, and who sees whom.
 *
 * attention.cu takes everything; flash.cu takes what tensor cores can do and says so with hx__flash_takes.
 */
#ifndef HX_BACKENDS_CUDA_ATTENTION_CUH
#define HX_BACKENDS_CUDA_ATTENTION_CUH

#include "backends/cuda/port.cuh"

/* An operand [B,T,H,D]; steps in elements, 0 where it repeats. data NULL: not there, or not wanted. */
typedef struct hx_heads {
    void *data;
    int64_t batch, step, head, column;
    bool is_wide; /* an f32 output of an op on a half type */
} hx_heads;

/* [B,H,T,S], nonzero where query and key see each other; data NULL: everywhere. */
typedef struct hx_mask {
    const uint8_t *data;
    int64_t batch, head, query, key;
} hx_mask;

/* [B,H,T] of the accumulator's type; data NULL: not wanted. */
typedef struct hx_row_values {
    void *data;
    int64_t batch, head, query;
} hx_row_values;

/* One call, forward or backward. Query head h looks at key head h / group. */
typedef struct hx_attention {
    hx_heads q, k, v, o, dout, dq, dk, dv; /* forward: writes o */
    hx_mask mask;
    hx_row_values lse; /* forward: is written */
    int B, T, H, S, G, D, group;
    double scale;
    bool causal;
} hx_attention;

/** Keys that query t may see are those below; the mask apart. */
__host__ __device__ inline int hx_keys_of(const hx_attention &a, int t) {
    const int n = a.causal ? t + a.S - a.T + 1 : a.S;
    return n < a.S ? n : a.S;
}
/** The first query that may see key s. */
__host__ __device__ inline int hx_first_query(const hx_attention &a, int s) {
    return a.causal && s > a.S - a.T ? s - (a.S - a.T) : 0;
}

/* A block's share of the work: tile `rank` of head `head` of batch row b. */
typedef struct hx_share {
    int64_t b, head;
    int rank;
} hx_share;

/** Shares of a one-dimensional grid of B n_heads n_tiles blocks: 16 heads after the other, and of those all tiles 0, then all
 *  tiles 1. Kernels count tiles from the longest, so that no long one is left for the end; and blocks that run at the same
 *  time read the same k and v, which so come from L2. */
__device__ __forceinline__ hx_share hx_share_of(int B, int n_heads, int n_tiles) {
    const int together = 16, section = (int)blockIdx.x / (together * n_tiles), in_section = (int)blockIdx.x % (together * n_tiles);
    const int width = min(together, B * n_heads - section * together), list = section * together + in_section % width;
    return hx_share{list / n_heads, list % n_heads, in_section / width};
}

/** First element of a[b,t,h,:]. */
template <class T> __device__ __forceinline__ T *hx_head_row(const hx_heads &a, int64_t b, int64_t t, int64_t h) {
    return static_cast<T *>(a.data) + b * a.batch + t * a.step + h * a.head;
}
template <class A> __device__ __forceinline__ A *hx_row_value(const hx_row_values &a, int64_t b, int64_t h, int64_t t) {
    return static_cast<A *>(a.data) + b * a.batch + h * a.head + t * a.query;
}

/** Number of blocks as a grid. @return HX_ERR_UNSUPPORTED if there are too many for one */
hx_status hx__attention_grid(int64_t n_blocks, dim3 *out);

/** True if the tensor cores' kernels take the call: bf16 or f16, D of 64 or 128, scale > 0, no mask, rows dense and
 *  aligned to 16 bytes, outputs not wide. */
bool hx__flash_takes(const hx_attention &a, hx_dtype dtype);
/** Forward and backward of such calls; B, T, H and S are positive. dtype is that of q. */
hx_status hx__flash(hx_cuda_stream *s, hx_dtype dtype, const hx_attention &a);
hx_status hx__flash_bwd(hx_cuda_stream *s, hx_dtype dtype, const hx_attention &a);

#endif

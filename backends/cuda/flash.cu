/* Attention on tensor cores: FlashAttention-2 (Dao 2023) for bf16 and f16, head dims 64 and 128, causal or not, grouped
 * queries, any T and S. What is computed is what attention.cu computes; here a block has 4 warps, and each warp has rows of
 * its own for which it keeps scores, weights and sums in registers.
 *
 *   forward            rows are queries: S = q k^T, P = softmax, o += P v
 *   backward, keys     rows are keys:    S^T = k q^T, dP^T = v do^T, dv += P^T do, dk += dS^T q, head by head of the group
 *   backward, queries  rows are queries: S = q k^T, dP = do v^T, dq += dS k
 *
 * All are made of two products: rows_by_rows, whose right side lies in shared memory as it lies in global memory, and
 * weights_by_rows, whose left side is the accumulator of the first, rounded to the half type: the columns of an
 * accumulator are a fragment's columns, so that weights never leave the registers. Other tiles of rows pass by in two stages,
 * the next one copied (cp.async) while the products of this one run: one barrier a tile, which says both that this tile has
 * arrived and that the stage to be overwritten has been read.
 *
 * Shared memory: a row of D elements is 8 or 16 chunks of 16 bytes, chunk c of row r at place c ^ (r % 8). A matrix load
 * reads one chunk of 8 rows that follow each other, and they lie in 8 different groups of 4 banks; so do the 8 chunks of
 * a row that 8 threads copy. No row is padded.
 *
 * Softmax is f32 with powers of 2: scores are multiplied by scale log2(e) in the same instruction that subtracts the
 * maximum, which is why scale must be positive. Causal: tiles above the diagonal are skipped, by blocks and by warps, and
 * blocks with the longest rows start first. Where a tile crosses the diagonal, weights of 0 take part in its products:
 * infinities and NaN in it reach the rows of the tile that do not see them, and no others.
 *
 *                        rows of a block / of a passing tile, shared memory, registers (sm_80, sm_90a), none spilled
 *                        D = 64                            D = 128
 *     forward            128 / 64  48 KiB  254 255         128 / 32  64 KiB  251 255
 *     backward, keys     128 / 32  48.5 KiB  255 255        64 / 32  64.5 KiB  248 249
 *     backward, queries  128 / 32  48 KiB  242 246          64 / 32  64 KiB  228 232
 * Registers leave room for two blocks on a multiprocessor. A warp takes 32 rows where they allow it: each fragment that is
 * read from shared memory then serves two products, of whose speed it would otherwise be the limit.
 *
 * B=64 H=12 T=1024 D=64, causal, on an H100 (3.0 TB/s, 798 TFLOP/s); an operand has 101 MB, a product 51.5 GFLOP:
 *     forward             q k v o                           0.40 GB  0.13 ms   2 products  0.13 ms
 *     delta               o do                              0.20 GB  0.07 ms
 *     backward, keys      q k v do, dk dv                   0.60 GB  0.20 ms   4 products  0.26 ms
 *     backward, queries   q k v do, dq                      0.50 GB  0.17 ms   3 products  0.19 ms
 * Two kernels compute S and dP twice; adding to dq from the kernel of keys would need atomics in no order. */
#include <math.h>
#include <string.h>

#include "backends/cuda/attention.cuh"
#include "backends/cuda/mma.cuh"

enum { WARPS = 4, THREADS = WARPS * HX_WARP, PAD = 64 /* to which rows of lse and delta are padded */ };

/* Shape of a kernel: each warp has 16 M rows; N rows pass by at a time; HELD: the fragments of the warp's rows stay in
 * registers. */
template <int M_, int N_, bool HELD_> struct shape {
    enum { M = M_, N = N_, ROWS = WARPS * 16 * M_ };
    static const bool HELD = HELD_;
};
template <int D> struct forward_shape : shape<2, 64, true> {};
template <> struct forward_shape<128> : shape<2, 32, false> {};
template <int D> struct keys_shape : shape<2, 32, false> {};
template <> struct keys_shape<128> : shape<1, 32, false> {};
template <int D> struct queries_shape : shape<2, 32, true> {};
template <> struct queries_shape<128> : shape<1, 32, true> {};

/* ---- tiles in shared memory ---- */

/* Chunk c of row r. */
template <int D, class T> __device__ __forceinline__ T *chunk_at(T *tile, int r, int c) { return tile + r * D + ((c ^ (r & 7)) << 3); }

/* Start to copy rows first .. first+N-1 of x[b,:,head,:] to a tile; zeros from row n_rows on. A thread copies one chunk of
 * every 16th or 8th row, so that its place in the rows stays. */
template <class T, int D, int N> __device__ __forceinline__ void fetch(T *tile, const hx_heads &x, int64_t b, int64_t head, int first, int n_rows) {
    const int r = (int)threadIdx.x / (D / 8), c = (int)threadIdx.x % (D / 8), step = THREADS / (D / 8);
    const T *const any = hx_head_row<T>(x, b, 0, head) + 8 * c, *from = any + (first + r) * x.step;
    T *to = chunk_at<D>(tile, r, c);
#pragma unroll
    for (int i = 0; i < N; i += step, from += step * x.step) {
        const bool is_there = first + r + i < n_rows;
        hx_cp_async_16(to + i * D, is_there ? from : any, is_there);
    }
}
/* The same of N values of x, which is aligned and long enough. */
template <int N> __device__ void fetch_values(float *to, const float *x) {
    if ((int)threadIdx.x < N / 4) hx_cp_async_16(to + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
}

/* ---- products; lane l has rows g = l / 4 and g + 8 and columns 2t, 2t+1, t = l % 4, of each 16 x 8 accumulator ---- */

/* A warp's rows as left side of products. */
template <class T, int D, int M, bool HELD> struct left_rows {
    const T *tile;
    int row;
    uint32_t held[HELD ? D / 16 : 1][M][4];

    __device__ __forceinline__ void load(int step, uint32_t (&a)[M][4]) const {
        const int lane = (int)threadIdx.x % HX_WARP;
#pragma unroll
        for (int m = 0; m < M; m++) hx_ldmatrix_x4(a[m], chunk_at<D>(tile, row + 16 * m + (lane & 15), 2 * step + (lane >> 4)));
    }
    __device__ __forceinline__ void open(const T *rows, int first) {
        tile = rows, row = first;
        if constexpr (HELD) {
#pragma unroll
            for (int step = 0; step < D / 16; step++) load(step, held[step]);
        }
    }
    __device__ __forceinline__ void get(int step, uint32_t (&a)[M][4]) const {
        if constexpr (HELD) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) a[m][i] = held[step][m][i];
        } else {
            load(step, a);
        }
    }
};

/* sum[16 M, 8 N] = left rows^T, rows [8 N, D] */
template <class T, int D, int M, int N, bool HELD>
__device__ __forceinline__ void rows_by_rows(float (&sum)[M][N][4], const left_rows<T, D, M, HELD> &left, const T *rows) {
    const int lane = (int)threadIdx.x % HX_WARP;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[m][n][i] = 0;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint32_t a[M][4];
        left.get(step, a);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t r[4];
            hx_ldmatrix_x4(r, chunk_at<D>(rows, 8 * n + (lane & 7) + (lane >> 4) * 8, 2 * step + (lane >> 3 & 1)));
            const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
#pragma unroll
            for (int m = 0; m < M; m++) {
                hx_mma<T>(sum[m][n], a[m], b0);
                hx_mma<T>(sum[m][n + 1], a[m], b1);
            }
        }
    }
}

template <class T> __device__ __forceinline__ uint32_t pack(float low, float high);
template <> __device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
template <> __device__ __forceinline__ uint32_t pack<__half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* sum[16 M, D] += weights [16 M, 8 N] rows, rows [8 N, D]; weights are rounded to T */
template <class T, int D, int M, int N>
__device__ __forceinline__ void weights_by_rows(float (&sum)[M][D / 8][4], const float (&weights)[M][N][4], const T *rows) {
    const int lane = (int)threadIdx.x % HX_WARP;
#pragma unroll
    for (int step = 0; step < N / 2; step++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&w)[4] = weights[m][2 * step + i / 2];
                a[m][i] = i % 2 ? pack<T>(w[2], w[3]) : pack<T>(w[0], w[1]);
            }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t r[4];
            hx_ldmatrix_x4_trans(r, chunk_at<D>(rows, 16 * step + (lane & 15), n + (lane >> 4)));
            const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
#pragma unroll
            for (int m = 0; m < M; m++) {
                hx_mma<T>(sum[m][n], a[m], b0);
                hx_mma<T>(sum[m][n + 1], a[m], b1);
            }
        }
    }
}

/* Rows first .. of y[b,:,head,:] = a warp's sums, by way of its own rows of a tile, so that whole chunks are written. */
template <class T, int D, int M>
__device__ void put(const hx_heads &y, int64_t b, int64_t head, int first, int n_rows, T *tile, int row, const float (&sum)[M][D / 8][4],
                    float scale) {
    const int lane = (int)threadIdx.x % HX_WARP;
    if (y.data == NULL) return;
    __syncwarp(); /* the rows are still read */
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t pair = pack<T>(sum[m][n][2 * i] * scale, sum[m][n][2 * i + 1] * scale);
                memcpy(chunk_at<D>(tile, row + 16 * m + 8 * i + lane / 4, n) + 2 * (lane % 4), &pair, sizeof pair);
            }
    __syncwarp();
    for (int i = lane; i < 16 * M * (D / 8); i += HX_WARP) {
        const int r = row + i / (D / 8), c = i % (D / 8);
        if (first + r >= n_rows) continue;
        *reinterpret_cast<uint4 *>(hx_head_row<T>(y, b, first + r, head) + 8 * c) = *reinterpret_cast<const uint4 *>(chunk_at<D>(tile, r, c));
    }
}

/* ---- forward ---- */

static const float LOG2E = 1.4426950408889634f;

/* What a lane keeps of its rows g and g + 8 of each of M: maximum of the scores, and its part of the sum of weights. */
template <int M> struct row_state {
    float most[M][2], sum[M][2];
};

/* The 4 lanes of a row. */
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(HX_FULL_MASK, x, 1));
    return fmaxf(x, __shfl_xor_sync(HX_FULL_MASK, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(HX_FULL_MASK, x, 1);
    return x + __shfl_xor_sync(HX_FULL_MASK, x, 2);
}

/* Scores of queries t .. and keys s .. that do not see each other become -inf. */
template <int M, int N> __device__ __forceinline__ void hide_keys(const hx_attention &a, float (&p)[M][N][4], int t, int s) {
    const int lane = (int)threadIdx.x % HX_WARP;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n_keys = hx_keys_of(a, t + 16 * m + 8 * (i / 2) + lane / 4) - s;
#pragma unroll
            for (int n = 0; n < N; n++)
                if (8 * n + 2 * (lane % 4) + i % 2 >= n_keys) p[m][n][i] = -INFINITY;
        }
}

/* The same where rows are keys s .. and columns queries t .. */
template <int M, int N> __device__ __forceinline__ void hide_queries(const hx_attention &a, float (&p)[M][N][4], int s, int t) {
    const int lane = (int)threadIdx.x % HX_WARP;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n_blind = hx_first_query(a, s + 16 * m + 8 * (i / 2) + lane / 4) - t;
#pragma unroll
            for (int n = 0; n < N; n++)
                if (8 * n + 2 * (lane % 4) + i % 2 < n_blind) p[m][n][i] = -INFINITY;
        }
}

/* Scores become weights relative to the rows' maxima so far, and earlier sums shrink as these grow. */
template <int D, int M, int N>
__device__ __forceinline__ void softmax_step(float (&p)[M][N][4], float scale, row_state<M> &rows, float (&sum)[M][D / 8][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float top = rows.most[m][i], add = 0;
#pragma unroll
            for (int n = 0; n < N; n++) top = fmaxf(top, fmaxf(p[m][n][2 * i], p[m][n][2 * i + 1]));
            top = quad_max(top);
            const float base = top == -INFINITY ? 0.0f : top; /* no finite score so far */
            const float shrink = hx_exp2((rows.most[m][i] - base) * scale), shift = -base * scale;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    p[m][n][j] = hx_exp2(fmaf(p[m][n][j], scale, shift));
                    add += p[m][n][j];
                }
            rows.most[m][i] = top;
            rows.sum[m][i] = rows.sum[m][i] * shrink + add;
#pragma unroll
            for (int n = 0; n < D / 8; n++) sum[m][n][2 * i] *= shrink, sum[m][n][2 * i + 1] *= shrink;
        }
}

/* Divide by the sums of weights, and store the logsumexp of rows t .. */
template <int D, int M>
__device__ __forceinline__ void normalise(const hx_attention &a, int64_t b, int64_t h, int t, const row_state<M> &rows, float (&sum)[M][D / 8][4]) {
    const int lane = (int)threadIdx.x % HX_WARP;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float total = quad_sum(rows.sum[m][i]), scale = 1 / total;
            const int row = t + 16 * m + 8 * i + lane / 4;
#pragma unroll
            for (int n = 0; n < D / 8; n++) sum[m][n][2 * i] *= scale, sum[m][n][2 * i + 1] *= scale;
            if (a.lse.data && lane % 4 == 0 && row < a.T)
                *hx_row_value<float>(a.lse, b, h, row) = rows.most[m][i] * (float)a.scale + logf(total);
        }
}

template <class T, int D> static __global__ void __launch_bounds__(THREADS) flash_forward(hx_attention a) {
    typedef forward_shape<D> F;
    HX_DYNAMIC_SHARED(T, q); /* [ROWS,D], then two stages of k and v [N,D] */
    T *const stages = q + F::ROWS * D;
    const int n_tiles = (a.T + F::ROWS - 1) / F::ROWS;
    const hx_share share = hx_share_of(a.B, a.H, n_tiles);
    const int first = (n_tiles - 1 - share.rank) * F::ROWS, row = (int)threadIdx.x / HX_WARP * 16 * F::M;
    const int64_t b = share.b, h = share.head, g = h / a.group;
    const int n_keys = hx_keys_of(a, min(first + F::ROWS, a.T) - 1), warp_keys = hx_keys_of(a, first + row + 16 * F::M - 1);
    float sum[F::M][D / 8][4] = {};
    row_state<F::M> rows = {};
    left_rows<T, D, F::M, F::HELD> left;
    for (int m = 0; m < F::M; m++) rows.most[m][0] = rows.most[m][1] = -INFINITY;
    fetch<T, D, F::ROWS>(q, a.q, b, h, first, a.T);
    for (int s = -F::N; s < n_keys; s += F::N) { /* the first turn only starts the first stage */
        const T *const k = stages + ((s / F::N) & 1) * 2 * F::N * D;
        hx_cp_async_wait<0>();
        __syncthreads();
        if (s == 0) left.open(q, row);
        if (s + F::N < n_keys) {
            T *const next = stages + ((s / F::N + 1) & 1) * 2 * F::N * D;
            fetch<T, D, F::N>(next, a.k, b, g, s + F::N, a.S);
            fetch<T, D, F::N>(next + F::N * D, a.v, b, g, s + F::N, a.S);
            hx_cp_async_commit();
        }
        if (s < 0 || s >= warp_keys) continue;
        float p[F::M][F::N / 8][4];
        rows_by_rows(p, left, k);
        if (s + F::N > hx_keys_of(a, first + row)) hide_keys(a, p, first + row, s);
        softmax_step<D>(p, (float)a.scale * LOG2E, rows, sum);
        weights_by_rows<T, D>(sum, p, k + F::N * D);
    }
    normalise<D>(a, b, h, first + row, rows, sum);
    put<T, D>(a.o, b, h, first, a.T, q, row, sum, 1);
}

/* ---- backward ---- */

/* What the backward kernels need of each query, [B H, padded]: lse log2(e), +inf beyond T, where weights become 0; and
 * delta = do.o */
typedef struct flash_rows {
    float *lse2, *delta;
    int padded;
} flash_rows;

/* D / 8 threads for a row, 16 bytes of it each; as many rows as there are divide into blocks. Memory: do and o once. */
template <class T, int D> static __global__ void __launch_bounds__(THREADS) flash_delta(hx_attention a, flash_rows rows) {
    const int lanes = D / 8, lane = (int)threadIdx.x % lanes;
    const int64_t row = (int64_t)blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    const int64_t t = row % rows.padded, h = row / rows.padded % a.H, b = row / rows.padded / a.H;
    float sum = 0;
    if (t < a.T) {
        alignas(16) T o[8], dout[8];
        *reinterpret_cast<uint4 *>(o) = *reinterpret_cast<const uint4 *>(hx_head_row<T>(a.o, b, t, h) + 8 * lane);
        *reinterpret_cast<uint4 *>(dout) = *reinterpret_cast<const uint4 *>(hx_head_row<T>(a.dout, b, t, h) + 8 * lane);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += hx_load(o[i]) * hx_load(dout[i]);
    }
    for (int i = lanes / 2; i > 0; i /= 2) sum += __shfl_xor_sync(HX_FULL_MASK, sum, i);
    if (lane != 0) return;
    rows.delta[row] = sum;
    rows.lse2[row] = t < a.T ? *hx_row_value<float>(a.lse, b, h, t) * LOG2E : INFINITY;
}

template <class T, int D> static __global__ void __launch_bounds__(THREADS) flash_bwd_keys(hx_attention a, flash_rows rows) {
    typedef keys_shape<D> F;
    HX_DYNAMIC_SHARED(T, k); /* [ROWS,D], v [ROWS,D], then two stages of q and do [N,D] and of lse2 and delta [N] */
    T *const v = k + F::ROWS * D, *const stages = v + F::ROWS * D;
    float *const values = reinterpret_cast<float *>(stages + 4 * F::N * D);
    const hx_share share = hx_share_of(a.B, a.G, (a.S + F::ROWS - 1) / F::ROWS);
    const int first = share.rank * F::ROWS, row = (int)threadIdx.x / HX_WARP * 16 * F::M, lane = (int)threadIdx.x % HX_WARP;
    const int first_t = hx_first_query(a, first) / F::N * F::N, n_tiles = (a.T - first_t + F::N - 1) / F::N; /* of a head */
    const int64_t b = share.b, g = share.head;
    float dk[F::M][D / 8][4] = {}, dv[F::M][D / 8][4] = {};
    left_rows<T, D, F::M, F::HELD> left_k, left_v;
    fetch<T, D, F::ROWS>(k, a.k, b, g, first, a.S);
    fetch<T, D, F::ROWS>(v, a.v, b, g, first, a.S);
    int t = first_t, next_t = first_t, h = (int)g * a.group; /* this tile, and head and place of the one to be fetched */
    /* the first turn only starts the first stage */
    for (int i = -1, n = n_tiles * a.group; i < n; i++, t = next_t, next_t += F::N) {
        const T *const q = stages + (i & 1) * 2 * F::N * D;
        const float *const lse2 = values + (i & 1) * 2 * F::N, *const delta = lse2 + F::N;
        if (next_t >= a.T) next_t = first_t, h++;
        hx_cp_async_wait<0>();
        __syncthreads();
        if (i == 0) left_k.open(k, row), left_v.open(v, row);
        if (i + 1 < n) {
            const int64_t from = (b * a.H + h) * rows.padded + next_t;
            T *const next = stages + ((i + 1) & 1) * 2 * F::N * D;
            float *const next_values = values + ((i + 1) & 1) * 2 * F::N;
            fetch<T, D, F::N>(next, a.q, b, h, next_t, a.T);
            fetch<T, D, F::N>(next + F::N * D, a.dout, b, h, next_t, a.T);
            fetch_values<F::N>(next_values, rows.lse2 + from);
            fetch_values<F::N>(next_values + F::N, rows.delta + from);
            hx_cp_async_commit();
        }
        if (i < 0 || t + F::N <= hx_first_query(a, first + row)) continue;
        float p[F::M][F::N / 8][4], ds[F::M][F::N / 8][4];
        rows_by_rows(p, left_k, q);
        rows_by_rows(ds, left_v, q + F::N * D);
        if (t < hx_first_query(a, first + row + 16 * F::M - 1)) hide_queries(a, p, first + row, t);
#pragma unroll
        for (int n = 0; n < F::N / 8; n++) {
            const float2 lse_n = *reinterpret_cast<const float2 *>(lse2 + 8 * n + 2 * (lane % 4));
            const float2 delta_n = *reinterpret_cast<const float2 *>(delta + 8 * n + 2 * (lane % 4));
#pragma unroll
            for (int m = 0; m < F::M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    p[m][n][i] = hx_exp2(fmaf(p[m][n][i], (float)a.scale * LOG2E, i % 2 ? -lse_n.y : -lse_n.x));
                    ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - (i % 2 ? delta_n.y : delta_n.x));
                }
        }
        weights_by_rows<T, D>(dv, p, q + F::N * D);
        weights_by_rows<T, D>(dk, ds, q);
    }
    put<T, D>(a.dk, b, g, first, a.S, k, row, dk, (float)a.scale);
    put<T, D>(a.dv, b, g, first, a.S, v, row, dv, 1);
}

template <class T, int D> static __global__ void __launch_bounds__(THREADS) flash_bwd_queries(hx_attention a, flash_rows rows) {
    typedef queries_shape<D> F;
    HX_DYNAMIC_SHARED(T, q); /* [ROWS,D], do [ROWS,D], then two stages of k and v [N,D] */
    T *const dout = q + F::ROWS * D, *const stages = dout + F::ROWS * D;
    const int n_tiles = (a.T + F::ROWS - 1) / F::ROWS, lane = (int)threadIdx.x % HX_WARP;
    const hx_share share = hx_share_of(a.B, a.H, n_tiles);
    const int first = (n_tiles - 1 - share.rank) * F::ROWS, row = (int)threadIdx.x / HX_WARP * 16 * F::M;
    const int64_t b = share.b, h = share.head, g = h / a.group;
    const int n_keys = hx_keys_of(a, min(first + F::ROWS, a.T) - 1), warp_keys = hx_keys_of(a, first + row + 16 * F::M - 1);
    float dq[F::M][D / 8][4] = {}, lse2[F::M][2], delta[F::M][2];
    left_rows<T, D, F::M, F::HELD> left_q, left_do;
    for (int m = 0; m < F::M; m++)
        for (int i = 0; i < 2; i++) {
            const int t = first + row + 16 * m + 8 * i + lane / 4;
            lse2[m][i] = t < a.T ? rows.lse2[(b * a.H + h) * rows.padded + t] : INFINITY;
            delta[m][i] = t < a.T ? rows.delta[(b * a.H + h) * rows.padded + t] : 0;
        }
    fetch<T, D, F::ROWS>(q, a.q, b, h, first, a.T);
    fetch<T, D, F::ROWS>(dout, a.dout, b, h, first, a.T);
    for (int s = -F::N; s < n_keys; s += F::N) { /* the first turn only starts the first stage */
        const T *const k = stages + ((s / F::N) & 1) * 2 * F::N * D;
        hx_cp_async_wait<0>();
        __syncthreads();
        if (s == 0) left_q.open(q, row), left_do.open(dout, row);
        if (s + F::N < n_keys) {
            T *const next = stages + ((s / F::N + 1) & 1) * 2 * F::N * D;
            fetch<T, D, F::N>(next, a.k, b, g, s + F::N, a.S);
            fetch<T, D, F::N>(next + F::N * D, a.v, b, g, s + F::N, a.S);
            hx_cp_async_commit();
        }
        if (s < 0 || s >= warp_keys) continue;
        float p[F::M][F::N / 8][4], ds[F::M][F::N / 8][4];
        rows_by_rows(p, left_q, k);
        rows_by_rows(ds, left_do, k + F::N * D);
        if (s + F::N > hx_keys_of(a, first + row)) hide_keys(a, p, first + row, s);
#pragma unroll
        for (int m = 0; m < F::M; m++)
#pragma unroll
            for (int n = 0; n < F::N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ds[m][n][i] = hx_exp2(fmaf(p[m][n][i], (float)a.scale * LOG2E, -lse2[m][i / 2])) * (ds[m][n][i] - delta[m][i / 2]);
        weights_by_rows<T, D>(dq, ds, k);
    }
    put<T, D>(a.dq, b, h, first, a.T, q, row, dq, (float)a.scale);
}

/* ---- launchers ---- */

static bool is_aligned(const hx_heads &x) {
    return x.data == NULL || (x.column == 1 && !x.is_wide && ((uintptr_t)x.data % 16 | (uintptr_t)((x.batch | x.step | x.head) & 7)) == 0);
}

bool hx__flash_takes(const hx_attention &a, hx_dtype dtype) {
    const hx_heads *const operands[] = {&a.q, &a.k, &a.v, &a.o, &a.dout, &a.dq, &a.dk, &a.dv};
    for (const hx_heads *x : operands)
        if (!is_aligned(*x)) return false;
    return (dtype == HX_BF16 || dtype == HX_F16) && (a.D == 64 || a.D == 128) && a.scale > 0 && a.mask.data == NULL;
}

/* n_lists * ceil(n_rows / rows) blocks */
static hx_status launch_grid(int64_t n_lists, int64_t n_rows, int64_t rows, dim3 *out) {
    return hx__attention_grid(n_lists * hx__cuda_ceil_div(n_rows, rows), out);
}

/* Bytes of `rows` rows that stay and two stages of `passing` rows, each twice: k and v, or q and do. */
template <class T, int D> static size_t shared_of(int rows, int passing) { return (size_t)(rows + 4 * passing) * D * sizeof(T); }

template <class T, int D> static hx_status forward(hx_cuda_stream *s, const hx_attention &a) {
    typedef forward_shape<D> F;
    dim3 grid;
    HX_TRY(launch_grid((int64_t)a.B * a.H, a.T, F::ROWS, &grid));
    return hx_launch(s, "flash_forward", grid, dim3(THREADS), shared_of<T, D>(F::ROWS, F::N), flash_forward<T, D>, a);
}

template <class T, int D> static hx_status backward(hx_cuda_stream *s, const hx_attention &a) {
    typedef keys_shape<D> K;
    typedef queries_shape<D> Q;
    flash_rows rows = {NULL, NULL, (int)hx__cuda_ceil_div(a.T, PAD) * PAD};
    const int64_t n_values = (int64_t)a.B * a.H * rows.padded;
    void *values;
    dim3 grid;
    HX_TRY(hx__cuda_scratch(s, (size_t)n_values * 2 * sizeof(float), &values));
    rows.lse2 = static_cast<float *>(values), rows.delta = rows.lse2 + n_values;
    HX_TRY(launch_grid(1, n_values, THREADS / (D / 8), &grid));
    HX_TRY(hx_launch(s, "flash_delta", grid, dim3(THREADS), 0, flash_delta<T, D>, a, rows));
    if (a.dk.data || a.dv.data) {
        HX_TRY(launch_grid((int64_t)a.B * a.G, a.S, K::ROWS, &grid));
        const size_t shared = shared_of<T, D>(2 * K::ROWS, K::N) + 4 * K::N * sizeof(float);
        HX_TRY(hx_launch(s, "flash_bwd_keys", grid, dim3(THREADS), shared, flash_bwd_keys<T, D>, a, rows));
    }
    if (!a.dq.data) return HX_OK;
    HX_TRY(launch_grid((int64_t)a.B * a.H, a.T, Q::ROWS, &grid));
    return hx_launch(s, "flash_bwd_queries", grid, dim3(THREADS), shared_of<T, D>(2 * Q::ROWS, Q::N), flash_bwd_queries<T, D>, a, rows);
}

hx_status hx__flash(hx_cuda_stream *s, hx_dtype dtype, const hx_attention &a) {
    if (dtype == HX_BF16) return a.D == 64 ? forward<__nv_bfloat16, 64>(s, a) : forward<__nv_bfloat16, 128>(s, a);
    return a.D == 64 ? forward<__half, 64>(s, a) : forward<__half, 128>(s, a);
}

hx_status hx__flash_bwd(hx_cuda_stream *s, hx_dtype dtype, const hx_attention &a) {
    if (dtype == HX_BF16) return a.D == 64 ? backward<__nv_bfloat16, 64>(s, a) : backward<__nv_bfloat16, 128>(s, a);
    return a.D == 64 ? backward<__half, 64>(s, a) : backward<__half, 128>(s, a);
}

/* Attention of any dtype, head dim, mask and strides, by tiles of queries and keys (Dao et al. 2022; Milakov &
 * Gimelshein 2018): scores exist for one tile at a time, in registers and shared memory, in the accumulator's type.
 *
 *   forward     a block owns TILE queries of one head and CHUNK columns of the output, walks over the tiles of keys they
 *               see and keeps each row's maximum and sum; what was accumulated shrinks when the maximum grows
 *   backward    with p = exp(scale q.k - lse), delta = do.o and ds = p (do.v - delta):
 *                   dq = scale sum_s ds k,   dk = scale sum_t ds q,   dv = sum_t p do
 *               one kernel for delta; one whose block owns a tile of keys and walks over the queries of the group's heads,
 *               head by head; one whose block owns a tile of queries and walks over keys. Each sum has one owner and one
 *               order.
 *
 * A head dim of more than CHUNK columns takes as many blocks, each of which computes the scores anew: shared memory
 * and registers do not grow with D. Blocks are 16 x 16 threads; thread (x,y) has rows y + 16 i and columns x + 16 j of a
 * tile, so that a half-warp reads neighbouring columns of shared memory, and its rows by broadcast. Tiles are 64 x 64, of
 * f64 32 x 32: 42 KiB and 25 KiB of shared memory, padded by one element a row against conflicts where columns are read.
 * Global memory: q and o once; k and v once for every tile of queries, mostly from L2.
 *
 * A pair that does not see each other has weight 0, but 0 times an infinity or a NaN is NaN: in tiles with such pairs
 * weights of 0 are left out of the products. */
#include <limits.h>
#include <math.h>

#include "backends/cuda/attention.cuh"

enum { SIDE = 16, THREADS = SIDE * SIDE, DEPTH = 16 /* columns of q and k in shared memory at a time */ };

template <class T> struct tile_of { enum { size = 64 }; };
template <> struct tile_of<double> { enum { size = 32 }; };

/* A tile's part of one thread. */
template <class A, int N> struct part {
    A at[N / SIDE][N / SIDE];
};

/* Shared memory of a block. */
template <class A, int N> struct room {
    A left[N][DEPTH + 1], right[N][DEPTH + 1]; /* what scores are made of */
    A weights[N][N + 1];
    A rows[N][N + 1]; /* what is weighed */
};

/* Where a block is: a tile of n_rows queries or keys of a head, and a chunk of columns. */
struct place {
    int64_t b, head;
    int first, column;
};

template <int N> __host__ __device__ int n_chunks(int D) { return D > N ? (D + N - 1) / N : 1; }

/* Chunks of a tile follow each other; from the last tile down if `is_reversed`. */
template <int N> __device__ place place_of(const hx_attention &a, int n_heads, int n_rows, bool is_reversed) {
    const int n_tiles = (n_rows + N - 1) / N;
    const hx_share share = hx_share_of(a.B, n_heads, n_tiles * n_chunks<N>(a.D));
    const int tile = share.rank / n_chunks<N>(a.D);
    return place{share.b, share.head, (is_reversed ? n_tiles - 1 - tile : tile) * N, share.rank % n_chunks<N>(a.D) * N};
}

/* Rows first .. of x[b,:,head,:] and columns column .. to shared memory, zeros beyond n_rows and D. */
template <class T, class A, int N, int W, int LD>
__device__ void load(A (&to)[N][LD], const hx_heads &x, int64_t b, int64_t head, int first, int n_rows, int column, int D) {
    const int tid = (int)(threadIdx.y * SIDE + threadIdx.x), c = tid % W, step = THREADS / W;
    const T *from = hx_head_row<T>(x, b, first + tid / W, head) + (column + c) * x.column;
#pragma unroll 4
    for (int r = tid / W; r < N; r += step, from += step * x.step)
        to[r][c] = first + r < n_rows && column + c < D ? hx_load(*from) : (A)0;
}

/* out[i][j] = row first_x + i of x[b,:,hx,:] times row first_y + j of y[b,:,hy,:] */
template <class T, class A, int N>
__device__ void row_products(room<A, N> &m, int D, const hx_heads &x, int64_t head_x, int first_x, int n_x, const hx_heads &y,
                             int64_t head_y, int first_y, int n_y, int64_t b, part<A, N> &out) {
    const int R = N / SIDE, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) out.at[i][j] = 0;
    for (int d = 0; d < D; d += DEPTH) {
        __syncthreads(); /* the room is still read */
        load<T, A, N, DEPTH>(m.left, x, b, head_x, first_x, n_x, d, D);
        load<T, A, N, DEPTH>(m.right, y, b, head_y, first_y, n_y, d, D);
        __syncthreads();
#pragma unroll 4
        for (int c = 0; c < DEPTH; c++) {
            A left[R], right[R];
            for (int i = 0; i < R; i++) left[i] = m.left[ty + SIDE * i][c];
            for (int j = 0; j < R; j++) right[j] = m.right[tx + SIDE * j][c];
            for (int i = 0; i < R; i++)
                for (int j = 0; j < R; j++) out.at[i][j] += left[i] * right[j];
        }
    }
}

/* sum += weights rows, or weights^T rows; rows: first .. and columns column .. of x[b,:,head,:]. */
template <class T, class A, int N, bool TRANSPOSED>
__device__ void weigh(room<A, N> &m, const part<A, N> &weights, bool is_partial, const hx_heads &x, int64_t b, int64_t head, int first,
                      int n_rows, int column, int D, part<A, N> &sum) {
    const int R = N / SIDE, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    __syncthreads();
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) m.weights[ty + SIDE * i][tx + SIDE * j] = weights.at[i][j];
    load<T, A, N, N>(m.rows, x, b, head, first, n_rows, column, D);
    __syncthreads();
#pragma unroll 2
    for (int c = 0; c < N; c++) {
        A left[R], right[R];
        for (int i = 0; i < R; i++) left[i] = TRANSPOSED ? m.weights[c][ty + SIDE * i] : m.weights[ty + SIDE * i][c];
        for (int j = 0; j < R; j++) right[j] = m.rows[c][tx + SIDE * j];
        for (int i = 0; i < R; i++)
            for (int j = 0; j < R; j++)
                if (!is_partial || left[i] != 0) sum.at[i][j] += left[i] * right[j];
    }
}

/* Do query t and key s see each other? Either may lie beyond the end. */
__device__ __forceinline__ bool sees(const hx_attention &a, int64_t b, int64_t h, int t, int s) {
    if (t >= a.T || s >= hx_keys_of(a, t)) return false;
    return !a.mask.data || a.mask.data[b * a.mask.batch + h * a.mask.head + t * a.mask.query + s * a.mask.key];
}

/* May a pair of the tile of queries t .. and keys s .. not see each other? */
template <int N> __device__ bool has_hidden(const hx_attention &a, int t, int s) {
    return a.mask.data != NULL || t + N > a.T || s + N > hx_keys_of(a, t);
}

/* Rows first .. of y[b,:,head,:] from column on = what a block has summed, times `scale`. */
template <class T, class A, int N>
__device__ void put(const hx_heads &y, int64_t b, int64_t head, int first, int n_rows, int column, int D, const part<A, N> &sum, A scale) {
    const int R = N / SIDE;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) {
            const int r = first + (int)threadIdx.y + SIDE * i, c = column + (int)threadIdx.x + SIDE * j;
            if (r >= n_rows || c >= D) continue;
            if (y.is_wide)
                hx_head_row<float>(y, b, r, head)[c * y.column] = (float)(sum.at[i][j] * scale);
            else
                hx_store(hx_head_row<T>(y, b, r, head) + c * y.column, sum.at[i][j] * scale);
        }
}

/* ---- forward ---- */

/* A row's values lie in the 16 threads of one y, which are half a warp. */
template <class A> __device__ __forceinline__ A row_sum(A x) {
    for (int lane = SIDE / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(HX_FULL_MASK, x, lane);
    return x;
}
template <class A> __device__ __forceinline__ A row_max(A x) {
    for (int lane = SIDE / 2; lane > 0; lane /= 2) x = fmax(x, __shfl_xor_sync(HX_FULL_MASK, x, lane));
    return x;
}

/* Row i of a tile of scores becomes weights relative to the row's maximum so far; returns what earlier sums shrink by. */
template <class A, int N> __device__ A softmax_step(A (&row)[N / SIDE], const bool (&seen)[N / SIDE], A &most, A &sum) {
    const int R = N / SIDE;
    A top = most, add = 0;
    for (int j = 0; j < R; j++) top = seen[j] ? fmax(top, row[j]) : top;
    top = row_max(top);
    const A base = top == -(A)INFINITY ? (A)0 : top; /* no key so far */
    for (int j = 0; j < R; j++) {
        row[j] = seen[j] ? exp(row[j] - base) : (A)0;
        add += row[j];
    }
    const A shrink = exp(most - base);
    sum = sum * shrink + row_sum(add);
    most = top;
    return shrink;
}

template <class T> static __global__ void __launch_bounds__(THREADS, 2) attention_forward(hx_attention a) {
    typedef hx_accum_t<T> A;
    const int N = tile_of<T>::size, R = N / SIDE;
    typedef room<A, N> block_room;
    HX_SHARED(block_room, m, );
    const place at = place_of<N>(a, a.H, a.T, true);
    const int64_t g = at.head / a.group;
    const int last = hx_keys_of(a, (at.first + N < a.T ? at.first + N : a.T) - 1);
    part<A, N> sum = {};
    A most[R], total[R];
    for (int i = 0; i < R; i++) most[i] = -(A)INFINITY, total[i] = 0;
    for (int s = 0; s < last; s += N) {
        part<A, N> p;
        row_products<T, A, N>(m, a.D, a.q, at.head, at.first, a.T, a.k, g, s, a.S, at.b, p);
        for (int i = 0; i < R; i++) {
            bool seen[R];
            for (int j = 0; j < R; j++) {
                seen[j] = sees(a, at.b, at.head, at.first + (int)threadIdx.y + SIDE * i, s + (int)threadIdx.x + SIDE * j);
                p.at[i][j] *= (A)a.scale;
            }
            const A shrink = softmax_step<A, N>(p.at[i], seen, most[i], total[i]);
            for (int j = 0; j < R; j++) sum.at[i][j] *= shrink;
        }
        weigh<T, A, N, false>(m, p, has_hidden<N>(a, at.first, s), a.v, at.b, g, s, a.S, at.column, a.D, sum);
    }
    for (int i = 0; i < R; i++) {
        const int t = at.first + (int)threadIdx.y + SIDE * i;
        for (int j = 0; j < R; j++) sum.at[i][j] = total[i] == 0 ? (A)0 : sum.at[i][j] / total[i];
        if (a.lse.data && at.column == 0 && threadIdx.x == 0 && t < a.T)
            *hx_row_value<A>(a.lse, at.b, at.head, t) = total[i] == 0 ? -(A)INFINITY : most[i] + log(total[i]);
    }
    put<T, A, N>(a.o, at.b, at.head, at.first, a.T, at.column, a.D, sum, (A)1);
}

/* ---- backward ---- */

/* delta[b,h,t] = do.o: a warp for each row. Memory: do and o once. */
enum { DELTA_ROWS = THREADS / HX_WARP };
template <class T> static __global__ void __launch_bounds__(THREADS) attention_delta(hx_attention a, hx_row_values delta) {
    typedef hx_accum_t<T> A;
    const int64_t row = (int64_t)blockIdx.x * DELTA_ROWS + threadIdx.y;
    if (row >= (int64_t)a.B * a.H * a.T) return;
    const int64_t t = row % a.T, h = row / a.T % a.H, b = row / a.T / a.H;
    const T *o = hx_head_row<T>(a.o, b, t, h), *dout = hx_head_row<T>(a.dout, b, t, h);
    A sum = 0;
    for (int d = (int)threadIdx.x; d < a.D; d += HX_WARP) sum += hx_load(o[d * a.o.column]) * hx_load(dout[d * a.dout.column]);
    sum = hx_warp_sum(sum);
    if (threadIdx.x == 0) *hx_row_value<A>(delta, b, h, t) = sum;
}

/* p and ds / scale of the tile of queries t .. of head h and keys s .. */
template <class T, class A, int N>
__device__ void weights_of(room<A, N> &m, const hx_attention &a, const hx_row_values &delta, int64_t b, int64_t h, int t, int s,
                           part<A, N> &p, part<A, N> &ds) {
    const int R = N / SIDE;
    const int64_t g = h / a.group;
    row_products<T, A, N>(m, a.D, a.q, h, t, a.T, a.k, g, s, a.S, b, p);
    row_products<T, A, N>(m, a.D, a.dout, h, t, a.T, a.v, g, s, a.S, b, ds);
    for (int i = 0; i < R; i++) {
        const int row = t + (int)threadIdx.y + SIDE * i;
        const A lse = row < a.T ? *hx_row_value<A>(a.lse, b, h, row) : (A)0;
        const A shift = row < a.T ? *hx_row_value<A>(delta, b, h, row) : (A)0;
        for (int j = 0; j < R; j++) {
            const bool seen = sees(a, b, h, row, s + (int)threadIdx.x + SIDE * j);
            p.at[i][j] = seen ? exp((A)a.scale * p.at[i][j] - lse) : (A)0;
            ds.at[i][j] = seen ? p.at[i][j] * (ds.at[i][j] - shift) : (A)0;
        }
    }
}

template <class T> static __global__ void __launch_bounds__(THREADS, 1) attention_bwd_keys(hx_attention a, hx_row_values delta) {
    typedef hx_accum_t<T> A;
    const int N = tile_of<T>::size;
    typedef room<A, N> block_room;
    HX_SHARED(block_room, m, );
    const place at = place_of<N>(a, a.G, a.S, false);
    part<A, N> dk = {}, dv = {};
    for (int64_t h = at.head * a.group; h < (at.head + 1) * a.group; h++)
        for (int t = hx_first_query(a, at.first) / N * N; t < a.T; t += N) {
            part<A, N> p, ds;
            const bool is_partial = has_hidden<N>(a, t, at.first);
            weights_of<T, A, N>(m, a, delta, at.b, h, t, at.first, p, ds);
            if (a.dv.data) weigh<T, A, N, true>(m, p, is_partial, a.dout, at.b, h, t, a.T, at.column, a.D, dv);
            if (a.dk.data) weigh<T, A, N, true>(m, ds, is_partial, a.q, at.b, h, t, a.T, at.column, a.D, dk);
        }
    if (a.dv.data) put<T, A, N>(a.dv, at.b, at.head, at.first, a.S, at.column, a.D, dv, (A)1);
    if (a.dk.data) put<T, A, N>(a.dk, at.b, at.head, at.first, a.S, at.column, a.D, dk, (A)a.scale);
}

template <class T> static __global__ void __launch_bounds__(THREADS, 2) attention_bwd_queries(hx_attention a, hx_row_values delta) {
    typedef hx_accum_t<T> A;
    const int N = tile_of<T>::size;
    typedef room<A, N> block_room;
    HX_SHARED(block_room, m, );
    const place at = place_of<N>(a, a.H, a.T, true);
    const int last = hx_keys_of(a, (at.first + N < a.T ? at.first + N : a.T) - 1);
    part<A, N> dq = {};
    for (int s = 0; s < last; s += N) {
        part<A, N> p, ds;
        weights_of<T, A, N>(m, a, delta, at.b, at.head, at.first, s, p, ds);
        weigh<T, A, N, false>(m, ds, has_hidden<N>(a, at.first, s), a.k, at.b, at.head / a.group, s, a.S, at.column, a.D, dq);
    }
    put<T, A, N>(a.dq, at.b, at.head, at.first, a.T, at.column, a.D, dq, (A)a.scale);
}

/* ---- launchers ---- */

hx_status hx__attention_grid(int64_t n_blocks, dim3 *out) {
    if (n_blocks > INT_MAX) return HX_FAIL(HX_ERR_UNSUPPORTED, "attention: %lld blocks: a grid has at most %d", (long long)n_blocks, INT_MAX);
    *out = dim3((unsigned)n_blocks);
    return HX_OK;
}

static hx_heads heads_of(const hx_array *a, hx_dtype dtype) {
    if (hx__cuda_absent(a)) return hx_heads{};
    return hx_heads{a->data, a->strides[0], a->strides[1], a->strides[2], a->strides[3], a->dtype != dtype};
}

static hx_row_values row_values_of(const hx_array *a) {
    if (hx__cuda_absent(a)) return hx_row_values{};
    return hx_row_values{a->data, a->strides[0], a->strides[1], a->strides[2]};
}

/* Operand i, right-aligned to [B,H,T,S]. */
static hx_mask mask_of(const hx_op_call *call, int i) {
    int64_t step[4] = {0};
    if (i >= call->n_in || hx__cuda_absent(&call->in[i])) return hx_mask{};
    const hx_array *a = &call->in[i];
    for (int d = 0; d < a->ndim; d++)
        if (a->dims[d] != 1) step[4 - a->ndim + d] = a->strides[d];
    return hx_mask{static_cast<const uint8_t *>(a->data), step[0], step[1], step[2], step[3]};
}

/* What forward and backward have in common. */
static hx_status attention_of(const hx_op_call *call, int mask, hx_attention *out) {
    const hx_array *q = &call->in[0], *k = &call->in[1];
    const int64_t longest = q->dims[1] > k->dims[1] ? q->dims[1] : k->dims[1];
    hx_attention a = {};
    if (longest > INT_MAX / 2 || q->dims[0] > INT_MAX / (q->dims[2] + 1) || q->dims[3] > INT_MAX / 2)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: q [%lld,%lld,%lld,%lld], %lld keys: expected indices of 31 bits",
                       hx_op_info_get(call->op)->name, (long long)q->dims[0], (long long)q->dims[1], (long long)q->dims[2],
                       (long long)q->dims[3], (long long)k->dims[1]);
    a.B = (int)q->dims[0], a.T = (int)q->dims[1], a.H = (int)q->dims[2], a.D = (int)q->dims[3];
    a.S = (int)k->dims[1], a.G = (int)k->dims[2], a.group = a.H / a.G;
    a.scale = call->attr.attention.scale, a.causal = call->attr.attention.causal;
    a.q = heads_of(q, q->dtype), a.k = heads_of(k, q->dtype), a.v = heads_of(&call->in[2], q->dtype);
    a.mask = mask_of(call, mask);
    *out = a;
    return HX_OK;
}

/* Blocks of a kernel whose blocks own tiles of n_rows rows. */
template <class T> static hx_status grid_of(const hx_attention &a, int n_heads, int n_rows, dim3 *out) {
    const int N = tile_of<T>::size;
    return hx__attention_grid((int64_t)a.B * n_heads * n_chunks<N>(a.D) * hx__cuda_ceil_div(n_rows, N), out);
}

template <class T> static hx_status forward(hx_cuda_stream *s, const hx_attention &a) {
    dim3 grid;
    HX_TRY(grid_of<T>(a, a.H, a.T, &grid));
    return hx_launch(s, "attention_forward", grid, dim3(SIDE, SIDE), 0, attention_forward<T>, a);
}

template <class T> static hx_status backward(hx_cuda_stream *s, const hx_attention &a) {
    const int64_t n_rows = (int64_t)a.B * a.H * a.T;
    hx_row_values delta = {NULL, (int64_t)a.H * a.T, a.T, 1};
    dim3 grid;
    if (n_rows > 0) {
        HX_TRY(hx__cuda_scratch(s, (size_t)n_rows * sizeof(hx_accum_t<T>), &delta.data));
        HX_TRY(hx__attention_grid(hx__cuda_ceil_div(n_rows, DELTA_ROWS), &grid));
        HX_TRY(hx_launch(s, "attention_delta", grid, dim3(HX_WARP, DELTA_ROWS), 0, attention_delta<T>, a, delta));
    }
    if (n_rows > 0 && a.dq.data) {
        HX_TRY(grid_of<T>(a, a.H, a.T, &grid));
        HX_TRY(hx_launch(s, "attention_bwd_queries", grid, dim3(SIDE, SIDE), 0, attention_bwd_queries<T>, a, delta));
    }
    if ((int64_t)a.B * a.G * a.S == 0 || !(a.dk.data || a.dv.data)) return HX_OK;
    HX_TRY(grid_of<T>(a, a.G, a.S, &grid));
    return hx_launch(s, "attention_bwd_keys", grid, dim3(SIDE, SIDE), 0, attention_bwd_keys<T>, a, delta);
}

hx_status hx__cuda_attention(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_dtype dtype = call->in[0].dtype;
    hx_attention a;
    HX_TRY(attention_of(call, 3, &a));
    a.o = heads_of(&call->out[0], dtype);
    a.lse = row_values_of(&call->out[1]);
    if ((int64_t)a.B * a.H * a.T == 0) return HX_OK;
    if (hx__flash_takes(a, dtype)) return hx__flash(s, dtype, a);
    HX_RETURN_BY_FLOAT(dtype, T, forward<T>(s, a));
}

hx_status hx__cuda_attention_bwd(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_dtype dtype = call->in[0].dtype;
    hx_attention a;
    HX_TRY(attention_of(call, 6, &a));
    a.o = heads_of(&call->in[3], dtype);
    a.lse = row_values_of(&call->in[4]);
    a.dout = heads_of(&call->in[5], dtype);
    hx_heads *out[] = {&a.dq, &a.dk, &a.dv};
    for (int i = 0; i < 3; i++) *out[i] = heads_of(&call->out[i], dtype);
    if ((int64_t)a.B * a.H * a.T > 0 && hx__flash_takes(a, dtype)) return hx__flash_bwd(s, dtype, a);
    HX_RETURN_BY_FLOAT(dtype, T, backward<T>(s, a));
}

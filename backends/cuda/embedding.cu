/* Embedding: rows of a table by id, and the sum of gradients of each row.
 *
 * Forward copies rows, 2 elements of traffic for each of the output; a warp to a row, packs of 16 bytes.
 *
 * Backward gives dw [V,C] the rows of dy whose id is v, for each v, in an order that depends on nothing but the ids:
 *   1. keys: the rows of w that the ids name, with V for an id that names none of them;
 *   2. a stable radix sort of (key, position), 8 bits at a time: digits are counted in tiles of SORT_TILE, an exclusive scan
 *      of the counts by digit, then tile, says where each tile's keys of a digit go, and a scatter puts them there in order;
 *   3. sums: the sorted list is cut into tiles of RUN_TILE positions. Where all of an id's positions are in one tile, the
 *      tile adds their rows in order and writes the row of dw; else each tile leaves a partial sum;
 *   4. the partial sums of an id are added by the tile that has its first position: a frequent id is work for many blocks.
 * Memory: dy is read once (2 bytes an element in bf16) and dw written once, filled with 0 before unless it is added to; the
 * sort moves 16 bytes a position and pass, of which there are two for a vocabulary of up to 65,535.
 */
#include "backends/cuda/rows.cuh"

static hx_part part_of(const hx_op_call *call, const hx_array *w) {
    return hx_part_of(call->attr.embedding.start, call->attr.embedding.total, w->dims[0]);
}

/* ---- forward ---- */

template <class T, int V>
static __global__ void take_rows(hx_ids ids, const T *w, int64_t n_ids, hx_part part, int64_t n_cols, hx_out<T> y) {
    typedef hx_accum_t<T> A;
    for (int64_t r = hx_row_first(); r < n_ids; r += hx_row_step()) {
        const int64_t id = ids.at(r);
        const bool is_here = hx_is_here(part, id);
        const A absent = hx_is_known(part, id) ? (A)0 : (A)NAN;
        for (int64_t c = (int64_t)threadIdx.x * V; c < n_cols; c += (int64_t)blockDim.x * V) {
            A x[V];
            for (int i = 0; i < V; i++) x[i] = absent;
            if (is_here) hx_pack_load(w + (id - part.start) * n_cols + c, x);
            y.put(r * n_cols + c, x, false);
        }
    }
}

template <class T, int V> static hx_status take_launch(hx_cuda_stream *s, const hx_op_call *call, int64_t n_ids) {
    const hx_array *w = &call->in[1];
    const hx_rows rows = hx_rows_of(n_ids, w->dims[1], V);
    return hx_launch(s, "take_rows", rows.grid, rows.block, 0, take_rows<T, V>, hx_ids_of(&call->in[0]), static_cast<const T *>(w->data), n_ids,
                     part_of(call, w), w->dims[1], hx_out_of<T>(&call->out[0]));
}

template <class T> static hx_status embedding_run(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *w = &call->in[1], *y = &call->out[0];
    const int64_t n_ids = hx__cuda_count(&call->in[0]);
    if (n_ids == 0 || w->dims[1] == 0 || hx__cuda_absent(y)) return HX_OK;
    return hx_is_packed<T>(w->dims[1], {w->data, y->data}) ? take_launch<T, hx_pack_of<T>::width>(s, call, n_ids)
                                                          : take_launch<T, 1>(s, call, n_ids);
}

hx_status hx__cuda_embedding(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[1].dtype, T, embedding_run<T>(s, call)); }

/* ---- sort ---- */

/* 256 threads: one to each value of a digit. A warp ranks 32 keys at once, 4 times: 1024 keys to a tile, so that 65,536
 * positions make 64 blocks and the counts of a tile are a quarter of its keys. */
enum {
    DIGIT_BITS = 8,
    N_DIGITS = 1 << DIGIT_BITS,
    SORT_THREADS = N_DIGITS,
    SORT_WARPS = SORT_THREADS / HX_WARP,
    SORT_ROUNDS = 4,
    SORT_TILE = SORT_THREADS * SORT_ROUNDS,
    SCAN_THREADS = 1024
};

/* A list of n keys with the positions they came from, ascending when sorted. */
struct key_list {
    uint32_t *keys, *places;
};

static __global__ void make_keys(hx_ids ids, int64_t n, hx_part part, key_list out) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int64_t id = ids.at(i);
    out.keys[i] = (uint32_t)(hx_is_here(part, id) ? id - part.start : part.n);
    out.places[i] = (uint32_t)i;
}

static __device__ __forceinline__ unsigned digit_of(uint32_t key, int shift) { return key >> shift & (N_DIGITS - 1); }

/* counts [N_DIGITS,n_tiles] */
static __global__ void count_digits(const uint32_t *keys, int64_t n, int shift, uint32_t *counts) {
    HX_SHARED(uint32_t, count, [N_DIGITS]);
    count[threadIdx.x] = 0;
    __syncthreads();
    for (int k = 0; k < SORT_ROUNDS; k++) {
        const int64_t i = (int64_t)blockIdx.x * SORT_TILE + k * SORT_THREADS + threadIdx.x;
        if (i < n) atomicAdd(&count[digit_of(keys[i], shift)], 1u);
    }
    __syncthreads();
    counts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

/* Each of counts [n] becomes the sum of those before it. One block, which carries its total from 1024 counts to the next. */
static __global__ void scan_counts(uint32_t *counts, int64_t n) {
    HX_SHARED(uint32_t, totals, [SCAN_THREADS / HX_WARP]);
    const int lane = threadIdx.x % HX_WARP, warp = threadIdx.x / HX_WARP;
    uint32_t carry = 0;
    for (int64_t base = 0; base < n; base += SCAN_THREADS) {
        const int64_t i = base + threadIdx.x;
        const uint32_t count = i < n ? counts[i] : 0;
        uint32_t sum = count, before = carry;
        for (int step = 1; step < HX_WARP; step *= 2) {
            const uint32_t other = __shfl_up_sync(HX_FULL_MASK, sum, step);
            if (lane >= step) sum += other;
        }
        if (lane == HX_WARP - 1) totals[warp] = sum;
        __syncthreads();
        for (int k = 0; k < SCAN_THREADS / HX_WARP; k++) {
            if (k < warp) before += totals[k];
            carry += totals[k];
        }
        __syncthreads(); /* totals are written again in the next turn */
        if (i < n) counts[i] = before + sum - count;
    }
}

/* The lanes of the warp whose digit is this lane's, among those that have one. */
static __device__ __forceinline__ unsigned same_digit(unsigned digit, bool has_one) {
    unsigned lanes = __ballot_sync(HX_FULL_MASK, has_one);
    for (int bit = 0; bit < DIGIT_BITS; bit++) {
        const unsigned set = __ballot_sync(HX_FULL_MASK, digit >> bit & 1);
        lanes &= digit >> bit & 1 ? set : ~set;
    }
    return lanes;
}

/* Warp w of a tile has its keys [128 w, 128 w + 128), 32 at a time in order, so that the keys of a digit stay in order:
 * by tile (offsets), by warp (next, after the second step), by round (next, which counts on), by lane. */
static __global__ void scatter_keys(key_list from, int64_t n, int shift, const uint32_t *offsets, key_list to) {
    HX_SHARED(uint32_t, next, [SORT_WARPS][N_DIGITS]);
    const int lane = threadIdx.x % HX_WARP, warp = threadIdx.x / HX_WARP;
    const int64_t first = (int64_t)blockIdx.x * SORT_TILE + warp * (SORT_TILE / SORT_WARPS) + lane;
    for (int w = 0; w < SORT_WARPS; w++) next[w][threadIdx.x] = 0;
    __syncthreads();
    for (int k = 0; k < SORT_ROUNDS; k++) {
        const int64_t i = first + k * HX_WARP;
        const unsigned digit = i < n ? digit_of(from.keys[i], shift) : 0, lanes = same_digit(digit, i < n);
        if (i < n && __ffs((int)lanes) - 1 == lane) next[warp][digit] += (uint32_t)__popc(lanes);
        __syncwarp();
    }
    __syncthreads();
    uint32_t at = offsets[(int64_t)threadIdx.x * gridDim.x + blockIdx.x];
    for (int w = 0; w < SORT_WARPS; w++) {
        const uint32_t count = next[w][threadIdx.x];
        next[w][threadIdx.x] = at;
        at += count;
    }
    __syncthreads();
    for (int k = 0; k < SORT_ROUNDS; k++) {
        const int64_t i = first + k * HX_WARP;
        const uint32_t key = i < n ? from.keys[i] : 0;
        const unsigned digit = digit_of(key, shift), lanes = same_digit(digit, i < n);
        const uint32_t place = next[warp][digit] + (uint32_t)__popc(lanes & ((1u << lane) - 1));
        __syncwarp();
        if (i < n) {
            to.keys[place] = key;
            to.places[place] = from.places[i];
            if (__ffs((int)lanes) - 1 == lane) next[warp][digit] += (uint32_t)__popc(lanes);
        }
        __syncwarp();
    }
}

static hx_status sort_ids(hx_cuda_stream *s, hx_ids ids, int64_t n, hx_part part, key_list *out) {
    const int64_t n_tiles = hx__cuda_ceil_div(n, SORT_TILE);
    uint32_t *memory, *counts;
    HX_TRY(hx__cuda_scratch(s, 4 * (size_t)n * sizeof *memory, reinterpret_cast<void **>(&memory)));
    HX_TRY(hx__cuda_scratch(s, (size_t)(N_DIGITS * n_tiles) * sizeof *counts, reinterpret_cast<void **>(&counts)));
    key_list from = {memory, memory + n}, to = {memory + 2 * n, memory + 3 * n};
    HX_TRY(hx_launch(s, "make_keys", dim3((unsigned)hx__cuda_ceil_div(n, SORT_THREADS)), dim3(SORT_THREADS), 0, make_keys, ids, n, part, from));
    for (int shift = 0; shift < 32 && part.n >> shift > 0; shift += DIGIT_BITS) { /* the largest key is n */
        const dim3 grid((unsigned)n_tiles), block(SORT_THREADS);
        HX_TRY(hx_launch(s, "count_digits", grid, block, 0, count_digits, from.keys, n, shift, counts));
        HX_TRY(hx_launch(s, "scan_counts", dim3(1), dim3(SCAN_THREADS), 0, scan_counts, counts, N_DIGITS * n_tiles));
        HX_TRY(hx_launch(s, "scatter_keys", grid, block, 0, scatter_keys, from, n, shift, counts, to));
        const key_list sorted = to;
        to = from;
        from = sorted;
    }
    *out = from;
    return HX_OK;
}

/* ---- sums ---- */

enum {
    RUN_TILE = 64,     /* positions that one block adds in a row: 1024 blocks for 65,536 */
    RUN_THREADS = 128, /* of a block; 768 columns are 96 packs in bf16 */
    JOIN_THREADS = 8   /* of a column, where partial sums are added */
};

template <class T> struct run_sums {
    typedef hx_accum_t<T> A;
    key_list list; /* [n], sorted */
    const T *dy;   /* [n,n_cols] */
    hx_out<T> dw;  /* [n_rows,n_cols] */
    A *head, *tail; /* [tiles,n_cols]: of the run that began in an earlier tile; of the one that goes on in the next */
    int64_t n, n_rows, n_cols;
    bool accumulate;
};

template <class T, int V> static __global__ void sum_runs(run_sums<T> a) {
    typedef hx_accum_t<T> A;
    const int64_t first = (int64_t)blockIdx.x * RUN_TILE, last = first + RUN_TILE < a.n ? first + RUN_TILE : a.n;
    const uint32_t *keys = a.list.keys;
    for (int64_t c = (int64_t)threadIdx.x * V; c < a.n_cols; c += (int64_t)blockDim.x * V) {
        bool is_head = first > 0 && keys[first - 1] == keys[first];
        A sum[V], x[V];
        for (int i = 0; i < V; i++) sum[i] = 0;
        for (int64_t e = first; e < last && keys[e] < a.n_rows; e++) {
            const bool ends = e + 1 == a.n || keys[e + 1] != keys[e];
            hx_pack_load(a.dy + a.list.places[e] * a.n_cols + c, x);
            for (int i = 0; i < V; i++) sum[i] += x[i];
            if (!ends && e + 1 < last) continue;
            if (is_head) hx_pack_store(a.head + blockIdx.x * a.n_cols + c, sum);
            else if (ends) a.dw.put(keys[e] * a.n_cols + c, sum, a.accumulate);
            else hx_pack_store(a.tail + blockIdx.x * a.n_cols + c, sum);
            for (int i = 0; i < V; i++) sum[i] = 0;
            is_head = false;
        }
    }
}

/* The first tile after `tile` that does not begin with the key, by bisection: those that do come first. */
static __device__ __forceinline__ int64_t run_end(const uint32_t *keys, int64_t n, int64_t tile, uint32_t key) {
    int64_t low = tile + 1, high = (n + RUN_TILE - 1) / RUN_TILE;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (keys[middle * RUN_TILE] == key) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The tile's last run, if it began here and goes on: its tail, and the heads of the tiles that it covers, 8 threads to a
 * column taking every eighth, and added in order. 32 columns to a turn: 128 bytes of each partial sum. */
template <class T> static __global__ void join_runs(run_sums<T> a) {
    typedef hx_accum_t<T> A;
    HX_SHARED(A, part, [JOIN_THREADS][HX_WARP]);
    const uint32_t *keys = a.list.keys;
    const int64_t tile = blockIdx.x, first = tile * RUN_TILE, last = first + RUN_TILE;
    if (last >= a.n || keys[last] != keys[last - 1] || keys[last] >= a.n_rows) return;
    if (first > 0 && keys[first - 1] == keys[last]) return; /* it began before */
    const uint32_t key = keys[last];
    const int64_t end = run_end(keys, a.n, tile, key);
    for (int64_t c0 = (int64_t)blockIdx.y * HX_WARP; c0 < a.n_cols; c0 += (int64_t)gridDim.y * HX_WARP) {
        const int64_t c = c0 + threadIdx.x;
        A sum[1] = {0};
        for (int64_t t = tile + threadIdx.y; t < end && c < a.n_cols; t += JOIN_THREADS) sum[0] += (t == tile ? a.tail : a.head)[t * a.n_cols + c];
        __syncthreads(); /* part may still be read from the last turn */
        part[threadIdx.y][threadIdx.x] = sum[0];
        __syncthreads();
        if (threadIdx.y > 0 || c >= a.n_cols) continue;
        for (int y = 1; y < JOIN_THREADS; y++) sum[0] += part[y][threadIdx.x];
        a.dw.put(key * a.n_cols + c, sum, a.accumulate);
    }
}

template <class T> static hx_status sum_launch(hx_cuda_stream *s, run_sums<T> a) {
    typedef hx_accum_t<T> A;
    const int64_t n_tiles = hx__cuda_ceil_div(a.n, RUN_TILE);
    const dim3 grid((unsigned)n_tiles), block(RUN_THREADS);
    HX_TRY(hx__cuda_scratch(s, 2 * (size_t)(n_tiles * a.n_cols) * sizeof(A), reinterpret_cast<void **>(&a.head)));
    a.tail = a.head + n_tiles * a.n_cols;
    if (hx_is_packed<T>(a.n_cols, {a.dy, a.dw.address()}))
        HX_TRY(hx_launch(s, "sum_runs", grid, block, 0, sum_runs<T, hx_pack_of<T>::width>, a));
    else
        HX_TRY(hx_launch(s, "sum_runs", grid, block, 0, sum_runs<T, 1>, a));
    const dim3 join_grid((unsigned)n_tiles, (unsigned)hx__cuda_min(hx__cuda_ceil_div(a.n_cols, HX_WARP), 64));
    return hx_launch(s, "join_runs", join_grid, dim3(HX_WARP, JOIN_THREADS), 0, join_runs<T>, a);
}

template <class T> static hx_status embedding_bwd_run(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *dw = &call->out[0];
    const double zero = 0; /* as bytes, of every floating type */
    run_sums<T> a = {};
    a.n = hx__cuda_count(&call->in[0]);
    a.dy = static_cast<const T *>(call->in[1].data);
    a.dw = hx_out_of<T>(dw);
    a.n_rows = dw->dims[0];
    a.n_cols = dw->dims[1];
    a.accumulate = call->attr.embedding.accumulate;
    if (a.n_rows == 0 || a.n_cols == 0) return HX_OK;
    if (a.n_rows >= UINT32_MAX || a.n >= UINT32_MAX)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "embedding_bwd: %lld ids and %lld rows: expected fewer than 2^32 - 1 of both", (long long)a.n,
                       (long long)a.n_rows);
    if (!a.accumulate) HX_TRY(hx__cuda_fill(s, dw->data, &zero, hx_dtype_bytes(dw->dtype), a.n_rows * a.n_cols));
    if (a.n == 0) return HX_OK;
    HX_TRY(sort_ids(s, hx_ids_of(&call->in[0]), a.n, part_of(call, dw), &a.list));
    return sum_launch<T>(s, a);
}

hx_status hx__cuda_embedding_bwd(hx_cuda_stream *s, const hx_op_call *call) {
    HX_RETURN_BY_FLOAT(call->in[1].dtype, T, embedding_bwd_run<T>(s, call));
}

/* Sums over dims.
 *
 * 1. The dims are divided into those that stay and those that are summed, each merged (hx_walk).
 * 2. Where the innermost dim stays and lies densely (bias gradients), blocks of 8 x 32 threads each add 256 rows of a tile of
 *    columns: sum_columns. Elsewhere (whole tensors, rows, anything strided) a team of threads, a warp for up to 1024
 *    elements and a block for more, adds the elements of one output, or a chunk of them: sum_runs.
 * 3. Where that leaves several parts of an output, they lie in scratch in f64 and are summed in the same way, until one is left.
 *
 * Which thread adds what depends on shapes and on which dim is dense, not on alignment, on the grid or on the device: the
 * same bits everywhere. A thread adds at most 64 elements in f32 (f64 for f64); from there on all is f64.
 *
 * All are bound by reading the input once, 16 bytes to a load where elements are dense; the parts that a level
 * writes are a 64th of what it read, or less. Blocks have 256 threads: eight fit on a multiprocessor, each with its loads. */
#include "backends/cuda/walk.cuh"

enum {
    TEAM_MOST = 1024, /* elements that a warp adds */
    PACKS = 8,        /* of each thread for a chunk: enough loads in flight, enough chunks to occupy the device */
    LANES_X = 32,     /* of a block of sum_columns: packs of columns */
    LANES_Y = 8,      /* rows at once */
    ROWS = 256,       /* of a block */
    COLUMN_MIN = 8    /* narrower rows would leave most lanes idle: they are summed output by output */
};

/* ---- where totals go ---- */

struct sink {
    double *parts; /* NULL: totals go to y */
    void *y;
    hx_dtype dtype;
    bool accumulate;
};

static __device__ __forceinline__ void put(const sink &to, int64_t at_part, int64_t at, double total) {
    if (to.parts) to.parts[at_part] = total;
    else hx_store_as(to.dtype, to.y, at, to.accumulate ? hx_load_as<double>(to.dtype, to.y, at) + total : total);
}

/* ---- the kernels ---- */

struct runs {
    hx_walk<2> kept; /* x, y */
    hx_walk<1> summed;
    int64_t chunk, n_chunks; /* elements; of an output */
    bool is_packed;          /* V elements from a multiple of V on are a pack */
};

/* The terms of x [summed] from i on, V at most. */
template <class T> static __device__ __forceinline__ hx_accum_t<T> add_pack(const runs &r, const T *x, int64_t i, int64_t end, hx_accum_t<T> sum) {
    constexpr int V = 16 / sizeof(T);
    int64_t at[1];
    if (r.is_packed && i + V <= end) {
        hx_walk_at(r.summed, i, at);
        const hx_pack<T> pack = *reinterpret_cast<const hx_pack<T> *>(x + at[0]);
        for (int e = 0; e < V; e++) sum += hx_load(pack.v[e]);
        return sum;
    }
    for (int e = 0; e < V && i + e < end; e++) {
        hx_walk_at(r.summed, i + e, at);
        sum += hx_load(x[at[0]]);
    }
    return sum;
}

/* A task is a chunk of an output; TEAM threads share it. */
template <class T, int TEAM> static __global__ void sum_runs(runs r, const T *x, sink to) {
    constexpr int V = 16 / sizeof(T), N_TEAMS = HX_BLOCK / TEAM;
    const int lane = (int)threadIdx.x % TEAM;
    for (int64_t task = (int64_t)blockIdx.x * N_TEAMS + threadIdx.x / TEAM; task < r.kept.count * r.n_chunks;
         task += (int64_t)gridDim.x * N_TEAMS) {
        const int64_t output = task / r.n_chunks, from = task % r.n_chunks * r.chunk;
        const int64_t end = from + r.chunk < r.summed.count ? from + r.chunk : r.summed.count;
        hx_accum_t<T> sum = 0;
        int64_t at[2];
        hx_walk_at(r.kept, output, at);
        for (int64_t i = from + lane * V; i < end; i += TEAM * V) sum = add_pack(r, x + at[0], i, end, sum);
        const double total = TEAM == HX_WARP ? hx_warp_sum((double)sum) : hx_block_sum((double)sum);
        if (lane == 0) put(to, task, at[1], total);
    }
}

struct columns {
    hx_walk<2> outer;  /* x, y: kept dims but for the columns */
    hx_walk<1> summed; /* rows */
    int64_t n_cols, y_step; /* from column to column of y */
    int64_t n_tiles, n_blocks; /* of an outer position */
    bool is_packed; /* V columns from a multiple of V on are a pack */
};

template <class T> static __device__ __forceinline__ void add_row(const columns &c, const T *x, int64_t col, hx_accum_t<T> *sum) {
    constexpr int V = 16 / sizeof(T);
    if (c.is_packed && col + V <= c.n_cols) {
        const hx_pack<T> pack = *reinterpret_cast<const hx_pack<T> *>(x + col);
        for (int e = 0; e < V; e++) sum[e] += hx_load(pack.v[e]);
    } else {
        for (int e = 0; e < V; e++)
            if (col + e < c.n_cols) sum[e] += hx_load(x[col + e]);
    }
}

/* A task is a tile of columns of a block of rows at an outer position. */
template <class T> static __global__ void sum_columns(columns c, const T *x, sink to) {
    constexpr int V = 16 / sizeof(T), TILE = LANES_X * V;
    HX_SHARED(hx_accum_t<T>, tile, [LANES_Y][TILE]);
    const int lane = (int)threadIdx.x % LANES_X, y = (int)threadIdx.x / LANES_X;
    for (int64_t task = blockIdx.x; task < c.outer.count * c.n_blocks * c.n_tiles; task += gridDim.x) {
        const int64_t from = task % c.n_tiles * TILE, part = task / c.n_tiles, block = part % c.n_blocks;
        const int64_t end = (block + 1) * ROWS < c.summed.count ? (block + 1) * ROWS : c.summed.count;
        hx_accum_t<T> sum[V] = {};
        int64_t at[2], at_row[1];
        hx_walk_at(c.outer, part / c.n_blocks, at);
        for (int64_t row = block * ROWS + y; row < end; row += LANES_Y) {
            hx_walk_at(c.summed, row, at_row);
            add_row(c, x + at[0] + at_row[0], from + lane * V, sum);
        }
        for (int e = 0; e < V; e++) tile[y][lane * V + e] = sum[e];
        __syncthreads();
        for (int k = (int)threadIdx.x; k < TILE && from + k < c.n_cols; k += HX_BLOCK) {
            double total = 0;
            for (int row = 0; row < LANES_Y; row++) total += (double)tile[row][k];
            put(to, part * c.n_cols + from + k, at[1] + (from + k) * c.y_step, total);
        }
        __syncthreads(); /* the tile is written again */
    }
}

/* ---- their launch, level by level ---- */

/* Dims of x and y that stay, dims of x that are summed; those of size 1 leave no trace. */
static void split_dims(const hx_op_call *call, hx_walk<2> *kept, hx_walk<1> *summed) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    *kept = hx_walk_empty<2>();
    *summed = hx_walk_empty<1>();
    for (int d = 0, next = 0, at_y = 0; d < x->ndim; d++) {
        const bool is_summed = next < call->attr.reduce.n_dims && call->attr.reduce.dims[next] == d;
        if (is_summed) hx_walk_push(summed, x->dims[d], {x->strides[d]});
        else hx_walk_push(kept, x->dims[d], {x->strides[d], y->strides[at_y]});
        next += is_summed;
        at_y += !is_summed || call->attr.reduce.keepdim;
    }
}

/* All steps of operand 0 but those of the last n dims are whole packs. */
template <int K> static bool steps_are_packs(const hx_walk<K> &w, int n, int64_t pack) {
    for (int d = 0; d < w.ndim - n; d++)
        if (w.dims[d] > 1 && w.strides[0][d] % pack != 0) return false;
    return true;
}

/* Operand 0 becomes a row-major array of items of n elements. */
static void make_dense(hx_walk<2> *w, int64_t n) {
    for (int d = w->ndim - 1; d >= 0; n *= w->dims[d--]) w->strides[0][d] = n;
}

/* Where this level's totals go: to y if there is one part, else to scratch. */
static hx_status sink_of_level(hx_cuda_stream *s, const sink &y, int64_t n_parts, int64_t n_each, sink *out) {
    void *parts = NULL;
    if (n_each > 1) HX_TRY(hx__cuda_scratch(s, (size_t)n_parts * sizeof(double), &parts));
    *out = y;
    out->parts = (double *)parts;
    return HX_OK;
}

template <class T> static hx_status run_runs(hx_cuda_stream *s, runs r, const void *x, const sink &y) {
    constexpr int64_t V = 16 / sizeof(T);
    const int last = r.summed.ndim - 1;
    const bool is_small = r.summed.count <= TEAM_MOST;
    sink to;
    r.chunk = is_small ? (int64_t)TEAM_MOST : HX_BLOCK * V * PACKS;
    r.n_chunks = r.summed.count > r.chunk ? hx__cuda_ceil_div(r.summed.count, r.chunk) : 1;
    r.is_packed = r.summed.strides[0][last] == 1 && (last == 0 || r.summed.dims[last] % V == 0) && hx_is_aligned(x, 16) &&
                  steps_are_packs(r.summed, 1, V) && steps_are_packs(r.kept, 0, V);
    const int64_t n_tasks = r.kept.count * r.n_chunks;
    HX_TRY(sink_of_level(s, y, n_tasks, r.n_chunks, &to));
    if (is_small)
        return hx_launch(s, "sum_runs", hx_grid(s, hx__cuda_ceil_div(n_tasks, HX_BLOCK / HX_WARP)), dim3(HX_BLOCK), 0,
                         sum_runs<T, HX_WARP>, r, (const T *)x, to);
    HX_TRY(hx_launch(s, "sum_runs", hx_grid(s, n_tasks), dim3(HX_BLOCK), 0, sum_runs<T, HX_BLOCK>, r, (const T *)x, to));
    if (r.n_chunks == 1) return HX_OK;
    runs rest = r; /* of the parts [outputs, chunks]; y's offsets are those of the level before */
    rest.summed = hx_walk_empty<1>();
    hx_walk_push(&rest.summed, r.n_chunks, {1});
    make_dense(&rest.kept, r.n_chunks);
    return run_runs<double>(s, rest, to.parts, y);
}

template <class T> static hx_status run_columns(hx_cuda_stream *s, columns c, const void *x, const sink &y) {
    constexpr int64_t V = 16 / sizeof(T);
    sink to;
    c.n_tiles = hx__cuda_ceil_div(c.n_cols, LANES_X * V);
    c.n_blocks = hx__cuda_ceil_div(c.summed.count, ROWS);
    c.is_packed = hx_is_aligned(x, 16) && steps_are_packs(c.outer, 0, V) && steps_are_packs(c.summed, 0, V);
    HX_TRY(sink_of_level(s, y, c.outer.count * c.n_blocks * c.n_cols, c.n_blocks, &to));
    HX_TRY(hx_launch(s, "sum_columns", hx_grid(s, c.outer.count * c.n_blocks * c.n_tiles), dim3(HX_BLOCK), 0, sum_columns<T>, c,
                     (const T *)x, to));
    if (c.n_blocks == 1) return HX_OK;
    columns rest = c; /* of the parts [outer, blocks, columns] */
    rest.summed = hx_walk_empty<1>();
    hx_walk_push(&rest.summed, c.n_blocks, {c.n_cols});
    make_dense(&rest.outer, c.n_blocks * c.n_cols);
    return run_columns<double>(s, rest, to.parts, y);
}

template <class T> static hx_status sum_as(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *x = &call->in[0];
    const sink y = {NULL, call->out[0].data, call->out[0].dtype, call->attr.reduce.accumulate};
    hx_walk<2> kept;
    hx_walk<1> summed;
    split_dims(call, &kept, &summed);
    const int last = kept.ndim - 1;
    if (kept.count == 0) return HX_OK;
    if (kept.strides[0][last] != 1 || kept.dims[last] < COLUMN_MIN || summed.count <= 1)
        return run_runs<T>(s, {kept, summed, 0, 0, false}, x->data, y);
    columns c = {kept, summed, kept.dims[last], kept.strides[1][last], 0, 0, false};
    hx_walk_pop(&c.outer);
    return run_columns<T>(s, c, x->data, y);
}

hx_status hx__cuda_sum(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, sum_as<T>(s, call)); }

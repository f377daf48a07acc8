/* Layer norm and root-mean-square norm over the last dim, mean being 0 in the latter:
 *     mean = 1/C sum x,  rstd = 1/sqrt(1/C sum (x - mean)^2 + eps),  z = (x - mean) rstd,  y = z w + b
 * or of s = x + r in the place of x, which is then a result too: a residual sum and the norm after it.
 * Backward, with g = dy w:
 *     dx = ds + rstd (g - [1/C sum g] - z 1/C sum(g z))      the bracket for layer norm only, ds if there is one
 *     dw = sum over rows of dy z,  db = sum over rows of dy
 *
 * Memory: forward reads x and writes y once, 2 elements of traffic for each of x (4 bytes in bf16), or 4 with r and s, of
 * which a sum apart would take 3 and the norm 2; w and b stay in cache. Backward reads x, dy and ds and writes dx, 3 or 4
 * elements, and a partial sum of dw and db for each of at most GRAD_BLOCKS blocks: dx and the sums come from one pass over
 * the rows, as a second one would read x and dy from memory again.
 */
#include "backends/cuda/rows.cuh"

/* ---- forward ---- */

enum { KEPT_BYTES = 48 * 1024 }; /* of rows in shared memory: four blocks of 8 warps to an SM and more */

template <class T> struct norm_call {
    typedef hx_accum_t<T> A;
    const T *x, *r; /* [n_rows,n_cols]; r NULL: the norm of x, else of x + r */
    const T *w, *b; /* [n_cols]; b may be NULL */
    hx_out<T> y, s; /* s: x + r */
    A *mean, *rstd; /* [n_rows]; NULL: not wanted */
    int64_t n_rows, n_cols;
    A eps;
    bool is_centred; /* layer norm */
    bool is_kept;    /* shared memory holds the rows of a block */
};

/* V elements of what is normalised: of x, or of x + r rounded to T, as s holds it */
template <class T, int V> static __device__ __forceinline__ void norm_load(const norm_call<T> &a, int64_t at, hx_accum_t<T> (&v)[V]) {
    hx_accum_t<T> r[V];
    T sum[V];
    hx_pack_load(a.x + at, v);
    if (!a.r) return;
    hx_pack_load(a.r + at, r);
    for (int i = 0; i < V; i++) {
        hx_store(&sum[i], v[i] + r[i]);
        v[i] = hx_load(sum[i]);
    }
}

/* A row is read from memory once, into shared memory where it fits (else again, from the cache), so that the variance can
 * take a pass of its own: sum x^2 - mean^2 would lose all digits where the mean is large. A thread reads back what it has
 * put there itself, so no barrier is needed. */
template <class T, int V> static __global__ void norm_rows(norm_call<T> a) {
    typedef hx_accum_t<T> A;
    HX_DYNAMIC_SHARED(T, shared);
    const int64_t n = a.n_cols, first = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
    const A count = n > 0 ? (A)n : (A)1; /* sums over an empty row are 0, and so are its mean and variance */
    T *kept = shared + threadIdx.y * n;
    for (int64_t r = hx_row_first(); r < a.n_rows; r += hx_row_step()) {
        A v[V], w[V], b[V], mean = 0, square = 0;
        for (int64_t c = first; c < n; c += step) {
            norm_load<T, V>(a, r * n + c, v);
            if (a.is_kept) hx_pack_store(kept + c, v);
            if (a.s.is_wanted()) a.s.put(r * n + c, v, false);
            for (int i = 0; i < V; i++) mean += v[i];
        }
        mean = a.is_centred ? hx_row_sum(mean) / count : (A)0;
        for (int64_t c = first; c < n; c += step) {
            if (a.is_kept) hx_pack_load(kept + c, v);
            else norm_load<T, V>(a, r * n + c, v);
            for (int i = 0; i < V; i++) square += (v[i] - mean) * (v[i] - mean);
        }
        const A rstd = (A)1 / sqrt(hx_row_sum(square) / count + a.eps);
        if (threadIdx.x == 0 && a.mean) a.mean[r] = mean;
        if (threadIdx.x == 0 && a.rstd) a.rstd[r] = rstd;
        for (int64_t c = first; c < n && a.y.is_wanted(); c += step) {
            if (a.is_kept) hx_pack_load(kept + c, v);
            else norm_load<T, V>(a, r * n + c, v);
            hx_pack_load(a.w + c, w);
            for (int i = 0; i < V; i++) b[i] = 0;
            if (a.b) hx_pack_load(a.b + c, b);
            for (int i = 0; i < V; i++) v[i] = (v[i] - mean) * rstd * w[i] + b[i];
            a.y.put(r * n + c, v, false);
        }
    }
}

template <class T, int V> static hx_status norm_launch(hx_cuda_stream *s, norm_call<T> a) {
    const hx_rows rows = hx_rows_of(a.n_rows, a.n_cols, V);
    const size_t n_bytes = (size_t)(rows.block.y * a.n_cols) * sizeof(T);
    a.is_kept = n_bytes <= KEPT_BYTES;
    return hx_launch(s, "norm_rows", rows.grid, rows.block, a.is_kept ? n_bytes : 0, norm_rows<T, V>, a);
}

template <class T> static hx_status norm_run(hx_cuda_stream *s, const hx_op_call *call) {
    typedef hx_accum_t<T> A;
    const bool has_sum = call->op == HX_OP_add_layernorm || call->op == HX_OP_add_rmsnorm;
    const hx_array *in = call->in, *out = call->out;
    const int w = has_sum ? 2 : 1;
    norm_call<T> a = {};
    a.x = static_cast<const T *>(in[0].data);
    a.w = static_cast<const T *>(in[w].data);
    if (call->n_in > w + 1) a.b = static_cast<const T *>(in[w + 1].data);
    if (has_sum) a.r = static_cast<const T *>(in[1].data);
    if (has_sum) a.s = hx_out_of<T>(&out[call->n_out - 1]);
    a.is_centred = call->op == HX_OP_layernorm || call->op == HX_OP_add_layernorm;
    a.y = hx_out_of<T>(&out[0]);
    if (a.is_centred) a.mean = static_cast<A *>(out[1].data);
    a.rstd = static_cast<A *>(out[a.is_centred ? 2 : 1].data);
    a.eps = (A)call->attr.norm.eps;
    hx__cuda_rows(&in[0], &a.n_rows, &a.n_cols);
    if (a.n_rows == 0) return HX_OK;
    const bool is_packed = hx_is_packed<T>(a.n_cols, {a.x, a.r, a.w, a.b, a.y.address(), a.s.address()});
    return is_packed ? norm_launch<T, hx_pack_of<T>::width>(s, a) : norm_launch<T, 1>(s, a);
}

hx_status hx__cuda_norm(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, norm_run<T>(s, call)); }

/* ---- backward ---- */

/* A block takes a run of rows and sums dw and db over it, each thread for the columns it has in every row: in shared memory,
 * for each warp apart where rows are a warp's, and the warps' sums in order at the end. The blocks' sums are added in order by
 * a second kernel. Neither depends on what device it is: 256 blocks are two to an SM of the largest. */
enum {
    GRAD_BLOCKS = 256,
    GRAD_WARP_BYTES = 64 * 1024, /* sums of 8 warps, two blocks to an SM: up to 1024 columns in f32 */
    GRAD_BYTES = 96 * 1024       /* sums of a block's one row: what every device of 8.0 and later has */
};

template <class T> struct norm_grad {
    typedef hx_accum_t<T> A;
    const T *x, *w, *dy, *ds; /* ds NULL: none */
    const A *mean, *rstd; /* [n_rows]; mean NULL: root-mean-square norm */
    hx_out<T> dx;
    A *partial; /* [blocks,2,n_cols] sums of dw and db; NULL: neither is wanted */
    int64_t n_rows, n_cols, rows_per_block;
    bool accumulate; /* dx */
    bool is_shared;  /* the sums are in shared memory; else in partial, which has one row of threads to a block */
};

/* sums [2,n_cols] of this thread's columns += row r's part */
template <class T, int V> static __device__ __forceinline__ void norm_grad_row(const norm_grad<T> &g, int64_t r, hx_accum_t<T> *sums) {
    typedef hx_accum_t<T> A;
    const int64_t n = g.n_cols, first = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
    const T *x = g.x + r * n, *dy = g.dy + r * n;
    const A mean = g.mean ? g.mean[r] : (A)0, rstd = g.rstd[r];
    A z[V], d[V], w[V], dw[V], db[V], sum_g = 0, sum_gz = 0;
    for (int64_t c = first; c < n; c += step) {
        hx_pack_load(x + c, z);
        hx_pack_load(dy + c, d);
        hx_pack_load(g.w + c, w);
        for (int i = 0; i < V; i++) {
            z[i] = (z[i] - mean) * rstd;
            sum_g += d[i] * w[i];
            sum_gz += d[i] * w[i] * z[i];
        }
        if (!sums) continue;
        hx_pack_load(sums + c, dw);
        hx_pack_load(sums + n + c, db);
        for (int i = 0; i < V; i++) {
            dw[i] += d[i] * z[i];
            db[i] += d[i];
        }
        hx_pack_store(sums + c, dw);
        hx_pack_store(sums + n + c, db);
    }
    if (!g.dx.is_wanted()) return;
    const A mean_g = g.mean ? hx_row_sum(sum_g) / (A)n : (A)0, mean_gz = hx_row_sum(sum_gz) / (A)n;
    for (int64_t c = first; c < n; c += step) {
        hx_pack_load(x + c, z);
        hx_pack_load(dy + c, d);
        hx_pack_load(g.w + c, w);
        for (int i = 0; i < V; i++) d[i] = rstd * (d[i] * w[i] - mean_g - (z[i] - mean) * rstd * mean_gz);
        if (g.ds) hx_pack_load(g.ds + r * n + c, z);
        for (int i = 0; i < V && g.ds; i++) d[i] += z[i];
        g.dx.put(r * n + c, d, g.accumulate);
    }
}

template <class T, int V> static __global__ void norm_grad_rows(norm_grad<T> g) {
    typedef hx_accum_t<T> A;
    HX_DYNAMIC_SHARED(A, shared);
    const int64_t n = g.n_cols, first = blockIdx.x * g.rows_per_block;
    const int64_t last = first + g.rows_per_block < g.n_rows ? first + g.rows_per_block : g.n_rows;
    A *out = g.partial ? g.partial + blockIdx.x * 2 * n : NULL, *sums = g.is_shared ? shared + threadIdx.y * 2 * n : out, zero[V];
    for (int i = 0; i < V; i++) zero[i] = 0;
    for (int64_t c = (int64_t)threadIdx.x * V; c < n && sums; c += (int64_t)blockDim.x * V) {
        hx_pack_store(sums + c, zero);
        hx_pack_store(sums + n + c, zero);
    }
    for (int64_t r = first + threadIdx.y; r < last; r += blockDim.y) norm_grad_row<T, V>(g, r, sums);
    if (!g.is_shared) return;
    __syncthreads();
    for (int64_t i = threadIdx.y * blockDim.x + threadIdx.x; i < 2 * n; i += blockDim.x * blockDim.y) {
        A sum = 0;
        for (unsigned y = 0; y < blockDim.y; y++) sum += shared[y * 2 * n + i];
        out[i] = sum;
    }
}

/* out [n_cols] = or += the sum of row blockIdx.y of each block's partial sums. 32 columns to a block, 128 bytes of each
 * partial sum; 8 threads to a column shorten the chain of loads and are added in order. */
enum { JOIN_THREADS = 8 };

template <class T> static __global__ void norm_join(const hx_accum_t<T> *partial, int n_blocks, int64_t n_cols, hx_out<T> dw, hx_out<T> db,
                                                    unsigned accumulate) {
    typedef hx_accum_t<T> A;
    HX_SHARED(A, part, [JOIN_THREADS][HX_WARP]);
    const hx_out<T> out = blockIdx.y == 0 ? dw : db;
    const int64_t c = (int64_t)blockIdx.x * HX_WARP + threadIdx.x;
    if (!out.is_wanted()) return;
    A sum[1] = {0};
    for (int k = threadIdx.y; k < n_blocks && c < n_cols; k += JOIN_THREADS) sum[0] += partial[(k * 2 + (int64_t)blockIdx.y) * n_cols + c];
    part[threadIdx.y][threadIdx.x] = sum[0];
    __syncthreads();
    if (threadIdx.y > 0 || c >= n_cols) return;
    for (int y = 1; y < JOIN_THREADS; y++) sum[0] += part[y][threadIdx.x];
    out.put(c, sum, accumulate >> (1 + blockIdx.y) & 1);
}

template <class T, int V> static hx_status norm_grad_launch(hx_cuda_stream *s, norm_grad<T> g, dim3 block, int n_blocks, size_t shared) {
    return hx_launch(s, "norm_grad_rows", dim3((unsigned)n_blocks), block, shared, norm_grad_rows<T, V>, g);
}

template <class T> static hx_status norm_grad_run(hx_cuda_stream *s, norm_grad<T> g, hx_out<T> dw, hx_out<T> db, unsigned accumulate) {
    typedef hx_accum_t<T> A;
    const size_t sums = 2 * (size_t)g.n_cols * sizeof(A);
    const bool has_sums = dw.is_wanted() || db.is_wanted(), is_warp = sums * HX_ROW_WARPS <= GRAD_WARP_BYTES;
    const dim3 block = is_warp ? dim3(HX_WARP, HX_ROW_WARPS) : dim3(HX_ROW_THREADS, 1);
    if (g.n_cols == 0) return HX_OK;
    g.accumulate = accumulate & 1;
    g.rows_per_block = hx__cuda_ceil_div(g.n_rows, GRAD_BLOCKS);
    if (g.rows_per_block < block.y) g.rows_per_block = block.y;
    const int n_blocks = (int)hx__cuda_ceil_div(g.n_rows, g.rows_per_block);
    g.is_shared = has_sums && sums * block.y <= GRAD_BYTES;
    if (has_sums) HX_TRY(hx__cuda_scratch(s, (size_t)n_blocks * sums, reinterpret_cast<void **>(&g.partial)));
    const size_t shared = g.is_shared ? sums * block.y : 0;
    if (n_blocks > 0 && hx_is_packed<T>(g.n_cols, {g.x, g.w, g.dy, g.ds, g.dx.address()}))
        HX_TRY((norm_grad_launch<T, hx_pack_of<T>::width>(s, g, block, n_blocks, shared)));
    else if (n_blocks > 0)
        HX_TRY((norm_grad_launch<T, 1>(s, g, block, n_blocks, shared)));
    if (!has_sums) return HX_OK;
    const dim3 grid((unsigned)hx__cuda_ceil_div(g.n_cols, HX_WARP), 2);
    return hx_launch(s, "norm_join", grid, dim3(HX_WARP, JOIN_THREADS), 0, norm_join<T>, g.partial, n_blocks, g.n_cols, dw, db, accumulate);
}

template <class T> static hx_status norm_bwd_run(hx_cuda_stream *s, const hx_op_call *call) {
    typedef hx_accum_t<T> A;
    const hx_array *in = call->in, *out = call->out;
    const bool is_centred = call->op == HX_OP_layernorm_bwd;
    const hx_out<T> none = {NULL, NULL};
    norm_grad<T> g = {};
    g.x = static_cast<const T *>(in[0].data);
    g.w = static_cast<const T *>(in[1].data);
    if (is_centred) g.mean = static_cast<const A *>(in[2].data);
    g.rstd = static_cast<const A *>(in[is_centred ? 3 : 2].data);
    const int dy = is_centred ? 4 : 3;
    g.dy = static_cast<const T *>(in[dy].data);
    if (call->n_in > dy + 1) g.ds = static_cast<const T *>(in[dy + 1].data);
    g.dx = hx_out_of<T>(&out[0]);
    hx__cuda_rows(&in[0], &g.n_rows, &g.n_cols);
    return norm_grad_run<T>(s, g, hx_out_of<T>(&out[1]), is_centred ? hx_out_of<T>(&out[2]) : none, call->attr.norm.accumulate);
}

hx_status hx__cuda_norm_bwd(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, norm_bwd_run<T>(s, call)); }

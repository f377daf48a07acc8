/* Cross-entropy over the last dim of logits, V classes:
 *     loss = sum over counted targets of lse - z_target,     lse = max + ln sum e^(z - max)
 *     dz_c = dloss (e^(z_c - lse) - [c is the target])
 * A target equal to ignore_index is not counted and its row's dz is 0; another outside [0,V) makes the loss and its row NaN.
 *
 * Memory: forward reads each logit once (2 bytes in bf16), backward reads and writes it once (4): with V near 50,000 these two
 * move more than any other op of a step, so rows are of whole packs where V is a multiple of 8 (4 in f32), as a padded
 * vocabulary is. A block to a row (a warp where V is small): a row of 100 KB keeps 512 threads busy for 12 packs each,
 * and there are more rows than blocks that run at once.
 */
#include "backends/cuda/rows.cuh"

/* lse [n_rows] may be NULL; losses [n_rows] */
template <class T, int V>
static __global__ void loss_rows(const T *logits, hx_ids ids, int64_t ignore, int64_t n_rows, int64_t n_cols, hx_accum_t<T> *lse, double *losses) {
    typedef hx_accum_t<T> A;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step()) {
        const T *row = logits + r * n_cols;
        A max, sum;
        hx_row_expsum<V>(row, n_cols, &max, &sum);
        if (threadIdx.x > 0) continue;
        const double row_lse = (double)max + log((double)sum);
        const int64_t id = ids.at(r);
        if (lse) lse[r] = (A)row_lse;
        if (id == ignore) losses[r] = 0;
        else losses[r] = id >= 0 && id < n_cols ? row_lse - (double)hx_load(row[id]) : (double)NAN;
    }
}

/* One block of 1024: thread t adds rows t, t + 1024, .., and the threads are added in order. Of 65,536 rows it reads 0.8 MB. */
enum { TOTAL_THREADS = 1024 };

static __global__ void loss_total(const double *losses, hx_ids ids, int64_t ignore, int64_t n_rows, double *loss, int64_t *count) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t r = threadIdx.x; r < n_rows; r += TOTAL_THREADS) {
        sum += losses[r];
        n += ids.at(r) != ignore;
    }
    sum = hx_block_sum(sum);
    n = hx_block_sum(n);
    if (threadIdx.x == 0 && loss) *loss = sum;
    if (threadIdx.x == 0 && count) *count = n;
}

template <class T, int V> static hx_status loss_launch(hx_cuda_stream *s, const hx_op_call *call, int64_t n_rows, int64_t n_cols, double *losses) {
    const hx_rows rows = hx_rows_of(n_rows, n_cols, V);
    return hx_launch(s, "loss_rows", rows.grid, rows.block, 0, loss_rows<T, V>, static_cast<const T *>(call->in[0].data), hx_ids_of(&call->in[1]),
                     call->attr.cross_entropy.ignore_index, n_rows, n_cols, static_cast<hx_accum_t<T> *>(call->out[2].data), losses);
}

template <class T> static hx_status loss_run(hx_cuda_stream *s, const hx_op_call *call) {
    double *losses;
    int64_t n_rows, n_cols;
    hx__cuda_rows(&call->in[0], &n_rows, &n_cols);
    HX_TRY(hx__cuda_scratch(s, (size_t)n_rows * sizeof *losses, reinterpret_cast<void **>(&losses)));
    if (n_rows > 0 && hx_is_packed<T>(n_cols, {call->in[0].data}))
        HX_TRY((loss_launch<T, hx_pack_of<T>::width>(s, call, n_rows, n_cols, losses)));
    else if (n_rows > 0)
        HX_TRY((loss_launch<T, 1>(s, call, n_rows, n_cols, losses)));
    return hx_launch(s, "loss_total", dim3(1), dim3(TOTAL_THREADS), 0, loss_total, losses, hx_ids_of(&call->in[1]),
                     call->attr.cross_entropy.ignore_index, n_rows, static_cast<double *>(call->out[0].data),
                     static_cast<int64_t *>(call->out[1].data));
}

template <class T, int V>
static __global__ void loss_grad_rows(const T *logits, hx_ids ids, int64_t ignore, const hx_accum_t<T> *lse, const double *dloss, int64_t n_rows,
                                      int64_t n_cols, hx_out<T> dz) {
    typedef hx_accum_t<T> A;
    const A scale = (A)*dloss;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step()) {
        const int64_t id = ids.at(r);
        const bool is_counted = id != ignore && id >= 0 && id < n_cols;
        const A row_lse = lse[r], uncounted = id == ignore ? (A)0 : (A)NAN;
        for (int64_t c = (int64_t)threadIdx.x * V; c < n_cols; c += (int64_t)blockDim.x * V) {
            A z[V];
            if (is_counted) hx_pack_load(logits + r * n_cols + c, z);
            for (int i = 0; i < V; i++) z[i] = is_counted ? scale * (exp(z[i] - row_lse) - (c + i == id ? (A)1 : (A)0)) : uncounted;
            dz.put(r * n_cols + c, z, false);
        }
    }
}

template <class T, int V> static hx_status loss_grad_launch(hx_cuda_stream *s, const hx_op_call *call, int64_t n_rows, int64_t n_cols) {
    const hx_rows rows = hx_rows_of(n_rows, n_cols, V);
    return hx_launch(s, "loss_grad_rows", rows.grid, rows.block, 0, loss_grad_rows<T, V>, static_cast<const T *>(call->in[0].data),
                     hx_ids_of(&call->in[1]), call->attr.cross_entropy.ignore_index, static_cast<const hx_accum_t<T> *>(call->in[2].data),
                     static_cast<const double *>(call->in[3].data), n_rows, n_cols, hx_out_of<T>(&call->out[0]));
}

template <class T> static hx_status loss_bwd_run(hx_cuda_stream *s, const hx_op_call *call) {
    int64_t n_rows, n_cols;
    hx__cuda_rows(&call->in[0], &n_rows, &n_cols);
    if (n_rows == 0 || n_cols == 0 || hx__cuda_absent(&call->out[0])) return HX_OK;
    return hx_is_packed<T>(n_cols, {call->in[0].data, call->out[0].data}) ? loss_grad_launch<T, hx_pack_of<T>::width>(s, call, n_rows, n_cols)
                                                                         : loss_grad_launch<T, 1>(s, call, n_rows, n_cols);
}

hx_status hx__cuda_cross_entropy(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, loss_run<T>(s, call)); }
hx_status hx__cuda_cross_entropy_bwd(hx_cuda_stream *s, const hx_op_call *call) {
    HX_RETURN_BY_FLOAT(call->in[0].dtype, T, loss_bwd_run<T>(s, call));
}

/* Cross-entropy over the last dim of logits, V classes:
 *     loss = sum over counted targets of lse - z_target,     lse = max + ln sum e^(z - max)
 *     dz_c = dloss (e^(z_c - lse) - [c is the target])
 * A target equal to ignore_index is not counted and its row's dz is 0; another outside the vocabulary makes the loss and its row
 * NaN. Of a part of the columns the loss has the targets that are among them; lse may be given, and is then not computed.
 *
 * Memory: forward reads each logit once (2 bytes in bf16), backward reads and writes it once (4): with V near 50,000 these two
 * move more than any other op of a step, so rows are of whole packs where V is a multiple of 8 (4 in f32), as a padded
 * vocabulary is. A block to a row (a warp where V is small): a row of 100 KB keeps 512 threads busy for 12 packs each,
 * and there are more rows than blocks that run at once.
 */
#include "backends/cuda/rows.cuh"

static hx_part part_of(const hx_op_call *call, int64_t n_cols) {
    return hx_part_of(call->attr.cross_entropy.start, call->attr.cross_entropy.total, n_cols);
}

/* What a row adds to the loss. */
template <class T> static __device__ __forceinline__ double row_loss(const T *row, int64_t id, int64_t ignore, const hx_part &part, double lse) {
    if (id == ignore) return 0;
    if (hx_is_here(part, id)) return lse - (double)hx_load(row[id - part.start]);
    return hx_is_known(part, id) ? 0 : (double)NAN;
}

/* lse [n_rows] may be NULL; losses [n_rows] */
template <class T, int V>
static __global__ void loss_rows(const T *logits, hx_ids ids, int64_t ignore, int64_t n_rows, hx_part part, hx_accum_t<T> *lse, double *losses) {
    typedef hx_accum_t<T> A;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step()) {
        const T *row = logits + r * part.n;
        A max, sum;
        hx_row_expsum<V>(row, part.n, &max, &sum);
        if (threadIdx.x > 0) continue;
        const double row_lse = part.n > 0 ? (double)max + log((double)sum) : -(double)INFINITY;
        if (lse) lse[r] = (A)row_lse;
        losses[r] = row_loss(row, ids.at(r), ignore, part, row_lse);
    }
}

/* The same where lse is given: a thread to a row, which reads one logit of it. Few rows: small blocks reach more SMs. */
enum { GIVEN_THREADS = 128 };

template <class T>
static __global__ void loss_given(const T *logits, hx_ids ids, int64_t ignore, int64_t n_rows, hx_part part, const hx_accum_t<T> *given,
                                  hx_accum_t<T> *lse, double *losses) {
    const int64_t r = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n_rows) return;
    if (lse) lse[r] = given[r];
    losses[r] = row_loss(logits + r * part.n, ids.at(r), ignore, part, (double)given[r]);
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
                     call->attr.cross_entropy.ignore_index, n_rows, part_of(call, n_cols), static_cast<hx_accum_t<T> *>(call->out[2].data), losses);
}

template <class T> static hx_status loss_given_launch(hx_cuda_stream *s, const hx_op_call *call, int64_t n_rows, int64_t n_cols, double *losses) {
    return hx_launch(s, "loss_given", dim3((unsigned)hx__cuda_ceil_div(n_rows, GIVEN_THREADS)), dim3(GIVEN_THREADS), 0, loss_given<T>,
                     static_cast<const T *>(call->in[0].data), hx_ids_of(&call->in[1]), call->attr.cross_entropy.ignore_index, n_rows,
                     part_of(call, n_cols), static_cast<const hx_accum_t<T> *>(call->in[2].data), static_cast<hx_accum_t<T> *>(call->out[2].data),
                     losses);
}

template <class T> static hx_status loss_run(hx_cuda_stream *s, const hx_op_call *call) {
    double *losses;
    int64_t n_rows, n_cols;
    hx__cuda_rows(&call->in[0], &n_rows, &n_cols);
    HX_TRY(hx__cuda_scratch(s, (size_t)n_rows * sizeof *losses, reinterpret_cast<void **>(&losses)));
    if (n_rows > 0 && call->n_in > 2 && !hx__cuda_absent(&call->in[2]))
        HX_TRY(loss_given_launch<T>(s, call, n_rows, n_cols, losses));
    else if (n_rows > 0 && hx_is_packed<T>(n_cols, {call->in[0].data}))
        HX_TRY((loss_launch<T, hx_pack_of<T>::width>(s, call, n_rows, n_cols, losses)));
    else if (n_rows > 0)
        HX_TRY((loss_launch<T, 1>(s, call, n_rows, n_cols, losses)));
    return hx_launch(s, "loss_total", dim3(1), dim3(TOTAL_THREADS), 0, loss_total, losses, hx_ids_of(&call->in[1]),
                     call->attr.cross_entropy.ignore_index, n_rows, static_cast<double *>(call->out[0].data),
                     static_cast<int64_t *>(call->out[1].data));
}

template <class T, int V>
static __global__ void loss_grad_rows(const T *logits, hx_ids ids, int64_t ignore, const hx_accum_t<T> *lse, const double *dloss, int64_t n_rows,
                                      hx_part part, hx_out<T> dz) {
    typedef hx_accum_t<T> A;
    const A scale = (A)*dloss;
    const int64_t n_cols = part.n;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step()) {
        const int64_t id = ids.at(r);
        const bool is_counted = id != ignore && hx_is_known(part, id);
        const int64_t target = hx_is_here(part, id) ? id - part.start : -1;
        const A row_lse = lse[r], uncounted = id == ignore ? (A)0 : (A)NAN;
        for (int64_t c = (int64_t)threadIdx.x * V; c < n_cols; c += (int64_t)blockDim.x * V) {
            A z[V];
            if (is_counted) hx_pack_load(logits + r * n_cols + c, z);
            for (int i = 0; i < V; i++) z[i] = is_counted ? scale * (exp(z[i] - row_lse) - (c + i == target ? (A)1 : (A)0)) : uncounted;
            dz.put(r * n_cols + c, z, false);
        }
    }
}

template <class T, int V> static hx_status loss_grad_launch(hx_cuda_stream *s, const hx_op_call *call, int64_t n_rows, int64_t n_cols) {
    const hx_rows rows = hx_rows_of(n_rows, n_cols, V);
    return hx_launch(s, "loss_grad_rows", rows.grid, rows.block, 0, loss_grad_rows<T, V>, static_cast<const T *>(call->in[0].data),
                     hx_ids_of(&call->in[1]), call->attr.cross_entropy.ignore_index, static_cast<const hx_accum_t<T> *>(call->in[2].data),
                     static_cast<const double *>(call->in[3].data), n_rows, part_of(call, n_cols), hx_out_of<T>(&call->out[0]));
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

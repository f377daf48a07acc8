/* Softmax over the last dim, its logarithm, and their derivatives:
 *     y = e^(x - max) / sum,            dx = y (dy - sum(y dy))
 *     y = x - max - ln sum,             dx = dy - e^y sum(dy)        where sum = sum e^(x - max)
 *
 * Memory: forward reads x twice, the second time mostly from the cache, and writes y: 2 to 3 elements of traffic for each of
 * x. Backward reads its two operands twice, likewise, and writes dx: 3 to 5. The threads of a row are rows.cuh's.
 */
#include "backends/cuda/rows.cuh"

template <class T, int V> static __global__ void softmax_rows(const T *x, hx_out<T> y, int64_t n_rows, int64_t n_cols, bool is_log) {
    typedef hx_accum_t<T> A;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step()) {
        const T *row = x + r * n_cols;
        A max, sum, z[V];
        hx_row_expsum<V>(row, n_cols, &max, &sum);
        const A ln_sum = is_log ? log(sum) : (A)0;
        for (int64_t c = (int64_t)threadIdx.x * V; c < n_cols; c += (int64_t)blockDim.x * V) {
            hx_pack_load(row + c, z);
            for (int i = 0; i < V; i++) z[i] = is_log ? z[i] - max - ln_sum : exp(z[i] - max) / sum;
            y.put(r * n_cols + c, z, false);
        }
    }
}

template <class T, int V>
static __global__ void softmax_grad_rows(const T *y, const T *dy, hx_out<T> dx, int64_t n_rows, int64_t n_cols, bool is_log) {
    typedef hx_accum_t<T> A;
    const int64_t first = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step()) {
        const T *row = y + r * n_cols, *grad = dy + r * n_cols;
        A p[V], d[V], sum = 0;
        for (int64_t c = first; c < n_cols; c += step) {
            hx_pack_load(row + c, p);
            hx_pack_load(grad + c, d);
            for (int i = 0; i < V; i++) sum += is_log ? d[i] : p[i] * d[i];
        }
        sum = hx_row_sum(sum);
        for (int64_t c = first; c < n_cols; c += step) {
            hx_pack_load(row + c, p);
            hx_pack_load(grad + c, d);
            for (int i = 0; i < V; i++) d[i] = is_log ? d[i] - exp(p[i]) * sum : p[i] * (d[i] - sum);
            dx.put(r * n_cols + c, d, false);
        }
    }
}

template <class T, int V> static hx_status softmax_launch(hx_cuda_stream *s, const T *x, hx_out<T> y, int64_t n_rows, int64_t n_cols, bool is_log) {
    const hx_rows rows = hx_rows_of(n_rows, n_cols, V);
    return hx_launch(s, "softmax_rows", rows.grid, rows.block, 0, softmax_rows<T, V>, x, y, n_rows, n_cols, is_log);
}

template <class T> static hx_status softmax_run(hx_cuda_stream *s, const hx_op_call *call) {
    const T *x = static_cast<const T *>(call->in[0].data);
    const hx_out<T> y = hx_out_of<T>(&call->out[0]);
    const bool is_log = call->op == HX_OP_log_softmax;
    int64_t n_rows, n_cols;
    hx__cuda_rows(&call->in[0], &n_rows, &n_cols);
    if (n_rows == 0 || n_cols == 0 || !y.is_wanted()) return HX_OK;
    return hx_is_packed<T>(n_cols, {x, y.address()}) ? softmax_launch<T, hx_pack_of<T>::width>(s, x, y, n_rows, n_cols, is_log)
                                                     : softmax_launch<T, 1>(s, x, y, n_rows, n_cols, is_log);
}

template <class T, int V>
static hx_status softmax_grad_launch(hx_cuda_stream *s, const T *y, const T *dy, hx_out<T> dx, int64_t n_rows, int64_t n_cols, bool is_log) {
    const hx_rows rows = hx_rows_of(n_rows, n_cols, V);
    return hx_launch(s, "softmax_grad_rows", rows.grid, rows.block, 0, softmax_grad_rows<T, V>, y, dy, dx, n_rows, n_cols, is_log);
}

template <class T> static hx_status softmax_bwd_run(hx_cuda_stream *s, const hx_op_call *call) {
    const T *y = static_cast<const T *>(call->in[0].data), *dy = static_cast<const T *>(call->in[1].data);
    const hx_out<T> dx = hx_out_of<T>(&call->out[0]);
    const bool is_log = call->op == HX_OP_log_softmax_bwd;
    int64_t n_rows, n_cols;
    hx__cuda_rows(&call->in[0], &n_rows, &n_cols);
    if (n_rows == 0 || n_cols == 0 || !dx.is_wanted()) return HX_OK;
    return hx_is_packed<T>(n_cols, {y, dy, dx.address()}) ? softmax_grad_launch<T, hx_pack_of<T>::width>(s, y, dy, dx, n_rows, n_cols, is_log)
                                                          : softmax_grad_launch<T, 1>(s, y, dy, dx, n_rows, n_cols, is_log);
}

hx_status hx__cuda_softmax(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, softmax_run<T>(s, call)); }
hx_status hx__cuda_softmax_bwd(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, softmax_bwd_run<T>(s, call)); }

/* SwiGLU over rows x [2H] of gate [H], then up [H], and its derivative:
 *     y = silu(gate) up,       dgate = silu'(gate) up dy,    dup = silu(gate) dy        where silu(a) = a sigmoid(a)
 *
 * Memory: every element is read or written once, 3 elements of traffic for each of y forward and 5 backward (6 and 10 bytes in
 * bf16), which bounds both: one exponential and one division per element take less. Half types are computed in f32 and rounded
 * once. The threads of a row are rows.cuh's, so that no thread divides to find where gate and up are.
 */
#include "backends/cuda/activation.cuh"
#include "backends/cuda/rows.cuh"

/* width: H */
template <class T, int V> static __global__ void swiglu_rows(const T *x, hx_out<T> y, int64_t n_rows, int64_t width) {
    typedef hx_accum_t<T> A;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step())
        for (int64_t c = (int64_t)threadIdx.x * V; c < width; c += (int64_t)blockDim.x * V) {
            const T *gate = x + r * 2 * width + c;
            A g[V], u[V];
            hx_pack_load(gate, g);
            hx_pack_load(gate + width, u);
            for (int i = 0; i < V; i++) u[i] *= g[i] * hx_sigmoid(g[i]);
            y.put(r * width + c, u, false);
        }
}

template <class T, int V> static __global__ void swiglu_grad_rows(const T *x, const T *dy, hx_out<T> dx, int64_t n_rows, int64_t width) {
    typedef hx_accum_t<T> A;
    for (int64_t r = hx_row_first(); r < n_rows; r += hx_row_step())
        for (int64_t c = (int64_t)threadIdx.x * V; c < width; c += (int64_t)blockDim.x * V) {
            const int64_t at = r * 2 * width + c;
            A g[V], u[V], d[V];
            hx_pack_load(x + at, g);
            hx_pack_load(x + at + width, u);
            hx_pack_load(dy + r * width + c, d);
            for (int i = 0; i < V; i++) {
                const A s = hx_sigmoid(g[i]), silu = g[i] * s;
                g[i] = hx_silu_slope(g[i], s) * (d[i] * u[i]);
                u[i] = silu * d[i];
            }
            dx.put(at, g, false);
            dx.put(at + width, u, false);
        }
}

template <class T, int V> static hx_status swiglu_launch(hx_cuda_stream *s, const T *x, hx_out<T> y, int64_t n_rows, int64_t width) {
    const hx_rows rows = hx_rows_of(n_rows, width, V);
    return hx_launch(s, "swiglu_rows", rows.grid, rows.block, 0, swiglu_rows<T, V>, x, y, n_rows, width);
}

template <class T> static hx_status swiglu_run(hx_cuda_stream *s, const hx_op_call *call) {
    const T *x = static_cast<const T *>(call->in[0].data);
    const hx_out<T> y = hx_out_of<T>(&call->out[0]);
    int64_t n_rows, n_cols;
    hx__cuda_rows(&call->in[0], &n_rows, &n_cols);
    const int64_t width = n_cols / 2;
    if (n_rows == 0 || width == 0 || !y.is_wanted()) return HX_OK;
    return hx_is_packed<T>(width, {x, y.address()}) ? swiglu_launch<T, hx_pack_of<T>::width>(s, x, y, n_rows, width)
                                                    : swiglu_launch<T, 1>(s, x, y, n_rows, width);
}

template <class T, int V>
static hx_status swiglu_grad_launch(hx_cuda_stream *s, const T *x, const T *dy, hx_out<T> dx, int64_t n_rows, int64_t width) {
    const hx_rows rows = hx_rows_of(n_rows, width, V);
    return hx_launch(s, "swiglu_grad_rows", rows.grid, rows.block, 0, swiglu_grad_rows<T, V>, x, dy, dx, n_rows, width);
}

template <class T> static hx_status swiglu_bwd_run(hx_cuda_stream *s, const hx_op_call *call) {
    const T *x = static_cast<const T *>(call->in[0].data), *dy = static_cast<const T *>(call->in[1].data);
    const hx_out<T> dx = hx_out_of<T>(&call->out[0]);
    int64_t n_rows, width;
    hx__cuda_rows(&call->in[1], &n_rows, &width);
    if (n_rows == 0 || width == 0 || !dx.is_wanted()) return HX_OK;
    return hx_is_packed<T>(width, {x, dy, dx.address()}) ? swiglu_grad_launch<T, hx_pack_of<T>::width>(s, x, dy, dx, n_rows, width)
                                                         : swiglu_grad_launch<T, 1>(s, x, dy, dx, n_rows, width);
}

hx_status hx__cuda_swiglu(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, swiglu_run<T>(s, call)); }
hx_status hx__cuda_swiglu_bwd(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, swiglu_bwd_run<T>(s, call)); }

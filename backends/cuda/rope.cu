/* Rotary positions: pairs (x_i, x_{i+D/2}) of x [B,T,H,D] turned by theta = (start + t) base^(-2i/D), or back.
 *
 * Angles. At position 10^6 the f32 next to theta is off by 0.03, so theta, its sine and its cosine are computed in f64, which
 * leaves 10^-10. The frequencies are the host's pow, as ref's are, and reach the device as a parameter of the kernel: the
 * device's pow may differ in the last bit, which 10^6 makes 10^-10 of theta, more than an f64 result may be off. A call
 * computes T D/2 pairs of sine and cosine, once for all batches and heads, rounded to the type that is computed in.
 *
 * Memory: x is read and y written once, 2 elements of traffic for each of x (4 bytes in bf16). A thread turns one pack of pairs
 * of a token in every head, so that the table, 8 bytes a pair and larger than the pair, is read once for all of them and stays in
 * registers; the threads of a token are next to each other and touch whole sectors of 32 bytes. Rows may have strides.
 */
#include "backends/cuda/rows.cuh"

enum {
    FREQUENCIES = 256, /* 2 KiB of a kernel's 4 KiB of parameters; more take more launches */
    ROPE_THREADS = 256
};

struct rope_frequencies {
    double value[FREQUENCIES];
};

/* turn [T,2,n_pairs]: cosines, then sines, of pairs first .. first + n - 1 */
template <class A>
static __global__ void rope_table(rope_frequencies f, int64_t first, int64_t n, int64_t n_positions, int64_t n_pairs, double start, double sign,
                                  A *turn) {
    for (int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; k < n * n_positions; k += (int64_t)gridDim.x * blockDim.x) {
        const int64_t t = k / n, i = k % n;
        const double theta = (start + (double)t) * f.value[i];
        turn[t * 2 * n_pairs + first + i] = (A)cos(theta);
        turn[t * 2 * n_pairs + n_pairs + first + i] = (A)(sign * sin(theta));
    }
}

struct rope_dims {
    int64_t b, t, h, n_pairs; /* n_pairs: of a head, D/2 */
    int64_t x[4], y[4];       /* strides */
};

template <class T, class O, int V> static __global__ void rope_turn(const T *x, O *y, const hx_accum_t<T> *turn, rope_dims n) {
    typedef hx_accum_t<T> A;
    const int64_t n_packs = n.n_pairs / V, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; k < n.b * n.t * n_packs; k += step) {
        const int64_t i = k % n_packs * V, token = k / n_packs, t = token % n.t, b = token / n.t;
        const T *x1 = x + b * n.x[0] + t * n.x[1] + i * n.x[3], *x2 = x1 + n.n_pairs * n.x[3];
        O *y1 = y + b * n.y[0] + t * n.y[1] + i * n.y[3], *y2 = y1 + n.n_pairs * n.y[3];
        A c[V], s[V], u[V], v[V], w[V];
        hx_pack_load(turn + t * 2 * n.n_pairs + i, c);
        hx_pack_load(turn + t * 2 * n.n_pairs + n.n_pairs + i, s);
        for (int64_t h = 0; h < n.h; h++) {
            hx_pack_load(x1 + h * n.x[2], u);
            hx_pack_load(x2 + h * n.x[2], v);
            for (int j = 0; j < V; j++) {
                w[j] = u[j] * c[j] - v[j] * s[j];
                v[j] = u[j] * s[j] + v[j] * c[j];
            }
            hx_pack_store(y1 + h * n.y[2], w);
            hx_pack_store(y2 + h * n.y[2], v);
        }
    }
}

static unsigned blocks_for(int64_t n_threads) { return (unsigned)hx__cuda_min(hx__cuda_ceil_div(n_threads, ROPE_THREADS), HX_ROW_GRID); }

template <class A> static hx_status table_launch(hx_cuda_stream *s, const hx_op_call *call, const rope_dims *n, A **out) {
    A *turn;
    HX_TRY(hx__cuda_scratch(s, (size_t)(n->t * 2 * n->n_pairs) * sizeof(A), reinterpret_cast<void **>(&turn)));
    for (int64_t first = 0; first < n->n_pairs; first += FREQUENCIES) {
        const int64_t count = hx__cuda_min(n->n_pairs - first, FREQUENCIES);
        rope_frequencies f = {};
        for (int64_t i = 0; i < count; i++) f.value[i] = pow(call->attr.rope.base, -2 * (double)(first + i) / (double)(2 * n->n_pairs));
        HX_TRY(hx_launch(s, "rope_table", dim3(blocks_for(count * n->t)), dim3(ROPE_THREADS), 0, rope_table<A>, f, first, count, n->t, n->n_pairs,
                         (double)call->attr.rope.start, call->attr.rope.inverse ? -1.0 : 1.0, turn));
    }
    *out = turn;
    return HX_OK;
}

/* Both halves of every row are made of packs: the last dim is dense, and all that leads to a pack is a multiple of one. */
static bool is_packed(const hx_array *a, int64_t n_pairs, int width) {
    bool is = (uintptr_t)a->data % 16 == 0 && n_pairs % width == 0 && a->strides[3] == 1;
    for (int d = 0; d < 3; d++) is = is && a->strides[d] % width == 0;
    return is;
}

template <class T, class O>
static hx_status turn_launch(hx_cuda_stream *s, const hx_array *x, const hx_array *y, const hx_accum_t<T> *turn, rope_dims n) {
    enum { WIDTH = hx_pack_of<T>::width };
    const bool packed = is_packed(x, n.n_pairs, WIDTH) && is_packed(y, n.n_pairs, WIDTH);
    const dim3 grid(blocks_for(n.b * n.t * (n.n_pairs / (packed ? WIDTH : 1)))), block(ROPE_THREADS);
    return hx_launch(s, "rope_turn", grid, block, 0, packed ? rope_turn<T, O, WIDTH> : rope_turn<T, O, 1>, static_cast<const T *>(x->data),
                     static_cast<O *>(y->data), turn, n);
}

template <class T> static hx_status rope_run(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    rope_dims n = {x->dims[0], x->dims[1], x->dims[2], x->dims[3] / 2, {}, {}};
    hx_accum_t<T> *turn;
    if (hx__cuda_count(x) == 0 || hx__cuda_absent(y)) return HX_OK;
    for (int d = 0; d < 4; d++) {
        n.x[d] = x->strides[d];
        n.y[d] = y->strides[d];
    }
    HX_TRY(table_launch(s, call, &n, &turn));
    return y->dtype == x->dtype ? turn_launch<T, T>(s, x, y, turn, n) : turn_launch<T, hx_accum_t<T>>(s, x, y, turn, n);
}

hx_status hx__cuda_rope(hx_cuda_stream *s, const hx_op_call *call) { HX_RETURN_BY_FLOAT(call->in[0].dtype, T, rope_run<T>(s, call)); }

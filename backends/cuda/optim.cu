/* The optimizers' updates: one pass over parameter, gradient and slots.
 *
 * AdamW reads p, g, m, v and writes p, m, v: 28 bytes a f32 parameter and a dozen operations, so that memory alone counts.
 * Dense operands of one dtype go 16 bytes to a load; a half parameter beside f32 gradients and moments, whose elements have
 * several sizes, goes an element to a thread. */
#include "backends/cuda/walk.cuh"

/* ---- AdamW, Adam ---- */

template <class A> struct adamw_job {
    int64_t n;
    const double *gscale; /* device; NULL: 1 */
    A beta1, beta2, keep1, keep2; /* keep = 1 - beta */
    A decay;                      /* AdamW: 1 - lr weight_decay, else 1 */
    A l2;                         /* Adam: weight_decay */
    A rate;                       /* lr / (1 - beta1^step) */
    A root;                       /* 1 / sqrt(1 - beta2^step) */
    A eps;
    bool has_l2;
};

template <class A> static __device__ __forceinline__ A gscale_of(const adamw_job<A> &j) { return j.gscale ? (A)*j.gscale : A(1); }

/* Loshchilov & Hutter 2019, algorithm 2, with the schedule inside lr:
 *     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *     p = p - lr weight_decay p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
 * With l2 (Kingma & Ba 2015) g has weight_decay p added, and p does not decay by itself. */
template <class A> static __device__ __forceinline__ void adamw_element(const adamw_job<A> &j, A gscale, A g, A *p, A *m, A *v) {
    g *= gscale;
    if (j.has_l2) g += j.l2 * *p;
    *m = j.beta1 * *m + j.keep1 * g;
    *v = j.beta2 * *v + j.keep2 * g * g;
    *p = *p * j.decay - j.rate * *m / (sqrt(*v) * j.root + j.eps);
}

/* T is f32 or f64: elements are computed with where they lie in the packs. */
template <class T> static __global__ void adamw_packs(adamw_job<T> j, const T *g, T *p, T *m, T *v) {
    constexpr int V = 16 / sizeof(T);
    typedef hx_pack<T> pack;
    const T gscale = gscale_of(j);
    const int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; i < j.n; i += step) {
        if (i + V > j.n) { /* the last ones */
            for (int64_t k = i; k < j.n; k++) adamw_element(j, gscale, g[k], p + k, m + k, v + k);
            return;
        }
        const pack gi = *reinterpret_cast<const pack *>(g + i);
        pack pi = *reinterpret_cast<pack *>(p + i), mi = *reinterpret_cast<pack *>(m + i), vi = *reinterpret_cast<pack *>(v + i);
        for (int e = 0; e < V; e++) adamw_element(j, gscale, gi.v[e], &pi.v[e], &mi.v[e], &vi.v[e]);
        *reinterpret_cast<pack *>(p + i) = pi;
        *reinterpret_cast<pack *>(m + i) = mi;
        *reinterpret_cast<pack *>(v + i) = vi;
    }
}

struct adamw_operand {
    void *data;
    hx_dtype dtype;
};

template <class A> static __global__ void adamw_elements(adamw_job<A> j, adamw_operand g, adamw_operand p, adamw_operand m, adamw_operand v) {
    const A gscale = gscale_of(j);
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < j.n; i += step) {
        A pi = hx_load_as<A>(p.dtype, p.data, i), mi = hx_load_as<A>(m.dtype, m.data, i), vi = hx_load_as<A>(v.dtype, v.data, i);
        adamw_element(j, gscale, hx_load_as<A>(g.dtype, g.data, i), &pi, &mi, &vi);
        hx_store_as(p.dtype, p.data, i, pi);
        hx_store_as(m.dtype, m.data, i, mi);
        hx_store_as(v.dtype, v.data, i, vi);
    }
}

/* What depends on the step alone is computed here, in f64. */
template <class A> static adamw_job<A> adamw_job_of(const hx_op_call *call) {
    const auto *a = &call->attr.adamw;
    const double step = (double)a->step;
    adamw_job<A> j;
    j.n = hx__cuda_count(&call->out[0]);
    j.gscale = call->n_in > 1 && !hx__cuda_absent(&call->in[1]) ? (const double *)call->in[1].data : NULL;
    j.beta1 = (A)a->beta1;
    j.beta2 = (A)a->beta2;
    j.keep1 = (A)(1 - a->beta1);
    j.keep2 = (A)(1 - a->beta2);
    j.decay = (A)(a->l2 ? 1 : 1 - a->lr * a->weight_decay);
    j.l2 = (A)a->weight_decay;
    j.rate = (A)(a->lr / (1 - pow(a->beta1, step)));
    j.root = (A)(1 / sqrt(1 - pow(a->beta2, step)));
    j.eps = (A)a->eps;
    j.has_l2 = a->l2;
    return j;
}

template <class A> static hx_status run_adamw(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *const arrays[4] = {&call->in[0], &call->out[0], &call->out[1], &call->out[2]};
    const adamw_job<A> j = adamw_job_of<A>(call);
    bool is_packed = true;
    adamw_operand o[4];
    for (int k = 0; k < 4; k++) {
        o[k] = {arrays[k]->data, arrays[k]->dtype};
        is_packed = is_packed && hx_dtype_bytes(o[k].dtype) == sizeof(A) && hx_is_aligned(o[k].data, 16);
    }
    if (j.n == 0) return HX_OK;
    const int64_t n_threads = is_packed ? hx__cuda_ceil_div(j.n, 16 / (int64_t)sizeof(A)) : j.n;
    const dim3 grid = hx_grid(s, hx__cuda_ceil_div(n_threads, HX_BLOCK));
    if (is_packed)
        return hx_launch(s, "adamw", grid, dim3(HX_BLOCK), 0, adamw_packs<A>, j, (const A *)o[0].data, (A *)o[1].data, (A *)o[2].data,
                         (A *)o[3].data);
    return hx_launch(s, "adamw", grid, dim3(HX_BLOCK), 0, adamw_elements<A>, j, o[0], o[1], o[2], o[3]);
}

hx_status hx__cuda_adamw(hx_cuda_stream *s, const hx_op_call *call) {
    return call->out[0].dtype == HX_F64 ? run_adamw<double>(s, call) : run_adamw<float>(s, call);
}

/* The optimizers' updates: one pass over parameter, gradient and slots, of all tensors that a batch holds.
 *
 * AdamW reads p, g, m, v and writes p, m, v, and beside a f32 p the half type's q: 28 to 30 bytes a parameter and a dozen
 * operations, so that memory alone counts. A block takes a chunk of 1024 packs of 16 bytes, each of its threads four, with four
 * loads in flight; it finds the tensor by a search in the table that is the kernel's parameter, in constant memory. Operands
 * that are not aligned, or a half parameter beside f32 gradients and moments, whose elements have several sizes, go an element
 * to a thread. */
#include "backends/cuda/walk.cuh"

/* ---- AdamW, Adam ---- */

enum { G, P, M, V, Q, N_OPERANDS }; /* gradient, parameter, moments, rounded parameter */

template <class A> struct adamw_common {
    const double *gscale; /* device; NULL: 1 */
    hx_dtype dtypes[N_OPERANDS];
    A beta1, beta2, keep1, keep2; /* keep = 1 - beta */
    A root;                       /* 1 / sqrt(1 - beta2^step) */
    A eps;
    A has_l2; /* 0 or 1 */
};

/* What parameter groups may have their own of. */
template <class A> struct adamw_rates {
    A decay; /* AdamW: 1 - lr weight_decay, else 1 */
    A l2;    /* Adam: weight_decay */
    A rate;  /* lr / (1 - beta1^step) */
};

template <class A> struct adamw_entry {
    void *at[N_OPERANDS]; /* [n]; Q may be NULL */
    int64_t n, first;
    adamw_rates<A> rates;
    bool is_packed;
};
template <class A> using adamw_table = hx_table<adamw_common<A>, adamw_entry<A>>;

template <class A> struct adamw_sizes {
    static constexpr int PACK = 16 / sizeof(A), CHUNK = HX_BLOCK * PACK * 4;
};

/* Loshchilov & Hutter 2019, algorithm 2, with the schedule inside lr:
 *     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *     p = p - lr weight_decay p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
 * With l2 (Kingma & Ba 2015) g has weight_decay p added, and p does not decay by itself. */
template <class A>
static __device__ __forceinline__ void adamw_element(const adamw_common<A> &c, const adamw_rates<A> &r, A gscale, A g, A *p, A *m, A *v) {
    g *= gscale;
    if (c.has_l2 != 0) g += r.l2 * *p;
    *m = c.beta1 * *m + c.keep1 * g;
    *v = c.beta2 * *v + c.keep2 * g * g;
    *p = *p * r.decay - r.rate * *m / (sqrt(*v) * c.root + c.eps);
}

template <class H, class A, int N> static __device__ __forceinline__ void put_rounded(void *q, int64_t at, const hx_pack<A, N> &p) {
    hx_pack<H, N> rounded;
    for (int e = 0; e < N; e++) hx_store(&rounded.v[e], (float)p.v[e]);
    *reinterpret_cast<hx_pack<H, N> *>((H *)q + at) = rounded;
}

template <class A> static __device__ __forceinline__ void adamw_pack(const adamw_common<A> &c, const adamw_entry<A> &x, A gscale, int64_t i) {
    typedef hx_pack<A> pack;
    A *const p = (A *)x.at[P] + i, *const m = (A *)x.at[M] + i, *const v = (A *)x.at[V] + i;
    const pack gi = *reinterpret_cast<const pack *>((const A *)x.at[G] + i);
    pack pi = *reinterpret_cast<pack *>(p), mi = *reinterpret_cast<pack *>(m), vi = *reinterpret_cast<pack *>(v);
    for (int e = 0; e < adamw_sizes<A>::PACK; e++) adamw_element(c, x.rates, gscale, gi.v[e], &pi.v[e], &mi.v[e], &vi.v[e]);
    *reinterpret_cast<pack *>(p) = pi;
    *reinterpret_cast<pack *>(m) = mi;
    *reinterpret_cast<pack *>(v) = vi;
    if (!x.at[Q]) return;
    if (c.dtypes[Q] == HX_BF16) put_rounded<__nv_bfloat16>(x.at[Q], i, pi);
    else put_rounded<__half>(x.at[Q], i, pi);
}

template <class A> static __device__ __forceinline__ void adamw_one(const adamw_common<A> &c, const adamw_entry<A> &x, A gscale, int64_t i) {
    const hx_dtype *dtypes = c.dtypes;
    A p = hx_load_as<A>(dtypes[P], x.at[P], i), m = hx_load_as<A>(dtypes[M], x.at[M], i), v = hx_load_as<A>(dtypes[V], x.at[V], i);
    adamw_element(c, x.rates, gscale, hx_load_as<A>(dtypes[G], x.at[G], i), &p, &m, &v);
    hx_store_as(dtypes[P], x.at[P], i, p);
    hx_store_as(dtypes[M], x.at[M], i, m);
    hx_store_as(dtypes[V], x.at[V], i, v);
    if (x.at[Q]) hx_store_as(dtypes[Q], x.at[Q], i, p); /* p is f32, and so what has been stored */
}

template <class A> static __global__ void adamw_chunks(const __grid_constant__ adamw_table<A> t) {
    constexpr int PACK = adamw_sizes<A>::PACK, CHUNK = adamw_sizes<A>::CHUNK;
    const A gscale = t.common.gscale ? (A)*t.common.gscale : A(1);
    for (int64_t chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const adamw_entry<A> &x = hx_entry_of(t, chunk);
        const int64_t from = (chunk - x.first) * CHUNK, end = from + CHUNK < x.n ? from + CHUNK : x.n;
        const int64_t packed = x.is_packed ? from + (end - from) / PACK * PACK : from; /* from there on single elements */
        for (int64_t i = from + (int)threadIdx.x * PACK; i < packed; i += HX_BLOCK * PACK) adamw_pack(t.common, x, gscale, i);
        for (int64_t i = packed + (int)threadIdx.x; i < end; i += HX_BLOCK) adamw_one(t.common, x, gscale, i);
    }
}

template <class A> static hx_status launch_adamw(hx_cuda_stream *s) {
    const adamw_table<A> *t = reinterpret_cast<const adamw_table<A> *>(s->held.table);
    return hx_launch(s, "adamw", hx_grid(s, t->n_chunks), dim3(HX_BLOCK), 0, adamw_chunks<A>, *t);
}

/* What depends on the step alone is computed here, in f64. */
template <class A> static adamw_common<A> adamw_common_of(const hx_op_call *call, const hx_array *const (&operands)[N_OPERANDS]) {
    const auto *a = &call->attr.adamw;
    adamw_common<A> c;
    memset(&c, 0, sizeof c); /* compared byte by byte */
    c.gscale = call->n_in > 1 && !hx__cuda_absent(&call->in[1]) ? (const double *)call->in[1].data : NULL;
    for (int k = 0; k < N_OPERANDS; k++) c.dtypes[k] = operands[k]->dtype;
    c.beta1 = (A)a->beta1;
    c.beta2 = (A)a->beta2;
    c.keep1 = (A)(1 - a->beta1);
    c.keep2 = (A)(1 - a->beta2);
    c.root = (A)(1 / sqrt(1 - pow(a->beta2, (double)a->step)));
    c.eps = (A)a->eps;
    c.has_l2 = a->l2;
    return c;
}

template <class A> static adamw_entry<A> adamw_entry_of(const hx_op_call *call, const hx_array *const (&operands)[N_OPERANDS]) {
    const auto *a = &call->attr.adamw;
    adamw_entry<A> x = {};
    x.n = hx__cuda_count(&call->out[0]);
    x.is_packed = true;
    for (int k = 0; k < N_OPERANDS; k++) {
        x.at[k] = operands[k]->data;
        /* rounded packs have half as many bytes, or a quarter */
        x.is_packed = x.is_packed && (k == Q ? hx_is_aligned(x.at[k], 8) : hx_dtype_bytes(operands[k]->dtype) == sizeof(A) && hx_is_aligned(x.at[k], 16));
    }
    x.rates.decay = (A)(a->l2 ? 1 : 1 - a->lr * a->weight_decay);
    x.rates.l2 = (A)a->weight_decay;
    x.rates.rate = (A)(a->lr / (1 - pow(a->beta1, (double)a->step)));
    return x;
}

template <class A> static hx_status run_adamw(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *const operands[N_OPERANDS] = {&call->in[0], &call->out[0], &call->out[1], &call->out[2], &call->out[3]};
    const adamw_entry<A> x = adamw_entry_of<A>(call, operands);
    return hx_hold(s, call->op, launch_adamw<A>, adamw_common_of<A>(call, operands), x, hx__cuda_ceil_div(x.n, adamw_sizes<A>::CHUNK));
}

hx_status hx__cuda_adamw(hx_cuda_stream *s, const hx_op_call *call) {
    return call->out[0].dtype == HX_F64 ? run_adamw<double>(s, call) : run_adamw<float>(s, call);
}

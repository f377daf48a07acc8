/* Elementwise ops. Each is a row of the lists below: its name and what it does with a (and b); attributes are p.a and p.b.
 *
 * Nothing is read twice, so all are bound by memory: an operand's bytes in, the output's out, 12 a f32 element of a sum and 6
 * a bf16 one. Two kernels serve every row:
 *
 *   map_packs     operands of one dtype; the output dense, operands dense, one element, or a dense tail of the output's dims
 *                 that repeats (biases, positions): 16 bytes to a load
 *   map_elements  any strides and any mixture of dtypes: an element to a thread, in the output's order, so that stores and
 *                 most loads of a warp still fall into whole sectors
 *
 * Half types are computed in f32 and rounded once. Elementary functions, of which a layer has few, and f64 go by the second
 * kernel only: there the arithmetic takes longer than the loads. */
#include "backends/cuda/activation.cuh"
#include "backends/cuda/walk.cuh"

template <class A> struct params {
    A a, b;
};

/* ---- functions that rows use ---- */

/* 1 + tanh u = 2 sigmoid(2u) and 1 + erf u = erfc(-u): the same numbers without the cancellation at negative x */
template <class A> static __device__ __forceinline__ A gelu_tanh_gate(A x) {
    return hx_sigmoid(A(1.59576912160573071176) * (x + A(0.044715) * (x * x) * x));
}
template <class A> static __device__ __forceinline__ A gelu_erf_gate(A x) { return erfc(x * A(-0.70710678118654752440)) * A(0.5); }

template <class A> static __device__ __forceinline__ A gelu_tanh_slope(A x) {
    const A c = hx_within(x, A(30)), s = gelu_tanh_gate(c);
    return s + c * s * (A(1) - s) * (A(1.59576912160573071176) * (A(1) + A(0.134145) * (c * c)));
}
template <class A> static __device__ __forceinline__ A gelu_erf_slope(A x) {
    const A c = hx_within(x, A(40));
    return gelu_erf_gate(c) + c * A(0.39894228040143267794) * exp(A(-0.5) * c * c);
}

/* ---- the rows: name, expression ---- */

#define UNARY_PACKED(X)                                                                                     \
    X(affine, p.a * a + p.b)                                                                                \
    X(exp, exp(a))                                                                                          \
    X(sqrt, sqrt(a))                                                                                        \
    X(abs, fabs(a))                                                                                         \
    X(tanh, tanh(a))                                                                                        \
    X(sigmoid, hx_sigmoid(a))                                                                               \
    X(relu, a < A(0) ? A(0) : a) /* NaN comes through, here and in the next two */                          \
    X(clamp, a < p.a ? p.a : a > p.b ? p.b : a)                                                             \
    X(leaky_relu, a > A(0) ? a : p.a * a)                                                                   \
    X(silu, a * hx_sigmoid(a))                                                                              \
    X(gelu_tanh, a * gelu_tanh_gate(a))                                                                     \
    X(gelu_erf, a * gelu_erf_gate(a))                                                                       \
    X(square, a * a)

#define UNARY(X)                                                                                            \
    X(log, log(a))                                                                                          \
    X(sign, a > A(0) ? A(1) : a < A(0) ? A(-1) : a) /* a: 0 and NaN */                                      \
    X(expm1, expm1(a))                                                                                      \
    X(log1p, log1p(a))                                                                                      \
    X(reciprocal, A(1) / a)                                                                                 \
    X(floor, floor(a))                                                                                      \
    X(ceil, ceil(a))                                                                                        \
    X(round, rint(a)) /* half to even */                                                                    \
    X(sin, sin(a))                                                                                          \
    X(cos, cos(a))                                                                                          \
    X(tan, tan(a))                                                                                          \
    X(asin, asin(a))                                                                                        \
    X(acos, acos(a))                                                                                        \
    X(atan, atan(a))                                                                                        \
    X(sinh, sinh(a))                                                                                        \
    X(cosh, cosh(a))                                                                                        \
    X(asinh, asinh(a))                                                                                      \
    X(acosh, acosh(a))                                                                                      \
    X(atanh, atanh(a))                                                                                      \
    X(erf, erf(a))                                                                                          \
    X(softplus, (a < A(0) ? A(0) : a) + log1p(exp(-fabs(a))))

/* a NaN on either side wins; derivatives have the saved operand in a and dy in b */
#define BINARY_PACKED(X)                                                                                    \
    X(add, a + b)                                                                                           \
    X(sub, a - b)                                                                                           \
    X(mul, a *b)                                                                                            \
    X(div, a / b)                                                                                           \
    X(maximum, a > b || a != a ? a : b)                                                                     \
    X(minimum, a < b || a != a ? a : b)                                                                     \
    X(tanh_bwd, (A(1) - a * a) * b)                                                                         \
    X(sigmoid_bwd, a *(A(1) - a) * b)                                                                       \
    X(relu_bwd, a > A(0) ? b : A(0))                                                                        \
    X(silu_bwd, hx_silu_slope(a, hx_sigmoid(a)) * b)                                                        \
    X(gelu_tanh_bwd, gelu_tanh_slope(a) * b)                                                                \
    X(gelu_erf_bwd, gelu_erf_slope(a) * b)                                                                  \
    X(clamp_bwd, a >= p.a && a <= p.b ? b : A(0))                                                           \
    X(leaky_relu_bwd, a > A(0) ? b : p.a * b)

#define BINARY(X) X(pow, pow(a, b))

#define COMPARE(X)                                                                                          \
    X(equal, a == b)                                                                                        \
    X(not_equal, a != b)                                                                                    \
    X(less, a < b)                                                                                          \
    X(less_equal, a <= b)

/* A row as a type: `of` is its function of either precision. */
#define ROW(name, n_operands, is_packed, expr)                                                              \
    struct row_##name {                                                                                     \
        enum { N = n_operands, PACKED = is_packed };                                                        \
        template <class A> static __device__ __forceinline__ auto of(A a, A b, params<A> p) {               \
            (void)b, (void)p;                                                                               \
            return expr;                                                                                    \
        }                                                                                                   \
    };
#define ROW_UNARY_PACKED(name, expr)  ROW(name, 1, true, expr)
#define ROW_UNARY(name, expr)         ROW(name, 1, false, expr)
#define ROW_BINARY_PACKED(name, expr) ROW(name, 2, true, expr)
#define ROW_BINARY(name, expr)        ROW(name, 2, false, expr)
UNARY_PACKED(ROW_UNARY_PACKED)
UNARY(ROW_UNARY)
BINARY_PACKED(ROW_BINARY_PACKED)
BINARY(ROW_BINARY)
COMPARE(ROW_BINARY)

/* ---- the kernels ---- */

/* An operand of map_packs: element i of the output meets element i % period of it. */
template <class T> struct source {
    const T *data;
    int64_t period;
};

/* The pack that meets elements i, i+1, ..; those from n on are not read. */
template <class T> static __device__ __forceinline__ hx_pack<T> load_pack(const source<T> &x, int64_t i, int64_t n) {
    constexpr int V = 16 / sizeof(T);
    hx_pack<T> pack;
    if (x.period == 1) {
        const T value = x.data[0];
        for (int e = 0; e < V; e++) pack.v[e] = value;
        return pack;
    }
    if (x.period != n) i = n <= UINT32_MAX ? (int64_t)((uint32_t)i % (uint32_t)x.period) : i % x.period;
    if (i + V <= x.period) return *reinterpret_cast<const hx_pack<T> *>(x.data + i);
    for (int e = 0; e < V; e++) pack.v[e] = x.data[i + e < n ? i + e : n - 1];
    return pack;
}

template <class Row, class T> static __global__ void map_packs(int64_t n, T *y, source<T> a, source<T> b, params<hx_accum_t<T>> p) {
    constexpr int V = 16 / sizeof(T);
    const int64_t step = (int64_t)gridDim.x * blockDim.x * V;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; i < n; i += step) {
        const hx_pack<T> x = load_pack(a, i, n), z = Row::N > 1 ? load_pack(b, i, n) : x;
        hx_pack<T> out;
        for (int e = 0; e < V; e++) hx_store(&out.v[e], Row::of(hx_load(x.v[e]), hx_load(z.v[e]), p));
        if (i + V <= n) *reinterpret_cast<hx_pack<T> *>(y + i) = out;
        else
            for (int e = 0; e < V; e++) /* bounds known at compile time keep the pack in registers */
                if (i + e < n) y[i + e] = out.v[e];
    }
}

struct operand {
    void *data;
    hx_dtype dtype;
};

template <class Row, class A>
static __global__ void map_elements(hx_walk<1 + Row::N> w, operand y, operand a, operand b, params<A> p) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < w.count; i += step) {
        int64_t at[1 + Row::N];
        hx_walk_at(w, i, at);
        const A x = hx_load_as<A>(a.dtype, a.data, at[1]);
        const A z = Row::N > 1 ? hx_load_as<A>(b.dtype, b.data, at[Row::N]) : x;
        hx_store_as(y.dtype, y.data, at[0], Row::of(x, z, p));
    }
}

/* ---- their launch ---- */

/* Which x lie between the bounds must not depend on how those round: they become the outermost numbers of f32 between them,
 * which leaves the same x of f32 and of half types inside. */
static params<double> bounds_of(const hx_op_call *call) {
    const double low = call->attr.clamp.low, high = call->attr.clamp.high;
    if (call->in[0].dtype == HX_F64) return {low, high};
    const float a = (float)low, b = (float)high;
    return {a < low ? nextafterf(a, INFINITY) : a, b > high ? nextafterf(b, -INFINITY) : b};
}

static params<double> params_of(const hx_op_call *call) {
    switch (call->op) {
    case HX_OP_affine: return {call->attr.affine.alpha, call->attr.affine.beta};
    case HX_OP_clamp: return {call->attr.clamp.low, call->attr.clamp.high};
    case HX_OP_clamp_bwd: return bounds_of(call);
    case HX_OP_leaky_relu:
    case HX_OP_leaky_relu_bwd: return {call->attr.leaky.slope, 0};
    default: return {0, 0};
    }
}

/* The period of operand k: the product of its last dims where they are dense and all before them repeat; 0: it has none. */
template <int K> static int64_t period_of(const hx_walk<K> &w, int k) {
    int64_t period = 1;
    int d = w.ndim - 1;
    for (; d >= 0 && w.strides[k][d] == period; d--) period *= w.dims[d];
    while (d >= 0 && w.strides[k][d] == 0) d--;
    return d < 0 ? period : 0;
}

/* Operand k of map_packs; false if it is none. A period of several elements is whole packs, unless it is all there is. */
template <int K, class T> static bool source_of(const hx_walk<K> &w, int k, const hx_array *x, hx_dtype dtype, source<T> *out) {
    const int64_t period = period_of(w, k);
    const bool is_whole = period == w.count || period % (int64_t)(16 / sizeof(T)) == 0;
    *out = {(const T *)x->data, period};
    return x->dtype == dtype && (period == 1 || (period > 1 && is_whole && hx_is_aligned(x->data, 16)));
}

/* Start map_packs if the operands allow it. */
template <class Row, class T> static hx_status try_packs(hx_cuda_stream *s, const hx_op_call *call, const hx_walk<1 + Row::N> &w, bool *done) {
    const params<double> p = params_of(call);
    typedef hx_accum_t<T> A;
    source<T> y, a, b = {};
    const hx_dtype dtype = call->in[0].dtype;
    *done = source_of(w, 0, &call->out[0], dtype, &y) && y.period == w.count && hx_is_aligned(y.data, 16) &&
            source_of(w, 1, &call->in[0], dtype, &a) && (Row::N == 1 || source_of(w, Row::N, &call->in[1], dtype, &b));
    if (!*done) return HX_OK;
    const int64_t n_packs = hx__cuda_ceil_div(w.count, 16 / (int64_t)sizeof(T));
    return hx_launch(s, hx_op_info_get(call->op)->name, hx_grid(s, hx__cuda_ceil_div(n_packs, HX_BLOCK)), dim3(HX_BLOCK), 0,
                     map_packs<Row, T>, w.count, (T *)call->out[0].data, a, b, params<A>{(A)p.a, (A)p.b});
}

template <class Row, class A> static hx_status run_elements(hx_cuda_stream *s, const hx_op_call *call, const hx_walk<1 + Row::N> &w) {
    const hx_array *y = &call->out[0], *a = &call->in[0], *b = &call->in[Row::N - 1];
    const params<double> p = params_of(call);
    return hx_launch(s, hx_op_info_get(call->op)->name, hx_grid(s, hx__cuda_ceil_div(w.count, HX_BLOCK)), dim3(HX_BLOCK), 0,
                     map_elements<Row, A>, w, operand{y->data, y->dtype}, operand{a->data, a->dtype}, operand{b->data, b->dtype},
                     params<A>{(A)p.a, (A)p.b});
}

template <class Row> static hx_walk<1 + Row::N> walk_of(const hx_op_call *call) {
    if constexpr (Row::N == 1) return hx_walk_make<2>({&call->out[0], &call->in[0]});
    else return hx_walk_make<3>({&call->out[0], &call->in[0], &call->in[1]});
}

template <class Row> static hx_status map(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_walk<1 + Row::N> w = walk_of<Row>(call);
    if (w.count == 0) return HX_OK;
    if (call->in[0].dtype == HX_F64) return run_elements<Row, double>(s, call, w);
    if constexpr (Row::PACKED) {
        bool done = false;
        switch (call->in[0].dtype) {
        case HX_BF16: HX_TRY((try_packs<Row, __nv_bfloat16>(s, call, w, &done))); break;
        case HX_F16: HX_TRY((try_packs<Row, __half>(s, call, w, &done))); break;
        default: HX_TRY((try_packs<Row, float>(s, call, w, &done))); break;
        }
        if (done) return HX_OK;
    }
    return run_elements<Row, float>(s, call, w);
}

#define CASE(name, ...)                                                                                     \
    case HX_OP_##name: return map<row_##name>(s, call);
#define DEFAULT(what)                                                                                       \
    default: return HX_FAIL(HX_ERR_INTERNAL, "%s reached the kernels of " what, hx_op_info_get(call->op)->name)

hx_status hx__cuda_unary(hx_cuda_stream *s, const hx_op_call *call) {
    switch (call->op) {
        UNARY_PACKED(CASE)
        UNARY(CASE)
        DEFAULT("functions of one operand");
    }
}

hx_status hx__cuda_binary(hx_cuda_stream *s, const hx_op_call *call) {
    switch (call->op) {
        BINARY_PACKED(CASE)
        BINARY(CASE)
        DEFAULT("functions of two operands");
    }
}

/* ---- comparisons and choice ---- */

/* Integers are compared as what they are: floating types have no room for 64 bits. */
template <class Row> static hx_status compare(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_walk<3> w = walk_of<Row>(call);
    if (w.count == 0) return HX_OK;
    if (!hx_dtype_is_float(call->in[0].dtype)) return run_elements<Row, int64_t>(s, call, w);
    return call->in[0].dtype == HX_F64 ? run_elements<Row, double>(s, call, w) : run_elements<Row, float>(s, call, w);
}

#define CASE_COMPARE(name, ...)                                                                             \
    case HX_OP_##name: return compare<row_##name>(s, call);

hx_status hx__cuda_compare(hx_cuda_stream *s, const hx_op_call *call) {
    switch (call->op) {
        COMPARE(CASE_COMPARE)
        DEFAULT("comparisons");
    }
}

/* A complex element: aligned as its parts are, since a complex view of real numbers may begin at any pair of them. */
template <class T> struct parts {
    T part[2];
};

template <class T> static __global__ void choose(hx_walk<4> w, T *y, const uint8_t *cond, const T *a, const T *b) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < w.count; i += step) {
        int64_t at[4];
        hx_walk_at(w, i, at);
        y[at[0]] = *(cond[at[1]] ? a + at[2] : b + at[3]); /* what is not chosen is not read */
    }
}

/* Half operands whose output is f32. */
static __global__ void choose_wide(hx_walk<4> w, float *y, const uint8_t *cond, operand a, operand b) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < w.count; i += step) {
        int64_t at[4];
        hx_walk_at(w, i, at);
        y[at[0]] = cond[at[1]] ? hx_load_as<float>(a.dtype, a.data, at[2]) : hx_load_as<float>(b.dtype, b.data, at[3]);
    }
}

template <class T> static hx_status choose_as(hx_cuda_stream *s, const hx_op_call *call, const hx_walk<4> &w) {
    return hx_launch(s, "where", hx_grid(s, hx__cuda_ceil_div(w.count, HX_BLOCK)), dim3(HX_BLOCK), 0, choose<T>, w,
                     (T *)call->out[0].data, (const uint8_t *)call->in[0].data, (const T *)call->in[1].data,
                     (const T *)call->in[2].data);
}

hx_status hx__cuda_where(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *y = &call->out[0], *cond = &call->in[0], *a = &call->in[1], *b = &call->in[2];
    const hx_walk<4> w = hx_walk_make<4>({y, cond, a, b});
    if (w.count == 0) return HX_OK;
    if (y->dtype != a->dtype)
        return hx_launch(s, "where", hx_grid(s, hx__cuda_ceil_div(w.count, HX_BLOCK)), dim3(HX_BLOCK), 0, choose_wide, w,
                         (float *)y->data, (const uint8_t *)cond->data, operand{a->data, a->dtype}, operand{b->data, b->dtype});
    if (a->dtype == HX_C64) return choose_as<parts<uint32_t>>(s, call, w);
    if (a->dtype == HX_C128) return choose_as<parts<uint64_t>>(s, call, w);
    switch (hx_dtype_bytes(a->dtype)) {
    case 1: return choose_as<uint8_t>(s, call, w);
    case 2: return choose_as<uint16_t>(s, call, w);
    case 4: return choose_as<uint32_t>(s, call, w);
    default: return choose_as<uint64_t>(s, call, w);
    }
}

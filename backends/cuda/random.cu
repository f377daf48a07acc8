/* Random numbers: the draws of core/base/rng.h, each counter advanced once for its four elements by one thread.
 *
 * Uniform draws, what is made of them in f64 (a + b u, with both roundings) and dropout's choices have the same bits as on
 * any other device. Normal draws take a logarithm and a sine in f64, which may differ from another library's by an ulp before
 * the rounding to the element's type. What dropout keeps is multiplied by 1 / (1 - p) in f64: that is x / (1 - p) rounded, but
 * for one element in 2^28.
 *
 * Traffic: dropout reads and writes an element (8 bytes in f32), random_* write one. Ten rounds of Philox are some 80 integer
 * operations for four elements: about as long as the memory takes, so threads are many and do one counter at a time. */
#include "backends/cuda/walk.cuh"

/* hx_philox of core/base/rng.h */
static __device__ __forceinline__ void philox(hx_rng rng, uint64_t block, uint32_t (&out)[4]) {
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = (uint32_t)rng.stream, c3 = (uint32_t)(rng.stream >> 32);
    uint32_t k0 = (uint32_t)rng.seed, k1 = (uint32_t)(rng.seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Threads go over counters: counter `first / 4 + t` holds the draws of elements 4 t - first % 4 and the three after. In dropout
 * they do so in each run of elements whose draws follow each other: all there are, or one sample's part of a sequence. */
static int64_t n_counters(uint64_t first, int64_t n) { return hx__cuda_ceil_div((int64_t)(first % 4) + n, 4); }

/* ---- dropout ---- */

struct dropout_job {
    hx_walk<2> w;
    hx_rng rng;
    uint64_t first;
    int64_t inner, stride;      /* run k: elements k inner .. of the draws first + k stride .. */
    int64_t n_runs, n_counters; /* of a run, at most */
    uint32_t threshold; /* kept if the 24-bit draw is at least this */
    double scale;       /* 1 / (1 - p) */
    void *y;
    hx_dtype dtype; /* of y */
    bool is_packed; /* both dense, aligned, and a counter's elements in a run are a pack of four */
};

template <class T> static __device__ __forceinline__ hx_accum_t<T> scaled(T x, bool is_kept, double scale) {
    return is_kept ? (hx_accum_t<T>)((double)hx_load(x) * scale) : 0;
}

template <class T> static __global__ void dropout(dropout_job j, const T *x) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x, n = j.n_runs * j.n_counters;
    for (int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; t < n; t += step) {
        const int64_t run = j.n_runs > 1 ? t / j.n_counters : 0, counter = t - run * j.n_counters; /* one run is spared the division */
        const uint64_t first = j.first + (uint64_t)(run * j.stride);
        const int64_t begin = run * j.inner, end = begin + j.inner < j.w.count ? begin + j.inner : j.w.count;
        const int64_t i = begin + counter * 4 - (int64_t)(first % 4);
        uint32_t draw[4];
        philox(j.rng, first / 4 + (uint64_t)counter, draw);
        if (j.is_packed && i + 4 <= end) {
            const hx_pack<T, 4> in = *reinterpret_cast<const hx_pack<T, 4> *>(x + i);
            hx_pack<T, 4> out;
            for (int e = 0; e < 4; e++) hx_store(&out.v[e], scaled(in.v[e], draw[e] >> 8 >= j.threshold, j.scale));
            *reinterpret_cast<hx_pack<T, 4> *>((T *)j.y + i) = out;
            continue;
        }
        for (int e = 0; e < 4; e++) {
            int64_t at[2];
            if (i + e < begin || i + e >= end) continue;
            hx_walk_at(j.w, i + e, at);
            hx_store_as(j.dtype, j.y, at[0], scaled(x[at[1]], draw[e] >> 8 >= j.threshold, j.scale));
        }
    }
}

template <class T> static hx_status run_dropout(hx_cuda_stream *s, const dropout_job &job, const hx_array *x) {
    dropout_job j = job;
    const bool has_packs = j.first % 4 == 0 && (j.n_runs == 1 || (j.inner % 4 == 0 && j.stride % 4 == 0));
    j.is_packed = j.dtype == x->dtype && has_packs && j.w.ndim == 1 && j.w.strides[0][0] == 1 && j.w.strides[1][0] == 1 &&
                  hx_is_aligned(j.y, 4 * sizeof(T)) && hx_is_aligned(x->data, 4 * sizeof(T));
    const int64_t n_blocks = hx__cuda_ceil_div(j.n_runs * j.n_counters, HX_BLOCK);
    return hx_launch(s, "dropout", hx_grid(s, n_blocks), dim3(HX_BLOCK), 0, dropout<T>, j, (const T *)x->data);
}

hx_status hx__cuda_dropout(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    const double p = call->attr.random.p;
    dropout_job job = {};
    job.w = hx_walk_make<2>({y, x});
    job.rng = call->attr.random.rng;
    job.first = (uint64_t)call->attr.random.offset;
    job.inner = call->attr.random.inner > 0 ? hx__cuda_min(call->attr.random.inner, job.w.count) : job.w.count;
    job.stride = call->attr.random.stride;
    job.threshold = (uint32_t)ceil(p * 0x1p24); /* u >= p for u in steps of 2^-24 */
    job.scale = 1 / (1 - p);
    job.y = y->data;
    job.dtype = y->dtype;
    if (job.w.count == 0) return HX_OK;
    job.n_runs = hx__cuda_ceil_div(job.w.count, job.inner);
    job.n_counters = n_counters(job.n_runs == 1 || job.stride % 4 == 0 ? job.first : 3, job.inner); /* 3: the most that a run may need */
    HX_RETURN_BY_FLOAT(x->dtype, T, run_dropout<T>(s, job, x));
}

/* ---- random_* ---- */

struct random_job {
    hx_rng rng;
    uint64_t first;
    double a, b, p;
    hx_op op;
    void *y; /* [n], dense */
    hx_dtype dtype;
    int64_t n;
};

static __device__ __forceinline__ double uniform(uint32_t draw) { return (double)(draw >> 8) * 0x1p-24; }

/* hx_rng_normal for both elements of a pair of words */
static __device__ __forceinline__ void normal_pair(const uint32_t *draw, double *z) {
    const double u = ((double)draw[0] + 0.5) * 0x1p-32, phi = 6.283185307179586 * ((double)draw[1] * 0x1p-32);
    const double r = sqrt(-2.0 * log(u));
    z[0] = r * cos(phi);
    z[1] = r * sin(phi);
}

/* Each value is rounded by itself: a fused a + b z would be other bits. */
static __device__ __forceinline__ double placed(double a, double b, double z) { return __dadd_rn(a, __dmul_rn(b, z)); }

static __global__ void random_fill(random_job j) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x, skip = (int64_t)(j.first % 4);
    for (int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; t * 4 - skip < j.n; t += step) {
        uint32_t draw[4];
        double value[4];
        philox(j.rng, j.first / 4 + (uint64_t)t, draw);
        for (int e = 0; e < 4; e++) value[e] = uniform(draw[e]);
        if (j.op == HX_OP_random_normal) {
            normal_pair(draw, value);
            normal_pair(draw + 2, value + 2);
        }
        for (int e = 0; e < 4; e++) {
            const int64_t i = t * 4 - skip + e;
            const double out = j.op == HX_OP_random_bernoulli ? (double)(value[e] < j.p) : placed(j.a, j.b, value[e]);
            if (i >= 0 && i < j.n) hx_store_as(j.dtype, j.y, i, out);
        }
    }
}

hx_status hx__cuda_random(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_array *y = &call->out[0];
    const auto *attr = &call->attr.random;
    const random_job j = {attr->rng, (uint64_t)attr->offset, attr->a, attr->b, attr->p, call->op, y->data, y->dtype, hx__cuda_count(y)};
    if (j.n == 0) return HX_OK;
    const int64_t n_blocks = hx__cuda_ceil_div(n_counters(j.first, j.n), HX_BLOCK);
    return hx_launch(s, hx_op_info_get(call->op)->name, hx_grid(s, n_blocks), dim3(HX_BLOCK), 0, random_fill, j);
}

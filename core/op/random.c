/* Random numbers: functions of a key and a position. */
#include "core/base/mem.h"
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

hx_status hx__infer_random(const hx_op_args *a, hx_op_meta *out) {
    if (!hx_dtype_is_float(out[0].dtype))
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: x is %s: expected a floating type", a->name, hx_dtype_name(out[0].dtype));
    if (a->op == HX_OP_random_bernoulli && !(a->attr->random.p >= 0 && a->attr->random.p <= 1))
        return HX_FAIL(HX_ERR_ARG, "random_bernoulli: p = %g: expected 0 <= p <= 1", a->attr->random.p);
    return HX_OK;
}

/* Where the draws of x lie among those of the global batch. A part of the sequence draws what its tokens draw in the
 * whole: each sample's elements are a run of the whole sample's. */
static hx_status place_draws(const hx_ctx *ctx, const hx_array *x, hx_op_attr *attr) {
    int64_t per_sample = x->ndim > 0 && x->dims[0] > 0 ? hx_array_count(x) / x->dims[0] : 0, first = 0;
    if (ctx->seq_total > 0 && x->ndim >= 3) {
        HX_TRY(hx__need_part("dropout: tokens", ctx->seq_first, x->dims[1], ctx->seq_total));
        int64_t per_token = x->dims[1] > 0 ? per_sample / x->dims[1] : 0;
        attr->random.inner = per_sample;
        HX_TRY(hx_count_mul(per_token, ctx->seq_total, &per_sample));
        attr->random.stride = per_sample;
        first = per_token * ctx->seq_first; /* less than per_sample */
    }
    HX_TRY(hx_count_mul(per_sample, ctx->sample_base, &attr->random.offset));
    attr->random.offset += first;
    return HX_OK;
}

hx_status hx_dropout_op(hx_ctx *ctx, hx_tensor *x, double p, uint64_t id, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    if (!(p >= 0 && p < 1)) return HX_FAIL(HX_ERR_ARG, "p = %g: expected 0 <= p < 1", p);
    if (!ctx->training || p == 0) {
        *out = hx_tensor_retain(x);
        return HX_OK;
    }
    hx_op_attr attr = {.random = {.p = p}};
    HX_TRY(place_draws(ctx, &x->array, &attr));
    /* the stream has 56 bits: layer and step are mixed into them */
    uint64_t stream = (id * 0x9E3779B97F4A7C15ull) ^ (uint64_t)ctx->step * 0xD1342543DE82EF95ull;
    attr.random.rng = (hx_rng){ctx->seed, hx_rng_stream(HX_RNG_DROPOUT, stream)};
    return hx__run1(ctx, HX_OP_dropout, x, &attr, out);
}

static hx_status fill(hx_ctx *ctx, hx_op op, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b) {
    hx_op_attr attr = {.random = {.rng = rng, .offset = offset, .a = a, .b = b}};
    return hx_op_run(ctx, op, NULL, 0, &attr, 0, &x);
}

hx_status hx_fill_uniform(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b) {
    return fill(ctx, HX_OP_random_uniform, x, rng, offset, a, b);
}

hx_status hx_fill_normal(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b) {
    return fill(ctx, HX_OP_random_normal, x, rng, offset, a, b);
}

hx_status hx_fill_bernoulli(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double p) {
    hx_op_attr attr = {.random = {.rng = rng, .offset = offset, .p = p}};
    return hx_op_run(ctx, HX_OP_random_bernoulli, NULL, 0, &attr, 0, &x);
}

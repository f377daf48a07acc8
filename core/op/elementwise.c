/* Elementwise ops, casts and comparisons. */
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

/* Sums and products are as plain for complex numbers as for real ones. */
static bool takes_complex(hx_op op) {
    return op == HX_OP_add || op == HX_OP_sub || op == HX_OP_mul || op == HX_OP_affine;
}

static hx_status need_number(const hx_op_args *a) {
    hx_dtype dtype = a->in[0].dtype;
    if (a->op == HX_OP_conj && !hx_dtype_is_complex(dtype))
        return HX_FAIL(HX_ERR_DTYPE, "conj: operand 0 is %s: expected a complex type", hx_dtype_name(dtype));
    if (a->op == HX_OP_conj) return HX_OK;
    return takes_complex(a->op) ? hx__need_float_or_complex(a, 0) : hx__need_float(a, 0);
}

hx_status hx__infer_binary(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_number(a));
    HX_TRY(hx__need_same(a, 0, 1));
    hx_shape s;
    HX_TRY(hx_shape_broadcast(&a->in[0].shape, &a->in[1].shape, &s));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_unary(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_number(a));
    if (a->op == HX_OP_softmax || a->op == HX_OP_log_softmax) HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    if (a->op == HX_OP_dropout && !(a->attr->random.p >= 0 && a->attr->random.p < 1))
        return HX_FAIL(HX_ERR_ARG, "dropout: p = %g: expected 0 <= p < 1", a->attr->random.p);
    if (a->op == HX_OP_dropout && (a->attr->random.inner < 0 || (a->attr->random.inner > 0 && a->attr->random.stride < a->attr->random.inner)))
        return HX_FAIL(HX_ERR_ARG, "dropout: runs of %lld elements, %lld apart: expected 0 <= inner <= stride, or inner 0",
                       (long long)a->attr->random.inner, (long long)a->attr->random.stride);
    if (a->op == HX_OP_clamp && !(a->attr->clamp.low <= a->attr->clamp.high))
        return HX_FAIL(HX_ERR_ARG, "clamp: low = %g, high = %g: expected low <= high", a->attr->clamp.low, a->attr->clamp.high);
    hx__set_out(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_same(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, 1));
    HX_TRY(hx__need_shape(a, 1, &a->in[0].shape));
    if (a->op == HX_OP_softmax_bwd || a->op == HX_OP_log_softmax_bwd) HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    hx__set_out(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

/* Operand 0 holds gate and up: the shape of one of them. */
static hx_status half_shape(const hx_op_args *a, hx_shape *out) {
    char text[HX_SHAPE_TEXT];
    hx_shape s = a->in[0].shape;
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    if (hx__last_dim(&s) % 2 != 0)
        return HX_FAIL(HX_ERR_SHAPE, "%s: operand 0 is %s: expected an even last dim, gate and up", a->name, hx_shape_text(&s, text));
    s.dims[s.ndim - 1] /= 2;
    *out = s;
    return HX_OK;
}

hx_status hx__infer_swiglu(const hx_op_args *a, hx_op_meta *out) {
    hx_shape half;
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(half_shape(a, &half));
    hx__set_out(out, half, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_swiglu_bwd(const hx_op_args *a, hx_op_meta *out) {
    hx_shape half;
    HX_TRY(hx__need_same_float(a, 0, 1));
    HX_TRY(half_shape(a, &half));
    HX_TRY(hx__need_shape(a, 1, &half));
    hx__set_out(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_compare(const hx_op_args *a, hx_op_meta *out) {
    hx_shape s;
    HX_TRY(hx__need_not_complex(a, 0));
    HX_TRY(hx__need_same(a, 0, 1));
    HX_TRY(hx_shape_broadcast(&a->in[0].shape, &a->in[1].shape, &s));
    hx__set_out(out, s, HX_BOOL);
    return HX_OK;
}

hx_status hx__infer_where(const hx_op_args *a, hx_op_meta *out) {
    hx_shape ab, s;
    HX_TRY(hx__need_dtype(a, 0, HX_BOOL));
    HX_TRY(hx__need_same(a, 1, 2));
    HX_TRY(hx_shape_broadcast(&a->in[1].shape, &a->in[2].shape, &ab));
    HX_TRY(hx_shape_broadcast(&a->in[0].shape, &ab, &s));
    hx__set_out(out, s, a->in[1].dtype);
    return HX_OK;
}

hx_status hx__infer_copy(const hx_op_args *a, hx_op_meta *out) {
    hx_dtype dtype = a->attr->copy.dtype;
    if (hx_dtype_bytes(dtype) == 0) return HX_FAIL(HX_ERR_DTYPE, "copy: dtype %d: unknown", (int)dtype);
    hx__set_out(out, a->in[0].shape, dtype);
    return HX_OK;
}

hx_status hx__need_rule(hx_op op, hx_status (*rule)(const hx_op_args *, hx_op_meta *)) {
    if ((unsigned)op < HX_OP_COUNT && hx_op_info_get(op)->infer == rule) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "op %d is not of this family", (int)op);
}

hx_status hx_binary(hx_ctx *ctx, hx_op op, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    HX_TRY(hx__need_rule(op, hx__infer_binary));
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, op, (hx_tensor *[]){a, b}, 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_compare(hx_ctx *ctx, hx_op op, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    hx_ctx quiet = hx_no_grad(ctx); /* steps have no derivative to record */
    hx_tensor *y = NULL;
    HX_TRY(hx__need_rule(op, hx__infer_compare));
    HX_TRY(hx_op_run(&quiet, op, (hx_tensor *[]){a, b}, 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_where(hx_ctx *ctx, hx_tensor *cond, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_where, (hx_tensor *[]){cond, a, b}, 3, NULL, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_unary(hx_ctx *ctx, hx_op op, hx_tensor *x, hx_tensor **out) {
    HX_TRY(hx__need_rule(op, hx__infer_unary));
    if (op == HX_OP_dropout || op == HX_OP_affine || op == HX_OP_clamp || op == HX_OP_leaky_relu)
        return HX_FAIL(HX_ERR_ARG, "%s has attributes: use its own function", hx_op_info_get(op)->name);
    return hx__run1(ctx, op, x, NULL, out);
}

hx_status hx_affine(hx_ctx *ctx, hx_tensor *x, double alpha, double beta, hx_tensor **out) {
    return hx__run1(ctx, HX_OP_affine, x, &(hx_op_attr){.affine = {alpha, beta}}, out);
}

hx_status hx_clamp(hx_ctx *ctx, hx_tensor *x, double low, double high, hx_tensor **out) {
    return hx__run1(ctx, HX_OP_clamp, x, &(hx_op_attr){.clamp = {low, high}}, out);
}

hx_status hx_leaky_relu(hx_ctx *ctx, hx_tensor *x, double slope, hx_tensor **out) {
    return hx__run1(ctx, HX_OP_leaky_relu, x, &(hx_op_attr){.leaky = {slope}}, out);
}

hx_status hx_swiglu(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    return hx__run1(ctx, HX_OP_swiglu, x, NULL, out);
}

hx_status hx_cast(hx_ctx *ctx, hx_tensor *x, hx_dtype dtype, hx_tensor **out) {
    return hx__run1(ctx, HX_OP_copy, x, &(hx_op_attr){.copy = {dtype}}, out);
}

hx_status hx_widen(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    if (hx_dtype_is_half(x->array.dtype)) return hx_cast(ctx, x, hx_dtype_accum(x->array.dtype), out);
    *out = hx_tensor_retain(x);
    return HX_OK;
}

hx_status hx_scalar(hx_ctx *ctx, hx_dtype dtype, double value, hx_tensor **out) {
    HX_AUTO_TENSOR x = NULL;
    HX_TRY(hx_tensor_create(ctx->device, dtype, HX_SCALAR, &x));
    HX_TRY(hx_tensor_fill(ctx->stream, x, value));
    *out = hx_tensor_move(&x);
    return HX_OK;
}

hx_status hx_contiguous(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    if (hx_tensor_is_contiguous(x)) {
        *out = hx_tensor_retain(x);
        return HX_OK;
    }
    return hx_cast(ctx, x, x->array.dtype, out);
}

hx_status hx_copy_into(hx_ctx *ctx, hx_tensor *src, hx_tensor *dst) {
    HX_NEED_TENSOR(src);
    HX_NEED_TENSOR(dst);
    hx_ctx quiet = hx_no_grad(ctx);
    return hx_op_run(&quiet, HX_OP_copy, &src, 1, &(hx_op_attr){.copy = {dst->array.dtype}}, 0, &dst);
}

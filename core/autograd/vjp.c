/* What derivatives share. */
#include "core/autograd/vjp_impl.h"

hx_status hx__grad_run(hx_vjp *v, hx_op op, hx_tensor *a, hx_tensor *b, const hx_op_attr *attr, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(v->ctx, op, (hx_tensor *[]){a, b}, b ? 2 : 1, attr, 0, &y));
    *out = y;
    return HX_OK;
}

static bool has_shape(const hx_tensor *t, const hx_shape *want) {
    const hx_shape shape = hx_tensor_shape(t);
    return hx_shape_equal(&shape, want);
}

hx_status hx__grad_give_op(hx_vjp *v, int i, hx_op op, hx_tensor *a, hx_tensor *b, const hx_op_attr *attr) {
    hx_tensor *g = NULL;
    if (!hx_vjp_wants(v, i)) return HX_OK;
    /* Operands of the input's shape give a result of its shape: only a broadcast one would have to be summed. */
    if (hx_vjp_overwrites(v, i) && hx_dtype_accum(v->in_dtype[i]) == v->in_dtype[i] && has_shape(a, &v->in_shape[i]) &&
        (b == NULL || has_shape(b, &v->in_shape[i]))) {
        bool accumulate;
        HX_TRY(hx_vjp_target(v, i, &g, &accumulate));
        return hx_op_run(v->ctx, op, (hx_tensor *[]){a, b}, b ? 2 : 1, attr, 0, &g);
    }
    HX_TRY(hx__grad_run(v, op, a, b, attr, &g));
    return hx_vjp_give_consume(v, i, &g);
}

hx_status hx__grad_give_same(hx_vjp *v, int i) {
    if (!hx_vjp_wants(v, i)) return HX_OK;
    hx_tensor *g = hx_tensor_retain(v->grad_out[0]);
    return hx_vjp_give_consume(v, i, &g);
}

hx_status hx__grad_give_scaled(hx_vjp *v, int i, double alpha) {
    return hx__grad_give_op(v, i, HX_OP_affine, v->grad_out[0], NULL, &(hx_op_attr){.affine = {alpha, 0}});
}

hx_status hx__grad_give_narrowed(hx_vjp *v, int i, hx_tensor *g) {
    if (hx_tensor_dtype(g) != v->in_dtype[i]) return hx__grad_give_op(v, i, HX_OP_copy, g, NULL, &(hx_op_attr){.copy = {v->in_dtype[i]}});
    hx_tensor *same = hx_tensor_retain(g);
    return hx_vjp_give_consume(v, i, &same);
}

hx_status hx__grad_put(hx_vjp *v, hx_tensor *dst, hx_tensor *g, bool accumulate) {
    if (g == NULL) {
        if (accumulate) return HX_OK;
        HX_AUTO_TENSOR zero = NULL;
        HX_AUTO_TENSOR zeros = NULL;
        HX_TRY(hx_scalar(v->ctx, hx_tensor_dtype(dst), 0, &zero));
        HX_TRY(hx_tensor_expand(zero, hx_tensor_shape(dst), &zeros));
        return hx_copy_into(v->ctx, zeros, dst);
    }
    if (!accumulate) return hx_copy_into(v->ctx, g, dst);
    if (hx_tensor_dtype(g) != hx_tensor_dtype(dst)) {
        HX_AUTO_TENSOR wide = NULL;
        HX_TRY(hx_cast(v->ctx, g, hx_tensor_dtype(dst), &wide));
        return hx_op_run(v->ctx, HX_OP_add, (hx_tensor *[]){dst, wide}, 2, NULL, 0, &dst);
    }
    return hx_op_run(v->ctx, HX_OP_add, (hx_tensor *[]){dst, g}, 2, NULL, 0, &dst);
}

/* Shape rules of the optimizers' updates. */
#include "core/op/op_impl.h"

/* Of one dtype, or the gradient and the slots f32 beside a parameter of half type. */
static bool fits_param(hx_dtype dtype, hx_dtype param) {
    return dtype == param || dtype == hx_dtype_accum(param);
}

/* The last output: the parameter once more, rounded from f32. */
static hx_status check_rounded(const hx_op_args *a, const hx_op_meta *param, const hx_op_meta *q) {
    if (!q->present) return HX_OK;
    HX_TRY(hx__need_shape(a, 0, &q->shape));
    if (hx_dtype_is_half(q->dtype) && param->dtype == HX_F32) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: parameter %s, to be rounded to %s: expected f32, to be rounded to bf16 or f16", a->name,
                   hx_dtype_name(param->dtype), hx_dtype_name(q->dtype));
}

/* g and gscale; output 0 is the parameter, those up to the last are its slots, some of which may be left out. */
static hx_status check_update(const hx_op_args *a, const hx_op_meta *out, unsigned required) {
    const hx_shape scalar = HX_SCALAR;
    HX_TRY(hx__need_float(a, 0));
    if (a->n_in > 1 && a->in[1].present) {
        HX_TRY(hx__need_shape(a, 1, &scalar));
        HX_TRY(hx__need_dtype(a, 1, HX_F64));
    }
    const int last = hx_op_info_get(a->op)->n_out - 1;
    for (int i = 0; i < last; i++) {
        if (!out[i].present) {
            if (required >> i & 1) return HX_FAIL(HX_ERR_ARG, "%s: output %d is skipped: the update needs it", a->name, i);
            continue;
        }
        HX_TRY(hx__need_shape(a, 0, &out[i].shape));
        if (!fits_param(out[i].dtype, out[0].dtype) || !fits_param(a->in[0].dtype, out[0].dtype))
            return HX_FAIL(HX_ERR_DTYPE, "%s: gradient %s, parameter %s, output %d %s: expected one dtype, or f32 beside a half type",
                           a->name, hx_dtype_name(a->in[0].dtype), hx_dtype_name(out[0].dtype), i, hx_dtype_name(out[i].dtype));
    }
    return check_rounded(a, &out[0], &out[last]);
}

hx_status hx__infer_adamw(const hx_op_args *a, hx_op_meta *out) {
    if (a->attr->adamw.step < 1) return HX_FAIL(HX_ERR_ARG, "%s: step = %lld: expected >= 1", a->name, (long long)a->attr->adamw.step);
    return check_update(a, out, 7);
}

hx_status hx__infer_sgd(const hx_op_args *a, hx_op_meta *out) {
    return check_update(a, out, 1); /* without momentum there is no slot */
}

/* The first slot is a moment that every update needs. */
hx_status hx__infer_moment(const hx_op_args *a, hx_op_meta *out) {
    return check_update(a, out, 3);
}

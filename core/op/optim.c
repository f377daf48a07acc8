/* Shape rules of the optimizers' updates. */
#include "core/op/op_impl.h"

hx_status hx__infer_adamw(const hx_op_args *a, hx_op_meta *out) {
    hx_shape scalar = HX_SCALAR;
    HX_TRY(hx__need_float(a, 0));
    if (a->attr->adamw.step < 1) return HX_FAIL(HX_ERR_ARG, "adamw: step = %lld: expected >= 1", (long long)a->attr->adamw.step);
    if (a->n_in > 1 && a->in[1].present) {
        HX_TRY(hx__need_shape(a, 1, &scalar));
        if (a->in[1].dtype != HX_F64) return HX_FAIL(HX_ERR_DTYPE, "adamw: gscale is %s: expected f64", hx_dtype_name(a->in[1].dtype));
    }
    for (int i = 0; i < 3; i++) {
        HX_TRY(hx__need_shape(a, 0, &out[i].shape));
        if (out[i].dtype != a->in[0].dtype)
            return HX_FAIL(HX_ERR_DTYPE, "adamw: output %d is %s, the gradient %s: expected one dtype", i, hx_dtype_name(out[i].dtype), hx_dtype_name(a->in[0].dtype));
    }
    return HX_OK;
}

/* Derivatives of views: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

hx_status hx__vjp_view(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(hx_reshape(v->ctx, v->grad_out[0], v->in_shape[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

hx_status hx__vjp_permute(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    int inverse[HX_MAX_DIMS] = {0};
    for (int d = 0; d < v->in_shape[0].ndim; d++) inverse[v->attr->view.perm[d]] = d;
    HX_TRY(hx_tensor_permute(v->grad_out[0], inverse, &g));
    return hx_vjp_give_consume(v, 0, &g);
}

/* Repeated dims are summed by hx_vjp_give_consume. */
hx_status hx__vjp_expand(hx_vjp *v) {
    return hx__grad_give_same(v, 0);
}

/* dx is zero outside of the slice */
hx_status hx__vjp_slice(hx_vjp *v) {
    hx_tensor *dst;
    HX_AUTO_TENSOR part = NULL;
    bool accumulate;
    int d = v->attr->view.dim;
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    if (!accumulate) HX_TRY(hx_tensor_fill(v->ctx->stream, dst, 0));
    int64_t n = v->out_shape[0].dims[d], start = v->attr->view.start;
    int64_t stop = n > 0 ? start + (n - 1) * v->attr->view.step + 1 : start;
    HX_TRY(hx_tensor_slice(dst, d, start, stop, n > 1 ? v->attr->view.step : 1, &part));
    return hx__grad_put(v, part, v->grad_out[0], accumulate);
}

hx_status hx__vjp_split(hx_vjp *v) {
    hx_tensor *dst;
    bool accumulate;
    int64_t start = 0;
    int d = v->attr->view.dim;
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    for (int i = 0; i < v->n_out; i++) {
        HX_AUTO_TENSOR part = NULL;
        int64_t n = v->out_shape[i].dims[d];
        HX_TRY(hx_tensor_slice(dst, d, start, start + n, 1, &part));
        HX_TRY(hx__grad_put(v, part, v->grad_out[i], accumulate));
        start += n;
    }
    return HX_OK;
}

/* The gradient of a complex tensor holds the derivatives by the real and by the imaginary part: the other view of it. */
hx_status hx__vjp_view_as_real(hx_vjp *v) {
    HX_AUTO_TENSOR dense = NULL;
    HX_AUTO_TENSOR g = NULL;
    hx_tensor *dy = v->grad_out[0];
    /* a gradient that is part of another may begin between two pairs, though it is contiguous */
    if (hx__has_pairs(dy)) dense = hx_tensor_retain(dy);
    else HX_TRY(hx_cast(v->ctx, dy, hx_tensor_dtype(dy), &dense));
    HX_TRY(hx_view_as_complex(v->ctx, dense, &g));
    return hx_vjp_give_consume(v, 0, &g);
}

hx_status hx__vjp_view_as_complex(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(hx_view_as_real(v->ctx, v->grad_out[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

/* Derivatives of Fourier transforms: the adjoints. The gradient of a complex z = a + ib is dL/da + i dL/db, so that of
 * y = F z is F^H dy. */
#include "core/autograd/vjp_impl.h"

/* (scale F)^H = scale times the transform of the other sign */
hx_status hx__vjp_fft(hx_vjp *v) {
    hx_op_attr attr = *v->attr;
    attr.fft.inverse = !attr.fft.inverse;
    return hx__grad_give_op(v, 0, HX_OP_fft, v->grad_out[0], NULL, &attr);
}

/* dx_j = scale Re sum_k c_k e^(2 pi i jk/n) dy_k over the n/2 + 1 bins, c_k = interior but for bins 0 and n/2, where it
 * is 1. irfft adds to each interior bin its mirror image, the conjugate, which doubles the real part: hence the 1/2. */
hx_status hx__vjp_rfft(hx_vjp *v) {
    hx_op_attr attr = *v->attr;
    attr.fft.n = v->in_shape[0].dims[v->in_shape[0].ndim - 1];
    attr.fft.interior /= 2;
    return hx__grad_give_op(v, 0, HX_OP_irfft, v->grad_out[0], NULL, &attr);
}

/* The same backwards. Imaginary parts that irfft does not read get 0, because those of rfft are 0 there. */
hx_status hx__vjp_irfft(hx_vjp *v) {
    hx_op_attr attr = *v->attr;
    attr.fft.interior *= 2;
    return hx__grad_give_op(v, 0, HX_OP_rfft, v->grad_out[0], NULL, &attr);
}

/* dx_s = sum over t >= s of h_{t-s} dy_t, + d dy_s, dh_s = sum over the batch and t >= s of x_{t-s} dy_t, dd = sum of x dy: one fused
 * op, since dx and dh share the transform of dy. */
hx_status hx__vjp_fftconv(hx_vjp *v) {
    hx_op_attr attr = {.fftconv = {0}};
    hx_tensor *dst[3] = {NULL};
    unsigned skip = 0;
    for (int i = 0; i < 3; i++) {
        bool accumulate = false;
        if (hx_vjp_wants(v, i)) HX_TRY(hx_vjp_target(v, i, &dst[i], &accumulate));
        else skip |= 1u << i;
        if (accumulate) attr.fftconv.accumulate |= 1u << i;
    }
    return hx_op_run(v->ctx, HX_OP_fftconv_bwd, (hx_tensor *[]){v->in[0], v->in[1], v->grad_out[0], v->in[2]}, 4, &attr, skip, dst);
}

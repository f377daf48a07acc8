/* Fourier transforms. The ops work along the last dim; the typed functions move another dim there and back. */
#include "core/op/op_impl.h"

/* The Fourier kernels have no half types: there is no complex type of half width to hold the bins. */
static hx_status need_real(const hx_op_args *a, int i) {
    hx_dtype d = a->in[i].dtype;
    if (d == HX_F32 || d == HX_F64) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected f32 or f64%s", a->name, i, hx_dtype_name(d),
                   hx_dtype_is_half(d) ? "; bins of half width do not exist, cast it first" : "");
}

static hx_status need_complex(const hx_op_args *a, int i) {
    if (hx_dtype_is_complex(a->in[i].dtype)) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected c64 or c128", a->name, i, hx_dtype_name(a->in[i].dtype));
}

/* x has a last dim, and it is not empty. */
static hx_status need_elements(const hx_op_args *a) {
    const hx_shape *x = &a->in[0].shape;
    char text[HX_SHAPE_TEXT];
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    if (hx__last_dim(x) >= 1) return HX_OK;
    return HX_FAIL(HX_ERR_SHAPE, "%s: operand 0 is %s: expected at least one element to transform", a->name, hx_shape_text(x, text));
}

hx_status hx__infer_fft(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_complex(a, 0));
    HX_TRY(need_elements(a));
    hx__set_out(&out[0], a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_rfft(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_real(a, 0));
    HX_TRY(need_elements(a));
    hx_shape bins = a->in[0].shape;
    bins.dims[bins.ndim - 1] = hx__last_dim(&bins) / 2 + 1;
    hx__set_out(&out[0], bins, hx_dtype_complex(a->in[0].dtype));
    return HX_OK;
}

hx_status hx__infer_irfft(const hx_op_args *a, hx_op_meta *out) {
    int64_t n = a->attr->fft.n;
    HX_TRY(need_complex(a, 0));
    if (n < 1) return HX_FAIL(HX_ERR_ARG, "%s: n = %lld: expected at least 1", a->name, (long long)n);
    HX_TRY(need_elements(a));
    hx_shape real = a->in[0].shape;
    char text[HX_SHAPE_TEXT];
    if (hx__last_dim(&real) != n / 2 + 1)
        return HX_FAIL(HX_ERR_SHAPE, "%s: operand 0 is %s: expected %lld bins for n = %lld", a->name, hx_shape_text(&real, text),
                       (long long)(n / 2 + 1), (long long)n);
    real.dims[real.ndim - 1] = n;
    hx__set_out(&out[0], real, hx_dtype_real(a->in[0].dtype));
    return HX_OK;
}

/* x [B,C,L], h [C,K] */
static hx_status need_signals(const hx_op_args *a) {
    HX_TRY(hx__need_ndim(a, 0, 3, 3));
    HX_TRY(hx__need_ndim(a, 1, 2, 2));
    return hx__need_shape(a, 1, &(hx_shape){2, {a->in[0].shape.dims[1], a->in[1].shape.dims[1]}});
}

/* x, h, d? */
hx_status hx__infer_fftconv(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_signals(a));
    if (a->in[2].present) HX_TRY(hx__need_shape(a, 2, &(hx_shape){1, {a->in[0].shape.dims[1]}}));
    hx__set_out(&out[0], a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

/* x, h, dy, d? */
hx_status hx__infer_fftconv_bwd(const hx_op_args *a, hx_op_meta *out) {
    const hx_shape channels = {1, {a->in[0].shape.dims[1]}};
    HX_TRY(hx__need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_signals(a));
    if (a->in[3].present) HX_TRY(hx__need_shape(a, 3, &channels));
    HX_TRY(hx__need_shape(a, 2, &a->in[0].shape));
    hx__set_out(&out[0], a->in[0].shape, a->in[0].dtype);
    hx__set_out(&out[1], a->in[1].shape, a->in[0].dtype);
    hx__set_out(&out[2], channels, a->in[0].dtype);
    return HX_OK;
}

hx_status hx_fft(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    return hx__run_along(ctx, HX_OP_fft, x, dim, &(hx_op_attr){.fft = {.scale = 1}}, out);
}

hx_status hx_ifft(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    int64_t n = hx_tensor_dim(x, dim); /* 0 and a dim that does not exist are refused below */
    return hx__run_along(ctx, HX_OP_fft, x, dim, &(hx_op_attr){.fft = {.inverse = true, .scale = 1 / (double)(n > 0 ? n : 1)}}, out);
}

hx_status hx_rfft(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    return hx__run_along(ctx, HX_OP_rfft, x, dim, &(hx_op_attr){.fft = {.scale = 1, .interior = 1}}, out);
}

hx_status hx_irfft(hx_ctx *ctx, hx_tensor *x, int dim, int64_t n, hx_tensor **out) {
    return hx__run_along(ctx, HX_OP_irfft, x, dim, &(hx_op_attr){.fft = {.scale = 1 / (double)(n > 0 ? n : 1), .n = n, .interior = 1}}, out);
}

hx_status hx_fftconv(hx_ctx *ctx, hx_tensor *x, hx_tensor *h, hx_tensor *d, hx_tensor **out) {
    return hx_op_run(ctx, HX_OP_fftconv, (hx_tensor *[]){x, h, d}, d ? 3 : 2, &(hx_op_attr){0}, 0, out);
}

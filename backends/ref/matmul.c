#include "backends/ref/ref_impl.h"

/* sum_k a_k b_k over n elements at the given strides */
static double dot(const hx_array *a, int64_t at_a, int64_t step_a, const hx_array *b, int64_t at_b,
                  int64_t step_b, int64_t n) {
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += hx__ref_get(a, at_a + k * step_a) * hx__ref_get(b, at_b + k * step_b);
    return sum;
}

/* y[m,n] = alpha sum_k a[m,k] b[k,n] for each index of the batch dims */
hx_status hx__ref_matmul(const hx_op_call *call) {
    const hx_array *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    int64_t n_m = hx__ref_dim(y, 2), n_n = hx__ref_dim(y, 1), n_k = hx__ref_dim(a, 1);
    double alpha = call->attr.matmul.alpha;
    hx_array y_lead = hx__ref_lead(y, 2), a_lead = hx__ref_lead(a, 2), b_lead = hx__ref_lead(b, 2);
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(&y_lead, &a_lead, &b_lead)); !w.is_done;
         hx__ref_walk_next(&w))
        for (int64_t m = 0; m < n_m; m++)
            for (int64_t n = 0; n < n_n; n++) {
                double sum = dot(a, w.at[1] + m * hx__ref_stride(a, 2), hx__ref_stride(a, 1), b,
                                 w.at[2] + n * hx__ref_stride(b, 1), hx__ref_stride(b, 2), n_k);
                hx__ref_put(y, w.at[0] + m * hx__ref_stride(y, 2) + n * hx__ref_stride(y, 1), alpha * sum,
                            call->attr.matmul.accumulate);
            }
    return HX_OK;
}

/* y[..,n] = sum_k x[..,k] w[n,k] + bias[n] */
hx_status hx__ref_linear(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *weight = &call->in[1], *y = &call->out[0];
    const hx_array *bias = call->n_in > 2 && hx__ref_has(&call->in[2]) ? &call->in[2] : NULL;
    int64_t n_n = weight->dims[0], n_k = weight->dims[1];
    hx_array y_rows = hx__ref_lead(y, 1), x_rows = hx__ref_lead(x, 1);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&y_rows, &x_rows)); !w.is_done;
         hx__ref_walk_next(&w))
        for (int64_t n = 0; n < n_n; n++) {
            double sum = dot(x, w.at[1], hx__ref_stride(x, 1), weight, n * weight->strides[0],
                             weight->strides[1], n_k);
            if (bias) sum += hx__ref_get(bias, n * bias->strides[0]);
            hx__ref_set(y, w.at[0] + n * hx__ref_stride(y, 1), sum);
        }
    return HX_OK;
}

#include "backends/ref/ref_impl.h"

#include <math.h>

void hx__ref_split_dims(const hx_op_call *call, hx_array *kept, hx_array *summed) {
    const hx_array *x = &call->in[0];
    *kept = *summed = *x;
    kept->ndim = summed->ndim = 0;
    for (int d = 0, next = 0; d < x->ndim; d++) {
        bool is_summed = next < call->attr.reduce.n_dims && call->attr.reduce.dims[next] == d;
        if (is_summed) {
            next++;
            summed->dims[summed->ndim] = x->dims[d];
            summed->strides[summed->ndim++] = x->strides[d];
        }
        if (!is_summed || call->attr.reduce.keepdim) {
            kept->dims[kept->ndim] = is_summed ? 1 : x->dims[d];
            kept->strides[kept->ndim++] = x->strides[d];
        }
    }
}

hx_status hx__ref_sum(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    hx_array kept, summed;
    hx__ref_split_dims(call, &kept, &summed);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, &kept)); !w.is_done; hx__ref_walk_next(&w)) {
        hx__ref_total sum = {0, 0};
        for (hx__ref_walk v = hx__ref_walk_start(1, HX_REF_ARRAYS(&summed)); !v.is_done;
             hx__ref_walk_next(&v))
            hx__ref_add(&sum, hx__ref_get(x, w.at[1] + v.at[0]));
        hx__ref_put(y, w.at[0], hx__ref_value(&sum), call->attr.reduce.accumulate);
    }
    return HX_OK;
}

hx_status hx__ref_sumsq(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    hx__ref_total sum = {0, 0};
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(x)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_add(&sum, hx__ref_get(x, w.at[0]) * hx__ref_get(x, w.at[0]));
    hx__ref_put(y, 0, hx__ref_value(&sum), call->attr.reduce.accumulate);
    return HX_OK;
}

/* y_c = e^(x_c - max) / sum_j e^(x_j - max), and its logarithm */
hx_status hx__ref_softmax(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    int64_t n = hx__ref_dim(x, 1), sx = hx__ref_stride(x, 1), sy = hx__ref_stride(y, 1);
    hx_array x_rows = hx__ref_lead(x, 1), y_rows = hx__ref_lead(y, 1);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&y_rows, &x_rows)); !w.is_done;
         hx__ref_walk_next(&w)) {
        double max = -INFINITY, sum = 0;
        for (int64_t c = 0; c < n; c++) max = fmax(max, hx__ref_get(x, w.at[1] + c * sx));
        for (int64_t c = 0; c < n; c++) sum += exp(hx__ref_get(x, w.at[1] + c * sx) - max);
        for (int64_t c = 0; c < n; c++) {
            const double shifted = hx__ref_get(x, w.at[1] + c * sx) - max;
            hx__ref_set(y, w.at[0] + c * sy, call->op == HX_OP_softmax ? exp(shifted) / sum : shifted - log(sum));
        }
    }
    return HX_OK;
}

/* dx_c = y_c (dy_c - sum_j y_j dy_j) */
hx_status hx__ref_softmax_bwd(const hx_op_call *call) {
    const hx_array *y = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    int64_t n = hx__ref_dim(y, 1), sy = hx__ref_stride(y, 1), sdy = hx__ref_stride(dy, 1),
            sdx = hx__ref_stride(dx, 1);
    hx_array rows = hx__ref_lead(dx, 1), y_rows = hx__ref_lead(y, 1), dy_rows = hx__ref_lead(dy, 1);
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(&rows, &y_rows, &dy_rows)); !w.is_done;
         hx__ref_walk_next(&w)) {
        double dot = 0;
        for (int64_t c = 0; c < n; c++)
            dot += hx__ref_get(y, w.at[1] + c * sy) * hx__ref_get(dy, w.at[2] + c * sdy);
        for (int64_t c = 0; c < n; c++)
            hx__ref_set(dx, w.at[0] + c * sdx,
                        hx__ref_get(y, w.at[1] + c * sy) * (hx__ref_get(dy, w.at[2] + c * sdy) - dot));
    }
    return HX_OK;
}

/* dx_c = dy_c - e^y_c sum_j dy_j */
hx_status hx__ref_log_softmax_bwd(const hx_op_call *call) {
    const hx_array *y = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    int64_t n = hx__ref_dim(y, 1), sy = hx__ref_stride(y, 1), sdy = hx__ref_stride(dy, 1),
            sdx = hx__ref_stride(dx, 1);
    hx_array rows = hx__ref_lead(dx, 1), y_rows = hx__ref_lead(y, 1), dy_rows = hx__ref_lead(dy, 1);
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(&rows, &y_rows, &dy_rows)); !w.is_done;
         hx__ref_walk_next(&w)) {
        double sum = 0;
        for (int64_t c = 0; c < n; c++) sum += hx__ref_get(dy, w.at[2] + c * sdy);
        for (int64_t c = 0; c < n; c++)
            hx__ref_set(dx, w.at[0] + c * sdx,
                        hx__ref_get(dy, w.at[2] + c * sdy) - exp(hx__ref_get(y, w.at[1] + c * sy)) * sum);
    }
    return HX_OK;
}

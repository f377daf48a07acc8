#include "backends/ref/ref_impl.h"

#include <math.h>

#include "core/base/mem.h"

/* True if element p of x comes before element q when the largest (smallest) is asked for; equal ones do not. Integers
 * are compared as what they are. */
static bool before(const hx_array *x, int64_t p, int64_t q, bool smallest) {
    if (!hx_dtype_is_float(x->dtype)) {
        int64_t a = hx__ref_get_int(x, p), b = hx__ref_get_int(x, q);
        return smallest ? a < b : a > b;
    }
    double a = hx__ref_get(x, p), b = hx__ref_get(x, q);
    if (isnan(a) || isnan(b)) return isnan(a) && !isnan(b);
    return smallest ? a < b : a > b;
}

hx_status hx__ref_arg(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    int dim = call->attr.dim.dim;
    int64_t stride = x->strides[dim];
    hx_array lines = *x, kept = *y;
    lines.dims[dim] = 1;
    if (!call->attr.dim.keepdim) { /* put the dim back */
        for (int d = kept.ndim++; d > dim; d--) {
            kept.dims[d] = kept.dims[d - 1];
            kept.strides[d] = kept.strides[d - 1];
        }
        kept.dims[dim] = 1;
        kept.strides[dim] = 0;
    }
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&kept, &lines)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t best = 0;
        for (int64_t i = 1; i < x->dims[dim]; i++)
            if (before(x, w.at[1] + i * stride, w.at[1] + best * stride, call->op == HX_OP_argmin)) best = i;
        hx__ref_set_int(y, w.at[0], best);
    }
    return HX_OK;
}

/* k times the best of what has not been taken. */
hx_status hx__ref_topk(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *values = &call->out[0], *indices = &call->out[1];
    int64_t n = hx__ref_dim(x, 1), sx = hx__ref_stride(x, 1), k = call->attr.topk.k;
    hx_array rows = hx__ref_lead(x, 1), value_rows = hx__ref_lead(values, 1), index_rows = hx__ref_lead(indices, 1);
    bool *is_taken; /* [n] */
    HX_TRY(hx_mem_alloc_array(n, sizeof *is_taken, (void **)&is_taken));
    const hx_array *const arrays[] = {&rows, &value_rows, &index_rows};
    for (hx__ref_walk w = hx__ref_walk_start(3, arrays); !w.is_done; hx__ref_walk_next(&w)) {
        for (int64_t i = 0; i < n; i++) is_taken[i] = false;
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < n; i++)
                if (!is_taken[i] &&
                    (best < 0 || before(x, w.at[0] + i * sx, w.at[0] + best * sx, call->attr.topk.smallest)))
                    best = i;
            is_taken[best] = true;
            if (hx__ref_has(values))
                hx__ref_set(values, w.at[1] + j * hx__ref_stride(values, 1), hx__ref_get(x, w.at[0] + best * sx));
            if (hx__ref_has(indices)) hx__ref_set_int(indices, w.at[2] + j * hx__ref_stride(indices, 1), best);
        }
    }
    hx_mem_free((void **)&is_taken);
    return HX_OK;
}

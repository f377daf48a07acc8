#include "backends/ref/ref_impl.h"

#include <math.h>

#include "core/base/mem.h"

hx_status hx__ref_copy(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    bool is_exact = !hx_dtype_is_float(x->dtype) && !hx_dtype_is_complex(x->dtype);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, x)); !w.is_done; hx__ref_walk_next(&w)) {
        double part[2];
        if (is_exact) { /* not by way of float64, which has no room for 64 bits */
            hx__ref_set_int(y, w.at[0], hx__ref_get_int(x, w.at[1]));
            continue;
        }
        hx_elem_get_complex(x->dtype, x->data, w.at[1], part);
        hx_elem_set_complex(y->dtype, y->data, w.at[0], part);
    }
    return HX_OK;
}

hx_status hx__ref_embedding(const hx_op_call *call) {
    const hx_array *ids = &call->in[0], *table = &call->in[1], *y = &call->out[0];
    int64_t n_rows = table->dims[0], n_cols = table->dims[1];
    hx_array rows = hx__ref_lead(y, 1);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&rows, ids)); !w.is_done;
         hx__ref_walk_next(&w)) {
        int64_t id = hx__ref_get_int(ids, w.at[1]);
        bool is_known = id >= 0 && id < n_rows;
        for (int64_t c = 0; c < n_cols; c++)
            hx__ref_set(y, w.at[0] + c * hx__ref_stride(y, 1),
                        is_known ? hx__ref_get(table, id * table->strides[0] + c * table->strides[1]) : NAN);
    }
    return HX_OK;
}

/* One column at a time, so that the float64 sums need room for one column of dw only. Ids outside the table
 * have no row that could receive their gradient. */
hx_status hx__ref_embedding_bwd(const hx_op_call *call) {
    const hx_array *ids = &call->in[0], *dy = &call->in[1], *dw = &call->out[0];
    int64_t n_rows = dw->dims[0], n_cols = dw->dims[1];
    double *sums; /* [n_rows] */
    HX_TRY(hx_mem_alloc_array(n_rows, sizeof *sums, (void **)&sums));
    hx_array rows = hx__ref_lead(dy, 1);
    for (int64_t c = 0; c < n_cols; c++) {
        for (int64_t r = 0; r < n_rows; r++) sums[r] = 0;
        for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&rows, ids)); !w.is_done;
             hx__ref_walk_next(&w)) {
            int64_t id = hx__ref_get_int(ids, w.at[1]);
            if (id >= 0 && id < n_rows) sums[id] += hx__ref_get(dy, w.at[0] + c * hx__ref_stride(dy, 1));
        }
        for (int64_t r = 0; r < n_rows; r++)
            hx__ref_put(dw, r * dw->strides[0] + c * dw->strides[1], sums[r],
                        call->attr.embedding.accumulate);
    }
    hx_mem_free((void **)&sums);
    return HX_OK;
}

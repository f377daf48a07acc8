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
    int64_t n_cols = table->dims[1];
    hx_part part = hx_part_of(call->attr.embedding.start, call->attr.embedding.total, table->dims[0]);
    hx_array rows = hx__ref_lead(y, 1);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&rows, ids)); !w.is_done;
         hx__ref_walk_next(&w)) {
        int64_t id = hx__ref_get_int(ids, w.at[1]);
        double absent = hx_part_knows(part, id) ? 0 : NAN;
        for (int64_t c = 0; c < n_cols; c++)
            hx__ref_set(y, w.at[0] + c * hx__ref_stride(y, 1),
                        hx_part_has(part, id) ? hx__ref_get(table, (id - part.start) * table->strides[0] + c * table->strides[1]) : absent);
    }
    return HX_OK;
}

/* One column at a time, so that the float64 sums need room for one column of dw only. Ids outside the table, or the part of it
 * that this is, have no row that could receive their gradient. */
hx_status hx__ref_embedding_bwd(const hx_op_call *call) {
    const hx_array *ids = &call->in[0], *dy = &call->in[1], *dw = &call->out[0];
    int64_t n_rows = dw->dims[0], n_cols = dw->dims[1];
    hx_part part = hx_part_of(call->attr.embedding.start, call->attr.embedding.total, n_rows);
    double *sums; /* [n_rows] */
    HX_TRY(hx_mem_alloc_array(n_rows, sizeof *sums, (void **)&sums));
    hx_array rows = hx__ref_lead(dy, 1);
    for (int64_t c = 0; c < n_cols; c++) {
        for (int64_t r = 0; r < n_rows; r++) sums[r] = 0;
        for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&rows, ids)); !w.is_done;
             hx__ref_walk_next(&w)) {
            int64_t id = hx__ref_get_int(ids, w.at[1]);
            if (hx_part_has(part, id)) sums[id - part.start] += hx__ref_get(dy, w.at[0] + c * hx__ref_stride(dy, 1));
        }
        for (int64_t r = 0; r < n_rows; r++)
            hx__ref_put(dw, r * dw->strides[0] + c * dw->strides[1], sums[r],
                        call->attr.embedding.accumulate);
    }
    hx_mem_free((void **)&sums);
    return HX_OK;
}

hx_status hx__ref_cat(const hx_op_call *call) {
    const hx_array *y = &call->out[0];
    int dim = call->attr.dim.dim;
    int64_t start = 0;
    for (int i = 0; i < call->n_in; i++) {
        const hx_array *x = &call->in[i];
        for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(x)); !w.is_done; hx__ref_walk_next(&w)) {
            int64_t at = start * y->strides[dim];
            for (int d = 0; d < x->ndim; d++) at += w.at_dim[d] * y->strides[d];
            hx__ref_move(y, at, x, w.at[0]);
        }
        start += x->dims[dim];
    }
    return HX_OK;
}

/* Where the walk's position lies in x when its index along dim is `at` instead. */
static int64_t elsewhere(const hx__ref_walk *w, const hx_array *x, int dim, int64_t at) {
    int64_t offset = 0;
    for (int d = 0; d < x->ndim; d++) offset += (d == dim ? at : w->at_dim[d]) * x->strides[d];
    return offset;
}

hx_status hx__ref_gather(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *index = &call->in[1], *y = &call->out[0];
    int dim = call->attr.dim.dim;
    bool has_nan = hx_dtype_is_float(x->dtype) || hx_dtype_is_complex(x->dtype);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, index)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t id = hx__ref_get_int(index, w.at[1]);
        if (id >= 0 && id < x->dims[dim])
            hx__ref_move(y, w.at[0], x, elsewhere(&w, x, dim, id));
        else
            hx__ref_set(y, w.at[0], has_nan ? NAN : 0);
    }
    return HX_OK;
}

/* One line along dim at a time, so that the float64 sums need room for one line of dx only. */
hx_status hx__ref_gather_bwd(const hx_op_call *call) {
    const hx_array *index = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    int dim = call->attr.dim.dim;
    int64_t size = dx->dims[dim], n = index->dims[dim];
    hx_array lines = *dx, index_lines = *index, dy_lines = *dy;
    lines.dims[dim] = index_lines.dims[dim] = dy_lines.dims[dim] = 1;
    double *sums; /* [size] */
    HX_TRY(hx_mem_alloc_array(size, sizeof *sums, (void **)&sums));
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(&lines, &index_lines, &dy_lines)); !w.is_done;
         hx__ref_walk_next(&w)) {
        for (int64_t i = 0; i < size; i++) sums[i] = 0;
        for (int64_t j = 0; j < n; j++) {
            int64_t id = hx__ref_get_int(index, w.at[1] + j * index->strides[dim]);
            if (id >= 0 && id < size) sums[id] += hx__ref_get(dy, w.at[2] + j * dy->strides[dim]);
        }
        for (int64_t i = 0; i < size; i++) hx__ref_set(dx, w.at[0] + i * dx->strides[dim], sums[i]);
    }
    hx_mem_free((void **)&sums);
    return HX_OK;
}

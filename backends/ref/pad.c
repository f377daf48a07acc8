#include "backends/ref/ref_impl.h"

#include "core/base/mem.h"
#include "core/op/ops.h"

/* Which of n elements stands at position i, counted from the first element of x; -1: none. */
static int64_t source(int mode, int64_t i, int64_t n) {
    if (i >= 0 && i < n) return i;
    switch (mode) {
    case HX_PAD_REFLECT:
        return i < 0 ? -i : 2 * (n - 1) - i;
    case HX_PAD_REPLICATE:
        return i < 0 ? 0 : n - 1;
    case HX_PAD_CIRCULAR:
        return i < 0 ? i + n : i - n;
    default:
        return -1;
    }
}

/* Offset in `small` of the element that stands at the walk's position of the padded array; -1: none. */
static int64_t source_at(const hx_op_call *call, const hx__ref_walk *w, const hx_array *small) {
    int64_t at = 0;
    for (int d = 0; d < small->ndim; d++) {
        int64_t i = source(call->attr.pad.mode, w->at_dim[d] - call->attr.pad.before[d], small->dims[d]);
        if (i < 0) return -1;
        at += i * small->strides[d];
    }
    return at;
}

hx_status hx__ref_pad(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(y)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t at = source_at(call, &w, x);
        if (at >= 0)
            hx__ref_move(y, w.at[0], x, at);
        else
            hx__ref_set(y, w.at[0], call->attr.pad.value);
    }
    return HX_OK;
}

/* Each position of dy adds to the element that was copied there. */
hx_status hx__ref_pad_bwd(const hx_op_call *call) {
    const hx_array *dy = &call->in[0], *dx = &call->out[0];
    hx_array dense = *dx; /* dx's shape, dense: the float64 sums */
    hx_shape shape = hx_array_shape(dx);
    double *sums;
    hx_shape_strides(&shape, dense.strides);
    HX_TRY(hx_mem_alloc_array(hx_array_count(dx), sizeof *sums, (void **)&sums));
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(dy)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t at = source_at(call, &w, &dense);
        if (at >= 0) sums[at] += hx__ref_get(dy, w.at[0]);
    }
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(dx)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(dx, w.at[0], sums[w.index]);
    hx_mem_free((void **)&sums);
    return HX_OK;
}

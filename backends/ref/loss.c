#include "backends/ref/ref_impl.h"

#include <math.h>

/* logsumexp of a row, shifted by its maximum so that no exponential overflows */
static double row_lse(const hx_array *x, int64_t row) {
    int64_t n = hx__ref_dim(x, 1), step = hx__ref_stride(x, 1);
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < n; c++) max = fmax(max, hx__ref_get(x, row + c * step));
    for (int64_t c = 0; c < n; c++) sum += exp(hx__ref_get(x, row + c * step) - max);
    return max + log(sum);
}

/* loss = sum of lse - z_target over the counted targets that are among the columns */
hx_status hx__ref_cross_entropy(const hx_op_call *call) {
    const hx_array *logits = &call->in[0], *ids = &call->in[1], *given = &call->in[2], *lse = &call->out[2];
    hx_array rows = hx__ref_lead(logits, 1);
    hx_part part = hx_part_of(call->attr.cross_entropy.start, call->attr.cross_entropy.total, hx__ref_dim(logits, 1));
    int64_t count = 0;
    double loss = 0;
    for (hx__ref_walk w = hx__ref_walk_start(4, HX_REF_ARRAYS(&rows, ids, lse, given)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t id = hx__ref_get_int(ids, w.at[1]);
        double row = hx__ref_has(given) ? hx__ref_get(given, w.at[3]) : row_lse(logits, w.at[0]);
        hx__ref_set(lse, w.at[2], row);
        if (id == call->attr.cross_entropy.ignore_index) continue;
        count++;
        if (hx_part_has(part, id)) loss += row - hx__ref_get(logits, w.at[0] + (id - part.start) * hx__ref_stride(logits, 1));
        else if (!hx_part_knows(part, id)) loss = NAN;
    }
    hx__ref_set(&call->out[0], 0, loss);
    hx__ref_set_int(&call->out[1], 0, count);
    return HX_OK;
}

/* dlogits_c = dloss (e^(z_c - lse) - [c is the target]); 0 in rows left out, NaN where the id is none */
hx_status hx__ref_cross_entropy_bwd(const hx_op_call *call) {
    const hx_array *logits = &call->in[0], *ids = &call->in[1], *lse = &call->in[2], *dz = &call->out[0];
    hx_array rows = hx__ref_lead(logits, 1), dz_rows = hx__ref_lead(dz, 1);
    int64_t n = hx__ref_dim(logits, 1);
    hx_part part = hx_part_of(call->attr.cross_entropy.start, call->attr.cross_entropy.total, n);
    double dloss = hx__ref_get(&call->in[3], 0);
    const hx_array *const arrays[] = {&rows, &dz_rows, ids, lse};
    for (hx__ref_walk w = hx__ref_walk_start(4, arrays); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t id = hx__ref_get_int(ids, w.at[2]);
        bool is_ignored = id == call->attr.cross_entropy.ignore_index, is_known = hx_part_knows(part, id);
        for (int64_t c = 0; c < n; c++) {
            double z = hx__ref_get(logits, w.at[0] + c * hx__ref_stride(logits, 1));
            double grad = dloss * (exp(z - hx__ref_get(lse, w.at[3])) - (part.start + c == id ? 1 : 0));
            hx__ref_set(dz, w.at[1] + c * hx__ref_stride(dz, 1), is_ignored ? 0 : is_known ? grad : NAN);
        }
    }
    return HX_OK;
}

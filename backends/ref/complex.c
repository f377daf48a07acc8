#include "backends/ref/ref_impl.h"

/* ---- complex arithmetic that does not act on real and imaginary parts alike ---- */

typedef struct parts {
    double v[2];
} parts;

static parts get(const hx_array *a, int64_t at) {
    parts z;
    hx_elem_get_complex(a->dtype, a->data, at, z.v);
    return z;
}

static parts value(const hx_op_call *call, parts a, parts b) {
    double alpha = call->attr.affine.alpha, beta = call->attr.affine.beta;
    switch (call->op) {
    case HX_OP_mul:
        return (parts){{a.v[0] * b.v[0] - a.v[1] * b.v[1], a.v[0] * b.v[1] + a.v[1] * b.v[0]}};
    case HX_OP_affine:
        return (parts){{alpha * a.v[0] + beta, alpha * a.v[1]}};
    default: /* conj */
        return (parts){{a.v[0], -a.v[1]}};
    }
}

hx_status hx__ref_complex(const hx_op_call *call) {
    const hx_array *y = &call->out[0], *a = &call->in[0], *b = &call->in[call->n_in - 1];
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(y, a, b)); !w.is_done; hx__ref_walk_next(&w))
        hx_elem_set_complex(y->dtype, y->data, w.at[0], value(call, get(a, w.at[1]), get(b, w.at[2])).v);
    return HX_OK;
}

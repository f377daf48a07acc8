#include "backends/ref/ref_impl.h"

/* Draws are numbered row-major over the tensor, wherever its elements lie in memory. */

/* Of element i, whose run of `inner` elements begins at a multiple of stride where there are runs. */
static uint64_t draw_of(const hx_op_call *call, int64_t i) {
    int64_t inner = call->attr.random.inner;
    return (uint64_t)call->attr.random.offset + (uint64_t)(inner > 0 ? i / inner * call->attr.random.stride + i % inner : i);
}

hx_status hx__ref_dropout(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    double p = call->attr.random.p;
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, x)); !w.is_done; hx__ref_walk_next(&w)) {
        bool is_kept = hx_rng_uniform(call->attr.random.rng, draw_of(call, w.index)) >= p;
        hx__ref_set(y, w.at[0], is_kept ? hx__ref_get(x, w.at[1]) / (1 - p) : 0);
    }
    return HX_OK;
}

hx_status hx__ref_random(const hx_op_call *call) {
    const hx_array *y = &call->out[0];
    double (*draw)(hx_rng, uint64_t) = call->op == HX_OP_random_normal ? hx_rng_normal : hx_rng_uniform;
    uint64_t first = (uint64_t)call->attr.random.offset;
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(y)); !w.is_done; hx__ref_walk_next(&w)) {
        double value = draw(call->attr.random.rng, first + (uint64_t)w.index);
        if (call->op == HX_OP_random_bernoulli)
            hx__ref_set(y, w.at[0], value < call->attr.random.p);
        else
            hx__ref_set(y, w.at[0], call->attr.random.a + call->attr.random.b * value);
    }
    return HX_OK;
}

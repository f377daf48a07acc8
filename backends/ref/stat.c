#include "backends/ref/ref_impl.h"

#include <math.h>

/* The elements that one result is made of. */
typedef struct group {
    const hx_array *x, *reduced;
    int64_t first; /* offset in x */
} group;

static double mean_of(const group *g) {
    hx__ref_total sum = {0, 0};
    double n = 0;
    for (hx__ref_walk v = hx__ref_walk_start(1, HX_REF_ARRAYS(g->reduced)); !v.is_done; hx__ref_walk_next(&v), n++)
        hx__ref_add(&sum, hx__ref_get(g->x, g->first + v.at[0]));
    return hx__ref_value(&sum) / n;
}

/* sum (x - mean)^2 / max(n - correction, 0) */
static double variance(const hx_op_call *call, const group *g) {
    hx__ref_total sum = {0, 0};
    double mean = mean_of(g), n = 0;
    for (hx__ref_walk v = hx__ref_walk_start(1, HX_REF_ARRAYS(g->reduced)); !v.is_done; hx__ref_walk_next(&v), n++) {
        double away = hx__ref_get(g->x, g->first + v.at[0]) - mean;
        hx__ref_add(&sum, away * away);
    }
    return hx__ref_value(&sum) / fmax(n - call->attr.stat.correction, 0);
}

/* (sum |x|^p)^(1/p) */
static double power_norm(const hx_op_call *call, const group *g) {
    hx__ref_total sum = {0, 0};
    double p = call->attr.stat.p;
    for (hx__ref_walk v = hx__ref_walk_start(1, HX_REF_ARRAYS(g->reduced)); !v.is_done; hx__ref_walk_next(&v))
        hx__ref_add(&sum, pow(fabs(hx__ref_get(g->x, g->first + v.at[0])), p));
    return pow(hx__ref_value(&sum), 1 / p);
}

/* A NaN, once met, stays: nothing is larger. */
static double larger(double best, double x) { return x > best || isnan(x) ? x : best; }

static double extremum(const hx_op_call *call, const group *g) {
    double best = call->op == HX_OP_pnorm ? 0 : -INFINITY;
    for (hx__ref_walk v = hx__ref_walk_start(1, HX_REF_ARRAYS(g->reduced)); !v.is_done; hx__ref_walk_next(&v)) {
        double x = hx__ref_get(g->x, g->first + v.at[0]);
        best = larger(best, call->op == HX_OP_pnorm ? fabs(x) : call->op == HX_OP_min ? -x : x);
    }
    return call->op == HX_OP_min ? -best : best;
}

hx_status hx__ref_stat(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    bool is_power = call->op == HX_OP_pnorm && !isinf(call->attr.stat.p);
    double (*value)(const hx_op_call *, const group *) = call->op == HX_OP_var ? variance : is_power ? power_norm : extremum;
    hx_array kept, reduced;
    hx__ref_split_dims(call, &kept, &reduced);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, &kept)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(y, w.at[0], value(call, &(group){x, &reduced, w.at[1]}));
    return HX_OK;
}

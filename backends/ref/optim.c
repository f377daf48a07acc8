#include "backends/ref/ref_impl.h"

#include <math.h>

/* Loshchilov & Hutter 2019, algorithm 2, with the schedule inside lr:
 *     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *     p = p - lr weight_decay p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) */
hx_status hx__ref_adamw(const hx_op_call *call) {
    const hx_array *g = &call->in[0], *p = &call->out[0], *m = &call->out[1], *v = &call->out[2];
    double gscale = call->n_in > 1 && hx__ref_has(&call->in[1]) ? hx__ref_get(&call->in[1], 0) : 1;
    double lr = call->attr.adamw.lr, beta1 = call->attr.adamw.beta1, beta2 = call->attr.adamw.beta2;
    double step = (double)call->attr.adamw.step, bias1 = 1 - pow(beta1, step), bias2 = 1 - pow(beta2, step);
    const hx_array *const arrays[] = {p, m, v, g};
    for (hx__ref_walk w = hx__ref_walk_start(4, arrays); !w.is_done; hx__ref_walk_next(&w)) {
        double gi = gscale * hx__ref_get(g, w.at[3]), pi = hx__ref_get(p, w.at[0]);
        double mi = beta1 * hx__ref_get(m, w.at[1]) + (1 - beta1) * gi;
        double vi = beta2 * hx__ref_get(v, w.at[2]) + (1 - beta2) * gi * gi;
        pi -= lr * call->attr.adamw.weight_decay * pi;
        pi -= lr * (mi / bias1) / (sqrt(vi / bias2) + call->attr.adamw.eps);
        hx__ref_set(p, w.at[0], pi);
        hx__ref_set(m, w.at[1], mi);
        hx__ref_set(v, w.at[2], vi);
    }
    return HX_OK;
}

#include "backends/ref/ref_impl.h"

#include <math.h>

/* What multiplies the gradient. */
static double gscale_of(const hx_op_call *call) {
    return call->n_in > 1 && hx__ref_has(&call->in[1]) ? hx__ref_get(&call->in[1], 0) : 1;
}

/* The parameter as it has been stored, of f32, rounded once more to a half type. */
static void put_rounded(const hx_array *q, int64_t at_q, const hx_array *p, int64_t at_p) {
    hx__ref_set(q, at_q, hx__ref_get(p, at_p));
}

/* Loshchilov & Hutter 2019, algorithm 2, with the schedule inside lr:
 *     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *     p = p - lr weight_decay p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
 * With l2 (Kingma & Ba 2015) g has weight_decay p added, and p does not decay by itself. */
hx_status hx__ref_adamw(const hx_op_call *call) {
    const hx_array *g = &call->in[0], *p = &call->out[0], *m = &call->out[1], *v = &call->out[2], *q = &call->out[3];
    double lr = call->attr.adamw.lr, beta1 = call->attr.adamw.beta1, beta2 = call->attr.adamw.beta2;
    double step = (double)call->attr.adamw.step, bias1 = 1 - pow(beta1, step), bias2 = 1 - pow(beta2, step);
    double decay = call->attr.adamw.weight_decay, gscale = gscale_of(call);
    for (hx__ref_walk w = hx__ref_walk_start(5, HX_REF_ARRAYS(p, m, v, g, q)); !w.is_done; hx__ref_walk_next(&w)) {
        double gi = gscale * hx__ref_get(g, w.at[3]), pi = hx__ref_get(p, w.at[0]);
        if (call->attr.adamw.l2) gi += decay * pi;
        double mi = beta1 * hx__ref_get(m, w.at[1]) + (1 - beta1) * gi;
        double vi = beta2 * hx__ref_get(v, w.at[2]) + (1 - beta2) * gi * gi;
        if (!call->attr.adamw.l2) pi -= lr * decay * pi;
        pi -= lr * (mi / bias1) / (sqrt(vi / bias2) + call->attr.adamw.eps);
        hx__ref_set(p, w.at[0], pi);
        hx__ref_set(m, w.at[1], mi);
        hx__ref_set(v, w.at[2], vi);
        put_rounded(q, w.at[4], p, w.at[0]);
    }
    return HX_OK;
}

/* Sutskever et al. 2013 in PyTorch's form:
 *     g = g + weight_decay p,  b = momentum b + (1 - dampening) g  (b = g at first),  p = p - lr b
 * or with Nesterov p = p - lr (g + momentum b). Without b: p = p - lr g. */
hx_status hx__ref_sgd(const hx_op_call *call) {
    const hx_array *g = &call->in[0], *p = &call->out[0], *b = &call->out[1], *q = &call->out[2];
    double momentum = call->attr.sgd.momentum, gscale = gscale_of(call);
    for (hx__ref_walk w = hx__ref_walk_start(4, HX_REF_ARRAYS(p, b, g, q)); !w.is_done; hx__ref_walk_next(&w)) {
        double pi = hx__ref_get(p, w.at[0]);
        double gi = gscale * hx__ref_get(g, w.at[2]) + call->attr.sgd.weight_decay * pi, change = gi;
        if (hx__ref_has(b)) {
            double bi = gi;
            if (!call->attr.sgd.is_first) bi = momentum * hx__ref_get(b, w.at[1]) + (1 - call->attr.sgd.dampening) * gi;
            hx__ref_set(b, w.at[1], bi);
            change = call->attr.sgd.nesterov ? gi + momentum * bi : bi;
        }
        hx__ref_set(p, w.at[0], pi - call->attr.sgd.lr * change);
        put_rounded(q, w.at[3], p, w.at[0]);
    }
    return HX_OK;
}

/* Hinton 2012, lecture 6e; centered: Graves 2013, eq. 38 to 41, with eps outside of the root:
 *     g = g + weight_decay p,  v = alpha v + (1 - alpha) g^2,  a = alpha a + (1 - alpha) g
 *     u = g / (sqrt(v - a^2) + eps),  b = momentum b + u,  p = p - lr b
 * Without a: its square is 0. Without b: p = p - lr u. v - a^2 is a variance: rounding below 0 counts as 0. */
hx_status hx__ref_rmsprop(const hx_op_call *call) {
    const hx_array *g = &call->in[0], *p = &call->out[0], *v = &call->out[1], *a = &call->out[2], *b = &call->out[3];
    const hx_array *q = &call->out[4];
    double alpha = call->attr.rmsprop.alpha, gscale = gscale_of(call);
    for (hx__ref_walk w = hx__ref_walk_start(6, HX_REF_ARRAYS(p, v, a, b, g, q)); !w.is_done; hx__ref_walk_next(&w)) {
        double pi = hx__ref_get(p, w.at[0]);
        double gi = gscale * hx__ref_get(g, w.at[4]) + call->attr.rmsprop.weight_decay * pi;
        double vi = alpha * hx__ref_get(v, w.at[1]) + (1 - alpha) * gi * gi;
        double ai = hx__ref_has(a) ? alpha * hx__ref_get(a, w.at[2]) + (1 - alpha) * gi : 0;
        double variance = vi - ai * ai;
        double change = gi / (sqrt(variance < 0 ? 0 : variance) + call->attr.rmsprop.eps);
        if (hx__ref_has(b)) change += call->attr.rmsprop.momentum * hx__ref_get(b, w.at[3]);
        hx__ref_set(v, w.at[1], vi);
        hx__ref_set(a, w.at[2], ai);
        hx__ref_set(b, w.at[3], change);
        hx__ref_set(p, w.at[0], pi - call->attr.rmsprop.lr * change);
        put_rounded(q, w.at[5], p, w.at[0]);
    }
    return HX_OK;
}

/* -1, 0 or 1; NaN stays */
static double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }

/* Chen et al. 2023, algorithm 2:
 *     p = p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p),  then m = beta2 m + (1 - beta2) g */
hx_status hx__ref_lion(const hx_op_call *call) {
    const hx_array *g = &call->in[0], *p = &call->out[0], *m = &call->out[1], *q = &call->out[2];
    double lr = call->attr.lion.lr, beta1 = call->attr.lion.beta1, beta2 = call->attr.lion.beta2;
    double gscale = gscale_of(call);
    for (hx__ref_walk w = hx__ref_walk_start(4, HX_REF_ARRAYS(p, m, g, q)); !w.is_done; hx__ref_walk_next(&w)) {
        double gi = gscale * hx__ref_get(g, w.at[2]), mi = hx__ref_get(m, w.at[1]), pi = hx__ref_get(p, w.at[0]);
        pi -= lr * (sign_of(beta1 * mi + (1 - beta1) * gi) + call->attr.lion.weight_decay * pi);
        hx__ref_set(p, w.at[0], pi);
        hx__ref_set(m, w.at[1], beta2 * mi + (1 - beta2) * gi);
        put_rounded(q, w.at[3], p, w.at[0]);
    }
    return HX_OK;
}

/* ---- parts of a gradient's norm ---- */

/* Summed with compensation (Neumaier 1974): the oracle is good to an ulp whatever the length. */
hx_status hx__ref_sumabs(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    double sum = 0, low = 0;
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(x)); !w.is_done; hx__ref_walk_next(&w)) {
        double term = fabs(hx__ref_get(x, w.at[0])), next = sum + term;
        low += sum >= term ? (sum - next) + term : (term - next) + sum;
        sum = next;
    }
    hx__ref_put(y, 0, isfinite(sum) ? sum + low : sum, call->attr.reduce.accumulate);
    return HX_OK;
}

hx_status hx__ref_maxabs(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    double most = call->attr.reduce.accumulate ? hx__ref_get(y, 0) : 0;
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(x)); !w.is_done; hx__ref_walk_next(&w)) {
        double size = fabs(hx__ref_get(x, w.at[0]));
        if (!(size <= most) && !isnan(most)) most = size;
    }
    hx__ref_set(y, 0, most);
    return HX_OK;
}

/* Sums by long double: 4096 terms of it are good to an ulp of f64. */
hx_status hx__ref_norm_blocks(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    const double p = call->attr.blocks.p;
    long double part = 0;
    int64_t i = 0;
    for (hx__ref_walk w = hx__ref_walk_start(1, HX_REF_ARRAYS(x)); !w.is_done; hx__ref_walk_next(&w)) {
        const long double size = fabsl((long double)hx__ref_get(x, w.at[0]));
        if (i % HX_NORM_BLOCK == 0) part = 0;
        if (p != HUGE_VAL) part += p == 2 ? size * size : size;
        else if (!(size <= part) && !isnan(part)) part = size;
        hx__ref_set(y, i++ / HX_NORM_BLOCK, (double)part);
    }
    return HX_OK;
}

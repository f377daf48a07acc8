#include "backends/ref/ref_impl.h"

#include <math.h>

#include "core/base/mem.h"
#include "core/op/window.h"

/* ---- dense copies: the loops below count elements row-major ---- */

static hx_status to_doubles(const hx_array *a, double **out) {
    double *x;
    HX_TRY(hx_mem_alloc_array(hx_array_count(a), sizeof *x, (void **)&x));
    for (hx__ref_walk w = hx__ref_walk_start(1, &a); !w.is_done; hx__ref_walk_next(&w))
        x[w.index] = hx__ref_get(a, w.at[0]);
    *out = x;
    return HX_OK;
}

static void from_doubles(const double *x, const hx_array *a, bool accumulate) {
    for (hx__ref_walk w = hx__ref_walk_start(1, &a); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_put(a, w.at[0], x[w.index], accumulate);
}

/* ---- convolutions ---- */

/* The convolution and both its derivatives are sums over the same triples: an element of y is the sum of x w over
 * the elements of its window; the gradients put the other two together. */
enum { X, W, Y };

typedef struct conv_sums {
    hx_window window;
    int64_t n_batch, n_outputs, n_groups, group_in, group_out;
    double *part[3]; /* x [B,C,L..], w [O,C/g,K..], y [B,O,M..] */
    int target;      /* which of them is summed up */
} conv_sums;

/* Place in the flattened spatial dims of x that element k of window m reads; -1 in the padding. */
static int64_t place_of(const hx_window *w, int64_t m, int64_t k) {
    int64_t at = 0, n_m = w->n_out, n_k = w->n_kernel;
    for (int d = 0; d < 3; d++) {
        n_m /= w->out[d];
        n_k /= w->kernel[d];
        int64_t i = m / n_m * w->stride[d] - w->padding[d] + k / n_k * w->dilation[d];
        if (i < 0 || i >= w->in[d]) return -1;
        at = at * w->in[d] + i;
        m %= n_m;
        k %= n_k;
    }
    return at;
}

/* All triples of image b, output o and window m. */
static void add_window(const conv_sums *s, int64_t b, int64_t o, int64_t m) {
    int64_t n_channels = s->n_groups * s->group_in, at[3];
    at[Y] = (b * s->n_outputs + o) * s->window.n_out + m;
    for (int64_t k = 0; k < s->window.n_kernel; k++) {
        int64_t place = place_of(&s->window, m, k);
        for (int64_t c = 0; c < s->group_in && place >= 0; c++) {
            at[X] = (b * n_channels + o / s->group_out * s->group_in + c) * s->window.n_in + place;
            at[W] = (o * s->group_in + c) * s->window.n_kernel + k;
            int one = (s->target + 1) % 3, two = (s->target + 2) % 3;
            s->part[s->target][at[s->target]] += s->part[one][at[one]] * s->part[two][at[two]];
        }
    }
}

/* arrays: x, w and y, of which `target` is the output */
static hx_status conv_run(const hx_op_call *call, const hx_array *const arrays[3], int target, const hx_array *bias) {
    const hx_array *x = arrays[X], *w = arrays[W], *y = arrays[Y];
    conv_sums s = {.window = hx_window_make(&call->attr, x->dims + 2, w->dims + 2, y->dims + 2),
                   .n_batch = x->dims[0], .n_outputs = w->dims[0], .n_groups = call->attr.conv.groups,
                   .group_in = w->dims[1], .group_out = w->dims[0] / call->attr.conv.groups, .target = target};
    hx_status status = HX_OK;
    for (int i = 0; i < 3; i++) HX_TRY_GOTO(to_doubles(arrays[i], &s.part[i]), done);
    int64_t n = hx_array_count(arrays[target]), plane = s.window.n_out;
    for (int64_t i = 0; i < n; i++)
        s.part[target][i] = bias ? hx__ref_get(bias, i / plane % s.n_outputs * bias->strides[0]) : 0;
    for (int64_t b = 0; b < s.n_batch; b++)
        for (int64_t o = 0; o < s.n_outputs; o++)
            for (int64_t m = 0; m < plane; m++) add_window(&s, b, o, m);
    from_doubles(s.part[target], arrays[target], target == W && call->attr.conv.accumulate);
done:
    for (int i = 0; i < 3; i++) hx_mem_free((void **)&s.part[i]);
    return status;
}

/* y = sum over channels and window of x w, plus bias */
hx_status hx__ref_conv(const hx_op_call *call) {
    const hx_array *bias = call->n_in > 2 && hx__ref_has(&call->in[2]) ? &call->in[2] : NULL;
    return conv_run(call, HX_REF_ARRAYS(&call->in[0], &call->in[1], &call->out[0]), Y, bias);
}

/* dx = sum over outputs and windows of w dy */
hx_status hx__ref_conv_bwd_x(const hx_op_call *call) {
    return conv_run(call, HX_REF_ARRAYS(&call->out[0], &call->in[0], &call->in[1]), X, NULL);
}

/* dw = sum over images and windows of x dy */
hx_status hx__ref_conv_bwd_w(const hx_op_call *call) {
    return conv_run(call, HX_REF_ARRAYS(&call->in[0], &call->out[0], &call->in[1]), W, NULL);
}

/* ---- pools: `plane` counts images times channels ---- */

typedef struct pool_job {
    hx_window window;
    int64_t n_planes;
    double *x, *y; /* values, or gradients of them: [planes, n_in], [planes, n_out] */
} pool_job;

static pool_job pool_start(const hx_op_call *call, const hx_array *x, const hx_array *y) {
    return (pool_job){.window = hx_window_make(&call->attr, x->dims + 2, call->attr.conv.size, y->dims + 2),
                      .n_planes = x->dims[0] * x->dims[1]};
}

static void pool_end(pool_job *job) {
    hx_mem_free((void **)&job->x);
    hx_mem_free((void **)&job->y);
}

/* Index in the plane of the largest element of window m, the first NaN if there is one. */
static int64_t largest(const hx_window *w, const double *x, int64_t m) {
    int64_t best = -1;
    for (int64_t k = 0; k < w->n_kernel; k++) {
        int64_t at = place_of(w, m, k);
        if (at < 0) continue;
        if (best < 0 || x[at] > x[best] || (isnan(x[at]) && !isnan(x[best]))) best = at;
    }
    return best;
}

hx_status hx__ref_max_pool(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0], *index = &call->out[1];
    const hx_array *shape = hx__ref_has(y) ? y : index;
    pool_job job = pool_start(call, x, shape);
    HX_TRY(to_doubles(x, &job.x));
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(shape, y, index)); !w.is_done; hx__ref_walk_next(&w)) {
        const double *plane = job.x + w.index / job.window.n_out * job.window.n_in;
        int64_t at = largest(&job.window, plane, w.index % job.window.n_out);
        hx__ref_set(y, w.at[1], at < 0 ? -(double)INFINITY : plane[at]);
        hx__ref_set_int(index, w.at[2], at);
    }
    pool_end(&job);
    return HX_OK;
}

/* dx[index] += dy */
hx_status hx__ref_max_pool_bwd(const hx_op_call *call) {
    const hx_array *index = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    pool_job job = pool_start(call, dx, dy);
    HX_TRY(hx_mem_alloc_array(hx_array_count(dx), sizeof *job.x, (void **)&job.x));
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(dy, index)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t at = hx__ref_get_int(index, w.at[1]);
        if (at < 0 || at >= job.window.n_in) continue;
        job.x[w.index / job.window.n_out * job.window.n_in + at] += hx__ref_get(dy, w.at[0]);
    }
    from_doubles(job.x, dx, false);
    pool_end(&job);
    return HX_OK;
}

/* What the sum over window m is divided by. */
static double divisor(const hx_op_call *call, const hx_window *w, int64_t m) {
    int64_t n = 0;
    for (int64_t k = 0; k < w->n_kernel; k++) n += call->attr.conv.count_padding || place_of(w, m, k) >= 0;
    return (double)n;
}

/* y = sum of x / divisor, or with the roles exchanged dx = sum of dy / divisor */
static hx_status avg_pool_run(const hx_op_call *call, const hx_array *x, const hx_array *y, bool is_back) {
    pool_job job = pool_start(call, x, y);
    hx_status status;
    HX_TRY_GOTO(to_doubles(x, &job.x), done);
    HX_TRY_GOTO(to_doubles(y, &job.y), done);
    int64_t n = hx_array_count(is_back ? x : y);
    for (int64_t i = 0; i < n; i++) *(is_back ? &job.x[i] : &job.y[i]) = 0;
    for (int64_t p = 0; p < job.n_planes; p++)
        for (int64_t m = 0; m < job.window.n_out; m++) {
            double *to = job.y + p * job.window.n_out + m, by = divisor(call, &job.window, m);
            for (int64_t k = 0; k < job.window.n_kernel; k++) {
                int64_t place = place_of(&job.window, m, k), at = p * job.window.n_in + place;
                if (place < 0) continue;
                if (is_back)
                    job.x[at] += *to / by;
                else
                    *to += job.x[at] / by;
            }
        }
    from_doubles(is_back ? job.x : job.y, is_back ? x : y, false);
    status = HX_OK;
done:
    pool_end(&job);
    return status;
}

hx_status hx__ref_avg_pool(const hx_op_call *call) { return avg_pool_run(call, &call->in[0], &call->out[0], false); }
hx_status hx__ref_avg_pool_bwd(const hx_op_call *call) { return avg_pool_run(call, &call->out[0], &call->in[0], true); }

#include "backends/ref/ref_impl.h"

#include <math.h>

#include "core/base/mem.h"

/* One row of an operand whose last dim is normalised, or of a vector over that dim (row offset 0). */
static double row_get(const hx_array *a, int64_t row, int64_t c) {
    return hx__ref_get(a, row + c * hx__ref_stride(a, 1));
}

/* mean = 1/C sum x, rstd = 1/sqrt(1/C sum (x - mean)^2 + eps), y = (x - mean) rstd w + b */
hx_status hx__ref_layernorm(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *weight = &call->in[1], *y = &call->out[0];
    const hx_array *bias = call->n_in > 2 && hx__ref_has(&call->in[2]) ? &call->in[2] : NULL;
    int64_t n = hx__ref_dim(x, 1);
    hx_array y_rows = hx__ref_lead(y, 1), x_rows = hx__ref_lead(x, 1);
    const hx_array *const arrays[] = {&x_rows, &y_rows, &call->out[1], &call->out[2]};
    for (hx__ref_walk w = hx__ref_walk_start(4, arrays); !w.is_done; hx__ref_walk_next(&w)) {
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < n; c++) mean += row_get(x, w.at[0], c) / (double)n;
        for (int64_t c = 0; c < n; c++) {
            double d = row_get(x, w.at[0], c) - mean;
            variance += d * d / (double)n;
        }
        double rstd = 1 / sqrt(variance + call->attr.norm.eps);
        for (int64_t c = 0; c < n; c++) {
            double value = (row_get(x, w.at[0], c) - mean) * rstd * row_get(weight, 0, c);
            hx__ref_set(y, w.at[1] + c * hx__ref_stride(y, 1), bias ? value + row_get(bias, 0, c) : value);
        }
        hx__ref_set(&call->out[1], w.at[2], mean);
        hx__ref_set(&call->out[2], w.at[3], rstd);
    }
    return HX_OK;
}

/* rstd = 1/sqrt(1/C sum x^2 + eps), y = x rstd w */
hx_status hx__ref_rmsnorm(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *weight = &call->in[1], *y = &call->out[0];
    int64_t n = hx__ref_dim(x, 1);
    hx_array y_rows = hx__ref_lead(y, 1), x_rows = hx__ref_lead(x, 1);
    const hx_array *const arrays[] = {&x_rows, &y_rows, &call->out[1]};
    for (hx__ref_walk w = hx__ref_walk_start(3, arrays); !w.is_done; hx__ref_walk_next(&w)) {
        double mean_square = 0;
        for (int64_t c = 0; c < n; c++)
            mean_square += row_get(x, w.at[0], c) * row_get(x, w.at[0], c) / (double)n;
        double rstd = 1 / sqrt(mean_square + call->attr.norm.eps);
        for (int64_t c = 0; c < n; c++)
            hx__ref_set(y, w.at[1] + c * hx__ref_stride(y, 1),
                        row_get(x, w.at[0], c) * rstd * row_get(weight, 0, c));
        hx__ref_set(&call->out[1], w.at[2], rstd);
    }
    return HX_OK;
}

/* s = x + r in their dtype, and the norm of it; s in an array of its own, as out [last] may be absent, or f32 for half types. */
static hx_status add_norm(const hx_op_call *call, hx_op op, hx__ref_fn norm) {
    const int last = call->n_out - 1;
    hx_array s = call->in[0];
    hx_shape shape = hx_array_shape(&s);
    hx_shape_strides(&shape, s.strides);
    HX_TRY(hx_mem_alloc_array(hx_array_count(&s), hx_dtype_bytes(s.dtype), &s.data));
    hx_op_call add = {.op = HX_OP_add, .n_in = 2, .n_out = 1, .in = {call->in[0], call->in[1]}, .out = {s}};
    hx_op_call rest = *call;
    rest.op = op;
    rest.n_in = call->n_in - 1;
    rest.n_out = last;
    rest.in[0] = s;
    for (int i = 1; i < rest.n_in; i++) rest.in[i] = call->in[i + 1];
    hx_status status = hx__ref_binary(&add);
    if (status == HX_OK) status = norm(&rest);
    if (status == HX_OK && hx__ref_has(&call->out[last]))
        status = hx__ref_copy(&(hx_op_call){.op = HX_OP_copy, .n_in = 1, .n_out = 1, .in = {s}, .out = {call->out[last]}});
    hx_mem_free(&s.data);
    return status;
}

hx_status hx__ref_add_layernorm(const hx_op_call *call) { return add_norm(call, HX_OP_layernorm, hx__ref_layernorm); }
hx_status hx__ref_add_rmsnorm(const hx_op_call *call) { return add_norm(call, HX_OP_rmsnorm, hx__ref_rmsnorm); }

/* What both derivatives share. With z = (x - mean) rstd (mean 0 for rmsnorm) and g = dy w:
 *     dx = ds + rstd (g - [1/C sum g] - z 1/C sum(g z)) the bracket for layernorm only, ds if there is one
 *     dw = sum over rows of dy z,  db = sum over rows of dy */
typedef struct norm_grad {
    const hx_array *x, *weight, *mean, *rstd, *dy; /* mean NULL: rmsnorm */
    const hx_array *ds;                            /* NULL: none */
    const hx_array *dx;
    unsigned accumulate;
    double *dw, *db; /* [C] sums over the rows so far */
} norm_grad;

static void norm_grad_row(const norm_grad *g, int64_t at_x, int64_t at_dy, int64_t at_ds, int64_t at_dx, double mean,
                          double rstd) {
    int64_t n = hx__ref_dim(g->x, 1);
    double sum_g = 0, sum_gz = 0;
    for (int64_t c = 0; c < n; c++) {
        double z = (row_get(g->x, at_x, c) - mean) * rstd, dy = row_get(g->dy, at_dy, c);
        sum_g += dy * row_get(g->weight, 0, c);
        sum_gz += dy * row_get(g->weight, 0, c) * z;
        g->dw[c] += dy * z;
        g->db[c] += dy;
    }
    if (!g->mean) sum_g = 0;
    if (!hx__ref_has(g->dx)) return;
    for (int64_t c = 0; c < n; c++) {
        double z = (row_get(g->x, at_x, c) - mean) * rstd,
               gc = row_get(g->dy, at_dy, c) * row_get(g->weight, 0, c);
        double dx = rstd * (gc - (sum_g + z * sum_gz) / (double)n);
        if (g->ds) dx += row_get(g->ds, at_ds, c);
        hx__ref_put(g->dx, at_dx + c * hx__ref_stride(g->dx, 1), dx, g->accumulate & 1);
    }
}

static void put_vector(const hx_array *out, const double *sums, int64_t n, bool accumulate) {
    if (!hx__ref_has(out)) return;
    for (int64_t c = 0; c < n; c++) hx__ref_put(out, c * out->strides[0], sums[c], accumulate);
}

static hx_status norm_grad_run(norm_grad *g, const hx_array *dw, const hx_array *db) {
    int64_t n = hx__ref_dim(g->x, 1);
    HX_TRY(hx_mem_alloc_array(2 * n, sizeof *g->dw, (void **)&g->dw));
    g->db = g->dw + n;
    hx_array x_rows = hx__ref_lead(g->x, 1), dy_rows = hx__ref_lead(g->dy, 1),
             dx_rows = hx__ref_lead(g->dx, 1);
    hx_array absent = {.ndim = -1}, ds_rows = g->ds ? hx__ref_lead(g->ds, 1) : absent;
    const hx_array *const arrays[] = {&x_rows, &dy_rows, &ds_rows, &dx_rows, g->rstd, g->mean ? g->mean : &absent};
    for (hx__ref_walk w = hx__ref_walk_start(6, arrays); !w.is_done; hx__ref_walk_next(&w))
        norm_grad_row(g, w.at[0], w.at[1], w.at[2], w.at[3], g->mean ? hx__ref_get(g->mean, w.at[5]) : 0,
                      hx__ref_get(g->rstd, w.at[4]));
    put_vector(dw, g->dw, n, g->accumulate & 2);
    if (db) put_vector(db, g->db, n, g->accumulate & 4);
    hx_mem_free((void **)&g->dw);
    return HX_OK;
}

static const hx_array *operand_or_null(const hx_op_call *call, int i) {
    return call->n_in > i && hx__ref_has(&call->in[i]) ? &call->in[i] : NULL;
}

hx_status hx__ref_layernorm_bwd(const hx_op_call *call) {
    const hx_array *in = call->in, *out = call->out;
    norm_grad g = {.x = &in[0],
                   .weight = &in[1],
                   .mean = &in[2],
                   .rstd = &in[3],
                   .dy = &in[4],
                   .ds = operand_or_null(call, 5),
                   .dx = &out[0],
                   .accumulate = call->attr.norm.accumulate};
    return norm_grad_run(&g, &out[1], &out[2]);
}

hx_status hx__ref_rmsnorm_bwd(const hx_op_call *call) {
    const hx_array *in = call->in, *out = call->out;
    norm_grad g = {.x = &in[0],
                   .weight = &in[1],
                   .rstd = &in[2],
                   .dy = &in[3],
                   .ds = operand_or_null(call, 4),
                   .dx = &out[0],
                   .accumulate = call->attr.norm.accumulate};
    return norm_grad_run(&g, &out[1], NULL);
}

/* ---- batch norm: the elements of channel c are those whose index in dim 1 is c ---- */

static double channel_of(const hx_array *channels, int64_t c) { return hx__ref_get(channels, c * channels->strides[0]); }

/* mean and variance over a channel, y = (x - mean) rstd w + b */
hx_status hx__ref_batchnorm(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    const hx_array *weight = call->n_in > 1 && hx__ref_has(&call->in[1]) ? &call->in[1] : NULL;
    const hx_array *bias = call->n_in > 2 && hx__ref_has(&call->in[2]) ? &call->in[2] : NULL;
    int64_t n_channels = x->dims[1], n = n_channels ? hx_array_count(x) / n_channels : 0;
    double *mean, *rstd;
    HX_TRY(hx_mem_alloc_array(2 * n_channels, sizeof *mean, (void **)&mean));
    rstd = mean + n_channels;
    for (hx__ref_walk w = hx__ref_walk_start(1, &x); !w.is_done; hx__ref_walk_next(&w))
        mean[w.at_dim[1]] += hx__ref_get(x, w.at[0]) / (double)n;
    for (hx__ref_walk w = hx__ref_walk_start(1, &x); !w.is_done; hx__ref_walk_next(&w)) {
        double d = hx__ref_get(x, w.at[0]) - mean[w.at_dim[1]];
        rstd[w.at_dim[1]] += d * d / (double)n;
    }
    for (int64_t c = 0; c < n_channels; c++) {
        rstd[c] = 1 / sqrt(rstd[c] + call->attr.norm.eps);
        hx__ref_set(&call->out[1], c * call->out[1].strides[0], mean[c]);
        hx__ref_set(&call->out[2], c * call->out[2].strides[0], rstd[c]);
    }
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(x, y)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t c = w.at_dim[1];
        double z = (hx__ref_get(x, w.at[0]) - mean[c]) * rstd[c];
        hx__ref_set(y, w.at[1], z * (weight ? channel_of(weight, c) : 1) + (bias ? channel_of(bias, c) : 0));
    }
    hx_mem_free((void **)&mean);
    return HX_OK;
}

/* With z = (x - mean) rstd and sums over a channel's n elements: db = sum dy, dw = sum dy z,
 * dx = rstd w (dy - db/n - z dw/n) */
hx_status hx__ref_batchnorm_bwd(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *mean = &call->in[1], *rstd = &call->in[2], *dy = &call->in[3], *dx = &call->out[0];
    const hx_array *weight = call->n_in > 4 && hx__ref_has(&call->in[4]) ? &call->in[4] : NULL;
    int64_t n_channels = x->dims[1], n = n_channels ? hx_array_count(x) / n_channels : 0;
    unsigned accumulate = call->attr.norm.accumulate;
    double *dw, *db;
    HX_TRY(hx_mem_alloc_array(2 * n_channels, sizeof *dw, (void **)&dw));
    db = dw + n_channels;
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(x, dy)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t c = w.at_dim[1];
        double g = hx__ref_get(dy, w.at[1]);
        dw[c] += g * (hx__ref_get(x, w.at[0]) - channel_of(mean, c)) * channel_of(rstd, c);
        db[c] += g;
    }
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(x, dy, dx)); !w.is_done && hx__ref_has(dx); hx__ref_walk_next(&w)) {
        int64_t c = w.at_dim[1];
        double z = (hx__ref_get(x, w.at[0]) - channel_of(mean, c)) * channel_of(rstd, c);
        double scale = channel_of(rstd, c) * (weight ? channel_of(weight, c) : 1);
        hx__ref_put(dx, w.at[2], scale * (hx__ref_get(dy, w.at[1]) - (db[c] + z * dw[c]) / (double)n), accumulate & 1);
    }
    put_vector(&call->out[1], dw, n_channels, accumulate & 2);
    put_vector(&call->out[2], db, n_channels, accumulate & 4);
    hx_mem_free((void **)&dw);
    return HX_OK;
}

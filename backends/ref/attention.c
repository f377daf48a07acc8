#include "backends/ref/ref_impl.h"

#include <math.h>

#include "core/base/mem.h"

/* q, o [B,T,H,D]; k, v [B,S,G,D]; lse [B,H,T]. Query head h uses key head h / (H/G). */
typedef struct attention_dims {
    int64_t b, t, h, d, s, g;
} attention_dims;

static attention_dims dims_of(const hx_array *q, const hx_array *k) {
    return (attention_dims){q->dims[0], q->dims[1], q->dims[2], q->dims[3], k->dims[1], k->dims[2]};
}

/* Offset of the first element of a[i,j,k,:]. */
static int64_t at(const hx_array *a, int64_t i, int64_t j, int64_t k) {
    return i * a->strides[0] + j * a->strides[1] + k * a->strides[2];
}

static double dot_d(const hx_array *a, int64_t at_a, const hx_array *b, int64_t at_b) {
    double sum = 0;
    for (int64_t d = 0; d < a->dims[3]; d++)
        sum += hx__ref_get(a, at_a + d * a->strides[3]) * hx__ref_get(b, at_b + d * b->strides[3]);
    return sum;
}

/* The call's mask, operand i, if it is there. */
static const hx_array *mask_of(const hx_op_call *call, int i) {
    return i < call->n_in && hx__ref_has(&call->in[i]) ? &call->in[i] : NULL;
}

/* The keys that query t of head h sees, ascending, and their number. */
static int64_t list_keys(const hx_op_call *call, const attention_dims *n, const hx_array *mask, int64_t b, int64_t h, int64_t t,
                         int64_t *keys) {
    int64_t last = call->attr.attention.causal ? t + n->s - n->t : n->s - 1, n_keys = 0;
    for (int64_t s = 0; s < n->s && s <= last; s++) {
        const int64_t at_dim[] = {b, h, t, s};
        int64_t at_mask = 0;
        for (int d = 0; mask && d < mask->ndim; d++)
            if (mask->dims[d] != 1) at_mask += at_dim[4 - mask->ndim + d] * mask->strides[d];
        if (!mask || hx__ref_get(mask, at_mask) != 0) keys[n_keys++] = s;
    }
    return n_keys;
}

/* scores[i] = scale q.k of the i-th key that is seen; returns their logsumexp, -inf for none. */
static double score_row(const hx_op_call *call, int64_t at_q, int64_t b, int64_t g, const int64_t *keys, int64_t n_keys,
                        double *scores) {
    const hx_array *q = &call->in[0], *k = &call->in[1];
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n_keys; i++) {
        scores[i] = call->attr.attention.scale * dot_d(q, at_q, k, at(k, b, keys[i], g));
        max = fmax(max, scores[i]);
    }
    for (int64_t i = 0; i < n_keys; i++) sum += exp(scores[i] - max);
    return n_keys ? max + log(sum) : -INFINITY;
}

static void attend(const hx_op_call *call, const attention_dims *n, int64_t b, int64_t h, int64_t t,
                   double *scores, int64_t *keys) {
    const hx_array *q = &call->in[0], *v = &call->in[2], *out = &call->out[0], *lse = &call->out[1];
    int64_t g = h / (n->h / n->g), n_keys = list_keys(call, n, mask_of(call, 3), b, h, t, keys);
    double row_lse = score_row(call, at(q, b, t, h), b, g, keys, n_keys, scores);
    for (int64_t d = 0; d < n->d; d++) {
        double sum = 0;
        for (int64_t i = 0; i < n_keys; i++)
            sum += exp(scores[i] - row_lse) * hx__ref_get(v, at(v, b, keys[i], g) + d * v->strides[3]);
        hx__ref_set(out, at(out, b, t, h) + d * out->strides[3], sum);
    }
    if (hx__ref_has(lse)) hx__ref_set(lse, at(lse, b, h, t), row_lse);
}

hx_status hx__ref_attention(const hx_op_call *call) {
    attention_dims n = dims_of(&call->in[0], &call->in[1]);
    double *scores = NULL; /* [S] */
    int64_t *keys = NULL;  /* [S] */
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_mem_alloc_array(n.s, sizeof *scores, (void **)&scores), done);
    HX_TRY_GOTO(hx_mem_alloc_array(n.s, sizeof *keys, (void **)&keys), done);
    for (int64_t b = 0; b < n.b; b++)
        for (int64_t h = 0; h < n.h; h++)
            for (int64_t t = 0; t < n.t; t++) attend(call, &n, b, h, t, scores, keys);
done:
    hx_mem_free((void **)&keys);
    hx_mem_free((void **)&scores);
    return status;
}

/* ---- backward ----
 * With p_s = e^(scale q.k_s - lse) and dp_s = do.v_s:
 *     ds_s = p_s (dp_s - do.o)
 *     dq = scale sum_s ds_s k_s,  dk_s = scale sum_t ds_s q,  dv_s = sum_t p_s do
 * dk and dv also sum over the query heads of their group. */
typedef struct attention_sums {
    double *dq; /* [D] of one query */
    double *dk; /* [S,D] of one key head */
    double *dv; /* [S,D] */
    int64_t *keys; /* [S] those that the query sees */
} attention_sums;

static void attend_bwd(const hx_op_call *call, const attention_dims *n, int64_t b, int64_t h, int64_t t,
                       const attention_sums *sums) {
    const hx_array *q = &call->in[0], *k = &call->in[1], *v = &call->in[2], *o = &call->in[3],
                   *lse = &call->in[4], *dout = &call->in[5];
    double scale = call->attr.attention.scale, row_lse = hx__ref_get(lse, at(lse, b, h, t));
    int64_t g = h / (n->h / n->g), at_q = at(q, b, t, h), at_do = at(dout, b, t, h),
            n_keys = list_keys(call, n, mask_of(call, 6), b, h, t, sums->keys);
    double delta = dot_d(dout, at_do, o, at(o, b, t, h));
    for (int64_t d = 0; d < n->d; d++) sums->dq[d] = 0;
    for (int64_t i = 0; i < n_keys; i++) {
        int64_t s = sums->keys[i], at_k = at(k, b, s, g), at_v = at(v, b, s, g);
        double p = exp(scale * dot_d(q, at_q, k, at_k) - row_lse);
        double ds = p * (dot_d(dout, at_do, v, at_v) - delta);
        for (int64_t d = 0; d < n->d; d++) {
            sums->dq[d] += scale * ds * hx__ref_get(k, at_k + d * k->strides[3]);
            sums->dk[s * n->d + d] += scale * ds * hx__ref_get(q, at_q + d * q->strides[3]);
            sums->dv[s * n->d + d] += p * hx__ref_get(dout, at_do + d * dout->strides[3]);
        }
    }
    const hx_array *dq = &call->out[0];
    if (!hx__ref_has(dq)) return;
    for (int64_t d = 0; d < n->d; d++) hx__ref_set(dq, at(dq, b, t, h) + d * dq->strides[3], sums->dq[d]);
}

/* Store one key head's sums [S,D]. */
static void put_head(const hx_array *out, int64_t b, int64_t g, const double *sums) {
    if (!hx__ref_has(out)) return;
    for (int64_t s = 0; s < out->dims[1]; s++)
        for (int64_t d = 0; d < out->dims[3]; d++)
            hx__ref_set(out, at(out, b, s, g) + d * out->strides[3], sums[s * out->dims[3] + d]);
}

hx_status hx__ref_attention_bwd(const hx_op_call *call) {
    attention_dims n = dims_of(&call->in[0], &call->in[1]);
    double *buffer = NULL; /* dq [D], dk [S,D], dv [S,D] */
    int64_t *keys = NULL, n_head = n.s * n.d;
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_mem_alloc_array(n.d + 2 * n_head, sizeof *buffer, (void **)&buffer), done);
    HX_TRY_GOTO(hx_mem_alloc_array(n.s, sizeof *keys, (void **)&keys), done);
    attention_sums sums = {buffer, buffer + n.d, buffer + n.d + n_head, keys};
    for (int64_t b = 0; b < n.b; b++)
        for (int64_t g = 0; g < n.g; g++) {
            for (int64_t i = 0; i < 2 * n_head; i++) sums.dk[i] = 0; /* dv lies behind dk */
            for (int64_t h = g * (n.h / n.g); h < (g + 1) * (n.h / n.g); h++)
                for (int64_t t = 0; t < n.t; t++) attend_bwd(call, &n, b, h, t, &sums);
            put_head(&call->out[1], b, g, sums.dk);
            put_head(&call->out[2], b, g, sums.dv);
        }
done:
    hx_mem_free((void **)&keys);
    hx_mem_free((void **)&buffer);
    return status;
}

/* ---- rotary positions ---- */

hx_status hx__ref_rope(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    int64_t half = x->dims[3] / 2, step_x = half * x->strides[3], step_y = half * y->strides[3];
    hx_array x_pairs = *x, y_pairs = *y;
    x_pairs.dims[3] = y_pairs.dims[3] = half;
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&y_pairs, &x_pairs)); !w.is_done; hx__ref_walk_next(&w)) {
        double position = (double)call->attr.rope.start + (double)w.at_dim[1];
        double theta = position * pow(call->attr.rope.base, -2 * (double)w.at_dim[3] / (double)(2 * half));
        double c = cos(theta), s = call->attr.rope.inverse ? -sin(theta) : sin(theta);
        double a = hx__ref_get(x, w.at[1]), b = hx__ref_get(x, w.at[1] + step_x);
        hx__ref_set(y, w.at[0], a * c - b * s);
        hx__ref_set(y, w.at[0] + step_y, a * s + b * c);
    }
    return HX_OK;
}

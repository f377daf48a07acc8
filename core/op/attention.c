/* Attention and rotary positions. */
#include <math.h>

#include "core/op/op_impl.h"

static hx_status check_qkv(const hx_op_args *a) {
    const hx_shape *q = &a->in[0].shape, *k = &a->in[1].shape;
    for (int i = 0; i < 3; i++) HX_TRY(hx__need_ndim(a, i, 4, 4));
    HX_TRY(hx__need_shape(a, 2, k));
    char tq[HX_SHAPE_TEXT], tk[HX_SHAPE_TEXT];
    if (q->dims[0] != k->dims[0] || q->dims[3] != k->dims[3])
        return HX_FAIL(HX_ERR_SHAPE, "q %s, k %s: batch or head dims differ", hx_shape_text(q, tq), hx_shape_text(k, tk));
    if (k->dims[2] < 1 || q->dims[2] % k->dims[2] != 0)
        return HX_FAIL(HX_ERR_SHAPE, "q %s, k %s: %lld heads are not a multiple of %lld", hx_shape_text(q, tq), hx_shape_text(k, tk),
                       (long long)q->dims[2], (long long)k->dims[2]);
    if (a->attr->attention.causal && k->dims[1] < q->dims[1])
        return HX_FAIL(HX_ERR_SHAPE, "q %s, k %s: a causal mask needs at least as many keys as queries", hx_shape_text(q, tq), hx_shape_text(k, tk));
    if (k->dims[1] < 1 && q->dims[1] > 0)
        return HX_FAIL(HX_ERR_SHAPE, "q %s, k %s: no key to attend to", hx_shape_text(q, tq), hx_shape_text(k, tk));
    return HX_OK;
}

/* Operand i, if it is there, tells which of the S keys each of the T queries sees. */
static hx_status check_mask(const hx_op_args *a, int i) {
    if (i >= a->n_in || !a->in[i].present) return HX_OK;
    const hx_shape *q = &a->in[0].shape, *mask = &a->in[i].shape;
    hx_shape scores = {4, {q->dims[0], q->dims[2], q->dims[1], a->in[1].shape.dims[1]}};
    char got[HX_SHAPE_TEXT], want[HX_SHAPE_TEXT];
    HX_TRY(hx__need_dtype(a, i, HX_BOOL));
    bool fits = mask->ndim <= 4;
    for (int d = 0; fits && d < mask->ndim; d++) {
        int64_t size = mask->dims[d];
        fits = size == 1 || size == scores.dims[4 - mask->ndim + d];
    }
    if (fits) return HX_OK;
    return HX_FAIL(HX_ERR_SHAPE, "%s: mask %s: expected a shape that broadcasts to [B,H,T,S] = %s", a->name, hx_shape_text(mask, got),
                   hx_shape_text(&scores, want));
}

hx_status hx__infer_attention(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, 2));
    HX_TRY(check_qkv(a));
    HX_TRY(check_mask(a, 3));
    const hx_shape *q = &a->in[0].shape;
    hx__set_out(&out[0], *q, a->in[0].dtype);
    hx__set_out(&out[1], (hx_shape){3, {q->dims[0], q->dims[2], q->dims[1]}}, hx_dtype_accum(a->in[0].dtype));
    return HX_OK;
}

hx_status hx__infer_attention_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, 3));
    HX_TRY(hx__need_statistic(a, 4, 0));
    HX_TRY(hx__need_dtype(a, 5, a->in[0].dtype));
    HX_TRY(check_qkv(a));
    const hx_shape *q = &a->in[0].shape;
    hx_shape lse = {3, {q->dims[0], q->dims[2], q->dims[1]}};
    HX_TRY(hx__need_shape(a, 3, q));
    HX_TRY(hx__need_shape(a, 4, &lse));
    HX_TRY(hx__need_shape(a, 5, q));
    HX_TRY(check_mask(a, 6));
    for (int i = 0; i < 3; i++) hx__set_out(&out[i], a->in[i].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx_attention_op(hx_ctx *ctx, hx_tensor *q, hx_tensor *k, hx_tensor *v, hx_tensor *mask, bool causal, double scale,
                          hx_tensor **out) {
    HX_NEED_TENSOR(q);
    int64_t head = hx_tensor_dim(q, -1);
    if (scale == 0) scale = head > 0 ? 1 / sqrt((double)head) : 1;
    if (!isfinite(scale)) return HX_FAIL(HX_ERR_ARG, "attention: scale = %g: expected a finite number", scale);
    return hx__run_keep(ctx, HX_OP_attention, (hx_tensor *[]){q, k, v, mask}, mask ? 4 : 3, &(hx_op_attr){.attention = {scale, causal}}, out, 1);
}

hx_status hx__infer_rope(const hx_op_args *a, hx_op_meta *out) {
    const hx_shape *x = &a->in[0].shape;
    double base = a->attr->rope.base;
    char text[HX_SHAPE_TEXT];
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(hx__need_ndim(a, 0, 4, 4));
    if (hx__last_dim(x) % 2 != 0) return HX_FAIL(HX_ERR_SHAPE, "%s: x %s: expected an even last dim, of pairs", a->name, hx_shape_text(x, text));
    if (!(base > 0 && isfinite(base))) return HX_FAIL(HX_ERR_ARG, "%s: base = %g: expected a finite number > 0", a->name, base);
    if (a->attr->rope.start < 0)
        return HX_FAIL(HX_ERR_ARG, "%s: start = %lld: expected a position >= 0", a->name, (long long)a->attr->rope.start);
    hx__set_out(&out[0], *x, a->in[0].dtype);
    return HX_OK;
}

hx_status hx_rope(hx_ctx *ctx, hx_tensor *x, double base, int64_t start, hx_tensor **out) {
    return hx__run1(ctx, HX_OP_rope, x, &(hx_op_attr){.rope = {.base = base, .start = start}}, out);
}

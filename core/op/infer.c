/* Shape rules: each checks the operands of its ops and sets the outputs' shapes and dtypes. The message of a failure
 * names the op, the operands' shapes and the dims that differ. */
#include <string.h>

#include "core/op/op_impl.h"

static hx_status need_float(const hx_op_args *a, int i) {
    if (hx_dtype_is_float(a->in[i].dtype)) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected a floating type", a->name, i, hx_dtype_name(a->in[i].dtype));
}

/* All present operands from first to last have one floating dtype. */
static hx_status need_same_float(const hx_op_args *a, int first, int last) {
    HX_TRY(need_float(a, first));
    for (int i = first + 1; i <= last; i++)
        if (a->in[i].present && a->in[i].dtype != a->in[first].dtype)
            return HX_FAIL(HX_ERR_DTYPE, "%s: operands %d and %d are %s and %s: expected one dtype", a->name, first, i,
                           hx_dtype_name(a->in[first].dtype), hx_dtype_name(a->in[i].dtype));
    return HX_OK;
}

static hx_status need_ids(const hx_op_args *a, int i) {
    hx_dtype d = a->in[i].dtype;
    if (d == HX_I32 || d == HX_I64) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected ids as i32 or i64", a->name, i, hx_dtype_name(d));
}

static hx_status need_shape(const hx_op_args *a, int i, const hx_shape *want) {
    if (hx_shape_equal(&a->in[i].shape, want)) return HX_OK;
    char got[HX_SHAPE_TEXT], expected[HX_SHAPE_TEXT];
    return HX_FAIL(HX_ERR_SHAPE, "%s: operand %d is %s: expected %s", a->name, i, hx_shape_text(&a->in[i].shape, got), hx_shape_text(want, expected));
}

static hx_status need_ndim(const hx_op_args *a, int i, int least, int most) {
    int n = a->in[i].shape.ndim;
    if (n >= least && n <= most) return HX_OK;
    char text[HX_SHAPE_TEXT];
    return HX_FAIL(HX_ERR_SHAPE, "%s: operand %d is %s: expected %d to %d dims", a->name, i, hx_shape_text(&a->in[i].shape, text), least, most);
}

static void set(hx_op_meta *out, hx_shape shape, hx_dtype dtype) {
    *out = (hx_op_meta){shape, dtype, true};
}

/* shape without its last dim */
static hx_shape rows_of(const hx_shape *s) {
    hx_shape r = *s;
    r.dims[--r.ndim] = 0;
    return r;
}

static int64_t last_dim(const hx_shape *s) {
    return s->dims[s->ndim - 1];
}

hx_status hx__infer_binary(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, 1));
    hx_shape s;
    HX_TRY(hx_shape_broadcast(&a->in[0].shape, &a->in[1].shape, &s));
    set(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_unary(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_float(a, 0));
    if (a->op == HX_OP_softmax) HX_TRY(need_ndim(a, 0, 1, HX_MAX_DIMS));
    if (a->op == HX_OP_dropout && !(a->attr->random.p >= 0 && a->attr->random.p < 1))
        return HX_FAIL(HX_ERR_ARG, "dropout: p = %g: expected 0 <= p < 1", a->attr->random.p);
    set(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_same(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, 1));
    HX_TRY(need_shape(a, 1, &a->in[0].shape));
    if (a->op == HX_OP_softmax_bwd) HX_TRY(need_ndim(a, 0, 1, HX_MAX_DIMS));
    set(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_copy(const hx_op_args *a, hx_op_meta *out) {
    hx_dtype dtype = a->attr->copy.dtype;
    if (hx_dtype_bytes(dtype) == 0) return HX_FAIL(HX_ERR_DTYPE, "copy: dtype %d: unknown", (int)dtype);
    set(out, a->in[0].shape, dtype);
    return HX_OK;
}

/* Views are made by core/op/ops.c, which checks them; they never come here. */
hx_status hx__infer_view(const hx_op_args *a, hx_op_meta *out) {
    (void)out;
    return HX_FAIL(HX_ERR_INTERNAL, "%s is a view and has no kernel", a->name);
}

hx_status hx__infer_sum(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_float(a, 0));
    const hx_shape *x = &a->in[0].shape;
    hx_shape s = {0};
    int next = 0, n = a->attr->reduce.n_dims;
    for (int k = 0; k < n; k++)
        if (n > x->ndim || a->attr->reduce.dims[k] < 0 || a->attr->reduce.dims[k] >= x->ndim || (k > 0 && a->attr->reduce.dims[k] <= a->attr->reduce.dims[k - 1]))
            return HX_FAIL(HX_ERR_SHAPE, "sum: dims[%d] = %d: expected ascending dims within 0..%d", k, a->attr->reduce.dims[k], x->ndim - 1);
    for (int d = 0; d < x->ndim; d++) {
        bool summed = next < n && a->attr->reduce.dims[next] == d;
        next += summed;
        if (!summed) s.dims[s.ndim++] = x->dims[d];
        else if (a->attr->reduce.keepdim) s.dims[s.ndim++] = 1;
    }
    set(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_sumsq(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_float(a, 0));
    set(out, HX_SCALAR, HX_F64);
    return HX_OK;
}

hx_status hx__infer_matmul(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, 1));
    HX_TRY(need_ndim(a, 0, 2, HX_MAX_DIMS));
    HX_TRY(need_ndim(a, 1, 2, HX_MAX_DIMS));
    const hx_shape *x = &a->in[0].shape, *y = &a->in[1].shape;
    char tx[HX_SHAPE_TEXT], ty[HX_SHAPE_TEXT];
    int64_t k = last_dim(x), k2 = y->dims[y->ndim - 2];
    if (k != k2)
        return HX_FAIL(HX_ERR_SHAPE, "a %s x b %s: inner dims %lld and %lld differ", hx_shape_text(x, tx), hx_shape_text(y, ty),
                       (long long)k, (long long)k2);
    hx_shape bx = *x, by = *y, s;
    bx.ndim -= 2;
    by.ndim -= 2;
    HX_TRY(hx_shape_broadcast(&bx, &by, &s));
    s.dims[s.ndim++] = x->dims[x->ndim - 2];
    s.dims[s.ndim++] = last_dim(y);
    HX_TRY(hx_shape_check(&s));
    set(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_linear(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_ndim(a, 0, 1, HX_MAX_DIMS));
    HX_TRY(need_ndim(a, 1, 2, 2));
    hx_shape s = a->in[0].shape;
    const hx_shape *w = &a->in[1].shape;
    char tx[HX_SHAPE_TEXT], tw[HX_SHAPE_TEXT];
    if (last_dim(&s) != w->dims[1])
        return HX_FAIL(HX_ERR_SHAPE, "x %s, w %s: last dims %lld and %lld differ", hx_shape_text(&s, tx), hx_shape_text(w, tw),
                       (long long)last_dim(&s), (long long)w->dims[1]);
    if (a->n_in > 2 && a->in[2].present) {
        hx_shape bias = {1, {w->dims[0]}};
        HX_TRY(need_shape(a, 2, &bias));
    }
    s.dims[s.ndim - 1] = w->dims[0];
    HX_TRY(hx_shape_check(&s));
    set(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_embedding(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_ids(a, 0));
    HX_TRY(need_float(a, 1));
    HX_TRY(need_ndim(a, 0, 0, HX_MAX_DIMS - 1));
    HX_TRY(need_ndim(a, 1, 2, 2));
    hx_shape s = a->in[0].shape;
    s.dims[s.ndim++] = a->in[1].shape.dims[1];
    HX_TRY(hx_shape_check(&s));
    set(out, s, a->in[1].dtype);
    return HX_OK;
}

hx_status hx__infer_embedding_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_ids(a, 0));
    HX_TRY(need_float(a, 1));
    HX_TRY(need_ndim(a, 1, 1, HX_MAX_DIMS));
    hx_shape ids = rows_of(&a->in[1].shape);
    HX_TRY(need_shape(a, 0, &ids));
    hx_shape s = {2, {a->attr->embedding.rows, last_dim(&a->in[1].shape)}};
    HX_TRY(hx_shape_check(&s));
    set(out, s, a->in[1].dtype);
    return HX_OK;
}

/* x, w and, for a layer norm, an optional bias */
hx_status hx__infer_norm(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_ndim(a, 0, 1, HX_MAX_DIMS));
    const hx_shape *x = &a->in[0].shape;
    hx_shape w = {1, {last_dim(x)}}, rows = rows_of(x);
    if (!(a->attr->norm.eps >= 0)) return HX_FAIL(HX_ERR_ARG, "%s: eps = %g: expected >= 0", a->name, a->attr->norm.eps);
    for (int i = 1; i < a->n_in; i++)
        if (a->in[i].present) HX_TRY(need_shape(a, i, &w));
    set(&out[0], *x, a->in[0].dtype);
    set(&out[1], rows, a->in[0].dtype);
    if (a->op == HX_OP_layernorm) set(&out[2], rows, a->in[0].dtype);
    return HX_OK;
}

/* x, w, [mean,] rstd, dy */
hx_status hx__infer_norm_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_ndim(a, 0, 1, HX_MAX_DIMS));
    const hx_shape *x = &a->in[0].shape;
    hx_shape w = {1, {last_dim(x)}}, rows = rows_of(x);
    HX_TRY(need_shape(a, 1, &w));
    for (int i = 2; i < a->n_in - 1; i++) HX_TRY(need_shape(a, i, &rows));
    HX_TRY(need_shape(a, a->n_in - 1, x));
    set(&out[0], *x, a->in[0].dtype);
    set(&out[1], w, a->in[0].dtype);
    if (a->op == HX_OP_layernorm_bwd) set(&out[2], w, a->in[0].dtype);
    return HX_OK;
}

static hx_status check_qkv(const hx_op_args *a) {
    const hx_shape *q = &a->in[0].shape, *k = &a->in[1].shape;
    for (int i = 0; i < 3; i++) HX_TRY(need_ndim(a, i, 4, 4));
    HX_TRY(need_shape(a, 2, k));
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

hx_status hx__infer_attention(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, 2));
    HX_TRY(check_qkv(a));
    const hx_shape *q = &a->in[0].shape;
    set(&out[0], *q, a->in[0].dtype);
    set(&out[1], (hx_shape){3, {q->dims[0], q->dims[2], q->dims[1]}}, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_attention_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(need_same_float(a, 0, 5));
    HX_TRY(check_qkv(a));
    const hx_shape *q = &a->in[0].shape;
    hx_shape lse = {3, {q->dims[0], q->dims[2], q->dims[1]}};
    HX_TRY(need_shape(a, 3, q));
    HX_TRY(need_shape(a, 4, &lse));
    HX_TRY(need_shape(a, 5, q));
    for (int i = 0; i < 3; i++) set(&out[i], a->in[i].shape, a->in[0].dtype);
    return HX_OK;
}

static hx_status check_logits(const hx_op_args *a, hx_shape *rows) {
    HX_TRY(need_float(a, 0));
    HX_TRY(need_ids(a, 1));
    HX_TRY(need_ndim(a, 0, 1, HX_MAX_DIMS));
    *rows = rows_of(&a->in[0].shape);
    return need_shape(a, 1, rows);
}

hx_status hx__infer_cross_entropy(const hx_op_args *a, hx_op_meta *out) {
    hx_shape rows;
    HX_TRY(check_logits(a, &rows));
    if (last_dim(&a->in[0].shape) < 1) return HX_FAIL(HX_ERR_SHAPE, "cross_entropy: logits have no classes");
    set(&out[0], HX_SCALAR, HX_F64);
    set(&out[1], HX_SCALAR, HX_I64);
    set(&out[2], rows, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_cross_entropy_bwd(const hx_op_args *a, hx_op_meta *out) {
    hx_shape rows, scalar = HX_SCALAR;
    HX_TRY(check_logits(a, &rows));
    HX_TRY(need_shape(a, 2, &rows));
    HX_TRY(need_shape(a, 3, &scalar));
    if (a->in[2].dtype != a->in[0].dtype || a->in[3].dtype != HX_F64)
        return HX_FAIL(HX_ERR_DTYPE, "cross_entropy_bwd: logsumexp %s, dloss %s: expected %s and f64", hx_dtype_name(a->in[2].dtype),
                       hx_dtype_name(a->in[3].dtype), hx_dtype_name(a->in[0].dtype));
    set(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_random(const hx_op_args *a, hx_op_meta *out) {
    if (!hx_dtype_is_float(out[0].dtype))
        return HX_FAIL(HX_ERR_DTYPE, "%s: x is %s: expected a floating type", a->name, hx_dtype_name(out[0].dtype));
    return HX_OK;
}

hx_status hx__infer_adamw(const hx_op_args *a, hx_op_meta *out) {
    hx_shape scalar = HX_SCALAR;
    HX_TRY(need_float(a, 0));
    if (a->attr->adamw.step < 1) return HX_FAIL(HX_ERR_ARG, "adamw: step = %lld: expected >= 1", (long long)a->attr->adamw.step);
    if (a->n_in > 1 && a->in[1].present) {
        HX_TRY(need_shape(a, 1, &scalar));
        if (a->in[1].dtype != HX_F64) return HX_FAIL(HX_ERR_DTYPE, "adamw: gscale is %s: expected f64", hx_dtype_name(a->in[1].dtype));
    }
    for (int i = 0; i < 3; i++) {
        HX_TRY(need_shape(a, 0, &out[i].shape));
        if (out[i].dtype != a->in[0].dtype)
            return HX_FAIL(HX_ERR_DTYPE, "adamw: output %d is %s, the gradient %s: expected one dtype", i, hx_dtype_name(out[i].dtype), hx_dtype_name(a->in[0].dtype));
    }
    return HX_OK;
}

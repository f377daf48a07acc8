/* Derivatives of the ops: given dL/d(output), each hands on dL/d(input). Formulas stand above the functions; dy is
 * the gradient that arrives. */
#include <string.h>

#include "core/op/op_impl.h"

/* Run an op that yields one new tensor. */
static hx_status run(hx_vjp *v, hx_op op, hx_tensor *a, hx_tensor *b, const hx_op_attr *attr, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(v->ctx, op, (hx_tensor *[]){a, b}, b ? 2 : 1, attr, 0, &y));
    *out = y;
    return HX_OK;
}

/* Give op(a, b) as the gradient of input i. */
static hx_status give_op(hx_vjp *v, int i, hx_op op, hx_tensor *a, hx_tensor *b, const hx_op_attr *attr) {
    hx_tensor *g = NULL;
    if (!hx_vjp_wants(v, i)) return HX_OK;
    HX_TRY(run(v, op, a, b, attr, &g));
    return hx_vjp_give_consume(v, i, &g);
}

static hx_status give_same(hx_vjp *v, int i) {
    if (!hx_vjp_wants(v, i)) return HX_OK;
    hx_tensor *g = hx_tensor_retain(v->grad_out[0]);
    return hx_vjp_give_consume(v, i, &g);
}

static hx_status give_scaled(hx_vjp *v, int i, double alpha) {
    return give_op(v, i, HX_OP_affine, v->grad_out[0], NULL, &(hx_op_attr){.affine = {alpha, 0}});
}

/* ---- two operands ---- */

/* da = dy, db = dy */
hx_status hx__vjp_add(hx_vjp *v) {
    HX_TRY(give_same(v, 0));
    return give_same(v, 1);
}

/* da = dy, db = -dy */
hx_status hx__vjp_sub(hx_vjp *v) {
    HX_TRY(give_same(v, 0));
    return give_scaled(v, 1, -1);
}

/* da = dy b, db = dy a */
hx_status hx__vjp_mul(hx_vjp *v) {
    HX_TRY(give_op(v, 0, HX_OP_mul, v->grad_out[0], v->in[1], NULL));
    return give_op(v, 1, HX_OP_mul, v->grad_out[0], v->in[0], NULL);
}

/* da = dy / b, db = -(dy / b) (a / b) */
hx_status hx__vjp_div(hx_vjp *v) {
    HX_AUTO_TENSOR da = NULL;
    HX_TRY(run(v, HX_OP_div, v->grad_out[0], v->in[1], NULL, &da));
    if (hx_vjp_wants(v, 1)) {
        HX_AUTO_TENSOR ratio = NULL;
        HX_AUTO_TENSOR minus = NULL;
        HX_TRY(run(v, HX_OP_div, v->in[0], v->in[1], NULL, &ratio));
        HX_TRY(run(v, HX_OP_affine, ratio, NULL, &(hx_op_attr){.affine = {-1, 0}}, &minus));
        HX_TRY(give_op(v, 1, HX_OP_mul, da, minus, NULL));
    }
    return hx_vjp_give_consume(v, 0, &da);
}

/* With s = sign(a - b): max takes dy (1 + s)/2 to a and the rest to b; min the other way round. */
static hx_status extremum(hx_vjp *v, double sign) {
    HX_AUTO_TENSOR diff = NULL;
    HX_AUTO_TENSOR s = NULL;
    HX_AUTO_TENSOR part = NULL;
    HX_TRY(run(v, HX_OP_sub, v->in[0], v->in[1], NULL, &diff));
    HX_TRY(run(v, HX_OP_sign, diff, NULL, NULL, &s));
    for (int i = 0; i < 2; i++) {
        HX_TRY(run(v, HX_OP_affine, s, NULL, &(hx_op_attr){.affine = {i == 0 ? sign / 2 : -sign / 2, 0.5}}, &part));
        HX_TRY(give_op(v, i, HX_OP_mul, v->grad_out[0], part, NULL));
        hx_tensor_destroy(&part);
    }
    return HX_OK;
}

hx_status hx__vjp_maximum(hx_vjp *v) {
    return extremum(v, 1);
}

hx_status hx__vjp_minimum(hx_vjp *v) {
    return extremum(v, -1);
}

/* ---- one operand ---- */

/* dx = alpha dy */
hx_status hx__vjp_affine(hx_vjp *v) {
    return give_scaled(v, 0, v->attr->affine.alpha);
}

/* dx = y dy */
hx_status hx__vjp_exp(hx_vjp *v) {
    return give_op(v, 0, HX_OP_mul, v->grad_out[0], v->out[0], NULL);
}

/* dx = dy / x */
hx_status hx__vjp_log(hx_vjp *v) {
    return give_op(v, 0, HX_OP_div, v->grad_out[0], v->in[0], NULL);
}

/* dx = dy / (2 y) */
hx_status hx__vjp_sqrt(hx_vjp *v) {
    HX_AUTO_TENSOR twice = NULL;
    HX_TRY(run(v, HX_OP_affine, v->out[0], NULL, &(hx_op_attr){.affine = {2, 0}}, &twice));
    return give_op(v, 0, HX_OP_div, v->grad_out[0], twice, NULL);
}

/* dx = dy sign(x) */
hx_status hx__vjp_abs(hx_vjp *v) {
    HX_AUTO_TENSOR s = NULL;
    HX_TRY(run(v, HX_OP_sign, v->in[0], NULL, NULL, &s));
    return give_op(v, 0, HX_OP_mul, v->grad_out[0], s, NULL);
}

hx_status hx__vjp_tanh(hx_vjp *v) {
    return give_op(v, 0, HX_OP_tanh_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_sigmoid(hx_vjp *v) {
    return give_op(v, 0, HX_OP_sigmoid_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_relu(hx_vjp *v) {
    return give_op(v, 0, HX_OP_relu_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_silu(hx_vjp *v) {
    return give_op(v, 0, HX_OP_silu_bwd, v->in[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_gelu_tanh(hx_vjp *v) {
    return give_op(v, 0, HX_OP_gelu_tanh_bwd, v->in[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_gelu_erf(hx_vjp *v) {
    return give_op(v, 0, HX_OP_gelu_erf_bwd, v->in[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_softmax(hx_vjp *v) {
    return give_op(v, 0, HX_OP_softmax_bwd, v->out[0], v->grad_out[0], NULL);
}

/* The mask is drawn again: dx = mask dy / (1 - p). */
hx_status hx__vjp_dropout(hx_vjp *v) {
    return give_op(v, 0, HX_OP_dropout, v->grad_out[0], NULL, v->attr);
}

/* ---- movement ---- */

hx_status hx__vjp_copy(hx_vjp *v) {
    if (!hx_dtype_is_float(v->in_dtype[0])) return HX_FAIL(HX_ERR_DTYPE, "copy: no derivative with respect to %s", hx_dtype_name(v->in_dtype[0]));
    if (hx_tensor_dtype(v->grad_out[0]) == v->in_dtype[0]) return give_same(v, 0);
    return give_op(v, 0, HX_OP_copy, v->grad_out[0], NULL, &(hx_op_attr){.copy = {v->in_dtype[0]}});
}

hx_status hx__vjp_view(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(hx_reshape(v->ctx, v->grad_out[0], v->in_shape[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

hx_status hx__vjp_permute(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    int inverse[HX_MAX_DIMS] = {0};
    for (int d = 0; d < v->in_shape[0].ndim; d++) inverse[v->attr->view.perm[d]] = d;
    HX_TRY(hx_tensor_permute(v->grad_out[0], inverse, &g));
    return hx_vjp_give_consume(v, 0, &g);
}

/* Repeated dims are summed by hx_vjp_give_consume. */
hx_status hx__vjp_expand(hx_vjp *v) {
    return give_same(v, 0);
}

/* dst = or += g, or zero where g is absent */
static hx_status put(hx_vjp *v, hx_tensor *dst, hx_tensor *g, bool accumulate) {
    if (g == NULL) {
        if (accumulate) return HX_OK;
        HX_AUTO_TENSOR zero = NULL;
        HX_AUTO_TENSOR zeros = NULL;
        HX_TRY(hx_tensor_create(v->ctx->device, hx_tensor_dtype(dst), HX_SCALAR, &zero));
        HX_TRY(hx_tensor_fill(v->ctx->stream, zero, 0));
        HX_TRY(hx_tensor_expand(zero, hx_tensor_shape(dst), &zeros));
        return hx_copy_into(v->ctx, zeros, dst);
    }
    if (!accumulate) return hx_copy_into(v->ctx, g, dst);
    return hx_op_run(v->ctx, HX_OP_add, (hx_tensor *[]){dst, g}, 2, NULL, 0, &dst);
}

/* dx is zero outside of the slice */
hx_status hx__vjp_slice(hx_vjp *v) {
    hx_tensor *dst;
    HX_AUTO_TENSOR part = NULL;
    bool accumulate;
    int d = v->attr->view.dim;
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    if (!accumulate) HX_TRY(hx_tensor_fill(v->ctx->stream, dst, 0));
    int64_t n = v->out_shape[0].dims[d], start = v->attr->view.start;
    int64_t stop = n > 0 ? start + (n - 1) * v->attr->view.step + 1 : start;
    HX_TRY(hx_tensor_slice(dst, d, start, stop, n > 1 ? v->attr->view.step : 1, &part));
    return put(v, part, v->grad_out[0], accumulate);
}

hx_status hx__vjp_split(hx_vjp *v) {
    hx_tensor *dst;
    bool accumulate;
    int64_t start = 0;
    int d = v->attr->view.dim;
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    for (int i = 0; i < v->n_out; i++) {
        HX_AUTO_TENSOR part = NULL;
        int64_t n = v->out_shape[i].dims[d];
        HX_TRY(hx_tensor_slice(dst, d, start, start + n, 1, &part));
        HX_TRY(put(v, part, v->grad_out[i], accumulate));
        start += n;
    }
    return HX_OK;
}

/* Each summed element receives dy. */
hx_status hx__vjp_sum(hx_vjp *v) {
    HX_AUTO_TENSOR dense = NULL;
    HX_AUTO_TENSOR kept = NULL;
    HX_AUTO_TENSOR g = NULL;
    hx_shape shape = v->in_shape[0];
    for (int k = 0; k < v->attr->reduce.n_dims; k++) shape.dims[v->attr->reduce.dims[k]] = 1;
    HX_TRY(hx_contiguous(v->ctx, v->grad_out[0], &dense));
    HX_TRY(hx_tensor_view(dense, shape, &kept));
    HX_TRY(hx_tensor_expand(kept, v->in_shape[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

/* ---- products ---- */

/* grad of input i (viewed under `shape`) = or += alpha a b, written where it belongs */
static hx_status product_into(hx_vjp *v, int i, hx_shape shape, hx_tensor *a, hx_tensor *b) {
    hx_tensor *dst;
    HX_AUTO_TENSOR flat = NULL;
    hx_op_attr attr = {.matmul = {.alpha = 1}};
    HX_TRY(hx_vjp_target(v, i, &dst, &attr.matmul.accumulate));
    HX_TRY(hx_tensor_view(dst, shape, &flat));
    return hx_op_run(v->ctx, HX_OP_matmul, (hx_tensor *[]){a, b}, 2, &attr, 0, &flat);
}

static hx_status matmul_side(hx_vjp *v, int i, hx_tensor *a, hx_tensor *b) {
    hx_shape batch = v->out_shape[0], own = v->in_shape[i];
    batch.ndim -= 2;
    own.ndim -= 2;
    if (hx_shape_equal(&batch, &own)) return product_into(v, i, v->in_shape[i], a, b);
    return give_op(v, i, HX_OP_matmul, a, b, &(hx_op_attr){.matmul = {.alpha = 1}});
}

/* da = dy b^T, db = a^T dy; broadcast batches are summed */
hx_status hx__vjp_matmul(hx_vjp *v) {
    HX_AUTO_TENSOR t = NULL;
    if (hx_vjp_wants(v, 0)) {
        HX_TRY(hx_tensor_transpose(v->in[1], -1, -2, &t));
        HX_TRY(matmul_side(v, 0, v->grad_out[0], t));
        hx_tensor_destroy(&t);
    }
    if (hx_vjp_wants(v, 1)) {
        HX_TRY(hx_tensor_transpose(v->in[0], -1, -2, &t));
        HX_TRY(matmul_side(v, 1, t, v->grad_out[0]));
    }
    return HX_OK;
}

/* x, dy as [R,..]: dx = dy w, dw = dy^T x, dbias = sum of dy over rows */
hx_status hx__vjp_linear(hx_vjp *v) {
    int64_t k = v->in_shape[1].dims[1], n = v->in_shape[1].dims[0];
    int64_t rows = 1;
    for (int d = 0; d < v->in_shape[0].ndim - 1; d++) rows *= v->in_shape[0].dims[d];
    HX_AUTO_TENSOR dy = NULL;
    HX_TRY(hx_reshape(v->ctx, v->grad_out[0], HX_SHAPE(rows, n), &dy));
    if (hx_vjp_wants(v, 0)) HX_TRY(product_into(v, 0, HX_SHAPE(rows, k), dy, v->in[1]));
    if (hx_vjp_wants(v, 1)) {
        HX_AUTO_TENSOR dyt = NULL;
        HX_AUTO_TENSOR x = NULL;
        HX_TRY(hx_tensor_transpose(dy, 0, 1, &dyt));
        HX_TRY(hx_reshape(v->ctx, v->in[0], HX_SHAPE(rows, k), &x));
        HX_TRY(product_into(v, 1, HX_SHAPE(n, k), dyt, x));
    }
    if (hx_vjp_wants(v, 2)) {
        hx_tensor *dst;
        hx_op_attr attr = {.reduce = {.n_dims = 1, .dims = {0}}};
        HX_TRY(hx_vjp_target(v, 2, &dst, &attr.reduce.accumulate));
        HX_TRY(hx_op_run(v->ctx, HX_OP_sum, &dy, 1, &attr, 0, &dst));
    }
    return HX_OK;
}

hx_status hx__vjp_embedding(hx_vjp *v) {
    hx_tensor *dst;
    hx_op_attr attr = {.embedding = {.rows = v->in_shape[1].dims[0]}};
    HX_TRY(hx_vjp_target(v, 1, &dst, &attr.embedding.accumulate));
    return hx_op_run(v->ctx, HX_OP_embedding_bwd, (hx_tensor *[]){v->in[0], v->grad_out[0]}, 2, &attr, 0, &dst);
}

/* ---- norms, attention, loss ---- */

/* One fused op writes the gradients of x and of the n_weights parameters after it. */
static hx_status norm_backward(hx_vjp *v, hx_op op, hx_tensor *const *in, int n_in, int n_weights) {
    hx_tensor *dst[3] = {NULL};
    unsigned skip = 0;
    hx_op_attr attr = *v->attr;
    attr.norm.accumulate = 0;
    for (int i = 0; i <= n_weights; i++) {
        bool accumulate = false;
        if (!hx_vjp_wants(v, i)) {
            skip |= 1u << i;
            continue;
        }
        HX_TRY(hx_vjp_target(v, i, &dst[i], &accumulate));
        if (accumulate) attr.norm.accumulate |= 1u << i;
    }
    return hx_op_run(v->ctx, op, in, n_in, &attr, skip, dst);
}

hx_status hx__vjp_layernorm(hx_vjp *v) {
    return norm_backward(v, HX_OP_layernorm_bwd, (hx_tensor *[]){v->in[0], v->in[1], v->out[1], v->out[2], v->grad_out[0]}, 5, 2);
}

hx_status hx__vjp_rmsnorm(hx_vjp *v) {
    return norm_backward(v, HX_OP_rmsnorm_bwd, (hx_tensor *[]){v->in[0], v->in[1], v->out[1], v->grad_out[0]}, 4, 1);
}

hx_status hx__vjp_attention(hx_vjp *v) {
    hx_tensor *g[3] = {NULL}, *in[] = {v->in[0], v->in[1], v->in[2], v->out[0], v->out[1], v->grad_out[0]};
    HX_TRY(hx_op_run(v->ctx, HX_OP_attention_bwd, in, 6, v->attr, 0, g));
    hx_status status = HX_OK;
    for (int i = 0; i < 3; i++) {
        if (status == HX_OK) status = hx_vjp_give_consume(v, i, &g[i]);
        hx_tensor_destroy(&g[i]);
    }
    return status;
}

/* dlogits = (softmax - onehot) dloss at valid targets */
hx_status hx__vjp_cross_entropy(hx_vjp *v) {
    hx_tensor *g = NULL, *in[] = {v->in[0], v->in[1], v->out[2], v->grad_out[0]};
    HX_TRY(hx_op_run(v->ctx, HX_OP_cross_entropy_bwd, in, 4, v->attr, 0, &g));
    return hx_vjp_give_consume(v, 0, &g);
}

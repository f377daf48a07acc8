/* Convolutions and pools over 1 to 3 spatial dims. */
#include "core/op/op_impl.h"

/* Operand i is [B,C,L..] with the spatial dims that the attributes speak of. */
static hx_status need_image(const hx_op_args *a, int i) {
    int n = a->attr->conv.n;
    if (n < 1 || n > 3) return HX_FAIL(HX_ERR_SHAPE, "%s: %d spatial dims: expected 1 to 3", a->name, n);
    return hx__need_ndim(a, i, n + 2, n + 2);
}

/* Stride, padding and dilation are sizes, and groups divide channels. */
static hx_status check_attr(const hx_op_args *a) {
    for (int d = 0; d < a->attr->conv.n; d++) {
        int64_t stride = a->attr->conv.stride[d], padding = a->attr->conv.padding[d], dilation = a->attr->conv.dilation[d];
        if (stride < 1 || padding < 0 || dilation < 1)
            return HX_FAIL(HX_ERR_ARG, "%s: spatial dim %d: stride %lld, padding %lld, dilation %lld: expected stride >= 1, padding >= 0, dilation >= 1",
                           a->name, d, (long long)stride, (long long)padding, (long long)dilation);
    }
    if (a->attr->conv.groups < 1)
        return HX_FAIL(HX_ERR_ARG, "%s: %lld groups: expected at least 1", a->name, (long long)a->attr->conv.groups);
    return HX_OK;
}

/* Number of places of a window of k elements along spatial dim d of size l. Kernels compute positions within the
 * padded size, which is what must not overflow. */
static hx_status count_places(const hx_op_args *a, int d, int64_t l, int64_t k, int64_t *out) {
    int64_t stride = a->attr->conv.stride[d], padding = a->attr->conv.padding[d], dilation = a->attr->conv.dilation[d];
    int64_t padded, reach;
    if (k < 1) return HX_FAIL(HX_ERR_SHAPE, "%s: spatial dim %d: a window of %lld: expected at least 1", a->name, d, (long long)k);
    if (__builtin_mul_overflow(padding, (int64_t)2, &padded) || __builtin_add_overflow(padded, l, &padded) ||
        __builtin_mul_overflow(dilation, k - 1, &reach) || reach == INT64_MAX)
        return HX_FAIL(HX_ERR_OVERFLOW, "%s: spatial dim %d: size %lld, window %lld, padding %lld, dilation %lld", a->name, d, (long long)l,
                       (long long)k, (long long)padding, (long long)dilation);
    if (padded <= reach)
        return HX_FAIL(HX_ERR_SHAPE, "%s: spatial dim %d: a window that reaches over %lld elements (%lld, dilation %lld): expected at most %lld, the size %lld with padding %lld on both sides",
                       a->name, d, (long long)(reach + 1), (long long)k, (long long)dilation, (long long)padded, (long long)l, (long long)padding);
    *out = (padded - reach - 1) / stride + 1;
    return HX_OK;
}

/* What a convolution of x by w yields: [B,O,M..]. */
static hx_status conv_shape(const hx_op_args *a, const hx_shape *x, const hx_shape *w, hx_shape *y) {
    int64_t groups = a->attr->conv.groups;
    char xs[HX_SHAPE_TEXT], ws[HX_SHAPE_TEXT];
    if (x->dims[1] % groups || w->dims[0] % groups || x->dims[1] / groups != w->dims[1])
        return HX_FAIL(HX_ERR_SHAPE, "%s: x %s, w %s, %lld groups: expected channels and outputs that the groups divide, and w [O,C/groups,..]",
                       a->name, hx_shape_text(x, xs), hx_shape_text(w, ws), (long long)groups);
    hx_shape s = {.ndim = x->ndim, .dims = {x->dims[0], w->dims[0]}};
    for (int d = 0; d < a->attr->conv.n; d++) HX_TRY(count_places(a, d, x->dims[d + 2], w->dims[d + 2], &s.dims[d + 2]));
    HX_TRY(hx_shape_check(&s));
    *y = s;
    return HX_OK;
}

/* x, w and an optional bias */
hx_status hx__infer_conv(const hx_op_args *a, hx_op_meta *out) {
    const hx_shape *w = &a->in[1].shape;
    hx_shape y;
    HX_TRY(hx__need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_image(a, 0));
    HX_TRY(need_image(a, 1));
    HX_TRY(check_attr(a));
    HX_TRY(conv_shape(a, &a->in[0].shape, w, &y));
    if (a->in[2].present) HX_TRY(hx__need_shape(a, 2, &(hx_shape){1, {w->dims[0]}}));
    hx__set_out(&out[0], y, a->in[0].dtype);
    return HX_OK;
}

/* [B,C,L..] or [O,C/groups,K..] */
static hx_status image_shape(const hx_op_args *a, int64_t first, int64_t second, const int64_t *sizes, hx_shape *out) {
    hx_shape s = {.ndim = a->attr->conv.n + 2, .dims = {first, second}};
    for (int d = 0; d < a->attr->conv.n; d++) s.dims[d + 2] = sizes[d];
    HX_TRY(hx_shape_check(&s));
    *out = s;
    return HX_OK;
}

/* w, dy */
hx_status hx__infer_conv_bwd_x(const hx_op_args *a, hx_op_meta *out) {
    const hx_shape *w = &a->in[0].shape;
    int64_t n_channels;
    hx_shape x, y;
    HX_TRY(hx__need_same_float(a, 0, 1));
    HX_TRY(need_image(a, 0));
    HX_TRY(need_image(a, 1));
    HX_TRY(check_attr(a));
    if (__builtin_mul_overflow(w->dims[1], a->attr->conv.groups, &n_channels))
        return HX_FAIL(HX_ERR_OVERFLOW, "%s: %lld groups of %lld channels", a->name, (long long)a->attr->conv.groups, (long long)w->dims[1]);
    HX_TRY(image_shape(a, a->in[1].shape.dims[0], n_channels, a->attr->conv.input, &x));
    HX_TRY(conv_shape(a, &x, w, &y));
    HX_TRY(hx__need_shape(a, 1, &y));
    hx__set_out(&out[0], x, a->in[0].dtype);
    return HX_OK;
}

/* x, dy */
hx_status hx__infer_conv_bwd_w(const hx_op_args *a, hx_op_meta *out) {
    const hx_shape *x = &a->in[0].shape;
    hx_shape w, y;
    HX_TRY(hx__need_same_float(a, 0, 1));
    HX_TRY(need_image(a, 0));
    HX_TRY(need_image(a, 1));
    HX_TRY(check_attr(a));
    HX_TRY(image_shape(a, a->in[1].shape.dims[1], x->dims[1] / a->attr->conv.groups, a->attr->conv.size, &w));
    HX_TRY(conv_shape(a, x, &w, &y));
    HX_TRY(hx__need_shape(a, 1, &y));
    hx__set_out(&out[0], w, a->in[0].dtype);
    return HX_OK;
}

/* ---- pools ---- */

/* What a pool makes of x. Padding of at most half the window leaves no window without an element, unless it is
 * dilated. */
static hx_status pool_shape(const hx_op_args *a, const hx_shape *x, hx_shape *out) {
    bool is_max = a->op == HX_OP_max_pool || a->op == HX_OP_max_pool_bwd;
    hx_shape y = *x;
    HX_TRY(check_attr(a));
    if (a->attr->conv.groups != 1) return HX_FAIL(HX_ERR_ARG, "%s: %lld groups: a pool has 1", a->name, (long long)a->attr->conv.groups);
    for (int d = 0; d < a->attr->conv.n; d++) {
        int64_t size = a->attr->conv.size[d], padding = a->attr->conv.padding[d], dilation = a->attr->conv.dilation[d];
        if (!is_max && dilation != 1)
            return HX_FAIL(HX_ERR_ARG, "%s: spatial dim %d: dilation %lld: expected 1", a->name, d, (long long)dilation);
        if (x->dims[d + 2] < 1) return HX_FAIL(HX_ERR_SHAPE, "%s: spatial dim %d is empty: there is nothing to pool", a->name, d);
        HX_TRY(count_places(a, d, x->dims[d + 2], size, &y.dims[d + 2]));
        if (padding > size / 2)
            return HX_FAIL(HX_ERR_ARG, "%s: spatial dim %d: padding %lld: expected at most half of the window of %lld", a->name, d,
                           (long long)padding, (long long)size);
    }
    HX_TRY(hx_shape_check(&y));
    *out = y;
    return HX_OK;
}

hx_status hx__infer_pool(const hx_op_args *a, hx_op_meta *out) {
    hx_shape y;
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(need_image(a, 0));
    HX_TRY(pool_shape(a, &a->in[0].shape, &y));
    hx__set_out(&out[0], y, a->in[0].dtype);
    if (a->op == HX_OP_max_pool) hx__set_out(&out[1], y, HX_I64);
    return HX_OK;
}

/* dy is operand i: x's shape from the attributes, and dy's must be what the pool makes of it */
static hx_status pool_bwd(const hx_op_args *a, int i, hx_op_meta *out) {
    hx_shape x, y;
    HX_TRY(hx__need_float(a, i));
    HX_TRY(need_image(a, i));
    HX_TRY(image_shape(a, a->in[i].shape.dims[0], a->in[i].shape.dims[1], a->attr->conv.input, &x));
    HX_TRY(pool_shape(a, &x, &y));
    for (int k = 0; k <= i; k++) HX_TRY(hx__need_shape(a, k, &y));
    hx__set_out(&out[0], x, a->in[i].dtype);
    return HX_OK;
}

/* index, dy */
hx_status hx__infer_max_pool_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_ids(a, 0));
    return pool_bwd(a, 1, out);
}

hx_status hx__infer_avg_pool_bwd(const hx_op_args *a, hx_op_meta *out) {
    return pool_bwd(a, 0, out);
}

/* ---- typed functions ---- */

/* Attributes for x; the shape rule checks them. */
static hx_op_attr attr_of(const hx_tensor *x, const hx_conv_config *config, const int64_t *window) {
    hx_op_attr attr = {.conv = {.n = hx_tensor_shape(x).ndim - 2, .groups = config->groups ? config->groups : 1}};
    for (int d = 0; d < 3; d++) {
        bool is_used = d < attr.conv.n;
        attr.conv.size[d] = is_used && window ? window[d] : 0;
        attr.conv.stride[d] = config->stride[d] ? config->stride[d] : attr.conv.size[d] ? attr.conv.size[d] : 1;
        attr.conv.padding[d] = config->padding[d];
        attr.conv.dilation[d] = config->dilation[d] ? config->dilation[d] : 1;
    }
    return attr;
}

hx_status hx_conv(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, const hx_conv_config *config, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_op_attr attr = attr_of(x, config, NULL);
    return hx__run_keep(ctx, HX_OP_conv, (hx_tensor *[]){x, w, bias}, bias ? 3 : 2, &attr, out, 1);
}

hx_status hx_max_pool(hx_ctx *ctx, hx_tensor *x, const int64_t *window, const hx_conv_config *config, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_op_attr attr = attr_of(x, config, window);
    hx_tensor *y[2] = {NULL};
    const unsigned no_index = 2;
    HX_TRY(hx_op_run(ctx, HX_OP_max_pool, &x, 1, &attr, hx__tape_wants(ctx, &x, 1) ? 0 : no_index, y));
    *out = y[0];
    hx_tensor_destroy(&y[1]);
    return HX_OK;
}

hx_status hx_avg_pool(hx_ctx *ctx, hx_tensor *x, const int64_t *window, const hx_conv_config *config, bool count_padding, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_op_attr attr = attr_of(x, config, window);
    attr.conv.count_padding = count_padding;
    return hx__run1(ctx, HX_OP_avg_pool, x, &attr, out);
}

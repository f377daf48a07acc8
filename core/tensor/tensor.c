#include "core/tensor/tensor.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/op/op.h"
#include "core/tensor/tensor_impl.h"

/* ---- life ---- */

hx_status hx_tensor_create_in(hx_device *device, hx_pool_kind kind, hx_dtype dtype, hx_shape shape, hx_tensor **out) {
    if (hx_dtype_bytes(dtype) == 0) return HX_FAIL(HX_ERR_DTYPE, "dtype %d: unknown", (int)dtype);
    if ((unsigned)kind >= HX_POOL_COUNT) return HX_FAIL(HX_ERR_ARG, "pool %d: unknown", (int)kind);
    HX_TRY(hx_shape_check(&shape));
    size_t n_bytes;
    HX_TRY(hx_mem_mul((size_t)hx_shape_count(&shape), hx_dtype_bytes(dtype), &n_bytes));
    hx__storage *storage;
    hx_tensor *t;
    HX_TRY(hx__device_take_storage(device, &storage));
    hx_status status = hx__device_take_tensor(device, &t);
    if (status != HX_OK) {
        hx__device_give_storage(device, storage);
        return status;
    }
    status = hx_device_alloc(device, kind, n_bytes, &storage->data);
    if (status != HX_OK) {
        hx__device_give_tensor(device, t);
        hx__device_give_storage(device, storage);
        return status;
    }
    storage->device = device;
    storage->kind = kind;
    storage->n_bytes = n_bytes;
    storage->refs = 1;
    t->storage = storage;
    t->device = device;
    t->refs = 1;
    t->array = (hx_array){.data = storage->data, .dtype = dtype, .ndim = shape.ndim};
    memcpy(t->array.dims, shape.dims, sizeof shape.dims);
    hx_shape_strides(&shape, t->array.strides);
    *out = t;
    return HX_OK;
}

hx_status hx_tensor_create(hx_device *device, hx_dtype dtype, hx_shape shape, hx_tensor **out) {
    return hx_tensor_create_in(device, HX_POOL_GENERAL, dtype, shape, out);
}

void hx_tensor_destroy(hx_tensor **tensor) {
    hx_tensor *t = *tensor;
    *tensor = NULL;
    if (t == NULL || --t->refs > 0) return;
    hx__storage *s = t->storage;
    hx_tensor_destroy(&t->grad);
    if (--s->refs == 0) {
        hx_device_free(s->device, s->kind, s->data, s->n_bytes);
        hx__device_give_storage(s->device, s);
    }
    hx__device_give_tensor(t->device, t);
}

hx_tensor *hx_tensor_retain(hx_tensor *tensor) {
    tensor->refs++;
    return tensor;
}

hx_status hx__tensor_alias(hx_tensor *x, hx_tensor **out) {
    hx_tensor *t;
    HX_TRY(hx__device_take_tensor(x->device, &t));
    t->storage = x->storage;
    t->storage->refs++;
    t->device = x->device;
    t->array = x->array;
    t->refs = 1;
    *out = t;
    return HX_OK;
}

/* ---- what it is ---- */

hx_dtype hx_tensor_dtype(const hx_tensor *tensor) {
    return tensor->array.dtype;
}

hx_shape hx_tensor_shape(const hx_tensor *tensor) {
    return hx_array_shape(&tensor->array);
}

int hx_tensor_ndim(const hx_tensor *tensor) {
    return tensor->array.ndim;
}

int64_t hx_tensor_dim(const hx_tensor *tensor, int dim) {
    int ndim = tensor->array.ndim;
    if (dim < -ndim || dim >= ndim) return -1;
    return tensor->array.dims[dim < 0 ? dim + ndim : dim];
}

int64_t hx_tensor_count(const hx_tensor *tensor) {
    return hx_array_count(&tensor->array);
}

size_t hx_tensor_bytes(const hx_tensor *tensor) {
    return (size_t)hx_array_count(&tensor->array) * hx_dtype_bytes(tensor->array.dtype);
}

hx_device *hx_tensor_device(const hx_tensor *tensor) {
    return tensor->device;
}

bool hx_tensor_is_contiguous(const hx_tensor *tensor) {
    return hx_array_is_contiguous(&tensor->array);
}

hx_array hx_tensor_array(const hx_tensor *tensor) {
    return tensor->array;
}

void *hx_tensor_data(const hx_tensor *tensor) {
    return tensor->array.data;
}

bool hx_tensor_shares(const hx_tensor *a, const hx_tensor *b) {
    return a->storage == b->storage;
}

/* ---- views ---- */

static void *element(const hx_array *a, int64_t offset) {
    return (char *)a->data + offset * (int64_t)hx_dtype_bytes(a->dtype);
}

hx_status hx__tensor_view_shape(const hx_tensor *x, hx_shape *shape) {
    char from[HX_SHAPE_TEXT], to[HX_SHAPE_TEXT];
    hx_shape old = hx_array_shape(&x->array);
    int64_t count = hx_shape_count(&old), known = 1;
    int open = -1;
    if (shape->ndim < 0 || shape->ndim > HX_MAX_DIMS)
        return HX_FAIL(HX_ERR_SHAPE, "%d dims: expected 0 to %d", shape->ndim, HX_MAX_DIMS);
    for (int d = 0; d < shape->ndim; d++) {
        if (shape->dims[d] == -1 && open < 0) open = d;
        else if (shape->dims[d] < 0) return HX_FAIL(HX_ERR_SHAPE, "shape %s: at most one dim may be -1, none below", hx_shape_text(shape, to));
        else if (__builtin_mul_overflow(known, shape->dims[d], &known)) known = -1;
    }
    if (open >= 0 && known > 0 && count % known == 0) shape->dims[open] = count / known;
    bool is_open = open >= 0 && shape->dims[open] < 0;
    if (!is_open) HX_TRY(hx_shape_check(shape)); /* before it is counted */
    if (is_open || hx_shape_count(shape) != count)
        return HX_FAIL(HX_ERR_SHAPE, "%s as %s: element counts differ", hx_shape_text(&old, from), hx_shape_text(shape, to));
    return HX_OK;
}

/* The old dims fall into groups, from the last on, within which elements are evenly spaced; each group must be taken up
 * by new dims of the same count. */
bool hx__tensor_view_strides(const hx_tensor *x, const hx_shape *shape, int64_t strides[HX_MAX_DIMS]) {
    const hx_array *old = &x->array;
    int next = shape->ndim - 1; /* new dim whose stride comes next */
    hx_shape_strides(shape, strides);
    if (hx_array_is_contiguous(old)) return true;
    int64_t in_old = 1, in_new = 1; /* elements of the group so far */
    for (int d = old->ndim - 1, last = d; d >= 0; d--) {
        in_old *= old->dims[d];
        bool goes_on = d > 0 && (old->dims[d - 1] == 1 || old->strides[d - 1] == in_old * old->strides[last]);
        if (goes_on) continue;
        for (; next >= 0 && (in_new < in_old || shape->dims[next] == 1); next--) {
            strides[next] = in_new * old->strides[last];
            in_new *= shape->dims[next];
        }
        if (in_new != in_old) return false;
        last = d - 1;
        in_old = in_new = 1;
    }
    return true;
}

hx_status hx_tensor_view(hx_tensor *x, hx_shape shape, hx_tensor **out) {
    int64_t strides[HX_MAX_DIMS];
    HX_TRY(hx__tensor_view_shape(x, &shape));
    if (!hx__tensor_view_strides(x, &shape, strides)) {
        char from[HX_SHAPE_TEXT], to[HX_SHAPE_TEXT];
        hx_shape old = hx_array_shape(&x->array);
        return HX_FAIL(HX_ERR_SHAPE, "x %s as %s: its strides do not allow a view (hx_reshape copies when needed)",
                       hx_shape_text(&old, from), hx_shape_text(&shape, to));
    }
    HX_TRY(hx__tensor_alias(x, out));
    hx_array *a = &(*out)->array;
    a->ndim = shape.ndim;
    memcpy(a->dims, shape.dims, sizeof shape.dims);
    memcpy(a->strides, strides, sizeof strides);
    return HX_OK;
}

hx_status hx_tensor_slice(hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out) {
    int d;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    if (start < 0 || stop < start || stop > x->array.dims[d] || step < 1)
        return HX_FAIL(HX_ERR_SHAPE, "slice %lld:%lld:%lld of dim %d with %lld: expected 0 <= start <= stop <= size, step >= 1",
                       (long long)start, (long long)stop, (long long)step, d, (long long)x->array.dims[d]);
    HX_TRY(hx__tensor_alias(x, out));
    hx_array *a = &(*out)->array;
    int64_t n = (stop - start) / step + ((stop - start) % step != 0);
    if (n > 0) a->data = element(a, start * a->strides[d]);
    a->dims[d] = n;
    /* a single index needs no stride, and a huge step must not overflow one */
    if (n > 1) a->strides[d] *= step;
    return HX_OK;
}

hx_status hx_tensor_permute(hx_tensor *x, const int *perm, hx_tensor **out) {
    unsigned seen = 0;
    int ndim = x->array.ndim;
    for (int d = 0; d < ndim; d++) {
        if (perm[d] < 0 || perm[d] >= ndim || seen >> perm[d] & 1)
            return HX_FAIL(HX_ERR_SHAPE, "perm[%d] = %d: expected each of 0..%d once", d, perm[d], ndim - 1);
        seen |= 1u << perm[d];
    }
    HX_TRY(hx__tensor_alias(x, out));
    for (int d = 0; d < ndim; d++) {
        (*out)->array.dims[d] = x->array.dims[perm[d]];
        (*out)->array.strides[d] = x->array.strides[perm[d]];
    }
    return HX_OK;
}

hx_status hx_tensor_transpose(hx_tensor *x, int dim0, int dim1, hx_tensor **out) {
    int a, b, perm[HX_MAX_DIMS];
    HX_TRY(hx_shape_dim(x->array.ndim, dim0, &a));
    HX_TRY(hx_shape_dim(x->array.ndim, dim1, &b));
    for (int d = 0; d < x->array.ndim; d++) perm[d] = d == a ? b : d == b ? a : d;
    return hx_tensor_permute(x, perm, out);
}

hx_status hx_tensor_expand(hx_tensor *x, hx_shape shape, hx_tensor **out) {
    hx_shape old = hx_array_shape(&x->array), both;
    HX_TRY(hx_shape_check(&shape));
    HX_TRY(hx_shape_broadcast(&old, &shape, &both));
    if (!hx_shape_equal(&both, &shape)) {
        char from[HX_SHAPE_TEXT], to[HX_SHAPE_TEXT];
        return HX_FAIL(HX_ERR_SHAPE, "%s to %s: only dims of size 1 can be repeated", hx_shape_text(&old, from), hx_shape_text(&shape, to));
    }
    HX_TRY(hx__tensor_alias(x, out));
    hx_array *a = &(*out)->array;
    int lead = shape.ndim - old.ndim;
    for (int d = 0; d < shape.ndim; d++) {
        bool repeats = d < lead || old.dims[d - lead] != shape.dims[d];
        a->dims[d] = shape.dims[d];
        a->strides[d] = repeats ? 0 : x->array.strides[d - lead];
    }
    a->ndim = shape.ndim;
    return HX_OK;
}

hx_status hx_tensor_window(hx_tensor *x, int64_t offset, hx_shape shape, hx_tensor **out) {
    HX_TRY(hx_shape_check(&shape));
    int64_t n = hx_shape_count(&shape), total = hx_tensor_count(x);
    if (!hx_array_is_contiguous(&x->array) || offset < 0 || offset > total || n > total - offset)
        return HX_FAIL(HX_ERR_SHAPE, "%lld elements from %lld on: expected a range within %lld contiguous elements", (long long)n,
                       (long long)offset, (long long)total);
    HX_TRY(hx__tensor_alias(x, out));
    hx_array *a = &(*out)->array;
    a->data = element(a, offset);
    a->ndim = shape.ndim;
    memcpy(a->dims, shape.dims, sizeof shape.dims);
    hx_shape_strides(&shape, a->strides);
    return HX_OK;
}

/* ---- contents ---- */

static hx_status need_contiguous(const hx_tensor *x) {
    if (hx_array_is_contiguous(&x->array)) return HX_OK;
    char text[HX_SHAPE_TEXT];
    hx_shape s = hx_array_shape(&x->array);
    return HX_FAIL(HX_ERR_SHAPE, "x %s is strided: expected a contiguous tensor", hx_shape_text(&s, text));
}

hx_status hx_tensor_write_async(hx_stream *stream, hx_tensor *x, const void *data) {
    HX_TRY(need_contiguous(x));
    x->storage->version++;
    return hx_stream_copy(stream, x->array.data, data, hx_tensor_bytes(x), HX_COPY_TO_DEVICE);
}

hx_status hx_tensor_write(hx_stream *stream, hx_tensor *x, const void *data) {
    HX_TRY(hx_tensor_write_async(stream, x, data));
    return hx_stream_sync(stream);
}

static hx_status refuse_dry(const hx_tensor *x) {
    hx_device_props props;
    hx_device_props_get(x->device, &props);
    if (props.is_dry) return HX_FAIL(HX_ERR_UNSUPPORTED, "device %s computes nothing: there is no value to read", hx_device_name(x->device));
    return HX_OK;
}

hx_status hx_tensor_read(hx_stream *stream, const hx_tensor *x, void *data) {
    HX_TRY(refuse_dry(x));
    if (!hx_array_is_contiguous(&x->array)) {
        HX_AUTO_TENSOR dense = NULL;
        HX_TRY(hx_tensor_create(x->device, x->array.dtype, hx_array_shape(&x->array), &dense));
        hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .attr.copy.dtype = x->array.dtype};
        call.in[0] = x->array;
        call.out[0] = dense->array;
        HX_TRY(hx_stream_exec(stream, &call));
        return hx_tensor_read(stream, dense, data);
    }
    HX_TRY(hx_stream_copy(stream, data, x->array.data, hx_tensor_bytes(x), HX_COPY_TO_HOST));
    return hx_stream_sync(stream);
}

/* Integers must hold the value: a fill that saturates would hide a mistake. */
static hx_status check_fits(hx_dtype dtype, double value) {
    static const double low[HX_DTYPE_COUNT] = {[HX_I32] = INT32_MIN, [HX_I64] = -0x1p63, [HX_I8] = INT8_MIN};
    static const double high[HX_DTYPE_COUNT] = {[HX_I32] = INT32_MAX, [HX_I64] = 0x1p63 - 1024, [HX_I8] = INT8_MAX, [HX_U8] = UINT8_MAX};
    if (!hx_dtype_is_int(dtype) || (value >= low[dtype] && value <= high[dtype])) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "value %g does not fit into %s", value, hx_dtype_name(dtype));
}

hx_status hx_tensor_fill(hx_stream *stream, hx_tensor *x, double value) {
    hx_dtype dtype = x->array.dtype;
    double pattern[2] = {0}; /* room for any dtype */
    HX_TRY(need_contiguous(x));
    HX_TRY(check_fits(dtype, value));
    hx_elem_set(dtype, pattern, 0, value);
    x->storage->version++;
    return hx_stream_fill(stream, x->array.data, pattern, hx_dtype_bytes(dtype), hx_tensor_count(x));
}

hx_status hx_tensor_item(hx_stream *stream, const hx_tensor *x, double *out) {
    double value[2];
    if (hx_tensor_count(x) != 1) {
        char text[HX_SHAPE_TEXT];
        hx_shape s = hx_array_shape(&x->array);
        return HX_FAIL(HX_ERR_SHAPE, "x %s: expected one element", hx_shape_text(&s, text));
    }
    HX_TRY(hx_tensor_read(stream, x, value));
    *out = hx_elem_get(x->array.dtype, value, 0);
    return HX_OK;
}

/* ---- for the tape ---- */

void hx_tensor_set_requires_grad(hx_tensor *tensor, bool on) {
    tensor->requires_grad = on;
}

bool hx_tensor_requires_grad(const hx_tensor *tensor) {
    return tensor->requires_grad;
}

hx_tensor *hx_tensor_grad(const hx_tensor *tensor) {
    return tensor->grad;
}

hx_status hx_tensor_set_grad(hx_tensor *tensor, hx_tensor *grad) {
    if (grad != NULL && grad->device != tensor->device)
        return HX_FAIL(HX_ERR_DEVICE, "gradient on device %s for a tensor on %s", hx_device_name(grad->device), hx_device_name(tensor->device));
    if (grad != NULL) {
        hx_shape s = hx_array_shape(&tensor->array), g = hx_array_shape(&grad->array);
        char ts[HX_SHAPE_TEXT], tg[HX_SHAPE_TEXT];
        if (!hx_shape_equal(&s, &g) || grad->array.dtype != hx_dtype_accum(tensor->array.dtype) || !hx_array_is_contiguous(&grad->array))
            return HX_FAIL(HX_ERR_SHAPE, "gradient %s %s for a tensor %s %s: expected %s of that shape, contiguous", hx_dtype_name(grad->array.dtype),
                           hx_shape_text(&g, tg), hx_dtype_name(tensor->array.dtype), hx_shape_text(&s, ts),
                           hx_dtype_name(hx_dtype_accum(tensor->array.dtype)));
        hx_tensor_retain(grad);
    }
    hx_tensor_destroy(&tensor->grad);
    tensor->grad = grad;
    tensor->grad_is_set = false;
    return HX_OK;
}

void hx_tensor_grad_reset(hx_tensor *tensor) {
    tensor->grad_is_set = false;
}

bool hx_tensor_grad_is_set(const hx_tensor *tensor) {
    return tensor->grad_is_set;
}

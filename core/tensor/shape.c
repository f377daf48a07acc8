#include "core/tensor/shape.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

hx_status hx_shape_check(const hx_shape *shape) {
    if (shape->ndim < 0 || shape->ndim > HX_MAX_DIMS)
        return HX_FAIL(HX_ERR_SHAPE, "%d dims: expected 0 to %d", shape->ndim, HX_MAX_DIMS);
    int64_t count = 1;
    char text[HX_SHAPE_TEXT];
    for (int d = 0; d < shape->ndim; d++)
        if (shape->dims[d] < 0)
            return HX_FAIL(HX_ERR_SHAPE, "shape %s: dim %d is negative", hx_shape_text(shape, text), d);
    /* A zero further on must not hide an overflow before it: strides are products of all dims. */
    for (int d = 0; d < shape->ndim; d++) {
        int64_t size = shape->dims[d] > 0 ? shape->dims[d] : 1;
        if (__builtin_mul_overflow(count, size, &count) || count > INT64_MAX / 16)
            return HX_FAIL(HX_ERR_OVERFLOW, "shape %s: its element count does not fit into 60 bits",
                           hx_shape_text(shape, text));
    }
    return HX_OK;
}

int64_t hx_shape_count(const hx_shape *shape) {
    int64_t count = 1;
    for (int d = 0; d < shape->ndim; d++) count *= shape->dims[d];
    return count;
}

bool hx_shape_equal(const hx_shape *a, const hx_shape *b) {
    if (a->ndim != b->ndim) return false;
    for (int d = 0; d < a->ndim; d++)
        if (a->dims[d] != b->dims[d]) return false;
    return true;
}

hx_status hx_shape_broadcast(const hx_shape *a, const hx_shape *b, hx_shape *out) {
    hx_shape s = {.ndim = a->ndim > b->ndim ? a->ndim : b->ndim};
    for (int d = s.ndim - 1, i = a->ndim - 1, j = b->ndim - 1; d >= 0; d--, i--, j--) {
        int64_t x = i >= 0 ? a->dims[i] : 1, y = j >= 0 ? b->dims[j] : 1;
        if (x != y && x != 1 && y != 1) {
            char ta[HX_SHAPE_TEXT], tb[HX_SHAPE_TEXT];
            return HX_FAIL(HX_ERR_SHAPE, "%s with %s: %lld and %lld at dim %d do not broadcast", hx_shape_text(a, ta),
                           hx_shape_text(b, tb), (long long)x, (long long)y, d);
        }
        s.dims[d] = x == 1 ? y : x;
    }
    HX_TRY(hx_shape_check(&s));
    *out = s;
    return HX_OK;
}

void hx_shape_strides(const hx_shape *shape, int64_t strides[HX_MAX_DIMS]) {
    int64_t step = 1;
    for (int d = shape->ndim - 1; d >= 0; d--) {
        strides[d] = step;
        step *= shape->dims[d] > 0 ? shape->dims[d] : 1;
    }
}

const char *hx_shape_text(const hx_shape *shape, char buffer[HX_SHAPE_TEXT]) {
    size_t used = 0;
    buffer[used++] = '[';
    int ndim = shape->ndim < 0 ? 0 : shape->ndim > HX_MAX_DIMS ? HX_MAX_DIMS : shape->ndim;
    for (int d = 0; d < ndim; d++) {
        int n = snprintf(buffer + used, HX_SHAPE_TEXT - used, d ? ",%lld" : "%lld", (long long)shape->dims[d]);
        used += (size_t)n;
    }
    memcpy(buffer + used, "]", 2);
    return buffer;
}

hx_status hx_shape_dim(int ndim, int dim, int *out) {
    if (dim < -ndim || dim >= ndim)
        return HX_FAIL(HX_ERR_SHAPE, "dim %d: expected %d to %d", dim, -ndim, ndim - 1);
    *out = dim < 0 ? dim + ndim : dim;
    return HX_OK;
}

int64_t hx_array_count(const hx_array *a) {
    int64_t count = 1;
    for (int d = 0; d < a->ndim; d++) count *= a->dims[d];
    return count;
}

bool hx_array_is_contiguous(const hx_array *a) {
    int64_t step = 1;
    for (int d = a->ndim - 1; d >= 0; d--) {
        if (a->dims[d] == 0) return true;
        if (a->dims[d] != 1 && a->strides[d] != step) return false;
        step *= a->dims[d];
    }
    return true;
}

hx_shape hx_array_shape(const hx_array *a) {
    hx_shape s = {.ndim = a->ndim};
    memcpy(s.dims, a->dims, sizeof s.dims);
    return s;
}

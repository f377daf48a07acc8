#include "backends/ref/ref_impl.h"

#include <math.h>

double hx__ref_get(const hx_array *a, int64_t at) {
    switch (a->dtype) {
#define HX_REF_GET_(name, text, type, is_float)                                                              \
    case HX_##name:                                                                                          \
        return (double)((const type *)a->data)[at];
        HX_DTYPE_LIST(HX_REF_GET_)
#undef HX_REF_GET_
    case HX_DTYPE_COUNT:
        break;
    }
    return NAN;
}

int64_t hx__ref_get_int(const hx_array *a, int64_t at) {
    switch (a->dtype) {
    case HX_I32:
        return ((const int32_t *)a->data)[at];
    case HX_I64:
        return ((const int64_t *)a->data)[at];
    case HX_U8:
        return ((const uint8_t *)a->data)[at];
    default:
        return (int64_t)hx__ref_get(a, at);
    }
}

/* A plain cast of a value outside the integer's range is undefined. 2^63 is the least double above INT64_MAX.
 */
static int64_t saturate(double value) {
    if (isnan(value)) return 0;
    if (value >= 0x1p63) return INT64_MAX;
    if (value < -0x1p63) return INT64_MIN;
    return (int64_t)value;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

void hx__ref_set_int(const hx_array *a, int64_t at, int64_t value) {
    if (!hx__ref_has(a)) return;
    switch (a->dtype) {
    case HX_F32:
        ((float *)a->data)[at] = (float)value;
        break;
    case HX_F64:
        ((double *)a->data)[at] = (double)value;
        break;
    case HX_I32:
        ((int32_t *)a->data)[at] = (int32_t)clamp(value, INT32_MIN, INT32_MAX);
        break;
    case HX_I64:
        ((int64_t *)a->data)[at] = value;
        break;
    case HX_U8:
        ((uint8_t *)a->data)[at] = (uint8_t)clamp(value, 0, UINT8_MAX);
        break;
    case HX_DTYPE_COUNT:
        break;
    }
}

void hx__ref_set(const hx_array *a, int64_t at, double value) {
    if (!hx__ref_has(a)) return;
    if (a->dtype == HX_F32)
        ((float *)a->data)[at] = (float)value;
    else if (a->dtype == HX_F64)
        ((double *)a->data)[at] = value;
    else
        hx__ref_set_int(a, at, saturate(value));
}

void hx__ref_put(const hx_array *a, int64_t at, double value, bool accumulate) {
    if (!hx__ref_has(a)) return;
    hx__ref_set(a, at, accumulate ? hx__ref_get(a, at) + value : value);
}

/* Broadcasting is right-aligned: dims that an operand lacks, or has with size 1, repeat with stride 0. */
static void walk_add(hx__ref_walk *walk, const hx_array *a) {
    int64_t *strides = walk->strides[walk->n_arrays++];
    for (int d = 0; d < walk->ndim; d++) {
        int own = d + a->ndim - walk->ndim;
        strides[d] = own >= 0 && a->ndim > 0 && a->dims[own] != 1 ? a->strides[own] : 0;
    }
}

hx__ref_walk hx__ref_walk_start(int n_arrays, const hx_array *const *arrays) {
    const hx_array *shape = arrays[0];
    hx__ref_walk walk = {.ndim = shape->ndim > 0 ? shape->ndim : 0};
    for (int d = 0; d < walk.ndim; d++) {
        walk.dims[d] = shape->dims[d];
        walk.is_done |= shape->dims[d] == 0;
    }
    for (int i = 0; i < n_arrays; i++) walk_add(&walk, arrays[i]);
    return walk;
}

void hx__ref_walk_next(hx__ref_walk *walk) {
    walk->index++;
    for (int d = walk->ndim - 1; d >= 0; d--) {
        bool carries = ++walk->at_dim[d] == walk->dims[d];
        for (int i = 0; i < walk->n_arrays; i++)
            walk->at[i] += carries ? -walk->strides[i][d] * (walk->dims[d] - 1) : walk->strides[i][d];
        if (!carries) return;
        walk->at_dim[d] = 0;
    }
    walk->is_done = true;
}

/* Shapes, strides and array views: plain values, copied freely.
 *
 *     hx_shape s = HX_SHAPE(2, 3, 4);
 *     HX_TRY(hx_shape_broadcast(&a, &b, &s));
 */
#ifndef HX_CORE_TENSOR_SHAPE_H
#define HX_CORE_TENSOR_SHAPE_H

#include "core/tensor/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_MAX_DIMS 8

typedef struct hx_shape {
    int ndim; /* 0 is a scalar */
    int64_t dims[HX_MAX_DIMS];
} hx_shape;

/* An array in a device's memory: what kernels see. Strides count elements; 0 repeats (broadcast). */
typedef struct hx_array {
    void *data; /* the first element; NULL only for an absent optional operand */
    hx_dtype dtype;
    int ndim;
    int64_t dims[HX_MAX_DIMS];
    int64_t strides[HX_MAX_DIMS];
} hx_array;

#define HX_SHAPE(...)                                                                                        \
    ((hx_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define HX_SCALAR ((hx_shape){0, {0}})

#define HX_SHAPE_TEXT 192 /* bytes that any shape's text fits into */

/** Check ndim, dims >= 0, and that the element count fits. @return HX_ERR_SHAPE, HX_ERR_OVERFLOW */
hx_status hx_shape_check(const hx_shape *shape);
/** Number of elements, 1 for a scalar. The shape must have been checked. */
int64_t hx_shape_count(const hx_shape *shape);
bool hx_shape_equal(const hx_shape *a, const hx_shape *b);
/** Right-aligned broadcasting of NumPy. @return HX_ERR_SHAPE names both shapes and the dim */
hx_status hx_shape_broadcast(const hx_shape *a, const hx_shape *b, hx_shape *out);
/** Row-major strides in elements. */
void hx_shape_strides(const hx_shape *shape, int64_t strides[HX_MAX_DIMS]);
/** "[2,3,4]"; returns buffer. */
const char *hx_shape_text(const hx_shape *shape, char buffer[HX_SHAPE_TEXT]);
/** Map a dim given as -ndim..ndim-1 to 0..ndim-1. @return HX_ERR_SHAPE */
hx_status hx_shape_dim(int ndim, int dim, int *out);

/** Elements of an array. */
int64_t hx_array_count(const hx_array *a);
/** True if the elements lie row-major without gaps. */
bool hx_array_is_contiguous(const hx_array *a);
hx_shape hx_array_shape(const hx_array *a);

#ifdef __cplusplus
}
#endif
#endif

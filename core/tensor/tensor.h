/* Tensors: typed n-d arrays on a device. A tensor is a reference-counted handle on (part of) a storage; views
 * share the storage. The functions here do not take part in differentiation: layers use those of core/op/ops.h.
 *
 *     HX_AUTO_TENSOR x = NULL;                                   // destroyed when it leaves scope
 *     HX_TRY(hx_tensor_create(dev, HX_F32, HX_SHAPE(2, 3), &x));
 *     HX_TRY(hx_tensor_write(stream, x, (float[]){1, 2, 3, 4, 5, 6}));
 *     *out = hx_tensor_move(&x);                                 // hands x on
 */
#ifndef HX_CORE_TENSOR_TENSOR_H
#define HX_CORE_TENSOR_TENSOR_H

#include "core/tensor/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_tensor hx_tensor;

/** Uninitialised, row-major. @return HX_ERR_SHAPE, HX_ERR_OVERFLOW, HX_ERR_MEMORY */
hx_status hx_tensor_create(hx_device *device, hx_dtype dtype, hx_shape shape, hx_tensor **out);
/** As create, from a pool other than the general one. */
hx_status hx_tensor_create_in(hx_device *device, hx_pool_kind kind, hx_dtype dtype, hx_shape shape, hx_tensor **out);
/** Drop this handle; the storage goes with its last handle. Accepts a pointer to NULL, and nulls it. */
void hx_tensor_destroy(hx_tensor **tensor);
/** Another handle on the same tensor: the same object with one more owner. */
hx_tensor *hx_tensor_retain(hx_tensor *tensor);
/** Take the handle out of a variable, which becomes NULL. */
static inline hx_tensor *hx_tensor_move(hx_tensor **tensor) {
    hx_tensor *t = *tensor;
    *tensor = NULL;
    return t;
}
/** A variable that owns its tensor and destroys it at the end of its scope. Initialise it. */
#define HX_AUTO_TENSOR HX_CLEANUP(hx_tensor_destroy) hx_tensor *

hx_dtype hx_tensor_dtype(const hx_tensor *tensor);
hx_shape hx_tensor_shape(const hx_tensor *tensor);
int hx_tensor_ndim(const hx_tensor *tensor);
/** Size of a dim, negative dims count from the end; -1 if out of range. */
int64_t hx_tensor_dim(const hx_tensor *tensor, int dim);
int64_t hx_tensor_count(const hx_tensor *tensor);
size_t hx_tensor_bytes(const hx_tensor *tensor);
hx_device *hx_tensor_device(const hx_tensor *tensor);
bool hx_tensor_is_contiguous(const hx_tensor *tensor);
/** What kernels see. Borrowed memory. */
hx_array hx_tensor_array(const hx_tensor *tensor);
/** Pointer to the first element in the device's memory; the host may use it after a sync if the device's
 *  properties say is_host_memory. */
void *hx_tensor_data(const hx_tensor *tensor);
/** True if both are handles on the same storage. */
bool hx_tensor_shares(const hx_tensor *a, const hx_tensor *b);

/* Views: new handles on the same storage. Negative dims count from the end. */
/** Same elements under another shape; one dim may be -1. A strided x is fine as long as the dims that are merged or
 *  divided lie evenly. @return HX_ERR_SHAPE, also if x's strides do not allow it; HX_ERR_OVERFLOW */
hx_status hx_tensor_view(hx_tensor *x, hx_shape shape, hx_tensor **out);
/** Indices start, start+step, ... below stop of a dim. @return HX_ERR_SHAPE unless 0<=start<=stop<=size, step>0 */
hx_status hx_tensor_slice(hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out);
/** perm[i] is the dim of x that becomes dim i. */
hx_status hx_tensor_permute(hx_tensor *x, const int *perm, hx_tensor **out);
hx_status hx_tensor_transpose(hx_tensor *x, int dim0, int dim1, hx_tensor **out);
/** Repeat dims of size 1 (and leading dims) without copying. */
hx_status hx_tensor_expand(hx_tensor *x, hx_shape shape, hx_tensor **out);
/** n elements of the storage from element offset on, as a tensor of that shape. x must be contiguous. */
hx_status hx_tensor_window(hx_tensor *x, int64_t offset, hx_shape shape, hx_tensor **out);

/** Copy count*bytes from row-major host memory; x contiguous. Returns when `data` may be reused. */
hx_status hx_tensor_write(hx_stream *stream, hx_tensor *x, const void *data);
/** As write, but returns at once: `data` stays as it is until the stream has come past it. */
hx_status hx_tensor_write_async(hx_stream *stream, hx_tensor *x, const void *data);
/** Copy to row-major host memory, waiting for the stream; strided tensors are gathered. */
hx_status hx_tensor_read(hx_stream *stream, const hx_tensor *x, void *data);
/** Set every element (converted from double); x contiguous. */
hx_status hx_tensor_fill(hx_stream *stream, hx_tensor *x, double value);
/** The only element of a one-element tensor, waiting for the stream. */
hx_status hx_tensor_item(hx_stream *stream, const hx_tensor *x, double *out);
/** Text like NumPy's (bool true and false, complex 1+2j), shortened beyond 1000 elements. @return bytes that the whole text needs, as snprintf */
hx_status hx_tensor_print(hx_stream *stream, const hx_tensor *x, char *buffer, size_t n_bytes, size_t *n_needed);

/* ---- for the tape ---- */
/** Ask for gradients of a leaf. */
void hx_tensor_set_requires_grad(hx_tensor *tensor, bool on);
bool hx_tensor_requires_grad(const hx_tensor *tensor);
/** The gradient of a leaf, same shape, dtype hx_dtype_accum of the leaf's (f32 for bf16 and f16, so that sums over
 *  uses, micro-batches and ranks keep their bits); NULL before backward. Borrowed. */
hx_tensor *hx_tensor_grad(const hx_tensor *tensor);
/** Give the leaf a gradient buffer, e.g. a slice of a bucket (retained); NULL takes it away. Contiguous, same shape,
 *  dtype hx_dtype_accum of the leaf's: f32 for a half type. Its contents are overwritten by the first backward after
 *  hx_tensor_grad_reset. @return HX_ERR_SHAPE for any other buffer, HX_ERR_DEVICE for one elsewhere */
hx_status hx_tensor_set_grad(hx_tensor *tensor, hx_tensor *grad);
/** Next backward overwrites instead of adding: zeroing without a pass over memory. */
void hx_tensor_grad_reset(hx_tensor *tensor);
/** True if backward has written this leaf's gradient since the last reset. */
bool hx_tensor_grad_is_set(const hx_tensor *tensor);

#ifdef __cplusplus
}
#endif
#endif

/* Inside of a tensor; for core/tensor, core/op and core/autograd only. */
#ifndef HX_CORE_TENSOR_TENSOR_IMPL_H
#define HX_CORE_TENSOR_TENSOR_IMPL_H

#include "core/tensor/tensor.h"

typedef struct hx__storage {
    hx_device *device;
    void *data;
    size_t n_bytes;
    hx_pool_kind kind;
    int refs;
    int64_t version; /* counts in-place writes */
    struct hx__storage *next_free;
} hx__storage;

struct hx_tensor {
    hx__storage *storage;
    hx_device *device;
    hx_array array;
    int refs;
    bool requires_grad; /* leaf whose gradient is wanted */
    bool grad_is_set;
    int64_t tape_serial; /* recording for which `var` is valid; serials are unique on a device, 0 is none */
    int32_t var;         /* variable on the tape */
    hx_tensor *grad;     /* owned */
    hx_tensor *next_free;
};

/* A new handle on x's storage with x's array; the caller changes the array. */
hx_status hx__tensor_alias(hx_tensor *x, hx_tensor **out);
/* Check a shape for a view of x and fill in its -1. */
hx_status hx__tensor_view_shape(const hx_tensor *x, hx_shape *shape);
/* Strides of x's elements under a checked shape; false if there are none. */
bool hx__tensor_view_strides(const hx_tensor *x, const hx_shape *shape, int64_t strides[HX_MAX_DIMS]);
/* Slabs of handle records live in the device. */
hx_status hx__device_take_tensor(hx_device *device, hx_tensor **out);
void hx__device_give_tensor(hx_device *device, hx_tensor *tensor);
hx_status hx__device_take_storage(hx_device *device, hx__storage **out);
void hx__device_give_storage(hx_device *device, hx__storage *storage);
void hx__device_count_op(hx_device *device, double flops);
/* A number no other recording on this device has. */
int64_t hx__device_next_serial(hx_device *device);

#endif

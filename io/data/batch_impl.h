/* The tensors of a micro-batch that a source fills again and again: room for the largest, and views of the sizes that
 * occur, so that a training run makes none after its first steps. */
#ifndef HX_IO_DATA_BATCH_IMPL_H
#define HX_IO_DATA_BATCH_IMPL_H

#include "core/tensor/tensor.h"

#define HX__BATCH_SLOTS 2 /* the host fills one while the device copies from the other */
#define HX__BATCH_VIEWS 4 /* sizes that are kept: full, the rest of a share, and those of a last batch */

typedef struct hx__batch_tensor {
    hx_tensor *whole; /* [n_most, sample...]; owned */
    struct {
        void *staging;  /* as large, HX_POOL_HOST; owned */
        hx_event *sent; /* the copy from it is done; owned */
    } slots[HX__BATCH_SLOTS];
    int slot; /* the one that is filled next */
    struct {
        int64_t n;
        hx_tensor *tensor; /* [n, sample...]; owned */
    } views[HX__BATCH_VIEWS];
    int next_view; /* the one that the next new size replaces */
} hx__batch_tensor;

/** @param shape  [n_most, sample...] */
hx_status hx__batch_create(hx_device *device, hx_dtype dtype, hx_shape shape, hx__batch_tensor *out);
void hx__batch_destroy(hx__batch_tensor *batch);
/** Room for the samples of the next micro-batch, [n_most, sample...] on the host, which its last copy has left. */
hx_status hx__batch_begin(hx__batch_tensor *batch, void **staging);
/** The first n samples of that room, on their way to the device: they arrive in the stream's order, after the work that
 *  uses those before them. @param[out] out  borrowed, until other sizes replace it */
hx_status hx__batch_fill(hx__batch_tensor *batch, hx_stream *stream, int64_t n, hx_tensor **out);

#endif

/* The tensors of a micro-batch that a source fills again and again: room for the largest, and views of the sizes that
 * occur, so that a training run makes none after its first steps. */
#ifndef HX_IO_DATA_BATCH_IMPL_H
#define HX_IO_DATA_BATCH_IMPL_H

#include "core/tensor/tensor.h"

#define HX__BATCH_VIEWS 4 /* sizes that are kept: full, the rest of a share, and those of a last batch */

typedef struct hx__batch_tensor {
    hx_tensor *whole; /* [n_most, sample...]; owned */
    void *staging;    /* as large; owned */
    struct {
        int64_t n;
        hx_tensor *tensor; /* [n, sample...]; owned */
    } views[HX__BATCH_VIEWS];
    int next_view; /* the one that the next new size replaces */
} hx__batch_tensor;

/** @param shape  [n_most, sample...] */
hx_status hx__batch_create(hx_device *device, hx_dtype dtype, hx_shape shape, hx__batch_tensor *out);
void hx__batch_destroy(hx__batch_tensor *batch);
/** The first n samples, written from the staging memory. @param[out] out  borrowed, until other sizes replace it */
hx_status hx__batch_fill(hx__batch_tensor *batch, hx_stream *stream, int64_t n, hx_tensor **out);

#endif

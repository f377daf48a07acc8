/* Batch norm: statistics over all dims but dim 1. A task has whole channels, so that its sums are its own; channels of
 * few elements in a row are taken together, because they lie next to each other. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"

enum {
    CHANNELS_MOST = 64, /* of a task */
    CHANNELS_SPAN = 256 /* elements of an image that a task wants to read in one piece */
};

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/batchnorm.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/batchnorm.inc"

/* Norms over the last dim, for both element types. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"

enum {
    ROW_TASK = 16384,    /* elements of a task of whole rows */
    ROWS_BLOCK_MIN = 32, /* rows of a block of weight gradients: more when there would be too many blocks */
    ROW_BLOCKS_MAX = 256
};

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/norm.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/norm.inc"

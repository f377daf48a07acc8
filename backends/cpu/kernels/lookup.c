/* Rows of a table by id, and the sum of gradients back into the table. */
#include <math.h>
#include <string.h>
#include "backends/cpu/kernels/ids.h"
#include "backends/cpu/kernels/kernels.h"
#include "core/tensor/half.h"

enum {
    ROW_TASK = 16384,   /* elements of a task of whole rows */
    COLUMNS_TASK = 64   /* columns of a task of the backward */
};

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/lookup.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/lookup.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/lookup.inc"

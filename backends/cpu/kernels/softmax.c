/* Softmax and its logarithm over rows. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"

enum { ROW_TASK = 16384 /* elements of a task of whole rows */ };

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/softmax.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/softmax.inc"

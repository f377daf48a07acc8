/* Sums, and what is normalised by one. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/reduce_plan.h"
#include "backends/cpu/kernels/vmath.h"

enum { ROW_TASK = 16384 /* elements of a task of whole rows */ };

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/reduce.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/reduce.inc"

/* Sums. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/reduce_plan.h"
#include "core/tensor/half.h"

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/reduce.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/reduce.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/reduce.inc"

/* Rotary positions: the sines and cosines of a call are computed once, in float64, and shared by batch and heads. */
#include <math.h>
#include "backends/cpu/kernels/kernels.h"
#include "core/tensor/half.h"

enum {
    TURN_TASK = 512,  /* angles of a task */
    PAIR_TASK = 8192  /* pairs of a task */
};

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/rope.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/rope.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/rope.inc"

/* Optimizer updates: one pass over parameter, gradient and moments. Parts of the gradient's norm: one number for
 * each block, added up in order or kept. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/tensor/half.h"

enum { BLOCK = 16384 /* elements of a task */ };

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/optim.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/optim.inc"

/* Cross-entropy: two passes over each row of logits, sums over rows in fixed blocks. */
#include "backends/cpu/kernels/ids.h"
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/tensor/half.h"

enum { ROW_TASK = 16384 /* elements of a task of whole rows */ };

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/loss.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/loss.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/loss.inc"

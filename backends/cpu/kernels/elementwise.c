/* Elementwise ops for both element types. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/elementwise.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/elementwise.inc"

/* Arithmetic of complex numbers, for both element types. */
#include "backends/cpu/kernels/kernels.h"

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/complex.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/complex.inc"

hx_status HX_K(complex)(hx_cpu *cpu, const hx_op_call *call) {
    return call->out[0].dtype == HX_C64 ? complex_run_f32(cpu, call) : complex_run_f64(cpu, call);
}

/* Norms over the last dim. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/tensor/half.h"

enum {
    ROW_TASK = 16384,    /* elements of a task of whole rows */
    ROWS_BLOCK_MIN = 32, /* rows of a block of weight gradients: more when there would be too many blocks */
    ROW_BLOCKS_MAX = 256,
    COLUMNS_TASK = 128 /* columns of a task that joins the blocks */
};

/* f16, and outputs of several types: the kernel of add rounds s, of which the norm's dense copy is made. */
static hx_status add_then_norm(hx_cpu *cpu, const hx_op_call *call, hx_op op) {
    const hx_cpu_kernel *kernel = &cpu->kernels->op[op];
    const int last = call->n_out - 1;
    const hx_array *x = &call->in[0], *out = &call->out[last];
    const bool is_apart = hx__cpu_absent(out) || out->dtype != x->dtype; /* not wanted, or as f32 */
    hx_array s = is_apart ? *x : *out;
    hx_op_call norm = *call;
    if (is_apart) HX_TRY(hx__cpu_scratch_array(cpu, hx_array_count(x), hx_dtype_bytes(x->dtype), &s.data));
    hx_op_call add = {.op = HX_OP_add, .n_in = 2, .n_out = 1, .in = {call->in[0], call->in[1]}, .out = {s}};
    HX_TRY(HX_K(elementwise_f32)(cpu, &add));
    norm.op = op;
    norm.n_in = call->n_in - 1;
    norm.n_out = last;
    norm.in[0] = s;
    for (int i = 1; i < norm.n_in; i++) norm.in[i] = call->in[i + 1];
    HX_TRY(hx__cpu_run_dense(cpu, &norm, kernel, kernel->f32));
    return is_apart && !hx__cpu_absent(out) ? copy_array(cpu, &s, out) : HX_OK;
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/norm.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/norm.inc"
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/norm.inc"

/* Row kernels (norms, softmax, losses, lookups) are written for dense operands. A strided operand is copied to
 * scratch before, and a strided result copied back after, so that every op takes every view. */
#include "backends/cpu/cpu_impl.h"

static hx_status copy(hx_cpu *cpu, const hx_array *src, const hx_array *dst) {
    hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .in = {*src}, .out = {*dst}};
    call.attr.copy.dtype = dst->dtype;
    return cpu->kernels->op[HX_OP_copy].f32(cpu, &call);
}

/* An array of the same shape in scratch memory. */
static hx_status dense_like(hx_cpu *cpu, const hx_array *a, hx_array *out) {
    hx_array d = *a;
    hx_shape shape = hx_array_shape(a);
    hx_shape_strides(&shape, d.strides);
    HX_TRY(hx__cpu_scratch_array(cpu, hx_array_count(a), hx_dtype_bytes(a->dtype), &d.data));
    *out = d;
    return HX_OK;
}

static bool needs_copy(const hx_array *a) { return !hx__cpu_absent(a) && !hx_array_is_contiguous(a); }

hx_status hx__cpu_run_dense(hx_cpu *cpu, const hx_op_call *call, hx_cpu_fn kernel) {
    bool any = false;
    for (int i = 0; i < call->n_in; i++) any |= needs_copy(&call->in[i]);
    for (int i = 0; i < call->n_out; i++) any |= needs_copy(&call->out[i]);
    if (!any) return kernel(cpu, call);
    hx_op_call dense = *call;
    for (int i = 0; i < call->n_in; i++)
        if (needs_copy(&call->in[i])) {
            HX_TRY(dense_like(cpu, &call->in[i], &dense.in[i]));
            HX_TRY(copy(cpu, &call->in[i], &dense.in[i]));
        }
    for (int i = 0; i < call->n_out; i++)
        if (needs_copy(&call->out[i])) { /* copied in as well: the op may add to what is there */
            HX_TRY(dense_like(cpu, &call->out[i], &dense.out[i]));
            HX_TRY(copy(cpu, &call->out[i], &dense.out[i]));
        }
    HX_TRY(kernel(cpu, &dense));
    for (int i = 0; i < call->n_out; i++)
        if (needs_copy(&call->out[i])) HX_TRY(copy(cpu, &dense.out[i], &call->out[i]));
    return HX_OK;
}

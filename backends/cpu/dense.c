/* Row kernels (norms, softmax, losses, lookups) are written for dense operands, and all but the elementwise ones for
 * f32 and f64. An operand that a kernel does not take is copied to scratch before: strided ones densely, half types
 * as f32; and results are copied back after, half types rounded once. Kernels that have a bf16 form spare these copies. So every op takes every view and every floating
 * type. Operands of other types in the same call pass as they are: statistics are f32 and losses f64, where the data
 * are half; so do outputs that a kernel rounds itself. */
#include "backends/cpu/cpu_impl.h"

static hx_status copy(hx_cpu *cpu, const hx_array *src, const hx_array *dst) {
    hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .in = {*src}, .out = {*dst}};
    call.attr.copy.dtype = dst->dtype;
    return cpu->kernels->op[HX_OP_copy].f32(cpu, &call);
}

/* A dense array of the same shape in scratch memory, of a type that kernels know. */
static hx_status stand_in(hx_cpu *cpu, const hx_array *a, bool is_wide, hx_array *out) {
    hx_array d = *a;
    hx_shape shape = hx_array_shape(a);
    hx_shape_strides(&shape, d.strides);
    if (is_wide) d.dtype = HX_F32;
    HX_TRY(hx__cpu_scratch_array(cpu, hx_array_count(a), hx_dtype_bytes(d.dtype), &d.data));
    HX_TRY(copy(cpu, a, &d));
    *out = d;
    return HX_OK;
}

hx_status hx__cpu_run_dense(hx_cpu *cpu, const hx_op_call *call, const hx_cpu_kernel *kernel, hx_cpu_fn fn) {
    hx_op_call dense = *call;
    bool is_copied[HX_OP_MAX_OUT] = {false};
    const unsigned stored = fn == kernel->bf16 ? kernel->stored | kernel->as_given : 0;
    for (int k = 0; k < call->n_in + call->n_out; k++) {
        bool is_out = k >= call->n_in;
        int i = is_out ? k - call->n_in : k;
        const hx_array *a = is_out ? &call->out[i] : &call->in[i];
        bool is_taken = kernel->takes_half || (stored >> (is_out ? 8 + i : i) & 1) || (is_out && kernel->half_out >> i & 1);
        bool is_wide = hx_dtype_is_half(a->dtype) && !is_taken;
        if (hx__cpu_absent(a) || !(is_wide || (kernel->dense && !hx_array_is_contiguous(a)))) continue;
        /* outputs are copied in as well: the op may add to what is there */
        HX_TRY(stand_in(cpu, a, is_wide, is_out ? &dense.out[i] : &dense.in[i]));
        if (is_out) is_copied[i] = true;
    }
    HX_TRY(fn(cpu, &dense));
    for (int i = 0; i < call->n_out; i++)
        if (is_copied[i]) HX_TRY(copy(cpu, &dense.out[i], &call->out[i]));
    return HX_OK;
}

/* The real (0) or imaginary (1) parts of a complex array as a strided real one. */
static hx_array part_of(const hx_array *a, int part) {
    hx_array real = *a;
    if (hx__cpu_absent(a) || !hx_dtype_is_complex(a->dtype)) return real;
    real.dtype = hx_dtype_real(a->dtype);
    real.data = (char *)a->data + (size_t)part * hx_dtype_bytes(real.dtype);
    for (int d = 0; d < a->ndim; d++) real.strides[d] *= 2;
    return real;
}

hx_status hx__cpu_by_parts(hx_cpu *cpu, const hx_op_call *call) {
    const hx_cpu_kernel *k = &cpu->kernels->op[call->op];
    hx_cpu_fn kernel = call->out[0].dtype == HX_C64 ? k->f32 : k->f64;
    for (int part = 0; part < 2; part++) {
        hx_op_call real = *call;
        for (int i = 0; i < call->n_in; i++) real.in[i] = part_of(&call->in[i], part);
        for (int i = 0; i < call->n_out; i++) real.out[i] = part_of(&call->out[i], part);
        HX_TRY(hx__cpu_run_dense(cpu, &real, k, kernel));
    }
    return HX_OK;
}

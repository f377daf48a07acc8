/* From an op call to its kernel: the table's row, the dtype, dense copies in place of strided operands, scratch; and the
 * calls that a batch holds back. */
#include <stdio.h>

#include "backends/cuda/cuda_impl.h"

hx_status hx__cuda_take(hx_cuda_stream *s, size_t n_bytes, const char *what, void **out) {
    void *p = NULL;
    cudaError_t error = cudaMallocAsync(&p, n_bytes, s->handle);
    if (error == cudaErrorMemoryAllocation && s->device->reclaim) {
        (void)cudaGetLastError();
        s->device->reclaim(s->device->reclaim_arg);
        error = cudaMallocAsync(&p, n_bytes, s->handle);
    }
    if (error == cudaErrorMemoryAllocation) return hx__cuda_no_memory(s->device, n_bytes, what);
    HX_TRY(hx__cuda_check(error, "cudaMallocAsync"));
    *out = p;
    return HX_OK;
}

hx_status hx__cuda_scratch(hx_cuda_stream *s, size_t n_bytes, void **out) {
    void *p = NULL;
    if (s->n_scratch == HX_CUDA_SCRATCH_BLOCKS)
        return HX_FAIL(HX_ERR_INTERNAL, "an op asked for more than %d blocks of scratch", HX_CUDA_SCRATCH_BLOCKS);
    HX_TRY(hx__cuda_take(s, n_bytes > 0 ? n_bytes : 1, "scratch", &p));
    s->scratch[s->n_scratch++] = p;
    *out = p;
    return HX_OK;
}

/* In stream order: the memory goes when the op's work is done. */
static hx_status free_scratch(hx_cuda_stream *s) {
    hx_status status = HX_OK;
    while (s->n_scratch > 0) {
        hx_status one = hx__cuda_check(cudaFreeAsync(s->scratch[--s->n_scratch], s->handle), "cudaFreeAsync");
        if (status == HX_OK) status = one;
    }
    return status;
}

hx_status hx__cuda_copy_array(hx_cuda_stream *s, const hx_array *src, const hx_array *dst) {
    hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .in = {*src}, .out = {*dst}};
    call.attr.copy.dtype = dst->dtype;
    return hx__cuda_count(dst) == 0 ? HX_OK : hx__cuda_copy(s, &call);
}

hx_status hx__cuda_dense(hx_cuda_stream *s, const hx_array *a, hx_array *out) {
    hx_array d = *a;
    hx_shape shape = hx_array_shape(a);
    hx_shape_strides(&shape, d.strides);
    HX_TRY(hx__cuda_scratch(s, (size_t)hx__cuda_count(a) * hx_dtype_bytes(a->dtype), &d.data));
    HX_TRY(hx__cuda_copy_array(s, a, &d));
    *out = d;
    return HX_OK;
}

static hx_status run_dense(hx_cuda_stream *s, const hx_op_call *call, hx_cuda_fn run) {
    hx_op_call dense = *call;
    bool is_copied[HX_OP_MAX_OUT] = {false}, has_copies = false;
    for (int i = 0; i < call->n_in; i++)
        if (!hx__cuda_absent(&call->in[i]) && !hx_array_is_contiguous(&call->in[i])) {
            HX_TRY(hx__cuda_dense(s, &call->in[i], &dense.in[i]));
            has_copies = true;
        }
    for (int i = 0; i < call->n_out; i++) {
        if (hx__cuda_absent(&call->out[i]) || hx_array_is_contiguous(&call->out[i])) continue;
        HX_TRY(hx__cuda_dense(s, &call->out[i], &dense.out[i])); /* with its contents: the op may update or add to them */
        is_copied[i] = has_copies = true;
    }
    HX_TRY(run(s, &dense));
    if (has_copies) HX_TRY(hx__cuda_launch_held(s)); /* the copies go when this op ends */
    for (int i = 0; i < call->n_out; i++)
        if (is_copied[i]) HX_TRY(hx__cuda_copy_array(s, &dense.out[i], &call->out[i]));
    return HX_OK;
}

/* The table has no row: the message names the dtypes of the operands, of which no one chooses. */
static hx_status no_kernel(const hx_op_call *call) {
    char dtypes[64] = "";
    size_t used = 0;
    for (int i = 0; i < call->n_in + call->n_out; i++) {
        const hx_array *a = i < call->n_in ? &call->in[i] : &call->out[i - call->n_in];
        if (hx__cuda_absent(a) || used >= sizeof dtypes) continue;
        used += (size_t)snprintf(dtypes + used, sizeof dtypes - used, "%s%s", used ? ", " : "", hx_dtype_name(a->dtype));
    }
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: the cuda device has no kernel, for any dtype (given: %s)", hx_op_info_get(call->op)->name, dtypes);
}

static hx_status find_kernel(const hx_op_call *call, const hx_cuda_kernel **out) {
    if ((unsigned)call->op >= HX_OP_COUNT) return HX_FAIL(HX_ERR_INTERNAL, "op number %d does not exist", (int)call->op);
    const hx_cuda_kernel *k = &hx__cuda_kernels[call->op];
    const char *name = hx_op_info_get(call->op)->name;
    if (!k->run) return no_kernel(call);
    hx_dtype dtype = k->by < 8 ? call->in[k->by].dtype : call->out[k->by - 8].dtype;
    if (!(k->dtypes >> dtype & 1))
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: the cuda device has no kernel for %s", name, hx_dtype_name(dtype));
    *out = k;
    return HX_OK;
}

/* True if there is an element to write. */
static bool has_output(const hx_op_call *call) {
    for (int i = 0; i < call->n_out; i++)
        if (!hx__cuda_absent(&call->out[i]) && hx__cuda_count(&call->out[i]) > 0) return true;
    return false;
}

hx_status hx__cuda_exec(hx_cuda_stream *s, const hx_op_call *call) {
    const hx_cuda_kernel *kernel;
    HX_TRY(find_kernel(call, &kernel));
    if (!has_output(call)) return HX_OK;
    hx_status status = s->held.op != call->op ? hx__cuda_launch_held(s) : HX_OK;
    if (status == HX_OK) status = kernel->dense ? run_dense(s, call, kernel->run) : kernel->run(s, call);
    hx_status freed = free_scratch(s);
    return status != HX_OK ? status : freed;
}

/* ---- batches ---- */

hx_status hx__cuda_launch_held(hx_cuda_stream *s) {
    hx_status (*launch)(hx_cuda_stream *) = s->held.launch;
    s->held.launch = NULL;
    return launch ? launch(s) : HX_OK;
}

hx_status hx__cuda_batch(hx_cuda_stream *s, bool begin) {
    s->is_batch = begin;
    hx_status status = hx__cuda_launch_held(s), freed = free_scratch(s);
    return status != HX_OK ? status : freed;
}

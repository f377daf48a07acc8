/* Where the extremum stands, and the k first in order. */
#include "backends/cpu/kernels/kernels.h"

enum {
    ARG_CHUNK = 64,  /* lines that are followed side by side */
    ROW_TASK = 16384 /* elements of a task */
};

/* x as [outer, n, inner]: the lines of n elements lie `inner` apart. */
typedef struct arg_job {
    const void *x;
    int64_t *out; /* [outer, inner] */
    int64_t n, inner, n_chunks, n_items, items_per_task;
    bool smallest;
} arg_job;

static arg_job arg_plan(const hx_op_call *call) {
    const hx_array *x = &call->in[0];
    arg_job job = {.x = x->data, .out = call->out[0].data, .n = x->dims[call->attr.dim.dim],
                   .smallest = call->op == HX_OP_argmin};
    int64_t outer;
    hx__cpu_around(x, call->attr.dim.dim, &outer, &job.inner);
    job.n_chunks = hx__ceil_div(job.inner, ARG_CHUNK);
    job.n_items = outer * job.n_chunks;
    job.items_per_task = hx__max(1, ROW_TASK / (job.n * hx__min(ARG_CHUNK, hx__max(1, job.inner))));
    return job;
}

#define IS_NAN(v) ((v) != (v))
#define ELEM    float
#define E(name) name##_float
#include "backends/cpu/kernels/arg.inc"
#define ELEM    double
#define E(name) name##_double
#include "backends/cpu/kernels/arg.inc"
#undef IS_NAN
#define IS_NAN(v) 0
#define ELEM    int32_t
#define E(name) name##_i32
#include "backends/cpu/kernels/arg.inc"
#define ELEM    int64_t
#define E(name) name##_i64
#include "backends/cpu/kernels/arg.inc"
#define ELEM    int8_t
#define E(name) name##_i8
#include "backends/cpu/kernels/arg.inc"
#define ELEM    uint8_t
#define E(name) name##_u8
#include "backends/cpu/kernels/arg.inc"
#undef IS_NAN

static hx_status arg_by(hx_cpu *cpu, const hx_op_call *call, hx_task_fn task) {
    arg_job job = arg_plan(call);
    double cost = 2.0 * (double)hx_array_count(&call->in[0]);
    hx__cpu_run(cpu, hx__ceil_div(job.n_items, job.items_per_task), cost, task, &job);
    return HX_OK;
}

hx_status HX_K(arg_f32)(hx_cpu *cpu, const hx_op_call *call) { return arg_by(cpu, call, arg_task_float); }
hx_status HX_K(arg_f64)(hx_cpu *cpu, const hx_op_call *call) { return arg_by(cpu, call, arg_task_double); }

hx_status HX_K(arg_int)(hx_cpu *cpu, const hx_op_call *call) {
    static const hx_task_fn tasks[HX_DTYPE_COUNT] = {[HX_I32] = arg_task_i32, [HX_I64] = arg_task_i64, [HX_I8] = arg_task_i8,
                                                     [HX_U8] = arg_task_u8, [HX_BOOL] = arg_task_u8};
    return arg_by(cpu, call, tasks[call->in[0].dtype]);
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/topk.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/topk.inc"

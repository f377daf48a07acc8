/* Joining, picking and padding of elements of any dtype, which are moved by their size; and the sums that lead their
 * gradients back. */
#include <math.h>
#include <string.h>
#include "backends/cpu/kernels/ids.h"
#include "backends/cpu/kernels/kernels.h"
#include "core/op/ops.h"

enum { MOVE_TASK = 16384 /* elements of a task */ };

hx_status HX_K(cat)(hx_cpu *cpu, const hx_op_call *call) {
    int dim = call->attr.dim.dim;
    hx_op_call part = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .out = {call->out[0]}};
    for (int i = 0; i < call->n_in; i++) {
        part.in[0] = call->in[i];
        part.out[0].dims[dim] = call->in[i].dims[dim];
        HX_TRY(HX_K(copy)(cpu, &part));
        part.out[0].data = (char *)part.out[0].data +
                           call->in[i].dims[dim] * part.out[0].strides[dim] * (int64_t)hx_dtype_bytes(part.out[0].dtype);
    }
    return HX_OK;
}

/* ---- gather: x as [outer, size, inner], index and y as [outer, n, inner] ---- */

typedef struct gather_job {
    const hx_array *index;
    const char *x;
    char *y;
    int64_t size, n, inner, n_rows, rows_per_task;
    unsigned char missing[16]; /* what stands for an index outside: NaN, 0 in integers */
    void (*row)(const struct gather_job *job, int64_t r);
} gather_job;

#define GATHER_ROW(type)                                                                                     \
    static void gather_row_##type(const gather_job *job, int64_t r) {                                        \
        const type *x = (const type *)job->x + r / job->n * job->size * job->inner;                          \
        type *y = (type *)job->y + r * job->inner, missing;                                                  \
        memcpy(&missing, job->missing, sizeof missing);                                                      \
        for (int64_t c = 0; c < job->inner; c++) {                                                           \
            int64_t id = id_at(job->index, r * job->inner + c);                                              \
            y[c] = id >= 0 && id < job->size ? x[id * job->inner + c] : missing;                             \
        }                                                                                                    \
    }
GATHER_ROW(uint8_t)
GATHER_ROW(uint16_t)
GATHER_ROW(uint32_t)
GATHER_ROW(uint64_t)
GATHER_ROW(hx_bytes16)

static void gather_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const gather_job *job = arg;
    int64_t last = hx__min((task + 1) * job->rows_per_task, job->n_rows);
    for (int64_t r = task * job->rows_per_task; r < last; r++) job->row(job, r);
}

hx_status HX_K(gather)(hx_cpu *cpu, const hx_op_call *call) {
    static void (*const rows[17])(const gather_job *, int64_t) = {
        [1] = gather_row_uint8_t, [2] = gather_row_uint16_t, [4] = gather_row_uint32_t, [8] = gather_row_uint64_t,
        [16] = gather_row_hx_bytes16};
    const hx_array *x = &call->in[0], *y = &call->out[0];
    gather_job job = {.index = &call->in[1], .x = x->data, .y = y->data, .size = x->dims[call->attr.dim.dim],
                      .n = y->dims[call->attr.dim.dim], .row = rows[hx_dtype_bytes(x->dtype)]};
    int64_t outer;
    bool has_nan = hx_dtype_is_float(x->dtype) || hx_dtype_is_complex(x->dtype);
    hx_elem_set(x->dtype, job.missing, 0, has_nan ? NAN : 0);
    hx__cpu_around(y, call->attr.dim.dim, &outer, &job.inner);
    job.n_rows = outer * job.n;
    if (job.n_rows == 0 || job.inner == 0) return HX_OK;
    job.rows_per_task = hx__max(1, MOVE_TASK / job.inner);
    hx__cpu_run(cpu, hx__ceil_div(job.n_rows, job.rows_per_task), 2.0 * (double)job.n_rows * (double)job.inner, gather_task, &job);
    return HX_OK;
}

/* ---- pad ---- */

/* A padded array and the one inside it. A scalar is taken as one dim of one element. */
typedef struct pad_plan {
    int ndim;
    int64_t padded[HX_MAX_DIMS], inside[HX_MAX_DIMS], step[HX_MAX_DIMS]; /* step: of `inside`, in elements */
    int64_t *source[HX_MAX_DIMS]; /* [padded[d]] index inside that stands there; -1: none */
    int64_t before_last;          /* of the last dim */
    int64_t n_padded_rows, n_inside_rows;
} pad_plan;

static int64_t pad_source(int mode, int64_t i, int64_t n) {
    if (i >= 0 && i < n) return i;
    switch (mode) {
    case HX_PAD_REFLECT: return i < 0 ? -i : 2 * (n - 1) - i;
    case HX_PAD_REPLICATE: return i < 0 ? 0 : n - 1;
    case HX_PAD_CIRCULAR: return i < 0 ? i + n : i - n;
    default: return -1;
    }
}

static hx_status pad_plan_make(hx_cpu *cpu, const hx_op_call *call, const hx_array *padded, const hx_array *inside, pad_plan *p) {
    *p = (pad_plan){.ndim = padded->ndim > 0 ? padded->ndim : 1, .n_padded_rows = 1, .n_inside_rows = 1};
    bool is_scalar = padded->ndim == 0;
    int64_t step = 1;
    for (int d = p->ndim - 1; d >= 0; d--) {
        int64_t before = is_scalar ? 0 : call->attr.pad.before[d];
        p->padded[d] = is_scalar ? 1 : padded->dims[d];
        p->inside[d] = is_scalar ? 1 : inside->dims[d];
        p->step[d] = step;
        step *= p->inside[d];
        if (d == p->ndim - 1) {
            p->before_last = before;
        } else {
            p->n_padded_rows *= p->padded[d];
            p->n_inside_rows *= p->inside[d];
        }
        HX_TRY(hx__cpu_scratch_array(cpu, p->padded[d], sizeof(int64_t), (void **)&p->source[d]));
        for (int64_t i = 0; i < p->padded[d]; i++) p->source[d][i] = pad_source(call->attr.pad.mode, i - before, p->inside[d]);
    }
    return HX_OK;
}

/* Offset inside of the row that stands at row r of the padded array; -1: none. */
static int64_t pad_row_source(const pad_plan *p, int64_t r) {
    int64_t at = 0;
    for (int d = p->ndim - 2; d >= 0; d--) {
        int64_t i = p->source[d][r % p->padded[d]];
        if (i < 0) return -1;
        at += i * p->step[d];
        r /= p->padded[d];
    }
    return at;
}

typedef struct pad_job {
    pad_plan plan;
    const char *x;
    char *y;
    unsigned char fill[16];
    int64_t rows_per_task;
    void (*row)(const struct pad_job *job, int64_t r);
} pad_job;

/* A row of which a part stands inside: that part is copied at once, the ends are looked up one by one. */
#define PAD_ROW(type)                                                                                        \
    static void pad_ends_##type(const int64_t *source, const type *x, type *y, type fill, int64_t i, int64_t end) { \
        for (; i < end; i++) y[i] = source[i] >= 0 ? x[source[i]] : fill;                                    \
    }                                                                                                        \
    static void pad_row_##type(const pad_job *job, int64_t r) {                                              \
        const pad_plan *p = &job->plan;                                                                      \
        int last = p->ndim - 1;                                                                              \
        int64_t from = pad_row_source(p, r), n = p->padded[last], low = p->before_last, high = low + p->inside[last]; \
        type *y = (type *)job->y + r * n, fill;                                                              \
        memcpy(&fill, job->fill, sizeof fill);                                                               \
        if (from < 0) {                                                                                      \
            for (int64_t i = 0; i < n; i++) y[i] = fill;                                                     \
            return;                                                                                          \
        }                                                                                                    \
        const type *x = (const type *)job->x + from;                                                         \
        if (high > low) memcpy(y + low, x, (size_t)(high - low) * sizeof *y);                                \
        pad_ends_##type(p->source[last], x, y, fill, 0, low);                                                \
        pad_ends_##type(p->source[last], x, y, fill, high, n);                                               \
    }
PAD_ROW(uint8_t)
PAD_ROW(uint16_t)
PAD_ROW(uint32_t)
PAD_ROW(uint64_t)
PAD_ROW(hx_bytes16)

static void pad_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const pad_job *job = arg;
    int64_t last = hx__min((task + 1) * job->rows_per_task, job->plan.n_padded_rows);
    for (int64_t r = task * job->rows_per_task; r < last; r++) job->row(job, r);
}

hx_status HX_K(pad)(hx_cpu *cpu, const hx_op_call *call) {
    static void (*const rows[17])(const pad_job *, int64_t) = {[1] = pad_row_uint8_t, [2] = pad_row_uint16_t, [4] = pad_row_uint32_t,
                                                              [8] = pad_row_uint64_t, [16] = pad_row_hx_bytes16};
    const hx_array *x = &call->in[0], *y = &call->out[0];
    pad_job job = {.x = x->data, .y = y->data, .row = rows[hx_dtype_bytes(x->dtype)]};
    double n = (double)hx_array_count(y);
    if (n == 0) return HX_OK;
    hx_elem_set(x->dtype, job.fill, 0, call->attr.pad.value);
    HX_TRY(pad_plan_make(cpu, call, y, x, &job.plan));
    job.rows_per_task = hx__max(1, MOVE_TASK / job.plan.padded[job.plan.ndim - 1]);
    hx__cpu_run(cpu, hx__ceil_div(job.plan.n_padded_rows, job.rows_per_task), n, pad_task, &job);
    return HX_OK;
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/move.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/move.inc"

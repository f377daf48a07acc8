/* Fourier transforms by FFTW (Frigo & Johnson 2005). FFTW has instruction sets of its own, so this file is compiled once.
 *
 * A row is gathered into a worker's memory, transformed there and stored with its factors: every view is taken, buffers
 * have the alignment that the plan was made for, and the input survives the transforms that destroy theirs. Plans are
 * estimated, never timed, so that the same call gives the same bits in every run. */
#include <fftw3.h>

#include <math.h>
#include "backends/cpu/cpu_impl.h"

enum {
    N_PLANS = 64,         /* kept; the one that has rested longest makes room */
    TASK_ELEMENTS = 4096, /* a task has about that many */
    ALIGN = 64
};

typedef struct fft_key {
    hx_op op;
    hx_dtype real; /* f32 or f64 */
    int64_t n;     /* real or complex elements of the longer side */
    bool inverse;
} fft_key;

typedef struct fft_plan {
    fft_key key;
    void *plan; /* fftwf_plan or fftw_plan */
    void *turn; /* of hx_cpu_turned, where it was asked for */
    int64_t last_use;
} fft_plan;

struct hx_cpu_fft {
    fft_plan plans[N_PLANS];
    int n_plans;
    int64_t n_uses;
};

/* FFTW has one planner for the process and it is not thread-safe, while each device has a lock of its own: making and
 * destroying plans needs a lock as wide as the planner. Executing them is thread-safe. */
static pthread_mutex_t planner = PTHREAD_MUTEX_INITIALIZER;

typedef struct fft_job {
    fft_key key;
    const hx_array *x, *y;
    int64_t n_x, n_y, n_rows, rows_per_task;
    double scale, interior;
    void *plan;
    char *scratch;
    int64_t n_bytes_row; /* of one buffer; a worker has two */
} fft_job;

/* Offset of a row's first element. */
static int64_t row_offset(const hx_array *a, int64_t row) {
    int64_t at = 0;
    for (int d = a->ndim - 2; d >= 0; d--) {
        at += row % a->dims[d] * a->strides[d];
        row /= a->dims[d];
    }
    return at;
}

/* Bins 0 and n/2 of a real signal are real. */
static bool is_real_bin(const fft_job *j, int64_t k) { return k == 0 || 2 * k == j->key.n; }

static void *scratch_of(const fft_job *j, int worker, int which) {
    return j->scratch + (2 * (int64_t)worker + which) * j->n_bytes_row;
}

#define FFTW(name) fftwf_##name
#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/fft.inc"
#undef FFTW
#define FFTW(name) fftw_##name
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/fft.inc"

static void plan_destroy(fft_plan *p) {
    pthread_mutex_lock(&planner);
    if (p->key.real == HX_F32) fftwf_destroy_plan(p->plan);
    else fftw_destroy_plan(p->plan);
    pthread_mutex_unlock(&planner);
    hx_mem_free(&p->turn);
}

static bool same_key(const fft_key *a, const fft_key *b) {
    return a->op == b->op && a->real == b->real && a->n == b->n && a->inverse == b->inverse;
}

/* Where a new plan goes: the next free place, or that of the plan used longest ago. */
static fft_plan *make_room(struct hx_cpu_fft *fft) {
    if (fft->n_plans < N_PLANS) return &fft->plans[fft->n_plans++];
    fft_plan *oldest = &fft->plans[0];
    for (int i = 1; i < N_PLANS; i++)
        if (fft->plans[i].last_use < oldest->last_use) oldest = &fft->plans[i];
    plan_destroy(oldest);
    return oldest;
}

static hx_status make_plan(const fft_job *j, void **out) {
    pthread_mutex_lock(&planner);
    void *plan = j->key.real == HX_F32 ? plan_f32(j) : plan_f64(j);
    pthread_mutex_unlock(&planner);
    if (!plan) return HX_FAIL(HX_ERR_MEMORY, "%s: FFTW has no plan for n = %lld", hx_op_info_get(j->key.op)->name, (long long)j->key.n);
    *out = plan;
    return HX_OK;
}

/* What is found stays until as many others were used. */
static hx_status find_plan(hx_cpu *cpu, const fft_job *j, fft_plan **out) {
    if (!cpu->fft) HX_TRY(hx_mem_alloc_array(1, sizeof *cpu->fft, (void **)&cpu->fft));
    struct hx_cpu_fft *fft = cpu->fft;
    fft_plan *found = NULL;
    for (int i = 0; i < fft->n_plans && !found; i++)
        if (same_key(&fft->plans[i].key, &j->key)) found = &fft->plans[i];
    if (!found) {
        void *plan;
        HX_TRY(make_plan(j, &plan));
        found = make_room(fft);
        *found = (fft_plan){.key = j->key, .plan = plan};
    }
    found->last_use = ++fft->n_uses;
    *out = found;
    return HX_OK;
}

void hx__cpu_fft_close(hx_cpu *cpu) {
    for (int i = 0; cpu->fft && i < cpu->fft->n_plans; i++) plan_destroy(&cpu->fft->plans[i]);
    hx_mem_free((void **)&cpu->fft);
}

hx_status hx__cpu_fft(hx_cpu *cpu, const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    fft_job j = {.x = x, .y = y, .n_x = x->dims[x->ndim - 1], .n_y = y->dims[y->ndim - 1], .scale = call->attr.fft.scale,
                 .interior = call->attr.fft.interior};
    j.key = (fft_key){call->op, hx_dtype_real(x->dtype), hx__max(j.n_x, j.n_y), call->attr.fft.inverse};
    if (j.key.real != HX_F32 && j.key.real != HX_F64)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: the cpu device has no kernel for %s", hx_op_info_get(call->op)->name, hx_dtype_name(x->dtype));
    hx__cpu_rows(y, &j.n_rows, &j.n_y);
    if (j.n_rows == 0) return HX_OK;
    size_t n_bytes;
    HX_TRY(hx_mem_mul((size_t)j.key.n, 2 * hx_dtype_bytes(j.key.real), &n_bytes));
    j.n_bytes_row = ((int64_t)n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    HX_TRY(hx__cpu_scratch_array(cpu, 2 * (int64_t)cpu->n_threads, (size_t)j.n_bytes_row, (void **)&j.scratch));
    fft_plan *found;
    HX_TRY(find_plan(cpu, &j, &found));
    j.plan = found->plan;
    j.rows_per_task = hx__max(1, TASK_ELEMENTS / j.key.n);
    double cost = 5.0 * (double)j.n_rows * (double)j.key.n * log2((double)j.key.n + 1);
    hx__cpu_run(cpu, hx__ceil_div(j.n_rows, j.rows_per_task), cost, j.key.real == HX_F32 ? rows_task_f32 : rows_task_f64, &j);
    return HX_OK;
}

/* e^(-i pi j / (2n)), pairs of f32 or f64 [n,2] */
static hx_status make_turn(const fft_key *key, void **out) {
    void *turn;
    HX_TRY(hx_mem_alloc_array(key->n, 2 * hx_dtype_bytes(key->real), &turn));
    for (int64_t j = 0; j < key->n; j++) {
        double angle = 1.57079632679489661923 * (double)j / (double)key->n;
        hx_elem_set(key->real, turn, 2 * j, cos(angle));
        hx_elem_set(key->real, turn, 2 * j + 1, -sin(angle));
    }
    *out = turn;
    return HX_OK;
}

hx_status hx__cpu_turned_find(hx_cpu *cpu, hx_dtype real, int64_t n, void *buffers, int64_t n_bytes, hx_cpu_turned *out) {
    fft_job j = {.key = {.op = HX_OP_fft, .real = real, .n = n}, .scratch = buffers, .n_bytes_row = n_bytes};
    fft_plan *forward, *inverse;
    HX_TRY(find_plan(cpu, &j, &forward));
    if (!forward->turn) HX_TRY(make_turn(&j.key, &forward->turn));
    j.key.inverse = true;
    HX_TRY(find_plan(cpu, &j, &inverse));
    *out = (hx_cpu_turned){.forward = forward->plan, .inverse = inverse->plan, .turn = forward->turn};
    return HX_OK;
}

void hx__cpu_fft_execute_f32(void *plan, float *in, float *out) { fftwf_execute_dft(plan, (void *)in, (void *)out); }
void hx__cpu_fft_execute_f64(void *plan, double *in, double *out) { fftw_execute_dft(plan, (void *)in, (void *)out); }

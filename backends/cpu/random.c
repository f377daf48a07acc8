/* Draws of core/base/rng.h in bulk: each counter is advanced once for its four elements. Everything is float64
 * as it is defined there, so that the values are the same on every device. */
#include "backends/cpu/cpu_impl.h"

enum { BLOCK = 16384 /* elements of a task, a multiple of 4 */ };

typedef struct random_job {
    hx_array out;
    hx_rng rng;
    uint64_t first;
    double a, b;
    double p; /* of a 1 */
    bool is_normal, is_bernoulli;
    int64_t n;
} random_job;

/* The four draws of one counter. */
static void draw4(const random_job *job, uint64_t block, double out[4]) {
    uint32_t w[4];
    hx_philox(job->rng.seed, job->rng.stream, block, w);
    for (int k = 0; k < 4 && !job->is_normal; k++) out[k] = (double)(w[k] >> 8) * 0x1p-24;
    for (int k = 0; k < 4 && job->is_normal; k += 2) {
        double u = ((double)w[k] + 0.5) * 0x1p-32, phi = 6.283185307179586 * ((double)w[k + 1] * 0x1p-32);
        double r = sqrt(-2.0 * log(u));
        out[k] = r * cos(phi);
        out[k + 1] = r * sin(phi);
    }
}

static void random_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const random_job *job = arg;
    int64_t at = task * BLOCK, end = hx__min(at + BLOCK, job->n);
    while (at < end) {
        double draws[4];
        uint64_t element = job->first + (uint64_t)at;
        draw4(job, element / 4, draws);
        for (uint64_t k = element % 4; k < 4 && at < end; k++, at++) {
            double value = job->is_bernoulli ? (double)(draws[k] < job->p) : job->a + job->b * draws[k];
            if (job->out.dtype == HX_F32)
                ((float *)job->out.data)[at] = (float)value;
            else
                ((double *)job->out.data)[at] = value;
        }
    }
}

hx_status hx__cpu_random(hx_cpu *cpu, const hx_op_call *call) {
    random_job job = {.out = call->out[0], .rng = call->attr.random.rng, .first = (uint64_t)call->attr.random.offset,
                      .a = call->attr.random.a, .b = call->attr.random.b, .p = call->attr.random.p,
                      .is_bernoulli = call->op == HX_OP_random_bernoulli,
                      .is_normal = call->op == HX_OP_random_normal, .n = hx_array_count(&call->out[0])};
    hx__cpu_run(cpu, hx__ceil_div(job.n, BLOCK), 20.0 * (double)job.n, random_task, &job);
    return HX_OK;
}

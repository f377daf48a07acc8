/* The measurements of probe.h. A run lasts long enough for every thread to wake and take its task; the best of several is the one that
 * was disturbed least. */
#include "backends/cpu/probe.h"

#include <string.h>
#include <time.h>
#include "backends/cpu/cpu_impl.h"

#define RUN_S       0.01
#define N_RUNS      12
#define LEAST_BYTES (1 << 16)
#define LINE        64 /* bytes; elements of parts are multiples of it, so that stores around the caches are aligned */

typedef struct probe {
    const hx_cpu_probe *kernels;
    hx_cpu_stream_fn stream; /* NULL: products are measured */
    hx_dtype dtype;
    int n_threads;
    int64_t n_repeats; /* of a thread in a run */
    int64_t n_elems;   /* of a thread's part */
    float *arrays[3];  /* [n_threads*n_elems] */
} probe;

static void task(void *arg, int64_t index, int worker) {
    probe *p = arg;
    float values[HX_CPU_PROBE_SUMS] = {0};
    (void)worker;
    if (p->stream == NULL) {
        (p->dtype == HX_BF16 ? p->kernels->dot_bf16 : p->kernels->fma_f32)(p->n_repeats, values);
        return;
    }
    const int64_t at = index * p->n_elems;
    for (int64_t i = 0; i < p->n_repeats; i++) p->stream(p->n_elems, p->arrays[0] + at, p->arrays[1] + at, p->arrays[2] + at);
}

static double run(hx_cpu *cpu, probe *p) {
    struct timespec t[2];
    clock_gettime(CLOCK_MONOTONIC, &t[0]);
    hx_pool_run(cpu->pool, p->n_threads, task, p);
    clock_gettime(CLOCK_MONOTONIC, &t[1]);
    return (double)(t[1].tv_sec - t[0].tv_sec) + 1e-9 * (double)(t[1].tv_nsec - t[0].tv_nsec);
}

/* Repeats a second of one thread while all work. */
static double best_rate(hx_cpu *cpu, probe *p) {
    double best = 0;
    pthread_mutex_lock(&cpu->lock); /* the pool is the ops' own */
    for (p->n_repeats = 1; run(cpu, p) < RUN_S; p->n_repeats *= 2) continue;
    for (int i = 0; i < N_RUNS; i++) {
        const double rate = (double)p->n_repeats / run(cpu, p);
        if (rate > best) best = rate;
    }
    pthread_mutex_unlock(&cpu->lock);
    return best;
}

static hx_status find_cpu(const char *who, hx_device *device, int n_threads, hx_cpu **out) {
    hx_cpu *cpu = hx_device_native(device, "cpu", NULL);
    if (cpu == NULL) return HX_FAIL(HX_ERR_ARG, "%s: device %s: expected cpu", who, hx_device_name(device));
    if (n_threads < 1 || n_threads > cpu->n_threads)
        return HX_FAIL(HX_ERR_ARG, "%s: %d threads: expected 1 to the device's %d", who, n_threads, cpu->n_threads);
    *out = cpu;
    return HX_OK;
}

hx_status hx_cpu_peak(hx_device *device, hx_dtype dtype, int n_threads, double *per_second) {
    hx_cpu *cpu;
    HX_TRY(find_cpu("hx_cpu_peak", device, n_threads, &cpu));
    if (dtype != HX_F32 && dtype != HX_BF16) return HX_FAIL(HX_ERR_ARG, "hx_cpu_peak: %s: expected f32 or bf16", hx_dtype_name(dtype));
    const hx_cpu_probe *kernels = cpu->kernels->probe;
    const bool has = dtype == HX_F32 || kernels->has_dot_bf16();
    probe p = {.kernels = kernels, .dtype = dtype, .n_threads = n_threads};
    const double flops = dtype == HX_F32 ? kernels->fma_f32_flops : kernels->dot_bf16_flops;
    *per_second = has ? best_rate(cpu, &p) * n_threads * flops : 0;
    return HX_OK;
}

hx_status hx_cpu_bandwidth(hx_device *device, int64_t n_bytes, int n_threads, double *per_second) {
    hx_cpu *cpu;
    void *memory;
    HX_TRY(find_cpu("hx_cpu_bandwidth", device, n_threads, &cpu));
    const int64_t n_elems = n_bytes / (3 * (int64_t)sizeof(float) * n_threads) / LINE * LINE;
    if (n_bytes < LEAST_BYTES || n_elems < LINE)
        return HX_FAIL(HX_ERR_ARG, "hx_cpu_bandwidth: %lld bytes for %d threads: expected at least %d, and %d a thread", (long long)n_bytes,
                       n_threads, LEAST_BYTES, (int)(3 * sizeof(float) * LINE));
    const size_t array_elems = (size_t)(n_elems * n_threads);
    HX_TRY(hx_mem_alloc(3 * array_elems * sizeof(float), &memory));
    memset(memory, 0, 3 * array_elems * sizeof(float)); /* every page is there; zeros stay zeros */
    probe p = {.kernels = cpu->kernels->probe, .n_threads = n_threads, .n_elems = n_elems};
    for (int i = 0; i < 3; i++) p.arrays[i] = (float *)memory + (size_t)i * array_elems;
    double best = 0;
    for (int i = 0; i < HX_CPU_N_STREAMS; i++) {
        p.stream = p.kernels->streams[i];
        const double rate = best_rate(cpu, &p) * 3 * sizeof(float) * (double)array_elems;
        if (rate > best) best = rate;
    }
    hx_mem_free(&memory);
    *per_second = best;
    return HX_OK;
}

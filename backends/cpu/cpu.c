/* The cpu device: a thread pool, OpenBLAS kept to one thread per call, and the kernels of the best instruction
 * set that the machine has. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "backends/backends.h"
#include "backends/cpu/cpu_impl.h"

static hx_status choose_gemm(bool *use_blas) {
    const char *want = getenv("HELIX_GEMM");
    *use_blas = want && strcmp(want, "openblas") == 0;
    if (*use_blas || !want || !*want || strcmp(want, "own") == 0) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "HELIX_GEMM=%.32s: expected own or openblas", want);
}

static bool takes_bf16(const hx_cpu_kernel *k, const hx_op_call *call) {
    if (k->bf16 == NULL) return false;
    for (int i = 0; i < call->n_in; i++)
        if ((k->stored >> i & 1) && !hx__cpu_absent(&call->in[i]) && call->in[i].dtype != HX_BF16) return false;
    for (int i = 0; i < call->n_out; i++)
        if ((k->stored >> (8 + i) & 1) && !hx__cpu_absent(&call->out[i]) && call->out[i].dtype != HX_BF16) return false;
    return true;
}

static hx_status find_kernel(const hx_cpu *cpu, const hx_op_call *call, hx_cpu_fn *out) {
    if ((unsigned)call->op >= HX_OP_COUNT) return HX_FAIL(HX_ERR_INTERNAL, "op number %d does not exist", (int)call->op);
    const hx_cpu_kernel *k = &cpu->kernels->op[call->op];
    hx_dtype dtype = k->by < 0 ? HX_F32 : k->by < 8 ? call->in[k->by].dtype : call->out[k->by - 8].dtype;
    *out = takes_bf16(k, call) ? k->bf16 : dtype == HX_F32 || hx_dtype_is_half(dtype) ? k->f32 : dtype == HX_F64 ? k->f64 : k->other;
    if (*out) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: the cpu device has no kernel for %s", hx_op_info_get(call->op)->name,
                   hx_dtype_name(dtype));
}

static hx_status cpu_check(hx_host *host, const hx_op_call *call) {
    hx_cpu_fn kernel;
    return find_kernel((const hx_cpu *)host, call, &kernel);
}

static hx_status run_locked(hx_cpu *cpu, const hx_op_call *call) {
    hx_cpu_fn kernel;
    HX_TRY(find_kernel(cpu, call, &kernel));
    HX_TRY(hx__cpu_scratch_reset(cpu));
    return hx__cpu_run_dense(cpu, call, &cpu->kernels->op[call->op], kernel);
}

static hx_status cpu_run(hx_host *host, const hx_op_call *call) {
    hx_cpu *cpu = (hx_cpu *)host;
    pthread_mutex_lock(&cpu->lock);
    hx_status status = run_locked(cpu, call);
    pthread_mutex_unlock(&cpu->lock);
    return status;
}

static void cpu_close(void *self) {
    hx_cpu *cpu = self;
    if (!cpu) return;
    hx_pool_destroy(&cpu->pool);
    hx__cpu_fft_close(cpu);
    for (int i = 0; i < cpu->n_blocks; i++) hx_mem_free(&cpu->blocks[i]);
    pthread_mutex_destroy(&cpu->lock);
    free(cpu);
}

static hx_status cpu_open(const hx_device_config *config, void **self) {
    if (config->index != 0)
        return HX_FAIL(HX_ERR_DEVICE, "cpu device %d: there is one, number 0", config->index);
    if (config->n_threads < 0) return HX_FAIL(HX_ERR_CONFIG, "n_threads = %d: expected 0 or more", config->n_threads);
    const hx_cpu_kernels *kernels;
    bool use_blas;
    HX_TRY(hx__cpu_choose_isa(hx__cpu_isas, hx__cpu_n_isas, getenv("HELIX_CPU_ISA"), &kernels));
    HX_TRY(choose_gemm(&use_blas));
    hx_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return HX_FAIL(HX_ERR_MEMORY, "%zu bytes for a device", sizeof *cpu);
    pthread_mutex_init(&cpu->lock, NULL);
    cpu->kernels = kernels;
    cpu->use_blas = use_blas;
    cpu->n_threads = config->n_threads ? config->n_threads : 1;
    hx_status status;
    HX_TRY_GOTO(hx_host_init(&cpu->host, cpu_check, cpu_run), fail);
    HX_TRY_GOTO(hx_pool_create(cpu->n_threads, &cpu->pool), fail);
    openblas_set_num_threads(1); /* parallelism is ours: tiles of a product are tasks of the pool */
    *self = cpu;
    return HX_OK;
fail:
    cpu_close(cpu);
    return status;
}

/* "model name" of the first processor; false where the system does not tell. */
static bool read_model(char *out, size_t n_bytes) {
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return false;
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!colon) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, n_bytes, "%s", colon + (colon[1] == ' ' ? 2 : 1));
        found = true;
    }
    fclose(f);
    return found;
}

static void cpu_props(void *self, hx_device_props *out) {
    const hx_cpu *cpu = self;
    char model[96];
    if (!read_model(model, sizeof model)) snprintf(model, sizeof model, "CPU");
    *out = (hx_device_props){.n_threads = cpu->n_threads, .is_host_memory = true};
    out->notice = hx__cpu_isa_notice(hx__cpu_isas, hx__cpu_n_isas, cpu->kernels);
    snprintf(out->name, sizeof out->name, "%s (kernels: %s)", model, cpu->kernels->isa);
    snprintf(out->kernels, sizeof out->kernels, "cpu %s, openblas %.64s, gemm %s", cpu->kernels->isa, openblas_get_corename(),
             cpu->use_blas ? "openblas" : "own");
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page_bytes > 0) out->memory_bytes = (int64_t)pages * page_bytes;
}

static void *cpu_native(void *self, const char *what, void *object) {
    (void)object;
    hx_cpu *cpu = self;
    if (strcmp(what, "cpu") == 0) return cpu; /* for what else this folder offers: probe.h */
    return strcmp(what, "pool") == 0 ? cpu->pool : NULL;
}

const hx_backend hx_backend_cpu = {
    .name = "cpu",
    .priority = 10,
    .open = cpu_open,
    .close = cpu_close,
    .props = cpu_props,
    .native = cpu_native,
    HX_HOST_BACKEND_SLOTS,
};

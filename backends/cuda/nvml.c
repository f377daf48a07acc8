/* Who holds a GPU's memory. The answer is in NVML, a library of the driver, which is opened when it is needed and never linked:
 * a machine may lack it, and so may the toolkit that compiles this. What is used of its interface (nvml.h, version 2 and
 * later) is declared here. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "backends/cuda/cuda_impl.h"

#define MOST_PROCESSES 32
#define MOST_TOLD      4
#define NOT_KNOWN      (~0ull) /* NVML_VALUE_NOT_AVAILABLE */

typedef void *nvml_device;
typedef struct nvml_process { /* nvmlProcessInfo_t */
    unsigned pid;
    unsigned long long n_bytes;
    unsigned gpu_instance, compute_instance;
} nvml_process;

typedef struct nvml {
    void *handle;
    int (*init)(void);
    int (*shutdown)(void);
    int (*device)(const char *bus, nvml_device *out);
    int (*processes)(nvml_device device, unsigned *n, nvml_process *out);
} nvml;

static bool open_nvml(nvml *n) {
    n->handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!n->handle) return false;
    const struct {
        void **to;
        const char *name;
    } entries[] = {{(void **)&n->init, "nvmlInit_v2"},
                   {(void **)&n->shutdown, "nvmlShutdown"},
                   {(void **)&n->device, "nvmlDeviceGetHandleByPciBusId_v2"},
                   {(void **)&n->processes, "nvmlDeviceGetComputeRunningProcesses_v2"}};
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!(*entries[i].to = dlsym(n->handle, entries[i].name))) return false;
    return n->init() == 0;
}

/* The command of a process, as ps shows it. */
static void process_name(unsigned pid, char *name, size_t n_name) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(name, (int)n_name, f)) snprintf(name, n_name, "?");
    if (f) fclose(f);
    name[strcspn(name, "\n")] = '\0';
}

static void tell(const nvml_process *list, unsigned n, char *text, size_t n_text) {
    size_t used = 0;
    for (unsigned i = 0; i < n && i < MOST_TOLD && used < n_text; i++) {
        char name[32];
        if (list[i].n_bytes == NOT_KNOWN) continue;
        process_name(list[i].pid, name, sizeof name);
        int more = snprintf(text + used, n_text - used, "; process %u (%s) holds %.1f GiB", list[i].pid, name,
                            (double)list[i].n_bytes / 0x1p30);
        used += more > 0 ? (size_t)more : 0;
    }
}

void hx__cuda_holders(const hx_cuda *cuda, char *text, size_t n_text) {
    nvml n = {0};
    nvml_device device;
    nvml_process list[MOST_PROCESSES];
    unsigned n_list = MOST_PROCESSES;
    text[0] = '\0';
    if (open_nvml(&n)) {
        if (n.device(cuda->bus, &device) == 0 && n.processes(device, &n_list, list) == 0) tell(list, n_list, text, n_text);
        n.shutdown();
    }
    if (n.handle) dlclose(n.handle);
}

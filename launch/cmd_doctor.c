/* helix doctor: what this machine offers, what is wrong with it, and what to do about that. */
#include "launch/cli.h"

#include <cblas.h>
#include <errno.h>
#include <mpi.h>
#if defined(OPEN_MPI) && __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "launch/helix.h"
#include "launch/plugin.h"

#define MAX_FINDINGS 32

typedef enum level { LEVEL_OK, LEVEL_WARN, LEVEL_FAIL } level;
static const char *const level_names[] = {"ok", "warn", "fail"};

typedef struct finding {
    const char *what; /* "MPI" */
    level level;
    char text[512];
    char advice[256]; /* "" when there is nothing to do */
} finding;

typedef struct report {
    finding findings[MAX_FINDINGS];
    int n;
} report;

/* The advice follows the text after a line break, so that one format tells both. */
static void HX_PRINTF(4, 5) add(report *r, const char *what, level l, const char *format, ...) {
    char text[1024];
    va_list args;
    if (r->n == MAX_FINDINGS) return;
    finding *f = &r->findings[r->n++];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t n = strcspn(text, "\n");
    f->what = what;
    f->level = l;
    snprintf(f->text, sizeof f->text, "%.*s", (int)n, text);
    snprintf(f->advice, sizeof f->advice, "%.255s", text[n] ? text + n + 1 : "");
}

/* ---- MPI, threads ---- */

static bool is_on_path(const char *program) {
    const char *path = getenv("PATH");
    char file[HX_PATH_BYTES];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)(n < 2048 ? n : 2048), path, program);
        if (access(file, X_OK) == 0) return true;
        path += n + (path[n] == ':');
    }
    return false;
}

static void check_mpi(report *r, hx_session *s) {
    static const char *const thread_levels[] = {"SINGLE", "FUNNELED", "SERIALIZED", "MULTIPLE"};
    char library[128];
    const char *tasks = getenv("SLURM_NTASKS");
    hx__mpi_version(library, sizeof library);
    if (hx_comm_mpi_handle(s->world)) {
        int provided = 0;
        MPI_Query_thread(&provided);
        add(r, "MPI", LEVEL_OK, "%s, %d ranks, thread level %s; data go by %s", library, hx_comm_size(s->world),
            provided >= 0 && provided < 4 ? thread_levels[provided] : "unknown", hx_comm_transport(s->world));
    } else if (tasks && strcmp(tasks, "1") != 0) {
        add(r, "MPI", LEVEL_FAIL, "%s; Slurm says %.16s tasks, but this process was not started as one of them\n"
            "use srun --mpi=pmix, or mpirun inside the allocation", library, tasks);
    } else if (!is_on_path("mpirun")) {
        add(r, "MPI", LEVEL_WARN, "%s, but mpirun is not on the PATH: one process only\n"
            "apt-get install openmpi-bin", library);
    } else {
        add(r, "MPI", LEVEL_OK, "%s; not started by mpirun, so this is one process (mpirun -n 2 helix doctor checks MPI)", library);
    }
}

/* Asked for, and of no consequence: dist/comm/device.c says why. What was built can be asked without MPI, what is at work only with it. */
static void check_cuda_aware(report *r, hx_session *s) {
#ifdef MPIX_CUDA_AWARE_SUPPORT
    const bool is_aware = hx_comm_mpi_handle(s->world) ? MPIX_Query_cuda_support() == 1 : MPIX_CUDA_AWARE_SUPPORT;
    const char *answer = is_aware ? "yes" : "no";
#else
    (void)s;
    const char *answer = "this MPI does not tell";
#endif
    add(r, "CUDA-aware", LEVEL_OK, "%s; MPI is given the host's memory only: that of GPUs goes by NCCL, or through pinned memory", answer);
}

static void check_shared_memory(report *r) {
    struct statvfs fs;
    if (statvfs("/dev/shm", &fs) != 0) {
        add(r, "shared memory", LEVEL_WARN, "/dev/shm: %s\nranks of one host will talk through slower paths", strerror(errno));
        return;
    }
    double mib = (double)fs.f_bavail * (double)fs.f_frsize / 0x1p20;
    if (mib < 128) {
        add(r, "shared memory", LEVEL_WARN, "/dev/shm has %.0f MiB free\nranks of one host exchange data there: docker run --shm-size=1g", mib);
    } else {
        add(r, "shared memory", LEVEL_OK, "/dev/shm has %.0f MiB free", mib);
    }
}

static void check_threads(report *r, const hx_session *s) {
    const hx_placement *p = &s->placement;
    int n_threads = hx__session_threads(s);
    if (p->quota > 0 && p->quota < p->n_local_ranks) {
        add(r, "threads", LEVEL_WARN, "the container may use %.2f CPUs, %d ranks share them\nstart fewer ranks, or raise the quota", p->quota, p->n_local_ranks);
    } else if (p->n_share < 0.99) {
        add(r, "threads", LEVEL_WARN, "%d ranks on this host share %d cores (%s)\nstart at most one rank per core", p->n_local_ranks, p->n_cores, p->cores);
    } else if (n_threads > p->n_share + 0.01) {
        add(r, "threads", LEVEL_WARN, "%d threads, but only %.1f cores are this rank's\nleave --threads out", n_threads, p->n_share);
    } else {
        add(r, "threads", LEVEL_OK, "%d of %d cores bound (%s), %d rank(s) on this host, %d thread(s) for this rank",
            (int)p->n_share, p->n_cores, p->cores, p->n_local_ranks, n_threads);
    }
}

/* ---- BLAS, devices ---- */

/* The widest instruction set that OpenBLAS's kernels for a core use: 2 AVX-512, 1 AVX2, 0 less. */
static int blas_width(const char *core) {
    static const struct {
        const char *core;
        int width;
    } table[] = {{"SkylakeX", 2}, {"Cooperlake", 2}, {"SapphireRapids", 2}, {"Haswell", 1}, {"Zen", 1}, {"Excavator", 1}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcasecmp(core, table[i].core) == 0) return table[i].width;
    return 0;
}

static int cpu_width(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* OpenBLAS picks its kernels by CPU; variables override the choice, and a shell that sets them halves the speed. */
static void check_blas(report *r) {
    static const char *const sets[] = {"SSE", "AVX2", "AVX-512"};
    const char *forced = getenv("OPENBLAS_CORETYPE"), *cache = getenv("OPENBLAS_L2_SIZE"), *core = openblas_get_corename();
    int width = cpu_width();
    if (blas_width(core) < width && forced) {
        add(r, "BLAS", LEVEL_WARN, "OpenBLAS uses %s kernels because OPENBLAS_CORETYPE=%.32s; this CPU has %s\nunset OPENBLAS_CORETYPE",
            core, forced, sets[width]);
    } else if (blas_width(core) < width) {
        add(r, "BLAS", LEVEL_WARN, "OpenBLAS uses %s kernels although this CPU has %s\na newer OpenBLAS knows more CPUs; OPENBLAS_CORETYPE=%s forces wider kernels",
            core, sets[width], width == 2 ? "SkylakeX" : "Haswell");
    } else if (cache) {
        add(r, "BLAS", LEVEL_WARN, "OPENBLAS_L2_SIZE=%.32s overrides what OpenBLAS knows of this CPU's cache\nunset OPENBLAS_L2_SIZE", cache);
    } else {
        add(r, "BLAS", LEVEL_OK, "%s, kernels for %s", openblas_get_config(), core);
    }
}

static void check_cuda(report *r, const hx_session *s) {
    const hx_plugin *plugin;
    int n;
    if (!hx_plugin_cuda_expected()) {
        add(r, "GPU", LEVEL_OK, "no NVIDIA driver here (neither /dev/nvidiactl nor /dev/nvidia0 nor /dev/dxg)");
    } else if (hx_plugin_cuda(&plugin) != HX_OK || plugin->n_devices(&n) != HX_OK) {
        add(r, "GPU", LEVEL_WARN, "%.400s\n--device=cpu goes without", hx_error_message());
    } else if (s->placement.n_local_ranks > n) {
        add(r, "GPU", LEVEL_WARN, "%d for %d ranks on this host\nstart at most one rank for each", n, s->placement.n_local_ranks);
    } else {
        add(r, "GPU", LEVEL_OK, "%d for %d rank(s) on this host", n, s->placement.n_local_ranks);
    }
}

static void check_devices(report *r) {
    for (int i = 0; hx_backend_at(i); i++) {
        const char *name = hx_backend_at(i)->name;
        hx_device *device = NULL;
        hx_device_props props;
        if (hx_device_open(name, &(hx_device_config){.n_threads = 1}, &device) != HX_OK) {
            add(r, "device", LEVEL_WARN, "%s cannot be opened: %.300s", name, hx_error_message());
            continue;
        }
        hx_device_props_get(device, &props);
        add(r, "device", LEVEL_OK, "%s: %s, %.1f GiB", name, props.name, (double)props.memory_bytes / 0x1p30);
        hx_device_close(&device);
    }
}

/* ---- disk ---- */

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The nearest folder above `path` that exists: where the run's folder will be made. */
static void existing_folder(const char *path, char out[HX_PATH_BYTES]) {
    struct stat st;
    snprintf(out, HX_PATH_BYTES, "%s", path);
    while (stat(out, &st) != 0 || !S_ISDIR(st.st_mode)) {
        char *slash = strrchr(out, '/');
        if (!slash || slash == out) {
            snprintf(out, HX_PATH_BYTES, "%s", slash ? "/" : ".");
            return;
        }
        *slash = '\0';
    }
}

static void check_disk(report *r, const char *folder) {
    struct statvfs fs;
    if (statvfs(folder, &fs) != 0) {
        add(r, "disk", LEVEL_FAIL, "%.200s: %s\nchoose another folder with --out", folder, strerror(errno));
        return;
    }
    double gib = (double)fs.f_bavail * (double)fs.f_frsize / 0x1p30;
    level l = gib < 0.05 ? LEVEL_FAIL : gib < 2 ? LEVEL_WARN : LEVEL_OK;
    add(r, "disk", l, "%.200s has %.1f GiB free%s", folder, gib,
        l == LEVEL_OK ? "" : "\na checkpoint takes 12 bytes per parameter; make room, or choose another folder with --out");
}

/* Collective. */
static void check_hdf5(report *r, hx_session *s, const char *folder) {
    double start = now_s();
    if (hx_ckpt_self_test(s->world, folder) == HX_OK) {
        add(r, "HDF5", LEVEL_OK, "%d rank(s) wrote a file together in %.200s and read it back in %.2f s", hx_comm_size(s->world), folder, now_s() - start);
    } else {
        add(r, "HDF5", LEVEL_FAIL, "%.400s\nchoose another folder with --out; network file systems need locks for parallel writing", hx_error_message());
    }
}

/* ---- the report ---- */

static void print_report(const report *r) {
    for (int i = 0; i < r->n; i++) {
        const finding *f = &r->findings[i];
        printf("%-4s  %-13s  %s\n", level_names[f->level], f->what, f->text);
        if (f->advice[0]) printf("      %-13s  -> %s\n", "", f->advice);
    }
}

static hx_status print_report_json(const report *r, level worst) {
    json_t *list = json_array();
    for (int i = 0; i < r->n; i++) {
        const finding *f = &r->findings[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "what", f->what, "level", level_names[f->level], "text",
                                              f->text, "advice", f->advice));
    }
    return hx__print_json(json_pack("{s:s, s:s, s:o}", "helix", hx_version(), "level", level_names[worst], "findings", list));
}

hx_status hx_cmd_doctor(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    report r = {.n = 0};
    level worst = LEVEL_OK;
    char folder[HX_PATH_BYTES];
    HX_TRY(hx__cli_read(hx_command_find("doctor"), cli, argc, argv));
    HX_TRY(hx_session_open(&cli->config, session));
    hx_session *s = *session;
    existing_folder(cli->config.run.out, folder);
    add(&r, "helix", LEVEL_OK, "%s", hx_version());
    check_mpi(&r, s);
    check_cuda_aware(&r, s);
    check_shared_memory(&r);
    check_threads(&r, s);
    check_blas(&r);
    check_cuda(&r, s);
    check_devices(&r);
    check_disk(&r, folder);
    check_hdf5(&r, s, folder);
    for (int i = 0; i < r.n; i++)
        if (r.findings[i].level > worst) worst = r.findings[i].level;
    cli->exit_code = worst == LEVEL_FAIL ? 1 : 0;
    if (hx_comm_rank(s->world) != 0) return HX_OK;
    if (cli->own.json) return print_report_json(&r, worst);
    print_report(&r);
    return HX_OK;
}

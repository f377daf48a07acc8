/* helix bench cpu: each case of the tables in a process of its own, so that its peak of memory is its own and no case meets the
 * blocks, the caches or the plans that another one left. This process opens no device and starts no thread: it can fork. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/backends.h"
#include "core/base/threads.h"
#include "launch/bench_impl.h"
#include "launch/helix.h"

#define SAMPLE_S   0.02 /* calls are timed in batches of about this much */
#define MOST_CALLS 100000

typedef struct figures {
    double seconds, spread; /* median; half the distance of the quartiles by it */
    double n_flops, n_bytes; /* of a call */
    double peak_bytes;      /* of the process */
} figures;

/* One child's work, and what it leaves: in memory shared with its parent. */
typedef struct job {
    const hx_bench_case *c; /* NULL: the limits */
    hx_dtype dtype;
    int n_threads;
    int64_t n_rounds;
} job;

typedef struct outcome {
    hx_status status;
    char message[1024];
    hx_bench_limits limits;
    figures figures;
} outcome;

/* ---- the child ---- */

/* Mean seconds of n calls. The clock is read around each of them only where something has to be done in between. */
static hx_status time_calls(const hx_bench_case *c, hx_bench_rig *rig, int64_t n, double *seconds) {
    double total = 0, start = hx__bench_now();
    for (int64_t i = 0; i < n; i++) {
        if (c->prepare != NULL) {
            HX_TRY(c->prepare(rig));
            start = hx__bench_now();
        }
        HX_TRY(c->call(rig));
        if (c->prepare != NULL) total += hx__bench_now() - start;
    }
    HX_TRY(hx_stream_sync(rig->ctx.stream));
    *seconds = (c->prepare != NULL ? total : hx__bench_now() - start) / (double)n;
    return HX_OK;
}

/* Twice at least: the second call finds the memory that the first one obtained. @param[out] n_flops  of a call */
static hx_status warm_up(const hx_bench_case *c, hx_bench_rig *rig, double *best, double *n_flops) {
    const double start = hx__bench_now();
    *best = INFINITY;
    for (int i = 0; i < 2 || hx__bench_now() - start < SAMPLE_S; i++) {
        hx_device_stats before, after;
        double seconds;
        hx_device_stats_get(rig->ctx.device, &before);
        HX_TRY(time_calls(c, rig, 1, &seconds));
        hx_device_stats_get(rig->ctx.device, &after);
        *best = fmin(*best, seconds);
        *n_flops = after.flops - before.flops;
    }
    return HX_OK;
}

static void summarise(double *samples, int64_t n, figures *out) {
    hx__bench_sort(samples, n);
    out->seconds = (samples[(n - 1) / 2] + samples[n / 2]) / 2;
    out->spread = (samples[n - 1 - n / 4] - samples[n / 4]) / 2 / out->seconds;
}

static hx_status measure(const job *j, hx_bench_rig *rig, figures *out) {
    double best, *samples;
    HX_TRY(warm_up(j->c, rig, &best, &out->n_flops));
    const int64_t n_calls = (int64_t)fmin(MOST_CALLS, fmax(1, SAMPLE_S / best));
    HX_TRY(hx_mem_alloc_array(j->n_rounds, sizeof *samples, (void **)&samples));
    hx_status status = HX_OK;
    for (int64_t i = 0; i < j->n_rounds && status == HX_OK; i++) status = time_calls(j->c, rig, n_calls, &samples[i]);
    if (status == HX_OK) summarise(samples, j->n_rounds, out);
    hx_mem_free((void **)&samples);
    out->n_bytes = rig->n_bytes;
    out->peak_bytes = (double)hx_mem_peak_bytes();
    return status;
}

static hx_status run_case(const job *j, hx_bench_rig *rig, figures *out) {
    hx_status status = j->c->open(rig);
    if (status == HX_OK) status = measure(j, rig, out);
    j->c->close(rig);
    return status;
}

static hx_status do_job(const job *j, outcome *out) {
    hx_bench_rig rig = {.dtype = j->dtype};
    hx_ctx *ctx = &rig.ctx;
    hx_status status;
    HX_TRY(hx_backend_register(&hx_backend_cpu));
    HX_TRY(hx_device_open("cpu", &(hx_device_config){.n_threads = j->n_threads}, &ctx->device));
    HX_TRY_GOTO(hx_stream_create(ctx->device, &ctx->stream), done);
    HX_TRY_GOTO(hx_tape_create(ctx->device, &ctx->tape), done);
    rig.row = j->c != NULL ? j->c->row : NULL;
    status = j->c != NULL ? run_case(j, &rig, &out->figures) : hx__bench_limits_measure(ctx->device, &out->limits);
done:
    hx_tape_destroy(&ctx->tape);
    hx_stream_destroy(&ctx->stream);
    hx_device_close(&ctx->device);
    return status;
}

/* ---- its parent ---- */

static hx_status wait_for(pid_t child, const job *j, const outcome *shared) {
    const char *name = j->c != NULL ? j->c->name : "the limits";
    int code;
    while (waitpid(child, &code, 0) < 0)
        if (errno != EINTR) return HX_FAIL(HX_ERR_INTERNAL, "helix bench cpu: waiting for %s: %s", name, strerror(errno));
    if (WIFSIGNALED(code) && WTERMSIG(code) == SIGKILL)
        return HX_FAIL(HX_ERR_MEMORY, "helix bench cpu: the process of %s was killed: perhaps for want of memory", name);
    if (WIFSIGNALED(code)) return HX_FAIL(HX_ERR_INTERNAL, "helix bench cpu: the process of %s was ended by signal %d", name, WTERMSIG(code));
    if (shared->status != HX_OK) return hx_error_adopt(shared->status, shared->message);
    return WEXITSTATUS(code) == 0 ? HX_OK : HX_FAIL(HX_ERR_INTERNAL, "helix bench cpu: the process of %s left with code %d", name, WEXITSTATUS(code));
}

/* Do the job in a child. */
static hx_status run_job(const job *j, outcome *out) {
    outcome *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return HX_FAIL(HX_ERR_MEMORY, "helix bench cpu: %zu bytes to share: %s", sizeof *shared, strerror(errno));
    fflush(stdout); /* or the child would print it again */
    const pid_t parent = getpid(), child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* or it would go on measuring, for nobody, where the parent is killed */
        if (getppid() != parent) _exit(1);
        shared->status = do_job(j, shared);
        snprintf(shared->message, sizeof shared->message, "%s", shared->status == HX_OK ? "" : hx_error_message());
        exit(0);
    }
    hx_status status;
    if (child > 0) status = wait_for(child, j, shared);
    else status = HX_FAIL(HX_ERR_INTERNAL, "helix bench cpu: fork: %s", strerror(errno));
    if (status == HX_OK) *out = *shared;
    munmap(shared, sizeof *shared);
    return status;
}

/* ---- the report ---- */

static void time_text(double seconds, char out[24]) {
    static const char *const units[] = {"s", "ms", "us"};
    int i = 0;
    while (i < 2 && seconds < 1) {
        seconds *= 1000;
        i++;
    }
    snprintf(out, 24, "%.4g %s", seconds, units[i]);
}

static void print_head(void) {
    printf("%-14s %-4s %10s %7s %9s %8s  %s\n", "case", "type", "median", "+-", "GFLOP/s", "GB/s", "of the limit");
}

static void print_row(const job *j, const figures *f, double share, const char *bound) {
    char median[24], of[24];
    time_text(f->seconds, median);
    snprintf(of, sizeof of, "%.1f %% %s", 100 * share, bound);
    printf("%-14s %-4s %10s %5.1f %% %9.2f %8.2f  %-14s ", j->c->name, hx_dtype_name(j->dtype), median, 100 * f->spread,
           1e-9 * f->n_flops / f->seconds, 1e-9 * f->n_bytes / f->seconds, of);
    if (j->c->is_training) printf("%.5g %s/s, %.0f MiB: ", j->c->n_units / f->seconds, j->c->unit, f->peak_bytes / 0x1p20);
    printf("%s\n", j->c->what);
    fflush(stdout);
}

static hx_status print_json_row(const job *j, const figures *f, double share, const char *bound) {
    const double rate = j->c->unit != NULL ? j->c->n_units / f->seconds : NAN;
    return hx__print_json(json_pack("{s:s, s:s, s:s+, s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:s?, s:I}", "case", j->c->name, "dtype",
                                    hx_dtype_name(j->dtype), "library", "helix ", hx_version(), "threads", j->n_threads, "rounds",
                                    (json_int_t)j->n_rounds, "seconds", hx__json_real(f->seconds), "spread", hx__json_real(f->spread), "gflops",
                                    hx__json_real(1e-9 * f->n_flops / f->seconds), "gbytes_per_s", hx__json_real(1e-9 * f->n_bytes / f->seconds),
                                    "share", hx__json_real(share), "bound", bound, "rate", hx__json_real(rate), "unit", j->c->unit, "peak_bytes",
                                    (json_int_t)f->peak_bytes));
}

static hx_status report(const job *j, const hx_bench_limits *limits, const figures *f, bool json) {
    const char *bound;
    const double share = hx__bench_limits_share(limits, j->dtype, f->n_flops, f->n_bytes, f->seconds, &bound);
    if (json) return print_json_row(j, f, share, bound);
    print_row(j, f, share, bound);
    return HX_OK;
}

static hx_status report_limits(const hx_bench_limits *limits, int n_threads, bool json) {
    if (json)
        return hx__print_json(json_pack("{s:s, s:s, s:i, s:o}", "helix", hx_version(), "device", limits->device, "threads", n_threads, "limits",
                                        hx__bench_limits_json(limits)));
    hx__bench_limits_print(limits, n_threads);
    print_head();
    return HX_OK;
}

/* ---- which cases ---- */

static int n_cases(void) { return hx__bench_n_train_cases + hx__bench_n_op_cases; }

static const hx_bench_case *case_at(int i) {
    return i < hx__bench_n_train_cases ? &hx__bench_train_cases[i] : &hx__bench_op_cases[i - hx__bench_n_train_cases];
}

static bool is_chosen(const hx_bench_case *c, const hx_word_list *only) {
    for (int i = 0; i < only->n; i++)
        if (strstr(c->name, only->items[i]) != NULL) return true;
    return only->n == 0;
}

/* Every word has to choose something. */
static hx_status check_words(const hx_word_list *only) {
    char names[1024] = "";
    for (int i = 0, n = 0; i < n_cases(); i++) n += snprintf(names + n, sizeof names - (size_t)n, "%s%s", i > 0 ? ", " : "", case_at(i)->name);
    for (int w = 0; w < only->n; w++) {
        int i = 0;
        while (i < n_cases() && strstr(case_at(i)->name, only->items[w]) == NULL) i++;
        if (i == n_cases()) return HX_FAIL(HX_ERR_CONFIG, "--only %.64s: no case has that in its name: %s", only->items[w], names);
    }
    return HX_OK;
}

static void print_cases(const hx_word_list *only) {
    for (int i = 0; i < n_cases(); i++)
        if (is_chosen(case_at(i), only)) printf("%s\t%s\n", case_at(i)->name, case_at(i)->what);
}

static hx_status run_cases(const hx_cli_config *own, int n_threads, const hx_word_list *only, const hx_bench_limits *limits) {
    static const hx_dtype dtypes[] = {HX_F32, HX_BF16};
    outcome out;
    for (int i = 0; i < n_cases(); i++)
        for (int d = 0; d < 2; d++) {
            const job j = {.c = case_at(i), .dtype = dtypes[d], .n_threads = n_threads, .n_rounds = own->rounds};
            if (!is_chosen(j.c, only) || (d > 0 && !(own->bf16 && j.c->is_training))) continue;
            HX_TRY(run_job(&j, &out));
            HX_TRY(report(&j, limits, &out.figures, own->json));
        }
    return HX_OK;
}

/* The cores are the default, so that a 0 was asked for. */
static hx_status check_threads(int64_t n_threads, int n_cores) {
    if (n_threads >= 1 && n_threads <= n_cores) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "helix bench cpu --threads %lld: expected 1 to %d, the cores that this process may run on", (long long)n_threads,
                   n_cores);
}

/* A launcher would start the same on each of its ranks. */
static hx_status check_alone(void) {
    int rank, n_ranks;
    hx_comm_local(&rank, &n_ranks);
    if (n_ranks == 1) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "helix bench cpu: %d ranks would disturb each other; start it without mpirun", n_ranks);
}

hx_status hx__bench_cpu(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    const int n_cores = hx_usable_cores();
    hx_word_list only;
    outcome out;
    (void)session;
    cli->config.run.threads = n_cores;
    HX_TRY(hx__cli_read(hx_command_find("bench cpu"), cli, argc, argv));
    HX_TRY(check_threads(cli->config.run.threads, n_cores));
    HX_TRY(hx_word_list_of(cli->own.only, &only));
    HX_TRY(check_words(&only));
    HX_TRY(check_alone());
    if (cli->own.list) {
        print_cases(&only);
        return HX_OK;
    }
    const int n_threads = (int)cli->config.run.threads;
    HX_TRY(run_job(&(job){.dtype = HX_F32, .n_threads = n_threads}, &out));
    const hx_bench_limits limits = out.limits;
    HX_TRY(report_limits(&limits, n_threads, cli->own.json));
    return run_cases(&cli->own, n_threads, &only, &limits);
}

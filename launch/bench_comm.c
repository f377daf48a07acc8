/* helix bench comm: how fast ranks exchange host memory, beside plain MPI in the same run. */
#include "launch/bench_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "launch/helix.h"

#define BATCH_BYTES (1 << 20) /* small collectives are timed in batches of about this much */
#define MAX_BATCH   64
#define MIN_RUNS    5
#define MAX_RUNS    41
#define BUDGET_S    0.5 /* for one line of the table and one transport */
#define SIZE_STEP   8

enum { OURS, PLAIN, N_TRANSPORTS };

/* One transport: its communicator, and buffers as it likes them best. */
typedef struct transport {
    hx_comm *comm;
    void *data, *source; /* [bytes] of f32 */
} transport;

typedef struct bench {
    hx_device *device;
    hx_stream *stream;
    transport t[N_TRANSPORTS];
    hx_event *done[MAX_BATCH];
} bench;

/* `count` elements in all; those of a block are count / ranks. */
static hx_status all_reduce(const transport *t, int64_t count, hx_stream *stream, hx_event *done) {
    return hx_comm_all_reduce(t->comm, t->data, count, HX_F32, HX_SUM, stream, done);
}

static hx_status reduce_scatter(const transport *t, int64_t count, hx_stream *stream, hx_event *done) {
    return hx_comm_reduce_scatter(t->comm, t->data, count / hx_comm_size(t->comm), HX_F32, HX_SUM, stream, done);
}

static hx_status all_gather(const transport *t, int64_t count, hx_stream *stream, hx_event *done) {
    return hx_comm_all_gather(t->comm, t->data, count / hx_comm_size(t->comm), HX_F32, stream, done);
}

static hx_status all_to_all(const transport *t, int64_t count, hx_stream *stream, hx_event *done) {
    return hx_comm_all_to_all(t->comm, t->source, t->data, count / hx_comm_size(t->comm), HX_F32, stream, done);
}

static hx_status broadcast(const transport *t, int64_t count, hx_stream *stream, hx_event *done) {
    return hx_comm_broadcast(t->comm, t->data, count, HX_F32, 0, stream, done);
}

static const struct {
    const char *name;
    hx_status (*run)(const transport *t, int64_t count, hx_stream *stream, hx_event *done);
    bool has_source;
} ops[] = {
    {"all_reduce", all_reduce, false},   {"reduce_scatter", reduce_scatter, false}, {"all_gather", all_gather, false},
    {"all_to_all", all_to_all, true},    {"broadcast", broadcast, false},
};
enum { N_OPS = sizeof ops / sizeof *ops };

/* ---- buffers ---- */

static hx_status alloc_one(bench *b, int which, size_t n_bytes, void **out) {
    HX_TRY(which == OURS ? hx_device_alloc(b->device, HX_POOL_COMM, n_bytes, out) : hx_mem_alloc(n_bytes, out));
    memset(*out, 0, n_bytes); /* zeros stay finite however often they are added; and every page is there */
    return HX_OK;
}

static void free_one(bench *b, int which, size_t n_bytes, void **p) {
    if (which == PLAIN)
        hx_mem_free(p);
    else
        hx_device_free(b->device, HX_POOL_COMM, *p, n_bytes);
    *p = NULL;
}

static void free_buffers(bench *b, size_t n_bytes) {
    for (int i = 0; i < N_TRANSPORTS; i++) {
        free_one(b, i, n_bytes, &b->t[i].data);
        free_one(b, i, n_bytes, &b->t[i].source);
    }
    hx_device_trim(b->device);
}

static hx_status alloc_buffers(bench *b, size_t n_bytes, bool has_source) {
    for (int i = 0; i < N_TRANSPORTS; i++) {
        HX_TRY(alloc_one(b, i, n_bytes, &b->t[i].data));
        if (has_source) HX_TRY(alloc_one(b, i, n_bytes, &b->t[i].source));
    }
    return HX_OK;
}

/* ---- measuring ---- */

/* Seconds of one collective: the mean of a batch that all ranks begin together. */
static hx_status time_batch(bench *b, int op, int which, int64_t count, int n_batch, double *seconds) {
    transport *t = &b->t[which];
    HX_TRY(hx_comm_barrier(t->comm));
    double start = hx__bench_now();
    for (int i = 0; i < n_batch; i++) HX_TRY(ops[op].run(t, count, b->stream, b->done[i]));
    HX_TRY(hx_event_sync(b->done[n_batch - 1]));
    *seconds = (hx__bench_now() - start) / n_batch;
    return HX_OK;
}

/* Collective. Medians of interleaved runs, so that a disturbance meets both. @param[out] median [N_TRANSPORTS] */
static hx_status measure(bench *b, int op, int64_t count, double *median) {
    double samples[N_TRANSPORTS][MAX_RUNS], slowest = 0;
    int64_t fit = BATCH_BYTES / (count * 4);
    int n_batch = fit < 1 ? 1 : fit > MAX_BATCH ? MAX_BATCH : (int)fit;
    for (int i = 0; i < 2 * N_TRANSPORTS; i++) { /* the first run of each finds mappings and pages */
        HX_TRY(time_batch(b, op, i % N_TRANSPORTS, count, n_batch, &median[i % N_TRANSPORTS]));
        if (i >= N_TRANSPORTS && median[i % N_TRANSPORTS] > slowest) slowest = median[i % N_TRANSPORTS];
    }
    HX_TRY(hx_comm_all_reduce(b->t[OURS].comm, &slowest, 1, HX_F64, HX_MAX, NULL, NULL));
    double runs = BUDGET_S / (slowest * n_batch + 1e-9);
    int n_runs = runs < MIN_RUNS ? MIN_RUNS : runs > MAX_RUNS ? MAX_RUNS : (int)runs;
    for (int run = 0; run < n_runs; run++)
        for (int i = 0; i < N_TRANSPORTS; i++) HX_TRY(time_batch(b, op, i, count, n_batch, &samples[i][run]));
    for (int i = 0; i < N_TRANSPORTS; i++) {
        hx__bench_sort(samples[i], n_runs);
        median[i] = samples[i][n_runs / 2];
    }
    return HX_OK;
}

/* ---- the report ---- */

static void size_text(int64_t n_bytes, char out[24]) {
    bool is_mib = n_bytes >= 1 << 20;
    snprintf(out, 24, "%.4g %s", (double)n_bytes / (is_mib ? 1 << 20 : 1 << 10), is_mib ? "MiB" : "KiB");
}

static void print_head(const bench *b) {
    printf("%d ranks on f32: %s, beside plain MPI. Medians; GB/s are bytes of a rank's buffer by time.\n\n", hx_comm_size(b->t[OURS].comm),
           hx_comm_transport(b->t[OURS].comm));
    printf("%-15s %9s %12s %9s   %12s %9s   %s\n", "collective", "buffer", "us", "GB/s", "MPI: us", "GB/s", "times as fast");
}

static void print_row(int op, int64_t n_bytes, const double *s) {
    char size[24];
    size_text(n_bytes, size);
    printf("%-15s %9s %12.1f %9.3f   %12.1f %9.3f   %.2f\n", ops[op].name, size, 1e6 * s[OURS], 1e-9 * (double)n_bytes / s[OURS],
           1e6 * s[PLAIN], 1e-9 * (double)n_bytes / s[PLAIN], s[PLAIN] / s[OURS]);
    fflush(stdout);
}

static json_t *json_row(int op, int64_t n_bytes, const double *s) {
    return json_pack("{s:s, s:I, s:o, s:o}", "collective", ops[op].name, "bytes", (json_int_t)n_bytes, "seconds",
                     hx__json_real(s[OURS]), "mpi_seconds", hx__json_real(s[PLAIN]));
}

/* 8 times as large, the last one as large as allowed; 0: that was the last. */
static int64_t next_size(int64_t n_bytes, int64_t max) {
    if (n_bytes >= max) return 0;
    return n_bytes < max / SIZE_STEP ? n_bytes * SIZE_STEP : max;
}

/* Collective. */
static hx_status run_table(bench *b, const hx_cli_config *own, json_t *rows) {
    int size = hx_comm_size(b->t[OURS].comm);
    bool speaks = hx_comm_rank(b->t[OURS].comm) == 0;
    if (speaks && !own->json) print_head(b);
    for (int op = 0; op < N_OPS; op++)
        for (int64_t n_bytes = own->min; n_bytes != 0; n_bytes = next_size(n_bytes, own->max)) {
            double median[N_TRANSPORTS];
            int64_t count = n_bytes / 4 / size * size;
            if (count == 0) continue;
            hx_status status = hx_comm_agree(b->t[OURS].comm, alloc_buffers(b, (size_t)n_bytes, ops[op].has_source));
            if (status == HX_OK) status = measure(b, op, count, median);
            free_buffers(b, (size_t)n_bytes);
            HX_TRY(status);
            if (speaks && own->json) json_array_append_new(rows, json_row(op, n_bytes, median));
            if (speaks && !own->json) print_row(op, n_bytes, median);
        }
    return HX_OK;
}

/* A world of its own that does without shared memory. */
static hx_status open_plain(hx_comm **out) {
    const char *mode = getenv("HELIX_SHM");
    char before[32];
    snprintf(before, sizeof before, "%s", mode ? mode : "");
    setenv("HELIX_SHM", "off", 1);
    hx_status status = hx_comm_mpi_open(out);
    setenv("HELIX_SHM", before, 1);
    return status;
}

static hx_status bench_comm(hx_cli *cli, hx_session *s) {
    bench b = {.device = s->device, .stream = s->stream, .t[OURS].comm = s->world};
    json_t *rows = json_array();
    hx_status status;
    HX_TRY_GOTO(open_plain(&b.t[PLAIN].comm), done);
    for (int i = 0; i < MAX_BATCH; i++) HX_TRY_GOTO(hx_event_create(b.device, &b.done[i]), done);
    HX_TRY_GOTO(run_table(&b, &cli->own, rows), done);
    if (cli->own.json && hx_comm_rank(s->world) == 0)
        HX_TRY_GOTO(hx__print_json(json_pack("{s:s, s:i, s:s, s:O}", "helix", hx_version(), "ranks", hx_comm_size(s->world), "transport",
                                             hx_comm_transport(s->world), "rows", rows)), done);
    status = HX_OK;
done:
    json_decref(rows);
    hx_comm_close(&b.t[PLAIN].comm);
    for (int i = 0; i < MAX_BATCH; i++) hx_event_destroy(&b.done[i]);
    return status;
}

hx_status hx__bench_comm(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    HX_TRY(hx__cli_read(hx_command_find("bench comm"), cli, argc, argv));
    snprintf(cli->config.run.device, sizeof cli->config.run.device, "cpu"); /* memory of the host is what is measured */
    HX_TRY(hx_session_open(&cli->config, session));
    if (hx_comm_size((*session)->world) < 2)
        return HX_FAIL(HX_ERR_CONFIG, "helix bench comm: one rank has nobody to talk to; start it by mpirun -n 2");
    return hx__session_fail(*session, bench_comm(cli, *session));
}

/* Seconds of saving and of loading a checkpoint of a GPT of 124 million parameters with AdamW's moments in f32, 1.5 GB.
 *     mpirun -n 2 bench_ckpt FOLDER [flat|columns|copies|async] [layers]
 * flat: each rank holds a flat share of every tensor; columns: matrices are cut by columns, so that rows of the file interleave; copies: each rank
 * holds all, as data-parallel ranks do. Prints
 * the seconds of both, bytes of the state, and the most memory that a rank took beside it.
 * async: flat shares, saved at once and then twice beside a computation that stands for a step's forward and backward: matrix products,
 * of which two seconds' worth fit between the save and the update. Prints the seconds of the save that is waited for; of each of the
 * others what the slowest rank stood still for, in the call and before the update; and the computation's time by that of it alone. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backends/backends.h"
#include "core/base/mem.h"
#include "core/op/ops.h"
#include "io/ckpt/ckpt.h"

enum { DIM = 768, VOCAB = 50257, CONTEXT = 1024, MOST = 3 * (12 * 12 + 4) };

static hx_comm *comm;
static hx_layout layouts[MOST];
static hx_state_item items[MOST];
static hx_state_list list = {.items = items};
static int64_t n_bytes;

static void must(hx_status status) {
    if (status == HX_OK) return;
    fprintf(stderr, "bench_ckpt: %s\n", hx_error_message());
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef enum cut { FLAT, COLUMNS, COPIES, ASYNC } cut;

static void add(const char *slot, const char *name, hx_shape shape, cut way) {
    int64_t rank = hx_comm_rank(comm), size = hx_comm_size(comm), i = list.n_items++;
    hx_layout full;
    must(hx_layout_full(&shape, &full));
    if (way == COPIES) {
        must(hx_layout_full(&shape, &layouts[i]));
    } else if (way == COLUMNS && shape.ndim == 2) {
        int64_t begin = shape.dims[1] * rank / size;
        must(hx_layout_slice(&shape, 1, begin, shape.dims[1] * (rank + 1) / size - begin, &layouts[i]));
    } else {
        int64_t n = hx_shape_count(&shape);
        must(hx_layout_restrict(&full, n * rank / size, n * (rank + 1) / size, &layouts[i]));
    }
    hx_layout_destroy(&full);
    items[i] = (hx_state_item){.dtype = HX_F32, .layout = &layouts[i], .n_replicas = 1, .is_steady = true};
    if (way == COPIES) items[i].replica = (int)rank, items[i].n_replicas = (int)size;
    snprintf(items[i].name, sizeof items[i].name, "/%s/%s", slot, name);
    int64_t n = hx_layout_count(&layouts[i]);
    must(hx_mem_alloc((size_t)n * sizeof(float), &items[i].data));
    for (int64_t k = 0; k < n; k++) ((float *)items[i].data)[k] = (float)((uint32_t)(k + i) * 2654435761u);
    n_bytes += hx_shape_count(&shape) * (int64_t)sizeof(float);
}

static void add_slot(const char *slot, int layers, cut way) {
    static const struct { const char *name; hx_shape shape; } parts[] = {
        {"norm1.weight", {1, {DIM}}}, {"norm1.bias", {1, {DIM}}}, {"qkv.weight", {2, {3 * DIM, DIM}}}, {"qkv.bias", {1, {3 * DIM}}},
        {"proj.weight", {2, {DIM, DIM}}}, {"proj.bias", {1, {DIM}}}, {"norm2.weight", {1, {DIM}}}, {"norm2.bias", {1, {DIM}}},
        {"up.weight", {2, {4 * DIM, DIM}}}, {"up.bias", {1, {4 * DIM}}}, {"down.weight", {2, {DIM, 4 * DIM}}}, {"down.bias", {1, {DIM}}}};
    char name[64];
    add(slot, "tokens", HX_SHAPE(VOCAB, DIM), way);
    add(slot, "positions", HX_SHAPE(CONTEXT, DIM), way);
    add(slot, "norm.weight", HX_SHAPE(DIM), way);
    add(slot, "norm.bias", HX_SHAPE(DIM), way);
    for (int l = 0; l < layers; l++)
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            snprintf(name, sizeof name, "blocks.%d.%s", l, parts[p].name);
            add(slot, name, parts[p].shape, way);
        }
}

/* Seconds of the slowest rank. */
static double slowest(double seconds) {
    must(hx_comm_all_reduce(comm, &seconds, 1, HX_F64, HX_MAX, NULL, NULL));
    return seconds;
}

static double save(const char *folder) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    hx_ckpt *ckpt;
    must(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    must(hx_comm_barrier(comm));
    double begin = now();
    must(hx_ckpt_save(ckpt, &(hx_train_state){.step = 1}, &list, false));
    double seconds = now() - begin;
    hx_ckpt_close(&ckpt);
    return slowest(seconds);
}

/* From the disk: what memory of the system holds of the file is dropped before. */
static double load(const char *folder) {
    char file[HX_PATH_BYTES];
    must(hx_ckpt_resolve(folder, file));
    int fd = open(file, O_RDONLY);
    if (fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) exit(1);
    close(fd);
    must(hx_comm_barrier(comm));
    double begin = now();
    must(hx_ckpt_load(comm, folder, &list, NULL));
    return slowest(now() - begin);
}

/* ---- beside a computation ---- */

#define STEP_SECONDS 2.0
#define MOST_STEPS   30 /* before the first save, which most runs have after many more */

enum { SIDE = 1024 }; /* of a matrix, 4 MiB */

typedef struct work {
    hx_ctx ctx;
    hx_tensor *a, *b;
    int64_t n; /* products */
} work;

static void work_open(work *w) {
    must(hx_backend_register(&hx_backend_cpu));
    must(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &w->ctx.device));
    must(hx_stream_create(w->ctx.device, &w->ctx.stream));
    must(hx_tensor_create(w->ctx.device, HX_F32, HX_SHAPE(SIDE, SIDE), &w->a));
    must(hx_tensor_create(w->ctx.device, HX_F32, HX_SHAPE(SIDE, SIDE), &w->b));
    must(hx_tensor_fill(w->ctx.stream, w->a, 0.5));
    must(hx_tensor_fill(w->ctx.stream, w->b, 0.25));
}

static void work_close(work *w) {
    hx_tensor_destroy(&w->a);
    hx_tensor_destroy(&w->b);
    hx_stream_destroy(&w->ctx.stream);
    hx_device_close(&w->ctx.device);
}

static double compute(work *w) {
    const double begin = now();
    for (int64_t i = 0; i < w->n; i++) {
        hx_tensor *c;
        must(hx_matmul(&w->ctx, w->a, w->b, &c));
        hx_tensor_destroy(&c);
    }
    must(hx_stream_sync(w->ctx.stream));
    return now() - begin;
}

/* As many products as take all ranks together STEP_SECONDS; returns the seconds. */
static double calibrate(work *w) {
    w->n = 4;
    must(hx_comm_barrier(comm));
    const double seconds = slowest(compute(w));
    w->n = 1 + (int64_t)(STEP_SECONDS / seconds * (double)w->n);
    must(hx_comm_barrier(comm));
    return slowest(compute(w));
}

static void save_beside(hx_ckpt *ckpt, work *w, int64_t step, double alone) {
    hx_save_result result;
    hx_save_end end;
    must(hx_comm_barrier(comm));
    const double begin = now();
    must(hx_ckpt_begin(ckpt, &(hx_train_state){.step = step}, &list, false, &result));
    const double call = now() - begin, beside = compute(w), reached = now();
    hx_ckpt_settle(ckpt);
    const double settle = now() - reached;
    hx_ckpt_finish(ckpt);
    if (!hx_ckpt_ended(ckpt, &end) || end.status != HX_OK) exit(1);
    const double stall = slowest(call + settle), slower = slowest(beside) / alone, written = slowest(end.seconds), waited = slowest(settle);
    if (hx_comm_rank(comm) == 0)
        printf("stall%lld %.5f waited %.5f slower%lld %.4f written %.4f ", (long long)step, stall, waited, (long long)step, slower, written);
}

/* A run's first steps, beside which the thread takes its memory. */
static void await_memory(hx_ckpt *ckpt, work *w) {
    const size_t before = hx_mem_resident_bytes();
    int64_t share;
    bool is_missing = true;
    must(hx_ckpt_share_bytes(&list, &share));
    hx_ckpt_expect(ckpt, &list);
    for (int i = 0; i < MOST_STEPS && is_missing; i++) {
        (void)calibrate(w);
        is_missing = slowest(hx_mem_resident_bytes() < before + (size_t)share) > 0;
    }
}

static void measure_async(const char *folder) {
    work w = {.n = 0};
    hx_ckpt *ckpt;
    work_open(&w);
    const double save_s = save(folder);
    must(hx_ckpt_open(comm, folder, &(hx_ckpt_config){.keep = 1, .async = 1}, "", &ckpt));
    await_memory(ckpt, &w);
    const double alone = calibrate(&w);
    for (int64_t step = 1; step <= 2; step++) save_beside(ckpt, &w, step, alone);
    hx_ckpt_close(&ckpt);
    if (hx_comm_rank(comm) == 0) printf("save %.4f alone %.4f\n", save_s, alone);
    work_close(&w);
}

static void measure_both(const char *folder) {
    const double before = (double)hx_mem_resident_bytes();
    const double write_s = save(folder), read_s = load(folder), extra = slowest((double)hx_mem_peak_bytes() - before);
    if (hx_comm_rank(comm) == 0) printf("write %.4f read %.4f bytes %lld extra %.0f\n", write_s, read_s, (long long)n_bytes, extra);
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: bench_ckpt FOLDER [flat|columns|copies|async] [layers]\n"), 2;
    static const char *const ways[] = {"flat", "columns", "copies", "async"};
    cut way = FLAT;
    while (argc > 2 && way < ASYNC && strcmp(argv[2], ways[way]) != 0) way++;
    const int layers = argc > 3 ? atoi(argv[3]) : 12;
    if (layers < 0 || layers > 12) return fprintf(stderr, "bench_ckpt: %d layers: expected 0 to 12\n", layers), 2;
    must(hx_comm_was_launched() ? hx_comm_mpi_open(&comm) : hx_comm_self_open(&comm));
    static const char *const slots[] = {"model", "optim/m", "optim/v"};
    for (int s = 0; s < 3; s++) add_slot(slots[s], layers, way);
    if (way == ASYNC) measure_async(argv[1]);
    else measure_both(argv[1]);
    for (int64_t i = 0; i < list.n_items; i++) {
        hx_layout_destroy(&layouts[i]);
        hx_mem_free(&items[i].data);
    }
    hx_comm_close(&comm);
    return 0;
}

/* Saves beside training: a thread copies what this rank is to write to memory of its own, and writes it from there.
 *   0. as soon as the state is known: the caller maps the memory, the thread takes its pages, 0.2 to 0.7 s a GB, beside the first steps
 *   1. the caller copies what is not steady (hx_state_item), and hands over: training goes on
 *   2. the thread copies the rest, while forward and backward run
 *   3. the caller settles before its update: nothing of the state is read any more
 *   4. the ranks' threads tell each other how 2 went, and write
 *
 * The copy is this rank's share after dealing out among replicas, in one piece that is kept, of huge pages where the system has them.
 * Without 0 the pages come while 2 writes them, most of whose time that is. The thread's collectives are MPI's on ckpt->mpi, so that
 * they never mingle with those of training. A save is as safe as one that is waited for: the file is published when it is whole. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "core/base/mem.h"
#include "core/base/thread.h"
#include "core/base/trace.h"
#include "io/ckpt/ckpt_impl.h"

#define HUGE_PAGE  ((size_t)2 << 20)
#define LINE_BYTES 64 /* at which a tensor's copy begins */
#define TAKE_BYTES (8 * HUGE_PAGE) /* at a time: a save need not wait for more */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; an older one refuses */
#endif
#define N_ENDS     2  /* that nobody has asked for: the last save's, and that of the one which waited for it */

struct hx__async {
    hx_ckpt *ckpt;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_copying, is_busy, is_closing; /* under the lock, as are the ends; is_copying only while is_busy */
    hx_save_end ends[N_ENDS]; /* [n_ends] */
    int n_ends;
    bool is_taking;  /* the thread takes pages behind n_taken; under the lock, as are */
    char *memory;    /* [capacity] mapped, and */
    size_t capacity, n_taken;
    /* The thread's while it is busy, else the caller's: */
    hx_state_list sources; /* what was given, and */
    hx_state_list items;   /* what is written: in `memory` */
    hx_layout *layouts;    /* [n_layouts] of both: what this rank writes of each item; owned */
    int64_t n_layouts;
    hx__stage stage;       /* made and freed by the caller */
    int64_t delay_us;      /* HELIX_TEST_COPY_MS */
    hx_train_state state;
    bool is_best;
    double began;
};

double hx__seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the share ---- */

static void forget_items(hx__async *a) {
    for (int64_t i = 0; i < a->n_layouts; i++) hx_layout_destroy(&a->layouts[i]);
    hx_mem_free((void **)&a->layouts);
    a->n_layouts = 0;
    a->items.n_items = a->sources.n_items = 0;
}

/* Adds to *n_bytes what an item's share takes. */
static hx_status add_bytes(const hx_state_item *item, const hx_layout *pieces, size_t *n_bytes) {
    const size_t own = (size_t)hx_layout_count(pieces) * hx_dtype_bytes(item->dtype);
    if (__builtin_add_overflow(*n_bytes, own + LINE_BYTES, n_bytes)) return HX_FAIL(HX_ERR_OVERFLOW, "%s does not fit into memory", item->name);
    *n_bytes -= *n_bytes % LINE_BYTES;
    return HX_OK;
}

hx_status hx_ckpt_share_bytes(const hx_state_list *items, int64_t *out) {
    size_t n_bytes = 0;
    for (int64_t i = 0; i < items->n_items; i++) {
        HX_CLEANUP(hx_layout_destroy) hx_layout pieces = {0};
        HX_TRY(hx__ckpt_pieces(&items->items[i], HX__CKPT_PIECE_BYTES, &pieces));
        HX_TRY(add_bytes(&items->items[i], &pieces, &n_bytes));
    }
    *out = (int64_t)n_bytes;
    return HX_OK;
}

static hx_status plan_share(hx__async *a, const hx_state_list *items, size_t *n_bytes) {
    forget_items(a);
    HX_TRY(hx_mem_alloc_array(items->n_items, sizeof *a->layouts, (void **)&a->layouts));
    *n_bytes = 0;
    for (int64_t i = 0; i < items->n_items; i++) {
        HX_TRY(hx__ckpt_pieces(&items->items[i], HX__CKPT_PIECE_BYTES, &a->layouts[i]));
        a->n_layouts = i + 1;
        HX_TRY(add_bytes(&items->items[i], &a->layouts[i], n_bytes));
    }
    return HX_OK;
}

static void replace_memory(hx__async *a, char *memory, size_t n_bytes) {
    pthread_mutex_lock(&a->lock);
    while (a->is_taking) pthread_cond_wait(&a->changed, &a->lock);
    if (a->memory) munmap(a->memory, a->capacity);
    a->memory = memory;
    a->capacity = n_bytes;
    a->n_taken = 0;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static hx_status reserve(hx__async *a, size_t n_bytes) {
    if (n_bytes <= a->capacity) return HX_OK;
    const size_t whole = (n_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *memory = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return HX_FAIL(HX_ERR_MEMORY, "%zu bytes for a copy of this rank's share of the checkpoint: %s; ckpt.async = off needs none", whole,
                       strerror(errno));
    (void)madvise(memory, whole, MADV_HUGEPAGE); /* a system without them has small ones */
    replace_memory(a, memory, whole);
    return HX_OK;
}

void hx__async_expect(hx__async *a, const hx_state_list *items) {
    int64_t n_bytes;
    hx__async_wait(a);
    if (hx_ckpt_share_bytes(items, &n_bytes) == HX_OK) (void)reserve(a, (size_t)n_bytes); /* a save tells what is wanting */
}

/* ---- the copy ---- */

/* Piece by piece, and from here on the boxes say where the pieces lie in the copy. */
static hx_status copy_item(hx__stage *stage, const hx_state_item *item, hx_layout *pieces, char *to) {
    const size_t elem_bytes = hx_dtype_bytes(item->dtype);
    int64_t at = 0;
    for (int b = 0; b < pieces->n_boxes; b++) {
        hx_box *box = &pieces->boxes[b];
        const int64_t n = hx_box_count(box, pieces->shape.ndim);
        const void *data;
        HX_TRY(hx__stage_read(stage, item, box->local, n, &data));
        memcpy(to + (size_t)at * elem_bytes, data, (size_t)n * elem_bytes);
        box->local = at;
        at += n;
    }
    return HX_OK;
}

/* What will lie in memory, before it does: the thread has nothing left to do that could want memory. */
static hx_status list_copies(hx__async *a, const hx_state_list *items) {
    size_t at = 0;
    for (int64_t i = 0; i < items->n_items; i++) {
        hx_state_item source = items->items[i];
        source.layout = &a->layouts[i]; /* the caller's list need not live on */
        hx_state_item copy = source;
        copy.data = a->memory + at;
        copy.device = NULL;
        copy.produce = NULL;
        copy.replica = 0; /* the share has been dealt out */
        copy.n_replicas = 1;
        HX_TRY(add_bytes(&copy, &a->layouts[i], &at));
        HX_TRY(hx_state_list_add(&a->items, &copy));
        HX_TRY(hx_state_list_add(&a->sources, &source));
        if (source.is_steady) HX_TRY(hx__stage_open(&a->stage, &source));
    }
    return HX_OK;
}

/* What the thread can copy, and may: a second device's memory, or a function, is used on the caller's thread only. */
static bool can_wait(const hx__async *a, const hx_state_item *source) { return source->is_steady && hx__stage_is_open(&a->stage, source); }

static hx_status copy_items(hx__async *a, hx__stage *stage, bool waited) {
    for (int64_t i = 0; i < a->sources.n_items; i++) {
        const hx_state_item *source = &a->sources.items[i];
        if (can_wait(a, source) == waited) HX_TRY(copy_item(stage, source, &a->layouts[i], a->items.items[i].data));
    }
    return HX_OK;
}

hx_status hx__async_prepare(hx__async *a, const hx_state_list *items) {
    HX_CLEANUP(hx__stage_close) hx__stage stage = {0};
    size_t n_bytes;
    HX_TRY(hx__ckpt_check_items(items));
    HX_TRY(plan_share(a, items, &n_bytes));
    HX_TRY(reserve(a, n_bytes));
    HX_TRY(list_copies(a, items));
    return copy_items(a, &stage, false);
}

/* ---- the thread ---- */

static void add_end(hx__async *a, hx_status status) {
    if (a->n_ends == N_ENDS) memmove(&a->ends[0], &a->ends[1], (size_t)--a->n_ends * sizeof a->ends[0]);
    hx_save_end *end = &a->ends[a->n_ends++];
    *end = (hx_save_end){.step = a->state.step, .seconds = hx__seconds() - a->began, .is_best = a->is_best, .status = status};
    if (status != HX_OK) snprintf(end->text, sizeof end->text, "%s", hx_error_message());
}

static void change(hx__async *a, bool *flag, bool to) {
    pthread_mutex_lock(&a->lock);
    *flag = to;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void await_end(hx__async *a, const bool *flag) {
    pthread_mutex_lock(&a->lock);
    while (*flag) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

/* Where a rank could not copy its share, none writes. */
static hx_status copy_and_write(hx__async *a) {
    if (a->delay_us > 0) usleep((useconds_t)a->delay_us);
    const hx_status status = HX_TRACED(HX_SPAN_SAVE, "copy", copy_items(a, &a->stage, true));
    change(a, &a->is_copying, false);
    HX_TRY(hx__together_agree(a->ckpt, status));
    return hx__ckpt_write_step(a->ckpt, &a->state, &a->items, a->is_best);
}

/* Under the lock, which is free meanwhile. */
static void run_save(hx__async *a) {
    pthread_mutex_unlock(&a->lock);
    const hx_status status = copy_and_write(a);
    pthread_mutex_lock(&a->lock);
    add_end(a, status);
    a->is_busy = false;
    pthread_cond_broadcast(&a->changed);
}

/* The same. What the pages hold stays, so that the caller may begin a save. */
static void take_pages(hx__async *a) {
    const size_t left = a->capacity - a->n_taken, n = left < TAKE_BYTES ? left : TAKE_BYTES;
    char *from = a->memory + a->n_taken;
    a->is_taking = true;
    pthread_mutex_unlock(&a->lock);
    const bool is_taken = madvise(from, n, MADV_POPULATE_WRITE) == 0;
    pthread_mutex_lock(&a->lock);
    a->n_taken = is_taken ? a->n_taken + n : a->capacity; /* or left to the copy */
    a->is_taking = false;
    pthread_cond_broadcast(&a->changed);
}

static void *async_main(void *arg) {
    hx__async *a = arg;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        if (a->is_busy) run_save(a);
        else if (a->is_closing) break;
        else if (a->n_taken < a->capacity) take_pages(a);
        else pthread_cond_wait(&a->changed, &a->lock);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

void hx__async_start(hx__async *a, const hx_train_state *state, bool is_best, double began) {
    pthread_mutex_lock(&a->lock);
    a->state = *state;
    a->is_best = is_best;
    a->began = began;
    a->is_copying = a->is_busy = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

bool hx__async_is_busy(hx__async *a) {
    pthread_mutex_lock(&a->lock);
    const bool is_busy = a->is_busy;
    pthread_mutex_unlock(&a->lock);
    return is_busy;
}

void hx__async_settle(hx__async *a) {
    await_end(a, &a->is_copying);
    hx__stage_close(&a->stage); /* so that it outlives no device */
}

void hx__async_wait(hx__async *a) {
    hx__async_settle(a);
    await_end(a, &a->is_busy);
}

bool hx__async_ended(hx__async *a, hx_save_end *out) {
    pthread_mutex_lock(&a->lock);
    const bool is_there = a->n_ends > 0;
    if (is_there) {
        *out = a->ends[0];
        memmove(&a->ends[0], &a->ends[1], (size_t)--a->n_ends * sizeof a->ends[0]);
    }
    pthread_mutex_unlock(&a->lock);
    return is_there;
}

/* ---- life ---- */

static int64_t read_delay(void) {
    const char *ms = getenv("HELIX_TEST_COPY_MS");
    return ms != NULL ? 1000 * strtoll(ms, NULL, 10) : 0;
}

hx_status hx__async_open(hx_ckpt *ckpt, hx__async **out) {
    hx__async *a;
    HX_TRY(hx_mem_alloc_array(1, sizeof *a, (void **)&a));
    a->ckpt = ckpt;
    a->delay_us = read_delay();
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    const int error = hx_thread_start("hx-ckpt", async_main, a, &a->thread);
    if (error != 0) {
        pthread_cond_destroy(&a->changed);
        pthread_mutex_destroy(&a->lock);
        hx_mem_free((void **)&a);
        return HX_FAIL(HX_ERR_MEMORY, "no thread for saves beside training: %s", strerror(error));
    }
    *out = a;
    return HX_OK;
}

void hx__async_close(hx__async **async) {
    hx__async *a = *async;
    if (!a) return;
    change(a, &a->is_closing, true);
    pthread_join(a->thread, NULL);
    hx__stage_close(&a->stage);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    forget_items(a);
    hx_state_list_destroy(&a->items);
    hx_state_list_destroy(&a->sources);
    if (a->memory) munmap(a->memory, a->capacity);
    hx_mem_free((void **)async);
}

/* Saves beside training: what this rank is to write is copied to memory of its own, and a thread writes it from there.
 *
 * The copy is this rank's share after dealing out among replicas, in one piece that is allocated at the first save and kept, of
 * huge pages where the system has them: its faults would else be most of the first copy's time. The thread's collectives
 * are MPI's on ckpt->mpi, so that they never mingle with those of training. A save is as safe as one that is waited for: the file
 * is published when it is whole. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define HUGE_PAGE  ((size_t)2 << 20)
#define LINE_BYTES 64 /* at which a tensor's copy begins */
#define N_ENDS     2  /* that nobody has asked for: the last save's, and that of the one which waited for it */

struct hx__async {
    hx_ckpt *ckpt;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_busy, is_closing; /* under the lock, as are the ends */
    hx_save_end ends[N_ENDS]; /* [n_ends] */
    int n_ends;
    /* The thread's while it is busy, else the caller's: */
    char *memory; /* [capacity] mapped */
    size_t capacity;
    hx_state_list items; /* point into `memory` and `layouts` */
    hx_layout *layouts;  /* [n_layouts] what is here of each item; owned */
    int64_t n_layouts;
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
    a->items.n_items = 0;
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

static hx_status reserve(hx__async *a, size_t n_bytes) {
    if (n_bytes <= a->capacity) return HX_OK;
    const size_t whole = (n_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *memory = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return HX_FAIL(HX_ERR_MEMORY, "%zu bytes for a copy of this rank's share of the checkpoint: %s; ckpt.async = off needs none", whole,
                       strerror(errno));
    (void)madvise(memory, whole, MADV_HUGEPAGE); /* a system without them has small ones */
    if (a->memory) munmap(a->memory, a->capacity);
    a->memory = memory;
    a->capacity = whole;
    return HX_OK;
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

static hx_status copy_all(hx__async *a, const hx_state_list *items, hx__stage *stage) {
    size_t at = 0;
    for (int64_t i = 0; i < items->n_items; i++) {
        hx_state_item copy = items->items[i];
        copy.data = a->memory + at;
        copy.layout = &a->layouts[i];
        copy.device = NULL;
        copy.replica = 0; /* the share has been dealt out */
        copy.n_replicas = 1;
        HX_TRY(copy_item(stage, &items->items[i], &a->layouts[i], copy.data));
        HX_TRY(add_bytes(&copy, &a->layouts[i], &at));
        HX_TRY(hx_state_list_add(&a->items, &copy));
    }
    return HX_OK;
}

hx_status hx__async_copy(hx__async *a, const hx_state_list *items) {
    HX_CLEANUP(hx__stage_close) hx__stage stage = {0};
    size_t n_bytes;
    HX_TRY(hx__ckpt_check_items(items));
    HX_TRY(plan_share(a, items, &n_bytes));
    HX_TRY(reserve(a, n_bytes));
    return copy_all(a, items, &stage);
}

/* ---- the thread ---- */

static void add_end(hx__async *a, hx_status status) {
    if (a->n_ends == N_ENDS) memmove(&a->ends[0], &a->ends[1], (size_t)--a->n_ends * sizeof a->ends[0]);
    hx_save_end *end = &a->ends[a->n_ends++];
    *end = (hx_save_end){.step = a->state.step, .seconds = hx__seconds() - a->began, .is_best = a->is_best, .status = status};
    if (status != HX_OK) snprintf(end->text, sizeof end->text, "%s", hx_error_message());
}

static void *async_main(void *arg) {
    hx__async *a = arg;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->is_busy && !a->is_closing) pthread_cond_wait(&a->changed, &a->lock);
        if (!a->is_busy) break;
        pthread_mutex_unlock(&a->lock);
        const hx_status status = hx__ckpt_write_step(a->ckpt, &a->state, &a->items, a->is_best);
        pthread_mutex_lock(&a->lock);
        add_end(a, status);
        a->is_busy = false;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

void hx__async_start(hx__async *a, const hx_train_state *state, bool is_best, double began) {
    pthread_mutex_lock(&a->lock);
    a->state = *state;
    a->is_best = is_best;
    a->began = began;
    a->is_busy = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

bool hx__async_is_busy(hx__async *a) {
    pthread_mutex_lock(&a->lock);
    const bool is_busy = a->is_busy;
    pthread_mutex_unlock(&a->lock);
    return is_busy;
}

void hx__async_wait(hx__async *a) {
    pthread_mutex_lock(&a->lock);
    while (a->is_busy) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
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

/* Signals are for the thread that trains. */
static int start_thread(hx__async *a) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&a->thread, NULL, async_main, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

hx_status hx__async_open(hx_ckpt *ckpt, hx__async **out) {
    hx__async *a;
    HX_TRY(hx_mem_alloc_array(1, sizeof *a, (void **)&a));
    a->ckpt = ckpt;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    int error = start_thread(a);
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
    pthread_mutex_lock(&a->lock);
    a->is_closing = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    forget_items(a);
    hx_state_list_destroy(&a->items);
    if (a->memory) munmap(a->memory, a->capacity);
    hx_mem_free((void **)async);
}

#define _GNU_SOURCE
#include "io/ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/base/thread.h"
#include "io/fs.h"

enum { N_SLOTS = 8, N_THREADS = 4 }; /* tensors of a few MiB leave blocks short: two threads left the disk idle a fifth of the time */

#define BLOCK_BYTES (HX__AHEAD_BYTES / N_SLOTS)
#define PAGE_BYTES  ((int64_t)4096) /* what O_DIRECT wants offsets, lengths and memory to be multiples of, on every disk in use */
#define GAP_BYTES   ((int64_t)128 << 10) /* cheaper read along than a read of their own */

typedef struct block {
    int64_t begin, end; /* of the file, in pages */
    int64_t wanted_end; /* the file may end before `end` */
    bool is_shared;
} block;

typedef struct slot {
    char *data; /* [BLOCK_BYTES] */
    bool is_read;
    hx_status status;
    char message[512];
} slot;

struct hx__ahead {
    char *path; /* owned */
    int fd, direct_fd; /* -1: the file system has no O_DIRECT */
    block *blocks;
    int64_t n_blocks, n_begun, current; /* taken by a thread; that the caller is at. Block i lies in slot i % N_SLOTS */
    bool is_closing;
    char *memory;
    slot slots[N_SLOTS];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[N_THREADS];
    int n_threads;
};

/* ---- blocks ---- */

static int64_t page_down(int64_t at) { return at / PAGE_BYTES * PAGE_BYTES; }
static int64_t page_up(int64_t at) { return page_down(at + PAGE_BYTES - 1); }

/* From `at` to `end`, a block at most. */
static block block_at(int64_t at, int64_t end, bool is_shared) {
    const int64_t begin = page_down(at), wanted_end = end < begin + BLOCK_BYTES ? end : begin + BLOCK_BYTES;
    return (block){.begin = begin, .end = page_up(wanted_end), .wanted_end = wanted_end, .is_shared = is_shared};
}

/* What follows closely is read along. */
static bool join(block *last, const hx__span *span) {
    const int64_t end = span->begin + span->length;
    if (last->is_shared != span->is_shared || span->begin < last->begin || span->begin > last->wanted_end + GAP_BYTES) return false;
    if (span->begin >= last->begin + BLOCK_BYTES) return false;
    if (end <= last->wanted_end) return true;
    *last = block_at(last->begin, end, span->is_shared);
    return true;
}

static hx_status add_blocks(hx__ahead *a, int64_t *capacity, const hx__span *span) {
    int64_t at = span->begin;
    if (a->n_blocks > 0 && join(&a->blocks[a->n_blocks - 1], span)) at = a->blocks[a->n_blocks - 1].wanted_end;
    while (at < span->begin + span->length) {
        HX_TRY(hx_mem_grow((void **)&a->blocks, capacity, a->n_blocks + 1, sizeof *a->blocks));
        a->blocks[a->n_blocks] = block_at(at, span->begin + span->length, span->is_shared);
        at = a->blocks[a->n_blocks++].wanted_end;
    }
    return HX_OK;
}

/* ---- the threads ---- */

/* Whatever O_DIRECT does not do (an odd end of the file, a file system with other rules, a failure to be told), plain reads do. */
static hx_status read_block(const hx__ahead *a, const block *b, char *data) {
    ssize_t n = 0;
    if (b->is_shared || a->direct_fd < 0)
        (void)posix_fadvise(a->fd, b->begin, b->end - b->begin, POSIX_FADV_WILLNEED); /* a hint: all of it at once */
    else
        n = pread(a->direct_fd, data, (size_t)(b->end - b->begin), b->begin);
    if (n < 0) n = 0;
    if (n >= b->wanted_end - b->begin) return HX_OK;
    return hx__fs_read(a->fd, a->path, data + n, (size_t)(b->wanted_end - b->begin - n), b->begin + n);
}

static void *reader_main(void *arg) {
    hx__ahead *a = arg;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->is_closing && a->n_begun < a->n_blocks && a->n_begun >= a->current + N_SLOTS) pthread_cond_wait(&a->changed, &a->lock);
        if (a->is_closing || a->n_begun == a->n_blocks) break;
        const block *b = &a->blocks[a->n_begun];
        slot *s = &a->slots[a->n_begun++ % N_SLOTS];
        pthread_mutex_unlock(&a->lock);
        s->status = read_block(a, b, s->data);
        if (s->status != HX_OK) snprintf(s->message, sizeof s->message, "%s", hx_error_message());
        pthread_mutex_lock(&a->lock);
        s->is_read = true;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* ---- life ---- */

static hx_status start_threads(hx__ahead *a) {
    int error = 0;
    while (a->n_threads < N_THREADS && (error = hx_thread_start("hx-ahead", reader_main, a, &a->threads[a->n_threads])) == 0) a->n_threads++;
    return a->n_threads > 0 ? HX_OK : HX_FAIL(HX_ERR_MEMORY, "no thread to read %s: %s", a->path, strerror(error));
}

static hx_status open_all(hx__ahead *a, const char *path, const hx__span *spans, int64_t n) {
    int64_t capacity = 0;
    HX_TRY(hx_mem_strdup(path, &a->path));
    a->fd = open(a->path, O_RDONLY | O_CLOEXEC);
    if (a->fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", a->path, strerror(errno));
    a->direct_fd = open(a->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    for (int64_t i = 0; i < n; i++) HX_TRY(add_blocks(a, &capacity, &spans[i]));
    HX_TRY(hx_mem_alloc((size_t)HX__AHEAD_BYTES, (void **)&a->memory));
    for (int i = 0; i < N_SLOTS; i++) a->slots[i].data = a->memory + i * BLOCK_BYTES;
    return start_threads(a);
}

hx_status hx__ahead_open(const char *path, const hx__span *spans, int64_t n, hx__ahead **out) {
    hx__ahead *a;
    HX_TRY(hx_mem_alloc_array(1, sizeof *a, (void **)&a));
    a->fd = a->direct_fd = -1;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    hx_status status = open_all(a, path, spans, n);
    if (status == HX_OK)
        *out = a;
    else
        hx__ahead_close(&a);
    return status;
}

void hx__ahead_close(hx__ahead **ahead) {
    hx__ahead *a = *ahead;
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->is_closing = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->n_threads; i++) pthread_join(a->threads[i], NULL);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    hx__fs_close(&a->fd);
    hx__fs_close(&a->direct_fd);
    hx_mem_free((void **)&a->memory);
    hx_mem_free((void **)&a->blocks);
    hx_mem_free((void **)&a->path);
    hx_mem_free((void **)ahead);
}

/* ---- for the caller ---- */

/* The next block, read; the slot of the last one is free. */
static hx_status await(hx__ahead *a, slot **out) {
    slot *s = &a->slots[a->current % N_SLOTS];
    pthread_mutex_lock(&a->lock);
    while (!s->is_read) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    if (s->status != HX_OK) return hx_error_adopt(s->status, s->message);
    *out = s;
    return HX_OK;
}

static void leave(hx__ahead *a) {
    pthread_mutex_lock(&a->lock);
    a->slots[a->current++ % N_SLOTS].is_read = false;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static bool has(const block *b, int64_t offset) { return offset >= b->begin && offset < b->wanted_end; }

hx_status hx__ahead_get(hx__ahead *a, int64_t offset, int64_t n, const char **data, int64_t *n_there) {
    slot *s = NULL;
    while (a->current < a->n_blocks && !has(&a->blocks[a->current], offset)) {
        HX_TRY(await(a, &s)); /* a thread may be at it still */
        leave(a);
    }
    if (a->current == a->n_blocks)
        return HX_FAIL(HX_ERR_ARG, "%s: byte %lld is in none of the spans that are left", a->path, (long long)offset);
    HX_TRY(await(a, &s));
    const block *b = &a->blocks[a->current];
    *data = s->data + (offset - b->begin);
    *n_there = n < b->wanted_end - offset ? n : b->wanted_end - offset;
    return HX_OK;
}

/* Counting the words of files in threads.
 *
 * A file is mapped and cut into blocks of about 1 MiB where GPT-2's split would cut it whatever stands before: between a sign that is seen
 * and a space or line end (no word of it goes on with white space, and none looks back). So the counts are those of the whole file. Each
 * thread has a table of its own; they are added up at the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "core/base/mem.h"
#include "core/base/threads.h"
#include "io/fs.h"
#include "io/text/tokenizer_impl.h"

#define BLOCK_BYTES (1 << 20)
#define CHUNK_BYTES (1 << 20)
#define WORD_MOST   1024 /* longer ones are cut: what they teach is not about words, and their cost is quadratic */
#define ROUND       4    /* blocks of each thread between two calls of the watch */

/* ---- a table of words ---- */

struct hx__chunk {
    struct hx__chunk *next;
    size_t n;
    uint8_t bytes[CHUNK_BYTES];
};

static hx_status keep_bytes(hx__counts *c, const uint8_t *word, size_t n, const uint8_t **kept) {
    if (!c->chunks || c->chunks->n + n > CHUNK_BYTES) {
        struct hx__chunk *chunk;
        HX_TRY(hx_mem_alloc(sizeof *chunk, (void **)&chunk));
        chunk->next = c->chunks;
        chunk->n = 0;
        c->chunks = chunk;
    }
    *kept = memcpy(c->chunks->bytes + c->chunks->n, word, n);
    c->chunks->n += n;
    return HX_OK;
}

/* Slot of a word, or the free one where it would be. */
static hx__counted *counted_slot(const hx__counts *c, const uint8_t *word, size_t n) {
    for (uint64_t i = XXH3_64bits(word, n);; i++) {
        hx__counted *slot = &c->slots[i & c->mask];
        if (!slot->word || ((size_t)slot->n_bytes == n && memcmp(slot->word, word, n) == 0)) return slot;
    }
}

static hx_status grow_counts(hx__counts *c) {
    int64_t size = c->slots ? 2 * ((int64_t)c->mask + 1) : 1024;
    hx__counts grown = {.mask = (uint64_t)size - 1};
    HX_TRY(hx_mem_alloc_array(size, sizeof *grown.slots, (void **)&grown.slots));
    for (uint64_t i = 0; c->slots && i <= c->mask; i++)
        if (c->slots[i].word) *counted_slot(&grown, c->slots[i].word, (size_t)c->slots[i].n_bytes) = c->slots[i];
    hx_mem_free((void **)&c->slots);
    c->slots = grown.slots;
    c->mask = grown.mask;
    return HX_OK;
}

hx_status hx__counts_add(hx__counts *c, const uint8_t *word, size_t n_bytes, int64_t count) {
    if (!c->slots || 2 * (uint64_t)c->n > c->mask) HX_TRY(grow_counts(c));
    hx__counted *slot = counted_slot(c, word, n_bytes);
    if (!slot->word) {
        HX_TRY(keep_bytes(c, word, n_bytes, &slot->word));
        slot->n_bytes = (int64_t)n_bytes;
        c->n++;
    }
    slot->count += count;
    return HX_OK;
}

void hx__counts_free(hx__counts *c) {
    for (struct hx__chunk *chunk = c->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        hx_mem_free((void **)&chunk);
    }
    hx_mem_free((void **)&c->slots);
    *c = (hx__counts){0};
}

/* ---- a block ---- */

/* One thread's. */
typedef struct counter {
    hx__splitter splitter;
    hx__counts counts;
    hx_status status;  /* of the first block that failed */
    char message[512]; /* its words */
} counter;

static hx_status count_word(void *arg, const uint8_t *word, size_t n) {
    hx__counts *counts = arg;
    while (n > WORD_MOST) {
        size_t cut = WORD_MOST;
        while (cut > WORD_MOST - 3 && (word[cut] & 0xc0) == 0x80) cut--; /* not within a character */
        HX_TRY(hx__counts_add(counts, word, cut, 1));
        word += cut;
        n -= cut;
    }
    return hx__counts_add(counts, word, n, 1);
}

static hx_status count_block(counter *c, const uint8_t *text, size_t n) {
    static const char end[] = HX_END_OF_TEXT;
    for (const uint8_t *found; (found = memmem(text, n, end, strlen(end)));) {
        size_t before = (size_t)(found - text);
        HX_TRY(hx__split(&c->splitter, text, before, count_word, &c->counts));
        text += before + strlen(end);
        n -= before + strlen(end);
    }
    return hx__split(&c->splitter, text, n, count_word, &c->counts);
}

/* ---- all files ---- */

typedef struct job {
    hx_pool *pool;
    counter *counters; /* [n_threads] */
    int n_threads;
    hx_train_watch watch;
    void *self;
    int64_t n_done, n_total; /* bytes */
    const uint8_t *text;     /* of the file under way */
    size_t starts[1 + ROUND * HX__TRAIN_THREADS_MOST]; /* of the round's blocks, and the end of the last */
} job;

static void count_task(void *arg, int64_t i, int worker) {
    job *j = arg;
    counter *c = &j->counters[worker];
    if (c->status != HX_OK) return;
    c->status = count_block(c, j->text + j->starts[i], j->starts[i + 1] - j->starts[i]);
    if (c->status != HX_OK) strncpy(c->message, hx_error_message(), sizeof c->message - 1);
}

static bool is_cut(const uint8_t *at) { return at[-1] > ' ' && at[-1] < 0x7f && (at[0] == ' ' || at[0] == '\n'); }

/* Where the block that begins at `begin` ends. */
static size_t block_end(const uint8_t *text, size_t begin, size_t n) {
    if (n - begin <= BLOCK_BYTES) return n;
    size_t end = begin + BLOCK_BYTES;
    while (end < n && !is_cut(text + end)) end++;
    return end;
}

static hx_status count_text(job *j, const uint8_t *text, size_t n, const char *path) {
    j->text = text;
    for (size_t at = 0; at < n;) {
        int64_t n_blocks = 0, most = (int64_t)ROUND * j->n_threads;
        j->starts[0] = at;
        while (n_blocks < most && at < n) j->starts[++n_blocks] = at = block_end(text, at, n);
        hx_pool_run(j->pool, n_blocks, count_task, j);
        for (int i = 0; i < j->n_threads; i++)
            if (j->counters[i].status != HX_OK) return HX_FAIL(j->counters[i].status, "%s: %.400s", path, j->counters[i].message);
        if (j->watch) j->watch(j->self, HX_TRAIN_COUNT, j->n_done + (int64_t)at, j->n_total);
    }
    j->n_done += (int64_t)n;
    return HX_OK;
}

/* All are looked at before the first is read. */
static hx_status file_size(const char *path, int64_t *out) {
    struct stat st;
    if (stat(path, &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return HX_FAIL(HX_ERR_IO, "%s: not a regular file", path);
    *out = st.st_size;
    return HX_OK;
}

static hx_status count_file(job *j, const char *path) {
    const void *text;
    int64_t n;
    HX_TRY(hx__fs_map(path, &text, &n));
    if (!text) return HX_OK; /* an empty file has no words */
    madvise((void *)(uintptr_t)text, (size_t)n, MADV_SEQUENTIAL);
    hx_status status = count_text(j, text, (size_t)n, path);
    hx__fs_unmap(text, n);
    return status;
}

static hx_status add_up(job *j, hx__counts *out) {
    *out = j->counters[0].counts;
    j->counters[0].counts = (hx__counts){0};
    for (int t = 1; t < j->n_threads; t++) {
        hx__counts *c = &j->counters[t].counts;
        for (uint64_t i = 0; c->slots && i <= c->mask; i++)
            if (c->slots[i].word) HX_TRY(hx__counts_add(out, c->slots[i].word, (size_t)c->slots[i].n_bytes, c->slots[i].count));
        hx__counts_free(c);
    }
    return HX_OK;
}

static hx_status count_all(job *j, const char *const *files, int n_files, const hx__pattern *pattern, hx__counts *out) {
    for (int i = 0; i < n_files; i++) {
        int64_t n;
        HX_TRY(file_size(files[i], &n));
        j->n_total += n;
    }
    HX_TRY(hx_mem_alloc_array(j->n_threads, sizeof *j->counters, (void **)&j->counters));
    for (int t = 0; t < j->n_threads; t++) HX_TRY(hx__splitter_init(pattern, &j->counters[t].splitter));
    HX_TRY(hx_pool_create(j->n_threads, &j->pool));
    for (int i = 0; i < n_files; i++) HX_TRY(count_file(j, files[i]));
    return add_up(j, out);
}

hx_status hx__count_files(const char *const *files, int n_files, int n_threads, const hx__pattern *pattern, hx_train_watch watch, void *self,
                          hx__counts *out) {
    job *j;
    HX_TRY(hx_mem_alloc_array(1, sizeof *j, (void **)&j));
    *j = (job){.n_threads = n_threads, .watch = watch, .self = self};
    hx_status status = count_all(j, files, n_files, pattern, out);
    hx_pool_destroy(&j->pool);
    for (int t = 0; j->counters && t < n_threads; t++) {
        hx__splitter_free(&j->counters[t].splitter);
        hx__counts_free(&j->counters[t].counts);
    }
    hx_mem_free((void **)&j->counters);
    hx_mem_free((void **)&j);
    return status;
}

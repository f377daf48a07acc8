/* The folder of a pack that is under way:
 *     ids         of all documents, `width` bytes each
 *     documents   i64, where each begins
 *     unmasked    pairs of i64, begin and end of what is no target
 *     journal     the key, then an entry a commit: a point and its hash
 * A commit syncs what was written and then says so in the journal. What lies behind the last whole entry is written over. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/data/pack_impl.h"
#include "io/fs.h"

#define PATH_MOST 4096

enum { IDS, DOCUMENTS, UNMASKED, JOURNAL, N_FILES };
static const char *const names[N_FILES] = {"ids", "documents", "unmasked", "journal"};

typedef struct entry {
    hx__pack_point point;
    uint64_t hash;
} entry;

struct hx__pack_store {
    char folder[PATH_MOST];
    char paths[N_FILES][PATH_MOST];
    int fds[N_FILES];
    int width;
    uint64_t key;
    int64_t n_entries;
    hx__pack_point point; /* what the files hold; of the last commit when they are opened */
    uint8_t *ids;         /* [n_ids * width] that they do not hold yet; owned */
    int64_t n_ids, capacity;
    hx__numbers documents, unmasked; /* the same, in tokens of the data set */
};

static uint64_t hash_of(const hx__pack_point *point, uint64_t key) { return XXH3_64bits_withSeed(point, sizeof *point, key); }

/* ---- opening ---- */

static hx_status join(char out[PATH_MOST], const char *a, const char *b) {
    if (snprintf(out, PATH_MOST, "%s%s", a, b) >= PATH_MOST) return HX_FAIL(HX_ERR_IO, "path %.64s...%s is longer than %d bytes", a, b, PATH_MOST - 1);
    return HX_OK;
}

static hx_status open_files(hx__pack_store *s, const char *out) {
    HX_TRY(join(s->folder, out, ".pack"));
    HX_TRY(hx__fs_mkdir(s->folder, NULL));
    for (int i = 0; i < N_FILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "/%s", names[i]);
        HX_TRY(join(s->paths[i], s->folder, name));
        s->fds[i] = open(s->paths[i], O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (s->fds[i] < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", s->paths[i], strerror(errno));
    }
    if (flock(s->fds[JOURNAL], LOCK_EX | LOCK_NB) != 0)
        return HX_FAIL(HX_ERR_CONFIG, "%s: another pack is at work there", s->folder);
    return hx__fs_sync_folder(s->folder);
}

static hx_status size_of(const hx__pack_store *s, int i, int64_t *n_bytes) {
    struct stat st;
    if (fstat(s->fds[i], &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", s->paths[i], strerror(errno));
    *n_bytes = st.st_size;
    return HX_OK;
}

/* The files hold what the journal says. */
static hx_status check_sizes(const hx__pack_store *s) {
    const hx__pack_point *p = &s->point;
    const int64_t counts[] = {p->n_tokens, p->n_documents, p->n_unmasked}, widths[] = {s->width, 8, 8};
    for (int i = IDS; i <= UNMASKED; i++) {
        int64_t n_bytes;
        HX_TRY(size_of(s, i, &n_bytes));
        if (counts[i] < 0 || counts[i] > n_bytes / widths[i])
            return HX_FAIL(HX_ERR_CORRUPT, "%s has %lld bytes, less than %s tells; remove the folder to begin anew", s->paths[i], (long long)n_bytes,
                           s->paths[JOURNAL]);
    }
    return HX_OK;
}

/* What belongs to no journal belongs to somebody else. */
static hx_status check_empty(const hx__pack_store *s) {
    int64_t n_bytes;
    for (int i = IDS; i <= UNMASKED; i++) {
        HX_TRY(size_of(s, i, &n_bytes));
        if (n_bytes > 0) return HX_FAIL(HX_ERR_CONFIG, "%s is there already, and of no pack: remove it, or choose another --out", s->paths[i]);
    }
    return HX_OK;
}

/* On the disk before anything is that belongs to it. */
static hx_status begin_journal(const hx__pack_store *s) {
    HX_TRY(check_empty(s));
    HX_TRY(hx__fs_write(s->fds[JOURNAL], s->paths[JOURNAL], &s->key, sizeof s->key, 0));
    return hx__fs_sync(s->fds[JOURNAL], s->paths[JOURNAL]);
}

/* The key, and the last entry that is whole. A journal without a whole key is a new one. */
static hx_status read_journal(hx__pack_store *s) {
    const char *path = s->paths[JOURNAL];
    int64_t n_bytes;
    uint64_t key;
    HX_TRY(size_of(s, JOURNAL, &n_bytes));
    if (n_bytes < (int64_t)sizeof key) return begin_journal(s);
    HX_TRY(hx__fs_read(s->fds[JOURNAL], path, &key, sizeof key, 0));
    if (key != s->key)
        return HX_FAIL(HX_ERR_CONFIG, "%s: a pack of other files, or of files as they were, with another tokenizer or field, was begun there; "
                       "remove the folder to begin anew", s->folder);
    for (int64_t at = (int64_t)sizeof key; at + (int64_t)sizeof(entry) <= n_bytes; at += (int64_t)sizeof(entry)) {
        entry e;
        HX_TRY(hx__fs_read(s->fds[JOURNAL], path, &e, sizeof e, at));
        if (e.hash != hash_of(&e.point, key)) break;
        s->point = e.point;
        s->n_entries++;
    }
    return HX_OK;
}

/* Only a pack that is through leaves both, and its folder goes when the journal has gone. */
static hx_status find_result(const char *out, bool *is_done) {
    char journal[PATH_MOST];
    HX_TRY(join(journal, out, ".pack/journal"));
    *is_done = access(out, F_OK) == 0;
    if (*is_done && access(journal, F_OK) != 0) return HX_FAIL(HX_ERR_CONFIG, "%s is there already: remove it to make it anew", out);
    return HX_OK;
}

hx_status hx__pack_store_open(const char *out, uint64_t key, int width, hx__pack_store **store, hx__pack_point *point, bool *is_done) {
    HX_CLEANUP(hx__pack_store_close) hx__pack_store *s = NULL;
    HX_TRY(find_result(out, is_done));
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    memset(s->fds, -1, sizeof s->fds);
    s->width = width;
    s->key = key;
    HX_TRY(open_files(s, out));
    HX_TRY(read_journal(s));
    if (!*is_done) HX_TRY(check_sizes(s));
    *point = s->point;
    *store = s;
    s = NULL; /* handed on */
    return HX_OK;
}

void hx__pack_store_close(hx__pack_store **store) {
    hx__pack_store *s = *store;
    if (s == NULL) return;
    for (int i = 0; i < N_FILES; i++)
        if (s->fds[i] >= 0) close(s->fds[i]);
    hx_mem_free((void **)&s->ids);
    hx_mem_free((void **)&s->documents.at);
    hx_mem_free((void **)&s->unmasked.at);
    hx_mem_free((void **)store);
}

void hx__pack_store_point(const hx__pack_store *store, hx__pack_point *point) { *point = store->point; }

/* ---- adding ---- */

hx_status hx__pack_store_add(hx__pack_store *s, const hx__piece *p) {
    const int64_t first = s->point.n_tokens + s->n_ids;
    HX_TRY(hx_mem_grow((void **)&s->ids, &s->capacity, (s->n_ids + p->ids.n) * s->width, 1));
    uint8_t *to = s->ids + s->n_ids * s->width;
    for (int64_t i = 0; i < p->ids.n; i++) memcpy(to + i * s->width, &p->ids.ids[i], (size_t)s->width); /* little-endian */
    s->n_ids += p->ids.n;
    for (int64_t i = 0; i < p->documents.n; i++) HX_TRY(hx__numbers_add(&s->documents, first + p->documents.at[i]));
    for (int64_t i = 0; i < p->unmasked.n; i++) HX_TRY(hx__numbers_add(&s->unmasked, first + p->unmasked.at[i]));
    return HX_OK;
}

static hx_status append(const hx__pack_store *s, int i, const void *data, int64_t n, int64_t n_before, int width) {
    return n > 0 ? hx__fs_write(s->fds[i], s->paths[i], data, (size_t)(n * width), n_before * width) : HX_OK;
}

hx_status hx__pack_store_write(hx__pack_store *s, int64_t file, int64_t offset) {
    const hx__pack_point p = s->point;
    HX_TRY(append(s, IDS, s->ids, s->n_ids, p.n_tokens, s->width));
    HX_TRY(append(s, DOCUMENTS, s->documents.at, s->documents.n, p.n_documents, 8));
    HX_TRY(append(s, UNMASKED, s->unmasked.at, s->unmasked.n, p.n_unmasked, 8));
    s->point = (hx__pack_point){file, offset, p.n_tokens + s->n_ids, p.n_documents + s->documents.n, p.n_unmasked + s->unmasked.n};
    s->n_ids = s->documents.n = s->unmasked.n = 0;
    return HX_OK;
}

hx_status hx__pack_store_commit(hx__pack_store *s) {
    const entry e = {.point = s->point, .hash = hash_of(&s->point, s->key)};
    for (int i = IDS; i <= UNMASKED; i++) HX_TRY(hx__fs_sync(s->fds[i], s->paths[i]));
    HX_TRY(hx__fs_write(s->fds[JOURNAL], s->paths[JOURNAL], &e, sizeof e, (int64_t)sizeof s->key + s->n_entries * (int64_t)sizeof e));
    HX_TRY(hx__fs_sync(s->fds[JOURNAL], s->paths[JOURNAL]));
    s->n_entries++;
    return HX_OK;
}

/* ---- the end ---- */

hx_status hx__pack_store_finish(hx__pack_store *s, const char *out, int64_t vocab, uint64_t tokenizer) {
    char path[PATH_MOST];
    const hx__pack_parts parts = {.ids = s->fds[IDS], .documents = s->fds[DOCUMENTS], .unmasked = s->fds[UNMASKED], .width = s->width,
                                  .point = s->point, .vocab = vocab, .tokenizer = tokenizer};
    HX_TRY(join(path, s->folder, "/data.h5"));
    HX_TRY(hx__pack_h5_write(path, &parts));
    HX_TRY(hx__fs_rename(path, out));
    return hx__fs_sync_above(out);
}

/* The journal last: it tells whose result it was. */
hx_status hx__pack_store_remove(hx__pack_store *s) {
    for (int i = IDS; i <= UNMASKED; i++) HX_TRY(hx__fs_unlink(s->paths[i]));
    HX_TRY(hx__fs_unlink(s->paths[JOURNAL]));
    return hx__fs_rmdir(s->folder);
}

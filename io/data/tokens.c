#define _GNU_SOURCE
#include "io/data/tokens.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "core/op/ops.h"
#include "io/data/tokens_impl.h"
#include "io/fs.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ids are read as they lie in the file");

/* ---- opening ---- */

/* Mapped, so that ranks of a host share its pages. */
static hx_status map_file(hx_tokens *t) {
    const void *data;
    HX_TRY(hx__fs_map(t->path, &data, &t->mapping_bytes));
    t->mapping = data;
    return data ? HX_OK : HX_FAIL(HX_ERR_IO, "%s is empty", t->path);
}

/* Bytes [ids, ids + n) as a text. */
static void set_text(hx_tokens *t, const uint8_t *ids, int64_t n) {
    t->ids = ids;
    t->width = 1;
    t->info = (hx_tokens_info){.format = "text", .n_tokens = n, .n_documents = 1, .vocab = 256};
}

static bool ends_in_bin(const char *path) {
    const size_t n = strlen(path);
    return n >= 4 && strcmp(path + n - 4, ".bin") == 0;
}

static hx_status open_file(hx_tokens *t) {
    HX_TRY(map_file(t));
    if (hx__tokens_is_h5(t)) return hx__tokens_open_h5(t);
    if (hx__tokens_is_llmc(t) || ends_in_bin(t->path)) return hx__tokens_open_bin(t);
    set_text(t, t->mapping, t->mapping_bytes);
    return HX_OK;
}

static hx_status open_folder(hx_tokens *t) {
    HX_TRY(hx__tokens_open_folder(t));
    set_text(t, t->joined, t->info.n_tokens);
    return HX_OK;
}

hx_status hx_tokens_open(const char *path, hx_tokens **out) {
    HX_CLEANUP(hx_tokens_close) hx_tokens *t = NULL;
    struct stat st;
    if (!path || !path[0]) return HX_FAIL(HX_ERR_IO, "no path to a text file or folder was given");
    if (stat(path, &st) != 0) return HX_FAIL(HX_ERR_IO, "data %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
        return HX_FAIL(HX_ERR_IO, "data %s is neither a regular file nor a folder", path);
    HX_TRY(hx_mem_alloc_array(1, sizeof *t, (void **)&t));
    HX_TRY(hx_mem_strdup(path, &t->path));
    HX_TRY(S_ISDIR(st.st_mode) ? open_folder(t) : open_file(t));
    t->info.path = t->path;
    if (t->info.hash == 0) t->info.hash = hx_tokens_rehash(t); /* our own files tell it */
    *out = t;
    t = NULL; /* handed on */
    return HX_OK;
}

hx_status hx_tokens_blank(int64_t n, hx_tokens **out) {
    HX_CLEANUP(hx_tokens_close) hx_tokens *t = NULL;
    if (n < 1) return HX_FAIL(HX_ERR_ARG, "%lld tokens: expected at least one", (long long)n);
    HX_TRY(hx_mem_alloc_array(1, sizeof *t, (void **)&t));
    void *p = mmap(NULL, (size_t)n, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return HX_FAIL(HX_ERR_MEMORY, "%lld bytes of addresses: %s", (long long)n, strerror(errno));
    t->mapping = p;
    t->mapping_bytes = n;
    set_text(t, t->mapping, n);
    t->info.path = "blank";
    *out = t;
    t = NULL; /* handed on */
    return HX_OK;
}

void hx_tokens_close(hx_tokens **tokens) {
    if (!tokens || !*tokens) return;
    hx__fs_unmap((*tokens)->mapping, (*tokens)->mapping_bytes);
    hx_mem_free(&(*tokens)->joined);
    hx_mem_free((void **)&(*tokens)->path);
    hx_mem_free((void **)tokens);
}

void hx_tokens_info_get(const hx_tokens *tokens, hx_tokens_info *out) { *out = tokens->info; }

uint64_t hx_tokens_rehash(const hx_tokens *t) {
    uint64_t hash = XXH3_64bits(t->ids, (size_t)t->info.n_tokens * (size_t)t->width);
    if (t->documents) hash = XXH3_64bits_withSeed(t->documents, (size_t)t->info.n_documents * sizeof(int64_t), hash);
    if (t->loss_mask) hash = XXH3_64bits_withSeed(t->loss_mask, (size_t)t->info.n_tokens, hash);
    return hash;
}

/* ---- reading ---- */

static hx_status check_range(const hx_tokens *t, int64_t at, int64_t n) {
    if (at >= 0 && n >= 0 && at <= t->info.n_tokens && n <= t->info.n_tokens - at) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "%s: tokens [%lld, %lld + %lld): expected them within the %lld that there are", t->path, (long long)at,
                   (long long)at, (long long)n, (long long)t->info.n_tokens);
}

static uint32_t id_at(const hx_tokens *t, int64_t i) {
    uint32_t id = 0;
    memcpy(&id, t->ids + i * t->width, (size_t)t->width); /* little-endian */
    return id;
}

static hx_status bad_id(const hx_tokens *t, int64_t at, int64_t n) {
    while (n > 1 && id_at(t, at) < t->info.vocab) at++, n--;
    return HX_FAIL(HX_ERR_CORRUPT, "%s: token %lld is id %lu: expected ids below %lld", t->path, (long long)at,
                   (unsigned long)id_at(t, at), (long long)t->info.vocab);
}

/* A loop for each width, which the compiler turns into vectors. Returns the largest id. */
#define READ_(name, type)                                                                                    \
    static uint32_t read_##name(const uint8_t *from, int64_t n, int32_t *ids) {                              \
        uint32_t most = 0;                                                                                   \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            type id;                                                                                         \
            memcpy(&id, from + i * (int64_t)sizeof id, sizeof id);                                           \
            most = most > id ? most : id;                                                                    \
            ids[i] = (int32_t)id;                                                                            \
        }                                                                                                    \
        return most;                                                                                         \
    }
READ_(u8, uint8_t)
READ_(u16, uint16_t)
READ_(u32, uint32_t)
#undef READ_

hx_status hx_tokens_read(const hx_tokens *t, int64_t at, int64_t n, int32_t *ids) {
    HX_TRY(check_range(t, at, n));
    const uint8_t *from = t->ids + at * t->width;
    const uint32_t most = t->width == 1 ? read_u8(from, n, ids) : t->width == 2 ? read_u16(from, n, ids) : read_u32(from, n, ids);
    return n > 0 && most >= t->info.vocab ? bad_id(t, at, n) : HX_OK;
}

int64_t hx_tokens_document(const hx_tokens *t, int64_t i) {
    int64_t begin = 0;
    if (t->documents) memcpy(&begin, t->documents + i * (int64_t)sizeof begin, sizeof begin);
    return begin;
}

/* Number of the first document that begins at token `at` or behind; n_documents: none does. */
static int64_t next_document(const hx_tokens *t, int64_t at) {
    int64_t low = 0, high = t->info.n_documents;
    while (low < high) {
        const int64_t mid = low + (high - low) / 2;
        if (hx_tokens_document(t, mid) < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

hx_status hx_tokens_mask(const hx_tokens *t, int64_t at, int64_t n, int32_t *targets) {
    HX_TRY(check_range(t, at, n));
    for (int64_t d = next_document(t, at); d < t->info.n_documents && hx_tokens_document(t, d) < at + n; d++)
        targets[hx_tokens_document(t, d) - at] = HX_IGNORE_INDEX;
    for (int64_t i = 0; t->loss_mask && i < n; i++)
        if (t->loss_mask[at + i] == 0) targets[i] = HX_IGNORE_INDEX;
    return HX_OK;
}

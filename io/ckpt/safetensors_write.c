/* Writing: shards are planned from shapes alone, then each is a header and a stream of its tensors' bytes. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/ckpt/safetensors_impl.h"
#include "io/fs.h"

enum {
    PIECE_BYTES = 16 << 20, /* held at a time */
    ALIGN = 8,              /* elements begin at a multiple of it */
    PATH_BYTES = 4096,
};

typedef struct job {
    const char *path; /* a file, or a folder */
    const hx_st_tensor *tensors;
    int64_t n;
    const char *const (*metadata)[2];
    int n_metadata;
    hx_st_produce produce;
    void *self;
    void *piece; /* [PIECE_BYTES] */
} job;

static int64_t bytes_of(const hx_st_tensor *t) { return hx_shape_count(&t->shape) * (int64_t)hx_dtype_bytes(t->dtype); }

static void json_release(json_t **json) { json_decref(*json); }
#define AUTO_JSON HX_CLEANUP(json_release) json_t
static void text_release(char **text) { free(*text); }

/* ---- the header ---- */

static hx_status no_memory(void) { return HX_FAIL(HX_ERR_MEMORY, "no memory for a header of JSON"); }

static hx_status check_tensor(const hx_st_tensor *t) {
    HX_TRY(hx_shape_check(&t->shape));
    if (t->dtype == HX_C128)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "tensor %.200s is c128, which safetensors has not: convert it to c64, or to f64 with a dim of 2", t->name);
    if (hx_dtype_bytes(t->dtype) == 0) return HX_FAIL(HX_ERR_ARG, "tensor %.200s: %d is no element type", t->name, (int)t->dtype);
    int64_t n_bytes;
    return hx_count_mul(hx_shape_count(&t->shape), (int64_t)hx_dtype_bytes(t->dtype), &n_bytes);
}

static const char *type_text(hx_dtype dtype) {
    int i = 0;
    while (hx__st_types[i].dtype != dtype) i++; /* check_tensor has seen to it that there is one */
    return hx__st_types[i].text;
}

static json_t *entry_json(const hx_st_tensor *t, int64_t begin) {
    json_t *dims = json_array();
    for (int d = 0; d < t->shape.ndim; d++) json_array_append_new(dims, json_integer(t->shape.dims[d]));
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", type_text(t->dtype), "shape", dims, "data_offsets", (json_int_t)begin,
                     (json_int_t)(begin + bytes_of(t)));
}

static hx_status add_metadata(const job *j, json_t *header) {
    AUTO_JSON *metadata = json_object();
    for (int i = 0; i < j->n_metadata; i++)
        if (json_object_set_new(metadata, j->metadata[i][0], json_string(j->metadata[i][1])) != 0)
            return HX_FAIL(HX_ERR_ARG, "metadata %.100s: expected texts in UTF-8", j->metadata[i][0]);
    if (json_object_set(header, "__metadata__", metadata) != 0) return no_memory();
    return HX_OK;
}

/* The header of tensors [first, last), without its length. @param[out] out  free() */
static hx_status make_header(const job *j, int64_t first, int64_t last, char **out) {
    AUTO_JSON *header = json_object();
    int64_t at = 0;
    if (header == NULL) return no_memory();
    if (j->metadata != NULL) HX_TRY(add_metadata(j, header));
    for (int64_t i = first; i < last; i++) {
        const hx_st_tensor *t = &j->tensors[i];
        json_t *entry = entry_json(t, at);
        if (entry == NULL) return no_memory();
        if (strcmp(t->name, "__metadata__") == 0 || json_object_set_new(header, t->name, entry) != 0)
            return HX_FAIL(HX_ERR_ARG, "tensor %.200s: expected another name, in UTF-8", t->name);
        at += bytes_of(t);
    }
    *out = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    return *out == NULL ? no_memory() : HX_OK;
}

/* ---- one file ---- */

typedef struct shard {
    const job *job;
    int64_t first, last;
} shard;

static hx_status write_header(const shard *s, int fd, const char *path, int64_t *end) {
    HX_CLEANUP(text_release) char *text = NULL;
    HX_TRY(make_header(s->job, s->first, s->last, &text));
    size_t n = strlen(text), padded = (n + ALIGN - 1) / ALIGN * ALIGN;
    const uint64_t length = padded;
    const char spaces[ALIGN] = "       ";
    HX_TRY(hx__fs_write(fd, path, &length, sizeof length, 0));
    HX_TRY(hx__fs_write(fd, path, text, n, sizeof length));
    if (padded > n) HX_TRY(hx__fs_write(fd, path, spaces, padded - n, (int64_t)(sizeof length + n)));
    *end = (int64_t)(sizeof length + padded);
    return HX_OK;
}

static hx_status fill_shard(void *arg, int fd, const char *path) {
    const shard *s = arg;
    const job *j = s->job;
    int64_t at = 0;
    HX_TRY(write_header(s, fd, path, &at));
    for (int64_t i = s->first; i < s->last; i++) {
        const int64_t n_bytes = bytes_of(&j->tensors[i]);
        for (int64_t done = 0; done < n_bytes;) {
            int64_t n = n_bytes - done < PIECE_BYTES ? n_bytes - done : PIECE_BYTES;
            HX_TRY(j->produce(j->self, i, done, n, j->piece));
            HX_TRY(hx__fs_write(fd, path, j->piece, (size_t)n, at));
            done += n;
            at += n;
        }
    }
    return HX_OK;
}

/* ---- shards ---- */

/* One past the last tensor of the shard that begins with `first`: as many as fit, at least one. */
static int64_t shard_end(const job *j, int64_t first, int64_t most) {
    int64_t n = 0, last = first;
    for (; last < j->n; last++) {
        n += bytes_of(&j->tensors[last]);
        if (n > most && last > first) break;
    }
    return last;
}

static hx_status path_in(const char *folder, const char *name, char out[PATH_BYTES]) {
    if (snprintf(out, PATH_BYTES, "%s/%s", folder, name) >= PATH_BYTES) return HX_FAIL(HX_ERR_ARG, "folder %.64s...: its path is too long", folder);
    return HX_OK;
}

static hx_status check_folder(const char *folder) {
    static const char *const names[] = {HX__ST_FILE, HX__ST_INDEX};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        HX_TRY(path_in(folder, names[i], path));
        if (access(path, F_OK) == 0) return HX_FAIL(HX_ERR_ARG, "%s is there already: expected a folder without weights", path);
    }
    return HX_OK;
}

static hx_status write_index(const job *j, json_t *map) {
    char path[PATH_BYTES];
    int64_t total = 0;
    for (int64_t i = 0; i < j->n; i++) total += bytes_of(&j->tensors[i]);
    AUTO_JSON *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    HX_CLEANUP(text_release) char *text = index == NULL ? NULL : json_dumps(index, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    if (text == NULL) return no_memory();
    HX_TRY(path_in(j->path, HX__ST_INDEX, path));
    return hx__fs_replace_text(path, text, strlen(text));
}

static hx_status shard_path(const job *j, int64_t k, int64_t n_shards, char name[64], char path[PATH_BYTES]) {
    snprintf(name, 64, "model-%05lld-of-%05lld.safetensors", (long long)k + 1, (long long)n_shards);
    if (n_shards == 1) strcpy(name, HX__ST_FILE);
    return path_in(j->path, name, path);
}

/* The index comes last: until it is there, a reader finds no weights. */
static hx_status write_all(const job *j, int64_t n_shards, int64_t most) {
    char path[PATH_BYTES], name[64];
    AUTO_JSON *map = json_object();
    for (int64_t first = 0, k = 0; k < n_shards; k++) {
        shard s = {.job = j, .first = first, .last = shard_end(j, first, most)};
        HX_TRY(shard_path(j, k, n_shards, name, path));
        HX_TRY(hx__fs_replace(path, fill_shard, &s));
        for (int64_t i = s.first; i < s.last; i++)
            if (json_object_set_new(map, j->tensors[i].name, json_string(name)) != 0) return no_memory();
        first = s.last;
    }
    HX_TRY(hx__fs_sync_folder(j->path));
    if (n_shards == 1) return HX_OK;
    HX_TRY(write_index(j, map));
    return hx__fs_sync_folder(j->path);
}

static hx_status write_shards(const job *j, int64_t most) {
    char path[PATH_BYTES], name[64];
    int64_t n_shards = 0;
    HX_TRY(check_folder(j->path));
    for (int64_t first = 0; first < j->n || n_shards == 0; first = shard_end(j, first, most)) n_shards++;
    hx_status status = write_all(j, n_shards, most);
    if (status != HX_OK && path_in(j->path, HX__ST_INDEX, path) == HX_OK) unlink(path);
    for (int64_t k = 0; status != HX_OK && k < n_shards; k++)
        if (shard_path(j, k, n_shards, name, path) == HX_OK) unlink(path); /* of no use to anyone */
    return status;
}

/* ---- all ---- */

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const hx_st_tensor *const *)a)->name, (*(const hx_st_tensor *const *)b)->name);
}

static hx_status check_names(const hx_st_tensor *tensors, int64_t n) {
    void *memory;
    HX_TRY(hx_mem_alloc_array(n, sizeof(hx_st_tensor *), &memory));
    const hx_st_tensor **sorted = memory;
    const char *twice = NULL;
    for (int64_t i = 0; i < n; i++) sorted[i] = &tensors[i];
    if (n > 1) qsort(sorted, (size_t)n, sizeof *sorted, compare_names);
    for (int64_t i = 1; i < n && twice == NULL; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) twice = sorted[i]->name;
    hx_mem_free(&memory);
    return twice == NULL ? HX_OK : HX_FAIL(HX_ERR_ARG, "two tensors are called %.200s", twice);
}

hx_status hx_safetensors_write(const char *path, const hx_st_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                               int n_metadata, int64_t max_shard_bytes, hx_st_produce produce, void *self) {
    job j = {.path = path, .tensors = tensors, .n = n, .metadata = metadata, .n_metadata = n_metadata, .produce = produce, .self = self};
    shard all = {.job = &j, .last = n};
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        HX_TRY(check_tensor(&tensors[i]));
        if (__builtin_add_overflow(total, bytes_of(&tensors[i]), &total))
            return HX_FAIL(HX_ERR_OVERFLOW, "the tensors up to %.200s need more than 2^63 bytes", tensors[i].name);
    }
    HX_TRY(check_names(tensors, n));
    HX_TRY(hx_mem_alloc((size_t)(total < PIECE_BYTES ? total : PIECE_BYTES), &j.piece));
    hx_status status = max_shard_bytes > 0 ? write_shards(&j, max_shard_bytes) : hx__fs_replace(path, fill_shard, &all);
    if (status == HX_OK && max_shard_bytes == 0) status = hx__fs_sync_above(path);
    hx_mem_free(&j.piece);
    return status;
}

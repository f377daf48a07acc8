/* Reading: the length of the header, the header, the tensors' ranges; each is compared with the file's length before anything is
 * taken from it. What is believed of a tensor in the end is its name, its type, its shape and a range inside the mapping. */
#define _GNU_SOURCE
#include "io/ckpt/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/ckpt/safetensors_impl.h"
#include "io/fs.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are stored as they lie in memory");

enum {
    HEADER_MOST = 100 * 1000 * 1000, /* bytes of a header, as in the reference implementation */
    MARKS_MOST = 1 << 22,            /* of `{ [ , :` in a header: some 300,000 tensors; keeps its tree below 1 GB */
    SHARDS_MOST = 10000,
};

/* ---- element types ---- */

const hx__st_type hx__st_types[] = {
    {"F32", HX_F32, 4},   {"F64", HX_F64, 8},   {"I32", HX_I32, 4}, {"I64", HX_I64, 8},   {"U8", HX_U8, 1},   {"BF16", HX_BF16, 2},
    {"F16", HX_F16, 2},   {"I8", HX_I8, 1},     {"BOOL", HX_BOOL, 1}, {"C64", HX_C64, 8}, /* those that Helix has not: */
    {"U16", HX_DTYPE_COUNT, 2}, {"I16", HX_DTYPE_COUNT, 2}, {"U32", HX_DTYPE_COUNT, 4}, {"U64", HX_DTYPE_COUNT, 8},
    {"F8_E4M3", HX_DTYPE_COUNT, 1}, {"F8_E5M2", HX_DTYPE_COUNT, 1}, {"F8_E8M0", HX_DTYPE_COUNT, 1},
};
const int hx__st_n_types = sizeof hx__st_types / sizeof *hx__st_types;

/* ---- what is open ---- */

typedef struct mapping {
    char *path; /* owned */
    const void *data;
    size_t n_bytes;
} mapping;

typedef struct entry {
    hx_st_tensor tensor; /* its name is owned by the entry */
    const char *type;    /* static, e.g. "F8_E4M3" */
    int64_t begin, end;  /* behind the header */
    int file;            /* index of a mapping */
} entry;

struct hx_safetensors {
    mapping *files; /* [n_files] */
    int64_t n_files, files_capacity;
    entry *entries; /* [n], by name */
    int64_t n, capacity;
};

void hx_safetensors_close(hx_safetensors **st) {
    if (st == NULL || *st == NULL) return;
    for (int64_t i = 0; i < (*st)->n_files; i++) {
        mapping *m = &(*st)->files[i];
        hx__fs_unmap(m->data, (int64_t)m->n_bytes);
        hx_mem_free((void **)&m->path);
    }
    for (int64_t i = 0; i < (*st)->n; i++) {
        void *name = (void *)(uintptr_t)(*st)->entries[i].tensor.name;
        hx_mem_free(&name);
    }
    hx_mem_free((void **)&(*st)->files);
    hx_mem_free((void **)&(*st)->entries);
    hx_mem_free((void **)st);
}

static void json_release(json_t **json) { json_decref(*json); }
#define AUTO_JSON HX_CLEANUP(json_release) json_t

/* A name for messages: whatever it holds, it stays short. */
#define NAME_FORMAT "%.200s"

/* ---- JSON ---- */

/* The parser makes a node of every value. How many there will be is counted first: a header of 100 MB may hold 50 million. */
static hx_status check_marks(const char *text, size_t n, const char *path) {
    int64_t marks = 0;
    bool in_text = false;
    for (size_t i = 0; i < n; i++) {
        if (in_text && text[i] == '\\') i++;
        else if (text[i] == '"') in_text = !in_text;
        else if (!in_text) marks += text[i] == '{' || text[i] == '[' || text[i] == ',' || text[i] == ':';
    }
    if (marks <= MARKS_MOST) return HX_OK;
    return HX_FAIL(HX_ERR_FORMAT, "%s: its JSON has more than %d values", path, MARKS_MOST);
}

hx_status hx__st_json(const char *text, size_t n, const char *path, json_t **out) {
    json_error_t error;
    HX_TRY(check_marks(text, n, path));
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        return HX_FAIL(HX_ERR_FORMAT, "%s: JSON, byte %d: %s", path, error.position, error.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return HX_FAIL(HX_ERR_FORMAT, "%s: JSON: expected an object", path);
    }
    *out = json;
    return HX_OK;
}

/* ---- one tensor of a header ---- */

typedef struct header {
    const char *path;
    const char *elements; /* behind the header */
    int64_t n_bytes;      /* of them */
    int file;
} header;

static hx_status take_type(const header *h, const char *name, const json_t *json, entry *e, int64_t *elem_bytes) {
    const char *text = json_string_value(json);
    if (text == NULL) return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": dtype is missing or no text", h->path, name);
    for (int i = 0; i < hx__st_n_types; i++) {
        if (strcmp(text, hx__st_types[i].text) != 0) continue;
        e->type = hx__st_types[i].text;
        e->tensor.dtype = hx__st_types[i].dtype;
        *elem_bytes = hx__st_types[i].n_bytes;
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: tensor " NAME_FORMAT ": dtype %.40s: expected F32, F16, BF16 or another one of the format",
                   h->path, name, text);
}

/* A whole number >= 0. */
static bool take_count(const json_t *json, int64_t *out) {
    *out = json_integer_value(json);
    return json_is_integer(json) && *out >= 0;
}

static hx_status take_shape(const header *h, const char *name, const json_t *json, hx_shape *shape) {
    if (!json_is_array(json)) return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": shape is missing or no list", h->path, name);
    if (json_array_size(json) > HX_MAX_DIMS)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: tensor " NAME_FORMAT " has %zu dims: expected up to %d", h->path, name,
                       json_array_size(json), HX_MAX_DIMS);
    shape->ndim = (int)json_array_size(json);
    for (int d = 0; d < shape->ndim; d++)
        if (!take_count(json_array_get(json, (size_t)d), &shape->dims[d]))
            return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": dim %d of its shape is no whole number >= 0", h->path, name, d);
    if (hx_shape_check(shape) != HX_OK)
        return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": its shape is too large", h->path, name);
    return HX_OK;
}

static hx_status take_range(const header *h, const char *name, const json_t *json, int64_t elem_bytes, entry *e) {
    char shape[HX_SHAPE_TEXT];
    int64_t n_bytes;
    if (json_array_size(json) != 2 || !take_count(json_array_get(json, 0), &e->begin) || !take_count(json_array_get(json, 1), &e->end))
        return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": data_offsets: expected [begin, end]", h->path, name);
    if (e->begin > e->end || e->end > h->n_bytes)
        return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": data_offsets [%" PRId64 ", %" PRId64 "]: expected a range within the "
                       "%" PRId64 " bytes behind the header", h->path, name, e->begin, e->end, h->n_bytes);
    if (hx_count_mul(hx_shape_count(&e->tensor.shape), elem_bytes, &n_bytes) != HX_OK || n_bytes != e->end - e->begin)
        return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": %s %s does not fit its %" PRId64 " bytes", h->path, name, e->type,
                       hx_shape_text(&e->tensor.shape, shape), e->end - e->begin);
    e->tensor.data = h->elements + e->begin;
    return HX_OK;
}

static hx_status take_entry(const header *h, const char *name, const json_t *json, entry *e) {
    int64_t elem_bytes = 0;
    if (!json_is_object(json)) return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": expected an object", h->path, name);
    if (json_object_size(json) != 3)
        return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT " has %zu entries: expected dtype, shape and data_offsets", h->path, name,
                       json_object_size(json));
    HX_TRY(take_type(h, name, json_object_get(json, "dtype"), e, &elem_bytes));
    HX_TRY(take_shape(h, name, json_object_get(json, "shape"), &e->tensor.shape));
    return take_range(h, name, json_object_get(json, "data_offsets"), elem_bytes, e);
}

/* ---- a header ---- */

static hx_status check_metadata(const header *h, json_t *json) {
    const char *key;
    json_t *value;
    if (!json_is_object(json)) return HX_FAIL(HX_ERR_FORMAT, "%s: __metadata__: expected an object", h->path);
    json_object_foreach(json, key, value)
        if (!json_is_string(value)) return HX_FAIL(HX_ERR_FORMAT, "%s: __metadata__: " NAME_FORMAT " is no text", h->path, key);
    return HX_OK;
}

static int compare_begins(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end); /* an empty one stands before that which begins where it does */
}

/* Every byte belongs to one tensor: nothing overlaps, nothing is hidden between. */
static hx_status check_tiling(const header *h, entry *entries, int64_t n) {
    int64_t at = 0;
    if (n > 1) qsort(entries, (size_t)n, sizeof *entries, compare_begins);
    for (int64_t i = 0; i < n; i++) {
        if (entries[i].begin != at)
            return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT " begins at byte %" PRId64 ", where the one before ends at %" PRId64
                           ": expected neither overlap nor hole", h->path, entries[i].tensor.name, entries[i].begin, at);
        at = entries[i].end;
    }
    if (at != h->n_bytes)
        return HX_FAIL(HX_ERR_FORMAT, "%s: its tensors end at byte %" PRId64 " of %" PRId64 " behind the header", h->path, at, h->n_bytes);
    return HX_OK;
}

static hx_status take_entries(hx_safetensors *st, const header *h, json_t *json) {
    const char *name;
    json_t *value;
    int64_t first = st->n;
    json_object_foreach(json, name, value) {
        entry e = {.file = h->file};
        char *copy;
        if (strcmp(name, "__metadata__") == 0) {
            HX_TRY(check_metadata(h, value));
            continue;
        }
        HX_TRY(take_entry(h, name, value, &e));
        HX_TRY(hx_mem_grow((void **)&st->entries, &st->capacity, st->n + 1, sizeof e));
        HX_TRY(hx_mem_strdup(name, &copy));
        e.tensor.name = copy;
        st->entries[st->n++] = e;
    }
    return check_tiling(h, st->n > first ? &st->entries[first] : NULL, st->n - first);
}

/* ---- a file ---- */

static hx_status map_file(const char *path, mapping *m) {
    int64_t n;
    HX_TRY(hx__fs_map(path, &m->data, &n));
    m->n_bytes = (size_t)n;
    return n > 0 ? HX_OK : HX_FAIL(HX_ERR_FORMAT, "%s is empty", path);
}

static hx_status add_mapping(hx_safetensors *st, const char *path, mapping **out) {
    HX_TRY(hx_mem_grow((void **)&st->files, &st->files_capacity, st->n_files + 1, sizeof *st->files));
    mapping *m = &st->files[st->n_files];
    *m = (mapping){0};
    HX_TRY(hx_mem_strdup(path, &m->path));
    st->n_files++; /* from here on hx_safetensors_close cares for it */
    HX_TRY(map_file(path, m));
    *out = m;
    return HX_OK;
}

static hx_status read_file(hx_safetensors *st, const char *path) {
    mapping *m;
    uint64_t n = 0;
    AUTO_JSON *json = NULL;
    HX_TRY(add_mapping(st, path, &m));
    if (m->n_bytes < sizeof n) return HX_FAIL(HX_ERR_FORMAT, "%s: %zu bytes: expected a header's length of 8", path, m->n_bytes);
    memcpy(&n, m->data, sizeof n);
    if (n > HEADER_MOST) return HX_FAIL(HX_ERR_FORMAT, "%s: a header of %" PRIu64 " bytes: expected up to %d", path, n, HEADER_MOST);
    if (n > m->n_bytes - sizeof n)
        return HX_FAIL(HX_ERR_FORMAT, "%s: a header of %" PRIu64 " bytes in a file of %zu", path, n, m->n_bytes);
    const char *text = (const char *)m->data + sizeof n;
    if (n == 0 || text[0] != '{') return HX_FAIL(HX_ERR_FORMAT, "%s: no safetensors file: its header does not begin with {", path);
    HX_TRY(hx__st_json(text, n, path, &json));
    const header h = {.path = m->path, .elements = text + n, .n_bytes = (int64_t)(m->n_bytes - sizeof n - n), .file = (int)st->n_files - 1};
    return take_entries(st, &h, json);
}

/* ---- an index ---- */

/* In the index's own folder, and nowhere else. */
static bool is_plain_name(const char *name) {
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL && strlen(name) < 256;
}

static hx_status read_shard(hx_safetensors *st, const char *index, const char *name) {
    char path[4096];
    const char *slash = strrchr(index, '/');
    int n_folder = slash == NULL ? 0 : (int)(slash - index) + 1;
    if (snprintf(path, sizeof path, "%.*s%s", n_folder, index, name) >= (int)sizeof path)
        return HX_FAIL(HX_ERR_IO, "%s: its path is too long", index);
    return read_file(st, path);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const entry *)a)->tensor.name, ((const entry *)b)->tensor.name);
}

/* By name; names are unique in a file, here in all of them. */
static hx_status sort_names(hx_safetensors *st) {
    if (st->n > 1) qsort(st->entries, (size_t)st->n, sizeof *st->entries, compare_names);
    for (int64_t i = 1; i < st->n; i++)
        if (strcmp(st->entries[i - 1].tensor.name, st->entries[i].tensor.name) == 0)
            return HX_FAIL(HX_ERR_FORMAT, "tensor " NAME_FORMAT " is in %s and in %s", st->entries[i].tensor.name,
                           st->files[st->entries[i - 1].file].path, st->files[st->entries[i].file].path);
    return HX_OK;
}

static entry *find(const hx_safetensors *st, const char *name) {
    const entry key = {.tensor = {.name = name}};
    return st->n == 0 ? NULL : bsearch(&key, st->entries, (size_t)st->n, sizeof key, compare_names);
}

/* Files in the order of the index; the names of those that are open tell which are new. */
static hx_status read_shards(hx_safetensors *st, const char *index, json_t *map) {
    const char *name;
    json_t *value;
    AUTO_JSON *seen = json_object();
    if (seen == NULL) return HX_FAIL(HX_ERR_MEMORY, "%s: no memory for its list of files", index);
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (file == NULL || !is_plain_name(file))
            return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT ": expected the name of a file in the same folder", index, name);
        if (json_object_get(seen, file) != NULL) continue;
        if (st->n_files == SHARDS_MOST) return HX_FAIL(HX_ERR_FORMAT, "%s names more than %d files", index, SHARDS_MOST);
        HX_TRY(read_shard(st, index, file));
        if (json_object_set_new(seen, file, json_true()) != 0) return HX_FAIL(HX_ERR_MEMORY, "%s: no memory for its list of files", index);
    }
    return HX_OK;
}

static hx_status check_map(const hx_safetensors *st, const char *index, json_t *map) {
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const entry *e = find(st, name);
        if (e == NULL || strcmp(base_name(st->files[e->file].path), json_string_value(value)) != 0)
            return HX_FAIL(HX_ERR_FORMAT, "%s: tensor " NAME_FORMAT " is not in %.200s, where it says", index, name, json_string_value(value));
    }
    return HX_OK;
}

hx_status hx__st_json_file(const char *path, json_t **out) {
    mapping m = {0};
    HX_TRY(map_file(path, &m));
    hx_status status;
    if (m.n_bytes > HEADER_MOST) status = HX_FAIL(HX_ERR_FORMAT, "%s: %zu bytes: expected up to %d", path, m.n_bytes, HEADER_MOST);
    else status = hx__st_json(m.data, m.n_bytes, path, out);
    hx__fs_unmap(m.data, (int64_t)m.n_bytes);
    return status;
}

static hx_status read_index(hx_safetensors *st, const char *path) {
    AUTO_JSON *json = NULL;
    HX_TRY(hx__st_json_file(path, &json));
    json_t *map = json_object_get(json, "weight_map");
    if (!json_is_object(map)) return HX_FAIL(HX_ERR_FORMAT, "%s: weight_map is missing or no object", path);
    HX_TRY(read_shards(st, path, map));
    HX_TRY(sort_names(st));
    return check_map(st, path, map);
}

/* ---- opening ---- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static bool is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* The file that a folder means: as Hugging Face's library chooses. */
static hx_status in_folder(const char *folder, char path[4096]) {
    static const char *const names[] = {HX__ST_FILE, HX__ST_INDEX};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (snprintf(path, 4096, "%s/%s", folder, names[i]) >= 4096) return HX_FAIL(HX_ERR_IO, "%.64s...: the path is too long", folder);
        if (access(path, F_OK) == 0) return HX_OK;
    }
    return HX_FAIL(HX_ERR_IO, "folder %s: there is neither " HX__ST_FILE " nor " HX__ST_INDEX, folder);
}

static hx_status open_into(const char *path, hx_safetensors *st) {
    char file[4096];
    if (is_folder(path)) {
        HX_TRY(in_folder(path, file));
        path = file;
    }
    if (ends_with(path, ".index.json")) return read_index(st, path);
    HX_TRY(read_file(st, path));
    return sort_names(st);
}

hx_status hx_safetensors_open(const char *path, hx_safetensors **out) {
    HX_CLEANUP(hx_safetensors_close) hx_safetensors *st = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *st, (void **)&st));
    HX_TRY(open_into(path, st));
    *out = st;
    st = NULL; /* handed on */
    return HX_OK;
}

int64_t hx_safetensors_count(const hx_safetensors *st) { return st->n; }

const hx_st_tensor *hx_safetensors_at(const hx_safetensors *st, int64_t i) {
    return i >= 0 && i < st->n ? &st->entries[i].tensor : NULL;
}

const hx_st_tensor *hx_safetensors_find(const hx_safetensors *st, const char *name) {
    const entry *e = find(st, name);
    return e == NULL ? NULL : &e->tensor;
}

hx_status hx_safetensors_get(const hx_safetensors *st, const char *name, const hx_st_tensor **out) {
    const entry *e = find(st, name);
    if (e == NULL)
        return HX_FAIL(HX_ERR_MISMATCH, "%s%s: there is no tensor " NAME_FORMAT, st->files[0].path, st->n_files > 1 ? " and its relatives" : "", name);
    if (e->tensor.dtype == HX_DTYPE_COUNT)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: tensor " NAME_FORMAT " is %s: expected F32, F64, F16, BF16, I8, I32, I64, U8, BOOL or C64",
                       st->files[e->file].path, name, e->type);
    *out = &e->tensor;
    return HX_OK;
}

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define ENTRIES_MOST  (1 << 20)
#define VERIFY_ELEMS  ((int64_t)1 << 20) /* read at once */

/* ---- /train ---- */

hx_status hx__ckpt_state_write(hid_t group, const hx_train_state *state) {
#define WRITE_(field, type)                                                                                  \
    HX_TRY(hx__h5_attr_write(group, #field, HX_CKPT_H5_##type, 1, &state->field));
    HX_CKPT_STATE_FIELDS(WRITE_)
    HX_CKPT_STATE_ADDED(WRITE_)
#undef WRITE_
    return HX_OK;
}

hx_status hx__ckpt_state_read(hid_t h5, hx_train_state *out) {
    hx_train_state state = {.eval_step = -1}; /* what older files do not tell */
    HX_AUTO_H5 group = H5Gopen2(h5, "/train", H5P_DEFAULT);
    if (group < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", "/train");
#define READ_(field, type) HX_TRY(hx__h5_attr_read(group, #field, HX_CKPT_H5_##type, 1, &state.field));
    HX_CKPT_STATE_FIELDS(READ_)
#define READ_IF_THERE_(field, type)                                                                          \
    if (H5Aexists(group, #field) > 0) READ_(field, type)
    HX_CKPT_STATE_ADDED(READ_IF_THERE_)
#undef READ_IF_THERE_
#undef READ_
    if (!(state.loss_scale >= 0 && state.loss_scale < 0x1p64) || state.n_clean < 0)
        return HX_FAIL(HX_ERR_FORMAT, "/train: loss_scale %g, n_clean %lld: expected finite numbers >= 0", state.loss_scale,
                       (long long)state.n_clean);
    if (state.eval_step < -1 || state.eval_epoch < 0)
        return HX_FAIL(HX_ERR_FORMAT, "/train: eval_step %lld, eval_epoch %lld: expected numbers >= 0, or -1 for a step that "
                       "is not known", (long long)state.eval_step, (long long)state.eval_epoch);
    if (state.step < 0 || state.cursor < 0 || state.n_bad_evals < 0 || state.n_skipped < 0)
        return HX_FAIL(HX_ERR_FORMAT, "/train: step %lld, cursor %lld, n_bad_evals %lld, n_skipped %lld: expected "
                       "numbers >= 0", (long long)state.step, (long long)state.cursor,
                       (long long)state.n_bad_evals, (long long)state.n_skipped);
    *out = state;
    return HX_OK;
}

/* ---- checksums ---- */

/* Flat elements [at, at + n) of a dataset, in order. */
static hx_status read_flat(hid_t dataset, const char *name, hx_dtype dtype, const hx_layout *whole, int64_t at,
                           int64_t n, void *buffer) {
    HX_CLEANUP(hx_layout_destroy) hx_layout part = {0};
    HX_TRY(hx_layout_restrict(whole, at, at + n, &part));
    for (int b = 0; b < part.n_boxes; b++) {
        char *p = (char *)buffer + (size_t)part.boxes[b].local * hx_dtype_bytes(dtype);
        HX_TRY(hx__h5_box_read(dataset, name, &whole->shape, &part.boxes[b], dtype, p));
    }
    return HX_OK;
}

static hx_status verify_block(hid_t dataset, const char *name, hx_dtype dtype, const hx_layout *whole, int64_t begin,
                              int64_t end, uint64_t expected, void *buffer) {
    uint64_t sum = 0;
    for (int64_t at = begin; at < end; at += VERIFY_ELEMS) {
        int64_t n = end - at < VERIFY_ELEMS ? end - at : VERIFY_ELEMS;
        HX_TRY(read_flat(dataset, name, dtype, whole, at, n, buffer));
        sum += hx__sum_elems(buffer, hx_dtype_bytes(dtype), at, n);
    }
    if (sum != expected)
        return HX_FAIL(HX_ERR_CORRUPT, "%s: elements %lld to %lld fail their checksum (%016llx, stored %016llx)", name,
                       (long long)begin, (long long)end - 1, (unsigned long long)sum, (unsigned long long)expected);
    return HX_OK;
}

static void free_memory(void **p) { hx_mem_free(p); }

/* @param[out] sums  [hx__sum_n_blocks(n)]; free with hx_mem_free */
static hx_status read_sums(hid_t dataset, const char *name, int64_t n, void **sums) {
    const int64_t block = hx__sum_block(n), n_blocks = hx__sum_n_blocks(n);
    HX_CLEANUP(free_memory) void *stored = NULL;
    int64_t stored_block;
    HX_TRY(hx__h5_attr_read(dataset, "xxh3_block", H5T_STD_I64LE, 1, &stored_block));
    if (stored_block != block)
        return HX_FAIL(HX_ERR_FORMAT, "%s: checksums over %lld elements each: expected %lld", name,
                       (long long)stored_block, (long long)block);
    HX_TRY(hx_mem_alloc_array(n_blocks, sizeof(uint64_t), &stored));
    HX_TRY(hx__h5_attr_read(dataset, "xxh3", H5T_STD_U64LE, n_blocks, stored));
    *sums = stored;
    stored = NULL; /* handed on */
    return HX_OK;
}

hx_status hx__ckpt_verify(hid_t dataset, const char *name, hx_dtype dtype, const hx_shape *shape, int64_t begin,
                          int64_t end) {
    int64_t n = hx_shape_count(shape), block = hx__sum_block(n), n_blocks = hx__sum_n_blocks(n);
    HX_CLEANUP(hx_layout_destroy) hx_layout whole = {0};
    HX_CLEANUP(free_memory) void *sums = NULL;
    HX_CLEANUP(free_memory) void *buffer = NULL;
    HX_TRY(read_sums(dataset, name, n, &sums));
    HX_TRY(hx_mem_alloc((size_t)(n < VERIFY_ELEMS ? n : VERIFY_ELEMS) * hx_dtype_bytes(dtype), &buffer));
    HX_TRY(hx_layout_full(shape, &whole));
    for (int64_t b = begin; b < end && b < n_blocks; b++) {
        int64_t stop = (b + 1) * block < n ? (b + 1) * block : n;
        HX_TRY(verify_block(dataset, name, dtype, &whole, b * block, stop, ((uint64_t *)sums)[b], buffer));
    }
    return HX_OK;
}

/* A sum over tensors does not depend on the order in which they are visited. */
static hx_status add_hash(hid_t dataset, const hx_ckpt_entry *entry, uint64_t *hash) {
    const int64_t n = hx_shape_count(&entry->shape), kind[2] = {entry->dtype, entry->shape.ndim};
    HX_CLEANUP(free_memory) void *sums = NULL;
    HX_TRY(read_sums(dataset, entry->name, n, &sums));
    uint64_t seed = XXH3_64bits(entry->name, strlen(entry->name));
    seed = XXH3_64bits_withSeed(kind, sizeof kind, seed);
    seed = XXH3_64bits_withSeed(entry->shape.dims, (size_t)entry->shape.ndim * sizeof *entry->shape.dims, seed);
    *hash += XXH3_64bits_withSeed(sums, (size_t)hx__sum_n_blocks(n) * sizeof(uint64_t), seed);
    return HX_OK;
}

/* ---- the whole file ---- */

typedef struct visitor {
    hx_ckpt_info *info;
    int64_t capacity;
    bool verify;
    hx_status status;
} visitor;

static hx_status add_entry(visitor *v, hid_t h5, const char *name) {
    hx_ckpt_entry entry = {.name = "/"};
    HX_AUTO_H5 dataset = H5I_INVALID_HID;
    if (strlen(name) + 2 > sizeof entry.name)
        return HX_FAIL(HX_ERR_FORMAT, "a dataset's name has %zu bytes: expected up to %zu", strlen(name) + 1,
                       sizeof entry.name - 1);
    strcpy(entry.name + 1, name);
    if (v->info->n_entries >= ENTRIES_MOST)
        return HX_FAIL(HX_ERR_FORMAT, "more than %d datasets", ENTRIES_MOST);
    HX_TRY(hx__h5_dataset_open(h5, entry.name, &dataset, &entry.dtype, &entry.shape));
    if (v->verify) HX_TRY(hx__ckpt_verify(dataset, entry.name, entry.dtype, &entry.shape, 0, INT64_MAX));
    if (strncmp(entry.name, "/model/", 7) == 0) HX_TRY(add_hash(dataset, &entry, &v->info->model_hash));
    HX_TRY(hx_mem_grow((void **)&v->info->entries, &v->capacity, v->info->n_entries + 1, sizeof entry));
    v->info->entries[v->info->n_entries++] = entry;
    return HX_OK;
}

/* HDF5 visits each object once, along hard links only, so that a loop of groups ends. */
static herr_t visit(hid_t h5, const char *name, const H5O_info_t *object, void *data) {
    visitor *v = data;
    if (object->type != H5O_TYPE_DATASET) return 0;
    v->status = add_entry(v, h5, name);
    return v->status == HX_OK ? 0 : 1;
}

static int compare_entries(const void *a, const void *b) {
    return strcmp(((const hx_ckpt_entry *)a)->name, ((const hx_ckpt_entry *)b)->name);
}

/* Cut where it is longer than `out`, which is zeroed. */
static hx_status read_text(hid_t object, const char *name, size_t n_bytes, char *out) {
    char *text;
    HX_TRY(hx__h5_text_read(object, name, &text));
    strncpy(out, text, n_bytes - 1);
    hx_mem_free((void **)&text);
    return HX_OK;
}

static hx_status read_meta(hid_t h5, hx_ckpt_info *info) {
    int64_t format, world_size;
    HX_AUTO_H5 meta = H5Gopen2(h5, "/meta", H5P_DEFAULT);
    if (meta < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", "/meta");
    HX_TRY(hx__h5_attr_read(meta, "format", H5T_STD_I64LE, 1, &format));
    HX_TRY(hx__h5_attr_read(meta, "world_size", H5T_STD_I64LE, 1, &world_size));
    if (format != info->format || world_size < 1 || world_size > INT32_MAX)
        return HX_FAIL(HX_ERR_FORMAT, "/meta: format %lld, world size %lld: expected format %d and a size >= 1",
                       (long long)format, (long long)world_size, info->format);
    info->world_size = (int)world_size;
    HX_TRY(read_text(meta, "versions", sizeof info->versions, info->versions));
    return H5Aexists(meta, "kernels") > 0 ? read_text(meta, "kernels", sizeof info->kernels, info->kernels) : HX_OK;
}

static void file_release(hid_t *h5) {
    if (*h5 >= 0) H5Fclose(*h5);
}

hx_status hx_ckpt_inspect(const char *file, bool verify, hx_ckpt_info *out) {
    HX_CLEANUP(hx_ckpt_info_destroy) hx_ckpt_info info = {0};
    HX_CLEANUP(file_release) hid_t h5 = H5I_INVALID_HID;
    visitor v = {.info = &info, .verify = verify};
    HX_TRY(hx__seal_check(file, true, &info.format));
    HX_H5_QUIET();
    HX_TRY(hx__h5_open_read(file, &h5));
    HX_TRY(hx__ckpt_state_read(h5, &info.state));
    HX_TRY(read_meta(h5, &info));
    herr_t visited = H5Ovisit2(h5, H5_INDEX_NAME, H5_ITER_NATIVE, visit, &v, H5O_INFO_BASIC);
    HX_TRY(v.status);
    if (visited < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "listing", file);
    if (info.n_entries > 1) qsort(info.entries, (size_t)info.n_entries, sizeof *info.entries, compare_entries);
    *out = info;
    info.entries = NULL; /* handed on */
    return HX_OK;
}

void hx_ckpt_info_destroy(hx_ckpt_info *info) {
    if (!info) return;
    hx_mem_free((void **)&info->entries);
    info->n_entries = 0;
}

hx_status hx_ckpt_config_text(const char *file, char **text) {
    HX_CLEANUP(file_release) hid_t h5 = H5I_INVALID_HID;
    int format;
    HX_TRY(hx__seal_check(file, true, &format));
    HX_H5_QUIET();
    HX_TRY(hx__h5_open_read(file, &h5));
    HX_AUTO_H5 meta = H5Gopen2(h5, "/meta", H5P_DEFAULT);
    if (meta < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", "/meta");
    return hx__h5_text_read(meta, "config", text);
}

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define ENTRIES_MOST (1 << 20)

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

/* ---- whose ids ---- */

static const char *const kinds[] = {[HX_TOKENIZER_BYTES] = "bytes", [HX_TOKENIZER_BPE] = "byte-level BPE"};

hx_status hx__ckpt_tokenizer_write(hid_t meta, const hx_tokenizer_id *id) {
    if (id->kind == HX_TOKENIZER_UNKNOWN) return HX_OK;
    HX_TRY(hx__h5_text_write(meta, "tokenizer_kind", kinds[id->kind]));
    HX_TRY(hx__h5_attr_write(meta, "tokenizer_vocab", H5T_STD_I64LE, 1, &id->vocab));
    return hx__h5_attr_write(meta, "tokenizer_hash", H5T_STD_U64LE, 1, &id->hash);
}

static hx_status find_kind(const char *text, hx_tokenizer_kind *out) {
    for (int i = HX_TOKENIZER_BYTES; i <= HX_TOKENIZER_BPE; i++) {
        if (strcmp(text, kinds[i]) != 0) continue;
        *out = (hx_tokenizer_kind)i;
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_FORMAT, "/meta: tokenizer_kind '%.64s': expected '%s' or '%s'", text, kinds[HX_TOKENIZER_BYTES], kinds[HX_TOKENIZER_BPE]);
}

static hx_status read_tokenizer(hid_t meta, hx_tokenizer_id *out) {
    hx_tokenizer_id id = {0};
    char *kind;
    if (H5Aexists(meta, "tokenizer_kind") <= 0) return HX_OK;
    HX_TRY(hx__h5_text_read(meta, "tokenizer_kind", &kind));
    hx_status status = find_kind(kind, &id.kind);
    hx_mem_free((void **)&kind);
    HX_TRY(status);
    HX_TRY(hx__h5_attr_read(meta, "tokenizer_vocab", H5T_STD_I64LE, 1, &id.vocab));
    HX_TRY(hx__h5_attr_read(meta, "tokenizer_hash", H5T_STD_U64LE, 1, &id.hash));
    if (id.vocab < 1 || id.vocab > INT32_MAX)
        return HX_FAIL(HX_ERR_FORMAT, "/meta: tokenizer_vocab %lld: expected 1 to 2^31 - 1", (long long)id.vocab);
    *out = id;
    return HX_OK;
}

/* ---- the whole file ---- */

typedef struct visitor {
    hx_ckpt_info *info;
    int64_t capacity;
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
    uint64_t n_bytes = (uint64_t)hx_shape_count(&entry.shape) * hx_dtype_bytes(entry.dtype);
    HX_TRY(hx__h5_dataset_place(dataset, entry.name, n_bytes, &entry.offset));
    HX_TRY(hx__ckpt_stored_sum(dataset, entry.name, v->info->format, &entry.shape, &entry.hash));
    v->info->state_hash += hx__sum_state(entry.name, entry.hash);
    if (strncmp(entry.name, "/model/", 7) == 0) v->info->model_hash += hx__sum_state(entry.name, entry.hash);
    HX_TRY(hx_mem_grow((void **)&v->info->entries, &v->capacity, v->info->n_entries + 1, sizeof entry));
    v->info->entries[v->info->n_entries++] = entry;
    return HX_OK;
}

/* HDF5 visits each object once, along hard links only, so that a loop of groups ends. */
static herr_t visit(hid_t h5, const char *name, const H5O_info_t *object, void *data) {
    visitor *v = data;
    if (object->type != H5O_TYPE_DATASET || strncmp(name, "meta/", 5) == 0) return 0;
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

static hx_status read_meta(hid_t h5, hx_ckpt_info *info, uint64_t *state_hash) {
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
    if (info->format > 1) {
        HX_TRY(hx__h5_attr_read(meta, "state_hash", H5T_STD_U64LE, 1, state_hash));
        HX_TRY(read_text(meta, "helix", sizeof info->helix, info->helix));
    }
    HX_TRY(read_tokenizer(meta, &info->tokenizer));
    return H5Aexists(meta, "kernels") > 0 ? read_text(meta, "kernels", sizeof info->kernels, info->kernels) : HX_OK;
}

/* All but the elements. */
static hx_status read_info(const char *file, hx_ckpt_info *info) {
    visitor v = {.info = info};
    uint64_t state_hash = 0;
    HX_H5_QUIET();
    HX_CLEANUP(hx__h5_file_release) hid_t h5 = H5I_INVALID_HID;
    HX_TRY(hx__h5_open_read(file, &h5));
    HX_TRY(hx__ckpt_state_read(h5, &info->state));
    HX_TRY(read_meta(h5, info, &state_hash));
    herr_t visited = H5Ovisit2(h5, H5_INDEX_NAME, H5_ITER_NATIVE, visit, &v, H5O_INFO_BASIC);
    HX_TRY(v.status);
    if (visited < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "listing", file);
    if (info->format > 1 && state_hash != info->state_hash)
        return HX_FAIL(HX_ERR_FORMAT, "%s: the state's hash is %016llx, that of its tensors %016llx", file,
                       (unsigned long long)state_hash, (unsigned long long)info->state_hash);
    return HX_OK;
}

static hx_status require_whole(const char *file) {
    HX_CLEANUP(hx_ckpt_report_destroy) hx_ckpt_report report = {0};
    char text[HX_CKPT_DAMAGE_TEXT];
    HX_TRY(hx_ckpt_verify(file, &report));
    if (report.n_damaged == 0) return HX_OK;
    return HX_FAIL(HX_ERR_CORRUPT, "%s in %s; damaged blocks: %lld of %lld", hx_ckpt_damage_text(&report.damages[0], text), file,
                   (long long)report.n_damaged, (long long)report.n_blocks);
}

hx_status hx_ckpt_inspect(const char *file, bool verify, hx_ckpt_info *out) {
    HX_CLEANUP(hx_ckpt_info_destroy) hx_ckpt_info info = {0};
    HX_TRY(hx__seal_check(file, true, &info.format));
    HX_TRY(read_info(file, &info));
    if (verify) HX_TRY(require_whole(file));
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
    int format;
    HX_TRY(hx__seal_check(file, true, &format));
    HX_H5_QUIET();
    HX_CLEANUP(hx__h5_file_release) hid_t h5 = H5I_INVALID_HID;
    HX_TRY(hx__h5_open_read(file, &h5));
    HX_AUTO_H5 meta = H5Gopen2(h5, "/meta", H5P_DEFAULT);
    if (meta < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", "/meta");
    return hx__h5_text_read(meta, "config", text);
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/train/hooks.h"
#include "io/ckpt/ckpt.h"
#include "io/ckpt/hf_impl.h"

/* A tensor of the checkpoint that is a part of a tensor to be written, in the order of the links. */
typedef struct part {
    const hx_ckpt_entry *entry; /* borrowed */
    void *data;                 /* while its tensor is in memory */
} part;

struct hx_hf_export {
    hx_comm *self;
    char *file;
    hx_ckpt_info info;
    hx__hf_link *links; /* [n_links] */
    part *parts;        /* [n_links] */
    hx_st_tensor *tensors; /* [n] */
    int64_t *first;        /* [n+1] link that a tensor begins with */
    int64_t n, n_links, in_memory; /* in_memory -1: none */
};

static void forget(hx_hf_export *out) {
    for (int64_t i = 0; out->parts != NULL && i < out->n_links; i++) hx_mem_free(&out->parts[i].data);
    out->in_memory = -1;
}

void hx_hf_export_close(hx_hf_export **out) {
    if (out == NULL || *out == NULL) return;
    forget(*out);
    hx_ckpt_info_destroy(&(*out)->info);
    void **owned[] = {(void **)&(*out)->file,  (void **)&(*out)->links,   (void **)&(*out)->parts, (void **)&(*out)->tensors,
                      (void **)&(*out)->first, (void **)out};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
}

const hx_st_tensor *hx_hf_export_tensors(const hx_hf_export *out, int64_t *n) {
    *n = out->n;
    return out->tensors;
}

/* ---- what there is ---- */

static int compare_entry(const void *name, const void *entry) { return strcmp(name, ((const hx_ckpt_entry *)entry)->name); }

/* Entries are sorted by name. */
static const hx_ckpt_entry *find_entry(const hx_hf_export *out, const char *group, const char *name) {
    char path[sizeof((hx_ckpt_entry *)NULL)->name];
    snprintf(path, sizeof path, "/%s/%.180s", group, name);
    return out->info.n_entries == 0 ? NULL
                                    : bsearch(path, out->info.entries, (size_t)out->info.n_entries, sizeof *out->info.entries, compare_entry);
}

static bool is_in(const hx_ckpt_entry *entry, const char *group) {
    size_t n = strlen(group);
    return entry->name[0] == '/' && strncmp(entry->name + 1, group, n) == 0 && entry->name[n + 1] == '/';
}

static int64_t count_in(const hx_hf_export *out, const char *group) {
    int64_t n = 0;
    for (int64_t i = 0; i < out->info.n_entries; i++) n += is_in(&out->info.entries[i], group);
    return n;
}

/* ---- names of ours ---- */

static hx_status own_links(hx_hf_export *out) {
    HX_TRY(hx_mem_alloc_array(count_in(out, "model"), sizeof *out->links, (void **)&out->links));
    for (int64_t i = 0; i < out->info.n_entries; i++) {
        const hx_ckpt_entry *e = &out->info.entries[i];
        if (!is_in(e, "model")) continue;
        hx__hf_link *l = &out->links[out->n_links++];
        snprintf(l->ours, sizeof l->ours, "%s", e->name + strlen("/model/"));
        memcpy(l->theirs, l->ours, sizeof l->theirs);
        l->shape = l->their_shape = e->shape;
    }
    return HX_OK;
}

/* ---- parts and tensors ---- */

static hx_status check_links(const hx_hf_export *out) {
    char given[HX_SHAPE_TEXT], wanted[HX_SHAPE_TEXT];
    for (int64_t i = 0; i < out->n_links; i++) {
        const hx__hf_link *l = &out->links[i];
        const hx_ckpt_entry *e = find_entry(out, "model", l->ours);
        if (e == NULL) return HX_FAIL(HX_ERR_MISMATCH, "%s: tensor /model/%s is missing", out->file, l->ours);
        if (!hx_shape_equal(&e->shape, &l->shape))
            return HX_FAIL(HX_ERR_MISMATCH, "%s: tensor %s is %s: its configuration makes expect %s", out->file, e->name,
                           hx_shape_text(&e->shape, given), hx_shape_text(&l->shape, wanted));
    }
    if (count_in(out, "model") != out->n_links)
        return HX_FAIL(HX_ERR_MISMATCH, "%s holds %lld tensors of a model: its configuration makes expect %lld", out->file,
                       (long long)count_in(out, "model"), (long long)out->n_links);
    return HX_OK;
}

/* Frozen parameters have no averages: they are themselves. */
static hx_status choose_parts(hx_hf_export *out, bool use_ema) {
    if (use_ema && count_in(out, "ema") == 0)
        return HX_FAIL(HX_ERR_CONFIG, "use_ema: %s was written with train.ema = 0: it holds no averages", out->file);
    HX_TRY(hx_mem_alloc_array(out->n_links, sizeof *out->parts, (void **)&out->parts));
    for (int64_t i = 0; i < out->n_links; i++) {
        const char *name = out->links[i].ours;
        const hx_ckpt_entry *e = find_entry(out, "model", name), *average = use_ema ? find_entry(out, "ema", name) : NULL;
        if (average != NULL && !hx_shape_equal(&average->shape, &e->shape))
            return HX_FAIL(HX_ERR_MISMATCH, "%s: %s and %s differ in shape", out->file, average->name, e->name);
        out->parts[i].entry = average != NULL ? average : e;
    }
    return HX_OK;
}

/* The averages of half types are f32, but a model's tensors keep their type. */
static hx_dtype type_of(const hx_hf_export *out, int64_t link, hx_dtype dtype) {
    hx_dtype own = find_entry(out, "model", out->links[link].ours)->dtype;
    return dtype == HX_DTYPE_COUNT || !hx_dtype_is_float(own) ? own : dtype;
}

static hx_status make_tensors(hx_hf_export *out, hx_dtype dtype) {
    HX_TRY(hx_mem_alloc_array(out->n_links, sizeof *out->tensors, (void **)&out->tensors));
    HX_TRY(hx_mem_alloc_array(out->n_links + 1, sizeof *out->first, (void **)&out->first));
    for (int64_t i = 0; i < out->n_links; i++) {
        const hx__hf_link *l = &out->links[i];
        if (i > 0 && strcmp(l[-1].theirs, l->theirs) == 0) continue;
        out->tensors[out->n] = (hx_st_tensor){.name = l->theirs, .dtype = type_of(out, i, dtype), .shape = l->their_shape};
        out->first[out->n++] = i;
    }
    out->first[out->n] = out->n_links;
    return HX_OK;
}

static hx_status open_file(hx_hf_export *out, const char *file, const hx_gpt_config *config, bool use_ema, hx_dtype dtype) {
    HX_TRY(hx_mem_strdup(file, &out->file));
    HX_TRY(hx_ckpt_inspect(file, false, &out->info));
    HX_TRY(config == NULL ? own_links(out) : hx__hf_links(config, &out->links, &out->n_links));
    HX_TRY(check_links(out));
    HX_TRY(choose_parts(out, use_ema));
    return make_tensors(out, dtype);
}

hx_status hx_hf_export_open(hx_comm *self, const char *file, const hx_gpt_config *config, bool use_ema, hx_dtype dtype, hx_hf_export **out) {
    HX_CLEANUP(hx_hf_export_close) hx_hf_export *e = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *e, (void **)&e));
    e->self = self;
    e->in_memory = -1;
    HX_TRY(open_file(e, file, config, use_ema, dtype));
    *out = e;
    e = NULL; /* handed on */
    return HX_OK;
}

/* ---- elements ---- */

static hx_status load_part(const hx_hf_export *out, part *p) {
    HX_CLEANUP(hx_layout_destroy) hx_layout whole = {0};
    hx_state_item item = {.dtype = p->entry->dtype, .layout = &whole, .n_replicas = 1};
    const hx_state_list list = {.items = &item, .n_items = 1};
    hx_train_state unused;
    HX_TRY(hx_layout_full(&p->entry->shape, &whole));
    HX_TRY(hx_mem_alloc((size_t)hx_shape_count(&p->entry->shape) * hx_dtype_bytes(p->entry->dtype), &p->data));
    item.data = p->data;
    memcpy(item.name, p->entry->name, sizeof item.name);
    return hx_ckpt_load(out->self, out->file, &list, &unused);
}

/* An element of a type that is not converted is moved as it is, whatever it means. */
static void gather_part(const hx_hf_export *out, int64_t link, hx_dtype to_type, int64_t at, int64_t n, void *to) {
    const part *p = &out->parts[link];
    const hx__hf_link *l = &out->links[link];
    hx__hf_grid grid = hx__hf_grid_out(l);
    if (l->shape.ndim > 2 || l->shape.ndim == 0) { /* of our own names: as it lies */
        const int64_t count = hx_shape_count(&l->shape);
        grid = (hx__hf_grid){.n_cols = count, .n_part = count, .col_step = 1};
    }
    hx__hf_gather(&grid, at, n, p->entry->dtype, p->data, to_type, to);
}

hx_status hx_hf_export_produce(void *self, int64_t i, int64_t offset, int64_t n_bytes, void *to) {
    hx_hf_export *out = self;
    const hx_dtype dtype = out->tensors[i].dtype;
    const int64_t size = (int64_t)hx_dtype_bytes(dtype);
    if (out->in_memory != i) {
        forget(out);
        for (int64_t k = out->first[i]; k < out->first[i + 1]; k++) HX_TRY(load_part(out, &out->parts[k]));
        out->in_memory = i;
    }
    for (int64_t k = out->first[i]; k < out->first[i + 1]; k++) gather_part(out, k, dtype, offset / size, n_bytes / size, to);
    return HX_OK;
}

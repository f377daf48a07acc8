#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/train/hooks.h"
#include "io/ckpt/hf_impl.h"

/* Where the values of one tensor of the model come from. */
typedef struct source {
    hx__hf_grid grid;
    const hx_st_tensor *from;
    hx_dtype dtype; /* of the model */
    hx_layout layout;
} source;

struct hx_hf_import {
    char *folder;
    hx_gpt_config config;
    hx__hf_family family;
    hx_safetensors *files;
    hx__hf_link *links;
    source *sources; /* [n] */
    int64_t n;
    hx_state_list items;
};

void hx_hf_import_close(hx_hf_import **in) {
    if (in == NULL || *in == NULL) return;
    for (int64_t i = 0; (*in)->sources != NULL && i < (*in)->n; i++) hx_layout_destroy(&(*in)->sources[i].layout);
    hx_state_list_destroy(&(*in)->items);
    hx_safetensors_close(&(*in)->files);
    void **owned[] = {(void **)&(*in)->folder, (void **)&(*in)->links, (void **)&(*in)->sources, (void **)in};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
}

const hx_gpt_config *hx_hf_import_config(const hx_hf_import *in) { return &in->config; }
const hx_state_list *hx_hf_import_items(const hx_hf_import *in) { return &in->items; }

static hx_status produce(void *arg, int64_t at, int64_t n, void *out) {
    const source *s = arg;
    hx__hf_gather(&s->grid, at, n, s->from->dtype, s->from->data, s->dtype, out);
    return HX_OK;
}

/* ---- one tensor ---- */

/* The name that the file has for it: with the prefix or without. */
static const char *name_in_file(const hx_hf_import *in, const char *name) {
    const char *bare = hx__hf_bare(in->family, name);
    return hx_safetensors_find(in->files, name) == NULL && hx_safetensors_find(in->files, bare) != NULL ? bare : name;
}

static hx_status check_tensor(const hx_hf_import *in, const hx_st_tensor *t, const hx_shape *shape) {
    char given[HX_SHAPE_TEXT], wanted[HX_SHAPE_TEXT];
    if (!hx_dtype_is_float(t->dtype))
        return HX_FAIL(HX_ERR_MISMATCH, "%s: tensor %s is %s: expected floating numbers", in->folder, t->name, hx_dtype_name(t->dtype));
    if (!hx_shape_equal(&t->shape, shape))
        return HX_FAIL(HX_ERR_MISMATCH, "%s: tensor %s is %s: its config.json makes expect %s", in->folder, t->name,
                       hx_shape_text(&t->shape, given), hx_shape_text(shape, wanted));
    return HX_OK;
}

static hx_status add_link(hx_hf_import *in, int64_t i, hx_dtype *dtype) {
    const hx__hf_link *l = &in->links[i];
    source *s = &in->sources[i];
    hx_state_item item = {.layout = &s->layout, .n_replicas = 1, .produce = produce, .source = s};
    HX_TRY(hx_safetensors_get(in->files, name_in_file(in, l->theirs), &s->from));
    HX_TRY(check_tensor(in, s->from, &l->their_shape));
    if (*dtype == HX_DTYPE_COUNT) *dtype = s->from->dtype;
    s->dtype = *dtype;
    s->grid = hx__hf_grid_in(l);
    HX_TRY(hx_layout_full(&l->shape, &s->layout));
    item.dtype = *dtype;
    snprintf(item.name, sizeof item.name, "/model/%.180s", l->ours);
    return hx_state_list_add(&in->items, &item);
}

/* ---- all tensors ---- */

static hx_status check_types(const hx_hf_import *in) {
    const hx_st_tensor *first = in->sources[0].from;
    for (int64_t i = 1; i < in->n; i++) {
        const hx_st_tensor *t = in->sources[i].from;
        if (t->dtype != first->dtype)
            return HX_FAIL(HX_ERR_MISMATCH, "%s: tensor %s is %s, %s is %s: a model has one element type: expected to be told which (dtype)",
                           in->folder, t->name, hx_dtype_name(t->dtype), first->name, hx_dtype_name(first->dtype));
    }
    return HX_OK;
}

/* A copy of the embedding that is no tensor of the model. */
static hx_status check_tied_head(const hx_hf_import *in) {
    const hx_st_tensor *tok = in->sources[0].from, *head = hx_safetensors_find(in->files, "lm_head.weight");
    if (head == NULL || !in->config.tied) return HX_OK;
    const size_t n_bytes = (size_t)hx_shape_count(&tok->shape) * hx_dtype_bytes(tok->dtype);
    if (head->dtype == tok->dtype && hx_shape_equal(&head->shape, &tok->shape) && memcmp(head->data, tok->data, n_bytes) == 0) return HX_OK;
    return HX_FAIL(HX_ERR_MISMATCH, "%s: tensor %s is not %s, which tie_word_embeddings in its config.json makes expect", in->folder, head->name,
                   tok->name);
}

static bool is_known(const hx_hf_import *in, const hx_st_tensor *t) {
    for (int64_t i = 0; i < in->n; i++)
        if (in->sources[i].from == t) return true;
    return (in->config.tied && strcmp(t->name, "lm_head.weight") == 0) || hx__hf_is_buffer(in->family, t->name);
}

/* What a table does not know would be lost, and might matter. */
static hx_status check_rest(const hx_hf_import *in) {
    for (int64_t i = 0; i < hx_safetensors_count(in->files); i++) {
        const hx_st_tensor *t = hx_safetensors_at(in->files, i);
        if (!is_known(in, t))
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: tensor %.200s is none of a model that its config.json describes", in->folder, t->name);
    }
    return HX_OK;
}

static hx_status link_all(hx_hf_import *in, hx_dtype dtype) {
    const bool is_told = dtype != HX_DTYPE_COUNT;
    HX_TRY(hx__hf_family_of(&in->config, &in->family));
    HX_TRY(hx__hf_links(&in->config, &in->links, &in->n));
    HX_TRY(hx_mem_alloc_array(in->n, sizeof *in->sources, (void **)&in->sources));
    for (int64_t i = 0; i < in->n; i++) HX_TRY(add_link(in, i, &dtype));
    if (!is_told) HX_TRY(check_types(in));
    HX_TRY(check_tied_head(in));
    return check_rest(in);
}

/* ---- our own names ---- */

static hx_status add_own(hx_hf_import *in, int64_t i, hx_dtype dtype) {
    const hx_st_tensor *t;
    source *s = &in->sources[i];
    hx_state_item item = {.layout = &s->layout, .n_replicas = 1, .produce = produce, .source = s};
    HX_TRY(hx_safetensors_get(in->files, hx_safetensors_at(in->files, i)->name, &t)); /* it refuses types that are not ours */
    const int64_t n = hx_shape_count(&t->shape);
    *s = (source){.grid = {.n_cols = n, .n_part = n, .col_step = 1}, .from = t, .dtype = t->dtype};
    if (dtype != HX_DTYPE_COUNT && hx_dtype_is_float(t->dtype)) s->dtype = dtype;
    HX_TRY(hx_layout_full(&t->shape, &s->layout));
    item.dtype = s->dtype;
    if (snprintf(item.name, sizeof item.name, "/model/%s", t->name) >= (int)sizeof item.name)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: tensor %.64s...: a name of %zu bytes: expected fewer than %zu", in->folder, t->name, strlen(t->name),
                       sizeof item.name - strlen("/model/"));
    return hx_state_list_add(&in->items, &item);
}

static hx_status open_own(hx_hf_import *in, const char *folder, hx_dtype dtype) {
    HX_TRY(hx_mem_strdup(folder, &in->folder));
    HX_TRY(hx_safetensors_open(folder, &in->files));
    in->n = hx_safetensors_count(in->files);
    if (in->n == 0) return HX_FAIL(HX_ERR_FORMAT, "%s: no tensors: expected those of a model", folder);
    HX_TRY(hx_mem_alloc_array(in->n, sizeof *in->sources, (void **)&in->sources));
    for (int64_t i = 0; i < in->n; i++) HX_TRY(add_own(in, i, dtype));
    return HX_OK;
}

hx_status hx_hf_import_open_own(const char *folder, hx_dtype dtype, hx_hf_import **out) {
    HX_CLEANUP(hx_hf_import_close) hx_hf_import *in = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *in, (void **)&in));
    HX_TRY(open_own(in, folder, dtype));
    *out = in;
    in = NULL; /* handed on */
    return HX_OK;
}

/* ---- Hugging Face's ---- */

/* The option's value for an element type. */
static hx_status set_dtype(hx_gpt_config *config, hx_dtype dtype) {
    const hx_option_section section = {.prefix = "", .options = hx_gpt_options, .n_options = hx_gpt_n_options, .config = config};
    return hx_options_set(&section, 1, "dtype", hx_dtype_name(dtype), "import");
}

static hx_status open_folder(hx_hf_import *in, const char *folder, hx_dtype dtype) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/config.json", folder) >= (int)sizeof path)
        return HX_FAIL(HX_ERR_IO, "folder %.64s...: its path is too long", folder);
    HX_TRY(hx_mem_strdup(folder, &in->folder));
    HX_TRY(hx_hf_config_read(path, &in->config));
    HX_TRY(hx_safetensors_open(folder, &in->files));
    HX_TRY(link_all(in, dtype));
    return set_dtype(&in->config, in->sources[0].dtype);
}

hx_status hx_hf_import_open(const char *folder, hx_dtype dtype, hx_hf_import **out) {
    HX_CLEANUP(hx_hf_import_close) hx_hf_import *in = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *in, (void **)&in));
    HX_TRY(open_folder(in, folder, dtype));
    *out = in;
    in = NULL; /* handed on */
    return HX_OK;
}

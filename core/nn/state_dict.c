#include "core/nn/state_dict.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/mem.h"

/* ---- lists ---- */

hx_status hx_state_dict_add(hx_state_dict *dict, const char *name, hx_tensor *tensor) {
    if (name == NULL || tensor == NULL) return HX_FAIL(HX_ERR_ARG, "%s is NULL", name ? "tensor" : "name");
    if (strlen(name) >= HX_NAME_BYTES)
        return HX_FAIL(HX_ERR_ARG, "name %.40s... of %zu bytes: expected fewer than %d", name, strlen(name),
                       HX_NAME_BYTES);
    HX_TRY(hx_mem_grow((void **)&dict->items, &dict->capacity, dict->n_items + 1, sizeof *dict->items));
    hx_state_entry *entry = &dict->items[dict->n_items++];
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->tensor = hx_tensor_retain(tensor);
    return HX_OK;
}

void hx_state_dict_destroy(hx_state_dict *dict) {
    for (int64_t i = 0; i < dict->n_items; i++) hx_tensor_destroy(&dict->items[i].tensor);
    hx_mem_free((void **)&dict->items);
    dict->n_items = dict->capacity = 0;
}

hx_tensor *hx_state_dict_find(const hx_state_dict *dict, const char *name) {
    for (int64_t i = 0; i < dict->n_items; i++)
        if (strcmp(dict->items[i].name, name) == 0) return dict->items[i].tensor;
    return NULL;
}

void hx_load_report_destroy(hx_load_report *report) {
    hx_mem_free((void **)&report->items);
    report->n_items = report->capacity = report->n_loaded = 0;
}

/* ---- the model's tensors ---- */

/* A logical tensor that is held whole is one box of the global shape. */
static bool is_whole(const hx_layout *layout) {
    if (layout->n_boxes != 1) return hx_shape_count(&layout->shape) == 0;
    for (int d = 0; d < layout->shape.ndim; d++)
        if (layout->boxes[0].extent[d] != layout->shape.dims[d]) return false;
    return true;
}

static hx_status add_param(hx_state_dict *dict, const hx_param *param) {
    for (int i = 0; i < hx_param_n_logical(param); i++) {
        char path[HX_NAME_BYTES];
        const hx_layout *layout;
        HX_AUTO_TENSOR view = NULL;
        hx_param_logical(param, i, path, &layout);
        if (!is_whole(layout))
            return HX_FAIL(HX_ERR_UNSUPPORTED,
                           "%s: only a part of it is held here; write a checkpoint instead", path);
        const int64_t local = layout->n_boxes > 0 ? layout->boxes[0].local : 0;
        HX_TRY(hx_tensor_window(param->value, local, layout->shape, &view));
        HX_TRY(hx_state_dict_add(dict, path, view));
    }
    return HX_OK;
}

/* Everything that makes up the model's state, as views: parameters, then buffers. */
static hx_status list_state(hx_layer *root, hx_state_dict *out) {
    hx_state_dict dict = {0};
    hx_param_list lists[2] = {{0}, {0}};
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_layer_params(root, &lists[0]), done);
    HX_TRY_GOTO(hx_layer_buffers(root, &lists[1]), done);
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < lists[k].n_items; i++) HX_TRY_GOTO(add_param(&dict, lists[k].items[i]), done);
    *out = dict;
    dict = (hx_state_dict){0};
done:
    hx_state_dict_destroy(&dict);
    for (int k = 0; k < 2; k++) hx_param_list_destroy(&lists[k]);
    return status;
}

/* ---- copies, by way of host memory ---- */

/* Read a tensor of any device; `stream` belongs to `device`, elsewhere a stream is made for the occasion. */
static hx_status read_tensor(hx_device *device, hx_stream *stream, const hx_tensor *tensor, void *data) {
    hx_stream *own = NULL;
    if (hx_tensor_device(tensor) == device) return hx_tensor_read(stream, tensor, data);
    HX_TRY(hx_stream_create(hx_tensor_device(tensor), &own));
    const hx_status status = hx_tensor_read(own, tensor, data);
    hx_stream_destroy(&own);
    return status;
}

static hx_status copy_tensor(hx_stream *stream, const hx_tensor *from, hx_device *to, hx_tensor **out) {
    HX_AUTO_TENSOR copy = NULL;
    hx_stream *there = NULL;
    hx_status status = HX_OK;
    void *data = NULL;
    HX_TRY(hx_mem_alloc(hx_tensor_bytes(from), &data));
    HX_TRY_GOTO(hx_stream_create(to, &there), done);
    HX_TRY_GOTO(hx_tensor_create(to, hx_tensor_dtype(from), hx_tensor_shape(from), &copy), done);
    HX_TRY_GOTO(hx_tensor_read(stream, from, data), done);
    HX_TRY_GOTO(hx_tensor_write(there, copy, data), done);
    *out = hx_tensor_move(&copy);
done:
    hx_stream_destroy(&there);
    hx_mem_free(&data);
    return status;
}

hx_status hx_state_dict_get(hx_layer *root, hx_stream *stream, hx_device *copy_to, hx_state_dict *out) {
    hx_state_dict dict = {0};
    hx_status status = HX_OK;
    HX_TRY(list_state(root, &dict));
    for (int64_t i = 0; i < dict.n_items && copy_to != NULL; i++) {
        hx_tensor *copy = NULL;
        HX_TRY_GOTO(copy_tensor(stream, dict.items[i].tensor, copy_to, &copy), done);
        hx_tensor_destroy(&dict.items[i].tensor);
        dict.items[i].tensor = copy;
    }
    *out = dict;
    return HX_OK;
done:
    hx_state_dict_destroy(&dict);
    return status;
}

/* ---- loading: pair the names, report what does not pair, then write ---- */

typedef struct pairing {
    hx_state_dict mine;           /* views of the model */
    const hx_state_entry **given; /* [n] the dict's entries, by name */
    bool *used;                   /* [n] one of mine has this name */
    int64_t n;
    const hx_state_entry **from; /* [mine.n_items] what goes there; NULL: nothing */
    hx_load_report report;
} pairing;

static int entry_compare(const void *a, const void *b) {
    return strcmp((*(const hx_state_entry *const *)a)->name, (*(const hx_state_entry *const *)b)->name);
}

static hx_status add_issue(hx_load_report *report, hx_load_kind kind, const hx_state_entry *mine,
                           const hx_state_entry *given) {
    HX_TRY(
        hx_mem_grow((void **)&report->items, &report->capacity, report->n_items + 1, sizeof *report->items));
    hx_load_issue *issue = &report->items[report->n_items++];
    *issue = (hx_load_issue){.kind = kind};
    snprintf(issue->name, sizeof issue->name, "%s", mine ? mine->name : given->name);
    if (mine != NULL) {
        issue->want = hx_tensor_shape(mine->tensor);
        issue->want_dtype = hx_tensor_dtype(mine->tensor);
    }
    if (given != NULL) {
        issue->given = hx_tensor_shape(given->tensor);
        issue->given_dtype = hx_tensor_dtype(given->tensor);
    }
    return HX_OK;
}

static bool fits(const hx_tensor *mine, const hx_tensor *given, unsigned flags) {
    const hx_shape want = hx_tensor_shape(mine), is = hx_tensor_shape(given);
    const hx_dtype to = hx_tensor_dtype(mine), from = hx_tensor_dtype(given);
    const bool converts = (flags & HX_LOAD_CONVERT) != 0 && hx_dtype_is_float(to) && hx_dtype_is_float(from);
    return hx_shape_equal(&want, &is) && (to == from || converts);
}

static hx_status pair_one(pairing *p, int64_t i, unsigned flags) {
    const hx_state_entry *key = &p->mine.items[i];
    const hx_state_entry **hit =
        p->n > 0 ? bsearch(&key, p->given, (size_t)p->n, sizeof *p->given, entry_compare) : NULL;
    if (hit == NULL) return add_issue(&p->report, HX_LOAD_MISSING, key, NULL);
    p->used[hit - p->given] = true;
    if (!fits(key->tensor, (*hit)->tensor, flags))
        return add_issue(&p->report, HX_LOAD_MISMATCHED, key, *hit);
    p->from[i] = *hit;
    return HX_OK;
}

/* Unexpected names come in the dict's order, for which the sorted pointers are looked up by address. */
static hx_status pair_rest(pairing *p, const hx_state_dict *dict) {
    for (int64_t i = 0; i < dict->n_items; i++) {
        const hx_state_entry *key = &dict->items[i];
        const hx_state_entry **hit = bsearch(&key, p->given, (size_t)p->n, sizeof *p->given, entry_compare);
        if (!p->used[hit - p->given]) HX_TRY(add_issue(&p->report, HX_LOAD_UNEXPECTED, NULL, key));
    }
    return HX_OK;
}

static hx_status pair_all(pairing *p, const hx_state_dict *dict, unsigned flags) {
    p->n = dict->n_items;
    HX_TRY(hx_mem_alloc_array(p->n, sizeof *p->given, (void **)&p->given));
    HX_TRY(hx_mem_alloc_array(p->n, sizeof *p->used, (void **)&p->used));
    HX_TRY(hx_mem_alloc_array(p->mine.n_items, sizeof *p->from, (void **)&p->from));
    for (int64_t i = 0; i < p->n; i++) p->given[i] = &dict->items[i];
    if (p->n > 1) qsort(p->given, (size_t)p->n, sizeof *p->given, entry_compare);
    for (int64_t i = 1; i < p->n; i++)
        if (strcmp(p->given[i - 1]->name, p->given[i]->name) == 0)
            return HX_FAIL(HX_ERR_ARG, "%s stands twice in the dict", p->given[i]->name);
    for (int64_t i = 0; i < p->mine.n_items; i++) HX_TRY(pair_one(p, i, flags));
    return pair_rest(p, dict);
}

/* ---- the message of a strict load ---- */

typedef struct text {
    char *bytes;
    size_t n, size;
} text;

static void append(text *t, const char *format, ...) HX_PRINTF(2, 3);
static void append(text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(t->bytes + t->n, t->size - t->n, format, args);
    va_end(args);
    if (n > 0) t->n = t->n + (size_t)n < t->size ? t->n + (size_t)n : t->size - 1;
}

static void append_kind(text *t, const hx_load_report *report, hx_load_kind kind, const char *title) {
    int64_t n = 0;
    for (int64_t i = 0; i < report->n_items; i++) {
        const hx_load_issue *issue = &report->items[i];
        char want[HX_SHAPE_TEXT], given[HX_SHAPE_TEXT];
        if (issue->kind != kind) continue;
        append(t, "%s%s", n++ == 0 ? title : ", ", issue->name);
        if (kind == HX_LOAD_MISMATCHED)
            append(t, " (%s %s, expected %s %s)", hx_dtype_name(issue->given_dtype),
                   hx_shape_text(&issue->given, given), hx_dtype_name(issue->want_dtype),
                   hx_shape_text(&issue->want, want));
    }
}

/* As much as a message holds; the count at its start is whole. */
static hx_status refuse(const hx_load_report *report) {
    char bytes[1800] = "";
    text t = {.bytes = bytes, .size = sizeof bytes};
    append_kind(&t, report, HX_LOAD_MISSING, "; missing: ");
    append_kind(&t, report, HX_LOAD_UNEXPECTED, "; unexpected: ");
    append_kind(&t, report, HX_LOAD_MISMATCHED, "; mismatched: ");
    return HX_FAIL(HX_ERR_MISMATCH, "%lld names do not fit the model%s", (long long)report->n_items, bytes);
}

/* ---- writing ---- */

/* Two buffers of the largest tensor in the widest type, so that nothing can run out of memory half way. */
static hx_status write_all(hx_device *device, hx_stream *stream, pairing *p) {
    void *read = NULL, *converted = NULL;
    hx_status status = HX_OK;
    int64_t most = 0;
    for (int64_t i = 0; i < p->mine.n_items; i++)
        if (p->from[i] != NULL && hx_tensor_count(p->from[i]->tensor) > most)
            most = hx_tensor_count(p->from[i]->tensor);
    HX_TRY_GOTO(hx_mem_alloc_array(most, sizeof(double), &read), done);
    HX_TRY_GOTO(hx_mem_alloc_array(most, sizeof(double), &converted), done);
    for (int64_t i = 0; i < p->mine.n_items; i++) {
        if (p->from[i] == NULL) continue;
        hx_tensor *to = p->mine.items[i].tensor;
        const hx_tensor *from = p->from[i]->tensor;
        const hx_dtype want = hx_tensor_dtype(to), given = hx_tensor_dtype(from);
        HX_TRY_GOTO(read_tensor(device, stream, from, read), done);
        if (want != given)
            for (int64_t k = 0; k < hx_tensor_count(to); k++)
                hx_elem_set(want, converted, k, hx_elem_get(given, read, k));
        HX_TRY_GOTO(hx_tensor_write(stream, to, want != given ? converted : read), done);
        p->report.n_loaded++;
    }
done:
    hx_mem_free(&converted);
    hx_mem_free(&read);
    return status;
}

hx_status hx_state_dict_load(hx_layer *root, hx_stream *stream, const hx_state_dict *dict, unsigned flags,
                             hx_load_report *report) {
    pairing p = {0};
    hx_status status = HX_OK;
    if ((flags & ~(unsigned)(HX_LOAD_PARTIAL | HX_LOAD_CONVERT)) != 0)
        return HX_FAIL(HX_ERR_ARG, "flags %#x: expected hx_load_flags", flags);
    HX_TRY(list_state(root, &p.mine));
    HX_TRY_GOTO(pair_all(&p, dict, flags), done);
    if (p.report.n_items > 0 && (flags & HX_LOAD_PARTIAL) == 0) HX_TRY_GOTO(refuse(&p.report), done);
    HX_TRY_GOTO(write_all(root->device, stream, &p), done);
    if (report != NULL) {
        *report = p.report;
        p.report = (hx_load_report){0};
    }
done:
    hx_load_report_destroy(&p.report);
    hx_mem_free((void **)&p.from);
    hx_mem_free((void **)&p.used);
    hx_mem_free((void **)&p.given);
    hx_state_dict_destroy(&p.mine);
    return status;
}

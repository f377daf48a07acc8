#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

/* ---- lists ---- */

/* A path of HDF5 below /model, /optim or a root of the user's own, but not in the places of ours. */
static hx_status check_name(const hx_state_item *item) {
    const char *name = item->name;
    size_t n = strnlen(name, sizeof item->name);
    if (n == sizeof item->name || n < 2 || name[0] != '/' || name[n - 1] == '/')
        return HX_FAIL(HX_ERR_ARG, "tensor name `%.*s`: expected /group/name of up to %zu bytes", (int)n, name,
                       sizeof item->name - 1);
    if (!strchr(name + 1, '/') || strncmp(name, "/train/", 7) == 0 || strncmp(name, "/meta/", 6) == 0)
        return HX_FAIL(HX_ERR_ARG, "tensor name `%s`: expected it in a group other than /train and /meta", name);
    for (const char *p = name; p; p = strchr(p + 1, '/')) {
        size_t length = strcspn(p + 1, "/"); /* of the component behind this slash */
        if (length == 0 || (length <= 2 && strspn(p + 1, ".") >= length))
            return HX_FAIL(HX_ERR_ARG, "tensor name `%s`: a component is empty, `.` or `..`", name);
    }
    return HX_OK;
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const hx_state_item *const *)a)->name, (*(const hx_state_item *const *)b)->name);
}

static hx_status check_unique(const hx_state_list *items) {
    void *memory;
    HX_TRY(hx_mem_alloc_array(items->n_items, sizeof(hx_state_item *), &memory));
    const hx_state_item **sorted = memory;
    for (int64_t i = 0; i < items->n_items; i++) sorted[i] = &items->items[i];
    if (items->n_items > 1) qsort(sorted, (size_t)items->n_items, sizeof *sorted, compare_names);
    const char *twice = NULL;
    for (int64_t i = 1; i < items->n_items && !twice; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) twice = sorted[i]->name;
    hx_mem_free(&memory);
    return twice ? HX_FAIL(HX_ERR_ARG, "two tensors are called %s", twice) : HX_OK;
}

/* A list of a rehearsed run tells how much there will be; there is nothing in it. */
static hx_status check_device(const hx_state_item *item) {
    hx_device_props props;
    if (!item->device) return HX_OK;
    hx_device_props_get(item->device, &props);
    if (props.is_dry) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s lies on device %s, which holds no values", item->name, props.name);
    return HX_OK;
}

hx_status hx__ckpt_check_items(const hx_state_list *items) {
    if (!items || items->n_items < 0) return HX_FAIL(HX_ERR_ARG, "no list of tensors");
    for (int64_t i = 0; i < items->n_items; i++) {
        const hx_state_item *item = &items->items[i];
        HX_TRY(check_name(item));
        if (hx_dtype_bytes(item->dtype) == 0)
            return HX_FAIL(HX_ERR_ARG, "%s: %d is no element type", item->name, (int)item->dtype);
        if (!item->layout) return HX_FAIL(HX_ERR_ARG, "%s has no layout", item->name);
        HX_TRY(hx_shape_check(&item->layout->shape));
        if (item->layout->n_boxes > 0 && !item->data && !item->produce) return HX_FAIL(HX_ERR_ARG, "%s has no data", item->name);
        HX_TRY(check_device(item));
        if (item->n_replicas > 1 && (item->replica < 0 || item->replica >= item->n_replicas))
            return HX_FAIL(HX_ERR_ARG, "%s: replica %d of %d", item->name, item->replica, item->n_replicas);
    }
    return check_unique(items);
}

int64_t hx__ckpt_list_hash(const hx_state_list *items) {
    uint64_t hash = (uint64_t)items->n_items;
    for (int64_t i = 0; i < items->n_items; i++) {
        const hx_state_item *item = &items->items[i];
        const hx_shape *shape = &item->layout->shape;
        int64_t kind[2] = {item->dtype, shape->ndim};
        hash = XXH3_64bits_withSeed(item->name, strlen(item->name), hash);
        hash = XXH3_64bits_withSeed(kind, sizeof kind, hash);
        hash = XXH3_64bits_withSeed(shape->dims, (size_t)shape->ndim * sizeof *shape->dims, hash);
    }
    return (int64_t)hash;
}

/* ---- pieces ---- */

/* Append elements [begin, end) of a box, in pieces of at most max_elems. */
static hx_status add_pieces(const hx_shape *shape, const hx_box *box, int64_t begin, int64_t end, int64_t max_elems,
                            hx_layout *pieces, int64_t *capacity) {
    hx_box origin = *box;
    origin.local = 0;
    const hx_layout one = {.shape = *shape, .n_boxes = 1, .boxes = &origin};
    while (begin < end) {
        int64_t stop = end - begin > max_elems ? begin + max_elems : end;
        HX_CLEANUP(hx_layout_destroy) hx_layout part = {0};
        HX_TRY(hx_layout_restrict(&one, begin, stop, &part));
        HX_TRY(hx_mem_grow((void **)&pieces->boxes, capacity, (int64_t)pieces->n_boxes + part.n_boxes, sizeof *box));
        for (int i = 0; i < part.n_boxes; i++) {
            part.boxes[i].local += box->local + begin;
            pieces->boxes[pieces->n_boxes++] = part.boxes[i];
        }
        begin = stop;
    }
    return HX_OK;
}

int64_t hx__ckpt_share_begin(int64_t n, int replica, int n_replicas) {
    return (int64_t)((__int128)n * replica / n_replicas); /* 128 bits: the product may exceed 63 */
}

hx_status hx__ckpt_pieces(const hx_state_item *item, size_t max_bytes, hx_layout *pieces) {
    const hx_layout *layout = item->layout;
    HX_CLEANUP(hx_layout_destroy) hx_layout out = {.shape = layout->shape};
    int64_t total = hx_layout_count(layout), first = 0, last = total, at = 0, capacity = 0;
    int64_t max_elems = (int64_t)(max_bytes / hx_dtype_bytes(item->dtype));
    if (item->n_replicas > 1) {
        first = hx__ckpt_share_begin(total, item->replica, item->n_replicas);
        last = hx__ckpt_share_begin(total, item->replica + 1, item->n_replicas);
    }
    for (int i = 0; i < layout->n_boxes; i++) {
        int64_t n = hx_box_count(&layout->boxes[i], layout->shape.ndim);
        int64_t begin = first > at ? first - at : 0, end = last - at < n ? last - at : n;
        HX_TRY(add_pieces(&layout->shape, &layout->boxes[i], begin, end, max_elems, &out, &capacity));
        at += n;
    }
    *pieces = out;
    out.boxes = NULL; /* handed on */
    return HX_OK;
}

/* ---- runs ---- */

void hx__runs_begin(const hx_shape *shape, const hx_box *box, hx__runs *out) {
    *out = (hx__runs){.box = box, .row = shape->ndim, .length = 1};
    hx_shape_strides(shape, out->strides);
    /* Trailing dims that the box holds whole lie in one run with the dim before them. */
    while (out->row > 0) {
        out->length *= box->extent[--out->row];
        if (box->extent[out->row] != shape->dims[out->row]) break;
    }
    for (int d = 0; d < shape->ndim; d++) out->at += box->start[d] * out->strides[d];
}

bool hx__runs_next(hx__runs *runs, int64_t *at) {
    if (runs->is_over) return false;
    *at = runs->at;
    int d = runs->row - 1;
    for (; d >= 0; d--) {
        runs->at += runs->strides[d];
        if (++runs->index[d] < runs->box->extent[d]) break;
        runs->at -= runs->index[d] * runs->strides[d];
        runs->index[d] = 0;
    }
    runs->is_over = d < 0;
    return true;
}

int64_t hx__box_end(const hx_shape *shape, const hx_box *box) {
    int64_t strides[HX_MAX_DIMS], last = 0;
    hx_shape_strides(shape, strides);
    for (int d = 0; d < shape->ndim; d++) last += (box->start[d] + box->extent[d] - 1) * strides[d];
    return last + 1;
}

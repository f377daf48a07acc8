#include "core/nn/nn_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/autograd/tape.h"
#include "core/base/hash.h"
#include "core/base/mem.h"

/* ---- the tree ---- */

hx_status hx_layer_create(const hx_layer_type *type, hx_device *device, hx_layer **out) {
    void *p;
    if (type == NULL || type->forward == NULL || type->n_bytes < sizeof(hx_layer))
        return HX_FAIL(HX_ERR_ARG, "type %s of %zu bytes: expected a forward function and at least %zu bytes",
                       type && type->name ? type->name : "?", type ? type->n_bytes : 0, sizeof(hx_layer));
    if (device == NULL) return HX_FAIL(HX_ERR_ARG, "%s: device is NULL", type->name);
    HX_TRY(hx_mem_alloc_array(1, type->n_bytes, &p));
    hx_layer *layer = p;
    layer->type = type;
    layer->device = device;
    *out = layer;
    return HX_OK;
}

static void param_clear_parts(hx_param *param) {
    for (int i = 0; i < param->n_parts; i++) hx_layout_destroy(&param->parts[i].layout);
    hx_mem_free((void **)&param->parts);
    param->n_parts = 0;
}

static void param_destroy(hx_param **param) {
    hx_param *p = *param;
    if (p == NULL) return;
    param_clear_parts(p);
    hx_layout_destroy(&p->layout);
    hx_tensor_destroy(&p->value);
    hx_mem_free((void **)param);
}

void hx_layer_destroy(hx_layer **layer) {
    hx_layer *l = *layer;
    if (l == NULL) return;
    if (l->type->destroy != NULL) l->type->destroy(l);
    for (int i = 0; i < l->n_params; i++) param_destroy(&l->params[i]);
    for (int i = 0; i < l->n_buffers; i++) param_destroy(&l->buffers[i]);
    for (int i = 0; i < l->n_children; i++) hx_layer_destroy(&l->children[i]);
    hx_mem_free((void **)&l->params);
    hx_mem_free((void **)&l->buffers);
    hx_mem_free((void **)&l->children);
    hx_mem_free((void **)layer);
}

static hx_status check_name(const hx_layer *layer, const char *name, bool dots) {
    if (name == NULL || name[0] == '\0')
        return HX_FAIL(HX_ERR_ARG, "layer %s: a name is %s", layer->type->name, name ? "empty" : "NULL");
    if (strlen(name) >= HX_NAME_BYTES)
        return HX_FAIL(HX_ERR_ARG, "name %.40s... of %zu bytes: expected fewer than %d", name, strlen(name),
                       HX_NAME_BYTES);
    if (!dots && strchr(name, '.') != NULL)
        return HX_FAIL(HX_ERR_ARG, "name \"%s\": expected no dots, they separate the parts of a path", name);
    if (strchr(name, '/') != NULL)
        return HX_FAIL(HX_ERR_ARG, "name \"%s\": expected no slashes, they separate groups of a checkpoint",
                       name);
    return HX_OK;
}

/* What can be found wrong before the child is taken over. */
static hx_status check_child(const hx_layer *layer, const char *name, const hx_layer *child) {
    HX_TRY(check_name(layer, name, false));
    for (int i = 0; i < layer->n_children; i++)
        if (strcmp(layer->children[i]->name, name) == 0)
            return HX_FAIL(HX_ERR_CONFIG, "layer %s \"%s\" has a child named \"%s\" already",
                           layer->type->name, layer->name, name);
    if (child->device != layer->device)
        return HX_FAIL(HX_ERR_ARG, "child \"%s\" lies on device %s, its parent on %s", name,
                       hx_device_name(child->device), hx_device_name(layer->device));
    return HX_OK;
}

/* Paths are for messages and policies: one that is too long is cut here, and refused by hx_layer_params. */
static void set_paths(hx_layer *layer) {
    const char *prefix = layer->parent->path;
    size_t n = strlen(prefix), n_name = strlen(layer->name);
    memcpy(layer->path, prefix, n);
    if (n > 0 && n < HX_NAME_BYTES - 1) layer->path[n++] = '.';
    if (n_name > HX_NAME_BYTES - 1 - n) n_name = HX_NAME_BYTES - 1 - n;
    memcpy(layer->path + n, layer->name, n_name);
    layer->path[n + n_name] = '\0';
    for (int i = 0; i < layer->n_children; i++) set_paths(layer->children[i]);
}

hx_status hx_layer_add_consume(hx_layer *layer, const char *name, hx_layer **child) {
    hx_layer *taken = *child;
    hx_status status;
    if (taken == NULL) return HX_FAIL(HX_ERR_ARG, "child \"%s\" is NULL", name ? name : "");
    for (const hx_layer *l = layer; l != NULL; l = l->parent)
        if (l == taken)
            return HX_FAIL(HX_ERR_ARG, "child \"%s\" contains the layer it is added to", name ? name : "");
    *child = NULL;
    /* Owned by another layer: destroying it here would leave that one with a dangling pointer. */
    if (taken->parent != NULL)
        return HX_FAIL(HX_ERR_ARG, "child \"%s\" belongs to layer \"%s\" already", name ? name : "",
                       taken->parent->name);
    HX_TRY_GOTO(check_child(layer, name, taken), done);
    HX_TRY_GOTO(hx_mem_grow((void **)&layer->children, &layer->children_capacity,
                            (int64_t)layer->n_children + 1, sizeof(hx_layer *)),
                done);
    snprintf(taken->name, sizeof taken->name, "%s", name);
    taken->parent = layer;
    layer->children[layer->n_children++] = taken;
    set_paths(taken);
    return HX_OK;
done:
    hx_layer_destroy(&taken);
    return status;
}

hx_status hx__layer_adopt(hx_layer *parent, const char *name, hx_layer **child, hx_layer **slot) {
    hx_layer *borrowed = *child;
    HX_TRY(hx_layer_add_consume(parent, name, child));
    *slot = borrowed;
    return HX_OK;
}

hx_status hx__layer_check_type(const hx_layer *layer, const hx_layer_type *type) {
    if (layer != NULL && layer->type == type) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "layer of type %s: expected %s", layer ? layer->type->name : "NULL", type->name);
}

hx_status hx__layer_check_size(const char *layer, const char *what, int64_t n) {
    if (n < 1) return HX_FAIL(HX_ERR_CONFIG, "%s: %s = %lld: expected at least 1", layer, what, (long long)n);
    return HX_OK;
}

hx_layer *hx_layer_find(hx_layer *root, const char *path) {
    if (path[0] == '\0') return root;
    const char *dot = strchr(path, '.');
    size_t n = dot ? (size_t)(dot - path) : strlen(path);
    for (int i = 0; i < root->n_children; i++) {
        hx_layer *child = root->children[i];
        if (strncmp(child->name, path, n) == 0 && child->name[n] == '\0') return hx_layer_find(child, dot ? dot + 1 : "");
    }
    return NULL;
}

hx_status hx__layer_run(hx_layer *layer, hx_ctx *ctx, hx_checkpoint_fn fn, hx_tensor *const *in, int n_in, hx_tensor **out, int n_out) {
    hx_tensor *result[HX_OP_MAX_OUT] = {NULL};
    const char *outer = ctx->where;
    ctx->where = layer->path[0] != '\0' ? layer->path : layer->type->name;
    hx_status status = layer->recompute ? hx_checkpoint(ctx, fn, layer, in, n_in, result, n_out) : fn(ctx, layer, in, result);
    ctx->where = outer;
    HX_TRY(status);
    for (int i = 0; i < n_out; i++) out[i] = result[i];
    return HX_OK;
}

static hx_status run_forward(hx_ctx *ctx, void *layer, hx_tensor *const *in, hx_tensor **out) {
    return ((hx_layer *)layer)->type->forward(layer, ctx, in[0], out);
}

hx_status hx_layer_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    if (layer == NULL || ctx == NULL || x == NULL)
        return HX_FAIL(HX_ERR_ARG, "%s is NULL", layer == NULL ? "layer" : ctx == NULL ? "ctx" : "x");
    return hx__layer_run(layer, ctx, run_forward, &x, 1, y, 1);
}

void hx_layer_set_recompute(hx_layer *layer, bool on) { layer->recompute = on; }

/* ---- parameters and buffers ---- */

/* A tensor with a name, not yet in a list of the layer. */
static hx_status param_create(hx_layer *layer, const char *name, hx_dtype dtype, hx_shape shape, hx_param **out) {
    hx_status status;
    hx_param *param = NULL;
    HX_TRY(check_name(layer, name, true));
    if (!hx_dtype_is_float(dtype))
        return HX_FAIL(HX_ERR_DTYPE, "parameter \"%s\" of %s: expected a floating type", name,
                       hx_dtype_name(dtype));
    HX_TRY(hx_shape_check(&shape));
    HX_TRY(hx_mem_alloc_array(1, sizeof *param, (void **)&param));
    HX_TRY_GOTO(hx_layout_full(&shape, &param->layout), done);
    HX_TRY_GOTO(hx_tensor_create(layer->device, dtype, shape, &param->value), done);
    snprintf(param->name, sizeof param->name, "%s", name);
    param->own_end = hx_tensor_count(param->value);
    param->layer = layer;
    *out = param;
    return HX_OK;
done:
    param_destroy(&param);
    return status;
}

/* Takes *param over, also on failure. */
static hx_status append_consume(hx_param ***list, int *n, int64_t *capacity, hx_param **param) {
    hx_status status = hx_mem_grow((void **)list, capacity, (int64_t)*n + 1, sizeof **list);
    if (status == HX_OK)
        (*list)[(*n)++] = *param;
    else
        param_destroy(param);
    return status;
}

hx_status hx_layer_param(hx_layer *layer, const char *name, hx_dtype dtype, hx_shape shape, bool decays,
                         hx_param **out) {
    hx_param *param;
    HX_TRY(param_create(layer, name, dtype, shape, &param));
    param->decays = decays;
    hx_tensor_set_requires_grad(param->value, true);
    HX_TRY(append_consume(&layer->params, &layer->n_params, &layer->params_capacity, &param));
    *out = param;
    return HX_OK;
}

static hx_status move_param(hx_param *param, hx_device *device) {
    hx_tensor *moved;
    HX_TRY(hx_tensor_create(device, hx_tensor_dtype(param->value), hx_tensor_shape(param->value), &moved));
    hx_tensor_set_requires_grad(moved, !param->is_frozen);
    hx_tensor_destroy(&param->value);
    param->value = moved;
    return HX_OK;
}

hx_status hx_layer_move(hx_layer *root, hx_device *device) {
    root->device = device;
    for (int i = 0; i < root->n_params; i++) HX_TRY(move_param(root->params[i], device));
    for (int i = 0; i < root->n_buffers; i++) HX_TRY(move_param(root->buffers[i], device));
    for (int i = 0; i < root->n_children; i++) HX_TRY(hx_layer_move(root->children[i], device));
    return HX_OK;
}

hx_status hx_layer_buffer(hx_layer *layer, const char *name, hx_dtype dtype, hx_shape shape, hx_param **out) {
    hx_param *buffer;
    HX_TRY(param_create(layer, name, dtype, shape, &buffer));
    buffer->is_buffer = buffer->is_frozen = true;
    HX_TRY(append_consume(&layer->buffers, &layer->n_buffers, &layer->buffers_capacity, &buffer));
    *out = buffer;
    return HX_OK;
}

typedef struct range {
    int64_t begin, end;
} range;

static int range_compare(const void *a, const void *b) {
    int64_t x = ((const range *)a)->begin, y = ((const range *)b)->begin;
    return (x > y) - (x < y);
}

/* The boxes of all parts, ordered, must follow each other from 0 to the end of the storage. */
static hx_status check_cover(const hx_param *param, int n_parts, const hx_layout *layouts) {
    int64_t n_boxes = 0, at = 0, n = 0, count = hx_tensor_count(param->value);
    range *ranges = NULL;
    hx_status status = HX_OK;
    for (int i = 0; i < n_parts; i++) n_boxes += layouts[i].n_boxes;
    HX_TRY(hx_mem_alloc_array(n_boxes, sizeof *ranges, (void **)&ranges));
    for (int i = 0; i < n_parts; i++)
        for (int b = 0; b < layouts[i].n_boxes; b++) {
            const hx_box *box = &layouts[i].boxes[b];
            ranges[n++] = (range){box->local, box->local + hx_box_count(box, layouts[i].shape.ndim)};
        }
    if (n_boxes > 1) qsort(ranges, (size_t)n_boxes, sizeof *ranges, range_compare);
    for (int64_t i = 0; i < n_boxes && status == HX_OK; i++) {
        if (ranges[i].begin != at)
            status = HX_FAIL(HX_ERR_SHAPE, "parameter \"%s\": a box begins at element %lld, expected %lld",
                             param->name, (long long)ranges[i].begin, (long long)at);
        at = ranges[i].end;
    }
    if (status == HX_OK && at != count)
        status = HX_FAIL(HX_ERR_SHAPE, "parameter \"%s\": the parts cover %lld of %lld elements", param->name,
                         (long long)at, (long long)count);
    hx_mem_free((void **)&ranges);
    return status;
}

hx_status hx_param_set_parts(hx_param *param, int n_parts, const char *const *names,
                             const hx_layout *layouts) {
    hx_param_part *parts = NULL;
    hx_status status;
    int n_copied = 0;
    if (n_parts < 1)
        return HX_FAIL(HX_ERR_ARG, "parameter \"%s\": %d parts, expected at least 1", param->name, n_parts);
    for (int i = 0; i < n_parts; i++) HX_TRY(check_name(param->layer, names[i], true));
    HX_TRY(check_cover(param, n_parts, layouts));
    HX_TRY(hx_mem_alloc_array(n_parts, sizeof *parts, (void **)&parts));
    for (; n_copied < n_parts; n_copied++) {
        snprintf(parts[n_copied].name, sizeof parts[n_copied].name, "%s", names[n_copied]);
        HX_TRY_GOTO(hx_layout_copy(&layouts[n_copied], &parts[n_copied].layout), done);
    }
    param_clear_parts(param);
    param->parts = parts;
    param->n_parts = n_parts;
    return HX_OK;
done:
    while (n_copied > 0) hx_layout_destroy(&parts[--n_copied].layout);
    hx_mem_free((void **)&parts);
    return status;
}

hx_status hx__param_name_rows(hx_param *param, int n, const int64_t *rows, const char *const *names) {
    hx_layout layouts[HX__MAX_FUSED] = {0};
    hx_status status = HX_OK;
    int64_t local = 0;
    assert(n <= HX__MAX_FUSED);
    for (int i = 0; i < n; i++) {
        hx_shape shape = hx_tensor_shape(param->value);
        hx_box box = {.local = local};
        shape.dims[0] = rows[i];
        for (int d = 0; d < shape.ndim; d++) box.extent[d] = shape.dims[d];
        HX_TRY_GOTO(hx_layout_boxes(&shape, &box, 1, &layouts[i]), done);
        local += hx_shape_count(&shape);
    }
    HX_TRY_GOTO(hx_param_set_parts(param, n, names, layouts), done);
done:
    for (int i = 0; i < n; i++) hx_layout_destroy(&layouts[i]);
    return status;
}

hx_status hx_param_own(const hx_param *param, hx_tensor *x, hx_tensor **out) {
    if (param->is_shared) return hx_tensor_window(x, param->own_begin, HX_SHAPE(param->own_end - param->own_begin), out);
    *out = hx_tensor_retain(x);
    return HX_OK;
}

hx_status hx_param_own_grad(const hx_param *param, hx_tensor **out) {
    hx_tensor *whole = hx_tensor_grad(param->value);
    *out = NULL;
    if (param->own_grad != NULL) *out = hx_tensor_retain(param->own_grad);
    else if (whole != NULL) HX_TRY(hx_param_own(param, whole, out));
    return HX_OK;
}

/* ---- paths ---- */

uint64_t hx__layer_hash(const hx_layer *layer, const char *text) {
    uint64_t hash = HX_HASH_START;
    if (layer->path[0] != '\0') hash = hx_hash_text(hx_hash_text(hash, layer->path), ".");
    return hx_hash_text(hash, text);
}

/* prefix is "" or ends in a dot. */
static hx_status join_path(const char *prefix, const char *name, const char *end, char out[HX_NAME_BYTES]) {
    int n = snprintf(out, HX_NAME_BYTES, "%s%s%s", prefix, name, end);
    if (n < 0 || n >= HX_NAME_BYTES)
        return HX_FAIL(HX_ERR_CONFIG, "path %s%s%s has %d bytes: expected fewer than %d", prefix, name, end,
                       n, HX_NAME_BYTES);
    return HX_OK;
}

/* Of each layer its parameters, its buffers or both, then those of its children. */
enum { LIST_PARAMS = 1, LIST_BUFFERS = 2 };

static hx_status list_one(hx_param *param, const char *prefix, hx_param_list *list) {
    char path[HX_NAME_BYTES];
    HX_TRY(join_path(prefix, param->name, "", param->path));
    for (int k = 0; k < param->n_parts; k++) HX_TRY(join_path(prefix, param->parts[k].name, "", path));
    HX_TRY(hx_mem_grow((void **)&list->items, &list->capacity, list->n_items + 1, sizeof(hx_param *)));
    list->items[list->n_items++] = param;
    hx_tensor_set_requires_grad(param->value, !param->is_frozen);
    return HX_OK;
}

static hx_status list_below(hx_layer *layer, const char *prefix, int what, hx_param_list *list) {
    char path[HX_NAME_BYTES];
    for (int i = 0; what & LIST_PARAMS && i < layer->n_params; i++) HX_TRY(list_one(layer->params[i], prefix, list));
    for (int i = 0; what & LIST_BUFFERS && i < layer->n_buffers; i++) HX_TRY(list_one(layer->buffers[i], prefix, list));
    for (int i = 0; i < layer->n_children; i++) {
        HX_TRY(join_path(prefix, layer->children[i]->name, ".", path));
        HX_TRY(list_below(layer->children[i], path, what, list));
    }
    return HX_OK;
}

int hx_param_n_logical(const hx_param *param) { return param->n_parts > 0 ? param->n_parts : 1; }

void hx_param_logical(const hx_param *param, int i, char path[HX_NAME_BYTES], const hx_layout **layout) {
    /* param->path ends in param->name; what stands before is the layer's. Lengths were checked with the path. */
    const hx_param_part *part = param->n_parts > 0 ? &param->parts[i] : NULL;
    const char *name = part ? part->name : param->name;
    size_t own = strlen(param->name), all = strlen(param->path), prefix = all >= own ? all - own : 0;
    size_t n_bytes = strnlen(name, HX_NAME_BYTES - 1 - prefix);
    memcpy(path, param->path, prefix);
    memcpy(path + prefix, name, n_bytes);
    path[prefix + n_bytes] = '\0';
    if (layout != NULL) *layout = part ? &part->layout : &param->layout;
}

typedef struct logical {
    const hx_param *param;
    int i;
} logical;

static int logical_compare(const void *a, const void *b) {
    const logical *x = a, *y = b;
    char x_path[HX_NAME_BYTES], y_path[HX_NAME_BYTES];
    hx_param_logical(x->param, x->i, x_path, NULL);
    hx_param_logical(y->param, y->i, y_path, NULL);
    return strcmp(x_path, y_path);
}

static hx_status check_unique(const hx_param_list *list) {
    int64_t n_logical = 0, n = 0;
    logical *items = NULL;
    hx_status status = HX_OK;
    for (int64_t i = 0; i < list->n_items; i++) n_logical += hx_param_n_logical(list->items[i]);
    HX_TRY(hx_mem_alloc_array(n_logical, sizeof *items, (void **)&items));
    for (int64_t i = 0; i < list->n_items; i++)
        for (int k = 0; k < hx_param_n_logical(list->items[i]); k++)
            items[n++] = (logical){list->items[i], k};
    if (n > 1) qsort(items, (size_t)n, sizeof *items, logical_compare);
    for (int64_t i = 1; i < n && status == HX_OK; i++)
        if (logical_compare(&items[i - 1], &items[i]) == 0) {
            char path[HX_NAME_BYTES];
            hx_param_logical(items[i].param, items[i].i, path, NULL);
            status = HX_FAIL(HX_ERR_CONFIG, "two parameters share the path %s", path);
        }
    hx_mem_free((void **)&items);
    return status;
}

/* Paths are unique among parameters and buffers together: a checkpoint holds both. */
static hx_status check_paths(hx_layer *root) {
    hx_param_list all = {0};
    hx_status status;
    HX_TRY_GOTO(list_below(root, "", LIST_PARAMS | LIST_BUFFERS, &all), done);
    status = check_unique(&all);
done:
    hx_param_list_destroy(&all);
    return status;
}

static hx_status list_all(hx_layer *root, int what, hx_param_list *out) {
    hx_param_list list = {0};
    hx_status status;
    if (root == NULL) return HX_FAIL(HX_ERR_ARG, "root is NULL");
    HX_TRY(check_paths(root));
    HX_TRY_GOTO(list_below(root, "", what, &list), done);
    *out = list;
    return HX_OK;
done:
    hx_param_list_destroy(&list);
    return status;
}

hx_status hx_layer_params(hx_layer *root, hx_param_list *out) { return list_all(root, LIST_PARAMS, out); }
hx_status hx_layer_buffers(hx_layer *root, hx_param_list *out) { return list_all(root, LIST_BUFFERS, out); }

void hx_param_list_destroy(hx_param_list *list) {
    hx_mem_free((void **)&list->items);
    list->n_items = list->capacity = 0;
}

int64_t hx_param_list_count(const hx_param_list *list) {
    int64_t n = 0;
    for (int64_t i = 0; i < list->n_items; i++) n += hx_tensor_count(list->items[i]->value);
    return n;
}

#include "backends/backends.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/op/op.h"

/* A device that computes nothing: ops get their shapes from dispatch, and memory is addresses and counts. A
 * model of any size can be built on it to learn what it needs. */
typedef struct meta_device {
    uintptr_t next;     /* address that the next allocation gets */
    int64_t live_bytes; /* handed out now */
    int64_t moved_bytes; /* operands of all calls that are not products */
} meta_device;

/* Addresses begin far from the null page and end where the sign bit would: no mapping of a process is meant
 * by them, and offsets into a block cannot wrap. They are never reused, so two tensors never look like one.
 */
#define META_FIRST ((uintptr_t)1 << 20)
#define META_LAST  (UINTPTR_MAX / 2)
#define META_ALIGN ((size_t)256)

static hx_status meta_open(const hx_device_config *config, void **self) {
    if (config->index != 0)
        return HX_FAIL(HX_ERR_DEVICE, "meta device %d: there is one, number 0", config->index);
    meta_device *device;
    HX_TRY(hx_mem_alloc_array(1, sizeof *device, (void **)&device));
    device->next = META_FIRST;
    *self = device;
    return HX_OK;
}

static void meta_close(void *self) { hx_mem_free(&self); }

static void meta_props(void *self, hx_device_props *out) {
    (void)self;
    *out = (hx_device_props){.n_threads = 1, .is_dry = true};
    snprintf(out->name, sizeof out->name, "meta: shapes and bytes only");
}

static hx_status meta_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out) {
    meta_device *device = self;
    if (kind == HX_POOL_HOST) return hx_mem_alloc(n_bytes, out); /* the host writes there */
    if (n_bytes > META_LAST - device->next - 2 * META_ALIGN)
        return HX_FAIL(HX_ERR_MEMORY, "%zu bytes: %zu addresses are left", n_bytes,
                       (size_t)(META_LAST - device->next));
    *out = (void *)device->next;
    /* An empty block takes room too: addresses are distinct. */
    device->next += (n_bytes / META_ALIGN + 1) * META_ALIGN;
    device->live_bytes += (int64_t)n_bytes;
    return HX_OK;
}

static void meta_free(void *self, hx_pool_kind kind, void *p, size_t n_bytes) {
    if (kind == HX_POOL_HOST)
        hx_mem_free(&p);
    else if (p)
        ((meta_device *)self)->live_bytes -= (int64_t)n_bytes;
}

/* Streams and events have no state, because all work is done before it is asked for: the device stands for
 * them. */
static hx_status meta_handle_create(void *self, void **out) {
    *out = self;
    return HX_OK;
}

static void meta_handle_destroy(void *self, void *handle) {
    (void)self;
    (void)handle;
}

static hx_status meta_sync(void *self, void *handle) {
    (void)self;
    (void)handle;
    return HX_OK;
}

static hx_status meta_poll(void *self, void *handle, bool *done) {
    (void)self;
    (void)handle;
    *done = true;
    return HX_OK;
}

static hx_status meta_order(void *self, void *event, void *stream) {
    (void)self;
    (void)event;
    (void)stream;
    return HX_OK;
}

/* Nothing is stored anywhere, so moving and computing it is complete at once; reading a result back is
 * refused by the tensor, which knows that the device is dry. */
static hx_status meta_copy(void *self, void *stream, void *dst, const void *src, size_t n_bytes,
                           hx_copy_kind kind) {
    (void)self;
    (void)stream;
    (void)dst;
    (void)src;
    (void)n_bytes;
    if (kind == HX_COPY_TO_HOST)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "copy to the host: a meta device holds no data");
    return HX_OK;
}

static hx_status meta_fill(void *self, void *stream, void *dst, const void *pattern, size_t pattern_bytes,
                           int64_t n_items) {
    (void)self;
    (void)stream;
    (void)dst;
    (void)pattern;
    (void)pattern_bytes;
    (void)n_items;
    return HX_OK;
}

/* Ops whose time is that of their arithmetic; the others', that of the memory they read and write. */
static bool is_product(hx_op op) {
    switch (op) {
    case HX_OP_matmul:
    case HX_OP_linear:
    case HX_OP_attention:
    case HX_OP_attention_bwd:
    case HX_OP_conv:
    case HX_OP_conv_bwd_x:
    case HX_OP_conv_bwd_w: return true;
    default: return false;
    }
}

static int64_t operand_bytes(const hx_array *a) {
    return a->ndim < 0 ? 0 : hx_array_count(a) * (int64_t)hx_dtype_bytes(a->dtype);
}

static hx_status meta_exec(void *self, void *stream, const hx_op_call *call) {
    meta_device *device = self;
    (void)stream;
    if (is_product(call->op)) return HX_OK;
    for (int i = 0; i < call->n_in; i++) device->moved_bytes += operand_bytes(&call->in[i]);
    for (int i = 0; i < call->n_out; i++) device->moved_bytes += operand_bytes(&call->out[i]);
    return HX_OK;
}

/* const int64_t * each. "live_bytes": bytes that the caching allocator holds; "moved_bytes": what the ops so far would have read
 * and written, those left out whose time is arithmetic. */
static void *meta_native(void *self, const char *what, void *object) {
    meta_device *device = self;
    (void)object;
    if (strcmp(what, "moved_bytes") == 0) return &device->moved_bytes;
    return strcmp(what, "live_bytes") == 0 ? &device->live_bytes : NULL;
}

const hx_backend hx_backend_meta = {
    .name = "meta",
    .priority = -1,
    .open = meta_open,
    .close = meta_close,
    .props = meta_props,
    .alloc = meta_alloc,
    .free = meta_free,
    .stream_create = meta_handle_create,
    .stream_destroy = meta_handle_destroy,
    .stream_sync = meta_sync,
    .stream_poll = meta_poll,
    .event_create = meta_handle_create,
    .event_destroy = meta_handle_destroy,
    .event_record = meta_order,
    .event_stream_wait = meta_order,
    .event_sync = meta_sync,
    .event_poll = meta_poll,
    .copy = meta_copy,
    .fill = meta_fill,
    .exec = meta_exec,
    .native = meta_native,
};

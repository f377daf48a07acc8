/* Between the memory of a device and the host: pieces of a state go through one bounded buffer, and so does what a function
 * makes. What the host can read itself is handed out where it lies. */
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

bool hx__stage_is_used(const hx_state_item *item) {
    hx_device_props props;
    if (item->device == NULL) return false;
    hx_device_props_get(item->device, &props);
    return !props.is_host_memory;
}

static void *place_of(const hx_state_item *item, int64_t at) {
    return (char *)item->data + (size_t)at * hx_dtype_bytes(item->dtype);
}

static size_t bytes_of(const hx_state_item *item, int64_t n) { return (size_t)n * hx_dtype_bytes(item->dtype); }

/* A stream of its own: the caller's has finished with the items, and no others are in the way. */
static hx_status open_for(hx__stage *stage, hx_device *device) {
    if (stage->memory != NULL && stage->device == device) return HX_OK;
    hx__stage_close(stage);
    stage->device = device;
    HX_TRY(hx_stream_create(device, &stage->stream));
    return hx_device_alloc(device, HX_POOL_HOST, HX__CKPT_PIECE_BYTES, &stage->memory);
}

hx_status hx__stage_open(hx__stage *stage, const hx_state_item *item) {
    return stage->device == NULL && hx__stage_is_used(item) ? open_for(stage, item->device) : HX_OK;
}

bool hx__stage_is_open(const hx__stage *stage, const hx_state_item *item) {
    return item->produce == NULL && (!hx__stage_is_used(item) || (stage->memory != NULL && stage->device == item->device));
}

void hx__stage_close(hx__stage *stage) {
    hx_mem_free(&stage->made);
    if (stage->device == NULL) return;
    hx_stream_destroy(&stage->stream); /* waits: nothing uses the memory any more */
    hx_device_free(stage->device, HX_POOL_HOST, stage->memory, HX__CKPT_PIECE_BYTES);
    *stage = (hx__stage){0};
}

static hx_status copy(hx__stage *stage, void *to, const void *from, size_t n_bytes, hx_copy_kind kind) {
    HX_TRY(hx_stream_copy(stage->stream, to, from, n_bytes, kind));
    return hx_stream_sync(stage->stream);
}

static hx_status make(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n, const void **out) {
    if (stage->made == NULL) HX_TRY(hx_mem_alloc(HX__CKPT_PIECE_BYTES, &stage->made));
    HX_TRY(item->produce(item->source, at, n, stage->made));
    *out = stage->made;
    return HX_OK;
}

hx_status hx__stage_read(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n, const void **out) {
    if (item->produce) return make(stage, item, at, n, out);
    if (hx__stage_is_used(item)) {
        HX_TRY(open_for(stage, item->device));
        HX_TRY(copy(stage, stage->memory, place_of(item, at), bytes_of(item, n), HX_COPY_TO_HOST));
    }
    *out = hx__stage_is_used(item) ? stage->memory : place_of(item, at);
    return HX_OK;
}

hx_status hx__stage_target(hx__stage *stage, const hx_state_item *item, int64_t at, void **out) {
    if (hx__stage_is_used(item)) HX_TRY(open_for(stage, item->device));
    *out = hx__stage_is_used(item) ? stage->memory : place_of(item, at);
    return HX_OK;
}

hx_status hx__stage_write(hx__stage *stage, const hx_state_item *item, int64_t at, int64_t n) {
    if (!hx__stage_is_used(item)) return HX_OK;
    return copy(stage, place_of(item, at), stage->memory, bytes_of(item, n), HX_COPY_TO_DEVICE);
}

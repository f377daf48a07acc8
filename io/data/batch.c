#include "io/data/batch_impl.h"

hx_status hx__batch_create(hx_device *device, hx_dtype dtype, hx_shape shape, hx__batch_tensor *out) {
    hx__batch_tensor b = {.whole = NULL};
    hx_status status;
    HX_TRY(hx_tensor_create(device, dtype, shape, &b.whole));
    for (int i = 0; i < HX__BATCH_SLOTS; i++) {
        HX_TRY_GOTO(hx_event_create(device, &b.slots[i].sent), failed);
        HX_TRY_GOTO(hx_device_alloc(device, HX_POOL_HOST, hx_tensor_bytes(b.whole), &b.slots[i].staging), failed);
    }
    *out = b;
    return HX_OK;
failed:
    hx__batch_destroy(&b);
    return status;
}

void hx__batch_destroy(hx__batch_tensor *b) {
    if (b->whole == NULL) return;
    for (int i = 0; i < HX__BATCH_SLOTS; i++) {
        if (b->slots[i].sent != NULL) (void)hx_event_sync(b->slots[i].sent); /* the memory may be handed out again */
        hx_event_destroy(&b->slots[i].sent);
        hx_device_free(hx_tensor_device(b->whole), HX_POOL_HOST, b->slots[i].staging, hx_tensor_bytes(b->whole));
    }
    for (int i = 0; i < HX__BATCH_VIEWS; i++) hx_tensor_destroy(&b->views[i].tensor);
    hx_tensor_destroy(&b->whole);
}

static hx_status find_view(hx__batch_tensor *b, int64_t n, hx_tensor **out) {
    hx_shape shape = hx_tensor_shape(b->whole);
    for (int i = 0; i < HX__BATCH_VIEWS; i++)
        if (b->views[i].tensor != NULL && b->views[i].n == n) {
            *out = b->views[i].tensor;
            return HX_OK;
        }
    hx_tensor **view = &b->views[b->next_view].tensor;
    hx_tensor_destroy(view);
    shape.dims[0] = n;
    HX_TRY(hx_tensor_window(b->whole, 0, shape, view));
    b->views[b->next_view].n = n;
    b->next_view = (b->next_view + 1) % HX__BATCH_VIEWS;
    *out = *view;
    return HX_OK;
}

hx_status hx__batch_begin(hx__batch_tensor *b, void **staging) {
    HX_TRY(hx_event_sync(b->slots[b->slot].sent));
    *staging = b->slots[b->slot].staging;
    return HX_OK;
}

hx_status hx__batch_fill(hx__batch_tensor *b, hx_stream *stream, int64_t n, hx_tensor **out) {
    hx_tensor *view;
    HX_TRY(find_view(b, n, &view));
    HX_TRY(hx_tensor_write_async(stream, view, b->slots[b->slot].staging));
    HX_TRY(hx_event_record(b->slots[b->slot].sent, stream));
    b->slot = (b->slot + 1) % HX__BATCH_SLOTS;
    *out = view;
    return HX_OK;
}

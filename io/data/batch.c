#include "core/base/mem.h"
#include "io/data/batch_impl.h"

hx_status hx__batch_create(hx_device *device, hx_dtype dtype, hx_shape shape, hx__batch_tensor *out) {
    hx__batch_tensor b = {.whole = NULL};
    hx_status status;
    HX_TRY(hx_tensor_create(device, dtype, shape, &b.whole));
    HX_TRY_GOTO(hx_mem_alloc_array((int64_t)hx_tensor_bytes(b.whole), 1, &b.staging), failed);
    *out = b;
    return HX_OK;
failed:
    hx__batch_destroy(&b);
    return status;
}

void hx__batch_destroy(hx__batch_tensor *b) {
    for (int i = 0; i < HX__BATCH_VIEWS; i++) hx_tensor_destroy(&b->views[i].tensor);
    hx_tensor_destroy(&b->whole);
    hx_mem_free(&b->staging);
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

hx_status hx__batch_fill(hx__batch_tensor *b, hx_stream *stream, int64_t n, hx_tensor **out) {
    hx_tensor *view;
    HX_TRY(find_view(b, n, &view));
    HX_TRY(hx_tensor_write(stream, view, b->staging));
    *out = view;
    return HX_OK;
}

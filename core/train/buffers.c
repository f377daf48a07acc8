/* Buffers (running statistics of batch norm) follow each rank's own samples. Before they are used or saved they become
 * their mean over the ranks: a running mean is linear in what it has seen, so it does not matter how often that
 * happens. */
#include "core/base/mem.h"
#include "core/train/trainer_impl.h"

enum { MOST = 64 }; /* numbers in one hx_agreement.sum */

hx_status hx__trainer_open_buffers(hx_trainer *t) {
    int64_t most = 0;
    HX_TRY(hx_layer_buffers(t->setup.model.root, &t->buffers));
    for (int64_t i = 0; i < t->buffers.n_items; i++) {
        const int64_t n = hx_tensor_count(t->buffers.items[i]->value);
        if (n > most) most = n;
    }
    return hx_mem_alloc_array(most, sizeof(double), &t->buffer_data);
}

/* A rank that cannot read or write its own still takes part. */
static hx_status mean_over_ranks(hx_trainer *t, hx_tensor *buffer) {
    const hx_agreement *agreement = t->setup.agreement;
    const hx_dtype dtype = hx_tensor_dtype(buffer);
    const int64_t n = hx_tensor_count(buffer);
    double part[MOST];
    hx__trainer_note(t, hx_tensor_read(t->ctx.stream, buffer, t->buffer_data));
    for (int64_t at = 0; at < n; at += MOST) {
        const int m = n - at < MOST ? (int)(n - at) : MOST;
        for (int i = 0; i < m; i++) part[i] = hx_elem_get(dtype, t->buffer_data, at + i);
        HX_TRY(agreement->sum(agreement->self, part, m));
        for (int i = 0; i < m; i++) hx_elem_set(dtype, t->buffer_data, at + i, part[i] / agreement->size);
    }
    if (t->failure == HX_OK) hx__trainer_note(t, hx_tensor_write(t->ctx.stream, buffer, t->buffer_data));
    return HX_OK;
}

hx_status hx__trainer_mean_buffers(hx_trainer *t) {
    const hx_agreement *agreement = t->setup.agreement;
    if (agreement == NULL || agreement->sum == NULL || agreement->size == 1) return HX_OK;
    for (int64_t i = 0; i < t->buffers.n_items; i++) HX_TRY(mean_over_ranks(t, t->buffers.items[i]->value));
    return HX_OK;
}

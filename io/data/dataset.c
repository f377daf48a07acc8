#include "io/data/dataset.h"

#include <string.h>
#include "core/base/mem.h"
#include "io/data/batch_impl.h"

struct hx_dataset {
    hx_sampler sampler;
    hx_host_array arrays[2]; /* input, target */
    int n_arrays;            /* 1: no targets */
    hx__batch_tensor batches[2];
};

static hx_status dataset_n_micro(void *self, int64_t cursor, int64_t *out) {
    return hx_sampler_n_micro(&((hx_dataset *)self)->sampler, cursor, out);
}

static hx_status dataset_n_samples(void *self, int64_t cursor, int64_t *out) {
    return hx_sampler_batch(&((hx_dataset *)self)->sampler, cursor, out);
}

/* Samples at positions [from, from + n) of one array. */
static hx_status fill(hx_dataset *d, int i, int64_t from, int64_t n, hx_stream *stream, hx_tensor **out) {
    const size_t n_bytes = hx_tensor_bytes(d->batches[i].whole) / (size_t)hx_sampler_most(&d->sampler);
    void *staging;
    HX_TRY(hx__batch_begin(&d->batches[i], &staging));
    for (int64_t k = 0; k < n; k++) {
        const int64_t sample = hx_sampler_sample(&d->sampler, from + k);
        memcpy((char *)staging + (size_t)k * n_bytes,
               (const char *)d->arrays[i].data + (size_t)sample * n_bytes, n_bytes);
    }
    return hx__batch_fill(&d->batches[i], stream, n, out);
}

static hx_status dataset_get(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    hx_dataset *d = self;
    hx_tensor *tensors[2] = {NULL, NULL};
    int64_t base, n;
    HX_TRY(hx_sampler_micro(&d->sampler, cursor, index, &base, &n));
    for (int i = 0; i < d->n_arrays; i++) HX_TRY(fill(d, i, cursor + base, n, stream, &tensors[i]));
    *out = (hx_batch){.input = tensors[0], .target = tensors[1], .n_samples = n, .sample_base = base};
    return HX_OK;
}

static hx_status check_arrays(const hx_host_array *input, const hx_host_array *target) {
    if (input->shape.ndim < 1 || (target != NULL && target->shape.ndim < 1))
        return HX_FAIL(HX_ERR_SHAPE, "a scalar: expected [N, ...] with a sample in each row");
    if (target != NULL && target->shape.dims[0] != input->shape.dims[0])
        return HX_FAIL(HX_ERR_SHAPE, "%lld inputs and %lld targets: expected as many of both",
                       (long long)input->shape.dims[0], (long long)target->shape.dims[0]);
    return HX_OK;
}

hx_status hx_dataset_create(hx_device *device, const hx_host_array *input, const hx_host_array *target,
                            const hx_sampler *sampler, hx_dataset **out) {
    HX_CLEANUP(hx_dataset_destroy) hx_dataset *d = NULL;
    HX_TRY(check_arrays(input, target));
    HX_TRY(hx_mem_alloc_array(1, sizeof *d, (void **)&d));
    d->sampler = *sampler;
    d->sampler.n_samples = input->shape.dims[0];
    HX_TRY(hx_sampler_check(&d->sampler));
    d->arrays[0] = *input;
    if (target != NULL) d->arrays[1] = *target;
    d->n_arrays = target != NULL ? 2 : 1;
    for (int i = 0; i < d->n_arrays; i++) {
        hx_shape shape = d->arrays[i].shape;
        HX_TRY(hx_shape_check(&shape));
        shape.dims[0] = hx_sampler_most(&d->sampler);
        HX_TRY(hx__batch_create(device, d->arrays[i].dtype, shape, &d->batches[i]));
    }
    *out = d;
    d = NULL; /* handed on */
    return HX_OK;
}

void hx_dataset_destroy(hx_dataset **dataset) {
    if (!dataset || !*dataset) return;
    for (int i = 0; i < 2; i++) hx__batch_destroy(&(*dataset)->batches[i]);
    hx_mem_free((void **)dataset);
}

void hx_dataset_source(hx_dataset *dataset, hx_batch_source *out) {
    const bool is_short = dataset->sampler.last == HX_LAST_SHORT;
    *out = (hx_batch_source){.self = dataset,
                             .n_global = hx_sampler_epoch(&dataset->sampler),
                             .batch = dataset->sampler.batch,
                             .n_samples = is_short ? dataset_n_samples : NULL,
                             .n_micro = dataset_n_micro,
                             .get = dataset_get};
}

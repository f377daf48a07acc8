/* Samples in memory: pairs (input, target) of any shape and dtype, dealt out to ranks as an hx_batch_source.
 *
 *     const hx_host_array x = {HX_F32, HX_SHAPE(n, 2), xs}, y = {HX_I32, HX_SHAPE(n), labels};
 *     hx_sampler s = {.batch = 32, .shuffle = true, .seed = 1, .rank = rank, .size = size};
 *     hx_dataset *data;  HX_TRY(hx_dataset_create(device, &x, &y, &s, &data));
 *     hx_batch_source source; hx_dataset_source(data, &source);
 *
 * The order of samples, and the batches, are the same for any number of ranks (io/data/sampler.h); any number of
 * ranks goes on from the cursor of a checkpoint.
 */
#ifndef HX_IO_DATA_DATASET_H
#define HX_IO_DATA_DATASET_H

#include "core/train/hooks.h"
#include "io/data/sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A row-major array in host memory. */
typedef struct hx_host_array {
    hx_dtype dtype;
    hx_shape shape; /* [N, sample...] */
    const void *data;
} hx_host_array;

typedef struct hx_dataset hx_dataset;

/** Local.
 *  @param input   [N, sample...], N >= 1; its data are borrowed as long as the data set lives
 *  @param target  [N, ...], the same; NULL: batches have no target
 *  @param sampler  copied; its n_samples is set to N
 *  @return HX_ERR_SHAPE: no dim, or the two differ in N; HX_ERR_CONFIG as hx_sampler_check */
hx_status hx_dataset_create(hx_device *device, const hx_host_array *input, const hx_host_array *target,
                            const hx_sampler *sampler, hx_dataset **out);
/** Before the streams that batches were got on. */
void hx_dataset_destroy(hx_dataset **dataset);
/** The trainer's hook; borrows the data set. For evaluation take a sampler that neither shuffles nor drops. */
void hx_dataset_source(hx_dataset *dataset, hx_batch_source *out);

#ifdef __cplusplus
}
#endif
#endif

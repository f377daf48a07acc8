/* Hugging Face's safetensors: a file of 8 bytes (length of the header, little-endian u64), a JSON header, and tensors' bytes; or a
 * folder of such files that model.safetensors.index.json describes. Read by mapping, written as a stream.
 *
 *     hx_safetensors *st; HX_TRY(hx_safetensors_open("gpt2", &st));
 *     const hx_st_tensor *w = hx_safetensors_find(st, "h.0.attn.c_attn.weight");
 *
 * Format: https://huggingface.co/docs/safetensors. Every field is checked before it is used: ranges that leave the file, overlap or
 * leave holes, shapes whose product does not give the length, duplicate names, headers of more than 100 MB.
 */
#ifndef HX_IO_CKPT_SAFETENSORS_H
#define HX_IO_CKPT_SAFETENSORS_H

#include "core/tensor/shape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_st_tensor {
    const char *name;
    hx_dtype dtype; /* HX_DTYPE_COUNT: an element type that Helix has not (F8_E4M3, U16, ...) */
    hx_shape shape;
    const void *data; /* row-major, little-endian; at any address: unaligned files exist */
} hx_st_tensor;

typedef struct hx_safetensors hx_safetensors;

/** Local. @param path  a .safetensors file; an index (*.index.json); a folder with model.safetensors or model.safetensors.index.json
 *  The file is mapped: it must keep its length until it is closed.
 *  @return HX_ERR_IO; HX_ERR_FORMAT with the file and the tensor; HX_ERR_UNSUPPORTED: more than 8 dims, an element type that is none of
 *          the format */
hx_status hx_safetensors_open(const char *path, hx_safetensors **out);
void hx_safetensors_close(hx_safetensors **st);
int64_t hx_safetensors_count(const hx_safetensors *st);
/** Borrowed; by name. */
const hx_st_tensor *hx_safetensors_at(const hx_safetensors *st, int64_t i);
/** Borrowed; NULL: there is none. */
const hx_st_tensor *hx_safetensors_find(const hx_safetensors *st, const char *name);
/** Borrowed; a tensor whose elements are wanted. @return HX_ERR_MISMATCH: there is none; HX_ERR_UNSUPPORTED names its element type */
hx_status hx_safetensors_get(const hx_safetensors *st, const char *name, const hx_st_tensor **out);

/** Where a tensor's bytes come from while they are written, in pieces in order. */
typedef hx_status (*hx_st_produce)(void *self, int64_t i, int64_t offset, int64_t n_bytes, void *out);

/** Local. Write tensors (their `data` is not looked at), in the order of the list; the file is whole or not there. At most 16 MiB are
 *  held at a time.
 *  @param path             a file; with max_shard_bytes > 0 a folder that exists and holds no weights yet: model.safetensors, or
 *                          model-00001-of-0000N.safetensors ... and then model.safetensors.index.json
 *  @param max_shard_bytes  0: one file. A tensor is never cut
 *  @param metadata         [n_metadata] pairs of text for "__metadata__", e.g. {"format", "pt"}; NULL: none
 *  @return HX_ERR_ARG: a name that is no UTF-8 or there twice, weights in the folder; HX_ERR_UNSUPPORTED: c128; HX_ERR_IO; what produce
 *          returns */
hx_status hx_safetensors_write(const char *path, const hx_st_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                               int n_metadata, int64_t max_shard_bytes, hx_st_produce produce, void *self);

#ifdef __cplusplus
}
#endif
#endif

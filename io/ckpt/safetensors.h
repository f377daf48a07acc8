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
    hx_dtype dtype;
    hx_shape shape;
    const void *data; /* row-major, little-endian; at any address: unaligned files exist */
} hx_st_tensor;

typedef struct hx_safetensors hx_safetensors;

/** Local. @param path  a .safetensors file; an index (*.index.json); a folder with model.safetensors or model.safetensors.index.json
 *  @return HX_ERR_IO; HX_ERR_FORMAT with the file and the tensor; HX_ERR_UNSUPPORTED: an element type that Helix has not (F8, U16, ...)
 *          in a tensor that is asked for */
hx_status hx_safetensors_open(const char *path, hx_safetensors **out);
void hx_safetensors_close(hx_safetensors **st);
int64_t hx_safetensors_count(const hx_safetensors *st);
/** Borrowed; by name. */
const hx_st_tensor *hx_safetensors_at(const hx_safetensors *st, int64_t i);
/** Borrowed; NULL: there is none. */
const hx_st_tensor *hx_safetensors_find(const hx_safetensors *st, const char *name);

/** Where a tensor's bytes come from while they are written, in pieces in order. */
typedef hx_status (*hx_st_produce)(void *self, int64_t i, int64_t offset, int64_t n_bytes, void *out);

/** Local. Write tensors (their `data` is not looked at), in the order of the list; the file is whole or not there.
 *  @param path             a file; with max_shard_bytes > 0 a folder, in which more than one shard gets an index
 *  @param max_shard_bytes  0: one file. A tensor is never cut
 *  @param metadata         [n_metadata] pairs of text for "__metadata__", e.g. {"format", "pt"}; NULL: none */
hx_status hx_safetensors_write(const char *path, const hx_st_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                               int n_metadata, int64_t max_shard_bytes, hx_st_produce produce, void *self);

#ifdef __cplusplus
}
#endif
#endif

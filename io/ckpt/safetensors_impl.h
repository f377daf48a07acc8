/* What the sources of safetensors and of Hugging Face's folders share. */
#ifndef HX_IO_CKPT_SAFETENSORS_IMPL_H
#define HX_IO_CKPT_SAFETENSORS_IMPL_H

#include <jansson.h>

#include "io/ckpt/safetensors.h"

#define HX__ST_FILE  "model.safetensors"
#define HX__ST_INDEX "model.safetensors.index.json"

/* Element types of the format. */
typedef struct hx__st_type {
    const char *text;
    hx_dtype dtype; /* HX_DTYPE_COUNT: Helix has none such */
    int n_bytes;
} hx__st_type;
extern const hx__st_type hx__st_types[];
extern const int hx__st_n_types;

/** Parse JSON text of a file that nobody vouches for: an object without duplicate keys, of bounded size in memory.
 *  @param path  for messages; @param[out] out  released by the caller with json_decref. @return HX_ERR_FORMAT with file and place */
hx_status hx__st_json(const char *text, size_t n, const char *path, json_t **out);
/** The same of a regular file, of up to 100 MB. */
hx_status hx__st_json_file(const char *path, json_t **out);

#endif

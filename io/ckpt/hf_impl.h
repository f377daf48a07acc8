/* What the sources of Hugging Face's folders share.
 *
 * hf_names.c   tables: whose tensor is whose     hf_config.c   config.json
 * hf_import.c  their files, our checkpoints      hf_export.c   our checkpoints, their files
 */
#ifndef HX_IO_CKPT_HF_IMPL_H
#define HX_IO_CKPT_HF_IMPL_H

#include "io/ckpt/hf.h"

#define HX__HF_NAME_BYTES 192

typedef enum hx__hf_family { HX__HF_GPT2, HX__HF_LLAMA } hx__hf_family;

/* ---- hf_config.c ---- */

/** The family that a configuration belongs to. @return HX_ERR_UNSUPPORTED names the option that fits neither */
hx_status hx__hf_family_of(const hx_gpt_config *config, hx__hf_family *out);

/* ---- hf_names.c ---- */

/* A tensor of ours and where it lies in theirs. */
typedef struct hx__hf_link {
    char ours[HX__HF_NAME_BYTES], theirs[HX__HF_NAME_BYTES];
    hx_shape shape, their_shape;
    bool is_transposed; /* theirs is [in, out] */
    int64_t offset;     /* columns of theirs, or elements of a vector, before ours: theirs may hold several of ours */
} hx__hf_link;

/** The tensors of a model; those that lie in one of theirs stand together, in its order. @param[out] links  [n], hx_mem_free */
hx_status hx__hf_links(const hx_gpt_config *config, hx__hf_link **links, int64_t *n);
/** `name` without the prefix that files of a bare model lack ("transformer.wte.weight", "wte.weight"); itself if it has none. */
const char *hx__hf_bare(hx__hf_family family, const char *name);
/** A buffer that files hold and that says nothing: masks, frequencies. @param name  with or without the prefix */
bool hx__hf_is_buffer(hx__hf_family family, const char *name);

/* How a destination [rows, n_cols] gets columns [col, col + n_part) from a source:
 *     destination(i, col + j) = source[base + i row_step + j col_step] */
typedef struct hx__hf_grid {
    int64_t n_cols, col, n_part, base, row_step, col_step;
} hx__hf_grid;
hx__hf_grid hx__hf_grid_in(const hx__hf_link *link);  /* theirs -> ours */
hx__hf_grid hx__hf_grid_out(const hx__hf_link *link); /* ours -> theirs */
/** Of elements [at, at + n) of the destination those that this source gives. @param to  where element `at` belongs; memory of the source
 *  may lie at any address */
void hx__hf_gather(const hx__hf_grid *grid, int64_t at, int64_t n, hx_dtype from_type, const void *from, hx_dtype to_type, void *to);

#endif

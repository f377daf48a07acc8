/* Inside of token data sets: tokens.c (kinds told apart, ids and masks read), tokens_text.c (folders of text), tokens_bin.c (llm.c's
 * and nanoGPT's files), tokens_h5.c (our own). A kind finds where its ids lie; reading is the same for all of them. */
#ifndef HX_IO_DATA_TOKENS_IMPL_H
#define HX_IO_DATA_TOKENS_IMPL_H

#include "io/data/tokens.h"

struct hx_tokens {
    char *path; /* owned */
    hx_tokens_info info;
    int width;                /* bytes of an id: 1, 2 or 4, little-endian */
    const uint8_t *ids;       /* [n_tokens * width], at any address */
    const uint8_t *documents; /* [n_documents] i64 at any address; NULL: there is one */
    const uint8_t *loss_mask; /* [n_tokens]; NULL: there is none */
    const uint8_t *mapping;   /* of the file */
    int64_t mapping_bytes;
    void *joined; /* ids of a folder's files; owned */
};

/* Of u32 ids that nobody bounds: what an i32 can hold. */
#define HX__VOCAB_U32 (INT64_C(1) << 31)

/** Texts below a folder, into `joined`. */
hx_status hx__tokens_open_folder(hx_tokens *tokens);
/** The mapping is a .bin file. */
hx_status hx__tokens_open_bin(hx_tokens *tokens);
bool hx__tokens_is_llmc(const hx_tokens *tokens);
/** The mapping is an HDF5 file. */
hx_status hx__tokens_open_h5(hx_tokens *tokens);
bool hx__tokens_is_h5(const hx_tokens *tokens);

#endif

/* Token data sets: a row of ids, cut into documents, mapped from a file and never read as a whole.
 *
 *     hx_tokens *t; HX_TRY(hx_tokens_open("train.h5", &t));
 *     HX_TRY(hx_tokens_read(t, at, n, ids));
 *
 * By their content, not their names, these are known:
 *     text               any other file: its bytes are the ids; a folder of text files: joined by newlines
 *     HDF5               /tokens [N] u8, u16 or u32, contiguous; /documents [D] i64 where each document begins; /loss_mask [N] u8 (0: the
 *                        token is no target), optional; attributes of /: helix_tokens (format, 1), vocab, tokenizer (hash), xxh3 (of /tokens,
 *                        then of /documents and of /loss_mask, each seeded with the one before)
 *     llm.c's .bin       256 little-endian i32 first: magic 20240520, version 1 (u16 ids) or magic 20240801, version 7 (u32), number of tokens
 *     nanoGPT's .bin     u16 ids and nothing else: a name that ends in .bin without such a header
 * HDF5 is asked for the place of /tokens in the file (H5Dget_offset), and the file is mapped: threads may read at once.
 */
#ifndef HX_IO_DATA_TOKENS_H
#define HX_IO_DATA_TOKENS_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_TOKENS_FORMAT 1

typedef struct hx_tokens hx_tokens;

typedef struct hx_tokens_info {
    const char *path;       /* that was opened; borrowed */
    const char *format;     /* "text", "helix", "llm.c", "nanogpt" */
    int64_t n_tokens;
    int64_t n_documents;    /* 1 where the file knows none */
    int64_t vocab;          /* ids are below it; 256 for text; all of their width, 65536 or 2^31, where the file does not tell */
    uint64_t tokenizer;     /* hx_tokenizer_hash of the one that made them; 0: bytes, or not told */
    bool has_loss_mask;
    uint64_t hash;          /* XXH3 of the ids as they lie in the file: stored with a run and compared when it goes on. Of a "helix" file
                               what it says itself */
} hx_tokens_info;

/** Local. @return HX_ERR_IO: absent, unreadable, empty; HX_ERR_FORMAT: what is wrong, and where */
hx_status hx_tokens_open(const char *path, hx_tokens **out);
/** Local. n ids 0 of a text that takes no memory: stands in where nothing is computed. */
hx_status hx_tokens_blank(int64_t n, hx_tokens **out);
void hx_tokens_close(hx_tokens **tokens);
void hx_tokens_info_get(const hx_tokens *tokens, hx_tokens_info *out);
/** Local. Ids [at, at+n), which must lie within. HX_ERR_CORRUPT: an id not below vocab, with its place. */
hx_status hx_tokens_read(const hx_tokens *tokens, int64_t at, int64_t n, int32_t *ids);
/** Local. For tokens [at, at+n) as targets: HX_IGNORE_INDEX in place of those that are none: the first of a document (nothing before it
 *  tells of it), and what the mask leaves out. */
hx_status hx_tokens_mask(const hx_tokens *tokens, int64_t at, int64_t n, int32_t *targets);
/** Local. Where document i of n_documents begins. */
int64_t hx_tokens_document(const hx_tokens *tokens, int64_t i);
/** Local. The hash, from what the file holds: reads all of it. */
uint64_t hx_tokens_rehash(const hx_tokens *tokens);

#ifdef __cplusplus
}
#endif
#endif

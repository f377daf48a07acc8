/* Inside of hx_pack: pack.c (files into pieces, pieces to the threads, results in order), pack_piece.c (text into ids),
 * pack_store.c (what lies on the disk meanwhile), pack_h5.c (the result). */
#ifndef HX_IO_DATA_PACK_IMPL_H
#define HX_IO_DATA_PACK_IMPL_H

#include "io/text/tokenizer.h"

/* Pairs or single numbers in memory that grows. */
typedef struct hx__numbers {
    int64_t *at; /* [n]; owned */
    int64_t n, capacity;
} hx__numbers;
hx_status hx__numbers_add(hx__numbers *numbers, int64_t value);

/* ---- pack_piece.c ---- */

/* Documents, or a part of one, that one thread makes ids of, and what they became. */
typedef struct hx__piece {
    const char *path;        /* of the file; borrowed */
    const char *text;        /* the whole file, [n_bytes]; borrowed */
    int64_t n_bytes, begin, end; /* of a .jsonl file: the lines that begin in [begin, end); else these bytes, cut where that is safe */
    bool is_lines;
    hx_ids ids;            /* owned */
    hx__numbers documents; /* where each begins in ids; owned */
    hx__numbers unmasked;  /* begin, end of what is no target, in ids; owned */
    hx_status status;
    char message[1024]; /* of a failure */
} hx__piece;

typedef struct hx__piece_rules {
    const char *field;
    int32_t end_of_text; /* -1: none */
} hx__piece_rules;

/** On any thread: text to ids; the lists are emptied first. A failure is kept in the piece. */
void hx__piece_encode(hx__piece *piece, const hx__piece_rules *rules, hx_encoder *encoder);
void hx__piece_destroy(hx__piece *piece);

/* ---- pack_store.c ---- */

/* All documents before byte `offset` of file number `file` are done, and gave so much. */
typedef struct hx__pack_point {
    int64_t file, offset, n_tokens, n_documents, n_unmasked;
} hx__pack_point;

typedef struct hx__pack_store hx__pack_store;

/** Make the folder `out`.pack, or find the one of an earlier start.
 *  @param key  of all that decides the result; other keys are refused
 *  @param width  bytes of an id
 *  @param[out] point  where to go on from
 *  @param[out] is_done  `out` is there already, made by an earlier start that had no time to remove the folder
 *  @return HX_ERR_CONFIG: `out` is there, and nobody's folder */
hx_status hx__pack_store_open(const char *out, uint64_t key, int width, hx__pack_store **store, hx__pack_point *point, bool *is_done);
void hx__pack_store_close(hx__pack_store **store);
/** Into memory. */
hx_status hx__pack_store_add(hx__pack_store *store, const hx__piece *piece);
/** Into the files: all text up to here. */
hx_status hx__pack_store_write(hx__pack_store *store, int64_t file, int64_t offset);
/** Synced, with an entry in the journal: what has been written will not be read again. */
hx_status hx__pack_store_commit(hx__pack_store *store);
/** What has been written. */
void hx__pack_store_point(const hx__pack_store *store, hx__pack_point *point);
/** Make `out` of it. */
hx_status hx__pack_store_finish(hx__pack_store *store, const char *out, int64_t vocab, uint64_t tokenizer);
/** Remove the folder. */
hx_status hx__pack_store_remove(hx__pack_store *store);

/* ---- pack_h5.c ---- */

/* Files of the folder, open for reading. */
typedef struct hx__pack_parts {
    int ids, documents, unmasked; /* descriptors */
    int width;
    hx__pack_point point;
    int64_t vocab;
    uint64_t tokenizer;
} hx__pack_parts;

/** Write the data set to `path`, synced. */
hx_status hx__pack_h5_write(const char *path, const hx__pack_parts *parts);

#endif

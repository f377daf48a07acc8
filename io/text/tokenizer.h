/* Text to token ids and back: bytes, or byte-level byte-pair encoding (Sennrich et al. 2016; over bytes: Radford et al. 2019).
 *
 *     hx_tokenizer *t;  HX_TRY(hx_tokenizer_open("gpt2", &t));            // a folder or file of Hugging Face's or GPT-2's
 *     hx_encoder *e;    HX_TRY(hx_encoder_create(t, &e));                 // one per thread
 *     hx_ids ids = {0}; HX_TRY(hx_encode(e, text, n_bytes, &ids));        // appended
 *     hx_ids_destroy(&ids); hx_encoder_destroy(&e); hx_tokenizer_close(&t);
 *
 * A tokenizer is one of
 *     bytes              256 ids, the bytes themselves
 *     tokenizer.json     Hugging Face's file of a byte-level BPE: GPT-2's, LLaMA 3's and Qwen's kind of pre-tokenizer
 *     vocab.json + merges.txt   GPT-2's pair of files
 * Any bytes can be encoded, and decode(encode(x)) = x for all of them, also where they are no UTF-8: the longest stretches that are UTF-8
 * are split as texts of their own, the bytes between two of them are one word. A file can ask for exceptions: a space before each text
 * (add_prefix_space), special tokens that take the white space beside them (lstrip, rstrip). What a file says beyond that (normalisers,
 * other models, other post-processors than ByteLevel and TemplateProcessing) is refused by name, never ignored; a TemplateProcessing puts
 * special tokens around a text for callers who ask for them, which hx_encode does not.
 * The characters of \p{L}, \p{N} and white space are those of the Unicode version that PCRE2 was built with.
 */
#ifndef HX_IO_TEXT_TOKENIZER_H
#define HX_IO_TEXT_TOKENIZER_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_END_OF_TEXT "<|endoftext|>" /* the special token that `train` makes, and that stands between documents */

typedef struct hx_tokenizer hx_tokenizer; /* does not change once made: threads may share it */

/** Local. 256 ids, the bytes. */
hx_status hx_tokenizer_bytes(hx_tokenizer **out);
/** Local. @param path  a tokenizer.json; a vocab.json with merges.txt beside it; a folder with either; "bytes"
 *  @return HX_ERR_IO: absent or unreadable; HX_ERR_FORMAT: malformed, with file and place; HX_ERR_UNSUPPORTED: what it
 *          asks for and what is there */
hx_status hx_tokenizer_open(const char *path, hx_tokenizer **out);
void hx_tokenizer_close(hx_tokenizer **tokenizer);

/** Ids are 0 to vocab - 1. Added tokens have the ids that their file gives them, also where these leave gaps: the ids between stand for
 *  nothing. (Hugging Face's tokenizers number such tokens anew, one behind the other, with a warning.) */
int64_t hx_tokenizer_vocab(const hx_tokenizer *tokenizer);
/** Id of a special token by its text, e.g. HX_END_OF_TEXT; -1: there is none. */
int32_t hx_tokenizer_special(const hx_tokenizer *tokenizer, const char *text);
/** XXH3 of all that decides ids, the same for the same tokenizer read from either kind of file; 0 for bytes. */
uint64_t hx_tokenizer_hash(const hx_tokenizer *tokenizer);

/* Whose ids some ids are, told without the tokenizer: kept with data sets and runs, and compared. Zeroed: not known. */
typedef enum hx_tokenizer_kind { HX_TOKENIZER_UNKNOWN, HX_TOKENIZER_BYTES, HX_TOKENIZER_BPE } hx_tokenizer_kind;
typedef struct hx_tokenizer_id {
    hx_tokenizer_kind kind;
    int64_t vocab;
    uint64_t hash; /* hx_tokenizer_hash */
} hx_tokenizer_id;
void hx_tokenizer_id_get(const hx_tokenizer *tokenizer, hx_tokenizer_id *out);
/** Of what is not known nothing is told apart: true. */
bool hx_tokenizer_id_fits(const hx_tokenizer_id *a, const hx_tokenizer_id *b);
#define HX_TOKENIZER_ID_TEXT 96
/** In words: "bytes", "byte-level BPE of 1501 ids (hash 0123456789abcdef)". */
const char *hx_tokenizer_id_text(const hx_tokenizer_id *id, char text[HX_TOKENIZER_ID_TEXT]);

/* What a tokenizer consists of, for people and programs that look at it. */
typedef struct hx_tokenizer_info {
    const char *split; /* the pattern of its words; NULL: a text is one word, or bytes. Borrowed */
    int64_t n_merges;
    int64_t n_added; /* tokens that are looked for in a text before everything else: special ones, and more */
    bool is_bytes, has_prefix_space, ignores_merges;
} hx_tokenizer_info;
void hx_tokenizer_info_get(const hx_tokenizer *tokenizer, hx_tokenizer_info *out);
/** Text of an added token, terminated; borrowed. @param i  0 to n_added - 1, in no order of ids */
const char *hx_tokenizer_added(const hx_tokenizer *tokenizer, int64_t i, int32_t *id, bool *is_special);

/** Local. Copy the files of a tokenizer as they are into `folder`, which is made if need be: what hx_tokenizer_open reads of `path`, and
 *  those beside it that other tools read (tokenizer_config.json, special_tokens_map.json, tokenizer.model, ...). What else is called as
 *  one of them is removed from `folder`, unless it is where they lie: then nothing is done. A kill leaves each file whole or not there.
 *  @param path  as for hx_tokenizer_open, but no "bytes"; a folder may have none of them
 *  @param[out] n_files  copied; with none `folder` is left as it is
 *  @return HX_ERR_IO: what cannot be read or written; HX_ERR_UNSUPPORTED: a file of more than 64 MiB */
hx_status hx_tokenizer_copy(const char *path, const char *folder, int *n_files);

/* Ids in memory that grows. Zeroed before the first use. */
typedef struct hx_ids {
    int32_t *ids; /* [n]; owned */
    int64_t n, capacity;
} hx_ids;
void hx_ids_destroy(hx_ids *ids);
/* Bytes in memory that grows; not terminated. Zeroed before the first use. */
typedef struct hx_text {
    char *bytes; /* [n]; owned */
    int64_t n, capacity;
} hx_text;
void hx_text_destroy(hx_text *text);

/* What one thread needs to encode: scratch memory and a cache of words. */
typedef struct hx_encoder hx_encoder;
/** @param tokenizer  borrowed */
hx_status hx_encoder_create(const hx_tokenizer *tokenizer, hx_encoder **out);
void hx_encoder_destroy(hx_encoder **encoder);
/** Local. Append the ids of n_bytes of text. Special tokens written in the text are taken as such, as Hugging Face's tokenizers do.
 *  @param text  any bytes, NUL too */
hx_status hx_encode(hx_encoder *encoder, const char *text, size_t n_bytes, hx_ids *ids);
/** Local. The first place from `from` on where a text may be cut: the ids of text[0, *at) and those of text[*at, n) behind them are the
 *  ids of the whole. Known for bytes (any place) and for the patterns of GPT-2, LLaMA 3, Qwen 2 and GPT-4o, at newlines; not where
 *  added tokens take the white space beside them or hold ends of lines, or where a space is put before each text.
 *  @param[out] at  n_bytes: no such place is known */
hx_status hx_tokenizer_cut(const hx_tokenizer *tokenizer, const char *text, size_t n_bytes, size_t from, size_t *at);
/** Local. Append the bytes of n ids. @return HX_ERR_ARG with the id that is none, and its place */
hx_status hx_decode(const hx_tokenizer *tokenizer, const int32_t *ids, int64_t n, hx_text *text);

/** Length of the UTF-8 character that begins at text, 0: there is none. Surrogates and what is longer than need be are none. */
int hx_utf8_length(const uint8_t *text, size_t n_bytes);

/* Called now and then by the thread that trains: HX_TRAIN_COUNT bytes, then HX_TRAIN_MERGE merges, that are done of how many. */
typedef enum hx_train_stage { HX_TRAIN_COUNT, HX_TRAIN_MERGE } hx_train_stage;
typedef void (*hx_train_watch)(void *self, hx_train_stage stage, int64_t n_done, int64_t n_total);

/** Local. Learn a byte-level BPE with GPT-2's split from text files: merges by descending count of the pair, ties to the pair of
 *  lower ids, so that the result depends on the text alone, not on threads. HX_END_OF_TEXT in a file separates documents and is not
 *  counted; a word of more than 1 KiB counts as several.
 *  @param vocab      of the result: 257 (bytes and HX_END_OF_TEXT, which is the last id) and more; may end smaller if no pair is left
 *  @param n_threads  that count words; 0: all cores
 *  @param watch      NULL: nobody. @param self  its first argument
 *  Memory: of distinct words, whatever the length of the files
 *  @return HX_ERR_IO with the file */
hx_status hx_tokenizer_train(const char *const *files, int n_files, int64_t vocab, int n_threads, hx_train_watch watch, void *self,
                             hx_tokenizer **out);
/** Local. Write `folder`/tokenizer.json, vocab.json and merges.txt, which other tools read; the folder is made. Each file is whole
 *  or not there. The pair is left out where it cannot tell all: another split than GPT-2's, other special tokens than HX_END_OF_TEXT.
 *  @return HX_ERR_UNSUPPORTED: bytes, which need no file */
hx_status hx_tokenizer_save(const hx_tokenizer *tokenizer, const char *folder);

#ifdef __cplusplus
}
#endif
#endif

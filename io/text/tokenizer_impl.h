/* The inside of io/text: what a tokenizer consists of, how it is put together, how text is cut into words. */
#ifndef HX_IO_TEXT_TOKENIZER_IMPL_H
#define HX_IO_TEXT_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "io/text/tokenizer.h"

/* ---- split.c: text to words ---- */

/* A pattern whose matches are words; what lies between two of them is a word too. */
typedef struct hx__pattern {
    char *text;       /* as the file has it; NULL: a text is one word */
    pcre2_code *code; /* translated to PCRE2; NULL with text */
} hx__pattern;

/* GPT-2's (Radford et al. 2019, encoder.py), which Hugging Face's "ByteLevel" means as well */
#define HX_GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** @param text  in Oniguruma's dialect, which Hugging Face's files use; copied. Accepted is what means the same in PCRE2.
 *  @param source  file, for messages. @return HX_ERR_UNSUPPORTED: what else it contains, and where */
hx_status hx__pattern_compile(const char *text, const char *source, hx__pattern *out);
void hx__pattern_free(hx__pattern *pattern);

/* What one thread needs to match a pattern. */
typedef struct hx__splitter {
    const hx__pattern *pattern;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} hx__splitter;

/** @param pattern  borrowed */
hx_status hx__splitter_init(const hx__pattern *pattern, hx__splitter *out);
void hx__splitter_free(hx__splitter *splitter);

/* One character of a kind. */
typedef struct hx__class {
    pcre2_code *code;
    pcre2_match_data *match;
} hx__class;
/** @param pattern  in PCRE2's dialect, of one character */
hx_status hx__class_compile(const char *pattern, hx__class *out);
void hx__class_free(hx__class *class);
/** Length of the character at text, if it is of the class, else 0. */
size_t hx__char_of(const hx__class *class, const uint8_t *text, size_t n_bytes);
/** The same for the character that ends at text + n_bytes. */
size_t hx__char_before(const hx__class *class, const uint8_t *text, size_t n_bytes);

typedef hx_status (*hx__word_fn)(void *arg, const uint8_t *word, size_t n_bytes);
/** Call `word` for each word, in order. The longest stretches that are UTF-8 are texts of their own for the pattern; the bytes between
 *  two of them are a word. */
hx_status hx__split(hx__splitter *splitter, const uint8_t *text, size_t n_bytes, hx__word_fn word, void *arg);

/* ---- table.c: the tokenizer's tables ---- */

typedef struct hx__token {
    int64_t at;    /* in bytes */
    int32_t n;     /* its length; -1: the id stands for nothing */
    bool in_vocab; /* of the model; else it is an added token only */
    bool is_word;  /* written in GPT-2's alphabet of bytes, so that words and merges can mean it; else as it is */
} hx__token;

typedef struct hx__merge {
    int32_t left, right, id; /* its rank is its index */
} hx__merge;

typedef struct hx__merges {
    hx__merge *items; /* [n]; owned */
    int64_t n, capacity;
} hx__merges;
hx_status hx__merges_add(hx__merges *merges, const hx__merge *merge);
void hx__merges_free(hx__merges *merges);

typedef struct hx__merge_slot {
    uint64_t key; /* left << 32 | right */
    int32_t rank; /* -1: free */
    int32_t id;
} hx__merge_slot;

/* A token that is looked for in the text before everything else. */
typedef struct hx__added {
    char *text; /* owned */
    size_t n_bytes;
    int32_t id;
    bool special, single_word, lstrip, rstrip;
    bool normalized; /* looked for after those that are not */
} hx__added;

struct hx_tokenizer {
    bool is_bytes; /* then nothing below is used */
    int64_t vocab;
    hx__token *tokens; /* [vocab] */
    char *bytes;       /* of all tokens */
    int64_t n_bytes, bytes_capacity;
    int32_t *words; /* [words_mask + 1] id by hash of bytes; -1: free */
    uint64_t words_mask;
    int32_t byte_ids[256];
    hx__merge *merges; /* [n_merges] */
    int64_t n_merges;
    hx__merge_slot *slots; /* [slots_mask + 1] */
    uint64_t slots_mask;
    int slots_shift;
    hx__added *added; /* [n_added] those that are not `normalized` first, each kind by its bytes */
    int64_t n_added, n_raw;
    hx__pattern pattern;
    bool prefix_space;  /* a space is put before a text that does not begin with one */
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
    uint64_t hash;
};

/** Room for `vocab` ids that stand for nothing yet. */
hx_status hx__tokenizer_create(int64_t vocab, hx_tokenizer **out);
/** Give an id its bytes. The id is free. A word is findable from then on if there is an index. */
hx_status hx__tokenizer_put(hx_tokenizer *t, int64_t id, const void *bytes, size_t n_bytes, bool in_vocab, bool is_word);
/** All words are there: make them findable, and the bytes among them. @return HX_ERR_UNSUPPORTED: the byte that has none */
hx_status hx__tokenizer_index(hx_tokenizer *t, const char *source);
/** Id of a word; -1: it is none. */
int32_t hx__tokenizer_find(const hx_tokenizer *t, const void *bytes, size_t n_bytes);
/** Take n merges, which are consumed. @return HX_ERR_FORMAT: two are the same */
hx_status hx__tokenizer_set_merges(hx_tokenizer *t, hx__merge *merges, int64_t n, const char *source);
/** Take added tokens, which are consumed, sort them, and compute the hash: the last step. @return HX_ERR_FORMAT: two are the same */
hx_status hx__tokenizer_finish(hx_tokenizer *t, hx__added *added, int64_t n_added, const char *source);
void hx__added_free(hx__added **added, int64_t n_added);

/** The merge of a pair; NULL: there is none. */
static inline const hx__merge_slot *hx__merge_find(const hx_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t i = key * 0x9e3779b97f4a7c15u >> t->slots_shift;; i++) {
        const hx__merge_slot *slot = &t->slots[i & t->slots_mask];
        if (slot->rank < 0) return NULL;
        if (slot->key == key) return slot;
    }
}

/* ---- alphabet.c: GPT-2's letters for bytes ---- */

/** Code point that stands for a byte: itself where it can be seen, else U+0100 and on. */
int hx__byte_letter(int byte);
/** The i-th byte in the order of their letters, which is the order of ids in GPT-2's vocabulary. */
int hx__byte_ranked(int i);
/** Bytes that `text`, UTF-8, stands for. @param bytes  [strlen(text)]. @return their number; -1: it has other letters */
int64_t hx__bytes_of_letters(const char *text, size_t n_bytes, char *bytes);
/** The other way, terminated. @param text  [2 n_bytes + 1] */
void hx__letters_of_bytes(const void *bytes, size_t n_bytes, char *text);

/* ---- train.c, count.c ---- */

/* Distinct words and how often each came. */
typedef struct hx__counts {
    struct hx__counted *slots; /* [mask + 1] open addressing */
    uint64_t mask;
    int64_t n;
    struct hx__chunk *chunks; /* the words' bytes, the newest chunk first */
} hx__counts;
typedef struct hx__counted {
    const uint8_t *word; /* NULL: free */
    int64_t n_bytes, count;
} hx__counted;

#define HX__TRAIN_THREADS_MOST 1024

hx_status hx__counts_add(hx__counts *counts, const uint8_t *word, size_t n_bytes, int64_t count);
void hx__counts_free(hx__counts *counts);
/** Count the words of GPT-2's split in files, with n_threads. */
hx_status hx__count_files(const char *const *files, int n_files, int n_threads, const hx__pattern *pattern, hx_train_watch watch, void *self,
                          hx__counts *out);

#endif

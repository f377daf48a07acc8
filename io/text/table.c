/* A tokenizer's tables, and what is asked of them: ids, special tokens, bytes of ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/base/mem.h"
#include "io/text/tokenizer_impl.h"

/* Smallest power of two that is twice as large. */
static int64_t table_size(int64_t n) {
    int64_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

hx_status hx__merges_add(hx__merges *merges, const hx__merge *merge) {
    HX_TRY(hx_mem_grow((void **)&merges->items, &merges->capacity, merges->n + 1, sizeof *merges->items));
    merges->items[merges->n++] = *merge;
    return HX_OK;
}

void hx__merges_free(hx__merges *merges) { hx_mem_free((void **)&merges->items); }

/* ---- making ---- */

hx_status hx__tokenizer_create(int64_t vocab, hx_tokenizer **out) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *t, (void **)&t));
    HX_TRY(hx_mem_alloc_array(vocab, sizeof *t->tokens, (void **)&t->tokens));
    for (int64_t i = 0; i < vocab; i++) t->tokens[i].n = -1;
    t->vocab = vocab;
    *out = t;
    t = NULL; /* handed on */
    return HX_OK;
}

hx_status hx_tokenizer_bytes(hx_tokenizer **out) {
    hx_tokenizer *t;
    HX_TRY(hx__tokenizer_create(0, &t));
    t->vocab = 256;
    t->is_bytes = true;
    *out = t;
    return HX_OK;
}

void hx__added_free(hx__added **added, int64_t n_added) {
    for (int64_t i = 0; *added && i < n_added; i++) hx_mem_free((void **)&(*added)[i].text);
    hx_mem_free((void **)added);
}

void hx_tokenizer_close(hx_tokenizer **tokenizer) {
    hx_tokenizer *t = *tokenizer;
    if (!t) return;
    hx__pattern_free(&t->pattern);
    hx__added_free(&t->added, t->n_added);
    hx_mem_free((void **)&t->slots);
    hx_mem_free((void **)&t->merges);
    hx_mem_free((void **)&t->words);
    hx_mem_free((void **)&t->bytes);
    hx_mem_free((void **)&t->tokens);
    hx_mem_free((void **)tokenizer);
}

/* Slot of a word, or the free one where it would be. */
static int32_t *word_slot(const hx_tokenizer *t, const void *bytes, size_t n_bytes) {
    for (uint64_t i = XXH3_64bits(bytes, n_bytes);; i++) {
        int32_t *slot = &t->words[i & t->words_mask];
        if (*slot < 0) return slot;
        const hx__token *token = &t->tokens[*slot];
        if ((size_t)token->n == n_bytes && memcmp(t->bytes + token->at, bytes, n_bytes) == 0) return slot;
    }
}

hx_status hx__tokenizer_put(hx_tokenizer *t, int64_t id, const void *bytes, size_t n_bytes, bool in_vocab, bool is_word) {
    HX_TRY(hx_mem_grow((void **)&t->bytes, &t->bytes_capacity, t->n_bytes + (int64_t)n_bytes, 1));
    if (n_bytes > 0) memcpy(t->bytes + t->n_bytes, bytes, n_bytes);
    t->tokens[id] = (hx__token){.at = t->n_bytes, .n = (int32_t)n_bytes, .in_vocab = in_vocab, .is_word = is_word};
    t->n_bytes += (int64_t)n_bytes;
    if (t->words && is_word && n_bytes > 0) *word_slot(t, bytes, n_bytes) = (int32_t)id;
    return HX_OK;
}

int32_t hx__tokenizer_find(const hx_tokenizer *t, const void *bytes, size_t n_bytes) { return *word_slot(t, bytes, n_bytes); }

hx_status hx__tokenizer_index(hx_tokenizer *t, const char *source) {
    int64_t size = table_size(t->vocab);
    HX_TRY(hx_mem_alloc_array(size, sizeof *t->words, (void **)&t->words));
    memset(t->words, 0xff, (size_t)size * sizeof *t->words);
    t->words_mask = (uint64_t)size - 1;
    for (int64_t id = 0; id < t->vocab; id++) {
        const hx__token *token = &t->tokens[id];
        if (token->n > 0 && token->is_word) *word_slot(t, t->bytes + token->at, (size_t)token->n) = (int32_t)id;
    }
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        t->byte_ids[i] = hx__tokenizer_find(t, &byte, 1);
        if (t->byte_ids[i] < 0) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: byte 0x%02x has no token: expected a byte-level vocabulary", source, i);
    }
    return HX_OK;
}

hx_status hx__tokenizer_set_merges(hx_tokenizer *t, hx__merge *merges, int64_t n, const char *source) {
    int64_t size = table_size(n);
    t->merges = merges;
    t->n_merges = n;
    HX_TRY(hx_mem_alloc_array(size, sizeof *t->slots, (void **)&t->slots));
    t->slots_mask = (uint64_t)size - 1;
    t->slots_shift = 64 - __builtin_ctzll((uint64_t)size);
    for (int64_t i = 0; i < size; i++) t->slots[i].rank = -1;
    for (int64_t rank = 0; rank < n; rank++) {
        const hx__merge *m = &merges[rank];
        const hx__merge_slot *same = hx__merge_find(t, m->left, m->right);
        if (same) return HX_FAIL(HX_ERR_FORMAT, "%s: merges %d and %lld, from 0, are the same", source, same->rank, (long long)rank);
        uint64_t key = (uint64_t)(uint32_t)m->left << 32 | (uint32_t)m->right, i = key * 0x9e3779b97f4a7c15u >> t->slots_shift;
        while (t->slots[i & t->slots_mask].rank >= 0) i++;
        t->slots[i & t->slots_mask] = (hx__merge_slot){.key = key, .rank = (int32_t)rank, .id = m->id};
    }
    return HX_OK;
}

/* ---- the last step: added tokens and the hash ---- */

static int compare_added(const void *a, const void *b) {
    const hx__added *x = a, *y = b;
    if (x->normalized != y->normalized) return x->normalized ? 1 : -1;
    size_t n = x->n_bytes < y->n_bytes ? x->n_bytes : y->n_bytes;
    int order = memcmp(x->text, y->text, n);
    return order != 0 ? order : (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static void hash_number(XXH3_state_t *state, int64_t number) { XXH3_64bits_update(state, &number, sizeof number); }

static void hash_bytes(XXH3_state_t *state, const void *bytes, int64_t n_bytes) {
    hash_number(state, n_bytes);
    if (n_bytes > 0) XXH3_64bits_update(state, bytes, (size_t)n_bytes);
}

/* Numbers as they lie in the memory of a little-endian machine. What is special is of no matter to ids; which tokens are looked for first
 * is, if there are both kinds. */
static hx_status compute_hash(hx_tokenizer *t) {
    XXH3_state_t *state = XXH3_createState();
    if (!state) return HX_FAIL(HX_ERR_MEMORY, "XXH3 has no memory");
    bool has_both = t->n_raw > 0 && t->n_raw < t->n_added;
    XXH3_64bits_reset(state);
    hash_number(state, 1); /* of this list */
    hash_number(state, t->prefix_space | t->ignore_merges << 1);
    hash_bytes(state, t->pattern.text, t->pattern.text ? (int64_t)strlen(t->pattern.text) : -1);
    hash_number(state, t->vocab);
    for (int64_t i = 0; i < t->vocab; i++) hash_bytes(state, t->tokens[i].n > 0 ? t->bytes + t->tokens[i].at : NULL, t->tokens[i].n);
    hash_bytes(state, t->merges, t->n_merges * (int64_t)sizeof *t->merges);
    for (int64_t i = 0; i < t->n_added; i++) {
        const hx__added *a = &t->added[i];
        hash_number(state, a->id);
        hash_number(state, a->single_word | a->lstrip << 1 | a->rstrip << 2 | (has_both && a->normalized) << 3);
    }
    t->hash = XXH3_64bits_digest(state);
    if (t->hash == 0) t->hash = 1; /* 0 is that of bytes */
    XXH3_freeState(state);
    return HX_OK;
}

hx_status hx__tokenizer_finish(hx_tokenizer *t, hx__added *added, int64_t n_added, const char *source) {
    t->added = added;
    t->n_added = n_added;
    if (n_added > 1) qsort(added, (size_t)n_added, sizeof *added, compare_added);
    for (int64_t i = 0; i < n_added; i++) {
        t->n_raw += !added[i].normalized;
        if (i > 0 && compare_added(&added[i - 1], &added[i]) == 0)
            return HX_FAIL(HX_ERR_FORMAT, "%s: added token '%.100s' is there twice", source, added[i].text);
    }
    return compute_hash(t);
}

/* ---- asking ---- */

int64_t hx_tokenizer_vocab(const hx_tokenizer *t) { return t->vocab; }

uint64_t hx_tokenizer_hash(const hx_tokenizer *t) { return t->hash; }

void hx_tokenizer_id_get(const hx_tokenizer *t, hx_tokenizer_id *out) {
    *out = (hx_tokenizer_id){.kind = t->is_bytes ? HX_TOKENIZER_BYTES : HX_TOKENIZER_BPE, .vocab = t->vocab, .hash = t->hash};
}

bool hx_tokenizer_id_fits(const hx_tokenizer_id *a, const hx_tokenizer_id *b) {
    return a->kind == HX_TOKENIZER_UNKNOWN || b->kind == HX_TOKENIZER_UNKNOWN || (a->kind == b->kind && a->hash == b->hash);
}

const char *hx_tokenizer_id_text(const hx_tokenizer_id *id, char text[HX_TOKENIZER_ID_TEXT]) {
    if (id->kind == HX_TOKENIZER_BPE)
        snprintf(text, HX_TOKENIZER_ID_TEXT, "byte-level BPE of %lld ids (hash %016llx)", (long long)id->vocab, (unsigned long long)id->hash);
    else
        snprintf(text, HX_TOKENIZER_ID_TEXT, "%s", id->kind == HX_TOKENIZER_BYTES ? "bytes" : "not known");
    return text;
}

int32_t hx_tokenizer_special(const hx_tokenizer *t, const char *text) {
    for (int64_t i = 0; i < t->n_added; i++)
        if (t->added[i].special && strcmp(t->added[i].text, text) == 0) return t->added[i].id;
    return -1;
}

void hx_tokenizer_info_get(const hx_tokenizer *t, hx_tokenizer_info *out) {
    *out = (hx_tokenizer_info){.split = t->pattern.text, .n_merges = t->n_merges, .n_added = t->n_added, .is_bytes = t->is_bytes,
                               .has_prefix_space = t->prefix_space, .ignores_merges = t->ignore_merges};
}

const char *hx_tokenizer_added(const hx_tokenizer *t, int64_t i, int32_t *id, bool *is_special) {
    *id = t->added[i].id;
    *is_special = t->added[i].special;
    return t->added[i].text;
}

hx_status hx_decode(const hx_tokenizer *t, const int32_t *ids, int64_t n, hx_text *text) {
    int64_t before = text->n;
    for (int64_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)ids[i];
        if (ids[i] < 0 || ids[i] >= t->vocab || (!t->is_bytes && t->tokens[ids[i]].n < 0)) {
            text->n = before;
            return HX_FAIL(HX_ERR_ARG, "id %d at position %lld stands for nothing: the tokenizer has ids 0 to %lld", ids[i], (long long)i,
                           (long long)t->vocab - 1);
        }
        const void *bytes = t->is_bytes ? (const void *)&byte : t->bytes + t->tokens[ids[i]].at;
        int64_t n_bytes = t->is_bytes ? 1 : t->tokens[ids[i]].n;
        if (text->n + n_bytes > text->capacity) HX_TRY(hx_mem_grow((void **)&text->bytes, &text->capacity, text->n + n_bytes, 1));
        memcpy(text->bytes + text->n, bytes, (size_t)n_bytes);
        text->n += n_bytes;
    }
    return HX_OK;
}

void hx_ids_destroy(hx_ids *ids) {
    hx_mem_free((void **)&ids->ids);
    *ids = (hx_ids){0};
}

void hx_text_destroy(hx_text *text) {
    hx_mem_free((void **)&text->bytes);
    *text = (hx_text){0};
}

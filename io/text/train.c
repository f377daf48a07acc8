/* Learning merges (Sennrich et al. 2016, algorithm 1) from counted words.
 *
 * 1. Words are rows of symbols in one array, bytes at first. For each pair of neighbours: its count, and the words that it was seen in.
 * 2. A heap gives the pair of the highest count. Counts only fall once a pair is there, but for pairs with the newest token, so that an
 *    entry that is too high goes back with the count of now.
 * 3. The pair is merged in its words, from the left; the counts of the pairs beside it change; a new pair gets its words.
 * Two merges may make the same bytes ("ab" "c", "a" "bc"): they make the same token then. */
#include <string.h>

#include "core/base/mem.h"
#include "core/base/threads.h"
#include "io/text/tokenizer_impl.h"

#define VOCAB_MOST   (1 << 24)
#define WATCH_EVERY  256 /* merges */

/* A word whose pairs are to be looked at again; a pair's are a list. */
typedef struct place {
    int32_t word, next; /* -1: none */
} place;

typedef struct pair {
    int32_t left, right; /* left -1: free */
    int32_t first;       /* of its places */
    int32_t made_by;     /* number of the last merge that made it, from 1; 0: there from the start */
    int64_t count;
} pair;

typedef struct best {
    int64_t count;
    int32_t left, right;
} best;

typedef struct learner {
    int32_t *symbols; /* [n_symbols] */
    int64_t *begins;  /* [n_words] in symbols */
    int32_t *lengths; /* [n_words] */
    int64_t *counts;  /* [n_words] */
    int64_t n_words;
    pair *pairs; /* [pairs_mask + 1] open addressing */
    uint64_t pairs_mask;
    int64_t n_pairs;
    place *places;
    int64_t n_places, places_capacity;
    int32_t free_place; /* list of those no longer needed; -1: none */
    best *heap;
    int64_t n_heap, heap_capacity;
    int32_t n_merges;
    pair *fresh; /* pairs that the last merge made: left and right only */
    int64_t n_fresh, fresh_capacity;
} learner;

static void learner_free(learner *l) {
    void **owned[] = {(void **)&l->symbols, (void **)&l->begins, (void **)&l->lengths, (void **)&l->counts, (void **)&l->pairs, (void **)&l->places,
                      (void **)&l->heap, (void **)&l->fresh};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
}

/* ---- the heap: most often first, then the lower ids ---- */

static bool is_before(const best *a, const best *b) {
    if (a->count != b->count) return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static hx_status push(learner *l, best item) {
    HX_TRY(hx_mem_grow((void **)&l->heap, &l->heap_capacity, l->n_heap + 1, sizeof *l->heap));
    int64_t i = l->n_heap++;
    for (; i > 0 && is_before(&item, &l->heap[(i - 1) / 2]); i = (i - 1) / 2) l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = item;
    return HX_OK;
}

static best pop(learner *l) {
    best top = l->heap[0], last = l->heap[--l->n_heap];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < l->n_heap; i = child) {
        if (child + 1 < l->n_heap && is_before(&l->heap[child + 1], &l->heap[child])) child++;
        if (!is_before(&l->heap[child], &last)) break;
        l->heap[i] = l->heap[child];
    }
    l->heap[i] = last;
    return top;
}

/* ---- pairs ---- */

static pair *pair_slot(const pair *pairs, uint64_t mask, int32_t left, int32_t right) {
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    for (uint64_t i = hash >> 32;; i++) {
        const pair *p = &pairs[i & mask];
        if (p->left < 0 || (p->left == left && p->right == right)) return (pair *)p;
    }
}

static hx_status grow_pairs(learner *l) {
    int64_t size = l->pairs ? 2 * ((int64_t)l->pairs_mask + 1) : 1 << 16;
    pair *grown;
    if (size > INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "more than %d different pairs", INT32_MAX / 4);
    HX_TRY(hx_mem_alloc_array(size, sizeof *grown, (void **)&grown));
    for (int64_t i = 0; i < size; i++) grown[i].left = -1;
    for (uint64_t i = 0; l->pairs && i <= l->pairs_mask; i++) {
        const pair *p = &l->pairs[i];
        if (p->left >= 0) *pair_slot(grown, (uint64_t)size - 1, p->left, p->right) = *p;
    }
    hx_mem_free((void **)&l->pairs);
    l->pairs = grown;
    l->pairs_mask = (uint64_t)size - 1;
    return HX_OK;
}

static hx_status add_place(learner *l, pair *p, int32_t word) {
    if (p->first >= 0 && l->places[p->first].word == word) return HX_OK; /* words come one after the other */
    int32_t at = l->free_place;
    if (at >= 0) {
        l->free_place = l->places[at].next;
    } else {
        if (l->n_places == INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "words have more than %d different pairs", INT32_MAX);
        HX_TRY(hx_mem_grow((void **)&l->places, &l->places_capacity, l->n_places + 1, sizeof *l->places));
        at = (int32_t)l->n_places++;
    }
    l->places[at] = (place){.word = word, .next = p->first};
    p->first = at;
    return HX_OK;
}

/* `word` has the pair, as often as the word comes. */
static hx_status gain(learner *l, int32_t left, int32_t right, int32_t word) {
    if (2 * (uint64_t)l->n_pairs >= l->pairs_mask) HX_TRY(grow_pairs(l));
    pair *p = pair_slot(l->pairs, l->pairs_mask, left, right);
    if (p->left < 0) {
        *p = (pair){.left = left, .right = right, .first = -1};
        l->n_pairs++;
    }
    p->count += l->counts[word];
    return add_place(l, p, word);
}

static void lose(learner *l, int32_t left, int32_t right, int32_t word) { pair_slot(l->pairs, l->pairs_mask, left, right)->count -= l->counts[word]; }

/* ---- set-up ---- */

static hx_status take_words(learner *l, const hx__counts *counted, const hx_tokenizer *t) {
    int64_t n_symbols = 0, n = 0;
    if (counted->n > INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "%lld different words: expected at most %d", (long long)counted->n, INT32_MAX);
    for (uint64_t i = 0; counted->slots && i <= counted->mask; i++)
        if (counted->slots[i].word) n_symbols += counted->slots[i].n_bytes;
    HX_TRY(hx_mem_alloc_array(n_symbols, sizeof *l->symbols, (void **)&l->symbols));
    HX_TRY(hx_mem_alloc_array(counted->n, sizeof *l->begins, (void **)&l->begins));
    HX_TRY(hx_mem_alloc_array(counted->n, sizeof *l->lengths, (void **)&l->lengths));
    HX_TRY(hx_mem_alloc_array(counted->n, sizeof *l->counts, (void **)&l->counts));
    for (uint64_t i = 0; counted->slots && i <= counted->mask; i++) {
        const hx__counted *c = &counted->slots[i];
        if (!c->word) continue;
        l->begins[l->n_words] = n;
        l->lengths[l->n_words] = (int32_t)c->n_bytes;
        l->counts[l->n_words++] = c->count;
        for (int64_t k = 0; k < c->n_bytes; k++) l->symbols[n++] = t->byte_ids[c->word[k]];
    }
    return HX_OK;
}

static hx_status count_pairs(learner *l) {
    HX_TRY(grow_pairs(l));
    for (int32_t w = 0; w < l->n_words; w++) {
        const int32_t *s = l->symbols + l->begins[w];
        for (int32_t i = 0; i + 1 < l->lengths[w]; i++) HX_TRY(gain(l, s[i], s[i + 1], w));
    }
    for (uint64_t i = 0; i <= l->pairs_mask; i++) {
        const pair *p = &l->pairs[i];
        if (p->left >= 0) HX_TRY(push(l, (best){.count = p->count, .left = p->left, .right = p->right}));
    }
    return HX_OK;
}

/* ---- a merge ---- */

static hx_status gain_fresh(learner *l, int32_t left, int32_t right, int32_t word) {
    HX_TRY(gain(l, left, right, word));
    pair *p = pair_slot(l->pairs, l->pairs_mask, left, right);
    if (p->made_by == l->n_merges) return HX_OK;
    p->made_by = l->n_merges;
    HX_TRY(hx_mem_grow((void **)&l->fresh, &l->fresh_capacity, l->n_fresh + 1, sizeof *l->fresh));
    l->fresh[l->n_fresh++] = *p;
    return HX_OK;
}

/* "x left right y" becomes "x id y" wherever it stands in the word. What is written lies left of what is read. */
static hx_status merge_in_word(learner *l, int32_t word, const hx__merge *m) {
    int32_t *s = l->symbols + l->begins[word], n = l->lengths[word], out = 0;
    for (int32_t i = 0; i < n; i++) {
        if (i + 1 == n || s[i] != m->left || s[i + 1] != m->right) {
            s[out++] = s[i];
            continue;
        }
        if (out > 0) {
            lose(l, s[out - 1], m->left, word);
            HX_TRY(gain_fresh(l, s[out - 1], m->id, word));
        }
        if (i + 2 < n) {
            lose(l, m->right, s[i + 2], word);
            HX_TRY(gain_fresh(l, m->id, s[i + 2], word));
        }
        s[out++] = m->id;
        i++;
    }
    l->lengths[word] = out;
    return HX_OK;
}

/* Its places go back to the free ones. */
static hx_status merge_everywhere(learner *l, const hx__merge *m) {
    int32_t at = pair_slot(l->pairs, l->pairs_mask, m->left, m->right)->first;
    l->n_fresh = 0;
    l->n_merges++;
    while (at >= 0) {
        place p = l->places[at];
        HX_TRY(merge_in_word(l, p.word, m));
        l->places[at].next = l->free_place;
        l->free_place = at;
        at = p.next;
    }
    pair *merged = pair_slot(l->pairs, l->pairs_mask, m->left, m->right); /* the table may have grown */
    merged->count = 0;
    merged->first = -1;
    for (int64_t i = 0; i < l->n_fresh; i++) {
        const pair *p = pair_slot(l->pairs, l->pairs_mask, l->fresh[i].left, l->fresh[i].right);
        if (p->count > 0) HX_TRY(push(l, (best){.count = p->count, .left = p->left, .right = p->right}));
    }
    return HX_OK;
}

/* ---- learning ---- */

/* Id of what a pair makes: of the token with these bytes, or a new one, *n_tokens. */
static hx_status make_token(hx_tokenizer *t, int32_t left, int32_t right, int64_t *n_tokens, int32_t *out) {
    const hx__token l = t->tokens[left], r = t->tokens[right];
    char *bytes;
    HX_TRY(hx_mem_alloc((size_t)l.n + (size_t)r.n, (void **)&bytes));
    memcpy(bytes, t->bytes + l.at, (size_t)l.n);
    memcpy(bytes + l.n, t->bytes + r.at, (size_t)r.n);
    hx_status status = HX_OK;
    *out = hx__tokenizer_find(t, bytes, (size_t)l.n + (size_t)r.n);
    if (*out < 0) {
        *out = (int32_t)*n_tokens;
        status = hx__tokenizer_put(t, (*n_tokens)++, bytes, (size_t)l.n + (size_t)r.n, true, true);
    }
    hx_mem_free((void **)&bytes);
    return status;
}

/* @param n_tokens  256 in; the bytes and what the merges make out */
static hx_status learn(learner *l, hx_tokenizer *t, int64_t n_wanted, hx_train_watch watch, void *self, hx__merges *list, int64_t *n_tokens) {
    HX_TRY(count_pairs(l));
    while (*n_tokens < n_wanted && l->n_heap > 0) {
        best top = pop(l);
        int64_t count = pair_slot(l->pairs, l->pairs_mask, top.left, top.right)->count;
        if (count != top.count) {
            if (count > 0) HX_TRY(push(l, (best){.count = count, .left = top.left, .right = top.right}));
            continue;
        }
        hx__merge m = {.left = top.left, .right = top.right};
        HX_TRY(make_token(t, m.left, m.right, n_tokens, &m.id));
        HX_TRY(hx__merges_add(list, &m));
        HX_TRY(merge_everywhere(l, &m));
        if (watch && (list->n % WATCH_EVERY == 0 || *n_tokens == n_wanted)) watch(self, HX_TRAIN_MERGE, *n_tokens - 256, n_wanted - 256);
    }
    return HX_OK;
}

static hx_status learn_words(const hx__counts *counted, hx_tokenizer *t, int64_t n_wanted, hx_train_watch watch, void *self, hx__merges *list,
                             int64_t *n_tokens) {
    HX_CLEANUP(learner_free) learner l = {.free_place = -1};
    HX_TRY(take_words(&l, counted, t));
    return learn(&l, t, n_wanted, watch, self, list, n_tokens);
}

/* ---- the whole ---- */

static hx_status put_bytes(hx_tokenizer *t) {
    HX_TRY(hx__pattern_compile(HX_GPT2_PATTERN, "train", &t->pattern));
    for (int64_t id = 0; id < 256; id++) {
        uint8_t byte = (uint8_t)hx__byte_ranked((int)id);
        HX_TRY(hx__tokenizer_put(t, id, &byte, 1, true, true));
    }
    return hx__tokenizer_index(t, "train");
}

static hx_status finish(hx_tokenizer *t, int64_t n_tokens, hx__merges *list) {
    static const char end[] = HX_END_OF_TEXT;
    hx__added *added;
    hx__merge *merges = list->items;
    t->vocab = n_tokens + 1;
    HX_TRY(hx__tokenizer_put(t, n_tokens, end, strlen(end), true, true));
    list->items = NULL; /* handed on */
    HX_TRY(hx__tokenizer_set_merges(t, merges, list->n, "train"));
    HX_TRY(hx_mem_alloc_array(1, sizeof *added, (void **)&added));
    *added = (hx__added){.n_bytes = strlen(end), .id = (int32_t)n_tokens, .special = true};
    hx_status status = hx_mem_strdup(end, &added->text);
    if (status != HX_OK) {
        hx__added_free(&added, 1);
        return status;
    }
    return hx__tokenizer_finish(t, added, 1, "train");
}

hx_status hx_tokenizer_train(const char *const *files, int n_files, int64_t vocab, int n_threads, hx_train_watch watch, void *self,
                             hx_tokenizer **out) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    HX_CLEANUP(hx__counts_free) hx__counts counted = {0};
    HX_CLEANUP(hx__merges_free) hx__merges list = {0};
    int64_t n_tokens = 256;
    if (vocab < 257 || vocab > VOCAB_MOST)
        return HX_FAIL(HX_ERR_ARG, "a vocabulary of %lld: expected 257 (bytes and " HX_END_OF_TEXT ") to %d", (long long)vocab, VOCAB_MOST);
    if (n_threads < 0 || n_threads > HX__TRAIN_THREADS_MOST)
        return HX_FAIL(HX_ERR_ARG, "%d threads: expected 0 (all cores) to %d", n_threads, HX__TRAIN_THREADS_MOST);
    if (n_files < 1) return HX_FAIL(HX_ERR_ARG, "%d files: expected 1 and more", n_files);
    HX_TRY(hx__tokenizer_create(vocab, &t));
    HX_TRY(put_bytes(t));
    HX_TRY(hx__count_files(files, n_files, n_threads > 0 ? n_threads : hx_usable_cores(), &t->pattern, watch, self, &counted));
    HX_TRY(learn_words(&counted, t, vocab - 1, watch, self, &list, &n_tokens));
    HX_TRY(finish(t, n_tokens, &list));
    *out = t;
    t = NULL; /* handed on */
    return HX_OK;
}

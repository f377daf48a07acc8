/* Text to ids: added tokens first, words between them, merges within a word.
 *
 * A word's merges are made in the order of their ranks, and at the same rank from the left. A short word is searched through for its
 * lowest rank each time; a long one keeps ranks and places in a heap: O(n log n). Short words are kept with their ids in a table of fixed
 * size, where a new one takes the place of an old one: texts repeat few words most of the time. */
#include <string.h>
#include <xxhash.h>

#include "core/base/mem.h"
#include "io/text/tokenizer_impl.h"

#define CACHE_SLOTS 65536 /* 4 MiB: what a core's second and third level hold */
#define WORD_MOST   30    /* bytes, and ids, of a word that is kept: a slot is one cache line */
#define IDS_MOST    8
#define SHORT_MOST  48 /* bytes of a word that is searched through */
#define NO_RANK     INT32_MAX

typedef struct cached {
    uint8_t n_bytes; /* 0: free */
    uint8_t n_ids;
    uint8_t word[WORD_MOST];
    int32_t ids[IDS_MOST];
} cached;

/* A long word under way: a list of symbols, each named by where it begins. */
typedef struct symbol {
    int32_t id;
    int32_t left, right; /* neighbours; -1: none. right = GONE: merged into another */
    int32_t rank, merged; /* of it with its right neighbour */
} symbol;
#define GONE (-2)

/* Added tokens of one kind, by their bytes. */
typedef struct kind {
    const hx__added *added; /* [n] */
    int64_t n;
    bool begins[256]; /* first bytes */
} kind;

struct hx_encoder {
    const hx_tokenizer *t;
    kind kinds[2]; /* the second is looked for where the first was not found */
    hx__splitter splitter;
    hx__class white, wordy; /* white space; parts of words. Empty: no added token asks */
    cached *cache;    /* [CACHE_SLOTS] */
    symbol *symbols;  /* [n of a long word] */
    uint64_t *heap;   /* [2 n] rank << 32 | place */
    uint8_t *spaced;  /* a text with a space before it */
    int64_t symbols_capacity, heap_capacity, spaced_capacity;
    hx_ids *ids; /* of the call under way */
};

/* ---- making ---- */

hx_status hx_encoder_create(const hx_tokenizer *tokenizer, hx_encoder **out) {
    HX_CLEANUP(hx_encoder_destroy) hx_encoder *e = NULL;
    bool asks = false;
    HX_TRY(hx_mem_alloc_array(1, sizeof *e, (void **)&e));
    e->t = tokenizer;
    if (tokenizer->n_added > 0) {
        e->kinds[0] = (kind){.added = tokenizer->added, .n = tokenizer->n_raw};
        e->kinds[1] = (kind){.added = tokenizer->added + tokenizer->n_raw, .n = tokenizer->n_added - tokenizer->n_raw};
    }
    for (int64_t i = 0; i < tokenizer->n_added; i++) {
        const hx__added *a = &tokenizer->added[i];
        e->kinds[a->normalized].begins[(uint8_t)a->text[0]] = true;
        asks |= a->single_word | a->lstrip | a->rstrip;
    }
    if (asks) {
        HX_TRY(hx__class_compile("\\p{White_Space}", &e->white));
        HX_TRY(hx__class_compile("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]", &e->wordy));
    }
    if (!tokenizer->is_bytes) {
        HX_TRY(hx__splitter_init(&tokenizer->pattern, &e->splitter));
        HX_TRY(hx_mem_alloc_array(CACHE_SLOTS, sizeof *e->cache, (void **)&e->cache));
    }
    *out = e;
    e = NULL; /* handed on */
    return HX_OK;
}

void hx_encoder_destroy(hx_encoder **encoder) {
    hx_encoder *e = *encoder;
    if (!e) return;
    hx_mem_free((void **)&e->spaced);
    hx_mem_free((void **)&e->heap);
    hx_mem_free((void **)&e->symbols);
    hx_mem_free((void **)&e->cache);
    hx__class_free(&e->wordy);
    hx__class_free(&e->white);
    hx__splitter_free(&e->splitter);
    hx_mem_free((void **)encoder);
}

/* ---- a short word ---- */

static void find_rank(const hx_tokenizer *t, int32_t left, int32_t right, int32_t *rank, int32_t *merged) {
    const hx__merge_slot *m = hx__merge_find(t, left, right);
    *rank = m ? m->rank : NO_RANK;
    *merged = m ? m->id : -1;
}

/* @param ids [n]. Returns how many are left. */
static int merge_short(const hx_tokenizer *t, int32_t *ids, int n) {
    int32_t rank[SHORT_MOST], merged[SHORT_MOST];
    for (int i = 0; i + 1 < n; i++) find_rank(t, ids[i], ids[i + 1], &rank[i], &merged[i]);
    while (n > 1) {
        int best = 0;
        for (int i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        ids[best] = merged[best];
        n--;
        size_t n_after = (size_t)(n - best - 1);
        memmove(ids + best + 1, ids + best + 2, n_after * sizeof *ids);
        memmove(rank + best, rank + best + 1, n_after * sizeof *rank);
        memmove(merged + best, merged + best + 1, n_after * sizeof *merged);
        if (best > 0) find_rank(t, ids[best - 1], ids[best], &rank[best - 1], &merged[best - 1]);
        if (best + 1 < n) find_rank(t, ids[best], ids[best + 1], &rank[best], &merged[best]);
    }
    return n;
}

/* ---- a long word ---- */

static void sink(uint64_t *heap, int64_t n, int64_t i) {
    uint64_t key = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (key <= heap[child]) break;
        heap[i] = heap[child];
    }
    heap[i] = key;
}

static void push(uint64_t *heap, int64_t *n, uint64_t key) {
    int64_t i = (*n)++;
    for (; i > 0 && key < heap[(i - 1) / 2]; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = key;
}

static uint64_t pop(uint64_t *heap, int64_t *n) {
    uint64_t key = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0) sink(heap, *n, 0);
    return key;
}

static uint64_t heap_key(int32_t rank, int32_t place) { return (uint64_t)(uint32_t)rank << 32 | (uint32_t)place; }

/* Rank of the symbol at `place` with its right neighbour, NO_RANK at the end. */
static void rank_symbol(hx_encoder *e, int32_t place) {
    symbol *s = &e->symbols[place];
    if (s->right < 0) {
        s->rank = NO_RANK;
    } else {
        find_rank(e->t, s->id, e->symbols[s->right].id, &s->rank, &s->merged);
    }
}

/* The symbol at `place` takes up its right neighbour. */
static void take_right(hx_encoder *e, int32_t place, int64_t *n_heap) {
    symbol *s = &e->symbols[place], *right = &e->symbols[s->right];
    s->id = s->merged;
    s->right = right->right;
    right->right = GONE;
    if (s->right >= 0) e->symbols[s->right].left = place;
    rank_symbol(e, place);
    if (s->rank != NO_RANK) push(e->heap, n_heap, heap_key(s->rank, place));
    if (s->left < 0) return;
    rank_symbol(e, s->left);
    if (e->symbols[s->left].rank != NO_RANK) push(e->heap, n_heap, heap_key(e->symbols[s->left].rank, s->left));
}

/* @param ids [n] bytes' ids in, the word's ids out. A merge adds two entries to the heap at most and takes one symbol, and the one that led
 * to it has left: 2 n are never exceeded. */
static hx_status merge_long(hx_encoder *e, int32_t *ids, int64_t n, int64_t *n_ids) {
    int64_t n_heap = 0;
    if (n > INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "a word of %lld bytes: expected at most %d", (long long)n, INT32_MAX);
    HX_TRY(hx_mem_grow((void **)&e->symbols, &e->symbols_capacity, n, sizeof *e->symbols));
    HX_TRY(hx_mem_grow((void **)&e->heap, &e->heap_capacity, 2 * n, sizeof *e->heap));
    for (int32_t i = 0; i < n; i++) e->symbols[i] = (symbol){.id = ids[i], .left = i - 1, .right = i + 1 < n ? i + 1 : -1};
    for (int32_t i = 0; i < n; i++) {
        rank_symbol(e, i);
        if (e->symbols[i].rank != NO_RANK) e->heap[n_heap++] = heap_key(e->symbols[i].rank, i);
    }
    for (int64_t i = n_heap / 2 - 1; i >= 0; i--) sink(e->heap, n_heap, i);
    while (n_heap > 0) {
        uint64_t key = pop(e->heap, &n_heap);
        int32_t place = (int32_t)(uint32_t)key;
        const symbol *s = &e->symbols[place];
        if (s->right >= 0 && s->rank == (int32_t)(key >> 32)) take_right(e, place, &n_heap); /* else its pair is gone */
    }
    *n_ids = 0;
    for (int32_t i = 0; i >= 0; i = e->symbols[i].right) ids[(*n_ids)++] = e->symbols[i].id;
    return HX_OK;
}

/* ---- a word ---- */

/* Append the ids of a word that is not in the cache. */
static hx_status merge_word(hx_encoder *e, const uint8_t *word, size_t n) {
    const hx_tokenizer *t = e->t;
    int32_t *ids = e->ids->ids + e->ids->n, whole = t->ignore_merges ? hx__tokenizer_find(t, word, n) : -1;
    int64_t n_ids = 1;
    if (whole >= 0) {
        ids[0] = whole;
    } else {
        for (size_t i = 0; i < n; i++) ids[i] = t->byte_ids[word[i]];
        if (n <= SHORT_MOST) {
            n_ids = merge_short(t, ids, (int)n);
        } else {
            HX_TRY(merge_long(e, ids, (int64_t)n, &n_ids));
        }
    }
    e->ids->n += n_ids;
    return HX_OK;
}

static hx_status encode_word(void *arg, const uint8_t *word, size_t n) {
    hx_encoder *e = arg;
    hx_ids *ids = e->ids;
    int64_t room = (int64_t)n > IDS_MOST ? (int64_t)n : IDS_MOST;
    if (ids->capacity - ids->n < room) HX_TRY(hx_mem_grow((void **)&ids->ids, &ids->capacity, ids->n + room, sizeof *ids->ids));
    if (n > WORD_MOST) return merge_word(e, word, n);
    cached *slot = &e->cache[XXH3_64bits(word, n) % CACHE_SLOTS];
    if (slot->n_bytes == n && memcmp(slot->word, word, n) == 0) {
        memcpy(ids->ids + ids->n, slot->ids, sizeof slot->ids); /* all of them: faster than as many as there are */
        ids->n += slot->n_ids;
        return HX_OK;
    }
    int64_t begin = ids->n;
    HX_TRY(merge_word(e, word, n));
    if (ids->n - begin > IDS_MOST) return HX_OK;
    slot->n_bytes = (uint8_t)n;
    slot->n_ids = (uint8_t)(ids->n - begin);
    memcpy(slot->word, word, n);
    memcpy(slot->ids, ids->ids + begin, (size_t)slot->n_ids * sizeof *slot->ids);
    return HX_OK;
}

/* Text between added tokens. */
static hx_status encode_plain(hx_encoder *e, const uint8_t *text, size_t n) {
    if (!e->t->prefix_space || n == 0 || text[0] == ' ') return hx__split(&e->splitter, text, n, encode_word, e);
    HX_TRY(hx_mem_grow((void **)&e->spaced, &e->spaced_capacity, (int64_t)n + 1, 1));
    e->spaced[0] = ' ';
    memcpy(e->spaced + 1, text, n);
    return hx__split(&e->splitter, e->spaced, n + 1, encode_word, e);
}

/* ---- added tokens ---- */

/* First of added[low, high), which agree in `depth` bytes and have more, whose next byte is at least c. */
static int64_t lower(const hx__added *added, int64_t low, int64_t high, size_t depth, int c) {
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if ((uint8_t)added[middle].text[depth] < c) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest one that begins here, NULL: none. */
static const hx__added *longest(const kind *k, const uint8_t *text, size_t n) {
    const hx__added *found = NULL;
    int64_t low = 0, high = k->n;
    for (size_t depth = 0; low < high; depth++) {
        if (k->added[low].n_bytes == depth) found = &k->added[low++]; /* the shorter ones come first */
        if (depth == n) break;
        int64_t begin = lower(k->added, low, high, depth, text[depth]);
        high = lower(k->added, begin, high, depth, text[depth] + 1);
        low = begin;
    }
    return found;
}

static bool stands_alone(const hx_encoder *e, const uint8_t *text, size_t n, size_t begin, size_t end) {
    return hx__char_before(&e->wordy, text, begin) == 0 && hx__char_of(&e->wordy, text + end, n - end) == 0;
}

/* The white space that a token takes with it, but not what the one before it has. */
static void widen(const hx_encoder *e, const hx__added *a, const uint8_t *text, size_t n, size_t least, size_t *begin, size_t *end) {
    size_t step;
    while (a->lstrip && *begin > least && (step = hx__char_before(&e->white, text, *begin)) > 0 && *begin - step >= least) *begin -= step;
    while (a->rstrip && (step = hx__char_of(&e->white, text + *end, n - *end)) > 0) *end += step;
}

static hx_status append(hx_ids *ids, int32_t id) {
    if (ids->n == ids->capacity) HX_TRY(hx_mem_grow((void **)&ids->ids, &ids->capacity, ids->n + 1, sizeof *ids->ids));
    ids->ids[ids->n++] = id;
    return HX_OK;
}

/* From the left, the longest first, as Hugging Face's Aho-Corasick automaton finds them: the search goes on behind a token's own text, also
 * where it was passed over. */
static hx_status encode_kind(hx_encoder *e, const kind *kinds, int n_kinds, const uint8_t *text, size_t n) {
    size_t done = 0;
    if (n_kinds == 0) return encode_plain(e, text, n);
    for (size_t at = 0; kinds->n > 0 && at < n;) {
        const hx__added *a = kinds->begins[text[at]] ? longest(kinds, text + at, n - at) : NULL;
        if (!a) {
            at++;
            continue;
        }
        size_t begin = at, end = at += a->n_bytes;
        if (a->single_word && !stands_alone(e, text, n, begin, end)) continue;
        widen(e, a, text, n, done, &begin, &end);
        if (a->lstrip && end <= done) continue; /* white space that the one before it has taken with it */
        if (begin > done) HX_TRY(encode_kind(e, kinds + 1, n_kinds - 1, text + done, begin - done));
        HX_TRY(append(e->ids, a->id));
        done = end;
    }
    return encode_kind(e, kinds + 1, n_kinds - 1, text + done, n - done);
}

static hx_status encode_bytes(const uint8_t *text, size_t n, hx_ids *ids) {
    HX_TRY(hx_mem_grow((void **)&ids->ids, &ids->capacity, ids->n + (int64_t)n, sizeof *ids->ids));
    for (size_t i = 0; i < n; i++) ids->ids[ids->n++] = text[i];
    return HX_OK;
}

hx_status hx_encode(hx_encoder *e, const char *text, size_t n_bytes, hx_ids *ids) {
    int64_t before = ids->n;
    if (e->t->is_bytes) return encode_bytes((const uint8_t *)text, n_bytes, ids);
    e->ids = ids;
    hx_status status = encode_kind(e, e->kinds, 2, (const uint8_t *)text, n_bytes);
    if (status != HX_OK) ids->n = before;
    return status;
}

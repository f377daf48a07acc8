/* Texts that are cut: the ids of the parts are those of the whole, for every pattern that cuts are known of. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/rng.h"
#include "io/text/tokenizer_impl.h"
#include "tests/support/expect.h"

#define GOLDEN    HELIX_TOKENIZER_FOLDER "/"
#define CONTRACTS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

static const char qwen2[] = CONTRACTS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char gpt4o[] = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" CONTRACTS "?|"
                            "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" CONTRACTS "?|"
                            "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static hx_tokenizer *opened(const char *path) {
    hx_tokenizer *t = NULL;
    OK(hx_tokenizer_open(path, &t));
    return t;
}

/* A golden file, changed. @param set  a key of `where` gets this value, which is consumed */
static hx_tokenizer *changed(json_t *root, json_t *where, const char *key, json_t *value) {
    char path[256];
    snprintf(path, sizeof path, "%.200s/helix-cut-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    const int fd = mkstemp(path);
    cr_assert(fd >= 0 && where && json_object_set_new(where, key, value) == 0);
    cr_assert_eq(json_dumpfd(root, fd, 0), 0);
    close(fd);
    hx_tokenizer *t = opened(path);
    unlink(path);
    json_decref(root);
    return t;
}

/* @param pattern  NULL: LLaMA 3's. Without the added tokens that hinder cuts, which the file has for other tests. */
static hx_tokenizer *with_pattern(const char *pattern) {
    json_t *root = json_load_file(GOLDEN "llama3.json", 0, NULL), *added = json_object_get(root, "added_tokens");
    for (size_t i = json_array_size(added); i-- > 0;) {
        const json_t *token = json_array_get(added, i);
        if (json_is_true(json_object_get(token, "lstrip")) || json_is_true(json_object_get(token, "rstrip"))) json_array_remove(added, i);
    }
    cr_assert_geq(json_array_size(added), 3);
    json_t *split = json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 0);
    json_t *where = json_object_get(split, "pattern");
    return changed(root, where, "Regex", pattern ? json_string(pattern) : json_deep_copy(json_object_get(where, "Regex")));
}

static hx_tokenizer *with_prefix(void) {
    json_t *root = json_load_file(GOLDEN "gpt2.json", 0, NULL);
    return changed(root, json_object_get(root, "pre_tokenizer"), "add_prefix_space", json_true());
}

static hx_tokenizer *with_added(const char *key, json_t *value) {
    json_t *root = json_load_file(GOLDEN "gpt2.json", 0, NULL);
    return changed(root, json_array_get(json_object_get(root, "added_tokens"), 0), key, value);
}

/* ---- the property ---- */

/* What patterns treat differently, newlines often. */
static const char *const units[] = {
    "\n", "\n", "\n", "\n\n", "\r\n", "\r", " ", "  ", "\t", "\v", "\xc2\x85", "\xc2\xa0", "\xe2\x80\xa8", "\xe3\x80\x80", "a", "the", "Zoo", "\xc5\xbf", "\xc3\xa9", "e\xcc\x81",
    "\xcc\x81", "\xe4\xb8\xad", "\xc7\x85", "\xca\xb0", "1", "12345", "\xd9\xa3", "'s", "'S", "'", "'ll", ".", "!?", "/", "//", "-", "\xf0\x9f\x98\x80", "\xe3\x80\x82", "\xff", "\xf0\x9f",
    "\xe4", "\x80", "\xc0\x8a", "<|endoftext|>", "<|end", "|>", "_"};
enum { N_UNITS = sizeof units / sizeof *units, TEXTS = 50000, UNITS_MOST = 24 };

static size_t random_text(uint64_t seed, char *text) {
    const hx_rng rng = {.seed = seed, .stream = 7};
    const uint32_t n = 1 + hx_rng_bits(rng, 0) % UNITS_MOST;
    size_t length = 0;
    for (uint32_t i = 0; i < n; i++) {
        const char *unit = units[hx_rng_bits(rng, i + 1) % N_UNITS];
        memcpy(text + length, unit, strlen(unit));
        length += strlen(unit);
    }
    return length;
}

/* Ends of words: they tell more than ids, which a small vocabulary may not join across a cut. */
typedef struct words {
    const uint8_t *text;
    size_t ends[UNITS_MOST * 16];
    int n;
} words;

static hx_status take_word(void *arg, const uint8_t *word, size_t n) {
    words *w = arg;
    w->ends[w->n++] = (size_t)(word + n - w->text);
    return HX_OK;
}

static void expect_same_words(hx__splitter *s, const char *text, size_t n, size_t at) {
    words whole = {.text = (const uint8_t *)text}, parts = {.text = (const uint8_t *)text};
    OK(hx__split(s, whole.text, n, take_word, &whole));
    OK(hx__split(s, parts.text, at, take_word, &parts));
    OK(hx__split(s, parts.text + at, n - at, take_word, &parts));
    cr_assert(whole.n == parts.n && memcmp(whole.ends, parts.ends, (size_t)whole.n * sizeof *whole.ends) == 0, "cut at byte %zu of %zu: other words of '%.*s' and '%.*s'", at, n,
              (int)at, text, (int)(n - at), text + at);
}

static void expect_same(hx_encoder *e, const char *text, size_t n, size_t at, const hx_ids *whole) {
    static hx_ids parts;
    parts.n = 0;
    OK(hx_encode(e, text, at, &parts));
    OK(hx_encode(e, text + at, n - at, &parts));
    cr_assert(parts.n == whole->n && memcmp(parts.ids, whole->ids, (size_t)whole->n * sizeof *whole->ids) == 0, "cut at byte %zu of %zu: other ids of '%.*s' and '%.*s'", at,
              n, (int)at, text, (int)(n - at), text + at);
}

/* Returns the number of cuts. */
static int64_t try_all(const hx_tokenizer *t) {
    char text[UNITS_MOST * 16];
    hx_encoder *e;
    hx__splitter splitter;
    hx_ids whole = {0};
    int64_t n_cuts = 0;
    OK(hx__splitter_init(&t->pattern, &splitter));
    OK(hx_encoder_create(t, &e));
    for (uint64_t i = 0; i < TEXTS; i++) {
        const size_t n = random_text(i, text);
        whole.n = 0;
        OK(hx_encode(e, text, n, &whole));
        for (size_t at = 0, from = 0;; from = at + 1, n_cuts++) {
            OK(hx_tokenizer_cut(t, text, n, from, &at));
            if (at >= n) break;
            cr_assert_geq(at, from);
            expect_same(e, text, n, at, &whole);
            if (!t->is_bytes) expect_same_words(&splitter, text, n, at);
        }
    }
    hx_ids_destroy(&whole);
    hx__splitter_free(&splitter);
    hx_encoder_destroy(&e);
    return n_cuts;
}

Test(cut, parts_have_the_ids_of_the_whole, .timeout = 120) {
    hx_tokenizer *all[] = {opened(GOLDEN "gpt2.json"), with_pattern(NULL), with_pattern(qwen2), with_pattern(gpt4o), opened("bytes")};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const int64_t n_cuts = try_all(all[i]);
        cr_expect_gt(n_cuts, 10000, "tokenizer %zu: %lld cuts are too few to tell anything", i, (long long)n_cuts);
        hx_tokenizer_close(&all[i]);
    }
}

Test(cut, is_found_where_lines_end_as_on_windows) {
    static const char text[] = "one\r\ntwo\r\n";
    hx_tokenizer *all[] = {opened(GOLDEN "gpt2.json"), with_pattern(NULL)};
    for (size_t i = 0, at = 0; i < sizeof all / sizeof *all; i++) {
        OK(hx_tokenizer_cut(all[i], text, strlen(text), 0, &at));
        cr_expect_eq(at, i == 0 ? 3 : 5, "tokenizer %zu: cut at %zu", i, at);
        hx_tokenizer_close(&all[i]);
    }
}

Test(cut, is_not_where_nothing_is_known) {
    static const char text[] = "one\ntwo\r\nthree\n";
    hx_tokenizer *all[] = {with_pattern("\\p{L}+|\\n"), with_prefix(), with_added("lstrip", json_true()), with_added("rstrip", json_true()),
                        with_added("content", json_string("a\nb")), with_added("content", json_string("o\r"))};
    size_t at = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        OK(hx_tokenizer_cut(all[i], text, strlen(text), 1, &at));
        cr_expect_eq(at, strlen(text), "tokenizer %zu: cut at %zu", i, at);
        hx_tokenizer_close(&all[i]);
    }
}

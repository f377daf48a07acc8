/* Tokenizers: ids of Hugging Face's tokenizers for nasty text (tests/golden/tokenizer), round trips of any bytes, files that are not what
 * they should be, and learning. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "io/text/tokenizer_impl.h"
#include "tests/support/expect.h"

#define GOLDEN   HELIX_TOKENIZER_FOLDER "/"

static char folder[256], file[512];

static void open_all(void) {
    snprintf(folder, sizeof folder, "%.200s/helix-tok-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/tokenizer.json", folder);
}

static void close_all(void) {
    static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt", "a.txt", "b.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    cr_expect_eq(rmdir(folder), 0, "files were left behind");
}

TestSuite(tokenizer, .init = open_all, .fini = close_all);

/* ---- help ---- */

/* @return owned, free() */
static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*n + 1);
    cr_assert_eq(fread(text, 1, *n, f), *n);
    text[*n] = '\0';
    fclose(f);
    return text;
}

static void spit(const char *name, const void *bytes, size_t n) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert(f && fwrite(bytes, 1, n, f) == n);
    fclose(f);
}

static hx_tokenizer *opened(const char *path) {
    hx_tokenizer *t = NULL;
    OK(hx_tokenizer_open(path, &t));
    return t;
}

static hx_ids encoded(const hx_tokenizer *t, const char *text, size_t n) {
    hx_encoder *e;
    hx_ids ids = {0};
    OK(hx_encoder_create(t, &e));
    OK(hx_encode(e, text, n, &ids));
    hx_encoder_destroy(&e);
    return ids;
}

/* `golden` edited and written to `file`. */
static void edit(const char *golden, void (*change)(json_t *root)) {
    json_t *root = json_load_file(golden, 0, NULL);
    cr_assert(root);
    change(root);
    cr_assert_eq(json_dump_file(root, file, 0), 0);
    json_decref(root);
}

static void prefix(json_t *root) { json_object_set_new(json_object_get(root, "pre_tokenizer"), "add_prefix_space", json_true()); }

static void whole_words(json_t *root) {
    json_t *model = json_object_get(root, "model"), *merges = json_object_get(model, "merges");
    json_object_set_new(model, "ignore_merges", json_true());
    while (json_array_size(merges) > 300) json_array_remove(merges, json_array_size(merges) - 1);
}

static void merges_as_text(json_t *root) {
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges"), *m;
    char text[512];
    size_t i;
    json_array_foreach(merges, i, m) {
        snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(m, 0)), json_string_value(json_array_get(m, 1)));
        json_array_set_new(merges, i, json_string(text));
    }
}

/* Compare with the ids in a file; the text is that of the folder. */
static void compare(const hx_tokenizer *t, const char *text_path, const char *ids_path) {
    size_t n, n_text, k = 0;
    char *text = slurp(text_path, &n_text), *wanted = slurp(ids_path, &n), *at = wanted, *end;
    hx_ids ids = encoded(t, text, n_text);
    for (long id; id = strtol(at, &end, 10), end != at; at = end, k++) {
        cr_assert_lt((int64_t)k, ids.n, "%s: too few ids", ids_path);
        cr_assert_eq(ids.ids[k], id, "%s: id %zu is %d: expected %ld", ids_path, k, ids.ids[k], id);
    }
    cr_assert_eq((int64_t)k, ids.n, "%s: %lld ids: expected %zu", ids_path, (long long)ids.n, k);
    hx_ids_destroy(&ids);
    free(text);
    free(wanted);
}

static void expect_round_trip(const hx_tokenizer *t, hx_encoder *e, const void *text, size_t n) {
    static hx_ids ids;
    static hx_text back;
    ids.n = back.n = 0;
    OK(hx_encode(e, text, n, &ids));
    OK(hx_decode(t, ids.ids, ids.n, &back));
    cr_assert(back.n == (int64_t)n && (n == 0 || memcmp(back.bytes, text, n) == 0), "%zu bytes came back as %lld others", n, (long long)back.n);
}

/* ---- the same ids as Hugging Face ---- */

static const struct {
    const char *json, *ids;
    void (*change)(json_t *root);
} goldens[] = {{GOLDEN "gpt2.json", GOLDEN "gpt2.ids", NULL},
               {GOLDEN "gpt2.json", GOLDEN "gpt2_prefix.ids", prefix},
               {GOLDEN "gpt2.json", GOLDEN "gpt2.ids", merges_as_text},
               {GOLDEN "llama3.json", GOLDEN "llama3.ids", NULL},
               {GOLDEN "llama3.json", GOLDEN "llama3_whole.ids", whole_words}};

Test(tokenizer, gives_the_ids_that_hugging_face_gives) {
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        if (goldens[i].change) edit(goldens[i].json, goldens[i].change);
        hx_tokenizer *t = opened(goldens[i].change ? file : goldens[i].json);
        compare(t, GOLDEN "text.txt", goldens[i].ids);
        hx_tokenizer_close(&t);
    }
}

/* White space that is a token, and that the one before it has taken with it: it is not there any more. As Hugging Face has it. */
Test(tokenizer, what_a_token_took_with_it_is_not_taken_again) {
    static const struct {
        const char *text;
        int64_t n;
    } cases[] = {{"  ", 1}, {"   ", 1}, {"<r> ", 1}, {" <r>  ", 2}};
    json_t *root = json_load_file(GOLDEN "gpt2.json", 0, NULL), *added = json_object_get(root, "added_tokens");
    const int id = (int)json_object_size(json_object_get(json_object_get(root, "model"), "vocab")) + (int)json_array_size(added);
    json_array_append_new(added, json_pack("{s:i, s:s, s:b, s:b}", "id", id, "content", " ", "lstrip", 1, "rstrip", 1));
    json_array_append_new(added, json_pack("{s:i, s:s, s:b}", "id", id + 1, "content", "<r>", "rstrip", 1));
    cr_assert_eq(json_dump_file(root, file, 0), 0);
    json_decref(root);
    hx_tokenizer *t = opened(file);
    hx_encoder *e;
    OK(hx_encoder_create(t, &e));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hx_ids ids = {0};
        OK(hx_encode(e, cases[i].text, strlen(cases[i].text), &ids));
        cr_expect_eq(ids.n, cases[i].n, "'%s' gives %lld ids", cases[i].text, (long long)ids.n);
        hx_ids_destroy(&ids);
    }
    hx_encoder_destroy(&e);
    hx_tokenizer_close(&t);
}

/* The cache of words has forgotten some and knows others: ids are the same, and those of pieces add up. */
Test(tokenizer, does_not_depend_on_what_was_encoded_before) {
    size_t n;
    char *text = slurp(GOLDEN "train.txt", &n);
    hx_tokenizer *t = opened(GOLDEN "gpt2.json");
    hx_encoder *e;
    hx_ids first = {0}, second = {0};
    OK(hx_encoder_create(t, &e));
    OK(hx_encode(e, text, n, &first));
    OK(hx_encode(e, text, n / 2, &second));
    second.n = 0;
    OK(hx_encode(e, text, n, &second));
    cr_assert(first.n == second.n && memcmp(first.ids, second.ids, (size_t)first.n * 4) == 0);
    hx_ids_destroy(&first);
    hx_ids_destroy(&second);
    hx_encoder_destroy(&e);
    hx_tokenizer_close(&t);
    free(text);
}

Test(tokenizer, tells_ids_of_special_tokens) {
    hx_tokenizer *t = opened(GOLDEN "gpt2.json");
    cr_assert_eq(hx_tokenizer_special(t, HX_END_OF_TEXT), hx_tokenizer_vocab(t) - 1);
    cr_assert_eq(hx_tokenizer_special(t, "the"), -1);
    hx_tokenizer_close(&t);
}

/* The definition, word by word: of all pairs the one of the lowest rank, the leftmost of them. @param ids [n]. Returns how many are left. */
static int64_t merged_by_definition(const hx_tokenizer *t, int32_t *ids, int64_t n) {
    for (;;) {
        const hx__merge_slot *best = NULL;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < n; i++) {
            const hx__merge_slot *m = hx__merge_find(t, ids[i], ids[i + 1]);
            if (m && (!best || m->rank < best->rank)) best = m, at = i;
        }
        if (!best) return n;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (size_t)(--n - at - 1) * sizeof *ids);
    }
}

/* Words of three letters, by rules with many that overlap: short ones, and long ones, which take another way. */
Test(tokenizer, merges_as_defined) {
    char path[512], text[40000];
    hx_rng rng = {.seed = 4};
    uint64_t drawn = 0;
    hx_tokenizer *t;
    snprintf(path, sizeof path, "%s/a.txt", folder);
    for (size_t i = 0; i < sizeof text; i++) text[i] = "aabbc "[hx_rng_below(rng, drawn++, 6)];
    spit("a.txt", text, sizeof text);
    OK(hx_tokenizer_train((const char *[]){path}, 1, 600, 1, NULL, NULL, &t));
    for (int round = 0; round < 400; round++) {
        char word[300];
        int32_t wanted[300];
        int64_t n = 1 + (int64_t)hx_rng_below(rng, drawn++, sizeof word);
        for (int64_t i = 0; i < n; i++) word[i] = "aabbc"[hx_rng_below(rng, drawn++, 5)], wanted[i] = t->byte_ids[(uint8_t)word[i]];
        hx_ids ids = encoded(t, word, (size_t)n);
        int64_t n_wanted = merged_by_definition(t, wanted, n);
        cr_assert(ids.n == n_wanted && memcmp(ids.ids, wanted, (size_t)n_wanted * 4) == 0, "a word of %lld", (long long)n);
        hx_ids_destroy(&ids);
    }
    hx_tokenizer_close(&t);
}

/* ---- any bytes ---- */

static const char *const kinds[] = {"bytes", GOLDEN "gpt2.json"};

Test(tokenizer, any_two_bytes_come_back) {
    for (int k = 0; k < 2; k++) {
        hx_tokenizer *t = opened(kinds[k]);
        hx_encoder *e;
        OK(hx_encoder_create(t, &e));
        for (int i = 0; i < 65536; i++) expect_round_trip(t, e, (uint8_t[]){(uint8_t)(i >> 8), (uint8_t)i}, 2);
        expect_round_trip(t, e, "", 0);
        hx_encoder_destroy(&e);
        hx_tokenizer_close(&t);
    }
}

Test(tokenizer, random_bytes_come_back) {
    static const char pool[] = "a '\n\r\t<|>\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xed\xa0\x80\xf4\x90\xc0\xff\x80";
    hx_rng rng = {.seed = 3};
    uint64_t drawn = 0;
    hx_tokenizer *t = opened(GOLDEN "gpt2.json");
    hx_encoder *e;
    OK(hx_encoder_create(t, &e));
    for (int round = 0; round < 3000; round++) {
        uint8_t text[400];
        size_t n = (size_t)hx_rng_below(rng, drawn++, sizeof text + 1);
        for (size_t i = 0; i < n; i++)
            text[i] = round % 2 ? (uint8_t)hx_rng_below(rng, drawn++, 256) : (uint8_t)pool[hx_rng_below(rng, drawn++, sizeof pool)];
        expect_round_trip(t, e, text, n);
    }
    hx_encoder_destroy(&e);
    hx_tokenizer_close(&t);
}

/* A valid stretch beside broken bytes has the ids that it has alone. */
Test(tokenizer, broken_bytes_part_texts) {
    static const char text[] = "hello  \xff\xfe  world";
    hx_tokenizer *t = opened(GOLDEN "gpt2.json");
    hx_ids all = encoded(t, text, 16), left = encoded(t, "hello  ", 7), right = encoded(t, "  world", 7), broken = encoded(t, "\xff\xfe", 2);
    cr_assert_eq(all.n, left.n + broken.n + right.n);
    cr_assert(memcmp(all.ids, left.ids, (size_t)left.n * 4) == 0 && memcmp(all.ids + left.n + broken.n, right.ids, (size_t)right.n * 4) == 0);
    hx_ids_destroy(&all);
    hx_ids_destroy(&left);
    hx_ids_destroy(&right);
    hx_ids_destroy(&broken);
    hx_tokenizer_close(&t);
}

/* 4 MB of one letter, of spaces, of signs, of a broken byte: neither quadratic nor too much for the pattern's stack. */
/* Where a limit of PCRE2's that does not know of the text's length would end it. */
Test(tokenizer, a_very_long_run_of_spaces_is_one_word, .timeout = 60) {
    enum { N = 11 << 20 };
    char *text = malloc(N);
    hx_tokenizer *t = opened(GOLDEN "llama3.json");
    hx_encoder *e;
    hx_ids ids = {0};
    memset(text, ' ', N);
    text[N - 1] = 'x';
    OK(hx_encoder_create(t, &e));
    OK(hx_encode(e, text, N, &ids));
    hx_ids_destroy(&ids);
    hx_encoder_destroy(&e);
    hx_tokenizer_close(&t);
    free(text);
}

Test(tokenizer, long_words_take_no_quadratic_time, .timeout = 60) {
    enum { N = 4 << 20 };
    static const char units[][4] = {"a", " ", "-", "\n", "\xff", "ab", "\xc3\xa9", "1", " \n", "' "};
    char *text = malloc(N);
    for (int pattern = 0; pattern < 2; pattern++) {
        hx_tokenizer *t = opened(pattern ? GOLDEN "llama3.json" : GOLDEN "gpt2.json");
        hx_encoder *e;
        OK(hx_encoder_create(t, &e));
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            for (size_t i = 0; i < N; i++) text[i] = units[u][i % strlen(units[u])];
            expect_round_trip(t, e, text, N);
        }
        hx_encoder_destroy(&e);
        hx_tokenizer_close(&t);
    }
    free(text);
}

Test(tokenizer, refuses_ids_that_are_none) {
    hx_text text = {0};
    for (int k = 0; k < 2; k++) {
        hx_tokenizer *t = opened(kinds[k]);
        int32_t ids[] = {1, 2, (int32_t)hx_tokenizer_vocab(t)};
        cr_assert_eq(hx_decode(t, ids, 3, &text), HX_ERR_ARG);
        cr_assert(strstr(hx_error_message(), "position 2"), "%s", hx_error_message());
        ids[0] = -1;
        cr_assert_eq(hx_decode(t, ids, 3, &text), HX_ERR_ARG);
        cr_assert_eq(text.n, 0);
        hx_tokenizer_close(&t);
    }
    hx_text_destroy(&text);
}

/* ---- files ---- */

static void set_text(json_t *root, const char *text) {
    json_t *patch = json_loads(text, 0, NULL);
    cr_assert(patch, "%s", text);
    json_object_update_recursive(root, patch);
    json_decref(patch);
}

/* What is merged into a good file, and what the refusal says. */
static const struct {
    const char *patch;
    hx_status status;
    const char *words;
} bad[] = {
    {"{\"normalizer\": {\"type\": \"NFC\"}}", HX_ERR_UNSUPPORTED, "normalizer is 'NFC'"},
    {"{\"truncation\": {\"max_length\": 3}}", HX_ERR_UNSUPPORTED, "truncation"},
    {"{\"unheard\": 1}", HX_ERR_UNSUPPORTED, "unheard"},
    {"{\"decoder\": {\"type\": \"WordPiece\"}}", HX_ERR_UNSUPPORTED, "decoder is 'WordPiece'"},
    {"{\"post_processor\": {\"type\": \"RobertaProcessing\"}}", HX_ERR_UNSUPPORTED, "RobertaProcessing"},
    {"{\"pre_tokenizer\": {\"type\": \"Metaspace\"}}", HX_ERR_UNSUPPORTED, "pre_tokenizer is 'Metaspace'"},
    {"{\"pre_tokenizer\": null}", HX_ERR_UNSUPPORTED, "pre_tokenizer is ''"},
    {"{\"pre_tokenizer\": {\"use_regex\": 3}}", HX_ERR_FORMAT, "use_regex: expected true or false"},
    {"{\"model\": {\"type\": \"Unigram\"}}", HX_ERR_UNSUPPORTED, "model is 'Unigram'"},
    {"{\"model\": {\"dropout\": 0.1}}", HX_ERR_UNSUPPORTED, "dropout"},
    {"{\"model\": {\"unk_token\": \"<unk>\"}}", HX_ERR_UNSUPPORTED, "unk_token"},
    {"{\"model\": {\"byte_fallback\": true}}", HX_ERR_UNSUPPORTED, "byte_fallback"},
    {"{\"model\": {\"end_of_word_suffix\": \"</w>\"}}", HX_ERR_UNSUPPORTED, "end_of_word_suffix"},
    {"{\"model\": {\"vocab\": {\"new\": 2000000000}}}", HX_ERR_FORMAT, "expected an id from 0"},
    {"{\"model\": {\"vocab\": {\"new\": -1}}}", HX_ERR_FORMAT, "expected an id from 0"},
    {"{\"model\": {\"vocab\": {\"new\": 1.5}}}", HX_ERR_FORMAT, "expected an id from 0"},
    {"{\"model\": {\"vocab\": {\"new\": 7}}}", HX_ERR_FORMAT, "id 7 is taken"},
    {"{\"model\": {\"vocab\": []}}", HX_ERR_FORMAT, "vocab: expected an object"},
    {"{\"model\": {\"merges\": [\"a b c\"]}}", HX_ERR_FORMAT, "expected two tokens"},
    {"{\"model\": {\"merges\": [\"ab\"]}}", HX_ERR_FORMAT, "expected two tokens"},
    {"{\"model\": {\"merges\": [[\"a\"]]}}", HX_ERR_FORMAT, "expected \"a b\""},
    {"{\"model\": {\"merges\": [[\"\", \"a\"]]}}", HX_ERR_FORMAT, "the vocabulary lacks"},
    {"{\"model\": {\"merges\": [[\"zq\", \"qz\"]]}}", HX_ERR_FORMAT, "the vocabulary lacks"},
    {"{\"added_tokens\": [{\"id\": 5, \"content\": \"<x>\"}]}", HX_ERR_FORMAT, "id 5 is taken"},
    {"{\"added_tokens\": [{\"id\": 5, \"content\": \"\"}]}", HX_ERR_FORMAT, "content has 0 bytes"},
    {"{\"added_tokens\": [{\"id\": 5, \"content\": \"a\"}]}", HX_ERR_FORMAT, "in the vocabulary"},
    {"{\"added_tokens\": [{\"content\": \"<x>\"}]}", HX_ERR_FORMAT, "added_tokens[0].id"},
    {"{\"added_tokens\": [3]}", HX_ERR_FORMAT, "added_tokens[0].id"},
};

Test(tokenizer, refuses_by_name_what_it_does_not_know) {
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        hx_tokenizer *t = NULL;
        json_t *root = json_load_file(GOLDEN "gpt2.json", 0, NULL);
        set_text(root, bad[i].patch);
        cr_assert_eq(json_dump_file(root, file, 0), 0);
        json_decref(root);
        hx_status status = hx_tokenizer_open(file, &t);
        cr_expect_eq(status, bad[i].status, "%s gives %s: %s", bad[i].patch, hx_status_name(status), hx_error_message());
        cr_expect(strstr(hx_error_message(), bad[i].words) && strstr(hx_error_message(), "tokenizer.json"), "%s: %s", bad[i].patch, hx_error_message());
        hx_tokenizer_close(&t);
    }
}

/* Oniguruma means something else by most of these than PCRE2 does. */
Test(tokenizer, refuses_patterns_that_mean_something_else) {
    static const char *const patterns[] = {"\\\\h+", "\\\\w+", "^a", "a$", "[a[b]]+", "[a&&b]", "a{,3}", "a{1,2}+", "a{2}?b", "(*ACCEPT)a", "(?#x)a", "(?P<n>a)", "\\\\1(a)",
                                           "\\\\Ka", "a*", "(a", "[a", "[]a]", "\\\\p{Nonsense}", "\\\\", "\\\\pL", "(?R)a", "a|"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        hx_tokenizer *t = NULL;
        char patch[200];
        json_t *root = json_load_file(GOLDEN "llama3.json", 0, NULL), *split;
        snprintf(patch, sizeof patch, "{\"pattern\": {\"Regex\": \"%s\"}}", patterns[i]);
        split = json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 0);
        set_text(split, patch);
        cr_assert_eq(json_dump_file(root, file, 0), 0);
        json_decref(root);
        cr_expect_eq(hx_tokenizer_open(file, &t), HX_ERR_UNSUPPORTED, "%s is taken", patterns[i]);
        cr_expect(strstr(hx_error_message(), "pattern"), "%s", hx_error_message());
        hx_tokenizer_close(&t);
    }
}

/* A pattern that takes for ever is stopped, by a limit, with a word. */
Test(tokenizer, stops_a_pattern_that_runs_away, .timeout = 60) {
    hx_tokenizer *t;
    hx_encoder *e;
    hx_ids ids = {0};
    json_t *root = json_load_file(GOLDEN "llama3.json", 0, NULL), *split;
    split = json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 0);
    set_text(split, "{\"pattern\": {\"Regex\": \"(?:a|aa|aaa)+b\"}}");
    cr_assert_eq(json_dump_file(root, file, 0), 0);
    json_decref(root);
    OK(hx_tokenizer_open(file, &t));
    OK(hx_encoder_create(t, &e));
    char text[5000];
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "cb", 2); /* or PCRE2 sees at once that there is no b */
    cr_assert_eq(hx_encode(e, text, sizeof text, &ids), HX_ERR_UNSUPPORTED);
    cr_assert(strstr(hx_error_message(), "limit"), "%s", hx_error_message());
    cr_assert_eq(ids.n, 0);
    hx_ids_destroy(&ids);
    hx_encoder_destroy(&e);
    hx_tokenizer_close(&t);
}

Test(tokenizer, survives_files_that_are_cut_or_damaged) {
    size_t n;
    char *text = slurp(GOLDEN "llama3.json", &n);
    hx_rng rng = {.seed = 5};
    for (uint64_t i = 0; i < 300; i++) {
        hx_tokenizer *t = NULL;
        size_t at = (size_t)hx_rng_below(rng, 3 * i, n);
        char kept = text[at];
        if (i % 3) text[at] = (char)hx_rng_below(rng, 3 * i + 1, 256);
        spit("tokenizer.json", text, i % 3 ? n : at);
        if (hx_tokenizer_open(folder, &t) != HX_OK) cr_assert(strstr(hx_error_message(), "tokenizer.json"), "%s", hx_error_message());
        hx_tokenizer_close(&t);
        text[at] = kept;
    }
    free(text);
}

Test(tokenizer, tells_what_is_absent) {
    hx_tokenizer *t = NULL;
    cr_assert_eq(hx_tokenizer_open("/absent/tokenizer.json", &t), HX_ERR_IO);
    cr_assert_eq(hx_tokenizer_open(folder, &t), HX_ERR_IO);
    cr_assert(strstr(hx_error_message(), "expected tokenizer.json"), "%s", hx_error_message());
    spit("vocab.json", "{}", 2);
    cr_assert_eq(hx_tokenizer_open(folder, &t), HX_ERR_FORMAT); /* an empty vocabulary */
    cr_assert_eq(hx_tokenizer_open("/dev/zero", &t), HX_ERR_IO);
}

/* ---- learning, and what is written ---- */

static hx_tokenizer *trained(const char *const *files, int n_files, int64_t vocab, int n_threads) {
    hx_tokenizer *t = NULL;
    OK(hx_tokenizer_train(files, n_files, vocab, n_threads, NULL, NULL, &t));
    return t;
}

/* Theirs learned from the same text: 1500 tokens beside the special one, which is the last in both. */
Test(tokenizer, learns_what_hugging_face_learns) {
    hx_tokenizer *ours = trained((const char *[]){GOLDEN "train.txt"}, 1, 1501, 2), *theirs = opened(GOLDEN "gpt2.json");
    cr_assert_eq(hx_tokenizer_vocab(ours), hx_tokenizer_vocab(theirs));
    cr_assert_eq(hx_tokenizer_hash(ours), hx_tokenizer_hash(theirs));
    hx_tokenizer_close(&ours);
    hx_tokenizer_close(&theirs);
}

/* Several blocks: where they are cut, and who counts them, is of no matter. */
Test(tokenizer, learns_the_same_with_any_number_of_threads) {
    size_t n;
    char *text = slurp(GOLDEN "train.txt", &n), path[512], other[512];
    snprintf(path, sizeof path, "%s/a.txt", folder);
    snprintf(other, sizeof other, "%s/b.txt", folder);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 60; i++) fwrite(text + 37 * i, 1, n - 37 * (size_t)i, f);
    fclose(f);
    spit("b.txt", "", 0);
    uint64_t hash = 0;
    for (int threads = 0; threads < 5; threads++) {
        hx_tokenizer *t = trained((const char *[]){path, other}, 2, 600, threads);
        if (hash == 0) hash = hx_tokenizer_hash(t);
        cr_expect_eq(hx_tokenizer_hash(t), hash, "%d threads", threads);
        hx_tokenizer_close(&t);
    }
    free(text);
}

/* Blocks of a large file are cut where words end anyway: it has the words of 50 small ones. */
Test(tokenizer, counts_the_words_of_a_whole_file) {
    enum { COPIES = 50 };
    size_t n;
    char *text = slurp(GOLDEN "train.txt", &n), paths[2][512];
    const char *large = paths[0], *small[COPIES];
    hx__pattern pattern;
    hx__counts whole = {0}, parts = {0};
    snprintf(paths[0], sizeof paths[0], "%s/a.txt", folder);
    snprintf(paths[1], sizeof paths[1], "%s/b.txt", folder);
    for (size_t i = 0; i < n; i++)
        if (i % 8 > 0) text[i] = ' '; /* in rows, which a cut within would part otherwise */
    text[0] = '\n';
    text[n - 1] = 'x';
    spit("b.txt", text, n);
    FILE *f = fopen(paths[0], "w");
    for (int i = 0; i < COPIES; i++) fwrite(text, 1, n, f), small[i] = paths[1];
    fclose(f);
    OK(hx__pattern_compile(HX_GPT2_PATTERN, "test", &pattern));
    OK(hx__count_files(&large, 1, 2, &pattern, NULL, NULL, &whole));
    OK(hx__count_files(small, COPIES, 1, &pattern, NULL, NULL, &parts));
    cr_assert_eq(whole.n, parts.n);
    for (uint64_t i = 0; i <= parts.mask; i++) {
        const hx__counted *c = &parts.slots[i];
        if (c->word) OK(hx__counts_add(&whole, c->word, (size_t)c->n_bytes, -c->count));
    }
    cr_assert_eq(whole.n, parts.n, "a word of the parts is none of the whole");
    for (uint64_t i = 0; i <= whole.mask; i++) cr_assert(!whole.slots[i].word || whole.slots[i].count == 0, "%.*s", (int)whole.slots[i].n_bytes, whole.slots[i].word);
    hx__counts_free(&whole);
    hx__counts_free(&parts);
    hx__pattern_free(&pattern);
    free(text);
}

Test(tokenizer, learns_no_more_than_there_is) {
    char path[512];
    snprintf(path, sizeof path, "%s/a.txt", folder);
    spit("a.txt", "ab ab" HX_END_OF_TEXT "ab", 5 + 13 + 2);
    hx_tokenizer *t = trained((const char *[]){path}, 1, 1000, 1);
    cr_assert_eq(hx_tokenizer_vocab(t), 256 + 2 + 1); /* "ab", " ab" */
    hx_ids ids = encoded(t, "ab ab" HX_END_OF_TEXT, 18);
    cr_assert_eq(ids.n, 3);
    cr_assert_eq(ids.ids[2], 258);
    hx_ids_destroy(&ids);
    hx_tokenizer_close(&t);
    cr_assert_eq(hx_tokenizer_train((const char *[]){"/absent"}, 1, 300, 1, NULL, NULL, &t), HX_ERR_IO);
    cr_assert(strstr(hx_error_message(), "/absent"));
    cr_assert_eq(hx_tokenizer_train((const char *[]){path}, 1, 256, 1, NULL, NULL, &t), HX_ERR_ARG);
}

/* Broken bytes, a word of 3 MB that no space ends, documents: learned without harm. */
Test(tokenizer, learns_from_any_bytes, .timeout = 60) {
    enum { N = 3 << 20 };
    char path[512], *text = malloc(N);
    hx_rng rng = {.seed = 8};
    snprintf(path, sizeof path, "%s/a.txt", folder);
    memset(text, 'x', N);
    for (size_t i = 0; i < N / 4; i++) text[i] = (char)hx_rng_below(rng, i, 256);
    spit("a.txt", text, N);
    hx_tokenizer *t = trained((const char *[]){path}, 1, 400, 2);
    hx_encoder *e;
    OK(hx_encoder_create(t, &e));
    expect_round_trip(t, e, text, N);
    hx_encoder_destroy(&e);
    hx_tokenizer_close(&t);
    free(text);
}

Test(tokenizer, is_the_same_from_each_of_the_files_it_writes) {
    hx_tokenizer *t = trained((const char *[]){GOLDEN "train.txt"}, 1, 700, 1), *whole, *pair;
    char path[512];
    OK(hx_tokenizer_save(t, folder));
    whole = opened(folder);
    snprintf(path, sizeof path, "%s/vocab.json", folder);
    pair = opened(path);
    cr_assert_eq(hx_tokenizer_hash(whole), hx_tokenizer_hash(t));
    cr_assert_eq(hx_tokenizer_hash(pair), hx_tokenizer_hash(t));
    cr_assert_eq(hx_tokenizer_special(pair, HX_END_OF_TEXT), 699);
    hx_tokenizer_close(&t);
    hx_tokenizer_close(&whole);
    hx_tokenizer_close(&pair);
}

/* Any other split than GPT-2's is in tokenizer.json only. */
Test(tokenizer, writes_what_it_has_read) {
    hx_tokenizer *t = opened(GOLDEN "llama3.json"), *back;
    char path[512];
    OK(hx_tokenizer_save(t, folder));
    back = opened(folder);
    cr_assert_eq(hx_tokenizer_hash(back), hx_tokenizer_hash(t));
    compare(back, GOLDEN "text.txt", GOLDEN "llama3.ids");
    snprintf(path, sizeof path, "%s/vocab.json", folder);
    cr_assert_neq(access(path, F_OK), 0, "a pair of files that says something else");
    hx_tokenizer_close(&t);
    hx_tokenizer_close(&back);
    OK(hx_tokenizer_bytes(&t));
    cr_assert_eq(hx_tokenizer_save(t, folder), HX_ERR_UNSUPPORTED);
    cr_assert_eq(hx_tokenizer_hash(t), 0);
    hx_tokenizer_close(&t);
}

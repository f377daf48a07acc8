/* Writing a tokenizer as other tools read it. Each file is written under another name, made durable, and renamed. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "io/fs.h"
#include "io/text/tokenizer_impl.h"

#define PATH_MOST 4096

static void decref(json_t **json) { json_decref(*json); }
static void free_bytes(char **bytes) { hx_mem_free((void **)bytes); }
#define AUTO_JSON HX_CLEANUP(decref) json_t

/* ---- a file ---- */

static hx_status write_file(const char *folder, const char *name, const char *bytes, size_t n_bytes) {
    char path[PATH_MOST];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= PATH_MOST)
        return HX_FAIL(HX_ERR_ARG, "folder %.64s...: the path is longer than %d bytes", folder, PATH_MOST);
    return hx__fs_replace_text(path, bytes, n_bytes);
}

/* NULL, where jansson had no memory for it, is HX_ERR_MEMORY. */
static hx_status write_json(const char *folder, const char *name, const json_t *json, size_t flags) {
    char *text = json ? json_dumps(json, flags) : NULL;
    if (!text) return HX_FAIL(HX_ERR_MEMORY, "%s/%s: no memory for its text", folder, name);
    hx_status status = write_file(folder, name, text, strlen(text));
    free(text);
    return status;
}

/* ---- its parts ---- */

/* The text of a token in a file. @param[out] text  free with hx_mem_free */
static hx_status token_text(const hx_tokenizer *t, int64_t id, char **text) {
    const hx__token *token = &t->tokens[id];
    const char *bytes = t->bytes + token->at;
    HX_TRY(hx_mem_alloc(2 * (size_t)token->n + 1, (void **)text));
    if (token->is_word) {
        hx__letters_of_bytes(bytes, (size_t)token->n, *text);
    } else {
        memcpy(*text, bytes, (size_t)token->n);
        (*text)[token->n] = '\0';
    }
    return HX_OK;
}

static hx_status vocab_json(const hx_tokenizer *t, json_t **out) {
    AUTO_JSON *vocab = json_object();
    for (int64_t id = 0; id < t->vocab; id++) {
        HX_CLEANUP(free_bytes) char *text = NULL;
        if (t->tokens[id].n < 0 || !t->tokens[id].in_vocab) continue;
        HX_TRY(token_text(t, id, &text));
        if (json_object_set_new(vocab, text, json_integer(id)) != 0) return HX_FAIL(HX_ERR_MEMORY, "no memory for token %lld as JSON", (long long)id);
    }
    *out = vocab;
    vocab = NULL; /* handed on */
    return HX_OK;
}

/* "left right" of each merge, in order, to `take`. */
static hx_status each_merge(const hx_tokenizer *t, hx_status (*take)(void *arg, const char *text, size_t n), void *arg) {
    for (int64_t i = 0; i < t->n_merges; i++) {
        const hx__token *l = &t->tokens[t->merges[i].left], *r = &t->tokens[t->merges[i].right];
        HX_CLEANUP(free_bytes) char *text = NULL;
        HX_TRY(hx_mem_alloc(2 * ((size_t)l->n + (size_t)r->n) + 2, (void **)&text));
        hx__letters_of_bytes(t->bytes + l->at, (size_t)l->n, text);
        size_t n = strlen(text);
        text[n] = ' ';
        hx__letters_of_bytes(t->bytes + r->at, (size_t)r->n, text + n + 1);
        HX_TRY(take(arg, text, n + 1 + strlen(text + n + 1)));
    }
    return HX_OK;
}

static hx_status take_json(void *array, const char *text, size_t n) {
    if (json_array_append_new(array, json_stringn(text, n)) != 0) return HX_FAIL(HX_ERR_MEMORY, "no memory for a merge as JSON");
    return HX_OK;
}

static hx_status take_line(void *arg, const char *text, size_t n) {
    hx_text *lines = arg;
    HX_TRY(hx_mem_grow((void **)&lines->bytes, &lines->capacity, lines->n + (int64_t)n + 1, 1));
    memcpy(lines->bytes + lines->n, text, n);
    lines->n += (int64_t)n + 1;
    lines->bytes[lines->n - 1] = '\n';
    return HX_OK;
}

static const hx__added *added_by_id(const hx_tokenizer *t, int64_t id) {
    for (int64_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id) return &t->added[i];
    return NULL;
}

/* In the order of ids, which is that of the tools that add tokens. */
static json_t *added_json(const hx_tokenizer *t) {
    json_t *list = json_array();
    for (int64_t n = 0, id = 0; id < t->vocab && n < t->n_added; id++) {
        const hx__added *a = added_by_id(t, id);
        if (!a) continue;
        n++;
        json_array_append_new(list, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", a->text, "single_word", a->single_word,
                                              "lstrip", a->lstrip, "rstrip", a->rstrip, "normalized", a->normalized, "special", a->special));
    }
    return list;
}

static json_t *byte_level_json(bool prefix_space, bool use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", 1, "use_regex", use_regex);
}

static json_t *pre_tokenizer_json(const hx_tokenizer *t) {
    if (!t->pattern.text) return byte_level_json(t->prefix_space, false);
    if (strcmp(t->pattern.text, HX_GPT2_PATTERN) == 0) return byte_level_json(t->prefix_space, true);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
                     t->pattern.text, "behavior", "Isolated", "invert", 0, byte_level_json(false, false));
}

/* ---- the whole ---- */

static hx_status write_tokenizer_json(const hx_tokenizer *t, const char *folder, json_t *vocab) {
    AUTO_JSON *merges = json_array();
    HX_TRY(each_merge(t, take_json, merges));
    AUTO_JSON *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
                                 "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", t->ignore_merges, "vocab", vocab, "merges", merges);
    AUTO_JSON *file = json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:O}", "version", "1.0", "truncation", "padding", "added_tokens",
                                added_json(t), "normalizer", "pre_tokenizer", pre_tokenizer_json(t), "post_processor", byte_level_json(true, true), "decoder",
                                byte_level_json(true, true), "model", model);
    return write_json(folder, "tokenizer.json", file, JSON_INDENT(2));
}

/* Whether GPT-2's files say the same: they know its split, and read HX_END_OF_TEXT, if it is there, as special. */
static bool fits_pair(const hx_tokenizer *t) {
    const hx__added *end = t->n_added == 1 ? &t->added[0] : NULL;
    if (!t->pattern.text || strcmp(t->pattern.text, HX_GPT2_PATTERN) != 0 || t->prefix_space || t->ignore_merges) return false;
    if (t->n_added == 0) return hx__tokenizer_find(t, HX_END_OF_TEXT, strlen(HX_END_OF_TEXT)) < 0;
    return end && strcmp(end->text, HX_END_OF_TEXT) == 0 && end->special && !end->single_word && !end->lstrip && !end->rstrip &&
           t->tokens[end->id].in_vocab;
}

static hx_status write_pair(const hx_tokenizer *t, const char *folder, const json_t *vocab) {
    HX_CLEANUP(hx_text_destroy) hx_text lines = {0};
    static const char head[] = "#version: 0.2";
    HX_TRY(take_line(&lines, head, strlen(head)));
    HX_TRY(each_merge(t, take_line, &lines));
    HX_TRY(write_json(folder, "vocab.json", vocab, JSON_COMPACT));
    return write_file(folder, "merges.txt", lines.bytes, (size_t)lines.n);
}

hx_status hx_tokenizer_save(const hx_tokenizer *t, const char *folder) {
    AUTO_JSON *vocab = NULL;
    if (t->is_bytes) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: bytes need no tokenizer's file", folder);
    HX_TRY(hx__fs_mkdirs(folder));
    HX_TRY(vocab_json(t, &vocab));
    if (fits_pair(t)) HX_TRY(write_pair(t, folder, vocab));
    HX_TRY(write_tokenizer_json(t, folder, vocab));
    return hx__fs_sync_folder(folder);
}

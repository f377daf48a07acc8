/* Reading a tokenizer: tokenizer.json of Hugging Face's tokenizers, or GPT-2's vocab.json with merges.txt.
 *
 * Every word of a tokenizer.json is either understood or refused by name. Its post-processor may be a template: that adds special tokens
 * around a text for models that want them, which hx_encode never does; it is read past. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/fs.h"
#include "io/text/tokenizer_impl.h"

#define FILE_MOST  (64ll << 20) /* bytes; LLaMA 3's is 9 MB */
#define TOKEN_MOST 4096          /* bytes of an added token */
#define GAPS_MOST  65536         /* ids that stand for nothing */
#define PATH_MOST  4096

static void decref(json_t **json) { json_decref(*json); }
static void free_bytes(char **bytes) { hx_mem_free((void **)bytes); }
#define AUTO_JSON  HX_CLEANUP(decref) json_t
#define AUTO_BYTES HX_CLEANUP(free_bytes) char

/* ---- files ---- */

/* @param[out] text  terminated; free with hx_mem_free */
static hx_status read_whole(const char *path, char **text, size_t *n_bytes) {
    struct stat st;
    AUTO_BYTES *bytes = NULL;
    HX_AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) return HX_FAIL(HX_ERR_IO, "tokenizer %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return HX_FAIL(HX_ERR_IO, "tokenizer %s: not a regular file", path);
    if (st.st_size > FILE_MOST) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s has %lld bytes: expected at most %lld", path, (long long)st.st_size, FILE_MOST);
    HX_TRY(hx_mem_alloc((size_t)st.st_size + 1, (void **)&bytes));
    HX_TRY(hx__fs_read(fd, path, bytes, (size_t)st.st_size, 0));
    bytes[st.st_size] = '\0';
    *n_bytes = (size_t)st.st_size;
    *text = bytes;
    bytes = NULL; /* handed on */
    return HX_OK;
}

static hx_status read_json(const char *path, json_t **out) {
    AUTO_BYTES *text = NULL;
    size_t n_bytes;
    json_error_t error;
    HX_TRY(read_whole(path, &text, &n_bytes));
    json_t *json = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json) return HX_FAIL(HX_ERR_FORMAT, "%s line %d column %d: %s", path, error.line, error.column, error.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return HX_FAIL(HX_ERR_FORMAT, "%s: expected a JSON object", path);
    }
    *out = json;
    return HX_OK;
}

/* ---- objects whose every key is known ---- */

typedef enum field_kind { IGNORED, MUST_BE_NULL, BOOL, STRING, OBJECT, ARRAY, ANY } field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    void *out; /* bool *, const char **, const json_t **: left as it is where the key is absent or null */
} field;

static hx_status read_field(const char *path, const char *where, const field *f, const json_t *value) {
    static const char *const names[] = {[BOOL] = "true or false", [STRING] = "text", [OBJECT] = "an object", [ARRAY] = "a list"};
    bool fits = true;
    switch (f->kind) {
    case IGNORED: return HX_OK;
    case MUST_BE_NULL:
        if (json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0)) return HX_OK;
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: %s.%s is set: expected null", path, where, f->key);
    case BOOL: fits = json_is_boolean(value); break;
    case STRING: fits = json_is_string(value); break;
    case OBJECT: fits = json_is_object(value); break;
    case ARRAY: fits = json_is_array(value); break;
    case ANY: break;
    }
    if (json_is_null(value)) return HX_OK;
    if (!fits) return HX_FAIL(HX_ERR_FORMAT, "%s: %s.%s: expected %s", path, where, f->key, names[f->kind]);
    if (f->kind == BOOL) {
        *(bool *)f->out = json_is_true(value);
    } else if (f->kind == STRING) {
        *(const char **)f->out = json_string_value(value);
    } else {
        *(const json_t **)f->out = value;
    }
    return HX_OK;
}

/* @param fields [n]; a key that is not among them is refused, unless it is null */
static hx_status read_fields(const char *path, const char *where, const json_t *object, const field *fields, size_t n) {
    const char *key;
    json_t *value;
    if (!json_is_object(object)) return HX_FAIL(HX_ERR_FORMAT, "%s: %s: expected an object", path, where);
    json_object_foreach((json_t *)object, key, value) {
        size_t i = 0;
        while (i < n && strcmp(fields[i].key, key) != 0) i++;
        if (i < n) {
            HX_TRY(read_field(path, where, &fields[i], value));
        } else if (!json_is_null(value)) {
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: %s.%.64s is not known", path, where, key);
        }
    }
    return HX_OK;
}
#define READ_FIELDS(path, where, object, fields) read_fields(path, where, object, fields, sizeof(fields) / sizeof *(fields))

/* "type" of an object; "" where there is none. */
static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "";
}

static hx_status refuse_type(const char *path, const char *where, const json_t *object, const char *expected) {
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: %s is '%.64s': expected %s", path, where, type_of(object), expected);
}

/* ---- vocabulary ---- */

/* Largest id and one, of a vocabulary and of tokens added to it. */
static hx_status count_ids(const char *path, const json_t *vocab, const json_t *added, int64_t *out) {
    int64_t n = 0, most = (int64_t)json_object_size(vocab) + (int64_t)json_array_size(added) + GAPS_MOST;
    const char *key;
    json_t *value;
    size_t i;
    if (most > INT32_MAX) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: too many tokens", path);
    json_object_foreach((json_t *)vocab, key, value) {
        int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= most) return HX_FAIL(HX_ERR_FORMAT, "%s: vocab['%.100s']: expected an id from 0 to %lld", path, key, (long long)most - 1);
        if (id >= n) n = id + 1;
    }
    json_array_foreach(added, i, value) {
        json_t *id = json_object_get(value, "id");
        int64_t number = json_is_integer(id) ? json_integer_value(id) : -1;
        if (number < 0 || number >= most)
            return HX_FAIL(HX_ERR_FORMAT, "%s: added_tokens[%zu].id: expected an id from 0 to %lld", path, i, (long long)most - 1);
        if (number >= n) n = number + 1;
    }
    if (n == 0) return HX_FAIL(HX_ERR_FORMAT, "%s: the vocabulary is empty", path);
    *out = n;
    return HX_OK;
}

static hx_status put_vocab(const char *path, const json_t *vocab, hx_tokenizer *t) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        AUTO_BYTES *bytes = NULL;
        size_t n = strlen(key);
        int64_t id = json_integer_value(value);
        if (t->tokens[id].n >= 0) return HX_FAIL(HX_ERR_FORMAT, "%s: vocab['%.100s']: id %lld is taken", path, key, (long long)id);
        HX_TRY(hx_mem_alloc(n, (void **)&bytes));
        int64_t n_bytes = hx__bytes_of_letters(key, n, bytes);
        HX_TRY(hx__tokenizer_put(t, id, n_bytes < 0 ? key : bytes, n_bytes < 0 ? n : (size_t)n_bytes, true, n_bytes >= 0));
    }
    return HX_OK;
}

/* ---- merges ---- */

/* Of two tokens written in letters, one after the other. @param scratch  room for their bytes */
static hx_status add_merge(const char *path, const hx_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right,
                           char *scratch, hx__merges *list) {
    int64_t l = hx__bytes_of_letters(left, n_left, scratch), r = l < 0 ? -1 : hx__bytes_of_letters(right, n_right, scratch + l);
    hx__merge m = {.left = -1, .right = -1, .id = -1};
    if (l > 0 && r > 0)
        m = (hx__merge){.left = hx__tokenizer_find(t, scratch, (size_t)l), .right = hx__tokenizer_find(t, scratch + l, (size_t)r),
                        .id = hx__tokenizer_find(t, scratch, (size_t)(l + r))};
    if (m.left < 0 || m.right < 0 || m.id < 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s: merge %lld, '%.*s' and '%.*s': the vocabulary lacks one of them or what they make", path,
                       (long long)list->n, (int)(n_left < 100 ? n_left : 100), left, (int)(n_right < 100 ? n_right : 100), right);
    return hx__merges_add(list, &m);
}

/* "left right" */
static hx_status add_merge_text(const char *path, const hx_tokenizer *t, const char *text, size_t n, hx__merges *list) {
    AUTO_BYTES *scratch = NULL;
    const char *space = memchr(text, ' ', n);
    size_t n_left = space ? (size_t)(space - text) : 0;
    if (!space || memchr(space + 1, ' ', n - n_left - 1))
        return HX_FAIL(HX_ERR_FORMAT, "%s: merge %lld, '%.*s': expected two tokens with a space between them", path, (long long)list->n,
                       (int)(n < 100 ? n : 100), text);
    HX_TRY(hx_mem_alloc(n, (void **)&scratch));
    return add_merge(path, t, text, n_left, space + 1, n - n_left - 1, scratch, list);
}

static hx_status add_merge_pair(const char *path, const hx_tokenizer *t, const json_t *pair, hx__merges *list) {
    AUTO_BYTES *scratch = NULL;
    const json_t *left = json_array_get(pair, 0), *right = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_string(left) || !json_is_string(right))
        return HX_FAIL(HX_ERR_FORMAT, "%s: merge %lld: expected \"a b\" or [\"a\", \"b\"]", path, (long long)list->n);
    HX_TRY(hx_mem_alloc(json_string_length(left) + json_string_length(right), (void **)&scratch));
    return add_merge(path, t, json_string_value(left), json_string_length(left), json_string_value(right), json_string_length(right), scratch, list);
}

static hx_status hand_on(hx__merges *list, const char *path, hx_tokenizer *t) {
    hx__merge *items = list->items;
    list->items = NULL;
    return hx__tokenizer_set_merges(t, items, list->n, path);
}

static hx_status read_merges(const char *path, const json_t *merges, hx_tokenizer *t) {
    HX_CLEANUP(hx__merges_free) hx__merges list = {0};
    size_t i;
    json_t *m;
    json_array_foreach(merges, i, m) {
        if (json_is_string(m)) {
            HX_TRY(add_merge_text(path, t, json_string_value(m), json_string_length(m), &list));
        } else {
            HX_TRY(add_merge_pair(path, t, m, &list));
        }
    }
    return hand_on(&list, path, t);
}

/* A line each, "#version" lines left out. */
static hx_status read_merges_text(const char *path, hx_tokenizer *t) {
    HX_CLEANUP(hx__merges_free) hx__merges list = {0};
    AUTO_BYTES *text = NULL;
    size_t n_bytes, length;
    HX_TRY(read_whole(path, &text, &n_bytes));
    if (strlen(text) != n_bytes) return HX_FAIL(HX_ERR_FORMAT, "%s: a zero byte at %zu", path, strlen(text));
    for (const char *line = text; *line; line += length + (line[length] == '\n')) {
        length = strcspn(line, "\n");
        size_t n = length > 0 && line[length - 1] == '\r' ? length - 1 : length;
        if (strncmp(line, "#version", 8) != 0) HX_TRY(add_merge_text(path, t, line, n, &list));
    }
    return hand_on(&list, path, t);
}

/* ---- added tokens ---- */

typedef struct added_list {
    hx__added *items; /* [n] owned */
    int64_t n;
} added_list;

static void added_list_free(added_list *list) { hx__added_free(&list->items, list->n); }

/* The token's own bytes are those that are found in a text: of a model's token they must be the same. */
static hx_status settle_added(const char *path, const json_t *vocab, hx_tokenizer *t, const hx__added *a) {
    const json_t *of_vocab = json_object_get(vocab, a->text);
    const hx__token *token = &t->tokens[a->id];
    if (of_vocab && json_integer_value(of_vocab) != a->id)
        return HX_FAIL(HX_ERR_FORMAT, "%s: added token '%.100s' has id %d, in the vocabulary %lld", path, a->text, a->id,
                       (long long)json_integer_value(of_vocab));
    if (!of_vocab && token->n >= 0) return HX_FAIL(HX_ERR_FORMAT, "%s: added token '%.100s': id %d is taken", path, a->text, a->id);
    if (!of_vocab) return hx__tokenizer_put(t, a->id, a->text, a->n_bytes, false, false);
    if ((size_t)token->n != a->n_bytes || memcmp(t->bytes + token->at, a->text, a->n_bytes) != 0)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: added token '%.100s' is in the vocabulary for other bytes", path, a->text);
    return HX_OK;
}

static hx_status read_added(const char *path, size_t i, const json_t *object, hx__added *a) {
    char where[64];
    const char *text = NULL;
    const json_t *id;
    const field fields[] = {{"id", ANY, &id}, {"content", STRING, &text}, {"special", BOOL, &a->special}, {"single_word", BOOL, &a->single_word},
                            {"lstrip", BOOL, &a->lstrip}, {"rstrip", BOOL, &a->rstrip}, {"normalized", BOOL, &a->normalized}};
    snprintf(where, sizeof where, "added_tokens[%zu]", i);
    HX_TRY(READ_FIELDS(path, where, object, fields));
    size_t n = text ? strlen(text) : 0;
    if (n == 0 || n > TOKEN_MOST) return HX_FAIL(HX_ERR_FORMAT, "%s: %s.content has %zu bytes: expected 1 to %d", path, where, n, TOKEN_MOST);
    a->id = (int32_t)json_integer_value(id); /* looked at by count_ids */
    a->n_bytes = n;
    return hx_mem_strdup(text, &a->text);
}

static hx_status read_all_added(const char *path, const json_t *vocab, const json_t *array, hx_tokenizer *t, added_list *list) {
    size_t i;
    json_t *object;
    HX_TRY(hx_mem_alloc_array((int64_t)json_array_size(array), sizeof *list->items, (void **)&list->items));
    list->n = (int64_t)json_array_size(array);
    json_array_foreach(array, i, object) {
        HX_TRY(read_added(path, i, object, &list->items[i]));
        HX_TRY(settle_added(path, vocab, t, &list->items[i]));
    }
    return HX_OK;
}

/* ---- pre-tokenizer, post-processor, decoder ---- */

static hx_status read_byte_level(const char *path, const char *where, const json_t *object, bool *prefix_space, bool *use_regex) {
    *prefix_space = *use_regex = true; /* where the file does not tell */
    const field fields[] = {{"type", IGNORED, NULL}, {"add_prefix_space", BOOL, prefix_space}, {"trim_offsets", IGNORED, NULL},
                            {"use_regex", BOOL, use_regex}};
    return READ_FIELDS(path, where, object, fields);
}

static hx_status read_split(const char *path, const json_t *object, const char **pattern) {
    const char *behavior = "", *text = NULL;
    bool invert = false;
    const json_t *kinds = NULL;
    const field fields[] = {{"type", IGNORED, NULL}, {"pattern", OBJECT, &kinds}, {"behavior", STRING, &behavior}, {"invert", BOOL, &invert}};
    const field kind[] = {{"Regex", STRING, &text}};
    HX_TRY(READ_FIELDS(path, "pre_tokenizer.Split", object, fields));
    if (strcmp(behavior, "Isolated") != 0 || invert)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: pre_tokenizer.Split with behavior '%.32s'%s: expected Isolated", path, behavior, invert ? " and invert" : "");
    HX_TRY(READ_FIELDS(path, "pre_tokenizer.Split.pattern", kinds, kind));
    if (!text) return HX_FAIL(HX_ERR_FORMAT, "%s: pre_tokenizer.Split.pattern: expected Regex", path);
    *pattern = text;
    return HX_OK;
}

static hx_status read_sequence(const char *path, const json_t *object, const char **pattern) {
    static const char expected[] = "a Sequence of Split and ByteLevel (add_prefix_space and use_regex false)";
    const json_t *list = NULL;
    bool prefix_space, use_regex;
    const field fields[] = {{"type", IGNORED, NULL}, {"pretokenizers", ARRAY, &list}};
    HX_TRY(READ_FIELDS(path, "pre_tokenizer", object, fields));
    const json_t *split = json_array_get(list, 0), *level = json_array_get(list, 1);
    if (json_array_size(list) != 2 || strcmp(type_of(split), "Split") != 0 || strcmp(type_of(level), "ByteLevel") != 0)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: pre_tokenizer is a Sequence of %zu, '%.32s' first: expected %s", path, json_array_size(list),
                       type_of(split), expected);
    HX_TRY(read_byte_level(path, "pre_tokenizer.ByteLevel", level, &prefix_space, &use_regex));
    if (prefix_space || use_regex) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: pre_tokenizer: expected %s", path, expected);
    return read_split(path, split, pattern);
}

static hx_status read_pre_tokenizer(const char *path, const json_t *object, hx_tokenizer *t) {
    const char *pattern = NULL;
    bool use_regex;
    if (strcmp(type_of(object), "ByteLevel") == 0) {
        HX_TRY(read_byte_level(path, "pre_tokenizer", object, &t->prefix_space, &use_regex));
        if (use_regex) pattern = HX_GPT2_PATTERN;
    } else if (strcmp(type_of(object), "Sequence") == 0) {
        HX_TRY(read_sequence(path, object, &pattern));
    } else {
        return refuse_type(path, "pre_tokenizer", object, "ByteLevel, or a Sequence of Split and ByteLevel");
    }
    return pattern ? hx__pattern_compile(pattern, path, &t->pattern) : HX_OK;
}

static bool is_byte_level(const json_t *object) { return strcmp(type_of(object), "ByteLevel") == 0; }

/* @param depth  a sequence holds no sequences */
static hx_status check_post_processor(const char *path, const json_t *object, int depth) {
    if (!object || is_byte_level(object) || strcmp(type_of(object), "TemplateProcessing") == 0) return HX_OK;
    if (depth > 0 || strcmp(type_of(object), "Sequence") != 0)
        return refuse_type(path, "post_processor", object, "ByteLevel or TemplateProcessing");
    size_t i;
    json_t *part, *parts = json_object_get(object, "processors");
    json_array_foreach(parts, i, part) HX_TRY(check_post_processor(path, part, depth + 1));
    return HX_OK;
}

/* ---- the whole ---- */

typedef struct model {
    const json_t *vocab, *merges, *added, *pre_tokenizer; /* borrowed; NULL: of GPT-2's pair of files */
    bool ignore_merges;
} model;

static hx_status read_model(const char *path, const json_t *object, model *m) {
    bool byte_fallback = false;
    const field fields[] = {{"type", IGNORED, NULL}, {"dropout", MUST_BE_NULL, NULL}, {"unk_token", MUST_BE_NULL, NULL},
                            {"continuing_subword_prefix", MUST_BE_NULL, NULL}, {"end_of_word_suffix", MUST_BE_NULL, NULL},
                            {"fuse_unk", IGNORED, NULL}, {"byte_fallback", BOOL, &byte_fallback}, {"ignore_merges", BOOL, &m->ignore_merges},
                            {"vocab", OBJECT, &m->vocab}, {"merges", ARRAY, &m->merges}};
    if (!object) return HX_FAIL(HX_ERR_FORMAT, "%s: expected an object 'model'", path);
    if (type_of(object)[0] && strcmp(type_of(object), "BPE") != 0) return refuse_type(path, "model", object, "BPE"); /* GPT-2's own tells none */
    HX_TRY(READ_FIELDS(path, "model", object, fields));
    if (byte_fallback) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: model.byte_fallback is true: expected false", path);
    if (!m->vocab || !m->merges) return HX_FAIL(HX_ERR_FORMAT, "%s: model: expected vocab and merges", path);
    return HX_OK;
}

/* @param merges_path  of the pair; NULL: they are in the model */
static hx_status build(const char *path, const char *merges_path, const model *m, hx_tokenizer **out) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    HX_CLEANUP(added_list_free) added_list added = {0};
    int64_t n_ids;
    HX_TRY(count_ids(path, m->vocab, m->added, &n_ids));
    HX_TRY(hx__tokenizer_create(n_ids, &t));
    t->ignore_merges = m->ignore_merges;
    HX_TRY(put_vocab(path, m->vocab, t));
    HX_TRY(read_all_added(path, m->vocab, m->added, t, &added));
    HX_TRY(hx__tokenizer_index(t, path));
    HX_TRY(merges_path ? read_merges_text(merges_path, t) : read_merges(path, m->merges, t));
    HX_TRY(merges_path ? hx__pattern_compile(HX_GPT2_PATTERN, path, &t->pattern) : read_pre_tokenizer(path, m->pre_tokenizer, t));
    hx__added *items = added.items;
    added.items = NULL; /* handed on */
    HX_TRY(hx__tokenizer_finish(t, items, added.n, path));
    *out = t;
    t = NULL; /* handed on */
    return HX_OK;
}

static hx_status open_json(const char *path, hx_tokenizer **out) {
    AUTO_JSON *json = NULL;
    model m = {0};
    const json_t *normalizer = NULL, *post = NULL, *decoder = NULL, *bpe = NULL;
    const field fields[] = {{"version", IGNORED, NULL}, {"truncation", MUST_BE_NULL, NULL}, {"padding", MUST_BE_NULL, NULL},
                            {"added_tokens", ARRAY, &m.added}, {"normalizer", OBJECT, &normalizer}, {"pre_tokenizer", OBJECT, &m.pre_tokenizer},
                            {"post_processor", OBJECT, &post}, {"decoder", OBJECT, &decoder}, {"model", OBJECT, &bpe}};
    HX_TRY(read_json(path, &json));
    HX_TRY(READ_FIELDS(path, "the file", json, fields));
    if (normalizer) return refuse_type(path, "normalizer", normalizer, "none: it would change the text");
    if (!is_byte_level(decoder)) return refuse_type(path, "decoder", decoder, "ByteLevel");
    HX_TRY(check_post_processor(path, post, 0));
    HX_TRY(read_model(path, bpe, &m));
    return build(path, NULL, &m, out);
}

/* GPT-2's files do not tell what is special: the end of a text is, where it is a token. */
static hx_status open_pair(const char *vocab_path, const char *merges_path, hx_tokenizer **out) {
    AUTO_JSON *vocab = NULL;
    AUTO_JSON *added = NULL;
    HX_TRY(read_json(vocab_path, &vocab));
    json_t *end = json_object_get(vocab, HX_END_OF_TEXT);
    if (json_is_integer(end)) {
        added = json_pack("[{s:I, s:s, s:b}]", "id", json_integer_value(end), "content", HX_END_OF_TEXT, "special", 1);
        if (!added) return HX_FAIL(HX_ERR_MEMORY, "%s: no memory for its special token", vocab_path);
    }
    return build(vocab_path, merges_path, &(model){.vocab = vocab, .added = added}, out);
}

static bool is_there(const char *path) { return access(path, F_OK) == 0; }

/* "folder/name" */
static hx_status join(const char *folder, size_t n_folder, const char *name, char out[PATH_MOST]) {
    if (snprintf(out, PATH_MOST, "%.*s%s%s", (int)n_folder, folder, n_folder > 0 && folder[n_folder - 1] != '/' ? "/" : "", name) >= PATH_MOST)
        return HX_FAIL(HX_ERR_ARG, "tokenizer %.64s...: the path is longer than %d bytes", folder, PATH_MOST);
    return HX_OK;
}

static hx_status open_folder(const char *folder, hx_tokenizer **out) {
    char path[PATH_MOST], merges[PATH_MOST];
    HX_TRY(join(folder, strlen(folder), "tokenizer.json", path));
    if (is_there(path)) return open_json(path, out);
    HX_TRY(join(folder, strlen(folder), "vocab.json", path));
    HX_TRY(join(folder, strlen(folder), "merges.txt", merges));
    if (is_there(path) || is_there(merges)) return open_pair(path, merges, out);
    return HX_FAIL(HX_ERR_IO, "tokenizer %s: expected tokenizer.json in this folder, or vocab.json and merges.txt", folder);
}

hx_status hx_tokenizer_open(const char *path, hx_tokenizer **out) {
    struct stat st;
    char merges[PATH_MOST];
    if (strcmp(path, "bytes") == 0) return hx_tokenizer_bytes(out);
    if (stat(path, &st) != 0) return HX_FAIL(HX_ERR_IO, "tokenizer %s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) return open_folder(path, out);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (strcmp(name, "vocab.json") != 0) return open_json(path, out);
    HX_TRY(join(path, (size_t)(name - path), "merges.txt", merges));
    return open_pair(path, merges, out);
}

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "core/base/mem.h"
#include "io/data/pack_impl.h"

hx_status hx__numbers_add(hx__numbers *numbers, int64_t value) {
    HX_TRY(hx_mem_grow((void **)&numbers->at, &numbers->capacity, numbers->n + 1, sizeof *numbers->at));
    numbers->at[numbers->n++] = value;
    return HX_OK;
}

void hx__piece_destroy(hx__piece *p) {
    hx_ids_destroy(&p->ids);
    hx_mem_free((void **)&p->documents.at);
    hx_mem_free((void **)&p->unmasked.at);
}

/* ---- a document ---- */

typedef struct job {
    hx__piece *piece;
    const hx__piece_rules *rules;
    hx_encoder *encoder;
} job;

static hx_status add_id(hx_ids *ids, int32_t id) {
    HX_TRY(hx_mem_grow((void **)&ids->ids, &ids->capacity, ids->n + 1, sizeof *ids->ids));
    ids->ids[ids->n++] = id;
    return HX_OK;
}

/* @param prompt  no target; "" for none */
static hx_status add_document(const job *j, const char *prompt, size_t n_prompt, const char *text, size_t n_text) {
    hx__piece *p = j->piece;
    const int64_t begin = p->ids.n;
    if (n_prompt > 0) HX_TRY(hx_encode(j->encoder, prompt, n_prompt, &p->ids));
    const int64_t prompt_end = p->ids.n;
    if (n_text > 0) HX_TRY(hx_encode(j->encoder, text, n_text, &p->ids));
    if (p->ids.n == begin) return HX_OK;
    if (j->rules->end_of_text >= 0) HX_TRY(add_id(&p->ids, j->rules->end_of_text));
    HX_TRY(hx__numbers_add(&p->documents, begin));
    if (prompt_end == begin) return HX_OK;
    HX_TRY(hx__numbers_add(&p->unmasked, begin));
    return hx__numbers_add(&p->unmasked, prompt_end);
}

/* A part of a file that is one document. */
static hx_status add_part(const job *j) {
    hx__piece *p = j->piece;
    if (p->begin == 0) HX_TRY(hx__numbers_add(&p->documents, 0));
    HX_TRY(hx_encode(j->encoder, p->text + p->begin, (size_t)(p->end - p->begin), &p->ids));
    return p->end == p->n_bytes && j->rules->end_of_text >= 0 ? add_id(&p->ids, j->rules->end_of_text) : HX_OK;
}

/* ---- lines ---- */

/* Counted when it is asked for, by a failure. */
static long long line_number(const hx__piece *p, int64_t at) {
    long long n = 1;
    for (int64_t i = 0; i < at; i++) n += p->text[i] == '\n';
    return n;
}

static hx_status add_object(const job *j, int64_t at, const json_t *object) {
    const json_t *text = json_object_get(object, j->rules->field), *prompt = json_object_get(object, "prompt"),
                 *completion = json_object_get(object, "completion");
    if (json_is_string(text)) return add_document(j, "", 0, json_string_value(text), json_string_length(text));
    if (json_is_string(prompt) && json_is_string(completion))
        return add_document(j, json_string_value(prompt), json_string_length(prompt), json_string_value(completion),
                            json_string_length(completion));
    return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: expected an object with a string \"%s\", or strings \"prompt\" and \"completion\"", j->piece->path,
                   line_number(j->piece, at), j->rules->field);
}

static bool is_blank(const char *text, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!memchr(" \t\r", text[i], 3)) return false;
    return true;
}

/* The UTF-16 unit of an escape \uXXXX; -1: there is none. */
static int unit_at(const char *text, int64_t n, int64_t at) {
    int unit = 0;
    if (n - at < 6 || text[at] != '\\' || text[at + 1] != 'u') return -1;
    for (int64_t i = at + 2; i < at + 6; i++) {
        if (!isxdigit((unsigned char)text[i])) return -1;
        unit = unit * 16 + (text[i] <= '9' ? text[i] - '0' : (text[i] | 0x20) - 'a' + 10);
    }
    return unit;
}

/* Halves of pairs, which corpora hold where a text was cut in UTF-16, become U+FFFD, as most decoders make of them. @return there are some */
static bool replace_halves(char *line, int64_t n) {
    bool is_changed = false;
    for (int64_t at = 0; at < n;) {
        const int unit = unit_at(line, n, at), next = unit >= 0xd800 && unit < 0xdc00 ? unit_at(line, n, at + 6) : -1;
        const bool is_pair = next >= 0xdc00 && next < 0xe000, is_half = !is_pair && unit >= 0xd800 && unit < 0xe000;
        if (is_half) memcpy(line + at, "\\ufffd", 6);
        is_changed |= is_half;
        at += is_pair ? 12 : unit >= 0 ? 6 : line[at] == '\\' ? 2 : 1;
    }
    return is_changed;
}

/* @param[out] object  NULL: it is none, and `error` tells why */
static hx_status load_line(const char *text, int64_t n, json_t **object, json_error_t *error) {
    enum { FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL };
    char *copy;
    *object = json_loadb(text, (size_t)n, FLAGS, error);
    if (*object) return HX_OK;
    HX_TRY(hx_mem_alloc((size_t)n, (void **)&copy));
    memcpy(copy, text, (size_t)n);
    if (replace_halves(copy, n)) *object = json_loadb(copy, (size_t)n, FLAGS, error);
    hx_mem_free((void **)&copy);
    return HX_OK;
}

static hx_status add_line(const job *j, int64_t at, int64_t n) {
    const hx__piece *p = j->piece;
    json_error_t error;
    json_t *object;
    if (is_blank(p->text + at, n)) return HX_OK;
    HX_TRY(load_line(p->text + at, n, &object, &error));
    if (!object) return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: no JSON object, byte %d: %s", p->path, line_number(p, at), error.position, error.text);
    const hx_status status = add_object(j, at, object);
    json_decref(object);
    return status;
}

/* Bytes of the mark that a program has put before the first line, to say that this is UTF-8. */
static int64_t mark_bytes(const hx__piece *p, int64_t line) {
    static const char mark[] = "\xef\xbb\xbf";
    return line == 0 && p->n_bytes >= 3 && memcmp(p->text, mark, 3) == 0 ? 3 : 0;
}

/* A line belongs to the piece in which it begins. */
static hx_status add_lines(const job *j) {
    const hx__piece *p = j->piece;
    int64_t at = p->begin;
    if (at > 0) { /* behind the end of the line that is under way, which may be the byte before */
        const char *newline = memchr(p->text + at - 1, '\n', (size_t)(p->n_bytes - at + 1));
        at = newline ? newline - p->text + 1 : p->n_bytes;
    }
    while (at < p->end) {
        const char *newline = memchr(p->text + at, '\n', (size_t)(p->n_bytes - at));
        const int64_t end = newline ? newline - p->text : p->n_bytes, begin = at + mark_bytes(p, at);
        HX_TRY(add_line(j, begin, end - begin));
        at = end + 1;
    }
    return HX_OK;
}

void hx__piece_encode(hx__piece *p, const hx__piece_rules *rules, hx_encoder *encoder) {
    const job j = {.piece = p, .rules = rules, .encoder = encoder};
    p->ids.n = p->documents.n = p->unmasked.n = 0;
    p->status = p->is_lines ? add_lines(&j) : add_part(&j);
    if (p->status != HX_OK) snprintf(p->message, sizeof p->message, "%s", hx_error_message());
}

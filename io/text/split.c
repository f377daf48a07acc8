/* Text to words by a pattern. PCRE2 sees valid UTF-8 only: a text is cut at bytes that are none before it is matched. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "io/text/tokenizer_impl.h"

#define PATTERN_MOST    4096        /* bytes */
#define JIT_STACK_FIRST (32 << 10)
#define JIT_STACK_MOST  (8 << 20)
#define HEAP_MOST_KIB   (64u << 10) /* of the interpreter, where there is no JIT */
#define MATCHES_LEAST   10000000u   /* steps of a match: PCRE2's own limit, */
#define MATCHES_BYTE    16          /* and for texts in which a single word may need more, so many a byte */
#define WHITE           "{White_Space}"

/* ---- Oniguruma's dialect to PCRE2's ----
 * Both come from Perl's, with traps: \h is a hexadecimal digit in one and a space in the other, \w and \s differ in a few characters,
 * ^ and $ mean lines in one, a class holds classes. So only what means the same passes, \s is written out, and all else is refused. */

typedef struct reader {
    const char *text, *source;
    size_t at;
    bool in_class;
    char *out;
    size_t n_out; /* room: 8 times the text's length is more than any translation needs */
} reader;

static hx_status refuse(const reader *r, size_t n, const char *why) {
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: '%.*s' at byte %zu of the pattern %.200s: %s", r->source, (int)n, r->text + r->at, r->at, r->text, why);
}

static void take(reader *r, size_t n) {
    memcpy(r->out + r->n_out, r->text + r->at, n);
    r->n_out += n;
    r->at += n;
}

static hx_status read_escape(reader *r) {
    const char *s = r->text + r->at;
    if (s[1] == 's' || s[1] == 'S') {
        r->n_out += (size_t)sprintf(r->out + r->n_out, "\\%c" WHITE, s[1] == 's' ? 'p' : 'P');
        r->at += 2;
        return HX_OK;
    }
    if ((s[1] == 'p' || s[1] == 'P') && s[2] == '{') {
        size_t n = 3 + strspn(s + 3, "^_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");
        if (s[n] != '}') return refuse(r, n, "expected \\p{NAME}");
        take(r, n + 1);
        return HX_OK;
    }
    if (s[1] == '\0' || (!strchr("rntdD", s[1]) && !ispunct((unsigned char)s[1])))
        return refuse(r, s[1] ? 2 : 1, "known are \\s \\S \\d \\D \\r \\n \\t \\p{NAME} \\P{NAME} and signs");
    take(r, 2);
    return HX_OK;
}

static hx_status read_in_class(reader *r) {
    const char *s = r->text + r->at;
    if (*s == '\\') return read_escape(r);
    if (*s == '[') return refuse(r, 1, "a class within a class");
    if (s[0] == '&' && s[1] == '&') return refuse(r, 2, "the common part of two classes");
    r->in_class = *s != ']';
    take(r, 1);
    return HX_OK;
}

static hx_status read_group(reader *r) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    const char *s = r->text + r->at;
    size_t n = s[1] == '?' || s[1] == '*' ? 0 : 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(s, known[i], strlen(known[i])) == 0) n = strlen(known[i]);
    if (n == 0) return refuse(r, 3, "known are ( (?: (?= (?! (?<= (?<! (?> (?i:");
    take(r, n);
    return HX_OK;
}

/* The brace at hand ends {n}: with a ? behind it that is n times or none in one dialect, n times in the other. */
static bool ends_exact(const reader *r) {
    size_t at = r->at;
    while (at > 0 && isdigit((unsigned char)r->text[at - 1])) at--;
    return at > 0 && at < r->at && r->text[at - 1] == '{';
}

static hx_status read_outside(reader *r) {
    const char *s = r->text + r->at;
    size_t n = 1;
    switch (*s) {
    case '\\': return read_escape(r);
    case '(': return read_group(r);
    case '^':
    case '$': return refuse(r, 1, "the begin or end of a line or text");
    case '{':
        if (s[1] == ',') return refuse(r, 2, "expected {from,to}");
        break;
    case '}':
        if (s[1] == '+') return refuse(r, 2, "a repetition of a repetition");
        if (s[1] == '?' && ends_exact(r)) return refuse(r, 2, "a fixed repetition with a question mark");
        break;
    case '[':
        r->in_class = true;
        n = s[1] == '^' ? 2 : 1;
        if (s[n] == ']') return refuse(r, n + 1, "an empty class");
    }
    take(r, n);
    return HX_OK;
}

static hx_status translate(reader *r) {
    while (r->text[r->at]) HX_TRY(r->in_class ? read_in_class(r) : read_outside(r));
    r->out[r->n_out] = '\0';
    return HX_OK;
}

static void free_compile_context(pcre2_compile_context **context) { pcre2_compile_context_free(*context); }

static hx_status compile(const reader *r, pcre2_code **out) {
    int error;
    PCRE2_SIZE at;
    PCRE2_UCHAR words[200];
    uint32_t can_be_empty = 0;
    HX_CLEANUP(free_compile_context) pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return HX_FAIL(HX_ERR_MEMORY, "PCRE2 has no memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)r->out, r->n_out, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
    if (!code) {
        pcre2_get_error_message(error, words, sizeof words);
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: pattern %.200s: %s", r->source, r->text, (const char *)words);
    }
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &can_be_empty);
    if (can_be_empty) {
        pcre2_code_free(code);
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: pattern %.200s matches where there is nothing", r->source, r->text);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where there is none, pcre2_match interprets */
    *out = code;
    return HX_OK;
}

hx_status hx__pattern_compile(const char *text, const char *source, hx__pattern *out) {
    reader r = {.text = text, .source = source};
    hx__pattern p = {0};
    hx_status status = HX_OK;
    if (strlen(text) > PATTERN_MOST)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: a pattern of %zu bytes: expected at most %d", source, strlen(text), PATTERN_MOST);
    HX_TRY(hx_mem_alloc(8 * strlen(text) + 1, (void **)&r.out));
    HX_TRY_GOTO(translate(&r), done);
    HX_TRY_GOTO(compile(&r, &p.code), done);
    HX_TRY_GOTO(hx_mem_strdup(text, &p.text), done);
    *out = p;
done:
    if (status != HX_OK) hx__pattern_free(&p);
    hx_mem_free((void **)&r.out);
    return status;
}

void hx__pattern_free(hx__pattern *pattern) {
    pcre2_code_free(pattern->code);
    pattern->code = NULL;
    hx_mem_free((void **)&pattern->text);
}

/* ---- UTF-8 ---- */

int hx_utf8_length(const uint8_t *s, size_t n) {
    static const struct {
        uint8_t first, last, low, high; /* of the first byte; of the second */
        int length;
    } forms[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
                 {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    if (n == 0) return 0;
    if (s[0] < 0x80) return 1;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (s[0] < forms[i].first || s[0] > forms[i].last) continue;
        if (n < (size_t)forms[i].length || s[1] < forms[i].low || s[1] > forms[i].high) return 0;
        for (int k = 2; k < forms[i].length; k++)
            if ((s[k] & 0xc0) != 0x80) return 0;
        return forms[i].length;
    }
    return 0;
}

static size_t valid_stretch(const uint8_t *s, size_t n) {
    size_t at = 0;
    while (at < n) {
        uint64_t eight;
        if (n - at >= sizeof eight) {
            memcpy(&eight, s + at, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                at += sizeof eight;
                continue;
            }
        }
        int length = hx_utf8_length(s + at, n - at);
        if (length == 0) break;
        at += (size_t)length;
    }
    return at;
}

static size_t broken_stretch(const uint8_t *s, size_t n) {
    size_t at = 0;
    while (at < n && hx_utf8_length(s + at, n - at) == 0) at++;
    return at;
}

/* ---- single characters ---- */

hx_status hx__class_compile(const char *pattern, hx__class *out) {
    int error;
    PCRE2_SIZE at;
    hx__class class = {.code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &at, NULL)};
    if (!class.code) return HX_FAIL(HX_ERR_INTERNAL, "PCRE2 does not take %s: error %d", pattern, error);
    class.match = pcre2_match_data_create(1, NULL);
    if (!class.match) {
        hx__class_free(&class);
        return HX_FAIL(HX_ERR_MEMORY, "PCRE2 has no memory to match with");
    }
    *out = class;
    return HX_OK;
}

void hx__class_free(hx__class *class) {
    pcre2_match_data_free(class->match);
    pcre2_code_free(class->code);
    *class = (hx__class){0};
}

size_t hx__char_of(const hx__class *class, const uint8_t *text, size_t n) {
    int length = hx_utf8_length(text, n);
    if (length == 0) return 0;
    return pcre2_match(class->code, text, (size_t)length, 0, PCRE2_NO_UTF_CHECK, class->match, NULL) >= 0 ? (size_t)length : 0;
}

size_t hx__char_before(const hx__class *class, const uint8_t *text, size_t n) {
    size_t at = n;
    while (at > 0 && n - at < 4 && (text[at - 1] & 0xc0) == 0x80) at--;
    if (at == 0) return 0;
    at--;
    return (size_t)hx_utf8_length(text + at, n - at) == n - at ? hx__char_of(class, text + at, n - at) : 0;
}

/* ---- splitting ---- */

hx_status hx__splitter_init(const hx__pattern *pattern, hx__splitter *out) {
    hx__splitter s = {.pattern = pattern};
    if (pattern->code) {
        s.data = pcre2_match_data_create(1, NULL);
        s.context = pcre2_match_context_create(NULL);
        s.stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, NULL);
        if (!s.data || !s.context) {
            hx__splitter_free(&s);
            return HX_FAIL(HX_ERR_MEMORY, "PCRE2 has no memory to match with");
        }
        if (s.stack) pcre2_jit_stack_assign(s.context, NULL, s.stack); /* NULL: PCRE2 was built without its JIT */
        pcre2_set_heap_limit(s.context, HEAP_MOST_KIB);
    }
    *out = s;
    return HX_OK;
}

void hx__splitter_free(hx__splitter *s) {
    pcre2_jit_stack_free(s->stack);
    pcre2_match_context_free(s->context);
    pcre2_match_data_free(s->data);
    *s = (hx__splitter){0};
}

static hx_status explain(const hx__splitter *s, int error, size_t at) {
    PCRE2_UCHAR words[200];
    pcre2_get_error_message(error, words, sizeof words);
    return HX_FAIL(error == PCRE2_ERROR_NOMEMORY ? HX_ERR_MEMORY : HX_ERR_UNSUPPORTED, "pattern %.200s at byte %zu of a stretch of text: %s",
                   s->pattern->text, at, (const char *)words);
}

static hx_status split_valid(hx__splitter *s, const uint8_t *text, size_t n, hx__word_fn word, void *arg) {
    const PCRE2_SIZE *found = s->data ? pcre2_get_ovector_pointer(s->data) : NULL;
    if (!found) return n > 0 ? word(arg, text, n) : HX_OK;
    const size_t most = n < UINT32_MAX / MATCHES_BYTE ? n * MATCHES_BYTE : UINT32_MAX;
    pcre2_set_match_limit(s->context, most > MATCHES_LEAST ? (uint32_t)most : MATCHES_LEAST);
    for (size_t at = 0; at < n;) {
        int rc = pcre2_match(s->pattern->code, text, n, at, PCRE2_NO_UTF_CHECK, s->data, s->context);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) return explain(s, rc, at);
        size_t begin = rc < 0 ? n : found[0];
        if (begin > at) HX_TRY(word(arg, text + at, begin - at));
        if (begin == n) break;
        HX_TRY(word(arg, text + begin, found[1] - begin));
        at = found[1];
    }
    return HX_OK;
}

hx_status hx__split(hx__splitter *s, const uint8_t *text, size_t n, hx__word_fn word, void *arg) {
    while (n > 0) {
        size_t valid = valid_stretch(text, n);
        HX_TRY(split_valid(s, text, valid, word, arg));
        size_t broken = broken_stretch(text + valid, n - valid);
        if (broken > 0) HX_TRY(word(arg, text + valid, broken));
        text += valid + broken;
        n -= valid + broken;
    }
    return HX_OK;
}

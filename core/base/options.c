#include "core/base/options.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/mem.h"

#define KEY_BYTES 128 /* longer keys are never near a known one */

/* ---- numbers ---- */

/* strtod and printf follow the locale of the program, which may write a decimal comma; files must not depend on
 * it, so numbers are read and written under the C locale of this thread. */
typedef struct number_locale {
    locale_t plain, before;
} number_locale;

static number_locale enter_plain_locale(void) {
    number_locale l = {.plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0), .before = (locale_t)0};
    if (l.plain) l.before = uselocale(l.plain);
    return l;
}

static void leave_plain_locale(number_locale l) {
    if (!l.plain) return;
    uselocale(l.before);
    freelocale(l.plain);
}

/* strtod also takes blanks, "nan", "inf" and hexadecimal, none of which is meant in a configuration. */
static bool starts_like_number(const char *text) {
    if (*text == '+' || *text == '-') text++;
    if (*text == '.') text++;
    return isdigit((unsigned char)*text) && !(text[0] == '0' && (text[1] == 'x' || text[1] == 'X'));
}

static bool suffix_factor(const char *suffix, double *factor) {
    static const struct {
        const char *text;
        double factor;
    } suffixes[] = {{"", 1}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"Ki", 0x1p10}, {"Mi", 0x1p20}, {"Gi", 0x1p30}};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (strcmp(suffix, suffixes[i].text) == 0) {
            *factor = suffixes[i].factor;
            return true;
        }
    }
    return false;
}

static bool read_real(const char *text, double *out) {
    double factor;
    char *end;
    if (!starts_like_number(text)) return false;
    number_locale l = enter_plain_locale();
    double value = strtod(text, &end);
    leave_plain_locale(l);
    if (!suffix_factor(end, &factor) || !isfinite(value * factor)) return false;
    *out = value * factor;
    return true;
}

hx_status hx_parse_real(const char *text, double *out) {
    if (!read_real(text, out))
        return HX_FAIL(HX_ERR_CONFIG, "'%.64s' is not a number (expected e.g. 12, 3e-4, 64k, 4Mi)", text);
    return HX_OK;
}

/* Plain digits are read exactly; 1e6 and 64k go through a double, which is exact up to 2^53. */
static bool read_int(const char *text, int64_t *out) {
    char *end;
    double real;
    if (!starts_like_number(text)) return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (*end == '\0') {
        *out = value;
        return errno == 0;
    }
    if (!read_real(text, &real) || real != floor(real) || fabs(real) > 0x1p53) return false;
    *out = (int64_t)real;
    return true;
}

static void format_real(double value, char *buffer, size_t n_bytes) {
    number_locale l = enter_plain_locale();
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buffer, n_bytes, "%.*g", digits, value);
        if (strtod(buffer, NULL) == value) break;
    }
    leave_plain_locale(l);
}

/* ---- setting ---- */

static bool read_bool(const char *text, bool *out) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static bool read_choice(const char *choices, const char *text, int *out) {
    size_t n = strlen(text);
    int index = 0;
    for (const char *word = choices; word; index++) {
        const char *bar = strchr(word, '|');
        size_t n_word = bar ? (size_t)(bar - word) : strlen(word);
        if (n_word == n && memcmp(word, text, n) == 0) {
            *out = index;
            return true;
        }
        word = bar ? bar + 1 : NULL;
    }
    return false;
}

/* Length of the UTF-8 sequence at p, 0 if it is none. Configurations are stored as YAML, which is UTF-8. */
static int utf8_length(const unsigned char *p) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int n = *p < 0x80 ? 1 : (*p & 0xe0) == 0xc0 ? 2 : (*p & 0xf0) == 0xe0 ? 3 : (*p & 0xf8) == 0xf0 ? 4 : 0;
    if (n < 2) return n;
    uint32_t code = (uint32_t)*p & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3fu);
    }
    return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

static hx_status set_text(char *field, const char *key, const char *value, const char *source) {
    size_t n = strlen(value);
    if (n >= HX_OPTION_TEXT)
        return HX_FAIL(HX_ERR_CONFIG, "%s (%s): a text of %zu bytes, at most %d fit", key, source, n, HX_OPTION_TEXT - 1);
    for (const unsigned char *p = (const unsigned char *)value; *p;) {
        int length = utf8_length(p);
        if (*p < 0x20 || *p == 0x7f || length == 0)
            return HX_FAIL(HX_ERR_CONFIG, "%s (%s): byte 0x%02x at position %td: expected UTF-8 without control characters",
                           key, source, *p, p - (const unsigned char *)value);
        p += length;
    }
    memcpy(field, value, n + 1);
    return HX_OK;
}

static hx_status set_long(char **field, const char *value) {
    char *copy;
    HX_TRY(hx_mem_strdup(value, &copy));
    hx_mem_free((void **)field);
    *field = copy;
    return HX_OK;
}

static hx_status set_int(const hx_option *o, int64_t *field, const char *key, const char *value, const char *source) {
    int64_t v;
    if (!read_int(value, &v))
        return HX_FAIL(HX_ERR_CONFIG, "%s = '%.64s' (%s): expected a whole number, e.g. 100, 64k, 4Mi", key, value, source);
    if ((double)v < o->min || (double)v > o->max)
        return HX_FAIL(HX_ERR_CONFIG, "%s = %lld (%s): expected %.17g to %.17g", key, (long long)v, source, o->min, o->max);
    *field = v;
    return HX_OK;
}

static hx_status set_real(const hx_option *o, double *field, const char *key, const char *value, const char *source) {
    double v;
    if (!read_real(value, &v))
        return HX_FAIL(HX_ERR_CONFIG, "%s = '%.64s' (%s): expected a number, e.g. 0.1, 3e-4", key, value, source);
    if (v < o->min || v > o->max)
        return HX_FAIL(HX_ERR_CONFIG, "%s = %.10g (%s): expected %.10g to %.10g", key, v, source, o->min, o->max);
    *field = v;
    return HX_OK;
}

static hx_status unknown_key(const hx_option_section *sections, int n_sections, const char *key, const char *source) {
    char near[KEY_BYTES];
    if (hx_options_nearest(sections, n_sections, key, near, sizeof near))
        return HX_FAIL(HX_ERR_CONFIG, "%.128s (%s): there is no such option; did you mean %s?", key, source, near);
    return HX_FAIL(HX_ERR_CONFIG, "%.128s (%s): there is no such option", key, source);
}

hx_status hx_options_set(const hx_option_section *sections, int n_sections, const char *key, const char *value,
                         const char *source) {
    const hx_option_section *section;
    const hx_option *o = hx_options_find(sections, n_sections, key, &section);
    if (!o) return unknown_key(sections, n_sections, key, source);
    void *field = (char *)section->config + o->offset;
    switch (o->kind) {
    case HX_OPTION_INT: return set_int(o, field, key, value, source);
    case HX_OPTION_REAL: return set_real(o, field, key, value, source);
    case HX_OPTION_STR: return set_text(field, key, value, source);
    case HX_OPTION_LONG: return set_long(field, value);
    case HX_OPTION_BOOL:
        if (read_bool(value, field)) return HX_OK;
        return HX_FAIL(HX_ERR_CONFIG, "%s = '%.64s' (%s): expected true or false", key, value, source);
    case HX_OPTION_CHOICE:
        if (read_choice(o->choices, value, field)) return HX_OK;
        return HX_FAIL(HX_ERR_CONFIG, "%s = '%.64s' (%s): expected one of %s", key, value, source, o->choices);
    }
    return HX_FAIL(HX_ERR_INTERNAL, "%s: its table row has the unknown kind %d", key, (int)o->kind);
}

/* ---- finding ---- */

void hx_option_key(const hx_option_section *section, const hx_option *option, char *buffer, size_t n_bytes) {
    snprintf(buffer, n_bytes, "%s%s%s", section->prefix, *section->prefix ? "." : "", option->name);
}

const hx_option *hx_options_find(const hx_option_section *sections, int n_sections, const char *key,
                                 const hx_option_section **section) {
    char name[KEY_BYTES];
    for (int s = 0; s < n_sections; s++) {
        for (int i = 0; i < sections[s].n_options; i++) {
            hx_option_key(&sections[s], &sections[s].options[i], name, sizeof name);
            if (strcmp(name, key) != 0) continue;
            if (section) *section = &sections[s];
            return &sections[s].options[i];
        }
    }
    return NULL;
}

static int least(int a, int b) { return a < b ? a : b; }

static char fold(char c) { return c == '-' ? '_' : (char)tolower((unsigned char)c); }

/* Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours, the slips of typing.
 * Both texts are shorter than KEY_BYTES. */
static int edit_distance(const char *a, const char *b) {
    int rows[3][KEY_BYTES + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    int n = (int)strlen(b);
    for (int j = 0; j <= n; j++) above[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            char x = fold(a[i - 1]), y = fold(b[j - 1]);
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y) row[j] = least(row[j], before[j - 2] + 1);
        }
        int *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[n];
}

/* A key is near when few letters differ; the name under a wrong or missing section ("lr" for "optim.lr") counts as
 * one letter. */
const char *hx_options_nearest(const hx_option_section *sections, int n_sections, const char *key, char *buffer,
                               size_t n_bytes) {
    char name[KEY_BYTES];
    if (strlen(key) >= KEY_BYTES) return NULL;
    const char *dot = strrchr(key, '.'), *bare = dot ? dot + 1 : key;
    int best = 2 + (int)strlen(bare) / 3;
    bool found = false;
    for (int s = 0; s < n_sections; s++) {
        for (int i = 0; i < sections[s].n_options; i++) {
            hx_option_key(&sections[s], &sections[s].options[i], name, sizeof name);
            int distance = least(edit_distance(key, name), 1 + edit_distance(bare, sections[s].options[i].name));
            if (distance >= best) continue;
            best = distance;
            found = true;
            snprintf(buffer, n_bytes, "%s", name);
        }
    }
    return found ? buffer : NULL;
}

/* ---- showing ---- */

static void format_choice(const char *choices, int index, char *buffer, size_t n_bytes) {
    const char *word = choices;
    for (int i = 0; i < index && word; i++) {
        word = strchr(word, '|');
        if (word) word++;
    }
    if (index < 0 || !word) word = "?";
    snprintf(buffer, n_bytes, "%.*s", (int)strcspn(word, "|"), word);
}

void hx_option_format(const hx_option *option, const void *config, char *buffer, size_t n_bytes) {
    const char *field = (const char *)config + option->offset;
    switch (option->kind) {
    case HX_OPTION_INT: snprintf(buffer, n_bytes, "%lld", (long long)*(const int64_t *)(const void *)field); break;
    case HX_OPTION_REAL: format_real(*(const double *)(const void *)field, buffer, n_bytes); break;
    case HX_OPTION_BOOL: snprintf(buffer, n_bytes, "%s", *(const bool *)field ? "true" : "false"); break;
    case HX_OPTION_STR: snprintf(buffer, n_bytes, "%.*s", HX_OPTION_TEXT - 1, field); break;
    case HX_OPTION_LONG: snprintf(buffer, n_bytes, "%s", *(char *const *)(const void *)field ? *(char *const *)(const void *)field : ""); break;
    case HX_OPTION_CHOICE: format_choice(option->choices, *(const int *)(const void *)field, buffer, n_bytes); break;
    }
}

/* ---- lists ---- */

/* Ends a word at its comma, where "\\," becomes one that belongs to it. Returns what follows, NULL: nothing does. */
static char *end_word(char *word) {
    char *to = word;
    for (const char *from = word;; from++) {
        const bool is_escaped = from[0] == '\\' && from[1] == ',';
        from += is_escaped;
        if (*from == '\0' || (*from == ',' && !is_escaped)) {
            char *next = *from == ',' ? word + (from - word) + 1 : NULL;
            *to = '\0';
            return next;
        }
        *to++ = *from;
    }
}

hx_status hx_word_list_of(const char *text, hx_word_list *out) {
    if (strlen(text) >= sizeof out->text)
        return HX_FAIL(HX_ERR_CONFIG, "'%.40s...' has %zu bytes: expected fewer than %zu", text, strlen(text), sizeof out->text);
    strcpy(out->text, text);
    out->n = 0;
    for (char *word = out->text, *next; word != NULL; word = next) {
        next = end_word(word);
        while (isspace((unsigned char)*word)) word++;
        size_t n = strlen(word);
        while (n > 0 && isspace((unsigned char)word[n - 1])) word[--n] = '\0';
        if (n > 0) out->items[out->n++] = word;
    }
    return HX_OK;
}

/* Where a text may be cut without a trace in its ids.
 *
 * A cut is safe where no word lies across it, where the words before it do not look at what comes behind, and the other way round. Added
 * tokens must not lie across it either, nor take white space from the other side. Whether that is so follows from the pattern, for the
 * patterns below; of others nothing is known.
 *
 * GPT-2's: no alternative has white space behind anything else, so that a word ends where white space follows what is none: "x|\n", "x|\r\n".
 * The only look ahead is (?!\S), of white space, which does not end there. (Behind a newline a cut would not do: \s+(?!\S) leaves the last
 * one of a run to the next word only if one follows.)
 * LLaMA 3's and its kin: a sign takes the newlines behind it, but no alternative has anything behind a newline but white space, and GPT-4o's
 * slashes: "\n|x". \s*[\r\n]+ takes a run of white space that ends in a newline as a whole, so that (?!\S) is not reached in it. */
#include <string.h>

#include "io/text/tokenizer_impl.h"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER       "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER       "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define LEAD        "[^\\r\\n\\p{L}\\p{N}]?"
#define NO_WHITE    "\\P{White_Space}"
#define NO_WHITE_SLASH "[^\\p{White_Space}/]"
#define WHITES      "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *pattern;
    const char *class; /* of the character beside the newline */
    bool is_before;    /* it stands before the newline, and the cut between them; else behind */
} rules[] = {
    {HX_GPT2_PATTERN, NO_WHITE, true},
    /* LLaMA 3, GPT-4 */
    {CONTRACTION "|" LEAD "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" WHITES, NO_WHITE_SLASH, false},
    /* Qwen 2 */
    {CONTRACTION "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" WHITES, NO_WHITE_SLASH, false},
    /* GPT-4o, LLaMA 4 */
    {LEAD "[" UPPER "]*[" LOWER "]+" CONTRACTION "?|" LEAD "[" UPPER "]+[" LOWER "]*" CONTRACTION
          "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" WHITES, NO_WHITE_SLASH, false},
};
enum { N_RULES = sizeof rules / sizeof *rules };

/* A token that holds a line's end may lie across a cut; one that takes white space reaches over it. */
static bool has_wide_tokens(const hx_tokenizer *t) {
    for (int64_t i = 0; i < t->n_added; i++)
        if (t->added[i].lstrip || t->added[i].rstrip || strpbrk(t->added[i].text, "\r\n")) return true;
    return false;
}

static int find_rule(const hx_tokenizer *t) {
    if (!t->pattern.text || t->prefix_space || has_wide_tokens(t)) return -1;
    for (int i = 0; i < N_RULES; i++)
        if (strcmp(t->pattern.text, rules[i].pattern) == 0) return i;
    return -1;
}

/* Behind a newline, or before it and a carriage return that belongs to it. @return SIZE_MAX: not beside this one */
static size_t cut_beside(int rule, const hx__class *class, const uint8_t *text, size_t n, size_t from, size_t newline) {
    if (!rules[rule].is_before) return hx__char_of(class, text + newline + 1, n - newline - 1) > 0 ? newline + 1 : SIZE_MAX;
    if (newline > from && text[newline - 1] == '\r') newline--;
    return hx__char_before(class, text, newline) > 0 ? newline : SIZE_MAX;
}

hx_status hx_tokenizer_cut(const hx_tokenizer *t, const char *text, size_t n, size_t from, size_t *out) {
    HX_CLEANUP(hx__class_free) hx__class class = {0};
    const int rule = t->is_bytes ? -1 : find_rule(t);
    size_t at = t->is_bytes && from < n ? from : n;
    if (rule >= 0) HX_TRY(hx__class_compile(rules[rule].class, &class));
    while (rule >= 0 && from < n) {
        const char *newline = memchr(text + from, '\n', n - from);
        const size_t place = newline ? cut_beside(rule, &class, (const uint8_t *)text, n, from, (size_t)(newline - text)) : n;
        if (place != SIZE_MAX) {
            at = place;
            break;
        }
        from = (size_t)(newline - text) + 1;
    }
    *out = at;
    return HX_OK;
}

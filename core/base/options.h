/* Typed options: each module declares its configuration once, as a list, at the place where it is used. The
 * list becomes a plain struct, its defaults and a table from which files, environment, command line and
 * `--help` are served.
 *
 *     // kind, field, default, min, max, help
 *     #define HX_ADAMW_OPTIONS(X) \
 *         X(REAL, lr, 1e-3, 0, 10, "learning rate") \
 *         X(CHOICE, norm, 0, "layer|rms", 0, "normalisation")
 *     HX_OPTIONS_STRUCT(hx_adamw_config, HX_ADAMW_OPTIONS);
 *     ...
 *     hx_adamw_config c = HX_OPTIONS_DEFAULT(HX_ADAMW_OPTIONS);                    // a user's code
 *     #define HX_OPTION_OWNER hx_adamw_config
 *     static const hx_option table[] = HX_OPTIONS_TABLE(HX_ADAMW_OPTIONS);
 *     #undef HX_OPTION_OWNER
 *
 * Kinds: INT (int64_t), REAL (double), BOOL (bool), TEXT (char[HX_OPTION_TEXT]) and CHOICE (int: the index
 * into the words that stand in the place of min, separated by '|'); LONG (char *: any bytes but NUL, of any length; NULL: empty;
 * owned by the struct, whose owner calls hx_mem_free; for structs that are neither copied nor written as files).
 */
#ifndef HX_CORE_BASE_OPTIONS_H
#define HX_CORE_BASE_OPTIONS_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_OPTION_TEXT 512

typedef enum hx_option_kind { HX_OPTION_INT, HX_OPTION_REAL, HX_OPTION_BOOL, HX_OPTION_STR, HX_OPTION_CHOICE, HX_OPTION_LONG } hx_option_kind;

typedef struct hx_option {
    const char *name; /* field's name */
    hx_option_kind kind;
    size_t offset; /* bytes into the config struct */
    double min, max;
    const char *choices; /* "a|b|c" for CHOICE, else NULL */
    const char *help;
} hx_option;

/* A config struct that takes part: "--<prefix>.<name>=value", or "--<name>" when prefix is "". */
typedef struct hx_option_section {
    const char *prefix;
    const char *title; /* heading in --help */
    const hx_option *options;
    int n_options;
    void *config;         /* borrowed, written by hx_options_set */
    const void *defaults; /* borrowed, a config struct with the defaults */
} hx_option_section;

#define HX_OPTION_FIELD_INT_(f)                     int64_t f;
#define HX_OPTION_FIELD_REAL_(f)                    double f;
#define HX_OPTION_FIELD_BOOL_(f)                    bool f;
#define HX_OPTION_FIELD_TEXT_(f)                    char f[HX_OPTION_TEXT];
#define HX_OPTION_FIELD_CHOICE_(f)                  int f;
#define HX_OPTION_FIELD_LONG_(f)                    char *f;
#define HX_OPTION_FIELD_(kind, f, def, lo, hi, text) HX_OPTION_FIELD_##kind##_(f)
#define HX_OPTION_DEF_(kind, f, def, lo, hi, text)   .f = def,
#define HX_OPTION_ROW_INT_(S, f, lo, hi, text)                                                               \
    {#f, HX_OPTION_INT, offsetof(S, f), (double)(lo), (double)(hi), NULL, text},
#define HX_OPTION_ROW_REAL_(S, f, lo, hi, text)                                                              \
    {#f, HX_OPTION_REAL, offsetof(S, f), (double)(lo), (double)(hi), NULL, text},
#define HX_OPTION_ROW_BOOL_(S, f, lo, hi, text)   {#f, HX_OPTION_BOOL, offsetof(S, f), 0, 1, NULL, text},
#define HX_OPTION_ROW_TEXT_(S, f, lo, hi, text)   {#f, HX_OPTION_STR, offsetof(S, f), 0, 0, NULL, text},
#define HX_OPTION_ROW_LONG_(S, f, lo, hi, text)   {#f, HX_OPTION_LONG, offsetof(S, f), 0, 0, NULL, text},
#define HX_OPTION_ROW_CHOICE_(S, f, lo, hi, text) {#f, HX_OPTION_CHOICE, offsetof(S, f), 0, 0, lo, text},

/** Declare the struct of a list. */
#define HX_OPTIONS_STRUCT(S, LIST)                                                                           \
    typedef struct S {                                                                                       \
        LIST(HX_OPTION_FIELD_)                                                                               \
    } S
/** Initialiser with all defaults. */
#define HX_OPTIONS_DEFAULT(LIST) {LIST(HX_OPTION_DEF_)}
/* The table needs the struct's name in each row, which a list macro cannot pass on: define HX_OPTION_OWNER
 * to it before using HX_OPTIONS_TABLE. */
#define HX_OPTION_ROW_(kind, f, def, lo, hi, text) HX_OPTION_ROW_##kind##_(HX_OPTION_OWNER, f, lo, hi, text)
/** Initialiser of `static const hx_option table[]`. */
#define HX_OPTIONS_TABLE(LIST) {LIST(HX_OPTION_ROW_)}

/** Set one option from text. @param key "prefix.name"; @param source shown in messages, e.g. "run.yaml:7"
 *  @return HX_ERR_CONFIG: unknown key (the nearest name is suggested), not a number, out of range */
hx_status hx_options_set(const hx_option_section *sections, int n_sections, const char *key, const char *value,
                         const char *source);
/** The option's key: "prefix.name", or "name" in a section without a prefix; cut to n_bytes. */
void hx_option_key(const hx_option_section *section, const hx_option *option, char *buffer, size_t n_bytes);
/** The option of that key, or NULL. */
const hx_option *hx_options_find(const hx_option_section *sections, int n_sections, const char *key,
                                 const hx_option_section **section);
/** The nearest known key by edit distance; NULL if none is near. Writes it to buffer. */
const char *hx_options_nearest(const hx_option_section *sections, int n_sections, const char *key, char *buffer,
                               size_t n_bytes);
/** Value as text, e.g. for help, logs and checkpoints. `config` is the struct that holds it. */
void hx_option_format(const hx_option *option, const void *config, char *buffer, size_t n_bytes);
/* The words of an option that is a list. */
typedef struct hx_word_list {
    char text[HX_OPTION_TEXT];
    const char *items[HX_OPTION_TEXT / 2]; /* [n], into text */
    int n;
} hx_word_list;
/** Split "a, b*" at its commas; "\," is a comma within a word. Blanks around words, and words of nothing, are left out.
 *  @return HX_ERR_CONFIG: the text is longer than an option's */
hx_status hx_word_list_of(const char *text, hx_word_list *out);
/** Parse a number with an optional suffix k, M, G (powers of 1000) or Ki, Mi, Gi. */
hx_status hx_parse_real(const char *text, double *out);

#ifdef __cplusplus
}
#endif
#endif

#include "launch/config_impl.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

extern char **environ;

#define KEY_BYTES 160

/* ---- the sections of a run ---- */

#define HX_OPTION_OWNER hx_run_config
static const hx_option run_options[] = HX_OPTIONS_TABLE(HX_RUN_OPTIONS);
#undef HX_OPTION_OWNER

static const hx_config run_defaults = HX_CONFIG_DEFAULT;

int hx_config_sections(hx_config *config, hx_option_section out[HX_CONFIG_MAX_SECTIONS]) {
    const struct {
        const hx_option *options;
        int n_options;
    } tables[] = {{run_options, sizeof run_options / sizeof *run_options},
                  {hx_data_options, hx_data_n_options},
                  {hx_gpt_options, hx_gpt_n_options},
                  {hx_train_options, hx_train_n_options},
                  {hx_optim_options, hx_optim_n_options},
                  {hx_mesh_options, hx_mesh_n_options},
                  {hx_ddp_options, hx_ddp_n_options},
                  {hx_ckpt_options, hx_ckpt_n_options}};
    int n = 0;
#define SECTION(field, prefix_, title_, type, list)                                                          \
    out[n] = (hx_option_section){.prefix = prefix_, .title = title_, .options = tables[n].options,           \
                                 .n_options = tables[n].n_options, .config = &config->field,                 \
                                 .defaults = &run_defaults.field};                                           \
    n++;
    HX_CONFIG_SECTIONS(SECTION)
#undef SECTION
    _Static_assert(sizeof tables / sizeof *tables <= HX_CONFIG_MAX_SECTIONS, "sections do not fit");
    return n;
}

/* ---- environment ---- */

/* Variables that other parts of Helix read themselves; they are described in the README. */
static bool is_read_elsewhere(const char *name, size_t n) {
    static const char *const names[] = {"HELIX_STREAM", "HELIX_CPU_ISA", "HELIX_GEMM", "HELIX_ALLOC", "HELIX_CUDA_PLUGIN", "HELIX_CUDA_SHARE",
                                        "HELIX_NCCL_TIMEOUT", "HELIX_SHM", "HELIX_COMM_CHECK", "HELIX_COMM_TIMES"};
    static const char *const prefixes[] = {"HELIX_TEST_", "HELIX_EMU_"}; /* tests, and the CUDA device that they emulate */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0) return true;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

/* "train.batch" -> "HELIX_TRAIN_BATCH" */
static void variable_name(const char *key, char out[KEY_BYTES]) {
    int n = snprintf(out, KEY_BYTES, "HELIX_%s", key);
    for (int i = 0; i < n && i < KEY_BYTES - 1; i++)
        out[i] = out[i] == '.' ? '_' : (char)toupper((unsigned char)out[i]);
}

/* A misspelt variable would otherwise do nothing, silently. */
static hx_status unknown_variable(const hx_option_section *sections, int n_sections, const char *name) {
    char guess[KEY_BYTES], near[KEY_BYTES], variable[KEY_BYTES];
    snprintf(guess, sizeof guess, "%s", name + strlen("HELIX_"));
    for (char *p = guess; *p; p++) *p = (char)tolower((unsigned char)*p);
    for (int s = 0; s < n_sections; s++) {
        size_t n = strlen(sections[s].prefix);
        if (n && strncmp(guess, sections[s].prefix, n) == 0 && guess[n] == '_') guess[n] = '.';
    }
    if (!hx_options_nearest(sections, n_sections, guess, near, sizeof near))
        return HX_FAIL(HX_ERR_CONFIG, "%.128s in the environment: there is no such option", name);
    variable_name(near, variable);
    return HX_FAIL(HX_ERR_CONFIG, "%.128s in the environment: there is no such option; did you mean %s?", name, variable);
}

static hx_status apply_variable(const hx_option_section *sections, int n_sections, const char *name, const char *value) {
    char key[KEY_BYTES], variable[KEY_BYTES], source[KEY_BYTES + 32];
    for (int s = 0; s < n_sections; s++) {
        for (int i = 0; i < sections[s].n_options; i++) {
            hx_option_key(&sections[s], &sections[s].options[i], key, sizeof key);
            variable_name(key, variable);
            if (strcmp(variable, name) != 0) continue;
            snprintf(source, sizeof source, "%s in the environment", name);
            return hx_options_set(sections, n_sections, key, value, source);
        }
    }
    return unknown_variable(sections, n_sections, name);
}

static hx_status apply_environment(const hx_option_section *sections, int n_sections) {
    for (char **entry = environ; entry && *entry; entry++) {
        const char *equals = strchr(*entry, '=');
        if (!equals || strncmp(*entry, "HELIX_", strlen("HELIX_")) != 0) continue;
        size_t n = (size_t)(equals - *entry);
        if (is_read_elsewhere(*entry, n)) continue;
        char name[KEY_BYTES];
        if (n >= sizeof name) return HX_FAIL(HX_ERR_CONFIG, "%.64s... in the environment: there is no such option", *entry);
        memcpy(name, *entry, n);
        name[n] = '\0';
        HX_TRY(apply_variable(sections, n_sections, name, equals + 1));
    }
    return HX_OK;
}

/* ---- arguments ---- */

typedef struct argument {
    char key[KEY_BYTES];
    const char *value; /* borrowed from argv or static */
    int n_words;       /* of argv that it takes */
} argument;

static bool is_truth_word(const char *text) {
    return strcmp(text, "true") == 0 || strcmp(text, "false") == 0;
}

/* What an option means that stands without a value; NULL: it needs one. */
static const char *value_alone(const hx_option *option, const char *key) {
    if (option->kind == HX_OPTION_BOOL) return "true";
    return strcmp(key, "profile") == 0 ? "10" : NULL;
}

/* Of those: whether the next word is its value, and not one of the command's. */
static bool is_value(const hx_option *option, const char *word) {
    return option->kind == HX_OPTION_BOOL ? is_truth_word(word) : isdigit((unsigned char)word[0]) != 0;
}

/* The forms "--key=value", "--key value", and "--flag" for those that may stand alone; "--key value" may not swallow another option. */
static hx_status read_argument(const hx_option_section *sections, int n_sections, int argc, char *const *argv,
                               argument *out) {
    const char *word = argv[0] + 2, *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    if (n == 0 || n >= sizeof out->key)
        return HX_FAIL(HX_ERR_CONFIG, "'%.64s' on the command line: there is no such option", argv[0]);
    for (size_t i = 0; i < n; i++) out->key[i] = word[i] == '-' ? '_' : word[i];
    out->key[n] = '\0';
    out->n_words = 1;
    if (equals) {
        out->value = equals + 1;
        return HX_OK;
    }
    const hx_option *option = hx_options_find(sections, n_sections, out->key, NULL);
    const char *alone = option ? value_alone(option, out->key) : NULL;
    bool has_next = argc > 1 && strncmp(argv[1], "--", 2) != 0;
    if (alone && !(has_next && is_value(option, argv[1]))) {
        out->value = alone;
        return HX_OK;
    }
    if (!option && strcmp(out->key, "config") != 0)
        return hx_options_set(sections, n_sections, out->key, "", "command line");
    if (!has_next) return HX_FAIL(HX_ERR_CONFIG, "--%s on the command line: expected a value after it", out->key);
    out->value = argv[1];
    out->n_words = 2;
    return HX_OK;
}

static hx_status take_word(hx_words *words, const char *word) {
    HX_TRY(hx_mem_grow((void **)&words->items, &words->capacity, words->n + 1, sizeof *words->items));
    words->items[words->n++] = word;
    return HX_OK;
}

/* One walk over the arguments: files when `files` is set, everything else when it is not. After "--" all are words. */
static hx_status apply_arguments(const hx_option_section *sections, int n_sections, int argc, char *const *argv,
                                 bool files, hx_words *words, int *n_used) {
    bool takes_options = true;
    int i = 0;
    while (i < argc) {
        argument a;
        if (!takes_options || strncmp(argv[i], "--", 2) != 0) {
            if (!words) break;
            if (!files) HX_TRY(take_word(words, argv[i]));
            i++;
        } else if (argv[i][2] == '\0') {
            takes_options = false;
            i++;
        } else {
            HX_TRY(read_argument(sections, n_sections, argc - i, argv + i, &a));
            bool is_file = strcmp(a.key, "config") == 0;
            if (is_file && files) HX_TRY(hx__yaml_apply_file(sections, n_sections, a.value));
            if (!is_file && !files) HX_TRY(hx_options_set(sections, n_sections, a.key, a.value, "command line"));
            i += a.n_words;
        }
    }
    *n_used = i;
    return HX_OK;
}

hx_status hx__config_read(const hx_option_section *sections, int n_sections, const char *yaml_file, int argc,
                          char *const *argv, hx_words *words, int *n_used) {
    int n;
    if (yaml_file) HX_TRY(hx__yaml_apply_file(sections, n_sections, yaml_file));
    HX_TRY(apply_arguments(sections, n_sections, argc, argv, true, words, &n));
    HX_TRY(apply_environment(sections, n_sections));
    HX_TRY(apply_arguments(sections, n_sections, argc, argv, false, words, &n));
    if (n_used) *n_used = n;
    return HX_OK;
}

hx_status hx_config_read(hx_config *config, const char *yaml_file, int argc, char *const *argv, int *n_used) {
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    hx_config result = *config;
    int n_sections = hx_config_sections(&result, sections);
    HX_TRY(hx__config_read(sections, n_sections, yaml_file, argc, argv, NULL, n_used));
    *config = result;
    return HX_OK;
}

hx_status hx_config_parse(hx_config *config, const char *text, size_t n_bytes, const char *source) {
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    hx_config result = *config;
    int n_sections = hx_config_sections(&result, sections);
    HX_TRY(hx__yaml_apply(sections, n_sections, text, n_bytes, source));
    *config = result;
    return HX_OK;
}

/* ---- writing ---- */

typedef struct text_buffer {
    char *bytes;
    int64_t n, capacity;
} text_buffer;

static hx_status HX_PRINTF(2, 3) append(text_buffer *t, const char *format, ...) {
    char piece[64 + HX_OPTION_TEXT];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof piece) return HX_FAIL(HX_ERR_INTERNAL, "a line of %d bytes does not fit", n);
    HX_TRY(hx_mem_grow((void **)&t->bytes, &t->capacity, t->n + n + 1, 1));
    memcpy(t->bytes + t->n, piece, (size_t)n + 1);
    t->n += n;
    return HX_OK;
}

/* A code point that a YAML reader takes literally; the others are written as \U escapes. */
static bool is_literal(uint32_t c) {
    return (c >= 0x20 && c < 0x7f) || (c >= 0xa0 && c < 0xd800) || (c >= 0xe000 && c < 0xfffe && c != 0xfeff) ||
           (c >= 0x10000 && c < 0x110000);
}

/* Texts are always quoted, so that a path called "yes" or "12" stays a text. The option's setter has made sure
 * that they are UTF-8. */
static hx_status append_quoted(text_buffer *t, const char *text) {
    HX_TRY(append(t, "\""));
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        int n = *p < 0x80 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
        uint32_t code = n == 1 ? *p : *p & (0x7fu >> n);
        for (int i = 1; i < n; i++) code = code << 6 | (p[i] & 0x3fu);
        if (*p == '"' || *p == '\\') {
            HX_TRY(append(t, "\\%c", *p));
        } else if (is_literal(code) && code != 0x2028 && code != 0x2029) {
            HX_TRY(append(t, "%.*s", n, (const char *)p));
        } else {
            HX_TRY(append(t, "\\U%08x", code));
        }
        p += n;
    }
    return append(t, "\"");
}

static hx_status append_section(text_buffer *t, const hx_option_section *section) {
    const char *indent = *section->prefix ? "  " : "";
    char value[HX_OPTION_TEXT];
    if (*section->prefix) HX_TRY(append(t, "%s:\n", section->prefix));
    for (int i = 0; i < section->n_options; i++) {
        const hx_option *o = &section->options[i];
        hx_option_format(o, section->config, value, sizeof value);
        HX_TRY(append(t, "%s%s: ", indent, o->name));
        if (o->kind == HX_OPTION_STR) {
            HX_TRY(append_quoted(t, value));
        } else {
            HX_TRY(append(t, "%s", value));
        }
        HX_TRY(append(t, "\n"));
    }
    return HX_OK;
}

hx_status hx_config_text(const hx_config *config, char **out) {
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS], checked[HX_CONFIG_MAX_SECTIONS];
    hx_config copy = *config, scratch = run_defaults;
    text_buffer t = {0};
    hx_status status = HX_OK;
    int n_sections = hx_config_sections(&copy, sections);
    hx_config_sections(&scratch, checked);
    /* A program may have filled the struct by hand: what a file could not say is refused here, not when it is read. */
    for (int s = 0; s < n_sections; s++) {
        for (int i = 0; i < sections[s].n_options; i++) {
            char key[KEY_BYTES], value[HX_OPTION_TEXT];
            hx_option_key(&sections[s], &sections[s].options[i], key, sizeof key);
            hx_option_format(&sections[s].options[i], sections[s].config, value, sizeof value);
            HX_TRY_GOTO(hx_options_set(checked, n_sections, key, value, "configuration"), done);
        }
    }
    for (int s = 0; s < n_sections; s++) HX_TRY_GOTO(append_section(&t, &sections[s]), done);
    *out = t.bytes;
    t.bytes = NULL;
done:
    hx_mem_free((void **)&t.bytes);
    return status;
}

/* ---- checkpoints ---- */

hx_status hx__config_same_model(const hx_config *stored, const hx_config *given, const char *source) {
    for (int i = 0; i < hx_gpt_n_options; i++) {
        char was[HX_OPTION_TEXT], is[HX_OPTION_TEXT];
        if (strncmp(hx_gpt_options[i].name, "recompute", strlen("recompute")) == 0) continue; /* memory for time, not another model */
        hx_option_format(&hx_gpt_options[i], &stored->model, was, sizeof was);
        hx_option_format(&hx_gpt_options[i], &given->model, is, sizeof is);
        if (strcmp(was, is) != 0)
            return HX_FAIL(HX_ERR_MISMATCH, "%.256s was written with model.%s = %s, this run has model.%s = %s", source,
                           hx_gpt_options[i].name, was, hx_gpt_options[i].name, is);
    }
    return HX_OK;
}

hx_status hx__config_same_optimizer(const hx_config *stored, const hx_config *given, const char *source) {
    const hx_option *option = hx_optim_options; /* the first one: optimizer */
    char was[HX_OPTION_TEXT], is[HX_OPTION_TEXT];
    if (stored->optim.optimizer == given->optim.optimizer) return HX_OK;
    hx_option_format(option, &stored->optim, was, sizeof was);
    hx_option_format(option, &given->optim, is, sizeof is);
    return HX_FAIL(HX_ERR_MISMATCH, "%.256s was written with optim.optimizer = %s, this run has %s: begin a run of its own with "
                   "these weights by --init_from", source, was, is);
}

hx_status hx__config_of_checkpoint(const char *file, hx_config *config) {
    char *text = NULL;
    HX_TRY(hx_ckpt_config_text(file, &text));
    hx_config result = run_defaults;
    hx_status status = hx_config_parse(&result, text, strlen(text), file);
    hx_mem_free((void **)&text);
    if (status != HX_OK) return status;
    *config = result;
    return HX_OK;
}

#include "launch/config_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "core/base/mem.h"

#define MAX_BYTES (1 << 20) /* a configuration is a page; more is a mistake, or an attack */
#define KEY_BYTES 160
#define MAX_OPTIONS 512 /* of all sections together */

/* The subset of YAML that a configuration needs is a mapping whose values are scalars or, one level deeper, mappings
 * of scalars. Everything else YAML can do (lists, anchors, tags, several documents) is refused where it stands, so
 * that nothing is ever silently left out. */
typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    const hx_option_section *sections;
    int n_sections;
    const char *source;
    size_t seen_line[MAX_OPTIONS]; /* line of the option's first appearance, 0: none */
    size_t section_line[HX_CONFIG_MAX_SECTIONS];
} reader;

/* "file:line:column: what", counted from 1 as editors do. */
static hx_status HX_PRINTF(3, 4) fail_at(const reader *r, yaml_mark_t mark, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return HX_FAIL(HX_ERR_CONFIG, "%.256s:%zu:%zu: %s", r->source, mark.line + 1, mark.column + 1, text);
}

static hx_status next_event(reader *r) {
    if (r->has_event) yaml_event_delete(&r->event);
    r->has_event = false;
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        yaml_mark_t mark = r->parser.problem_mark;
        return fail_at(r, mark, "%s%s%s", r->parser.context ? r->parser.context : "", r->parser.context ? ": " : "",
                       r->parser.problem ? r->parser.problem : "this is not YAML");
    }
    r->has_event = true;
    return HX_OK;
}

/* Anchors and tags can hide in front of any node. */
static hx_status check_plain(const reader *r) {
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (e->type) {
    case YAML_ALIAS_EVENT: return fail_at(r, e->start_mark, "aliases (*%s) are not supported: write the value", (const char *)e->data.alias.anchor);
    case YAML_SEQUENCE_START_EVENT: return fail_at(r, e->start_mark, "a list: expected a single value");
    case YAML_SCALAR_EVENT: anchor = e->data.scalar.anchor, tag = e->data.scalar.tag; break;
    case YAML_MAPPING_START_EVENT: anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag; break;
    default: break;
    }
    if (anchor) return fail_at(r, e->start_mark, "anchors (&%.64s) are not supported", (const char *)anchor);
    if (tag) return fail_at(r, e->start_mark, "tags (%.64s) are not supported", (const char *)tag);
    return HX_OK;
}

static hx_status read_key(const reader *r, const char *prefix, char key[KEY_BYTES]) {
    const yaml_event_t *e = &r->event;
    HX_TRY(check_plain(r));
    if (e->type != YAML_SCALAR_EVENT) return fail_at(r, e->start_mark, "expected the name of an option");
    const char *name = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    if (n == 0 || strlen(name) != n || n + strlen(prefix) + 2 > KEY_BYTES)
        return fail_at(r, e->start_mark, "a name of %zu bytes: no option is called that", n);
    snprintf(key, KEY_BYTES, "%s%s%s", prefix, *prefix ? "." : "", name);
    return HX_OK;
}

/* Index of an option among all sections' options, in order. */
static int option_index(const reader *r, const hx_option *option, const hx_option_section *section) {
    int index = 0;
    for (const hx_option_section *s = r->sections; s < section; s++) index += s->n_options;
    return index + (int)(option - section->options);
}

static hx_status read_scalar(reader *r, const char *key, yaml_mark_t key_mark) {
    const yaml_event_t *e = &r->event;
    const char *value = (const char *)e->data.scalar.value;
    char where[320];
    snprintf(where, sizeof where, "%.256s:%zu:%zu", r->source, key_mark.line + 1, key_mark.column + 1);
    if (strlen(value) != e->data.scalar.length) return fail_at(r, e->start_mark, "%s: a zero byte in its value", key);
    const hx_option_section *section;
    const hx_option *option = hx_options_find(r->sections, r->n_sections, key, &section);
    if (option) {
        size_t *line = &r->seen_line[option_index(r, option, section)];
        if (*line) return fail_at(r, key_mark, "%s was given before, in line %zu", key, *line);
        *line = key_mark.line + 1;
    }
    return hx_options_set(r->sections, r->n_sections, key, value, where);
}

/* Entering "model:" must name a section that exists, and only once. */
static hx_status enter_section(reader *r, const char *name, yaml_mark_t mark) {
    for (int s = 0; s < r->n_sections; s++) {
        if (strcmp(r->sections[s].prefix, name) != 0) continue;
        if (r->section_line[s])
            return fail_at(r, mark, "section %s was given before, in line %zu", name, r->section_line[s]);
        r->section_line[s] = mark.line + 1;
        return HX_OK;
    }
    char near[64];
    const char *hint = hx_options_nearest(r->sections, r->n_sections, name, near, sizeof near);
    return fail_at(r, mark, "there is no section %.64s%s%s%s", name, hint ? "; did you mean " : "", hint ? hint : "", hint ? "?" : "");
}

static bool is_section(const reader *r, const char *name) {
    for (int s = 0; s < r->n_sections; s++)
        if (*name && strcmp(r->sections[s].prefix, name) == 0) return true;
    return false;
}

/* The pairs of a mapping, up to and with its end. @param prefix  "" at the top, else the section's name */
static hx_status read_mapping(reader *r, const char *prefix) {
    for (;;) {
        char key[KEY_BYTES];
        HX_TRY(next_event(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return HX_OK;
        HX_TRY(read_key(r, prefix, key));
        yaml_mark_t mark = r->event.start_mark;
        HX_TRY(next_event(r));
        HX_TRY(check_plain(r));
        if (r->event.type == YAML_SCALAR_EVENT && !*prefix && is_section(r, key)) {
            if (r->event.data.scalar.length) return fail_at(r, mark, "%s is a section: expected options in it, as in `%s: {name: value}`", key, key);
            HX_TRY(enter_section(r, key, mark)); /* all that was in it is commented out */
        } else if (r->event.type == YAML_SCALAR_EVENT) {
            HX_TRY(read_scalar(r, key, mark));
        } else if (*prefix) {
            return fail_at(r, r->event.start_mark, "%s: expected a value, not a mapping", key);
        } else {
            HX_TRY(enter_section(r, key, mark));
            HX_TRY(read_mapping(r, key));
        }
    }
}

static hx_status read_stream(reader *r) {
    HX_TRY(next_event(r)); /* stream start */
    HX_TRY(next_event(r));
    if (r->event.type == YAML_STREAM_END_EVENT) return HX_OK;
    HX_TRY(next_event(r)); /* first node of the document */
    HX_TRY(check_plain(r));
    bool is_empty = r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.length == 0;
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        HX_TRY(read_mapping(r, ""));
    } else if (!is_empty) {
        return fail_at(r, r->event.start_mark, "expected lines of the form `name: value`");
    }
    HX_TRY(next_event(r)); /* document end */
    HX_TRY(next_event(r));
    if (r->event.type != YAML_STREAM_END_EVENT) return fail_at(r, r->event.start_mark, "a second document");
    return HX_OK;
}

/* YAML forbids tabs in indentation, but libyaml's words for that do not mention tabs. */
static hx_status check_tabs(const char *text, size_t n_bytes, const char *source) {
    size_t line = 1, column = 1;
    bool is_indent = true;
    for (size_t i = 0; i < n_bytes; i++, column++) {
        if (is_indent && text[i] == '\t')
            return HX_FAIL(HX_ERR_CONFIG, "%.256s:%zu:%zu: a tab: expected spaces as indentation", source, line, column);
        if (text[i] != ' ') is_indent = false;
        if (text[i] == '\n') {
            line++;
            column = 0;
            is_indent = true;
        }
    }
    return HX_OK;
}

hx_status hx__yaml_apply(const hx_option_section *sections, int n_sections, const char *text, size_t n_bytes,
                         const char *source) {
    int n_options = 0;
    for (int s = 0; s < n_sections; s++) n_options += sections[s].n_options;
    if (n_sections > HX_CONFIG_MAX_SECTIONS || n_options > MAX_OPTIONS)
        return HX_FAIL(HX_ERR_ARG, "%d sections with %d options: expected at most %d with %d", n_sections, n_options,
                       HX_CONFIG_MAX_SECTIONS, MAX_OPTIONS);
    if (n_bytes > MAX_BYTES)
        return HX_FAIL(HX_ERR_CONFIG, "%.256s: %zu bytes: expected a configuration of at most %d", source, n_bytes, MAX_BYTES);
    HX_TRY(check_tabs(text, n_bytes, source));
    reader r = {.sections = sections, .n_sections = n_sections, .source = source};
    if (!yaml_parser_initialize(&r.parser)) return HX_FAIL(HX_ERR_MEMORY, "%.256s: no memory for the YAML parser", source);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n_bytes);
    hx_status status = read_stream(&r);
    if (r.has_event) yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return status;
}

/* O_NONBLOCK, so that opening a FIFO that nobody writes to does not wait for ever. */
static hx_status read_file(const char *path, char **text, size_t *n_bytes) {
    hx_status status = HX_OK;
    struct stat st;
    char *buffer = NULL;
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "configuration %.256s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = HX_FAIL(HX_ERR_IO, "configuration %.256s: expected a regular file", path);
        goto done;
    }
    if (st.st_size > MAX_BYTES) {
        status = HX_FAIL(HX_ERR_CONFIG, "%.256s: %lld bytes: expected a configuration of at most %d", path,
                         (long long)st.st_size, MAX_BYTES);
        goto done;
    }
    HX_TRY_GOTO(hx_mem_alloc(MAX_BYTES + 1, (void **)&buffer), done);
    while (n <= MAX_BYTES) {
        ssize_t got = read(fd, buffer + n, MAX_BYTES + 1 - n);
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = HX_FAIL(HX_ERR_IO, "configuration %.256s: %s", path, strerror(errno));
            goto done;
        }
        n += (size_t)got;
    }
    *text = buffer;
    *n_bytes = n;
    buffer = NULL;
done:
    hx_mem_free((void **)&buffer);
    close(fd);
    return status;
}

hx_status hx__yaml_apply_file(const hx_option_section *sections, int n_sections, const char *path) {
    char *text = NULL;
    size_t n_bytes;
    HX_TRY(read_file(path, &text, &n_bytes));
    hx_status status = hx__yaml_apply(sections, n_sections, text, n_bytes, path);
    hx_mem_free((void **)&text);
    return status;
}

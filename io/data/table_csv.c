/* One walk over the mapped file: a record's fields are found, and stored before the next record is looked at. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/data/table.h"
#include "io/fs.h"

#define NUMBER_MOST 400 /* characters of a number: more digits than an f64 has in any notation that is not made to annoy */

typedef struct field {
    const char *at; /* in the file, behind the quote if there is one */
    int64_t n;
    bool is_quoted;
} field;

typedef struct reader {
    const char *path;
    const hx_table_config *config;
    const char *text, *end, *at; /* the file, and where the next record begins */
    int64_t line;                /* of that place, from 1 on */
    int64_t record_line;         /* where the record at hand began */
    field *fields;               /* [n_fields] of it; owned */
    int64_t n_fields, capacity;
    char **names;   /* [n_columns] of the header; owned */
    int64_t n_columns;
    int64_t target; /* column; -1: none */
    void *x, *y;    /* what has been read; owned */
    int64_t n_rows, x_capacity, y_capacity;
    int64_t *slots; /* [n_slots] of classes by their hashes: id + 1, 0: free; owned */
    int64_t n_slots;
    char **classes; /* owned */
    int64_t n_classes, class_capacity;
} reader;

static void free_texts(char ***texts, int64_t n) {
    for (int64_t i = 0; *texts && i < n; i++) hx_mem_free((void **)&(*texts)[i]);
    hx_mem_free((void **)texts);
}

/* Bytes that end a text in C, and that a text in UTF-16 is full of. */
static hx_status check_text(const reader *r) {
    const char *zero = memchr(r->text, '\0', (size_t)(r->end - r->text));
    long long line = 1;
    if (!zero) return HX_OK;
    for (const char *p = r->text; p < zero; p++) line += *p == '\n';
    return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: a zero byte: expected text in UTF-8 or ASCII, not UTF-16", r->path, line);
}

/* ---- records ---- */

/* Past a field in quotes; *at is behind the first one. */
static hx_status take_quoted(reader *r, field *f) {
    f->at = r->at;
    for (;; r->at++) {
        if (r->at == r->end) return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: a quote is not closed", r->path, (long long)r->record_line);
        if (*r->at == '\n') r->line++;
        if (*r->at != '"') continue;
        if (r->at + 1 == r->end || r->at[1] != '"') break;
        r->at++; /* two of them are one that belongs to the text */
    }
    f->n = r->at - f->at;
    r->at++;
    if (r->at < r->end && !strchr(",\r\n", *r->at))
        return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: column %lld goes on behind its closing quote", r->path, (long long)r->line, (long long)r->n_fields + 1);
    return HX_OK;
}

static bool is_line_end(const reader *r) {
    return r->at == r->end || *r->at == '\n' || (*r->at == '\r' && (r->at + 1 == r->end || r->at[1] == '\n'));
}

static hx_status take_field(reader *r) {
    HX_TRY(hx_mem_grow((void **)&r->fields, &r->capacity, r->n_fields + 1, sizeof *r->fields));
    field *f = &r->fields[r->n_fields];
    *f = (field){.at = r->at, .is_quoted = r->at < r->end && *r->at == '"'};
    if (f->is_quoted) {
        r->at++;
        HX_TRY(take_quoted(r, f));
    } else {
        while (!is_line_end(r) && *r->at != ',') r->at++;
        f->n = r->at - f->at;
    }
    r->n_fields++;
    return HX_OK;
}

/* The next record; n_fields 0: there is none. Empty lines are none. */
static hx_status take_record(reader *r) {
    r->n_fields = 0;
    while (r->at < r->end && is_line_end(r)) {
        r->line += *r->at == '\n';
        r->at++;
    }
    if (r->at == r->end) return HX_OK;
    r->record_line = r->line;
    for (;;) {
        HX_TRY(take_field(r));
        if (is_line_end(r)) return HX_OK;
        if (*r->at != ',') return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: column %lld: a carriage return within a line", r->path, (long long)r->line,
                                       (long long)r->n_fields);
        r->at++;
    }
}

/* A field's text, without what quotes add. */
static hx_status text_of(const field *f, char **out) {
    char *text;
    int64_t n = 0;
    HX_TRY(hx_mem_alloc((size_t)f->n + 1, (void **)&text));
    for (int64_t i = 0; i < f->n; i++) {
        text[n++] = f->at[i];
        i += f->is_quoted && f->at[i] == '"';
    }
    text[n] = 0;
    *out = text;
    return HX_OK;
}

/* ---- columns ---- */

static hx_status read_names(reader *r) {
    HX_TRY(take_record(r));
    if (r->n_fields == 0) return HX_FAIL(HX_ERR_FORMAT, "%s: no line", r->path);
    HX_TRY(hx_mem_alloc_array(r->n_fields, sizeof *r->names, (void **)&r->names));
    r->n_columns = r->n_fields;
    for (int64_t i = 0; i < r->n_fields; i++) {
        if (r->config->has_no_header) {
            char name[32];
            snprintf(name, sizeof name, "%lld", (long long)i);
            HX_TRY(hx_mem_strdup(name, &r->names[i]));
        } else {
            HX_TRY(text_of(&r->fields[i], &r->names[i]));
        }
    }
    if (!r->config->has_no_header) return HX_OK;
    r->at = r->text; /* it is numbers: once more */
    r->line = 1;
    return HX_OK;
}

/* By name, or else by number. */
static hx_status find_target(reader *r) {
    const char *target = r->config->target;
    r->target = -1;
    if (!target) return HX_OK;
    for (int64_t i = 0; i < r->n_columns; i++) {
        if (strcmp(r->names[i], target) != 0) continue;
        if (r->target >= 0) return HX_FAIL(HX_ERR_FORMAT, "%s: columns %lld and %lld are both called %s", r->path, (long long)r->target + 1,
                                             (long long)i + 1, target);
        r->target = i;
    }
    if (r->target < 0 && target[0] && target[strspn(target, "0123456789")] == 0) r->target = strtoll(target, NULL, 10);
    if (r->target < 0 || r->target >= r->n_columns)
        return HX_FAIL(HX_ERR_CONFIG, "%s: no column %.64s among its %lld", r->path, target, (long long)r->n_columns);
    return r->n_columns > 1 ? HX_OK : HX_FAIL(HX_ERR_FORMAT, "%s: one column, which is the target: expected others beside it", r->path);
}

/* ---- fields ---- */

static hx_status bad_field(const reader *r, int64_t column, const char *what) {
    const field *f = &r->fields[column];
    return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: column %lld (%.64s): '%.*s' %s", r->path, (long long)r->record_line, (long long)column + 1,
                   r->names[column], (int)(f->n < 40 ? f->n : 40), f->at, what);
}

static hx_status number_of(const reader *r, int64_t column, double *out) {
    const field *f = &r->fields[column];
    char text[NUMBER_MOST + 1], *end;
    if (f->n > NUMBER_MOST) return bad_field(r, column, "is too long for a number");
    memcpy(text, f->at, (size_t)f->n);
    text[f->n] = 0;
    const double value = strtod(text, &end);
    while (*end == ' ' || *end == '\t') end++;
    if (end == text || end != text + f->n || memchr(text, 'x', (size_t)f->n) || memchr(text, 'X', (size_t)f->n)) return bad_field(r, column, "is no number");
    if (!isfinite(r->config->keeps_f64 ? value : (double)(float)value) && !r->config->allows_non_finite)
        return bad_field(r, column, "is not finite, or beyond the numbers of this type");
    *out = value;
    return HX_OK;
}

/* Twice as many slots, found again by the texts' hashes. */
static hx_status grow_slots(reader *r) {
    int64_t *slots, n = r->n_slots > 0 ? 2 * r->n_slots : 64;
    HX_TRY(hx_mem_alloc_array(n, sizeof *slots, (void **)&slots));
    for (int64_t id = 0; id < r->n_classes; id++) {
        uint64_t at = XXH3_64bits(r->classes[id], strlen(r->classes[id]));
        while (slots[at & (uint64_t)(n - 1)] != 0) at++;
        slots[at & (uint64_t)(n - 1)] = id + 1;
    }
    hx_mem_free((void **)&r->slots);
    r->slots = slots;
    r->n_slots = n;
    return HX_OK;
}

/* @param text  owned by the reader afterwards, or freed */
static hx_status class_of(reader *r, char *text, int32_t *out) {
    hx_status status = HX_OK;
    if (r->n_classes == INT32_MAX) HX_TRY_GOTO(HX_FAIL(HX_ERR_OVERFLOW, "%s: more than 2^31 classes", r->path), failed);
    if (2 * r->n_classes >= r->n_slots) HX_TRY_GOTO(grow_slots(r), failed);
    uint64_t at = XXH3_64bits(text, strlen(text));
    for (int64_t id; (id = r->slots[at & (uint64_t)(r->n_slots - 1)]) != 0; at++) {
        if (strcmp(r->classes[id - 1], text) != 0) continue;
        *out = (int32_t)(id - 1);
        hx_mem_free((void **)&text);
        return HX_OK;
    }
    HX_TRY_GOTO(hx_mem_grow((void **)&r->classes, &r->class_capacity, r->n_classes + 1, sizeof *r->classes), failed);
    r->classes[r->n_classes++] = text;
    r->slots[at & (uint64_t)(r->n_slots - 1)] = r->n_classes;
    *out = (int32_t)(r->n_classes - 1);
    return HX_OK;
failed:
    hx_mem_free((void **)&text);
    return status;
}

/* ---- rows ---- */

static void put_number(const reader *r, void *data, int64_t i, double value) {
    if (r->config->keeps_f64)
        ((double *)data)[i] = value;
    else
        ((float *)data)[i] = (float)value;
}

static hx_status store_target(reader *r) {
    char *text;
    double value;
    if (r->config->is_class) {
        if (memchr(r->fields[r->target].at, 0, (size_t)r->fields[r->target].n)) return bad_field(r, r->target, "has a zero byte");
        HX_TRY(text_of(&r->fields[r->target], &text));
        return class_of(r, text, &((int32_t *)r->y)[r->n_rows]);
    }
    HX_TRY(number_of(r, r->target, &value));
    put_number(r, r->y, r->n_rows, value);
    return HX_OK;
}

static hx_status store_row(reader *r) {
    const size_t width = r->config->keeps_f64 ? sizeof(double) : sizeof(float);
    const int64_t n = r->n_columns - (r->target >= 0);
    double value;
    if (r->n_fields != r->n_columns)
        return HX_FAIL(HX_ERR_FORMAT, "%s:%lld: %lld columns: expected %lld as in the first line", r->path, (long long)r->record_line,
                       (long long)r->n_fields, (long long)r->n_columns);
    HX_TRY(hx_mem_grow(&r->x, &r->x_capacity, (r->n_rows + 1) * n, width));
    if (r->target >= 0) HX_TRY(hx_mem_grow(&r->y, &r->y_capacity, r->n_rows + 1, r->config->is_class ? sizeof(int32_t) : width));
    if (r->target >= 0) HX_TRY(store_target(r));
    for (int64_t column = 0, i = r->n_rows * n; column < r->n_columns; column++) {
        if (column == r->target) continue;
        HX_TRY(number_of(r, column, &value));
        put_number(r, r->x, i++, value);
    }
    r->n_rows++;
    return HX_OK;
}

static hx_status read_all(reader *r) {
    HX_TRY(read_names(r));
    HX_TRY(find_target(r));
    for (;;) {
        HX_TRY(take_record(r));
        if (r->n_fields == 0) break;
        HX_TRY(store_row(r));
    }
    return r->n_rows > 0 ? HX_OK : HX_FAIL(HX_ERR_FORMAT, "%s: no row of numbers", r->path);
}

/* ---- the file ---- */

static hx_status map_file(reader *r) {
    const void *data;
    int64_t n;
    HX_TRY(hx__fs_map(r->path, &data, &n));
    if (!data) return HX_FAIL(HX_ERR_IO, "%s is empty", r->path);
    r->text = data;
    r->end = r->text + n;
    return HX_OK;
}

/* What the table takes over leaves the reader. */
static void hand_over(reader *r, hx_table *out) {
    const hx_dtype number = r->config->keeps_f64 ? HX_F64 : HX_F32;
    hx_table t = {.x = {number, HX_SHAPE(r->n_rows, r->n_columns - (r->target >= 0)), r->x},
                  .y = {r->config->is_class ? HX_I32 : number, HX_SHAPE(r->n_rows), r->y},
                  .columns = r->names, .n_classes = r->n_classes, .classes = r->classes};
    for (int64_t i = 0; i < r->n_columns; i++) {
        if (i == r->target)
            hx_mem_free((void **)&r->names[i]);
        else
            t.columns[t.n_columns++] = r->names[i];
    }
    r->x = r->y = NULL;
    r->names = r->classes = NULL;
    *out = t;
}

hx_status hx_table_read_csv(const char *path, const hx_table_config *config, hx_table *out) {
    static const char mark[] = "\xef\xbb\xbf"; /* of UTF-8, which some programs write first */
    reader r = {.path = path, .config = config, .line = 1};
    HX_TRY(map_file(&r));
    const char *const mapped = r.text;
    const int64_t n_mapped = r.end - r.text;
    if (n_mapped >= 3 && memcmp(r.text, mark, 3) == 0) r.text += 3;
    r.at = r.text;
    hx_status status = check_text(&r);
    if (status == HX_OK) status = read_all(&r);
    if (status == HX_OK) hand_over(&r, out);
    hx__fs_unmap(mapped, n_mapped);
    free_texts(&r.names, r.n_columns);
    free_texts(&r.classes, r.n_classes);
    hx_mem_free((void **)&r.slots);
    hx_mem_free((void **)&r.fields);
    hx_mem_free(&r.x);
    hx_mem_free(&r.y);
    return status;
}

void hx_table_destroy(hx_table *t) {
    void *x = (void *)(uintptr_t)t->x.data, *y = (void *)(uintptr_t)t->y.data;
    hx_mem_free(&x);
    hx_mem_free(&y);
    free_texts(&t->columns, t->n_columns);
    free_texts(&t->classes, t->n_classes);
    *t = (hx_table){0};
}

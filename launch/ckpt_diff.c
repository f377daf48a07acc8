/* helix ckpt diff: what two checkpoints do not have in common. */
#include "launch/cli.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

/* One of the two. */
typedef struct side {
    char file[HX_PATH_BYTES];
    hx_ckpt_info info;
    hx_config config;
    bool has_config; /* a file written by a program of one's own may have none that helix reads */
} side;

typedef struct comparison {
    side a, b;
    hx_comm *comm; /* of this process alone */
    json_t *rows;  /* NULL: as lines */
    int64_t n;     /* differences */
} comparison;

static void tell(comparison *c, const char *kind, const char *name, const char *a, const char *b) {
    c->n++;
    if (c->rows)
        json_array_append_new(c->rows, json_pack("{s:s, s:s, s:s, s:s}", "kind", kind, "name", name, "a", a, "b", b));
    else
        printf("%-7s %-36s %s | %s\n", kind, name, a, b);
}

/* ---- configuration, state ---- */

static void compare_config(comparison *c) {
    hx_option_section a[HX_CONFIG_MAX_SECTIONS], b[HX_CONFIG_MAX_SECTIONS];
    const int n = hx_config_sections(&c->a.config, a);
    (void)hx_config_sections(&c->b.config, b);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < a[i].n_options; k++) {
            char key[128], here[HX_OPTION_TEXT], there[HX_OPTION_TEXT];
            hx_option_key(&a[i], &a[i].options[k], key, sizeof key);
            hx_option_format(&a[i].options[k], a[i].config, here, sizeof here);
            hx_option_format(&a[i].options[k], b[i].config, there, sizeof there);
            if (strcmp(here, there) != 0) tell(c, "config", key, here, there);
        }
}

static void compare_count(comparison *c, const char *name, long long a, long long b) {
    char here[32], there[32];
    if (a == b) return;
    snprintf(here, sizeof here, "%lld", a);
    snprintf(there, sizeof there, "%lld", b);
    tell(c, "state", name, here, there);
}

/* One NaN is as good as another. */
static void compare_real(comparison *c, const char *name, double a, double b) {
    char here[32], there[32];
    snprintf(here, sizeof here, "%.17g", a);
    snprintf(there, sizeof there, "%.17g", b);
    if (strcmp(here, there) != 0) tell(c, "state", name, here, there);
}

static void compare_tokenizer(comparison *c) {
    char here[HX_TOKENIZER_ID_TEXT], there[HX_TOKENIZER_ID_TEXT];
    hx_tokenizer_id_text(&c->a.info.tokenizer, here);
    hx_tokenizer_id_text(&c->b.info.tokenizer, there);
    if (strcmp(here, there) != 0) tell(c, "state", "tokenizer", here, there);
}

static void compare_state(comparison *c) {
    const hx_train_state *a = &c->a.info.state, *b = &c->b.info.state;
#define COMPARE_I64(field) compare_count(c, #field, (long long)a->field, (long long)b->field);
#define COMPARE_U64(field) COMPARE_I64(field)
#define COMPARE_F64(field) compare_real(c, #field, a->field, b->field);
#define COMPARE(field, type) COMPARE_##type(field)
    HX_CKPT_STATE_FIELDS(COMPARE)
    HX_CKPT_STATE_ADDED(COMPARE)
}

/* ---- tensors ---- */

static const char *kind_of(const hx_ckpt_entry *e, char text[128]) {
    char shape[HX_SHAPE_TEXT];
    snprintf(text, 128, "%s %.100s", hx_dtype_name(e->dtype), hx_shape_text(&e->shape, shape));
    return text;
}

static hx_status load_whole(comparison *c, const side *s, const hx_ckpt_entry *e, void **out) {
    HX_CLEANUP(hx_layout_destroy) hx_layout whole = {0};
    hx_state_item item = {.dtype = e->dtype, .layout = &whole, .n_replicas = 1};
    HX_TRY(hx_layout_full(&e->shape, &whole));
    HX_TRY(hx_mem_alloc_array(hx_shape_count(&e->shape), hx_dtype_bytes(e->dtype), &item.data));
    snprintf(item.name, sizeof item.name, "%s", e->name);
    hx_status status = hx_ckpt_load(c->comm, s->file, &(hx_state_list){.items = &item, .n_items = 1}, NULL);
    if (status == HX_OK)
        *out = item.data;
    else
        hx_mem_free(&item.data);
    return status;
}

/* The greatest |a - b|, NaN where one is none of a number and the other is. Bits may differ where values do not: 0 and -0. */
static void describe(const hx_ckpt_entry *e, const void *a, const void *b, char where[128], char by[64]) {
    const size_t size = hx_dtype_bytes(e->dtype);
    const int64_t n = hx_shape_count(&e->shape);
    int64_t first = -1, n_other = 0;
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp((const char *)a + (size_t)i * size, (const char *)b + (size_t)i * size, size) == 0) continue;
        const double d = fabs(hx_elem_get(e->dtype, a, i) - hx_elem_get(e->dtype, b, i));
        if (first < 0) first = i;
        if (isnan(d) || d > most) most = d; /* NaN stays */
        n_other++;
    }
    snprintf(where, 128, "%lld of %lld elements, the first %lld", (long long)n_other, (long long)n, (long long)first);
    snprintf(by, 64, "by at most %.6g", most);
}

static hx_status compare_values(comparison *c, const hx_ckpt_entry *a, const hx_ckpt_entry *b) {
    void *here = NULL, *there = NULL;
    char where[128], by[64];
    if (a->hash == b->hash) return HX_OK;
    hx_status status = load_whole(c, &c->a, a, &here);
    if (status == HX_OK) status = load_whole(c, &c->b, b, &there);
    if (status == HX_OK) {
        describe(a, here, there, where, by);
        tell(c, "values", a->name, where, by);
    }
    hx_mem_free(&here);
    hx_mem_free(&there);
    return status;
}

static hx_status compare_tensors(comparison *c) {
    const hx_ckpt_info *a = &c->a.info, *b = &c->b.info;
    char here[128], there[128];
    for (int64_t i = 0, k = 0; i < a->n_entries || k < b->n_entries;) { /* both are sorted by name */
        const hx_ckpt_entry *x = &a->entries[i], *y = &b->entries[k];
        const int order = i == a->n_entries ? 1 : k == b->n_entries ? -1 : strcmp(x->name, y->name);
        if (order < 0)
            tell(c, "tensor", x->name, kind_of(x, here), "missing");
        else if (order > 0)
            tell(c, "tensor", y->name, "missing", kind_of(y, there));
        else if (x->dtype != y->dtype || !hx_shape_equal(&x->shape, &y->shape))
            tell(c, "tensor", x->name, kind_of(x, here), kind_of(y, there));
        else
            HX_TRY(compare_values(c, x, y));
        i += order <= 0;
        k += order >= 0;
    }
    return HX_OK;
}

/* ---- the command ---- */

static hx_status open_side(const char *word, side *out) {
    HX_TRY(hx__find_checkpoint(word, out->file));
    HX_TRY(hx_ckpt_inspect(out->file, false, &out->info));
    out->has_config = hx__config_of_checkpoint(out->file, &out->config) == HX_OK;
    return HX_OK;
}

static hx_status compare(comparison *c, const hx_cli *cli) {
    HX_TRY(open_side(cli->words.items[0], &c->a));
    HX_TRY(open_side(cli->words.items[1], &c->b));
    HX_TRY(hx_comm_self_open(&c->comm));
    if (cli->own.json)
        c->rows = json_array();
    else
        printf("a: %s\nb: %s\n", c->a.file, c->b.file);
    if (c->a.has_config && c->b.has_config) compare_config(c);
    compare_state(c);
    compare_tokenizer(c);
    return compare_tensors(c);
}

static hx_status conclude(comparison *c) {
    const bool is_same = c->n == 0;
    if (c->rows) {
        json_t *rows = c->rows;
        c->rows = NULL;
        HX_TRY(hx__print_json(json_pack("{s:s, s:s, s:b, s:o}", "a", c->a.file, "b", c->b.file, "same", is_same, "differences", rows)));
    } else if (is_same) {
        puts("the same");
    }
    (void)fflush(stdout); /* before the last word on the other stream; a loss of output is told by whoever runs the command */
    if (!is_same) return HX_FAIL(HX_ERR_MISMATCH, "%s and %s differ in %lld things", c->a.file, c->b.file, (long long)c->n);
    return HX_OK;
}

hx_status hx_cmd_ckpt_diff(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    comparison c = {.rows = NULL};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("ckpt diff"), cli, argc, argv));
    hx_status status = compare(&c, cli);
    if (status == HX_OK) status = conclude(&c);
    json_decref(c.rows);
    hx_ckpt_info_destroy(&c.a.info);
    hx_ckpt_info_destroy(&c.b.info);
    hx_comm_close(&c.comm);
    return status;
}

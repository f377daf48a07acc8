#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "io/ckpt/hf_impl.h"

/* ---- tables ---- */

/* Our name, theirs, our shape: V vocab, T context, D width, K width of keys and values, F of the feed-forward. %d is the block. Rows that
 * share a tensor of theirs lie in it one behind the other. Rotary positions pair x_i with x_(i + D/2) on both sides
 * (theirs: rotate_half), so that no row moves. */
typedef struct row {
    const char *ours, *theirs, *dims;
    bool is_transposed; /* their Conv1D keeps [in, out] */
} row;

#define H "transformer.h.%d."
static const row gpt2_rows[] = {
    {"tok.weight", "transformer.wte.weight", "VD", false},
    {"pos.weight", "transformer.wpe.weight", "TD", false},
    {"blocks.%d.norm1.weight", H "ln_1.weight", "D", false},
    {"blocks.%d.norm1.bias", H "ln_1.bias", "D", false},
    {"blocks.%d.attn.q.weight", H "attn.c_attn.weight", "DD", true},
    {"blocks.%d.attn.k.weight", H "attn.c_attn.weight", "KD", true},
    {"blocks.%d.attn.v.weight", H "attn.c_attn.weight", "KD", true},
    {"blocks.%d.attn.q.bias", H "attn.c_attn.bias", "D", false},
    {"blocks.%d.attn.k.bias", H "attn.c_attn.bias", "K", false},
    {"blocks.%d.attn.v.bias", H "attn.c_attn.bias", "K", false},
    {"blocks.%d.attn.proj.weight", H "attn.c_proj.weight", "DD", true},
    {"blocks.%d.attn.proj.bias", H "attn.c_proj.bias", "D", false},
    {"blocks.%d.norm2.weight", H "ln_2.weight", "D", false},
    {"blocks.%d.norm2.bias", H "ln_2.bias", "D", false},
    {"blocks.%d.mlp.in.weight", H "mlp.c_fc.weight", "FD", true},
    {"blocks.%d.mlp.in.bias", H "mlp.c_fc.bias", "F", false},
    {"blocks.%d.mlp.out.weight", H "mlp.c_proj.weight", "DF", true},
    {"blocks.%d.mlp.out.bias", H "mlp.c_proj.bias", "D", false},
    {"norm.weight", "transformer.ln_f.weight", "D", false},
    {"norm.bias", "transformer.ln_f.bias", "D", false},
    {"head.weight", "lm_head.weight", "VD", false},
};
#undef H

#define L "model.layers.%d."
static const row llama_rows[] = {
    {"tok.weight", "model.embed_tokens.weight", "VD", false},
    {"blocks.%d.norm1.weight", L "input_layernorm.weight", "D", false},
    {"blocks.%d.attn.q.weight", L "self_attn.q_proj.weight", "DD", false},
    {"blocks.%d.attn.k.weight", L "self_attn.k_proj.weight", "KD", false},
    {"blocks.%d.attn.v.weight", L "self_attn.v_proj.weight", "KD", false},
    {"blocks.%d.attn.proj.weight", L "self_attn.o_proj.weight", "DD", false},
    {"blocks.%d.norm2.weight", L "post_attention_layernorm.weight", "D", false},
    {"blocks.%d.mlp.gate.weight", L "mlp.gate_proj.weight", "FD", false},
    {"blocks.%d.mlp.up.weight", L "mlp.up_proj.weight", "FD", false},
    {"blocks.%d.mlp.out.weight", L "mlp.down_proj.weight", "DF", false},
    {"norm.weight", "model.norm.weight", "D", false},
    {"head.weight", "lm_head.weight", "VD", false},
};
#undef L

static const struct {
    const row *rows;
    int n_rows;
    const char *prefix;            /* of all but the head */
    const char *block, *buffers[2]; /* what stands before and behind a block's number in names of buffers */
} families[] = {
    [HX__HF_GPT2] = {gpt2_rows, sizeof gpt2_rows / sizeof *gpt2_rows, "transformer.", "h.", {".attn.bias", ".attn.masked_bias"}},
    [HX__HF_LLAMA] = {llama_rows, sizeof llama_rows / sizeof *llama_rows, "model.", "layers.", {".self_attn.rotary_emb.inv_freq", NULL}},
};

const char *hx__hf_bare(hx__hf_family family, const char *name) {
    const size_t n = strlen(families[family].prefix);
    return strncmp(name, families[family].prefix, n) == 0 ? name + n : name;
}

bool hx__hf_is_buffer(hx__hf_family family, const char *name) {
    const char *p = hx__hf_bare(family, name), *block = families[family].block;
    if (strncmp(p, block, strlen(block)) != 0) return false;
    p += strlen(block);
    size_t n = strspn(p, "0123456789");
    for (int i = 0; n > 0 && i < 2 && families[family].buffers[i] != NULL; i++)
        if (strcmp(p + n, families[family].buffers[i]) == 0) return true;
    return false;
}

/* ---- links ---- */

static int64_t dim_of(const hx_gpt_config *c, char letter) {
    switch (letter) {
    case 'V': return c->vocab;
    case 'T': return c->ctx;
    case 'K': return c->dim / c->heads * (c->kv_heads > 0 ? c->kv_heads : c->heads);
    case 'F': return c->mlp_dim > 0 ? c->mlp_dim : c->dim * c->mlp_ratio;
    default: return c->dim;
    }
}

/* The columns that follow in a tensor of theirs are known when the next row is read: its width grows row by row. */
static void link_row(const hx_gpt_config *c, const row *r, int block, hx__hf_link *links, int64_t at) {
    hx__hf_link *l = &links[at];
    snprintf(l->ours, sizeof l->ours, r->ours, block);
    snprintf(l->theirs, sizeof l->theirs, r->theirs, block);
    l->is_transposed = r->is_transposed;
    for (const char *d = r->dims; *d != '\0'; d++) l->shape.dims[l->shape.ndim++] = dim_of(c, *d);
    const bool follows = at > 0 && strcmp(l[-1].theirs, l->theirs) == 0;
    l->offset = follows ? l[-1].offset + l[-1].shape.dims[0] : 0;
    l->their_shape = r->is_transposed ? HX_SHAPE(l->shape.dims[1], l->offset + l->shape.dims[0]) : l->shape;
    if (!r->is_transposed && l->shape.ndim == 1) l->their_shape.dims[0] += l->offset;
    for (int64_t i = at - 1; i >= 0 && strcmp(links[i].theirs, l->theirs) == 0; i--) links[i].their_shape = l->their_shape;
}

static bool is_of_block(const row *r) { return strchr(r->ours, '%') != NULL; }

hx_status hx__hf_links(const hx_gpt_config *config, hx__hf_link **links, int64_t *n) {
    hx__hf_family family;
    HX_TRY(hx__hf_family_of(config, &family));
    const row *rows = families[family].rows;
    const int n_rows = families[family].n_rows;
    hx__hf_link *list;
    int64_t k = 0;
    HX_TRY(hx_mem_alloc_array(n_rows * config->layers, sizeof *list, (void **)&list));
    for (int first = 0, last; first < n_rows; first = last) {
        last = first + 1;
        while (is_of_block(&rows[first]) && last < n_rows && is_of_block(&rows[last])) last++;
        for (int block = 0; block < (is_of_block(&rows[first]) ? (int)config->layers : 1); block++)
            for (int i = first; i < last; i++)
                if (!config->tied || strcmp(rows[i].ours, "head.weight") != 0) link_row(config, &rows[i], block, list, k++);
    }
    *links = list;
    *n = k;
    return HX_OK;
}

/* ---- elements ---- */

hx__hf_grid hx__hf_grid_in(const hx__hf_link *l) {
    const int64_t rows = l->shape.dims[0], cols = l->shape.dims[1];
    if (l->shape.ndim == 1) return (hx__hf_grid){.n_cols = rows, .n_part = rows, .base = l->offset, .col_step = 1};
    if (!l->is_transposed) return (hx__hf_grid){.n_cols = cols, .n_part = cols, .row_step = cols, .col_step = 1};
    return (hx__hf_grid){.n_cols = cols, .n_part = cols, .base = l->offset, .row_step = 1, .col_step = l->their_shape.dims[1]};
}

hx__hf_grid hx__hf_grid_out(const hx__hf_link *l) {
    const int64_t rows = l->shape.dims[0], cols = l->shape.dims[1];
    if (l->shape.ndim == 1) return (hx__hf_grid){.n_cols = l->their_shape.dims[0], .col = l->offset, .n_part = rows, .col_step = 1};
    if (!l->is_transposed) return (hx__hf_grid){.n_cols = cols, .n_part = cols, .row_step = cols, .col_step = 1};
    return (hx__hf_grid){.n_cols = l->their_shape.dims[1], .col = l->offset, .n_part = rows, .row_step = 1, .col_step = cols};
}

/* The size is a constant in each copy of this loop. */
static inline __attribute__((always_inline)) void copy_strided(const char *from, int64_t step, char *to, int64_t n, size_t size) {
    for (int64_t j = 0; j < n; j++) memcpy(to + (size_t)j * size, from + (size_t)(j * step) * size, size);
}

static void copy_run(hx_dtype from_type, const char *from, int64_t step, hx_dtype to_type, char *to, int64_t n) {
    const size_t size = hx_dtype_bytes(from_type);
    if (from_type != to_type) {
        for (int64_t j = 0; j < n; j++) {
            double element; /* memory that is aligned for any type */
            memcpy(&element, from + (size_t)(j * step) * size, size);
            hx_elem_set(to_type, to, j, hx_elem_get(from_type, &element, 0));
        }
    } else if (step == 1) {
        memcpy(to, from, (size_t)n * size);
    } else if (size == 2) {
        copy_strided(from, step, to, n, 2);
    } else if (size == 4) {
        copy_strided(from, step, to, n, 4);
    } else {
        copy_strided(from, step, to, n, size);
    }
}

static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* In tiles, so that the lines of a source that is read across are used whole while they are in the cache. */
void hx__hf_gather(const hx__hf_grid *g, int64_t at, int64_t n, hx_dtype from_type, const void *from, hx_dtype to_type, void *to) {
    enum { TILE = 64 };
    const size_t from_bytes = hx_dtype_bytes(from_type), to_bytes = hx_dtype_bytes(to_type);
    const int64_t width = g->col_step == 1 ? g->n_part : TILE, end_row = n > 0 ? (at + n - 1) / g->n_cols + 1 : 0;
    for (int64_t i0 = n > 0 ? at / g->n_cols : 0; i0 < end_row; i0 += TILE)
        for (int64_t j0 = 0; j0 < g->n_part; j0 += width)
            for (int64_t i = i0; i < at_most(i0 + TILE, end_row); i++) {
                const int64_t begin = i * g->n_cols + g->col; /* the element of column j lies at begin + j */
                const int64_t first = at_least(j0, at - begin), last = at_most(at_most(j0 + width, g->n_part), at + n - begin);
                if (first >= last) continue;
                copy_run(from_type, (const char *)from + (size_t)(g->base + i * g->row_step + first * g->col_step) * from_bytes,
                         g->col_step, to_type, (char *)to + (size_t)(begin + first - at) * to_bytes, last - first);
            }
}

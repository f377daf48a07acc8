/* helix generate: text from a checkpoint, one token at a time. */
#define _GNU_SOURCE /* qsort_r */
#include "launch/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "io/text/tokenizer.h"

typedef struct generator {
    hx_session *session;
    const hx_model *model;
    const hx_cli_config *options;
    const hx_tokenizer *tokenizer;
    int64_t ctx, vocab, n_drawn; /* ids below n_drawn are drawn: those that stand for something */
    hx_ids ids;                  /* prompt and what was made */
    hx_text text;                /* made, and not written yet: the begin of a character */
    double *weights;             /* [vocab] scratch */
    int64_t *order;              /* [vocab] scratch */
} generator;

/* ---- the next token's logits ---- */

static hx_status copy_logits(hx_session *s, hx_tensor *last, double *out, int64_t vocab) {
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR dense = NULL;
    hx_ctx ctx = *hx_session_ctx(s);
    ctx.tape = NULL;
    HX_TRY(hx_contiguous(&ctx, last, &dense));
    HX_TRY(hx_cast(&ctx, dense, HX_F64, &wide));
    if (hx_tensor_count(wide) != vocab)
        return HX_FAIL(HX_ERR_SHAPE, "the model gives %lld logits: expected %lld", (long long)hx_tensor_count(wide), (long long)vocab);
    return hx_tensor_read(s->stream, wide, out);
}

/* The whole window is computed anew for each token: plain, and fast enough for models of this size. */
static hx_status next_logits(generator *g) {
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR last = NULL;
    hx_session *s = g->session;
    hx_ctx ctx = *hx_session_ctx(s);
    int64_t n = g->ids.n < g->ctx ? g->ids.n : g->ctx;
    ctx.tape = NULL;
    ctx.training = false;
    HX_TRY(hx_tensor_create(s->device, HX_I32, HX_SHAPE(1, n), &ids));
    HX_TRY(hx_tensor_write(s->stream, ids, g->ids.ids + g->ids.n - n));
    HX_TRY(hx_layer_forward(g->model->root, &ctx, ids, &logits));
    HX_TRY(hx_tensor_slice(logits, 1, n - 1, n, 1, &last));
    return copy_logits(s, last, g->weights, g->vocab);
}

/* ---- drawing ---- */

static int by_falling_weight(const void *a, const void *b, void *arg) {
    const double *w = arg;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    if (w[i] != w[j]) return w[i] > w[j] ? -1 : 1;
    return i < j ? -1 : i > j; /* ties by id, so that a seed gives the same text everywhere */
}

/* softmax(logits / temperature) over the top_k likeliest, then the inverse of its cumulative sum. */
static hx_status draw(generator *g, int64_t index, int32_t *out) {
    const hx_cli_config *o = g->options;
    int64_t n = o->top_k > 0 && o->top_k < g->n_drawn ? o->top_k : g->n_drawn;
    for (int64_t i = 0; i < g->n_drawn; i++) {
        if (!isfinite(g->weights[i])) return HX_FAIL(HX_ERR_NUMERIC, "logit %lld of token %lld is not finite", (long long)i, (long long)index);
        g->order[i] = i;
    }
    qsort_r(g->order, (size_t)g->n_drawn, sizeof *g->order, by_falling_weight, g->weights);
    *out = (int32_t)g->order[0];
    if (o->temperature == 0) return HX_OK;
    double most = g->weights[g->order[0]], total = 0;
    for (int64_t i = 0; i < n; i++) total += g->weights[g->order[i]] = exp((g->weights[g->order[i]] - most) / o->temperature);
    hx_rng rng = {.seed = (uint64_t)o->seed, .stream = hx_rng_stream(HX_RNG_SAMPLE, 0)};
    double left = hx_rng_uniform(rng, (uint64_t)index) * total;
    for (int64_t i = 0; i < n; i++) {
        *out = (int32_t)g->order[i];
        left -= g->weights[g->order[i]];
        if (left < 0) break;
    }
    return HX_OK;
}

/* ---- writing ---- */

size_t hx__print_character(const uint8_t *text, size_t n) {
    size_t length = (size_t)hx_utf8_length(text, n);
    bool is_control = length < 2 ? text[0] != '\n' && text[0] != '\t' && (text[0] >= 0x80 || !isprint(text[0])) : text[0] == 0xc2 && text[1] < 0xa0;
    if (length == 0) length = 1; /* a broken byte */
    for (size_t i = 0; is_control && i < length; i++) printf("\\x%02x", text[i]);
    if (!is_control) fwrite(text, 1, length, stdout);
    return length;
}

/* Whether more bytes could make the n at `c` a character. */
static bool is_begin(const uint8_t *c, size_t n) {
    size_t length = c[0] >= 0xf0 ? 4 : c[0] >= 0xe0 ? 3 : 2;
    if (c[0] < 0xc2 || c[0] > 0xf4 || n >= length) return false;
    for (size_t i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80) return false;
    return true;
}

/* Write the characters that are whole. @param is_end  and what is left of one */
static hx_status print_text(hx_text *text, bool is_end) {
    const uint8_t *bytes = (const uint8_t *)text->bytes;
    int64_t at = 0;
    while (at < text->n) {
        size_t left = (size_t)(text->n - at);
        if (!is_end && hx_utf8_length(bytes + at, left) == 0 && is_begin(bytes + at, left)) break;
        at += (int64_t)hx__print_character(bytes + at, left);
    }
    if (at > 0) memmove(text->bytes, text->bytes + at, (size_t)(text->n - at));
    text->n -= at;
    return fflush(stdout) == 0 ? HX_OK : HX_FAIL(HX_ERR_IO, "standard output cannot be written: %s", strerror(errno));
}

static hx_status generate(generator *g) {
    bool speaks = hx_comm_rank(hx_session_world(g->session)) == 0;
    if (speaks && g->options->prompt) fputs(g->options->prompt, stdout);
    for (int64_t i = 0; i < g->options->tokens; i++) {
        int32_t id;
        HX_TRY(next_logits(g));
        HX_TRY(draw(g, i, &id));
        HX_TRY(hx_mem_grow((void **)&g->ids.ids, &g->ids.capacity, g->ids.n + 1, sizeof id));
        g->ids.ids[g->ids.n++] = id;
        HX_TRY(hx_decode(g->tokenizer, &id, 1, &g->text));
        if (speaks) HX_TRY(print_text(&g->text, i + 1 == g->options->tokens));
    }
    if (speaks) putchar('\n');
    return HX_OK;
}

/* Without a prompt the model starts where a text might begin: after the end of another one, or after a line end. */
static hx_status set_prompt(generator *g) {
    HX_CLEANUP(hx_encoder_destroy) hx_encoder *encoder = NULL;
    const bool is_told = g->options->prompt && g->options->prompt[0];
    const char *prompt = is_told ? g->options->prompt : hx_tokenizer_special(g->tokenizer, HX_END_OF_TEXT) >= 0 ? HX_END_OF_TEXT : "\n";
    HX_TRY(hx_encoder_create(g->tokenizer, &encoder));
    HX_TRY(hx_encode(encoder, prompt, strlen(prompt), &g->ids));
    for (int64_t i = 0; i < g->ids.n; i++) {
        if (g->ids.ids[i] < g->vocab) continue;
        if (is_told)
            return HX_FAIL(HX_ERR_CONFIG, "prompt: byte %d at position %lld, the model knows %lld", g->ids.ids[i], (long long)i, (long long)g->vocab);
        g->ids.ids[i] = 0;
    }
    return HX_OK;
}

/* The tokenizer that the model was trained with, as far as its checkpoint tells. */
static hx_status open_tokenizer(const hx_cli *cli, const char *path, const char *file, hx_tokenizer **out) {
    char what[HX_OPTION_TEXT + 32] = "without data.tokenizer ids are";
    hx_tokenizer_id id;
    if (path[0]) snprintf(what, sizeof what, "data.tokenizer = %s is", path);
    HX_TRY(hx_tokenizer_open(path[0] ? path : "bytes", out));
    hx_tokenizer_id_get(*out, &id);
    const hx_status status = hx__same_tokenizer(file, &cli->tokenizer, what, &id, "the same one by --data.tokenizer");
    if (status != HX_OK) hx_tokenizer_close(out);
    return status;
}

/* Bytes go with a model of fewer ids, too: its text has no others. */
static hx_status choose_tokens(generator *g, const char *path) {
    int64_t n = hx_tokenizer_vocab(g->tokenizer);
    if (!path[0] && g->vocab > n)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "the model has %lld token ids: more than bytes (256); name what they stand for by --data.tokenizer",
                       (long long)g->vocab);
    if (path[0] && g->vocab < n)
        return HX_FAIL(HX_ERR_CONFIG, "data.tokenizer %s has %lld ids, the model %lld: expected no more than the model's", path, (long long)n,
                       (long long)g->vocab);
    g->n_drawn = n < g->vocab ? n : g->vocab;
    return HX_OK;
}

static hx_status run_generator(hx_session *s, const hx_cli *cli, const char *file, const hx_model *model) {
    const char *path = s->config.data.tokenizer;
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *tokenizer = NULL;
    HX_TRY(open_tokenizer(cli, path, file, &tokenizer));
    generator g = {.session = s, .model = model, .options = &cli->own, .tokenizer = tokenizer, .ctx = s->config.model.ctx, .vocab = s->config.model.vocab};
    hx_status status = HX_OK;
    HX_TRY_GOTO(choose_tokens(&g, path), done);
    HX_TRY_GOTO(hx_mem_alloc_array(g.vocab, sizeof *g.weights, (void **)&g.weights), done);
    HX_TRY_GOTO(hx_mem_alloc_array(g.vocab, sizeof *g.order, (void **)&g.order), done);
    HX_TRY_GOTO(set_prompt(&g), done);
    HX_TRY_GOTO(generate(&g), done);
done:
    hx_mem_free((void **)&g.order);
    hx_mem_free((void **)&g.weights);
    hx_text_destroy(&g.text);
    hx_ids_destroy(&g.ids);
    return status;
}

hx_status hx_cmd_generate(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    char file[HX_PATH_BYTES];
    hx_model model = {0};
    hx_train_state state;
    HX_TRY(hx__cli_read_checkpoint(hx_command_find("generate"), cli, argc, argv, file));
    HX_TRY(hx_session_open(&cli->config, session));
    if (hx_session_shard(*session))
        return hx__session_fail(*session, HX_FAIL(HX_ERR_UNSUPPORTED, "generate with mesh.tp = %d: no rank has whole logits; expected 1", hx_session_shard(*session)->size));
    HX_TRY(hx_session_gpt(*session, &model));
    hx_status status = hx__load_model(*session, file, cli->own.use_ema, &model, &state);
    /* every rank computes the same text; all of them fail alike, or none does */
    if (status == HX_OK) status = hx__session_fail(*session, hx_comm_agree((*session)->world, run_generator(*session, cli, file, &model)));
    hx_layer_destroy(&model.root);
    return status;
}

/* helix generate: text from a checkpoint, one byte at a time. */
#define _GNU_SOURCE /* qsort_r */
#include "launch/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

typedef struct generator {
    hx_session *session;
    const hx_model *model;
    const hx_cli_config *options;
    int64_t ctx, vocab;
    int32_t *ids; /* [capacity] prompt and what was made */
    int64_t n_ids;
    double *weights; /* [vocab] scratch */
    int64_t *order;  /* [vocab] scratch */
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
    int64_t n = g->n_ids < g->ctx ? g->n_ids : g->ctx;
    ctx.tape = NULL;
    ctx.training = false;
    HX_TRY(hx_tensor_create(s->device, HX_I32, HX_SHAPE(1, n), &ids));
    HX_TRY(hx_tensor_write(s->stream, ids, g->ids + g->n_ids - n));
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
    int64_t n = o->top_k > 0 && o->top_k < g->vocab ? o->top_k : g->vocab;
    for (int64_t i = 0; i < g->vocab; i++) {
        if (!isfinite(g->weights[i])) return HX_FAIL(HX_ERR_NUMERIC, "logit %lld of token %lld is not finite", (long long)i, (long long)index);
        g->order[i] = i;
    }
    qsort_r(g->order, (size_t)g->vocab, sizeof *g->order, by_falling_weight, g->weights);
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

/* Printable text and line ends as they are, everything else (also what would steer a terminal) as \xNN. */
static void print_byte(int32_t byte) {
    if (byte == '\n' || byte == '\t' || (byte < 0x80 && isprint(byte))) {
        putchar(byte);
    } else {
        printf("\\x%02x", (unsigned)byte);
    }
}

static hx_status generate(generator *g) {
    bool speaks = hx_comm_rank(hx_session_world(g->session)) == 0;
    if (speaks) fputs(g->options->prompt, stdout);
    for (int64_t i = 0; i < g->options->tokens; i++) {
        int32_t id;
        HX_TRY(next_logits(g));
        HX_TRY(draw(g, i, &id));
        g->ids[g->n_ids++] = id;
        if (!speaks) continue;
        print_byte(id);
        if (fflush(stdout) != 0) return HX_FAIL(HX_ERR_IO, "standard output cannot be written: %s", strerror(errno));
    }
    if (speaks) putchar('\n');
    return HX_OK;
}

/* Without a prompt the model starts after a line end, where a text might begin. */
static hx_status set_prompt(generator *g) {
    const unsigned char *prompt = (const unsigned char *)g->options->prompt;
    size_t n = strlen(g->options->prompt);
    for (size_t i = 0; i < n; i++) {
        if (prompt[i] >= g->vocab)
            return HX_FAIL(HX_ERR_CONFIG, "prompt: byte %u at position %zu, the model knows %lld", prompt[i], i, (long long)g->vocab);
        g->ids[g->n_ids++] = prompt[i];
    }
    if (n == 0) g->ids[g->n_ids++] = '\n' < g->vocab ? '\n' : 0;
    return HX_OK;
}

static hx_status run_generator(hx_session *s, const hx_cli_config *options, const hx_model *model) {
    generator g = {.session = s, .model = model, .options = options, .ctx = s->config.model.ctx, .vocab = s->config.model.vocab};
    hx_status status = HX_OK;
    if (g.vocab > 256)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "the model has %lld token ids: only bytes (at most 256) can be written as text", (long long)g.vocab);
    HX_TRY_GOTO(hx_mem_alloc_array(HX_OPTION_TEXT + options->tokens, sizeof *g.ids, (void **)&g.ids), done);
    HX_TRY_GOTO(hx_mem_alloc_array(g.vocab, sizeof *g.weights, (void **)&g.weights), done);
    HX_TRY_GOTO(hx_mem_alloc_array(g.vocab, sizeof *g.order, (void **)&g.order), done);
    HX_TRY_GOTO(set_prompt(&g), done);
    HX_TRY_GOTO(generate(&g), done);
done:
    hx_mem_free((void **)&g.order);
    hx_mem_free((void **)&g.weights);
    hx_mem_free((void **)&g.ids);
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
    if (status == HX_OK) status = hx__session_fail(*session, hx_comm_agree((*session)->world, run_generator(*session, &cli->own, &model)));
    hx_layer_destroy(&model.root);
    return status;
}

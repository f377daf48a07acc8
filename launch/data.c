#include "launch/session_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "core/base/mem.h"
#include "dist/comm/dry.h"

#define SCAN_TOKENS 4096

/* ---- the data sets ---- */

/* An id that the model has no row for would make the loss NaN, which says nothing about why. */
static hx_status check_ids(const hx_tokens *tokens, const hx_tokens_info *info, int64_t vocab) {
    int32_t ids[SCAN_TOKENS];
    const bool is_text = strcmp(info->format, "text") == 0;
    for (int64_t at = 0; info->vocab > vocab && at < info->n_tokens; at += SCAN_TOKENS) {
        const int64_t n = info->n_tokens - at < SCAN_TOKENS ? info->n_tokens - at : SCAN_TOKENS;
        HX_TRY(hx_tokens_read(tokens, at, n, ids));
        for (int64_t i = 0; i < n; i++)
            if (ids[i] >= vocab)
                return HX_FAIL(HX_ERR_CONFIG, "data %s: %s %d at position %lld, but model.vocab = %lld: expected %s", info->path, is_text ? "byte" : "id",
                               ids[i], (long long)(at + i), (long long)vocab, is_text ? "256 for text" : "more than the largest id of the data");
    }
    return HX_OK;
}

/* nanoGPT's and llm.c's files do not tell whose ids they hold, nor does one of ours that others made without. */
static hx_tokenizer_id identity_of(const hx_tokens_info *info) {
    const bool is_ours = strcmp(info->format, "helix") == 0;
    hx_tokenizer_id id = {.vocab = info->vocab, .hash = info->tokenizer};
    if (is_ours && info->tokenizer != 0) id.kind = HX_TOKENIZER_BPE;
    if (info->tokenizer == 0 && (is_ours ? info->vocab == 256 : strcmp(info->format, "text") == 0)) id.kind = HX_TOKENIZER_BYTES;
    return id;
}

/* All are of one tokenizer, as far as they tell. */
static hx_status check_tokenizers(hx_session_data *d) {
    hx_tokens_info first = {.format = ""}, info;
    for (int i = 0; i < d->n_tokens; i++) {
        hx_tokens_info_get(d->tokens[i], &info);
        const hx_tokenizer_id id = identity_of(&info);
        if (!hx_tokenizer_id_fits(&id, &d->tokenizer))
            return HX_FAIL(HX_ERR_CONFIG, "data.path: %s and %s hold ids of different tokenizers", first.path, info.path);
        if (id.kind == HX_TOKENIZER_UNKNOWN) continue;
        d->tokenizer = id;
        first = info;
    }
    return HX_OK;
}

/* A run that goes on may find it gone, but carries its files. */
static hx_status identify_named(const hx_config *c, hx_tokenizer_id *out) {
    char kept[HX_PATH_BYTES], found[1024];
    struct stat st;
    const hx_status status = hx__identify_tokenizer(c->data.tokenizer, out);
    if (status != HX_ERR_IO || !c->run.resume || hx__path_join(c->run.out, "tokenizer", kept) != HX_OK || stat(kept, &st) != 0) return status;
    snprintf(found, sizeof found, "%.500s; the run carries its own: --data.tokenizer %.400s", hx_error_message(), kept);
    return hx_error_adopt(status, found);
}

/* What data.tokenizer turns ids back into must be what they were made from. */
static hx_status check_named_tokenizer(const hx_config *c, hx_session_data *d) {
    const char *path = c->data.tokenizer;
    hx_tokenizer_id named;
    hx_tokens_info info;
    if (!path[0]) return HX_OK;
    HX_TRY(identify_named(c, &named));
    for (int i = 0; i < d->n_tokens; i++) {
        hx_tokens_info_get(d->tokens[i], &info);
        const hx_tokenizer_id id = identity_of(&info);
        if (!hx_tokenizer_id_fits(&id, &named))
            return HX_FAIL(HX_ERR_CONFIG, "data.path: %s holds %s, not ids of data.tokenizer = %s: make them with helix data pack --tokenizer %s", info.path,
                           id.kind == HX_TOKENIZER_BYTES ? "bytes" : "ids of another tokenizer", path, path);
    }
    d->tokenizer = named;
    return HX_OK;
}

/* Of one path the data set's own; of several, of what decides the sequence of samples. */
static uint64_t hash_of(const hx_session_data *d) {
    hx_tokens_info info;
    hx_tokens_info_get(d->tokens[0], &info);
    uint64_t hash = info.hash;
    for (int i = 1; i < d->n_tokens; i++) {
        hx_tokens_info_get(d->tokens[i], &info);
        hash = XXH3_64bits_withSeed(&info.hash, sizeof info.hash, hash);
    }
    if (d->weights && d->n_tokens > 1) hash = XXH3_64bits_withSeed(d->weights, (size_t)d->n_tokens * sizeof *d->weights, hash);
    return hash;
}

static hx_status read_weights(const char *text, hx_session_data *d) {
    hx_word_list words;
    HX_TRY(hx_word_list_of(text, &words));
    if (words.n == 0) return HX_OK;
    if (words.n != d->n_tokens)
        return HX_FAIL(HX_ERR_CONFIG, "data.weights = %s: %d numbers for %d paths in data.path", text, words.n, d->n_tokens);
    HX_TRY(hx_mem_alloc_array(words.n, sizeof *d->weights, (void **)&d->weights));
    for (int i = 0; i < words.n; i++)
        if (hx_parse_real(words.items[i], &d->weights[i]) != HX_OK)
            return HX_FAIL(HX_ERR_CONFIG, "data.weights = %s: '%s' is no number", text, words.items[i]);
    return HX_OK;
}

/* A comma in the name of one file makes several names of it, none of which need be there. */
static hx_status open_path(const char *all, const hx_word_list *paths, int i, hx_tokens **out) {
    struct stat st;
    char found[1024];
    const hx_status status = hx_tokens_open(paths->items[i], out);
    if (status != HX_ERR_IO || paths->n < 2 || stat(paths->items[i], &st) == 0 || stat(all, &st) != 0) return status;
    snprintf(found, sizeof found, "%.500s; commas stand between paths: that of a name, as in %.400s, is written \\,", hx_error_message(), all);
    return hx_error_adopt(status, found);
}

static hx_status open_paths(hx_session *s, void *arg) {
    hx_session_data *d = arg;
    hx_word_list paths;
    HX_TRY(hx_word_list_of(s->config.data.path, &paths));
    if (paths.n == 0)
        return HX_FAIL(HX_ERR_CONFIG, "data.path is empty: expected a text file or folder, or a file of tokens (--data.path corpus.txt)");
    HX_TRY(hx_mem_alloc_array(paths.n, sizeof *d->tokens, (void **)&d->tokens));
    for (; d->n_tokens < paths.n; d->n_tokens++) {
        hx_tokens_info info;
        HX_TRY(open_path(s->config.data.path, &paths, d->n_tokens, &d->tokens[d->n_tokens]));
        hx_tokens_info_get(d->tokens[d->n_tokens], &info);
        hx_status status = check_ids(d->tokens[d->n_tokens], &info, s->config.model.vocab);
        if (status != HX_OK) hx_tokens_close(&d->tokens[d->n_tokens]);
        HX_TRY(status);
    }
    HX_TRY(check_tokenizers(d));
    HX_TRY(check_named_tokenizer(&s->config, d));
    return read_weights(s->config.data.weights, d);
}

static hx_status open_blank(const hx_config *c, hx_session_data *d) {
    const double holdout = c->data.holdout, one = ((double)c->train.batch + 1) * (double)c->model.ctx + 1;
    const double n = one / (1 - holdout) + (holdout > 0 ? one / holdout : 0) + 2;
    if (!(n < 0x1p46))
        return HX_FAIL(HX_ERR_CONFIG, "train.batch = %lld, model.ctx = %lld, data.holdout = %g: data of which both parts hold a batch have %g bytes",
                       (long long)c->train.batch, (long long)c->model.ctx, holdout, n);
    HX_TRY(hx_mem_alloc_array(1, sizeof *d->tokens, (void **)&d->tokens));
    HX_TRY(hx_tokens_blank((int64_t)n, d->tokens));
    d->n_tokens = 1;
    return HX_OK;
}

/* ---- the loaders ---- */

typedef struct loader_job {
    const hx_session_data *data;
    hx_loader_config config;
    bool is_eval, whole; /* which part of each data set */
    hx_loader **out;
} loader_job;

/* Tokens [0, split) are for training, the rest is held out. */
static int64_t split_at(int64_t n_tokens, double holdout) {
    return n_tokens - (int64_t)floor((double)n_tokens * holdout);
}

/* The part of each data set that the loader is for; one of which nothing is held out takes no part in evaluations. */
static int list_parts(const hx_session *s, const loader_job *job, hx_loader_part *parts) {
    int n = 0;
    for (int i = 0; i < job->data->n_tokens; i++) {
        hx_tokens_info info;
        hx_tokens_info_get(job->data->tokens[i], &info);
        const int64_t split = split_at(info.n_tokens, s->config.data.holdout);
        hx_loader_part part = {job->data->tokens[i], 0, job->is_eval || job->whole ? info.n_tokens : split};
        if (job->is_eval && !job->whole) part.begin = split;
        if (!job->is_eval || part.end > part.begin) parts[n++] = part;
    }
    return n;
}

static hx_status check_part(const hx_session *s, const loader_job *job, const hx_loader_part *part) {
    const int64_t n = part->end - part->begin, least = s->config.model.ctx + 1;
    const double holdout = s->config.data.holdout, share = job->is_eval ? holdout : 1 - holdout;
    hx_tokens_info info;
    hx_tokens_info_get(part->tokens, &info);
    if (n >= least || hx_comm_is_dry(s->world)) return HX_OK;
    if (n == info.n_tokens)
        return HX_FAIL(HX_ERR_CONFIG, "data.path: %s has %lld tokens, fewer than one sample: expected model.ctx + 1 = %lld or more", info.path,
                       (long long)n, (long long)least);
    return HX_FAIL(HX_ERR_CONFIG, "data.path: of the %lld tokens of %s data.holdout = %g leaves %lld for %s, fewer than one sample (model.ctx + 1 = %lld): "
                   "expected %.0f tokens or more, another data.holdout (0: nothing is held out), or a smaller model.ctx", (long long)info.n_tokens,
                   info.path, holdout, (long long)n, job->is_eval ? "evaluation" : "training", (long long)least, ceil((double)least / share));
}

static hx_status create_loader(hx_session *s, void *arg) {
    const loader_job *job = arg;
    hx_loader_part *parts;
    hx_status status = HX_OK;
    HX_TRY(hx_mem_alloc_array(job->data->n_tokens, sizeof *parts, (void **)&parts));
    const int n = list_parts(s, job, parts);
    for (int i = 0; status == HX_OK && i < n; i++) status = check_part(s, job, &parts[i]);
    if (status == HX_OK && n > 0) status = hx_loader_create(s->device, parts, n, job->is_eval ? NULL : job->data->weights, &job->config, job->out);
    hx_mem_free((void **)&parts);
    return status;
}

static hx_status create_loaders(hx_session *s, bool wants_train, bool wants_eval, bool whole, hx_session_data *d) {
    const hx_config *c = &s->config;
    const hx_comm *dp = hx_mesh_axis(s->mesh, HX_AXIS_DP);
    const bool is_dealt = !hx__session_is_elastic(s); /* else every rank may ask for any micro-batch: core/train/hooks.h, hx_leaves */
    loader_job job = {.data = d, .whole = whole, .out = &d->train_loader,
                      .config = {.ctx = c->model.ctx, .batch = c->train.batch,
                                 .micro_batch = c->train.micro_batch, .shuffle = c->train.shuffle,
                                 .last = c->train.drop_last ? HX_LAST_DROP : HX_LAST_JOIN,
                                 .seed = (uint64_t)c->train.seed, .rank = is_dealt ? hx_comm_rank(dp) : 0,
                                 .size = is_dealt ? hx_comm_size(dp) : 1, .prefetch = !hx_comm_is_dry(s->world)}};
    if (wants_train) {
        HX_TRY(hx__session_first(s, create_loader, &job));
        hx_loader_source(d->train_loader, &d->train);
    }
    job.is_eval = true;
    job.config.shuffle = false;
    job.config.last = HX_LAST_SHORT;
    job.out = &d->eval_loader;
    if (wants_eval) HX_TRY(hx__session_first(s, create_loader, &job));
    if (d->eval_loader) hx_loader_source(d->eval_loader, &d->eval);
    return HX_OK;
}

hx_status hx__session_data_open(hx_session *s, bool wants_train, bool wants_eval, bool whole, hx_session_data *out) {
    hx_status status = HX_OK;
    hx_session_data d = {0};
    HX_TRY_GOTO(hx_comm_is_dry(s->world) ? open_blank(&s->config, &d) : hx__session_first(s, open_paths, &d), done);
    d.hash = hash_of(&d);
    HX_TRY_GOTO(hx_comm_agree_equal(s->world, "hash of the data (the ranks see different files)", (int64_t)(d.hash >> 1)), done);
    HX_TRY_GOTO(create_loaders(s, wants_train, wants_eval, whole, &d), done);
    *out = d;
    return HX_OK;
done:
    hx__session_data_close(&d);
    return status;
}

void hx__session_data_close(hx_session_data *data) {
    hx_loader_destroy(&data->eval_loader);
    hx_loader_destroy(&data->train_loader);
    for (int i = 0; i < data->n_tokens; i++) hx_tokens_close(&data->tokens[i]);
    hx_mem_free((void **)&data->tokens);
    hx_mem_free((void **)&data->weights);
}

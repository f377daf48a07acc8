#include "launch/session_impl.h"

#include <math.h>

#include "dist/comm/dry.h"

/* A byte that the model has no token for would make the loss NaN, which says nothing about why. */
static hx_status check_bytes(const hx_corpus *corpus, const char *path, int64_t vocab) {
    int64_t n_bytes;
    const uint8_t *bytes = hx_corpus_bytes(corpus, &n_bytes);
    for (int64_t i = 0; vocab < 256 && i < n_bytes; i++)
        if (bytes[i] >= vocab)
            return HX_FAIL(HX_ERR_CONFIG, "data %s: byte %u at position %lld, but model.vocab = %lld: expected 256 for text",
                           path, bytes[i], (long long)i, (long long)vocab);
    return HX_OK;
}

static hx_status open_corpus(hx_session *s, void *arg) {
    const char *path = s->config.data.path;
    if (!path[0]) return HX_FAIL(HX_ERR_CONFIG, "data.path is empty: expected a text file or folder (--data.path corpus.txt)");
    HX_TRY(hx_corpus_open(path, arg));
    return check_bytes(*(hx_corpus **)arg, path, s->config.model.vocab);
}

static hx_status open_blank(const hx_config *c, hx_corpus **out) {
    const double holdout = c->data.holdout, one = ((double)c->train.batch + 1) * (double)c->model.ctx + 1;
    const double n = one / (1 - holdout) + (holdout > 0 ? one / holdout : 0) + 2;
    if (!(n < 0x1p46))
        return HX_FAIL(HX_ERR_CONFIG, "train.batch = %lld, model.ctx = %lld, data.holdout = %g: data of which both parts hold a batch have %g bytes",
                       (long long)c->train.batch, (long long)c->model.ctx, holdout, n);
    return hx_corpus_blank((int64_t)n, out);
}

typedef struct loader_job {
    hx_corpus *corpus;
    hx_loader_config config;
    hx_loader **out;
} loader_job;

static hx_status create_loader(hx_session *s, void *arg) {
    loader_job *job = arg;
    return hx_loader_create(s->device, job->corpus, &job->config, job->out);
}

/* Bytes [0, split) are for training, the rest is held out. */
static int64_t split_at(int64_t n_bytes, double holdout) {
    return n_bytes - (int64_t)floor((double)n_bytes * holdout);
}

hx_status hx__session_data_open(hx_session *s, bool wants_train, bool wants_eval, bool whole, hx_session_data *out) {
    const hx_config *c = &s->config;
    const hx_comm *dp = hx_mesh_axis(s->mesh, HX_AXIS_DP);
    const bool is_dealt = !hx__session_is_elastic(s); /* else every rank may ask for any micro-batch: core/train/hooks.h, hx_leaves */
    hx_status status = HX_OK;
    hx_session_data d = {0};
    int64_t n_bytes;
    HX_TRY_GOTO(hx_comm_is_dry(s->world) ? open_blank(c, &d.corpus) : hx__session_first(s, open_corpus, &d.corpus), done);
    d.hash = hx_corpus_hash(d.corpus);
    HX_TRY_GOTO(hx_comm_agree_equal(s->world, "hash of the data (the ranks see different files)", (int64_t)(d.hash >> 1)), done);
    hx_corpus_bytes(d.corpus, &n_bytes);
    int64_t split = whole ? 0 : split_at(n_bytes, c->data.holdout);
    loader_job job = {.corpus = d.corpus, .out = &d.train_loader,
                      .config = {.end = split, .ctx = c->model.ctx, .batch = c->train.batch,
                                 .micro_batch = c->train.micro_batch, .shuffle = c->train.shuffle,
                                 .last = c->train.drop_last ? HX_LAST_DROP : HX_LAST_JOIN,
                                 .seed = (uint64_t)c->train.seed, .rank = is_dealt ? hx_comm_rank(dp) : 0,
                                 .size = is_dealt ? hx_comm_size(dp) : 1}};
    if (wants_train) {
        HX_TRY_GOTO(hx__session_first(s, create_loader, &job), done);
        hx_loader_source(d.train_loader, &d.train);
    }
    if (wants_eval && n_bytes > split) {
        job.config.begin = split;
        job.config.end = n_bytes;
        job.config.shuffle = false;
        job.config.last = HX_LAST_SHORT;
        job.out = &d.eval_loader;
        HX_TRY_GOTO(hx__session_first(s, create_loader, &job), done);
        hx_loader_source(d.eval_loader, &d.eval);
    }
    *out = d;
    return HX_OK;
done:
    hx__session_data_close(&d);
    return status;
}

void hx__session_data_close(hx_session_data *data) {
    hx_loader_destroy(&data->eval_loader);
    hx_loader_destroy(&data->train_loader);
    hx_corpus_close(&data->corpus);
}

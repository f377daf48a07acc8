#include "tests/support/small_run.h"

#include <criterion/criterion.h>

#include "core/autograd/tape.h"

static void open_model(small_run *run, hx_comm *comm, const small_run_config *config, int64_t ctx) {
    hx_gpt_config gpt = HX_GPT_DEFAULT;
    hx_ddp_config ddp = HX_DDP_DEFAULT;
    gpt.ctx = ctx;
    gpt.dim = 24;
    gpt.layers = 2;
    gpt.heads = config->shard ? 2 : 3;
    gpt.dropout = 0.1;
    gpt.dtype = config->dtype;
    gpt.recompute = config->recompute;
    ddp.bucket_bytes = 20000; /* several buckets */
    ddp.zero = config->zero;
    ddp.shard = config->inside_hosts;
    OK(hx_gpt_create(run->device, &gpt, &run->gpt));
    if (config->shard) OK(hx_gpt_set_shard(run->gpt, config->shard));
    OK(hx_gpt_init(run->gpt, run->stream, 42));
    OK(hx_layer_freeze_list(run->gpt, config->freeze ? config->freeze : "", NULL));
    OK(hx_layer_params(run->gpt, &run->params));
    OK(hx_ddp_create(&(hx_ddp_setup){.dp = comm, .device = run->device, .stream = run->stream, .params = &run->params, .config = &ddp}, &run->ddp));
    hx_ddp_hook(run->ddp, &run->sync);
}

static void open_data(small_run *run, hx_comm *comm, const char *text_file, const small_run_config *config, int64_t ctx) {
    hx_tokens_info info;
    OK(hx_tokens_open(text_file, &run->tokens));
    hx_tokens_info_get(run->tokens, &info);
    const hx_loader_part all = {run->tokens, 0, info.n_tokens};
    hx_loader_config loader = {.ctx = ctx,
                               .batch = config->batch,
                               .micro_batch = config->micro_batch,
                               .shuffle = true,
                               .last = HX_LAST_JOIN,
                               .seed = 42,
                               .rank = hx_comm_rank(comm),
                               .size = hx_comm_size(comm),
                               .prefetch = true};
    OK(hx_loader_create(run->device, &all, 1, NULL, &loader, &run->loader));
    hx_loader_source(run->loader, &run->source);
}

void small_run_open(small_run *run, hx_comm *comm, const char *text_file, const small_run_config *config) {
    const int64_t ctx = 16;
    *run = (small_run){.config = HX_TRAIN_DEFAULT, .optim_config = HX_OPTIM_DEFAULT};
    OK(hx_device_open(config->device ? config->device : "cpu", &(hx_device_config){.n_threads = config->n_threads}, &run->device));
    OK(hx_stream_create(run->device, &run->stream));
    OK(hx_tape_create(run->device, &run->tape));
    open_model(run, comm, config, ctx);
    open_data(run, comm, text_file, config, ctx);
    run->optim_config.lr = config->lr;
    run->optim_config.warmup = 2;
    run->optim_config.clip_norm_type = config->clip_norm_type;
    if (config->no_clip) run->optim_config.clip = 0;
    OK(hx_optim_create_default(run->device, run->stream, &run->params, &run->optim_config, &run->optim));
    hx_comm_agreement(config->shard ? config->world : comm, &run->agreement);
    hx_ddp_copies(run->ddp, &run->agreement.share_copy, &run->agreement.n_share_copies);
    if (config->shard) {
        run->agreement.part = config->shard->rank, run->agreement.n_parts = config->shard->size;
        run->agreement.replica = hx_comm_rank(comm), run->agreement.n_replicas = hx_comm_size(comm);
    }
    run->config.steps = config->steps;
    run->config.batch = config->batch;
    run->config.micro_batch = config->micro_batch;
    run->config.seed = 42;
    run->config.ema = config->ema;
    run->config.check_replicas = config->check_replicas;
    hx_trainer_setup setup = {.ctx = {.device = run->device, .stream = run->stream, .tape = run->tape},
                              .model = {.self = run->gpt, .root = run->gpt, .loss = hx_lm_loss},
                              .optim = run->optim,
                              .optim_config = &run->optim_config,
                              .config = &run->config,
                              .train = &run->source,
                              .agreement = &run->agreement,
                              .sync = &run->sync,
                              .checkpoint = config->checkpoint,
                              .save_every = config->save_every};
    OK(hx_trainer_create(&setup, &run->trainer));
}

void small_run_close(small_run *run) {
    hx_trainer_destroy(&run->trainer);
    hx_loader_destroy(&run->loader);
    hx_tokens_close(&run->tokens);
    hx_optim_destroy(&run->optim);
    hx_ddp_destroy(&run->ddp);
    hx_param_list_destroy(&run->params);
    hx_layer_destroy(&run->gpt);
    hx_tape_destroy(&run->tape);
    hx_stream_destroy(&run->stream);
    hx_device_close(&run->device);
}

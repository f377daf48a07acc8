/* A small GPT with dropout, trained on a text file over a communicator: what a run is made of, without the program. */
#ifndef HX_TESTS_SUPPORT_SMALL_RUN_H
#define HX_TESTS_SUPPORT_SMALL_RUN_H

#include "core/nn/layers.h"
#include "core/nn/shard.h"
#include "core/train/trainer.h"
#include "dist/dp/ddp.h"
#include "io/data/data.h"
#include "tests/support/expect.h"

typedef struct small_run {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_layer *gpt;
    hx_param_list params;
    hx_ddp *ddp;
    hx_optim *optim;
    hx_tokens *tokens;
    hx_loader *loader;
    hx_trainer *trainer;
    /* borrowed by the above */
    hx_batch_source source;
    hx_agreement agreement;
    hx_grad_sync sync;
    hx_train_config config;
    hx_optim_config optim_config;
} small_run;

typedef struct small_run_config {
    int dtype; /* hx_gpt_config */
    int n_threads;
    int64_t batch, micro_batch, steps;
    double lr;
    int64_t recompute;  /* blocks in a segment; 0: activations are kept */
    double ema;         /* decay of the weights' average; 0: none */
    const char *freeze; /* globs; NULL: nothing is frozen */
    const char *device; /* backend's name; NULL: cpu */
    int64_t zero;       /* stage: hx_ddp_config */
    bool inside_hosts;  /* ddp.shard = host */
    int clip_norm_type; /* hx_optim_config */
    bool no_clip;
    int64_t check_replicas; /* hx_train_config */
    const hx_checkpoint_hook *checkpoint; /* NULL: none. Borrowed */
    int64_t save_every; /* steps, where there is one */
    const hx_shard *shard; /* cuts the model over ranks of `world`, of which `comm` is then the data-parallel axis; NULL: it is whole */
    hx_comm *world;
} small_run_config;

/* Asserts that all goes well; `run` must stay where it is. Its backend must be registered. */
void small_run_open(small_run *run, hx_comm *comm, const char *text_file, const small_run_config *config);
void small_run_close(small_run *run);

#endif

/* The trainer: steps, accumulation, evaluation, early stop, checkpoints, over the hooks of core/train/hooks.h.
 *
 *     hx_trainer_setup s = {.ctx = &ctx, .model = {.self = gpt, .root = gpt, .loss = hx_gpt_loss}, .train = &source,
 *                           .optim = opt, .config = &config, .optim_config = &oc};
 *     HX_TRY(hx_trainer_create(&s, &t));
 *     HX_TRY(hx_trainer_run(t));
 */
#ifndef HX_CORE_TRAIN_TRAINER_H
#define HX_CORE_TRAIN_TRAINER_H

#include "core/optim/optim.h"
#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_TRAIN_OPTIONS(X)                                                                                  \
    X(INT, steps, 0, 0, 1e15, "optimizer updates; 0 means `epochs` passes over the data")                    \
    X(REAL, epochs, 1, 0, 1e9, "passes over the training data when steps is 0")                              \
    X(INT, batch, 32, 1, 1 << 30, "sequences in a global batch, over all ranks and micro-batches")           \
    X(INT, micro_batch, 0, 0, 1 << 30, "sequences a rank computes at once; 0 means its whole share")         \
    X(INT, seed, 1234, 0, 9e15, "key of all random numbers")                                                 \
    X(INT, eval_every, 100, 0, 1e15, "steps between evaluations; 0: only at the end")                        \
    X(INT, eval_batches, 0, 0, 1e15, "global batches per evaluation; 0 means all held-out data")             \
    X(INT, patience, 0, 0, 1 << 30, "stop after this many evaluations without a better loss; 0: never")      \
    X(INT, log_every, 10, 1, 1e15, "steps between log records")                                              \
    X(INT, max_skips, 10, 0, 1 << 30, "consecutive updates with non-finite gradients before giving up")      \
    X(BOOL, anomaly, false, 0, 0, "check every op; the first non-finite number ends the run and is named (slow)")

HX_OPTIONS_STRUCT(hx_train_config, HX_TRAIN_OPTIONS);
#define HX_TRAIN_DEFAULT HX_OPTIONS_DEFAULT(HX_TRAIN_OPTIONS)
extern const hx_option hx_train_options[];
extern const int hx_train_n_options;

/* What is trained: any function from a micro-batch to a summed loss. */
typedef struct hx_model {
    void *self;
    hx_layer *root; /* owns the parameters */
    /** @param[out] loss_sum  f64 scalar, sum over the micro-batch's valid targets, recorded on ctx->tape
     *  @param[out] count     i64 scalar, how many there were */
    hx_status (*loss)(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count);
    double unit_per_count; /* what loss/count is multiplied with in reports to get `unit_name`; 0: no second unit */
    const char *unit_name; /* e.g. "bits/byte" */
} hx_model;

/** Cross-entropy of a layer that maps ids to logits; `self` is that layer. */
hx_status hx_lm_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count);

/* One line of the run's history. Every update gives a STEP, or a SKIP whose `step` is the update's left out; each
 * run that does not fail ends with one STOP. */
typedef enum hx_event_kind { HX_EVENT_STEP, HX_EVENT_EVAL, HX_EVENT_SAVE, HX_EVENT_SKIP, HX_EVENT_STOP } hx_event_kind;
typedef struct hx_train_event {
    hx_event_kind kind;
    int64_t step, n_steps;
    int64_t cursor;      /* samples consumed */
    double loss;         /* mean per target: of the step, or of the evaluation */
    int64_t count;       /* targets it was averaged over */
    double lr, grad_norm;
    double seconds;      /* of this step / evaluation / save */
    double elapsed_s;    /* over all incarnations */
    double tokens_per_s; /* targets per second over all ranks */
    double comm_share;   /* share of the step's time spent waiting for communication, 0..1 */
    int64_t memory_bytes; /* peak of the device's allocator on this rank */
    bool is_best;
    const char *text;    /* HX_EVENT_STOP, HX_EVENT_SKIP: why; HX_EVENT_SAVE: what failed, NULL if it went well.
                            Borrowed from the trainer until its next event */
} hx_train_event;

typedef struct hx_trainer_setup {
    hx_ctx ctx; /* device, stream, tape; the trainer sets the rest */
    hx_model model;
    hx_optim *optim;
    const hx_optim_config *optim_config;
    const hx_train_config *config;
    const hx_batch_source *train;
    const hx_batch_source *eval;          /* NULL: no evaluation */
    const hx_agreement *agreement;        /* NULL: one process */
    const hx_grad_sync *sync;             /* NULL: one process */
    const hx_checkpoint_hook *checkpoint; /* NULL: none */
    int64_t save_every;                   /* steps; 0: only at the end */
    /** Called on every rank for each event; a failure stops the run on all ranks. May be NULL. */
    hx_status (*on_event)(void *self, const hx_train_event *event);
    void *on_event_self;
    /** Polled once a step on every rank; true on any rank ends the run on all after a checkpoint. May be NULL. */
    bool (*should_stop)(void *self);
    void *should_stop_self;
} hx_trainer_setup;

typedef struct hx_trainer hx_trainer;

/** Collective. Checks the set-up (all ranks agree) and counts steps. Everything in `setup` is borrowed; the struct
 *  is copied. @return HX_ERR_CONFIG: batch smaller than the number of ranks, no data, ... */
hx_status hx_trainer_create(const hx_trainer_setup *setup, hx_trainer **out);
void hx_trainer_destroy(hx_trainer **trainer);
/** Collective. Train from the state's step to the end; evaluates and saves at the end. After should_stop it saves at
 *  once, without evaluating. A save that fails is reported by its event and training goes on, except that the run
 *  returns the status of its last save.
 *  @return HX_ERR_INTERRUPTED after should_stop; HX_ERR_NUMERIC after max_skips updates in a row were left out */
hx_status hx_trainer_run(hx_trainer *trainer);
/** Collective. One optimizer update; `event` (may be NULL) tells how it went. With several ranks a failure of the
 *  update itself or of the event callback is reported by the next collective call, on all ranks together. */
hx_status hx_trainer_step(hx_trainer *trainer, hx_train_event *event);
/** Collective. Mean loss over the evaluation source, no tape, eval mode; state is left untouched. */
hx_status hx_trainer_eval(hx_trainer *trainer, hx_train_event *event);
/** The scalars of the training state, to be saved, or overwritten after a load. Borrowed. */
hx_train_state *hx_trainer_state(hx_trainer *trainer);
/** All state tensors of the run (parameters and optimizer); destroy with hx_state_list_destroy. Waits for the
 *  stream: the host may read and write the tensors until the next step. */
hx_status hx_trainer_items(hx_trainer *trainer, hx_state_list *out);
int64_t hx_trainer_n_steps(const hx_trainer *trainer);

#ifdef __cplusplus
}
#endif
#endif

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
#include "core/train/metrics.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_TRAIN_OPTIONS(X)                                                                                  \
    X(INT, steps, 0, 0, 1e15, "optimizer updates; 0 means `epochs` passes over the data")                    \
    X(REAL, epochs, 100, 0, 1e9, "passes over the training data when steps is 0")                            \
    X(INT, batch, 32, 1, 1 << 30, "samples in a global batch, over all ranks and micro-batches")             \
    X(INT, micro_batch, 0, 0, 1 << 30, "samples a rank computes at once; 0 means its whole share")           \
    X(BOOL, shuffle, true, 0, 0, "deal samples in a new random order each epoch")                            \
    X(BOOL, drop_last, false, 0, 0, "leave out what does not fill a batch at the end of an epoch")           \
    X(INT, seed, 1234, 0, 9e15, "key of all random numbers")                                                 \
    X(INT, eval_every, 0, -1, 1e15, "steps between evaluations; 0: after every epoch; -1: only at the end")  \
    X(INT, eval_batches, 0, 0, 1e15, "global batches per evaluation; 0 means all held-out data")             \
    X(INT, patience, 10, 0, 1 << 30, "stop after this many evaluations without a better loss; 0: never")     \
    X(BOOL, save_best, true, 0, 0, "write a checkpoint after each evaluation that is the best so far")       \
    X(INT, log_every, 100, 1, 1e15, "steps between log records")                                             \
    X(INT, max_skips, 10, 0, 1 << 30, "consecutive updates with non-finite numbers before giving up")        \
    X(REAL, loss_scale, 65536, 0, 16777216, "initial loss scale of models with f16 parameters; 0: no scaling") \
    X(REAL, peak_flops, 0, 0, 1e30, "peak FLOP/s of a rank's device, of which the share is logged; 0: unknown") \
    X(TEXT, freeze, "", 0, 0, "parameters that are not trained: globs of names, e.g. tok.*,blocks.[01].*")   \
    X(REAL, ema, 0, 0, 0.9999999, "decay of the weights' moving average, which is evaluated; 0: none")       \
    X(INT, check_replicas, 0, 0, 1e15, "steps between comparisons of what ranks hold alike; each reads all of it once; 0: never") \
    X(CHOICE, deterministic, 0, "ranks|elastic", 0, "what a run's bits depend on: ranks: also their number; elastic: not") \
    X(BOOL, anomaly, false, 0, 0, "check every op; the first non-finite number ends the run and is named (slow)")

HX_OPTIONS_STRUCT(hx_train_config, HX_TRAIN_OPTIONS);
#define HX_TRAIN_DEFAULT HX_OPTIONS_DEFAULT(HX_TRAIN_OPTIONS)
extern const hx_option hx_train_options[];
extern const int hx_train_n_options;

enum { HX_DETERMINISTIC_RANKS, HX_DETERMINISTIC_ELASTIC }; /* train.deterministic */

/** Local. Leaves of the global batch in elastic training (hx_leaves): batch / micro_batch; 0 without it.
 *  @param n_ranks  with other samples, each of which is to have a leaf
 *  @return HX_ERR_CONFIG: micro_batch is 0, or the number is no power of two, or smaller than n_ranks; all are named */
hx_status hx_train_n_leaves(const hx_train_config *config, int n_ranks, int64_t *out);

/* What is trained: any function from a micro-batch to a summed loss. One of `loss` and `loss_scores` may be NULL. They change no
 * parameter, only buffers: a checkpoint may be copied meanwhile. */
typedef struct hx_model {
    void *self;
    hx_layer *root; /* owns the parameters */
    /** @param[out] loss_sum  f64 scalar, sum over the micro-batch's valid targets, recorded on ctx->tape
     *  @param[out] count     f64 or i64 scalar: how many there were, or the sum of their weights */
    hx_status (*loss)(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count);
    /** As `loss`, and gives what metrics compare with batch->target: an evaluation with metrics needs it.
     *  @param[out] scores  see hx_metrics_update */
    hx_status (*loss_scores)(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count,
                             hx_tensor **scores);
    double unit_per_count; /* what loss/count is multiplied with in reports to get `unit_name`; 0: no second unit */
    const char *unit_name; /* e.g. "bits/byte" */
} hx_model;

/** Cross-entropy of a layer that maps ids to logits; `self` is that layer. */
hx_status hx_lm_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count);
hx_status hx_lm_loss_scores(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count,
                            hx_tensor **scores);

/* One line of the run's history. Every update gives a STEP, or a SKIP whose `step` is the update's left out; each
 * run that does not fail ends with one STOP. */
typedef enum hx_event_kind {
    HX_EVENT_STEP,
    HX_EVENT_EVAL,
    HX_EVENT_SAVE, /* written, begun or left out, as `save` says */
    HX_EVENT_SKIP,
    HX_EVENT_STOP,
    HX_EVENT_SAVE_END /* one that was begun has ended: `step` is its step, `seconds` what it took beside training */
} hx_event_kind;
typedef struct hx_train_event {
    hx_event_kind kind;
    int64_t step, n_steps;
    int64_t cursor;      /* samples consumed */
    double epoch;        /* the same in passes over the data */
    double loss;         /* mean per target: of the step, or of the evaluation */
    double count;        /* targets it was averaged over, or the sum of their weights */
    double lr, grad_norm;
    double seconds;      /* of this step / evaluation / save; of a save what training stood still for in its call */
    double elapsed_s;    /* over all incarnations */
    double tokens_per_s; /* targets per second over all ranks */
    double comm_share;   /* share of the step's time spent waiting for communication, 0..1 */
    double data_share;   /* the same for data: in the source's `get` */
    int64_t memory_bytes; /* peak of the device's allocator on this rank */
    double flops_share;  /* share of peak_flops that this rank's ops achieved; 0: not known */
    double loss_scale;   /* that the step was computed with; 0: none */
    const hx_metrics *metrics; /* HX_EVENT_EVAL: over all ranks; NULL: none. Borrowed until the next evaluation */
    bool is_best;
    hx_save_result save; /* HX_EVENT_SAVE */
    /* HX_EVENT_SAVE_END: what training stood still for, when it was begun and before the first change of what it was still copying;
     * mean seconds of the steps beside it, without that, and of those between the last one and it; NaN: there were none */
    double stall_s, step_s, step_s_before;
    const char *text;    /* HX_EVENT_STOP, HX_EVENT_SKIP: why; HX_EVENT_SAVE, HX_EVENT_SAVE_END: what failed, NULL if it went well.
                            Borrowed from the trainer until its next event */
} hx_train_event;

typedef struct hx_trainer_setup {
    hx_ctx ctx; /* device, stream, tape; the trainer sets the rest */
    hx_model model;
    hx_optim *optim;
    const hx_optim_config *optim_config;
    const hx_train_config *config; /* freeze: apply hx_layer_freeze_list before optimizer and sync are made, too */
    const hx_batch_source *train;
    const hx_batch_source *eval;          /* NULL: no evaluation */
    hx_metrics *metrics;                  /* what an evaluation counts beside the loss; NULL: nothing */
    const hx_agreement *agreement;        /* NULL: one process */
    const hx_grad_sync *sync;             /* NULL: one process. Elastic training needs one, whose leaves are those of `config` */
    const hx_checkpoint_hook *checkpoint; /* NULL: none */
    int64_t save_every;                   /* steps; 0: every 10 epochs; -1: only at the end */
    /** Called on every rank for each event; a failure stops the run on all ranks. Before it changes a parameter it calls
     *  hx_trainer_items. May be NULL. */
    hx_status (*on_event)(void *self, const hx_train_event *event);
    void *on_event_self;
    /** Polled once a step on every rank; true on any rank ends the run on all after a checkpoint. May be NULL. */
    bool (*should_stop)(void *self);
    void *should_stop_self;
} hx_trainer_setup;

typedef struct hx_trainer hx_trainer;

/** Collective. Checks the set-up (all ranks agree) and counts steps. Everything in `setup` is borrowed; the struct
 *  is copied. With config.ema the averages begin as the parameters are now.
 *  @return HX_ERR_CONFIG: batch smaller than the number of ranks, no data, nothing to train, ... */
hx_status hx_trainer_create(const hx_trainer_setup *setup, hx_trainer **out);
void hx_trainer_destroy(hx_trainer **trainer);
/** Collective. Train from the state's step to the end; evaluates and saves at the end. After should_stop or
 *  hx_trainer_stop it saves at once, without evaluating; after hx_trainer_pause it does neither. Called again, it goes
 *  on; an evaluation that was due when it stopped comes first; a run that is complete, or whose patience has ended, has
 *  nothing to do. A save that fails is reported by its event and training goes on, except that the run returns the status
 *  of its last save. Saves beside training have ended when this returns, unless it fails.
 *  @return HX_OK also after a pause; HX_ERR_INTERRUPTED after a stop; HX_ERR_NUMERIC after max_skips updates in a row
 *          were left out (in f16 those count that a smaller loss scale cannot mend) */
hx_status hx_trainer_run(hx_trainer *trainer);
/** Local; from an event callback, another thread or a signal handler, on any rank: all ranks leave hx_trainer_run after
 *  the step that is under way. A wish uttered outside of a run holds for the next one. */
void hx_trainer_stop(hx_trainer *trainer);
void hx_trainer_pause(hx_trainer *trainer);
/** Collective. One optimizer update; `event` (may be NULL) tells how it went. With several ranks a failure of the
 *  update itself or of the event callback is reported by the next collective call, on all ranks together. */
hx_status hx_trainer_step(hx_trainer *trainer, hx_train_event *event);
/** Collective. Mean loss over the evaluation source, no tape, eval mode; state is left untouched, except that buffers
 *  (running statistics, which each rank gathers from its own samples) become their means over the ranks, as before a
 *  save. With config.ema the averages stand in the parameters' place meanwhile (buffers, which are not averaged, stay), so
 *  that early stop, plateau and "best" judge them. */
hx_status hx_trainer_eval(hx_trainer *trainer, hx_train_event *event);
/** Local. This rank's share of an evaluation: no tape, eval mode; nothing of the model changes. There is no collective
 *  inside, so a failure needs no care until the ranks add up their sums.
 *  @param n_batches  global batches; 0: all of the source
 *  @param leaves     n > 0: the source has all micro-batches of each batch (as in elastic training), of which this rank takes
 *                    every size-th from its rank on; the losses are rounded so that their sums over ranks are exact. NULL: the
 *                    source deals them out
 *  @param metrics    counts are added to it; NULL: none. They need model->loss_scores
 *  @param[out] sums  of losses and of counts */
hx_status hx_eval_share(const hx_ctx *ctx, const hx_model *model, const hx_batch_source *source, int64_t n_batches,
                        const hx_leaves *leaves, hx_metrics *metrics, double sums[2]);
/** The scalars of the training state, to be saved, or overwritten after a load. Borrowed. */
hx_train_state *hx_trainer_state(hx_trainer *trainer);
/** All state tensors of the run (parameters, buffers, optimizer, averages); destroy with hx_state_list_destroy. Waits for the
 *  stream, and for a save's copy of them: the host may read and write the tensors until the next step. */
hx_status hx_trainer_items(hx_trainer *trainer, hx_state_list *out);
int64_t hx_trainer_n_steps(const hx_trainer *trainer);

#ifdef __cplusplus
}
#endif
#endif

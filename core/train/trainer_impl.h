/* Inside of the trainer: trainer.c (life and run), step.c (one update), sums.c (losses added up on the device),
 * norm.c (the gradients' norm over ranks), elastic.c (what elastic training asks for), buffers.c (running statistics), replicas.c
 * (copies compared), save.c (checkpoints), eval.c (evaluation), report.c (failures shared with the other ranks, and events). */
#ifndef HX_CORE_TRAIN_TRAINER_IMPL_H
#define HX_CORE_TRAIN_TRAINER_IMPL_H

#include <signal.h>
#include "core/optim/ema.h"
#include "core/optim/schedule.h"
#include "core/train/trainer.h"

/* Sums of this rank's share, kept on the device so that micro-batches do not wait for the host. */
enum { HX__SUM_LOSS, HX__SUM_COUNT, HX__SUM_NORM, HX__SUM_N };
typedef struct hx__loss_sums {
    hx_tensor *all;            /* [HX__SUM_N] f64; owned */
    hx_tensor *sum[HX__SUM_N]; /* its elements; owned */
    bool is_exact; /* terms are rounded so that no order of adding them shows */
} hx__loss_sums;

/* Whose gradients the norm is of. */
typedef struct hx__norm {
    hx_param_list params; /* whose gradients, or shares of them, this rank counts */
    bool is_joint;        /* parameters are split or shared out over ranks: the norm is a sum over them */
    bool counts;          /* this rank's part of that sum is not one of several copies */
    /* elastic training: the parts of all blocks of all parameters, range by range of the tensor-parallel ranks' parts */
    hx_tensor *blocks;  /* [n_blocks] f64, zeros but for what this rank counts; owned. NULL: not elastic */
    hx_tensor **places; /* [params.n_items] windows of it; NULL: another rank counts it. Owned */
    double *joined;     /* [n_blocks] on the host; owned */
    int64_t n_blocks;
} hx__norm;

/* What the one small reduction of a step or an evaluation carries. */
enum {
    HX__RED_LOSS,
    HX__RED_COUNT,
    HX__RED_BAD_NORM,
    HX__RED_FAILED,
    HX__RED_STOP,
    HX__RED_SECONDS,
    HX__RED_PAUSE,
    HX__RED_NORM, /* where no rank has the whole: hx__norm.is_joint */
    HX__RED_N
};

enum { HX__WISH_STOP = 1, HX__WISH_PAUSE };

/* How long steps take: what a save costs that goes on beside them. */
typedef struct hx__pace {
    double seconds;
    int64_t n_steps;
} hx__pace;

struct hx_trainer {
    hx_trainer_setup setup; /* a copy; what it points to is borrowed */
    hx_ctx ctx;             /* of training passes */
    hx_ctx quiet;           /* of everything else: no tape, eval mode */
    hx_param_list params, buffers;
    hx__norm norm;
    void *buffer_data; /* host memory for the largest buffer in f64; owned */
    hx_ema *ema;         /* NULL: no averages */
    hx_state_list items; /* filled if there is a checkpoint hook */
    hx_state_list copies; /* what other ranks hold too; filled with config.check_replicas */
    int64_t n_whole_copies; /* of these the first: what all ranks hold; the rest is parts of tensors */
    void *votes; /* room for what the ranks say about them; owned */
    hx_train_state state;
    hx_plateau plateau; /* of the schedule "plateau"; its scale is 1 for the others */
    int64_t n_steps;
    int64_t n_skips_in_row;
    volatile sig_atomic_t wish; /* of this rank alone: HX__WISH_STOP, HX__WISH_PAUSE */
    bool stop_wanted, pause_wanted; /* the same on all ranks: they come out of the reduction */

    hx__loss_sums sums;
    hx_tensor *gscale;       /* f64 scalar: what multiplies gradients in the update */
    hx_tensor *seed;         /* f64 scalar: the loss scale; NULL: this model needs none */
    int64_t n_batch_samples; /* in the global batch of this step */
    bool is_short;           /* this rank has none of them, or in elastic training none in one of its leaves */
    double flops_before;     /* of the device, at the start of the step */
    double data_wait_s;      /* in this step, for the source */
    double settle_wait_s;    /* in this step, for the copy that a save makes beside it */

    hx_status failure; /* of this rank, which the others have not heard of yet */
    char failure_text[1024];

    double unbooked_s;      /* rank's time since the reduction that last added to state.elapsed_s */
    int64_t saved_step;     /* of the last save; -1: none yet */
    int64_t saved_epoch;    /* whole epochs that were through then */
    bool is_best;          /* the last evaluation was the best one */
    hx_status save_status; /* of the last save; of one that goes on, HX_OK */
    char save_text[1024];
    double save_stall_s;   /* of the last one that was begun: in its call, and behind it until its copy was made */
    int64_t n_timed;       /* steps of this process */
    hx__pace pace, pace_before; /* since the last save that was begun, or has ended; and up to it */
    hx_train_event event; /* the last one */
    char event_text[256];
};

/* ---- report.c ---- */

double hx__seconds_now(void);
/* Remember a failure of this rank (the first one counts) until hx__trainer_share tells the others. */
void hx__trainer_note(hx_trainer *t, hx_status status);
/* A failure outside of a step's reduction. One process: returned. Several: noted, so that this rank goes on
 * to the next reduction, where all of them stop together. */
hx_status hx__trainer_defer(hx_trainer *t, hx_status status);
/* This rank has failed, and with it those that hold the other parts of its model: they wait for it within a layer and come to no
 * later reduction. It leaves at once, and whoever runs the job ends them. */
bool hx__trainer_is_lost(const hx_trainer *t);
/* Collective: all ranks tell whether they noted a failure, and fail together. */
hx_status hx__trainer_share(hx_trainer *t);
/* Collective: the sum of values over ranks. Fails on all ranks if one of them noted a failure. */
hx_status hx__trainer_reduce(hx_trainer *t, double values[HX__RED_N]);
/* Start t->event: kind and what all events have. */
void hx__trainer_event(hx_trainer *t, hx_event_kind kind, double seconds);
/* Hand t->event to the callback. */
hx_status hx__trainer_emit(hx_trainer *t);

/* ---- sums.c ---- */

/* @param is_exact  terms are rounded, see hx__loss_sums */
hx_status hx__loss_sums_create(hx_device *device, hx_stream *stream, bool is_exact, hx__loss_sums *out);
void hx__loss_sums_destroy(hx__loss_sums *sums);
/* Waits for the stream. On a device that computes nothing a rehearsed step goes on as one with a target and no loss would. */
hx_status hx__loss_sums_read(const hx__loss_sums *sums, hx_stream *stream, double out[HX__SUM_N]);
/* The model's loss of one micro-batch, checked, and added to the sums without waiting for it.
 * @param scores  NULL: not wanted */
hx_status hx__loss_add(hx__loss_sums *sums, const hx_model *model, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss,
                       hx_tensor **scores);

/* ---- norm.c ---- */

/* Finds out what this rank counts. @return HX_ERR_STATE: in elastic training a share of a parameter does not begin with a block */
hx_status hx__norm_open(hx_trainer *t);
void hx__norm_close(hx__norm *norm);
/* This rank's sums, those of losses too; sums[HX__SUM_NORM] is its part of the norm, or in elastic training 0, or NaN where a
 * block is not finite. */
hx_status hx__norm_measure(hx_trainer *t, double sums[HX__SUM_N]);
/* The part of the norm that the root is of: this rank's own where it has all, else that of all ranks, after the reduction.
 * Collective where it is no sum. */
hx_status hx__norm_join(hx_trainer *t, const double values[HX__RED_N], double own, double *out);

/* ---- elastic.c ---- */

/* The micro-batches are leaves: hx_grad_sync.leaves. */
bool hx__trainer_is_elastic(const hx_trainer *t);
/* Set-up: configuration and synchronisation want the same; no buffers. */
hx_status hx__trainer_check_elastic(const hx_trainer *t);

/* ---- buffers.c ---- */

hx_status hx__trainer_open_buffers(hx_trainer *t);
/* Collective: each buffer becomes its mean over the ranks, the same bits on all of them. */
hx_status hx__trainer_mean_buffers(hx_trainer *t);

/* ---- replicas.c ---- */

/* List what ranks hold alike. */
hx_status hx__trainer_open_copies(hx_trainer *t);
/* Collective, after an update, if it is due: compare the copies over the ranks. All of them fail, and alike, with HX_ERR_CORRUPT
 * naming the ranks that differ, their hosts and the first tensor; or with the failure of a rank that it has not told yet. */
hx_status hx__trainer_check_copies(hx_trainer *t);

/* ---- save.c ---- */

/* Collective. A checkpoint of the state as it is, unless this step has one; t->event tells. */
hx_status hx__trainer_save(hx_trainer *t);
/* The one door to changes of steady items (hx_state_item): the update, averages in the place of weights, and whatever the caller
 * does. A save that goes on beside training may still be copying them. */
void hx__trainer_settle(hx_trainer *t);
/* A step is done: t->event is its. */
void hx__trainer_time_step(hx_trainer *t);
/* Saves that have ended since: their events. */
hx_status hx__trainer_report_saves(hx_trainer *t);
/* Collective. Wait for the save that is under way, and report it. */
hx_status hx__trainer_finish_saves(hx_trainer *t);

/* ---- trainer.c, step.c, eval.c ---- */

/* Whole epochs that are through. */
int64_t hx__trainer_epoch(const hx_trainer *t);
/* One update, done or left out; t->event tells. */
hx_status hx__trainer_update(hx_trainer *t);
/* HX_ERR_NUMERIC when as many updates in a row as allowed have been left out. */
hx_status hx__trainer_check_skips(const hx_trainer *t);
/* The settings of the schedule "plateau". */
hx_plateau_config hx__trainer_plateau(const hx_optim_config *config);
/* Evaluate, track the best loss, report. */
hx_status hx__trainer_evaluate(hx_trainer *t);

#endif

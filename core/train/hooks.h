/* What the trainer needs from outside, declared here and implemented in dist/ and io/ (the composition root
 * joins them). Each is a small vtable with a `self`; all are borrowed by the trainer.
 */
#ifndef HX_CORE_TRAIN_HOOKS_H
#define HX_CORE_TRAIN_HOOKS_H

#include "core/nn/layer.h"
#include "core/op/ops.h"
#include "core/tensor/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- agreement: failure shared by all ---- */

typedef struct hx_agreement {
    void *self; /* NULL fields below: one process */
    int rank, size;
    const char *host; /* this rank's, for messages; NULL: not known */
    /* Tensor parallelism: ranks that compute the same samples, each with its part of the split parameters, and those of the
     * others that hold the same part. n_parts 0 or 1: every rank holds everything. */
    int part, n_parts, replica, n_replicas;
    /* Of parameters that replicas share out (hx_param.is_shared) this rank's share is copy share_copy of n_share_copies;
     * 0 of 0 is the only one. */
    int share_copy, n_share_copies;
    /** Collective: every rank passes its own status; all return HX_OK together, or the failing rank returns its
     *  own status and the others HX_ERR_REMOTE, whose message names the lowest failing rank, its host and text. */
    hx_status (*agree)(void *self, hx_status mine);
    /** Collective: in place sum over ranks of n <= 64 doubles, in a fixed order, the same bits on all ranks.
     *  This is the step's small reduction; it waits for the result. */
    hx_status (*sum)(void *self, double *values, int n);
    /** Collective: in place the largest over ranks of one double; NaN wins. NULL: not offered. */
    hx_status (*max)(void *self, double *value);
    /** Collective: each of n doubles is other than 0 on one rank at most, which tells it to all. NULL: not offered. */
    hx_status (*join)(void *self, double *values, int64_t n);
    /** Collective: n_bytes of every rank, in the order of ranks. @param all [size * n_bytes]. NULL: not offered. */
    hx_status (*gather)(void *self, const void *mine, size_t n_bytes, void *all);
    /** Local, for comparisons: a hash of n_bytes. Pieces are chained by giving the hash so far as the seed of the next. NULL: not
     *  offered. */
    uint64_t (*hash)(uint64_t seed, const void *data, size_t n_bytes);
    /** Collective: copy n_bytes from rank 0 to all. */
    hx_status (*broadcast)(void *self, void *data, size_t n_bytes);
} hx_agreement;

/* ---- data ---- */

/* Samples of one micro-batch on this rank. The tensors belong to the source and are reused by its next call. */
typedef struct hx_batch {
    hx_tensor *input;    /* e.g. ids [B,T] i32 */
    hx_tensor *target;   /* e.g. ids [B,T] i32 */
    int64_t n_samples;   /* B */
    int64_t sample_base; /* position of the first sample in the step's global batch */
} hx_batch;

/* Elastic training: the global batch is n numbered micro-batches, its leaves, and each gradient is their sum in one binary tree,
 * sum(first..end) of the two halves, so that its bits do not depend on who computed which leaf. A rank takes the leaves
 * [n r / size, n (r+1) / size), or, interleaved, r, r + size, r + 2 size, ... */
typedef struct hx_leaves {
    int64_t n; /* a power of two; 0: not elastic */
    int rank, size;
    bool is_interleaved;
} hx_leaves;

/** Leaves that this rank computes. */
int64_t hx_leaves_count(const hx_leaves *leaves);
/** Number of the i-th of them; they rise. */
int64_t hx_leaves_at(const hx_leaves *leaves, int64_t i);

/* A source deals the global batch out to ranks; in elastic training it deals leaves, and every rank may ask for any of them (a
 * loader or data set made as rank 0 of 1 does). Its whole state is `cursor`, the number of samples that all ranks together have
 * consumed: any number of ranks continues from it. */
typedef struct hx_batch_source {
    void *self;
    int64_t n_global;      /* samples of one epoch */
    int64_t batch;         /* samples of a global batch */
    /** Samples of the global batch at `cursor`, over all ranks: fewer than `batch` at the end of an epoch. The same on
     *  all ranks. NULL: always `batch`; batches then go on over the end of an epoch. */
    hx_status (*n_samples)(void *self, int64_t cursor, int64_t *out);
    /** Micro-batches this rank gets for the global batch at `cursor`; differs between ranks by one at most; 0 is
     *  possible where the batch is smaller than the number of ranks. In elastic training: leaves with samples, over all ranks. */
    hx_status (*n_micro)(void *self, int64_t cursor, int64_t *out);
    /** Micro-batch `index` of this rank's share of the global batch that starts at sample `cursor`; in elastic training any leaf. */
    hx_status (*get)(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out);
} hx_batch_source;

/* ---- gradient synchronisation ---- */

typedef struct hx_grad_sync {
    void *self;
    /** Collective: a step of n_micro micro-batches on this rank begins. NULL: not needed. */
    hx_status (*start)(void *self, int64_t n_micro);
    hx_leaves leaves; /* n > 0: the sums are elastic, and these are this rank's micro-batches, all of which begin */
    /** A micro-batch begins. `is_last`: it is the rank's last one in this step: gradients that become final from now on are
     *  sent. In elastic training parameters have no gradient after it. */
    hx_status (*begin)(void *self, bool is_last);
    /** A leaf has no gradient yet (the tape's place hook). NULL: not needed. */
    hx_status (*place)(void *self, hx_tensor *leaf);
    /** A leaf's gradient is final (the tape's ready hook; called during backward). */
    hx_status (*ready)(void *self, hx_tensor *leaf);
    /** Collective: send what has not been sent and make `stream` wait for all sums. Called on every rank, whatever went wrong before,
     *  so that no rank waits for ever. @param partial  this rank's gradients are incomplete, because its backward failed or it had
     *  no samples, or not for all of its leaves: those that are missing count as zero
     *  @return HX_ERR_STATE names a parameter that took no part on this rank, unless `partial` */
    hx_status (*finish)(void *self, hx_stream *stream, bool partial);
    /** Collective, after an update that shares out parameters (hx_param.is_shared) over the ranks, whether this rank's share went
     *  well or not: make the parameters whole again. NULL: every rank updates all of them. */
    hx_status (*updated)(void *self, hx_stream *stream);
    /** Seconds this rank waited for communication in the last step, and bytes it reduced. */
    void (*stats)(void *self, double *wait_s, int64_t *n_bytes);
} hx_grad_sync;

/* ---- persistent state ---- */

/* One logical tensor of the run's state, or this rank's part of it. */
typedef struct hx_state_item {
    char name[192];          /* "/model/blocks.0.attn.q.weight", "/optim/m/..." : path in the checkpoint */
    hx_dtype dtype;
    const hx_layout *layout; /* borrowed: global shape, boxes held here, offsets relative to `data` */
    void *data;              /* borrowed; no work that writes it may be under way when the list is used */
    hx_device *device;       /* whose memory `data` is; NULL: the host's */
    int replica, n_replicas; /* this rank is copy `replica` of `n_replicas` identical ones, which share the writing: all in the same order */
    /* Nothing changes `data` but what comes behind hx_checkpoint_hook.settle: a save beside training may read it until then. False
     * is always right; it costs training the time of the copy. */
    bool is_steady;
    /** Only for items that are saved, instead of `data` and `device`: n elements from local offset `at` on. Asked for more than once.
     *  NULL: not offered. */
    hx_status (*produce)(void *source, int64_t at, int64_t n, void *out);
    void *source; /* borrowed */
} hx_state_item;

typedef struct hx_state_list {
    hx_state_item *items; /* owned */
    int64_t n_items, capacity;
} hx_state_list;

/* Scalars of the training state: global facts, nothing per rank. */
typedef struct hx_train_state {
    int64_t step;          /* optimizer updates done */
    int64_t cursor;        /* samples consumed by all ranks together */
    uint64_t seed;         /* key of all random numbers */
    double best_loss;      /* lowest evaluation loss so far; +inf before the first */
    int64_t n_bad_evals;   /* evaluations since */
    int64_t n_skipped;     /* updates left out because a number was not finite */
    double last_loss;      /* of the last step */
    double last_eval_loss; /* NaN before the first */
    double elapsed_s;      /* training time over all incarnations */
    double loss_scale;     /* of parameters in f16; 0: none yet */
    int64_t n_clean;       /* updates since the scale last changed */
    uint64_t data_hash;    /* of the training data; 0: not known. Compared when a run is resumed */
    int64_t eval_step;     /* of the last evaluation, 0 before the first; -1: not known */
    int64_t eval_epoch;    /* whole epochs that were through then */
} hx_train_state;

/* What a call of `save` did. */
typedef enum hx_save_result {
    HX_SAVE_WRITTEN, /* the checkpoint is on the disk */
    HX_SAVE_BEGUN,   /* it is being written, beside training; `ended` will tell how that went */
    HX_SAVE_SKIPPED  /* nothing: the last one is still being written */
} hx_save_result;

/* How a save that went on beside training has ended. */
typedef struct hx_save_end {
    int64_t step;
    double seconds; /* from `save` on */
    bool is_best;
    hx_status status;
    char text[1024]; /* of a failure */
} hx_save_end;

typedef struct hx_checkpoint_hook {
    void *self;
    /** Local. Such lists will be saved during training: what takes time and can be made ready for it is. NULL: nothing is. */
    void (*expect)(void *self, const hx_state_list *items);
    /** Collective. Writes a checkpoint of `items` and `state`, or begins to: they may change when it returns, but for the values of
     *  steady items, and the list may be destroyed. A failure leaves earlier ones untouched.
     *  @param is_best  this state has the lowest evaluation loss so far: it is kept beyond the last K
     *  @param[out] result  the same on all ranks */
    hx_status (*save)(void *self, const hx_train_state *state, const hx_state_list *items, bool is_best, hx_save_result *result);
    /** Local, on the thread that saves, before anything that changes steady items, or frees them: returns when a save that goes on
     *  has read what it reads of them. Cheap if there is none. NULL, as are `finish` and `ended`: none ever goes on beside training. */
    void (*settle)(void *self);
    /** Collective. Returns when no save is under way. */
    void (*finish)(void *self);
    /** Local. True once after each save that was begun and has ended, in their order. The status is the same on all ranks, or
     *  HX_ERR_REMOTE on those that did not fail first. */
    bool (*ended)(void *self, hx_save_end *out);
} hx_checkpoint_hook;

/** Which of how many ranks with the same values this one is: they share the writing. @param ranks  NULL: one process
 *  @param is_split  hx_param.is_split; @param is_shared  the values are this rank's share of a parameter (hx_param.is_shared) */
void hx_agreement_copies(const hx_agreement *ranks, bool is_split, bool is_shared, int *copy, int *n_copies);
hx_status hx_state_list_add(hx_state_list *list, const hx_state_item *item);
void hx_state_list_destroy(hx_state_list *list);

#ifdef __cplusplus
}
#endif
#endif

/* What the files of launch/ share about a session: its parts, how it fails, how it shows progress. */
#ifndef HX_LAUNCH_SESSION_IMPL_H
#define HX_LAUNCH_SESSION_IMPL_H

#include "core/autograd/tape.h"
#include "core/nn/recompute.h"
#include "io/log/history_h5.h"
#include "io/log/jsonl.h"
#include "launch/compose.h"
#include "launch/placement.h"

enum { HX_RUN_COMM_AUTO, HX_RUN_COMM_NCCL, HX_RUN_COMM_STAGED }; /* run.comm */

struct hx_session {
    hx_config config;
    hx_comm *world;
    bool owns_world;
    hx_mesh *mesh;
    hx_tensor_parallel *tp; /* NULL: none */
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_ctx ctx;
    hx_placement placement;
    char no_nccl[256];          /* why auto did without it; "": it did not */
    int exit_code;              /* of the first failing rank; 0: nothing has failed */
    bool have_answered;         /* all ranks, when it had failed */
    struct hx_deadline *closing; /* runs from a failure on, see hx__session_fail; NULL: one process */
};

/** Local, without MPI and without memory: the session as rank `rank` of `size` would have it, on a meta device, in a dry world
 *  (dist/comm/dry.h). run.device, run.threads and run.comm do not matter. For hx__session_rehearse.
 *  @param shares_memory  collectives go through the memory of one host */
hx_status hx__session_open_dry(const hx_config *config, int rank, int size, bool shares_memory, hx_session **out);

/** Collective. Called with the failure that all ranks of an agreed step have: finds the lowest rank that failed by
 *  itself, so that one rank speaks and all leave with its exit code. From then on the process has 10 s to close the
 *  session; after that it is ended by MPI_Abort, because ranks that wait for others that are gone wait for ever.
 *  @return `status`, or HX_ERR_REMOTE on the ranks that need not speak. HX_OK is passed through */
hx_status hx__session_fail(hx_session *session, hx_status status);
/** Behind hx__session_fail: do what ends by itself where all ranks are there to do it, however long that takes; the 10 s begin anew. Where
 *  ranks did not answer nothing is done. One process does it at once. */
void hx__session_settle(hx_session *session, void (*job)(void *arg), void *arg);
/** Exit code that every rank should leave with after `status`. */
int hx__session_exit_code(const hx_session *session, hx_status status);

/* A job that every rank does and that fails on all ranks alike, e.g. opening the corpus: rank 0 goes first, so that
 * one rank tells what is wrong. Collective. */
typedef hx_status (*hx_session_job)(hx_session *session, void *arg);
hx_status hx__session_first(hx_session *session, hx_session_job job, void *arg);

/** The agreement of all ranks, with their places in the mesh. */
void hx__session_ranks(const hx_session *session, hx_agreement *out);

/** Number of worker threads that the device runs with. */
int hx__session_threads(const hx_session *session);

/* ---- train.c ---- */

/* What of a training's making has been done, and of its first steps. */
typedef enum hx_stage {
    HX_STAGE_SYNC,   /* data parallelism */
    HX_STAGE_OPTIM,  /* optimizer, trainer */
    HX_STAGE_FIRST,  /* one step: gradients, and what is made when it is first needed */
    HX_STAGE_SECOND, /* another */
    HX_STAGE_COUNT
} hx_stage;

typedef struct hx_rehearsal {
    void *self;
    void (*reached)(void *self, hx_stage stage, const hx_param_list *params);
    /** Bytes of the run's state that this rank writes into a checkpoint. */
    void (*shared)(void *self, int64_t n_bytes);
} hx_rehearsal;

/** On a dry session: put a training of `model` together as hx_session_train does, do two steps, and evaluate: that keeps no
 *  activations, but with train.ema a copy of the parameters. Nothing is read or written: no folder, checkpoint or metrics. The
 *  device's allocator sees the calls of a real run.
 *  @param parts  train is given, and eval where there is one */
hx_status hx__session_rehearse(hx_session *session, const hx_model *model, const hx_train_parts *parts, const hx_rehearsal *rehearsal);

/* ---- data.c ---- */

/* The data sets of data.path with their two splits; zeroed before the first use. */
typedef struct hx_session_data {
    hx_tokens **tokens; /* [n_tokens]; owned */
    int n_tokens;
    double *weights; /* [n_tokens] of data.weights; NULL: none were given. Owned */
    hx_loader *train_loader, *eval_loader; /* NULL: not asked for, or no held-out part */
    hx_batch_source train, eval;
    uint64_t hash; /* of the data, and of what decides their order beside the seed */
    hx_tokenizer_id tokenizer; /* whose ids they hold; of data that do not tell that of data.tokenizer, where one is named */
} hx_session_data;

/** Collective. Open the data of the configuration and make the loaders of this rank. A dry session has a blank text, long enough
 *  for a batch of each split.
 *  @param wants_train, wants_eval  which loaders
 *  @param whole  evaluate on all of the data instead of its held-out part */
hx_status hx__session_data_open(hx_session *session, bool wants_train, bool wants_eval, bool whole, hx_session_data *out);
void hx__session_data_close(hx_session_data *data);

/* ---- tokenizer.c ---- */

/** Local. What a checkpoint tells of its ids. */
hx_status hx__tokenizer_of_checkpoint(const char *file, hx_tokenizer_id *out);
/** Local. As hx_tokenizer_open and hx_tokenizer_id_get. */
hx_status hx__identify_tokenizer(const char *path, hx_tokenizer_id *out);
/** Local. Whether that is what lies there. */
bool hx__is_tokenizer(const char *path, const hx_tokenizer_id *id);
/** Local. The folder with the tokenizer's files in the run's that a checkpoint (hx__find_checkpoint) lies in. False: there is none. */
bool hx__run_tokenizer(const char *file, char out[HX_PATH_BYTES]);
/** Local, rank 0. Keep the files of the run's tokenizer in its folder, where they are known: those of data.tokenizer, or those that the
 *  run of init_from keeps. */
hx_status hx__folder_keep_tokenizer(const hx_config *config, const hx_tokenizer_id *id);
/** Local. @param file  the checkpoint that `stored` is of; @param what, given  what is to go with it, "data.path = x holds"; @param way_on  what was expected
 *  @return HX_ERR_MISMATCH with both */
hx_status hx__same_tokenizer(const char *file, const hx_tokenizer_id *stored, const char *what, const hx_tokenizer_id *given, const char *way_on);
/** The same for data. @param way_on  what goes beside data of the same tokenizer; "": nothing */
hx_status hx__same_tokenizer_of_data(const hx_session *s, const char *file, const hx_tokenizer_id *stored, const hx_session_data *data,
                                     const char *way_on);

/* ---- elastic.c ---- */

#define HX_KERNELS_BYTES 128

bool hx__session_is_elastic(const hx_session *session);
/** hx_device_props.kernels of the session's device. */
void hx__session_kernels(const hx_session *session, char out[HX_KERNELS_BYTES]);
/** Collective. Leaves of the global batch; 0: the run is not elastic.
 *  @return HX_ERR_CONFIG: as hx_train_n_leaves, or two ranks compute with other kernels; both are named, and theirs */
hx_status hx__session_leaves(hx_session *session, int64_t *out);
/** Local. What an elastic run that goes on from an elastic one's checkpoint may not change: batch and micro-batch, kernels, the parts
 *  that the model is split into.
 *  @param source  the checkpoint. @return HX_ERR_CONFIG with both, and how to go on */
hx_status hx__elastic_same_leaves(const hx_config *stored, const hx_config *given, const char *source);
hx_status hx__elastic_same_kernels(const hx_session *session, const hx_config *stored, const char *kernels, const char *source);
hx_status hx__elastic_same_parts(const hx_session *s, const hx_config *stored, const char *source);

/* ---- transport.c ---- */

/** Collective. Open what moves memory of the session's device between ranks, as `comm` says.
 *  @return HX_ERR_CONFIG, or why there is no NCCL, where it was asked for by name */
hx_status hx__session_transport(hx_session *session);

/* ---- recompute.c ---- */

/** Local, the same on all ranks. Apply the model.recompute* policy of the configuration to the GPT that is trained; for
 *  a budget of bytes the model is built once more on a meta device, where its blocks are measured for free.
 *  @param[out] report  all zero: no policy
 *  @return HX_ERR_CONFIG: as hx_recompute_apply, or the model is not the configured GPT */
hx_status hx__session_recompute(const hx_session *session, hx_layer *root, hx_recompute_report *report);

/* ---- folder.c ---- */

/* Where a run goes on from. */
typedef struct hx_resume {
    bool is_found;
    char file[HX_PATH_BYTES]; /* the checkpoint */
    int64_t seed;             /* train.seed that it was written with */
    double holdout;           /* data.holdout that it was trained with */
    bool has_plateau;         /* it holds the state of the schedule "plateau" */
    hx_tokenizer_id tokenizer;      /* whose ids it was trained on */
    char kernels[HX_KERNELS_BYTES]; /* that the run was computed with; "": not known */
} hx_resume;

/** "folder/name". @return HX_ERR_CONFIG if it does not fit */
hx_status hx__path_join(const char *folder, const char *name, char out[HX_PATH_BYTES]);
/** The checkpoint that a path means: a file, a folder of checkpoints, or a run's folder. */
hx_status hx__find_checkpoint(const char *path, char file[HX_PATH_BYTES]);
/** Local, rank 0. Make the run's folder, keep other runs out of it, and find the checkpoint to go on from (the seed is
 *  left to the caller).
 *  @param[out] lock  descriptor to close at the end of the run; set on failure too, -1: none
 *  @return HX_ERR_CONFIG if there are checkpoints and the run is not to be resumed, or another run works there */
hx_status hx__folder_prepare(const hx_run_config *run, int *lock, hx_resume *resume);
/** Local, rank 0. Write config.yaml: for a run that is about to start, so that one that is refused changes nothing. */
hx_status hx__folder_write_config(const hx_run_config *run, const char *text);

/* ---- deadline.c ---- */

typedef struct hx_deadline hx_deadline;
hx_status hx_deadline_create(hx_deadline **out);
/** From now on the process is ended by MPI_Abort after `seconds`, unless hx_deadline_destroy comes first. Needs no memory.
 *  @param message  copied; its last words on standard error, until hx_deadline_hush */
void hx_deadline_start(hx_deadline *deadline, double seconds, int exit_code, const char *message);
/** Until it is started again. */
void hx_deadline_stop(hx_deadline *deadline);
/** The message has been, or will be, told by others. */
void hx_deadline_hush(hx_deadline *deadline);
void hx_deadline_destroy(hx_deadline **deadline);

/* ---- signals.c ---- */

/** Let SIGTERM, SIGUSR1 and the first SIGINT set a flag instead of ending the process. */
void hx__signals_install(void);
/** Put back what was installed before. */
void hx__signals_restore(void);
/** Number of the signal that came since installing, 0: none. */
int hx__signals_seen(void);

/* ---- progress.c ---- */

typedef struct hx_progress hx_progress;
/** Rank 0's display of a run on the terminal, as run.progress says.
 *  @param unit_name, unit_per_count  copied from the model; NULL and 0: no second unit */
hx_status hx_progress_create(int mode, int64_t log_every, const char *unit_name, double unit_per_count, hx_progress **out);
void hx_progress_destroy(hx_progress **progress);
void hx_progress_event(hx_progress *progress, const hx_train_event *event);
/** A line of its own, e.g. "resumed from ...". */
void hx_progress_note(hx_progress *progress, const char *format, ...) HX_PRINTF(2, 3);

/* ---- profile.c ---- */

typedef struct hx_profiler hx_profiler;
/** Collective. What records run.profile steps of this process and tells about them; NULL: none is to be recorded. The first four are
 *  left out, or as many as leave room before the end.
 *  @param n_left  steps that the run has still to do */
hx_status hx__profiler_open(hx_session *session, int64_t n_left, hx_profiler **out);
/** Local, with every event of the run. When the steps that are to be recorded are done, and saves that went on beside them, the file is
 *  written and rank 0 shows the table; a failure is a warning.
 *  @param profiler  NULL: does nothing. @param progress  rank 0's; NULL: another rank tells */
void hx__profiler_event(hx_profiler *profiler, const hx_train_event *event, hx_progress *progress);
/** The same for a run that ends earlier. */
void hx__profiler_finish(hx_profiler *profiler, hx_progress *progress);
/** When no other thread records any more. */
void hx__profiler_destroy(hx_profiler **profiler);

/* ---- load.c ---- */

/** Collective. As hx_ckpt_load; with run.resume_partial what fits, and the rest is told.
 *  @param progress  NULL: another rank tells. @return HX_ERR_MISMATCH: nothing fits */
hx_status hx__load_items(hx_session *session, hx_progress *progress, const char *file, const hx_state_list *items, hx_train_state *state);

#endif

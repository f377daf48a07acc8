/* The composition root: the one place that knows every folder and joins them into a run.
 *
 * The `helix` program and a C program of your own use the same calls:
 *
 *     hx_config config = HX_CONFIG_DEFAULT;                     // or hx_config_read for files, environment, options
 *     hx_session *s; HX_TRY(hx_session_open(&config, &s));      // MPI if launched by it, device, mesh
 *     my_model_create(hx_session_ctx(s), ..., &model);
 *     HX_TRY(hx_session_train(s, &model, NULL));                // DDP, optimizer, loader, checkpoint, trainer
 *     hx_session_close(&s);
 */
#ifndef HX_LAUNCH_COMPOSE_H
#define HX_LAUNCH_COMPOSE_H

#include "core/nn/layers.h"
#include "core/train/trainer.h"
#include "dist/dp/ddp.h"
#include "dist/mesh.h"
#include "dist/model/tensor.h"
#include "io/ckpt/ckpt.h"
#include "io/data/data.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_RUN_OPTIONS(X)                                                                                    \
    X(TEXT, out, "runs/default", 0, 0, "folder of the run: checkpoints, metrics, configuration")             \
    X(BOOL, resume, false, 0, 0, "go on from the run's latest checkpoint; start afresh if there is none")    \
    X(TEXT, init_from, "", 0, 0, "checkpoint file or folder whose weights are loaded before training")       \
    X(BOOL, resume_partial, false, 0, 0, "with resume or init_from: load what fits of another model's checkpoint, tell what does not") \
    X(TEXT, device, "", 0, 0, "cpu, cuda or ref; empty: the fastest that is there")                          \
    X(INT, threads, 0, 0, 4096, "threads per rank; 0: the cores this rank is bound to, shared fairly")       \
    X(CHOICE, comm, 0, "auto|nccl|staged", 0, "how ranks exchange GPU memory; auto: NCCL if it is there and no two share a GPU") \
    X(CHOICE, progress, 0, "auto|bar|lines|none", 0, "how rank 0 shows progress; auto: a bar on a terminal") \
    X(INT, profile, 0, 0, 1000, "steps, after four to warm up, of which it is recorded where their time goes: alone --profile means 10; " \
                                "a table, and OUT/profile/rank-R.json for ui.perfetto.dev; 0: none")

HX_OPTIONS_STRUCT(hx_run_config, HX_RUN_OPTIONS);
#define HX_RUN_DEFAULT HX_OPTIONS_DEFAULT(HX_RUN_OPTIONS)

/* prefix, title, struct, options, n_options, defaults */
#define HX_CONFIG_SECTIONS(X)                                                                                \
    X(run, "", "Run", hx_run_config, HX_RUN_OPTIONS)                                                         \
    X(data, "data", "Data", hx_data_config, HX_DATA_OPTIONS)                                                 \
    X(model, "model", "Model (GPT)", hx_gpt_config, HX_GPT_OPTIONS)                                          \
    X(train, "train", "Training", hx_train_config, HX_TRAIN_OPTIONS)                                         \
    X(optim, "optim", "Optimizer and schedule", hx_optim_config, HX_OPTIM_OPTIONS)                           \
    X(mesh, "mesh", "Parallelism", hx_mesh_config, HX_MESH_OPTIONS)                                          \
    X(ddp, "ddp", "Data parallelism", hx_ddp_config, HX_DDP_OPTIONS)                                         \
    X(ckpt, "ckpt", "Checkpoints", hx_ckpt_config, HX_CKPT_OPTIONS)

/* Everything a run can be told. */
typedef struct hx_config {
#define HX_CONFIG_FIELD_(field, prefix, title, type, list) type field;
    HX_CONFIG_SECTIONS(HX_CONFIG_FIELD_)
#undef HX_CONFIG_FIELD_
} hx_config;

#define HX_CONFIG_INIT_(field, prefix, title, type, list) .field = HX_OPTIONS_DEFAULT(list),
#define HX_CONFIG_DEFAULT                                 {HX_CONFIG_SECTIONS(HX_CONFIG_INIT_)}

#define HX_CONFIG_MAX_SECTIONS 16
/** Sections over `config` (borrowed) for options.h, in the order of --help. Returns how many. */
int hx_config_sections(hx_config *config, hx_option_section out[HX_CONFIG_MAX_SECTIONS]);
/** Apply a YAML file (NULL: none), then the environment (HELIX_TRAIN_LR and so on), then arguments
 *  ("--train.lr=3e-4", "--train.lr 3e-4", "--resume", "--config file"). Later ones win.
 *  @param n_used  set to the number of leading arguments consumed: stops at the first that is not an option
 *  @return HX_ERR_CONFIG with file and line, variable or argument, and the nearest known name */
hx_status hx_config_read(hx_config *config, const char *yaml_file, int argc, char *const *argv, int *n_used);
/** The configuration as YAML that hx_config_read takes; free with hx_mem_free. */
hx_status hx_config_text(const hx_config *config, char **out);
/** Apply YAML text, e.g. that of a checkpoint. @param source  for messages */
hx_status hx_config_parse(hx_config *config, const char *text, size_t n_bytes, const char *source);

typedef struct hx_session hx_session;

/** Collective. Registers the backends, opens the communicator (MPI when a launcher started this process, else one
 *  process), sets the identity of error messages, chooses threads from the binding, opens device, stream and mesh.
 *  @param config  copied */
hx_status hx_session_open(const hx_config *config, hx_session **out);
/** Collective over `world`. The same over a communicator of yours: sessions one after another in one process, a session of some of
 *  the ranks (hx_comm_split), or of this process alone (hx_comm_self_open).
 *  @param world  borrowed: close it after the session. One session at a time: the identity of error messages is the newest's */
hx_status hx_session_open_on(const hx_config *config, hx_comm *world, hx_session **out);
/** Closes everything it opened; where that was MPI, this finalises it. */
void hx_session_close(hx_session **session);
/** Device and stream for building a model. The tape records. Borrowed. */
hx_ctx *hx_session_ctx(hx_session *session);
hx_comm *hx_session_world(hx_session *session);
hx_mesh *hx_session_mesh(hx_session *session);
/** What cuts a model's layers into parts for the tensor-parallel ranks (core/nn/shard.h), and with mesh.sequence what lies
 *  between them by position; NULL: mesh.tp is 1. hx_session_gpt has done it; a model of your own does it before its parameters
 *  are filled. Borrowed. */
const hx_shard *hx_session_shard(const hx_session *session);
const hx_config *hx_session_config(const hx_session *session);

/* What a program may replace; NULL members are made from the configuration. */
typedef struct hx_train_parts {
    /* Default: the data of data.path, model.ctx tokens a sample. A source of your own deals samples out by this rank's place on
     * HX_AXIS_DP of the mesh: ranks that share layers compute the same ones; with train.deterministic = elastic as rank 0 of 1. */
    const hx_batch_source *train;
    const hx_batch_source *eval;
    hx_metrics *metrics; /* what evaluations count; the model needs loss_scores. NULL: nothing beside the loss */
    /** Called on every rank after the built-in reporting. */
    hx_status (*on_event)(void *self, const hx_train_event *event);
    void *on_event_self;
} hx_train_parts;

/** Collective. Train `model` as configured: data parallelism, optimizer, loader, metrics, checkpoints, signals. What
 *  train.freeze and model.recompute* set in the model stays set. With train.ema the model ends with its weights; their
 *  averages are in the checkpoints.
 *  @param parts  NULL: all from the configuration
 *  @return HX_ERR_INTERRUPTED after SIGTERM or SIGUSR1 and a checkpoint */
hx_status hx_session_train(hx_session *session, const hx_model *model, const hx_train_parts *parts);
/** Collective. Mean loss per target of a model, without a tape and in eval mode.
 *  @param eval  NULL: the held-out part of data.path
 *  @param[out] count  targets, or the sum of their weights */
hx_status hx_session_eval(hx_session *session, const hx_model *model, const hx_batch_source *eval, double *loss, double *count);

/** The GPT of the configuration, initialised from train.seed: destroy model->root with hx_layer_destroy. */
hx_status hx_session_gpt(hx_session *session, hx_model *model);

/** Register the backends that this library was built with, and cuda where its driver is there (launch/plugin.h); a warning
 *  tells why not. Idempotent. */
hx_status hx_register_backends(void);

#ifdef __cplusplus
}
#endif
#endif

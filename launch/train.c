#include "launch/session_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "dist/dp/syncnorm.h"
#include "dist/params.h"
#include "launch/config_impl.h"

/* Everything one call of hx_session_train makes, in the order in which it is made. */
typedef struct train_run {
    hx_session *session;
    const hx_model *model;
    hx_train_parts parts;
    const hx_rehearsal *rehearsal; /* NULL: a real run */
    bool is_first;     /* rank 0 of a real run: the one that speaks and writes */
    hx_config before;  /* the session's, which a resumed run changes while it lasts */
    char *config_text; /* owned */
    hx_resume resume;
    int lock;          /* of the folder; -1: none */
    bool log_fails;    /* the last line could not be written */
    hx_status status;  /* of the run, when it has ended */
    hx_jsonl *log;
    hx_history *history;
    hx_progress *progress;
    hx_session_data data;
    int64_t n_leaves;              /* of a global batch; 0: the run is not elastic */
    hx_recompute_report recompute; /* what the policy chose */
    hx_param_list params;
    hx_ddp *ddp;
    hx_sync_norm *sync_norm;
    hx_optim *optim;
    hx_ckpt *ckpt;
    hx_trainer *trainer;
    hx_profiler *profiler;
    hx_agreement agreement;
    hx_grad_sync sync;
    hx_checkpoint_hook hook;
} train_run;

/* ---- the run's folder ---- */

static hx_status read_facts(train_run *r) {
    hx_ckpt_info info;
    HX_TRY(hx_ckpt_inspect(r->resume.file, false, &info));
    snprintf(r->resume.kernels, sizeof r->resume.kernels, "%s", info.kernels);
    r->resume.tokenizer = info.tokenizer;
    hx_ckpt_info_destroy(&info);
    return HX_OK;
}

static hx_status read_stored(train_run *r) {
    hx_config stored;
    HX_TRY(hx__config_of_checkpoint(r->resume.file, &stored));
    HX_TRY(read_facts(r));
    HX_TRY(hx__elastic_same_leaves(&stored, &r->session->config, r->resume.file));
    HX_TRY(hx__elastic_same_parts(r->session, &stored, r->resume.file));
    HX_TRY(hx__elastic_same_kernels(r->session, &stored, r->resume.kernels, r->resume.file));
    if (!r->session->config.run.resume_partial) {
        HX_TRY(hx__config_same_model(&stored, &r->session->config, r->resume.file));
        HX_TRY(hx__config_same_optimizer(&stored, &r->session->config, r->resume.file));
    }
    r->resume.seed = stored.train.seed;
    r->resume.holdout = stored.data.holdout;
    r->resume.has_plateau = stored.optim.schedule == HX_LR_PLATEAU;
    return HX_OK;
}

static hx_status open_folder(train_run *r) {
    const hx_config *c = &r->session->config;
    if (!r->is_first) return HX_OK;
    HX_TRY(hx__folder_prepare(&c->run, &r->lock, &r->resume));
    if (r->resume.is_found) HX_TRY(read_stored(r));
    return hx_progress_create(c->run.progress, c->train.log_every, r->model->unit_name, r->model->unit_per_count, &r->progress);
}

/* On rank 0. */
static void note_kernels(const train_run *r) {
    char mine[HX_KERNELS_BYTES];
    hx__session_kernels(r->session, mine);
    if (r->resume.kernels[0] && strcmp(r->resume.kernels, mine) != 0)
        hx_progress_note(r->progress, "WARNING: bits will differ: the run was computed with the kernels '%s' so far, here they are '%s'",
                         r->resume.kernels, mine);
}

/* A resumed run goes on in the order of data and with the random numbers that it began with: the stored seed wins. */
static hx_status share_resume(train_run *r) {
    hx_session *s = r->session;
    HX_TRY(r->agreement.broadcast(r->agreement.self, &r->resume, sizeof r->resume));
    if (r->is_first && s->config.run.resume && !r->resume.is_found)
        hx_progress_note(r->progress, "no checkpoint in %s yet: starting afresh", s->config.run.out);
    if (!r->resume.is_found) return HX_OK;
    if (r->is_first && r->resume.seed != s->config.train.seed)
        hx_progress_note(r->progress, "train.seed stays %lld, as in the checkpoint", (long long)r->resume.seed);
    if (r->is_first) note_kernels(r);
    s->config.train.seed = r->resume.seed;
    s->ctx.seed = (uint64_t)r->resume.seed;
    return HX_OK;
}

/* ---- reporting ---- */

/* Metrics that cannot be written (a full disk) are no reason to end a run: it is said once, and tried again. */
static void log_event(train_run *r, const hx_train_event *event) {
    hx_status status = hx_history_event(r->history, event), lines;
    lines = hx_jsonl_event(r->log, event, r->model->unit_name, r->model->unit_per_count);
    if (status == HX_OK) status = lines;
    if (status != HX_OK && !r->log_fails)
        hx_progress_note(r->progress, "step %lld  METRICS NOT WRITTEN, training goes on: %s", (long long)event->step, hx_error_message());
    r->log_fails = status != HX_OK;
}

static hx_status on_event(void *self, const hx_train_event *event) {
    train_run *r = self;
    int64_t every = r->session->config.train.log_every;
    bool is_due = event->kind != HX_EVENT_STEP || event->step % every == 0 || event->step == 1 || event->step == event->n_steps;
    if (r->progress) hx_progress_event(r->progress, event);
    if (r->log && is_due) log_event(r, event);
    hx__profiler_event(r->profiler, event, r->progress);
    return r->parts.on_event ? r->parts.on_event(r->parts.on_event_self, event) : HX_OK;
}

static bool should_stop(void *self) {
    (void)self;
    return hx__signals_seen() != 0;
}

static void announce_frozen(const train_run *r) {
    int64_t n_frozen = 0, n_elems = 0;
    for (int64_t i = 0; i < r->params.n_items; i++) {
        if (!r->params.items[i]->is_frozen) continue;
        n_frozen++;
        n_elems += hx_tensor_count(r->params.items[i]->value);
    }
    if (n_frozen > 0)
        hx_progress_note(r->progress, "%lld of them, in %lld of %lld tensors, are frozen", (long long)n_elems,
                         (long long)n_frozen, (long long)r->params.n_items);
}

static void announce_recompute(const train_run *r) {
    const hx_recompute_report *report = &r->recompute;
    const bool by_path = r->session->config.model.recompute_layers[0] != '\0';
    char bytes[96] = "";
    if (report->n_blocks == 0) return;
    if (report->plain_bytes > 0)
        snprintf(bytes, sizeof bytes, ": %.1f MB of activations instead of %.1f", (double)report->expected_bytes / 1e6,
                 (double)report->plain_bytes / 1e6);
    hx_progress_note(r->progress, "backward computes %lld of %lld %s again%s", (long long)report->n_recomputed,
                     (long long)report->n_blocks, by_path ? "layers" : "blocks", bytes);
}

/* Elements of the whole model, of which this rank may hold a part. */
static int64_t count_logical(const hx_param_list *params) {
    int64_t n = 0;
    for (int64_t i = 0; i < params->n_items; i++)
        for (int k = 0; k < hx_param_n_logical(params->items[i]); k++) {
            char path[HX_NAME_BYTES];
            const hx_layout *layout;
            hx_param_logical(params->items[i], k, path, &layout);
            n += hx_shape_count(&layout->shape);
        }
    return n;
}

static void announce_elastic(const train_run *r) {
    char kernels[HX_KERNELS_BYTES];
    hx__session_kernels(r->session, kernels);
    if (r->n_leaves > 0)
        hx_progress_note(r->progress, "elastic: %lld micro-batches of %lld samples, the same bits on any number of ranks with the kernels '%s'",
                         (long long)r->n_leaves, (long long)r->session->config.train.micro_batch, kernels);
}

static void announce(const train_run *r) {
    const hx_session *s = r->session;
    hx_device_props props;
    hx_device_props_get(s->device, &props);
    int size = hx_comm_size(s->world), n_threads = hx__session_threads(s);
    hx_progress_note(r->progress, "%d rank%s%s%s%s x %d thread%s on %s (%s)", size, size == 1 ? "" : "s", size == 1 ? "" : " (",
                     size == 1 ? "" : hx_mesh_text(s->mesh), size == 1 ? "" : ")", n_threads, n_threads == 1 ? "" : "s",
                     hx_device_name(s->device), props.name);
    hx_progress_note(r->progress, "%lld parameters, %lld training samples, global batch %lld, %lld steps, folder %s",
                     (long long)count_logical(&r->params), (long long)r->parts.train->n_global,
                     (long long)r->parts.train->batch, (long long)hx_trainer_n_steps(r->trainer), s->config.run.out);
    const hx_axis used = hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_DP)) > 1 ? HX_AXIS_DP : HX_AXIS_TP;
    if (!props.is_host_memory && size > 1)
        hx_progress_note(r->progress, "collectives: %s%s%s", hx_comm_device_name(hx_mesh_axis(s->mesh, used)),
                         s->no_nccl[0] ? "; " : "", s->no_nccl);
    announce_elastic(r);
    announce_frozen(r);
    announce_recompute(r);
}

/* ---- assembly ---- */

static hx_status open_data(train_run *r) {
    bool wants_train = !r->parts.train, wants_eval = !r->parts.eval && (wants_train || r->session->config.data.path[0]);
    if (!wants_train && !wants_eval) return HX_OK;
    HX_TRY(hx__session_data_open(r->session, wants_train, wants_eval, false, &r->data));
    if (wants_train) r->parts.train = &r->data.train;
    if (wants_eval && r->data.eval_loader) r->parts.eval = &r->data.eval;
    return HX_OK;
}

/* Ids that meant something else so far would give nonsense; what fits of another model may be wanted all the same. */
static hx_status check_tokenizer(train_run *r) {
    hx_session *s = r->session;
    if (r->data.tokenizer.kind == HX_TOKENIZER_UNKNOWN) r->data.tokenizer = r->resume.tokenizer; /* which goes on with the run */
    const hx_status status = hx__same_tokenizer_of_data(s, r->resume.file, &r->resume.tokenizer, &r->data,
                                                        "; --resume_partial goes on with these all the same, --init_from begins another run");
    if (status == HX_OK || !s->config.run.resume_partial) return status;
    if (r->is_first) hx_progress_note(r->progress, "WARNING: %s", hx_error_message());
    hx_error_clear();
    return HX_OK;
}

/* Weights to start from may have known other ids, and their embedding with them: to learn it anew is no fault. */
static hx_status note_other_tokenizer(train_run *r, const char *file) {
    hx_tokenizer_id stored;
    char was[HX_TOKENIZER_ID_TEXT], is[HX_TOKENIZER_ID_TEXT];
    if (!r->is_first) return HX_OK;
    HX_TRY(hx__tokenizer_of_checkpoint(file, &stored));
    if (!hx_tokenizer_id_fits(&stored, &r->data.tokenizer))
        hx_progress_note(r->progress, "WARNING: the weights of %s were trained on ids of another tokenizer (%s) than these data hold (%s)", file,
                         hx_tokenizer_id_text(&stored, was), hx_tokenizer_id_text(&r->data.tokenizer, is));
    return HX_OK;
}

/* What a model is: its parameters and its buffers. */
static hx_status list_model(const train_run *r, hx_state_list *items) {
    hx_param_list buffers = {0};
    HX_TRY(hx_layer_buffers(r->model->root, &buffers));
    hx_status status = hx_params_state(&r->params, NULL, items);
    if (status == HX_OK) status = hx_params_state(&buffers, NULL, items);
    if (status == HX_OK) status = hx_stream_sync(r->session->stream); /* first values must not overtake those read */
    hx_param_list_destroy(&buffers);
    return status;
}

/* Weights that are there before anything is made from them, as master copies and moving averages are: those to start from, alone, and
 * those that a run goes on with of whose other state a part may be missing. */
static hx_status load_weights(train_run *r) {
    const hx_run_config *c = &r->session->config.run;
    const bool goes_on = r->resume.is_found;
    const char *from = goes_on ? r->resume.file : c->init_from;
    hx_state_list items = {0};
    char file[HX_PATH_BYTES];
    hx_train_state unused;
    hx_status status = HX_OK;
    if (!from[0] || (goes_on && !c->resume_partial) || r->rehearsal) return HX_OK;
    HX_TRY_GOTO(hx_comm_agree(r->session->world, list_model(r, &items)), done);
    HX_TRY_GOTO(hx_comm_agree(r->session->world, hx__find_checkpoint(from, file)), done);
    HX_TRY_GOTO(hx__load_items(r->session, goes_on ? NULL : r->progress, file, &items, &unused), done); /* load_state tells what fits */
    if (!goes_on) HX_TRY_GOTO(hx_comm_agree(r->session->world, note_other_tokenizer(r, file)), done);
done:
    hx_state_list_destroy(&items);
    return status;
}

static hx_status create_optimizer(hx_session *s, void *arg) {
    train_run *r = arg;
    return hx_optim_create_default(s->device, s->stream, &r->params, &s->config.optim, &r->optim);
}

/* Ranks that repeat each other's work are hardly what was asked for. */
static hx_status check_split(hx_session *s, const hx_param_list *params) {
    const int tp = hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_TP));
    for (int64_t i = 0; i < params->n_items; i++)
        if (params->items[i]->is_split) return HX_OK;
    if (tp == 1) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "mesh.tp = %d, but the model is whole on each rank: expected layers cut by hx_session_shard", tp);
}

/* Before anything is made that differs for parameters that are trained and those that are not. */
static hx_status prepare_model(hx_session *s, void *arg) {
    train_run *r = arg;
    HX_TRY(hx_layer_freeze_list(r->model->root, s->config.train.freeze, NULL));
    HX_TRY(hx__session_recompute(s, r->model->root, &r->recompute));
    HX_TRY(hx_layer_params(r->model->root, &r->params));
    return check_split(s, &r->params);
}

static hx_status open_checkpoints(train_run *r) {
    hx_session *s = r->session;
    char folder[HX_PATH_BYTES], kernels[HX_KERNELS_BYTES];
    if (r->rehearsal) return HX_OK;
    hx_status status = hx__path_join(s->config.run.out, "ckpt", folder);
    if (status == HX_OK) status = hx_config_text(&s->config, &r->config_text);
    HX_TRY(hx_comm_agree(s->world, status));
    HX_TRY(hx_ckpt_open(s->world, folder, &s->config.ckpt, r->config_text, &r->ckpt));
    hx_ckpt_hook(r->ckpt, &r->hook);
    hx_ckpt_set_tokenizer(r->ckpt, &r->data.tokenizer);
    hx__session_kernels(s, kernels);
    return hx_comm_agree(s->world, hx_ckpt_set_kernels(r->ckpt, kernels));
}

static hx_status create_trainer(train_run *r) {
    hx_session *s = r->session;
    hx_trainer_setup setup = {.ctx = s->ctx, .model = *r->model, .optim = r->optim, .optim_config = &s->config.optim,
                              .config = &s->config.train, .train = r->parts.train, .eval = r->parts.eval,
                              .metrics = r->parts.metrics,
                              .agreement = &r->agreement, .sync = r->ddp ? &r->sync : NULL, .checkpoint = r->ckpt ? &r->hook : NULL,
                              .save_every = s->config.ckpt.every, .on_event = on_event, .on_event_self = r,
                              .should_stop = should_stop};
    return hx_trainer_create(&setup, &r->trainer);
}

/* A run that begins to look at the loss has no falls behind it: that state starts afresh. */
static void leave_out_plateau(hx_state_list *items) {
    static const char group[] = "/sched/";
    int64_t n = 0;
    for (int64_t i = 0; i < items->n_items; i++)
        if (strncmp(items->items[i].name, group, sizeof group - 1) != 0) items->items[n++] = items->items[i];
    items->n_items = n;
}

static hx_status load_state(train_run *r) {
    hx_session *s = r->session;
    hx_state_list items = {0};
    hx_status status = HX_OK;
    if (!r->resume.is_found) return HX_OK;
    HX_TRY_GOTO(hx_comm_agree(s->world, hx_trainer_items(r->trainer, &items)), done);
    if (!r->resume.has_plateau) leave_out_plateau(&items);
    HX_TRY_GOTO(hx__load_items(s, r->progress, r->resume.file, &items, hx_trainer_state(r->trainer)), done);
    if (r->is_first)
        hx_progress_note(r->progress, "going on from %s, step %lld", r->resume.file, (long long)hx_trainer_state(r->trainer)->step);
done:
    hx_state_list_destroy(&items);
    return status;
}

/* Another text under an old order of samples is no fault, but seldom what was meant. */
static void note_data(train_run *r) {
    hx_train_state *state = hx_trainer_state(r->trainer);
    if (r->is_first && r->data.hash && state->data_hash && r->data.hash != state->data_hash)
        hx_progress_note(r->progress, "WARNING: data.path %s holds other data than the run was trained on so far",
                         r->session->config.data.path);
    if (r->is_first && r->resume.is_found && r->resume.holdout != r->session->config.data.holdout)
        hx_progress_note(r->progress, "WARNING: data.holdout was %g so far: held-out losses are of other data than before, which the run may "
                         "have been trained on", r->resume.holdout);
    state->data_hash = r->data.train_loader ? r->data.hash : 0;
}

/* On rank 0, when it is known where the run goes on. */
static hx_status open_history(train_run *r) {
    char path[HX_PATH_BYTES];
    if (!r->is_first) return HX_OK;
    const int64_t step = hx_trainer_state(r->trainer)->step;
    HX_TRY(hx__path_join(r->session->config.run.out, "metrics.jsonl", path));
    HX_TRY(hx_jsonl_open(path, step, &r->log));
    HX_TRY(hx__path_join(r->session->config.run.out, "history.h5", path));
    HX_TRY(hx_history_open(path, step, &r->history));
    HX_TRY(hx__folder_keep_tokenizer(&r->session->config, &r->data.tokenizer));
    return hx__folder_write_config(&r->session->config.run, r->config_text);
}

/* What ranks with different parts hold whole is the same on all of them; data parallelism sees to the rest. */
static hx_status unify_parts(train_run *r) {
    hx_session *s = r->session;
    hx_comm *tp = hx_mesh_axis(s->mesh, HX_AXIS_TP);
    if (hx_comm_size(tp) == 1) return HX_OK;
    HX_TRY(hx_comm_agree(s->world, hx_params_same(tp, &r->params)));
    return hx_comm_agree(s->world, hx_params_broadcast(tp, s->stream, &r->params, true));
}

/* Batch norm of all data-parallel ranks, where it is asked for. */
static hx_status unify_batchnorm(train_run *r) {
    hx_session *s = r->session;
    if (!s->config.ddp.sync_batchnorm || hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_DP)) == 1) return HX_OK;
    HX_TRY(hx_sync_norm_create(hx_mesh_axis(s->mesh, HX_AXIS_DP), r->model->root, &r->sync_norm));
    return hx_sync_norm_hook(r->sync_norm, &r->sync);
}

static bool has_partial(const hx_param_list *params) {
    for (int64_t i = 0; i < params->n_items; i++)
        if (params->items[i]->is_partial) return true;
    return false;
}

/* Ranks without replicas have gradients to add up too: where they deal positions out, and leaves of elastic training. */
static hx_status create_ddp(train_run *r) {
    hx_session *s = r->session;
    const bool is_partial = has_partial(&r->params);
    const hx_ddp_setup setup = {.dp = hx_mesh_axis(s->mesh, HX_AXIS_DP), .tp = is_partial ? hx_mesh_axis(s->mesh, HX_AXIS_TP) : NULL,
                                .device = s->device, .stream = s->stream, .params = &r->params, .config = &s->config.ddp,
                                .n_leaves = r->n_leaves};
    if (hx_comm_size(setup.dp) == 1 && !is_partial && setup.n_leaves == 0) return HX_OK;
    HX_TRY(hx_comm_agree(s->world, hx_ddp_create(&setup, &r->ddp)));
    hx_ddp_hook(r->ddp, &r->sync);
    hx_ddp_copies(r->ddp, &r->agreement.share_copy, &r->agreement.n_share_copies);
    return hx_comm_agree(s->world, unify_batchnorm(r));
}

static void reached(const train_run *r, hx_stage stage) {
    if (r->rehearsal) r->rehearsal->reached(r->rehearsal->self, stage, &r->params);
}

static hx_status assemble(train_run *r) {
    hx_session *s = r->session;
    hx__session_ranks(s, &r->agreement);
    HX_TRY(hx__session_leaves(s, &r->n_leaves));
    HX_TRY(hx_comm_agree(s->world, open_folder(r)));
    HX_TRY(share_resume(r));
    HX_TRY(open_data(r));
    HX_TRY(hx_comm_agree(s->world, check_tokenizer(r)));
    HX_TRY(hx__session_first(s, prepare_model, r));
    HX_TRY(load_weights(r));
    HX_TRY(unify_parts(r));
    HX_TRY(create_ddp(r));
    reached(r, HX_STAGE_SYNC);
    HX_TRY(hx__session_first(s, create_optimizer, r));
    HX_TRY(open_checkpoints(r));
    HX_TRY(create_trainer(r));
    reached(r, HX_STAGE_OPTIM);
    HX_TRY(load_state(r));
    note_data(r);
    return hx_comm_agree(s->world, open_history(r));
}

static void take_apart(train_run *r) {
    hx_trainer_destroy(&r->trainer);
    hx_ckpt_close(&r->ckpt);
    hx_optim_destroy(&r->optim);
    hx_sync_norm_destroy(&r->sync_norm);
    hx_ddp_destroy(&r->ddp);
    hx_param_list_destroy(&r->params);
    hx__session_data_close(&r->data);
    hx__profiler_destroy(&r->profiler); /* what records has ended: checkpoints, data, communication */
    hx_progress_destroy(&r->progress);
    hx_jsonl_close(&r->log);
    hx_history_close(&r->history);
    hx_mem_free((void **)&r->config_text);
    if (r->lock >= 0) close(r->lock);
    r->session->config = r->before;
    r->session->ctx.seed = (uint64_t)r->before.train.seed;
}

static void summarise(const train_run *r) {
    const hx_train_state *state = hx_trainer_state(r->trainer);
    char eval[64] = "";
    if (isfinite(state->last_eval_loss)) {
        int n = snprintf(eval, sizeof eval, ", held-out loss %.4f", state->last_eval_loss);
        if (r->model->unit_name && r->model->unit_per_count > 0)
            snprintf(eval + n, sizeof eval - (size_t)n, " (%.3f %.20s)", state->last_eval_loss * r->model->unit_per_count,
                     r->model->unit_name);
    }
    hx_progress_note(r->progress, "%lld steps in %.1f s%s; checkpoints in %s/ckpt", (long long)state->step,
                     state->elapsed_s, eval, r->session->config.run.out);
}

/* What a run did last before it failed is what one wants to see. Its failure stays the one that is told. */
static void keep_last_rows(const train_run *r, hx_status status) {
    char message[1024];
    if (status == HX_OK || !r->history) return;
    snprintf(message, sizeof message, "%s", hx_error_message());
    if (hx_history_flush(r->history) != HX_OK) hx_progress_note(r->progress, "METRICS NOT WRITTEN: %s", hx_error_message());
    hx_error_adopt(status, message);
}

/* A window of steps that the run's end cuts short is told about all the same, and the run's failure stays the one that is told. */
static void end_profile(const train_run *r, hx_status status) {
    char message[1024];
    snprintf(message, sizeof message, "%s", hx_error_message());
    hx__profiler_finish(r->profiler, r->progress);
    if (status != HX_OK) hx_error_adopt(status, message);
}

/* A checkpoint that was begun before all ranks failed is worth waiting for, and its end is told like any other. What it cost the run
 * is not measured any more. The run's failure stays the one that is told last. */
static void end_saves(void *arg) {
    train_run *r = arg;
    hx_save_end end;
    char message[1024];
    snprintf(message, sizeof message, "%s", hx_error_message());
    hx_ckpt_finish(r->ckpt);
    while (r->trainer && hx_ckpt_ended(r->ckpt, &end)) {
        const hx_train_state *state = hx_trainer_state(r->trainer);
        const hx_train_event event = {.kind = HX_EVENT_SAVE_END, .step = end.step, .n_steps = hx_trainer_n_steps(r->trainer), .cursor = state->cursor,
                                      .epoch = (double)state->cursor / (double)r->parts.train->n_global, .seconds = end.seconds,
                                      .elapsed_s = state->elapsed_s, .is_best = end.is_best, .stall_s = NAN, .step_s = NAN, .step_s_before = NAN,
                                      .text = end.status != HX_OK ? end.text : NULL};
        (void)on_event(r, &event);
    }
    if (r->status != HX_OK) hx_error_adopt(r->status, message);
}

hx_status hx_session_train(hx_session *session, const hx_model *model, const hx_train_parts *parts) {
    train_run r = {.session = session, .model = model, .is_first = hx_comm_rank(session->world) == 0,
                   .before = session->config, .lock = -1};
    if (parts) r.parts = *parts;
    hx__signals_install(); /* from here on, so that a signal during the set-up is not lost */
    hx_status status = assemble(&r);
    if (status == HX_OK) status = hx__profiler_open(session, hx_trainer_n_steps(r.trainer) - hx_trainer_state(r.trainer)->step, &r.profiler);
    if (status == HX_OK) {
        if (r.is_first) announce(&r);
        status = hx_trainer_run(r.trainer);
    }
    end_profile(&r, status);
    if (r.is_first && r.trainer && (status == HX_OK || status == HX_ERR_INTERRUPTED)) summarise(&r);
    keep_last_rows(&r, status);
    r.status = hx__session_fail(session, status);
    if (r.ckpt) hx__session_settle(session, end_saves, &r);
    take_apart(&r);
    hx__signals_restore();
    return r.status;
}

/* ---- rehearsal ---- */

static hx_status tell_share(const train_run *r) {
    hx_state_list items = {0};
    int64_t n_bytes = 0;
    HX_TRY(hx_trainer_items(r->trainer, &items));
    hx_status status = hx_ckpt_share_bytes(&items, &n_bytes);
    hx_state_list_destroy(&items);
    if (status == HX_OK) r->rehearsal->shared(r->rehearsal->self, n_bytes);
    return status;
}

static hx_status rehearse(train_run *r) {
    HX_TRY(assemble(r));
    HX_TRY(tell_share(r));
    for (hx_stage stage = HX_STAGE_FIRST; stage <= HX_STAGE_SECOND; stage++) {
        HX_TRY(hx_trainer_step(r->trainer, NULL));
        reached(r, stage);
    }
    return r->parts.eval ? hx_trainer_eval(r->trainer, NULL) : HX_OK;
}

hx_status hx__session_rehearse(hx_session *session, const hx_model *model, const hx_train_parts *parts, const hx_rehearsal *rehearsal) {
    train_run r = {.session = session, .model = model, .parts = *parts, .rehearsal = rehearsal, .before = session->config, .lock = -1};
    hx_status status = rehearse(&r);
    take_apart(&r);
    return status;
}

/* ---- evaluation ---- */

static hx_status eval_all(hx_session *s, const hx_model *model, const hx_batch_source *eval, double *loss, double *count) {
    hx_agreement agreement;
    hx_session_data data = {0};
    hx_status status = HX_OK;
    double sums[2] = {0, 0};
    hx__session_ranks(s, &agreement);
    /* who takes which micro-batch; how many there are in a batch is not asked */
    const hx_leaves leaves = {.n = hx__session_is_elastic(s) ? 1 : 0, .rank = agreement.replica, .size = agreement.n_replicas};
    if (!eval) {
        HX_TRY_GOTO(hx__session_data_open(s, false, true, false, &data), done);
        eval = &data.eval;
        status = data.eval_loader ? HX_OK : HX_FAIL(HX_ERR_CONFIG, "data.holdout = %g: there is no held-out part to evaluate on", s->config.data.holdout);
        if (status != HX_OK) goto done;
    }
    status = hx_eval_share(&s->ctx, model, eval, 0, &leaves, NULL, sums);
    if (status != HX_OK && agreement.n_parts > 1) goto done; /* the others wait within a layer: they will not come to agree */
    HX_TRY_GOTO(hx_comm_agree(s->world, status), done);
    if (agreement.part != 0) sums[0] = sums[1] = 0; /* the same samples as part 0's */
    HX_TRY_GOTO(agreement.sum(agreement.self, sums, 2), done);
    if (!(sums[1] > 0)) {
        status = HX_FAIL(HX_ERR_CONFIG, "the evaluation data hold no target");
        goto done;
    }
    *loss = sums[0] / sums[1];
    *count = sums[1];
done:
    hx__session_data_close(&data);
    return status;
}

hx_status hx_session_eval(hx_session *session, const hx_model *model, const hx_batch_source *eval, double *loss, double *count) {
    return hx__session_fail(session, eval_all(session, model, eval, loss, count));
}

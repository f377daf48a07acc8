/* A run's checkpoints: opening the folder, and one save after the other, written at once or beside training. */
#include <stdio.h>
#include <string.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define CONFIG_MOST 60000 /* bytes: an attribute holds 64 KiB */

enum { ASYNC_OFF, ASYNC_WAIT, ASYNC_SKIP }; /* the words of ckpt.async */

#define HX_OPTION_OWNER hx_ckpt_config
const hx_option hx_ckpt_options[] = HX_OPTIONS_TABLE(HX_CKPT_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_ckpt_n_options = sizeof hx_ckpt_options / sizeof *hx_ckpt_options;

/* ---- life ---- */

static hx_status take_mpi(hx_ckpt *ckpt) {
    MPI_Comm *mpi = hx_comm_mpi_handle(ckpt->comm);
    if (!mpi) {
        if (hx_comm_size(ckpt->comm) > 1)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "communicator %s of %d ranks has no MPI handle, which checkpoints need",
                           hx_comm_name(ckpt->comm), hx_comm_size(ckpt->comm));
        return HX_OK;
    }
    HX_TRY(hx_comm_sync(ckpt->comm));
    if (MPI_Comm_dup(*mpi, &ckpt->mpi) != MPI_SUCCESS) return HX_FAIL(HX_ERR_COMM, "MPI_Comm_dup failed");
    MPI_Comm_set_errhandler(ckpt->mpi, MPI_ERRORS_RETURN);
    return HX_OK;
}

static hx_status manager_init(hx_ckpt *ckpt, const char *folder, const hx_ckpt_config *config, const char *text) {
    if (!folder || !config || !text) return HX_FAIL(HX_ERR_ARG, "folder, config and config_text must be given");
    if (config->keep < 1 || config->keep_every < 0)
        return HX_FAIL(HX_ERR_CONFIG, "keep = %lld, keep_every = %lld: expected >= 1 and >= 0", (long long)config->keep, (long long)config->keep_every);
    if (config->async < ASYNC_OFF || config->async > ASYNC_SKIP)
        return HX_FAIL(HX_ERR_CONFIG, "async = %lld: expected off (0), wait (1) or skip (2)", (long long)config->async);
    if (strlen(text) > CONFIG_MOST)
        return HX_FAIL(HX_ERR_ARG, "configuration text of %zu bytes: expected up to %d", strlen(text), CONFIG_MOST);
    ckpt->keep = config->keep;
    ckpt->keep_every = config->keep_every;
    ckpt->can_skip = config->async == ASYNC_SKIP;
    HX_TRY(hx_mem_strdup(folder, &ckpt->folder));
    HX_TRY(hx_mem_strdup(text, &ckpt->config));
    return hx_comm_rank(ckpt->comm) == 0 ? hx__ckpt_prepare(folder, &ckpt->generation) : HX_OK;
}

static hx_status share_generation(hx_ckpt *ckpt) {
    if (hx_comm_size(ckpt->comm) == 1) return HX_OK;
    return hx_comm_broadcast(ckpt->comm, &ckpt->generation, 1, HX_I64, 0, NULL, NULL);
}

hx_status hx_ckpt_open(hx_comm *comm, const char *folder, const hx_ckpt_config *config, const char *config_text,
                       hx_ckpt **out) {
    HX_CLEANUP(hx_ckpt_close) hx_ckpt *ckpt = NULL;
    hx_status status = hx_mem_alloc_array(1, sizeof *ckpt, (void **)&ckpt);
    if (status == HX_OK) {
        *ckpt = (hx_ckpt){.comm = comm, .mpi = MPI_COMM_NULL};
        status = manager_init(ckpt, folder, config, config_text);
    }
    HX_TRY(hx_comm_agree(comm, status));
    HX_TRY(hx_comm_agree(comm, take_mpi(ckpt)));
    HX_TRY(hx_comm_agree(comm, share_generation(ckpt)));
    if (config->async != ASYNC_OFF) HX_TRY(hx_comm_agree(comm, hx__async_open(ckpt, &ckpt->async)));
    *out = ckpt;
    ckpt = NULL; /* handed on */
    return HX_OK;
}

void hx_ckpt_close(hx_ckpt **ckpt) {
    if (!ckpt || !*ckpt) return;
    hx__async_close(&(*ckpt)->async); /* it uses all of what follows */
    if ((*ckpt)->mpi != MPI_COMM_NULL) MPI_Comm_free(&(*ckpt)->mpi);
    hx_mem_free((void **)&(*ckpt)->folder);
    hx_mem_free((void **)&(*ckpt)->config);
    hx_mem_free((void **)&(*ckpt)->kernels);
    hx_mem_free((void **)ckpt);
}

hx_status hx_ckpt_set_kernels(hx_ckpt *ckpt, const char *kernels) {
    const size_t most = sizeof((hx_ckpt_info *)NULL)->kernels - 1;
    if (strlen(kernels) > most) return HX_FAIL(HX_ERR_ARG, "kernels of %zu bytes: expected up to %zu", strlen(kernels), most);
    hx_mem_free((void **)&ckpt->kernels);
    return hx_mem_strdup(kernels, &ckpt->kernels);
}

void hx_ckpt_set_tokenizer(hx_ckpt *ckpt, const hx_tokenizer_id *tokenizer) { ckpt->tokenizer = *tokenizer; }

/* ---- saves ---- */

hx_status hx__ckpt_write_step(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best) {
    char name[HX__NAME_BYTES], hidden[HX__NAME_BYTES + 8], temporary[HX_PATH_BYTES];
    const bool is_root = hx_comm_rank(ckpt->comm) == 0;
    hx__step_name(state->step, name);
    snprintf(hidden, sizeof hidden, ".%s.tmp", name);
    HX_TRY(hx__gen_path(ckpt->folder, ckpt->generation, hidden, temporary));
    HX_TRY(hx__ckpt_write(ckpt, temporary, state, items));
    return hx__together_agree(ckpt, is_root ? hx__ckpt_publish(ckpt, temporary, state->step, is_best) : HX_OK);
}

static hx_status check_state(const hx_train_state *state) {
    if (state->step < 0) return HX_FAIL(HX_ERR_ARG, "step %lld: expected >= 0", (long long)state->step);
    return HX_OK;
}

hx_status hx_ckpt_save(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best) {
    HX_TRY(hx_comm_sync(ckpt->comm));
    hx_ckpt_finish(ckpt);
    HX_TRY(hx_comm_agree(ckpt->comm, check_state(state)));
    return hx__ckpt_write_step(ckpt, state, items, is_best);
}

/* On any rank: threads end at different times. */
static hx_status is_any_busy(const hx_ckpt *ckpt, bool *out) {
    int32_t busy = hx__async_is_busy(ckpt->async);
    if (hx_comm_size(ckpt->comm) > 1) HX_TRY(hx_comm_all_reduce(ckpt->comm, &busy, 1, HX_I32, HX_MAX, NULL, NULL));
    *out = busy != 0;
    return HX_OK;
}

static hx_status prepare_share(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items) {
    HX_TRY(check_state(state));
    hx__async_wait(ckpt->async);
    return hx__async_prepare(ckpt->async, items);
}

hx_status hx_ckpt_begin(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best, hx_save_result *result) {
    const double began = hx__seconds();
    bool is_busy = false;
    *result = HX_SAVE_WRITTEN;
    if (!ckpt->async) return hx_ckpt_save(ckpt, state, items, is_best);
    HX_TRY(hx_comm_sync(ckpt->comm));
    if (ckpt->can_skip && !is_best) HX_TRY(is_any_busy(ckpt, &is_busy));
    *result = is_busy ? HX_SAVE_SKIPPED : HX_SAVE_BEGUN;
    if (is_busy) {
        hx_ckpt_settle(ckpt); /* the caller may change the state behind us, as after a save that is made */
        return HX_OK;
    }
    HX_TRY(hx_comm_agree(ckpt->comm, prepare_share(ckpt, state, items)));
    hx__async_start(ckpt->async, state, is_best, began);
    return HX_OK;
}

void hx_ckpt_expect(hx_ckpt *ckpt, const hx_state_list *items) {
    if (ckpt->async) hx__async_expect(ckpt->async, items);
}

void hx_ckpt_settle(hx_ckpt *ckpt) {
    if (ckpt->async) hx__async_settle(ckpt->async);
}

void hx_ckpt_finish(hx_ckpt *ckpt) {
    if (ckpt->async) hx__async_wait(ckpt->async);
}

bool hx_ckpt_ended(hx_ckpt *ckpt, hx_save_end *out) { return ckpt->async && hx__async_ended(ckpt->async, out); }

/* ---- the trainer's hook ---- */

static hx_status hook_save(void *self, const hx_train_state *state, const hx_state_list *items, bool is_best, hx_save_result *result) {
    return hx_ckpt_begin(self, state, items, is_best, result);
}
static void hook_expect(void *self, const hx_state_list *items) { hx_ckpt_expect(self, items); }
static void hook_settle(void *self) { hx_ckpt_settle(self); }
static void hook_finish(void *self) { hx_ckpt_finish(self); }
static bool hook_ended(void *self, hx_save_end *out) { return hx_ckpt_ended(self, out); }

void hx_ckpt_hook(hx_ckpt *ckpt, hx_checkpoint_hook *out) {
    *out = (hx_checkpoint_hook){.self = ckpt, .expect = hook_expect, .save = hook_save, .settle = hook_settle, .finish = hook_finish,
                                .ended = hook_ended};
}

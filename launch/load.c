#include "launch/session_impl.h"

#include <stdio.h>

#define DIFFERENCES_TOLD 20 /* of each kind */

static void note_rest(hx_progress *progress, int64_t n) {
    if (n > DIFFERENCES_TOLD) hx_progress_note(progress, "  and %lld more", (long long)(n - DIFFERENCES_TOLD));
}

static void note(hx_progress *progress, const char *file, const hx_ckpt_partial *p) {
    hx_progress_note(progress, "%lld tensors of %s fit; %lld of this run's stay as they are made, %lld of the file's are not wanted", (long long)p->n_loaded, file,
                     (long long)p->n_left, (long long)p->n_unwanted);
    for (int64_t i = 0; i < p->n_left && i < DIFFERENCES_TOLD; i++) hx_progress_note(progress, "  not loaded: %s: %s", p->left[i].name, p->left[i].why);
    note_rest(progress, p->n_left);
    for (int64_t i = 0; i < p->n_unwanted && i < DIFFERENCES_TOLD; i++) hx_progress_note(progress, "  not wanted: %s", p->unwanted[i].name);
    note_rest(progress, p->n_unwanted);
}

/* One tensor at least has to fit: a file of which nothing does is another one than was meant. */
static hx_status judge(const hx_ckpt_partial *p, const char *file) {
    if (p->n_loaded > 0) return HX_OK;
    return HX_FAIL(HX_ERR_MISMATCH, "resume_partial: none of %lld tensors fits %s; the first: %s", (long long)p->n_left, file,
                   p->n_left > 0 ? p->left[0].why : "there is none");
}

/* What does not fit, with the file and a way on. */
static hx_status load_whole(hx_session *s, const char *file, const hx_state_list *items, hx_train_state *state) {
    char message[1024];
    hx_status status = hx_ckpt_load(s->world, file, items, state);
    if (status != HX_ERR_MISMATCH) return status;
    snprintf(message, sizeof message, "%.700s; --resume_partial takes what fits of %.200s", hx_error_message(), file);
    return hx_error_adopt(status, message);
}

hx_status hx__load_items(hx_session *s, hx_progress *progress, const char *file, const hx_state_list *items, hx_train_state *state) {
    hx_ckpt_partial report;
    if (!s->config.run.resume_partial) return load_whole(s, file, items, state);
    HX_TRY(hx_ckpt_load_partial(s->world, file, items, state, &report));
    if (progress) note(progress, file, &report);
    hx_status status = judge(&report, file);
    hx_ckpt_partial_destroy(&report);
    return status;
}

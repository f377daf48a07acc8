#include "tests/support/saved.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/small_run.h"

static const char *const folders[SAVED_WAYS] = {"at_once", "beside"};

void saved_open(hx_comm *ranks, const char *root, int way, hx_ckpt **ckpt, hx_checkpoint_hook *hook) {
    char path[512], delay[16];
    snprintf(delay, sizeof delay, "%d", SAVED_DELAY_MS);
    setenv("HELIX_TEST_COPY_MS", delay, 1);
    snprintf(path, sizeof path, "%s/%s", root, folders[way]);
    OK(hx_ckpt_open(ranks, path, &(hx_ckpt_config){.keep = 99, .async = way == SAVED_BESIDE ? 1 : 0}, "", ckpt));
    hx_ckpt_hook(*ckpt, hook);
}

static void read_step(const char *root, int way, int64_t step, hx_ckpt_info *out) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/gen-0001/step-%08lld.h5", root, folders[way], (long long)step);
    OK(hx_ckpt_inspect(path, true, out));
    cr_assert_eq(out->state.step, step);
}

static void compare_step(const char *root, const char *what, int64_t step) {
    hx_ckpt_info want, got;
    read_step(root, SAVED_AT_ONCE, step, &want);
    read_step(root, SAVED_BESIDE, step, &got);
    cr_assert_eq(got.n_entries, want.n_entries);
    for (int64_t i = 0; i < got.n_entries; i++)
        cr_expect_eq(got.entries[i].hash, want.entries[i].hash, "%s, step %lld: %s", what, (long long)step, got.entries[i].name);
    cr_expect_eq(got.state_hash, want.state_hash, "%s, step %lld", what, (long long)step);
    cr_expect(got.state.cursor == want.state.cursor && got.state.loss_scale == want.state.loss_scale &&
              got.state.n_clean == want.state.n_clean, "%s, step %lld", what, (long long)step);
    hx_ckpt_info_destroy(&want);
    hx_ckpt_info_destroy(&got);
}

void saved_compare(const char *root, const char *what, int64_t first_step, int64_t last_step) {
    for (int64_t step = first_step; step <= last_step; step++) compare_step(root, what, step);
}

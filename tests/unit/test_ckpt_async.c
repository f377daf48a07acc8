/* Saves beside training: from a copy, one at a time, with an end that is told once. */
#include "tests/unit/test_ckpt_fixture.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

TestSuite(ckpt_async, .init = fixture_open, .fini = fixture_close);

/* Stands in for libc's: a disk that lets the thread wait for as long as a test wants, and one that fails. */
static pthread_t tester;
static atomic_bool is_held, fails;
int fsync(int fd) {
    while (atomic_load(&is_held) && !pthread_equal(pthread_self(), tester)) usleep(1000);
    if (!atomic_load(&fails)) return (int)syscall(SYS_fsync, fd);
    errno = ENOSPC;
    return -1;
}

static hx_ckpt *ckpt;
static hx_save_result result;

static void open_with(int async) {
    const hx_ckpt_config c = {.keep = 9, .async = async};
    tester = pthread_self();
    OK(hx_ckpt_open(comm, folder, &c, "", &ckpt));
}

static hx_status begin(int64_t step, bool is_best) {
    fill_state(step);
    return hx_ckpt_begin(ckpt, &(hx_train_state){.step = step}, &items, is_best, &result);
}

static bool has_step(int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "gen-0001/step-%08lld.h5", (long long)step);
    return exists(name);
}

static void ended_with(int64_t step, hx_status status) {
    hx_save_end end;
    cr_assert(hx_ckpt_ended(ckpt, &end), "no end of step %lld", (long long)step);
    cr_expect(end.step == step && end.status == status && end.seconds >= 0, "step %lld: %s", (long long)end.step, end.text);
}

enum { OFF, WAIT, SKIP };

Test(ckpt_async, what_is_written_is_what_the_tensors_held_when_it_was_begun) {
    hx_train_state state;
    hx_save_end end;
    open_with(WAIT);
    atomic_store(&is_held, true);
    OK(begin(7, false));
    cr_expect_eq(result, HX_SAVE_BEGUN);
    cr_expect(!hx_ckpt_ended(ckpt, &end), "it has ended before the disk was through");
    fill_state(8);
    atomic_store(&is_held, false);
    hx_ckpt_finish(ckpt);
    ended_with(7, HX_OK);
    cr_expect(!hx_ckpt_ended(ckpt, &end), "an end is told twice");
    fill_state(0);
    OK(hx_ckpt_load(comm, folder, &items, &state));
    cr_expect(state.step == 7 && state_is(7));
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, a_save_waits_for_the_one_before) {
    open_with(WAIT);
    for (int64_t step = 1; step <= 4; step++) OK(begin(step, false));
    hx_ckpt_finish(ckpt);
    for (int64_t step = 1; step <= 4; step++) cr_expect(has_step(step));
    ended_with(3, HX_OK); /* nobody asked for those before */
    ended_with(4, HX_OK);
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, with_skip_it_is_left_out_but_the_best_is_not) {
    open_with(SKIP);
    atomic_store(&is_held, true);
    OK(begin(1, false));
    OK(begin(2, false));
    cr_expect_eq(result, HX_SAVE_SKIPPED);
    atomic_store(&is_held, false);
    OK(begin(3, true));
    cr_expect_eq(result, HX_SAVE_BEGUN);
    hx_ckpt_finish(ckpt);
    ended_with(1, HX_OK);
    ended_with(3, HX_OK);
    cr_expect(has_step(1) && !has_step(2) && has_step(3));
    OK(begin(4, false));
    cr_expect_eq(result, HX_SAVE_BEGUN, "nothing is under way any more");
    hx_ckpt_close(&ckpt);
    cr_expect(has_step(4), "closing does not wait");
}

Test(ckpt_async, a_failure_is_told_when_it_ends_and_the_checkpoint_before_stays) {
    hx_train_state state;
    open_with(WAIT);
    OK(begin(1, false));
    hx_ckpt_finish(ckpt);
    atomic_store(&fails, true);
    OK(begin(2, false));
    hx_ckpt_finish(ckpt);
    atomic_store(&fails, false);
    ended_with(1, HX_OK);
    ended_with(2, HX_ERR_IO);
    OK(hx_ckpt_load(comm, folder, &items, &state));
    cr_expect(state.step == 1 && !has_step(2));
    OK(begin(3, false));
    hx_ckpt_finish(ckpt);
    ended_with(3, HX_OK);
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, without_it_a_save_is_written_at_once) {
    hx_save_end end;
    open_with(OFF);
    OK(begin(1, false));
    cr_expect(result == HX_SAVE_WRITTEN && has_step(1) && !hx_ckpt_ended(ckpt, &end));
    hx_ckpt_finish(ckpt);
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, a_save_that_is_waited_for_comes_after_the_one_under_way) {
    open_with(WAIT);
    OK(begin(1, false));
    OK(hx_ckpt_save(ckpt, &(hx_train_state){.step = 2}, &items, false));
    cr_expect(has_step(1) && has_step(2));
    ended_with(1, HX_OK);
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, replicas_share_what_is_copied) {
    hx_state_item half = items_array[0];
    int64_t whole, part, other;
    OK(hx_ckpt_share_bytes(&(hx_state_list){.items = &half, .n_items = 1}, &whole));
    half.n_replicas = 2;
    OK(hx_ckpt_share_bytes(&(hx_state_list){.items = &half, .n_items = 1}, &part));
    half.replica = 1;
    OK(hx_ckpt_share_bytes(&(hx_state_list){.items = &half, .n_items = 1}, &other));
    cr_expect_geq(whole, N_WEIGHT * 4);
    cr_expect_leq(part + other, whole + 128);
    cr_expect_leq(part, whole / 2 + 128);
}

/* Saves beside training: from a copy, one at a time, with an end that is told once. */
#include "tests/unit/test_ckpt_fixture.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "backends/backends.h"
#include "tests/support/far.h"

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

/* The weight is steady, the bias is not. */
static void open_late(void) {
    setenv("HELIX_TEST_COPY_MS", "100", 1);
    open_with(WAIT);
    items_array[0].is_steady = true;
}

static void file_has(int64_t weight_step, int64_t bias_step) {
    hx_train_state state;
    fill_state(0);
    OK(hx_ckpt_load(comm, folder, &items, &state));
    cr_expect_eq(weight[1], (float)(1 + 1000 * weight_step), "weight %g", weight[1]);
    cr_expect_eq(bias[0], (double)bias_step, "bias %g", bias[0]);
}

Test(ckpt_async, what_is_steady_is_copied_beside_training_and_the_rest_at_once) {
    open_late();
    OK(begin(7, false));
    fill_state(8); /* too soon for the weight */
    hx_ckpt_finish(ckpt);
    file_has(8, 7);
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, what_is_steady_may_change_once_it_has_settled) {
    open_late();
    atomic_store(&is_held, true);
    OK(begin(7, false));
    hx_ckpt_settle(ckpt); /* it waits for the copy, not for the disk, which is held */
    fill_state(8);
    cr_expect(!has_step(7));
    atomic_store(&is_held, false);
    hx_ckpt_settle(ckpt); /* nothing to wait for */
    hx_ckpt_finish(ckpt);
    file_has(7, 7);
    hx_ckpt_close(&ckpt);
}

Test(ckpt_async, the_list_may_be_gone_while_the_copy_is_made) {
    hx_state_list own = {0};
    open_late();
    fill_state(7);
    for (int64_t i = 0; i < items.n_items; i++) OK(hx_state_list_add(&own, &items.items[i]));
    OK(hx_ckpt_begin(ckpt, &(hx_train_state){.step = 7}, &own, false, &result));
    memset(own.items, 0xff, (size_t)own.n_items * sizeof *own.items);
    hx_state_list_destroy(&own);
    hx_ckpt_close(&ckpt); /* waits for the copy, too */
    file_has(7, 7);
}

static bool system_takes_pages(void) {
#ifdef MADV_POPULATE_WRITE
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const bool takes = madvise(page, 4096, MADV_POPULATE_WRITE) == 0;
    munmap(page, 4096);
    return takes;
#else
    return false;
#endif
}

Test(ckpt_async, what_will_be_saved_has_its_memory_before_the_first_save) {
    hx_layout large;
    hx_state_item item = items_array[0];
    const hx_state_list list = {.items = &item, .n_items = 1};
    const int64_t n = 16 << 20; /* 64 MiB */
    if (!system_takes_pages()) cr_skip("the system takes pages when they are written");
    OK(hx_layout_full(&HX_SHAPE(n), &large));
    item.layout = &large;
    OK(hx_mem_alloc((size_t)n * sizeof(float), &item.data));
    for (int64_t i = 0; i < n; i++) ((float *)item.data)[i] = (float)i;
    open_with(WAIT);
    const size_t before = hx_mem_resident_bytes(), share = (size_t)n * sizeof(float);
    hx_ckpt_expect(ckpt, &list);
    for (int ms = 0; ms < 20000 && hx_mem_resident_bytes() < before + share * 9 / 10; ms += 10) usleep(10000);
    cr_expect_geq(hx_mem_resident_bytes(), before + share * 9 / 10);
    OK(hx_ckpt_begin(ckpt, &(hx_train_state){.step = 1}, &list, false, &result));
    hx_ckpt_expect(ckpt, &items); /* less: it keeps what it has */
    ended_with(1, HX_OK);
    memset(item.data, 0, share);
    OK(hx_ckpt_load(comm, folder, &list, NULL));
    cr_expect_eq(((float *)item.data)[n - 1], (float)(n - 1));
    hx_ckpt_close(&ckpt);
    hx_mem_free(&item.data);
    hx_layout_destroy(&large);
}

/* A function may use what is the caller's alone. */
static hx_status produce(void *source, int64_t at, int64_t n, void *out) {
    (void)source;
    if (!pthread_equal(pthread_self(), tester)) return HX_FAIL(HX_ERR_STATE, "on another thread");
    memcpy(out, weight + at, (size_t)n * sizeof *weight);
    return HX_OK;
}

Test(ckpt_async, what_a_function_makes_is_made_at_once) {
    open_late();
    items_array[0].produce = produce;
    OK(begin(7, false));
    fill_state(8);
    hx_ckpt_finish(ckpt);
    ended_with(7, HX_OK);
    items_array[0].produce = NULL;
    file_has(7, 7);
    hx_ckpt_close(&ckpt);
}

/* The far device refuses to copy what does not lie in its memory. */
Test(ckpt_async, a_copy_that_fails_beside_training_is_told_when_it_ends) {
    hx_device *far;
    OK(hx_backend_register(&hx_backend_far));
    OK(hx_device_open("far", NULL, &far));
    open_late();
    OK(begin(1, false));
    hx_ckpt_settle(ckpt);
    items_array[0].device = far;
    OK(begin(2, false));
    cr_expect_eq(result, HX_SAVE_BEGUN);
    hx_ckpt_settle(ckpt);
    hx_device_close(&far); /* nothing of it is in use any more */
    items_array[0].device = NULL;
    hx_ckpt_finish(ckpt);
    ended_with(1, HX_OK);
    ended_with(2, HX_ERR_INTERNAL);
    cr_expect(has_step(1) && !has_step(2));
    file_has(1, 1);
    hx_ckpt_close(&ckpt);
}

/* Where the system grants any request no copy fails for want of memory. */
static bool system_counts_memory(void) {
    FILE *file = fopen("/proc/sys/vm/overcommit_memory", "r");
    const int mode = file != NULL ? fgetc(file) : '1';
    if (file != NULL) fclose(file);
    return mode != '1';
}

Test(ckpt_async, a_copy_for_which_there_is_no_memory_fails_at_once_and_the_next_save_goes_on) {
    const hx_state_item whole = items_array[0];
    hx_layout large;
    if (!system_counts_memory()) cr_skip("memory is overcommitted");
    open_late();
    OK(hx_layout_full(&HX_SHAPE((int64_t)1 << 40), &large)); /* 4 TiB */
    items_array[0].layout = &large;
    REFUSED(begin(1, false), HX_ERR_MEMORY, "ckpt.async = off");
    hx_ckpt_settle(ckpt);
    hx_layout_destroy(&large);
    items_array[0] = whole;
    OK(begin(2, false));
    hx_ckpt_finish(ckpt);
    ended_with(2, HX_OK);
    file_has(2, 2);
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

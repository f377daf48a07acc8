/* What users of other trainers lose when a run is interrupted, by number, with reports of it, and what holds here instead. Number 8 is in
 * test_ckpt_faults.c and tests/e2e/test_resume.sh, number 11 in tests/fault. */
#define _GNU_SOURCE
#include <unistd.h>

#include "core/base/rng.h"
#include "io/data/sampler.h"
#include "tests/unit/test_ckpt_fixture.h"

/* ---- 6, 7: loaders that cannot go on at another number of ranks, repeat samples or drop them (torchtitan#816, accelerate#4071) ---- */

enum { CASES = 1000, MOST_SAMPLES = 200, MOST_EPOCHS = 3, MOST_RANKS = 8 };

/* The samples of the global batch at a cursor, rank after rank, micro-batch after micro-batch; returns how many. */
static int64_t deal_batch(hx_sampler s, int64_t cursor, int64_t *dealt) {
    int64_t n_dealt = 0, n_micro, base, n;
    for (s.rank = 0; s.rank < s.size; s.rank++) {
        OK(hx_sampler_n_micro(&s, cursor, &n_micro));
        for (int64_t m = 0; m < n_micro; m++) {
            OK(hx_sampler_micro(&s, cursor, m, &base, &n));
            cr_assert_eq(base, n_dealt, "ranks and micro-batches follow each other without a gap");
            for (int64_t i = 0; i < n; i++) dealt[n_dealt++] = hx_sampler_sample(&s, cursor + base + i);
        }
    }
    return n_dealt;
}

/* All samples of MOST_EPOCHS epochs; at every batch another number of ranks and another micro-batch go on from the cursor. */
static int64_t deal_disturbed(hx_sampler s, hx_rng rng, int64_t *dealt) {
    int64_t cursor = 0, n_batch;
    for (uint64_t draw = 100; cursor < MOST_EPOCHS * hx_sampler_epoch(&s); draw += 2) {
        s.size = 1 + (int)hx_rng_below(rng, draw, (uint64_t)(s.batch < MOST_RANKS ? s.batch : MOST_RANKS));
        s.micro_batch = (int64_t)hx_rng_below(rng, draw + 1, 5);
        OK(hx_sampler_check(&s));
        OK(hx_sampler_batch(&s, cursor, &n_batch));
        cr_assert_eq(deal_batch(s, cursor, dealt + cursor), n_batch);
        cursor += n_batch;
    }
    return cursor;
}

static hx_sampler any_sampler(hx_rng rng) {
    hx_sampler s = {.n_samples = 1 + (int64_t)hx_rng_below(rng, 0, MOST_SAMPLES), .size = 1, .seed = hx_rng_below(rng, 1, UINT64_MAX),
                    .shuffle = hx_rng_below(rng, 2, 4) != 0, .last = (hx_last_batch)hx_rng_below(rng, 3, 3)};
    s.batch = 1 + (int64_t)hx_rng_below(rng, 4, (uint64_t)s.n_samples);
    return s;
}

Test(resume, any_ranks_go_on_from_the_cursor_with_the_same_samples_in_the_same_order) {
    int64_t dealt[(MOST_EPOCHS + 1) * MOST_SAMPLES];
    for (uint64_t c = 0; c < CASES; c++) {
        const hx_rng rng = {.seed = c};
        const hx_sampler s = any_sampler(rng);
        const int64_t n = deal_disturbed(s, rng, dealt);
        for (int64_t i = 0; i < n; i++)
            cr_assert_eq(dealt[i], hx_sampler_sample(&s, i), "case %d, position %d", (int)c, (int)i);
    }
}

Test(resume, no_sample_is_repeated_in_an_epoch_and_none_is_left_out) {
    int64_t dealt[(MOST_EPOCHS + 1) * MOST_SAMPLES];
    for (uint64_t c = 0; c < CASES; c++) {
        const hx_rng rng = {.seed = c};
        const hx_sampler s = any_sampler(rng);
        const int64_t epoch = hx_sampler_epoch(&s);
        deal_disturbed(s, rng, dealt);
        cr_assert(s.last == HX_LAST_DROP ? epoch <= s.n_samples && epoch > s.n_samples - s.batch : epoch == s.n_samples);
        for (int64_t e = 0; e < MOST_EPOCHS; e++) {
            int times[MOST_SAMPLES + 1] = {0};
            for (int64_t i = 0; i < epoch; i++) times[dealt[e * epoch + i]]++;
            for (int64_t i = 0; i <= MOST_SAMPLES; i++)
                cr_assert_leq(times[i], i < s.n_samples, "case %d, epoch %d, sample %d", (int)c, (int)e, (int)i);
        }
    }
}

/* ---- 9: out of memory while saving (pytorch#104143, #118520) ---- */

#if !defined(__SANITIZE_ADDRESS__) /* which keeps a shadow of all memory, and what was freed for a while */

enum { BIG = 192 << 20, PIECE = 64 << 20, SLACK = 12 << 20 };

/* A line of /proc/self/status, e.g. VmRSS, in bytes. */
static int64_t memory_of(const char *key) {
    char line[256];
    int64_t kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    cr_assert(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kib = strtoll(line + strlen(key) + 1, NULL, 10);
    fclose(f);
    cr_assert_geq(kib, 0, "%s", key);
    return kib * 1024;
}

/* From here on VmHWM is the most that the process holds. */
static int64_t start_watch(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f || fputs("5", f) < 0 || fclose(f) != 0) cr_skip_test("the peak of memory cannot be reset here");
    return memory_of("VmRSS");
}

Test(resume, saving_and_loading_hold_no_more_than_a_piece_beside_the_state, .init = fixture_open, .fini = fixture_close) {
    const int64_t n = BIG / (int64_t)sizeof(float);
    hx_layout layout;
    hx_ckpt *ckpt;
    hx_train_state state;
    float *big;
    OK(hx_mem_alloc(BIG, (void **)&big));
    for (int64_t i = 0; i < n; i++) big[i] = (float)i;
    OK(hx_layout_full(&HX_SHAPE(n), &layout));
    hx_state_item item = {.name = "/model/big", .dtype = HX_F32, .layout = &layout, .data = big, .n_replicas = 1};
    const hx_state_list list = {.items = &item, .n_items = 1};
    /* a first save and load of something small, so that what libraries keep for ever is there already */
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    OK(hx_ckpt_save(ckpt, &(hx_train_state){.step = 1}, &items, false));
    OK(hx_ckpt_load(comm, folder, &items, &state));

    int64_t before = start_watch();
    OK(hx_ckpt_save(ckpt, &(hx_train_state){.step = 2}, &list, false));
    int64_t saving = memory_of("VmHWM") - before;
    before = start_watch();
    OK(hx_ckpt_load(comm, folder, &list, &state));
    int64_t loading = memory_of("VmHWM") - before;
    cr_expect_leq(saving, PIECE + SLACK, "saving %d MiB took %d MiB", BIG >> 20, (int)(saving >> 20));
    cr_expect_leq(loading, PIECE + SLACK, "loading %d MiB took %d MiB", BIG >> 20, (int)(loading >> 20));
    cr_log_info("beside %d MiB of state: saving %d KiB, loading %d KiB", BIG >> 20, (int)(saving >> 10), (int)(loading >> 10));
    hx_ckpt_close(&ckpt);
    hx_layout_destroy(&layout);
    hx_mem_free((void **)&big);
}

#endif

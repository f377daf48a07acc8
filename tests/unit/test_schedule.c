/* Learning rates over a run. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "core/optim/optim.h"
#include "core/optim/schedule.h"
#include "tests/support/expect.h"

static double rate(const hx_optim_config *c, int64_t step, int64_t n_steps) {
    double lr = NAN;
    OK(hx_schedule_lr(c, step, n_steps, &lr));
    return lr;
}

/* Values of a cosine annealing from 0.1 to 0.01 over 10 updates; entry t is the rate of update t + 1. */
Test(schedule, cosine_follows_its_formula) {
    const double expected[11] = {0.1,         0.097797543, 0.091405765, 0.081450336, 0.068905765, 0.055,
                                 0.041094235, 0.028549664, 0.018594235, 0.012202457, 0.01};
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.lr = 0.1;
    c.warmup = 0;
    c.min_lr_ratio = 0.1;
    for (int t = 0; t <= 10; t++) cr_expect_float_eq(rate(&c, t + 1, 10), expected[t], 1e-9, "t = %d", t);
    cr_expect_float_eq(rate(&c, 1000, 10), 0.01, 1e-12, "stays at the lowest");
}

Test(schedule, warmup_climbs_to_the_full_rate_and_the_cosine_uses_what_is_left) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.lr = 1;
    c.warmup = 4;
    c.min_lr_ratio = 0;
    for (int step = 1; step <= 4; step++) cr_expect_eq(rate(&c, step, 14), step / 4.0);
    cr_expect_eq(rate(&c, 5, 14), 1);
    cr_expect_float_eq(rate(&c, 10, 14), 0.5, 1e-12, "half way through the 10 left");
    cr_expect_float_eq(rate(&c, 15, 14), 0, 1e-12);
}

Test(schedule, warmup_longer_than_the_run_only_climbs) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.lr = 1;
    c.warmup = 100;
    cr_expect_eq(rate(&c, 10, 10), 0.1);
}

Test(schedule, constant_needs_no_number_of_steps) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.lr = 0.5;
    c.warmup = 2;
    c.schedule = 1;
    cr_expect_eq(rate(&c, 1, 0), 0.25);
    cr_expect_eq(rate(&c, 3, 0), 0.5);
    cr_expect_eq(rate(&c, 1000000, 0), 0.5);
}

Test(schedule, numbers_without_meaning_are_refused) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    double lr = -1;
    cr_expect_eq(hx_schedule_lr(&c, 1, 0, &lr), HX_ERR_CONFIG);
    cr_expect_eq(hx_schedule_lr(&c, 0, 10, &lr), HX_ERR_ARG);
    c.lr = NAN;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    c = (hx_optim_config)HX_OPTIM_DEFAULT;
    c.schedule = HX_LR_COUNT;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    c = (hx_optim_config)HX_OPTIM_DEFAULT;
    c.warmup = -1;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    c = (hx_optim_config)HX_OPTIM_DEFAULT;
    c.min_lr_ratio = 2;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    cr_expect_eq(lr, -1, "nothing is written on failure");
}

/* ---- schedules from parts, against PyTorch 1.13 ---- */

static void follows(const hx_schedule *s, const char *what, int n, const double *expected) {
    for (int t = 0; t < n; t++) {
        double lr = NAN;
        OK(hx_schedule_at(s, 0.1, t, &lr));
        cr_expect_float_eq(lr, expected[t], 1e-12, "%s, t = %d: %.12g, expected %.12g", what, t, lr, expected[t]);
    }
}
#define FOLLOWS(s, ...) follows(s, #s, (int)(sizeof(double[]){__VA_ARGS__} / sizeof(double)), (double[]){__VA_ARGS__})

static const hx_schedule constant = {.kind = HX_SCHEDULE_CONSTANT};
static const hx_schedule warmup = {HX_SCHEDULE_WARMUP, .length = 4};
static const hx_schedule linear = {HX_SCHEDULE_LINEAR, .length = 4, .start = 0.25, .end = 0.75};
static const hx_schedule halves = {HX_SCHEDULE_STEP, .length = 3, .gamma = 0.5};
static const hx_schedule exponential = {HX_SCHEDULE_EXPONENTIAL, .gamma = 0.9};
static const hx_schedule cosine = {HX_SCHEDULE_COSINE, .length = 10, .end = 0.1};

Test(schedule, each_kind_gives_the_rates_of_pytorch) {
    FOLLOWS(&constant, 0.1, 0.1, 0.1);
    FOLLOWS(&warmup, 0.025, 0.05, 0.075, 0.1, 0.1);
    FOLLOWS(&linear, 0.025, 0.0375, 0.05, 0.0625, 0.075, 0.075, 0.075);
    FOLLOWS(&halves, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025);
    FOLLOWS(&exponential, 0.1, 0.09, 0.081, 0.0729, 0.06561, 0.059049);
    FOLLOWS(&cosine, 0.1, 0.0977975432333, 0.0914057647469, 0.0814503363532, 0.0689057647469, 0.055, 0.0410942352531,
            0.0285496636468, 0.0185942352531, 0.0122024567667, 0.01, 0.01);
}

Test(schedule, a_sequence_gives_each_part_its_own_time) {
    const hx_schedule fall = {HX_SCHEDULE_COSINE, .length = 6, .end = 0.1}, pairs = {HX_SCHEDULE_STEP, .length = 2, .gamma = 0.5};
    const hx_schedule_part two[] = {{&warmup, 4}, {&fall, 0}}, three[] = {{&linear, 3}, {&exponential, 3}, {&pairs, 0}};
    const hx_schedule climb_and_fall = {HX_SCHEDULE_SEQUENCE, .parts = two, .n_parts = 2};
    const hx_schedule mixed = {HX_SCHEDULE_SEQUENCE, .parts = three, .n_parts = 3};
    FOLLOWS(&climb_and_fall, 0.025, 0.05, 0.075, 0.1, 0.1, 0.0939711431703, 0.0775, 0.055, 0.0325, 0.0160288568297, 0.01);
    FOLLOWS(&mixed, 0.025, 0.0375, 0.05, 0.1, 0.09, 0.081, 0.1, 0.1, 0.05, 0.05, 0.025);
}

Test(schedule, a_chain_multiplies_factors) {
    const hx_schedule climb = {HX_SCHEDULE_LINEAR, .length = 4, .start = 0.5, .end = 1};
    const hx_schedule_part parts[] = {{&climb, 0}, {&exponential, 0}};
    const hx_schedule chain = {HX_SCHEDULE_CHAIN, .parts = parts, .n_parts = 2};
    FOLLOWS(&chain, 0.05, 0.05625, 0.06075, 0.0637875, 0.06561, 0.059049, 0.0531441);
}

Test(schedule, parts_without_meaning_are_refused) {
    const hx_schedule endless = {HX_SCHEDULE_COSINE, .length = 0, .end = 0.1};
    const hx_schedule_part nothing[] = {{&warmup, 0}, {&cosine, 0}}, inner[] = {{&endless, 0}};
    const hx_schedule bad[] = {endless,
                               {HX_SCHEDULE_LINEAR, .length = 0},
                               {HX_SCHEDULE_STEP, .length = 0, .gamma = 1},
                               {HX_SCHEDULE_EXPONENTIAL, .gamma = NAN},
                               {HX_SCHEDULE_SEQUENCE, .n_parts = 0},
                               {HX_SCHEDULE_SEQUENCE, .parts = nothing, .n_parts = 2},
                               {HX_SCHEDULE_CHAIN, .parts = inner, .n_parts = 1},
                               {.kind = HX_SCHEDULE_COUNT}};
    double lr = -1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(hx_schedule_at(&bad[i], 0.1, 0, &lr), HX_ERR_CONFIG, "schedule %zu", i);
    cr_expect_eq(hx_schedule_at(&cosine, 0.1, -1, &lr), HX_ERR_ARG);
    const hx_schedule_part absent[] = {{NULL, 0}};
    cr_expect_eq(hx_schedule_at(&(hx_schedule){HX_SCHEDULE_CHAIN, .parts = absent, .n_parts = 1}, 0.1, 0, &lr), HX_ERR_ARG);
    cr_expect_eq(hx_schedule_at(NULL, 0.1, 0, &lr), HX_ERR_ARG);
    cr_expect_eq(lr, -1, "nothing is written on failure");
}

Test(schedule, options_choose_any_of_them_after_the_warmup) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.lr = 1;
    c.warmup = 2;
    c.gamma = 0.25;
    c.decay_every = 2;
    c.min_lr_ratio = 0.5;
    static const struct {
        int schedule;
        double expected[6];
    } rows[] = {{HX_LR_LINEAR, {0.5, 1, 1, 0.875, 0.75, 0.625}},
                {HX_LR_STEP, {0.5, 1, 1, 1, 0.25, 0.25}},
                {HX_LR_EXPONENTIAL, {0.5, 1, 1, 0.5, 0.25, 0.125}},
                {HX_LR_PLATEAU, {0.5, 1, 1, 1, 1, 1}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        c.schedule = rows[i].schedule;
        for (int s = 1; s <= 6; s++) cr_expect_float_eq(rate(&c, s, 6), rows[i].expected[s - 1], 1e-15, "%d: %d", c.schedule, s);
    }
}

/* ---- reduce on plateau, against PyTorch 1.13 ---- */

static void plateau_gives(const hx_plateau_config *c, int n, const double *losses, const double *expected) {
    hx_plateau p = HX_PLATEAU_START;
    OK(hx_plateau_check(c));
    for (int i = 0; i < n; i++) {
        hx_plateau_update(c, &p, losses[i]);
        cr_expect_float_eq(p.scale, expected[i], 1e-15, "evaluation %d: %g, expected %g", i, p.scale, expected[i]);
    }
}

Test(schedule, a_plateau_lowers_the_rate) {
    const double losses[18] = {1, .9, .89999, .95, .9, .91, .5, .6, .6, .6, .6, .6, NAN, .6, .6, .6, .6, .4};
    const double expected[18] = {1, 1, 1, 1, .5, .5, .5, .5, .5, .25, .25, .25, .25, .2, .2, .2, .2, .2};
    const hx_plateau_config c = {.factor = 0.5, .threshold = 1e-4, .patience = 2, .cooldown = 1, .min_scale = 0.2};
    const hx_plateau_config defaults = HX_PLATEAU_DEFAULT;
    double same[36], tenths[36];
    plateau_gives(&c, 18, losses, expected);
    for (int i = 0; i < 36; i++) {
        same[i] = 1;
        tenths[i] = i < 11 ? 1 : i < 22 ? 0.1 : i < 33 ? 0.01 : 0.001;
    }
    plateau_gives(&defaults, 36, same, tenths);
}

Test(schedule, a_plateau_goes_on_from_its_state) {
    const hx_plateau_config c = {.factor = 0.5, .threshold = 1e-4, .patience = 1};
    hx_plateau a = HX_PLATEAU_START, b = HX_PLATEAU_START;
    hx_state_list from = {0}, to = {0};
    for (int i = 0; i < 2; i++) hx_plateau_update(&c, &a, 1);
    OK(hx_plateau_state(&a, NULL, &from));
    OK(hx_plateau_state(&b, NULL, &to));
    cr_assert_eq(from.n_items, 4);
    for (int i = 0; i < 4; i++) memcpy(to.items[i].data, from.items[i].data, 8);
    hx_plateau_update(&c, &a, 1);
    hx_plateau_update(&c, &b, 1);
    cr_expect(a.scale == 0.5 && b.scale == 0.5 && a.best == b.best && a.n_bad == b.n_bad);
    hx_state_list_destroy(&to);
    hx_state_list_destroy(&from);
}

Test(schedule, a_plateau_without_meaning_is_refused) {
    const hx_plateau_config bad[] = {{.factor = 1}, {.factor = NAN}, {.factor = 0.5, .patience = -1}, {.factor = 0.5, .threshold = 2}};
    for (int i = 0; i < 4; i++) cr_expect_eq(hx_plateau_check(&bad[i]), HX_ERR_CONFIG);
}

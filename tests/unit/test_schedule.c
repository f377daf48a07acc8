/* Learning rates over a run. */
#include <criterion/criterion.h>
#include <math.h>

#include "core/optim/optim.h"

#define OK(call) cr_assert_eq((call), HX_OK, "%s: %s", #call, hx_error_message())

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
    c.schedule = 2;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    c = (hx_optim_config)HX_OPTIM_DEFAULT;
    c.warmup = -1;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    c = (hx_optim_config)HX_OPTIM_DEFAULT;
    c.min_lr_ratio = 2;
    cr_expect_eq(hx_schedule_lr(&c, 1, 10, &lr), HX_ERR_CONFIG);
    cr_expect_eq(lr, -1, "nothing is written on failure");
}

/* The loss scale: its exact sequence and its bounds. */
#include <criterion/criterion.h>

#include "core/optim/scaler.h"

static void steps(hx_scaler *scaler, int n, bool is_finite) {
    for (int i = 0; i < n; i++) hx_scaler_update(scaler, is_finite);
}

static void expect(const hx_scaler *scaler, double scale, int64_t n_clean) {
    cr_expect_eq(scaler->scale, scale, "scale %g, expected %g", scaler->scale, scale);
    cr_expect_eq(scaler->n_clean, n_clean, "%lld clean steps, expected %lld", (long long)scaler->n_clean, (long long)n_clean);
}

Test(scaler, halves_at_once_and_doubles_after_2000_clean_steps) {
    hx_scaler s = HX_SCALER_START;
    expect(&s, 65536, 0);
    steps(&s, 1999, true);
    expect(&s, 65536, 1999);
    steps(&s, 1, true);
    expect(&s, 131072, 0);
    steps(&s, 1999, true);
    steps(&s, 1, false); /* one bad step begins the count afresh */
    expect(&s, 65536, 0);
    steps(&s, 1, false);
    expect(&s, 32768, 0);
    steps(&s, 2000, true);
    expect(&s, 65536, 0);
    steps(&s, 2000, true);
    expect(&s, 131072, 0);
}

Test(scaler, stays_between_1_and_2_to_the_24) {
    hx_scaler s = HX_SCALER_START;
    steps(&s, 40, false);
    expect(&s, 1, 0);
    steps(&s, 24 * 2000, true);
    expect(&s, 16777216, 0);
    steps(&s, 2000, true);
    expect(&s, 16777216, 0);
    steps(&s, 1, false);
    expect(&s, 8388608, 0);
}

Test(scaler, one_that_began_below_1_does_not_grow_by_an_overflow) {
    hx_scaler s = {.scale = 0.25};
    steps(&s, 3, false);
    expect(&s, 0.25, 0);
    steps(&s, 2000, true);
    expect(&s, 0.5, 0);
}

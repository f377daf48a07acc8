#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "core/base/rng.h"

/* Known answers of the Random123 distribution for Philox4x32-10. */
Test(rng, philox_gives_the_published_answers) {
    uint32_t w[4];
    hx_philox(0, 0, 0, w);
    cr_assert_eq(w[0], 0x6627e8d5u);
    cr_assert_eq(w[1], 0xe169c58du);
    cr_assert_eq(w[2], 0xbc57ac4cu);
    cr_assert_eq(w[3], 0x9b00dbd8u);
    hx_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, w);
    cr_assert_eq(w[0], 0x408f276du);
    cr_assert_eq(w[1], 0x41c83b0eu);
    cr_assert_eq(w[2], 0xa20bc7c6u);
    cr_assert_eq(w[3], 0x6d5451fdu);
    hx_philox(0x299f31d0a4093822ull, 0x0370734413198a2eull, 0x85a308d3243f6a88ull, w);
    cr_assert_eq(w[0], 0xd16cfe09u);
    cr_assert_eq(w[3], 0x24126ea1u);
}

Test(rng, permutation_visits_every_index_once) {
    static const uint64_t sizes[] = {1, 2, 3, 5, 16, 17, 1000, 4096, 4097};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        unsigned char seen[5000] = {0};
        for (uint64_t i = 0; i < sizes[k]; i++) {
            uint64_t j = hx_rng_permute((hx_rng){7, 3}, i, sizes[k]);
            cr_assert(j < sizes[k] && !seen[j], "n=%lu: %lu -> %lu", sizes[k], i, j);
            seen[j] = 1;
        }
    }
}

Test(rng, permutations_of_two_streams_differ) {
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++)
        same += hx_rng_permute((hx_rng){7, 0}, i, 1000) == hx_rng_permute((hx_rng){7, 1}, i, 1000);
    cr_assert_lt(same, 20, "%d of 1000 positions agree", same);
}

Test(rng, normals_have_the_moments_of_a_standard_normal) {
    enum { N = 100000 };
    double s1 = 0, s2 = 0, s4 = 0;
    for (uint64_t i = 0; i < N; i++) {
        double z = hx_rng_normal((hx_rng){1, 2}, i);
        s1 += z;
        s2 += z * z;
        s4 += z * z * z * z;
    }
    /* five standard errors: sqrt(1/N), sqrt(2/N), sqrt(96/N) */
    cr_assert_lt(fabs(s1 / N), 5 * sqrt(1.0 / N));
    cr_assert_lt(fabs(s2 / N - 1), 5 * sqrt(2.0 / N));
    cr_assert_lt(fabs(s4 / N - 3), 5 * sqrt(96.0 / N));
}

Test(rng, uniform_below_stays_below_and_reaches_all) {
    int seen[7] = {0};
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t k = hx_rng_below((hx_rng){9, 9}, i, 7);
        cr_assert_lt(k, 7u);
        seen[k]++;
    }
    for (int k = 0; k < 7; k++) cr_assert_gt(seen[k], 80);
}

#include "core/base/rng.h"

/* Balanced Feistel network on 2*half bits, four rounds of Philox as the round function. Values that fall outside
 * [0, n) are sent through again; the domain is below 4n, so this ends after four tries on average. */
uint64_t hx_rng_permute(hx_rng rng, uint64_t index, uint64_t n) {
    int half = 1;
    while (half < 31 && ((uint64_t)1 << (2 * half)) < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint32_t w[4];
            hx_philox(rng.seed, rng.stream, right | round << 62, w);
            uint64_t mixed = left ^ (w[0] & mask);
            left = right;
            right = mixed;
        }
        index = left << half | right;
    } while (index >= n);
    return index;
}

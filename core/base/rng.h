/* Counter-based random numbers: the value at (seed, stream, index) is a pure function, so draws do not depend
 * on the number of ranks or threads, and a run's random state is its seed and its counters.
 * Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
 *
 *     hx_rng rng = {.seed = 1, .stream = HX_RNG_INIT};
 *     double z = hx_rng_normal(rng, i);
 */
#ifndef HX_CORE_BASE_RNG_H
#define HX_CORE_BASE_RNG_H

#include <math.h>
#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_rng {
    uint64_t seed;
    uint64_t stream;
} hx_rng;

/* Purposes keep streams apart: the upper byte of `stream` is one of these, the rest is free. */
typedef enum hx_rng_purpose { HX_RNG_USER, HX_RNG_INIT, HX_RNG_DROPOUT, HX_RNG_DATA, HX_RNG_SAMPLE } hx_rng_purpose;

/** The stream `id` (56 bits are used) of a purpose. */
static inline uint64_t hx_rng_stream(hx_rng_purpose purpose, uint64_t id) {
    return ((uint64_t)purpose << 56) | (id & 0x00ffffffffffffffull);
}

/** Ten rounds of Philox4x32: 128 random bits for the 128-bit counter (stream, block) under a 64-bit key. */
static inline void hx_philox(uint64_t key, uint64_t stream, uint64_t block, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = (uint32_t)stream,
             c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/** 32 random bits of element `index`: word index%4 of block index/4. */
static inline uint32_t hx_rng_bits(hx_rng rng, uint64_t index) {
    uint32_t w[4];
    hx_philox(rng.seed, rng.stream, index / 4, w);
    return w[index % 4];
}

/** Uniform in [0,1) with 24 bits, the same value in every dtype. */
static inline double hx_rng_uniform(hx_rng rng, uint64_t index) {
    return (double)(hx_rng_bits(rng, index) >> 8) * 0x1p-24;
}

/** Standard normal by Box-Muller on the two words of a pair; float64 inside. */
static inline double hx_rng_normal(hx_rng rng, uint64_t index) {
    uint32_t w[4];
    hx_philox(rng.seed, rng.stream, index / 4, w);
    int pair = (int)(index % 4) & 2;
    double u = ((double)w[pair] + 0.5) * 0x1p-32, phi = 6.283185307179586 * ((double)w[pair + 1] * 0x1p-32);
    double r = sqrt(-2.0 * log(u));
    return index % 2 ? r * sin(phi) : r * cos(phi);
}

/** Uniform integer in [0, n), n >= 1, without noticeable bias (64-bit multiply of 64 random bits). */
static inline uint64_t hx_rng_below(hx_rng rng, uint64_t index, uint64_t n) {
    uint32_t w[4];
    hx_philox(rng.seed, rng.stream, index, w);
    return (uint64_t)(((unsigned __int128)(((uint64_t)w[1] << 32) | w[0]) * n) >> 64);
}

/** The image of `index` under a keyed permutation of [0, n): a Feistel network over the next even power of
 *  two with cycle walking, so any position is found in constant memory. @param n  1 <= n <= 2^62 */
uint64_t hx_rng_permute(hx_rng rng, uint64_t index, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif

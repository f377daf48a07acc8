/* Dropout: the generator of core/base/rng.h, many counters at a time. */
#include <math.h>
#include "backends/cpu/kernels/kernels.h"

enum {
    BLOCK = 16384,     /* elements of a task */
    PHILOX_BLOCKS = 64 /* most counters advanced together, four words each */
};

/* Words of blocks first .. first+n-1 in order, n up to PHILOX_BLOCKS: hx_philox with the counters side by side in vectors, all
 * of 32 bits so that a vector holds as many as it can. */
static void philox_blocks(hx_rng rng, uint64_t first, uint32_t n, uint32_t *restrict words) {
    uint32_t low = (uint32_t)first, high = (uint32_t)(first >> 32);
    uint32_t w[4][PHILOX_BLOCKS];
    _Pragma("omp simd") for (uint32_t i = 0; i < n; i++) {
        uint32_t c0 = low + i, c1 = high + (c0 < low);
        uint32_t c2 = (uint32_t)rng.stream, c3 = (uint32_t)(rng.stream >> 32);
        uint32_t k0 = (uint32_t)rng.seed, k1 = (uint32_t)(rng.seed >> 32);
#pragma GCC unroll 10
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
        w[0][i] = c0;
        w[1][i] = c1;
        w[2][i] = c2;
        w[3][i] = c3;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < 4; k++) words[4 * i + k] = w[k][i];
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/dropout.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/dropout.inc"

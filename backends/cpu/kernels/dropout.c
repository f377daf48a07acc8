/* Dropout: the generator of core/base/rng.h, many counters at a time. */
#include <math.h>
#include "backends/cpu/kernels/kernels.h"

enum {
    BLOCK = 16384,     /* elements of a task */
    PHILOX_BLOCKS = 64 /* counters advanced together, four words each */
};

/* Words of blocks first .. first+PHILOX_BLOCKS-1 in order: hx_philox with the counters side by side in vectors. */
static void philox_blocks(hx_rng rng, uint64_t first, uint32_t *words) {
    _Pragma("omp simd") for (int i = 0; i < PHILOX_BLOCKS; i++) {
        uint64_t block = first + (uint64_t)i;
        uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
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
        words[4 * i] = c0;
        words[4 * i + 1] = c1;
        words[4 * i + 2] = c2;
        words[4 * i + 3] = c3;
    }
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/dropout.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/dropout.inc"

/* Sums over elements: of XXH3_64(bytes of element i, seed i), mod 2^64, which can be taken in any order and by any number
 * of ranks. XXH3 of a few bytes is some twenty instructions, so all is inlined here, and compiled a second time for AVX2. */
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <string.h>
#include "io/ckpt/ckpt_impl.h"

#define SEEDS_MOST ((uint64_t)1 << 56)

typedef uint32_t u32 __attribute__((aligned(1), may_alias));
typedef uint64_t u64 __attribute__((aligned(1), may_alias));

/* The size is a constant in each copy of this loop. */
static inline __attribute__((always_inline)) uint64_t sum_any(const uint8_t *p, size_t size, uint64_t at, int64_t n) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += XXH3_64bits_withSeed(p + (size_t)i * size, size, at + (uint64_t)i);
    return sum;
}

/* XXH3 of 4 to 8 bytes is a mix of input and key - (seed ^ bswap32(seed) << 32). While only the lowest 8 bits of the seed
 * change, from 0 up, that falls by 2^56 + 1 from one element to the next: one subtraction in the place of six instructions,
 * which is what lets compilers use vectors. Seeds stay below 2^56. */
static inline __attribute__((always_inline)) uint64_t sum_words(const uint8_t *p, size_t size, uint64_t at, int64_t n) {
    const uint64_t factor = 0x9FB21C651E98DF25u;
    uint64_t sum = 0, key[2];
    memcpy(key, XXH3_kSecret + 8, sizeof key);
    while (n > 0) {
        int64_t run = 256 - (int64_t)(at & 255) < n ? 256 - (int64_t)(at & 255) : n;
        uint64_t first = (key[0] ^ key[1]) - (at ^ (uint64_t)__builtin_bswap32((uint32_t)at) << 32);
        for (int64_t i = 0; i < run; i++) {
            uint64_t x = size == 4 ? ((const u32 *)p)[i] : ((const u64 *)p)[i];
            uint64_t h = ((size == 4 ? x : x >> 32) + (x << 32)) ^ (first - (uint64_t)i * (SEEDS_MOST + 1));
            h ^= (h << 49 | h >> 15) ^ (h << 24 | h >> 40);
            h *= factor;
            h ^= (h >> 35) + size;
            h *= factor;
            sum += h ^ (h >> 28);
        }
        p += (size_t)run * size;
        at += (uint64_t)run;
        n -= run;
    }
    return sum;
}

static inline __attribute__((always_inline)) uint64_t sum_sized(const uint8_t *p, size_t size, uint64_t at, int64_t n) {
    bool is_word = at + (uint64_t)n <= SEEDS_MOST;
    switch (size) {
    case 1: return sum_any(p, 1, at, n);
    case 2: return sum_any(p, 2, at, n);
    case 4: return is_word ? sum_words(p, 4, at, n) : sum_any(p, 4, at, n);
    case 8: return is_word ? sum_words(p, 8, at, n) : sum_any(p, 8, at, n);
    default: return sum_any(p, size, at, n);
    }
}

static uint64_t sum_plain(const uint8_t *p, size_t size, uint64_t at, int64_t n) { return sum_sized(p, size, at, n); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint8_t *p, size_t size, uint64_t at, int64_t n) {
    return sum_sized(p, size, at, n);
}
#endif

uint64_t hx__sum_elems(const void *elems, size_t elem_bytes, int64_t at, int64_t n) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return sum_avx2(elems, elem_bytes, (uint64_t)at, n);
#endif
    return sum_plain(elems, elem_bytes, (uint64_t)at, n);
}

uint64_t hx__sum_box(const void *data, size_t elem_bytes, const hx_shape *shape, const hx_box *box) {
    const uint8_t *p = data;
    uint64_t sum = 0;
    hx__runs runs;
    hx__runs_begin(shape, box, &runs);
    for (int64_t at; hx__runs_next(&runs, &at); p += (size_t)runs.length * elem_bytes)
        sum += hx__sum_elems(p, elem_bytes, at, runs.length);
    return sum;
}

/* A name stands for its tensor, wherever the tensor lies in a file. */
uint64_t hx__sum_state(const char *name, uint64_t hash) {
    return XXH3_64bits_withSeed(&hash, sizeof hash, XXH3_64bits(name, strlen(name)));
}

/* XXH64: four sums take 8 bytes each of 32; what is left is mixed in by 8, 4 and 1. Each round is a bijection of the sum it
 * changes, so that data which differ in one word never have the same hash. */
#include "core/base/hash.h"

#define P1 0x9E3779B185EBCA87ull
#define P2 0xC2B2AE3D27D4EB4Full
#define P3 0x165667B19E3779F9ull
#define P4 0x85EBCA77C2B2AE63ull
#define P5 0x27D4EB2F165667C5ull

static inline uint64_t turn(uint64_t x, int n_bits) { return x << n_bits | x >> (64 - n_bits); }

static inline uint64_t mix(uint64_t sum, uint64_t word) { return turn(sum + word * P2, 31) * P1; }

static inline uint64_t word_at(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* 0 .. 31 bytes, and the last spreading of all bits over all. */
static uint64_t finish(uint64_t hash, const unsigned char *p, size_t n) {
    for (; n >= 8; p += 8, n -= 8) hash = turn(hash ^ mix(0, word_at(p)), 27) * P1 + P4;
    if (n >= 4) {
        uint32_t half;
        memcpy(&half, p, sizeof half);
        hash = turn(hash ^ half * P1, 23) * P2 + P3;
        p += 4, n -= 4;
    }
    for (; n > 0; p++, n--) hash = turn(hash ^ *p * P5, 11) * P1;
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}

uint64_t hx_hash_bulk(uint64_t seed, const void *data, size_t n_bytes) {
    const unsigned char *p = data;
    uint64_t hash = seed + P5, sums[4] = {seed + P1 + P2, seed + P2, seed, seed - P1};
    size_t n = n_bytes;
    for (; n >= 32; p += 32, n -= 32)
        for (int i = 0; i < 4; i++) sums[i] = mix(sums[i], word_at(p + 8 * i));
    if (n_bytes >= 32) {
        hash = turn(sums[0], 1) + turn(sums[1], 7) + turn(sums[2], 12) + turn(sums[3], 18);
        for (int i = 0; i < 4; i++) hash = (hash ^ mix(0, sums[i])) * P1 + P4;
    }
    return finish(hash + n_bytes, p, n);
}

/* FNV-1a, 64 bits: a number that tells texts and settings apart. Not for data from outside, where an attacker could
 * make two of the same hash, nor for megabytes (io/ckpt has checksums).
 *
 *     uint64_t hash = hx_hash_text(HX_HASH_START, path);
 *     hash = hx_hash_bytes(hash, dims, sizeof dims);
 *
 * Source: Fowler, Noll, Vo; draft-eastlake-fnv */
#ifndef HX_CORE_BASE_HASH_H
#define HX_CORE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HX_HASH_START 0xcbf29ce484222325ull /* the hash of nothing */

/** The hash of what came before, continued by n_bytes more: h = (h xor byte) * (2^40 + 2^8 + 0xb3) for each. */
static inline uint64_t hx_hash_bytes(uint64_t hash, const void *data, size_t n_bytes) {
    const unsigned char *bytes = (const unsigned char *)data;
    for (size_t i = 0; i < n_bytes; i++) hash = (hash ^ bytes[i]) * 0x100000001b3ull;
    return hash;
}

/** In the same way by a text, without its final 0. */
static inline uint64_t hx_hash_text(uint64_t hash, const char *text) { return hx_hash_bytes(hash, text, strlen(text)); }

#ifdef __cplusplus
}
#endif
#endif

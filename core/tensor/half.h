/* The half types' conversions to and from float as inline functions without branches, for loops over many elements:
 * compilers turn them into vector code. Everybody else calls the functions of dtype.h.
 */
#ifndef HX_CORE_TENSOR_HALF_H
#define HX_CORE_TENSOR_HALF_H

#include <string.h>

#include "core/tensor/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline uint32_t hx__float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float hx__bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint16_t hx__bf16_bits(float x) {
    uint32_t u = hx__float_bits(x);
    uint32_t nan = u >> 16 | 0x40; /* kept quiet */
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

static inline float hx__bf16_value(uint16_t bits) { return hx__bits_float((uint32_t)bits << 16); }

static inline uint16_t hx__f16_bits(float x) {
    uint32_t u = hx__float_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    uint32_t normal = (a + 0xfffu + (a >> 13 & 1) - 0x38000000u) >> 13;
    /* below 2^-14 the unit is 2^-24, which is that of floats in [1/2, 1) */
    uint32_t small = hx__float_bits(hx__bits_float(a) + 0.5f) - 0x3f000000u;
    uint32_t h = a < 0x38800000u ? small : normal;
    h = a >= 0x477ff000u ? 0x7c00u : h; /* 65520 and more round to infinity */
    h = a > 0x7f800000u ? 0x7e00u : h;  /* NaN */
    return (uint16_t)(sign | h);
}

static inline float hx__f16_value(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, a = bits & 0x7fffu;
    uint32_t normal = (a << 13) + 0x38000000u;
    uint32_t small = hx__float_bits((float)(int32_t)a * 0x1p-24f);
    uint32_t u = a < 0x400u ? small : normal;
    u = a >= 0x7c00u ? 0x7f800000u | (a & 0x3ffu) << 13 : u; /* infinity and NaN */
    return hx__bits_float(sign | u);
}

#ifdef __cplusplus
}
#endif
#endif

/* __half for the emulator of the tests. */
#ifndef HX_TESTS_EMU_CUDA_FP16_H
#define HX_TESTS_EMU_CUDA_FP16_H

#include <cuda_runtime.h>

/* Round to nearest even. A float between 2^-14 and 65520 keeps 10 bits of its significand; smaller ones are multiples of
 * 2^-24, which adding 0.5 (whose unit is that) rounds to. */
static inline uint16_t emu_f16_bits(float x) {
    const uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fff;
    if (size >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (size < 0x38800000u)
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f)));
    return (uint16_t)(sign | ((size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13));
}
static inline float emu_f16_value(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, size = bits & 0x7fffu;
    if (size >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (size & 0x3ffu) << 13);
    if (size >= 0x400u) return __uint_as_float(sign | ((size << 13) + 0x38000000u));
    return __uint_as_float(sign | __float_as_uint((float)size * 0x1p-24f));
}

#define EMU_HALF       __half
#define EMU_HALF2      __half2
#define EMU_HALF_BITS  emu_f16_bits
#define EMU_HALF_VALUE emu_f16_value
#include "tests/emu/half.inc"
#undef EMU_HALF
#undef EMU_HALF2
#undef EMU_HALF_BITS
#undef EMU_HALF_VALUE

typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half x) { return (float)x; }
static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half __double2half(double x) { return __half(x); }
static inline __half2 __floats2half2_rn(float x, float y) { return __half2(x, y); }
static inline __half2 __float22half2_rn(float2 x) { return __half2(x.x, x.y); }
static inline __half2 __float2half2_rn(float x) { return __half2(x, x); }
static inline float2 __half22float2(__half2 x) { return make_float2((float)x.x, (float)x.y); }
static inline __half2 __halves2half2(__half x, __half y) { return __half2(x, y); }
static inline __half2 __half2half2(__half x) { return __half2(x, x); }
static inline unsigned short __half_as_ushort(__half x) { return emu_bits<unsigned short>(x); }
static inline __half __ushort_as_half(unsigned short x) { return emu_bits<__half>(x); }

#endif

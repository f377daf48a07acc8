/* __nv_bfloat16 for the emulator of the tests. */
#ifndef HX_TESTS_EMU_CUDA_BF16_H
#define HX_TESTS_EMU_CUDA_BF16_H

#include <cuda_runtime.h>

static inline uint16_t emu_bf16_bits(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static inline float emu_bf16_value(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }

#define EMU_HALF       __nv_bfloat16
#define EMU_HALF2      __nv_bfloat162
#define EMU_HALF_BITS  emu_bf16_bits
#define EMU_HALF_VALUE emu_bf16_value
#include "tests/emu/half.inc"
#undef EMU_HALF
#undef EMU_HALF2
#undef EMU_HALF_BITS
#undef EMU_HALF_VALUE

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __bfloat162float(__nv_bfloat16 x) { return (float)x; }
static inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return __nv_bfloat162(x, y); }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return __nv_bfloat162(x.x, x.y); }
static inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __nv_bfloat162(x, x); }
static inline float2 __bfloat1622float2(__nv_bfloat162 x) { return make_float2((float)x.x, (float)x.y); }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return __nv_bfloat162(x, y); }
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return __nv_bfloat162(x, x); }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return emu_bits<unsigned short>(x); }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return emu_bits<__nv_bfloat16>(x); }

#endif

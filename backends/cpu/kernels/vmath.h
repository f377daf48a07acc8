/* Elementary functions that the compiler can vectorise: branch-free, no calls, no tables. f32 versions are
 * accurate to 1-2 units in the last place over the whole range (vnormcdf: to 1e-6 down to x = -4), with
 * subnormals, infinities and NaN as libm has them; f64 versions are libm's. The polynomials were fitted to the
 * functions on the stated intervals by Chebyshev interpolation.
 */
#ifndef HX_BACKENDS_CPU_VMATH_H
#define HX_BACKENDS_CPU_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define HX_VFN static inline __attribute__((always_inline))

HX_VFN uint32_t vbits(float x) {
    union { float f; uint32_t u; } v = {.f = x};
    return v.u;
}
HX_VFN float vfloat(uint32_t u) {
    union { uint32_t u; float f; } v = {.u = u};
    return v.f;
}
/* 2^k for -126 <= k <= 127; any other k gives some number */
HX_VFN float vpow2(int32_t k) { return vfloat((uint32_t)(k + 127) << 23); }

/* e^x = 2^n e^r with |r| <= ln2 / 2. 2^n is multiplied in two factors, as n may leave the exponent's range. */
HX_VFN float vexp_f32(float x) {
    float c = x < -104.0f ? -104.0f : x;
    c = c > 89.0f ? 89.0f : c;
    float t = c * 1.44269504f + 12582912.0f; /* adding 1.5 2^23 rounds to an integer, found in the low bits */
    float n = t - 12582912.0f;
    int32_t k = (int32_t)(vbits(t) - 0x4b400000u);
    float r = c - n * 0.693359375f; /* exact: 9 bits times 8 bits */
    r = r + n * 2.12194440e-4f;
    float p = 1.392620336e-03f;
    p = p * r + 8.363194882e-03f;
    p = p * r + 4.166655450e-02f;
    p = p * r + 1.666657689e-01f;
    p = p * r + 0.5f;
    float y = (p * (r * r) + r) + 1.0f;
    int32_t half = k >> 1;
    return y * vpow2(half) * vpow2(k - half);
}

/* ln x = e ln2 + ln(1+f) with 1+f in [sqrt(1/2), sqrt(2)) */
HX_VFN float vlog_f32(float x) {
    float scaled = x < 1.17549435e-38f ? x * 8388608.0f : x;
    float shift = x < 1.17549435e-38f ? -23.0f : 0.0f;
    uint32_t u = vbits(scaled) - 0x3f3504f3u;
    float e = (float)((int32_t)u >> 23) + shift;
    float f = vfloat((u & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float p = 6.971611471e-02f;
    p = p * f - 1.147973385e-01f;
    p = p * f + 1.168541992e-01f;
    p = p * f - 1.242568733e-01f;
    p = p * f + 1.424905765e-01f;
    p = p * f - 1.666780232e-01f;
    p = p * f + 2.000071575e-01f;
    p = p * f - 2.499999696e-01f;
    p = p * f + 3.333333118e-01f;
    float f2 = f * f;
    float y = p * (f2 * f);
    y = y - e * 2.12194440e-4f;
    y = y - 0.5f * f2;
    y = (f + y) + e * 0.693359375f;
    y = x > 3.40282347e+38f ? x : y;
    y = x == 0.0f ? -(float)INFINITY : y;
    return x >= 0.0f ? y : (float)NAN;
}

/* odd polynomial near 0, 1 - 2/(e^2x + 1) elsewhere */
HX_VFN float vtanh_f32(float x) {
    float a = fabsf(x), z = x * x;
    float p = -6.045165097e-03f;
    p = p * z + 2.096132911e-02f;
    p = p * z - 5.384326318e-02f;
    p = p * z + 1.333271885e-01f;
    p = p * z - 3.333332843e-01f;
    float near = x + x * (z * p);
    float far = copysignf(1.0f - 2.0f / (vexp_f32(2.0f * a) + 1.0f), x);
    return a < 0.625f ? near : far;
}

HX_VFN float vsigmoid_f32(float x) { return 1.0f / (1.0f + vexp_f32(-x)); }

/* Normal distribution function: with t = |x|/sqrt2, (1 + erf)/2 near 0 and erfc/2 = exp(-t^2 - h(t))/2 in the
 * tail, which keeps relative accuracy there: 5e-4 at t = 4. Beyond, where the tail is below 1e-8, h is held constant and only the order
 * of magnitude is kept. */
HX_VFN float vnormcdf_f32(float x) {
    float t = fabsf(x) * 0.707106781f, z = t * t;
    float p = -5.954904004e-04f;
    p = p * z + 4.986477310e-03f;
    p = p * z - 2.676235042e-02f;
    p = p * z + 1.128170933e-01f;
    p = p * z - 3.761248485e-01f;
    p = p * z + 1.283791485e-01f;
    float s = x * 0.707106781f;
    float near = 0.5f + 0.5f * (s + s * p);
    float c = t > 4.0f ? 4.0f : t;
    float h = -1.643569654e-06f;
    h = h * c + 4.617791279e-05f;
    h = h * c - 5.977434720e-04f;
    h = h * c + 4.763575249e-03f;
    h = h * c - 2.643101760e-02f;
    h = h * c + 1.100944808e-01f;
    h = h * c - 3.681854833e-01f;
    h = h * c + 1.130237616e+00f;
    h = h * c - 3.204415313e-04f;
    float tail = 0.5f * vexp_f32(-0.5f * x * x - h);
    float far = x < 0.0f ? tail : 1.0f - tail;
    return t < 0.925f ? near : far;
}

/* ln(1 + x) and e^x - 1 after Kahan: what rounding 1 + x to u (e^x to u) lost is made up for by the factor
 * x / (u - 1) (the quotient (u - 1) / ln u), which is exact where u is near 1. */
HX_VFN float vlog1p_f32(float x) {
    float u = 1.0f + x, d = u - 1.0f;
    float y = vlog_f32(u) * (x / d);
    y = d == 0.0f ? x : y;
    return x > 3.40282347e+38f ? x : y;
}
HX_VFN float vexpm1_f32(float x) {
    float u = vexp_f32(x), d = u - 1.0f;
    float y = d * (x / vlog_f32(u));
    y = d == 0.0f ? x : y;
    y = x > 80.0f ? u : y;
    return x < -18.0f ? -1.0f : y;
}

HX_VFN float vsqrt_f32(float x) { return sqrtf(x); }
HX_VFN float vabs_f32(float x) { return fabsf(x); }

HX_VFN double vlog1p_f64(double x) { return log1p(x); }
HX_VFN double vexpm1_f64(double x) { return expm1(x); }

/* Functions that are libm's in both types: used too seldom to be worth a vector version, or one instruction. */
#define HX_LIBM(name)                                                                                        \
    HX_VFN float v##name##_f32(float x) { return name##f(x); }                                               \
    HX_VFN double v##name##_f64(double x) { return name(x); }
HX_LIBM(floor)
HX_LIBM(ceil)
HX_LIBM(rint)
HX_LIBM(sin)
HX_LIBM(cos)
HX_LIBM(tan)
HX_LIBM(asin)
HX_LIBM(acos)
HX_LIBM(atan)
HX_LIBM(sinh)
HX_LIBM(cosh)
HX_LIBM(asinh)
HX_LIBM(acosh)
HX_LIBM(atanh)
HX_LIBM(erf)
#undef HX_LIBM
HX_VFN float vpow_f32(float a, float b) { return powf(a, b); }
HX_VFN double vpow_f64(double a, double b) { return pow(a, b); }

HX_VFN double vexp_f64(double x) { return exp(x); }
HX_VFN double vlog_f64(double x) { return log(x); }
HX_VFN double vtanh_f64(double x) { return tanh(x); }
HX_VFN double vsigmoid_f64(double x) { return 1.0 / (1.0 + exp(-x)); }
HX_VFN double vnormcdf_f64(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
HX_VFN double vsqrt_f64(double x) { return sqrt(x); }
HX_VFN double vabs_f64(double x) { return fabs(x); }

#endif

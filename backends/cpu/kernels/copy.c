/* Copies and conversions between all element types. */
#include <math.h>
#include <string.h>
#include "backends/cpu/kernels/kernels.h"

/* Float to integer truncates; what does not fit saturates and NaN gives 0, because C leaves both undefined. The
 * upper bounds are the powers of two just above the type's range, which floats represent exactly. */
#define TO_INT(x, type, lo, above, hi)                                                                       \
    ((x) != (x) ? (type)0 : (double)(x) >= (above) ? (type)(hi) : (double)(x) <= (lo) ? (type)(lo) : (type)(x))
#define TO_I32(x) TO_INT(x, int32_t, -2147483648.0, 2147483648.0, INT32_MAX)
#define TO_I64(x) TO_INT(x, int64_t, -9223372036854775808.0, 9223372036854775808.0, INT64_MAX)
#define TO_U8(x)  TO_INT(x, uint8_t, 0.0, 255.0, 255)
#define CAST_F32(x) ((float)(x))
#define CAST_F64(x) ((double)(x))
#define CAST_I32(x) ((int32_t)(x))
#define CAST_I64(x) ((int64_t)(x))

#define CONVERT(from, FROM, to, TO, how)                                                                     \
    static void FROM##_to_##TO(int64_t n, void *const *p, const void *param) {                               \
        (void)param;                                                                                         \
        to *restrict o = p[0];                                                                               \
        const from *restrict x = p[1];                                                                       \
        for (int64_t i = 0; i < n; i++) o[i] = how(x[i]);                                                    \
    }
/* rows by source type; narrower integer types saturate too */
#define FROM_FLOAT(from, FROM)                                                                               \
    CONVERT(from, FROM, int32_t, I32, TO_I32)                                                                \
    CONVERT(from, FROM, int64_t, I64, TO_I64)                                                                \
    CONVERT(from, FROM, uint8_t, U8, TO_U8)
FROM_FLOAT(float, F32)
FROM_FLOAT(double, F64)
CONVERT(float, F32, double, F64, CAST_F64)
CONVERT(double, F64, float, F32, CAST_F32)
#define FROM_INT(from, FROM)                                                                                 \
    CONVERT(from, FROM, float, F32, CAST_F32)                                                                \
    CONVERT(from, FROM, double, F64, CAST_F64)
FROM_INT(int32_t, I32)
FROM_INT(int64_t, I64)
FROM_INT(uint8_t, U8)
CONVERT(int32_t, I32, int64_t, I64, CAST_I64)
CONVERT(int32_t, I32, uint8_t, U8, TO_U8)
CONVERT(int64_t, I64, int32_t, I32, TO_I32)
CONVERT(int64_t, I64, uint8_t, U8, TO_U8)
CONVERT(uint8_t, U8, int32_t, I32, CAST_I32)
CONVERT(uint8_t, U8, int64_t, I64, CAST_I64)

static void same(int64_t n, void *const *p, const void *param) {
    const size_t *bytes = param;
    if (p[0] != p[1]) memmove(p[0], p[1], (size_t)n * *bytes);
}

static const hx_map_fn converters[HX_DTYPE_COUNT][HX_DTYPE_COUNT] = {
    [HX_F32] = {[HX_F32] = same, [HX_F64] = F32_to_F64, [HX_I32] = F32_to_I32, [HX_I64] = F32_to_I64, [HX_U8] = F32_to_U8},
    [HX_F64] = {[HX_F32] = F64_to_F32, [HX_F64] = same, [HX_I32] = F64_to_I32, [HX_I64] = F64_to_I64, [HX_U8] = F64_to_U8},
    [HX_I32] = {[HX_F32] = I32_to_F32, [HX_F64] = I32_to_F64, [HX_I32] = same, [HX_I64] = I32_to_I64, [HX_U8] = I32_to_U8},
    [HX_I64] = {[HX_F32] = I64_to_F32, [HX_F64] = I64_to_F64, [HX_I32] = I64_to_I32, [HX_I64] = same, [HX_U8] = I64_to_U8},
    [HX_U8] = {[HX_F32] = U8_to_F32, [HX_F64] = U8_to_F64, [HX_I32] = U8_to_I32, [HX_I64] = U8_to_I64, [HX_U8] = same},
};

hx_status HX_K(copy)(hx_cpu *cpu, const hx_op_call *call) {
    const hx_array arrays[2] = {call->out[0], call->in[0]};
    if ((unsigned)arrays[0].dtype >= HX_DTYPE_COUNT || (unsigned)arrays[1].dtype >= HX_DTYPE_COUNT)
        return HX_FAIL(HX_ERR_DTYPE, "copy from dtype %d to %d: unknown", (int)arrays[1].dtype, (int)arrays[0].dtype);
    size_t bytes = hx_dtype_bytes(arrays[0].dtype);
    return HX_K(map)(cpu, 2, arrays, converters[arrays[1].dtype][arrays[0].dtype], &bytes, 1);
}

/* Copies and conversions between all element types: loops of their own for the common pairs, for the others one loop
 * over the element functions of core/tensor/dtype.h, which define what a conversion is. */
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "core/tensor/half.h"

/* Float to integer truncates; what does not fit saturates and NaN gives 0, because C leaves both undefined. The
 * upper bounds are the powers of two just above the type's range, which floats represent exactly. */
#define TO_INT(x, type, lo, above, hi)                                                                       \
    ((x) != (x) ? (type)0 : (double)(x) >= (above) ? (type)(hi) : (double)(x) <= (lo) ? (type)(lo) : (type)(x))
#define TO_I32(x) TO_INT(x, int32_t, -2147483648.0, 2147483648.0, INT32_MAX)
#define TO_I64(x) TO_INT(x, int64_t, -9223372036854775808.0, 9223372036854775808.0, INT64_MAX)
#define TO_U8(x)  TO_INT(x, uint8_t, 0.0, 255.0, 255)
#define TO_I8(x)  TO_INT(x, int8_t, -128.0, 127.0, 127)
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
    CONVERT(from, FROM, uint8_t, U8, TO_U8)                                                                  \
    CONVERT(from, FROM, int8_t, I8, TO_I8)
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
FROM_INT(int8_t, I8)
#define IS_SET(x)   ((x) != 0)
#define BOOL_F32(x) ((float)((x) != 0))
CONVERT(uint8_t, BOOL, float, F32, BOOL_F32)
CONVERT(float, F32, uint8_t, BOOL, IS_SET)
CONVERT(uint16_t, BF16, float, F32, hx__bf16_value)
CONVERT(uint16_t, F16, float, F32, hx__f16_value)
CONVERT(uint16_t, BF16, double, F64, hx__bf16_value)
CONVERT(uint16_t, F16, double, F64, hx__f16_value)
CONVERT(float, F32, uint16_t, BF16, hx__bf16_bits)
CONVERT(float, F32, uint16_t, F16, hx__f16_bits)
CONVERT(double, F64, hx_bf16, BF16, hx_bf16_from_double)
CONVERT(double, F64, hx_f16, F16, hx_f16_from_double)

typedef struct copy_param {
    hx_dtype to, from;
} copy_param;

static void same(int64_t n, void *const *p, const void *param) {
    const copy_param *c = param;
    if (p[0] != p[1]) memmove(p[0], p[1], (size_t)n * hx_dtype_bytes(c->to));
}

/* Integers do not go by way of float64, which has no room for 64 bits. */
static void any_pair(int64_t n, void *const *p, const void *param) {
    const copy_param *c = param;
    bool is_exact = !hx_dtype_is_float(c->from) && !hx_dtype_is_complex(c->from);
    for (int64_t i = 0; i < n; i++) {
        double part[2];
        if (is_exact) {
            hx_elem_set_int(c->to, p[0], i, hx_elem_get_int(c->from, p[1], i));
            continue;
        }
        hx_elem_get_complex(c->from, p[1], i, part);
        hx_elem_set_complex(c->to, p[0], i, part);
    }
}

/* NULL: any_pair */
static const hx_map_fn converters[HX_DTYPE_COUNT][HX_DTYPE_COUNT] = {
    [HX_F32] = {[HX_F64] = F32_to_F64, [HX_I32] = F32_to_I32, [HX_I64] = F32_to_I64, [HX_U8] = F32_to_U8, [HX_I8] = F32_to_I8,
                [HX_BF16] = F32_to_BF16, [HX_F16] = F32_to_F16, [HX_BOOL] = F32_to_BOOL},
    [HX_F64] = {[HX_F32] = F64_to_F32, [HX_I32] = F64_to_I32, [HX_I64] = F64_to_I64, [HX_U8] = F64_to_U8, [HX_I8] = F64_to_I8,
                [HX_BF16] = F64_to_BF16, [HX_F16] = F64_to_F16},
    [HX_I32] = {[HX_F32] = I32_to_F32, [HX_F64] = I32_to_F64, [HX_I64] = I32_to_I64, [HX_U8] = I32_to_U8},
    [HX_I64] = {[HX_F32] = I64_to_F32, [HX_F64] = I64_to_F64, [HX_I32] = I64_to_I32, [HX_U8] = I64_to_U8},
    [HX_U8] = {[HX_F32] = U8_to_F32, [HX_F64] = U8_to_F64, [HX_I32] = U8_to_I32, [HX_I64] = U8_to_I64},
    [HX_I8] = {[HX_F32] = I8_to_F32, [HX_F64] = I8_to_F64},
    [HX_BF16] = {[HX_F32] = BF16_to_F32, [HX_F64] = BF16_to_F64},
    [HX_F16] = {[HX_F32] = F16_to_F32, [HX_F64] = F16_to_F64},
    [HX_BOOL] = {[HX_F32] = BOOL_to_F32},
};

hx_status HX_K(copy)(hx_cpu *cpu, const hx_op_call *call) {
    const hx_array arrays[2] = {call->out[0], call->in[0]};
    copy_param param = {arrays[0].dtype, arrays[1].dtype};
    if ((unsigned)param.to >= HX_DTYPE_COUNT || (unsigned)param.from >= HX_DTYPE_COUNT)
        return HX_FAIL(HX_ERR_DTYPE, "copy from dtype %d to %d: unknown", (int)param.from, (int)param.to);
    hx_map_fn fn = param.to == param.from ? same : converters[param.from][param.to];
    return HX_K(map_stored)(cpu, 2, arrays, fn ? fn : any_pair, &param, fn ? 1 : 8);
}

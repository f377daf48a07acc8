#include "core/tensor/half.h"

#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t n_bytes;
    hx_dtype_class class;
    hx_dtype accum;
} table[HX_DTYPE_COUNT] = {
#define HX_DTYPE_ROW(name, text, type, class, accum) [HX_##name] = {text, sizeof(type), HX_CLASS_##class, HX_##accum},
    HX_DTYPE_LIST(HX_DTYPE_ROW)
#undef HX_DTYPE_ROW
};

static bool is_dtype(hx_dtype dtype) {
    return (unsigned)dtype < HX_DTYPE_COUNT;
}

static bool is_class(hx_dtype dtype, hx_dtype_class class) {
    return is_dtype(dtype) && table[dtype].class == class;
}

size_t hx_dtype_bytes(hx_dtype dtype) {
    return is_dtype(dtype) ? table[dtype].n_bytes : 0;
}

const char *hx_dtype_name(hx_dtype dtype) {
    return is_dtype(dtype) ? table[dtype].name : "?";
}

bool hx_dtype_is_float(hx_dtype dtype) {
    return is_class(dtype, HX_CLASS_FLOAT);
}

bool hx_dtype_is_complex(hx_dtype dtype) {
    return is_class(dtype, HX_CLASS_COMPLEX);
}

bool hx_dtype_is_int(hx_dtype dtype) {
    return is_class(dtype, HX_CLASS_INT);
}

hx_dtype hx_dtype_accum(hx_dtype dtype) {
    return is_dtype(dtype) ? table[dtype].accum : dtype;
}

hx_dtype hx_dtype_real(hx_dtype dtype) {
    return dtype == HX_C64 ? HX_F32 : dtype == HX_C128 ? HX_F64 : dtype;
}

hx_dtype hx_dtype_complex(hx_dtype dtype) {
    return dtype == HX_F32 ? HX_C64 : dtype == HX_F64 ? HX_C128 : dtype;
}

hx_status hx_dtype_parse(const char *name, hx_dtype *out) {
    char names[128] = "";
    for (int i = 0; i < HX_DTYPE_COUNT; i++) {
        if (strcmp(name, table[i].name) == 0) {
            *out = (hx_dtype)i;
            return HX_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", table[i].name);
    }
    return HX_FAIL(HX_ERR_DTYPE, "\"%.40s\": expected one of %s", name, names);
}

/* ---- half types ---- */

hx_bf16 hx_bf16_from_float(float x) {
    return (hx_bf16){hx__bf16_bits(x)};
}

float hx_bf16_to_float(hx_bf16 x) {
    return hx__bf16_value(x.bits);
}

hx_f16 hx_f16_from_float(float x) {
    return (hx_f16){hx__f16_bits(x)};
}

float hx_f16_to_float(hx_f16 x) {
    return hx__f16_value(x.bits);
}

/* To float such that a second rounding to fewer bits gives what one rounding would: towards zero, and the last bit
 * set if anything was lost ("round to odd"). */
static float to_odd(double x) {
    float f = (float)x;
    if ((double)f == x || isnan(x) || isinf(x)) return f;
    uint32_t u = hx__float_bits(f);
    if (fabs((double)f) > fabs(x)) u--;
    return hx__bits_float(u | 1);
}

hx_bf16 hx_bf16_from_double(double x) {
    return hx_bf16_from_float(to_odd(x));
}

hx_f16 hx_f16_from_double(double x) {
    return hx_f16_from_float(to_odd(x));
}

/* ---- single elements ---- */

double hx_elem_get(hx_dtype dtype, const void *data, int64_t i) {
    switch (dtype) {
    case HX_F32: return (double)((const float *)data)[i];
    case HX_F64: return ((const double *)data)[i];
    case HX_BF16: return (double)hx_bf16_to_float(((const hx_bf16 *)data)[i]);
    case HX_F16: return (double)hx_f16_to_float(((const hx_f16 *)data)[i]);
    case HX_I32:
    case HX_I64:
    case HX_U8:
    case HX_I8:
    case HX_BOOL: return (double)hx_elem_get_int(dtype, data, i);
    case HX_C64: return (double)((const float *)data)[2 * i];
    case HX_C128: return ((const double *)data)[2 * i];
    case HX_DTYPE_COUNT: break;
    }
    return NAN;
}

/* A plain cast of a value outside the integer's range is undefined. 2^63 is the least double above INT64_MAX. */
static int64_t saturate(double value) {
    if (isnan(value)) return 0;
    if (value >= 0x1p63) return INT64_MAX;
    if (value < -0x1p63) return INT64_MIN;
    return (int64_t)value;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

int64_t hx_elem_get_int(hx_dtype dtype, const void *data, int64_t i) {
    switch (dtype) {
    case HX_I32: return ((const int32_t *)data)[i];
    case HX_I64: return ((const int64_t *)data)[i];
    case HX_U8: return ((const uint8_t *)data)[i];
    case HX_I8: return ((const int8_t *)data)[i];
    case HX_BOOL: return ((const uint8_t *)data)[i] != 0;
    default: return saturate(hx_elem_get(dtype, data, i));
    }
}

void hx_elem_set_int(hx_dtype dtype, void *data, int64_t i, int64_t value) {
    switch (dtype) {
    case HX_I32: ((int32_t *)data)[i] = (int32_t)clamp(value, INT32_MIN, INT32_MAX); break;
    case HX_I64: ((int64_t *)data)[i] = value; break;
    case HX_U8: ((uint8_t *)data)[i] = (uint8_t)clamp(value, 0, UINT8_MAX); break;
    case HX_I8: ((int8_t *)data)[i] = (int8_t)clamp(value, INT8_MIN, INT8_MAX); break;
    case HX_BOOL: ((uint8_t *)data)[i] = value != 0; break;
    case HX_F32: ((float *)data)[i] = (float)value; break; /* rounded once, not by way of double */
    default: hx_elem_set(dtype, data, i, (double)value); break;
    }
}

void hx_elem_set(hx_dtype dtype, void *data, int64_t i, double value) {
    hx_elem_set_complex(dtype, data, i, (double[2]){value, 0});
}

void hx_elem_get_complex(hx_dtype dtype, const void *data, int64_t i, double part[2]) {
    part[0] = hx_elem_get(dtype, data, i);
    part[1] = dtype == HX_C64    ? (double)((const float *)data)[2 * i + 1]
              : dtype == HX_C128 ? ((const double *)data)[2 * i + 1]
                                 : 0;
}

void hx_elem_set_complex(hx_dtype dtype, void *data, int64_t i, const double part[2]) {
    switch (dtype) {
    case HX_F32: ((float *)data)[i] = (float)part[0]; break;
    case HX_F64: ((double *)data)[i] = part[0]; break;
    case HX_BF16: ((hx_bf16 *)data)[i] = hx_bf16_from_double(part[0]); break;
    case HX_F16: ((hx_f16 *)data)[i] = hx_f16_from_double(part[0]); break;
    case HX_C64:
        ((float *)data)[2 * i] = (float)part[0];
        ((float *)data)[2 * i + 1] = (float)part[1];
        break;
    case HX_C128:
        ((double *)data)[2 * i] = part[0];
        ((double *)data)[2 * i + 1] = part[1];
        break;
    case HX_BOOL: ((uint8_t *)data)[i] = part[0] != 0 || part[1] != 0; break;
    case HX_I32:
    case HX_I64:
    case HX_U8:
    case HX_I8: hx_elem_set_int(dtype, data, i, saturate(part[0])); break;
    case HX_DTYPE_COUNT: break;
    }
}

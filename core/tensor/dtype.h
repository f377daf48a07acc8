/* Element types. One list; a row added here is known to every table in the tree.
 *
 * Arithmetic is for the floating types; half types (bf16, f16) are stored rounded to nearest even and computed in
 * f32. Complex types have the FFT family, + - x and what moves data; integers and bool have casts, copies,
 * comparisons and their use as indices and masks.
 */
#ifndef HX_CORE_TENSOR_DTYPE_H
#define HX_CORE_TENSOR_DTYPE_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 16-bit floats: IEEE binary16, and the upper half of binary32. Converted by the functions below. */
typedef struct hx_f16 {
    uint16_t bits;
} hx_f16;
typedef struct hx_bf16 {
    uint16_t bits;
} hx_bf16;

typedef enum hx_dtype_class { HX_CLASS_FLOAT, HX_CLASS_INT, HX_CLASS_BOOL, HX_CLASS_COMPLEX } hx_dtype_class;

/* name, text, C type, class, dtype of sums and statistics */
#define HX_DTYPE_LIST(X)                                                                                     \
    X(F32, "f32", float, FLOAT, F32)                                                                         \
    X(F64, "f64", double, FLOAT, F64)                                                                        \
    X(I32, "i32", int32_t, INT, I32)                                                                         \
    X(I64, "i64", int64_t, INT, I64)                                                                         \
    X(U8, "u8", uint8_t, INT, U8)                                                                            \
    X(BF16, "bf16", hx_bf16, FLOAT, F32)                                                                     \
    X(F16, "f16", hx_f16, FLOAT, F32)                                                                        \
    X(I8, "i8", int8_t, INT, I8)                                                                             \
    X(BOOL, "bool", uint8_t, BOOL, BOOL)                                                                     \
    X(C64, "c64", float _Complex, COMPLEX, C64)                                                              \
    X(C128, "c128", double _Complex, COMPLEX, C128)

typedef enum hx_dtype {
#define HX_DTYPE_ENUM_(name, text, type, class, accum) HX_##name,
    HX_DTYPE_LIST(HX_DTYPE_ENUM_)
#undef HX_DTYPE_ENUM_
        HX_DTYPE_COUNT
} hx_dtype;

/** Bytes of an element; 0 for a value that is no dtype. */
size_t hx_dtype_bytes(hx_dtype dtype);
/** "f32", "i64", ...; "?" for a value that is no dtype. */
const char *hx_dtype_name(hx_dtype dtype);
/** f64, f32, bf16, f16. */
bool hx_dtype_is_float(hx_dtype dtype);
bool hx_dtype_is_complex(hx_dtype dtype);
/** i8, u8, i32, i64. */
bool hx_dtype_is_int(hx_dtype dtype);
/** bf16, f16. */
static inline bool hx_dtype_is_half(hx_dtype dtype) {
    return dtype == HX_BF16 || dtype == HX_F16;
}
/** In what sums, statistics and gradients of parameters are kept: f32 for half types, else the dtype itself. */
hx_dtype hx_dtype_accum(hx_dtype dtype);
/** The dtype of a complex type's parts (c64: f32, c128: f64); any other dtype itself. */
hx_dtype hx_dtype_real(hx_dtype dtype);
/** c64 of f32, c128 of f64; any other dtype itself. */
hx_dtype hx_dtype_complex(hx_dtype dtype);
/** Inverse of hx_dtype_name. @return HX_ERR_DTYPE lists the names */
hx_status hx_dtype_parse(const char *name, hx_dtype *out);

/* ---- half types: round to nearest even; overflow gives infinity; NaN stays NaN ---- */
hx_bf16 hx_bf16_from_float(float x);
hx_f16 hx_f16_from_float(float x);
float hx_bf16_to_float(hx_bf16 x);
float hx_f16_to_float(hx_f16 x);
/** Rounded once, not by way of f32. */
hx_bf16 hx_bf16_from_double(double x);
hx_f16 hx_f16_from_double(double x);

/* ---- single elements of host arrays, any dtype; `i` counts elements ---- */

/** Element as double; the real part of a complex one. */
double hx_elem_get(hx_dtype dtype, const void *data, int64_t i);
/** Store: integers truncate and saturate, NaN gives 0; bool is x != 0; a complex element gets imaginary part 0. */
void hx_elem_set(hx_dtype dtype, void *data, int64_t i, double value);
/** The same without passing through double, for integers beyond 2^53; a floating element truncates and saturates. */
int64_t hx_elem_get_int(hx_dtype dtype, const void *data, int64_t i);
void hx_elem_set_int(hx_dtype dtype, void *data, int64_t i, int64_t value);
/** Both parts: part[0] + i part[1]; the imaginary part of a real element is 0 and is dropped on storing. */
void hx_elem_get_complex(hx_dtype dtype, const void *data, int64_t i, double part[2]);
void hx_elem_set_complex(hx_dtype dtype, void *data, int64_t i, const double part[2]);

#ifdef __cplusplus
}
#endif
#endif

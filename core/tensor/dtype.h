/* Element types. One list; a row added here is known to every table in the tree. */
#ifndef HX_CORE_TENSOR_DTYPE_H
#define HX_CORE_TENSOR_DTYPE_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, text, C type, 1 = floating point */
#define HX_DTYPE_LIST(X)                                                                                     \
    X(F32, "f32", float, 1)                                                                                  \
    X(F64, "f64", double, 1)                                                                                 \
    X(I32, "i32", int32_t, 0)                                                                                \
    X(I64, "i64", int64_t, 0)                                                                                \
    X(U8, "u8", uint8_t, 0)

typedef enum hx_dtype {
#define HX_DTYPE_ENUM_(name, text, type, is_float) HX_##name,
    HX_DTYPE_LIST(HX_DTYPE_ENUM_)
#undef HX_DTYPE_ENUM_
        HX_DTYPE_COUNT
} hx_dtype;

/** Bytes of an element; 0 for a value that is no dtype. */
size_t hx_dtype_bytes(hx_dtype dtype);
/** "f32", "i64", ...; "?" for a value that is no dtype. */
const char *hx_dtype_name(hx_dtype dtype);
bool hx_dtype_is_float(hx_dtype dtype);
/** Inverse of hx_dtype_name. @return HX_ERR_DTYPE */
hx_status hx_dtype_parse(const char *name, hx_dtype *out);

#ifdef __cplusplus
}
#endif
#endif

#include "core/tensor/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    size_t n_bytes;
    bool is_float;
} table[HX_DTYPE_COUNT] = {
#define HX_DTYPE_ROW(name, text, type, is_float) [HX_##name] = {text, sizeof(type), is_float},
    HX_DTYPE_LIST(HX_DTYPE_ROW)
#undef HX_DTYPE_ROW
};

static bool is_dtype(hx_dtype dtype) {
    return (unsigned)dtype < HX_DTYPE_COUNT;
}

size_t hx_dtype_bytes(hx_dtype dtype) {
    return is_dtype(dtype) ? table[dtype].n_bytes : 0;
}

const char *hx_dtype_name(hx_dtype dtype) {
    return is_dtype(dtype) ? table[dtype].name : "?";
}

bool hx_dtype_is_float(hx_dtype dtype) {
    return is_dtype(dtype) && table[dtype].is_float;
}

hx_status hx_dtype_parse(const char *name, hx_dtype *out) {
    for (int i = 0; i < HX_DTYPE_COUNT; i++)
        if (strcmp(name, table[i].name) == 0) {
            *out = (hx_dtype)i;
            return HX_OK;
        }
    return HX_FAIL(HX_ERR_DTYPE, "\"%.40s\": expected f32, f64, i32, i64 or u8", name);
}

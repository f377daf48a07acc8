/* Ids are i32 or i64 and dense here. */
#ifndef HX_BACKENDS_CPU_IDS_H
#define HX_BACKENDS_CPU_IDS_H

#include "core/tensor/shape.h"

static inline int64_t id_at(const hx_array *ids, int64_t i) {
    return ids->dtype == HX_I32 ? (int64_t)((const int32_t *)ids->data)[i] : ((const int64_t *)ids->data)[i];
}

#endif

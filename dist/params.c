#include "dist/params.h"

#include <stdio.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "dist/comm/comm_impl.h"

static int64_t hash_param(const hx_param *param) {
    hx_shape shape = hx_tensor_shape(param->value);
    const int kind[3] = {(int)hx_tensor_dtype(param->value), shape.ndim, param->is_frozen};
    uint64_t hash = hx_hash_text(HX_HASH_START, param->path);
    hash = hx_hash_bytes(hash, kind, sizeof kind);
    hash = hx_hash_bytes(hash, shape.dims, (size_t)shape.ndim * sizeof shape.dims[0]);
    return (int64_t)hash;
}

static hx_status differs(const hx_param *param) {
    char text[HX_SHAPE_TEXT];
    hx_shape shape = hx_tensor_shape(param->value);
    return HX_FAIL(HX_ERR_CONFIG, "parameter %s, %s %s%s here, differs between ranks in name, shape, dtype or in being frozen",
                   param->path, hx_dtype_name(hx_tensor_dtype(param->value)), hx_shape_text(&shape, text),
                   param->is_frozen ? " frozen" : "");
}

/* One MAX over {h, ~h} of every parameter's hash finds the first that is not the same everywhere. @param range  [2*n_items], scratch */
static hx_status compare(hx_comm *comm, const hx_param_list *params, int64_t *range) {
    for (int64_t i = 0; i < params->n_items; i++) {
        range[2 * i] = hash_param(params->items[i]);
        range[2 * i + 1] = ~range[2 * i];
    }
    HX_TRY(hx_comm_all_reduce(comm, range, 2 * params->n_items, HX_I64, HX_MAX, NULL, NULL));
    for (int64_t i = 0; i < params->n_items; i++)
        if (range[2 * i] != ~range[2 * i + 1]) return differs(params->items[i]);
    return HX_OK;
}

hx_status hx_params_same(hx_comm *comm, const hx_param_list *params) {
    int64_t *range = NULL;
    HX_TRY(hx_comm_agree_equal(comm, "the number of parameters", params->n_items));
    hx_status status = hx_comm_agree(comm, hx_mem_alloc_array(params->n_items, 2 * sizeof *range, (void **)&range));
    if (status == HX_OK) status = compare(comm, params, range);
    hx_mem_free((void **)&range);
    return status;
}

/* Frozen parameters too: a rank that differs only there would compute something else. */
hx_status hx_params_broadcast(hx_comm *comm, hx_stream *stream, const hx_param_list *params, bool whole_only) {
    hx__outcome first = {.status = HX_OK};
    for (int64_t i = 0; i < params->n_items; i++) {
        hx_tensor *value = params->items[i]->value;
        if (whole_only && params->items[i]->is_split) continue;
        hx__outcome_note(&first, hx_comm_broadcast(comm, hx_tensor_data(value), hx_tensor_count(value), hx_tensor_dtype(value), 0, stream, NULL));
    }
    return hx_error_adopt(first.status, first.message);
}

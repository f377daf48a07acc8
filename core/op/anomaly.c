/* Anomaly mode: outputs are read back after each op and looked through. Slow on purpose: it is switched on to find where
 * the first number that is not finite comes from. */
#include <math.h>

#include "core/base/mem.h"
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

static int64_t scan(hx_dtype dtype, const void *data, int64_t n, double *value) {
    for (int64_t i = 0; i < n; i++) {
        *value = hx_elem_get(dtype, data, i);
        if (!isfinite(*value)) return i;
    }
    return -1;
}

hx_status hx__find_non_finite(hx_ctx *ctx, hx_tensor *t, int64_t *at, double *value) {
    const hx_dtype dtype = t->array.dtype;
    const int per_element = hx_dtype_is_complex(dtype) ? 2 : 1; /* parts */
    hx_device_props props;
    void *data;
    *at = -1;
    hx_device_props_get(ctx->device, &props);
    if (props.is_dry || (!hx_dtype_is_float(dtype) && !hx_dtype_is_complex(dtype))) return HX_OK;
    HX_TRY(hx_mem_alloc(hx_tensor_bytes(t), &data));
    hx_status status = hx_tensor_read(ctx->stream, t, data);
    if (status == HX_OK) *at = scan(hx_dtype_real(dtype), data, per_element * hx_tensor_count(t), value);
    if (*at > 0) *at /= per_element;
    hx_mem_free(&data);
    return status;
}

/* An operand that the op has overwritten, or added to, says nothing about what it held before. */
static bool is_overwritten(const hx_tensor *x, hx_tensor *const *out, int n_out) {
    for (int i = 0; i < n_out; i++)
        if (out[i] != NULL && out[i]->storage == x->storage) return true;
    return false;
}

static hx_status blame(hx_ctx *ctx, const hx_op_info *info, hx_tensor *const *in, int n_in, hx_tensor *const *out, int k, int64_t at, double value) {
    const char *where = ctx->where && ctx->where[0] ? ctx->where : NULL;
    for (int i = 0; i < n_in; i++) {
        int64_t bad = -1;
        double found = 0;
        if (in[i] == NULL || is_overwritten(in[i], out, info->n_out)) continue;
        HX_TRY(hx__find_non_finite(ctx, in[i], &bad, &found));
        if (bad >= 0)
            return HX_FAIL(HX_ERR_NUMERIC, "%s%s%s: input %d was not finite already: element %lld is %g (output %d, element %lld: %g)", info->name,
                           where ? " in " : "", where ? where : "", i, (long long)bad, found, k, (long long)at, value);
    }
    return HX_FAIL(HX_ERR_NUMERIC, "%s%s%s: output %d is not finite: element %lld is %g, from finite inputs", info->name, where ? " in " : "",
                   where ? where : "", k, (long long)at, value);
}

hx_status hx__check_finite(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, hx_tensor *const *out) {
    const hx_op_info *info = hx_op_info_get(op);
    for (int k = 0; k < info->n_out; k++) {
        int64_t at;
        double value = 0;
        /* the logsumexp of a query that may see no key is -inf, and right */
        if (out[k] == NULL || (op == HX_OP_attention && k == 1)) continue;
        HX_TRY(hx__find_non_finite(ctx, out[k], &at, &value));
        if (at >= 0) return blame(ctx, info, in, n_in, out, k, at, value);
    }
    return HX_OK;
}

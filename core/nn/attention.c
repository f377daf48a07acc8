#include "core/base/mem.h"
#include "core/nn/nn_impl.h"

/* One product yields q, k and v: rows of the fused weight are the H heads of q, then the G of k, then the G
 * of v. Checkpoints and initialisation see the three as tensors of their own. */
typedef struct attention {
    hx_layer base;
    hx_param *weight, *bias; /* bias NULL: none */
    hx_layer *proj;
    int64_t n_heads, n_kv_heads, head_dim; /* of this rank */
    const hx_shard *shard;                 /* NULL: whole */
    double rope_base; /* 0: no rotary positions */
    hx_tensor *mask;  /* owned; NULL: none */
    bool is_causal;
} attention;

static hx_status attend(const attention *a, hx_ctx *ctx, hx_tensor *q, hx_tensor *k, hx_tensor *v,
                        hx_tensor **mixed) {
    HX_AUTO_TENSOR turned_q = NULL; /* [B,T,H,D] */
    HX_AUTO_TENSOR turned_k = NULL; /* [B,T,G,D] */
    if (a->rope_base == 0) return hx_attention_op(ctx, q, k, v, a->mask, a->is_causal, 0, mixed);
    HX_TRY(hx_rope(ctx, q, a->rope_base, 0, &turned_q));
    HX_TRY(hx_rope(ctx, k, a->rope_base, 0, &turned_k));
    return hx_attention_op(ctx, turned_q, turned_k, v, a->mask, a->is_causal, 0, mixed);
}

static hx_status attention_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const attention *a = (const attention *)layer;
    hx_tensor *parts[3];
    HX_AUTO_TENSOR fused = NULL;  /* [B,T,(H+2G)*D] */
    HX_AUTO_TENSOR heads = NULL;  /* [B,T,H+2G,D] */
    HX_AUTO_TENSOR mixed = NULL;  /* [B,T,H,D] */
    HX_AUTO_TENSOR joined = NULL; /* [B,T,H*D] */
    const int64_t sizes[3] = {a->n_heads, a->n_kv_heads, a->n_kv_heads}, H = a->n_heads, D = a->head_dim, dim = hx_tensor_dim(a->weight->value, 1);
    if (hx_tensor_ndim(x) != 3 || hx_tensor_dim(x, 2) != dim) {
        char text[HX_SHAPE_TEXT];
        hx_shape shape = hx_tensor_shape(x);
        return HX_FAIL(HX_ERR_SHAPE, "x %s: expected [B,T,%lld]", hx_shape_text(&shape, text),
                       (long long)dim);
    }
    HX_TRY(hx__linear_columns(a->shard, ctx, x, a->weight->value, a->bias ? a->bias->value : NULL, &fused));
    const int64_t B = hx_tensor_dim(fused, 0), T = hx_tensor_dim(fused, 1); /* x may be a part of the sequence */
    HX_TRY(hx_reshape(ctx, fused, HX_SHAPE(B, T, H + 2 * a->n_kv_heads, D), &heads));
    HX_TRY(hx_split(ctx, heads, 2, sizes, 3, parts));
    HX_AUTO_TENSOR q = parts[0];
    HX_AUTO_TENSOR k = parts[1];
    HX_AUTO_TENSOR v = parts[2];
    HX_TRY(attend(a, ctx, q, k, v, &mixed));
    HX_TRY(hx_reshape(ctx, mixed, HX_SHAPE(B, T, H * D), &joined));
    return hx_layer_forward(a->proj, ctx, joined, y);
}

static void attention_destroy(hx_layer *layer) { hx_tensor_destroy(&((attention *)layer)->mask); }

static const hx_layer_type attention_type = {.name = "attention",
                                             .n_bytes = sizeof(attention),
                                             .forward = attention_forward,
                                             .destroy = attention_destroy};

static hx_status create_params(attention *a, hx_dtype dtype, int64_t n_rows, int64_t dim, bool has_bias) {
    static const char *const weights[3] = {"q.weight", "k.weight", "v.weight"};
    static const char *const biases[3] = {"q.bias", "k.bias", "v.bias"};
    const int64_t D = a->head_dim, rows[3] = {a->n_heads * D, a->n_kv_heads * D, a->n_kv_heads * D};
    hx_layer *proj = NULL;
    HX_TRY(hx_layer_param(&a->base, "weight", dtype, HX_SHAPE(n_rows, dim), true, &a->weight));
    HX_TRY(hx__param_name_rows(a->weight, 3, rows, weights));
    if (has_bias) {
        HX_TRY(hx_layer_param(&a->base, "bias", dtype, HX_SHAPE(n_rows), false, &a->bias));
        HX_TRY(hx__param_name_rows(a->bias, 3, rows, biases));
    }
    HX_TRY(hx_linear_create(a->base.device, dtype, dim, dim, has_bias, &proj));
    return hx__layer_adopt(&a->base, "proj", &proj, &a->proj);
}

hx_status hx_attention_create(hx_device *device, hx_dtype dtype, int64_t dim, int64_t n_heads,
                              int64_t n_kv_heads, bool has_bias, hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    int64_t n_rows;
    HX_TRY(hx__layer_check_size("attention", "dim", dim));
    HX_TRY(hx__layer_check_size("attention", "n_heads", n_heads));
    if (n_kv_heads == 0) n_kv_heads = n_heads;
    HX_TRY(hx__layer_check_size("attention", "n_kv_heads", n_kv_heads));
    if (dim % n_heads != 0)
        return HX_FAIL(HX_ERR_CONFIG, "attention: %lld heads do not divide dim %lld", (long long)n_heads,
                       (long long)dim);
    if (n_heads % n_kv_heads != 0)
        return HX_FAIL(HX_ERR_CONFIG, "attention: %lld key-value heads do not divide %lld heads",
                       (long long)n_kv_heads, (long long)n_heads);
    HX_TRY(hx_count_mul(dim, 3, &n_rows)); /* H + 2G <= 3H: no product below overflows */
    n_rows = (n_heads + 2 * n_kv_heads) * (dim / n_heads);
    HX_TRY(hx_layer_create(&attention_type, device, &layer));
    attention *a = (attention *)layer;
    a->n_heads = n_heads;
    a->n_kv_heads = n_kv_heads;
    a->head_dim = dim / n_heads;
    a->is_causal = true;
    HX_TRY_GOTO(create_params(a, dtype, n_rows, dim, has_bias), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

hx_status hx_attention_set_rotary(hx_layer *layer, double base) {
    HX_TRY(hx__layer_check_type(layer, &attention_type));
    attention *a = (attention *)layer;
    if (!(base >= 0 && isfinite(base)))
        return HX_FAIL(HX_ERR_CONFIG, "attention: rope base = %g: expected a finite number >= 0", base);
    if (base > 0 && a->head_dim % 2 != 0)
        return HX_FAIL(
            HX_ERR_CONFIG,
            "attention: rotary positions turn pairs: %lld elements per head, expected an even number",
            (long long)a->head_dim);
    a->rope_base = base;
    return HX_OK;
}

hx_status hx_attention_set_mask(hx_layer *layer, hx_tensor *mask, bool is_causal) {
    HX_TRY(hx__layer_check_type(layer, &attention_type));
    attention *a = (attention *)layer;
    if (mask != NULL && hx_tensor_dtype(mask) != HX_BOOL)
        return HX_FAIL(HX_ERR_DTYPE, "attention: mask of %s: expected bool",
                       hx_dtype_name(hx_tensor_dtype(mask)));
    if (mask != NULL) hx_tensor_retain(mask);
    hx_tensor_destroy(&a->mask);
    a->mask = mask;
    a->is_causal = is_causal;
    return HX_OK;
}

hx_status hx_attention_set_shard(hx_layer *layer, const hx_shard *shard) {
    HX_TRY(hx__layer_check_type(layer, &attention_type));
    attention *a = (attention *)layer;
    if (a->n_heads % shard->size != 0 || a->n_kv_heads % shard->size != 0)
        return HX_FAIL(HX_ERR_CONFIG, "attention: %lld heads with %lld key-value heads on %d tensor-parallel ranks: expected multiples of %d",
                       (long long)a->n_heads, (long long)a->n_kv_heads, shard->size, shard->size);
    HX_TRY(hx_param_set_shard(a->weight, 0, shard));
    if (a->bias != NULL) HX_TRY(hx_param_set_shard(a->bias, 0, shard));
    HX_TRY(hx_linear_set_shard(a->proj, shard, HX_CUT_ROWS));
    a->n_heads /= shard->size;
    a->n_kv_heads /= shard->size;
    a->shard = shard;
    return HX_OK;
}

#include "core/nn/nn_impl.h"

/* ---- feed-forward: out(activation(in(x))) ---- */

typedef struct mlp {
    hx_layer base;
    hx_layer *in, *out;
    hx_op activation;
} mlp;

static hx_status mlp_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const mlp *m = (const mlp *)layer;
    HX_AUTO_TENSOR wide = NULL;   /* [..,hidden] */
    HX_AUTO_TENSOR active = NULL; /* [..,hidden] */
    HX_TRY(hx_layer_forward(m->in, ctx, x, &wide));
    HX_TRY(hx_unary(ctx, m->activation, wide, &active));
    return hx_layer_forward(m->out, ctx, active, y);
}

static const hx_layer_type mlp_type = {.name = "mlp", .n_bytes = sizeof(mlp), .forward = mlp_forward};

static hx_status mlp_create(hx_device *device, const hx_gpt_config *config, hx_layer **out) {
    static const hx_op activations[] = {HX_OP_gelu_tanh, HX_OP_gelu_erf, HX_OP_silu, HX_OP_relu};
    const int64_t dim = config->dim, wide = config->mlp_dim > 0 ? config->mlp_dim : dim * config->mlp_ratio;
    hx_layer *layer = NULL, *child = NULL;
    hx_status status;
    if (config->mlp == 1)
        return hx_swiglu_create(device, hx__gpt_dtype(config), dim, wide, config->bias, out);
    HX_TRY(hx_layer_create(&mlp_type, device, &layer));
    mlp *m = (mlp *)layer;
    m->activation = activations[config->activation];
    HX_TRY_GOTO(hx_linear_create(device, hx__gpt_dtype(config), dim, wide, config->bias, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "in", &child, &m->in), done);
    HX_TRY_GOTO(hx_linear_create(device, hx__gpt_dtype(config), wide, dim, config->bias, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "out", &child, &m->out), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

/* ---- block ---- */

typedef struct block {
    hx_layer base;
    hx_layer *norm1, *attn, *drop1, *norm2, *mlp, *drop2;
} block;

/* drop(inner(normed)) */
static hx_status branch(hx_ctx *ctx, hx_tensor *normed, hx_layer *inner, hx_layer *drop, hx_tensor **y) {
    HX_AUTO_TENSOR update = NULL;
    HX_TRY(hx_layer_forward(inner, ctx, normed, &update));
    return hx_layer_forward(drop, ctx, update, y);
}

/* attended = x + drop1(attn(norm1(x))), and its norm, which reads it while it is made */
static hx_status attend(const block *b, hx_ctx *ctx, hx_tensor *x, hx_tensor **normed, hx_tensor **attended) {
    HX_AUTO_TENSOR first = NULL;
    HX_AUTO_TENSOR update = NULL;
    HX_TRY(hx_layer_forward(b->norm1, ctx, x, &first));
    HX_TRY(branch(ctx, first, b->attn, b->drop1, &update));
    return hx_norm_add(b->norm2, ctx, x, update, normed, attended);
}

static hx_status block_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const block *b = (const block *)layer;
    HX_AUTO_TENSOR attended = NULL;
    HX_AUTO_TENSOR normed = NULL;
    HX_AUTO_TENSOR update = NULL;
    HX_TRY(attend(b, ctx, x, &normed, &attended));
    HX_TRY(branch(ctx, normed, b->mlp, b->drop2, &update));
    return hx_add(ctx, attended, update, y);
}

static const hx_layer_type block_type = {
    .name = "gpt_block", .n_bytes = sizeof(block), .forward = block_forward};

hx_status hx__gpt_norm_create(hx_device *device, const hx_gpt_config *config, hx_layer **out) {
    const hx_dtype dtype = hx__gpt_dtype(config);
    if (config->norm == 0) return hx_layernorm_create(device, dtype, config->dim, config->norm_eps, out);
    return hx_rmsnorm_create(device, dtype, config->dim, config->norm_eps, out);
}

hx_status hx__gpt_block_create(hx_device *device, const hx_gpt_config *config, hx_layer **out) {
    hx_layer *layer = NULL, *child = NULL;
    hx_status status;
    HX_TRY(hx_layer_create(&block_type, device, &layer));
    block *b = (block *)layer;
    HX_TRY_GOTO(hx__gpt_norm_create(device, config, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "norm1", &child, &b->norm1), done);
    HX_TRY_GOTO(hx_attention_create(device, hx__gpt_dtype(config), config->dim, config->heads,
                                    config->kv_heads, config->bias, &child),
                done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "attn", &child, &b->attn), done);
    if (config->positions == 1) HX_TRY_GOTO(hx_attention_set_rotary(b->attn, config->rope_base), done);
    HX_TRY_GOTO(hx_dropout_create(device, config->dropout, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "drop1", &child, &b->drop1), done);
    HX_TRY_GOTO(hx__gpt_norm_create(device, config, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "norm2", &child, &b->norm2), done);
    HX_TRY_GOTO(mlp_create(device, config, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "mlp", &child, &b->mlp), done);
    HX_TRY_GOTO(hx_dropout_create(device, config->dropout, &child), done);
    HX_TRY_GOTO(hx__layer_adopt(layer, "drop2", &child, &b->drop2), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

hx_status hx__gpt_block_set_shard(hx_layer *layer, const hx_shard *shard) {
    const block *b = (const block *)layer;
    hx_layer_set_partial(b->norm1, shard);
    hx_layer_set_partial(b->norm2, shard);
    HX_TRY(hx_attention_set_shard(b->attn, shard));
    if (b->mlp->type != &mlp_type) return hx_swiglu_set_shard(b->mlp, shard);
    const mlp *m = (const mlp *)b->mlp;
    HX_TRY(hx_linear_set_shard(m->in, shard, HX_CUT_COLUMNS));
    return hx_linear_set_shard(m->out, shard, HX_CUT_ROWS);
}

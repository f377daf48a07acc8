#include <string.h>
#include "core/base/mem.h"
#include "core/nn/nn_impl.h"

#define HX_OPTION_OWNER hx_gpt_config
const hx_option hx_gpt_options[] = HX_OPTIONS_TABLE(HX_GPT_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_gpt_n_options = (int)(sizeof hx_gpt_options / sizeof *hx_gpt_options);

typedef struct gpt {
    hx_layer base;
    hx_gpt_config config;
    hx_layer *tok, *pos, *drop, *blocks, *norm, *head; /* pos NULL: none learned; head NULL: tied to tok */
    const hx_shard *shard; /* NULL: whole */
} gpt;

/* The only parameter of an embedding. */
static hx_tensor *weight_of(const hx_layer *layer) { return layer->params[0]->value; }

hx_dtype hx__gpt_dtype(const hx_gpt_config *config) {
    static const hx_dtype dtypes[] = {HX_F32, HX_F64, HX_BF16, HX_F16};
    return dtypes[config->dtype];
}

/* The residual stream is dealt out by position. */
static bool is_split(const gpt *g) { return g->shard != NULL && g->shard->is_sequence; }

/* tok[ids] + pos[0..T-1], the rows broadcast over the batch; with is_sequence of the rank's positions alone. */
static hx_status embed(const gpt *g, hx_ctx *ctx, hx_tensor *ids, hx_tensor **out) {
    HX_AUTO_TENSOR tokens = NULL;    /* [B,T,dim] */
    HX_AUTO_TENSOR positions = NULL; /* [T,dim] */
    HX_AUTO_TENSOR sum = NULL;       /* [B,T,dim] */
    HX_TRY(hx_layer_forward(g->tok, ctx, ids, &tokens));
    if (g->pos == NULL) return hx_layer_forward(g->drop, ctx, tokens, out);
    const int64_t T = hx_tensor_dim(tokens, 1), first = is_split(g) ? g->shard->rank * T : 0;
    /* The whole table needs no slice, whose derivative would fill zeros around the gradient. */
    if (T == g->config.ctx)
        positions = hx_tensor_retain(weight_of(g->pos));
    else
        HX_TRY(hx_slice(ctx, weight_of(g->pos), 0, first, first + T, 1, &positions));
    HX_TRY(hx_add(ctx, tokens, positions, &sum));
    return hx_layer_forward(g->drop, ctx, sum, out);
}

static hx_status check_ids(const gpt *g, const hx_tensor *ids) {
    char text[HX_SHAPE_TEXT];
    hx_shape shape = hx_tensor_shape(ids);
    if (shape.ndim != 2 || shape.dims[1] < 1 || shape.dims[1] > g->config.ctx)
        return HX_FAIL(HX_ERR_SHAPE, "ids %s: expected [B,T] with 1 <= T <= ctx = %lld",
                       hx_shape_text(&shape, text), (long long)g->config.ctx);
    if (is_split(g) && shape.dims[1] % g->shard->size != 0)
        return HX_FAIL(HX_ERR_SHAPE, "ids %s: T is dealt out over %d tensor-parallel ranks: expected a multiple of %d",
                       hx_shape_text(&shape, text), g->shard->size, g->shard->size);
    return HX_OK;
}

static hx_status gpt_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *ids, hx_tensor **logits) {
    const gpt *g = (const gpt *)layer;
    hx_ctx own = *ctx; /* where the stream lies; what is between enter and leave draws no random numbers */
    HX_AUTO_TENSOR embedded = NULL;
    HX_AUTO_TENSOR hidden = NULL;
    HX_AUTO_TENSOR normed = NULL;
    HX_TRY(check_ids(g, ids));
    if (is_split(g)) {
        own.seq_total = hx_tensor_dim(ids, 1);
        own.seq_first = own.seq_total / g->shard->size * g->shard->rank;
    }
    HX_TRY(embed(g, &own, ids, &embedded));
    HX_TRY(hx_layer_forward(g->blocks, &own, embedded, &hidden));
    HX_TRY(hx_layer_forward(g->norm, &own, hidden, &normed));
    if (g->head != NULL) return hx_layer_forward(g->head, &own, normed, logits);
    return hx__linear_columns(g->shard, &own, normed, weight_of(g->tok), NULL, logits);
}

static const hx_layer_type gpt_type = {
    .name = "gpt", .n_bytes = sizeof(gpt), .forward = gpt_forward, .init = hx_gpt_init};

/* ---- creation ---- */

/* A configuration filled in by a program has not passed the options' ranges. */
hx_status hx_gpt_config_check(const hx_gpt_config *c) {
    for (int i = 0; i < hx_gpt_n_options; i++) {
        const hx_option *o = &hx_gpt_options[i];
        const char *field = (const char *)c + o->offset;
        double value = 0, max = o->max;
        if (o->kind == HX_OPTION_INT) value = (double)*(const int64_t *)(const void *)field;
        if (o->kind == HX_OPTION_REAL) value = *(const double *)(const void *)field;
        if (o->kind == HX_OPTION_CHOICE) {
            value = (double)*(const int *)(const void *)field;
            for (const char *p = o->choices; *p != '\0'; p++) max += *p == '|';
        }
        if (o->kind != HX_OPTION_BOOL && !(value >= o->min && value <= max))
            return HX_FAIL(HX_ERR_CONFIG, "model %s = %g: expected %g to %g", o->name, value, o->min, max);
    }
    if (c->dim % c->heads != 0)
        return HX_FAIL(HX_ERR_CONFIG, "model heads = %lld does not divide dim = %lld", (long long)c->heads,
                       (long long)c->dim);
    if (c->kv_heads > 0 && c->heads % c->kv_heads != 0)
        return HX_FAIL(HX_ERR_CONFIG, "model kv_heads = %lld does not divide heads = %lld",
                       (long long)c->kv_heads, (long long)c->heads);
    if (c->positions == 1 && c->dim / c->heads % 2 != 0)
        return HX_FAIL(HX_ERR_CONFIG, "model positions = rotary: dim / heads = %lld: expected an even number",
                       (long long)(c->dim / c->heads));
    return HX_OK;
}

static hx_status create_blocks(gpt *g, hx_device *device) {
    hx_layer **layers = NULL, *blocks = NULL;
    hx_status status = HX_OK;
    int n = 0;
    HX_TRY(hx_mem_alloc_array(g->config.layers, sizeof *layers, (void **)&layers));
    for (; n < (int)g->config.layers; n++)
        HX_TRY_GOTO(hx__gpt_block_create(device, &g->config, &layers[n]), done);
    HX_TRY_GOTO(hx_sequential_create_consume(device, layers, n, &blocks), done);
    HX_TRY_GOTO(hx_sequential_set_recompute(blocks, g->config.recompute), done);
    HX_TRY_GOTO(hx__layer_adopt(&g->base, "blocks", &blocks, &g->blocks), done);
done:
    hx_layer_destroy(&blocks);
    while (n > 0) hx_layer_destroy(&layers[--n]); /* NULL where the sequence has taken them */
    hx_mem_free((void **)&layers);
    return status;
}

static hx_status create_children(gpt *g, hx_device *device) {
    const hx_gpt_config *c = &g->config;
    const hx_dtype dtype = hx__gpt_dtype(c);
    hx_layer *child = NULL;
    HX_TRY(hx_embedding_create(device, dtype, c->vocab, c->dim, &child));
    HX_TRY(hx__layer_adopt(&g->base, "tok", &child, &g->tok));
    if (c->positions == 0) {
        HX_TRY(hx_embedding_create(device, dtype, c->ctx, c->dim, &child));
        HX_TRY(hx__layer_adopt(&g->base, "pos", &child, &g->pos));
    }
    HX_TRY(hx_dropout_create(device, c->dropout, &child));
    HX_TRY(hx__layer_adopt(&g->base, "drop", &child, &g->drop));
    HX_TRY(create_blocks(g, device));
    HX_TRY(hx__gpt_norm_create(device, c, &child));
    HX_TRY(hx__layer_adopt(&g->base, "norm", &child, &g->norm));
    if (c->tied) return HX_OK;
    HX_TRY(hx_linear_create(device, dtype, c->dim, c->vocab, false, &child));
    return hx__layer_adopt(&g->base, "head", &child, &g->head);
}

hx_status hx_gpt_create(hx_device *device, const hx_gpt_config *config, hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    HX_TRY(hx_gpt_config_check(config));
    HX_TRY(hx_layer_create(&gpt_type, device, &layer));
    gpt *g = (gpt *)layer;
    g->config = *config;
    HX_TRY_GOTO(create_children(g, device), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

/* ---- tensor parallelism ---- */

/* Before anything is cut. */
static hx_status check_cut(const hx_gpt_config *c, const hx_shard *shard) {
    const int size = shard->size;
    const struct {
        const char *name;
        int64_t value;
    } dealt[] = {{"vocab", c->vocab}, {"heads", c->heads}, {"kv_heads", c->kv_heads > 0 ? c->kv_heads : c->heads},
                 {c->mlp_dim > 0 ? "mlp_dim" : "mlp_ratio x dim", c->mlp_dim > 0 ? c->mlp_dim : c->dim * c->mlp_ratio}};
    for (size_t i = 0; i < sizeof dealt / sizeof *dealt; i++)
        if (dealt[i].value % size != 0)
            return HX_FAIL(HX_ERR_CONFIG, "model.%s = %lld on %d tensor-parallel ranks: expected a multiple of %d", dealt[i].name,
                           (long long)dealt[i].value, size, size);
    if (shard->is_sequence && c->ctx % size != 0)
        return HX_FAIL(HX_ERR_CONFIG, "mesh.sequence: model.ctx = %lld on %d tensor-parallel ranks: expected a multiple of %d", (long long)c->ctx, size, size);
    return HX_OK;
}

hx_status hx_gpt_set_shard(hx_layer *layer, const hx_shard *shard) {
    HX_TRY(hx__layer_check_type(layer, &gpt_type));
    gpt *g = (gpt *)layer;
    HX_TRY(check_cut(&g->config, shard));
    HX_TRY(hx_embedding_set_shard(g->tok, shard));
    for (int i = 0; i < g->blocks->n_children; i++) HX_TRY(hx__gpt_block_set_shard(g->blocks->children[i], shard));
    if (g->head != NULL) HX_TRY(hx_linear_set_shard(g->head, shard, HX_CUT_COLUMNS));
    if (g->pos != NULL) hx_layer_set_partial(g->pos, shard);
    hx_layer_set_partial(g->norm, shard);
    g->shard = shard;
    return HX_OK;
}

const hx_shard *hx_gpt_shard(const hx_layer *layer) {
    return layer != NULL && layer->type == &gpt_type ? ((const gpt *)layer)->shard : NULL;
}

/* ---- initialisation ---- */

/* The two products of a block (attn.proj and mlp.out) whose result is added to the residual stream: each adds
 * variance, which grows with their number unless they start smaller. */
static bool feeds_residual(const hx_param *param) {
    return strcmp(param->layer->name, "proj") == 0 || strcmp(param->layer->name, "out") == 0;
}

hx_status hx_gpt_init(hx_layer *layer, hx_stream *stream, uint64_t seed) {
    const double deviation = 0.02;
    hx_param_list params = {0};
    hx_status status = HX_OK;
    HX_TRY(hx__layer_check_type(layer, &gpt_type));
    const double residual = deviation / sqrt(2.0 * (double)((const gpt *)layer)->config.layers);
    HX_TRY(hx_layer_params(layer, &params));
    for (int64_t i = 0; i < params.n_items; i++) {
        hx_param *p = params.items[i];
        /* decays marks matrices; of the vectors those named weight are gains of norms */
        hx_init_kind kind = p->decays                        ? HX_INIT_NORMAL
                            : strcmp(p->name, "weight") == 0 ? HX_INIT_ONES
                                                             : HX_INIT_ZEROS;
        HX_TRY_GOTO(hx_param_init(p, stream, seed, kind, feeds_residual(p) ? residual : deviation), done);
    }
done:
    hx_param_list_destroy(&params);
    return status;
}

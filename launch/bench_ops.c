/* helix bench cpu: single ops. tests/bench/torch_peer.py has the same by the same names. */
#include "core/base/mem.h"
#include "core/nn/layers.h"
#include "core/optim/optim.h"
#include "launch/bench_impl.h"

#define MOST_IN 3

/* What of an op a call does. */
typedef enum part { FORWARD, BACKWARD, BOTH } part;

/* A function of up to three f32 tensors, of which those of `grads` are differentiated. */
typedef struct op_row {
    hx_status (*run)(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out);
    part part;
    hx_shape in[MOST_IN]; /* ndim 0: there is none */
    unsigned grads;       /* bit i: of operand i */
    int64_t n_ids;        /* the second operand holds ids below it; 0: numbers */
} op_row;

typedef struct op_state {
    hx_tensor *in[MOST_IN], *out;
    hx_tensor *seed; /* gradient of `out`; NULL: of a scalar, which is 1 */
} op_state;

/* ---- the functions ---- */

static hx_status add(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_add(ctx, in[0], in[1], out); }
static hx_status gelu(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_unary(ctx, HX_OP_gelu_tanh, in[0], out); }
static hx_status layernorm(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_layernorm_op(ctx, in[0], in[1], in[2], 1e-5, out); }
static hx_status matmul(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_matmul(ctx, in[0], in[1], out); }
static hx_status linear(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_linear_op(ctx, in[0], in[1], NULL, out); }
static hx_status fftconv(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_fftconv(ctx, in[0], in[1], NULL, out); }

static hx_status attention(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    return hx_attention_op(ctx, in[0], in[1], in[2], NULL, true, 0, out);
}

static hx_status softmax_ce(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    HX_AUTO_TENSOR count = NULL;
    return hx_cross_entropy(ctx, in[0], in[1], HX_IGNORE_INDEX, out, &count);
}

/* ---- a case of them ---- */

static hx_status make_operand(hx_ctx *ctx, const op_row *row, int i, hx_tensor **out) {
    if (i != 1 || row->n_ids == 0) {
        HX_TRY(hx_tensor_create(ctx->device, HX_F32, row->in[i], out));
        HX_TRY(hx_fill_uniform(ctx, *out, (hx_rng){.seed = 1 + (uint64_t)i, .stream = HX_RNG_USER}, 0, -1, 2));
        hx_tensor_set_requires_grad(*out, row->grads >> i & 1);
        return HX_OK;
    }
    HX_TRY(hx_tensor_create(ctx->device, HX_I32, row->in[i], out));
    int32_t *ids = hx_tensor_data(*out);
    for (int64_t k = 0; k < hx_tensor_count(*out); k++) ids[k] = (int32_t)(k * 37 % row->n_ids);
    return HX_OK;
}

/* An output shows what shape its gradient has. */
static hx_status make_seed(hx_ctx *ctx, const op_row *row, op_state *s) {
    HX_AUTO_TENSOR out = NULL;
    hx_ctx quiet = hx_no_grad(ctx);
    HX_TRY(row->run(&quiet, s->in, &out));
    if (hx_tensor_ndim(out) == 0) return HX_OK;
    HX_TRY(hx_tensor_create(ctx->device, HX_F32, hx_tensor_shape(out), &s->seed));
    return hx_fill_uniform(ctx, s->seed, (hx_rng){.seed = 9, .stream = HX_RNG_USER}, 0, -1, 2);
}

/* Operands, and the output, its gradient and those of operands, as far as the part has them. */
static double bytes_of(const op_row *row, const op_state *s) {
    const double out = s->seed != NULL ? (double)hx_tensor_bytes(s->seed) : 0;
    double n = row->part == BOTH ? 2 * out : out;
    for (int i = 0; i < MOST_IN && s->in[i] != NULL; i++)
        n += (double)hx_tensor_bytes(s->in[i]) * (row->part != FORWARD && (row->grads >> i & 1) ? 2 : 1);
    return n;
}

static hx_status open_op(hx_bench_rig *rig) {
    const op_row *row = rig->row;
    op_state *s;
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    rig->state = s;
    for (int i = 0; i < MOST_IN && row->in[i].ndim > 0; i++) HX_TRY(make_operand(&rig->ctx, row, i, &s->in[i]));
    HX_TRY(make_seed(&rig->ctx, row, s));
    rig->n_bytes = bytes_of(row, s);
    return HX_OK;
}

static hx_status forward(hx_bench_rig *rig) {
    const op_row *row = rig->row;
    op_state *s = rig->state;
    hx_ctx quiet = hx_no_grad(&rig->ctx);
    hx_tensor_destroy(&s->out);
    return row->run(row->part == FORWARD ? &quiet : &rig->ctx, s->in, &s->out);
}

static hx_status backward(hx_bench_rig *rig) {
    op_state *s = rig->state;
    for (int i = 0; i < MOST_IN && s->in[i] != NULL; i++) hx_tensor_grad_reset(s->in[i]);
    return hx_backward(&rig->ctx, s->out, s->seed);
}

static hx_status both(hx_bench_rig *rig) {
    HX_TRY(forward(rig));
    return backward(rig);
}

static void close_op(hx_bench_rig *rig) {
    op_state *s = rig->state;
    if (s == NULL) return;
    for (int i = 0; i < MOST_IN; i++) hx_tensor_destroy(&s->in[i]);
    hx_tensor_destroy(&s->out);
    hx_tensor_destroy(&s->seed);
    hx_mem_free(&rig->state);
}

/* ---- AdamW, on the parameters of GPT-2 ---- */

typedef struct adamw_state {
    hx_layer *gpt;
    hx_param_list params;
    hx_optim *optim;
    int64_t step;
} adamw_state;

static hx_status fill_params(hx_ctx *ctx, const hx_param_list *params) {
    for (int64_t i = 0; i < params->n_items; i++) {
        HX_AUTO_TENSOR grad = NULL;
        hx_tensor *value = params->items[i]->value;
        HX_TRY(hx_tensor_fill(ctx->stream, value, 0.02));
        HX_TRY(hx_tensor_create(ctx->device, HX_F32, hx_tensor_shape(value), &grad));
        HX_TRY(hx_tensor_fill(ctx->stream, grad, 1e-3));
        HX_TRY(hx_tensor_set_grad(value, grad));
    }
    return HX_OK;
}

static hx_status open_adamw(hx_bench_rig *rig) {
    hx_gpt_config gpt = HX_GPT_DEFAULT;
    const hx_optim_config config = HX_OPTIM_DEFAULT;
    adamw_state *s;
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    rig->state = s;
    gpt.vocab = 50257;
    gpt.ctx = 1024;
    gpt.layers = gpt.heads = 12;
    gpt.dim = 768;
    HX_TRY(hx_gpt_create(rig->ctx.device, &gpt, &s->gpt));
    HX_TRY(hx_layer_params(s->gpt, &s->params));
    HX_TRY(fill_params(&rig->ctx, &s->params));
    rig->n_bytes = 4.0 * (1 + 2 * 3) * (double)hx_param_list_count(&s->params); /* the gradient; value and two moments twice */
    return hx_optim_create_default(rig->ctx.device, rig->ctx.stream, &s->params, &config, &s->optim);
}

static hx_status update(hx_bench_rig *rig) {
    adamw_state *s = rig->state;
    return hx_optim_step(s->optim, &rig->ctx, ++s->step, 1e-4, NULL);
}

static void close_adamw(hx_bench_rig *rig) {
    adamw_state *s = rig->state;
    if (s == NULL) return;
    hx_optim_destroy(&s->optim);
    hx_param_list_destroy(&s->params);
    hx_layer_destroy(&s->gpt);
    hx_mem_free(&rig->state);
}

/* ---- the table ---- */

#define SHAPE(...) {(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}} /* a constant, as HX_SHAPE is not */
#define OP(name_, what_, call_, prepare_, ...)                                                                                           \
    {.name = name_, .what = what_, .row = &(const op_row){__VA_ARGS__}, .open = open_op, .prepare = prepare_, .call = call_, .close = close_op}
#define OP_FORWARD(name_, what_, ...)  OP(name_, what_, forward, NULL, .part = FORWARD, __VA_ARGS__)
#define OP_BACKWARD(name_, what_, ...) OP(name_, what_, backward, forward, .part = BACKWARD, __VA_ARGS__)
#define OP_BOTH(name_, what_, ...)     OP(name_, what_, both, NULL, .part = BOTH, __VA_ARGS__)
#define LAYERNORM                      .run = layernorm, .in = {SHAPE(8192, 768), SHAPE(768), SHAPE(768)}, .grads = 7
#define GELU                           .run = gelu, .in = {SHAPE(16 << 20)}, .grads = 1
#define ATTENTION                      .run = attention, .in = {SHAPE(4, 256, 12, 64), SHAPE(4, 256, 12, 64), SHAPE(4, 256, 12, 64)}, .grads = 7
#define SQUARE(n)                      .run = matmul, .in = {SHAPE(n, n), SHAPE(n, n)}
#define LINEAR(m, k, n)                .run = linear, .in = {SHAPE(m, k), SHAPE(n, k)}, .grads = 3 /* [m,k] [n,k]^T */

const hx_bench_case hx__bench_op_cases[] = {
    OP_BOTH("fft-conv", "causal convolution by Fourier transforms, 8 x 256 x 4096, forward and backward", .run = fftconv,
            .in = {SHAPE(8, 256, 4096), SHAPE(256, 4096)}, .grads = 3),
    OP_FORWARD("layernorm-fwd", "8192 x 768", LAYERNORM),
    OP_BACKWARD("layernorm-bwd", "8192 x 768", LAYERNORM),
    OP_FORWARD("attention-fwd", "GPT-2's, causal: 4 x 256 tokens, 12 heads of 64", ATTENTION),
    OP_BACKWARD("attention-bwd", "GPT-2's, causal: 4 x 256 tokens, 12 heads of 64", ATTENTION),
    OP_BOTH("softmax-ce", "softmax and cross-entropy of 1024 x 50304, forward and backward", .run = softmax_ce,
            .in = {SHAPE(1024, 50304), SHAPE(1024)}, .grads = 1, .n_ids = 50304),
    OP_FORWARD("gelu-fwd", "tanh form, 16 Mi elements", GELU),
    OP_BACKWARD("gelu-bwd", "tanh form, 16 Mi elements", GELU),
    {.name = "adamw", .what = "AdamW of GPT-2's 124 million parameters", .open = open_adamw, .call = update, .close = close_adamw},
    OP_BOTH("add", "one element, forward and backward", .run = add, .in = {SHAPE(1), SHAPE(1)}, .grads = 3),
    OP_FORWARD("gemm-1024", "1024 x 1024 x 1024", SQUARE(1024)),
    OP_FORWARD("gemm-2048", "2048 x 2048 x 2048", SQUARE(2048)),
    OP_FORWARD("gemm-qkv", "GPT-2, 1024 tokens: 768 to 2304", LINEAR(1024, 768, 2304)),
    OP_FORWARD("gemm-proj", "768 to 768", LINEAR(1024, 768, 768)),
    OP_FORWARD("gemm-up-fwd", "768 to 3072", LINEAR(1024, 768, 3072)),
    OP_BACKWARD("gemm-up-bwd", "the two products of its backward", LINEAR(1024, 768, 3072)),
    OP_FORWARD("gemm-down", "3072 to 768", LINEAR(1024, 3072, 768)),
    OP_FORWARD("gemm-head-fwd", "768 to 50257", LINEAR(1024, 768, 50257)),
    OP_BACKWARD("gemm-head-bwd", "the two products of its backward", LINEAR(1024, 768, 50257)),
};
const int hx__bench_n_op_cases = (int)(sizeof hx__bench_op_cases / sizeof *hx__bench_op_cases);

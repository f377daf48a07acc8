/* Which kernel serves an op, for which dtypes. An op without a row is HX_ERR_UNSUPPORTED on this device. */
#include "backends/cuda/cuda_impl.h"

#define BIT(dtype) (1u << (dtype))
#define HALF       (BIT(HX_BF16) | BIT(HX_F16))
#define SINGLE     (BIT(HX_F32) | HALF)
#define FLOATS     (BIT(HX_F64) | SINGLE)
#define INTS       (BIT(HX_I8) | BIT(HX_U8) | BIT(HX_I32) | BIT(HX_I64) | BIT(HX_BOOL))
#define ALL        (FLOATS | INTS | BIT(HX_C64) | BIT(HX_C128))

enum { STRIDED = false, DENSE = true };

#define UNARY(op)  [HX_OP_##op] = {hx__cuda_unary, FLOATS, 0, STRIDED}
#define BINARY(op) [HX_OP_##op] = {hx__cuda_binary, FLOATS, 0, STRIDED}

const hx_cuda_kernel hx__cuda_kernels[HX_OP_COUNT] = {
    BINARY(add), BINARY(sub), BINARY(mul), BINARY(div), BINARY(maximum), BINARY(minimum), BINARY(pow),
    UNARY(affine), UNARY(exp), UNARY(log), UNARY(sqrt), UNARY(abs), UNARY(sign), UNARY(tanh), UNARY(sigmoid),
    UNARY(relu), UNARY(silu), UNARY(gelu_tanh), UNARY(gelu_erf), UNARY(expm1), UNARY(log1p), UNARY(square),
    UNARY(reciprocal), UNARY(floor), UNARY(ceil), UNARY(round), UNARY(sin), UNARY(cos), UNARY(tan), UNARY(asin),
    UNARY(acos), UNARY(atan), UNARY(sinh), UNARY(cosh), UNARY(asinh), UNARY(acosh), UNARY(atanh), UNARY(erf),
    UNARY(softplus), UNARY(clamp), UNARY(leaky_relu),
    /* (saved operand, dy) -> dx */
    BINARY(tanh_bwd), BINARY(sigmoid_bwd), BINARY(relu_bwd), BINARY(silu_bwd), BINARY(gelu_tanh_bwd),
    BINARY(gelu_erf_bwd), BINARY(clamp_bwd), BINARY(leaky_relu_bwd),
    [HX_OP_swiglu] = {hx__cuda_swiglu, FLOATS, 0, DENSE},
    [HX_OP_swiglu_bwd] = {hx__cuda_swiglu_bwd, FLOATS, 0, DENSE},
    [HX_OP_equal] = {hx__cuda_compare, FLOATS | INTS, 0, STRIDED},
    [HX_OP_not_equal] = {hx__cuda_compare, FLOATS | INTS, 0, STRIDED},
    [HX_OP_less] = {hx__cuda_compare, FLOATS | INTS, 0, STRIDED},
    [HX_OP_less_equal] = {hx__cuda_compare, FLOATS | INTS, 0, STRIDED},
    [HX_OP_where] = {hx__cuda_where, ALL, 1, STRIDED},
    [HX_OP_copy] = {hx__cuda_copy, ALL, 0, STRIDED},
    [HX_OP_dropout] = {hx__cuda_dropout, FLOATS, 0, STRIDED},
    [HX_OP_random_uniform] = {hx__cuda_random, FLOATS, 8, DENSE},
    [HX_OP_random_normal] = {hx__cuda_random, FLOATS, 8, DENSE},
    [HX_OP_random_bernoulli] = {hx__cuda_random, FLOATS, 8, DENSE},
    [HX_OP_sum] = {hx__cuda_sum, FLOATS, 0, STRIDED},
    [HX_OP_sumsq] = {hx__cuda_norm_part, FLOATS, 0, DENSE},
    [HX_OP_sumabs] = {hx__cuda_norm_part, FLOATS, 0, DENSE},
    [HX_OP_maxabs] = {hx__cuda_norm_part, FLOATS, 0, DENSE},
    [HX_OP_norm_blocks] = {hx__cuda_norm_blocks, FLOATS, 0, DENSE},
    [HX_OP_linear] = {hx__cuda_linear, FLOATS, 0, STRIDED},
    [HX_OP_matmul] = {hx__cuda_matmul, FLOATS, 0, STRIDED},
    [HX_OP_layernorm] = {hx__cuda_norm, FLOATS, 0, DENSE},
    [HX_OP_layernorm_bwd] = {hx__cuda_norm_bwd, FLOATS, 0, DENSE},
    [HX_OP_add_layernorm] = {hx__cuda_norm, FLOATS, 0, DENSE},
    [HX_OP_rmsnorm] = {hx__cuda_norm, FLOATS, 0, DENSE},
    [HX_OP_rmsnorm_bwd] = {hx__cuda_norm_bwd, FLOATS, 0, DENSE},
    [HX_OP_add_rmsnorm] = {hx__cuda_norm, FLOATS, 0, DENSE},
    [HX_OP_softmax] = {hx__cuda_softmax, FLOATS, 0, DENSE},
    [HX_OP_softmax_bwd] = {hx__cuda_softmax_bwd, FLOATS, 0, DENSE},
    [HX_OP_log_softmax] = {hx__cuda_softmax, FLOATS, 0, DENSE},
    [HX_OP_log_softmax_bwd] = {hx__cuda_softmax_bwd, FLOATS, 0, DENSE},
    [HX_OP_cross_entropy] = {hx__cuda_cross_entropy, FLOATS, 0, DENSE},
    [HX_OP_cross_entropy_bwd] = {hx__cuda_cross_entropy_bwd, FLOATS, 0, DENSE},
    [HX_OP_embedding] = {hx__cuda_embedding, FLOATS, 1, DENSE},
    [HX_OP_embedding_bwd] = {hx__cuda_embedding_bwd, FLOATS, 1, DENSE},
    [HX_OP_attention] = {hx__cuda_attention, FLOATS, 0, STRIDED},
    [HX_OP_attention_bwd] = {hx__cuda_attention_bwd, FLOATS, 0, STRIDED},
    [HX_OP_rope] = {hx__cuda_rope, FLOATS, 0, STRIDED},
    [HX_OP_adamw] = {hx__cuda_adamw, FLOATS, 8, DENSE},
};

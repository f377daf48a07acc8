/* The table of cases. Shapes are odd on purpose: a scalar, an empty dim, broadcasts, strided and transposed
 * views, and one shape that spans several blocks or tiles of any kernel. */
#include "tests/conformance/battery.h"

const conf_tolerance_rule conf_tolerances[CONF_N_TOLERANCES] = {
    [CONF_EXACT] = {0, 0, "one correctly rounded operation, or none: the same bits"},
    [CONF_FEW] = {4, 1e-3, "a few rounded operations: 4 ulp"},
    [CONF_LIBM] = {16, 1e-3, "one or two elementary functions: 16 ulp"},
    [CONF_MIXED] = {64, 1, "numbers about 1 cancel: 64 ulp of 1"},
    [CONF_SUM] = {64, 1, "a sum in another order: an ulp for each term, besides 64 ulp of 1"},
};

/* Rows stay rows. */
// clang-format off
/* Elementwise ops: the attributes differ, the shapes do not. */
#define UNARY(o, r, t, smooth)                                                                               \
    {.op = HX_OP_##o, .in = "3,5", .range = r, .tolerance = t, .grad = smooth},                              \
    {.op = HX_OP_##o, .in = "5,3t", .range = r, .tolerance = t, .grad = smooth},                             \
    {.op = HX_OP_##o, .in = ".", .range = r, .tolerance = t},                                                \
    {.op = HX_OP_##o, .in = "0,4", .range = r, .tolerance = t},                                              \
    {.op = HX_OP_##o, .in = "2,3,7s", .range = r, .tolerance = t},                                           \
    {.op = HX_OP_##o, .in = "7,2,3,2,1,5", .range = r, .tolerance = t},                                      \
    {.op = HX_OP_##o, .in = "3,5e", .range = r, .tolerance = t},                                             \
    {.op = HX_OP_##o, .in = "3,5", .out = "3,5t", .range = r, .tolerance = t},                               \
    {.op = HX_OP_##o, .in = "70001", .range = r, .tolerance = t}

#define BINARY(o, r, t)                                                                                      \
    {.op = HX_OP_##o, .in = "3,5 3,5", .range = r, .tolerance = t, .grad = true},                            \
    {.op = HX_OP_##o, .in = "4,1 1,7", .range = r, .tolerance = t, .grad = true},                            \
    {.op = HX_OP_##o, .in = "2,3,5t 5", .range = r, .tolerance = t, .grad = true},                           \
    {.op = HX_OP_##o, .in = ". 3,2", .range = r, .tolerance = t, .grad = true},                              \
    {.op = HX_OP_##o, .in = "0,3 3", .range = r, .tolerance = t},                                            \
    {.op = HX_OP_##o, .in = "5,7t 5,7s", .range = r, .tolerance = t},                                        \
    {.op = HX_OP_##o, .in = "3,4e 3,4", .range = r, .tolerance = t},                                         \
    {.op = HX_OP_##o, .in = "3,1,5,1 2,1,4", .range = r, .tolerance = t},                                    \
    {.op = HX_OP_##o, .in = "9,1031 1031", .range = r, .tolerance = t},                                      \
    {.op = HX_OP_##o, .in = "9,1031 9,1", .range = r, .tolerance = t},                                       \
    {.op = HX_OP_##o, .in = "70001 70001", .range = r, .tolerance = t}

#define SAME(o, r, t)                                                                                        \
    {.op = HX_OP_##o, .in = "3,5 3,5", .range = r, .tolerance = t},                                          \
    {.op = HX_OP_##o, .in = "0,3 0,3", .range = r, .tolerance = t},                                          \
    {.op = HX_OP_##o, .in = "5,7t 5,7s", .range = r, .tolerance = t},                                        \
    {.op = HX_OP_##o, .in = "70001 70001", .range = r, .tolerance = t}

#define AFFINE(a, b)        {.affine = {a, b}}
#define REDUCE(n, ...)      {.reduce = {.n_dims = n, .dims = {__VA_ARGS__}}}
#define REDUCE_KEEP(n, ...) {.reduce = {.n_dims = n, .dims = {__VA_ARGS__}, .keepdim = true}}
#define REDUCE_ADD(n, ...)  {.reduce = {.n_dims = n, .dims = {__VA_ARGS__}, .accumulate = true}}
#define MATMUL              {.matmul = {.alpha = 1}}
#define NORM(e)             {.norm = {.eps = e}}
#define NORM_ADD(bits)      {.norm = {.eps = 1e-5, .accumulate = bits}}
#define ATTEND(s, c)        {.attention = {.scale = s, .causal = c}}
#define ROPE(b, first, back) {.rope = {.base = b, .start = first, .inverse = back}}
#define FFT(back, s) {.fft = {.inverse = back, .scale = s}}
#define RFFT(s, c) {.fft = {.scale = s, .interior = c}}
#define IRFFT(m, s, c) {.fft = {.n = m, .scale = s, .interior = c}}
#define IGNORE              {.cross_entropy = {HX_IGNORE_INDEX}}
#define RANDOM(first, q, x, y) {.random = {.rng = {42, 7}, .offset = first, .p = q, .a = x, .b = y}}
/* optimizers */
#define ADAMW(t)            {.adamw = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = t}}
#define ADAM(t)             {.adamw = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = t, .l2 = true}}
#define SGD(m, d, n, first) {.sgd = {.lr = 0.1, .weight_decay = 0.1, .momentum = m, .dampening = d, .nesterov = n, .is_first = first}}
#define RMSPROP(m)          {.rmsprop = {.lr = 0.01, .alpha = 0.9, .eps = 0.5, .weight_decay = 0.1, .momentum = m}}
#define LION                {.lion = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .weight_decay = 0.1}}
// clang-format on

const conf_case conf_cases[] = {
    BINARY(add, CONF_PLAIN, CONF_EXACT),
    BINARY(sub, CONF_PLAIN, CONF_EXACT),
    BINARY(mul, CONF_PLAIN, CONF_EXACT),
    BINARY(div, CONF_POSITIVE, CONF_EXACT),
    BINARY(maximum, CONF_OFF_KINKS, CONF_EXACT),
    BINARY(minimum, CONF_OFF_KINKS, CONF_EXACT),

    {HX_OP_affine, "3,5", .attr = AFFINE(-1.7, 0.3), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_affine, "0,4", .attr = AFFINE(2, 1), .tolerance = CONF_MIXED},
    {HX_OP_affine, "2,3,7s", .attr = AFFINE(0.1, 0), .tolerance = CONF_FEW},
    {HX_OP_affine, "70001", .attr = AFFINE(1e-3, 1), .tolerance = CONF_MIXED},
    UNARY(exp, CONF_PLAIN, CONF_LIBM, true),
    UNARY(log, CONF_POSITIVE, CONF_LIBM, true),
    UNARY(sqrt, CONF_POSITIVE, CONF_EXACT, true),
    UNARY(abs, CONF_OFF_KINKS, CONF_EXACT, true),
    UNARY(sign, CONF_PLAIN, CONF_EXACT, false),
    UNARY(tanh, CONF_PLAIN, CONF_LIBM, true),
    UNARY(sigmoid, CONF_PLAIN, CONF_LIBM, true),
    UNARY(relu, CONF_OFF_KINKS, CONF_EXACT, true),
    UNARY(silu, CONF_PLAIN, CONF_LIBM, true),
    UNARY(gelu_tanh, CONF_PLAIN, CONF_MIXED, true),
    UNARY(gelu_erf, CONF_PLAIN, CONF_MIXED, true),
    {HX_OP_exp, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_tanh, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_sigmoid, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_silu, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_gelu_tanh, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_gelu_erf, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    SAME(tanh_bwd, CONF_UNIT, CONF_MIXED),
    SAME(sigmoid_bwd, CONF_UNIT, CONF_MIXED),
    SAME(relu_bwd, CONF_OFF_KINKS, CONF_EXACT),
    SAME(silu_bwd, CONF_PLAIN, CONF_MIXED),
    SAME(gelu_tanh_bwd, CONF_PLAIN, CONF_MIXED),
    SAME(gelu_erf_bwd, CONF_PLAIN, CONF_MIXED),

    {HX_OP_copy, "d3,5", .attr.copy.dtype = HX_F64, .grad = true},
    {HX_OP_copy, "d4,3t", .attr.copy.dtype = HX_F64, .grad = true},
    {HX_OP_copy, "0,4", .attr.copy.dtype = HX_F32},
    {HX_OP_copy, "2,33,65t", .attr.copy.dtype = HX_F32},
    {HX_OP_copy, "2,3,7s", .attr.copy.dtype = HX_F64},
    {HX_OP_copy, "3,7e", "f3,7t", .attr.copy.dtype = HX_F32},
    {HX_OP_copy, "3,8", "d3,8s", .attr.copy.dtype = HX_F64},
    {HX_OP_copy, "3,4,5h", "f3,4,5h", .attr.copy.dtype = HX_F32},
    {HX_OP_copy, "70001", .attr.copy.dtype = HX_F32},

    {HX_OP_sum, "3,5", .attr = REDUCE(2, 0, 1), .tolerance = CONF_SUM, .terms = 15, .grad = true},
    {HX_OP_sum, "3,5,2", .attr = REDUCE(1, 1), .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_sum, "3,5,2", .attr = REDUCE_KEEP(2, 0, 2), .tolerance = CONF_SUM, .terms = 6, .grad = true},
    {HX_OP_sum, "3,5,2", .attr = REDUCE(2, 0, 2), .tolerance = CONF_SUM, .terms = 6},
    {HX_OP_sum, "5,3t", .attr = REDUCE(1, 0), .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_sum, "2,5,7s", .attr = REDUCE(1, 2), .tolerance = CONF_SUM, .terms = 7},
    {HX_OP_sum, ".", .attr = REDUCE(0, 0), .tolerance = CONF_EXACT},
    {HX_OP_sum, "4,0", .attr = REDUCE(1, 1), .tolerance = CONF_EXACT},
    {HX_OP_sum, "0,4", .attr = REDUCE(1, 1), .tolerance = CONF_EXACT},
    {HX_OP_sum, "3,5", .attr = REDUCE_ADD(1, 0), .tolerance = CONF_SUM, .terms = 4, .fills = true},
    {HX_OP_sum, "70001", .attr = REDUCE_ADD(1, 0), .tolerance = CONF_SUM, .terms = 300, .fills = true},
    {HX_OP_sum, "4099", .attr = REDUCE(1, 0), .tolerance = CONF_SUM, .terms = 64},
    {HX_OP_sum, "90001", .attr = REDUCE(1, 0), .tolerance = CONF_SUM, .terms = 300},
    {HX_OP_sum, "1031,37", .attr = REDUCE(1, 0), .tolerance = CONF_SUM, .terms = 1031},
    {HX_OP_sum, "37,1031", .attr = REDUCE(1, 1), .tolerance = CONF_SUM, .terms = 1031},
    {HX_OP_sumsq, "3,5", .tolerance = CONF_SUM, .terms = 15},
    {HX_OP_sumsq, "5,3t", .tolerance = CONF_SUM, .terms = 15},
    {HX_OP_sumsq, "0", .tolerance = CONF_EXACT},
    {HX_OP_sumsq, "3,5", .attr.reduce.accumulate = true, .tolerance = CONF_SUM, .terms = 16, .fills = true},
    {HX_OP_sumsq, "4099", .tolerance = CONF_MIXED},
    {HX_OP_sumsq, "70001", .tolerance = CONF_MIXED},

    {HX_OP_softmax, "3,5", .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_softmax, "5,3t", .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_softmax, "4,1", .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_softmax, "0,4", .tolerance = CONF_LIBM},
    {HX_OP_softmax, "4,0", .tolerance = CONF_LIBM},
    {HX_OP_softmax, "3,7s", .tolerance = CONF_LIBM},
    {HX_OP_softmax, "5,1031", .tolerance = CONF_MIXED},
    {HX_OP_softmax, "5,1031", .range = CONF_WIDE, .tolerance = CONF_MIXED},
    {HX_OP_softmax_bwd, "3,5 3,5", .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_softmax_bwd, "0,3 0,3", .tolerance = CONF_EXACT},
    {HX_OP_softmax_bwd, "5,7t 5,7s", .tolerance = CONF_SUM, .terms = 70},
    {HX_OP_softmax_bwd, "5,1031 5,1031", .range = CONF_UNIT, .tolerance = CONF_SUM, .terms = 1031},

    {HX_OP_matmul, "3,5 5,4", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_matmul, "3,5t 5,4t", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_matmul, "2,3,5 5,4", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_matmul, "3,5 2,5,4", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_matmul, "2,1,3,2 1,3,2,4", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 2, .grad = true},
    {HX_OP_matmul, "2,3,4,5t 2,3,5,6h", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_matmul, "5,7s 7,3s", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 7},
    {HX_OP_matmul, "3,4e 4,5", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 4},
    {HX_OP_matmul, "1,1 1,1", .attr = MATMUL, .tolerance = CONF_FEW},
    {HX_OP_matmul, "0,3 3,4", .attr = MATMUL},
    {HX_OP_matmul, "3,0 0,4", .attr = MATMUL},
    {HX_OP_matmul, "3,0 0,4", .attr = {.matmul = {1, true}}, .fills = true},
    {HX_OP_matmul, "3,5 5,4", .attr = {.matmul = {-0.5, true}}, .tolerance = CONF_SUM, .terms = 6,
     .fills = true},
    {HX_OP_matmul, "2,3,5 2,5,4", .attr = {.matmul = {0.25, false}}, .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_matmul, "3,5 5,4", "3,4t", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_matmul, "137,71 71,259", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 71},
    {HX_OP_matmul, "130,300t 300,70t", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 300},
    {HX_OP_matmul, "1,513 513,300", .attr = MATMUL, .tolerance = CONF_SUM, .terms = 513},
    {HX_OP_linear, "3,5 4,5 4", .tolerance = CONF_SUM, .terms = 6, .grad = true},
    {HX_OP_linear, "2,3,5 4,5", .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_linear, "5 4,5 4", .tolerance = CONF_SUM, .terms = 6, .grad = true},
    {HX_OP_linear, "3,5t 4,5t 4s", .tolerance = CONF_SUM, .terms = 6, .grad = true},
    {HX_OP_linear, "0,5 4,5 4", .tolerance = CONF_EXACT},
    {HX_OP_linear, "3,0 4,0 4", .tolerance = CONF_EXACT},
    {HX_OP_linear, "2,40,37h 129,37 129", .tolerance = CONF_SUM, .terms = 38},
    {HX_OP_linear, "137,71 259,71 259", .tolerance = CONF_SUM, .terms = 72},

    {HX_OP_embedding, "i2,3 7,4", .n_ids = 7, .grad = true},
    {HX_OP_embedding, "l5 7,4", .n_ids = 7, .grad = true},
    {HX_OP_embedding, "i. 7,4t", .n_ids = 7},
    {HX_OP_embedding, "i0,3 7,4", .n_ids = 7},
    {HX_OP_embedding, "l6,5t 7,4", .n_ids = 7, .wild_ids = true, .has_nan = true},
    {HX_OP_embedding, "i500 300,65", .n_ids = 300},
    {HX_OP_embedding_bwd, "i2,3 2,3,4", .attr.embedding = {7, false}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 6},
    {HX_OP_embedding_bwd, "l9s 9,4t", .attr.embedding = {7, true}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 9, .fills = true},
    {HX_OP_embedding_bwd, "i0 0,4", .attr.embedding = {3, false}, .n_ids = 3},
    {HX_OP_embedding_bwd, "i30 30,4", .attr.embedding = {7, false}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 30, .wild_ids = true},
    {HX_OP_embedding_bwd, "l2000 2000,65", .attr.embedding = {31, false}, .n_ids = 31, .tolerance = CONF_SUM,
     .terms = 200},

    {HX_OP_layernorm, "3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_layernorm, "2,3,4 4", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_layernorm, "5,4t 4s 4s", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_layernorm, "5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_layernorm, "0,5 5 5", .attr = NORM(1e-5)},
    {HX_OP_layernorm, "2,9,24h 24 24", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_layernorm, "3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 6},
    {HX_OP_layernorm, "300,131 131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 131},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_layernorm_bwd, "5,4t 4 @1 @2 5,4t", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5", .attr = NORM_ADD(7), .tolerance = CONF_SUM, .terms = 50,
     .fills = true},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5", .attr = NORM_ADD(5), .tolerance = CONF_SUM, .terms = 50,
     .fills = true},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50,
     .skip = 1},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50,
     .skip = 6},
    {HX_OP_layernorm_bwd, "0,5 5 @1 @2 0,5", .attr = NORM_ADD(0)},
    {HX_OP_layernorm_bwd, "300,131 131 @1 @2 300,131", .attr = NORM_ADD(0), .tolerance = CONF_SUM,
     .terms = 600},
    {HX_OP_rmsnorm, "3,5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rmsnorm, "5,4t 4s", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rmsnorm, "0,5 5", .attr = NORM(1e-5)},
    {HX_OP_rmsnorm, "3,5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 2},
    {HX_OP_rmsnorm, "300,131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 131},
    {HX_OP_rmsnorm_bwd, "3,5 5 @1 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_rmsnorm_bwd, "5,4t 4s @1 5,4t", .attr = NORM_ADD(3), .tolerance = CONF_SUM, .terms = 50,
     .fills = true},
    {HX_OP_rmsnorm_bwd, "3,5 5 @1 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50, .skip = 2},
    {HX_OP_rmsnorm_bwd, "0,5 5 @1 0,5", .attr = NORM_ADD(0)},
    {HX_OP_rmsnorm_bwd, "300,131 131 @1 300,131", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 600},

    {HX_OP_attention, "2,3,2,4 2,3,2,4 2,3,2,4", .attr = ATTEND(0.5, false), .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "2,3,2,4 2,3,2,4 2,3,2,4", .attr = ATTEND(0.5, true), .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "1,2,4,3 1,5,2,3 1,5,2,3", .attr = ATTEND(0.7, true), .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "1,5,2,3 1,2,1,3 1,2,1,3", .attr = ATTEND(0.7, false), .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "2,3,2,4h 2,3,2,4h 2,3,2,4h", .attr = ATTEND(0.5, true), .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "2,0,2,4 2,3,2,4 2,3,2,4", .attr = ATTEND(0.5, false)},
    {HX_OP_attention, "0,3,2,4 0,3,2,4 0,3,2,4", .attr = ATTEND(0.5, true)},
    {HX_OP_attention, "2,150,3,21h 2,150,3,21h 2,150,3,21h", .attr = ATTEND(0.22, true),
     .tolerance = CONF_SUM, .terms = 150},
    {HX_OP_attention, "1,70,4,32 1,201,2,32 1,201,2,32", .attr = ATTEND(0.18, true), .tolerance = CONF_SUM,
     .terms = 200},
    {HX_OP_attention, "1,20,1,8 1,90,1,8 1,90,1,8", .attr = ATTEND(0.1, false), .tolerance = CONF_SUM,
     .terms = 200},
    {HX_OP_attention_bwd, "2,3,2,4 2,3,2,4 2,3,2,4 @0 @1 2,3,2,4", .attr = ATTEND(0.5, false),
     .tolerance = CONF_SUM, .terms = 100},
    {HX_OP_attention_bwd, "2,3,2,4h 2,3,2,4h 2,3,2,4h @0 @1 2,3,2,4h", .attr = ATTEND(0.5, true),
     .tolerance = CONF_SUM, .terms = 100},
    {HX_OP_attention_bwd, "1,2,4,3 1,5,2,3 1,5,2,3 @0 @1 1,2,4,3", .attr = ATTEND(0.7, true),
     .tolerance = CONF_SUM, .terms = 100},
    {HX_OP_attention_bwd, "2,0,2,4 2,3,2,4 2,3,2,4 @0 @1 2,0,2,4", .attr = ATTEND(0.5, false)},
    {HX_OP_attention_bwd, "2,150,3,21h 2,150,3,21h 2,150,3,21h @0 @1 2,150,3,21", .attr = ATTEND(0.22, true),
     .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_attention_bwd, "1,70,4,32 1,201,2,32 1,201,2,32 @0 @1 1,70,4,32", .attr = ATTEND(0.18, true),
     .tolerance = CONF_SUM, .terms = 800},

    /* masked attention: masks of every rank, one that hides all keys of a query, and strided ones over several blocks */
    {HX_OP_attention, "2,3,2,4 2,5,2,4 2,5,2,4 o2,2,3,5", .attr = ATTEND(0.5, false), .n_ids = 2, .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "2,3,4,4 2,5,2,4 2,5,2,4 o3,5", .attr = ATTEND(0.5, true), .n_ids = 2, .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "1,2,4,3 1,5,2,3 1,5,2,3 o5", .attr = ATTEND(0.7, true), .n_ids = 2, .tolerance = CONF_MIXED,
     .grad = true},
    {HX_OP_attention, "2,3,2,4 2,5,2,4 2,5,2,4 o2,1,3,1", .attr = ATTEND(0.5, false), .n_ids = 2,
     .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_attention, "0,3,2,4 0,3,2,4 0,3,2,4 o3,3", .attr = ATTEND(0.5, true), .n_ids = 2},
    {HX_OP_attention, "2,150,3,21h 2,150,3,21h 2,150,3,21h o150,150t", .attr = ATTEND(0.22, true), .n_ids = 2,
     .tolerance = CONF_SUM, .terms = 150},
    {HX_OP_attention, "1,70,4,32 1,601,2,32 1,601,2,32 o4,1,601s", .attr = ATTEND(0.18, true), .n_ids = 2,
     .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_attention_bwd, "2,3,2,4 2,5,2,4 2,5,2,4 @0 @1 2,3,2,4 o2,2,3,5", .attr = ATTEND(0.5, false), .n_ids = 2,
     .tolerance = CONF_SUM, .terms = 100},
    {HX_OP_attention_bwd, "2,150,3,21h 2,150,3,21h 2,150,3,21h @0 @1 2,150,3,21 o150,150t", .attr = ATTEND(0.22, true),
     .n_ids = 2, .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_attention_bwd, "1,70,4,32 1,601,2,32 1,601,2,32 @0 @1 1,70,4,32 o4,1,601s", .attr = ATTEND(0.18, false),
     .n_ids = 2, .tolerance = CONF_SUM, .terms = 2400},
    {HX_OP_rope, "2,3,2,4", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rope, "1,5,3,6h", .attr = ROPE(100, 7, true), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rope, "2,3,4,2t", .attr = ROPE(10000, 1, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,3,2,8s", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,3,2,8", "2,3,2,8s", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,0,2,4", .attr = ROPE(10000, 0, false)},
    {HX_OP_rope, "2,3,2,0", .attr = ROPE(10000, 0, false)},
    {HX_OP_rope, "3,150,5,64", .attr = ROPE(500000, (int64_t)1 << 20, false), .tolerance = CONF_MIXED},

    /* a sum of n terms, of which FFTs add log n by log n: `terms` leaves room for one order and no mistake */
    {HX_OP_fft, "x3,5", .attr = FFT(false, 1), .tolerance = CONF_SUM, .terms = 10, .grad = true},
    {HX_OP_fft, "x2,8t", .attr = FFT(true, 0.125), .tolerance = CONF_SUM, .terms = 16, .grad = true},
    {HX_OP_fft, "x1", .attr = FFT(false, 1), .tolerance = CONF_FEW},
    {HX_OP_fft, "x0,4", .attr = FFT(false, 1)},
    {HX_OP_fft, "x2,3,17s", .attr = FFT(true, 1), .tolerance = CONF_SUM, .terms = 34},
    {HX_OP_fft, "x3,12", "x3,12t", .attr = FFT(false, -0.5), .tolerance = CONF_SUM, .terms = 24},
    {HX_OP_fft, "x3,4,8e", .attr = FFT(false, 1), .tolerance = CONF_SUM, .terms = 16},
    {HX_OP_fft, "x600,12h", .attr = FFT(false, 1), .tolerance = CONF_SUM, .terms = 24},
    {HX_OP_fft, "x3,1009", .attr = FFT(false, 1), .tolerance = CONF_SUM, .terms = 2000},
    {HX_OP_rfft, "a3,5", .attr = RFFT(1, 1), .tolerance = CONF_SUM, .terms = 10, .grad = true},
    {HX_OP_rfft, "a2,6", .attr = RFFT(0.5, 3), .tolerance = CONF_SUM, .terms = 12, .grad = true},
    {HX_OP_rfft, "a3,1", .attr = RFFT(1, 1), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_rfft, "a0,4", .attr = RFFT(1, 1)},
    {HX_OP_rfft, "a8,7t", .attr = RFFT(1, 0.5), .tolerance = CONF_SUM, .terms = 14},
    {HX_OP_rfft, "a3,4,2s", .attr = RFFT(1, 1), .tolerance = CONF_FEW},
    {HX_OP_rfft, "a3,4", "x3,3t", .attr = RFFT(1, 1), .tolerance = CONF_SUM, .terms = 8},
    {HX_OP_rfft, "a700,10", .attr = RFFT(1, 1), .tolerance = CONF_SUM, .terms = 20},
    {HX_OP_rfft, "a3,1024", .attr = RFFT(1, 1), .tolerance = CONF_SUM, .terms = 2000},
    {HX_OP_irfft, "x3,3", .attr = IRFFT(5, 0.2, 1), .tolerance = CONF_SUM, .terms = 10, .grad = true},
    {HX_OP_irfft, "x2,4", .attr = IRFFT(6, 1, 0.5), .tolerance = CONF_SUM, .terms = 12, .grad = true},
    {HX_OP_irfft, "x3,1", .attr = IRFFT(1, 1, 1), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_irfft, "x3,2", .attr = IRFFT(2, 1, 1), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_irfft, "x0,3", .attr = IRFFT(4, 1, 1)},
    {HX_OP_irfft, "x5,4t", .attr = IRFFT(7, 1, 1), .tolerance = CONF_SUM, .terms = 14},
    {HX_OP_irfft, "x2,3,4s", "a2,3,6s", .attr = IRFFT(6, 1, 1), .tolerance = CONF_SUM, .terms = 12},
    {HX_OP_irfft, "x700,6", .attr = IRFFT(10, 0.1, 1), .tolerance = CONF_SUM, .terms = 20},
    {HX_OP_irfft, "x3,513", .attr = IRFFT(1024, 1, 1), .tolerance = CONF_SUM, .terms = 2000},

    {HX_OP_cross_entropy, "3,5 i3", .attr = IGNORE, .n_ids = 5, .tolerance = CONF_SUM, .terms = 5,
     .grad = true},
    {HX_OP_cross_entropy, "2,3,4 l2,3", .attr = IGNORE, .n_ids = 4, .tolerance = CONF_SUM, .terms = 6,
     .grad = true},
    {HX_OP_cross_entropy, "5,4t i5", .attr = {.cross_entropy = {2}}, .n_ids = 4, .tolerance = CONF_SUM,
     .terms = 5, .grad = true},
    {HX_OP_cross_entropy, "5 l.", .attr = IGNORE, .n_ids = 5, .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_cross_entropy, "0,5 i0", .attr = IGNORE, .n_ids = 5},
    {HX_OP_cross_entropy, "40,5 l40", .attr = IGNORE, .n_ids = 5, .wild_ids = true, .has_nan = true,
     .tolerance = CONF_SUM, .terms = 40},
    {HX_OP_cross_entropy, "40,50s i40", .attr = IGNORE, .range = CONF_WIDE, .n_ids = 50,
     .tolerance = CONF_SUM, .terms = 40},
    {HX_OP_cross_entropy, "300,1031 i300", .attr = IGNORE, .n_ids = 1031, .tolerance = CONF_SUM,
     .terms = 1031},
    {HX_OP_cross_entropy_bwd, "3,5 i3 @2 d.", .attr = IGNORE, .n_ids = 5, .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "5,4t l5 @2 d.", .attr = {.cross_entropy = {2}}, .n_ids = 4,
     .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "0,5 i0 @2 d.", .attr = IGNORE, .n_ids = 5},
    {HX_OP_cross_entropy_bwd, "40,5 l40 @2 d.", .attr = IGNORE, .n_ids = 5, .wild_ids = true, .has_nan = true,
     .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "300,1031 i300 @2 d.", .attr = IGNORE, .n_ids = 1031, .tolerance = CONF_MIXED},

    {HX_OP_dropout, "7,11", .attr = RANDOM(0, 0.3, 0, 0), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_dropout, "7,11t", .attr = RANDOM(1, 0.5, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_dropout, "0,3", .attr = RANDOM(0, 0.5, 0, 0)},
    {HX_OP_dropout, "3,5s", .attr = RANDOM(3, 0, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_dropout, "70001", .attr = RANDOM((int64_t)1 << 33, 0.1, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_random_uniform, "", "7,11", .attr = RANDOM(0, 0, 0, 1), .tolerance = CONF_FEW, .fills = true},
    {HX_OP_random_uniform, "", "0", .attr = RANDOM(0, 0, 0, 1), .fills = true},
    {HX_OP_random_uniform, "", "70001", .attr = RANDOM(3, 0, -1, 2), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_random_normal, "", "7,11", .attr = RANDOM(0, 0, 0, 1), .tolerance = CONF_LIBM, .fills = true},
    {HX_OP_random_normal, "", "0", .attr = RANDOM(0, 0, 0, 1), .fills = true},
    {HX_OP_random_normal, "", "70001", .attr = RANDOM(5, 0, 1, 0.02), .tolerance = CONF_MIXED, .fills = true},

    {HX_OP_adamw, "7,3", "7,3 7,3 7,3", .attr = ADAMW(1), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "7,3 d.", "7,3 7,3 7,3", .attr = ADAMW(3), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "7,3t d.", "7,3 7,3 7,3", .attr = ADAMW(1000), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "0 d.", "0 0 0", .attr = ADAMW(1), .fills = true},
    {HX_OP_adamw, "70001 d.", "70001 70001 70001", .attr = ADAMW(2), .tolerance = CONF_MIXED, .fills = true},

    /* results that stay in what sums are kept in: not rounded where the operands are of a half type */
    {HX_OP_add, "3,5 3,5", "a3,5", .tolerance = CONF_FEW},
    {HX_OP_mul, "9,1031 1031", "a9,1031", .tolerance = CONF_FEW},
    {HX_OP_sum, "7,5", "a5", .attr = REDUCE_ADD(1, 0), .tolerance = CONF_SUM, .terms = 8, .fills = true},
    {HX_OP_matmul, "3,5 5,4", "a3,4", .attr = {.matmul = {1, true}}, .tolerance = CONF_SUM, .terms = 6, .fills = true},
    {HX_OP_linear, "137,71 259,71 259", "a137,259", .tolerance = CONF_SUM, .terms = 72},
    {HX_OP_embedding_bwd, "l9 9,4", "a7,4", .attr.embedding = {7, true}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 9, .fills = true},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5", "3,5 a5 a5", .attr = NORM_ADD(6), .tolerance = CONF_SUM, .terms = 50,
     .fills = true},
    /* optimizers */
    {HX_OP_adamw, "7,3t d.", "7,3s 7,3 7,3t", .attr = ADAM(2), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "70001", "70001 70001 70001", .attr = ADAM(5), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "a7,3t d.", "7,3 a7,3 a7,3", .attr = ADAM(3), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "7,3 d.", "7,3 7,3", .attr = SGD(0.9, 0.5, false, false), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "7,3t", "7,3 7,3s", .attr = SGD(0.9, 0, true, false), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "5 d.", "5 5", .attr = SGD(0.9, 0.5, true, true), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "3,5e", "3,5 3,5", .attr = SGD(0, 0, false, false), .tolerance = CONF_MIXED, .fills = true, .skip = 2},
    {HX_OP_sgd, "0", "0 0", .attr = SGD(0.9, 0, false, false), .fills = true},
    {HX_OP_sgd, "70001 d.", "70001 70001", .attr = SGD(0.9, 0.1, true, false), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "70001", "70001 70001", .attr = SGD(0, 0, false, false), .tolerance = CONF_MIXED, .fills = true, .skip = 2},
    {HX_OP_rmsprop, "7,3 d.", "7,3 7,3 7,3 7,3", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_rmsprop, "7,3t", "7,3 7,3s 7,3 7,3", .attr = RMSPROP(0), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_rmsprop, ".", ". . . .", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_rmsprop, "0", "0 0 0 0", .attr = RMSPROP(0.9), .fills = true},
    {HX_OP_rmsprop, "70001 d.", "70001 70001 70001 70001", .attr = RMSPROP(0), .tolerance = CONF_MIXED, .fills = true, .skip = 12},
    {HX_OP_rmsprop, "70001", "70001 70001 70001 70001", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_lion, "7,3 d.", "7,3 7,3", .attr = LION, .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_lion, "7,3t", "7,3s 7,3", .attr = LION, .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_lion, "0", "0 0", .attr = LION, .fills = true},
    {HX_OP_lion, "70001 d.", "70001 70001", .attr = LION, .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sumabs, "3,5", .tolerance = CONF_SUM, .terms = 15},
    {HX_OP_sumabs, "5,3t", .tolerance = CONF_SUM, .terms = 15},
    {HX_OP_sumabs, "3,5e", .attr.reduce.accumulate = true, .tolerance = CONF_SUM, .terms = 16, .fills = true},
    {HX_OP_sumabs, "0", .tolerance = CONF_EXACT},
    {HX_OP_sumabs, "70001", .tolerance = CONF_MIXED},
    {HX_OP_maxabs, "3,5", .tolerance = CONF_EXACT},
    {HX_OP_maxabs, "5,3t", .attr.reduce.accumulate = true, .tolerance = CONF_EXACT, .fills = true},
    {HX_OP_maxabs, "0", .tolerance = CONF_EXACT},
    {HX_OP_maxabs, "70001", .tolerance = CONF_EXACT},
};

const int conf_n_cases = sizeof conf_cases / sizeof *conf_cases;

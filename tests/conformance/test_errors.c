/* What every op refuses, with which code, and that a refused call writes nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/battery.h"

#define ERROR_CASE(o, spec, status, ...)                                                                     \
    { .c = {.op = HX_OP_##o, .in = spec, .n_ids = 2, __VA_ARGS__}, .code = status }
#define SHAPE(o, spec, ...) ERROR_CASE(o, spec, HX_ERR_SHAPE, __VA_ARGS__)
#define DTYPE(o, spec, ...) ERROR_CASE(o, spec, HX_ERR_DTYPE, __VA_ARGS__)
#define NO_ARITHMETIC(o, spec, ...) ERROR_CASE(o, spec, HX_ERR_UNSUPPORTED, __VA_ARGS__)
#define ARG(o, spec, ...)   ERROR_CASE(o, spec, HX_ERR_ARG, __VA_ARGS__)
/* one spatial dim */
#define WINDOW1(s, p, d, g, ...) {.conv = {.n = 1, .stride = {s}, .padding = {p}, .dilation = {d}, .groups = g, __VA_ARGS__}}
#define PLAIN1                   WINDOW1(1, 0, 1, 1, )

/* Without a letter an operand is f32. */
static const struct error_case {
    conf_case c;
    hx_status code;
} errors[] = {
    SHAPE(add, "3,5 3,4", ),
    DTYPE(add, "3 d3", ),
    NO_ARITHMETIC(add, "i3 i3", ),
    ARG(add, "3", ),
    SHAPE(sub, "2,3 3,2", ),
    SHAPE(mul, "2,3 2", ),
    SHAPE(div, "4 5", ),
    SHAPE(maximum, "4 3", ),
    SHAPE(minimum, "4 3", ),
    NO_ARITHMETIC(affine, "i3", ),
    NO_ARITHMETIC(exp, "i3", ),
    NO_ARITHMETIC(log, "l3", ),
    NO_ARITHMETIC(sqrt, "i3", ),
    NO_ARITHMETIC(abs, "i3", ),
    NO_ARITHMETIC(sign, "b3", ),
    NO_ARITHMETIC(tanh, "i3", ),
    NO_ARITHMETIC(sigmoid, "i3", ),
    NO_ARITHMETIC(relu, "i3", ),
    NO_ARITHMETIC(silu, "i3", ),
    NO_ARITHMETIC(gelu_tanh, "i3", ),
    NO_ARITHMETIC(gelu_erf, "i3", ),
    SHAPE(tanh_bwd, "3,5 5", ), /* these do not broadcast */
    SHAPE(sigmoid_bwd, "3,5 5", ),
    SHAPE(relu_bwd, "3,5 5", ),
    SHAPE(silu_bwd, "3,5 5", ),
    SHAPE(gelu_tanh_bwd, "3,5 5", ),
    DTYPE(gelu_erf_bwd, "3 d3", ),
    SHAPE(swiglu, "3,5", ),
    SHAPE(swiglu, ".", ),
    NO_ARITHMETIC(swiglu, "i4", ),
    SHAPE(swiglu_bwd, "3,5 3,2", ),
    SHAPE(swiglu_bwd, "3,6 3,6", ),
    SHAPE(swiglu_bwd, "3,6 1,3", ),
    DTYPE(swiglu_bwd, "4 d2", ),
    DTYPE(copy, "3", .attr.copy.dtype = HX_DTYPE_COUNT),
    DTYPE(copy, "3", .attr.copy.dtype = (hx_dtype)-1),
    SHAPE(sum, "3,5", .attr = {.reduce = {.n_dims = 1, .dims = {2}}}),
    SHAPE(sum, "3,5", .attr = {.reduce = {.n_dims = 2, .dims = {1, 0}}}),
    SHAPE(sum, "3,5", .attr = {.reduce = {.n_dims = 2, .dims = {1, 1}}}),
    NO_ARITHMETIC(sum, "i3", ),
    NO_ARITHMETIC(sumsq, "i3", ),
    SHAPE(softmax, ".", ),
    NO_ARITHMETIC(softmax, "i3", ),
    SHAPE(softmax_bwd, "3,5 3,4", ),
    SHAPE(matmul, "3,5 4,5", .attr.matmul.alpha = 1),
    SHAPE(matmul, "5 5,4", .attr.matmul.alpha = 1),
    SHAPE(matmul, "2,3,5 3,5,4", .attr.matmul.alpha = 1),
    DTYPE(matmul, "3,5 d5,4", .attr.matmul.alpha = 1),
    SHAPE(linear, "3,5 4,6", ),
    SHAPE(linear, "3,5 4,5 5", ),
    SHAPE(linear, ". 4,5", ),
    SHAPE(linear, "3,5 5", ),
    DTYPE(linear, "3,5 4,5 d4", ),
    DTYPE(embedding, "3 7,4", ),
    DTYPE(embedding, "b3 7,4", ),
    SHAPE(embedding, "i3 7", ),
    SHAPE(embedding, "i1,1,1,1,1,1,1,1 7,4", ),
    SHAPE(embedding_bwd, "i3 4,5", .attr.embedding.rows = 7),
    SHAPE(embedding_bwd, "i3 3,5", .attr.embedding.rows = -1),
    DTYPE(embedding_bwd, "3 3,5", .attr.embedding.rows = 7),
    SHAPE(embedding, "i3 4,5", .attr.embedding = {.start = 6, .total = 9}),
    SHAPE(embedding, "i3 4,5", .attr.embedding = {.start = -1, .total = 9}),
    SHAPE(embedding, "i3 4,5", .attr.embedding = {.start = 1}),
    SHAPE(embedding_bwd, "i3 3,5", .attr.embedding = {.rows = 4, .start = 6, .total = 9}),
    SHAPE(layernorm, "3,5 4", ),
    SHAPE(layernorm, "3,5 5 4", ),
    SHAPE(layernorm, ". 1", ),
    ARG(layernorm, "3,5 5", .attr.norm.eps = -1),
    DTYPE(layernorm, "3,5 d5", ),
    SHAPE(layernorm_bwd, "3,5 5 4 3 3,5", ),
    SHAPE(layernorm_bwd, "3,5 5 3 3 3,4", ),
    SHAPE(layernorm_bwd, "3,5 5 3 3 3,5 5", ), /* ds does not broadcast */
    DTYPE(layernorm_bwd, "3,5 5 3 3 3,5 d3,5", ),
    SHAPE(add_layernorm, "3,5 5 5", ), /* nor does r */
    SHAPE(add_layernorm, "3,5 3,5 4", ),
    SHAPE(add_layernorm, "3,5 3,5 5 3", ),
    SHAPE(add_layernorm, ". . 1", ),
    ARG(add_layernorm, "3,5 3,5", ),
    ARG(add_layernorm, "3,5 3,5 5", .attr.norm.eps = -1),
    DTYPE(add_layernorm, "3,5 d3,5 5", ),
    NO_ARITHMETIC(add_layernorm, "i3,5 i3,5 i5", ),
    SHAPE(rmsnorm, "3,5 4", ),
    SHAPE(rmsnorm_bwd, "3,5 5 3 3,6", ),
    SHAPE(rmsnorm_bwd, "3,5 5 3 3,5 3,6", ),
    SHAPE(add_rmsnorm, "3,5 3,4 5", ),
    DTYPE(add_rmsnorm, "3,5 3,5 h5", ),
    ARG(add_rmsnorm, "3,5 3,5 5 5", ),
    /* convolutions, pools and batch norm */
    SHAPE(conv, "2,3,7 4,2,3", .attr = PLAIN1),
    SHAPE(conv, "2,3,7 4,3,3 3", .attr = PLAIN1),
    SHAPE(conv, "2,3,7 4,3,8", .attr = PLAIN1),
    SHAPE(conv, "2,3,7 4,3,0", .attr = PLAIN1),
    SHAPE(conv, "2,3,7 4,3,3,3", .attr = PLAIN1),
    SHAPE(conv, "2,3,7,7 4,3,3,3", .attr = PLAIN1),
    SHAPE(conv, "2,3 4,3", ),
    SHAPE(conv, "1,1,1,1,1,1 1,1,1,1,1,1", .attr = {.conv = {4, {1, 1, 1}, {0}, {1, 1, 1}, 1}}),
    SHAPE(conv, "2,3,7 4,1,3", .attr = WINDOW1(1, 0, 1, 2, )),
    SHAPE(conv, "2,4,7 3,2,3", .attr = WINDOW1(1, 0, 1, 2, )),
    SHAPE(conv, "2,3,7 4,3,3", .attr = WINDOW1(1, 0, 4, 1, )),
    ERROR_CASE(conv, "2,3,7 4,3,3", HX_ERR_OVERFLOW, .attr = WINDOW1(1, INT64_MAX / 2, 1, 1, )),
    ERROR_CASE(conv, "2,3,7 4,3,3", HX_ERR_OVERFLOW, .attr = WINDOW1(1, 0, INT64_MAX, 1, )),
    ERROR_CASE(conv, "2,3,7 4,3,2", HX_ERR_OVERFLOW, .attr = WINDOW1(1, 0, INT64_MAX, 1, )),
    ERROR_CASE(conv, "2,3,7 4,3,3", HX_ERR_OVERFLOW, .attr = WINDOW1(1, INT64_MAX / 4, 1, 1, )),
    ARG(conv, "2,3,7 4,3,3", .attr = WINDOW1(0, 0, 1, 1, )),
    ARG(conv, "2,3,7 4,3,3", .attr = WINDOW1(-1, 0, 1, 1, )),
    ARG(conv, "2,3,7 4,3,3", .attr = WINDOW1(1, -1, 1, 1, )),
    ARG(conv, "2,3,7 4,3,3", .attr = WINDOW1(1, 0, 0, 1, )),
    ARG(conv, "2,3,7 4,3,3", .attr = WINDOW1(1, 0, 1, 0, )),
    DTYPE(conv, "2,3,7 d4,3,3", .attr = PLAIN1),
    NO_ARITHMETIC(conv, "i2,3,7 i4,3,3", .attr = PLAIN1),
    SHAPE(conv_bwd_x, "4,3,3 2,4,4", .attr = WINDOW1(1, 0, 1, 1, .input = {7})),
    SHAPE(conv_bwd_x, "4,3,3 2,5,5", .attr = WINDOW1(1, 0, 1, 1, .input = {7})),
    SHAPE(conv_bwd_x, "4,3,3 2,4,5", .attr = WINDOW1(1, 0, 1, 1, .input = {-1})),
    ERROR_CASE(conv_bwd_x, "4,3,3 2,4,5", HX_ERR_OVERFLOW, .attr = WINDOW1(1, 0, 1, INT64_MAX, .input = {7})),
    SHAPE(conv_bwd_w, "2,3,7 2,4,4", .attr = WINDOW1(1, 0, 1, 1, .size = {3})),
    SHAPE(conv_bwd_w, "2,3,7 1,4,5", .attr = WINDOW1(1, 0, 1, 1, .size = {3})),
    SHAPE(conv_bwd_w, "2,3,7 2,4,5", .attr = WINDOW1(1, 0, 1, 2, .size = {3})),
    SHAPE(max_pool, "2,3,7", .attr = WINDOW1(1, 0, 1, 1, .size = {8})),
    SHAPE(max_pool, "2,3,7", .attr = WINDOW1(1, 0, 1, 1, .size = {0})),
    SHAPE(max_pool, "2,3,0", .attr = WINDOW1(1, 1, 1, 1, .size = {2})),
    ARG(max_pool, "2,3,7", .attr = WINDOW1(1, 2, 1, 1, .size = {3})),
    ARG(max_pool, "2,3,7", .attr = WINDOW1(1, 0, 1, 3, .size = {3})),
    NO_ARITHMETIC(max_pool, "i2,3,7", .attr = WINDOW1(1, 0, 1, 1, .size = {3})),
    SHAPE(max_pool_bwd, "l2,3,4 2,3,4", .attr = WINDOW1(1, 0, 1, 1, .size = {3}, .input = {7})),
    SHAPE(max_pool_bwd, "l2,3,4 2,3,5", .attr = WINDOW1(1, 0, 1, 1, .size = {3}, .input = {7})),
    DTYPE(max_pool_bwd, "2,3,5 2,3,5", .attr = WINDOW1(1, 0, 1, 1, .size = {3}, .input = {7})),
    SHAPE(avg_pool, "2,3,7", .attr = WINDOW1(1, 0, 1, 1, .size = {8})),
    ARG(avg_pool, "2,3,7", .attr = WINDOW1(1, 0, 2, 1, .size = {3})),
    SHAPE(avg_pool_bwd, "2,3,4", .attr = WINDOW1(1, 0, 1, 1, .size = {3}, .input = {7})),
    SHAPE(batchnorm, "3,5 4 5", ),
    SHAPE(batchnorm, "3,5 5 4", ),
    SHAPE(batchnorm, "5 5 5", ),
    SHAPE(batchnorm, "0,5 5 5", ),
    SHAPE(batchnorm, "3,5,0 5 5", ),
    ARG(batchnorm, "3,5 5 5", .attr.norm.eps = -1),
    DTYPE(batchnorm, "3,5 d5 5", ),
    SHAPE(batchnorm_bwd, "3,5 5 4 3,5 5", ),
    SHAPE(batchnorm_bwd, "3,5 5 5 3,4 5", ),
    SHAPE(batchnorm_bwd, "3,5 5 5 3,5 4", ),
    DTYPE(batchnorm_bwd, "3,5 d5 5 3,5 5", ),
    SHAPE(attention, "2,3,2,4 2,3,2,5 2,3,2,5", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,2,4 1,3,2,4 1,3,2,4", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,3,4 2,3,2,4 2,3,2,4", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,2,4 2,3,2,4 2,4,2,4", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,2,4 2,3,0,4 2,3,0,4", .attr.attention.scale = 1),
    SHAPE(attention, "3,2,4 3,2,4 3,2,4", .attr.attention.scale = 1),
    SHAPE(attention, "1,4,1,2 1,3,1,2 1,3,1,2", .attr.attention = {1, true}),
    SHAPE(attention, "1,4,1,2 1,0,1,2 1,0,1,2", .attr.attention = {1, false}),
    DTYPE(attention, "2,3,2,4 d2,3,2,4 2,3,2,4", .attr.attention.scale = 1),
    SHAPE(attention_bwd, "2,3,2,4 2,3,2,4 2,3,2,4 2,3,2,4 2,3,2 2,3,2,4", .attr.attention.scale = 1),
    SHAPE(attention_bwd, "1,2,1,4 1,3,1,4 1,3,1,4 1,3,1,4 1,1,2 1,2,1,4", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,2,4 2,3,2,4 2,3,2,4 o2,3", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,2,4 2,5,2,4 2,5,2,4 o5,3", .attr.attention.scale = 1),
    SHAPE(attention, "2,3,2,4 2,3,2,4 2,3,2,4 o1,2,2,3,3", .attr.attention.scale = 1),
    DTYPE(attention, "2,3,2,4 2,3,2,4 2,3,2,4 b3,3", .attr.attention.scale = 1),
    DTYPE(attention, "2,3,2,4 2,3,2,4 2,3,2,4 3,3", .attr.attention.scale = 1),
    SHAPE(attention_bwd, "1,2,1,4 1,3,1,4 1,3,1,4 1,2,1,4 1,1,2 1,2,1,4 o3,2", .attr.attention.scale = 1),
    DTYPE(attention_bwd, "1,2,1,4 1,3,1,4 1,3,1,4 1,2,1,4 1,1,2 1,2,1,4 i2,3", .attr.attention.scale = 1),
    SHAPE(rope, "1,2,3,5", .attr.rope.base = 10000),
    SHAPE(rope, "2,3,4", .attr.rope.base = 10000),
    ARG(rope, "1,2,3,4", .attr.rope.base = 0),
    ARG(rope, "1,2,3,4", .attr.rope = {10000, -1, false}),
    NO_ARITHMETIC(rope, "i1,2,3,4", .attr.rope.base = 10000),
    SHAPE(fft, "z2,0", ),
    SHAPE(fft, "z.", ),
    DTYPE(fft, "3", ),
    SHAPE(rfft, "2,0", ),
    DTYPE(rfft, "z3", ),
    DTYPE(rfft, "h3", ), /* no complex type of half width */
    ARG(irfft, "z3", .attr.fft.n = 0),
    SHAPE(irfft, "z3", .attr.fft.n = 6),
    SHAPE(irfft, "w2,0", .attr.fft.n = 1),
    DTYPE(irfft, "3", .attr.fft.n = 4),
    SHAPE(fftconv, "2,3,4 2,4", ),
    SHAPE(fftconv, "3,4 3,4", ),
    SHAPE(fftconv, "2,3,4 1,3,4", ),
    SHAPE(fftconv, "2,3,4 3,4 4", ),
    DTYPE(fftconv, "2,3,4 d3,4", ),
    NO_ARITHMETIC(fftconv, "i2,3,4 i3,4", ),
    NO_ARITHMETIC(fftconv, "z2,3,4 z3,4", ),
    SHAPE(fftconv_bwd, "2,3,4 3,4 2,3,5", ),
    SHAPE(fftconv_bwd, "2,3,4 2,4 2,3,4", ),
    SHAPE(fftconv_bwd, "2,3,4 3,4 2,3,4 2", ),
    DTYPE(fftconv_bwd, "2,3,4 3,4 d2,3,4", ),
    SHAPE(cross_entropy, "3,5 i4", ),
    SHAPE(cross_entropy, "3,5 i3", .attr.cross_entropy = {.start = 5, .total = 9}),
    SHAPE(cross_entropy, "3,5 i3", .attr.cross_entropy = {.start = -1, .total = 9}),
    SHAPE(cross_entropy, "3,5 i3", .attr.cross_entropy = {.start = 1}),
    SHAPE(cross_entropy, "3,5 i3", .attr.cross_entropy = {.total = 4}),
    SHAPE(cross_entropy, "3,5 i3", .attr.cross_entropy = {.total = -9}),
    SHAPE(cross_entropy, "3,0 i3", .attr.cross_entropy = {.start = INT64_MAX, .total = 9}),
    SHAPE(cross_entropy, "3,5 i3 4", ),
    DTYPE(cross_entropy, "3,5 i3 d3", ),
    DTYPE(cross_entropy, "h3,5 i3 h3", ),
    SHAPE(cross_entropy, "3,0 i3", ),
    DTYPE(cross_entropy, "3,5 3", ),
    NO_ARITHMETIC(cross_entropy, "i3,5 i3", ),
    SHAPE(cross_entropy_bwd, "3,5 i3 4 d.", ),
    SHAPE(cross_entropy_bwd, "3,5 i3 3 d.", .attr.cross_entropy = {.start = 5, .total = 9}),
    DTYPE(cross_entropy_bwd, "3,5 i3 3 f.", ),
    SHAPE(cross_entropy_bwd, "3,5 i3 3 d2", ),
    ARG(dropout, "3", .attr.random.p = 1),
    ARG(dropout, "3", .attr.random.p = -0.5),
    ARG(dropout, "3", .attr.random.inner = -1),
    ARG(dropout, "3", .attr.random = {.inner = 3, .stride = 2}),
    NO_ARITHMETIC(random_uniform, "", .out = "i3"),
    ARG(random_uniform, "3", .out = "3"),
    NO_ARITHMETIC(random_normal, "", .out = "l3"),
    SHAPE(adamw, "3", .out = "3 3 4", .attr.adamw.step = 1, .skip = 8),
    SHAPE(adamw, "3 d2", .out = "3 3 3", .attr.adamw.step = 1, .skip = 8),
    DTYPE(adamw, "3 f.", .out = "3 3 3", .attr.adamw.step = 1, .skip = 8),
    DTYPE(adamw, "3", .out = "3 d3 3", .attr.adamw.step = 1, .skip = 8),
    ARG(adamw, "3", .out = "3 3 3", .attr.adamw.step = 0, .skip = 8),
    /* optimizers */
    ARG(adamw, "3", .out = "3 3", .attr.adamw.step = 1, .skip = 8),
    SHAPE(sgd, "3", .out = "3 4", .skip = 4),
    DTYPE(sgd, "d3", .out = "3 3", .skip = 4),
    NO_ARITHMETIC(sgd, "i3", .out = "3 3", .skip = 4),
    ARG(sgd, "3", .out = "3", .skip = 4),
    SHAPE(rmsprop, "3", .out = "3 3 3 3,1", .skip = 16),
    DTYPE(rmsprop, "3 f.", .out = "3 3 3 3", .skip = 16),
    DTYPE(rmsprop, "3", .out = "3 3 d3 3", .skip = 16),
    SHAPE(lion, "3 d2", .out = "3 3", .skip = 4),
    DTYPE(lion, "3", .out = "d3 d3", .skip = 4),
    SHAPE(adamw, "3", .out = "3 3 3 h4", .attr.adamw.step = 1),
    DTYPE(adamw, "3", .out = "3 3 3 3", .attr.adamw.step = 1),
    DTYPE(adamw, "h3", .out = "h3 h3 h3 h3", .attr.adamw.step = 1),
    ARG(adamw, "3", .out = "3 3 3", .attr.adamw.step = 1),
    DTYPE(sgd, "d3", .out = "d3 d3 h3", ),
    SHAPE(rmsprop, "3", .out = "3 3 3 3 g1,3", ),
    DTYPE(lion, "3", .out = "3 3 i3", ),
    NO_ARITHMETIC(sumabs, "i3", ),
    NO_ARITHMETIC(maxabs, "l3", ),
    NO_ARITHMETIC(norm_blocks, "i3", .attr.blocks.p = 2),
    ARG(norm_blocks, "3", .attr.blocks.p = 3),
    /* elementary functions, comparisons, choice, complex */
    SHAPE(pow, "4 3", ),
    NO_ARITHMETIC(pow, "i3 i3", ),
    DTYPE(add, "z3 3", ),
    NO_ARITHMETIC(div, "z3 z3", ),
    NO_ARITHMETIC(pow, "z3 z3", ),
    NO_ARITHMETIC(exp, "z3", ),
    NO_ARITHMETIC(relu, "w3", ),
    DTYPE(conj, "3", ),
    NO_ARITHMETIC(expm1, "i3", ),
    NO_ARITHMETIC(log1p, "i3", ),
    NO_ARITHMETIC(square, "i3", ),
    NO_ARITHMETIC(reciprocal, "i3", ),
    NO_ARITHMETIC(floor, "i3", ),
    NO_ARITHMETIC(ceil, "i3", ),
    NO_ARITHMETIC(round, "i3", ),
    NO_ARITHMETIC(sin, "i3", ),
    NO_ARITHMETIC(cos, "i3", ),
    NO_ARITHMETIC(tan, "i3", ),
    NO_ARITHMETIC(asin, "i3", ),
    NO_ARITHMETIC(acos, "i3", ),
    NO_ARITHMETIC(atan, "i3", ),
    NO_ARITHMETIC(sinh, "i3", ),
    NO_ARITHMETIC(cosh, "i3", ),
    NO_ARITHMETIC(asinh, "i3", ),
    NO_ARITHMETIC(acosh, "i3", ),
    NO_ARITHMETIC(atanh, "i3", ),
    NO_ARITHMETIC(erf, "o3", ),
    NO_ARITHMETIC(softplus, "z3", ),
    ARG(clamp, "3", .attr.clamp = {1, 0}),
    ARG(clamp, "3", .attr.clamp = {0, NAN}),
    NO_ARITHMETIC(clamp, "i3", ),
    NO_ARITHMETIC(leaky_relu, "i3", ),
    SHAPE(clamp_bwd, "3,5 5", ),
    SHAPE(leaky_relu_bwd, "3,5 5", ),
    SHAPE(equal, "3 4", .out = "o3"),
    NO_ARITHMETIC(equal, "z3 z3", .out = "o3"),
    DTYPE(not_equal, "i3 l3", .out = "o3"),
    NO_ARITHMETIC(less, "w3 w3", .out = "o3"),
    DTYPE(less_equal, "3 d3", .out = "o3"),
    DTYPE(where, "b3 3 3", .out = "3"),
    DTYPE(where, "o3 3 d3", .out = "3"),
    SHAPE(where, "o4 3 3", .out = "3"),
    /* joining, picking, padding */
    SHAPE(cat, "3,5 4,5", .attr.dim.dim = 1),
    SHAPE(cat, "3,5 3", .attr.dim.dim = 1),
    SHAPE(cat, "3,5 3,5", .attr.dim.dim = 2),
    SHAPE(cat, ". .", .attr.dim.dim = 0),
    DTYPE(cat, "3 i3", .attr.dim.dim = 0),
    DTYPE(gather, "3 3", .attr.dim.dim = 0),
    SHAPE(gather, "3,5 i3", .attr.dim.dim = 0),
    SHAPE(gather, "3,5 i3,4", .attr.dim.dim = 0),
    SHAPE(gather, "3 i3", .attr.dim.dim = -1),
    SHAPE(gather_bwd, "i3 4", .attr.dim = {.size = 2}),
    SHAPE(gather_bwd, "i3 3", .attr.dim = {.size = -1}),
    NO_ARITHMETIC(gather_bwd, "i3 i3", .attr.dim = {.size = 2}),
    ARG(pad, "3", .attr.pad = {.before = {-1}}),
    ARG(pad, "3", .attr.pad = {.mode = 4}),
    SHAPE(pad, "3", .attr.pad = {.mode = HX_PAD_REFLECT, .before = {3}}),
    SHAPE(pad, "3", .attr.pad = {.mode = HX_PAD_CIRCULAR, .after = {4}}),
    SHAPE(pad, "0", .attr.pad = {.mode = HX_PAD_REPLICATE, .after = {1}}),
    SHAPE(pad_bwd, "3", .attr.pad = {.before = {2}, .after = {2}}),
    NO_ARITHMETIC(pad_bwd, "i3", .attr.pad = {.before = {1}}),
    /* reductions */
    SHAPE(log_softmax, ".", ),
    SHAPE(log_softmax_bwd, "3,5 3,4", ),
    SHAPE(max, "3,0", .attr = {.reduce = {.n_dims = 1, .dims = {1}}}),
    SHAPE(max, "3,5", .attr = {.reduce = {.n_dims = 1, .dims = {2}}}),
    NO_ARITHMETIC(max, "i3", ),
    SHAPE(min, "0", .attr = {.reduce = {.n_dims = 1, .dims = {0}}}),
    ARG(pnorm, "3", .attr.stat.p = 0),
    ARG(pnorm, "3", .attr.stat.p = NAN),
    SHAPE(pnorm, "3", .attr = {.stat = {.p = 2, .n_dims = 1, .dims = {1}}}),
    ARG(var, "3", .attr.stat.correction = -1),
    NO_ARITHMETIC(var, "z3", ),
    SHAPE(argmax, "3,0", .attr.dim.dim = 1, .out = "l3"),
    SHAPE(argmax, ".", .out = "l."),
    NO_ARITHMETIC(argmin, "z3", .out = "l."),
    SHAPE(argmin, "3", .attr.dim.dim = 1, .out = "l."),
    SHAPE(topk, "3,5", .attr.topk = {.k = 6}),
    SHAPE(topk, "3,5", .attr.topk = {.k = -1}),
    SHAPE(topk, ".", .attr.topk = {.k = 0}),
    NO_ARITHMETIC(topk, "i5", .attr.topk = {.k = 1}),
    NO_ARITHMETIC(random_bernoulli, "", .out = "i3"),
    ARG(random_bernoulli, "", .out = "3", .attr.random.p = 1.5),
};
enum { N_ERRORS = sizeof errors / sizeof *errors };

/* Tensors of a list of words, filled with 0xFF. */
static void make_views(conf_rig *rig, const char *spec, hx_tensor **out, int *n) {
    char words[256], *rest;
    *n = 0;
    snprintf(words, sizeof words, "%s", spec);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        conf_operand operand;
        conf_operand_parse(word, HX_F32, &operand);
        hx_tensor **x = &out[(*n)++];
        MUST(hx_tensor_create(rig->device, operand.dtype, operand.shape, x));
        MUST(hx_stream_fill(rig->stream, hx_tensor_data(*x), &(unsigned char){0xFF}, 1,
                            (int64_t)hx_tensor_bytes(*x)));
    }
}

static bool is_poison(conf_rig *rig, const hx_tensor *x) {
    size_t n_bytes = hx_tensor_bytes(x);
    unsigned char *bytes = malloc(n_bytes + 1);
    bool same = true;
    cr_assert_not_null(bytes);
    if (rig->props.is_dry)
        memset(bytes, 0xFF, n_bytes);
    else
        MUST(hx_tensor_read(rig->stream, x, bytes));
    for (size_t i = 0; i < n_bytes; i++) same = same && bytes[i] == 0xFF;
    free(bytes);
    return same;
}

static void check_error(conf_rig *rig, const struct error_case *e) {
    const hx_op_info *info = hx_op_info_get(e->c.op);
    hx_tensor *in[HX_OP_MAX_IN + 2] = {NULL}, *out[HX_OP_MAX_OUT] = {NULL}, *none[HX_OP_MAX_OUT] = {NULL};
    int n_in, n_out;
    make_views(rig, e->c.in, in, &n_in);
    make_views(rig, e->c.out ? e->c.out : "3,5 3,5 3,5", out, &n_out);
    hx_status status = hx_op_run(&rig->ctx, e->c.op, in, n_in, &e->c.attr, e->c.skip, out);
    cr_expect_eq(status, e->code, "%s(%s) on %s: %s %s, expected %s", info->name, e->c.in,
                 hx_device_name(rig->device), hx_status_name(status), status ? hx_error_message() : "",
                 hx_status_name(e->code));
    cr_expect(strlen(hx_error_message()) > strlen(hx_status_name(e->code)), "%s: no message", info->name);
    for (int k = 0; k < n_out; k++)
        cr_expect(is_poison(rig, out[k]), "%s(%s) wrote to output %d", info->name, e->c.in, k);
    status = hx_op_run(&rig->ctx, e->c.op, in, n_in, &e->c.attr, e->c.skip, none);
    cr_expect_neq(status, HX_OK);
    for (int k = 0; k < HX_OP_MAX_OUT; k++)
        cr_expect_null(none[k], "%s(%s) made output %d", info->name, e->c.in, k);
    for (int k = 0; k < n_out; k++) hx_tensor_destroy(&out[k]);
    for (int k = 0; k < n_in; k++) hx_tensor_destroy(&in[k]);
}

static void check_errors(const char *backend) {
    conf_rig rig;
    conf_rig_open(backend, 2, &rig);
    for (int i = 0; i < N_ERRORS; i++) check_error(&rig, &errors[i]);
    conf_rig_close(&rig);
}

Test(errors, a_wrong_call_gets_its_code_and_writes_nothing_on_ref) { check_errors("ref"); }
Test(errors, a_wrong_call_gets_its_code_in_a_dry_run) { check_errors("meta"); }
Test(errors, a_wrong_call_gets_its_code_and_writes_nothing_on_the_other_backends) {
    for (int b = 0; conf_backend(b) != NULL; b++) check_errors(conf_backend(b));
}

Test(errors, every_op_has_an_error_case) {
    for (int op = 0; op < HX_OP_COUNT; op++) {
        int n = 0;
        for (int i = 0; i < N_ERRORS; i++) n += errors[i].c.op == (hx_op)op;
        bool is_view = hx_op_info_get((hx_op)op)->flags & HX_OP_VIEW;
        cr_expect(is_view || n > 0, "%s has no error case", hx_op_info_get((hx_op)op)->name);
    }
}

Test(errors, an_output_of_the_wrong_shape_or_dtype_is_refused_by_every_op) {
    conf_rig ref;
    conf_rig_open("ref", 1, &ref);
    for (int i = 0; i < conf_n_cases; i++) {
        const conf_case *c = &conf_cases[i];
        if (hx_op_info_get(c->op)->flags & HX_OP_INOUT) continue;
        conf_operands in;
        hx_tensor *views[HX_OP_MAX_IN] = {NULL}, *out[HX_OP_MAX_OUT] = {NULL};
        conf_operands_make(&ref, c, HX_F32, &in);
        for (int k = 0; k < in.n; k++) {
            hx_tensor *base;
            conf_operand_upload(&ref, &in.items[k], &base);
            MUST(conf_operand_view(&ref.ctx, &in.items[k], base, &views[k]));
            hx_tensor_destroy(&base);
        }
        for (int k = 0; k < HX_OP_MAX_OUT; k++)
            MUST(hx_tensor_create(ref.device, HX_F32, HX_SHAPE(2, 2, 77), &out[k]));
        hx_status status = hx_op_run(&ref.ctx, c->op, views, in.n, &c->attr, 0, out);
        cr_expect(status == HX_ERR_SHAPE || status == HX_ERR_DTYPE, "%s(%s): %s", hx_op_info_get(c->op)->name,
                  c->in, hx_status_name(status));
        for (int k = 0; k < HX_OP_MAX_OUT; k++) hx_tensor_destroy(&out[k]);
        for (int k = 0; k < in.n; k++) hx_tensor_destroy(&views[k]);
        conf_operands_free(&in);
    }
    conf_rig_close(&ref);
}

/* Dispatch checks dtypes before; a backend must not rely on it. */
Test(errors, ref_names_the_op_and_the_dtype_it_has_no_kernel_for) {
    conf_rig ref;
    hx_tensor *x, *y;
    conf_rig_open("ref", 1, &ref);
    MUST(hx_tensor_create(ref.device, HX_U8, HX_SHAPE(3), &x));
    MUST(hx_tensor_create(ref.device, HX_U8, HX_SHAPE(3), &y));
    hx_op_call call = {.op = HX_OP_exp, .n_in = 1, .n_out = 1};
    call.in[0] = hx_op_operand(x);
    call.out[0] = hx_op_operand(y);
    cr_expect_eq(hx_stream_exec(ref.stream, &call), HX_ERR_UNSUPPORTED);
    cr_expect(strstr(hx_error_message(), "exp") && strstr(hx_error_message(), "u8"), "%s",
              hx_error_message());
    call.op = HX_OP_permute;
    cr_expect_eq(hx_stream_exec(ref.stream, &call), HX_ERR_UNSUPPORTED);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
    conf_rig_close(&ref);
}

Test(errors, an_op_that_only_moves_elements_does_not_widen_them) {
    static const struct {
        hx_op op;
        int n_in, first; /* of the tensors below */
    } moves[] = {{HX_OP_where, 3, 0}, {HX_OP_cat, 1, 1}, {HX_OP_gather, 2, 2}, {HX_OP_pad, 1, 1}};
    conf_rig rig;
    conf_rig_open("ref", 1, &rig);
    hx_tensor *cond, *x, *again, *index, *wide;
    MUST(hx_tensor_create(rig.device, HX_BOOL, HX_SHAPE(3), &cond));
    MUST(hx_tensor_create(rig.device, HX_BF16, HX_SHAPE(3), &x));
    MUST(hx_tensor_create(rig.device, HX_BF16, HX_SHAPE(3), &again));
    MUST(hx_tensor_create(rig.device, HX_I32, HX_SHAPE(3), &index));
    MUST(hx_tensor_create(rig.device, HX_F32, HX_SHAPE(3), &wide));
    hx_tensor *in[] = {cond, x, again, index};
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++) {
        cr_expect_eq(hx_op_run(&rig.ctx, moves[i].op, in + moves[i].first, moves[i].n_in, NULL, 0, &wide), HX_ERR_DTYPE,
                     "%s writes bf16 elements as f32", hx_op_info_get(moves[i].op)->name);
        cr_expect(strstr(hx_error_message(), "output 0 is f32: expected bf16"), "%s", hx_error_message());
    }
    for (int i = 0; i < 4; i++) hx_tensor_destroy(&in[i]);
    hx_tensor_destroy(&wide);
    conf_rig_close(&rig);
}

Test(errors, a_missing_tensor_is_refused_by_every_typed_function) {
    conf_rig rig;
    conf_rig_open("ref", 1, &rig);
    hx_ctx *c = &rig.ctx;
    hx_tensor *x, *no = NULL, *y = NULL, *z = NULL, *parts[2] = {NULL};
    const int64_t two[] = {1, 1};
    const hx_conv_config conv = {0};
    MUST(hx_tensor_create(rig.device, HX_F32, HX_SHAPE(2), &x));
    MUST(hx_tensor_fill(rig.stream, x, 1));
    hx_tensor *const some[] = {x, NULL};
#define REFUSED(call) cr_expect_eq((call), HX_ERR_ARG, "%s: %s", #call, hx_error_message())
    REFUSED(hx_binary(c, HX_OP_add, no, x, &y));
    REFUSED(hx_binary(c, HX_OP_add, x, no, &y));
    REFUSED(hx_compare(c, HX_OP_less, no, x, &y));
    REFUSED(hx_where(c, no, x, x, &y));
    REFUSED(hx_unary(c, HX_OP_exp, no, &y));
    REFUSED(hx_affine(c, no, 1, 0, &y));
    REFUSED(hx_clamp(c, no, 0, 1, &y));
    REFUSED(hx_swiglu(c, no, &y));
    REFUSED(hx_cast(c, no, HX_F64, &y));
    REFUSED(hx_contiguous(c, no, &y));
    REFUSED(hx_reshape(c, no, HX_SHAPE(2), &y));
    REFUSED(hx_squeeze(c, no, 0, &y));
    REFUSED(hx_unsqueeze(c, no, 0, &y));
    REFUSED(hx_permute(c, no, (int[]){0}, &y));
    REFUSED(hx_transpose(c, no, 0, 0, &y));
    REFUSED(hx_slice(c, no, 0, 0, 1, 1, &y));
    REFUSED(hx_expand(c, no, HX_SHAPE(2), &y));
    REFUSED(hx_split(c, no, 0, two, 2, parts));
    REFUSED(hx_view_as_real(c, no, &y));
    REFUSED(hx_view_as_complex(c, no, &y));
    REFUSED(hx_cat(c, some, 2, 0, &y));
    REFUSED(hx_stack(c, some, 2, 0, &y));
    REFUSED(hx_gather(c, no, 0, x, &y));
    REFUSED(hx_pad(c, no, two, two, HX_PAD_ZERO, 0, &y));
    REFUSED(hx_sum(c, no, NULL, 0, false, &y));
    REFUSED(hx_mean(c, no, NULL, 0, false, &y));
    REFUSED(hx_max(c, no, NULL, 0, false, &y));
    REFUSED(hx_var(c, no, NULL, 0, 1, false, &y));
    REFUSED(hx_std(c, no, NULL, 0, 1, false, &y));
    REFUSED(hx_norm(c, no, 2, NULL, 0, false, &y));
    REFUSED(hx_argmax(c, no, 0, false, &y));
    REFUSED(hx_topk(c, no, 1, false, &y, &z));
    REFUSED(hx_softmax(c, no, 0, &y));
    REFUSED(hx_log_softmax(c, no, 0, &y));
    REFUSED(hx_matmul(c, no, x, &y));
    REFUSED(hx_matmul(c, x, no, &y));
    REFUSED(hx_linear_op(c, no, x, NULL, &y));
    REFUSED(hx_embedding_op(c, no, x, &y));
    REFUSED(hx_embedding_part_op(c, no, x, 0, 0, &y));
    REFUSED(hx_conv(c, no, x, NULL, &conv, &y));
    REFUSED(hx_max_pool(c, no, two, &conv, &y));
    REFUSED(hx_avg_pool(c, no, two, &conv, false, &y));
    REFUSED(hx_fft(c, no, 0, &y));
    REFUSED(hx_ifft(c, no, 0, &y));
    REFUSED(hx_rfft(c, no, 0, &y));
    REFUSED(hx_irfft(c, no, 0, 2, &y));
    REFUSED(hx_fftconv(c, no, x, NULL, &y));
    REFUSED(hx_layernorm_op(c, no, x, NULL, 1e-5, &y));
    REFUSED(hx_rmsnorm_op(c, no, x, 1e-5, &y));
    REFUSED(hx_add_layernorm_op(c, no, x, x, NULL, 1e-5, &y, &z));
    REFUSED(hx_add_rmsnorm_op(c, x, no, x, 1e-5, &y, &z));
    REFUSED(hx_batchnorm_op(c, no, NULL, NULL, 1e-5, &y, NULL, NULL));
    REFUSED(hx_attention_op(c, no, x, x, NULL, false, 0, &y));
    REFUSED(hx_rope(c, no, 10000, 0, &y));
    REFUSED(hx_cross_entropy(c, no, x, 0, &y, &z));
    REFUSED(hx_cross_entropy_part(c, no, x, 0, 0, 0, x, &y, &z));
    REFUSED(hx_cross_entropy_part(c, x, x, 0, 0, 0, no, &y, &z));
    REFUSED(hx_logsumexp_part(c, no, x, 0, 0, &y));
    REFUSED(hx_dropout_op(c, no, 0.5, 0, &y));
    REFUSED(hx_fill_uniform(c, no, (hx_rng){0}, 0, 0, 1));
    REFUSED(hx_copy_into(c, no, x));
    REFUSED(hx_copy_into(c, x, no));
    REFUSED(hx_sumsq_into(c, no, false, x));
#undef REFUSED
    cr_expect(y == NULL && z == NULL && parts[0] == NULL);
    hx_tensor_destroy(&x);
    conf_rig_close(&rig);
}

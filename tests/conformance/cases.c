/* The table of cases. Shapes are odd on purpose: a scalar, an empty dim, broadcasts, strided and transposed
 * views, and one shape that spans several blocks or tiles of any kernel. */
#include <math.h>

#include "tests/conformance/battery.h"

const conf_tolerance_rule conf_tolerances[CONF_N_TOLERANCES] = {
    [CONF_EXACT] = {0, 0, "one correctly rounded operation, or none: the same bits"},
    [CONF_FEW] = {4, 1e-3, "a few rounded operations: 4 ulp"},
    [CONF_LIBM] = {16, 1e-3, "one or two elementary functions: 16 ulp"},
    [CONF_MIXED] = {64, 1, "numbers about 1 cancel: 64 ulp of 1"},
    [CONF_SUM] = {64, 1, "a sum in another order: an ulp for each term, besides 64 ulp of 1"},
    /* as CONF_SUM; each weight may be half a unit off, up or down: what they add grows as the root of their number. Most are far
     * below 1, so that a term adds a small part of a unit */
    [CONF_WEIGHTS] = {64, 1, "a sum of terms with weights that tensor cores take rounded to a half type", 0.06},
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
    {.op = HX_OP_##o, .in = "3,8,16 8,16", .range = r, .tolerance = t},                                      \
    {.op = HX_OP_##o, .in = "131 .", .out = "a131", .range = r, .tolerance = t},                             \
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
#define CONV(...)           {.conv = {__VA_ARGS__}}
/* 1, 2 and 3 spatial dims with the same stride, padding and dilation along each */
#define CONV1(s, p, d, g)   .n = 1, .stride = {s}, .padding = {p}, .dilation = {d}, .groups = g
#define CONV2(s, p, d, g)   .n = 2, .stride = {s, s}, .padding = {p, p}, .dilation = {d, d}, .groups = g
#define CONV3(s, p, d, g)   .n = 3, .stride = {s, s, s}, .padding = {p, p, p}, .dilation = {d, d, d}, .groups = g
#define ATTEND(s, c)        {.attention = {.scale = s, .causal = c}}
#define ROPE(b, first, back) {.rope = {.base = b, .start = first, .inverse = back}}
#define FFT(back, s) {.fft = {.inverse = back, .scale = s}}
#define RFFT(s, c) {.fft = {.scale = s, .interior = c}}
#define IRFFT(m, s, c) {.fft = {.n = m, .scale = s, .interior = c}}
#define IGNORE              {.cross_entropy = {HX_IGNORE_INDEX}}
#define RANDOM(first, q, x, y) {.random = {.rng = {42, 7}, .offset = first, .p = q, .a = x, .b = y}}
/* a part of a vocabulary: of a table's rows, of the columns of logits; parts of a sequence */
#define ROWS(from, all)     {.embedding = {.start = from, .total = all}}
#define ROWS_BWD(n, add, from, all) {.embedding = {.rows = n, .accumulate = add, .start = from, .total = all}}
#define COLUMNS(from, all)  {.cross_entropy = {.ignore_index = HX_IGNORE_INDEX, .start = from, .total = all}}
#define RUNS(first, q, n, apart) {.random = {.rng = {42, 7}, .offset = first, .p = q, .inner = n, .stride = apart}}
/* elementwise, comparisons, reductions, movement */
#define CLAMP(a, b)         {.clamp = {a, b}}
#define LEAKY(a)            {.leaky = {a}}
#define STAT(a, b, n, ...)  {.stat = {.p = a, .correction = b, .n_dims = n, .dims = {__VA_ARGS__}}}
#define STAT_KEEP(a, b, n, ...) {.stat = {.p = a, .correction = b, .n_dims = n, .dims = {__VA_ARGS__}, .keepdim = true}}
#define ALONG(d)            {.dim = {.dim = d}}
#define ALONG_KEEP(d)       {.dim = {.dim = d, .keepdim = true}}
#define INTO(d, n)          {.dim = {.dim = d, .size = n}}
#define TOPK(n, s)          {.topk = {.k = n, .smallest = s}}
#define PAD(m, ...)         {.pad = {.mode = m, .value = 0.5, __VA_ARGS__}}
#define BEFORE(...)         .before = {__VA_ARGS__}
#define AFTER(...)          .after = {__VA_ARGS__}
#define COMPARE(o)                                                                                           \
    {.op = HX_OP_##o, .in = "3,5 3,5", .range = CONF_STEPS},                                                 \
    {.op = HX_OP_##o, .in = "4,1 1,7", .range = CONF_STEPS},                                                 \
    {.op = HX_OP_##o, .in = ". 3,2t", .range = CONF_STEPS},                                                  \
    {.op = HX_OP_##o, .in = "0,3 3"},                                                                        \
    {.op = HX_OP_##o, .in = "3,40e 3,40s", .range = CONF_STEPS},                                             \
    {.op = HX_OP_##o, .in = "3,5 3,5", .out = "o3,5t", .range = CONF_STEPS},                                 \
    {.op = HX_OP_##o, .in = "70001 70001", .range = CONF_STEPS},                                             \
    {.op = HX_OP_##o, .in = "i5,7 i5,7t", .n_ids = 3},                                                       \
    {.op = HX_OP_##o, .in = "l40,70s l70", .n_ids = 3},                                                      \
    {.op = HX_OP_##o, .in = "b5,7 b5,1", .n_ids = 3},                                                        \
    {.op = HX_OP_##o, .in = "c5,7 c5,7s", .n_ids = 3},                                                       \
    {.op = HX_OP_##o, .in = "o70 o70", .n_ids = 2}
/* each reduction over one dim, all, a leading one, strided, repeated, empty results, and across blocks */
#define STATISTIC(o, r, t, a, b)                                                                          \
    {.op = HX_OP_##o, .in = "3,5", .attr = STAT(a, b, 2, 0, 1), .range = r, .tolerance = t, .terms = 300},     \
    {.op = HX_OP_##o, .in = "3,5,2", .attr = STAT(a, b, 1, 1), .range = r, .tolerance = t, .terms = 300},      \
    {.op = HX_OP_##o, .in = "3,5,2", .attr = STAT_KEEP(a, b, 2, 0, 2), .range = r, .tolerance = t, .terms = 300}, \
    {.op = HX_OP_##o, .in = "5,12t", .attr = STAT(a, b, 1, 0), .range = r, .tolerance = t, .terms = 300},      \
    {.op = HX_OP_##o, .in = "7,12", .attr = STAT(a, b, 1, 0), .range = r, .tolerance = t, .terms = 300},       \
    {.op = HX_OP_##o, .in = "2,5,7s", .attr = STAT(a, b, 1, 2), .range = r, .tolerance = t, .terms = 300},     \
    {.op = HX_OP_##o, .in = "4,5e", .attr = STAT(a, b, 1, 0), .range = r, .tolerance = t, .terms = 300},       \
    {.op = HX_OP_##o, .in = "0,4", .attr = STAT(a, b, 1, 1)},                                                \
    {.op = HX_OP_##o, .in = "6,11", .out = "6s", .attr = STAT(a, b, 1, 1), .range = r, .tolerance = t, .terms = 300}, \
    {.op = HX_OP_##o, .in = "90001", .attr = STAT(a, b, 1, 0), .range = r, .tolerance = t, .terms = 300},      \
    {.op = HX_OP_##o, .in = "1031,37", .attr = STAT(a, b, 1, 0), .range = r, .tolerance = t, .terms = 300},    \
    {.op = HX_OP_##o, .in = "3,200,2100", .attr = STAT(a, b, 1, 1), .range = r, .tolerance = t, .terms = 300}, \
    {.op = HX_OP_##o, .in = "37,1031", .attr = STAT(a, b, 1, 1), .range = r, .tolerance = t, .terms = 300}
#define ARG(o)                                                                                               \
    {.op = HX_OP_##o, .in = "3,5", .attr = ALONG(1), .range = CONF_STEPS},                                   \
    {.op = HX_OP_##o, .in = "3,5,2", .attr = ALONG(1), .range = CONF_STEPS},                                 \
    {.op = HX_OP_##o, .in = "5,3t", .attr = ALONG_KEEP(0), .range = CONF_STEPS},                             \
    {.op = HX_OP_##o, .in = "4,5e", .attr = ALONG(0)},                                                       \
    {.op = HX_OP_##o, .in = "0,4", .attr = ALONG(1)},                                                        \
    {.op = HX_OP_##o, .in = "1031", .attr = ALONG(0), .range = CONF_STEPS},                                  \
    {.op = HX_OP_##o, .in = "70,9,150", .attr = ALONG(1), .range = CONF_STEPS},                              \
    {.op = HX_OP_##o, .in = "i9,70", .attr = ALONG(0), .n_ids = 5},                                          \
    {.op = HX_OP_##o, .in = "l9,7s", .attr = ALONG(1), .n_ids = 5},                                          \
    {.op = HX_OP_##o, .in = "b9,7", .attr = ALONG(1), .n_ids = 5},                                           \
    {.op = HX_OP_##o, .in = "c9,7t", .attr = ALONG(1), .n_ids = 5},                                          \
    {.op = HX_OP_##o, .in = "o9,7", .attr = ALONG(0), .n_ids = 2}
#define COMPLEX(o)                                                                                           \
    {.op = HX_OP_##o, .in = "x3,5 x3,5", .tolerance = CONF_MIXED},                                           \
    {.op = HX_OP_##o, .in = "x4,1 x1,7", .tolerance = CONF_MIXED},                                           \
    {.op = HX_OP_##o, .in = "x5,40t x5,40s", .tolerance = CONF_MIXED},                                       \
    {.op = HX_OP_##o, .in = "x0,3 x3"},                                                                      \
    {.op = HX_OP_##o, .in = "x3,5e x.", .out = "x3,5t", .tolerance = CONF_MIXED},                                   \
    {.op = HX_OP_##o, .in = "x20001 x20001", .tolerance = CONF_MIXED}
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
    {HX_OP_affine, "5,7t", "a5,7", .attr = AFFINE(-1.7, 0.3), .tolerance = CONF_MIXED},
    UNARY(exp, CONF_PLAIN, CONF_LIBM, true),
    UNARY(log, CONF_POSITIVE, CONF_LIBM, true),
    UNARY(sqrt, CONF_POSITIVE, CONF_EXACT, true),
    UNARY(abs, CONF_OFF_KINKS, CONF_EXACT, true),
    UNARY(sign, CONF_OFF_KINKS, CONF_EXACT, true),
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
    /* rows of packs and of single elements, shorter and longer than a warp, 256 threads or 512 take at once */
    {HX_OP_swiglu, "3,6", .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_swiglu, "5,4t", .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_swiglu, "2", .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_swiglu, "0,4", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "3,0", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "2,3,14s", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "3,6e", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "3,4,80h", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "7,2,3,2,1,10", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "3,6", "3,3t", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "5,64", "a5,32", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "11,64", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "33,2062", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "2,8224", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "2,35200", .tolerance = CONF_LIBM},
    {HX_OP_swiglu, "3,5002", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_swiglu_bwd, "3,6 3,3", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "0,6 0,3", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "3,0 3,0", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "2 1", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "5,14t 5,7s", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "3,4,80h 3,4,40e", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "3,6 3,3", "3,6t", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "3,4,80 3,4,40", "3,4,80h", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "5,64 5,32", "a5,64", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "11,64 11,32", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "33,2062 33,1031", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "2,8224 2,4112", .tolerance = CONF_MIXED},
    {HX_OP_swiglu_bwd, "2,35200 2,17600", .tolerance = CONF_MIXED},

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
    {HX_OP_sum, "5,20480", .attr = REDUCE(1, 1), .tolerance = CONF_SUM, .terms = 300},
    {HX_OP_sum, "3,300,64", .attr = REDUCE(1, 1), .tolerance = CONF_SUM, .terms = 300},
    {HX_OP_sum, "66000,8", .attr = REDUCE(1, 0), .tolerance = CONF_SUM, .terms = 1024},
    {HX_OP_sum, "4,12,40", .attr = REDUCE(2, 0, 2), .tolerance = CONF_SUM, .terms = 160},
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
    {HX_OP_softmax, "9,512", .tolerance = CONF_MIXED},
    {HX_OP_softmax, "2,16504", .range = CONF_WIDE, .tolerance = CONF_MIXED},
    {HX_OP_softmax_bwd, "3,5 3,5", .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_softmax_bwd, "0,3 0,3", .tolerance = CONF_EXACT},
    {HX_OP_softmax_bwd, "5,7t 5,7s", .tolerance = CONF_SUM, .terms = 70},
    {HX_OP_softmax_bwd, "5,1031 5,1031", .range = CONF_UNIT, .tolerance = CONF_SUM, .terms = 1031},
    {HX_OP_softmax_bwd, "3,4104 3,4104", .range = CONF_UNIT, .tolerance = CONF_SUM, .terms = 4104},

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
    {HX_OP_embedding, "l70 300,1032", .n_ids = 300, .wild_ids = true, .has_nan = true},
    {HX_OP_embedding, "i2,3 4,4", .attr = ROWS(0, 9), .n_ids = 9, .grad = true},
    {HX_OP_embedding, "l5,3 3,5", .attr = ROWS(4, 9), .n_ids = 9, .grad = true},
    {HX_OP_embedding, "i40 2,5t", .attr = ROWS(7, 9), .n_ids = 9, .wild_ids = true, .has_nan = true},
    {HX_OP_embedding, "l40 0,4", .attr = ROWS(4, 9), .n_ids = 9, .wild_ids = true, .has_nan = true},
    {HX_OP_embedding, "i70 129,1032", .attr = ROWS(100, 300), .n_ids = 300, .wild_ids = true, .has_nan = true},
    {HX_OP_embedding_bwd, "i2,3 2,3,4", .attr.embedding = {7, false}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 6},
    {HX_OP_embedding_bwd, "l9s 9,4t", .attr.embedding = {7, true}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 9, .fills = true},
    {HX_OP_embedding_bwd, "i0 0,4", .attr.embedding = {3, false}, .n_ids = 3},
    {HX_OP_embedding_bwd, "i30 30,4", .attr.embedding = {7, false}, .n_ids = 7, .tolerance = CONF_SUM,
     .terms = 30, .wild_ids = true},
    {HX_OP_embedding_bwd, "l2000 2000,65", .attr.embedding = {31, false}, .n_ids = 31, .tolerance = CONF_SUM,
     .terms = 200},
    /* ids of more than one byte, and many times the same one */
    {HX_OP_embedding_bwd, "i3000 3000,24", .attr.embedding = {700, true}, .n_ids = 700, .tolerance = CONF_SUM,
     .terms = 20, .fills = true, .wild_ids = true},
    {HX_OP_embedding_bwd, "l40,60 40,60,8", .attr.embedding = {70000, false}, .n_ids = 70000, .tolerance = CONF_SUM,
     .terms = 10},
    {HX_OP_embedding_bwd, "i5200 5200,3", .attr.embedding = {40, false}, .n_ids = 40, .tolerance = CONF_SUM,
     .terms = 250}, /* more counts of the sort than a block has threads */
    {HX_OP_embedding_bwd, "i130 130,2100", .attr.embedding = {2, false}, .n_ids = 1, .tolerance = CONF_SUM,
     .terms = 130}, /* one id in three tiles, and more columns than a grid's turn has */
    {HX_OP_embedding_bwd, "i1500 1500,40", .attr.embedding = {3, false}, .n_ids = 1, .tolerance = CONF_SUM,
     .terms = 3000},
    {HX_OP_embedding_bwd, "i30 30,4", .attr = ROWS_BWD(4, false, 0, 9), .n_ids = 9, .tolerance = CONF_SUM, .terms = 30,
     .wild_ids = true},
    {HX_OP_embedding_bwd, "l30 30,5t", .attr = ROWS_BWD(3, true, 4, 9), .n_ids = 9, .tolerance = CONF_SUM, .terms = 30,
     .fills = true, .wild_ids = true},
    {HX_OP_embedding_bwd, "i30 30,4", .attr = ROWS_BWD(0, false, 4, 9), .n_ids = 9},
    {HX_OP_embedding_bwd, "l3000 3000,24", .attr = ROWS_BWD(301, false, 399, 700), .n_ids = 700, .tolerance = CONF_SUM,
     .terms = 20, .wild_ids = true},

    {HX_OP_layernorm, "3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_layernorm, "2,3,4 4", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_layernorm, "5,4t 4s 4s", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_layernorm, "5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_layernorm, "0,5 5 5", .attr = NORM(1e-5)},
    {HX_OP_layernorm, "3,0 0 0", .attr = NORM(0.1), .tolerance = CONF_FEW},
    {HX_OP_layernorm, "2,9,24h 24 24", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_layernorm, "3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 6},
    {HX_OP_layernorm, "300,131 131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 131},
    {HX_OP_layernorm, "4,1031 1031 1031", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 1031},
    {HX_OP_layernorm, "3,2056 2056 2056", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 2056},
    {HX_OP_layernorm, "3,13000 13000", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 13000},
    /* rows for which a GPU's block just does, or just does not, need more than its usual shared memory */
    {HX_OP_layernorm, "3,12288 12288 12288", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 12288},
    {HX_OP_layernorm_bwd, "16,768 768 @1 @2 16,768", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 768},
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
    {HX_OP_layernorm_bwd, "600,64 64 @1 @2 600,64", .attr = NORM_ADD(7), .tolerance = CONF_SUM, .terms = 1200,
     .fills = true},
    {HX_OP_layernorm_bwd, "5,2056 2056 @1 @2 5,2056", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 2056},
    {HX_OP_layernorm_bwd, "3,13000 13000 @1 @2 3,13000", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 13000},
    /* with ds */
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_layernorm_bwd, "5,4t 4 @1 @2 5,4 5,4t", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5s 3,5e", .attr = NORM_ADD(7), .tolerance = CONF_SUM, .terms = 50, .fills = true},
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50, .skip = 6},
    {HX_OP_layernorm_bwd, "0,5 5 @1 @2 0,5 0,5", .attr = NORM_ADD(0)},
    {HX_OP_layernorm_bwd, "300,131 131 @1 @2 300,131 300,131", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_layernorm_bwd, "70,64 64 @1 @2 70,64 70,64", .attr = NORM_ADD(1), .tolerance = CONF_SUM, .terms = 1200, .fills = true},
    {HX_OP_layernorm_bwd, "3,13000 13000 @1 @2 3,13000 3,13000", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 13000},
    {HX_OP_add_layernorm, "3,5 3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_add_layernorm, "2,3,4 2,3,4 4", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_add_layernorm, "5,4t 5,4s 4s 4s", .attr = NORM(0.5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_add_layernorm, "5 5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_add_layernorm, "0,5 0,5 5 5", .attr = NORM(1e-5)},
    {HX_OP_add_layernorm, "3,0 3,0 0 0", .attr = NORM(0.1), .tolerance = CONF_FEW},
    {HX_OP_add_layernorm, "2,9,24h 2,9,24e 24 24", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_add_layernorm, "3,5 3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 6},
    {HX_OP_add_layernorm, "3,5 3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 8},
    {HX_OP_add_layernorm, "3,5 3,5 5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 1},
    {HX_OP_add_layernorm, "300,131 300,131 131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 131},
    {HX_OP_add_layernorm, "4,1031 4,1031 1031 1031", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 1031},
    {HX_OP_add_layernorm, "16,768 16,768 768 768", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 768},
    {HX_OP_add_layernorm, "3,13000 3,13000 13000", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 13000},
    {HX_OP_add_layernorm, "2,24584 2,24584 24584 24584", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 24584, .skip = 8},
    {HX_OP_add_layernorm, "2,24584 2,24584 24584 24584", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 24584},
    {HX_OP_rmsnorm, "3,5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rmsnorm, "5,4t 4s", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rmsnorm, "0,5 5", .attr = NORM(1e-5)},
    {HX_OP_rmsnorm, "3,0 0", .attr = NORM(0.1), .tolerance = CONF_FEW},
    {HX_OP_rmsnorm, "3,5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 2},
    {HX_OP_rmsnorm, "300,131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 131},
    {HX_OP_rmsnorm, "3,2056 2056", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 2056},
    {HX_OP_rmsnorm_bwd, "3,5 5 @1 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_rmsnorm_bwd, "5,4t 4s @1 5,4t", .attr = NORM_ADD(3), .tolerance = CONF_SUM, .terms = 50,
     .fills = true},
    {HX_OP_rmsnorm_bwd, "3,5 5 @1 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50, .skip = 2},
    {HX_OP_rmsnorm_bwd, "0,5 5 @1 0,5", .attr = NORM_ADD(0)},
    {HX_OP_rmsnorm_bwd, "300,131 131 @1 300,131", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_rmsnorm_bwd, "5,2056 2056 @1 5,2056", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 2056},
    {HX_OP_rmsnorm_bwd, "3,5 5 @1 3,5 3,5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_rmsnorm_bwd, "5,4t 4s @1 5,4t 5,4s", .attr = NORM_ADD(3), .tolerance = CONF_SUM, .terms = 50, .fills = true},
    {HX_OP_rmsnorm_bwd, "300,131 131 @1 300,131 300,131", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_add_rmsnorm, "3,5 3,5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_add_rmsnorm, "5,4t 5,4s 4s", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_add_rmsnorm, "0,5 0,5 5", .attr = NORM(1e-5)},
    {HX_OP_add_rmsnorm, "3,0 3,0 0", .attr = NORM(0.1), .tolerance = CONF_FEW},
    {HX_OP_add_rmsnorm, "3,5 3,5 5", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 6},
    {HX_OP_add_rmsnorm, "300,131 300,131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 131},
    {HX_OP_add_rmsnorm, "3,2056 3,2056 2056", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 2056},

    /* convolutions, pools and batch norm */
    {HX_OP_conv, "2,3,7 4,3,3 4", .attr = CONV(CONV1(1, 0, 1, 1)), .tolerance = CONF_SUM, .terms = 10, .grad = true},
    {HX_OP_conv, "2,4,9 6,2,2 6", .attr = CONV(CONV1(2, 3, 3, 2)), .tolerance = CONF_SUM, .terms = 5, .grad = true},
    {HX_OP_conv, "2,3,5,4 2,3,3,2", .attr = CONV(CONV2(1, 1, 1, 1)), .tolerance = CONF_SUM, .terms = 18, .grad = true},
    {HX_OP_conv, "1,2,6,5t 3,2,2,3t 3", .attr = CONV(.n = 2, .stride = {2, 1}, .padding = {0, 2}, .dilation = {1, 2}, .groups = 1),
     .tolerance = CONF_SUM, .terms = 13, .grad = true},
    {HX_OP_conv, "2,4,4,5 4,1,3,3 4", .attr = CONV(CONV2(1, 1, 1, 4)), .tolerance = CONF_SUM, .terms = 10, .grad = true},
    {HX_OP_conv, "1,2,3,4,3 9,2,2,3,2 9s", .attr = CONV(.n = 3, .stride = {1, 2, 1}, .padding = {1, 0, 1}, .dilation = {2, 1, 1}, .groups = 1),
     .tolerance = CONF_SUM, .terms = 25, .grad = true},
    {HX_OP_conv, "0,3,5,4 2,3,3,2 2", .attr = CONV(CONV2(1, 0, 1, 1))},
    {HX_OP_conv, "2,0,5 4,0,3 4", .attr = CONV(CONV1(1, 0, 1, 1)), .tolerance = CONF_EXACT},
    {HX_OP_conv, "2,0,5 16,0,3", .attr = CONV(CONV1(1, 0, 1, 1)), .tolerance = CONF_EXACT},
    {HX_OP_conv, "2,3,5 0,3,3 0", .attr = CONV(CONV1(1, 0, 1, 1))},
    {HX_OP_conv, "2,9,0 3,9,3 3", .attr = CONV(CONV1(1, 2, 1, 1)), .tolerance = CONF_EXACT},
    {HX_OP_conv, "2,9,3 5,9,1 5", .attr = CONV(CONV1(2, 4, 1, 1)), .tolerance = CONF_SUM, .terms = 10},
    {HX_OP_conv, "3,5,4 7,5,4e 7", "3,7,2t", .attr = CONV(CONV1(2, 1, 1, 1)), .tolerance = CONF_SUM, .terms = 21},
    {HX_OP_conv, "1,12,19,17 130,12,5,5 130", .attr = CONV(CONV2(1, 2, 1, 1)), .tolerance = CONF_SUM, .terms = 301},
    {HX_OP_conv, "31,16,5,3 24,8,3,3", .attr = CONV(CONV2(1, 1, 1, 2)), .tolerance = CONF_SUM, .terms = 72},
    {HX_OP_conv, "2,5,37,41 5,1,3,3 5", .attr = CONV(CONV2(2, 1, 1, 5)), .tolerance = CONF_SUM, .terms = 10},
    {HX_OP_conv, "1,3,9,8,7 11,3,3,3,3 11", .attr = CONV(CONV3(1, 1, 1, 1)), .tolerance = CONF_SUM, .terms = 82},
    {HX_OP_conv_bwd_x, "4,3,3 2,4,5", .attr = CONV(CONV1(1, 0, 1, 1), .input = {7}), .tolerance = CONF_SUM, .terms = 12},
    {HX_OP_conv_bwd_x, "6,2,2 2,6,7t", .attr = CONV(CONV1(2, 3, 3, 2), .input = {10}), .tolerance = CONF_SUM, .terms = 12},
    {HX_OP_conv_bwd_x, "5,9,1 2,5,2", .attr = CONV(CONV1(3, 0, 1, 1), .input = {6}), .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_conv_bwd_x, "2,3,3,2 0,2,3,3", .attr = CONV(CONV2(1, 0, 1, 1), .input = {5, 4})},
    {HX_OP_conv_bwd_x, "0,9,3 2,0,5", .attr = CONV(CONV1(1, 0, 1, 1), .input = {7}), .tolerance = CONF_EXACT},
    {HX_OP_conv_bwd_x, "130,30,3,3 5,130,9,7", .attr = CONV(CONV2(1, 1, 1, 1), .input = {9, 7}), .tolerance = CONF_SUM, .terms = 1170},
    {HX_OP_conv_bwd_x, "9,3,17,17 1,9,21,20", .attr = CONV(CONV2(1, 3, 1, 1), .input = {31, 30}), .tolerance = CONF_SUM, .terms = 2601},
    {HX_OP_conv_bwd_x, "5,1,3,3 2,5,19,21", .attr = CONV(CONV2(2, 1, 1, 5), .input = {38, 41}), .tolerance = CONF_SUM, .terms = 10},
    {HX_OP_conv_bwd_x, "11,3,3,2,3 1,11,4,4,3", .attr = CONV(CONV3(2, 1, 1, 1), .input = {8, 7, 6}), .tolerance = CONF_SUM, .terms = 198},
    {HX_OP_conv_bwd_w, "2,3,7 2,4,5", .attr = CONV(CONV1(1, 0, 1, 1), .size = {3}), .tolerance = CONF_SUM, .terms = 10},
    {HX_OP_conv_bwd_w, "2,8,10t 2,6,7t", .attr = CONV(CONV1(2, 3, 3, 2), .size = {2}), .tolerance = CONF_SUM, .terms = 14},
    {HX_OP_conv_bwd_w, "2,4,7 2,4,5", .attr = CONV(CONV1(1, 0, 1, 4), .size = {3}, .accumulate = true), .tolerance = CONF_SUM, .terms = 11,
     .fills = true},
    {HX_OP_conv_bwd_w, "2,4,7 2,4,5", .attr = CONV(CONV1(1, 0, 1, 1), .size = {3}, .accumulate = true), .tolerance = CONF_SUM, .terms = 11,
     .fills = true},
    {HX_OP_conv_bwd_w, "0,3,5,4 0,5,3,3", .attr = CONV(CONV2(1, 0, 1, 1), .size = {3, 2}), .tolerance = CONF_EXACT},
    {HX_OP_conv_bwd_w, "2,9,0 2,3,2", .attr = CONV(CONV1(1, 2, 1, 1), .size = {3}), .tolerance = CONF_EXACT},
    {HX_OP_conv_bwd_w, "5,30,9,7 5,130,9,7", .attr = CONV(CONV2(1, 1, 1, 1), .size = {3, 3}), .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_conv_bwd_w, "3,4,41,37 3,9,41,37", .attr = CONV(CONV2(1, 1, 1, 1), .size = {3, 3}), .tolerance = CONF_SUM, .terms = 9000},
    {HX_OP_conv_bwd_w, "2,5,38,41 2,5,19,21", .attr = CONV(CONV2(2, 1, 1, 5), .size = {3, 3}), .tolerance = CONF_SUM, .terms = 2000},
    {HX_OP_conv_bwd_w, "1,3,8,7,6 1,11,4,4,3", .attr = CONV(CONV3(2, 1, 1, 1), .size = {3, 2, 3}), .tolerance = CONF_SUM, .terms = 48},
    {HX_OP_max_pool, "2,3,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}), .range = CONF_APART, .grad = true},
    {HX_OP_max_pool, "2,2,5,6t", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 2}), .range = CONF_APART, .grad = true},
    {HX_OP_max_pool, "1,2,4,3,5", .attr = CONV(CONV3(1, 1, 1, 1), .size = {2, 3, 2}), .range = CONF_APART, .grad = true},
    {HX_OP_max_pool, "2,2,9,8", .attr = CONV(.n = 2, .stride = {1, 2}, .padding = {1, 0}, .dilation = {2, 3}, .groups = 1, .size = {3, 2})},
    {HX_OP_max_pool, "0,3,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3})},
    {HX_OP_max_pool, "2,0,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3})},
    {HX_OP_max_pool, "2,3,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}), .skip = 1},
    {HX_OP_max_pool, "2,3,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}), .skip = 2},
    {HX_OP_max_pool, "5,7,61,47s", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 3})},
    {HX_OP_max_pool_bwd, "l2,3,3 2,3,3", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}, .input = {7}), .n_ids = 7, .tolerance = CONF_MIXED},
    {HX_OP_max_pool_bwd, "i2,2,3,4t 2,2,3,4t", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 2}, .input = {5, 6}), .n_ids = 30, .wild_ids = true,
     .tolerance = CONF_MIXED},
    {HX_OP_max_pool_bwd, "l0,3,3 0,3,3", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}, .input = {7}), .n_ids = 7},
    {HX_OP_max_pool_bwd, "l5,7,31,24 5,7,31,24", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 3}, .input = {61, 47}), .n_ids = 2867,
     .tolerance = CONF_MIXED},
    {HX_OP_avg_pool, "2,3,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_avg_pool, "2,2,5,6t", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 2}), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_avg_pool, "2,2,5,6", .attr = CONV(CONV2(1, 1, 1, 1), .size = {2, 3}, .count_padding = true), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_avg_pool, "1,2,4,3,5", .attr = CONV(CONV3(2, 1, 1, 1), .size = {2, 3, 2}), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_avg_pool, "0,3,7", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3})},
    {HX_OP_avg_pool, "5,7,61,47s", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 3}), .tolerance = CONF_MIXED},
    {HX_OP_avg_pool_bwd, "2,3,3", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}, .input = {7}), .tolerance = CONF_MIXED},
    {HX_OP_avg_pool_bwd, "2,2,3,4t", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 2}, .input = {5, 6}, .count_padding = true),
     .tolerance = CONF_MIXED},
    {HX_OP_avg_pool_bwd, "0,3,3", .attr = CONV(CONV1(2, 0, 1, 1), .size = {3}, .input = {7})},
    {HX_OP_avg_pool_bwd, "5,7,31,24", .attr = CONV(CONV2(2, 1, 1, 1), .size = {3, 3}, .input = {61, 47}), .tolerance = CONF_MIXED},
    {HX_OP_batchnorm, "4,3 3 3", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_batchnorm, "2,3,5 3 3", .attr = NORM(0.1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_batchnorm, "2,2,3,2,2t 2s", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_batchnorm, "3,2,4", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_batchnorm, "1,3 3 3", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_batchnorm, "3,0,4 0 0", .attr = NORM(1e-5)},
    {HX_OP_batchnorm, "4,3,5 3 3", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 6},
    {HX_OP_batchnorm, "4,3,5 3 3", .attr = NORM(1e-5), .tolerance = CONF_MIXED, .skip = 1},
    {HX_OP_batchnorm, "300,131 131 131", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 300},
    {HX_OP_batchnorm, "7,5,41,31h 5 5", .attr = NORM(1e-5), .tolerance = CONF_SUM, .terms = 9000},
    {HX_OP_batchnorm_bwd, "4,3,5 @1 @2 4,3,5 3", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 100},
    {HX_OP_batchnorm_bwd, "4,3 @1 @2 4,3", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 100},
    {HX_OP_batchnorm_bwd, "4,3,5t @1 @2 4,3,5t 3", .attr = NORM_ADD(7), .tolerance = CONF_SUM, .terms = 100, .fills = true},
    {HX_OP_batchnorm_bwd, "4,3,5 @1 @2 4,3,5 3", .attr = NORM_ADD(2), .tolerance = CONF_SUM, .terms = 100, .fills = true},
    {HX_OP_batchnorm_bwd, "4,3,5 @1 @2 4,3,5 3", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 100, .skip = 1},
    {HX_OP_batchnorm_bwd, "4,3,5 @1 @2 4,3,5 3", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 100, .skip = 6},
    {HX_OP_batchnorm_bwd, "3,0,4 @1 @2 3,0,4 0", .attr = NORM_ADD(0)},
    {HX_OP_batchnorm_bwd, "300,131 @1 @2 300,131 131", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 600},
    {HX_OP_batchnorm_bwd, "7,5,41,31 @1 @2 7,5,41,31 5", .attr = NORM_ADD(0), .tolerance = CONF_SUM, .terms = 9000},

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

    /* head dims and dtypes of tensor cores, several tiles long: parts of a fused tensor, grouped heads, more keys than queries and
     * fewer */
    {HX_OP_attention, "1,150,2,64h 1,150,2,64h 1,150,2,64h", .attr = ATTEND(0.125, true), .tolerance = CONF_WEIGHTS,
     .terms = 150},
    {HX_OP_attention_bwd, "1,150,2,64h 1,150,2,64h 1,150,2,64h @0 @1 1,150,2,64", .attr = ATTEND(0.125, true),
     .tolerance = CONF_WEIGHTS, .terms = 1200},
    {HX_OP_attention, "2,70,4,64 2,201,2,64 2,201,2,64", .attr = ATTEND(0.2, true), .tolerance = CONF_WEIGHTS,
     .terms = 201},
    {HX_OP_attention_bwd, "2,70,4,64 2,201,2,64 2,201,2,64 @0 @1 2,70,4,64", .attr = ATTEND(0.2, true),
     .tolerance = CONF_WEIGHTS, .terms = 1608},
    {HX_OP_attention, "1,257,3,64 1,77,1,64 1,77,1,64", .attr = ATTEND(0.125, false), .tolerance = CONF_WEIGHTS,
     .terms = 77},
    {HX_OP_attention_bwd, "1,257,3,64 1,77,1,64 1,77,1,64 @0 @1 1,257,3,64", .attr = ATTEND(0.125, false),
     .tolerance = CONF_WEIGHTS, .terms = 616},
    {HX_OP_attention, "1,150,2,128 1,150,1,128 1,150,1,128", .attr = ATTEND(0.09, true), .tolerance = CONF_WEIGHTS,
     .terms = 150},
    {HX_OP_attention_bwd, "1,150,2,128 1,150,1,128 1,150,1,128 @0 @1 1,150,2,128", .attr = ATTEND(0.09, true),
     .tolerance = CONF_WEIGHTS, .terms = 1200},
    {HX_OP_attention, "1,70,2,128h 1,139,1,128h 1,139,1,128h", .attr = ATTEND(0.09, false), .tolerance = CONF_WEIGHTS,
     .terms = 139},
    {HX_OP_attention_bwd, "1,70,2,128h 1,139,1,128h 1,139,1,128h @0 @1 1,70,2,128", .attr = ATTEND(0.09, false),
     .tolerance = CONF_WEIGHTS, .terms = 1112},
    {HX_OP_rope, "2,3,2,4", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rope, "1,5,3,6h", .attr = ROPE(100, 7, true), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_rope, "2,3,4,2t", .attr = ROPE(10000, 1, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,3,2,8s", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,3,2,8", "2,3,2,8s", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,0,2,4", .attr = ROPE(10000, 0, false)},
    {HX_OP_rope, "2,3,2,0", .attr = ROPE(10000, 0, false)},
    {HX_OP_rope, "3,150,5,64", .attr = ROPE(500000, (int64_t)1 << 20, false), .tolerance = CONF_MIXED},
    {HX_OP_rope, "2,5,3,16h", .attr = ROPE(10000, 1000000, true), .tolerance = CONF_MIXED},
    {HX_OP_rope, "1,3,2,1040", .attr = ROPE(10000, 0, false), .tolerance = CONF_MIXED},

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
    {HX_OP_cross_entropy, "7,1024 l7", .attr = IGNORE, .n_ids = 1024, .tolerance = CONF_SUM, .terms = 1024},
    {HX_OP_cross_entropy, "3,16504 i3", .attr = IGNORE, .range = CONF_WIDE, .n_ids = 16504, .tolerance = CONF_SUM,
     .terms = 16504},
    /* a part's own logsumexp */
    {HX_OP_cross_entropy, "5,4 i5", .attr = COLUMNS(0, 9), .n_ids = 9, .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_cross_entropy, "40,3s l40", .attr = COLUMNS(4, 9), .n_ids = 9, .wild_ids = true, .has_nan = true,
     .tolerance = CONF_SUM, .terms = 40},
    {HX_OP_cross_entropy, "7,517 i7", .attr = COLUMNS(514, 1031), .n_ids = 1031, .tolerance = CONF_SUM, .terms = 517, .skip = 3},
    {HX_OP_cross_entropy, "6,0 l6", .attr = COLUMNS(4, 9), .n_ids = 9, .skip = 3},
    /* that of the whole, given */
    {HX_OP_cross_entropy, "5,4 i5 a5", .attr = IGNORE, .n_ids = 4, .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_cross_entropy, "2,3,4 l2,3 a2,3t", .attr = COLUMNS(0, 9), .n_ids = 9, .tolerance = CONF_SUM, .terms = 6},
    {HX_OP_cross_entropy, "40,3 l40 a40s", .attr = COLUMNS(4, 9), .n_ids = 9, .wild_ids = true, .has_nan = true,
     .tolerance = CONF_SUM, .terms = 40},
    {HX_OP_cross_entropy, "5,4t i5 a5", .attr = {.cross_entropy = {2, 1, 5}}, .n_ids = 5, .tolerance = CONF_SUM, .terms = 5,
     .skip = 4},
    {HX_OP_cross_entropy, "6,0 i6 a6", .attr = COLUMNS(9, 9), .n_ids = 9, .skip = 4},
    {HX_OP_cross_entropy, "0,5 i0 a0", .attr = COLUMNS(4, 9), .n_ids = 9},
    {HX_OP_cross_entropy, "2000,24 l2000 a2000", .attr = COLUMNS(40, 64), .range = CONF_WIDE, .n_ids = 64,
     .tolerance = CONF_SUM, .terms = 2000, .skip = 4},
    {HX_OP_cross_entropy_bwd, "3,5 i3 @2 d.", .attr = IGNORE, .n_ids = 5, .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "5,4t l5 @2 d.", .attr = {.cross_entropy = {2}}, .n_ids = 4,
     .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "0,5 i0 @2 d.", .attr = IGNORE, .n_ids = 5},
    {HX_OP_cross_entropy_bwd, "40,5 l40 @2 d.", .attr = IGNORE, .n_ids = 5, .wild_ids = true, .has_nan = true,
     .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "300,1031 i300 @2 d.", .attr = IGNORE, .n_ids = 1031, .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "3,16504 i3 @2 d.", .attr = IGNORE, .n_ids = 16504, .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "5,4 i5 a5 d.", .attr = COLUMNS(0, 9), .n_ids = 9, .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "40,3t l40 a40 d.", .attr = COLUMNS(4, 9), .n_ids = 9, .wild_ids = true, .has_nan = true,
     .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "6,0 i6 a6 d.", .attr = COLUMNS(4, 9), .n_ids = 9},
    {HX_OP_cross_entropy_bwd, "30,517 l30 @2 d.", .attr = COLUMNS(514, 1031), .n_ids = 1031, .tolerance = CONF_MIXED},
    {HX_OP_cross_entropy_bwd, "40,1024 i40 @2 d.", .attr = COLUMNS(1024, 3072), .n_ids = 3072, .tolerance = CONF_MIXED},

    {HX_OP_dropout, "7,11", .attr = RANDOM(0, 0.3, 0, 0), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_dropout, "7,11t", .attr = RANDOM(1, 0.5, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_dropout, "0,3", .attr = RANDOM(0, 0.5, 0, 0)},
    {HX_OP_dropout, "3,5s", .attr = RANDOM(3, 0, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_dropout, "131", "a131", .attr = RANDOM(4, 0.5, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_dropout, "70001", .attr = RANDOM((int64_t)1 << 33, 0.1, 0, 0), .tolerance = CONF_FEW},
    {HX_OP_dropout, "2,3,4", .attr = RUNS(8, 0.3, 12, 20), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_dropout, "4,3,5", .attr = RUNS(3, 0.5, 15, 21), .tolerance = CONF_FEW, .grad = true},
    {HX_OP_dropout, "5,7t", .attr = RUNS(1, 0.5, 7, 8), .tolerance = CONF_FEW},
    {HX_OP_dropout, "5,8s", .attr = RUNS(4, 0.5, 8, 24), .tolerance = CONF_FEW},
    {HX_OP_dropout, "131", "a131", .attr = RUNS(4, 0.5, 6, 7), .tolerance = CONF_FEW}, /* the last run ends early */
    {HX_OP_dropout, "3,5", .attr = RUNS(0, 0.5, 100, 300), .tolerance = CONF_FEW},
    {HX_OP_dropout, "3,0,4", .attr = RUNS(4, 0.5, 8, 16)},
    {HX_OP_dropout, "7,100,48", .attr = RUNS(((int64_t)1 << 33) + 4800, 0.1, 4800, 14400), .tolerance = CONF_FEW},
    {HX_OP_dropout, "9,1031", .attr = RUNS(1031, 0.1, 1031, 4124), .tolerance = CONF_FEW},
    {HX_OP_random_uniform, "", "7,11", .attr = RANDOM(0, 0, 0, 1), .tolerance = CONF_FEW, .fills = true},
    {HX_OP_random_uniform, "", "0", .attr = RANDOM(0, 0, 0, 1), .fills = true},
    {HX_OP_random_uniform, "", "70001", .attr = RANDOM(3, 0, -1, 2), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_random_normal, "", "7,11", .attr = RANDOM(0, 0, 0, 1), .tolerance = CONF_LIBM, .fills = true},
    {HX_OP_random_normal, "", "0", .attr = RANDOM(0, 0, 0, 1), .fills = true},
    {HX_OP_random_normal, "", "70001", .attr = RANDOM(5, 0, 1, 0.02), .tolerance = CONF_MIXED, .fills = true},

    {HX_OP_adamw, "7,3", "7,3 7,3 7,3", .attr = ADAMW(1), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_adamw, "7,3 d.", "7,3 7,3 7,3", .attr = ADAMW(3), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_adamw, "7,3t d.", "7,3 7,3 7,3", .attr = ADAMW(1000), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_adamw, "0 d.", "0 0 0", .attr = ADAMW(1), .fills = true, .skip = 8},
    {HX_OP_adamw, "70001 d.", "70001 70001 70001", .attr = ADAMW(2), .tolerance = CONF_MIXED, .fills = true, .skip = 8},

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
    {HX_OP_layernorm_bwd, "3,5 5 @1 @2 3,5 3,5", "a3,5 5 5", .attr = NORM_ADD(1), .tolerance = CONF_SUM, .terms = 50,
     .fills = true},
    {HX_OP_add_layernorm, "3,5 3,5 5 5", "a3,5 a3 a3 a3,5", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_add_layernorm, "3,64 3,64 64", "3,64 a3 a3 a3,64", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    {HX_OP_add_rmsnorm, "3,64 3,64 64", "3,64s a3 3,64t", .attr = NORM(1e-5), .tolerance = CONF_MIXED},
    /* optimizers */
    {HX_OP_adamw, "7,3t d.", "7,3s 7,3 7,3t", .attr = ADAM(2), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_adamw, "70001", "70001 70001 70001", .attr = ADAM(5), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_adamw, "a7,3t d.", "7,3 a7,3 a7,3", .attr = ADAM(3), .tolerance = CONF_MIXED, .fills = true, .skip = 8},
    {HX_OP_sgd, "7,3 d.", "7,3 7,3", .attr = SGD(0.9, 0.5, false, false), .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_sgd, "7,3t", "7,3 7,3s", .attr = SGD(0.9, 0, true, false), .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_sgd, "5 d.", "5 5", .attr = SGD(0.9, 0.5, true, true), .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_sgd, "3,5e", "3,5 3,5", .attr = SGD(0, 0, false, false), .tolerance = CONF_MIXED, .fills = true, .skip = 6},
    {HX_OP_sgd, "0", "0 0", .attr = SGD(0.9, 0, false, false), .fills = true, .skip = 4},
    {HX_OP_sgd, "70001 d.", "70001 70001", .attr = SGD(0.9, 0.1, true, false), .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_sgd, "70001", "70001 70001", .attr = SGD(0, 0, false, false), .tolerance = CONF_MIXED, .fills = true, .skip = 6},
    {HX_OP_rmsprop, "7,3 d.", "7,3 7,3 7,3 7,3", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true, .skip = 16},
    {HX_OP_rmsprop, "7,3t", "7,3 7,3s 7,3 7,3", .attr = RMSPROP(0), .tolerance = CONF_MIXED, .fills = true, .skip = 24},
    {HX_OP_rmsprop, ".", ". . . .", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true, .skip = 20},
    {HX_OP_rmsprop, "0", "0 0 0 0", .attr = RMSPROP(0.9), .fills = true, .skip = 16},
    {HX_OP_rmsprop, "70001 d.", "70001 70001 70001 70001", .attr = RMSPROP(0), .tolerance = CONF_MIXED, .fills = true, .skip = 28},
    {HX_OP_rmsprop, "70001", "70001 70001 70001 70001", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true, .skip = 20},
    {HX_OP_lion, "7,3 d.", "7,3 7,3", .attr = LION, .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_lion, "7,3t", "7,3s 7,3", .attr = LION, .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    {HX_OP_lion, "0", "0 0", .attr = LION, .fills = true, .skip = 4},
    {HX_OP_lion, "70001 d.", "70001 70001", .attr = LION, .tolerance = CONF_MIXED, .fills = true, .skip = 4},
    /* with the parameter, f32 in every run, rounded beside */
    {HX_OP_adamw, "f7,3 d.", "f7,3 f7,3 f7,3 h7,3", .attr = ADAMW(3), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "f7,3t d.", "f7,3s f7,3 f7,3t g7,3s", .attr = ADAM(2), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "f0", "f0 f0 f0 h0", .attr = ADAMW(1), .fills = true},
    {HX_OP_adamw, "f70001 d.", "f70001 f70001 f70001 g70001", .attr = ADAMW(2), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_adamw, "f70001", "f70001 f70001 f70001 h70001", .attr = ADAMW(7), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "f7,3 d.", "f7,3 f7,3 h7,3t", .attr = SGD(0.9, 0.5, false, false), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sgd, "f70001", "f70001 f70001 g70001", .attr = SGD(0, 0, false, false), .tolerance = CONF_MIXED, .fills = true, .skip = 2},
    {HX_OP_rmsprop, "f7,3 d.", "f7,3 f7,3 f7,3 f7,3 g7,3", .attr = RMSPROP(0.9), .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_rmsprop, "f70001", "f70001 f70001 f70001 f70001 h70001", .attr = RMSPROP(0), .tolerance = CONF_MIXED, .fills = true, .skip = 12},
    {HX_OP_lion, "f7,3t d.", "f7,3s f7,3 g7,3t", .attr = LION, .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_lion, "f70001", "f70001 f70001 h70001", .attr = LION, .tolerance = CONF_MIXED, .fills = true},
    {HX_OP_sumabs, "3,5", .tolerance = CONF_SUM, .terms = 15},
    {HX_OP_sumabs, "5,3t", .tolerance = CONF_SUM, .terms = 15},
    {HX_OP_sumabs, "3,5e", .attr.reduce.accumulate = true, .tolerance = CONF_SUM, .terms = 16, .fills = true},
    {HX_OP_sumabs, "0", .tolerance = CONF_EXACT},
    {HX_OP_sumabs, "70001", .tolerance = CONF_MIXED},
    {HX_OP_maxabs, "3,5", .tolerance = CONF_EXACT},
    {HX_OP_maxabs, "5,3t", .attr.reduce.accumulate = true, .tolerance = CONF_EXACT, .fills = true},
    {HX_OP_maxabs, "0", .tolerance = CONF_EXACT},
    {HX_OP_maxabs, "70001", .tolerance = CONF_EXACT},
    /* ---- elementary functions ---- */
    BINARY(pow, CONF_POSITIVE, CONF_LIBM),
    UNARY(expm1, CONF_PLAIN, CONF_LIBM, true),
    UNARY(log1p, CONF_POSITIVE, CONF_LIBM, true),
    UNARY(square, CONF_PLAIN, CONF_EXACT, true),
    UNARY(reciprocal, CONF_POSITIVE, CONF_EXACT, true),
    UNARY(floor, CONF_OFF_KINKS, CONF_EXACT, true),
    UNARY(ceil, CONF_OFF_KINKS, CONF_EXACT, true),
    UNARY(round, CONF_OFF_KINKS, CONF_EXACT, true),
    UNARY(sin, CONF_PLAIN, CONF_LIBM, true),
    UNARY(cos, CONF_PLAIN, CONF_LIBM, true),
    UNARY(tan, CONF_UNIT, CONF_LIBM, true),
    UNARY(asin, CONF_UNIT, CONF_LIBM, false),
    UNARY(acos, CONF_UNIT, CONF_LIBM, false),
    UNARY(atan, CONF_PLAIN, CONF_LIBM, true),
    UNARY(sinh, CONF_PLAIN, CONF_LIBM, true),
    UNARY(cosh, CONF_PLAIN, CONF_LIBM, true),
    UNARY(asinh, CONF_PLAIN, CONF_LIBM, true),
    UNARY(acosh, CONF_ABOVE_ONE, CONF_LIBM, true),
    UNARY(atanh, CONF_UNIT, CONF_LIBM, false),
    UNARY(erf, CONF_PLAIN, CONF_LIBM, true),
    UNARY(softplus, CONF_PLAIN, CONF_LIBM, true),
    {HX_OP_asin, "2,3", .range = CONF_HALF, .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_acos, "2,3", .range = CONF_HALF, .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_atanh, "2,3", .range = CONF_HALF, .tolerance = CONF_LIBM, .grad = true},
    {HX_OP_expm1, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_softplus, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_sin, "5001", .range = CONF_WIDE, .tolerance = CONF_LIBM},
    {HX_OP_clamp, "3,5", .attr = CLAMP(-1, 0.9), .range = CONF_OFF_KINKS, .grad = true},
    {HX_OP_clamp, "5,3t", .attr = CLAMP(-INFINITY, 0.1), .range = CONF_OFF_KINKS, .grad = true},
    {HX_OP_clamp, "70001", .attr = CLAMP(-0.5, 0.5)},
    {HX_OP_clamp, ".", .attr = CLAMP(1, 1)},
    {HX_OP_clamp_bwd, "3,5 3,5", .attr = CLAMP(-0.5, 0.5)},
    {HX_OP_clamp_bwd, "0,3 0,3", .attr = CLAMP(-0.5, 0.5)},
    /* x at what the bounds round to in f32 lies outside */
    {HX_OP_clamp_bwd, "3,40 3,40", .attr = CLAMP(-0.625 + 1e-12, 0.625 - 1e-12), .range = CONF_STEPS},
    {HX_OP_clamp_bwd, "5,70t 5,70s", .attr = CLAMP(-0.5, 0.5)},
    {HX_OP_leaky_relu, "3,5", .attr = LEAKY(0.1), .range = CONF_OFF_KINKS, .tolerance = CONF_FEW, .grad = true},
    {HX_OP_leaky_relu, "5,3t", .attr = LEAKY(-0.5), .range = CONF_OFF_KINKS, .tolerance = CONF_FEW, .grad = true},
    {HX_OP_leaky_relu, "70001", .attr = LEAKY(0.01), .tolerance = CONF_FEW},
    {HX_OP_leaky_relu, ".", .attr = LEAKY(0.01), .tolerance = CONF_FEW},
    {HX_OP_leaky_relu_bwd, "3,5 3,5", .attr = LEAKY(0.1), .tolerance = CONF_FEW},
    {HX_OP_leaky_relu_bwd, "0,3 0,3", .attr = LEAKY(0.1)},
    {HX_OP_leaky_relu_bwd, "5,70t 5,70s", .attr = LEAKY(0.1), .tolerance = CONF_FEW},

    /* ---- comparisons, choice ---- */
    COMPARE(equal),
    COMPARE(not_equal),
    COMPARE(less),
    COMPARE(less_equal),
    {HX_OP_where, "o3,5 3,5 3,5", .n_ids = 2, .grad = true},
    {HX_OP_where, "o3,1 5 3,1", .n_ids = 2, .grad = true},
    {HX_OP_where, "o. 3,5t 5", .n_ids = 2, .grad = true},
    {HX_OP_where, "o0,3 3 .", .n_ids = 2},
    {HX_OP_where, "o4,40e 4,40s 4,40", "4,40t", .n_ids = 2},
    {HX_OP_where, "o70001 70001 .", .n_ids = 2},
    {HX_OP_where, "o5,7 i5,7t i7", .n_ids = 2},
    {HX_OP_where, "o5,7 c5,7t c7", .n_ids = 2},
    {HX_OP_where, "o5,7 h5,7t h7", .n_ids = 2},
    {HX_OP_where, "o5,7 z5,7t z7", .n_ids = 2},
    {HX_OP_where, "o5,7 w5,7t w7", .n_ids = 2},

    /* ---- complex ---- */
    COMPLEX(add),
    COMPLEX(sub),
    COMPLEX(mul),
    {HX_OP_affine, "x3,5", .attr = AFFINE(-1.7, 0.3), .tolerance = CONF_MIXED},
    {HX_OP_affine, "x5,40t", .attr = AFFINE(0.5, 1), .tolerance = CONF_MIXED},
    {.op = HX_OP_conj, .in = "x3,5"},
    {.op = HX_OP_conj, .in = "x5,40t"},
    {.op = HX_OP_conj, .in = "x0,4"},
    {.op = HX_OP_conj, .in = "x."},
    {HX_OP_sum, "x3,5,2", .attr = REDUCE(1, 1), .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_sum, "x5,40t", .attr = REDUCE_KEEP(1, 0), .tolerance = CONF_SUM, .terms = 5},
    {HX_OP_sum, "x40001", .attr = REDUCE(1, 0), .tolerance = CONF_SUM, .terms = 300},

    /* ---- joining, picking, padding ---- */
    {HX_OP_cat, "3,5 3,2 3,4", .attr = ALONG(1), .grad = true},
    {HX_OP_cat, "3,5 2,5t", .attr = ALONG(0), .grad = true},
    {HX_OP_cat, "4", .attr = ALONG(0), .grad = true},
    {HX_OP_cat, "2,0,3 2,2,3 2,1,3h", .attr = ALONG(1)},
    {HX_OP_cat, "0,3 0,2", .attr = ALONG(1)},
    {HX_OP_cat, "i5,7 i3,7s", .attr = ALONG(0), .n_ids = 9},
    {HX_OP_cat, "o5,7 o5,3", .attr = ALONG(1), .n_ids = 2},
    {HX_OP_cat, "h5,7t h5,3", .attr = ALONG(1)},
    {HX_OP_cat, "x5,7 x5,3t", .attr = ALONG(1)},
    {HX_OP_cat, "2 2 2 2 2 2 2 2", .attr = ALONG(0)},
    {HX_OP_cat, "200,150 200,50e", .attr = ALONG(1)},
    {HX_OP_gather, "5,4 i7,4", .attr = ALONG(0), .n_ids = 5, .grad = true},
    {HX_OP_gather, "3,5,2 l3,4,2", .attr = ALONG(1), .n_ids = 5, .grad = true},
    {HX_OP_gather, "5,4t l5,3", .attr = ALONG(1), .n_ids = 4, .grad = true},
    {HX_OP_gather, "5,4 i0,4", .attr = ALONG(0), .n_ids = 5},
    {HX_OP_gather, "5 i70", .attr = ALONG(0), .n_ids = 5, .wild_ids = true, .has_nan = true},
    {HX_OP_gather, "i5,4s i7,4s", .attr = ALONG(0), .n_ids = 5, .wild_ids = true, .has_nan = true},
    {HX_OP_gather, "o5,4 i7,4", .attr = ALONG(0), .n_ids = 2, .wild_ids = true, .has_nan = true},
    {HX_OP_gather, "h5,4 i7,4", .attr = ALONG(0), .n_ids = 5},
    {HX_OP_gather, "x5,4t i7,4", .attr = ALONG(0), .n_ids = 5},
    {HX_OP_gather, "9,300,70 i9,250,70", .attr = ALONG(1), .n_ids = 300},
    {HX_OP_gather_bwd, "i7,4 7,4", .attr = INTO(0, 5), .n_ids = 5, .tolerance = CONF_SUM, .terms = 7},
    {HX_OP_gather_bwd, "l3,4,2 3,4,2", .attr = INTO(1, 5), .n_ids = 5, .tolerance = CONF_SUM, .terms = 4},
    {HX_OP_gather_bwd, "l5,9t 5,9s", .attr = INTO(1, 3), .n_ids = 3, .wild_ids = true, .tolerance = CONF_SUM, .terms = 9},
    {HX_OP_gather_bwd, "i0,4 0,4", .attr = INTO(0, 3), .n_ids = 3},
    {HX_OP_gather_bwd, "i7,4t x7,4", .attr = INTO(0, 5), .n_ids = 5, .tolerance = CONF_SUM, .terms = 7},
    {HX_OP_gather_bwd, "i9,250,70 9,250,70", .attr = INTO(1, 31), .n_ids = 31, .tolerance = CONF_SUM, .terms = 250},
    {HX_OP_pad, "3,5", .attr = PAD(HX_PAD_ZERO, BEFORE(1, 2), AFTER(0, 3)), .grad = true},
    {HX_OP_pad, "3,5", .attr = PAD(HX_PAD_REFLECT, BEFORE(2, 4), AFTER(1, 4)), .grad = true},
    {HX_OP_pad, "3,5t", .attr = PAD(HX_PAD_REPLICATE, BEFORE(4, 1), AFTER(0, 7)), .grad = true},
    {HX_OP_pad, "2,3,2", .attr = PAD(HX_PAD_CIRCULAR, BEFORE(0, 3, 1), AFTER(2, 2, 2)), .grad = true},
    {HX_OP_pad, ".", .attr = PAD(HX_PAD_REFLECT, BEFORE(0))},
    {HX_OP_pad, "0,3", .attr = PAD(HX_PAD_ZERO, BEFORE(2, 1), AFTER(1))},
    {HX_OP_pad, "0,3", .attr = PAD(HX_PAD_CIRCULAR, BEFORE(0, 1), AFTER(0))},
    {HX_OP_pad, "i4,7s", .attr = PAD(HX_PAD_ZERO, BEFORE(2, 1), AFTER(1)), .n_ids = 9},
    {HX_OP_pad, "o4,7", .attr = PAD(HX_PAD_CIRCULAR, BEFORE(2, 1), AFTER(1)), .n_ids = 2},
    {HX_OP_pad, "h4,7", .attr = PAD(HX_PAD_REPLICATE, BEFORE(2, 1), AFTER(1))},
    {HX_OP_pad, "x4,7t", .attr = PAD(HX_PAD_ZERO, BEFORE(2, 1), AFTER(1))},
    {HX_OP_pad, "3,70,90", .attr = PAD(HX_PAD_REFLECT, BEFORE(0, 5, 7), AFTER(1, 30, 2))},
    {HX_OP_pad_bwd, "4,10", .attr = PAD(HX_PAD_ZERO, BEFORE(1, 2), AFTER(0, 3)), .tolerance = CONF_FEW},
    {HX_OP_pad_bwd, "6,13t", .attr = PAD(HX_PAD_REFLECT, BEFORE(2, 4), AFTER(1, 4)), .tolerance = CONF_MIXED},
    {HX_OP_pad_bwd, "7,13s", .attr = PAD(HX_PAD_REPLICATE, BEFORE(4, 1), AFTER(0, 7)), .tolerance = CONF_SUM, .terms = 40},
    {HX_OP_pad_bwd, "4,8,5", .attr = PAD(HX_PAD_CIRCULAR, BEFORE(0, 3, 1), AFTER(2, 2, 2)), .tolerance = CONF_MIXED},
    {HX_OP_pad_bwd, ".", .attr = PAD(HX_PAD_ZERO, BEFORE(0))},
    {HX_OP_pad_bwd, "3,4", .attr = PAD(HX_PAD_ZERO, BEFORE(1, 0), AFTER(2))},
    {HX_OP_pad_bwd, "x6,9t", .attr = PAD(HX_PAD_REFLECT, BEFORE(2, 1), AFTER(1, 1)), .tolerance = CONF_MIXED},
    {HX_OP_pad_bwd, "4,105,99", .attr = PAD(HX_PAD_REFLECT, BEFORE(0, 5, 7), AFTER(1, 30, 2)), .tolerance = CONF_MIXED},

    /* ---- reductions ---- */
    {HX_OP_log_softmax, "3,5", .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_log_softmax, "5,3t", .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_log_softmax, "4,1", .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_log_softmax, "0,4", .tolerance = CONF_MIXED},
    {HX_OP_log_softmax, "4,0", .tolerance = CONF_MIXED},
    {HX_OP_log_softmax, "5,1031", .tolerance = CONF_MIXED},
    {HX_OP_log_softmax, "5,1031", .range = CONF_WIDE, .tolerance = CONF_MIXED},
    {HX_OP_log_softmax_bwd, "3,5 3,5", .tolerance = CONF_SUM, .terms = 50},
    {HX_OP_log_softmax_bwd, "0,3 0,3", .tolerance = CONF_EXACT},
    {HX_OP_log_softmax_bwd, "5,7t 5,7s", .tolerance = CONF_SUM, .terms = 70},
    {HX_OP_log_softmax_bwd, "5,1031 5,1031", .range = CONF_UNIT, .tolerance = CONF_SUM, .terms = 4000},
    {HX_OP_log_softmax_bwd, "9,64 9,64", .range = CONF_UNIT, .tolerance = CONF_SUM, .terms = 300},
    STATISTIC(max, CONF_STEPS, CONF_EXACT, 0, 0),
    STATISTIC(min, CONF_STEPS, CONF_EXACT, 0, 0),
    STATISTIC(var, CONF_PLAIN, CONF_SUM, 0, 1),
    STATISTIC(pnorm, CONF_PLAIN, CONF_SUM, 1, 0),
    STATISTIC(pnorm, CONF_PLAIN, CONF_SUM, 2, 0),
    STATISTIC(pnorm, CONF_PLAIN, CONF_SUM, 2.5, 0),
    STATISTIC(pnorm, CONF_STEPS, CONF_EXACT, INFINITY, 0),
    {HX_OP_var, "4,0", .attr = STAT(0, 0, 1, 1), .has_nan = true},
    {HX_OP_var, "4,1", .attr = STAT(0, 1, 1, 1), .has_nan = true},
    {HX_OP_pnorm, "4,0", .attr = STAT(2, 0, 1, 1)},
    {HX_OP_pnorm, "4,0", .attr = STAT(INFINITY, 0, 1, 1)},
    {HX_OP_max, ".", .attr = REDUCE(0, 0)},
    {HX_OP_max, "3,5", .attr = REDUCE(1, 1), .range = CONF_STEPS, .grad = true},
    {HX_OP_max, "2,3,2", .attr = REDUCE_KEEP(2, 0, 2), .range = CONF_STEPS, .grad = true},
    {HX_OP_min, "5,3t", .attr = REDUCE(1, 0), .range = CONF_STEPS, .grad = true},
    {HX_OP_min, "3,4", .attr = REDUCE(2, 0, 1), .range = CONF_STEPS, .grad = true},
    {HX_OP_var, ".", .attr = STAT(0, 0, 0, 0)},
    {HX_OP_var, "3,5", .attr = STAT(0, 1, 1, 1), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_var, "3,4,2", .attr = STAT_KEEP(0, 0, 2, 0, 2), .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_pnorm, "3,5", .attr = STAT(2, 0, 1, 1), .range = CONF_OFF_KINKS, .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_pnorm, "3,5", .attr = STAT(1, 0, 1, 0), .range = CONF_OFF_KINKS, .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_pnorm, "3,4,2", .attr = STAT_KEEP(2.5, 0, 2, 0, 2), .range = CONF_OFF_KINKS, .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_pnorm, "3,4", .attr = STAT(0.5, 0, 1, 1), .range = CONF_POSITIVE, .tolerance = CONF_MIXED, .grad = true},
    {HX_OP_pnorm, "2,2", .attr = STAT(INFINITY, 0, 1, 1), .range = CONF_STEPS, .grad = true},
    ARG(argmax),
    ARG(argmin),
    {HX_OP_topk, "3,5", .attr = TOPK(2, false), .range = CONF_STEPS, .grad = true},
    {HX_OP_topk, "5,3t", .attr = TOPK(2, true), .range = CONF_STEPS, .grad = true},
    {HX_OP_topk, "4", .attr = TOPK(4, false), .range = CONF_STEPS, .grad = true},
    {HX_OP_topk, "3,5", .attr = TOPK(0, false)},
    {HX_OP_topk, "0,5", .attr = TOPK(2, false)},
    {HX_OP_topk, "3,7s", .attr = TOPK(7, true), .range = CONF_STEPS},
    {HX_OP_topk, "3,50", .attr = TOPK(9, false), .range = CONF_STEPS, .skip = 2},
    {HX_OP_topk, "3,50", .attr = TOPK(9, false), .range = CONF_STEPS, .skip = 1},
    {HX_OP_topk, "70,301", .attr = TOPK(17, false), .range = CONF_STEPS},
    {HX_OP_topk, "7,301", .attr = TOPK(300, true)},
    {HX_OP_random_bernoulli, "", "7,11", .attr = RANDOM(0, 0.3, 0, 0), .fills = true},
    {HX_OP_random_bernoulli, "", "0", .attr = RANDOM(0, 0.3, 0, 0), .fills = true},
    {HX_OP_random_bernoulli, "", "70001", .attr = RANDOM(5, 0.7, 0, 0), .fills = true},
};

const int conf_n_cases = sizeof conf_cases / sizeof *conf_cases;

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
    [CONF_WEIGHTS] = {64, 1, "a sum of terms with weights that kernels round to a half type", 0.06},
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
#define FFTCONV_ADD(bits)   {.fftconv = {bits}}
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
#include "tests/conformance/cases_core.inc"
#include "tests/conformance/cases_layers.inc"
#include "tests/conformance/cases_functions.inc"
};

const int conf_n_cases = sizeof conf_cases / sizeof *conf_cases;

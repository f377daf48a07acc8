/* Times single ops of the cpu device at the shapes of a small GPT (6 layers, width 384, 6 heads, 256 tokens, batch 8,
 * 256 token ids), besides tiny ones that show the cost of a call.
 *
 *     bench_ops [threads] [part of a name]
 *
 * Each line gives the median time of a call, and from it the rate of floating point operations and of bytes, where
 * every operand counts once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "backends/backends.h"
#include "core/op/ops.h"

#define MAX_RUNS   2000
#define SECONDS    0.4 /* spent on each row */
#define S(...)     HX_SHAPE(__VA_ARGS__)
#define IDS(...)   HX_SHAPE(__VA_ARGS__)

typedef struct bench_row {
    const char *name;
    hx_op op;
    int n_in;
    hx_shape in[HX_OP_MAX_IN];
    unsigned ids;     /* bit i: input i holds ids below 256 */
    unsigned f64s;    /* bit i: input i is f64 */
    bool transpose_b; /* the second input is a transposed view */
    unsigned halves;  /* bit i: input i is the first half of rows twice as long */
    hx_op_attr attr;
    int n_inout; /* outputs shaped like input 0 that the op updates */
    bool rounds; /* the one after them is bf16; else it is left out */
} bench_row;

#define ATTEND {.attention = {.scale = 0.125, .causal = true}}
#define MATMUL {.matmul = {.alpha = 1}}
#define NORM   {.norm = {.eps = 1e-5}}
/* as seen by the op and its derivatives alike: 28 x 28 images stay so */
#define CONV3X3(g) {.n = 2, .stride = {1, 1}, .padding = {1, 1}, .dilation = {1, 1}, .groups = g, .size = {3, 3}, .input = {28, 28}}
#define TOKENS 2048

static bench_row rows[] = {
    {"add 1", HX_OP_add, 2, .in = {S(1), S(1)}},
    {"matmul 1x64x64", HX_OP_matmul, 2, .in = {S(1, 64), S(64, 64)}, .attr = MATMUL},
    {"matmul 8x8x8", HX_OP_matmul, 2, .in = {S(8, 8), S(8, 8)}, .attr = MATMUL},
    {"linear 1x384x1536", HX_OP_linear, 2, .in = {S(1, 384), S(1536, 384)}},
    {"add", HX_OP_add, 2, .in = {S(TOKENS, 384), S(TOKENS, 384)}},
    {"add row", HX_OP_add, 2, .in = {S(TOKENS, 1536), S(1536)}},
    {"mul scalar", HX_OP_mul, 2, .in = {S(TOKENS, 1536), S(1)}},
    {"exp", HX_OP_exp, 1, .in = {S(TOKENS, 1536)}},
    {"tanh", HX_OP_tanh, 1, .in = {S(TOKENS, 1536)}},
    {"gelu_tanh", HX_OP_gelu_tanh, 1, .in = {S(TOKENS, 1536)}},
    {"gelu_erf", HX_OP_gelu_erf, 1, .in = {S(TOKENS, 1536)}},
    {"gelu_tanh_bwd", HX_OP_gelu_tanh_bwd, 2, .in = {S(TOKENS, 1536), S(TOKENS, 1536)}},
    {"gelu_erf_bwd", HX_OP_gelu_erf_bwd, 2, .in = {S(TOKENS, 1536), S(TOKENS, 1536)}},
    /* one kernel, and those it stands for */
    {"swiglu", HX_OP_swiglu, 1, .in = {S(TOKENS, 3072)}},
    {"swiglu: silu", HX_OP_silu, 1, .in = {S(TOKENS, 1536)}, .halves = 1},
    {"swiglu: mul", HX_OP_mul, 2, .in = {S(TOKENS, 1536), S(TOKENS, 1536)}, .halves = 2},
    {"swiglu_bwd", HX_OP_swiglu_bwd, 2, .in = {S(TOKENS, 3072), S(TOKENS, 1536)}},
    {"swiglu_bwd: mul up", HX_OP_mul, 2, .in = {S(TOKENS, 1536), S(TOKENS, 1536)}, .halves = 2},
    {"swiglu_bwd: silu_bwd", HX_OP_silu_bwd, 2, .in = {S(TOKENS, 1536), S(TOKENS, 1536)}, .halves = 1},
    {"swiglu_bwd: mul silu", HX_OP_mul, 2, .in = {S(TOKENS, 1536), S(TOKENS, 1536)}},
    {"transpose copy", HX_OP_copy, 1, .in = {S(1536, TOKENS)}, .transpose_b = true, .attr = {.copy = {HX_F32}}},
    {"sum columns", HX_OP_sum, 1, .in = {S(TOKENS, 1536)}, .attr = {.reduce = {.n_dims = 1, .dims = {0}}}},
    {"sum rows", HX_OP_sum, 1, .in = {S(TOKENS, 1536)}, .attr = {.reduce = {.n_dims = 1, .dims = {1}}}},
    {"sumsq", HX_OP_sumsq, 1, .in = {S(TOKENS, 1536)}},
    {"softmax", HX_OP_softmax, 1, .in = {S(TOKENS, 256)}},
    {"layernorm", HX_OP_layernorm, 3, .in = {S(TOKENS, 384), S(384), S(384)}, .attr = NORM},
    {"add_layernorm", HX_OP_add_layernorm, 4, .in = {S(TOKENS, 384), S(TOKENS, 384), S(384), S(384)}, .attr = NORM},
    {"layernorm_bwd", HX_OP_layernorm_bwd, 5, .in = {S(TOKENS, 384), S(384), S(TOKENS), S(TOKENS), S(TOKENS, 384)}, .attr = NORM},
    {"rope", HX_OP_rope, 1, .in = {S(8, 256, 6, 64)}, .attr = {.rope = {.base = 10000}}},
    {"rfft 1024", HX_OP_rfft, 1, .in = {S(768, 1024)}, .attr = {.fft = {.scale = 1, .interior = 1}}},
    {"rfft 1009", HX_OP_rfft, 1, .in = {S(768, 1009)}, .attr = {.fft = {.scale = 1, .interior = 1}}},
    {"cross_entropy", HX_OP_cross_entropy, 2, .in = {S(TOKENS, 256), IDS(TOKENS)}, .ids = 2},
    {"cross_entropy_bwd", HX_OP_cross_entropy_bwd, 4, .in = {S(TOKENS, 256), IDS(TOKENS), S(TOKENS), HX_SCALAR}, .ids = 2, .f64s = 8},
    {"embedding", HX_OP_embedding, 2, .in = {IDS(TOKENS), S(256, 384)}, .ids = 1},
    {"embedding_bwd", HX_OP_embedding_bwd, 2, .in = {IDS(TOKENS), S(TOKENS, 384)}, .ids = 1, .attr = {.embedding = {.rows = 256}}},
    {"dropout", HX_OP_dropout, 1, .in = {S(TOKENS, 384)}, .attr = {.random = {.p = 0.1}}},
    {"adamw", HX_OP_adamw, 1, .in = {S(10600000)}, .attr = {.adamw = {1e-3, 0.9, 0.95, 1e-8, 0.1, 5}}, .n_inout = 3},
    {"adamw, p in bf16 too", HX_OP_adamw, 1, .in = {S(10600000)}, .attr = {.adamw = {1e-3, 0.9, 0.95, 1e-8, 0.1, 5}}, .n_inout = 3, .rounds = true},
    {"copy to bf16", HX_OP_copy, 1, .in = {S(10600000)}, .attr = {.copy = {HX_BF16}}},
    {"linear qkv", HX_OP_linear, 3, .in = {S(TOKENS, 384), S(1152, 384), S(1152)}},
    {"linear up", HX_OP_linear, 3, .in = {S(TOKENS, 384), S(1536, 384), S(1536)}},
    {"linear down", HX_OP_linear, 3, .in = {S(TOKENS, 1536), S(384, 1536), S(384)}},
    {"matmul dx up", HX_OP_matmul, 2, .in = {S(TOKENS, 1536), S(1536, 384)}, .attr = MATMUL},
    {"matmul dw up", HX_OP_matmul, 2, .in = {S(1536, TOKENS), S(384, TOKENS)}, .attr = MATMUL, .transpose_b = true},
    {"linear head", HX_OP_linear, 2, .in = {S(TOKENS, 384), S(256, 384)}},
    {"matmul 1024", HX_OP_matmul, 2, .in = {S(1024, 1024), S(1024, 1024)}, .attr = MATMUL},
    {"attention", HX_OP_attention, 3, .in = {S(8, 256, 6, 64), S(8, 256, 6, 64), S(8, 256, 6, 64)}, .attr = ATTEND},
    {"attention 1024", HX_OP_attention, 3, .in = {S(1, 1024, 6, 64), S(1, 1024, 6, 64), S(1, 1024, 6, 64)}, .attr = ATTEND},
    {"conv 3x3", HX_OP_conv, 3, .in = {S(64, 32, 28, 28), S(64, 32, 3, 3), S(64)}, .attr = {.conv = CONV3X3(1)}},
    {"conv_bwd_x 3x3", HX_OP_conv_bwd_x, 2, .in = {S(64, 32, 3, 3), S(64, 64, 28, 28)}, .attr = {.conv = CONV3X3(1)}},
    {"conv_bwd_w 3x3", HX_OP_conv_bwd_w, 2, .in = {S(64, 32, 28, 28), S(64, 64, 28, 28)}, .attr = {.conv = CONV3X3(1)}},
    {"conv depthwise", HX_OP_conv, 2, .in = {S(64, 32, 28, 28), S(32, 1, 3, 3)}, .attr = {.conv = CONV3X3(32)}},
    {"conv_bwd_x depthwise", HX_OP_conv_bwd_x, 2, .in = {S(32, 1, 3, 3), S(64, 32, 28, 28)}, .attr = {.conv = CONV3X3(32)}},
    {"conv_bwd_w depthwise", HX_OP_conv_bwd_w, 2, .in = {S(64, 32, 28, 28), S(64, 32, 28, 28)}, .attr = {.conv = CONV3X3(32)}},
    {"max_pool 2x2", HX_OP_max_pool, 1, .in = {S(64, 64, 28, 28)}, .attr = {.conv = {.n = 2, .stride = {2, 2}, .dilation = {1, 1}, .groups = 1, .size = {2, 2}}}},
    {"batchnorm", HX_OP_batchnorm, 3, .in = {S(64, 64, 28, 28), S(64), S(64)}, .attr = NORM},
    {"batchnorm_bwd", HX_OP_batchnorm_bwd, 5, .in = {S(64, 64, 28, 28), S(64), S(64), S(64, 64, 28, 28), S(64)}, .attr = NORM},
    {"attention_bwd", HX_OP_attention_bwd, 6, .in = {S(8, 256, 6, 64), S(8, 256, 6, 64), S(8, 256, 6, 64), S(8, 256, 6, 64), S(8, 6, 256), S(8, 256, 6, 64)}, .attr = ATTEND},
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* An input with small values; a transposed view gives the op [K,N] from storage [N,K], a half [N,K] from [N,2K]. */
static hx_status make_input(hx_ctx *ctx, const bench_row *row, int i, hx_tensor **out) {
    HX_AUTO_TENSOR t = NULL;
    bool ids = row->ids >> i & 1, is_half = row->halves >> i & 1;
    hx_shape shape = row->in[i];
    if (is_half) shape.dims[shape.ndim - 1] *= 2;
    HX_TRY(hx_tensor_create(ctx->device, ids ? HX_I32 : row->f64s >> i & 1 ? HX_F64 : HX_F32, shape, &t));
    if (ids)
        for (int64_t k = 0; k < hx_tensor_count(t); k++) ((int32_t *)hx_tensor_data(t))[k] = (int32_t)(k * 37 % 256);
    else
        HX_TRY(hx_fill_uniform(ctx, t, (hx_rng){1, (uint64_t)i}, 0, 0.01, 1));
    if (is_half) return hx_slice(ctx, t, -1, 0, shape.dims[shape.ndim - 1] / 2, 1, out);
    if (row->transpose_b && i == row->n_in - 1) return hx_tensor_transpose(t, 0, 1, out);
    *out = hx_tensor_move(&t);
    return HX_OK;
}

/* Median seconds of a call; flops of one call. */
static hx_status time_row(hx_ctx *ctx, const bench_row *row, hx_tensor **in, hx_tensor **out, double *median, double *flops) {
    static double seconds[MAX_RUNS];
    hx_device_stats before, after;
    int n = 0;
    for (int k = 0; k < row->n_inout; k++) {
        HX_TRY(hx_tensor_create(ctx->device, HX_F32, row->in[0], &out[k]));
        HX_TRY(hx_tensor_fill(ctx->stream, out[k], 0.5));
    }
    if (row->rounds) HX_TRY(hx_tensor_create(ctx->device, HX_BF16, row->in[0], &out[row->n_inout]));
    const unsigned skip = row->n_inout > 0 && !row->rounds ? 1u << row->n_inout : 0;
    hx_device_stats_get(ctx->device, &before);
    HX_TRY(hx_op_run(ctx, row->op, in, row->n_in, &row->attr, skip, out)); /* warm-up; makes the outputs */
    hx_device_stats_get(ctx->device, &after);
    *flops = after.flops - before.flops;
    for (double start = now(); n < MAX_RUNS && (n < 5 || now() - start < SECONDS); n++) {
        double t = now();
        HX_TRY(hx_op_run(ctx, row->op, in, row->n_in, &row->attr, skip, out));
        HX_TRY(hx_stream_sync(ctx->stream));
        seconds[n] = now() - t;
    }
    qsort(seconds, (size_t)n, sizeof *seconds, compare);
    *median = seconds[n / 2];
    return HX_OK;
}

static hx_status bench(hx_ctx *ctx, const bench_row *row) {
    hx_tensor *in[HX_OP_MAX_IN] = {NULL}, *out[HX_OP_MAX_OUT] = {NULL};
    double median = 0, flops = 0, bytes = 0;
    hx_status status = HX_OK;
    for (int i = 0; i < row->n_in; i++) HX_TRY_GOTO(make_input(ctx, row, i, &in[i]), done);
    HX_TRY_GOTO(time_row(ctx, row, in, out, &median, &flops), done);
    for (int i = 0; i < row->n_in; i++) bytes += (double)hx_tensor_bytes(in[i]);
    for (int i = 0; i < HX_OP_MAX_OUT; i++)
        if (out[i]) bytes += (double)hx_tensor_bytes(out[i]) * (row->n_inout ? 2 : 1);
    printf("%-20s %10.2f us %9.2f GFLOP/s %8.2f GB/s\n", row->name, median * 1e6, flops / median * 1e-9, bytes / median * 1e-9);
    fflush(stdout);
done:
    for (int i = 0; i < HX_OP_MAX_OUT; i++) hx_tensor_destroy(&out[i]);
    for (int i = 0; i < HX_OP_MAX_IN; i++) hx_tensor_destroy(&in[i]);
    return status;
}

static hx_status bench_all(int n_threads, const char *filter) {
    hx_device *device;
    hx_stream *stream;
    hx_device_props props;
    HX_TRY(hx_backend_register(&hx_backend_cpu));
    HX_TRY(hx_device_open("cpu", &(hx_device_config){.n_threads = n_threads}, &device));
    HX_TRY(hx_stream_create(device, &stream));
    hx_device_props_get(device, &props);
    printf("%s, %d threads\n", props.name, props.n_threads);
    hx_ctx ctx = {.device = device, .stream = stream};
    hx_status status = HX_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && status == HX_OK; i++)
        if (!filter || strstr(rows[i].name, filter)) status = bench(&ctx, &rows[i]);
    hx_stream_destroy(&stream);
    hx_device_close(&device);
    return status;
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    hx_status status = bench_all(n_threads, argc > 2 ? argv[2] : NULL);
    if (status != HX_OK) fprintf(stderr, "%s\n%s", hx_error_message(), hx_error_trace());
    return hx_status_exit_code(status);
}

/* Products of the sizes that training has, by each library that could compute them: Helix's own tiles, OpenBLAS on tiles of the same
 * thread pool, and oneDNN where it was found, with its threads.
 *
 *     gemm_peers [threads]          1 by default
 *
 * A line for each product: GFLOP/s, medians of rounds in which the libraries take turns, and at the end the geometric means of the
 * times beside Helix's own. oneDNN is given the matrices as they are, as Helix is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef HAVE_DNNL
#include <oneapi/dnnl/dnnl.h>
#endif

#include "backends/backends.h"
#include "core/base/thread.h"
#include "core/op/ops.h"

#define MUST(call)                                                             \
    do {                                                                       \
        if ((call) != 0) {                                                     \
            fprintf(stderr, "%s: %s\n", #call, hx_error_message());            \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

enum { ROUNDS = 9, OWN = 0, OPENBLAS, ONEDNN, N_LIBRARIES };
static const char *const library_names[] = {"own", "openblas", "onednn"};

typedef struct shape {
    const char *name;
    int64_t m, n, k;
    bool ta, tb; /* stored transposed, as in dW = dY^T X, and in Y = X W^T */
} shape;

#define LAYER(name, rows, from, to)                                                                    \
    {name " y", rows, to, from, false, true}, {name " dx", rows, from, to, false, false}, {name " dw", to, from, rows, true, false}
static const shape shapes[] = {
    {"square 1024", 1024, 1024, 1024, false, false},
    {"square 2048", 2048, 2048, 2048, false, false},
    LAYER("gpt-6l qkv", 2048, 384, 1152),
    LAYER("gpt-6l up", 2048, 384, 1536),
    LAYER("gpt2 qkv", 1024, 768, 2304),
    LAYER("gpt2 proj", 1024, 768, 768),
    LAYER("gpt2 up", 1024, 768, 3072),
    LAYER("gpt2 down", 1024, 3072, 768),
    LAYER("gpt2 head", 1024, 768, 50257),
    LAYER("gpt2-t64 up", 256, 768, 3072),
    LAYER("gpt2-t64 down", 256, 3072, 768),
    LAYER("mlp 784", 128, 784, 512),
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct rig {
    hx_device *device;
    hx_stream *stream;
    hx_ctx ctx;
} rig;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static rig rig_open(const char *gemm, int n_threads) {
    rig r = {0};
    setenv("HELIX_GEMM", gemm, 1);
    MUST(hx_device_open("cpu", &(hx_device_config){.n_threads = n_threads}, &r.device));
    MUST(hx_stream_create(r.device, &r.stream));
    r.ctx = (hx_ctx){.device = r.device, .stream = r.stream};
    return r;
}

static hx_tensor *uniform(rig *r, hx_dtype dtype, int64_t rows, int64_t cols, bool stored_transposed) {
    hx_tensor *t, *view;
    MUST(hx_tensor_create(r->device, dtype, stored_transposed ? HX_SHAPE(cols, rows) : HX_SHAPE(rows, cols), &t));
    MUST(hx_fill_uniform(&r->ctx, t, (hx_rng){7, HX_RNG_USER}, 0, -1, 2));
    if (!stored_transposed) return t;
    MUST(hx_tensor_transpose(t, 0, 1, &view));
    hx_tensor_destroy(&t);
    return view;
}

static void multiply(rig *r, hx_tensor *a, hx_tensor *b, hx_tensor *c) {
    MUST(hx_op_run(&r->ctx, HX_OP_matmul, (hx_tensor *[]){a, b}, 2, &(hx_op_attr){.matmul = {.alpha = 1}}, 0, &c));
}

#ifdef HAVE_DNNL
void omp_set_num_threads(int n); /* oneDNN's */

typedef struct dnnl_product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[3]; /* a, b, c */
} dnnl_product;

static void dnnl_product_open(const shape *s, hx_dtype dtype, hx_tensor *const *abc, dnnl_product *p) {
    const dnnl_data_type_t type = dtype == HX_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_memory_desc_t md[3];
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t desc;
    MUST(dnnl_engine_create(&p->engine, dnnl_cpu, 0));
    MUST(dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags));
    MUST(dnnl_memory_desc_init_by_strides(&md[0], 2, (dnnl_dims_t){s->m, s->k}, type, (dnnl_dims_t){s->ta ? 1 : s->k, s->ta ? s->m : 1}));
    MUST(dnnl_memory_desc_init_by_strides(&md[1], 2, (dnnl_dims_t){s->k, s->n}, type, (dnnl_dims_t){s->tb ? 1 : s->n, s->tb ? s->k : 1}));
    MUST(dnnl_memory_desc_init_by_strides(&md[2], 2, (dnnl_dims_t){s->m, s->n}, type, (dnnl_dims_t){s->n, 1}));
    MUST(dnnl_matmul_desc_init(&matmul, &md[0], &md[1], NULL, &md[2]));
    MUST(dnnl_primitive_desc_create(&desc, &matmul, NULL, p->engine, NULL));
    MUST(dnnl_primitive_create(&p->primitive, desc));
    MUST(dnnl_primitive_desc_destroy(desc));
    for (int i = 0; i < 3; i++) MUST(dnnl_memory_create(&p->memory[i], &md[i], p->engine, hx_tensor_data(abc[i])));
}

static void dnnl_product_run(const dnnl_product *p) {
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->memory[0]}, {DNNL_ARG_WEIGHTS, p->memory[1]}, {DNNL_ARG_DST, p->memory[2]}};
    MUST(dnnl_primitive_execute(p->primitive, p->stream, 3, args));
    MUST(dnnl_stream_wait(p->stream));
}

static void dnnl_product_close(dnnl_product *p) {
    for (int i = 0; i < 3; i++) dnnl_memory_destroy(p->memory[i]);
    dnnl_primitive_destroy(p->primitive);
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
}
#endif

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a product by each library; NAN where there is none. */
static void measure(rig rigs[2], const shape *s, hx_dtype dtype, double seconds[N_LIBRARIES]) {
    double samples[N_LIBRARIES][ROUNDS];
    hx_tensor *abc[2][3];
    const double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k;
    const int n_calls = (int)fmax(1, 5e9 / flops); /* tens of milliseconds */
    for (int l = 0; l < 2; l++) {
        abc[l][0] = uniform(&rigs[l], dtype, s->m, s->k, s->ta);
        abc[l][1] = uniform(&rigs[l], dtype, s->k, s->n, s->tb);
        abc[l][2] = uniform(&rigs[l], dtype, s->m, s->n, false);
    }
#ifdef HAVE_DNNL
    dnnl_product product;
    dnnl_product_open(s, dtype, abc[0], &product);
#endif
    for (int round = -1; round < ROUNDS; round++) /* the first finds pages and code */
        for (int l = 0; l < N_LIBRARIES; l++) {
            const double start = now();
            for (int i = 0; i < n_calls; i++) {
                if (l < ONEDNN) multiply(&rigs[l], abc[l][0], abc[l][1], abc[l][2]);
#ifdef HAVE_DNNL
                else dnnl_product_run(&product);
#endif
            }
            if (round >= 0) samples[l][round] = (now() - start) / n_calls;
        }
    for (int l = 0; l < N_LIBRARIES; l++) {
        qsort(samples[l], ROUNDS, sizeof *samples[l], compare);
        seconds[l] = samples[l][ROUNDS / 2];
    }
#ifdef HAVE_DNNL
    dnnl_product_close(&product);
#else
    seconds[ONEDNN] = NAN;
#endif
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < 3; i++) hx_tensor_destroy(&abc[l][i]);
}

static void print_table(rig rigs[2], hx_dtype dtype) {
    double log_ratio[N_LIBRARIES] = {0};
    printf("%-5s product           M      N      K ", hx_dtype_name(dtype));
    for (int l = 0; l < N_LIBRARIES; l++) printf(" %9s", library_names[l]);
    printf("   GFLOP/s\n");
    for (int i = 0; i < N_SHAPES; i++) {
        const shape *s = &shapes[i];
        double seconds[N_LIBRARIES];
        measure(rigs, s, dtype, seconds);
        printf("      %-14s %5lld %6lld %6lld ", s->name, (long long)s->m, (long long)s->n, (long long)s->k);
        for (int l = 0; l < N_LIBRARIES; l++) {
            printf(" %9.1f", 2e-9 * (double)s->m * (double)s->n * (double)s->k / seconds[l]);
            log_ratio[l] += log(seconds[l] / seconds[OWN]) / N_SHAPES;
        }
        printf("\n");
        fflush(stdout);
    }
    printf("      time beside own's, geometric mean     ");
    for (int l = 0; l < N_LIBRARIES; l++) printf(" %9.2f", exp(log_ratio[l]));
    printf("\n");
}

int main(int argc, char **argv) {
    const int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    if (n_threads < 1 || n_threads > hx_usable_cores()) {
        fprintf(stderr, "gemm_peers %s: expected 1 to %d threads\n", argv[1], hx_usable_cores());
        return 2;
    }
#ifdef HAVE_DNNL
    omp_set_num_threads(n_threads);
#endif
    MUST(hx_backend_register(&hx_backend_cpu));
    rig rigs[2] = {rig_open("own", n_threads), rig_open("openblas", n_threads)};
    print_table(rigs, HX_F32);
    print_table(rigs, HX_BF16);
    for (int l = 0; l < 2; l++) {
        hx_stream_destroy(&rigs[l].stream);
        hx_device_close(&rigs[l].device);
    }
    return 0;
}

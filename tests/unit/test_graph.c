/* Graphs: the order of adding does not matter, the bits are those of eager execution, memory goes with the last use. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "core/op/graph.h"
#include "launch/compose.h"

#define MUST(call) cr_assert_eq((call), HX_OK, "%s", hx_error_message())
#define FAILS(call, code)                                                                                    \
    do {                                                                                                     \
        hx_status status_ = (call);                                                                          \
        cr_expect_eq(status_, code, "%s: %d, %s", #call, (int)status_, hx_error_message());                  \
    } while (0)

enum { N = 300 }; /* elements of a tensor */

static hx_device *dev;
static hx_stream *stream;
static hx_ctx ctx;

static void setup(void) {
    MUST(hx_register_backends());
    MUST(hx_device_open("cpu", &(hx_device_config){.n_threads = 2}, &dev));
    MUST(hx_stream_create(dev, &stream));
    ctx = (hx_ctx){.device = dev, .stream = stream};
}

static void teardown(void) {
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
}

TestSuite(graph, .init = setup, .fini = teardown);

static hx_tensor *input(uint64_t seed) {
    hx_tensor *x;
    MUST(hx_tensor_create(dev, HX_F32, HX_SHAPE(N), &x));
    MUST(hx_fill_uniform(&ctx, x, (hx_rng){seed, hx_rng_stream(HX_RNG_USER, 0)}, 0, 0.1, 1));
    return x;
}

static void expect_equal(hx_tensor *got, hx_tensor *want, const char *what) {
    float a[N], b[N];
    MUST(hx_tensor_read(stream, got, a));
    MUST(hx_tensor_read(stream, want, b));
    cr_expect(memcmp(a, b, sizeof a) == 0, "%s differs from eager execution", what);
}

/* One line of a program: value `out` = op(values a, b); b is HX_NO_VALUE for ops of one operand. */
typedef struct line {
    hx_op op;
    hx_value a, b, out;
} line;

static void add_line(hx_graph *g, const line *l) {
    MUST(hx_graph_op(g, l->op, (hx_value[]){l->a, l->b}, l->b == HX_NO_VALUE ? 1 : 2, NULL, &l->out));
}

static void eager(const line *l, hx_tensor **values) {
    if (l->b == HX_NO_VALUE) MUST(hx_unary(&ctx, l->op, values[l->a], &values[l->out]));
    else MUST(hx_binary(&ctx, l->op, values[l->a], values[l->b], &values[l->out]));
}

static hx_graph *graph_of(const line *lines, const int *order, int n_lines, int n_values) {
    hx_graph *g;
    hx_value v;
    MUST(hx_graph_create(&g));
    for (int i = 0; i < n_values; i++) MUST(hx_graph_value(g, &v));
    for (int i = 0; i < n_lines; i++) add_line(g, &lines[order[i]]);
    return g;
}

/*       1 = exp 0
 *   2 = tanh 1   3 = sqrt 1
 *       4 = 2 - 3            */
static const line diamond[] = {
    {HX_OP_exp, 0, HX_NO_VALUE, 1}, {HX_OP_tanh, 1, HX_NO_VALUE, 2}, {HX_OP_sqrt, 1, HX_NO_VALUE, 3}, {HX_OP_sub, 2, 3, 4}};

static void check_diamond(const int *order) {
    hx_tensor *values[5] = {input(1)}, *got;
    hx_graph *g = graph_of(diamond, order, 4, 5);
    for (int i = 0; i < 4; i++) eager(&diamond[i], values);
    MUST(hx_graph_run(g, &ctx, (hx_value[]){0}, values, 1, (hx_value[]){4}, 1, &got));
    expect_equal(got, values[4], "a diamond");
    hx_tensor_destroy(&got);
    for (int i = 0; i < 5; i++) hx_tensor_destroy(&values[i]);
    hx_graph_destroy(&g);
}

Test(graph, a_diamond_gives_the_same_bits_whatever_the_order_of_adding) {
    int n_orders = 0;
    for (int code = 0; code < 256; code++) { /* four digits of base 4, those that are permutations */
        int order[4] = {code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6 & 3}, seen = 0;
        for (int i = 0; i < 4; i++) seen |= 1 << order[i];
        if (seen != 15) continue;
        check_diamond(order);
        n_orders++;
    }
    cr_expect_eq(n_orders, 24);
}

static uint32_t draw(hx_rng rng, uint64_t *at, uint32_t below) { return (uint32_t)(hx_rng_bits(rng, (*at)++) % below); }

Test(graph, a_thousand_random_graphs_give_the_bits_of_eager_execution) {
    enum { INPUTS = 3, LINES = 12 };
    static const hx_op unary[] = {HX_OP_tanh, HX_OP_sigmoid, HX_OP_abs, HX_OP_sin}, binary[] = {HX_OP_add, HX_OP_mul, HX_OP_maximum};
    hx_rng rng = {1, hx_rng_stream(HX_RNG_USER, 1)};
    uint64_t at = 0;
    printf("seed %llu\n", (unsigned long long)rng.seed);
    for (int round = 0; round < 1000; round++) {
        line lines[LINES];
        int order[LINES];
        hx_tensor *values[INPUTS + LINES] = {input(1), input(2), input(3)}, *got[2];
        for (int i = 0; i < LINES; i++) {
            bool is_unary = draw(rng, &at, 2) == 0;
            uint32_t n = (uint32_t)(INPUTS + i);
            lines[i] = (line){is_unary ? unary[draw(rng, &at, 4)] : binary[draw(rng, &at, 3)], (hx_value)draw(rng, &at, n),
                              is_unary ? HX_NO_VALUE : (hx_value)draw(rng, &at, n), INPUTS + i};
            eager(&lines[i], values);
            order[i] = i;
        }
        for (int i = LINES - 1; i > 0; i--) { /* shuffle */
            int j = (int)draw(rng, &at, (uint32_t)i + 1), k = order[i];
            order[i] = order[j];
            order[j] = k;
        }
        hx_graph *g = graph_of(lines, order, LINES, INPUTS + LINES);
        hx_value wanted[2] = {INPUTS + LINES - 1, (hx_value)draw(rng, &at, INPUTS + LINES)};
        MUST(hx_graph_run(g, &ctx, (hx_value[]){0, 1, 2}, values, INPUTS, wanted, 2, got));
        for (int i = 0; i < 2; i++) {
            expect_equal(got[i], values[wanted[i]], "a random graph");
            hx_tensor_destroy(&got[i]);
        }
        hx_graph_destroy(&g);
        for (int i = 0; i < INPUTS + LINES; i++) hx_tensor_destroy(&values[i]);
    }
}

Test(graph, memory_of_a_value_goes_with_its_last_use) {
    enum { DEPTH = 100 };
    hx_tensor *x = input(1), *y;
    hx_graph *g;
    hx_value v, next;
    hx_device_stats before, after;
    MUST(hx_graph_create(&g));
    MUST(hx_graph_value(g, &v));
    for (int i = 0; i < DEPTH; i++, v = next) {
        MUST(hx_graph_value(g, &next));
        MUST(hx_graph_op(g, HX_OP_tanh, &v, 1, NULL, &next));
    }
    hx_device_stats_reset_peak(dev);
    hx_device_stats_get(dev, &before);
    MUST(hx_graph_run(g, &ctx, (hx_value[]){0}, &x, 1, &v, 1, &y));
    hx_device_stats_get(dev, &after);
    cr_expect_leq(after.peak_bytes - before.live_bytes, (int64_t)(2 * 2 * N * sizeof(float)), "%lld bytes for a chain of %d",
                  (long long)(after.peak_bytes - before.live_bytes), DEPTH);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
    hx_graph_destroy(&g);
}

Test(graph, a_run_is_recorded_and_differentiated_like_eager_ops) {
    hx_tensor *x = input(1), *y;
    hx_tape *tape;
    float a[N], b[N];
    hx_graph *g = graph_of(diamond, (int[]){3, 2, 1, 0}, 4, 5);
    MUST(hx_tape_create(dev, &tape));
    ctx.tape = tape;
    hx_tensor_set_requires_grad(x, true);
    MUST(hx_graph_run(g, &ctx, (hx_value[]){0}, &x, 1, (hx_value[]){4}, 1, &y));
    MUST(hx_backward(&ctx, y, NULL));
    MUST(hx_tensor_read(stream, hx_tensor_grad(x), a));
    hx_tensor_grad_reset(x);
    hx_tensor *values[5] = {x};
    for (int i = 0; i < 4; i++) eager(&diamond[i], values);
    MUST(hx_backward(&ctx, values[4], NULL));
    MUST(hx_tensor_read(stream, hx_tensor_grad(x), b));
    for (int i = 0; i < N; i++) cr_expect_float_eq(a[i], b[i], 1e-6f);
    for (int i = 1; i < 5; i++) hx_tensor_destroy(&values[i]);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
    hx_tape_destroy(&tape);
    hx_graph_destroy(&g);
}

Test(graph, refuses_cycles_gaps_and_ops_without_a_result_of_their_own) {
    hx_tensor *x = input(1), *y = NULL;
    hx_graph *g;
    hx_value v[4];
    MUST(hx_graph_create(&g));
    for (int i = 0; i < 4; i++) MUST(hx_graph_value(g, &v[i]));
    FAILS(hx_graph_op(g, HX_OP_COUNT, v, 1, NULL, &v[1]), HX_ERR_ARG);
    FAILS(hx_graph_op(g, HX_OP_permute, v, 1, NULL, &v[1]), HX_ERR_UNSUPPORTED);
    FAILS(hx_graph_op(g, HX_OP_adamw, v, 1, NULL, v), HX_ERR_UNSUPPORTED);
    FAILS(hx_graph_op(g, HX_OP_add, v, 1, NULL, &v[1]), HX_ERR_ARG);
    FAILS(hx_graph_op(g, HX_OP_exp, (hx_value[]){9}, 1, NULL, &v[1]), HX_ERR_ARG);
    FAILS(hx_graph_op(g, HX_OP_exp, v, 1, NULL, (hx_value[]){-2}), HX_ERR_ARG);
    MUST(hx_graph_op(g, HX_OP_exp, &v[0], 1, NULL, &v[1]));
    FAILS(hx_graph_op(g, HX_OP_tanh, &v[0], 1, NULL, &v[1]), HX_ERR_ARG);
    FAILS(hx_graph_run(g, &ctx, NULL, NULL, 0, &v[1], 1, &y), HX_ERR_ARG);          /* v0 is not fed */
    FAILS(hx_graph_run(g, &ctx, &v[1], &x, 1, &v[1], 1, &y), HX_ERR_ARG);           /* made by an op */
    FAILS(hx_graph_run(g, &ctx, &v[0], &x, 1, (hx_value[]){9}, 1, &y), HX_ERR_ARG); /* no such value */
    MUST(hx_graph_op(g, HX_OP_exp, &v[2], 1, NULL, &v[3]));
    MUST(hx_graph_op(g, HX_OP_tanh, &v[3], 1, NULL, &v[2]));
    FAILS(hx_graph_run(g, &ctx, &v[0], &x, 1, &v[1], 1, &y), HX_ERR_ARG);
    cr_expect(strstr(hx_error_message(), "cycle") != NULL, "%s", hx_error_message());
    cr_expect_null(y);
    hx_tensor_destroy(&x);
    hx_graph_destroy(&g);
}

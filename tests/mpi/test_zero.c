/* Gradients that are shared out, sent in bf16, summed over hosts or tensor-parallel ranks, and elastic ones: what each rank is
 * left with. The loss is the sum of p x, so that a parameter's gradient is x, which the test chooses: whole numbers, whose sums
 * are exact in any order, or for elastic sums numbers of very different size, whose sums in another order have other bits. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/optim/optim.h"
#include "dist/comm/comm_impl.h"
#include "dist/dp/ddp.h"
#include "tests/support/expect.h"

enum { PARAMS = 5, LARGEST = 9001 };
static const int64_t sizes[PARAMS] = {5000, 7, LARGEST, 130, 4096}; /* the last but one in f64 */

typedef struct world {
    hx_comm *all, *dp, *tp;
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_ctx ctx;
    hx_layer *root;
    hx_param_list params;
    hx_ddp *ddp;
    hx_grad_sync sync;
} world;

static void open_world(world *w, const char *shm, int tp) {
    memset(w, 0, sizeof *w);
    setenv("HELIX_SHM", shm, 1);
    OK(hx_comm_mpi_open(&w->all));
    OK(hx_comm_split(w->all, hx_comm_rank(w->all) / tp, hx_comm_rank(w->all), &w->tp));
    OK(hx_comm_split(w->all, hx_comm_rank(w->all) % tp, hx_comm_rank(w->all), &w->dp));
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_device_open("cpu", NULL, &w->device));
    OK(hx_stream_create(w->device, &w->stream));
    OK(hx_tape_create(w->device, &w->tape));
    w->ctx = (hx_ctx){.device = w->device, .stream = w->stream, .tape = w->tape, .training = true};
}

static hx_status pass_on(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    (void)layer;
    (void)ctx;
    *y = hx_tensor_retain(x);
    return HX_OK;
}

static void open_ddp(world *w, const hx_ddp_config *config, int64_t n_leaves, bool is_partial) {
    static const hx_layer_type bag = {.name = "bag", .n_bytes = sizeof(hx_layer), .forward = pass_on};
    OK(hx_layer_create(&bag, w->device, &w->root));
    for (int k = 0; k < PARAMS; k++) {
        char name[8];
        hx_param *param;
        snprintf(name, sizeof name, "p%d", k);
        OK(hx_layer_param(w->root, name, k == 3 ? HX_F64 : HX_F32, HX_SHAPE(sizes[k]), false, &param));
        OK(hx_tensor_fill(w->stream, param->value, k));
        param->is_partial = is_partial && k % 2 == 0;
    }
    OK(hx_layer_params(w->root, &w->params));
    OK(hx_ddp_create(&(hx_ddp_setup){.dp = w->dp, .tp = w->tp, .device = w->device, .stream = w->stream, .params = &w->params, .config = config,
                                     .n_leaves = n_leaves}, &w->ddp));
    hx_ddp_hook(w->ddp, &w->sync);
    hx_tape_set_ready_hook(w->tape, w->sync.ready, w->sync.self);
    hx_tape_set_place_hook(w->tape, w->sync.place, w->sync.self);
}

static void close_ddp(world *w) {
    hx_ddp_destroy(&w->ddp);
    hx_param_list_destroy(&w->params);
    hx_layer_destroy(&w->root);
}

static void close_world(world *w) {
    close_ddp(w);
    hx_tape_destroy(&w->tape);
    hx_stream_destroy(&w->stream);
    hx_comm_close(&w->dp);
    hx_comm_close(&w->tp);
    hx_comm_close(&w->all);
    hx_device_close(&w->device);
}

/* ---- gradients that are known ---- */

typedef double (*gradient_fn)(int64_t number, int k, int64_t i);

static double whole(int64_t number, int k, int64_t i) { return (double)((number * 31 + k * 7 + i) % 23 - 11); }

/* From 1e-4 to 1e4 and of both signs, as f32: in f64 the same numbers. */
static double mixed(int64_t number, int k, int64_t i) {
    const double x = (double)((number * 7919 + k * 104729 + i * 31) % 10007) / 10007 - 0.5;
    return (float)(x * ((number + i) % 3 == 0 ? 1e4 : (number + i) % 3 == 1 ? 1 : 1e-4));
}

static bool is_watched; /* hooks see the gradients */
static int64_t n_seen;

static hx_status watch(void *self, hx_ctx *ctx, hx_tensor *grad, hx_tensor **replacement) {
    (void)self, (void)ctx, (void)grad, (void)replacement;
    n_seen++;
    return HX_OK;
}

/* One backward pass whose gradients are those of `number`; parameters before `from` take no part. */
static void backward(world *w, gradient_fn gradient, int64_t number, int from) {
    static double wide[LARGEST];
    static float narrow[LARGEST];
    HX_AUTO_TENSOR loss = NULL;
    for (int k = from; k < PARAMS; k++) {
        HX_AUTO_TENSOR x = NULL;
        HX_AUTO_TENSOR product = NULL;
        HX_AUTO_TENSOR sum = NULL;
        HX_AUTO_TENSOR term = NULL;
        hx_tensor *both = NULL, *value = w->params.items[k]->value;
        for (int64_t i = 0; i < sizes[k]; i++) narrow[i] = (float)(wide[i] = gradient(number, k, i));
        OK(hx_tensor_create(w->device, hx_tensor_dtype(value), HX_SHAPE(sizes[k]), &x));
        OK(hx_tensor_write(w->stream, x, k == 3 ? (void *)wide : (void *)narrow));
        OK(hx_mul(&w->ctx, value, x, &product));
        if (is_watched) OK(hx_tape_hook(w->tape, value, watch, NULL));
        OK(hx_sum(&w->ctx, product, NULL, 0, false, &sum));
        OK(hx_cast(&w->ctx, sum, HX_F64, &term));
        if (loss != NULL) OK(hx_add(&w->ctx, loss, term, &both));
        else both = hx_tensor_retain(term);
        hx_tensor_destroy(&loss);
        loss = both;
    }
    OK(hx_backward(&w->ctx, loss, NULL));
}

static void reset_grads(world *w) {
    for (int64_t k = 0; k < w->params.n_items; k++) hx_tensor_grad_reset(w->params.items[k]->value);
}

/* What this rank updates is what it should be, bit for bit. @param expected  [PARAMS][LARGEST] */
static void compare(world *w, double expected[][LARGEST], const char *what) {
    static double wide[LARGEST];
    static float narrow[LARGEST];
    for (int k = 0; k < PARAMS; k++) {
        const hx_param *param = w->params.items[k];
        HX_AUTO_TENSOR own = NULL;
        OK(hx_param_own_grad(param, &own));
        cr_assert_not_null(own, "%s: %s has no gradient", what, param->path);
        cr_assert_eq(hx_tensor_count(own), param->own_end - param->own_begin);
        OK(hx_tensor_read(w->stream, own, k == 3 ? (void *)wide : (void *)narrow));
        for (int64_t i = param->own_begin; i < param->own_end; i++) {
            const double found = k == 3 ? wide[i - param->own_begin] : (double)narrow[i - param->own_begin];
            cr_assert_eq(found, expected[k][i], "%s: %s[%lld] is %.17g, expected %.17g", what, param->path, (long long)i, found, expected[k][i]);
        }
    }
}

/* ---- exact sums ---- */

static double expected[PARAMS][LARGEST];

/* Rank r of dp has n_micro + (r == 0) micro-batches, numbered 10 r + m; with tensor parallelism the gradients of partial
 * parameters are those of number + 1000 tp rank. */
static void expect_whole(world *w, int n_micro, bool is_partial) {
    memset(expected, 0, sizeof expected);
    for (int r = 0; r < hx_comm_size(w->dp); r++)
        for (int m = 0; m < n_micro + (r == 0); m++)
            for (int k = 0; k < PARAMS; k++)
                for (int t = 0; t < (is_partial && k % 2 == 0 ? hx_comm_size(w->tp) : 1); t++)
                    for (int64_t i = 0; i < sizes[k]; i++) expected[k][i] += whole(10 * r + m + 1000 * t, k, i);
}

/* Whole parameters have the gradient of the first tensor-parallel rank everywhere. */
static int partial_of; /* tp rank whose numbers the partial parameters have */
static double whole_or_partial(int64_t number, int k, int64_t i) { return whole(number + (k % 2 == 0 ? 1000 * partial_of : 0), k, i); }

static void step(world *w, int n_micro, bool is_partial) {
    const int rank = hx_comm_rank(w->dp), n = n_micro + (rank == 0);
    partial_of = is_partial ? hx_comm_rank(w->tp) : 0;
    if (w->sync.start != NULL) OK(w->sync.start(w->sync.self, n));
    reset_grads(w);
    for (int m = 0; m < n; m++) {
        OK(w->sync.begin(w->sync.self, m == n - 1));
        backward(w, whole_or_partial, 10 * rank + m, 0);
    }
    OK(w->sync.finish(w->sync.self, w->stream, false));
}

static int size_of_job(void) {
    const char *text = getenv("OMPI_COMM_WORLD_SIZE");
    return text != NULL ? atoi(text) : 1;
}

/* @param is_partial  with two tensor-parallel ranks, if two divides the ranks */
static void check_exact(int zero, int shard, int compress, bool is_partial, const char *shm) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    open_world(&w, shm, is_partial && size_of_job() % 2 == 0 ? 2 : 1);
    if (shard != 0) snprintf(w.dp->host, sizeof w.dp->host, "host%d", hx_comm_rank(w.dp) % 2);
    config.bucket_bytes = 30000;
    config.zero = zero;
    config.shard = shard;
    config.compress = compress;
    open_ddp(&w, &config, 0, is_partial);
    for (int n_micro = 1; n_micro <= 3; n_micro++) {
        step(&w, n_micro, is_partial);
        expect_whole(&w, n_micro, is_partial);
        compare(&w, expected, "uneven micro-batches");
    }
    close_world(&w);
}

Test(zero, sums_of_uneven_micro_batches_are_exact) { check_exact(0, 0, 0, false, "auto"); }
Test(zero, shares_of_stage_1_are_exact) { check_exact(1, 0, 0, false, "auto"); }
Test(zero, shares_of_stage_2_are_exact) { check_exact(2, 0, 0, false, "auto"); }
Test(zero, shares_of_stage_2_by_messages_are_exact) { check_exact(2, 0, 0, false, "off"); }
Test(zero, compressed_sums_of_small_whole_numbers_are_exact) { check_exact(0, 0, 1, false, "auto"); }
Test(zero, compressed_shares_of_small_whole_numbers_are_exact) { check_exact(2, 0, 1, false, "auto"); }
Test(zero, partial_gradients_are_summed_over_tensor_parallel_ranks_too) { check_exact(0, 0, 0, true, "auto"); }
Test(zero, shares_of_partial_gradients_are_summed_over_tensor_parallel_ranks_too) { check_exact(2, 0, 0, true, "auto"); }
Test(zero, compressed_partial_gradients_are_summed_over_tensor_parallel_ranks_too) { check_exact(0, 0, 1, true, "auto"); }

/* Collected aside for the hooks, and then put where they are sent from. */
Test(zero, shares_of_stage_2_of_gradients_with_hooks_are_exact) {
    is_watched = true;
    check_exact(2, 0, 0, false, "auto");
    cr_expect_geq(n_seen, 6 * PARAMS, "1, 2 and 3 micro-batches");
}

/* Two hosts, of unequally many ranks in an odd world, which is refused on all of them. */
static void check_hosts(int zero) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    const int size = size_of_job();
    if (size == 1 || size % 2 == 0) {
        check_exact(zero, 1, 0, false, "auto");
        return;
    }
    open_world(&w, "auto", 1);
    open_ddp(&w, &config, 0, false);
    hx_ddp_destroy(&w.ddp);
    snprintf(w.dp->host, sizeof w.dp->host, "host%d", hx_comm_rank(w.dp) % 2);
    config.zero = zero;
    config.shard = 1;
    cr_expect_eq(hx_ddp_create(&(hx_ddp_setup){.dp = w.dp, .device = w.device, .stream = w.stream, .params = &w.params, .config = &config}, &w.ddp),
                 HX_ERR_CONFIG);
    cr_expect_not_null(strstr(hx_error_message(), "ddp.shard = host"), "%s", hx_error_message());
    close_world(&w);
}

Test(zero, shares_inside_hosts_are_exact) { check_hosts(1); }
Test(zero, shares_of_stage_2_inside_hosts_are_exact) { check_hosts(2); }

static float as_bf16(float x) { return hx_bf16_to_float(hx_bf16_from_float(x)); }

/* What each rank sends is rounded, the sum in f32 in the order of ranks is not, and what all of them get is: near the sum of
 * what was not rounded at all, and the same on all ranks. */
Test(zero, compressed_sums_are_rounded_on_the_wire_only) {
    static float sums[LARGEST];
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    open_world(&w, "auto", 1);
    config.compress = 1;
    open_ddp(&w, &config, 0, false);
    OK(w.sync.start(w.sync.self, 1));
    OK(w.sync.begin(w.sync.self, true));
    backward(&w, mixed, hx_comm_rank(w.dp), 0);
    OK(w.sync.finish(w.sync.self, w.stream, false));
    OK(hx_tensor_read(w.stream, hx_tensor_grad(w.params.items[2]->value), sums));
    for (int64_t i = 0; i < LARGEST; i++) {
        double sum = 0, most = 0;
        float wanted = 0;
        for (int r = 0; r < hx_comm_size(w.dp); r++) {
            sum += mixed(r, 2, i);
            most += mixed(r, 2, i) < 0 ? -mixed(r, 2, i) : mixed(r, 2, i);
            wanted += as_bf16((float)mixed(r, 2, i));
        }
        cr_assert_float_eq(sums[i], sum, most / 128, "[%lld]: %g, expected %g", (long long)i, (double)sums[i], sum);
        wanted = hx_comm_size(w.dp) == 1 ? (float)sum : as_bf16(wanted);
        cr_assert_eq(sums[i], wanted, "[%lld]: %.9g, expected %.9g", (long long)i, (double)sums[i], (double)wanted);
    }
    close_world(&w);
}

/* ---- elastic sums ---- */

/* The tree, written down as it is defined. */
static double tree_sum(int64_t first, int64_t n, int k, int64_t i) {
    if (n == 1) return mixed(first, k, i);
    const double sum = tree_sum(first, n / 2, k, i) + tree_sum(first + n / 2, n / 2, k, i);
    return k == 3 ? sum : (double)(float)sum;
}

/* @param content  number of the gradients that each leaf has; -1: it has no samples. NULL: its own */
static void elastic_step(world *w, const int *content) {
    const hx_leaves *leaves = &w->sync.leaves;
    const int64_t n = hx_leaves_count(leaves);
    bool is_short = false;
    OK(w->sync.start(w->sync.self, n));
    for (int64_t i = 0; i < n; i++) {
        const int64_t leaf = hx_leaves_at(leaves, i), number = content != NULL ? content[leaf] : leaf;
        OK(w->sync.begin(w->sync.self, i == n - 1));
        if (number >= 0) backward(w, mixed, number, 0);
        is_short = is_short || number < 0;
    }
    OK(w->sync.finish(w->sync.self, w->stream, is_short));
}

static void check_elastic(int zero, const char *shm) {
    world w;
    open_world(&w, shm, 1);
    for (int64_t n_leaves = 4; n_leaves <= 32; n_leaves *= 2) {
        char what[64];
        hx_ddp_config config = HX_DDP_DEFAULT;
        config.bucket_bytes = 30000;
        config.zero = zero;
        open_ddp(&w, &config, n_leaves, false);
        for (int k = 0; k < PARAMS; k++)
            for (int64_t i = 0; i < sizes[k]; i++) expected[k][i] = tree_sum(0, n_leaves, k, i);
        for (int again = 0; again < 2; again++) {
            snprintf(what, sizeof what, "stage %d, %lld leaves, step %d", zero, (long long)n_leaves, again);
            elastic_step(&w, NULL);
            compare(&w, expected, what);
        }
        for (int k = 0; k < PARAMS && zero > 0 && hx_comm_size(w.dp) > 1; k++)
            cr_expect_eq(w.params.items[k]->own_begin % HX_NORM_BLOCK, 0, "a block of the norm is on two ranks");
        close_ddp(&w);
    }
    close_world(&w);
}

Test(elastic, sums_are_those_of_one_tree) { check_elastic(0, "auto"); }
Test(elastic, sums_by_messages_are_those_of_one_tree) { check_elastic(0, "off"); }
Test(elastic, shares_of_stage_1_are_those_of_one_tree) { check_elastic(1, "auto"); }
Test(elastic, shares_of_stage_1_by_messages_are_those_of_one_tree) { check_elastic(1, "off"); }
Test(elastic, shares_of_stage_2_are_those_of_one_tree) { check_elastic(2, "auto"); }
Test(elastic, shares_of_stage_2_by_messages_are_those_of_one_tree) { check_elastic(2, "off"); }

/* What the tests above would not see if the numbers did not mind the order: the same leaves, two of them in each other's place. */
Test(elastic, leaf_summed_in_another_place_changes_the_bits) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    int64_t n_other = 0;
    open_world(&w, "auto", 1);
    open_ddp(&w, &config, 8, false);
    elastic_step(&w, (int[]){0, 6, 2, 3, 4, 5, 1, 7});
    static float sums[LARGEST];
    OK(hx_tensor_read(w.stream, hx_tensor_grad(w.params.items[2]->value), sums));
    for (int64_t i = 0; i < LARGEST; i++) n_other += (double)sums[i] != tree_sum(0, 8, 2, i);
    cr_expect_gt(n_other, LARGEST / 10);
    close_world(&w);
}

Test(elastic, leaf_without_samples_counts_as_zeros) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    open_world(&w, "auto", 1);
    open_ddp(&w, &config, 4, false);
    for (int k = 0; k < PARAMS; k++)
        for (int64_t i = 0; i < sizes[k]; i++) {
            const double left = mixed(0, k, i) + mixed(1, k, i), sum = (k == 3 ? left : (double)(float)left) + mixed(2, k, i);
            expected[k][i] = k == 3 ? sum : (double)(float)sum;
        }
    elastic_step(&w, (int[]){0, 1, 2, -1});
    compare(&w, expected, "three leaves of four");
    close_world(&w);
}

/* ---- what goes wrong ---- */

/* Rank 0 gives up after the first of its micro-batches: the others get their sums with zeros for the rest, and the next step
 * is as if nothing had been. */
static void check_failed_rank(int zero, int64_t n_leaves) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    open_world(&w, "auto", 1);
    config.zero = zero;
    config.bucket_bytes = 30000;
    open_ddp(&w, &config, n_leaves, false);
    const bool fails = hx_comm_rank(w.dp) == 0;
    const int64_t n = n_leaves > 0 ? hx_leaves_count(&w.sync.leaves) : 3;
    OK(w.sync.start(w.sync.self, n));
    for (int64_t i = 0; i < (fails ? 1 : n); i++) {
        OK(w.sync.begin(w.sync.self, i == n - 1));
        backward(&w, whole, i, fails ? 2 : 0);
    }
    OK(w.sync.finish(w.sync.self, w.stream, true));
    OK(w.sync.finish(w.sync.self, w.stream, true)); /* a step that failed before it began */
    if (n_leaves > 0) {
        for (int k = 0; k < PARAMS; k++)
            for (int64_t i = 0; i < sizes[k]; i++) expected[k][i] = tree_sum(0, n_leaves, k, i);
        elastic_step(&w, NULL);
    } else {
        expect_whole(&w, 2, false);
        step(&w, 2, false);
    }
    compare(&w, expected, "the step after");
    close_world(&w);
}

Test(zero, rank_that_fails_in_stage_2_keeps_nobody_waiting) { check_failed_rank(2, 0); }
Test(elastic, rank_that_fails_keeps_nobody_waiting) { check_failed_rank(0, 16); }
Test(elastic, rank_that_fails_in_stage_2_keeps_nobody_waiting) { check_failed_rank(2, 16); }

Test(zero, parameter_without_gradient_is_named) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    world w;
    open_world(&w, "auto", 1);
    config.zero = 2;
    open_ddp(&w, &config, 0, false);
    OK(w.sync.start(w.sync.self, 1));
    OK(w.sync.begin(w.sync.self, true));
    backward(&w, whole, 1, 1);
    cr_expect_eq(w.sync.finish(w.sync.self, w.stream, false), HX_ERR_STATE);
    cr_expect_not_null(strstr(hx_error_message(), "p0"), "%s", hx_error_message());
    close_world(&w);
}

Test(zero, settings_that_do_not_go_together_are_refused_on_all_ranks) {
    static const struct {
        int64_t n_leaves;
        int shard, compress;
        const char *says;
    } bad[] = {{3, 0, 0, "power of two"}, {8, 0, 1, "ddp.compress"}, {8, 1, 0, "ddp.shard"}, {0, 1, 1, "ddp.compress"}};
    world w;
    open_world(&w, "auto", 1);
    hx_ddp_config config = HX_DDP_DEFAULT;
    open_ddp(&w, &config, 0, false);
    hx_ddp_destroy(&w.ddp);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        config = (hx_ddp_config)HX_DDP_DEFAULT;
        config.zero = 1;
        config.shard = bad[i].shard;
        config.compress = bad[i].compress;
        cr_expect_eq(hx_ddp_create(&(hx_ddp_setup){.dp = w.dp, .device = w.device, .stream = w.stream, .params = &w.params, .config = &config,
                                                   .n_leaves = bad[i].n_leaves}, &w.ddp), HX_ERR_CONFIG);
        cr_expect_not_null(strstr(hx_error_message(), bad[i].says), "%s", hx_error_message());
    }
    close_world(&w);
}

/* ---- memory ---- */

/* Bytes of N parameters in f32 under AdamW: 4 N values, 4 N gradients (stage 2: divided), 8 N moments (stages 1 and 2: divided). */
static double theory(double n, int zero, double ranks) { return 4 * n + 4 * n / (zero == 2 ? ranks : 1) + 8 * n / (zero > 0 ? ranks : 1); }

Test(zero, memory_is_that_of_theory_within_3_percent) {
    world w;
    open_world(&w, "auto", 1);
    for (int zero = 0; zero <= 2; zero++) {
        hx_device_stats before, after;
        hx_gpt_config gpt = HX_GPT_DEFAULT;
        hx_ddp_config ddp = HX_DDP_DEFAULT;
        hx_optim_config adamw = HX_OPTIM_DEFAULT;
        hx_optim *optim = NULL;
        gpt.dim = 192;
        gpt.heads = 6;
        gpt.layers = 12;
        ddp.zero = zero;
        ddp.bucket_bytes = 256 << 10; /* of which stage 2 keeps one */
        hx_device_stats_get(w.device, &before);
        OK(hx_gpt_create(w.device, &gpt, &w.root));
        OK(hx_gpt_init(w.root, w.stream, 1));
        OK(hx_layer_params(w.root, &w.params));
        OK(hx_ddp_create(&(hx_ddp_setup){.dp = w.dp, .device = w.device, .stream = w.stream, .params = &w.params, .config = &ddp}, &w.ddp));
        OK(hx_optim_create_default(w.device, w.stream, &w.params, &adamw, &optim));
        hx_device_stats_get(w.device, &after);
        const double n = (double)hx_param_list_count(&w.params), expected_bytes = theory(n, zero, hx_comm_size(w.dp)),
                     found = (double)(after.live_bytes - before.live_bytes);
        if (hx_comm_rank(w.dp) == 0)
            printf("stage %d on %d ranks: %.0f bytes, theory %.0f, ratio %.4f\n", zero, hx_comm_size(w.dp), found, expected_bytes, found / expected_bytes);
        cr_expect_float_eq(found / expected_bytes, 1, 0.03, "stage %d on %d ranks: %.0f bytes, theory %.0f", zero, hx_comm_size(w.dp), found,
                           expected_bytes);
        hx_optim_destroy(&optim);
        close_ddp(&w);
    }
    close_world(&w);
}

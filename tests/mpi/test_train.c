/* Training gives the same result on any number of ranks: every rank count is compared with one process, which rank 0
 * runs by itself afterwards. Tolerances: the ranks add the same numbers in another order, so f64 agrees to some
 * thousand roundings of 1e-16; f32 to 1e-7 at once, amplified by Adam, which divides by a root that may be small. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "dist/comm/comm_impl.h"
#include "tests/support/small_run.h"

enum { STEPS = 20 };

typedef struct result {
    double loss[STEPS];
    double *params; /* all of them, as f64 */
    int64_t n_params;
    char (*names)[HX_NAME_BYTES];
    int64_t *begin; /* [n_tensors + 1] */
    int64_t n_tensors;
} result;

static void read_params(hx_stream *stream, const hx_param_list *params, result *r) {
    r->n_tensors = params->n_items;
    r->names = calloc((size_t)params->n_items, sizeof *r->names);
    r->begin = calloc((size_t)params->n_items + 1, sizeof *r->begin);
    r->params = calloc((size_t)hx_param_list_count(params), sizeof *r->params);
    for (int64_t i = 0; i < params->n_items; i++) {
        hx_tensor *value = params->items[i]->value;
        int64_t n = hx_tensor_count(value), base = r->begin[i];
        void *data = malloc(hx_tensor_bytes(value) + 1);
        OK(hx_tensor_read(stream, value, data));
        for (int64_t k = 0; k < n; k++)
            r->params[base + k] = hx_tensor_dtype(value) == HX_F64 ? ((double *)data)[k] : (double)((float *)data)[k];
        free(data);
        memcpy(r->names[i], params->items[i]->path, HX_NAME_BYTES);
        r->begin[i + 1] = base + n;
    }
    r->n_params = r->begin[r->n_tensors];
}

static void free_result(result *r) {
    free(r->params);
    free(r->names);
    free(r->begin);
}

/* Twenty steps on this test's own source text. */
static void train(hx_comm *comm, int dtype, int64_t micro_batch, int64_t recompute, int64_t zero, result *r) {
    small_run run;
    small_run_open(&run, comm, __FILE__,
                   &(small_run_config){.dtype = dtype, .batch = 12, .micro_batch = micro_batch, .steps = STEPS, .lr = 1e-2, .recompute = recompute, .zero = zero});
    for (int i = 0; i < STEPS; i++) {
        hx_train_event event;
        OK(hx_trainer_step(run.trainer, &event));
        r->loss[i] = event.loss;
    }
    read_params(run.stream, &run.params, r);
    small_run_close(&run);
}

static double relative(double a, double b) {
    return fabs(a - b) / fmax(1e-300, fabs(b));
}

/* The key bias has no gradient in theory (softmax does not see a shift), so Adam moves it by noise. It is the middle
 * third of the fused bias. */
static bool is_key_bias(const char *name, double position) {
    return strstr(name, "attn.bias") != NULL && position >= 1.0 / 3 && position < 2.0 / 3;
}

/* |a - b| / |b| over one parameter tensor, key biases left out */
static double tensor_distance(const result *a, const result *b, int64_t t) {
    double d = 0, n = 0, size = (double)(b->begin[t + 1] - b->begin[t]);
    for (int64_t k = b->begin[t]; k < b->begin[t + 1]; k++) {
        if (is_key_bias(b->names[t], (double)(k - b->begin[t]) / size)) continue;
        d += (a->params[k] - b->params[k]) * (a->params[k] - b->params[k]);
        n += b->params[k] * b->params[k];
    }
    return sqrt(d) / fmax(sqrt(n), 1e-12);
}

static void compare(int dtype, int64_t zero, double first, double last, double params) {
    hx_comm *world, *self;
    result many = {.params = NULL}, one = {.params = NULL}, micro = {.params = NULL};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    train(world, dtype, 0, 0, zero, &many);
    train(world, dtype, 2, 0, zero, &micro);
    if (hx_comm_rank(world) == 0) {
        OK(hx_comm_self_open(&self));
        train(self, dtype, 0, 0, 0, &one);
        hx_comm_close(&self);
        for (int k = 0; k < 2; k++) {
            const result *r = k ? &micro : &many;
            cr_assert_leq(relative(r->loss[0], one.loss[0]), first, "step 1: %.17g, alone %.17g", r->loss[0], one.loss[0]);
            double worst = 0, worst_param = 0;
            for (int i = 0; i < STEPS; i++) worst = fmax(worst, relative(r->loss[i], one.loss[i]));
            cr_assert_leq(worst, last, "losses differ by %g", worst);
            for (int64_t t = 0; t < one.n_tensors; t++) {
                double d = tensor_distance(r, &one, t);
                worst_param = fmax(worst_param, d);
                cr_assert_leq(d, params, "%s differs by %g", one.names[t], d);
            }
            cr_log_info("ranks %d, micro-batch %d, %s: losses differ by %.2g, parameters by %.2g", hx_comm_size(world), k ? 2 : 0,
                        dtype ? "f64" : "f32", worst, worst_param);
        }
        cr_assert_lt(one.loss[STEPS - 1], one.loss[0] - 0.5, "nothing was learnt: %g to %g", one.loss[0], one.loss[STEPS - 1]);
        free_result(&one);
    }
    free_result(&many);
    free_result(&micro);
    hx_comm_close(&world);
}

Test(train, twenty_steps_in_f64_equal_one_process) {
    compare(1, 0, 1e-9, 1e-9, 1e-9);
}

Test(train, twenty_steps_in_f32_equal_one_process_within_rounding) {
    compare(0, 0, 1e-5, 1e-4, 1e-3);
}

Test(train, twenty_steps_with_shares_of_the_optimizer_in_f64_equal_one_process) {
    compare(1, 1, 1e-9, 1e-9, 1e-9);
}

Test(train, twenty_steps_with_shares_of_the_optimizer_in_f32_equal_one_process_within_rounding) {
    compare(0, 1, 1e-5, 1e-4, 1e-3);
}

Test(train, twenty_steps_with_shares_of_gradients_in_f64_equal_one_process) {
    compare(1, 2, 1e-9, 1e-9, 1e-9);
}

Test(train, twenty_steps_with_shares_of_gradients_in_f32_equal_one_process_within_rounding) {
    compare(0, 2, 1e-5, 1e-4, 1e-3);
}

/* bf16 with f32 masters: the same bits as without shares, as nothing but the place of an update changes. */
Test(train, shares_of_the_optimizer_leave_the_bits_of_half_types) {
    hx_comm *world;
    double *params[3];
    int64_t n = 0;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    for (int zero = 0; zero < 3; zero++) {
        small_run run;
        hx_train_event event;
        int64_t at = 0;
        small_run_open(&run, world, __FILE__, &(small_run_config){.dtype = 2, .batch = 12, .steps = 5, .lr = 1e-2, .zero = zero, .no_clip = true});
        for (int i = 0; i < 5; i++) OK(hx_trainer_step(run.trainer, &event));
        n = hx_param_list_count(&run.params);
        params[zero] = calloc((size_t)n, sizeof **params);
        for (int64_t i = 0; i < run.params.n_items; i++) {
            hx_ctx ctx = {.device = run.device, .stream = run.stream};
            HX_AUTO_TENSOR wide = NULL;
            OK(hx_cast(&ctx, run.params.items[i]->value, HX_F64, &wide));
            OK(hx_tensor_read(run.stream, wide, params[zero] + at));
            at += hx_tensor_count(wide);
        }
        small_run_close(&run);
    }
    for (int zero = 1; zero < 3; zero++) cr_expect_eq(memcmp(params[0], params[zero], (size_t)n * sizeof **params), 0, "stage %d", zero);
    for (int zero = 0; zero < 3; zero++) free(params[zero]);
    hx_comm_close(&world);
}

static double first_norm(hx_comm *world, const small_run_config *config) {
    small_run run;
    hx_train_event event;
    small_run_open(&run, world, __FILE__, config);
    OK(hx_trainer_step(run.trainer, &event));
    small_run_close(&run);
    return event.grad_norm;
}

/* Every norm of the gradients is the same joined from shares as taken from the whole. */
static void compare_norms(bool inside_hosts, const char *freeze) {
    hx_comm *world;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    if (inside_hosts && hx_comm_size(world) % 2 == 0) snprintf(world->host, sizeof world->host, "host%d", hx_comm_rank(world) % 2);
    for (int type = 0; type < 3; type++) {
        small_run_config config = {.dtype = 1, .batch = 12, .steps = 2, .lr = 1e-2, .clip_norm_type = type, .freeze = freeze};
        const double whole = first_norm(world, &config);
        for (config.zero = 1; config.zero < 3; config.zero++) {
            config.inside_hosts = inside_hosts;
            const double shared = first_norm(world, &config);
            cr_expect_leq(relative(shared, whole), 1e-12, "norm %d, stage %d: %.17g, of the whole %.17g", type, (int)config.zero, shared, whole);
        }
    }
    hx_comm_close(&world);
}

Test(train, norms_of_shared_gradients_are_those_of_the_whole) { compare_norms(false, NULL); }
Test(train, norms_of_gradients_shared_beside_frozen_parameters_are_those_of_the_whole) { compare_norms(false, "norm.*, blocks.0.attn.*"); }
Test(train, norms_of_gradients_shared_inside_hosts_are_those_of_the_whole) { compare_norms(true, NULL); }

/* Slots of each rank together are those of one process, and no rank has much more than its share. */
Test(train, state_of_the_optimizer_is_dealt_out_evenly) {
    hx_comm *world;
    small_run run;
    hx_state_list items = {0};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    small_run_open(&run, world, __FILE__, &(small_run_config){.dtype = 0, .batch = 12, .steps = 2, .lr = 1e-2, .zero = 1});
    OK(hx_optim_state(run.optim, &run.agreement, &items));
    int64_t n = 0, all = 2 * hx_param_list_count(&run.params);
    for (int64_t i = 0; i < items.n_items; i++) n += hx_layout_count(items.items[i].layout);
    const int64_t share = all / hx_comm_size(world);
    cr_expect_leq(n, share + share / 10 + 64, "%lld elements of %lld on one of %d ranks", (long long)n, (long long)all, hx_comm_size(world));
    OK(hx_comm_all_reduce(world, &n, 1, HX_I64, HX_SUM, NULL, NULL));
    cr_expect_eq(n, all);
    hx_state_list_destroy(&items);
    small_run_close(&run);
    hx_comm_close(&world);
}

/* Buckets are reduced while backward goes on, in the order in which leaves become ready: recomputing does not change it. */
Test(train, recomputed_activations_give_the_same_bits) {
    hx_comm *world;
    result plain = {.params = NULL}, again = {.params = NULL};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    train(world, 0, 2, 0, 0, &plain);
    train(world, 0, 2, 1, 0, &again);
    cr_assert_eq(memcmp(plain.loss, again.loss, sizeof plain.loss), 0);
    cr_assert_eq(memcmp(plain.params, again.params, (size_t)plain.n_params * sizeof *plain.params), 0);
    free_result(&plain);
    free_result(&again);
    hx_comm_close(&world);
}

/* ---- averages and frozen parameters ---- */

#define FROZEN "tok.*, blocks.0.attn.*"

static const hx_state_item *item_of(const hx_state_list *list, const char *name) {
    for (int64_t i = 0; i < list->n_items; i++)
        if (strcmp(list->items[i].name, name) == 0) return &list->items[i];
    return NULL;
}

/* Elements of a whole logical tensor in f64. */
static const double *values_of(const hx_state_item *item) {
    cr_assert(item != NULL && item->dtype == HX_F64 && item->layout->n_boxes == 1);
    return (const double *)item->data + item->layout->boxes[0].local;
}

static double item_distance(const hx_state_item *a, const hx_state_item *b) {
    const double *x = values_of(a), *y = values_of(b);
    double d = 0, n = 0;
    for (int64_t k = 0; k < hx_layout_count(b->layout); k++) {
        d += (x[k] - y[k]) * (x[k] - y[k]);
        n += y[k] * y[k];
    }
    return sqrt(d) / fmax(sqrt(n), 1e-12);
}

/* Steps of a run that keeps averages and trains a part of its parameters. @param[out] list  lives as long as the run */
static void train_part(hx_comm *comm, small_run *run, hx_state_list *list, double first[4]) {
    small_run_open(run, comm, __FILE__,
                   &(small_run_config){.dtype = 1, .batch = 12, .lr = 1e-2, .steps = STEPS, .ema = 0.9, .freeze = FROZEN});
    OK(hx_trainer_items(run->trainer, list));
    memcpy(first, values_of(item_of(list, "/model/tok.weight")), 4 * sizeof *first);
    for (int i = 0; i < STEPS; i++) OK(hx_trainer_step(run->trainer, NULL));
    OK(hx_stream_sync(run->stream));
}

static void compare_averages(const hx_state_list *many, const hx_state_list *one) {
    int n = 0;
    cr_assert_eq(many->n_items, one->n_items);
    for (int64_t i = 0; i < one->n_items; i++) {
        const char *name = one->items[i].name;
        if (strncmp(name, "/ema/", 5) != 0 || strstr(name, "attn.k.bias") != NULL) continue;
        const double d = item_distance(item_of(many, name), &one->items[i]);
        cr_expect_leq(d, 1e-9, "%s differs by %g", name, d);
        n++;
    }
    cr_expect_gt(n, 5);
    cr_expect_gt(item_distance(item_of(one, "/ema/norm.weight"), item_of(one, "/model/norm.weight")), 1e-3,
                 "an average lags behind its parameter");
}

static void expect_frozen(const hx_state_list *list, const double first[4]) {
    static const char *const prefixes[] = {"/optim/m/", "/optim/v/", "/ema/"};
    cr_expect_eq(memcmp(values_of(item_of(list, "/model/tok.weight")), first, 4 * sizeof *first), 0);
    for (int k = 0; k < 3; k++) {
        char name[64];
        snprintf(name, sizeof name, "%stok.weight", prefixes[k]);
        cr_expect_null(item_of(list, name), "%s is kept for a frozen parameter", name);
        snprintf(name, sizeof name, "%sblocks.0.attn.q.weight", prefixes[k]);
        cr_expect_null(item_of(list, name));
        snprintf(name, sizeof name, "%sblocks.1.attn.q.weight", prefixes[k]);
        cr_expect_not_null(item_of(list, name));
    }
}

Test(train, averages_of_weights_equal_one_process_and_frozen_ones_keep_their_bits) {
    hx_comm *world, *self;
    small_run many, one;
    hx_state_list of_many = {0}, of_one = {0};
    double first[4];
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    train_part(world, &many, &of_many, first);
    expect_frozen(&of_many, first);
    if (hx_comm_rank(world) == 0) {
        OK(hx_comm_self_open(&self));
        train_part(self, &one, &of_one, first);
        compare_averages(&of_many, &of_one);
        hx_state_list_destroy(&of_one);
        small_run_close(&one);
        hx_comm_close(&self);
    }
    hx_state_list_destroy(&of_many);
    small_run_close(&many);
    hx_comm_close(&world);
}

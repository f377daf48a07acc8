/* Elastic training without other ranks: leaves, exact sums, the norm by blocks, and what is refused. The gradient synchronisation is
 * a small one that keeps each leaf's gradients apart. */
#include "tests/unit/test_trainer_fixture.h"

enum { LEAVES_MOST = 16, PARAMS_MOST = 4 };

/* ---- a synchronisation that keeps leaves ---- */

typedef struct keeper {
    hx_grad_sync sync;
    const hx_param_list *params;
    hx_tensor *kept[LEAVES_MOST][PARAMS_MOST]; /* owned; NULL: the leaf had no backward */
    int64_t n_begun;
    bool last_seen, partial_seen;
} keeper;

/* The gradients that the last leaf left. */
static void take(keeper *k) {
    for (int64_t i = 0; k->n_begun > 0 && i < k->params->n_items; i++) {
        hx_tensor *value = k->params->items[i]->value;
        if (hx_tensor_grad_is_set(value)) k->kept[k->n_begun - 1][i] = hx_tensor_retain(hx_tensor_grad(value));
        OK(hx_tensor_set_grad(value, NULL));
    }
}

static hx_status keeper_begin(void *self, bool is_last) {
    keeper *k = self;
    take(k);
    k->n_begun++;
    cr_expect_eq(is_last, k->n_begun == hx_leaves_count(&k->sync.leaves));
    k->last_seen = is_last;
    return HX_OK;
}

static hx_status keeper_ready(void *self, hx_tensor *leaf) {
    (void)self;
    cr_expect(hx_tensor_grad_is_set(leaf));
    return HX_OK;
}

/* sum(first..end) of the two halves; NULL: nothing */
static hx_tensor *tree(keeper *k, int64_t param, int64_t first, int64_t end) {
    hx_tensor *sum = NULL;
    if (end - first == 1) return k->kept[first][param] ? hx_tensor_retain(k->kept[first][param]) : NULL;
    hx_tensor *a = tree(k, param, first, (first + end) / 2), *b = tree(k, param, (first + end) / 2, end);
    if (a == NULL || b == NULL) return a ? a : b;
    OK(hx_add(&ctx, a, b, &sum));
    hx_tensor_destroy(&a);
    hx_tensor_destroy(&b);
    return sum;
}

static void drop(keeper *k) {
    for (int i = 0; i < LEAVES_MOST * PARAMS_MOST; i++) hx_tensor_destroy(&k->kept[i / PARAMS_MOST][i % PARAMS_MOST]);
    k->n_begun = 0;
}

static hx_status keeper_finish(void *self, hx_stream *s, bool partial) {
    keeper *k = self;
    (void)s;
    take(k);
    k->partial_seen = partial;
    for (int64_t i = 0; i < k->params->n_items; i++) {
        HX_AUTO_TENSOR sum = tree(k, i, 0, hx_leaves_count(&k->sync.leaves));
        if (sum == NULL) { /* no leaf with samples */
            OK(hx_tensor_create(dev, HX_F64, hx_tensor_shape(k->params->items[i]->value), &sum));
            OK(hx_tensor_fill(stream, sum, 0));
        }
        OK(hx_tensor_set_grad(k->params->items[i]->value, sum));
    }
    cr_expect(k->last_seen || partial);
    drop(k);
    return HX_OK;
}

static void keeper_open(keeper *k, const hx_param_list *params, hx_leaves leaves) {
    *k = (keeper){.sync = {.leaves = leaves, .begin = keeper_begin, .ready = keeper_ready, .finish = keeper_finish}, .params = params};
    k->sync.self = k;
}

/* ---- leaves ---- */

Test(elastic, each_leaf_is_one_ranks_and_a_ranks_leaves_rise) {
    for (int64_t n = 1; n <= LEAVES_MOST; n *= 2)
        for (int size = 1; size <= n; size++)
            for (int interleaved = 0; interleaved < 2; interleaved++) {
                int n_owners[LEAVES_MOST] = {0};
                for (int rank = 0; rank < size; rank++) {
                    const hx_leaves l = {n, rank, size, interleaved};
                    int64_t last = -1;
                    for (int64_t i = 0; i < hx_leaves_count(&l); i++) {
                        const int64_t at = hx_leaves_at(&l, i);
                        cr_assert(at > last && at < n, "leaf %lld after %lld of %lld", (long long)at, (long long)last, (long long)n);
                        n_owners[last = at]++;
                    }
                    cr_expect_geq(hx_leaves_count(&l), 1, "rank %d of %d has no leaf of %lld", rank, size, (long long)n);
                }
                for (int64_t i = 0; i < n; i++) cr_expect_eq(n_owners[i], 1);
            }
}

static void refused(hx_status status, hx_status want, const char *const *words) {
    cr_expect_eq(status, want, "%s: %s", hx_status_name(status), hx_error_message());
    for (; *words; words++) cr_expect(strstr(hx_error_message(), *words), "'%s' is not said by: %s", *words, hx_error_message());
}
#define REFUSED_FOR(call, want, ...) refused(call, want, (const char *const[]){__VA_ARGS__, NULL})

Test(elastic, the_number_of_leaves_is_a_power_of_two_of_the_configuration) {
    hx_train_config c = HX_TRAIN_DEFAULT;
    int64_t n = -1;
    OK(hx_train_n_leaves(&c, 3, &n));
    cr_expect_eq(n, 0, "not elastic");
    c.deterministic = HX_DETERMINISTIC_ELASTIC;
    REFUSED_FOR(hx_train_n_leaves(&c, 1, &n), HX_ERR_CONFIG, "micro_batch = 0", "batch = 32");
    c.micro_batch = 5;
    REFUSED_FOR(hx_train_n_leaves(&c, 1, &n), HX_ERR_CONFIG, "micro_batch = 5", "batch = 32", "6.4");
    c.batch = 15;
    REFUSED_FOR(hx_train_n_leaves(&c, 1, &n), HX_ERR_CONFIG, "micro_batch = 5", "batch = 15", "makes 3");
    c.batch = 20;
    REFUSED_FOR(hx_train_n_leaves(&c, 5, &n), HX_ERR_CONFIG, "micro_batch = 5", "batch = 20", "4", "5 ranks");
    c.micro_batch = 40;
    REFUSED_FOR(hx_train_n_leaves(&c, 1, &n), HX_ERR_CONFIG, "micro_batch = 40", "batch = 20");
    c.micro_batch = 5;
    OK(hx_train_n_leaves(&c, 4, &n));
    cr_expect_eq(n, 4);
}

/* ---- a training ---- */

enum { N = 44, BATCH = 16, MICRO = 2 };
static double xs[N * 3], ys[N * 2];
static samples data;
static training run;
static keeper keep;

static hx_status n_samples(void *self, int64_t cursor, int64_t *out) {
    *out = share_of(self, cursor % N);
    return HX_OK;
}

static void open_training(int rank, int size) {
    for (int i = 0; i < N * 3; i++) xs[i] = sin(i * 1.7) + 0.01 * i;
    for (int i = 0; i < N * 2; i++) ys[i] = cos(i * 0.9) / 3;
    data = (samples){.n = N, .n_in = 3, .n_out = 2, .batch = BATCH, .micro = MICRO, .x = xs, .y = ys};
    samples_open(&data);
    data.source.n_samples = n_samples;
    training_open(&run, linear_layer(3, 2, true), &data);
    run.tc.deterministic = HX_DETERMINISTIC_ELASTIC;
    run.tc.batch = BATCH;
    run.tc.micro_batch = MICRO;
    run.tc.steps = 3;
    keeper_open(&keep, &run.params, (hx_leaves){BATCH / MICRO, rank, size, false});
    run.setup.sync = &keep.sync;
}

static void close_training(void) {
    drop(&keep);
    training_close(&run);
    samples_close(&data);
}

static void open_alone(void) {
    fixture_open();
    open_training(0, 1);
}
static void close_run(void) {
    close_training();
    fixture_close();
}
TestSuite(elastic_run, .init = open_alone, .fini = close_run);

/* Three steps, of which the last has 12 samples of 16: its last two leaves are empty. */
Test(elastic_run, leaves_add_up_to_what_accumulation_gives) {
    hx_train_event event, plain;
    training_start(&run);
    for (int i = 0; i < 3; i++) {
        OK(hx_trainer_step(run.trainer, &event));
        cr_expect_eq(keep.partial_seen, i == 2);
    }
    cr_expect_eq(event.count, 12);
    double *elastic = weights_of(&run);
    close_training();
    open_training(0, 1);
    run.tc.deterministic = HX_DETERMINISTIC_RANKS;
    run.setup.sync = NULL;
    training_start(&run);
    for (int i = 0; i < 3; i++) OK(hx_trainer_step(run.trainer, &plain));
    double *accumulated = weights_of(&run);
    for (int i = 0; i < 8; i++) cr_expect_float_eq(elastic[i], accumulated[i], 1e-12);
    cr_expect_float_eq(event.loss, plain.loss, 8 * 3e-8, "only the loss that is reported is rounded");
    cr_expect_float_eq(event.grad_norm, plain.grad_norm, 1e-12);
    free(accumulated);
    free(elastic);
}

static int64_t dealt[LEAVES_MOST];
static int n_dealt;

static hx_status get_noted(void *self, int64_t cursor, int64_t index, hx_stream *st, hx_batch *out) {
    dealt[n_dealt++] = index;
    return samples_get(self, cursor, index, st, out);
}

/* Of 8 leaves rank 2 of 3 has 5, 6 and 7, of which a batch of 12 samples fills 5 alone, and one of 10 none. */
Test(elastic_run, a_rank_computes_its_leaves_with_samples_and_begins_all) {
    static const struct {
        int64_t cursor, n, first;
        bool partial;
    } steps[] = {{0, 3, 5, false}, {32, 1, 5, true}, {34, 0, 0, true}};
    close_training();
    open_training(2, 3);
    data.source.get = get_noted;
    training_start(&run);
    for (int i = 0; i < 3; i++) {
        n_dealt = 0;
        hx_trainer_state(run.trainer)->cursor = steps[i].cursor;
        OK(hx_trainer_step(run.trainer, NULL));
        cr_expect_eq(n_dealt, steps[i].n);
        for (int k = 0; k < n_dealt; k++) cr_expect_eq(dealt[k], steps[i].first + k);
        cr_expect_eq(keep.partial_seen, steps[i].partial);
    }
}

/* ---- exact sums ---- */

static void eval_as(int size, double sums[2]) {
    const hx_ctx quiet = {.device = dev, .stream = stream};
    sums[0] = sums[1] = 0;
    for (int rank = size - 1; rank >= 0; rank--) {
        const hx_leaves leaves = {BATCH / MICRO, rank, size, false};
        double mine[2];
        OK(hx_eval_share(&quiet, &run.setup.model, &data.source, 0, &leaves, NULL, mine));
        for (int i = 0; i < 2; i++) sums[i] += mine[i];
    }
}

Test(elastic_run, an_evaluation_has_the_same_bits_on_any_number_of_ranks) {
    const hx_ctx quiet = {.device = dev, .stream = stream};
    double one[2], many[2], plain[2];
    eval_as(1, one);
    for (int size = 2; size <= 9; size++) {
        eval_as(size, many);
        cr_expect_eq(memcmp(one, many, sizeof one), 0, "%d ranks: %.17g, one: %.17g", size, many[0], one[0]);
    }
    cr_expect_eq(one[1], N);
    cr_expect_eq(one[0] * 0x1p24, rint(one[0] * 0x1p24), "a multiple of 2^-24");
    OK(hx_eval_share(&quiet, &run.setup.model, &data.source, 0, NULL, NULL, plain));
    cr_expect_float_eq(one[0], plain[0], N / MICRO * 3e-8);
    cr_expect_neq(one[0], plain[0], "unrounded");
}

static hx_status large_loss(void *self, hx_ctx *c, const hx_batch *batch, hx_tensor **loss, hx_tensor **count) {
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, loss));
    OK(hx_tensor_fill(stream, *loss, *(const double *)self));
    return sample_count(c, batch->n_samples, count);
}

Test(elastic_run, rounding_keeps_what_is_not_finite_and_both_signs) {
    static const struct {
        double loss, sum;
    } rows[] = {{1e6 / 3, 22 * (5592405333333.0 / 0x1p24)}, {-1e6 / 3, 22 * (-5592405333333.0 / 0x1p24)}, {0x1p-26, 0}, {INFINITY, INFINITY}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double value = rows[i].loss, sums[2];
        run.setup.model = (hx_model){.self = &value, .root = run.layer, .loss = large_loss};
        eval_as(3, sums);
        cr_expect_eq(sums[0], rows[i].sum, "%.17g, expected %.17g", sums[0], rows[i].sum);
    }
}

/* ---- the norm over ranks ---- */

enum { WIDE = 3 * HX_NORM_BLOCK + 12 }; /* weights of the layer below, and as many biases as it has outputs */

/* The other rank of two: it has what this one does not update. */
static hx_status other_joins(void *self, double *values, int64_t n) {
    const hx_param *param = run.params.items[0];
    const hx_tensor *grad = hx_tensor_grad(param->value);
    double *mine = malloc(sizeof *mine * (size_t)n);
    HX_AUTO_TENSOR rest = NULL;
    HX_AUTO_TENSOR blocks = NULL;
    const int64_t from = param->own_begin == 0 ? param->own_end : 0, to = param->own_begin == 0 ? WIDE : param->own_begin;
    OK(hx_tensor_window((hx_tensor *)grad, from, HX_SHAPE(to - from), &rest));
    OK(hx_op_run(&ctx, HX_OP_norm_blocks, &rest, 1, &(hx_op_attr){.blocks.p = *(const double *)self}, 0, &blocks));
    OK(hx_tensor_read(stream, blocks, mine));
    for (int64_t i = 0; i < hx_tensor_count(blocks); i++) {
        cr_expect_eq(values[from / HX_NORM_BLOCK + i], 0, "two ranks count block %lld", (long long)(from / HX_NORM_BLOCK + i));
        values[from / HX_NORM_BLOCK + i] += mine[i];
    }
    free(mine);
    return HX_OK;
}

static hx_status same_status(void *self, hx_status mine) {
    (void)self;
    return mine;
}
static hx_status no_sum(void *self, double *values, int n) {
    (void)self, (void)values, (void)n;
    return HX_OK;
}

/* One step's norm; `begin` and `end` of the weights are this rank's, of two. */
static double norm_of(int p_option, int64_t begin, int64_t end, hx_status want) {
    double p = (double[]){2, 1, HUGE_VAL}[p_option];
    hx_agreement pair = {.self = &p, .rank = begin != 0, .size = 2, .agree = same_status, .sum = no_sum, .join = other_joins,
                         .replica = begin != 0, .n_replicas = 2};
    hx_train_event event = {.grad_norm = NAN};
    training_close(&run);
    training_open(&run, linear_layer(3, WIDE / 3, false), &data);
    data.n_out = WIDE / 3;
    data.y = calloc((size_t)(N * WIDE / 3), sizeof(double));
    run.tc.deterministic = HX_DETERMINISTIC_ELASTIC;
    run.tc.batch = BATCH;
    run.tc.micro_batch = MICRO;
    run.tc.steps = 1;
    run.oc.clip_norm_type = p_option;
    run.setup.sync = &keep.sync;
    if (end - begin < WIDE) {
        hx_param *param = run.params.items[0];
        param->is_shared = true;
        param->own_begin = begin;
        param->own_end = end;
        run.setup.agreement = &pair;
    }
    OK(hx_optim_create_default(dev, stream, &run.params, &run.oc, &run.optim));
    run.setup.optim = run.optim;
    FAILS(hx_trainer_create(&run.setup, &run.trainer), want);
    if (want == HX_OK) OK(hx_trainer_step(run.trainer, &event));
    free((void *)data.y);
    return event.grad_norm;
}

Test(elastic_run, the_norm_has_the_same_bits_however_parameters_are_shared_out) {
    for (int p = 0; p < 3; p++) {
        const double whole = norm_of(p, 0, WIDE, HX_OK);
        cr_expect_gt(whole, 0);
        for (int64_t cut = HX_NORM_BLOCK; cut < WIDE; cut += HX_NORM_BLOCK) {
            cr_expect_eq(norm_of(p, 0, cut, HX_OK), whole, "norm type %d", p);
            cr_expect_eq(norm_of(p, cut, WIDE, HX_OK), whole, "norm type %d", p);
        }
        cr_expect_eq(norm_of(p, 0, 0, HX_OK), whole, "a rank without a share, norm type %d", p);
    }
}

Test(elastic_run, a_share_that_begins_within_a_block_is_refused) {
    norm_of(0, HX_NORM_BLOCK + 1, WIDE, HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "share of weight begins at element 4097"), "%s", hx_error_message());
}

/* ---- what is refused ---- */

static hx_status try_create(void) {
    hx_optim_destroy(&run.optim);
    OK(hx_optim_create_default(dev, stream, &run.params, &run.oc, &run.optim));
    run.setup.optim = run.optim;
    return hx_trainer_create(&run.setup, &run.trainer);
}

Test(elastic_run, configuration_and_synchronisation_must_want_the_same) {
    run.setup.sync = NULL;
    REFUSED_FOR(try_create(), HX_ERR_ARG, "synchronisation is NULL", "expected 8");
    run.setup.sync = &keep.sync;
    keep.sync.leaves.n = 4;
    REFUSED_FOR(try_create(), HX_ERR_ARG, "4 leaves", "expected 8");
    keep.sync.leaves.n = 8;
    data.source.batch = 12;
    REFUSED_FOR(try_create(), HX_ERR_CONFIG, "batch = 16", "batches of 12");
    data.source.batch = BATCH;
    run.tc.deterministic = HX_DETERMINISTIC_RANKS;
    REFUSED_FOR(try_create(), HX_ERR_ARG, "deterministic = ranks", "8 leaves", "expected 0");
}

Test(elastic_run, running_statistics_are_refused_by_name) {
    hx_layer *norm, *both;
    OK(hx_batchnorm_create(dev, HX_F64, 3, NULL, &norm));
    training_close(&run);
    OK(hx_sequential_create_consume(dev, (hx_layer *[]){norm, linear_layer(3, 2, true)}, 2, &both));
    training_open(&run, both, &data);
    run.tc.deterministic = HX_DETERMINISTIC_ELASTIC;
    run.tc.batch = BATCH;
    run.tc.micro_batch = MICRO;
    run.setup.sync = &keep.sync;
    REFUSED_FOR(try_create(), HX_ERR_CONFIG, "running_mean", "deterministic = elastic");
}

/* The source deals more leaves than the synchronisation knows of. */
Test(elastic_run, a_source_with_too_many_leaves_is_refused) {
    data.micro = 1;
    training_start(&run);
    REFUSED_FOR(hx_trainer_step(run.trainer, NULL), HX_ERR_STATE, "16 leaves", "at most 8");
}

/* Data in memory: every sample once an epoch, the same order for any number of ranks, short, dropped and joined ends. */
#include "io/data/dataset.h"
#include "tests/unit/test_trainer_fixture.h"

TestSuite(dataset, .init = fixture_open, .fini = fixture_close);

enum { N = 23, MOST = 64 };
static float inputs[N][2];
static int32_t labels[N];

static hx_dataset *dataset(hx_sampler sampler) {
    hx_dataset *d = NULL;
    for (int i = 0; i < N; i++) inputs[i][0] = (float)i, inputs[i][1] = (float)(-i), labels[i] = 10 * i;
    OK(hx_dataset_create(dev, &(hx_host_array){HX_F32, HX_SHAPE(N, 2), inputs},
                         &(hx_host_array){HX_I32, HX_SHAPE(N), labels}, &sampler, &d));
    return d;
}

/* The samples of a rank's share at a cursor; inputs, targets and positions are checked. */
static int64_t deal(hx_dataset *d, int64_t cursor, int64_t *dealt) {
    hx_batch_source source;
    int64_t n_micro, n = 0, first = 0;
    hx_dataset_source(d, &source);
    OK(source.n_micro(source.self, cursor, &n_micro));
    for (int64_t m = 0; m < n_micro; m++) {
        hx_batch batch;
        float x[MOST][2];
        int32_t y[MOST];
        OK(source.get(source.self, cursor, m, stream, &batch));
        cr_assert(hx_tensor_ndim(batch.input) == 2 && hx_tensor_dim(batch.input, 0) == batch.n_samples);
        cr_assert(hx_tensor_ndim(batch.target) == 1 && hx_tensor_dim(batch.target, 0) == batch.n_samples);
        OK(hx_tensor_read(stream, batch.input, x));
        OK(hx_tensor_read(stream, batch.target, y));
        if (m == 0) first = batch.sample_base;
        cr_assert_eq(batch.sample_base, first + n);
        for (int64_t i = 0; i < batch.n_samples; i++) {
            cr_assert(x[i][1] == -x[i][0] && y[i] == (int32_t)(10 * x[i][0]));
            dealt[n++] = (int64_t)x[i][0];
        }
    }
    return n;
}

/* Two epochs as `size` ranks deal them, one after the other; returns how many samples that were. */
static int64_t deal_epochs(hx_last_batch last, int size, int64_t *order) {
    hx_dataset *ranks[3] = {NULL};
    hx_batch_source source;
    int64_t n = 0, cursor = 0;
    for (int r = 0; r < size; r++)
        ranks[r] = dataset((hx_sampler){
            .batch = 7, .micro_batch = 2, .shuffle = true, .last = last, .seed = 5, .rank = r, .size = size});
    hx_dataset_source(ranks[0], &source);
    while (cursor < 2 * source.n_global) {
        int64_t n_batch = source.batch, got = 0;
        if (source.n_samples != NULL) OK(source.n_samples(source.self, cursor, &n_batch));
        for (int r = 0; r < size; r++) got += deal(ranks[r], cursor, order + n + got);
        cr_assert_eq(got, n_batch);
        n += got;
        cursor += n_batch;
    }
    for (int r = 0; r < size; r++) hx_dataset_destroy(&ranks[r]);
    return n;
}

static int count_in(const int64_t *order, int64_t n, int64_t sample) {
    int times = 0;
    for (int64_t i = 0; i < n; i++) times += order[i] == sample;
    return times;
}

Test(dataset, deals_each_sample_once_an_epoch_in_the_same_order_for_any_number_of_ranks) {
    const int64_t total[3] = {2 * N, 2 * 21, 49}; /* short, drop, join: the seventh batch goes on into a third epoch */
    for (int last = 0; last < 3; last++) {
        int64_t one[MOST], many[MOST];
        const int64_t n = deal_epochs(last, 1, one), epoch = last == HX_LAST_DROP ? 21 : N;
        cr_assert_eq(n, total[last]);
        for (int64_t i = 0; i < N; i++) {
            cr_expect_leq(count_in(one, epoch, i), 1);
            if (last != HX_LAST_DROP) cr_expect_eq(count_in(one + N, N, i), 1);
        }
        cr_expect_neq(memcmp(one, one + epoch, 20 * sizeof *one), 0, "epochs are shuffled anew");
        for (int size = 2; size <= 3; size++) {
            cr_assert_eq(deal_epochs(last, size, many), n);
            cr_expect_arr_eq(many, one, (size_t)n * sizeof *one);
        }
    }
}

Test(dataset, without_shuffling_samples_come_in_order_and_a_short_batch_may_leave_a_rank_empty) {
    int64_t dealt[MOST];
    hx_dataset *d = dataset((hx_sampler){.batch = 21, .rank = 0, .size = 3});
    cr_expect_eq(deal(d, 0, dealt), 7);
    for (int i = 0; i < 7; i++) cr_expect_eq(dealt[i], i);
    cr_expect_eq(deal(d, 21, dealt), 0, "two samples are left for three ranks");
    hx_dataset_destroy(&d);
}

Test(dataset, what_does_not_fit_is_refused) {
    hx_dataset *d = NULL;
    const hx_host_array x = {HX_F32, HX_SHAPE(N, 2), inputs}, y = {HX_I32, HX_SHAPE(N - 1), labels};
    const hx_sampler good = {.batch = 4, .size = 1};
    hx_sampler s = good;
    FAILS(hx_dataset_create(dev, &x, &y, &good, &d), HX_ERR_SHAPE);
    cr_expect(strstr(hx_error_message(), "23 inputs and 22 targets") != NULL, "%s", hx_error_message());
    FAILS(hx_dataset_create(dev, &(hx_host_array){HX_F32, HX_SCALAR, inputs}, NULL, &good, &d), HX_ERR_SHAPE);
    FAILS(hx_dataset_create(dev, &(hx_host_array){HX_F32, HX_SHAPE(0, 2), inputs}, NULL, &good, &d), HX_ERR_CONFIG);
    s.batch = 0;
    FAILS(hx_dataset_create(dev, &x, NULL, &s, &d), HX_ERR_CONFIG);
    s.batch = N + 1, s.last = HX_LAST_DROP;
    FAILS(hx_dataset_create(dev, &x, NULL, &s, &d), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "drop_last") != NULL, "%s", hx_error_message());
    cr_expect_null(d);
}

/* 23 samples in batches of 10: 10, 10 and 3. Two and a half epochs are 3 + 3 + 2 steps. */
Test(dataset, the_trainer_counts_short_batches_exactly) {
    hx_batch_source source;
    training r;
    samples none = {.n = N, .n_in = 2, .batch = 10};
    double x[N][2], y[N];
    hx_dataset *d = NULL;
    for (int i = 0; i < N; i++) x[i][0] = i * 0.1, x[i][1] = 1, y[i] = 0.3 * i;
    OK(hx_dataset_create(dev, &(hx_host_array){HX_F64, HX_SHAPE(N, 2), x}, &(hx_host_array){HX_F64, HX_SHAPE(N, 1), y},
                         &(hx_sampler){.batch = 10, .micro_batch = 4, .shuffle = true, .seed = 1, .size = 1}, &d));
    hx_dataset_source(d, &source);
    none.source = source;
    training_open(&r, linear_layer(2, 1, false), &none);
    r.tc.steps = 0;
    r.tc.epochs = 2.5;
    training_start(&r);
    cr_expect_eq(hx_trainer_n_steps(r.trainer), 8);
    OK(hx_trainer_run(r.trainer));
    const double counts[8] = {10, 10, 3, 10, 10, 3, 10, 10};
    for (int i = 0; i < 8; i++) cr_expect_eq(event_of(&r, HX_EVENT_STEP, i)->count, counts[i]);
    cr_expect_eq(hx_trainer_state(r.trainer)->cursor, 2 * N + 20);
    training_close(&r);
    hx_dataset_destroy(&d);
}

/* Metrics: known numbers, what takes no part, and counts that add up over ranks. */
#include "core/train/metrics.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(metrics, .init = fixture_open, .fini = fixture_close);

static double value(const hx_metrics *m, const char *wanted) {
    for (int i = 0; i < hx_metrics_n_values(m); i++) {
        const char *name;
        const double v = hx_metrics_value(m, i, &name);
        if (strcmp(name, wanted) == 0) return v;
    }
    return NAN;
}

static hx_metrics *metrics(hx_metrics_config config) {
    hx_metrics *m = NULL;
    OK(hx_metrics_create(&config, &m));
    return m;
}

static void update(hx_metrics *m, hx_shape shape, const double *scores, hx_dtype dtype, hx_shape ids, const void *targets) {
    HX_AUTO_TENSOR s = NULL;
    HX_AUTO_TENSOR t = NULL;
    OK(hx_tensor_create(dev, HX_F64, shape, &s));
    OK(hx_tensor_write(stream, s, scores));
    OK(hx_tensor_create(dev, dtype, ids, &t));
    OK(hx_tensor_write(stream, t, targets));
    OK(hx_metrics_update(m, stream, s, t));
}

/* TP = 3, FP = 1, FN = 2, and one true negative */
static const double logits[7] = {2, 1, 0.1, 3, -1, -0.1, -4};
static const int32_t truth[7] = {1, 1, 1, 0, 1, 1, 0};

Test(metrics, three_true_one_false_positive_and_two_missed_give_f1_of_two_thirds) {
    hx_metrics *m = metrics((hx_metrics_config){0});
    update(m, HX_SHAPE(7), logits, HX_I32, HX_SHAPE(7), truth);
    cr_expect_float_eq(value(m, "f1"), 2.0 / 3, 1e-15);
    cr_expect_float_eq(value(m, "precision"), 3.0 / 4, 1e-15);
    cr_expect_float_eq(value(m, "recall"), 3.0 / 5, 1e-15);
    cr_expect_float_eq(value(m, "accuracy"), 4.0 / 7, 1e-15);
    hx_metrics_reset(m);
    cr_expect(isnan(value(m, "accuracy")) && value(m, "f1") == 0, "nothing has been counted");
    hx_metrics_destroy(&m);
}

Test(metrics, a_threshold_is_a_probability) {
    const double p[4] = {0.5, 0.51, 0.7, 0.2}, z[4] = {0, 0.04, 0.85, -1.4};
    const double yes[4] = {1, 1, 1, 1};
    hx_metrics *a = metrics((hx_metrics_config){.is_probability = true}), *b = metrics((hx_metrics_config){0});
    hx_metrics *c = metrics((hx_metrics_config){.threshold = 0.6});
    update(a, HX_SHAPE(4), p, HX_F64, HX_SHAPE(4), yes);
    update(b, HX_SHAPE(2, 2), z, HX_F64, HX_SHAPE(2, 2), yes);
    update(c, HX_SHAPE(4), z, HX_F64, HX_SHAPE(4), yes);
    cr_expect_eq(value(a, "recall"), 0.5, "0.5 is not above 0.5");
    cr_expect_eq(value(b, "recall"), 0.5);
    cr_expect_eq(value(c, "recall"), 0.25, "sigmoid(0.85) = 0.7006");
    hx_metrics_destroy(&a);
    hx_metrics_destroy(&b);
    hx_metrics_destroy(&c);
}

/* Confusion (rows: target): 0: {1,1,0}; 1: {0,2,0}; 2: {1,0,0}; class 3 does not occur.
 * precision {1/2, 2/3, 0}, recall {1/2, 1, 0}, f1 {1/2, 4/5, 0}: means 7/18, 1/2, 13/30 */
Test(metrics, classes_are_averaged_over_those_that_occur) {
    const double scores[6 * 4] = {3, 1, 0, 0, 0, 3, 1, 0, 0, 1, 0, 0, 0, 2, 0, 1, 1, 0, 1, 0, 9, 9, 9, 9};
    const int64_t ids[6] = {0, 0, 1, 1, 2, -100};
    hx_metrics *m = metrics((hx_metrics_config){.n_classes = 4, .top_k = 2});
    update(m, HX_SHAPE(2, 3, 4), scores, HX_I64, HX_SHAPE(2, 3), ids);
    cr_expect_float_eq(value(m, "accuracy"), 3.0 / 5, 1e-15);
    cr_expect_float_eq(value(m, "precision"), 7.0 / 18, 1e-15);
    cr_expect_float_eq(value(m, "recall"), 1.0 / 2, 1e-15);
    cr_expect_float_eq(value(m, "f1"), 13.0 / 30, 1e-15);
    /* the second target is third; the fifth equals the first of its row and comes after it */
    cr_expect_float_eq(value(m, "top2"), 4.0 / 5, 1e-15);
    cr_expect(isnan(value(m, "perplexity")), "no losses were added");
    hx_metrics_add_loss(m, 5 * log(7), 5);
    cr_expect_float_eq(value(m, "perplexity"), 7, 1e-14);
    hx_metrics_destroy(&m);
}

Test(metrics, a_nan_counts_against_its_target_and_no_other) {
    const double scores[6] = {NAN, 1, 1, NAN, NAN, NAN};
    const int32_t ids[3] = {1, 0, 0};
    hx_metrics *m = metrics((hx_metrics_config){.n_classes = 2, .top_k = 1});
    update(m, HX_SHAPE(3, 2), scores, HX_I32, HX_SHAPE(3), ids);
    cr_expect_eq(value(m, "accuracy"), 0);
    cr_expect_eq(value(m, "top1"), 0);
    update(m, HX_SHAPE(0, 2), scores, HX_I32, HX_SHAPE(0), ids);
    cr_expect_eq(value(m, "accuracy"), 0, "an empty batch changes nothing");
    hx_metrics_destroy(&m);
}

Test(metrics, half_and_strided_scores_count_like_dense_ones) {
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR half = NULL;
    HX_AUTO_TENSOR turned = NULL;
    HX_AUTO_TENSOR ids = NULL;
    hx_metrics *m = metrics((hx_metrics_config){.n_classes = 2});
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(2, 3), &wide)); /* [class, sample] */
    OK(hx_tensor_write(stream, wide, (double[]){1, 0, 2, 0, 1, 1}));
    OK(hx_cast(&ctx, wide, HX_BF16, &half));
    OK(hx_tensor_transpose(half, 0, 1, &turned));
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(3), &ids));
    OK(hx_tensor_write(stream, ids, (int32_t[]){0, 1, 1}));
    OK(hx_metrics_update(m, stream, turned, ids));
    cr_expect_float_eq(value(m, "accuracy"), 2.0 / 3, 1e-15);
    hx_metrics_destroy(&m);
}

typedef struct two_ranks {
    double *other;
    int64_t at;
} two_ranks;

static hx_status add_other(void *self, double *values, int n) {
    two_ranks *t = self;
    cr_assert_leq(n, 64);
    for (int i = 0; i < n; i++) values[i] += t->other[t->at++];
    return HX_OK;
}

/* 100 classes: more counts than one reduction takes */
Test(metrics, uneven_shares_give_exactly_the_numbers_of_one_process) {
    enum { N = 50, C = 100 };
    double *scores = malloc(sizeof(double) * N * C);
    int32_t ids[N];
    int64_t n;
    for (int i = 0; i < N * C; i++) scores[i] = hx_rng_normal((hx_rng){3, 0}, (uint64_t)i);
    for (int i = 0; i < N; i++) ids[i] = (int32_t)hx_rng_below((hx_rng){4, 0}, (uint64_t)i, C);
    const hx_metrics_config c = {.n_classes = C, .top_k = 10};
    hx_metrics *all = metrics(c), *a = metrics(c), *b = metrics(c);
    update(all, HX_SHAPE(N, C), scores, HX_I32, HX_SHAPE(N), ids);
    update(a, HX_SHAPE(13, C), scores, HX_I32, HX_SHAPE(13), ids);
    update(b, HX_SHAPE(N - 13, C), scores + 13 * C, HX_I32, HX_SHAPE(N - 13), ids + 13);
    two_ranks other = {.other = hx_metrics_counts(b, &n)};
    OK(hx_metrics_reduce(a, &(hx_agreement){.self = &other, .size = 2, .sum = add_other}));
    cr_expect_eq(other.at, n);
    for (int i = 0; i < hx_metrics_n_values(all); i++)
        cr_expect_eq(hx_metrics_value(a, i, NULL), hx_metrics_value(all, i, NULL));
    cr_expect_gt(value(all, "top10"), value(all, "accuracy"));
    hx_metrics_destroy(&all);
    hx_metrics_destroy(&a);
    hx_metrics_destroy(&b);
    free(scores);
}

Test(metrics, what_cannot_be_counted_is_refused) {
    HX_AUTO_TENSOR scores = NULL;
    HX_AUTO_TENSOR ids = NULL;
    hx_metrics *m = NULL;
    FAILS(hx_metrics_create(&(hx_metrics_config){.n_classes = -1}, &m), HX_ERR_CONFIG);
    FAILS(hx_metrics_create(&(hx_metrics_config){.n_classes = INT64_MAX}, &m), HX_ERR_CONFIG);
    FAILS(hx_metrics_create(&(hx_metrics_config){.n_classes = 3, .top_k = 4}, &m), HX_ERR_CONFIG);
    FAILS(hx_metrics_create(&(hx_metrics_config){.threshold = 1}, &m), HX_ERR_CONFIG);
    cr_expect_null(m);
    m = metrics((hx_metrics_config){.n_classes = 3});
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(2, 3), &scores));
    OK(hx_tensor_fill(stream, scores, 0));
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(2), &ids));
    OK(hx_tensor_write(stream, ids, (int32_t[]){0, 3}));
    FAILS(hx_metrics_update(m, stream, scores, ids), HX_ERR_ARG);
    cr_expect(strstr(hx_error_message(), "target 1 is 3") != NULL, "%s", hx_error_message());
    cr_expect(isnan(value(m, "accuracy")), "nothing was counted");
    FAILS(hx_metrics_update(m, stream, ids, ids), HX_ERR_DTYPE);
    FAILS(hx_metrics_update(m, stream, scores, scores), HX_ERR_DTYPE);
    hx_metrics_destroy(&m);
    m = metrics((hx_metrics_config){.n_classes = 2});
    FAILS(hx_metrics_update(m, stream, scores, ids), HX_ERR_SHAPE);
    hx_metrics_destroy(&m);
}

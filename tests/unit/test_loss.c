/* Losses: the reference numbers (PyTorch 1.13, float64), gradients, what is left out, and what is refused. */
#include "core/train/loss_model.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(loss, .init = fixture_open, .fini = fixture_close);

static const double Z[6] = {2, 1, .1, .5, 2.5, .3};     /* logits [2,3] */
static const double soft[6] = {.2, .5, .3, .1, .1, .8}; /* target distributions [2,3] */
static const double class_weights[3] = {1, 3, 1};

static hx_tensor *f64_of(hx_shape shape, const double *values) {
    hx_tensor *x = NULL;
    OK(hx_tensor_create(dev, HX_F64, shape, &x));
    OK(hx_tensor_write(stream, x, values));
    return x;
}

static hx_tensor *vector_of_ids(int64_t n, const int32_t *values) {
    hx_tensor *x = NULL;
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(n), &x));
    OK(hx_tensor_write(stream, x, values));
    return x;
}

static double item(hx_tensor *x) {
    double value = NAN;
    OK(hx_tensor_item(stream, x, &value));
    return value;
}

/* The mean, which must also be the quotient of the sums. */
static double mean_of(const hx_loss_config *c, hx_tensor *input, hx_tensor *target) {
    HX_AUTO_TENSOR mean = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR count = NULL;
    OK(hx_loss(&ctx, c, input, target, HX_REDUCE_MEAN, &mean));
    OK(hx_loss_sums(&ctx, c, input, target, &sum, &count));
    cr_expect_eq(hx_tensor_dtype(sum), HX_F64);
    cr_expect_eq(hx_tensor_dtype(count), HX_F64);
    const double m = item(mean), q = item(sum) / item(count);
    cr_expect(m == q || (isnan(m) && isnan(q)), "%g %g", m, q);
    return m;
}

/* ---- the table of references ---- */

typedef struct row {
    const char *name;
    hx_loss_config config;
    int n_rows, n_columns; /* of input and floating target; n_rows 0: vectors */
    const double *input, *target;
    const int32_t *ids; /* instead of target */
    const double *weights, *pos_weight;
    double want;
} row;

/* b is beta and delta */
#define CONFIG_OF(k, b, eps, g)                                                                              \
    {                                                                                                        \
        .kind = HX_LOSS_##k, .beta = (b), .delta = (b), .smoothing = (eps), .ignore_index = HX_IGNORE_INDEX, \
        .alpha = .25, .gamma = (g)                                                                           \
    }
#define CONFIG(k) CONFIG_OF(k, 1, 0, 2)

static const double d[3] = {.5, -2, 0}, zero[3] = {0}, p[2] = {.7, .3}, y01[2] = {1, 0}, z[3] = {.5, -1.2, 3},
                    y101[3] = {1, 0, 1}, positive[3] = {2, 3, .5};
static const double q[3] = {.5, .3, .2}, q2[6] = {.5, .5, 0, .2, .3, .5};
static const int32_t y[2] = {0, 1}, y_ignored[2] = {0, HX_IGNORE_INDEX};
/* log softmax of [.2,.1,-.3] and [1,2,3] */
static const double lp[6] = {-.92082765555325941, -1.0208276555532594, -1.4208276555532593,
                             -2.4076059644443806, -1.4076059644443804, -.40760596444438041};

static const row rows[] = {
    {"MSE", CONFIG(MSE), 0, 3, d, zero, NULL, NULL, NULL, 1.416666666667},
    {"L1", CONFIG(L1), 0, 3, d, zero, NULL, NULL, NULL, 0.833333333333},
    {"smooth L1", CONFIG(SMOOTH_L1), 0, 3, d, zero, NULL, NULL, NULL, 0.541666666667},
    {"smooth L1, beta .3", CONFIG_OF(SMOOTH_L1, .3, 0, 2), 0, 3, d, zero, NULL, NULL, NULL, 0.733333333333},
    {"smooth L1, beta 0", CONFIG_OF(SMOOTH_L1, 0, 0, 2), 0, 3, d, zero, NULL, NULL, NULL, 0.833333333333},
    {"Huber 1.5", CONFIG_OF(HUBER, 1.5, 0, 2), 0, 3, d, zero, NULL, NULL, NULL, 0.666666666667},
    {"cross-entropy", CONFIG(CROSS_ENTROPY), 2, 3, Z, NULL, y, NULL, NULL, 0.318539769649},
    {"cross-entropy, eps", CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), 2, 3, Z, NULL, y, NULL, NULL, 0.436873102983},
    {"cross-entropy, w", CONFIG(CROSS_ENTROPY), 2, 3, Z, NULL, y, class_weights, NULL, 0.269294646335},
    {"cross-entropy, w, eps", CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), 2, 3, Z, NULL, y, class_weights, NULL,
     0.344743495839},
    {"cross-entropy, w, eps, one ignored", CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), 2, 3, Z, NULL, y_ignored,
     class_weights, NULL, 0.608165350696},
    {"soft cross-entropy", CONFIG(CROSS_ENTROPY), 2, 3, Z, soft, NULL, NULL, NULL, 1.833539769649},
    {"soft cross-entropy, eps", CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), 2, 3, Z, soft, NULL, NULL, NULL,
     1.800373102983},
    {"soft cross-entropy, w, eps", CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), 2, 3, Z, soft, NULL, class_weights,
     NULL, 2.512410385356},
    {"BCE", CONFIG(BCE), 0, 2, p, y01, NULL, NULL, NULL, 0.356674943939},
    {"BCE with logits", CONFIG(BCE_LOGITS), 0, 3, z, y101, NULL, NULL, NULL, 0.261982267697},
    {"BCE with logits, pos_weight", CONFIG(BCE_LOGITS), 0, 3, z, y101, NULL, NULL, positive, 0.411910037162},
    {"focal", CONFIG(FOCAL), 2, 3, Z, NULL, y, NULL, NULL, 0.007134683834},
    {"KL", CONFIG(KL_DIV), 1, 3, lp, q, NULL, NULL, NULL, 0.021174641489},
    {"KL, a zero", CONFIG(KL_DIV), 2, 3, lp, q2, NULL, NULL, NULL, 0.177816712687},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

typedef struct problem {
    hx_loss_config config;
    hx_tensor *input, *target, *weights, *pos_weight;
} problem;

static problem open_row(const row *r) {
    const hx_shape shape = r->n_rows > 0 ? HX_SHAPE(r->n_rows, r->n_columns) : HX_SHAPE(r->n_columns);
    problem b = {.config = r->config, .input = f64_of(shape, r->input)};
    b.target = r->ids != NULL ? vector_of_ids(r->n_rows, r->ids) : f64_of(shape, r->target);
    if (r->weights != NULL) b.config.weights = b.weights = f64_of(HX_SHAPE(r->n_columns), r->weights);
    if (r->pos_weight != NULL)
        b.config.pos_weight = b.pos_weight = f64_of(HX_SHAPE(r->n_columns), r->pos_weight);
    return b;
}

static void problem_close(problem *b) {
    hx_tensor_destroy(&b->input);
    hx_tensor_destroy(&b->target);
    hx_tensor_destroy(&b->weights);
    hx_tensor_destroy(&b->pos_weight);
}

Test(loss, means_equal_the_references) {
    for (int i = 0; i < N_ROWS; i++) {
        problem b = open_row(&rows[i]);
        const double got = mean_of(&b.config, b.input, b.target);
        cr_expect_float_eq(got, rows[i].want, 1e-9, "%s: %.12f, expected %.12f", rows[i].name, got,
                           rows[i].want);
        problem_close(&b);
    }
}

static hx_status loss_sum(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    return hx_loss(c, arg, in[0], in[1], HX_REDUCE_SUM, out);
}

static hx_status loss_values(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    return hx_loss(c, arg, in[0], in[1], HX_REDUCE_NONE, out);
}

/* Also into floating targets, as distillation needs it. Inputs of the table that lie on a kink (d = 0, t = 0)
 * are moved. */
Test(loss, gradients_are_right) {
    for (int i = 0; i < N_ROWS; i++) {
        problem b = open_row(&rows[i]);
        HX_AUTO_TENSOR moved = NULL;
        OK(hx_affine(&ctx, b.input, 1, 0.03, &moved));
        hx_tensor_set_requires_grad(moved, true);
        hx_tensor_set_requires_grad(b.target, rows[i].target != NULL && rows[i].target != q2);
        double sum = 1, each = 1;
        OK(hx_gradcheck(&ctx, loss_sum, &b.config, (hx_tensor *[]){moved, b.target}, 2, &sum));
        OK(hx_gradcheck(&ctx, loss_values, &b.config, (hx_tensor *[]){moved, b.target}, 2, &each));
        cr_expect_lt(fmax(sum, each), 1e-7, "%s: %g %g", rows[i].name, sum, each);
        hx_tensor_set_requires_grad(b.target, false);
        problem_close(&b);
    }
}

Test(loss, values_add_up_to_the_sum) {
    for (int i = 0; i < N_ROWS; i++) {
        problem b = open_row(&rows[i]);
        HX_AUTO_TENSOR values = NULL;
        HX_AUTO_TENSOR sum = NULL;
        double total = 0;
        OK(hx_loss(&ctx, &b.config, b.input, b.target, HX_REDUCE_NONE, &values));
        OK(hx_loss(&ctx, &b.config, b.input, b.target, HX_REDUCE_SUM, &sum));
        double *v = values_of(values);
        for (int64_t k = 0; k < hx_tensor_count(values); k++) total += v[k];
        cr_expect_float_eq(total, item(sum), 1e-12, "%s", rows[i].name);
        const bool by_row = rows[i].config.kind == HX_LOSS_CROSS_ENTROPY || rows[i].ids != NULL;
        cr_expect_eq(hx_tensor_ndim(values), hx_tensor_ndim(b.input) - by_row, "%s", rows[i].name);
        free(v);
        problem_close(&b);
    }
}

/* ---- extremes ---- */

static const hx_loss_config entropies[] = {CONFIG(CROSS_ENTROPY), CONFIG_OF(CROSS_ENTROPY, 1, .1, 2),
                                           CONFIG(FOCAL)};
enum { N_ENTROPIES = sizeof entropies / sizeof *entropies };

static void expect_finite(hx_tensor *x, const char *what, int i) {
    double *v = values_of(x);
    for (int64_t k = 0; k < hx_tensor_count(x); k++)
        cr_expect(isfinite(v[k]), "%s, row %d: %g", what, i, v[k]);
    free(v);
}

/* Loss and gradient of logits +-1000. */
static void check_extreme(const hx_loss_config *config, hx_tensor *logits, hx_tensor *target, int i) {
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR count = NULL;
    hx_tensor_set_requires_grad(logits, true);
    ctx.tape = tape;
    OK(hx_loss_sums(&ctx, config, logits, target, &sum, &count));
    expect_finite(sum, "loss", i);
    OK(hx_backward(&ctx, sum, NULL));
    ctx.tape = NULL;
    cr_assert_not_null(hx_tensor_grad(logits));
    expect_finite(hx_tensor_grad(logits), "gradient", i);
}

Test(loss, logits_of_a_thousand_stay_finite) {
    static const double far[6] = {1000, -1000, 0, -1000, 1000, 1000};
    HX_AUTO_TENSOR ids = vector_of_ids(2, (const int32_t[]){1, 1});
    HX_AUTO_TENSOR shares = f64_of(HX_SHAPE(2, 3), soft);
    const hx_loss_config logistic = CONFIG(BCE_LOGITS);
    for (int i = 0; i < N_ENTROPIES; i++) {
        HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), far);
        check_extreme(&entropies[i], logits, ids, i);
        if (entropies[i].kind == HX_LOSS_CROSS_ENTROPY) check_extreme(&entropies[i], logits, shares, i);
    }
    HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), far);
    check_extreme(&logistic, logits, shares, -1);
}

Test(loss, certain_probabilities_cost_what_the_clamp_allows) {
    const hx_loss_config c = CONFIG(BCE);
    HX_AUTO_TENSOR certain = f64_of(HX_SHAPE(2), (const double[]){1, 0});
    HX_AUTO_TENSOR wrong = f64_of(HX_SHAPE(2), (const double[]){0, 1});
    cr_expect_float_eq(mean_of(&c, certain, wrong), -log(1e-7), 1e-8);
    cr_expect_float_eq(mean_of(&c, certain, certain), 1e-7, 1e-12);
}

/* ---- what is left out ---- */

Test(loss, ignored_targets_leave_nothing_behind) {
    HX_AUTO_TENSOR ids = vector_of_ids(2, (const int32_t[]){HX_IGNORE_INDEX, HX_IGNORE_INDEX});
    HX_AUTO_TENSOR weights = f64_of(HX_SHAPE(3), class_weights);
    for (int i = 0; i < 2 * N_ENTROPIES; i++) {
        hx_loss_config c = entropies[i % N_ENTROPIES];
        HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), (const double[]){2, NAN, INFINITY, 1, 2, 3});
        HX_AUTO_TENSOR sum = NULL;
        HX_AUTO_TENSOR count = NULL;
        HX_AUTO_TENSOR mean = NULL;
        if (i >= N_ENTROPIES) c.weights = weights;
        hx_tensor_set_requires_grad(logits, true);
        ctx.tape = tape;
        OK(hx_loss_sums(&ctx, &c, logits, ids, &sum, &count));
        OK(hx_backward(&ctx, sum, NULL));
        ctx.tape = NULL;
        cr_expect_eq(item(sum), 0, "row %d: %g", i, item(sum));
        cr_expect_eq(item(count), 0);
        double *g = values_of(hx_tensor_grad(logits));
        for (int k = 0; k < 6; k++) cr_expect_eq(g[k], 0, "row %d: gradient %g", i, g[k]);
        free(g);
        OK(hx_loss(&ctx, &c, logits, ids, HX_REDUCE_MEAN, &mean));
        cr_expect(isnan(item(mean)), "a mean over nothing");
    }
}

/* A lookup of an ignored id would make a NaN that never reaches the loss, and that anomaly mode would report. */
Test(loss, ignored_targets_are_no_anomaly) {
    HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), Z);
    HX_AUTO_TENSOR weights = f64_of(HX_SHAPE(3), class_weights);
    HX_AUTO_TENSOR ids = vector_of_ids(2, y_ignored);
    hx_loss_config configs[] = {CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), CONFIG(CROSS_ENTROPY), CONFIG(FOCAL)};
    configs[1].weights = weights;
    ctx.anomaly = true;
    for (int i = 0; i < 3; i++)
        for (int reduction = HX_REDUCE_NONE; reduction <= HX_REDUCE_SUM; reduction++) {
            HX_AUTO_TENSOR loss = NULL;
            OK(hx_loss(&ctx, &configs[i], logits, ids, (hx_reduction)reduction, &loss));
        }
}

Test(loss, any_number_may_be_the_ignored_one) {
    HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), Z);
    HX_AUTO_TENSOR ids = vector_of_ids(2, y);
    hx_loss_config c = CONFIG_OF(CROSS_ENTROPY, 1, .1, 2);
    for (int i = 0; i < 2; i++) { /* no i32 can be either, and a double cannot hold the second */
        c.ignore_index = i == 0 ? INT64_MIN : INT64_MAX;
        cr_expect_float_eq(mean_of(&c, logits, ids), 0.436873103, 1e-8);
    }
}

/* softplus(-20) is 2.06e-9, which is lost beside 20 in f32; so is the gradient beside 1. */
Test(loss, a_confident_prediction_keeps_its_digits) {
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR target = NULL;
    HX_AUTO_TENSOR loss = NULL;
    const hx_loss_config c = CONFIG(BCE_LOGITS);
    float values[2], slope[2];
    OK(hx_tensor_create(dev, HX_F32, HX_SHAPE(2), &logits));
    OK(hx_tensor_create(dev, HX_F32, HX_SHAPE(2), &target));
    OK(hx_tensor_write(stream, logits, (float[]){-20, 20}));
    OK(hx_tensor_write(stream, target, (float[]){0, 1}));
    hx_tensor_set_requires_grad(logits, true);
    OK(hx_tape_create(dev, &ctx.tape));
    OK(hx_loss(&ctx, &c, logits, target, HX_REDUCE_NONE, &loss));
    OK(hx_backward(&ctx, loss, NULL));
    hx_tape_destroy(&ctx.tape);
    OK(hx_tensor_read(stream, loss, values));
    OK(hx_tensor_read(stream, hx_tensor_grad(logits), slope));
    for (int i = 0; i < 2; i++) {
        cr_expect_float_eq(values[i], 2.0611537e-9f, 1e-14f, "%g", (double)values[i]);
        cr_expect_float_eq(slope[i], i == 0 ? 2.0611537e-9f : -2.0611537e-9f, 1e-14f, "%g", (double)slope[i]);
    }
}

Test(loss, an_id_that_is_no_class_shows) {
    for (int i = 0; i < N_ENTROPIES; i++)
        for (int32_t bad = -1; bad <= 3; bad += 4) {
            HX_AUTO_TENSOR ids = vector_of_ids(2, (const int32_t[]){0, bad});
            HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), Z);
            cr_expect(isnan(mean_of(&entropies[i], logits, ids)), "row %d, id %d", i, (int)bad);
        }
}

/* Two ranks with 3 and 1 targets: the quotient of the sums is the mean over all, the mean of the means is
 * not. */
Test(loss, sums_and_counts_of_parts_give_the_mean_of_the_whole) {
    hx_loss_config c = CONFIG_OF(CROSS_ENTROPY, 1, .1, 2);
    HX_AUTO_TENSOR weights = f64_of(HX_SHAPE(3), class_weights);
    HX_AUTO_TENSOR logits = normal(HX_SHAPE(4, 3), 9);
    HX_AUTO_TENSOR ids = vector_of_ids(4, (const int32_t[]){0, 2, HX_IGNORE_INDEX, 1});
    double sums = 0, counts = 0;
    c.weights = weights;
    for (int part = 0; part < 2; part++) {
        HX_AUTO_TENSOR x = NULL;
        HX_AUTO_TENSOR t = NULL;
        HX_AUTO_TENSOR sum = NULL;
        HX_AUTO_TENSOR count = NULL;
        OK(hx_tensor_slice(logits, 0, part ? 3 : 0, part ? 4 : 3, 1, &x));
        OK(hx_tensor_slice(ids, 0, part ? 3 : 0, part ? 4 : 3, 1, &t));
        OK(hx_loss_sums(&ctx, &c, x, t, &sum, &count));
        sums += item(sum);
        counts += item(count);
    }
    cr_expect_eq(counts, 1 + 1 + 3);
    cr_expect_float_eq(sums / counts, mean_of(&c, logits, ids), 1e-14);
}

Test(loss, no_elements_give_sum_and_count_zero) {
    HX_AUTO_TENSOR none = NULL;
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(0, 3), &none));
    HX_AUTO_TENSOR ids = vector_of_ids(0, NULL);
    for (int i = 0; i < N_ROWS; i++) {
        HX_AUTO_TENSOR sum = NULL;
        HX_AUTO_TENSOR count = NULL;
        OK(hx_loss_sums(&ctx, &rows[i].config, none, rows[i].ids ? ids : none, &sum, &count));
        cr_expect_eq(item(sum), 0, "%s", rows[i].name);
        cr_expect_eq(item(count), 0, "%s", rows[i].name);
    }
}

/* ---- as a model for the trainer ---- */

Test(loss, a_layer_and_a_loss_make_a_model) {
    hx_loss_model model = {.loss = CONFIG(CROSS_ENTROPY)};
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 4), 3);
    HX_AUTO_TENSOR ids = vector_of_ids(2, y);
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR want = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR count = NULL;
    HX_AUTO_TENSOR scores = NULL;
    const hx_batch batch = {.input = x, .target = ids, .n_samples = 2};
    OK(hx_linear_create(dev, HX_F64, 4, 3, true, &model.layer));
    OK(hx_layer_init(model.layer, stream, 1));
    OK(hx_layer_forward(model.layer, &ctx, x, &logits));
    OK(hx_loss(&ctx, &model.loss, logits, ids, HX_REDUCE_SUM, &want));
    const hx_model whole = hx_loss_model_as_model(&model);
    cr_expect(whole.root == model.layer && whole.unit_name == NULL);
    OK(whole.loss(whole.self, &ctx, &batch, &sum, &count));
    cr_expect_eq(item(sum), item(want));
    cr_expect_eq(item(count), 2);
    hx_tensor_destroy(&sum);
    hx_tensor_destroy(&count);
    OK(whole.loss_scores(whole.self, &ctx, &batch, &sum, &count, &scores));
    cr_expect_eq(item(sum), item(want));
    double *got = values_of(scores), *expected = values_of(logits);
    cr_expect_eq(memcmp(got, expected, hx_tensor_bytes(logits)), 0, "the scores are the layer's output");
    free(got);
    free(expected);
    hx_layer_destroy(&model.layer);
}

/* ---- dtypes ---- */

/* Half inputs are exact in f32, where the loss is computed: the result is that of the f32 tensor, to the bit.
 */
Test(loss, half_types_are_computed_in_f32) {
    for (int i = 0; i < N_ROWS; i++) {
        problem b = open_row(&rows[i]);
        HX_AUTO_TENSOR x16 = NULL;
        HX_AUTO_TENSOR x32 = NULL;
        HX_AUTO_TENSOR t16 = NULL;
        HX_AUTO_TENSOR t32 = NULL;
        HX_AUTO_TENSOR w32 = NULL;
        HX_AUTO_TENSOR p32 = NULL;
        const bool has_ids = rows[i].ids != NULL;
        OK(hx_cast(&ctx, b.input, HX_BF16, &x16));
        OK(hx_cast(&ctx, x16, HX_F32, &x32));
        OK(hx_cast(&ctx, b.target, has_ids ? HX_I64 : HX_BF16, &t16));
        OK(hx_cast(&ctx, t16, has_ids ? HX_I32 : HX_F32, &t32));
        if (b.weights) OK(hx_cast(&ctx, b.weights, HX_F32, &w32));
        if (b.pos_weight) OK(hx_cast(&ctx, b.pos_weight, HX_F32, &p32));
        b.config.weights = w32;
        b.config.pos_weight = p32;
        const double half = mean_of(&b.config, x16, t16), single = mean_of(&b.config, x32, t32);
        cr_expect_float_eq(half, single, 1e-7, "%s: %.9f %.9f", rows[i].name, half, single);
        problem_close(&b);
    }
}

/* ---- errors ---- */

Test(loss, what_makes_no_loss_is_refused) {
    HX_AUTO_TENSOR logits = f64_of(HX_SHAPE(2, 3), Z);
    HX_AUTO_TENSOR other = f64_of(HX_SHAPE(3, 2), Z);
    HX_AUTO_TENSOR ids = vector_of_ids(2, y);
    HX_AUTO_TENSOR few = vector_of_ids(1, y);
    HX_AUTO_TENSOR out = NULL;
    const struct {
        hx_loss_config config;
        hx_tensor *input, *target;
        hx_status want;
    } bad[] = {
        {CONFIG(MSE), logits, other, HX_ERR_SHAPE},
        {CONFIG(MSE), logits, ids, HX_ERR_DTYPE},
        {CONFIG(MSE), ids, ids, HX_ERR_DTYPE},
        {CONFIG(CROSS_ENTROPY), logits, few, HX_ERR_SHAPE},
        {CONFIG_OF(CROSS_ENTROPY, 1, .1, 2), logits, few, HX_ERR_SHAPE},
        {CONFIG(CROSS_ENTROPY), logits, other, HX_ERR_SHAPE},
        {CONFIG_OF(CROSS_ENTROPY, 1, 1.5, 2), logits, ids, HX_ERR_CONFIG},
        {CONFIG_OF(CROSS_ENTROPY, 1, NAN, 2), logits, ids, HX_ERR_CONFIG},
        {CONFIG(FOCAL), logits, logits, HX_ERR_DTYPE},
        {CONFIG_OF(FOCAL, 1, 0, -1), logits, ids, HX_ERR_CONFIG},
        {CONFIG_OF(HUBER, 0, 0, 2), logits, logits, HX_ERR_CONFIG},
        {CONFIG_OF(SMOOTH_L1, -1, 0, 2), logits, logits, HX_ERR_CONFIG},
        {{.kind = (hx_loss_kind)42}, logits, logits, HX_ERR_CONFIG},
        {CONFIG(MSE), NULL, logits, HX_ERR_ARG},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        hx_status got = hx_loss(&ctx, &bad[i].config, bad[i].input, bad[i].target, HX_REDUCE_MEAN, &out);
        cr_expect_eq(got, bad[i].want, "row %zu gave %s: %s", i, hx_status_name(got), hx_error_message());
        cr_expect_null(out);
    }
    FAILS(hx_loss(&ctx, &bad[0].config, logits, logits, (hx_reduction)3, &out), HX_ERR_ARG);
}

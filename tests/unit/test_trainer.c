/* What the trainer computes: it learns, accumulates, clips, skips, evaluates. */
#include "tests/unit/test_trainer_fixture.h"

TestSuite(trainer, .init = fixture_open, .fini = fixture_close);

/* y = 2 a - 3 b + 0.5, without noise */
static void plane(int n, double *x, double *y) {
    hx_rng rng = {11, hx_rng_stream(HX_RNG_USER, 1)};
    for (int i = 0; i < n; i++) {
        x[2 * i] = hx_rng_normal(rng, (uint64_t)(2 * i));
        x[2 * i + 1] = hx_rng_normal(rng, (uint64_t)(2 * i + 1));
        y[i] = 2 * x[2 * i] - 3 * x[2 * i + 1] + 0.5;
    }
}

Test(trainer, linear_regression_finds_the_weights) {
    double x[128], y[64];
    training r;
    plane(64, x, y);
    samples s = {.n = 64, .n_in = 2, .n_out = 1, .batch = 16, .micro = 5, .x = x, .y = y, .wraps = true};
    samples_open(&s);
    training_open(&r, linear_layer(2, 1, true), &s);
    r.setup.on_event = NULL;
    r.oc.lr = 0.1;
    r.oc.schedule = 0;
    r.oc.min_lr_ratio = 0;
    r.tc.steps = 400;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    double *w = weights_of(&r);
    cr_expect_float_eq(w[0], 2, 1e-3);
    cr_expect_float_eq(w[1], -3, 1e-3);
    cr_expect_float_eq(w[2], 0.5, 1e-3);
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 400);
    cr_expect_eq(hx_trainer_state(r.trainer)->cursor, 400 * 16);
    free(w);
    training_close(&r);
    samples_close(&s);
}

Test(trainer, a_hidden_layer_solves_xor) {
    const double x[8] = {0, 0, 0, 1, 1, 0, 1, 1};
    const int32_t ids[4] = {0, 1, 1, 0};
    hx_layer *parts[3], *mlp;
    training r;
    samples s = {.n = 4, .n_in = 2, .batch = 4, .x = x, .ids = ids, .wraps = true};
    samples_open(&s);
    OK(hx_linear_create(dev, HX_F64, 2, 8, true, &parts[0]));
    OK(hx_activation_create(dev, HX_OP_tanh, &parts[1]));
    OK(hx_linear_create(dev, HX_F64, 8, 2, true, &parts[2]));
    OK(hx_sequential_create_consume(dev, parts, 3, &mlp));
    init_all(mlp, 1);
    training_open(&r, mlp, &s);
    r.setup.on_event = NULL;
    hx_metrics *metrics;
    hx_train_event event;
    const char *name;
    OK(hx_metrics_create(&(hx_metrics_config){.n_classes = 2}, &metrics));
    r.setup.model.loss = NULL;
    r.setup.model.loss_scores = hx_lm_loss_scores;
    r.setup.metrics = metrics;
    r.setup.eval = &s.source;
    r.oc.lr = 0.05;
    r.tc.steps = 200;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    OK(hx_trainer_eval(r.trainer, &event));
    cr_expect_eq(hx_metrics_value(event.metrics, 0, &name), 1, "all four");
    cr_expect_str_eq(name, "accuracy");
    HX_AUTO_TENSOR logits = NULL;
    OK(hx_layer_forward(mlp, &ctx, s.input, &logits));
    double *v = values_of(logits);
    for (int i = 0; i < 4; i++) cr_expect_eq(v[2 * i + 1] > v[2 * i], ids[i] == 1, "sample %d", i);
    cr_expect_lt(hx_trainer_state(r.trainer)->last_loss, 0.05);
    free(v);
    hx_metrics_destroy(&metrics);
    training_close(&r);
    samples_close(&s);
}

/* The first moment is (1 - beta1) times the gradient that the update saw. */
static void check_clip(double clip, int norm_type, double value, double norm, double first, double second) {
    const double x[2] = {1, 1}, y[4] = {3, 4, 3, 4}; /* twice the same: the mean is that of one */
    training r;
    hx_train_event event;
    hx_state_list state = {0};
    samples s = {.n = 2, .n_in = 1, .n_out = 2, .batch = 2, .x = x, .y = y, .wraps = true};
    samples_open(&s);
    training_open(&r, linear_layer(1, 2, false), &s);
    r.setup.model.loss = dot_loss;
    r.oc.clip = clip;
    r.oc.clip_norm_type = norm_type;
    r.oc.clip_value = value;
    r.tc.steps = 1;
    training_start(&r);
    OK(hx_trainer_step(r.trainer, &event));
    cr_expect_float_eq(event.grad_norm, norm, 1e-12, "the norm before clipping");
    OK(hx_trainer_items(r.trainer, &state));
    cr_assert_str_eq(state.items[1].name, "/optim/m/weight");
    const double *m = state.items[1].data;
    /* clip/(norm + 1e-6) falls short of clip/norm by 2e-7 */
    cr_expect_float_eq(m[0] / (1 - r.oc.beta1), first, 1e-6);
    cr_expect_float_eq(m[1] / (1 - r.oc.beta1), second, 1e-6);
    hx_state_list_destroy(&state);
    training_close(&r);
    samples_close(&s);
}

Test(trainer, clipping_scales_the_gradient_to_the_largest_norm) {
    check_clip(1, 0, 0, 5, 0.6, 0.8);
    check_clip(0, 0, 0, 5, 3, 4);
    check_clip(6, 0, 0, 5, 3, 4);
}

Test(trainer, clipping_knows_other_norms_and_single_values) {
    check_clip(3.5, 1, 0, 7, 1.5, 2);
    check_clip(2, 2, 0, 4, 1.5, 2);
    check_clip(0, 0, 3.5, 5, 3, 3.5);
}

/* ---- accumulation ---- */

typedef struct tokens {
    hx_batch_source source;
    int64_t micro;
    hx_tensor *input, *target;
} tokens;

enum { TOKENS_BATCH = 6, TOKENS_T = 5 };

static hx_status tokens_n_micro(void *self, int64_t cursor, int64_t *out) {
    const tokens *s = self;
    (void)cursor;
    *out = (TOKENS_BATCH + s->micro - 1) / s->micro;
    return HX_OK;
}

static hx_status tokens_get(void *self, int64_t cursor, int64_t index, hx_stream *st, hx_batch *out) {
    tokens *s = self;
    int32_t text[TOKENS_BATCH * (TOKENS_T + 1)];
    const int64_t base = index * s->micro, left = TOKENS_BATCH - base, B = left < s->micro ? left : s->micro;
    int32_t in[TOKENS_BATCH * TOKENS_T], target[TOKENS_BATCH * TOKENS_T];
    for (int i = 0; i < TOKENS_BATCH * (TOKENS_T + 1); i++) text[i] = (int32_t)((cursor * 7 + i * i) % 11);
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < TOKENS_T; t++) {
            in[b * TOKENS_T + t] = text[(base + b) * (TOKENS_T + 1) + t];
            target[b * TOKENS_T + t] = text[(base + b) * (TOKENS_T + 1) + t + 1];
        }
    target[0] = HX_IGNORE_INDEX; /* micro-batches differ in the number of valid targets */
    if (base != 0) target[0] = text[base * (TOKENS_T + 1) + 1];
    hx_tensor_destroy(&s->input);
    hx_tensor_destroy(&s->target);
    HX_TRY(hx_tensor_create(dev, HX_I32, HX_SHAPE(B, TOKENS_T), &s->input));
    HX_TRY(hx_tensor_create(dev, HX_I32, HX_SHAPE(B, TOKENS_T), &s->target));
    HX_TRY(hx_tensor_write(st, s->input, in));
    HX_TRY(hx_tensor_write(st, s->target, target));
    *out = (hx_batch){s->input, s->target, B, base};
    return HX_OK;
}

static double *train_tokens(int64_t micro, int64_t *n, double *loss) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    hx_layer *gpt;
    training r;
    tokens s = {.micro = micro};
    samples none = {.n = 1};
    s.source = (hx_batch_source){
        .self = &s, .n_global = 60, .batch = TOKENS_BATCH, .n_micro = tokens_n_micro, .get = tokens_get};
    none.source = s.source;
    c.vocab = 11;
    c.ctx = TOKENS_T;
    c.layers = 2;
    c.dim = 8;
    c.heads = 2;
    c.dropout = 0.2;
    c.dtype = 1;
    OK(hx_gpt_create(dev, &c, &gpt));
    OK(hx_gpt_init(gpt, stream, 5));
    training_open(&r, gpt, &none);
    r.setup.model.loss = hx_lm_loss;
    r.oc.clip = 1;
    r.tc.steps = 5;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    const hx_train_event *last = event_of(&r, HX_EVENT_STEP, 4);
    cr_expect_eq(last->count, TOKENS_BATCH * TOKENS_T - 1);
    *loss = last->loss;
    *n = hx_param_list_count(&r.params);
    double *w = weights_of(&r);
    training_close(&r);
    hx_tensor_destroy(&s.input);
    hx_tensor_destroy(&s.target);
    return w;
}

/* Dropout is on: masks follow the sample, not the micro-batch. Key biases have no gradient but rounding,
 * which Adam's division would blow up to full steps; eps = 1e-8 keeps them from it. */
Test(trainer, micro_batches_equal_one_big_batch) {
    int64_t n;
    double loss_one, loss_many;
    double *one = train_tokens(TOKENS_BATCH, &n, &loss_one);
    const int64_t sizes[] = {1, 2, 4};
    for (int k = 0; k < 3; k++) {
        double *many = train_tokens(sizes[k], &n, &loss_many), worst = 0;
        for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs(one[i] - many[i]));
        cr_expect_lt(worst, 1e-12, "micro-batches of %d: weights differ by %g", (int)sizes[k], worst);
        cr_expect_float_eq(loss_one, loss_many, 1e-12);
        free(many);
    }
    free(one);
}

/* The gradients themselves, before Adam's division: one step of a linear model. */
Test(trainer, accumulated_gradients_equal_those_of_the_big_batch) {
    double x[24], y[12], grad[2][2];
    plane(12, x, y);
    for (int k = 0; k < 2; k++) {
        training r;
        samples s = {
            .n = 12, .n_in = 2, .n_out = 1, .batch = 12, .micro = k ? 5 : 12, .x = x, .y = y, .wraps = true};
        samples_open(&s);
        training_open(&r, linear_layer(2, 1, false), &s);
        r.tc.steps = 1;
        training_start(&r);
        OK(hx_trainer_step(r.trainer, NULL));
        OK(hx_tensor_read(stream, hx_tensor_grad(r.params.items[0]->value), grad[k]));
        training_close(&r);
        samples_close(&s);
    }
    for (int i = 0; i < 2; i++) cr_expect_float_eq(grad[0][i], grad[1][i], 1e-12 * fabs(grad[0][i]));
}

/* ---- numbers that are not finite ---- */

Test(trainer, an_update_with_nan_is_left_out_and_counted) {
    double x[64], y[32];
    training r;
    hx_train_event event;
    plane(32, x, y);
    samples s = {.n = 32,
                 .n_in = 2,
                 .n_out = 1,
                 .batch = 4,
                 .micro = 2,
                 .x = x,
                 .y = y,
                 .wraps = true,
                 .nan_from = 4,
                 .nan_to = 12};
    samples_open(&s);
    training_open(&r, linear_layer(2, 1, true), &s);
    r.tc.steps = 5;
    training_start(&r);
    OK(hx_trainer_step(r.trainer, &event));
    cr_expect_eq(event.kind, HX_EVENT_STEP);
    double *before = weights_of(&r);
    OK(hx_trainer_step(r.trainer, &event));
    cr_expect_eq(event.kind, HX_EVENT_SKIP);
    cr_expect_eq(event.step, 2);
    cr_expect(strstr(event.text, "loss") != NULL, "%s", event.text);
    double *after = weights_of(&r);
    cr_expect_eq(memcmp(before, after, 3 * sizeof *after), 0);
    OK(hx_trainer_run(r.trainer)); /* one more batch with NaN, then four good ones */
    const hx_train_state *state = hx_trainer_state(r.trainer);
    cr_expect_eq(state->n_skipped, 2);
    cr_expect_eq(state->step, 5);
    cr_expect_eq(state->cursor, 7 * 4);
    cr_expect_eq(count_events(&r, HX_EVENT_SKIP), 1);
    free(before);
    free(after);
    training_close(&r);
    samples_close(&s);
}

Test(trainer, too_many_updates_in_a_row_left_out_end_the_run) {
    double x[64], y[32];
    training r;
    plane(32, x, y);
    samples s = {.n = 32,
                 .n_in = 2,
                 .n_out = 1,
                 .batch = 4,
                 .x = x,
                 .y = y,
                 .wraps = true,
                 .nan_from = 4,
                 .nan_to = 1000};
    samples_open(&s);
    training_open(&r, linear_layer(2, 1, true), &s);
    r.tc.steps = 50;
    r.tc.max_skips = 3;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_NUMERIC);
    cr_expect(strstr(hx_error_message(), "loss is nan") || strstr(hx_error_message(), "loss is -nan"), "%s",
              hx_error_message());
    cr_expect_eq(count_events(&r, HX_EVENT_SKIP), 3);
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 1);
    training_close(&r);
    samples_close(&s);
}

/* sum of 1e200 w: its gradient's square overflows while the loss is finite */
static hx_status huge_loss(void *self, hx_ctx *c, const hx_batch *batch, hx_tensor **loss,
                           hx_tensor **count) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_TRY(hx_layer_forward(self, c, batch->input, &y));
    HX_TRY(hx_sum(c, y, NULL, 0, false, &sum));
    HX_TRY(hx_affine(c, sum, 1e200, 0, loss));
    return sample_count(c, batch->n_samples, count);
}

Test(trainer, a_gradient_that_is_not_finite_is_named) {
    const double x[1] = {1}, y[1] = {1};
    training r;
    samples s = {.n = 1, .n_in = 1, .n_out = 1, .batch = 1, .x = x, .y = y, .wraps = true};
    samples_open(&s);
    training_open(&r, linear_layer(1, 1, false), &s);
    r.setup.model.loss = huge_loss;
    r.tc.steps = 5;
    r.tc.max_skips = 1;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_NUMERIC);
    cr_expect(strstr(hx_error_message(), "gradient of weight") != NULL, "%s", hx_error_message());
    training_close(&r);
    samples_close(&s);
}

Test(trainer, in_anomaly_mode_the_first_bad_number_ends_the_run_and_is_named) {
    double x[64], y[32];
    training r;
    plane(32, x, y);
    samples s = {.n = 32, .n_in = 2, .n_out = 1, .batch = 4, .x = x, .y = y, .wraps = true, .nan_from = 4, .nan_to = 12};
    samples_open(&s);
    training_open(&r, linear_layer(2, 1, true), &s);
    r.tc.steps = 5;
    r.tc.anomaly = true;
    training_start(&r);
    OK(hx_trainer_step(r.trainer, NULL));
    FAILS(hx_trainer_step(r.trainer, NULL), HX_ERR_NUMERIC);
    cr_expect(strstr(hx_error_message(), "linear in linear: input 0 was not finite already: element 0") != NULL, "%s", hx_error_message());
    training_close(&r);
    samples_close(&s);
}

/* ---- evaluation ---- */

Test(trainer, evaluation_averages_over_all_targets_and_changes_nothing) {
    double x[26], y[13];
    training r;
    hx_train_event event;
    plane(13, x, y);
    samples s = {.n = 13, .n_in = 2, .n_out = 1, .batch = 4, .x = x, .y = y, .wraps = true};
    samples held = {.n = 13, .n_in = 2, .n_out = 1, .batch = 5, .micro = 2, .x = x, .y = y}; /* 5, 5 and 3 */
    samples_open(&s);
    samples_open(&held);
    training_open(&r, linear_layer(2, 1, true), &s);
    r.setup.eval = &held.source;
    r.tc.steps = 3;
    training_start(&r);
    OK(hx_trainer_step(r.trainer, NULL));
    double *w = weights_of(&r), expected = 0;
    const hx_train_state before = *hx_trainer_state(r.trainer);
    OK(hx_trainer_eval(r.trainer, &event));
    for (int i = 0; i < 13; i++) {
        const double d = w[0] * x[2 * i] + w[1] * x[2 * i + 1] + w[2] - y[i];
        expected += d * d / 13;
    }
    cr_expect_eq(event.kind, HX_EVENT_EVAL);
    cr_expect_eq(event.count, 13);
    cr_expect_float_eq(event.loss, expected, 1e-12 * expected);
    double *after = weights_of(&r);
    cr_expect_eq(memcmp(w, after, 3 * sizeof *w), 0);
    cr_expect_eq(memcmp(&before, hx_trainer_state(r.trainer), sizeof before), 0);
    cr_expect_eq(hx_tape_length(tape), 0);
    r.tc.eval_batches = 2;
    OK(hx_trainer_eval(r.trainer, &event));
    cr_expect_eq(event.count, 10);
    free(w);
    free(after);
    training_close(&r);
    samples_close(&s);
    samples_close(&held);
}

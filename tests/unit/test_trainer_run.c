/* How a run goes: events, evaluations, checkpoints, stops, resumption, and failures on several ranks. */
#define _GNU_SOURCE
#include <unistd.h>

#include "core/optim/ema.h"
#include "tests/unit/test_trainer_fixture.h"

static double x[64], y[32];
static samples data, held;
static training r;

/* Checkpoints: what was saved, and which saves fail. */
typedef struct saves {
    int n, fail_from, fail_to;
    int64_t steps[32];
    bool is_best[32];
    hx_train_state state;
    double tensors[64]; /* of the last one, all items one after the other */
} saves;

static hx_status save_down(void *self, const hx_train_state *state, const hx_state_list *items,
                           bool is_best, hx_save_result *result) {
    saves *s = self;
    *result = HX_SAVE_WRITTEN;
    double *at = s->tensors;
    s->steps[s->n] = state->step;
    s->is_best[s->n] = is_best;
    s->n++;
    if (s->n >= s->fail_from && s->n <= s->fail_to) return HX_FAIL(HX_ERR_IO, "no space left on device");
    s->state = *state;
    for (int64_t i = 0; i < items->n_items; i++) {
        const int64_t n = hx_layout_count(items->items[i].layout);
        memcpy(at, items->items[i].data, sizeof *at * (size_t)n);
        at += n;
    }
    return HX_OK;
}

static saves saved;
static hx_checkpoint_hook checkpoint = {.self = &saved, .save = save_down};

/* Saves beside training: one ends at the fourth poll after it was begun, or when it is waited for; until then others are left out.
 * Step 3 fails. Their copies take 30 ms from the first call of settle on. */
typedef struct beside {
    int64_t step;   /* under way; 0: none */
    int n_polls, n_finished, n_expected;
    bool is_copying;
} beside;
static beside thread;

static hx_status save_beside(void *self, const hx_train_state *state, const hx_state_list *items, bool is_best, hx_save_result *result) {
    beside *b = self;
    (void)items, (void)is_best;
    *result = b->step != 0 ? HX_SAVE_SKIPPED : HX_SAVE_BEGUN;
    if (b->step == 0) *b = (beside){.step = state->step, .n_finished = b->n_finished, .n_expected = b->n_expected, .is_copying = true};
    return HX_OK;
}

static void expect_beside(void *self, const hx_state_list *items) {
    beside *b = self;
    b->n_expected += items->n_items > 0;
}

static void settle_beside(void *self) {
    beside *b = self;
    if (b->is_copying) usleep(30000);
    b->is_copying = false;
}

static void finish_beside(void *self) {
    beside *b = self;
    b->n_polls = 3;
    b->n_finished++;
}

static bool ended_beside(void *self, hx_save_end *end) {
    beside *b = self;
    if (b->step == 0 || b->n_polls++ < 3) return false;
    *end = (hx_save_end){.step = b->step, .seconds = 0.25, .status = b->step == 3 ? HX_ERR_IO : HX_OK, .text = "no space left on device"};
    b->step = 0;
    return true;
}

static hx_checkpoint_hook beside_hook = {.self = &thread, .expect = expect_beside, .save = save_beside, .settle = settle_beside, .finish = finish_beside, .ended = ended_beside};

static void setup(void) {
    hx_rng rng = {11, hx_rng_stream(HX_RNG_USER, 1)};
    fixture_open();
    for (int i = 0; i < 64; i++) x[i] = hx_rng_normal(rng, (uint64_t)i);
    for (int i = 0; i < 32; i++) y[i] = 2 * x[2 * i] - 3 * x[2 * i + 1] + 0.5;
    data = (samples){.n = 32, .n_in = 2, .n_out = 1, .batch = 4, .micro = 3, .x = x, .y = y, .wraps = true};
    held = (samples){.n = 8, .n_in = 2, .n_out = 1, .batch = 8, .x = x, .y = y};
    samples_open(&data);
    samples_open(&held);
    training_open(&r, linear_layer(2, 1, true), &data);
    r.setup.checkpoint = &checkpoint;
    r.tc.steps = 8;
    saved = (saves){.n = 0};
}

static void teardown(void) {
    training_close(&r);
    samples_close(&data);
    samples_close(&held);
    fixture_close();
}

TestSuite(trainer_run, .init = setup, .fini = teardown);

/* ---- events and checkpoints ---- */

Test(trainer_run, reports_every_step_and_why_it_ended) {
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(count_events(&r, HX_EVENT_STEP), 8);
    for (int i = 0; i < 8; i++) {
        const hx_train_event *e = event_of(&r, HX_EVENT_STEP, i);
        cr_expect(e->step == i + 1 && e->n_steps == 8 && e->cursor == 4 * (i + 1) && e->count == 4);
        cr_expect(e->loss > 0 && e->lr == 0.01 && e->grad_norm > 0 && e->seconds > 0 && e->tokens_per_s > 0);
    }
    cr_expect_eq(count_events(&r, HX_EVENT_STOP), 1);
    cr_expect_eq(r.events[r.n_events - 1].kind, HX_EVENT_STOP);
    cr_expect_str_eq(r.texts[r.n_events - 1], "all 8 steps are done");
}

Test(trainer_run, saves_at_its_interval_and_at_the_end) {
    r.setup.save_every = 3;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_assert_eq(saved.n, 3);
    cr_expect(saved.steps[0] == 3 && saved.steps[1] == 6 && saved.steps[2] == 8);
    cr_expect_eq(count_events(&r, HX_EVENT_SAVE), 3);
}

Test(trainer_run, saves_once_when_the_end_falls_on_the_interval) {
    r.setup.save_every = 4;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(saved.n, 2);
}

Test(trainer_run, evaluates_at_its_interval_and_at_the_end_and_marks_the_best) {
    r.setup.eval = &held.source;
    r.setup.save_every = 3;
    r.tc.eval_every = 3;
    r.oc.lr = 0.1; /* the loss falls all the time */
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_assert_eq(count_events(&r, HX_EVENT_EVAL), 3);
    const hx_train_event *last = event_of(&r, HX_EVENT_EVAL, 2);
    cr_expect(last->step == 8 && last->is_best);
    for (int i = 0; i < 3; i++) cr_expect(saved.is_best[i]);
    const hx_train_state *state = hx_trainer_state(r.trainer);
    cr_expect(state->best_loss == last->loss && state->last_eval_loss == last->loss &&
              state->n_bad_evals == 0);
}

Test(trainer_run, a_failed_save_is_reported_and_training_goes_on) {
    r.setup.save_every = 2;
    saved.fail_from = 2;
    saved.fail_to = 3;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(saved.n, 4);
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 8);
    cr_expect_null(event_of(&r, HX_EVENT_SAVE, 0)->text);
    cr_expect_not_null(event_of(&r, HX_EVENT_SAVE, 1)->text);
    int n_told = 0;
    for (int i = 0; i < r.n_events; i++) n_told += strstr(r.texts[i], "no space left") != NULL;
    cr_expect_eq(n_told, 2);
}

Test(trainer_run, a_failed_last_save_is_the_result_of_the_run) {
    saved.fail_from = saved.fail_to = 1;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_IO);
    cr_expect(strstr(hx_error_message(), "no space left") != NULL, "%s", hx_error_message());
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 8);
}

Test(trainer_run, a_callback_that_fails_ends_the_run) {
    r.fail_on = HX_EVENT_STEP;
    r.fail_from = 3;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_IO);
    cr_expect_eq(count_events(&r, HX_EVENT_STEP), 3);
}

/* ---- ends ---- */

/* With a rate of 0 the first evaluation is the best, and all others are as good, which is not better. */
Test(trainer_run, stops_after_exactly_as_many_bad_evaluations_as_its_patience) {
    r.setup.eval = &held.source;
    r.oc.lr = 0;
    r.tc.steps = 100;
    r.tc.eval_every = 2;
    r.tc.patience = 3;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 2 * (1 + 3));
    cr_expect_eq(count_events(&r, HX_EVENT_EVAL), 4);
    cr_expect_eq(hx_trainer_state(r.trainer)->n_bad_evals, 3);
    cr_expect(strstr(r.texts[r.n_events - 1], "no better loss in 3") != NULL, "%s", r.texts[r.n_events - 1]);
    cr_expect(saved.n == 2 && saved.steps[0] == 2 && saved.is_best[0], "the best one is kept");
    cr_expect(saved.steps[1] == 8 && !saved.is_best[1]);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 8, "resumed it stays where it ended");
    cr_expect(strstr(r.texts[r.n_events - 1], "no better loss in 3") != NULL, "%s", r.texts[r.n_events - 1]);
    r.tc.patience = 4;
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 10, "with more patience it goes on");
}

/* ---- the schedule that looks at the loss ---- */

/* With a rate too small to change anything every evaluation after the first is a bad one. */
static void start_on_plateau(void) {
    r.setup.eval = &held.source;
    r.oc.lr = 1e-30;
    r.oc.schedule = HX_LR_PLATEAU;
    r.oc.plateau_factor = 0.5;
    r.oc.plateau_patience = 0;
    r.oc.min_lr_ratio = 0;
    r.tc.eval_every = 2;
    training_start(&r);
}

Test(trainer_run, a_plateau_of_the_evaluations_lowers_the_rate) {
    const double scales[8] = {1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25};
    start_on_plateau();
    OK(hx_trainer_run(r.trainer));
    for (int i = 0; i < 8; i++) cr_expect_eq(event_of(&r, HX_EVENT_STEP, i)->lr, 1e-30 * scales[i], "step %d", i + 1);
}

Test(trainer_run, the_plateau_is_part_of_the_state) {
    hx_state_list items = {0};
    start_on_plateau();
    OK(hx_trainer_items(r.trainer, &items));
    cr_assert_geq(items.n_items, 4);
    const hx_state_item *scale = &items.items[items.n_items - 4];
    cr_expect_str_eq(scale->name, "/sched/scale");
    *(double *)scale->data = 0.125; /* as a load would */
    hx_state_list_destroy(&items);
    OK(hx_trainer_step(r.trainer, NULL));
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(event_of(&r, HX_EVENT_STEP, 0)->lr, 1e-30 * 0.125);
}

Test(trainer_run, a_plateau_without_evaluations_is_refused) {
    r.oc.schedule = HX_LR_PLATEAU;
    r.setup.optim_config = &r.oc;
    OK(hx_optim_create_default(dev, stream, &r.params, &r.oc, &r.optim));
    r.setup.optim = r.optim;
    FAILS(hx_trainer_create(&r.setup, &r.trainer), HX_ERR_CONFIG);
    r.setup.eval = &held.source;
    r.tc.eval_every = -1; /* only at the end, when no rate is left to fall */
    FAILS(hx_trainer_create(&r.setup, &r.trainer), HX_ERR_CONFIG);
    r.tc.eval_every = 0; /* after every epoch */
    OK(hx_trainer_create(&r.setup, &r.trainer));
}

/* ---- stops ---- */

static bool stop_after_five(void *self) { return ++*(int *)self > 4; }

Test(trainer_run, a_wish_to_stop_ends_the_run_after_a_checkpoint) {
    int polls = 0;
    r.setup.eval = &held.source;
    r.setup.should_stop = stop_after_five;
    r.setup.should_stop_self = &polls;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);
    cr_expect(saved.n == 1 && saved.steps[0] == 5);
    cr_expect_eq(count_events(&r, HX_EVENT_EVAL), 0, "a stop is in a hurry");
    cr_expect_str_eq(r.texts[r.n_events - 1], "asked to stop at step 5 of 8");
}

/* The evaluation that is due at the stop's step comes when the run goes on: its plateau falls where that of a run
 * without a stop does. */
Test(trainer_run, an_evaluation_that_a_stop_left_out_is_made_up_for) {
    int polls = 0; /* stops at step 5 */
    start_on_plateau();
    OK(hx_trainer_run(r.trainer));
    const hx_train_state whole = *hx_trainer_state(r.trainer);
    for (int every = 5; every >= 1; every -= 4) {
        training_close(&r);
        training_open(&r, linear_layer(2, 1, true), &data);
        r.setup.checkpoint = &checkpoint;
        r.setup.eval = &held.source;
        r.setup.should_stop = stop_after_five;
        r.setup.should_stop_self = &polls;
        r.tc.steps = 8;
        r.tc.eval_every = every;
        polls = saved.n = 0;
        training_start(&r);
        FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);
        const int before = count_events(&r, HX_EVENT_EVAL);
        cr_expect_eq(before, 4 / every, "a stop is in a hurry");
        cr_expect_eq(saved.state.eval_step, every == 5 ? 0 : 4);
        polls = -100;
        OK(hx_trainer_run(r.trainer));
        const hx_train_event *e = event_of(&r, HX_EVENT_EVAL, before);
        cr_expect_eq(e->step, 5);
        cr_expect_eq(count_events(&r, HX_EVENT_EVAL), every == 5 ? 2 : 8);
    }
    cr_expect_eq(whole.eval_step, 8);
}

Test(trainer_run, a_stop_at_the_last_step_leaves_its_evaluation_to_the_next_run) {
    int polls = 0;
    r.setup.eval = &held.source;
    r.setup.should_stop = stop_after_five;
    r.setup.should_stop_self = &polls;
    r.tc.steps = 5;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);
    cr_expect_eq(count_events(&r, HX_EVENT_EVAL), 0);
    polls = -100;
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(count_events(&r, HX_EVENT_EVAL), 1);
    cr_expect_eq(hx_trainer_state(r.trainer)->eval_step, 5);
    cr_expect_str_eq(r.texts[r.n_events - 1], "all 5 steps are done");
    OK(hx_trainer_run(r.trainer));
    cr_expect(strstr(r.texts[r.n_events - 1], "nothing to do") != NULL, "%s", r.texts[r.n_events - 1]);
}

static hx_status stop_or_pause(void *self, const hx_train_event *event) {
    training *t = self;
    HX_TRY(write_down(self, event));
    if (event->kind != HX_EVENT_STEP) return HX_OK;
    if (event->step == 3) hx_trainer_pause(t->trainer);
    if (event->step == 6) hx_trainer_stop(t->trainer);
    return HX_OK;
}

/* A wish uttered while step 3 is reported ends the run after step 4. */
Test(trainer_run, pauses_and_stops_from_a_callback_and_goes_on) {
    double *expected, *got;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    expected = weights_of(&r);
    training_close(&r);
    saved.n = 0;
    training_open(&r, linear_layer(2, 1, true), &data);
    r.setup.checkpoint = &checkpoint;
    r.setup.on_event = stop_or_pause;
    r.tc.steps = 8;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 4);
    cr_expect_str_eq(r.texts[r.n_events - 1], "paused at step 4 of 8");
    cr_expect_eq(saved.n, 0);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);
    cr_expect(saved.n == 1 && saved.steps[0] == 7);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 8);
    got = weights_of(&r);
    cr_expect_eq(memcmp(expected, got, 3 * sizeof *got), 0);
    free(expected);
    free(got);
}

/* With dropout, whose masks show whether seed and step go on. */
static hx_layer *dropping_layer(void) {
    hx_layer *parts[2], *layer;
    OK(hx_dropout_create(dev, 0.5, &parts[0]));
    OK(hx_linear_create(dev, HX_F64, 2, 1, true, &parts[1]));
    OK(hx_sequential_create_consume(dev, parts, 2, &layer));
    init_all(layer, 0.1);
    return layer;
}

static void reopen(void) {
    training_close(&r);
    training_open(&r, dropping_layer(), &data);
    r.setup.checkpoint = &checkpoint;
    r.tc.steps = 8;
}

/* The last checkpoint into a new trainer. */
static void restore(void) {
    hx_state_list items = {0};
    *hx_trainer_state(r.trainer) = saved.state;
    OK(hx_trainer_items(r.trainer, &items));
    const double *at = saved.tensors;
    for (int64_t i = 0; i < items.n_items; i++) {
        const int64_t n = hx_layout_count(items.items[i].layout);
        memcpy(items.items[i].data, at, sizeof *at * (size_t)n);
        at += n;
    }
    hx_state_list_destroy(&items);
}

Test(trainer_run, a_resumed_run_gives_the_same_bits) {
    int polls = 0;
    reopen();
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    const hx_train_state whole = *hx_trainer_state(r.trainer);
    double *expected = weights_of(&r);

    reopen();
    r.setup.should_stop = stop_after_five;
    r.setup.should_stop_self = &polls;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);

    reopen();
    r.tc.seed = 99; /* the state's seed counts */
    training_start(&r);
    restore();
    OK(hx_trainer_run(r.trainer));
    double *got = weights_of(&r);
    const hx_train_state *state = hx_trainer_state(r.trainer);
    cr_expect_eq(memcmp(expected, got, 3 * sizeof *got), 0);
    cr_expect(state->step == whole.step && state->cursor == whole.cursor && state->seed == whole.seed);
    cr_expect_eq(state->last_loss, whole.last_loss);
    cr_expect_geq(state->elapsed_s, saved.state.elapsed_s);
    free(expected);
    free(got);
}

/* ---- averages of the weights, frozen parameters ---- */

/* A run that keeps averages, evaluated at its end. */
static void reopen_averaging(void) {
    reopen();
    r.tc.ema = 0.9;
    r.setup.eval = &held.source;
}

Test(trainer_run, averages_are_evaluated_and_the_weights_come_back) {
    hx_train_event averaged, plain;
    hx_ema *ema = NULL;
    reopen();
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    double *expected = weights_of(&r);
    reopen_averaging();
    training_start(&r);
    OK(hx_ema_create(&ctx, &r.params, 0.9, &ema)); /* the same by hand */
    for (int64_t step = 1; step <= 8; step++) {
        OK(hx_trainer_step(r.trainer, NULL));
        OK(hx_ema_update(ema, &ctx, step));
    }
    OK(hx_trainer_eval(r.trainer, &averaged));
    double *got = weights_of(&r);
    cr_expect_eq(memcmp(expected, got, 3 * sizeof *got), 0, "averages change nothing of the training");
    const hx_ctx quiet = {.device = dev, .stream = stream};
    double sums[2];
    OK(hx_ema_swap(ema, &ctx));
    OK(hx_eval_share(&quiet, &r.setup.model, &held.source, 0, NULL, NULL, sums));
    cr_expect_eq(averaged.loss, sums[0] / sums[1]);
    OK(hx_ema_swap(ema, &ctx));
    OK(hx_eval_share(&quiet, &r.setup.model, &held.source, 0, NULL, NULL, sums));
    plain.loss = sums[0] / sums[1];
    cr_expect_neq(averaged.loss, plain.loss);
    hx_ema_destroy(&ema);
    free(expected);
    free(got);
}

Test(trainer_run, a_failed_evaluation_of_averages_gives_the_weights_back) {
    reopen_averaging();
    training_start(&r);
    OK(hx_trainer_step(r.trainer, NULL));
    double *before = weights_of(&r);
    held.fail_at = 0;
    FAILS(hx_trainer_eval(r.trainer, NULL), HX_ERR_IO);
    double *after = weights_of(&r);
    cr_expect_eq(memcmp(before, after, 3 * sizeof *after), 0);
    free(before);
    free(after);
}

Test(trainer_run, a_resumed_run_goes_on_with_the_same_averages) {
    saves whole;
    reopen_averaging();
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    whole = saved;
    int polls = 0;
    reopen_averaging();
    r.setup.should_stop = stop_after_five;
    r.setup.should_stop_self = &polls;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);
    cr_expect_eq(saved.state.step, 5);
    reopen_averaging();
    training_start(&r);
    restore();
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(saved.state.step, whole.state.step);
    cr_expect_eq(saved.state.last_eval_loss, whole.state.last_eval_loss);
    cr_expect_eq(memcmp(saved.tensors, whole.tensors, sizeof whole.tensors), 0, "weights, moments and averages");
}

Test(trainer_run, frozen_parameters_keep_their_bits_and_have_no_state) {
    hx_state_list items = {0};
    training_close(&r);
    training_open(&r, linear_layer(2, 1, true), &data);
    r.tc.steps = 8;
    r.tc.ema = 0.5;
    snprintf(r.tc.freeze, sizeof r.tc.freeze, " bias ");
    OK(hx_layer_freeze_list(r.layer, r.tc.freeze, NULL));
    double *before = weights_of(&r);
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    double *after = weights_of(&r);
    cr_expect(before[0] != after[0] && before[1] != after[1]);
    cr_expect_eq(before[2], after[2]);
    OK(hx_trainer_items(r.trainer, &items));
    for (int64_t i = 0; i < items.n_items; i++)
        cr_expect(strstr(items.items[i].name, "bias") == NULL || strcmp(items.items[i].name, "/model/bias") == 0, "%s",
                  items.items[i].name);
    cr_expect_eq(items.n_items, 2 + 2 + 1, "both parameters, two moments and an average of one");
    hx_state_list_destroy(&items);
    free(before);
    free(after);
}

Test(trainer_run, what_to_freeze_must_be_there_and_leave_something) {
    OK(hx_optim_create_default(dev, stream, &r.params, &r.oc, &r.optim));
    r.setup.optim = r.optim;
    snprintf(r.tc.freeze, sizeof r.tc.freeze, "wieght");
    FAILS(hx_trainer_create(&r.setup, &r.trainer), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "\"wieght\"; there are: weight, bias") != NULL, "%s", hx_error_message());
    snprintf(r.tc.freeze, sizeof r.tc.freeze, "weight,b*");
    FAILS(hx_trainer_create(&r.setup, &r.trainer), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "all of them frozen") != NULL, "%s", hx_error_message());
    r.tc.freeze[0] = '\0';
    r.tc.ema = 1;
    OK(hx_layer_freeze(r.layer, "*", false, NULL));
    FAILS(hx_trainer_create(&r.setup, &r.trainer), HX_ERR_CONFIG);
}

/* With a rate of 0 and all data in a batch only the masks can make losses differ. */
Test(trainer_run, dropout_follows_the_seed_and_the_step) {
    double loss[2][2];
    data.batch = data.micro = 32;
    data.source.batch = 32;
    for (int seed = 0; seed < 2; seed++) {
        reopen();
        r.oc.lr = 0;
        r.tc.seed = seed;
        training_start(&r);
        for (int step = 0; step < 2; step++) {
            hx_train_event event;
            OK(hx_trainer_step(r.trainer, &event));
            loss[seed][step] = event.loss;
        }
    }
    cr_expect_neq(loss[0][0], loss[0][1]);
    cr_expect_neq(loss[0][0], loss[1][0]);
}

Test(trainer_run, a_complete_run_has_nothing_to_do) {
    training_start(&r);
    hx_trainer_state(r.trainer)->step = 8;
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(saved.n, 0);
    cr_expect_eq(r.n_events, 1);
    cr_expect_eq(hx_trainer_state(r.trainer)->n_bad_evals, 0);
}

Test(trainer_run, epochs_become_steps) {
    r.tc.steps = 0;
    r.tc.epochs = 2.6; /* 83.2 samples of 32, in batches of 4 */
    training_start(&r);
    cr_expect_eq(hx_trainer_n_steps(r.trainer), 21);
}

/* 32 samples in batches of 4: an epoch is 8 steps. */
Test(trainer_run, evaluates_after_every_epoch_and_saves_every_ten) {
    r.setup.eval = &held.source;
    r.tc.eval_every = 0;
    r.tc.steps = 0;
    r.tc.epochs = 21.5;
    r.tc.save_best = false;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    const hx_train_state *state = hx_trainer_state(r.trainer);
    cr_expect_eq(state->step, 172);
    cr_expect_eq(count_events(&r, HX_EVENT_EVAL), 22);
    for (int i = 0; i < 21; i++) {
        const hx_train_event *e = event_of(&r, HX_EVENT_EVAL, i);
        cr_expect(e->step == 8 * (i + 1) && e->epoch == i + 1);
    }
    cr_expect(saved.n == 3 && saved.steps[0] == 80 && saved.steps[1] == 160 && saved.steps[2] == 172);
}

Test(trainer_run, a_best_evaluation_between_two_checkpoints_is_saved) {
    r.setup.eval = &held.source;
    r.setup.save_every = 5;
    r.tc.eval_every = 2;
    r.oc.lr = 0.1;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    const int64_t steps[] = {2, 4, 5, 6, 8};
    cr_assert_eq(saved.n, 5);
    for (int i = 0; i < 5; i++) cr_expect(saved.steps[i] == steps[i] && saved.is_best[i] == (steps[i] != 5));
}

/* Evaluation in the middle of training, with dropout: not one bit of the run may change. */
Test(trainer_run, evaluation_leaves_weights_and_random_numbers_as_they_were) {
    double *weights[2];
    for (int i = 0; i < 2; i++) {
        training_close(&r);
        training_open(&r, dropping_layer(), &data);
        r.setup.eval = i ? &held.source : NULL;
        r.tc.eval_every = 1;
        r.tc.steps = 8;
        training_start(&r);
        OK(hx_trainer_run(r.trainer));
        weights[i] = weights_of(&r);
    }
    cr_expect_eq(memcmp(weights[0], weights[1], 3 * sizeof *weights[0]), 0);
    for (int i = 0; i < 2; i++) free(weights[i]);
}

Test(trainer_run, the_share_of_the_peak_is_told) {
    r.tc.peak_flops = 1e9;
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    const hx_train_event *e = event_of(&r, HX_EVENT_STEP, 0);
    cr_expect(e->flops_share > 0 && e->flops_share < 1, "%g", e->flops_share);
}

Test(trainer_run, a_steady_step_takes_no_new_memory_from_the_system) {
    hx_device_stats before, after;
    data.micro = 2; /* all micro-batches alike */
    training_start(&r);
    for (int i = 0; i < 2; i++) OK(hx_trainer_step(r.trainer, NULL));
    hx_device_stats_get(dev, &before);
    for (int i = 0; i < 5; i++) OK(hx_trainer_step(r.trainer, NULL));
    hx_device_stats_get(dev, &after);
    cr_expect_eq(after.n_raw_allocs, before.n_raw_allocs);
    cr_expect_eq(after.live_bytes, before.live_bytes);
}

/* ---- failures ---- */

Test(trainer_run, a_set_up_that_cannot_train_is_refused) {
    OK(hx_optim_create_default(dev, stream, &r.params, &r.oc, &r.optim));
    r.setup.optim = r.optim;
    for (int i = 0; i < 9; i++) {
        hx_trainer_setup s = r.setup;
        hx_train_config tc = r.tc;
        hx_batch_source source = data.source;
        hx_agreement five = {.size = 5};
        s.config = &tc;
        s.train = &source;
        if (i == 0) s.ctx.tape = NULL;
        if (i == 1) s.model.loss = NULL;
        if (i == 2) source.n_global = 0;
        if (i == 3) tc.steps = -1;
        if (i == 4) tc.steps = 0, tc.epochs = 0;
        if (i == 5) tc.steps = 0, tc.epochs = 1e30;
        if (i == 6) s.agreement = &five; /* a batch of 4 */
        if (i == 7) s.save_every = -2;
        if (i == 8) OK(hx_layer_freeze(r.layer, "*", true, NULL));
        hx_status status = hx_trainer_create(&s, &r.trainer);
        cr_expect(status == (i < 2 ? HX_ERR_ARG : HX_ERR_CONFIG), "case %d: %s", i, hx_status_name(status));
        cr_expect_null(r.trainer);
    }
}

static hx_status half_used_loss(void *self, hx_ctx *c, const hx_batch *batch, hx_tensor **loss,
                                hx_tensor **count) {
    const hx_layer *layer = self;
    HX_AUTO_TENSOR y1 = NULL;
    HX_TRY(hx_linear_op(c, batch->input, layer->params[0]->value, NULL, &y1));
    HX_TRY(hx_sum(c, y1, NULL, 0, false, loss));
    return sample_count(c, batch->n_samples, count);
}

Test(trainer_run, a_parameter_that_takes_no_part_is_named) {
    r.setup.model.loss = half_used_loss;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "bias") != NULL, "%s", hx_error_message());
}

static hx_status f32_loss(void *self, hx_ctx *c, const hx_batch *batch, hx_tensor **loss, hx_tensor **count) {
    HX_AUTO_TENSOR wide = NULL;
    HX_TRY(square_loss(self, c, batch, &wide, count));
    return hx_cast(c, wide, HX_F32, loss);
}

Test(trainer_run, a_loss_of_the_wrong_type_is_refused) {
    r.setup.model.loss = f32_loss;
    training_start(&r);
    FAILS(hx_trainer_run(r.trainer), HX_ERR_SHAPE);
    cr_expect(strstr(hx_error_message(), "f32") != NULL, "%s", hx_error_message());
}

/* One rank of two: the other is played by these functions. */
typedef struct peer {
    double add[64]; /* what the other rank adds to each reduction */
    int fail_at;    /* the reduction in which it reports a failure, 1-based; 0: never */
    int n_sums, n_agrees, n_finishes, n_failed_finishes, n_ready;
    hx_status told; /* what this rank said last */
} peer;

static peer other;

static hx_status peer_sum(void *self, double *values, int n) {
    peer *p = self;
    p->n_sums++;
    for (int i = 0; i < n; i++) values[i] += p->add[i];
    if (p->n_sums == p->fail_at) values[3] += 1;
    return HX_OK;
}

static hx_status peer_agree(void *self, hx_status mine) {
    peer *p = self;
    p->n_agrees++;
    p->told = mine;
    if (mine != HX_OK) return mine;
    if (p->fail_at > 0 && p->n_sums >= p->fail_at) return HX_FAIL(HX_ERR_REMOTE, "rank 1 ran out of memory");
    return HX_OK;
}

static hx_status peer_begin(void *self, bool is_last) {
    (void)self;
    (void)is_last;
    return HX_OK;
}

static hx_status peer_ready(void *self, hx_tensor *leaf) {
    (void)leaf;
    ((peer *)self)->n_ready++;
    return HX_OK;
}

static hx_status peer_finish(void *self, hx_stream *s, bool failed) {
    (void)s;
    ((peer *)self)->n_finishes++;
    ((peer *)self)->n_failed_finishes += failed;
    return HX_OK;
}

static const hx_agreement two = {.self = &other, .rank = 0, .size = 2, .agree = peer_agree, .sum = peer_sum};
static const hx_grad_sync sync_with_peer = {
    .self = &other, .begin = peer_begin, .ready = peer_ready, .finish = peer_finish};

static void start_two(void) {
    other = (peer){.fail_at = 0};
    r.setup.agreement = &two;
    r.setup.sync = &sync_with_peer;
    training_start(&r);
}

Test(trainer_run, a_failure_elsewhere_ends_the_step_here_too) {
    start_two();
    other.fail_at = 3;
    FAILS(hx_trainer_run(r.trainer), HX_ERR_REMOTE);
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 2);
    cr_expect_eq(other.told, HX_OK);
    cr_expect_eq(other.n_ready, 3 * 2 * 2, "two parameters, two micro-batches, three steps");
}

Test(trainer_run, a_failure_here_still_takes_part_in_what_the_others_wait_for) {
    start_two();
    data.fail_at = 8; /* the third step */
    FAILS(hx_trainer_run(r.trainer), HX_ERR_IO);
    cr_expect(strstr(hx_error_message(), "unreadable") != NULL, "%s", hx_error_message());
    cr_expect_eq(other.n_sums, 3);
    cr_expect_eq(other.n_finishes, 3);
    cr_expect_eq(other.n_failed_finishes, 1);
    cr_expect_eq(other.told, HX_ERR_IO);
    cr_expect_eq(hx_tape_length(tape), 0);
}

Test(trainer_run, a_callback_that_fails_is_told_to_the_others_by_the_next_step) {
    start_two();
    r.fail_on = HX_EVENT_STEP;
    r.fail_from = 2;
    FAILS(hx_trainer_run(r.trainer), HX_ERR_IO);
    cr_expect(strstr(hx_error_message(), "the log is full") != NULL, "%s", hx_error_message());
    cr_expect_eq(other.n_sums, 3);
    cr_expect_eq(other.n_failed_finishes, 1);
}

Test(trainer_run, a_callback_that_fails_at_the_very_end_is_told_too) {
    start_two();
    r.fail_on = HX_EVENT_STOP;
    r.fail_from = 1;
    FAILS(hx_trainer_run(r.trainer), HX_ERR_IO);
    cr_expect_eq(other.told, HX_ERR_IO);
}

Test(trainer_run, a_wish_to_stop_elsewhere_stops_here) {
    start_two();
    other.add[4] = 1;
    FAILS(hx_trainer_run(r.trainer), HX_ERR_INTERRUPTED);
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 1);
    cr_expect_eq(saved.n, 1);
}

Test(trainer_run, a_wish_to_pause_elsewhere_pauses_here) {
    start_two();
    other.add[6] = 1;
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 1);
    cr_expect_eq(saved.n, 0);
    OK(hx_trainer_run(r.trainer));
    cr_expect_eq(hx_trainer_state(r.trainer)->step, 2);
}

Test(trainer_run, a_gradient_that_is_not_finite_elsewhere_leaves_the_update_out_here) {
    start_two();
    double *before = weights_of(&r);
    other.add[2] = 1;
    hx_train_event event;
    OK(hx_trainer_step(r.trainer, &event));
    double *after = weights_of(&r);
    cr_expect_eq(event.kind, HX_EVENT_SKIP);
    cr_expect_eq(memcmp(before, after, 3 * sizeof *after), 0);
    free(before);
    free(after);
}

/* Kinds and steps of the events about saves: "begun 2, ended 2, ..." */
static const char *saves_of(void) {
    static const char *const words[] = {"written", "begun", "skipped"};
    static char text[512];
    int n = 0;
    for (int i = 0; i < r.n_events; i++) {
        const hx_train_event *e = &r.events[i];
        if (e->kind == HX_EVENT_SAVE) n += snprintf(text + n, sizeof text - (size_t)n, "%s %lld ", words[e->save], (long long)e->step);
        if (e->kind == HX_EVENT_SAVE_END)
            n += snprintf(text + n, sizeof text - (size_t)n, "%s %lld ", e->text ? "failed" : "ended", (long long)e->step);
    }
    return text;
}

Test(trainer_run, events_tell_what_becomes_of_saves_beside_training) {
    r.setup.checkpoint = &beside_hook;
    r.setup.save_every = 1;
    r.tc.steps = 5;
    thread = (beside){.step = 0};
    training_start(&r);
    OK(hx_trainer_run(r.trainer));
    cr_expect_str_eq(saves_of(), "begun 1 skipped 2 ended 1 begun 3 skipped 4 failed 3 begun 5 ended 5 ");
    cr_expect_eq(thread.n_finished, 2, "before the last save and after it");
    cr_expect_eq(thread.n_expected, 1, "it is told what will be saved");
    for (int i = 0; i < r.n_events; i++) {
        const hx_train_event *e = &r.events[i];
        if (e->kind != HX_EVENT_SAVE_END) continue;
        cr_expect(e->seconds == 0.25);
        if (e->step == 1) { /* two steps were done beside it */
            cr_expect(e->stall_s >= 0.03, "%g s: the update waited for the copy", e->stall_s);
            cr_expect(e->step_s > 0 && 2 * e->step_s < event_of(&r, HX_EVENT_STEP, 1)->seconds + event_of(&r, HX_EVENT_STEP, 2)->seconds - 0.02,
                      "%g s: the wait is the save's, not the steps'", e->step_s);
        }
    }
}

Test(trainer_run, a_last_save_that_fails_beside_training_fails_the_run) {
    r.setup.checkpoint = &beside_hook;
    r.setup.save_every = -1;
    r.tc.steps = 3;
    thread = (beside){.step = 0};
    training_start(&r);
    cr_expect_eq(thread.n_expected, 0, "a save at the end only is waited for");
    cr_expect_eq(hx_trainer_run(r.trainer), HX_ERR_IO);
    cr_expect(strstr(hx_error_message(), "no space left"), "%s", hx_error_message());
}

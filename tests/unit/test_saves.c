/* Saves beside training hold the bits of the step that they are of: buffers, which forward changes; averages, which an evaluation puts in
 * the weights' place; the state of a schedule; and what callers do behind a run. See tests/mpi/test_saves.c for the rest. */
#define _GNU_SOURCE
#include <ftw.h>
#include <unistd.h>

#include "tests/unit/test_trainer_fixture.h"
#include "tests/support/saved.h"

enum { STEPS = 4 };

/* What the callback does to the run when a save has begun, or has been made. */
typedef enum meddling { NOTHING, EVALUATES, CHANGES, REFUSES } meddling;

typedef struct run_case {
    const char *name;
    double ema;
    int64_t micro;
    int schedule; /* hx_optim_config */
    meddling meddling;
} run_case;

static double x[64], y[32];
static samples data, held;
static training r;
static hx_comm *comm;
static char folder[256];
static meddling meddles;
static bool is_slow;

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

/* So that averages are in the weights' place when a copy begins that was not waited for. */
static hx_status get_slowly(void *self, int64_t cursor, int64_t index, hx_stream *st, hx_batch *out) {
    if (is_slow) usleep(2 * 1000 * SAVED_DELAY_MS);
    return samples_get(self, cursor, index, st, out);
}

static void setup(void) {
    const char *tmp = getenv("TMPDIR");
    hx_rng rng = {11, hx_rng_stream(HX_RNG_USER, 1)};
    fixture_open();
    OK(hx_comm_self_open(&comm));
    snprintf(folder, sizeof folder, "%.200s/helix-saves-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(folder));
    for (int i = 0; i < 64; i++) x[i] = hx_rng_normal(rng, (uint64_t)i);
    for (int i = 0; i < 32; i++) y[i] = 2 * x[2 * i] - 3 * x[2 * i + 1] + 0.5;
    data = (samples){.n = 32, .n_in = 2, .n_out = 1, .batch = 8, .micro = 4, .x = x, .y = y, .wraps = true};
    held = (samples){.n = 8, .n_in = 2, .n_out = 1, .batch = 8, .x = x, .y = y};
    samples_open(&data);
    samples_open(&held);
    held.source.get = get_slowly;
}

static void teardown(void) {
    samples_close(&data);
    samples_close(&held);
    hx_comm_close(&comm);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    fixture_close();
}

TestSuite(saves, .init = setup, .fini = teardown);

static hx_layer *normed_layer(void) {
    hx_layer *layers[3], *all;
    layers[0] = linear_layer(2, 3, true);
    OK(hx_batchnorm_create(dev, HX_F64, 3, NULL, &layers[1]));
    layers[2] = linear_layer(3, 1, true);
    OK(hx_sequential_create_consume(dev, layers, 3, &all));
    OK(hx_layer_init(all, stream, 3));
    return all;
}

static void change_weights(double by) {
    for (int64_t i = 0; i < r.params.n_items; i++) {
        double *values = hx_tensor_data(r.params.items[i]->value);
        for (int64_t k = 0; k < hx_tensor_count(r.params.items[i]->value); k++) values[k] += by;
    }
}

static hx_status meddle(void *self, const hx_train_event *event) {
    hx_state_list items = {0};
    (void)self;
    if (event->kind != HX_EVENT_SAVE || event->step == STEPS) return HX_OK;
    is_slow = meddles == EVALUATES;
    const hx_status status = is_slow ? hx_trainer_eval(r.trainer, NULL) : HX_OK;
    is_slow = false;
    if (meddles == REFUSES) return HX_FAIL(HX_ERR_IO, "the log is full");
    if (meddles != CHANGES) return status;
    HX_TRY(hx_trainer_items(r.trainer, &items));
    hx_state_list_destroy(&items);
    change_weights(0.25);
    return HX_OK;
}

static void train(const run_case *c, int way) {
    hx_ckpt *ckpt;
    hx_checkpoint_hook hook;
    saved_open(comm, folder, way, &ckpt, &hook);
    data.micro = c->micro;
    meddles = c->meddling;
    training_open(&r, normed_layer(), &data);
    r.tc.steps = STEPS;
    r.tc.ema = c->ema;
    r.tc.eval_every = 1;
    r.oc.schedule = c->schedule;
    r.setup.eval = &held.source;
    r.setup.checkpoint = &hook;
    r.setup.save_every = 1;
    r.setup.on_event = meddle;
    training_start(&r);
    cr_assert_eq(hx_trainer_run(r.trainer), c->meddling == REFUSES ? HX_ERR_IO : HX_OK, "%s", hx_error_message());
    change_weights(1); /* they are the caller's again, */
    training_close(&r); /* and may be gone before the disk has them */
    hx_ckpt_close(&ckpt);
}

static void compare(const run_case *c) {
    for (int way = 0; way < SAVED_WAYS; way++) train(c, way);
    saved_compare(folder, c->name, 1, c->meddling == REFUSES ? 1 : STEPS);
}

enum { CONSTANT = 1, PLATEAU = 5 };

Test(saves, beside_batch_norm_hold_the_statistics_of_their_step) { compare(&(run_case){"batch norm", .micro = 4, .schedule = CONSTANT}); }
Test(saves, beside_a_schedule_that_looks_at_the_loss_hold_its_state) { compare(&(run_case){"plateau", .micro = 8, .schedule = PLATEAU}); }
Test(saves, beside_evaluations_of_averages_hold_weights) {
    compare(&(run_case){"averages", .ema = 0.5, .micro = 8, .schedule = CONSTANT, .meddling = EVALUATES});
}
Test(saves, who_asks_for_the_state_may_change_it) { compare(&(run_case){"items", .micro = 8, .schedule = CONSTANT, .meddling = CHANGES}); }
Test(saves, that_a_failed_run_has_begun_hold_their_step) { compare(&(run_case){"failure", .micro = 8, .schedule = CONSTANT, .meddling = REFUSES}); }

/* Twenty updates of every optimizer with two parameter groups, and the rates of every schedule, against PyTorch's. */
#include <math.h>
#include <stdio.h>

#include "core/optim/optim.h"
#include "core/optim/schedule.h"
#include "tests/golden/golden.h"

enum { STEPS = 20, RATES = 25 };

/* ---- optimizers ---- */

static hx_status no_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    (void)layer, (void)ctx;
    *y = hx_tensor_retain(x);
    return HX_OK;
}
static const hx_layer_type holder_type = {.name = "holder", .n_bytes = sizeof(hx_layer), .forward = no_forward};

static const struct {
    const char *name;
    hx_optim_config config; /* what is 0 here has no part in the update */
} optimizers[] = {
    {"adamw", {.optimizer = HX_OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8}},
    {"adam", {.optimizer = HX_OPTIM_ADAM, .beta1 = 0.8, .beta2 = 0.99, .eps = 1e-8}},
    {"sgd", {.optimizer = HX_OPTIM_SGD}},
    {"sgd_momentum", {.optimizer = HX_OPTIM_SGD, .momentum = 0.9, .dampening = 0.3}},
    {"sgd_nesterov", {.optimizer = HX_OPTIM_SGD, .momentum = 0.9, .nesterov = true}},
    {"rmsprop", {.optimizer = HX_OPTIM_RMSPROP, .alpha = 0.99, .eps = 1e-8}},
    {"rmsprop_centered", {.optimizer = HX_OPTIM_RMSPROP, .alpha = 0.99, .eps = 1e-8, .centered = true, .momentum = 0.9}},
};

/* Row `step` of [20,..] on the device. */
static hx_tensor *row(hx_tensor *all, int step) {
    hx_shape shape = hx_tensor_shape(all);
    hx_tensor *window;
    for (int d = 0; d + 1 < shape.ndim; d++) shape.dims[d] = shape.dims[d + 1];
    shape.ndim--;
    MUST(hx_tensor_window(all, step * hx_shape_count(&shape), shape, &window));
    return window;
}

static void set_gradients(golden_rig *rig, hx_param *const *params, hx_tensor *const *grads, int step) {
    for (int i = 0; i < 2; i++) {
        hx_tensor *g = row(grads[i], step);
        MUST(hx_copy_into(&rig->ctx, g, hx_tensor_grad(params[i]->value)));
        /* the second parameter gets no slope once: moments go on */
        if (i == 1 && step == 7) MUST(hx_tensor_fill(rig->stream, hx_tensor_grad(params[i]->value), 0));
        hx_tensor_destroy(&g);
    }
}

static void compare_step(golden_rig *rig, const char *name, hx_param *const *params, int step, double tolerance) {
    char path[64];
    for (int i = 0; i < 2; i++) {
        golden_array want;
        double got[16];
        hx_tensor *wide;
        int64_t n = hx_tensor_count(params[i]->value);
        snprintf(path, sizeof path, "/optim/%s/param%d", name, i);
        golden_read(path, &want);
        MUST(hx_cast(&rig->ctx, params[i]->value, HX_F64, &wide));
        MUST(hx_tensor_read(rig->stream, wide, got));
        double distance = golden_distance_of(got, want.values + step * n, n);
        cr_expect_leq(distance, tolerance, "%s, update %d, parameter %d: off by %g", name, step + 1, i, distance);
        hx_tensor_destroy(&wide);
        golden_free(&want);
    }
}

static void run_optimizer(golden_rig *rig, int at, hx_dtype dtype, double tolerance) {
    static const char *const names[] = {"a", "b"}, *const starts[] = {"/optim/start0", "/optim/start1"},
                            *const tracks[] = {"/optim/grads0", "/optim/grads1"};
    const hx_optim_config *config = &optimizers[at].config;
    const double lr = config->optimizer == HX_OPTIM_SGD ? 0.1 : 0.01;
    hx_layer *holder;
    hx_param *params[2];
    hx_param_list list;
    hx_tensor *grads[2];
    hx_optim *optim;
    MUST(hx_layer_create(&holder_type, rig->device, &holder));
    for (int i = 0; i < 2; i++) {
        hx_tensor *start = golden_tensor(rig, starts[i], dtype), *grad;
        grads[i] = golden_tensor(rig, tracks[i], dtype);
        MUST(hx_layer_param(holder, names[i], dtype, hx_tensor_shape(start), true, &params[i]));
        MUST(hx_copy_into(&rig->ctx, start, params[i]->value));
        MUST(hx_tensor_create(rig->device, dtype, hx_tensor_shape(start), &grad));
        MUST(hx_tensor_set_grad(params[i]->value, grad));
        hx_tensor_destroy(&grad);
        hx_tensor_destroy(&start);
    }
    MUST(hx_layer_params(holder, &list));
    const hx_param_group groups[2] = {{.params = &params[0], .n_params = 1, .lr_scale = 1, .weight_decay = 0.1},
                                      {.params = &params[1], .n_params = 1, .lr_scale = 0.1, .weight_decay = 0}};
    MUST(hx_optim_create(rig->device, rig->stream, groups, 2, config, &optim));
    for (int step = 0; step < STEPS; step++) {
        set_gradients(rig, params, grads, step);
        MUST(hx_optim_step(optim, &rig->ctx, step + 1, lr, NULL));
        compare_step(rig, optimizers[at].name, params, step, tolerance);
    }
    hx_optim_destroy(&optim);
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&grads[i]);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&holder);
}

static void run_all(const char *backend, hx_dtype dtype, double tolerance) {
    golden_rig rig;
    golden_open(backend, &rig);
    for (size_t i = 0; i < sizeof optimizers / sizeof *optimizers; i++) run_optimizer(&rig, (int)i, dtype, tolerance);
    golden_close(&rig);
}

Test(golden, optimizers_move_as_pytorchs_in_f64) {
    run_all("ref", HX_F64, 1e-12);
    run_all("cpu", HX_F64, 1e-12);
}
Test(golden, optimizers_move_as_pytorchs_in_f32) { run_all("cpu", HX_F32, 3e-6); }

/* ---- schedules ---- */

static void check_schedule(const char *name, const hx_schedule *schedule) {
    char path[64];
    golden_array want;
    snprintf(path, sizeof path, "/schedule/%s", name);
    golden_read(path, &want);
    cr_assert_eq(want.shape.dims[0], RATES);
    for (int t = 0; t < RATES; t++) {
        double rate;
        MUST(hx_schedule_at(schedule, 0.1, t, &rate));
        cr_expect_float_eq(rate, want.values[t], 1e-12, "%s, t = %d: %.17g, expected %.17g", name, t, rate, want.values[t]);
    }
    golden_free(&want);
}

Test(golden, schedules_are_pytorchs) {
    const hx_schedule climb = {HX_SCHEDULE_WARMUP, .length = 5}, fall = {HX_SCHEDULE_COSINE, .length = 20, .end = 0.1};
    const hx_schedule_part parts[] = {{&climb, 4}, {&fall, 0}};
    check_schedule("constant", &(hx_schedule){HX_SCHEDULE_CONSTANT});
    check_schedule("linear", &(hx_schedule){HX_SCHEDULE_LINEAR, .length = 20, .start = 1, .end = 0.2});
    check_schedule("step", &(hx_schedule){HX_SCHEDULE_STEP, .length = 6, .gamma = 0.5});
    check_schedule("exponential", &(hx_schedule){HX_SCHEDULE_EXPONENTIAL, .gamma = 0.9});
    check_schedule("cosine", &(hx_schedule){HX_SCHEDULE_COSINE, .length = 24, .end = 0.1});
    check_schedule("warmup_cosine", &(hx_schedule){HX_SCHEDULE_SEQUENCE, .parts = parts, .n_parts = 2});
}

Test(golden, the_plateau_is_pytorchs) {
    const hx_plateau_config config = {.factor = 0.5, .threshold = 1e-2, .patience = 2, .cooldown = 1, .min_scale = 0.2};
    hx_plateau plateau = HX_PLATEAU_START;
    golden_array want, loss;
    golden_read("/schedule/plateau", &want);
    golden_read("/schedule/plateau_metric", &loss);
    for (int i = 0; i < RATES; i++) {
        hx_plateau_update(&config, &plateau, loss.values[i]);
        cr_expect_float_eq(0.1 * plateau.scale, want.values[i], 1e-12, "evaluation %d: rate %g, expected %g", i, 0.1 * plateau.scale,
                           want.values[i]);
    }
    golden_free(&loss);
    golden_free(&want);
}

/* Losses and their gradients against PyTorch's, in f64 and f32. */
#include <stdio.h>

#include "core/nn/loss.h"
#include "tests/golden/golden.h"

enum { USES_NOTHING, USES_WEIGHTS, USES_POS_WEIGHT };

static const struct {
    const char *name; /* in the file the reduction follows */
    hx_loss_config config;
    int third; /* what the third input is */
} losses[] = {
    {"mse", {.kind = HX_LOSS_MSE}, 0},
    {"l1", {.kind = HX_LOSS_L1}, 0},
    {"smooth_l1", {.kind = HX_LOSS_SMOOTH_L1, .beta = 0.7}, 0},
    {"huber", {.kind = HX_LOSS_HUBER, .delta = 1.5}, 0},
    {"bce", {.kind = HX_LOSS_BCE}, 0},
    {"bce_logits", {.kind = HX_LOSS_BCE_LOGITS}, USES_POS_WEIGHT},
    {"cross_entropy", {.kind = HX_LOSS_CROSS_ENTROPY, .ignore_index = HX_IGNORE_INDEX}, 0},
    {"cross_entropy_weighted", {.kind = HX_LOSS_CROSS_ENTROPY, .ignore_index = HX_IGNORE_INDEX}, USES_WEIGHTS},
    {"cross_entropy_smooth", {.kind = HX_LOSS_CROSS_ENTROPY, .ignore_index = HX_IGNORE_INDEX, .smoothing = 0.1}, 0},
    {"cross_entropy_soft", {.kind = HX_LOSS_CROSS_ENTROPY, .ignore_index = HX_IGNORE_INDEX}, 0},
    {"kl_div", {.kind = HX_LOSS_KL_DIV}, 0},
};

static const struct {
    const char *name;
    hx_reduction reduction;
} reductions[] = {{"none", HX_REDUCE_NONE}, {"mean", HX_REDUCE_MEAN}, {"sum", HX_REDUCE_SUM}, {"batchmean", HX_REDUCE_MEAN}};

static hx_tensor *input(golden_rig *rig, const char *name, int i, hx_dtype dtype) {
    char path[96];
    snprintf(path, sizeof path, "/ops/%s/in%d", name, i);
    return golden_has(path) ? golden_tensor(rig, path, dtype) : NULL;
}

/* Compare and report with a path of the case's group. */
static void near(golden_rig *rig, hx_tensor *got, const char *name, const char *what, double tolerance) {
    char path[96];
    snprintf(path, sizeof path, "/ops/%s/%s", name, what);
    double distance = golden_distance(rig, got, path);
    cr_expect_leq(distance, tolerance, "%s in %s: %s is off by %g", name, hx_dtype_name(hx_tensor_dtype(got)), what, distance);
}

static void check(golden_rig *rig, const char *name, hx_loss_config config, int third, hx_reduction reduction, hx_dtype dtype) {
    const double tolerance = dtype == HX_F64 ? 1e-12 : 4e-6;
    char path[96];
    hx_tensor *in[3], *out, *weight;
    for (int i = 0; i < 3; i++) in[i] = input(rig, name, i, dtype);
    if (third == USES_WEIGHTS) config.weights = in[2];
    if (third == USES_POS_WEIGHT) config.pos_weight = in[2];
    hx_tensor_set_requires_grad(in[0], true);
    MUST(hx_loss(&rig->ctx, &config, in[0], in[1], reduction, &out));
    near(rig, out, name, "out0", tolerance);
    snprintf(path, sizeof path, "/ops/%s/weight0", name);
    weight = golden_tensor(rig, path, hx_tensor_dtype(out));
    MUST(hx_backward(&rig->ctx, out, weight));
    near(rig, hx_tensor_grad(in[0]), name, "grad0", 2 * tolerance);
    hx_tensor_destroy(&weight);
    hx_tensor_destroy(&out);
    for (int i = 0; i < 3; i++) hx_tensor_destroy(&in[i]);
}

static void check_all(const char *backend) {
    golden_rig rig;
    int n_checked = 0;
    golden_open(backend, &rig);
    for (size_t l = 0; l < sizeof losses / sizeof *losses; l++)
        for (size_t r = 0; r < sizeof reductions / sizeof *reductions; r++) {
            char name[64], path[96];
            snprintf(name, sizeof name, "%s_%s", losses[l].name, reductions[r].name);
            snprintf(path, sizeof path, "/ops/%s", name);
            if (!golden_has(path)) continue;
            check(&rig, name, losses[l].config, losses[l].third, reductions[r].reduction, HX_F64);
            check(&rig, name, losses[l].config, losses[l].third, reductions[r].reduction, HX_F32);
            n_checked++;
        }
    cr_expect_eq(n_checked, 29, "%d losses were found", n_checked);
    golden_close(&rig);
}

Test(golden, losses_and_their_gradients_are_pytorchs_on_ref) { check_all("ref"); }
Test(golden, losses_and_their_gradients_are_pytorchs_on_cpu) { check_all("cpu"); }

/* Ten steps of a GPT-2-shaped and of a LLaMA-shaped model, and all gradients of the first, against PyTorch's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/nn/layers.h"
#include "core/optim/optim.h"
#include "tests/golden/golden.h"

enum { STEPS = 10 };

typedef struct figures {
    double first, last; /* bounds of the losses' relative error: first step, any step */
    double gradient;    /* by tensor norm */
} figures;

static const figures f64_figures = {1e-9, 1e-9, 1e-7}, f32_figures = {1e-5, 1e-4, 1e-4};

typedef struct model {
    const char *name;
    hx_layer *gpt;
    hx_param_list params;
    hx_optim *optim;
} model;

/* Element range of logical tensor i of a parameter, in PyTorch's shape. */
static hx_tensor *logical(hx_param *param, hx_tensor *storage, int i, char path[HX_NAME_BYTES]) {
    const hx_layout *layout;
    hx_tensor *window;
    hx_param_logical(param, i, path, &layout);
    cr_assert_eq(layout->n_boxes, 1);
    MUST(hx_tensor_window(storage, layout->boxes[0].local, layout->shape, &window));
    return window;
}

static void load_start(golden_rig *rig, model *m, hx_dtype dtype) {
    for (int64_t p = 0; p < m->params.n_items; p++)
        for (int i = 0; i < hx_param_n_logical(m->params.items[p]); i++) {
            char name[HX_NAME_BYTES], path[HX_NAME_BYTES + 32];
            hx_tensor *into = logical(m->params.items[p], m->params.items[p]->value, i, name);
            snprintf(path, sizeof path, "/%s/start/%s", m->name, name);
            hx_tensor *from = golden_tensor(rig, path, dtype);
            MUST(hx_copy_into(&rig->ctx, from, into));
            hx_tensor_destroy(&from);
            hx_tensor_destroy(&into);
        }
}

static void model_open(golden_rig *rig, const char *name, hx_dtype dtype, model *out) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    *out = (model){.name = name};
    c.vocab = 31, c.ctx = 12, c.dim = 16, c.heads = 4, c.layers = 2;
    c.dtype = dtype == HX_F64 ? 1 : 0;
    if (strcmp(name, "llama") == 0) {
        c.norm = 1 /* rmsnorm */, c.positions = 1 /* rotary */, c.mlp = 1 /* swiglu */;
        c.mlp_dim = 40, c.kv_heads = 2;
        c.bias = c.tied = false;
    }
    MUST(hx_gpt_create(rig->device, &c, &out->gpt));
    MUST(hx_layer_params(out->gpt, &out->params));
    load_start(rig, out, dtype);
    hx_optim_config config = HX_OPTIM_DEFAULT;
    config.beta1 = 0.9, config.beta2 = 0.95, config.eps = 1e-8;
    const hx_param_group all = {
        .params = out->params.items, .n_params = out->params.n_items, .lr_scale = 1, .weight_decay = 0.1};
    MUST(hx_optim_create(rig->device, rig->stream, &all, 1, &config, &out->optim));
}

static void model_close(model *m) {
    hx_optim_destroy(&m->optim);
    hx_param_list_destroy(&m->params);
    hx_layer_destroy(&m->gpt);
}

/* [B,T] of step `step` out of [10,B,T] */
static hx_tensor *batch_of(golden_rig *rig, const char *name, const char *what, int step) {
    char path[64];
    hx_tensor *part, *ids;
    snprintf(path, sizeof path, "/%s/%s", name, what);
    hx_tensor *all = golden_tensor(rig, path, HX_I64);
    hx_shape shape = HX_SHAPE(hx_tensor_dim(all, 1), hx_tensor_dim(all, 2));
    MUST(hx_tensor_window(all, step * hx_shape_count(&shape), shape, &part));
    MUST(hx_cast(&(hx_ctx){.device = rig->device, .stream = rig->stream}, part, HX_I64, &ids));
    hx_tensor_destroy(&part);
    hx_tensor_destroy(&all);
    return ids;
}

/* A shift of all keys does not change a softmax: the true gradient is 0, and both sides hold rounding only. */
static bool is_zero(const char *name) { return strstr(name, "attn.k.bias") != NULL; }

static void check_gradients(golden_rig *rig, model *m, double count, const figures *f) {
    for (int64_t p = 0; p < m->params.n_items; p++)
        for (int i = 0; i < hx_param_n_logical(m->params.items[p]); i++) {
            char name[HX_NAME_BYTES], path[HX_NAME_BYTES + 32];
            hx_tensor *grad = logical(m->params.items[p], hx_tensor_grad(m->params.items[p]->value), i, name);
            hx_ctx quiet = hx_no_grad(&rig->ctx);
            hx_tensor *mean;
            snprintf(path, sizeof path, "/%s/grad/%s", m->name, name);
            MUST(hx_affine(&quiet, grad, 1 / count, 0, &mean));
            golden_array want;
            golden_read(path, &want);
            double size = 0, distance = golden_distance(rig, mean, path);
            for (int64_t k = 0; k < hx_shape_count(&want.shape); k++) size += want.values[k] * want.values[k];
            if (is_zero(name)) distance *= sqrt(size);
            cr_expect_leq(distance, f->gradient, "%s: the gradient of %s is off by %g", m->name, name, distance);
            golden_free(&want);
            hx_tensor_destroy(&mean);
            hx_tensor_destroy(&grad);
        }
}

static double step_once(golden_rig *rig, model *m, int step, const figures *f) {
    hx_tensor *ids = batch_of(rig, m->name, "tokens", step), *targets = batch_of(rig, m->name, "targets", step);
    hx_tensor *logits, *sum, *count, *gscale;
    double loss, n;
    for (int64_t p = 0; p < m->params.n_items; p++) hx_tensor_grad_reset(m->params.items[p]->value);
    MUST(hx_layer_forward(m->gpt, &rig->ctx, ids, &logits));
    MUST(hx_cross_entropy(&rig->ctx, logits, targets, HX_IGNORE_INDEX, &sum, &count));
    MUST(hx_tensor_item(rig->stream, sum, &loss));
    MUST(hx_tensor_item(rig->stream, count, &n));
    MUST(hx_backward(&rig->ctx, sum, NULL));
    if (step == 0) check_gradients(rig, m, n, f);
    MUST(hx_tensor_create(rig->device, HX_F64, HX_SCALAR, &gscale));
    MUST(hx_tensor_fill(rig->stream, gscale, 1 / n));
    MUST(hx_optim_step(m->optim, &rig->ctx, step + 1, 3e-3, gscale));
    hx_tensor *used[] = {gscale, count, sum, logits, targets, ids};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++) hx_tensor_destroy(&used[i]);
    return loss / n;
}

static void check(const char *backend, const char *name, hx_dtype dtype, const figures *f) {
    golden_rig rig;
    golden_array want;
    model m;
    char path[32];
    double worst = 0;
    golden_open(backend, &rig);
    model_open(&rig, name, dtype, &m);
    snprintf(path, sizeof path, "/%s/losses", name);
    golden_read(path, &want);
    for (int step = 0; step < STEPS; step++) {
        double loss = step_once(&rig, &m, step, f), error = fabs(loss - want.values[step]) / want.values[step];
        cr_expect(error <= (step == 0 ? f->first : f->last), "%s in %s, step %d: loss %.17g, expected %.17g", name,
                  hx_dtype_name(dtype), step, loss, want.values[step]);
        worst = fmax(worst, error);
    }
    printf("%s on %s in %s: losses of %d steps within %.2g\n", name, backend, hx_dtype_name(dtype), STEPS, worst);
    golden_free(&want);
    model_close(&m);
    golden_close(&rig);
}

Test(golden, a_gpt_trains_as_pytorchs_in_f64) {
    check("ref", "gpt", HX_F64, &f64_figures);
    check("cpu", "gpt", HX_F64, &f64_figures);
}
Test(golden, a_gpt_trains_as_pytorchs_in_f32) { check("cpu", "gpt", HX_F32, &f32_figures); }
Test(golden, a_llama_trains_as_pytorchs_in_f64) {
    check("ref", "llama", HX_F64, &f64_figures);
    check("cpu", "llama", HX_F64, &f64_figures);
}
Test(golden, a_llama_trains_as_pytorchs_in_f32) { check("cpu", "llama", HX_F32, &f32_figures); }

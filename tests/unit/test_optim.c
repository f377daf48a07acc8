/* The optimizers: reference trajectories, parameter groups, master weights, state. */
#include "core/optim/optim.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(optim, .init = fixture_open, .fini = fixture_close);

/* A layer whose bias is the vector to be optimised and whose weight [n,1] stays aside. */
static hx_layer *vector(int64_t n, const double *bias) {
    hx_layer *layer;
    hx_param_list list = {0};
    OK(hx_linear_create(dev, HX_F64, 1, n, true, &layer));
    OK(hx_layer_params(layer, &list));
    OK(hx_tensor_fill(stream, list.items[0]->value, 1));
    OK(hx_tensor_write(stream, list.items[1]->value, bias));
    hx_param_list_destroy(&list);
    return layer;
}

static void set_grad(hx_param *param, const double *values) {
    if (hx_tensor_grad(param->value) == NULL) {
        HX_AUTO_TENSOR g = NULL;
        OK(hx_tensor_create(dev, HX_F64, hx_tensor_shape(param->value), &g));
        OK(hx_tensor_set_grad(param->value, g));
    }
    OK(hx_tensor_write(stream, hx_tensor_grad(param->value), values));
}

static hx_optim_config config_of(hx_optim_kind kind) {
    hx_optim_config c = HX_OPTIM_DEFAULT;
    c.optimizer = (int)kind;
    return c;
}

static hx_param_group group_of(hx_layer *layer, double weight_decay) {
    return (hx_param_group){.params = &layer->params[1], .n_params = 1, .lr_scale = 1, .weight_decay = weight_decay};
}

/* Five updates with g_t = [0.1 t, -0.2, 0.3 (-1)^t] scaled by 1/grad_scale. */
static void run_table(hx_optim *optim, hx_param *param, double lr, double grad_scale, hx_tensor *gscale) {
    for (int t = 1; t <= 5; t++) {
        const double g[3] = {0.1 * t / grad_scale, -0.2 / grad_scale, (t % 2 ? -0.3 : 0.3) / grad_scale};
        set_grad(param, g);
        OK(hx_optim_step(optim, &ctx, t, lr, gscale));
    }
}

static void expect_values(hx_param *param, const double *expected, int n, const char *what) {
    double *got = values_of(param->value);
    for (int i = 0; i < n; i++)
        cr_expect_float_eq(got[i], expected[i], 1e-8, "%s, element %d: %.12f, expected %.12f", what, i, got[i], expected[i]);
    free(got);
}

/* Parameters after five updates from [1, -2, 0.5], by PyTorch 1.13 in f64; Lion's by hand from the paper. */
static const struct {
    const char *name;
    hx_optim_config c;
    double lr, weight_decay, expected[3];
} table[] = {
#define ROW(...) {.optimizer = __VA_ARGS__, .eps = 1e-8, .alpha = 0.99}
    {"adamw", ROW(HX_OPTIM_ADAMW, .beta1 = 0.9, .beta2 = 0.999), 0.01, 0.01, {0.951001564136, -1.949010201480, 0.514095041401}},
    {"adam", ROW(HX_OPTIM_ADAM, .beta1 = 0.9, .beta2 = 0.999), 0.01, 0.01, {0.951314118003, -1.950001977347, 0.513696655387}},
    {"sgd with Nesterov", ROW(HX_OPTIM_SGD, .momentum = 0.9, .nesterov = true), 0.1, 0.01, {0.549112826624, -1.631251748333, 0.587591460741}},
    {"sgd with dampening", ROW(HX_OPTIM_SGD, .momentum = 0.9, .dampening = 0.5), 0.1, 0, {0.821009, -1.827608, 0.598418}},
    {"sgd", ROW(HX_OPTIM_SGD), 0.1, 0.01, {0.845209840065, -1.890219780110, 0.527445114913}},
    {"rmsprop", ROW(HX_OPTIM_RMSPROP), 0.01, 0, {0.589117093910, -1.675539555312, 0.581930849490}},
    {"rmsprop, centered with momentum", ROW(HX_OPTIM_RMSPROP, .centered = true, .momentum = 0.9), 0.01, 0, {-0.153545860964, -1.038565251525, 0.774795624985}},
    {"rmsprop with momentum and decay", ROW(HX_OPTIM_RMSPROP, .momentum = 0.9), 0.01, 0.1, {-0.077712048499, -1.068597457086, 0.679761507426}},
    {"lion", ROW(HX_OPTIM_LION, .beta1 = 0.9, .beta2 = 0.99), 0.01, 0.1, {0.945109890055, -1.940119880060, 0.507485034973}},
#undef ROW
};

/* With gradients `grad_scale` times too small or large, put right by gscale unless it is NULL. */
static void check_table(double grad_scale, hx_tensor *gscale) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        hx_layer *layer = vector(3, (double[]){1, -2, 0.5});
        const hx_param_group group = group_of(layer, table[i].weight_decay);
        hx_optim *optim;
        OK(hx_optim_create(dev, stream, &group, 1, &table[i].c, &optim));
        run_table(optim, layer->params[1], table[i].lr, grad_scale, gscale);
        expect_values(layer->params[1], table[i].expected, 3, table[i].name);
        hx_optim_destroy(&optim);
        hx_layer_destroy(&layer);
    }
}

Test(optim, every_optimizer_follows_its_reference_trajectory) { check_table(1, NULL); }

Test(optim, every_optimizer_multiplies_gradients_by_gscale) {
    HX_AUTO_TENSOR gscale = NULL;
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &gscale));
    OK(hx_tensor_fill(stream, gscale, 0.125));
    check_table(0.125, gscale);
}

Test(optim, the_defaults_are_those_of_adamw_in_pytorch) {
    const hx_optim_config c = HX_OPTIM_DEFAULT;
    cr_expect_eq(c.optimizer, HX_OPTIM_ADAMW);
    cr_expect(c.lr == 1e-3 && c.beta1 == 0.9 && c.beta2 == 0.999 && c.eps == 1e-8 && c.weight_decay == 0.01);
}

/* With a zero gradient only the decay acts: p <- p (1 - lr lr_scale wd). */
Test(optim, groups_have_their_own_rate_and_decay) {
    hx_layer *layer = vector(2, (double[]){1, 1});
    hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_optim *optim;
    const hx_param_group groups[2] = {
        {.params = &layer->params[0], .n_params = 1, .lr_scale = 1, .weight_decay = 0.1},
        {.params = &layer->params[1], .n_params = 1, .lr_scale = 0.5, .weight_decay = 0.4}};
    OK(hx_optim_create(dev, stream, groups, 2, &c, &optim));
    for (int i = 0; i < 2; i++) set_grad(layer->params[i], (double[]){0, 0});
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    double *a = values_of(layer->params[0]->value), *b = values_of(layer->params[1]->value);
    cr_expect_float_eq(a[0], 1 - 0.1 * 0.1, 1e-15);
    cr_expect_float_eq(b[0], 1 - 0.1 * 0.5 * 0.4, 1e-15);
    free(a);
    free(b);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

/* A group of its own momentum keeps a buffer, the other none: p1 = -lr g, p2 = p1 - lr (m g + g). */
Test(optim, groups_may_have_their_own_hyperparameters) {
    hx_layer *layer = vector(2, (double[]){0, 0});
    hx_optim_config c = config_of(HX_OPTIM_SGD), own = c;
    hx_param_list list = {0};
    hx_state_list state = {0};
    hx_optim *optim;
    own.momentum = 0.5;
    const hx_param_group groups[2] = {{.params = &layer->params[0], .n_params = 1, .lr_scale = 1},
                                      {.params = &layer->params[1], .n_params = 1, .lr_scale = 1, .config = &own}};
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create(dev, stream, groups, 2, &c, &optim));
    own.momentum = 0; /* the optimizer has a copy */
    for (int i = 0; i < 2; i++) set_grad(layer->params[i], (double[]){1, 2});
    for (int t = 1; t <= 2; t++) OK(hx_optim_step(optim, &ctx, t, 0.1, NULL));
    expect_values(layer->params[0], (double[]){0.8, 0.6}, 2, "without momentum");
    expect_values(layer->params[1], (double[]){-0.25, -0.5}, 2, "with momentum");
    OK(hx_optim_state(optim, NULL, &state));
    cr_assert_eq(state.n_items, 1);
    cr_expect_str_eq(state.items[0].name, "/optim/momentum/bias");
    hx_state_list_destroy(&state);
    hx_optim_destroy(&optim);
    own.optimizer = HX_OPTIM_LION;
    FAILS(hx_optim_create(dev, stream, groups, 2, &c, &optim), HX_ERR_CONFIG);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(optim, the_usual_groups_decay_matrices_only) {
    hx_layer *layer = vector(2, (double[]){1, 1});
    hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_param_list list = {0};
    hx_optim *optim;
    c.weight_decay = 0.5;
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create_default(dev, stream, &list, &c, &optim));
    for (int i = 0; i < 2; i++) set_grad(layer->params[i], (double[]){0, 0});
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    double *a = values_of(layer->params[0]->value), *b = values_of(layer->params[1]->value);
    cr_expect_float_eq(a[0], 0.95, 1e-15);
    cr_expect_eq(b[0], 1);
    free(a);
    free(b);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, a_frozen_parameter_stays_and_needs_no_gradient) {
    hx_layer *layer = vector(2, (double[]){3, 4});
    hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_param_list list = {0};
    hx_optim *optim;
    layer->params[1]->is_frozen = true;
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create_default(dev, stream, &list, &c, &optim));
    set_grad(layer->params[0], (double[]){1, 1});
    OK(hx_optim_step(optim, &ctx, 1, 0.1, NULL));
    double *b = values_of(layer->params[1]->value);
    cr_expect(b[0] == 3 && b[1] == 4);
    free(b);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, a_parameter_without_gradient_is_named_and_nothing_is_updated) {
    hx_layer *layer = vector(2, (double[]){3, 4});
    hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_param_list list = {0};
    hx_optim *optim;
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create_default(dev, stream, &list, &c, &optim));
    set_grad(layer->params[0], (double[]){1, 1});
    FAILS(hx_optim_step(optim, &ctx, 1, 0.1, NULL), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "bias") != NULL, "%s", hx_error_message());
    double *a = values_of(layer->params[0]->value);
    cr_expect_eq(a[0], 1);
    free(a);
    FAILS(hx_optim_step(optim, &ctx, 0, 0.1, NULL), HX_ERR_ARG);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

Test(optim, state_is_listed_under_the_logical_names) {
    static const char *const names[] = {"/optim/m/q.weight",    "/optim/m/k.weight",   "/optim/m/v.weight",
                                        "/optim/m/proj.weight", "/optim/v/q.weight",   "/optim/v/k.weight",
                                        "/optim/v/v.weight",    "/optim/v/proj.weight"};
    hx_layer *layer;
    hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_param_list list = {0};
    hx_state_list state = {0};
    hx_optim *optim;
    OK(hx_attention_create(dev, HX_F64, 8, 4, 2, false, &layer));
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create_default(dev, stream, &list, &c, &optim));
    OK(hx_optim_state(optim, &(hx_agreement){.rank = 1, .size = 2}, &state));
    cr_assert_eq(state.n_items, 8);
    for (int i = 0; i < 8; i++) {
        cr_expect_str_eq(state.items[i].name, names[i]);
        cr_expect(state.items[i].replica == 1 && state.items[i].n_replicas == 2);
        cr_expect_eq(state.items[i].dtype, HX_F64);
    }
    cr_expect_eq(state.items[0].data, state.items[2].data, "q, k and v share one tensor");
    cr_expect_eq(state.items[1].layout->boxes[0].local, 64, "k follows the 8 rows of q");
    cr_expect_eq(*(double *)state.items[0].data, 0, "moments start at zero");
    hx_state_list_destroy(&state);
    hx_param_list_destroy(&list);
    hx_optim_destroy(&optim);
    hx_layer_destroy(&layer);
}

/* Slots of each optimizer as far as its configuration needs them. */
Test(optim, slots_are_named_in_the_state) {
    static const struct {
        hx_optim_config c;
        const char *names[4];
    } rows[] = {{{.optimizer = HX_OPTIM_ADAM}, {"/optim/m/bias", "/optim/v/bias"}},
                {{.optimizer = HX_OPTIM_SGD}, {NULL}},
                {{.optimizer = HX_OPTIM_SGD, .momentum = 0.9}, {"/optim/momentum/bias"}},
                {{.optimizer = HX_OPTIM_RMSPROP}, {"/optim/v/bias"}},
                {{.optimizer = HX_OPTIM_RMSPROP, .momentum = 0.9}, {"/optim/v/bias", "/optim/momentum/bias"}},
                {{.optimizer = HX_OPTIM_RMSPROP, .momentum = 0.9, .centered = true},
                 {"/optim/v/bias", "/optim/mean/bias", "/optim/momentum/bias"}},
                {{.optimizer = HX_OPTIM_LION}, {"/optim/m/bias"}}};
    hx_layer *layer = vector(2, (double[]){0, 0});
    const hx_param_group group = group_of(layer, 0);
    hx_param_list list = {0};
    OK(hx_layer_params(layer, &list));
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        hx_state_list state = {0};
        hx_optim *optim;
        int n = 0;
        OK(hx_optim_create(dev, stream, &group, 1, &rows[r].c, &optim));
        OK(hx_optim_state(optim, NULL, &state));
        for (; rows[r].names[n]; n++) cr_expect(n < state.n_items && strcmp(state.items[n].name, rows[r].names[n]) == 0);
        cr_expect_eq(state.n_items, n, "row %zu", r);
        hx_state_list_destroy(&state);
        hx_optim_destroy(&optim);
    }
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

/* ---- master weights ---- */

/* A vector in half precision with a gradient in f32. */
static hx_layer *half_vector(hx_dtype dtype, double value, double gradient) {
    hx_layer *layer;
    HX_AUTO_TENSOR g = NULL;
    OK(hx_linear_create(dev, dtype, 1, 3, true, &layer));
    for (int i = 0; i < 2; i++) OK(hx_tensor_fill(stream, layer->params[i]->value, value));
    OK(hx_tensor_create(dev, HX_F32, HX_SHAPE(3), &g));
    OK(hx_tensor_fill(stream, g, gradient));
    OK(hx_tensor_set_grad(layer->params[1]->value, g));
    return layer;
}

static double first_of(hx_tensor *x) {
    HX_AUTO_TENSOR as_f64 = NULL;
    OK(hx_cast(&ctx, x, HX_F64, &as_f64));
    double *values = values_of(as_f64), first = values[0];
    free(values);
    return first;
}

/* Steps of 2^-11, an eighth of what bf16 can tell from 1, are lost without a master: it adds them up. */
static void check_master(hx_dtype dtype) {
    hx_layer *layer = half_vector(dtype, 1, -0x1p-11);
    hx_param *bias = layer->params[1];
    const hx_param_group group = group_of(layer, 0);
    const hx_optim_config c = config_of(HX_OPTIM_SGD);
    hx_param_list list = {0};
    hx_state_list state = {0};
    hx_optim *optim;
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create(dev, stream, &group, 1, &c, &optim));
    OK(hx_optim_state(optim, NULL, &state));
    cr_assert_eq(state.n_items, 1);
    cr_expect_str_eq(state.items[0].name, "/optim/master/bias");
    cr_expect_eq(state.items[0].dtype, HX_F32);
    for (int t = 1; t <= 3; t++) OK(hx_optim_step(optim, &ctx, t, 1, NULL));
    cr_expect_eq(*(float *)state.items[0].data, 1 + 3 * 0x1p-11f);
    cr_expect_eq(first_of(bias->value), dtype == HX_BF16 ? 1 : 1 + 2 * 0x1p-10, "rounded to nearest even");
    for (int t = 4; t <= 16; t++) OK(hx_optim_step(optim, &ctx, t, 1, NULL));
    cr_expect_eq(first_of(bias->value), 1 + 16 * 0x1p-11);
    cr_expect_eq(hx_tensor_dtype(bias->value), dtype);
    hx_state_list_destroy(&state);
    hx_optim_destroy(&optim);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(optim, a_bf16_parameter_is_updated_through_an_f32_master) { check_master(HX_BF16); }
Test(optim, an_f16_parameter_is_updated_through_an_f32_master) { check_master(HX_F16); }

Test(optim, moments_of_half_parameters_are_f32) {
    hx_layer *layer = half_vector(HX_BF16, 1, 1);
    const hx_param_group group = group_of(layer, 0);
    const hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_param_list list = {0};
    hx_state_list state = {0};
    hx_optim *optim;
    OK(hx_layer_params(layer, &list));
    OK(hx_optim_create(dev, stream, &group, 1, &c, &optim));
    OK(hx_optim_step(optim, &ctx, 1, 0.25, NULL));
    cr_expect_eq(first_of(layer->params[1]->value), 0.75);
    OK(hx_optim_state(optim, NULL, &state));
    cr_assert_eq(state.n_items, 3);
    for (int i = 0; i < 3; i++) cr_expect_eq(state.items[i].dtype, HX_F32);
    cr_expect_str_eq(state.items[2].name, "/optim/master/bias");
    hx_state_list_destroy(&state);
    hx_optim_destroy(&optim);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(optim, groups_and_numbers_without_meaning_are_refused) {
    hx_layer *layer = vector(2, (double[]){0, 0});
    hx_optim_config c = config_of(HX_OPTIM_ADAMW);
    hx_optim *optim = NULL;
    hx_param *twice[2] = {layer->params[0], layer->params[0]};
    hx_param_group group = {.params = twice, .n_params = 2, .lr_scale = 1};
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    group.n_params = 1;
    FAILS(hx_optim_create(dev, stream, &group, 0, &c, &optim), HX_ERR_ARG);
    group.lr_scale = NAN;
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    group.lr_scale = 1;
    c.beta2 = 1;
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    c = config_of(HX_OPTIM_SGD);
    c.nesterov = true; /* without momentum */
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    c.momentum = 0.9;
    c.dampening = 0.1;
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    c = config_of(HX_OPTIM_COUNT);
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    c = config_of(HX_OPTIM_ADAMW);
    c.clip_value = 1; /* beside clip = 1 */
    FAILS(hx_optim_create(dev, stream, &group, 1, &c, &optim), HX_ERR_CONFIG);
    cr_expect_null(optim);
    hx_layer_destroy(&layer);
}

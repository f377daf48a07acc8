/* Norms of gradients over all parameters, and clipping by norm and by value. */
#include "core/optim/optim.h"
#include "tests/unit/test_layer_fixture.h"

/* A layer [3,1] + [3] with a gradient for each, and a third parameter that is frozen and has a gradient that must
 * not count. */
static hx_layer *layer, *frozen, *both;
static hx_param_list params;

static void set_grad(hx_param *param, const double *values) {
    HX_AUTO_TENSOR g = NULL;
    OK(hx_tensor_create(dev, HX_F64, hx_tensor_shape(param->value), &g));
    OK(hx_tensor_write(stream, g, values));
    OK(hx_tensor_set_grad(param->value, g));
}

static void open_clip(void) {
    fixture_open();
    OK(hx_linear_create(dev, HX_F64, 1, 2, true, &layer));
    OK(hx_linear_create(dev, HX_F64, 1, 2, false, &frozen));
    OK(hx_sequential_create_consume(dev, (hx_layer *[]){layer, frozen}, 2, &both));
    frozen->params[0]->is_frozen = true;
    OK(hx_layer_params(both, &params));
    set_grad(layer->params[0], (double[]){1, -2});
    set_grad(layer->params[1], (double[]){0, 4});
    set_grad(frozen->params[0], (double[]){1000, 1000});
}

static void close_clip(void) {
    hx_param_list_destroy(&params);
    hx_layer_destroy(&both);
    fixture_close();
}

TestSuite(clip, .init = open_clip, .fini = close_clip);

static void expect_grad(const hx_param *param, double a, double b, double tolerance) {
    double *g = values_of(hx_tensor_grad(param->value));
    cr_expect_float_eq(g[0], a, tolerance, "%.9g, expected %.9g", g[0], a);
    cr_expect_float_eq(g[1], b, tolerance, "%.9g, expected %.9g", g[1], b);
    free(g);
}

Test(clip, parts_span_all_trained_parameters_for_each_norm) {
    static const struct {
        double p, part, norm;
    } rows[] = {{1, 7, 7}, {2, 21, 4.58257569495584}, {HUGE_VAL, 4, 4}};
    HX_AUTO_TENSOR part = NULL;
    double value;
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part));
    for (int i = 0; i < 3; i++) {
        OK(hx_tensor_fill(stream, part, 99));
        OK(hx_grad_norm_part(&ctx, &params, rows[i].p, part));
        OK(hx_tensor_item(stream, part, &value));
        cr_expect_eq(value, rows[i].part);
        cr_expect_float_eq(hx_grad_norm_of_part(rows[i].p, value), rows[i].norm, 1e-14);
    }
    FAILS(hx_grad_norm_part(&ctx, &params, 3, part), HX_ERR_ARG);
}

Test(clip, three_and_four_become_the_published_pair) {
    double norm;
    set_grad(layer->params[0], (double[]){0, 0});
    set_grad(layer->params[1], (double[]){3, 4});
    OK(hx_clip_grad_norm(&ctx, &params, 1, 2, &norm));
    cr_expect_eq(norm, 5);
    expect_grad(layer->params[1], 3 / 5.000001, 4 / 5.000001, 1e-15);
    expect_grad(layer->params[1], 0.6, 0.8, 1e-6);
    expect_grad(frozen->params[0], 1000, 1000, 0);
}

Test(clip, other_norms_clip_too) {
    double norm;
    OK(hx_clip_grad_norm(&ctx, &params, 3.5, 1, &norm));
    cr_expect_eq(norm, 7);
    expect_grad(layer->params[0], 0.5, -1, 1e-6);
    OK(hx_clip_grad_norm(&ctx, &params, 1, HUGE_VAL, NULL));
    expect_grad(layer->params[1], 0, 1, 1e-6);
}

Test(clip, gradients_within_the_bound_keep_their_bits) {
    OK(hx_clip_grad_norm(&ctx, &params, 7, 1, NULL));
    expect_grad(layer->params[0], 1, -2, 0);
    cr_expect_eq(hx_clip_factor(7, 7), 1);
    cr_expect_eq(hx_clip_factor(8, 4), 4 / 8.000001);
}

Test(clip, values_are_limited_on_both_sides) {
    set_grad(layer->params[1], (double[]){NAN, 4});
    OK(hx_clip_grad_value(&ctx, &params, 1.5));
    expect_grad(layer->params[0], 1, -1.5, 0);
    double *g = values_of(hx_tensor_grad(layer->params[1]->value));
    cr_expect(isnan(g[0]) && g[1] == 1.5);
    free(g);
    expect_grad(frozen->params[0], 1000, 1000, 0);
}

Test(clip, a_norm_that_is_not_finite_is_an_error_and_changes_nothing) {
    double norm = -1;
    set_grad(layer->params[1], (double[]){INFINITY, 4});
    FAILS(hx_clip_grad_norm(&ctx, &params, 1, 2, &norm), HX_ERR_NUMERIC);
    FAILS(hx_clip_grad_norm(&ctx, &params, 1, HUGE_VAL, &norm), HX_ERR_NUMERIC);
    cr_expect_eq(norm, -1);
    expect_grad(layer->params[0], 1, -2, 0);
}

Test(clip, a_missing_gradient_is_named_and_bad_bounds_are_refused) {
    HX_AUTO_TENSOR part = NULL;
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part));
    FAILS(hx_clip_grad_norm(&ctx, &params, -1, 2, NULL), HX_ERR_ARG);
    FAILS(hx_clip_grad_value(&ctx, &params, NAN), HX_ERR_ARG);
    OK(hx_tensor_set_grad(layer->params[1]->value, NULL));
    FAILS(hx_grad_norm_part(&ctx, &params, 2, part), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "0.bias") != NULL, "%s", hx_error_message());
    FAILS(hx_clip_grad_value(&ctx, &params, 1), HX_ERR_STATE);
}

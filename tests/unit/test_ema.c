/* Averages of weights: their recursion, taking the parameters' place, half types, state. */
#include "core/optim/ema.h"
#include "tests/unit/test_layer_fixture.h"

static hx_layer *layer;
static hx_param_list params;
static hx_ema *ema;

static void open_layer(hx_dtype dtype) {
    OK(hx_linear_create(dev, dtype, 1, 1, true, &layer));
    layer->params[1]->is_frozen = true;
    OK(hx_layer_params(layer, &params));
    for (int i = 0; i < 2; i++) OK(hx_tensor_fill(stream, layer->params[i]->value, 1));
    OK(hx_ema_create(&ctx, &params, 0.3, &ema));
}

static void close_layer(void) {
    hx_ema_destroy(&ema);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&layer);
    fixture_close();
}

TestSuite(ema, .init = fixture_open, .fini = close_layer);

static double weight(void) {
    double value;
    OK(hx_tensor_item(stream, layer->params[0]->value, &value));
    return value;
}

static void set_weight(double value) { OK(hx_tensor_fill(stream, layer->params[0]->value, value)); }

/* d = 1/10, 2/11, 3/12, then 0.3 when (1 + t)/(10 + t) exceeds it. */
Test(ema, follows_its_recursion_from_a_quick_start) {
    double expected = 1;
    open_layer(HX_F64);
    for (int step = 1; step <= 8; step++) {
        const double d = fmin(0.3, step / (9.0 + step));
        set_weight(step * step);
        OK(hx_ema_update(ema, &ctx, step));
        expected = d * expected + (1 - d) * step * step;
    }
    OK(hx_ema_swap(ema, &ctx));
    cr_expect_float_eq(weight(), expected, 1e-13);
}

Test(ema, swapping_twice_restores_the_bits) {
    open_layer(HX_F64);
    set_weight(0.1);
    OK(hx_ema_update(ema, &ctx, 1));
    OK(hx_ema_swap(ema, &ctx));
    cr_expect(hx_ema_is_swapped(ema));
    cr_expect_neq(weight(), 0.1);
    FAILS(hx_ema_update(ema, &ctx, 2), HX_ERR_STATE);
    OK(hx_ema_swap(ema, &ctx));
    cr_expect_not(hx_ema_is_swapped(ema));
    cr_expect_eq(weight(), 0.1);
    OK(hx_ema_update(ema, &ctx, 2));
}

/* The average of 1 and 1 + 2^-7 lies between neighbours in bf16: the shadow keeps it, the parameter gets it rounded. */
Test(ema, shadows_of_half_parameters_are_f32) {
    hx_state_list list = {0};
    open_layer(HX_BF16);
    set_weight(1 + 0x1p-7);
    OK(hx_ema_update(ema, &ctx, 100));
    OK(hx_ema_state(ema, NULL, &list));
    cr_assert_eq(list.n_items, 1);
    cr_expect_eq(list.items[0].dtype, HX_F32);
    const float shadow = *(float *)list.items[0].data;
    cr_expect_float_eq(shadow, 1 + 0.7 * 0x1p-7, 1e-7);
    OK(hx_ema_swap(ema, &ctx));
    cr_expect_eq(weight(), 1 + 0x1p-7, "%.9g", weight());
    OK(hx_ema_swap(ema, &ctx));
    cr_expect_eq(*(float *)list.items[0].data, shadow, "the shadow keeps its bits");
    hx_state_list_destroy(&list);
}

Test(ema, frozen_parameters_have_no_average_and_stay) {
    hx_state_list list = {0};
    double bias;
    open_layer(HX_F64);
    OK(hx_ema_state(ema, &(hx_agreement){.rank = 2, .size = 3}, &list));
    cr_assert_eq(list.n_items, 1);
    cr_expect_str_eq(list.items[0].name, "/ema/weight");
    cr_expect(list.items[0].replica == 2 && list.items[0].n_replicas == 3);
    OK(hx_tensor_fill(stream, layer->params[1]->value, 5));
    OK(hx_ema_update(ema, &ctx, 1));
    OK(hx_ema_swap(ema, &ctx));
    OK(hx_tensor_item(stream, layer->params[1]->value, &bias));
    cr_expect_eq(bias, 5);
    hx_state_list_destroy(&list);
}

Test(ema, numbers_without_meaning_are_refused) {
    hx_ema *none = NULL;
    open_layer(HX_F64);
    FAILS(hx_ema_create(&ctx, &params, 1, &none), HX_ERR_CONFIG);
    FAILS(hx_ema_create(&ctx, &params, NAN, &none), HX_ERR_CONFIG);
    FAILS(hx_ema_update(ema, &ctx, 0), HX_ERR_ARG);
    cr_expect_null(none);
}

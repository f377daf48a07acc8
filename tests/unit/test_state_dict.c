/* State dicts: names, views and copies, strict and partial loading, freezing. */
#include "core/nn/state_dict.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(state_dict, .init = fixture_open, .fini = fixture_close);

static hx_layer *model_of(hx_dtype dtype, int64_t dim, uint64_t seed) {
    hx_layer *parts[3] = {0}, *model = NULL;
    OK(hx_linear_create(dev, dtype, 3, dim, true, &parts[0]));
    OK(hx_attention_create(dev, dtype, dim, 2, 1, false, &parts[1]));
    OK(hx_layernorm_create(dev, dtype, dim, 0, &parts[2]));
    OK(hx_sequential_create_consume(dev, parts, 3, &model));
    OK(hx_layer_init(model, stream, seed));
    return model;
}

static const char *const names[] = {"0.weight",   "0.bias",        "1.q.weight", "1.k.weight",
                                    "1.v.weight", "1.proj.weight", "2.weight",   "2.bias"};
enum { N_NAMES = sizeof names / sizeof *names };

static bool same(hx_tensor *a, hx_tensor *b) {
    double *x = values_of(a), *y = values_of(b);
    const bool equal = hx_tensor_bytes(a) == hx_tensor_bytes(b) && memcmp(x, y, hx_tensor_bytes(a)) == 0;
    free(x);
    free(y);
    return equal;
}

static void expect_equal(hx_layer *a, hx_layer *b, bool equal) {
    hx_state_dict x = {0}, y = {0};
    OK(hx_state_dict_get(a, stream, NULL, &x));
    OK(hx_state_dict_get(b, stream, NULL, &y));
    bool all = x.n_items == y.n_items;
    for (int64_t i = 0; all && i < x.n_items; i++) all = same(x.items[i].tensor, y.items[i].tensor);
    cr_expect_eq(all, equal);
    hx_state_dict_destroy(&x);
    hx_state_dict_destroy(&y);
}

Test(state_dict, holds_the_logical_tensors_by_name) {
    hx_layer *model = model_of(HX_F64, 4, 1);
    hx_state_dict dict = {0};
    OK(hx_state_dict_get(model, stream, NULL, &dict));
    cr_assert_eq(dict.n_items, N_NAMES);
    for (int i = 0; i < N_NAMES; i++) cr_expect_str_eq(dict.items[i].name, names[i]);
    hx_shape k = hx_tensor_shape(hx_state_dict_find(&dict, "1.k.weight"));
    cr_expect(hx_shape_equal(&k, &HX_SHAPE(2, 4)));
    cr_expect_null(hx_state_dict_find(&dict, "1.weight"),
                   "the storage that q, k and v share has no name of its own");
    hx_state_dict_destroy(&dict);
    hx_layer_destroy(&model);
}

Test(state_dict, views_follow_the_model_and_copies_do_not) {
    hx_layer *model = model_of(HX_F64, 4, 1);
    hx_state_dict views = {0}, copies = {0};
    OK(hx_state_dict_get(model, stream, NULL, &views));
    OK(hx_state_dict_get(model, stream, dev, &copies));
    OK(hx_layer_init(model, stream, 2));
    cr_expect(!same(hx_state_dict_find(&views, "1.v.weight"), hx_state_dict_find(&copies, "1.v.weight")));
    hx_layer_destroy(&model); /* both outlive it */
    OK(hx_tensor_fill(stream, hx_state_dict_find(&views, "1.v.weight"), 1));
    hx_state_dict_destroy(&views);
    hx_state_dict_destroy(&copies);
}

/* Without them a loaded model would evaluate with a mean of 0 and a variance of 1. */
Test(state_dict, holds_running_statistics_too) {
    static const char *const all[] = {"0.weight", "0.bias", "0.running_mean", "0.running_var"};
    hx_layer *models[2] = {0};
    hx_state_dict dict = {0};
    for (int k = 0; k < 2; k++) {
        hx_layer *norm = NULL;
        OK(hx_batchnorm_create(dev, HX_F64, 2, NULL, &norm));
        OK(hx_sequential_create_consume(dev, &norm, 1, &models[k]));
        OK(hx_layer_init(models[k], stream, 1));
    }
    OK(hx_state_dict_get(models[0], stream, NULL, &dict));
    cr_assert_eq(dict.n_items, 4);
    for (int i = 0; i < 4; i++) cr_expect_str_eq(dict.items[i].name, all[i]);
    OK(hx_tensor_fill(stream, hx_state_dict_find(&dict, "0.running_var"), 4));
    expect_equal(models[0], models[1], false);
    OK(hx_state_dict_load(models[1], stream, &dict, 0, NULL));
    expect_equal(models[0], models[1], true);
    cr_expect_not(hx_tensor_requires_grad(hx_state_dict_find(&dict, "0.running_var")));
    hx_state_dict_destroy(&dict);
    for (int k = 0; k < 2; k++) hx_layer_destroy(&models[k]);
}

Test(state_dict, loads_into_a_model_of_the_same_shape) {
    hx_layer *a = model_of(HX_F64, 4, 1), *b = model_of(HX_F64, 4, 2);
    hx_state_dict dict = {0};
    hx_load_report report = {0};
    expect_equal(a, b, false);
    OK(hx_state_dict_get(a, stream, dev, &dict));
    OK(hx_state_dict_load(b, stream, &dict, 0, &report));
    cr_expect_eq(report.n_loaded, N_NAMES);
    cr_expect_eq(report.n_items, 0);
    expect_equal(a, b, true);
    hx_load_report_destroy(&report);
    hx_state_dict_destroy(&dict);
    hx_layer_destroy(&a);
    hx_layer_destroy(&b);
}

/* Without 0.bias, with 2.weight of another shape, and with a name nobody knows. */
static hx_state_dict flawed(hx_layer *model) {
    hx_state_dict all = {0}, dict = {0};
    HX_AUTO_TENSOR odd = normal(HX_SHAPE(7), 1);
    OK(hx_state_dict_get(model, stream, NULL, &all));
    for (int64_t i = 0; i < all.n_items; i++)
        if (i != 1) OK(hx_state_dict_add(&dict, all.items[i].name, i == 6 ? odd : all.items[i].tensor));
    OK(hx_state_dict_add(&dict, "extra", odd));
    hx_state_dict_destroy(&all);
    return dict;
}

Test(state_dict, a_strict_load_lists_all_flaws_and_writes_nothing) {
    hx_layer *a = model_of(HX_F64, 4, 1), *b = model_of(HX_F64, 4, 2), *untouched = model_of(HX_F64, 4, 2);
    hx_state_dict dict = flawed(a);
    FAILS(hx_state_dict_load(b, stream, &dict, 0, NULL), HX_ERR_MISMATCH);
    const char *const parts[] = {"3 names", "missing: 0.bias", "unexpected: extra",
                                 "mismatched: 2.weight (f64 [7], expected f64 [4])"};
    for (int i = 0; i < 4; i++)
        cr_expect(strstr(hx_error_message(), parts[i]) != NULL, "%s is not in %s", parts[i],
                  hx_error_message());
    expect_equal(b, untouched, true);
    hx_state_dict_destroy(&dict);
    hx_layer_destroy(&a);
    hx_layer_destroy(&b);
    hx_layer_destroy(&untouched);
}

Test(state_dict, a_partial_load_takes_what_fits_and_reports_the_rest) {
    hx_layer *a = model_of(HX_F64, 4, 1), *b = model_of(HX_F64, 4, 2);
    hx_state_dict dict = flawed(a);
    hx_load_report report = {0};
    OK(hx_state_dict_load(b, stream, &dict, HX_LOAD_PARTIAL, &report));
    cr_expect_eq(report.n_loaded, N_NAMES - 2);
    cr_assert_eq(report.n_items, 3);
    cr_expect_eq(report.items[0].kind, HX_LOAD_MISSING);
    cr_expect_str_eq(report.items[0].name, "0.bias");
    cr_expect_eq(report.items[1].kind, HX_LOAD_MISMATCHED);
    cr_expect_str_eq(report.items[1].name, "2.weight");
    cr_expect_eq(report.items[1].want.dims[0], 4);
    cr_expect_eq(report.items[1].given.dims[0], 7);
    cr_expect_eq(report.items[2].kind, HX_LOAD_UNEXPECTED);
    cr_expect_str_eq(report.items[2].name, "extra");
    cr_expect(same(a->children[0]->params[0]->value, b->children[0]->params[0]->value));
    hx_load_report_destroy(&report);
    hx_state_dict_destroy(&dict);
    hx_layer_destroy(&a);
    hx_layer_destroy(&b);
}

Test(state_dict, another_dtype_is_converted_only_when_asked) {
    hx_layer *wide = model_of(HX_F64, 4, 1), *half = model_of(HX_BF16, 4, 2);
    hx_state_dict dict = {0}, loaded = {0};
    OK(hx_state_dict_get(wide, stream, NULL, &dict));
    FAILS(hx_state_dict_load(half, stream, &dict, 0, NULL), HX_ERR_MISMATCH);
    cr_expect(strstr(hx_error_message(), "f64 [4,3], expected bf16 [4,3]") != NULL, "%s", hx_error_message());
    OK(hx_state_dict_load(half, stream, &dict, HX_LOAD_CONVERT, NULL));
    OK(hx_state_dict_get(half, stream, NULL, &loaded));
    double *x = values_of(dict.items[2].tensor);
    hx_bf16 y[16];
    OK(hx_tensor_read(stream, loaded.items[2].tensor, y));
    for (int i = 0; i < 16; i++) cr_expect_eq(y[i].bits, hx_bf16_from_double(x[i]).bits);
    free(x);
    hx_state_dict_destroy(&loaded);
    hx_state_dict_destroy(&dict);
    hx_layer_destroy(&wide);
    hx_layer_destroy(&half);
}

Test(state_dict, a_name_that_stands_twice_is_refused) {
    hx_layer *model = model_of(HX_F64, 4, 1);
    hx_state_dict dict = {0};
    OK(hx_state_dict_get(model, stream, NULL, &dict));
    OK(hx_state_dict_add(&dict, "0.bias", dict.items[1].tensor));
    FAILS(hx_state_dict_load(model, stream, &dict, HX_LOAD_PARTIAL, NULL), HX_ERR_ARG);
    FAILS(hx_state_dict_load(model, stream, &dict, 4, NULL), HX_ERR_ARG);
    hx_state_dict_destroy(&dict);
    FAILS(hx_state_dict_load(model, stream, &dict, 0, NULL),
          HX_ERR_MISMATCH); /* an empty dict lacks everything */
    OK(hx_state_dict_load(model, stream, &dict, HX_LOAD_PARTIAL, NULL));
    hx_layer_destroy(&model);
}

Test(state_dict, a_tensor_held_in_part_is_refused) {
    hx_layer *part = NULL;
    hx_layout rows = {0};
    hx_state_dict dict = {0};
    OK(hx_linear_create(dev, HX_F64, 6, 2, false, &part));
    OK(hx_layout_slice(&HX_SHAPE(4, 6), 0, 1, 2, &rows));
    OK(hx_param_set_parts(part->params[0], 1, (const char *const[]){"weight"}, &rows));
    FAILS(hx_state_dict_get(part, stream, NULL, &dict), HX_ERR_UNSUPPORTED);
    cr_expect(strstr(hx_error_message(), "weight") != NULL, "%s", hx_error_message());
    hx_layout_destroy(&rows);
    hx_layer_destroy(&part);
}

/* ---- freezing ---- */

Test(state_dict, a_glob_freezes_and_frees) {
    hx_layer *model = model_of(HX_F64, 4, 1);
    int64_t n = -1;
    OK(hx_layer_freeze(model, "1.*", true, &n));
    cr_expect_eq(n, 4, "q, k, v and proj: %lld", (long long)n);
    cr_expect(model->children[1]->params[0]->is_frozen);
    cr_expect(!hx_tensor_requires_grad(model->children[1]->params[0]->value));
    cr_expect(!model->children[0]->params[0]->is_frozen);
    OK(hx_layer_freeze(model, "*.bias", true, &n));
    cr_expect_eq(n, 2);
    OK(hx_layer_freeze(model, "*", false, &n));
    cr_expect_eq(n, N_NAMES);
    cr_expect(hx_tensor_requires_grad(model->children[1]->params[0]->value));
    OK(hx_layer_freeze(model, "nothing.*", true, &n));
    cr_expect_eq(n, 0);
    hx_layer_destroy(&model);
}

Test(state_dict, a_part_of_a_fused_weight_cannot_be_frozen_alone) {
    hx_layer *model = model_of(HX_F64, 4, 1);
    int64_t n = -1;
    FAILS(hx_layer_freeze(model, "*q.weight", true, &n), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "1 of the 3") != NULL, "%s", hx_error_message());
    cr_expect_eq(n, -1);
    cr_expect(!model->children[1]->params[0]->is_frozen);
    FAILS(hx_layer_freeze(model, NULL, true, &n), HX_ERR_ARG);
    hx_layer_destroy(&model);
}

/* A gradient flows through a frozen layer to what lies before it, and not into it. */
Test(state_dict, frozen_parameters_get_no_gradient) {
    hx_layer *model = model_of(HX_F64, 4, 1);
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 5, 3), 3);
    HX_AUTO_TENSOR y = NULL;
    OK(hx_layer_freeze(model, "1.*", true, NULL));
    ctx.tape = tape;
    OK(hx_layer_forward(model, &ctx, x, &y));
    OK(hx_backward(&ctx, y, NULL));
    cr_expect_null(hx_tensor_grad(model->children[1]->params[0]->value));
    cr_expect_not_null(hx_tensor_grad(model->children[0]->params[0]->value));
    cr_expect_not_null(hx_tensor_grad(model->children[2]->params[0]->value));
    hx_layer_destroy(&model);
}

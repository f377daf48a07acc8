/* Initialisers: distributions, bounds, and that a value depends on seed, path and element alone. */
#include "tests/unit/test_layer_fixture.h"

TestSuite(init, .init = fixture_open, .fini = fixture_close);

/* A linear layer [n_out, n_in] with its weight filled. */
static hx_layer *filled(hx_dtype dtype, int64_t n_in, int64_t n_out, uint64_t seed, hx_init_kind kind,
                        double scale) {
    hx_layer *layer = NULL;
    OK(hx_linear_create(dev, dtype, n_in, n_out, false, &layer));
    OK(hx_param_init(layer->params[0], stream, seed, kind, scale));
    return layer;
}

/* The weight as f64; free with free. */
static double *weight_of(hx_layer *layer, int64_t *n) {
    HX_AUTO_TENSOR wide = NULL;
    OK(hx_cast(&ctx, layer->params[0]->value, HX_F64, &wide));
    *n = hx_tensor_count(wide);
    return values_of(wide);
}

typedef struct moments {
    double mean, deviation, most;
} moments;

static moments moments_of(hx_layer **layer) {
    int64_t n;
    double *v = weight_of(*layer, &n), sum = 0, squares = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += v[i];
        squares += v[i] * v[i];
        most = fmax(most, fabs(v[i]));
    }
    free(v);
    hx_layer_destroy(layer);
    const double mean = sum / (double)n;
    return (moments){mean, sqrt(squares / (double)n - mean * mean), most};
}

/* The mean of n draws lies within 3 sigma/sqrt(n); their deviation, of relative standard error sqrt((k-1)/4n)
 * with the kurtosis k <= 3, within 3 sigma/sqrt(2n). */
static void check_moments(const char *what, moments m, double deviation, double most, double n) {
    cr_expect_lt(fabs(m.mean), 3 * deviation / sqrt(n), "%s: mean %g", what, m.mean);
    cr_expect_lt(fabs(m.deviation / deviation - 1), 3 / sqrt(2 * n), "%s: deviation %g, expected %g", what,
                 m.deviation, deviation);
    cr_expect_leq(m.most, most, "%s: largest %g, expected at most %g", what, m.most, most);
}

Test(init, draws_have_the_moments_of_their_distribution) {
    const double in = 300, out = 200, n = in * out, a = sqrt(6 / (in + out)), b = sqrt(6 / in);
    const struct {
        const char *name;
        hx_init_kind kind;
        double scale, deviation, most;
    } rows[] = {{"normal", HX_INIT_NORMAL, 0.3, 0.3, 0.3 * 6},
                {"uniform", HX_INIT_UNIFORM, 0.3, 0.3 / sqrt(3), 0.3},
                {"truncated normal", HX_INIT_TRUNC_NORMAL, 0.3, 0.3 * 0.87962566103423978, 0.6},
                {"Kaiming normal", HX_INIT_KAIMING_NORMAL, sqrt(2), sqrt(2 / in), 1},
                {"Kaiming uniform", HX_INIT_KAIMING_UNIFORM, sqrt(2), b / sqrt(3), b},
                {"Xavier normal", HX_INIT_XAVIER_NORMAL, 1, sqrt(2 / (in + out)), 1},
                {"Xavier uniform", HX_INIT_XAVIER_UNIFORM, 1, a / sqrt(3), a}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hx_layer *layer = filled(HX_F64, (int64_t)in, (int64_t)out, 11, rows[i].kind, rows[i].scale);
        check_moments(rows[i].name, moments_of(&layer), rows[i].deviation, rows[i].most, n);
    }
}

Test(init, fans_of_a_kernel_count_its_taps) {
    hx_param *kernel = NULL;
    hx_layer *holder = NULL;
    OK(hx_dropout_create(dev, 0, &holder)); /* any layer can hold a parameter */
    OK(hx_layer_param(holder, "kernel", HX_F64, HX_SHAPE(40, 30, 5, 3), true, &kernel));
    OK(hx_param_init(kernel, stream, 1, HX_INIT_KAIMING_NORMAL, 1));
    check_moments("Kaiming", moments_of(&holder), sqrt(1.0 / (30 * 15)), 1, 40 * 30 * 15);
    OK(hx_dropout_create(dev, 0, &holder));
    OK(hx_layer_param(holder, "kernel", HX_F64, HX_SHAPE(40, 30, 5, 3), true, &kernel));
    OK(hx_param_init(kernel, stream, 1, HX_INIT_XAVIER_NORMAL, 1));
    check_moments("Xavier", moments_of(&holder), sqrt(2.0 / (70 * 15)), 1, 40 * 30 * 15);
}

Test(init, constants_fill) {
    const struct {
        hx_init_kind kind;
        double scale, want;
    } rows[] = {{HX_INIT_ZEROS, 3, 0}, {HX_INIT_ONES, 3, 1}, {HX_INIT_CONSTANT, -0.75, -0.75}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hx_layer *layer = filled(HX_F32, 3, 5, 1, rows[i].kind, rows[i].scale);
        int64_t n;
        double *v = weight_of(layer, &n);
        for (int64_t k = 0; k < n; k++) cr_expect_eq(v[k], rows[i].want);
        free(v);
        hx_layer_destroy(&layer);
    }
}

/* Q Q^T = g^2 1 over the fewer of rows and columns. */
static void check_orthogonal(int64_t rows, int64_t columns, double gain) {
    hx_layer *layer = filled(HX_F64, columns, rows, 4, HX_INIT_ORTHOGONAL, gain);
    const bool tall = rows > columns;
    const int64_t few = tall ? columns : rows, many = tall ? rows : columns;
    int64_t n;
    double *v = weight_of(layer, &n), worst = 0;
    for (int64_t i = 0; i < few; i++)
        for (int64_t j = 0; j < few; j++) {
            double dot = 0;
            for (int64_t k = 0; k < many; k++)
                dot +=
                    tall ? v[k * columns + i] * v[k * columns + j] : v[i * columns + k] * v[j * columns + k];
            worst = fmax(worst, fabs(dot - (i == j ? gain * gain : 0)));
        }
    cr_expect_lt(worst, 1e-14 * gain * gain * 10, "%lld x %lld: %g", (long long)rows, (long long)columns,
                 worst);
    free(v);
    hx_layer_destroy(&layer);
}

Test(init, orthogonal_matrices_are) {
    check_orthogonal(6, 6, 1);
    check_orthogonal(40, 64, 2);
    check_orthogonal(64, 40, 1);
    check_orthogonal(1, 5, 1);
    check_orthogonal(90, 90, 0.5);
}

/* ---- repeatability ---- */

Test(init, a_seed_gives_the_same_bits_and_another_does_not) {
    for (hx_init_kind kind = HX_INIT_NORMAL; kind <= HX_INIT_ORTHOGONAL; kind++) {
        int64_t n;
        hx_layer *a = filled(HX_F32, 33, 17, 5, kind, 0.5), *b = filled(HX_F32, 33, 17, 5, kind, 0.5),
                 *c = filled(HX_F32, 33, 17, 6, kind, 0.5);
        double *x = weight_of(a, &n), *y = weight_of(b, &n), *z = weight_of(c, &n);
        cr_expect_eq(memcmp(x, y, (size_t)n * sizeof *x), 0, "kind %d", (int)kind);
        if (kind != HX_INIT_CONSTANT)
            cr_expect_neq(memcmp(x, z, (size_t)n * sizeof *x), 0, "kind %d", (int)kind);
        free(x);
        free(y);
        free(z);
        hx_layer_destroy(&a);
        hx_layer_destroy(&b);
        hx_layer_destroy(&c);
    }
}

/* Narrower types hold the same draws, rounded. */
Test(init, every_dtype_gets_the_same_values) {
    const hx_dtype narrow[] = {HX_F32, HX_BF16, HX_F16};
    const double rounding[] = {0x1p-24, 0x1p-8, 0x1p-11}; /* half an ulp, relative */
    for (hx_init_kind kind = HX_INIT_NORMAL; kind <= HX_INIT_ORTHOGONAL; kind++)
        for (int d = 0; d < 3; d++) {
            int64_t n;
            hx_layer *a = filled(HX_F64, 9, 7, 5, kind, 0.5), *b = filled(narrow[d], 9, 7, 5, kind, 0.5);
            double *x = weight_of(a, &n), *y = weight_of(b, &n);
            for (int64_t i = 0; i < n; i++) /* twice: uniform and normal draws are made in f32 first */
                cr_expect_lt(fabs(x[i] - y[i]), 2 * rounding[d] * fabs(x[i]) + 1e-7,
                             "kind %d, dtype %d: %g, %g", (int)kind, (int)narrow[d], x[i], y[i]);
            free(x);
            free(y);
            hx_layer_destroy(&a);
            hx_layer_destroy(&b);
        }
}

/* Rows 1 and 2 of 4, as a tensor-parallel rank would hold them, are those of the whole. */
Test(init, a_slice_gets_the_values_of_the_whole) {
    for (hx_init_kind kind = HX_INIT_TRUNC_NORMAL; kind <= HX_INIT_ORTHOGONAL; kind++) {
        int64_t n;
        hx_layer *whole = filled(HX_F64, 6, 4, 5, kind, 1), *part = NULL;
        hx_layout rows = {0};
        OK(hx_linear_create(dev, HX_F64, 6, 2, false, &part));
        OK(hx_layout_slice(&HX_SHAPE(4, 6), 0, 1, 2, &rows));
        OK(hx_param_set_parts(part->params[0], 1, (const char *const[]){"weight"}, &rows));
        OK(hx_param_init(part->params[0], stream, 5, kind, 1));
        double *x = weight_of(whole, &n), *y = weight_of(part, &n);
        cr_expect_eq(memcmp(x + 6, y, 12 * sizeof *x), 0, "kind %d", (int)kind);
        free(x);
        free(y);
        hx_layout_destroy(&rows);
        hx_layer_destroy(&whole);
        hx_layer_destroy(&part);
    }
}

/* ---- gains, defaults, errors ---- */

Test(init, gains_are_those_of_the_literature) {
    double gain = 0;
    OK(hx_init_gain(HX_OP_affine, 0, &gain));
    cr_expect_eq(gain, 1);
    OK(hx_init_gain(HX_OP_tanh, 0, &gain));
    cr_expect_float_eq(gain, 5.0 / 3, 1e-15);
    OK(hx_init_gain(HX_OP_relu, 0, &gain));
    cr_expect_float_eq(gain, sqrt(2), 1e-15);
    OK(hx_init_gain(HX_OP_leaky_relu, 0.5, &gain));
    cr_expect_float_eq(gain, sqrt(1.6), 1e-15);
    FAILS(hx_init_gain(HX_OP_matmul, 0, &gain), HX_ERR_ARG);
}

static double deviation_of(hx_layer *layer, int param) {
    double *v = values_of(layer->params[param]->value), squares = 0;
    const int64_t n = hx_tensor_count(layer->params[param]->value);
    for (int64_t i = 0; i < n; i++) squares += v[i] * v[i];
    free(v);
    return sqrt(squares / (double)n);
}

Test(init, layers_start_with_their_defaults) {
    hx_layer *parts[3] = {0}, *model = NULL;
    OK(hx_embedding_create(dev, HX_F64, 100, 50, &parts[0]));
    OK(hx_linear_create(dev, HX_F64, 50, 80, true, &parts[1]));
    OK(hx_layernorm_create(dev, HX_F64, 80, 0, &parts[2]));
    OK(hx_sequential_create_consume(dev, parts, 3, &model));
    init_all(model, 9);
    OK(hx_layer_init(model, stream, 1));
    cr_expect_float_eq(deviation_of(model->children[0], 0), 1, 3 / sqrt(2 * 5000.0));
    cr_expect_float_eq(deviation_of(model->children[1], 0) / sqrt(2.0 / 50), 1, 3 / sqrt(2 * 4000.0));
    cr_expect_eq(deviation_of(model->children[1], 1), 0);
    cr_expect_eq(deviation_of(model->children[2], 0), 1);
    cr_expect_eq(deviation_of(model->children[2], 1), 0);
    hx_layer_destroy(&model);
}

Test(init, a_model_starts_by_its_own_rule) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    hx_layer *a = NULL, *b = NULL;
    hx_param_list x = {0}, y = {0};
    c.dim = 12;
    c.dtype = 1; /* f64 */
    OK(hx_gpt_create(dev, &c, &a));
    OK(hx_gpt_create(dev, &c, &b));
    OK(hx_layer_init(a, stream, 2));
    OK(hx_gpt_init(b, stream, 2));
    OK(hx_layer_params(a, &x));
    OK(hx_layer_params(b, &y));
    for (int64_t i = 0; i < x.n_items; i++) {
        double *u = values_of(x.items[i]->value), *v = values_of(y.items[i]->value);
        cr_expect_eq(memcmp(u, v, hx_tensor_bytes(x.items[i]->value)), 0, "%s", x.items[i]->path);
        free(u);
        free(v);
    }
    hx_param_list_destroy(&x);
    hx_param_list_destroy(&y);
    hx_layer_destroy(&a);
    hx_layer_destroy(&b);
}

Test(init, what_cannot_be_drawn_is_refused) {
    hx_layer *layer = NULL;
    OK(hx_layernorm_create(dev, HX_F64, 4, 0, &layer));
    for (hx_init_kind kind = HX_INIT_KAIMING_NORMAL; kind <= HX_INIT_ORTHOGONAL; kind++) {
        FAILS(hx_param_init(layer->params[0], stream, 1, kind, 1), HX_ERR_SHAPE);
        cr_expect(strstr(hx_error_message(), "weight") != NULL, "%s", hx_error_message());
    }
    FAILS(hx_param_init(layer->params[0], stream, 1, (hx_init_kind)99, 1), HX_ERR_ARG);
    FAILS(hx_param_init(layer->params[0], stream, 1, HX_INIT_TRUNC_NORMAL, NAN), HX_ERR_ARG);
    FAILS(hx_layer_init(NULL, stream, 1), HX_ERR_ARG);
    hx_layer_destroy(&layer);
}

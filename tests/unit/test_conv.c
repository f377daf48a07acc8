/* Convolutions, pools, batch norm and their layers: numbers of PyTorch 1.13 in float64, gradients, running statistics, and
 * a small network that learns.
 *
 * Inputs of the numbers: element i of x is sin(i), of a weight sin(0.7 i + 0.3), of a bias sin(2 i), of the gradient
 * that arrives sin(1.3 i + 0.5). Of a gradient the sum is compared, and the sum of its elements times sin(0.9 i). */
#include "core/optim/optim.h"
#include "tests/unit/test_trainer_fixture.h"

TestSuite(conv, .init = fixture_open, .fini = fixture_close);

/* ---- numbers ---- */

#define NEAR(got, want) cr_expect(fabs((got) - (want)) <= 1e-10 * fmax(1, fabs(want)), "%.12g, expected %.12g", (got), (want))

static hx_tensor *sines(hx_shape shape, double step, double start) {
    hx_tensor *x;
    int64_t n = hx_shape_count(&shape);
    double *v = malloc(sizeof *v * (size_t)n);
    OK(hx_tensor_create(dev, HX_F64, shape, &x));
    for (int64_t i = 0; i < n; i++) v[i] = sin(step * (double)i + start);
    OK(hx_tensor_write(stream, x, v));
    free(v);
    hx_tensor_set_requires_grad(x, true);
    return x;
}

static void expect_values(hx_tensor *x, const double *want, int64_t n) {
    double *got = values_of(x);
    cr_assert_eq(hx_tensor_count(x), n);
    for (int64_t i = 0; i < n; i++) NEAR(got[i], want[i]);
    free(got);
}

/* sum of the gradient, and of the gradient times sin(0.9 i) */
static void expect_digest(hx_tensor *x, const double want[2]) {
    double *g = values_of(hx_tensor_grad(x)), sum = 0, weighted = 0;
    for (int64_t i = 0; i < hx_tensor_count(x); i++) {
        sum += g[i];
        weighted += g[i] * sin(0.9 * (double)i);
    }
    NEAR(sum, want[0]);
    NEAR(weighted, want[1]);
    free(g);
}

static void back(hx_tensor *y) {
    HX_AUTO_TENSOR seed = sines(hx_tensor_shape(y), 1.3, 0.5);
    OK(hx_backward(&ctx, y, seed));
}

static void expect_conv(hx_shape x_shape, hx_shape w_shape, const hx_conv_config *config, hx_shape y_shape, const double *want,
                        const double want_dx[2], const double want_dw[2], const double *want_db) {
    HX_AUTO_TENSOR x = sines(x_shape, 1, 0);
    HX_AUTO_TENSOR w = sines(w_shape, 0.7, 0.3);
    HX_AUTO_TENSOR b = sines(HX_SHAPE(w_shape.dims[0]), 2, 0);
    HX_AUTO_TENSOR y = NULL;
    ctx.tape = tape;
    OK(hx_conv(&ctx, x, w, b, config, &y));
    hx_shape got = hx_tensor_shape(y);
    cr_assert(hx_shape_equal(&got, &y_shape));
    expect_values(y, want, hx_shape_count(&y_shape));
    back(y);
    expect_digest(x, want_dx);
    expect_digest(w, want_dw);
    expect_values(hx_tensor_grad(b), want_db, w_shape.dims[0]);
}

static const double conv1d_y[] = {
    0.676878251204, 1.08741131409, -0.665490004005, -1.11675620597, 1.53579062232, -0.045264230188, 0.487158814442,
    1.94173270433, -0.981610933867, 0.329758796713, -0.933580826177, -1.93949808466, 0.834222931282, -0.321642690983,
    -1.27965791387, 0.180572136419, -0.375887066773, -1.1101975559, 0.399142392258, 1.25257811711, 0.0385344335348,
    1.58404833494, 1.65237945591, 0.0682042782916, -0.19570554303, -1.72068597547, -0.888435070607, 0.308882111604,
    -1.48466067472, -0.542003679333, 0.820016546699, -0.394653857337};

Test(conv, along_one_dim_with_groups_and_dilation_is_pytorchs) {
    hx_conv_config config = {.stride = {2}, .padding = {2}, .dilation = {2}, .groups = 2};
    expect_conv(HX_SHAPE(2, 4, 7), HX_SHAPE(4, 2, 3), &config, HX_SHAPE(2, 4, 4), conv1d_y,
                (double[]){-1.63794140276, 0.470649974991}, (double[]){-0.777609958202, 2.06931451251},
                (double[]){-0.267444710162, 0.685281059974, 0.909575912411, 0.167021897581});
}

static const double conv2d_y[] = {
    -0.360233417459, 1.62176677146, 0.448182348481, -1.51046088667, -0.724335793617, 2.03409936855, -1.48182468139,
    -0.82745515479, 1.90889091436, -0.384131303842, -1.88465435709, 0.506598722751, 2.32832849588, 1.02376150763,
    -0.912800152839, 1.80414833247, 2.81307541725, -0.286495361826, 1.58481019206, 2.86737504467, 0.0253359450693,
    -0.144504785591, 1.53761570493, 2.33556046669};

Test(conv, along_two_dims_with_unequal_strides_is_pytorchs) {
    hx_conv_config config = {.stride = {1, 2}, .padding = {2, 1}, .dilation = {2, 1}};
    expect_conv(HX_SHAPE(1, 2, 4, 5), HX_SHAPE(2, 2, 3, 2), &config, HX_SHAPE(1, 2, 4, 3), conv2d_y,
                (double[]){3.43863131004, 5.66084333239}, (double[]){-0.390868417605, 2.92148908623},
                (double[]){1.61576882506, -1.57034608961});
}

static const double conv3d_y[] = {
    0.246850922764, -0.822141466606, -2.03764922116, -0.929318293878, -0.450433384996, 0.546683193912, 1.97050005937,
    0.93764783771, 0.468191628975, 0.917604664758, 1.15874187362, 0.690751666409, -0.356214518726, -0.797239489032,
    -1.19603781619, -0.732312263415, 1.18338621225, 0.460337697899, 0.108534640171, 0.8937148406, 0.508531781812,
    1.26015239471, 1.70478115442, 0.89862466604, 0.945897269949, 1.16069920113, 1.73429815841, 1.47620668172,
    0.982485992861, 0.775989352498, 0.125146286, 0.376760267626, -0.816905699586, -1.6304844935, -1.21702229215,
    -0.464213327063, -0.673025300246, 0.110120529427, -0.196367840066, -0.912342862295, -1.14295356439,
    -1.1678423822, -1.47119543383, -1.43445363207, -0.440087775614, -0.432439113614, -0.0453575120996,
    -0.0714358241095, -1.24712093599, -2.34995729618, -1.07652723555, -0.0109894422086, 0.661337624337,
    1.82434083588, 0.784734119853, -0.338275220301, -0.104694202248, -0.0725517614747, -1.05289946928,
    -1.05630564083, -0.545219438544, -0.632671561815, 0.381548453314, 0.436514742546};

Test(conv, along_three_dims_with_groups_is_pytorchs) {
    hx_conv_config config = {.stride = {2, 1, 1}, .padding = {1, 0, 1}, .dilation = {1, 2, 1}, .groups = 2};
    expect_conv(HX_SHAPE(1, 2, 3, 4, 3), HX_SHAPE(4, 1, 2, 2, 2), &config, HX_SHAPE(1, 4, 2, 2, 4), conv3d_y,
                (double[]){0.666068083912, -1.54638276793}, (double[]){-16.3577317473, -0.38219181119},
                (double[]){1.00498425232, 0.489449907481, -1.36775799041, 0.524314057734});
}

/* ---- pools ---- */

static const double max_y[] = {
    0.841470984808, 0.909297426826, 0.841470984808, 0.909297426826, 0.420167036827, 0.990607355695, 0.656986598719,
    0.990607355695, 0.420167036827, 0.990607355695, 0.650287840157, 0.990607355695, 0.836655638536, 0.912945250728,
    0.956375928405, 0.76255845048, 0.999911860107, 0.76255845048, 0.999911860107, 0.76255845048, 0.999911860107,
    0.551426681242, 0.999911860107, 0.52908268612};

/* An infinity times the zeros around dy would be NaN: such products are no part of dx. */
static void expect_infinity_in_its_place(hx_dtype dtype) {
    enum { C = 3, O = 4, L = 20 };
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR w = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR seed = NULL;
    OK(hx_tensor_create(dev, dtype, HX_SHAPE(1, C, L, L), &x));
    OK(hx_tensor_create(dev, dtype, HX_SHAPE(O, C, 3, 3), &w));
    OK(hx_tensor_create(dev, dtype, HX_SHAPE(1, O, L, L), &seed));
    OK(hx_tensor_fill(stream, x, 1));
    OK(hx_tensor_fill(stream, seed, 1));
    char bytes[O * C * 9 * sizeof(double)];
    for (int64_t i = 0; i < O * C * 9; i++) hx_elem_set(dtype, bytes, i, i == 0 ? (double)INFINITY : 1.0);
    OK(hx_tensor_write(stream, w, bytes));
    hx_tensor_set_requires_grad(x, true);
    ctx.tape = tape;
    OK(hx_conv(&ctx, x, w, NULL, &(hx_conv_config){.padding = {1, 1}}, &y));
    OK(hx_backward(&ctx, y, seed));
    char dx[C * L * L * sizeof(double)];
    OK(hx_tensor_read(stream, hx_tensor_grad(x), dx));
    for (int64_t i = 0; i < C * L * L; i++) {
        const double got = hx_elem_get(hx_tensor_dtype(hx_tensor_grad(x)), dx, i);
        const int64_t m = i / L % L, n = i % L;
        const double taps = (double)((m == 0 || m == L - 1 ? 2 : 3) * (n == 0 || n == L - 1 ? 2 : 3));
        const double want = i < L * L && m < L - 1 && n < L - 1 ? (double)INFINITY : O * taps;
        cr_expect(got == want, "%s: element %lld is %g, expected %g", hx_dtype_name(dtype), (long long)i, got, want);
    }
}

Test(conv, an_infinite_weight_reaches_only_what_it_multiplied) {
    expect_infinity_in_its_place(HX_F32);
    expect_infinity_in_its_place(HX_F64);
    expect_infinity_in_its_place(HX_BF16);
}

Test(conv, max_pool_with_padding_and_dilation_is_pytorchs) {
    HX_AUTO_TENSOR x = sines(HX_SHAPE(1, 2, 5, 4), 1, 0);
    HX_AUTO_TENSOR y = NULL;
    ctx.tape = tape;
    OK(hx_max_pool(&ctx, x, (int64_t[]){3, 2}, &(hx_conv_config){.stride = {2, 1}, .padding = {1, 1}, .dilation = {1, 2}}, &y));
    expect_values(y, max_y, 24);
    back(y);
    expect_digest(x, (double[]){0.0454227354548, 3.18424341883});
}

static void expect_avg(bool count_padding, const double *want, const double want_dx[2]) {
    HX_AUTO_TENSOR x = sines(HX_SHAPE(1, 2, 5, 4), 1, 0);
    HX_AUTO_TENSOR y = NULL;
    ctx.tape = tape;
    OK(hx_avg_pool(&ctx, x, (int64_t[]){3, 2}, &(hx_conv_config){.stride = {2, 1}, .padding = {1, 1}}, count_padding, &y));
    expect_values(y, want, 30);
    back(y);
    expect_digest(x, want_dx);
}

static const double avg_y[] = {
    -0.378401247654, -0.218563946291, 0.128107159693, 0.356997133851, 0.399053303389, -0.101339055562,
    -0.0717759865466, 0.00675533233531, 0.079075829822, 0.102428077442, -0.412238117333, -0.34142667243,
    -0.0754025865324, 0.259946289686, 0.40008252491, 0.0036834443605, 0.17791769429, 0.364502757407, 0.215965666355,
    0.0550777621147, -0.027748630819, 0.0201133888899, 0.0845892897172, 0.071294187682, 0.0413852045284,
    -0.220176086101, -0.0209946113628, 0.295456247895, 0.340265995404, 0.267806358394};
static const double avg_padded_y[] = {
    -0.126133749218, -0.145709297527, 0.0854047731286, 0.237998089234, 0.133017767796, -0.0506695277808,
    -0.0717759865466, 0.00675533233531, 0.079075829822, 0.0512140387209, -0.137412705778, -0.22761778162,
    -0.0502683910216, 0.173297526457, 0.133360841637, 0.00122781478683, 0.118611796193, 0.243001838271,
    0.143977110903, 0.0183592540382, -0.0138743154095, 0.0201133888899, 0.0845892897172, 0.071294187682,
    0.0206926022642, -0.0733920287002, -0.0139964075752, 0.19697083193, 0.226843996936, 0.0892687861313};

Test(conv, avg_pool_without_and_with_padded_zeros_is_pytorchs) {
    expect_avg(false, avg_y, (double[]){0.48009544676, -0.415075869238});
    expect_avg(true, avg_padded_y, (double[]){-1.41953664142, -0.104408634048});
}

/* x in one row: NaN wins wherever it stands, of equal ones the first, and a window in the padding has none. */
Test(conv, max_pool_takes_the_first_nan_or_largest) {
    HX_AUTO_TENSOR x = NULL;
    hx_tensor *out[2] = {NULL};
    int64_t index[3];
    hx_op_attr attr = {.conv = {.n = 1, .stride = {3}, .dilation = {1}, .groups = 1, .size = {3}}};
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(1, 1, 9), &x));
    OK(hx_tensor_write(stream, x, (double[]){5, NAN, NAN, 2, 7, 7, -INFINITY, -INFINITY, -INFINITY}));
    OK(hx_op_run(&ctx, HX_OP_max_pool, &x, 1, &attr, 0, out));
    double *y = values_of(out[0]);
    OK(hx_tensor_read(stream, out[1], index));
    cr_expect(isnan(y[0]) && y[1] == 7 && isinf(y[2]));
    cr_expect(index[0] == 1 && index[1] == 4 && index[2] == 6);
    free(y);
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&out[i]);
}

/* The same in rows long enough for many windows to be looked at together, with every number of elements between them. */
static void expect_first_nan_or_largest(hx_dtype dtype, int64_t stride) {
    enum { N = 101, WINDOW = 5, PADDING = 2, STEP = 2 };
    HX_AUTO_TENSOR x64 = NULL;
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR y64 = NULL;
    hx_tensor *out[2] = {NULL};
    double v[N];
    for (int i = 0; i < N; i++) v[i] = i % 23 == 7 || i % 23 == 9 ? (double)NAN : i > 60 ? -INFINITY : (double)(i * 5 % 7);
    hx_op_attr attr = {.conv = {.n = 1, .stride = {stride}, .padding = {PADDING}, .dilation = {STEP}, .groups = 1, .size = {WINDOW}}};
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(1, 1, N), &x64));
    OK(hx_tensor_write(stream, x64, v));
    OK(hx_cast(&ctx, x64, dtype, &x));
    OK(hx_op_run(&ctx, HX_OP_max_pool, &x, 1, &attr, 0, out));
    OK(hx_cast(&ctx, out[0], HX_F64, &y64));
    double *y = values_of(y64);
    int64_t n = hx_tensor_count(out[0]), *index = malloc((size_t)n * sizeof *index);
    OK(hx_tensor_read(stream, out[1], index));
    for (int64_t m = 0; m < n; m++) {
        int64_t best = -1;
        for (int64_t k = 0, i = m * stride - PADDING; k < WINDOW; k++, i += STEP)
            if (i >= 0 && i < N && (best < 0 || v[i] > v[best] || (isnan(v[i]) && !isnan(v[best])))) best = i;
        cr_expect_eq(index[m], best, "window %ld of stride %ld: %ld, expected %ld", (long)m, (long)stride, (long)index[m], (long)best);
        cr_expect(isnan(v[best]) ? isnan(y[m]) : y[m] == v[best]);
    }
    free(index), free(y);
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&out[i]);
}

Test(conv, max_pool_of_long_rows_takes_the_first_nan_or_largest) {
    for (int64_t stride = 1; stride < 5; stride++) {
        expect_first_nan_or_largest(HX_F32, stride);
        expect_first_nan_or_largest(HX_F64, stride);
    }
}

Test(conv, a_dilated_window_in_the_padding_gives_minus_infinity_and_passes_no_gradient_on) {
    HX_AUTO_TENSOR x = sines(HX_SHAPE(1, 1, 3), 1, 0.1);
    HX_AUTO_TENSOR y = NULL;
    ctx.tape = tape;
    OK(hx_max_pool(&ctx, x, (int64_t[]){2}, &(hx_conv_config){.stride = {1}, .padding = {1}, .dilation = {4}}, &y));
    double *v = values_of(y);
    cr_expect(hx_tensor_count(y) == 1 && v[0] == -INFINITY);
    free(v);
    OK(hx_backward(&ctx, y, NULL));
    expect_values(hx_tensor_grad(x), (double[]){0, 0, 0}, 3);
}

/* ---- batch norm ---- */

static const double batch_y[] = {
    0.184148854298, 1.61301072122, 1.72818357723, 0.423778029656, -0.463135144113, -0.804068492688, 0.342107853499,
    1.92160464763, -0.590599408868, -0.697750884672, -0.875236525223, -0.959876851116, -0.726980103441,
    0.897614520375, 1.86625210112, 1.28837171415, 0.327790839365, -0.808240246123, -0.45332614598, 1.06622675289,
    -0.604783749291, -0.618945186326, -0.775894383736, -0.931332973232};
static const double eval_y[] = {
    0.802239713072, 1.5296563278, 1.5882894616, 0.924232081658, -0.450049719609, -0.636395815973, -0.00992296211636,
    0.853392589253, -0.6292858313, -0.705793271116, -0.832520148751, -0.892954357339, 0.338394776508, 1.16545661427,
    1.65857850813, 1.36438646302, -0.017748303071, -0.63867599763, -0.444688353469, 0.385863283992, -0.63941362061,
    -0.649525056626, -0.76158866737, -0.87257368593};

/* weight sin(i + 1), bias sin(i + 2) */
static hx_layer *batchnorm_of_sines(hx_param *buffers[2]) {
    hx_layer *layer;
    hx_param_list list = {0};
    OK(hx_batchnorm_create(dev, HX_F64, 3, NULL, &layer));
    for (int k = 0; k < 2; k++)
        OK(hx_tensor_write(stream, layer->params[k]->value, (double[]){sin(k + 1), sin(k + 2), sin(k + 3)}));
    OK(hx_layer_buffers(layer, &list));
    cr_assert_eq(list.n_items, 2);
    cr_expect_str_eq(list.items[0]->path, "running_mean");
    cr_expect_str_eq(list.items[1]->path, "running_var");
    for (int k = 0; k < 2; k++) buffers[k] = list.items[k];
    hx_param_list_destroy(&list);
    return layer;
}

static void expect_batchnorm(hx_layer *layer, const double *want, const double want_dx[2], const double *want_dw,
                             const double *want_db) {
    HX_AUTO_TENSOR x = sines(HX_SHAPE(2, 3, 4), 1, 0);
    HX_AUTO_TENSOR y = NULL;
    ctx.tape = tape;
    for (int k = 0; k < 2; k++) hx_tensor_grad_reset(layer->params[k]->value);
    OK(hx_layer_forward(layer, &ctx, x, &y));
    expect_values(y, want, 24);
    back(y);
    expect_digest(x, want_dx);
    expect_values(hx_tensor_grad(layer->params[0]->value), want_dw, 3);
    expect_values(hx_tensor_grad(layer->params[1]->value), want_db, 3);
}

/* A second batch is twice the first; evaluation uses what both left. */
Test(conv, batchnorm_in_training_and_evaluation_is_pytorchs) {
    hx_param *buffers[2];
    hx_layer *layer = batchnorm_of_sines(buffers);
    HX_AUTO_TENSOR x = sines(HX_SHAPE(2, 3, 4), 1, 0);
    HX_AUTO_TENSOR twice = NULL;
    HX_AUTO_TENSOR y = NULL;
    expect_batchnorm(layer, batch_y, (double[]){0, 1.07745298799},
                     (double[]){1.98935754331, 0.95419331927, -0.479331587185},
                     (double[]){-0.067532814715, 0.0234496404661, 0.0895059097037});
    ctx.tape = NULL;
    OK(hx_affine(&ctx, x, 2, 0, &twice));
    OK(hx_layer_forward(layer, &ctx, twice, &y));
    const double mean[] = {0.123843692871, -0.115585536173, 0.0272598038956}, variance[] = {0.947513846804, 0.972731738417, 1.13364869543};
    expect_values(buffers[0]->value, mean, 3);
    expect_values(buffers[1]->value, variance, 3);
    ctx.training = false;
    expect_batchnorm(layer, eval_y, (double[]){-0.0248967923009, 1.20945248212},
                     (double[]){0.99172275281, 0.514811240143, -0.336638109023},
                     (double[]){-0.067532814715, 0.0234496404661, 0.0895059097037});
    expect_values(buffers[0]->value, mean, 3);
    expect_values(buffers[1]->value, variance, 3);
    hx_layer_destroy(&layer);
}

Test(conv, batchnorm_leaves_running_statistics_alone_when_a_segment_is_run_again) {
    hx_param *buffers[2];
    hx_layer *layer = batchnorm_of_sines(buffers);
    HX_AUTO_TENSOR x = sines(HX_SHAPE(2, 3, 4), 1, 0);
    HX_AUTO_TENSOR y = NULL;
    ctx.is_recompute = true;
    OK(hx_layer_forward(layer, &ctx, x, &y));
    expect_values(y, batch_y, 24);
    expect_values(buffers[0]->value, (double[]){0, 0, 0}, 3);
    expect_values(buffers[1]->value, (double[]){1, 1, 1}, 3);
    hx_layer_destroy(&layer);
}

Test(conv, batchnorm_of_one_element_takes_its_variance_as_it_is) {
    hx_layer *layer;
    HX_AUTO_TENSOR x = sines(HX_SHAPE(1, 2), 1, 0.5);
    HX_AUTO_TENSOR y = NULL;
    hx_batchnorm_config config = HX_BATCHNORM_DEFAULT;
    config.is_affine = false;
    OK(hx_batchnorm_create(dev, HX_F64, 2, &config, &layer));
    cr_expect_eq(layer->n_params, 0);
    OK(hx_layer_forward(layer, &ctx, x, &y));
    expect_values(y, (double[]){0, 0}, 2);
    expect_values(layer->buffers[1]->value, (double[]){0.9, 0.9}, 2);
    hx_layer_destroy(&layer);
}

/* ---- layers ---- */

static hx_status forward(hx_ctx *c, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)n_in;
    return hx_layer_forward(arg, c, in[0], out);
}

static void check_gradients(hx_layer *layer, hx_shape shape) {
    HX_AUTO_TENSOR x = normal(shape, 5);
    hx_param_list list = {0};
    hx_tensor *in[16] = {x};
    double worst = 1;
    int n = 1;
    hx_tensor_set_requires_grad(x, true);
    init_all(layer, 0.7);
    OK(hx_layer_params(layer, &list));
    for (int64_t i = 0; i < list.n_items; i++) in[n++] = list.items[i]->value;
    OK(hx_gradcheck(&ctx, forward, layer, in, n, &worst));
    cr_expect_lt(worst, 1e-7, "%s: worst relative difference %g", layer->type->name, worst);
    hx_param_list_destroy(&list);
    hx_layer_destroy(&layer);
}

Test(conv, layers_in_sequence_have_right_gradients) {
    hx_layer *parts[5], *layer;
    hx_conv_layer_config c = {.n_in = 2, .n_out = 4, .kernel = {3, 2}, .padding = {1, 0}, .stride = {2, 1}, .groups = 2, .has_bias = true};
    OK(hx_conv_create(dev, HX_F64, 2, &c, &parts[0]));
    OK(hx_batchnorm_create(dev, HX_F64, 4, NULL, &parts[1]));
    OK(hx_avg_pool_create(dev, 2, (int64_t[]){2, 2}, NULL, false, &parts[2]));
    OK(hx_flatten_create(dev, &parts[3]));
    OK(hx_linear_create(dev, HX_F64, 8, 3, true, &parts[4]));
    OK(hx_sequential_create_consume(dev, parts, 5, &layer));
    check_gradients(layer, HX_SHAPE(3, 2, 4, 5));
    ctx.training = false;
    OK(hx_batchnorm_create(dev, HX_F64, 3, NULL, &layer));
    check_gradients(layer, HX_SHAPE(3, 3, 2, 2, 2));
    OK(hx_conv_create(dev, HX_F64, 3, &(hx_conv_layer_config){.n_in = 1, .n_out = 2, .kernel = {2, 1, 2}}, &layer));
    check_gradients(layer, HX_SHAPE(2, 1, 2, 3, 4));
}

Test(conv, a_layer_of_an_impossible_shape_is_not_made) {
    hx_layer *layer = NULL;
    hx_conv_layer_config c = {.n_in = 4, .n_out = 6, .kernel = {3}}, bad[] = {c, c, c, c, c, c, c};
    bad[0].n_in = 0;
    bad[1].kernel[0] = 0;
    bad[2].groups = 4;
    bad[3].stride[0] = -1;
    bad[4].padding[0] = -1;
    bad[5].dilation[0] = -1;
    bad[6].groups = -2;
    for (int i = 0; i < 7; i++) FAILS(hx_conv_create(dev, HX_F64, 1, &bad[i], &layer), HX_ERR_CONFIG);
    bad[0] = c;
    bad[0].pad_mode = (hx_pad_mode)7;
    FAILS(hx_conv_create(dev, HX_F64, 1, &bad[0], &layer), HX_ERR_CONFIG);
    FAILS(hx_conv_create(dev, HX_F64, 0, &c, &layer), HX_ERR_CONFIG);
    FAILS(hx_conv_create(dev, HX_F64, 4, &c, &layer), HX_ERR_CONFIG);
    FAILS(hx_max_pool_create(dev, 4, (int64_t[]){1, 1, 1, 1}, NULL, &layer), HX_ERR_CONFIG);
    FAILS(hx_avg_pool_create(dev, 1, (int64_t[]){0}, NULL, true, &layer), HX_ERR_CONFIG);
    FAILS(hx_batchnorm_create(dev, HX_F64, 0, NULL, &layer), HX_ERR_CONFIG);
    FAILS(hx_batchnorm_create(dev, HX_F64, 2, &(hx_batchnorm_config){.momentum = 2}, &layer), HX_ERR_CONFIG);
    FAILS(hx_batchnorm_create(dev, HX_F64, 2, &(hx_batchnorm_config){.eps = -1}, &layer), HX_ERR_CONFIG);
    cr_expect_null(layer);
}

Test(conv, a_layer_names_the_dims_it_expects) {
    hx_layer *layers[3];
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 3, 4, 5), 1);
    OK(hx_conv_create(dev, HX_F64, 1, &(hx_conv_layer_config){.n_in = 3, .n_out = 2, .kernel = {2}}, &layers[0]));
    OK(hx_max_pool_create(dev, 3, (int64_t[]){1, 1, 1}, NULL, &layers[1]));
    OK(hx_batchnorm_create(dev, HX_F64, 4, NULL, &layers[2]));
    for (int i = 0; i < 3; i++) {
        hx_tensor *y = NULL;
        FAILS(hx_layer_forward(layers[i], &ctx, x, &y), HX_ERR_SHAPE);
        cr_expect(y == NULL && strstr(hx_error_message(), "expected") != NULL, "%s", hx_error_message());
        hx_layer_destroy(&layers[i]);
    }
}

Test(conv, a_buffer_and_a_parameter_cannot_share_a_path) {
    hx_layer *layer;
    hx_param *param;
    hx_param_list list = {0};
    OK(hx_batchnorm_create(dev, HX_F64, 2, NULL, &layer));
    OK(hx_layer_params(layer, &list));
    cr_expect_eq(list.n_items, 2, "buffers are no parameters");
    hx_param_list_destroy(&list);
    OK(hx_layer_buffer(layer, "weight", HX_F64, HX_SHAPE(2), &param));
    FAILS(hx_layer_params(layer, &list), HX_ERR_CONFIG);
    FAILS(hx_layer_buffers(layer, &list), HX_ERR_CONFIG);
    hx_layer_destroy(&layer);
}

/* ---- training ---- */

enum { IMAGES = 32 };

/* Images of 8 x 8: stripes across (class 0) or down (class 1) at a phase and frequency that vary, under noise as strong. */
static void make_images(hx_tensor **images, hx_tensor **ids) {
    double pixels[IMAGES][8][8];
    int32_t classes[IMAGES];
    hx_rng rng = {5, hx_rng_stream(HX_RNG_USER, 1)};
    for (int i = 0; i < IMAGES; i++) {
        classes[i] = i % 2;
        for (int r = 0; r < 8; r++)
            for (int c = 0; c < 8; c++)
                pixels[i][r][c] = sin((1.5 + 0.02 * i) * (i % 2 ? c : r) + i) + hx_rng_uniform(rng, (uint64_t)(i * 64 + r * 8 + c)) - 0.5;
    }
    OK(hx_tensor_create(dev, HX_F64, HX_SHAPE(IMAGES, 1, 8, 8), images));
    OK(hx_tensor_write(stream, *images, pixels));
    OK(hx_tensor_create(dev, HX_I32, HX_SHAPE(IMAGES), ids));
    OK(hx_tensor_write(stream, *ids, classes));
}

static hx_layer *small_network(void) {
    hx_layer *parts[6], *layer;
    OK(hx_conv_create(dev, HX_F64, 2, &(hx_conv_layer_config){.n_in = 1, .n_out = 4, .kernel = {3, 3}, .padding = {1, 1}}, &parts[0]));
    OK(hx_batchnorm_create(dev, HX_F64, 4, NULL, &parts[1]));
    OK(hx_activation_create(dev, HX_OP_relu, &parts[2]));
    OK(hx_max_pool_create(dev, 2, (int64_t[]){4, 4}, NULL, &parts[3]));
    OK(hx_flatten_create(dev, &parts[4]));
    OK(hx_linear_create(dev, HX_F64, 16, 2, true, &parts[5]));
    OK(hx_sequential_create_consume(dev, parts, 6, &layer));
    init_all(layer, 0.5);
    return layer;
}

static void descend(hx_layer *layer, const hx_param_list *params, hx_optim *optim, hx_tensor *images, hx_tensor *ids, int64_t step) {
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR count = NULL;
    HX_AUTO_TENSOR scale = NULL;
    ctx.tape = tape;
    ctx.training = true;
    for (int64_t i = 0; i < params->n_items; i++) hx_tensor_grad_reset(params->items[i]->value);
    OK(hx_layer_forward(layer, &ctx, images, &logits));
    OK(hx_cross_entropy(&ctx, logits, ids, HX_IGNORE_INDEX, &loss, &count));
    OK(hx_backward(&ctx, loss, NULL));
    OK(hx_tensor_create(dev, HX_F64, HX_SCALAR, &scale));
    OK(hx_tensor_fill(stream, scale, 1.0 / IMAGES));
    OK(hx_optim_step(optim, &ctx, step, 0.03, scale));
}

static int n_right(hx_layer *layer, hx_tensor *images) {
    HX_AUTO_TENSOR logits = NULL;
    int n = 0;
    ctx.tape = NULL;
    ctx.training = false;
    OK(hx_layer_forward(layer, &ctx, images, &logits));
    double *v = values_of(logits);
    for (int i = 0; i < IMAGES; i++) n += (v[2 * i + 1] > v[2 * i]) == (i % 2 == 1);
    free(v);
    return n;
}

Test(conv, a_small_network_learns_to_tell_stripes_apart) {
    hx_layer *layer = small_network();
    hx_param_list params = {0};
    hx_optim *optim;
    hx_optim_config config = HX_OPTIM_DEFAULT;
    HX_AUTO_TENSOR images = NULL;
    HX_AUTO_TENSOR ids = NULL;
    make_images(&images, &ids);
    OK(hx_layer_params(layer, &params));
    OK(hx_optim_create_default(dev, stream, &params, &config, &optim));
    cr_expect_lt(n_right(layer, images), IMAGES);
    for (int64_t step = 1; step <= 60; step++) descend(layer, &params, optim, images, ids, step);
    cr_expect_eq(n_right(layer, images), IMAGES, "in evaluation, by running statistics: %d of %d", n_right(layer, images), IMAGES);
    hx_optim_destroy(&optim);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&layer);
}

/* ---- checkpoints ---- */

static double sample_x[64], sample_y[32];

/* x [B,2]: batch norm, then a linear layer */
static void open_training(training *r, samples *data) {
    hx_layer *parts[2], *layer;
    OK(hx_batchnorm_create(dev, HX_F64, 2, NULL, &parts[0]));
    OK(hx_linear_create(dev, HX_F64, 2, 1, true, &parts[1]));
    OK(hx_sequential_create_consume(dev, parts, 2, &layer));
    init_all(layer, 0.3);
    for (int i = 0; i < 64; i++) sample_x[i] = sin(3.0 * i) + 0.1 * i;
    for (int i = 0; i < 32; i++) sample_y[i] = sample_x[2 * i] - sample_x[2 * i + 1];
    *data = (samples){.n = 32, .n_in = 2, .batch = 8, .wraps = true, .x = sample_x, .y = sample_y};
    samples_open(data);
    training_open(r, layer, data);
    r->tc.steps = 8;
    training_start(r);
}

/* Copies between a checkpoint's items and memory, all one after the other. */
static void move_items(training *r, double *memory, bool restore) {
    hx_state_list items = {0};
    int n_buffers = 0;
    OK(hx_trainer_items(r->trainer, &items));
    for (int64_t i = 0; i < items.n_items; i++) {
        const size_t n = (size_t)hx_layout_count(items.items[i].layout);
        n_buffers += strcmp(items.items[i].name, "/model/0.running_mean") == 0 || strcmp(items.items[i].name, "/model/0.running_var") == 0;
        memcpy(restore ? items.items[i].data : memory, restore ? memory : items.items[i].data, n * sizeof *memory);
        memory += n;
    }
    cr_expect_eq(n_buffers, 2);
    hx_state_list_destroy(&items);
}

static void take_steps(training *r, int n) {
    hx_train_event event;
    for (int i = 0; i < n; i++) OK(hx_trainer_step(r->trainer, &event));
}

Test(conv, a_resumed_model_has_the_same_running_statistics) {
    static training whole, first, second;
    samples data[3];
    double memory[64] = {0};
    open_training(&whole, &data[0]);
    take_steps(&whole, 8);
    open_training(&first, &data[1]);
    take_steps(&first, 5);
    move_items(&first, memory, false);
    open_training(&second, &data[2]);
    *hx_trainer_state(second.trainer) = *hx_trainer_state(first.trainer);
    move_items(&second, memory, true);
    take_steps(&second, 3);
    for (int k = 0; k < 2; k++) {
        double *want = values_of(whole.layer->children[0]->buffers[k]->value);
        double *got = values_of(second.layer->children[0]->buffers[k]->value);
        cr_expect_eq(memcmp(want, got, 2 * sizeof *want), 0, "%g %g, expected %g %g", got[0], got[1], want[0], want[1]);
        cr_expect_neq(want[0], (double)k, "they have moved");
        free(want);
        free(got);
    }
    training *all[] = {&whole, &first, &second};
    for (int i = 0; i < 3; i++) {
        training_close(all[i]);
        samples_close(&data[i]);
    }
}

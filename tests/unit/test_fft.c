/* Fourier transforms on ref and cpu: against the sum that defines them, against each other, round trips, energy, and
 * gradients against figures of PyTorch 1.13. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"

#define MUST(call) cr_assert_eq((call), HX_OK, "%s", hx_error_message())

typedef struct rig {
    hx_device *device;
    hx_stream *stream;
    hx_ctx ctx;
} rig;

static void rig_open(const char *name, int n_threads, rig *r) {
    *r = (rig){0};
    if (!hx_backend_find("cpu")) MUST(hx_backend_register(&hx_backend_cpu));
    if (!hx_backend_find("ref")) MUST(hx_backend_register(&hx_backend_ref));
    MUST(hx_device_open(name, &(hx_device_config){.n_threads = n_threads}, &r->device));
    MUST(hx_stream_create(r->device, &r->stream));
    r->ctx = (hx_ctx){.device = r->device, .stream = r->stream};
}

static void rig_close(rig *r) {
    hx_stream_destroy(&r->stream);
    hx_device_close(&r->device);
}

/* Run `body` on ref and on cpu, in f32 with c64 and in f64 with c128. */
static void everywhere(void (*body)(rig *r, hx_dtype real)) {
    for (int k = 0; k < 4; k++) {
        rig r;
        rig_open(k / 2 ? "cpu" : "ref", 2, &r);
        body(&r, k % 2 ? HX_F64 : HX_F32);
        rig_close(&r);
    }
}

/* Elements, complex ones as pairs of values. */
static hx_tensor *tensor(rig *r, hx_dtype dtype, hx_shape shape, const double *values) {
    int64_t n = hx_shape_count(&shape), parts = hx_dtype_is_complex(dtype) ? 2 : 1;
    void *bytes = malloc((size_t)n * hx_dtype_bytes(dtype) + 1);
    hx_tensor *x;
    cr_assert_not_null(bytes);
    for (int64_t i = 0; i < n * parts; i++) hx_elem_set(hx_dtype_real(dtype), bytes, i, values[i]);
    MUST(hx_tensor_create(r->device, dtype, shape, &x));
    MUST(hx_tensor_write(r->stream, x, bytes));
    free(bytes);
    return x;
}

/* The parts of x's elements in row-major order, to be freed. */
static double *parts_of(rig *r, hx_tensor *x) {
    HX_AUTO_TENSOR dense = NULL;
    MUST(hx_contiguous(&r->ctx, x, &dense));
    int64_t n = hx_tensor_count(x) * (hx_dtype_is_complex(hx_tensor_dtype(x)) ? 2 : 1);
    void *bytes = malloc(hx_tensor_bytes(dense) + 1);
    double *values = malloc((size_t)n * sizeof *values + 1);
    cr_assert(bytes && values);
    MUST(hx_tensor_read(r->stream, dense, bytes));
    for (int64_t i = 0; i < n; i++) values[i] = hx_elem_get(hx_dtype_real(hx_tensor_dtype(x)), bytes, i);
    free(bytes);
    return values;
}

static void draws(double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = 2 * hx_rng_uniform((hx_rng){3, 1}, (uint64_t)i) - 1;
}

/* |got - want| / |want| in the 2-norm */
static double relative(const double *got, const double *want, int64_t n) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    return sqrt(error) / sqrt(norm);
}

static double square_sum(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* The definition, with angles as exact as long double has them. x, out [n,2] */
static void naive(int64_t n, const double *x, double *out) {
    for (int64_t k = 0; k < n; k++) {
        long double re = 0, im = 0;
        for (int64_t j = 0; j < n; j++) {
            long double angle = -6.28318530717958647692528676655900577L * (long double)(j * k % n) / (long double)n;
            long double c = cosl(angle), s = sinl(angle), a = (long double)x[2 * j], b = (long double)x[2 * j + 1];
            re += a * c - b * s;
            im += a * s + b * c;
        }
        out[2 * k] = (double)re;
        out[2 * k + 1] = (double)im;
    }
}

static const int64_t lengths[] = {1, 2, 3, 5, 8, 17, 1000, 1024};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, LONGEST = 1024 };

/* The input is rounded to the dtype before, so that only the transform's own error shows. */
static void round_all(hx_dtype real, double *x, int64_t n) {
    for (int64_t i = 0; i < n && real == HX_F32; i++) x[i] = (double)(float)x[i];
}

static void against_definition(rig *r, hx_dtype real) {
    static double x[2 * LONGEST], want[2 * LONGEST];
    double limit = real == HX_F32 ? 1e-6 : 1e-12, back_limit = real == HX_F32 ? 1e-6 : 1e-14, worst = 0;
    draws(x, 2 * LONGEST);
    round_all(real, x, 2 * LONGEST);
    for (int i = 0; i < N_LENGTHS; i++) {
        int64_t n = lengths[i];
        HX_AUTO_TENSOR in = tensor(r, hx_dtype_complex(real), HX_SHAPE(n), x);
        HX_AUTO_TENSOR y = NULL;
        HX_AUTO_TENSOR back = NULL;
        MUST(hx_fft(&r->ctx, in, 0, &y));
        MUST(hx_ifft(&r->ctx, y, 0, &back));
        naive(n, x, want);
        double *got = parts_of(r, y), *again = parts_of(r, back), error = relative(got, want, 2 * n);
        worst = fmax(worst, error);
        cr_expect(error <= limit, "%s %s n = %lld: off by %g", hx_device_name(r->device), hx_dtype_name(real), (long long)n, error);
        cr_expect(relative(again, x, 2 * n) <= back_limit, "n = %lld: the round trip is off by %g", (long long)n, relative(again, x, 2 * n));
        double energy = square_sum(got, 2 * n) / (double)n / square_sum(x, 2 * n);
        cr_expect(fabs(energy - 1) <= limit, "n = %lld: Parseval's ratio is 1 + %g", (long long)n, energy - 1);
        free(again);
        free(got);
    }
    printf("fft on %s, %s: largest relative error %.2g\n", hx_device_name(r->device), hx_dtype_name(real), worst);
}
Test(fft, is_the_sum_that_defines_it_keeps_energy_and_comes_back) { everywhere(against_definition); }

/* rfft of x against fft of x + 0i, and back by irfft. */
static void real_against_complex(rig *r, hx_dtype real) {
    static double x[LONGEST], z[2 * LONGEST];
    double limit = real == HX_F32 ? 1e-6 : 1e-14;
    draws(x, LONGEST);
    round_all(real, x, LONGEST);
    for (int64_t i = 0; i < LONGEST; i++) z[2 * i] = x[i];
    for (int i = 0; i < N_LENGTHS; i++) {
        int64_t n = lengths[i];
        HX_AUTO_TENSOR xr = tensor(r, real, HX_SHAPE(n), x);
        HX_AUTO_TENSOR xc = tensor(r, hx_dtype_complex(real), HX_SHAPE(n), z);
        HX_AUTO_TENSOR bins = NULL;
        HX_AUTO_TENSOR whole = NULL;
        HX_AUTO_TENSOR back = NULL;
        MUST(hx_rfft(&r->ctx, xr, -1, &bins));
        MUST(hx_fft(&r->ctx, xc, -1, &whole));
        MUST(hx_irfft(&r->ctx, bins, -1, n, &back));
        cr_assert_eq(hx_tensor_dim(bins, 0), n / 2 + 1);
        double *got = parts_of(r, bins), *want = parts_of(r, whole), *again = parts_of(r, back);
        cr_expect(relative(got, want, 2 * (n / 2 + 1)) <= limit, "n = %lld: rfft is off by %g", (long long)n, relative(got, want, 2 * (n / 2 + 1)));
        cr_expect(got[1] == 0 && (n % 2 || got[n + 1] == 0), "n = %lld: a real bin has an imaginary part", (long long)n);
        cr_expect(relative(again, x, n) <= limit, "n = %lld: irfft is off by %g", (long long)n, relative(again, x, n));
        free(again);
        free(want);
        free(got);
    }
}
Test(fft, of_real_numbers_is_the_first_half_of_the_complex_one) { everywhere(real_against_complex); }

/* [4,3,2] along dims 0 and 1, and of a transposed view, against transforms of the last dim. */
static void other_dims(rig *r, hx_dtype real) {
    double x[48];
    draws(x, 48);
    HX_AUTO_TENSOR in = tensor(r, hx_dtype_complex(real), HX_SHAPE(4, 3, 2), x);
    for (int dim = 0; dim < 2; dim++) {
        HX_AUTO_TENSOR y = NULL;
        HX_AUTO_TENSOR moved = NULL;
        HX_AUTO_TENSOR dense = NULL;
        HX_AUTO_TENSOR z = NULL;
        HX_AUTO_TENSOR want = NULL;
        MUST(hx_fft(&r->ctx, in, dim, &y));
        MUST(hx_transpose(&r->ctx, in, dim, 2, &moved));
        MUST(hx_contiguous(&r->ctx, moved, &dense));
        MUST(hx_fft(&r->ctx, dense, -1, &z));
        MUST(hx_transpose(&r->ctx, z, dim, 2, &want));
        double *a = parts_of(r, y), *b = parts_of(r, want);
        cr_expect_eq(memcmp(a, b, sizeof x), 0, "dim %d on %s", dim, hx_device_name(r->device));
        free(b);
        free(a);
    }
}
Test(fft, along_any_dim_is_that_along_the_last_of_a_transpose) { everywhere(other_dims); }

/* ---- figures of PyTorch 1.13 ---- */

static const double Z[] = {1, 2, -.5, 1, 3, -1};             /* three complex numbers */
static const double X[] = {1, 2, -1, .5, 3, -2};             /* six real ones */
static const double BINS[] = {1, 2, -.5, 1, 3, -1, 2, .5};   /* gradients of bins */
static const double SAMPLES[] = {1, -2, .5, 3, -1};          /* of samples */

typedef struct figure {
    hx_op op;
    int64_t n; /* of the input */
    const double *x;
    hx_op_attr attr;
    const double *dy;
    double y[8], dx[8];
} figure;

static const double DY_FFT[] = {1, -1, 2, 0, 0, .5};
static const figure figures[] = {
    {HX_OP_fft, 3, Z, {.fft = {.scale = 1}}, DY_FFT, {3.5, 2, 1.48205081, 5.03108891, -1.98205081, -1.03108891},
     {3, -.5, .433012702, .482050808, -.433012702, -2.98205081}},
    {HX_OP_fft, 3, Z, {.fft = {.inverse = true, .scale = 1. / 3}}, DY_FFT,
     {1.16666667, .666666667, -.660683603, -.343696304, .494016936, 1.67702964},
     {1, -.166666667, -.144337567, -.994016936, .144337567, .160683603}},
    {HX_OP_rfft, 5, (const double[]){1, 2, -1, .5, 3}, {.fft = {.scale = 1, .interior = 1}}, Z,
     {5.5, 0, 2.94959347, 1.83273439, -3.19959347, -.838799522}, {3.5, -1.94483074, .792717712, 3.87040125, -1.21828822}},
    {HX_OP_rfft, 6, X, {.fft = {.scale = 1, .interior = 1}}, BINS, {3.5, 0, -.5, 0, .5, -6.92820323, 2.5, 0},
     {5.5, -2.75, .0179491924, 2.5, 3.48205081, -2.75}},
    {HX_OP_irfft, 3, Z, {.fft = {.n = 4, .scale = .25, .interior = 1}}, (const double[]){1, -2, .5, 3}, {.75, -1, 1.25, 0},
     {.625, 0, .25, 2.5, .125, 0}},
    {HX_OP_irfft, 3, Z, {.fft = {.n = 5, .scale = .2, .interior = 1}}, SAMPLES,
     {1.2, -.977932298, .117087085, 1.3481605, -.687315287}, {.3, 0, -1.10344419, .968207859, 1.80344419, -.715942415}},
};

static void expect_parts(rig *r, hx_tensor *x, const double *want, const char *what, size_t row) {
    double *got = parts_of(r, x), tolerance = hx_dtype_real(hx_tensor_dtype(x)) == HX_F32 ? 1e-6 : 1e-8; /* nine digits are given */
    int64_t n = hx_tensor_count(x) * (hx_dtype_is_complex(hx_tensor_dtype(x)) ? 2 : 1);
    for (int64_t i = 0; i < n; i++)
        cr_expect(fabs(got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i])), "row %zu on %s: %s %lld is %.10g, expected %.10g", row,
                  hx_device_name(r->device), what, (long long)i, got[i], want[i]);
    free(got);
}

static void pytorch(rig *r, hx_dtype real) {
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        const figure *f = &figures[i];
        hx_ctx ctx = r->ctx;
        HX_AUTO_TENSOR x = tensor(r, f->op == HX_OP_rfft ? real : hx_dtype_complex(real), HX_SHAPE(f->n), f->x);
        HX_AUTO_TENSOR y = NULL;
        MUST(hx_tape_create(r->device, &ctx.tape));
        hx_tensor_set_requires_grad(x, true);
        MUST(hx_op_run(&ctx, f->op, &x, 1, &f->attr, 0, &y));
        HX_AUTO_TENSOR dy = tensor(r, hx_tensor_dtype(y), hx_tensor_shape(y), f->dy);
        expect_parts(r, y, f->y, "element", i);
        MUST(hx_backward(&ctx, y, dy));
        expect_parts(r, hx_tensor_grad(x), f->dx, "gradient", i);
        hx_tape_destroy(&ctx.tape);
    }
}
Test(fft, values_and_gradients_are_pytorchs) { everywhere(pytorch); }

/* ---- what is odd ---- */

static void unread_parts(rig *r, hx_dtype real) {
    for (int64_t n = 4; n <= 5; n++) {
        double z[] = {1, NAN, 2, -1, 3, n == 4 ? NAN : 1};
        HX_AUTO_TENSOR x = tensor(r, hx_dtype_complex(real), HX_SHAPE(3), z);
        HX_AUTO_TENSOR y = NULL;
        MUST(hx_irfft(&r->ctx, x, 0, n, &y));
        double *got = parts_of(r, y);
        for (int64_t i = 0; i < n; i++) cr_expect(isfinite(got[i]), "n = %lld on %s", (long long)n, hx_device_name(r->device));
        free(got);
    }
}
Test(fft, irfft_does_not_read_imaginary_parts_of_bins_that_are_real) { everywhere(unread_parts); }

static void empty(rig *r, hx_dtype real) {
    HX_AUTO_TENSOR batch = tensor(r, real, HX_SHAPE(0, 4), X);
    HX_AUTO_TENSOR nothing = tensor(r, real, HX_SHAPE(2, 0), X);
    HX_AUTO_TENSOR half = tensor(r, HX_BF16, HX_SHAPE(4), X);
    HX_AUTO_TENSOR y = NULL;
    hx_tensor *none = NULL;
    MUST(hx_rfft(&r->ctx, batch, 1, &y));
    cr_expect_eq(hx_tensor_dim(y, 1), 3);
    cr_expect_eq(hx_rfft(&r->ctx, nothing, 1, &none), HX_ERR_SHAPE);
    cr_expect(strstr(hx_error_message(), "rfft") && strstr(hx_error_message(), "[2,0]"), "%s", hx_error_message());
    cr_expect_eq(hx_rfft(&r->ctx, batch, 2, &none), HX_ERR_SHAPE);
    cr_expect_eq(hx_irfft(&r->ctx, y, 1, 0, &none), HX_ERR_ARG);
    cr_expect_eq(hx_irfft(&r->ctx, y, 1, 6, &none), HX_ERR_SHAPE);
    cr_expect_eq(hx_rfft(&r->ctx, half, 0, &none), HX_ERR_DTYPE);
    cr_expect(strstr(hx_error_message(), "bf16"), "%s", hx_error_message());
    cr_expect_null(none);
}
Test(fft, takes_an_empty_batch_and_refuses_an_empty_signal_and_half_types) { everywhere(empty); }

/* ---- long convolutions ---- */

enum { B = 3, C = 2, LONG = 700 }; /* of a transform of 768 */

/* rfft of x with as many zeros behind it, so that nothing comes round. */
static void padded_rfft(rig *r, hx_tensor *x, int64_t n_after, hx_tensor **out) {
    int64_t none[HX_MAX_DIMS] = {0}, after[HX_MAX_DIMS] = {0};
    HX_AUTO_TENSOR padded = NULL;
    after[hx_tensor_ndim(x) - 1] = n_after;
    MUST(hx_pad(&r->ctx, x, none, after, HX_PAD_ZERO, 0, &padded));
    MUST(hx_rfft(&r->ctx, padded, -1, out));
}

static void against_padded(rig *r, hx_dtype real) {
    static double x[B * C * LONG];
    draws(x, B * C * LONG);
    const int64_t taps[] = {1, 9, LONG};
    for (int i = 0; i < 3; i++) {
        HX_AUTO_TENSOR in = tensor(r, real, HX_SHAPE(B, C, LONG), x);
        HX_AUTO_TENSOR h = tensor(r, real, HX_SHAPE(C, taps[i]), x + 5);
        HX_AUTO_TENSOR y = NULL;
        HX_AUTO_TENSOR bins_x = NULL;
        HX_AUTO_TENSOR bins_h = NULL;
        HX_AUTO_TENSOR product = NULL;
        HX_AUTO_TENSOR whole = NULL;
        HX_AUTO_TENSOR causal = NULL;
        MUST(hx_fftconv(&r->ctx, in, h, NULL, &y));
        padded_rfft(r, in, LONG, &bins_x);
        padded_rfft(r, h, 2 * LONG - taps[i], &bins_h);
        MUST(hx_mul(&r->ctx, bins_x, bins_h, &product));
        MUST(hx_irfft(&r->ctx, product, -1, 2 * LONG, &whole));
        MUST(hx_slice(&r->ctx, whole, 2, 0, LONG, 1, &causal));
        double *got = parts_of(r, y), *want = parts_of(r, causal);
        cr_expect_lt(relative(got, want, B * C * LONG), real == HX_F32 ? 1e-6 : 1e-14, "%lld taps: off by %g", (long long)taps[i],
                     relative(got, want, B * C * LONG));
        free(got);
        free(want);
    }
}
Test(fftconv, is_the_product_of_padded_transforms) { everywhere(against_padded); }

/* What an infinity or a NaN spoils is its own row, and the gradient of its channel's kernel. */
Test(fftconv, keeps_what_is_not_finite_in_its_row) {
    static double x[B * C * LONG], spoiled[B * C * LONG];
    draws(x, B * C * LONG);
    memcpy(spoiled, x, sizeof x);
    spoiled[(1 * C + 1) * LONG + 123] = NAN; /* row 1,1 */
    spoiled[(2 * C + 1) * LONG] = INFINITY;  /* row 2,1 */
    for (int k = 0; k < 2; k++) {
        rig r;
        rig_open("cpu", 2, &r);
        hx_dtype real = k ? HX_F64 : HX_F32;
        HX_AUTO_TENSOR good = tensor(&r, real, HX_SHAPE(B, C, LONG), x);
        HX_AUTO_TENSOR bad = tensor(&r, real, HX_SHAPE(B, C, LONG), spoiled);
        HX_AUTO_TENSOR h = tensor(&r, real, HX_SHAPE(C, LONG), x + 5);
        hx_tensor *want[4] = {NULL}, *got[4] = {NULL};
        MUST(hx_fftconv(&r.ctx, good, h, NULL, &want[0]));
        MUST(hx_fftconv(&r.ctx, bad, h, NULL, &got[0]));
        MUST(hx_op_run(&r.ctx, HX_OP_fftconv_bwd, (hx_tensor *[]){good, h, good}, 3, NULL, 0, want + 1));
        MUST(hx_op_run(&r.ctx, HX_OP_fftconv_bwd, (hx_tensor *[]){bad, h, good}, 3, NULL, 0, got + 1));
        for (int o = 0; o < 4; o++) {
            double *a = parts_of(&r, want[o]), *b = parts_of(&r, got[o]);
            int64_t n = hx_tensor_count(want[o]), n_row = o < 2 ? LONG : n / C;
            for (int64_t i = 0; i < n; i++) {
                int64_t row = i / n_row;
                bool is_spoiled = o == 0 ? row == 1 * C + 1 || row == 2 * C + 1 : o >= 2 && row == 1;
                cr_expect(is_spoiled ? !isfinite(b[i]) : a[i] == b[i], "output %d, element %lld: %g for %g", o, (long long)i, b[i], a[i]);
            }
            free(a);
            free(b);
            hx_tensor_destroy(&want[o]);
            hx_tensor_destroy(&got[o]);
        }
        hx_tensor_destroy(&good);
        hx_tensor_destroy(&bad);
        hx_tensor_destroy(&h);
        rig_close(&r);
    }
}

/* More lengths than the cpu device keeps plans for, twice, so that plans are made again after they had to go. */
Test(fft, gives_the_same_bits_when_its_plan_had_to_go) {
    enum { N = 150 };
    static double x[2 * N], first[N][2 * N], first_conv[N][N];
    rig r;
    rig_open("cpu", 1, &r);
    draws(x, 2 * N);
    for (int pass = 0; pass < 2; pass++)
        for (int n = 1; n <= N; n++) {
            HX_AUTO_TENSOR in = tensor(&r, HX_C128, HX_SHAPE(n), x);
            HX_AUTO_TENSOR y = NULL;
            MUST(hx_fft(&r.ctx, in, 0, &y));
            double *got = parts_of(&r, y);
            if (pass == 0) memcpy(first[n - 1], got, sizeof(double) * 2 * (size_t)n);
            else cr_expect_eq(memcmp(first[n - 1], got, sizeof(double) * 2 * (size_t)n), 0, "n = %d", n);
            free(got);
            HX_AUTO_TENSOR signal = tensor(&r, HX_F64, HX_SHAPE(1, 1, n), x);
            HX_AUTO_TENSOR h = tensor(&r, HX_F64, HX_SHAPE(1, n), x + 1);
            HX_AUTO_TENSOR z = NULL;
            MUST(hx_fftconv(&r.ctx, signal, h, NULL, &z));
            got = parts_of(&r, z);
            if (pass == 0) memcpy(first_conv[n - 1], got, sizeof(double) * (size_t)n);
            else cr_expect_eq(memcmp(first_conv[n - 1], got, sizeof(double) * (size_t)n), 0, "convolution, n = %d", n);
            free(got);
        }
    rig_close(&r);
}

/* Two devices plan and transform at the same time. */
static void *many_lengths(void *arg) {
    double *worst = arg, x[2 * 64], want[2 * 64];
    rig r;
    rig_open("cpu", 2, &r);
    draws(x, 2 * 64);
    for (int n = 1; n <= 64; n++) {
        HX_AUTO_TENSOR in = tensor(&r, HX_C128, HX_SHAPE(n), x);
        HX_AUTO_TENSOR y = NULL;
        MUST(hx_fft(&r.ctx, in, 0, &y));
        naive(n, x, want);
        double *got = parts_of(&r, y);
        *worst = fmax(*worst, relative(got, want, 2 * n));
        free(got);
    }
    rig_close(&r);
    return NULL;
}

Test(fft, works_on_two_devices_in_two_threads) {
    pthread_t threads[2];
    double worst[2] = {0};
    rig r;
    rig_open("cpu", 1, &r); /* registers the backends before there are threads */
    for (int i = 0; i < 2; i++) cr_assert_eq(pthread_create(&threads[i], NULL, many_lengths, &worst[i]), 0);
    for (int i = 0; i < 2; i++) cr_assert_eq(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 2; i++) cr_expect_lt(worst[i], 1e-12, "thread %d is off by %g", i, worst[i]);
    rig_close(&r);
}

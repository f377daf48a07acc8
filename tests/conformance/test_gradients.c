/* Every derivative against finite differences, in f64, on every computing backend. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/conformance/gradient.h"

/* ---- ops of the table ---- */

static void check_backend(const char *backend) {
    conf_rig ref, rig;
    conf_rig_open("ref", 1, &ref);
    conf_rig_open(backend, 2, &rig);
    for (int i = 0; i < conf_n_cases; i++)
        if (conf_cases[i].grad) conf_gradient_check(&ref, &rig, &conf_cases[i]);
    conf_rig_close(&rig);
    conf_rig_close(&ref);
}

Test(gradients, of_every_op_agree_with_finite_differences_on_ref) {
    for (int i = 0; conf_seed_use(i); i++) check_backend("ref");
}

Test(gradients, of_every_op_agree_with_finite_differences_on_the_other_backends) {
    for (int i = 0; conf_seed_use(i); i++)
        for (int b = 0; conf_backend(b) != NULL; b++) check_backend(conf_backend(b));
}

Test(gradients, every_op_with_a_derivative_has_a_case) {
    for (int op = 0; op < HX_OP_COUNT; op++) {
        const hx_op_info *info = hx_op_info_get((hx_op)op);
        int n = 0;
        for (int i = 0; i < conf_n_cases; i++) n += conf_cases[i].op == (hx_op)op && conf_cases[i].grad;
        if (info->vjp && !(info->flags & HX_OP_VIEW) && op != HX_OP_conj) /* complex: a composition, below */
            cr_expect_gt(n, 0, "%s is never gradient-checked", info->name);
        if (!info->vjp) cr_expect_eq(n, 0, "%s has no derivative", info->name);
    }
}

/* ---- f32 and bf16 against the f64 gradient, which the differences above have proved ---- */

/* Limits of |g - g64| / max(1, |g64|) in the 2-norm of a tensor. f32: some ten roundings and sums of a dozen terms.
 * bf16: the operands are exact, but saved outputs, what passes between ops and dy are rounded to 8 bits. */
#define LIMIT_F32  1e-5
#define LIMIT_BF16 3e-2

/* Gradients of sum(seed * op(operands)) for operands and a seed that all floating dtypes hold exactly. */
typedef struct gradients {
    int n;
    int64_t count[HX_OP_MAX_IN];   /* 0: no gradient */
    double *values[HX_OP_MAX_IN];  /* [count], owned */
} gradients;

static void gradients_free(gradients *g) {
    for (int k = 0; k < g->n; k++) free(g->values[k]);
}

static void round_operands(conf_operands *in) {
    for (int k = 0; k < in->n; k++)
        for (int64_t i = 0; i < hx_shape_count(&in->items[k].base) && hx_dtype_is_float(in->items[k].dtype); i++)
            in->items[k].values[i] = (double)hx_bf16_to_float(hx_bf16_from_double(in->items[k].values[i]));
}

static hx_status make_seed(conf_rig *rig, hx_tensor *y, hx_tensor **out) {
    int64_t n = hx_tensor_count(y);
    conf_operand seed = {.dtype = hx_tensor_dtype(y), .shape = hx_tensor_shape(y), .base = hx_tensor_shape(y)};
    seed.values = malloc((size_t)n * sizeof(double) + 1);
    cr_assert_not_null(seed.values);
    for (int64_t i = 0; i < n; i++) seed.values[i] = (double)(i * 7 % 16 - 5) / 8;
    conf_operand_upload(rig, &seed, out);
    free(seed.values);
    return HX_OK;
}

static void read_gradient(conf_rig *rig, hx_tensor *leaf, int64_t *count, double **values) {
    hx_tensor *g = hx_tensor_grad(leaf);
    if (g == NULL) return;
    *count = hx_tensor_count(g);
    void *bytes = malloc((size_t)*count * sizeof(double) + 1);
    *values = malloc((size_t)*count * sizeof(double) + 1);
    cr_assert(bytes && *values);
    MUST(hx_tensor_read(rig->stream, g, bytes));
    for (int64_t i = 0; i < *count; i++) (*values)[i] = hx_elem_get(hx_tensor_dtype(g), bytes, i);
    free(bytes);
}

/* Forward and backward of a case in a dtype. */
static hx_status differentiate(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype, gradients *out) {
    conf_operands in;
    hx_tensor *bases[HX_OP_MAX_IN] = {NULL}, *y = NULL, *seed = NULL;
    hx_ctx ctx = rig->ctx;
    hx_status status;
    conf_operands_make(ref, c, dtype, &in);
    round_operands(&in);
    *out = (gradients){.n = in.n};
    for (int k = 0; k < in.n; k++) conf_upload_parts(rig, &in.items[k], &bases[k]);
    MUST(hx_tape_create(rig->device, &ctx.tape));
    HX_TRY_GOTO(conf_apply(&ctx, &(conf_function){c, &in}, bases, in.n, &y), done);
    HX_TRY_GOTO(make_seed(rig, y, &seed), done);
    HX_TRY_GOTO(hx_backward(&ctx, y, seed), done);
    for (int k = 0; k < in.n; k++) read_gradient(rig, bases[k], &out->count[k], &out->values[k]);
done:
    hx_tape_destroy(&ctx.tape);
    hx_tensor_destroy(&seed);
    hx_tensor_destroy(&y);
    for (int k = 0; k < in.n; k++) hx_tensor_destroy(&bases[k]);
    conf_operands_free(&in);
    return status;
}

/* The largest deviation of a tensor. */
static double deviation(const gradients *want, const gradients *got) {
    double worst = 0;
    for (int k = 0; k < want->n; k++) {
        double error = 0, norm = 0;
        if (want->count[k] != got->count[k]) return INFINITY;
        for (int64_t i = 0; i < want->count[k]; i++) {
            error += pow(got->values[k][i] - want->values[k][i], 2);
            norm += pow(want->values[k][i], 2);
        }
        error = sqrt(error) / fmax(1, sqrt(norm));
        if (!(error <= worst)) worst = error; /* NaN too */
    }
    return worst;
}

static void check_low_precision(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype, double limit) {
    gradients want, got;
    char text[256];
    MUST(differentiate(ref, ref, c, HX_F64, &want));
    hx_status status = differentiate(ref, rig, c, dtype, &got);
    if (status == HX_ERR_UNSUPPORTED || (hx_dtype_is_half(dtype) && status == HX_ERR_DTYPE)) {
        printf("%s on %s: unsupported (%s)\n", conf_case_text(c, dtype, text, sizeof text),
               hx_device_name(rig->device), hx_error_message());
    } else {
        cr_expect_eq(status, HX_OK, "%s: %s", conf_case_text(c, dtype, text, sizeof text), hx_error_message());
        double off = status == HX_OK ? deviation(&want, &got) : 0;
        cr_expect(off <= limit, "%s on %s: gradient off by %g", conf_case_text(c, dtype, text, sizeof text),
                  hx_device_name(rig->device), off);
    }
    gradients_free(&got);
    gradients_free(&want);
}

Test(gradients, in_f32_and_bf16_are_near_the_f64_gradient) {
    conf_rig ref, rig;
    conf_rig_open("ref", 1, &ref);
    for (int b = -1; b < 0 || conf_backend(b) != NULL; b++) {
        conf_rig_open(b < 0 ? "ref" : conf_backend(b), 2, &rig);
        for (int i = 0; i < conf_n_cases; i++) {
            if (!conf_cases[i].grad) continue;
            check_low_precision(&ref, &rig, &conf_cases[i], HX_F32, LIMIT_F32);
            check_low_precision(&ref, &rig, &conf_cases[i], HX_BF16, LIMIT_BF16);
        }
        conf_rig_close(&rig);
    }
    conf_rig_close(&ref);
}

/* ---- views and compositions, through the typed functions: in[0] [3,4,6], in[1] [4,6] ---- */

static hx_status reshape(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    return hx_reshape(ctx, in[0], HX_SHAPE(6, -1), out);
}

static hx_status reshape_of_a_transpose(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in,
                                        hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR t = NULL;
    HX_TRY(hx_transpose(ctx, in[0], 0, 2, &t));
    return hx_reshape(ctx, t, HX_SHAPE(-1), out);
}

static hx_status permute(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    return hx_permute(ctx, in[0], (int[]){2, 0, 1}, out);
}

static hx_status slice(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    return hx_slice(ctx, in[0], 1, 1, 4, 2, out);
}

static hx_status expand(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    return hx_expand(ctx, in[1], HX_SHAPE(5, 4, 6), out);
}

static hx_status reshape_of_strides(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR t = NULL;
    HX_TRY(hx_transpose(ctx, in[0], 0, 2, &t));
    return hx_reshape(ctx, t, HX_SHAPE(2, 3, 4, 1, 3), out);
}

static hx_status squeeze_and_unsqueeze(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR part = NULL;
    HX_AUTO_TENSOR flat = NULL;
    HX_AUTO_TENSOR column = NULL;
    HX_TRY(hx_slice(ctx, in[0], 1, 2, 3, 1, &part));
    HX_TRY(hx_squeeze(ctx, part, 1, &flat));
    HX_TRY(hx_unsqueeze(ctx, flat, -1, &column));
    return hx_mul(ctx, column, column, out);
}

/* Pairs turned and taken apart again, with one factor per real and one per imaginary part. */
static hx_status complex_views(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR pairs = NULL;
    HX_AUTO_TENSOR z = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR dense = NULL;
    HX_AUTO_TENSOR parts = NULL;
    HX_AUTO_TENSOR factor = NULL;
    HX_TRY(hx_reshape(ctx, in[0], HX_SHAPE(3, 4, 3, 2), &pairs));
    HX_TRY(hx_view_as_complex(ctx, pairs, &z));
    HX_TRY(hx_transpose(ctx, z, 0, 1, &t));
    HX_TRY(hx_contiguous(ctx, t, &dense));
    HX_TRY(hx_view_as_real(ctx, dense, &parts));
    HX_TRY(hx_reshape(ctx, in[1], HX_SHAPE(4, 1, 3, 2), &factor));
    return hx_mul(ctx, parts, factor, out);
}

static hx_status mean(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    return hx_mean(ctx, in[0], (int[]){-1, 0}, 2, true, out);
}

/* Parts of a split used unequally: one twice, one not at all. */
static hx_status split(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    hx_tensor *part[3] = {NULL};
    hx_status status = HX_OK;
    HX_TRY(hx_split(ctx, in[0], -1, (int64_t[]){2, 2, 2}, 3, part));
    HX_TRY_GOTO(hx_mul(ctx, part[0], part[2], out), done);
done:
    for (int k = 0; k < 3; k++) hx_tensor_destroy(&part[k]);
    return status;
}

/* x is used three times, in[1] broadcasts against it. */
static hx_status shared_input(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR square = NULL;
    HX_AUTO_TENSOR product = NULL;
    HX_TRY(hx_mul(ctx, in[0], in[0], &square));
    HX_TRY(hx_mul(ctx, square, in[1], &product));
    return hx_add(ctx, product, in[0], out);
}

/* What the embedding weight of a GPT with tied weights goes through: one leaf, two ops, two kinds of
 * gradient. */
static hx_status tied_weight(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR rows = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_TRY(hx_tensor_create(ctx->device, HX_I32, HX_SHAPE(3), &ids));
    HX_TRY(hx_tensor_write(ctx->stream, ids, (int32_t[]){2, 0, 2}));
    HX_TRY(hx_embedding_op(ctx, ids, in[1], &rows));
    HX_TRY(hx_unary(ctx, HX_OP_gelu_tanh, rows, &y));
    return hx_linear_op(ctx, y, in[1], NULL, out);
}

/* sum over a dim of 2 (conj(a b) - a) + 1 + b, the inputs seen as complex a [3,4,3], b [4,3] */
static hx_status complex_arithmetic(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    enum { PAIRS_A, A, PAIRS_B, B, AB, CONJ, LESS, TWICE, ALL, SUM, N };
    hx_tensor *t[N] = {NULL};
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_reshape(ctx, in[0], HX_SHAPE(3, 4, 3, 2), &t[PAIRS_A]), done);
    HX_TRY_GOTO(hx_reshape(ctx, in[1], HX_SHAPE(4, 3, 2), &t[PAIRS_B]), done);
    HX_TRY_GOTO(hx_view_as_complex(ctx, t[PAIRS_A], &t[A]), done);
    HX_TRY_GOTO(hx_view_as_complex(ctx, t[PAIRS_B], &t[B]), done);
    HX_TRY_GOTO(hx_mul(ctx, t[A], t[B], &t[AB]), done);
    HX_TRY_GOTO(hx_unary(ctx, HX_OP_conj, t[AB], &t[CONJ]), done);
    HX_TRY_GOTO(hx_sub(ctx, t[CONJ], t[A], &t[LESS]), done);
    HX_TRY_GOTO(hx_affine(ctx, t[LESS], 2, 1, &t[TWICE]), done);
    HX_TRY_GOTO(hx_add(ctx, t[TWICE], t[B], &t[ALL]), done);
    HX_TRY_GOTO(hx_sum(ctx, t[ALL], (int[]){1}, 1, false, &t[SUM]), done);
    HX_TRY_GOTO(hx_view_as_real(ctx, t[SUM], out), done);
done:
    for (int k = 0; k < N; k++) hx_tensor_destroy(&t[k]);
    return status;
}

/* Movement of complex numbers: gathered, padded, joined with the start. */
static hx_status complex_movement(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR pairs = NULL;
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR index = NULL;
    HX_AUTO_TENSOR picked = NULL;
    HX_AUTO_TENSOR padded = NULL;
    HX_AUTO_TENSOR joined = NULL;
    HX_TRY(hx_reshape(ctx, in[1], HX_SHAPE(12, 2), &pairs));
    HX_TRY(hx_view_as_complex(ctx, pairs, &x));
    HX_TRY(hx_tensor_create(ctx->device, HX_I64, HX_SHAPE(5), &index));
    HX_TRY(hx_tensor_write(ctx->stream, index, (int64_t[]){3, 0, 11, 3, 7}));
    HX_TRY(hx_gather(ctx, x, 0, index, &picked));
    HX_TRY(hx_pad(ctx, picked, (int64_t[]){2}, (int64_t[]){3}, HX_PAD_REFLECT, 0, &padded));
    HX_TRY(hx_cat(ctx, (hx_tensor *[]){padded, x}, 2, 0, &joined));
    return hx_view_as_real(ctx, joined, out);
}

static hx_status matmul_of_vectors(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR row = NULL;
    HX_AUTO_TENSOR v = NULL;
    HX_AUTO_TENSOR w = NULL;
    HX_TRY(hx_slice(ctx, in[1], 0, 1, 2, 1, &row));
    HX_TRY(hx_squeeze(ctx, row, 0, &v));        /* [6] */
    HX_TRY(hx_matmul(ctx, in[0], v, &w));       /* [3,4,6] [6] -> [3,4] */
    return hx_matmul(ctx, w, in[1], out);       /* [3,4] [4,6] -> [3,6] */
}

/* More than one call takes, on a new dim. */
static hx_status stack(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    hx_tensor *many[19];
    for (int k = 0; k < 19; k++) many[k] = in[1];
    return hx_stack(ctx, many, 19, -1, out);
}

static hx_status std_of_log_softmax(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    HX_AUTO_TENSOR y = NULL;
    HX_TRY(hx_log_softmax(ctx, in[0], 1, &y));
    return hx_std(ctx, y, (int[]){0, 2}, 2, 1, false, out);
}

/* The loss of the whole by two parts of the vocabulary, each of which knows the logsumexp of all: their gradients are those of
 * the whole though none flows to the logsumexp. */
static hx_status loss_by_parts(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    static const int64_t sizes[] = {2, 4};
    hx_tensor *logits[2] = {NULL}, *sum[2] = {NULL}, *count[2] = {NULL};
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR lse = NULL;
    hx_status status = HX_OK;
    HX_TRY(hx_tensor_create(ctx->device, HX_I32, HX_SHAPE(4), &ids));
    HX_TRY(hx_tensor_write(ctx->stream, ids, (int32_t[]){2, HX_IGNORE_INDEX, 1, 5}));
    HX_TRY(hx_logsumexp_part(ctx, in[1], ids, 0, 0, &lse));
    HX_TRY(hx_split(ctx, in[1], 1, sizes, 2, logits));
    for (int k = 0; k < 2; k++)
        HX_TRY_GOTO(hx_cross_entropy_part(ctx, logits[k], ids, HX_IGNORE_INDEX, 2 * k, 6, lse, &sum[k], &count[k]), done);
    HX_TRY_GOTO(hx_add(ctx, sum[0], sum[1], out), done);
done:
    for (int k = 0; k < 2; k++) {
        hx_tensor_destroy(&count[k]);
        hx_tensor_destroy(&sum[k]);
        hx_tensor_destroy(&logits[k]);
    }
    return status;
}

/* Rows of a table that is in two places. */
static hx_status lookup_by_parts(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    (void)n_in;
    static const int64_t sizes[] = {1, 3};
    hx_tensor *w[2] = {NULL}, *rows[2] = {NULL};
    HX_AUTO_TENSOR ids = NULL;
    hx_status status = HX_OK;
    HX_TRY(hx_tensor_create(ctx->device, HX_I64, HX_SHAPE(2, 3), &ids));
    HX_TRY(hx_tensor_write(ctx->stream, ids, (int64_t[]){3, 0, 1, 0, 3, 3}));
    HX_TRY(hx_split(ctx, in[1], 0, sizes, 2, w));
    for (int k = 0; k < 2; k++) HX_TRY_GOTO(hx_embedding_part_op(ctx, ids, w[k], k, 4, &rows[k]), done);
    HX_TRY_GOTO(hx_add(ctx, rows[0], rows[1], out), done);
done:
    for (int k = 0; k < 2; k++) {
        hx_tensor_destroy(&rows[k]);
        hx_tensor_destroy(&w[k]);
    }
    return status;
}

static const struct {
    const char *name;
    hx_gradcheck_fn fn;
} functions[] = {{"reshape", reshape},
                 {"reshape of a transpose", reshape_of_a_transpose},
                 {"reshape of strides", reshape_of_strides},
                 {"squeeze and unsqueeze", squeeze_and_unsqueeze},
                 {"complex views", complex_views},
                 {"permute", permute},
                 {"slice", slice},
                 {"expand", expand},
                 {"split", split},
                 {"mean", mean},
                 {"an input used three times", shared_input},
                 {"a tied weight", tied_weight},
                 {"complex arithmetic", complex_arithmetic},
                 {"complex movement", complex_movement},
                 {"matmul of vectors", matmul_of_vectors},
                 {"stack", stack},
                 {"std of log_softmax", std_of_log_softmax},
                 {"a loss by parts of the vocabulary", loss_by_parts},
                 {"a lookup in parts of a table", lookup_by_parts}};

static void check_functions(const char *backend) {
    static const conf_case c = {.in = "3,4,6 4,6"};
    conf_rig rig;
    conf_operands in;
    hx_tensor *x[2];
    conf_rig_open(backend, 2, &rig);
    conf_operands_make(&rig, &c, HX_F64, &in);
    for (int k = 0; k < 2; k++) {
        conf_operand_upload(&rig, &in.items[k], &x[k]);
        hx_tensor_set_requires_grad(x[k], true);
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        double worst = -1;
        hx_status status = hx_gradcheck(&rig.ctx, functions[i].fn, NULL, x, 2, &worst);
        cr_expect_eq(status, HX_OK, "%s on %s: %s", functions[i].name, backend, hx_error_message());
        cr_expect(worst >= 0 && worst <= CONF_GRADIENT_LIMIT, "%s on %s: gradient off by %g", functions[i].name, backend,
                  worst);
    }
    for (int k = 0; k < 2; k++) hx_tensor_destroy(&x[k]);
    conf_operands_free(&in);
    conf_rig_close(&rig);
}

Test(gradients, of_views_and_compositions_agree_with_finite_differences) {
    check_functions("ref");
    for (int b = 0; conf_backend(b) != NULL; b++) check_functions(conf_backend(b));
}

/* ---- the check itself ---- */

/* Computes x^3, and says that its derivative is 2.99 x^2. */
static hx_status wrong_cube_vjp(hx_vjp *v) {
    hx_tensor *dst;
    bool accumulate;
    double x[2], g[2];
    HX_TRY(hx_tensor_read(v->ctx->stream, v->in[0], x));
    HX_TRY(hx_tensor_read(v->ctx->stream, v->grad_out[0], g));
    for (int i = 0; i < 2; i++) x[i] = *(double *)v->user * x[i] * x[i] * g[i];
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    return hx_tensor_write(v->ctx->stream, dst, x);
}

static hx_status cube(hx_ctx *ctx, void *factor, hx_tensor *const *in, int n_in, hx_tensor **out) {
    static const char name[] = "cube";
    hx_ctx quiet = *ctx;
    HX_AUTO_TENSOR square = NULL;
    HX_AUTO_TENSOR y = NULL;
    quiet.tape = NULL;
    HX_TRY(hx_mul(&quiet, in[0], in[0], &square));
    HX_TRY(hx_mul(&quiet, square, in[0], &y));
    hx_custom custom = {.name = name, .vjp = wrong_cube_vjp, .user = factor, .saves = 1};
    HX_TRY(hx_tape_record_custom(ctx, &custom, in, n_in, &y, 1));
    *out = hx_tensor_move(&y);
    return HX_OK;
}

static double cube_error(double factor) {
    conf_rig rig;
    hx_tensor *x;
    double worst = -1;
    conf_rig_open("ref", 1, &rig);
    MUST(hx_tensor_create(rig.device, HX_F64, HX_SHAPE(2), &x));
    MUST(hx_tensor_write(rig.stream, x, (double[]){1.5, -0.7}));
    hx_tensor_set_requires_grad(x, true);
    MUST(hx_gradcheck(&rig.ctx, cube, &factor, &x, 1, &worst));
    hx_tensor_destroy(&x);
    conf_rig_close(&rig);
    return worst;
}

Test(gradcheck, accepts_a_right_derivative_to_1e_10) { cr_expect_lt(cube_error(3), 1e-10); }

Test(gradcheck, notices_a_derivative_that_is_wrong_by_a_third_of_a_percent) {
    cr_expect_gt(cube_error(2.99), 1e-4);
}

Test(gradcheck, does_not_let_nan_pass) { cr_expect_gt(cube_error(NAN), 1); }

Test(gradcheck, refuses_f32_and_leaves_the_result_alone) {
    conf_rig rig;
    hx_tensor *x;
    double worst = -1;
    conf_rig_open("ref", 1, &rig);
    MUST(hx_tensor_create(rig.device, HX_F32, HX_SHAPE(2), &x));
    hx_tensor_set_requires_grad(x, true);
    cr_expect_eq(hx_gradcheck(&rig.ctx, cube, NULL, &x, 1, &worst), HX_ERR_DTYPE);
    cr_expect_eq(worst, -1);
    hx_tensor_destroy(&x);
    conf_rig_close(&rig);
}

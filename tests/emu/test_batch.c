/* Batches on the cuda device: the calls that one launch stands for have the bits of the calls one by one, and there are as few
 * launches as promised. HELIX_CUDA_PLUGIN names the emulator. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/nn/layers.h"
#include "core/op/ops.h"
#include "core/optim/optim.h"
#include "launch/compose.h"

#define MUST(call) cr_assert((call) == HX_OK, "%s", hx_error_message())

static hx_device *dev;
static hx_stream *stream;
static hx_ctx ctx;
static char log_path[] = "/tmp/helix-launches-XXXXXX";

static void open_device(void) {
    int fd = mkstemp(log_path);
    cr_assert(fd >= 0);
    close(fd);
    setenv("HELIX_EMU_LOG", log_path, 1);
    MUST(hx_register_backends());
    MUST(hx_device_open("cuda", NULL, &dev));
    MUST(hx_stream_create(dev, &stream));
    ctx = (hx_ctx){.device = dev, .stream = stream};
}

static void close_device(void) {
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
    unlink(log_path);
}

TestSuite(batch, .init = open_device, .fini = close_device);

/* Kernels launched since the last time, all or those of one name. */
static int launches(const char *name) {
    static long at;
    char line[128];
    int n = 0;
    FILE *f = fopen(log_path, "r");
    cr_assert_not_null(f);
    fseek(f, at, SEEK_SET);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        n += name == NULL || strcmp(line, name) == 0;
    }
    at = ftell(f);
    fclose(f);
    return n;
}

/* ---- tensors: a shape, drawn values, and where in its buffer it begins ---- */

static hx_tensor *drawn(hx_dtype dtype, int64_t n, int64_t offset, uint64_t id) {
    hx_tensor *base, *view;
    MUST(hx_tensor_create(dev, dtype, HX_SHAPE(n + offset), &base));
    MUST(hx_fill_uniform(&ctx, base, (hx_rng){id, 0}, 0, 0.5, 2));
    MUST(hx_tensor_slice(base, 0, offset, offset + n, 1, &view));
    hx_tensor_destroy(&base);
    return view;
}

static void expect_same(hx_tensor *a, hx_tensor *b, const char *what) {
    const size_t n_bytes = hx_tensor_bytes(a);
    unsigned char *x = malloc(n_bytes + 1), *y = malloc(n_bytes + 1);
    size_t at = 0;
    cr_assert(x && y);
    MUST(hx_tensor_read(stream, a, x));
    MUST(hx_tensor_read(stream, b, y));
    while (at < n_bytes && x[at] == y[at]) at++;
    cr_expect_eq(at, n_bytes, "another %s in a batch, from byte %zu on", what, at);
    free(y);
    free(x);
}

enum { N_OPERANDS = 5, N_TENSORS = 500 }; /* g, p, m, v, q; more than one launch takes */

/* Odd sizes, two of several chunks, some empty. */
static int64_t size_of(int i) { return i == 7 ? 9001 : i == 300 ? 4099 : i % 11 == 5 ? 0 : 1 + i * 37 % 61; }

/* Where tensor i lies among all of operand k: on 32 elements, or one element farther. Of the last: where they end. Not more than
 * one operand of a tensor is moved, each in its turn. */
static int64_t place_of(int i, int k) {
    int64_t at = 0;
    for (int j = 0; j < i; j++) at += (size_of(j) + 32) / 32 * 32;
    return at + (i % (N_OPERANDS + 1) == k);
}

/* Tensor i of the operands, two groups in turn. */
static void update(int i, hx_tensor *gscale, double beta2, hx_tensor *const all[N_OPERANDS]) {
    const bool decays = i % 2;
    const hx_op_attr attr = {.adamw = {decays ? 0.01 : 0.02, 0.9, beta2, 1e-8, decays ? 0.1 : 0, 3}};
    hx_tensor *o[N_OPERANDS];
    for (int k = 0; k < N_OPERANDS; k++) {
        const int64_t at = place_of(i, k);
        MUST(hx_tensor_slice(all[k], 0, at, at + size_of(i), 1, &o[k]));
    }
    hx_tensor *out[HX_OP_MAX_OUT] = {o[1], o[2], o[3], o[4]};
    MUST(hx_op_run(&ctx, HX_OP_adamw, (hx_tensor *[]){o[0], gscale}, 2, &attr, 0, out));
    for (int k = 0; k < N_OPERANDS; k++) hx_tensor_destroy(&o[k]); /* a view: the elements live */
}

/* Every parameter twice: one is updated by itself, the other in a batch. `change_at`: a call that no longer fits there. */
static void check_updates(hx_dtype half, int n, int change_at, int want_launches) {
    static const char *const names[N_OPERANDS] = {"gradient", "parameter", "first moment", "second moment", "rounded parameter"};
    hx_tensor *all[2][N_OPERANDS], *gscale = drawn(HX_F64, 1, 0, 9), *scalar;
    MUST(hx_tensor_view(gscale, HX_SCALAR, &scalar));
    for (int b = 0; b < 2; b++) {
        for (int k = 0; k < N_OPERANDS; k++) all[b][k] = drawn(k == 4 ? half : HX_F32, place_of(n, k), 0, (uint64_t)k);
        launches(NULL);
        if (b) MUST(hx_stream_batch(stream, true));
        for (int i = 0; i < n; i++) update(i, scalar, i >= change_at ? 0.99 : 0.95, all[b]);
        if (b) MUST(hx_stream_batch(stream, false));
    }
    cr_expect_eq(launches(NULL), want_launches);
    for (int k = 0; k < N_OPERANDS; k++) {
        expect_same(all[0][k], all[1][k], names[k]);
        for (int b = 0; b < 2; b++) hx_tensor_destroy(&all[b][k]);
    }
    hx_tensor_destroy(&scalar);
    hx_tensor_destroy(&gscale);
}

Test(batch, updates_have_the_bits_of_single_ones_in_two_launches_if_one_does_not_hold_them) {
    check_updates(HX_BF16, N_TENSORS, N_TENSORS, 2);
}

Test(batch, an_update_with_other_betas_starts_another_launch) { check_updates(HX_F16, 20, 9, 2); }

/* ---- norms ---- */

/* Once in batches of n_single calls, once in one batch. */
static void check_norm(hx_op op, int n, int n_single, int want_launches) {
    hx_tensor **x = calloc((size_t)n, sizeof *x), *part[2];
    cr_assert_not_null(x);
    for (int i = 0; i < n; i++) x[i] = drawn(i < 40 ? HX_F32 : HX_BF16, i == 3 ? 40001 : i % 11 == 5 ? 0 : 1 + i % 7, i % 5 == 3, (uint64_t)i);
    for (int k = 0; k < 2; k++) {
        const int n_each = k ? n : n_single;
        MUST(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part[k]));
        MUST(hx_tensor_fill(stream, part[k], 99));
        launches(NULL);
        for (int i = 0; i < n; i++) {
            if (i % n_each == 0) MUST(hx_stream_batch(stream, true));
            MUST(hx_op_run(&ctx, op, &x[i], 1, &(hx_op_attr){.reduce.accumulate = i > 0}, 0, &part[k]));
            if (i % n_each == n_each - 1 || i == n - 1) MUST(hx_stream_batch(stream, false));
        }
    }
    cr_expect_eq(launches(NULL), want_launches, "%s", hx_op_info_get(op)->name);
    expect_same(part[0], part[1], hx_op_info_get(op)->name);
    for (int k = 0; k < 2; k++) hx_tensor_destroy(&part[k]);
    for (int i = 0; i < n; i++) hx_tensor_destroy(&x[i]);
    free(x);
}

Test(batch, each_part_of_a_norm_has_the_bits_of_single_calls_in_two_launches) {
    check_norm(HX_OP_sumsq, 30, 1, 2);
    check_norm(HX_OP_sumabs, 30, 1, 2);
    check_norm(HX_OP_maxabs, 30, 1, 2);
}

/* 40 of f32, then bf16: of these one table is full, the next short. */
Test(batch, a_norm_of_more_tensors_than_a_launch_holds_goes_on_with_the_sum) { check_norm(HX_OP_sumsq, 1100, 100, 6); }

/* A strided gradient is copied for its call: what is held goes first, and nothing of it is lost. */
Test(batch, a_strided_operand_between_dense_ones_keeps_the_order) {
    hx_tensor *x[3], *flat = drawn(HX_F32, 35, 0, 5), *square, *part[2];
    MUST(hx_tensor_view(flat, HX_SHAPE(5, 7), &square));
    x[0] = drawn(HX_F32, 100, 0, 6);
    MUST(hx_tensor_transpose(square, 0, 1, &x[1]));
    x[2] = drawn(HX_F32, 100, 1, 7);
    for (int k = 0; k < 2; k++) {
        MUST(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part[k]));
        if (k) MUST(hx_stream_batch(stream, true));
        for (int i = 0; i < 3; i++) MUST(hx_op_run(&ctx, HX_OP_sumsq, &x[i], 1, &(hx_op_attr){.reduce.accumulate = i > 0}, 0, &part[k]));
        if (k) MUST(hx_stream_batch(stream, false));
    }
    expect_same(part[0], part[1], "sum");
    for (int i = 0; i < 3; i++) hx_tensor_destroy(&x[i]);
    for (int k = 0; k < 2; k++) hx_tensor_destroy(&part[k]);
    hx_tensor_destroy(&square);
    hx_tensor_destroy(&flat);
}

/* Another op may accumulate into the output as well: what is held for it goes first. */
Test(batch, a_sum_between_norms_of_one_output_keeps_the_order) {
    static const hx_op ops[] = {HX_OP_sumsq, HX_OP_sumsq, HX_OP_sum, HX_OP_sumsq};
    hx_tensor *x = drawn(HX_F64, 100, 0, 5), *part[2];
    for (int k = 0; k < 2; k++) {
        MUST(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part[k]));
        MUST(hx_tensor_fill(stream, part[k], 99));
        if (k) MUST(hx_stream_batch(stream, true));
        for (int i = 0; i < 4; i++) {
            hx_op_attr attr = {.reduce = {.n_dims = ops[i] == HX_OP_sum, .accumulate = i > 0}};
            MUST(hx_op_run(&ctx, ops[i], &x, 1, &attr, 0, &part[k]));
        }
        if (k) MUST(hx_stream_batch(stream, false));
    }
    expect_same(part[0], part[1], "sum");
    for (int k = 0; k < 2; k++) hx_tensor_destroy(&part[k]);
    hx_tensor_destroy(&x);
}

/* An op of another kind in the middle of a batch, as clipping by value is all of it. */
Test(batch, other_ops_run_as_they_come) {
    hx_tensor *x = drawn(HX_F32, 10, 0, 1), *y = drawn(HX_F32, 10, 0, 2);
    MUST(hx_tensor_fill(stream, x, 2));
    MUST(hx_tensor_fill(stream, y, 3));
    MUST(hx_stream_batch(stream, true));
    MUST(hx_op_run(&ctx, HX_OP_affine, &x, 1, &(hx_op_attr){.affine = {3, 1}}, 0, &x));
    MUST(hx_op_run(&ctx, HX_OP_affine, &y, 1, &(hx_op_attr){.affine = {2, 1}}, 0, &y));
    MUST(hx_stream_batch(stream, false));
    expect_same(x, y, "value");
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
}

/* ---- a model ---- */

static void set_gradients(const hx_param_list *params) {
    for (int64_t i = 0; i < params->n_items; i++) {
        HX_AUTO_TENSOR grad = NULL;
        MUST(hx_tensor_create(dev, HX_F32, hx_tensor_shape(params->items[i]->value), &grad));
        MUST(hx_tensor_fill(stream, grad, 0.01));
        MUST(hx_tensor_set_grad(params->items[i]->value, grad));
    }
}

static void check_gpt(int dtype) {
    hx_gpt_config config = HX_GPT_DEFAULT;
    hx_optim_config optim_config = HX_OPTIM_DEFAULT;
    hx_param_list params = {0};
    hx_layer *gpt;
    hx_optim *optim;
    HX_AUTO_TENSOR part = NULL;
    config.layers = 3;
    config.dim = 36;
    config.dtype = dtype;
    MUST(hx_gpt_create(dev, &config, &gpt));
    MUST(hx_layer_params(gpt, &params));
    for (int64_t i = 0; i < params.n_items; i++) MUST(hx_tensor_fill(stream, params.items[i]->value, 1));
    MUST(hx_optim_create_default(dev, stream, &params, &optim_config, &optim));
    MUST(hx_tensor_create(dev, HX_F64, HX_SCALAR, &part));
    set_gradients(&params);
    launches(NULL);
    MUST(hx_grad_norm_part(&ctx, &params, 2, part));
    cr_expect_eq(launches(NULL), 2, "the norm of %lld gradients", (long long)params.n_items);
    MUST(hx_optim_step(optim, &ctx, 1, 1e-3, NULL));
    cr_expect_eq(launches(NULL), 1, "the update of %lld parameters", (long long)params.n_items);
    ctx.anomaly = true; /* looks at each op's outputs */
    MUST(hx_optim_step(optim, &ctx, 2, 1e-3, NULL));
    cr_expect_eq(launches("adamw"), params.n_items);
    hx_optim_destroy(&optim);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&gpt);
}

Test(batch, a_gpt_is_updated_in_one_launch_and_its_norm_takes_two) { check_gpt(0); }
Test(batch, so_is_a_gpt_of_bf16_with_its_masters) { check_gpt(2); }

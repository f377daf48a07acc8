#include <criterion/criterion.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"

static hx_device *dev;
static hx_stream *stream;
static hx_tape *tape;
static hx_ctx ctx;

static void setup(void) {
    cr_assert_eq(hx_backend_register(&hx_backend_ref), HX_OK);
    cr_assert_eq(hx_device_open("ref", NULL, &dev), HX_OK);
    cr_assert_eq(hx_stream_create(dev, &stream), HX_OK);
    cr_assert_eq(hx_tape_create(dev, &tape), HX_OK);
    ctx = (hx_ctx){.device = dev, .stream = stream, .tape = tape, .training = true};
}

static void teardown(void) {
    hx_device_stats stats;
    hx_tape_destroy(&tape);
    hx_stream_destroy(&stream);
    hx_device_stats_get(dev, &stats);
    cr_expect_eq(stats.live_bytes, 0, "%lld bytes were not given back", (long long)stats.live_bytes);
    hx_device_close(&dev);
}

TestSuite(tape, .init = setup, .fini = teardown);

static hx_tensor *leaf(int64_t n, const double *values) {
    hx_tensor *x = NULL;
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(n), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, values), HX_OK);
    hx_tensor_set_requires_grad(x, true);
    return x;
}

static double grad_at(hx_tensor *x, int i) {
    double g[16];
    cr_assert_not_null(hx_tensor_grad(x));
    cr_assert_eq(hx_tensor_read(stream, hx_tensor_grad(x), g), HX_OK);
    return g[i];
}

/* y = sum(x * x + x): the input is used three times, and its gradients add up. */
Test(tape, gradients_of_all_uses_add_up) {
    HX_AUTO_TENSOR x = leaf(2, (double[]){3, -1});
    HX_AUTO_TENSOR sq = NULL;
    HX_AUTO_TENSOR s = NULL;
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_mul(&ctx, x, x, &sq), HX_OK);
    cr_assert_eq(hx_add(&ctx, sq, x, &s), HX_OK);
    cr_assert_eq(hx_sum(&ctx, s, NULL, 0, false, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 7);
    cr_assert_eq(grad_at(x, 1), -1);
    cr_assert_eq(hx_tape_length(tape), 0);
}

Test(tape, a_second_backward_adds_and_a_reset_overwrites) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    for (int round = 0; round < 4; round++) {
        HX_AUTO_TENSOR y = NULL;
        if (round == 2) hx_tensor_grad_reset(x);
        cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
        cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
        cr_assert_eq(grad_at(x, 0), round % 2 ? 12 : 6);
    }
}

/* y = x w from dy = 3, which is x's gradient: first as a buffer to be overwritten, then as one to be added to. */
Test(tape, a_seed_may_be_the_gradient_of_a_leaf) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){2});
    HX_AUTO_TENSOR w = leaf(1, (double[]){5});
    HX_AUTO_TENSOR seed = leaf(1, (double[]){3});
    hx_tensor_set_requires_grad(seed, false);
    cr_assert_eq(hx_tensor_set_grad(x, seed), HX_OK);
    hx_tensor_grad_reset(x);
    for (int round = 0; round < 2; round++) {
        HX_AUTO_TENSOR y = NULL;
        hx_tensor_grad_reset(w);
        cr_assert_eq(hx_mul(&ctx, x, w, &y), HX_OK);
        cr_assert_eq(hx_backward(&ctx, y, seed), HX_OK);
        cr_assert_eq(grad_at(x, 0), round == 0 ? 15 : 15 + 75);
        cr_assert_eq(grad_at(w, 0), round == 0 ? 6 : 30);
    }
}

Test(tape, one_gradient_that_reaches_two_inputs_is_not_shared_by_accumulation) {
    /* c = a + b hands the same gradient to a and b; then a receives more. b must not see it. */
    HX_AUTO_TENSOR a0 = leaf(1, (double[]){2});
    HX_AUTO_TENSOR b0 = leaf(1, (double[]){5});
    HX_AUTO_TENSOR a = NULL;
    HX_AUTO_TENSOR b = NULL;
    HX_AUTO_TENSOR c = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR z = NULL;
    cr_assert_eq(hx_affine(&ctx, a0, 1, 0, &a), HX_OK);
    cr_assert_eq(hx_affine(&ctx, b0, 1, 0, &b), HX_OK);
    cr_assert_eq(hx_mul(&ctx, a, a, &z), HX_OK);
    cr_assert_eq(hx_add(&ctx, a, b, &c), HX_OK);
    cr_assert_eq(hx_add(&ctx, c, z, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(a0, 0), 5);
    cr_assert_eq(grad_at(b0, 0), 1);
}

Test(tape, broadcast_operands_receive_summed_gradients) {
    HX_AUTO_TENSOR x = leaf(3, (double[]){1, 2, 3});
    HX_AUTO_TENSOR col = NULL;
    HX_AUTO_TENSOR w = leaf(2, (double[]){10, 20});
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_reshape(&ctx, x, HX_SHAPE(3, 1), &col), HX_OK);
    cr_assert_eq(hx_mul(&ctx, col, w, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 1), 30);
    cr_assert_eq(grad_at(w, 0), 6);
}

/* The gradient of a bias in bf16 is 513 in f32, which has no bf16 and would be 512. */
Test(tape, sums_of_a_broadcast_leaf_of_half_type_are_not_rounded) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR b = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR ones = NULL;
    float g = 0;
    cr_assert_eq(hx_tensor_create(dev, HX_BF16, HX_SHAPE(513, 1), &x), HX_OK);
    cr_assert_eq(hx_tensor_create(dev, HX_BF16, HX_SHAPE(1), &b), HX_OK);
    cr_assert_eq(hx_tensor_create(dev, HX_BF16, HX_SHAPE(513, 1), &ones), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, x, 0), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, b, 0), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, ones, 1), HX_OK);
    hx_tensor_set_requires_grad(b, true);
    cr_assert_eq(hx_add(&ctx, x, b, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, ones), HX_OK);
    cr_assert_eq(hx_tensor_dtype(hx_tensor_grad(b)), HX_F32);
    cr_assert_eq(hx_tensor_read(stream, hx_tensor_grad(b), &g), HX_OK);
    cr_assert_eq(g, 513);
}

Test(tape, changing_a_saved_tensor_in_place_is_an_error_that_names_the_op) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, x, 1), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
    cr_assert(strstr(hx_error_message(), "mul: its input 0 was changed in place"), "%s", hx_error_message());
    cr_assert_eq(hx_tape_length(tape), 0);
}

typedef struct log_of_leaves {
    hx_tensor *seen[8];
    bool had_grad[8];
    int n;
} log_of_leaves;

static hx_status note(void *self, hx_tensor *x) {
    log_of_leaves *l = self;
    l->had_grad[l->n] = hx_tensor_grad_is_set(x);
    l->seen[l->n++] = x;
    return HX_OK;
}

Test(tape, the_hook_fires_once_per_leaf_when_its_last_use_is_differentiated) {
    HX_AUTO_TENSOR a = leaf(1, (double[]){2});
    HX_AUTO_TENSOR b = leaf(1, (double[]){3});
    HX_AUTO_TENSOR ab = NULL;
    HX_AUTO_TENSOR y = NULL;
    log_of_leaves log = {.n = 0};
    hx_tape_set_ready_hook(tape, note, &log);
    cr_assert_eq(hx_mul(&ctx, a, b, &ab), HX_OK); /* a's first use: it becomes final last */
    cr_assert_eq(hx_mul(&ctx, ab, b, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(log.n, 2);
    cr_assert_eq(grad_at(b, 0), 12);
    cr_assert_eq(grad_at(a, 0), 9);
    cr_assert(log.had_grad[0] && log.had_grad[1]);
}

Test(tape, a_leaf_off_the_path_is_reported_without_a_gradient) {
    HX_AUTO_TENSOR a = leaf(1, (double[]){2});
    HX_AUTO_TENSOR b = leaf(1, (double[]){3});
    HX_AUTO_TENSOR unused = NULL;
    HX_AUTO_TENSOR y = NULL;
    log_of_leaves log = {.n = 0};
    hx_tape_set_ready_hook(tape, note, &log);
    cr_assert_eq(hx_affine(&ctx, b, 2, 0, &unused), HX_OK);
    cr_assert_eq(hx_affine(&ctx, a, 2, 0, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(log.n, 2);
    cr_assert(log.seen[0] == a && log.had_grad[0]);
    cr_assert(log.seen[1] == b && !log.had_grad[1]);
}

Test(tape, a_given_gradient_buffer_is_written_in_place) {
    HX_AUTO_TENSOR x = leaf(2, (double[]){3, 4});
    HX_AUTO_TENSOR bucket = NULL;
    HX_AUTO_TENSOR part = NULL;
    HX_AUTO_TENSOR y = NULL;
    double all[4];
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(4), &bucket), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, bucket, -1), HX_OK);
    cr_assert_eq(hx_tensor_window(bucket, 1, HX_SHAPE(2), &part), HX_OK);
    cr_assert_eq(hx_tensor_set_grad(x, part), HX_OK);
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(hx_tensor_read(stream, bucket, all), HX_OK);
    cr_assert_eq(memcmp(all, (double[]){-1, 6, 8, -1}, sizeof all), 0);
}

static hx_status cube_vjp(hx_vjp *v) {
    HX_AUTO_TENSOR sq = NULL;
    HX_AUTO_TENSOR three = NULL;
    hx_tensor *g = NULL;
    HX_TRY(hx_mul(v->ctx, v->in[0], v->in[0], &sq));
    HX_TRY(hx_affine(v->ctx, sq, *(double *)v->user, 0, &three));
    HX_TRY(hx_mul(v->ctx, three, v->grad_out[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

Test(tape, a_node_of_the_users_own_takes_part) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){2});
    HX_AUTO_TENSOR y = NULL;
    double three = 3, eight = 8;
    hx_custom cube = {.name = "cube", .vjp = cube_vjp, .user = &three, .saves = 1};
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(1), &y), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, y, &eight), HX_OK);
    cr_assert_eq(hx_tape_record_custom(&ctx, &cube, (hx_tensor *[]){x}, 1, (hx_tensor *[]){y}, 1), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 12);
}

Test(tape, detached_tensors_carry_no_gradient) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){2});
    HX_AUTO_TENSOR d = NULL;
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_detach(x, &d), HX_OK);
    cr_assert_eq(hx_mul(&ctx, d, x, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 2);
}

Test(tape, backward_of_something_unrecorded_is_an_error) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){2});
    HX_AUTO_TENSOR y = NULL;
    hx_tensor_set_requires_grad(x, false);
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
}

Test(tape, parts_of_a_split_that_got_no_gradient_count_as_zero) {
    HX_AUTO_TENSOR x = leaf(5, (double[]){1, 2, 3, 4, 5});
    hx_tensor *part[3] = {NULL};
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_split(&ctx, x, 0, (int64_t[]){2, 1, 2}, 3, part), HX_OK);
    cr_assert_eq(hx_mul(&ctx, part[0], part[2], &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    static const double want[] = {4, 5, 0, 1, 2};
    for (int i = 0; i < 5; i++) cr_assert_eq(grad_at(x, i), want[i]);
    for (int i = 0; i < 3; i++) hx_tensor_destroy(&part[i]);
}

/* ---- retained and repeated backward ---- */

Test(tape, a_retained_tape_is_differentiated_again_and_gradients_add_up) {
    HX_AUTO_TENSOR x = leaf(2, (double[]){3, -1});
    HX_AUTO_TENSOR sq = NULL;
    HX_AUTO_TENSOR e = NULL;
    HX_AUTO_TENSOR y = NULL;
    log_of_leaves log = {.n = 0};
    hx_tape_set_ready_hook(tape, note, &log);
    cr_assert_eq(hx_mul(&ctx, x, x, &sq), HX_OK);
    cr_assert_eq(hx_unary(&ctx, HX_OP_tanh, sq, &e), HX_OK); /* its saved output is needed each time */
    cr_assert_eq(hx_mul(&ctx, e, x, &y), HX_OK);
    cr_assert_eq(hx_backward_retain(&ctx, y, NULL), HX_OK);
    double first = grad_at(x, 1);
    cr_assert_eq(hx_tape_length(tape), 3);
    cr_assert_eq(hx_backward_retain(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 1), 2 * first);
    cr_assert_eq(hx_backward_retain(&ctx, sq, NULL), HX_OK); /* from another result */
    cr_assert_eq(grad_at(x, 1), 2 * first - 2);
    hx_tensor_grad_reset(x);
    cr_assert_eq(hx_backward(&ctx, sq, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 6);
    cr_assert_eq(log.n, 4, "the ready hook fires in each backward");
    cr_assert_eq(hx_tape_length(tape), 0);
}

Test(tape, backward_of_a_used_up_tape_says_what_to_do) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
    cr_assert(strstr(hx_error_message(), "hx_backward_retain"), "%s", hx_error_message());
    cr_assert_eq(grad_at(x, 0), 6);
}

Test(tape, a_tensor_changed_between_two_backwards_is_an_error_and_resets_the_tape) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_backward_retain(&ctx, y, NULL), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, x, 1), HX_OK);
    cr_assert_eq(hx_backward_retain(&ctx, y, NULL), HX_ERR_STATE);
    cr_assert_eq(hx_tape_length(tape), 0);
}

/* ---- hooks on tensors ---- */

typedef struct hook_log {
    double seen[8];
    int n;
    double factor; /* 0: no replacement */
} hook_log;

static hx_status watch(void *self, hx_ctx *c, hx_tensor *grad, hx_tensor **replacement) {
    hook_log *l = self;
    double g[16];
    HX_TRY(hx_tensor_read(stream, grad, g));
    l->seen[l->n++] = g[0];
    return l->factor != 0 ? hx_affine(c, grad, l->factor, 0, replacement) : HX_OK;
}

Test(tape, hooks_see_complete_gradients_in_order_and_may_replace_them) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR h = NULL;
    HX_AUTO_TENSOR y = NULL;
    hook_log twice = {.factor = 2}, after = {0}, at_leaf = {.factor = 10}, at_root = {0};
    cr_assert_eq(hx_tape_hook(tape, x, watch, &at_leaf), HX_OK);
    cr_assert_eq(hx_affine(&ctx, x, 5, 0, &h), HX_OK);
    cr_assert_eq(hx_mul(&ctx, h, h, &y), HX_OK); /* two uses: complete is 2 h = 30 */
    cr_assert_eq(hx_tape_hook(tape, h, watch, &twice), HX_OK);
    cr_assert_eq(hx_tape_hook(tape, h, watch, &after), HX_OK);
    cr_assert_eq(hx_tape_hook(tape, y, watch, &at_root), HX_OK);
    cr_assert_eq(hx_backward_retain(&ctx, y, NULL), HX_OK);
    cr_expect_eq(at_root.seen[0], 1);
    cr_expect_eq(twice.seen[0], 30);
    cr_expect_eq(after.seen[0], 60);
    cr_expect_eq(at_leaf.seen[0], 300);
    cr_expect_eq(grad_at(x, 0), 3000);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK); /* a leaf's hook sees this backward's gradient, not the sum */
    cr_expect_eq(at_leaf.seen[1], 300);
    cr_expect_eq(grad_at(x, 0), 6000);
    cr_expect(twice.n == 2 && after.n == 2 && at_leaf.n == 2);
}

Test(tape, the_hooks_of_a_leaf_run_before_the_ready_hook_and_write_its_buffer) {
    HX_AUTO_TENSOR x = leaf(2, (double[]){3, 4});
    HX_AUTO_TENSOR bucket = NULL;
    HX_AUTO_TENSOR y = NULL;
    double all[2];
    hook_log half = {.factor = 0.5};
    log_of_leaves log = {.n = 0};
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(2), &bucket), HX_OK);
    cr_assert_eq(hx_tensor_set_grad(x, bucket), HX_OK);
    hx_tape_set_ready_hook(tape, note, &log);
    cr_assert_eq(hx_tape_hook(tape, x, watch, &half), HX_OK);
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(hx_tensor_read(stream, bucket, all), HX_OK);
    cr_assert(all[0] == 3 && all[1] == 4);
    cr_assert(log.n == 1 && log.had_grad[0]);
}

static hx_status wrong_shape(void *self, hx_ctx *c, hx_tensor *grad, hx_tensor **replacement) {
    (void)self;
    return hx_sum(c, grad, NULL, 0, false, replacement);
}

Test(tape, a_hook_must_keep_shape_and_have_something_to_hook) {
    HX_AUTO_TENSOR x = leaf(2, (double[]){3, 4});
    HX_AUTO_TENSOR plain = leaf(2, (double[]){3, 4});
    HX_AUTO_TENSOR y = NULL;
    hx_tensor_set_requires_grad(plain, false);
    cr_assert_eq(hx_tape_hook(tape, plain, watch, NULL), HX_ERR_STATE);
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_tape_hook(tape, y, wrong_shape, NULL), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_ERR_SHAPE);
    cr_assert_eq(hx_tape_length(tape), 0);
}

static hx_status record_more(void *self, hx_tensor *x) {
    HX_AUTO_TENSOR y = NULL;
    (void)self;
    return hx_mul(&ctx, x, x, &y);
}

Test(tape, recording_on_a_tape_that_is_being_differentiated_is_an_error) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR y = NULL;
    hx_tape_set_ready_hook(tape, record_more, NULL);
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
}

/* ---- what is recorded where ---- */

Test(tape, a_leaf_on_two_live_tapes_is_one_variable_on_each) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR a1 = NULL;
    HX_AUTO_TENSOR a2 = NULL;
    HX_AUTO_TENSOR b1 = NULL;
    HX_AUTO_TENSOR y = NULL;
    hx_tape *other;
    log_of_leaves log = {.n = 0};
    cr_assert_eq(hx_tape_create(dev, &other), HX_OK);
    hx_ctx second = ctx;
    second.tape = other;
    hx_tape_set_ready_hook(tape, note, &log);
    cr_assert_eq(hx_affine(&ctx, x, 2, 0, &a1), HX_OK);
    cr_assert_eq(hx_mul(&second, x, x, &b1), HX_OK);
    cr_assert_eq(hx_affine(&ctx, x, 3, 0, &a2), HX_OK);
    cr_assert_eq(hx_add(&ctx, a1, a2, &y), HX_OK);
    cr_assert_eq(hx_backward(&second, b1, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 6);
    hx_tensor_grad_reset(x);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 5);
    cr_assert_eq(log.n, 1, "x became final %d times", log.n);
    hx_tape_destroy(&other);
}

/* Skipped where nothing is recorded, refused where backward would miss them, and no output is left behind. */
Test(tape, an_output_that_backward_needs_cannot_be_skipped) {
    static const struct {
        hx_op op;
        int n_in;
        unsigned skip;
        hx_op_attr attr;
        const char *message;
    } rows[] = {{HX_OP_add_layernorm, 3, 8, {.norm = {.eps = 1}}, "add_layernorm: output 3 is skipped"},
                {HX_OP_add_rmsnorm, 3, 4, {.norm = {.eps = 1}}, "add_rmsnorm: output 2 is skipped"},
                {HX_OP_layernorm, 2, 6, {.norm = {.eps = 1}}, "layernorm: output 1 is skipped"},
                {HX_OP_topk, 1, 2, {.topk = {.k = 2}}, "topk: output 1 is skipped"}};
    HX_AUTO_TENSOR x = leaf(3, (double[]){1, 2, 4});
    hx_ctx quiet = hx_no_grad(&ctx);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hx_tensor *out[HX_OP_MAX_OUT] = {NULL}, *in[] = {x, x, x};
        cr_expect_eq(hx_op_run(&ctx, rows[i].op, in, rows[i].n_in, &rows[i].attr, rows[i].skip, out), HX_ERR_ARG, "%s", rows[i].message);
        cr_expect(strstr(hx_error_message(), rows[i].message) != NULL, "%s", hx_error_message());
        for (int k = 0; k < HX_OP_MAX_OUT; k++) cr_expect_null(out[k]);
        cr_expect_eq(hx_op_run(&quiet, rows[i].op, in, rows[i].n_in, &rows[i].attr, rows[i].skip, out), HX_OK, "%s", hx_error_message());
        for (int k = 0; k < HX_OP_MAX_OUT; k++) hx_tensor_destroy(&out[k]);
    }
    cr_expect_eq(hx_tape_length(tape), 0);
}

Test(tape, many_leaves_keep_their_variables_while_the_table_grows) {
    enum { N = 500 };
    hx_tensor *x[N], *sum = leaf(1, (double[]){0});
    for (int i = 0; i < N; i++) x[i] = leaf(1, (double[]){i});
    hx_tensor_set_requires_grad(sum, false);
    for (int round = 0; round < 2; round++) /* each leaf twice */
        for (int i = 0; i < N; i++) {
            hx_tensor *next = NULL;
            cr_assert_eq(hx_add(&ctx, sum, x[i], &next), HX_OK);
            hx_tensor_destroy(&sum);
            sum = next;
        }
    cr_assert_eq(hx_backward(&ctx, sum, NULL), HX_OK);
    for (int i = 0; i < N; i++) cr_assert_eq(grad_at(x[i], 0), 2);
    for (int i = 0; i < N; i++) hx_tensor_destroy(&x[i]);
    hx_tensor_destroy(&sum);
}

Test(tape, nothing_is_recorded_where_nothing_needs_a_gradient) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){2});
    HX_AUTO_TENSOR frozen = leaf(1, (double[]){5});
    HX_AUTO_TENSOR f = NULL;
    HX_AUTO_TENSOR q = NULL;
    HX_AUTO_TENSOR d = NULL;
    HX_AUTO_TENSOR dd = NULL;
    HX_AUTO_TENSOR y = NULL;
    hx_ctx quiet = hx_no_grad(&ctx);
    hx_tensor_set_requires_grad(frozen, false);
    cr_assert_eq(hx_mul(&ctx, frozen, frozen, &f), HX_OK); /* a frozen subgraph */
    cr_assert_eq(hx_mul(&quiet, x, x, &q), HX_OK);
    cr_assert_eq(hx_detach(x, &d), HX_OK);
    cr_assert_eq(hx_mul(&ctx, d, d, &dd), HX_OK);
    cr_assert_eq(hx_tape_length(tape), 0);
    cr_assert_eq(hx_mul(&ctx, f, x, &y), HX_OK);
    cr_assert_eq(hx_tape_length(tape), 1);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_OK);
    cr_assert_eq(grad_at(x, 0), 25);
    cr_assert_null(hx_tensor_grad(frozen));
    cr_assert(hx_tensor_shares(d, x) && !hx_tensor_requires_grad(d));
}

Test(tape, changing_a_saved_result_in_place_names_the_op_and_the_output) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_unary(&ctx, HX_OP_exp, x, &y), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, y, 1), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
    cr_assert(strstr(hx_error_message(), "exp: its output 0 was changed in place"), "%s", hx_error_message());
}

/* Serials count per device: recordings of two devices may have the same one. */
Test(tape, recordings_of_two_devices_are_told_apart) {
    hx_device *other_dev;
    hx_stream *other_stream;
    hx_tape *other_tape;
    cr_assert_eq(hx_device_open("ref", NULL, &other_dev), HX_OK);
    cr_assert_eq(hx_stream_create(other_dev, &other_stream), HX_OK);
    cr_assert_eq(hx_tape_create(other_dev, &other_tape), HX_OK);
    hx_ctx elsewhere = {.device = other_dev, .stream = other_stream, .tape = other_tape}, mixed = ctx;
    HX_AUTO_TENSOR x = leaf(2, (double[]){3, -1});
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR z = NULL;
    hx_tensor *none = NULL;
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_expect_eq(hx_backward(&elsewhere, y, NULL), HX_ERR_DEVICE);
    cr_assert_eq(hx_mul(&ctx, x, x, &z), HX_OK);
    mixed.tape = other_tape;
    cr_expect_eq(hx_mul(&mixed, x, x, &none), HX_ERR_DEVICE);
    cr_expect_null(none);
    mixed = elsewhere;
    mixed.tape = tape;
    cr_expect_eq(hx_backward(&mixed, z, NULL), HX_ERR_DEVICE);
    cr_assert_eq(hx_backward(&ctx, z, NULL), HX_OK, "%s", hx_error_message());
    cr_assert_eq(grad_at(x, 0), 6);
    hx_tape_destroy(&other_tape);
    hx_stream_destroy(&other_stream);
    hx_device_close(&other_dev);
}

static hx_status hook_once_more(void *self, hx_ctx *c, hx_tensor *grad, hx_tensor **replacement) {
    (void)c, (void)grad, (void)replacement;
    return hx_tape_hook(tape, self, hook_once_more, self);
}

Test(tape, a_hook_cannot_be_added_while_hooks_run) {
    HX_AUTO_TENSOR x = leaf(1, (double[]){3});
    HX_AUTO_TENSOR late = leaf(1, (double[]){3});
    HX_AUTO_TENSOR y = NULL;
    cr_assert_eq(hx_mul(&ctx, x, x, &y), HX_OK);
    cr_assert_eq(hx_tape_hook(tape, x, hook_once_more, late), HX_OK);
    cr_expect_eq(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "within a backward"), "%s", hx_error_message());
}

/* The parts of [o, re, im] begin at an odd element: a gradient that no pair can be read from where it lies. */
Test(tape, the_parts_of_a_complex_number_may_be_joined_with_other_numbers) {
    HX_AUTO_TENSOR z = NULL;
    HX_AUTO_TENSOR o = leaf(1, (double[]){7});
    HX_AUTO_TENSOR parts = NULL;
    HX_AUTO_TENSOR flat = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR seed = leaf(3, (double[]){1, 2, 3});
    cr_assert_eq(hx_tensor_create(dev, HX_C128, HX_SHAPE(1), &z), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, z, (double[]){4, 5}), HX_OK);
    hx_tensor_set_requires_grad(z, true);
    cr_assert_eq(hx_view_as_real(&ctx, z, &parts), HX_OK);
    cr_assert_eq(hx_reshape(&ctx, parts, HX_SHAPE(2), &flat), HX_OK);
    cr_assert_eq(hx_cat(&ctx, (hx_tensor *[]){o, flat}, 2, 0, &y), HX_OK);
    cr_assert_eq(hx_backward(&ctx, y, seed), HX_OK, "%s", hx_error_message());
    cr_assert_eq(grad_at(o, 0), 1);
    cr_assert_eq(grad_at(z, 0), 2);
    cr_assert_eq(grad_at(z, 1), 3);
}

/* ---- saved memory that becomes a gradient ---- */

enum { ROWS = 64, CLASSES = 512 };

/* Gradient of the loss of x, a leaf [1,CLASSES] added to zeros [ROWS,CLASSES], and the most memory that backward took
 * above what there was before. @param keep  hold the logits meanwhile; @param retain  differentiate twice */
static int64_t loss_gradient(bool keep, bool retain, double out[CLASSES]) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR zeros = NULL;
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR count = NULL;
    hx_device_stats before, after;
    double values[CLASSES];
    for (int i = 0; i < CLASSES; i++) values[i] = i % 7 - 3;
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(1, CLASSES), &x), HX_OK);
    cr_assert_eq(hx_tensor_write(stream, x, values), HX_OK);
    hx_tensor_set_requires_grad(x, true);
    cr_assert_eq(hx_tensor_create(dev, HX_F64, HX_SHAPE(ROWS, CLASSES), &zeros), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, zeros, 0), HX_OK);
    cr_assert_eq(hx_tensor_create(dev, HX_I32, HX_SHAPE(ROWS), &ids), HX_OK);
    cr_assert_eq(hx_tensor_fill(stream, ids, 5), HX_OK);
    cr_assert_eq(hx_add(&ctx, x, zeros, &logits), HX_OK);
    cr_assert_eq(hx_cross_entropy(&ctx, logits, ids, -1, &loss, &count), HX_OK);
    if (!keep) hx_tensor_destroy(&logits);
    hx_device_stats_reset_peak(dev);
    hx_device_stats_get(dev, &before);
    if (retain) cr_assert_eq(hx_backward_retain(&ctx, loss, NULL), HX_OK);
    cr_assert_eq(hx_backward(&ctx, loss, NULL), HX_OK, "%s", hx_error_message());
    hx_device_stats_get(dev, &after);
    cr_assert_eq(hx_tensor_read(stream, hx_tensor_grad(x), out), HX_OK);
    for (int i = 0; retain && i < CLASSES; i++) out[i] /= 2;
    return after.peak_bytes - before.live_bytes;
}

Test(tape, the_gradient_of_logits_that_nobody_holds_takes_their_memory) {
    const int64_t logits_bytes = (int64_t)ROWS * CLASSES * 8;
    double plain[CLASSES], kept[CLASSES], twice[CLASSES];
    int64_t more = loss_gradient(false, false, plain), more_kept = loss_gradient(true, false, kept);
    (void)loss_gradient(false, true, twice);
    cr_expect_lt(more, logits_bytes, "%lld bytes of gradients", (long long)more);
    cr_expect_geq(more_kept, logits_bytes);
    cr_expect_eq(memcmp(plain, kept, sizeof plain), 0, "the gradient depends on where it is written");
    cr_expect_eq(memcmp(plain, twice, sizeof plain), 0, "a retained tape lost its logits");
}

/* ---- gradients that are written where they stay ---- */

enum { WIDE = 4096 };

/* The most memory that backward of sum(relu(x)) takes above what there was before. */
static int64_t relu_backward_bytes(hx_tensor *x) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR loss = NULL;
    hx_device_stats before, after;
    cr_assert_eq(hx_unary(&ctx, HX_OP_relu, x, &y), HX_OK);
    cr_assert_eq(hx_sum(&ctx, y, NULL, 0, false, &loss), HX_OK);
    hx_device_stats_reset_peak(dev);
    hx_device_stats_get(dev, &before);
    cr_assert_eq(hx_backward(&ctx, loss, NULL), HX_OK, "%s", hx_error_message());
    hx_device_stats_get(dev, &after);
    return after.peak_bytes - before.live_bytes;
}

static void expect_relu_gradient(hx_tensor *x, double positive, const char *when) {
    double g[WIDE];
    cr_assert_eq(hx_tensor_read(stream, hx_tensor_grad(x), g), HX_OK);
    for (int i = 0; i < WIDE; i++)
        cr_assert_eq(g[i], i % 2 == 0 ? positive : 0, "%s: element %d is %g", when, i, g[i]);
}

Test(tape, a_gradient_is_written_where_it_stays) {
    const int64_t grad_bytes = WIDE * 8;
    double values[WIDE];
    for (int i = 0; i < WIDE; i++) values[i] = i % 2 == 0 ? i + 1 : -i;
    HX_AUTO_TENSOR x = leaf(WIDE, values);
    const int64_t first = relu_backward_bytes(x);
    const void *place = hx_tensor_data(hx_tensor_grad(x));
    expect_relu_gradient(x, 1, "first");
    const int64_t added = relu_backward_bytes(x);
    expect_relu_gradient(x, 2, "added to");
    cr_expect_eq(hx_tensor_data(hx_tensor_grad(x)), place);
    hx_tensor_grad_reset(x);
    const int64_t overwritten = relu_backward_bytes(x);
    expect_relu_gradient(x, 1, "overwritten");
    cr_expect_eq(hx_tensor_data(hx_tensor_grad(x)), place);
    /* What is added lies beside the sum for a while; what is the only one does not. */
    cr_expect_lt(first, 2 * grad_bytes, "%lld bytes", (long long)first);
    cr_expect_geq(added, grad_bytes, "%lld bytes", (long long)added);
    cr_expect_lt(overwritten, grad_bytes, "%lld bytes", (long long)overwritten);
}

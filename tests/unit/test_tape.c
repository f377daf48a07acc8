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

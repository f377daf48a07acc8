/* A tour of differentiation: gradients from the tape, checked against finite differences, and a step downhill.
 *
 *     ./build/release/example_autograd_tour
 */
#include <math.h>
#include <stdio.h>

#include "launch/helix.h"

/* f(w) = sum over rows of (x w - y)^2, the loss of a straight line */
static hx_status square_loss(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *y, hx_tensor **loss) {
    HX_AUTO_TENSOR prediction = NULL;
    HX_AUTO_TENSOR difference = NULL;
    HX_AUTO_TENSOR square = NULL;
    HX_TRY(hx_matmul(ctx, x, w, &prediction));
    HX_TRY(hx_sub(ctx, prediction, y, &difference));
    HX_TRY(hx_mul(ctx, difference, difference, &square));
    return hx_sum(ctx, square, NULL, 0, false, loss);
}

static hx_status column(hx_ctx *ctx, int64_t n, const double *values, hx_tensor **out) {
    HX_TRY(hx_tensor_create(ctx->device, HX_F64, HX_SHAPE(n, 1), out));
    return hx_tensor_write(ctx->stream, *out, values);
}

/* The four points lie on y = 2 x + 1; each row of x is (x, 1). */
static hx_status make_points(hx_ctx *ctx, hx_tensor **x, hx_tensor **y) {
    HX_TRY(hx_tensor_create(ctx->device, HX_F64, HX_SHAPE(4, 2), x));
    HX_TRY(hx_tensor_write(ctx->stream, *x, (double[]){0, 1, 1, 1, 2, 1, 3, 1}));
    return column(ctx, 4, (double[]){1, 3, 5, 7}, y);
}

/* Gradient descent: w <- w - rate dL/dw. */
static hx_status descend(hx_ctx *ctx, hx_tensor *x, hx_tensor *y, double w[2]) {
    HX_AUTO_TENSOR weights = NULL;
    HX_TRY(column(ctx, 2, w, &weights));
    hx_tensor_set_requires_grad(weights, true);
    for (int step = 0; step < 200; step++) {
        HX_AUTO_TENSOR loss = NULL;
        double value, gradient[2];
        hx_tensor_grad_reset(weights);
        HX_TRY(square_loss(ctx, x, weights, y, &loss));
        HX_TRY(hx_tensor_item(ctx->stream, loss, &value));
        HX_TRY(hx_backward(ctx, loss, NULL));
        HX_TRY(hx_tensor_read(ctx->stream, hx_tensor_grad(weights), gradient));
        if (step % 50 == 0) printf("step %3d  loss %10.6f  w %8.5f %8.5f  gradient %9.5f %9.5f\n", step, value, w[0], w[1], gradient[0], gradient[1]);
        for (int i = 0; i < 2; i++) w[i] -= 0.03 * gradient[i];
        HX_TRY(hx_tensor_write(ctx->stream, weights, w));
    }
    return HX_OK;
}

/* The function under the check takes all tensors as inputs: in = {x, w, y}. */
static hx_status checked_loss(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg;
    if (n_in != 3) return HX_FAIL(HX_ERR_ARG, "%d inputs: expected x, w, y", n_in);
    return square_loss(ctx, in[0], in[1], in[2], out);
}

static hx_status run(hx_ctx *ctx) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR w = NULL;
    double worst, found[2] = {0, 0};
    HX_TRY(make_points(ctx, &x, &y));
    HX_TRY(column(ctx, 2, (double[]){0.3, -0.7}, &w));
    hx_tensor_set_requires_grad(w, true);
    HX_TRY(hx_gradcheck(ctx, checked_loss, NULL, (hx_tensor *[]){x, w, y}, 3, &worst));
    printf("analytic and numeric gradients differ by %.1e\n", worst);
    if (worst > 1e-6) return HX_FAIL(HX_ERR_NUMERIC, "gradients differ by %g: expected at most 1e-6", worst);
    HX_TRY(descend(ctx, x, y, found));
    printf("found y = %.4f x + %.4f\n", found[0], found[1]);
    if (fabs(found[0] - 2) > 1e-2 || fabs(found[1] - 1) > 1e-2)
        return HX_FAIL(HX_ERR_NUMERIC, "found %g and %g: expected 2 and 1", found[0], found[1]);
    return HX_OK;
}

int main(void) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_session *session = NULL;
    hx_status status = hx_session_open(&config, &session);
    if (status == HX_OK) status = run(hx_session_ctx(session));
    if (status != HX_OK) fprintf(stderr, "%s\n%s", hx_error_message(), hx_error_trace());
    hx_session_close(&session);
    return hx_status_exit_code(status);
}

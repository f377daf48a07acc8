/* A tour of tensors: create, compute, look at views, and see how errors speak.
 *
 *     ./build/release/example_tensor_tour
 */
#include <math.h>
#include <stdio.h>

#include "launch/helix.h"

static hx_status show(hx_stream *stream, const char *name, hx_tensor *x) {
    char text[2048], shape[HX_SHAPE_TEXT];
    hx_shape s = hx_tensor_shape(x);
    size_t n;
    HX_TRY(hx_tensor_print(stream, x, text, sizeof text, &n));
    printf("%s %s %s\n%s\n\n", name, hx_dtype_name(hx_tensor_dtype(x)), hx_shape_text(&s, shape), text);
    return HX_OK;
}

/* Two rows of logits become probabilities; each row sums to 1. */
static hx_status softmax_rows(hx_ctx *ctx) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR p = NULL;
    HX_AUTO_TENSOR sums = NULL;
    float rows[2];
    HX_TRY(hx_tensor_create(ctx->device, HX_F32, HX_SHAPE(2, 3), &x));
    HX_TRY(hx_tensor_write(ctx->stream, x, (float[]){1, 2, 3, 1e4f, 0, -1e4f}));
    HX_TRY(show(ctx->stream, "x", x));
    HX_TRY(hx_softmax(ctx, x, -1, &p));
    HX_TRY(show(ctx->stream, "softmax(x)", p));
    HX_TRY(hx_sum(ctx, p, (int[]){1}, 1, false, &sums));
    HX_TRY(hx_tensor_read(ctx->stream, sums, rows));
    for (int i = 0; i < 2; i++)
        if (fabsf(rows[i] - 1) > 1e-6f) return HX_FAIL(HX_ERR_NUMERIC, "row %d sums to %g: expected 1", i, (double)rows[i]);
    return HX_OK;
}

/* A view shares its storage: what is written through it shows in the original. */
static hx_status views(hx_ctx *ctx) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR row = NULL;
    HX_AUTO_TENSOR column = NULL;
    HX_AUTO_TENSOR grid = NULL;
    HX_TRY(hx_tensor_create(ctx->device, HX_F32, HX_SHAPE(3, 2), &x));
    HX_TRY(hx_tensor_fill(ctx->stream, x, 0));
    HX_TRY(hx_tensor_slice(x, 0, 1, 2, 1, &row));
    HX_TRY(hx_tensor_fill(ctx->stream, row, 7));
    HX_TRY(show(ctx->stream, "x after filling x[1:2] with 7", x));
    HX_TRY(hx_transpose(ctx, x, 0, 1, &column));
    HX_TRY(hx_matmul(ctx, x, column, &grid)); /* the transpose is a view too: nothing is copied */
    return show(ctx->stream, "x x^T", grid);
}

/* Shapes are checked before anything runs, and the message names both. */
static hx_status errors(hx_ctx *ctx) {
    HX_AUTO_TENSOR a = NULL;
    HX_AUTO_TENSOR b = NULL;
    HX_AUTO_TENSOR c = NULL;
    HX_TRY(hx_tensor_create(ctx->device, HX_F32, HX_SHAPE(64, 128), &a));
    HX_TRY(hx_tensor_create(ctx->device, HX_F32, HX_SHAPE(256, 512), &b));
    if (hx_matmul(ctx, a, b, &c) != HX_ERR_SHAPE) return HX_FAIL(HX_ERR_INTERNAL, "[64,128] x [256,512] was not refused");
    printf("an error: %s\n", hx_error_message());
    return HX_OK;
}

static hx_status tour(void) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_session *session = NULL;
    HX_TRY(hx_session_open(&config, &session));
    hx_ctx ctx = *hx_session_ctx(session);
    ctx.tape = NULL; /* nothing to differentiate here */
    hx_status status = softmax_rows(&ctx);
    if (status == HX_OK) status = views(&ctx);
    if (status == HX_OK) status = errors(&ctx);
    hx_session_close(&session);
    return status;
}

int main(void) {
    hx_status status = tour();
    if (status != HX_OK) fprintf(stderr, "%s\n%s", hx_error_message(), hx_error_trace());
    return hx_status_exit_code(status);
}

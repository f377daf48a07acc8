/* How a window moves over the spatial dims of a convolution or pool, for shape rules and kernels. One and two spatial
 * dims are three of which the first have size 1, so that kernels loop over three.
 *
 *     hx_window w = hx_window_make(&call->attr, x->dims + 2, weight->dims + 2, y->dims + 2);
 *     i = m * w.stride[2] - w.padding[2] + k * w.dilation[2]      // element k of window m reads x[i], or padding
 */
#ifndef HX_CORE_OP_WINDOW_H
#define HX_CORE_OP_WINDOW_H

#include "core/op/op.h"

typedef struct hx_window {
    int64_t in[3], kernel[3], out[3]; /* sizes of x, of the window, of y */
    int64_t stride[3], padding[3], dilation[3];
    int64_t n_in, n_kernel, n_out; /* their products */
} hx_window;

/** @param in, kernel, out  [attr->conv.n] */
static inline hx_window hx_window_make(const hx_op_attr *attr, const int64_t *in, const int64_t *kernel,
                                       const int64_t *out) {
    hx_window w = {.in = {1, 1, 1}, .kernel = {1, 1, 1}, .out = {1, 1, 1},
                   .stride = {1, 1, 1}, .dilation = {1, 1, 1}, .n_in = 1, .n_kernel = 1, .n_out = 1};
    for (int d = 0, to = 3 - attr->conv.n; d < attr->conv.n; d++, to++) {
        w.in[to] = in[d];
        w.kernel[to] = kernel[d];
        w.out[to] = out[d];
        w.stride[to] = attr->conv.stride[d];
        w.padding[to] = attr->conv.padding[d];
        w.dilation[to] = attr->conv.dilation[d];
        w.n_in *= in[d];
        w.n_kernel *= kernel[d];
        w.n_out *= out[d];
    }
    return w;
}

#endif

/* Convolutions over 1 to 3 spatial dims, of which the first are of size 1 where there are fewer.
 *
 * The elements that the windows of a tile of output positions read are laid out as a matrix, a row for each channel and
 * kernel element, a column for each position ("im2col"): the convolution is then a product with the weights, and so are
 * its derivatives. Only a block of that matrix exists at a time, and positions run on from image to image so that
 * small images fill a tile too.
 *   forward      task = group, block of outputs, tile:   y = w X
 *   derivative x of windows one apart: the convolution of dy, padded to the size of x, with the kernel back to front
 *                otherwise task = images, group, channels: X = w^T dy, added back to where it came from
 *   derivative w task = positions, group, block of w:    dw^T = X dy^T, the parts added in order at the end
 * The products read the matrix as it is, without packing it once more: registers hold MR rows of NV vectors of sums.
 * Groups of few channels (depthwise convolutions) leave nothing to a matrix product and take plain loops over rows.
 * Blocks follow from the shapes alone: results do not depend on the number of threads. */
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/transpose.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/op/window.h"

/* Registers of the instruction set: MR x NV sums, NV of the matrix and 1 of the other factor. */
#if defined(__AVX512F__)
enum { VEC_BYTES = 64, MR = 8, NV = 3 };
#elif defined(__AVX2__)
enum { VEC_BYTES = 32, MR = 4, NV = 3 };
#else
enum { VEC_BYTES = 16, MR = 4, NV = 2 };
#endif
enum {
    TILE = 240,        /* positions of a tile: whole vectors by threes, and rows an odd number of cache lines apart */
    ROWS = 320,        /* rows of a block of the matrix: with TILE, what fits a second-level cache */
    ROWS_OF_SUM = 192, /* of y = w X: with NV vectors, what fits a first-level cache */
    OUTS = 128,        /* outputs of a block */
    DIRECT_MOST = 8,   /* channels times outputs of a group for plain loops */
    SUM_ROWS = 16,     /* rows of dw^T of a task that adds its parts */
    PARTS_WANTED = 32  /* tasks of the derivative of w, to keep some cores busy */
};
#define PARTS_ELEMS (1 << 22) /* of memory for parts of dw, unless one alone is larger */

typedef struct conv_plan {
    hx_window win;
    int64_t n_batch, n_groups, group_in, group_out;
    int64_t n_channels, n_outputs; /* of all groups */
    int64_t n_rows;                /* of the matrix of a group: group_in times kernel */
    int64_t n_positions;           /* of all images */
} conv_plan;

static conv_plan plan_conv(const hx_op_attr *attr, const hx_array *x, const hx_array *w, const hx_array *y) {
    conv_plan p = {.win = hx_window_make(attr, x->dims + 2, w->dims + 2, y->dims + 2),
                   .n_batch = x->dims[0], .n_groups = attr->conv.groups, .n_channels = x->dims[1],
                   .n_outputs = w->dims[0], .group_in = w->dims[1], .group_out = w->dims[0] / attr->conv.groups};
    p.n_rows = p.group_in * p.win.n_kernel;
    p.n_positions = p.n_batch * p.win.n_out;
    return p;
}

static bool is_direct(const conv_plan *p) {
    return (double)p->group_in * (double)p->group_out <= DIRECT_MOST;
}

/* dx as a convolution of dy computes every window of x, and wins unless most of those read only padding. */
static bool is_conv_back(const conv_plan *p) {
    const int64_t *stride = p->win.stride;
    return stride[0] == 1 && stride[1] == 1 && stride[2] == 1 && (double)p->win.n_in <= 2.0 * (double)p->win.n_out;
}

/* x and y change places; the padding may be negative. */
static conv_plan plan_back(const conv_plan *p) {
    conv_plan q = *p;
    for (int d = 0; d < 3; d++) {
        q.win.in[d] = p->win.out[d];
        q.win.out[d] = p->win.in[d];
        q.win.padding[d] = p->win.dilation[d] * (p->win.kernel[d] - 1) - p->win.padding[d];
    }
    q.win.n_in = p->win.n_out;
    q.win.n_out = p->win.n_in;
    q.group_in = p->group_out, q.group_out = p->group_in;
    q.n_channels = p->n_outputs, q.n_outputs = p->n_channels;
    q.n_rows = q.group_in * q.win.n_kernel;
    q.n_positions = q.n_batch * q.win.n_out;
    return q;
}

static double cost_of(const conv_plan *p) {
    return (double)p->n_positions * (double)p->n_outputs * (double)(p->n_rows + 1) / 8;
}

/* Consecutive positions of one row of an output image. */
typedef struct conv_run {
    int64_t image, i0, i1; /* the row, and where its windows begin along the first two dims of x */
    int64_t m, n;          /* along the last dim: first position, number */
    int64_t at;            /* of the first position in the tile */
} conv_run;

static conv_run row_run(const conv_plan *p, int64_t image, int64_t m0, int64_t m1) {
    const hx_window *w = &p->win;
    return (conv_run){.image = image, .i0 = m0 * w->stride[0] - w->padding[0], .i1 = m1 * w->stride[1] - w->padding[1],
                      .n = w->out[2]};
}

/* Runs [n] of n consecutive positions; returns how many. */
static int64_t cut_runs(const conv_plan *p, int64_t first, int64_t n, conv_run *runs) {
    const int64_t *out = p->win.out;
    int64_t n_runs = 0;
    for (int64_t at = 0; at < n;) {
        int64_t position = first + at, row = position / out[2], m0 = row / out[1];
        conv_run run = row_run(p, m0 / out[0], m0 % out[0], row % out[1]);
        run.m = position % out[2];
        run.n = hx__min(out[2] - run.m, n - at);
        run.at = at;
        at += run.n;
        runs[n_runs++] = run;
    }
    return n_runs;
}

/* One row of the matrix: a channel of the group and an element of the kernel. */
typedef struct conv_tap {
    int64_t channel, k0, k1; /* offsets along the first two dims */
    int64_t shift;           /* position m reads element m stride + shift of the last dim */
    int64_t first, last;     /* positions that read x, not padding */
} conv_tap;

/* Smallest m >= 0 with m stride >= i, at most `most`. */
static int64_t first_at(int64_t i, int64_t stride, int64_t most) {
    return i <= 0 ? 0 : hx__min(most, hx__ceil_div(i, stride));
}

static conv_tap tap_of(const conv_plan *p, int64_t row) {
    const hx_window *w = &p->win;
    int64_t k = row % w->n_kernel, k01 = k / w->kernel[2];
    conv_tap t = {.channel = row / w->n_kernel, .k0 = k01 / w->kernel[1] * w->dilation[0],
                  .k1 = k01 % w->kernel[1] * w->dilation[1], .shift = k % w->kernel[2] * w->dilation[2] - w->padding[2]};
    t.first = first_at(-t.shift, w->stride[2], w->out[2]);
    t.last = first_at(w->in[2] - t.shift, w->stride[2], w->out[2]);
    return t;
}

/* Positions [lo, hi) of a run read x[at + m stride] of the tap's channel, the others padding. */
typedef struct conv_span {
    int64_t lo, hi, at;
} conv_span;

static inline conv_span span_of(const hx_window *w, const conv_tap *t, const conv_run *r) {
    int64_t i0 = r->i0 + t->k0, i1 = r->i1 + t->k1;
    conv_span s = {r->m, r->m, 0};
    if (i0 < 0 || i0 >= w->in[0] || i1 < 0 || i1 >= w->in[1]) return s;
    s.lo = hx__min(hx__max(t->first, r->m), r->m + r->n);
    s.hi = hx__max(s.lo, hx__min(t->last, r->m + r->n));
    s.at = (i0 * w->in[1] + i1) * w->in[2] + t->shift;
    return s;
}

/* Equal parts of at most `most`. */
static int64_t even_part(int64_t n, int64_t most) {
    return hx__max(1, hx__ceil_div(n, hx__max(1, hx__ceil_div(n, most))));
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/conv_direct.inc"
#include "backends/cpu/kernels/conv_tile.inc"
#include "backends/cpu/kernels/conv.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/conv_direct.inc"
#include "backends/cpu/kernels/conv_tile.inc"
#include "backends/cpu/kernels/conv.inc"

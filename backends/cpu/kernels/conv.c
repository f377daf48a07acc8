/* Convolutions over 1 to 3 spatial dims, of which the first are of size 1 where there are fewer.
 *
 * The elements that the windows of a tile of output positions read are a matrix, a row for each channel and kernel
 * element, a column for each position: the convolution is then a product with the weights, and so are its derivatives.
 * It is never there as a whole, but laid out for a tile in one of two ways:
 *   padded    for windows one apart: each channel's images with the padding around them, once. The rows of all kernel
 *             elements lie in it, so many elements apart as the kernel element is from the first. Columns are positions
 *             of the padded image, also those where no window begins, whose sums nobody reads.
 *   unfolded  otherwise, or where those columns would be many: row by row, element by element ("im2col"). Columns run on
 *             from image to image so that small images fill a tile too.
 * The products:
 *   forward      task = tile, group, block of outputs:   y = w X
 *   derivative x of windows one apart: the convolution of dy, padded to the size of x, with the kernel back to front
 *                otherwise task = images, group, channels: X = w^T dy, added back to where it came from
 *   derivative w task = tiles, group, block of w:        dw^T = X dy^T, the parts added in order at the end
 * They read both factors where they lie, by tables of offsets: registers hold MR rows of NV vectors of sums.
 * Elements of bf16 become f32 on the way into the matrix; or where the instruction set multiplies pairs of bf16 (see
 * gemm_dot.inc), a lane of the matrix is a pair that one sum gains from: of two channels, for the derivative of w of two
 * images. What is left over at an odd number is paired with zeros.
 * Groups of few channels (depthwise convolutions) leave nothing to a matrix product and take plain loops over rows.
 * Blocks follow from the shapes alone: results do not depend on the number of threads. */
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/transpose.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/op/window.h"
#include "core/tensor/half.h"

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
    STRIP = 3 * TILE,  /* positions of a padded image that a tile may need */
    ROWS = 320,        /* rows of a block of the matrix: with TILE, what fits a second-level cache */
    ROWS_OF_SUM = 192, /* of y = w X: with NV vectors, what fits a first-level cache */
    STEPS = 1024,      /* of a product's sums, at most */
    OUTS = 128,        /* outputs of a block */
    UNFOLD_COST = 12,  /* of a matrix element, in multiplications */
    DIRECT_MOST = 8,   /* channels times outputs of a group for plain loops */
    SUM_ROWS = 16,     /* rows of dw^T of a task that adds its parts */
    PARTS_WANTED = 32  /* tasks of the derivative of w, to keep some cores busy */
};
#define PARTS_ELEMS (1 << 22) /* of memory for parts of dw, unless one alone is larger */

typedef struct conv_plan {
    hx_window win;
    int64_t n_batch, n_groups, group_in, group_out;
    int64_t n_channels, n_outputs;  /* of all groups */
    int64_t per_channel, per_image; /* how many channels, or images, of x are a lane of the matrix: 1 or 2 */
    int64_t n_rows;                 /* of the matrix of a group: lanes of group_in times kernel */
    int64_t n_images;               /* lanes of n_batch */
    int64_t n_positions;            /* of all of them */
} conv_plan;

static void count_lanes(conv_plan *p, int64_t per_channel, int64_t per_image) {
    p->per_channel = per_channel;
    p->per_image = per_image;
    p->n_rows = hx__ceil_div(p->group_in, per_channel) * p->win.n_kernel;
    p->n_images = hx__ceil_div(p->n_batch, per_image);
    p->n_positions = p->n_images * p->win.n_out;
}

static conv_plan plan_conv(const hx_op_attr *attr, const hx_array *x, const hx_array *w, const hx_array *y) {
    conv_plan p = {.win = hx_window_make(attr, x->dims + 2, w->dims + 2, y->dims + 2),
                   .n_batch = x->dims[0], .n_groups = attr->conv.groups, .n_channels = x->dims[1],
                   .n_outputs = w->dims[0], .group_in = w->dims[1], .group_out = w->dims[0] / attr->conv.groups};
    count_lanes(&p, 1, 1);
    return p;
}

static bool is_direct(const conv_plan *p) {
    return (double)p->group_in * (double)p->group_out <= DIRECT_MOST;
}

static bool windows_are_one_apart(const hx_window *w) {
    return w->stride[0] == 1 && w->stride[1] == 1 && w->stride[2] == 1;
}

/* dx as a convolution of dy computes every window of x, and wins unless most of those read only padding. */
static bool is_conv_back(const conv_plan *p) {
    return windows_are_one_apart(&p->win) && (double)p->win.n_in <= 2.0 * (double)p->win.n_out;
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
    count_lanes(&q, p->per_channel, p->per_image);
    return q;
}

static double cost_of(const conv_plan *p) {
    return (double)p->n_positions * (double)p->n_outputs * (double)(p->n_rows + 1) / 8;
}

/* Consecutive positions of one row of an output image. */
typedef struct conv_run {
    int64_t image, i0, i1; /* a lane of images; the row, and where its windows begin along the first two dims of x */
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
    int64_t channel, k0, k1; /* a lane of channels; offsets along the first two dims */
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

/* Elements of x between the two of a lane. */
static int64_t next_of(const conv_plan *p) {
    return p->per_image == 2 ? p->n_channels * p->win.n_in : p->per_channel == 2 ? p->win.n_in : 0;
}

/* The last of an odd number. */
static bool image_is_lone(const conv_plan *p, int64_t image) { return (image + 1) * p->per_image > p->n_batch; }

/* Equal parts of at most `most`. */
static int64_t even_part(int64_t n, int64_t most) {
    return hx__max(1, hx__ceil_div(n, hx__max(1, hx__ceil_div(n, most))));
}

/* ---- the two ways to lay the matrix out, and tiles ---- */

typedef struct conv_layout {
    bool is_padded;
    conv_plan plan;            /* whose positions are the columns: the convolution's own, or padded images, of kernel 1 */
    int64_t reach;             /* padded: from a window's first element to its last */
    int64_t pitch;             /* elements from row to row of what is laid out */
    int64_t n_spaces, n_tiles; /* tiles are cut from the positions of all images as one space, padded: of each image */
    int64_t space, tile;       /* positions of a space and of a tile */
    int64_t stride;            /* from space to space */
} conv_layout;

/* Of a position (m0, m1, m2) in the padded image. */
static int64_t padded_at(const conv_layout *l, int64_t m0, int64_t m1, int64_t m2) {
    const int64_t *out = l->plan.win.out;
    return (m0 * out[1] + m1) * out[2] + m2;
}

/* The same of position m of y. */
static int64_t padded_position(const conv_plan *p, const conv_layout *l, int64_t m) {
    const int64_t *out = p->win.out;
    return padded_at(l, m / out[2] / out[1], m / out[2] % out[1], m % out[2]);
}

/* How far a row of the matrix is from its lane's first. */
static int64_t kernel_offset(const conv_plan *p, const conv_layout *l, int64_t row) {
    const conv_tap t = tap_of(p, row);
    return padded_at(l, t.k0, t.k1, t.shift + p->win.padding[2]);
}

static conv_layout unfolded(const conv_plan *p) {
    return (conv_layout){.plan = *p, .pitch = TILE, .n_spaces = 1, .space = p->n_positions, .tile = TILE, .stride = p->n_positions,
                         .n_tiles = hx__max(1, hx__ceil_div(p->n_positions, TILE))};
}

/* Of n positions of each image, in whole vectors. */
static void cut_tiles(conv_layout *l, const conv_plan *p, int64_t n, int64_t stride, int64_t vl) {
    l->stride = stride;
    l->n_spaces = p->n_images;
    l->space = n;
    l->tile = even_part(hx__ceil_div(n, vl), TILE / vl) * vl;
    l->n_tiles = l->n_spaces * hx__ceil_div(n, l->tile);
}

/* Padded images: false where they are more than a strip, or many. */
static bool pad_images(const conv_plan *p, conv_layout *l) {
    const hx_window *w = &p->win;
    if (!windows_are_one_apart(w) || w->n_kernel == 1 || w->n_kernel > STEPS || p->n_rows == 0 || p->n_images == 0 || w->out[2] < 4) return false;
    *l = (conv_layout){.is_padded = true, .plan = *p};
    hx_window *to = &l->plan.win;
    double n = 1, reach = 0;
    for (int d = 0; d < 3; d++) {
        const int64_t more = w->dilation[d] * (w->kernel[d] - 1);
        to->kernel[d] = to->dilation[d] = 1;
        to->out[d] = w->out[d] + more;
        reach = reach * (double)to->out[d] + (double)more;
        n *= (double)to->out[d];
    }
    if (reach > STRIP || n > (double)INT64_MAX / 4 / (double)p->n_images) return false;
    to->n_kernel = 1;
    to->n_out = to->out[0] * to->out[1] * to->out[2];
    l->reach = (int64_t)reach;
    count_lanes(&l->plan, p->per_channel, p->per_image);
    return true;
}

/* Rows an odd number of vectors apart: their beginnings are spread over a cache's sets. */
static int64_t pitch_of(int64_t n, int64_t vl) {
    return (hx__ceil_div(n, vl) | 1) * vl;
}

/* For y = w X: tiles of padded positions up to an image's last window. */
static conv_layout layout_sum(const conv_plan *p, int64_t outs, int64_t vl) {
    conv_layout l;
    if (!pad_images(p, &l)) return unfolded(p);
    cut_tiles(&l, p, padded_position(p, &l, p->win.n_out - 1) + 1, l.plan.win.n_out, vl);
    l.pitch = pitch_of(l.tile + l.reach, vl);
    if (l.pitch > STRIP || (double)(l.space - p->win.n_out) * (double)outs > UNFOLD_COST * (double)p->win.n_out) return unfolded(p);
    return l;
}

/* For dw^T = X dy^T, by blocks of rows: tiles of positions of y, of which small images have too few for a sum. */
static conv_layout layout_dw(const conv_plan *p, int64_t rows, int64_t vl) {
    conv_layout l;
    if (p->win.n_out < TILE / 4 || !pad_images(p, &l)) return unfolded(p);
    cut_tiles(&l, p, p->win.n_out, p->win.n_out, vl);
    double longest = 0; /* of the padded positions of a tile */
    for (int64_t at = 0; at < l.space; at += l.tile) {
        const int64_t last = hx__min(at + l.tile, l.space) - 1;
        longest = fmax(longest, (double)(padded_position(p, &l, last) - padded_position(p, &l, at) + 1));
    }
    l.pitch = pitch_of((int64_t)fmin(longest, STRIP) + l.reach, vl);
    const int64_t channels = (rows - 1) / p->win.n_kernel + 2; /* of which a block has rows */
    return l.pitch > STRIP || channels * l.pitch > ROWS * TILE ? unfolded(p) : l;
}

/* A tile: positions [first, first + n) of all images' columns, or positions of y for dw. */
typedef struct conv_tile {
    int64_t at, first, n; /* in its space; from the first space's begin */
    int64_t n_left;       /* columns from the first on, in its space */
} conv_tile;

static conv_tile tile_of(const conv_layout *l, int64_t i) {
    const int64_t tiles = l->n_tiles / l->n_spaces, space = i / tiles, at = i % tiles * l->tile;
    return (conv_tile){.at = at, .first = space * l->stride + at, .n = hx__max(0, hx__min(l->tile, l->space - at)), .n_left = l->stride - at};
}

/* Where in y a position of the layout's columns is, and how many beside it. */
typedef struct conv_place {
    int64_t image, m, n; /* position of y; 0: none */
    int64_t n_padding;   /* columns behind them that are not in y */
} conv_place;

static conv_place place_of(const conv_plan *p, const conv_layout *l, int64_t position) {
    const int64_t n_columns = l->plan.win.n_out, *out = p->win.out, *padded = l->plan.win.out;
    conv_place place = {.image = position / n_columns, .m = position % n_columns};
    if (!l->is_padded) {
        place.n = n_columns - place.m;
        return place;
    }
    const int64_t row = place.m / padded[2], m2 = place.m % padded[2], m1 = row % padded[1], m0 = row / padded[1];
    place.m = (m0 * out[1] + m1) * out[2] + m2;
    if (m0 < out[0] && m1 < out[1] && m2 < out[2]) place.n = out[2] - m2;
    place.n_padding = padded[2] - m2 - place.n;
    return place;
}

/* A product's sum gains left * right: where the two are, in bytes from their row's, or column's, beginning. */
typedef struct conv_step {
    int64_t left, right;
} conv_step;

#define LANE          float
#define PER_LANE      1
#define LANE_OF(x, y) (x)
#define MUL_ADD(sum, left, right) ((sum) + (left) * (right))
#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/conv_tile.inc"
#include "backends/cpu/kernels/conv_direct.inc"
#include "backends/cpu/kernels/conv_fold.inc"
#include "backends/cpu/kernels/conv.inc"
#undef LANE
#define LANE double
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/conv_tile.inc"
#include "backends/cpu/kernels/conv_direct.inc"
#include "backends/cpu/kernels/conv_fold.inc"
#include "backends/cpu/kernels/conv.inc"

/* What has no bf16 form: on f32 copies. */
static hx_status conv_as_f32(hx_cpu *cpu, const hx_op_call *call) {
    const hx_cpu_kernel *kernel = &cpu->kernels->op[call->op];
    return hx__cpu_run_dense(cpu, call, kernel, kernel->f32);
}
#define conv_direct_bf16     conv_as_f32
#define conv_direct_dx_bf16  conv_as_f32
#define conv_direct_dw_bf16  conv_as_f32
#define conv_dx_by_fold_bf16 conv_as_f32
#undef LANE
#undef LANE_OF
#ifdef __AVX512BF16__
#undef PER_LANE
#undef MUL_ADD
#define LANE          uint32_t
#define PER_LANE      2
#define LANE_OF(x, y) ((x) | (uint32_t)(y) << 16)
#define MUL_ADD(sum, left, right) ((vec_bf16)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(left), (__m512bh)(right)))
#else
#define LANE          float
#define LANE_OF(x, y) hx__bf16_value(x)
#endif
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/conv_tile.inc"
#include "backends/cpu/kernels/conv.inc"

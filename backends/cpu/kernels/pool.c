/* Pools over 1 to 3 spatial dims: each image and channel is a plane of its own. */
#include "backends/cpu/kernels/ids.h"
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/op/window.h"
#include "core/tensor/half.h"

enum {
    POOL_TASK = 32768, /* elements of windows of a task */
    WINDOWS = 16       /* of a row that are looked at together */
};

/* Elements [lo, hi) of the window at m along dim d are in x, the others in the padding; lo is at x's index `at`. */
typedef struct pool_side {
    int64_t lo, hi, at;
} pool_side;

static inline pool_side side_of(const hx_window *w, int d, int64_t m) {
    int64_t begin = m * w->stride[d] - w->padding[d], step = w->dilation[d];
    pool_side s = {.lo = begin >= 0 ? 0 : hx__ceil_div(-begin, step)};
    if (begin + (w->kernel[d] - 1) * step < w->in[d]) /* the rule, and no division */
        s.hi = w->kernel[d];
    else
        s.hi = begin >= w->in[d] ? 0 : (w->in[d] - 1 - begin) / step + 1;
    s.at = begin + s.lo * step;
    return s;
}

/* Windows [first, last) along the last dim lie in x, none of their elements is padding. */
typedef struct pool_inner {
    int64_t first, last;
} pool_inner;

/* None where an index into the plane does not fit index_bytes, or where windows leave out more than they could read. */
static pool_inner inner_of(const hx_window *w, size_t index_bytes) {
    int64_t room = w->in[2] + w->padding[2] - (w->kernel[2] - 1) * w->dilation[2]; /* from the padding's begin, for where windows begin */
    if (room <= 0 || w->stride[2] > w->in[2] || (index_bytes == 4 && w->n_in > INT32_MAX)) return (pool_inner){0, 0};
    return (pool_inner){hx__ceil_div(w->padding[2], w->stride[2]), hx__min(w->out[2], hx__ceil_div(room, w->stride[2]))};
}

#define VALUES_OF(v) (v) /* of a vector of elements */
#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/pool.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/pool.inc"
#undef VALUES_OF
#define VALUES_OF(v) ((real_vec_bf16)(__builtin_convertvector(v, index_vec_bf16) << 16))
#include "backends/cpu/kernels/real_bf16.h"
#include "backends/cpu/kernels/pool.inc"

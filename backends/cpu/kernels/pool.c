/* Pools over 1 to 3 spatial dims: each image and channel is a plane of its own. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/op/window.h"

enum { POOL_TASK = 32768 /* elements of windows of a task */ };

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

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/pool.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/pool.inc"

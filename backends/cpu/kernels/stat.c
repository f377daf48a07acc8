/* Extrema, variances and norms over dims, for both element types: sums of terms, and largest or smallest ones,
 * accumulated in float64 by the same plan as plain sums. */
#include <math.h>
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/reduce_plan.h"

typedef enum fold_kind { FOLD_MAX, FOLD_MIN, FOLD_ABSMAX, FOLD_SUM, FOLD_DEVIATION, FOLD_ABS, FOLD_SQUARE, FOLD_POWER } fold_kind;

/* Join the results of two blocks; NaN wins. */
static double fold_join(fold_kind kind, double a, double b) {
    if (kind == FOLD_MAX || kind == FOLD_ABSMAX) return a > b || a != a ? a : b;
    if (kind == FOLD_MIN) return a < b || a != a ? a : b;
    return a + b;
}

static double fold_start(fold_kind kind) { return kind == FOLD_MAX ? -INFINITY : kind == FOLD_MIN ? INFINITY : 0; }

static fold_kind fold_of(const hx_op_call *call) {
    if (call->op == HX_OP_max) return FOLD_MAX;
    if (call->op == HX_OP_min) return FOLD_MIN;
    if (call->op == HX_OP_var) return FOLD_DEVIATION;
    double p = call->attr.stat.p;
    return isinf(p) ? FOLD_ABSMAX : p == 1 ? FOLD_ABS : p == 2 ? FOLD_SQUARE : FOLD_POWER;
}

/* The result from what was folded over n elements. */
static double stat_value(const hx_op_call *call, fold_kind kind, double folded, double n) {
    switch (kind) {
    case FOLD_DEVIATION: return folded / fmax(n - call->attr.stat.correction, 0);
    case FOLD_SQUARE: return sqrt(folded);
    case FOLD_POWER: return pow(folded, 1 / call->attr.stat.p);
    default: return folded;
    }
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/stat.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/stat.inc"

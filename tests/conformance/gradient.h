/* A case of the battery as a function of real numbers, and its derivative against finite differences.
 *
 *     conf_gradient_check(&ref, &rig, &conf_cases[i]);     // reports to Criterion
 *
 * View ops are cases too. Their results are words as outputs are, and the attributes say what words do not:
 *
 *     {HX_OP_view, "2,3", "6"}    {HX_OP_expand, "1,3", "4,3"}    {HX_OP_split, "5,2", "1,2 4,2", .attr.view.dim = 0}
 *     {HX_OP_slice, "5", "2", .attr.view = {.start = 1, .step = 2}}    {HX_OP_permute, "2,3", .attr.view.perm = {1, 0}}
 */
#ifndef HX_TESTS_CONFORMANCE_GRADIENT_H
#define HX_TESTS_CONFORMANCE_GRADIENT_H

#include "core/autograd/gradcheck.h"
#include "tests/conformance/battery.h"

/* Of max |analytic - numeric| / max(1, max |numeric|). The extrapolated differences are good to about 1e-9 on
 * these ranges, a wrong term in a derivative shows at 1e-2. */
#define CONF_GRADIENT_LIMIT 1e-6

typedef struct conf_function {
    const conf_case *c;
    const conf_operands *in;
} conf_function;

/** The base of an operand, which requires a gradient if it is floating: of a complex operand [..] its parts, [..,2]. */
void conf_upload_parts(conf_rig *rig, const conf_operand *operand, hx_tensor **base);

/** The first output of the case's op on views of the bases, a complex one as reals [..,2], as an hx_gradcheck_fn; of
 *  split, the parts from last to first joined again, without those of `skip`.
 *  @param function  conf_function */
hx_status conf_apply(hx_ctx *ctx, void *function, hx_tensor *const *bases, int n_in, hx_tensor **out);

/** Shapes of the results that a view's case names. @return how many */
int conf_result_shapes(const conf_case *c, hx_shape shapes[HX_OP_MAX_OUT]);

/** Expect the derivative of a case to agree with finite differences in f64. @param ref  makes operands */
void conf_gradient_check(conf_rig *ref, conf_rig *rig, const conf_case *c);

#endif

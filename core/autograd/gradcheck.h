/* Compare analytic gradients with Richardson-extrapolated central differences.
 *
 * The function under test maps n_in f64 tensors to one tensor of any shape; it is contracted with a fixed random
 * tensor, so that every output element counts. Source: Ridders 1982, polynomial extrapolation in h^2.
 */
#ifndef HX_CORE_AUTOGRAD_GRADCHECK_H
#define HX_CORE_AUTOGRAD_GRADCHECK_H

#include "core/autograd/tape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef hx_status (*hx_gradcheck_fn)(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out);

/** Check d out / d in[i] for every in[i] that requires a gradient.
 *  @param ctx        device and stream; its tape is not used
 *  @param[out] worst  max over inputs of |analytic - numeric|_inf / max(1, |numeric|_inf)
 *  @return HX_ERR_DTYPE unless the inputs to differentiate are f64 and contiguous */
hx_status hx_gradcheck(const hx_ctx *ctx, hx_gradcheck_fn fn, void *arg, hx_tensor *const *in, int n_in, double *worst);

#ifdef __cplusplus
}
#endif
#endif

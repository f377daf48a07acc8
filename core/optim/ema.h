/* Exponential moving average of weights (Polyak & Juditsky 1992): a shadow of each trained parameter that follows it
 * slowly, and takes its place for evaluation.
 *
 *     hx_ema *ema; HX_TRY(hx_ema_create(&ctx, &params, 0.999, &ema));
 *     HX_TRY(hx_ema_update(ema, &ctx, step));       // after each update of the parameters
 *     HX_TRY(hx_ema_swap(ema, &ctx));               // evaluate the averages ...
 *     HX_TRY(hx_ema_swap(ema, &ctx));               // ... and go on with the parameters, to the bit
 */
#ifndef HX_CORE_OPTIM_EMA_H
#define HX_CORE_OPTIM_EMA_H

#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_ema hx_ema;

/** Shadows begin as copies of the parameters, f32 for those of half type. Frozen parameters have none.
 *  @param params  borrowed pointers, copied list
 *  @param decay  0 <= decay < 1 */
hx_status hx_ema_create(hx_ctx *ctx, const hx_param_list *params, double decay, hx_ema **out);
void hx_ema_destroy(hx_ema **ema);
/** shadow = d shadow + (1 - d) parameter with d = min(decay, (1 + t)/(10 + t)), t = step - 1: young averages forget
 *  their start sooner. @param step  1 for the first update
 *  @return HX_ERR_STATE while the averages are swapped in */
hx_status hx_ema_update(hx_ema *ema, hx_ctx *ctx, int64_t step);
/** Put the averages, rounded to the parameters' dtypes, in the parameters' place, or the parameters back.
 *  Memory: a copy of the parameters while the averages are in place */
hx_status hx_ema_swap(hx_ema *ema, hx_ctx *ctx);
bool hx_ema_is_swapped(const hx_ema *ema);
/** Append the shadows ("/ema/<name>"); data are borrowed. The state is whole with the number of updates, which is
 *  the caller's. */
hx_status hx_ema_state(hx_ema *ema, const hx_agreement *ranks, hx_state_list *list);

#ifdef __cplusplus
}
#endif
#endif

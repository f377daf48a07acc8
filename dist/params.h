/* Parameters that several ranks hold: the same ones, with the same values. */
#ifndef HX_DIST_PARAMS_H
#define HX_DIST_PARAMS_H

#include "core/nn/layer.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Collective over comm: all ranks have the same parameters. Fails on all of them, or on none.
 *  @return HX_ERR_CONFIG names the first that differs in name, shape, dtype or in being frozen */
hx_status hx_params_same(hx_comm *comm, const hx_param_list *params);
/** Collective over comm: the first rank's values become everybody's. A rank whose stream has failed goes on to the last one, like the
 *  others. @param whole_only  leave out those that are split (hx_param.is_split) */
hx_status hx_params_broadcast(hx_comm *comm, hx_stream *stream, const hx_param_list *params, bool whole_only);

#ifdef __cplusplus
}
#endif
#endif

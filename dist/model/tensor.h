/* Tensor parallelism over a communicator: the exchanges that layers ask for (core/nn/shard.h).
 *
 *     hx_tensor_parallel *tp; HX_TRY(hx_tensor_parallel_create(hx_mesh_axis(mesh, HX_AXIS_TP), false, &tp));
 *     HX_TRY(hx_gpt_set_shard(gpt, hx_tensor_parallel_shard(tp)));      // before the GPT is initialised
 *
 * Every rank of the communicator runs the same layers on the same samples: their exchanges meet in the order of the calls.
 */
#ifndef HX_DIST_MODEL_TENSOR_H
#define HX_DIST_MODEL_TENSOR_H

#include "core/nn/shard.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_tensor_parallel hx_tensor_parallel;

/** Local. @param comm  borrowed
 *  @param sequence  split what lies between cut layers by position (hx_shard.is_sequence); with one rank nothing is split */
hx_status hx_tensor_parallel_create(hx_comm *comm, bool sequence, hx_tensor_parallel **out);
/** After the layers that use it, and after the tapes that recorded them are reset. */
void hx_tensor_parallel_destroy(hx_tensor_parallel **tp);
/** For hx_gpt_set_shard and its relatives; lives as long as `tp`. */
const hx_shard *hx_tensor_parallel_shard(const hx_tensor_parallel *tp);

#ifdef __cplusplus
}
#endif
#endif

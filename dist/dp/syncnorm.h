/* Batch norm over the samples of all data-parallel ranks: the exchange that its layers ask for (hx_batch_sync).
 *
 *     hx_sync_norm *norm; HX_TRY(hx_sync_norm_create(dp, root, &norm));
 *     HX_TRY(hx_sync_norm_hook(norm, &sync));                                     // sync: what hx_ddp_hook filled; for the trainer
 *
 * Layers exchange in the order in which they run, the same on all ranks. A rank may have fewer micro-batches in a step than others,
 * or none, or fail within one: at the end of its own it answers the others with empty rows until none of them is at work any more,
 * and moves its running statistics as they do. Gradients are therefore sent after the last backward, not while it goes on: a sum
 * of gradients that waits for a rank would keep that rank waiting for its statistics.
 */
#ifndef HX_DIST_DP_SYNCNORM_H
#define HX_DIST_DP_SYNCNORM_H

#include "core/nn/layers.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_sync_norm hx_sync_norm;

/** Local. Every batch norm at or below `root` takes its statistics over the ranks of `dp` from now on, in training; there may be none.
 *  @param dp, root  borrowed */
hx_status hx_sync_norm_create(hx_comm *dp, hx_layer *root, hx_sync_norm **out);
/** Statistics are each rank's own again. Before the layers go, and after the tapes that recorded them are reset. */
void hx_sync_norm_destroy(hx_sync_norm **norm);
/** Put the end of the exchange into a gradient synchronisation: *sync becomes one that calls what it was. Without a batch norm it
 *  stays as it is. @return HX_ERR_UNSUPPORTED: elastic sums, as a leaf's gradient would depend on which others are computed
 *  with it; ZeRO 2, which sends gradients after every micro-batch */
hx_status hx_sync_norm_hook(hx_sync_norm *norm, hx_grad_sync *sync);
/** Collective. For loops without a trainer: this rank has run all its batches. Returns when all ranks have; those that were at work
 *  meanwhile got empty rows from here. */
hx_status hx_sync_norm_finish(hx_sync_norm *norm, hx_stream *stream);

#ifdef __cplusplus
}
#endif
#endif

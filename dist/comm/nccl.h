/* NCCL under a communicator. This is code of the CUDA plug-in, not of libhelix: programs get it by a session on a GPU, or as
 * comm_attach of launch/plugin.h.
 */
#ifndef HX_DIST_COMM_NCCL_H
#define HX_DIST_COMM_NCCL_H

#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Collective. Let NCCL move memory of the stream's device for `comm`, and for what is split from it; nothing happens where
 *  size is 1. Such a communicator is closed before its device.
 *  HELIX_NCCL_TIMEOUT: seconds, 600 if unset, after which a collective, or ranks that do not meet, count as stuck: the
 *  communicator is aborted, and the failure names what it was. A rank on which a call fails does so at once, and the others
 *  as soon as they hear of it.
 *  @return all ranks alike: HX_ERR_UNSUPPORTED: no libnccl.so.2, an older one than this was built with, or two ranks on one
 *          GPU; HX_ERR_CONFIG; HX_ERR_COMM. `comm` then goes on as before */
hx_status hx_comm_nccl_attach(hx_comm *comm, hx_stream *stream);

#ifdef __cplusplus
}
#endif
#endif

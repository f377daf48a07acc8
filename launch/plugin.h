/* Plug-ins: devices that are no part of libhelix, opened at run time. There is one, libhelix_cuda.so: the cuda backend and
 * NCCL, in a library of its own so that one binary serves machines with and without CUDA.
 *
 * It is opened when cuda is asked for by name, or when a device node of the driver exists; never closed, because the CUDA
 * runtime cannot be. Where it cannot serve, the reason is one line.
 */
#ifndef HX_LAUNCH_PLUGIN_H
#define HX_LAUNCH_PLUGIN_H

#include "core/tensor/backend.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with every change of what passes between libhelix and a plug-in: hx_backend, hx_op_call, hx_comm_ops, below. */
#define HX_PLUGIN_ABI 4

typedef struct hx_plugin {
    const hx_backend *backend;
    /** How many devices of the backend this process sees. @return HX_ERR_DEVICE with the reason if there is none */
    hx_status (*n_devices)(int *out);
    /** hx_comm_nccl_attach. NULL: NCCL's headers were absent when the plug-in was built. */
    hx_status (*comm_attach)(hx_comm *comm, hx_stream *stream);
} hx_plugin;

/** The one function that a plug-in exports, under the name HX_PLUGIN_ENTRY.
 *  @return static storage; NULL if it was built for another ABI than the caller's */
typedef const hx_plugin *hx_plugin_entry(int abi);
#define HX_PLUGIN_ENTRY "hx_plugin_get"

/** Open libhelix_cuda.so once and register its backend; later calls give the same answer. Looks at HELIX_CUDA_PLUGIN (a
 *  path), beside the program, beside libhelix, in the installed library folder (as seen from the program, then as it was
 *  configured), then where the system looks.
 *  @param[out] out  static storage
 *  @return HX_ERR_DEVICE with the reason in one line: no such file, built for another version, a library it needs is missing */
hx_status hx_plugin_cuda(const hx_plugin **out);
/** True where the driver of a GPU is present (a device node), or HELIX_CUDA_PLUGIN is set. */
bool hx_plugin_cuda_expected(void);

#ifdef __cplusplus
}
#endif
#endif

/* The one symbol of libhelix_cuda.so; no part of libhelix. */
#include "backends/cuda/cuda.h"
#include "dist/comm/nccl.h"
#include "launch/plugin.h"

__attribute__((visibility("default"))) const hx_plugin *hx_plugin_get(int abi);

const hx_plugin *hx_plugin_get(int abi) {
    static const hx_plugin plugin = {
        .backend = &hx_backend_cuda,
        .n_devices = hx_cuda_device_count,
#ifdef HX_HAVE_NCCL
        .comm_attach = hx_comm_nccl_attach,
#endif
    };
    return abi == HX_PLUGIN_ABI ? &plugin : NULL;
}

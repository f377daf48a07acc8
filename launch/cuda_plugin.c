/* The one symbol of libhelix_cuda.so; no part of libhelix. */
#include "backends/cuda/cuda.h"
#include "launch/plugin.h"

__attribute__((visibility("default"))) const hx_plugin *hx_plugin_get(int abi);

const hx_plugin *hx_plugin_get(int abi) {
    static const hx_plugin plugin = {.backend = &hx_backend_cuda, .n_devices = hx_cuda_device_count};
    return abi == HX_PLUGIN_ABI ? &plugin : NULL;
}

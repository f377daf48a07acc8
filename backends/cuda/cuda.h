/* The cuda backend, as the plug-in's entry (launch/cuda_plugin.c) hands it out. It is no part of libhelix. */
#ifndef HX_BACKENDS_CUDA_CUDA_H
#define HX_BACKENDS_CUDA_CUDA_H

#include "core/tensor/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const hx_backend hx_backend_cuda; /* NVIDIA GPUs of compute capability 8.0 and later; priority 20 */

/** GPUs that this process sees. @return HX_ERR_DEVICE with the reason if there is none: no driver, one that is too old, none
 *  visible */
hx_status hx_cuda_device_count(int *out);

#ifdef __cplusplus
}
#endif
#endif

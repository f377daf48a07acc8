/* The backends that are part of libhelix. launch/compose.c registers them. */
#ifndef HX_BACKENDS_BACKENDS_H
#define HX_BACKENDS_BACKENDS_H

#include "core/tensor/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const hx_backend hx_backend_ref;  /* plain loops, float64 inside: the oracle; priority 0 */
extern const hx_backend hx_backend_cpu;  /* OpenBLAS and SIMD kernels on a thread pool; priority 10 */
extern const hx_backend hx_backend_meta; /* shapes and bytes only; priority -1, never a default */

#ifdef __cplusplus
}
#endif
#endif

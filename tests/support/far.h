/* A device whose memory the host must not touch, for tests: the kernels of the cpu backend over memory that is
 * mapped without access except while the device itself works. Whatever reads or writes a device pointer on the host
 * ends with SIGSEGV, and a copy whose kind contradicts its pointers is refused.
 *
 *     OK(hx_backend_register(&hx_backend_far));
 *     OK(hx_device_open("far", NULL, &device));
 */
#ifndef HX_TESTS_SUPPORT_FAR_H
#define HX_TESTS_SUPPORT_FAR_H

#include "core/tensor/backend.h"

/* Streams are inline, whatever HELIX_STREAM says; priority -1: never a default. HX_POOL_HOST is ordinary memory. */
extern const hx_backend hx_backend_far;

#endif

/* What this machine can do at most: the floating point operations of its cores and the bytes of its memory, measured with the
 * vectors of the instruction set that a cpu device uses. What a program reached is held against it.
 *
 *     double flops, bytes;
 *     HX_TRY(hx_cpu_peak(device, HX_F32, 1, &flops));
 *     HX_TRY(hx_cpu_bandwidth(device, 512 << 20, 1, &bytes));
 */
#ifndef HX_BACKENDS_CPU_PROBE_H
#define HX_BACKENDS_CPU_PROBE_H

#include "core/tensor/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Operations a second of multiply-adds whose operands stay in registers, two each: the best of several runs, about 0.1 s in all.
 *  @param dtype  HX_F32, or HX_BF16: pairs of bf16 whose products are added in f32
 *  @param n_threads  1 to the device's
 *  @param[out] per_second  0: the CPU, or the instruction set in use, has no such products of bf16
 *  @return HX_ERR_ARG: another device, dtype or number of threads */
hx_status hx_cpu_peak(hx_device *device, hx_dtype dtype, int n_threads, double *per_second);
/** Bytes a second of the fastest of a = s a + b, a = b + s c, and the latter by stores that go around the caches. Each operand
 *  counts once, one that is updated twice.
 *  @param n_bytes  of a, b and c together, at least 64 KiB: as many as a cache holds, or many more
 *  @param n_threads  1 to the device's, each of which has a part of the arrays
 *  @return HX_ERR_ARG: another device, numbers out of range; HX_ERR_MEMORY */
hx_status hx_cpu_bandwidth(hx_device *device, int64_t n_bytes, int n_threads, double *per_second);

#ifdef __cplusplus
}
#endif
#endif

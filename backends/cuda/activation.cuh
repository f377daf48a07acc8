/* What activations and their derivatives are made of, in f32 or f64. */
#ifndef HX_BACKENDS_CUDA_ACTIVATION_CUH
#define HX_BACKENDS_CUDA_ACTIVATION_CUH

#include <math.h>

#include "backends/cuda/port.cuh"

template <class A> static __device__ __forceinline__ A hx_sigmoid(A x) { return A(1) / (A(1) + exp(-x)); }

/* Far from 0 derivatives are 0 or 1, but their factors overflow: there they are taken at the edge of the interval outside
 * which the result no longer changes. */
template <class A> static __device__ __forceinline__ A hx_within(A x, A edge) { return x < -edge ? -edge : x > edge ? edge : x; }

/** Derivative of x sigmoid(x). @param s  sigmoid(x) */
template <class A> static __device__ __forceinline__ A hx_silu_slope(A x, A s) { return s * (A(1) + hx_within(x, A(700)) * (A(1) - s)); }

#endif

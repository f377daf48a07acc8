/* Elementwise ops for both element types. */
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"

/* The two halves of an array's last dim. */
static void halves_of(const hx_array *a, hx_array half[2]) {
    int last = a->ndim - 1;
    half[0] = *a;
    half[0].dims[last] /= 2;
    half[1] = half[0];
    half[1].data = (char *)a->data + half[0].dims[last] * a->strides[last] * (int64_t)hx_dtype_bytes(a->dtype);
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/elementwise.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/elementwise.inc"

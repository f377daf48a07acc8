/* Names and shared parts of the kernels of one instruction set. Functions that leave their file are named with
 * it: HX_K(map) is hx__cpu_map_avx2 when HX_ISA is avx2. Files that serve several element types hold their code in a .inc
 * file, included after real_f32.h, again after real_f64.h, and some after real_bf16.h, where
 *   REAL    is the type of numbers in registers,
 *   STORED  that of elements in memory, LOAD(x) the number that an element holds and STORE(v) the element for a number,
 *   R(x)    names a function of that type: x_f32, V(x) one of numbers in registers: those of vmath.h,
 *   HX_RK(x) names one that leaves the file: hx__cpu_x_f32_avx2.
 */
#ifndef HX_BACKENDS_CPU_KERNELS_H
#define HX_BACKENDS_CPU_KERNELS_H

#include "backends/cpu/cpu_impl.h"

#ifndef HX_ISA
#error "the build names the instruction set with -DHX_ISA=generic|avx2|avx512|avx512bf16"
#endif
#define HX_K__(name, isa) hx__cpu_##name##_##isa
#define HX_K_(name, isa)  HX_K__(name, isa)
#define HX_K(name)        HX_K_(name, HX_ISA)

/* The kernels, each for f32 and f64: what the table of kernels/table.c points to. */
#define HX_CPU_KERNEL_LIST(X)                                                                                \
    X(elementwise) X(sum) X(sumsq) X(softmax) X(softmax_bwd) X(matmul) X(linear) X(embedding)                \
    X(embedding_bwd) X(layernorm) X(layernorm_bwd) X(rmsnorm) X(rmsnorm_bwd) X(attention) X(attention_bwd)   \
    X(add_layernorm) X(add_rmsnorm)                                                                          \
    X(cross_entropy) X(cross_entropy_bwd) X(dropout) X(adamw)                                                \
    X(rope) X(swiglu) X(swiglu_bwd)                                                                          \
    X(sgd) X(rmsprop) X(lion) X(sumabs) X(maxabs) X(norm_blocks)                                             \
    X(conv) X(conv_bwd_x) X(conv_bwd_w) X(max_pool) X(max_pool_bwd) X(avg_pool) X(avg_pool_bwd)              \
    X(batchnorm) X(batchnorm_bwd) X(fftconv) X(fftconv_bwd)                                                  \
    X(log_softmax) X(log_softmax_bwd) X(stat) X(arg) X(topk) X(gather_bwd) X(pad_bwd)
#define HX_CPU_DECLARE_(name)                                                                                \
    hx_status HX_K(name##_f32)(hx_cpu *cpu, const hx_op_call *call);                                         \
    hx_status HX_K(name##_f64)(hx_cpu *cpu, const hx_op_call *call);
HX_CPU_KERNEL_LIST(HX_CPU_DECLARE_)
/* those with a form for bf16 as it is stored */
#define HX_CPU_BF16_LIST(X)                                                                                  \
    X(matmul) X(linear) X(sum) X(sumsq) X(embedding) X(embedding_bwd) X(cross_entropy) X(cross_entropy_bwd)  \
    X(layernorm) X(layernorm_bwd) X(rmsnorm) X(rmsnorm_bwd) X(add_layernorm) X(add_rmsnorm)       \
    X(attention) X(attention_bwd) X(rope) X(conv) X(conv_bwd_x) X(conv_bwd_w)  \
    X(max_pool) X(max_pool_bwd) X(avg_pool) X(avg_pool_bwd)
#define HX_CPU_DECLARE_BF16_(name) hx_status HX_K(name##_bf16)(hx_cpu *cpu, const hx_op_call *call);
HX_CPU_BF16_LIST(HX_CPU_DECLARE_BF16_)
extern const hx_cpu_probe HX_K(probe);
hx_status HX_K(copy)(hx_cpu *cpu, const hx_op_call *call);
static inline hx_status copy_array(hx_cpu *cpu, const hx_array *src, const hx_array *dst) {
    hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .in = {*src}, .out = {*dst}};
    return HX_K(copy)(cpu, &call);
}
/* kernels of every dtype, of integers and bool, of complex numbers */
hx_status HX_K(where)(hx_cpu *cpu, const hx_op_call *call);
hx_status HX_K(cat)(hx_cpu *cpu, const hx_op_call *call);
hx_status HX_K(gather)(hx_cpu *cpu, const hx_op_call *call);
hx_status HX_K(pad)(hx_cpu *cpu, const hx_op_call *call);
hx_status HX_K(compare_int)(hx_cpu *cpu, const hx_op_call *call);
hx_status HX_K(arg_int)(hx_cpu *cpu, const hx_op_call *call);
hx_status HX_K(complex)(hx_cpu *cpu, const hx_op_call *call);

/* An element of 16 bytes that is only moved. */
typedef struct hx_bytes16 {
    uint64_t v[2];
} hx_bytes16;

/* ---- elementwise engine ---- */

#define HX_MAP_ARRAYS 5

/* n elements, all operands dense; the first ones are written and may equal inputs. */
typedef void (*hx_map_fn)(int64_t n, void *const *p, const void *param);

/** Apply fn to every element of arrays[0], with arrays[1..] broadcast to its shape. Strided operands and those of
 *  half types pass through small buffers; fn sees half types as f32.
 *  @param n_out  arrays written, all of one shape: the first ones
 *  @param cost   rough operations per element */
hx_status HX_K(map)(hx_cpu *cpu, int n_out, int n_arrays, const hx_array *arrays, hx_map_fn fn, const void *param,
                    double cost);
/** The same with one array written and half types as they are stored. */
hx_status HX_K(map_stored)(hx_cpu *cpu, int n_arrays, const hx_array *arrays, hx_map_fn fn, const void *param,
                           double cost);

/* ---- products ---- */

/* op(A) op(B): row-major matrices; `ta` says that A is stored as [K,M]. */
typedef struct hx_gemm_shape {
    bool ta, tb;
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    bool use_blas; /* OpenBLAS for every size */
    bool is_tile;  /* of a larger product: plain loops, whose rounding is not that of register tiles, are not for a small one */
} hx_gemm_shape;

#define HX_GEMM_PACK (632 * 512) /* elements of a worker's memory for packed tiles */

/** C = alpha op(A) op(B) + beta C on the calling thread. @param pack  [HX_GEMM_PACK], 64-byte aligned */
void HX_K(gemm_f32)(const hx_gemm_shape *s, double alpha, const float *a, const float *b, double beta, float *c,
                    float *pack);
void HX_K(gemm_f64)(const hx_gemm_shape *s, double alpha, const double *a, const double *b, double beta, double *c,
                    double *pack);
/** The same of bf16 matrices; sums are f32. */
void HX_K(gemm_bf16)(const hx_gemm_shape *s, double alpha, const uint16_t *a, const uint16_t *b, double beta, float *c,
                     float *pack);

#endif

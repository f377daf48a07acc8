/* Tensor cores, matrix loads from shared memory, asynchronous copies and the fast power of 2 (PTX ISA, "Warp-level
 * matrix instructions", "cp.async" and "ex2"): the only inline assembly of the backend, so that the emulator replaces this
 * file's bodies and nothing else.
 * All lanes of a warp call the functions of matrices together.
 *
 * Fragments of m16n8k16, lane l, group g = l / 4, t = l % 4, two elements to a register (the lower column below):
 *   a[0] = A[g][2t..], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] = A[g+8][2t+8..]
 *   b[0] = B[2t..][g], b[1] = B[2t+8..][g]
 *   d[0..1] = D[g][2t..2t+1], d[2..3] = D[g+8][2t..2t+1]
 */
#ifndef HX_BACKENDS_CUDA_MMA_CUH
#define HX_BACKENDS_CUDA_MMA_CUH

#include "backends/cuda/port.cuh"

#ifdef HX_EMULATED
/* tests/emu/device.h has: hx_mma<T>, hx_ldmatrix_x4, hx_ldmatrix_x4_trans, hx_cp_async_16, _commit, _wait */
static inline float hx_exp2(float x) { return exp2f(x); }
#else

/** 2^x by the special function unit, to 2 ulp. Results below the normal numbers are 0: exp2f takes care of those, with several
 *  instructions more. */
__device__ __forceinline__ float hx_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/** D += A B in f32; T is __nv_bfloat16 or __half. */
template <class T> __device__ __forceinline__ void hx_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <> __device__ __forceinline__ void hx_mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> __device__ __forceinline__ void hx_mma<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/** Four 8x8 matrices of 16-bit elements. Lane l gives the shared-memory address (16-byte aligned) of row l % 8 of matrix
 *  l / 8; register i receives elements 2t, 2t+1 of row g of matrix i (trans: of its transpose). */
__device__ __forceinline__ void hx_ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void hx_ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

/** Start a copy of 16 bytes to shared memory, or write 16 zero bytes where !valid (`global` is then not read). Both
 *  addresses 16-byte aligned. Visible to this thread after hx_cp_async_wait, to others after a barrier behind it. */
__device__ __forceinline__ void hx_cp_async_16(void *shared, const void *global, bool valid) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
/** Close the group of copies started since the last commit. */
__device__ __forceinline__ void hx_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/** Wait until at most n of this thread's newest groups are pending. */
template <int n> __device__ __forceinline__ void hx_cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); }

#endif
#endif

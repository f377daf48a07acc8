/* The emulator's half of backends/cuda/port.cuh and mma.cuh: shared memory, names of kernels, tensor cores, asynchronous
 * copies. Fragments are laid out as mma.cuh says, and computed lane for lane. */
#ifndef HX_TESTS_EMU_DEVICE_H
#define HX_TESTS_EMU_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define HX_SHARED(type, name, ...)                                                                            \
    typedef type name##_emu_type __VA_ARGS__;                                                                 \
    static emu_shared_array name##_emu_array = {#name, sizeof(name##_emu_type), alignof(name##_emu_type), 0, nullptr}; \
    name##_emu_type &name = *static_cast<name##_emu_type *>(emu_shared(&name##_emu_array))
#define HX_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emu_dynamic_shared())
#define HX_NAME_KERNEL(name)          emu_name_kernel(name)

/* widen: an element's 16 bits as a float */
void emu_mma(emu_site at, float *d, const uint32_t *a, const uint32_t *b, float (*widen)(uint16_t));
void emu_ldmatrix(emu_site at, uint32_t *r, const void *row, bool trans);
void emu_cp_async_16(emu_site at, void *shared, const void *global, bool valid);
void emu_cp_async_commit();
void emu_cp_async_wait(int n);

template <class T> static inline float emu_widen(uint16_t bits) {
    return static_cast<float>(emu_bits<T>(bits));
}
template <class T>
static inline void hx_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_FILE, EMU_LINE) {
    emu_mma(EMU_HERE, d, a, b, emu_widen<T>);
}
static inline void hx_ldmatrix_x4(uint32_t (&r)[4], const void *row, EMU_FILE, EMU_LINE) {
    emu_ldmatrix(EMU_HERE, r, row, false);
}
static inline void hx_ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, EMU_FILE, EMU_LINE) {
    emu_ldmatrix(EMU_HERE, r, row, true);
}
static inline void hx_cp_async_16(void *shared, const void *global, bool valid, EMU_FILE, EMU_LINE) {
    emu_cp_async_16(EMU_HERE, shared, global, valid);
}
static inline void hx_cp_async_commit() { emu_cp_async_commit(); }
template <int n> static inline void hx_cp_async_wait() { emu_cp_async_wait(n); }

#endif

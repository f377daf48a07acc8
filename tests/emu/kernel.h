/* What a kernel's threads call in the emulator: where they are, and how they meet.
 *
 * The threads of a block are fibers of one thread of the host. One runs until it has to meet others: at a barrier with the
 * whole block, or with the lanes of a mask in a call of the warp, which is one mechanism for shuffles, votes, matrix loads
 * and matrix products: each lane leaves its operands, the last to arrive computes the results of all.
 */
#ifndef HX_TESTS_EMU_KERNEL_H
#define HX_TESTS_EMU_KERNEL_H

#include <functional>
#include <tuple>
#include <type_traits>

#include <stdint.h>
#include <string.h>

#include <cuda_runtime_api.h>

struct emu_site {
    const char *file;
    int line;
};
#define EMU_FILE const char *file = __builtin_FILE()
#define EMU_LINE int line = __builtin_LINE()
#define EMU_HERE emu_site { file, line }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> thread);
/* The name of the next kernel that this thread of the host launches. */
void emu_name_kernel(const char *name);

/* ---- the block ---- */

enum emu_vote { EMU_COUNT, EMU_AND, EMU_OR };
int emu_barrier(emu_site at, bool predicate, emu_vote vote);
static inline void __syncthreads(EMU_FILE, EMU_LINE) { emu_barrier(EMU_HERE, true, EMU_COUNT); }
static inline int __syncthreads_count(int p, EMU_FILE, EMU_LINE) { return emu_barrier(EMU_HERE, p != 0, EMU_COUNT); }
static inline int __syncthreads_and(int p, EMU_FILE, EMU_LINE) { return emu_barrier(EMU_HERE, p != 0, EMU_AND); }
static inline int __syncthreads_or(int p, EMU_FILE, EMU_LINE) { return emu_barrier(EMU_HERE, p != 0, EMU_OR); }

/* ---- the warp ---- */

/* One lane's part in a call of the warp; operands and results are what derives from it. */
struct emu_lane_call {
    const char *what;
    emu_site at;
    unsigned mask;
    void (*finish)(emu_lane_call *const *lanes, unsigned mask); /* [32]: lanes of the mask are set */
};
void emu_meet(emu_lane_call *call); /* returns when all lanes of the mask have met and the results are there */
int emu_lane();

enum emu_move { EMU_INDEX, EMU_UP, EMU_DOWN, EMU_XOR };
uint64_t emu_shuffle(emu_site at, unsigned mask, uint64_t value, emu_move move, int by, int width);

template <class T> static inline T emu_shuffle_as(emu_site at, unsigned mask, T value, emu_move move, int by, int width) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffles take up to 8 bytes");
    uint64_t bits = 0;
    memcpy(static_cast<void *>(&bits), &value, sizeof value);
    bits = emu_shuffle(at, mask, bits, move, by, width);
    memcpy(static_cast<void *>(&value), &bits, sizeof value);
    return value;
}
#define EMU_SHUFFLE(name, move)                                                                               \
    template <class T> static inline T name(unsigned mask, T value, int by, int width = 32, EMU_FILE, EMU_LINE) { \
        return emu_shuffle_as(EMU_HERE, mask, value, move, by, width);                                        \
    }
EMU_SHUFFLE(__shfl_sync, EMU_INDEX)
EMU_SHUFFLE(__shfl_up_sync, EMU_UP)
EMU_SHUFFLE(__shfl_down_sync, EMU_DOWN)
EMU_SHUFFLE(__shfl_xor_sync, EMU_XOR)
#undef EMU_SHUFFLE

/* value of every lane of the mask to every lane; bits of lanes outside are 0 */
void emu_gather(emu_site at, const char *what, unsigned mask, uint64_t value, uint64_t values[32]);
void emu_sync_warp(emu_site at, unsigned mask);
unsigned emu_ballot(emu_site at, unsigned mask, bool predicate);

static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_FILE, EMU_LINE) { emu_sync_warp(EMU_HERE, mask); }
static inline unsigned __ballot_sync(unsigned mask, int p, EMU_FILE, EMU_LINE) { return emu_ballot(EMU_HERE, mask, p != 0); }
static inline int __any_sync(unsigned mask, int p, EMU_FILE, EMU_LINE) { return emu_ballot(EMU_HERE, mask, p != 0) != 0; }
static inline int __all_sync(unsigned mask, int p, EMU_FILE, EMU_LINE) { return emu_ballot(EMU_HERE, mask, p != 0) == mask; }
template <class T> static inline unsigned __match_any_sync(unsigned mask, T value, EMU_FILE, EMU_LINE) {
    uint64_t mine = 0, all[32];
    unsigned same = 0;
    memcpy(&mine, &value, sizeof value);
    emu_gather(EMU_HERE, "__match_any_sync", mask, mine, all);
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && all[lane] == mine) same |= 1u << lane;
    return same;
}
#define EMU_REDUCE(name, T, start, step)                                                      \
    static inline T __reduce_##name##_sync(unsigned mask, T value, EMU_FILE, EMU_LINE) {      \
        uint64_t all[32];                                                                     \
        T sum = start;                                                                        \
        emu_gather(EMU_HERE, "__reduce_" #name "_sync", mask, (uint64_t)(unsigned)value, all); \
        for (int lane = 0; lane < 32; lane++) {                                               \
            const T x = (T)(unsigned)all[lane];                                               \
            if (mask >> lane & 1) sum = step;                                                 \
        }                                                                                     \
        return sum;                                                                           \
    }
EMU_REDUCE(add, unsigned, 0, sum + x)
EMU_REDUCE(add, int, 0, sum + x)
EMU_REDUCE(max, unsigned, 0, x > sum ? x : sum)
EMU_REDUCE(max, int, INT32_MIN, x > sum ? x : sum)
EMU_REDUCE(min, unsigned, UINT32_MAX, x < sum ? x : sum)
EMU_REDUCE(min, int, INT32_MAX, x < sum ? x : sum)
EMU_REDUCE(or, unsigned, 0, sum | x)
EMU_REDUCE(and, unsigned, UINT32_MAX, sum & x)
#undef EMU_REDUCE

/* ---- shared memory ---- */

/* A static array of a kernel: one per place in the source and instance of a template. */
struct emu_shared_array {
    const char *name;
    size_t n_bytes, align;
    uint64_t block; /* for which it has its place */
    void *at;
};
void *emu_shared(emu_shared_array *array);
void *emu_dynamic_shared();
/* Fail unless the bytes lie in this block's shared memory. */
void emu_shared_check(emu_site at, const char *what, const void *p, size_t n_bytes);

#endif

/* Inside of the cpu backend: the device state, scratch memory, and the table of kernels that each instruction
 * set brings.
 *
 * The files of kernels/ are compiled once per instruction set (HX_ISA = generic, avx2, avx512, avx512bf16) and export functions
 * whose names end in it; the rest is compiled once. A kernel is a function of the device and an op call. It
 * divides its work into tasks whose bounds depend on the call alone and gives them to the pool, so that its
 * result is the same for any number of threads.
 */
#ifndef HX_BACKENDS_CPU_CPU_IMPL_H
#define HX_BACKENDS_CPU_CPU_IMPL_H

#include <pthread.h>
#include "core/base/mem.h"
#include "core/op/op.h"
#include "core/tensor/host.h"

typedef struct hx_cpu hx_cpu;
typedef hx_status (*hx_cpu_fn)(hx_cpu *cpu, const hx_op_call *call);

/* What a kernel expects of dispatch. */
typedef struct hx_cpu_kernel {
    hx_cpu_fn f32, f64; /* NULL: none for that dtype; f32 serves the half types too */
    int by;             /* operand whose dtype chooses: i for input i, 8+i for output i; -1: f32 takes all dtypes */
    bool dense;         /* wants every operand row-major without gaps; strided ones are copied around the call */
    bool takes_half;    /* reads and writes half types itself; for the others f32 copies stand in, see dense.c */
    hx_cpu_fn other;    /* integers, bool and complex, where the shape rule lets them in; NULL: none */
    unsigned half_out;  /* bit i: output i is of a half type, and written as such */
    hx_cpu_fn bf16;     /* serves in the place of f32 where all operands of `stored` are bf16, and takes those as they are; NULL: none */
    unsigned stored;    /* bit i: input i, bit 8+i: output i */
    unsigned as_given;  /* likewise: what bf16 takes as bf16 or f32, whichever it is */
} hx_cpu_kernel;

enum { HX_CPU_N_STREAMS = 3, HX_CPU_PROBE_SUMS = 12 };

/* a from b and c, or from a and b; n elements, aligned to cache lines. */
typedef void (*hx_cpu_stream_fn)(int64_t n, float *a, const float *b, const float *c);

/* What probe.c measures. A repeat of products has so many floating point operations; values: [HX_CPU_PROBE_SUMS], where sums begin
 * and what comes of them. */
typedef struct hx_cpu_probe {
    void (*fma_f32)(int64_t n_repeats, float *values);
    double fma_f32_flops;
    bool (*has_dot_bf16)(void);
    void (*dot_bf16)(int64_t n_repeats, float *values); /* only if has_dot_bf16 */
    double dot_bf16_flops;
    hx_cpu_stream_fn streams[HX_CPU_N_STREAMS];
} hx_cpu_probe;

typedef struct hx_cpu_kernels {
    const char *isa;
    const hx_cpu_probe *probe;
    hx_cpu_kernel op[HX_OP_COUNT];
} hx_cpu_kernels;

extern const hx_cpu_kernels hx__cpu_kernels_generic;
#ifdef HX_HAVE_X86_LEVELS
extern const hx_cpu_kernels hx__cpu_kernels_avx2;
extern const hx_cpu_kernels hx__cpu_kernels_avx512;
extern const hx_cpu_kernels hx__cpu_kernels_avx512bf16;
#endif

/* ---- isa.c ---- */

typedef struct hx_cpu_isa {
    const hx_cpu_kernels *kernels;
    bool (*is_there)(void); /* does this CPU have what they use */
} hx_cpu_isa;

/* Of this build, best first; the last one runs everywhere. */
extern const hx_cpu_isa hx__cpu_isas[];
extern const int hx__cpu_n_isas;

/** The kernels that are named `want`, or the best that the CPU has.
 *  @param want  NULL or "": the best
 *  @return HX_ERR_CONFIG if this build or this CPU does not have them */
hx_status hx__cpu_choose_isa(const hx_cpu_isa *isas, int n, const char *want, const hx_cpu_kernels **out);
/** What a user is told of kernels that were chosen for want of better ones; NULL: nothing. */
const char *hx__cpu_isa_notice(const hx_cpu_isa *isas, int n, const hx_cpu_kernels *chosen);

#define HX_CPU_SCRATCH_BLOCKS 32

struct hx_cpu {
    hx_host host; /* first: the slots of host.h expect it */
    pthread_mutex_t lock; /* one op at a time: streams may have threads, the pool and the scratch are shared */
    hx_pool *pool;
    int n_threads;
    const hx_cpu_kernels *kernels;
    bool use_blas; /* unless HELIX_GEMM=own */
    void *blocks[HX_CPU_SCRATCH_BLOCKS]; /* scratch of the running op */
    size_t block_bytes[HX_CPU_SCRATCH_BLOCKS];
    int n_blocks;
    size_t used; /* bytes of the last block */
    struct hx_cpu_fft *fft; /* plans of backends/cpu/fft.c, from the first transform on */
};

/** n_bytes of uninitialised memory, 64-byte aligned, until the op ends. Kept and reused by later ops. */
hx_status hx__cpu_scratch(hx_cpu *cpu, size_t n_bytes, void **out);
/** The same for n items, with the product checked. */
hx_status hx__cpu_scratch_array(hx_cpu *cpu, int64_t n_items, size_t item_bytes, void **out);
/** Forget what the last op took; blocks are merged into one so that a steady state needs no memory. */
hx_status hx__cpu_scratch_reset(hx_cpu *cpu);

/** Run tasks on the pool, or in order on the caller when the work is too small to wake threads.
 *  @param cost  rough number of elementary operations in all */
static inline void hx__cpu_run(hx_cpu *cpu, int64_t n_tasks, double cost, hx_task_fn task, void *arg) {
    if (cpu->n_threads > 1 && n_tasks > 1 && cost > 30000.0) {
        hx_pool_run(cpu->pool, n_tasks, task, arg);
        return;
    }
    for (int64_t i = 0; i < n_tasks; i++) task(arg, i, 0);
}

/** Execute with dense copies in the place of operands that the kernel does not take: strided ones where it wants them
 *  dense, and those of half types, whose copies are f32. Results are copied back, half types rounded to nearest even. */
hx_status hx__cpu_run_dense(hx_cpu *cpu, const hx_op_call *call, const hx_cpu_kernel *kernel, hx_cpu_fn fn);

/** Run a kernel that is linear over the reals on the real parts of its complex operands, then on the imaginary ones. */
hx_status hx__cpu_by_parts(hx_cpu *cpu, const hx_op_call *call);

/* Random ops are bound by their definition in float64 and gain nothing from an instruction set. */
hx_status hx__cpu_random(hx_cpu *cpu, const hx_op_call *call);
/* fft, rfft and irfft, every dtype that they have. */
hx_status hx__cpu_fft(hx_cpu *cpu, const hx_op_call *call);
void hx__cpu_fft_close(hx_cpu *cpu);

/* For convolutions: complex transforms of length n, not scaled, and the angles by which their frequencies are moved. */
typedef struct hx_cpu_turned {
    void *forward, *inverse; /* plans */
    const void *turn;        /* [n,2] of the real type: e^(-i pi j / (2n)) */
} hx_cpu_turned;
/** Find or make them; they hold until the op ends.
 *  @param real     f32 or f64
 *  @param buffers  two of n_bytes, a multiple of 64, aligned to 64 bytes as all that are transformed must be */
hx_status hx__cpu_turned_find(hx_cpu *cpu, hx_dtype real, int64_t n, void *buffers, int64_t n_bytes, hx_cpu_turned *out);
/* From one buffer to another; what was in the first is lost. */
void hx__cpu_fft_execute_f32(void *plan, float *in, float *out);
void hx__cpu_fft_execute_f64(void *plan, double *in, double *out);

static inline bool hx__cpu_absent(const hx_array *a) { return a->data == NULL && a->ndim < 0; }
static inline int64_t hx__min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t hx__max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t hx__ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/** Elements of the last dim and the number of rows of that length. */
static inline void hx__cpu_rows(const hx_array *a, int64_t *n_rows, int64_t *n_cols) {
    *n_cols = a->ndim > 0 ? a->dims[a->ndim - 1] : 1;
    *n_rows = 1;
    for (int d = 0; d + 1 < a->ndim; d++) *n_rows *= a->dims[d];
}
/** Positions in the dims before `dim`, and in those after it. */
static inline void hx__cpu_around(const hx_array *a, int dim, int64_t *outer, int64_t *inner) {
    *outer = *inner = 1;
    for (int d = 0; d < dim; d++) *outer *= a->dims[d];
    for (int d = dim + 1; d < a->ndim; d++) *inner *= a->dims[d];
}

#endif

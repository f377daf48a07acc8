/* Inside of the cuda backend, the code of libhelix_cuda.so: devices, streams, and the table of kernels.
 *
 * A kernel's launcher is a function of a stream and an op call. It enqueues and returns: no synchronisation, no host memory
 * that may go away, no allocation other than hx__cuda_scratch. Results depend on the call alone: sums have one order, and
 * no floating-point number is added atomically. Host files are C, files with kernels are .cu and export launchers as C.
 *
 * The same sources are compiled by the host compiler for the emulator of the tests (HX_EMULATED): see port.cuh.
 */
#ifndef HX_BACKENDS_CUDA_CUDA_IMPL_H
#define HX_BACKENDS_CUDA_CUDA_IMPL_H

#include <cuda_runtime_api.h>

#include "core/op/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_cuda_gemm_library hx_cuda_gemm_library; /* gemm.c */
typedef struct hx_cuda_staging hx_cuda_staging;           /* staging.c */

/* cuStreamWaitValue32 of the driver, whose library is not linked. Its errors have the runtime's numbers. */
typedef cudaError_t (*hx_cuda_wait_value_fn)(cudaStream_t stream, unsigned long long address, unsigned value, unsigned flags);

typedef struct hx_cuda {
    int index;
    char name[96];
    char bus[16];      /* where it sits: "0000:3b:00.0" */
    int major, minor;  /* compute capability */
    int n_sms;
    int shared_bytes;  /* most dynamic shared memory of a block, after opting in */
    int64_t memory_bytes;
    cudaMemPool_t pool;         /* of scratch */
    hx_cuda_wait_value_fn wait_value; /* NULL: the driver has none */
    hx_cuda_gemm_library *gemm; /* owned */
    hx_cuda_staging *staging;   /* owned */
    void (*reclaim)(void *arg); /* hx_device_config has them */
    void *reclaim_arg;
} hx_cuda;

#define HX_CUDA_SCRATCH_BLOCKS 32

typedef struct hx_cuda_stream hx_cuda_stream;

/* What CUDA 12.1 and later pass to a kernel by value (from compute capability 7.0 on). */
#define HX_CUDA_PARAM_BYTES 32764

/* Calls of one op that are to be launched as one: a table that the op's launcher fills, a parameter of its kernel. Outside of
 * a batch a table of one call is launched at once, so that there is one way to a result. */
typedef struct hx_cuda_held {
    hx_status (*launch)(hx_cuda_stream *stream); /* NULL: nothing is held */
    hx_op op;                                    /* of the calls */
    uint64_t table[HX_CUDA_PARAM_BYTES / 8];
} hx_cuda_held;

struct hx_cuda_stream {
    hx_cuda *device;
    cudaStream_t handle;
    hx_status failure; /* sticky */
    char message[256]; /* of the failure */
    void *workspace;   /* of matrix products, made for the first; goes with the stream */
    void *scratch[HX_CUDA_SCRATCH_BLOCKS]; /* of the running op */
    int n_scratch;
    bool is_batch; /* calls may be held */
    hx_cuda_held held;
};

typedef hx_status (*hx_cuda_fn)(hx_cuda_stream *stream, const hx_op_call *call);

/* What a launcher expects of exec. */
typedef struct hx_cuda_kernel {
    hx_cuda_fn run;  /* NULL: the device has no kernel for the op */
    unsigned dtypes; /* bit per hx_dtype: those of the operand that chooses; others are HX_ERR_UNSUPPORTED */
    int by;          /* that operand: i for input i, 8+i for output i */
    bool dense;      /* wants every operand row-major without gaps: copies in scratch stand in for strided ones */
} hx_cuda_kernel;

extern const hx_cuda_kernel hx__cuda_kernels[HX_OP_COUNT];

/** Run an op by its row of the table: checks the dtype, makes strided operands dense where the kernel wants it, gives
 *  scratch back. @return HX_ERR_UNSUPPORTED if the table has no kernel. exec.c */
hx_status hx__cuda_exec(hx_cuda_stream *stream, const hx_op_call *call);
/** Begin a batch, or end it: what is held is launched. exec.c */
hx_status hx__cuda_batch(hx_cuda_stream *stream, bool begin);
/** Launch what is held, if anything is; afterwards nothing is. Scratch is the running op's. exec.c */
hx_status hx__cuda_launch_held(hx_cuda_stream *stream);
/** Enqueue a copy between arrays of one shape, of any strides and dtypes. exec.c */
hx_status hx__cuda_copy_array(hx_cuda_stream *stream, const hx_array *src, const hx_array *dst);
/** A row-major copy of an array in scratch, of the same shape and dtype. exec.c */
hx_status hx__cuda_dense(hx_cuda_stream *stream, const hx_array *a, hx_array *out);

/** n_bytes from the stream-ordered pool; cached tensors' blocks give way if there are no more. The caller frees with
 *  cudaFreeAsync. @param what  for the message of HX_ERR_MEMORY */
hx_status hx__cuda_take(hx_cuda_stream *stream, size_t n_bytes, const char *what, void **out);
/** n_bytes of uninitialised device memory, 256-byte aligned, until the op's work is done. @return HX_ERR_MEMORY */
hx_status hx__cuda_scratch(hx_cuda_stream *stream, size_t n_bytes, void **out);

/** HX_OK, or the failure that a call of the runtime returned: HX_ERR_MEMORY for want of memory, else HX_ERR_DEVICE.
 *  @param what  the call, for the message: "cudaMemcpyAsync of 4096 bytes" */
hx_status hx__cuda_check(cudaError_t error, const char *what);
/** HX_ERR_MEMORY with what was asked for, what is free, and who holds the rest where that can be found out. device.c */
hx_status hx__cuda_no_memory(const hx_cuda *device, size_t n_bytes, const char *what);
/** "; process 12 (python) holds 3.1 GiB, ...", or "" where NVML does not tell. nvml.c */
void hx__cuda_holders(const hx_cuda *device, char *text, size_t n_text);

/* Copies from and to host memory that is not pinned, by way of pinned buffers; staging.c */
hx_status hx__cuda_staging_open(hx_cuda_staging **out);
void hx__cuda_staging_close(hx_cuda_staging **staging);
/** True for a copy that is worth it. @param host  the host's end */
bool hx__cuda_staging_serves(const void *host, size_t n_bytes);
/** Returns when the host's memory may be reused (to_device), or holds the data. */
hx_status hx__cuda_staging_copy(hx_cuda_stream *stream, void *dst, const void *src, size_t n_bytes, bool to_device);

static inline bool hx__cuda_absent(const hx_array *a) { return a->data == NULL && a->ndim < 0; }
static inline int64_t hx__cuda_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t hx__cuda_ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

static inline int64_t hx__cuda_count(const hx_array *a) {
    int64_t n = 1;
    for (int d = 0; d < a->ndim; d++) n *= a->dims[d];
    return n;
}
/** Length of the last dim (1 for a scalar) and the number of rows of that length. */
static inline void hx__cuda_rows(const hx_array *a, int64_t *n_rows, int64_t *n_cols) {
    *n_cols = a->ndim > 0 ? a->dims[a->ndim - 1] : 1;
    *n_rows = 1;
    for (int d = 0; d + 1 < a->ndim; d++) *n_rows *= a->dims[d];
}

/* Launchers, by file. Which ops each serves is in table.c. */
hx_status hx__cuda_binary(hx_cuda_stream *s, const hx_op_call *call);        /* elementwise.cu */
hx_status hx__cuda_unary(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_compare(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_where(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_swiglu(hx_cuda_stream *s, const hx_op_call *call);        /* swiglu.cu */
hx_status hx__cuda_swiglu_bwd(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_copy(hx_cuda_stream *s, const hx_op_call *call);          /* copy.cu */
hx_status hx__cuda_dropout(hx_cuda_stream *s, const hx_op_call *call);       /* random.cu */
hx_status hx__cuda_random(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_sum(hx_cuda_stream *s, const hx_op_call *call);           /* reduce.cu */
hx_status hx__cuda_linear(hx_cuda_stream *s, const hx_op_call *call);        /* matmul.c */
hx_status hx__cuda_matmul(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_norm(hx_cuda_stream *s, const hx_op_call *call);          /* norm.cu: layernorm rmsnorm add_layernorm add_rmsnorm */
hx_status hx__cuda_norm_bwd(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_softmax(hx_cuda_stream *s, const hx_op_call *call);       /* softmax.cu: softmax log_softmax */
hx_status hx__cuda_softmax_bwd(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_cross_entropy(hx_cuda_stream *s, const hx_op_call *call); /* loss.cu */
hx_status hx__cuda_cross_entropy_bwd(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_embedding(hx_cuda_stream *s, const hx_op_call *call);     /* embedding.cu */
hx_status hx__cuda_embedding_bwd(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_rope(hx_cuda_stream *s, const hx_op_call *call);          /* rope.cu */
hx_status hx__cuda_attention(hx_cuda_stream *s, const hx_op_call *call);     /* attention.cu; tensor cores: flash.cu */
hx_status hx__cuda_attention_bwd(hx_cuda_stream *s, const hx_op_call *call);
hx_status hx__cuda_adamw(hx_cuda_stream *s, const hx_op_call *call);         /* optim.cu */
hx_status hx__cuda_norm_part(hx_cuda_stream *s, const hx_op_call *call);     /* normpart.cu: sumsq sumabs maxabs */
hx_status hx__cuda_norm_blocks(hx_cuda_stream *s, const hx_op_call *call);

/* dst[i] = the pattern, which hx_backend.fill describes; fill.cu */
hx_status hx__cuda_fill(hx_cuda_stream *s, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items);

#ifdef __cplusplus
}
#endif
#endif

/* The cuda device: opening, memory, streams, events and copies over the CUDA runtime.
 *
 * The runtime's current device belongs to a thread, and any thread may call: each entry sets it. No work goes to the default
 * stream, and streams do not wait for it. A failure of the device shows in whatever call comes next; the stream that met it
 * keeps it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cuda/cuda.h"
#include "backends/cuda/cuda_impl.h"
#include "backends/cuda/gemm.h"
#include "core/base/mem.h"

#define LEAST_MAJOR 8 /* kernels are compiled for compute capability 8.0 and later */
#define WAIT_GEQ    0 /* CU_STREAM_WAIT_VALUE_GEQ: (int32_t)(*address - value) >= 0 */

/* ---- errors ---- */

hx_status hx__cuda_check(cudaError_t error, const char *what) {
    if (HX_LIKELY(error == cudaSuccess)) return HX_OK;
    (void)cudaGetLastError(); /* else a later launch of this thread would report it once more */
    return HX_FAIL(error == cudaErrorMemoryAllocation ? HX_ERR_MEMORY : HX_ERR_DEVICE, "%s: %s (%s)", what,
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

hx_status hx__cuda_no_memory(const hx_cuda *cuda, size_t n_bytes, const char *what) {
    size_t n_free = 0, n_total = 0;
    char holders[320];
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&n_free, &n_total);
    hx__cuda_holders(cuda, holders, sizeof holders);
    return HX_FAIL(HX_ERR_MEMORY, "cuda device %d: %zu bytes of %s: %zu bytes are free of %zu%s", cuda->index, n_bytes, what,
                   n_free, n_total, holders);
}

static hx_status enter(const hx_cuda *cuda) { return hx__cuda_check(cudaSetDevice(cuda->index), "cudaSetDevice"); }

/* Work may be enqueued: nothing that came before has failed. */
static hx_status enter_stream(const hx_cuda_stream *s) {
    if (s->failure != HX_OK) return hx_error_adopt(s->failure, s->message);
    return enter(s->device);
}

/* Failures of the device end a stream; a want of memory, or of a kernel, is the caller's to deal with. */
static hx_status keep_failure(hx_cuda_stream *s, hx_status status) {
    if (status != HX_ERR_DEVICE || s->failure != HX_OK) return status;
    s->failure = status;
    snprintf(s->message, sizeof s->message, "%s", hx_error_message());
    return status;
}

static hx_status check_stream(hx_cuda_stream *s, cudaError_t error, const char *what) {
    return keep_failure(s, hx__cuda_check(error, what));
}

/* ---- opening ---- */

/* Versions of CUDA are 1000 major + 10 minor. */
static hx_status no_device(cudaError_t error) {
    int driver = 0, runtime = 0;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (error == cudaErrorInsufficientDriver && driver == 0)
        return HX_FAIL(HX_ERR_DEVICE, "device cuda: no NVIDIA driver is loaded; this build needs one for CUDA %d.%d", runtime / 1000,
                       runtime % 1000 / 10);
    if (error == cudaErrorInsufficientDriver)
        return HX_FAIL(HX_ERR_DEVICE, "device cuda: the NVIDIA driver knows CUDA %d.%d, this build needs %d.%d", driver / 1000,
                       driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (error != cudaSuccess && error != cudaErrorNoDevice) return hx__cuda_check(error, "cudaGetDeviceCount");
    return HX_FAIL(HX_ERR_DEVICE, "device cuda: no GPU%s%.64s", visible ? " is visible; CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "");
}

hx_status hx_cuda_device_count(int *out) {
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess || n < 1) return no_device(error);
    *out = n;
    return HX_OK;
}

static hx_status read_properties(hx_cuda *cuda) {
    struct cudaDeviceProp p;
    HX_TRY(hx__cuda_check(cudaGetDeviceProperties(&p, cuda->index), "cudaGetDeviceProperties"));
    if (p.major < LEAST_MAJOR)
        return HX_FAIL(HX_ERR_DEVICE, "cuda device %d, %.64s, has compute capability %d.%d: expected %d.0 or later", cuda->index,
                       p.name, p.major, p.minor, LEAST_MAJOR);
    if (!p.memoryPoolsSupported)
        return HX_FAIL(HX_ERR_DEVICE, "cuda device %d, %.64s, allocates nothing in stream order (cudaMallocAsync)", cuda->index, p.name);
    snprintf(cuda->name, sizeof cuda->name, "%.64s (%d.%d, %d SMs)", p.name, p.major, p.minor, p.multiProcessorCount);
    snprintf(cuda->bus, sizeof cuda->bus, "%04x:%02x:%02x.0", (unsigned)p.pciDomainID & 0xffff, (unsigned)p.pciBusID & 0xff,
             (unsigned)p.pciDeviceID & 0xff);
    cuda->major = p.major;
    cuda->minor = p.minor;
    cuda->n_sms = p.multiProcessorCount;
    cuda->shared_bytes = (int)p.sharedMemPerBlockOptin;
    cuda->memory_bytes = (int64_t)p.totalGlobalMem;
    return HX_OK;
}

/* Scratch comes and goes with every op: its pool keeps what it has instead of giving it back at each synchronisation. */
static hx_status open_pool(hx_cuda *cuda) {
    uint64_t keep = UINT64_MAX;
    HX_TRY(hx__cuda_check(cudaDeviceGetDefaultMemPool(&cuda->pool, cuda->index), "cudaDeviceGetDefaultMemPool"));
    return hx__cuda_check(cudaMemPoolSetAttribute(cuda->pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
}

/* Since CUDA 11.7 the function needs no setting of the driver's module. */
static void find_wait_value(hx_cuda *cuda) {
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    void *function = NULL;
    cudaError_t error = cudaGetDriverEntryPointByVersion("cuStreamWaitValue32", &function, 11070, cudaEnableDefault, &found);
    if (error != cudaSuccess) (void)cudaGetLastError();
    if (error == cudaSuccess && found == cudaDriverEntryPointSuccess) *(void **)&cuda->wait_value = function;
}

static void cuda_close(void *self) {
    hx_cuda *cuda = self;
    if (!cuda) return;
    (void)cudaSetDevice(cuda->index);
    hx__cuda_staging_close(&cuda->staging);
    hx__cuda_gemm_close(&cuda->gemm);
    if (cuda->pool) (void)cudaMemPoolTrimTo(cuda->pool, 0);
    hx_mem_free(&self);
}

static hx_status cuda_open(const hx_device_config *config, void **self) {
    int n;
    hx_cuda *cuda;
    HX_TRY(hx_cuda_device_count(&n));
    if (config->index < 0 || config->index >= n)
        return HX_FAIL(HX_ERR_DEVICE, "cuda device %d: there %s %d, numbered from 0", config->index, n == 1 ? "is" : "are", n);
    HX_TRY(hx_mem_alloc_array(1, sizeof *cuda, (void **)&cuda));
    cuda->index = config->index;
    cuda->reclaim = config->reclaim;
    cuda->reclaim_arg = config->reclaim_arg;
    hx_status status;
    HX_TRY_GOTO(enter(cuda), failed);
    HX_TRY_GOTO(read_properties(cuda), failed);
    HX_TRY_GOTO(open_pool(cuda), failed);
    find_wait_value(cuda);
    HX_TRY_GOTO(hx__cuda_staging_open(&cuda->staging), failed);
    HX_TRY_GOTO(hx__cuda_gemm_open(cuda, &cuda->gemm), failed);
    *self = cuda;
    return HX_OK;
failed:
    cuda_close(cuda);
    return status;
}

static void cuda_props(void *self, hx_device_props *out) {
    const hx_cuda *cuda = self;
    *out = (hx_device_props){.memory_bytes = cuda->memory_bytes};
    snprintf(out->name, sizeof out->name, "%s", cuda->name);
    snprintf(out->kernels, sizeof out->kernels, "cuda %.110s", cuda->name);
}

/* ---- memory ---- */

static hx_status cuda_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out) {
    hx_cuda *cuda = self;
    bool is_host = kind == HX_POOL_HOST;
    void *p = NULL;
    HX_TRY(enter(cuda));
    cudaError_t error = is_host ? cudaMallocHost(&p, n_bytes) : cudaMalloc(&p, n_bytes);
    if (error == cudaErrorMemoryAllocation && !is_host) { /* what scratch has kept may be what is missing */
        (void)cudaMemPoolTrimTo(cuda->pool, 0);
        error = cudaMalloc(&p, n_bytes);
    }
    if (error == cudaErrorMemoryAllocation && !is_host) return hx__cuda_no_memory(cuda, n_bytes, "device memory");
    HX_TRY(hx__cuda_check(error, is_host ? "cudaMallocHost" : "cudaMalloc"));
    *out = p;
    return HX_OK;
}

static void cuda_free(void *self, hx_pool_kind kind, void *p, size_t n_bytes) {
    (void)n_bytes;
    if (enter(self) != HX_OK) return; /* the device is gone, and its memory with it */
    (void)(kind == HX_POOL_HOST ? cudaFreeHost(p) : cudaFree(p));
}

/* ---- streams ---- */

static hx_status cuda_stream_create(void *self, void **out) {
    hx_cuda *cuda = self;
    hx_cuda_stream *s;
    HX_TRY(enter(cuda));
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    s->device = cuda;
    hx_status status = hx__cuda_check(cudaStreamCreateWithFlags(&s->handle, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    if (status != HX_OK) {
        hx_mem_free((void **)&s);
        return status;
    }
    *out = s;
    return HX_OK;
}

static void cuda_stream_destroy(void *self, void *stream) {
    hx_cuda_stream *s = stream;
    if (enter(self) == HX_OK) {
        if (s->workspace) (void)cudaFreeAsync(s->workspace, s->handle);
        (void)cudaStreamSynchronize(s->handle);
        (void)cudaStreamDestroy(s->handle);
    }
    hx_mem_free(&stream);
}

static hx_status cuda_stream_sync(void *self, void *stream) {
    hx_cuda_stream *s = stream;
    HX_TRY(enter(self));
    cudaError_t error = cudaStreamSynchronize(s->handle); /* of a failed stream too: what was enqueued before uses memory */
    HX_TRY(enter_stream(s));
    return check_stream(s, error, "cudaStreamSynchronize");
}

static hx_status cuda_stream_poll(void *self, void *stream, bool *idle) {
    hx_cuda_stream *s = stream;
    (void)self;
    HX_TRY(enter_stream(s));
    cudaError_t error = cudaStreamQuery(s->handle);
    if (error == cudaErrorNotReady) (void)cudaGetLastError(); /* no failure that a library might find later */
    else HX_TRY(check_stream(s, error, "cudaStreamQuery"));
    *idle = error == cudaSuccess;
    return HX_OK;
}

/* ---- events ---- */

static hx_status cuda_event_create(void *self, void **out) {
    cudaEvent_t event;
    HX_TRY(enter(self));
    HX_TRY(hx__cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags"));
    *out = event;
    return HX_OK;
}

static void cuda_event_destroy(void *self, void *event) {
    if (enter(self) == HX_OK) (void)cudaEventDestroy(event);
}

static hx_status cuda_event_record(void *self, void *event, void *stream) {
    hx_cuda_stream *s = stream;
    (void)self;
    HX_TRY(enter_stream(s));
    return check_stream(s, cudaEventRecord(event, s->handle), "cudaEventRecord");
}

static hx_status cuda_event_stream_wait(void *self, void *event, void *stream) {
    hx_cuda_stream *s = stream;
    (void)self;
    HX_TRY(enter_stream(s));
    return check_stream(s, cudaStreamWaitEvent(s->handle, event, 0), "cudaStreamWaitEvent");
}

static hx_status cuda_event_sync(void *self, void *event) {
    HX_TRY(enter(self));
    return hx__cuda_check(cudaEventSynchronize(event), "cudaEventSynchronize");
}

static hx_status cuda_event_poll(void *self, void *event, bool *done) {
    HX_TRY(enter(self));
    cudaError_t error = cudaEventQuery(event);
    if (error == cudaErrorNotReady) (void)cudaGetLastError();
    else HX_TRY(hx__cuda_check(error, "cudaEventQuery"));
    *done = error == cudaSuccess;
    return HX_OK;
}

/* ---- work ---- */

static hx_status cuda_copy(void *self, void *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind) {
    static const enum cudaMemcpyKind kinds[] = {cudaMemcpyDeviceToDevice, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost};
    hx_cuda_stream *s = stream;
    char what[64];
    (void)self;
    HX_TRY(enter_stream(s));
    if (kind != HX_COPY_ON_DEVICE && hx__cuda_staging_serves(kind == HX_COPY_TO_DEVICE ? src : dst, n_bytes))
        return keep_failure(s, hx__cuda_staging_copy(s, dst, src, n_bytes, kind == HX_COPY_TO_DEVICE));
    snprintf(what, sizeof what, "cudaMemcpyAsync of %zu bytes", n_bytes);
    return check_stream(s, cudaMemcpyAsync(dst, src, n_bytes, kinds[kind], s->handle), what);
}

static hx_status cuda_fill(void *self, void *stream, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    hx_cuda_stream *s = stream;
    (void)self;
    HX_TRY(enter_stream(s));
    return keep_failure(s, hx__cuda_fill(s, dst, pattern, pattern_bytes, n_items));
}

static hx_status cuda_exec(void *self, void *stream, const hx_op_call *call) {
    hx_cuda_stream *s = stream;
    (void)self;
    HX_TRY(enter_stream(s));
    return keep_failure(s, hx__cuda_exec(s, call));
}

/* What a failed stream holds is never launched: nothing more comes through enter_stream. */
static hx_status cuda_batch(void *self, void *stream, bool begin) {
    hx_cuda_stream *s = stream;
    (void)self;
    HX_TRY(enter_stream(s));
    return keep_failure(s, hx__cuda_batch(s, begin));
}

typedef struct host_call {
    void (*fn)(void *arg);
    void *arg;
} host_call;

static void CUDART_CB run_host_call(cudaStream_t stream, cudaError_t error, void *data) {
    const host_call call = *(host_call *)data;
    (void)stream, (void)error;
    hx_mem_free(&data);
    call.fn(call.arg);
}

/* Unlike that of cudaLaunchHostFunc, the call comes after a failure of the device too. */
static hx_status cuda_host_call(void *self, void *stream, void (*fn)(void *arg), void *arg) {
    hx_cuda_stream *s = stream;
    host_call *call;
    (void)self;
    HX_TRY(enter_stream(s));
    HX_TRY(hx_mem_alloc_array(1, sizeof *call, (void **)&call));
    *call = (host_call){fn, arg};
    cudaError_t error = cudaStreamAddCallback(s->handle, run_host_call, call, 0);
    if (error != cudaSuccess) hx_mem_free((void **)&call);
    return check_stream(s, error, "cudaStreamAddCallback");
}

static hx_status cuda_word_wait(void *self, void *stream, const uint32_t *word, uint32_t value) {
    hx_cuda_stream *s = stream;
    hx_cuda *cuda = self;
    cudaError_t error = cudaErrorNotSupported;
    HX_TRY(enter_stream(s));
    if (cuda->wait_value) error = cuda->wait_value(s->handle, (unsigned long long)(uintptr_t)word, value, WAIT_GEQ);
    if (error == cudaErrorNotSupported)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "cuda device %d: its driver has no cuStreamWaitValue32", cuda->index);
    return check_stream(s, error, "cuStreamWaitValue32");
}

static void *cuda_native(void *self, const char *what, void *object) {
    (void)self;
    return strcmp(what, "stream") == 0 && object ? (void *)((hx_cuda_stream *)object)->handle : NULL;
}

const hx_backend hx_backend_cuda = {
    .name = "cuda",
    .priority = 20,
    .open = cuda_open,
    .close = cuda_close,
    .props = cuda_props,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .stream_create = cuda_stream_create,
    .stream_destroy = cuda_stream_destroy,
    .stream_sync = cuda_stream_sync,
    .stream_poll = cuda_stream_poll,
    .event_create = cuda_event_create,
    .event_destroy = cuda_event_destroy,
    .event_record = cuda_event_record,
    .event_stream_wait = cuda_event_stream_wait,
    .event_sync = cuda_event_sync,
    .event_poll = cuda_event_poll,
    .copy = cuda_copy,
    .fill = cuda_fill,
    .exec = cuda_exec,
    .batch = cuda_batch,
    .native = cuda_native,
    .host_call = cuda_host_call,
    .word_wait = cuda_word_wait,
};

/* The rest of the runtime's interface: devices, errors, memory, copies. */
#include "tests/emu/emu.h"

#include <stdlib.h>

static thread_local cudaError_t last_error;
static thread_local int current_device;

cudaError_t emu_error(cudaError_t error) { return last_error = error; }
int emu_current_device() { return current_device; }
static int n_devices() { return (int)emu_option("HELIX_EMU_GPUS", 1); }
static size_t device_bytes() { return (size_t)emu_option("HELIX_EMU_MEMORY", (int64_t)4 << 30); }

/* ---- versions, errors ---- */

static cudaError_t version(int *out) {
    *out = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *out) { return version(out); }
cudaError_t cudaRuntimeGetVersion(int *out) { return version(out); }

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define EMU_ERROR(name, value, text) case name: return #name;
        EMU_ERRORS(EMU_ERROR)
#undef EMU_ERROR
    }
    return "unrecognized error code";
}
const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define EMU_ERROR(name, value, text) case name: return text;
        EMU_ERRORS(EMU_ERROR)
#undef EMU_ERROR
    }
    return "unrecognized error code";
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }
cudaError_t cudaGetLastError(void) {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    if (n_devices() <= 0) return emu_error(cudaErrorNoDevice);
    *count = n_devices();
    return cudaSuccess;
}
static cudaError_t check_device(int device) {
    if (n_devices() <= 0) return emu_error(cudaErrorNoDevice);
    return device >= 0 && device < n_devices() ? cudaSuccess : emu_error(cudaErrorInvalidDevice);
}
cudaError_t cudaSetDevice(int device) {
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) current_device = device;
    return error;
}
cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) { return check_device(device); }
cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return check_device(current_device);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    struct cudaDeviceProp p = {};
    const cudaError_t error = check_device(device);
    if (error != cudaSuccess) return error;
    snprintf(p.name, sizeof p.name, "Helix emulator");
    p.totalGlobalMem = device_bytes();
    p.sharedMemPerBlock = 48 * 1024;
    p.sharedMemPerBlockOptin = 227 * 1024;
    p.sharedMemPerMultiprocessor = 228 * 1024;
    p.regsPerBlock = 65536;
    p.warpSize = 32;
    p.maxThreadsPerBlock = 1024;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = INT32_MAX, p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 65536;
    p.major = 9;
    p.multiProcessorCount = 4; /* few, so that loops over blocks turn more than once */
    p.canMapHostMemory = p.concurrentKernels = p.unifiedAddressing = p.memoryPoolsSupported = 1;
    p.pciBusID = device + 1;
    p.maxThreadsPerMultiProcessor = 2048;
    p.l2CacheSize = 1 << 22;
    *prop = p;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
    struct cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess) return error;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = p.warpSize; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrCanMapHostMemory: *value = p.canMapHostMemory; return cudaSuccess;
    case cudaDevAttrConcurrentKernels: *value = p.concurrentKernels; return cudaSuccess;
    case cudaDevAttrPciBusId: *value = p.pciBusID; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; return cudaSuccess;
    case cudaDevAttrUnifiedAddressing: *value = p.unifiedAddressing; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported: *value = p.memoryPoolsSupported; return cudaSuccess;
    default: return emu_error(cudaErrorNotSupported);
    }
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return cudaSuccess;
}

/* ---- memory ---- */

static cudaError_t alloc(emu_memory_kind kind, void **out, size_t n_bytes, bool may_wait) {
    auto lock = emu_lock();
    const cudaError_t error = check_device(current_device);
    if (error != cudaSuccess) return error;
    if (may_wait) emu_synchronize(lock, "the device, to allocate memory");
    void *p = n_bytes > 0 ? emu_memory_alloc(kind, current_device, n_bytes) : nullptr;
    if (n_bytes > 0 && p == nullptr) return emu_error(cudaErrorMemoryAllocation);
    *out = p;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **out, size_t n_bytes) { return alloc(EMU_DEVICE, out, n_bytes, true); }
cudaError_t cudaMallocHost(void **out, size_t n_bytes) {
    if (n_bytes > (size_t)emu_option("HELIX_EMU_PINNED", INT64_MAX)) return emu_error(cudaErrorMemoryAllocation);
    return alloc(EMU_PINNED, out, n_bytes, true);
}
cudaError_t cudaHostAlloc(void **out, size_t n_bytes, unsigned int) { return cudaMallocHost(out, n_bytes); }
cudaError_t cudaMallocAsync(void **out, size_t n_bytes, cudaStream_t) { return alloc(EMU_DEVICE, out, n_bytes, false); }

/* waits for the device */
static cudaError_t release(emu_memory_kind kind, void *p) {
    auto lock = emu_lock();
    if (p == nullptr) return cudaSuccess;
    emu_synchronize(lock, "the device, to free memory");
    emu_drive(lock, "the device, to free memory", emu_all_idle);
    emu_memory_free(kind, p);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) { return release(EMU_DEVICE, p); }
cudaError_t cudaFreeHost(void *p) { return release(EMU_PINNED, p); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) {
    auto lock = emu_lock();
    if (p == nullptr) return cudaSuccess;
    emu_enqueue(stream, "a free", [p] {
        emu_memory_free(EMU_DEVICE, p);
        return true;
    });
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    auto lock = emu_lock();
    *total_bytes = device_bytes();
    *free_bytes = device_bytes() - emu_memory_used(current_device);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p) {
    auto lock = emu_lock();
    const emu_block *b = emu_memory_find(p);
    void *address = const_cast<void *>(p);
    *out = {};
    out->device = b != nullptr ? b->device : -2;
    out->type = b == nullptr ? cudaMemoryTypeUnregistered : b->kind == EMU_DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    out->devicePointer = b != nullptr ? address : nullptr;
    out->hostPointer = b != nullptr && b->kind == EMU_DEVICE ? nullptr : address;
    return cudaSuccess;
}

/* Pools keep nothing back, so there is nothing to set. */
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *out, int device) {
    *out = reinterpret_cast<cudaMemPool_t>((uintptr_t)device + 1);
    return check_device(device);
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, enum cudaMemPoolAttr, void *) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attr, void *value) {
    auto lock = emu_lock();
    const bool is_amount = attr >= cudaMemPoolAttrReservedMemCurrent;
    if (is_amount) *static_cast<uint64_t *>(value) = emu_memory_used((int)reinterpret_cast<uintptr_t>(pool) - 1);
    return is_amount ? cudaSuccess : emu_error(cudaErrorNotSupported);
}

/* ---- copies ---- */

static const emu_block *device_block(const void *p) {
    const emu_block *b = emu_memory_find(p);
    return b != nullptr && b->kind == EMU_DEVICE ? b : nullptr;
}

static bool is_direction(enum cudaMemcpyKind kind, bool from_device, bool to_device) {
    switch (kind) {
    case cudaMemcpyHostToHost: return !from_device && !to_device;
    case cudaMemcpyHostToDevice: return !from_device && to_device;
    case cudaMemcpyDeviceToHost: return from_device && !to_device;
    case cudaMemcpyDeviceToDevice: return from_device && to_device;
    case cudaMemcpyDefault: return true;
    }
    return false;
}

static void copy_now(void *dst, const void *src, size_t n_bytes) {
    emu_memory_check("a copy from device memory", src, n_bytes);
    emu_memory_check("a copy to device memory", dst, n_bytes);
    memmove(dst, src, n_bytes);
}

/* From pageable memory, bytes are read before the call returns; to pageable memory, it returns when they are there; pinned
 * memory is read and written when the stream gets there. */
static cudaError_t copy(void *dst, const void *src, size_t n_bytes, enum cudaMemcpyKind kind, cudaStream_t stream, bool wait) {
    auto lock = emu_lock();
    if (n_bytes == 0) return cudaSuccess;
    emu_memory_check("a copy from device memory", src, n_bytes);
    emu_memory_check("a copy to device memory", dst, n_bytes);
    if (!emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    if (!is_direction(kind, device_block(src) != nullptr, device_block(dst) != nullptr)) return emu_error(cudaErrorInvalidValue);
    auto staged = std::make_shared<std::string>();
    auto is_done = std::make_shared<bool>(false);
    const bool is_staged = emu_memory_find(src) == nullptr;
    if (is_staged) staged->assign(static_cast<const char *>(src), n_bytes);
    emu_enqueue(stream, "a copy", [=] {
        copy_now(dst, is_staged ? staged->data() : src, n_bytes);
        return *is_done = true;
    });
    if (wait || emu_memory_find(dst) == nullptr) emu_drive(lock, "a copy", [is_done, stream] { return *is_done || !emu_is_stream(stream); });
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n_bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(dst, src, n_bytes, kind, stream, false);
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n_bytes, enum cudaMemcpyKind kind) {
    return copy(dst, src, n_bytes, kind, nullptr, true);
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n_bytes, cudaStream_t stream) {
    auto lock = emu_lock();
    if (n_bytes == 0) return cudaSuccess;
    emu_memory_check("a memset", dst, n_bytes);
    if (device_block(dst) == nullptr) return emu_error(cudaErrorInvalidValue);
    emu_enqueue(stream, "a memset", [=] {
        emu_memory_check("a memset", dst, n_bytes);
        memset(dst, value, n_bytes);
        return true;
    });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *dst, int value, size_t n_bytes) { return cudaMemsetAsync(dst, value, n_bytes, nullptr); }

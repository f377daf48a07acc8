#include "tests/support/far.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#include "backends/backends.h"
#include "core/base/mem.h"
#include "core/tensor/host.h"

#define ARENA_BYTES ((size_t)8 << 30) /* of addresses; pages come when they are written */
#define ALIGN       ((size_t)4096)    /* a page: what is given back is whole pages */

/* Blocks are cut from one range of addresses and never reused, so that a stale pointer does not meet another tensor. */
typedef struct far_device {
    hx_host host;    /* its streams and events; first, as host.h asks */
    void *cpu;       /* device of the cpu backend, which computes */
    void *cpu_stream;
    char *arena;     /* [ARENA_BYTES] */
    size_t used;
    pthread_mutex_t lock;
    int n_inside;    /* calls that are at work on the memory */
} far_device;

/* ---- the gate ---- */

static void set_access(const far_device *d, int access) {
    if (d->used > 0 && mprotect(d->arena, d->used, access) != 0) perror("far: mprotect");
}

static void gate_open(far_device *d) {
    pthread_mutex_lock(&d->lock);
    if (d->n_inside++ == 0) set_access(d, PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&d->lock);
}

static void gate_close(far_device *d) {
    pthread_mutex_lock(&d->lock);
    if (--d->n_inside == 0) set_access(d, PROT_NONE);
    pthread_mutex_unlock(&d->lock);
}

static bool is_far(const far_device *d, const void *p) {
    return (const char *)p >= d->arena && (const char *)p < d->arena + ARENA_BYTES;
}

/* ---- the device ---- */

static void far_close(void *self) {
    far_device *d = self;
    if (d->cpu_stream != NULL) hx_backend_cpu.stream_destroy(d->cpu, d->cpu_stream);
    if (d->cpu != NULL) hx_backend_cpu.close(d->cpu);
    if (d->arena != NULL) munmap(d->arena, ARENA_BYTES);
    pthread_mutex_destroy(&d->lock);
    hx_mem_free(&self);
}

static hx_status open_parts(far_device *d, const hx_device_config *config) {
    void *p = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return HX_FAIL(HX_ERR_MEMORY, "far: %zu bytes of addresses", ARENA_BYTES);
    d->arena = p;
    HX_TRY(hx_backend_cpu.open(config, &d->cpu));
    ((hx_host *)d->cpu)->is_async = false; /* the gate stands open while a call runs, not longer */
    return hx_backend_cpu.stream_create(d->cpu, &d->cpu_stream);
}

static hx_status far_open(const hx_device_config *config, void **self) {
    far_device *d;
    HX_TRY(hx_mem_alloc_array(1, sizeof *d, (void **)&d));
    pthread_mutex_init(&d->lock, NULL);
    hx_status status = open_parts(d, config);
    if (status != HX_OK) {
        far_close(d);
        return status;
    }
    *self = d;
    return HX_OK;
}

static void far_props(void *self, hx_device_props *out) {
    far_device *d = self;
    hx_backend_cpu.props(d->cpu, out);
    snprintf(out->name, sizeof out->name, "memory that the host cannot touch");
    out->is_host_memory = false;
}

static hx_status far_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out) {
    far_device *d = self;
    const size_t rounded = (n_bytes / ALIGN + 1) * ALIGN;
    if (kind == HX_POOL_HOST) return hx_host_alloc(&d->host, kind, n_bytes, out);
    pthread_mutex_lock(&d->lock);
    const bool fits = n_bytes < ARENA_BYTES && rounded <= ARENA_BYTES - d->used;
    if (fits) *out = d->arena + d->used;
    if (fits) d->used += rounded;
    pthread_mutex_unlock(&d->lock);
    return fits ? HX_OK : HX_FAIL(HX_ERR_MEMORY, "far: %zu bytes: %zu are left", n_bytes, ARENA_BYTES - d->used);
}

static void far_free(void *self, hx_pool_kind kind, void *p, size_t n_bytes) {
    far_device *d = self;
    if (kind == HX_POOL_HOST) hx_host_free(&d->host, kind, p, n_bytes);
    else (void)madvise(p, (n_bytes / ALIGN + 1) * ALIGN, MADV_DONTNEED);
}

/* ---- work ---- */

static hx_status far_copy(void *self, void *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind) {
    far_device *d = self;
    const bool to_far = kind != HX_COPY_TO_HOST, from_far = kind != HX_COPY_TO_DEVICE;
    if (is_far(d, dst) != to_far || is_far(d, src) != from_far)
        return HX_FAIL(HX_ERR_INTERNAL, "far: copy %d from %s to %s memory", (int)kind, is_far(d, src) ? "device" : "host",
                       is_far(d, dst) ? "device" : "host");
    gate_open(d);
    hx_status status = hx_host_copy(&d->host, stream, dst, src, n_bytes, kind);
    gate_close(d);
    return status;
}

static hx_status far_fill(void *self, void *stream, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    far_device *d = self;
    if (!is_far(d, dst)) return HX_FAIL(HX_ERR_INTERNAL, "far: fill of host memory");
    gate_open(d);
    hx_status status = hx_host_fill(&d->host, stream, dst, pattern, pattern_bytes, n_items);
    gate_close(d);
    return status;
}

static hx_status far_exec(void *self, void *stream, const hx_op_call *call) {
    far_device *d = self;
    (void)stream; /* inline, like the one of the cpu device */
    gate_open(d);
    hx_status status = hx_backend_cpu.exec(d->cpu, d->cpu_stream, call);
    gate_close(d);
    return status;
}

const hx_backend hx_backend_far = {
    .name = "far",
    .priority = -1,
    .open = far_open,
    .close = far_close,
    .props = far_props,
    .alloc = far_alloc,
    .free = far_free,
    .stream_create = hx_host_stream_create,
    .stream_destroy = hx_host_stream_destroy,
    .stream_sync = hx_host_stream_sync,
    .stream_poll = hx_host_stream_poll,
    .event_create = hx_host_event_create,
    .event_destroy = hx_host_event_destroy,
    .event_record = hx_host_event_record,
    .event_stream_wait = hx_host_event_stream_wait,
    .event_sync = hx_host_event_sync,
    .event_poll = hx_host_event_poll,
    .copy = far_copy,
    .fill = far_fill,
    .exec = far_exec,
};

/* The backend registry, and devices: the caching allocator, slabs of handle records, streams and events. */
#include "core/tensor/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/trace.h"
#include "core/op/op.h"
#include "core/tensor/tensor_impl.h"

#define MAX_BACKENDS 16
/* Size classes: the multiples of 256 bytes up to 8 KiB, then 32 to an octave, so that at most a thirtieth of a large block is slack. */
#define CLASS_MIN    256
#define CLASS_STEPS  32 /* in an octave; as many below the first */
#define CLASS_COUNT  (CLASS_STEPS * 41)
#define SLAB_RECORDS 64

static const hx_backend *registry[MAX_BACKENDS]; /* by falling priority */
static int n_backends;

typedef struct free_list {
    void **blocks;
    int64_t n, capacity;
} free_list;

struct hx_device {
    const hx_backend *backend;
    void *self;
    hx_device_props props;
    hx_device_stats stats;
    bool is_exact; /* HELIX_ALLOC=exact: nothing is cached */
    free_list free[HX_POOL_COUNT][CLASS_COUNT];
    hx_tensor *free_tensors;
    hx__storage *free_storages;
    void **slabs;
    int64_t n_slabs, slabs_capacity;
    int64_t serial;
    hx_stream *streams; /* a list through hx_stream.next */
};

struct hx_stream {
    hx_device *device;
    void *self;
    hx_stream *next; /* of the same device */
    bool is_batch;   /* between the two calls of hx_stream_batch */
    double held_flops; /* of the traced calls that the backend may hold back in this batch; and their bytes */
    int64_t held_bytes;
};

struct hx_event {
    hx_device *device;
    void *self;
};

/* ---- registry ---- */

hx_status hx_backend_register(const hx_backend *b) {
    if (b == NULL || b->name == NULL || !b->open || !b->close || !b->props || !b->alloc || !b->free ||
        !b->stream_create || !b->stream_destroy || !b->stream_sync || !b->stream_poll || !b->event_create ||
        !b->event_destroy || !b->event_record || !b->event_stream_wait || !b->event_sync || !b->event_poll || !b->copy ||
        !b->fill || !b->exec)
        return HX_FAIL(HX_ERR_ARG, "backend \"%s\": a required slot is empty", b && b->name ? b->name : "?");
    if (hx_backend_find(b->name) != NULL) return HX_FAIL(HX_ERR_ARG, "backend \"%s\" is registered already", b->name);
    if (n_backends == MAX_BACKENDS) return HX_FAIL(HX_ERR_ARG, "more than %d backends", MAX_BACKENDS);
    int at = n_backends++;
    for (; at > 0 && registry[at - 1]->priority < b->priority; at--) registry[at] = registry[at - 1];
    registry[at] = b;
    return HX_OK;
}

const hx_backend *hx_backend_at(int i) {
    return i >= 0 && i < n_backends ? registry[i] : NULL;
}

const hx_backend *hx_backend_find(const char *name) {
    for (int i = 0; i < n_backends; i++)
        if (strcmp(registry[i]->name, name) == 0) return registry[i];
    return NULL;
}

/* ---- devices ---- */

static hx_status choose_allocation(bool *is_exact) {
    const char *want = getenv("HELIX_ALLOC");
    *is_exact = want != NULL && strcmp(want, "exact") == 0;
    if (*is_exact || want == NULL || *want == '\0' || strcmp(want, "cached") == 0) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "HELIX_ALLOC=%.32s: expected cached or exact", want);
}

static void reclaim(void *device) { hx_device_trim(device); }

static hx_status open_with(const hx_backend *backend, const hx_device_config *config, hx_device **out) {
    void *p;
    bool is_exact;
    HX_TRY(choose_allocation(&is_exact));
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_device), &p));
    hx_device *device = p;
    device->backend = backend;
    device->is_exact = is_exact;
    hx_device_config own = *config;
    own.reclaim = reclaim;
    own.reclaim_arg = device;
    hx_status status = backend->open(&own, &device->self);
    if (status != HX_OK) {
        hx_mem_free(&p);
        return status;
    }
    backend->props(device->self, &device->props);
    *out = device;
    return HX_OK;
}

hx_status hx_device_open(const char *name, const hx_device_config *config, hx_device **out) {
    static const hx_device_config plain = {0};
    if (config == NULL) config = &plain;
    if (name != NULL) {
        const hx_backend *backend = hx_backend_find(name);
        if (backend != NULL) {
            HX_TRY(open_with(backend, config, out));
            return HX_OK;
        }
    } else {
        /* An absent device is passed over; one that refuses (a wrong setting, no memory) is an answer. */
        for (int i = 0; i < n_backends && registry[i]->priority >= 0; i++) {
            hx_status status = open_with(registry[i], config, out);
            if (status != HX_ERR_DEVICE) return status;
        }
    }
    char names[256] = "";
    for (int i = 0; i < n_backends; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", registry[i]->name);
    }
    return HX_FAIL(HX_ERR_DEVICE, "device \"%s\": expected one of: %s", name ? name : "(default)",
                   names[0] ? names : "(no backend is registered)");
}

void hx_device_close(hx_device **handle) {
    hx_device *device = *handle;
    if (device == NULL) return;
    hx_device_trim(device);
    for (int kind = 0; kind < HX_POOL_COUNT; kind++)
        for (int c = 0; c < CLASS_COUNT; c++) hx_mem_free((void **)&device->free[kind][c].blocks);
    for (int64_t i = 0; i < device->n_slabs; i++) hx_mem_free(&device->slabs[i]);
    hx_mem_free((void **)&device->slabs);
    device->backend->close(device->self);
    hx_mem_free((void **)handle);
}

const char *hx_device_name(const hx_device *device) {
    return device->backend->name;
}

void hx_device_props_get(const hx_device *device, hx_device_props *out) {
    *out = device->props;
}

void *hx_device_native(hx_device *device, const char *what, void *object) {
    return device->backend->native ? device->backend->native(device->self, what, object) : NULL;
}

void hx_device_stats_get(const hx_device *device, hx_device_stats *out) {
    *out = device->stats;
}

void hx_device_stats_reset_peak(hx_device *device) {
    device->stats.peak_bytes = device->stats.live_bytes;
}

void hx__device_count_op(hx_device *device, double flops) {
    device->stats.n_ops++;
    device->stats.flops += flops;
}

int64_t hx__device_next_serial(hx_device *device) {
    return ++device->serial;
}

/* ---- caching allocator ---- */

/* Class STEPS o + q holds (STEPS + q + 1) MIN 2^(o-1) bytes; of o = 0, (q + 1) MIN. */
static size_t class_bytes(int class) {
    const int octave = class / CLASS_STEPS, step = class % CLASS_STEPS + 1;
    return octave == 0 ? (size_t)CLASS_MIN * (size_t)step : ((size_t)CLASS_MIN << (octave - 1)) * (size_t)(CLASS_STEPS + step);
}

/* The smallest class that holds n bytes. */
static int class_of(size_t n) {
    const size_t units = n > CLASS_MIN ? (n - 1) / CLASS_MIN : 0; /* whole ones before the last byte */
    if (units < CLASS_STEPS) return (int)units;
    const int octave = 64 - __builtin_clzll(units / CLASS_STEPS); /* from 1 */
    return octave * CLASS_STEPS + (int)((units >> (octave - 1)) - CLASS_STEPS);
}

/* A block is freed when nobody will enqueue work on it any more: work enqueued before may still use it. That is no
 * matter while the block is reused in order on its stream, but the backend must not get it back before. What a batch holds
 * back uses operands that live. */
static void wait_for_streams(hx_device *device) {
    for (hx_stream *s = device->streams; s != NULL; s = s->next)
        (void)device->backend->stream_sync(device->self, s->self); /* a failure is sticky: whoever uses the stream next meets it */
}

/* Bytes of the block that stands for n: its class's, or as many as were asked for, at least one. */
static size_t block_bytes(const hx_device *device, size_t n) {
    if (device->is_exact) return n > 0 ? n : 1;
    return class_bytes(class_of(n));
}

static void count_live(hx_device *device, hx_pool_kind kind, int64_t n_bytes) {
    hx_device_stats *stats = &device->stats;
    if (kind == HX_POOL_HOST) return;
    stats->live_bytes += n_bytes;
    if (stats->live_bytes > stats->peak_bytes) stats->peak_bytes = stats->live_bytes;
}

static void count_held(hx_device *device, hx_pool_kind kind, int64_t n_bytes) {
    if (kind != HX_POOL_HOST) device->stats.held_bytes += n_bytes;
}

static void give_back(hx_device *device, hx_pool_kind kind, void *p, size_t n_bytes) {
    device->backend->free(device->self, kind, p, n_bytes);
    count_held(device, kind, -(int64_t)n_bytes);
}

hx_status hx_device_alloc(hx_device *device, hx_pool_kind kind, size_t n_bytes, void **out) {
    hx_device_stats *stats = &device->stats;
    int class = class_of(n_bytes);
    if (class >= CLASS_COUNT) return HX_FAIL(HX_ERR_MEMORY, "%zu bytes: more than any device has", n_bytes);
    free_list *list = &device->free[kind][class];
    size_t rounded = block_bytes(device, n_bytes);
    if (list->n > 0) {
        *out = list->blocks[--list->n];
    } else {
        hx_status status = device->backend->alloc(device->self, kind, rounded, out);
        if (status == HX_ERR_MEMORY) { /* cached blocks of other sizes may be what is missing */
            hx_device_trim(device);
            status = device->backend->alloc(device->self, kind, rounded, out);
        }
        if (status != HX_OK)
            return HX_FAIL(status, "%zu bytes on %s: %lld bytes live, %lld at peak, %lld held; %s", n_bytes,
                           device->backend->name, (long long)stats->live_bytes, (long long)stats->peak_bytes,
                           (long long)stats->held_bytes, hx_error_message());
        count_held(device, kind, (int64_t)rounded);
        stats->n_raw_allocs++;
    }
    stats->n_allocs++;
    count_live(device, kind, (int64_t)rounded);
    return HX_OK;
}

void hx_device_free(hx_device *device, hx_pool_kind kind, void *p, size_t n_bytes) {
    if (p == NULL) return;
    size_t rounded = block_bytes(device, n_bytes);
    free_list *list = &device->free[kind][class_of(n_bytes)];
    count_live(device, kind, -(int64_t)rounded);
    if (!device->is_exact &&
        hx_mem_grow((void **)&list->blocks, &list->capacity, list->n + 1, sizeof *list->blocks) == HX_OK) {
        list->blocks[list->n++] = p;
    } else { /* also without memory to remember the block */
        wait_for_streams(device);
        give_back(device, kind, p, rounded);
    }
}

void hx_device_trim(hx_device *device) {
    wait_for_streams(device);
    for (int kind = 0; kind < HX_POOL_COUNT; kind++)
        for (int class = 0; class < CLASS_COUNT; class ++) {
            free_list *list = &device->free[kind][class];
            size_t n_bytes = class_bytes(class);
            while (list->n > 0) give_back(device, (hx_pool_kind)kind, list->blocks[--list->n], n_bytes);
        }
}

/* ---- slabs of handle records ---- */

static hx_status new_slab(hx_device *device, size_t record_bytes, void **out) {
    HX_TRY(hx_mem_grow((void **)&device->slabs, &device->slabs_capacity, device->n_slabs + 1, sizeof *device->slabs));
    HX_TRY(hx_mem_alloc_array(SLAB_RECORDS, record_bytes, out));
    device->slabs[device->n_slabs++] = *out;
    return HX_OK;
}

hx_status hx__device_take_tensor(hx_device *device, hx_tensor **out) {
    if (device->free_tensors == NULL) {
        void *slab;
        HX_TRY(new_slab(device, sizeof(hx_tensor), &slab));
        for (int i = 0; i < SLAB_RECORDS; i++) hx__device_give_tensor(device, (hx_tensor *)slab + i);
    }
    hx_tensor *t = device->free_tensors;
    device->free_tensors = t->next_free;
    memset(t, 0, sizeof *t);
    *out = t;
    return HX_OK;
}

void hx__device_give_tensor(hx_device *device, hx_tensor *tensor) {
    tensor->next_free = device->free_tensors;
    device->free_tensors = tensor;
}

hx_status hx__device_take_storage(hx_device *device, hx__storage **out) {
    if (device->free_storages == NULL) {
        void *slab;
        HX_TRY(new_slab(device, sizeof(hx__storage), &slab));
        for (int i = 0; i < SLAB_RECORDS; i++) hx__device_give_storage(device, (hx__storage *)slab + i);
    }
    hx__storage *s = device->free_storages;
    device->free_storages = s->next_free;
    memset(s, 0, sizeof *s);
    *out = s;
    return HX_OK;
}

void hx__device_give_storage(hx_device *device, hx__storage *storage) {
    storage->next_free = device->free_storages;
    device->free_storages = storage;
}

/* ---- streams ---- */

hx_status hx_stream_create(hx_device *device, hx_stream **out) {
    void *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_stream), &p));
    hx_stream *stream = p;
    stream->device = device;
    hx_status status = device->backend->stream_create(device->self, &stream->self);
    if (status != HX_OK) {
        hx_mem_free(&p);
        return status;
    }
    stream->next = device->streams;
    device->streams = stream;
    *out = stream;
    return HX_OK;
}

void hx_stream_destroy(hx_stream **handle) {
    hx_stream *stream = *handle;
    if (stream == NULL) return;
    hx_stream **link = &stream->device->streams;
    while (*link != stream) link = &(*link)->next;
    *link = stream->next;
    stream->device->backend->stream_destroy(stream->device->self, stream->self);
    hx_mem_free((void **)handle);
}

hx_device *hx_stream_device(const hx_stream *stream) {
    return stream->device;
}

static hx_status check_no_batch(const hx_stream *stream) {
    if (HX_LIKELY(!stream->is_batch)) return HX_OK;
    return HX_FAIL(HX_ERR_STATE, "within a batch of the stream: expected nothing but hx_stream_exec until the batch ends");
}

hx_status hx_stream_sync(hx_stream *stream) {
    HX_TRY(check_no_batch(stream));
    return stream->device->backend->stream_sync(stream->device->self, stream->self);
}

hx_status hx_stream_poll(hx_stream *stream, bool *idle) {
    HX_TRY(check_no_batch(stream));
    return stream->device->backend->stream_poll(stream->device->self, stream->self, idle);
}

void *hx_stream_native(hx_stream *stream) {
    return hx_device_native(stream->device, "stream", stream->self);
}

/* What is traced is waited for, so that its time is its own also where streams are queues. What a batch holds back is one span, its end. */
static hx_status wait_traced(const hx_stream *stream, int64_t began, hx_status status) {
    if (HX_LIKELY(began == 0) || status != HX_OK || stream->is_batch) return status;
    return stream->device->backend->stream_sync(stream->device->self, stream->self);
}

hx_status hx_stream_copy(hx_stream *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind) {
    HX_TRY(check_no_batch(stream));
    if (n_bytes == 0) return HX_OK;
    const int64_t began = hx_span_begin();
    const hx_status status =
        wait_traced(stream, began, stream->device->backend->copy(stream->device->self, stream->self, dst, src, n_bytes, kind));
    hx_span_end(began, HX_SPAN_OP, "memory copy", 0, 2 * (int64_t)n_bytes);
    return status;
}

hx_status hx_stream_fill(hx_stream *stream, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    HX_TRY(check_no_batch(stream));
    if (pattern_bytes != 1 && pattern_bytes != 2 && pattern_bytes != 4 && pattern_bytes != 8 && pattern_bytes != 16)
        return HX_FAIL(HX_ERR_ARG, "pattern of %zu bytes: expected 1, 2, 4, 8 or 16", pattern_bytes);
    if (n_items < 0) return HX_FAIL(HX_ERR_ARG, "%lld items: expected >= 0", (long long)n_items);
    if (n_items == 0) return HX_OK;
    const int64_t began = hx_span_begin();
    const hx_status status =
        wait_traced(stream, began, stream->device->backend->fill(stream->device->self, stream->self, dst, pattern, pattern_bytes, n_items));
    hx_span_end(began, HX_SPAN_OP, "memory fill", 0, n_items * (int64_t)pattern_bytes);
    return status;
}

static hx_status exec_traced(hx_stream *stream, const hx_op_call *call, double flops, int64_t began) {
    if (stream->is_batch && stream->device->backend->batch) {
        stream->held_flops += flops;
        stream->held_bytes += hx_op_bytes(call);
        return stream->device->backend->exec(stream->device->self, stream->self, call);
    }
    const hx_status status = wait_traced(stream, began, stream->device->backend->exec(stream->device->self, stream->self, call));
    hx_span_end(began, HX_SPAN_OP, hx_op_info_get(call->op)->name, flops, hx_op_bytes(call));
    return status;
}

hx_status hx_stream_exec(hx_stream *stream, const hx_op_call *call) {
    const double flops = hx_op_flops(call);
    const int64_t began = hx_span_begin();
    hx__device_count_op(stream->device, flops);
    if (HX_LIKELY(began == 0)) return stream->device->backend->exec(stream->device->self, stream->self, call);
    return exec_traced(stream, call, flops, began);
}

static hx_status end_batch(hx_stream *stream) {
    const hx_backend *b = stream->device->backend;
    const int64_t began = hx_span_begin();
    const hx_status status = wait_traced(stream, began, b->batch(stream->device->self, stream->self, false));
    hx_span_end(began, HX_SPAN_OP, "batch of ops", stream->held_flops, stream->held_bytes);
    return status;
}

/* A batch that could not begin is none; one that fails at its end has ended. */
hx_status hx_stream_batch(hx_stream *stream, bool begin) {
    const hx_backend *b = stream->device->backend;
    if (begin == stream->is_batch)
        return HX_FAIL(HX_ERR_STATE, begin ? "a batch of the stream has begun already" : "no batch of the stream has begun");
    if (begin && b->batch) HX_TRY(b->batch(stream->device->self, stream->self, true));
    stream->is_batch = begin;
    if (begin) {
        stream->held_flops = 0;
        stream->held_bytes = 0;
    }
    return begin || !b->batch ? HX_OK : end_batch(stream);
}

hx_status hx_stream_host_call(hx_stream *stream, void (*fn)(void *arg), void *arg) {
    const hx_backend *b = stream->device->backend;
    HX_TRY(check_no_batch(stream));
    if (b->host_call == NULL) return HX_FAIL(HX_ERR_UNSUPPORTED, "device %s does not call the host", b->name);
    return b->host_call(stream->device->self, stream->self, fn, arg);
}

hx_status hx_stream_wait_word(hx_stream *stream, const uint32_t *word, uint32_t value) {
    const hx_backend *b = stream->device->backend;
    HX_TRY(check_no_batch(stream));
    if (b->word_wait == NULL) return HX_FAIL(HX_ERR_UNSUPPORTED, "device %s does not wait for the host's memory", b->name);
    return b->word_wait(stream->device->self, stream->self, word, value);
}

/* ---- events ---- */

hx_status hx_event_create(hx_device *device, hx_event **out) {
    void *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_event), &p));
    hx_event *event = p;
    event->device = device;
    hx_status status = device->backend->event_create(device->self, &event->self);
    if (status != HX_OK) {
        hx_mem_free(&p);
        return status;
    }
    *out = event;
    return HX_OK;
}

void hx_event_destroy(hx_event **handle) {
    hx_event *event = *handle;
    if (event == NULL) return;
    event->device->backend->event_destroy(event->device->self, event->self);
    hx_mem_free((void **)handle);
}

hx_status hx_event_record(hx_event *event, hx_stream *stream) {
    HX_TRY(check_no_batch(stream));
    return event->device->backend->event_record(event->device->self, event->self, stream->self);
}

hx_status hx_event_wait(hx_event *event, hx_stream *stream) {
    HX_TRY(check_no_batch(stream));
    return event->device->backend->event_stream_wait(event->device->self, event->self, stream->self);
}

hx_status hx_event_sync(hx_event *event) {
    return event->device->backend->event_sync(event->device->self, event->self);
}

hx_status hx_event_poll(hx_event *event, bool *done) {
    return event->device->backend->event_poll(event->device->self, event->self, done);
}

hx_status hx_event_arm(hx_event *event) {
    const hx_backend *b = event->device->backend;
    if (b->event_arm == NULL) return HX_FAIL(HX_ERR_UNSUPPORTED, "device %s has no host-fired events", b->name);
    return b->event_arm(event->device->self, event->self);
}

void hx_event_fire(hx_event *event, hx_status status, const char *message) {
    event->device->backend->event_fire(event->device->self, event->self, status, message);
}

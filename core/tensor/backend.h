/* What a device implements.
 *
 * A backend opens devices; a device has memory pools, streams and events, and executes ops. Everything is
 * stream-ordered: copy, fill, exec and collectives enqueue and return; work on one stream runs in order, work
 * on two streams is unordered unless an event joins them. A failure that happens after enqueueing is sticky:
 * stream_poll, stream_sync and the calls that enqueue on that stream return it until the stream is destroyed.
 *
 * REQUIRED slots must be filled. OPTIONAL slots may be NULL, which means what their comment says.
 * A CPU device executes inline on its streams; with HELIX_STREAM=async in the environment each stream is a queue
 * with its own thread, which is how tests find code that relies on inline execution.
 *
 *     hx_device *dev; HX_TRY(hx_device_open("cpu", &(hx_device_config){.n_threads = 2}, &dev));
 *     hx_stream *s;   HX_TRY(hx_stream_create(dev, &s));
 */
#ifndef HX_CORE_TENSOR_BACKEND_H
#define HX_CORE_TENSOR_BACKEND_H

#include "core/tensor/shape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_device hx_device; /* an opened device with its allocator */
typedef struct hx_stream hx_stream;
typedef struct hx_event hx_event;
typedef struct hx_op_call hx_op_call; /* core/op/op.h */

/* general: tensors; graph: buffers that a captured graph holds; comm: buffers handed to collectives, which
 * host backends share with the other ranks of the host (core/base/shared.h); host: memory of the
 * host that the device copies from and to without waiting (pinned), which host backends take like any other */
typedef enum hx_pool_kind { HX_POOL_GENERAL, HX_POOL_GRAPH, HX_POOL_COMM, HX_POOL_HOST, HX_POOL_COUNT } hx_pool_kind;

typedef enum hx_copy_kind { HX_COPY_ON_DEVICE, HX_COPY_TO_DEVICE, HX_COPY_TO_HOST } hx_copy_kind;

typedef struct hx_device_config {
    int index;     /* which device of its kind, 0-based */
    int n_threads; /* host backends: threads of the pool; 0 = 1 */
    /* set by hx_device_open: a backend short of memory for its own use calls it to have cached blocks back */
    void (*reclaim)(void *arg);
    void *reclaim_arg;
} hx_device_config;

typedef struct hx_device_props {
    char name[128];          /* e.g. the CPU's model and the instruction set in use */
    char kernels[128];       /* what was chosen for this machine and decides the bits of results, "cpu avx2, openblas Zen, gemm openblas" */
    int64_t memory_bytes;    /* physical memory of the device; 0 = not known */
    int n_threads;           /* host backends */
    bool is_host_memory;     /* the host may dereference device pointers after a sync */
    bool is_dry;             /* nothing is computed (meta) */
    bool has_capture;        /* capture slots work */
    const char *notice;      /* a line that a user is to be told when it is opened, static; NULL: nothing */
} hx_device_props;

typedef struct hx_backend {
    const char *name; /* "cpu"; what --device takes */
    int priority;     /* the highest that opens is the default */

    /* REQUIRED. `self` is the backend's own device state. */
    hx_status (*open)(const hx_device_config *config, void **self);
    void (*close)(void *self);
    void (*props)(void *self, hx_device_props *out);
    /* Raw memory; the caching allocator above calls these rarely. Aligned to 256 bytes at least. */
    hx_status (*alloc)(void *self, hx_pool_kind kind, size_t n_bytes, void **out);
    void (*free)(void *self, hx_pool_kind kind, void *p, size_t n_bytes);
    hx_status (*stream_create)(void *self, void **out);
    void (*stream_destroy)(void *self, void *stream); /* after its work has finished */
    hx_status (*stream_sync)(void *self, void *stream);
    hx_status (*stream_poll)(void *self, void *stream, bool *idle);
    hx_status (*event_create)(void *self, void **out);
    void (*event_destroy)(void *self, void *event);
    hx_status (*event_record)(void *self, void *event, void *stream);      /* fires when work so far is done */
    hx_status (*event_stream_wait)(void *self, void *event, void *stream); /* later work waits for it */
    hx_status (*event_sync)(void *self, void *event);                      /* the host waits */
    hx_status (*event_poll)(void *self, void *event, bool *done);
    hx_status (*copy)(void *self, void *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind);
    /* dst[i] = the pattern_bytes (1, 2, 4, 8 or 16) at pattern, which is read before the call returns */
    hx_status (*fill)(void *self, void *stream, void *dst, const void *pattern, size_t pattern_bytes,
                      int64_t n_items);
    /* Shapes and dtypes have been checked by dispatch. HX_ERR_UNSUPPORTED if there is no kernel for the dtype. */
    hx_status (*exec)(void *self, void *stream, const hx_op_call *call);

    /* OPTIONAL: the device's native object ("stream" -> cudaStream_t of the stream `object`, as stream_create gave it;
     * "pool" -> hx_pool*); NULL: has none */
    void *(*native)(void *self, const char *what, void *object);
    /* OPTIONAL: events for collectives that complete on another thread: fired by the host with event_fire after
     * event_arm. NULL: collectives must enqueue on a stream of the device. */
    hx_status (*event_arm)(void *self, void *event);
    void (*event_fire)(void *self, void *event, hx_status status, const char *message);
    /* OPTIONAL: the host calls fn(arg) once the stream's earlier work is done, whether it failed or not; later work waits
     * for its return. A device that is lost may never call: stream_poll tells. fn must not use the device, and waits for
     * nobody: a thread of the driver calls it, for which others may wait. NULL: host backends, where the caller can wait
     * itself. */
    hx_status (*host_call)(void *self, void *stream, void (*fn)(void *arg), void *arg);
    /* OPTIONAL: a batch of exec calls begins, or ends: see hx_stream_batch. The backend may hold the calls back and launch
     * several as one, in an order of its own but for reductions that accumulate into one output, which keep theirs; the
     * bits of the results are those of the calls one by one. The end launches what is left, also after a failure. NULL:
     * calls run as they come. */
    hx_status (*batch)(void *self, void *stream, bool begin);
    /* OPTIONAL: later work waits, on the device, until the host has stored `value` in `word`, which lies in HX_POOL_HOST.
     * Words count, modulo 2^32: one that is ahead of `value` by less than 2^31 will do. NULL: as host_call */
    hx_status (*word_wait)(void *self, void *stream, const uint32_t *word, uint32_t value);
    /* OPTIONAL: graph capture, all four or none; NULL: the device has none, and props.has_capture is false */
    hx_status (*capture_begin)(void *self, void *stream);
    hx_status (*capture_end)(void *self, void *stream, void **graph);
    hx_status (*graph_launch)(void *self, void *graph, void *stream);
    void (*graph_destroy)(void *self, void *graph);
} hx_backend;

/** Add a backend to the registry. @param backend  static storage. @return HX_ERR_ARG: name taken or slot missing */
hx_status hx_backend_register(const hx_backend *backend);
/** The i-th registered backend by falling priority, or NULL. */
const hx_backend *hx_backend_at(int i);
const hx_backend *hx_backend_find(const char *name);

/** Open a device. @param name  a backend's name, or NULL for the first by priority that is there (HX_ERR_DEVICE passes on to the
 *  next; any other failure is returned).
 *  @return HX_ERR_DEVICE lists the names that exist and why it could not be opened */
hx_status hx_device_open(const char *name, const hx_device_config *config, hx_device **out);
/** Close; all tensors, streams and events of it must be gone. */
void hx_device_close(hx_device **device);
const char *hx_device_name(const hx_device *device);
void hx_device_props_get(const hx_device *device, hx_device_props *out);
/** The backend's native object, or NULL. */
void *hx_device_native(hx_device *device, const char *what, void *object);

/* Statistics of the caching allocator; the pool of host memory is not counted. */
typedef struct hx_device_stats {
    int64_t live_bytes; /* handed out now, rounded to size classes */
    int64_t peak_bytes; /* most ever handed out since the last reset */
    int64_t held_bytes; /* obtained from the backend */
    int64_t n_raw_allocs;
    int64_t n_allocs;
    int64_t n_ops;
    double flops; /* floating point operations of executed ops, 2mnk for GEMM */
} hx_device_stats;

void hx_device_stats_get(const hx_device *device, hx_device_stats *out);
void hx_device_stats_reset_peak(hx_device *device);

/** Memory from the caching allocator. With HELIX_ALLOC=exact in the environment each block comes from the backend as
 *  large as it was asked for and goes back when it is freed, after the streams' work: slow, but tools that look for reads
 *  out of bounds see each tensor's end. Freed blocks are reused at once: safe for work on one stream; memory
 *  that another stream still uses must be freed after an event of that stream.
 *  Not thread-safe: one thread per device allocates. @return HX_ERR_MEMORY with live, peak and held bytes */
hx_status hx_device_alloc(hx_device *device, hx_pool_kind kind, size_t n_bytes, void **out);
/** Give a block back; kind and n_bytes as they were asked for. Accepts NULL. */
void hx_device_free(hx_device *device, hx_pool_kind kind, void *p, size_t n_bytes);
/** Give cached blocks back to the backend, after waiting for the streams, whose work may still use them. */
void hx_device_trim(hx_device *device);

hx_status hx_stream_create(hx_device *device, hx_stream **out);
/** Waits for its work. */
void hx_stream_destroy(hx_stream **stream);
hx_status hx_stream_sync(hx_stream *stream);
hx_status hx_stream_poll(hx_stream *stream, bool *idle);
hx_device *hx_stream_device(const hx_stream *stream);
/** What the library below the device knows the stream as, e.g. a cudaStream_t; NULL: there is none. */
void *hx_stream_native(hx_stream *stream);
hx_status hx_stream_copy(hx_stream *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind);
hx_status hx_stream_fill(hx_stream *stream, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items);
hx_status hx_stream_exec(hx_stream *stream, const hx_op_call *call);
/** Begin or end a batch: many small calls that a device may launch as a few. In between only hx_stream_exec may be called on
 *  the stream (copy, fill, host_call, sync, poll and the events' calls are HX_ERR_STATE there), and the operands live until
 *  the end. The calls are independent of each other, but for reductions that accumulate into one output. A failure of a
 *  call is returned by it, by a later one or by the end; a batch is to be ended after a failure too. On devices without
 *  batches the calls run as they come.
 *  @return HX_ERR_STATE: a batch has begun already, or none has; at the end the first failure of what was held back */
hx_status hx_stream_batch(hx_stream *stream, bool begin);
/** See hx_backend.host_call. @return HX_ERR_UNSUPPORTED if the device has none */
hx_status hx_stream_host_call(hx_stream *stream, void (*fn)(void *arg), void *arg);
/** See hx_backend.word_wait. @return HX_ERR_UNSUPPORTED if the device has none */
hx_status hx_stream_wait_word(hx_stream *stream, const uint32_t *word, uint32_t value);

hx_status hx_event_create(hx_device *device, hx_event **out);
void hx_event_destroy(hx_event **event);
hx_status hx_event_record(hx_event *event, hx_stream *stream);
hx_status hx_event_wait(hx_event *event, hx_stream *stream);
/** The host waits. @return the failure of the work it stands for */
hx_status hx_event_sync(hx_event *event);
hx_status hx_event_poll(hx_event *event, bool *done);
/** Make the event pending until hx_event_fire. @return HX_ERR_UNSUPPORTED if the device has no such events */
hx_status hx_event_arm(hx_event *event);
/** Fire from any thread; waiters get `status` and `message` (NULL for none). */
void hx_event_fire(hx_event *event, hx_status status, const char *message);

#ifdef __cplusplus
}
#endif
#endif

/* The part of a host backend that is the same for all of them: memory, streams, events, copies and fills over
 * ordinary memory. A host backend fills its vtable with HX_HOST_BACKEND_SLOTS and adds open, close, props, exec
 * and native; its device state begins with an hx_host.
 */
#ifndef HX_CORE_TENSOR_HOST_H
#define HX_CORE_TENSOR_HOST_H

#include "core/base/threads.h"
#include "core/tensor/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_host hx_host;
struct hx_host {
    /* Is there a kernel for the call's op and dtypes? Asked on the caller's thread before anything is enqueued. */
    hx_status (*check)(hx_host *host, const hx_op_call *call);
    hx_status (*run)(hx_host *host, const hx_op_call *call); /* executes one op now, on the calling thread */
    bool is_async;                                           /* streams are queues (HELIX_STREAM=async) */
};

/** Set the functions and read HELIX_STREAM.
 *  @param check  NULL: `run` finds out. @return HX_ERR_CONFIG: a value other than "inline" and "async" */
hx_status hx_host_init(hx_host *host, hx_status (*check)(hx_host *, const hx_op_call *),
                       hx_status (*run)(hx_host *, const hx_op_call *));

hx_status hx_host_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out);
void hx_host_free(void *self, hx_pool_kind kind, void *p, size_t n_bytes);
hx_status hx_host_stream_create(void *self, void **out);
void hx_host_stream_destroy(void *self, void *stream);
hx_status hx_host_stream_sync(void *self, void *stream);
hx_status hx_host_stream_poll(void *self, void *stream, bool *idle);
hx_status hx_host_event_create(void *self, void **out);
void hx_host_event_destroy(void *self, void *event);
hx_status hx_host_event_record(void *self, void *event, void *stream);
hx_status hx_host_event_stream_wait(void *self, void *event, void *stream);
hx_status hx_host_event_sync(void *self, void *event);
hx_status hx_host_event_poll(void *self, void *event, bool *done);
hx_status hx_host_event_arm(void *self, void *event);
void hx_host_event_fire(void *self, void *event, hx_status status, const char *message);
hx_status hx_host_copy(void *self, void *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind);
hx_status hx_host_fill(void *self, void *stream, void *dst, const void *pattern, size_t pattern_bytes,
                       int64_t n_items);
hx_status hx_host_exec(void *self, void *stream, const hx_op_call *call);

#define HX_HOST_BACKEND_SLOTS                                                                                \
    .alloc = hx_host_alloc, .free = hx_host_free, .stream_create = hx_host_stream_create,                    \
    .stream_destroy = hx_host_stream_destroy, .stream_sync = hx_host_stream_sync,                            \
    .stream_poll = hx_host_stream_poll, .event_create = hx_host_event_create,                                \
    .event_destroy = hx_host_event_destroy, .event_record = hx_host_event_record,                            \
    .event_stream_wait = hx_host_event_stream_wait, .event_sync = hx_host_event_sync,                        \
    .event_poll = hx_host_event_poll, .event_arm = hx_host_event_arm, .event_fire = hx_host_event_fire,      \
    .copy = hx_host_copy, .fill = hx_host_fill, .exec = hx_host_exec

#ifdef __cplusplus
}
#endif
#endif

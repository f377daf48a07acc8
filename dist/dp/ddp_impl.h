/* Inside of data parallelism: buckets, and which parameter lies where. For dist/dp only. */
#ifndef HX_DIST_DP_DDP_IMPL_H
#define HX_DIST_DP_DDP_IMPL_H

#include "dist/dp/ddp.h"

/* One flat buffer of gradients that are summed together. */
typedef struct hx__bucket {
    hx_tensor *flat; /* [count], owned */
    hx_tensor *values; /* [count], owned: the parameters themselves, where they are shared out; else NULL */
    hx_dtype value_dtype, dtype; /* of parameters and gradients */
    int64_t count;     /* elements, gaps included */
    int64_t share;     /* elements that a rank updates: count, or its part of it */
    int64_t n_slots;   /* parameters in it */
    int64_t first_slot; /* a list through hx__slot.next; -1 after the last */
    int64_t n_pending; /* of these, not yet final in this step */
    hx_event *done;    /* of its reduction, owned */
    bool is_in_flight; /* `done` will fire */
} hx__bucket;

/* A trained parameter. */
typedef struct hx__slot {
    hx_param *param;       /* borrowed */
    hx_tensor *leaf;       /* retained */
    int64_t bucket;
    int64_t next;     /* slot of the same bucket */
    int64_t offset;   /* elements into the bucket */
    hx_tensor *slice; /* the leaf's gradient: a window of the bucket, owned */
    bool is_ready;  /* final in this step */
} hx__slot;

typedef struct hx__buckets {
    hx__slot *slots; /* [n_slots] in reverse order of registration */
    int64_t n_slots;
    hx__bucket *items; /* [n_items] in the order in which they are sent */
    int64_t n_items, capacity;
    int64_t *table; /* [table_size] open addressing: leaf -> index of its slot, -1: free */
    int64_t table_size; /* a power of two, at least twice n_slots */
} hx__buckets;

/* Which of n_shares equal ranges of each bucket a rank updates; n_shares 1: all of it. */
typedef struct hx__share {
    int index, n_shares;
} hx__share;

/** Deal the parameters that are trained out to buckets and give each a slice as its gradient; with shares also as its value.
 *  @param buckets  zeroed; to be destroyed also after a failure */
hx_status hx__buckets_create(hx__buckets *buckets, hx_device *device, hx_stream *stream, const hx_param_list *params,
                             int64_t bucket_bytes, hx__share share);
/** Takes the gradients away from the parameters, which this rank then owns whole again. */
void hx__buckets_destroy(hx__buckets *buckets);
/** The slot of a leaf, or NULL. Constant time. */
hx__slot *hx__buckets_find(const hx__buckets *buckets, const hx_tensor *leaf);
/** True if backward has written the slice since the last reset. */
bool hx__slot_has_gradient(const hx__slot *slot);

#endif

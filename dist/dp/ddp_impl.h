/* Inside of data parallelism: buckets and which parameter lies where (bucket.c), how a bucket becomes a sum over the ranks
 * (exchange.c), and the step that drives both (ddp.c). For dist/dp only. */
#ifndef HX_DIST_DP_DDP_IMPL_H
#define HX_DIST_DP_DDP_IMPL_H

#include "dist/comm/comm_impl.h"
#include "dist/dp/ddp.h"
#include "dist/dp/tree.h"

/* ---- bucket.c ---- */

/* One flat buffer of gradients that are summed together. */
typedef struct hx__bucket {
    hx_dtype value_dtype, dtype; /* of parameters and gradients */
    bool is_partial;    /* hx_param.is_partial of all of them */
    int64_t count;      /* elements, gaps included */
    int64_t share;      /* elements of each rank's part; count, if there are no parts */
    int64_t n_slots;    /* parameters in it */
    int64_t first_slot; /* a list through hx__slot.next; -1 after the last */
    int64_t n_pending;  /* of these, not yet final in this micro-batch */
    hx_tensor *values;  /* [count], owned: the parameters themselves, where they are shared out; else NULL */
    hx_tensor *flat;    /* [count], owned: their gradients. NULL: not placed (ZeRO 2, elastic) */
    hx_tensor *shard;   /* [share], owned: sums of this rank's share over ranks and micro-batches, ZeRO 2; else NULL */
    hx__tree tree;      /* elastic: sums of this rank's leaves [count]; ZeRO 2: of its share of all leaves [share] */
} hx__bucket;

/* A trained parameter. */
typedef struct hx__slot {
    hx_param *param;  /* borrowed */
    hx_tensor *leaf;  /* retained */
    int64_t bucket;
    int64_t next;     /* slot of the same bucket */
    int64_t offset;   /* elements into the bucket */
    hx_tensor *slice; /* the leaf's gradient: a window of the bucket's flat, owned; NULL: not placed */
    hx_tensor *own;   /* what param->own_grad is, owned */
    bool is_ready;    /* final in this micro-batch */
    bool was_given;   /* has had a gradient in this step */
} hx__slot;

typedef struct hx__buckets {
    hx_device *device;
    hx__slot *slots; /* [n_slots] in reverse order of registration */
    int64_t n_slots;
    hx__bucket *items; /* [n_items] in the order in which they are sent */
    int64_t n_items, capacity;
    int64_t *table; /* [table_size] open addressing: leaf -> index of its slot, -1: free */
    int64_t table_size; /* a power of two, at least twice n_slots */
} hx__buckets;

/* How buckets are held. */
typedef struct hx__deal {
    int index, n_parts;  /* buckets are n_parts equal ranges, of which this rank adds up one; n_parts 1: all */
    bool is_shared;      /* and updates that one alone: the parameters move into the buckets */
    int64_t unit;        /* parameters and shares begin at multiples of so many elements; 0: on cache lines */
    bool is_transient;   /* flats come and go with micro-batches: ZeRO 2 */
    int n_sums;          /* buffers in each bucket's tree; 0: not elastic */
} hx__deal;

/** Deal the parameters that are trained out to buckets.
 *  @param buckets  zeroed; to be destroyed also after a failure */
hx_status hx__buckets_create(hx__buckets *buckets, hx_device *device, hx_stream *stream, const hx_param_list *params,
                             int64_t bucket_bytes, const hx__deal *deal);
/** Takes the gradients away from the parameters, which this rank then owns whole again. */
void hx__buckets_destroy(hx__buckets *buckets);
/** The slot of a leaf, or NULL. Constant time. */
hx__slot *hx__buckets_find(const hx__buckets *buckets, const hx_tensor *leaf);
/** True if backward has written the slice since it was placed, or since the last reset. */
bool hx__slot_has_gradient(const hx__slot *slot);
/** The parameters' gradients are windows of bucket->flat from now on; or nowhere. */
hx_status hx__bucket_place(hx__buckets *buckets, hx__bucket *bucket);
void hx__bucket_take_away(hx__buckets *buckets, hx__bucket *bucket);
/** A buffer of a bucket's gradients. */
hx_status hx__bucket_flat(const hx__buckets *buckets, const hx__bucket *bucket, hx_tensor **out);

/* ---- exchange.c ---- */

/* A bucket on its way. Those that need buffers of their own while they are take turns with a few flights. */
typedef struct hx__flight {
    int64_t bucket;
    hx_tensor *flat;        /* owned: of ZeRO 2, given back when it has been summed */
    hx_tensor *wire;        /* owned [largest f32 bucket] bf16; NULL: no compression */
    hx_tensor *received[2]; /* owned: parts of all ranks in f32 and f64; of compressed ones received[0] is in bf16 */
    hx_event **events;      /* owned [n_events] */
    int n_events, n_waiting; /* of these the first fire when what was sent is there */
} hx__flight;

enum { HX__FLIGHTS = 4 }; /* two being summed, two being gathered */

struct hx_ddp {
    hx_comm *dp, *tp;          /* borrowed; tp NULL: none */
    hx_comm *inside, *between; /* ranks that share parameters out, and those with the same share; owned if has_split, else dp and NULL */
    bool has_split;
    hx_stream *stream;
    hx_ctx ctx;                /* for sums: no tape */
    hx__buckets buckets;
    int zero;                  /* stage; 0 on one rank */
    bool is_compressed;
    bool goes_by_parts;        /* ranks send each other parts, which the receiver adds up; else the communicator adds */
    hx_leaves leaves;          /* n 0: not elastic */
    int n_rounds_sent;         /* buffers that a bucket sends by parts: pieces of a rank's leaves */

    hx__flight *flights; /* [n_flights], in turn */
    int64_t n_flights;
    bool is_windowed;    /* flights are fewer than buckets */
    hx_tensor *reserve;  /* owned: what is sent where a flat could not be had; NULL: never */

    /* of a step */
    bool is_open;      /* between the first begin and finish */
    bool is_last;      /* the running micro-batch is the last one of this rank */
    int64_t n_begun;   /* micro-batches so far */
    int64_t n_rounds;  /* times that each bucket is closed: micro-batches, the most of any rank; -1: not known yet */
    int64_t round;     /* of these, behind us */
    int64_t next;      /* first bucket that has not been closed in this round */
    int64_t n_sent, n_summed, n_settled; /* flights so far */
    int64_t n_bytes;   /* sent */
    double wait_s;     /* that the host waited */
    double last_wait_s; /* of the step before */
    int64_t last_n_bytes;
};

/** Flights and their buffers, for buckets that are there. */
hx_status hx__exchange_create(hx_ddp *ddp);
/** Nothing may be under way. */
void hx__exchange_destroy(hx_ddp *ddp);
/** Collective. Send a bucket's gradients, complete for this micro-batch; ZeRO 2 takes its flat. Goes on after failures. */
void hx__exchange_send(hx_ddp *ddp, hx__bucket *bucket, hx__outcome *first);
/** Collective. Wait for all that was sent. */
void hx__exchange_finish(hx_ddp *ddp, hx__outcome *first);
/** Where the sums of a bucket are in the end: [count], or this rank's [share] with ZeRO 2. NULL after a failure. */
hx_tensor *hx__exchange_sums(const hx_ddp *ddp, const hx__bucket *bucket);
/** Collective. Values of all shares on all ranks. */
void hx__exchange_values(hx_ddp *ddp, hx__outcome *first);

#endif

/* What one rank of a training takes, found by rehearsing the training on a device that computes nothing: bytes are the allocator's
 * own, work and communication are counted as they are called for. Without MPI and without a device.
 *
 *     hx_plan_use use; HX_TRY(hx__plan_rehearse(&config, 0, 64, false, &use));     // mesh and ddp of the configuration
 */
#ifndef HX_LAUNCH_PLAN_H
#define HX_LAUNCH_PLAN_H

#include "dist/comm/dry.h"
#include "launch/compose.h"

/* Bytes of a rank's arena by what they are for, at its high-water mark. */
#define HX_PLAN_KINDS(X)                                                                                    \
    X(parameters, "params", "values of the model's parameters that are here")                                \
    X(gradients, "grads", "their gradients, or this rank's share of them")                                   \
    X(optimizer, "optim", "its slots, masters of half parameters, moving averages, scalars of the trainer")    \
    X(activations, "activ", "made and given back: by a step, or before the first one")                        \
    X(buffers, "buffers", "batches, running statistics")                                                     \
    X(communication, "comm", "gaps in buckets, and buffers beside parameters and gradients")

typedef struct hx_plan_bytes {
#define HX_PLAN_FIELD_(field, head, text) int64_t field;
    HX_PLAN_KINDS(HX_PLAN_FIELD_)
#undef HX_PLAN_FIELD_
} hx_plan_bytes;

typedef struct hx_plan_use {
    int rank;
    hx_plan_bytes bytes; /* their sum is `arena` */
    int64_t arena;       /* peak of the allocator, what a run reports as memory_bytes */
    int64_t held;        /* what it takes from the device: freed blocks are kept for later */
    int64_t share;       /* bytes of the host's memory that ckpt.async takes for a copy of what this rank writes; 0: off */
    /* Of one step */
    bool is_half;        /* parameters are bf16 or f16, and products with them */
    double flops;
    double moved_bytes;  /* read and written by what is no matrix product */
    hx_comm_dry_count calls[HX_AXIS_COUNT][HX_COLL_KINDS];
} hx_plan_use;

/** Local. Rank `rank` of `size`. @param shares_memory  collectives go through the memory of one host
 *  @return as hx_session_open, hx_session_gpt and hx_session_train would fail */
hx_status hx__plan_rehearse(const hx_config *config, int rank, int size, bool shares_memory, hx_plan_use *out);

#endif

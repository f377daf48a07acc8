/* A provider whose ranks are one process: `run` serves memory of the host, and a second communicator of the same ranks, whose
 * `enqueue` counts, stands where NCCL's would. */
#include "dist/comm/dry.h"

#include <string.h>

#include "core/base/mem.h"
#include "dist/comm/comm_impl.h"

/* What agreements compare comes from this rank alone. */
static hx_status dry_run(hx_comm *comm, const hx_comm_call *call) {
    const size_t n_bytes = (size_t)call->count * hx_dtype_bytes(call->dtype);
    char *blocks = call->data;
    if (call->kind != HX_COLL_ALL_GATHER || n_bytes == 0) return HX_OK;
    const char *mine = blocks + (size_t)comm->rank * n_bytes;
    for (int rank = 0; rank < comm->size; rank++)
        if (rank != comm->rank) memcpy(blocks + (size_t)rank * n_bytes, mine, n_bytes);
    return HX_OK;
}

static hx_status dry_enqueue(hx_comm *comm, const hx_comm_call *call, hx_stream *stream) {
    hx_comm_dry_count *count = &((hx_comm_dry_count *)comm->state)[call->kind];
    (void)stream;
    count->n_calls++;
    count->n_bytes += hx__comm_call_bytes(comm, call);
    return HX_OK;
}

/* Nobody waits for this rank. */
static void dry_abandon(hx_comm *comm, hx_status why, const char *message) { hx__comm_set_failure(comm, why, message); }

static hx_status dry_split(hx_comm *comm, int color, int key, hx_comm **out) {
    (void)out;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "color %d, key %d: the other %d ranks are not there to tell theirs; expected hx_comm_dry_part", color, key,
                   comm->size - 1);
}

static void dry_destroy(hx_comm *comm) { hx_mem_free(&comm->state); }

static const hx_comm_ops dry_ops = {
    .name = "dry", .run = dry_run, .split = dry_split, .enqueue = dry_enqueue, .abandon = dry_abandon, .destroy = dry_destroy};

static hx_status open_with(hx__comm_engine *engine, int rank, int size, hx_comm **out) {
    hx_comm *comm = NULL;
    hx_status status = HX_OK;
    if (size < 1 || rank < 0 || rank >= size) return HX_FAIL(HX_ERR_ARG, "rank %d of %d: expected 0 <= rank < size", rank, size);
    HX_TRY(hx__comm_create(&dry_ops, engine, rank, size, &comm));
    HX_TRY_GOTO(hx__comm_create(&dry_ops, engine, rank, size, &comm->on_device), failed);
    HX_TRY_GOTO(hx_mem_alloc_array(HX_COLL_KINDS, sizeof(hx_comm_dry_count), &comm->on_device->state), failed);
    *out = comm;
    return HX_OK;
failed:
    hx_comm_close(&comm);
    return status;
}

hx_status hx_comm_dry_open(int rank, int size, hx_comm **out) {
    hx__comm_engine *engine;
    HX_TRY(hx__comm_engine_create(NULL, &engine));
    hx_status status = open_with(engine, rank, size, out);
    hx__comm_engine_release(&engine); /* the communicator has a share of its own */
    return status;
}

hx_status hx_comm_dry_part(hx_comm *comm, int rank, int size, hx_comm **out) {
    if (!hx_comm_is_dry(comm)) return HX_FAIL(HX_ERR_ARG, "communicator \"%s\": expected a dry one", comm->ops->name);
    HX_TRY(open_with(comm->engine, rank, size, out));
    (*out)->sums_in_tree = comm->sums_in_tree;
    return HX_OK;
}

void hx_comm_dry_share(hx_comm *comm) { comm->sums_in_tree = true; }

bool hx_comm_is_dry(const hx_comm *comm) { return comm->ops == &dry_ops; }

void hx_comm_dry_counts(const hx_comm *comm, hx_comm_dry_count counts[HX_COLL_KINDS]) {
    memcpy(counts, comm->on_device->state, HX_COLL_KINDS * sizeof *counts);
}

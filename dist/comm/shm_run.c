/* The collectives of shm.h, each in one of three ways:
 *   small     one round: every rank stages what others need of it, then takes what it needs;
 *   mapped    large, and all buffers are in shared blocks: a round before, work in place, a round after;
 *   staged    large, anything else: pieces as large as a staging area, one or two rounds each.
 * Which one follows from the call and the posts, so all ranks choose alike. Small is staged in one piece.
 */
#include <string.h>

#include "dist/comm/shm.h"

#define COPY_BYTES  2048
#define LINE_ELEMS  64 /* of any dtype: whole cache lines */
#define LANE_GRAIN  ((size_t)LINE_ELEMS * 16)
#define SMALL_BYTES ((size_t)16 << 10)
#define MAPPED_FROM ((size_t)32 << 10) /* bytes of a buffer: below, a copy costs less than a second round */

/* As memcpy, in pieces: on two busy cores a little faster than one long call at most sizes, for a reason not looked into. */
static void copy(void *to, const void *from, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes; at += COPY_BYTES)
        memcpy((char *)to + at, (const char *)from + at, n_bytes - at < COPY_BYTES ? n_bytes - at : COPY_BYTES);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* One collective of blocks. */
typedef struct job {
    hx__shm *shm;
    int rank, size;
    const hx_comm_call *call;
    char *data;
    size_t item; /* bytes of an element */
    hx__blocks blocks;
} job;

static job job_of(hx__shm *shm, const hx_comm_call *call, hx__blocks blocks) {
    return (job){.shm = shm, .rank = hx__shm_rank(shm), .size = hx__shm_size(shm), .call = call, .data = call->data,
                 .item = hx_dtype_bytes(call->dtype), .blocks = blocks};
}

hx__blocks hx__shm_shares(int64_t count, int size) {
    int64_t chunk = (count + size - 1) / size;
    chunk = (chunk + LINE_ELEMS - 1) / LINE_ELEMS * LINE_ELEMS;
    return (hx__blocks){.chunk = chunk, .total = count};
}

/* Elements of block b from `at` on, at most n; and the first one's offset in bytes. */
static int64_t part(const job *j, int b, int64_t at, int64_t n) {
    int64_t left = smaller(j->blocks.chunk, j->blocks.total - b * j->blocks.chunk) - at;
    return left < 0 ? 0 : smaller(left, n);
}

static size_t offset(const job *j, int b, int64_t at) {
    return (size_t)smaller(b * j->blocks.chunk + at, j->blocks.total) * j->item;
}

/* Elements of a piece that takes `n_bytes` of a staging area. */
static int64_t piece_of(const job *j, size_t n_bytes) {
    int64_t n = smaller((int64_t)(n_bytes / j->item), hx__shm_max_elems(j->shm));
    return n < 1 ? 1 : n;
}

/* Bytes of an area for one of the others: whole shares of any dtype. */
static size_t lane_bytes(const job *j) { return HX_SHM_STAGE_BYTES / (size_t)j->size / LANE_GRAIN * LANE_GRAIN; }
_Static_assert(HX_SHM_STAGE_BYTES / HX_SHM_MAX_RANKS >= LANE_GRAIN, "a lane must hold a share");

/* ---- reduce ---- */

/* The reduction of [at, at + n) of this rank's block, from its own data and the others' lanes, into its own data. */
static void reduce_lanes(const job *j, int64_t at, int64_t n) {
    const char *sources[HX_SHM_MAX_RANKS];
    char *own = j->data + offset(j, j->rank, at);
    for (int r = 0; r < j->size; r++)
        sources[r] = r == j->rank ? own : hx__shm_of(j->shm, r) + (size_t)j->rank * lane_bytes(j);
    hx__shm_reduce(sources, j->size, own, NULL, 0, n, j->call->dtype, j->call->reduce);
}

/* A round: [at, at + n) of every block is reduced on the rank that it belongs to. */
static hx_status reduce_piece(const job *j, int64_t at, int64_t n) {
    char *mine = hx__shm_mine(j->shm);
    for (int b = 0; b < j->size; b++)
        if (b != j->rank) copy(mine + (size_t)b * lane_bytes(j), j->data + offset(j, b, at), (size_t)part(j, b, at, n) * j->item);
    HX_TRY(hx__shm_meet(j->shm));
    reduce_lanes(j, at, part(j, j->rank, at, n));
    return HX_OK;
}

static hx_status reduce_staged(const job *j) {
    int64_t n = piece_of(j, lane_bytes(j));
    for (int64_t at = 0; at < j->blocks.chunk; at += n) HX_TRY(reduce_piece(j, at, n));
    return HX_OK;
}

/* This rank's block of all buffers; into its own buffer only, or into all. */
static void reduce_mapped(const job *j, char *const *at, bool into_all) {
    const char *sources[HX_SHM_MAX_RANKS];
    char *copies[HX_SHM_MAX_RANKS];
    int n_copies = 0;
    for (int r = 0; r < j->size; r++) {
        char *block = at[r] + offset(j, j->rank, 0);
        sources[r] = block;
        if (into_all && r != j->rank) copies[n_copies++] = block;
    }
    hx__shm_reduce(sources, j->size, j->data + offset(j, j->rank, 0), copies, n_copies, part(j, j->rank, 0, j->blocks.chunk),
                   j->call->dtype, j->call->reduce);
}

/* ---- gather ---- */

/* A round: [at, at + n) of every block reaches every rank. */
static hx_status gather_piece(const job *j, int64_t at, int64_t n) {
    copy(hx__shm_mine(j->shm), j->data + offset(j, j->rank, at), (size_t)part(j, j->rank, at, n) * j->item);
    HX_TRY(hx__shm_meet(j->shm));
    for (int b = 0; b < j->size; b++)
        if (b != j->rank) copy(j->data + offset(j, b, at), hx__shm_of(j->shm, b), (size_t)part(j, b, at, n) * j->item);
    return HX_OK;
}

static hx_status gather_staged(const job *j) {
    int64_t n = piece_of(j, HX_SHM_STAGE_BYTES);
    for (int64_t at = 0; at < j->blocks.chunk; at += n) HX_TRY(gather_piece(j, at, n));
    return HX_OK;
}

static void gather_mapped(const job *j, char *const *at) {
    for (int b = 0; b < j->size; b++)
        if (b != j->rank)
            copy(j->data + offset(j, b, 0), at[b] + offset(j, b, 0), (size_t)part(j, b, 0, j->blocks.chunk) * j->item);
}

/* ---- both ---- */

/* Is it worth to look for the buffers in shared blocks? If so, and they are, at [size] tells where. */
static hx_status look(const job *j, const void *data, size_t n_bytes, char **at, bool *is_seen) {
    *is_seen = false;
    return n_bytes < MAPPED_FROM ? HX_OK : hx__shm_meet_buffers(j->shm, data, n_bytes, at, is_seen);
}

static size_t total_bytes(const job *j) { return (size_t)j->blocks.total * j->item; }

hx_status hx__shm_reduce_blocks(hx__shm *shm, const hx_comm_call *call, hx__blocks blocks) {
    job j = job_of(shm, call, blocks);
    char *at[HX_SHM_MAX_RANKS];
    bool is_seen;
    HX_TRY(look(&j, j.data, total_bytes(&j), at, &is_seen));
    if (!is_seen) return reduce_staged(&j);
    reduce_mapped(&j, at, false);
    return hx__shm_meet(shm);
}

hx_status hx__shm_gather_blocks(hx__shm *shm, const hx_comm_call *call, hx__blocks blocks) {
    job j = job_of(shm, call, blocks);
    char *at[HX_SHM_MAX_RANKS];
    bool is_seen;
    HX_TRY(look(&j, j.data, total_bytes(&j), at, &is_seen));
    if (!is_seen) return gather_staged(&j);
    gather_mapped(&j, at);
    return hx__shm_meet(shm);
}

/* Everybody stages all it has and sums all itself: one round. */
static hx_status all_reduce_small(const job *j) {
    const char *sources[HX_SHM_MAX_RANKS];
    copy(hx__shm_mine(j->shm), j->data, total_bytes(j));
    HX_TRY(hx__shm_meet(j->shm));
    for (int r = 0; r < j->size; r++) sources[r] = r == j->rank ? j->data : hx__shm_of(j->shm, r);
    hx__shm_reduce(sources, j->size, j->data, NULL, 0, j->blocks.total, j->call->dtype, j->call->reduce);
    return HX_OK;
}

/* Ranges of which every rank reduces a share, and then gives it to the others: two rounds each. */
static hx_status all_reduce_staged(const job *j) {
    int64_t range = piece_of(j, lane_bytes(j)) * j->size;
    for (int64_t at = 0; at < j->blocks.total; at += range) {
        job r = *j;
        r.data = j->data + (size_t)at * j->item;
        r.blocks = hx__shm_shares(smaller(range, j->blocks.total - at), j->size);
        HX_TRY(reduce_piece(&r, 0, r.blocks.chunk));
        HX_TRY(gather_piece(&r, 0, r.blocks.chunk));
    }
    return HX_OK;
}

static hx_status run_all_reduce(hx__shm *shm, const hx_comm_call *call) {
    job j = job_of(shm, call, hx__shm_shares(call->count, hx__shm_size(shm)));
    char *at[HX_SHM_MAX_RANKS];
    bool is_seen;
    if (total_bytes(&j) <= SMALL_BYTES && call->count <= hx__shm_max_elems(shm)) return all_reduce_small(&j);
    HX_TRY(look(&j, j.data, total_bytes(&j), at, &is_seen));
    if (!is_seen) return all_reduce_staged(&j);
    reduce_mapped(&j, at, true);
    return hx__shm_meet(shm);
}

/* ---- from one, and from each to each ---- */

/* The root takes a share of the work, one block of every other rank's buffer: half of all there is with two ranks. */
static void broadcast_mapped(const job *j, char *const *at, int root) {
    bool is_root = j->rank == root;
    for (int r = 0; r < j->size; r++) {
        int b = is_root ? root : r;
        size_t start = offset(j, b, 0), n_bytes = (size_t)part(j, b, 0, j->blocks.chunk) * j->item;
        if (r != root) copy(at[is_root ? r : j->rank] + start, at[root] + start, n_bytes);
    }
}

static hx_status run_broadcast(hx__shm *shm, const hx_comm_call *call) {
    job j = job_of(shm, call, hx__shm_shares(call->count, hx__shm_size(shm)));
    bool is_root = j.rank == call->peer, is_seen;
    char *at[HX_SHM_MAX_RANKS];
    HX_TRY(look(&j, j.data, total_bytes(&j), at, &is_seen));
    if (is_seen) {
        broadcast_mapped(&j, at, call->peer);
        return hx__shm_meet(shm);
    }
    j.blocks = (hx__blocks){.chunk = call->count, .total = call->count};
    int64_t n = piece_of(&j, HX_SHM_STAGE_BYTES);
    for (int64_t done = 0; done < call->count; done += n) {
        size_t n_bytes = (size_t)part(&j, 0, done, n) * j.item;
        char *piece = j.data + offset(&j, 0, done);
        if (is_root) copy(hx__shm_mine(shm), piece, n_bytes);
        HX_TRY(hx__shm_meet(shm));
        if (!is_root) copy(piece, hx__shm_of(shm, call->peer), n_bytes);
    }
    return HX_OK;
}

/* A round: [at, at + n) of every block of the source goes where it belongs. */
static hx_status exchange_piece(const job *j, int64_t at, int64_t n) {
    const char *source = j->call->source;
    size_t n_bytes = (size_t)part(j, 0, at, n) * j->item;
    char *mine = hx__shm_mine(j->shm);
    for (int b = 0; b < j->size; b++)
        if (b != j->rank) copy(mine + (size_t)b * lane_bytes(j), source + offset(j, b, at), n_bytes);
    HX_TRY(hx__shm_meet(j->shm));
    for (int b = 0; b < j->size; b++)
        if (b != j->rank) copy(j->data + offset(j, b, at), hx__shm_of(j->shm, b) + (size_t)j->rank * lane_bytes(j), n_bytes);
    return HX_OK;
}

static hx_status run_all_to_all(hx__shm *shm, const hx_comm_call *call) {
    job j = job_of(shm, call, (hx__blocks){.chunk = call->count, .total = call->count * hx__shm_size(shm)});
    char *at[HX_SHM_MAX_RANKS];
    bool is_seen;
    size_t n_bytes = (size_t)call->count * j.item;
    HX_TRY(look(&j, call->source, total_bytes(&j), at, &is_seen));
    copy(j.data + offset(&j, j.rank, 0), (const char *)call->source + offset(&j, j.rank, 0), n_bytes);
    if (is_seen) {
        for (int b = 0; b < j.size; b++)
            if (b != j.rank) copy(j.data + offset(&j, b, 0), at[b] + offset(&j, j.rank, 0), n_bytes);
        return hx__shm_meet(shm);
    }
    int64_t n = piece_of(&j, lane_bytes(&j));
    for (int64_t done = 0; done < call->count; done += n) HX_TRY(exchange_piece(&j, done, n));
    return HX_OK;
}

hx_status hx__shm_run(hx__shm *shm, const hx_comm_call *call) {
    hx__blocks blocks = {.chunk = call->count, .total = call->count * hx__shm_size(shm)};
    if (call->count == 0) return hx__shm_meet(shm); /* a barrier; and a call with nothing is a call too */
    switch (call->kind) {
    case HX_COLL_ALL_REDUCE: return run_all_reduce(shm, call);
    case HX_COLL_REDUCE_SCATTER: return hx__shm_reduce_blocks(shm, call, blocks);
    case HX_COLL_ALL_GATHER: return hx__shm_gather_blocks(shm, call, blocks);
    case HX_COLL_BROADCAST: return run_broadcast(shm, call);
    case HX_COLL_ALL_TO_ALL: return run_all_to_all(shm, call);
    default: return HX_FAIL(HX_ERR_INTERNAL, "collective %d is none of shared memory", (int)call->kind);
    }
}

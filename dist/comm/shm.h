/* Collectives of ranks that share one host's memory.
 *
 * The ranks of a group map one segment: a slot of each rank, and a staging area of each rank. All they do is a sequence of
 * rounds. In a round a rank writes its post and its staging area, raises its step, and waits until all have; then it
 * reads what the others wrote, until it calls the next round:
 *
 *     fill hx__shm_mine(shm);  HX_TRY(hx__shm_meet(shm, &post));  read hx__shm_of(shm, r) for every r;
 *
 * Posts and areas are double: round s uses half s mod 2, which nobody reads any more, since all have begun round s-1 and
 * so have ended s-2. So one round moves a small message, and nothing else is ever waited for.
 *
 * A buffer inside shared blocks (core/base/shared.h) of every rank is not copied: its place is posted, and the others map
 * it and work in it. Any other goes through the staging areas, piece by piece.
 *
 * Sums are taken in a fixed tree over ranks: sum(lo..hi) = sum(lo..m) + sum(m..hi), where m - lo is the largest power of
 * two below hi - lo. It does not depend on the size of the buffer, where it lies, or on how it is cut: bits depend on the
 * number of ranks alone.
 *
 * A rank that waits looks for a short while, then yields its core, then sleeps in the kernel; it wakes up now and then to let
 * MPI make progress and to see whether the rank that it waits for is still alive.
 */
#ifndef HX_DIST_COMM_SHM_H
#define HX_DIST_COMM_SHM_H

#include <stdatomic.h>

#include "core/base/shared.h"
#include "dist/comm/comm.h"

#define HX_SHM_MAX_RANKS   256
#define HX_SHM_STAGE_BYTES ((size_t)512 << 10) /* of one rank, for one round */
#define HX_SHM_REGIONS     64                  /* mapped of one rank at a time */

/* What a call is, to be compared between ranks. */
typedef struct hx__signature {
    int64_t sequence, count; /* sequence: collectives of the communicator before this one */
    int32_t kind, dtype, reduce, peer;
} hx__signature;

hx__signature hx__signature_of(const hx_comm_call *call, int64_t sequence);
/** @param of  gives rank r's. @param ranks  number of r in messages; NULL: r itself
 *  @return HX_ERR_COMM names the first rank that differs from rank 0, and both signatures */
hx_status hx__signature_compare(const hx__signature *(*of)(const void *arg, int rank), const void *arg, int size, const int *ranks);

typedef struct hx__shm hx__shm;

/** Local, on one rank of the group: a segment for `size` ranks, 2 <= size <= HX_SHM_MAX_RANKS. Close place->fd when all have
 *  joined. */
hx_status hx__shm_create(int size, hx_shared_place *place);
/** Local, on every rank. @param pid, place  of the rank that created
 *  @param ranks  [size] numbers of the group's ranks in their communicator, for messages; copied
 *  @param progress  called now and then while waiting */
hx_status hx__shm_join(int pid, const hx_shared_place *place, int rank, int size, const int *ranks,
                       void (*progress)(void *arg), void *progress_arg, hx__shm **out);
void hx__shm_leave(hx__shm **shm);

/* ---- collectives, blocking; the checks of comm.h have been made ---- */

/* Blocks of a buffer: block j is elements [j*chunk, (j+1)*chunk), cut at total. */
typedef struct hx__blocks {
    int64_t chunk, total;
} hx__blocks;

/** What follows belongs to this call. @param max_elems  of a staged piece */
void hx__shm_begin(hx__shm *shm, hx__signature signature, int64_t max_elems);
/** A call whose ranks are the group. */
hx_status hx__shm_run(hx__shm *shm, const hx_comm_call *call);
/** The two halves of an all_reduce: the first leaves the reduction in block `rank`; the second fills in the others. */
hx_status hx__shm_reduce_blocks(hx__shm *shm, const hx_comm_call *call, hx__blocks blocks);
hx_status hx__shm_gather_blocks(hx__shm *shm, const hx_comm_call *call, hx__blocks blocks);
/** Equal parts of `count`, cut at cache lines. */
hx__blocks hx__shm_shares(int64_t count, int size);

/* ---- rounds: shm.c, for shm_run.c ---- */

int hx__shm_rank(const hx__shm *shm);
int hx__shm_size(const hx__shm *shm);
int64_t hx__shm_max_elems(const hx__shm *shm);
/** This rank's area of the coming round; rank r's of the last one. [HX_SHM_STAGE_BYTES] */
char *hx__shm_mine(hx__shm *shm);
const char *hx__shm_of(hx__shm *shm, int rank);
/** The next round. @return HX_ERR_COMM: the calls differ, or a rank has ended */
hx_status hx__shm_meet(hx__shm *shm);
/** The next round, or two, in which each rank offers a buffer.
 *  @param[out] at  [size] where this process sees the buffers; its own as it is
 *  @param[out] is_seen  every rank sees all of them; the same on all ranks */
hx_status hx__shm_meet_buffers(hx__shm *shm, const void *data, size_t n_bytes, char **at, bool *is_seen);

/* ---- arithmetic: shm_reduce.c ---- */

/** out[i] = reduction over r of sources[r][i], in the tree's order; out may be one of the sources, and so may copies
 *  [n_copies], which get the same. @param n_sources  2 to HX_SHM_MAX_RANKS */
void hx__shm_reduce(const char *const *sources, int n_sources, char *out, char *const *copies, int n_copies, int64_t count,
                    hx_dtype dtype, hx_reduce reduce);

#endif

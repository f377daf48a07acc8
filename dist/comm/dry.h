/* Communicators of ranks that are not there: for rehearsing on one process what a rank of a large world would do.
 *
 * A dry communicator has a rank and a size; its collectives move nothing, are done at once, and are counted. The other ranks are
 * taken to say what this one says: all_gather on memory of the host repeats this rank's block, and reductions leave the values
 * as they are, so that agreements, comparisons and shared sums go well. Receives, and memory of a device, stay as they were.
 *
 *     hx_comm *world; HX_TRY(hx_comm_dry_open(0, 1024, &world));
 *     hx_mesh *mesh;  HX_TRY(hx_mesh_create(world, &config, &mesh));           // its axes are dry too
 *     hx_comm_dry_count counts[HX_COLL_KINDS]; hx_comm_dry_counts(hx_mesh_axis(mesh, HX_AXIS_DP), counts);
 */
#ifndef HX_DIST_COMM_DRY_H
#define HX_DIST_COMM_DRY_H

#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HX_COLL_KINDS = HX_COLL_BARRIER + 1 };

/* Collectives of one kind on memory of a device, which is what training waits for; those of a few numbers of the host's, by which
 * ranks agree, are left out. */
typedef struct hx_comm_dry_count {
    int64_t n_calls;
    int64_t n_bytes; /* of this rank's buffers: count elements, or size*count where there are blocks */
} hx_comm_dry_count;

/** The world as its rank `rank` of `size` sees it. hx_comm_split is refused: it needs the other ranks' colours.
 *  @return HX_ERR_ARG: rank not in 0 to size - 1 */
hx_status hx_comm_dry_open(int rank, int size, hx_comm **out);
/** Some ranks of a dry communicator, this one as `rank` of `size` of them: what hx_comm_split would have made. */
hx_status hx_comm_dry_part(hx_comm *comm, int rank, int size, hx_comm **out);
/** The ranks of the communicator, and of those that will be made from it, share a host's memory: hx_comm_sums_in_tree. */
void hx_comm_dry_share(hx_comm *comm);
bool hx_comm_is_dry(const hx_comm *comm);
/** Local. What a dry communicator was called for so far; those that were made from it count by themselves.
 *  @param[out] counts  by kind */
void hx_comm_dry_counts(const hx_comm *comm, hx_comm_dry_count counts[HX_COLL_KINDS]);

#ifdef __cplusplus
}
#endif
#endif

/* Placement: how many threads this rank may use without taking cores from its neighbours.
 *
 * Each core counts once, shared evenly among the ranks of this host that may run on it; a container's CPU quota is
 * shared in the same way. Two ranks bound to a core each get one thread; four unbound ranks on two cores get one each.
 */
#ifndef HX_LAUNCH_PLACEMENT_H
#define HX_LAUNCH_PLACEMENT_H

#include "dist/comm/comm.h"

typedef struct hx_placement {
    int n_cores;       /* physical cores this process may run on */
    int n_local_ranks; /* ranks on this host */
    int local_rank;    /* this one's number among them */
    double n_share;    /* cores that are this rank's by a fair division */
    double quota;      /* CPUs the container grants this host's ranks together; 0: no limit */
    int n_threads;     /* n_share rounded down, at least 1 */
    char cores[64];    /* "0-3,8": numbers of the processing units, shortened */
} hx_placement;

/** Collective over `world` when it is MPI's. Reads the binding of the calling process. */
hx_status hx_placement_find(hx_comm *world, hx_placement *out);

#endif

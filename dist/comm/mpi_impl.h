/* The MPI provider in two files: mpi.c moves data by MPI; hosts.c finds the ranks of each host and lets them use the memory
 * that they share. */
#ifndef HX_DIST_COMM_MPI_IMPL_H
#define HX_DIST_COMM_MPI_IMPL_H

#include <mpi.h>

#include "dist/comm/comm_impl.h"

/** A failed call of MPI as a status. */
hx_status hx__mpi_check(int code, const char *call);
#define MPI_TRY(function, ...) HX_TRY(hx__mpi_check(function(__VA_ARGS__), #function))

/** In place on `handle`, at most max_elems elements at a time. @param data [count] */
hx_status hx__mpi_all_reduce(MPI_Comm handle, void *data, int64_t count, hx_dtype dtype, hx_reduce reduce, int64_t max_elems);

/* HELIX_SHM */
typedef enum hx__shm_mode { HX_SHM_AUTO, HX_SHM_OFF, HX_SHM_ON } hx__shm_mode;

/* Who shares memory with whom, of one communicator; comm->state of the provider. */
typedef struct hx__hosts hx__hosts;

/** @return HX_ERR_CONFIG: HELIX_SHM or HELIX_COMM_CHECK has another value than it may */
hx_status hx__hosts_read_environment(hx__shm_mode *mode, bool *checks_calls);
/** Collective over `comm`, whose handle is set. To find nothing shared is no failure, unless the mode insists.
 *  @return HX_ERR_COMM: it insists; HX_ERR_REMOTE: another rank has no memory */
hx_status hx__hosts_open(hx_comm *comm, hx__shm_mode mode, bool checks_calls);
/** As the communicator that `comm` was split from. */
hx_status hx__hosts_open_child(const hx_comm *parent, hx_comm *comm);
/** @param frees_handles  false after a failure: freeing may wait for ranks that are gone */
void hx__hosts_close(hx_comm *comm, bool frees_handles);
/** Run the call, if it is a collective, in shared memory as far as possible. @param[out] is_done  false: it is left to MPI */
hx_status hx__hosts_run(hx_comm *comm, const hx_comm_call *call, bool *is_done);

#endif

/* Which ranks of a communicator share a host, and collectives that use it.
 *
 *   one host                          all collectives in shared memory (shm.h)
 *   several, equally many ranks each  all_reduce: reduced to shares in each host; each share all-reduced by MPI between the
 *                                     ranks of equal local number; shares gathered in each host. The rest by MPI
 *   anything else                     MPI
 *
 * There is no choice by timing: shared memory was never slower where it was measured (helix bench comm), and a sum's bits
 * should not hang on a stopwatch.
 */
#include "dist/comm/mpi_impl.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "dist/comm/shm.h"

struct hx__hosts {
    hx__shm_mode mode;
    bool checks_calls;    /* HELIX_COMM_CHECK */
    int64_t n_calls;      /* collectives so far, the same on all ranks */
    hx__signature *calls; /* [size] room of the check */
    hx__shm *shm;         /* the ranks of this host; NULL: MPI does all */
    MPI_Comm local;       /* them, while shm is opened */
    MPI_Comm peers;       /* the ranks of this local number, one on each host; MPI_COMM_NULL: one host */
};

/* ---- the environment ---- */

static hx_status read_choice(const char *name, const char *const *values, int n_values, int *out) {
    const char *text = getenv(name);
    *out = 0;
    if (text == NULL || text[0] == '\0') return HX_OK;
    for (*out = 0; *out < n_values; (*out)++)
        if (strcmp(text, values[*out]) == 0) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "%s=%.32s: expected %s, %s%s%s", name, text, values[0], values[1], n_values > 2 ? " or " : "",
                   n_values > 2 ? values[2] : "");
}

hx_status hx__hosts_read_environment(hx__shm_mode *mode, bool *checks_calls) {
    static const char *const modes[] = {[HX_SHM_AUTO] = "auto", [HX_SHM_OFF] = "off", [HX_SHM_ON] = "on"};
    static const char *const switches[] = {"0", "1"};
    int chosen, checks;
    HX_TRY(read_choice("HELIX_SHM", modes, 3, &chosen));
    HX_TRY(read_choice("HELIX_COMM_CHECK", switches, 2, &checks));
    *mode = (hx__shm_mode)chosen;
    *checks_calls = checks == 1;
    return HX_OK;
}

/* Tests pretend to be on several hosts: HELIX_TEST_HOSTS=2 puts the first half of the world's ranks on one. 0: not set. */
static int pretended_hosts(void) {
    const char *text = getenv("HELIX_TEST_HOSTS");
    int n = text == NULL ? 0 : atoi(text);
    return n > 0 ? n : 0;
}

/* ---- opening ---- */

static MPI_Comm handle_of(const hx_comm *comm) { return *(MPI_Comm *)comm->mpi_handle; }

static hx_status find_local(const hx_comm *comm, MPI_Comm *out) {
    int n_hosts = pretended_hosts(), rank, size;
    if (n_hosts == 0) {
        MPI_TRY(MPI_Comm_split_type, handle_of(comm), MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, out);
        return HX_OK;
    }
    MPI_TRY(MPI_Comm_rank, MPI_COMM_WORLD, &rank);
    MPI_TRY(MPI_Comm_size, MPI_COMM_WORLD, &size);
    MPI_TRY(MPI_Comm_split, handle_of(comm), (int)((int64_t)rank * n_hosts / size), comm->rank, out);
    return HX_OK;
}

/* What the ranks say, each an int so that one MIN asks all. */
typedef struct vote {
    int has_room, wants, checks, insists_not;
} vote;

static hx_status count_votes(MPI_Comm handle, vote *v) {
    MPI_TRY(MPI_Allreduce, MPI_IN_PLACE, v, (int)(sizeof *v / sizeof(int)), MPI_INT, MPI_MIN, handle);
    return HX_OK;
}

/* As many ranks on each host, and more than one? */
static hx_status is_even(const hx_comm *comm, int local_size, bool *out) {
    int range[2] = {local_size, -local_size};
    MPI_TRY(MPI_Allreduce, MPI_IN_PLACE, range, 2, MPI_INT, MPI_MIN, handle_of(comm));
    *out = range[0] == -range[1] && range[0] > 1 && range[0] <= HX_SHM_MAX_RANKS;
    return HX_OK;
}

static void let_mpi_progress(void *arg) {
    int is_there;
    (void)MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, *(MPI_Comm *)arg, &is_there, MPI_STATUS_IGNORE);
}

/* Where the first rank of the host has put the segment. */
typedef struct invitation {
    hx_shared_place place;
    int pid;
    bool is_there;
} invitation;

/* Collective over the host. Failures of memory are told by *joined; what is returned is a failure of MPI. */
static hx_status join_segment(hx_comm *comm, const int *ranks, int rank, int size, bool *joined) {
    hx__hosts *h = comm->state;
    invitation in = {.pid = (int)getpid()};
    if (rank == 0) in.is_there = hx__shm_create(size, &in.place) == HX_OK;
    MPI_TRY(MPI_Bcast, &in, (int)sizeof in, MPI_BYTE, 0, h->local);
    *joined = in.is_there && hx__shm_join(in.pid, &in.place, rank, size, ranks, let_mpi_progress, comm->mpi_handle, &h->shm) == HX_OK;
    MPI_TRY(MPI_Barrier, h->local); /* all have mapped it, or never will */
    if (rank == 0 && in.is_there) close(in.place.fd);
    return HX_OK;
}

/* Collective over comm. Nothing shared is no failure. */
static hx_status share_hosts(hx_comm *comm) {
    hx__hosts *h = comm->state;
    int rank, size, ranks[HX_SHM_MAX_RANKS], all_joined;
    bool is_usable, joined;
    HX_TRY(find_local(comm, &h->local));
    MPI_TRY(MPI_Comm_rank, h->local, &rank);
    MPI_TRY(MPI_Comm_size, h->local, &size);
    HX_TRY(is_even(comm, size, &is_usable));
    if (!is_usable) return HX_OK;
    MPI_TRY(MPI_Allgather, &comm->rank, 1, MPI_INT, ranks, 1, MPI_INT, h->local);
    HX_TRY(join_segment(comm, ranks, rank, size, &joined));
    all_joined = joined;
    MPI_TRY(MPI_Allreduce, MPI_IN_PLACE, &all_joined, 1, MPI_INT, MPI_MIN, handle_of(comm));
    if (!all_joined) {
        hx__shm_leave(&h->shm);
        return HX_OK;
    }
    comm->transport = size == comm->size ? "shared memory" : "shared memory in each host, MPI between them";
    comm->sums_in_tree = size == comm->size;
    if (size < comm->size) MPI_TRY(MPI_Comm_split, handle_of(comm), rank, comm->rank, &h->peers);
    return HX_OK;
}

static void free_handle(MPI_Comm *handle) {
    if (*handle != MPI_COMM_NULL) (void)MPI_Comm_free(handle);
}

hx_status hx__hosts_open(hx_comm *comm, hx__shm_mode mode, bool checks_calls) {
    hx__hosts *h = NULL;
    hx_status status = hx_mem_alloc_array(1, sizeof *h, (void **)&h);
    if (status == HX_OK) {
        *h = (hx__hosts){.mode = mode, .checks_calls = checks_calls, .local = MPI_COMM_NULL, .peers = MPI_COMM_NULL};
        comm->state = h;
        status = hx_mem_alloc_array(comm->size, sizeof *h->calls, (void **)&h->calls);
    }
    if (comm->size == 1) return status;
    vote v = {.has_room = status == HX_OK, .wants = mode != HX_SHM_OFF, .checks = checks_calls, .insists_not = mode != HX_SHM_ON};
    HX_TRY(count_votes(handle_of(comm), &v));
    if (status != HX_OK) return status;
    if (!v.has_room) return HX_FAIL(HX_ERR_REMOTE, "another rank has no memory for a communicator");
    h->checks_calls = v.checks;
    if (v.wants) HX_TRY(share_hosts(comm));
    free_handle(&h->local);
    if (!v.insists_not && h->shm == NULL)
        return HX_FAIL(HX_ERR_COMM, "HELIX_SHM=on: the %d ranks share no memory: expected as many on each host, 2 to %d, that may "
                       "open each other's files under /proc", comm->size, HX_SHM_MAX_RANKS);
    return HX_OK;
}

hx_status hx__hosts_open_child(const hx_comm *parent, hx_comm *comm) {
    const hx__hosts *h = parent->state;
    /* Insisting is for the world: parts of it may well be one rank per host. */
    return hx__hosts_open(comm, h->mode == HX_SHM_ON ? HX_SHM_AUTO : h->mode, h->checks_calls);
}

void hx__hosts_close(hx_comm *comm, bool frees_handles) {
    hx__hosts *h = comm->state;
    if (h == NULL) return;
    hx__shm_leave(&h->shm);
    if (frees_handles) free_handle(&h->peers);
    hx_mem_free((void **)&h->calls);
    hx_mem_free(&comm->state);
}

/* ---- running ---- */

static const hx__signature *gathered(const void *calls, int rank) { return (const hx__signature *)calls + rank; }

static hx_status compare_calls(hx_comm *comm, const hx__signature *mine) {
    hx__hosts *h = comm->state;
    MPI_TRY(MPI_Allgather, mine, (int)sizeof *mine, MPI_BYTE, h->calls, (int)sizeof *mine, MPI_BYTE, handle_of(comm));
    return hx__signature_compare(gathered, h->calls, comm->size, NULL);
}

static hx_status all_reduce_over_hosts(hx_comm *comm, const hx_comm_call *call) {
    hx__hosts *h = comm->state;
    hx__blocks shares = hx__shm_shares(call->count, hx__shm_size(h->shm));
    int64_t start = shares.chunk * hx__shm_rank(h->shm), n = call->count - start < shares.chunk ? call->count - start : shares.chunk;
    HX_TRY(hx__shm_reduce_blocks(h->shm, call, shares));
    if (n > 0)
        HX_TRY(hx__mpi_all_reduce(h->peers, (char *)call->data + (size_t)start * hx_dtype_bytes(call->dtype), n, call->dtype,
                                  call->reduce, comm->max_elems));
    return hx__shm_gather_blocks(h->shm, call, shares);
}

hx_status hx__hosts_run(hx_comm *comm, const hx_comm_call *call, bool *is_done) {
    hx__hosts *h = comm->state;
    *is_done = false;
    if (call->kind == HX_COLL_SEND || call->kind == HX_COLL_RECV || comm->size == 1) return HX_OK;
    hx__signature mine = hx__signature_of(call, h->n_calls++);
    bool is_all = h->shm != NULL && h->peers == MPI_COMM_NULL;
    bool is_between = h->shm != NULL && !is_all && call->kind == HX_COLL_ALL_REDUCE && call->count > 0;
    if (h->checks_calls && !is_all) HX_TRY(compare_calls(comm, &mine)); /* shared memory always compares */
    if (!is_all && !is_between) return HX_OK;
    *is_done = true;
    hx__shm_begin(h->shm, mine, comm->max_elems);
    return is_all ? hx__shm_run(h->shm, call) : all_reduce_over_hosts(comm, call);
}

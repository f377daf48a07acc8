#include "launch/placement.h"

#include <hwloc.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

#define MAX_UNITS 4096 /* processing units of a host; the largest machines of today have fewer */
#define N_WORDS   (MAX_UNITS / 64)

/* One bit per physical core, named by the core's first processing unit, the same name on every rank of the host. */
typedef struct core_set {
    uint64_t words[N_WORDS];
} core_set;

static hx_status read_binding(core_set *cores, hx_placement *out) {
    hx_status status = HX_OK;
    hwloc_topology_t topology = NULL;
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    memset(cores, 0, sizeof *cores);
    if (!bound || hwloc_topology_init(&topology) != 0) {
        hwloc_bitmap_free(bound);
        return HX_FAIL(HX_ERR_MEMORY, "hwloc could not be set up");
    }
    /* caches, NUMA nodes and devices do not matter here, and finding them takes most of the time */
    hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    if (hwloc_topology_load(topology) != 0 || hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) != 0) {
        status = HX_FAIL(HX_ERR_DEVICE, "hwloc cannot tell which cores this process is bound to");
        goto done;
    }
    hwloc_bitmap_and(bound, bound, hwloc_topology_get_allowed_cpuset(topology));
    hwloc_bitmap_list_snprintf(out->cores, sizeof out->cores, bound);
    bool knows_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0;
    for (int unit = hwloc_bitmap_first(bound); unit >= 0 && unit < MAX_UNITS; unit = hwloc_bitmap_next(bound, unit)) {
        hwloc_obj_t pu = hwloc_get_pu_obj_by_os_index(topology, (unsigned)unit);
        hwloc_obj_t core = knows_cores && pu ? hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu) : NULL;
        int first = core ? hwloc_bitmap_first(core->complete_cpuset) : unit;
        if (first >= 0 && first < MAX_UNITS) cores->words[first / 64] |= UINT64_C(1) << (first % 64);
    }
done:
    if (topology) hwloc_topology_destroy(topology);
    hwloc_bitmap_free(bound);
    return status;
}

/* A container may be granted fewer CPUs than it sees: threads beyond the quota are put to sleep in the middle of
 * their work. Version 2 of control groups has one file, version 1 two; absent files mean no limit. */
static double read_quota(void) {
    double quota = 0, period = 0;
    char first[32] = "";
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%31s %lf", first, &period) != 2 || sscanf(first, "%lf", &quota) != 1) quota = 0;
        fclose(f);
    } else {
        FILE *q = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re"), *p = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re");
        if (!q || !p || fscanf(q, "%lf", &quota) != 1 || fscanf(p, "%lf", &period) != 1) quota = 0;
        if (q) fclose(q);
        if (p) fclose(p);
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

static double fair_share(const core_set *mine, const core_set *all, int n) {
    double share = 0;
    for (int w = 0; w < N_WORDS; w++) {
        for (int bit = 0; bit < 64; bit++) {
            if (!(mine->words[w] >> bit & 1)) continue;
            int users = 0;
            for (int r = 0; r < n; r++) users += (int)(all[r].words[w] >> bit & 1);
            share += 1.0 / users;
        }
    }
    return share;
}

/* Collective: the core sets of the ranks that share this host's memory. */
static hx_status gather_local(MPI_Comm world, const core_set *mine, core_set **all, int *rank, int *n) {
    hx_status status = HX_OK;
    MPI_Comm local = MPI_COMM_NULL;
    *all = NULL;
    if (MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local) != MPI_SUCCESS)
        return HX_FAIL(HX_ERR_COMM, "MPI cannot tell which ranks share this host");
    MPI_Comm_rank(local, rank);
    MPI_Comm_size(local, n);
    HX_TRY_GOTO(hx_mem_alloc_array(*n, sizeof **all, (void **)all), done);
    if (MPI_Allgather(mine, N_WORDS, MPI_UINT64_T, *all, N_WORDS, MPI_UINT64_T, local) != MPI_SUCCESS)
        status = HX_FAIL(HX_ERR_COMM, "the ranks of this host could not exchange their bindings");
done:
    MPI_Comm_free(&local);
    return status;
}

hx_status hx_placement_find(hx_comm *world, hx_placement *out) {
    hx_placement p = {.n_local_ranks = 1};
    core_set mine, *all = NULL;
    hx_status status = hx_comm_agree(world, read_binding(&mine, &p));
    if (status != HX_OK) return status;
    MPI_Comm *mpi = hx_comm_mpi_handle(world);
    if (mpi) {
        HX_TRY(hx_comm_sync(world));
        HX_TRY(gather_local(*mpi, &mine, &all, &p.local_rank, &p.n_local_ranks));
    }
    p.n_share = fair_share(&mine, all ? all : &mine, all ? p.n_local_ranks : 1);
    hx_mem_free((void **)&all);
    for (int w = 0; w < N_WORDS; w++) p.n_cores += __builtin_popcountll(mine.words[w]);
    p.quota = read_quota();
    if (p.quota > 0) p.n_share = fmin(p.n_share, p.quota / p.n_local_ranks);
    /* sums of 1/3 + 1/3 + 1/3 may fall short of 1 */
    p.n_threads = p.n_share < 1 ? 1 : (int)floor(p.n_share + 1e-6);
    *out = p;
    return HX_OK;
}

/* Rounds in a shared segment, and the mappings of peers' buffers.
 *
 * A peer's region stays mapped, because to map it again would cost more than to sum it. The owner may free it, and does not
 * ask: it posts how many regions it has freed so far, and who sees another number than last time drops all mappings of
 * that rank. What each rank maps follows from the posts alone, so every rank knows whether one of them had something new to
 * map; only then there is a second round, in which they tell whether it went well.
 */
#define _GNU_SOURCE /* syscall */
#include "dist/comm/shm.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"

/* To look at the step, to let others run, to sleep. The first is short: where more threads want to run than there are cores,
 * the rank that is waited for may be waiting for this very core, and every look delays it. */
#define N_SPINS      50
#define N_YIELDS     1000 /* a bound, so that a long wait leaves the core to those who compute */
#define NAP_FIRST_MS 1
#define NAP_LAST_MS  16

/* What a rank says in a round. */
typedef struct post {
    hx__signature signature;
    hx_shared_place place;
    uint64_t epoch;
    bool is_shared;  /* place is set */
    bool has_failed; /* a region of a peer could not be mapped */
} post;

/* Written by its rank, read by all; the step alone in its cache lines, since others look at it all the time. */
typedef struct slot {
    _Alignas(128) _Atomic uint32_t step; /* the last round begun; wraps around */
    _Atomic uint32_t n_sleepers;         /* that wait for it in the kernel */
    int32_t pid;
    _Alignas(128) post posts[2];
} slot;

typedef struct region {
    uint64_t number;
    char *base; /* NULL: this rank's own */
    size_t n_bytes;
} region;

typedef struct peer {
    uint64_t epoch;
    int n_regions;
    region regions[HX_SHM_REGIONS];
} peer;

struct hx__shm {
    int rank, size;
    uint32_t step;
    hx__signature signature;
    int64_t max_elems;
    bool maps_buffers; /* the same on all ranks */
    void *segment;
    size_t segment_bytes;
    slot *slots;  /* [size] */
    char *stages; /* [size][2][HX_SHM_STAGE_BYTES] */
    peer *peers;  /* [size] */
    int *ranks;   /* [size] */
    void (*progress)(void *arg);
    void *progress_arg;
};

/* ---- life ---- */

static size_t slots_bytes(int size) { return (size_t)size * sizeof(slot); }

hx_status hx__shm_create(int size, hx_shared_place *place) {
    /* Pages that nobody writes take no memory: the areas cost what is staged. */
    return hx_shared_create(slots_bytes(size) + (size_t)size * 2 * HX_SHM_STAGE_BYTES, place);
}

hx_status hx__shm_join(int pid, const hx_shared_place *place, int rank, int size, const int *ranks,
                       void (*progress)(void *arg), void *progress_arg, hx__shm **out) {
    hx__shm *shm = NULL;
    hx_status status;
    HX_TRY(hx_mem_alloc_array(1, sizeof *shm, (void **)&shm));
    HX_TRY_GOTO(hx_mem_alloc_array(size, sizeof *shm->peers, (void **)&shm->peers), failed);
    HX_TRY_GOTO(hx_mem_alloc_array(size, sizeof *shm->ranks, (void **)&shm->ranks), failed);
    HX_TRY_GOTO(hx_shared_map(pid, place, &shm->segment), failed);
    shm->segment_bytes = place->region_bytes;
    shm->slots = shm->segment;
    shm->stages = (char *)shm->segment + slots_bytes(size);
    shm->rank = rank;
    shm->size = size;
    shm->maps_buffers = true;
    shm->progress = progress;
    shm->progress_arg = progress_arg;
    memcpy(shm->ranks, ranks, (size_t)size * sizeof *ranks);
    shm->slots[rank].pid = (int32_t)getpid();
    hx_shared_share(true);
    *out = shm;
    return HX_OK;
failed:
    hx_mem_free((void **)&shm->peers);
    hx_mem_free((void **)&shm->ranks);
    hx_mem_free((void **)&shm);
    return status;
}

static void unmap_all(peer *p) {
    for (int i = 0; i < p->n_regions; i++)
        if (p->regions[i].base != NULL) munmap(p->regions[i].base, p->regions[i].n_bytes);
    p->n_regions = 0;
}

void hx__shm_leave(hx__shm **handle) {
    hx__shm *shm = *handle;
    if (shm == NULL) return;
    hx_shared_share(false);
    for (int r = 0; r < shm->size; r++) unmap_all(&shm->peers[r]);
    munmap(shm->segment, shm->segment_bytes);
    hx_mem_free((void **)&shm->peers);
    hx_mem_free((void **)&shm->ranks);
    hx_mem_free((void **)handle);
}

int hx__shm_rank(const hx__shm *shm) { return shm->rank; }

int hx__shm_size(const hx__shm *shm) { return shm->size; }

int64_t hx__shm_max_elems(const hx__shm *shm) { return shm->max_elems; }

void hx__shm_begin(hx__shm *shm, hx__signature signature, int64_t max_elems) {
    shm->signature = signature;
    shm->max_elems = max_elems;
}

/* ---- waiting ---- */

static bool has_begun(const slot *s, uint32_t step) {
    return (int32_t)(atomic_load_explicit(&s->step, memory_order_acquire) - step) >= 0;
}

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Not private to the process: others wait on the same page. */
static void nap(_Atomic uint32_t *word, uint32_t value, int ms) {
    struct timespec limit = {.tv_sec = 0, .tv_nsec = ms * 1000000L};
    (void)syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, value, &limit, NULL, 0);
}

static void wake(_Atomic uint32_t *word) {
    (void)syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, HX_SHM_MAX_RANKS, NULL, NULL, 0);
}

/* The long wait. A sleeper first says so and then looks again, the other first raises its step and then looks for
 * sleepers, both in the order of all ranks' atomic operations: one of them sees the other. */
static hx_status sleep_until(hx__shm *shm, int rank, uint32_t step) {
    slot *s = &shm->slots[rank];
    for (int ms = NAP_FIRST_MS; !has_begun(s, step); ms = ms < NAP_LAST_MS ? 2 * ms : NAP_LAST_MS) {
        atomic_fetch_add(&s->n_sleepers, 1);
        uint32_t now = atomic_load(&s->step);
        if ((int32_t)(now - step) < 0) nap(&s->step, now, ms);
        atomic_fetch_sub(&s->n_sleepers, 1);
        if (has_begun(s, step)) return HX_OK;
        shm->progress(shm->progress_arg); /* that rank may wait for a message that MPI has yet to push out here */
        if (kill(s->pid, 0) != 0 && errno == ESRCH && !has_begun(s, step))
            return HX_FAIL(HX_ERR_COMM, "rank %d (process %d) has ended while others wait for it", shm->ranks[rank], (int)s->pid);
    }
    return HX_OK;
}

static hx_status wait_for(hx__shm *shm, int rank, uint32_t step) {
    for (int i = 0; i < N_SPINS + N_YIELDS; i++) {
        if (has_begun(&shm->slots[rank], step)) return HX_OK;
        if (i < N_SPINS)
            pause_briefly();
        else
            sched_yield();
    }
    return sleep_until(shm, rank, step);
}

/* ---- rounds ---- */

char *hx__shm_mine(hx__shm *shm) {
    return shm->stages + ((size_t)shm->rank * 2 + ((shm->step + 1) & 1)) * HX_SHM_STAGE_BYTES;
}

const char *hx__shm_of(hx__shm *shm, int rank) {
    return shm->stages + ((size_t)rank * 2 + (shm->step & 1)) * HX_SHM_STAGE_BYTES;
}

static const post *post_of(const hx__shm *shm, int rank) { return &shm->slots[rank].posts[shm->step & 1]; }

static const hx__signature *signature_of(const void *shm, int rank) { return &post_of(shm, rank)->signature; }

static hx_status meet(hx__shm *shm, const post *mine) {
    slot *own = &shm->slots[shm->rank];
    uint32_t step = shm->step + 1;
    post *said = &own->posts[step & 1];
    *said = *mine;
    said->signature = shm->signature;
    atomic_store(&own->step, step);
    if (atomic_load(&own->n_sleepers) > 0) wake(&own->step);
    for (int r = 0; r < shm->size; r++)
        if (r != shm->rank) HX_TRY(wait_for(shm, r, step));
    shm->step = step;
    return hx__signature_compare(signature_of, shm, shm->size, shm->ranks);
}

hx_status hx__shm_meet(hx__shm *shm) { return meet(shm, &(post){.is_shared = false}); }

/* ---- buffers ---- */

static const region *find_region(const peer *p, uint64_t number) {
    for (int i = 0; i < p->n_regions; i++)
        if (p->regions[i].number == number) return &p->regions[i];
    return NULL;
}

/* Brings the mappings of rank r up to date with what it posted.
 * @param[out] is_new  the region was not known; the same on all ranks */
static hx_status follow_post(hx__shm *shm, int r, bool *is_new) {
    peer *p = &shm->peers[r];
    const post *said = post_of(shm, r);
    if (p->epoch != said->epoch || p->n_regions == HX_SHM_REGIONS) unmap_all(p);
    p->epoch = said->epoch;
    if (find_region(p, said->place.region) != NULL) return HX_OK;
    *is_new = true;
    region *added = &p->regions[p->n_regions++];
    *added = (region){.number = said->place.region, .n_bytes = said->place.region_bytes};
    return r == shm->rank ? HX_OK : hx_shared_map(shm->slots[r].pid, &said->place, (void **)&added->base);
}

static void locate(const hx__shm *shm, int r, const void *own, char **at) {
    const post *said = post_of(shm, r);
    const region *known = find_region(&shm->peers[r], said->place.region);
    at[r] = r == shm->rank ? (char *)own : known->base + said->place.offset;
}

/* After a new region: does everybody see it? If not, nothing is looked for ever after. */
static hx_status vote(hx__shm *shm, bool has_failed) {
    HX_TRY(meet(shm, &(post){.has_failed = has_failed}));
    for (int r = 0; r < shm->size; r++)
        if (post_of(shm, r)->has_failed) shm->maps_buffers = false;
    return HX_OK;
}

hx_status hx__shm_meet_buffers(hx__shm *shm, const void *data, size_t n_bytes, char **at, bool *is_seen) {
    bool is_new = false, has_failed = false;
    *is_seen = false;
    if (!shm->maps_buffers) return HX_OK;
    post mine = {.epoch = hx_shared_epoch()};
    mine.is_shared = hx_shared_find(data, n_bytes, &mine.place);
    HX_TRY(meet(shm, &mine));
    for (int r = 0; r < shm->size; r++)
        if (!post_of(shm, r)->is_shared) return HX_OK;
    for (int r = 0; r < shm->size; r++)
        if (follow_post(shm, r, &is_new) != HX_OK) has_failed = true;
    if (!has_failed)
        for (int r = 0; r < shm->size; r++) locate(shm, r, data, at);
    if (is_new) HX_TRY(vote(shm, has_failed));
    *is_seen = shm->maps_buffers;
    return HX_OK;
}

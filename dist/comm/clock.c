/* How far the clocks of hosts are apart: all ranks leave a barrier at nearly the same moment and compare what time it is. The median of
 * several rounds leaves out those in which somebody was late. Ranks of one host read the same clock, so each goes by its host's
 * first rank, and the error is one number for a host. */
#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/trace.h"
#include "dist/comm/comm_impl.h"

#define ROUNDS 15

static int by_size(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* @param moments [size] */
static hx_status measure(hx_comm *comm, int64_t (*now)(void), int64_t first, int64_t *moments, int64_t *out) {
    int64_t ahead[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        HX_TRY(hx_comm_barrier(comm));
        moments[comm->rank] = now();
        HX_TRY(hx_comm_all_gather(comm, moments, 1, HX_I64, NULL, NULL));
        ahead[i] = moments[0] - moments[first];
    }
    qsort(ahead, ROUNDS, sizeof *ahead, by_size);
    *out = ahead[ROUNDS / 2];
    return HX_OK;
}

hx_status hx__comm_clock_ahead(hx_comm *comm, int64_t (*now)(void), int64_t *out) {
    int64_t *first = NULL; /* [size] for each rank the first one on its host; behind it [size] moments */
    hx_status status;
    HX_TRY_GOTO(hx_comm_agree(comm, hx_mem_alloc_array(2 * (int64_t)comm->size, sizeof *first, (void **)&first)), done);
    HX_TRY_GOTO(hx__comm_first_on_host(comm, first), done);
    status = measure(comm, now, first[comm->rank], first + comm->size, out);
done:
    hx_mem_free((void **)&first);
    return status;
}

hx_status hx_comm_clock_ahead(hx_comm *comm, int64_t *out) { return hx__comm_clock_ahead(comm, hx__trace_now, out); }

/* What ranks call, compared: a program whose ranks disagree learns where, instead of hanging or adding up nonsense. */
#include <stdio.h>

#include "dist/comm/comm_impl.h"
#include "dist/comm/shm.h"

hx__signature hx__signature_of(const hx_comm_call *call, int64_t sequence) {
    return (hx__signature){.sequence = sequence, .count = call->count, .kind = (int32_t)call->kind,
                           .dtype = (int32_t)call->dtype, .reduce = (int32_t)call->reduce, .peer = (int32_t)call->peer};
}

static bool is_same(const hx__signature *a, const hx__signature *b) {
    return a->sequence == b->sequence && a->count == b->count && a->kind == b->kind && a->dtype == b->dtype &&
           a->reduce == b->reduce && a->peer == b->peer;
}

static void describe(const hx__signature *s, char *out, size_t n_bytes) {
    static const char *const reductions[] = {[HX_SUM] = "sum", [HX_MAX] = "max", [HX_MIN] = "min"};
    bool is_reduction = s->kind == HX_COLL_ALL_REDUCE || s->kind == HX_COLL_REDUCE_SCATTER;
    int n = snprintf(out, n_bytes, "%s of %lld %s", hx__collective_name((hx_collective)s->kind), (long long)s->count,
                     hx_dtype_name((hx_dtype)s->dtype));
    if (is_reduction) n += snprintf(out + n, n_bytes - (size_t)n, ", %s", reductions[s->reduce]);
    if (s->kind == HX_COLL_BROADCAST) n += snprintf(out + n, n_bytes - (size_t)n, " from rank %d", (int)s->peer);
    snprintf(out + n, n_bytes - (size_t)n, " (call %lld)", (long long)s->sequence);
}

hx_status hx__signature_compare(const hx__signature *(*of)(const void *arg, int rank), const void *arg, int size, const int *ranks) {
    char first[128], other[128];
    int r = 1;
    while (r < size && is_same(of(arg, 0), of(arg, r))) r++;
    if (r == size) return HX_OK;
    describe(of(arg, 0), first, sizeof first);
    describe(of(arg, r), other, sizeof other);
    return HX_FAIL(HX_ERR_COMM, "rank %d calls %s, rank %d calls %s: expected the same call on all ranks", ranks ? ranks[0] : 0,
                   first, ranks ? ranks[r] : r, other);
}

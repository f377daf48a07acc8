/* Agreement: a failure of one rank becomes a failure of all. Healthy runs pay one reduction of a number. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/hash.h"
#include "dist/comm/comm_impl.h"

/* What the first failing rank tells the others. */
typedef struct notice {
    char host[HX_COMM_HOST_BYTES];
    char message[HX_COMM_TEXT_BYTES];
} notice;

static hx_status send_all(hx_comm *comm, void *data, size_t n_bytes, int root) {
    if (n_bytes > INT64_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "%zu bytes: expected at most %lld", n_bytes, (long long)INT64_MAX);
    return hx_comm_broadcast(comm, data, (int64_t)n_bytes, HX_U8, root, NULL, NULL);
}

hx_status hx_comm_agree(hx_comm *comm, hx_status mine) {
    if (comm->size == 1) return mine;
    notice n = {.host = "", .message = ""};
    int32_t first = mine == HX_OK ? comm->size : comm->rank;
    if (mine != HX_OK) {
        const char *message = hx_error_message();
        snprintf(n.host, sizeof n.host, "%s", comm->host);
        snprintf(n.message, sizeof n.message, "%s", message[0] ? message : hx_status_text(mine));
    }
    notice own = n; /* the collectives may fail too, and then describe that */
    hx_status status = hx_comm_all_reduce(comm, &first, 1, HX_I32, HX_MIN, NULL, NULL);
    if (status == HX_OK && first == comm->size) return HX_OK;
    if (status == HX_OK) status = send_all(comm, &n, sizeof n, first);
    if (mine != HX_OK) return status == HX_OK ? mine : hx_error_adopt(mine, own.message);
    HX_TRY(status);
    n.host[sizeof n.host - 1] = n.message[sizeof n.message - 1] = '\0';
    return HX_FAIL(HX_ERR_REMOTE, "rank %d (%s) failed first: %s", first, n.host, n.message);
}

hx_status hx_comm_agree_equal(hx_comm *comm, const char *what, int64_t value) {
    int64_t *all = (int64_t *)(void *)comm->gathered; /* there is room for more than one number a rank */
    all[comm->rank] = value;
    HX_TRY(hx_comm_all_gather(comm, all, 1, HX_I64, NULL, NULL));
    for (int rank = 1; rank < comm->size; rank++)
        if (all[rank] != all[0])
            return HX_FAIL(HX_ERR_CONFIG, "%s is %lld on rank 0 and %lld on rank %d: expected the same on all %d", what, (long long)all[0],
                           (long long)all[rank], rank, comm->size);
    return HX_OK;
}

hx_status hx__comm_first_on_host(hx_comm *comm, int64_t *first) {
    first[comm->rank] = (int64_t)hx_hash_text(HX_HASH_START, comm->host);
    HX_TRY(hx_comm_all_gather(comm, first, 1, HX_I64, NULL, NULL));
    /* From the last rank on: what stands before it are hashes still. */
    for (int rank = comm->size - 1; rank >= 0; rank--) {
        int lowest = 0;
        while (first[lowest] != first[rank]) lowest++;
        first[rank] = lowest;
    }
    return HX_OK;
}

static hx_status hook_agree(void *self, hx_status mine) {
    return hx_comm_agree(self, mine);
}

/* Every rank adds all contributions itself in the order of ranks: no algorithm of a library decides the bits. */
static hx_status hook_sum(void *self, double *values, int n) {
    hx_comm *comm = self;
    if (n < 0 || n > HX_COMM_MAX_SUM) return HX_FAIL(HX_ERR_ARG, "%d values: expected 0 to %d", n, HX_COMM_MAX_SUM);
    if (comm->size == 1 || n == 0) return HX_OK;
    memcpy(comm->gathered + (int64_t)comm->rank * n, values, (size_t)n * sizeof *values);
    HX_TRY(hx_comm_all_gather(comm, comm->gathered, n, HX_F64, NULL, NULL));
    for (int i = 0; i < n; i++) {
        values[i] = 0;
        for (int64_t rank = 0; rank < comm->size; rank++) values[i] += comm->gathered[rank * n + i];
    }
    return HX_OK;
}

static hx_status hook_max(void *self, double *value) {
    hx_comm *comm = self;
    comm->gathered[comm->rank] = *value;
    HX_TRY(hx_comm_all_gather(comm, comm->gathered, 1, HX_F64, NULL, NULL));
    *value = comm->gathered[0];
    for (int rank = 1; rank < comm->size && !isnan(*value); rank++)
        if (!(comm->gathered[rank] <= *value)) *value = comm->gathered[rank];
    return HX_OK;
}

/* Sums with zeros are exact in any order. */
static hx_status hook_join(void *self, double *values, int64_t n) {
    return hx_comm_all_reduce(self, values, n, HX_F64, HX_SUM, NULL, NULL);
}

static hx_status hook_gather(void *self, const void *mine, size_t n_bytes, void *all) {
    hx_comm *comm = self;
    if (n_bytes > INT64_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "%zu bytes: expected at most %lld", n_bytes, (long long)INT64_MAX);
    memcpy((char *)all + (size_t)comm->rank * n_bytes, mine, n_bytes);
    return hx_comm_all_gather(comm, all, (int64_t)n_bytes, HX_U8, NULL, NULL);
}

static uint64_t hook_hash(uint64_t seed, const void *data, size_t n_bytes) { return XXH3_64bits_withSeed(data, n_bytes, seed); }

static hx_status hook_broadcast(void *self, void *data, size_t n_bytes) {
    return send_all(self, data, n_bytes, 0);
}

void hx_comm_agreement(hx_comm *comm, hx_agreement *out) {
    *out = (hx_agreement){.self = comm,
                          .rank = comm->rank,
                          .size = comm->size,
                          .host = comm->host,
                          .agree = hook_agree,
                          .sum = hook_sum,
                          .max = hook_max,
                          .join = hook_join,
                          .gather = hook_gather,
                          .hash = hook_hash,
                          .broadcast = hook_broadcast};
}

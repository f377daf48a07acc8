/* When collectives of the host's memory were called, began and ended: HELIX_COMM_TIMES=PREFIX writes a JSON line for each to
 * PREFIX.<rank>.jsonl, in seconds of the monotonic clock, which the ranks of one host share. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dist/comm/comm_impl.h"

double hx__times_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

hx_status hx__times_open(int rank, FILE **out) {
    const char *prefix = getenv("HELIX_COMM_TIMES");
    char path[4096];
    *out = NULL;
    if (prefix == NULL || prefix[0] == '\0') return HX_OK;
    const int n = snprintf(path, sizeof path, "%s.%d.jsonl", prefix, rank);
    if (n < 0 || (size_t)n >= sizeof path) return HX_FAIL(HX_ERR_CONFIG, "HELIX_COMM_TIMES: a path of %d bytes: expected fewer than %zu", n, sizeof path);
    *out = fopen(path, "we");
    if (*out == NULL) return HX_FAIL(HX_ERR_IO, "HELIX_COMM_TIMES: %s: %s", path, strerror(errno));
    return HX_OK;
}

void hx__times_write(FILE *file, const hx_comm *comm, const hx_comm_call *call, double called, double began) {
    fprintf(file, "{\"kind\":\"%s\",\"ranks\":%d,\"bytes\":%lld,\"called\":%.6f,\"began\":%.6f,\"ended\":%.6f}\n", hx__collective_name(call->kind),
            comm->size, (long long)hx__comm_call_bytes(comm, call), called, began, hx__times_now());
}

/* What the ranks tell one another while a file is written. A save may run on a thread beside the training, so nothing
 * here touches the communicator's engine, whose order of calls belongs to the main thread: these are calls of MPI on the
 * checkpoint's own duplicate. And nothing here spins: a thread that polls would steal the core that trains, so each call
 * is started without blocking and asked for now and then. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define WAIT_LEAST_NS 20000
#define WAIT_MOST_NS  2000000
#define HOST_BYTES    64

typedef struct notice {
    char host[HOST_BYTES], message[2048];
} notice;

static hx_status failed(const char *what, int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(code, text, &n);
    return HX_FAIL(HX_ERR_COMM, "%s among the ranks of a checkpoint failed: %s", what, text);
}

/* Wait for a call that was started with result `code`. */
static hx_status finish(const char *what, int code, MPI_Request *request) {
    int is_done = 0;
    if (code != MPI_SUCCESS) return failed(what, code);
    for (long wait_ns = WAIT_LEAST_NS;; wait_ns = wait_ns < WAIT_MOST_NS ? 2 * wait_ns : wait_ns) {
        if ((code = MPI_Test(request, &is_done, MPI_STATUS_IGNORE)) != MPI_SUCCESS) return failed(what, code);
        if (is_done) return HX_OK;
        nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
    }
}

static hx_status broadcast_from(const hx_ckpt *ckpt, int root, void *data, int64_t n_bytes) {
    MPI_Request request;
    int n;
    HX_TRY(hx_count_to_int(n_bytes, &n));
    return finish("a broadcast", MPI_Ibcast(data, n, MPI_BYTE, root, ckpt->mpi, &request), &request);
}

hx_status hx__together_agree(const hx_ckpt *ckpt, hx_status mine) {
    if (ckpt->mpi == MPI_COMM_NULL) return mine;
    int size = hx_comm_size(ckpt->comm), rank = hx_comm_rank(ckpt->comm), first = mine == HX_OK ? size : rank;
    notice n = {.host = ""}, own;
    MPI_Request request;
    snprintf(n.host, sizeof n.host, "%s", hx_comm_host(ckpt->comm));
    if (mine != HX_OK) snprintf(n.message, sizeof n.message, "%s", hx_error_message()[0] ? hx_error_message() : hx_status_text(mine));
    own = n; /* MPI may fail too, and then describes that */
    hx_status status = finish("an agreement", MPI_Iallreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, ckpt->mpi, &request), &request);
    if (status == HX_OK && first == size) return HX_OK;
    if (status == HX_OK) status = broadcast_from(ckpt, first, &n, sizeof n);
    if (mine != HX_OK) return hx_error_adopt(mine, own.message);
    HX_TRY(status);
    n.host[sizeof n.host - 1] = n.message[sizeof n.message - 1] = 0;
    return HX_FAIL(HX_ERR_REMOTE, "rank %d (%s) failed first: %s", first, n.host, n.message);
}

hx_status hx__together_broadcast(const hx_ckpt *ckpt, void *data, int64_t n_bytes) {
    return ckpt->mpi == MPI_COMM_NULL ? HX_OK : broadcast_from(ckpt, 0, data, n_bytes);
}

hx_status hx__together_equal(const hx_ckpt *ckpt, const char *what, int64_t value) {
    int64_t first = value;
    HX_TRY(hx__together_broadcast(ckpt, &first, sizeof first));
    hx_status status = HX_OK;
    if (value != first)
        status = HX_FAIL(HX_ERR_CONFIG, "%s is %lld here and %lld on rank 0: expected the same on all ranks", what, (long long)value,
                         (long long)first);
    return hx__together_agree(ckpt, status);
}

hx_status hx__together_sum(const hx_ckpt *ckpt, uint64_t *values, int64_t n) {
    if (ckpt->mpi == MPI_COMM_NULL) return HX_OK;
    MPI_Request request;
    int count;
    HX_TRY(hx_count_to_int(n, &count));
    return finish("a sum", MPI_Iallreduce(MPI_IN_PLACE, values, count, MPI_UINT64_T, MPI_SUM, ckpt->mpi, &request), &request);
}

/* counts [size] of all ranks' rows and where each rank's begin, for rank 0. */
static hx_status gather_counts(const hx_ckpt *ckpt, int mine, int *counts, int *begins) {
    MPI_Request request;
    HX_TRY(finish("a gather", MPI_Igather(&mine, 1, MPI_INT, counts, 1, MPI_INT, 0, ckpt->mpi, &request), &request));
    for (int rank = 1; begins && rank < hx_comm_size(ckpt->comm); rank++) begins[rank] = begins[rank - 1] + counts[rank - 1];
    return HX_OK;
}

static hx_status gather_rows(const hx_ckpt *ckpt, const void *rows, int n, size_t row_bytes, int *counts, int *begins, void *all) {
    MPI_Request request;
    MPI_Datatype row;
    HX_TRY(gather_counts(ckpt, n, counts, begins));
    int code = MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &row);
    if (code == MPI_SUCCESS) code = MPI_Type_commit(&row);
    if (code != MPI_SUCCESS) return failed("a datatype", code);
    hx_status status = finish("a gather", MPI_Igatherv(rows, n, row, all, counts, begins, row, 0, ckpt->mpi, &request), &request);
    MPI_Type_free(&row);
    return status;
}

hx_status hx__together_gather(const hx_ckpt *ckpt, const void *rows, int64_t n, size_t row_bytes, void *all) {
    if (ckpt->mpi == MPI_COMM_NULL) {
        if (n > 0) memcpy(all, rows, (size_t)n * row_bytes);
        return HX_OK;
    }
    bool is_root = hx_comm_rank(ckpt->comm) == 0;
    int count = 0, *counts = NULL;
    int64_t size = hx_comm_size(ckpt->comm);
    hx_status status = hx_count_to_int(n, &count);
    if (status == HX_OK && is_root) status = hx_mem_alloc_array(2 * size, sizeof *counts, (void **)&counts);
    status = hx__together_agree(ckpt, status);
    if (status == HX_OK) status = gather_rows(ckpt, rows, count, row_bytes, counts, is_root ? counts + size : NULL, all);
    hx_mem_free((void **)&counts);
    return status;
}

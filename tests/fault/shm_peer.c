/* A rank that dies in shared memory, without a launcher that would end the job: the others are told, and do not hang.
 * Ranks are processes that this program starts, which Criterion does not allow. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dist/comm/comm_impl.h"
#include "dist/comm/shm.h"

enum { SIZE = 3, COUNT = 100000 };
static const int numbers[SIZE] = {10, 11, 12};

static void no_progress(void *arg) { (void)arg; }

static hx_status sum(hx__shm *shm, float *x, int64_t sequence) {
    hx_comm_call call = {.kind = HX_COLL_ALL_REDUCE, .data = x, .count = COUNT, .dtype = HX_F32, .reduce = HX_SUM};
    hx__shm_begin(shm, hx__signature_of(&call, sequence), HX_COMM_MAX_ELEMS);
    return hx__shm_run(shm, &call);
}

/* Rank 2 is killed after a few sums. @return 0 if the rank has seen what it should */
static int be_rank(int rank, int creator, const hx_shared_place *place) {
    static float x[COUNT];
    hx__shm *shm;
    hx_status status = hx__shm_join(creator, place, rank, SIZE, numbers, no_progress, NULL, &shm);
    for (int64_t i = 0; status == HX_OK && i < 1000; i++) {
        if (rank == 2 && i == 5) raise(SIGKILL);
        status = sum(shm, x, i);
    }
    bool is_told = status == HX_ERR_COMM && strstr(hx_error_message(), "rank 12 ") && strstr(hx_error_message(), "has ended");
    if (!is_told) fprintf(stderr, "rank %d: status %d, %s\n", rank, (int)status, hx_error_message());
    return is_told ? 0 : 1;
}

int main(void) {
    hx_shared_place place;
    struct timespec start, end;
    int failed = 0, status;
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (hx__shm_create(SIZE, &place) != HX_OK) return 2;
    int creator = (int)getpid();
    pid_t children[2];
    for (int rank = 1; rank < SIZE; rank++) {
        children[rank - 1] = fork();
        if (children[rank - 1] == 0) _exit(be_rank(rank, creator, &place));
    }
    /* The dead one must be collected for its number to go: rank 0 is this process's child too. */
    pid_t first = fork();
    if (first == 0) _exit(be_rank(0, creator, &place));
    for (int i = 0; i < SIZE; i++) {
        pid_t ended = wait(&status);
        bool is_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        bool is_fine = ended == children[1] ? is_killed : WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!is_fine) failed = 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    printf("two ranks learnt of the third's death; %.3f s in all\n", seconds);
    return failed || seconds > 10;
}

/* helix bench: its verbs, and what their figures share. */
#include <stdlib.h>
#include <time.h>

#include "launch/bench_impl.h"

double hx__bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void hx__bench_sort(double *values, int64_t n) { qsort(values, (size_t)n, sizeof *values, by_value); }

const hx_command hx_bench_verbs[] = {
    {.name = "bench cpu", .summary = "training steps and single ops, beside what the cores and the memory can do", .run = hx__bench_cpu,
     .own = "|rounds|only|bf16|list|json|",
     .examples = "  helix bench cpu                                              every case on all cores, some minutes\n"
                 "  helix bench cpu --threads 1 --only gpt2                      one core, the cases with gpt2 in their name\n"
                 "  helix bench cpu --only mlp-784,gemm --rounds 15 --json       an object a line, for programs\n"
                 "\nFirst the limits: multiply-adds of the cores, bytes of the memory and of the largest cache. Then each case in a process of\n"
                 "its own: the median over --rounds samples, half the distance of their quartiles by the median (+-), floating point\n"
                 "operations and bytes a second (every operand once, what is updated twice), the share of the limit that binds (the\n"
                 "operations or the bytes, whichever takes longer), and of training tokens or steps a second and the most memory.\n"
                 "--threads is 1 to the cores that the process may run on, and all of them where it is left out. tests/bench/compare.sh\n"
                 "runs the same cases in PyTorch.\n"},
    {.name = "bench comm", .summary = "how fast the ranks exchange memory, beside plain MPI", .run = hx__bench_comm, .own = "|min|max|json|",
     .examples = "  mpirun -n 2 helix bench comm                                 4 KiB to 512 MiB, five collectives\n"
                 "  mpirun -n 2 helix bench comm --min 1Mi --max 64Mi --json     for programs\n"
                 "  HELIX_SHM=off mpirun -n 2 helix bench comm                   plain MPI against itself: the noise\n"},
    {.name = NULL},
};

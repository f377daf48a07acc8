/* The combinations of parallel training that tests/mpi/matrix.c runs: every one, or a few in which each two choices meet.
 *
 *     static matrix_case cases[MATRIX_MAX_CASES];
 *     int n = matrix_cases(is_full, cases);      // those of all world sizes: a program runs the ones of its own
 */
#ifndef HX_TESTS_MPI_MATRIX_H
#define HX_TESTS_MPI_MATRIX_H

#include "launch/compose.h"

#define MATRIX_MAX_CASES 512

/* One choice per row. */
typedef struct matrix_case {
    int dp, tp;
    int zero;      /* ddp.zero */
    int n_micro;   /* micro-batches of a rank's share */
    int dtype;     /* place in matrix_dtypes */
    bool sequence; /* mesh.sequence */
} matrix_case;

enum { MATRIX_N_DTYPES = 3 };
extern const char *const matrix_dtypes[MATRIX_N_DTYPES]; /* words of model.dtype */

/** All cases, or, of the world sizes 1, 2, 4 and 6, as few as a greedy choice finds that hold every pair of choices which some case
 *  holds (ZeRO on one rank left out). Stages of ddp.zero are those that the option allows, and mesh.sequence takes part if there
 *  is such an option.
 *  @return how many were written */
int matrix_cases(bool is_full, matrix_case out[MATRIX_MAX_CASES]);

#endif

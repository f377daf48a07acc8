/* What the environment of a launcher tells before MPI is initialised. The variables are input: a value that is not
 * a number in range counts as not set. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "dist/comm/comm_impl.h"

/* -1 if the variable is not set, or not a number from 0 to INT_MAX. */
static int env_int(const char *name) {
    const char *text = getenv(name);
    if (text == NULL || text[0] < '0' || text[0] > '9') return -1;
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || value > INT_MAX) return -1;
    return (int)value;
}

/* The first of names [up to a NULL] that is set to a number, else -1. */
static int first_int(const char *const *names) {
    for (; *names != NULL; names++) {
        int value = env_int(*names);
        if (value >= 0) return value;
    }
    return -1;
}

/* Open MPI; PMI of MPICH, Intel MPI and Slurm; PMIx; MVAPICH. */
static bool has_process_manager(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMI_FD", "PMIX_RANK",
                                        "PMIX_NAMESPACE",       "MV2_COMM_WORLD_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]) != NULL) return true;
    return false;
}

static int slurm_n_tasks(void) {
    static const char *const names[] = {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", NULL};
    return first_int(names);
}

/* A batch script has a task number too, although it is one process: only there a job has no step number. */
static bool is_slurm_task(void) {
    bool is_batch_script = getenv("SLURM_JOB_ID") != NULL && env_int("SLURM_STEP_ID") < 0;
    return env_int("SLURM_PROCID") >= 0 && !is_batch_script;
}

bool hx__launch_lacks_pmi(void) {
    return !has_process_manager() && is_slurm_task() && slurm_n_tasks() > 1;
}

bool hx_comm_was_launched(void) {
    /* Without PMI too: opening MPI then explains what is wrong, where silence would train n separate models. */
    return has_process_manager() || hx__launch_lacks_pmi();
}

int hx__launch_size(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", NULL};
    int size = first_int(names);
    if (size < 0 && is_slurm_task()) size = slurm_n_tasks();
    return size < 0 ? 0 : size;
}

/* Entry `node` of Slurm's list of tasks per node, e.g. "4(x2),3" is 4, 4, 3; -1 if there is none. */
static int tasks_of_node(const char *list, int node) {
    while (*list >= '0' && *list <= '9') {
        char *end;
        errno = 0;
        long n_tasks = strtol(list, &end, 10), repeat = 1;
        if (strncmp(end, "(x", 2) == 0) {
            if (end[2] < '0' || end[2] > '9') return -1;
            repeat = strtol(end + 2, &end, 10);
            if (*end++ != ')') return -1;
        }
        if (errno != 0 || n_tasks > INT_MAX || repeat > INT_MAX) return -1;
        if (node < repeat) return (int)n_tasks;
        node -= (int)repeat;
        if (*end != ',') return -1;
        list = end + 1;
    }
    return -1;
}

static int slurm_local_size(void) {
    const char *list = getenv("SLURM_STEP_TASKS_PER_NODE");
    int node = env_int("SLURM_NODEID");
    if (list == NULL) list = getenv("SLURM_TASKS_PER_NODE");
    return list == NULL || node < 0 ? -1 : tasks_of_node(list, node);
}

void hx_comm_local(int *local_rank, int *local_size) {
    static const char *const ranks[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK",
                                        NULL};
    static const char *const sizes[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE",
                                        NULL};
    int rank = first_int(ranks), size = first_int(sizes);
    /* mpirun inside a job sees Slurm's variables of the script: they count only for tasks of srun. */
    if ((rank < 0 || size < 0) && is_slurm_task()) {
        rank = env_int("SLURM_LOCALID");
        size = slurm_local_size();
    }
    if (rank < 0 || size < 1 || rank >= size) {
        rank = 0;
        size = 1;
    }
    *local_rank = rank;
    *local_size = size;
}

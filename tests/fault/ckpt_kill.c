/* Kills a save at each of its system calls that change a file or the folder, and looks at what is left: the
 * checkpoint before, or the new one, whole; and the next save works. (What users of other trainers lose, number 11: a crash while saving
 * destroys the only checkpoint, lightning#19970.)
 *
 *     ckpt_kill matrix NP STRIDE [LAUNCHER...]     the test; LAUNCHER starts NP ranks, e.g. mpirun -n 2
 *     ckpt_kill save FOLDER STEP VICTIM CALL       one save, in which rank VICTIM dies at its CALL-th call (0: none)
 *     ckpt_kill check FOLDER                       loads the latest; the exit code is its step, 99 if it is not whole
 */
#define _GNU_SOURCE
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/ckpt/ckpt.h"

/* ---- system calls, counted: these stand in for libc's, also for those made by HDF5 and MPI-IO ---- */

static int calls_left = -1;

static void count_call(void) {
    if (calls_left > 0 && --calls_left == 0) kill(getpid(), SIGKILL);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    count_call();
    return syscall(SYS_pwrite64, fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return pwrite(fd, data, n, at); }
int fsync(int fd) {
    count_call();
    return (int)syscall(SYS_fsync, fd);
}
int ftruncate(int fd, off_t n) {
    count_call();
    return (int)syscall(SYS_ftruncate, fd, n);
}
int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }
int rename(const char *from, const char *to) {
    count_call();
    return (int)syscall(SYS_rename, from, to);
}
int symlink(const char *target, const char *path) {
    count_call();
    return (int)syscall(SYS_symlink, target, path);
}
int mkdir(const char *path, mode_t mode) {
    count_call();
    return (int)syscall(SYS_mkdir, path, mode);
}
int rmdir(const char *path) {
    count_call();
    return (int)syscall(SYS_rmdir, path);
}
int unlink(const char *path) {
    count_call();
    return (int)syscall(SYS_unlink, path);
}

/* ---- ranks ---- */

enum { ROWS = 101, COLUMNS = 70, NOT_WHOLE = 99 };

typedef struct shard {
    hx_layout layout;
    float data[ROWS * COLUMNS];
    hx_state_item item;
} shard;

static hx_status shard_create(const hx_comm *comm, shard *s) {
    int64_t begin = ROWS * hx_comm_rank(comm) / hx_comm_size(comm);
    int64_t end = ROWS * (hx_comm_rank(comm) + 1) / hx_comm_size(comm);
    s->item = (hx_state_item){.name = "/model/w", .dtype = HX_F32, .layout = &s->layout, .data = s->data, .n_replicas = 1};
    return hx_layout_slice(&HX_SHAPE(ROWS, COLUMNS), 0, begin, end - begin, &s->layout);
}

static hx_status save(hx_comm *comm, const char *folder, int64_t step, int victim, int call) {
    static shard s;
    static const hx_ckpt_config config = {.every = 1, .keep = 1};
    hx_state_list items = {.items = &s.item, .n_items = 1};
    hx_ckpt *ckpt;
    HX_TRY(shard_create(comm, &s));
    for (int i = 0; i < ROWS * COLUMNS; i++) s.data[i] = (float)step;
    HX_TRY(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    if (call > 0 && hx_comm_rank(comm) == victim) calls_left = call;
    hx_status status = hx_ckpt_save(ckpt, &(hx_train_state){.step = step}, &items, true);
    calls_left = -1;
    hx_ckpt_close(&ckpt);
    hx_layout_destroy(&s.layout);
    return status;
}

static hx_status check(hx_comm *comm, const char *folder, int *step) {
    static shard s;
    hx_state_list items = {.items = &s.item, .n_items = 1};
    hx_train_state state;
    HX_TRY(shard_create(comm, &s));
    HX_TRY(hx_ckpt_load(comm, folder, &items, &state));
    *step = (int)state.step;
    for (int i = 0; i < ROWS * COLUMNS; i++)
        if (s.data[i] != (float)state.step) *step = NOT_WHOLE;
    hx_layout_destroy(&s.layout);
    return HX_OK;
}

static int rank_main(int argc, char **argv) {
    hx_comm *comm;
    int step = NOT_WHOLE;
    hx_status status = hx_comm_was_launched() ? hx_comm_mpi_open(&comm) : hx_comm_self_open(&comm);
    if (status == HX_OK) {
        if (argc == 6)
            status = save(comm, argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
        else
            status = check(comm, argv[2], &step);
        if (status != HX_OK) fprintf(stderr, "%s\n%s", hx_error_message(), hx_error_trace());
        hx_comm_close(&comm);
    }
    if (argc == 6) return status == HX_OK ? 0 : 1;
    return status == HX_OK ? step : NOT_WHOLE;
}

/* ---- the matrix ---- */

static char program[1024], launcher[4096], folder[256];

static int run(const char *launch, const char *format, int step, int victim, int call) {
    char arguments[512], command[8192];
    snprintf(arguments, sizeof arguments, format, folder, step, victim, call);
    snprintf(command, sizeof command, "%s '%s' %s >/dev/null 2>&1", launch, program, arguments);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

/* One kill. @return 1 if it hit, 0 if the save ended before, -1 if something was lost */
static int kill_at(int victim, int call) {
    snprintf(folder, sizeof folder, "%.200s/helix-kill-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(folder)) return -1;
    int first = run("", "save %s %d %d %d", 1, 0, 0);
    int killed = run(launcher, "save %s %d %d %d", 2, victim, call);
    int found = run("", "check %s", 0, 0, 0);
    int next = run("", "save %s %d %d %d", 3, 0, 0), after = run("", "check %s", 0, 0, 0);
    char command[512];
    snprintf(command, sizeof command, "find '%s' -name '*.tmp' | grep -q .", folder);
    bool is_clean = system(command) != 0;
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    bool is_whole = first == 0 && (found == 2 || (found == 1 && killed != 0)) && next == 0 && after == 3 && is_clean;
    if (!is_whole)
        printf("rank %d killed at call %d: exit codes %d %d, found %d, then %d %d, clean %d\n", victim, call, first,
               killed, found, next, after, is_clean);
    return is_whole ? killed != 0 : -1;
}

static int matrix(int np, int stride) {
    for (int victim = 0; victim < np; victim++) {
        int hit = 1, n_hits = 0;
        for (int call = 1; hit > 0; call += stride) {
            hit = kill_at(victim, call);
            n_hits += hit > 0;
        }
        if (hit < 0) return 1;
        printf("rank %d of %d: %d kills, nothing lost\n", victim, np, n_hits);
        if (victim == 0 && n_hits < 3) return printf("too few system calls were seen\n"), 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc >= 4 && strcmp(argv[1], "matrix") == 0) {
        ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
        if (n <= 0) return 1;
        for (int i = 4; i < argc; i++) {
            strncat(launcher, argv[i], sizeof launcher - strlen(launcher) - 2);
            strcat(launcher, " ");
        }
        return matrix(atoi(argv[2]), atoi(argv[3]));
    }
    if ((argc == 6 && strcmp(argv[1], "save") == 0) || (argc == 3 && strcmp(argv[1], "check") == 0))
        return rank_main(argc, argv);
    fprintf(stderr, "usage: ckpt_kill matrix NP STRIDE [LAUNCHER...]\n");
    return 2;
}

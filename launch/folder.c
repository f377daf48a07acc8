#include "launch/session_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/fs.h"

#define LOCK_TRIES 30 /* of 0.1 s */

hx_status hx__path_join(const char *folder, const char *name, char out[HX_PATH_BYTES]) {
    int n = snprintf(out, HX_PATH_BYTES, "%s/%s", folder, name);
    if (n < 0 || n >= HX_PATH_BYTES)
        return HX_FAIL(HX_ERR_CONFIG, "out: the path %.64s.../%s has %d bytes, at most %d fit", folder, name, n, HX_PATH_BYTES - 1);
    return HX_OK;
}

static hx_status make_folders(const char *path) {
    HX_TRY(hx__fs_mkdirs(path));
    if (access(path, W_OK | X_OK) != 0) return HX_FAIL(HX_ERR_IO, "out: folder %s: %s", path, strerror(errno));
    return HX_OK;
}

/* Of any generation, whole or not: none of them is to be written over. */
static hx_status has_checkpoint_files(const char *folder, bool *out) {
    hx_ckpt_files files = {0};
    *out = false;
    if (access(folder, F_OK) != 0) return HX_OK;
    HX_TRY(hx_ckpt_list(folder, &files));
    *out = files.n > 0;
    hx_ckpt_files_destroy(&files);
    return HX_OK;
}

/* Never in place: a run that is killed here keeps the file it had. */
hx_status hx__folder_write_config(const hx_run_config *run, const char *text) {
    char path[HX_PATH_BYTES];
    HX_TRY(hx__path_join(run->out, "config.yaml", path));
    return hx__fs_replace_text(path, text, strlen(text));
}

/* A run's folder stands for the checkpoints in it. */
hx_status hx__find_checkpoint(const char *path, char file[HX_PATH_BYTES]) {
    char folder[HX_PATH_BYTES];
    struct stat st;
    HX_TRY(hx__path_join(path, "ckpt", folder));
    bool is_run = stat(folder, &st) == 0 && S_ISDIR(st.st_mode);
    return hx_ckpt_resolve(is_run ? folder : path, file);
}

/* Two runs in one folder would remove each other's checkpoints. The system releases the lock with the process, however
 * that ends; where a file system knows no locks the run goes on without. Ranks whose mpirun was killed need a moment
 * to notice, hence the patience. */
static hx_status take_lock(const char *folder, int *lock) {
    char path[HX_PATH_BYTES];
    HX_TRY(hx__path_join(folder, ".lock", path));
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0) return HX_FAIL(HX_ERR_IO, "%s: %s", path, strerror(errno));
    int error = 0;
    for (int tries = 0; tries <= LOCK_TRIES; tries++) {
        if (tries > 0) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        error = flock(*lock, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
        if (error != EWOULDBLOCK && error != EINTR) return HX_OK;
    }
    return HX_FAIL(HX_ERR_CONFIG, "out: another run is working in %s: wait for its end, or choose another folder with --out", folder);
}

hx_status hx__folder_prepare(const hx_run_config *run, int *lock, hx_resume *resume) {
    char ckpt[HX_PATH_BYTES];
    hx_resume result = {0};
    HX_TRY(make_folders(run->out));
    HX_TRY(take_lock(run->out, lock));
    HX_TRY(hx__path_join(run->out, "ckpt", ckpt));
    HX_TRY(has_checkpoint_files(ckpt, &result.is_found));
    if (result.is_found) {
        if (!run->resume)
            return HX_FAIL(HX_ERR_CONFIG, "out: %s already holds checkpoints: go on from them with --resume, or choose another folder with --out",
                           run->out);
        HX_TRY(hx_ckpt_resolve(ckpt, result.file));
    }
    *resume = result;
    return HX_OK;
}

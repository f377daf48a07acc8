/* The folder of a run's checkpoints.
 *
 *   step-00000020.h5        sealed files          .step-00000040.h5.tmp   being written, or left by a kill
 *   latest -> step-...      what a resume reads   best -> step-...        lowest evaluation loss
 *
 * Names change by rename alone, so that a reader, or a process that starts after a kill, finds the state before
 * or the state after. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/base/log.h"
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define NAME_BYTES  64
#define CONFIG_MOST 60000 /* bytes: an attribute holds 64 KiB */

#define HX_OPTION_OWNER hx_ckpt_config
const hx_option hx_ckpt_options[] = HX_OPTIONS_TABLE(HX_CKPT_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_ckpt_n_options = sizeof hx_ckpt_options / sizeof *hx_ckpt_options;

/* ---- names ---- */

static void step_name(int64_t step, char name[NAME_BYTES]) {
    snprintf(name, NAME_BYTES, "step-%08lld.h5", (long long)step);
}

/* The step of a checkpoint's name, or -1 if it is none: exactly what step_name writes. */
static int64_t name_step(const char *name) {
    char *end, again[NAME_BYTES];
    if (strncmp(name, "step-", 5) != 0) return -1;
    errno = 0;
    long long step = strtoll(name + 5, &end, 10);
    if (errno || step < 0) return -1;
    step_name(step, again);
    return strcmp(again, name) == 0 ? step : -1;
}

static hx_status join(const char *folder, const char *name, char path[HX_PATH_BYTES]) {
    int n = snprintf(path, HX_PATH_BYTES, "%s/%s", folder, name);
    return n < HX_PATH_BYTES ? HX_OK : HX_FAIL(HX_ERR_IO, "path %.64s.../%s is too long", folder, name);
}

/* ---- listing ---- */

typedef struct listing {
    int64_t *steps; /* [n] descending; owned */
    int64_t n, capacity;
} listing;

static void listing_free(listing *l) { hx_mem_free((void **)&l->steps); }
static void folder_close(DIR **dir) {
    if (*dir) closedir(*dir);
}

static int compare_steps(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static hx_status list_steps(const char *folder, listing *l) {
    HX_CLEANUP(folder_close) DIR *dir = opendir(folder);
    if (!dir) return HX_FAIL(HX_ERR_IO, "checkpoint folder %s: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        int64_t step = name_step(e->d_name);
        if (step < 0) continue;
        HX_TRY(hx_mem_grow((void **)&l->steps, &l->capacity, l->n + 1, sizeof *l->steps));
        l->steps[l->n++] = step;
    }
    if (l->n > 1) qsort(l->steps, (size_t)l->n, sizeof *l->steps, compare_steps);
    return HX_OK;
}

/* The step that a link in the folder points to, -1 if there is no such link. */
static int64_t link_step(const char *folder, const char *link) {
    char path[HX_PATH_BYTES], target[NAME_BYTES];
    if (join(folder, link, path) != HX_OK) return -1;
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0) return -1;
    target[n] = 0;
    return name_step(target);
}

static hx_status complete(const char *folder, int64_t step, char file[HX_PATH_BYTES]) {
    char name[NAME_BYTES];
    int format;
    step_name(step, name);
    HX_TRY(join(folder, name, file));
    return hx__seal_check(file, false, &format);
}

hx_status hx_ckpt_resolve(const char *path, char file[HX_PATH_BYTES]) {
    struct stat st;
    char found[HX_PATH_BYTES], reason[512] = "";
    HX_CLEANUP(listing_free) listing l = {0};
    if (stat(path, &st) != 0) return HX_FAIL(HX_ERR_IO, "checkpoint %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        if (strlen(path) >= HX_PATH_BYTES) return HX_FAIL(HX_ERR_IO, "path %.64s... is too long", path);
        strcpy(file, path);
        return HX_OK;
    }
    int64_t latest = link_step(path, "latest");
    if (latest >= 0 && complete(path, latest, found) == HX_OK) {
        strcpy(file, found);
        return HX_OK;
    }
    HX_TRY(list_steps(path, &l));
    for (int64_t i = 0; i < l.n; i++) {
        if (complete(path, l.steps[i], found) == HX_OK) {
            strcpy(file, found);
            return HX_OK;
        }
        if (!reason[0]) snprintf(reason, sizeof reason, "; the newest: %s", hx_error_message());
    }
    return HX_FAIL(HX_ERR_IO, "%s holds no complete checkpoint: looked for `latest` and for step-*.h5, of which "
                   "there are %lld%s", path, (long long)l.n, reason);
}

/* ---- changing the folder (rank 0) ---- */

static hx_status sync_folder(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some network file systems cannot sync a folder; there rename is durable by itself. */
    bool failed = fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != EROFS);
    int error = errno;
    if (fd >= 0) close(fd);
    return failed ? HX_FAIL(HX_ERR_IO, "fsync of folder %s: %s", folder, strerror(error)) : HX_OK;
}

static hx_status point(const char *folder, const char *link, const char *target) {
    char path[HX_PATH_BYTES], temporary[HX_PATH_BYTES], name[NAME_BYTES];
    snprintf(name, sizeof name, ".%s.tmp", link);
    HX_TRY(join(folder, link, path));
    HX_TRY(join(folder, name, temporary));
    unlink(temporary);
    if (symlink(target, temporary) != 0 || rename(temporary, path) != 0)
        return HX_FAIL(HX_ERR_IO, "pointing %s to %s: %s", path, target, strerror(errno));
    return HX_OK;
}

/* A failure to remove costs space, not safety: it is logged. */
static void remove_step(const char *folder, int64_t step) {
    char name[NAME_BYTES], path[HX_PATH_BYTES];
    step_name(step, name);
    if (join(folder, name, path) != HX_OK || unlink(path) != 0)
        HX_LOG(HX_LOG_WARN, "%s/%s could not be removed: %s", folder, name, strerror(errno));
}

/* Remove what is beyond the last `keep` saves, the best one aside. Steps above the latest belong to a branch
 * that a resume from an older checkpoint has left: they count as older than all others. */
static void retire(const char *folder, int64_t keep) {
    HX_CLEANUP(listing_free) listing l = {0};
    int64_t latest = link_step(folder, "latest"), best = link_step(folder, "best"), kept = 0;
    if (list_steps(folder, &l) != HX_OK) {
        HX_LOG(HX_LOG_WARN, "%s", hx_error_message());
        return;
    }
    for (int left_branch = 0; left_branch < 2; left_branch++)
        for (int64_t i = 0; i < l.n; i++)
            if (l.steps[i] != best && (l.steps[i] > latest) == left_branch && kept++ >= keep)
                remove_step(folder, l.steps[i]);
}

static hx_status publish(const hx_ckpt *ckpt, const char *temporary, const char *name, bool is_best) {
    char path[HX_PATH_BYTES];
    HX_TRY(join(ckpt->folder, name, path));
    if (rename(temporary, path) != 0) {
        int error = errno;
        unlink(temporary);
        return HX_FAIL(HX_ERR_IO, "renaming %s to %s: %s", temporary, name, strerror(error));
    }
    HX_TRY(sync_folder(ckpt->folder));
    if (is_best) HX_TRY(point(ckpt->folder, "best", name));
    HX_TRY(point(ckpt->folder, "latest", name));
    HX_TRY(sync_folder(ckpt->folder));
    retire(ckpt->folder, ckpt->keep);
    return HX_OK;
}

static hx_status make_folders(const char *folder) {
    char path[HX_PATH_BYTES];
    size_t n = strlen(folder);
    if (n == 0 || n >= sizeof path - NAME_BYTES)
        return HX_FAIL(HX_ERR_IO, "folder name of %zu bytes: expected 1 to %zu", n, sizeof path - NAME_BYTES - 1);
    for (size_t i = 1; i <= n; i++) {
        if (folder[i] != '/' && folder[i] != 0) continue;
        memcpy(path, folder, i);
        path[i] = 0;
        struct stat st;
        if (mkdir(path, 0777) == 0) continue;
        int error = errno;
        if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
            return HX_FAIL(HX_ERR_IO, "creating folder %s: %s: %s", folder, path, strerror(error));
    }
    return HX_OK;
}

/* What a killed save leaves: .step-*.h5.tmp, .latest.tmp, .best.tmp */
static bool is_leftover(const char *name) {
    size_t n = strlen(name);
    char inner[NAME_BYTES];
    if (n < 6 || n - 5 >= sizeof inner || name[0] != '.' || strcmp(name + n - 4, ".tmp") != 0) return false;
    memcpy(inner, name + 1, n - 5);
    inner[n - 5] = 0;
    return name_step(inner) >= 0 || strcmp(inner, "latest") == 0 || strcmp(inner, "best") == 0;
}

static hx_status prepare_folder(const char *folder) {
    HX_TRY(make_folders(folder));
    HX_CLEANUP(folder_close) DIR *dir = opendir(folder);
    if (!dir) return HX_FAIL(HX_ERR_IO, "checkpoint folder %s: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));)
        if (is_leftover(e->d_name) && unlinkat(dirfd(dir), e->d_name, 0) != 0)
            return HX_FAIL(HX_ERR_IO, "removing %s/%s, left by a killed save: %s", folder, e->d_name, strerror(errno));
    return HX_OK;
}

/* ---- the manager ---- */

static hx_status take_mpi(hx_ckpt *ckpt) {
    MPI_Comm *mpi = hx_comm_mpi_handle(ckpt->comm);
    if (!mpi) {
        if (hx_comm_size(ckpt->comm) > 1)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "communicator %s of %d ranks has no MPI handle, which checkpoints need",
                           hx_comm_name(ckpt->comm), hx_comm_size(ckpt->comm));
        return HX_OK;
    }
    HX_TRY(hx_comm_sync(ckpt->comm));
    if (MPI_Comm_dup(*mpi, &ckpt->mpi) != MPI_SUCCESS) return HX_FAIL(HX_ERR_COMM, "MPI_Comm_dup failed");
    MPI_Comm_set_errhandler(ckpt->mpi, MPI_ERRORS_RETURN);
    return HX_OK;
}

static hx_status manager_init(hx_ckpt *ckpt, const char *folder, const hx_ckpt_config *config, const char *text) {
    if (!folder || !config || !text) return HX_FAIL(HX_ERR_ARG, "folder, config and config_text must be given");
    if (config->keep < 1) return HX_FAIL(HX_ERR_CONFIG, "keep = %lld: expected >= 1", (long long)config->keep);
    if (strlen(text) > CONFIG_MOST)
        return HX_FAIL(HX_ERR_ARG, "configuration text of %zu bytes: expected up to %d", strlen(text), CONFIG_MOST);
    ckpt->keep = config->keep;
    HX_TRY(hx_mem_strdup(folder, &ckpt->folder));
    HX_TRY(hx_mem_strdup(text, &ckpt->config));
    return hx_comm_rank(ckpt->comm) == 0 ? prepare_folder(folder) : HX_OK;
}

hx_status hx_ckpt_open(hx_comm *comm, const char *folder, const hx_ckpt_config *config, const char *config_text,
                       hx_ckpt **out) {
    HX_CLEANUP(hx_ckpt_close) hx_ckpt *ckpt = NULL;
    hx_status status = hx_mem_alloc_array(1, sizeof *ckpt, (void **)&ckpt);
    if (status == HX_OK) {
        *ckpt = (hx_ckpt){.comm = comm, .mpi = MPI_COMM_NULL};
        status = manager_init(ckpt, folder, config, config_text);
    }
    HX_TRY(hx_comm_agree(comm, status));
    HX_TRY(hx_comm_agree(comm, take_mpi(ckpt)));
    *out = ckpt;
    ckpt = NULL; /* handed on */
    return HX_OK;
}

void hx_ckpt_close(hx_ckpt **ckpt) {
    if (!ckpt || !*ckpt) return;
    if ((*ckpt)->mpi != MPI_COMM_NULL) MPI_Comm_free(&(*ckpt)->mpi);
    hx_mem_free((void **)&(*ckpt)->folder);
    hx_mem_free((void **)&(*ckpt)->config);
    hx_mem_free((void **)&(*ckpt)->kernels);
    hx_mem_free((void **)ckpt);
}

hx_status hx_ckpt_set_kernels(hx_ckpt *ckpt, const char *kernels) {
    const size_t most = sizeof((hx_ckpt_info *)NULL)->kernels - 1;
    if (strlen(kernels) > most) return HX_FAIL(HX_ERR_ARG, "kernels of %zu bytes: expected up to %zu", strlen(kernels), most);
    hx_mem_free((void **)&ckpt->kernels);
    return hx_mem_strdup(kernels, &ckpt->kernels);
}

hx_status hx_ckpt_save(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best) {
    char name[NAME_BYTES], hidden[NAME_BYTES + 8], temporary[HX_PATH_BYTES];
    HX_TRY(hx_comm_sync(ckpt->comm));
    HX_TRY(hx_comm_agree(ckpt->comm, state->step >= 0 ? HX_OK : HX_FAIL(HX_ERR_ARG, "step %lld: expected >= 0",
                                                                         (long long)state->step)));
    step_name(state->step, name);
    snprintf(hidden, sizeof hidden, ".%s.tmp", name);
    HX_TRY(join(ckpt->folder, hidden, temporary));
    HX_TRY(hx__ckpt_write(ckpt, temporary, state, items));
    bool is_root = hx_comm_rank(ckpt->comm) == 0;
    return hx_comm_agree(ckpt->comm, is_root ? publish(ckpt, temporary, name, is_best) : HX_OK);
}

static hx_status hook_save(void *self, const hx_train_state *state, const hx_state_list *items, bool is_best) {
    return hx_ckpt_save(self, state, items, is_best);
}

void hx_ckpt_hook(hx_ckpt *ckpt, hx_checkpoint_hook *out) {
    *out = (hx_checkpoint_hook){.self = ckpt, .save = hook_save};
}

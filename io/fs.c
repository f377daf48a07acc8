#define _GNU_SOURCE
#include "io/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- calls that tests count, log and cut off ---- */

/* What the environment asks for; read once, since a test that changes it starts a process of its own. */
static struct {
    int log_fd; /* -1: none */
    int64_t kill_at, fail_at; /* 0: never */
    int fail_errno;
    bool is_on;
    atomic_llong n_calls;
} trial = {.log_fd = -1};
static pthread_once_t trial_once = PTHREAD_ONCE_INIT;

static int errno_named(const char *name) {
    static const struct { const char *name; int value; } known[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EDQUOT", EDQUOT}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) return known[i].value;
    return EIO;
}

static void trial_init(void) {
    const char *log = getenv("HELIX_TEST_IO_LOG"), *kill_at = getenv("HELIX_TEST_IO_KILL"), *fail = getenv("HELIX_TEST_IO_FAIL");
    if (log && log[0]) trial.log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (kill_at) trial.kill_at = strtoll(kill_at, NULL, 10);
    if (fail) {
        const char *colon = strchr(fail, ':');
        trial.fail_at = strtoll(fail, NULL, 10);
        trial.fail_errno = errno_named(colon ? colon + 1 : "EIO");
    }
    trial.is_on = trial.log_fd >= 0 || trial.kill_at > 0 || trial.fail_at > 0;
}

typedef enum verdict { GO_ON, FAIL, DIE } verdict;

/* A change of the disk is about to be made: count it and say what becomes of it. FAIL sets errno. */
static verdict begin(const char *what, const char *path, size_t n_bytes) {
    pthread_once(&trial_once, trial_init);
    if (HX_LIKELY(!trial.is_on)) return GO_ON;
    long long call = atomic_fetch_add(&trial.n_calls, 1) + 1;
    if (trial.log_fd >= 0) {
        char line[PATH_MAX + 128];
        int n = snprintf(line, sizeof line, "%lld %ld %s %s %zu\n", call, (long)getpid(), what, path, n_bytes);
        if (n >= (int)sizeof line) n = (int)sizeof line - 1;
        ssize_t written = write(trial.log_fd, line, (size_t)n);
        (void)written; /* a log that cannot be written is noticed by the test that reads it */
    }
    errno = trial.fail_errno;
    return call == trial.kill_at ? DIE : call == trial.fail_at ? FAIL : GO_ON;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* begin() for a call that is made whole or not at all. */
static bool may(const char *what, const char *path) {
    verdict v = begin(what, path, 0);
    if (v == DIE) die();
    return v == GO_ON;
}

/* ---- bytes ---- */

static int write_all(int fd, const char *data, size_t n_bytes, off_t offset) {
    while (n_bytes > 0) {
        ssize_t n = pwrite(fd, data, n_bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        data += n;
        offset += n;
        n_bytes -= (size_t)n;
    }
    return 0;
}

hx_status hx__fs_write(int fd, const char *path, const void *data, size_t n_bytes, int64_t offset) {
    verdict v = begin("write", path, n_bytes);
    if (v == DIE) {
        (void)write_all(fd, data, n_bytes / 2, offset);
        die();
    }
    if (v == FAIL || write_all(fd, data, n_bytes, offset) != 0)
        return HX_FAIL(HX_ERR_IO, "writing %zu bytes at byte %lld of %s: %s", n_bytes, (long long)offset, path, strerror(errno));
    return HX_OK;
}

hx_status hx__fs_read(int fd, const char *path, void *data, size_t n_bytes, int64_t offset) {
    char *p = data;
    while (n_bytes > 0) {
        ssize_t n = pread(fd, p, n_bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return HX_FAIL(HX_ERR_IO, "reading %zu bytes at byte %lld of %s: %s", n_bytes, (long long)offset, path, strerror(errno));
        if (n == 0)
            return HX_FAIL(HX_ERR_FORMAT, "%s ends at byte %lld, where %zu more were expected", path, (long long)offset, n_bytes);
        p += n;
        offset += n;
        n_bytes -= (size_t)n;
    }
    return HX_OK;
}

hx_status hx__fs_sync(int fd, const char *path) {
    if (!may("fsync", path) || fsync(fd) != 0) return HX_FAIL(HX_ERR_IO, "fsync of %s: %s", path, strerror(errno));
    return HX_OK;
}

/* ---- whole files ---- */

void hx__fs_close(int *fd) {
    if (*fd >= 0) close(*fd);
}

hx_status hx__fs_map(const char *path, const void **data, int64_t *n_bytes) {
    struct stat st;
    HX_AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return HX_FAIL(HX_ERR_IO, "%s is not a regular file", path);
    void *p = st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (p == MAP_FAILED) return HX_FAIL(HX_ERR_IO, "mapping %s: %s", path, strerror(errno));
    *data = p;
    *n_bytes = st.st_size;
    return HX_OK;
}

void hx__fs_unmap(const void *data, int64_t n_bytes) {
    if (data) munmap((void *)(uintptr_t)data, (size_t)n_bytes);
}

/* ".<name>.tmp" beside it, which a kill may leave behind. */
static hx_status temporary_name(const char *path, char out[PATH_MAX]) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int n = snprintf(out, PATH_MAX, "%.*s.%s.tmp", (int)(name - path), path, name);
    return n >= 0 && n < PATH_MAX ? HX_OK : HX_FAIL(HX_ERR_IO, "path %.64s... is too long", path);
}

static hx_status fill_file(const char *path, hx__fs_fill fill, void *arg) {
    HX_AUTO_FD fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "creating %s: %s", path, strerror(errno));
    HX_TRY(fill(arg, fd, path));
    return hx__fs_sync(fd, path);
}

hx_status hx__fs_replace(const char *path, hx__fs_fill fill, void *arg) {
    char temporary[PATH_MAX];
    HX_TRY(temporary_name(path, temporary));
    hx_status status = fill_file(temporary, fill, arg);
    if (status == HX_OK) status = hx__fs_rename(temporary, path);
    if (status != HX_OK) unlink(temporary); /* the failure that is told is the first one */
    return status;
}

typedef struct text {
    const char *bytes;
    size_t n;
} text;

static hx_status fill_text(void *arg, int fd, const char *path) {
    const text *t = arg;
    return hx__fs_write(fd, path, t->bytes, t->n, 0);
}

hx_status hx__fs_replace_text(const char *path, const char *bytes, size_t n_bytes) {
    return hx__fs_replace(path, fill_text, &(text){bytes, n_bytes});
}

/* ---- names ---- */

hx_status hx__fs_sync_folder(const char *folder) {
    HX_AUTO_FD fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || !may("fsync", folder) || (fsync(fd) != 0 && errno != EINVAL && errno != EROFS))
        return HX_FAIL(HX_ERR_IO, "fsync of folder %s: %s", folder, strerror(errno));
    return HX_OK;
}

hx_status hx__fs_sync_above(const char *path) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash) return hx__fs_sync_folder(".");
    snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return hx__fs_sync_folder(folder);
}

hx_status hx__fs_rename(const char *from, const char *to) {
    if (!may("rename", to) || rename(from, to) != 0)
        return HX_FAIL(HX_ERR_IO, "renaming %s to %s: %s", from, to, strerror(errno));
    return HX_OK;
}

hx_status hx__fs_point(const char *link, const char *target) {
    char temporary[PATH_MAX];
    HX_TRY(temporary_name(link, temporary));
    HX_TRY(hx__fs_unlink(temporary));
    if (!may("symlink", temporary) || symlink(target, temporary) != 0)
        return HX_FAIL(HX_ERR_IO, "making %s point to %s: %s", temporary, target, strerror(errno));
    return hx__fs_rename(temporary, link);
}

hx_status hx__fs_unlink(const char *path) {
    if (!may("unlink", path) || (unlink(path) != 0 && errno != ENOENT))
        return HX_FAIL(HX_ERR_IO, "removing %s: %s", path, strerror(errno));
    return HX_OK;
}

hx_status hx__fs_rmdir(const char *path) {
    if (!may("rmdir", path) || (rmdir(path) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST))
        return HX_FAIL(HX_ERR_IO, "removing folder %s: %s", path, strerror(errno));
    return HX_OK;
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

hx_status hx__fs_mkdir(const char *path, bool *was_there) {
    bool is_made = may("mkdir", path) && mkdir(path, 0777) == 0;
    int error = errno;
    if (!is_made && error == EEXIST && !is_folder(path))
        return HX_FAIL(HX_ERR_IO, "creating folder %s: %s, and is not a folder", path, strerror(error));
    if (!is_made && error != EEXIST)
        return HX_FAIL(HX_ERR_IO, "creating folder %s: %s", path, strerror(error));
    if (was_there) *was_there = !is_made;
    return HX_OK;
}

/* Folders that exist are looked for first: mkdir on a file system that is mounted read-only further up fails otherwise
 * than with EEXIST. */
hx_status hx__fs_mkdirs(const char *path) {
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part) return HX_FAIL(HX_ERR_IO, "folder name of %zu bytes: expected 1 to %zu", n, sizeof part - 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (!is_folder(part)) HX_TRY(hx__fs_mkdir(part, NULL));
    }
    return HX_OK;
}

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

/* ---- names ---- */

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
}

hx_status hx__fs_sync_folder(const char *folder) {
    HX_CLEANUP(close_fd) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || !may("fsync", folder) || (fsync(fd) != 0 && errno != EINVAL && errno != EROFS))
        return HX_FAIL(HX_ERR_IO, "fsync of folder %s: %s", folder, strerror(errno));
    return HX_OK;
}

hx_status hx__fs_rename(const char *from, const char *to) {
    if (!may("rename", to) || rename(from, to) != 0)
        return HX_FAIL(HX_ERR_IO, "renaming %s to %s: %s", from, to, strerror(errno));
    return HX_OK;
}

/* The name before the rename is .<link>.tmp, which a kill in between leaves behind. */
hx_status hx__fs_point(const char *link, const char *target) {
    char temporary[PATH_MAX];
    const char *slash = strrchr(link, '/'), *name = slash ? slash + 1 : link;
    int n = snprintf(temporary, sizeof temporary, "%.*s.%s.tmp", (int)(name - link), link, name);
    if (n < 0 || n >= (int)sizeof temporary) return HX_FAIL(HX_ERR_IO, "path %.64s... is too long", link);
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
    if (!is_made && (error != EEXIST || !is_folder(path)))
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

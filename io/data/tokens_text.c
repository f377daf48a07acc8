/* A folder: its text files, found first, then read in the order of their paths. */
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
#include "io/data/tokens_impl.h"
#include "io/fs.h"

#define DEPTH_MOST 32
#define PATH_MOST  4096

typedef struct found {
    char *path; /* owned */
    int64_t n_bytes;
} found;

typedef struct finding {
    found *files; /* [n] owned */
    int64_t n, capacity, n_bytes;
} finding;

static void finding_free(finding *f) {
    for (int64_t i = 0; i < f->n; i++) hx_mem_free((void **)&f->files[i].path);
    hx_mem_free((void **)&f->files);
}

static void folder_close(DIR **dir) {
    if (*dir) closedir(*dir);
}

static hx_status find_files(finding *f, const char *folder, int depth);

static hx_status find_entry(finding *f, const char *path, int depth) {
    struct stat link, target;
    if (lstat(path, &link) != 0 || stat(path, &target) != 0) {
        HX_LOG(HX_LOG_WARN, "%s left out: %s", path, strerror(errno));
        return HX_OK;
    }
    /* links to folders are not followed: they could lead round in a circle */
    if (S_ISDIR(link.st_mode)) return find_files(f, path, depth + 1);
    if (!S_ISREG(target.st_mode) || target.st_size == 0) return HX_OK;
    if (target.st_size > INT64_MAX / 4 - f->n_bytes) return HX_FAIL(HX_ERR_OVERFLOW, "%s: too much text", path);
    HX_TRY(hx_mem_grow((void **)&f->files, &f->capacity, f->n + 1, sizeof *f->files));
    HX_TRY(hx_mem_strdup(path, &f->files[f->n].path));
    f->files[f->n++].n_bytes = target.st_size;
    f->n_bytes += target.st_size + 1; /* and the newline behind it */
    return HX_OK;
}

static hx_status find_files(finding *f, const char *folder, int depth) {
    char path[PATH_MOST];
    if (depth > DEPTH_MOST) return HX_FAIL(HX_ERR_IO, "%s: folders nested more than %d deep", folder, DEPTH_MOST);
    HX_CLEANUP(folder_close) DIR *dir = opendir(folder);
    if (!dir) return HX_FAIL(HX_ERR_IO, "folder %s: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path)
            return HX_FAIL(HX_ERR_IO, "path below %.64s... is longer than %d bytes", folder, PATH_MOST);
        HX_TRY(find_entry(f, path, depth));
    }
    return HX_OK;
}

static int compare_paths(const void *a, const void *b) {
    return strcmp(((const found *)a)->path, ((const found *)b)->path);
}

/* Up to n_bytes of a file; fewer if it has shrunk. */
static hx_status read_file(const char *path, uint8_t *bytes, int64_t n_bytes, int64_t *n_read) {
    HX_AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", path, strerror(errno));
    int64_t at = 0;
    while (at < n_bytes) {
        ssize_t n = read(fd, bytes + at, (size_t)(n_bytes - at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return HX_FAIL(HX_ERR_IO, "reading %s: %s", path, strerror(errno));
        if (n == 0) break;
        at += n;
    }
    *n_read = at;
    return HX_OK;
}

hx_status hx__tokens_open_folder(hx_tokens *t) {
    HX_CLEANUP(finding_free) finding f = {0};
    HX_TRY(find_files(&f, t->path, 0));
    if (f.n > 1) qsort(f.files, (size_t)f.n, sizeof *f.files, compare_paths);
    HX_TRY(hx_mem_alloc((size_t)f.n_bytes, &t->joined));
    uint8_t *bytes = t->joined;
    int64_t at = 0;
    for (int64_t i = 0; i < f.n; i++) {
        int64_t begin = at > 0 ? at + 1 : 0, n; /* room for the newline in between */
        HX_TRY(read_file(f.files[i].path, bytes + begin, f.files[i].n_bytes, &n));
        if (n == 0 || memchr(bytes + begin, 0, (size_t)n)) continue; /* empty by now, or not text */
        if (at > 0) bytes[at] = '\n';
        at = begin + n;
    }
    if (at == 0)
        return HX_FAIL(HX_ERR_IO, "folder %s: none of its %lld files is text (hidden files, and files with a zero "
                       "byte, do not count)", t->path, (long long)f.n);
    t->info.n_tokens = at;
    return HX_OK;
}

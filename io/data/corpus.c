#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/log.h"
#include "core/base/mem.h"
#include "io/data/data.h"

#define DEPTH_MOST 32
#define PATH_MOST  4096

#define HX_OPTION_OWNER hx_data_config
const hx_option hx_data_options[] = HX_OPTIONS_TABLE(HX_DATA_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_data_n_options = sizeof hx_data_options / sizeof *hx_data_options;

struct hx_corpus {
    const uint8_t *bytes; /* [n_bytes] */
    int64_t n_bytes;
    void *mapping; /* of a file; its length is n_bytes */
    void *joined;  /* of a folder's files; owned */
    uint64_t hash;
};

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
}
#define AUTO_FD HX_CLEANUP(close_fd) int

/* ---- a folder: its text files, found first, then read in the order of their paths ---- */

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
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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

static hx_status open_folder(const char *path, hx_corpus *corpus) {
    HX_CLEANUP(finding_free) finding f = {0};
    HX_TRY(find_files(&f, path, 0));
    if (f.n > 1) qsort(f.files, (size_t)f.n, sizeof *f.files, compare_paths);
    HX_TRY(hx_mem_alloc((size_t)f.n_bytes, &corpus->joined));
    uint8_t *bytes = corpus->joined;
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
                       "byte, do not count)", path, (long long)f.n);
    corpus->bytes = bytes;
    corpus->n_bytes = at;
    return HX_OK;
}

/* ---- a file: mapped, so that ranks of a host share its pages ---- */

static hx_status open_file(const char *path, int64_t n_bytes, hx_corpus *corpus) {
    if (n_bytes == 0) return HX_FAIL(HX_ERR_IO, "%s is empty", path);
    AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", path, strerror(errno));
    void *p = mmap(NULL, (size_t)n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return HX_FAIL(HX_ERR_IO, "mapping %s: %s", path, strerror(errno));
    corpus->mapping = p;
    corpus->bytes = p;
    corpus->n_bytes = n_bytes;
    return HX_OK;
}

hx_status hx_corpus_open(const char *path, hx_corpus **out) {
    HX_CLEANUP(hx_corpus_close) hx_corpus *corpus = NULL;
    struct stat st;
    if (!path || !path[0]) return HX_FAIL(HX_ERR_IO, "no path to a text file or folder was given");
    if (stat(path, &st) != 0) return HX_FAIL(HX_ERR_IO, "data %s: %s", path, strerror(errno));
    HX_TRY(hx_mem_alloc_array(1, sizeof *corpus, (void **)&corpus));
    if (S_ISDIR(st.st_mode)) {
        HX_TRY(open_folder(path, corpus));
    } else if (S_ISREG(st.st_mode)) {
        HX_TRY(open_file(path, st.st_size, corpus));
    } else {
        return HX_FAIL(HX_ERR_IO, "data %s is neither a regular file nor a folder", path);
    }
    corpus->hash = XXH3_64bits(corpus->bytes, (size_t)corpus->n_bytes);
    *out = corpus;
    corpus = NULL; /* handed on */
    return HX_OK;
}

hx_status hx_corpus_blank(int64_t n_bytes, hx_corpus **out) {
    HX_CLEANUP(hx_corpus_close) hx_corpus *corpus = NULL;
    if (n_bytes < 1) return HX_FAIL(HX_ERR_ARG, "%lld bytes: expected at least one", (long long)n_bytes);
    HX_TRY(hx_mem_alloc_array(1, sizeof *corpus, (void **)&corpus));
    void *p = mmap(NULL, (size_t)n_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return HX_FAIL(HX_ERR_MEMORY, "%lld bytes of addresses: %s", (long long)n_bytes, strerror(errno));
    corpus->mapping = p;
    corpus->bytes = p;
    corpus->n_bytes = n_bytes;
    *out = corpus;
    corpus = NULL; /* handed on */
    return HX_OK;
}

void hx_corpus_close(hx_corpus **corpus) {
    if (!corpus || !*corpus) return;
    if ((*corpus)->mapping) munmap((*corpus)->mapping, (size_t)(*corpus)->n_bytes);
    hx_mem_free(&(*corpus)->joined);
    hx_mem_free((void **)corpus);
}

const uint8_t *hx_corpus_bytes(const hx_corpus *corpus, int64_t *n_bytes) {
    *n_bytes = corpus->n_bytes;
    return corpus->bytes;
}

uint64_t hx_corpus_hash(const hx_corpus *corpus) { return corpus->hash; }

/* A tokenizer's files carried along as they are: what reading leaves out (templates, settings of other tools) is not lost. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "io/fs.h"
#include "io/text/tokenizer_impl.h"

#define FILE_MOST (64ll << 20) /* bytes */
#define PATH_MOST 4096

/* In this order: what hx_tokenizer_open reads comes last, so that a folder that it reads is whole. */
enum { MERGES = 5, VOCAB, TOKENIZER, N_NAMES };
static const char *const names[N_NAMES] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
                                           "chat_template.jinja", [MERGES] = "merges.txt", [VOCAB] = "vocab.json", [TOKENIZER] = "tokenizer.json"};

static hx_status join(const char *folder, const char *name, char out[PATH_MOST]) {
    if (snprintf(out, PATH_MOST, "%s/%s", folder, name) >= PATH_MOST)
        return HX_FAIL(HX_ERR_ARG, "tokenizer %.64s...: the path is longer than %d bytes", folder, PATH_MOST);
    return HX_OK;
}

static bool is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Where each file lies; "" where there is none. A file of another name is a tokenizer.json; beside a vocab.json one is not meant. */
static hx_status find_files(const char *path, char from[N_NAMES][PATH_MOST], int *n_files) {
    struct stat st;
    char folder[PATH_MOST];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    memset(from, 0, N_NAMES * sizeof *from);
    *n_files = 0;
    if (stat(path, &st) != 0) return HX_FAIL(HX_ERR_IO, "tokenizer %s: %s", path, strerror(errno));
    const bool is_folder = S_ISDIR(st.st_mode), is_pair = strcmp(name, names[VOCAB]) == 0;
    if (!is_folder && !is_pair && strcmp(name, names[TOKENIZER]) != 0) {
        *n_files = 1;
        return snprintf(from[TOKENIZER], PATH_MOST, "%s", path) < PATH_MOST ? HX_OK : HX_FAIL(HX_ERR_ARG, "tokenizer %.64s...: too long a path", path);
    }
    if (snprintf(folder, sizeof folder, "%.*s", is_folder ? PATH_MOST : slash ? (int)(slash - path) + 1 : 1, is_folder || slash ? path : ".") >= PATH_MOST)
        return HX_FAIL(HX_ERR_ARG, "tokenizer %.64s...: the path is longer than %d bytes", path, PATH_MOST);
    for (int i = 0; i < N_NAMES; i++) {
        HX_TRY(join(folder, names[i], from[i]));
        if (!is_file(from[i]) || (is_pair && !is_folder && i == (int)TOKENIZER)) from[i][0] = '\0';
        *n_files += from[i][0] != '\0';
    }
    return HX_OK;
}

/* Most of the time it is: of a run that goes on. */
static bool is_same(const char *path, const void *bytes, int64_t n) {
    const void *there;
    int64_t n_there;
    if (!is_file(path) || hx__fs_map(path, &there, &n_there) != HX_OK) return false;
    const bool is = n == n_there && (n == 0 || memcmp(bytes, there, (size_t)n) == 0);
    hx__fs_unmap(there, n_there);
    return is;
}

static hx_status copy_file(const char *from, const char *to) {
    const void *bytes;
    int64_t n;
    HX_TRY(hx__fs_map(from, &bytes, &n));
    hx_status status = HX_OK;
    if (n > FILE_MOST) status = HX_FAIL(HX_ERR_UNSUPPORTED, "%s has %lld bytes: expected at most %lld", from, (long long)n, FILE_MOST);
    if (status == HX_OK && !is_same(to, bytes, n)) status = hx__fs_replace_text(to, n > 0 ? bytes : "", (size_t)n);
    hx__fs_unmap(bytes, n);
    return status;
}

static bool lies_in(const char *path, const char *folder) {
    struct stat a, b;
    char above[PATH_MOST];
    const char *slash = strrchr(path, '/');
    snprintf(above, sizeof above, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    return stat(above, &a) == 0 && stat(folder, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

hx_status hx_tokenizer_copy(const char *path, const char *folder, int *n_files) {
    char from[N_NAMES][PATH_MOST], to[PATH_MOST];
    int n;
    HX_TRY(find_files(path, from, &n));
    for (int i = 0; i < N_NAMES; i++)
        if (from[i][0] && lies_in(from[i], folder)) {
            *n_files = n;
            return HX_OK; /* what else is there belongs to it */
        }
    if (n > 0) HX_TRY(hx__fs_mkdirs(folder));
    for (int i = 0; n > 0 && i < N_NAMES; i++) {
        HX_TRY(join(folder, names[i], to));
        if (from[i][0]) {
            HX_TRY(copy_file(from[i], to));
        } else if (is_file(to)) {
            HX_TRY(hx__fs_unlink(to));
        }
    }
    if (n > 0) HX_TRY(hx__fs_sync_folder(folder));
    if (n > 0) HX_TRY(hx__fs_sync_above(folder));
    *n_files = n;
    return HX_OK;
}

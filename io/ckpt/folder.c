/* What there is in a folder of checkpoints, and which file a path means.
 *
 *   gen-0001/step-00000020.h5     a generation: what one incarnation of the run wrote
 *   gen-0001/latest -> step-...   gen-0001/best -> step-... or ../gen-NNNN/step-... or ../step-...
 *   step-00000010.h5, latest, best   generation 0: written before there were generations
 *
 * Names of files, folders and targets of links are taken only in the very form in which they are made; everything else is
 * not ours. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define ENTRIES_MOST (1 << 20) /* generations, or files */

/* ---- names ---- */

void hx__step_name(int64_t step, char name[HX__NAME_BYTES]) { snprintf(name, HX__NAME_BYTES, "step-%08lld.h5", (long long)step); }

static void gen_name(int64_t generation, char name[HX__NAME_BYTES]) { snprintf(name, HX__NAME_BYTES, "gen-%04lld", (long long)generation); }

/* The number behind a prefix if `make` makes that name of it, or -1. */
static int64_t number_of(const char *name, const char *prefix, void (*make)(int64_t, char[HX__NAME_BYTES])) {
    char again[HX__NAME_BYTES];
    const size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0) return -1;
    errno = 0;
    long long number = strtoll(name + n, NULL, 10);
    if (errno || number < 0) return -1;
    make(number, again);
    return strcmp(again, name) == 0 ? number : -1;
}

int64_t hx__name_step(const char *name) { return number_of(name, "step-", hx__step_name); }

/* There is no gen-0000: 0 stands for the folder. */
static int64_t name_generation(const char *name) {
    int64_t generation = number_of(name, "gen-", gen_name);
    return generation > 0 ? generation : -1;
}

hx_status hx__gen_path(const char *folder, int64_t generation, const char *name, char path[HX_PATH_BYTES]) {
    char own[HX__NAME_BYTES + 1] = "";
    if (generation > 0) {
        own[0] = '/';
        gen_name(generation, own + 1);
    }
    int n = snprintf(path, HX_PATH_BYTES, "%s%s%s%s", folder, own, name[0] ? "/" : "", name);
    return n < HX_PATH_BYTES ? HX_OK : HX_FAIL(HX_ERR_IO, "path %.64s...%s/%s is too long", folder, own, name);
}

hx_status hx_ckpt_file_path(const char *folder, const hx_ckpt_file *file, char path[HX_PATH_BYTES]) {
    char name[HX__NAME_BYTES];
    hx__step_name(file->step, name);
    return hx__gen_path(folder, file->generation, name, path);
}

int64_t hx_ckpt_generation_of(const char *folder, char above[HX_PATH_BYTES]) {
    char real[PATH_MAX];
    if (!realpath(folder, real)) return 0;
    char *slash = strrchr(real, '/');
    const int64_t generation = name_generation(slash + 1);
    if (generation < 1 || slash == real) return 0;
    *slash = '\0';
    snprintf(above, HX_PATH_BYTES, "%s", real);
    return generation;
}

/* ---- listing ---- */

static void folder_close(DIR **dir) {
    if (*dir) closedir(*dir);
}

void hx_ckpt_files_destroy(hx_ckpt_files *files) {
    hx_mem_free((void **)&files->items);
    files->n = files->capacity = 0;
}

void hx__scan_free(hx__scan *scan) {
    hx_mem_free((void **)&scan->generations);
    hx_ckpt_files_destroy(&scan->files);
}

static hx_status add_generation(hx__scan *scan, int64_t generation) {
    HX_TRY(hx_mem_grow((void **)&scan->generations, &scan->n_capacity, scan->n_generations + 1, sizeof *scan->generations));
    scan->generations[scan->n_generations++] = generation;
    return HX_OK;
}

static hx_status add_file(hx__scan *scan, int64_t generation, int64_t step, const struct stat *st) {
    hx_ckpt_files *files = &scan->files;
    HX_TRY(hx_mem_grow((void **)&files->items, &files->capacity, files->n + 1, sizeof *files->items));
    files->items[files->n++] = (hx_ckpt_file){.generation = generation, .step = step, .n_bytes = st->st_size, .written = st->st_mtime};
    return HX_OK;
}

/* Neither a folder nor a file behind a link counts: it may lie anywhere. */
static hx_status add_entry(hx__scan *scan, int64_t generation, DIR *dir, const char *name) {
    struct stat st;
    const int64_t step = hx__name_step(name), below = generation == 0 ? name_generation(name) : -1;
    if ((step < 0 && below < 0) || fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0) return HX_OK;
    if (scan->n_generations >= ENTRIES_MOST || scan->files.n >= ENTRIES_MOST)
        return HX_FAIL(HX_ERR_IO, "the checkpoint folder has more than %d generations or files", ENTRIES_MOST);
    if (S_ISLNK(st.st_mode)) step >= 0 ? hx__step_name(step, scan->link) : gen_name(below, scan->link);
    if (step >= 0 && S_ISREG(st.st_mode)) return add_file(scan, generation, step, &st);
    return below >= 0 && S_ISDIR(st.st_mode) ? add_generation(scan, below) : HX_OK;
}

/* A generation that is removed meanwhile had nothing in it. */
static hx_status read_generation(const char *folder, int64_t generation, hx__scan *scan) {
    char path[HX_PATH_BYTES];
    HX_TRY(hx__gen_path(folder, generation, "", path));
    HX_CLEANUP(folder_close) DIR *dir = opendir(path);
    if (!dir && generation > 0 && errno == ENOENT) return HX_OK;
    if (!dir) return HX_FAIL(HX_ERR_IO, "checkpoint folder %s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) HX_TRY(add_entry(scan, generation, dir, e->d_name));
    return HX_OK;
}

/* Falling. */
static int compare(int64_t x, int64_t y) { return (x < y) - (x > y); }
static int compare_generations(const void *a, const void *b) { return compare(*(const int64_t *)a, *(const int64_t *)b); }
static int compare_files(const void *a, const void *b) {
    const hx_ckpt_file *x = a, *y = b;
    if (x->is_left != y->is_left) return x->is_left ? 1 : -1;
    return x->generation != y->generation ? compare(x->generation, y->generation) : compare(x->step, y->step);
}

/* A later incarnation began at or before this step, or this one has gone back behind it. */
static void mark_left(const char *folder, hx_ckpt_files *files) {
    int64_t begin = INT64_MAX, lowest = INT64_MAX, generation = -1;
    hx_ckpt_file latest = {0};
    bool has_latest = false;
    for (int64_t i = 0; i < files->n; i++) {
        hx_ckpt_file *f = &files->items[i];
        if (f->generation != generation) {
            begin = lowest;
            generation = f->generation;
            has_latest = hx__link_read(folder, generation, "latest", &latest);
        }
        f->is_left = f->step >= begin || (has_latest && f->step > latest.step);
        if (f->step < lowest) lowest = f->step;
    }
}

static void sort_files(hx_ckpt_files *files) {
    if (files->n > 1) qsort(files->items, (size_t)files->n, sizeof *files->items, compare_files);
}

hx_status hx__scan_folder(const char *folder, hx__scan *out) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    HX_TRY(read_generation(folder, 0, &scan));
    for (int64_t i = 0, n = scan.n_generations; i < n; i++) HX_TRY(read_generation(folder, scan.generations[i], &scan));
    HX_TRY(add_generation(&scan, 0));
    qsort(scan.generations, (size_t)scan.n_generations, sizeof *scan.generations, compare_generations);
    sort_files(&scan.files);
    mark_left(folder, &scan.files);
    sort_files(&scan.files);
    *out = scan;
    scan = (hx__scan){0}; /* handed on */
    return HX_OK;
}

hx_status hx__scan_refuse_link(const char *folder, const hx__scan *scan) {
    if (!scan->link[0]) return HX_OK;
    return HX_FAIL(HX_ERR_IO, "checkpoint folder %s: %s is a symbolic link, which is not followed: expected the thing itself, or a link in the "
                   "place of the whole folder", folder, scan->link);
}

/* ---- links ---- */

void hx__link_target(const hx_ckpt_file *file, int64_t from_generation, char target[HX__NAME_BYTES]) {
    const long long generation = file->generation, step = file->step;
    if (generation == from_generation)
        hx__step_name(step, target);
    else if (generation == 0)
        snprintf(target, HX__NAME_BYTES, "../step-%08lld.h5", step);
    else
        snprintf(target, HX__NAME_BYTES, "../gen-%04lld/step-%08lld.h5", generation, step);
}

bool hx__link_read(const char *folder, int64_t generation, const char *link, hx_ckpt_file *out) {
    char path[HX_PATH_BYTES], target[HX__NAME_BYTES], again[HX__NAME_BYTES], above[HX__NAME_BYTES] = "";
    hx_ckpt_file file = {.generation = generation};
    if (hx__gen_path(folder, generation, link, path) != HX_OK) return false;
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0) return false;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    if (strncmp(target, "../", 3) == 0) { /* "../gen-0001/step-..." or "../step-..." */
        memcpy(above, target + 3, slash > target + 2 ? (size_t)(slash - (target + 3)) : 0);
        file.generation = above[0] ? name_generation(above) : 0;
    }
    file.step = hx__name_step(slash ? slash + 1 : target);
    if (file.step < 0 || file.generation < 0) return false;
    hx__link_target(&file, generation, again);
    if (strcmp(again, target) != 0) return false;
    *out = file;
    return true;
}

/* ---- what a path means ---- */

static hx_status complete(const char *folder, const hx_ckpt_file *f, char file[HX_PATH_BYTES]) {
    int format;
    HX_TRY(hx_ckpt_file_path(folder, f, file));
    return hx__seal_check(file, false, &format);
}

/* The newest whole file of a generation, `latest` before all others. @param reason  set to why the newest is not, if it is "" */
static bool find_in_generation(const char *folder, const hx_ckpt_files *files, int64_t generation, hx_ckpt_file *out, char reason[512]) {
    char path[HX_PATH_BYTES];
    hx_ckpt_file latest;
    if (hx__link_read(folder, generation, "latest", &latest) && complete(folder, &latest, path) == HX_OK) {
        *out = latest;
        return true;
    }
    for (int64_t i = 0; i < files->n; i++) {
        if (files->items[i].generation != generation) continue;
        if (complete(folder, &files->items[i], path) == HX_OK) {
            *out = files->items[i];
            return true;
        }
        if (!reason[0]) snprintf(reason, 512, "; the newest: %.480s", hx_error_message());
    }
    return false;
}

static bool find_latest(const char *folder, const hx__scan *scan, hx_ckpt_file *out, char reason[512]) {
    for (int64_t i = 0; i < scan->n_generations; i++)
        if (find_in_generation(folder, &scan->files, scan->generations[i], out, reason)) return true;
    return false;
}

bool hx__find_best(const char *folder, const hx__scan *scan, hx_ckpt_file *out) {
    char path[HX_PATH_BYTES], reason[512] = "";
    hx_ckpt_file best;
    for (int64_t i = 0; i < scan->n_generations; i++) {
        if (!hx__link_read(folder, scan->generations[i], "best", &best) || complete(folder, &best, path) != HX_OK ||
            !find_in_generation(folder, &scan->files, scan->generations[i], out, reason))
            continue;
        *out = best;
        return true;
    }
    return false;
}

static hx_status resolve_folder(const char *folder, bool wants_best, char file[HX_PATH_BYTES]) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    hx_ckpt_file found;
    char reason[512] = "";
    HX_TRY(hx__scan_folder(folder, &scan));
    HX_TRY(hx__scan_refuse_link(folder, &scan));
    if (wants_best ? hx__find_best(folder, &scan, &found) : find_latest(folder, &scan, &found, reason))
        return hx_ckpt_file_path(folder, &found, file);
    if (wants_best) return HX_FAIL(HX_ERR_IO, "%s: no generation has a link `best` to a complete checkpoint", folder);
    return HX_FAIL(HX_ERR_IO, "%s holds no complete checkpoint: looked in it and in %lld folders gen-* for `latest` and for step-*.h5, of "
                   "which there are %lld%s", folder, (long long)scan.n_generations - 1, (long long)scan.files.n, reason);
}

/* FOLDER/best and FOLDER/latest. @param[out] folder  "." where the name stands alone */
static bool is_link_name(const char *path, char folder[HX_PATH_BYTES], bool *wants_best) {
    struct stat st;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    *wants_best = strcmp(name, "best") == 0;
    if (!*wants_best && strcmp(name, "latest") != 0) return false;
    int n = slash == path ? snprintf(folder, HX_PATH_BYTES, "/") : snprintf(folder, HX_PATH_BYTES, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    return n < HX_PATH_BYTES && stat(folder, &st) == 0 && S_ISDIR(st.st_mode);
}

hx_status hx_ckpt_resolve(const char *path, char file[HX_PATH_BYTES]) {
    struct stat st;
    char folder[HX_PATH_BYTES];
    bool wants_best;
    const bool is_there = stat(path, &st) == 0;
    const int error = errno;
    if (is_there && S_ISDIR(st.st_mode)) return resolve_folder(path, false, file);
    if (is_link_name(path, folder, &wants_best)) {
        const hx_status status = resolve_folder(folder, wants_best, file);
        hx_ckpt_file target;
        /* in one generation's folder `best` may lead to another's, of which that folder knows nothing: then the link itself is meant */
        if (status == HX_OK || !is_there || !hx__link_read(folder, 0, wants_best ? "best" : "latest", &target)) return status;
    }
    if (!is_there) return HX_FAIL(HX_ERR_IO, "checkpoint %s: %s", path, strerror(error));
    if (strlen(path) >= HX_PATH_BYTES) return HX_FAIL(HX_ERR_IO, "path %.64s... is too long", path);
    strcpy(file, path);
    return HX_OK;
}

/* ---- for readers of folders ---- */

static void mark(hx_ckpt_file *f, const hx_ckpt_file *latest, const hx_ckpt_file *best, const char *folder) {
    char path[HX_PATH_BYTES];
    f->is_whole = complete(folder, f, path) == HX_OK;
    f->is_latest = latest && f->generation == latest->generation && f->step == latest->step;
    f->is_best = best && f->generation == best->generation && f->step == best->step;
}

hx_status hx_ckpt_list(const char *folder, hx_ckpt_files *out) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    hx_ckpt_file latest, best;
    char reason[512] = "";
    HX_TRY(hx__scan_folder(folder, &scan));
    HX_TRY(hx__scan_refuse_link(folder, &scan));
    const bool has_latest = find_latest(folder, &scan, &latest, reason), has_best = hx__find_best(folder, &scan, &best);
    for (int64_t i = 0; i < scan.files.n; i++) mark(&scan.files.items[i], has_latest ? &latest : NULL, has_best ? &best : NULL, folder);
    hx_error_clear(); /* what is not whole has left its reason */
    *out = scan.files;
    scan.files = (hx_ckpt_files){0}; /* handed on */
    return HX_OK;
}

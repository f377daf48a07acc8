/* Changes of a folder of checkpoints, by one process: a new generation, a new file and the links to it, files that are removed.
 *
 * Names change by rename alone, so that a reader, or a process that starts after a kill, finds the state before or the state
 * after. Nothing is removed before what replaces it is on the disk. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "core/base/log.h"
#include "io/ckpt/ckpt_impl.h"
#include "io/fs.h"

/* ---- removing ---- */

static void folder_close(DIR **dir) {
    if (*dir) closedir(*dir);
}

/* What a killed save leaves: .step-*.h5.tmp, .latest.tmp, .best.tmp */
static bool is_leftover(const char *name) {
    size_t n = strlen(name);
    char inner[HX__NAME_BYTES];
    if (n < 6 || n - 5 >= sizeof inner || name[0] != '.' || strcmp(name + n - 4, ".tmp") != 0) return false;
    memcpy(inner, name + 1, n - 5);
    inner[n - 5] = 0;
    return hx__name_step(inner) >= 0 || strcmp(inner, "latest") == 0 || strcmp(inner, "best") == 0;
}

static hx_status remove_leftovers(const char *folder, int64_t generation) {
    char path[HX_PATH_BYTES];
    HX_TRY(hx__gen_path(folder, generation, "", path));
    HX_CLEANUP(folder_close) DIR *dir = opendir(path);
    if (!dir) return HX_FAIL(HX_ERR_IO, "checkpoint folder %s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        char file[HX_PATH_BYTES];
        if (!is_leftover(e->d_name)) continue;
        HX_TRY(hx__gen_path(folder, generation, e->d_name, file));
        HX_TRY(hx__fs_unlink(file));
    }
    return HX_OK;
}

static hx_status unlink_name(const char *folder, int64_t generation, const char *name) {
    char path[HX_PATH_BYTES];
    HX_TRY(hx__gen_path(folder, generation, name, path));
    return hx__fs_unlink(path);
}

static const char *const links[] = {"latest", "best"};

/* Links of a generation that point to a file; to none: all of ours. What else has such a name is not ours. */
static hx_status remove_links(const char *folder, int64_t generation, const hx_ckpt_file *file) {
    for (int i = 0; i < 2; i++) {
        hx_ckpt_file target;
        if (hx__link_read(folder, generation, links[i], &target) &&
            (!file || (target.generation == file->generation && target.step == file->step)))
            HX_TRY(unlink_name(folder, generation, links[i]));
    }
    return HX_OK;
}

/* Links first, of all generations: none ever points to nothing. */
static hx_status remove_file(const char *folder, const hx__scan *scan, const hx_ckpt_file *file) {
    char name[HX__NAME_BYTES];
    for (int64_t i = 0; i < scan->n_generations; i++) HX_TRY(remove_links(folder, scan->generations[i], file));
    hx__step_name(file->step, name);
    return unlink_name(folder, file->generation, name);
}

static bool has_files(const hx_ckpt_files *files, int64_t generation) {
    for (int64_t i = 0; i < files->n; i++)
        if (files->items[i].generation == generation) return true;
    return false;
}

/* Generations without files, the highest aside, which is a process's that may be about to write. What is not ours keeps a
 * folder; that is no failure. */
static hx_status remove_empty(const char *folder, const hx__scan *scan) {
    for (int64_t i = 1; i < scan->n_generations; i++) {
        const int64_t generation = scan->generations[i];
        char path[HX_PATH_BYTES];
        if (has_files(&scan->files, generation)) continue;
        HX_TRY(remove_links(folder, generation, NULL));
        HX_TRY(hx__gen_path(folder, generation, "", path));
        if (generation > 0) HX_TRY(hx__fs_rmdir(path));
    }
    return HX_OK;
}

static hx_status tidy(const char *folder) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    HX_TRY(hx__scan_folder(folder, &scan));
    return remove_empty(folder, &scan);
}

hx_status hx_ckpt_delete(const char *folder, const hx_ckpt_file *file) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    HX_TRY(hx__scan_folder(folder, &scan));
    HX_TRY(remove_file(folder, &scan, file));
    HX_TRY(tidy(folder));
    return hx__fs_sync_folder(folder);
}

/* ---- retention ---- */

/* An older file of a step that a later incarnation has written again. */
static bool is_repeated(const hx_ckpt_files *files, int64_t i) {
    for (int64_t k = 0; k < i; k++)
        if (files->items[k].step == files->items[i].step) return true;
    return false;
}

void hx_ckpt_choose(hx_ckpt_files *files, int64_t keep, int64_t keep_every) {
    int64_t n = 0;
    for (int64_t i = 0; i < files->n; i++) {
        hx_ckpt_file *f = &files->items[i];
        const bool is_new = !f->is_best && n++ < keep;
        f->is_kept = f->is_best || is_new || (keep_every > 0 && f->step % keep_every == 0 && !is_repeated(files, i));
    }
}

/* A ghost, which another incarnation has followed, leaves everything to that one. */
static hx_status retire(const hx_ckpt *ckpt) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    hx_ckpt_file best;
    HX_TRY(hx__scan_folder(ckpt->folder, &scan));
    if (scan.generations[0] > ckpt->generation) return HX_OK;
    const bool has_best = hx__link_read(ckpt->folder, ckpt->generation, "best", &best);
    hx_ckpt_files *files = &scan.files;
    for (int64_t i = 0; i < files->n; i++)
        files->items[i].is_best = has_best && files->items[i].generation == best.generation && files->items[i].step == best.step;
    bool is_changed = false;
    hx_ckpt_choose(files, ckpt->keep, ckpt->keep_every);
    for (int64_t i = 0; i < files->n; i++) {
        if (files->items[i].is_kept) continue;
        HX_TRY(remove_file(ckpt->folder, &scan, &files->items[i]));
        is_changed = true;
    }
    return is_changed ? tidy(ckpt->folder) : HX_OK;
}

/* ---- publishing ---- */

static hx_status point(const hx_ckpt *ckpt, const char *link, const hx_ckpt_file *to) {
    char path[HX_PATH_BYTES], target[HX__NAME_BYTES];
    HX_TRY(hx__gen_path(ckpt->folder, ckpt->generation, link, path));
    hx__link_target(to, ckpt->generation, target);
    return hx__fs_point(path, target);
}

/* The best so far may be a file of an earlier incarnation: then this one's link says so. */
static hx_status point_best(const hx_ckpt *ckpt, const hx_ckpt_file *file, bool is_best) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    hx_ckpt_file best;
    if (is_best) return point(ckpt, "best", file);
    if (hx__link_read(ckpt->folder, ckpt->generation, "best", &best)) return HX_OK;
    HX_TRY(hx__scan_folder(ckpt->folder, &scan));
    return hx__find_best(ckpt->folder, &scan, &best) ? point(ckpt, "best", &best) : HX_OK;
}

static hx_status give_name(const hx_ckpt *ckpt, const char *temporary, const hx_ckpt_file *file) {
    char path[HX_PATH_BYTES];
    hx_status status = hx_ckpt_file_path(ckpt->folder, file, path);
    if (status == HX_OK) status = hx__fs_rename(temporary, path);
    if (status != HX_OK) unlink(temporary); /* its space is worth more than another message */
    return status;
}

hx_status hx__ckpt_publish(const hx_ckpt *ckpt, const char *temporary, int64_t step, bool is_best) {
    const hx_ckpt_file file = {.generation = ckpt->generation, .step = step};
    char place[HX_PATH_BYTES];
    HX_TRY(hx__gen_path(ckpt->folder, ckpt->generation, "", place));
    HX_TRY(give_name(ckpt, temporary, &file));
    HX_TRY(hx__fs_sync_folder(place));
    HX_TRY(point_best(ckpt, &file, is_best));
    HX_TRY(point(ckpt, "latest", &file));
    HX_TRY(hx__fs_sync_folder(place));
    /* a failure to remove costs space, not safety */
    if (retire(ckpt) != HX_OK) HX_LOG(HX_LOG_WARN, "old checkpoints were not removed: %s", hx_error_message());
    return HX_OK;
}

/* ---- a new generation ---- */

/* One more than any that was ever there while a process of it may live: the highest folder is never removed, not even empty. */
static hx_status make_generation(const char *folder, int64_t highest, int64_t *out) {
    char path[HX_PATH_BYTES];
    int64_t generation = highest;
    for (bool was_there = true; was_there;) {
        if (generation == INT64_MAX)
            return HX_FAIL(HX_ERR_IO, "%s/gen-%lld: no number is left for a generation behind it", folder, (long long)generation);
        HX_TRY(hx__gen_path(folder, ++generation, "", path));
        HX_TRY(hx__fs_mkdir(path, &was_there));
    }
    *out = generation;
    return HX_OK;
}

hx_status hx__ckpt_prepare(const char *folder, int64_t *generation) {
    HX_CLEANUP(hx__scan_free) hx__scan scan = {0};
    const size_t n = strlen(folder), most = HX_PATH_BYTES - 3 * HX__NAME_BYTES;
    if (n == 0 || n > most) return HX_FAIL(HX_ERR_IO, "folder name of %zu bytes: expected 1 to %zu", n, most);
    HX_TRY(hx__fs_mkdirs(folder));
    HX_TRY(hx__scan_folder(folder, &scan));
    HX_TRY(hx__scan_refuse_link(folder, &scan));
    for (int64_t i = 0; i < scan.n_generations; i++) HX_TRY(remove_leftovers(folder, scan.generations[i]));
    HX_TRY(make_generation(folder, scan.generations[0], generation));
    HX_TRY(tidy(folder));
    return hx__fs_sync_folder(folder);
}

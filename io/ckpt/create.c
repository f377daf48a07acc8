/* Rank 0's part of a save: all that is HDF5. The file is made with plain, serial HDF5: groups, attributes, and datasets whose
 * bytes are placed at once but not written; where they lie is told to all ranks, who fill them by calls of their own. At the
 * end the file is opened once more for what was not known before.
 *
 * A full disk is the likely failure, and HDF5 cannot close a file whose metadata it cannot write. So the bytes are reserved
 * while the file is still empty; where the file system knows no reservation, cutting the file to nothing gives back the space
 * that closing needs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "core/base/build.h"
#include "core/base/log.h"
#include "io/ckpt/ckpt_impl.h"
#include "io/fs.h"

#define META_BYTES      65536 /* groups and attributes of the file itself */
#define META_ITEM_BYTES 2048  /* header, link and name of a dataset */

typedef struct budget {
    uint64_t seal, meta, total; /* bytes */
} budget;

static hx_status plan_bytes(const hx__outline *o, budget *b) {
    uint64_t n = (uint64_t)o->items->n_items;
    *b = (budget){.seal = hx__seal_bytes((int64_t)n), .meta = META_BYTES + strlen(o->ckpt->config) + strlen(o->hosts) + n * META_ITEM_BYTES};
    b->total = b->seal + b->meta + (uint64_t)(o->n_blocks * o->block_words) * sizeof(uint64_t);
    for (uint64_t i = 0; i < n; i++) {
        const hx_state_item *item = &o->items->items[i];
        b->total += (uint64_t)hx_shape_count(&item->layout->shape) * hx_dtype_bytes(item->dtype) + HX__CKPT_ALIGN;
        if (b->total > INT64_MAX / 2)
            return HX_FAIL(HX_ERR_OVERFLOW, "the tensors up to %s need more than 2^62 bytes", item->name);
    }
    return HX_OK;
}

/* ---- room ---- */

static hx_status check_room(const char *file, uint64_t n_bytes) {
    struct rlimit limit;
    struct statvfs fs;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < n_bytes)
        return HX_FAIL(HX_ERR_IO, "%s needs %.1f MB: this process may write files of up to %.1f MB (ulimit -f)", file,
                       (double)n_bytes / 1e6, (double)limit.rlim_cur / 1e6);
    if (statvfs(file, &fs) != 0) return HX_OK;
    __int128 n_free = (__int128)fs.f_bavail * fs.f_frsize;
    if (n_free < n_bytes)
        return HX_FAIL(HX_ERR_IO, "%s: %.1f MB are free on its disk: the checkpoint needs %.1f MB", file, (double)n_free / 1e6,
                       (double)n_bytes / 1e6);
    return HX_OK;
}

/* A plain open tells what is wrong in the system's words. Then as many zeros as there will be metadata: whatever happens
 * later, cutting the file to nothing gives this much back, which closing needs. */
static hx_status create_probe(const char *file, const budget *b) {
    static const char zeros[65536];
    HX_AUTO_FD fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "creating %s: %s", file, strerror(errno));
    HX_TRY(check_room(file, b->total));
    const uint64_t end = b->seal + b->meta;
    for (uint64_t at = 0; at < end; at += sizeof zeros)
        HX_TRY(hx__fs_write(fd, file, zeros, end - at < sizeof zeros ? (size_t)(end - at) : sizeof zeros, (int64_t)at));
    return hx__fs_sync(fd, file);
}

static hx_status reserve(const char *file, uint64_t n_bytes) {
    HX_AUTO_FD fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", file, strerror(errno));
    int failed = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)n_bytes);
    if (failed && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
        return HX_FAIL(HX_ERR_IO, "reserving %.1f MB for %s: %s", (double)n_bytes / 1e6, file, strerror(errno));
    return HX_OK;
}

/* What was reserved behind the end of the file would stay taken: a cut at the end gives it back. */
static void release_rest(const char *file) {
    struct stat st;
    if (stat(file, &st) != 0 || truncate(file, st.st_size) != 0) HX_LOG(HX_LOG_WARN, "%s: %s", file, strerror(errno));
}

/* ---- HDF5: opening and closing ---- */

static hx_status file_open(const char *file, const budget *b, hid_t *out) {
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    HX_AUTO_H5 create = H5Pcreate(H5P_FILE_CREATE);
    if (access < 0 || create < 0 || H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) < 0 ||
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 || H5Pset_file_locking(access, false, true) < 0 ||
        H5Pset_obj_track_times(create, false) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to open", file);
    /* one run of metadata at the front: little to hash for the seal, and offsets that do not grow */
    if (b && (H5Pset_meta_block_size(access, b->meta) < 0 || H5Pset_userblock(create, b->seal) < 0 ||
              H5Pset_alignment(access, HX__CKPT_ALIGN, HX__CKPT_ALIGN) < 0))
        return HX_H5_FAIL(HX_ERR_IO, "preparing to create", file);
    *out = b ? H5Fcreate(file, H5F_ACC_TRUNC, create, access) : H5Fopen(file, H5F_ACC_RDWR, access);
    return *out < 0 ? HX_H5_FAIL(HX_ERR_IO, b ? "creating" : "opening", file) : HX_OK;
}

/* Close the file; one that could not be filled is cut to nothing before, and its failure kept. */
static hx_status file_close(hid_t h5, const char *file, hx_status status) {
    char message[2048];
    snprintf(message, sizeof message, "%s", hx_error_message());
    if (status != HX_OK && truncate(file, 0) != 0) HX_LOG(HX_LOG_WARN, "%s: %s", file, strerror(errno));
    if (H5Fclose(h5) >= 0) return status;
    if (status == HX_OK) return HX_H5_FAIL(HX_ERR_IO, "closing", file);
    HX_LOG(HX_LOG_WARN, "%s could not be closed", file);
    return hx_error_adopt(status, message);
}

/* ---- HDF5: contents ---- */

/* Groups and datasets carry no times: equal states shall give equal files. */
static hx_status group_create(hid_t h5, const char *path) {
    HX_AUTO_H5 create = H5Pcreate(H5P_GROUP_CREATE);
    if (create < 0 || H5Pset_obj_track_times(create, false) < 0) return HX_H5_FAIL(HX_ERR_IO, "group", path);
    HX_AUTO_H5 group = H5Gcreate2(h5, path, H5P_DEFAULT, create, H5P_DEFAULT);
    return group < 0 ? HX_H5_FAIL(HX_ERR_IO, "creating group", path) : HX_OK;
}

static hx_status groups_above(hid_t h5, const char *name) {
    char path[sizeof((hx_state_item *)0)->name];
    for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        size_t n = (size_t)(slash - name);
        memcpy(path, name, n);
        path[n] = 0;
        htri_t exists = H5Lexists(h5, path, H5P_DEFAULT);
        if (exists < 0) return HX_H5_FAIL(HX_ERR_IO, "looking up", path);
        if (!exists) HX_TRY(group_create(h5, path));
    }
    return HX_OK;
}

/* A dataset of which nothing is written, placed in one piece. */
static hx_status dataset_create(hid_t h5, const char *name, hid_t type, int ndim, const int64_t *dims, hid_t *out, hx__range *range) {
    HX_AUTO_H5 set = H5I_INVALID_HID;
    HX_TRY(hx__h5_dataset_place_new(h5, name, type, ndim, dims, &set));
    const hsize_t n_bytes = H5Dget_storage_size(set);
    haddr_t offset = n_bytes ? H5Dget_offset(set) : 0;
    if (offset == HADDR_UNDEF) return HX_H5_FAIL(HX_ERR_IO, "locating", name);
    *range = (hx__range){offset, n_bytes};
    *out = set;
    set = H5I_INVALID_HID; /* handed on */
    return HX_OK;
}

static hx_status tensor_create(hid_t h5, const hx_state_item *item, hx__range *range) {
    const hx_shape *shape = &item->layout->shape;
    HX_AUTO_H5 set = H5I_INVALID_HID;
    HX_AUTO_H5 type = hx__h5_type_create(item->dtype);
    if (type < 0) return HX_H5_FAIL(HX_ERR_IO, "type of", item->name);
    HX_TRY(groups_above(h5, item->name));
    HX_TRY(dataset_create(h5, item->name, type, shape->ndim, shape->dims, &set, range));
    return hx__h5_attr_write(set, "hash", H5T_STD_U64LE, 1, &(uint64_t){0});
}

static hx_status meta_write(const hx__outline *o, hid_t meta) {
    unsigned v[3];
    char versions[256], mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "none";
    int n;
    if (o->ckpt->mpi != MPI_COMM_NULL && MPI_Get_library_version(mpi, &n) == MPI_SUCCESS) mpi[strcspn(mpi, ",\n")] = 0;
    H5get_libversion(&v[0], &v[1], &v[2]);
    snprintf(versions, sizeof versions, "HDF5 %u.%u.%u, MPI %.100s", v[0], v[1], v[2], mpi);
    HX_TRY(hx__h5_attr_write(meta, "format", H5T_STD_I64LE, 1, &(int64_t){HX_CKPT_FORMAT}));
    HX_TRY(hx__h5_attr_write(meta, "world_size", H5T_STD_I64LE, 1, &(int64_t){hx_comm_size(o->ckpt->comm)}));
    HX_TRY(hx__h5_attr_write(meta, "state_hash", H5T_STD_U64LE, 1, &(uint64_t){0}));
    const struct { const char *name, *text; } texts[] = {
        {"versions", versions}, {"helix", hx_build()}, {"config", o->ckpt->config}, {"hosts", o->hosts}, {"kernels", o->ckpt->kernels}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].text) HX_TRY(hx__h5_text_write(meta, texts[i].name, texts[i].text));
    return hx__ckpt_tokenizer_write(meta, &o->ckpt->tokenizer);
}

static hx_status meta_create(const hx__outline *o, hid_t h5, hx__range *blocks) {
    HX_TRY(group_create(h5, "/meta"));
    HX_TRY(group_create(h5, "/train"));
    HX_AUTO_H5 meta = H5Gopen2(h5, "/meta", H5P_DEFAULT);
    HX_AUTO_H5 train = H5Gopen2(h5, "/train", H5P_DEFAULT);
    HX_AUTO_H5 set = H5I_INVALID_HID;
    if (meta < 0 || train < 0) return HX_H5_FAIL(HX_ERR_IO, "groups of", o->file);
    HX_TRY(meta_write(o, meta));
    HX_TRY(dataset_create(h5, "/meta/blocks", H5T_STD_U64LE, 2, (int64_t[]){o->n_blocks, o->block_words}, &set, blocks));
    HX_TRY(hx__h5_text_write(set, "columns", HX__BLOCK_COLUMNS));
    return hx__ckpt_state_write(train, o->state);
}

/* The metadata go to the disk at once, while there is room: a flush that fails leaves HDF5 1.10 with a file that it can
 * never close again. */
static hx_status fill(const hx__outline *o, hid_t h5, hx__range *ranges) {
    int64_t n = o->items->n_items;
    HX_TRY(meta_create(o, h5, &ranges[n]));
    for (int64_t i = 0; i < n; i++) HX_TRY(tensor_create(h5, &o->items->items[i], &ranges[i]));
    return H5Fflush(h5, H5F_SCOPE_GLOBAL) < 0 ? HX_H5_FAIL(HX_ERR_IO, "flushing", o->file) : HX_OK;
}

hx_status hx__file_create(const hx__outline *o, hx__range *ranges) {
    budget b;
    hid_t h5;
    HX_TRY(plan_bytes(o, &b));
    HX_TRY(create_probe(o->file, &b));
    HX_H5_QUIET();
    HX_TRY(file_open(o->file, &b, &h5));
    hx_status status = reserve(o->file, b.total);
    if (status == HX_OK) status = fill(o, h5, ranges);
    HX_TRY(file_close(h5, o->file, status));
    release_rest(o->file);
    return HX_OK;
}

/* ---- the end ---- */

static hx_status set_u64(hid_t h5, const char *name, const char *attribute, uint64_t value) {
    HX_AUTO_H5 object = H5Oopen(h5, name, H5P_DEFAULT);
    HX_AUTO_H5 attr = object < 0 ? object : H5Aopen(object, attribute, H5P_DEFAULT);
    if (attr < 0 || H5Awrite(attr, H5T_STD_U64LE, &value) < 0) return HX_H5_FAIL(HX_ERR_IO, "writing attribute of", name);
    return HX_OK;
}

static hx_status set_sums(const hx__outline *o, hid_t h5, const uint64_t *sums) {
    uint64_t state = 0;
    for (int64_t i = 0; i < o->items->n_items; i++) {
        const char *name = o->items->items[i].name;
        HX_TRY(set_u64(h5, name, "hash", sums[i]));
        state += hx__sum_state(name, sums[i]);
    }
    HX_TRY(set_u64(h5, "/meta", "state_hash", state));
    return H5Fflush(h5, H5F_SCOPE_GLOBAL) < 0 ? HX_H5_FAIL(HX_ERR_IO, "flushing", o->file) : HX_OK;
}

static hx_status write_blocks(const char *file, const uint64_t *blocks, const hx__range *range) {
    HX_AUTO_FD fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", file, strerror(errno));
    return hx__fs_write(fd, file, blocks, range->length, (int64_t)range->offset);
}

static hx_status fill_sums(const hx__outline *o, const uint64_t *sums) {
    hid_t h5;
    HX_H5_QUIET();
    HX_TRY(file_open(o->file, NULL, &h5));
    return file_close(h5, o->file, set_sums(o, h5, sums));
}

hx_status hx__file_finish(const hx__outline *o, const uint64_t *sums, const uint64_t *blocks, hx__range *ranges) {
    int64_t n = o->items->n_items, n_filled = 0;
    HX_TRY(fill_sums(o, sums));
    if (o->n_blocks > 0) HX_TRY(write_blocks(o->file, blocks, &ranges[n]));
    for (int64_t i = 0; i < n; i++) /* what has no checksum of its own, the blocks too, is covered by the seal */
        if (ranges[i].length > 0) ranges[n_filled++] = ranges[i];
    return hx__seal_write(o->file, hx__seal_bytes(n), ranges, n_filled);
}

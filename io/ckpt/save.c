/* Writing one file together.
 *
 *   1. each rank plans its pieces and sums their elements in memory      (local)
 *   2. sums and element counts are added up over the ranks               (the counts prove that nothing is missing)
 *   3. rank 0 creates the file; all open it; rank 0 reserves its bytes
 *   4. all ranks make the same groups, datasets and attributes, and flush (HDF5's rule for metadata)
 *   5. each rank writes its pieces
 *   6. flush, close, and rank 0 seals the file and fsyncs it
 *
 * Between the steps the ranks agree, so that either all go on or all give up. The writes of step 5 are independent
 * ones: when a collective write fails on one rank alone, HDF5 1.10 leaves the others waiting in it for ever. They are
 * as fast (flat ranges: no difference beyond noise), and a strided piece becomes plain writes of its rows, without
 * the reading and locking by which MPI-IO fills gaps.
 *
 * Checksums are taken from memory, before writing, and not from what can be read back: what goes wrong on the
 * way to the disk is then found by the reader.
 *
 * A full disk is the likely failure, and HDF5 cannot close a file whose metadata it cannot write. So the bytes are
 * reserved while the file is still empty; where the file system knows no reservation, cutting the file to nothing
 * gives back the space that closing needs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "core/base/log.h"
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define META_BYTES      65536 /* groups and attributes of the file itself */
#define META_ITEM_BYTES 2048  /* header, link and name of a dataset, without its checksums */

typedef struct writer {
    hx_ckpt *ckpt;
    const char *file;
    const hx_train_state *state;
    const hx_state_list *items;
    int64_t n, n_sums;
    hx_layout *pieces; /* [n] */
    int64_t *first;    /* [n+1] index of an item's first checksum */
    uint64_t *sums;    /* [n_sums] */
    int64_t *counts;   /* [n] elements written, over all ranks */
    hid_t *datasets;   /* [n] */
    hx__range *ranges; /* [n] where their elements lie; rank 0 */
    int64_t n_ranges;
    hx__stage stage;
    uint64_t meta_bytes, total_bytes;
    hid_t h5;
} writer;

static bool is_parallel(const writer *w) { return w->ckpt->mpi != MPI_COMM_NULL; }
static bool is_root(const writer *w) { return hx_comm_rank(w->ckpt->comm) == 0; }

/* ---- 1, 2: plan ---- */

static hx_status plan_alloc(writer *w) {
    int64_t n = w->n;
    HX_TRY(hx_mem_alloc_array(n, sizeof *w->pieces, (void **)&w->pieces));
    HX_TRY(hx_mem_alloc_array(n + 1, sizeof *w->first, (void **)&w->first));
    HX_TRY(hx_mem_alloc_array(n, sizeof *w->counts, (void **)&w->counts));
    HX_TRY(hx_mem_alloc_array(n, sizeof *w->ranges, (void **)&w->ranges));
    HX_TRY(hx_mem_alloc_array(n, sizeof *w->datasets, (void **)&w->datasets));
    for (int64_t i = 0; i < n; i++) w->datasets[i] = H5I_INVALID_HID;
    return HX_OK;
}

static hx_status plan(writer *w) {
    HX_TRY(hx__ckpt_check_items(w->items));
    HX_TRY(plan_alloc(w));
    w->meta_bytes = META_BYTES + strlen(w->ckpt->config);
    w->total_bytes = hx__seal_bytes(w->n);
    for (int64_t i = 0; i < w->n; i++) {
        const hx_state_item *item = &w->items->items[i];
        int64_t count = hx_shape_count(&item->layout->shape), n_blocks = hx__sum_n_blocks(count);
        w->first[i + 1] = w->first[i] + n_blocks;
        w->meta_bytes += META_ITEM_BYTES + (uint64_t)n_blocks * sizeof(uint64_t);
        w->total_bytes += (uint64_t)count * hx_dtype_bytes(item->dtype);
        if (w->total_bytes > INT64_MAX / 2)
            return HX_FAIL(HX_ERR_OVERFLOW, "the tensors up to %s need more than 2^62 bytes", item->name);
    }
    w->total_bytes += w->meta_bytes;
    w->n_sums = w->first[w->n];
    HX_TRY(hx_mem_alloc_array(w->n_sums, sizeof *w->sums, (void **)&w->sums));
    for (int64_t i = 0; i < w->n; i++) {
        const hx_state_item *item = &w->items->items[i];
        const hx_shape *shape = &item->layout->shape;
        int64_t block = hx__sum_block(hx_shape_count(shape));
        HX_TRY(hx__ckpt_pieces(item, hx__stage_most(item), &w->pieces[i]));
        for (int b = 0; b < w->pieces[i].n_boxes; b++) {
            const hx_box *box = &w->pieces[i].boxes[b];
            const void *data;
            HX_TRY(hx__stage_read(&w->stage, item, box->local, hx_box_count(box, shape->ndim), &data));
            hx__sum_box(data, hx_dtype_bytes(item->dtype), shape, box, block, &w->sums[w->first[i]]);
        }
        w->counts[i] = hx_layout_count(&w->pieces[i]);
    }
    return HX_OK;
}

static hx_status reduce(writer *w) {
    int n, n_sums;
    HX_TRY(hx_count_to_int(w->n, &n));
    HX_TRY(hx_count_to_int(w->n_sums, &n_sums));
    if (is_parallel(w)) {
        MPI_Comm mpi = w->ckpt->mpi;
        if (MPI_Allreduce(MPI_IN_PLACE, w->sums, n_sums, MPI_UINT64_T, MPI_SUM, mpi) != MPI_SUCCESS ||
            MPI_Allreduce(MPI_IN_PLACE, w->counts, n, MPI_INT64_T, MPI_SUM, mpi) != MPI_SUCCESS)
            return HX_FAIL(HX_ERR_COMM, "reducing the checksums of %d tensors failed", n);
    }
    for (int i = 0; i < n; i++) {
        const hx_state_item *item = &w->items->items[i];
        int64_t count = hx_shape_count(&item->layout->shape);
        if (w->counts[i] != count)
            return HX_FAIL(HX_ERR_STATE, "%s: the ranks together hold %lld elements: expected %lld, each once",
                           item->name, (long long)w->counts[i], (long long)count);
    }
    return HX_OK;
}

/* ---- 3: the file ---- */

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
}
#define AUTO_FD HX_CLEANUP(close_fd) int

static hx_status check_room(const writer *w) {
    struct rlimit limit;
    struct statvfs fs;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < w->total_bytes)
        return HX_FAIL(HX_ERR_IO, "%s needs %.1f MB: this process may write files of up to %.1f MB (ulimit -f)",
                       w->file, (double)w->total_bytes / 1e6, (double)limit.rlim_cur / 1e6);
    if (statvfs(w->ckpt->folder, &fs) != 0) return HX_OK;
    __int128 n_free = (__int128)fs.f_bavail * fs.f_frsize;
    if (n_free < w->total_bytes)
        return HX_FAIL(HX_ERR_IO, "%s: %.1f MB are free on its disk: the checkpoint needs %.1f MB", w->ckpt->folder,
                       (double)n_free / 1e6, (double)w->total_bytes / 1e6);
    return HX_OK;
}

/* A plain open tells what is wrong in the system's words, which MPI-IO does not. Then as many zeros as there will
 * be metadata: whatever happens later, cutting the file to nothing gives this much back, which closing needs. */
static hx_status create_probe(const writer *w) {
    static const char zeros[65536];
    AUTO_FD fd = open(w->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "creating %s: %s", w->file, strerror(errno));
    HX_TRY(check_room(w));
    for (uint64_t left = hx__seal_bytes(w->n) + w->meta_bytes; left > 0;) {
        ssize_t n = write(fd, zeros, left < sizeof zeros ? (size_t)left : sizeof zeros);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return HX_FAIL(HX_ERR_IO, "writing %s: %s", w->file, strerror(errno));
        left -= (uint64_t)n;
    }
    if (fsync(fd) != 0) return HX_FAIL(HX_ERR_IO, "fsync of %s: %s", w->file, strerror(errno));
    return HX_OK;
}

static hx_status reserve(const writer *w) {
    AUTO_FD fd = open(w->file, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", w->file, strerror(errno));
    int failed = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)w->total_bytes);
    if (failed && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
        return HX_FAIL(HX_ERR_IO, "reserving %.1f MB for %s: %s", (double)w->total_bytes / 1e6, w->file,
                       strerror(errno));
    return HX_OK;
}

static hx_status open_together(writer *w) {
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    HX_AUTO_H5 create = H5Pcreate(H5P_FILE_CREATE);
    if (access < 0 || create < 0 || H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) < 0 ||
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 || H5Pset_file_locking(access, false, true) < 0 ||
        /* one run of metadata at the front: little to hash for the seal, and offsets that do not grow */
        H5Pset_meta_block_size(access, w->meta_bytes) < 0 || H5Pset_userblock(create, hx__seal_bytes(w->n)) < 0 ||
        H5Pset_obj_track_times(create, false) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to create", w->file);
    if (is_parallel(w) && (H5Pset_fapl_mpio(access, w->ckpt->mpi, MPI_INFO_NULL) < 0 ||
                           H5Pset_coll_metadata_write(access, true) < 0))
        return HX_H5_FAIL(HX_ERR_IO, "choosing MPI-IO for", w->file);
    w->h5 = H5Fcreate(w->file, H5F_ACC_TRUNC, create, access);
    if (w->h5 < 0) return HX_H5_FAIL(HX_ERR_IO, "creating", w->file);
    return HX_OK;
}

/* ---- 4: metadata, the same calls on every rank ---- */

/* Groups and datasets carry no times: ranks' clocks differ, and equal states shall give equal files. */
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

static hx_status dataset_create(writer *w, int64_t i) {
    const hx_state_item *item = &w->items->items[i];
    const hx_shape *shape = &item->layout->shape;
    hsize_t dims[HX_MAX_DIMS];
    for (int d = 0; d < shape->ndim; d++) dims[d] = (hsize_t)shape->dims[d];
    HX_TRY(groups_above(w->h5, item->name));
    HX_AUTO_H5 space = shape->ndim ? H5Screate_simple(shape->ndim, dims, NULL) : H5Screate(H5S_SCALAR);
    HX_AUTO_H5 create = H5Pcreate(H5P_DATASET_CREATE);
    HX_AUTO_H5 type = hx__h5_type_create(item->dtype);
    if (space < 0 || create < 0 || type < 0 || H5Pset_obj_track_times(create, false) < 0 ||
        H5Pset_layout(create, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY) < 0 ||
        H5Pset_fill_time(create, H5D_FILL_TIME_NEVER) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing dataset", item->name);
    w->datasets[i] = H5Dcreate2(w->h5, item->name, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (w->datasets[i] < 0) return HX_H5_FAIL(HX_ERR_IO, "creating dataset", item->name);
    int64_t block = hx__sum_block(hx_shape_count(shape)), n_sums = w->first[i + 1] - w->first[i];
    HX_TRY(hx__h5_attr_write(w->datasets[i], "xxh3_block", H5T_STD_I64LE, 1, &block));
    return hx__h5_attr_write(w->datasets[i], "xxh3", H5T_STD_U64LE, n_sums, &w->sums[w->first[i]]);
}

static hx_status meta_create(writer *w) {
    unsigned v[3];
    char versions[256], mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "none";
    int n;
    if (is_parallel(w) && MPI_Get_library_version(mpi, &n) == MPI_SUCCESS) mpi[strcspn(mpi, ",\n")] = 0;
    H5get_libversion(&v[0], &v[1], &v[2]);
    snprintf(versions, sizeof versions, "HDF5 %u.%u.%u, MPI %.100s", v[0], v[1], v[2], mpi);
    int64_t format = HX_CKPT_FORMAT, size = hx_comm_size(w->ckpt->comm);
    HX_TRY(group_create(w->h5, "/meta"));
    HX_TRY(group_create(w->h5, "/train"));
    HX_AUTO_H5 meta = H5Gopen2(w->h5, "/meta", H5P_DEFAULT);
    HX_AUTO_H5 train = H5Gopen2(w->h5, "/train", H5P_DEFAULT);
    if (meta < 0 || train < 0) return HX_H5_FAIL(HX_ERR_IO, "groups of", w->file);
    HX_TRY(hx__h5_attr_write(meta, "format", H5T_STD_I64LE, 1, &format));
    HX_TRY(hx__h5_attr_write(meta, "world_size", H5T_STD_I64LE, 1, &size));
    HX_TRY(hx__h5_text_write(meta, "versions", versions));
    HX_TRY(hx__h5_text_write(meta, "config", w->ckpt->config));
    if (w->ckpt->kernels != NULL && w->ckpt->kernels[0] != '\0') HX_TRY(hx__h5_text_write(meta, "kernels", w->ckpt->kernels));
    return hx__ckpt_state_write(train, w->state);
}

/* The metadata go to the disk at once, while there is room: a flush that fails leaves HDF5 1.10 with a file that it
 * can never close again. Later flushes write the same bytes of the disk once more. */
static hx_status create_all(writer *w) {
    HX_TRY(meta_create(w));
    for (int64_t i = 0; i < w->n; i++) HX_TRY(dataset_create(w, i));
    return H5Fflush(w->h5, H5F_SCOPE_GLOBAL) < 0 ? HX_H5_FAIL(HX_ERR_IO, "flushing", w->file) : HX_OK;
}

/* ---- 5, 6: elements, end ---- */

static hx_status write_all(writer *w) {
    for (int64_t i = 0; i < w->n; i++) {
        const hx_state_item *item = &w->items->items[i];
        const hx_shape *shape = &item->layout->shape;
        for (int b = 0; b < w->pieces[i].n_boxes; b++) {
            const hx_box *box = &w->pieces[i].boxes[b];
            const void *data;
            HX_TRY(hx__stage_read(&w->stage, item, box->local, hx_box_count(box, shape->ndim), &data));
            HX_TRY(hx__h5_box_write(w->datasets[i], item->name, shape, box, item->dtype, data));
        }
    }
    return HX_OK;
}

static hx_status flush(writer *w) {
    if (H5Fflush(w->h5, H5F_SCOPE_GLOBAL) < 0) return HX_H5_FAIL(HX_ERR_IO, "flushing", w->file);
    for (int64_t i = 0; i < w->n; i++) {
        hsize_t n_bytes = H5Dget_storage_size(w->datasets[i]);
        haddr_t offset = n_bytes ? H5Dget_offset(w->datasets[i]) : 0;
        if (offset == HADDR_UNDEF) return HX_H5_FAIL(HX_ERR_IO, "locating", w->items->items[i].name);
        if (n_bytes) w->ranges[w->n_ranges++] = (hx__range){offset, n_bytes};
    }
    return HX_OK;
}

static void datasets_close(writer *w) {
    for (int64_t i = 0; w->datasets && i < w->n; i++) hx__h5_release(&w->datasets[i]);
}

static hx_status file_close(writer *w) {
    datasets_close(w);
    hid_t h5 = w->h5;
    w->h5 = H5I_INVALID_HID;
    return H5Fclose(h5) < 0 ? HX_H5_FAIL(HX_ERR_IO, "closing", w->file) : HX_OK;
}

/* Collective. Get rid of a file that could not be written, keeping the failure that the caller reports. */
static void give_up(writer *w) {
    char message[2048];
    snprintf(message, sizeof message, "%s", hx_error_message());
    if (is_root(w) && truncate(w->file, 0) != 0 && errno != ENOENT)
        HX_LOG(HX_LOG_WARN, "%s: %s", w->file, strerror(errno));
    (void)hx_comm_barrier(w->ckpt->comm); /* nobody writes metadata before the space is free */
    if (w->h5 >= 0 && file_close(w) != HX_OK) HX_LOG(HX_LOG_WARN, "%s", hx_error_message());
    if (is_root(w)) unlink(w->file);
    hx_error_adopt(HX_ERR_IO, message);
}

static void writer_free(writer *w) {
    datasets_close(w);
    hx__stage_close(&w->stage);
    for (int64_t i = 0; w->pieces && i < w->n; i++) hx_layout_destroy(&w->pieces[i]);
    void **owned[] = {(void **)&w->pieces, (void **)&w->first,  (void **)&w->sums,
                      (void **)&w->counts, (void **)&w->ranges, (void **)&w->datasets};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
}

static hx_status write_file(writer *w) {
    hx_comm *comm = w->ckpt->comm;
    HX_TRY(hx_comm_agree(comm, plan(w)));
    HX_TRY(hx_comm_agree_equal(comm, "number of tensors in the checkpoint", w->n));
    HX_TRY(hx_comm_agree_equal(comm, "names and shapes of the tensors in the checkpoint", hx__ckpt_list_hash(w->items)));
    HX_TRY(hx_comm_agree(comm, reduce(w)));
    HX_TRY(hx_comm_agree(comm, is_root(w) ? create_probe(w) : HX_OK));
    HX_TRY(hx_comm_agree(comm, open_together(w)));
    HX_TRY(hx_comm_agree(comm, is_root(w) ? reserve(w) : HX_OK));
    HX_TRY(hx_comm_agree(comm, create_all(w)));
    HX_TRY(hx_comm_agree(comm, write_all(w)));
    HX_TRY(hx_comm_agree(comm, flush(w)));
    HX_TRY(hx_comm_agree(comm, file_close(w)));
    return hx_comm_agree(comm, is_root(w) ? hx__seal_write(w->file, hx__seal_bytes(w->n), w->ranges, w->n_ranges)
                                          : HX_OK);
}

hx_status hx__ckpt_write(hx_ckpt *ckpt, const char *file, const hx_train_state *state, const hx_state_list *items) {
    writer w = {.ckpt = ckpt, .file = file, .state = state, .items = items, .n = items ? items->n_items : 0,
                .h5 = H5I_INVALID_HID};
    HX_H5_QUIET();
    hx_status status = write_file(&w);
    if (status != HX_OK) give_up(&w);
    writer_free(&w);
    return status;
}

/* Checkpoints do not know how many ranks wrote them: what any number saved in any layout, any other number reads in
 * any other layout, bit by bit. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <hdf5.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"
#include "tests/support/expect.h"

/* Stand in for libc's: many network file systems cannot reserve space, and others fill the disk meanwhile. */
static bool can_foresee = true;
int fallocate(int fd, int mode, off_t offset, off_t length) {
    if (can_foresee) return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    errno = EOPNOTSUPP;
    return -1;
}
int statvfs(const char *path, struct statvfs *out) {
    struct statfs fs;
    if (!can_foresee || statfs(path, &fs) != 0) return -1;
    *out = (struct statvfs){.f_bavail = fs.f_bavail, .f_frsize = (unsigned long)fs.f_frsize};
    return 0;
}

enum { FLAT, ROWS, COLUMNS, REPLICA, SCALAR, EMPTY, N_ITEMS };
static const char *const names[N_ITEMS] = {"/optim/m/w.flat", "/model/w.rows", "/model/w.columns", "/model/w.replica",
                                           "/model/scalar",   "/model/none"};
static const hx_shape shapes[N_ITEMS] = {{3, {7, 11, 5}}, {2, {37, 13}}, {3, {6, 40, 3}}, {1, {1001}}, {0, {0}}, {2, {0, 3}}};
static const hx_dtype dtypes[N_ITEMS] = {HX_F32, HX_F64, HX_F32, HX_I64, HX_F64, HX_U8};

/* One rank's part of the state, divided over a communicator. */
typedef struct part {
    hx_layout layout[N_ITEMS];
    void *data[N_ITEMS];
    hx_state_item items[N_ITEMS];
    hx_state_list list;
} part;

static hx_comm *world;
static char folder[256];

static void slice(const hx_comm *comm, int64_t n, int64_t *begin, int64_t *end) {
    *begin = n * hx_comm_rank(comm) / hx_comm_size(comm);
    *end = n * (hx_comm_rank(comm) + 1) / hx_comm_size(comm);
}

static hx_layout layout_of(const hx_comm *comm, int item) {
    hx_layout full, out;
    int64_t begin, end;
    OK(hx_layout_full(&shapes[item], &full));
    switch (item) {
    case FLAT: /* a flat range of the whole */
        slice(comm, 7 * 11 * 5, &begin, &end);
        OK(hx_layout_restrict(&full, begin, end, &out));
        break;
    case ROWS:
    case COLUMNS: /* a slice of dim 0 or 1 */
        slice(comm, shapes[item].dims[item == COLUMNS], &begin, &end);
        OK(hx_layout_slice(&shapes[item], item == COLUMNS, begin, end - begin, &out));
        break;
    default: OK(hx_layout_copy(&full, &out));
    }
    hx_layout_destroy(&full);
    return out;
}

/* The bits of an element are a function of its item and global position. */
static uint64_t bits(int item, int64_t at) { return (uint64_t)(at + 1) * 0x9E3779B97F4A7C15u + (uint64_t)item; }

/* Write the elements held here, or compare with them. */
static bool fill(const part *p, int item, bool compare) {
    const hx_layout *l = &p->layout[item];
    size_t size = hx_dtype_bytes(dtypes[item]);
    int64_t n = hx_shape_count(&shapes[item]), strides[HX_MAX_DIMS];
    hx_shape_strides(&shapes[item], strides);
    for (int64_t at = 0; at < n; at++) {
        int64_t index[HX_MAX_DIMS] = {0}, rest = at;
        for (int d = 0; d < shapes[item].ndim; d++) {
            index[d] = rest / strides[d];
            rest %= strides[d];
        }
        int64_t local = hx_layout_find(l, index);
        if (local < 0) continue;
        uint64_t value = bits(item, at);
        char *p_local = (char *)p->data[item] + (size_t)local * size;
        if (compare && memcmp(p_local, &value, size) != 0) return false;
        if (!compare) memcpy(p_local, &value, size);
    }
    return true;
}

static void part_create(const hx_comm *comm, part *p) {
    for (int i = 0; i < N_ITEMS; i++) {
        p->layout[i] = layout_of(comm, i);
        p->data[i] = calloc(4096, 8);
        bool shared = i >= REPLICA;
        p->items[i] = (hx_state_item){.dtype = dtypes[i], .layout = &p->layout[i], .data = p->data[i],
                                      .replica = shared ? hx_comm_rank(comm) : 0,
                                      .n_replicas = shared ? hx_comm_size(comm) : 1};
        strcpy(p->items[i].name, names[i]);
    }
    p->list = (hx_state_list){.items = p->items, .n_items = N_ITEMS};
}

static void part_free(part *p) {
    for (int i = 0; i < N_ITEMS; i++) {
        hx_layout_destroy(&p->layout[i]);
        free(p->data[i]);
    }
}

static void open_world(void) {
    OK(hx_comm_mpi_open(&world));
    if (hx_comm_rank(world) == 0) {
        snprintf(folder, sizeof folder, "%.200s/helix-ckpt-mpi-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
        cr_assert(mkdtemp(folder));
    }
    OK(hx_comm_broadcast(world, folder, sizeof folder, HX_U8, 0, NULL, NULL));
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

static void close_world(void) {
    OK(hx_comm_barrier(world));
    if (hx_comm_rank(world) == 0) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    hx_comm_close(&world);
}

static hx_status save(hx_comm *comm, const part *p, int64_t step) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    hx_ckpt *ckpt;
    HX_TRY(hx_ckpt_open(comm, folder, &config, "a: 1\n", &ckpt));
    hx_status status = hx_ckpt_save(ckpt, &(hx_train_state){.step = step, .cursor = 5 * step}, &p->list, false);
    hx_ckpt_close(&ckpt);
    return status;
}

static void save_filled(hx_comm *comm, int64_t step) {
    part p;
    part_create(comm, &p);
    for (int i = 0; i < N_ITEMS; i++) fill(&p, i, false);
    OK(save(comm, &p, step));
    part_free(&p);
}

static void load_and_compare(hx_comm *comm, int64_t step) {
    part p;
    hx_train_state state;
    part_create(comm, &p);
    OK(hx_ckpt_load(comm, folder, &p.list, &state));
    cr_assert_eq(state.step, step);
    cr_assert_eq(state.cursor, 5 * step);
    for (int i = 0; i < N_ITEMS; i++)
        cr_assert(fill(&p, i, true), "%s differs on rank %d of %d", names[i], hx_comm_rank(comm), hx_comm_size(comm));
    part_free(&p);
}

Test(ckpt, what_all_ranks_save_is_read_by_any_number_of_ranks) {
    open_world();
    save_filled(world, 1);
    load_and_compare(world, 1);
    for (int size = 1; size <= hx_comm_size(world); size++) { /* groups of `size`, the last one smaller */
        hx_comm *group;
        OK(hx_comm_split(world, hx_comm_rank(world) / size, 0, &group));
        load_and_compare(group, 1);
        hx_comm_close(&group);
    }
    close_world();
}

Test(ckpt, what_some_ranks_save_is_read_by_all) {
    open_world();
    for (int size = 1; size <= hx_comm_size(world); size++) {
        hx_comm *group;
        OK(hx_comm_split(world, hx_comm_rank(world) < size ? 0 : 1, 0, &group));
        if (hx_comm_rank(world) < size) save_filled(group, size);
        hx_comm_close(&group);
        OK(hx_comm_barrier(world));
        load_and_compare(world, size);
        OK(hx_comm_barrier(world));
    }
    close_world();
}

/* Of what all ranks hold alike some have two boxes, or do not tell that there are others. */
static void load_unlike_copies(hx_comm *comm, bool is_cut, int n_replicas) {
    hx_box boxes[] = {{.extent = {400}}, {.start = {400}, .extent = {601}, .local = 400}};
    part p;
    part_create(comm, &p);
    const hx_layout whole = p.layout[REPLICA];
    if (hx_comm_rank(comm) % 2 == 1) {
        if (is_cut) p.layout[REPLICA] = (hx_layout){.shape = whole.shape, .n_boxes = 2, .boxes = boxes};
        p.items[REPLICA].replica %= n_replicas;
        p.items[REPLICA].n_replicas = n_replicas;
    }
    OK(hx_ckpt_load(comm, folder, &p.list, NULL));
    for (int i = 0; i < N_ITEMS; i++) cr_assert(fill(&p, i, true), "%s differs on rank %d", names[i], hx_comm_rank(comm));
    p.layout[REPLICA] = whole;
    part_free(&p);
}

Test(ckpt, copies_that_ranks_hold_in_different_ways_are_read_by_all) {
    open_world();
    save_filled(world, 1);
    load_unlike_copies(world, true, hx_comm_size(world));
    load_unlike_copies(world, false, 1);
    close_world();
}

Test(ckpt, the_number_of_ranks_leaves_no_trace_in_tensors_or_checksums) {
    open_world();
    char command[2048];
    save_filled(world, 1);
    if (hx_comm_rank(world) == 0) {
        hx_comm *self;
        OK(hx_comm_self_open(&self));
        save_filled(self, 2);
        hx_comm_close(&self);
        snprintf(command, sizeof command, "cd '%s' && h5diff gen-0001/step-00000001.h5 gen-0002/step-00000002.h5 /model && "
                 "h5diff gen-0001/step-00000001.h5 gen-0002/step-00000002.h5 /optim", folder);
        cr_assert_eq(system(command), 0, "%s", command);
    }
    close_world();
}

Test(ckpt, ranks_with_different_lists_fail_together_and_leave_nothing) {
    open_world();
    part p;
    part_create(world, &p);
    int last = hx_comm_size(world) - 1;
    if (hx_comm_rank(world) == last) strcpy(p.items[ROWS].name, "/model/w.other");
    hx_status status = save(world, &p, 1);
    cr_assert_eq(status == HX_OK, last == 0);
    if (last > 0) {
        char file[HX_PATH_BYTES];
        cr_assert(strstr(hx_error_message(), "names and shapes"), "%s", hx_error_message());
        cr_assert_eq(hx_ckpt_resolve(folder, file), HX_ERR_IO);
    }
    part_free(&p);
    close_world();
}

Test(ckpt, a_part_held_by_nobody_is_named_on_all_ranks) {
    open_world();
    part p;
    part_create(world, &p);
    if (hx_comm_rank(world) == 0) hx_layout_destroy(&p.layout[ROWS]);
    cr_assert_eq(save(world, &p, 1), HX_ERR_STATE);
    cr_assert(strstr(hx_error_message(), "/model/w.rows"), "%s", hx_error_message());
    part_free(&p);
    close_world();
}

Test(ckpt, a_rank_whose_data_are_unusable_is_named_to_the_others) {
    open_world();
    part p;
    part_create(world, &p);
    int bad = hx_comm_size(world) - 1;
    if (hx_comm_rank(world) == bad) p.items[FLAT].dtype = (hx_dtype)77;
    hx_status status = save(world, &p, 1);
    cr_assert_eq(status, hx_comm_rank(world) == bad ? HX_ERR_ARG : HX_ERR_REMOTE);
    cr_assert(strstr(hx_error_message(), "w.flat"), "%s", hx_error_message());
    part_free(&p);
    close_world();
}

Test(ckpt, a_damaged_tensor_fails_the_load_on_all_ranks) {
    open_world();
    save_filled(world, 1);
    if (hx_comm_rank(world) == 0) {
        char path[512];
        snprintf(path, sizeof path, "%s/gen-0001/step-00000001.h5", folder);
        hid_t h5 = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(h5, names[ROWS], H5P_DEFAULT);
        haddr_t at = H5Dget_offset(set);
        H5Dclose(set);
        H5Fclose(h5);
        FILE *f = fopen(path, "r+");
        fseek(f, (long)at + 100, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, (long)at + 100, SEEK_SET);
        fputc(byte ^ 1, f);
        fclose(f);
    }
    OK(hx_comm_barrier(world));
    part p;
    part_create(world, &p);
    hx_status status = hx_ckpt_load(world, folder, &p.list, NULL);
    cr_assert(status == HX_ERR_CORRUPT || status == HX_ERR_REMOTE, "%s", hx_status_name(status));
    char words[128]; /* what rank 0 wrote of it */
    snprintf(words, sizeof words, "/model/w.rows: elements 0 to %d fail", 37 / hx_comm_size(world) * 13 - 1);
    cr_assert(strstr(hx_error_message(), words), "%s", hx_error_message());
    snprintf(words, sizeof words, "written by rank 0 on %s", hx_comm_host(world));
    cr_assert(strstr(hx_error_message(), words), "%s", hx_error_message());
    part_free(&p);
    close_world();
}

Test(ckpt, a_size_limit_fails_all_ranks_and_saving_goes_on_afterwards) {
    struct rlimit limit;
    open_world();
    save_filled(world, 1);
    part p;
    part_create(world, &p);
    getrlimit(RLIMIT_FSIZE, &limit);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 20000;
    setrlimit(RLIMIT_FSIZE, &limit);
    hx_status status = save(world, &p, 2);
    limit.rlim_cur = before;
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_assert_eq(status, hx_comm_rank(world) == 0 ? HX_ERR_IO : HX_ERR_REMOTE);
    cr_assert(strstr(hx_error_message(), "ulimit"), "%s", hx_error_message());
    load_and_compare(world, 1);
    save_filled(world, 3);
    load_and_compare(world, 3);
    part_free(&p);
    close_world();
}

/* Save a vector of n elements of which rank 0 writes only the first, so that not all ranks meet the full disk. */
static hx_status save_vector(float *data, int64_t n, int64_t step) {
    int64_t rank = hx_comm_rank(world), size = hx_comm_size(world);
    int64_t begin = rank == 0 ? 0 : 1 + (n - 1) * (rank - 1) / (size - 1), end = size == 1 ? n : 1 + (n - 1) * rank / (size - 1);
    hx_layout layout;
    OK(hx_layout_slice(&(hx_shape){1, {n}}, 0, begin, end - begin, &layout));
    part p = {.items[0] = {"/model/v", HX_F32, &layout, data, 0, 1}};
    p.list = (hx_state_list){.items = p.items, .n_items = 1};
    hx_status status = save(world, &p, step);
    hx_layout_destroy(&layout);
    return status;
}

Test(ckpt, a_disk_that_fills_up_meanwhile_fails_all_ranks_and_saving_goes_on_afterwards) {
    static float data[500000]; /* 2 MB */
    open_world();
    uint8_t is_mounted = hx_comm_rank(world) == 0 && mount("tmpfs", folder, "tmpfs", 0, "size=1m") == 0;
    OK(hx_comm_broadcast(world, &is_mounted, 1, HX_U8, 0, NULL, NULL));
    if (is_mounted) {
        can_foresee = false;
        OK(save_vector(data, 1000, 1));
        for (int round = 0; round < 3; round++) {
            hx_status status = save_vector(data, 500000, 2);
            cr_assert(status == HX_ERR_IO || status == HX_ERR_REMOTE, "%s", hx_status_name(status));
            cr_assert(strstr(hx_error_message(), "/model/v"), "%s", hx_error_message());
            cr_assert_eq(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0, "HDF5 still holds handles");
        }
        char file[HX_PATH_BYTES];
        OK(hx_ckpt_resolve(folder, file));
        cr_assert(strstr(file, "step-00000001.h5"));
        OK(hx_comm_barrier(world));
        OK(save_vector(data, 10000, 3));
        OK(hx_comm_barrier(world));
        if (hx_comm_rank(world) == 0) cr_assert_eq(umount(folder), 0);
    }
    close_world();
    if (!is_mounted) cr_skip_test("mounting a small disk needs root");
}

Test(ckpt, a_partial_load_reports_the_same_on_all_ranks) {
    open_world();
    save_filled(world, 1);
    part p;
    hx_train_state state = {0};
    hx_ckpt_partial report;
    part_create(world, &p);
    strcpy(p.items[ROWS].name, "/model/w.other");
    OK(hx_ckpt_load_partial(world, folder, &p.list, &state, &report));
    cr_assert_eq(state.cursor, 5);
    cr_assert(report.n_loaded == N_ITEMS - 1 && report.n_left == 1 && report.n_unwanted == 1);
    cr_assert_str_eq(report.left[0].name, "/model/w.other");
    cr_assert_str_eq(report.unwanted[0].name, "/model/w.rows");
    for (int i = 0; i < N_ITEMS; i++) cr_assert(i == ROWS || fill(&p, i, true), "%s", names[i]);
    hx_ckpt_partial_destroy(&report);
    part_free(&p);
    close_world();
}

/* A save on a thread of its own, beside collectives and HDF5 calls of the main thread. */
typedef struct beside {
    hx_ckpt *ckpt;
    part p;
    char file[300], error[1024];
} beside;

static void *save_beside(void *self) {
    beside *b = self;
    for (int i = 0; i < 5 && !b->error[0]; i++)
        if (hx__ckpt_write(b->ckpt, b->file, &(hx_train_state){.step = 2, .cursor = 10}, &b->p.list) != HX_OK)
            snprintf(b->error, sizeof b->error, "%s", hx_error_message());
    return NULL;
}

Test(ckpt, a_file_is_written_beside_the_main_threads_collectives) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    beside b = {.error = ""};
    pthread_t thread;
    char first[HX_PATH_BYTES];
    open_world();
    save_filled(world, 1);
    OK(hx_ckpt_resolve(folder, first));
    part_create(world, &b.p);
    for (int i = 0; i < N_ITEMS; i++) fill(&b.p, i, false);
    snprintf(b.file, sizeof b.file, "%s/beside.h5", folder);
    OK(hx_ckpt_open(world, folder, &config, "", &b.ckpt));
    cr_assert_eq(pthread_create(&thread, NULL, save_beside, &b), 0);
    for (int i = 0; i < 20; i++) {
        hx_ckpt_info info;
        int64_t sum = 1;
        OK(hx_comm_all_reduce(world, &sum, 1, HX_I64, HX_SUM, NULL, NULL));
        cr_assert_eq(sum, hx_comm_size(world));
        OK(hx_ckpt_inspect(first, false, &info));
        cr_assert_eq(info.n_entries, N_ITEMS);
        hx_ckpt_info_destroy(&info);
    }
    pthread_join(thread, NULL);
    cr_assert_str_empty(b.error);
    part_free(&b.p);
    hx_ckpt_close(&b.ckpt);
    part p;
    hx_train_state state;
    part_create(world, &p);
    OK(hx_ckpt_load(world, b.file, &p.list, &state));
    cr_assert_eq(state.cursor, 10);
    for (int i = 0; i < N_ITEMS; i++) cr_assert(fill(&p, i, true), "%s", names[i]);
    part_free(&p);
    close_world();
}

Test(ckpt, the_self_test_passes) {
    open_world();
    OK(hx_ckpt_self_test(world, folder));
    close_world();
}

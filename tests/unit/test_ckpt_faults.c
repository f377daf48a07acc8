/* Damaged files, files of others, and disks that fill up. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "tests/unit/test_ckpt_fixture.h"
#include "io/ckpt/ckpt_impl.h"

TestSuite(ckpt_faults, .init = fixture_open, .fini = fixture_close);

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

static char file[HX_PATH_BYTES];

static void save_one(void) {
    OK(save_step(folder, 1, false));
    OK(hx_ckpt_resolve(folder, file));
}

static int64_t file_bytes(void) {
    struct stat st;
    cr_assert_eq(stat(file, &st), 0);
    return st.st_size;
}

static void flip(int64_t at) {
    int fd = open(file, O_RDWR);
    uint8_t byte;
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Where in the file this float array begins. */
static int64_t find_bytes(const void *bytes, size_t n) {
    int64_t size = file_bytes();
    char *all = malloc((size_t)size);
    FILE *f = fopen(file, "r");
    cr_assert_eq(fread(all, 1, (size_t)size, f), (size_t)size);
    fclose(f);
    char *at = memmem(all, (size_t)size, bytes, n);
    cr_assert(at);
    int64_t offset = at - all;
    free(all);
    return offset;
}

Test(ckpt_faults, a_file_cut_short_at_any_length_is_refused) {
    save_one();
    hx_train_state state = {.step = 77};
    for (int64_t n = file_bytes() - 1; n >= 0; n -= 1 + n / 37) {
        cr_assert_eq(truncate(file, n), 0);
        hx_status status = hx_ckpt_load(comm, file, &items, &state);
        cr_assert_eq(status, HX_ERR_FORMAT, "cut to %lld: %s", (long long)n, hx_status_name(status));
    }
    cr_assert_eq(state.step, 77, "a failure wrote the state");
}

Test(ckpt_faults, cut_short_and_lengthened_files_are_told_apart) {
    save_one();
    int64_t n = file_bytes();
    cr_assert_eq(truncate(file, n - 8), 0);
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_FORMAT, "cut short");
    cr_assert_eq(truncate(file, n + 8), 0);
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_FORMAT, "appended");
}

Test(ckpt_faults, a_flipped_byte_of_a_tensor_is_named) {
    save_one();
    int64_t at = find_bytes(weight, sizeof weight);
    flip(at + 4321);
    REFUSED(hx_ckpt_load(comm, folder, &items, NULL), HX_ERR_CORRUPT,
            "/model/blocks.0.attn.q.weight: elements 0 to 11999");
    hx_ckpt_info info;
    REFUSED(hx_ckpt_inspect(file, true, &info), HX_ERR_CORRUPT, "/model/blocks.0.attn.q.weight");
    flip(at + 4321);
    OK(hx_ckpt_load(comm, folder, &items, NULL));
}

Test(ckpt_faults, a_flipped_byte_anywhere_is_noticed) {
    save_one();
    int64_t n = file_bytes();
    for (int64_t at = 0; at < n; at += at < 512 ? 7 : 401) {
        flip(at);
        hx_status status = hx_ckpt_load(comm, file, &items, NULL);
        cr_assert(status == HX_ERR_CORRUPT || status == HX_ERR_FORMAT, "byte %lld: %s", (long long)at,
                  hx_status_name(status));
        flip(at);
    }
    OK(hx_ckpt_load(comm, file, &items, NULL));
}

Test(ckpt_faults, a_newer_format_is_refused_with_both_versions) {
    save_one();
    int fd = open(file, O_RDWR);
    uint64_t format = HX_CKPT_FORMAT + 1;
    cr_assert_eq(pwrite(fd, &format, sizeof format, 16), sizeof format);
    close(fd);
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_FORMAT, "format 3: this version of Helix reads formats 1 to 2");
}

Test(ckpt_faults, files_that_are_no_checkpoints_are_refused) {
    snprintf(file, sizeof file, "%s/x.h5", folder);
    hid_t h5 = H5Fcreate(file, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(h5);
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_FORMAT, "not a Helix checkpoint");
    REFUSED(hx_ckpt_load(comm, "/dev/null", &items, NULL), HX_ERR_IO, "not a regular file");
    snprintf(file, sizeof file, "%s/pipe", folder);
    cr_assert_eq(mkfifo(file, 0600), 0);
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_IO, "not a regular file");
}

/* What users of other trainers lose, number 8: a resume loads another model without a word (Megatron#1570, #6920). */
Test(ckpt_faults, the_checkpoint_of_another_model_is_told_by_name_and_shapes) {
    save_one();
    hx_state_item changed[3];
    hx_state_list list = {.items = changed, .n_items = 3};
    hx_layout other;
    OK(hx_layout_full(&HX_SHAPE(40, 300), &other));
    memcpy(changed, items_array, sizeof changed);
    changed[0].layout = &other;
    REFUSED(hx_ckpt_load(comm, folder, &list, NULL), HX_ERR_MISMATCH,
            "/model/blocks.0.attn.q.weight is f32 [300,40] in the checkpoint: this model needs f32 [40,300]");
    memcpy(changed, items_array, sizeof changed);
    changed[0].dtype = HX_I32;
    REFUSED(hx_ckpt_load(comm, folder, &list, NULL), HX_ERR_MISMATCH, "this model needs i32 [300,40]");
    memcpy(changed, items_array, sizeof changed);
    strcpy(changed[1].name, "/model/blocks.7.attn.q.weight");
    REFUSED(hx_ckpt_load(comm, folder, &list, NULL), HX_ERR_MISMATCH, "/model/blocks.7.attn.q.weight is not in");
    strcpy(changed[1].name, "/model");
    REFUSED(hx_ckpt_load(comm, folder, &list, NULL), HX_ERR_ARG, "/model");
    hx_layout_destroy(&other);
}

Test(ckpt_faults, unusable_lists_are_refused_before_anything_is_written) {
    hx_ckpt *ckpt;
    hx_train_state state = {0};
    hx_state_item changed[3];
    hx_state_list list = {.items = changed, .n_items = 3};
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    static const char *const names[] = {"", "/", "weight", "/weight", "/train/x", "/meta/x", "/a//b", "/a/./b", "/a/../b", "/a/"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        memcpy(changed, items_array, sizeof changed);
        strcpy(changed[0].name, names[i]);
        REFUSED(hx_ckpt_save(ckpt, &state, &list, false), HX_ERR_ARG, "tensor name");
    }
    memcpy(changed, items_array, sizeof changed);
    strcpy(changed[2].name, changed[0].name);
    REFUSED(hx_ckpt_save(ckpt, &state, &list, false), HX_ERR_ARG, "two tensors are called /model/blocks.0.attn.q.weight");
    strcpy(changed[2].name, "/model/blocks.0.attn.q.weight/inner");
    REFUSED(hx_ckpt_save(ckpt, &state, &list, false), HX_ERR_IO, "/model/blocks.0.attn.q.weight");
    hx_layout half;
    OK(hx_layout_slice(&HX_SHAPE(300, 40), 0, 0, 150, &half));
    memcpy(changed, items_array, sizeof changed);
    changed[0].layout = &half;
    REFUSED(hx_ckpt_save(ckpt, &state, &list, false), HX_ERR_STATE, "6000 elements: expected 12000");
    hx_layout_destroy(&half);
    REFUSED(hx_ckpt_save(ckpt, &(hx_train_state){.step = -1}, &items, false), HX_ERR_ARG, "step -1");
    hx_ckpt_close(&ckpt);
    char command[512];
    snprintf(command, sizeof command, "test -z \"$(ls -A '%s/gen-0001')\"", folder);
    cr_assert_eq(system(command), 0, "something was left in the folder");
}

Test(ckpt_faults, a_folder_that_cannot_be_made_is_named) {
    hx_ckpt *ckpt;
    char path[512];
    snprintf(path, sizeof path, "%s/plain", folder);
    fclose(fopen(path, "w"));
    REFUSED(hx_ckpt_open(comm, path, &config, "", &ckpt), HX_ERR_IO, "plain");
    snprintf(path, sizeof path, "%s/plain/sub", folder);
    REFUSED(hx_ckpt_open(comm, path, &config, "", &ckpt), HX_ERR_IO, "plain: ");
    REFUSED(hx_ckpt_open(comm, "/proc/none", &config, "", &ckpt), HX_ERR_IO, "/proc/none");
}

/* After a failed save: the one before is whole, nothing is left over, HDF5 holds no file, and saving works again. */
static void check_recovery(const char *where, void (*relieve)(void)) {
    hx_train_state state;
    char command[512];
    cr_assert_eq(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0, "HDF5 still holds handles");
    OK(hx_ckpt_load(comm, where, &items, &state));
    cr_assert(state_is(1));
    snprintf(command, sizeof command, "test -z \"$(find '%s' -name '*.tmp')\"", where);
    cr_assert_eq(system(command), 0, "a temporary file was left");
    relieve();
    OK(save_step(where, 3, false));
    OK(hx_ckpt_load(comm, where, &items, &state));
    cr_assert(state_is(3));
}

/* One save in a process of its own, whose n-th call that changes the disk fails. @return its status */
static hx_status save_with_failure(int n) {
    pid_t child = fork();
    if (child == 0) {
        char value[32];
        snprintf(value, sizeof value, "%d:EIO", n);
        setenv("HELIX_TEST_IO_FAIL", value, 1);
        hx_status status = save_step(folder, 2, false);
        bool is_told = status == HX_OK || strstr(hx_error_message(), strerror(EIO));
        _exit(is_told ? (int)status : HX_STATUS_COUNT);
    }
    int status = -1;
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return (hx_status)WEXITSTATUS(status);
}

/* The environment is read with the first such call of a process: the step before is saved by another one, too. */
Test(ckpt_faults, each_call_that_fails_fails_the_save_and_spares_the_one_before) {
    cr_assert_eq(save_with_failure(1000), HX_OK);
    int n_failed = 0;
    for (int n = 1; n <= 40; n++) {
        char command[512];
        hx_train_state state;
        hx_status status = save_with_failure(n);
        cr_assert(status == HX_OK || status == HX_ERR_IO, "call %d: %s", n, hx_status_name(status));
        n_failed += status == HX_ERR_IO;
        OK(hx_ckpt_load(comm, folder, &items, &state));
        cr_assert(state.step == 2 && state_is(2), "call %d", n);
        snprintf(command, sizeof command, "test -z \"$(ls -A '%s' | grep h5.tmp)\"", folder);
        cr_assert_eq(system(command), 0, "call %d: a temporary file was left", n);
    }
    cr_assert_gt(n_failed, 6);
}

static void lift_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_FSIZE, &limit);
}

Test(ckpt_faults, a_size_limit_is_told_before_writing) {
    struct rlimit limit;
    OK(save_step(folder, 1, false));
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = 90000;
    setrlimit(RLIMIT_FSIZE, &limit);
    REFUSED(save_step(folder, 2, false), HX_ERR_IO, "ulimit -f");
    check_recovery(folder, lift_limit);
}

/* A tmpfs of 1 MB, of which `n_used` bytes are taken after a first save. Without root the tests are skipped. */
static char disk[512], ballast[600];
static void mount_small_disk(size_t n_used) {
    snprintf(disk, sizeof disk, "%s/disk", folder);
    snprintf(ballast, sizeof ballast, "%s/ballast", disk);
    mkdir(disk, 0777);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=1m") != 0) cr_skip_test("mounting a small disk needs root");
    OK(save_step(disk, 1, false));
    FILE *f = fopen(ballast, "w");
    for (size_t i = 0; i < n_used; i++) fputc('x', f);
    cr_assert_eq(fclose(f), 0);
}

static void drop_ballast(void) { unlink(ballast); }

Test(ckpt_faults, a_full_disk_is_told_before_writing) {
    mount_small_disk(800 * 1024);
    REFUSED(save_step(disk, 2, false), HX_ERR_IO, "MB are free");
    check_recovery(disk, drop_ballast);
    umount(disk);
}

/* From room for nothing at all up to room enough: the failure hits another step each time. The tensor is several
 * times as large as the metadata, so that some saves fail in its midst. */
Test(ckpt_faults, a_disk_that_fills_up_meanwhile_fails_the_save_and_spares_the_one_before) {
    static float big[100000];
    hx_layout layout;
    OK(hx_layout_full(&HX_SHAPE(100000), &layout));
    items_array[0].layout = &layout;
    items_array[0].data = big;
    big[99999] = 1;
    mount_small_disk(0);
    can_foresee = false;
    int n_failed = 0, n_midst = 0;
    for (; n_failed < 400; n_failed++) {
        struct statfs fs;
        cr_assert_eq(statfs(disk, &fs), 0);
        FILE *f = fopen(ballast, "w");
        for (int64_t i = 0; i < ((int64_t)fs.f_bavail - n_failed) * fs.f_bsize; i++) fputc('x', f);
        cr_assert_eq(fclose(f), 0);
        big[99999] = 2;
        hx_status status = save_step(disk, 2, false);
        drop_ballast();
        if (status == HX_OK) break;
        cr_assert_eq(status, HX_ERR_IO);
        cr_assert(strstr(hx_error_message(), "No space left on device"), "%s", hx_error_message());
        n_midst += strstr(hx_error_message(), "/model/") != NULL;
        cr_assert_eq(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0, "HDF5 still holds handles");
        OK(hx_ckpt_load(comm, disk, &items, NULL));
        cr_assert_eq(big[99999], 1);
    }
    cr_assert(n_failed > 50 && n_failed < 400 && n_midst > 20, "%d saves failed, %d of them in the midst of a tensor",
              n_failed, n_midst);
    OK(hx_ckpt_load(comm, disk, &items, NULL));
    cr_assert_eq(big[99999], 2);
    hx_layout_destroy(&layout);
    umount(disk);
}

/* The calls that change a disk: what they do, and that a test can see, fail and cut off each of them. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/fs.h"
#include "tests/support/expect.h"

static char folder[200], path[256], link_path[256];

static void open_folder(void) {
    snprintf(folder, sizeof folder, "%.150s/helix-fs-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a", folder);
    snprintf(link_path, sizeof link_path, "%s/latest", folder);
}

static int remove_one(const char *name, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(name);
}

static void close_folder(void) { nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

TestSuite(fs, .init = open_folder, .fini = close_folder);

static int64_t size_of(const char *name) {
    struct stat st;
    return stat(name, &st) == 0 ? st.st_size : -1;
}

/* Seven calls: write, fsync, unlink, symlink, rename, fsync, unlink. */
static hx_status work(void) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    hx_status status = hx__fs_write(fd, path, "12345678", 8, 0);
    if (status == HX_OK) status = hx__fs_sync(fd, path);
    close(fd);
    HX_TRY(status);
    HX_TRY(hx__fs_point(link_path, "a"));
    HX_TRY(hx__fs_sync_folder(folder));
    return hx__fs_unlink(path);
}

/* work() in a child with one variable set. @return its wait status; the child leaves without Criterion's exit handlers */
static int work_with(const char *name, const char *value) {
    pid_t child = fork();
    if (child == 0) {
        setenv(name, value, 1);
        hx_status status = work();
        _exit(status == HX_OK ? 0 : strstr(hx_error_message(), strerror(ENOSPC)) ? 2 : 1);
    }
    int status = -1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    return status;
}

Test(fs, bytes_are_written_and_read_where_they_belong) {
    char back[8];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    OK(hx__fs_write(fd, path, "abcd", 4, 100));
    OK(hx__fs_sync(fd, path));
    OK(hx__fs_read(fd, path, back, 4, 100));
    cr_assert_arr_eq(back, "abcd", 4);
    REFUSED(hx__fs_read(fd, path, back, 5, 100), HX_ERR_FORMAT, "ends at byte 104");
    REFUSED(hx__fs_write(-1, path, "abcd", 4, 0), HX_ERR_IO, "writing 4 bytes at byte 0");
    close(fd);
}

Test(fs, a_link_is_replaced_and_never_absent) {
    char target[16] = "", temporary[256];
    snprintf(temporary, sizeof temporary, "%s/.latest.tmp", folder);
    cr_assert_eq(symlink("left behind", temporary), 0);
    OK(hx__fs_point(link_path, "one"));
    OK(hx__fs_point(link_path, "two"));
    cr_assert_eq(readlink(link_path, target, sizeof target - 1), 3);
    cr_assert_str_eq(target, "two");
    cr_assert_neq(access(temporary, F_OK), 0);
}

Test(fs, names_and_folders_are_made_and_removed) {
    char deep[256], file[300];
    bool was_there = true;
    snprintf(deep, sizeof deep, "%s/x/y//z", folder);
    OK(hx__fs_mkdirs(deep));
    OK(hx__fs_mkdirs(deep));
    OK(hx__fs_mkdir(path, &was_there));
    cr_assert(!was_there);
    OK(hx__fs_mkdir(path, &was_there));
    cr_assert(was_there);
    snprintf(file, sizeof file, "%s/f", deep);
    fclose(fopen(file, "w"));
    REFUSED(hx__fs_mkdir(file, NULL), HX_ERR_IO, "File exists");
    REFUSED(hx__fs_mkdirs("/proc/none/x"), HX_ERR_IO, "/proc/none");
    snprintf(deep, sizeof deep, "%s/moved", folder);
    OK(hx__fs_rename(file, deep));
    REFUSED(hx__fs_rename(file, deep), HX_ERR_IO, "renaming");
    OK(hx__fs_unlink(deep));
    OK(hx__fs_unlink(deep)); /* absent by now */
    REFUSED(hx__fs_sync_folder(deep), HX_ERR_IO, "No such file");
}

Test(fs, a_log_has_one_line_for_each_call) {
    static const char *const expected[] = {"write", "fsync", "unlink", "symlink", "rename", "fsync", "unlink"};
    char log[256], what[16], name[256];
    snprintf(log, sizeof log, "%s/log", folder);
    cr_assert_eq(work_with("HELIX_TEST_IO_LOG", log), 0);
    FILE *f = fopen(log, "r");
    cr_assert(f);
    long number, process, bytes;
    for (long i = 0; i < 7; i++) {
        cr_assert_eq(fscanf(f, "%ld %ld %15s %255s %ld", &number, &process, what, name, &bytes), 5);
        cr_assert_eq(number, i + 1);
        cr_assert_str_eq(what, expected[i]);
        cr_assert_eq(bytes, i == 0 ? 8 : 0);
        cr_assert_eq(strncmp(name, folder, strlen(folder)), 0);
    }
    cr_assert_eq(fscanf(f, "%ld", &number), EOF);
    fclose(f);
}

Test(fs, a_kill_hits_the_nth_call_and_halves_a_write) {
    char n[8];
    for (int call = 1; call <= 8; call++) {
        unlink(path);
        unlink(link_path);
        snprintf(n, sizeof n, "%d", call);
        int status = work_with("HELIX_TEST_IO_KILL", n);
        cr_assert_eq(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, call <= 7, "call %d", call);
        cr_assert_eq(size_of(path), call == 1 ? 4 : call <= 7 ? 8 : -1, "call %d", call);
        cr_assert_eq(faccessat(AT_FDCWD, link_path, F_OK, AT_SYMLINK_NOFOLLOW) == 0, call > 5, "call %d", call);
    }
}

Test(fs, the_nth_call_fails_with_the_error_asked_for) {
    char value[16];
    for (int call = 1; call <= 8; call++) {
        snprintf(value, sizeof value, "%d:ENOSPC", call);
        int status = work_with("HELIX_TEST_IO_FAIL", value);
        cr_assert(WIFEXITED(status));
        cr_assert_eq(WEXITSTATUS(status), call <= 7 ? 2 : 0, "call %d", call);
        unlink(path);
    }
    cr_assert_eq(WEXITSTATUS(work_with("HELIX_TEST_IO_FAIL", "1:EIO")), 1);
}

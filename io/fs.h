/* The calls by which io/ changes a disk. All durable changes of checkpoints and data sets go through them, so that tests can count
 * them, log them, and kill the process at each:
 *     HELIX_TEST_IO_LOG=file     one line a call: number, rank's process id, what, path, bytes; appended by single write()s
 *     HELIX_TEST_IO_KILL=n       SIGKILL to this process instead of its n-th call (from 1); a write has then done half of its bytes
 *     HELIX_TEST_IO_FAIL=n:ENOSPC   the n-th call fails with that error (ENOSPC, EIO, EDQUOT)
 * Calls are numbered per process, in the order in which it makes them. Without these variables a call costs one comparison.
 * Failures are HX_ERR_IO with what, path and the system's words. */
#ifndef HX_IO_FS_H
#define HX_IO_FS_H

#include <sys/types.h>

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A descriptor that is closed at the end of its scope; -1: none. */
void hx__fs_close(int *fd);
#define HX_AUTO_FD HX_CLEANUP(hx__fs_close) int

/** All of a regular file, mapped for reading; of an empty one NULL. A pipe without a writer is refused, not waited for. */
hx_status hx__fs_map(const char *path, const void **data, int64_t *n_bytes);
void hx__fs_unmap(const void *data, int64_t n_bytes);

/** All of n_bytes at offset, whatever interrupts. @param path  for messages and the log */
hx_status hx__fs_write(int fd, const char *path, const void *data, size_t n_bytes, int64_t offset);
/** All of n_bytes from offset. HX_ERR_FORMAT if the file ends before. */
hx_status hx__fs_read(int fd, const char *path, void *data, size_t n_bytes, int64_t offset);
hx_status hx__fs_sync(int fd, const char *path);
/** fsync of a folder; a file system that cannot (EINVAL, EROFS) makes renames durable by itself. */
hx_status hx__fs_sync_folder(const char *folder);
/** The same for the folder that a path lies in. */
hx_status hx__fs_sync_above(const char *path);
hx_status hx__fs_rename(const char *from, const char *to);
typedef hx_status (*hx__fs_fill)(void *arg, int fd, const char *path);
/** `path` is what `fill` writes, or as it was: written as .<name>.tmp beside it, fsynced and renamed; its folder is not synced. */
hx_status hx__fs_replace(const char *path, hx__fs_fill fill, void *arg);
hx_status hx__fs_replace_text(const char *path, const char *text, size_t n_bytes);
/** `link` points to `target` afterwards, never to nothing: made under another name in the same folder and renamed. */
hx_status hx__fs_point(const char *link, const char *target);
/** An absent file is no failure. */
hx_status hx__fs_unlink(const char *path);
/** An absent folder is no failure, nor one that is not empty. */
hx_status hx__fs_rmdir(const char *path);
/** @param[out] was_there  NULL: a folder that exists is fine */
hx_status hx__fs_mkdir(const char *path, bool *was_there);
/** Like mkdir -p. */
hx_status hx__fs_mkdirs(const char *path);

#ifdef __cplusplus
}
#endif
#endif

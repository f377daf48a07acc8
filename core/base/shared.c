#define _GNU_SOURCE /* memfd_create, fallocate */
#include "core/base/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"

#define FILES_SHARE 4 /* a quarter of the files that this process may have open */

typedef struct block {
    char *start;
    hx_shared_place place; /* offset 0 */
} block;

/* One table for the process, as the heap is: a communicator sees addresses only, whoever allocated them. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *blocks;
static int64_t n_blocks, capacity;
static atomic_int n_sharers;
static atomic_ullong n_created, n_freed;

void hx_shared_share(bool wanted) { atomic_fetch_add(&n_sharers, wanted ? 1 : -1); }

uint64_t hx_shared_epoch(void) { return atomic_load(&n_freed); }

static size_t whole_pages(size_t n_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n_bytes + page - 1) / page * page;
}

/* A file beyond the limit is answered by a signal, not by an error. */
static bool is_file_allowed(size_t n_bytes) {
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || n_bytes <= limit.rlim_cur;
}

hx_status hx_shared_create(size_t n_bytes, hx_shared_place *out) {
    struct stat st;
    if (n_bytes > SIZE_MAX / 2) return HX_FAIL(HX_ERR_OVERFLOW, "%zu bytes: expected at most %zu", n_bytes, SIZE_MAX / 2);
    hx_shared_place place = {.region_bytes = whole_pages(n_bytes)};
    if (!is_file_allowed(place.region_bytes))
        return HX_FAIL(HX_ERR_MEMORY, "%zu shared bytes: more than the limit on the size of files (ulimit -f)", n_bytes);
    place.fd = memfd_create("helix", MFD_CLOEXEC);
    if (place.fd < 0 || ftruncate(place.fd, (off_t)place.region_bytes) != 0 || fstat(place.fd, &st) != 0) {
        int error = errno;
        if (place.fd >= 0) close(place.fd);
        return HX_FAIL(HX_ERR_MEMORY, "%zu shared bytes: %s", n_bytes, strerror(error));
    }
    place.inode = (uint64_t)st.st_ino;
    place.region = atomic_fetch_add(&n_created, 1) + 1;
    *out = place;
    return HX_OK;
}

static hx_status map_file(int fd, size_t n_bytes, void **out) {
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return HX_FAIL(HX_ERR_MEMORY, "mapping %zu shared bytes: %s", n_bytes, strerror(errno));
    *out = p;
    return HX_OK;
}

hx_status hx_shared_map(int pid, const hx_shared_place *place, void **base) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, place->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_COMM, "%s: %s", path, strerror(errno));
    hx_status status = HX_OK;
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_ino != place->inode || st.st_size != (off_t)place->region_bytes)
        status = HX_FAIL(HX_ERR_COMM, "%s is not the shared memory that was announced (another namespace of processes?)", path);
    if (status == HX_OK) status = map_file(fd, place->region_bytes, base);
    close(fd);
    return status;
}

/* ---- blocks ---- */

/* With the lock held. */
static bool has_room(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)n_blocks >= limit.rlim_cur / FILES_SHARE) return false;
    return hx_mem_grow((void **)&blocks, &capacity, n_blocks + 1, sizeof *blocks) == HX_OK;
}

static bool alloc_shared(size_t n_bytes, void **out) {
    block b;
    if (hx_shared_create(n_bytes, &b.place) != HX_OK) return false;
    if (map_file(b.place.fd, b.place.region_bytes, out) != HX_OK) {
        close(b.place.fd);
        return false;
    }
    b.start = *out;
    pthread_mutex_lock(&lock);
    bool is_kept = has_room();
    if (is_kept) blocks[n_blocks++] = b;
    pthread_mutex_unlock(&lock);
    if (is_kept) return true;
    munmap(b.start, b.place.region_bytes);
    close(b.place.fd);
    return false;
}

hx_status hx_shared_alloc(size_t n_bytes, void **out) {
    if (n_bytes >= HX_SHARED_MIN && atomic_load(&n_sharers) > 0 && alloc_shared(n_bytes, out)) return HX_OK;
    return hx_mem_alloc(n_bytes, out);
}

/* With the lock held: the block that holds p, or NULL. */
static block *find(const void *p) {
    for (int64_t i = 0; i < n_blocks; i++) {
        uintptr_t at = (uintptr_t)p - (uintptr_t)blocks[i].start; /* before the start: huge */
        if (at < blocks[i].place.region_bytes) return &blocks[i];
    }
    return NULL;
}

void hx_shared_free(void *p) {
    block found = {.start = NULL};
    pthread_mutex_lock(&lock);
    block *b = p == NULL ? NULL : find(p);
    if (b != NULL) {
        found = *b;
        *b = blocks[--n_blocks];
        if (n_blocks == 0) { /* the table too: a program that freed everything holds nothing */
            hx_mem_free((void **)&blocks);
            capacity = 0;
        }
    }
    pthread_mutex_unlock(&lock);
    if (found.start == NULL) {
        hx_mem_free(&p);
        return;
    }
    /* A peer that has not yet heard keeps an empty mapping; to shorten the file would kill it if it looked. */
    (void)fallocate(found.place.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)found.place.region_bytes);
    atomic_fetch_add(&n_freed, 1);
    munmap(found.start, found.place.region_bytes);
    close(found.place.fd);
}

bool hx_shared_find(const void *p, size_t n_bytes, hx_shared_place *out) {
    pthread_mutex_lock(&lock);
    const block *b = find(p);
    bool is_found = b != NULL && n_bytes <= b->place.region_bytes - (size_t)((const char *)p - b->start);
    if (is_found) {
        *out = b->place;
        out->offset = (size_t)((const char *)p - b->start);
    }
    pthread_mutex_unlock(&lock);
    return is_found;
}

/* What a disk can do: two processes write the halves of one file at their offsets, with fsync, and read them back from the disk.
 *     raw_write FILE BYTES
 * prints the seconds of both, of the slower process each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 16 << 20 };

typedef struct shared {
    pthread_barrier_t barrier;
    double begin[2], write_end[2], read_begin[2], read_end[2];
    int failed;
} shared;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int half(const char *file, int64_t n_bytes, int me, shared *s) {
    int64_t begin = n_bytes / 2 * me, end = me ? n_bytes : n_bytes / 2;
    char *data = malloc((size_t)(end - begin));
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (!data || fd < 0) return 1;
    for (int64_t i = 0; i < end - begin; i += 8) memcpy(data + i, &(uint64_t){(uint64_t)i * 0x9E3779B97F4A7C15u}, 8);
    pthread_barrier_wait(&s->barrier);
    s->begin[me] = now();
    for (int64_t at = begin, n; at < end; at += n)
        if ((n = pwrite(fd, data + (at - begin), (size_t)(end - at < PIECE ? end - at : PIECE), at)) <= 0) return 1;
    if (fsync(fd) != 0) return 1;
    s->write_end[me] = now();
    pthread_barrier_wait(&s->barrier);
    if (posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) return 1;
    pthread_barrier_wait(&s->barrier);
    s->read_begin[me] = now();
    for (int64_t at = begin, n; at < end; at += n)
        if ((n = pread(fd, data + (at - begin), (size_t)(end - at < PIECE ? end - at : PIECE), at)) <= 0) return 1;
    s->read_end[me] = now();
    free(data);
    return close(fd);
}

static double most(const double *begin, const double *end) {
    double a = end[0] - begin[0], b = end[1] - begin[1];
    return a > b ? a : b;
}

int main(int argc, char **argv) {
    if (argc != 3 || atoll(argv[2]) < 16) return fprintf(stderr, "usage: raw_write FILE BYTES\n"), 2;
    shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t attr;
    pthread_barrierattr_init(&attr);
    pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (s == MAP_FAILED || pthread_barrier_init(&s->barrier, &attr, 2) != 0) return 1;
    int64_t n_bytes = atoll(argv[2]) / 16 * 16;
    pid_t child = fork();
    int status = half(argv[1], n_bytes, child == 0, s);
    if (child == 0) _exit(status);
    int other = 1;
    if (waitpid(child, &other, 0) != child || status || other) return fprintf(stderr, "raw_write: %s cannot be written and read\n", argv[1]), 1;
    printf("write %.4f read %.4f\n", most(s->begin, s->write_end), most(s->read_begin, s->read_end));
    return 0;
}

/* Runs a fuzz harness where there is no libFuzzer: the files of a corpus, then mutations of them, the same ones every time.
 *
 *     fuzz_x [-runs=N] [-seed=S] FILE_OR_FOLDER...
 *
 * N mutations (0: the files alone, to repeat a failure; four times as many with HELIX_TEST_FULL set) from seed S (1). An input that
 * crashes, breaks a promise, or takes longer than a minute is left in fuzz_x.failed in the current folder. The options are
 * libFuzzer's, which knows what the input reaches and mutates accordingly: its findings are files for this program. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/rng.h"
#include "tests/fuzz/fuzz.h"

#define MAX_BYTES   (1 << 16) /* of an input, libFuzzer's -max_len in launch/test.sh */
#define MAX_EDITS   12
#define MAX_SECONDS 60

extern int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
extern bool hx_fuzz_end(void) __attribute__((weak));
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

typedef struct input {
    uint8_t *bytes; /* [n] */
    size_t n;
} input;

static input *corpus; /* [n_corpus], in the order of names */
static size_t n_corpus;

/* ---- what is left of a failure ---- */

static input current;
static char failed_name[256];

static void keep_current(void) {
    if (!current.bytes) return;
    int fd = open(failed_name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    bool kept = fd >= 0 && write(fd, current.bytes, current.n) == (ssize_t)current.n;
    static const char said[] = "the input is in ", newline = '\n';
    if (kept && write(2, said, sizeof said - 1) > 0 && write(2, failed_name, strlen(failed_name)) > 0 && write(2, &newline, 1) > 0)
        current.bytes = NULL; /* once: a sanitizer's callback may be followed by a signal */
}

static void on_signal(int number) {
    keep_current();
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_failures(void) {
    static const int signals[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    bool sanitized = __sanitizer_set_death_callback;
    snprintf(failed_name, sizeof failed_name, "%.200s.failed", program_invocation_short_name);
    if (sanitized) __sanitizer_set_death_callback(keep_current);
    /* the sanitizer's own handlers of the others tell more */
    for (size_t i = 0; i < (sanitized ? 2 : sizeof signals / sizeof *signals); i++) signal(signals[i], on_signal);
}

static void run(const uint8_t *bytes, size_t n) {
    /* exactly n bytes on the heap, so that a sanitizer sees a read beyond them */
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) abort();
    memcpy(copy, bytes, n);
    current = (input){copy, n};
    alarm(MAX_SECONDS);
    LLVMFuzzerTestOneInput(copy, n);
    alarm(0);
    current.bytes = NULL;
    free(copy);
}

/* ---- the corpus ---- */

static void die(const char *what, const char *path) {
    fprintf(stderr, "%s: %s %s: %s\n", program_invocation_short_name, what, path, strerror(errno));
    exit(2);
}

static void add_file(const char *path) {
    static uint8_t buffer[MAX_BYTES + 1];
    FILE *f = fopen(path, "rb");
    if (!f) die("cannot read", path);
    size_t n = fread(buffer, 1, sizeof buffer, f);
    if (ferror(f)) die("cannot read", path);
    fclose(f);
    errno = EFBIG;
    if (n > MAX_BYTES) die("cannot use", path);
    corpus = realloc(corpus, (n_corpus + 1) * sizeof *corpus);
    uint8_t *bytes = malloc(n + 1);
    if (!corpus || !bytes) die("no memory for", path);
    memcpy(bytes, buffer, n);
    corpus[n_corpus++] = (input){bytes, n};
}

static void add_path(const char *path) {
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    if (n < 0 && errno == ENOTDIR) {
        add_file(path);
        return;
    }
    if (n < 0) die("cannot read", path);
    for (int i = 0; i < n; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') add_file(file);
        free(entries[i]);
    }
    free(entries);
}

/* ---- mutations ---- */

static hx_rng rng;
static uint64_t n_draws;

static size_t below(size_t n) { return (size_t)hx_rng_below(rng, n_draws++, n); }

/* Characters that mean something to parsers, and any other. */
static uint8_t odd_byte(void) {
    static const char odd[] = ":-{}[]&*!|>'\"%#,?\t\n \\/0123456789eE.+\x00\x7f\x80\xc2\xff";
    return below(2) ? (uint8_t)odd[below(sizeof odd - 1)] : (uint8_t)below(256);
}

/* Numbers at which sizes and offsets overflow: beside zero, beside a power of two, any. */
static uint64_t odd_number(void) {
    uint64_t any = (uint64_t)below(SIZE_MAX), near = any % 17 - 8;
    switch (below(3)) {
    case 0: return near;
    case 1: return ((uint64_t)1 << below(64)) + near;
    default: return any;
    }
}

/* Put n bytes at `at`, moving what is there; nothing if there is no room. */
static void insert(input *x, size_t at, const uint8_t *bytes, size_t n) {
    if (x->n + n > MAX_BYTES) return;
    memmove(x->bytes + at + n, x->bytes + at, x->n - at);
    memcpy(x->bytes + at, bytes, n);
    x->n += n;
}

static void edit(input *x) {
    size_t at = below(x->n + 1), room = x->n - at, length = 1 + below(below(8) ? 16 : 1024);
    const input *from = &corpus[below(n_corpus)];
    size_t start = below(from->n + 1), piece = length < from->n - start ? length : from->n - start;
    uint8_t byte = odd_byte();
    switch (below(6)) {
    case 0:
        if (room) x->bytes[at] = byte;
        break;
    case 1: insert(x, at, &byte, 1); break;
    case 2: /* remove, now and then all that follows */
        if (length > room || below(16) == 0) length = room;
        memmove(x->bytes + at, x->bytes + at + length, room - length);
        x->n -= length;
        break;
    case 3: insert(x, at, from->bytes + start, piece); break;
    case 4: memcpy(x->bytes + at, from->bytes + start, piece < room ? piece : room); break;
    default: {
        uint64_t number = odd_number();
        size_t width = (size_t)1 << below(4);
        memcpy(x->bytes + at, &number, width < room ? width : room);
    }
    }
}

static void run_mutation(void) {
    static uint8_t buffer[MAX_BYTES];
    const input *seed = &corpus[below(n_corpus)];
    input x = {buffer, seed->n};
    memcpy(buffer, seed->bytes, seed->n);
    /* mostly few: what is still understood gets furthest */
    for (size_t edits = 1 + below(1 + below(MAX_EDITS)); edits > 0; edits--) edit(&x);
    run(x.bytes, x.n);
}

int main(int argc, char **argv) {
    long n_runs = 0;
    rng.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-runs=", 6) == 0) n_runs = strtol(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-seed=", 6) == 0) rng.seed = strtoull(argv[i] + 6, NULL, 10);
        else add_path(argv[i]);
    }
    if (n_corpus == 0) {
        fprintf(stderr, "usage: %s [-runs=N] [-seed=S] FILE_OR_FOLDER...; there was no input\n", program_invocation_short_name);
        return 2;
    }
    if (getenv("HELIX_TEST_FULL")) n_runs *= 4;
    watch_failures();
    if (LLVMFuzzerInitialize) LLVMFuzzerInitialize(&argc, &argv);
    for (size_t i = 0; i < n_corpus; i++) run(corpus[i].bytes, corpus[i].n);
    for (long i = 0; i < n_runs; i++) run_mutation();
    printf("%s: %zu files and %ld mutations, seed %llu\n", program_invocation_short_name, n_corpus, n_runs, (unsigned long long)rng.seed);
    bool good = n_runs == 0 || !hx_fuzz_end || hx_fuzz_end();
    for (size_t i = 0; i < n_corpus; i++) free(corpus[i].bytes);
    free(corpus);
    return good ? 0 : 1;
}

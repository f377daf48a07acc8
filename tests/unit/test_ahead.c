/* Reading ahead: any spans of a file, in any order, by both ways to the disk. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/ahead.h"
#include "tests/support/expect.h"

enum { N_BYTES = (40 << 20) + 123, MOST = 40 };

static char path[256];
static char *bytes;
static hx__ahead *ahead;

static uint64_t draw(uint64_t *state, uint64_t below) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (*state >> 33) % below;
}

static void put_file(const char *folder) {
    uint64_t state = 1;
    bytes = malloc(N_BYTES);
    for (int i = 0; i < N_BYTES; i++) bytes[i] = (char)draw(&state, 256);
    snprintf(path, sizeof path, "%.200s/helix-ahead-%d", folder, (int)getpid());
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes, 1, N_BYTES, f) == N_BYTES);
    cr_assert_eq(fclose(f), 0);
}

static void begin(void) { put_file(getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp"); }

static void end(void) {
    hx__ahead_close(&ahead);
    unlink(path);
    free(bytes);
}

TestSuite(ahead, .init = begin, .fini = end);

/* Everything of a span, or its first and last bytes only, in steps of at most `most`. */
static void read_span(const hx__span *span, int64_t most, bool is_whole) {
    for (int64_t at = 0, n; at < span->length; at += n) {
        const char *data;
        const int64_t left = span->length - at;
        OK(hx__ahead_get(ahead, span->begin + at, left < most ? left : most, &data, &n));
        cr_assert(n >= 1 && n <= most && n <= left);
        cr_assert_arr_eq(data, bytes + span->begin + at, (size_t)n);
        if (!is_whole && left - n > 2) n = left - 2;
    }
}

static void read_random(uint64_t seed) {
    hx__span spans[MOST];
    const int n_spans = (int)draw(&seed, MOST);
    for (int i = 0; i < n_spans; i++) { /* short and long ones, ascending for a while, then anywhere; some overlap */
        const bool follows = i > 0 && draw(&seed, 4) > 0;
        int64_t at = follows ? spans[i - 1].begin + spans[i - 1].length + (int64_t)draw(&seed, 300000) - 100000 : (int64_t)draw(&seed, N_BYTES);
        if (at < 0 || at >= N_BYTES) at = 0;
        const int64_t length = (int64_t)draw(&seed, draw(&seed, 2) ? 9 : 11 << 20);
        spans[i] = (hx__span){at, length < N_BYTES - at ? length : N_BYTES - at, draw(&seed, 3) == 0};
    }
    OK(hx__ahead_open(path, spans, n_spans, &ahead));
    for (int i = 0; i < n_spans; i++) read_span(&spans[i], 1 + (int64_t)draw(&seed, draw(&seed, 2) ? 10000 : 8 << 20), draw(&seed, 2));
    hx__ahead_close(&ahead);
}

Test(ahead, any_spans_are_the_bytes_of_the_file) {
    for (uint64_t seed = 0; seed < 60; seed++) read_random(seed);
}

Test(ahead, the_end_of_the_file_is_read_and_nothing_behind_it) {
    const hx__span last = {N_BYTES - 5, 5, false}, behind = {N_BYTES - 5, 6, false}, shared_behind = {N_BYTES - 5, 6, true};
    const char *data;
    int64_t n;
    OK(hx__ahead_open(path, &last, 1, &ahead));
    read_span(&last, 5, true);
    hx__ahead_close(&ahead);
    OK(hx__ahead_open(path, &behind, 1, &ahead));
    REFUSED(hx__ahead_get(ahead, N_BYTES - 5, 6, &data, &n), HX_ERR_FORMAT, path);
    hx__ahead_close(&ahead);
    OK(hx__ahead_open(path, &shared_behind, 1, &ahead));
    REFUSED(hx__ahead_get(ahead, N_BYTES - 5, 6, &data, &n), HX_ERR_FORMAT, path);
}

Test(ahead, bytes_that_nobody_announced_are_refused) {
    const hx__span spans[] = {{100, 50, false}, {30 << 20, 50, false}};
    const char *data;
    int64_t n;
    OK(hx__ahead_open(path, spans, 2, &ahead));
    read_span(&spans[1], 50, true); /* the first one is passed over */
    REFUSED(hx__ahead_get(ahead, 100, 50, &data, &n), HX_ERR_ARG, "byte 100");
    hx__ahead_close(&ahead);
    OK(hx__ahead_open(path, NULL, 0, &ahead));
    REFUSED(hx__ahead_get(ahead, 0, 1, &data, &n), HX_ERR_ARG, "byte 0");
    hx__ahead_close(&ahead);
    REFUSED(hx__ahead_open("/no/such/file", spans, 2, &ahead), HX_ERR_IO, "/no/such/file");
}

Test(ahead, closing_does_not_wait_for_the_rest) {
    const hx__span all = {0, N_BYTES, false};
    for (int i = 0; i < 20; i++) {
        OK(hx__ahead_open(path, &all, 1, &ahead));
        hx__ahead_close(&ahead);
    }
}

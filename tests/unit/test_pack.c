/* Packing: what the program cannot be made to meet. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/data/pack.h"

#define LARGE (8 << 20) /* bytes: a batch by itself */

static char folder[256], first[512], second[512], out[512], left[600];

static void put(const char *path, size_t n) {
    FILE *f = fopen(path, "w");
    for (size_t i = 0; i < n; i++) fputc('a', f);
    cr_assert_eq(fclose(f), 0);
}

static void make_folder(void) {
    snprintf(folder, sizeof folder, "%.200s/helix-pack-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
    snprintf(first, sizeof first, "%s/first.txt", folder);
    snprintf(second, sizeof second, "%s/second.txt", folder);
    snprintf(out, sizeof out, "%s/out.h5", folder);
    put(first, LARGE);
    put(second, 10000);
}

static void remove_folder(void) {
    static const char *const parts[] = {"ids", "documents", "unmasked", "journal"};
    for (int i = 0; i < 4; i++) {
        snprintf(left, sizeof left, "%s.pack/%s", out, parts[i]);
        unlink(left);
    }
    snprintf(left, sizeof left, "%s.pack", out);
    rmdir(left);
    unlink(first), unlink(second), unlink(out);
    cr_expect_eq(rmdir(folder), 0, "files were left behind");
}

TestSuite(pack, .init = make_folder, .fini = remove_folder);

static void shorten(void *self, const hx_pack_report *report) {
    (void)self;
    if (report->n_done == LARGE) cr_assert_eq(truncate(second, 100), 0);
}

static void write_to(void *self, const hx_pack_report *report) {
    (void)self;
    if (report->n_done == LARGE) put(second, 10000);
}

/* One that has shrunk would end the process: its pages are gone. */
Test(pack, a_file_that_is_written_to_meanwhile_is_refused) {
    void (*const meanwhile[])(void *, const hx_pack_report *) = {shorten, write_to};
    const char *const files[] = {first, second};
    hx_tokenizer *t;
    cr_assert_eq(hx_tokenizer_bytes(&t), HX_OK);
    for (int i = 0; i < 2; i++) {
        const hx_pack_config c = {.files = files, .n_files = 2, .out = out, .n_threads = 1, .progress = meanwhile[i]};
        put(second, 10000);
        cr_assert_eq(hx_pack(t, &c, NULL), HX_ERR_CONFIG, "%s", hx_error_message());
        cr_assert(strstr(hx_error_message(), "second.txt was written to"), "%s", hx_error_message());
        cr_assert_neq(access(out, F_OK), 0);
        remove_folder();
        make_folder();
    }
    hx_tokenizer_close(&t);
}

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backends.h"
#include "io/data/data.h"
#include "tests/support/expect.h"

enum { N_BYTES = 1007, CTX = 10, N_SAMPLES = 100 }; /* 1006 / 10 samples: the last bytes are left over */

static char folder[256];
static hx_device *dev;
static hx_stream *stream;
static uint8_t content[N_BYTES];
static hx_loader_part all; /* the bytes, as a text */

static void put(const char *name, const void *bytes, size_t n) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert(f && fwrite(bytes, 1, n, f) == n);
    fclose(f);
}

static void open_all(void) {
    snprintf(folder, sizeof folder, "%.200s/helix-data-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &dev));
    OK(hx_stream_create(dev, &stream));
    for (int i = 0; i < N_BYTES; i++) content[i] = (uint8_t)(i * 7 + i / 256);
    put("bytes", content, sizeof content);
    char path[512];
    snprintf(path, sizeof path, "%s/bytes", folder);
    hx_tokens *tokens;
    OK(hx_tokens_open(path, &tokens));
    all = (hx_loader_part){tokens, 0, N_BYTES};
    unlink(path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

static void close_all(void) {
    hx_tokens *tokens = (hx_tokens *)(uintptr_t)all.tokens;
    hx_tokens_close(&tokens);
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int64_t offset_of(const hx_loader *loader, int64_t position) {
    int part;
    int64_t at;
    hx_loader_find(loader, position, &part, &at);
    return at;
}

TestSuite(data, .init = open_all, .fini = close_all);

static hx_loader_config train_config(int rank, int size) {
    return (hx_loader_config){.ctx = CTX, .batch = 12, .shuffle = true, .last = HX_LAST_JOIN, .seed = 5, .rank = rank, .size = size, .prefetch = true};
}

/* The samples (byte offsets / CTX) of a rank's share at a cursor, in order; checks tokens, targets and positions. */
static int64_t deal(hx_loader *loader, int64_t cursor, int64_t samples[64], int64_t *first) {
    hx_batch_source source;
    int64_t n_micro, n = 0;
    hx_loader_source(loader, &source);
    OK(source.n_micro(source.self, cursor, &n_micro));
    for (int64_t m = 0; m < n_micro; m++) {
        hx_batch batch;
        int32_t in[64 * CTX], out[64 * CTX];
        OK(source.get(source.self, cursor, m, stream, &batch));
        cr_assert(hx_shape_equal(&(hx_shape){2, {batch.n_samples, CTX}}, (hx_shape[]){hx_tensor_shape(batch.input)}));
        OK(hx_tensor_read(stream, batch.input, in));
        OK(hx_tensor_read(stream, batch.target, out));
        if (m == 0) *first = batch.sample_base;
        cr_assert_eq(batch.sample_base, *first + n);
        for (int64_t i = 0; i < batch.n_samples; i++) {
            int64_t at = offset_of(loader, cursor + batch.sample_base + i);
            for (int64_t t = 0; t < CTX; t++) {
                cr_assert_eq(in[i * CTX + t], content[at + t]);
                cr_assert_eq(out[i * CTX + t], content[at + t + 1]);
            }
            samples[n++] = at / CTX;
        }
    }
    return n;
}

Test(data, an_epoch_deals_each_sample_once_for_any_number_of_ranks) {
    int64_t order[3][N_SAMPLES];
    for (int size = 1; size <= 3; size++) {
        int seen[N_SAMPLES] = {0}, n = 0;
        hx_loader *loaders[3];
        for (int r = 0; r < size; r++) {
            hx_loader_config c = train_config(r, size);
            c.batch = 20;
            c.micro_batch = 3;
            OK(hx_loader_create(dev, &all, 1, NULL, &c, &loaders[r]));
        }
        for (int64_t cursor = 0; cursor < N_SAMPLES; cursor += 20)
            for (int r = 0; r < size; r++) {
                int64_t samples[64], first, got = deal(loaders[r], cursor, samples, &first);
                for (int64_t i = 0; i < got; i++) {
                    order[size - 1][n++] = samples[i];
                    seen[samples[i]]++;
                }
            }
        cr_assert_eq(n, N_SAMPLES);
        for (int i = 0; i < N_SAMPLES; i++) cr_assert_eq(seen[i], 1);
        cr_assert_arr_eq(order[size - 1], order[0], sizeof order[0]);
        for (int r = 0; r < size; r++) hx_loader_destroy(&loaders[r]);
    }
}

Test(data, epochs_and_seeds_differ_in_order_and_a_batch_goes_on_into_the_next_epoch) {
    hx_loader *loader, *other;
    hx_loader_config c = train_config(0, 1);
    OK(hx_loader_create(dev, &all, 1, NULL, &c, &loader));
    c.seed = 6;
    OK(hx_loader_create(dev, &all, 1, NULL, &c, &other));
    int same_epoch = 0, same_seed = 0, in_order = 0;
    for (int64_t i = 0; i < N_SAMPLES; i++) {
        same_epoch += offset_of(loader, i) == offset_of(loader, N_SAMPLES + i);
        same_seed += offset_of(loader, i) == offset_of(other, i);
        in_order += offset_of(loader, i) == i * CTX;
    }
    cr_assert(same_epoch < 20 && same_seed < 20 && in_order < 20);
    int64_t samples[64], first;
    cr_assert_eq(deal(loader, 96, samples, &first), 12);
    hx_loader_destroy(&loader);
    hx_loader_destroy(&other);
}

Test(data, evaluation_is_in_order_and_its_last_batch_is_smaller) {
    hx_loader *loaders[3];
    int64_t samples[64], first, next = 0, total = 0;
    for (int r = 0; r < 3; r++) {
        hx_loader_config c = train_config(r, 3);
        c.shuffle = false;
        c.last = HX_LAST_SHORT;
        c.micro_batch = 2;
        OK(hx_loader_create(dev, &all, 1, NULL, &c, &loaders[r]));
    }
    for (int64_t cursor = 0; cursor < N_SAMPLES; cursor += 12)
        for (int r = 0; r < 3; r++) {
            int64_t n = deal(loaders[r], cursor, samples, &first);
            for (int64_t i = 0; i < n; i++) cr_assert_eq(samples[i], next++);
            total += n;
        }
    cr_assert_eq(total, N_SAMPLES);
    for (int r = 0; r < 3; r++) hx_loader_destroy(&loaders[r]);
}

Test(data, splits_do_not_reach_beyond_their_end) {
    hx_loader *loader;
    hx_loader_config c = train_config(0, 1);
    hx_batch_source source;
    const hx_loader_part two = {all.tokens, 100, 121}; /* two samples of ten and the token after them */
    OK(hx_loader_create(dev, &two, 1, NULL, &c, &loader));
    hx_loader_source(loader, &source);
    cr_assert_eq(source.n_global, 2);
    for (int64_t i = 0; i < 10; i++) {
        int64_t at = offset_of(loader, i);
        cr_assert(at == 100 || at == 110);
    }
    int64_t samples[64], first;
    cr_assert_eq(deal(loader, 0, samples, &first), 12);
    hx_loader_destroy(&loader);
}

Test(data, the_second_round_of_batches_makes_no_new_tensor) {
    hx_loader *loader;
    hx_loader_config c = train_config(0, 1);
    hx_batch_source source;
    hx_batch first, again;
    hx_device_stats before, after;
    c.micro_batch = 5; /* 5, 5, 2 */
    OK(hx_loader_create(dev, &all, 1, NULL, &c, &loader));
    hx_loader_source(loader, &source);
    OK(source.get(source.self, 0, 2, stream, &first));
    cr_assert_eq(first.n_samples, 2);
    OK(source.get(source.self, 0, 0, stream, &again));
    hx_device_stats_get(dev, &before);
    for (int64_t i = 0; i < 30; i++) OK(source.get(source.self, 12 * i, i % 3, stream, &again));
    hx_device_stats_get(dev, &after);
    cr_assert_eq(before.n_allocs, after.n_allocs);
    cr_assert_eq(again.input, first.input);
    hx_loader_destroy(&loader);
}

Test(data, unusable_configurations_are_told_with_their_numbers) {
    hx_loader *loader;
    hx_loader_config c = train_config(0, 1);
    REFUSED(hx_loader_create(dev, &(hx_loader_part){all.tokens, 0, N_BYTES + 1}, 1, NULL, &c, &loader), HX_ERR_CONFIG, "1008");
    REFUSED(hx_loader_create(dev, &(hx_loader_part){all.tokens, -1, N_BYTES}, 1, NULL, &c, &loader), HX_ERR_CONFIG, "-1");
    c = train_config(0, 1), c.ctx = N_BYTES;
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "shorter than one sample");
    c = train_config(0, 1), c.ctx = 0;
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "ctx = 0");
    c = train_config(0, 13);
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "12 samples for 13 ranks");
    c = train_config(0, 0);
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "rank 0 of 0");
    c = train_config(2, 2);
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "rank 2 of 2");
    c = train_config(0, 1), c.micro_batch = -1;
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "micro_batch = -1");
    c = train_config(0, 1), c.batch = INT64_MAX;
    REFUSED(hx_loader_create(dev, &all, 1, NULL, &c, &loader), HX_ERR_CONFIG, "too large");
}

Test(data, cursors_and_indices_out_of_range_are_refused) {
    hx_loader *loader;
    hx_loader_config c = train_config(0, 1);
    hx_batch_source source;
    hx_batch batch;
    int64_t n;
    OK(hx_loader_create(dev, &all, 1, NULL, &c, &loader));
    hx_loader_source(loader, &source);
    REFUSED(source.get(source.self, -1, 0, stream, &batch), HX_ERR_ARG, "cursor -1");
    REFUSED(source.get(source.self, 0, 1, stream, &batch), HX_ERR_ARG, "micro-batch 1");
    REFUSED(source.n_micro(source.self, INT64_MAX, &n), HX_ERR_ARG, "cursor");
    OK(source.get(source.self, INT64_MAX - 12, 0, stream, &batch));
    hx_loader_destroy(&loader);
}

static bool text_is(const char *text) {
    hx_tokens *joined;
    hx_tokens_info info;
    int32_t ids[64];
    OK(hx_tokens_open(folder, &joined));
    hx_tokens_info_get(joined, &info);
    bool equal = info.n_tokens == (int64_t)strlen(text);
    if (equal) OK(hx_tokens_read(joined, 0, info.n_tokens, ids));
    for (int64_t i = 0; equal && i < info.n_tokens; i++) equal = ids[i] == text[i];
    hx_tokens_close(&joined);
    return equal;
}

Test(data, a_folder_is_its_text_files_in_the_order_of_their_paths) {
    char path[512];
    snprintf(path, sizeof path, "%s/sub", folder);
    mkdir(path, 0777);
    put("b.txt", "bb", 2);
    put("a.txt", "aaa", 3);
    put("sub/c.txt", "c", 1);
    put(".hidden", "no", 2);
    put("binary", "x\0y", 3);
    put("empty", "", 0);
    snprintf(path, sizeof path, "%s/sub/loop", folder);
    cr_assert_eq(symlink("..", path), 0);
    snprintf(path, sizeof path, "%s/dangling", folder);
    cr_assert_eq(symlink("nowhere", path), 0);
    snprintf(path, sizeof path, "%s/pipe", folder);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert(text_is("aaa\nbb\nc"));
}

Test(data, paths_that_hold_no_text_are_refused_with_the_reason) {
    hx_tokens *c;
    char path[512];
    REFUSED(hx_tokens_open(folder, &c), HX_ERR_IO, "none of its 0 files is text");
    put("binary", "x\0y", 3);
    REFUSED(hx_tokens_open(folder, &c), HX_ERR_IO, "none of its 1 files is text");
    put("empty", "", 0);
    snprintf(path, sizeof path, "%s/empty", folder);
    REFUSED(hx_tokens_open(path, &c), HX_ERR_IO, "is empty");
    snprintf(path, sizeof path, "%s/absent", folder);
    REFUSED(hx_tokens_open(path, &c), HX_ERR_IO, "No such file");
    REFUSED(hx_tokens_open("/dev/zero", &c), HX_ERR_IO, "neither a regular file nor a folder");
    REFUSED(hx_tokens_open("", &c), HX_ERR_IO, "no path");
}

Test(data, folders_nested_too_deep_are_refused) {
    char path[512];
    hx_tokens *c;
    size_t n = (size_t)snprintf(path, sizeof path, "%s", folder);
    for (int depth = 0; depth < 40; depth++, n += 2) {
        memcpy(path + n, "/d", 3);
        mkdir(path, 0777);
    }
    REFUSED(hx_tokens_open(folder, &c), HX_ERR_IO, "nested");
}

static uint64_t hash_of(const hx_tokens *tokens) {
    hx_tokens_info info;
    hx_tokens_info_get(tokens, &info);
    return info.hash;
}

Test(data, the_hash_tells_texts_apart) {
    hx_tokens *a, *b;
    put("t", "some text", 9);
    OK(hx_tokens_open(folder, &a));
    put("t", "some tex_", 9);
    OK(hx_tokens_open(folder, &b));
    cr_assert_neq(hash_of(a), hash_of(b));
    hx_tokens_close(&b);
    put("t", "some text", 9);
    OK(hx_tokens_open(folder, &b));
    cr_assert_eq(hash_of(a), hash_of(b));
    hx_tokens_close(&a);
    hx_tokens_close(&b);
}

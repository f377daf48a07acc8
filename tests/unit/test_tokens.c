/* Token data sets: each kind of file, and files that lie. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <ftw.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/op/ops.h"
#include "io/data/tokens.h"
#include "tests/support/expect.h"

enum { N = 20 };

static char folder[256], path[512];
static hx_tokens *t;

static void make_folder(void) {
    snprintf(folder, sizeof folder, "%.200s/helix-tokens-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    cr_assert(mkdtemp(folder));
}

static int remove_one(const char *name, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(name);
}

static void remove_folder(void) {
    hx_tokens_close(&t);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(tokens, .init = make_folder, .fini = remove_folder);

static const char *put(const char *name, const void *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert(f && fwrite(bytes, 1, n, f) == n);
    fclose(f);
    return path;
}

static hx_tokens_info info_of(const hx_tokens *tokens) {
    hx_tokens_info info;
    hx_tokens_info_get(tokens, &info);
    return info;
}

/* ---- files of others ---- */

static const char *put_llmc(const char *name, int32_t magic, int32_t version, int32_t claimed, int width, int n) {
    unsigned char file[1024 + 4 * N] = {0};
    memcpy(file, (int32_t[]){magic, version, claimed}, 12);
    for (int i = 0; i < n; i++) memcpy(file + 1024 + i * width, &(uint32_t){(uint32_t)(i * (width == 2 ? 3000 : 90000))}, (size_t)width);
    return put(name, file, (size_t)(1024 + n * width));
}

Test(tokens, llm_c_files_of_both_widths_are_read_by_their_headers) {
    int32_t ids[4];
    OK(hx_tokens_open(put_llmc("gpt2", 20240520, 1, N, 2, N), &t));
    cr_assert_str_eq(info_of(t).format, "llm.c");
    cr_assert(info_of(t).n_tokens == N && info_of(t).n_documents == 1 && info_of(t).vocab == 65536 && !info_of(t).has_loss_mask);
    OK(hx_tokens_read(t, 16, 4, ids));
    cr_assert_arr_eq(ids, ((int32_t[]){48000, 51000, 54000, 57000}), sizeof ids);
    hx_tokens_close(&t);
    OK(hx_tokens_open(put_llmc("llama", 20240801, 7, N, 4, N), &t));
    OK(hx_tokens_read(t, 16, 4, ids));
    cr_assert_arr_eq(ids, ((int32_t[]){1440000, 1530000, 1620000, 1710000}), sizeof ids);
    REFUSED(hx_tokens_read(t, 17, 4, ids), HX_ERR_ARG, "[17, 17 + 4)");
    REFUSED(hx_tokens_read(t, INT64_MAX, INT64_MAX, ids), HX_ERR_ARG, "within the 20");
    REFUSED(hx_tokens_mask(t, -1, 4, ids), HX_ERR_ARG, "[-1");
}

Test(tokens, llm_c_headers_that_lie_are_refused_with_their_place) {
    REFUSED(hx_tokens_open(put_llmc("a", 20240520, 1, N + 1, 2, N), &t), HX_ERR_FORMAT, "bytes 8 to 11: 21 tokens");
    REFUSED(hx_tokens_open(put_llmc("a", 20240520, 1, -N, 2, N), &t), HX_ERR_FORMAT, "-20 tokens");
    REFUSED(hx_tokens_open(put_llmc("a", 20240801, 7, INT32_MAX, 4, N), &t), HX_ERR_FORMAT, "2147483647 tokens");
    REFUSED(hx_tokens_open(put_llmc("a", 20240520, 2, N, 2, N), &t), HX_ERR_FORMAT, "version 2, expected 1");
    REFUSED(hx_tokens_open(put_llmc("a", 20240520, 1, 0, 2, 0), &t), HX_ERR_IO, "empty");
    REFUSED(hx_tokens_open(put("a", (int32_t[]){20240520, 1}, 8), &t), HX_ERR_FORMAT, "8 bytes: expected a header");
}

Test(tokens, nanogpt_files_are_two_bytes_a_token) {
    const uint16_t file[] = {7, 65535, 11};
    int32_t ids[3];
    OK(hx_tokens_open(put("train.bin", file, sizeof file), &t));
    cr_assert_str_eq(info_of(t).format, "nanogpt");
    OK(hx_tokens_read(t, 0, 3, ids));
    cr_assert_arr_eq(ids, ((int32_t[]){7, 65535, 11}), sizeof ids);
    cr_assert_eq(info_of(t).hash, XXH3_64bits(file, sizeof file));
    hx_tokens_close(&t);
    REFUSED(hx_tokens_open(put("train.bin", file, 5), &t), HX_ERR_FORMAT, "5 bytes, an odd number");
    REFUSED(hx_tokens_open(put("train.bin", file, 0), &t), HX_ERR_IO, "is empty");
    OK(hx_tokens_open(put("train.txt", file, 5), &t)); /* any other name: a text */
    cr_assert_eq(info_of(t).n_tokens, 5);
}

/* ---- our own ---- */

/* What a test changes of a file; NULL and 0: as it should be. */
typedef struct spec {
    hid_t tokens_type, documents_type;
    bool chunked, no_mask, long_mask, no_vocab;
    const int64_t *documents; /* [4] */
    int64_t vocab, format;
} spec;

static void put_dataset(hid_t file, const char *name, hid_t type, hid_t memory, hsize_t n, bool chunked, const void *data) {
    hid_t space = H5Screate_simple(1, &n, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    if (chunked) H5Pset_chunk(plist, 1, &(hsize_t){8});
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    if (data) cr_assert(H5Dwrite(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(dataset), H5Pclose(plist), H5Sclose(space);
}

static void put_attribute(hid_t file, const char *name, hid_t type, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    cr_assert(H5Awrite(attribute, type, value) >= 0);
    H5Aclose(attribute), H5Sclose(space);
}

static const char *put_h5(const spec *s) {
    static const int64_t begins[] = {0, 5, 6, 19};
    int32_t ids[N];
    uint8_t mask[N + 1];
    for (int i = 0; i < N + 1; i++) mask[i] = i < 10 || i > 12;
    for (int i = 0; i < N; i++) ids[i] = i * 10;
    snprintf(path, sizeof path, "%s/data.h5", folder);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put_dataset(file, "tokens", s->tokens_type ? s->tokens_type : H5T_STD_U16LE, H5T_NATIVE_INT32, N, s->chunked, ids);
    put_dataset(file, "documents", s->documents_type ? s->documents_type : H5T_STD_I64LE, H5T_NATIVE_INT64, 4, false,
                s->documents ? s->documents : begins);
    if (!s->no_mask) put_dataset(file, "loss_mask", H5T_STD_U8LE, H5T_NATIVE_UINT8, s->long_mask ? N + 1 : N, false, mask);
    put_attribute(file, "helix_tokens", H5T_NATIVE_INT64, &(int64_t){s->format ? s->format : 1});
    if (!s->no_vocab) put_attribute(file, "vocab", H5T_NATIVE_INT64, &(int64_t){s->vocab ? s->vocab : 200});
    put_attribute(file, "tokenizer", H5T_NATIVE_UINT64, &(uint64_t){77});
    put_attribute(file, "xxh3", H5T_NATIVE_UINT64, &(uint64_t){88});
    H5Fclose(file);
    return path;
}

Test(tokens, our_files_tell_documents_mask_and_tokenizer) {
    const hid_t types[] = {H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE};
    for (int k = 0; k < 3; k++) {
        int32_t ids[N];
        OK(hx_tokens_open(put_h5(&(spec){.tokens_type = types[k]}), &t));
        const hx_tokens_info info = info_of(t);
        cr_assert_str_eq(info.format, "helix");
        cr_assert(info.n_tokens == N && info.n_documents == 4 && info.vocab == 200 && info.tokenizer == 77 && info.hash == 88 && info.has_loss_mask);
        OK(hx_tokens_read(t, 0, N, ids));
        for (int i = 0; i < N; i++) cr_assert_eq(ids[i], 10 * i);
        OK(hx_tokens_mask(t, 3, N - 3, ids + 3));
        for (int i = 0; i < N; i++) {
            const bool is_none = i == 5 || i == 6 || i == 19 || (i >= 10 && i <= 12);
            cr_assert_eq(ids[i], is_none ? HX_IGNORE_INDEX : 10 * i, "token %d", i);
        }
        hx_tokens_close(&t);
    }
}

Test(tokens, our_files_that_are_not_as_they_should_be_are_refused_by_name) {
    REFUSED(hx_tokens_open(put_h5(&(spec){.chunked = true}), &t), HX_ERR_FORMAT, "/tokens does not lie in one piece");
    REFUSED(hx_tokens_open(put_h5(&(spec){.tokens_type = H5T_IEEE_F32LE}), &t), HX_ERR_FORMAT, "/tokens has elements of another type");
    REFUSED(hx_tokens_open(put_h5(&(spec){.tokens_type = H5T_STD_I16LE}), &t), HX_ERR_FORMAT, "u8, u16 or u32");
    REFUSED(hx_tokens_open(put_h5(&(spec){.tokens_type = H5T_STD_U16BE}), &t), HX_ERR_FORMAT, "little-endian");
    REFUSED(hx_tokens_open(put_h5(&(spec){.tokens_type = H5T_STD_U64LE}), &t), HX_ERR_FORMAT, "/tokens has elements");
    REFUSED(hx_tokens_open(put_h5(&(spec){.documents_type = H5T_STD_I32LE}), &t), HX_ERR_FORMAT, "/documents has elements");
    REFUSED(hx_tokens_open(put_h5(&(spec){.documents = (int64_t[]){0, 6, 5, 19}}), &t), HX_ERR_FORMAT, "number 2 begins at token 5");
    REFUSED(hx_tokens_open(put_h5(&(spec){.documents = (int64_t[]){0, 5, 5, 19}}), &t), HX_ERR_FORMAT, "number 2 begins at token 5");
    REFUSED(hx_tokens_open(put_h5(&(spec){.documents = (int64_t[]){1, 2, 3, 4}}), &t), HX_ERR_FORMAT, "number 0 begins at token 1");
    REFUSED(hx_tokens_open(put_h5(&(spec){.documents = (int64_t[]){0, 2, 3, N}}), &t), HX_ERR_FORMAT, "number 3 begins at token 20");
    REFUSED(hx_tokens_open(put_h5(&(spec){.long_mask = true}), &t), HX_ERR_FORMAT, "21 elements for 20 tokens");
    REFUSED(hx_tokens_open(put_h5(&(spec){.no_vocab = true}), &t), HX_ERR_FORMAT, "no attribute vocab");
    REFUSED(hx_tokens_open(put_h5(&(spec){.vocab = -3}), &t), HX_ERR_FORMAT, "vocab is -3");
    REFUSED(hx_tokens_open(put_h5(&(spec){.format = 2}), &t), HX_ERR_FORMAT, "format 2");
}

Test(tokens, an_id_that_is_not_below_vocab_is_told_with_its_place) {
    int32_t ids[N];
    OK(hx_tokens_open(put_h5(&(spec){.vocab = 150}), &t));
    OK(hx_tokens_read(t, 0, 15, ids));
    REFUSED(hx_tokens_read(t, 2, 16, ids), HX_ERR_CORRUPT, "token 15 is id 150: expected ids below 150");
}

/* The last data set moved behind the end: the place that HDF5 tells is not believed. */
Test(tokens, a_file_that_is_cut_short_is_refused) {
    put_h5(&(spec){0});
    char file[1 << 16];
    FILE *f = fopen(path, "r");
    const size_t n = fread(file, 1, sizeof file, f);
    fclose(f);
    cr_assert(n > 2000 && n < sizeof file);
    for (size_t cut = 1; cut < n - 8; cut += 7) /* what is left begins like an HDF5 file */
        cr_assert_neq(hx_tokens_open(put("cut.h5", file, n - cut), &t), HX_OK, "%zu bytes less", cut);
}

Test(tokens, a_data_set_that_was_never_written_is_refused) {
    snprintf(path, sizeof path, "%s/data.h5", folder);
    put_h5(&(spec){0});
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    H5Ldelete(file, "tokens", H5P_DEFAULT);
    put_dataset(file, "tokens", H5T_STD_U16LE, H5T_NATIVE_INT32, (hsize_t)1 << 40, false, NULL);
    H5Fclose(file);
    REFUSED(hx_tokens_open(path, &t), HX_ERR_FORMAT, "/tokens has not been written");
}

Test(tokens, no_hdf5_file_and_a_blank_one) {
    unsigned char file[200] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    int32_t ids[2] = {1, 1};
    REFUSED(hx_tokens_open(put("junk.h5", file, sizeof file), &t), HX_ERR_FORMAT, "HDF5 says");
    REFUSED(hx_tokens_blank(0, &t), HX_ERR_ARG, "0 tokens");
    OK(hx_tokens_blank(INT64_C(1) << 40, &t));
    OK(hx_tokens_read(t, (INT64_C(1) << 40) - 2, 2, ids));
    cr_assert(ids[0] == 0 && ids[1] == 0 && info_of(t).hash == 0);
}

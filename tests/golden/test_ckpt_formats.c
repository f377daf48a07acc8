/* Checkpoints of every format that there was, made by the versions of Helix that wrote them (ckpt_make.c): each is read, by
 * one process, bit by bit, and what is damaged in it is named. */
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/golden/ckpt_state.h"
#include "tests/golden/golden.h"

static const char *const files[] = {HELIX_GOLDEN_FOLDER "/ckpt-format1.h5", HELIX_GOLDEN_FOLDER "/ckpt-format2.h5"};
enum { N_FILES = sizeof files / sizeof *files };

static hx_comm *comm;
static void open_comm(void) { MUST(hx_comm_self_open(&comm)); }
static void close_comm(void) { hx_comm_close(&comm); }
TestSuite(ckpt_formats, .init = open_comm, .fini = close_comm);

static hx_status load(const char *file, hx_train_state *state, bool *is_right) {
    ckpt_state got;
    MUST(ckpt_state_create(0, 1, &got));
    for (int i = 0; i < CKPT_STATE_N; i++)
        memset(got.items[i].data, 0, (size_t)hx_layout_count(&got.layouts[i]) * hx_dtype_bytes(got.items[i].dtype));
    hx_status status = hx_ckpt_load(comm, file, &got.list, state);
    *is_right = true;
    for (int i = 0; i < CKPT_STATE_N; i++)
        for (int64_t b = 0; b < hx_layout_count(&got.layouts[i]) * (int64_t)hx_dtype_bytes(got.items[i].dtype); b++)
            *is_right &= ((uint8_t *)got.items[i].data)[b] == ckpt_state_byte(i, b);
    ckpt_state_free(&got);
    return status;
}

Test(ckpt_formats, files_of_every_format_are_loaded_bit_by_bit) {
    cr_assert_eq(N_FILES, HX_CKPT_FORMAT, "a file for each format");
    for (int f = 0; f < N_FILES; f++) {
        hx_train_state state = {0};
        bool is_right;
        MUST(load(files[f], &state, &is_right));
        cr_assert(is_right, "%s", files[f]);
        cr_assert_eq(memcmp(&state, &ckpt_state_train, sizeof state), 0, "%s", files[f]);
    }
}

Test(ckpt_formats, files_of_every_format_are_listed_and_verified_and_have_one_hash) {
    uint64_t hashes[N_FILES];
    for (int f = 0; f < N_FILES; f++) {
        hx_ckpt_info info;
        hx_ckpt_report report;
        char *text;
        MUST(hx_ckpt_inspect(files[f], true, &info));
        MUST(hx_ckpt_verify(files[f], &report));
        MUST(hx_ckpt_config_text(files[f], &text));
        cr_assert_str_eq(text, "model:\n  dtype: bf16\n");
        cr_assert_eq(info.format, f + 1);
        cr_assert_eq(info.world_size, 2);
        cr_assert_str_eq(info.kernels, "cpu v3");
        cr_assert_eq(info.n_entries, CKPT_STATE_N);
        cr_assert_eq(report.n_tensors, CKPT_STATE_N);
        cr_assert_eq(report.n_bytes, 9 * 5 * 2 + 7 * 4 + 8 + 9 * 5 * 4 + 3 * 8);
        cr_assert_eq(report.n_damaged, 0);
        cr_assert_eq(info.helix[0] != 0, f > 0);
        hashes[f] = info.state_hash;
        hx_mem_free((void **)&text);
        hx_ckpt_info_destroy(&info);
        hx_ckpt_report_destroy(&report);
    }
    for (int f = 1; f < N_FILES; f++) cr_assert_eq(hashes[f], hashes[0]);
}

/* A copy of a file with one bit of the third element of a tensor changed. */
static void copy_damaged(const char *file, const char *name, char copy[64]) {
    hx_ckpt_info info;
    int64_t at = -1;
    MUST(hx_ckpt_inspect(file, false, &info));
    for (int64_t i = 0; i < info.n_entries; i++)
        if (strcmp(info.entries[i].name, name) == 0) at = info.entries[i].offset + 2 * (int64_t)hx_dtype_bytes(info.entries[i].dtype);
    hx_ckpt_info_destroy(&info);
    cr_assert(at > 0);
    strcpy(copy, "/tmp/helix-golden-XXXXXX");
    FILE *from = fopen(file, "rb"), *to = fdopen(mkstemp(copy), "wb");
    cr_assert(from && to);
    int byte;
    for (int64_t i = 0; (byte = fgetc(from)) != EOF; i++) fputc(i == at ? byte ^ 4 : byte, to);
    fclose(from);
    fclose(to);
}

Test(ckpt_formats, what_is_damaged_is_named_with_its_writer_where_that_is_known) {
    for (int f = 0; f < N_FILES; f++) {
        char copy[64];
        hx_ckpt_report report;
        hx_train_state state = {.step = 77};
        bool is_right;
        copy_damaged(files[f], "/optim/counts", copy);
        MUST(hx_ckpt_verify(copy, &report));
        cr_assert_eq(report.n_damaged, 1);
        cr_assert_str_eq(report.damages[0].name, "/optim/counts");
        cr_assert_eq(report.damages[0].begin, f == 0 ? 0 : 1); /* of three numbers rank 1 wrote the last two */
        cr_assert_eq(report.damages[0].end, 3);
        cr_assert_eq(report.damages[0].rank, f == 0 ? -1 : 1);
        hx_ckpt_report_destroy(&report);
        cr_assert_eq(load(copy, &state, &is_right), HX_ERR_CORRUPT);
        cr_assert(strstr(hx_error_message(), "/optim/counts: elements"), "%s", hx_error_message());
        cr_assert_eq(state.step, 77);
        unlink(copy);
    }
}

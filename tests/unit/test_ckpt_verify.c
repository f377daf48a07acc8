/* What a checkpoint says about itself: damages by block and writer, lists of blocks that lie, loads of what fits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <hdf5.h>
#include "tests/unit/test_ckpt_fixture.h"
#include "io/ckpt/ckpt_impl.h"

TestSuite(ckpt_verify, .init = fixture_open, .fini = fixture_close);

static char file[HX_PATH_BYTES];

static void save_one(void) {
    OK(save_step(folder, 1, false));
    OK(hx_ckpt_resolve(folder, file));
}

static int64_t offset_of(const char *name) {
    hx_ckpt_info info;
    int64_t offset = -1;
    OK(hx_ckpt_inspect(file, false, &info));
    for (int64_t i = 0; i < info.n_entries; i++)
        if (strcmp(info.entries[i].name, name) == 0) offset = info.entries[i].offset;
    hx_ckpt_info_destroy(&info);
    return offset;
}

static void flip(int64_t at) {
    int fd = open(file, O_RDWR);
    uint8_t byte;
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

Test(ckpt_verify, all_damages_are_counted_and_described) {
    hx_ckpt_report report;
    char text[HX_CKPT_DAMAGE_TEXT], expected[HX_CKPT_DAMAGE_TEXT];
    save_one();
    OK(hx_ckpt_verify(file, &report));
    cr_assert_eq(report.n_tensors, 3);
    cr_assert_eq(report.n_blocks, 2);
    cr_assert_eq(report.n_bytes, N_WEIGHT * 4 + N_BIAS * 8);
    cr_assert_eq(report.n_damaged, 0);
    hx_ckpt_report_destroy(&report);
    int64_t at = offset_of("/optim/m/blocks.0.attn.q.bias");
    flip(offset_of("/model/blocks.0.attn.q.weight") + 4321);
    flip(at + 55);
    OK(hx_ckpt_verify(file, &report));
    cr_assert_eq(report.n_damaged, 2);
    cr_assert_eq(report.n_damages, 2);
    const hx_ckpt_damage *d = &report.damages[1];
    cr_assert(d->begin == 0 && d->end == N_BIAS && d->offset == at && d->rank == 0 && d->status == HX_ERR_CORRUPT);
    snprintf(expected, sizeof expected, "/optim/m/blocks.0.attn.q.bias: elements 0 to 6 fail their checksum (from byte %lld on, written by rank 0 on %s)",
             (long long)at, hx_comm_host(comm));
    cr_assert_str_eq(hx_ckpt_damage_text(d, text), expected);
    hx_ckpt_report_destroy(&report);
    hx_ckpt_info info;
    REFUSED(hx_ckpt_inspect(file, true, &info), HX_ERR_CORRUPT, "damaged blocks: 2 of 2");
}

Test(ckpt_verify, a_tensor_of_several_pieces_tells_which_one_is_damaged) {
    enum { N = (40 << 20) / 4 }; /* 40 MiB: pieces of 16, 16 and 8 */
    hx_layout layout;
    hx_ckpt_report report;
    float *big = calloc(N, sizeof *big);
    OK(hx_layout_full(&HX_SHAPE(N), &layout));
    items_array[0].layout = &layout;
    items_array[0].data = big;
    for (int64_t i = 0; i < N; i++) big[i] = (float)i;
    save_one();
    flip(offset_of("/model/blocks.0.attn.q.weight") + (int64_t)4 * 5000000);
    OK(hx_ckpt_verify(file, &report));
    cr_assert_eq(report.n_damaged, 1);
    cr_assert_eq(report.damages[0].begin, 4 << 20);
    cr_assert_eq(report.damages[0].end, 8 << 20);
    hx_ckpt_report_destroy(&report);
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_CORRUPT, "weight: elements 4194304 to 8388607 fail");
    hx_layout_destroy(&layout);
    free(big);
}

/* The list of blocks of a good file changed, under a seal that is right. */
static void lie(int row, int column, uint64_t value) {
    uint64_t rows[2][HX__BLOCK_HEAD + 4];
    save_one();
    hid_t h5 = H5Fopen(file, H5F_ACC_RDWR, H5P_DEFAULT), set = H5Dopen2(h5, "/meta/blocks", H5P_DEFAULT);
    cr_assert_geq(H5Dread(set, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows), 0);
    rows[row][column] = value;
    cr_assert_geq(H5Dwrite(set, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows), 0);
    H5Dclose(set);
    H5Fclose(h5);
    OK(hx__seal_write(file, 512, NULL, 0));
}

Test(ckpt_verify, a_list_of_blocks_that_lies_is_refused) {
    static const struct { int row, column; uint64_t value; } lies[] = {
        {0, HX__BLOCK_TENSOR, 7}, {0, HX__BLOCK_TENSOR, UINT64_MAX}, {1, HX__BLOCK_RANK, UINT64_MAX}, {0, HX__BLOCK_HEAD, 1},
        {0, HX__BLOCK_HEAD, UINT64_MAX}, {0, HX__BLOCK_HEAD + 2, 301}, {0, HX__BLOCK_HEAD + 2, 0}, {1, HX__BLOCK_HEAD + 1, UINT64_MAX}};
    hx_ckpt_report report;
    save_one();
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        lie(lies[i].row, lies[i].column, lies[i].value);
        REFUSED(hx_ckpt_verify(file, &report), HX_ERR_FORMAT, "is no block of a tensor");
        OK(hx_ckpt_load(comm, file, &items, NULL)); /* which needs no list of blocks */
    }
    lie(0, HX__BLOCK_HEAD + 2, 299); /* a row of the tensor is in no block */
    OK(hx_ckpt_verify(file, &report));
    cr_assert_eq(report.n_damaged, 1);
    cr_assert(report.damages[0].end == 299 * 40 && report.damages[0].status == HX_ERR_CORRUPT);
    hx_ckpt_report_destroy(&report);
    lie(1, HX__BLOCK_SUM, 1);
    OK(hx_ckpt_verify(file, &report));
    cr_assert_eq(report.n_damaged, 1);
    hx_ckpt_report_destroy(&report);
}

Test(ckpt_verify, a_sum_that_lies_is_refused) {
    save_one();
    hid_t h5 = H5Fopen(file, H5F_ACC_RDWR, H5P_DEFAULT), set = H5Dopen2(h5, "/model/blocks.0.attn.q.weight", H5P_DEFAULT);
    hid_t attr = H5Aopen(set, "hash", H5P_DEFAULT);
    cr_assert_geq(H5Awrite(attr, H5T_NATIVE_UINT64, &(uint64_t){5}), 0);
    H5Aclose(attr);
    H5Dclose(set);
    H5Fclose(h5);
    OK(hx__seal_write(file, 512, NULL, 0));
    hx_ckpt_info info;
    REFUSED(hx_ckpt_inspect(file, false, &info), HX_ERR_FORMAT, "the state's hash");
    REFUSED(hx_ckpt_load(comm, file, &items, NULL), HX_ERR_FORMAT, "the state's hash");
}

Test(ckpt_verify, equal_states_have_one_hash_and_others_another) {
    uint64_t hash[3];
    hx_ckpt_info info;
    for (int64_t i = 0; i < 3; i++) {
        OK(save_step(folder, i < 2 ? 1 : 2, false));
        OK(hx_ckpt_resolve(folder, file));
        OK(hx_ckpt_inspect(file, false, &info));
        cr_assert(strstr(info.helix, "("), "`%s`", info.helix);
        hash[i] = info.state_hash;
        hx_ckpt_info_destroy(&info);
    }
    cr_assert(hash[0] == hash[1] && hash[0] != hash[2] && hash[0] != 0);
}

Test(ckpt_verify, a_part_of_a_file_is_loaded_without_the_rest) {
    hx_state_list list = {.items = &items_array[1], .n_items = 1};
    save_one();
    memset(bias, 0, sizeof bias);
    OK(hx_ckpt_load(comm, file, &list, NULL));
    cr_assert(state_is(1));
    flip(offset_of("/model/blocks.0.attn.q.weight")); /* not asked for */
    OK(hx_ckpt_load(comm, file, &list, NULL));
}

Test(ckpt_verify, a_partial_load_takes_what_fits_and_tells_the_rest) {
    float other[12] = {7};
    hx_layout small;
    hx_state_item changed[4];
    hx_state_list list = {.items = changed, .n_items = 4};
    hx_ckpt_partial report;
    hx_train_state state = {0};
    save_one();
    OK(hx_layout_full(&HX_SHAPE(3, 4), &small));
    memcpy(changed, items_array, 2 * sizeof *changed);
    changed[0].layout = &small;
    changed[0].data = other;
    changed[2] = changed[0];
    strcpy(changed[2].name, "/model/new");
    changed[3] = changed[1];
    strcpy(changed[3].name, "/optim/new");
    memset(bias, 0, sizeof bias);
    REFUSED(hx_ckpt_load(comm, file, &list, NULL), HX_ERR_MISMATCH, "this model needs f32 [3,4]");
    OK(hx_ckpt_load_partial(comm, file, &list, &state, &report));
    cr_assert_eq(state.step, 1);
    cr_assert(state_is(1), "what fits was not loaded");
    cr_assert_eq(other[0], 7, "what does not fit was touched");
    cr_assert(report.n_loaded == 1 && report.n_left == 3 && report.n_unwanted == 1);
    cr_assert_str_eq(report.left[0].name, "/model/blocks.0.attn.q.weight");
    cr_assert_str_eq(report.left[0].why, "/model/blocks.0.attn.q.weight is f32 [300,40] in the checkpoint: this model needs f32 [3,4]");
    cr_assert_str_eq(report.left[1].name, "/model/new");
    cr_assert_str_eq(report.left[1].why, "/model/new is not in the checkpoint");
    cr_assert_str_eq(report.unwanted[0].name, "/model/empty");
    hx_ckpt_partial_destroy(&report);
    flip(offset_of("/optim/m/blocks.0.attn.q.bias"));
    REFUSED(hx_ckpt_load_partial(comm, file, &list, &state, &report), HX_ERR_CORRUPT, "bias");
    hx_layout_destroy(&small);
}

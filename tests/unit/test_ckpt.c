#include "tests/unit/test_ckpt_fixture.h"
#include <xxhash.h>
#include "io/ckpt/ckpt_impl.h"

TestSuite(ckpt, .init = fixture_open, .fini = fixture_close);

/* A file in memory: state, and whether the attributes of later versions are there. */
static hid_t state_file(const hx_train_state *state, bool is_old) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    cr_assert_geq(H5Pset_fapl_core(access, 1 << 16, false), 0);
    hid_t h5 = H5Fcreate("state", H5F_ACC_TRUNC, H5P_DEFAULT, access);
    hid_t group = H5Gcreate2(h5, "/train", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    OK(hx__ckpt_state_write(group, state));
#define DELETE_(field, type) if (is_old) cr_assert_geq(H5Adelete(group, #field), 0);
    HX_CKPT_STATE_ADDED(DELETE_)
#undef DELETE_
    H5Gclose(group);
    H5Pclose(access);
    return h5;
}

Test(ckpt, a_state_of_an_older_version_lacks_what_came_later_and_is_read) {
    const hx_train_state state = {.step = 7, .best_loss = 0.5, .loss_scale = 1024, .n_clean = 3, .data_hash = UINT64_MAX,
                                  .eval_step = 6, .eval_epoch = 2};
    for (int is_old = 0; is_old < 2; is_old++) {
        hx_train_state got = {0};
        hid_t h5 = state_file(&state, is_old);
        OK(hx__ckpt_state_read(h5, &got));
        cr_expect(got.step == 7 && got.best_loss == 0.5);
        cr_expect_eq(got.loss_scale, is_old ? 0 : 1024);
        cr_expect_eq(got.n_clean, is_old ? 0 : 3);
        cr_expect_eq(got.data_hash, is_old ? 0 : UINT64_MAX);
        cr_expect_eq(got.eval_step, is_old ? -1 : 6, "of older files it is not known");
        cr_expect_eq(got.eval_epoch, is_old ? 0 : 2);
        H5Fclose(h5);
    }
}

Test(ckpt, a_loss_scale_that_is_no_number_is_refused) {
    hx_train_state got = {0};
    hid_t h5 = state_file(&(hx_train_state){.step = 7, .loss_scale = NAN}, false);
    REFUSED(hx__ckpt_state_read(h5, &got), HX_ERR_FORMAT, "loss_scale nan");
    H5Fclose(h5);
}

Test(ckpt, an_evaluation_at_no_step_is_refused) {
    hx_train_state got = {0};
    hid_t h5 = state_file(&(hx_train_state){.step = 7, .eval_step = -2}, false);
    REFUSED(hx__ckpt_state_read(h5, &got), HX_ERR_FORMAT, "eval_step -2");
    H5Fclose(h5);
}

Test(ckpt, what_is_saved_is_loaded_bit_by_bit) {
    hx_train_state state = {0};
    OK(save_step(folder, 20, false));
    memset(weight, 0, sizeof weight);
    memset(bias, 0, sizeof bias);
    OK(hx_ckpt_load(comm, folder, &items, &state));
    cr_assert(state_is(20));
    cr_assert_eq(state.step, 20);
    cr_assert_eq(state.cursor, 640);
}

Test(ckpt, elements_of_every_dtype_survive_bit_by_bit) {
    enum { N = 37 };
    static uint8_t data[HX_DTYPE_COUNT][N * 16], back[HX_DTYPE_COUNT][N * 16];
    hx_state_item every[HX_DTYPE_COUNT];
    hx_state_list list = {.items = every, .n_items = HX_DTYPE_COUNT};
    hx_layout layout;
    hx_ckpt *ckpt;
    hx_ckpt_info info;
    char file[HX_PATH_BYTES];
    OK(hx_layout_full(&HX_SHAPE(N), &layout));
    for (int d = 0; d < HX_DTYPE_COUNT; d++) {
        every[d] = (hx_state_item){.dtype = (hx_dtype)d, .layout = &layout, .data = data[d], .n_replicas = 1};
        snprintf(every[d].name, sizeof every[d].name, "/model/%s", hx_dtype_name((hx_dtype)d));
        for (int i = 0; i < N * 16; i++) data[d][i] = (uint8_t)(d == HX_BOOL ? i % 3 == 0 : i * 37 + d);
    }
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    OK(hx_ckpt_save(ckpt, &(hx_train_state){.step = 1}, &list, false));
    hx_ckpt_close(&ckpt);
    for (int d = 0; d < HX_DTYPE_COUNT; d++) every[d].data = back[d];
    OK(hx_ckpt_load(comm, folder, &list, NULL));
    for (int d = 0; d < HX_DTYPE_COUNT; d++)
        cr_expect_eq(memcmp(data[d], back[d], N * hx_dtype_bytes((hx_dtype)d)), 0, "%s", hx_dtype_name((hx_dtype)d));
    OK(hx_ckpt_resolve(folder, file));
    OK(hx_ckpt_inspect(file, true, &info));
    cr_assert_eq(info.n_entries, HX_DTYPE_COUNT);
    for (int i = 0; i < info.n_entries; i++)
        cr_expect_str_eq(info.entries[i].name + strlen("/model/"), hx_dtype_name(info.entries[i].dtype));
    every[HX_BF16].dtype = HX_F16; /* as many bytes, another type */
    REFUSED(hx_ckpt_load(comm, folder, &list, NULL), HX_ERR_MISMATCH, "bf16");
    hx_ckpt_info_destroy(&info);
    hx_layout_destroy(&layout);
}

Test(ckpt, infinity_nan_and_all_64_bits_of_the_state_survive) {
    hx_ckpt *ckpt;
    hx_train_state state = {.step = 3, .seed = UINT64_MAX - 5, .best_loss = INFINITY, .last_eval_loss = NAN,
                            .last_loss = -INFINITY, .cursor = INT64_MAX, .n_bad_evals = 4, .n_skipped = 5,
                            .elapsed_s = 0.1}, back;
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    weight[5] = NAN;
    weight[6] = -0.0f;
    OK(hx_ckpt_save(ckpt, &state, &items, false));
    hx_ckpt_close(&ckpt);
    weight[5] = weight[6] = 1;
    OK(hx_ckpt_load(comm, folder, &items, &back));
    cr_assert(isnan(weight[5]) && weight[6] == 0 && signbit(weight[6]));
    cr_assert_arr_eq(&state, &back, sizeof state);
}

Test(ckpt, folders_are_created_with_their_parents) {
    char deep[512];
    snprintf(deep, sizeof deep, "%s/a/b/ckpt", folder);
    OK(save_step(deep, 1, false));
    OK(hx_ckpt_load(comm, deep, &items, NULL));
}

Test(ckpt, inspect_lists_names_shapes_and_state) {
    char file[HX_PATH_BYTES], *text;
    hx_ckpt_info info;
    OK(save_step(folder, 20, false));
    OK(hx_ckpt_resolve(folder, file));
    OK(hx_ckpt_inspect(file, true, &info));
    cr_assert_eq(info.format, HX_CKPT_FORMAT);
    cr_assert_eq(info.world_size, 1);
    cr_assert_eq(info.state.step, 20);
    cr_assert_eq(info.n_entries, 3);
    cr_assert(strstr(info.versions, "HDF5 1."));
    cr_assert_str_eq(info.entries[0].name, "/model/blocks.0.attn.q.weight");
    cr_assert_eq(info.entries[0].dtype, HX_F32);
    cr_assert(hx_shape_equal(&info.entries[0].shape, &HX_SHAPE(300, 40)));
    cr_assert_str_eq(info.entries[1].name, "/model/empty");
    cr_assert(hx_shape_equal(&info.entries[1].shape, &HX_SHAPE(4, 0)));
    cr_assert_str_eq(info.entries[2].name, "/optim/m/blocks.0.attn.q.bias");
    hx_ckpt_info_destroy(&info);
    OK(hx_ckpt_config_text(file, &text));
    cr_assert_str_eq(text, "train:\n  lr: 0.001\n");
    hx_mem_free((void **)&text);
}

static uint64_t model_hash(void) {
    const hx_train_state state = {.step = 1};
    char file[HX_PATH_BYTES];
    hx_ckpt_info info;
    hx_ckpt *ckpt;
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    OK(hx_ckpt_save(ckpt, &state, &items, false));
    hx_ckpt_close(&ckpt);
    OK(hx_ckpt_resolve(folder, file));
    OK(hx_ckpt_inspect(file, false, &info));
    const uint64_t hash = info.model_hash;
    hx_ckpt_info_destroy(&info);
    return hash;
}

Test(ckpt, hash_of_the_model_tells_elements_and_names_and_nothing_else) {
    const uint64_t first = model_hash();
    bias[3]++; /* of the optimizer */
    cr_expect_eq(model_hash(), first);
    weight[7]++;
    cr_expect_neq(model_hash(), first);
    weight[7]--;
    cr_expect_eq(model_hash(), first);
    strcpy(items.items[2].name, "/model/nought");
    cr_expect_neq(model_hash(), first);
}

Test(ckpt, kernels_are_kept_beside_the_configuration_where_they_are_told) {
    static const char *const told[] = {NULL, "", "cpu avx2, openblas Zen, gemm openblas"};
    for (int64_t i = 0; i < 3; i++) {
        hx_ckpt *ckpt;
        hx_ckpt_info info;
        char file[HX_PATH_BYTES], long_text[200] = {0};
        hx_train_state state = {.step = i};
        OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
        if (told[i]) OK(hx_ckpt_set_kernels(ckpt, told[i]));
        memset(long_text, 'k', sizeof long_text - 1);
        cr_expect_eq(hx_ckpt_set_kernels(ckpt, long_text), HX_ERR_ARG);
        OK(hx_ckpt_save(ckpt, &state, &items, false));
        hx_ckpt_close(&ckpt);
        OK(hx_ckpt_resolve(folder, file));
        OK(hx_ckpt_inspect(file, true, &info));
        cr_expect_str_eq(info.kernels, told[i] ? told[i] : "");
        hx_ckpt_info_destroy(&info);
    }
}

Test(ckpt, whose_ids_a_model_knows_is_kept_where_it_is_told) {
    static const hx_tokenizer_id told[] = {{0}, {HX_TOKENIZER_BYTES, 256, 0}, {HX_TOKENIZER_BPE, 1501, 0x8123456789abcdef}};
    for (int64_t i = 0; i < 3; i++) {
        hx_ckpt *ckpt;
        hx_ckpt_info info;
        char file[HX_PATH_BYTES];
        hx_train_state state = {.step = i};
        OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
        hx_ckpt_set_tokenizer(ckpt, &told[i]);
        OK(hx_ckpt_save(ckpt, &state, &items, false));
        hx_ckpt_close(&ckpt);
        OK(hx_ckpt_resolve(folder, file));
        OK(hx_ckpt_inspect(file, true, &info));
        cr_expect_eq(info.tokenizer.kind, told[i].kind);
        cr_expect_eq(info.tokenizer.vocab, told[i].vocab);
        cr_expect_eq(info.tokenizer.hash, told[i].hash);
        hx_ckpt_info_destroy(&info);
    }
}

Test(ckpt, equal_states_give_equal_files) {
    char a[HX_PATH_BYTES], b[HX_PATH_BYTES], other[512], command[3 * HX_PATH_BYTES];
    snprintf(other, sizeof other, "%s/other", folder);
    OK(save_step(folder, 1, false));
    sleep(1);
    OK(save_step(other, 1, false));
    OK(hx_ckpt_resolve(folder, a));
    OK(hx_ckpt_resolve(other, b));
    snprintf(command, sizeof command, "cmp '%s' '%s'", a, b);
    cr_assert_eq(system(command), 0);
}

Test(ckpt, tensors_of_a_page_begin_on_one_and_the_file_takes_no_room_behind_its_end) {
    char file[HX_PATH_BYTES];
    struct stat st;
    hx_ckpt_info info;
    int n_large = 0;
    OK(save_step(folder, 1, false));
    OK(hx_ckpt_resolve(folder, file));
    OK(hx_ckpt_inspect(file, false, &info));
    for (int64_t i = 0; i < info.n_entries; i++) {
        const hx_ckpt_entry *e = &info.entries[i];
        if (hx_shape_count(&e->shape) * (int64_t)hx_dtype_bytes(e->dtype) < 4096) continue;
        cr_expect_eq(e->offset % 4096, 0, "%s begins at byte %lld", e->name, (long long)e->offset);
        n_large++;
    }
    cr_expect_eq(n_large, 1);
    hx_ckpt_info_destroy(&info);
    cr_assert_eq(stat(file, &st), 0);
    cr_expect_leq((int64_t)st.st_blocks * 512, (int64_t)st.st_size + st.st_blksize);
}

Test(ckpt, any_layout_reads_what_another_wrote) {
    OK(save_step(folder, 1, false));
    /* columns 10..29, of which this shard holds the middle of the storage */
    hx_layout columns, shard;
    OK(hx_layout_slice(&HX_SHAPE(300, 40), 1, 10, 20, &columns));
    OK(hx_layout_restrict(&columns, 1111, 4444, &shard));
    static float part[3333];
    hx_state_item item = {.name = "/model/blocks.0.attn.q.weight", .dtype = HX_F32, .layout = &shard, .data = part, .n_replicas = 1};
    hx_state_list list = {.items = &item, .n_items = 1};
    OK(hx_ckpt_load(comm, folder, &list, NULL));
    for (int64_t i = 0; i < 3333; i++) {
        int64_t at = 1111 + i;
        cr_assert_eq(part[i], (float)(at / 20 * 40 + 10 + at % 20 + 1000));
    }
    hx_layout_destroy(&shard);
    hx_layout_destroy(&columns);
}

Test(ckpt, pieces_of_replicas_partition_what_they_hold) {
    static uint8_t seen[300 * 40];
    hx_box boxes[2] = {{.start = {0, 5}, .extent = {300, 11}, .local = 100}, {.start = {7, 20}, .extent = {200, 20}, .local = 9000}};
    hx_layout layout;
    OK(hx_layout_boxes(&HX_SHAPE(300, 40), boxes, 2, &layout));
    memset(seen, 0, sizeof seen);
    for (int replica = 0; replica < 3; replica++) {
        hx_state_item item = {.name = "/model/w", .dtype = HX_F32, .layout = &layout, .data = weight, .replica = replica, .n_replicas = 3};
        hx_layout pieces;
        OK(hx__ckpt_pieces(&item, 4000, &pieces));
        for (int b = 0; b < pieces.n_boxes; b++) {
            const hx_box *p = &pieces.boxes[b];
            cr_assert_leq(hx_box_count(p, 2), 1000);
            cr_assert_eq(hx_layout_find(&layout, p->start), p->local);
            for (int64_t i = 0; i < p->extent[0]; i++)
                for (int64_t j = 0; j < p->extent[1]; j++) seen[(p->start[0] + i) * 40 + p->start[1] + j]++;
        }
        hx_layout_destroy(&pieces);
    }
    for (int64_t i = 0; i < 300; i++)
        for (int64_t j = 0; j < 40; j++)
            cr_assert_eq(seen[i * 40 + j], hx_layout_find(&layout, (int64_t[]){i, j}) >= 0);
    hx_layout_destroy(&layout);
}

Test(ckpt, checksums_do_not_depend_on_how_a_tensor_is_cut) {
    uint64_t parts = 0;
    hx_layout full, part;
    hx_shape shape = HX_SHAPE(300, 40);
    fill_state(1);
    OK(hx_layout_full(&shape, &full));
    uint64_t whole = hx__sum_box(weight, 4, &shape, &full.boxes[0]);
    cr_assert_eq(whole, hx__sum_elems(weight, 4, 0, N_WEIGHT));
    for (int64_t i = 0; i < 7; i++) {
        OK(hx_layout_restrict(&full, N_WEIGHT * i / 7, N_WEIGHT * (i + 1) / 7, &part));
        for (int b = 0; b < part.n_boxes; b++)
            parts += hx__sum_box(weight + N_WEIGHT * i / 7 + part.boxes[b].local, 4, &shape, &part.boxes[b]);
        hx_layout_destroy(&part);
    }
    cr_assert_eq(whole, parts);
    hx_layout_destroy(&full);
}

/* Around the places where bytes of the seed carry, and where it no longer fits the quick way; unaligned too. */
Test(ckpt, a_sum_over_elements_is_that_of_xxh3_with_their_positions_as_seeds) {
    static const size_t sizes[] = {1, 2, 4, 8, 16};
    static const int64_t places[] = {0, 1, 250, 65530, ((int64_t)1 << 32) - 300, ((int64_t)1 << 40) - 5, ((int64_t)1 << 56) - 9};
    static uint8_t bytes[1000 * 16 + 1];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * i >> 3);
    for (int s = 0; s < 5; s++)
        for (int p = 0; p < 7; p++)
            for (int64_t n = 0; n < 1000; n = 2 * n + 1) {
                uint64_t expected = 0;
                for (int64_t i = 0; i < n; i++)
                    expected += XXH3_64bits_withSeed(bytes + 1 + (size_t)i * sizes[s], sizes[s], (uint64_t)(places[p] + i));
                cr_assert_eq(hx__sum_elems(bytes + 1, sizes[s], places[p], n), expected, "%zu bytes, %lld of them from %lld on", sizes[s],
                             (long long)n, (long long)places[p]);
            }
}

Test(ckpt, the_self_test_passes_and_leaves_nothing) {
    char command[512];
    OK(hx_ckpt_self_test(comm, folder));
    snprintf(command, sizeof command, "test -z \"$(ls -A '%s')\"", folder);
    cr_assert_eq(system(command), 0);
}

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "dist/comm/comm_impl.h"
#include "dist/mesh.h"
#include "tests/support/expect.h"

Test(mesh, data_parallel_axis_spans_all_ranks) {
    hx_comm *world;
    hx_mesh *mesh;
    hx_mesh_config config = HX_MESH_DEFAULT;
    OK(hx_comm_mpi_open(&world));
    int rank = hx_comm_rank(world), size = hx_comm_size(world);
    for (int explicit_degree = 0; explicit_degree < 2; explicit_degree++) {
        int64_t x = rank + 1;
        char text[32];
        config.dp = explicit_degree ? size : 0;
        OK(hx_mesh_create(world, &config, &mesh));
        hx_comm *dp = hx_mesh_axis(mesh, HX_AXIS_DP);
        cr_expect_eq(hx_comm_size(dp), size);
        cr_expect_eq(hx_comm_rank(dp), rank);
        OK(hx_comm_all_reduce(dp, &x, 1, HX_I64, HX_SUM, NULL, NULL));
        cr_expect_eq(x, size * (size + 1) / 2);
        snprintf(text, sizeof text, "dp=%d", size);
        cr_expect_str_eq(hx_mesh_text(mesh), text);
        hx_mesh_destroy(&mesh);
        cr_expect_null(mesh);
    }
    hx_comm_close(&world);
}

Test(mesh, axes_of_degree_1_hold_this_rank_alone) {
    static const hx_axis axes[] = {HX_AXIS_PP, HX_AXIS_CP, HX_AXIS_EP, HX_AXIS_TP};
    hx_comm *world;
    hx_mesh *mesh;
    OK(hx_comm_mpi_open(&world));
    OK(hx_mesh_create(world, &(hx_mesh_config)HX_MESH_DEFAULT, &mesh));
    for (int i = 0; i < 4; i++) {
        int64_t x = hx_comm_rank(world);
        hx_comm *axis = hx_mesh_axis(mesh, axes[i]);
        cr_expect_eq(hx_comm_size(axis), 1);
        OK(hx_comm_all_reduce(axis, &x, 1, HX_I64, HX_SUM, NULL, NULL));
        cr_expect_eq(x, hx_comm_rank(world));
    }
    cr_expect_str_eq(hx_axis_name(HX_AXIS_TP), "tp");
    cr_expect_null(hx_mesh_axis(mesh, (hx_axis)99));
    hx_mesh_destroy(&mesh);
    hx_comm_close(&world);
}

/* Ranks that differ in one coordinate only form an axis; tensor-parallel peers are neighbours. */
Test(mesh, two_axes_cross) {
    hx_comm *world;
    hx_mesh *mesh;
    OK(hx_comm_mpi_open(&world));
    const int rank = hx_comm_rank(world), size = hx_comm_size(world), tp = size % 2 == 0 ? 2 : 1;
    int64_t along_tp = rank, along_dp = rank;
    OK(hx_mesh_create(world, &(hx_mesh_config){.dp = 0, .tp = tp}, &mesh));
    hx_comm *t = hx_mesh_axis(mesh, HX_AXIS_TP), *d = hx_mesh_axis(mesh, HX_AXIS_DP);
    cr_expect_eq(hx_comm_size(t), tp);
    cr_expect_eq(hx_comm_size(d), size / tp);
    cr_expect_eq(hx_comm_rank(t), rank % tp);
    cr_expect_eq(hx_comm_rank(d), rank / tp);
    OK(hx_comm_all_reduce(t, &along_tp, 1, HX_I64, HX_SUM, NULL, NULL));
    OK(hx_comm_all_reduce(d, &along_dp, 1, HX_I64, HX_SUM, NULL, NULL));
    int64_t want_tp = 0, want_dp = 0;
    for (int r = 0; r < size; r++) {
        want_tp += r / tp == rank / tp ? r : 0;
        want_dp += r % tp == rank % tp ? r : 0;
    }
    cr_expect_eq(along_tp, want_tp);
    cr_expect_eq(along_dp, want_dp);
    hx_mesh_destroy(&mesh);
    hx_comm_close(&world);
}

/* The launcher dealt ranks out over two hosts in turn: those of one host are neighbours on tp all the same. */
Test(mesh, tensor_parallel_peers_are_on_one_host) {
    hx_comm *world;
    hx_mesh *mesh;
    OK(hx_comm_mpi_open(&world));
    const int rank = hx_comm_rank(world), size = hx_comm_size(world);
    snprintf(world->host, sizeof world->host, "host%d", rank % 2);
    OK(hx_mesh_create(world, &(hx_mesh_config){.dp = 0, .tp = size % 4 == 0 ? 2 : 1}, &mesh));
    hx_comm *t = hx_mesh_axis(mesh, HX_AXIS_TP), *d = hx_mesh_axis(mesh, HX_AXIS_DP);
    int64_t parities[2] = {rank % 2, -(rank % 2)};
    OK(hx_comm_all_reduce(t, parities, 2, HX_I64, HX_MAX, NULL, NULL));
    cr_expect_eq(parities[0], -parities[1], "ranks of two hosts share layers");
    if (size == 4) cr_expect_eq(hx_comm_rank(d), rank % 2);
    hx_mesh_destroy(&mesh);
    hx_comm_close(&world);
}

Test(mesh, degree_that_does_not_fit_the_ranks_is_refused_on_all) {
    hx_comm *world;
    hx_mesh *mesh = NULL;
    OK(hx_comm_mpi_open(&world));
    int size = hx_comm_size(world);
    char text[32];
    snprintf(text, sizeof text, "there are %d", size);
    cr_expect_eq(hx_mesh_create(world, &(hx_mesh_config){.dp = size + 1, .tp = 1}, &mesh), HX_ERR_CONFIG);
    cr_expect_not_null(strstr(hx_error_message(), text), "%s", hx_error_message());
    cr_expect_eq(hx_mesh_create(world, &(hx_mesh_config){.dp = -1, .tp = 1}, &mesh), HX_ERR_CONFIG);
    hx_mesh_config mine = {.dp = hx_comm_rank(world) == 0 ? 0 : size, .tp = 1}; /* ranks that were told different things */
    cr_expect_eq(hx_mesh_create(world, &mine, &mesh), size == 1 ? HX_OK : HX_ERR_CONFIG);
    hx_mesh_destroy(&mesh);
    hx_comm_close(&world);
}

Test(mesh, option_table_has_the_degrees_and_the_sequence) {
    cr_assert_eq(hx_mesh_n_options, 3);
    cr_expect_str_eq(hx_mesh_options[0].name, "dp");
    cr_expect_str_eq(hx_mesh_options[1].name, "tp");
    cr_expect_str_eq(hx_mesh_options[2].name, "sequence");
}

#include <criterion/criterion.h>
#include <string.h>

#include "backends/backends.h"
#include "dist/comm/dry.h"
#include "dist/mesh.h"
#include "tests/support/expect.h"

enum { RANK = 13, SIZE = 24 };

Test(dry, the_other_ranks_say_what_this_one_says) {
    hx_comm *world;
    hx_agreement all;
    double sums[2] = {1.5, -2}, largest = 3;
    OK(hx_comm_dry_open(RANK, SIZE, &world));
    cr_assert(hx_comm_is_dry(world));
    cr_assert_eq(hx_comm_rank(world), RANK);
    cr_assert_eq(hx_comm_size(world), SIZE);
    hx_comm_agreement(world, &all);
    OK(all.agree(all.self, HX_OK));
    OK(hx_comm_agree_equal(world, "a number", 42));
    OK(all.sum(all.self, sums, 2));
    cr_assert_eq(sums[0], SIZE * 1.5);
    cr_assert_eq(sums[1], SIZE * -2);
    OK(all.max(all.self, &largest));
    cr_assert_eq(largest, 3);
    cr_assert_eq(all.agree(all.self, HX_FAIL(HX_ERR_IO, "a disk")), HX_ERR_IO);
    cr_assert(strstr(hx_error_message(), "a disk"));
    hx_comm_close(&world);
}

Test(dry, a_mesh_has_dry_axes_with_the_rank_s_coordinates) {
    const hx_mesh_config config = {.dp = 6, .tp = 4};
    hx_comm *world;
    hx_mesh *mesh;
    OK(hx_comm_dry_open(RANK, SIZE, &world));
    OK(hx_mesh_create(world, &config, &mesh));
    const struct {
        hx_axis axis;
        int rank, size;
    } expected[] = {{HX_AXIS_DP, RANK / 4, 6}, {HX_AXIS_TP, RANK % 4, 4}, {HX_AXIS_PP, 0, 1}};
    for (int i = 0; i < 3; i++) {
        const hx_comm *axis = hx_mesh_axis(mesh, expected[i].axis);
        cr_assert(hx_comm_is_dry(axis));
        cr_assert_eq(hx_comm_rank(axis), expected[i].rank);
        cr_assert_eq(hx_comm_size(axis), expected[i].size);
    }
    hx_mesh_destroy(&mesh);
    hx_comm_close(&world);
}

Test(dry, collectives_of_a_device_are_counted_by_kind) {
    hx_device *meta;
    hx_stream *stream;
    hx_event *done;
    hx_tensor *x;
    hx_comm *comm;
    hx_comm_dry_count counts[HX_COLL_KINDS];
    double number = 1;
    OK(hx_backend_register(&hx_backend_meta));
    OK(hx_device_open("meta", NULL, &meta));
    OK(hx_stream_create(meta, &stream));
    OK(hx_event_create(meta, &done));
    OK(hx_comm_dry_open(1, 4, &comm));
    OK(hx_tensor_create(meta, HX_F32, HX_SHAPE(40), &x));
    OK(hx_comm_all_reduce(comm, hx_tensor_data(x), 40, HX_F32, HX_SUM, stream, done));
    OK(hx_comm_all_reduce(comm, hx_tensor_data(x), 30, HX_F32, HX_SUM, stream, NULL));
    OK(hx_comm_reduce_scatter(comm, hx_tensor_data(x), 10, HX_F32, HX_SUM, stream, done));
    OK(hx_comm_all_gather(comm, hx_tensor_data(x), 10, HX_BF16, stream, done));
    OK(hx_comm_all_reduce(comm, &number, 1, HX_F64, HX_SUM, NULL, NULL)); /* of the host's: not counted */
    OK(hx_event_sync(done));
    OK(hx_comm_sync(comm));
    hx_comm_dry_counts(comm, counts);
    cr_assert_eq(counts[HX_COLL_ALL_REDUCE].n_calls, 2);
    cr_assert_eq(counts[HX_COLL_ALL_REDUCE].n_bytes, 280);
    cr_assert_eq(counts[HX_COLL_REDUCE_SCATTER].n_calls, 1);
    cr_assert_eq(counts[HX_COLL_REDUCE_SCATTER].n_bytes, 160);
    cr_assert_eq(counts[HX_COLL_ALL_GATHER].n_bytes, 80);
    cr_assert_eq(counts[HX_COLL_BROADCAST].n_calls, 0);
    hx_comm_close(&comm);
    hx_tensor_destroy(&x);
    hx_event_destroy(&done);
    hx_stream_destroy(&stream);
    hx_device_close(&meta);
}

Test(dry, what_needs_other_ranks_is_refused) {
    hx_comm *world, *self, *part;
    OK(hx_comm_dry_open(0, 4, &world));
    OK(hx_comm_self_open(&self));
    cr_assert_eq(hx_comm_split(world, 0, 0, &part), HX_ERR_UNSUPPORTED);
    cr_assert(strstr(hx_error_message(), "the other 3 ranks"));
    cr_assert_eq(hx_comm_dry_open(4, 4, &part), HX_ERR_ARG);
    cr_assert_eq(hx_comm_dry_part(self, 0, 1, &part), HX_ERR_ARG);
    cr_assert_not(hx_comm_is_dry(self));
    hx_comm_close(&self);
    hx_comm_close(&world);
}

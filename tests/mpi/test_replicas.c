/* A bit that changes on one rank, in what others hold too, is found by the next comparison on all ranks, which names the tensor
 * and the rank; runs in which nothing happens hear nothing. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "backends/backends.h"
#include "dist/mesh.h"
#include "dist/model/tensor.h"
#include "tests/support/small_run.h"

/* The highest bit of the significand of an item's first element. */
static void flip(const hx_state_list *items, const char *name) {
    for (int64_t i = 0; i < items->n_items; i++) {
        const hx_state_item *item = &items->items[i];
        if (strcmp(item->name, name) != 0) continue;
        unsigned char *p = (unsigned char *)item->data + (size_t)item->layout->boxes[0].local * hx_dtype_bytes(item->dtype);
        if (item->dtype == HX_F64) p[6] ^= 8;
        else if (item->dtype == HX_F32) p[2] ^= 0x40;
        else p[0] ^= 0x40; /* bf16 */
        return;
    }
    cr_assert_fail("there is no %s", name);
}

static void expect_said(const char *text) {
    cr_expect(strstr(hx_error_message(), text) != NULL, "'%s' is not in: %s", text, hx_error_message());
}

/* Two updates compared after each, a bit changed on the last rank after the first one.
 * @param name  NULL: none is; @param first  the tensor that is to be named */
static void train(small_run_config config, const char *name, const char *first) {
    hx_comm *world;
    small_run run;
    hx_state_list items = {0};
    char who[256];
    config.batch = 12, config.steps = 20, config.check_replicas = 1;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    const int size = hx_comm_size(world), last = size - 1;
    small_run_open(&run, world, __FILE__, &config);
    OK(hx_trainer_items(run.trainer, &items));
    OK(hx_trainer_step(run.trainer, NULL));
    if (name != NULL && hx_comm_rank(world) == last) flip(&items, name);
    const hx_status status = hx_trainer_step(run.trainer, NULL);
    if (name == NULL || size == 1) {
        cr_expect_eq(status, HX_OK, "%s", hx_error_message());
    } else {
        cr_expect_eq(status, HX_ERR_CORRUPT);
        expect_said("update 2");
        expect_said(first);
        const char *host = hx_comm_host(world);
        if (size > 2) snprintf(who, sizeof who, "differs on rank %d (%s) from the majority", last, host);
        else snprintf(who, sizeof who, "differs on rank 0 (%s), rank 1 (%s), none of which has a majority", host, host);
        expect_said(who);
    }
    hx_state_list_destroy(&items);
    small_run_close(&run);
    hx_comm_close(&world);
}

#define WEIGHT "/model/blocks.0.attn.k.weight"

Test(replicas, a_bit_of_a_parameter_in_f32_is_found_and_its_rank_is_named) { train((small_run_config){.lr = 1e-3}, WEIGHT, WEIGHT); }

/* Nothing of what follows differs but the slot, at a learning rate of 0. */
Test(replicas, a_bit_of_a_moment_is_found) { train((small_run_config){.lr = 0}, "/optim/v/norm.weight", "/optim/v/norm.weight"); }

/* A parameter of half type is written anew from its master, which is what goes astray; the value follows. */
Test(replicas, a_bit_of_a_master_of_bf16_is_found) {
    train((small_run_config){.dtype = 2, .lr = 1e-3}, "/optim/master/tok.weight", "/model/tok.weight");
}

Test(replicas, a_bit_of_a_frozen_parameter_in_bf16_is_found_with_shares_of_the_optimizer) {
    train((small_run_config){.dtype = 2, .lr = 1e-3, .freeze = "blocks.0.*", .zero = 1}, WEIGHT, WEIGHT);
}

Test(replicas, a_bit_of_an_average_is_found) {
    train((small_run_config){.dtype = 1, .lr = 1e-3, .ema = 0.9}, "/ema/tok.weight", "/ema/tok.weight");
}

Test(replicas, nothing_is_said_of_a_healthy_run) { train((small_run_config){.lr = 1e-2, .ema = 0.9}, NULL, NULL); }

Test(replicas, nothing_is_said_of_a_healthy_run_with_shares_of_the_optimizer) {
    train((small_run_config){.dtype = 2, .lr = 1e-2, .zero = 1}, NULL, NULL);
}

/* ---- with tensor parallelism ---- */

/* tp 2: of four ranks 0 and 2 hold one part, 1 and 3 the other; two are one replica. The last rank is led astray, at a learning rate
 * of 0: else the wrong numbers that it gives its tensor-parallel peers would lead them astray too, before anything is compared. */
static void train_parts(int n_ranks, const char *name, const char *said) {
    hx_comm *world;
    hx_mesh *mesh;
    hx_tensor_parallel *tp;
    small_run run;
    hx_state_list items = {0};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    if (hx_comm_size(world) == n_ranks) {
        OK(hx_mesh_create(world, &(hx_mesh_config){.dp = 0, .tp = 2}, &mesh));
        OK(hx_tensor_parallel_create(hx_mesh_axis(mesh, HX_AXIS_TP), false, &tp));
        const small_run_config config = {.batch = 4, .steps = 20, .lr = name != NULL ? 0 : 1e-3, .check_replicas = 2,
                                         .shard = hx_tensor_parallel_shard(tp), .world = world};
        small_run_open(&run, hx_mesh_axis(mesh, HX_AXIS_DP), __FILE__, &config);
        OK(hx_trainer_items(run.trainer, &items));
        for (int i = 0; i < 3; i++) OK(hx_trainer_step(run.trainer, NULL));
        if (name != NULL && hx_comm_rank(world) == n_ranks - 1) flip(&items, name);
        cr_expect_eq(hx_trainer_step(run.trainer, NULL), name != NULL ? HX_ERR_CORRUPT : HX_OK, "%s", hx_error_message());
        if (name != NULL) expect_said(said);
        hx_state_list_destroy(&items);
        small_run_close(&run);
        hx_tensor_parallel_destroy(&tp);
        hx_mesh_destroy(&mesh);
    }
    hx_comm_close(&world);
}

Test(replicas, a_part_is_compared_with_the_same_part) { train_parts(4, WEIGHT, "update 4: " WEIGHT " differs on rank 1 ("); }
Test(replicas, what_is_whole_is_compared_over_all_ranks) { train_parts(4, "/model/norm.weight", "update 4: /model/norm.weight differs on rank 3 ("); }
Test(replicas, what_is_whole_is_compared_among_parts_of_one_replica) { train_parts(2, "/model/norm.weight", "update 4: /model/norm.weight differs on rank 0 ("); }
Test(replicas, nothing_is_said_of_healthy_parts) { train_parts(4, NULL, NULL); }
Test(replicas, nothing_is_said_of_the_healthy_parts_of_one_replica) { train_parts(2, NULL, NULL); }

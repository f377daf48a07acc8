/* Failure shared by all: agreement, and what a failed collective or producer does to the others. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/base/trace.h"
#include "dist/comm/comm_impl.h"
#include "tests/support/expect.h"

static hx_comm *open_world(void) {
    hx_comm *comm;
    OK(hx_comm_mpi_open(&comm));
    return comm;
}

static bool says(const char *text) {
    return strstr(hx_error_message(), text) != NULL;
}

Test(agree, all_ranks_go_on_when_none_failed) {
    hx_comm *comm = open_world();
    for (int i = 0; i < 3; i++) cr_expect_eq(hx_comm_agree(comm, HX_OK), HX_OK);
    hx_comm_close(&comm);
}

Test(agree, one_failure_reaches_every_rank_with_its_message) {
    hx_comm *comm = open_world();
    int last = hx_comm_size(comm) - 1;
    char expected[200];
    hx_error_clear();
    hx_status mine = hx_comm_rank(comm) == last ? HX_FAIL(HX_ERR_SHAPE, "a [2,3] x b [4,5] of rank %d", last) : HX_OK;
    hx_status all = hx_comm_agree(comm, mine);
    cr_expect(says("a [2,3] x b [4,5]"), "%s", hx_error_message());
    if (hx_comm_rank(comm) == last) {
        cr_expect_eq(all, HX_ERR_SHAPE);
        cr_expect(!says("failed first"), "%s", hx_error_message());
    } else {
        cr_expect_eq(all, HX_ERR_REMOTE);
        snprintf(expected, sizeof expected, "rank %d (%s) failed first: ", last, hx_comm_host(comm));
        cr_expect(says(expected), "%s", hx_error_message());
    }
    cr_expect_eq(hx_comm_agree(comm, HX_OK), HX_OK); /* the communicator itself is sound */
    hx_comm_close(&comm);
}

Test(agree, the_lowest_of_several_failing_ranks_is_named) {
    hx_comm *comm = open_world();
    int rank = hx_comm_rank(comm), size = hx_comm_size(comm);
    hx_status mine = rank >= 1 ? HX_FAIL(HX_ERR_IO, "file of rank %d", rank) : HX_OK;
    hx_status all = hx_comm_agree(comm, mine);
    if (size == 1) {
        cr_expect_eq(all, HX_OK);
    } else if (rank == 0) {
        cr_expect_eq(all, HX_ERR_REMOTE);
        cr_expect(says("rank 1 (") && says("file of rank 1"), "%s", hx_error_message());
    } else {
        char own[40];
        snprintf(own, sizeof own, "file of rank %d", rank);
        cr_expect_eq(all, HX_ERR_IO);
        cr_expect(says(own), "%s", hx_error_message());
    }
    hx_comm_close(&comm);
}

Test(agree, a_message_of_any_length_arrives_cut_but_whole) {
    hx_comm *comm = open_world();
    char text[4000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    hx_status mine = hx_comm_rank(comm) == 0 ? HX_FAIL(HX_ERR_CONFIG, "%s", text) : HX_OK;
    cr_expect_neq(hx_comm_agree(comm, mine), HX_OK);
    cr_expect(says("xxxxxxxxxxxxxxxxxxxxxxxx"));
    hx_comm_close(&comm);
}

Test(agree, values_that_differ_are_both_named_on_every_rank) {
    hx_comm *comm = open_world();
    int rank = hx_comm_rank(comm), size = hx_comm_size(comm);
    const int64_t extremes[] = {0, 1, -1, INT64_MAX, INT64_MIN};
    for (int i = 0; i < 5; i++) cr_expect_eq(hx_comm_agree_equal(comm, "value", extremes[i]), HX_OK);
    hx_status status = hx_comm_agree_equal(comm, "data.bytes", rank == size - 1 ? 41 : -7);
    if (size == 1) {
        cr_expect_eq(status, HX_OK);
    } else {
        cr_expect_eq(status, HX_ERR_CONFIG);
        cr_expect(says("data.bytes") && says("41") && says("-7"), "%s", hx_error_message());
    }
    hx_comm_close(&comm);
}

Test(agree, the_largest_of_all_ranks_is_found_and_nan_wins) {
    hx_comm *comm = open_world();
    hx_agreement hook;
    const int rank = hx_comm_rank(comm), size = hx_comm_size(comm);
    hx_comm_agreement(comm, &hook);
    double value = rank == size / 2 ? 9 : -rank, bad = rank == 0 ? 11 : rank == size / 2 ? NAN : 7;
    cr_assert_eq(hook.max(hook.self, &value), HX_OK);
    cr_expect_eq(value, 9);
    cr_assert_eq(hook.max(hook.self, &bad), HX_OK);
    cr_expect(size == 1 ? bad == 11 : isnan(bad), "%g", bad);
    hx_comm_close(&comm);
}

/* Numbers whose sum depends on the order: the result must be the one of ranks 0, 1, 2, ... to the last bit. */
Test(agree, small_sums_are_made_in_the_order_of_ranks) {
    const double table[4] = {1e16, 1.0, -1e16, 3.0};
    hx_comm *comm = open_world();
    hx_agreement hook;
    double values[64], expected = 0;
    hx_comm_agreement(comm, &hook);
    cr_expect_eq(hook.rank, hx_comm_rank(comm));
    cr_expect_eq(hook.size, hx_comm_size(comm));
    for (int rank = 0; rank < hook.size; rank++) expected += table[rank % 4];
    for (int n = 0; n <= 64; n += 16) {
        for (int i = 0; i < n; i++) values[i] = table[hook.rank % 4];
        OK(hook.sum(hook.self, values, n));
        for (int i = 0; i < n; i++) cr_expect_eq(memcmp(&values[i], &expected, sizeof expected), 0, "%.17g", values[i]);
    }
    cr_expect_eq(hook.sum(hook.self, values, 65), HX_ERR_ARG);
    cr_expect_eq(hook.sum(hook.self, values, -1), HX_ERR_ARG);
    hx_comm_close(&comm);
}

Test(agree, hook_broadcasts_from_rank_0) {
    hx_comm *comm = open_world();
    hx_agreement hook;
    char text[32] = "mine";
    hx_comm_agreement(comm, &hook);
    if (hook.rank == 0) snprintf(text, sizeof text, "everybody's");
    OK(hook.broadcast(hook.self, text, sizeof text));
    cr_expect_str_eq(text, "everybody's");
    cr_expect_eq(hook.agree(hook.self, HX_OK), HX_OK);
    hx_comm_close(&comm);
}

/* ---- failures of a collective and of a producer ---- */

static hx_status run_that_fails(hx_comm *comm, const hx_comm_call *call) {
    (void)comm;
    return call->count == 13 ? HX_FAIL(HX_ERR_COMM, "the cable is out") : HX_OK;
}

static void nothing(hx_comm *comm) { (void)comm; }

static const hx_comm_ops failing_ops = {.name = "failing", .run = run_that_fails, .destroy = nothing};

Test(agree, failure_of_a_collective_reaches_its_event_and_stays) {
    hx__comm_engine *engine;
    hx_comm *bad, *good;
    hx_device *device;
    hx_event *first, *second, *other;
    float x[13] = {0};
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &device));
    OK(hx_event_create(device, &first));
    OK(hx_event_create(device, &second));
    OK(hx_event_create(device, &other));
    OK(hx__comm_engine_create(NULL, &engine));
    OK(hx__comm_create(&failing_ops, engine, 0, 1, &bad));
    OK(hx__comm_create(&failing_ops, engine, 0, 1, &good));
    hx__comm_engine_release(&engine);

    OK(hx_comm_all_reduce(bad, x, 5, HX_F32, HX_SUM, NULL, NULL));
    OK(hx_comm_all_reduce(bad, x, 13, HX_F32, HX_SUM, NULL, first));
    cr_expect_eq(hx_event_sync(first), HX_ERR_COMM);
    cr_expect(says("the cable is out"), "%s", hx_error_message());
    hx_error_clear();
    cr_expect_eq(hx_comm_all_reduce(bad, x, 5, HX_F32, HX_SUM, NULL, second), HX_ERR_COMM);
    cr_expect(says("the cable is out"), "%s", hx_error_message());
    cr_expect_eq(hx_comm_barrier(bad), HX_ERR_COMM);
    cr_expect_eq(hx_comm_sync(bad), HX_ERR_COMM);
    /* A communicator on the same thread is not affected. */
    OK(hx_comm_all_reduce(good, x, 5, HX_F32, HX_SUM, NULL, other));
    OK(hx_event_sync(other));
    OK(hx_comm_sync(good));

    hx_event_destroy(&first);
    hx_event_destroy(&second);
    hx_event_destroy(&other);
    hx_comm_close(&bad);
    hx_comm_close(&good);
    hx_device_close(&device);
}

Test(agree, message_longer_than_the_receiver_expects_is_an_error_of_mpi) {
    hx_comm *comm = open_world();
    float x[10] = {0};
    int rank = hx_comm_rank(comm);
    if (hx_comm_size(comm) < 2) {
        hx_comm_close(&comm);
        cr_skip("skipped: needs two ranks");
    }
    if (rank == 0) OK(hx_comm_send(comm, x, 10, HX_F32, 1, NULL, NULL));
    if (rank == 1) {
        cr_expect_eq(hx_comm_recv(comm, x, 4, HX_F32, 0, NULL, NULL), HX_ERR_COMM);
        cr_expect(says("MPI_Recv"), "%s", hx_error_message());
        cr_expect_eq(hx_comm_sync(comm), HX_ERR_COMM);
    }
    hx_comm_close(&comm);
}

Test(agree, a_rank_whose_producer_failed_still_takes_part) {
    hx_comm *comm = open_world();
    hx_device *device;
    hx_stream *stream;
    hx_event *bad, *done;
    float x[4] = {1, 1, 1, 1};
    bool is_failing = hx_comm_rank(comm) == 0;
    setenv("HELIX_STREAM", "async", 1);
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &device));
    OK(hx_stream_create(device, &stream));
    OK(hx_event_create(device, &bad));
    OK(hx_event_create(device, &done));
    if (is_failing) {
        OK(hx_event_arm(bad));
        OK(hx_event_wait(bad, stream));
        hx_event_fire(bad, HX_ERR_NUMERIC, "the kernel broke");
        cr_expect_eq(hx_stream_sync(stream), HX_ERR_NUMERIC);
    }
    OK(hx_comm_all_reduce(comm, x, 4, HX_F32, HX_SUM, stream, done));
    hx_status status = hx_event_sync(done);
    cr_expect_eq(status, is_failing ? HX_ERR_NUMERIC : HX_OK, "%s", hx_error_message());
    if (is_failing) cr_expect(says("the kernel broke"), "%s", hx_error_message());
    if (!is_failing) cr_expect_float_eq(x[0], (float)hx_comm_size(comm), 0);
    OK(hx_comm_barrier(comm)); /* nobody hangs, and the communicator goes on */
    OK(hx_comm_release_device(comm));
    hx_event_destroy(&bad);
    hx_event_destroy(&done);
    hx_stream_destroy(&stream);
    hx_device_close(&device);
    hx_comm_close(&comm);
}

/* ---- launchers ---- */

static void forget_launcher(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
                                        "PMI_SIZE", "PMI_RANK", "PMI_FD", "PMIX_RANK", "PMIX_NAMESPACE",
                                        "MV2_COMM_WORLD_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

Test(launcher, srun_without_pmix_is_explained_instead_of_running_alone) {
    hx_comm *comm = NULL;
    forget_launcher();
    cr_expect(!hx_comm_was_launched());
    setenv("SLURM_JOB_ID", "77", 1);
    setenv("SLURM_PROCID", "0", 1);
    setenv("SLURM_NTASKS", "4", 1);
    cr_expect(!hx_comm_was_launched(), "a batch script is one process");
    setenv("SLURM_STEP_ID", "0", 1);
    cr_expect(hx_comm_was_launched());
    cr_expect_eq(hx_comm_mpi_open(&comm), HX_ERR_COMM);
    cr_expect(says("srun --mpi=pmix") && says("mpirun"), "%s", hx_error_message());
    cr_expect_null(comm);
    setenv("PMIX_RANK", "0", 1);
    cr_expect(hx_comm_was_launched());
    cr_expect(!hx__launch_lacks_pmi());
}

Test(launcher, place_on_the_host_is_read_from_slurm_and_nonsense_is_ignored) {
    static const struct {
        const char *node, *local, *list;
        int rank, size;
    } cases[] = {
        {"0", "3", "4(x2),3", 3, 4}, {"2", "2", "4(x2),3", 2, 3},  {"1", "0", "4(x2),3", 0, 4},
        {"3", "0", "4(x2),3", 0, 1}, {"0", "4", "4(x2),3", 0, 1},  {"0", "1", "4(x", 0, 1},
        {"0", "0", "99999999999999999999", 0, 1}, {"x", "1", "4", 0, 1}, {"0", "-1", "4", 0, 1},
        {"0", "0", "4(x99999999999999999999)", 0, 1}, {"0", "1", "", 0, 1},
    };
    int rank, size;
    forget_launcher();
    setenv("SLURM_JOB_ID", "77", 1);
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_PROCID", "0", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("SLURM_NODEID", cases[i].node, 1);
        setenv("SLURM_LOCALID", cases[i].local, 1);
        setenv("SLURM_STEP_TASKS_PER_NODE", cases[i].list, 1);
        hx_comm_local(&rank, &size);
        cr_expect(rank == cases[i].rank && size == cases[i].size, "case %zu: %d of %d", i, rank, size);
    }
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
    hx_comm_local(&rank, &size);
    cr_expect(rank == 1 && size == 2);
}

/* ---- clocks ---- */

static int64_t shift_ns;

static int64_t shifted_clock(void) { return hx__trace_now() + shift_ns; }

/* The ranks behind the first pretend to be on another host, whose clock is three seconds ahead. */
Test(agree, the_clock_of_another_host_is_measured) {
    hx_comm *comm = open_world();
    const bool is_second = hx_comm_rank(comm) > 0;
    int64_t ahead = 1;
    if (is_second) snprintf(comm->host, sizeof comm->host, "far");
    shift_ns = is_second ? 3000000000 : 0;
    OK(hx__comm_clock_ahead(comm, shifted_clock, &ahead));
    if (is_second)
        cr_expect(llabs(ahead + 3000000000) < 200000000, "%lld ns", (long long)ahead); /* ranks wait for cores */
    else
        cr_expect_eq(ahead, 0);
    hx_comm_close(&comm);
}

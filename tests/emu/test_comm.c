/* Collectives on memory that the host does not reach, on the emulated device, staged and by the emulated NCCL. Each is
 * compared with the same collective on host memory; all values are small whole numbers, exact in every dtype, so that the
 * order of a sum does not matter. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "dist/comm/comm_impl.h"
#include "dist/mesh.h"
#include "launch/plugin.h"
#include "tests/support/expect.h"

typedef struct fixture {
    hx_comm *comm;
    int rank, size;
    const hx_plugin *plugin;
    hx_device *device;
    hx_stream *stream;
    hx_event *done;
    bool is_async; /* how collectives are called now */
} fixture;

static void open_world(fixture *f) {
    memset(f, 0, sizeof *f);
    OK(hx_comm_mpi_open(&f->comm));
    f->rank = hx_comm_rank(f->comm);
    f->size = hx_comm_size(f->comm);
    OK(hx_plugin_cuda(&f->plugin));
    OK(hx_device_open("cuda", NULL, &f->device));
    OK(hx_stream_create(f->device, &f->stream));
    OK(hx_event_create(f->device, &f->done));
}

static void close_world(fixture *f) {
    hx_comm_close(&f->comm);
    hx_event_destroy(&f->done);
    hx_stream_destroy(&f->stream);
    hx_device_close(&f->device);
}

static void attach(fixture *f) {
    OK(f->plugin->comm_attach(f->comm, f->stream));
    cr_assert_str_eq(hx_comm_device_name(f->comm), f->size > 1 ? "nccl" : "staged");
}

/* ---- a buffer on the device, and what the host path makes of the same values ---- */

typedef struct buffer {
    void *data;   /* the device's */
    void *host;   /* [n] */
    void *before; /* what was copied to the device, which may look at it later */
    int64_t n;
    size_t n_bytes;
    hx_dtype dtype;
} buffer;

static int given(int rank, int64_t i) { return (int)((rank * 7 + i * 3) % 11); }

static buffer produce(fixture *f, hx_dtype dtype, int64_t n) {
    buffer b = {.n = n, .dtype = dtype, .n_bytes = (size_t)n * hx_dtype_bytes(dtype)};
    OK(hx_mem_alloc_array(n + 1, hx_dtype_bytes(dtype), &b.host));
    OK(hx_mem_alloc_array(n + 1, hx_dtype_bytes(dtype), &b.before));
    OK(hx_device_alloc(f->device, HX_POOL_COMM, b.n_bytes, &b.data));
    for (int64_t i = 0; i < n; i++) {
        int value = given(f->rank, i);
        hx_elem_set_complex(dtype, b.host, i, (double[2]){value, -value});
    }
    memcpy(b.before, b.host, b.n_bytes);
    OK(hx_stream_copy(f->stream, b.data, b.before, b.n_bytes, HX_COPY_TO_DEVICE));
    return b;
}

/* Elements [at, at+n) on the device are those on the host. */
static void compare(fixture *f, const buffer *b, int64_t at, int64_t n, const char *what) {
    size_t item = hx_dtype_bytes(b->dtype);
    if (f->is_async) OK(hx_event_wait(f->done, f->stream));
    OK(hx_stream_copy(f->stream, b->before, b->data, b->n_bytes, HX_COPY_TO_HOST));
    OK(hx_stream_sync(f->stream));
    cr_assert(memcmp((char *)b->before + (size_t)at * item, (char *)b->host + (size_t)at * item, (size_t)n * item) == 0,
              "%s, %s, %lld elements from %lld on, on rank %d of %d by %s", what, hx_dtype_name(b->dtype), (long long)n, (long long)at,
              f->rank, f->size, hx_comm_device_name(f->comm));
}

static void release(fixture *f, buffer *b) {
    hx_device_free(f->device, HX_POOL_COMM, b->data, b->n_bytes);
    hx_mem_free(&b->host);
    hx_mem_free(&b->before);
}

#define DONE(f) ((f)->is_async ? (f)->done : NULL)

static bool is_reducible(hx_dtype dtype, hx_reduce reduce) {
    return !hx_dtype_is_half(dtype) && dtype != HX_BOOL && (reduce == HX_SUM || !hx_dtype_is_complex(dtype));
}

/* ---- every collective ---- */

static void check_all_reduce(fixture *f, hx_dtype dtype, int64_t count) {
    for (int reduce = HX_SUM; reduce <= HX_MIN; reduce++) {
        if (!is_reducible(dtype, (hx_reduce)reduce)) continue;
        buffer b = produce(f, dtype, count);
        OK(hx_comm_all_reduce(f->comm, b.data, count, dtype, (hx_reduce)reduce, f->stream, DONE(f)));
        OK(hx_comm_all_reduce(f->comm, b.host, count, dtype, (hx_reduce)reduce, NULL, NULL));
        compare(f, &b, 0, count, "all_reduce");
        release(f, &b);
    }
}

static void check_reduce_scatter(fixture *f, hx_dtype dtype, int64_t count) {
    if (!is_reducible(dtype, HX_SUM)) return;
    buffer b = produce(f, dtype, count * f->size);
    OK(hx_comm_reduce_scatter(f->comm, b.data, count, dtype, HX_SUM, f->stream, DONE(f)));
    OK(hx_comm_reduce_scatter(f->comm, b.host, count, dtype, HX_SUM, NULL, NULL));
    compare(f, &b, f->rank * count, count, "reduce_scatter");
    release(f, &b);
}

static void check_all_gather(fixture *f, hx_dtype dtype, int64_t count) {
    buffer b = produce(f, dtype, count * f->size);
    OK(hx_comm_all_gather(f->comm, b.data, count, dtype, f->stream, DONE(f)));
    OK(hx_comm_all_gather(f->comm, b.host, count, dtype, NULL, NULL));
    compare(f, &b, 0, count * f->size, "all_gather");
    release(f, &b);
}

static void check_broadcast(fixture *f, hx_dtype dtype, int64_t count) {
    for (int root = 0; root < f->size; root++) {
        buffer b = produce(f, dtype, count);
        OK(hx_comm_broadcast(f->comm, b.data, count, dtype, root, f->stream, DONE(f)));
        OK(hx_comm_broadcast(f->comm, b.host, count, dtype, root, NULL, NULL));
        compare(f, &b, 0, count, "broadcast");
        release(f, &b);
    }
}

static void check_all_to_all(fixture *f, hx_dtype dtype, int64_t count) {
    buffer source = produce(f, dtype, count * f->size), b = produce(f, dtype, count * f->size);
    OK(hx_comm_all_to_all(f->comm, source.data, b.data, count, dtype, f->stream, DONE(f)));
    OK(hx_comm_all_to_all(f->comm, source.host, b.host, count, dtype, NULL, NULL));
    compare(f, &b, 0, count * f->size, "all_to_all");
    compare(f, &source, 0, count * f->size, "the source of all_to_all");
    release(f, &source);
    release(f, &b);
}

/* A chain: rank 0 sends to 1, which passes on what it got. */
static void check_pair(fixture *f, hx_dtype dtype, int64_t count) {
    buffer b = produce(f, dtype, count);
    bool is_async = f->is_async;
    f->is_async = false;
    if (f->rank > 0) OK(hx_comm_recv(f->comm, b.data, count, dtype, f->rank - 1, f->stream, NULL));
    if (f->rank + 1 < f->size) OK(hx_comm_send(f->comm, b.data, count, dtype, f->rank + 1, f->stream, NULL));
    OK(hx_comm_broadcast(f->comm, b.host, count, dtype, 0, NULL, NULL));
    compare(f, &b, 0, count, "send and recv");
    f->is_async = is_async;
    release(f, &b);
}

static void check_all_collectives(fixture *f) {
    static void (*const checks[])(fixture *f, hx_dtype dtype, int64_t count) = {
        check_all_reduce, check_reduce_scatter, check_all_gather, check_broadcast, check_all_to_all, check_pair};
    static const int64_t counts[] = {0, 1, 7, 101};
    for (int mode = 0; mode < 4; mode++) {
        f->is_async = mode & 1;
        hx__comm_set_max_elems(f->comm, mode & 2 ? 60 : HX_COMM_MAX_ELEMS); /* pieces of 60, 30 or 20 elements */
        for (size_t check = 0; check < sizeof checks / sizeof *checks; check++)
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
                for (int dtype = 0; dtype < HX_DTYPE_COUNT; dtype++) checks[check](f, (hx_dtype)dtype, counts[c]);
    }
}

Test(emu_comm, staged_collectives_equal_those_on_host_memory) {
    fixture f;
    open_world(&f);
    cr_expect_str_eq(hx_comm_device_name(f.comm), "staged");
    check_all_collectives(&f);
    close_world(&f);
}

Test(emu_comm, nccl_collectives_equal_those_on_host_memory) {
    fixture f;
    open_world(&f);
    attach(&f);
    check_all_collectives(&f);
    close_world(&f);
}

/* Three pieces and a part of one, so that both slots are used again. */
Test(emu_comm, buffers_larger_than_the_pinned_memory_are_staged_in_pieces) {
    fixture f;
    open_world(&f);
    f.is_async = true;
    check_all_reduce(&f, HX_F32, (3 << 20) + (1 << 18) + 1);
    check_all_to_all(&f, HX_F64, (1 << 20) + 3);
    close_world(&f);
}

/* More than can be on their way at once, nobody waiting in between. */
Test(emu_comm, many_collectives_may_be_called_before_the_first_is_done) {
    enum { N = 150 };
    fixture f;
    buffer all[N];
    open_world(&f);
    for (int with_nccl = 0; with_nccl < 2; with_nccl++) {
        if (with_nccl) attach(&f);
        for (int i = 0; i < N; i++) all[i] = produce(&f, HX_F64, 5 + i % 3);
        for (int i = 0; i < N; i++) OK(hx_comm_all_reduce(f.comm, all[i].data, all[i].n, HX_F64, HX_SUM, f.stream, f.done));
        f.is_async = true; /* the last event stands for all: there is one side stream */
        for (int i = 0; i < N; i++) {
            OK(hx_comm_all_reduce(f.comm, all[i].host, all[i].n, HX_F64, HX_SUM, NULL, NULL));
            compare(&f, &all[i], 0, all[i].n, "one of many");
            release(&f, &all[i]);
        }
    }
    close_world(&f);
}

/* ---- nobody waits who is waited for ---- */

/* Each block is of a size that has not been freed before, and each filling with a pattern of its own width is a kernel's first
 * launch: with HELIX_EMU_LAZY both wait for the device, on which a collective waits for a rank that comes late. */
Test(emu_comm, staged_collectives_go_on_while_a_call_waits_for_the_whole_device) {
    static const size_t widths[] = {1, 2, 4, 8, 16};
    static const unsigned char pattern[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
    const struct timespec late = {.tv_nsec = 30000000};
    fixture f;
    setenv("HELIX_EMU_LAZY", "1", 1);
    open_world(&f);
    f.is_async = true;
    hx__comm_set_max_elems(f.comm, 60);
    for (int i = 0; i < 5; i++) {
        void *block = NULL;
        size_t n_bytes = (size_t)4096 << i;
        buffer b = produce(&f, HX_F32, 200 + i);
        if (f.rank == i % f.size) nanosleep(&late, NULL);
        OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done));
        OK(hx_device_alloc(f.device, HX_POOL_GENERAL, n_bytes, &block));
        OK(hx_stream_fill(f.stream, block, pattern, widths[i], 256));
        OK(hx_comm_all_reduce(f.comm, b.host, b.n, HX_F32, HX_SUM, NULL, NULL));
        compare(&f, &b, 0, b.n, "while the host waits");
        hx_device_free(f.device, HX_POOL_GENERAL, block, n_bytes);
        release(&f, &b);
    }
    close_world(&f);
}

Test(emu_comm, a_device_that_cannot_wait_for_the_host_has_the_host_wait) {
    fixture f;
    setenv("HELIX_EMU_WAIT_VALUE", "0", 1);
    open_world(&f);
    f.is_async = true;
    hx__comm_set_max_elems(f.comm, 60);
    check_all_reduce(&f, HX_F32, 101);
    check_all_to_all(&f, HX_I64, 101);
    close_world(&f);
}

Test(emu_comm, a_sync_keeps_what_later_collectives_use) {
    fixture f;
    hx_device_stats before, after;
    open_world(&f);
    buffer b = produce(&f, HX_F32, 9);
    OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done));
    OK(hx_comm_sync(f.comm));
    hx_device_stats_get(f.device, &before);
    OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done));
    OK(hx_comm_sync(f.comm));
    hx_device_stats_get(f.device, &after);
    cr_expect_eq(after.n_allocs, before.n_allocs);
    OK(hx_comm_release_device(f.comm));
    OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done));
    hx_device_stats_get(f.device, &after);
    cr_expect(f.size == 1 || after.n_allocs > before.n_allocs);
    release(&f, &b);
    close_world(&f);
}

/* ---- several communicators ---- */

static void check_two_communicators(fixture *f) {
    enum { ROUNDS = 20 };
    hx_comm *world = f->comm, *odd_even = NULL, *reversed = NULL;
    OK(hx_comm_split(world, f->rank % 2, f->rank, &odd_even));
    OK(hx_comm_split(world, 0, -f->rank, &reversed));
    cr_expect_str_eq(hx_comm_device_name(reversed), hx_comm_device_name(world));
    cr_expect_eq(hx_comm_rank(reversed), f->size - 1 - f->rank);
    for (int round = 0; round < ROUNDS; round++) {
        int32_t late = f->rank;
        buffer a = produce(f, HX_F32, 9), b = produce(f, HX_I64, 6);
        OK(hx_comm_all_reduce(odd_even, a.data, a.n, HX_F32, HX_SUM, f->stream, f->done));
        OK(hx_comm_broadcast(reversed, b.data, b.n, HX_I64, round % f->size, f->stream, f->done));
        OK(hx_comm_all_reduce(reversed, a.data, a.n, HX_F32, HX_MAX, f->stream, f->done));
        OK(hx_comm_all_reduce(world, &late, 1, HX_I32, HX_SUM, NULL, NULL)); /* overtakes nothing */
        cr_expect_eq(late, f->size * (f->size - 1) / 2);
        OK(hx_comm_all_reduce(odd_even, a.host, a.n, HX_F32, HX_SUM, NULL, NULL));
        OK(hx_comm_broadcast(reversed, b.host, b.n, HX_I64, round % f->size, NULL, NULL));
        OK(hx_comm_all_reduce(reversed, a.host, a.n, HX_F32, HX_MAX, NULL, NULL));
        f->is_async = true;
        compare(f, &a, 0, a.n, "two communicators");
        compare(f, &b, 0, b.n, "two communicators");
        release(f, &a);
        release(f, &b);
    }
    hx_comm_close(&odd_even);
    hx_comm_close(&reversed);
}

Test(emu_comm, communicators_in_turn_keep_the_order_of_the_calls) {
    fixture f;
    open_world(&f);
    check_two_communicators(&f);
    attach(&f);
    check_two_communicators(&f);
    close_world(&f);
}

/* ---- failures ---- */

Test(emu_comm, a_failure_on_one_rank_is_found_by_agreement_and_the_others_go_on) {
    fixture f;
    open_world(&f);
    hx_comm *part = NULL;
    OK(hx_comm_split(f.comm, 0, f.rank, &part));
    buffer b = produce(&f, HX_F32, 4);
    bool is_failing = f.rank == f.size - 1;
    if (is_failing) hx__comm_set_failure(part, HX_ERR_COMM, "the cable came off");
    hx_status status = is_failing ? hx_comm_all_reduce(part, b.data, b.n, HX_F32, HX_SUM, f.stream, NULL) : HX_OK;
    cr_expect_eq(status, is_failing ? HX_ERR_COMM : HX_OK);
    cr_expect_eq(hx_comm_sync(part), is_failing ? HX_ERR_COMM : HX_OK);
    cr_expect_eq(hx_comm_agree(f.comm, status), is_failing ? HX_ERR_COMM : HX_ERR_REMOTE);
    cr_expect_not_null(strstr(hx_error_message(), "the cable came off"), "%s", hx_error_message());
    check_all_reduce(&f, HX_F64, 5);
    release(&f, &b);
    hx_comm_close(&part);
    close_world(&f);
}

/* It sends zeros, and the others do not wait for ever. */
Test(emu_comm, a_rank_without_pinned_memory_takes_part_and_fails_alone) {
    fixture f;
    open_world(&f);
    buffer b = produce(&f, HX_F32, 4);
    bool is_failing = f.size > 1 && f.rank == f.size - 1;
    if (is_failing) setenv("HELIX_EMU_PINNED", "4096", 1);
    hx_status status = hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, NULL);
    cr_expect_eq(status, is_failing ? HX_ERR_MEMORY : HX_OK, "%s", hx_error_message());
    cr_expect_eq(hx_comm_agree(f.comm, status), f.size == 1 ? HX_OK : is_failing ? HX_ERR_MEMORY : HX_ERR_REMOTE);
    unsetenv("HELIX_EMU_PINNED");
    check_all_reduce(&f, HX_F64, 5);
    release(&f, &b);
    close_world(&f);
}

/* The last rank's device fails with a collective on its way, for which no call of the host will come. */
static void check_lost(bool is_found_by_collective) {
    fixture f;
    hx_status status = HX_OK;
    open_world(&f);
    bool is_failing = f.size > 1 && f.rank == f.size - 1;
    buffer b = produce(&f, HX_F32, 40);
    OK(hx_stream_sync(f.stream));
    OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done));
    if (is_failing) setenv("HELIX_EMU_LOST", "1", 1);
    if (is_found_by_collective) status = hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done);
    if (status == HX_OK) status = hx_event_sync(f.done);
    cr_expect_eq(status, is_failing ? HX_ERR_DEVICE : HX_OK, "%s", hx_error_message());
    cr_expect_eq(hx_comm_agree(f.comm, status), f.size == 1 ? HX_OK : is_failing ? HX_ERR_DEVICE : HX_ERR_REMOTE);
    release(&f, &b);
    close_world(&f);
}

Test(emu_comm, a_rank_whose_device_is_lost_in_a_collective_fails_alone) { check_lost(true); }

Test(emu_comm, a_rank_whose_device_is_lost_after_a_collective_fails_alone) { check_lost(false); }

static void lose_device(void *arg) {
    const struct timespec late = {.tv_nsec = 200000000};
    nanosleep(&late, NULL);
    if (*(bool *)arg) setenv("HELIX_EMU_LOST", "1", 1);
}

/* The same, with n collectives on their way, when the ranks wait for their communication threads already. */
static void check_lost_late(int n) {
    fixture f;
    hx_status status = HX_OK;
    open_world(&f);
    bool is_failing = f.size > 1 && f.rank == f.size - 1;
    buffer b = produce(&f, HX_F32, 40);
    OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, NULL));
    OK(hx_stream_host_call(f.stream, lose_device, &is_failing));
    for (int i = 0; i < n; i++) {
        hx_status one = hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_MAX, f.stream, f.done);
        if (status == HX_OK) status = one;
    }
    OK(hx_comm_agree(f.comm, HX_OK));
    if (status == HX_OK) status = hx_event_sync(f.done);
    cr_expect_eq(status, is_failing ? HX_ERR_DEVICE : HX_OK, "%s", hx_error_message());
    release(&f, &b);
    close_world(&f);
}

Test(emu_comm, a_device_that_is_lost_while_the_host_waits_for_the_queue_holds_nobody_up) { check_lost_late(1); }

Test(emu_comm, nor_does_one_that_is_lost_while_the_queue_is_full) { check_lost_late(HX_QUEUE_JOBS + 20); }

static void expect_message(const char *part) {
    cr_expect_not_null(strstr(hx_error_message(), part), "%s\nlacks: %s", hx_error_message(), part);
}

/* The second all-reduce never ends: its ranks do not all come, or NCCL itself reports an error on `plant`'s ranks. */
static void check_stuck(const char *plant, bool everywhere, const char *why) {
    fixture f;
    char text[64];
    setenv("HELIX_NCCL_TIMEOUT", "0.5", 1);
    open_world(&f);
    attach(&f);
    if (everywhere || f.rank == 0) setenv("HELIX_EMU_NCCL", plant, 1);
    buffer a = produce(&f, HX_F32, 4), b = produce(&f, HX_F32, 77);
    OK(hx_comm_all_reduce(f.comm, a.data, a.n, HX_F32, HX_SUM, f.stream, NULL));
    OK(hx_comm_agree(f.comm, HX_OK)); /* all have done with it */
    OK(hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done));
    OK(hx_event_sync(f.done)); /* says when, not how */
    if (f.size > 1) {
        cr_expect_eq(hx_comm_failure(f.comm), HX_ERR_COMM);
        snprintf(text, sizeof text, "all_reduce of 77 f32 on rank %d of %d", f.rank, f.size);
        expect_message(text);
        expect_message(why);
        cr_expect_eq(hx_comm_all_reduce(f.comm, a.data, a.n, HX_F32, HX_SUM, f.stream, NULL), HX_ERR_COMM);
        cr_expect_eq(hx_comm_sync(f.comm), HX_ERR_COMM);
    }
    release(&f, &a);
    release(&f, &b);
    close_world(&f);
}

Test(emu_comm, nccl_collective_that_is_stuck_is_aborted_and_named_on_every_rank) {
    check_stuck("stall:2", false, "not done after 0.");
}

Test(emu_comm, nccl_error_that_comes_later_is_found_and_named) {
    check_stuck("error:2", true, "remote process exited");
}

/* The second all-reduce fails on the last rank, and the others' deadline is far away. */
static void check_given_up(const char *plant, const char *why) {
    fixture f;
    open_world(&f);
    bool is_failing = f.size > 1 && f.rank == f.size - 1;
    setenv("HELIX_NCCL_TIMEOUT", is_failing ? "0.5" : "1000", 1);
    attach(&f);
    if (is_failing) setenv("HELIX_EMU_NCCL", plant, 1);
    buffer a = produce(&f, HX_F32, 4), b = produce(&f, HX_F32, 77);
    OK(hx_comm_all_reduce(f.comm, a.data, a.n, HX_F32, HX_SUM, f.stream, NULL));
    OK(hx_comm_agree(f.comm, HX_OK)); /* else who gives up in the second may find others in the first still */
    hx_status status = hx_comm_all_reduce(f.comm, b.data, b.n, HX_F32, HX_SUM, f.stream, f.done);
    cr_expect_eq(status, is_failing ? HX_ERR_COMM : HX_OK, "%s", hx_error_message());
    OK(hx_event_sync(f.done));
    if (f.size > 1) {
        char text[64];
        cr_expect_eq(hx_comm_failure(f.comm), HX_ERR_COMM);
        snprintf(text, sizeof text, "nccl all_reduce of 77 f32 on rank %d of %d", f.rank, f.size);
        expect_message(text);
        snprintf(text, sizeof text, "rank %d of %d on ", f.size - 1, f.size);
        if (!is_failing) expect_message(text);
        expect_message(why);
        cr_expect_eq(hx_comm_all_reduce(f.comm, a.data, a.n, HX_F32, HX_SUM, f.stream, NULL), HX_ERR_COMM);
    }
    release(&f, &a);
    release(&f, &b);
    close_world(&f);
}

Test(emu_comm, nccl_call_that_fails_on_one_rank_ends_the_others_soon) {
    check_given_up("refuse:2", "unhandled system error");
}

Test(emu_comm, nccl_call_that_stays_in_progress_on_one_rank_ends_the_others_soon) {
    check_given_up("busy:2", "did not meet within");
}

/* Attaching fails on all ranks alike, and the communicator goes on without. @param on_last  what the last rank has */
static void check_refused(const char *on_last, hx_status expected, const char *why) {
    fixture f;
    open_world(&f);
    bool is_failing = f.rank == f.size - 1;
    if (is_failing) setenv("HELIX_EMU_NCCL", on_last, 1);
    if (is_failing && strcmp(on_last, "timeout") == 0) setenv("HELIX_NCCL_TIMEOUT", "soon", 1);
    hx_status status = f.plugin->comm_attach(f.comm, f.stream);
    if (f.size > 1) {
        cr_expect_eq(status, is_failing ? expected : HX_ERR_REMOTE, "%s", hx_error_message());
        expect_message(why);
    } else {
        cr_expect_eq(status, HX_OK);
    }
    cr_expect_str_eq(hx_comm_device_name(f.comm), "staged");
    check_all_reduce(&f, HX_F64, 5);
    close_world(&f);
}

Test(emu_comm, an_older_nccl_on_one_rank_is_refused_by_its_version) {
    check_refused("version:21903", HX_ERR_UNSUPPORTED, "NCCL 2.19.3 was found: expected 2.28.9");
}

Test(emu_comm, a_bad_timeout_on_one_rank_is_refused) {
    check_refused("timeout", HX_ERR_CONFIG, "HELIX_NCCL_TIMEOUT=soon");
}

Test(emu_comm, a_rank_that_does_not_join_nccl_is_noticed) {
    fixture f;
    setenv("HELIX_NCCL_TIMEOUT", "0.5", 1);
    open_world(&f);
    if (f.rank == f.size - 1) setenv("HELIX_EMU_NCCL", "absent", 1);
    hx_status status = f.plugin->comm_attach(f.comm, f.stream);
    cr_expect_eq(status, f.size > 1 ? HX_ERR_COMM : HX_OK, "%s", hx_error_message());
    if (f.size > 1) expect_message("did not meet within");
    check_all_reduce(&f, HX_F64, 5);
    close_world(&f);
}

Test(emu_comm, ranks_on_one_gpu_are_refused_by_nccl_and_staged) {
    fixture f;
    setenv("HELIX_EMU_NCCL", "shared", 1);
    open_world(&f);
    hx_status status = f.plugin->comm_attach(f.comm, f.stream);
    cr_expect_eq(status, f.size > 1 ? HX_ERR_UNSUPPORTED : HX_OK, "%s", hx_error_message());
    if (f.size > 1) expect_message("ranks 0 and 1 share GPU");
    check_all_reduce(&f, HX_F64, 5);
    close_world(&f);
}

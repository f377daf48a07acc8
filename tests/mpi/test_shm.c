/* Collectives in shared memory, beside plain MPI and pretended hosts: values, bits, mappings, and ranks that disagree. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/base/mem.h"
#include "core/base/shared.h"
#include "dist/comm/comm_impl.h"
#include "tests/support/elements.h"
#include "tests/support/expect.h"

/* How a world is opened: HELIX_SHM, and the hosts that it pretends to have. Worlds of one process may overlap. */
typedef struct setting {
    const char *shm, *hosts;
} setting;

static const setting settings[] = {{"auto", "0"}, {"off", "0"}, {"auto", "2"}};
enum { ONE_HOST, PLAIN, TWO_HOSTS, N_SETTINGS };

static hx_comm *open_world(int which) {
    hx_comm *comm;
    setenv("HELIX_SHM", settings[which].shm, 1);
    setenv("HELIX_TEST_HOSTS", settings[which].hosts, 1);
    OK(hx_comm_mpi_open(&comm));
    return comm;
}

static hx_device *open_device(void) {
    hx_device *device;
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &device));
    return device;
}

/* ---- every collective, against its definition ---- */

/* What all checks need; data and source [size*count] */
typedef struct trial {
    hx_comm *comm;
    int rank, size;
    hx_dtype dtype;
    int64_t count;
    void *data, *source;
} trial;

static void fill(trial *t) {
    for (int64_t i = 0; i < t->count * t->size; i++) {
        set(t->data, t->dtype, i, given(t->rank, i));
        set(t->source, t->dtype, i, given(t->rank, i));
    }
}

#define EXPECT(t, start, n, value)                                                                           \
    for (int64_t i = (start); i < (start) + (n); i++)                                                        \
    cr_assert(holds((t)->data, (t)->dtype, i, (value)), "%s, %lld elements, element %lld, by %s", hx_dtype_name((t)->dtype), \
              (long long)(t)->count, (long long)i, hx_comm_transport((t)->comm))

static void try_reductions(trial *t) {
    for (int reduce = HX_SUM; reduce <= HX_MIN; reduce++) {
        if (!is_reducible(t->dtype, reduce)) continue;
        fill(t);
        OK(hx_comm_all_reduce(t->comm, t->data, t->count, t->dtype, (hx_reduce)reduce, NULL, NULL));
        EXPECT(t, 0, t->count, reduced(t->size, i, reduce));
        EXPECT(t, t->count, t->count * (t->size - 1), given(t->rank, i)); /* nothing behind the buffer is touched */
        fill(t);
        OK(hx_comm_reduce_scatter(t->comm, t->data, t->count, t->dtype, (hx_reduce)reduce, NULL, NULL));
        EXPECT(t, t->rank * t->count, t->count, reduced(t->size, i, reduce));
    }
}

static void try_moves(trial *t) {
    fill(t);
    OK(hx_comm_all_gather(t->comm, t->data, t->count, t->dtype, NULL, NULL));
    EXPECT(t, 0, t->count * t->size, given((int)(i / t->count), i));
    fill(t);
    OK(hx_comm_all_to_all(t->comm, t->source, t->data, t->count, t->dtype, NULL, NULL));
    EXPECT(t, 0, t->count * t->size, given((int)(i / t->count), t->rank * t->count + i % t->count));
    for (int root = 0; root < t->size; root += t->size > 1 ? t->size - 1 : 1) {
        fill(t);
        OK(hx_comm_broadcast(t->comm, t->data, t->count, t->dtype, root, NULL, NULL));
        EXPECT(t, 0, t->count, given(root, i));
    }
}

/* @param odd_rank  this rank's buffers are private all the same; -1: none */
static void try_all(hx_comm *comm, hx_device *device, hx_dtype dtype, int64_t count, int odd_rank) {
    trial t = {.comm = comm, .rank = hx_comm_rank(comm), .size = hx_comm_size(comm), .dtype = dtype, .count = count};
    hx_pool_kind pool = t.rank == odd_rank ? HX_POOL_GENERAL : HX_POOL_COMM;
    size_t n_bytes = (size_t)(count * t.size) * hx_dtype_bytes(dtype);
    OK(hx_device_alloc(device, pool, n_bytes, &t.data));
    OK(hx_device_alloc(device, pool, n_bytes, &t.source));
    try_reductions(&t);
    try_moves(&t);
    hx_device_free(device, pool, t.data, n_bytes);
    hx_device_free(device, pool, t.source, n_bytes);
}

/* Small, and cut into the smallest pieces; whole cache lines and not; large enough to be mapped, or staged in pieces. */
static void try_sizes(hx_comm *comm, hx_device *device, int odd_rank) {
    for (int dtype = 0; dtype < HX_DTYPE_COUNT; dtype++) {
        hx__comm_set_max_elems(comm, 5);
        try_all(comm, device, (hx_dtype)dtype, 77, odd_rank);
        hx__comm_set_max_elems(comm, HX_COMM_MAX_ELEMS);
        try_all(comm, device, (hx_dtype)dtype, 1, odd_rank);
        try_all(comm, device, (hx_dtype)dtype, 2500, odd_rank);
    }
    try_all(comm, device, HX_I32, 1 << 15, odd_rank);
    try_all(comm, device, HX_F64, 70001, odd_rank);
}

static void try_setting(int which) {
    hx_comm *comm = open_world(which);
    hx_device *device = open_device();
    try_sizes(comm, device, -1);
    try_sizes(comm, device, hx_comm_size(comm) - 1);
    hx_device_close(&device);
    hx_comm_close(&comm);
}

Test(shm, collectives_on_one_host_do_what_they_say) { try_setting(ONE_HOST); }

Test(shm, plain_mpi_does_the_same) { try_setting(PLAIN); }

Test(shm, two_hosts_do_the_same) { try_setting(TWO_HOSTS); }

Test(shm, tells_what_moves_the_data) {
    static const char *const several[N_SETTINGS] = {"shared memory", "mpi", "shared memory in each host, MPI between them"};
    hx_comm *comm[N_SETTINGS];
    for (int i = 0; i < N_SETTINGS; i++) comm[i] = open_world(i);
    int size = hx_comm_size(comm[0]);
    cr_expect_str_eq(hx_comm_transport(comm[ONE_HOST]), size > 1 ? several[ONE_HOST] : "mpi");
    cr_expect_str_eq(hx_comm_transport(comm[PLAIN]), "mpi");
    /* two ranks are alone on their hosts, of three one is */
    cr_expect_str_eq(hx_comm_transport(comm[TWO_HOSTS]), size == 4 ? several[TWO_HOSTS] : "mpi");
    for (int i = N_SETTINGS - 1; i >= 0; i--) hx_comm_close(&comm[i]);
    setenv("HELIX_SHM", "perhaps", 1);
    cr_expect_eq(hx_comm_mpi_open(&comm[0]), HX_ERR_CONFIG);
    cr_expect_not_null(strstr(hx_error_message(), "auto, off or on"), "%s", hx_error_message());
}

/* ---- bits ---- */

static float term(int rank, int64_t i) { return 1.0f / (float)(rank * 5 + i % 97 + 3); }

static float tree_sum(int lo, int n, int64_t i) {
    int left = 1;
    if (n == 1) return term(lo, i);
    while (2 * left < n) left *= 2;
    return tree_sum(lo, left, i) + tree_sum(lo + left, n - left, i);
}

static void expect_bits(hx_comm *comm, float *x, int64_t count, bool is_tree) {
    int size = hx_comm_size(comm);
    for (int64_t i = 0; i < count; i++) x[i] = term(hx_comm_rank(comm), i);
    OK(hx_comm_all_reduce(comm, x, count, HX_F32, HX_SUM, NULL, NULL));
    for (int64_t i = 0; i < count; i++) {
        float want = tree_sum(0, size, i), distance = fabsf(x[i] - want);
        /* size - 1 additions, each rounds by half an ulp of at most the sum */
        cr_assert(is_tree ? x[i] == want : distance <= 1.2e-7f * (float)size * want, "element %lld of %lld: %.9g, expected %.9g",
                  (long long)i, (long long)count, (double)x[i], (double)want);
    }
}

Test(shm, a_sum_has_the_bits_of_the_tree_whatever_its_size_and_place) {
    static const int64_t counts[] = {1, 5, 4097, 10000, 300001};
    hx_comm *comm = open_world(ONE_HOST), *hosts = open_world(TWO_HOSTS);
    hx_device *device = open_device();
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int pool = 0; pool < 2; pool++) {
            hx_pool_kind kind = pool ? HX_POOL_COMM : HX_POOL_GENERAL;
            void *x;
            OK(hx_device_alloc(device, kind, (size_t)counts[c] * 4, &x));
            expect_bits(comm, x, counts[c], true);
            expect_bits(hosts, x, counts[c], hx_comm_size(comm) == 4); /* two and two: the same tree */
            hx_device_free(device, kind, x, (size_t)counts[c] * 4);
        }
    hx_device_close(&device);
    hx_comm_close(&hosts);
    hx_comm_close(&comm);
}

/* ---- mappings ---- */

static void expect_sum(hx_comm *comm, int64_t *x, int64_t n, int64_t value) {
    int size = hx_comm_size(comm);
    for (int64_t i = 0; i < n; i++) x[i] = value + i + hx_comm_rank(comm);
    OK(hx_comm_all_reduce(comm, x, n, HX_I64, HX_SUM, NULL, NULL));
    for (int64_t i = 0; i < n; i++) cr_assert_eq(x[i], size * (value + i) + size * (size - 1) / 2);
}

/* The kernel likes to give the same address and the same descriptor again, which is what a stale mapping would need. */
Test(shm, freed_and_reallocated_blocks_are_mapped_anew) {
    hx_comm *comm = open_world(ONE_HOST);
    hx_shared_place place;
    for (int round = 0; round < 100; round++) {
        int64_t n = 10000 + round % 3 * 5000;
        void *x, *other;
        OK(hx_shared_alloc((size_t)n * 8, &x));
        OK(hx_shared_alloc(HX_SHARED_MIN * (size_t)(hx_comm_rank(comm) + 1), &other)); /* ranks number their regions differently */
        cr_assert_eq(hx_shared_find(x, (size_t)n * 8, &place), hx_comm_size(comm) > 1);
        expect_sum(comm, x, n, round);
        if (round % 2) expect_sum(comm, (int64_t *)x + 1, n - 1, -round);
        if (hx_comm_rank(comm) == round % 2) hx_shared_free(other);
        hx_shared_free(x);
        if (hx_comm_rank(comm) != round % 2) hx_shared_free(other);
    }
    hx_comm_close(&comm);
}

static int count_entries(const char *folder) {
    int n = 0;
    DIR *d = opendir(folder);
    cr_assert_not_null(d);
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n;
}

static int count_lines(const char *file) {
    int n = 0;
    FILE *f = fopen(file, "re");
    cr_assert_not_null(f);
    for (int c; (c = fgetc(f)) != EOF;) n += c == '\n';
    fclose(f);
    return n;
}

Test(shm, thousand_blocks_leave_no_file_and_no_mapping_behind) {
    hx_comm *comm = open_world(ONE_HOST);
    int n_files = 0, n_maps = 0;
    for (int i = 0; i < 1100; i++) {
        void *x;
        if (i == 100) n_files = count_entries("/proc/self/fd"), n_maps = count_lines("/proc/self/maps");
        OK(hx_shared_alloc(HX_SHARED_MIN, &x));
        expect_sum(comm, x, (int64_t)HX_SHARED_MIN / 8, i);
        hx_shared_free(x);
    }
    cr_expect_leq(count_entries("/proc/self/fd"), n_files);
    cr_expect_leq(count_lines("/proc/self/maps"), n_maps + 4); /* the heap may move a little */
    hx_comm_close(&comm);
}

Test(shm, more_blocks_than_are_kept_mapped_still_work) {
    enum { N = 150 };
    hx_comm *comm = open_world(ONE_HOST);
    void *x[N];
    for (int i = 0; i < N; i++) OK(hx_shared_alloc(HX_SHARED_MIN, &x[i]));
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < N; i++) expect_sum(comm, x[i], (int64_t)HX_SHARED_MIN / 8, i);
    for (int i = 0; i < N; i++) hx_shared_free(x[i]);
    hx_comm_close(&comm);
}

static void split_and_sum(int which) {
    hx_comm *comm = open_world(which), *half, *reversed;
    int rank = hx_comm_rank(comm);
    void *x;
    OK(hx_comm_split(comm, rank % 2, rank, &half));
    OK(hx_comm_split(comm, 0, -rank, &reversed));
    OK(hx_shared_alloc(1 << 17, &x));
    for (int round = 0; round < 20; round++) {
        expect_sum(comm, x, 1 << 14, round);
        expect_sum(half, x, 1 << 14, round);
        expect_sum(reversed, x, 1 << 14, round);
        expect_sum(half, x, 3, round);
    }
    hx_shared_free(x);
    hx_comm_close(&reversed);
    hx_comm_close(&half);
    hx_comm_close(&comm);
}

Test(shm, split_communicators_work_beside_their_parent) { split_and_sum(ONE_HOST); }

Test(shm, split_communicators_work_beside_their_parent_on_two_hosts) { split_and_sum(TWO_HOSTS); }

/* ---- ranks that disagree ---- */

static hx_status call_otherwise(hx_comm *comm, int kind, float *x) {
    switch (kind) {
    case 0: return hx_comm_all_reduce(comm, x, 7, HX_F32, HX_SUM, NULL, NULL);
    case 1: return hx_comm_all_reduce(comm, x, 8, HX_I32, HX_SUM, NULL, NULL);
    case 2: return hx_comm_all_reduce(comm, x, 8, HX_F32, HX_MAX, NULL, NULL);
    case 3: return hx_comm_broadcast(comm, x, 8, HX_F32, 1, NULL, NULL);
    case 4: return hx_comm_all_reduce(comm, x, 100000, HX_F32, HX_SUM, NULL, NULL);
    default: return hx_comm_barrier(comm);
    }
}
enum { N_OTHERWISE = 6 };
static const char *const otherwise[N_OTHERWISE] = {"all_reduce of 7 f32, sum",  "all_reduce of 8 i32, sum", "all_reduce of 8 f32, max",
                                                   "broadcast of 8 f32 from rank 1", "all_reduce of 100000 f32, sum", "barrier"};

static void disagree(int which) {
    static float x[100000];
    hx_comm *comm = open_world(which);
    for (int kind = 0; hx_comm_size(comm) > 1 && kind < N_OTHERWISE; kind++) {
        hx_comm *child;
        OK(hx_comm_split(comm, 0, 0, &child));
        hx_status status = hx_comm_rank(comm) == 1 ? call_otherwise(child, kind, x)
                                                   : hx_comm_all_reduce(child, x, 8, HX_F32, HX_SUM, NULL, NULL);
        cr_expect_eq(status, HX_ERR_COMM);
        cr_expect_not_null(strstr(hx_error_message(), "rank 0 calls all_reduce of 8 f32, sum"), "%s", hx_error_message());
        cr_expect_not_null(strstr(hx_error_message(), "rank 1 calls "), "%s", hx_error_message());
        cr_expect_not_null(strstr(hx_error_message(), otherwise[kind]), "%s", hx_error_message());
        cr_expect_eq(hx_comm_barrier(child), HX_ERR_COMM); /* it stays failed */
        hx_comm_close(&child);
    }
    OK(hx_comm_barrier(comm));
    hx_comm_close(&comm);
}

Test(shm, ranks_that_disagree_on_one_host_always_learn_it) { disagree(ONE_HOST); }

Test(shm, ranks_that_disagree_over_mpi_learn_it_when_asked) {
    setenv("HELIX_COMM_CHECK", "1", 1);
    disagree(PLAIN);
}

Test(shm, ranks_that_disagree_on_two_hosts_learn_it_when_asked) {
    setenv("HELIX_COMM_CHECK", "1", 1);
    disagree(TWO_HOSTS);
}

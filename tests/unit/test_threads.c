#define _GNU_SOURCE /* sets of cores */
#include <criterion/criterion.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/threads.h"

#define N 10007

typedef struct {
    unsigned char hits[N];
    atomic_int busy[64]; /* by worker */
    atomic_bool clash;
    int n_workers;
} tally;

static void count_hit(void *arg, int64_t i, int worker) {
    tally *t = arg;
    if (worker < 0 || worker >= t->n_workers || atomic_fetch_add(&t->busy[worker], 1) != 0) atomic_store(&t->clash, true);
    t->hits[i]++;
    atomic_fetch_sub(&t->busy[worker], 1);
}

Test(threads, pool_runs_every_task_once_for_any_number_of_threads) {
    static tally t;
    for (int n_threads = 1; n_threads <= 7; n_threads++) {
        hx_pool *pool;
        cr_assert_eq(hx_pool_create(n_threads, &pool), HX_OK);
        cr_expect_eq(hx_pool_size(pool), n_threads);
        for (int64_t n = 0; n <= N; n = n * 3 + 1) {
            memset(&t, 0, sizeof t);
            t.n_workers = n_threads;
            hx_pool_run(pool, n, count_hit, &t);
            for (int64_t i = 0; i < N; i++)
                cr_assert_eq(t.hits[i], i < n, "%d threads, %lld tasks: task %lld ran %d times", n_threads, (long long)n,
                             (long long)i, t.hits[i]);
            cr_expect(!(atomic_load(&t.clash)), "two tasks ran under one worker number");
        }
        hx_pool_destroy(&pool);
        cr_expect_null(pool);
    }
}

static void add_index(void *arg, int64_t i, int worker) {
    (void)worker;
    atomic_fetch_add((atomic_llong *)arg, i);
}

Test(threads, pool_survives_many_short_runs_and_pauses) {
    hx_pool *pool;
    atomic_llong sum = 0;
    long long expected = 0;
    cr_assert_eq(hx_pool_create(4, &pool), HX_OK);
    for (int run = 0; run < 20000; run++) {
        int64_t n = run % 9;
        hx_pool_run(pool, n, add_index, &sum);
        expected += n * (n - 1) / 2;
        if (run % 2000 == 0) usleep(2000); /* lets the workers fall asleep */
    }
    cr_expect_eq(atomic_load(&sum), expected);
    hx_pool_destroy(&pool);
}

Test(threads, pool_refuses_numbers_of_threads_out_of_range) {
    hx_pool *pool = NULL;
    cr_expect_eq(hx_pool_create(0, &pool), HX_ERR_ARG);
    cr_expect_eq(hx_pool_create(-3, &pool), HX_ERR_ARG);
    cr_expect_eq(hx_pool_create(1 << 20, &pool), HX_ERR_ARG);
    cr_expect_not_null(strstr(hx_error_message(), "1048576"));
    cr_expect_null(pool);
    hx_pool_destroy(&pool);
}

typedef struct {
    int *log, *n, value;
} note;

static hx_status write_note(void *arg) {
    note *x = arg;
    x->log[(*x->n)++] = x->value;
    return HX_OK;
}

Test(threads, queue_runs_jobs_in_order_also_beyond_its_capacity) {
    static int log[2000];
    int n = 0;
    hx_queue *q;
    cr_assert_eq(hx_queue_create("a-name-that-is-too-long", &q), HX_OK);
    for (int i = 0; i < 2000; i++) {
        note x = {.log = log, .n = &n, .value = i};
        cr_assert_eq(hx_queue_push(q, write_note, &x, sizeof x), HX_OK);
    }
    cr_assert_eq(hx_queue_sync(q), HX_OK);
    cr_expect(hx_queue_is_idle(q));
    cr_expect_eq(n, 2000);
    for (int i = 0; i < 2000; i++) cr_assert_eq(log[i], i);
    hx_queue_destroy(&q);
    cr_expect_null(q);
}

static hx_status fail(void *arg) {
    return HX_FAIL(HX_ERR_NUMERIC, "job %d fails", *(int *)arg);
}

Test(threads, queue_keeps_the_first_failure_and_skips_jobs_until_it_is_taken) {
    hx_queue *q;
    hx_signal *s;
    int log[4], n = 0, which = 41;
    note x = {.log = log, .n = &n, .value = 7};
    cr_assert_eq(hx_queue_create("q", &q), HX_OK);
    cr_assert_eq(hx_signal_create(&s), HX_OK);
    cr_assert_eq(hx_queue_push(q, fail, &which, sizeof which), HX_OK);
    which = 42;
    cr_assert_eq(hx_queue_push(q, fail, &which, sizeof which), HX_OK);
    cr_assert_eq(hx_queue_push(q, write_note, &x, sizeof x), HX_OK);
    cr_assert_eq(hx_queue_push_signal(q, s), HX_OK);
    hx_signal_wait(s); /* fires in spite of the failure */
    cr_expect_eq(hx_queue_sync(q), HX_ERR_NUMERIC);
    cr_expect_not_null(strstr(hx_error_message(), "job 41 fails"), "%s", hx_error_message());
    cr_expect_eq(n, 0, "a job ran after a failure");
    hx_error_clear();
    cr_expect_eq(hx_queue_error(q, true), HX_ERR_NUMERIC);
    cr_expect_not_null(strstr(hx_error_message(), "job 41 fails"));
    cr_expect_eq(hx_queue_error(q, false), HX_OK);
    cr_assert_eq(hx_queue_push(q, write_note, &x, sizeof x), HX_OK);
    cr_expect_eq(hx_queue_sync(q), HX_OK);
    cr_expect_eq(n, 1);
    hx_queue_destroy(&q);
    hx_signal_destroy(&s);
}

Test(threads, queue_wait_ends_at_its_deadline_or_when_few_enough_jobs_are_left) {
    hx_queue *q;
    hx_signal *gates[2];
    cr_assert_eq(hx_queue_create("q", &q), HX_OK);
    cr_expect(hx_queue_wait(q, 0, 0), "nothing has been pushed");
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(hx_signal_create(&gates[i]), HX_OK);
        cr_assert_eq(hx_queue_push_wait(q, gates[i]), HX_OK);
    }
    cr_expect(hx_queue_wait(q, 2, 0));
    cr_expect_not(hx_queue_wait(q, 1, 30));
    hx_signal_set(gates[0]);
    cr_expect(hx_queue_wait(q, 1, 60000));
    cr_expect_not(hx_queue_wait(q, 0, 1030));
    hx_signal_set(gates[1]);
    cr_expect(hx_queue_wait(q, 0, 60000));
    hx_queue_destroy(&q);
    for (int i = 0; i < 2; i++) hx_signal_destroy(&gates[i]);
}

Test(threads, queue_waits_for_a_signal_of_another_queue) {
    hx_queue *a, *b;
    hx_signal *gate, *passed;
    cr_assert_eq(hx_queue_create("a", &a), HX_OK);
    cr_assert_eq(hx_queue_create("b", &b), HX_OK);
    cr_assert_eq(hx_signal_create(&gate), HX_OK);
    cr_assert_eq(hx_signal_create(&passed), HX_OK);
    cr_assert_eq(hx_queue_push_wait(b, gate), HX_OK);
    cr_assert_eq(hx_queue_push_signal(b, passed), HX_OK);
    usleep(20000);
    cr_expect(!(hx_signal_is_set(passed)), "b did not wait");
    cr_expect(!(hx_queue_is_idle(b)));
    cr_assert_eq(hx_queue_push_signal(a, gate), HX_OK);
    hx_signal_wait(passed);
    cr_expect(hx_signal_is_set(gate));
    hx_signal_reset(gate);
    cr_expect(!(hx_signal_is_set(gate)));
    hx_queue_destroy(&a);
    hx_queue_destroy(&b);
    hx_signal_destroy(&gate);
    hx_signal_destroy(&passed);
}

Test(threads, queue_destroy_runs_what_is_queued) {
    int log[100], n = 0;
    hx_queue *q;
    cr_assert_eq(hx_queue_create("q", &q), HX_OK);
    for (int i = 0; i < 100; i++) {
        note x = {.log = log, .n = &n, .value = i};
        cr_assert_eq(hx_queue_push(q, write_note, &x, sizeof x), HX_OK);
    }
    hx_queue_destroy(&q);
    cr_expect_eq(n, 100);
}

static hx_status check_argument(void *arg) {
    const unsigned char *p = arg;
    for (int i = 0; i < HX_QUEUE_JOB_BYTES; i++)
        if (p[i] != (unsigned char)(i * 7)) return HX_FAIL(HX_ERR_INTERNAL, "byte %d is %d", i, p[i]);
    return HX_OK;
}

Test(threads, queue_copies_arguments_and_refuses_larger_ones) {
    unsigned char arg[HX_QUEUE_JOB_BYTES + 1];
    hx_queue *q;
    for (int i = 0; i < HX_QUEUE_JOB_BYTES; i++) arg[i] = (unsigned char)(i * 7);
    cr_assert_eq(hx_queue_create("q", &q), HX_OK);
    cr_assert_eq(hx_queue_push(q, check_argument, arg, HX_QUEUE_JOB_BYTES), HX_OK);
    memset(arg, 0, sizeof arg);
    cr_expect_eq(hx_queue_sync(q), HX_OK, "%s", hx_error_message());
    cr_expect_eq(hx_queue_push(q, check_argument, arg, sizeof arg), HX_ERR_ARG);
    cr_expect_not_null(strstr(hx_error_message(), "4097"));
    hx_queue_destroy(&q);
}

static hx_status sync_self(void *arg) {
    return hx_queue_sync(*(hx_queue **)arg);
}

Test(threads, queue_refuses_a_job_that_waits_for_its_own_queue) {
    hx_queue *q;
    cr_assert_eq(hx_queue_create("q", &q), HX_OK);
    cr_assert_eq(hx_queue_push(q, sync_self, &q, sizeof q), HX_OK);
    cr_expect_eq(hx_queue_sync(q), HX_ERR_STATE);
    hx_queue_destroy(&q);
}

static void *count_cores(void *arg) {
    cpu_set_t set;
    *(int *)arg = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
    return NULL;
}

static void count_cores_of_worker(void *arg, int64_t i, int worker) {
    (void)i;
    count_cores((int *)arg + worker);
}

/* The caller's binding must not come down upon threads that it starts for other work. */
Test(threads, a_pool_of_all_cores_keeps_each_thread_to_one_and_lets_the_caller_go_at_its_end) {
    const int n_cores = hx_usable_cores();
    int before, inside = 0, other = 0, after;
    int *of_worker = calloc((size_t)n_cores, sizeof *of_worker);
    hx_pool *pool;
    pthread_t thread;
    count_cores(&before);
    cr_assert_eq(before, n_cores);
    cr_assert_eq(hx_pool_create(n_cores, &pool), HX_OK);
    count_cores(&inside);
    for (int i = 0; i < 100; i++) hx_pool_run(pool, 1000, count_cores_of_worker, of_worker);
    cr_assert_eq(hx_thread_start("other", count_cores, &other, &thread), 0);
    pthread_join(thread, NULL);
    hx_pool_destroy(&pool);
    count_cores(&after);
    cr_expect_eq(inside, 1);
    for (int i = 0; i < n_cores; i++) cr_expect(of_worker[i] <= 1, "worker %d may use %d cores", i, of_worker[i]);
    cr_expect_eq(of_worker[0], 1);
    cr_expect_eq(other, n_cores);
    cr_expect_eq(after, n_cores);
    cr_expect_eq(hx_usable_cores(), n_cores);
    free(of_worker);
}

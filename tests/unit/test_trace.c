/* Spans: what is kept, of whom, how they nest, and what the sums over them say. */
#define _GNU_SOURCE /* names of threads */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "backends/backends.h"
#include "core/base/trace.h"
#include "core/train/profiler.h"
#include "tests/support/small_run.h"

/* Long enough for the clock to move. */
static void work(void) {
    for (const int64_t began = hx__trace_now(); hx__trace_now() - began < 20000;) continue;
}

static void span_of(hx_span_kind kind, const char *name, double flops, int64_t n_bytes) {
    const int64_t began = hx_span_begin();
    work();
    hx_span_end(began, kind, name, flops, n_bytes);
}

/* A step of two phases with two products each, and one outside of them. */
static void small_step(int64_t number) {
    const int64_t step = hx_span_begin(), forward = hx_span_begin();
    for (int i = 0; i < 2; i++) span_of(HX_SPAN_OP, "matmul", 1000, 10);
    work();
    hx_span_end(forward, HX_SPAN_FORWARD, "forward", 0, 0);
    const int64_t backward = hx_span_begin();
    for (int i = 0; i < 2; i++) span_of(HX_SPAN_OP, "matmul", 2000, 20);
    hx_span_end(backward, HX_SPAN_BACKWARD, "backward", 0, 0);
    span_of(HX_SPAN_OP, "fill", 0, 5);
    span_of(HX_SPAN_COMM, "all_reduce", 0, 7);
    hx_span_end(step, HX_SPAN_STEP, "step", 0, number);
}

static hx_trace *start(int64_t capacity) {
    hx_trace *trace;
    OK(hx_trace_create(capacity, &trace));
    hx_trace_start(trace);
    return trace;
}

static const hx_span *find(const hx_span_list *list, const char *name, int nth) {
    for (int64_t i = 0; i < list->n; i++)
        if (strcmp(list->spans[i].name, name) == 0 && nth-- == 0) return &list->spans[i];
    cr_assert_fail("there is no span %s", name);
    return NULL;
}

Test(trace, nothing_is_kept_while_it_is_off) {
    hx_trace *trace = start(16);
    hx_span_list list;
    hx_trace_stop();
    cr_expect_eq(hx_span_begin(), 0);
    small_step(1);
    OK(hx_trace_spans(trace, &list));
    cr_expect_eq(list.n, 0);
    cr_expect_eq(list.n_dropped, 0);
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
    cr_expect_null(trace);
    small_step(1); /* nor when it is gone */
}

Test(trace, a_span_that_has_begun_is_kept_when_it_ends_after_the_stop) {
    hx_trace *trace = start(16);
    hx_span_list list;
    const int64_t began = hx_span_begin();
    hx_trace_stop();
    span_of(HX_SPAN_OP, "too late", 0, 0);
    hx_span_end(began, HX_SPAN_SAVE, "write file", 0, 3);
    OK(hx_trace_spans(trace, &list));
    cr_assert_eq(list.n, 1);
    cr_expect_str_eq(list.spans[0].name, "write file");
    cr_expect_eq(list.spans[0].n_bytes, 3);
    cr_expect_eq(list.spans[0].step, -1);
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
}

Test(trace, an_op_belongs_to_the_phase_and_the_step_around_it) {
    hx_trace *trace = start(64);
    hx_span_list list;
    small_step(7);
    small_step(8);
    hx_trace_stop();
    OK(hx_trace_spans(trace, &list));
    cr_assert_eq(list.n, 2 * 9);
    static const hx_span_kind owners[] = {HX_SPAN_FORWARD, HX_SPAN_FORWARD, HX_SPAN_BACKWARD, HX_SPAN_BACKWARD};
    for (int i = 0; i < 8; i++) {
        const hx_span *s = find(&list, "matmul", i);
        cr_expect_eq(s->owner, owners[i % 4], "product %d is of %s", i, hx_span_kind_name(s->owner));
        cr_assert(s->step >= 0);
        cr_expect_eq(list.spans[s->step].n_bytes, i < 4 ? 7 : 8);
    }
    cr_expect_eq(find(&list, "fill", 0)->owner, HX_SPAN_STEP);
    cr_expect_eq(find(&list, "all_reduce", 1)->owner, HX_SPAN_COMM);
    int64_t own = 0;
    for (int64_t i = 0; i < list.n; i++) {
        cr_expect_geq(list.spans[i].own_ns, 0);
        if (list.spans[i].step == 0) own += list.spans[i].own_ns;
    }
    cr_expect_eq(own, list.spans[0].end_ns - list.spans[0].begin_ns, "own times add up to the step's");
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
}

Test(trace, spans_beyond_the_memory_are_dropped_and_counted) {
    hx_trace *trace = start(11);
    hx_span_list list;
    hx_profile profile;
    small_step(1);
    small_step(2);
    hx_trace_stop();
    OK(hx_trace_spans(trace, &list));
    cr_expect_eq(list.n, 11);
    cr_expect_eq(list.n_dropped, 2 * 9 - 11);
    OK(hx_profile_of(&list, &profile));
    cr_expect_eq(profile.n_steps, 1, "a step whose own span was dropped is none");
    cr_expect_eq(profile.last_step, 1);
    hx_profile_destroy(&profile);
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
    cr_expect_eq(hx_trace_create(0, &trace), HX_ERR_ARG);
}

static void *many_spans(void *arg) {
    (void)pthread_setname_np(pthread_self(), arg);
    for (int i = 0; i < 1000; i++) {
        const int64_t began = hx_span_begin();
        hx_span_end(began, HX_SPAN_OP, arg, i, i);
    }
    return NULL;
}

Test(trace, threads_record_at_once_under_their_names) {
    static char names[4][8] = {"red", "green", "blue", "white"};
    hx_trace *trace = start(4000);
    pthread_t threads[4];
    hx_span_list list;
    for (int i = 0; i < 4; i++) cr_assert_eq(pthread_create(&threads[i], NULL, many_spans, names[i]), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    span_of(HX_SPAN_OP, "one too many", 0, 0);
    hx_trace_stop();
    OK(hx_trace_spans(trace, &list));
    cr_expect_eq(list.n, 4000);
    cr_expect_eq(list.n_dropped, 1);
    cr_assert_eq(list.n_threads, 5);
    cr_expect_str_eq(list.threads[0], "main");
    for (int64_t i = 0; i < list.n; i++) {
        const hx_span *s = &list.spans[i];
        cr_assert_str_eq(s->name, list.threads[s->thread]);
        cr_assert(i == 0 || list.spans[i - 1].thread < s->thread || list.spans[i - 1].n_bytes + 1 == s->n_bytes, "not in order at %lld", (long long)i);
    }
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
}

static void *one_span(void *arg) {
    (void)arg;
    span_of(HX_SPAN_OP, "op", 0, 0);
    return NULL;
}

Test(trace, threads_beyond_the_most_are_dropped_and_counted) {
    hx_trace *trace = start(100);
    hx_span_list list;
    for (int i = 0; i < HX_TRACE_THREADS + 2; i++) {
        pthread_t thread;
        cr_assert_eq(pthread_create(&thread, NULL, one_span, NULL), 0);
        pthread_join(thread, NULL);
    }
    hx_trace_stop();
    OK(hx_trace_spans(trace, &list));
    cr_expect_eq(list.n, HX_TRACE_THREADS - 1, "the starting thread is one of them");
    cr_expect_eq(list.n_dropped, 3);
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
}

static double sum_within(const hx_profile *p) {
    double seconds = p->rest_s;
    for (int64_t i = 0; i < p->n_within; i++) seconds += p->rows[i].seconds;
    return seconds;
}

Test(profiler, rows_and_rest_add_up_to_the_steps) {
    hx_trace *trace = start(64);
    hx_span_list list;
    hx_profile p;
    span_of(HX_SPAN_SAVE, "checkpoint", 0, 0);
    small_step(5);
    small_step(6);
    hx_trace_stop();
    OK(hx_trace_spans(trace, &list));
    OK(hx_profile_of(&list, &p));
    cr_expect_eq(p.n_steps, 2);
    cr_expect_eq(p.first_step, 5);
    cr_expect_eq(p.last_step, 6);
    cr_assert_eq(p.n_within, 4);
    cr_assert_eq(p.n_rows, 5);
    cr_expect_eq(p.rows[0].owner, HX_SPAN_STEP);
    cr_expect_eq(p.rows[1].owner, HX_SPAN_FORWARD);
    cr_expect_eq(p.rows[1].n_calls, 4);
    cr_expect_float_eq(p.rows[1].flops, 4000, 0);
    cr_expect_float_eq(p.rows[2].flops, 8000, 0);
    cr_expect_float_eq(p.rows[2].n_bytes, 80, 0);
    cr_expect_str_eq(p.rows[4].name, "checkpoint");
    cr_expect_float_eq(sum_within(&p), p.seconds, 1e-9);
    cr_expect(p.rest_s >= 2 * 20e-6 && p.rest_s < p.seconds, "forward's own work is in no op: %g s", p.rest_s);
    hx_profile_destroy(&p);
    hx_span_list_destroy(&list);
    hx_trace_destroy(&trace);
}

/* Of a training whose operations are known: what the device counts is what the spans say. */
Test(profiler, a_training_step_has_the_operations_that_the_device_counts) {
    small_run run;
    hx_comm *comm;
    hx_device_stats before, after;
    hx_span_list list;
    hx_profile p;
    double flops = 0;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_self_open(&comm));
    small_run_open(&run, comm, __FILE__, &(small_run_config){.n_threads = 2, .batch = 6, .micro_batch = 4, .steps = 100, .lr = 1e-3, .recompute = 1});
    OK(hx_trainer_step(run.trainer, NULL));
    hx_device_stats_get(run.device, &before);
    hx_trace *trace = start(HX_TRACE_SPANS);
    for (int i = 0; i < 3; i++) OK(hx_trainer_step(run.trainer, NULL));
    hx_trace_stop();
    hx_device_stats_get(run.device, &after);
    OK(hx_trace_spans(trace, &list));
    OK(hx_profile_of(&list, &p));
    cr_expect_eq(p.n_steps, 3);
    cr_expect_eq(p.first_step, 2);
    bool has_owner[HX_SPAN_KIND_COUNT] = {false};
    for (int64_t i = 0; i < p.n_within; i++) {
        flops += p.rows[i].flops;
        has_owner[p.rows[i].owner] = true;
    }
    cr_expect_float_eq(flops, after.flops - before.flops, 1e-9 * flops);
    cr_expect(flops > 1e6);
    cr_expect(has_owner[HX_SPAN_FORWARD] && has_owner[HX_SPAN_BACKWARD] && has_owner[HX_SPAN_RECOMPUTE] && has_owner[HX_SPAN_OPTIMIZER] &&
              has_owner[HX_SPAN_DATA]);
    cr_expect_float_eq(sum_within(&p), p.seconds, 1e-9);
    hx_profile_destroy(&p);
    hx_span_list_destroy(&list);
    small_run_close(&run);
    hx_comm_close(&comm);
    hx_trace_destroy(&trace);
}

/* ---- bytes of a call ---- */

static hx_array array_of(hx_dtype dtype, int ndim, int64_t rows, int64_t columns, int64_t row_stride) {
    return (hx_array){.dtype = dtype, .ndim = ndim, .dims = {rows, columns}, .strides = {row_stride, 1}};
}

Test(profiler, bytes_of_a_call_count_each_operand_once) {
    hx_op_call call = {.op = HX_OP_matmul, .n_in = 2, .n_out = 1};
    call.in[0] = array_of(HX_F32, 2, 3, 4, 4);
    call.in[1] = array_of(HX_F32, 2, 4, 5, 5);
    call.out[0] = array_of(HX_F32, 2, 3, 5, 5);
    cr_expect_eq(hx_op_bytes(&call), 4 * (12 + 20 + 15));
    call.op = HX_OP_add;
    call.in[0] = call.out[0];
    call.in[1] = array_of(HX_F32, 2, 3, 5, 0);
    cr_expect_eq(hx_op_bytes(&call), 4 * (15 + 5 + 15), "a row that repeats is read once");
    call.op = HX_OP_embedding;
    call.in[0] = array_of(HX_I32, 1, 3, 1, 1);
    call.in[1] = array_of(HX_F32, 2, 50000, 5, 5);
    cr_expect_eq(hx_op_bytes(&call), 4 * (3 + 15 + 15), "of a table the rows that are looked up");
    call.in[0].ndim = -1;
    cr_expect_eq(hx_op_bytes(&call), 4 * (15 + 15), "an operand that is absent has none");
}

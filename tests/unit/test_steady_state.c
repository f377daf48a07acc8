/* A training step in its steady state makes no heap allocation. The linker sends every allocation of Helix's objects
 * through the counters below (see tests.cmake), so this counts malloc itself, not what an arena says. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "backends/backends.h"
#include "core/base/trace.h"
#include "tests/support/small_run.h"

static atomic_int n_calls;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);

void *__wrap_malloc(size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
    atomic_fetch_add(&n_calls, 1);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __real_aligned_alloc(align, n);
}

/* @param is_traced  all five steps, the trace being there before */
static void check_steady(int64_t recompute, bool is_traced) {
    small_run run;
    hx_comm *comm;
    hx_trace *trace = NULL;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_self_open(&comm));
    int before_all = atomic_load(&n_calls);
    small_run_open(&run, comm, __FILE__, &(small_run_config){.n_threads = 2, .batch = 6, .micro_batch = 4, .steps = 100, .lr = 1e-3, .recompute = recompute});
    for (int i = 0; i < 2; i++) OK(hx_trainer_step(run.trainer, NULL));
    if (is_traced) OK(hx_trace_create(HX_TRACE_SPANS, &trace));
    int before = atomic_load(&n_calls);
    cr_assert_gt(before, before_all, "the counters are not linked in");
    if (is_traced) hx_trace_start(trace);
    for (int i = 0; i < 5; i++) OK(hx_trainer_step(run.trainer, NULL));
    hx_trace_stop();
    int made = atomic_load(&n_calls) - before;
    cr_assert_eq(made, 0, "%d allocations in five steps", made);
    small_run_close(&run);
    hx_comm_close(&comm);
    hx_trace_destroy(&trace);
}

Test(steady_state, the_cpu_backend_allocates_nothing_after_two_steps) { check_steady(0, false); }

Test(steady_state, nor_does_it_where_activations_are_recomputed) { check_steady(1, false); }

Test(steady_state, nor_does_it_while_its_time_is_recorded) { check_steady(1, true); }

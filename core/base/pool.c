/* The thread pool of core/base/threads.h.
 *
 * A run is open to workers through one word, the gate: [generation:32 | closed:1 | workers inside:31].
 *   1. The caller writes the run's fields and stores the gate: next generation, open, nobody inside.
 *   2. A worker that sees a new generation enters by adding one to the gate, which succeeds only while it is open.
 *   3. Everybody takes indices from one counter until none are left.
 *   4. The caller closes the gate and waits until nobody is inside.
 * A worker that wakes up late finds the gate closed and goes back to sleep, so a short run never waits for a
 * thread that the system has not scheduled yet.
 */
#include "core/base/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/mem.h"

#define MAX_THREADS 4096
#define SPINS       2000 /* rounds of waiting before a thread sleeps: some tens of microseconds */

#define GATE_CLOSED     ((uint64_t)1 << 31)
#define GATE_INSIDE     (GATE_CLOSED - 1)
#define GATE_GENERATION ((uint64_t)1 << 32)

typedef struct worker {
    hx_pool *pool;
    int index;
    pthread_t thread;
} worker;

struct hx_pool {
    int n_threads;
    int n_started; /* workers whose thread exists */
    bool keeps;    /* each thread to a core */
    pthread_t caller; /* who created it */
    int spins;     /* 0 when threads outnumber cores: a spinning thread would keep a working one waiting */
    worker *workers; /* [n_threads-1] */

    /* The run. Written only while the gate is closed and nobody is inside. */
    hx_task_fn task;
    void *arg;
    int64_t n_tasks;

    _Alignas(HX_MEM_ALIGN) atomic_int_least64_t next; /* on a cache line of its own: everybody writes it */
    _Alignas(HX_MEM_ALIGN) atomic_uint_least64_t gate;
    atomic_bool stop;
    atomic_int n_sleeping;       /* workers in `work` */
    atomic_bool caller_sleeping; /* in `drained` */
    pthread_mutex_t lock;
    pthread_cond_t work, drained;
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void take_tasks(hx_pool *pool, int index) {
    hx_task_fn task = pool->task;
    void *arg = pool->arg;
    int64_t n = pool->n_tasks;
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= n) return;
        task(arg, i, index);
    }
}

static bool has_news(hx_pool *pool, uint64_t seen) {
    return (atomic_load(&pool->gate) ^ seen) >= GATE_GENERATION || atomic_load(&pool->stop);
}

/* Returns when there is a generation other than that of `seen`, or the pool stops. */
static void wait_for_news(hx_pool *pool, uint64_t seen) {
    for (int i = 0; i < pool->spins; i++) {
        if (has_news(pool, seen)) return;
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    /* The count goes up before the gate is looked at, and the caller stores the gate before it looks at the
     * count (all sequentially consistent): one of the two notices the other. */
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (!has_news(pool, seen)) pthread_cond_wait(&pool->work, &pool->lock);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static bool enter(hx_pool *pool, uint64_t *seen) {
    uint64_t gate = atomic_load(&pool->gate);
    do {
        *seen = gate;
        if (gate & GATE_CLOSED) return false;
    } while (!atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1));
    return true;
}

static void leave(hx_pool *pool) {
    uint64_t before = atomic_fetch_sub(&pool->gate, 1);
    if ((before & GATE_INSIDE) != 1 || !atomic_load(&pool->caller_sleeping)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->drained);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    hx_pool *pool = w->pool;
    uint64_t seen = GATE_CLOSED; /* the gate's first value */
    for (;;) {
        wait_for_news(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        if (!enter(pool, &seen)) continue;
        take_tasks(pool, w->index);
        leave(pool);
    }
}

static bool is_drained(hx_pool *pool) {
    return (atomic_load(&pool->gate) & GATE_INSIDE) == 0;
}

static void wait_until_drained(hx_pool *pool) {
    for (int i = 0; i < pool->spins; i++) {
        if (is_drained(pool)) return;
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeping, true);
    while (!is_drained(pool)) pthread_cond_wait(&pool->drained, &pool->lock);
    atomic_store(&pool->caller_sleeping, false);
    pthread_mutex_unlock(&pool->lock);
}

void hx_pool_run(hx_pool *pool, int64_t n_tasks, hx_task_fn task, void *arg) {
    if (pool->n_threads == 1 || n_tasks <= 1) {
        for (int64_t i = 0; i < n_tasks; i++) task(arg, i, 0);
        return;
    }
    pool->task = task;
    pool->arg = arg;
    pool->n_tasks = n_tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    uint64_t gate = atomic_load(&pool->gate);
    atomic_store(&pool->gate, (gate & ~(GATE_GENERATION - 1)) + GATE_GENERATION);
    if (atomic_load(&pool->n_sleeping) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    take_tasks(pool, 0);
    atomic_fetch_or(&pool->gate, GATE_CLOSED);
    wait_until_drained(pool);
}

static hx_status start_workers(hx_pool *pool) {
    for (int i = 0; i < pool->n_threads - 1; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i + 1};
        const int error = hx_thread_start("hx-pool", worker_main, &pool->workers[i], &pool->workers[i].thread);
        if (error != 0)
            return HX_FAIL(HX_ERR_MEMORY, "cannot start thread %d of %d: %s", i + 2, pool->n_threads, strerror(error));
        pool->n_started++;
        if (pool->keeps) hx_thread_keep_to(pool->workers[i].thread, i + 1);
    }
    if (pool->keeps) hx_thread_keep_to(pool->caller, 0);
    return HX_OK;
}

hx_status hx_pool_create(int n_threads, hx_pool **out) {
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return HX_FAIL(HX_ERR_ARG, "%d threads: expected 1 to %d", n_threads, MAX_THREADS);
    hx_pool *pool;
    hx_status status;
    HX_TRY(hx_mem_alloc_array(1, sizeof *pool, (void **)&pool));
    pool->n_threads = n_threads;
    pool->spins = n_threads <= hx_usable_cores() ? SPINS : 0;
    pool->keeps = n_threads > 1 && n_threads == hx_usable_cores();
    pool->caller = pthread_self();
    atomic_store(&pool->gate, GATE_CLOSED);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->drained, NULL);
    HX_TRY_GOTO(hx_mem_alloc_array(n_threads - 1, sizeof *pool->workers, (void **)&pool->workers), failed);
    HX_TRY_GOTO(start_workers(pool), failed);
    *out = pool;
    return HX_OK;
failed:
    hx_pool_destroy(&pool);
    return status;
}

void hx_pool_destroy(hx_pool **pool) {
    hx_pool *p = *pool;
    if (p == NULL) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    if (p->keeps && pthread_equal(p->caller, pthread_self())) hx_thread_let_go(p->caller);
    pthread_cond_destroy(&p->drained);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    hx_mem_free((void **)&p->workers);
    hx_mem_free((void **)pool);
}

int hx_pool_size(const hx_pool *pool) {
    return pool->n_threads;
}

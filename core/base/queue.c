/* Signals and job queues of core/base/threads.h.
 *
 * A queue is a ring of slots that is allocated once. A job runs inside its slot, which is given back afterwards, so
 * an argument is copied only once. The two counters never wrap in practice (64 bits) and name jobs: job k lies in
 * slot k mod SLOTS, and has run when n_done > k.
 */
#include "core/base/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"

#define SLOTS         HX_QUEUE_JOBS
#define MESSAGE_BYTES 2048

struct hx_signal {
    atomic_bool is_set;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

hx_status hx_signal_create(hx_signal **out) {
    hx_signal *s;
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    *out = s;
    return HX_OK;
}

void hx_signal_destroy(hx_signal **signal) {
    hx_signal *s = *signal;
    if (s == NULL) return;
    /* A waiter may get here while the thread that set the signal is still waking others. */
    pthread_mutex_lock(&s->lock);
    pthread_mutex_unlock(&s->lock);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    hx_mem_free((void **)signal);
}

void hx_signal_reset(hx_signal *signal) {
    atomic_store(&signal->is_set, false);
}

void hx_signal_set(hx_signal *signal) {
    pthread_mutex_lock(&signal->lock);
    atomic_store(&signal->is_set, true);
    pthread_cond_broadcast(&signal->changed);
    pthread_mutex_unlock(&signal->lock);
}

bool hx_signal_is_set(const hx_signal *signal) {
    return atomic_load(&signal->is_set);
}

void hx_signal_wait(hx_signal *signal) {
    if (atomic_load(&signal->is_set)) return;
    pthread_mutex_lock(&signal->lock);
    while (!atomic_load(&signal->is_set)) pthread_cond_wait(&signal->changed, &signal->lock);
    pthread_mutex_unlock(&signal->lock);
}

typedef struct slot {
    hx_job_fn job;
    bool runs_always; /* after a failure too */
    _Alignas(HX_MEM_ALIGN) unsigned char arg[HX_QUEUE_JOB_BYTES];
} slot;

struct hx_queue {
    pthread_t thread;
    pthread_mutex_t lock; /* guards everything below; not held while a job runs */
    pthread_cond_t pushed, done;
    bool stop;
    uint64_t n_pushed, n_done;
    int n_waiting; /* threads in `done` */
    hx_status failure;
    char message[MESSAGE_BYTES];
    slot *slots; /* [SLOTS] */
};

/* Runs the job at the head; called and returns with the lock held. */
static void run_head(hx_queue *q) {
    slot *s = &q->slots[q->n_done % SLOTS];
    if (q->failure == HX_OK || s->runs_always) {
        pthread_mutex_unlock(&q->lock);
        hx_status status = s->job(s->arg);
        pthread_mutex_lock(&q->lock);
        if (status != HX_OK && q->failure == HX_OK) {
            q->failure = status;
            snprintf(q->message, sizeof q->message, "%s", hx_error_message());
        }
    }
    q->n_done++;
    if (q->n_waiting > 0) pthread_cond_broadcast(&q->done);
}

static void *queue_main(void *arg) {
    hx_queue *q = arg;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (q->n_done == q->n_pushed && !q->stop) pthread_cond_wait(&q->pushed, &q->lock);
        if (q->n_done == q->n_pushed) break;
        run_head(q);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

hx_status hx_queue_create(const char *name, hx_queue **out) {
    hx_queue *q = NULL;
    hx_status status;
    HX_TRY(hx_mem_alloc_array(1, sizeof *q, (void **)&q));
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->pushed, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* of hx_queue_wait */
    pthread_cond_init(&q->done, &attr);
    pthread_condattr_destroy(&attr);
    HX_TRY_GOTO(hx_mem_alloc_array(SLOTS, sizeof *q->slots, (void **)&q->slots), failed);
    const int error = hx_thread_start(name, queue_main, q, &q->thread);
    if (error != 0) {
        status = HX_FAIL(HX_ERR_MEMORY, "cannot start the thread of queue '%s': %s", name, strerror(error));
        goto failed;
    }
    *out = q;
    return HX_OK;
failed:
    pthread_cond_destroy(&q->done);
    pthread_cond_destroy(&q->pushed);
    pthread_mutex_destroy(&q->lock);
    hx_mem_free((void **)&q->slots);
    hx_mem_free((void **)&q);
    return status;
}

void hx_queue_destroy(hx_queue **queue) {
    hx_queue *q = *queue;
    if (q == NULL) return;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_signal(&q->pushed);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    pthread_cond_destroy(&q->done);
    pthread_cond_destroy(&q->pushed);
    pthread_mutex_destroy(&q->lock);
    hx_mem_free((void **)&q->slots);
    hx_mem_free((void **)queue);
}

/* Until n jobs have run; called with the lock held. @param until  NULL: without limit @return whether they have */
static bool wait_for_done(hx_queue *q, uint64_t n, const struct timespec *until) {
    int error = 0;
    q->n_waiting++;
    while (q->n_done < n && error == 0)
        error = until ? pthread_cond_timedwait(&q->done, &q->lock, until) : pthread_cond_wait(&q->done, &q->lock);
    q->n_waiting--;
    return q->n_done >= n;
}

static hx_status push(hx_queue *q, hx_job_fn job, bool runs_always, const void *arg, size_t n_bytes) {
    pthread_mutex_lock(&q->lock);
    if (q->n_pushed - q->n_done == SLOTS && pthread_equal(pthread_self(), q->thread)) {
        pthread_mutex_unlock(&q->lock);
        return HX_FAIL(HX_ERR_STATE, "a job pushes to its own queue, which is full (%d jobs): it would wait for itself",
                       SLOTS);
    }
    /* Between waking and taking the lock another thread may have taken the slot: look again. */
    while (q->n_pushed - q->n_done == SLOTS) (void)wait_for_done(q, q->n_pushed - SLOTS + 1, NULL);
    slot *s = &q->slots[q->n_pushed % SLOTS];
    s->job = job;
    s->runs_always = runs_always;
    if (n_bytes > 0) memcpy(s->arg, arg, n_bytes);
    q->n_pushed++;
    pthread_cond_signal(&q->pushed);
    pthread_mutex_unlock(&q->lock);
    return HX_OK;
}

hx_status hx_queue_push(hx_queue *queue, hx_job_fn job, const void *arg, size_t n_bytes) {
    if (n_bytes > HX_QUEUE_JOB_BYTES)
        return HX_FAIL(HX_ERR_ARG, "argument of %zu bytes: expected at most %d", n_bytes, HX_QUEUE_JOB_BYTES);
    return push(queue, job, false, arg, n_bytes);
}

static hx_status set_job(void *arg) {
    hx_signal *signal;
    memcpy(&signal, arg, sizeof signal);
    hx_signal_set(signal);
    return HX_OK;
}

static hx_status wait_job(void *arg) {
    hx_signal *signal;
    memcpy(&signal, arg, sizeof signal);
    hx_signal_wait(signal);
    return HX_OK;
}

hx_status hx_queue_push_signal(hx_queue *queue, hx_signal *signal) {
    return push(queue, set_job, true, &signal, sizeof signal);
}

hx_status hx_queue_push_wait(hx_queue *queue, hx_signal *signal) {
    return push(queue, wait_job, false, &signal, sizeof signal);
}

/* Describes the failure for the calling thread and releases the lock. */
static hx_status report_and_unlock(hx_queue *q, bool clear) {
    hx_status failure = q->failure;
    if (failure != HX_OK) hx_error_adopt(failure, q->message);
    if (clear) q->failure = HX_OK;
    pthread_mutex_unlock(&q->lock);
    return failure;
}

hx_status hx_queue_sync(hx_queue *queue) {
    if (pthread_equal(pthread_self(), queue->thread))
        return HX_FAIL(HX_ERR_STATE, "called by a job of the same queue: it would wait for itself");
    pthread_mutex_lock(&queue->lock);
    (void)wait_for_done(queue, queue->n_pushed, NULL);
    return report_and_unlock(queue, false);
}

bool hx_queue_wait(hx_queue *queue, int n_left, int timeout_ms) {
    struct timespec until;
    if (pthread_equal(pthread_self(), queue->thread)) return true;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    until.tv_sec += timeout_ms / 1000 + until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&queue->lock);
    uint64_t n_pushed = queue->n_pushed, n_may_wait = (uint64_t)n_left;
    bool is_so = n_pushed <= n_may_wait || wait_for_done(queue, n_pushed - n_may_wait, &until);
    pthread_mutex_unlock(&queue->lock);
    return is_so;
}

bool hx_queue_is_idle(hx_queue *queue) {
    pthread_mutex_lock(&queue->lock);
    bool idle = queue->n_done == queue->n_pushed;
    pthread_mutex_unlock(&queue->lock);
    return idle;
}

hx_status hx_queue_error(hx_queue *queue, bool clear) {
    pthread_mutex_lock(&queue->lock);
    return report_and_unlock(queue, clear);
}

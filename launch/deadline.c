#include "launch/session_impl.h"

#include <errno.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/base/thread.h"

/* A thread that waits on a condition, made before anything can have failed: a rank that is out of memory would not get one. A
 * timer signal would not do: MPI_Abort must not run in a signal handler. */
struct hx_deadline {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_running, is_cancelled;
    struct timespec end; /* CLOCK_MONOTONIC, once it runs */
    int exit_code;
    char message[1024];
};

static void *deadline_main(void *arg) {
    hx_deadline *d = arg;
    pthread_mutex_lock(&d->lock);
    int error = 0;
    while (!d->is_cancelled && error != ETIMEDOUT)
        error = d->is_running ? pthread_cond_timedwait(&d->changed, &d->lock, &d->end) : pthread_cond_wait(&d->changed, &d->lock);
    bool is_over = !d->is_cancelled;
    if (is_over && d->message[0])
        dprintf(STDERR_FILENO, "helix: %s\nhelix: the other ranks did not answer; the job is ended\n", d->message);
    pthread_mutex_unlock(&d->lock);
    if (!is_over) return NULL;
    int is_initialised = 0, is_finalised = 0;
    MPI_Initialized(&is_initialised);
    MPI_Finalized(&is_finalised);
    if (is_initialised && !is_finalised) MPI_Abort(MPI_COMM_WORLD, d->exit_code);
    _exit(d->exit_code);
}

hx_status hx_deadline_create(hx_deadline **out) {
    hx_deadline *d;
    pthread_condattr_t attr;
    HX_TRY(hx_mem_alloc_array(1, sizeof *d, (void **)&d));
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (hx_thread_start("hx-deadline", deadline_main, d, &d->thread) != 0) {
        pthread_cond_destroy(&d->changed);
        pthread_mutex_destroy(&d->lock);
        hx_mem_free((void **)&d);
        return HX_FAIL(HX_ERR_MEMORY, "no thread for the deadline of closing");
    }
    *out = d;
    return HX_OK;
}

void hx_deadline_start(hx_deadline *d, double seconds, int exit_code, const char *message) {
    pthread_mutex_lock(&d->lock);
    d->exit_code = exit_code;
    snprintf(d->message, sizeof d->message, "%s", message);
    clock_gettime(CLOCK_MONOTONIC, &d->end);
    d->end.tv_sec += (time_t)seconds;
    d->is_running = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

void hx_deadline_stop(hx_deadline *deadline) {
    pthread_mutex_lock(&deadline->lock);
    deadline->is_running = false;
    pthread_cond_signal(&deadline->changed);
    pthread_mutex_unlock(&deadline->lock);
}

void hx_deadline_hush(hx_deadline *deadline) {
    pthread_mutex_lock(&deadline->lock);
    deadline->message[0] = '\0';
    pthread_mutex_unlock(&deadline->lock);
}

void hx_deadline_destroy(hx_deadline **deadline) {
    hx_deadline *d = *deadline;
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    d->is_cancelled = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    hx_mem_free((void **)deadline);
}

#define _GNU_SOURCE /* names of threads, sets of cores */
#include "core/base/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static cpu_set_t usable; /* written once */

static void find_usable(void) {
    if (sched_getaffinity(0, sizeof usable, &usable) == 0 && CPU_COUNT(&usable) > 0) return;
    CPU_ZERO(&usable); /* more cores than a set holds: nothing is known of them */
}

static const cpu_set_t *usable_set(void) {
    (void)pthread_once(&once, find_usable);
    return &usable;
}

int hx_usable_cores(void) {
    const int n = CPU_COUNT(usable_set());
    return n > 0 ? n : 1;
}

int hx_thread_start(const char *name, void *(*main)(void *), void *arg, pthread_t *out) {
    sigset_t all, before;
    pthread_attr_t attr;
    char short_name[16]; /* the system's limit */
    int error = pthread_attr_init(&attr);
    if (error != 0) return error;
    if (CPU_COUNT(usable_set()) > 0) (void)pthread_attr_setaffinity_np(&attr, sizeof usable, &usable);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(out, &attr, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (error != 0) return error;
    snprintf(short_name, sizeof short_name, "%.15s", name);
    (void)pthread_setname_np(*out, short_name);
    return 0;
}

void hx_thread_keep_to(pthread_t thread, int index) {
    cpu_set_t own;
    CPU_ZERO(&own);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, usable_set()) && index-- == 0) CPU_SET(cpu, &own);
    if (CPU_COUNT(&own) == 1) (void)pthread_setaffinity_np(thread, sizeof own, &own);
}

void hx_thread_let_go(pthread_t thread) {
    if (CPU_COUNT(usable_set()) > 0) (void)pthread_setaffinity_np(thread, sizeof usable, &usable);
}

/* One thread: how every thread of Helix is started, and which cores threads may use.
 *
 *     pthread_t thread;
 *     int error = hx_thread_start("hx-ckpt", async_main, self, &thread);   // then pthread_join as usual
 */
#ifndef HX_CORE_BASE_THREAD_H
#define HX_CORE_BASE_THREAD_H

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Cores that this process may run on, as it found them at the first call: a thread that keeps to one of them later does not change it.
 *  @return at least 1, also if the system does not tell */
int hx_usable_cores(void);

/** Start main(arg) on a thread that gets no signals, which are for the program's own threads, and may use all usable cores, whatever the
 *  caller keeps to.
 *  @param name  shown by debuggers, its first 15 bytes
 *  @return 0, or the error number of pthread_create */
int hx_thread_start(const char *name, void *(*main)(void *), void *arg, pthread_t *out);

/** Keep a thread to one usable core, the index-th. The system may refuse: slower, no less right. */
void hx_thread_keep_to(pthread_t thread, int index);
/** Let it use all of them again. */
void hx_thread_let_go(pthread_t thread);

#ifdef __cplusplus
}
#endif
#endif

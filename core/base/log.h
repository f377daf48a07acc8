/* Log lines go to a sink that the program installs; the library itself never prints.
 *
 *     hx_log_set_sink(to_stderr, NULL);
 *     HX_LOG(HX_LOG_WARN, "%d threads asked for, %d cores bound", n, cores);
 */
#ifndef HX_CORE_BASE_LOG_H
#define HX_CORE_BASE_LOG_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hx_log_level { HX_LOG_DEBUG, HX_LOG_INFO, HX_LOG_WARN, HX_LOG_ERROR } hx_log_level;

typedef void (*hx_log_sink)(void *self, hx_log_level level, const char *line);

/** Install the receiver of log lines; NULL (the default) drops them. Call before other threads exist.
 *  @param self  borrowed, passed to every call of `sink`; `sink` may be called from any thread */
void hx_log_set_sink(hx_log_sink sink, void *self, hx_log_level least);

void hx__log(hx_log_level level, const char *format, ...) HX_PRINTF(2, 3);

#define HX_LOG(level, ...) hx__log((level), __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif

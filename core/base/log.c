#include "core/base/log.h"

#include <stdarg.h>
#include <stdio.h>

/* Installed once at start, before other threads exist. */
static struct {
    hx_log_sink sink;
    void *self;
    hx_log_level least;
} receiver;

void hx_log_set_sink(hx_log_sink sink, void *self, hx_log_level least) {
    receiver.sink = sink;
    receiver.self = self;
    receiver.least = least;
}

void hx__log(hx_log_level level, const char *format, ...) {
    if (receiver.sink == NULL || level < receiver.least) return;
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    receiver.sink(receiver.self, level, line);
}

#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 2048
#define TRACE_BYTES   2048

static const struct {
    const char *name, *text;
    int exit_code;
} table[HX_STATUS_COUNT] = {
#define HX_STATUS_ROW(code, exit_code, text) [code] = {#code, text, exit_code},
    HX_STATUS_LIST(HX_STATUS_ROW)
#undef HX_STATUS_ROW
};

static _Thread_local char message[MESSAGE_BYTES];
static _Thread_local char trace[TRACE_BYTES];
/* Written once at start, before other threads exist. */
static char identity[128];

static bool is_code(hx_status status) {
    return (unsigned)status < HX_STATUS_COUNT;
}

const char *hx_status_name(hx_status status) {
    return is_code(status) ? table[status].name : "HX_STATUS_?";
}

const char *hx_status_text(hx_status status) {
    return is_code(status) ? table[status].text : "a value that is no status";
}

int hx_status_exit_code(hx_status status) {
    return is_code(status) ? table[status].exit_code : 1;
}

void hx_error_set_identity(int rank, int size, const char *host) {
    if (host == NULL) {
        identity[0] = '\0';
        return;
    }
    snprintf(identity, sizeof identity, "[rank %d/%d %.63s] ", rank, size, host);
}

const char *hx_error_message(void) {
    return message;
}

const char *hx_error_trace(void) {
    return trace;
}

void hx_error_clear(void) {
    message[0] = trace[0] = '\0';
}

hx_status hx_error_adopt(hx_status status, const char *text) {
    if (status == HX_OK) return status;
    trace[0] = '\0';
    /* text may be this thread's own message */
    if (text != message) snprintf(message, sizeof message, "%s", text ? text : hx_status_text(status));
    return status;
}

/* The file's path from the repository's root: builds outside of it see long prefixes. */
static const char *short_path(const char *file) {
    static const char *const roots[] = {"/core/", "/dist/", "/backends/", "/io/", "/launch/", "/tests/"};
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        const char *at = strstr(file, roots[i]);
        if (at != NULL) return at + 1;
    }
    return file;
}

void hx__trace(const char *func, const char *file, int line) {
    size_t used = strlen(trace);
    snprintf(trace + used, sizeof trace - used, "    in %s (%s:%d)\n", func, short_path(file), line);
}

void hx__fail(hx_status status, const char *func, const char *file, int line, const char *format, ...) {
    /* Formatted aside first: an argument may be the message that is being replaced. */
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(message, sizeof message, "%s%s %s: ", identity, hx_status_name(status), func);
    size_t used = strlen(message);
    snprintf(message + used, sizeof message - used, "%s", text);
    trace[0] = '\0';
    hx__trace(func, file, line);
}

/* Status codes, the error of the current thread, and the macros that carry both upwards.
 *
 * Every fallible function returns an `hx_status`. The one that notices a fault describes it once, with
 * HX_FAIL, which stores a message "[rank 3/8 node07] HX_ERR_SHAPE hx_matmul: ..." for the calling thread;
 * callers pass the code on with HX_TRY, which adds a line to the trace. Nothing here prints or exits.
 *
 *     hx_status half(int64_t n, int64_t *out) {
 *         if (n % 2) return HX_FAIL(HX_ERR_ARG, "n = %lld: expected an even number", (long long)n);
 *         *out = n / 2;
 *         return HX_OK;
 *     }
 *     ...
 *     HX_TRY(half(n, &m));
 */
#ifndef HX_CORE_BASE_STATUS_H
#define HX_CORE_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HX_PRINTF(f, a)     __attribute__((format(printf, f, a)))
#define HX_LIKELY(x)        __builtin_expect(!!(x), 1)
#define HX_CLEANUP(destroy) __attribute__((cleanup(destroy)))
#else
#error "Helix needs a compiler that speaks GNU C (gcc or clang)"
#endif

/* code, exit code of the program, text. The exit codes are documented in the README. */
#define HX_STATUS_LIST(X)                                                                                    \
    X(HX_OK, 0, "success")                                                                                   \
    X(HX_ERR_ARG, 2, "an argument is out of its range")                                                      \
    X(HX_ERR_CONFIG, 2, "the configuration cannot be used")                                                  \
    X(HX_ERR_SHAPE, 2, "shapes do not fit together")                                                         \
    X(HX_ERR_DTYPE, 2, "the element type does not fit")                                                      \
    X(HX_ERR_UNSUPPORTED, 2, "this combination is not supported")                                            \
    X(HX_ERR_STATE, 1, "called in the wrong order")                                                          \
    X(HX_ERR_MEMORY, 3, "out of memory")                                                                     \
    X(HX_ERR_OVERFLOW, 2, "a size does not fit its type")                                                    \
    X(HX_ERR_IO, 4, "reading or writing failed")                                                             \
    X(HX_ERR_FORMAT, 5, "a file is not what it should be")                                                   \
    X(HX_ERR_CORRUPT, 5, "data fail their checksum")                                                         \
    X(HX_ERR_MISMATCH, 6, "a checkpoint belongs to another model")                                           \
    X(HX_ERR_NUMERIC, 7, "a number is not finite")                                                           \
    X(HX_ERR_COMM, 8, "communication failed")                                                                \
    X(HX_ERR_DEVICE, 9, "a device failed or is absent")                                                      \
    X(HX_ERR_REMOTE, 10, "another rank failed first")                                                        \
    X(HX_ERR_INTERRUPTED, 11, "stopped by a signal after a checkpoint")                                      \
    X(HX_ERR_INTERNAL, 1, "a fault of Helix itself")

typedef enum hx_status {
#define HX_STATUS_ENUM_(code, exit_code, text) code,
    HX_STATUS_LIST(HX_STATUS_ENUM_)
#undef HX_STATUS_ENUM_
        HX_STATUS_COUNT
} hx_status;

/** Name of a code, e.g. "HX_ERR_SHAPE"; "HX_STATUS_?" for a value that is none. Static storage. */
const char *hx_status_name(hx_status status);
/** One sentence that explains a code. Static storage. */
const char *hx_status_text(hx_status status);
/** Exit code with which a program reports this status. */
int hx_status_exit_code(hx_status status);

/** Tell errors who they speak for. Call once at start, before other threads exist.
 *  @param host  copied (up to 63 bytes); NULL leaves messages without a "[rank ...]" prefix */
void hx_error_set_identity(int rank, int size, const char *host);

/** Message of the last failure on this thread, "" when there was none. Valid until the next failure here. */
const char *hx_error_message(void);
/** Call trace of that failure, one line per level, innermost first; "" when there was none. */
const char *hx_error_trace(void);
/** Forget this thread's failure. */
void hx_error_clear(void);
/** Store a failure with a ready-made message, e.g. one that another thread or rank met. Returns `status`. */
hx_status hx_error_adopt(hx_status status, const char *message);

/* Implementation of HX_FAIL and HX_TRY. */
void hx__fail(hx_status status, const char *func, const char *file, int line, const char *format, ...)
    HX_PRINTF(5, 6);
void hx__trace(const char *func, const char *file, int line);

/** Describe a failure found here and yield its code: `return HX_FAIL(HX_ERR_ARG, "n = %d: ...", n);`
 *  The code is an expression of its own so that the compiler sees that it is not HX_OK. */
#define HX_FAIL(status, ...) (hx__fail((status), __func__, __FILE__, __LINE__, __VA_ARGS__), (status))

/** Return early if `call` fails. Only where nothing is owned, or what is owned has HX_CLEANUP. */
#define HX_TRY(call)                                                                                         \
    do {                                                                                                     \
        hx_status hx_try_ = (call);                                                                          \
        if (!HX_LIKELY(hx_try_ == HX_OK)) {                                                                  \
            hx__trace(__func__, __FILE__, __LINE__);                                                         \
            return hx_try_;                                                                                  \
        }                                                                                                    \
    } while (0)

/** Store the code in `status` (declared by the caller) and jump to `label` if `call` fails. */
#define HX_TRY_GOTO(call, label)                                                                             \
    do {                                                                                                     \
        status = (call);                                                                                     \
        if (!HX_LIKELY(status == HX_OK)) {                                                                   \
            hx__trace(__func__, __FILE__, __LINE__);                                                         \
            goto label;                                                                                      \
        }                                                                                                    \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif

/* What a fuzz harness tests/fuzz/fuzz_x.c is: one function that libFuzzer (preset fuzz) and driver.c (every other preset) call.
 *
 *     int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)  // returns 0; aborts if a promise is broken
 *     int LLVMFuzzerInitialize(int *argc, char ***argv)             // optional: before the first input
 *     bool hx_fuzz_end(void)                                        // optional: after driver.c's last input, see below
 *
 * An input is what a file or a message may hold, or a recipe from which the harness makes such a file. The same input must take the
 * same way each time, whatever came before it. tests/fuzz/corpus/x/ holds the inputs to start from: a few, small, of each kind. */
#ifndef HX_TESTS_FUZZ_FUZZ_H
#define HX_TESTS_FUZZ_FUZZ_H

#include <stdio.h>
#include <stdlib.h>

#include "core/base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
/** Tell what was run, and whether it was a test at all: a reader that refuses everything, or takes everything, is not tested. */
bool hx_fuzz_end(void);

/** A promise of the code under test; the input that breaks it is kept by who called the harness. */
static inline void hx_fuzz_must(bool ok, const char *promise) {
    if (ok) return;
    fprintf(stderr, "broken promise: %s; the last error was: %s\n", promise, hx_error_message());
    abort();
}

#endif

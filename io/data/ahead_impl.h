/* Micro-batches made on a thread before they are asked for. It guesses that each step asks for the same indices as the last one did,
 * which is what training and evaluation do; after a wrong guess (a run that goes on, an evaluation that ends early) what was made is
 * thrown away and the one that was asked for is made at once. So results never depend on what was guessed. */
#ifndef HX_IO_DATA_AHEAD_IMPL_H
#define HX_IO_DATA_AHEAD_IMPL_H

#include "core/base/status.h"

#define HX__PREFETCH_SLOTS 4 /* micro-batches that wait to be asked for */

typedef struct hx__ahead hx__ahead;

typedef struct hx__ahead_maker {
    void *self; /* borrowed */
    size_t n_bytes; /* of the largest micro-batch */
    /** Make micro-batch `index` of the global batch at `cursor`; on any thread, one at a time. */
    hx_status (*make)(void *self, int64_t cursor, int64_t index, void *memory);
    /** Micro-batches of that batch, as far as is known, and the cursor of the batch after it. */
    void (*guess)(void *self, int64_t cursor, int64_t *n_micro, int64_t *next_cursor);
} hx__ahead_maker;

/** @param is_threaded  false: everything is made when it is asked for */
hx_status hx__ahead_create(const hx__ahead_maker *maker, bool is_threaded, hx__ahead **out);
void hx__ahead_destroy(hx__ahead **ahead);
/** The micro-batch, in memory that holds it until the next call. What the thread failed with is this call's failure. */
hx_status hx__ahead_take(hx__ahead *ahead, int64_t cursor, int64_t index, const void **memory);

#endif

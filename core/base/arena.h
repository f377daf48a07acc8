/* Step arena: many small records that all die together. Blocks are kept on reset, so that a loop which
 * asks for the same records each time allocates only in its first round.
 *
 *     hx_arena *a; HX_TRY(hx_arena_create(1 << 16, &a));
 *     for (step...) { node *n; HX_TRY(hx_arena_push(a, sizeof *n, (void **)&n)); ... hx_arena_reset(a); }
 *     hx_arena_destroy(&a);
 */
#ifndef HX_CORE_BASE_ARENA_H
#define HX_CORE_BASE_ARENA_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_arena hx_arena;

/** @param block_bytes  granularity of growth, > 0 */
hx_status hx_arena_create(size_t block_bytes, hx_arena **out);
void hx_arena_destroy(hx_arena **arena);
/** n_bytes zeroed, aligned to 16, valid until the next reset. Not thread-safe. */
hx_status hx_arena_push(hx_arena *arena, size_t n_bytes, void **out);
/** Forget all records; keeps the blocks. */
void hx_arena_reset(hx_arena *arena);
/** Bytes held from the system. */
size_t hx_arena_bytes(const hx_arena *arena);

#ifdef __cplusplus
}
#endif
#endif

#include "core/base/arena.h"

#include <stdalign.h>
#include <string.h>

#include "core/base/mem.h"

typedef struct block {
    struct block *next;
    size_t n_bytes; /* of data */
    alignas(16) unsigned char data[];
} block;

struct hx_arena {
    block *first, *current;
    size_t used; /* in current */
    size_t block_bytes;
    size_t held;
};

hx_status hx_arena_create(size_t block_bytes, hx_arena **out) {
    if (block_bytes == 0) return HX_FAIL(HX_ERR_ARG, "block_bytes = 0: expected > 0");
    void *a;
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_arena), &a));
    *out = a;
    (*out)->block_bytes = block_bytes;
    return HX_OK;
}

void hx_arena_destroy(hx_arena **arena) {
    if (*arena == NULL) return;
    for (block *b = (*arena)->first; b != NULL;) {
        block *next = b->next;
        hx_mem_free((void **)&b);
        b = next;
    }
    hx_mem_free((void **)arena);
}

/* Make a block current that has room for n bytes: the next kept one, or a new one in its place. */
static hx_status next_block(hx_arena *arena, size_t n) {
    block *next = arena->current ? arena->current->next : arena->first;
    if (next == NULL || next->n_bytes < n) {
        size_t n_bytes = n > arena->block_bytes ? n : arena->block_bytes;
        void *p;
        HX_TRY(hx_mem_alloc(sizeof(block) + n_bytes, &p));
        block *fresh = p;
        fresh->n_bytes = n_bytes;
        fresh->next = next;
        if (arena->current) arena->current->next = fresh;
        else arena->first = fresh;
        arena->held += sizeof(block) + n_bytes;
        next = fresh;
    }
    arena->current = next;
    arena->used = 0;
    return HX_OK;
}

hx_status hx_arena_push(hx_arena *arena, size_t n_bytes, void **out) {
    if (n_bytes > SIZE_MAX / 2) return HX_FAIL(HX_ERR_OVERFLOW, "%zu bytes: too large", n_bytes);
    size_t n = (n_bytes + 15) / 16 * 16;
    if (arena->current == NULL || arena->current->n_bytes - arena->used < n) HX_TRY(next_block(arena, n));
    *out = arena->current->data + arena->used;
    arena->used += n;
    memset(*out, 0, n);
    return HX_OK;
}

void hx_arena_reset(hx_arena *arena) {
    arena->current = NULL;
    arena->used = 0;
}

size_t hx_arena_bytes(const hx_arena *arena) {
    return arena->held;
}

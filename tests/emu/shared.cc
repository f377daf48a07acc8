/* A block's shared memory: static arrays one after the other with canaries between them, and the dynamic array, whose end
 * abuts a guard page. Both hold 0xFF bytes (NaN) when the block starts. */
#include "tests/emu/emu.h"

#include <sys/mman.h>

enum {
    STATIC_MOST = 48 * 1024,
    BLOCK_MOST = 227 * 1024,
    CANARY_BYTES = 64,
    CANARY = 0xc5,
    STATIC_ARENA = 2 * STATIC_MOST,
    DYNAMIC_ARENA = 228 * 1024, /* whole pages, a multiple of 128 */
    GUARD_BYTES = 4096
};

static char *arena;                          /* [STATIC_ARENA], guard, [DYNAMIC_ARENA], guard */
static std::vector<emu_shared_array *> used; /* by the block */
static size_t n_used, n_static, n_dynamic;   /* bytes: with canaries, of arrays, of the launch */

static char *dynamic_end() { return arena + STATIC_ARENA + GUARD_BYTES + DYNAMIC_ARENA; }
static char *dynamic_start() { return dynamic_end() - (n_dynamic + 127) / 128 * 128; }

static bool is_intact(const char *canary, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++)
        if (static_cast<unsigned char>(canary[i]) != CANARY) return false;
    return true;
}

static void open() {
    const size_t n_bytes = STATIC_ARENA + DYNAMIC_ARENA + 2 * GUARD_BYTES;
    void *memory = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) emu_fail("no memory for shared memory");
    arena = static_cast<char *>(memory);
    if (mprotect(arena + STATIC_ARENA, GUARD_BYTES, PROT_NONE) != 0 || mprotect(dynamic_end(), GUARD_BYTES, PROT_NONE) != 0)
        emu_fail("no guard pages for shared memory");
}

void emu_shared_begin(size_t dynamic_bytes) {
    if (arena == nullptr) open();
    used.clear();
    n_used = CANARY_BYTES;
    n_static = 0;
    n_dynamic = dynamic_bytes;
    memset(arena, CANARY, CANARY_BYTES);
    memset(dynamic_start() - CANARY_BYTES, CANARY, CANARY_BYTES);
    memset(dynamic_start(), 0xff, n_dynamic);
    memset(dynamic_start() + n_dynamic, CANARY, (size_t)(dynamic_end() - dynamic_start()) - n_dynamic);
}

void emu_shared_end() {
    const char *end = dynamic_start() + n_dynamic;
    if (!is_intact(dynamic_start() - CANARY_BYTES, CANARY_BYTES))
        emu_fail("out of bounds: bytes before the dynamic shared memory were written");
    if (!is_intact(end, (size_t)(dynamic_end() - end)))
        emu_fail("out of bounds: bytes after the %zu of dynamic shared memory were written", n_dynamic);
    for (const emu_shared_array *array : used) {
        const char *at = static_cast<const char *>(array->at);
        if (!is_intact(at - CANARY_BYTES, CANARY_BYTES) || !is_intact(at + array->n_bytes, CANARY_BYTES))
            emu_fail("out of bounds: bytes around the shared array %s of %zu bytes were written", array->name, array->n_bytes);
    }
}

void *emu_shared(emu_shared_array *array) {
    if (array->block == emu_block_number()) return array->at;
    const size_t start = (n_used + array->align - 1) / array->align * array->align;
    n_static += array->n_bytes;
    if (n_static > STATIC_MOST)
        emu_fail("%zu bytes of static shared memory with %s, expected at most %d", n_static, array->name, STATIC_MOST);
    /* without opting in, 48 KiB are the limit of both together */
    const size_t opted = emu_opted(emu_running()->address), most = opted > 0 ? opted : STATIC_MOST - n_static;
    if (n_dynamic > most || n_static + opted > BLOCK_MOST)
        emu_fail("%zu + %zu bytes of shared memory, expected at most %zu dynamic ones and %d in all", n_static, n_dynamic, most, BLOCK_MOST);
    array->block = emu_block_number();
    array->at = arena + start;
    memset(arena + n_used, CANARY, start - n_used);
    memset(array->at, 0xff, array->n_bytes);
    memset(arena + start + array->n_bytes, CANARY, CANARY_BYTES);
    n_used = start + array->n_bytes + CANARY_BYTES;
    used.push_back(array);
    if (n_used > STATIC_ARENA - 4096) emu_fail("%zu shared arrays are more than the emulator holds", used.size());
    return array->at;
}

void *emu_dynamic_shared() { return dynamic_start(); }

void emu_shared_check(emu_site at, const char *what, const void *p, size_t n_bytes) {
    const char *first = static_cast<const char *>(p), *end = first + n_bytes;
    if (first >= dynamic_start() && end <= dynamic_start() + n_dynamic) return;
    for (const emu_shared_array *array : used) {
        const char *start = static_cast<const char *>(array->at);
        if (first >= start && end <= start + array->n_bytes) return;
    }
    emu_fail("out of bounds: %s %s:%d with address %p, which is not in the block's shared memory", what, emu_path(at.file),
             at.line, p);
}

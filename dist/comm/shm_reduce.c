/* Sums, maxima and minima over ranks, block by block in the cache.
 *
 * A block of all sources is reduced by recursion over the tree of shm.h. A leaf is the source itself; an inner node lies in
 * a temporary block. The root is written straight to its place, and to the first of the copies at the same time: with two
 * ranks that is all there is to do, one pass over memory.
 */
#include <string.h>

#include "dist/comm/shm.h"

#define BLOCK_BYTES 4096 /* of a source: two operands and a level's temporaries stay in the first-level cache */
#define MAX_LEVELS  8    /* HX_SHM_MAX_RANKS = 2^8 */

/* Wide vectors where the CPU has them, about 1.3 times as fast in the cache. Chosen while the program is loaded, when a sanitizer is not
 * yet ready, by a means of the GNU C library. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/* out = copy = a op b; copy may be out. */
typedef void (*combine_fn)(void *out, void *copy, const void *a, const void *b, int64_t n);

/* The targets may be a or b: element i depends on element i alone, which the compiler cannot know. clang has no such word that it
 * does not complain of where it cannot follow it, and finds out at run time instead. */
#ifdef __clang__
#define INDEPENDENT
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define COMBINE(name, type, expression)                                                                      \
    WIDE static void name(void *out, void *copy, const void *a, const void *b, int64_t n) {                  \
        type *o = out, *c = copy;                                                                            \
        const type *p = a, *q = b;                                                                           \
        INDEPENDENT for (int64_t i = 0; i < n; i++) {                                                        \
            type x = p[i], y = q[i], z = (type)(expression);                                                 \
            o[i] = z;                                                                                        \
            c[i] = z;                                                                                        \
        }                                                                                                    \
    }

/* Integers wrap around, as they do in MPI: unsigned, since signed overflow is undefined. */
#define COMBINE_REAL(suffix, type, sum_type)                                                                 \
    COMBINE(sum_##suffix, sum_type, x + y)                                                                   \
    COMBINE(max_##suffix, type, x > y ? x : y)                                                               \
    COMBINE(min_##suffix, type, x < y ? x : y)

COMBINE_REAL(f32, float, float)
COMBINE_REAL(f64, double, double)
COMBINE_REAL(i8, int8_t, uint8_t)
COMBINE_REAL(u8, uint8_t, uint8_t)
COMBINE_REAL(i32, int32_t, uint32_t)
COMBINE_REAL(i64, int64_t, uint64_t)

#define ROW(suffix) {[HX_SUM] = sum_##suffix, [HX_MAX] = max_##suffix, [HX_MIN] = min_##suffix}
static const combine_fn table[HX_DTYPE_COUNT][HX_MIN + 1] = {
    [HX_F32] = ROW(f32), [HX_F64] = ROW(f64), [HX_I8] = ROW(i8),      [HX_U8] = ROW(u8),
    [HX_I32] = ROW(i32), [HX_I64] = ROW(i64), [HX_C64] = {sum_f32}, [HX_C128] = {sum_f64},
};

typedef struct tree {
    const char *const *sources;
    combine_fn combine;
    size_t at; /* bytes into the sources */
    int64_t n; /* numbers of a block: two to a complex element */
    char (*scratch)[2][BLOCK_BYTES]; /* [MAX_LEVELS] for the two parts of a node */
} tree;

/* The reduction of the sources [lo, lo + n): where it lies. A single source stays where it is.
 * @param out, copy  for any other; they may be sources, since they are written last
 * @param level  2^level >= n */
static const char *reduce_node(const tree *t, int lo, int n, char *out, char *copy, int level) {
    if (n == 1) return t->sources[lo] + t->at;
    char *temporary[2] = {t->scratch[level - 1][0], t->scratch[level - 1][1]};
    int left = 1;
    while (2 * left < n) left *= 2;
    const char *a = reduce_node(t, lo, left, temporary[0], temporary[0], level - 1);
    const char *b = reduce_node(t, lo + left, n - left, temporary[1], temporary[1], level - 1);
    t->combine(out, copy, a, b, t->n);
    return out;
}

void hx__shm_reduce(const char *const *sources, int n_sources, char *out, char *const *copies, int n_copies, int64_t count,
                    hx_dtype dtype, hx_reduce reduce) {
    _Alignas(64) char scratch[MAX_LEVELS][2][BLOCK_BYTES];
    size_t item = hx_dtype_bytes(dtype) / (hx_dtype_is_complex(dtype) ? 2 : 1), total = (size_t)count * hx_dtype_bytes(dtype);
    tree t = {.sources = sources, .combine = table[dtype][reduce], .scratch = scratch};
    for (t.at = 0; t.at < total; t.at += BLOCK_BYTES) {
        size_t n_bytes = total - t.at < BLOCK_BYTES ? total - t.at : BLOCK_BYTES;
        char *target = out + t.at;
        t.n = (int64_t)(n_bytes / item);
        (void)reduce_node(&t, 0, n_sources, target, n_copies > 0 ? copies[0] + t.at : target, MAX_LEVELS);
        for (int i = 1; i < n_copies; i++) memcpy(copies[i] + t.at, target, n_bytes);
    }
}

#include "core/base/mem.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define HUGE_PAGE   ((size_t)2 << 20)
#define HUGE_FROM   ((size_t)4 << 20)

hx_status hx_mem_mul(size_t a, size_t b, size_t *out) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product) || product > SIZE_MAX / 2)
        return HX_FAIL(HX_ERR_OVERFLOW, "%zu x %zu bytes: expected at most %zu", a, b, SIZE_MAX / 2);
    *out = product;
    return HX_OK;
}

hx_status hx_count_mul(int64_t a, int64_t b, int64_t *out) {
    int64_t product;
    if (a < 0 || b < 0)
        return HX_FAIL(HX_ERR_ARG, "%lld x %lld: expected counts >= 0", (long long)a, (long long)b);
    if (__builtin_mul_overflow(a, b, &product))
        return HX_FAIL(HX_ERR_OVERFLOW, "%lld x %lld elements: expected at most %lld", (long long)a, (long long)b,
                       (long long)INT64_MAX);
    *out = product;
    return HX_OK;
}

hx_status hx_count_to_int(int64_t n, int *out) {
    if (n < 0 || n > INT_MAX)
        return HX_FAIL(HX_ERR_OVERFLOW, "count %lld: expected 0 to %d", (long long)n, INT_MAX);
    *out = (int)n;
    return HX_OK;
}

hx_status hx_mem_alloc(size_t n_bytes, void **out) {
    size_t align = n_bytes >= HUGE_FROM ? HUGE_PAGE : HX_MEM_ALIGN;
    if (n_bytes > SIZE_MAX / 2) return HX_FAIL(HX_ERR_OVERFLOW, "%zu bytes: expected at most %zu", n_bytes, SIZE_MAX / 2);
    size_t rounded = (n_bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, rounded ? rounded : align);
    if (p == NULL)
        return HX_FAIL(HX_ERR_MEMORY, "%zu bytes: the system has no more memory for this process (%zu bytes resident)",
                       n_bytes, hx_mem_resident_bytes());
#ifdef MADV_HUGEPAGE
    /* Touching memory in 4 KiB pages costs more than computing on it; refusal only loses that gain. */
    if (n_bytes >= HUGE_FROM) (void)madvise(p, rounded, MADV_HUGEPAGE);
#endif
    *out = p;
    return HX_OK;
}

hx_status hx_mem_alloc_array(int64_t n_items, size_t item_bytes, void **out) {
    size_t n_bytes;
    void *p;
    if (n_items < 0) return HX_FAIL(HX_ERR_ARG, "%lld items: expected >= 0", (long long)n_items);
    HX_TRY(hx_mem_mul((size_t)n_items, item_bytes, &n_bytes));
    HX_TRY(hx_mem_alloc(n_bytes, &p));
    memset(p, 0, n_bytes);
    *out = p;
    return HX_OK;
}

hx_status hx_mem_grow(void **items, int64_t *capacity, int64_t n, size_t item_bytes) {
    if (n <= *capacity) return HX_OK;
    int64_t wanted = n > *capacity * 2 ? n : *capacity * 2;
    if (wanted < 8) wanted = 8;
    void *grown;
    HX_TRY(hx_mem_alloc_array(wanted, item_bytes, &grown));
    if (*capacity > 0) memcpy(grown, *items, (size_t)*capacity * item_bytes);
    hx_mem_free(items);
    *items = grown;
    *capacity = wanted;
    return HX_OK;
}

void hx_mem_free(void **p) {
    free(*p);
    *p = NULL;
}

hx_status hx_mem_strdup(const char *text, char **out) {
    size_t n = strlen(text) + 1;
    void *copy;
    HX_TRY(hx_mem_alloc(n, &copy));
    memcpy(copy, text, n);
    *out = copy;
    return HX_OK;
}

size_t hx_mem_resident_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL) return 0;
    unsigned long total, resident;
    int n = fscanf(f, "%lu %lu", &total, &resident);
    fclose(f);
    long page = sysconf(_SC_PAGESIZE);
    return n == 2 && page > 0 ? resident * (size_t)page : 0;
}

size_t hx_mem_peak_bytes(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
    return (size_t)usage.ru_maxrss * 1024; /* Linux counts KiB */
}

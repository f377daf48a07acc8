/* Memory whose sizes are checked and whose blocks are aligned for SIMD and huge pages.
 *
 *     float *x;
 *     HX_TRY(hx_mem_alloc_array(n, sizeof *x, (void **)&x));
 *     hx_mem_free((void **)&x);
 */
#ifndef HX_CORE_BASE_MEM_H
#define HX_CORE_BASE_MEM_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_MEM_ALIGN 64 /* bytes: one cache line, one AVX-512 vector */

/** a*b for sizes. @return HX_ERR_OVERFLOW if it exceeds SIZE_MAX/2 */
hx_status hx_mem_mul(size_t a, size_t b, size_t *out);
/** a*b for element counts, both >= 0. @return HX_ERR_OVERFLOW if it exceeds INT64_MAX */
hx_status hx_count_mul(int64_t a, int64_t b, int64_t *out);
/** Narrow a count to MPI's or BLAS's int. @return HX_ERR_OVERFLOW if it does not fit */
hx_status hx_count_to_int(int64_t n, int *out);

/** n_bytes of uninitialised memory, aligned to HX_MEM_ALIGN (2 MiB and advised for huge pages from 4 MiB on).
 *  0 bytes give a valid pointer. Free with hx_mem_free. @return HX_ERR_MEMORY tells the size asked for */
hx_status hx_mem_alloc(size_t n_bytes, void **out);
/** n zeroed items of `item_bytes`. */
hx_status hx_mem_alloc_array(int64_t n_items, size_t item_bytes, void **out);
/** Grow *items so that it holds at least n items; contents are kept. *capacity counts items. */
hx_status hx_mem_grow(void **items, int64_t *capacity, int64_t n, size_t item_bytes);
/** Free and null. Accepts a pointer to NULL. */
void hx_mem_free(void **p);
/** A copy of a string, freed with hx_mem_free. */
hx_status hx_mem_strdup(const char *text, char **out);

/** Bytes this process holds in physical memory now / held at most; 0 where the system does not tell. */
size_t hx_mem_resident_bytes(void);
size_t hx_mem_peak_bytes(void);

#ifdef __cplusplus
}
#endif
#endif

/* A file whose parts are read before they are asked for: threads read blocks into a small ring while the caller copies and sums what
 * is there. Bytes that only this process wants come from the disk straight into the ring (O_DIRECT): the processor does not copy
 * them a second time, and what the system caches of other files stays. Shared bytes take the way through the system's cache, so that
 * the ranks of a host together read them from the disk once.
 *
 *     hx__span spans[] = {{offset, length, .is_shared = false}, ...};
 *     HX_TRY(hx__ahead_open(path, spans, n, &ahead));
 *     HX_TRY(hx__ahead_get(ahead, offset, n_bytes, &data, &n_there));    // again until all bytes have been seen
 *     hx__ahead_close(&ahead);
 */
#ifndef HX_IO_AHEAD_H
#define HX_IO_AHEAD_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx__ahead hx__ahead;

typedef struct hx__span {
    int64_t begin, length; /* bytes */
    bool is_shared;        /* other processes of this host want it too */
} hx__span;

/** Reading begins. Takes HX__AHEAD_BYTES of memory. @param spans  [n] in the order in which their bytes will be asked for; copied
 *  @return HX_ERR_IO if the file cannot be opened, HX_ERR_MEMORY */
hx_status hx__ahead_open(const char *path, const hx__span *spans, int64_t n, hx__ahead **out);
#define HX__AHEAD_BYTES ((int64_t)16 << 20)

/** Bytes from `offset` on: at least 1, at most n. Offsets come in the order of the spans, and ascend within each.
 *  @param[out] data  valid until the next call  @return HX_ERR_IO, HX_ERR_FORMAT if the file ends before */
hx_status hx__ahead_get(hx__ahead *ahead, int64_t offset, int64_t n, const char **data, int64_t *n_there);
void hx__ahead_close(hx__ahead **ahead);

#ifdef __cplusplus
}
#endif
#endif

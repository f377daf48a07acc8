/* Memory that other processes of this host can map, and the way to map theirs.
 *
 * A region is an anonymous file (memfd): it has no name, so that nothing of it outlives the processes that use it,
 * however they end. Another process opens it through /proc/PID/fd, which the system allows to processes of the same user.
 *
 *     hx_shared_share(true);                             // somebody will look: from now on blocks are shared
 *     HX_TRY(hx_shared_alloc(n_bytes, &p));
 *     if (hx_shared_find(p, n_bytes, &place)) ...        // tell place to the peer, which then calls
 *     HX_TRY(hx_shared_map(pid, &place, &base));         // p is at base + place.offset there
 */
#ifndef HX_CORE_BASE_SHARED_H
#define HX_CORE_BASE_SHARED_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_SHARED_MIN ((size_t)32 << 10) /* smaller blocks stay private: they are copied faster than found */

/* A block as another process finds it. */
typedef struct hx_shared_place {
    uint64_t region; /* number of the region in its process; none is used twice */
    uint64_t inode;  /* proves that the file found is the one meant */
    size_t region_bytes, offset;
    int fd; /* in the owner's process */
} hx_shared_place;

/** Ask for shared blocks, or give that up; counted. Without anybody who asks, blocks are private. */
void hx_shared_share(bool wanted);
/** n_bytes, uninitialised, aligned as by hx_mem_alloc; shared if somebody asked, they are HX_SHARED_MIN or more and the system
 *  allows it (files, file size), else private. Thread-safe. @return HX_ERR_MEMORY */
hx_status hx_shared_alloc(size_t n_bytes, void **out);
/** Free memory of hx_shared_alloc; its pages are given back even while peers still map them. Accepts NULL. */
void hx_shared_free(void *p);
/** Where [p, p + n_bytes) lies, if that is inside one shared block. Thread-safe. */
bool hx_shared_find(const void *p, size_t n_bytes, hx_shared_place *out);
/** Regions freed so far: peers drop their mappings of this process when it changes. */
uint64_t hx_shared_epoch(void);

/** A region alone, unmapped and in no table; close place->fd once all who need it have mapped it. */
hx_status hx_shared_create(size_t n_bytes, hx_shared_place *out);
/** Map the region of a place of process `pid`, whole. Unmap with munmap(base, region_bytes).
 *  @return HX_ERR_COMM if the system does not let this process, or the file is another */
hx_status hx_shared_map(int pid, const hx_shared_place *place, void **base);

#ifdef __cplusplus
}
#endif
#endif

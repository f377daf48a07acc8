/* Shared blocks: found where they are, mapped by another (here: the process itself, by its own number), private when they
 * cannot be shared, and gone when freed. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backends/backends.h"
#include "core/base/shared.h"
#include "core/tensor/backend.h"
#include "tests/support/expect.h"

#define BYTES (3 * HX_SHARED_MIN)

static bool is_shared(size_t n_bytes) {
    void *p;
    hx_shared_place place;
    OK(hx_shared_alloc(n_bytes, &p));
    memset(p, 1, n_bytes);
    bool found = hx_shared_find(p, n_bytes, &place);
    hx_shared_free(p);
    return found;
}

Test(shared, blocks_are_shared_only_while_somebody_asks) {
    cr_expect_not(is_shared(BYTES));
    hx_shared_share(true);
    cr_expect(is_shared(BYTES));
    cr_expect_not(is_shared(HX_SHARED_MIN - 1));
    hx_shared_share(false);
    cr_expect_not(is_shared(BYTES));
    hx_shared_free(NULL);
}

Test(shared, another_mapping_sees_the_same_bytes) {
    hx_shared_place place;
    void *p, *base;
    hx_shared_share(true);
    OK(hx_shared_alloc(BYTES, &p));
    char *middle = (char *)p + 1000;
    cr_assert(hx_shared_find(middle, BYTES - 1000, &place));
    cr_expect_eq(place.offset, 1000);
    cr_expect_not(hx_shared_find(middle, BYTES, &place), "a range that ends behind the block is not inside it");
    cr_expect_not(hx_shared_find(&place, 1, &place));
    OK(hx_shared_map((int)getpid(), &place, &base));
    cr_expect_neq(base, p);
    strcpy(middle, "written by one");
    cr_expect_str_eq((char *)base + place.offset, "written by one");
    munmap(base, place.region_bytes);
    hx_shared_free(p);
}

Test(shared, a_block_that_is_gone_is_not_mapped) {
    hx_shared_place place;
    void *p, *base;
    hx_shared_share(true);
    OK(hx_shared_alloc(BYTES, &p));
    cr_assert(hx_shared_find(p, BYTES, &place));
    uint64_t before = hx_shared_epoch();
    hx_shared_free(p);
    cr_expect_eq(hx_shared_epoch(), before + 1);
    cr_expect_not(hx_shared_find(p, 1, &place));
    cr_expect_eq(hx_shared_map((int)getpid(), &place, &base), HX_ERR_COMM);
    OK(hx_shared_alloc(BYTES, &p)); /* likely the same descriptor, and another file */
    cr_expect_eq(hx_shared_map((int)getpid(), &place, &base), HX_ERR_COMM, "the place of a freed block must not lead to another");
    hx_shared_free(p);
}

Test(shared, a_freed_block_gives_its_pages_back_although_it_is_mapped) {
    hx_shared_place place;
    void *p, *base;
    hx_shared_share(true);
    OK(hx_shared_alloc(BYTES, &p));
    memset(p, 7, BYTES);
    cr_assert(hx_shared_find(p, BYTES, &place));
    OK(hx_shared_map((int)getpid(), &place, &base));
    hx_shared_free(p);
    cr_expect_eq(((char *)base)[BYTES / 2], 0);
    munmap(base, place.region_bytes);
}

Test(shared, limits_of_the_system_make_blocks_private) {
    struct rlimit files, size;
    void *blocks[64];
    hx_shared_place place;
    int n_shared = 0;
    hx_shared_share(true);
    getrlimit(RLIMIT_FSIZE, &size);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = BYTES - 1, .rlim_max = size.rlim_max});
    cr_expect_not(is_shared(BYTES), "a file larger than allowed would end the process by a signal");
    setrlimit(RLIMIT_FSIZE, &size);
    getrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 40, .rlim_max = files.rlim_max});
    for (int i = 0; i < 64; i++) {
        OK(hx_shared_alloc(HX_SHARED_MIN, &blocks[i]));
        n_shared += hx_shared_find(blocks[i], HX_SHARED_MIN, &place);
    }
    cr_expect_eq(n_shared, 10, "%d files of 40 went to shared blocks, expected a quarter", n_shared);
    for (int i = 0; i < 64; i++) hx_shared_free(blocks[i]);
    setrlimit(RLIMIT_NOFILE, &files);
}

Test(shared, memory_for_collectives_of_host_devices_is_shared) {
    hx_device *device;
    hx_shared_place place;
    void *p, *q;
    hx_shared_share(true);
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &device));
    OK(hx_device_alloc(device, HX_POOL_COMM, BYTES, &p));
    OK(hx_device_alloc(device, HX_POOL_GENERAL, BYTES, &q));
    cr_expect(hx_shared_find(p, BYTES, &place));
    cr_expect_not(hx_shared_find(q, BYTES, &place));
    hx_device_free(device, HX_POOL_COMM, p, BYTES);
    hx_device_free(device, HX_POOL_GENERAL, q, BYTES);
    hx_device_close(&device);
    cr_expect_not(hx_shared_find(p, BYTES, &place));
}

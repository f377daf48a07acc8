/* The seal: a user block in front of the HDF5 data (HDF5's own feature; its tools skip it). HDF5 trusts the
 * metadata it parses, so a damaged file could crash the process that opens it. The seal is therefore checked
 * with plain reads before HDF5 sees the file:
 *
 *   bytes  0..15  magic             16..23 format version      24..31 length of the file
 *         32..39  n ranges          40..47 XXH3-64 of all bytes behind this block outside the ranges
 *         48..55  bytes of block    56..63 XXH3-64 of this block with this field zero
 *         64..    n times {offset, length}: where the elements of the tensors lie, ascending
 *
 * All numbers are little-endian u64. The seal is written last: a file without it was never finished. It covers
 * what HDF5 parses; elements are covered by the checksums of their tensors, which can name what is damaged. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"
#include "io/fs.h"

#define HEAD_BYTES  64
#define BLOCK_LEAST 512u
#define BLOCK_MOST  (1u << 30)
#define READ_BYTES  (1 << 20)

static const char magic[16] = "\x89Helix ckpt\r\n\x1a\n";

typedef struct head {
    char magic[16];
    uint64_t format, file_bytes, n_ranges, meta_sum, block_bytes, block_sum;
} head;

uint64_t hx__seal_bytes(int64_t n_ranges) {
    uint64_t need = HEAD_BYTES + (uint64_t)n_ranges * sizeof(hx__range), bytes = HX__CKPT_ALIGN;
    while (bytes < need) bytes *= 2;
    return bytes;
}

static void free_block(void **block) { hx_mem_free(block); }
#define AUTO_BLOCK HX_CLEANUP(free_block) void *

static hx_status open_file(const char *file, int flags, int *fd, uint64_t *n_bytes) {
    /* O_NONBLOCK: a named pipe put in the place of a file must not hang us */
    *fd = open(file, flags | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return HX_FAIL(HX_ERR_IO, "opening checkpoint %s: %s", file, strerror(errno));
    struct stat st;
    if (fstat(*fd, &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", file, strerror(errno));
    if (!S_ISREG(st.st_mode)) return HX_FAIL(HX_ERR_IO, "%s is not a regular file", file);
    *n_bytes = (uint64_t)st.st_size;
    return HX_OK;
}

static hx_status sum_span(int fd, const char *file, uint64_t from, uint64_t to, XXH3_state_t *hash, void *buffer) {
    while (from < to) {
        size_t n = to - from < READ_BYTES ? (size_t)(to - from) : READ_BYTES;
        HX_TRY(hx__fs_read(fd, file, buffer, n, (int64_t)from));
        XXH3_64bits_update(hash, buffer, n);
        from += n;
    }
    return HX_OK;
}

static void free_state(XXH3_state_t **state) { XXH3_freeState(*state); }

/* XXH3-64 of the bytes from `from` to the end, without those of the ranges, which are sorted. */
static hx_status sum_metadata(int fd, const char *file, uint64_t from, uint64_t end, const hx__range *ranges,
                              uint64_t n_ranges, uint64_t *out) {
    AUTO_BLOCK buffer = NULL;
    HX_CLEANUP(free_state) XXH3_state_t *hash = XXH3_createState();
    if (!hash) return HX_FAIL(HX_ERR_MEMORY, "no memory for a hash state");
    XXH3_64bits_reset(hash);
    HX_TRY(hx_mem_alloc(READ_BYTES, &buffer));
    for (uint64_t i = 0; i < n_ranges; i++) {
        HX_TRY(sum_span(fd, file, from, ranges[i].offset, hash, buffer));
        from = ranges[i].offset + ranges[i].length;
    }
    HX_TRY(sum_span(fd, file, from, end, hash, buffer));
    *out = XXH3_64bits_digest(hash);
    return HX_OK;
}

/* Ascending, disjoint, between the block and the end of the file. */
static bool ranges_are_sound(const hx__range *ranges, uint64_t n, uint64_t begin, uint64_t end) {
    for (uint64_t i = 0; i < n; i++) {
        if (ranges[i].offset < begin || ranges[i].offset > end || ranges[i].length > end - ranges[i].offset) return false;
        begin = ranges[i].offset + ranges[i].length;
    }
    return true;
}

static int compare_ranges(const void *a, const void *b) {
    uint64_t x = ((const hx__range *)a)->offset, y = ((const hx__range *)b)->offset;
    return (x > y) - (x < y);
}

hx_status hx__seal_write(const char *file, uint64_t block_bytes, hx__range *ranges, int64_t n_ranges) {
    HX_AUTO_FD fd = -1;
    AUTO_BLOCK block = NULL;
    uint64_t file_bytes, n = (uint64_t)n_ranges;
    HX_TRY(open_file(file, O_RDWR, &fd, &file_bytes));
    if (n > 0) qsort(ranges, n, sizeof *ranges, compare_ranges);
    if (block_bytes < HEAD_BYTES + n * sizeof *ranges || block_bytes > file_bytes ||
        !ranges_are_sound(ranges, n, block_bytes, file_bytes))
        return HX_FAIL(HX_ERR_INTERNAL, "%s: its %llu tensors do not lie within its %llu bytes", file,
                       (unsigned long long)n, (unsigned long long)file_bytes);
    head h = {.format = HX_CKPT_FORMAT, .file_bytes = file_bytes, .n_ranges = n, .block_bytes = block_bytes};
    memcpy(h.magic, magic, sizeof magic);
    HX_TRY(sum_metadata(fd, file, block_bytes, file_bytes, ranges, n, &h.meta_sum));
    HX_TRY(hx_mem_alloc_array((int64_t)block_bytes, 1, &block));
    memcpy(block, &h, sizeof h);
    if (n > 0) memcpy((char *)block + HEAD_BYTES, ranges, n * sizeof *ranges);
    h.block_sum = XXH3_64bits(block, block_bytes);
    memcpy(block, &h, sizeof h);
    HX_TRY(hx__fs_write(fd, file, block, block_bytes, 0));
    return hx__fs_sync(fd, file);
}

static hx_status head_check(const char *file, const head *h, uint64_t file_bytes) {
    if (memcmp(h->magic, magic, sizeof magic) != 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s is not a Helix checkpoint, or was never finished", file);
    if (h->format == 0 || h->format > HX_CKPT_FORMAT)
        return HX_FAIL(HX_ERR_FORMAT, "%s has format %llu: this version of Helix reads formats 1 to %d", file,
                       (unsigned long long)h->format, HX_CKPT_FORMAT);
    if (h->file_bytes != file_bytes)
        return HX_FAIL(HX_ERR_FORMAT, "%s has %llu bytes, but was written with %llu: %s", file,
                       (unsigned long long)file_bytes, (unsigned long long)h->file_bytes,
                       file_bytes < h->file_bytes ? "it was cut short" : "something was appended");
    if (h->block_bytes < BLOCK_LEAST || h->block_bytes > BLOCK_MOST || h->block_bytes > file_bytes ||
        (h->block_bytes & (h->block_bytes - 1)) || h->n_ranges > (h->block_bytes - HEAD_BYTES) / sizeof(hx__range))
        return HX_FAIL(HX_ERR_CORRUPT, "%s: its seal of %llu bytes with %llu tensors is damaged", file,
                       (unsigned long long)h->block_bytes, (unsigned long long)h->n_ranges);
    return HX_OK;
}

hx_status hx__seal_check(const char *file, bool deep, int *format) {
    HX_AUTO_FD fd = -1;
    AUTO_BLOCK block = NULL;
    uint64_t file_bytes, sum;
    head h;
    static_assert(sizeof h == HEAD_BYTES, "the head has no padding");
    HX_TRY(open_file(file, O_RDONLY, &fd, &file_bytes));
    if (file_bytes < HEAD_BYTES)
        return HX_FAIL(HX_ERR_FORMAT, "%s has %llu bytes: too short for a Helix checkpoint", file,
                       (unsigned long long)file_bytes);
    HX_TRY(hx__fs_read(fd, file, &h, sizeof h, 0));
    HX_TRY(head_check(file, &h, file_bytes));
    HX_TRY(hx_mem_alloc(h.block_bytes, &block));
    HX_TRY(hx__fs_read(fd, file, block, h.block_bytes, 0));
    memset((char *)block + offsetof(head, block_sum), 0, sizeof h.block_sum);
    const hx__range *ranges = (const hx__range *)((const char *)block + HEAD_BYTES);
    if (XXH3_64bits(block, h.block_bytes) != h.block_sum ||
        !ranges_are_sound(ranges, h.n_ranges, h.block_bytes, file_bytes))
        return HX_FAIL(HX_ERR_CORRUPT, "%s: its seal (bytes 0 to %llu) fails its checksum", file,
                       (unsigned long long)h.block_bytes);
    if (deep) {
        HX_TRY(sum_metadata(fd, file, h.block_bytes, file_bytes, ranges, h.n_ranges, &sum));
        if (sum != h.meta_sum)
            return HX_FAIL(HX_ERR_CORRUPT, "%s: its names, shapes or attributes fail their checksum: the file is "
                           "damaged, or was changed by another program", file);
    }
    *format = (int)h.format;
    return HX_OK;
}

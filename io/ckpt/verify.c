/* Each block of a file against its checksum. What the ranks wrote is listed in /meta/blocks, which the seal covers; a list that
 * lies all the same is refused, and can cost no more than reading each element once. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"
#include "io/fs.h"

#define READ_BYTES      (1 << 20)
#define ROWS_AT_ONCE    1024
#define OLD_BLOCK_LEAST ((int64_t)1 << 20)
#define OLD_BLOCKS_MOST 4096

/* What has been compared of a tensor. */
typedef struct tally {
    int64_t n;
    uint64_t sum;
    bool is_damaged;
} tally;

typedef struct checker {
    const char *file;
    hx__wanted *wanted; /* NULL: all */
    const void *self;
    hx_ckpt_info info; /* entries by offset */
    tally *tallies;    /* [info.n_entries] */
    hid_t h5;
    int fd;
    char *hosts; /* /meta hosts, NULL: none */
    uint8_t *buffer; /* [READ_BYTES] */
    XXH3_state_t *hash;
    hx_ckpt_report report;
    int64_t capacity;
} checker;

/* ---- stored sums; format 1 has those of blocks of elements, in the attributes xxh3_block and xxh3 ---- */

/* Elements of a block of format 1: at least 2^20, and so many that a tensor has at most 4096 blocks. */
static int64_t old_block(int64_t n_elems) {
    int64_t block = OLD_BLOCK_LEAST;
    while (n_elems / block >= OLD_BLOCKS_MOST) block *= 2;
    return block;
}

static hx_status old_sums_read(hid_t dataset, const char *name, int64_t n_elems, int64_t *n, uint64_t **out) {
    int64_t block = old_block(n_elems), n_blocks = n_elems / block + (n_elems % block != 0), stored;
    uint64_t *sums;
    HX_TRY(hx__h5_attr_read(dataset, "xxh3_block", H5T_STD_I64LE, 1, &stored));
    if (stored != block)
        return HX_FAIL(HX_ERR_FORMAT, "%s: checksums over %lld elements each: expected %lld", name, (long long)stored, (long long)block);
    HX_TRY(hx_mem_alloc_array(n_blocks, sizeof *sums, (void **)&sums));
    hx_status status = hx__h5_attr_read(dataset, "xxh3", H5T_STD_U64LE, n_blocks, sums);
    if (status != HX_OK) {
        hx_mem_free((void **)&sums);
        return status;
    }
    *n = n_blocks;
    *out = sums;
    return HX_OK;
}

hx_status hx__ckpt_stored_sum(hid_t dataset, const char *name, int format, const hx_shape *shape, uint64_t *out) {
    if (format > 1) return hx__h5_attr_read(dataset, "hash", H5T_STD_U64LE, 1, out);
    int64_t n;
    uint64_t *sums, sum = 0;
    HX_TRY(old_sums_read(dataset, name, hx_shape_count(shape), &n, &sums));
    for (int64_t i = 0; i < n; i++) sum += sums[i];
    hx_mem_free((void **)&sums);
    *out = sum;
    return HX_OK;
}

/* ---- damages ---- */

/* The host of a rank by "node07 8\nnode08 8\n"; "" if it is not told. */
static void find_host(const char *hosts, int rank, char host[64]) {
    host[0] = 0;
    for (int64_t first = 0, n; rank >= 0 && hosts && *hosts; first += n) {
        char name[64];
        long long count;
        if (sscanf(hosts, "%63s %lld", name, &count) != 2 || count < 1 || count > INT32_MAX) return;
        if (rank < first + (n = count)) {
            strcpy(host, name);
            return;
        }
        hosts += strcspn(hosts, "\n");
        hosts += *hosts == '\n';
    }
}

static hx_status add_damage(checker *c, int64_t e, hx_status status, int64_t begin, int64_t end, int rank) {
    const hx_ckpt_entry *entry = &c->info.entries[e];
    c->tallies[e].is_damaged = true;
    if (c->report.n_damaged++ >= HX_CKPT_DAMAGES) return HX_OK;
    HX_TRY(hx_mem_grow((void **)&c->report.damages, &c->capacity, c->report.n_damages + 1, sizeof(hx_ckpt_damage)));
    hx_ckpt_damage *d = &c->report.damages[c->report.n_damages++];
    *d = (hx_ckpt_damage){.status = status, .begin = begin, .end = end, .rank = rank,
                          .offset = entry->offset + begin * (int64_t)hx_dtype_bytes(entry->dtype)};
    strcpy(d->name, entry->name);
    find_host(c->hosts, rank, d->host);
    return HX_OK;
}

const char *hx_ckpt_damage_text(const hx_ckpt_damage *d, char text[HX_CKPT_DAMAGE_TEXT]) {
    char writer[128] = "";
    if (d->rank >= 0) snprintf(writer, sizeof writer, ", written by rank %d%s%s", d->rank, d->host[0] ? " on " : "", d->host);
    snprintf(text, HX_CKPT_DAMAGE_TEXT, "%s: elements %lld to %lld %s (from byte %lld on%s)", d->name, (long long)d->begin,
             (long long)d->end - 1, d->status == HX_ERR_IO ? "cannot be read" : "fail their checksum", (long long)d->offset, writer);
    return text;
}

/* ---- elements ---- */

/* Elements from flat position `at` on, into both sums. */
static hx_status sum_run(checker *c, const hx_ckpt_entry *entry, int64_t at, int64_t n, uint64_t *sum) {
    size_t bytes = hx_dtype_bytes(entry->dtype);
    while (n > 0) {
        int64_t m = n < READ_BYTES / (int64_t)bytes ? n : READ_BYTES / (int64_t)bytes;
        HX_TRY(hx__fs_read(c->fd, c->file, c->buffer, (size_t)m * bytes, entry->offset + at * (int64_t)bytes));
        XXH3_64bits_update(c->hash, c->buffer, (size_t)m * bytes);
        *sum += hx__sum_elems(c->buffer, bytes, at, m);
        c->report.n_bytes += m * (int64_t)bytes;
        at += m;
        n -= m;
    }
    return HX_OK;
}

/* ---- format 2: blocks of bytes ---- */

static int compare_offset(const void *key, const void *entry) {
    uint64_t offset = *(const uint64_t *)key, other = (uint64_t)((const hx_ckpt_entry *)entry)->offset;
    return (offset > other) - (offset < other);
}

/* The tensor and box of a row. No more elements are accepted than a tensor has. */
static hx_status parse_block(checker *c, const uint64_t *row, int64_t words, int64_t number, int64_t *e, hx_box *box) {
    const hx_ckpt_entry *entry = bsearch(&row[HX__BLOCK_TENSOR], c->info.entries, (size_t)c->info.n_entries, sizeof *entry, compare_offset);
    bool is_sound = entry && words >= HX__BLOCK_HEAD + 2 * entry->shape.ndim && row[HX__BLOCK_RANK] <= INT32_MAX;
    *box = (hx_box){.local = 0};
    for (int d = 0; is_sound && d < entry->shape.ndim; d++) {
        uint64_t start = row[HX__BLOCK_HEAD + d], extent = row[HX__BLOCK_HEAD + entry->shape.ndim + d], dim = (uint64_t)entry->shape.dims[d];
        is_sound = extent >= 1 && extent <= dim && start <= dim - extent;
        box->start[d] = (int64_t)start;
        box->extent[d] = (int64_t)extent;
    }
    if (is_sound) {
        *e = entry - c->info.entries;
        int64_t n = hx_box_count(box, entry->shape.ndim);
        is_sound = n <= hx_shape_count(&entry->shape) - c->tallies[*e].n;
        c->tallies[*e].n += is_sound ? n : 0;
    }
    return is_sound ? HX_OK : HX_FAIL(HX_ERR_FORMAT, "%s: row %lld of /meta/blocks is no block of a tensor", c->file, (long long)number);
}

static hx_status check_block(checker *c, const uint64_t *row, int64_t words, int64_t number) {
    hx_box box;
    hx__runs runs;
    int64_t e = 0, at;
    HX_TRY(parse_block(c, row, words, number, &e, &box));
    const hx_ckpt_entry *entry = &c->info.entries[e];
    if (c->wanted && !c->wanted(c->self, entry->name)) return HX_OK;
    hx_status status = HX_OK;
    XXH3_64bits_reset(c->hash);
    hx__runs_begin(&entry->shape, &box, &runs);
    const int64_t begin = runs.at;
    while (status == HX_OK && hx__runs_next(&runs, &at)) status = sum_run(c, entry, at, runs.length, &c->tallies[e].sum);
    c->report.n_blocks++;
    if (status == HX_OK && XXH3_64bits_digest(c->hash) == row[HX__BLOCK_SUM]) return HX_OK;
    return add_damage(c, e, status == HX_OK ? HX_ERR_CORRUPT : HX_ERR_IO, begin, hx__box_end(&entry->shape, &box), (int)row[HX__BLOCK_RANK]);
}

/* Where the table lies. */
static hx_status find_blocks(checker *c, int64_t *offset, int64_t *n, int64_t *words) {
    static const char name[] = "/meta/blocks";
    HX_H5_QUIET();
    HX_AUTO_H5 set = H5I_INVALID_HID;
    HX_TRY(hx__h5_object_open(c->h5, name, &set));
    HX_AUTO_H5 type = H5Dget_type(set);
    HX_AUTO_H5 space = H5Dget_space(set);
    hsize_t dims[2];
    if (type < 0 || space < 0 || H5Tequal(type, H5T_STD_U64LE) <= 0 || H5Sget_simple_extent_ndims(space) != 2 ||
        H5Sget_simple_extent_dims(space, dims, NULL) != 2 || dims[1] < HX__BLOCK_HEAD || dims[1] > HX__BLOCK_HEAD + 2 * HX_MAX_DIMS ||
        dims[0] > INT32_MAX)
        return HX_FAIL(HX_ERR_FORMAT, "%s: expected u64 [blocks, %d to %d]", name, HX__BLOCK_HEAD, HX__BLOCK_HEAD + 2 * HX_MAX_DIMS);
    *n = (int64_t)dims[0];
    *words = (int64_t)dims[1];
    return hx__h5_dataset_place(set, name, dims[0] * dims[1] * sizeof(uint64_t), offset);
}

static void free_memory(void **p) { hx_mem_free(p); }

static hx_status check_blocks(checker *c) {
    int64_t offset, n, words;
    HX_CLEANUP(free_memory) void *memory = NULL;
    HX_TRY(find_blocks(c, &offset, &n, &words));
    HX_TRY(hx_mem_alloc_array(ROWS_AT_ONCE * words, sizeof(uint64_t), &memory));
    const uint64_t *rows = memory;
    for (int64_t first = 0; first < n; first += ROWS_AT_ONCE) {
        int64_t m = n - first < ROWS_AT_ONCE ? n - first : ROWS_AT_ONCE;
        HX_TRY(hx__fs_read(c->fd, c->file, memory, (size_t)(m * words) * sizeof *rows, offset + first * words * (int64_t)sizeof *rows));
        for (int64_t i = 0; i < m; i++) HX_TRY(check_block(c, rows + i * words, words, first + i));
    }
    return HX_OK;
}

/* ---- format 1: blocks of sums over elements ---- */

static hx_status read_old_sums(checker *c, const hx_ckpt_entry *entry, int64_t *n, uint64_t **sums) {
    HX_H5_QUIET();
    HX_AUTO_H5 set = H5I_INVALID_HID;
    HX_TRY(hx__h5_object_open(c->h5, entry->name, &set));
    return old_sums_read(set, entry->name, hx_shape_count(&entry->shape), n, sums);
}

static hx_status check_old(checker *c, int64_t e) {
    const hx_ckpt_entry *entry = &c->info.entries[e];
    HX_CLEANUP(free_memory) void *memory = NULL;
    int64_t n = hx_shape_count(&entry->shape), block = old_block(n), n_blocks;
    if (c->wanted && !c->wanted(c->self, entry->name)) return HX_OK;
    HX_TRY(read_old_sums(c, entry, &n_blocks, (uint64_t **)&memory));
    for (int64_t b = 0; b < n_blocks; b++) {
        int64_t begin = b * block, end = begin + block < n ? begin + block : n;
        uint64_t sum = 0;
        hx_status status = sum_run(c, entry, begin, end - begin, &sum);
        c->report.n_blocks++;
        c->tallies[e].n += end - begin;
        c->tallies[e].sum += sum;
        if (status != HX_OK || sum != ((const uint64_t *)memory)[b])
            HX_TRY(add_damage(c, e, status == HX_OK ? HX_ERR_CORRUPT : HX_ERR_IO, begin, end, -1));
    }
    return HX_OK;
}

/* ---- a file ---- */

static int compare_entries(const void *a, const void *b) {
    return compare_offset(&(uint64_t){(uint64_t)((const hx_ckpt_entry *)a)->offset}, b);
}

static hx_status checker_open(checker *c) {
    HX_TRY(hx_ckpt_inspect(c->file, false, &c->info));
    if (c->info.n_entries > 1) qsort(c->info.entries, (size_t)c->info.n_entries, sizeof *c->info.entries, compare_entries);
    HX_TRY(hx_mem_alloc_array(c->info.n_entries, sizeof *c->tallies, (void **)&c->tallies));
    HX_TRY(hx_mem_alloc(READ_BYTES, (void **)&c->buffer));
    c->hash = XXH3_createState();
    if (!c->hash) return HX_FAIL(HX_ERR_MEMORY, "no memory for a hash state");
    XXH3_64bits_reset(c->hash);
    c->fd = open(c->file, O_RDONLY | O_CLOEXEC);
    if (c->fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", c->file, strerror(errno));
    HX_H5_QUIET();
    HX_TRY(hx__h5_open_read(c->file, &c->h5));
    HX_AUTO_H5 meta = H5Gopen2(c->h5, "/meta", H5P_DEFAULT);
    return meta >= 0 && H5Aexists(meta, "hosts") > 0 ? hx__h5_text_read(meta, "hosts", &c->hosts) : HX_OK;
}

static hx_status check_file(checker *c) {
    HX_TRY(checker_open(c));
    if (c->info.format > 1) HX_TRY(check_blocks(c));
    for (int64_t e = 0; e < c->info.n_entries; e++) {
        const hx_ckpt_entry *entry = &c->info.entries[e];
        int64_t n = hx_shape_count(&entry->shape);
        if (c->info.format == 1) HX_TRY(check_old(c, e));
        if (c->wanted && !c->wanted(c->self, entry->name)) continue;
        c->report.n_tensors++;
        const tally *t = &c->tallies[e];
        if (!t->is_damaged && (t->n != n || t->sum != entry->hash)) HX_TRY(add_damage(c, e, HX_ERR_CORRUPT, 0, n, -1));
    }
    return HX_OK;
}

static void checker_close(checker *c) {
    if (c->h5 >= 0) {
        HX_H5_QUIET();
        hx__h5_file_release(&c->h5);
    }
    if (c->fd >= 0) close(c->fd);
    XXH3_freeState(c->hash);
    hx_ckpt_info_destroy(&c->info);
    void **owned[] = {(void **)&c->tallies, (void **)&c->buffer, (void **)&c->hosts};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
}

hx_status hx__ckpt_verify(const char *file, hx__wanted *wanted, const void *self, hx_ckpt_report *out) {
    checker c = {.file = file, .wanted = wanted, .self = self, .fd = -1, .h5 = H5I_INVALID_HID};
    hx_status status = check_file(&c);
    checker_close(&c);
    if (status == HX_OK)
        *out = c.report;
    else
        hx_ckpt_report_destroy(&c.report);
    return status;
}

hx_status hx_ckpt_verify(const char *file, hx_ckpt_report *out) { return hx__ckpt_verify(file, NULL, NULL, out); }

void hx_ckpt_report_destroy(hx_ckpt_report *report) {
    hx_mem_free((void **)&report->damages);
    *report = (hx_ckpt_report){0};
}

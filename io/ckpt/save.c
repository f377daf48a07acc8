/* Writing one file together.
 *
 *   1. each rank plans its pieces; their elements are counted over the ranks   (the counts prove that nothing is missing)
 *   2. rank 0 creates the file and tells where each tensor lies                (create.c)
 *   3. each rank sums and writes its pieces at their places, and fsyncs them
 *   4. sums and checksums of pieces come together; rank 0 fills them in and seals the file
 *
 * Between the steps the ranks agree, so that either all go on or all give up.
 *
 * There is no MPI-IO here, and no collective HDF5. Plain writes go at the disk's own speed; each is a call of ours that tests
 * can count, fail and kill; one thread of one rank makes all calls of HDF5, so that the known deadlocks of its collective
 * metadata, where one rank fails and the others wait for ever, cannot happen. Ranks on other hosts see the file because rank 0
 * has closed it before they open it, and they have closed it before rank 0 opens it again, which is what network file systems
 * ask for.
 *
 * Checksums are taken from memory, right before writing, and not from what can be read back: what goes wrong on the way to
 * the disk is then found by the reader. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "core/base/trace.h"
#include "io/ckpt/ckpt_impl.h"
#include "io/fs.h"

#define CHUNK_BYTES (256 << 10) /* summed and written while they are in the cache */
#define HOST_BYTES  64
#define HOSTS_MOST  60000 /* bytes: an attribute holds 64 KiB; the hosts of the ranks behind are not told */

typedef struct writer {
    hx_ckpt *ckpt;
    hx__outline outline;
    int64_t n;
    hx_layout *pieces;  /* [n] */
    uint64_t *tallies;  /* [n+1] elements of each tensor that are written here, and blocks; then: on all ranks */
    uint64_t *sums;     /* [n] over the elements that are written here; then: on all ranks */
    hx__range *ranges;  /* [n+1] where the tensors and the table of blocks lie */
    int64_t n_blocks;   /* of this rank */
    uint64_t *blocks;   /* [n_blocks, block_words] */
    uint64_t *gathered; /* rank 0: [outline.n_blocks, block_words] */
    char *host_rows;    /* rank 0: [size, HOST_BYTES] */
    char *hosts;        /* rank 0: /meta hosts */
    XXH3_state_t *hash; /* of the piece being written */
    hx__stage stage;
    int fd;
} writer;

static bool is_root(const writer *w) { return hx_comm_rank(w->ckpt->comm) == 0; }

/* ---- 1: plan ---- */

static hx_status plan_alloc(writer *w) {
    HX_TRY(hx_mem_alloc_array(w->n, sizeof *w->pieces, (void **)&w->pieces));
    HX_TRY(hx_mem_alloc_array(w->n + 1, sizeof *w->tallies, (void **)&w->tallies));
    HX_TRY(hx_mem_alloc_array(w->n, sizeof *w->sums, (void **)&w->sums));
    HX_TRY(hx_mem_alloc_array(w->n + 1, sizeof *w->ranges, (void **)&w->ranges));
    if (is_root(w)) HX_TRY(hx_mem_alloc_array(hx_comm_size(w->ckpt->comm), HOST_BYTES, (void **)&w->host_rows));
    w->hash = XXH3_createState();
    return w->hash ? HX_OK : HX_FAIL(HX_ERR_MEMORY, "no memory for a hash state");
}

static hx_status plan(writer *w) {
    int most_dims = 0;
    HX_TRY(hx__ckpt_check_items(w->outline.items));
    HX_TRY(plan_alloc(w));
    for (int64_t i = 0; i < w->n; i++) {
        const hx_state_item *item = &w->outline.items->items[i];
        HX_TRY(hx__ckpt_pieces(item, HX__CKPT_PIECE_BYTES, &w->pieces[i]));
        w->tallies[i] = (uint64_t)hx_layout_count(&w->pieces[i]);
        w->n_blocks += w->pieces[i].n_boxes;
        if (item->layout->shape.ndim > most_dims) most_dims = item->layout->shape.ndim;
    }
    w->tallies[w->n] = (uint64_t)w->n_blocks;
    w->outline.block_words = HX__BLOCK_HEAD + 2 * most_dims;
    return hx_mem_alloc_array(w->n_blocks * w->outline.block_words, sizeof *w->blocks, (void **)&w->blocks);
}

/* The sums are the same on all ranks, and so is what follows from them. */
static hx_status check_tallies(writer *w) {
    for (int64_t i = 0; i < w->n; i++) {
        const hx_state_item *item = &w->outline.items->items[i];
        int64_t count = hx_shape_count(&item->layout->shape);
        if (w->tallies[i] != (uint64_t)count)
            return HX_FAIL(HX_ERR_STATE, "%s: the ranks together hold %lld elements: expected %lld, each once", item->name,
                           (long long)w->tallies[i], (long long)count);
    }
    int n_blocks;
    HX_TRY(hx_count_to_int((int64_t)w->tallies[w->n], &n_blocks));
    w->outline.n_blocks = n_blocks;
    return HX_OK;
}

/* ---- 2: the file ---- */

/* Runs of ranks on one host: "node07 8\nnode08 8\n". */
static hx_status name_hosts(writer *w) {
    int size = hx_comm_size(w->ckpt->comm);
    size_t at = 0;
    HX_TRY(hx_mem_alloc_array(HOSTS_MOST, 1, (void **)&w->hosts));
    for (int first = 0, next; first < size; first = next) {
        const char *host = w->host_rows + (size_t)first * HOST_BYTES;
        for (next = first + 1; next < size && strcmp(host, w->host_rows + (size_t)next * HOST_BYTES) == 0;) next++;
        int n = snprintf(w->hosts + at, HOSTS_MOST - at, "%s %d\n", host, next - first);
        if (n < 0 || (size_t)n >= HOSTS_MOST - at) {
            w->hosts[at] = 0;
            break;
        }
        at += (size_t)n;
    }
    w->outline.hosts = w->hosts;
    return HX_OK;
}

static hx_status create(writer *w) {
    int64_t n_words = w->outline.n_blocks * w->outline.block_words;
    HX_TRY(name_hosts(w));
    HX_TRY(hx_mem_alloc_array(n_words, sizeof *w->gathered, (void **)&w->gathered));
    return hx__file_create(&w->outline, w->ranges);
}

/* ---- 3: elements ---- */

/* Elements from flat position `at` on, which lie together in the file. */
static hx_status write_run(writer *w, int64_t i, const uint8_t *p, int64_t at, int64_t n) {
    size_t bytes = hx_dtype_bytes(w->outline.items->items[i].dtype);
    while (n > 0) {
        int64_t m = n < CHUNK_BYTES / (int64_t)bytes ? n : CHUNK_BYTES / (int64_t)bytes;
        size_t n_bytes = (size_t)m * bytes;
        w->sums[i] += hx__sum_elems(p, bytes, at, m);
        XXH3_64bits_update(w->hash, p, n_bytes);
        HX_TRY(hx__fs_write(w->fd, w->outline.file, p, n_bytes, (int64_t)w->ranges[i].offset + at * (int64_t)bytes));
        p += n_bytes;
        at += m;
        n -= m;
    }
    return HX_OK;
}

/* The disk may begin with a piece in one run at once. Rows that others write between ours would be written twice. */
static void start_writeback(const writer *w, int64_t i, const hx_box *box, int64_t at) {
    const hx_state_item *item = &w->outline.items->items[i];
    int64_t bytes = (int64_t)hx_dtype_bytes(item->dtype), n = hx_box_count(box, item->layout->shape.ndim);
    (void)sync_file_range(w->fd, (int64_t)w->ranges[i].offset + at * bytes, n * bytes, SYNC_FILE_RANGE_WRITE); /* a hint */
}

static hx_status write_piece(writer *w, int64_t i, const hx_box *box, uint64_t *block) {
    const hx_state_item *item = &w->outline.items->items[i];
    const hx_shape *shape = &item->layout->shape;
    const void *data;
    hx__runs runs;
    int64_t at, n_runs = 0;
    HX_TRY(hx__stage_read(&w->stage, item, box->local, hx_box_count(box, shape->ndim), &data));
    XXH3_64bits_reset(w->hash);
    hx__runs_begin(shape, box, &runs);
    for (const uint8_t *p = data; hx__runs_next(&runs, &at); n_runs++) {
        HX_TRY(write_run(w, i, p, at, runs.length));
        p += (size_t)runs.length * hx_dtype_bytes(item->dtype);
    }
    if (n_runs == 1) start_writeback(w, i, box, at);
    block[HX__BLOCK_TENSOR] = w->ranges[i].offset;
    block[HX__BLOCK_RANK] = (uint64_t)hx_comm_rank(w->ckpt->comm);
    block[HX__BLOCK_SUM] = XXH3_64bits_digest(w->hash);
    for (int d = 0; d < shape->ndim; d++) {
        block[HX__BLOCK_HEAD + d] = (uint64_t)box->start[d];
        block[HX__BLOCK_HEAD + shape->ndim + d] = (uint64_t)box->extent[d];
    }
    return HX_OK;
}

/* The failure of a write, which knows bytes, with the tensor's name. */
static hx_status name_tensor(const char *name, hx_status status) {
    char message[1024];
    snprintf(message, sizeof message, "%s", hx_error_message());
    return HX_FAIL(status, "tensor %s: %s", name, message);
}

static hx_status write_all(writer *w) {
    uint64_t *block = w->blocks;
    if (w->n_blocks == 0) return HX_OK;
    w->fd = open(w->outline.file, O_WRONLY | O_CLOEXEC);
    if (w->fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", w->outline.file, strerror(errno));
    for (int64_t i = 0; i < w->n; i++)
        for (int b = 0; b < w->pieces[i].n_boxes; b++, block += w->outline.block_words) {
            hx_status status = write_piece(w, i, &w->pieces[i].boxes[b], block);
            if (status != HX_OK) return name_tensor(w->outline.items->items[i].name, status);
        }
    HX_TRY(hx__fs_sync(w->fd, w->outline.file));
    int failed = close(w->fd); /* where a network file system tells what it met */
    w->fd = -1;
    return failed ? HX_FAIL(HX_ERR_IO, "closing %s: %s", w->outline.file, strerror(errno)) : HX_OK;
}

/* ---- 4: the end ---- */

static hx_status write_file(writer *w) {
    hx_ckpt *ckpt = w->ckpt;
    char host[HOST_BYTES] = "";
    snprintf(host, sizeof host, "%s", hx_comm_host(ckpt->comm));
    HX_TRY(hx__together_agree(ckpt, plan(w)));
    HX_TRY(hx__together_equal(ckpt, "number of tensors in the checkpoint", w->n));
    HX_TRY(hx__together_equal(ckpt, "names and shapes of the tensors in the checkpoint", hx__ckpt_list_hash(w->outline.items)));
    HX_TRY(hx__together_sum(ckpt, w->tallies, w->n + 1));
    HX_TRY(check_tallies(w));
    HX_TRY(hx__together_gather(ckpt, host, 1, HOST_BYTES, w->host_rows));
    HX_TRY(hx__together_agree(ckpt, is_root(w) ? create(w) : HX_OK));
    HX_TRY(hx__together_broadcast(ckpt, w->ranges, (w->n + 1) * (int64_t)sizeof *w->ranges));
    HX_TRY(hx__together_agree(ckpt, HX_TRACED(HX_SPAN_SAVE, "write tensors", write_all(w))));
    HX_TRY(hx__together_sum(ckpt, w->sums, w->n));
    HX_TRY(hx__together_gather(ckpt, w->blocks, w->n_blocks, (size_t)w->outline.block_words * sizeof *w->blocks, w->gathered));
    return hx__together_agree(ckpt, is_root(w) ? hx__file_finish(&w->outline, w->sums, w->gathered, w->ranges) : HX_OK);
}

/* Get rid of a file that could not be written, keeping the failure that the caller reports. All ranks have closed it. */
static hx_status give_up(writer *w, hx_status status) {
    char message[2048];
    snprintf(message, sizeof message, "%s", hx_error_message());
    if (w->fd >= 0) close(w->fd);
    if (is_root(w)) (void)hx__fs_unlink(w->outline.file);
    return hx_error_adopt(status, message);
}

static void writer_free(writer *w) {
    hx__stage_close(&w->stage);
    XXH3_freeState(w->hash);
    for (int64_t i = 0; w->pieces && i < w->n; i++) hx_layout_destroy(&w->pieces[i]);
    void **owned[] = {(void **)&w->pieces, (void **)&w->tallies,  (void **)&w->sums,      (void **)&w->ranges,
                      (void **)&w->blocks, (void **)&w->gathered, (void **)&w->host_rows, (void **)&w->hosts};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
}

hx_status hx__ckpt_write(hx_ckpt *ckpt, const char *file, const hx_train_state *state, const hx_state_list *items) {
    writer w = {.ckpt = ckpt, .n = items ? items->n_items : 0, .fd = -1,
                .outline = {.ckpt = ckpt, .file = file, .state = state, .items = items}};
    hx_status status = HX_TRACED(HX_SPAN_SAVE, "write file", write_file(&w));
    if (status != HX_OK) status = give_up(&w, status);
    writer_free(&w);
    return status;
}

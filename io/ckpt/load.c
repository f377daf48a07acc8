/* Reading: rank 0 checks the seal, compares the list with the file and tells where each tensor lies; every rank reads its boxes
 * there, ahead of itself, and sums what then lies in its memory, each element once over the ranks. Sums that are not the stored
 * ones send a rank to the blocks of the file, which tell what is damaged and who wrote it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/mem.h"
#include "io/ahead.h"
#include "io/ckpt/ckpt_impl.h"

#define CHUNK_BYTES (256 << 10) /* copied and summed at once: what a core's cache holds */
#define DENSE 4 /* what lies between a box's rows is read along past the system's cache if it makes no more than so many times the box */

/* What rank 0 tells all of an item. */
typedef struct place {
    int64_t offset;
    uint64_t sum;
    bool is_there; /* and fits */
} place;

typedef struct reader {
    hx_comm *comm;
    const hx_state_list *items;
    int64_t n;
    hx_ckpt_partial *report; /* NULL: all items must fit */
    char file[HX_PATH_BYTES];
    int format;
    hx_train_state state;
    place *places;      /* [n] */
    int32_t *dealt;     /* [n] 1: each rank reads a share, and tells the others */
    hx_layout *pieces;  /* [n] what is read here, whoever wrote it */
    int64_t *tallies;   /* [n,3] elements summed here, low and high half of their sum; then: on all ranks */
    hx__ahead *ahead;
    uint64_t sum; /* of the item that is read */
    hx__stage stage;
} reader;

/* ---- what the file holds (rank 0) ---- */

static hx_status compare_item(const hx_state_item *item, hx_dtype dtype, const hx_shape *shape) {
    char wanted[HX_SHAPE_TEXT], stored[HX_SHAPE_TEXT];
    if (dtype == item->dtype && hx_shape_equal(shape, &item->layout->shape)) return HX_OK;
    return HX_FAIL(HX_ERR_MISMATCH, "%s is %s %s in the checkpoint: this model needs %s %s", item->name,
                   hx_dtype_name(dtype), hx_shape_text(shape, stored), hx_dtype_name(item->dtype),
                   hx_shape_text(&item->layout->shape, wanted));
}

static hx_status find_item(const reader *r, hid_t h5, const hx_state_item *item, place *out) {
    HX_AUTO_H5 dataset = H5I_INVALID_HID;
    hx_dtype dtype;
    hx_shape shape;
    if (item->produce) return HX_FAIL(HX_ERR_ARG, "%s is made by a function: expected memory to read it into", item->name);
    HX_TRY(hx__h5_dataset_open(h5, item->name, &dataset, &dtype, &shape));
    HX_TRY(compare_item(item, dtype, &shape));
    HX_TRY(hx__h5_dataset_place(dataset, item->name, (uint64_t)hx_shape_count(&shape) * hx_dtype_bytes(dtype), &out->offset));
    HX_TRY(hx__ckpt_stored_sum(dataset, item->name, r->format, &shape, &out->sum));
    out->is_there = true;
    return HX_OK;
}

/* @param why  the failure's message: its words stand behind its code and place */
static hx_status leave_out(hx_ckpt_partial *report, const hx_state_item *item, const char *why) {
    const char *code = strstr(why, hx_status_name(HX_ERR_MISMATCH)), *colon = code ? strstr(code, ": ") : NULL;
    int64_t capacity = report->n_left; /* grown by one each: few are left out */
    HX_TRY(hx_mem_grow((void **)&report->left, &capacity, report->n_left + 1, sizeof *report->left));
    hx_ckpt_difference *left = &report->left[report->n_left++];
    *left = (hx_ckpt_difference){.name = ""};
    snprintf(left->name, sizeof left->name, "%s", item->name);
    snprintf(left->why, sizeof left->why, "%s", colon ? colon + 2 : why);
    hx_error_clear();
    return HX_OK;
}

static hx_status look_up(reader *r) {
    HX_H5_QUIET();
    HX_CLEANUP(hx__h5_file_release) hid_t h5 = H5I_INVALID_HID;
    HX_TRY(hx__h5_open_read(r->file, &h5));
    HX_TRY(hx__ckpt_state_read(h5, &r->state));
    for (int64_t i = 0; i < r->n; i++) {
        hx_status status = find_item(r, h5, &r->items->items[i], &r->places[i]);
        if (status == HX_ERR_MISMATCH && r->report) status = leave_out(r->report, &r->items->items[i], hx_error_message());
        HX_TRY(status);
    }
    return HX_OK;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* What the file has beside the list. */
static hx_status list_unwanted(reader *r) {
    HX_CLEANUP(hx_ckpt_info_destroy) hx_ckpt_info info = {0};
    const char **names = NULL;
    HX_TRY(hx_ckpt_inspect(r->file, false, &info));
    HX_TRY(hx_mem_alloc_array(info.n_entries, sizeof *r->report->unwanted, (void **)&r->report->unwanted));
    HX_TRY(hx_mem_alloc_array(r->n, sizeof *names, (void **)&names));
    for (int64_t i = 0; i < r->n; i++) names[i] = r->items->items[i].name;
    if (r->n > 1) qsort(names, (size_t)r->n, sizeof *names, compare_names);
    for (int64_t i = 0; i < info.n_entries; i++) {
        const char *name = info.entries[i].name;
        if (!bsearch(&name, names, (size_t)r->n, sizeof *names, compare_names))
            strcpy(r->report->unwanted[r->report->n_unwanted++].name, name);
    }
    hx_mem_free((void **)&names);
    return HX_OK;
}

static hx_status find(reader *r, const char *path) {
    HX_TRY(hx_ckpt_resolve(path, r->file));
    HX_TRY(hx__seal_check(r->file, true, &r->format));
    HX_TRY(look_up(r));
    return r->report ? list_unwanted(r) : HX_OK;
}

/* ---- told to all ---- */

static hx_status tell(const reader *r, void *data, size_t n_bytes) {
    if (hx_comm_size(r->comm) == 1 || n_bytes == 0) return HX_OK;
    return hx_comm_broadcast(r->comm, data, (int64_t)n_bytes, HX_U8, 0, NULL, NULL);
}

/* What rank 0 finds is a finding of all, in the same words. */
static hx_status follow(const reader *r, hx_status status) {
    struct { int32_t status; char message[2048]; } finding = {.status = (int32_t)status};
    if (status != HX_OK) snprintf(finding.message, sizeof finding.message, "%s", hx_error_message());
    HX_TRY(tell(r, &finding, sizeof finding));
    if (finding.status == HX_OK || hx_comm_rank(r->comm) == 0) return status;
    finding.message[sizeof finding.message - 1] = 0;
    return hx_error_adopt((hx_status)finding.status, finding.message);
}

static hx_status tell_differences(const reader *r, int64_t *n, hx_ckpt_difference **list) {
    hx_status status = HX_OK;
    HX_TRY(tell(r, n, sizeof *n));
    if (hx_comm_rank(r->comm) != 0) status = hx_mem_alloc_array(*n, sizeof **list, (void **)list);
    HX_TRY(hx_comm_agree(r->comm, status));
    return tell(r, *list, (size_t)*n * sizeof **list);
}

static hx_status find_together(reader *r, const char *path) {
    HX_TRY(follow(r, hx_comm_rank(r->comm) == 0 ? find(r, path) : HX_OK));
    HX_TRY(tell(r, r->file, sizeof r->file));
    HX_TRY(tell(r, &r->state, sizeof r->state));
    HX_TRY(tell(r, r->places, (size_t)r->n * sizeof *r->places));
    if (!r->report) return HX_OK;
    HX_TRY(tell_differences(r, &r->report->n_left, &r->report->left));
    HX_TRY(tell_differences(r, &r->report->n_unwanted, &r->report->unwanted));
    r->report->n_loaded = r->n - r->report->n_left;
    return HX_OK;
}

/* ---- elements ---- */

/* What this rank holds of an item can be read in shares: all of it, in the file's order, in the host's memory. */
static bool can_deal(const reader *r, const hx_state_item *item) {
    return item->n_replicas > 1 && item->n_replicas == hx_comm_size(r->comm) && !hx__stage_is_used(item) && item->layout->n_boxes == 1 &&
           hx_layout_count(item->layout) == hx_shape_count(&item->layout->shape);
}

/* What all ranks hold so is read from the disk once, whatever their number. Layouts and devices may differ. */
static hx_status deal(reader *r) {
    for (int64_t i = 0; i < r->n; i++) r->dealt[i] = can_deal(r, &r->items->items[i]);
    if (hx_comm_size(r->comm) == 1 || r->n == 0) return HX_OK;
    return hx_comm_all_reduce(r->comm, r->dealt, r->n, HX_I32, HX_MIN, NULL, NULL);
}

static bool is_summed_at_once(const reader *r, int64_t i) { return r->items->items[i].n_replicas <= 1 || r->dealt[i]; }
static int64_t bytes_of(const hx_state_item *item, int64_t n) { return n * (int64_t)hx_dtype_bytes(item->dtype); }

/* From a box's first byte in the file to its last. The ranks that want the same bytes are those that hold copies, and those whose rows
 * lie between: few of them read faster each by itself, many only with the help of the system's cache. */
static void span_of(const reader *r, int64_t i, const hx_box *box, hx__span *out) {
    const hx_state_item *item = &r->items->items[i];
    hx__runs runs;
    hx__runs_begin(&item->layout->shape, box, &runs);
    const int64_t length = hx__box_end(&item->layout->shape, box) - runs.at;
    const bool is_dense = length <= DENSE * hx_box_count(box, item->layout->shape.ndim);
    *out = (hx__span){r->places[i].offset + bytes_of(item, runs.at), bytes_of(item, length), !is_summed_at_once(r, i) || !is_dense};
}

/* n elements from flat position `at` on, a chunk at a time: where nobody shares the item they are summed while the cache has them.
 * A chunk may end within an element. */
static hx_status read_run(reader *r, int64_t i, int64_t at, int64_t n, char *out) {
    const hx_state_item *item = &r->items->items[i];
    const int64_t begin = r->places[i].offset + bytes_of(item, at), n_bytes = bytes_of(item, n);
    int64_t summed = is_summed_at_once(r, i) ? 0 : n;
    for (int64_t k, done = 0; done < n_bytes; done += k) {
        const char *data;
        HX_TRY(hx__ahead_get(r->ahead, begin + done, n_bytes - done < CHUNK_BYTES ? n_bytes - done : CHUNK_BYTES, &data, &k));
        memcpy(out + done, data, (size_t)k);
        const int64_t whole = (done + k) / bytes_of(item, 1);
        if (whole <= summed) continue;
        r->sum += hx__sum_elems(out + bytes_of(item, summed), hx_dtype_bytes(item->dtype), at + summed, whole - summed);
        summed = whole;
    }
    return HX_OK;
}

static hx_status read_piece(reader *r, int64_t i, const hx_box *box) {
    const hx_state_item *item = &r->items->items[i];
    const hx_shape *shape = &item->layout->shape;
    int64_t at;
    void *data;
    hx__runs runs;
    HX_TRY(hx__stage_target(&r->stage, item, box->local, &data));
    hx__runs_begin(shape, box, &runs);
    for (char *p = data; hx__runs_next(&runs, &at); p += bytes_of(item, runs.length)) HX_TRY(read_run(r, i, at, runs.length, p));
    return hx__stage_write(&r->stage, item, box->local, hx_box_count(box, shape->ndim));
}

/* What lies in memory now, of this rank's share among replicas. */
static hx_status sum_share(reader *r, int64_t i) {
    const hx_state_item *item = &r->items->items[i];
    const hx_shape *shape = &item->layout->shape;
    HX_CLEANUP(hx_layout_destroy) hx_layout share = {0};
    HX_TRY(hx__ckpt_pieces(item, HX__CKPT_PIECE_BYTES, &share));
    for (int b = 0; b < share.n_boxes; b++) {
        const void *data;
        HX_TRY(hx__stage_read(&r->stage, item, share.boxes[b].local, hx_box_count(&share.boxes[b], shape->ndim), &data));
        r->sum += hx__sum_box(data, hx_dtype_bytes(item->dtype), shape, &share.boxes[b]);
    }
    r->tallies[3 * i] = hx_layout_count(&share);
    return HX_OK;
}

static hx_status read_item(reader *r, int64_t i) {
    if (!r->places[i].is_there) return HX_OK;
    r->sum = 0;
    r->tallies[3 * i] = hx_layout_count(&r->pieces[i]);
    for (int b = 0; b < r->pieces[i].n_boxes; b++) HX_TRY(read_piece(r, i, &r->pieces[i].boxes[b]));
    if (!is_summed_at_once(r, i)) HX_TRY(sum_share(r, i));
    r->tallies[3 * i + 1] = (int64_t)(r->sum & UINT32_MAX); /* halves: sums of signed numbers may not wrap */
    r->tallies[3 * i + 2] = (int64_t)(r->sum >> 32);
    return HX_OK;
}

static hx_status cut_items(reader *r, int64_t *n_pieces) {
    *n_pieces = 0;
    for (int64_t i = 0; i < r->n; i++) {
        hx_state_item item = r->items->items[i];
        if (r->dealt[i])
            item.replica = hx_comm_rank(r->comm); /* copies may be counted otherwise than ranks */
        else
            item.n_replicas = 1;
        if (r->places[i].is_there) HX_TRY(hx__ckpt_pieces(&item, HX__CKPT_PIECE_BYTES, &r->pieces[i]));
        *n_pieces += r->pieces[i].n_boxes;
    }
    return HX_OK;
}

static hx_status open_file(reader *r) {
    hx__span *spans;
    int64_t n_pieces, n = 0;
    HX_TRY(cut_items(r, &n_pieces));
    HX_TRY(hx_mem_alloc_array(n_pieces, sizeof *spans, (void **)&spans));
    for (int64_t i = 0; i < r->n; i++)
        for (int b = 0; b < r->pieces[i].n_boxes; b++) span_of(r, i, &r->pieces[i].boxes[b], &spans[n++]);
    hx_status status = hx__ahead_open(r->file, spans, n, &r->ahead);
    hx_mem_free((void **)&spans);
    return status;
}

static hx_status read_items(reader *r) {
    HX_TRY(open_file(r));
    for (int64_t i = 0; i < r->n; i++) HX_TRY(read_item(r, i));
    return HX_OK;
}

/* Each rank's share to the others. */
static hx_status tell_item(const reader *r, const hx_state_item *item) {
    const int64_t n = hx_layout_count(item->layout), size = hx_comm_size(r->comm);
    char *data = (char *)item->data + bytes_of(item, item->layout->boxes[0].local);
    for (int root = 0; root < size; root++) {
        const int64_t begin = hx__ckpt_share_begin(n, root, (int)size), end = hx__ckpt_share_begin(n, root + 1, (int)size);
        if (begin < end) HX_TRY(hx_comm_broadcast(r->comm, data + bytes_of(item, begin), end - begin, item->dtype, root, NULL, NULL));
    }
    return HX_OK;
}

static hx_status tell_items(const reader *r) {
    for (int64_t i = 0; i < r->n; i++)
        if (r->places[i].is_there && r->dealt[i]) HX_TRY(tell_item(r, &r->items->items[i]));
    return HX_OK;
}

/* ---- comparing ---- */

typedef enum finding { MATCHES, DIFFERS, UNKNOWN } finding;

/* UNKNOWN: the ranks do not hold each element once, so that the sums say nothing. */
static finding compare_sum(const reader *r, int64_t i) {
    if (!r->places[i].is_there) return MATCHES;
    if (r->tallies[3 * i] != hx_shape_count(&r->items->items[i].layout->shape)) return UNKNOWN;
    uint64_t sum = (uint64_t)r->tallies[3 * i + 1] + ((uint64_t)r->tallies[3 * i + 2] << 32);
    return sum == r->places[i].sum ? MATCHES : DIFFERS;
}

/* Tensors whose blocks in the file this rank looks at: they are dealt out. */
static bool is_mine(const reader *r, int64_t i) {
    return i % hx_comm_size(r->comm) == hx_comm_rank(r->comm) && compare_sum(r, i) != MATCHES;
}

static bool is_asked(const void *self, const char *name) {
    const reader *r = self;
    for (int64_t i = 0; i < r->n; i++)
        if (strcmp(r->items->items[i].name, name) == 0) return is_mine(r, i);
    return false;
}

static hx_status judge(const reader *r, const hx_ckpt_report *report) {
    char text[HX_CKPT_DAMAGE_TEXT];
    if (report->n_damaged > 0)
        return HX_FAIL(HX_ERR_CORRUPT, "%s in %s; damaged blocks: %lld", hx_ckpt_damage_text(&report->damages[0], text), r->file,
                       (long long)report->n_damaged);
    for (int64_t i = 0; i < r->n; i++)
        if (is_mine(r, i) && compare_sum(r, i) == DIFFERS)
            return HX_FAIL(HX_ERR_CORRUPT, "%s: what was read fails its checksum, but its blocks in %s do not: memory, or the way to "
                           "it, is at fault", r->items->items[i].name, r->file);
    return HX_OK;
}

static hx_status compare_sums(const reader *r) {
    HX_CLEANUP(hx_ckpt_report_destroy) hx_ckpt_report report = {0};
    bool is_any = false;
    for (int64_t i = 0; i < r->n; i++) is_any |= is_mine(r, i);
    if (!is_any) return HX_OK;
    HX_TRY(hx__ckpt_verify(r->file, is_asked, r, &report));
    return judge(r, &report);
}

/* ---- together ---- */

static hx_status reader_alloc(reader *r) {
    HX_TRY(hx__ckpt_check_items(r->items));
    r->n = r->items->n_items;
    HX_TRY(hx_mem_alloc_array(r->n, sizeof *r->places, (void **)&r->places));
    HX_TRY(hx_mem_alloc_array(r->n, sizeof *r->dealt, (void **)&r->dealt));
    HX_TRY(hx_mem_alloc_array(r->n, sizeof *r->pieces, (void **)&r->pieces));
    return hx_mem_alloc_array(3 * r->n, sizeof *r->tallies, (void **)&r->tallies);
}

static hx_status load(reader *r, const char *path) {
    HX_TRY(hx_comm_agree(r->comm, reader_alloc(r)));
    HX_TRY(hx_comm_agree_equal(r->comm, "names and shapes of the tensors to be loaded", hx__ckpt_list_hash(r->items)));
    HX_TRY(find_together(r, path));
    HX_TRY(deal(r));
    HX_TRY(hx_comm_agree(r->comm, read_items(r)));
    HX_TRY(tell_items(r));
    if (r->n > 0) HX_TRY(hx_comm_all_reduce(r->comm, r->tallies, 3 * r->n, HX_I64, HX_SUM, NULL, NULL));
    return hx_comm_agree(r->comm, compare_sums(r));
}

static hx_status load_and_close(reader *r, const char *path, hx_train_state *state) {
    hx_status status = load(r, path);
    hx__ahead_close(&r->ahead);
    hx__stage_close(&r->stage);
    for (int64_t i = 0; r->pieces && i < r->n; i++) hx_layout_destroy(&r->pieces[i]);
    void **owned[] = {(void **)&r->places, (void **)&r->dealt, (void **)&r->pieces, (void **)&r->tallies};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) hx_mem_free(owned[i]);
    if (status == HX_OK && state) *state = r->state;
    return status;
}

hx_status hx_ckpt_load(hx_comm *comm, const char *path, const hx_state_list *items, hx_train_state *state) {
    reader r = {.comm = comm, .items = items};
    return load_and_close(&r, path, state);
}

hx_status hx_ckpt_load_partial(hx_comm *comm, const char *path, const hx_state_list *items, hx_train_state *state, hx_ckpt_partial *report) {
    HX_CLEANUP(hx_ckpt_partial_destroy) hx_ckpt_partial found = {0};
    reader r = {.comm = comm, .items = items, .report = &found};
    HX_TRY(load_and_close(&r, path, state));
    *report = found;
    found = (hx_ckpt_partial){0}; /* handed on */
    return HX_OK;
}

void hx_ckpt_partial_destroy(hx_ckpt_partial *report) {
    hx_mem_free((void **)&report->left);
    hx_mem_free((void **)&report->unwanted);
    *report = (hx_ckpt_partial){0};
}

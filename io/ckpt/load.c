/* Reading: rank 0 checks the seal, then every rank opens the file for itself, compares its list of tensors with
 * the file, reads its boxes, and verifies its share of all checksums, so that each block is verified once. */
#include <string.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

typedef struct reader {
    hx_comm *comm;
    const hx_state_list *items;
    hid_t h5;
    hid_t *datasets; /* [n_items] */
    hx__stage stage;
    hx_train_state state;
} reader;

static hx_status find_file(hx_comm *comm, const char *path, char file[HX_PATH_BYTES]) {
    int format;
    hx_status status = HX_OK;
    memset(file, 0, HX_PATH_BYTES);
    if (hx_comm_rank(comm) == 0) {
        status = hx_ckpt_resolve(path, file);
        if (status == HX_OK) status = hx__seal_check(file, true, &format);
    }
    HX_TRY(hx_comm_agree(comm, status));
    if (hx_comm_size(comm) == 1) return HX_OK;
    return hx_comm_agree(comm, hx_comm_broadcast(comm, file, HX_PATH_BYTES, HX_U8, 0, NULL, NULL));
}

static hx_status compare_item(const hx_state_item *item, hx_dtype dtype, const hx_shape *shape) {
    char wanted[HX_SHAPE_TEXT], stored[HX_SHAPE_TEXT];
    if (dtype == item->dtype && hx_shape_equal(shape, &item->layout->shape)) return HX_OK;
    return HX_FAIL(HX_ERR_MISMATCH, "%s is %s %s in the checkpoint: this model needs %s %s", item->name,
                   hx_dtype_name(dtype), hx_shape_text(shape, stored), hx_dtype_name(item->dtype),
                   hx_shape_text(&item->layout->shape, wanted));
}

static hx_status open_all(reader *r, const char *file) {
    HX_TRY(hx__ckpt_check_items(r->items));
    HX_TRY(hx_mem_alloc_array(r->items->n_items, sizeof *r->datasets, (void **)&r->datasets));
    for (int64_t i = 0; i < r->items->n_items; i++) r->datasets[i] = H5I_INVALID_HID;
    HX_TRY(hx__h5_open_read(file, &r->h5));
    HX_TRY(hx__ckpt_state_read(r->h5, &r->state));
    for (int64_t i = 0; i < r->items->n_items; i++) {
        const hx_state_item *item = &r->items->items[i];
        hx_dtype dtype;
        hx_shape shape;
        HX_TRY(hx__h5_dataset_open(r->h5, item->name, &r->datasets[i], &dtype, &shape));
        HX_TRY(compare_item(item, dtype, &shape));
    }
    return HX_OK;
}

/* All copies of an item are read, whoever wrote them. */
static hx_status read_item(reader *r, const hx_state_item *item, hid_t dataset) {
    const hx_shape *shape = &item->layout->shape;
    hx_state_item whole = *item;
    HX_CLEANUP(hx_layout_destroy) hx_layout pieces = {0};
    whole.n_replicas = 1;
    HX_TRY(hx__ckpt_pieces(&whole, hx__stage_most(item), &pieces));
    for (int b = 0; b < pieces.n_boxes; b++) {
        const hx_box *box = &pieces.boxes[b];
        void *data;
        HX_TRY(hx__stage_target(&r->stage, item, box->local, &data));
        HX_TRY(hx__h5_box_read(dataset, item->name, shape, box, item->dtype, data));
        HX_TRY(hx__stage_write(&r->stage, item, box->local, hx_box_count(box, shape->ndim)));
    }
    return HX_OK;
}

static hx_status read_boxes(reader *r) {
    for (int64_t i = 0; i < r->items->n_items; i++)
        HX_TRY(read_item(r, &r->items->items[i], r->datasets[i]));
    return HX_OK;
}

/* Blocks of all tensors in a row are numbered; this rank verifies one run of them. */
static hx_status verify_share(reader *r) {
    int64_t total = 0, at = 0;
    for (int64_t i = 0; i < r->items->n_items; i++)
        total += hx__sum_n_blocks(hx_shape_count(&r->items->items[i].layout->shape));
    int rank = hx_comm_rank(r->comm), size = hx_comm_size(r->comm);
    int64_t first = total / size * rank + total % size * rank / size;
    int64_t last = total / size * (rank + 1) + total % size * (rank + 1) / size;
    for (int64_t i = 0; i < r->items->n_items; i++) {
        const hx_state_item *item = &r->items->items[i];
        const hx_shape *shape = &item->layout->shape;
        int64_t n = hx__sum_n_blocks(hx_shape_count(shape));
        int64_t begin = first > at ? first - at : 0, end = last - at < n ? last - at : n;
        if (begin < end) HX_TRY(hx__ckpt_verify(r->datasets[i], item->name, item->dtype, shape, begin, end));
        at += n;
    }
    return HX_OK;
}

static hx_status load(reader *r, const char *path) {
    char file[HX_PATH_BYTES];
    HX_TRY(find_file(r->comm, path, file));
    HX_TRY(hx_comm_agree(r->comm, open_all(r, file)));
    HX_TRY(hx_comm_agree(r->comm, read_boxes(r)));
    return hx_comm_agree(r->comm, verify_share(r));
}

hx_status hx_ckpt_load(hx_comm *comm, const char *path, const hx_state_list *items, hx_train_state *state) {
    reader r = {.comm = comm, .items = items, .h5 = H5I_INVALID_HID};
    HX_H5_QUIET();
    hx_status status = load(&r, path);
    for (int64_t i = 0; r.datasets && i < items->n_items; i++) hx__h5_release(&r.datasets[i]);
    hx_mem_free((void **)&r.datasets);
    hx__stage_close(&r.stage);
    if (r.h5 >= 0) H5Fclose(r.h5);
    if (status == HX_OK && state) *state = r.state;
    return status;
}

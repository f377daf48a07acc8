#define _GNU_SOURCE
#include <ftw.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define ROWS_PER_RANK 1000
#define COLUMNS       33

/* Rows of one tensor, unevenly divided, so that ranks write hyperslabs of different size. */
typedef struct sample {
    hx_layout layout;
    float *data; /* [rows of this rank, COLUMNS] */
    hx_state_item item;
} sample;

static void sample_free(sample *s) {
    hx_layout_destroy(&s->layout);
    hx_mem_free((void **)&s->data);
}

static hx_status sample_create(const hx_comm *comm, sample *s) {
    int64_t size = hx_comm_size(comm), rank = hx_comm_rank(comm), rows = ROWS_PER_RANK * size + 1;
    int64_t first = rows * rank / size, last = rows * (rank + 1) / size;
    HX_TRY(hx_layout_slice(&HX_SHAPE(rows, COLUMNS), 0, first, last - first, &s->layout));
    HX_TRY(hx_mem_alloc_array((last - first) * COLUMNS, sizeof *s->data, (void **)&s->data));
    for (int64_t i = 0; i < (last - first) * COLUMNS; i++) s->data[i] = (float)(first * COLUMNS + i);
    s->item = (hx_state_item){.name = "/model/rows", .layout = &s->layout, .data = s->data, .n_replicas = 1};
    return HX_OK;
}

static hx_status sample_compare(const sample *s) {
    int64_t at = s->layout.n_boxes ? s->layout.boxes[0].start[0] * COLUMNS : 0;
    for (int64_t i = 0; i < hx_layout_count(&s->layout); i++)
        if (s->data[i] != (float)(at + i))
            return HX_FAIL(HX_ERR_CORRUPT, "element %lld was written as %lld and read as %g", (long long)(at + i),
                           (long long)(at + i), (double)s->data[i]);
    return HX_OK;
}

static hx_status write_and_read(hx_comm *comm, const char *folder, sample *s) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    hx_state_list items = {.items = &s->item, .n_items = 1};
    hx_train_state state = {.step = 1};
    HX_CLEANUP(hx_ckpt_close) hx_ckpt *ckpt = NULL;
    HX_TRY(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    HX_TRY(hx_ckpt_save(ckpt, &state, &items, false));
    memset(s->data, 0, (size_t)hx_layout_count(&s->layout) * sizeof *s->data);
    HX_TRY(hx_ckpt_load(comm, folder, &items, &state));
    return hx_comm_agree(comm, sample_compare(s));
}

/* The files and links, the generation, the folder. */
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

hx_status hx_ckpt_self_test(hx_comm *comm, const char *folder) {
    HX_CLEANUP(sample_free) sample s = {0};
    char path[HX_PATH_BYTES];
    int64_t pid = getpid();
    HX_TRY(hx_comm_agree(comm, sample_create(comm, &s)));
    if (hx_comm_size(comm) > 1)
        HX_TRY(hx_comm_agree(comm, hx_comm_broadcast(comm, &pid, 1, HX_I64, 0, NULL, NULL)));
    int n = snprintf(path, sizeof path, "%s/.helix-self-test-%lld", folder, (long long)pid);
    if (n >= (int)sizeof path) return HX_FAIL(HX_ERR_IO, "path %.64s... is too long", folder);
    hx_status status = write_and_read(comm, path, &s);
    if (hx_comm_rank(comm) == 0) (void)nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return status;
}

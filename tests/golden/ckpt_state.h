/* The state in the checkpoints that lie here, ckpt-format1.h5 and its later relatives: a few small tensors whose bytes
 * follow from their places, divided by rows over the ranks. */
#ifndef HX_TESTS_GOLDEN_CKPT_STATE_H
#define HX_TESTS_GOLDEN_CKPT_STATE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/ckpt/ckpt.h"

enum { CKPT_STATE_N = 6 };

typedef struct ckpt_state {
    hx_layout layouts[CKPT_STATE_N];
    hx_state_item items[CKPT_STATE_N];
    hx_state_list list;
} ckpt_state;

static const hx_train_state ckpt_state_train = {.step = 12, .cursor = 384, .seed = UINT64_MAX - 3, .best_loss = 1.5,
    .n_bad_evals = 1, .n_skipped = 2, .last_loss = 1.75, .last_eval_loss = 1.625, .elapsed_s = 3.5, .loss_scale = 1024, .n_clean = 7,
    .data_hash = 0x123456789abcdef, .eval_step = 10, .eval_epoch = 1};

static inline uint8_t ckpt_state_byte(int item, int64_t at) { return (uint8_t)((at + 1) * 37 + (at >> 8) * 11 + item * 101); }

/** Rows [begin, end) of each tensor of rank `rank` of `size`, filled; a tensor without rows belongs to rank 0. */
static inline hx_status ckpt_state_create(int rank, int size, ckpt_state *out) {
    static const struct { const char *name; hx_dtype dtype; hx_shape shape; } known[CKPT_STATE_N] = {
        {"/model/embed.weight", HX_BF16, {2, {9, 5}}}, {"/model/head.bias", HX_F32, {1, {7}}}, {"/model/scale", HX_F64, {0, {0}}},
        {"/model/none", HX_U8, {2, {0, 4}}}, {"/optim/m/embed.weight", HX_F32, {2, {9, 5}}}, {"/optim/counts", HX_I64, {1, {3}}}};
    *out = (ckpt_state){.list = {.items = out->items, .n_items = CKPT_STATE_N}};
    for (int i = 0; i < CKPT_STATE_N; i++) {
        const hx_shape *shape = &known[i].shape;
        hx_state_item *item = &out->items[i];
        hx_layout full;
        HX_TRY(hx_layout_full(shape, &full));
        int64_t n = hx_shape_count(shape), begin = n * rank / size, end = n * (rank + 1) / size;
        hx_status status = hx_layout_restrict(&full, begin, end, &out->layouts[i]);
        hx_layout_destroy(&full);
        HX_TRY(status);
        size_t bytes = hx_dtype_bytes(known[i].dtype);
        *item = (hx_state_item){.dtype = known[i].dtype, .layout = &out->layouts[i], .data = calloc((size_t)n + 1, bytes), .n_replicas = 1};
        if (!item->data) return HX_FAIL(HX_ERR_MEMORY, "no memory for %s", known[i].name);
        strcpy(item->name, known[i].name);
        for (int64_t b = 0; b < (end - begin) * (int64_t)bytes; b++)
            ((uint8_t *)item->data)[b] = ckpt_state_byte(i, begin * (int64_t)bytes + b);
    }
    return HX_OK;
}

static inline void ckpt_state_free(ckpt_state *state) {
    for (int i = 0; i < CKPT_STATE_N; i++) {
        hx_layout_destroy(&state->layouts[i]);
        free(state->items[i].data);
    }
}

#endif

/* What any way of parallel training saved, any other loads, bit by bit: one set of logical tensors, laid out in eight ways, and
 * all pairs of them. Ways that need more ranks than there are, are left out. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/ckpt/ckpt.h"
#include "tests/support/expect.h"

/* ZeRO: whose tensors are flat shares of the data-parallel ranks: nobody's, the optimizer's, all. */
static const struct way {
    const char *name;
    int dp, tp, pp, zero;
} ways[] = {{"dp1", 1, 1, 1, 0}, {"dp4", 4, 1, 1, 0}, {"zero1", 4, 1, 1, 1},   {"zero3", 4, 1, 1, 3},
            {"tp2", 1, 2, 1, 0}, {"pp2", 1, 1, 2, 0}, {"dp2xtp2", 2, 2, 1, 0}, {"pp2xtp2", 1, 2, 2, 0}};
enum { N_WAYS = sizeof ways / sizeof *ways };

static const struct tensor {
    const char *name;
    hx_dtype dtype;
    hx_shape shape;
    int tp_dim; /* -1: whole on all */
} tensors[] = {{"/model/embed", HX_BF16, {2, {37, 10}}, 0},       {"/model/qkv", HX_F32, {3, {6, 41, 3}}, 1},
               {"/model/norm", HX_F32, {1, {10}}, -1},            {"/model/scale", HX_F64, {0, {0}}, -1},
               {"/model/none", HX_U8, {2, {0, 3}}, -1},           {"/optim/m/qkv", HX_F64, {3, {6, 41, 3}}, 1},
               {"/optim/v/embed", HX_F32, {2, {37, 10}}, 0},      {"/optim/steps", HX_I64, {1, {1}}, -1},
               {"/model/out", HX_F32, {2, {13, 7}}, 1},           {"/optim/m/out", HX_BF16, {2, {13, 7}}, 1}};
enum { N_TENSORS = sizeof tensors / sizeof *tensors, MOST_BYTES = 6 * 41 * 3 * 8 };

typedef struct state {
    hx_layout layouts[N_TENSORS];
    uint8_t data[N_TENSORS][MOST_BYTES];
    hx_state_item items[N_TENSORS];
    hx_state_list list;
} state;

static hx_layout layout_of(const struct way *w, int t, int dp, int tp, int pp) {
    const hx_shape *shape = &tensors[t].shape;
    hx_layout slice, out = {.shape = *shape};
    if (t % w->pp != pp) return out;
    if (tensors[t].tp_dim < 0) {
        OK(hx_layout_full(shape, &slice));
    } else {
        int64_t n = shape->dims[tensors[t].tp_dim], begin = n * tp / w->tp;
        OK(hx_layout_slice(shape, tensors[t].tp_dim, begin, n * (tp + 1) / w->tp - begin, &slice));
    }
    if (w->zero < 3 && (w->zero == 0 || strncmp(tensors[t].name, "/model/", 7) == 0)) return slice;
    int64_t n = hx_layout_count(&slice);
    OK(hx_layout_restrict(&slice, n * dp / w->dp, n * (dp + 1) / w->dp, &out));
    hx_layout_destroy(&slice);
    return out;
}

static void state_create(const struct way *w, int rank, state *s) {
    int tp = rank % w->tp, dp = rank / w->tp % w->dp, pp = rank / w->tp / w->dp;
    for (int t = 0; t < N_TENSORS; t++) {
        bool is_whole = tensors[t].tp_dim < 0, is_shared = w->zero == 3 || (w->zero == 1 && strncmp(tensors[t].name, "/optim/", 7) == 0);
        s->layouts[t] = layout_of(w, t, dp, tp, pp);
        s->items[t] = (hx_state_item){.dtype = tensors[t].dtype, .layout = &s->layouts[t], .data = s->data[t], .n_replicas = 1};
        if (!is_shared) s->items[t].replica = dp, s->items[t].n_replicas = w->dp;
        if (is_whole) s->items[t].replica += s->items[t].n_replicas * tp, s->items[t].n_replicas *= w->tp;
        strcpy(s->items[t].name, tensors[t].name);
    }
    s->list = (hx_state_list){.items = s->items, .n_items = N_TENSORS};
}

static void state_free(state *s) {
    for (int t = 0; t < N_TENSORS; t++) hx_layout_destroy(&s->layouts[t]);
}

/* The bits of an element follow from its tensor and its place in the whole. @return how many are held, all of them right */
static int64_t visit(state *s, int t, bool compare) {
    const hx_shape *shape = &tensors[t].shape;
    size_t bytes = hx_dtype_bytes(tensors[t].dtype);
    int64_t n_held = 0, strides[HX_MAX_DIMS];
    hx_shape_strides(shape, strides);
    for (int64_t at = 0; at < hx_shape_count(shape); at++) {
        int64_t index[HX_MAX_DIMS] = {0};
        for (int d = 0; d < shape->ndim; d++) index[d] = at / strides[d] % shape->dims[d];
        int64_t local = hx_layout_find(&s->layouts[t], index);
        uint64_t value = (uint64_t)(at + 1) * 0x9E3779B97F4A7C15u + (uint64_t)t;
        if (local < 0) continue;
        n_held++;
        uint8_t *p = s->data[t] + (size_t)local * bytes;
        if (!compare)
            memcpy(p, &value, bytes);
        else if (memcmp(p, &value, bytes) != 0)
            return -1;
    }
    return n_held;
}

static hx_comm *world;
static char folder[256];

/* The first ranks of the world that a way needs; NULL on the others. */
static hx_comm *ranks_of(const struct way *w) {
    hx_comm *comm = NULL;
    int rank = hx_comm_rank(world);
    bool takes_part = rank < w->dp * w->tp * w->pp;
    OK(hx_comm_split(world, takes_part ? 0 : 1, rank, &comm));
    if (!takes_part) hx_comm_close(&comm);
    return takes_part ? comm : NULL;
}

static bool fits(const struct way *w) { return w->dp * w->tp * w->pp <= hx_comm_size(world); }

static void save(const struct way *w) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    static state s;
    char path[300];
    hx_comm *comm = ranks_of(w);
    if (comm) {
        hx_ckpt *ckpt;
        state_create(w, hx_comm_rank(comm), &s);
        for (int t = 0; t < N_TENSORS; t++) visit(&s, t, false);
        snprintf(path, sizeof path, "%s/%s", folder, w->name);
        OK(hx_ckpt_open(comm, path, &config, "", &ckpt));
        OK(hx_ckpt_save(ckpt, &(hx_train_state){.step = 4, .cursor = 40}, &s.list, false));
        hx_ckpt_close(&ckpt);
        state_free(&s);
        hx_comm_close(&comm);
    }
    OK(hx_comm_barrier(world));
}

static void load(const struct way *from, const struct way *to) {
    static state s;
    char path[300];
    hx_train_state train = {0};
    hx_comm *comm = ranks_of(to);
    if (!comm) return;
    memset(s.data, 0xA5, sizeof s.data);
    state_create(to, hx_comm_rank(comm), &s);
    snprintf(path, sizeof path, "%s/%s", folder, from->name);
    OK(hx_ckpt_load(comm, path, &s.list, &train));
    cr_assert_eq(train.cursor, 40);
    for (int t = 0; t < N_TENSORS; t++)
        cr_assert_eq(visit(&s, t, true), hx_layout_count(&s.layouts[t]), "%s written as %s, read as %s, rank %d", tensors[t].name,
                     from->name, to->name, hx_comm_rank(comm));
    state_free(&s);
    hx_comm_close(&comm);
}

/* Nothing of the way is left in the hash of a state. */
static void compare_hashes(void) {
    uint64_t first = 0;
    for (int i = 0; i < N_WAYS; i++) {
        char path[300], file[HX_PATH_BYTES];
        hx_ckpt_info info;
        if (!fits(&ways[i])) continue;
        snprintf(path, sizeof path, "%s/%s", folder, ways[i].name);
        OK(hx_ckpt_resolve(path, file));
        OK(hx_ckpt_inspect(file, true, &info));
        if (i == 0) first = info.state_hash;
        cr_assert_eq(info.state_hash, first, "%s", ways[i].name);
        hx_ckpt_info_destroy(&info);
    }
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

Test(ckpt_layouts, what_any_way_of_training_saved_any_other_loads) {
    OK(hx_comm_mpi_open(&world));
    if (hx_comm_rank(world) == 0) {
        snprintf(folder, sizeof folder, "%.200s/helix-layouts-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
        cr_assert(mkdtemp(folder));
    }
    OK(hx_comm_broadcast(world, folder, sizeof folder, HX_U8, 0, NULL, NULL));
    for (int i = 0; i < N_WAYS; i++)
        if (fits(&ways[i])) save(&ways[i]);
    for (int i = 0; i < N_WAYS; i++)
        for (int j = 0; j < N_WAYS; j++)
            if (fits(&ways[i]) && fits(&ways[j])) load(&ways[i], &ways[j]);
    OK(hx_comm_barrier(world));
    if (hx_comm_rank(world) == 0) {
        compare_hashes();
        nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    hx_comm_close(&world);
}

/* What the tests of checkpoints share: a temporary folder, one communicator, and a small state of three tensors. */
#ifndef HX_TESTS_UNIT_TEST_CKPT_FIXTURE_H
#define HX_TESTS_UNIT_TEST_CKPT_FIXTURE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/ckpt/ckpt.h"
#include "tests/support/expect.h"

/* Fails with that code and a message that holds the words. */

#define N_WEIGHT (300 * 40)
#define N_BIAS   7

static char folder[256];
static hx_comm *comm;
static const hx_ckpt_config config = HX_CKPT_DEFAULT;

static float weight[N_WEIGHT];
static double bias[N_BIAS];
static uint8_t none[1];
static hx_layout weight_layout, bias_layout, none_layout;
static hx_state_item items_array[3];
static const hx_state_list items = {.items = items_array, .n_items = 3};

__attribute__((unused)) static void fill_state(int64_t step) {
    for (int i = 0; i < N_WEIGHT; i++) weight[i] = (float)(i + 1000 * step);
    for (int i = 0; i < N_BIAS; i++) bias[i] = (double)i / 3 + (double)step;
}

__attribute__((unused)) static bool state_is(int64_t step) {
    for (int i = 0; i < N_WEIGHT; i++)
        if (weight[i] != (float)(i + 1000 * step)) return false;
    for (int i = 0; i < N_BIAS; i++)
        if (bias[i] != (double)i / 3 + (double)step) return false;
    return true;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

__attribute__((unused)) static void fixture_open(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/helix-ckpt-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(folder));
    OK(hx_comm_self_open(&comm));
    OK(hx_layout_full(&HX_SHAPE(300, 40), &weight_layout));
    OK(hx_layout_full(&HX_SHAPE(N_BIAS), &bias_layout));
    OK(hx_layout_full(&HX_SHAPE(4, 0), &none_layout));
    items_array[0] = (hx_state_item){
        .name = "/model/blocks.0.attn.q.weight", .dtype = HX_F32, .layout = &weight_layout, .data = weight, .n_replicas = 1};
    items_array[1] = (hx_state_item){
        .name = "/optim/m/blocks.0.attn.q.bias", .dtype = HX_F64, .layout = &bias_layout, .data = bias, .n_replicas = 1};
    items_array[2] = (hx_state_item){.name = "/model/empty", .dtype = HX_U8, .layout = &none_layout, .data = none, .n_replicas = 1};
    fill_state(0);
}

__attribute__((unused)) static void fixture_close(void) {
    hx_layout_destroy(&weight_layout);
    hx_layout_destroy(&bias_layout);
    hx_layout_destroy(&none_layout);
    hx_comm_close(&comm);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Save the state of a step into the folder. */
__attribute__((unused)) static hx_status save_step(const char *where, int64_t step, bool is_best) {
    hx_ckpt *ckpt;
    hx_train_state state = {.step = step, .cursor = 32 * step, .best_loss = INFINITY};
    fill_state(step);
    HX_TRY(hx_ckpt_open(comm, where, &config, "train:\n  lr: 0.001\n", &ckpt));
    hx_status status = hx_ckpt_save(ckpt, &state, &items, is_best);
    hx_ckpt_close(&ckpt);
    return status;
}

__attribute__((unused)) static bool exists(const char *name) {
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return lstat(path, &st) == 0;
}

#endif

/* Saves beside training hold the bits of the step that they are of, whatever training does meanwhile: a GPT on any number of ranks, with
 * all that a rank keeps from step to step. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/backends.h"
#include "dist/comm/comm_impl.h"
#include "tests/support/small_run.h"
#include "tests/support/saved.h"

enum { STEPS = 3, F32 = 0, BF16 = 2, F16 = 3 };

static hx_comm *world;
static char folder[256];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

static void train(const small_run_config *config, int way) {
    small_run run;
    small_run_config saving = *config;
    hx_ckpt *ckpt;
    hx_checkpoint_hook hook;
    saved_open(world, folder, way, &ckpt, &hook);
    saving.checkpoint = &hook;
    saving.save_every = 1;
    small_run_open(&run, world, __FILE__, &saving);
    OK(hx_trainer_run(run.trainer));
    small_run_close(&run);
    hx_ckpt_close(&ckpt);
}

static void compare(const char *what, small_run_config config) {
    const char *tmp = getenv("TMPDIR");
    config.batch = 12;
    config.steps = STEPS;
    config.lr = 1e-2;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    snprintf(folder, sizeof folder, "%.200s/helix-saves-XXXXXX", tmp ? tmp : "/tmp");
    if (hx_comm_rank(world) == 0) cr_assert(mkdtemp(folder));
    OK(hx_comm_broadcast(world, folder, sizeof folder, HX_U8, 0, NULL, NULL));
    for (int way = 0; way < SAVED_WAYS; way++) train(&config, way);
    if (hx_comm_rank(world) == 0) {
        saved_compare(folder, what, 1, STEPS);
        nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    hx_comm_close(&world);
}

Test(saves, beside_training_in_f32_hold_their_step) { compare("f32", (small_run_config){.dtype = F32}); }
Test(saves, beside_training_with_micro_batches_and_averages_hold_their_step) {
    compare("averages", (small_run_config){.dtype = F32, .micro_batch = 1, .ema = 0.9});
}
Test(saves, beside_training_in_f16_with_a_loss_scale_hold_their_step) { compare("f16", (small_run_config){.dtype = F16, .ema = 0.9}); }
Test(saves, beside_training_with_shares_of_the_optimizer_hold_their_step) { compare("ZeRO 1", (small_run_config){.dtype = BF16, .zero = 1}); }
Test(saves, beside_training_with_shares_of_gradients_hold_their_step) { compare("ZeRO 2", (small_run_config){.dtype = F32, .zero = 2, .ema = 0.9}); }

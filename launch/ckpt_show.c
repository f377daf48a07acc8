/* helix ckpt show, helix ckpt verify: one checkpoint, in words and as JSON. */
#include "launch/cli.h"

#include <stdio.h>
#include <string.h>

static int64_t count_parameters(const hx_ckpt_info *info) {
    int64_t n = 0;
    for (int64_t i = 0; i < info->n_entries; i++)
        if (strncmp(info->entries[i].name, "/model/", 7) == 0) n += hx_shape_count(&info->entries[i].shape);
    return n;
}

static void print_info(const char *file, const hx_ckpt_info *info, bool verified) {
    char shape[HX_SHAPE_TEXT];
    printf("%s\n  format %d, written by %d rank%s, %s\n", file, info->format, info->world_size, info->world_size == 1 ? "" : "s", info->versions);
    if (info->kernels[0]) printf("  kernels: %s\n", info->kernels);
    printf("  step %lld, %lld samples seen, loss %.4f, held-out loss %.4f, best %.4f, %.1f s of training\n",
           (long long)info->state.step, (long long)info->state.cursor, info->state.last_loss, info->state.last_eval_loss,
           info->state.best_loss, info->state.elapsed_s);
    printf("  %lld parameters, XXH3 %016llx, %lld tensors%s\n", (long long)count_parameters(info), (unsigned long long)info->model_hash,
           (long long)info->n_entries, verified ? ", all checksums match" : "");
    for (int64_t i = 0; i < info->n_entries; i++)
        printf("  %-4s %-16s %s\n", hx_dtype_name(info->entries[i].dtype), hx_shape_text(&info->entries[i].shape, shape), info->entries[i].name);
}

static json_t *entry_json(const hx_ckpt_entry *entry) {
    json_t *dims = json_array();
    for (int d = 0; d < entry->shape.ndim; d++) json_array_append_new(dims, json_integer(entry->shape.dims[d]));
    return json_pack("{s:s, s:s, s:o}", "name", entry->name, "dtype", hx_dtype_name(entry->dtype), "shape", dims);
}

static hx_status print_info_json(const char *file, const hx_ckpt_info *info, bool verified) {
    const hx_train_state *state = &info->state;
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)info->model_hash);
    json_t *tensors = json_array();
    for (int64_t i = 0; i < info->n_entries; i++) json_array_append_new(tensors, entry_json(&info->entries[i]));
    json_t *o = json_pack("{s:s, s:i, s:i, s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:I, s:s, s:b, s:o}", "file", file, "format",
                          info->format, "ranks", info->world_size, "versions", info->versions, "kernels", info->kernels, "step", (json_int_t)state->step,
                          "cursor", (json_int_t)state->cursor, "seed", (json_int_t)state->seed, "loss",
                          hx__json_real(state->last_loss), "eval_loss", hx__json_real(state->last_eval_loss), "best_loss",
                          hx__json_real(state->best_loss), "elapsed_s", state->elapsed_s, "parameters",
                          (json_int_t)count_parameters(info), "model_xxh3", hash, "verified", (int)verified, "tensors", tensors);
    return hx__print_json(o);
}

/* Local: no rank, no device. */
static hx_status show(const char *name, bool verify, hx_cli *cli, int argc, char *const *argv) {
    char file[HX_PATH_BYTES];
    hx_ckpt_info info = {0};
    hx_status status = HX_OK;
    HX_TRY(hx__cli_read(hx_command_find(name), cli, argc, argv));
    HX_TRY(hx__find_checkpoint(cli->words.n ? cli->words.items[0] : cli->config.run.out, file));
    HX_TRY(hx_ckpt_inspect(file, verify, &info));
    if (cli->own.json)
        status = print_info_json(file, &info, verify);
    else
        print_info(file, &info, verify);
    hx_ckpt_info_destroy(&info);
    return status;
}

hx_status hx_cmd_ckpt_show(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    (void)session;
    return show("ckpt show", false, cli, argc, argv);
}

hx_status hx_cmd_ckpt_verify(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    (void)session;
    return show("ckpt verify", true, cli, argc, argv);
}

/* helix ckpt show, helix ckpt verify: one checkpoint, in words and as JSON. */
#include "launch/cli.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int64_t count_parameters(const hx_ckpt_info *info) {
    int64_t n = 0;
    for (int64_t i = 0; i < info->n_entries; i++)
        if (strncmp(info->entries[i].name, "/model/", 7) == 0) n += hx_shape_count(&info->entries[i].shape);
    return n;
}

static void print_info(const char *file, const hx_ckpt_info *info) {
    char shape[HX_SHAPE_TEXT], tokenizer[HX_TOKENIZER_ID_TEXT];
    printf("%s\n  format %d, written by %d rank%s, %s\n", file, info->format, info->world_size, info->world_size == 1 ? "" : "s", info->versions);
    if (info->helix[0]) printf("  by Helix %s\n", info->helix);
    printf("  state hash %016llx\n", (unsigned long long)info->state_hash);
    if (info->kernels[0]) printf("  kernels: %s\n", info->kernels);
    if (info->tokenizer.kind != HX_TOKENIZER_UNKNOWN) printf("  tokenizer: %s\n", hx_tokenizer_id_text(&info->tokenizer, tokenizer));
    printf("  step %lld, %lld samples seen, loss %.4f, held-out loss %.4f, best %.4f, %.1f s of training\n",
           (long long)info->state.step, (long long)info->state.cursor, info->state.last_loss, info->state.last_eval_loss,
           info->state.best_loss, info->state.elapsed_s);
    printf("  %lld parameters, XXH3 %016llx, %lld tensors\n", (long long)count_parameters(info), (unsigned long long)info->model_hash,
           (long long)info->n_entries);
    for (int64_t i = 0; i < info->n_entries; i++)
        printf("  %-4s %-16s %s\n", hx_dtype_name(info->entries[i].dtype), hx_shape_text(&info->entries[i].shape, shape), info->entries[i].name);
}

static json_t *entry_json(const hx_ckpt_entry *entry) {
    json_t *dims = json_array();
    for (int d = 0; d < entry->shape.ndim; d++) json_array_append_new(dims, json_integer(entry->shape.dims[d]));
    return json_pack("{s:s, s:s, s:o}", "name", entry->name, "dtype", hx_dtype_name(entry->dtype), "shape", dims);
}

static hx_status print_info_json(const char *file, const hx_ckpt_info *info) {
    const hx_train_state *state = &info->state;
    char state_hash[17], model_hash[17], tokenizer[HX_TOKENIZER_ID_TEXT];
    snprintf(state_hash, sizeof state_hash, "%016llx", (unsigned long long)info->state_hash);
    snprintf(model_hash, sizeof model_hash, "%016llx", (unsigned long long)info->model_hash);
    json_t *tensors = json_array();
    for (int64_t i = 0; i < info->n_entries; i++) json_array_append_new(tensors, entry_json(&info->entries[i]));
    json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:I, s:o}", "file", file, "format",
                          info->format, "helix", info->helix, "state_hash", state_hash, "model_hash", model_hash, "ranks", info->world_size, "versions", info->versions, "kernels", info->kernels, "tokenizer",
                          hx_tokenizer_id_text(&info->tokenizer, tokenizer), "step", (json_int_t)state->step,
                          "cursor", (json_int_t)state->cursor, "seed", (json_int_t)state->seed, "loss",
                          hx__json_real(state->last_loss), "eval_loss", hx__json_real(state->last_eval_loss), "best_loss",
                          hx__json_real(state->best_loss), "elapsed_s", state->elapsed_s, "parameters",
                          (json_int_t)count_parameters(info), "tensors", tensors);
    return hx__print_json(o);
}

/* Local: no rank, no device. */
hx_status hx_cmd_ckpt_show(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    char file[HX_PATH_BYTES];
    hx_ckpt_info info = {0};
    hx_status status = HX_OK;
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("ckpt show"), cli, argc, argv));
    HX_TRY(hx__find_checkpoint(cli->words.n ? cli->words.items[0] : cli->config.run.out, file));
    HX_TRY(hx_ckpt_inspect(file, false, &info));
    if (cli->own.json)
        status = print_info_json(file, &info);
    else
        print_info(file, &info);
    hx_ckpt_info_destroy(&info);
    return status;
}

/* ---- verify ---- */

typedef struct verification {
    const hx_cli *cli;
    json_t *rows; /* with --json */
    int64_t n_files, n_damaged;
    char first[512]; /* damage */
} verification;

static json_t *damages_json(const hx_ckpt_report *report) {
    json_t *all = json_array();
    char text[512];
    for (int64_t i = 0; i < report->n_damages; i++) json_array_append_new(all, json_string(hx_ckpt_damage_text(&report->damages[i], text)));
    return all;
}

static void tell(verification *v, const char *file, const hx_ckpt_report *report, const char *failure) {
    const bool is_ok = failure == NULL && report->n_damaged == 0;
    char text[512];
    v->n_files++;
    v->n_damaged += !is_ok;
    if (!is_ok && !v->first[0])
        snprintf(v->first, sizeof v->first, "%.480s", failure ? failure : hx_ckpt_damage_text(&report->damages[0], text));
    if (v->rows) {
        json_array_append_new(v->rows, json_pack("{s:s, s:b, s:I, s:I, s:I, s:s?, s:o}", "file", file, "verified", is_ok, "tensors",
                                                 (json_int_t)report->n_tensors, "blocks", (json_int_t)report->n_blocks, "damaged_blocks",
                                                 (json_int_t)report->n_damaged, "failure", failure, "damages", damages_json(report)));
        return;
    }
    if (failure)
        printf("%s: DAMAGED: %s\n", file, failure);
    else if (is_ok)
        printf("%s: %lld tensors, %.1f MB, all checksums match\n", file, (long long)report->n_tensors, (double)report->n_bytes / 1e6);
    else
        printf("%s: DAMAGED: %lld of %lld blocks\n", file, (long long)report->n_damaged, (long long)report->n_blocks);
    for (int64_t i = 0; i < report->n_damages; i++) printf("  %s\n", hx_ckpt_damage_text(&report->damages[i], text));
}

/* What is damaged is news of the file, whatever else fails is a failure of the command. */
static hx_status verify_file(verification *v, const char *file) {
    hx_ckpt_report report = {0};
    const hx_status status = hx_ckpt_verify(file, &report);
    if (status != HX_OK && status != HX_ERR_CORRUPT && status != HX_ERR_FORMAT) return status;
    tell(v, file, &report, status != HX_OK ? hx_error_message() : NULL);
    hx_ckpt_report_destroy(&report);
    return HX_OK;
}

static hx_status verify_folder(verification *v, const char *folder) {
    HX_CLEANUP(hx_ckpt_files_destroy) hx_ckpt_files files = {0};
    HX_TRY(hx_ckpt_list(folder, &files));
    if (files.n == 0) return HX_FAIL(HX_ERR_IO, "%s holds no checkpoints", folder);
    for (int64_t i = 0; i < files.n; i++) {
        char file[HX_PATH_BYTES];
        HX_TRY(hx_ckpt_file_path(folder, &files.items[i], file));
        HX_TRY(verify_file(v, file));
    }
    return HX_OK;
}

/* A folder means all that it holds; FOLDER/latest, FOLDER/best and a file mean one. */
static hx_status verify_word(verification *v, const char *word) {
    char file[HX_PATH_BYTES], folder[HX_PATH_BYTES];
    struct stat st;
    if (stat(word, &st) == 0 && S_ISDIR(st.st_mode)) {
        HX_TRY(hx__ckpt_folder(v->cli, folder));
        return verify_folder(v, folder);
    }
    HX_TRY(hx__find_checkpoint(word, file));
    return verify_file(v, file);
}

hx_status hx_cmd_ckpt_verify(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    verification v = {.cli = cli};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("ckpt verify"), cli, argc, argv));
    if (cli->own.json) v.rows = json_array();
    hx_status status = verify_word(&v, cli->words.n ? cli->words.items[0] : cli->config.run.out);
    if (status != HX_OK) {
        json_decref(v.rows);
        return status;
    }
    if (cli->own.json)
        HX_TRY(hx__print_json(json_pack("{s:b, s:o}", "verified", v.n_damaged == 0, "checkpoints", v.rows)));
    (void)fflush(stdout); /* before the last word on the other stream */
    if (v.n_damaged > 0)
        return HX_FAIL(HX_ERR_CORRUPT, "%lld of %lld checkpoints are damaged; the first: %.400s", (long long)v.n_damaged, (long long)v.n_files, v.first);
    return HX_OK;
}

/* helix ckpt: the table of its verbs, and those that work on a folder of checkpoints. */
#include "launch/cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

const hx_command hx_ckpt_verbs[] = {
    {.name = "ckpt list", .summary = "the checkpoints of a run: step, loss, size, which is latest and best", .run = hx_cmd_ckpt_list,
     .own = "|json|", .words = "[RUN|FOLDER]", .max_words = 1,
     .examples = "  helix ckpt list runs/a                                       newest first; what was left by going back comes last\n"},
    {.name = "ckpt show", .summary = "what a checkpoint holds: state, tensors, who wrote it", .run = hx_cmd_ckpt_show, .own = "|json|",
     .words = "[RUN|FILE]", .max_words = 1,
     .examples = "  helix ckpt show runs/a                                       the latest checkpoint of a run\n"
                 "  helix ckpt show runs/a/ckpt/best --json                      its best one, for programs\n"},
    {.name = "ckpt diff", .summary = "what differs: configuration, state, tensors and by how much", .run = hx_cmd_ckpt_diff, .own = "|json|",
     .words = "A B, each a run or a file", .min_words = 2, .max_words = 2,
     .examples = "  helix ckpt diff runs/a runs/b                                the latest of two runs; leaves with 6 if they differ\n"
                 "  helix ckpt diff runs/a/ckpt/best runs/a/ckpt/latest\n"},
    {.name = "ckpt verify", .summary = "read all of each checkpoint, compare checksums", .run = hx_cmd_ckpt_verify, .own = "|json|",
     .words = "[RUN|FOLDER|FILE]", .max_words = 1,
     .examples = "  helix ckpt verify runs/a                                     all of a run; leaves with 5 if one is damaged\n"
                 "  helix ckpt verify runs/a/ckpt/latest                         that one\n"},
    {.name = "ckpt delete", .summary = "remove one checkpoint", .run = hx_cmd_ckpt_delete, .own = "|force|json|",
     .words = "RUN|FOLDER STEP", .min_words = 2, .max_words = 2,
     .examples = "  helix ckpt delete runs/a 200                                 step 200, of the newest generation that has it\n"
                 "  helix ckpt delete runs/a gen-0001/step-00000200.h5 --force   that file, even if no other one is whole\n"
                 "\nLinks to it go too, in all generations: `latest` then means the newest whole one that is left, and where the best one went\n"
                 "none is the best until an evaluation finds another.\n"},
    {.name = "ckpt prune", .summary = "remove what retention would not keep", .run = hx_cmd_ckpt_prune, .own = "|keep|keep_every|dry_run|json|",
     .words = "[RUN|FOLDER]", .max_words = 1,
     .examples = "  helix ckpt prune runs/a --keep 1 --dry_run                   what would go: all but the newest and the best\n"
                 "  helix ckpt prune runs/a --keep 2 --keep_every 1000           every thousandth step stays as well\n"},
    {.name = "ckpt import", .summary = "make a checkpoint of Hugging Face's GPT-2 or LLaMA weights, or of an export", .run = hx_cmd_ckpt_import,
     .own = "|dtype|json|", .words = "HF_FOLDER --out RUN", .min_words = 1, .max_words = 1,
     .examples = "  helix ckpt import gpt2 --out weights/gpt2                    gpt2/config.json and gpt2/model.safetensors, or its shards\n"
                 "  helix train --config weights/gpt2/config.yaml --init_from weights/gpt2 --data.path corpus.txt --out runs/mine\n"
                 "  helix ckpt import llama --out weights/llama --dtype f32      in another element type\n"
                 "  helix ckpt import out/a --out weights/a                      what ckpt export --names helix wrote, of any model\n"
                 "\n--out names a folder without checkpoints; it gets config.yaml and a checkpoint of step 0, which eval, generate and\n"
                 "--init_from take. What a model computes stays the same; a config.json that asks for something that Helix has not\n"
                 "(rope_scaling, biases in LLaMA's attention, ...) is refused by name, and so is a tensor that nobody expects.\n"},
    {.name = "ckpt export", .summary = "write a checkpoint's weights as safetensors or NumPy arrays", .run = hx_cmd_ckpt_export,
     .own = "|format|names|shard_mb|dtype|use_ema|json|", .words = "RUN|FILE --out FOLDER", .min_words = 1, .max_words = 1,
     .examples = "  helix ckpt export runs/a --out hf/a                          config.json and model.safetensors, with Hugging Face's names\n"
                 "  helix ckpt export runs/a/ckpt/best --out hf/best --use_ema --dtype bf16 --shard_mb 5000\n"
                 "  helix ckpt export runs/a --out a --names helix --format npy  any model: blocks.0.attn.q.weight.npy, ...\n"
                 "\n--out names a folder that is empty or not there: it is whole in the end, or not there. Hugging Face's names need a model of\n"
                 "GPT-2's shape (model.norm layernorm, learned positions, plain feed-forward, biases) or of LLaMA's (launch/llama.yaml).\n"},
    {.name = NULL},
};

/* ---- the folder ---- */

hx_status hx__ckpt_folder(const hx_cli *cli, char folder[HX_PATH_BYTES]) {
    const char *word = cli->words.n ? cli->words.items[0] : cli->config.run.out;
    struct stat st;
    HX_TRY(hx__path_join(word, "ckpt", folder));
    if (stat(folder, &st) == 0 && S_ISDIR(st.st_mode)) return HX_OK;
    if (stat(word, &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", word, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return HX_FAIL(HX_ERR_CONFIG, "%s is a file: expected a run, or a folder of checkpoints", word);
    snprintf(folder, HX_PATH_BYTES, "%s", word); /* it was short enough with more behind it */
    return HX_OK;
}

static const char *marks_of(const hx_ckpt_file *f, char text[64]) {
    snprintf(text, 64, "%s%s%s%s", f->is_whole ? "" : " not whole", f->is_latest ? " latest" : "", f->is_best ? " best" : "",
             f->is_left ? " left" : "");
    return text;
}

static void time_of(int64_t seconds, char text[32]) {
    const time_t t = (time_t)seconds;
    struct tm tm;
    if (!localtime_r(&t, &tm) || strftime(text, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0) snprintf(text, 32, "?");
}

/* ---- list ---- */

/* The losses stand in the file; of one that cannot be read they are not known. */
static hx_train_state state_of(const char *folder, const hx_ckpt_file *f) {
    hx_train_state unknown = {.last_loss = NAN, .last_eval_loss = NAN};
    char path[HX_PATH_BYTES];
    hx_ckpt_info info;
    if (!f->is_whole || hx_ckpt_file_path(folder, f, path) != HX_OK || hx_ckpt_inspect(path, false, &info) != HX_OK) return unknown;
    hx_ckpt_info_destroy(&info);
    return info.state;
}

static json_t *file_json(const char *folder, const hx_ckpt_file *f) {
    const hx_train_state state = state_of(folder, f);
    char path[HX_PATH_BYTES] = "";
    (void)hx_ckpt_file_path(folder, f, path);
    return json_pack("{s:s, s:I, s:I, s:o, s:o, s:I, s:I, s:b, s:b, s:b, s:b}", "file", path, "generation", (json_int_t)f->generation, "step",
                     (json_int_t)f->step, "loss", hx__json_real(state.last_loss), "eval_loss", hx__json_real(state.last_eval_loss), "bytes",
                     (json_int_t)f->n_bytes, "written", (json_int_t)f->written, "whole", f->is_whole, "latest", f->is_latest, "best", f->is_best,
                     "left", f->is_left);
}

static hx_status print_files_json(const char *folder, const hx_ckpt_files *files) {
    json_t *all = json_array();
    for (int64_t i = 0; i < files->n; i++) json_array_append_new(all, file_json(folder, &files->items[i]));
    return hx__print_json(json_pack("{s:s, s:o}", "folder", folder, "checkpoints", all));
}

static void print_files(const char *folder, const hx_ckpt_files *files) {
    printf("%s: %lld checkpoint%s\n", folder, (long long)files->n, files->n == 1 ? "" : "s");
    if (files->n > 0) printf("  %10s %8s %10s %10s %10s  %-19s\n", "generation", "step", "loss", "held-out", "MB", "written");
    for (int64_t i = 0; i < files->n; i++) {
        const hx_ckpt_file *f = &files->items[i];
        const hx_train_state state = state_of(folder, f);
        char when[32], marks[64];
        time_of(f->written, when);
        printf("  %10lld %8lld %10.4f %10.4f %10.1f  %-19s %s\n", (long long)f->generation, (long long)f->step, state.last_loss, state.last_eval_loss,
               (double)f->n_bytes / 1e6, when, marks_of(f, marks));
    }
}

hx_status hx_cmd_ckpt_list(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    char folder[HX_PATH_BYTES];
    HX_CLEANUP(hx_ckpt_files_destroy) hx_ckpt_files files = {0};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("ckpt list"), cli, argc, argv));
    HX_TRY(hx__ckpt_folder(cli, folder));
    HX_TRY(hx_ckpt_list(folder, &files));
    if (cli->own.json) return print_files_json(folder, &files);
    print_files(folder, &files);
    return HX_OK;
}

/* ---- delete, prune ---- */

/* "200", "step-00000200.h5", "gen-0001/step-00000200.h5": names are compared with those that files have, so that none leads elsewhere. */
static hx_status find_file(const char *folder, const hx_ckpt_files *files, int64_t generation, const char *word, const hx_ckpt_file **out) {
    for (int64_t i = 0; i < files->n; i++) {
        char path[HX_PATH_BYTES], number[32];
        if (generation > 0 && files->items[i].generation != generation) continue;
        HX_TRY(hx_ckpt_file_path(folder, &files->items[i], path));
        const char *name = generation > 0 ? strrchr(path, '/') + 1 : path + strlen(folder) + 1;
        snprintf(number, sizeof number, "%lld", (long long)files->items[i].step);
        if (strcmp(word, number) != 0 && strcmp(word, name) != 0 && strcmp(word, path) != 0) continue;
        *out = &files->items[i];
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_CONFIG, "%s is none of the %lld checkpoints in %s: expected a step, or a name as gen-0001/step-00000200.h5; helix ckpt list "
                   "shows them", word, (long long)files->n, folder);
}

/* Of a generation's own folder the others are looked at too, whose links may lead into it. @param[out] generation  0: all are meant */
static hx_status open_for_removal(const char *name, hx_cli *cli, int argc, char *const *argv, char folder[HX_PATH_BYTES], int64_t *generation,
                                  hx_ckpt_files *files) {
    char above[HX_PATH_BYTES];
    HX_TRY(hx__cli_read(hx_command_find(name), cli, argc, argv));
    HX_TRY(hx__ckpt_folder(cli, folder));
    *generation = hx_ckpt_generation_of(folder, above);
    if (*generation > 0) snprintf(folder, HX_PATH_BYTES, "%s", above);
    return hx_ckpt_list(folder, files);
}

static hx_status print_removed(const hx_cli *cli, const char *folder, const hx_ckpt_files *removed) {
    if (cli->own.json) return print_files_json(folder, removed);
    for (int64_t i = 0; i < removed->n; i++) {
        char path[HX_PATH_BYTES];
        HX_TRY(hx_ckpt_file_path(folder, &removed->items[i], path));
        printf("%s %s, %.1f MB\n", cli->own.dry_run ? "would remove" : "removed", path, (double)removed->items[i].n_bytes / 1e6);
    }
    if (removed->n == 0) puts("nothing to remove");
    return HX_OK;
}

hx_status hx_cmd_ckpt_delete(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    char folder[HX_PATH_BYTES];
    HX_CLEANUP(hx_ckpt_files_destroy) hx_ckpt_files files = {0};
    const hx_ckpt_file *file;
    int64_t n_whole = 0, generation;
    (void)session;
    HX_TRY(open_for_removal("ckpt delete", cli, argc, argv, folder, &generation, &files));
    HX_TRY(find_file(folder, &files, generation, cli->words.items[1], &file));
    for (int64_t i = 0; i < files.n; i++) n_whole += files.items[i].is_whole;
    if (file->is_whole && n_whole == 1 && !cli->own.force)
        return HX_FAIL(HX_ERR_CONFIG, "step %lld is the only whole checkpoint in %s: expected --force, or another step", (long long)file->step, folder);
    hx_ckpt_file gone = *file;
    HX_TRY(hx_ckpt_delete(folder, file));
    return print_removed(cli, folder, &(hx_ckpt_files){.items = &gone, .n = 1});
}

/* What is kept goes from the list. A damaged file may be what retention counts as newest; a whole one always stays. */
hx_status hx_cmd_ckpt_prune(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    char folder[HX_PATH_BYTES];
    HX_CLEANUP(hx_ckpt_files_destroy) hx_ckpt_files files = {0};
    int64_t n = 0, generation;
    (void)session;
    HX_TRY(open_for_removal("ckpt prune", cli, argc, argv, folder, &generation, &files));
    for (int64_t i = 0; i < files.n; i++)
        if (generation == 0 || files.items[i].generation == generation) files.items[n++] = files.items[i];
    files.n = n;
    n = 0;
    hx_ckpt_choose(&files, cli->own.keep, cli->own.keep_every);
    for (int64_t i = 0; i < files.n; i++)
        if (!files.items[i].is_kept && !files.items[i].is_latest) files.items[n++] = files.items[i];
    files.n = n;
    for (int64_t i = 0; i < files.n && !cli->own.dry_run; i++) HX_TRY(hx_ckpt_delete(folder, &files.items[i]));
    return print_removed(cli, folder, &files);
}

/* helix ckpt import, helix ckpt export: weights that others trained, or will go on with. One process, no device; tensor by tensor. */
#include "launch/cli.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/ckpt/hf.h"
#include "io/data/npy.h"
#include "io/fs.h"
#include "launch/helix.h"

enum { FORMAT_SAFETENSORS, FORMAT_NPY };
enum { NAMES_HF, NAMES_HELIX };

/* --out has a default for runs; where something foreign is to be written it must be said. */
static hx_status check_out(const hx_cli *cli, const char *command) {
    static const hx_config defaults = HX_CONFIG_DEFAULT;
    if (strcmp(cli->config.run.out, defaults.run.out) != 0) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "helix %s needs --out FOLDER, other than %s", command, defaults.run.out);
}

/* --dtype: keep, or an element type; HX_DTYPE_COUNT: keep. */
static hx_dtype dtype_told(const hx_cli *cli) {
    static const hx_dtype dtypes[] = {HX_DTYPE_COUNT, HX_F32, HX_F64, HX_BF16, HX_F16};
    return dtypes[cli->own.dtype];
}

/* ---- import ---- */

static hx_status check_free(const char *out) {
    char file[HX_PATH_BYTES];
    if (hx__find_checkpoint(out, file) == HX_OK)
        return HX_FAIL(HX_ERR_CONFIG, "out: %s already holds checkpoints (%s): choose another folder with --out", out, file);
    hx_error_clear();
    return HX_OK;
}

/* What came in, beside the weights. */
typedef struct imported {
    const hx_cli *cli;
    hx_hf_import *in;
    hx_config config;           /* of the run that is made */
    char lost[HX_HF_LOST_TEXT]; /* hx_hf_config_lost */
    int n_tokenizer_files;
    hx_tokenizer_id tokenizer;
    char unread[512]; /* why Helix cannot use the tokenizer; "": it can, or there is none */
} imported;

static hx_status save(const imported *im, const char *folder, const char *config_text) {
    const hx_cli *cli = im->cli;
    const hx_train_state state = {.best_loss = INFINITY, .last_loss = NAN, .last_eval_loss = NAN, .seed = (uint64_t)cli->config.train.seed};
    hx_comm *self = NULL;
    hx_ckpt *ckpt = NULL;
    hx_status status;
    HX_TRY(hx_comm_self_open(&self));
    HX_TRY_GOTO(hx_ckpt_open(self, folder, &cli->config.ckpt, config_text, &ckpt), done);
    hx_ckpt_set_tokenizer(ckpt, &im->tokenizer);
    HX_TRY_GOTO(hx_ckpt_save(ckpt, &state, hx_hf_import_items(im->in), false), done);
done:
    hx_ckpt_close(&ckpt);
    hx_comm_close(&self);
    return status;
}

/* An export with our own names has the configuration of its run beside it; where the run and its data lay, nobody needs to know: another
 * machine does not have them. */
static hx_status open_own(imported *im, const char *folder, const char *yaml) {
    static const hx_config defaults = HX_CONFIG_DEFAULT;
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    const int n_sections = hx_config_sections(&im->config, sections);
    HX_TRY(hx__yaml_apply_file(sections, n_sections, yaml));
    im->config.run = defaults.run;
    im->config.data = defaults.data;
    if (im->cli->own.dtype > 0) im->config.model.dtype = im->cli->own.dtype - 1; /* the same words, without `keep` */
    return hx_hf_import_open_own(folder, dtype_told(im->cli), &im->in);
}

static hx_status open_import(imported *im) {
    const char *folder = im->cli->words.items[0];
    char json[HX_PATH_BYTES], yaml[HX_PATH_BYTES];
    HX_TRY(hx__path_join(folder, "config.json", json));
    HX_TRY(hx__path_join(folder, "config.yaml", yaml));
    im->config = (hx_config)HX_CONFIG_DEFAULT;
    if (access(json, F_OK) != 0 && access(yaml, F_OK) == 0) return open_own(im, folder, yaml);
    HX_TRY(hx_hf_import_open(folder, dtype_told(im->cli), &im->in));
    im->config.model = *hx_hf_import_config(im->in);
    return hx_hf_config_lost(json, &im->config.model, im->lost);
}

/* Carried also where Helix cannot read it: an export brings it back. */
static hx_status write_tokenizer(imported *im) {
    char folder[HX_PATH_BYTES];
    HX_TRY(hx__path_join(im->cli->config.run.out, "tokenizer", folder));
    HX_TRY(hx_tokenizer_copy(im->cli->words.items[0], folder, &im->n_tokenizer_files));
    if (im->n_tokenizer_files > 0 && hx__identify_tokenizer(folder, &im->tokenizer) != HX_OK) {
        snprintf(im->unread, sizeof im->unread, "%.500s", hx_error_message());
        hx_error_clear();
    }
    return HX_OK;
}

/* Configuration and tokenizer come before the checkpoint: where that is, all is there. */
static hx_status write_run(imported *im) {
    const hx_cli *cli = im->cli;
    char folder[HX_PATH_BYTES], *text = NULL;
    hx_status status;
    HX_TRY(hx__path_join(cli->config.run.out, "ckpt", folder));
    HX_TRY(hx__fs_mkdirs(cli->config.run.out));
    HX_TRY(hx_config_text(&im->config, &text));
    HX_TRY_GOTO(hx__folder_write_config(&cli->config.run, text), done);
    HX_TRY_GOTO(write_tokenizer(im), done);
    HX_TRY_GOTO(save(im, folder, text), done);
done:
    hx_mem_free((void **)&text);
    return status;
}

static void print_tokenizer(const imported *im) {
    char text[HX_TOKENIZER_ID_TEXT];
    if (im->unread[0])
        printf("its tokenizer is carried, but cannot be used: %s\n", im->unread);
    else if (im->tokenizer.kind != HX_TOKENIZER_UNKNOWN)
        printf("tokenizer: %s\n", hx_tokenizer_id_text(&im->tokenizer, text));
    else
        puts("no tokenizer is beside the weights: name theirs by --data.tokenizer where it matters");
}

static hx_status report_import(const imported *im) {
    char file[HX_PATH_BYTES], tokenizer[HX_TOKENIZER_ID_TEXT];
    const hx_cli *cli = im->cli;
    const hx_state_list *items = hx_hf_import_items(im->in);
    const char *dtype = hx_dtype_name(items->items[0].dtype), *out = cli->config.run.out;
    int64_t n = 0;
    for (int64_t i = 0; i < items->n_items; i++) n += hx_shape_count(&items->items[i].layout->shape);
    HX_TRY(hx__find_checkpoint(out, file));
    if (cli->own.json)
        return hx__print_json(json_pack("{s:s, s:I, s:I, s:s, s:s, s:i, s:s}", "checkpoint", file, "tensors", (json_int_t)items->n_items, "parameters",
                                        (json_int_t)n, "dtype", dtype, "tokenizer", hx_tokenizer_id_text(&im->tokenizer, tokenizer),
                                        "tokenizer_files", im->n_tokenizer_files, "lost", im->lost));
    printf("%s: %lld parameters in %lld tensors, %s\n", file, (long long)n, (long long)items->n_items, dtype);
    print_tokenizer(im);
    if (im->lost[0]) printf("dropouts that have no place here are not taken: %s; model.dropout is %g\n", im->lost, im->config.model.dropout);
    printf("go on with:  helix train --config %s/config.yaml --init_from %s --data.path ... --out ...\n", out, out);
    return HX_OK;
}

hx_status hx_cmd_ckpt_import(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    imported im = {.cli = cli};
    hx_status status;
    (void)session; /* local: no rank, no device */
    HX_TRY(hx__cli_read(hx_command_find("ckpt import"), cli, argc, argv));
    HX_TRY(check_out(cli, "ckpt import"));
    HX_TRY(check_free(cli->config.run.out));
    HX_TRY(open_import(&im));
    status = write_run(&im);
    if (status == HX_OK) status = report_import(&im);
    hx_hf_import_close(&im.in);
    return status;
}

/* ---- export: a folder that is whole or not there ---- */

static void close_folder(DIR **dir) {
    if (*dir) closedir(*dir);
}

static bool is_empty(const char *folder) {
    HX_CLEANUP(close_folder) DIR *dir = opendir(folder);
    if (!dir) return false;
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) return false;
    return true;
}

/* What an export that was killed, or failed, has left; never the folder of somebody else: its name ends in .export.tmp. */
static void remove_temporary(const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));) (void)unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    (void)rmdir(folder);
}

/* Names of the folder itself, of the one beside it that is renamed at the end, and of the one above. */
typedef struct place {
    char folder[HX_PATH_BYTES], temporary[HX_PATH_BYTES + 16], above[HX_PATH_BYTES];
} place;

static hx_status open_place(const char *out, place *p) {
    struct stat st;
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    if (n + sizeof ".export.tmp" > HX_OPTION_TEXT)
        return HX_FAIL(HX_ERR_CONFIG, "out: a path of %zu bytes: expected up to %zu", n, HX_OPTION_TEXT - sizeof ".export.tmp");
    snprintf(p->folder, sizeof p->folder, "%.*s", (int)n, out);
    const char *slash = strrchr(p->folder, '/');
    snprintf(p->above, sizeof p->above, "%.*s", slash ? (int)(slash - p->folder) + 1 : 1, slash ? p->folder : ".");
    snprintf(p->temporary, sizeof p->temporary, "%s.export.tmp", p->folder);
    if (lstat(p->folder, &st) == 0 && !is_empty(p->folder))
        return HX_FAIL(HX_ERR_CONFIG, "out: %s is there already: expected an empty folder, or none", p->folder);
    remove_temporary(p->temporary);
    HX_TRY(hx__fs_mkdirs(p->above));
    return hx__fs_mkdir(p->temporary, NULL);
}

static hx_status publish(const place *p) {
    HX_TRY(hx__fs_sync_folder(p->temporary));
    HX_TRY(hx__fs_rename(p->temporary, p->folder));
    return hx__fs_sync_folder(p->above);
}

/* ---- export: what is in it ---- */

typedef struct exported {
    const hx_cli *cli;
    char file[HX_PATH_BYTES]; /* the checkpoint */
    hx_config config;         /* of it */
    hx_hf_export *tensors;
    int n_tokenizer_files;
    place place;
} exported;

static hx_status write_safetensors(const exported *e) {
    static const char *const metadata[][2] = {{"format", "pt"}};
    char path[HX_PATH_BYTES];
    int64_t n, most = e->cli->own.shard_mb * 1000000;
    const hx_st_tensor *tensors = hx_hf_export_tensors(e->tensors, &n);
    HX_TRY(hx__path_join(e->place.temporary, "model.safetensors", path));
    return hx_safetensors_write(most > 0 ? e->place.temporary : path, tensors, n, metadata, 1, most, hx_hf_export_produce, e->tensors);
}

static hx_status write_array(const exported *e, int64_t i, const hx_st_tensor *t, hx_stream *stream, hx_device *device) {
    char path[HX_PATH_BYTES], name[256];
    HX_AUTO_TENSOR x = NULL;
    snprintf(name, sizeof name, "%.200s.npy", t->name);
    HX_TRY(hx__path_join(e->place.temporary, name, path));
    HX_TRY(hx_tensor_create(device, t->dtype, t->shape, &x));
    HX_TRY(hx_hf_export_produce(e->tensors, i, 0, (int64_t)hx_tensor_bytes(x), hx_tensor_data(x)));
    return hx_npy_save(stream, x, path);
}

static hx_status write_arrays(const exported *e) {
    int64_t n;
    const hx_st_tensor *tensors = hx_hf_export_tensors(e->tensors, &n);
    hx_device *device = NULL;
    hx_stream *stream = NULL;
    hx_status status;
    for (int64_t i = 0; i < n; i++)
        if (tensors[i].dtype == HX_BF16)
            return HX_FAIL(HX_ERR_CONFIG, "format: NumPy has no bf16, which %s is: add --dtype f32", tensors[i].name);
    HX_TRY(hx_register_backends());
    HX_TRY_GOTO(hx_device_open("ref", NULL, &device), done);
    HX_TRY_GOTO(hx_stream_create(device, &stream), done);
    for (int64_t i = 0; i < n; i++) HX_TRY_GOTO(write_array(e, i, &tensors[i], stream, device), done);
done:
    hx_stream_destroy(&stream);
    hx_device_close(&device);
    return status;
}

/* What reads the names reads the configuration beside them. */
static hx_status write_config(exported *e) {
    char path[HX_PATH_BYTES], *text = NULL;
    HX_TRY(hx__path_join(e->place.temporary, "config.json", path));
    if (e->cli->own.names == NAMES_HF) return hx_hf_config_write(path, &e->config.model);
    hx_run_config run = e->config.run;
    snprintf(run.out, sizeof run.out, "%.*s", (int)sizeof run.out - 1, e->place.temporary);
    HX_TRY(dtype_told(e->cli) == HX_DTYPE_COUNT ? hx_ckpt_config_text(e->file, &text) : hx_config_text(&e->config, &text));
    hx_status status = hx__folder_write_config(&run, text);
    hx_mem_free((void **)&text);
    return status;
}

/* The files that the run carries, unless they are of another tokenizer than this checkpoint's. */
static hx_status export_tokenizer(exported *e) {
    char kept[HX_PATH_BYTES];
    hx_tokenizer_id stored, id = {0};
    if (!hx__run_tokenizer(e->file, kept)) return HX_OK;
    HX_TRY(hx__tokenizer_of_checkpoint(e->file, &stored));
    if (hx__identify_tokenizer(kept, &id) != HX_OK) hx_error_clear(); /* Helix cannot read it: others can */
    return hx_tokenizer_id_fits(&stored, &id) ? hx_tokenizer_copy(kept, e->place.temporary, &e->n_tokenizer_files) : HX_OK;
}

static hx_status write_folder(exported *e) {
    HX_TRY(open_place(e->cli->config.run.out, &e->place));
    hx_status status = write_config(e);
    if (status == HX_OK) status = export_tokenizer(e);
    if (status == HX_OK) status = e->cli->own.format == FORMAT_NPY ? write_arrays(e) : write_safetensors(e);
    if (status == HX_OK) status = publish(&e->place);
    if (status != HX_OK) remove_temporary(e->place.temporary);
    return status;
}

static hx_status report_export(const exported *e) {
    int64_t n, n_bytes = 0;
    const hx_st_tensor *tensors = hx_hf_export_tensors(e->tensors, &n);
    for (int64_t i = 0; i < n; i++) n_bytes += hx_shape_count(&tensors[i].shape) * (int64_t)hx_dtype_bytes(tensors[i].dtype);
    if (e->cli->own.json)
        return hx__print_json(json_pack("{s:s, s:s, s:I, s:I, s:i}", "checkpoint", e->file, "out", e->place.folder, "tensors", (json_int_t)n, "bytes",
                                        (json_int_t)n_bytes, "tokenizer_files", e->n_tokenizer_files));
    printf("%s: %lld tensors of %s, %.1f MB%s\n", e->place.folder, (long long)n, e->file, (double)n_bytes / 1e6,
           e->n_tokenizer_files > 0 ? ", and its tokenizer" : "");
    return HX_OK;
}

static hx_status export_from(exported *e, hx_comm *self) {
    const hx_cli *cli = e->cli;
    const hx_dtype dtype = dtype_told(cli);
    HX_TRY(hx__find_checkpoint(cli->words.items[0], e->file));
    HX_TRY(hx__config_of_checkpoint(e->file, &e->config));
    if (dtype != HX_DTYPE_COUNT) e->config.model.dtype = cli->own.dtype - 1; /* the same words, without `keep` */
    HX_TRY(hx_hf_export_open(self, e->file, cli->own.names == NAMES_HF ? &e->config.model : NULL, cli->own.use_ema, dtype, &e->tensors));
    HX_TRY(write_folder(e));
    return report_export(e);
}

hx_status hx_cmd_ckpt_export(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    exported e = {.cli = cli};
    hx_comm *self = NULL;
    (void)session; /* local: no rank, no device */
    HX_TRY(hx__cli_read(hx_command_find("ckpt export"), cli, argc, argv));
    HX_TRY(check_out(cli, "ckpt export"));
    HX_TRY(hx_comm_self_open(&self));
    hx_status status = export_from(&e, self);
    hx_hf_export_close(&e.tensors);
    hx_comm_close(&self);
    return status;
}

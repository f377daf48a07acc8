/* What the ids of a run stand for: a checkpoint tells it, the run's folder carries the files. */
#include "launch/session_impl.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

hx_status hx__tokenizer_of_checkpoint(const char *file, hx_tokenizer_id *out) {
    hx_ckpt_info info;
    HX_TRY(hx_ckpt_inspect(file, false, &info));
    *out = info.tokenizer;
    hx_ckpt_info_destroy(&info);
    return HX_OK;
}

/* ---- the files ---- */

/* Cut the last part of a path off if it begins so, and the slashes before it. @return false: it does not, and is left as it is */
static bool cut_part(char *path, const char *begin) {
    char *slash = strrchr(path, '/'), *part = slash ? slash + 1 : path;
    if (!path[0] || strncmp(part, begin, strlen(begin)) != 0) return false;
    while (part > path && part[-1] == '/') part--;
    *part = '\0';
    return true;
}

/* As the path is written: the folder "ckpt" may be a link to somewhere else. */
bool hx__run_tokenizer(const char *file, char out[HX_PATH_BYTES]) {
    char run[HX_PATH_BYTES];
    struct stat st;
    snprintf(run, sizeof run, "%s", file);
    if (!cut_part(run, "step-") && !cut_part(run, "best") && !cut_part(run, "latest")) return false; /* links: hx_ckpt_resolve */
    (void)cut_part(run, "gen-");
    const bool is_above = file[0] == '/' || strchr(run, '/');
    if (!cut_part(run, "ckpt")) return false;
    const int n = snprintf(out, HX_PATH_BYTES, "%s%stokenizer", is_above ? run : ".", "/");
    return n < HX_PATH_BYTES && stat(out, &st) == 0 && S_ISDIR(st.st_mode);
}

hx_status hx__identify_tokenizer(const char *path, hx_tokenizer_id *out) {
    hx_tokenizer *t;
    HX_TRY(hx_tokenizer_open(path, &t));
    hx_tokenizer_id_get(t, out);
    hx_tokenizer_close(&t);
    return HX_OK;
}

bool hx__is_tokenizer(const char *path, const hx_tokenizer_id *id) {
    hx_tokenizer_id found;
    const bool is = hx__identify_tokenizer(path, &found) == HX_OK && found.kind == id->kind && found.hash == id->hash;
    hx_error_clear();
    return is;
}

/* Where a run finds the files of its tokenizer: where it is told, or with the weights that it begins with. */
static bool find_source(const hx_config *c, const hx_tokenizer_id *id, char out[HX_PATH_BYTES]) {
    char file[HX_PATH_BYTES];
    snprintf(out, HX_PATH_BYTES, "%s", c->data.tokenizer);
    if (out[0]) return true;
    const bool is_there = c->run.init_from[0] && hx__find_checkpoint(c->run.init_from, file) == HX_OK && hx__run_tokenizer(file, out);
    hx_error_clear();
    return is_there && hx__is_tokenizer(out, id);
}

hx_status hx__folder_keep_tokenizer(const hx_config *c, const hx_tokenizer_id *id) {
    char from[HX_PATH_BYTES], to[HX_PATH_BYTES];
    int n_files;
    if (id->kind != HX_TOKENIZER_BPE || !find_source(c, id, from)) return HX_OK;
    HX_TRY(hx__path_join(c->run.out, "tokenizer", to));
    return hx_tokenizer_copy(from, to, &n_files);
}

/* ---- comparing ---- */

hx_status hx__same_tokenizer(const char *file, const hx_tokenizer_id *stored, const char *what, const hx_tokenizer_id *given, const char *way_on) {
    char was[HX_TOKENIZER_ID_TEXT], is[HX_TOKENIZER_ID_TEXT];
    if (hx_tokenizer_id_fits(stored, given)) return HX_OK;
    return HX_FAIL(HX_ERR_MISMATCH, "%.256s was trained on ids of this tokenizer: %s; %.300s %s: expected %s", file,
                   hx_tokenizer_id_text(stored, was), what, hx_tokenizer_id_text(given, is), way_on);
}

hx_status hx__same_tokenizer_of_data(const hx_session *s, const char *file, const hx_tokenizer_id *stored, const hx_session_data *data,
                                     const char *way_on) {
    char what[HX_OPTION_TEXT + 32], pack[HX_PATH_BYTES], expected[HX_PATH_BYTES + 200];
    const bool is_kept = stored->kind == HX_TOKENIZER_BPE && hx__run_tokenizer(file, pack);
    snprintf(what, sizeof what, "data.path = %s holds", s->config.data.path);
    snprintf(expected, sizeof expected, "data of the same one%s%s%s%s", is_kept ? " (helix data pack --tokenizer " : "", is_kept ? pack : "",
             is_kept ? ")" : "", way_on);
    return hx__same_tokenizer(file, stored, what, &data->tokenizer, expected);
}

/* Checkpoints: global logical tensors in one HDF5 file, written by all ranks at once.
 *
 * Layout of a file, format 2 (any HDF5 tool opens it):
 *   /model/<name>          a whole tensor, e.g. /model/blocks.0.attn.q.weight; attribute hash: see below
 *   /optim/<slot>/<name>   the same shape as its parameter
 *   /ema/<name>            its moving average, if the run keeps one
 *   /train                 attributes: step, cursor, seed, best_loss, ... (hx_train_state; nothing per rank)
 *   /meta                  attributes: format (version), config (YAML text), library versions, Helix's version and commit, world size,
 *                          kernels and tokenizer_kind, _vocab, _hash (if told), state_hash; data set blocks: what each rank wrote, with its XXH3
 * A rank writes its own hyperslabs (hx_layout) at their place in the file, so any layout reads any file; nothing is gathered, and no rank
 * holds more than 64 MiB beside its state.
 *
 * hash is the sum over elements of XXH3_64(bytes of element i, seed i) mod 2^64: it does not depend on who holds what. It is stored for
 * each tensor, computed again from memory after a load, and compared.
 *
 * A folder has one folder of files for each incarnation of the run, gen-0001, gen-0002, ...: a process writes to its own only, so that a
 * ghost of an older job replaces nothing; readers take the highest in which there is a whole checkpoint.
 *   gen-0002/step-00000020.h5   latest -> step-...   best -> step-... or ../gen-0001/step-...
 * A save goes to `.step-00000020.h5.tmp`, is fsynced by every rank that wrote, sealed, renamed, and the folder is fsynced; then `latest`
 * points to it; then what retention does not keep is removed. A kill at any moment leaves the previous file whole.
 * Files of format 1 (one folder, no generations, element sums in blocks) are read for ever.
 *
 * Beside training (the option async) a thread copies the state and writes the copy: hx_ckpt_begin returns before either is done, and
 * hx_ckpt_settle, before the optimizer's update, waits for the copy.
 *
 *     hx_ckpt *ckpt; HX_TRY(hx_ckpt_open(world, "runs/a/ckpt", &cfg, config_text, &ckpt));
 *     HX_TRY(hx_ckpt_save(ckpt, &state, &items, false));
 *     HX_TRY(hx_ckpt_load(world, "runs/a/ckpt", &items, &state));
 */
#ifndef HX_IO_CKPT_CKPT_H
#define HX_IO_CKPT_CKPT_H

#include "core/base/options.h"
#include "dist/comm/comm.h"
#include "io/text/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_CKPT_FORMAT 2 /* files of a higher version are refused, lower ones are read for ever */
#define HX_PATH_BYTES  4096

#define HX_CKPT_OPTIONS(X)                                                                                   \
    X(INT, every, 200, -1, 1e15, "steps between checkpoints; 0: every 10 epochs; -1: only at the end")       \
    X(INT, keep, 3, 1, 1 << 20, "checkpoints kept beside the best one")                                      \
    X(INT, keep_every, 0, 0, 1e15, "checkpoints whose step is a multiple of this are kept for ever; 0: none") \
    X(CHOICE, async, 0, "off|wait|skip", 0, "write beside training, from a copy of the rank's share that is made beside it too; a save that finds the last one unfinished waits, or is left out unless it is the best or the last")

HX_OPTIONS_STRUCT(hx_ckpt_config, HX_CKPT_OPTIONS);
#define HX_CKPT_DEFAULT HX_OPTIONS_DEFAULT(HX_CKPT_OPTIONS)
extern const hx_option hx_ckpt_options[];
extern const int hx_ckpt_n_options;

typedef struct hx_ckpt hx_ckpt;

/** Collective. Creates the folder if need be, and in it this incarnation's own one, gen-NNNN; removes temporary files of killed saves,
 *  and folders that killed incarnations left empty.
 *  @param folder, config_text  copied */
hx_status hx_ckpt_open(hx_comm *comm, const char *folder, const hx_ckpt_config *config, const char *config_text, hx_ckpt **out);
/** Waits for a save that is under way. The memory of steady items must be there until hx_ckpt_settle, or this, has returned. */
void hx_ckpt_close(hx_ckpt **ckpt);
/** Local, alike on all ranks, before the first save: what decides the bits of the run's results, stored beside the configuration.
 *  @param kernels  hx_device_props.kernels; copied */
hx_status hx_ckpt_set_kernels(hx_ckpt *ckpt, const char *kernels);
/** Local, alike on all ranks, before the first save: whose ids the model was trained on, stored beside the configuration. */
void hx_ckpt_set_tokenizer(hx_ckpt *ckpt, const hx_tokenizer_id *tokenizer);
/** Collective. The file is whole and published when this returns, whatever the option async says; a save that is under way is waited for.
 *  On failure (full disk, quota, ...) all ranks return it, and earlier checkpoints are untouched. */
hx_status hx_ckpt_save(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best);
/** Local, on the thread that saves; waits for a save that is under way. Saves of these items will be begun: the memory of their copies is
 *  mapped, and a thread takes its pages beside training. Else the first copy does, which takes several times as long for it. What memory
 *  is wanting the save tells. */
void hx_ckpt_expect(hx_ckpt *ckpt, const hx_state_list *items);
/** Collective. The same as the option async says: with wait and skip a thread copies this rank's share, and writes it from there. What
 *  is_steady says of an item decides when: steady ones until hx_ckpt_settle returns; all others, those that are produced, and those of a
 *  second device before this returns. No work that writes a device's items may be under way. The copy takes host memory of
 *  hx_ckpt_share_bytes, held until hx_ckpt_close. The best checkpoint is never left out.
 *  @param items  the list may be destroyed, what `data` points to may not
 *  @param[out] result  the same on all ranks */
hx_status hx_ckpt_begin(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best, hx_save_result *result);
/** Local, on the thread that saves, before anything changes a steady item of a save that was begun, or frees it: an optimizer's update,
 *  averages in the place of weights, a load. Returns when the copy is made; what it costs is a lock where none is being made. hx_ckpt_begin,
 *  _save, _finish and _close do it by themselves, and hx_trainer for what it changes. */
void hx_ckpt_settle(hx_ckpt *ckpt);
/** Local. Returns when no save is under way; how it went is what hx_ckpt_ended tells. */
void hx_ckpt_finish(hx_ckpt *ckpt);
/** Local. True once after each save that was begun and has ended, as long as it is asked between two of them. */
bool hx_ckpt_ended(hx_ckpt *ckpt, hx_save_end *out);
/** Local. Bytes of the items that this rank writes: its share among replicas. */
hx_status hx_ckpt_share_bytes(const hx_state_list *items, int64_t *out);
/** The trainer's hook; borrows ckpt. */
void hx_ckpt_hook(hx_ckpt *ckpt, hx_checkpoint_hook *out);

/** Collective, with lists that differ in nothing but layouts. Read the items' hyperslabs and the state, from a file, or from the
 *  latest in a folder; the file may hold more. What then lies in memory is compared with the checksums. Nothing of `state` is
 *  written on failure; tensors may then be partly overwritten.
 *  @return HX_ERR_IO: absent or unreadable; HX_ERR_FORMAT: not a checkpoint, cut short, or of a newer format;
 *          HX_ERR_MISMATCH: the first name that is missing or has another shape or dtype, with both;
 *          HX_ERR_CORRUPT, on another rank HX_ERR_REMOTE: the tensor whose checksum fails, which of its elements, where in the
 *          file, and who wrote them */
hx_status hx_ckpt_load(hx_comm *comm, const char *path, const hx_state_list *items, hx_train_state *state);
/* A tensor of the file that the list did not ask for, or one of the list that was not loaded. */
typedef struct hx_ckpt_difference {
    char name[192];
    char why[512]; /* missing in the file, or shapes and dtypes there and here; "" for one that was not asked for */
} hx_ckpt_difference;
typedef struct hx_ckpt_partial {
    int64_t n_loaded;
    int64_t n_left; /* of the list */
    hx_ckpt_difference *left; /* owned, in the list's order */
    int64_t n_unwanted; /* of the file */
    hx_ckpt_difference *unwanted; /* owned, by name */
} hx_ckpt_partial;
/** Collective. As hx_ckpt_load, but what does not fit is left as it is, and reported.
 *  @param[out] report  the same on all ranks; hx_ckpt_partial_destroy */
hx_status hx_ckpt_load_partial(hx_comm *comm, const char *path, const hx_state_list *items, hx_train_state *state, hx_ckpt_partial *report);
void hx_ckpt_partial_destroy(hx_ckpt_partial *report);
/** Local. The file that `path` means: itself; of a folder, the latest of the highest generation in which there is a whole one, or the
 *  newest whole one of it; of FOLDER/latest the same, and of FOLDER/best the best one, though these links lie in the generations.
 *  @return HX_ERR_IO: there is none */
hx_status hx_ckpt_resolve(const char *path, char file[HX_PATH_BYTES]);

/* ---- the folder ---- */

/* A file in a folder of checkpoints. */
typedef struct hx_ckpt_file {
    int64_t generation, step; /* generation 0: directly in the folder */
    int64_t n_bytes, written; /* seconds since 1970 */
    bool is_whole;            /* its seal says so; checksums of tensors are not compared */
    bool is_latest, is_best;  /* what the folder and FOLDER/best mean */
    bool is_left;             /* of a branch that a resume from an older checkpoint has left */
    bool is_kept;             /* hx_ckpt_choose */
} hx_ckpt_file;
typedef struct hx_ckpt_files {
    hx_ckpt_file *items; /* owned; newest first, then those of branches that were left */
    int64_t n, capacity;
} hx_ckpt_files;

/** Local. All files of a folder, or of one generation. Links are not followed. @return HX_ERR_IO: no folder */
hx_status hx_ckpt_list(const char *folder, hx_ckpt_files *out);
void hx_ckpt_files_destroy(hx_ckpt_files *files);
hx_status hx_ckpt_file_path(const char *folder, const hx_ckpt_file *file, char path[HX_PATH_BYTES]);
/** Local. Set is_kept as retention does: the best, the newest `keep` beside it, and with keep_every those of its multiples, of which the
 *  newest counts where a step was written twice. */
void hx_ckpt_choose(hx_ckpt_files *files, int64_t keep, int64_t keep_every);
/** Local. The number of the generation whose own folder this is, 0: it is none's. @param[out] above  of a generation's: the folder of all */
int64_t hx_ckpt_generation_of(const char *folder, char above[HX_PATH_BYTES]);
/** Local. Remove a file, the links to it, and its generation's folder when that is empty and not the highest. What `latest` meant is from
 *  then on the newest whole file that is left, and no file is the best where that one went.
 *  @param folder  of all generations: links in any of them may lead to the file */
hx_status hx_ckpt_delete(const char *folder, const hx_ckpt_file *file);

/** Local. The configuration text stored in a checkpoint; free with hx_mem_free. */
hx_status hx_ckpt_config_text(const char *file, char **text);

/* Field of hx_train_state, dtype under which it is stored. A file of an older version may lack those of the second
 * list: they are zero then, which means that they are not known. */
#define HX_CKPT_STATE_FIELDS(X)                                                                              \
    X(step, I64)                                                                                             \
    X(cursor, I64)                                                                                           \
    X(seed, U64)                                                                                             \
    X(best_loss, F64)                                                                                        \
    X(n_bad_evals, I64)                                                                                      \
    X(n_skipped, I64)                                                                                        \
    X(last_loss, F64)                                                                                        \
    X(last_eval_loss, F64)                                                                                   \
    X(elapsed_s, F64)
#define HX_CKPT_STATE_ADDED(X)                                                                               \
    X(loss_scale, F64)                                                                                       \
    X(n_clean, I64)                                                                                          \
    X(data_hash, U64)                                                                                        \
    X(eval_step, I64)                                                                                        \
    X(eval_epoch, I64)

/* What a file contains, for `helix ckpt` and tests. */
typedef struct hx_ckpt_entry {
    char name[192];
    hx_dtype dtype;
    hx_shape shape;
    int64_t offset; /* byte of the file at which the elements begin */
    uint64_t hash;  /* sum over elements; the same in files of all formats */
} hx_ckpt_entry;
typedef struct hx_ckpt_info {
    int format;
    hx_train_state state;
    char versions[256];
    char helix[128];     /* version and commit; "": of a format that does not tell */
    uint64_t state_hash, model_hash; /* of all tensors, and of those below /model: equal for equal names and bits, whoever holds what */
    char kernels[128]; /* hx_ckpt_set_kernels; "": not told, as in files of older versions */
    hx_tokenizer_id tokenizer; /* hx_ckpt_set_tokenizer; unknown: not told, as in files of older versions */
    int world_size;
    int64_t n_entries;
    hx_ckpt_entry *entries; /* owned, by name */
} hx_ckpt_info;
/** Local. @param verify  also hx_ckpt_verify; HX_ERR_CORRUPT then tells the first damage */
hx_status hx_ckpt_inspect(const char *file, bool verify, hx_ckpt_info *out);
void hx_ckpt_info_destroy(hx_ckpt_info *info);

/* One block, that is, what a rank wrote in one go, whose bytes are not those that were written. */
typedef struct hx_ckpt_damage {
    char name[192];
    hx_status status;   /* HX_ERR_CORRUPT, or HX_ERR_IO if it cannot be read */
    int64_t begin, end; /* the block's first element, and the one behind its last, counted through the whole tensor */
    int64_t offset;     /* byte of the file at which element `begin` lies */
    int rank;           /* which wrote it; -1: not known, as in files of format 1 */
    char host[64];
} hx_ckpt_damage;
#define HX_CKPT_DAMAGES     1000 /* that are described; all are counted */
#define HX_CKPT_DAMAGE_TEXT 512  /* bytes of one in words */
typedef struct hx_ckpt_report {
    int64_t n_tensors, n_blocks, n_bytes; /* compared */
    int64_t n_damaged;                    /* blocks */
    int64_t n_damages;
    hx_ckpt_damage *damages; /* owned, in the order of the file's list of blocks */
} hx_ckpt_report;
/** Local. Read everything and compare each block with its checksum, to the end of the file whatever is found.
 *  @return HX_OK: the report tells what is damaged; HX_ERR_FORMAT, HX_ERR_CORRUPT, HX_ERR_IO: it is no checkpoint, or what
 *          describes the tensors is damaged */
hx_status hx_ckpt_verify(const char *file, hx_ckpt_report *out);
void hx_ckpt_report_destroy(hx_ckpt_report *report);
/** A damage in words, e.g. "/model/w: elements 0 to 1023 fail their checksum (from byte 70144 on, written by rank 1 on node07)". */
const char *hx_ckpt_damage_text(const hx_ckpt_damage *damage, char text[HX_CKPT_DAMAGE_TEXT]);

/** Local. Write and read back a small file in parallel in `folder`: the doctor's check. Collective over comm. */
hx_status hx_ckpt_self_test(hx_comm *comm, const char *folder);

#ifdef __cplusplus
}
#endif
#endif

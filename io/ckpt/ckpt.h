/* Checkpoints: global logical tensors in one HDF5 file, written by all ranks at once.
 *
 * Layout of a file, format 2 (any HDF5 tool opens it):
 *   /model/<name>          a whole tensor, e.g. /model/blocks.0.attn.q.weight; attribute hash: see below
 *   /optim/<slot>/<name>   the same shape as its parameter
 *   /ema/<name>            its moving average, if the run keeps one
 *   /train                 attributes: step, cursor, seed, best_loss, ... (hx_train_state; nothing per rank)
 *   /meta                  attributes: format (version), config (YAML text), library versions, Helix's version and commit, world size,
 *                          kernels (if told), state_hash; data set blocks: what each rank wrote, with its XXH3
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
 *     hx_ckpt *ckpt; HX_TRY(hx_ckpt_open(world, "runs/a/ckpt", &cfg, config_text, &ckpt));
 *     HX_TRY(hx_ckpt_save(ckpt, &state, &items, false));
 *     HX_TRY(hx_ckpt_load(world, "runs/a/ckpt", &items, &state));
 */
#ifndef HX_IO_CKPT_CKPT_H
#define HX_IO_CKPT_CKPT_H

#include "core/base/options.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_CKPT_FORMAT 2 /* files of a higher version are refused, lower ones are read for ever */
#define HX_PATH_BYTES  4096

#define HX_CKPT_OPTIONS(X)                                                                                   \
    X(INT, every, 200, -1, 1e15, "steps between checkpoints; 0: every 10 epochs; -1: only at the end")       \
    X(INT, keep, 3, 1, 1 << 20, "checkpoints kept beside the best one")                                      \
    X(INT, keep_every, 0, 0, 1e15, "checkpoints whose step is a multiple of this are kept for ever; 0: none") \
    X(CHOICE, async, 0, "off|wait|skip", 0, "write beside training, from a copy of the rank's share; a save that finds the last one unfinished waits, or is left out")

HX_OPTIONS_STRUCT(hx_ckpt_config, HX_CKPT_OPTIONS);
#define HX_CKPT_DEFAULT HX_OPTIONS_DEFAULT(HX_CKPT_OPTIONS)
extern const hx_option hx_ckpt_options[];
extern const int hx_ckpt_n_options;

typedef struct hx_ckpt hx_ckpt;

/** Collective. Creates the folder if need be; removes temporary files of killed saves.
 *  @param folder, config_text  copied */
hx_status hx_ckpt_open(hx_comm *comm, const char *folder, const hx_ckpt_config *config, const char *config_text, hx_ckpt **out);
void hx_ckpt_close(hx_ckpt **ckpt);
/** Local, alike on all ranks, before the first save: what decides the bits of the run's results, stored beside the configuration.
 *  @param kernels  hx_device_props.kernels; copied */
hx_status hx_ckpt_set_kernels(hx_ckpt *ckpt, const char *kernels);
/** Collective. On failure (full disk, quota, ...) all ranks return it, and earlier checkpoints are untouched. */
hx_status hx_ckpt_save(hx_ckpt *ckpt, const hx_train_state *state, const hx_state_list *items, bool is_best);
/** The trainer's hook; borrows ckpt. */
void hx_ckpt_hook(hx_ckpt *ckpt, hx_checkpoint_hook *out);

/** Collective. Read the items' hyperslabs and the state, from a file, or from the latest in a folder. Checksums
 *  are verified. Nothing of `state` is written on failure; tensors may then be partly overwritten.
 *  @return HX_ERR_IO: absent or unreadable; HX_ERR_FORMAT: not a checkpoint, cut short, or of a newer format;
 *          HX_ERR_MISMATCH: the first name that is missing or has another shape or dtype, with both;
 *          HX_ERR_CORRUPT: the tensor whose checksum fails */
hx_status hx_ckpt_load(hx_comm *comm, const char *path, const hx_state_list *items, hx_train_state *state);
/** Local. The file that `path` means: itself, or the newest complete one in the folder.
 *  @return HX_ERR_IO: there is none */
hx_status hx_ckpt_resolve(const char *path, char file[HX_PATH_BYTES]);
/** Local. The configuration text stored in a checkpoint; free with hx_mem_free. */
hx_status hx_ckpt_config_text(const char *file, char **text);

/* What a file contains, for `helix inspect` and tests. */
typedef struct hx_ckpt_entry {
    char name[192];
    hx_dtype dtype;
    hx_shape shape;
} hx_ckpt_entry;
typedef struct hx_ckpt_info {
    int format;
    hx_train_state state;
    char versions[256];
    char kernels[128]; /* hx_ckpt_set_kernels; "": not told, as in files of older versions */
    int world_size;
    int64_t n_entries;
    hx_ckpt_entry *entries; /* owned, by name */
    uint64_t model_hash;    /* equal if names, dtypes, shapes and stored checksums of all of /model are */
} hx_ckpt_info;
/** Local. @param verify  also read everything and compare checksums: model_hash is then that of the elements
 *  Formula: model_hash = sum over tensors of XXH3_64(checksums, seed: XXH3_64 of name, dtype and shape), mod 2^64 */
hx_status hx_ckpt_inspect(const char *file, bool verify, hx_ckpt_info *out);
void hx_ckpt_info_destroy(hx_ckpt_info *info);

/** Local. Write and read back a small file in parallel in `folder`: the doctor's check. Collective over comm. */
hx_status hx_ckpt_self_test(hx_comm *comm, const char *folder);

#ifdef __cplusplus
}
#endif
#endif

/* Weights of two families of Hugging Face's models, in and out: GPT-2 and LLaMA. A folder of theirs is config.json beside
 * model.safetensors, or shards of it; names, the order of dims and fused tensors differ from Helix's, values do not:
 * a tensor that goes in and out again has the same bits.
 *
 *     hx_hf_import *in; HX_TRY(hx_hf_import_open("gpt2", HX_DTYPE_COUNT, &in));
 *     HX_TRY(hx_ckpt_save(ckpt, &state, hx_hf_import_items(in), false));     // tensor by tensor, straight from the mapped files
 *     hx_hf_import_close(&in);
 *
 * What would change the function that a model computes, and that Helix has not, is refused by name: rope_scaling, biases of
 * LLaMA's attention, scale_attn_by_inverse_layer_idx, ... So is a tensor that no table knows.
 */
#ifndef HX_IO_CKPT_HF_H
#define HX_IO_CKPT_HF_H

#include "core/nn/layers.h"
#include "dist/comm/comm.h"
#include "io/ckpt/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Local. The configuration that a config.json describes; its dtype stays the default, for the tensors tell theirs. resid_pdrop becomes
 *  dropout; hx_hf_config_lost tells what becomes of the others.
 *  @return HX_ERR_IO; HX_ERR_FORMAT: key, value, expectation; HX_ERR_UNSUPPORTED: the family, or what of it Helix has not */
hx_status hx_hf_config_read(const char *path, hx_gpt_config *out);
#define HX_HF_LOST_TEXT 256
/** Local. What a config.json asks of training that a model here has not, dropouts that differ from the one of `config`, in words:
 *  "attn_pdrop = 0.1, embd_pdrop = 0.2". What the model computes is the same without. @param[out] text  "": nothing is lost
 *  @return HX_ERR_IO; HX_ERR_FORMAT: no JSON object */
hx_status hx_hf_config_lost(const char *path, const hx_gpt_config *config, char text[HX_HF_LOST_TEXT]);
/** Local. The config.json of a configuration, whole or not there.
 *  @return HX_ERR_UNSUPPORTED names the option that fits neither family */
hx_status hx_hf_config_write(const char *path, const hx_gpt_config *config);

/* ---- in ---- */

typedef struct hx_hf_import hx_hf_import;

/** Local. Open a folder and compare all of its tensors with what its config.json makes expect; no element is read yet.
 *  @param dtype  of the model; HX_DTYPE_COUNT: that of the files, which must have one only
 *  @return as hx_safetensors_open and hx_hf_config_read; HX_ERR_MISMATCH: a tensor that is missing, of another shape or type;
 *          HX_ERR_UNSUPPORTED: a tensor that the family has not */
hx_status hx_hf_import_open(const char *folder, hx_dtype dtype, hx_hf_import **out);
/** Local. The same for tensors that have our own names, as hx_hf_export writes them without a configuration: taken as they are, of any
 *  model. Whether they are those of a configuration is found out when they are loaded.
 *  @param dtype  of those that hold floating numbers; HX_DTYPE_COUNT: as they are
 *  @return as hx_safetensors_open; HX_ERR_FORMAT: there are none; HX_ERR_UNSUPPORTED: a name that is too long */
hx_status hx_hf_import_open_own(const char *folder, hx_dtype dtype, hx_hf_import **out);
void hx_hf_import_close(hx_hf_import **in);
/** Not after hx_hf_import_open_own. */
const hx_gpt_config *hx_hf_import_config(const hx_hf_import *in);
/** The model's tensors as hx_ckpt_save takes them; borrowed. Their values are made while they are saved. */
const hx_state_list *hx_hf_import_items(const hx_hf_import *in);

/* ---- out ---- */

typedef struct hx_hf_export hx_hf_export;

/** Local. Prepare the tensors of a checkpoint for hx_safetensors_write; no element is read yet.
 *  @param self     a communicator of one rank, borrowed
 *  @param file     a checkpoint (hx_ckpt_resolve)
 *  @param config   of its model: names and shapes are Hugging Face's; NULL: Helix's own, of any model
 *  @param use_ema  moving averages where there are some
 *  @param dtype    to convert to; HX_DTYPE_COUNT: as they are
 *  @return as hx_ckpt_inspect and hx_hf_config_write; HX_ERR_CONFIG: there are no averages; HX_ERR_MISMATCH: file and config differ */
hx_status hx_hf_export_open(hx_comm *self, const char *file, const hx_gpt_config *config, bool use_ema, hx_dtype dtype, hx_hf_export **out);
void hx_hf_export_close(hx_hf_export **out);
/** [n], borrowed; they have no `data`. */
const hx_st_tensor *hx_hf_export_tensors(const hx_hf_export *out, int64_t *n);
/** hx_st_produce with the export as self. Pieces of one tensor, in order, then those of the next: one is in memory at a time. Checksums
 *  are verified. */
hx_status hx_hf_export_produce(void *self, int64_t i, int64_t offset, int64_t n_bytes, void *out);

#ifdef __cplusplus
}
#endif
#endif

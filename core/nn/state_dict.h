/* State dicts: a model's tensors by name, to look at, to copy, and to load from elsewhere: its parameters, and its
 * buffers (running statistics of batch norm). Names are those of the logical tensors ("blocks.0.attn.q.weight"), also
 * where several share one storage. Checkpoints of a run are written by io/ckpt from layouts; this is for whole models in
 * one process.
 *
 *     hx_state_dict dict = {0};
 *     HX_TRY(hx_state_dict_get(model, stream, NULL, &dict));                // views of the model's own storage
 *     HX_TRY(hx_state_dict_load(other, stream, &dict, 0, NULL));            // all of it, or nothing
 *     hx_state_dict_destroy(&dict);
 */
#ifndef HX_CORE_NN_STATE_DICT_H
#define HX_CORE_NN_STATE_DICT_H

#include "core/nn/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_state_entry {
    char name[HX_NAME_BYTES];
    hx_tensor *tensor; /* owned handle */
} hx_state_entry;

typedef struct hx_state_dict {
    hx_state_entry *items; /* owned, in the model's order: parameters, then buffers */
    int64_t n_items, capacity;
} hx_state_dict;

/** The tensors of a model.
 *  @param stream   of the model's device; used for copies
 *  @param copy_to  NULL: views that share the model's storage, so that its updates show in them; a device: copies
 *                  there, e.g. on a host device to keep them beyond the model
 *  @return HX_ERR_UNSUPPORTED names a tensor of which only a part is held here */
hx_status hx_state_dict_get(hx_layer *root, hx_stream *stream, hx_device *copy_to, hx_state_dict *out);
/** Append a tensor (retained) under a name. @return HX_ERR_ARG if the name is too long */
hx_status hx_state_dict_add(hx_state_dict *dict, const char *name, hx_tensor *tensor);
/** The tensor of that name (borrowed), or NULL. */
hx_tensor *hx_state_dict_find(const hx_state_dict *dict, const char *name);
void hx_state_dict_destroy(hx_state_dict *dict);

typedef enum hx_load_flags {
    HX_LOAD_PARTIAL = 1, /* load what fits and report the rest */
    HX_LOAD_CONVERT = 2  /* another floating dtype is converted, not a mismatch */
} hx_load_flags;

typedef enum hx_load_kind {
    HX_LOAD_MISSING,    /* the model has it, the dict has not */
    HX_LOAD_UNEXPECTED, /* the dict has it, the model has not */
    HX_LOAD_MISMATCHED  /* shapes or dtypes differ */
} hx_load_kind;

typedef struct hx_load_issue {
    hx_load_kind kind;
    char name[HX_NAME_BYTES];
    hx_shape want, given; /* of the model, of the dict; the side that has none is all zero */
    hx_dtype want_dtype, given_dtype;
} hx_load_issue;

typedef struct hx_load_report {
    hx_load_issue *items; /* owned: missing and mismatched in the model's order, then unexpected in the dict's */
    int64_t n_items, capacity;
    int64_t n_loaded; /* tensors written */
} hx_load_report;

/** Copy the tensors of a dict, on any device, into a model.
 *  @param stream  of the model's device
 *  @param flags   0: strict, names, shapes and dtypes must be the model's; or hx_load_flags
 *  @param[out] report  destroyed by the caller; may be NULL
 *  @return HX_ERR_MISMATCH (strict) lists every missing, unexpected and mismatched name, HX_ERR_ARG: a name stands
 *          twice in the dict; nothing has been written then */
hx_status hx_state_dict_load(hx_layer *root, hx_stream *stream, const hx_state_dict *dict, unsigned flags,
                             hx_load_report *report);
void hx_load_report_destroy(hx_load_report *report);

#ifdef __cplusplus
}
#endif
#endif

/* How gradients flow through a model: after a backward, one line for each layer that has parameters.
 *
 *     hx_grad_flow flow;
 *     HX_TRY(hx_grad_flow_measure(&ctx, gpt, 1.0 / n_targets, &flow));
 *     HX_TRY(hx_grad_flow_text(&flow, text, sizeof text, NULL));
 *     hx_grad_flow_destroy(&flow);
 */
#ifndef HX_CORE_ANALYSIS_GRAD_FLOW_H
#define HX_CORE_ANALYSIS_GRAD_FLOW_H

#include "core/nn/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_FLOW_VANISHING_NORM 1e-6
#define HX_FLOW_EXPLODING_NORM 1e3

/* kind, word in the table */
#define HX_FLOW_KINDS(X)                                                                                     \
    X(HX_FLOW_OK, "ok")                                                                                      \
    X(HX_FLOW_VANISHING, "vanishing")    /* norm < 1e-6 */                                                   \
    X(HX_FLOW_EXPLODING, "exploding")    /* norm > 1e3 */                                                    \
    X(HX_FLOW_NON_FINITE, "non-finite")  /* NaN or infinity among the elements */                            \
    X(HX_FLOW_NO_GRADIENT, "no gradient") /* took no part in what was differentiated */                      \
    X(HX_FLOW_FROZEN, "frozen")          /* all parameters are */

typedef enum hx_flow_kind {
#define HX_FLOW_ENUM_(kind, word) kind,
    HX_FLOW_KINDS(HX_FLOW_ENUM_)
#undef HX_FLOW_ENUM_
        HX_FLOW_KIND_COUNT
} hx_flow_kind;

typedef struct hx_flow_item {
    char path[HX_NAME_BYTES]; /* of the layer; its type's name for a root */
    int64_t n_elems;          /* with a gradient */
    double norm;              /* 2-norm over the layer's own parameters that are not frozen, times scale */
    hx_flow_kind kind;
} hx_flow_item;

typedef struct hx_grad_flow {
    hx_flow_item *items; /* [n_items], owned; in order of the tree, parents first */
    int64_t n_items;
} hx_grad_flow;

/** Measure; waits for the stream once.
 *  @param scale  what the gradients are multiplied with, e.g. 1/count for the gradient of a mean; 1: as they are
 *  @param[out] out  destroy with hx_grad_flow_destroy */
hx_status hx_grad_flow_measure(const hx_ctx *ctx, hx_layer *root, double scale, hx_grad_flow *out);
void hx_grad_flow_destroy(hx_grad_flow *flow);
/** Layers of that kind. */
int64_t hx_grad_flow_count(const hx_grad_flow *flow, hx_flow_kind kind);
/** A table for people: path, elements, norm, and a word where something is to be seen. Cut to the buffer, always ended.
 *  @param[out] n_needed  bytes of the whole text without its end, as snprintf; may be NULL */
hx_status hx_grad_flow_text(const hx_grad_flow *flow, char *buffer, size_t n_bytes, size_t *n_needed);

#ifdef __cplusplus
}
#endif
#endif

/* Metrics of scores against targets, beside the loss. Their state is counts, which ranks add up before any ratio is
 * taken: uneven shares give exactly the numbers of one process.
 *
 *     hx_metrics *m; HX_TRY(hx_metrics_create(&(hx_metrics_config){.n_classes = 10, .top_k = 5}, &m));
 *     HX_TRY(hx_metrics_update(m, stream, scores, targets));      // per micro-batch
 *     HX_TRY(hx_metrics_reduce(m, &agreement));                   // collective; leave out on one process
 *     for (int i = 0; i < hx_metrics_n_values(m); i++) { double v = hx_metrics_value(m, i, &name); ... }
 *
 * Values, in this order
 *   yes or no (n_classes 0 or 1)   accuracy, precision, recall, f1, of the elements above the threshold
 *   classes (n_classes >= 2)       accuracy, topK (if asked for), precision, recall, f1 (means over the classes that
 *                                  occur among predictions or targets: "macro"; the "micro" ones all are the accuracy)
 *   if losses were added           perplexity = exp(sum of losses / their count)
 * Formula: precision = TP/(TP+FP), recall = TP/(TP+FN), f1 = 2 TP/(2 TP+FP+FN); a ratio of nothing is 0, an accuracy of
 * nothing NaN.
 */
#ifndef HX_CORE_TRAIN_METRICS_H
#define HX_CORE_TRAIN_METRICS_H

#include "core/tensor/tensor.h"
#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_metrics_config {
    int64_t n_classes;    /* scores in a row; 0 or 1: each score is a yes or no by itself */
    int64_t top_k;        /* also count targets among the k highest scores; 0: no */
    double threshold;     /* yes or no: probability above which it is a yes; 0 means 0.5 */
    bool is_probability;  /* yes or no: scores are probabilities; else logits, whose sigmoid is compared */
    int64_t ignore_index; /* targets of this value take no part; 0 means HX_IGNORE_INDEX, -100 */
} hx_metrics_config;

typedef struct hx_metrics hx_metrics;

/** @return HX_ERR_CONFIG: n_classes not in 0 to 2^40, top_k not in 0 to n_classes, threshold not in [0,1) */
hx_status hx_metrics_create(const hx_metrics_config *config, hx_metrics **out);
void hx_metrics_destroy(hx_metrics **metrics);
/** Back to zero counts. */
void hx_metrics_reset(hx_metrics *metrics);

/** Count a batch, on the host; waits for the stream.
 *  @param scores   classes: [.., n_classes]; yes or no: any shape; any floating dtype, borrowed. The first of equal
 *                  scores is the higher one; a NaN among the scores of a target counts against it
 *  @param targets  classes: ids [..], i32|i64; yes or no: as many elements as scores, any dtype, > 0.5 means yes
 *  @return HX_ERR_SHAPE; HX_ERR_DTYPE; HX_ERR_ARG: an id that is no class, with its position; then nothing is counted */
hx_status hx_metrics_update(hx_metrics *metrics, hx_stream *stream, hx_tensor *scores, hx_tensor *targets);
/** Add a batch's summed loss and its count. */
void hx_metrics_add_loss(hx_metrics *metrics, double loss_sum, double count);
/** Collective. Sum the counts over ranks, which must have the same configuration. */
hx_status hx_metrics_reduce(hx_metrics *metrics, const hx_agreement *agreement);

/** The counts: a state that can be stored, sent and added. Borrowed. */
double *hx_metrics_counts(hx_metrics *metrics, int64_t *n);
int hx_metrics_n_values(const hx_metrics *metrics);
/** @param[out] name  borrowed from the metrics; NULL: not wanted */
double hx_metrics_value(const hx_metrics *metrics, int i, const char **name);

#ifdef __cplusplus
}
#endif
#endif

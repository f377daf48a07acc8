/* The loader: samples of token data sets (io/data/tokens.h), from one of them or from a mixture of several.
 *
 * A sample is `ctx` consecutive tokens and, as targets, the same shifted by one; samples do not overlap. Targets that the data set does
 * not mean as such, the first token of each document and what its mask leaves out, are HX_IGNORE_INDEX and take no part in the loss.
 *
 * The loader's whole state is one number: the samples that all ranks together have consumed (the cursor). Order, batches, the ranks'
 * shares of them and the mixture are those of io/data/sampler.h. Training shuffles, and a batch that would cross the
 * epoch's end goes on into the next one, or is dropped; evaluation is in order, and its last batch may be smaller. A mixture is evaluated
 * in proportion to the sizes, so that each sample comes once.
 *
 *     hx_tokens *bible; HX_TRY(hx_tokens_open("bible.txt", &bible));
 *     const hx_loader_part part = {bible, 0, n_tokens};
 *     hx_loader *train;  HX_TRY(hx_loader_create(dev, &part, 1, NULL, &lc, &train));
 *     hx_batch_source source; hx_loader_source(train, &source);
 */
#ifndef HX_IO_DATA_DATA_H
#define HX_IO_DATA_DATA_H

#include "core/base/options.h"
#include "core/train/hooks.h"
#include "io/data/sampler.h"
#include "io/data/tokens.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_DATA_OPTIONS(X)                                                                                   \
    X(TEXT, path, "", 0, 0, "what to train on: a text file or folder, or tokens (helix data pack); several with commas between them (in a name: \\,)") \
    X(TEXT, weights, "", 0, 0, "of several paths: how often each is drawn from, e.g. 0.7,0.3; empty: in proportion to their sizes") \
    X(TEXT, tokenizer, "", 0, 0, "what ids stand for: tokenizer.json, or a folder with it or with vocab.json and merges.txt; empty: bytes") \
    X(REAL, holdout, 0.1, 0, 0.9, "share of the data, at the end of each path, that is held out for evaluation")

HX_OPTIONS_STRUCT(hx_data_config, HX_DATA_OPTIONS);
#define HX_DATA_DEFAULT HX_OPTIONS_DEFAULT(HX_DATA_OPTIONS)
extern const hx_option hx_data_options[];
extern const int hx_data_n_options;

/* Tokens [begin, end) of a data set. */
typedef struct hx_loader_part {
    const hx_tokens *tokens; /* borrowed */
    int64_t begin, end;
} hx_loader_part;

typedef struct hx_loader_config {
    int64_t ctx;          /* tokens in a sample */
    int64_t batch;        /* samples in a global batch */
    int64_t micro_batch;  /* samples at once on a rank; 0: its whole share */
    bool shuffle;         /* training: yes; evaluation: in order */
    hx_last_batch last;   /* training: join or drop; evaluation: short */
    uint64_t seed;
    int rank, size;       /* on the data-parallel axis */
    bool prefetch;        /* a thread makes micro-batches before they are asked for; what they are does not depend on it */
} hx_loader_config;

typedef struct hx_loader hx_loader;

/** Local.
 *  @param parts    [n_parts], copied; the data sets are borrowed
 *  @param weights  [n_parts] how often each is drawn from; NULL: in proportion to their sizes
 *  @return HX_ERR_CONFIG with the numbers: a split shorter than one sample, batch < size, negative sizes, a weight that is none */
hx_status hx_loader_create(hx_device *device, const hx_loader_part *parts, int n_parts, const double *weights,
                           const hx_loader_config *config, hx_loader **out);
/** Before the streams that batches were got on. */
void hx_loader_destroy(hx_loader **loader);
/** The trainer's hook; borrows the loader. Not for several threads at once. */
void hx_loader_source(hx_loader *loader, hx_batch_source *out);
/** The part of the sample at a global position, and its first token in the data set; for tests and tools. */
void hx_loader_find(const hx_loader *loader, int64_t position, int *part, int64_t *at);

#ifdef __cplusplus
}
#endif
#endif

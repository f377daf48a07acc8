/* Byte tokens and the loader.
 *
 * A corpus is the bytes of a file, or of all regular text files below a folder in the order of their paths.
 * The last `holdout` of it is the evaluation split. A sample is `ctx` consecutive tokens and, as targets, the same
 * shifted by one; samples do not overlap.
 *
 * The loader's whole state is one number: the samples that all ranks together have consumed (the cursor). Order, batches
 * and the ranks' shares of them are those of io/data/sampler.h. Training shuffles, and a batch that would cross the
 * epoch's end goes on into the next one, or is dropped; evaluation is in order, and its last batch may be smaller.
 *
 *     hx_corpus *corpus; HX_TRY(hx_corpus_open("bible.txt", &corpus));
 *     hx_loader *train;  HX_TRY(hx_loader_create(dev, corpus, &lc, &train));
 *     hx_batch_source source; hx_loader_source(train, &source);
 */
#ifndef HX_IO_DATA_DATA_H
#define HX_IO_DATA_DATA_H

#include "core/base/options.h"
#include "core/train/hooks.h"
#include "io/data/sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_DATA_OPTIONS(X)                                                                                   \
    X(TEXT, path, "", 0, 0, "text file or folder to train on")                                               \
    X(TEXT, tokenizer, "", 0, 0, "what ids stand for: tokenizer.json, or a folder with it or with vocab.json and merges.txt; empty: bytes") \
    X(REAL, holdout, 0.1, 0, 0.9, "share of the data, at its end, that is held out for evaluation")

HX_OPTIONS_STRUCT(hx_data_config, HX_DATA_OPTIONS);
#define HX_DATA_DEFAULT HX_OPTIONS_DEFAULT(HX_DATA_OPTIONS)
extern const hx_option hx_data_options[];
extern const int hx_data_n_options;

typedef struct hx_corpus hx_corpus;

/** Local. A file is mapped, a folder's files (hidden ones and those with a zero byte left out) are joined by newlines.
 *  @return HX_ERR_IO with the path and the reason: absent, unreadable, a device, empty folder, empty file */
hx_status hx_corpus_open(const char *path, hx_corpus **out);
/** Local. n zero bytes that take no memory, and no hash: stands in for a text where nothing is computed. */
hx_status hx_corpus_blank(int64_t n_bytes, hx_corpus **out);
void hx_corpus_close(hx_corpus **corpus);
/** Bytes; borrowed. */
const uint8_t *hx_corpus_bytes(const hx_corpus *corpus, int64_t *n_bytes);
/** XXH3 of the bytes: the same on all ranks, stored with the run. */
uint64_t hx_corpus_hash(const hx_corpus *corpus);

typedef struct hx_loader_config {
    int64_t begin, end;   /* byte range of the split */
    int64_t ctx;          /* tokens in a sample */
    int64_t batch;        /* samples in a global batch */
    int64_t micro_batch;  /* samples at once on a rank; 0: its whole share */
    bool shuffle;         /* training: yes; evaluation: in order */
    hx_last_batch last;   /* training: join or drop; evaluation: short */
    uint64_t seed;
    int rank, size;       /* on the data-parallel axis */
} hx_loader_config;

typedef struct hx_loader hx_loader;

/** Local. @param corpus  borrowed
 *  @return HX_ERR_CONFIG with the numbers: split shorter than one sample, batch < size, negative sizes */
hx_status hx_loader_create(hx_device *device, const hx_corpus *corpus, const hx_loader_config *config, hx_loader **out);
/** Before the streams that batches were got on. */
void hx_loader_destroy(hx_loader **loader);
/** The trainer's hook; borrows the loader. */
void hx_loader_source(hx_loader *loader, hx_batch_source *out);
/** Byte offset of the sample at global position `cursor`; for tests and tools. */
int64_t hx_loader_offset(const hx_loader *loader, int64_t cursor);

#ifdef __cplusplus
}
#endif
#endif

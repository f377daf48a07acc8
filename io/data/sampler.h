/* Which samples a rank computes, from one number: the cursor, the samples that all ranks together have consumed.
 *
 * Sample number i of epoch e is permute(seed, e)(i), a keyed permutation, so the order is the same for any number of
 * ranks and needs no index; without shuffling it is i. Of a global batch of n samples rank r of w takes positions
 * [n r / w, n (r+1) / w), in micro-batches. The end of an epoch, which seldom falls on the end of a batch, is one of
 *     join   the batch goes on into the next epoch
 *     short  the epoch's last batch is smaller; on many ranks some may get nothing of it
 *     drop   what does not fill a batch is left out, other samples in each epoch
 *
 *     hx_sampler s = {.n_samples = 1000, .batch = 32, .shuffle = true, .seed = 1, .rank = 0, .size = 1};
 *     HX_TRY(hx_sampler_check(&s));
 *     HX_TRY(hx_sampler_micro(&s, cursor, 0, &base, &n));      // samples base .. base+n of the global batch at cursor
 *     i = hx_sampler_sample(&s, cursor + base);                // number of the first one
 *
 * A mixture has several sources, each with a weight. Which source a position belongs to follows from the position alone: sources are
 * halved again and again, and of the first p positions that a set of sources has the left half gets round(p a / b), where a is its
 * weight and b that of the set. So any piece of the sequence holds the sources in the proportion of their weights, to within a few
 * samples. The k-th sample that a source is asked for is sample k mod n of its epoch k / n, with a permutation of its own: each of its
 * samples comes once in each of its epochs, which come sooner for a source of greater weight. The mixture's own epoch is as many
 * samples as all sources hold; where weights are the sizes, that is each sample of each source once.
 */
#ifndef HX_IO_DATA_SAMPLER_H
#define HX_IO_DATA_SAMPLER_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hx_last_batch { HX_LAST_SHORT, HX_LAST_DROP, HX_LAST_JOIN } hx_last_batch;

typedef struct hx_sampler {
    int64_t n_samples;
    int64_t batch;       /* samples in a global batch */
    int64_t micro_batch; /* samples at once on a rank; 0: its whole share */
    bool shuffle;
    hx_last_batch last;
    uint64_t seed;
    int rank, size; /* on the data-parallel axis */
    /* A mixture; n_samples is then the sum of sizes. Borrowed. */
    int n_sources;         /* 0: the samples are one source */
    const int64_t *sizes;  /* [n_sources] samples of each */
    const uint64_t *sums;  /* [n_sources+1] of the weights before each: hx_sampler_weigh */
} hx_sampler;

/** Weights as a sampler takes them, in whole numbers.
 *  @param weights    [n] > 0; NULL: in proportion to the sizes
 *  @param[out] sums  [n+1]
 *  @return HX_ERR_CONFIG: a weight that is not finite or not positive, or less than 2^-31 of all */
hx_status hx_sampler_weigh(int n, const int64_t *sizes, const double *weights, uint64_t *sums);

/** @return HX_ERR_CONFIG with the numbers: no samples, batch < size, negative sizes, a source without samples,
 *          nothing left after dropping */
hx_status hx_sampler_check(const hx_sampler *sampler);

/* The functions below take a checked sampler. */

/** Samples of an epoch, as the cursor counts. */
int64_t hx_sampler_epoch(const hx_sampler *sampler);
/** The most samples that a rank computes at once. */
int64_t hx_sampler_most(const hx_sampler *sampler);
/** Samples of the global batch at a cursor. @return HX_ERR_ARG: cursor out of range */
hx_status hx_sampler_batch(const hx_sampler *sampler, int64_t cursor, int64_t *n);
/** Micro-batches of this rank's share of it; 0 is possible in a short batch. */
hx_status hx_sampler_n_micro(const hx_sampler *sampler, int64_t cursor, int64_t *n);
/** Micro-batch `index` of them: n samples from position `base` of the global batch on. */
hx_status hx_sampler_micro(const hx_sampler *sampler, int64_t cursor, int64_t index, int64_t *base, int64_t *n);
/** Number of the sample at a global position, 0 to n_samples - 1. Of a mixture: hx_sampler_find. */
int64_t hx_sampler_sample(const hx_sampler *sampler, int64_t position);
/** Source of the sample at a global position (0 if there is one), and its number there.
 *  @param[out] epoch  of the source; NULL: not wanted */
void hx_sampler_find(const hx_sampler *sampler, int64_t position, int *source, int64_t *sample, int64_t *epoch);

#ifdef __cplusplus
}
#endif
#endif

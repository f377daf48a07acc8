#include "core/train/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/base/mem.h"

/* Counts: some of the whole, then per class (yes or no: one class, the yes) true and false positives and false
 * negatives. All are whole numbers below 2^53 but the losses, so that their sums are exact in any order. */
enum { LOSS_SUM, LOSS_COUNT, N_TARGETS, N_CORRECT, N_TOP_K, N_WHOLE };
enum { TP, FP, FN, N_PER_CLASS };

#define MOST_CLASSES ((int64_t)1 << 40) /* whose counts can be numbered */
#define MOST_SUMMED 64 /* numbers in one reduction of hx_agreement */

struct hx_metrics {
    hx_metrics_config config; /* zeros replaced by what they mean */
    int64_t n_classes;        /* with counts of their own, >= 1 */
    double logit;             /* yes or no: scores above it are a yes */
    int64_t n_counts;
    double *counts; /* [n_counts]; owned */
    char top_name[32];
    /* what the host reads tensors into */
    void *scores, *targets; /* owned */
    int64_t scores_capacity, targets_capacity;
};

static bool has_classes(const hx_metrics *m) { return m->config.n_classes >= 2; }

/* ---- life ---- */

static hx_status check_config(const hx_metrics_config *c) {
    if (c->n_classes < 0 || c->n_classes > MOST_CLASSES)
        return HX_FAIL(HX_ERR_CONFIG, "n_classes = %lld: expected 0 to %lld", (long long)c->n_classes, (long long)MOST_CLASSES);
    if (c->top_k < 0 || (c->top_k > 0 && c->top_k > c->n_classes))
        return HX_FAIL(HX_ERR_CONFIG, "top_k = %lld of %lld classes: expected 0 to as many", (long long)c->top_k,
                       (long long)c->n_classes);
    if (!(c->threshold >= 0 && c->threshold < 1))
        return HX_FAIL(HX_ERR_CONFIG, "threshold = %g: expected it in [0,1)", c->threshold);
    return HX_OK;
}

hx_status hx_metrics_create(const hx_metrics_config *config, hx_metrics **out) {
    HX_CLEANUP(hx_metrics_destroy) hx_metrics *m = NULL;
    HX_TRY(check_config(config));
    HX_TRY(hx_mem_alloc_array(1, sizeof *m, (void **)&m));
    m->config = *config;
    if (m->config.threshold == 0) m->config.threshold = 0.5;
    if (m->config.ignore_index == 0) m->config.ignore_index = HX_IGNORE_INDEX;
    const double p = m->config.threshold;
    m->logit = m->config.is_probability ? p : log(p / (1 - p));
    m->n_classes = has_classes(m) ? m->config.n_classes : 1;
    m->n_counts = N_WHOLE + N_PER_CLASS * m->n_classes;
    snprintf(m->top_name, sizeof m->top_name, "top%lld", (long long)m->config.top_k);
    HX_TRY(hx_mem_alloc_array(m->n_counts, sizeof *m->counts, (void **)&m->counts));
    *out = m;
    m = NULL; /* handed on */
    return HX_OK;
}

void hx_metrics_destroy(hx_metrics **metrics) {
    hx_metrics *m = *metrics;
    if (m == NULL) return;
    hx_mem_free((void **)&m->counts);
    hx_mem_free(&m->scores);
    hx_mem_free(&m->targets);
    hx_mem_free((void **)metrics);
}

void hx_metrics_reset(hx_metrics *m) { memset(m->counts, 0, (size_t)m->n_counts * sizeof *m->counts); }

/* ---- counting ---- */

static void count_class(hx_metrics *m, int64_t class, int what) { m->counts[N_WHOLE + N_PER_CLASS * class + what]++; }

/* The place of class `id` in a row of scores, 0 for the highest. */
static int64_t place_of(const hx_metrics *m, hx_dtype dtype, int64_t row, int64_t id) {
    const int64_t C = m->config.n_classes;
    const double mine = hx_elem_get(dtype, m->scores, row * C + id);
    int64_t place = 0;
    for (int64_t c = 0; c < C; c++) {
        if (c == id) continue;
        const double other = hx_elem_get(dtype, m->scores, row * C + c);
        place += !(other <= mine) || (other == mine && c < id);
    }
    return place;
}

/* NaN is never the highest; a row of NaN alone gives class 0. */
static int64_t highest(const hx_metrics *m, hx_dtype dtype, int64_t row) {
    const int64_t C = m->config.n_classes;
    int64_t best = 0;
    double most = hx_elem_get(dtype, m->scores, row * C);
    for (int64_t c = 1; c < C; c++) {
        const double x = hx_elem_get(dtype, m->scores, row * C + c);
        if (x > most || (isnan(most) && !isnan(x))) best = c, most = x;
    }
    return best;
}

static void count_row(hx_metrics *m, hx_dtype dtype, int64_t row, int64_t id) {
    const int64_t place = place_of(m, dtype, row, id);
    m->counts[N_TARGETS]++;
    m->counts[N_TOP_K] += place < m->config.top_k;
    if (place == 0) {
        m->counts[N_CORRECT]++;
        count_class(m, id, TP);
        return;
    }
    const int64_t guess = highest(m, dtype, row);
    if (guess != id) count_class(m, guess, FP); /* the same where a NaN counted against it */
    count_class(m, id, FN);
}

/* All ids are looked at first: a failure counts nothing. */
static hx_status check_ids(const hx_metrics *m, hx_dtype dtype, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t id = hx_elem_get_int(dtype, m->targets, i);
        if (id != m->config.ignore_index && (id < 0 || id >= m->config.n_classes))
            return HX_FAIL(HX_ERR_ARG, "target %lld is %lld: expected a class, 0 to %lld, or %lld", (long long)i,
                           (long long)id, (long long)m->config.n_classes - 1, (long long)m->config.ignore_index);
    }
    return HX_OK;
}

static hx_status count_classes(hx_metrics *m, hx_dtype scores, hx_dtype targets, int64_t n) {
    HX_TRY(check_ids(m, targets, n));
    for (int64_t i = 0; i < n; i++) {
        const int64_t id = hx_elem_get_int(targets, m->targets, i);
        if (id != m->config.ignore_index) count_row(m, scores, i, id);
    }
    return HX_OK;
}

static void count_yes_no(hx_metrics *m, hx_dtype scores, hx_dtype targets, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double target = hx_elem_get(targets, m->targets, i);
        if (target == (double)m->config.ignore_index) continue;
        const bool is_yes = target > 0.5, guess = hx_elem_get(scores, m->scores, i) > m->logit;
        m->counts[N_TARGETS]++;
        m->counts[N_CORRECT] += guess == is_yes;
        if (guess) count_class(m, 0, is_yes ? TP : FP);
        if (!guess && is_yes) count_class(m, 0, FN);
    }
}

static hx_status check_tensors(const hx_metrics *m, const hx_tensor *scores, const hx_tensor *targets) {
    const int64_t C = m->config.n_classes, n = hx_tensor_count(targets);
    if (!hx_dtype_is_float(hx_tensor_dtype(scores)) || hx_dtype_is_complex(hx_tensor_dtype(targets)) ||
        (has_classes(m) && !hx_dtype_is_int(hx_tensor_dtype(targets))))
        return HX_FAIL(HX_ERR_DTYPE, "scores %s, targets %s: expected floating scores%s",
                       hx_dtype_name(hx_tensor_dtype(scores)), hx_dtype_name(hx_tensor_dtype(targets)),
                       has_classes(m) ? " and integer targets" : "");
    if (has_classes(m) ? hx_tensor_dim(scores, -1) != C || hx_tensor_count(scores) != n * C : hx_tensor_count(scores) != n)
        return HX_FAIL(HX_ERR_SHAPE, "%lld scores, %lld in a row, for %lld targets: expected %lld for each",
                       (long long)hx_tensor_count(scores), (long long)hx_tensor_dim(scores, -1), (long long)n,
                       (long long)(has_classes(m) ? C : 1));
    return HX_OK;
}

hx_status hx_metrics_update(hx_metrics *m, hx_stream *stream, hx_tensor *scores, hx_tensor *targets) {
    const int64_t n = hx_tensor_count(targets);
    HX_TRY(check_tensors(m, scores, targets));
    HX_TRY(hx_mem_grow(&m->scores, &m->scores_capacity, (int64_t)hx_tensor_bytes(scores), 1));
    HX_TRY(hx_mem_grow(&m->targets, &m->targets_capacity, (int64_t)hx_tensor_bytes(targets), 1));
    HX_TRY(hx_tensor_read(stream, scores, m->scores));
    HX_TRY(hx_tensor_read(stream, targets, m->targets));
    if (has_classes(m)) return count_classes(m, hx_tensor_dtype(scores), hx_tensor_dtype(targets), n);
    count_yes_no(m, hx_tensor_dtype(scores), hx_tensor_dtype(targets), n);
    return HX_OK;
}

void hx_metrics_add_loss(hx_metrics *m, double loss_sum, double count) {
    m->counts[LOSS_SUM] += loss_sum;
    m->counts[LOSS_COUNT] += count;
}

hx_status hx_metrics_reduce(hx_metrics *m, const hx_agreement *agreement) {
    for (int64_t i = 0; i < m->n_counts && agreement->part != 0; i++) m->counts[i] = 0; /* the same samples as part 0's */
    for (int64_t i = 0; i < m->n_counts; i += MOST_SUMMED) {
        const int64_t n = m->n_counts - i < MOST_SUMMED ? m->n_counts - i : MOST_SUMMED;
        HX_TRY(agreement->sum(agreement->self, m->counts + i, (int)n));
    }
    return HX_OK;
}

double *hx_metrics_counts(hx_metrics *m, int64_t *n) {
    *n = m->n_counts;
    return m->counts;
}

/* ---- ratios ---- */

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

static double precision_of(const double *c) { return ratio(c[TP], c[TP] + c[FP]); }
static double recall_of(const double *c) { return ratio(c[TP], c[TP] + c[FN]); }
static double f1_of(const double *c) { return ratio(2 * c[TP], 2 * c[TP] + c[FP] + c[FN]); }

/* Mean over the classes that occur. */
static double mean_of(const hx_metrics *m, double (*of)(const double *)) {
    double sum = 0, n = 0;
    for (int64_t c = 0; c < m->n_classes; c++) {
        const double *counts = m->counts + N_WHOLE + N_PER_CLASS * c;
        if (counts[TP] + counts[FP] + counts[FN] == 0) continue;
        sum += of(counts);
        n++;
    }
    return ratio(sum, n);
}

static double accuracy(const hx_metrics *m) { return m->counts[N_CORRECT] / m->counts[N_TARGETS]; }
static double top_k(const hx_metrics *m) { return m->counts[N_TOP_K] / m->counts[N_TARGETS]; }
static double precision(const hx_metrics *m) { return mean_of(m, precision_of); }
static double recall(const hx_metrics *m) { return mean_of(m, recall_of); }
static double f1(const hx_metrics *m) { return mean_of(m, f1_of); }
static double perplexity(const hx_metrics *m) { return exp(m->counts[LOSS_SUM] / m->counts[LOSS_COUNT]); }

static bool always(const hx_metrics *m) {
    (void)m;
    return true;
}
static bool has_top_k(const hx_metrics *m) { return m->config.top_k > 0; }
static bool has_losses(const hx_metrics *m) { return m->counts[LOSS_COUNT] > 0; }

static const struct {
    const char *name; /* NULL: top_name */
    double (*value)(const hx_metrics *m);
    bool (*is_there)(const hx_metrics *m);
} values[] = {{"accuracy", accuracy, always}, {NULL, top_k, has_top_k}, {"precision", precision, always},
              {"recall", recall, always},     {"f1", f1, always},       {"perplexity", perplexity, has_losses}};
enum { N_VALUES = sizeof values / sizeof *values };

int hx_metrics_n_values(const hx_metrics *m) {
    int n = 0;
    for (int k = 0; k < N_VALUES; k++) n += values[k].is_there(m);
    return n;
}

double hx_metrics_value(const hx_metrics *m, int i, const char **name) {
    for (int k = 0; k < N_VALUES; k++) {
        if (!values[k].is_there(m) || i-- > 0) continue;
        if (name != NULL) *name = values[k].name != NULL ? values[k].name : m->top_name;
        return values[k].value(m);
    }
    return NAN;
}

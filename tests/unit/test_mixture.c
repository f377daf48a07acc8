/* Mixtures of data sets: any number of ranks, stopped anywhere and gone on with by any other number, deals the same samples. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/backends.h"
#include "core/base/rng.h"
#include "io/data/data.h"
#include "tests/support/expect.h"

enum { CTX = 4, MOST_SOURCES = 5, MOST_SAMPLES = 60, STEPS = 14, MOST_BATCH = 24, MOST = STEPS * MOST_BATCH };

static hx_device *dev;
static hx_stream *stream;
static hx_tokens *tokens[MOST_SOURCES];

/* u16 ids: token t of source s is 10000 s + t, so that a sample tells whose it is. */
static void open_all(void) {
    OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &dev));
    OK(hx_stream_create(dev, &stream));
    for (int s = 0; s < MOST_SOURCES; s++) {
        char path[256];
        uint16_t ids[MOST_SAMPLES * CTX + 1];
        snprintf(path, sizeof path, "%.200s/helix-mixture-%d-%d.bin", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid(), s);
        for (int t = 0; t < MOST_SAMPLES * CTX + 1; t++) ids[t] = (uint16_t)(10000 * s + t);
        FILE *f = fopen(path, "w");
        cr_assert(f && fwrite(ids, sizeof ids, 1, f) == 1);
        fclose(f);
        OK(hx_tokens_open(path, &tokens[s]));
        unlink(path);
    }
}

static void close_all(void) {
    for (int s = 0; s < MOST_SOURCES; s++) hx_tokens_close(&tokens[s]);
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
}

TestSuite(mixture, .init = open_all, .fini = close_all);

/* A random set-up. */
typedef struct setup {
    int n;
    hx_loader_part parts[MOST_SOURCES];
    int64_t sizes[MOST_SOURCES];
    double weights[MOST_SOURCES];
    bool has_weights;
    hx_loader_config config;
} setup;

static uint64_t n_drawn;
static int64_t draw(int64_t least, int64_t most) {
    return least + (int64_t)hx_rng_below((hx_rng){.seed = 11, .stream = HX_RNG_USER}, n_drawn++, (uint64_t)(most - least + 1));
}

static setup draw_setup(void) {
    setup s = {.n = (int)draw(1, MOST_SOURCES), .has_weights = draw(0, 1)};
    for (int i = 0; i < s.n; i++) {
        s.sizes[i] = draw(1, MOST_SAMPLES);
        s.weights[i] = (double)draw(1, 100) / 7;
        s.parts[i] = (hx_loader_part){tokens[i], 0, s.sizes[i] * CTX + 1};
    }
    s.config = (hx_loader_config){.ctx = CTX, .batch = draw(4, MOST_BATCH), .micro_batch = draw(0, 5), .shuffle = draw(0, 3) > 0,
                                  .last = HX_LAST_JOIN, .seed = (uint64_t)draw(0, 1000), .prefetch = draw(0, 1)};
    return s;
}

typedef struct dealt {
    int source[MOST];
    int64_t sample[MOST];
} dealt;

/* What the ranks of one step get, at their places in the global sequence. */
static void deal_rank(hx_loader *loader, int64_t cursor, dealt *d) {
    hx_batch_source source;
    int64_t n_micro;
    hx_loader_source(loader, &source);
    OK(source.n_micro(source.self, cursor, &n_micro));
    for (int64_t m = 0; m < n_micro; m++) {
        hx_batch batch;
        int32_t in[MOST_BATCH * CTX], out[MOST_BATCH * CTX];
        OK(source.get(source.self, cursor, m, stream, &batch));
        OK(hx_tensor_read(stream, batch.input, in));
        OK(hx_tensor_read(stream, batch.target, out));
        for (int64_t i = 0; i < batch.n_samples; i++) {
            const int64_t at = cursor + batch.sample_base + i;
            for (int t = 0; t < CTX; t++) cr_assert_eq(out[i * CTX + t], in[i * CTX] + t + 1);
            cr_assert_eq(d->source[at], -1, "position %lld is dealt twice", (long long)at);
            d->source[at] = in[i * CTX] / 10000;
            d->sample[at] = in[i * CTX] % 10000 / CTX;
        }
    }
}

static void deal(const setup *s, int world, int first_step, int end_step, dealt *d) {
    hx_loader *loaders[4];
    for (int r = 0; r < world; r++) {
        hx_loader_config c = s->config;
        c.rank = r;
        c.size = world;
        OK(hx_loader_create(dev, s->parts, s->n, s->has_weights ? s->weights : NULL, &c, &loaders[r]));
    }
    for (int step = first_step; step < end_step; step++)
        for (int r = 0; r < world; r++) deal_rank(loaders[r], step * s->config.batch, d);
    for (int r = 0; r < world; r++) hx_loader_destroy(&loaders[r]);
}

/* Each sample of a source once in each of its epochs; sources in proportion at every position. */
static void check_sequence(const setup *s, const dealt *d, int64_t n) {
    int64_t counts[MOST_SOURCES] = {0};
    int seen[MOST_SOURCES][MOST_SAMPLES] = {{0}};
    double total = 0;
    for (int i = 0; i < s->n; i++) total += s->has_weights ? s->weights[i] : (double)s->sizes[i];
    for (int64_t p = 0; p < n; p++) {
        const int source = d->source[p];
        cr_assert(source >= 0 && source < s->n && d->sample[p] < s->sizes[source]);
        cr_assert_eq(seen[source][d->sample[p]]++, counts[source] / s->sizes[source], "position %lld", (long long)p);
        counts[source]++;
        for (int i = 0; i < s->n; i++) {
            const double expected = (double)(p + 1) * (s->has_weights ? s->weights[i] : (double)s->sizes[i]) / total;
            cr_assert(fabs((double)counts[i] - expected) < 2, "position %lld: source %d has %lld of %g", (long long)p, i, (long long)counts[i], expected);
        }
    }
}

Test(mixture, a_thousand_runs_stopped_and_gone_on_with_by_other_ranks_deal_the_same_samples) {
    static dealt whole, parted;
    for (int k = 0; k < 1000; k++) {
        const setup s = draw_setup();
        const int stop = (int)draw(0, STEPS);
        memset(whole.source, -1, sizeof whole.source);
        memset(parted.source, -1, sizeof parted.source);
        deal(&s, 1, 0, STEPS, &whole);
        deal(&s, (int)draw(1, 4), 0, stop, &parted);
        deal(&s, (int)draw(1, 4), stop, STEPS, &parted);
        const size_t n = (size_t)(STEPS * s.config.batch);
        cr_assert_arr_eq(parted.source, whole.source, n * sizeof *whole.source);
        cr_assert_arr_eq(parted.sample, whole.sample, n * sizeof *whole.sample);
        check_sequence(&s, &whole, (int64_t)n);
    }
}

Test(mixture, an_epoch_in_proportion_to_the_sizes_is_each_sample_of_each_source_once) {
    const int64_t sizes[] = {7, 1000, 64, 1, 311};
    uint64_t sums[6];
    OK(hx_sampler_weigh(5, sizes, NULL, sums));
    const hx_sampler s = {.n_samples = 1383, .batch = 10, .last = HX_LAST_SHORT, .size = 1, .n_sources = 5, .sizes = sizes, .sums = sums};
    OK(hx_sampler_check(&s));
    int64_t next[5] = {0}, epoch, sample;
    int source;
    for (int64_t p = 0; p < 1383; p++) {
        hx_sampler_find(&s, p, &source, &sample, &epoch);
        cr_assert_eq(sample, next[source]++); /* without shuffling each source is in order */
        cr_assert_eq(epoch, 0);
    }
    cr_assert_arr_eq(next, sizes, sizeof sizes);
}

/* Runs that were begun before there were mixtures go on in the same order. */
Test(mixture, one_source_has_the_order_of_a_permutation_keyed_by_its_epoch) {
    for (int k = 0; k < 2; k++) {
        const hx_sampler s = {.n_samples = 37, .batch = 5, .shuffle = true, .last = k ? HX_LAST_DROP : HX_LAST_JOIN, .seed = 9, .size = 1};
        const int64_t length = k ? 35 : 37;
        for (int64_t p = 0; p < 200; p++) {
            const hx_rng rng = {.seed = 9, .stream = hx_rng_stream(HX_RNG_DATA, (uint64_t)(p / length))};
            cr_assert_eq(hx_sampler_sample(&s, p), hx_rng_permute(rng, (uint64_t)(p % length), 37));
        }
    }
}

Test(mixture, positions_far_out_are_found_without_overflow) {
    const int64_t sizes[] = {INT64_C(1) << 60, INT64_C(3) << 60};
    uint64_t sums[3];
    int64_t sample, epoch;
    int source;
    OK(hx_sampler_weigh(2, sizes, NULL, sums));
    const hx_sampler s = {.n_samples = INT64_C(1) << 62, .batch = 7, .shuffle = true, .last = HX_LAST_DROP, .size = 1, .n_sources = 2, .sizes = sizes,
                          .sums = sums};
    OK(hx_sampler_check(&s));
    hx_sampler_find(&s, INT64_MAX, &source, &sample, &epoch);
    cr_assert(sample >= 0 && sample < sizes[source]);
    cr_assert_eq(epoch, 2); /* 2^63 of 2^62, and what drop left out */
}

Test(mixture, weights_that_are_none_are_refused) {
    const int64_t sizes[] = {5, 5};
    uint64_t sums[3];
    REFUSED(hx_sampler_weigh(2, sizes, (double[]){1, 0}, sums), HX_ERR_CONFIG, "weight 2 of 2 is 0");
    REFUSED(hx_sampler_weigh(2, sizes, (double[]){-1, 2}, sums), HX_ERR_CONFIG, "weight 1 of 2 is -1");
    REFUSED(hx_sampler_weigh(2, sizes, (double[]){NAN, 2}, sums), HX_ERR_CONFIG, "weight 1 of 2 is nan");
    REFUSED(hx_sampler_weigh(2, sizes, (double[]){INFINITY, 2}, sums), HX_ERR_CONFIG, "weight 1 of 2 is inf");
    REFUSED(hx_sampler_weigh(2, sizes, (double[]){1e-12, 2}, sums), HX_ERR_CONFIG, "2^-31");
}

/* ---- the thread ---- */

Test(mixture, asking_in_any_order_gives_the_same_with_and_without_a_thread) {
    setup s = draw_setup();
    hx_loader *loaders[2];
    hx_batch_source sources[2];
    s.config.micro_batch = 2;
    for (int k = 0; k < 2; k++) {
        s.config.rank = 0;
        s.config.size = 1;
        s.config.prefetch = k;
        OK(hx_loader_create(dev, s.parts, s.n, NULL, &s.config, &loaders[k]));
        hx_loader_source(loaders[k], &sources[k]);
    }
    for (int i = 0; i < 2000; i++) {
        const int64_t cursor = i % 3 ? i * s.config.batch : draw(0, 100000), index = draw(0, 1);
        hx_batch batch;
        int32_t ids[2][2][2 * CTX];
        for (int k = 0; k < 2; k++) {
            OK(sources[k].get(sources[k].self, cursor, index, stream, &batch));
            OK(hx_tensor_read(stream, batch.input, ids[k][0]));
            OK(hx_tensor_read(stream, batch.target, ids[k][1]));
        }
        cr_assert_arr_eq(ids[0], ids[1], sizeof ids[0]);
    }
    for (int k = 0; k < 2; k++) hx_loader_destroy(&loaders[k]);
}

Test(mixture, what_fails_on_the_thread_is_told_by_get) {
    const char *path = "/tmp/helix-mixture-bad.bin";
    int32_t file[256 + 41] = {20240801, 7, 41};
    char own[256];
    hx_loader *loader;
    hx_batch_source source;
    hx_batch batch;
    hx_tokens *bad;
    file[256 + 30] = -1; /* the fourth of samples of eight */
    snprintf(own, sizeof own, "%s.%d", path, (int)getpid());
    FILE *f = fopen(own, "w");
    cr_assert(f && fwrite(file, sizeof file, 1, f) == 1);
    fclose(f);
    OK(hx_tokens_open(own, &bad));
    unlink(own);
    const hx_loader_part part = {bad, 0, 41};
    const hx_loader_config c = {.ctx = 8, .batch = 1, .last = HX_LAST_SHORT, .size = 1, .prefetch = true};
    OK(hx_loader_create(dev, &part, 1, NULL, &c, &loader));
    hx_loader_source(loader, &source);
    for (int64_t i = 0; i < 3; i++) OK(source.get(source.self, i, 0, stream, &batch));
    REFUSED(source.get(source.self, 3, 0, stream, &batch), HX_ERR_CORRUPT, "token 30 is id 4294967295");
    OK(source.get(source.self, 4, 0, stream, &batch));
    OK(source.get(source.self, 0, 0, stream, &batch));
    hx_loader_destroy(&loader);
    hx_tokens_close(&bad);
}

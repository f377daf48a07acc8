/* Fuzz the configuration reader: mutated YAML must be refused or understood, never crash, and what is understood
 * must survive being written and read again.
 *
 * usage: fuzz_config [ROUNDS [SEED]]; a failing input is written to fuzz_config.failed
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "launch/compose.h"

#define MAX_BYTES 2048

static const char *const seeds[] = {
    "out: runs/a\nresume: true\nmodel:\n  dim: 64\n  norm: rmsnorm\n",
    "train: {batch: 8, seed: 7, steps: 64k}\noptim:\n  lr: 3e-4\n",
    "data:\n  path: \"a \\u00fc \\x41 'b'\"\n  holdout: 0.25\n",
    "model:\n  dim: 3\n  dim: 4\n? [a, {b: c}]\n: &x !!str *x\n",
    "%YAML 1.1\n---\nout: >\n  folded\n  text\n...\n---\n- second\n",
    "threads: 2\nprogress: 'lines'\nmodel.dim: 32\nckpt: {every: 1, keep: 2}\n",
};

typedef struct source {
    hx_rng rng;
    uint64_t n; /* numbers drawn */
} source;

static size_t below(source *s, size_t n) { return (size_t)hx_rng_below(s->rng, s->n++, n); }

/* One edit: change, insert, delete, or copy a piece to another place. */
static void mutate(source *s, char *text, size_t *n) {
    static const char interesting[] = ":-{}[]&*!|>'\"%#,?\t\n \\0123456789eE.+\x00\x7f\x80\xc2\xff";
    size_t at = below(s, *n + 1), length = 1 + below(s, 16);
    char c = below(s, 2) ? interesting[below(s, sizeof interesting - 1)] : (char)below(s, 256);
    switch (below(s, 4)) {
    case 0:
        if (at < *n) text[at] = c;
        break;
    case 1:
        if (*n == MAX_BYTES) break;
        memmove(text + at + 1, text + at, *n - at);
        text[at] = c;
        (*n)++;
        break;
    case 2:
        if (at + length > *n) break;
        memmove(text + at, text + at + length, *n - at - length);
        *n -= length;
        break;
    default: {
        size_t from = below(s, *n + 1);
        if (from + length > *n || at + length > *n) break;
        memmove(text + at, text + from, length);
    }
    }
}

/* True if the input was refused, or was understood and survives a round trip. */
static bool holds(const char *text, size_t n, bool *understood) {
    hx_config config = HX_CONFIG_DEFAULT, back = HX_CONFIG_DEFAULT;
    char *first = NULL, *second = NULL;
    hx_status status = hx_config_parse(&config, text, n, "fuzz");
    *understood = status == HX_OK;
    if (status != HX_OK) return status == HX_ERR_CONFIG && hx_error_message()[0] != '\0';
    bool good = hx_config_text(&config, &first) == HX_OK && hx_config_parse(&back, first, strlen(first), "written") == HX_OK &&
                hx_config_text(&back, &second) == HX_OK && strcmp(first, second) == 0;
    hx_mem_free((void **)&first);
    hx_mem_free((void **)&second);
    return good;
}

static int fail(const char *text, size_t n, long round) {
    FILE *f = fopen("fuzz_config.failed", "w");
    if (f) {
        fwrite(text, 1, n, f);
        fclose(f);
    }
    fprintf(stderr, "round %ld: %s\nthe input is in fuzz_config.failed\n", round, hx_error_message());
    return 1;
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : getenv("HELIX_TEST_FULL") ? 1000000 : 250000;
    source s = {.rng = {.seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1}};
    long n_understood = 0;
    for (long round = 0; round < rounds; round++) {
        char text[MAX_BYTES];
        bool understood;
        const char *seed = seeds[below(&s, sizeof seeds / sizeof *seeds)];
        size_t n = strlen(seed);
        memcpy(text, seed, n);
        for (size_t edits = below(&s, 12); edits > 0; edits--) mutate(&s, text, &n);
        if (!holds(text, n, &understood)) return fail(text, n, round);
        n_understood += understood;
    }
    printf("%ld inputs, %ld understood\n", rounds, n_understood);
    /* a reader that refuses everything, or takes everything, is not tested by this */
    return n_understood > rounds / 50 && n_understood < rounds ? 0 : 1;
}

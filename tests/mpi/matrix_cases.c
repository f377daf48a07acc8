#include <assert.h>
#include <string.h>

#include "tests/mpi/matrix.h"

const char *const matrix_dtypes[MATRIX_N_DTYPES] = {"f64", "f32", "bf16"};

/* dp {1,2,3,4,8} x tp {1,2}; the short form does without worlds that two cores are slow at. */
static const struct {
    int dp, tp;
    bool is_short;
} meshes[] = {{1, 1, true}, {2, 1, true},  {3, 1, false}, {4, 1, true},  {8, 1, false},
              {1, 2, true}, {2, 2, true}, {3, 2, true},  {4, 2, false}, {8, 2, false}};

enum { MESH, ZERO, MICRO, DTYPE, SEQUENCE, N_FACTORS, N_MESHES = sizeof meshes / sizeof *meshes, MAX_LEVELS = 10 };
_Static_assert((int)N_MESHES <= (int)MAX_LEVELS, "a choice has more levels than are counted");

typedef struct levels {
    int of[N_FACTORS];
} levels;

/* The largest value of an option; -1: there is no such option. */
static int most(const char *key) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    const int n = hx_config_sections(&config, sections);
    const hx_option *option = hx_options_find(sections, n, key, NULL);
    return option == NULL ? -1 : (int)option->max;
}

static bool is_wanted(const levels *l, bool is_full, bool has_sequence) {
    /* A choice that changes nothing, ZeRO on one rank, would take the place of one that does. */
    if (!is_full && (!meshes[l->of[MESH]].is_short || (l->of[ZERO] > 0 && meshes[l->of[MESH]].dp == 1))) return false;
    return l->of[SEQUENCE] == 0 || (has_sequence && meshes[l->of[MESH]].tp > 1);
}

/* Counts through all levels as an odometer does. */
static int list_all(bool is_full, levels out[MATRIX_MAX_CASES]) {
    const int zero = most("ddp.zero");
    const bool has_sequence = most("mesh.sequence") >= 0;
    const int n[N_FACTORS] = {N_MESHES, zero + 1, 2, MATRIX_N_DTYPES, 2};
    int n_cases = 0, total = 1;
    for (int f = 0; f < N_FACTORS; f++) total *= n[f];
    for (int i = 0; i < total; i++) {
        levels l;
        for (int f = N_FACTORS - 1, rest = i; f >= 0; rest /= n[f--]) l.of[f] = rest % n[f];
        if (!is_wanted(&l, is_full, has_sequence)) continue;
        assert(n_cases < MATRIX_MAX_CASES);
        out[n_cases++] = l;
    }
    return n_cases;
}

typedef bool pair_table[N_FACTORS][N_FACTORS][MAX_LEVELS][MAX_LEVELS];

/* Pairs of a case that none before it held; `mark`: from now on one does. */
static int new_pairs(pair_table seen, const levels *l, bool mark) {
    int n = 0;
    for (int f = 0; f < N_FACTORS; f++)
        for (int g = f + 1; g < N_FACTORS; g++) {
            bool *is_seen = &seen[f][g][l->of[f]][l->of[g]];
            n += !*is_seen;
            *is_seen |= mark;
        }
    return n;
}

/* The case with the most new pairs, again and again until there are none; the chosen move to the front. */
static int choose_pairs(levels *cases, int n) {
    static pair_table seen;
    memset(seen, 0, sizeof seen);
    for (int n_chosen = 0;; n_chosen++) {
        int best = -1, gain = 0;
        for (int i = n_chosen; i < n; i++) {
            const int pairs = new_pairs(seen, &cases[i], false);
            if (pairs > gain) best = i, gain = pairs;
        }
        if (best < 0) return n_chosen;
        (void)new_pairs(seen, &cases[best], true);
        const levels chosen = cases[best];
        cases[best] = cases[n_chosen];
        cases[n_chosen] = chosen;
    }
}

int matrix_cases(bool is_full, matrix_case out[MATRIX_MAX_CASES]) {
    static levels all[MATRIX_MAX_CASES];
    int n = list_all(is_full, all);
    if (!is_full) n = choose_pairs(all, n);
    for (int i = 0; i < n; i++) {
        const levels *l = &all[i];
        out[i] = (matrix_case){.dp = meshes[l->of[MESH]].dp, .tp = meshes[l->of[MESH]].tp, .zero = l->of[ZERO],
                               .n_micro = 1 + l->of[MICRO], .dtype = l->of[DTYPE], .sequence = l->of[SEQUENCE] != 0};
    }
    return n;
}

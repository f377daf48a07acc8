/* Which instruction set's kernels a device runs. */
#include <stdio.h>
#include <string.h>

#include "backends/cpu/cpu_impl.h"

#ifdef HX_HAVE_X86_LEVELS
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif
static bool has_generic(void) { return true; }

const hx_cpu_isa hx__cpu_isas[] = {
#ifdef HX_HAVE_X86_LEVELS
    {&hx__cpu_kernels_avx512bf16, has_avx512bf16},
    {&hx__cpu_kernels_avx512, has_avx512},
    {&hx__cpu_kernels_avx2, has_avx2},
#endif
    {&hx__cpu_kernels_generic, has_generic},
};
const int hx__cpu_n_isas = (int)(sizeof hx__cpu_isas / sizeof *hx__cpu_isas);

static int best_isa(const hx_cpu_isa *isas, int n) {
    int i = 0;
    while (i < n - 1 && !isas[i].is_there()) i++;
    return i;
}

/* "generic, avx2, avx512": the plainest first. */
static void list_names(const hx_cpu_isa *isas, int n, char *out, size_t n_bytes) {
    size_t used = 0;
    *out = '\0';
    for (int i = n - 1; i >= 0 && used < n_bytes; i--)
        used += (size_t)snprintf(out + used, n_bytes - used, "%s%s", used > 0 ? ", " : "", isas[i].kernels->isa);
}

hx_status hx__cpu_choose_isa(const hx_cpu_isa *isas, int n, const char *want, const hx_cpu_kernels **out) {
    const hx_cpu_kernels *best = isas[best_isa(isas, n)].kernels;
    char names[128];
    if (!want || !*want) {
        *out = best;
        return HX_OK;
    }
    for (int i = 0; i < n; i++) {
        if (strcmp(want, isas[i].kernels->isa) != 0) continue;
        if (!isas[i].is_there()) return HX_FAIL(HX_ERR_CONFIG, "HELIX_CPU_ISA=%s: this CPU does not have it, its best is %s", want, best->isa);
        *out = isas[i].kernels;
        return HX_OK;
    }
    list_names(isas, n, names, sizeof names);
    return HX_FAIL(HX_ERR_CONFIG, "HELIX_CPU_ISA=%.32s: expected one of %s, which this build has", want, names);
}

const char *hx__cpu_isa_notice(const hx_cpu_isa *isas, int n, const hx_cpu_kernels *chosen) {
    const bool is_fallback = n > 1 && chosen == isas[n - 1].kernels && best_isa(isas, n) == n - 1;
    return is_fallback ? "this CPU has no AVX2: the generic kernels run, which are several times slower" : NULL;
}

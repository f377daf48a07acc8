/* Reports, options, draws and planted faults. */
#include "tests/emu/emu.h"

#include <set>

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

int64_t emu_option(const char *name, int64_t standard) {
    const char *text = getenv(name);
    return text == nullptr || *text == '\0' ? standard : strtoll(text, nullptr, 0);
}

bool emu_is_checking() {
    static const bool is_checking = emu_option("HELIX_EMU_CHECK", 0) != 0;
    return is_checking;
}

uint64_t emu_seed() {
    static const uint64_t seed = (uint64_t)emu_option("HELIX_EMU_SEED", 1);
    return seed;
}

void emu_fail(const char *format, ...) {
    const emu_kernel *kernel = emu_running();
    char text[2048], line[3072];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int n = snprintf(line, sizeof line, "emu: %s", text);
    if (kernel != nullptr)
        n += snprintf(line + n, sizeof line - (size_t)n, "; kernel %s, block %u,%u,%u", kernel->name.c_str(), blockIdx.x,
                      blockIdx.y, blockIdx.z);
    if (kernel != nullptr && emu_now != nullptr)
        n += snprintf(line + n, sizeof line - (size_t)n, ", thread %u,%u,%u", threadIdx.x, threadIdx.y, threadIdx.z);
    n += snprintf(line + n, sizeof line - (size_t)n, "; HELIX_EMU_SEED=%llu\n", (unsigned long long)emu_seed());
    fflush(stdout);
    if (write(STDERR_FILENO, line, (size_t)n) < 0) _exit(EMU_EXIT + 1);
    _exit(EMU_EXIT);
}

void __trap() { emu_fail("__trap"); }

/* ---- draws: splitmix64, Steele et al. 2014 ---- */

emu_draws::emu_draws(uint64_t of) : state(of * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {}

uint64_t emu_draws::next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

emu_draws &emu_common_draws() {
    static emu_draws draws(emu_seed());
    return draws;
}

/* ---- planted faults ---- */

const char *emu_path(const char *file) {
    for (const char *root : {"backends/", "tests/"})
        if (const char *at = strstr(file, root)) return at;
    return file;
}

static std::string site_text(const char *what, emu_site at) {
    return std::string(what) + ":" + emu_path(at.file) + ":" + std::to_string(at.line);
}

static void note_site(const char *path, const char *what, emu_site at) {
    static std::set<std::string> noted;
    const std::string text = site_text(what, at);
    if (!noted.insert(text).second) return;
    FILE *f = fopen(path, "a");
    if (f == nullptr) emu_fail("HELIX_EMU_SITES=%s cannot be written", path);
    fprintf(f, "%s\n", text.c_str());
    fclose(f);
}

bool emu_planted(const char *what, emu_site at) {
    static const char *const plant = getenv("HELIX_EMU_PLANT"), *const sites = getenv("HELIX_EMU_SITES");
    if (sites != nullptr) note_site(sites, what, at);
    return plant != nullptr && site_text(what, at) == plant;
}

bool emu_planted_wait(int64_t n) {
    static const char *const plant = getenv("HELIX_EMU_PLANT");
    return plant != nullptr && strncmp(plant, "wait:", 5) == 0 && strtoll(plant + 5, nullptr, 10) == n;
}

/* Kernel launches: the limits of a launch, the order of blocks, and the run in two orders. */
#include "tests/emu/emu.h"

#include <map>
#include <numeric>
#include <set>

#include <stdlib.h>

enum { SHARED_PLAIN = 48 * 1024, SHARED_MOST = 227 * 1024 };

static thread_local std::string next_name;
static std::map<const void *, int> &opted = *new std::map<const void *, int>; /* dynamic shared memory by kernel */
static std::set<const void *> &loaded = *new std::set<const void *>;
static emu_draws draws(0);
static uint64_t n_launches;

void emu_name_kernel(const char *name) { next_name = name; }
emu_draws &emu_kernel_draws() { return draws; }

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value) {
    auto lock = emu_lock();
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > SHARED_MOST) return emu_error(cudaErrorInvalidValue);
    opted[kernel] = value;
    return cudaSuccess;
}

size_t emu_opted(const void *kernel) {
    const auto found = opted.find(kernel);
    return found == opted.end() ? 0 : (size_t)found->second;
}

static bool is_possible(const cudaLaunchConfig_t &c, const void *kernel) {
    const dim3 g = c.gridDim, b = c.blockDim;
    const size_t shared_most = std::max<size_t>(SHARED_PLAIN, emu_opted(kernel));
    return g.x > 0 && g.y > 0 && g.z > 0 && b.x > 0 && b.y > 0 && b.z > 0 && g.x <= INT32_MAX && g.y <= 65535 && g.z <= 65535 &&
           b.x <= 1024 && b.y <= 1024 && b.z <= 64 && (uint64_t)b.x * b.y * b.z <= 1024 && c.dynamicSmemBytes <= shared_most;
}

static void note_launch(const emu_kernel &kernel) {
    static const char *const path = getenv("HELIX_EMU_LOG");
    if (path == nullptr) return;
    FILE *f = fopen(path, "a");
    if (f == nullptr) emu_fail("HELIX_EMU_LOG=%s cannot be written", path);
    fprintf(f, "%s\n", kernel.name.c_str());
    fclose(f);
}

cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *address, std::function<void()> thread) {
    auto lock = emu_lock();
    emu_kernel kernel = {next_name.empty() ? "without a name" : next_name, address, config->gridDim, config->blockDim,
                         config->dynamicSmemBytes, std::move(thread), 0, false};
    next_name.clear();
    if (!is_possible(*config, address)) return emu_error(cudaErrorInvalidConfiguration);
    note_launch(kernel);
    if (loaded.insert(address).second) emu_synchronize(lock, "the device, to load a kernel");
    kernel.draws = emu_draws(emu_seed() ^ ++n_launches << 20).next();
    kernel.in_bursts = kernel.draws & 1;
    emu_enqueue(config->stream, "a kernel", [kernel]() mutable {
        emu_kernel_run(kernel);
        return true;
    });
    return cudaSuccess;
}

/* ---- when its turn comes ---- */

static void run_once(const emu_kernel &kernel) {
    const uint64_t n_blocks = (uint64_t)kernel.grid.x * kernel.grid.y * kernel.grid.z;
    std::vector<uint32_t> blocks(n_blocks);
    std::iota(blocks.begin(), blocks.end(), 0);
    draws = emu_draws(kernel.draws);
    gridDim = kernel.grid;
    blockDim = kernel.block;
    for (uint32_t left = (uint32_t)n_blocks; left > 0; left--) {
        std::swap(blocks[draws.below(left)], blocks[left - 1]);
        const uint32_t i = blocks[left - 1];
        blockIdx = uint3{i % kernel.grid.x, i / kernel.grid.x % kernel.grid.y, i / kernel.grid.x / kernel.grid.y};
        emu_block_run(kernel);
    }
    emu_memory_check_canaries(("kernel " + kernel.name).c_str());
}

void emu_kernel_run(emu_kernel &kernel) {
    if (!emu_is_checking()) return run_once(kernel);
    const auto before = emu_snapshot_take();
    run_once(kernel);
    const auto after = emu_snapshot_take();
    emu_snapshot_restore(*before);
    kernel.draws = ~kernel.draws;
    kernel.in_bursts = !kernel.in_bursts;
    run_once(kernel);
    emu_snapshot_compare(*after, kernel.name.c_str());
}

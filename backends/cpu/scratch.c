/* Scratch memory of the running op. A list of blocks rather than one, because blocks already handed out must
 * not move; the next op starts with a single block as large as all of them. */
#include "backends/cpu/cpu_impl.h"

static hx_status add_block(hx_cpu *cpu, size_t n_bytes) {
    if (cpu->n_blocks == HX_CPU_SCRATCH_BLOCKS)
        return HX_FAIL(HX_ERR_INTERNAL, "an op took more than %d blocks of scratch memory", HX_CPU_SCRATCH_BLOCKS);
    HX_TRY(hx_mem_alloc(n_bytes, &cpu->blocks[cpu->n_blocks]));
    cpu->block_bytes[cpu->n_blocks++] = n_bytes;
    cpu->used = 0;
    return HX_OK;
}

hx_status hx__cpu_scratch(hx_cpu *cpu, size_t n_bytes, void **out) {
    if (n_bytes > SIZE_MAX / 4) return HX_FAIL(HX_ERR_OVERFLOW, "%zu bytes of scratch memory", n_bytes);
    size_t need = (n_bytes + 63) / 64 * 64;
    int last = cpu->n_blocks - 1;
    if (last < 0 || cpu->block_bytes[last] - cpu->used < need) {
        size_t least = (size_t)1 << 20;
        HX_TRY(add_block(cpu, need > least ? need : least));
        last = cpu->n_blocks - 1;
    }
    *out = (char *)cpu->blocks[last] + cpu->used;
    cpu->used += need;
    return HX_OK;
}

hx_status hx__cpu_scratch_array(hx_cpu *cpu, int64_t n_items, size_t item_bytes, void **out) {
    size_t n_bytes;
    if (n_items < 0) return HX_FAIL(HX_ERR_ARG, "%lld items: expected none or more", (long long)n_items);
    HX_TRY(hx_mem_mul((size_t)n_items, item_bytes, &n_bytes));
    return hx__cpu_scratch(cpu, n_bytes, out);
}

hx_status hx__cpu_scratch_reset(hx_cpu *cpu) {
    cpu->used = 0;
    if (cpu->n_blocks <= 1) return HX_OK;
    size_t total = 0;
    for (int i = 0; i < cpu->n_blocks; i++) {
        total += cpu->block_bytes[i];
        hx_mem_free(&cpu->blocks[i]);
    }
    cpu->n_blocks = 0;
    return add_block(cpu, total);
}

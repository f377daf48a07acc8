/* helix bench cpu: what the machine can do at most. */
#include <hwloc.h>
#include <math.h>
#include <stdio.h>

#include "backends/cpu/probe.h"
#include "launch/bench_impl.h"

#define UNKNOWN_CACHE ((int64_t)16 << 20) /* where the system does not tell */
#define LEAST_MEMORY  ((int64_t)192 << 20)
#define MOST_MEMORY   ((int64_t)1536 << 20)

/* Bytes of one of the largest caches, and of all of them together. */
static void find_caches(int64_t *one, int64_t *all) {
    hwloc_topology_t topology;
    *one = *all = UNKNOWN_CACHE;
    if (hwloc_topology_init(&topology) != 0) return;
    hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE); /* to find the rest takes most of the time */
    hwloc_topology_set_type_filter(topology, HWLOC_OBJ_L3CACHE, HWLOC_TYPE_FILTER_KEEP_ALL);
    const int n = hwloc_topology_load(topology) == 0 ? hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_L3CACHE) : 0;
    const int64_t bytes = n > 0 ? (int64_t)hwloc_get_obj_by_type(topology, HWLOC_OBJ_L3CACHE, 0)->attr->cache.size : 0;
    if (bytes > 0) {
        *one = bytes;
        *all = bytes * n;
    }
    hwloc_topology_destroy(topology);
}

/* Three times what the caches hold: what is left in them of the last pass is little then. */
static int64_t beyond(int64_t caches) {
    const int64_t bytes = 3 * caches;
    return bytes < LEAST_MEMORY ? LEAST_MEMORY : bytes > MOST_MEMORY ? MOST_MEMORY : bytes;
}

static hx_status measure(hx_device *device, int n_threads, int64_t cache_bytes, int64_t memory_bytes, hx_bench_limit *out) {
    HX_TRY(hx_cpu_peak(device, HX_F32, n_threads, &out->f32));
    HX_TRY(hx_cpu_peak(device, HX_BF16, n_threads, &out->bf16));
    HX_TRY(hx_cpu_bandwidth(device, cache_bytes, n_threads, &out->cache));
    return hx_cpu_bandwidth(device, memory_bytes, n_threads, &out->memory);
}

hx_status hx__bench_limits_measure(hx_device *device, hx_bench_limits *out) {
    hx_device_props props;
    int64_t cache, caches;
    hx_device_props_get(device, &props);
    find_caches(&cache, &caches);
    *out = (hx_bench_limits){.cache_bytes = cache / 2};
    snprintf(out->device, sizeof out->device, "%s", props.name);
    HX_TRY(measure(device, 1, out->cache_bytes, beyond(caches), &out->one));
    out->all = out->one;
    return props.n_threads > 1 ? measure(device, props.n_threads, out->cache_bytes, beyond(caches), &out->all) : HX_OK;
}

double hx__bench_limits_share(const hx_bench_limits *limits, hx_dtype dtype, double n_flops, double n_bytes, double seconds, const char **bound) {
    const hx_bench_limit *all = &limits->all;
    const double flops_s = n_flops / (dtype == HX_BF16 && all->bf16 > 0 ? all->bf16 : all->f32);
    const double bytes_s = n_bytes / (n_bytes <= (double)limits->cache_bytes ? all->cache : all->memory);
    *bound = flops_s > bytes_s ? "flops" : "bytes";
    return fmax(flops_s, bytes_s) / seconds;
}

void hx__bench_limits_print(const hx_bench_limits *l, int n_threads) {
    printf("%s, %d thread%s. Limits on one, on all of them:\n", l->device, n_threads, n_threads == 1 ? "" : "s");
    printf("  f32 multiply-adds   %8.1f %8.1f GFLOP/s\n", 1e-9 * l->one.f32, 1e-9 * l->all.f32);
    if (l->one.bf16 > 0) printf("  bf16 dot products   %8.1f %8.1f GFLOP/s\n", 1e-9 * l->one.bf16, 1e-9 * l->all.bf16);
    printf("  %4lld MiB in cache   %8.1f %8.1f GB/s\n", (long long)(l->cache_bytes >> 20), 1e-9 * l->one.cache, 1e-9 * l->all.cache);
    printf("  memory              %8.1f %8.1f GB/s\n\n", 1e-9 * l->one.memory, 1e-9 * l->all.memory);
}

static json_t *pair(double one, double all) { return json_pack("[o, o]", hx__json_real(one), hx__json_real(all)); }

json_t *hx__bench_limits_json(const hx_bench_limits *l) {
    return json_pack("{s:o, s:o, s:o, s:o, s:I}", "f32_flops", pair(l->one.f32, l->all.f32), "bf16_flops", pair(l->one.bf16, l->all.bf16),
                     "memory_bytes_per_s", pair(l->one.memory, l->all.memory), "cache_bytes_per_s", pair(l->one.cache, l->all.cache),
                     "cache_bytes", (json_int_t)l->cache_bytes);
}

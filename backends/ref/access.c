#include "backends/ref/ref_impl.h"

double hx__ref_get(const hx_array *a, int64_t at) { return hx_elem_get(a->dtype, a->data, at); }

int64_t hx__ref_get_int(const hx_array *a, int64_t at) { return hx_elem_get_int(a->dtype, a->data, at); }

void hx__ref_set_int(const hx_array *a, int64_t at, int64_t value) {
    if (hx__ref_has(a)) hx_elem_set_int(a->dtype, a->data, at, value);
}

void hx__ref_set(const hx_array *a, int64_t at, double value) {
    if (hx__ref_has(a)) hx_elem_set(a->dtype, a->data, at, value);
}

void hx__ref_put(const hx_array *a, int64_t at, double value, bool accumulate) {
    if (!hx__ref_has(a)) return;
    hx__ref_set(a, at, accumulate ? hx__ref_get(a, at) + value : value);
}

/* Broadcasting is right-aligned: dims that an operand lacks, or has with size 1, repeat with stride 0. */
static void walk_add(hx__ref_walk *walk, const hx_array *a) {
    int64_t *strides = walk->strides[walk->n_arrays++];
    for (int d = 0; d < walk->ndim; d++) {
        int own = d + a->ndim - walk->ndim;
        strides[d] = own >= 0 && a->ndim > 0 && a->dims[own] != 1 ? a->strides[own] : 0;
    }
}

hx__ref_walk hx__ref_walk_start(int n_arrays, const hx_array *const *arrays) {
    const hx_array *shape = arrays[0];
    hx__ref_walk walk = {.ndim = shape->ndim > 0 ? shape->ndim : 0};
    for (int d = 0; d < walk.ndim; d++) {
        walk.dims[d] = shape->dims[d];
        walk.is_done |= shape->dims[d] == 0;
    }
    for (int i = 0; i < n_arrays; i++) walk_add(&walk, arrays[i]);
    return walk;
}

void hx__ref_walk_next(hx__ref_walk *walk) {
    walk->index++;
    for (int d = walk->ndim - 1; d >= 0; d--) {
        bool carries = ++walk->at_dim[d] == walk->dims[d];
        for (int i = 0; i < walk->n_arrays; i++)
            walk->at[i] += carries ? -walk->strides[i][d] * (walk->dims[d] - 1) : walk->strides[i][d];
        if (!carries) return;
        walk->at_dim[d] = 0;
    }
    walk->is_done = true;
}

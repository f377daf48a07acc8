#include "backends/ref/ref_impl.h"

#include <string.h>

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

void hx__ref_move(const hx_array *to, int64_t at_to, const hx_array *from, int64_t at_from) {
    int64_t n_bytes = (int64_t)hx_dtype_bytes(to->dtype);
    memcpy((char *)to->data + at_to * n_bytes, (const char *)from->data + at_from * n_bytes, (size_t)n_bytes);
}

/* The real (0) or imaginary (1) parts of a complex array as a strided real one. */
static hx_array part_of(const hx_array *a, int part) {
    hx_array real = *a;
    if (!hx__ref_has(a) || !hx_dtype_is_complex(a->dtype)) return real;
    real.dtype = hx_dtype_real(a->dtype);
    real.data = (char *)a->data + (size_t)part * hx_dtype_bytes(real.dtype);
    for (int d = 0; d < a->ndim; d++) real.strides[d] *= 2;
    return real;
}

hx_status hx__ref_by_parts(const hx_op_call *call, hx__ref_fn run) {
    for (int part = 0; part < 2; part++) {
        hx_op_call real = *call;
        for (int i = 0; i < call->n_in; i++) real.in[i] = part_of(&call->in[i], part);
        for (int i = 0; i < call->n_out; i++) real.out[i] = part_of(&call->out[i], part);
        HX_TRY(run(&real));
    }
    return HX_OK;
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

#include "tests/golden/golden.h"

#include <hdf5.h>
#include <math.h>
#include <stdlib.h>

#include "launch/compose.h"

void golden_open(const char *backend, golden_rig *out) {
    *out = (golden_rig){0};
    MUST(hx_register_backends());
    MUST(hx_device_open(backend, &(hx_device_config){.n_threads = 2}, &out->device));
    MUST(hx_stream_create(out->device, &out->stream));
    MUST(hx_tape_create(out->device, &out->tape));
    out->ctx = (hx_ctx){.device = out->device, .stream = out->stream, .tape = out->tape, .training = true};
}

void golden_close(golden_rig *rig) {
    hx_tape_destroy(&rig->tape);
    hx_stream_destroy(&rig->stream);
    hx_device_close(&rig->device);
}

/* Opened once a program; the tests of one program run in processes of their own. */
static hid_t file(void) {
    static hid_t h5 = H5I_INVALID_HID;
    if (h5 < 0) h5 = H5Fopen(HELIX_GOLDEN_FILE, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert_geq(h5, 0, "%s cannot be opened", HELIX_GOLDEN_FILE);
    return h5;
}

bool golden_has(const char *path) { return H5Lexists(file(), path, H5P_DEFAULT) > 0; }

void golden_read(const char *path, golden_array *out) {
    hid_t set = H5Dopen2(file(), path, H5P_DEFAULT), space = H5Dget_space(set), type = H5Dget_type(set);
    hsize_t dims[HX_MAX_DIMS];
    cr_assert_geq(set, 0, "%s", path);
    *out = (golden_array){.shape.ndim = H5Sget_simple_extent_dims(space, dims, NULL),
                          .is_float = H5Tget_class(type) == H5T_FLOAT};
    for (int d = 0; d < out->shape.ndim; d++) out->shape.dims[d] = (int64_t)dims[d];
    out->values = malloc((size_t)hx_shape_count(&out->shape) * sizeof(double) + 1);
    cr_assert_not_null(out->values);
    cr_assert_geq(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out->values), 0, "%s", path);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(set);
}

void golden_free(golden_array *array) {
    free(array->values);
    *array = (golden_array){0};
}

hx_tensor *golden_tensor(golden_rig *rig, const char *path, hx_dtype dtype) {
    golden_array array;
    hx_tensor *x;
    golden_read(path, &array);
    int64_t n = hx_shape_count(&array.shape);
    if (!array.is_float) dtype = HX_I64;
    void *bytes = malloc((size_t)n * hx_dtype_bytes(dtype) + 1);
    cr_assert_not_null(bytes);
    for (int64_t i = 0; i < n; i++) hx_elem_set(dtype, bytes, i, array.values[i]);
    MUST(hx_tensor_create(rig->device, dtype, array.shape, &x));
    MUST(hx_tensor_write(rig->stream, x, bytes));
    free(bytes);
    golden_free(&array);
    return x;
}

double golden_distance_of(const double *got, const double *want, int64_t n) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    if (!isfinite(error)) return INFINITY;
    return size > 0 ? sqrt(error / size) : sqrt(error);
}

double golden_distance(golden_rig *rig, hx_tensor *got, const char *path) {
    golden_array want;
    golden_read(path, &want);
    hx_shape shape = hx_tensor_shape(got);
    hx_dtype dtype = hx_tensor_dtype(got);
    int64_t n = hx_shape_count(&want.shape);
    double distance = INFINITY;
    if (hx_shape_equal(&shape, &want.shape)) {
        void *bytes = malloc((size_t)n * hx_dtype_bytes(dtype) + 1);
        double *values = malloc((size_t)n * sizeof(double) + 1);
        cr_assert(bytes && values);
        MUST(hx_tensor_read(rig->stream, got, bytes));
        for (int64_t i = 0; i < n; i++) values[i] = hx_elem_get(dtype, bytes, i);
        distance = golden_distance_of(values, want.values, n);
        free(values);
        free(bytes);
    }
    golden_free(&want);
    return distance;
}

#include <math.h>
#include <string.h>
#include "core/base/mem.h"
#include "io/data/table.h"
#include "io/h5.h"

#define RATIO_MOST 4096 /* bytes in memory for one in the file: no compression of numbers that mean something reaches it */

typedef struct source {
    const char *path, *name;
    hid_t dataset;
    hsize_t dims[2];
    int ndim;
    int64_t n; /* elements */
    bool is_integer;
} source;

/* A data set of numbers whose size is not larger than what the file can mean. */
static hx_status look_at(source *s) {
    HX_AUTO_H5 type = H5Dget_type(s->dataset);
    HX_AUTO_H5 space = H5Dget_space(s->dataset);
    if (type < 0 || space < 0) return HX_H5_FAIL(HX_ERR_FORMAT, s->path, s->name);
    s->is_integer = H5Tget_class(type) == H5T_INTEGER;
    if (!s->is_integer && H5Tget_class(type) != H5T_FLOAT) return HX_FAIL(HX_ERR_FORMAT, "%s: %s holds no numbers", s->path, s->name);
    s->ndim = H5Sget_simple_extent_ndims(space);
    if (s->ndim < 1 || s->ndim > 2) return HX_FAIL(HX_ERR_FORMAT, "%s: %s has %d dims: expected 1 or 2", s->path, s->name, s->ndim);
    s->dims[1] = 1;
    H5Sget_simple_extent_dims(space, s->dims, NULL);
    const hsize_t stored = H5Dget_storage_size(s->dataset), most = (hsize_t)INT64_MAX / 16;
    if (s->dims[0] == 0 || s->dims[1] == 0) return HX_FAIL(HX_ERR_FORMAT, "%s: %s is empty", s->path, s->name);
    if (s->dims[0] > most / s->dims[1] || stored == 0 || s->dims[0] * s->dims[1] / RATIO_MOST > stored)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s claims %llu x %llu numbers, of which %llu bytes are in the file", s->path, s->name,
                       (unsigned long long)s->dims[0], (unsigned long long)s->dims[1], (unsigned long long)stored);
    s->n = (int64_t)(s->dims[0] * s->dims[1]);
    return HX_OK;
}

static hx_status check_finite(const source *s, const void *data, bool is_f64) {
    for (int64_t i = 0; i < s->n; i++)
        if (!isfinite(is_f64 ? ((const double *)data)[i] : (double)((const float *)data)[i]))
            return HX_FAIL(HX_ERR_FORMAT, "%s: %s: row %lld, column %lld is not finite", s->path, s->name, (long long)(i / (int64_t)s->dims[1]),
                           (long long)(i % (int64_t)s->dims[1]));
    return HX_OK;
}

static hx_status read_numbers(const source *s, const hx_table_config *config, hx_host_array *out) {
    const bool is_f64 = config->keeps_f64;
    void *data;
    HX_TRY(hx_mem_alloc((size_t)s->n * (is_f64 ? 8 : 4), &data));
    hx_status status = HX_OK;
    if (H5Dread(s->dataset, is_f64 ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        status = HX_H5_FAIL(HX_ERR_FORMAT, s->path, s->name);
    if (status == HX_OK && !config->allows_non_finite) status = check_finite(s, data, is_f64);
    if (status != HX_OK) {
        hx_mem_free(&data);
        return status;
    }
    *out = (hx_host_array){is_f64 ? HX_F64 : HX_F32, HX_SHAPE((int64_t)s->dims[0], (int64_t)s->dims[1]), data};
    return HX_OK;
}

/* i64 narrowed in place: element i is written when all up to i have been read. */
static hx_status narrow_classes(const source *s, void *data, int64_t *n_classes) {
    for (int64_t i = 0; i < s->n; i++) {
        int64_t id;
        memcpy(&id, (char *)data + 8 * i, 8);
        if (id < 0 || id >= INT32_MAX)
            return HX_FAIL(HX_ERR_FORMAT, "%s: %s: row %lld is %lld: expected a class, 0 or more", s->path, s->name, (long long)i, (long long)id);
        if (id >= *n_classes) *n_classes = id + 1;
        memcpy((char *)data + 4 * i, &(int32_t){(int32_t)id}, 4);
    }
    return HX_OK;
}

static hx_status read_classes(const source *s, hx_host_array *out, int64_t *n_classes) {
    void *data;
    if (!s->is_integer) return HX_FAIL(HX_ERR_FORMAT, "%s: %s: expected whole numbers for classes", s->path, s->name);
    HX_TRY(hx_mem_alloc((size_t)s->n * 8, &data));
    const bool is_read = H5Dread(s->dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    hx_status status = HX_OK;
    if (is_read) status = narrow_classes(s, data, n_classes);
    if (!is_read) status = HX_H5_FAIL(HX_ERR_FORMAT, s->path, s->name);
    if (status != HX_OK) {
        hx_mem_free(&data);
        return status;
    }
    *out = (hx_host_array){HX_I32, HX_SHAPE((int64_t)s->dims[0]), data};
    return HX_OK;
}

static hx_status read_target(const source *s, const hx_table_config *config, hx_table *t) {
    if ((int64_t)s->dims[0] != t->x.shape.dims[0] || s->dims[1] != 1)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s is %llu x %llu: expected one number for each of %lld rows", s->path, s->name,
                       (unsigned long long)s->dims[0], (unsigned long long)s->dims[1], (long long)t->x.shape.dims[0]);
    if (config->is_class) return read_classes(s, &t->y, &t->n_classes);
    HX_TRY(read_numbers(s, config, &t->y));
    t->y.shape = HX_SHAPE((int64_t)s->dims[0]);
    return HX_OK;
}

static hx_status read_part(hid_t file, const char *path, const char *name, bool is_target, const hx_table_config *config, hx_table *t) {
    HX_AUTO_H5 dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) return HX_FAIL(HX_ERR_CONFIG, "%s: no data set %s", path, name);
    source s = {.path = path, .name = name, .dataset = dataset};
    HX_TRY(look_at(&s));
    return is_target ? read_target(&s, config, t) : read_numbers(&s, config, &t->x);
}

hx_status hx_table_read_h5(const char *path, const char *x, const hx_table_config *config, hx_table *out) {
    HX_H5_QUIET();
    hx_table t = {0};
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0 || H5Pset_file_locking(access, false, true) < 0 || H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to open", path);
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (file < 0) return HX_H5_FAIL(HX_ERR_IO, "opening", path);
    hx_status status = read_part(file, path, x, false, config, &t);
    if (status == HX_OK && config->target) status = read_part(file, path, config->target, true, config, &t);
    H5Fclose(file);
    if (status == HX_OK)
        *out = t;
    else
        hx_table_destroy(&t);
    return status;
}

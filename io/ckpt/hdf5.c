#include <assert.h>
#include <string.h>
#include "core/base/mem.h"
#include "io/ckpt/ckpt_impl.h"

#define TEXT_MOST 65535 /* bytes that fit into a compact attribute */

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checksums are taken over little-endian elements");

/* A float of 16 bits with a sign, n_exponent bits and the rest for the mantissa; h5py reads 5 as float16. */
static hid_t half_type(size_t n_exponent) {
    size_t n_mantissa = 15 - n_exponent;
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0 && H5Tset_fields(type, 15, n_mantissa, n_exponent, 0, n_mantissa) >= 0 && H5Tset_size(type, 2) >= 0 &&
        H5Tset_ebias(type, ((size_t)1 << (n_exponent - 1)) - 1) >= 0)
        return type;
    hx__h5_release(&type);
    return H5I_INVALID_HID;
}

/* As h5py writes them, which has read them as bool and complex for many years. */
static hid_t bool_type(void) {
    hid_t type = H5Tenum_create(H5T_STD_I8LE);
    if (type >= 0 && H5Tenum_insert(type, "FALSE", &(int8_t){0}) >= 0 &&
        H5Tenum_insert(type, "TRUE", &(int8_t){1}) >= 0)
        return type;
    hx__h5_release(&type);
    return H5I_INVALID_HID;
}

static hid_t complex_type(hid_t part, size_t part_bytes) {
    hid_t type = H5Tcreate(H5T_COMPOUND, 2 * part_bytes);
    if (type >= 0 && H5Tinsert(type, "r", 0, part) >= 0 && H5Tinsert(type, "i", part_bytes, part) >= 0) return type;
    hx__h5_release(&type);
    return H5I_INVALID_HID;
}

hid_t hx__h5_type_create(hx_dtype dtype) {
    switch (dtype) {
    case HX_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case HX_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case HX_I32: return H5Tcopy(H5T_STD_I32LE);
    case HX_I64: return H5Tcopy(H5T_STD_I64LE);
    case HX_U8: return H5Tcopy(H5T_STD_U8LE);
    case HX_I8: return H5Tcopy(H5T_STD_I8LE);
    case HX_F16: return half_type(5);
    case HX_BF16: return half_type(8);
    case HX_BOOL: return bool_type();
    case HX_C64: return complex_type(H5T_IEEE_F32LE, 4);
    case HX_C128: return complex_type(H5T_IEEE_F64LE, 8);
    case HX_DTYPE_COUNT: break;
    }
    return H5I_INVALID_HID;
}

hx_status hx__h5_dtype(hid_t type, const char *name, hx_dtype *out) {
    for (int d = 0; d < HX_DTYPE_COUNT; d++) {
        HX_AUTO_H5 known = hx__h5_type_create((hx_dtype)d);
        if (known < 0) return HX_H5_FAIL(HX_ERR_INTERNAL, "making the type of", hx_dtype_name((hx_dtype)d));
        if (H5Tequal(type, known) <= 0) continue;
        *out = (hx_dtype)d;
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_FORMAT,
                   "dataset %s: expected elements as Helix writes them: little-endian f32, f64, i32, i64, u8, bf16, "
                   "f16, i8, bool {FALSE, TRUE}, c64 or c128 {r, i}",
                   name);
}

/* ---- attributes ---- */

hx_status hx__h5_attr_write(hid_t object, const char *name, hid_t type, int64_t n, const void *values) {
    HX_AUTO_H5 space = H5Screate_simple(1, &(hsize_t){(hsize_t)n}, NULL);
    if (space < 0) return HX_H5_FAIL(HX_ERR_IO, "attribute", name);
    HX_AUTO_H5 attr = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attr < 0 || (n > 0 && H5Awrite(attr, type, values) < 0)) return HX_H5_FAIL(HX_ERR_IO, "writing attribute", name);
    return HX_OK;
}

static hx_status attr_open(hid_t object, const char *name, hid_t *out) {
    if (H5Aexists(object, name) <= 0) return HX_FAIL(HX_ERR_FORMAT, "attribute %s is missing", name);
    *out = H5Aopen(object, name, H5P_DEFAULT);
    if (*out < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening attribute", name);
    return HX_OK;
}

hx_status hx__h5_attr_read(hid_t object, const char *name, hid_t type, int64_t n, void *values) {
    HX_AUTO_H5 attr = H5I_INVALID_HID;
    HX_TRY(attr_open(object, name, &attr));
    HX_AUTO_H5 stored = H5Aget_type(attr);
    HX_AUTO_H5 space = H5Aget_space(attr);
    if (stored < 0 || space < 0 || H5Tequal(stored, type) <= 0)
        return HX_FAIL(HX_ERR_FORMAT, "attribute %s has another type than Helix writes", name);
    hssize_t n_stored = H5Sget_simple_extent_npoints(space);
    if (n_stored != n)
        return HX_FAIL(HX_ERR_FORMAT, "attribute %s has %lld values: expected %lld", name, (long long)n_stored,
                       (long long)n);
    if (n > 0 && H5Aread(attr, type, values) < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "reading attribute", name);
    return HX_OK;
}

hx_status hx__h5_text_write(hid_t object, const char *name, const char *text) {
    HX_AUTO_H5 type = H5Tcopy(H5T_C_S1);
    HX_AUTO_H5 space = H5Screate(H5S_SCALAR);
    if (type < 0 || space < 0 || H5Tset_size(type, strlen(text) + 1) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "attribute", name);
    HX_AUTO_H5 attr = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attr < 0 || H5Awrite(attr, type, text) < 0) return HX_H5_FAIL(HX_ERR_IO, "writing attribute", name);
    return HX_OK;
}

hx_status hx__h5_text_read(hid_t object, const char *name, char **text) {
    HX_AUTO_H5 attr = H5I_INVALID_HID;
    HX_TRY(attr_open(object, name, &attr));
    HX_AUTO_H5 type = H5Aget_type(attr);
    HX_AUTO_H5 space = H5Aget_space(attr);
    if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
        H5Sget_simple_extent_npoints(space) != 1)
        return HX_FAIL(HX_ERR_FORMAT, "attribute %s: expected one text of fixed length", name);
    size_t n_bytes = H5Tget_size(type);
    if (n_bytes == 0 || n_bytes > TEXT_MOST)
        return HX_FAIL(HX_ERR_FORMAT, "attribute %s has %zu bytes: expected 1 to %d", name, n_bytes, TEXT_MOST);
    void *bytes;
    HX_TRY(hx_mem_alloc_array((int64_t)n_bytes + 1, 1, &bytes));
    if (H5Aread(attr, type, bytes) < 0) {
        hx_mem_free(&bytes);
        return HX_H5_FAIL(HX_ERR_FORMAT, "reading attribute", name);
    }
    *text = bytes;
    return HX_OK;
}

/* ---- files and datasets ---- */

void hx__h5_file_release(hid_t *h5) {
    if (*h5 >= 0) H5Fclose(*h5);
    *h5 = H5I_INVALID_HID;
}

hx_status hx__h5_open_read(const char *file, hid_t *out) {
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    /* Locks protect from writers, of which a sealed file has none, and fail on file systems without them. */
    if (access < 0 || H5Pset_file_locking(access, false, true) < 0 || H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to open", file);
    hid_t h5 = H5Fopen(file, H5F_ACC_RDONLY, access);
    if (h5 < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", file);
    *out = h5;
    return HX_OK;
}

/* A soft or external link would lead HDF5 to files that no seal covers. */
static hx_status require_hard_links(hid_t h5, const char *name) {
    char path[sizeof((hx_ckpt_entry *)0)->name];
    size_t n = strlen(name);
    if (n >= sizeof path || name[0] != '/')
        return HX_FAIL(HX_ERR_ARG, "name `%s`: expected /group/name of up to %zu bytes", name, sizeof path - 1);
    for (size_t i = 1; i <= n; i++) {
        if (name[i] != '/' && name[i] != 0) continue;
        memcpy(path, name, i);
        path[i] = 0;
        H5L_info_t info;
        htri_t exists = H5Lexists(h5, path, H5P_DEFAULT);
        if (exists <= 0) return HX_FAIL(HX_ERR_MISMATCH, "%s is not in the checkpoint", name);
        if (H5Lget_info(h5, path, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD)
            return HX_FAIL(HX_ERR_FORMAT, "%s: %s is a link to somewhere else", name, path);
    }
    return HX_OK;
}

static hx_status dataset_describe(hid_t dataset, const char *name, hx_dtype *dtype, hx_shape *shape) {
    HX_AUTO_H5 type = H5Dget_type(dataset);
    HX_AUTO_H5 space = H5Dget_space(dataset);
    HX_AUTO_H5 plist = H5Dget_create_plist(dataset);
    if (type < 0 || space < 0 || plist < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "dataset", name);
    if (H5Pget_layout(plist) != H5D_CONTIGUOUS || H5Pget_external_count(plist) != 0)
        return HX_FAIL(HX_ERR_FORMAT, "dataset %s is not stored in one run of this file", name);
    HX_TRY(hx__h5_dtype(type, name, dtype));
    int ndim = H5Sget_simple_extent_ndims(space);
    if (ndim < 0 || ndim > HX_MAX_DIMS)
        return HX_FAIL(HX_ERR_FORMAT, "dataset %s has %d dims: expected 0 to %d", name, ndim, HX_MAX_DIMS);
    hsize_t dims[HX_MAX_DIMS] = {0};
    if (H5Sget_simple_extent_type(space) == H5S_NULL || H5Sget_simple_extent_dims(space, dims, NULL) < 0)
        return HX_FAIL(HX_ERR_FORMAT, "dataset %s has no shape", name);
    *shape = (hx_shape){.ndim = ndim};
    for (int d = 0; d < ndim; d++) {
        if (dims[d] > INT64_MAX) return HX_FAIL(HX_ERR_FORMAT, "dataset %s: dim %d is too large", name, d);
        shape->dims[d] = (int64_t)dims[d];
    }
    if (hx_shape_check(shape) != HX_OK) return HX_FAIL(HX_ERR_FORMAT, "dataset %s is too large", name);
    /* Buffers and checksums are sized from the shape: it must agree with bytes that are really there. */
    uint64_t n_bytes = (uint64_t)hx_shape_count(shape) * hx_dtype_bytes(*dtype);
    if (H5Dget_storage_size(dataset) != n_bytes)
        return HX_FAIL(HX_ERR_FORMAT, "dataset %s stores %llu bytes: its shape needs %llu", name,
                       (unsigned long long)H5Dget_storage_size(dataset), (unsigned long long)n_bytes);
    return HX_OK;
}

hx_status hx__h5_object_open(hid_t h5, const char *name, hid_t *out) {
    HX_TRY(require_hard_links(h5, name));
    HX_AUTO_H5 object = H5Oopen(h5, name, H5P_DEFAULT);
    if (object < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", name);
    if (H5Iget_type(object) != H5I_DATASET) return HX_FAIL(HX_ERR_MISMATCH, "%s is no tensor in the checkpoint", name);
    *out = object;
    object = H5I_INVALID_HID;
    return HX_OK;
}

hx_status hx__h5_dataset_open(hid_t h5, const char *name, hid_t *out, hx_dtype *dtype, hx_shape *shape) {
    HX_AUTO_H5 object = H5I_INVALID_HID;
    HX_TRY(hx__h5_object_open(h5, name, &object));
    HX_TRY(dataset_describe(object, name, dtype, shape));
    *out = object;
    object = H5I_INVALID_HID; /* handed on */
    return HX_OK;
}

hx_status hx__h5_dataset_place(hid_t dataset, const char *name, uint64_t n_bytes, int64_t *offset) {
    HX_AUTO_H5 create = H5Dget_create_plist(dataset);
    HX_AUTO_H5 file = H5Iget_file_id(dataset);
    hsize_t file_bytes;
    if (create < 0 || file < 0 || H5Fget_filesize(file, &file_bytes) < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "locating", name);
    if (H5Pget_layout(create) != H5D_CONTIGUOUS || H5Pget_external_count(create) != 0)
        return HX_FAIL(HX_ERR_FORMAT, "dataset %s: expected its elements in one piece in this file", name);
    haddr_t at = n_bytes > 0 ? H5Dget_offset(dataset) : 0;
    if (at == HADDR_UNDEF || at > file_bytes || n_bytes > file_bytes - at)
        return HX_FAIL(HX_ERR_FORMAT, "dataset %s: its %llu bytes do not lie within the file's %llu", name, (unsigned long long)n_bytes,
                       (unsigned long long)file_bytes);
    *offset = (int64_t)at;
    return HX_OK;
}

/* Our own files. HDF5 says where the data sets lie; from then on the mapping is read, whose bytes are checked against it here. */
#include <stdio.h>
#include <string.h>
#include "io/data/tokens_impl.h"
#include "io/h5.h"

static const uint8_t signature[] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

bool hx__tokens_is_h5(const hx_tokens *t) {
    return t->mapping_bytes >= (int64_t)sizeof signature && memcmp(t->mapping, signature, sizeof signature) == 0;
}

/* ---- where a data set lies ---- */

typedef struct place {
    const uint8_t *data; /* in the mapping */
    int64_t n;
    int width; /* bytes of an element */
} place;

/* Integers of one of the widths in the set `widths` (bit w: w bytes), little-endian. */
static hx_status check_type(const hx_tokens *t, const char *name, hid_t dataset, bool is_signed, unsigned widths, int *width) {
    HX_AUTO_H5 type = H5Dget_type(dataset);
    if (type < 0) return HX_H5_FAIL(HX_ERR_FORMAT, t->path, name);
    const size_t n = H5Tget_size(type);
    const bool is_integer = H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == (is_signed ? H5T_SGN_2 : H5T_SGN_NONE);
    if (!is_integer || n > 8 || !(widths >> n & 1) || (n > 1 && H5Tget_order(type) != H5T_ORDER_LE))
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s has elements of another type: expected little-endian %s", t->path, name,
                       is_signed ? "i64" : widths & 4 ? "u8, u16 or u32" : "u8");
    *width = (int)n;
    return HX_OK;
}

static hx_status check_layout(const hx_tokens *t, const char *name, hid_t dataset) {
    HX_AUTO_H5 plist = H5Dget_create_plist(dataset);
    if (plist < 0) return HX_H5_FAIL(HX_ERR_FORMAT, t->path, name);
    if (H5Pget_layout(plist) != H5D_CONTIGUOUS || H5Pget_external_count(plist) != 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s does not lie in one piece: expected it contiguous, without chunks, compression or files of its own",
                       t->path, name);
    return HX_OK;
}

/* Elements [n], all of them inside of the file. */
static hx_status check_extent(const hx_tokens *t, const char *name, hid_t dataset, place *p) {
    HX_AUTO_H5 space = H5Dget_space(dataset);
    hsize_t n;
    if (space < 0 || H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_dims(space, &n, NULL) < 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s: expected one dimension", t->path, name);
    if (n == 0) return HX_FAIL(HX_ERR_IO, "%s: %s is empty", t->path, name);
    const haddr_t at = H5Dget_offset(dataset), size = (haddr_t)t->mapping_bytes;
    if (at == HADDR_UNDEF) return HX_FAIL(HX_ERR_FORMAT, "%s: %s has not been written", t->path, name);
    if (at > size || n > (size - at) / (hsize_t)p->width)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %s is %llu elements of %d bytes from byte %llu on, beyond the end of the file at %lld", t->path,
                       name, (unsigned long long)n, p->width, (unsigned long long)at, (long long)t->mapping_bytes);
    p->data = t->mapping + at;
    p->n = (int64_t)n;
    return HX_OK;
}

static hx_status find_place(const hx_tokens *t, hid_t file, const char *name, bool is_signed, unsigned widths, place *out) {
    place p;
    HX_AUTO_H5 dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) return HX_FAIL(HX_ERR_FORMAT, "%s: an HDF5 file without a data set %s", t->path, name);
    HX_TRY(check_type(t, name, dataset, is_signed, widths, &p.width));
    HX_TRY(check_layout(t, name, dataset));
    HX_TRY(check_extent(t, name, dataset, &p));
    *out = p;
    return HX_OK;
}

/* ---- attributes of / ---- */

static hx_status read_attribute(const hx_tokens *t, hid_t file, const char *name, hid_t type, void *value) {
    if (H5Aexists(file, name) <= 0) return HX_FAIL(HX_ERR_FORMAT, "%s: no attribute %s: not a token data set", t->path, name);
    HX_AUTO_H5 attribute = H5Aopen(file, name, H5P_DEFAULT);
    HX_AUTO_H5 stored = attribute < 0 ? H5I_INVALID_HID : H5Aget_type(attribute);
    HX_AUTO_H5 space = attribute < 0 ? H5I_INVALID_HID : H5Aget_space(attribute);
    if (stored < 0 || space < 0 || H5Tget_class(stored) != H5T_INTEGER || H5Tget_size(stored) > 8 || H5Sget_simple_extent_npoints(space) != 1)
        return HX_FAIL(HX_ERR_FORMAT, "%s: attribute %s: expected one integer", t->path, name);
    if (H5Aread(attribute, type, value) < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "reading attribute", name);
    return HX_OK;
}

static hx_status read_attributes(hx_tokens *t, hid_t file) {
    int64_t format;
    hx_tokens_info *info = &t->info;
    HX_TRY(read_attribute(t, file, "helix_tokens", H5T_NATIVE_INT64, &format));
    if (format < 1 || format > HX_TOKENS_FORMAT)
        return HX_FAIL(HX_ERR_FORMAT, "%s: format %lld of token data sets: expected 1 to %d", t->path, (long long)format, HX_TOKENS_FORMAT);
    HX_TRY(read_attribute(t, file, "vocab", H5T_NATIVE_INT64, &info->vocab));
    HX_TRY(read_attribute(t, file, "tokenizer", H5T_NATIVE_UINT64, &info->tokenizer));
    HX_TRY(read_attribute(t, file, "xxh3", H5T_NATIVE_UINT64, &info->hash));
    if (info->vocab < 1 || info->vocab > HX__VOCAB_U32)
        return HX_FAIL(HX_ERR_FORMAT, "%s: attribute vocab is %lld: expected 1 to 2^31", t->path, (long long)info->vocab);
    return HX_OK;
}

/* ---- the file ---- */

/* Searched in halves from then on. */
static hx_status check_documents(const hx_tokens *t) {
    int64_t before = -1;
    for (int64_t i = 0; i < t->info.n_documents; i++) {
        const int64_t begin = hx_tokens_document(t, i);
        if (begin <= before || begin >= t->info.n_tokens || (i == 0 && begin != 0))
            return HX_FAIL(HX_ERR_FORMAT, "%s: /documents: number %lld begins at token %lld, the one before it at %lld: expected 0 first, and "
                           "rising numbers below %lld", t->path, (long long)i, (long long)begin, (long long)before, (long long)t->info.n_tokens);
        before = begin;
    }
    return HX_OK;
}

static hx_status read_places(hx_tokens *t, hid_t file) {
    place ids, documents, mask;
    HX_TRY(find_place(t, file, "/tokens", false, 1u << 1 | 1u << 2 | 1u << 4, &ids));
    t->ids = ids.data;
    t->width = ids.width;
    t->info.n_tokens = ids.n;
    HX_TRY(find_place(t, file, "/documents", true, 1u << 8, &documents));
    t->documents = documents.data;
    t->info.n_documents = documents.n;
    HX_TRY(check_documents(t));
    if (H5Lexists(file, "/loss_mask", H5P_DEFAULT) <= 0) return HX_OK;
    HX_TRY(find_place(t, file, "/loss_mask", false, 1u << 1, &mask));
    if (mask.n != ids.n)
        return HX_FAIL(HX_ERR_FORMAT, "%s: /loss_mask has %lld elements for %lld tokens", t->path, (long long)mask.n, (long long)ids.n);
    t->loss_mask = mask.data;
    t->info.has_loss_mask = true;
    return HX_OK;
}

hx_status hx__tokens_open_h5(hx_tokens *t) {
    HX_H5_QUIET();
    t->info = (hx_tokens_info){.format = "helix"};
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0 || H5Pset_file_locking(access, false, true) < 0 || H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to open", t->path);
    const hid_t file = H5Fopen(t->path, H5F_ACC_RDONLY, access);
    if (file < 0) return HX_H5_FAIL(HX_ERR_FORMAT, "opening", t->path);
    hx_status status = read_attributes(t, file);
    if (status == HX_OK) status = read_places(t, file);
    H5Fclose(file);
    return status;
}

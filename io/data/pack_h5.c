/* HDF5 makes the file and says where its data sets lie; their bytes are written there by calls that tests can cut off. The same data
 * give the same bytes: no times are kept. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "io/data/pack_impl.h"
#include "io/data/tokens.h"
#include "io/fs.h"
#include "io/h5.h"

#define PAGE_BYTES  4096
#define CHUNK_BYTES (1 << 20)

typedef struct places {
    haddr_t ids, documents, mask;
} places;

/* ---- what HDF5 writes ---- */

static hx_status make_dataset(hid_t file, const char *name, hid_t type, int64_t n, haddr_t *at) {
    HX_AUTO_H5 dataset = H5I_INVALID_HID;
    HX_TRY(hx__h5_dataset_place_new(file, name, type, 1, &n, &dataset));
    *at = H5Dget_offset(dataset);
    return *at != HADDR_UNDEF ? HX_OK : HX_FAIL(HX_ERR_INTERNAL, "HDF5 does not tell where %s lies", name);
}

static hx_status make_attribute(hid_t file, const char *name, hid_t type, const void *value) {
    HX_AUTO_H5 space = H5Screate(H5S_SCALAR);
    HX_AUTO_H5 attribute = space < 0 ? H5I_INVALID_HID : H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, type, value) < 0) return HX_H5_FAIL(HX_ERR_IO, "writing attribute", name);
    return HX_OK;
}

static hx_status make_contents(hid_t file, const hx__pack_parts *p, uint64_t hash, places *at) {
    const hid_t type = p->width == 1 ? H5T_STD_U8LE : p->width == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
    HX_TRY(make_attribute(file, "helix_tokens", H5T_STD_I64LE, &(int64_t){HX_TOKENS_FORMAT}));
    HX_TRY(make_attribute(file, "vocab", H5T_STD_I64LE, &p->vocab));
    HX_TRY(make_attribute(file, "tokenizer", H5T_STD_U64LE, &p->tokenizer));
    HX_TRY(make_attribute(file, "xxh3", H5T_STD_U64LE, &hash));
    HX_TRY(make_dataset(file, "tokens", type, p->point.n_tokens, &at->ids));
    HX_TRY(make_dataset(file, "documents", H5T_STD_I64LE, p->point.n_documents, &at->documents));
    if (p->point.n_unmasked > 0) HX_TRY(make_dataset(file, "loss_mask", H5T_STD_U8LE, p->point.n_tokens, &at->mask));
    return HX_OK;
}

/* A file whose bytes depend on the data alone, with data sets on pages of their own. */
static hx_status make_file(const char *path, const hx__pack_parts *p, uint64_t hash, places *at) {
    HX_H5_QUIET();
    HX_AUTO_H5 access = H5Pcreate(H5P_FILE_ACCESS);
    HX_AUTO_H5 create = H5Pcreate(H5P_FILE_CREATE);
    if (access < 0 || create < 0 || H5Pset_alignment(access, PAGE_BYTES, PAGE_BYTES) < 0 || H5Pset_obj_track_times(create, false) < 0 ||
        H5Pset_file_locking(access, false, true) < 0 || H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0)
        return HX_H5_FAIL(HX_ERR_IO, "preparing to create", path);
    const hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    if (file < 0) return HX_H5_FAIL(HX_ERR_IO, "creating", path);
    hx_status status = make_contents(file, p, hash, at);
    if (H5Fclose(file) < 0 && status == HX_OK) status = HX_H5_FAIL(HX_ERR_IO, "closing", path);
    return status;
}

/* ---- what we write ---- */

/* Of n_bytes of a file of the folder, with the hash before as its seed. */
static hx_status hash_part(int fd, int64_t n_bytes, uint64_t *hash) {
    void *part = mmap(NULL, (size_t)n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (part == MAP_FAILED) return HX_FAIL(HX_ERR_IO, "mapping a part of a pack: %s", strerror(errno));
    *hash = XXH3_64bits_withSeed(part, (size_t)n_bytes, *hash);
    munmap(part, (size_t)n_bytes);
    return HX_OK;
}

static hx_status copy(int from, int to, const char *path, int64_t n_bytes, haddr_t at, void *chunk) {
    for (int64_t done = 0; done < n_bytes; done += CHUNK_BYTES) {
        const size_t n = (size_t)(n_bytes - done < CHUNK_BYTES ? n_bytes - done : CHUNK_BYTES);
        HX_TRY(hx__fs_read(from, path, chunk, n, done));
        HX_TRY(hx__fs_write(to, path, chunk, n, (int64_t)at + done));
    }
    return HX_OK;
}

/* The next range of what is no target; behind the last one comes one that no token reaches. */
static hx_status next_range(const hx__pack_parts *p, const char *path, int64_t *i, int64_t range[2]) {
    range[0] = range[1] = p->point.n_tokens;
    if (*i + 2 > p->point.n_unmasked) return HX_OK;
    HX_TRY(hx__fs_read(p->unmasked, path, range, 2 * sizeof *range, *i * 8));
    *i += 2;
    return HX_OK;
}

/* @param sum  the mask is added to it instead of written; NULL: it is written */
static hx_status make_mask(const hx__pack_parts *p, XXH3_state_t *sum, int to, const char *path, haddr_t at, uint8_t *chunk) {
    int64_t i = 0, range[2];
    HX_TRY(next_range(p, path, &i, range));
    for (int64_t done = 0; done < p->point.n_tokens; done += CHUNK_BYTES) {
        const int64_t n = p->point.n_tokens - done < CHUNK_BYTES ? p->point.n_tokens - done : CHUNK_BYTES;
        for (int64_t k = 0; k < n; k++) {
            while (done + k >= range[1] && range[1] < p->point.n_tokens) HX_TRY(next_range(p, path, &i, range));
            chunk[k] = done + k < range[0] || done + k >= range[1];
        }
        if (sum)
            XXH3_64bits_update(sum, chunk, (size_t)n);
        else
            HX_TRY(hx__fs_write(to, path, chunk, (size_t)n, (int64_t)at + done));
    }
    return HX_OK;
}

static hx_status hash_mask(const hx__pack_parts *p, const char *path, uint64_t *hash) {
    void *chunk;
    HX_TRY(hx_mem_alloc(CHUNK_BYTES, &chunk));
    XXH3_state_t *sum = XXH3_createState();
    hx_status status = sum ? HX_OK : HX_FAIL(HX_ERR_MEMORY, "no memory for a hash");
    if (sum) XXH3_64bits_reset_withSeed(sum, *hash);
    if (sum) status = make_mask(p, sum, -1, path, 0, chunk);
    if (status == HX_OK) *hash = XXH3_64bits_digest(sum);
    XXH3_freeState(sum);
    hx_mem_free(&chunk);
    return status;
}

/* As hx_tokens_rehash has it. */
static hx_status hash_all(const hx__pack_parts *p, const char *path, uint64_t *hash) {
    *hash = 0; /* the seed of what has none */
    HX_TRY(hash_part(p->ids, p->point.n_tokens * p->width, hash));
    HX_TRY(hash_part(p->documents, p->point.n_documents * 8, hash));
    return p->point.n_unmasked > 0 ? hash_mask(p, path, hash) : HX_OK;
}

static hx_status write_contents(int fd, const char *path, const hx__pack_parts *p, const places *at) {
    void *chunk;
    HX_TRY(hx_mem_alloc(CHUNK_BYTES, &chunk));
    hx_status status = copy(p->ids, fd, path, p->point.n_tokens * p->width, at->ids, chunk);
    if (status == HX_OK) status = copy(p->documents, fd, path, p->point.n_documents * 8, at->documents, chunk);
    if (status == HX_OK && p->point.n_unmasked > 0) status = make_mask(p, NULL, fd, path, at->mask, chunk);
    if (status == HX_OK) status = hx__fs_sync(fd, path);
    hx_mem_free(&chunk);
    return status;
}

hx_status hx__pack_h5_write(const char *path, const hx__pack_parts *parts) {
    places at = {0};
    uint64_t hash;
    HX_TRY(hash_all(parts, path, &hash));
    HX_TRY(make_file(path, parts, hash, &at));
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", path, strerror(errno));
    const hx_status status = write_contents(fd, path, parts, &at);
    close(fd);
    return status;
}

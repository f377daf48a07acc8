/* Fuzz what data sets are made of. The first byte chooses: .bin files, lines of JSON, CSV, and our HDF5 files, of which the input tells what
 * stands in them (how HDF5 itself reads a broken file is not looked at here). What is refused is refused with a message of
 * the right kind; what is understood can be read to its end; lines give the same ids however the file is cut into pieces. */
#include <hdf5.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/op/ops.h"
#include "io/data/pack_impl.h"
#include "io/data/table.h"
#include "io/data/tokens.h"
#include "tests/fuzz/fuzz.h"

static long n_inputs, n_understood;

static const char *put(const char *name, const uint8_t *data, size_t size) {
    static char path[256];
    snprintf(path, sizeof path, "%.200s/fuzz-%d-%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid(), name);
    FILE *f = fopen(path, "w");
    hx_fuzz_must(f && fwrite(data, 1, size, f) == size && fclose(f) == 0, "the input can be written");
    return path;
}

static void must_be_refused_well(hx_status status) {
    hx_fuzz_must(status == HX_ERR_FORMAT || status == HX_ERR_IO || status == HX_ERR_CONFIG, "a refusal is of a file's kind");
    hx_fuzz_must(hx_error_message()[0], "a refusal has a message");
}

/* ---- .bin ---- */

/* @param most  tokens that can be there */
static void read_tokens(const char *path, size_t most) {
    hx_tokens *t;
    hx_tokens_info info;
    const hx_status status = hx_tokens_open(path, &t);
    unlink(path);
    if (status != HX_OK) {
        must_be_refused_well(status);
        return;
    }
    n_understood++;
    hx_tokens_info_get(t, &info);
    hx_fuzz_must(info.n_tokens > 0 && (size_t)info.n_tokens <= most && info.vocab > 0, "the tokens are in the file");
    for (int64_t at = 0; at < info.n_tokens; at++) {
        int32_t id;
        if (hx_tokens_read(t, at, 1, &id) == HX_OK) hx_fuzz_must(id >= 0 && id < info.vocab, "ids are below vocab");
        hx_fuzz_must(hx_tokens_mask(t, at, 1, &id) == HX_OK && (at > 0 || id == HX_IGNORE_INDEX), "the first token is no target");
    }
    for (int64_t i = 1; i < info.n_documents; i++)
        hx_fuzz_must(hx_tokens_document(t, i - 1) < hx_tokens_document(t, i) && hx_tokens_document(t, i) < info.n_tokens, "documents rise");
    hx_tokens_rehash(t);
    hx_tokens_close(&t);
}

static void try_bin(const uint8_t *data, size_t size) { read_tokens(put("x.bin", data, size), size); }

/* ---- HDF5 ---- */

typedef struct feed {
    const uint8_t *at;
    size_t n;
} feed;

static unsigned take(feed *b) {
    if (b->n == 0) return 0;
    b->n--;
    return *b->at++;
}

static hid_t any_type(unsigned choice) {
    const hid_t types[] = {H5T_STD_I64LE, H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE, H5T_STD_I32LE, H5T_STD_U16BE, H5T_IEEE_F32LE,
                           H5T_STD_I8LE, H5T_STD_I64BE};
    return types[choice % (sizeof types / sizeof *types)];
}

static void make_attribute(hid_t file, const char *name, feed *b) {
    const unsigned kind = take(b);
    uint64_t value[2] = {kind & 1 ? (uint64_t)take(b) << (take(b) % 64) : 1 + take(b), 0};
    if (kind == 255) return;
    const hid_t type = kind > 230 ? any_type(take(b)) : H5T_STD_I64LE;
    const hsize_t n = kind > 220 ? 2 : 1;
    const hid_t space = H5Screate_simple(1, &n, NULL), attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value);
    H5Aclose(attribute);
    H5Sclose(space);
}

/* Mostly as it should be: n elements of the type `usual`, those of /documents rising. */
static void make_dataset(hid_t file, const char *name, hid_t usual, hsize_t n, feed *b) {
    uint8_t content[64 * 8];
    const unsigned kind = take(b);
    hsize_t dims[2] = {kind > 240 ? take(b) % 64 : n, 1};
    const hid_t type = kind > 220 ? any_type(take(b)) : usual, layout = H5Pcreate(H5P_DATASET_CREATE);
    const hid_t space = H5Screate_simple(kind == 219 ? 2 : 1, dims, NULL);
    for (size_t i = 0; i < sizeof content; i++) content[i] = usual == H5T_STD_I64LE && kind & 1 ? (uint8_t)(i % 8 == 0 ? i / 8 * (1 + kind % 3) : 0) : (uint8_t)take(b);
    if (kind == 218 && dims[0] > 0) H5Pset_chunk(layout, 1, dims);
    const hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
    if (kind != 217) H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, content);
    H5Dclose(set);
    H5Sclose(space);
    H5Pclose(layout);
}

static void try_h5(const uint8_t *data, size_t size) {
    static const char *const attributes[] = {"helix_tokens", "vocab", "tokenizer", "xxh3"};
    feed b = {data, size};
    const char *path = put("x.h5", data, 0);
    const unsigned parts = take(&b);
    const hsize_t n = take(&b) % 64;
    const hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hx_fuzz_must(file >= 0, "a file can be made");
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    for (int i = 0; i < 4; i++) make_attribute(file, attributes[i], &b);
    if (parts % 32 != 1) make_dataset(file, "tokens", any_type(1 + parts % 3), n, &b);
    if (parts % 32 != 2) make_dataset(file, "documents", H5T_STD_I64LE, n / 4 + 1, &b);
    if (parts & 1) make_dataset(file, "loss_mask", H5T_STD_U8LE, n, &b);
    H5Fclose(file);
    read_tokens(path, 64);
}

/* ---- lines ---- */

static void encode(const uint8_t *data, size_t size, int64_t begin, int64_t end, hx_encoder *encoder, hx__piece *piece) {
    static const hx__piece_rules rules = {.field = "text", .end_of_text = 77};
    piece->path = "x.jsonl";
    piece->text = (const char *)data;
    piece->n_bytes = (int64_t)size;
    piece->begin = begin;
    piece->end = end;
    piece->is_lines = true;
    hx__piece_encode(piece, &rules, encoder);
}

static void try_lines(const uint8_t *data, size_t size) {
    static hx__piece whole, left, right;
    static hx_tokenizer *bytes;
    static hx_encoder *encoder;
    if (size < 1) return;
    const int64_t cut = (int64_t)(data[0] * (size - 1) / 255);
    if (!bytes) hx_fuzz_must(hx_tokenizer_bytes(&bytes) == HX_OK && hx_encoder_create(bytes, &encoder) == HX_OK, "bytes are a tokenizer");
    encode(data + 1, size - 1, 0, (int64_t)size - 1, encoder, &whole);
    if (whole.status != HX_OK) {
        must_be_refused_well(whole.status);
        return;
    }
    n_understood++;
    encode(data + 1, size - 1, 0, cut, encoder, &left);
    encode(data + 1, size - 1, cut, (int64_t)size - 1, encoder, &right);
    hx_fuzz_must(left.status == HX_OK && right.status == HX_OK && left.ids.n + right.ids.n == whole.ids.n &&
                 left.documents.n + right.documents.n == whole.documents.n && left.unmasked.n + right.unmasked.n == whole.unmasked.n, "pieces make the whole");
    const size_t n_left = (size_t)left.ids.n * 4, n_right = (size_t)right.ids.n * 4;
    hx_fuzz_must((n_left == 0 || memcmp(whole.ids.ids, left.ids.ids, n_left) == 0) &&
                 (n_right == 0 || memcmp(whole.ids.ids + left.ids.n, right.ids.ids, n_right) == 0), "pieces hold the whole's ids");
}

/* ---- CSV ---- */

static void try_csv(const uint8_t *data, size_t size) {
    if (size < 1) return;
    const hx_table_config config = {.target = data[0] & 1 ? "kind" : NULL, .is_class = data[0] & 2, .has_no_header = data[0] & 4, .keeps_f64 = data[0] & 8};
    const char *path = put("x.csv", data + 1, size - 1);
    hx_table t;
    const hx_status status = hx_table_read_csv(path, &config, &t);
    unlink(path);
    if (status != HX_OK) {
        must_be_refused_well(status);
        return;
    }
    n_understood++;
    const int64_t n = t.x.shape.dims[0] * t.x.shape.dims[1];
    hx_fuzz_must((size_t)n <= size && t.n_columns == t.x.shape.dims[1], "the numbers are in the file");
    for (int64_t i = 0; i < n; i++)
        hx_fuzz_must(isfinite(config.keeps_f64 ? ((const double *)t.x.data)[i] : (double)((const float *)t.x.data)[i]), "numbers are finite");
    for (int64_t i = 0; config.target && config.is_class && i < t.y.shape.dims[0]; i++)
        hx_fuzz_must(((const int32_t *)t.y.data)[i] >= 0 && ((const int32_t *)t.y.data)[i] < t.n_classes, "classes have names");
    hx_table_destroy(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const kinds[])(const uint8_t *, size_t) = {try_bin, try_lines, try_csv, try_h5};
    if (size < 1) return 0;
    hx_error_clear(); /* the message looked for is not that of an input before */
    n_inputs++;
    kinds[data[0] % 4](data + 1, size - 1);
    return 0;
}

bool hx_fuzz_end(void) {
    printf("%ld inputs, %ld understood\n", n_inputs, n_understood);
    return n_understood > n_inputs / 100 && n_understood < n_inputs;
}

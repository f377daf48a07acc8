/* Fuzz what data sets are made of. The first byte chooses: .bin files, lines of JSON, CSV. What is refused is refused with a message of
 * the right kind; what is understood can be read to its end; lines give the same ids however the file is cut into pieces. */
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

static void try_bin(const uint8_t *data, size_t size) {
    const char *path = put("x.bin", data, size);
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
    hx_fuzz_must(info.n_tokens > 0 && (size_t)info.n_tokens <= size && info.vocab > 0, "the tokens are in the file");
    for (int64_t at = 0; at < info.n_tokens; at++) {
        int32_t id;
        if (hx_tokens_read(t, at, 1, &id) == HX_OK) hx_fuzz_must(id >= 0 && id < info.vocab, "ids are below vocab");
        hx_fuzz_must(hx_tokens_mask(t, at, 1, &id) == HX_OK && (at > 0 || id == HX_IGNORE_INDEX), "the first token is no target");
    }
    hx_tokens_close(&t);
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
    static void (*const kinds[])(const uint8_t *, size_t) = {try_bin, try_lines, try_csv};
    if (size < 1) return 0;
    hx_error_clear(); /* the message looked for is not that of an input before */
    n_inputs++;
    kinds[data[0] % 3](data + 1, size - 1);
    return 0;
}

bool hx_fuzz_end(void) {
    printf("%ld inputs, %ld understood\n", n_inputs, n_understood);
    return n_understood > n_inputs / 100 && n_understood < n_inputs;
}

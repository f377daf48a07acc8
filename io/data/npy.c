/* Reading: the fixed first bytes, the header's length, the header (a Python dictionary of three entries), the elements;
 * each is compared with the file's length before anything is allocated for it. */
#include "io/data/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are stored as they lie in memory");

static const char magic[] = "\x93NUMPY"; /* then major, minor, and the header's length */

enum {
    MAGIC_BYTES = 6,
    ALIGN = 64,               /* elements begin at a multiple of it */
    HEADER_MOST = 1 << 16,    /* bytes of a header; NumPy's own have about 100 */
    HEADER_TEXT = 128 + HX_SHAPE_TEXT,
    PATH_BYTES = 4096,
};

/* kind and size as NumPy writes them; NULL: none */
static const char *const kinds[HX_DTYPE_COUNT] = {
    [HX_F32] = "f4", [HX_F64] = "f8", [HX_I32] = "i4", [HX_I64] = "i8",  [HX_U8] = "u1",
    [HX_F16] = "f2", [HX_I8] = "i1",  [HX_BOOL] = "b1", [HX_C64] = "c8", [HX_C128] = "c16",
};

/* ---- writing ---- */

/* "\x93NUMPY" 1 0, length, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", spaces, newline. */
static size_t make_header(hx_dtype dtype, const hx_shape *shape, char out[2 * HEADER_TEXT]) {
    char dims[HX_SHAPE_TEXT + 16] = "";
    size_t used = 0;
    for (int d = 0; d < shape->ndim; d++)
        used += (size_t)snprintf(dims + used, sizeof dims - used, "%s%" PRId64 "%s", d ? ", " : "", shape->dims[d],
                                 shape->ndim == 1 ? "," : "");
    memset(out, ' ', 2 * HEADER_TEXT);
    size_t prefix = MAGIC_BYTES + 4;
    int n = snprintf(out + prefix, HEADER_TEXT, "{'descr': '%c%s', 'fortran_order': False, 'shape': (%s), }",
                     hx_dtype_bytes(dtype) == 1 ? '|' : '<', kinds[dtype], dims);
    out[prefix + (size_t)n] = ' ';
    size_t total = (prefix + (size_t)n + 1 + ALIGN - 1) / ALIGN * ALIGN, length = total - prefix;
    out[total - 1] = '\n';
    memcpy(out, magic, MAGIC_BYTES);
    memcpy(out + MAGIC_BYTES, (uint8_t[]){1, 0, (uint8_t)(length & 0xff), (uint8_t)(length >> 8)}, 4);
    return total;
}

static hx_status write_file(const char *path, const void *header, size_t header_bytes, const void *data, size_t n_bytes) {
    char temporary[PATH_BYTES];
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >= sizeof temporary)
        return HX_FAIL(HX_ERR_ARG, "a path of %zu bytes: expected up to %d", strlen(path), PATH_BYTES - 32);
    FILE *f = fopen(temporary, "we");
    if (!f) return HX_FAIL(HX_ERR_IO, "%s: %s", temporary, strerror(errno));
    bool is_written = fwrite(header, 1, header_bytes, f) == header_bytes && fwrite(data, 1, n_bytes, f) == n_bytes &&
                      fflush(f) == 0 && fsync(fileno(f)) == 0;
    int error = errno;
    fclose(f);
    if (is_written && rename(temporary, path) == 0) return HX_OK;
    if (is_written) error = errno;
    unlink(temporary);
    return HX_FAIL(HX_ERR_IO, "%s cannot be written: %s", path, strerror(error));
}

hx_status hx_npy_save(hx_stream *stream, const hx_tensor *x, const char *path) {
    char header[2 * HEADER_TEXT];
    hx_shape shape = hx_tensor_shape(x);
    hx_dtype dtype = hx_tensor_dtype(x);
    void *data = NULL;
    hx_status status;
    if (kinds[dtype] == NULL)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: NumPy has no %s: convert to f32 first", path, hx_dtype_name(dtype));
    HX_TRY(hx_mem_alloc(hx_tensor_bytes(x), &data));
    HX_TRY_GOTO(hx_tensor_read(stream, x, data), done);
    size_t header_bytes = make_header(dtype, &shape, header);
    HX_TRY_GOTO(write_file(path, header, header_bytes, data, hx_tensor_bytes(x)), done);
done:
    hx_mem_free(&data);
    return status;
}

/* ---- the header ---- */

typedef struct header {
    const char *path; /* for messages */
    hx_dtype dtype;
    hx_shape shape;
    bool is_fortran;
} header;

typedef struct reader {
    const char *at, *end;
} reader;

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* True, and past it, if c comes next. */
static bool take(reader *r, char c) {
    while (r->at < r->end && is_space(*r->at)) r->at++;
    if (r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

static hx_status expect(reader *r, char c, const char *path) {
    if (take(r, c)) return HX_OK;
    return HX_FAIL(HX_ERR_FORMAT, "%s: header: expected `%c` %s%.20s", path, c, r->at == r->end ? "at its end" : "before ",
                   r->at == r->end ? "" : r->at);
}

/* A text in quotes of either kind, of less than n bytes, without escapes. */
static hx_status take_text(reader *r, const char *path, char *out, size_t n) {
    char quote = take(r, '\'') ? '\'' : '"';
    if (quote == '"') HX_TRY(expect(r, '"', path));
    size_t used = 0;
    for (; r->at < r->end && *r->at != quote; r->at++) {
        if (used + 1 >= n) return HX_FAIL(HX_ERR_FORMAT, "%s: header: a text of more than %zu bytes", path, n - 1);
        out[used++] = *r->at;
    }
    out[used] = '\0';
    return expect(r, quote, path);
}

static hx_status take_dtype(reader *r, header *h) {
    char text[16];
    if (take(r, '[')) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: elements are records: expected numbers", h->path);
    HX_TRY(take_text(r, h->path, text, sizeof text));
    const char *kind = text + (text[0] != '\0' && strchr("<>|=", text[0]) != NULL);
    for (int d = 0; d < HX_DTYPE_COUNT; d++) {
        if (kinds[d] == NULL || strcmp(kind, kinds[d]) != 0) continue;
        if (text[0] == '>' && hx_dtype_bytes((hx_dtype)d) > 1)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: elements are big-endian (%s): expected little-endian; "
                                               "x.astype(x.dtype.newbyteorder('<')) in NumPy converts", h->path, text);
        h->dtype = (hx_dtype)d;
        return HX_OK;
    }
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: elements are '%s': expected f2 f4 f8 i1 i4 i8 u1 b1 c8 or c16", h->path, text);
}

static hx_status take_bool(reader *r, header *h) {
    bool is_true = take(r, 'T');
    if (!is_true) HX_TRY(expect(r, 'F', h->path));
    const char *rest = is_true ? "rue" : "alse";
    size_t n = strlen(rest);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, rest, n) != 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s: header: fortran_order is neither True nor False", h->path);
    r->at += n;
    h->is_fortran = is_true;
    return HX_OK;
}

static hx_status take_size(reader *r, const char *path, int64_t *out) {
    int64_t n = 0;
    const char *first = r->at;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *r->at - '0', &n))
            return HX_FAIL(HX_ERR_FORMAT, "%s: header: a dim does not fit 63 bits", path);
    if (r->at == first) return HX_FAIL(HX_ERR_FORMAT, "%s: header: a dim is no number >= 0", path);
    *out = n;
    return HX_OK;
}

/* "()", "(3,)", "(3, 4)", "(3, 4,)" */
static hx_status take_shape(reader *r, header *h) {
    HX_TRY(expect(r, '(', h->path));
    while (!take(r, ')')) { /* which has also passed over spaces */
        if (h->shape.ndim == HX_MAX_DIMS)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: more than %d dims", h->path, HX_MAX_DIMS);
        HX_TRY(take_size(r, h->path, &h->shape.dims[h->shape.ndim]));
        h->shape.ndim++;
        bool has_comma = take(r, ',');
        if (!has_comma && h->shape.ndim == 1) return expect(r, ',', h->path); /* (3) is a number, no tuple */
        if (has_comma) continue;
        HX_TRY(expect(r, ')', h->path));
        break;
    }
    if (hx_shape_check(&h->shape) != HX_OK) return HX_FAIL(HX_ERR_FORMAT, "%s: header: the shape is too large", h->path);
    return HX_OK;
}

static hx_status parse_header(const char *text, size_t n, header *h) {
    static const struct {
        const char *key;
        hx_status (*take)(reader *r, header *h);
    } entries[] = {{"descr", take_dtype}, {"fortran_order", take_bool}, {"shape", take_shape}};
    enum { N_ENTRIES = sizeof entries / sizeof *entries };
    reader r = {text, text + n};
    unsigned seen = 0;
    HX_TRY(expect(&r, '{', h->path));
    while (!take(&r, '}')) {
        char key[32];
        int k = 0;
        HX_TRY(take_text(&r, h->path, key, sizeof key));
        while (k < N_ENTRIES && strcmp(key, entries[k].key) != 0) k++;
        if (k == N_ENTRIES || (seen >> k & 1))
            return HX_FAIL(HX_ERR_FORMAT, "%s: header: entry `%s` is unknown or there twice", h->path, key);
        seen |= 1u << k;
        HX_TRY(expect(&r, ':', h->path));
        HX_TRY(entries[k].take(&r, h));
        if (take(&r, ',')) continue;
        HX_TRY(expect(&r, '}', h->path));
        break;
    }
    if (seen != (1u << N_ENTRIES) - 1) return HX_FAIL(HX_ERR_FORMAT, "%s: header: expected descr, fortran_order and shape", h->path);
    while (r.at < r.end && is_space(*r.at)) r.at++;
    if (r.at < r.end) return HX_FAIL(HX_ERR_FORMAT, "%s: header: something follows its end", h->path);
    return HX_OK;
}

/* ---- reading ---- */

static hx_status read_bytes(FILE *f, const char *path, void *out, size_t n) {
    if (fread(out, 1, n, f) == n) return HX_OK;
    if (ferror(f)) return HX_FAIL(HX_ERR_IO, "%s: %s", path, strerror(errno));
    return HX_FAIL(HX_ERR_FORMAT, "%s: the file ends too early", path);
}

/* @param[out] n  bytes of the header's text, which comes next; @param[out] begin  of it in the file */
static hx_status read_prefix(FILE *f, const char *path, size_t *n, size_t *begin) {
    uint8_t b[MAGIC_BYTES + 2 + 4] = {0};
    HX_TRY(read_bytes(f, path, b, MAGIC_BYTES + 2));
    int major = b[MAGIC_BYTES], minor = b[MAGIC_BYTES + 1];
    if (memcmp(b, magic, MAGIC_BYTES) != 0) return HX_FAIL(HX_ERR_FORMAT, "%s: no .npy file", path);
    if (major < 1 || major > 3 || minor != 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s: version %d.%d: expected 1.0, 2.0 or 3.0", path, major, minor);
    size_t n_length = major == 1 ? 2 : 4;
    uint8_t *length = b + MAGIC_BYTES + 2;
    HX_TRY(read_bytes(f, path, length, n_length));
    *n = (size_t)length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
    *begin = MAGIC_BYTES + 2 + n_length;
    return HX_OK;
}

static hx_status file_bytes(FILE *f, const char *path, uint64_t *out) {
    struct stat st;
    if (fstat(fileno(f), &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return HX_FAIL(HX_ERR_IO, "%s is not a regular file", path);
    *out = (uint64_t)st.st_size;
    return HX_OK;
}

/* On HX_OK the file stands at the elements, of which it holds *n_bytes, no more and no less. */
static hx_status read_header(FILE *f, const char *path, header *h, size_t *n_bytes) {
    uint64_t in_file;
    size_t n, begin;
    char text[HEADER_MOST];
    *h = (header){.path = path};
    HX_TRY(file_bytes(f, path, &in_file));
    HX_TRY(read_prefix(f, path, &n, &begin));
    if (n > sizeof text || begin + n > in_file)
        return HX_FAIL(HX_ERR_FORMAT, "%s: a header of %zu bytes: expected up to %d, within the file", path, n, HEADER_MOST);
    HX_TRY(read_bytes(f, path, text, n));
    HX_TRY(parse_header(text, n, h));
    if (hx_mem_mul((size_t)hx_shape_count(&h->shape), hx_dtype_bytes(h->dtype), n_bytes) != HX_OK || *n_bytes != in_file - begin - n) {
        char shape[HX_SHAPE_TEXT];
        return HX_FAIL(HX_ERR_FORMAT, "%s: %" PRIu64 " bytes after the header do not hold %s %s", path, in_file - begin - n,
                       hx_dtype_name(h->dtype), hx_shape_text(&h->shape, shape));
    }
    return HX_OK;
}

/* Elements whose first index runs fastest -> row-major. */
static void reorder(const header *h, const char *from, char *to) {
    size_t item = hx_dtype_bytes(h->dtype);
    int64_t strides[HX_MAX_DIMS], index[HX_MAX_DIMS] = {0}, n = hx_shape_count(&h->shape), step = 1, at = 0;
    for (int d = 0; d < h->shape.ndim; d++, step *= h->shape.dims[d - 1]) strides[d] = step;
    for (int64_t i = 0; i < n; i++) {
        memcpy(to + (size_t)i * item, from + (size_t)at * item, item);
        for (int d = h->shape.ndim - 1; d >= 0; d--) {
            at += strides[d];
            if (++index[d] < h->shape.dims[d]) break;
            at -= strides[d] * h->shape.dims[d];
            index[d] = 0;
        }
    }
}

/* The elements on the host, row-major, bool as 0 and 1; to be freed. */
static hx_status read_elements(FILE *f, const header *h, size_t n_bytes, void **out) {
    void *data = NULL, *turned = NULL;
    hx_status status;
    HX_TRY(hx_mem_alloc(n_bytes, &data));
    HX_TRY_GOTO(read_bytes(f, h->path, data, n_bytes), done);
    if (h->is_fortran && h->shape.ndim > 1) {
        HX_TRY_GOTO(hx_mem_alloc(n_bytes, &turned), done);
        reorder(h, data, turned);
        hx_mem_free(&data);
        data = turned;
    }
    for (size_t i = 0; h->dtype == HX_BOOL && i < n_bytes; i++) ((uint8_t *)data)[i] = ((uint8_t *)data)[i] != 0;
    *out = data;
    return HX_OK;
done:
    hx_mem_free(&data);
    return status;
}

static hx_status load(hx_device *device, hx_stream *stream, FILE *f, const char *path, hx_tensor **out) {
    header h;
    size_t n_bytes;
    void *data;
    HX_AUTO_TENSOR x = NULL;
    hx_status status;
    HX_TRY(read_header(f, path, &h, &n_bytes));
    HX_TRY(read_elements(f, &h, n_bytes, &data));
    HX_TRY_GOTO(hx_tensor_create(device, h.dtype, h.shape, &x), done);
    HX_TRY_GOTO(hx_tensor_write(stream, x, data), done);
    *out = hx_tensor_move(&x);
done:
    hx_mem_free(&data);
    return status;
}

hx_status hx_npy_load(hx_device *device, hx_stream *stream, const char *path, hx_tensor **out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer is refused, not waited for */
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    if (!f) {
        int error = errno;
        if (fd >= 0) close(fd);
        return HX_FAIL(HX_ERR_IO, "%s: %s", path, strerror(error));
    }
    hx_status status = load(device, stream, f, path, out);
    fclose(f);
    return status;
}

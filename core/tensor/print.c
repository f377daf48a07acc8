/* Text of a tensor in NumPy's manner: nested brackets, at most three items from either end of a long dim. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/tensor/tensor_impl.h"

#define EDGE      3
#define THRESHOLD 1000
#define ITEM_TEXT 48

typedef struct writer {
    char *buffer;
    size_t n_bytes, used; /* used counts what the whole text needs */
} writer;

typedef struct printer {
    const unsigned char *data; /* row-major */
    hx_shape shape;
    hx_dtype dtype;
    bool is_short;
    int width;
} printer;

static void put(writer *w, const char *text, int width) {
    size_t n = strlen(text);
    for (size_t pad = n; pad < (size_t)width; pad++, w->used++)
        if (w->used + 1 < w->n_bytes) w->buffer[w->used] = ' ';
    for (size_t i = 0; i < n; i++, w->used++)
        if (w->used + 1 < w->n_bytes) w->buffer[w->used] = text[i];
}

/* Digits of a floating element: those that its type holds for any number. */
static int n_digits(hx_dtype dtype) {
    static const int digits[HX_DTYPE_COUNT] = {[HX_F32] = 6, [HX_F64] = 8, [HX_BF16] = 3, [HX_F16] = 4, [HX_C64] = 6, [HX_C128] = 8};
    return digits[dtype];
}

static void item_text(const printer *p, int64_t index, char text[ITEM_TEXT]) {
    double part[2];
    int n = n_digits(p->dtype);
    hx_elem_get_complex(p->dtype, p->data, index, part);
    if (hx_dtype_is_complex(p->dtype)) snprintf(text, ITEM_TEXT, "%.*g%+.*gj", n, part[0], n, part[1]);
    else if (hx_dtype_is_float(p->dtype)) snprintf(text, ITEM_TEXT, "%.*g", n, part[0]);
    else if (p->dtype == HX_BOOL) snprintf(text, ITEM_TEXT, "%s", part[0] != 0 ? "true" : "false");
    else snprintf(text, ITEM_TEXT, "%" PRId64, hx_elem_get_int(p->dtype, p->data, index));
}

/* True if index i of a dim with n entries is left out; *next is where the text goes on. */
static bool is_gap(const printer *p, int64_t i, int64_t n, int64_t *next) {
    *next = n - EDGE;
    return p->is_short && n > 2 * EDGE && i == EDGE;
}

static void measure(printer *p, int dim, int64_t base) {
    char text[ITEM_TEXT];
    if (dim == p->shape.ndim) {
        item_text(p, base, text);
        int n = (int)strlen(text);
        if (n > p->width) p->width = n;
        return;
    }
    int64_t n = p->shape.dims[dim], next;
    for (int64_t i = 0; i < n; i++) {
        if (is_gap(p, i, n, &next)) i = next;
        measure(p, dim + 1, base * n + i);
    }
}

static void emit(const printer *p, writer *w, int dim, int64_t base) {
    char text[ITEM_TEXT];
    if (dim == p->shape.ndim) {
        item_text(p, base, text);
        put(w, text, p->width);
        return;
    }
    int64_t n = p->shape.dims[dim], next;
    bool is_last = dim == p->shape.ndim - 1;
    put(w, "[", 0);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) {
            put(w, is_last ? ", " : ",", 0);
            for (int k = dim; !is_last && k < p->shape.ndim - 1; k++) put(w, "\n", 0);
            if (!is_last) put(w, "", dim + 1);
        }
        if (is_gap(p, i, n, &next)) {
            put(w, "...", 0);
            put(w, is_last ? ", " : ",\n", 0);
            if (!is_last) put(w, "", dim + 1);
            i = next;
        }
        emit(p, w, dim + 1, base * n + i);
    }
    put(w, "]", 0);
}

hx_status hx_tensor_print(hx_stream *stream, const hx_tensor *x, char *buffer, size_t n_bytes, size_t *n_needed) {
    void *data = NULL;
    hx_status status;
    HX_TRY(hx_mem_alloc(hx_tensor_bytes(x), &data));
    HX_TRY_GOTO(hx_tensor_read(stream, x, data), done);
    printer p = {.data = data, .shape = hx_tensor_shape(x), .dtype = hx_tensor_dtype(x)};
    p.is_short = hx_tensor_count(x) > THRESHOLD;
    writer w = {buffer, n_bytes, 0};
    if (hx_tensor_count(x) > 0) measure(&p, 0, 0);
    if (hx_tensor_count(x) > 0) emit(&p, &w, 0, 0);
    else put(&w, "[]", 0);
    char shape[HX_SHAPE_TEXT];
    put(&w, "  ", 0);
    put(&w, hx_dtype_name(p.dtype), 0);
    put(&w, " ", 0);
    put(&w, hx_shape_text(&p.shape, shape), 0);
    if (n_bytes > 0) buffer[w.used < n_bytes ? w.used : n_bytes - 1] = '\0';
    if (n_needed) *n_needed = w.used;
done:
    hx_mem_free(&data);
    return status;
}

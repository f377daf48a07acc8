/* Random shapes, what nobody thought of: every op with a derivative against ref and against finite differences, its
 * operands with 0 to 5 dims of 0 to 5 elements, broadcast, strided, or one tensor in several places. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/conformance/gradient.h"

#define N_DRAWS 15 /* of each row and seed */

/* A case in the making, and random bits, one after the other. */
typedef struct draw {
    hx_rng rng;
    uint64_t at;
    const char *letter; /* of the operands that are differentiated */
    conf_case c;
    char in[256], out[256];
} draw;

static int roll(draw *d, int n) { return (int)(hx_rng_bits(d->rng, d->at++) % (uint64_t)n); }

/* ---- shapes and words ---- */

static hx_shape any_shape(draw *d, int least, int most) {
    hx_shape s = {.ndim = least + roll(d, most - least + 1)};
    for (int i = 0; i < s.ndim; i++) s.dims[i] = roll(d, 8) == 0 ? 0 : 1 + roll(d, 5);
    return s;
}

/* Few enough elements for a range of so many different numbers, also where a view skips every other one. */
static hx_shape small_shape(draw *d, int least, int most, int64_t n_numbers) {
    hx_shape s;
    do s = any_shape(d, least, most);
    while (hx_shape_count(&s) > n_numbers / 2);
    return s;
}

/* A shape that broadcasts to `full`, its last n_fixed dims being the same. */
static hx_shape broadcasting(draw *d, const hx_shape *full, int n_fixed) {
    int drop = roll(d, 3) == 0 && full->ndim > n_fixed ? roll(d, full->ndim - n_fixed + 1) : 0;
    hx_shape s = {.ndim = full->ndim - drop};
    for (int i = 0; i < s.ndim; i++) s.dims[i] = i < s.ndim - n_fixed && roll(d, 4) == 0 ? 1 : full->dims[drop + i];
    return s;
}

static void append(char *text, const char *letter, const hx_shape *s, char view) {
    size_t n = strlen(text), room = sizeof((draw *)0)->in;
    n += (size_t)snprintf(text + n, room - n, "%s%s%s", n > 0 ? " " : "", letter, s->ndim == 0 ? "." : "");
    for (int i = 0; i < s->ndim; i++) n += (size_t)snprintf(text + n, room - n, i > 0 ? ",%lld" : "%lld", (long long)s->dims[i]);
    snprintf(text + n, room - n, "%.1s", (char[2]){view});
}

/* One more operand, as one of the views that the op takes and the shape allows, or as none. */
static void put(draw *d, const char *letter, hx_shape s, const char *views) {
    int pick = roll(d, (int)strlen(views) + 2) - 2;
    char view = pick >= 0 ? views[pick] : 0;
    if (s.ndim == 0 || (s.ndim == 1 && (view == 't' || view == 'h')) || (view == 'e' && s.dims[0] == 0)) view = 0;
    append(d->in, letter, &s, view);
}

static void put_again(draw *d, int k) {
    size_t n = strlen(d->in);
    snprintf(d->in + n, sizeof d->in - n, " =%d", k);
}

#define ANY   "sthe"
#define DENSE "he" /* the last dim has stride 1 */

/* ---- elementwise ---- */

static void unary(draw *d) { put(d, d->letter, any_shape(d, 0, 5), ANY); }

static void clamp(draw *d) {
    static const double low[] = {-INFINITY, -1.2, -0.2}, high[] = {-0.2, 0.8, INFINITY};
    d->c.attr.clamp.low = low[roll(d, 3)];
    d->c.attr.clamp.high = high[roll(d, 3)];
    unary(d);
}

static void leaky_relu(draw *d) {
    d->c.attr.leaky.slope = 0.25 * (roll(d, 5) - 2);
    unary(d);
}

/* Rows of two halves. */
static void gated(draw *d) {
    hx_shape s = any_shape(d, 1, 5);
    s.dims[s.ndim - 1] *= 2;
    put(d, d->letter, s, ANY);
}

static void dropout(draw *d) {
    static const double p[] = {0, 0.25, 0.75};
    d->c.attr.random.p = p[roll(d, 3)];
    d->c.attr.random.rng = (hx_rng){42, 7};
    d->c.attr.random.offset = roll(d, 9);
    d->c.attr.random.inner = roll(d, 7);
    d->c.attr.random.stride = d->c.attr.random.inner + roll(d, 6);
    unary(d);
}

/* Operands that broadcast; one time in four f(x, x), whose uses both count. */
static void binary(draw *d) {
    hx_shape full = any_shape(d, 0, 5);
    put(d, d->letter, broadcasting(d, &full, 0), ANY);
    if (roll(d, 4) == 0) put_again(d, 0);
    else put(d, d->letter, broadcasting(d, &full, 0), ANY);
}

static void where(draw *d) {
    hx_shape full = any_shape(d, 0, 4);
    put(d, "o", broadcasting(d, &full, 0), ANY);
    put(d, d->letter, broadcasting(d, &full, 0), ANY);
    if (roll(d, 4) == 0) put_again(d, 1);
    else put(d, d->letter, broadcasting(d, &full, 0), ANY);
}

/* ---- movement ---- */

static void cat(draw *d) {
    hx_shape s = any_shape(d, 1, 4);
    int dim = roll(d, s.ndim), n = roll(d, 8);
    d->c.attr.dim.dim = dim;
    put(d, d->letter, s, ANY);
    for (int k = 0; k < n; k++) {
        s.dims[dim] = roll(d, 4);
        if (roll(d, 4) == 0) put_again(d, 0);
        else put(d, d->letter, s, ANY);
    }
}

static const char *ids_letter(draw *d) { return roll(d, 2) ? "i" : "l"; }

static void gather(draw *d) {
    hx_shape s = any_shape(d, 1, 4);
    int dim = roll(d, s.ndim);
    d->c.attr.dim.dim = dim;
    d->c.n_ids = s.dims[dim];
    put(d, d->letter, s, ANY);
    s.dims[dim] = s.dims[dim] ? roll(d, 6) : 0;
    put(d, ids_letter(d), s, ANY);
}

static void pad(draw *d) {
    hx_shape s = any_shape(d, 0, 4);
    int mode = roll(d, 4);
    d->c.attr.pad.mode = mode;
    d->c.attr.pad.value = 0.5;
    for (int i = 0; i < s.ndim; i++) {
        int n = (int)s.dims[i], most = mode == HX_PAD_ZERO ? 2 : n == 0 ? 0 : mode == HX_PAD_REFLECT ? n - 1 : mode == HX_PAD_CIRCULAR ? n : 6;
        d->c.attr.pad.before[i] = roll(d, 1 + (most < 3 ? most : 3));
        d->c.attr.pad.after[i] = roll(d, 1 + (most < 3 ? most : 3));
    }
    put(d, d->letter, s, ANY);
}

static void embedding(draw *d) {
    hx_shape table = {2, {1 + roll(d, 5), roll(d, 6)}};
    d->c.n_ids = table.dims[0];
    if (roll(d, 2)) { /* a part, perhaps of nothing */
        table.dims[0] = roll(d, (int)d->c.n_ids + 1);
        d->c.attr.embedding.total = d->c.n_ids;
        d->c.attr.embedding.start = roll(d, (int)(d->c.n_ids - table.dims[0]) + 1);
    }
    put(d, ids_letter(d), any_shape(d, 0, 3), ANY);
    put(d, d->letter, table, ANY);
}

/* ---- reductions ---- */

/* Some of the dims; the fields are those of attr.stat too. */
static void pick_dims(draw *d, const hx_shape *s, bool may_be_empty) {
    hx_op_attr *attr = &d->c.attr;
    attr->reduce.keepdim = roll(d, 2) == 0;
    for (int i = 0; i < s->ndim; i++)
        if (roll(d, 2) == 0 && (may_be_empty || s->dims[i] > 0)) attr->reduce.dims[attr->reduce.n_dims++] = i;
}

static void sum(draw *d) {
    hx_shape s = any_shape(d, 0, 4);
    pick_dims(d, &s, true);
    put(d, d->letter, s, ANY);
}

static void extremum(draw *d) {
    hx_shape s = small_shape(d, 0, 4, 64);
    pick_dims(d, &s, false);
    put(d, "", s, ANY);
}

static void var(draw *d) {
    hx_shape s = any_shape(d, 0, 4);
    int64_t n = 1;
    pick_dims(d, &s, true);
    for (int i = 0; i < d->c.attr.stat.n_dims; i++) n *= s.dims[d->c.attr.stat.dims[i]];
    d->c.attr.stat.correction = n > 1 ? roll(d, 2) : 0; /* of one element with correction 1: 0/0 */
    put(d, "", s, ANY);
}

static void pnorm(draw *d) {
    static const double powers[] = {1, 2, 3, 2.5, INFINITY};
    double p = powers[roll(d, 5)];
    hx_shape s = isinf(p) ? small_shape(d, 0, 4, 32) : any_shape(d, 0, 4);
    pick_dims(d, &s, true);
    d->c.attr.stat.p = p;
    d->c.range = isinf(p) ? CONF_SIZES : CONF_OFF_KINKS;
    put(d, "", s, ANY);
}

static void over_rows(draw *d) { put(d, "", any_shape(d, 1, 4), ANY); }

static void topk(draw *d) {
    hx_shape s = any_shape(d, 1, 3);
    d->c.attr.topk.k = roll(d, (int)s.dims[s.ndim - 1] + 1);
    d->c.attr.topk.smallest = roll(d, 2);
    put(d, "", s, ANY);
}

/* ---- products ---- */

/* [..,M,K] and [..,K,N] whose other dims broadcast, or a square with itself. */
static void matmul(draw *d) {
    hx_shape full = any_shape(d, 2, 4), a, b;
    int64_t *last = full.dims + full.ndim - 2;
    d->c.attr.matmul.alpha = 1;
    bool is_square = roll(d, 4) == 0;
    if (is_square) last[0] = last[1];
    a = broadcasting(d, &full, 2);
    last[0] = last[1];
    last[1] = roll(d, 6);
    b = broadcasting(d, &full, 2);
    put(d, "", a, ANY);
    if (is_square) put_again(d, 0);
    else put(d, "", b, ANY);
}

static void linear(draw *d) {
    hx_shape x = any_shape(d, 1, 4);
    bool is_again = x.ndim == 2 && roll(d, 2);
    int64_t n_out = is_again ? x.dims[0] : roll(d, 6);
    put(d, "", x, ANY);
    if (is_again) put_again(d, 0);
    else put(d, "", HX_SHAPE(n_out, x.dims[x.ndim - 1]), ANY);
    if (roll(d, 2)) put(d, "", HX_SHAPE(n_out), ANY);
}

/* ---- windows ---- */

static int most_of(int a, int b) { return a > b ? a : b; }

/* How a window of up to 3 moves, and sizes of x that have room for it. */
static void window(draw *d, hx_op op, int64_t *sizes) {
    int n = 1 + roll(d, 3);
    d->c.attr.conv.n = n;
    d->c.attr.conv.groups = 1;
    for (int i = 0; i < n; i++) {
        int size = 1 + roll(d, n == 3 ? 2 : 3), dilation = op == HX_OP_avg_pool ? 1 : 1 + roll(d, 2);
        int padding = roll(d, op == HX_OP_conv ? 3 : size / 2 + 1);
        if (op == HX_OP_max_pool && dilation > 1) padding = 0; /* a window in the padding alone gives -inf */
        d->c.attr.conv.stride[i] = 1 + roll(d, 3);
        d->c.attr.conv.padding[i] = padding;
        d->c.attr.conv.dilation[i] = dilation;
        d->c.attr.conv.size[i] = size;
        sizes[i] = most_of(dilation * (size - 1) + 1 - 2 * padding, op == HX_OP_conv ? 0 : 1) + roll(d, n == 1 ? 4 : 2);
    }
}

static hx_shape image(int n, int64_t batch, int64_t channels, const int64_t *sizes) {
    hx_shape s = {n + 2, {batch, channels}};
    for (int i = 0; i < n; i++) s.dims[i + 2] = sizes[i];
    return s;
}

/* One time in five the images are the kernels too. */
static void conv(draw *d) {
    int64_t sizes[3];
    window(d, HX_OP_conv, sizes);
    bool is_again = roll(d, 5) == 0;
    int n = d->c.attr.conv.n, groups = is_again ? 1 : 1 + roll(d, 3), batch = roll(d, 3), each = 1 + roll(d, 2);
    int64_t n_out = is_again ? batch : groups * roll(d, 3);
    hx_shape x = image(n, batch, groups * each, sizes);
    d->c.attr.conv.groups = groups;
    for (int i = 0; is_again && i < n; i++) {
        d->c.attr.conv.dilation[i] = 1;
        if (x.dims[i + 2] == 0) x.dims[i + 2] = 1;
    }
    put(d, "", x, ANY);
    if (is_again) put_again(d, 0);
    else put(d, "", image(n, n_out, each, d->c.attr.conv.size), ANY);
    if (roll(d, 2)) put(d, "", HX_SHAPE(n_out), ANY);
}

/* A plane has at most 32 elements, so that all of a window differ. */
static void pool(draw *d) {
    int64_t sizes[3], n_plane;
    do {
        window(d, d->c.op, sizes);
        n_plane = 1;
        for (int i = 0; i < d->c.attr.conv.n; i++) n_plane *= sizes[i];
    } while (n_plane > 32);
    d->c.attr.conv.count_padding = d->c.op == HX_OP_avg_pool && roll(d, 2);
    put(d, "", image(d->c.attr.conv.n, roll(d, 3), roll(d, 3), sizes), ANY);
}

/* ---- norms ---- */

/* w at operand `at`, and the bias of a layer norm. */
static void norm_weights(draw *d, int64_t n_cols, int at, bool may_have_bias) {
    put(d, "", HX_SHAPE(n_cols), ANY);
    if (!may_have_bias || roll(d, 3) == 0) return;
    if (roll(d, 3) == 0) put_again(d, at);
    else put(d, "", HX_SHAPE(n_cols), ANY);
}

/* Where a variance is small against eps the result is as smooth as differences need. */
static void norm(draw *d) {
    hx_shape x = any_shape(d, 1, 4);
    d->c.attr.norm.eps = 1 + roll(d, 2);
    put(d, "", x, ANY);
    norm_weights(d, x.dims[x.ndim - 1], 1, d->c.op == HX_OP_layernorm);
}

/* Of a sum, one time in four x + x. */
static void add_norm(draw *d) {
    hx_shape x = any_shape(d, 1, 4);
    d->c.attr.norm.eps = 1 + roll(d, 2);
    put(d, "", x, ANY);
    if (roll(d, 4) == 0) put_again(d, 0);
    else put(d, "", x, ANY);
    norm_weights(d, x.dims[x.ndim - 1], 2, d->c.op == HX_OP_add_layernorm);
}

static void batchnorm(draw *d) {
    hx_shape x = any_shape(d, 2, 5);
    for (int i = 0; i < x.ndim; i++)
        if (x.dims[1] > 0 && x.dims[i] == 0) x.dims[i] = 1;
    d->c.attr.norm.eps = 1 + roll(d, 2);
    put(d, "", x, ANY);
    if (roll(d, 3) == 0) return;
    put(d, "", HX_SHAPE(x.dims[1]), ANY);
    if (roll(d, 3) == 0) return;
    if (roll(d, 3) == 0) put_again(d, 1);
    else put(d, "", HX_SHAPE(x.dims[1]), ANY);
}

/* ---- attention ---- */

static void attention(draw *d) {
    int64_t batch = roll(d, 3), n_groups = 1 + roll(d, 2), n_heads = n_groups * roll(d, 4), width = roll(d, 6), t = roll(d, 5);
    bool is_causal = roll(d, 2), is_again = roll(d, 5) == 0;
    int64_t s = is_causal ? t + roll(d, 3) : 1 + roll(d, 5);
    if (is_again) s = t, n_heads = n_groups;
    hx_shape q = {4, {batch, t, n_heads, width}}, k = {4, {batch, s, n_groups, width}}, scores = {4, {batch, n_heads, t, s}};
    d->c.attr.attention.causal = is_causal;
    d->c.attr.attention.scale = roll(d, 2) ? 0.5 : 0.7;
    put(d, "", q, DENSE);
    if (is_again) put_again(d, 0);
    else put(d, "", k, DENSE);
    if (is_again || roll(d, 5) == 0) put_again(d, is_again ? 0 : 1);
    else put(d, "", k, DENSE);
    if (roll(d, 2)) put(d, "o", broadcasting(d, &scores, 0), ANY);
}

static void rope(draw *d) {
    d->c.attr.rope.base = 100;
    d->c.attr.rope.start = roll(d, 9);
    d->c.attr.rope.inverse = roll(d, 2);
    put(d, "", HX_SHAPE(roll(d, 4), roll(d, 5), roll(d, 4), 2 * roll(d, 4)), ANY);
}

/* ---- Fourier transforms, loss ---- */

static void fourier(draw *d) {
    hx_shape x = any_shape(d, 1, 4);
    int64_t n = 1 + roll(d, 9);
    d->c.attr.fft.scale = 0.5 * (1 + roll(d, 3));
    d->c.attr.fft.interior = 1 + roll(d, 2);
    d->c.attr.fft.inverse = d->c.op == HX_OP_fft && roll(d, 2);
    d->c.attr.fft.n = n;
    x.dims[x.ndim - 1] = d->c.op == HX_OP_irfft ? n / 2 + 1 : n;
    put(d, d->letter, x, ANY);
}

static void fftconv(draw *d) {
    int64_t n_channels = roll(d, 4);
    put(d, "", HX_SHAPE(roll(d, 4), n_channels, roll(d, 7)), ANY);
    put(d, "", HX_SHAPE(n_channels, roll(d, 7)), ANY);
    if (roll(d, 2)) put(d, "", HX_SHAPE(n_channels), ANY);
}

static void cross_entropy(draw *d) {
    hx_shape logits = any_shape(d, 1, 4), ids = logits;
    int64_t n_classes = 1 + roll(d, 5);
    logits.dims[logits.ndim - 1] = n_classes;
    ids.dims[--ids.ndim] = 0;
    d->c.n_ids = n_classes;
    d->c.attr.cross_entropy.ignore_index = roll(d, 2) ? roll(d, (int)n_classes) : HX_IGNORE_INDEX;
    put(d, "", logits, ANY);
    put(d, ids_letter(d), ids, ANY);
}

/* ---- views of views ---- */

static void result(draw *d, hx_shape s) { append(d->out, "", &s, 0); }

/* One dim for two, a dim of 1 in between, or all in one. */
static void reshape(draw *d) {
    hx_shape x = any_shape(d, 0, 4), y = {.ndim = 1, .dims = {hx_shape_count(&x)}};
    int how = roll(d, 3), at = roll(d, most_of(x.ndim, 1));
    if (how == 0) {
        y = (hx_shape){.ndim = x.ndim + 1};
        for (int i = 0; i < y.ndim; i++) y.dims[i] = i == at ? 1 : x.dims[i - (i > at)];
    } else if (how == 1 && at + 1 < x.ndim) {
        y = (hx_shape){.ndim = x.ndim - 1};
        for (int i = 0; i < y.ndim; i++) y.dims[i] = i == at ? x.dims[i] * x.dims[i + 1] : x.dims[i + (i > at)];
    }
    bool is_reversed = hx_shape_count(&x) > 0 && roll(d, 2); /* so that dims are divided, and dims of 1 dropped */
    put(d, d->letter, is_reversed ? y : x, ANY);
    result(d, is_reversed ? x : y);
}

static void permute(draw *d) {
    hx_shape x = any_shape(d, 0, 5);
    int *perm = d->c.attr.view.perm;
    for (int i = 0; i < x.ndim; i++) {
        int at = roll(d, i + 1);
        perm[i] = perm[at];
        perm[at] = i;
    }
    put(d, d->letter, x, ANY);
}

static void slice(draw *d) {
    hx_shape x = any_shape(d, 1, 5);
    int dim = roll(d, x.ndim), start = roll(d, most_of((int)x.dims[dim], 1)), step = 1 + roll(d, 3);
    int64_t left = (x.dims[dim] - start + step - 1) / step;
    d->c.attr.view.dim = dim;
    d->c.attr.view.start = start;
    d->c.attr.view.step = step;
    put(d, d->letter, x, ANY);
    x.dims[dim] = roll(d, (int)left + 1);
    result(d, x);
}

static void expand(draw *d) {
    hx_shape y = any_shape(d, 0, 4);
    put(d, d->letter, broadcasting(d, &y, 0), ANY);
    result(d, y);
}

static void split(draw *d) {
    hx_shape x = any_shape(d, 1, 4);
    int dim = roll(d, x.ndim), n_parts = 1 + roll(d, 4);
    int64_t left = x.dims[dim];
    d->c.attr.view.dim = dim;
    d->c.skip = (unsigned)roll(d, (1 << n_parts) - 1);
    put(d, d->letter, x, ANY);
    for (int i = 0; i < n_parts; i++, left -= x.dims[dim]) {
        x.dims[dim] = i == n_parts - 1 ? left : roll(d, (int)left + 1);
        result(d, x);
    }
}

static void pairs(draw *d) {
    hx_shape x = any_shape(d, 1, 4);
    x.dims[x.ndim - 1] = 2;
    put(d, "", x, x.ndim > 1 ? DENSE : "");
}

/* ---- the rows ---- */

typedef struct row {
    void (*draw)(draw *d);
    const char *letter;
    conf_case c;
} row;

// clang-format off
#define REAL(how, o, ...)    {how, "", {.op = HX_OP_##o, __VA_ARGS__}}
#define COMPLEX(how, o, ...) {how, "x", {.op = HX_OP_##o, __VA_ARGS__}}
#define UNARY(o, r, t)       REAL(unary, o, .range = r, .tolerance = t)
#define SUMMED               .tolerance = CONF_SUM, .terms = 1250
// clang-format on

static const row rows[] = {
    REAL(binary, add, ),
    REAL(binary, sub, ),
    REAL(binary, mul, ),
    REAL(binary, div, .range = CONF_POSITIVE),
    REAL(binary, pow, .range = CONF_POSITIVE, .tolerance = CONF_LIBM),
    REAL(binary, maximum, .range = CONF_OFF_KINKS),
    REAL(binary, minimum, .range = CONF_OFF_KINKS),
    COMPLEX(binary, add, ),
    COMPLEX(binary, sub, ),
    COMPLEX(binary, mul, .tolerance = CONF_MIXED),
    REAL(unary, affine, .attr.affine = {-2, 3}, .tolerance = CONF_MIXED),
    COMPLEX(unary, affine, .attr.affine = {-2, 3}, .tolerance = CONF_MIXED),
    COMPLEX(unary, conj, ),
    UNARY(exp, CONF_PLAIN, CONF_LIBM),
    UNARY(log, CONF_POSITIVE, CONF_LIBM),
    UNARY(sqrt, CONF_POSITIVE, CONF_EXACT),
    UNARY(abs, CONF_OFF_KINKS, CONF_EXACT),
    UNARY(sign, CONF_OFF_KINKS, CONF_EXACT),
    UNARY(tanh, CONF_PLAIN, CONF_LIBM),
    UNARY(sigmoid, CONF_PLAIN, CONF_LIBM),
    UNARY(relu, CONF_OFF_KINKS, CONF_EXACT),
    UNARY(silu, CONF_PLAIN, CONF_LIBM),
    UNARY(gelu_tanh, CONF_PLAIN, CONF_MIXED),
    UNARY(gelu_erf, CONF_PLAIN, CONF_MIXED),
    UNARY(expm1, CONF_PLAIN, CONF_LIBM),
    UNARY(log1p, CONF_POSITIVE, CONF_LIBM),
    UNARY(square, CONF_PLAIN, CONF_EXACT),
    UNARY(reciprocal, CONF_POSITIVE, CONF_EXACT),
    UNARY(floor, CONF_OFF_KINKS, CONF_EXACT),
    UNARY(ceil, CONF_OFF_KINKS, CONF_EXACT),
    UNARY(round, CONF_OFF_KINKS, CONF_EXACT),
    UNARY(sin, CONF_PLAIN, CONF_LIBM),
    UNARY(cos, CONF_PLAIN, CONF_LIBM),
    UNARY(tan, CONF_UNIT, CONF_LIBM),
    UNARY(asin, CONF_HALF, CONF_LIBM),
    UNARY(acos, CONF_HALF, CONF_LIBM),
    UNARY(atan, CONF_PLAIN, CONF_LIBM),
    UNARY(sinh, CONF_PLAIN, CONF_LIBM),
    UNARY(cosh, CONF_PLAIN, CONF_LIBM),
    UNARY(asinh, CONF_PLAIN, CONF_LIBM),
    UNARY(acosh, CONF_ABOVE_ONE, CONF_LIBM),
    UNARY(atanh, CONF_HALF, CONF_LIBM),
    UNARY(erf, CONF_PLAIN, CONF_LIBM),
    UNARY(softplus, CONF_PLAIN, CONF_LIBM),
    REAL(clamp, clamp, .range = CONF_OFF_KINKS),
    REAL(leaky_relu, leaky_relu, .range = CONF_OFF_KINKS, .tolerance = CONF_FEW),
    REAL(dropout, dropout, .tolerance = CONF_FEW),
    REAL(where, where, ),
    COMPLEX(where, where, ),
    {unary, "d", {.op = HX_OP_copy, .attr.copy.dtype = HX_F64}},
    {unary, "w", {.op = HX_OP_copy, .attr.copy.dtype = HX_C128}},
    REAL(cat, cat, ),
    COMPLEX(cat, cat, ),
    REAL(gather, gather, ),
    COMPLEX(gather, gather, ),
    REAL(pad, pad, ),
    COMPLEX(pad, pad, ),
    REAL(embedding, embedding, ),
    REAL(sum, sum, SUMMED),
    COMPLEX(sum, sum, SUMMED),
    REAL(extremum, max, .range = CONF_APART),
    REAL(extremum, min, .range = CONF_APART),
    REAL(var, var, SUMMED),
    REAL(pnorm, pnorm, SUMMED),
    REAL(over_rows, softmax, .tolerance = CONF_LIBM),
    REAL(over_rows, log_softmax, .tolerance = CONF_MIXED),
    REAL(topk, topk, .range = CONF_APART),
    REAL(matmul, matmul, SUMMED),
    REAL(linear, linear, SUMMED),
    REAL(conv, conv, SUMMED),
    REAL(pool, max_pool, .range = CONF_APART),
    REAL(pool, avg_pool, .tolerance = CONF_MIXED),
    REAL(norm, layernorm, .tolerance = CONF_MIXED),
    REAL(norm, rmsnorm, .tolerance = CONF_MIXED),
    REAL(add_norm, add_layernorm, .tolerance = CONF_MIXED),
    REAL(add_norm, add_rmsnorm, .tolerance = CONF_MIXED),
    REAL(batchnorm, batchnorm, SUMMED),
    REAL(attention, attention, .tolerance = CONF_WEIGHTS, .terms = 300), /* weights off by a half unit each: at most one in all */
    REAL(rope, rope, .tolerance = CONF_MIXED),
    COMPLEX(fourier, fft, SUMMED),
    {fourier, "a", {.op = HX_OP_rfft, SUMMED}},
    COMPLEX(fourier, irfft, SUMMED),
    REAL(fftconv, fftconv, SUMMED),
    REAL(cross_entropy, cross_entropy, SUMMED),
    REAL(reshape, view, ),
    COMPLEX(reshape, view, ),
    REAL(permute, permute, ),
    COMPLEX(permute, permute, ),
    REAL(slice, slice, ),
    COMPLEX(slice, slice, ),
    REAL(expand, expand, ),
    COMPLEX(expand, expand, ),
    REAL(split, split, ),
    COMPLEX(split, split, ),
    REAL(pairs, view_as_complex, ),
    COMPLEX(unary, view_as_real, ),
    REAL(gated, swiglu, .tolerance = CONF_LIBM),
};
enum { N_ROWS = sizeof rows / sizeof *rows };

Test(draws, every_op_with_a_derivative_is_drawn) {
    for (int op = 0; op < HX_OP_COUNT; op++) {
        int n = 0;
        for (int i = 0; i < N_ROWS; i++) n += rows[i].c.op == (hx_op)op;
        cr_expect((n > 0) == (hx_op_info_get((hx_op)op)->vjp != NULL), "%s has %d rows", hx_op_info_get((hx_op)op)->name, n);
    }
}

/* ---- values ---- */

static bool is_view(const conf_case *c) { return hx_op_info_get(c->op)->flags & HX_OP_VIEW; }

/* Elements of the first operand. */
static int64_t check_values(conf_rig *ref, conf_rig *rig, const conf_case *c, hx_dtype dtype) {
    conf_operands in;
    conf_result want, got;
    char text[512];
    conf_operands_make(ref, c, dtype, &in);
    hx_status refused = conf_run(ref, c, dtype, &in, &want), status = conf_run(rig, c, dtype, &in, &got);
    bool may_refuse = hx_dtype_is_half(dtype) && (status == HX_ERR_DTYPE || status == HX_ERR_UNSUPPORTED);
    conf_case_text(c, dtype, text, sizeof text);
    cr_expect(status == HX_OK || may_refuse, "%s, seed %llu: %s", text, (unsigned long long)conf_seed(), hx_error_message());
    cr_expect(refused == HX_OK || status != HX_OK, "%s, seed %llu: ref refuses it", text, (unsigned long long)conf_seed());
    if (status == HX_OK && refused == HX_OK)
        cr_expect_not(conf_result_differ(c, dtype, &want, &got, false, text, sizeof text), "seed %llu: %s",
                      (unsigned long long)conf_seed(), text);
    int64_t n = hx_shape_count(&in.items[0].shape);
    conf_result_free(&got);
    conf_result_free(&want);
    conf_operands_free(&in);
    return n;
}

/* Where the joined parts of a split have row j from. */
static int64_t split_source(const conf_case *c, int64_t j) {
    hx_shape parts[HX_OP_MAX_OUT];
    int n = conf_result_shapes(c, parts), dim = c->attr.view.dim;
    int64_t start = 0;
    for (int i = 0; i < n; i++) start += parts[i].dims[dim];
    for (int i = n - 1; i >= 0; i--) {
        start -= parts[i].dims[dim];
        if (c->skip >> i & 1) continue;
        if (j < parts[i].dims[dim]) return start + j;
        j -= parts[i].dims[dim];
    }
    return -1;
}

/* Which element of x is element i of a view of shape y. */
static int64_t source(const conf_case *c, const hx_shape *x, const hx_shape *y, int64_t i) {
    int64_t index[HX_MAX_DIMS] = {0}, at[HX_MAX_DIMS] = {0}, from = 0;
    int dim = c->attr.view.dim;
    if (c->op == HX_OP_view || c->op == HX_OP_view_as_real || c->op == HX_OP_view_as_complex) return i;
    for (int d = y->ndim - 1; d >= 0; i /= y->dims[d--]) index[d] = i % y->dims[d];
    for (int d = 0; d < x->ndim; d++) at[d] = x->dims[d] == 1 ? 0 : index[d + y->ndim - x->ndim];
    for (int d = 0; c->op == HX_OP_permute && d < x->ndim; d++) at[c->attr.view.perm[d]] = index[d];
    if (c->op == HX_OP_slice) at[dim] = c->attr.view.start + c->attr.view.step * index[dim];
    if (c->op == HX_OP_split) at[dim] = split_source(c, index[dim]);
    for (int d = 0; d < x->ndim; d++) from = from * x->dims[d] + at[d];
    return from;
}

/* What a case makes of the bases: shape and [count] values, complex ones as [..,2]; to be freed. */
static double *apply(conf_rig *rig, const conf_case *c, const conf_operands *in, hx_tensor *base, hx_shape *shape) {
    hx_tensor *y;
    MUST(conf_apply(&rig->ctx, &(conf_function){c, in}, &base, 1, &y));
    *shape = hx_tensor_shape(y);
    double *values = malloc(hx_tensor_bytes(y) + 1);
    cr_assert_not_null(values);
    MUST(hx_tensor_read(rig->stream, y, values));
    hx_tensor_destroy(&y);
    return values;
}

/* Elements are where arithmetic on their indices says; of a complex tensor the pairs. */
static int64_t check_view(conf_rig *rig, const conf_case *c) {
    conf_operands in;
    hx_tensor *base;
    hx_shape x_shape, y_shape;
    char word[128] = "", text[512];
    conf_operands_make(rig, c, HX_F64, &in);
    append(word, "", &in.items[0].shape, 0);
    conf_upload_parts(rig, &in.items[0], &base);
    double *x = apply(rig, &(conf_case){.op = HX_OP_view, .in = c->in, .out = word}, &in, base, &x_shape);
    double *y = apply(rig, c, &in, base, &y_shape);
    int64_t n = hx_shape_count(&y_shape), n_parts = hx_dtype_is_complex(in.items[0].dtype) ? 2 : 1, n_wrong = 0;
    y_shape.ndim -= n_parts == 2;
    for (int64_t i = 0; i < n; i++)
        n_wrong += y[i] != x[n_parts * source(c, &in.items[0].shape, &y_shape, i / n_parts) + i % n_parts];
    cr_expect_eq(n_wrong, 0, "%s on %s, seed %llu: %lld of %lld elements are others", conf_case_text(c, HX_F64, text, sizeof text),
                 hx_device_name(rig->device), (unsigned long long)conf_seed(), (long long)n_wrong, (long long)n);
    free(x);
    free(y);
    hx_tensor_destroy(&base);
    conf_operands_free(&in);
    return n;
}

/* ---- all of it ---- */

static void make_draw(const row *r, int i, draw *out) {
    hx_rng rng = {conf_seed(), hx_rng_stream(HX_RNG_USER, 4096 + (uint64_t)(r - rows))};
    *out = (draw){.rng = rng, .at = (uint64_t)i << 16, .letter = r->letter, .c = r->c};
    r->draw(out);
    out->c.in = out->in;
    out->c.out = is_view(&r->c) && out->out[0] ? out->out : NULL;
}

static void check_row(conf_rig *ref, conf_rig *rig, const row *r) {
    static const hx_dtype dtypes[] = {HX_F64, HX_F32, HX_BF16};
    int64_t n_elements = 0;
    for (int i = 0; i < N_DRAWS; i++) {
        draw d;
        make_draw(r, i, &d);
        if (is_view(&d.c)) n_elements += check_view(rig, &d.c);
        else
            for (int k = 0; k < 3; k++) n_elements += check_values(ref, rig, &d.c, dtypes[k]);
        conf_gradient_check(ref, rig, &d.c);
    }
    cr_expect_gt(n_elements, 0, "%s: all draws are empty", hx_op_info_get(r->c.op)->name);
}

static void check_rows(const char *backend) {
    conf_rig ref, rig;
    conf_rig_open("ref", 1, &ref);
    conf_rig_open(backend, 2, &rig);
    for (int i = 0; i < N_ROWS; i++) check_row(&ref, &rig, &rows[i]);
    conf_rig_close(&rig);
    conf_rig_close(&ref);
}

Test(draws, have_the_values_and_gradients_of_their_ops_on_ref) {
    for (int i = 0; conf_seed_use(i); i++) check_rows("ref");
}

Test(draws, have_the_values_and_gradients_of_their_ops_on_the_other_backends) {
    for (int i = 0; conf_seed_use(i); i++)
        for (int b = 0; conf_backend(b) != NULL; b++) check_rows(conf_backend(b));
}

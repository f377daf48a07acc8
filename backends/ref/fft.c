/* Fourier transforms and long convolutions by their definition, n^2 terms in float64. The angles are multiples of 2 pi / n
 * from a table, so that none grows with j k. */
#include "backends/ref/ref_impl.h"

#include <math.h>

#include "core/base/mem.h"

/* One row: n complex elements as pairs of reals. */
typedef struct dft {
    int64_t n;
    double *turn; /* [n,2] cos and sin of 2 pi m / n */
    double *x;    /* [n,2] */
} dft;

static hx_status dft_make(int64_t n, dft *out) {
    double *buffer;
    HX_TRY(hx_mem_alloc_array(4 * n, sizeof *buffer, (void **)&buffer));
    for (int64_t m = 0; m < n; m++) {
        double angle = 6.283185307179586476925 * (double)m / (double)n;
        buffer[2 * m] = cos(angle);
        buffer[2 * m + 1] = sin(angle);
    }
    *out = (dft){n, buffer, buffer + 2 * n};
    return HX_OK;
}

static void dft_free(dft *d) {
    hx_mem_free((void **)&d->turn);
}

/* sum_j x_j e^(sign 2 pi i jk/n) */
static void dft_bin(const dft *d, double sign, int64_t k, double out[2]) {
    double re = 0, im = 0;
    for (int64_t j = 0, m = 0; j < d->n; j++) {
        double c = d->turn[2 * m], s = sign * d->turn[2 * m + 1], a = d->x[2 * j], b = d->x[2 * j + 1];
        re += a * c - b * s;
        im += a * s + b * c;
        m = m + k < d->n ? m + k : m + k - d->n;
    }
    out[0] = re;
    out[1] = im;
}

/* Bins 0 and n/2 of a real signal are real. */
static bool is_real_bin(int64_t n, int64_t k) {
    return k == 0 || 2 * k == n;
}

static void load(dft *d, const hx_array *x, int64_t at) {
    for (int64_t j = 0; j < d->n; j++) hx_elem_get_complex(x->dtype, x->data, at + j * hx__ref_stride(x, 1), d->x + 2 * j);
}

/* n/2 + 1 bins and their mirror images. */
static void load_bins(dft *d, const hx_array *x, int64_t at, double interior) {
    for (int64_t k = 0; k <= d->n / 2; k++) {
        double z[2];
        hx_elem_get_complex(x->dtype, x->data, at + k * hx__ref_stride(x, 1), z);
        bool is_real = is_real_bin(d->n, k);
        double re = is_real ? z[0] : interior * z[0], im = is_real ? 0 : interior * z[1];
        int64_t mirror = (d->n - k) % d->n;
        d->x[2 * mirror] = re;
        d->x[2 * mirror + 1] = -im;
        d->x[2 * k] = re;
        d->x[2 * k + 1] = im;
    }
}

static void fft_row(dft *d, const hx_op_call *call, int64_t at_y, int64_t at_x) {
    const hx_array *y = &call->out[0];
    double scale = call->attr.fft.scale;
    load(d, &call->in[0], at_x);
    for (int64_t k = 0; k < d->n; k++) {
        double z[2];
        dft_bin(d, call->attr.fft.inverse ? 1 : -1, k, z);
        hx_elem_set_complex(y->dtype, y->data, at_y + k * hx__ref_stride(y, 1), (double[]){scale * z[0], scale * z[1]});
    }
}

static void rfft_row(dft *d, const hx_op_call *call, int64_t at_y, int64_t at_x) {
    const hx_array *y = &call->out[0];
    load(d, &call->in[0], at_x);
    for (int64_t k = 0; k <= d->n / 2; k++) {
        double z[2], scale = call->attr.fft.scale;
        bool is_real = is_real_bin(d->n, k);
        dft_bin(d, -1, k, z);
        if (!is_real) scale *= call->attr.fft.interior;
        hx_elem_set_complex(y->dtype, y->data, at_y + k * hx__ref_stride(y, 1), (double[]){scale * z[0], is_real ? 0 : scale * z[1]});
    }
}

static void irfft_row(dft *d, const hx_op_call *call, int64_t at_y, int64_t at_x) {
    const hx_array *y = &call->out[0];
    load_bins(d, &call->in[0], at_x, call->attr.fft.interior);
    for (int64_t j = 0; j < d->n; j++) {
        double z[2];
        dft_bin(d, 1, j, z);
        hx__ref_set(y, at_y + j * hx__ref_stride(y, 1), call->attr.fft.scale * z[0]);
    }
}

/* Every row of n elements; n is that of the side which is not cut to n/2 + 1 bins. */
static hx_status each_row(const hx_op_call *call, int64_t n, void (*row)(dft *, const hx_op_call *, int64_t, int64_t)) {
    const hx_array x_rows = hx__ref_lead(&call->in[0], 1), y_rows = hx__ref_lead(&call->out[0], 1);
    dft d;
    HX_TRY(dft_make(n, &d));
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(&y_rows, &x_rows)); !w.is_done; hx__ref_walk_next(&w))
        row(&d, call, w.at[0], w.at[1]);
    dft_free(&d);
    return HX_OK;
}

hx_status hx__ref_fft(const hx_op_call *call) {
    return each_row(call, hx__ref_dim(&call->in[0], 1), fft_row);
}

hx_status hx__ref_rfft(const hx_op_call *call) {
    return each_row(call, hx__ref_dim(&call->in[0], 1), rfft_row);
}

hx_status hx__ref_irfft(const hx_op_call *call) {
    return each_row(call, call->attr.fft.n, irfft_row);
}

/* ---- causal convolution: sums by the definition ---- */

static double at2(const hx_array *a, int64_t i, int64_t j) {
    return hx__ref_get(a, i * a->strides[0] + j * a->strides[1]);
}

static int64_t place3(const hx_array *a, int64_t i, int64_t j, int64_t k) {
    return i * a->strides[0] + j * a->strides[1] + k * a->strides[2];
}

static double at3(const hx_array *a, int64_t i, int64_t j, int64_t k) {
    return hx__ref_get(a, place3(a, i, j, k));
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

hx_status hx__ref_fftconv(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *h = &call->in[1], *y = &call->out[0];
    const hx_array *d = call->n_in > 2 && hx__ref_has(&call->in[2]) ? &call->in[2] : NULL;
    for (int64_t b = 0; b < x->dims[0]; b++)
        for (int64_t c = 0; c < x->dims[1]; c++)
            for (int64_t t = 0; t < x->dims[2]; t++) {
                hx__ref_total sum = {0};
                for (int64_t s = 0; s < smaller(t + 1, h->dims[1]); s++) hx__ref_add(&sum, at2(h, c, s) * at3(x, b, c, t - s));
                if (d) hx__ref_add(&sum, hx__ref_get(d, c * d->strides[0]) * at3(x, b, c, t));
                hx__ref_set(y, place3(y, b, c, t), hx__ref_value(&sum));
            }
    return HX_OK;
}

/* sum over the batch and t >= s of x_{t-s} dy_t */
static double tap_gradient(const hx_array *x, const hx_array *dy, int64_t c, int64_t s) {
    hx__ref_total sum = {0};
    for (int64_t b = 0; b < x->dims[0]; b++)
        for (int64_t t = s; t < x->dims[2]; t++) hx__ref_add(&sum, at3(x, b, c, t - s) * at3(dy, b, c, t));
    return hx__ref_value(&sum);
}

hx_status hx__ref_fftconv_bwd(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *h = &call->in[1], *dy = &call->in[2];
    const hx_array *dx = &call->out[0], *dh = &call->out[1], *dd = &call->out[2];
    const hx_array *d = call->n_in > 3 && hx__ref_has(&call->in[3]) ? &call->in[3] : NULL;
    unsigned accumulate = call->attr.fftconv.accumulate;
    for (int64_t b = 0; b < x->dims[0] && hx__ref_has(dx); b++)
        for (int64_t c = 0; c < x->dims[1]; c++)
            for (int64_t s = 0; s < x->dims[2]; s++) {
                hx__ref_total sum = {0};
                for (int64_t t = s; t < smaller(x->dims[2], s + h->dims[1]); t++) hx__ref_add(&sum, at2(h, c, t - s) * at3(dy, b, c, t));
                if (d) hx__ref_add(&sum, hx__ref_get(d, c * d->strides[0]) * at3(dy, b, c, s));
                hx__ref_put(dx, place3(dx, b, c, s), hx__ref_value(&sum), accumulate & 1);
            }
    for (int64_t c = 0; c < h->dims[0]; c++) {
        for (int64_t s = 0; s < h->dims[1] && hx__ref_has(dh); s++)
            hx__ref_put(dh, c * dh->strides[0] + s * dh->strides[1], tap_gradient(x, dy, c, s), accumulate & 2);
        if (hx__ref_has(dd)) hx__ref_put(dd, c * dd->strides[0], tap_gradient(x, dy, c, 0), accumulate & 4);
    }
    return HX_OK;
}

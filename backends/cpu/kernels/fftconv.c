/* Causal convolution of long signals by Fourier transforms, channel after channel; FFTW makes the transforms.
 *
 * A linear convolution of rows of L elements has 2L - 1, so that a cyclic one needs rows padded to 2L. Here zeros are not
 * transformed: with z_j = w^j x_j, w = e^(-i pi / (2n)) and n >= L, the complex transform Z of length n is that of x at the
 * frequencies k + 1/4, where w^n = -i turns what comes round by a quarter. The inverse transform of a product of two such
 * Z, turned back, is therefore c_j - i c_{j+n}, where c is the linear convolution: its real part is the causal one. (This
 * is the right-angle convolution: Crandall and Fagin 1994, "Discrete weighted transforms and large-integer arithmetic".)
 * A row costs two complex transforms of length L in all, products need no pairs of bins, and rows stay apart: no element
 * of one can disturb another.
 *
 * The operator is w* F^-1 diag(H) F w, of which the real part is taken; its adjoint has the conjugate of H:
 *   dx = Re w* F^-1 (conj(H) G), dh = Re w* F^-1 sum over the batch of conj(X) G, with G the transform of w dy.
 * The sum is made in order of the batch. d x is that of a kernel with d at 0: d is added to h_0, and dd is dh_0.
 *
 * Spectra are made again in backward rather than saved: they have twice the size of x, and forward and backward together
 * would gain 6 % (rows of 4096). */
#include <math.h>
#include <string.h>

#include "backends/cpu/kernels/kernels.h"

enum {
    ROWS = 16,  /* of a forward task; each transforms the kernel again */
    ALIGN = 64, /* of buffers, in bytes */
    N_BUFFERS = 5
};

/* A length that FFTW is fast at, at most 4/3 of n: 2^k, 3 2^k or 5 2^k. */
static int64_t good_length(int64_t n) {
    int64_t best = INT64_MAX;
    for (int64_t odd = 1; odd <= 5; odd += 2) {
        int64_t length = odd;
        while (length < n) length *= 2;
        best = hx__min(best, length);
    }
    return best;
}

#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/fftconv.inc"
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/fftconv.inc"

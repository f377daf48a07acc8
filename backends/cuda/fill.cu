/* Fills with a pattern of up to 16 bytes: the pattern is repeated to 16 bytes, which each thread stores at once. */
#include <string.h>

#include "backends/cuda/port.cuh"

#define FILL_THREADS 256

struct hx_fill_word {
    unsigned int part[4];
};

/* One thread stores 16 aligned bytes; n_words of them. */
static __global__ void fill_words(uint4 *dst, hx_fill_word word, int64_t n_words) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n_words) dst[i] = make_uint4(word.part[0], word.part[1], word.part[2], word.part[3]);
}

/* One thread stores one byte of the word: what is left at the ends, fewer than 16 bytes. */
static __global__ void fill_bytes(unsigned char *dst, hx_fill_word word, int n_bytes) {
    const int i = (int)threadIdx.x;
    if (i < n_bytes) dst[i] = (unsigned char)(word.part[i / 4] >> 8 * (i % 4));
}

/* The 16 bytes of the pattern's repetition from byte `phase` on. */
static hx_fill_word word_from(const unsigned char pattern[16], size_t phase) {
    hx_fill_word word;
    unsigned char bytes[16];
    for (size_t i = 0; i < 16; i++) bytes[i] = pattern[(i + phase) % 16];
    memcpy(&word, bytes, 16);
    return word;
}

extern "C" hx_status hx__cuda_fill(hx_cuda_stream *s, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    unsigned char repeated[16];
    unsigned char *at = static_cast<unsigned char *>(dst);
    for (size_t i = 0; i < 16; i++) repeated[i] = static_cast<const unsigned char *>(pattern)[i % pattern_bytes];
    const int64_t n_bytes = n_items * (int64_t)pattern_bytes;
    const int64_t head = hx__cuda_min((int64_t)((16 - (uintptr_t)at % 16) % 16), n_bytes);
    const int64_t n_words = (n_bytes - head) / 16;
    const int tail = (int)(n_bytes - head - 16 * n_words);
    const hx_fill_word start = word_from(repeated, 0), aligned = word_from(repeated, (size_t)head % 16);
    if (head > 0) HX_TRY(hx_launch(s, "fill_bytes", 1, 32, 0, fill_bytes, at, start, (int)head));
    if (n_words > 0)
        HX_TRY(hx_launch(s, "fill_words", (unsigned)hx__cuda_ceil_div(n_words, FILL_THREADS), FILL_THREADS, 0, fill_words,
                         reinterpret_cast<uint4 *>(at + head), aligned, n_words));
    if (tail > 0) HX_TRY(hx_launch(s, "fill_bytes", 1, 32, 0, fill_bytes, at + head + 16 * n_words, aligned, tail));
    return HX_OK;
}

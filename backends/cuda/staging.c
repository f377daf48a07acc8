/* Copies of pageable host memory. The driver would take them through small buffers of its own while the caller waits; here
 * two pinned buffers take turns: while the device copies one, the host fills or empties the other. */
#include <pthread.h>
#include <string.h>

#include "backends/cuda/cuda_impl.h"
#include "core/base/mem.h"

#define PIECE_BYTES ((size_t)4 << 20)
#define N_PIECES    2

struct hx_cuda_staging {
    pthread_mutex_t lock;
    void *piece[N_PIECES]; /* pinned, made for the first copy */
    cudaEvent_t free[N_PIECES]; /* the device is done with the piece */
};

hx_status hx__cuda_staging_open(hx_cuda_staging **out) {
    hx_cuda_staging *g;
    HX_TRY(hx_mem_alloc_array(1, sizeof *g, (void **)&g));
    pthread_mutex_init(&g->lock, NULL);
    *out = g;
    return HX_OK;
}

void hx__cuda_staging_close(hx_cuda_staging **staging) {
    hx_cuda_staging *g = *staging;
    if (!g) return;
    for (int i = 0; i < N_PIECES; i++) {
        if (g->free[i]) (void)cudaEventDestroy(g->free[i]);
        if (g->piece[i]) (void)cudaFreeHost(g->piece[i]);
    }
    pthread_mutex_destroy(&g->lock);
    hx_mem_free((void **)staging);
}

bool hx__cuda_staging_serves(const void *host, size_t n_bytes) {
    struct cudaPointerAttributes p;
    if (n_bytes < PIECE_BYTES) return false;
    if (cudaPointerGetAttributes(&p, host) == cudaSuccess) return p.type == cudaMemoryTypeUnregistered;
    (void)cudaGetLastError();
    return false;
}

static hx_status make_pieces(hx_cuda_staging *g) {
    for (int i = 0; i < N_PIECES; i++) {
        if (!g->piece[i]) HX_TRY(hx__cuda_check(cudaMallocHost(&g->piece[i], PIECE_BYTES), "cudaMallocHost"));
        if (!g->free[i]) HX_TRY(hx__cuda_check(cudaEventCreateWithFlags(&g->free[i], cudaEventDisableTiming), "cudaEventCreateWithFlags"));
    }
    return HX_OK;
}

static size_t piece_bytes(size_t n_bytes, size_t at) { return n_bytes - at < PIECE_BYTES ? n_bytes - at : PIECE_BYTES; }

/* Start the copy of one piece between its pinned buffer and the device. */
static hx_status start(hx_cuda_stream *s, hx_cuda_staging *g, int i, void *dst, const void *src, size_t n, enum cudaMemcpyKind kind) {
    HX_TRY(hx__cuda_check(cudaMemcpyAsync(dst, src, n, kind, s->handle), "cudaMemcpyAsync of a pinned piece"));
    return hx__cuda_check(cudaEventRecord(g->free[i], s->handle), "cudaEventRecord");
}

static hx_status wait_for(hx_cuda_staging *g, int i) {
    return hx__cuda_check(cudaEventSynchronize(g->free[i]), "cudaEventSynchronize");
}

static hx_status to_device(hx_cuda_stream *s, hx_cuda_staging *g, char *dst, const char *src, size_t n_bytes) {
    int i = 0;
    for (size_t at = 0; at < n_bytes; at += PIECE_BYTES, i = (i + 1) % N_PIECES) {
        size_t n = piece_bytes(n_bytes, at);
        HX_TRY(wait_for(g, i));
        memcpy(g->piece[i], src + at, n);
        HX_TRY(start(s, g, i, dst + at, g->piece[i], n, cudaMemcpyHostToDevice));
    }
    return HX_OK;
}

/* One piece ahead: piece k + 1 is on its way while piece k is taken out. */
static hx_status to_host(hx_cuda_stream *s, hx_cuda_staging *g, char *dst, const char *src, size_t n_bytes) {
    for (int i = 0; i < N_PIECES; i++) HX_TRY(wait_for(g, i)); /* copies to the device may still read the buffers */
    HX_TRY(start(s, g, 0, g->piece[0], src, piece_bytes(n_bytes, 0), cudaMemcpyDeviceToHost));
    int i = 0;
    for (size_t at = 0; at < n_bytes; at += PIECE_BYTES, i = (i + 1) % N_PIECES) {
        size_t next = at + PIECE_BYTES;
        int j = (i + 1) % N_PIECES;
        if (next < n_bytes) HX_TRY(start(s, g, j, g->piece[j], src + next, piece_bytes(n_bytes, next), cudaMemcpyDeviceToHost));
        HX_TRY(wait_for(g, i));
        memcpy(dst + at, g->piece[i], piece_bytes(n_bytes, at));
    }
    return HX_OK;
}

hx_status hx__cuda_staging_copy(hx_cuda_stream *s, void *dst, const void *src, size_t n_bytes, bool is_to_device) {
    hx_cuda_staging *g = s->device->staging;
    pthread_mutex_lock(&g->lock);
    hx_status status;
    if (make_pieces(g) != HX_OK) /* no memory to pin: the driver has ways of its own */
        status = hx__cuda_check(cudaMemcpyAsync(dst, src, n_bytes, is_to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, s->handle),
                                "cudaMemcpyAsync of pageable memory");
    else
        status = is_to_device ? to_device(s, g, dst, src, n_bytes) : to_host(s, g, dst, src, n_bytes);
    pthread_mutex_unlock(&g->lock);
    return status;
}

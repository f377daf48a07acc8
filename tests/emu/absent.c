/* Launchers that backends/cuda does not have yet: weak, so that a kernel takes the place of its own. */
#include "backends/cuda/cuda_impl.h"

#define ABSENT(launcher) \
    __attribute__((weak)) hx_status launcher(hx_cuda_stream *s, const hx_op_call *call) { \
        (void)s; \
        return HX_FAIL(HX_ERR_UNSUPPORTED, "cuda: no kernel for %s", hx_op_info_get(call->op)->name); \
    }
ABSENT(hx__cuda_binary)
ABSENT(hx__cuda_unary)
ABSENT(hx__cuda_compare)
ABSENT(hx__cuda_where)
ABSENT(hx__cuda_copy)
ABSENT(hx__cuda_dropout)
ABSENT(hx__cuda_random)
ABSENT(hx__cuda_sum)
ABSENT(hx__cuda_norm_part)
ABSENT(hx__cuda_linear)
ABSENT(hx__cuda_matmul)
ABSENT(hx__cuda_norm)
ABSENT(hx__cuda_norm_bwd)
ABSENT(hx__cuda_softmax)
ABSENT(hx__cuda_softmax_bwd)
ABSENT(hx__cuda_cross_entropy)
ABSENT(hx__cuda_cross_entropy_bwd)
ABSENT(hx__cuda_embedding)
ABSENT(hx__cuda_embedding_bwd)
ABSENT(hx__cuda_rope)
ABSENT(hx__cuda_attention)
ABSENT(hx__cuda_attention_bwd)
ABSENT(hx__cuda_adamw)

__attribute__((weak)) hx_status hx__cuda_fill(hx_cuda_stream *s, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    (void)s, (void)dst, (void)pattern, (void)pattern_bytes, (void)n_items;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "cuda: no kernel for fill");
}

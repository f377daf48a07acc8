#include "launch/session_impl.h"

#include <stdio.h>
#include <string.h>

bool hx__session_is_elastic(const hx_session *s) { return s->config.train.deterministic == HX_DETERMINISTIC_ELASTIC; }

void hx__session_kernels(const hx_session *s, char out[HX_KERNELS_BYTES]) {
    hx_device_props props;
    hx_device_props_get(s->device, &props);
    snprintf(out, HX_KERNELS_BYTES, "%s", props.kernels);
}

static hx_status count_leaves(hx_session *s, void *arg) {
    return hx_train_n_leaves(&s->config.train, hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_DP)), arg);
}

hx_status hx__session_leaves(hx_session *s, int64_t *out) {
    char mine[HX_KERNELS_BYTES], first[HX_KERNELS_BYTES];
    hx_agreement all;
    hx_status status = HX_OK;
    HX_TRY(hx__session_first(s, count_leaves, out));
    if (*out == 0) return HX_OK;
    hx__session_kernels(s, mine);
    memcpy(first, mine, sizeof first);
    hx_comm_agreement(s->world, &all);
    HX_TRY(all.broadcast(all.self, first, sizeof first));
    first[sizeof first - 1] = '\0';
    if (strcmp(first, mine) != 0)
        status = HX_FAIL(HX_ERR_CONFIG, "train.deterministic = elastic: rank %d computes with the kernels '%s' and rank 0 with '%s': expected "
                         "the same on all ranks (HELIX_CPU_ISA, OPENBLAS_CORETYPE, HELIX_GEMM choose them)", hx_comm_rank(s->world), mine, first);
    return hx_comm_agree(s->world, status);
}

hx_status hx__elastic_same_leaves(const hx_config *stored, const hx_config *given, const char *source) {
    const hx_train_config *was = &stored->train, *is = &given->train;
    if (was->deterministic != HX_DETERMINISTIC_ELASTIC || is->deterministic != HX_DETERMINISTIC_ELASTIC) return HX_OK;
    if (was->batch == is->batch && was->micro_batch == is->micro_batch) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "%.256s was written with train.batch = %lld in %lld micro-batches of train.micro_batch = %lld, this run has "
                   "%lld in %lld of %lld, and train.deterministic = elastic: expected the same; --train.deterministic=ranks goes on with "
                   "other bits", source, (long long)was->batch, (long long)(was->batch / was->micro_batch), (long long)was->micro_batch,
                   (long long)is->batch, (long long)(is->micro_batch > 0 ? is->batch / is->micro_batch : 0), (long long)is->micro_batch);
}

hx_status hx__elastic_same_kernels(const hx_session *s, const hx_config *stored, const char *kernels, const char *source) {
    char mine[HX_KERNELS_BYTES];
    hx__session_kernels(s, mine);
    if (!hx__session_is_elastic(s) || stored->train.deterministic != HX_DETERMINISTIC_ELASTIC || strcmp(kernels, mine) == 0) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "%.256s was computed with the kernels '%s', this run has '%s', and train.deterministic = elastic: expected "
                   "the same (HELIX_CPU_ISA, OPENBLAS_CORETYPE, HELIX_GEMM choose them); --train.deterministic=ranks goes on with other bits",
                   source, kernels, mine);
}

/* mesh.sequence has no effect on one rank. A stored tp of 0 followed from the number of ranks, which is not known any more. */
hx_status hx__elastic_same_parts(const hx_session *s, const hx_config *stored, const char *source) {
    const hx_mesh_config *was = &stored->mesh, *is = &s->config.mesh;
    const int tp = hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_TP));
    if (!hx__session_is_elastic(s) || stored->train.deterministic != HX_DETERMINISTIC_ELASTIC) return HX_OK;
    if ((was->tp == 0 || was->tp == tp) && (tp == 1 || was->sequence == is->sequence)) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "%.256s was written with mesh.tp = %lld, mesh.sequence = %s, this run has %d, %s, and train.deterministic = "
                   "elastic: expected the same; --train.deterministic=ranks goes on with other bits", source, (long long)was->tp,
                   was->sequence ? "true" : "false", tp, is->sequence ? "true" : "false");
}

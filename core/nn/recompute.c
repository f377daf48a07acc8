#include "core/nn/recompute.h"

#include <fnmatch.h>
#include "core/autograd/tape.h"
#include "core/base/mem.h"

/* ---- by path ---- */

static bool matches_within(const hx_layer *layer, const char *glob) {
    if (fnmatch(glob, layer->path, 0) == 0) return true;
    for (int i = 0; i < layer->n_children; i++)
        if (matches_within(layer->children[i], glob)) return true;
    return false;
}

/* What is inside a chosen layer is run again with it: it is no segment of its own. */
static void choose(hx_layer *layer, const hx_recompute_config *config, bool is_inside, hx_recompute_report *report) {
    bool is_chosen = false;
    for (int i = 0; i < config->n_layers && !is_inside && !is_chosen; i++)
        is_chosen = fnmatch(config->layers[i], layer->path, 0) == 0;
    hx_layer_set_recompute(layer, is_chosen);
    report->n_blocks++;
    report->n_recomputed += is_chosen;
    for (int i = 0; i < layer->n_children; i++) choose(layer->children[i], config, is_inside || is_chosen, report);
}

static hx_status apply_layers(hx_layer *sequence, const hx_recompute_config *config, hx_recompute_report *report) {
    hx_layer *root = sequence;
    while (root->parent != NULL) root = root->parent;
    for (int i = 0; i < config->n_layers; i++)
        if (!matches_within(root, config->layers[i]))
            return HX_FAIL(HX_ERR_CONFIG, "recompute: no layer has a path like \"%s\"", config->layers[i]);
    choose(root, config, false, report);
    return HX_OK;
}

/* ---- by budget ---- */

typedef struct block_cost {
    int64_t output_bytes; /* what a block leaves behind if it is recomputed */
    int64_t saved_bytes;  /* if it is not: its output and what its ops save */
} block_cost;

static int64_t live_bytes(const hx_ctx *ctx) {
    hx_device_stats stats;
    hx_device_stats_get(ctx->device, &stats);
    return stats.live_bytes;
}

static hx_status measure_block(hx_layer *block, hx_ctx *recording, hx_tensor **at, block_cost *cost) {
    hx_ctx quiet = hx_no_grad(recording);
    hx_tensor *y = NULL;
    int64_t before = live_bytes(recording);
    HX_TRY(hx_layer_forward(block, &quiet, *at, &y));
    cost->output_bytes = live_bytes(recording) - before;
    hx_tensor_destroy(&y);
    HX_TRY(hx_layer_forward(block, recording, *at, &y));
    cost->saved_bytes = live_bytes(recording) - before;
    hx_tensor_destroy(at);
    *at = y;
    return HX_OK;
}

static hx_status measure(hx_layer *sequence, const hx_ctx *ctx, hx_tensor *x, block_cost *costs) {
    HX_AUTO_TENSOR at = hx_tensor_retain(x);
    hx_ctx recording = *ctx;
    hx_status status = HX_OK;
    recording.is_recompute = true; /* running statistics stay as they are */
    HX_TRY(hx_tape_create(ctx->device, &recording.tape));
    for (int i = 0; i < sequence->n_children; i++)
        HX_TRY_GOTO(measure_block(sequence->children[i], &recording, &at, &costs[i]), done);
done:
    hx_tape_destroy(&recording.tape);
    return status;
}

/* The most that is kept at a time if the first k of n blocks are recomputed: either all there is when backward begins,
 * or what is left when one of the k has been run again, everything behind it being done. */
static int64_t most_kept(const block_cost *costs, int n, int k) {
    int64_t outputs = 0, most = 0;
    for (int i = 0; i < k; i++) {
        if (outputs + costs[i].saved_bytes > most) most = outputs + costs[i].saved_bytes;
        outputs += costs[i].output_bytes;
    }
    for (int i = k; i < n; i++) outputs += costs[i].saved_bytes;
    return outputs > most ? outputs : most;
}

static hx_status apply_budget(hx_layer *sequence, const hx_recompute_config *config, const hx_ctx *ctx, hx_tensor *x,
                              hx_recompute_report *report) {
    const int n = sequence->n_children;
    block_cost *costs = NULL;
    hx_status status;
    int k = 0;
    if (ctx == NULL || x == NULL) return HX_FAIL(HX_ERR_ARG, "a budget needs a context and an input to measure with");
    HX_TRY(hx_mem_alloc_array(n, sizeof *costs, (void **)&costs));
    HX_TRY_GOTO(measure(sequence, ctx, x, costs), done);
    while (k < n && most_kept(costs, n, k) > config->budget_bytes) k++;
    report->n_recomputed = k;
    report->plain_bytes = most_kept(costs, n, 0);
    report->expected_bytes = most_kept(costs, n, k);
    if (report->expected_bytes > config->budget_bytes)
        HX_TRY_GOTO(HX_FAIL(HX_ERR_CONFIG, "recompute: %lld bytes of activations: %lld are needed with all %d blocks recomputed, %lld with none",
                            (long long)config->budget_bytes, (long long)report->expected_bytes, n, (long long)report->plain_bytes),
                    done);
    for (int i = 0; i < k; i++) hx_layer_set_recompute(sequence->children[i], true);
done:
    hx_mem_free((void **)&costs);
    return status;
}

/* ---- all ---- */

hx_status hx_recompute_apply(hx_layer *sequence, const hx_recompute_config *config, const hx_ctx *ctx, hx_tensor *x,
                             hx_recompute_report *report) {
    hx_recompute_report result = {0};
    if (config->every_n < 0 || config->n_layers < 0 || config->budget_bytes < 0 ||
        (config->every_n > 0) + (config->n_layers > 0) + (config->budget_bytes > 0) > 1)
        return HX_FAIL(HX_ERR_CONFIG, "recompute: every_n = %lld, %d layers, budget_bytes = %lld: expected at most one, and none negative",
                       (long long)config->every_n, config->n_layers, (long long)config->budget_bytes);
    HX_TRY(hx_sequential_set_recompute(sequence, config->every_n));
    for (int i = 0; i < sequence->n_children; i++) hx_layer_set_recompute(sequence->children[i], false);
    if (config->n_layers > 0) {
        HX_TRY(apply_layers(sequence, config, &result));
    } else {
        result.n_blocks = sequence->n_children;
        result.n_recomputed = config->every_n > 0 ? sequence->n_children : 0;
        if (config->budget_bytes > 0) HX_TRY(apply_budget(sequence, config, ctx, x, &result));
    }
    if (report != NULL) *report = result;
    return HX_OK;
}

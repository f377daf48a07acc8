/* A GPT whose layers are cut over ranks computes what the whole one does: loss, gradients, and the values it begins with.
 * Tolerances: a row-parallel product adds its terms in as many sums as there are ranks, and the loss likewise, so f64 agrees
 * to some roundings of 1e-16, f32 of 6e-8; bf16 rounds each rank's partial sum to 8 bits before they are added. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/nn/shard.h"
#include "core/train/trainer.h"
#include "dist/mesh.h"
#include "dist/model/tensor.h"
#include "dist/params.h"

#define OK(call) cr_assert_eq((call), HX_OK, "%s: %s\n%s", #call, hx_error_message(), hx_error_trace())

enum { B = 3, T = 8, VOCAB = 36 }; /* like heads and widths below, a multiple of 1 to 4 ranks */

typedef struct run {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_layer *gpt;
    hx_param_list params;
    double loss;
    int64_t count;
    int64_t peak_bytes; /* after the model has been made */
} run;

static hx_gpt_config gpt2(int dtype) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.vocab = VOCAB, c.ctx = T, c.layers = 2, c.dim = 48, c.heads = 12, c.dropout = 0.1, c.dtype = dtype;
    return c;
}

static hx_gpt_config llama(int dtype) {
    hx_gpt_config c = gpt2(dtype);
    c.dim = 96, c.heads = 24, c.kv_heads = 12, c.norm = 1, c.positions = 1, c.mlp = 1, c.mlp_dim = 48, c.bias = false, c.tied = false;
    return c;
}

/* Ids that depend on their place only, some of them left out as targets. */
static void make_ids(const run *r, bool is_target, hx_tensor **out) {
    int32_t ids[B * T];
    for (int i = 0; i < B * T; i++) ids[i] = is_target && i % 7 == 3 ? (int32_t)HX_IGNORE_INDEX : (i * 13 + 5 * is_target) % VOCAB;
    OK(hx_tensor_create(r->device, HX_I32, HX_SHAPE(B, T), out));
    OK(hx_tensor_write(r->stream, *out, ids));
}

/* Forward, loss and backward of one batch. @param shard  NULL: whole; else the model is cut on the device meta */
static void open_run(run *r, const hx_gpt_config *config, const hx_shard *shard, hx_device *meta) {
    HX_AUTO_TENSOR input = NULL;
    HX_AUTO_TENSOR target = NULL;
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR count = NULL;
    *r = (run){0};
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &r->device));
    OK(hx_stream_create(r->device, &r->stream));
    OK(hx_tape_create(r->device, &r->tape));
    hx_device_stats stats;
    OK(hx_gpt_create(shard ? meta : r->device, config, &r->gpt));
    if (shard) OK(hx_gpt_set_shard(r->gpt, shard));
    if (shard) OK(hx_layer_move(r->gpt, r->device));
    hx_device_stats_get(r->device, &stats);
    r->peak_bytes = stats.peak_bytes;
    OK(hx_gpt_init(r->gpt, r->stream, 7));
    OK(hx_layer_params(r->gpt, &r->params));
    make_ids(r, false, &input);
    make_ids(r, true, &target);
    hx_ctx ctx = {.device = r->device, .stream = r->stream, .tape = r->tape, .training = true, .seed = 11};
    const hx_batch batch = {.input = input, .target = target, .n_samples = B};
    OK(hx_lm_loss(r->gpt, &ctx, &batch, &loss, &count));
    OK(hx_tensor_item(r->stream, loss, &r->loss));
    OK(hx_tensor_read(r->stream, count, &r->count));
    OK(hx_backward(&ctx, loss, NULL));
}

static void close_run(run *r) {
    hx_param_list_destroy(&r->params);
    hx_layer_destroy(&r->gpt);
    hx_tape_destroy(&r->tape);
    hx_stream_destroy(&r->stream);
    hx_device_close(&r->device);
}

/* A tensor's elements as f64; free it. */
static double *read_all(const run *r, hx_tensor *x) {
    hx_ctx ctx = {.device = r->device, .stream = r->stream};
    HX_AUTO_TENSOR wide = NULL;
    double *out = malloc(sizeof *out * (size_t)(hx_tensor_count(x) + 1));
    OK(hx_cast(&ctx, x, HX_F64, &wide));
    OK(hx_tensor_read(r->stream, wide, out));
    return out;
}

/* |part - whole| / |whole| over what this rank holds of a logical tensor. */
static double distance(const double *part, const hx_layout *cut, const double *whole, const hx_layout *full) {
    double d = 0, n = 0;
    for (int b = 0; b < cut->n_boxes; b++) {
        const hx_box *box = &cut->boxes[b];
        int64_t index[HX_MAX_DIMS];
        for (int64_t i = 0; i < hx_box_count(box, cut->shape.ndim); i++) {
            int64_t rest = i;
            for (int k = cut->shape.ndim - 1; k >= 0; k--) {
                index[k] = box->start[k] + rest % box->extent[k];
                rest /= box->extent[k];
            }
            const double want = whole[hx_layout_find(full, index)], got = part[box->local + i];
            d += (got - want) * (got - want);
            n += want * want;
        }
    }
    return sqrt(d) / fmax(sqrt(n), 1e-30);
}

/* The largest distance of values (what: 0) or gradients (1), key biases left out: their gradient is 0 but for rounding. */
static double largest(const run *cut, const run *whole, int what) {
    double most = 0;
    for (int64_t i = 0; i < whole->params.n_items; i++) {
        const hx_param *a = cut->params.items[i], *b = whole->params.items[i];
        double *x = read_all(cut, what ? hx_tensor_grad(a->value) : a->value), *y = read_all(whole, what ? hx_tensor_grad(b->value) : b->value);
        for (int k = 0; k < hx_param_n_logical(b); k++) {
            char path[HX_NAME_BYTES], other[HX_NAME_BYTES];
            const hx_layout *part, *full;
            hx_param_logical(a, k, path, &part);
            hx_param_logical(b, k, other, &full);
            cr_assert_str_eq(path, other);
            if (strstr(path, "k.bias") != NULL) continue;
            const double d = distance(x, part, y, full);
            if (what && d > 1e-3) cr_log_info("%s: %g", path, d);
            most = fmax(most, d);
        }
        free(x);
        free(y);
    }
    return most;
}

static void compare(hx_gpt_config config, double loss, double gradient) {
    hx_comm *world;
    hx_tensor_parallel *tp;
    run cut, whole;
    hx_device *meta;
    OK(hx_backend_register(&hx_backend_meta));
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    OK(hx_tensor_parallel_create(world, &tp));
    OK(hx_device_open("meta", NULL, &meta));
    open_run(&whole, &config, NULL, NULL);
    open_run(&cut, &config, hx_tensor_parallel_shard(tp), meta);
    cr_expect_eq(cut.count, whole.count);
    cr_expect_eq(largest(&cut, &whole, 0), 0, "initial values differ by %g", largest(&cut, &whole, 0));
    cr_expect_leq(fabs(cut.loss - whole.loss), loss * fabs(whole.loss), "loss %.17g, whole %.17g", cut.loss, whole.loss);
    const double d = largest(&cut, &whole, 1);
    cr_expect_leq(d, gradient, "gradients differ by %g", d);
    cr_log_info("%d ranks, dtype %d: loss differs by %.2g, gradients by %.2g", hx_comm_size(world), config.dtype,
                fabs(cut.loss - whole.loss) / fabs(whole.loss), d);
    if (hx_comm_size(world) > 1) {
        int64_t n_cut = hx_param_list_count(&cut.params), n_whole = hx_param_list_count(&whole.params);
        cr_expect_lt(cut.peak_bytes, whole.peak_bytes * 2 / 3, "%lld bytes, whole %lld", (long long)cut.peak_bytes, (long long)whole.peak_bytes);
        cr_expect_lt(n_cut, n_whole * 2 / 3 + 1000, "%lld of %lld parameters on this rank", (long long)n_cut, (long long)n_whole);
    }
    close_run(&cut);
    close_run(&whole);
    hx_device_close(&meta);
    hx_tensor_parallel_destroy(&tp);
    hx_comm_close(&world);
}

Test(tensor, gpt2_cut_over_ranks_in_f64_equals_the_whole) { compare(gpt2(1), 1e-14, 1e-12); }
Test(tensor, gpt2_cut_over_ranks_in_f32_equals_the_whole_within_rounding) { compare(gpt2(0), 1e-6, 1e-5); }
Test(tensor, gpt2_cut_over_ranks_in_bf16_equals_the_whole_within_rounding) { compare(gpt2(2), 2e-3, 5e-2); }
Test(tensor, llama_cut_over_ranks_in_f64_equals_the_whole) { compare(llama(1), 1e-14, 1e-12); }

/* The second run of a block's forward meets the other ranks' second runs. */
Test(tensor, blocks_that_are_computed_again_give_the_same_gradients) {
    hx_gpt_config config = gpt2(1);
    config.recompute = 1;
    compare(config, 1e-14, 1e-12);
}

/* Ranks that hold parts of a model: what each has whole becomes the first one's, the parts stay, and what differs is named. */
Test(tensor, whole_parameters_are_made_the_same_and_parts_are_left) {
    hx_comm *world;
    hx_device *device;
    hx_stream *stream;
    hx_tensor_parallel *tp;
    hx_layer *linear = NULL;
    hx_param_list params = {0};
    double part = 0, whole = 0;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    const int rank = hx_comm_rank(world), size = hx_comm_size(world);
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &device));
    OK(hx_stream_create(device, &stream));
    OK(hx_tensor_parallel_create(world, &tp));
    OK(hx_linear_create(device, HX_F64, size, 1, true, &linear));
    OK(hx_linear_set_shard(linear, hx_tensor_parallel_shard(tp), HX_CUT_ROWS));
    OK(hx_layer_params(linear, &params)); /* weight [1,1] of [1,size], bias [1] */
    for (int i = 0; i < 2; i++) OK(hx_tensor_fill(stream, params.items[i]->value, 10 + rank));
    OK(hx_params_same(world, &params));
    OK(hx_params_broadcast(world, stream, &params, true));
    OK(hx_tensor_item(stream, params.items[0]->value, &part));
    OK(hx_tensor_item(stream, params.items[1]->value, &whole));
    cr_expect_eq(part, 10 + rank);
    cr_expect_eq(whole, 10);
    params.items[1]->is_frozen = rank == 0;
    cr_expect_eq(hx_params_same(world, &params), size == 1 ? HX_OK : HX_ERR_CONFIG);
    cr_expect(size == 1 || strstr(hx_error_message(), "parameter bias") != NULL, "%s", hx_error_message());
    hx_param_list_destroy(&params);
    hx_layer_destroy(&linear);
    hx_tensor_parallel_destroy(&tp);
    hx_stream_destroy(&stream);
    hx_device_close(&device);
    hx_comm_close(&world);
}

Test(tensor, what_cannot_be_cut_is_refused_by_name) {
    const int sizes[2] = {5, 18};
    hx_device *device;
    hx_layer *gpt = NULL, *norm = NULL;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_device_open("cpu", NULL, &device));
    for (int i = 0; i < 2; i++) { /* 5 does not divide the vocabulary; 18 ranks have not a head each */
        const hx_shard shard = {.rank = 0, .size = sizes[i]};
        hx_gpt_config config = gpt2(0);
        OK(hx_gpt_create(device, &config, &gpt));
        cr_expect_eq(hx_gpt_set_shard(gpt, &shard), HX_ERR_CONFIG);
        cr_expect_not_null(strstr(hx_error_message(), i == 0 ? "vocab = 36 on 5" : "heads = 12"), "%s", hx_error_message());
        hx_layer_destroy(&gpt);
    }
    const hx_shard two = {.rank = 0, .size = 2};
    OK(hx_layernorm_create(device, HX_F32, 8, 0, &norm));
    cr_expect_eq(hx_linear_set_shard(norm, &two, HX_CUT_ROWS), HX_ERR_ARG);
    hx_layer_destroy(&norm);
    OK(hx_linear_create(device, HX_F32, 8, 8, true, &norm));
    OK(hx_linear_set_shard(norm, &two, HX_CUT_COLUMNS));
    cr_expect_eq(hx_linear_set_shard(norm, &two, HX_CUT_COLUMNS), HX_ERR_STATE);
    hx_layer_destroy(&norm);
    hx_device_close(&device);
}

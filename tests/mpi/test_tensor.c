/* A GPT whose layers are cut over ranks computes what the whole one does: loss, gradients, and the values it begins with.
 * Tolerances: a row-parallel product adds its terms in as many sums as there are ranks, and the loss likewise, so f64 agrees
 * to some roundings of 1e-16, f32 of 6e-8; bf16 rounds each rank's partial sum to 8 bits before they are added. With the stream
 * between cut layers dealt out by position the same holds, once partial gradients are added up. */
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
#include "tests/support/expect.h"

enum { B = 3, T = 12, VOCAB = 36 }; /* like heads and widths below, a multiple of 1 to 4 ranks */

typedef struct run {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_layer *gpt;
    hx_param_list params;
    double loss;
    int64_t count;
    int64_t peak_bytes; /* after the model has been made */
    int64_t kept_bytes; /* by the tape, when forward is done */
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
static void make_ids(const run *r, int64_t n_tokens, bool is_target, hx_tensor **out) {
    const int n = B * (int)n_tokens;
    int32_t *ids = malloc(sizeof *ids * (size_t)n);
    for (int i = 0; i < n; i++) ids[i] = is_target && i % 7 == 3 ? (int32_t)HX_IGNORE_INDEX : (i * 13 + 5 * is_target) % VOCAB;
    OK(hx_tensor_create(r->device, HX_I32, HX_SHAPE(B, n_tokens), out));
    OK(hx_tensor_write(r->stream, *out, ids));
    free(ids);
}

static int64_t live_bytes(const run *r) {
    hx_device_stats stats;
    hx_device_stats_get(r->device, &stats);
    return stats.live_bytes;
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
    make_ids(r, config->ctx, false, &input);
    make_ids(r, config->ctx, true, &target);
    hx_ctx ctx = {.device = r->device, .stream = r->stream, .tape = r->tape, .training = true, .seed = 11};
    const hx_batch batch = {.input = input, .target = target, .n_samples = B};
    const int64_t before = live_bytes(r);
    OK(hx_lm_loss(r->gpt, &ctx, &batch, &loss, &count));
    r->kept_bytes = live_bytes(r) - before;
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

/* What data parallelism does with partial gradients. @return how many there are */
static int64_t add_up_partial(const run *r, hx_comm *world) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->params.n_items; i++) {
        if (!r->params.items[i]->is_partial) continue;
        hx_tensor *grad = hx_tensor_grad(r->params.items[i]->value);
        OK(hx_comm_all_reduce(world, hx_tensor_data(grad), hx_tensor_count(grad), hx_tensor_dtype(grad), HX_SUM, r->stream, NULL));
        n++;
    }
    return n;
}

static void compare(hx_gpt_config config, bool sequence, double loss, double gradient) {
    hx_comm *world;
    hx_tensor_parallel *tp;
    run cut, whole;
    hx_device *meta;
    OK(hx_backend_register(&hx_backend_meta));
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    OK(hx_tensor_parallel_create(world, sequence, &tp));
    OK(hx_device_open("meta", NULL, &meta));
    open_run(&whole, &config, NULL, NULL);
    open_run(&cut, &config, hx_tensor_parallel_shard(tp), meta);
    const int64_t n_partial = add_up_partial(&cut, world);
    cr_expect((n_partial > 0) == (sequence && hx_comm_size(world) > 1), "%lld partial gradients", (long long)n_partial);
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

Test(tensor, gpt2_cut_over_ranks_in_f64_equals_the_whole) { compare(gpt2(1), false, 1e-14, 1e-12); }
Test(tensor, gpt2_cut_over_ranks_in_f32_equals_the_whole_within_rounding) { compare(gpt2(0), false, 1e-6, 1e-5); }
Test(tensor, gpt2_cut_over_ranks_in_bf16_equals_the_whole_within_rounding) { compare(gpt2(2), false, 2e-3, 5e-2); }
Test(tensor, llama_cut_over_ranks_in_f64_equals_the_whole) { compare(llama(1), false, 1e-14, 1e-12); }

Test(tensor, gpt2_split_by_position_in_f64_equals_the_whole) { compare(gpt2(1), true, 1e-14, 1e-12); }
Test(tensor, gpt2_split_by_position_in_f32_equals_the_whole_within_rounding) { compare(gpt2(0), true, 1e-6, 1e-5); }
Test(tensor, gpt2_split_by_position_in_bf16_equals_the_whole_within_rounding) { compare(gpt2(2), true, 2e-3, 5e-2); }
Test(tensor, llama_split_by_position_in_f64_equals_the_whole) { compare(llama(1), true, 1e-14, 1e-12); }

/* Grouped heads, RMS norms and SwiGLU with learned positions, biases and a tied head; the two blocks are one segment. */
Test(tensor, mixed_shapes_split_by_position_equal_the_whole) {
    hx_gpt_config config = llama(1);
    config.positions = 0, config.bias = true, config.tied = true, config.recompute = 2;
    compare(config, true, 1e-14, 1e-12);
}

/* The second run of a block's forward meets the other ranks' second runs. */
Test(tensor, blocks_that_are_computed_again_give_the_same_gradients) {
    hx_gpt_config config = gpt2(1);
    config.recompute = 1;
    compare(config, false, 1e-14, 1e-12);
}

/* Masks of the second run are those of the rank's positions too. */
Test(tensor, blocks_split_by_position_that_are_computed_again_give_the_same_gradients) {
    hx_gpt_config config = gpt2(1);
    config.recompute = 1, config.tied = false;
    compare(config, true, 1e-14, 1e-12);
}

/* Kept by each rank: [split] of a model of many blocks. Cut layers alone leave the residual stream, norms and dropouts whole. */
Test(tensor, what_is_kept_for_backward_falls_by_the_number_of_ranks) {
    hx_gpt_config config = gpt2(0);
    hx_comm *world;
    hx_device *meta;
    run whole, cut[2];
    config.layers = 6, config.ctx = 96;
    OK(hx_backend_register(&hx_backend_meta));
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    OK(hx_device_open("meta", NULL, &meta));
    const int size = hx_comm_size(world);
    open_run(&whole, &config, NULL, NULL);
    for (int split = 0; split < 2; split++) {
        hx_tensor_parallel *tp;
        OK(hx_tensor_parallel_create(world, split, &tp));
        open_run(&cut[split], &config, hx_tensor_parallel_shard(tp), meta);
        hx_device_stats stats;
        hx_device_stats_get(cut[split].device, &stats);
        cut[split].peak_bytes = stats.peak_bytes;
        close_run(&cut[split]);
        hx_tensor_parallel_destroy(&tp);
    }
    close_run(&whole);
    cr_log_info("%d ranks: forward keeps %lld bytes, %lld with cut layers, %lld split; peaks %lld, %lld", size, (long long)whole.kept_bytes,
                (long long)cut[0].kept_bytes, (long long)cut[1].kept_bytes, (long long)cut[0].peak_bytes, (long long)cut[1].peak_bytes);
    /* all of the whole model's but for what does not divide evenly: blocks of memory are multiples of some size */
    cr_expect_leq(cut[1].kept_bytes * size, whole.kept_bytes * 21 / 20, "%lld bytes, whole %lld", (long long)cut[1].kept_bytes, (long long)whole.kept_bytes);
    if (size > 1) cr_expect_lt(cut[1].kept_bytes * 5, cut[0].kept_bytes * 4, "%lld bytes, %lld", (long long)cut[1].kept_bytes, (long long)cut[0].kept_bytes);
    if (size > 1) cr_expect_lt(cut[1].peak_bytes, cut[0].peak_bytes, "%lld bytes, %lld", (long long)cut[1].peak_bytes, (long long)cut[0].peak_bytes);
    hx_device_close(&meta);
    hx_comm_close(&world);
}

/* x [n,2 size,3], the same on all ranks, leaves, of which each has its positions, and enters again: size x. The gradient of the
 * sum over ranks of x enter(leave(x)) is 2 size x. */
static void leave_and_enter(hx_comm *world, hx_device *device, hx_stream *stream, const hx_shard *shard, int64_t n) {
    const int size = hx_comm_size(world), rank = hx_comm_rank(world);
    const int64_t count = n * 2 * size * 3;
    double x[2 * 8 * 3], out[2 * 8 * 3], part[2 * 2 * 3];
    hx_ctx ctx = {.device = device, .stream = stream};
    HX_AUTO_TENSOR in = NULL;
    HX_AUTO_TENSOR left = NULL;
    HX_AUTO_TENSOR product = NULL;
    HX_AUTO_TENSOR all = NULL;
    for (int64_t i = 0; i < count; i++) x[i] = (double)i;
    OK(hx_tape_create(device, &ctx.tape));
    OK(hx_tensor_create(device, HX_F64, HX_SHAPE(n, 2 * size, 3), &in));
    OK(hx_tensor_write(stream, in, x));
    hx_tensor_set_requires_grad(in, true);
    OK(shard->leave(shard->self, &ctx, in, &left));
    OK(shard->enter(shard->self, &ctx, left, &all));
    cr_assert_eq(hx_tensor_count(left) * size, count);
    OK(hx_tensor_read(stream, left, part));
    OK(hx_tensor_read(stream, all, out));
    for (int64_t i = 0; i < count; i++) cr_expect_eq(out[i], size * x[i], "%lld: %g", (long long)i, out[i]);
    for (int64_t b = 0; b < n; b++)
        for (int64_t i = 0; i < 6; i++) cr_expect_eq(part[6 * b + i], size * x[6 * (b * size + rank) + i]);
    OK(hx_mul(&ctx, all, in, &product));
    OK(hx_backward(&ctx, product, NULL));
    OK(hx_tensor_read(stream, hx_tensor_grad(in), out));
    for (int64_t i = 0; i < count; i++) cr_expect_eq(out[i], 2 * size * x[i], "%lld: gradient %g", (long long)i, out[i]);
    hx_tape_destroy(&ctx.tape);
}

Test(tensor, a_stream_is_dealt_out_and_gathered_by_position) {
    hx_comm *world;
    hx_device *device;
    hx_stream *stream;
    hx_tensor_parallel *tp;
    hx_tensor *x = NULL, *y = NULL;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &device));
    OK(hx_stream_create(device, &stream));
    OK(hx_tensor_parallel_create(world, true, &tp));
    const hx_shard *shard = hx_tensor_parallel_shard(tp);
    cr_expect_eq(shard->is_sequence, hx_comm_size(world) > 1);
    for (int64_t n = 1; shard->is_sequence && n <= 2; n++) leave_and_enter(world, device, stream, shard, n);
    hx_ctx ctx = {.device = device, .stream = stream};
    OK(hx_tensor_create(device, HX_F32, HX_SHAPE(2, hx_comm_size(world) + 1, 3), &x));
    const hx_status status = shard->leave(shard->self, &ctx, x, &y);
    cr_expect_eq(status, shard->is_sequence ? HX_ERR_SHAPE : HX_OK);
    hx_tensor_destroy(&x);
    hx_tensor_destroy(&y);
    hx_tensor_parallel_destroy(&tp);
    hx_stream_destroy(&stream);
    hx_device_close(&device);
    hx_comm_close(&world);
}

/* The longest sequence is refused when the model is cut, the length of one batch when it comes. */
Test(tensor, positions_that_the_ranks_do_not_divide_are_refused) {
    const hx_shard shard = {.rank = 1, .size = 3, .is_sequence = true};
    hx_gpt_config config = gpt2(0);
    hx_device *device;
    hx_layer *gpt = NULL;
    hx_tensor *ids = NULL, *logits = NULL;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_device_open("cpu", NULL, &device));
    config.ctx = 8;
    OK(hx_gpt_create(device, &config, &gpt));
    cr_expect_eq(hx_gpt_set_shard(gpt, &shard), HX_ERR_CONFIG);
    cr_expect_not_null(strstr(hx_error_message(), "model.ctx = 8 on 3"), "%s", hx_error_message());
    hx_layer_destroy(&gpt);
    config.ctx = 9;
    OK(hx_gpt_create(device, &config, &gpt));
    OK(hx_gpt_set_shard(gpt, &shard));
    OK(hx_tensor_create(device, HX_I32, HX_SHAPE(2, 8), &ids));
    hx_ctx ctx = {.device = device};
    cr_expect_eq(hx_layer_forward(gpt, &ctx, ids, &logits), HX_ERR_SHAPE);
    cr_expect_not_null(strstr(hx_error_message(), "ids [2,8]"), "%s", hx_error_message());
    cr_expect_not_null(strstr(hx_error_message(), "multiple of 3"), "%s", hx_error_message());
    hx_tensor_destroy(&ids);
    hx_layer_destroy(&gpt);
    hx_device_close(&device);
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
    OK(hx_tensor_parallel_create(world, false, &tp));
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

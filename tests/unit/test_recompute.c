/* Activation checkpointing: the same bits as a plain run, in less memory, and errors where a second run cannot be the
 * same as the first. */
#include "core/nn/recompute.h"
#include "tests/unit/test_layer_fixture.h"

TestSuite(recompute, .init = fixture_open, .fini = fixture_close);

/* ---- a GPT, differentiated once or more ---- */

typedef struct rig {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_ctx ctx;
    hx_layer *gpt;
    hx_param_list params;
    hx_tensor *ids;
} rig;

static void rig_open(rig *r, const char *backend, const hx_gpt_config *config, int64_t B) {
    int64_t n = B * config->ctx;
    int32_t *values = malloc((size_t)n * sizeof *values);
    hx_device_config device = {.n_threads = 2};
    OK(hx_device_open(backend, &device, &r->device));
    OK(hx_stream_create(r->device, &r->stream));
    OK(hx_tape_create(r->device, &r->tape));
    r->ctx = (hx_ctx){.device = r->device, .stream = r->stream, .tape = r->tape, .training = true, .seed = 7, .step = 3, .sample_base = 5,
                      .seq_first = 2, .seq_total = config->ctx + 3}; /* a part of the sequence, whose masks repeat too */
    OK(hx_gpt_create(r->device, config, &r->gpt));
    OK(hx_gpt_init(r->gpt, r->stream, 5));
    r->params = (hx_param_list){0};
    OK(hx_layer_params(r->gpt, &r->params));
    OK(hx_tensor_create(r->device, HX_I32, HX_SHAPE(B, config->ctx), &r->ids));
    for (int64_t i = 0; i < n; i++) values[i] = (int32_t)(i * 7 % config->vocab);
    OK(hx_tensor_write(r->stream, r->ids, values));
    free(values);
}

static void rig_close(rig *r) {
    hx_device_stats stats;
    hx_tensor_destroy(&r->ids);
    hx_param_list_destroy(&r->params);
    hx_layer_destroy(&r->gpt);
    hx_tape_destroy(&r->tape);
    hx_stream_destroy(&r->stream);
    hx_device_stats_get(r->device, &stats);
    cr_expect_eq(stats.live_bytes, 0, "%lld bytes were not given back", (long long)stats.live_bytes);
    hx_device_close(&r->device);
}

static void forward(rig *r, hx_tensor **loss) {
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR count = NULL;
    OK(hx_layer_forward(r->gpt, &r->ctx, r->ids, &logits));
    OK(hx_cross_entropy(&r->ctx, logits, r->ids, HX_IGNORE_INDEX, loss, &count));
}

static void backward(rig *r) {
    HX_AUTO_TENSOR loss = NULL;
    forward(r, &loss);
    OK(hx_backward(&r->ctx, loss, NULL));
}

/* All gradients, one after the other; free with free. */
static unsigned char *gradients(rig *r, size_t *n_bytes) {
    size_t at = 0;
    *n_bytes = 0;
    for (int64_t i = 0; i < r->params.n_items; i++) *n_bytes += hx_tensor_bytes(r->params.items[i]->value);
    unsigned char *all = malloc(*n_bytes);
    for (int64_t i = 0; i < r->params.n_items; i++) {
        hx_tensor *grad = hx_tensor_grad(r->params.items[i]->value);
        OK(hx_tensor_read(r->stream, grad, all + at));
        at += hx_tensor_bytes(grad);
    }
    return all;
}

static hx_gpt_config small(int dtype) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.vocab = 11;
    c.ctx = 6;
    c.layers = 5;
    c.dim = 16;
    c.heads = 2;
    c.dropout = 0.2;
    c.dtype = dtype;
    return c;
}

static void check_same_bits(const char *backend, int dtype) {
    rig r;
    size_t n;
    hx_gpt_config c = small(dtype);
    c.activation = dtype; /* gelu or its exact form */
    rig_open(&r, backend, &c, 3);
    hx_layer *blocks = hx_layer_find(r.gpt, "blocks");
    backward(&r);
    unsigned char *plain = gradients(&r, &n);
    for (int64_t every = 1; every <= 6; every++) {
        OK(hx_recompute_apply(blocks, &(hx_recompute_config){.every_n = every}, NULL, NULL, NULL));
        for (int64_t i = 0; i < r.params.n_items; i++) hx_tensor_grad_reset(r.params.items[i]->value);
        backward(&r);
        unsigned char *again = gradients(&r, &n);
        cr_expect_eq(memcmp(plain, again, n), 0, "%s, dtype %d, segments of %lld: other bits", backend, dtype, (long long)every);
        free(again);
    }
    free(plain);
    rig_close(&r);
}

Test(recompute, gradients_are_those_of_a_plain_run_bit_for_bit) {
    OK(hx_backend_register(&hx_backend_cpu));
    for (int dtype = 0; dtype < 2; dtype++) {
        check_same_bits("ref", dtype);
        check_same_bits("cpu", dtype);
    }
}

/* Bytes at the peak of forward and backward, above what was there before; gradients exist already. */
static int64_t peak_of(rig *r, int64_t every) {
    hx_device_stats before, after;
    OK(hx_sequential_set_recompute(hx_layer_find(r->gpt, "blocks"), every));
    backward(r);
    hx_device_stats_reset_peak(r->device);
    hx_device_stats_get(r->device, &before);
    backward(r);
    hx_device_stats_get(r->device, &after);
    return after.peak_bytes - before.live_bytes;
}

static int64_t peak_of_layers(int64_t layers, int64_t every, int64_t *plain) {
    rig r;
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.layers = layers;
    c.ctx = 32;
    c.dim = 64;
    c.heads = 4;
    c.vocab = 64;
    c.dropout = 0.1;
    rig_open(&r, "cpu", &c, 4);
    *plain = peak_of(&r, 0);
    int64_t peak = peak_of(&r, every);
    rig_close(&r);
    return peak;
}

Test(recompute, of_24_layers_needs_a_third_of_the_memory_and_grows_as_the_root) {
    static const int64_t layers[] = {4, 16, 24, 64}, every[] = {2, 4, 5, 8};
    int64_t plain[4], peak[4];
    OK(hx_backend_register(&hx_backend_cpu));
    for (int i = 0; i < 4; i++) {
        peak[i] = peak_of_layers(layers[i], every[i], &plain[i]);
        printf("%lld layers: peak %lld bytes plain, %lld in segments of %lld: %.3f; %.0f bytes per root of layers\n", (long long)layers[i],
               (long long)plain[i], (long long)peak[i], (long long)every[i], (double)peak[i] / (double)plain[i],
               (double)peak[i] / sqrt((double)layers[i]));
    }
    cr_expect_leq(3 * peak[2], plain[2]);
    /* O(sqrt L): four times the layers, at most twice the memory; plain it is nearly four times */
    cr_expect_leq(peak[1], 2 * peak[0]);
    cr_expect_leq(peak[3], 2 * peak[1]);
}

Test(recompute, is_an_option_of_the_gpt) {
    rig plain, segments;
    size_t n;
    hx_gpt_config c = small(1);
    rig_open(&plain, "ref", &c, 2);
    c.recompute = 2;
    rig_open(&segments, "ref", &c, 2);
    backward(&plain);
    backward(&segments);
    unsigned char *a = gradients(&plain, &n), *b = gradients(&segments, &n);
    cr_expect_eq(memcmp(a, b, n), 0);
    free(a);
    free(b);
    rig_close(&plain);
    rig_close(&segments);
}

/* ---- hooks ---- */

typedef struct order {
    hx_tensor *leaf[128];
    int n;
} order;

static hx_status note(void *self, hx_tensor *leaf) {
    order *o = self;
    o->leaf[o->n++] = leaf;
    return HX_OK;
}

Test(recompute, leaves_become_ready_in_the_order_of_a_plain_run) {
    rig r;
    order plain = {.n = 0}, segments = {.n = 0};
    hx_gpt_config c = small(0);
    rig_open(&r, "ref", &c, 1);
    hx_tape_set_ready_hook(r.tape, note, &plain);
    backward(&r);
    hx_tape_set_ready_hook(r.tape, note, &segments);
    OK(hx_sequential_set_recompute(hx_layer_find(r.gpt, "blocks"), 2));
    backward(&r);
    cr_expect_eq(plain.n, (int)r.params.n_items);
    cr_expect(plain.n == segments.n && memcmp(plain.leaf, segments.leaf, (size_t)plain.n * sizeof *plain.leaf) == 0);
    rig_close(&r);
}

Test(recompute, runs_again_in_each_retained_backward) {
    rig r;
    size_t n;
    hx_gpt_config c = small(1);
    HX_AUTO_TENSOR loss = NULL;
    rig_open(&r, "ref", &c, 2);
    OK(hx_sequential_set_recompute(hx_layer_find(r.gpt, "blocks"), 2));
    forward(&r, &loss);
    OK(hx_backward_retain(&r.ctx, loss, NULL));
    unsigned char *first = gradients(&r, &n);
    for (int64_t i = 0; i < r.params.n_items; i++) hx_tensor_grad_reset(r.params.items[i]->value);
    OK(hx_backward(&r.ctx, loss, NULL));
    unsigned char *second = gradients(&r, &n);
    cr_expect_eq(memcmp(first, second, n), 0);
    free(first);
    free(second);
    hx_tensor_destroy(&loss);
    rig_close(&r);
}

/* ---- segments of functions, on the fixture's device ---- */

typedef struct chain {
    hx_tensor *w, *w2;
    hx_op last;     /* the op at the end */
    bool fails;     /* when run again */
    bool branches;  /* records another op when run again */
    bool stops;     /* records one op less when run again */
    bool nests;     /* its middle is a segment of its own */
    int n_runs, n_recomputes;
} chain;

static hx_status square_vjp(hx_vjp *v) {
    HX_AUTO_TENSOR twice = NULL;
    hx_tensor *g = NULL;
    HX_TRY(hx_affine(v->ctx, v->in[0], *(double *)v->user, 0, &twice));
    HX_TRY(hx_mul(v->ctx, twice, v->grad_out[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

static hx_status middle(hx_ctx *c, void *arg, hx_tensor *const *in, hx_tensor **out) {
    static double two = 2;
    static const char name[] = "square";
    hx_ctx quiet = hx_no_grad(c);
    HX_AUTO_TENSOR y = NULL;
    (void)arg;
    HX_TRY(hx_mul(&quiet, in[0], in[0], &y));
    HX_TRY(hx_tape_record_custom(c, &(hx_custom){.name = name, .vjp = square_vjp, .user = &two, .saves = 1}, in, 1, &y, 1));
    *out = hx_tensor_move(&y);
    return HX_OK;
}

/* in [2,3] -> last(w * square(in)^T) [3,2]; and w2 * in */
static hx_status run_chain(hx_ctx *c, void *arg, hx_tensor *const *in, hx_tensor **out) {
    chain *a = arg;
    HX_AUTO_TENSOR sq = NULL;
    HX_AUTO_TENSOR turned = NULL;
    HX_AUTO_TENSOR product = NULL;
    HX_AUTO_TENSOR y0 = NULL;
    HX_AUTO_TENSOR y1 = NULL;
    a->n_runs++;
    a->n_recomputes += c->is_recompute;
    if (a->nests) HX_TRY(hx_checkpoint(c, middle, NULL, in, 1, &sq, 1));
    else HX_TRY(middle(c, NULL, in, &sq));
    HX_TRY(hx_transpose(c, sq, 0, 1, &turned));
    HX_TRY(hx_mul(c, a->w, turned, &product));
    if (c->is_recompute && a->fails) return HX_FAIL(HX_ERR_IO, "the second run fails");
    HX_TRY(hx_unary(c, c->is_recompute && a->branches ? HX_OP_exp : a->last, product, &y0));
    if (c->is_recompute && a->stops) y1 = hx_tensor_retain(in[0]);
    else HX_TRY(hx_mul(c, a->w2, in[0], &y1));
    out[0] = hx_tensor_move(&y0);
    out[1] = hx_tensor_move(&y1);
    return HX_OK;
}

static hx_tensor *grown(hx_shape shape, uint64_t id) {
    hx_tensor *x = normal(shape, id);
    hx_tensor_set_requires_grad(x, true);
    return x;
}

static void chain_open(chain *a, hx_op last) {
    *a = (chain){.w = grown(HX_SHAPE(2), 1), .w2 = grown(HX_SHAPE(), 2), .last = last};
    ctx.tape = tape;
}

static void chain_close(chain *a) {
    hx_tensor_destroy(&a->w);
    hx_tensor_destroy(&a->w2);
}

/* loss = sum(out0) + sum(out1) of the chain, as a segment or plainly */
static void chain_loss(chain *a, hx_tensor *x, bool is_segment, hx_tensor **loss) {
    hx_tensor *out[2] = {NULL};
    HX_AUTO_TENSOR s0 = NULL;
    HX_AUTO_TENSOR s1 = NULL;
    if (is_segment) OK(hx_checkpoint(&ctx, run_chain, a, &x, 1, out, 2));
    else OK(run_chain(&ctx, a, &x, out));
    OK(hx_sum(&ctx, out[0], NULL, 0, false, &s0));
    OK(hx_sum(&ctx, out[1], NULL, 0, false, &s1));
    OK(hx_add(&ctx, s0, s1, loss));
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&out[i]);
}

Test(recompute, custom_nodes_views_and_several_results_are_replayed_and_nested_segments_run_plainly) {
    chain a;
    chain_open(&a, HX_OP_tanh);
    HX_AUTO_TENSOR x = grown(HX_SHAPE(2, 3), 3);
    double want[6], got[6];
    for (int round = 0; round < 3; round++) {
        HX_AUTO_TENSOR loss = NULL;
        a.n_runs = a.n_recomputes = 0;
        a.nests = round == 2;
        hx_tensor_grad_reset(x);
        chain_loss(&a, x, round > 0, &loss);
        OK(hx_backward(&ctx, loss, NULL));
        OK(hx_tensor_read(stream, hx_tensor_grad(x), round == 0 ? want : got));
        cr_expect_eq(a.n_runs, round > 0 ? 2 : 1);
        cr_expect_eq(a.n_recomputes, round > 0 ? 1 : 0);
        if (round > 0) cr_expect_eq(memcmp(want, got, sizeof want), 0);
    }
    chain_close(&a);
}

Test(recompute, a_segment_keeps_nothing_but_its_input) {
    chain a;
    chain_open(&a, HX_OP_tanh);
    HX_AUTO_TENSOR x = grown(HX_SHAPE(2, 3), 3);
    hx_tensor *out[2] = {NULL};
    hx_device_stats before, after;
    hx_device_stats_get(dev, &before);
    OK(hx_checkpoint(&ctx, run_chain, &a, &x, 1, out, 2));
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&out[i]);
    hx_device_stats_get(dev, &after);
    cr_expect_eq(after.live_bytes, before.live_bytes);
    hx_tape_reset(tape);
    chain_close(&a);
}

Test(recompute, a_segment_off_the_path_is_not_run_again) {
    chain a;
    chain_open(&a, HX_OP_tanh);
    HX_AUTO_TENSOR x = grown(HX_SHAPE(2, 3), 3);
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR loss = NULL;
    chain_loss(&a, x, true, &loss);
    OK(hx_mul(&ctx, x, x, &y));
    OK(hx_backward(&ctx, y, NULL));
    cr_expect_eq(a.n_runs, 1);
    chain_close(&a);
}

static hx_status adds_one(void *self, hx_ctx *c, hx_tensor *grad, hx_tensor **replacement) {
    (*(int *)self)++;
    return hx_affine(c, grad, 1, 1, replacement);
}

static hx_status hooked(hx_ctx *c, void *n_calls, hx_tensor *const *in, hx_tensor **out) {
    HX_AUTO_TENSOR h = NULL;
    HX_TRY(hx_affine(c, in[0], 3, 0, &h));
    HX_TRY(hx_tape_hook(c->tape, h, adds_one, n_calls));
    return hx_unary(c, HX_OP_relu, h, out);
}

Test(recompute, hooks_inside_a_segment_run_once) {
    HX_AUTO_TENSOR x = grown(HX_SHAPE(1), 3);
    HX_AUTO_TENSOR y = NULL;
    int n_calls = 0;
    double g;
    ctx.tape = tape;
    OK(hx_tensor_fill(stream, x, 2));
    OK(hx_checkpoint(&ctx, hooked, &n_calls, &x, 1, &y, 1));
    OK(hx_backward(&ctx, y, NULL));
    OK(hx_tensor_item(stream, hx_tensor_grad(x), &g));
    cr_expect_eq(n_calls, 1);
    cr_expect_eq(g, 6); /* 3 (1 + 1) */
}

/* ---- a second run that cannot be the first ---- */

static void fails_with(chain *a, hx_tensor *x, hx_tensor *changed, hx_status code, const char *text) {
    HX_AUTO_TENSOR loss = NULL;
    chain_loss(a, x, true, &loss);
    if (changed != NULL) OK(hx_tensor_fill(stream, changed, 1));
    cr_expect_eq(hx_backward(&ctx, loss, NULL), code, "%s", text);
    cr_expect(strstr(hx_error_message(), text) != NULL, "%s", hx_error_message());
    cr_expect_eq(hx_tape_length(tape), 0);
}

Test(recompute, what_has_changed_between_the_runs_is_an_error_that_names_the_op) {
    chain a;
    chain_open(&a, HX_OP_tanh);
    HX_AUTO_TENSOR x = grown(HX_SHAPE(2, 3), 3);
    fails_with(&a, x, a.w, HX_ERR_STATE, "mul: its input 0 was changed in place");
    fails_with(&a, x, x, HX_ERR_STATE, "square: its input 0 was changed in place");
    a.branches = true;
    fails_with(&a, x, NULL, HX_ERR_STATE, "runs exp (1 inputs, 1 outputs) where it ran tanh");
    a.branches = false;
    a.stops = true;
    fails_with(&a, x, NULL, HX_ERR_STATE, "mul is missing");
    a.stops = false;
    a.fails = true;
    fails_with(&a, x, NULL, HX_ERR_IO, "the second run fails");
    a.fails = false;
    hx_tensor *kept = a.w;
    HX_AUTO_TENSOR other = grown(HX_SHAPE(2), 9);
    HX_AUTO_TENSOR loss = NULL;
    chain_loss(&a, x, true, &loss);
    a.w = other;
    cr_expect_eq(hx_backward(&ctx, loss, NULL), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "mul: its input 0 is another tensor") != NULL, "%s", hx_error_message());
    a.w = kept;
    chain_close(&a);
}

/* A bias the first time only. */
static hx_status fickle(hx_ctx *c, void *w, hx_tensor *const *in, hx_tensor **out) {
    return hx_linear_op(c, in[0], w, c->is_recompute ? NULL : in[1], out);
}

Test(recompute, an_operand_that_is_missing_the_second_time_is_an_error) {
    HX_AUTO_TENSOR x = grown(HX_SHAPE(2, 3), 3);
    HX_AUTO_TENSOR w = grown(HX_SHAPE(4, 3), 4);
    HX_AUTO_TENSOR b = grown(HX_SHAPE(4), 5);
    HX_AUTO_TENSOR y = NULL;
    ctx.tape = tape;
    OK(hx_checkpoint(&ctx, fickle, w, (hx_tensor *[]){x, b}, 2, &y, 1));
    FAILS(hx_backward(&ctx, y, NULL), HX_ERR_STATE);
    cr_expect(strstr(hx_error_message(), "linear") != NULL, "%s", hx_error_message());
}

static hx_status within(hx_ctx *c, void *arg, hx_tensor *const *in, hx_tensor **out) {
    (void)arg;
    HX_TRY(hx_mul(c, in[0], in[0], out));
    hx_status status = hx_backward(c, *out, NULL);
    if (status != HX_OK) hx_tensor_destroy(out);
    return status;
}

Test(recompute, refuses_what_makes_no_segment) {
    HX_AUTO_TENSOR x = grown(HX_SHAPE(2), 3);
    hx_tensor *in[9] = {x, x, x, x, x, x, x, x, x}, *y = NULL;
    ctx.tape = tape;
    FAILS(hx_checkpoint(&ctx, NULL, NULL, in, 1, &y, 1), HX_ERR_ARG);
    FAILS(hx_checkpoint(&ctx, within, NULL, in, 9, &y, 1), HX_ERR_ARG);
    FAILS(hx_checkpoint(&ctx, within, NULL, in, 1, &y, 0), HX_ERR_ARG);
    FAILS(hx_checkpoint(&ctx, within, NULL, in, 1, &y, 1), HX_ERR_STATE); /* backward inside of a segment */
    cr_expect_null(y);
    hx_tape_reset(tape);
}

/* ---- policies ---- */

/* What `globs` ("a, b") choose of the model around `blocks`. */
static int64_t n_chosen(hx_layer *blocks, const char *globs) {
    hx_word_list list;
    hx_recompute_report report;
    OK(hx_word_list_of(globs, &list));
    OK(hx_recompute_apply(blocks, &(hx_recompute_config){.layers = list.items, .n_layers = list.n}, NULL, NULL, &report));
    return report.n_recomputed;
}

Test(recompute, layers_are_chosen_by_pattern) {
    hx_gpt_config c = small(0);
    hx_layer *gpt;
    hx_recompute_report report;
    OK(hx_gpt_create(dev, &c, &gpt));
    hx_layer *blocks = hx_layer_find(gpt, "blocks");
    cr_expect_eq(n_chosen(blocks, "blocks.*"), 5);
    cr_expect(hx_layer_find(gpt, "blocks.4")->recompute && !hx_layer_find(gpt, "blocks.4.mlp")->recompute);
    cr_expect_eq(n_chosen(blocks, "blocks.?.mlp, *orm"), 6);
    cr_expect(!hx_layer_find(gpt, "blocks.4")->recompute && hx_layer_find(gpt, "blocks.4.mlp")->recompute && hx_layer_find(gpt, "norm")->recompute);
    cr_expect_eq(n_chosen(blocks, "*.norm?, blocks.[12].mlp"), 10 + 2); /* a star matches dots, brackets a set */
    cr_expect_eq(n_chosen(blocks, "blocks.*.mlp, blocks.3"), 4 + 1);   /* that block's mlp is run again with it */
    cr_expect(hx_layer_find(gpt, "blocks.3")->recompute && !hx_layer_find(gpt, "blocks.3.mlp")->recompute);
    cr_expect_eq(n_chosen(blocks, "*"), 1);
    cr_expect(gpt->recompute && !blocks->recompute && !hx_layer_find(gpt, "blocks.3")->recompute);
    FAILS(hx_recompute_apply(blocks, &(hx_recompute_config){.layers = (const char *[]){"block.*"}, .n_layers = 1}, NULL, NULL, &report),
          HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "block.*") != NULL);
    FAILS(hx_recompute_apply(blocks, &(hx_recompute_config){.every_n = 1, .budget_bytes = 1}, NULL, NULL, &report), HX_ERR_CONFIG);
    FAILS(hx_recompute_apply(blocks, &(hx_recompute_config){.budget_bytes = 1}, NULL, NULL, &report), HX_ERR_ARG);
    FAILS(hx_recompute_apply(gpt, &(hx_recompute_config){.every_n = 1}, NULL, NULL, &report), HX_ERR_ARG);
    hx_layer_destroy(&gpt);
}

static void apply_budget(const char *backend, int64_t budget, hx_status code, hx_recompute_report *report, int64_t *peak) {
    rig r;
    hx_device_stats before, after;
    hx_gpt_config c = small(0);
    c.layers = 8;
    rig_open(&r, backend, &c, 2);
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR y = NULL;
    hx_layer *blocks = hx_layer_find(r.gpt, "blocks");
    OK(hx_tensor_create(r.device, HX_F32, HX_SHAPE(2, c.ctx, c.dim), &x));
    OK(hx_tensor_fill(r.stream, x, 1));
    FAILS(hx_recompute_apply(blocks, &(hx_recompute_config){.budget_bytes = budget}, &r.ctx, x, report), code);
    cr_expect_eq(hx_tape_length(r.tape), 0);
    hx_device_stats_get(r.device, &before);
    OK(hx_layer_forward(blocks, &r.ctx, x, &y));
    hx_device_stats_get(r.device, &after);
    *peak = after.live_bytes - before.live_bytes;
    hx_tape_reset(r.tape);
    hx_tensor_destroy(&x);
    hx_tensor_destroy(&y);
    rig_close(&r);
}

Test(recompute, a_budget_chooses_the_fewest_blocks_that_keep_to_it) {
    hx_recompute_report all, half, none = {0}, dry;
    int64_t kept;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_backend_register(&hx_backend_meta));
    apply_budget("cpu", INT64_MAX, HX_OK, &all, &kept);
    cr_expect_eq(all.n_recomputed, 0);
    cr_expect_eq(kept, all.plain_bytes, "kept %lld, said %lld", (long long)kept, (long long)all.plain_bytes);
    apply_budget("cpu", all.plain_bytes / 2, HX_OK, &half, &kept);
    cr_expect(half.n_recomputed > 0 && half.n_recomputed < 8);
    cr_expect_leq(half.expected_bytes, all.plain_bytes / 2);
    cr_expect_leq(kept, half.expected_bytes);
    apply_budget("meta", all.plain_bytes / 2, HX_OK, &dry, &kept); /* planned without computing: the same */
    cr_expect_eq(memcmp(&dry, &half, sizeof half), 0);
    printf("budget %lld of %lld bytes: %lld of %lld blocks, %lld expected\n", (long long)all.plain_bytes / 2, (long long)all.plain_bytes,
           (long long)half.n_recomputed, (long long)half.n_blocks, (long long)half.expected_bytes);
    apply_budget("cpu", 1000, HX_ERR_CONFIG, &none, &kept);
    cr_expect(strstr(hx_error_message(), "8 blocks recomputed") != NULL, "%s", hx_error_message());
}

Test(recompute, a_sequence_that_has_grown_says_so) {
    hx_layer *layers[2], *sequence, *more;
    HX_AUTO_TENSOR x = normal(HX_SHAPE(2, 3), 1);
    hx_tensor *y = NULL;
    for (int i = 0; i < 2; i++) OK(hx_activation_create(dev, HX_OP_tanh, &layers[i]));
    OK(hx_sequential_create_consume(dev, layers, 2, &sequence));
    OK(hx_sequential_set_recompute(sequence, INT64_MAX));
    OK(hx_layer_forward(sequence, &ctx, x, &y));
    hx_tensor_destroy(&y);
    OK(hx_activation_create(dev, HX_OP_tanh, &more));
    OK(hx_layer_add_consume(sequence, "2", &more));
    FAILS(hx_layer_forward(sequence, &ctx, x, &y), HX_ERR_STATE);
    FAILS(hx_sequential_set_recompute(sequence, -1), HX_ERR_ARG);
    hx_layer_destroy(&sequence);
}

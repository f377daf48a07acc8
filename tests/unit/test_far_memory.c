/* A device whose memory the host cannot touch (tests/support/far.h) gives the same bits as the cpu device, whose kernels
 * it runs, in everything a training run does; what still reached into device memory from the host would crash. */
#include "tests/unit/test_ckpt_fixture.h"

#include <signal.h>

#include "backends/backends.h"
#include "core/analysis/grad_flow.h"
#include "core/autograd/gradcheck.h"
#include "core/nn/state_dict.h"
#include "core/optim/ema.h"
#include "core/train/loss_model.h"
#include "core/train/metrics.h"
#include "io/data/npy.h"
#include "tests/support/far.h"
#include "tests/support/saved.h"
#include "tests/support/small_run.h"

static void open_all(void) {
    fixture_open();
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_backend_register(&hx_backend_far));
}

TestSuite(far_memory, .init = open_all, .fini = fixture_close);

/* ---- training ---- */

/* All of a run's state in one row of bytes, read through its checkpoint. */
typedef struct outcome {
    char *bytes; /* owned */
    int64_t n, capacity;
    double loss, eval[2];
    float logits[256];
} outcome;

static void outcome_free(outcome *o) { hx_mem_free((void **)&o->bytes); }

static void read_params(small_run *run, outcome *o) {
    for (int64_t i = 0; i < run->params.n_items; i++) {
        const hx_tensor *value = run->params.items[i]->value;
        const int64_t n_bytes = (int64_t)hx_tensor_bytes(value);
        OK(hx_mem_grow((void **)&o->bytes, &o->capacity, o->n + n_bytes, 1));
        OK(hx_tensor_read(run->stream, value, o->bytes + o->n));
        o->n += n_bytes;
    }
}

static void read_logits(small_run *run, outcome *o) {
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR last = NULL;
    HX_AUTO_TENSOR wide = NULL;
    hx_ctx ctx = {.device = run->device, .stream = run->stream};
    OK(hx_tensor_create(run->device, HX_I32, HX_SHAPE(1, 5), &ids));
    OK(hx_tensor_write(run->stream, ids, (int32_t[]){72, 101, 108, 105, 120}));
    OK(hx_layer_forward(run->gpt, &ctx, ids, &logits));
    OK(hx_tensor_slice(logits, 1, 4, 5, 1, &last));
    OK(hx_cast(&ctx, last, HX_F32, &wide));
    cr_assert_eq(hx_tensor_count(wide), 256);
    OK(hx_tensor_read(run->stream, wide, o->logits));
}

static void measure(small_run *run, outcome *o) {
    const hx_model model = {.self = run->gpt, .root = run->gpt, .loss = hx_lm_loss};
    const hx_ctx ctx = {.device = run->device, .stream = run->stream};
    OK(hx_eval_share(&ctx, &model, &run->source, 2, NULL, NULL, o->eval));
    read_logits(run, o);
    read_params(run, o);
    o->loss = hx_trainer_state(run->trainer)->last_loss;
}

static void save(small_run *run) {
    hx_ckpt *ckpt;
    hx_state_list list = {0};
    OK(hx_trainer_items(run->trainer, &list));
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    OK(hx_ckpt_save(ckpt, hx_trainer_state(run->trainer), &list, false));
    hx_ckpt_close(&ckpt);
    hx_state_list_destroy(&list);
}

static void load(small_run *run) {
    hx_state_list list = {0};
    OK(hx_trainer_items(run->trainer, &list));
    OK(hx_ckpt_load(comm, folder, &list, hx_trainer_state(run->trainer)));
    hx_state_list_destroy(&list);
}

static void train(small_run *run, int n_steps) {
    for (int i = 0; i < n_steps; i++) OK(hx_trainer_step(run->trainer, NULL));
}

static void expect_same(const outcome *a, const outcome *b, const char *what) {
    cr_expect_eq(a->loss, b->loss, "%s: loss %.17g and %.17g", what, a->loss, b->loss);
    cr_expect(memcmp(a->eval, b->eval, sizeof a->eval) == 0, "%s: evaluation", what);
    cr_expect(memcmp(a->logits, b->logits, sizeof a->logits) == 0, "%s: logits", what);
    cr_assert(a->n == b->n && a->n > 0);
    cr_expect(memcmp(a->bytes, b->bytes, (size_t)a->n) == 0, "%s: parameters", what);
}

/* Six steps on the cpu device; three on one device, a checkpoint, and three on the other. */
static void check_run(small_run_config c) {
    static const char *const ways[][2] = {{"far", "far"}, {"far", "cpu"}, {"cpu", "far"}};
    HX_CLEANUP(outcome_free) outcome want = {0};
    small_run run;
    c.n_threads = 2;
    c.batch = 6;
    c.micro_batch = 4;
    c.steps = 6;
    c.lr = 1e-2;
    c.device = "cpu";
    small_run_open(&run, comm, __FILE__, &c);
    train(&run, 6);
    measure(&run, &want);
    small_run_close(&run);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        HX_CLEANUP(outcome_free) outcome got = {0};
        for (int half = 0; half < 2; half++) {
            c.device = ways[w][half];
            small_run_open(&run, comm, __FILE__, &c);
            if (half == 1) load(&run);
            train(&run, 3);
            if (half == 0) save(&run);
            else measure(&run, &got);
            small_run_close(&run);
        }
        cr_log_info("%s then %s", ways[w][0], ways[w][1]);
        expect_same(&got, &want, ways[w][0]);
    }
}

Test(far_memory, a_run_gives_the_cpu_devices_bits_before_and_after_a_checkpoint) {
    check_run((small_run_config){0});
}

Test(far_memory, so_does_a_run_in_bf16_with_masters_averages_and_recomputation) {
    check_run((small_run_config){.dtype = 2, .ema = 0.9, .recompute = 1});
}

/* ---- checkpoints ---- */

/* Two boxes of columns over one storage, as q and k are held: pieces of more than the staging buffer, cut unevenly. */
/* The thread that copies reads device memory beside the kernels of the next step. */
Test(far_memory, saves_beside_training_hold_the_bits_of_their_step) {
    for (int way = 0; way < SAVED_WAYS; way++) {
        small_run run;
        hx_ckpt *ckpt;
        hx_checkpoint_hook hook;
        saved_open(comm, folder, way, &ckpt, &hook);
        small_run_open(&run, comm, __FILE__, &(small_run_config){.dtype = 2, .batch = 6, .micro_batch = 4, .steps = 3, .lr = 1e-2, .ema = 0.9,
                                                                 .device = "far", .checkpoint = &hook, .save_every = 1});
        OK(hx_trainer_run(run.trainer));
        small_run_close(&run);
        hx_ckpt_close(&ckpt);
    }
    saved_compare(folder, "far", 1, 3);
}

Test(far_memory, a_checkpoint_moves_large_tensors_in_pieces) {
    const int64_t rows = 3001, left = 700, columns = 2203, n = rows * columns;
    const hx_box boxes[2] = {{.start = {0, left}, .extent = {rows, columns - left}},
                             {.extent = {rows, left}, .local = rows * (columns - left)}};
    hx_device *device;
    hx_stream *stream;
    HX_AUTO_TENSOR t = NULL;
    hx_layout layout;
    hx_ckpt *ckpt;
    hx_train_state state = {.step = 1};
    float *a = malloc((size_t)n * sizeof *a), *b = calloc((size_t)n, sizeof *b);
    OK(hx_device_open("far", NULL, &device));
    OK(hx_stream_create(device, &stream));
    OK(hx_tensor_create(device, HX_F32, HX_SHAPE(n), &t));
    OK(hx_layout_boxes(&HX_SHAPE(rows, columns), boxes, 2, &layout));
    hx_state_item item = {
        .name = "/model/w", .dtype = HX_F32, .layout = &layout, .data = hx_tensor_data(t), .device = device, .n_replicas = 1};
    const hx_state_list list = {.items = &item, .n_items = 1};
    for (int64_t i = 0; i < n; i++) a[i] = (float)i;
    OK(hx_tensor_write(stream, t, a));
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    OK(hx_ckpt_save(ckpt, &state, &list, false));
    hx_ckpt_close(&ckpt);
    OK(hx_tensor_fill(stream, t, -1));
    OK(hx_ckpt_load(comm, folder, &list, &state));
    OK(hx_tensor_read(stream, t, b));
    cr_expect(memcmp(a, b, (size_t)n * sizeof *a) == 0);
    item.device = NULL; /* the same file in the host's memory: what was written does not depend on where it came from */
    item.data = b;
    memset(b, 0, (size_t)n * sizeof *b);
    OK(hx_ckpt_load(comm, folder, &list, &state));
    cr_expect(memcmp(a, b, (size_t)n * sizeof *a) == 0);
    hx_layout_destroy(&layout);
    hx_tensor_destroy(&t);
    hx_stream_destroy(&stream);
    hx_device_close(&device);
    free(a);
    free(b);
}

/* ---- the rest of the library that looks at values ---- */

static hx_ctx far_open(void) {
    hx_ctx ctx = {.seed = 7};
    OK(hx_device_open("far", NULL, &ctx.device));
    OK(hx_stream_create(ctx.device, &ctx.stream));
    return ctx;
}

static void far_close(hx_ctx *ctx) {
    hx_stream_destroy(&ctx->stream);
    hx_device_close(&ctx->device);
}

static hx_status square(hx_ctx *ctx, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out) {
    (void)arg, (void)n_in;
    return hx_mul(ctx, in[0], in[0], out);
}

Test(far_memory, gradients_are_checked_there) {
    hx_ctx ctx = far_open();
    double worst = 1;
    HX_AUTO_TENSOR x = NULL;
    OK(hx_tensor_create(ctx.device, HX_F64, HX_SHAPE(3), &x));
    OK(hx_tensor_write(ctx.stream, x, (double[]){0.5, -2, 3}));
    hx_tensor_set_requires_grad(x, true);
    OK(hx_gradcheck(&ctx, square, NULL, &x, 1, &worst));
    cr_expect_lt(worst, 1e-8);
    hx_tensor_destroy(&x);
    far_close(&ctx);
}

Test(far_memory, tensors_are_printed_and_go_to_files_and_back) {
    hx_ctx ctx = far_open();
    char path[512], text[256];
    float got[6];
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR turned = NULL;
    HX_AUTO_TENSOR back = NULL;
    OK(hx_tensor_create(ctx.device, HX_F32, HX_SHAPE(2, 3), &x));
    OK(hx_tensor_write(ctx.stream, x, (float[]){1, 2, 3, 4, 5, 6}));
    OK(hx_tensor_transpose(x, 0, 1, &turned));
    OK(hx_tensor_print(ctx.stream, turned, text, sizeof text, NULL));
    cr_expect(strstr(text, "[1, 4]"), "%s", text);
    snprintf(path, sizeof path, "%s/x.npy", folder);
    OK(hx_npy_save(ctx.stream, turned, path));
    OK(hx_npy_load(ctx.device, ctx.stream, path, &back));
    OK(hx_tensor_read(ctx.stream, back, got));
    cr_expect(memcmp(got, (float[]){1, 4, 2, 5, 3, 6}, sizeof got) == 0);
    hx_tensor_destroy(&x);
    hx_tensor_destroy(&turned);
    hx_tensor_destroy(&back);
    far_close(&ctx);
}

Test(far_memory, a_layer_is_initialised_measured_and_copied_there) {
    hx_ctx ctx = far_open();
    hx_layer *a, *b;
    hx_device *cpu;
    hx_grad_flow flow;
    hx_state_dict dict = {0}, copy = {0};
    OK(hx_device_open("cpu", NULL, &cpu));
    OK(hx_linear_create(ctx.device, HX_F32, 4, 3, true, &a));
    OK(hx_linear_create(ctx.device, HX_F32, 4, 3, true, &b));
    OK(hx_param_init(a->params[0], ctx.stream, 7, HX_INIT_TRUNC_NORMAL, 1));
    OK(hx_param_init(a->params[1], ctx.stream, 7, HX_INIT_NORMAL, 1));
    OK(hx_state_dict_get(a, ctx.stream, cpu, &copy));
    OK(hx_state_dict_load(b, ctx.stream, &copy, 0, NULL));
    OK(hx_state_dict_get(b, ctx.stream, NULL, &dict));
    for (int64_t i = 0; i < dict.n_items; i++) {
        float x[12], y[12];
        OK(hx_tensor_read(ctx.stream, dict.items[i].tensor, x));
        OK(hx_tensor_read(ctx.stream, a->params[i]->value, y));
        cr_expect(memcmp(x, y, hx_tensor_bytes(dict.items[i].tensor)) == 0, "%s", dict.items[i].name);
    }
    OK(hx_grad_flow_measure(&ctx, a, 1, &flow));
    cr_expect_eq(flow.items[0].kind, HX_FLOW_NO_GRADIENT);
    hx_grad_flow_destroy(&flow);
    hx_state_dict_destroy(&dict);
    hx_state_dict_destroy(&copy);
    hx_layer_destroy(&a);
    hx_layer_destroy(&b);
    hx_device_close(&cpu);
    far_close(&ctx);
}

Test(far_memory, metrics_count_scores_from_there) {
    hx_ctx ctx = far_open();
    hx_metrics *metrics;
    HX_AUTO_TENSOR scores = NULL;
    HX_AUTO_TENSOR targets = NULL;
    OK(hx_metrics_create(&(hx_metrics_config){.n_classes = 2}, &metrics));
    OK(hx_tensor_create(ctx.device, HX_F32, HX_SHAPE(2, 2), &scores));
    OK(hx_tensor_create(ctx.device, HX_I32, HX_SHAPE(2), &targets));
    OK(hx_tensor_write(ctx.stream, scores, (float[]){0, 1, 0, 1}));
    OK(hx_tensor_write(ctx.stream, targets, (int32_t[]){1, 0}));
    OK(hx_metrics_update(metrics, ctx.stream, scores, targets));
    cr_expect_eq(hx_metrics_value(metrics, 0, NULL), 0.5, "accuracy");
    hx_metrics_destroy(&metrics);
    hx_tensor_destroy(&scores);
    hx_tensor_destroy(&targets);
    far_close(&ctx);
}

/* ---- the device itself keeps its word ---- */

Test(far_memory, the_host_cannot_touch_it, .signal = SIGSEGV) {
    signal(SIGSEGV, SIG_DFL); /* a sanitizer would report it in its own way */
    hx_ctx ctx = far_open();
    HX_AUTO_TENSOR x = NULL;
    OK(hx_tensor_create(ctx.device, HX_F32, HX_SHAPE(4), &x));
    OK(hx_tensor_fill(ctx.stream, x, 1));
    *(volatile float *)hx_tensor_data(x) = 2;
}

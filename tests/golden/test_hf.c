/* Hugging Face's folders: a tiny GPT-2 and a tiny LLaMA give PyTorch's logits, go out again bit for bit, and what Helix cannot compute is
 * refused. The folders are made by hf/make.py. */
#define _GNU_SOURCE
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/optim/optim.h"
#include "io/ckpt/ckpt.h"
#include "io/ckpt/hf.h"
#include "tests/golden/golden.h"
#include "tests/support/expect.h"

static char folder[256]; /* the test's own */
static const char *const kinds[] = {"gpt2", "llama"};
enum { N_KINDS = 2 };

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}
static void open_folder(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/helix-hf-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(folder));
}
static void remove_folder(void) { nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS); }
TestSuite(hf, .init = open_folder, .fini = remove_folder);

/* Of the test's own folder; used up by the second call after. */
static const char *in_folder(const char *name) {
    static char paths[2][512];
    static int turn;
    char *path = paths[turn ^= 1];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}
static const char *fixture(const char *kind) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", HELIX_GOLDEN_HF, kind);
    return path;
}

static hx_hf_import *import(const char *path, hx_dtype dtype) {
    hx_hf_import *in = NULL;
    MUST(hx_hf_import_open(path, dtype, &in));
    return in;
}

/* A checkpoint of what is imported. */
static void save(const hx_hf_import *in, const char *where, char file[HX_PATH_BYTES]) {
    const hx_ckpt_config config = HX_CKPT_DEFAULT;
    const hx_train_state state = {.best_loss = INFINITY};
    hx_comm *self;
    hx_ckpt *ckpt;
    MUST(hx_comm_self_open(&self));
    MUST(hx_ckpt_open(self, where, &config, "", &ckpt));
    MUST(hx_ckpt_save(ckpt, &state, hx_hf_import_items(in), false));
    hx_ckpt_close(&ckpt);
    hx_comm_close(&self);
    MUST(hx_ckpt_resolve(where, file));
}

/* The values that a checkpoint would be written from, in pieces of odd lengths. */
static void *values_of(const hx_state_item *item) {
    int64_t n = hx_shape_count(&item->layout->shape);
    size_t size = hx_dtype_bytes(item->dtype);
    void *values;
    MUST(hx_mem_alloc((size_t)n * size, &values));
    for (int64_t at = 0, step = 1; at < n; at += step, step = step * 2 + 1) {
        if (step > n - at) step = n - at;
        MUST(item->produce(item->source, at, step, (char *)values + (size_t)at * size));
    }
    return values;
}

static void expect_same(const hx_hf_import *a, const hx_hf_import *b) {
    const hx_state_list *x = hx_hf_import_items(a), *y = hx_hf_import_items(b);
    cr_assert_eq(x->n_items, y->n_items);
    for (int64_t i = 0; i < x->n_items; i++) {
        const hx_state_item *p = &x->items[i], *q = &y->items[i];
        void *v = values_of(p), *w = values_of(q);
        cr_expect_str_eq(p->name, q->name);
        cr_expect_eq(p->dtype, q->dtype);
        cr_assert(hx_shape_equal(&p->layout->shape, &q->layout->shape));
        cr_expect_eq(memcmp(v, w, (size_t)hx_shape_count(&p->layout->shape) * hx_dtype_bytes(p->dtype)), 0, "%s has other bits", p->name);
        hx_mem_free(&v);
        hx_mem_free(&w);
    }
    for (int i = 0; i < hx_gpt_n_options; i++) {
        char one[HX_OPTION_TEXT], other[HX_OPTION_TEXT];
        hx_option_format(&hx_gpt_options[i], hx_hf_import_config(a), one, sizeof one);
        hx_option_format(&hx_gpt_options[i], hx_hf_import_config(b), other, sizeof other);
        cr_expect_str_eq(one, other, "model.%s", hx_gpt_options[i].name);
    }
}

/* ---- logits ---- */

/* The checkpoint's tensors into a model. */
static void load(hx_layer *gpt, golden_rig *rig, const char *file) {
    hx_param_list params = {0};
    hx_state_list items = {0};
    hx_comm *self;
    hx_train_state state;
    MUST(hx_layer_params(gpt, &params));
    MUST(hx_params_state(&params, NULL, &items));
    MUST(hx_stream_sync(rig->stream));
    MUST(hx_comm_self_open(&self));
    MUST(hx_ckpt_load(self, file, &items, &state));
    cr_expect_eq(state.step, 0);
    hx_comm_close(&self);
    hx_state_list_destroy(&items);
    hx_param_list_destroy(&params);
}

static double worst_logit(golden_rig *rig, hx_layer *gpt, const char *kind) {
    char path[600];
    hx_safetensors *st;
    const hx_st_tensor *given, *want;
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR logits = NULL;
    hx_ctx ctx = rig->ctx;
    double worst = 0;
    ctx.training = false;
    snprintf(path, sizeof path, "%s/logits.safetensors", fixture(kind));
    MUST(hx_safetensors_open(path, &st));
    MUST(hx_safetensors_get(st, "ids", &given));
    MUST(hx_safetensors_get(st, "logits", &want));
    MUST(hx_tensor_create(rig->device, HX_I32, given->shape, &ids));
    MUST(hx_tensor_write(rig->stream, ids, given->data));
    MUST(hx_layer_forward(gpt, &ctx, ids, &logits));
    int64_t n = hx_tensor_count(logits);
    cr_assert_eq(n, hx_shape_count(&want->shape));
    float *got = malloc((size_t)n * sizeof *got), w;
    MUST(hx_tensor_read(rig->stream, logits, got));
    for (int64_t i = 0; i < n; i++) {
        memcpy(&w, (const float *)want->data + i, sizeof w);
        double d = fabs((double)got[i] - (double)w);
        if (!(d <= worst)) worst = d;
    }
    free(got);
    hx_safetensors_close(&st);
    return worst;
}

static void compare_logits(const char *kind, const char *backend) {
    char file[HX_PATH_BYTES];
    golden_rig rig;
    hx_layer *gpt;
    golden_open(backend, &rig);
    hx_hf_import *in = import(fixture(kind), HX_DTYPE_COUNT);
    save(in, in_folder(kind), file);
    MUST(hx_gpt_create(rig.device, hx_hf_import_config(in), &gpt));
    load(gpt, &rig, file);
    double worst = worst_logit(&rig, gpt, kind);
    cr_expect_lt(worst, 1e-4, "%s on %s: a logit is off by %g", kind, backend, worst);
    cr_log_info("%s on %s: logits differ by at most %.1e", kind, backend, worst);
    hx_layer_destroy(&gpt);
    hx_hf_import_close(&in);
    golden_close(&rig);
}

Test(hf, gpt2_gives_the_logits_of_pytorch) { compare_logits("gpt2", "ref"); }
Test(hf, gpt2_gives_the_logits_of_pytorch_on_cpu) { compare_logits("gpt2", "cpu"); }
Test(hf, llama_gives_the_logits_of_pytorch) { compare_logits("llama", "ref"); }
Test(hf, llama_gives_the_logits_of_pytorch_on_cpu) { compare_logits("llama", "cpu"); }

/* ---- in and out again ---- */

static void export(const char *file, const hx_gpt_config *config, const char *where, int64_t shard_bytes) {
    hx_comm *self;
    hx_hf_export *out;
    int64_t n;
    char path[600];
    MUST(hx_comm_self_open(&self));
    MUST(hx_hf_export_open(self, file, config, false, HX_DTYPE_COUNT, &out));
    const hx_st_tensor *tensors = hx_hf_export_tensors(out, &n);
    cr_assert_eq(mkdir(where, 0777), 0);
    snprintf(path, sizeof path, "%s/config.json", where);
    MUST(hx_hf_config_write(path, config));
    MUST(hx_safetensors_write(where, tensors, n, NULL, 0, shard_bytes, hx_hf_export_produce, out));
    hx_hf_export_close(&out);
    hx_comm_close(&self);
}

/* Every tensor that is written is one of the fixture, with the fixture's bits. */
static void expect_fixture(const char *kind, const char *where, size_t prefix) {
    hx_safetensors *theirs, *ours;
    MUST(hx_safetensors_open(fixture(kind), &theirs));
    MUST(hx_safetensors_open(where, &ours));
    cr_expect_gt(hx_safetensors_count(ours), 20);
    for (int64_t i = 0; i < hx_safetensors_count(ours); i++) {
        const hx_st_tensor *t = hx_safetensors_at(ours, i), *same = hx_safetensors_find(theirs, t->name + prefix);
        cr_assert(same != NULL, "%s", t->name);
        cr_expect(same->dtype == t->dtype && hx_shape_equal(&same->shape, &t->shape), "%s", t->name);
        cr_expect_eq(memcmp(t->data, same->data, (size_t)hx_shape_count(&t->shape) * hx_dtype_bytes(t->dtype)), 0, "%s has other bits", t->name);
    }
    hx_safetensors_close(&ours);
    hx_safetensors_close(&theirs);
}

Test(hf, what_is_exported_is_what_was_imported) {
    for (int k = 0; k < N_KINDS; k++) {
        char file[HX_PATH_BYTES];
        hx_hf_import *in = import(fixture(kinds[k]), HX_DTYPE_COUNT);
        save(in, in_folder(kinds[k]), file);
        const char *where = in_folder(k == 0 ? "out-gpt2" : "out-llama");
        export(file, hx_hf_import_config(in), where, 10000);
        expect_fixture(kinds[k], where, k == 0 ? strlen("transformer.") : 0);
        hx_hf_import *again = import(where, HX_DTYPE_COUNT);
        expect_same(in, again);
        hx_hf_import_close(&again);
        hx_hf_import_close(&in);
    }
}

Test(hf, half_types_are_kept_bit_for_bit) {
    static const hx_dtype halves[] = {HX_BF16, HX_F16};
    for (int k = 0; k < N_KINDS; k++)
        for (int h = 0; h < 2; h++) {
            char file[HX_PATH_BYTES], name[64];
            hx_hf_import *in = import(fixture(kinds[k]), halves[h]);
            snprintf(name, sizeof name, "%s-%s", kinds[k], hx_dtype_name(halves[h]));
            save(in, in_folder(name), file);
            strcat(name, "-out");
            const char *where = in_folder(name);
            export(file, hx_hf_import_config(in), where, 1 << 30);
            hx_hf_import *again = import(where, HX_DTYPE_COUNT);
            cr_expect_eq(hx_hf_import_items(again)->items[0].dtype, halves[h]);
            expect_same(in, again);
            hx_hf_import_close(&again);
            hx_hf_import_close(&in);
        }
}

/* Every shape of a family that Helix has: its tables name each tensor of the model, and it goes out and in again. */
static void round_trip(int which, void (*change)(hx_gpt_config *c)) {
    char name[64], file[HX_PATH_BYTES];
    golden_rig rig;
    hx_layer *gpt;
    hx_param_list params = {0};
    hx_state_list items = {0};
    hx_gpt_config c = HX_GPT_DEFAULT;
    const hx_ckpt_config config = HX_CKPT_DEFAULT;
    const hx_train_state state = {.best_loss = INFINITY};
    hx_comm *self;
    hx_ckpt *ckpt;
    c.vocab = 19, c.ctx = 5, c.layers = 3, c.dim = 12, c.heads = 2;
    change(&c);
    golden_open("ref", &rig);
    MUST(hx_gpt_create(rig.device, &c, &gpt));
    MUST(hx_gpt_init(gpt, rig.stream, 3));
    MUST(hx_layer_params(gpt, &params));
    MUST(hx_params_state(&params, NULL, &items));
    MUST(hx_stream_sync(rig.stream));
    MUST(hx_comm_self_open(&self));
    snprintf(name, sizeof name, "made-%d", which);
    MUST(hx_ckpt_open(self, in_folder(name), &config, "", &ckpt));
    MUST(hx_ckpt_save(ckpt, &state, &items, false));
    hx_ckpt_close(&ckpt);
    MUST(hx_ckpt_resolve(in_folder(name), file));
    strcat(name, "-out");
    const char *where = in_folder(name);
    export(file, &c, where, 1 << 20);
    hx_hf_import *in = import(where, HX_DTYPE_COUNT);
    const hx_state_list *got = hx_hf_import_items(in);
    cr_assert_eq(got->n_items, items.n_items, "%d: %lld tensors, expected %lld", which, (long long)got->n_items, (long long)items.n_items);
    MUST(hx_ckpt_open(self, in_folder("again"), &config, "", &ckpt));
    MUST(hx_ckpt_save(ckpt, &state, got, false));
    hx_ckpt_close(&ckpt);
    for (int64_t i = 0; i < items.n_items; i++) { /* the model's memory, over which the imported values are read, keeps its bits */
        const hx_state_item *item = &items.items[i];
        size_t n_bytes = (size_t)hx_layout_count(item->layout) * hx_dtype_bytes(item->dtype);
        void *before;
        const hx_state_list one = {.items = &items.items[i], .n_items = 1};
        hx_train_state unused;
        MUST(hx_mem_alloc(n_bytes, &before));
        char *at = (char *)item->data + (size_t)item->layout->boxes[0].local * hx_dtype_bytes(item->dtype);
        memcpy(before, at, n_bytes);
        memset(at, 0x5a, n_bytes);
        MUST(hx_ckpt_load(self, in_folder("again"), &one, &unused));
        cr_expect_eq(memcmp(before, at, n_bytes), 0, "%d: %s has other bits", which, item->name);
        hx_mem_free(&before);
    }
    hx_hf_import_close(&in);
    hx_comm_close(&self);
    hx_state_list_destroy(&items);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&gpt);
    golden_close(&rig);
    remove_folder();
    cr_assert_eq(mkdir(folder, 0777), 0);
}

static void be_gpt2(hx_gpt_config *c) { c->activation = 0; }
static void be_gpt2_untied(hx_gpt_config *c) { c->tied = false, c->activation = 1, c->mlp_ratio = 3; }
static void be_gpt2_wide(hx_gpt_config *c) { c->mlp_dim = 31, c->activation = 3, c->dtype = 1; }
static void be_llama(hx_gpt_config *c) {
    c->norm = 1, c->positions = 1, c->mlp = 1, c->mlp_dim = 20;
    c->bias = c->tied = false;
}
static void be_llama_grouped(hx_gpt_config *c) { be_llama(c), c->heads = 6, c->kv_heads = 2, c->dtype = 2; }
static void be_llama_tied(hx_gpt_config *c) { be_llama(c), c->tied = true, c->kv_heads = 1, c->mlp_dim = 0; }

Test(hf, every_shape_of_both_families_goes_out_and_in) {
    void (*const shapes[])(hx_gpt_config *c) = {be_gpt2, be_gpt2_untied, be_gpt2_wide, be_llama, be_llama_grouped, be_llama_tied};
    for (int i = 0; i < (int)(sizeof shapes / sizeof *shapes); i++) round_trip(i, shapes[i]);
}

Test(hf, a_model_of_neither_family_is_refused_by_the_option) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.bias = false;
    REFUSED(hx_hf_config_write(in_folder("config.json"), &c), HX_ERR_UNSUPPORTED, "expected bias = true");
    be_llama(&c);
    c.positions = 0;
    REFUSED(hx_hf_config_write(in_folder("config.json"), &c), HX_ERR_UNSUPPORTED, "expected positions = rotary");
    c = (hx_gpt_config)HX_GPT_DEFAULT;
    c.kv_heads = 2;
    REFUSED(hx_hf_config_write(in_folder("config.json"), &c), HX_ERR_UNSUPPORTED, "kv_heads = 2");
    cr_expect_neq(access(in_folder("config.json"), F_OK), 0);
}

/* ---- what is refused ---- */

static char *text_of(const char *path) {
    static char text[8192];
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s", path);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    return text;
}

/* The fixture's config.json with one text in the place of another; its weights are links. */
static const char *changed(const char *kind, const char *from, const char *to) {
    char path[600];
    const char *where = in_folder("changed");
    snprintf(path, sizeof path, "%s/config.json", fixture(kind));
    char *text = text_of(path), *at = strstr(text, from);
    cr_assert(at != NULL, "%s", from);
    cr_assert(mkdir(where, 0777) == 0 || access(where, F_OK) == 0);
    snprintf(path, sizeof path, "%s/config.json", where);
    FILE *f = fopen(path, "w");
    cr_assert(f);
    fprintf(f, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    fclose(f);
    return where;
}

static const struct {
    const char *kind, *from, *to;
    hx_status code;
    const char *words;
} configs[] = {
    {"gpt2", "\"gpt2\"", "\"bert\"", HX_ERR_UNSUPPORTED, "model_type = \"bert\""},
    {"gpt2", "\"model_type\": \"gpt2\",", "", HX_ERR_UNSUPPORTED, "model_type = (missing)"},
    {"gpt2", "gelu_new", "tanh", HX_ERR_UNSUPPORTED, "activation_function = \"tanh\""},
    {"gpt2", "\"n_inner\": null", "\"scale_attn_by_inverse_layer_idx\": true", HX_ERR_UNSUPPORTED, "scale_attn_by_inverse_layer_idx = true"},
    {"gpt2", "\"n_inner\": null", "\"scale_attn_weights\": false", HX_ERR_UNSUPPORTED, "scale_attn_weights = false"},
    {"gpt2", "\"n_inner\": null", "\"add_cross_attention\": true", HX_ERR_UNSUPPORTED, "add_cross_attention = true"},
    {"gpt2", "\"n_inner\": null", "\"quantization_config\": {\"bits\": 4}", HX_ERR_UNSUPPORTED, "quantization_config = {\"bits\":4}"},
    {"gpt2", "\"n_layer\": 2", "\"n_layer\": 2.0", HX_ERR_FORMAT, "n_layer = 2.0: expected a whole number"},
    {"gpt2", "\"n_layer\": 2", "\"n_layer\": 4611686018427387904", HX_ERR_FORMAT, "layers = 4.61"},
    {"gpt2", "\"n_layer\": 2", "\"n_layer\": -1", HX_ERR_FORMAT, "n_layer = -1: expected a whole number >= 1"},
    {"gpt2", "\"n_layer\": 2,", "", HX_ERR_FORMAT, "n_layer is missing"},
    {"gpt2", "\"n_layer\": 2", "\"n_layer\": 3", HX_ERR_MISMATCH, "h.2.ln_1.weight"},
    {"gpt2", "\"n_layer\": 2", "\"n_layer\": 1", HX_ERR_UNSUPPORTED, "h.1."},
    {"gpt2", "\"n_head\": 2", "\"n_head\": 3", HX_ERR_FORMAT, "heads = 3 does not divide"},
    {"gpt2", "\"n_head\": 2", "\"n_head\": 0", HX_ERR_FORMAT, "n_head = 0"},
    {"gpt2", "\"n_inner\": null", "\"n_inner\": 0", HX_ERR_FORMAT, "n_inner = 0"},
    {"gpt2", "\"n_embd\": 16", "\"n_embd\": 32", HX_ERR_MISMATCH, "[256,32]"},
    {"gpt2", "\"n_layer\": 2", "\"n_layer\": 2, \"n_layer\": 2", HX_ERR_FORMAT, "duplicate"},
    {"gpt2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": 1", HX_ERR_FORMAT, "expected true or false"},
    {"gpt2", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", HX_ERR_MISMATCH, "lm_head.weight"},
    {"llama", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}", HX_ERR_UNSUPPORTED, "rope_scaling = {"},
    {"llama", "\"rope_scaling\": null", "\"rope_parameters\": {\"rope_type\": \"llama3\"}", HX_ERR_UNSUPPORTED, "rope_parameters = {"},
    {"llama", "\"attention_bias\": false", "\"attention_bias\": true", HX_ERR_UNSUPPORTED, "attention_bias = true"},
    {"llama", "\"attention_bias\": false", "\"mlp_bias\": true", HX_ERR_UNSUPPORTED, "mlp_bias = true"},
    {"llama", "\"attention_bias\": false", "\"head_dim\": 8", HX_ERR_UNSUPPORTED, "head_dim = 8"},
    {"llama", "\"silu\"", "\"gelu\"", HX_ERR_UNSUPPORTED, "hidden_act = \"gelu\""},
    {"llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", HX_ERR_FORMAT, "kv_heads = 3"},
    {"llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", HX_ERR_MISMATCH, "k_proj.weight is [8,16]"},
    {"llama", "\"rope_theta\": 5000.0", "\"rope_theta\": \"5000\"", HX_ERR_FORMAT, "expected a number"},
    {"llama", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", HX_ERR_MISMATCH, "lm_head.weight is not"},
};

Test(hf, what_would_change_the_function_is_refused_by_name) {
    char from[600], to[600];
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        hx_hf_import *in = NULL;
        const char *where = changed(configs[i].kind, configs[i].from, configs[i].to);
        static const char *const files[] = {"model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
                                            "model-00002-of-00002.safetensors"};
        for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
            snprintf(from, sizeof from, "%s/%s", fixture(configs[i].kind), files[f]);
            snprintf(to, sizeof to, "%s/%s", where, files[f]);
            unlink(to);
            if (access(from, F_OK) == 0) cr_assert_eq(symlink(from, to), 0);
        }
        REFUSED(hx_hf_import_open(where, HX_DTYPE_COUNT, &in), configs[i].code, configs[i].words);
        cr_assert(strstr(hx_error_message(), where), "%s", hx_error_message());
        cr_assert_null(in);
    }
}

Test(hf, newer_keys_that_say_the_same_are_read) {
    hx_gpt_config c;
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", changed("llama", "\"rope_theta\": 5000.0",
                                                         "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 700}, \"head_dim\": 4"));
    MUST(hx_hf_config_read(path, &c));
    cr_expect_eq(c.rope_base, 700);
    cr_expect_eq(c.kv_heads, 2);
    snprintf(path, sizeof path, "%s/config.json", changed("llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4"));
    MUST(hx_hf_config_read(path, &c));
    cr_expect_eq(c.kv_heads, 0, "as many as heads");
}

/* ---- tensors ---- */

typedef struct edit {
    const hx_safetensors *from;
    const hx_st_tensor *tensors;
} edit;

static hx_status produce_copy(void *self, int64_t i, int64_t offset, int64_t n_bytes, void *out) {
    const edit *e = self;
    memcpy(out, (const char *)e->tensors[i].data + offset, (size_t)n_bytes);
    return HX_OK;
}

/* GPT-2's tensors with one more or one changed, in a folder of their own. */
static const char *with_tensor(const char *name, hx_dtype dtype, hx_shape shape, const void *data) {
    char path[600], config[600];
    const char *where = in_folder("edited");
    hx_safetensors *st;
    hx_st_tensor tensors[64];
    MUST(hx_safetensors_open(fixture("gpt2"), &st));
    int64_t n = hx_safetensors_count(st), at = n;
    for (int64_t i = 0; i < n; i++) {
        tensors[i] = *hx_safetensors_at(st, i);
        if (strcmp(tensors[i].name, name) == 0) at = i;
    }
    tensors[at] = (hx_st_tensor){name, dtype, shape, data};
    if (at == n) n++;
    cr_assert(mkdir(where, 0777) == 0 || access(where, F_OK) == 0);
    snprintf(path, sizeof path, "%s/model.safetensors", where);
    MUST(hx_safetensors_write(path, tensors, n, NULL, 0, 0, produce_copy, &(edit){st, tensors}));
    snprintf(path, sizeof path, "%s/config.json", fixture("gpt2"));
    snprintf(config, sizeof config, "%s/config.json", where);
    (void)!symlink(path, config);
    hx_safetensors_close(&st);
    return where;
}

Test(hf, a_tensor_that_does_not_belong_is_refused_by_name) {
    static const float zeros[4096 * 4];
    static const struct {
        const char *name;
        hx_dtype dtype;
        hx_shape shape;
        hx_status code;
        const char *words;
    } tensors[] = {
        {"h.0.attn.gate", HX_F32, {1, {4}}, HX_ERR_UNSUPPORTED, "h.0.attn.gate is none of a model"},
        {"h.2.attn.bias.x", HX_F32, {1, {4}}, HX_ERR_UNSUPPORTED, "h.2.attn.bias.x"},
        {"wte.weight", HX_F32, {2, {256, 15}}, HX_ERR_MISMATCH, "wte.weight is [256,15]"},
        {"ln_f.bias", HX_BF16, {1, {16}}, HX_ERR_MISMATCH, "a model has one element type"},
        {"ln_f.bias", HX_I32, {1, {16}}, HX_ERR_MISMATCH, "ln_f.bias is i32"},
        {"lm_head.weight", HX_F32, {2, {256, 16}}, HX_ERR_MISMATCH, "lm_head.weight is not wte.weight"},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        hx_hf_import *in = NULL;
        const char *where = with_tensor(tensors[i].name, tensors[i].dtype, tensors[i].shape, zeros);
        REFUSED(hx_hf_import_open(where, HX_DTYPE_COUNT, &in), tensors[i].code, tensors[i].words);
    }
    hx_hf_import *in = import(with_tensor("ln_f.bias", HX_BF16, (hx_shape){1, {16}}, zeros), HX_F32); /* told which */
    hx_hf_import_close(&in);
}

Test(hf, buffers_and_a_tied_head_that_is_the_embedding_are_left_out) {
    hx_hf_import *in = import(fixture("gpt2"), HX_DTYPE_COUNT), *again;
    void *tok = values_of(&hx_hf_import_items(in)->items[0]);
    again = import(with_tensor("lm_head.weight", HX_F32, (hx_shape){2, {256, 16}}, tok), HX_DTYPE_COUNT);
    expect_same(in, again);
    hx_mem_free(&tok);
    hx_hf_import_close(&again);
    hx_hf_import_close(&in);
}

Test(hf, items_whose_values_are_made_cannot_be_read_into) {
    char file[HX_PATH_BYTES];
    hx_comm *self;
    hx_train_state state;
    hx_hf_import *in = import(fixture("llama"), HX_DTYPE_COUNT);
    save(in, in_folder("ckpt"), file);
    MUST(hx_comm_self_open(&self));
    REFUSED(hx_ckpt_load(self, file, hx_hf_import_items(in), &state), HX_ERR_ARG, "/model/tok.weight is made by a function");
    hx_hf_import_close(&in);
    hx_comm_close(&self);
}

Test(hf, averages_that_are_not_there_are_not_exported) {
    char file[HX_PATH_BYTES];
    hx_comm *self;
    hx_hf_export *out = NULL;
    hx_hf_import *in = import(fixture("gpt2"), HX_DTYPE_COUNT);
    save(in, in_folder("ckpt"), file);
    hx_gpt_config c = *hx_hf_import_config(in);
    MUST(hx_comm_self_open(&self));
    REFUSED(hx_hf_export_open(self, file, &c, true, HX_DTYPE_COUNT, &out), HX_ERR_CONFIG, "holds no averages");
    c.layers = 1;
    REFUSED(hx_hf_export_open(self, file, &c, false, HX_DTYPE_COUNT, &out), HX_ERR_MISMATCH, "holds 36 tensors of a model");
    c.layers = 2, c.vocab = 255;
    REFUSED(hx_hf_export_open(self, file, &c, false, HX_DTYPE_COUNT, &out), HX_ERR_MISMATCH, "/model/tok.weight is [256,16]");
    hx_hf_import_close(&in);
    hx_comm_close(&self);
}

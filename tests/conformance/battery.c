#include "tests/conformance/battery.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/compose.h"

/* ---- devices ---- */

void conf_rig_open(const char *backend, int n_threads, conf_rig *out) {
    *out = (conf_rig){0};
    MUST(hx_register_backends());
    MUST(hx_device_open(backend, &(hx_device_config){.n_threads = n_threads}, &out->device));
    MUST(hx_stream_create(out->device, &out->stream));
    out->ctx = (hx_ctx){.device = out->device, .stream = out->stream, .training = true, .seed = conf_seed()};
    hx_device_props_get(out->device, &out->props);
}

void conf_rig_close(conf_rig *rig) {
    hx_stream_destroy(&rig->stream);
    hx_device_close(&rig->device);
}

/* A backend without its device, as CUDA on a machine without a GPU, is passed over with a line that says so; without a
 * line if HELIX_TEST_BACKEND names another. The one that it names has to be there. */
static bool computes(const char *name) {
    hx_device *device = NULL;
    hx_device_props props;
    const char *only = getenv("HELIX_TEST_BACKEND");
    if (strcmp(name, "ref") == 0 || (only != NULL && strcmp(name, only) != 0)) return false;
    hx_status status = hx_device_open(name, NULL, &device);
    NEED(status != HX_ERR_DEVICE || only == NULL, "HELIX_TEST_BACKEND=%s: %s", only, hx_error_message());
    if (status == HX_ERR_DEVICE) {
        printf("skipped: %s: %s\n", name, hx_error_message());
        return false;
    }
    NEED(status == HX_OK, "%s", hx_error_message());
    hx_device_props_get(device, &props);
    hx_device_close(&device);
    return !props.is_dry;
}

const char *conf_backend(int i) {
    static const char *names[16];
    static int n_names = -1;
    if (n_names < 0) {
        MUST(hx_register_backends());
        n_names = 0;
        for (int k = 0; hx_backend_at(k) != NULL && n_names < 16; k++)
            if (computes(hx_backend_at(k)->name)) names[n_names++] = hx_backend_at(k)->name;
    }
    return i < n_names ? names[i] : NULL;
}

static uint64_t seed_in_use;
static bool has_seed;

static void set_seed(uint64_t seed) {
    if (!has_seed || seed != seed_in_use) fprintf(stderr, "HELIX_TEST_SEED=%llu\n", (unsigned long long)seed); /* stdout may be read by a program */
    seed_in_use = seed;
    has_seed = true;
}

bool conf_seed_use(int i) {
    const char *text = getenv("HELIX_TEST_SEED");
    if (i >= (text ? 1 : 3)) return false;
    set_seed(text ? strtoull(text, NULL, 10) : (uint64_t)i + 1);
    return true;
}

void conf_on_every_backend(void (*body)(conf_rig *rig, hx_dtype dtype)) {
    for (int b = -1; b < 0 || conf_backend(b) != NULL; b++)
        for (int d = 0; d < 2; d++) {
            conf_rig rig;
            conf_rig_open(b < 0 ? "ref" : conf_backend(b), 2, &rig);
            body(&rig, d == 0 ? HX_F32 : HX_F64);
            conf_rig_close(&rig);
        }
}

uint64_t conf_seed(void) {
    if (!has_seed) conf_seed_use(0);
    return seed_in_use;
}

/* ---- operands ---- */

/* The dtype that a word's first letter names; HX_DTYPE_COUNT if it names none. */
static hx_dtype letter_dtype(char letter, hx_dtype dtype) {
    static const char letters[HX_DTYPE_COUNT] = {[HX_F32] = 'f', [HX_F64] = 'd', [HX_I32] = 'i', [HX_I64] = 'l',
                                                 [HX_U8] = 'b', [HX_BF16] = 'h', [HX_F16] = 'g', [HX_I8] = 'c',
                                                 [HX_BOOL] = 'o', [HX_C64] = 'z', [HX_C128] = 'w'};
    if (letter == 0) return dtype;
    if (letter == 'a') return hx_dtype_accum(dtype);
    if (letter == 'x') return hx_dtype_complex(hx_dtype_accum(dtype));
    int k = 0;
    while (k < HX_DTYPE_COUNT && letters[k] != letter) k++;
    return (hx_dtype)k;
}

void conf_operand_parse(const char *word, hx_dtype dtype, conf_operand *out) {
    bool is_named = *word && letter_dtype(*word, dtype) != HX_DTYPE_COUNT;
    *out = (conf_operand){.letter = is_named ? *word++ : 0};
    out->dtype = letter_dtype(out->letter, dtype);
    while (isdigit((unsigned char)*word)) {
        out->shape.dims[out->shape.ndim++] = strtoll(word, (char **)&word, 10);
        if (*word == ',') word++;
    }
    if (*word == '.') word++;
    out->view = *word;
    out->base = out->shape;
    int64_t *dims = out->base.dims;
    int n = out->base.ndim;
    if (out->view == 't') {
        dims[n - 2] = out->shape.dims[n - 1];
        dims[n - 1] = out->shape.dims[n - 2];
    }
    if (out->view == 's') dims[n - 1] *= 2;
    if (out->view == 'h') dims[n - 2] *= 2;
    if (out->view == 'e') dims[0] = 1;
    if (out->view == 'u') out->base = HX_SHAPE(hx_shape_count(&out->shape) + 1);
    NEED(out->view == 0 || (strchr("tsheu", out->view) && word[1] == 0), "operand \"%s\"", word);
}

/* The elements from the second on, in the operand's shape. */
static hx_status shifted(hx_ctx *ctx, const conf_operand *operand, hx_tensor *base, hx_tensor **view) {
    HX_AUTO_TENSOR rest = NULL;
    HX_TRY(hx_slice(ctx, base, 0, 1, hx_tensor_count(base), 1, &rest));
    return hx_reshape(ctx, rest, operand->shape, view);
}

hx_status conf_operand_view(hx_ctx *ctx, const conf_operand *operand, hx_tensor *base, hx_tensor **view) {
    int64_t whole = hx_tensor_dim(base, -1);
    switch (operand->view) {
    case 't':
        return hx_transpose(ctx, base, -2, -1, view);
    case 's':
        return hx_slice(ctx, base, -1, 0, whole, 2, view);
    case 'h':
        return hx_slice(ctx, base, -2, 0, hx_tensor_dim(base, -2) / 2, 1, view);
    case 'e':
        return hx_expand(ctx, base, operand->shape, view);
    case 'u':
        return shifted(ctx, operand, base, view);
    default:
        *view = hx_tensor_retain(base);
        return HX_OK;
    }
}

/* float64 values that an element is written as. */
static int64_t n_parts(hx_dtype dtype) { return hx_dtype_is_complex(dtype) ? 2 : 1; }

/* Host bytes of n elements in a dtype, to be freed. */
static void *to_bytes(hx_dtype dtype, const double *values, int64_t n) {
    char *bytes = malloc((size_t)n * hx_dtype_bytes(dtype) + 1);
    NEED(bytes, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        bool is_complex = hx_dtype_is_complex(dtype);
        double part[2] = {values[is_complex ? 2 * i : i], is_complex ? values[2 * i + 1] : 0};
        hx_elem_set_complex(dtype, bytes, i, part);
    }
    return bytes;
}

void conf_operand_upload(conf_rig *rig, const conf_operand *operand, hx_tensor **base) {
    void *bytes = to_bytes(operand->dtype, operand->values, hx_shape_count(&operand->base));
    MUST(hx_tensor_create(rig->device, operand->dtype, operand->base, base));
    MUST(hx_tensor_write(rig->stream, *base, bytes));
    free(bytes);
}

/* 0.3, 0.6, 0.9, 1.2, 1.2 1.25, 1.2 1.25^2, ...: a gradient check's step is a tenth of max(1, |x|). */
static double size_apart(uint64_t j) {
    return j < 4 ? 0.3 * (double)(j + 1) : 1.2 * pow(1.25, (double)j - 3);
}

static double apart(uint64_t i) {
    uint64_t j = (i * 37 + 11) % 64;
    return j % 2 ? -size_apart(j / 2) : size_apart(j / 2);
}

static double draw(const conf_case *c, const conf_operand *operand, int k, hx_rng rng, uint64_t i) {
    double u = hx_rng_uniform(rng, i);
    if (operand->dtype == HX_BOOL) return u < 0.5;
    if (hx_dtype_is_int(operand->dtype) && c->n_ids == 0) return floor(16 * u) - 8;
    if (hx_dtype_is_int(operand->dtype)) {
        static const double wild[] = {-1, HX_IGNORE_INDEX, INT32_MAX};
        uint64_t bits = hx_rng_bits(rng, i) & 0xff; /* the lowest bits, which u does not see */
        if (c->wild_ids && bits < 64) return bits % 4 == 3 ? (double)c->n_ids : wild[bits % 4];
        return floor(u * (double)c->n_ids);
    }
    switch (c->range) {
    case CONF_POSITIVE:
        return 0.5 + 1.5 * u;
    case CONF_UNIT:
        return 1.8 * u - 0.9;
    case CONF_OFF_KINKS:
        return floor(4 * u) - 2 + 0.3 + 0.4 * k;
    case CONF_WIDE:
        return 2e4 * u - 1e4;
    case CONF_APART:
        return apart(i);
    case CONF_SIZES:
        return i % 2 ? -size_apart((i * 21 + 11) % 32) : size_apart((i * 21 + 11) % 32);
    case CONF_ABOVE_ONE:
        return 1.5 + 1.5 * u;
    case CONF_HALF:
        return u - 0.5;
    case CONF_STEPS:
        return (double)((i * 7 + 3) % 16) * 0.25 - 1.875;
    default:
        return 4 * u - 2;
    }
}

static void fill_random(const conf_case *c, conf_operand *operand, int k) {
    int64_t n = hx_shape_count(&operand->base) * n_parts(operand->dtype);
    hx_rng rng = {conf_seed(), hx_rng_stream(HX_RNG_USER, (uint64_t)c->op * 64 + (uint64_t)k)};
    operand->values = malloc((size_t)n * sizeof(double) + 1);
    NEED(operand->values, "out of memory");
    for (int64_t i = 0; i < n; i++) operand->values[i] = draw(c, operand, k, rng, (uint64_t)i);
}

static hx_op forward_of(hx_op op) {
    static const hx_op forward[][2] = {{HX_OP_layernorm_bwd, HX_OP_layernorm},
                                       {HX_OP_rmsnorm_bwd, HX_OP_rmsnorm},
                                       {HX_OP_batchnorm_bwd, HX_OP_batchnorm},
                                       {HX_OP_attention_bwd, HX_OP_attention},
                                       {HX_OP_cross_entropy_bwd, HX_OP_cross_entropy}};
    for (size_t i = 0; i < sizeof forward / sizeof *forward; i++)
        if (forward[i][0] == op) return forward[i][1];
    NEED(false, "%s has no forward op", hx_op_info_get(op)->name);
    return op;
}

/* Views of all operands on the rig's device; bases and views are the caller's. */
static void upload_all(conf_rig *rig, const conf_operands *in, int n, hx_tensor **bases, hx_tensor **views) {
    for (int k = 0; k < n; k++) {
        if (in->items[k].is_again) bases[k] = hx_tensor_retain(bases[in->items[k].again]);
        else conf_operand_upload(rig, &in->items[k], &bases[k]);
        MUST(conf_operand_view(&rig->ctx, &in->items[k], bases[k], &views[k]));
    }
}

static void destroy_all(hx_tensor **tensors, int n) {
    for (int k = 0; k < n; k++) hx_tensor_destroy(&tensors[k]);
}

/* Operand k is output `which` of the forward op on the first operands that it takes. */
static void make_forward(conf_rig *ref, const conf_case *c, conf_operands *in, int which, conf_operand *out) {
    hx_op op = forward_of(c->op);
    int n_in = hx_op_info_get(op)->n_required;
    hx_tensor *bases[HX_OP_MAX_IN], *views[HX_OP_MAX_IN], *results[HX_OP_MAX_OUT] = {NULL};
    upload_all(ref, in, n_in, bases, views);
    MUST(hx_op_run(&ref->ctx, op, views, n_in, &c->attr, 0, results));
    *out = (conf_operand){.dtype = hx_tensor_dtype(results[which]), .is_made = true, .shape = hx_tensor_shape(results[which])};
    out->base = out->shape;
    int64_t n = hx_tensor_count(results[which]) * n_parts(out->dtype);
    void *bytes = malloc((size_t)n * sizeof(double) + 1);
    out->values = malloc((size_t)n * sizeof(double) + 1);
    NEED(bytes && out->values, "out of memory");
    MUST(hx_tensor_read(ref->stream, results[which], bytes));
    for (int64_t i = 0; i < n; i++) out->values[i] = hx_elem_get(hx_dtype_real(out->dtype), bytes, i);
    free(bytes);
    destroy_all(results, HX_OP_MAX_OUT);
    destroy_all(views, n_in);
    destroy_all(bases, n_in);
}

void conf_operands_make(conf_rig *ref, const conf_case *c, hx_dtype dtype, conf_operands *out) {
    char words[256], *rest;
    *out = (conf_operands){0};
    snprintf(words, sizeof words, "%s", c->in);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest), out->n++) {
        conf_operand *operand = &out->items[out->n];
        if (*word == '@') {
            make_forward(ref, c, out, atoi(word + 1), operand);
        } else if (*word == '=') {
            int again = atoi(word + 1);
            *operand = out->items[again];
            operand->is_again = true;
            operand->again = again;
            operand->values = NULL;
        } else {
            conf_operand_parse(word, dtype, operand);
            fill_random(c, operand, out->n);
        }
    }
}

static bool follows_run(const conf_operand *operand) {
    return !operand->is_made && (operand->letter == 0 || operand->letter == 'a' || operand->letter == 'x');
}

void conf_operands_retype(const conf_case *c, conf_operands *in, hx_dtype dtype) {
    for (int k = 0; k < in->n; k++) {
        conf_operand *operand = &in->items[k];
        if (!follows_run(operand)) continue;
        operand->dtype = dtype;
        if (operand->is_again) continue;
        free(operand->values);
        fill_random(c, operand, k);
    }
}

void conf_operands_free(conf_operands *operands) {
    for (int k = 0; k < operands->n; k++) free(operands->items[k].values);
    *operands = (conf_operands){0};
}

bool conf_case_has(const conf_case *c, const conf_operands *in, hx_dtype dtype) {
    char words[256], *rest;
    bool found = false;
    for (int k = 0; k < in->n; k++) found = found || hx_dtype_real(in->items[k].dtype) == dtype;
    snprintf(words, sizeof words, "%s", c->out ? c->out : "");
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        found = found || hx_dtype_real(letter_dtype(isalpha((unsigned char)*word) ? *word : 0, dtype)) == dtype;
    return found;
}

/* ---- running ---- */

static hx_status infer(const conf_case *c, const conf_operands *in, bool as_f32, hx_op_meta *meta) {
    const hx_op_info *info = hx_op_info_get(c->op);
    hx_op_args args = {.op = c->op, .name = info->name, .n_in = in->n, .attr = &c->attr};
    for (int k = 0; k < in->n; k++) {
        const conf_operand *operand = &in->items[k];
        bool changes = as_f32 && follows_run(operand);
        args.in[k] = (hx_op_meta){operand->shape, changes ? letter_dtype(operand->letter, HX_F32) : operand->dtype, true};
    }
    return info->infer(&args, meta);
}

/* What the outputs are: written in the case, or what the shape rule says. */
static void describe_outputs(const conf_case *c, hx_dtype dtype, const conf_operands *in, conf_operand *out, int *n_out) {
    hx_op_meta meta[HX_OP_MAX_OUT] = {0};
    int n = 0;
    if (c->out) {
        char words[256], *rest;
        snprintf(words, sizeof words, "%s", c->out);
        for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
            conf_operand_parse(word, dtype, &out[n++]);
    } else {
        if (infer(c, in, false, meta) != HX_OK) MUST(infer(c, in, true, meta));
        for (; n < hx_op_info_get(c->op)->n_out; n++)
            out[n] = (conf_operand){.dtype = meta[n].dtype, .shape = meta[n].shape, .base = meta[n].shape};
    }
    *n_out = n;
}

/* A buffer with guards, 0xFF all over but for the random numbers a case asks for; and the output inside. */
static void make_output(conf_rig *rig, const conf_case *c, int k, conf_operand *operand, hx_tensor **buffer,
                        hx_tensor **view) {
    int64_t n = hx_shape_count(&operand->base);
    size_t item = hx_dtype_bytes(operand->dtype), n_bytes = (size_t)(n + 2 * CONF_GUARD) * item;
    unsigned char *bytes = malloc(n_bytes);
    hx_tensor *window;
    NEED(bytes, "out of memory");
    memset(bytes, 0xFF, n_bytes);
    if (c->fills) {
        conf_case positive = *c;
        positive.range = CONF_POSITIVE; /* second moments are */
        fill_random(&positive, operand, HX_OP_MAX_IN + k);
        void *values = to_bytes(operand->dtype, operand->values, n);
        memcpy(bytes + CONF_GUARD * item, values, (size_t)n * item);
        free(values);
        free(operand->values);
    }
    MUST(hx_tensor_create(rig->device, operand->dtype, HX_SHAPE(n + 2 * CONF_GUARD), buffer));
    MUST(hx_tensor_write(rig->stream, *buffer, bytes));
    MUST(hx_tensor_window(*buffer, CONF_GUARD, operand->base, &window));
    MUST(conf_operand_view(&rig->ctx, operand, window, view));
    hx_tensor_destroy(&window);
    free(bytes);
}

void conf_call_make(conf_rig *rig, const conf_case *c, hx_dtype dtype, const conf_operands *in, conf_call *out) {
    conf_operand described[HX_OP_MAX_OUT];
    *out = (conf_call){.c = c, .n_in = in->n};
    describe_outputs(c, dtype, in, described, &out->n_out);
    upload_all(rig, in, in->n, out->bases, out->views);
    for (int k = 0; k < out->n_out; k++) make_output(rig, c, k, &described[k], &out->buffers[k], &out->outputs[k]);
}

hx_status conf_call_run(conf_rig *rig, conf_call *call) {
    HX_TRY(hx_op_run(&rig->ctx, call->c->op, call->views, call->n_in, &call->c->attr, call->c->skip, call->outputs));
    return hx_stream_sync(rig->stream);
}

void conf_call_read(conf_rig *rig, const conf_call *call, conf_result *out) {
    *out = (conf_result){.n_out = call->n_out};
    for (int k = 0; k < call->n_out; k++) {
        const hx_tensor *buffer = call->buffers[k];
        out->out[k].dtype = hx_tensor_dtype(buffer);
        out->out[k].n = hx_tensor_count(buffer);
        out->out[k].bytes = malloc(hx_tensor_bytes(buffer) + 1);
        NEED(out->out[k].bytes, "out of memory");
        MUST(hx_tensor_read(rig->stream, buffer, out->out[k].bytes));
    }
}

void conf_call_free(conf_call *call) {
    destroy_all(call->outputs, HX_OP_MAX_OUT);
    destroy_all(call->buffers, HX_OP_MAX_OUT);
    destroy_all(call->views, call->n_in);
    destroy_all(call->bases, call->n_in);
}

hx_status conf_run(conf_rig *rig, const conf_case *c, hx_dtype dtype, const conf_operands *in,
                   conf_result *out) {
    conf_call call;
    *out = (conf_result){0};
    conf_call_make(rig, c, dtype, in, &call);
    hx_status status = conf_call_run(rig, &call);
    if (status == HX_OK && !rig->props.is_dry) conf_call_read(rig, &call, out);
    conf_call_free(&call);
    return status;
}

void conf_result_free(conf_result *result) {
    for (int k = 0; k < result->n_out; k++) free(result->out[k].bytes);
    *result = (conf_result){0};
}

/* ---- judging ---- */

const char *conf_case_text(const conf_case *c, hx_dtype dtype, char *text, size_t n_bytes) {
    snprintf(text, n_bytes, "%s(%s)%s%s %s", hx_op_info_get(c->op)->name, c->in, c->out ? " -> " : "",
             c->out ? c->out : "", hx_dtype_name(dtype));
    return text;
}

static double half_epsilon(hx_dtype dtype) { return dtype == HX_F16 ? 0x1p-10 : dtype == HX_BF16 ? 0x1p-7 : 0; }

/* What the other rounding may add where a result is of a half type: ref rounds the exact value, kernels round what
 * they computed in f32. Two values however near may round to neighbours, one unit apart, and no farther. */
static double rounding_slack(hx_dtype dtype, double want) {
    if (!hx_dtype_is_half(dtype)) return 0;
    return fmax(half_epsilon(dtype) * fabs(want) * 1.01, dtype == HX_F16 ? 0x1p-24 : 0x1p-133);
}

/* `run` is the dtype of the run: in half runs kernels compute, and sum, in f32; what is f32 or half in any run, too. */
static bool is_close(const conf_case *c, hx_dtype run, hx_dtype dtype, double want, double got) {
    const conf_tolerance_rule *rule = &conf_tolerances[c->tolerance];
    bool is_single = hx_dtype_real(run) != HX_F64 || dtype == HX_F32 || hx_dtype_is_half(dtype);
    double epsilon = is_single ? (double)FLT_EPSILON : DBL_EPSILON;
    double ulps = rule->ulps + (c->tolerance >= CONF_SUM ? (double)c->terms : 0);
    if (want == got || (isnan(want) && isnan(got))) return true;
    double units = ulps * epsilon + rule->half_units * sqrt((double)c->terms) * half_epsilon(dtype);
    double near = units * fmax(rule->floor, fabs(want));
    return fabs(want - got) <= near + rounding_slack(dtype, want);
}

static bool is_close_element(const conf_case *c, hx_dtype run, hx_dtype dtype, const void *want, const void *got) {
    double x[2], y[2];
    hx_elem_get_complex(dtype, want, 0, x);
    hx_elem_get_complex(dtype, got, 0, y);
    hx_dtype part = hx_dtype_real(dtype);
    return is_close(c, run, part, x[0], y[0]) && is_close(c, run, part, x[1], y[1]);
}

bool conf_result_differ(const conf_case *c, hx_dtype dtype, const conf_result *want, const conf_result *got,
                        bool is_exact, char *text, size_t n_bytes) {
    for (int k = 0; k < want->n_out; k++) {
        size_t item = hx_dtype_bytes(want->out[k].dtype);
        int64_t last = want->out[k].n - CONF_GUARD;
        for (int64_t i = 0; i < want->out[k].n; i++) {
            const unsigned char *a = want->out[k].bytes + (size_t)i * item,
                                *b = got->out[k].bytes + (size_t)i * item;
            bool is_guard = i < CONF_GUARD || i >= last, is_same = memcmp(a, b, item) == 0;
            double x[2], y[2];
            hx_elem_get_complex(want->out[k].dtype, a, 0, x);
            hx_elem_get_complex(want->out[k].dtype, b, 0, y);
            if (is_same || (!is_guard && !is_exact && is_close_element(c, dtype, want->out[k].dtype, a, b))) continue;
            char name[256];
            snprintf(text, n_bytes, "%s: output %d%s element %lld is %.17g %+.17gi, expected %.17g %+.17gi (%s)",
                     conf_case_text(c, dtype, name, sizeof name), k, is_guard ? ", outside it," : "",
                     (long long)(i - CONF_GUARD), y[0], y[1], x[0], x[1],
                     is_exact ? "bit for bit" : conf_tolerances[c->tolerance].why);
            return true;
        }
    }
    return false;
}

bool conf_result_unwritten(const conf_case *c, const conf_result *result, char *text, size_t n_bytes) {
    for (int k = 0; k < result->n_out && !c->has_nan && !c->fills && !c->out; k++) {
        if (c->skip >> k & 1) continue;
        for (int64_t i = CONF_GUARD; i < result->out[k].n - CONF_GUARD; i++) {
            double x = hx_elem_get(result->out[k].dtype, result->out[k].bytes, i);
            if (!isnan(x) && !(result->out[k].dtype == HX_I64 && x < 0)) continue;
            char name[256];
            snprintf(text, n_bytes, "%s: output %d element %lld has not been written",
                     conf_case_text(c, HX_F64, name, sizeof name), k, (long long)(i - CONF_GUARD));
            return true;
        }
    }
    return false;
}

/* ---- the table that is printed ---- */

void conf_verdict_refused(conf_verdict *v, hx_status code) {
    if (v->n_refused++ > 0) return;
    v->code = code;
    snprintf(v->reason, sizeof v->reason, "%s", hx_error_message());
}

static void print_cell(const conf_verdict *v) {
    char text[32];
    if (v->n_failed) snprintf(text, sizeof text, "FAILED %d", v->n_failed);
    else if (v->n_passed) snprintf(text, sizeof text, "pass %d%s", v->n_passed, v->n_refused ? " *" : "");
    else snprintf(text, sizeof text, "%s", v->code == HX_ERR_UNSUPPORTED ? "unsupported" : "refused");
    printf(" %-11s", text);
}

void conf_verdicts_print(const char *backend, const hx_dtype *dtypes, int n_dtypes, const conf_verdict *table) {
    printf("%-20s %-8s", "op", "backend");
    for (int d = 0; d < n_dtypes; d++) printf(" %-11s", hx_dtype_name(dtypes[d]));
    printf("\n");
    for (int op = 0; op < HX_OP_COUNT; op++, table += n_dtypes) {
        const char *reason = "";
        if (hx_op_info_get((hx_op)op)->flags & HX_OP_VIEW) continue;
        printf("%-20s %-8s", hx_op_info_get((hx_op)op)->name, backend);
        for (int d = 0; d < n_dtypes; d++) {
            print_cell(&table[d]);
            if (!*reason) reason = table[d].reason;
        }
        printf(" %s\n", reason);
    }
}

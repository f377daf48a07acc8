#include <string.h>
#include "core/base/mem.h"
#include "core/nn/nn_impl.h"

/* Element g of the logical tensor with path P draws number g of the stream hash(P), wherever the element
 * lies: a slice of a tensor-parallel rank and one third of a fused projection get the values the whole tensor
 * would get.
 *
 * A kind and a scale become a plan: what to draw from, once for a logical tensor. The plan is carried out for
 * each run of elements that are consecutive both here and in the global tensor. */

#define CHUNK        4096 /* elements of host scratch at a time */
#define REDRAW_SHIFT 48   /* the k-th redraw of element g is number g + k 2^48 of its stream */

typedef struct init_plan {
    hx_ctx ctx;
    hx_rng rng;
    hx_init_kind kind; /* NORMAL, UNIFORM, TRUNC_NORMAL or ORTHOGONAL */
    double width;      /* standard deviation, half width or gain */
    double *whole;     /* owned; ORTHOGONAL: the global tensor */
} init_plan;

/* ---- plans ---- */

/* The plain kind behind one that looks at fans: width = scale sqrt(factor / (fan_in [+ fan_out])). */
typedef struct fan_rule {
    hx_init_kind kind, plain;
    double factor;
    bool counts_out;
} fan_rule;

static const fan_rule fan_rules[] = {{HX_INIT_KAIMING_NORMAL, HX_INIT_NORMAL, 1, false},
                                     {HX_INIT_KAIMING_UNIFORM, HX_INIT_UNIFORM, 3, false},
                                     {HX_INIT_XAVIER_NORMAL, HX_INIT_NORMAL, 2, true},
                                     {HX_INIT_XAVIER_UNIFORM, HX_INIT_UNIFORM, 6, true}};

static const fan_rule *fan_rule_of(hx_init_kind kind) {
    for (size_t i = 0; i < sizeof fan_rules / sizeof *fan_rules; i++)
        if (fan_rules[i].kind == kind) return &fan_rules[i];
    return NULL;
}

static void apply_fans(const fan_rule *rule, const hx_shape *shape, init_plan *plan) {
    double field = 1; /* of a kernel: what each pair of channels shares */
    for (int d = 2; d < shape->ndim; d++) field *= (double)shape->dims[d];
    double fan = field * (double)shape->dims[1];
    if (rule->counts_out) fan += field * (double)shape->dims[0];
    plan->kind = rule->plain;
    plan->width *= fan > 0 ? sqrt(rule->factor / fan) : 0;
}

static double dot(const double *a, const double *b, int64_t n, int64_t stride) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i * stride] * b[i * stride];
    return sum;
}

/* Gram-Schmidt over n vectors of `length` elements, element i of vector j at v[j * step + i * stride], n <=
 * length. Each is projected twice: once leaves an error of the order of the condition number, twice of the
 * rounding (Giraud et al. 2005). The first component along its own direction stays positive, which makes Q
 * unique. */
static void orthonormalise(double *v, int64_t n, int64_t length, int64_t step, int64_t stride) {
    for (int64_t j = 0; j < n; j++) {
        double *vj = v + j * step;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t k = 0; k < j; k++) {
                const double *vk = v + k * step, along = dot(vj, vk, length, stride);
                for (int64_t i = 0; i < length; i++) vj[i * stride] -= along * vk[i * stride];
            }
        const double norm = sqrt(dot(vj, vj, length, stride));
        for (int64_t i = 0; i < length; i++) vj[i * stride] /= norm;
    }
}

/* Every holder of a piece computes the whole: the draws are a function of the elements alone. */
static hx_status plan_orthogonal(init_plan *plan, const hx_shape *shape) {
    const int64_t n = hx_shape_count(shape), rows = shape->dims[0], columns = n > 0 ? n / rows : 0;
    HX_TRY(hx_mem_alloc_array(n, sizeof(double), (void **)&plan->whole));
    for (int64_t g = 0; g < n; g++) plan->whole[g] = hx_rng_normal(plan->rng, (uint64_t)g);
    if (rows <= columns)
        orthonormalise(plan->whole, rows, columns, columns, 1);
    else
        orthonormalise(plan->whole, columns, rows, 1, columns);
    return HX_OK;
}

static hx_status make_plan(const hx_param *param, const hx_shape *shape, init_plan *plan) {
    const fan_rule *rule = fan_rule_of(plan->kind);
    if (rule == NULL && plan->kind != HX_INIT_ORTHOGONAL) return HX_OK;
    if (shape->ndim < 2) {
        char text[HX_SHAPE_TEXT];
        return HX_FAIL(HX_ERR_SHAPE,
                       "parameter \"%s\" %s: Kaiming, Xavier and orthogonal need two dims or more",
                       param->name, hx_shape_text(shape, text));
    }
    if (rule == NULL) return plan_orthogonal(plan, shape);
    apply_fans(rule, shape, plan);
    return HX_OK;
}

/* ---- runs ---- */

static double truncated(hx_rng rng, uint64_t index) {
    for (;; index += UINT64_C(1) << REDRAW_SHIFT) {
        const double z = hx_rng_normal(rng, index);
        if (fabs(z) <= 2) return z;
    }
}

/* Kinds without a kernel are drawn on the host. */
static hx_status run_on_host(init_plan *plan, hx_tensor *window, int64_t global, int64_t n) {
    const hx_dtype dtype = hx_tensor_dtype(window);
    double chunk[CHUNK]; /* room for CHUNK elements of any floating type */
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        HX_AUTO_TENSOR part = NULL;
        for (int64_t i = 0; i < m; i++) {
            const int64_t g = global + at + i;
            const double value = plan->whole != NULL ? plan->whole[g] : truncated(plan->rng, (uint64_t)g);
            hx_elem_set(dtype, chunk, i, plan->width * value);
        }
        HX_TRY(hx_tensor_window(window, at, HX_SHAPE(m), &part));
        HX_TRY(hx_tensor_write(plan->ctx.stream, part, chunk));
    }
    return HX_OK;
}

static hx_status init_run(init_plan *plan, hx_tensor *value, int64_t local, int64_t global, int64_t n) {
    HX_AUTO_TENSOR window = NULL;
    HX_TRY(hx_tensor_window(value, local, HX_SHAPE(n), &window));
    if (plan->kind == HX_INIT_NORMAL)
        return hx_fill_normal(&plan->ctx, window, plan->rng, global, 0, plan->width);
    if (plan->kind == HX_INIT_UNIFORM)
        return hx_fill_uniform(&plan->ctx, window, plan->rng, global, -plan->width, 2 * plan->width);
    return run_on_host(plan, window, global, n);
}

/* A box falls into runs that are consecutive in the global tensor too: dims behind `inner` are whole. */
static hx_status init_box(init_plan *plan, hx_tensor *value, const hx_shape *shape, const hx_box *box) {
    int64_t strides[HX_MAX_DIMS], index[HX_MAX_DIMS] = {0}, run = 1, local = box->local;
    int inner = shape->ndim;
    hx_shape_strides(shape, strides);
    while (inner > 0) {
        inner--;
        run *= box->extent[inner];
        if (box->extent[inner] != shape->dims[inner]) break;
    }
    for (;;) {
        int64_t global = 0;
        for (int d = 0; d < shape->ndim; d++)
            global += (box->start[d] + (d < inner ? index[d] : 0)) * strides[d];
        HX_TRY(init_run(plan, value, local, global, run));
        local += run;
        int d = inner - 1;
        while (d >= 0 && ++index[d] == box->extent[d]) index[d--] = 0;
        if (d < 0) return HX_OK;
    }
}

/* ---- parameters ---- */

static hx_status init_logical(const hx_ctx *ctx, hx_param *param, const char *name, const hx_layout *layout,
                              hx_init_kind kind, double scale) {
    init_plan plan = {.ctx = *ctx, .kind = kind, .width = scale};
    hx_status status = HX_OK;
    plan.rng =
        (hx_rng){.seed = ctx->seed, .stream = hx_rng_stream(HX_RNG_INIT, hx__layer_hash(param->layer, name))};
    HX_TRY(make_plan(param, &layout->shape, &plan));
    for (int b = 0; b < layout->n_boxes; b++)
        HX_TRY_GOTO(init_box(&plan, param->value, &layout->shape, &layout->boxes[b]), done);
done:
    hx_mem_free((void **)&plan.whole);
    return status;
}

hx_status hx_param_init(hx_param *param, hx_stream *stream, uint64_t seed, hx_init_kind kind, double scale) {
    const hx_ctx ctx = {.device = param->layer->device, .stream = stream, .seed = seed};
    if ((int)kind < 0 || kind > HX_INIT_ORTHOGONAL)
        return HX_FAIL(HX_ERR_ARG, "parameter \"%s\": kind %d is no hx_init_kind", param->name, (int)kind);
    if (kind == HX_INIT_ZEROS) return hx_tensor_fill(stream, param->value, 0);
    if (kind == HX_INIT_ONES) return hx_tensor_fill(stream, param->value, 1);
    if (!isfinite(scale))
        return HX_FAIL(HX_ERR_ARG, "parameter \"%s\": scale %g: expected a finite number", param->name,
                       scale);
    if (kind == HX_INIT_CONSTANT) return hx_tensor_fill(stream, param->value, scale);
    hx_device_props props;
    hx_device_props_get(ctx.device, &props);
    if (props.is_dry) return HX_OK; /* a row that is cut has a call for each of its runs: that takes seconds, and fills nothing */
    if (param->n_parts == 0) return init_logical(&ctx, param, param->name, &param->layout, kind, scale);
    for (int i = 0; i < param->n_parts; i++)
        HX_TRY(init_logical(&ctx, param, param->parts[i].name, &param->parts[i].layout, kind, scale));
    return HX_OK;
}

hx_status hx_init_gain(hx_op activation, double slope, double *out) {
    switch (activation) {
    case HX_OP_affine:
    case HX_OP_sigmoid:
        *out = 1;
        return HX_OK;
    case HX_OP_tanh:
        *out = 5.0 / 3;
        return HX_OK;
    case HX_OP_relu:
    case HX_OP_leaky_relu:
    case HX_OP_silu:
    case HX_OP_gelu_tanh:
    case HX_OP_gelu_erf:
        *out = sqrt(2 / (1 + slope * slope));
        return HX_OK;
    default:
        return HX_FAIL(HX_ERR_ARG, "op %d: expected affine, sigmoid, tanh, relu, leaky_relu, silu or a gelu",
                       (int)activation);
    }
}

/* ---- layers ---- */

hx_status hx_layer_init(hx_layer *root, hx_stream *stream, uint64_t seed) {
    if (root == NULL) return HX_FAIL(HX_ERR_ARG, "root is NULL");
    if (root->type->init != NULL) return root->type->init(root, stream, seed);
    for (int i = 0; i < root->n_params; i++) {
        hx_param *p = root->params[i];
        const hx_init_kind kind = hx_tensor_ndim(p->value) >= 2    ? HX_INIT_KAIMING_NORMAL
                                  : strcmp(p->name, "weight") == 0 ? HX_INIT_ONES
                                                                   : HX_INIT_ZEROS;
        HX_TRY(hx_param_init(p, stream, seed, kind, sqrt(2)));
    }
    for (int i = 0; i < root->n_children; i++) HX_TRY(hx_layer_init(root->children[i], stream, seed));
    return HX_OK;
}

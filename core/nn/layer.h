/* Layers: a tree of named parameters with a forward function.
 *
 * A layer of your own embeds hx_layer as its first member, and is used through it:
 *
 *     typedef struct { hx_layer base; hx_layer *in, *out; } mlp;
 *     static hx_status mlp_forward(hx_layer *l, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) { ... }
 *     static const hx_layer_type mlp_type = {.name = "mlp", .n_bytes = sizeof(mlp), .forward = mlp_forward};
 *     hx_layer *l; HX_TRY(hx_layer_create(&mlp_type, dev, &l));
 *     HX_TRY(hx_linear_create(dev, HX_F32, &(hx_linear_config){...}, &child));
 *     HX_TRY(hx_layer_add_consume(l, "in", &child));
 */
#ifndef HX_CORE_NN_LAYER_H
#define HX_CORE_NN_LAYER_H

#include "core/op/ops.h"
#include "core/tensor/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_NAME_BYTES 128

typedef struct hx_layer hx_layer;
typedef struct hx_param hx_param;

typedef struct hx_layer_type {
    const char *name; /* "linear" */
    size_t n_bytes;   /* of the struct that embeds hx_layer */
    hx_status (*forward)(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
    void (*destroy)(hx_layer *layer); /* what the layer owns beyond parameters and children; may be NULL */
    /* Fill all parameters of the layer and of those below it. NULL: parameters of two dims or more are Kaiming-normal
     * with gain sqrt 2, of the vectors those named "weight" are 1 and the rest 0; then the children. */
    hx_status (*init)(hx_layer *layer, hx_stream *stream, uint64_t seed);
} hx_layer_type;

/* A logical tensor inside a parameter's storage: fused q, k, v are three parts of one parameter. */
typedef struct hx_param_part {
    char name[HX_NAME_BYTES]; /* replaces the parameter's own name: "q.weight"; relative to the layer */
    hx_layout layout;
} hx_param_part;

struct hx_param {
    char name[HX_NAME_BYTES]; /* relative to its layer: "weight" */
    char path[HX_NAME_BYTES]; /* from the root: "blocks.0.mlp.in.weight"; set by hx_layer_params */
    hx_tensor *value;         /* owned, contiguous; its gradient is hx_tensor_grad(value) */
    bool decays;              /* weight decay applies: matrices yes, biases and norms no */
    bool is_frozen;           /* not trained; takes effect at the next hx_layer_params */
    bool is_buffer;           /* state that is not trained but belongs to checkpoints: running statistics */
    bool is_split;            /* other ranks hold the other parts: core/nn/shard.h */
    bool is_shared;           /* ranks that all have the values update a share each (ZeRO): */
    int64_t own_begin, own_end; /* elements of the storage that this rank updates; all, unless is_shared */
    hx_tensor *own_grad;      /* gradient of these [own_end-own_begin], where the rest is not kept; borrowed. NULL: hx_tensor_grad(value) */
    bool is_partial;          /* its gradient is one of several that the ranks of a tensor-parallel group are to add up */
    hx_layout layout;         /* owned; of the whole storage, what n_parts == 0 means */
    int n_parts;              /* 0: the whole parameter is one logical tensor */
    hx_param_part *parts;     /* owned */
    hx_layer *layer;          /* where it belongs; borrowed */
};

struct hx_layer {
    const hx_layer_type *type;
    char name[HX_NAME_BYTES];
    char path[HX_NAME_BYTES]; /* from the root of the tree as it is now, "blocks.0.mlp"; "" for the root; cut if longer */
    bool recompute;           /* set by hx_layer_set_recompute */
    hx_device *device;
    hx_layer *parent;
    int n_children, n_params, n_buffers;
    int64_t children_capacity, params_capacity, buffers_capacity;
    hx_layer **children; /* owned */
    hx_param **params;   /* owned */
    hx_param **buffers;  /* owned */
};

/** A zeroed layer of that type. */
hx_status hx_layer_create(const hx_layer_type *type, hx_device *device, hx_layer **out);
/** Destroys children and parameters too. */
void hx_layer_destroy(hx_layer **layer);
/** Attach *child under a name without dots; the parent owns it from now on, also on failure. */
hx_status hx_layer_add_consume(hx_layer *layer, const char *name, hx_layer **child);
/** Give a tree that was built on another device, say on meta, where a model is described and cut (core/nn/shard.h) without memory,
 *  a place on `device`: parameters and buffers get storage there, without values. Before anything holds their tensors.
 *  @return HX_ERR_MEMORY; the tree is then of use for destruction only */
hx_status hx_layer_move(hx_layer *root, hx_device *device);
/** Create a parameter (uninitialised, asks for gradients). The layer owns it. @param decays weight decay applies */
hx_status hx_layer_param(hx_layer *layer, const char *name, hx_dtype dtype, hx_shape shape, bool decays, hx_param **out);
/** Create a buffer (uninitialised, without a gradient): named state of the layer, as a parameter that is not trained. Of a layer's
 *  state its forward may change buffers only. The layer owns it. */
hx_status hx_layer_buffer(hx_layer *layer, const char *name, hx_dtype dtype, hx_shape shape, hx_param **out);
/** Say which logical tensors a parameter's storage holds; layouts are copied. Together they must cover it. */
hx_status hx_param_set_parts(hx_param *param, int n_parts, const char *const *names, const hx_layout *layouts);
/** The layer at a path from `root`, "" for root itself; NULL if there is none. Borrowed. */
hx_layer *hx_layer_find(hx_layer *root, const char *path);
/** Run the layer. While it runs ctx->where is its path (its type's name for a root). */
hx_status hx_layer_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
/** Keep nothing of the layer's forward but x: backward runs it again (hx_checkpoint). The layer must live until the
 *  tape has been differentiated or reset. What is inside a layer that is recomputed runs plainly. */
void hx_layer_set_recompute(hx_layer *layer, bool on);

/** Number of logical tensors in a parameter's storage: n_parts, or 1. */
int hx_param_n_logical(const hx_param *param);
/** Name from the root, e.g. "blocks.0.attn.q.weight", and layout of the i-th; hx_layer_params must have set the
 *  path. @param[out] layout  borrowed from the parameter; may be NULL */
void hx_param_logical(const hx_param *param, int i, char path[HX_NAME_BYTES], const hx_layout **layout);

/** Of a tensor with the parameter's elements (its value, its gradient) those that this rank updates: the tensor itself, retained,
 *  or a window [n] of it. */
hx_status hx_param_own(const hx_param *param, hx_tensor *x, hx_tensor **out);
/** The gradient of what this rank updates, in the same way; NULL: there is none. */
hx_status hx_param_own_grad(const hx_param *param, hx_tensor **out);

typedef struct hx_param_list {
    hx_param **items; /* owned array of borrowed parameters, in order of registration, depth first */
    int64_t n_items, capacity;
} hx_param_list;

/** All parameters below a layer; sets their paths, and makes them ask for gradients unless they are frozen.
 *  @return HX_ERR_CONFIG if two logical tensors, of parameters or buffers, share a path, or one is too long */
hx_status hx_layer_params(hx_layer *root, hx_param_list *out);
/** All buffers below a layer, in the same way. */
hx_status hx_layer_buffers(hx_layer *root, hx_param_list *out);
void hx_param_list_destroy(hx_param_list *list);
/** Elements of all parameters. */
int64_t hx_param_list_count(const hx_param_list *list);

/** Freeze (or free again) the parameters all of whose logical names match `glob`, as fnmatch: `*` matches anything,
 *  dots too ("blocks.0.*"), `?` one character, [a-c] a set. A frozen parameter gets no gradient and no update.
 *  @param[out] n  logical tensors that match; 0 is no error. May be NULL
 *  @return HX_ERR_CONFIG: the glob matches some parts of a fused parameter only; nothing is changed then */
hx_status hx_layer_freeze(hx_layer *root, const char *glob, bool frozen, int64_t *n);

/** Freeze by several globs, "tok.*, blocks.0.*"; none: nothing is frozen.
 *  @param[out] n  matches of all globs; may be NULL
 *  @return HX_ERR_CONFIG: a glob that matches no name, with the names there are, or as hx_layer_freeze; what the globs
 *          before it match is frozen then */
hx_status hx_layer_freeze_list(hx_layer *root, const char *globs, int64_t *n);

/* ---- initialisation: a function of (seed, path of the logical tensor, element), not of order or layout ---- */

/* What an element is drawn from, with `scale` s. Kaiming and Xavier take their fans from the logical tensor's global
 * shape: fan_in is the product of all dims but the first, fan_out that of all dims but the second. */
typedef enum hx_init_kind {
    HX_INIT_ZEROS,
    HX_INIT_ONES,
    HX_INIT_NORMAL,          /* N(0, s^2) */
    HX_INIT_UNIFORM,         /* [-s, s) */
    HX_INIT_CONSTANT,        /* s */
    HX_INIT_TRUNC_NORMAL,    /* N(0, s^2) drawn again until within +-2s; its deviation is 0.8796 s */
    HX_INIT_KAIMING_NORMAL,  /* N(0, s^2 / fan_in); He et al. 2015 */
    HX_INIT_KAIMING_UNIFORM, /* [-b, b), b = s sqrt(3 / fan_in) */
    HX_INIT_XAVIER_NORMAL,   /* N(0, 2 s^2 / (fan_in + fan_out)); Glorot & Bengio 2010 */
    HX_INIT_XAVIER_UNIFORM,  /* [-b, b), b = s sqrt(6 / (fan_in + fan_out)) */
    HX_INIT_ORTHOGONAL       /* s Q, rows or columns (the fewer) orthonormal over dims [first, rest]; Saxe et al. 2014 */
} hx_init_kind;
/** Fill a parameter, each logical tensor of its storage as if it stood alone.
 *  @param scale  s above; for Kaiming, Xavier and orthogonal it is the gain (hx_init_gain)
 *  @return HX_ERR_SHAPE: the kind needs two dims; HX_ERR_ARG: no such kind, scale not finite */
hx_status hx_param_init(hx_param *param, hx_stream *stream, uint64_t seed, hx_init_kind kind, double scale);
/** The gain that keeps the variance through an activation: 1 for affine (none) and sigmoid, 5/3 for tanh,
 *  sqrt(2 / (1 + slope^2)) for relu, leaky_relu, silu and gelu.
 *  @param slope  of the negative side; 0 but for leaky_relu. @return HX_ERR_ARG for other ops */
hx_status hx_init_gain(hx_op activation, double slope, double *out);
/** Fill all parameters below a layer with the layers' documented defaults (hx_layer_type.init). */
hx_status hx_layer_init(hx_layer *root, hx_stream *stream, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif

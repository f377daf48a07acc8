/* The tape: ops on tensors that need gradients are recorded in order and differentiated in reverse.
 *
 *     HX_TRY(hx_tape_create(dev, &tape));
 *     hx_ctx ctx = {.device = dev, .stream = s, .tape = tape, .training = true};
 *     hx_tensor_set_requires_grad(w, true);
 *     ... loss = f(w) ...
 *     HX_TRY(hx_backward(&ctx, loss, NULL));       // hx_tensor_grad(w) holds d loss / d w
 *
 * A leaf's gradient is final when all its uses have been differentiated: then the ready hook fires, while
 * backward goes on, and a reduction over ranks can start. Weight gradients are written straight into the leaf's
 * gradient buffer (which may be a bucket's slice) by the op that produces them.
 * A leaf may be used on several tapes at a time: it is one variable on each.
 * Gradients of gradients are not offered: backward records nothing. Changing a saved tensor in place between forward
 * and backward is an error that names the op.
 *
 * Memory for time: what hx_checkpoint runs saves nothing and is run again when backward needs it.
 */
#ifndef HX_CORE_AUTOGRAD_TAPE_H
#define HX_CORE_AUTOGRAD_TAPE_H

#include "core/op/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

hx_status hx_tape_create(hx_device *device, hx_tape **out);
void hx_tape_destroy(hx_tape **tape);
/** Forget everything recorded; memory for records is kept. */
void hx_tape_reset(hx_tape *tape);
/** Called with each leaf whose gradient has become final, in the order in which that happens. A leaf that was
 *  used but received no gradient is reported too, with hx_tensor_grad_is_set false. A failure ends backward. */
typedef hx_status (*hx_ready_fn)(void *self, hx_tensor *leaf);
void hx_tape_set_ready_hook(hx_tape *tape, hx_ready_fn ready, void *self);
/** Called before backward first writes the gradient of a leaf that has none: it may give the leaf one (hx_tensor_set_grad), else the
 *  tape allocates it. NULL: always the tape. */
typedef hx_status (*hx_place_fn)(void *self, hx_tensor *leaf);
void hx_tape_set_place_hook(hx_tape *tape, hx_place_fn place, void *self);
/** Ops recorded since the last reset. */
int64_t hx_tape_length(const hx_tape *tape);

/** Differentiate. Uses up the tape: it is reset, also on failure, and a second backward is HX_ERR_STATE.
 *  @param y     recorded on ctx->tape
 *  @param seed  gradient of y, same shape; NULL means ones */
hx_status hx_backward(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed);
/** As hx_backward, but what was recorded and saved stays, so that backward can run again from this y or another one.
 *  Gradients add up in the leaves, and hooks fire again. End with hx_backward or hx_tape_reset, which give the memory
 *  back; a failure resets the tape too. */
hx_status hx_backward_retain(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed);

/** Called with the gradient of a tensor when it is complete: all uses of the tensor have been differentiated.
 *  @param ctx   records nothing
 *  @param grad  borrowed; not to be written. Of a leaf: what this backward adds to hx_tensor_grad
 *  @param[out] replacement  takes the gradient's place (consumed): same shape and dtype; NULL at entry, left so: none.
 *  A failure ends backward. */
typedef hx_status (*hx_grad_hook_fn)(void *self, hx_ctx *ctx, hx_tensor *grad, hx_tensor **replacement);
/** Hook a tensor of the recording, or a leaf that asks for gradients. Hooks run in order of registration, each on what
 *  the one before left, and last until the tape is reset. A leaf's hooks run before the ready hook. Not called if no
 *  gradient arrives. @return HX_ERR_STATE: neither recorded here nor a leaf, or called from within a backward */
hx_status hx_tape_hook(hx_tape *tape, hx_tensor *tensor, hx_grad_hook_fn fn, void *self);

/* ---- activation checkpointing ---- */

/** What a segment runs: out [n_out] from in [n_in], the same ops each time. While it is run again for backward,
 *  ctx->is_recompute is true. Results are new references, given on success only. */
typedef hx_status (*hx_checkpoint_fn)(hx_ctx *ctx, void *arg, hx_tensor *const *in, hx_tensor **out);
/** Run fn so that nothing but `in` is kept for backward; backward runs fn once more before it differentiates the
 *  segment, with the same training flag, seed, step and place in the batch, so random masks repeat. Gradients are those of a
 *  plain call, bit for bit. Parameters, inputs and other operands changed in place in between, and an fn that does
 *  something else the second time, are HX_ERR_STATE naming the op. Within another segment, and without a tape, fn is
 *  just run. A retained backward runs fn again each time.
 *  @param arg  passed on; borrowed until the tape is reset
 *  @param in   [n_in], at most HX_OP_MAX_IN, retained
 *  @param[out] out  [n_out], at most HX_OP_MAX_OUT
 *  Memory: with segments of sqrt(L) of L layers, O(sqrt(L)) instead of O(L), for one more forward
 *  Source: Chen et al. 2016 */
hx_status hx_checkpoint(hx_ctx *ctx, hx_checkpoint_fn fn, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out, int n_out);

/** x without its history: a new handle on the same storage. */
hx_status hx_detach(hx_tensor *x, hx_tensor **out);

/* ---- derivatives: what a vjp function sees ---- */

struct hx_vjp {
    hx_ctx *ctx; /* records nothing */
    const hx_op_attr *attr;
    void *user; /* custom nodes */
    int n_in, n_out;
    hx_tensor *in[HX_OP_MAX_IN];        /* saved inputs, NULL otherwise; borrowed */
    hx_tensor *out[HX_OP_MAX_OUT];      /* saved outputs, NULL otherwise; borrowed */
    hx_tensor *grad_out[HX_OP_MAX_OUT]; /* NULL: no gradient arrived; borrowed */
    hx_shape in_shape[HX_OP_MAX_IN];
    hx_dtype in_dtype[HX_OP_MAX_IN];
    hx_shape out_shape[HX_OP_MAX_OUT];
    hx_tape *tape; /* the tape's own, like the node */
    struct hx__node *node;
};

/** True if a gradient of input i is wanted. */
bool hx_vjp_wants(const hx_vjp *v, int i);
/** Where to write the gradient of input i: a contiguous tensor (borrowed) which the caller fully overwrites,
 *  or adds to when *accumulate comes back true. Call it once, right before writing. */
hx_status hx_vjp_target(hx_vjp *v, int i, hx_tensor **dst, bool *accumulate);
/** True if hx_vjp_target hands out the gradient of a leaf that has none yet, to be overwritten: writing it there spares a copy. */
bool hx_vjp_overwrites(const hx_vjp *v, int i);
/** Hand over a gradient of input i that was computed elsewhere; it may be a view, or shared. Reduces
 *  broadcast dims. Consumes *g also on failure. */
hx_status hx_vjp_give_consume(hx_vjp *v, int i, hx_tensor **g);

/** Another handle on the memory of saved input i, to write its gradient into: NULL unless it is contiguous, nobody but this
 *  node holds it, and it is not read again (the tape is not retained). The caller destroys it. Not in anomaly mode, which
 *  looks at inputs afterwards. @return HX_ERR_MEMORY */
hx_status hx_vjp_reuse(hx_vjp *v, int i, hx_tensor **out);

/* ---- nodes of your own ---- */

typedef struct hx_custom {
    const char *name; /* static storage */
    hx_status (*vjp)(hx_vjp *v);
    void *user;                  /* passed on; borrowed until backward or reset */
    unsigned saves;              /* bit i: input i; bit 8+i: output i */
} hx_custom;

/** Record that `out` [n_out] was computed from `in` [n_in] by code of the caller, run with recording off.
 *  Does nothing if the context has no tape or no input needs a gradient. */
hx_status hx_tape_record_custom(hx_ctx *ctx, const hx_custom *custom, hx_tensor *const *in, int n_in,
                                hx_tensor *const *out, int n_out);
/* The two halves of the derivative of hx_linear_op, for nodes of inputs x, w, bias around it: dx [..,K] from dy and the saved w,
 * and, given the x [..,K] of the product (not looked at if neither is wanted), the gradients of inputs 1 and 2. */
hx_status hx__vjp_linear_input(const hx_vjp *v, hx_tensor **dx);
hx_status hx__vjp_linear_params(hx_vjp *v, hx_tensor *x);
/* As above for an op of the table; called by dispatch. */
hx_status hx__tape_record(hx_ctx *ctx, hx_op op, const hx_op_attr *attr, hx_tensor *const *in, int n_in,
                          hx_tensor *const *out, int n_out);
/* True if ctx has a tape and a gradient must flow through one of the inputs. */
bool hx__tape_wants(const hx_ctx *ctx, hx_tensor *const *in, int n_in);

#ifdef __cplusplus
}
#endif
#endif

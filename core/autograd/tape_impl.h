/* What a tape is made of; inside of core/autograd: tape.c records, backward.c differentiates, recompute.c runs segments
 * again. */
#ifndef HX_CORE_AUTOGRAD_TAPE_IMPL_H
#define HX_CORE_AUTOGRAD_TAPE_IMPL_H

#include "core/autograd/tape.h"
#include "core/tensor/tensor_impl.h"

#define HX__MAX_OPERANDS (HX_OP_MAX_IN + HX_OP_MAX_OUT)
#define HX__WHERE_BYTES  128

/* A tensor through which gradients flow: a leaf, which keeps its gradient in the tensor, or an op's output, whose
 * gradient lives here until the op has been differentiated. */
typedef struct hx__variable {
    hx_tensor *leaf; /* owned; NULL for an op's output */
    hx_tensor *grad; /* owned; of an op's output, or of a leaf with hooks until it is complete */
    int32_t n_uses;  /* by recorded nodes */
    int32_t n_left;  /* of them not yet differentiated by the running backward */
    bool has_hooks;
} hx__variable;

typedef struct hx__node {
    hx_op op;
    hx_custom custom; /* name NULL: an op of the table */
    hx_op_attr attr;
    int n_in, n_out;
    unsigned saves;   /* bit i: input i; bit 8+i: output i */
    unsigned present; /* likewise: operands that were not NULL */
    int32_t segment;  /* index; -1: the node keeps what it saves */
    int32_t in_var[HX_OP_MAX_IN], out_var[HX_OP_MAX_OUT]; /* -1: no gradient flows */
    hx_shape shape[HX__MAX_OPERANDS];                     /* inputs, then outputs from HX_OP_MAX_IN on */
    hx_dtype dtype[HX__MAX_OPERANDS];
    hx_tensor *saved[HX__MAX_OPERANDS]; /* owned or NULL */
    int64_t version[HX__MAX_OPERANDS];  /* of the storage when the op ran */
    char where[HX__WHERE_BYTES];        /* layer that ran; kept in anomaly mode, else empty */
} hx__node;

/* Nodes [first, end) save nothing: fn is run again to give them what they need. */
typedef struct hx__segment {
    hx_checkpoint_fn fn;
    void *arg;
    hx_ctx ctx; /* as it was in forward */
    int n_in;
    hx_tensor *in[HX_OP_MAX_IN]; /* owned */
    int64_t first, end;
} hx__segment;

typedef struct hx__hook {
    int32_t var;
    hx_grad_hook_fn fn;
    void *self;
} hx__hook;

struct hx_tape {
    hx_device *device;
    hx__node *nodes;
    hx__variable *vars;
    hx__segment *segments;
    hx__hook *hooks;
    int64_t n_nodes, n_vars, n_segments, n_hooks;
    int64_t nodes_capacity, vars_capacity, segments_capacity, hooks_capacity;
    int32_t *leaves; /* hash from a leaf's address to its variable + 1, open addressing; 0: free */
    int64_t n_leaves, leaves_capacity;
    int64_t serial;
    bool in_segment;   /* the last segment is being recorded */
    bool is_replaying; /* ops refill nodes instead of making new ones */
    bool is_backward;
    bool is_retained;  /* the running backward leaves the nodes what they saved */
    int64_t replay_at, replay_end; /* the next node to refill, and the segment's end */
    hx_ready_fn ready;
    void *ready_self;
    hx_place_fn place;
    void *place_self;
};

/* True if x was recorded on this tape since its last reset. Serials tell recordings of one device apart. */
static inline bool hx__tape_holds(const hx_tape *tape, const hx_tensor *x) {
    return x->tape_serial == tape->serial && x->device == tape->device;
}
unsigned hx__present(hx_tensor *const *in, int n_in, hx_tensor *const *out, int n_out);
const char *hx__node_name(const hx__node *node);
void hx__node_release(hx__node *node);
/* Keep what the node's row says; nothing fails. */
void hx__node_save(hx__node *node, hx_tensor *const *in, hx_tensor *const *out);
/* The variable of x on this tape, -1 if no gradient flows. `make`: a leaf that is new here gets one. */
hx_status hx__tape_variable(hx_tape *tape, hx_tensor *x, bool make, int32_t *out);
/* What recording does while a segment is run again: the node at the cursor takes the operands over. */
hx_status hx__replay_node(hx_tape *tape, const hx__node *proto, hx_tensor *const *in, hx_tensor *const *out);
/* Run the segment of the node that backward has reached again, if that node is its last one and gradients arrived. */
hx_status hx__segment_enter(hx_ctx *quiet, hx_tape *tape, int64_t at);
/* Give the segment's inputs back after its first node, unless the tape is retained. */
void hx__segment_leave(hx_tape *tape, int64_t at, bool retain);

#endif

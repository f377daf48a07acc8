/* Each exchange is an ordinary collective on memory of the stream, and a tape node of its own where gradients flow through it:
 *   enter  forward x,            backward sum over ranks of dy   (Megatron's f)
 *   leave  forward sum of x,     backward dy                     (Megatron's g)
 * and, with positions dealt out over ranks,
 *   enter  forward all of x,     backward own part of the sum    (Korthikanti's g)
 *   leave  forward own part of the sum of x, backward all of dy  (and its conjugate)
 * Parts are of dim 1, while collectives have a block for each rank: [B,T,..] is brought to [size,B,T/size,..] by the copy that a
 * sum is taken in anyway, and what was gathered is brought back by one copy more, unless B is 1.
 * The sums of the ranks meet because all of them record the same nodes in the same order, also when a segment is run again. */
#include "dist/model/tensor.h"

#include "core/autograd/tape.h"
#include "core/base/mem.h"

struct hx_tensor_parallel {
    hx_comm *comm;
    hx_shard shard;
};

/* A contiguous copy, also where x is contiguous and of that dtype. */
static hx_status copy_as(hx_ctx *quiet, hx_tensor *x, hx_dtype dtype, hx_tensor **out) {
    const hx_op_attr attr = {.copy = {dtype}};
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(quiet, HX_OP_copy, &x, 1, &attr, 0, &y));
    *out = y;
    return HX_OK;
}

/* y = sum of x over the ranks, in x's dtype. Half types travel as f32: communicators do not add them, as each of the sums
 * would be rounded. */
static hx_status sum_over_ranks(const hx_tensor_parallel *tp, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    hx_ctx quiet = hx_no_grad(ctx);
    const hx_dtype dtype = hx_tensor_dtype(x), wide_dtype = hx_dtype_accum(dtype);
    HX_AUTO_TENSOR wide = NULL;
    HX_TRY(copy_as(&quiet, x, wide_dtype, &wide)); /* contiguous, and x stays as it is */
    HX_TRY(hx_comm_all_reduce(tp->comm, hx_tensor_data(wide), hx_tensor_count(wide), wide_dtype, HX_SUM, ctx->stream, NULL));
    if (dtype != wide_dtype) return hx_cast(&quiet, wide, dtype, y);
    *y = hx_tensor_move(&wide);
    return HX_OK;
}

static hx_status enter_backward(hx_vjp *v) {
    hx_tensor *sum;
    HX_TRY(sum_over_ranks(v->user, v->ctx, v->grad_out[0], &sum));
    return hx_vjp_give_consume(v, 0, &sum);
}

static hx_status leave_backward(hx_vjp *v) {
    hx_tensor *same = hx_tensor_retain(v->grad_out[0]);
    return hx_vjp_give_consume(v, 0, &same);
}

static hx_status record(hx_ctx *ctx, const hx_custom *custom, hx_tensor *x, hx_tensor **result, hx_tensor **y) {
    hx_status status = hx_tape_record_custom(ctx, custom, &x, 1, result, 1);
    if (status != HX_OK) {
        hx_tensor_destroy(result);
        return status;
    }
    *y = *result;
    return HX_OK;
}

static hx_status tp_enter(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const hx_custom custom = {.name = "tensor_parallel_enter", .vjp = enter_backward, .user = self};
    hx_tensor *same = NULL;
    HX_TRY(hx_detach(x, &same));
    return record(ctx, &custom, x, &same, y);
}

static hx_status tp_leave(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const hx_custom custom = {.name = "tensor_parallel_leave", .vjp = leave_backward, .user = self};
    hx_tensor *sum = NULL;
    HX_TRY(sum_over_ranks(self, ctx, x, &sum));
    return record(ctx, &custom, x, &sum, y);
}

static hx_status tp_gather(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const hx_tensor_parallel *tp = self;
    const int64_t count = hx_tensor_count(x);
    hx_ctx quiet = hx_no_grad(ctx);
    hx_shape shape = {.ndim = hx_tensor_ndim(x) + 1, .dims = {tp->shard.size}};
    HX_AUTO_TENSOR all = NULL;
    HX_AUTO_TENSOR mine = NULL;
    if (shape.ndim > HX_MAX_DIMS) return HX_FAIL(HX_ERR_SHAPE, "gather: %d dims: expected fewer than %d", shape.ndim - 1, HX_MAX_DIMS);
    for (int d = 1; d < shape.ndim; d++) shape.dims[d] = hx_tensor_dim(x, d - 1);
    HX_TRY(hx_tensor_create(ctx->device, hx_tensor_dtype(x), shape, &all));
    HX_TRY(hx_tensor_window(all, tp->shard.rank * count, hx_tensor_shape(x), &mine));
    HX_TRY(hx_copy_into(&quiet, x, mine));
    HX_TRY(hx_comm_all_gather(tp->comm, hx_tensor_data(all), count, hx_tensor_dtype(x), ctx->stream, NULL));
    *y = hx_tensor_move(&all);
    return HX_OK;
}

/* ---- positions dealt out ---- */

/* x [B,T,..] as [size,B,T/size,..]: what is for each rank. */
static hx_status view_blocks(const hx_tensor_parallel *tp, hx_ctx *quiet, hx_tensor *x, hx_tensor **out) {
    const int size = tp->shard.size;
    char text[HX_SHAPE_TEXT];
    hx_shape shape = hx_tensor_shape(x);
    HX_AUTO_TENSOR apart = NULL; /* [B,size,T/size,..] */
    if (shape.ndim < 2 || shape.ndim >= HX_MAX_DIMS || shape.dims[1] % size != 0)
        return HX_FAIL(HX_ERR_SHAPE, "leave: x %s: expected [B,T,..], at most %d dims, T a multiple of the %d tensor-parallel ranks",
                       hx_shape_text(&shape, text), HX_MAX_DIMS - 1, size);
    for (int d = shape.ndim++; d > 2; d--) shape.dims[d] = shape.dims[d - 1];
    shape.dims[2] = shape.dims[1] / size;
    shape.dims[1] = size;
    HX_TRY(hx_reshape(quiet, x, shape, &apart));
    return hx_tensor_transpose(apart, 0, 1, out);
}

/* y [B,T/size,..] = the rank's positions of the sum of x [B,T,..] over the ranks; half types in f32. */
static hx_status scatter_sum(const hx_tensor_parallel *tp, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    hx_ctx quiet = hx_no_grad(ctx);
    const hx_dtype dtype = hx_tensor_dtype(x), wide_dtype = hx_dtype_accum(dtype);
    const int64_t count = hx_tensor_count(x) / tp->shard.size;
    HX_AUTO_TENSOR blocks = NULL;
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR mine = NULL;
    HX_TRY(view_blocks(tp, &quiet, x, &blocks));
    HX_TRY(copy_as(&quiet, blocks, wide_dtype, &wide));
    HX_TRY(hx_comm_reduce_scatter(tp->comm, hx_tensor_data(wide), count, wide_dtype, HX_SUM, ctx->stream, NULL));
    hx_shape shape = hx_tensor_shape(x);
    shape.dims[1] /= tp->shard.size;
    HX_TRY(hx_tensor_window(wide, tp->shard.rank * count, shape, &mine));
    return copy_as(&quiet, mine, dtype, y); /* a window would keep the memory of all parts */
}

/* y [B,T,..] from the positions x [B,T/size,..] of each rank. */
static hx_status gather_positions(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const hx_tensor_parallel *tp = self;
    hx_ctx quiet = hx_no_grad(ctx);
    hx_shape shape = hx_tensor_shape(x);
    HX_AUTO_TENSOR blocks = NULL; /* [size,B,T/size,..] */
    HX_AUTO_TENSOR apart = NULL;  /* [B,size,T/size,..] */
    char text[HX_SHAPE_TEXT];
    if (shape.ndim < 2) return HX_FAIL(HX_ERR_SHAPE, "enter: x %s: expected [B,T,..]", hx_shape_text(&shape, text));
    HX_TRY(tp_gather(self, &quiet, x, &blocks));
    HX_TRY(hx_tensor_transpose(blocks, 0, 1, &apart));
    shape.dims[1] *= tp->shard.size; /* the gathered tensor has that many elements */
    return hx_reshape(&quiet, apart, shape, y);
}

static hx_status split_enter_backward(hx_vjp *v) {
    hx_tensor *part;
    HX_TRY(scatter_sum(v->user, v->ctx, v->grad_out[0], &part));
    return hx_vjp_give_consume(v, 0, &part);
}

static hx_status split_leave_backward(hx_vjp *v) {
    hx_tensor *all;
    HX_TRY(gather_positions(v->user, v->ctx, v->grad_out[0], &all));
    return hx_vjp_give_consume(v, 0, &all);
}

static hx_status split_enter(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const hx_custom custom = {.name = "sequence_parallel_enter", .vjp = split_enter_backward, .user = self};
    hx_tensor *all = NULL;
    HX_TRY(gather_positions(self, ctx, x, &all));
    return record(ctx, &custom, x, &all, y);
}

static hx_status split_leave(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const hx_custom custom = {.name = "sequence_parallel_leave", .vjp = split_leave_backward, .user = self};
    hx_tensor *part = NULL;
    HX_TRY(scatter_sum(self, ctx, x, &part));
    return record(ctx, &custom, x, &part, y);
}

hx_status hx_tensor_parallel_create(hx_comm *comm, bool sequence, hx_tensor_parallel **out) {
    hx_tensor_parallel *tp;
    HX_TRY(hx_mem_alloc_array(1, sizeof *tp, (void **)&tp));
    tp->comm = comm;
    const bool is_sequence = sequence && hx_comm_size(comm) > 1;
    tp->shard = (hx_shard){.self = tp, .rank = hx_comm_rank(comm), .size = hx_comm_size(comm), .is_sequence = is_sequence,
                           .enter = is_sequence ? split_enter : tp_enter, .leave = is_sequence ? split_leave : tp_leave,
                           .sum = tp_leave, .gather = tp_gather};
    *out = tp;
    return HX_OK;
}

void hx_tensor_parallel_destroy(hx_tensor_parallel **tp) { hx_mem_free((void **)tp); }

const hx_shard *hx_tensor_parallel_shard(const hx_tensor_parallel *tp) { return &tp->shard; }

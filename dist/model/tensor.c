/* Each exchange is an ordinary collective on memory of the stream, and a tape node of its own where gradients flow through it:
 *   enter  forward x,            backward sum over ranks of dy   (Megatron's f)
 *   leave  forward sum of x,     backward dy                     (Megatron's g)
 * The sums of the ranks meet because all of them record the same nodes in the same order, also when a segment is run again. */
#include "dist/model/tensor.h"

#include "core/autograd/tape.h"
#include "core/base/mem.h"

struct hx_tensor_parallel {
    hx_comm *comm;
    hx_shard shard;
};

/* y = sum of x over the ranks, in x's dtype. Half types travel as f32: communicators do not add them, as each of the sums
 * would be rounded. */
static hx_status sum_over_ranks(const hx_tensor_parallel *tp, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    hx_ctx quiet = hx_no_grad(ctx);
    const hx_dtype dtype = hx_tensor_dtype(x), wide_dtype = hx_dtype_accum(dtype);
    const hx_op_attr attr = {.copy = {wide_dtype}};
    HX_AUTO_TENSOR wide = NULL;
    HX_TRY(hx_op_run(&quiet, HX_OP_copy, &x, 1, &attr, 0, &wide)); /* contiguous, and x stays as it is */
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

hx_status hx_tensor_parallel_create(hx_comm *comm, hx_tensor_parallel **out) {
    hx_tensor_parallel *tp;
    HX_TRY(hx_mem_alloc_array(1, sizeof *tp, (void **)&tp));
    tp->comm = comm;
    tp->shard = (hx_shard){.self = tp, .rank = hx_comm_rank(comm), .size = hx_comm_size(comm),
                           .enter = tp_enter, .leave = tp_leave, .gather = tp_gather};
    *out = tp;
    return HX_OK;
}

void hx_tensor_parallel_destroy(hx_tensor_parallel **tp) { hx_mem_free((void **)tp); }

const hx_shard *hx_tensor_parallel_shard(const hx_tensor_parallel *tp) { return &tp->shard; }

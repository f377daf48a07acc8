/* Shape rules and derivatives that ops.def names, and what they share; inside of core/op and core/autograd. */
#ifndef HX_CORE_OP_OP_IMPL_H
#define HX_CORE_OP_OP_IMPL_H

#include "core/autograd/tape.h"

#define HX_OP(name, n_req, n_in, n_out, infer, vjp, saves, flags, doc)                                       \
    hx_status hx__infer_##infer(const hx_op_args *args, hx_op_meta *out);
#include "core/op/ops.def"
#undef HX_OP

#define HX_OP(name, n_req, n_in, n_out, infer, vjp, saves, flags, doc) hx_status hx__vjp_##vjp(hx_vjp *v);
#include "core/op/ops.def"
#undef HX_OP

/* ---- shape rules: what operands must be; the message names the op, the operand and what was expected ---- */

/* Operand i has a floating dtype. */
hx_status hx__need_float(const hx_op_args *a, int i);
/* All present operands from first to last have one floating dtype. */
hx_status hx__need_same_float(const hx_op_args *a, int first, int last);
/* All present operands from first to last have one dtype, whatever it is. */
hx_status hx__need_same(const hx_op_args *a, int first, int last);
hx_status hx__need_not_complex(const hx_op_args *a, int i);
hx_status hx__need_float_or_complex(const hx_op_args *a, int i);
/* dim is one of operand i's, 0..ndim-1. */
hx_status hx__need_dim(const hx_op_args *a, int i, int dim);
hx_status hx__need_dtype(const hx_op_args *a, int i, hx_dtype want);
/* Operand i is a statistic of operand `of`: of dtype hx_dtype_accum. */
hx_status hx__need_statistic(const hx_op_args *a, int i, int of);
/* Operand i holds i32 or i64. */
hx_status hx__need_ids(const hx_op_args *a, int i);
hx_status hx__need_shape(const hx_op_args *a, int i, const hx_shape *want);
hx_status hx__need_ndim(const hx_op_args *a, int i, int least, int most);
/* [start, start+n) lies in [0, total), or is all there is: total and start 0. */
hx_status hx__need_part(const char *name, int64_t start, int64_t n, int64_t total);
/* The shape without its last dim; that dim. */
hx_shape hx__rows_of(const hx_shape *s);
int64_t hx__last_dim(const hx_shape *s);
void hx__set_out(hx_op_meta *out, hx_shape shape, hx_dtype dtype);

/* ---- typed functions ---- */

/* For those that look at a tensor before dispatch has seen it. */
#define HX_NEED_TENSOR(x)                                                                                    \
    do {                                                                                                     \
        if ((x) == NULL) return HX_FAIL(HX_ERR_ARG, #x " is NULL");                                          \
    } while (0)

/* One operand, one new result. */
hx_status hx__run1(hx_ctx *ctx, hx_op op, hx_tensor *x, const hx_op_attr *attr, hx_tensor **out);
/* An op whose kernel works along the last dim, along another: on a view with that dim last, and the result seen with it
 * back in its place. */
hx_status hx__run_along(hx_ctx *ctx, hx_op op, hx_tensor *x, int dim, const hx_op_attr *attr, hx_tensor **out);
/* Run and keep the first n_keep outputs. */
hx_status hx__run_keep(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, const hx_op_attr *attr, hx_tensor **out, int n_keep);
/* HX_ERR_ARG unless the op's shape rule is that one. */
hx_status hx__need_rule(hx_op op, hx_status (*rule)(const hx_op_args *, hx_op_meta *));
/* Real and imaginary parts side by side in the last dim, each pair where a complex element may begin. */
bool hx__has_pairs(const hx_tensor *x);
/* Record views that have been made; on failure they are destroyed. */
hx_status hx__record_view(hx_ctx *ctx, hx_op op, const hx_op_attr *attr, hx_tensor *x, hx_tensor **out, int n_out);
/* dims given by a user (negative count from the end, none: all) -> ascending dims. */
hx_status hx__reduce_dims(const hx_tensor *x, const int *dims, int n_dims, int out[HX_MAX_DIMS], int *n_out);

/* ---- anomaly mode ---- */

/* First element of a floating or complex tensor that is not finite, -1 if there is none; waits for the stream. Other
 * dtypes, and dry devices, have none. */
hx_status hx__find_non_finite(hx_ctx *ctx, hx_tensor *t, int64_t *at, double *value);
/* HX_ERR_NUMERIC if an output [n_out of the row] that is present is not finite: names the op, the layer, the element, and
 * the input that was bad already if one was. */
hx_status hx__check_finite(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, hx_tensor *const *out);

#endif

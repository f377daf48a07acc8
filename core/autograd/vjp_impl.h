/* What derivatives share: run an op, hand its result on as a gradient. Inside of core/autograd. */
#ifndef HX_CORE_AUTOGRAD_VJP_IMPL_H
#define HX_CORE_AUTOGRAD_VJP_IMPL_H

#include "core/op/op_impl.h"

/* Run an op on a and b (NULL: on a alone) that yields one new tensor. */
hx_status hx__grad_run(hx_vjp *v, hx_op op, hx_tensor *a, hx_tensor *b, const hx_op_attr *attr, hx_tensor **out);
/* Give op(a, b) as the gradient of input i, if it is wanted. */
hx_status hx__grad_give_op(hx_vjp *v, int i, hx_op op, hx_tensor *a, hx_tensor *b, const hx_op_attr *attr);
/* The gradient of input i is that of output 0, or alpha times it. */
hx_status hx__grad_give_same(hx_vjp *v, int i);
hx_status hx__grad_give_scaled(hx_vjp *v, int i, double alpha);
/* Give g, which may be wider than input i, as its gradient. */
hx_status hx__grad_give_narrowed(hx_vjp *v, int i, hx_tensor *g);
/* dst = or += g, or zero where g is NULL; dst may be wider than g. */
hx_status hx__grad_put(hx_vjp *v, hx_tensor *dst, hx_tensor *g, bool accumulate);

#endif

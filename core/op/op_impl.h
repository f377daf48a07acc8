/* Shape rules and derivatives that ops.def names; inside of core/op and core/autograd. */
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

#endif

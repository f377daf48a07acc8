/* A graph of ops: put together in any order, run in one that its data dependencies allow.
 *
 *     hx_graph *g;  HX_TRY(hx_graph_create(&g));
 *     hx_value x, h, y;
 *     HX_TRY(hx_graph_value(g, &x)); HX_TRY(hx_graph_value(g, &h)); HX_TRY(hx_graph_value(g, &y));
 *     HX_TRY(hx_graph_op(g, HX_OP_tanh, &h, 1, NULL, &y));      // h is made by the next line
 *     HX_TRY(hx_graph_op(g, HX_OP_exp, &x, 1, NULL, &h));
 *     HX_TRY(hx_graph_run(g, &ctx, &x, &input, 1, &y, 1, &result));
 *
 * A run executes what the wanted values need and nothing else, and gives a value's memory back after its last use.
 * The ops are those of eager execution: the same kernels, the same bits, recorded if the context has a tape.
 */
#ifndef HX_CORE_OP_GRAPH_H
#define HX_CORE_OP_GRAPH_H

#include "core/op/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_graph hx_graph;
typedef int32_t hx_value; /* a tensor to be, by its number in the graph */
#define HX_NO_VALUE (-1)

hx_status hx_graph_create(hx_graph **out);
void hx_graph_destroy(hx_graph **graph);
/** A new value: fed to a run, or made by one op, which may be added later. */
hx_status hx_graph_value(hx_graph *graph, hx_value *out);
/** Add an op. @param in   [n_in]; HX_NO_VALUE for an absent optional operand
 *  @param attr  copied; NULL: zeros
 *  @param out   [n_out of the op's row]; HX_NO_VALUE for a result that is not wanted
 *  @return HX_ERR_ARG: no such value, or one that another op makes already; HX_ERR_UNSUPPORTED: views, which have no
 *          kernel, and ops that update their outputs in place */
hx_status hx_graph_op(hx_graph *graph, hx_op op, const hx_value *in, int n_in, const hx_op_attr *attr, const hx_value *out);
/** Execute, in the order of Kahn 1962: of the ops whose operands are there, the one added first.
 *  @param feeds, tensors  [n_feeds] values that are given, and what they are; borrowed
 *  @param wanted          [n_wanted] values to hand out; @param[out] out  [n_wanted], the caller destroys each
 *  @return HX_ERR_ARG: a cycle, named by one of its ops; a value that is needed but neither fed nor made; or what the
 *          ops return. Nothing is handed out on failure. */
hx_status hx_graph_run(const hx_graph *graph, hx_ctx *ctx, const hx_value *feeds, hx_tensor *const *tensors, int n_feeds,
                       const hx_value *wanted, int n_wanted, hx_tensor **out);

#ifdef __cplusplus
}
#endif
#endif

/* The mesh: ranks arranged on named axes, one communicator per axis.
 *
 * Axes, slowest varying first: pp, dp, cp, ep, tp. Ranks are put in order of their hosts first, so that the ranks of one
 * tensor-parallel group, which talk most, are neighbours on one host wherever the launcher placed them. This version
 * builds dp and tp; the other axes are of degree 1.
 *
 *     hx_mesh *mesh; HX_TRY(hx_mesh_create(world, &(hx_mesh_config)HX_MESH_DEFAULT, &mesh));
 *     hx_comm *dp = hx_mesh_axis(mesh, HX_AXIS_DP);
 */
#ifndef HX_DIST_MESH_H
#define HX_DIST_MESH_H

#include "core/base/options.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hx_axis { HX_AXIS_PP, HX_AXIS_DP, HX_AXIS_CP, HX_AXIS_EP, HX_AXIS_TP, HX_AXIS_COUNT } hx_axis;

#define HX_MESH_OPTIONS(X)                                                                                   \
    X(INT, dp, 0, 0, 1 << 20, "data-parallel degree; 0 means all ranks that are left")                       \
    X(INT, tp, 1, 0, 1 << 20, "tensor-parallel degree: ranks that share each layer's weights; 0 as dp")      \
    X(BOOL, sequence, false, 0, 0, "split norms and dropouts of tensor-parallel models by position; without effect if tp is 1")

HX_OPTIONS_STRUCT(hx_mesh_config, HX_MESH_OPTIONS);
#define HX_MESH_DEFAULT HX_OPTIONS_DEFAULT(HX_MESH_OPTIONS)
extern const hx_option hx_mesh_options[];
extern const int hx_mesh_n_options;

typedef struct hx_mesh hx_mesh;

/** Local. Fill in the degree that is 0 and check the product. @param[out] degrees  [HX_AXIS_COUNT]
 *  @return HX_ERR_CONFIG with every number: the product is not n_ranks, or more than one degree is 0 */
hx_status hx_mesh_degrees(const hx_mesh_config *config, int n_ranks, int64_t degrees[HX_AXIS_COUNT]);
/** Collective over `world`, which is borrowed; the axes of a dry one (dist/comm/dry.h) are dry, its ranks stand in their order.
 *  @return as hx_mesh_degrees, or because the ranks were told different degrees */
hx_status hx_mesh_create(hx_comm *world, const hx_mesh_config *config, hx_mesh **out);
void hx_mesh_destroy(hx_mesh **mesh);
/** Communicator along an axis; borrowed. Its rank is this process's coordinate. Axes of degree 1 are of size 1. */
hx_comm *hx_mesh_axis(hx_mesh *mesh, hx_axis axis);
const char *hx_axis_name(hx_axis axis);
/** "dp=4 x tp=2" and so on: axes of degree above 1, "dp=1" if there are none. For humans. */
const char *hx_mesh_text(const hx_mesh *mesh);

#ifdef __cplusplus
}
#endif
#endif

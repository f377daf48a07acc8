#include "dist/mesh.h"

#include <stdio.h>

#include "core/base/mem.h"

#define HX_OPTION_OWNER hx_mesh_config
const hx_option hx_mesh_options[] = HX_OPTIONS_TABLE(HX_MESH_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_mesh_n_options = (int)(sizeof hx_mesh_options / sizeof *hx_mesh_options);

struct hx_mesh {
    hx_comm *axes[HX_AXIS_COUNT]; /* borrowed from the two below */
    hx_comm *dp;
    hx_comm *single; /* of this rank alone: every axis of degree 1 */
    char text[64];
};

static const char *const axis_names[HX_AXIS_COUNT] = {
    [HX_AXIS_PP] = "pp", [HX_AXIS_DP] = "dp", [HX_AXIS_CP] = "cp", [HX_AXIS_EP] = "ep", [HX_AXIS_TP] = "tp"};

const char *hx_axis_name(hx_axis axis) {
    return (unsigned)axis < HX_AXIS_COUNT ? axis_names[axis] : "?";
}

static hx_status check_degrees(hx_comm *world, int64_t dp) {
    int size = hx_comm_size(world);
    HX_TRY(hx_comm_agree_equal(world, "mesh.dp", dp));
    if (dp < 0) return HX_FAIL(HX_ERR_CONFIG, "mesh.dp = %lld: expected >= 0", (long long)dp);
    if (dp != 0 && dp != size)
        return HX_FAIL(HX_ERR_CONFIG,
                       "pp=1 x dp=%lld x cp=1 x ep=1 x tp=1 makes %lld ranks, but there are %d: "
                       "start %lld, or set mesh.dp to %d or 0",
                       (long long)dp, (long long)dp, size, (long long)dp, size);
    return HX_OK;
}

hx_status hx_mesh_create(hx_comm *world, const hx_mesh_config *config, hx_mesh **out) {
    int rank = hx_comm_rank(world), size = hx_comm_size(world);
    hx_mesh *mesh = NULL;
    HX_TRY(check_degrees(world, config->dp)); /* fails on all ranks or on none */
    HX_TRY(hx_comm_agree(world, hx_mem_alloc_array(1, sizeof *mesh, (void **)&mesh)));
    /* A communicator of its own even where dp is the whole world: its failures and events stay apart. */
    hx_status status = hx_comm_agree(world, hx_comm_split(world, 0, rank, &mesh->dp));
    if (status == HX_OK) status = hx_comm_agree(world, hx_comm_split(world, rank, 0, &mesh->single));
    if (status != HX_OK) {
        hx_mesh_destroy(&mesh);
        return status;
    }
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++) mesh->axes[axis] = mesh->single;
    if (size > 1) mesh->axes[HX_AXIS_DP] = mesh->dp;
    snprintf(mesh->text, sizeof mesh->text, "dp=%d", size);
    *out = mesh;
    return HX_OK;
}

void hx_mesh_destroy(hx_mesh **mesh) {
    if (*mesh == NULL) return;
    hx_comm_close(&(*mesh)->single);
    hx_comm_close(&(*mesh)->dp);
    hx_mem_free((void **)mesh);
}

hx_comm *hx_mesh_axis(hx_mesh *mesh, hx_axis axis) {
    return (unsigned)axis < HX_AXIS_COUNT ? mesh->axes[axis] : NULL;
}

const char *hx_mesh_text(const hx_mesh *mesh) {
    return mesh->text;
}

/* 1. the degrees: what is 0 is what is left; 2. the order: ranks of one host one after the other, hosts and ranks as the world
 * counts them; 3. a rank's place in that order, written in the axes' mixed radix, is its coordinates; 4. ranks that differ in
 * one coordinate only are an axis. */
#include "dist/mesh.h"

#include <stdio.h>

#include "core/base/mem.h"
#include "dist/comm/comm_impl.h"
#include "dist/comm/dry.h"

#define HX_OPTION_OWNER hx_mesh_config
const hx_option hx_mesh_options[] = HX_OPTIONS_TABLE(HX_MESH_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_mesh_n_options = (int)(sizeof hx_mesh_options / sizeof *hx_mesh_options);

struct hx_mesh {
    hx_comm *axes[HX_AXIS_COUNT]; /* owned, but for those of degree 1, which are `single` */
    hx_comm *single;              /* of this rank alone */
    char text[128];
};

static const char *const axis_names[HX_AXIS_COUNT] = {
    [HX_AXIS_PP] = "pp", [HX_AXIS_DP] = "dp", [HX_AXIS_CP] = "cp", [HX_AXIS_EP] = "ep", [HX_AXIS_TP] = "tp"};

const char *hx_axis_name(hx_axis axis) {
    return (unsigned)axis < HX_AXIS_COUNT ? axis_names[axis] : "?";
}

/* ---- degrees ---- */

/* "pp=1 x dp=4 x ..."; @param all  those of degree 1 too */
static void write_degrees(const int64_t degrees[HX_AXIS_COUNT], bool all, char *text, size_t n_bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int axis = 0; axis < HX_AXIS_COUNT && used < n_bytes; axis++) {
        if (!all && degrees[axis] == 1) continue;
        const int n = snprintf(text + used, n_bytes - used, "%s%s=%lld", used ? " x " : "", axis_names[axis], (long long)degrees[axis]);
        if (n > 0) used += (size_t)n;
    }
    if (used == 0) snprintf(text, n_bytes, "dp=1");
}

static hx_status wrong_product(const int64_t degrees[HX_AXIS_COUNT], int64_t product, int n_ranks) {
    char text[128];
    write_degrees(degrees, true, text, sizeof text);
    if (product > 0 && n_ranks % product == 0)
        return HX_FAIL(HX_ERR_CONFIG, "%s makes %lld ranks, but there are %d: start %lld, or set mesh.dp to 0 (what is left: %lld)", text,
                       (long long)product, n_ranks, (long long)product, (long long)(n_ranks / product * degrees[HX_AXIS_DP]));
    return HX_FAIL(HX_ERR_CONFIG, "%s makes %lld ranks, but there are %d: expected degrees whose product is %d", text, (long long)product,
                   n_ranks, n_ranks);
}

hx_status hx_mesh_degrees(const hx_mesh_config *config, int n_ranks, int64_t degrees[HX_AXIS_COUNT]) {
    int64_t d[HX_AXIS_COUNT] = {1, config->dp, 1, 1, config->tp}, product = 1;
    int open = -1;
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++) {
        if (d[axis] < 0) return HX_FAIL(HX_ERR_CONFIG, "mesh.%s = %lld: expected >= 0", axis_names[axis], (long long)d[axis]);
        if (d[axis] == 0 && open >= 0)
            return HX_FAIL(HX_ERR_CONFIG, "mesh.%s and mesh.%s are both 0, \"what is left\": expected one of them to be a number",
                           axis_names[open], axis_names[axis]);
        if (d[axis] == 0) open = axis;
        else HX_TRY(hx_count_mul(product, d[axis], &product));
    }
    if (open >= 0) {
        d[open] = n_ranks % product == 0 ? n_ranks / product : 1;
        HX_TRY(hx_count_mul(product, d[open], &product));
    }
    if (product != n_ranks) return wrong_product(d, product, n_ranks);
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++) degrees[axis] = d[axis];
    return HX_OK;
}

/* ---- places ---- */

/* Collective. This rank's place where the ranks of a host stand together. @param hosts  [size] scratch */
static hx_status find_place(hx_comm *world, int64_t *hosts, int64_t *place) {
    const int rank = hx_comm_rank(world), size = hx_comm_size(world);
    int64_t before = 0;
    HX_TRY(hx__comm_first_on_host(world, hosts));
    for (int r = 0; r < size; r++) before += hosts[r] < hosts[rank] || (hosts[r] == hosts[rank] && r < rank);
    *place = before;
    return HX_OK;
}

/* Collective. The ranks that share `color`, this one at `coordinate` of `degree`; those of a dry world are known by their number. */
static hx_status open_axis(hx_comm *world, int64_t color, int64_t coordinate, int64_t degree, hx_comm **out) {
    if (hx_comm_is_dry(world)) return hx_comm_dry_part(world, (int)coordinate, (int)degree, out);
    return hx_comm_split(world, (int)color, (int)coordinate, out);
}

/* Collective. Ranks that have all coordinates but one in common form that axis. */
static hx_status split_axes(hx_mesh *mesh, hx_comm *world, const int64_t degrees[HX_AXIS_COUNT], int64_t place) {
    int64_t stride = 1; /* of the axis in a place */
    HX_TRY(hx_comm_agree(world, open_axis(world, hx_comm_rank(world), 0, 1, &mesh->single)));
    for (int axis = HX_AXIS_COUNT - 1; axis >= 0; axis--) {
        const int64_t coordinate = place / stride % degrees[axis];
        mesh->axes[axis] = mesh->single;
        /* A communicator of its own even where the axis is the whole world: its failures and events stay apart. */
        if (degrees[axis] > 1) {
            hx_comm *found = NULL;
            hx_status status = open_axis(world, place - coordinate * stride, coordinate, degrees[axis], &found);
            if (status == HX_OK) mesh->axes[axis] = found;
            HX_TRY(hx_comm_agree(world, status));
        }
        stride *= degrees[axis];
    }
    return HX_OK;
}

static hx_status agree_degrees(hx_comm *world, const hx_mesh_config *config, int64_t degrees[HX_AXIS_COUNT]) {
    HX_TRY(hx_comm_agree_equal(world, "mesh.dp", config->dp));
    HX_TRY(hx_comm_agree_equal(world, "mesh.tp", config->tp));
    return hx_mesh_degrees(config, hx_comm_size(world), degrees); /* fails on all ranks or on none */
}

hx_status hx_mesh_create(hx_comm *world, const hx_mesh_config *config, hx_mesh **out) {
    hx_mesh *mesh = NULL;
    int64_t degrees[HX_AXIS_COUNT], *hosts = NULL, place = 0;
    HX_TRY(agree_degrees(world, config, degrees));
    hx_status status = hx_mem_alloc_array(1, sizeof *mesh, (void **)&mesh);
    if (status == HX_OK) status = hx_mem_alloc_array(hx_comm_size(world), sizeof *hosts, (void **)&hosts);
    status = hx_comm_agree(world, status);
    if (status == HX_OK) status = find_place(world, hosts, &place);
    if (status == HX_OK) status = split_axes(mesh, world, degrees, place);
    hx_mem_free((void **)&hosts);
    if (status != HX_OK) {
        hx_mesh_destroy(&mesh);
        return status;
    }
    write_degrees(degrees, false, mesh->text, sizeof mesh->text);
    *out = mesh;
    return HX_OK;
}

void hx_mesh_destroy(hx_mesh **mesh) {
    if (*mesh == NULL) return;
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++)
        if ((*mesh)->axes[axis] != (*mesh)->single) hx_comm_close(&(*mesh)->axes[axis]);
    hx_comm_close(&(*mesh)->single);
    hx_mem_free((void **)mesh);
}

hx_comm *hx_mesh_axis(hx_mesh *mesh, hx_axis axis) {
    return (unsigned)axis < HX_AXIS_COUNT ? mesh->axes[axis] : NULL;
}

const char *hx_mesh_text(const hx_mesh *mesh) {
    return mesh->text;
}

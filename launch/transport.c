/* How memory of a device goes between ranks: by NCCL, which the CUDA plug-in brings, or staged through the host. */
#include <stdio.h>

#include "launch/plugin.h"
#include "launch/session_impl.h"

/* Local: what the plug-in of this rank's device offers. */
static hx_status find_nccl(hx_status (**attach)(hx_comm *comm, hx_stream *stream)) {
    const hx_plugin *plugin;
    HX_TRY(hx_plugin_cuda(&plugin));
    if (!plugin->comm_attach) return HX_FAIL(HX_ERR_UNSUPPORTED, "this build of the CUDA plug-in is without NCCL");
    *attach = plugin->comm_attach;
    return HX_OK;
}

hx_status hx__session_transport(hx_session *s) {
    int choice = s->config.run.comm;
    hx_status (*attach)(hx_comm *comm, hx_stream *stream) = NULL;
    hx_device_props props;
    hx_device_props_get(s->device, &props);
    /* A staged collective is cut into pieces, one on host memory is not: they do not fit together. */
    HX_TRY(hx_comm_agree_equal(s->world, "memory apart from the host's (1: the device has it)", !props.is_host_memory));
    if (props.is_host_memory && choice == HX_RUN_COMM_NCCL)
        return HX_FAIL(HX_ERR_CONFIG, "comm = nccl: the memory of device %s is the host's; expected auto", hx_device_name(s->device));
    if (props.is_host_memory || choice == HX_RUN_COMM_STAGED || hx_comm_size(s->world) == 1) return HX_OK;
    hx_status status = hx_comm_agree(s->world, find_nccl(&attach));
    for (int axis = 0; axis < HX_AXIS_COUNT && status == HX_OK; axis++) {
        hx_comm *comm = hx_mesh_axis(s->mesh, (hx_axis)axis);
        if (hx_comm_size(comm) > 1) status = attach(comm, s->stream);
    }
    if (status == HX_OK || choice == HX_RUN_COMM_NCCL) return status;
    snprintf(s->no_nccl, sizeof s->no_nccl, "%s", hx_error_message());
    return HX_OK;
}

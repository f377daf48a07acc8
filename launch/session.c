#include "launch/session_impl.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/base/threads.h"
#include "dist/comm/dry.h"
#include "launch/helix.h"
#include "launch/plugin.h"

#define CLOSE_SECONDS 10.0 /* after a failure; a healthy close takes milliseconds */

const char *hx_version(void) { return HELIX_VERSION; }

static hx_status register_own_backends(void) {
    static const hx_backend *const backends[] = {&hx_backend_ref, &hx_backend_cpu, &hx_backend_meta};
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (!hx_backend_find(backends[i]->name)) HX_TRY(hx_backend_register(backends[i]));
    return HX_OK;
}

hx_status hx_register_backends(void) {
    const hx_plugin *plugin;
    HX_TRY(register_own_backends());
    if (hx_plugin_cuda_expected() && hx_plugin_cuda(&plugin) != HX_OK) HX_LOG(HX_LOG_WARN, "%s", hx_error_message());
    return HX_OK;
}

/* ---- opening ---- */

/* Local. The first option in which this rank's configuration is not rank 0's. Threads and device may differ between hosts; anything
 * else that differs would train nonsense, or hang. */
static hx_status compare_config(hx_config *mine, hx_config *first) {
    hx_option_section own[HX_CONFIG_MAX_SECTIONS], theirs[HX_CONFIG_MAX_SECTIONS];
    const int n = hx_config_sections(mine, own);
    (void)hx_config_sections(first, theirs);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < own[i].n_options; k++) {
            const hx_option *o = &own[i].options[k];
            char key[128], here[HX_OPTION_TEXT], there[HX_OPTION_TEXT];
            hx_option_key(&own[i], o, key, sizeof key);
            hx_option_format(o, own[i].config, here, sizeof here);
            hx_option_format(o, theirs[i].config, there, sizeof there);
            if (strcmp(here, there) == 0 || strcmp(key, "threads") == 0 || strcmp(key, "device") == 0) continue;
            return HX_FAIL(HX_ERR_CONFIG, "%s is '%s' on this rank and '%s' on rank 0: expected one configuration", key, here, there);
        }
    return HX_OK;
}

/* A difference is the fault of all ranks alike, and of their launch. */
static hx_status agree_same(hx_session *s, hx_status mine) {
    char text[1024];
    hx_status status = hx_comm_agree(s->world, mine);
    if (status != HX_ERR_REMOTE) return status;
    snprintf(text, sizeof text, "%s", hx_error_message());
    return hx_error_adopt(HX_ERR_CONFIG, text);
}

/* Collective. */
static hx_status check_same_program(hx_session *s) {
    char version[64] = "";
    hx_status status = HX_OK;
    hx_agreement all;
    hx_comm_agreement(s->world, &all);
    snprintf(version, sizeof version, "%s", hx_version());
    HX_TRY(all.broadcast(all.self, version, sizeof version));
    version[sizeof version - 1] = '\0';
    if (strcmp(version, hx_version()) != 0)
        status = HX_FAIL(HX_ERR_CONFIG, "this rank runs Helix %s and rank 0 Helix %s: expected one version", hx_version(), version);
    HX_TRY(agree_same(s, status));
    hx_config first = s->config;
    HX_TRY(all.broadcast(all.self, &first, sizeof first));
    return agree_same(s, compare_config(&s->config, &first));
}

/* The ranks of a host take its GPUs in turn. Two ranks on one GPU run slower than one, so it takes a word to have that; so
 * it does where a launcher shows each rank a GPU of its own only, which looks the same from here. */
static hx_status choose_gpu(const hx_plugin *plugin, const hx_placement *placement, int *index) {
    int n;
    const char *share = getenv("HELIX_CUDA_SHARE");
    HX_TRY(plugin->n_devices(&n));
    if (placement->n_local_ranks > n && !(share && strcmp(share, "1") == 0))
        return HX_FAIL(HX_ERR_CONFIG, "%d ranks on this host see %d GPU%s: start at most one rank for each, use device cpu, or set "
                       "HELIX_CUDA_SHARE=1 if each rank sees a GPU of its own, or is to share one", placement->n_local_ranks, n, n == 1 ? "" : "s");
    *index = placement->local_rank % n;
    return HX_OK;
}

static hx_status open_cuda(hx_device_config config, const hx_placement *placement, hx_device **out) {
    const hx_plugin *plugin;
    HX_TRY(hx_plugin_cuda(&plugin));
    HX_TRY(choose_gpu(plugin, placement, &config.index));
    return hx_device_open(plugin->backend->name, &config, out);
}

/* cuda by name is cuda or a failure; without a name it is tried where there may be a GPU, and the reason is told. */
static hx_status open_by_name(const char *name, const hx_device_config *config, const hx_placement *placement, hx_device **out) {
    if (strcmp(name, "cuda") == 0) return open_cuda(*config, placement, out);
    if (name[0] || !hx_plugin_cuda_expected()) return hx_device_open(name[0] ? name : NULL, config, out);
    hx_status status = open_cuda(*config, placement, out);
    if (status != HX_ERR_DEVICE) return status; /* success too: HX_OK */
    if (placement->local_rank == 0) HX_LOG(HX_LOG_WARN, "%s; going on without a GPU", hx_error_message());
    return hx_device_open("cpu", config, out); /* the default would try cuda once more, and its first GPU */
}

/* The context of the session's device. */
static hx_status open_context(hx_session *s) {
    HX_TRY(hx_stream_create(s->device, &s->stream));
    HX_TRY(hx_tape_create(s->device, &s->tape));
    s->ctx = (hx_ctx){.device = s->device, .stream = s->stream, .tape = s->tape, .training = true,
                      .seed = (uint64_t)s->config.train.seed};
    return HX_OK;
}

/* One rank of each host tells what its device has to say, and threads that will wait for each other's cores. */
static void tell_device(const hx_session *s, const hx_device_props *props) {
    const int n_cores = hx_usable_cores();
    if (s->placement.local_rank > 0) return;
    if (props->notice != NULL) HX_LOG(HX_LOG_WARN, "%s", props->notice);
    if (props->n_threads > n_cores)
        HX_LOG(HX_LOG_WARN, "threads = %d: this process may run on %d core%s, so that they slow each other down", props->n_threads, n_cores,
               n_cores == 1 ? "" : "s");
}

static hx_status open_device(hx_session *s, void *arg) {
    (void)arg;
    const hx_run_config *run = &s->config.run;
    hx_device_config config = {.n_threads = run->threads ? (int)run->threads : s->placement.n_threads};
    HX_TRY(open_by_name(run->device, &config, &s->placement, &s->device));
    hx_device_props props;
    hx_device_props_get(s->device, &props);
    if (props.is_dry) return HX_FAIL(HX_ERR_CONFIG, "device = %s: it computes nothing; expected e.g. cpu or ref", run->device);
    tell_device(s, &props);
    return open_context(s);
}

static hx_status open_tensor_parallel(hx_session *s) {
    return hx_comm_agree(s->world, hx_tensor_parallel_create(hx_mesh_axis(s->mesh, HX_AXIS_TP), s->config.mesh.sequence, &s->tp));
}

/* Collective over the session's world. Closes the session on failure. */
static hx_status open_parts(hx_session *s, hx_session **out) {
    hx_status status = HX_OK;
    const int size = hx_comm_size(s->world);
    hx_error_set_identity(hx_comm_rank(s->world), size, size > 1 ? hx_comm_host(s->world) : NULL);
    if (size > 1) HX_TRY_GOTO(hx_comm_agree(s->world, hx_deadline_create(&s->closing)), failed);
    HX_TRY_GOTO(check_same_program(s), failed);
    HX_TRY_GOTO(hx_placement_find(s->world, &s->placement), failed);
    HX_TRY_GOTO(hx__session_first(s, open_device, NULL), failed);
    HX_TRY_GOTO(hx_mesh_create(s->world, &s->config.mesh, &s->mesh), failed);
    if (hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_TP)) > 1) HX_TRY_GOTO(open_tensor_parallel(s), failed);
    HX_TRY_GOTO(hx__session_transport(s), failed);
    *out = s;
    return HX_OK;
failed:
    status = hx__session_fail(s, status);
    hx_session_close(&s);
    return status;
}

static hx_status create_session(const hx_config *config, hx_session **out) {
    hx_session *s;
    HX_TRY(register_own_backends());
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    s->config = *config;
    *out = s;
    return HX_OK;
}

hx_status hx_session_open(const hx_config *config, hx_session **out) {
    hx_session *s = NULL;
    HX_TRY(create_session(config, &s)); /* before MPI, so that a rank that fails here keeps nobody waiting in it */
    hx_status status = hx_comm_was_launched() ? hx_comm_mpi_open(&s->world) : hx_comm_self_open(&s->world);
    if (status != HX_OK) {
        hx_session_close(&s);
        return status;
    }
    s->owns_world = true;
    return open_parts(s, out);
}

hx_status hx_session_open_on(const hx_config *config, hx_comm *world, hx_session **out) {
    hx_session *s = NULL;
    hx_status status = hx_comm_agree(world, create_session(config, &s));
    if (status != HX_OK) {
        hx_session_close(&s);
        return status;
    }
    s->world = world;
    return open_parts(s, out);
}

hx_status hx__session_open_dry(const hx_config *config, int rank, int size, bool shares_memory, hx_session **out) {
    hx_session *s = NULL;
    hx_status status;
    HX_TRY(create_session(config, &s));
    HX_TRY_GOTO(hx_comm_dry_open(rank, size, &s->world), failed);
    if (shares_memory) hx_comm_dry_share(s->world);
    s->owns_world = true;
    HX_TRY_GOTO(hx_device_open("meta", NULL, &s->device), failed);
    HX_TRY_GOTO(open_context(s), failed);
    HX_TRY_GOTO(hx_mesh_create(s->world, &s->config.mesh, &s->mesh), failed);
    if (hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_TP)) > 1) HX_TRY_GOTO(open_tensor_parallel(s), failed);
    *out = s;
    return HX_OK;
failed:
    hx_session_close(&s);
    return status;
}

void hx_session_close(hx_session **session) {
    hx_session *s = *session;
    if (!s) return;
    hx_tape_destroy(&s->tape);
    hx_tensor_parallel_destroy(&s->tp);
    hx_mesh_destroy(&s->mesh);
    if (s->world) (void)hx_comm_release_device(s->world);
    hx_stream_destroy(&s->stream);
    hx_device_close(&s->device);
    if (s->owns_world) hx_comm_close(&s->world);
    hx_deadline_destroy(&s->closing);
    hx_mem_free((void **)session);
}

hx_ctx *hx_session_ctx(hx_session *session) { return &session->ctx; }
hx_comm *hx_session_world(hx_session *session) { return session->world; }
hx_mesh *hx_session_mesh(hx_session *session) { return session->mesh; }
const hx_shard *hx_session_shard(const hx_session *session) { return session->tp ? hx_tensor_parallel_shard(session->tp) : NULL; }
const hx_config *hx_session_config(const hx_session *session) { return &session->config; }

void hx__session_ranks(const hx_session *session, hx_agreement *out) {
    const hx_comm *dp = hx_mesh_axis(session->mesh, HX_AXIS_DP), *tp = hx_mesh_axis(session->mesh, HX_AXIS_TP);
    hx_comm_agreement(session->world, out);
    out->part = hx_comm_rank(tp);
    out->n_parts = hx_comm_size(tp);
    out->replica = hx_comm_rank(dp);
    out->n_replicas = hx_comm_size(dp);
}

int hx__session_threads(const hx_session *session) {
    hx_device_props props;
    hx_device_props_get(session->device, &props);
    return props.n_threads > 0 ? props.n_threads : 1; /* a GPU is fed by one */
}

/* ---- failing together ---- */

/* The vote: each rank that failed by itself offers rank*64 + status, the others more than any rank can; the minimum
 * is the lowest failing rank with its status, in one exchange. */
static hx_status lowest_failure(hx_session *s, hx_status status, int *rank, hx_status *first) {
    MPI_Comm *mpi = hx_comm_mpi_handle(s->world);
    int size = hx_comm_size(s->world), mine = hx_comm_rank(s->world);
    _Static_assert(HX_STATUS_COUNT <= 64, "a status does not fit into its digit");
    int64_t vote = ((int64_t)(status == HX_ERR_REMOTE ? size : mine)) * 64 + (int64_t)status;
    if (mpi) {
        (void)hx_comm_sync(s->world); /* a device that failed does not keep the ranks from talking */
        HX_TRY(hx_comm_failure(s->world));
        if (MPI_Allreduce(MPI_IN_PLACE, &vote, 1, MPI_INT64_T, MPI_MIN, *mpi) != MPI_SUCCESS)
            return HX_FAIL(HX_ERR_COMM, "the ranks could not tell each other which of them failed first");
    }
    *rank = (int)(vote / 64);
    *first = (hx_status)(vote % 64);
    return HX_OK;
}

hx_status hx__session_fail(hx_session *s, hx_status status) {
    if (status == HX_OK || hx_comm_is_dry(s->world)) return status;
    bool is_first_time = s->exit_code == 0;
    s->exit_code = hx_status_exit_code(status);
    int size = hx_comm_size(s->world), rank = 0;
    if (!s->closing || !is_first_time) return status;
    hx_status first = status;
    char message[1024];
    snprintf(message, sizeof message, "%s", hx_error_message());
    hx_deadline_start(s->closing, CLOSE_SECONDS, s->exit_code, message);
    bool can_vote = status != HX_ERR_COMM; /* else nobody can be asked any more */
    bool has_voted = can_vote && lowest_failure(s, status, &rank, &first) == HX_OK;
    hx_deadline_hush(s->closing);
    if (!has_voted) return hx_error_adopt(status, message);
    s->have_answered = true;
    s->exit_code = hx_status_exit_code(first);
    if (rank == hx_comm_rank(s->world) || rank == size) return hx_error_adopt(status, message);
    return hx_error_adopt(HX_ERR_REMOTE, status == HX_ERR_REMOTE ? message : "another rank failed in the same way");
}

void hx__session_settle(hx_session *s, void (*job)(void *arg), void *arg) {
    if (!s->closing) job(arg); /* one process waits for nobody */
    if (!s->closing || !s->have_answered) return;
    hx_deadline_stop(s->closing);
    job(arg);
    hx_deadline_start(s->closing, CLOSE_SECONDS, s->exit_code, "");
}

int hx__session_exit_code(const hx_session *session, hx_status status) {
    if (status == HX_OK) return 0;
    return session && session->exit_code ? session->exit_code : hx_status_exit_code(status);
}

hx_status hx__session_first(hx_session *s, hx_session_job job, void *arg) {
    bool goes_first = hx_comm_rank(s->world) == 0;
    HX_TRY(hx_comm_agree(s->world, goes_first ? job(s, arg) : HX_OK));
    return hx_comm_agree(s->world, goes_first ? HX_OK : job(s, arg));
}

/* ---- the built-in model ---- */

/* Cut where nothing takes memory: the whole model may not fit into one rank's. */
static hx_status create_cut(hx_session *s, hx_layer **gpt) {
    hx_device *meta;
    HX_TRY(hx_device_open("meta", NULL, &meta));
    hx_status status = hx_gpt_create(meta, &s->config.model, gpt);
    if (status == HX_OK) status = hx_gpt_set_shard(*gpt, hx_session_shard(s));
    if (status == HX_OK) status = hx_layer_move(*gpt, s->device);
    if (status != HX_OK) hx_layer_destroy(gpt);
    hx_device_close(&meta);
    return status;
}

static hx_status create_gpt(hx_session *s, void *arg) {
    hx_layer **gpt = arg;
    HX_TRY(s->tp ? create_cut(s, gpt) : hx_gpt_create(s->device, &s->config.model, gpt));
    return hx_gpt_init(*gpt, s->stream, (uint64_t)s->config.train.seed);
}

hx_status hx_session_gpt(hx_session *s, hx_model *model) {
    hx_layer *gpt = NULL;
    hx_status status = hx__session_fail(s, hx__session_first(s, create_gpt, &gpt));
    if (status != HX_OK) {
        hx_layer_destroy(&gpt);
        return status;
    }
    bool is_bytes = s->config.model.vocab == 256;
    *model = (hx_model){.self = gpt, .root = gpt, .loss = hx_lm_loss,
                        .unit_per_count = is_bytes ? 1 / M_LN2 : 0, .unit_name = is_bytes ? "bits/byte" : NULL};
    return HX_OK;
}

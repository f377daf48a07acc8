/* helix plan: every mesh and ZeRO stage that a model allows, rehearsed; what each needs, how long a step may take, and which is
 * best. */
#include "launch/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "launch/helix.h"
#include "launch/plan.h"

#define MOST_RANKS 65536
#define GIB        0x1p30
/* Code, libraries and MPI of a process: what VmHWM of runs with 2 MB to 1.6 GB of arena, on one and two ranks, is above arena and
 * neighbours' pages, within 7 %. Of a GPU: room for CUDA's context and the libraries' workspaces, not measured. */
#define CPU_BASE_MIB 36
#define GPU_BASE_MIB 1024

typedef struct plan_row {
    int64_t dp, tp, zero;
    hx_plan_use use;     /* of the heaviest rank */
    hx_plan_use work;    /* of the rank that computes most: its time is the step's */
    int64_t first_arena; /* of rank 0 */
    int64_t process;     /* bytes of the arena with its free blocks, and of what a process takes beside it */
    double compute, hidden, exposed, step; /* seconds */
    double sent[HX_AXIS_COUNT];            /* bytes that the rank sends in a step */
    char why[256];      /* it cannot be, or is not the best; "": it is */
    bool is_refused;    /* the model does not allow it: `use` is empty */
    bool fits;
} plan_row;

typedef struct plan {
    const hx_config *config;
    const hx_cli_config *own;
    plan_row *rows; /* [n_rows] owned */
    int64_t n_rows, capacity;
    double unit; /* bytes of what the table counts in */
} plan;

/* ---- time ---- */

/* Share of a buffer of n ranks that each of them sends, by the algorithms of a ring. */
static double sent_share(hx_collective kind, int64_t n) {
    const double others = (double)(n - 1) / (double)n;
    switch (kind) {
    case HX_COLL_ALL_REDUCE: return 2 * others;
    case HX_COLL_REDUCE_SCATTER:
    case HX_COLL_ALL_GATHER:
    case HX_COLL_ALL_TO_ALL: return others;
    default: return 1;
    }
}

/* Sums of gradients go on while backward computes; everything else is waited for. */
static bool is_hidden(hx_axis axis, hx_collective kind) {
    return axis == HX_AXIS_DP && (kind == HX_COLL_ALL_REDUCE || kind == HX_COLL_REDUCE_SCATTER || kind == HX_COLL_ALL_TO_ALL);
}

static void time_communication(const hx_cli_config *own, plan_row *row) {
    const int64_t degrees[HX_AXIS_COUNT] = {1, row->dp, 1, 1, row->tp};
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++) {
        /* a group of data-parallel ranks is on all hosts, one of tensor-parallel ranks on one */
        const double rate = 1e9 * (axis == HX_AXIS_DP && own->hosts > 1 ? own->network_gbs : own->link_gbs);
        for (int kind = 0; kind < HX_COLL_KINDS; kind++) {
            const hx_comm_dry_count *count = &row->work.calls[axis][kind];
            const double sent = sent_share((hx_collective)kind, degrees[axis]) * (double)count->n_bytes;
            const double seconds = sent / rate + 1e-6 * own->latency_us * (double)count->n_calls;
            row->sent[axis] += sent;
            *(is_hidden((hx_axis)axis, (hx_collective)kind) ? &row->hidden : &row->exposed) += seconds;
        }
    }
}

static void estimate(const plan *p, plan_row *row) {
    const hx_cli_config *own = p->own;
    const hx_plan_use *work = &row->work;
    row->compute = work->flops / (1e12 * (work->is_half ? own->half_tflops : own->tflops)) + work->moved_bytes / (1e9 * own->memory_gbs);
    time_communication(own, row);
    row->step = (row->compute > row->hidden ? row->compute : row->hidden) + row->exposed;
}

/* ---- rows ---- */

/* The configuration does not go with the mesh; anything else is a failure of the plan. */
static bool is_refusal(hx_status status) { return status == HX_ERR_CONFIG || status == HX_ERR_UNSUPPORTED; }

/* Of the first and the last data-parallel rank. Shares of a batch that the ranks do not divide differ by a sample, and the last one's
 * is the larger, in samples if not in bytes; shares of the optimizer's state are rounded differently. */
static hx_status rehearse_ends(const hx_config *config, bool shares_memory, plan_row *row) {
    const int size = (int)(row->dp * row->tp);
    hx_plan_use last;
    HX_TRY(hx__plan_rehearse(config, 0, size, shares_memory, &row->use));
    row->work = row->use;
    row->first_arena = row->use.arena;
    if (row->dp == 1) return HX_OK;
    HX_TRY(hx__plan_rehearse(config, size - (int)row->tp, size, shares_memory, &last));
    if (last.flops > row->work.flops) row->work = last;
    if (last.arena > row->use.arena) row->use = last;
    return HX_OK;
}

static bool is_on_cpu(const plan *p) {
    return strcmp(p->config->run.device, "cpu") == 0 || strcmp(p->config->run.device, "ref") == 0;
}

/* In shared memory a rank adds up its part of its neighbours' buckets, whose pages then count as its own too. */
static double neighbours_bytes(const plan *p, const plan_row *row) {
    const hx_plan_bytes *b = &row->use.bytes;
    const double n = (double)(p->own->gpus / row->tp);
    return is_on_cpu(p) ? (n - 1) / n * (double)(b->gradients + b->communication + (row->zero > 0 ? b->parameters : 0)) : 0;
}

static double base_bytes(const plan *p) {
    const int64_t given = p->own->base_mib;
    return 0x1p20 * (double)(given > 0 ? given : is_on_cpu(p) ? CPU_BASE_MIB : GPU_BASE_MIB);
}

static hx_status add_row(plan *p, int64_t tp, int64_t zero, bool *is_refused) {
    const int64_t dp = p->own->hosts * p->own->gpus / tp;
    hx_config config = *p->config;
    config.mesh.dp = dp;
    config.mesh.tp = tp;
    config.ddp.zero = zero;
    config.ddp.shard = 0; /* all: on one host there is no other way */
    HX_TRY(hx_mem_grow((void **)&p->rows, &p->capacity, p->n_rows + 1, sizeof *p->rows));
    plan_row *row = &p->rows[p->n_rows];
    *row = (plan_row){.dp = dp, .tp = tp, .zero = zero};
    const hx_status status = rehearse_ends(&config, is_on_cpu(p) && p->own->hosts == 1, row);
    if (status != HX_OK && !is_refusal(status)) return status;
    row->is_refused = *is_refused = status != HX_OK;
    p->n_rows++;
    if (row->is_refused) {
        snprintf(row->why, sizeof row->why, "%s", hx_error_message());
        hx_error_clear();
        return HX_OK;
    }
    row->process = row->use.held + (int64_t)(base_bytes(p) + neighbours_bytes(p, row)) + (is_on_cpu(p) ? row->use.share : 0);
    row->fits = (double)row->process <= p->own->memory_gib * GIB;
    estimate(p, row);
    return HX_OK;
}

static int64_t highest_stage(void) {
    for (int i = 0; i < hx_ddp_n_options; i++)
        if (strcmp(hx_ddp_options[i].name, "zero") == 0) return (int64_t)hx_ddp_options[i].max;
    return 0;
}

/* A tensor-parallel group stays on a host. What a mesh is refused for does not depend on the stage. */
static hx_status add_rows(plan *p) {
    const int64_t most = highest_stage();
    for (int64_t tp = 1; tp <= p->own->gpus; tp++) {
        const bool is_parallel = p->own->hosts * p->own->gpus > tp;
        bool is_refused = false;
        if (p->own->gpus % tp != 0) continue;
        for (int64_t zero = 0; zero <= (is_parallel ? most : 0) && !is_refused; zero++) HX_TRY(add_row(p, tp, zero, &is_refused));
    }
    return HX_OK;
}

/* ---- order ---- */

/* Seconds of a step in which the rank waits for communication. */
static double waiting(const plan_row *row) { return row->step - row->compute; }

static int sign(double x) { return (x > 0) - (x < 0); }

/* Those that fit by time, then by memory; those that do not by memory; those that cannot be. */
static int by_merit(const void *a, const void *b) {
    const plan_row *x = a, *y = b;
    if (x->is_refused != y->is_refused) return x->is_refused ? 1 : -1;
    if (x->is_refused) return sign((double)(x->tp - y->tp));
    if (x->fits != y->fits) return x->fits ? -1 : 1;
    if (x->fits && sign(x->step - y->step) != 0) return sign(x->step - y->step);
    if (x->process != y->process) return x->process > y->process ? 1 : -1;
    return sign((double)(x->zero - y->zero));
}

static void explain(const plan *p, plan_row *row) {
    const plan_row *best = &p->rows[0];
    if (row->is_refused || (row == best && row->fits)) return;
    if (!row->fits)
        snprintf(row->why, sizeof row->why, "does not fit: %.2f GiB too much", (double)row->process / GIB - p->own->memory_gib);
    else if (row->step > best->step * (1 + 1e-9))
        snprintf(row->why, sizeof row->why, "%.1f %% slower: %s", 100 * (row->step / best->step - 1),
                 waiting(row) - waiting(best) > row->compute - best->compute ? "waits for communication" : "computes longer");
    else
        snprintf(row->why, sizeof row->why, "as fast, but takes more memory");
}

/* ---- report ---- */

static void print_head(const plan *p) {
    const hx_gpt_config *m = &p->config->model;
    const hx_option_section section = {.prefix = "", .options = hx_gpt_options, .n_options = hx_gpt_n_options};
    char dtype[HX_OPTION_TEXT];
    hx_option_format(hx_options_find(&section, 1, "dtype", &(const hx_option_section *){NULL}), m, dtype, sizeof dtype);
    printf("GPT of %lld blocks of %lld, %s, %lld samples of %lld tokens a step; %lld host%s x %lld GPU%s of %g GiB\n\n", (long long)m->layers,
           (long long)m->dim, dtype, (long long)p->config->train.batch, (long long)m->ctx, (long long)p->own->hosts,
           p->own->hosts == 1 ? "" : "s", (long long)p->own->gpus, p->own->gpus == 1 ? "" : "s", p->own->memory_gib);
#define HEAD(field, head, text) printf(" %8s", head);
    printf("%5s %4s %4s", "dp", "tp", "zero");
    HX_PLAN_KINDS(HEAD)
#undef HEAD
    printf(" %8s %8s %8s %8s %8s\n", "arena", "process", "dp sends", "tp sends", "step ms");
}

/* MiB, unless these would be long numbers. */
static double choose_unit(const plan *p) {
    int64_t most = 0;
    for (int64_t i = 0; i < p->n_rows; i++)
        if (p->rows[i].process > most) most = p->rows[i].process;
    return (double)most < 99999 * 0x1p20 ? 0x1p20 : GIB;
}

static void print_bytes(const plan *p, double n) { printf(" %8.2f", n / p->unit); }

static void print_row(const plan *p, const plan_row *row) {
    printf("%5lld %4lld", (long long)row->dp, (long long)row->tp);
    if (row->is_refused) {
        printf("    -  %s\n", row->why);
        return;
    }
    printf(" %4lld", (long long)row->zero);
#define BYTES(field, head, text) print_bytes(p, (double)row->use.bytes.field);
    HX_PLAN_KINDS(BYTES)
#undef BYTES
    print_bytes(p, (double)row->use.arena);
    print_bytes(p, (double)row->process);
    print_bytes(p, row->sent[HX_AXIS_DP]);
    print_bytes(p, row->sent[HX_AXIS_TP]);
    printf(" %8.2f  %s\n", 1e3 * row->step, row->why[0] ? row->why : "best");
}

static void print_text(const plan *p) {
    const int64_t share = p->rows[0].use.share;
    char copy[256] = "";
    if (share > 0)
        snprintf(copy, sizeof copy, "ckpt.async: a rank of the first row copies %.1f MB of its checkpoint to the host's memory%s. It is taken beside the\n"
                 "first steps (with ckpt.every = -1 by the first save) and kept.\n", (double)share / 1e6, is_on_cpu(p) ? ", which the process counts" : "");
    print_head(p);
    for (int64_t i = 0; i < p->n_rows; i++) print_row(p, &p->rows[i]);
    printf("\n%s of the heaviest rank. arena: the allocator's high-water mark, which a run reports as memory_bytes: the sum of the columns\n"
           "before it. process: the arena with blocks that are kept for later, and %.0f MiB for %s.\n"
           "sends: in a step.\n%s", p->unit == GIB ? "GiB" : "MiB", base_bytes(p) / 0x1p20,
           is_on_cpu(p) ? "code, libraries and MPI, and shared pages of the neighbours" : "CUDA's context and libraries (--base_mib)", copy);
}

static json_t *row_json(const plan_row *row) {
    json_t *o = json_pack("{s:I, s:I, s:I, s:b, s:s}", "dp", (json_int_t)row->dp, "tp", (json_int_t)row->tp, "zero", (json_int_t)row->zero,
                          "fits", row->fits, "why", row->why[0] ? row->why : "best");
    json_t *bytes = json_object();
    if (!o || row->is_refused) {
        json_decref(bytes);
        return o;
    }
#define BYTES(field, head, text) json_object_set_new(bytes, #field, json_integer((json_int_t)row->use.bytes.field));
    HX_PLAN_KINDS(BYTES)
#undef BYTES
    json_object_update_new(o, json_pack("{s:i, s:o, s:I, s:I, s:I, s:I, s:I}", "rank", row->use.rank, "bytes", bytes, "rank0_arena",
                                        (json_int_t)row->first_arena, "arena", (json_int_t)row->use.arena, "held",
                                        (json_int_t)row->use.held, "ckpt_copy", (json_int_t)row->use.share, "process", (json_int_t)row->process));
    const struct {
        const char *name;
        double value;
    } reals[] = {{"flops", row->work.flops}, {"dp_bytes_sent", row->sent[HX_AXIS_DP]}, {"tp_bytes_sent", row->sent[HX_AXIS_TP]},
                 {"compute_s", row->compute}, {"hidden_s", row->hidden}, {"exposed_s", row->exposed}, {"step_s", row->step}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) json_object_set_new(o, reals[i].name, hx__json_real(reals[i].value));
    return o;
}

static hx_status print_json(const plan *p) {
    json_t *rows = json_array();
    for (int64_t i = 0; i < p->n_rows; i++) json_array_append_new(rows, row_json(&p->rows[i]));
    return hx__print_json(json_pack("{s:s, s:I, s:I, s:o, s:o}", "helix", hx_version(), "hosts", (json_int_t)p->own->hosts, "gpus",
                                    (json_int_t)p->own->gpus, "memory_gib", hx__json_real(p->own->memory_gib), "plans", rows));
}

/* ---- the command ---- */

static hx_status judge(const plan *p) {
    const plan_row *best = &p->rows[0];
    const int64_t n_ranks = p->own->hosts * p->own->gpus;
    if (best->is_refused)
        return HX_FAIL(HX_ERR_CONFIG, "no mesh of %lld x %lld GPUs goes with the model; the first: %.300s", (long long)p->own->hosts,
                       (long long)p->own->gpus, best->why);
    if (!best->fits)
        return HX_FAIL(HX_ERR_CONFIG, "nothing fits into %g GiB: the least is %.2f GiB, dp=%lld x tp=%lld with ddp.zero %lld; expected more than "
                       "%lld GPUs, a smaller train.micro_batch, model.recompute 1, or model.dtype bf16", p->own->memory_gib,
                       (double)best->process / GIB, (long long)best->dp, (long long)best->tp, (long long)best->zero, (long long)n_ranks);
    return HX_OK;
}

static hx_status make(plan *p, bool as_json) {
    HX_TRY(add_rows(p));
    qsort(p->rows, (size_t)p->n_rows, sizeof *p->rows, by_merit);
    for (int64_t i = 0; i < p->n_rows; i++) explain(p, &p->rows[i]);
    if (!p->rows[0].is_refused || as_json) {
        p->unit = choose_unit(p);
        if (as_json) HX_TRY(print_json(p));
        else print_text(p);
    }
    return judge(p);
}

static hx_status check_device(const char *name) {
    static const char *const known[] = {"", "cuda", "cpu", "ref"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i]) == 0) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "device = %s: expected cuda, cpu or ref", name);
}

hx_status hx_cmd_plan(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("plan"), cli, argc, argv));
    const hx_cli_config *own = &cli->own;
    if (own->hosts * own->gpus > MOST_RANKS)
        return HX_FAIL(HX_ERR_CONFIG, "hosts = %lld, gpus = %lld: %lld ranks, expected at most %d", (long long)own->hosts, (long long)own->gpus,
                       (long long)(own->hosts * own->gpus), MOST_RANKS);
    HX_TRY(check_device(cli->config.run.device));
    if (cli->config.ddp.shard != 0 && own->hosts > 1)
        return HX_FAIL(HX_ERR_CONFIG, "ddp.shard = host on %lld hosts is not planned: expected all", (long long)own->hosts);
    plan p = {.config = &cli->config, .own = own};
    hx_status status = make(&p, own->json);
    hx_mem_free((void **)&p.rows);
    return status;
}

/* 1. order all nodes by their dependencies: what is left over lies on a cycle
 * 2. from the wanted values backwards, mark the nodes that are needed and count how often they use each value
 * 3. run the marked nodes in order; a value goes with its last use */
#include "core/op/graph.h"

#include <string.h>

#include "core/base/mem.h"

typedef struct node {
    hx_op op;
    hx_op_attr attr;
    int n_in, n_out;
    hx_value in[HX_OP_MAX_IN], out[HX_OP_MAX_OUT];
} node;

struct hx_graph {
    node *nodes;
    int32_t *producer; /* [n_values] node, -1: none */
    int64_t n_nodes, nodes_capacity, n_values, values_capacity;
};

hx_status hx_graph_create(hx_graph **out) {
    void *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_graph), &p));
    *out = p;
    return HX_OK;
}

void hx_graph_destroy(hx_graph **graph) {
    if (*graph == NULL) return;
    hx_mem_free((void **)&(*graph)->nodes);
    hx_mem_free((void **)&(*graph)->producer);
    hx_mem_free((void **)graph);
}

hx_status hx_graph_value(hx_graph *graph, hx_value *out) {
    if (graph->n_values == INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "more than %d values in a graph", INT32_MAX);
    HX_TRY(hx_mem_grow((void **)&graph->producer, &graph->values_capacity, graph->n_values + 1, sizeof *graph->producer));
    graph->producer[graph->n_values] = -1;
    *out = (hx_value)graph->n_values++;
    return HX_OK;
}

static hx_status check_value(const hx_graph *graph, const char *what, int i, hx_value v) {
    if (v >= 0 && v < graph->n_values) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "%s %d: the graph has no value %d", what, i, (int)v);
}

static hx_status check_outputs(const hx_graph *graph, const hx_op_info *info, const hx_value *out) {
    for (int i = 0; i < info->n_out; i++) {
        if (out[i] == HX_NO_VALUE) continue;
        HX_TRY(check_value(graph, "output", i, out[i]));
        if (graph->producer[out[i]] >= 0)
            return HX_FAIL(HX_ERR_ARG, "%s: value %d is made by op %d already", info->name, (int)out[i], (int)graph->producer[out[i]]);
        for (int j = 0; j < i; j++)
            if (out[j] == out[i]) return HX_FAIL(HX_ERR_ARG, "%s: outputs %d and %d are one value", info->name, j, i);
    }
    return HX_OK;
}

hx_status hx_graph_op(hx_graph *graph, hx_op op, const hx_value *in, int n_in, const hx_op_attr *attr, const hx_value *out) {
    if ((unsigned)op >= HX_OP_COUNT) return HX_FAIL(HX_ERR_ARG, "op %d does not exist", (int)op);
    const hx_op_info *info = hx_op_info_get(op);
    if (info->flags & (HX_OP_VIEW | HX_OP_INOUT))
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%s in a graph: %s", info->name,
                       info->flags & HX_OP_VIEW ? "a view has no kernel" : "it updates its outputs in place");
    if (n_in < info->n_required || n_in > info->n_in)
        return HX_FAIL(HX_ERR_ARG, "%s: %d operands: expected %d to %d", info->name, n_in, info->n_required, info->n_in);
    if (graph->n_nodes == INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "more than %d ops in a graph", INT32_MAX);
    for (int i = 0; i < n_in; i++)
        if (in[i] != HX_NO_VALUE || i < info->n_required) HX_TRY(check_value(graph, "operand", i, in[i]));
    HX_TRY(check_outputs(graph, info, out));
    HX_TRY(hx_mem_grow((void **)&graph->nodes, &graph->nodes_capacity, graph->n_nodes + 1, sizeof *graph->nodes));
    node *n = &graph->nodes[graph->n_nodes];
    *n = (node){.op = op, .n_in = n_in, .n_out = info->n_out};
    if (attr != NULL) n->attr = *attr;
    memcpy(n->in, in, sizeof *in * (size_t)n_in);
    memcpy(n->out, out, sizeof *out * (size_t)info->n_out);
    for (int i = 0; i < n->n_out; i++)
        if (out[i] != HX_NO_VALUE) graph->producer[out[i]] = (int32_t)graph->n_nodes;
    graph->n_nodes++;
    return HX_OK;
}

/* ---- running ---- */

typedef struct run {
    const hx_graph *graph;
    hx_ctx *ctx;
    int32_t *order;     /* [n_nodes] */
    bool *is_waiting;   /* [n_nodes] not in the order yet */
    bool *is_needed;    /* [n_nodes] */
    int32_t *n_uses;    /* [n_values] still to come */
    hx_tensor **tensor; /* [n_values] owned */
} run;

static int32_t producer_of(const run *r, hx_value v) { return v == HX_NO_VALUE ? -1 : r->graph->producer[v]; }

static bool waits(const run *r, const node *n) {
    for (int k = 0; k < n->n_in; k++) {
        int32_t p = producer_of(r, n->in[k]);
        if (p >= 0 && r->is_waiting[p]) return true;
    }
    return false;
}

/* 1. Each round takes the nodes that wait for nothing, in the order in which they were added. A heap would save rounds in
 * graphs built back to front; ops cost far more than looking at them. */
static hx_status order_nodes(run *r) {
    const hx_graph *g = r->graph;
    int64_t n_ordered = 0, before = -1;
    for (int64_t i = 0; i < g->n_nodes; i++) r->is_waiting[i] = true;
    while (n_ordered < g->n_nodes && n_ordered != before) {
        before = n_ordered;
        for (int64_t i = 0; i < g->n_nodes; i++) {
            if (!r->is_waiting[i] || waits(r, &g->nodes[i])) continue;
            r->is_waiting[i] = false;
            r->order[n_ordered++] = (int32_t)i;
        }
    }
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (r->is_waiting[i])
            return HX_FAIL(HX_ERR_ARG, "op %lld (%s) waits for a value that depends on its own result: the graph has a cycle", (long long)i,
                           hx_op_info_get(g->nodes[i].op)->name);
    return HX_OK;
}

static hx_status bind_feeds(run *r, const hx_value *feeds, hx_tensor *const *tensors, int n_feeds) {
    for (int i = 0; i < n_feeds; i++) {
        HX_TRY(check_value(r->graph, "feed", i, feeds[i]));
        if (tensors[i] == NULL) return HX_FAIL(HX_ERR_ARG, "feed %d is NULL", i);
        if (r->graph->producer[feeds[i]] >= 0 || r->tensor[feeds[i]] != NULL)
            return HX_FAIL(HX_ERR_ARG, "feed %d: value %d is %s", i, (int)feeds[i], r->tensor[feeds[i]] ? "fed twice" : "made by an op");
        r->tensor[feeds[i]] = hx_tensor_retain(tensors[i]);
    }
    return HX_OK;
}

static hx_status use(run *r, hx_value v) {
    if (v == HX_NO_VALUE) return HX_OK;
    int32_t p = r->graph->producer[v];
    if (p < 0 && r->tensor[v] == NULL) return HX_FAIL(HX_ERR_ARG, "value %d is needed, and neither fed nor made by an op", (int)v);
    if (p >= 0) r->is_needed[p] = true;
    r->n_uses[v]++;
    return HX_OK;
}

/* 2. Later nodes come first, so that a node is known to be needed before its operands are looked at. */
static hx_status mark_needed(run *r, const hx_value *wanted, int n_wanted) {
    for (int i = 0; i < n_wanted; i++) {
        HX_TRY(check_value(r->graph, "wanted value", i, wanted[i]));
        HX_TRY(use(r, wanted[i]));
    }
    for (int64_t i = r->graph->n_nodes - 1; i >= 0; i--) {
        const node *n = &r->graph->nodes[r->order[i]];
        for (int k = 0; k < n->n_in && r->is_needed[r->order[i]]; k++) HX_TRY(use(r, n->in[k]));
    }
    return HX_OK;
}

static void used(run *r, hx_value v) {
    if (v != HX_NO_VALUE && --r->n_uses[v] == 0) hx_tensor_destroy(&r->tensor[v]);
}

/* 3. */
static hx_status run_node(run *r, const node *n) {
    hx_tensor *in[HX_OP_MAX_IN] = {NULL}, *out[HX_OP_MAX_OUT] = {NULL};
    unsigned skip = 0;
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != HX_NO_VALUE) in[k] = r->tensor[n->in[k]];
    /* what nobody uses is not computed where its derivative will not need it */
    for (int k = 0; k < n->n_out; k++)
        if (r->ctx->tape == NULL && (n->out[k] == HX_NO_VALUE || r->n_uses[n->out[k]] == 0)) skip |= 1u << k;
    HX_TRY(hx_op_run(r->ctx, n->op, in, n->n_in, &n->attr, skip, out));
    for (int k = 0; k < n->n_out; k++) {
        if (n->out[k] != HX_NO_VALUE && r->n_uses[n->out[k]] > 0) r->tensor[n->out[k]] = hx_tensor_move(&out[k]);
        hx_tensor_destroy(&out[k]);
    }
    for (int k = 0; k < n->n_in; k++) used(r, n->in[k]);
    return HX_OK;
}

static hx_status run_all(run *r, const hx_value *feeds, hx_tensor *const *tensors, int n_feeds, const hx_value *wanted, int n_wanted,
                         hx_tensor **out) {
    HX_TRY(order_nodes(r));
    HX_TRY(bind_feeds(r, feeds, tensors, n_feeds));
    HX_TRY(mark_needed(r, wanted, n_wanted));
    for (int64_t i = 0; i < r->graph->n_nodes; i++)
        if (r->is_needed[r->order[i]]) HX_TRY(run_node(r, &r->graph->nodes[r->order[i]]));
    for (int i = 0; i < n_wanted; i++) out[i] = hx_tensor_retain(r->tensor[wanted[i]]);
    return HX_OK;
}

hx_status hx_graph_run(const hx_graph *graph, hx_ctx *ctx, const hx_value *feeds, hx_tensor *const *tensors, int n_feeds,
                       const hx_value *wanted, int n_wanted, hx_tensor **out) {
    run r = {.graph = graph, .ctx = ctx};
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_mem_alloc_array(graph->n_nodes, sizeof *r.order, (void **)&r.order), done);
    HX_TRY_GOTO(hx_mem_alloc_array(graph->n_nodes, sizeof *r.is_waiting, (void **)&r.is_waiting), done);
    HX_TRY_GOTO(hx_mem_alloc_array(graph->n_nodes, sizeof *r.is_needed, (void **)&r.is_needed), done);
    HX_TRY_GOTO(hx_mem_alloc_array(graph->n_values, sizeof *r.n_uses, (void **)&r.n_uses), done);
    HX_TRY_GOTO(hx_mem_alloc_array(graph->n_values, sizeof *r.tensor, (void **)&r.tensor), done);
    status = run_all(&r, feeds, tensors, n_feeds, wanted, n_wanted, out);
done:
    for (int64_t v = 0; r.tensor != NULL && v < graph->n_values; v++) hx_tensor_destroy(&r.tensor[v]);
    hx_mem_free((void **)&r.tensor);
    hx_mem_free((void **)&r.n_uses);
    hx_mem_free((void **)&r.is_needed);
    hx_mem_free((void **)&r.is_waiting);
    hx_mem_free((void **)&r.order);
    return status;
}

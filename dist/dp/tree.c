#include "dist/dp/tree.h"

static bool completes(const hx__tree *t, int level, int64_t index) {
    const hx__node *last = t->n_nodes > 0 ? &t->nodes[t->n_nodes - 1] : NULL;
    return last != NULL && (index & 1) != 0 && last->level == level && last->index == index - 1;
}

hx_status hx__tree_add(const hx_ctx *ctx, hx_tensor *a, hx_tensor *b) {
    hx_ctx quiet = hx_no_grad(ctx);
    return hx_op_run(&quiet, HX_OP_add, (hx_tensor *[]){a, b}, 2, NULL, 0, &a);
}

void hx__tree_give_consume(hx__tree *t, hx_tensor **x) {
    if (*x != NULL && t->n_spare < HX__TREE_NODES) t->spare[t->n_spare++] = hx_tensor_move(x);
    hx_tensor_destroy(x);
}

hx_tensor *hx__tree_take(hx__tree *t) { return t->n_spare > 0 ? t->spare[--t->n_spare] : NULL; }

hx_status hx__tree_push_consume(hx__tree *t, const hx_ctx *ctx, int level, int64_t index, hx_tensor **x) {
    for (; completes(t, level, index); level++, index /= 2) {
        hx__node *left = &t->nodes[t->n_nodes - 1];
        hx_status status = hx__tree_add(ctx, left->sum, *x);
        hx__tree_give_consume(t, x);
        if (status != HX_OK) return status;
        *x = left->sum;
        t->n_nodes--;
    }
    if (t->n_nodes == HX__TREE_NODES) {
        hx_tensor_destroy(x);
        return HX_FAIL(HX_ERR_INTERNAL, "node %lld of level %d: the tree holds %d already", (long long)index, level, HX__TREE_NODES);
    }
    t->nodes[t->n_nodes++] = (hx__node){.sum = hx_tensor_move(x), .level = level, .index = index};
    return HX_OK;
}

hx_status hx__tree_push(hx__tree *t, const hx_ctx *ctx, int level, int64_t index, hx_tensor *x) {
    hx_ctx quiet = hx_no_grad(ctx);
    if (completes(t, level, index)) {
        hx_tensor *sum = t->nodes[--t->n_nodes].sum;
        hx_status status = hx__tree_add(ctx, sum, x);
        if (status == HX_OK) return hx__tree_push_consume(t, ctx, level + 1, index / 2, &sum);
        hx__tree_give_consume(t, &sum);
        return status;
    }
    hx_tensor *own = hx__tree_take(t);
    if (own == NULL) return HX_FAIL(HX_ERR_INTERNAL, "node %lld of level %d: no spare buffer", (long long)index, level);
    hx_status status = hx_copy_into(&quiet, x, own);
    if (status == HX_OK) return hx__tree_push_consume(t, ctx, level, index, &own);
    hx__tree_give_consume(t, &own);
    return status;
}

void hx__tree_clear(hx__tree *t) {
    while (t->n_nodes > 0) hx__tree_give_consume(t, &t->nodes[--t->n_nodes].sum);
}

void hx__tree_destroy(hx__tree *t) {
    hx__tree_clear(t);
    while (t->n_spare > 0) hx_tensor_destroy(&t->spare[--t->n_spare]);
}

int hx__tree_pieces(int64_t first, int64_t end, hx__node out[HX__TREE_NODES]) {
    int n = 0;
    while (first < end) {
        int level = 0;
        while (((first >> level) & 1) == 0 && first + ((int64_t)2 << level) <= end) level++;
        out[n++] = (hx__node){.level = level, .index = first >> level};
        first += (int64_t)1 << level;
    }
    return n;
}

int hx__tree_most(int64_t first, int64_t end, bool consumes) {
    int most = 0;
    for (int64_t leaf = first; leaf < end; leaf++) {
        hx__node pieces[HX__TREE_NODES];
        const int n = hx__tree_pieces(first, leaf, pieces) + (consumes || leaf == first || (leaf & 1) == 0);
        if (n > most) most = n;
    }
    return most;
}

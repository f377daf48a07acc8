/* Sums of numbered leaves in one binary tree, whatever the order of their coming and wherever they were computed:
 * node (level, index) is the sum of leaves [index << level, (index + 1) << level), left half plus right half. Leaves, or nodes, are
 * pushed in rising order; neighbours that are the halves of a node are added up at once, so that few are held: a binary
 * counter. Bits depend on the leaves alone. For dist/dp only.
 */
#ifndef HX_DIST_DP_TREE_H
#define HX_DIST_DP_TREE_H

#include "core/op/ops.h"

enum { HX__TREE_NODES = 64 }; /* of aligned pieces of any range of 2^31 leaves there are fewer */

typedef struct hx__node {
    hx_tensor *sum; /* owned */
    int level;
    int64_t index;
} hx__node;

typedef struct hx__tree {
    hx__node nodes[HX__TREE_NODES]; /* from left to right */
    int n_nodes;
    hx_tensor *spare[HX__TREE_NODES]; /* buffers that are free; owned */
    int n_spare;
} hx__tree;

/** a += b */
hx_status hx__tree_add(const hx_ctx *ctx, hx_tensor *a, hx_tensor *b);
/** Take x over as the next node. @param x  consumed, also on failure, and written to: later sums may be held in it */
hx_status hx__tree_push_consume(hx__tree *tree, const hx_ctx *ctx, int level, int64_t index, hx_tensor **x);
/** Add x, borrowed and left as it is, as the next node; held in a spare buffer, of which there must be one unless its left half
 *  is the last node. */
hx_status hx__tree_push(hx__tree *tree, const hx_ctx *ctx, int level, int64_t index, hx_tensor *x);
/** A spare buffer for the caller, NULL: there is none; and back. */
hx_tensor *hx__tree_take(hx__tree *tree);
void hx__tree_give_consume(hx__tree *tree, hx_tensor **x);
/** Nodes become spare buffers. */
void hx__tree_clear(hx__tree *tree);
void hx__tree_destroy(hx__tree *tree);

/** Aligned pieces that leaves [first, end) make up, from left to right. Returns how many. @param out  sum is not set */
int hx__tree_pieces(int64_t first, int64_t end, hx__node out[HX__TREE_NODES]);
/** Buffers in use at most while leaves first, first + 1, ... end - 1 are pushed. @param consumes  each comes in one of them */
int hx__tree_most(int64_t first, int64_t end, bool consumes);

#endif

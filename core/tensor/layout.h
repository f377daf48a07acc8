/* Layout: which part of a global logical tensor lies where in a piece of local storage.
 *
 * A layout is a global shape and a list of disjoint boxes. A box is a hyper-rectangle of the global tensor
 * whose elements lie row-major and without gaps in local storage from `local` on. That describes
 *   - a whole tensor: one box;
 *   - a tensor-parallel slice of any dim: one box;
 *   - q, k, v (grouped-query too) as logical tensors over fused storage: a few boxes each;
 *   - a flat ZeRO range of any of these: hx_layout_restrict cuts the boxes, at most 2*ndim-1 pieces each.
 * Checkpoints and resharding need nothing else.
 *
 *     hx_layout slice, mine;
 *     HX_TRY(hx_layout_slice(&shape, 0, tp_rank * rows, rows, &slice));        // rows of a column-parallel weight
 *     HX_TRY(hx_layout_restrict(&slice, n * dp_rank / dp, n * (dp_rank + 1) / dp, &mine));   // my ZeRO range
 *     hx_layout_destroy(&mine); hx_layout_destroy(&slice);
 */
#ifndef HX_CORE_TENSOR_LAYOUT_H
#define HX_CORE_TENSOR_LAYOUT_H

#include "core/tensor/shape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_box {
    int64_t start[HX_MAX_DIMS];  /* [ndim] first global index per dim */
    int64_t extent[HX_MAX_DIMS]; /* [ndim] > 0 */
    int64_t local;               /* element offset of the box in local storage */
} hx_box;

typedef struct hx_layout {
    hx_shape shape; /* of the global tensor */
    int n_boxes;    /* 0: nothing of it is held here */
    hx_box *boxes;  /* owned, ordered by `local` */
} hx_layout;

/** The whole tensor, row-major from local offset 0. */
hx_status hx_layout_full(const hx_shape *shape, hx_layout *out);
/** Indices [start, start+length) of `dim`, stored row-major from local offset 0. length 0: no box.
 *  @return HX_ERR_SHAPE if the slice does not fit */
hx_status hx_layout_slice(const hx_shape *shape, int dim, int64_t start, int64_t length, hx_layout *out);
/** From a list of boxes, copied and sorted by `local`.
 *  @return HX_ERR_SHAPE if a box leaves the shape, or two overlap globally or locally */
hx_status hx_layout_boxes(const hx_shape *shape, const hx_box *boxes, int n_boxes, hx_layout *out);
/** The part whose local offsets lie in [begin, end), with offsets counted from `begin`: the layout of a flat
 *  shard of that storage. */
hx_status hx_layout_restrict(const hx_layout *layout, int64_t begin, int64_t end, hx_layout *out);
hx_status hx_layout_copy(const hx_layout *layout, hx_layout *out);
void hx_layout_destroy(hx_layout *layout);
/** Elements held here. */
int64_t hx_layout_count(const hx_layout *layout);
/** Local offset of a global index [ndim], or -1 if it is not held here. */
int64_t hx_layout_find(const hx_layout *layout, const int64_t *index);
int64_t hx_box_count(const hx_box *box, int ndim);

#ifdef __cplusplus
}
#endif
#endif

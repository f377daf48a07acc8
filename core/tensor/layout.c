#include <stdlib.h>
#include <string.h>
#include "core/base/mem.h"
#include "core/tensor/layout.h"

int64_t hx_box_count(const hx_box *box, int ndim) {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= box->extent[d];
    return n;
}

/* A layout of the shape with room for n boxes. */
static hx_status layout_alloc(const hx_shape *shape, int n_boxes, hx_layout *out) {
    void *boxes = NULL;
    if (n_boxes > 0) HX_TRY(hx_mem_alloc_array(n_boxes, sizeof(hx_box), &boxes));
    *out = (hx_layout){.shape = *shape, .n_boxes = n_boxes, .boxes = boxes};
    return HX_OK;
}

hx_status hx_layout_full(const hx_shape *shape, hx_layout *out) {
    HX_TRY(hx_shape_check(shape));
    hx_layout layout;
    HX_TRY(layout_alloc(shape, hx_shape_count(shape) > 0, &layout));
    if (layout.n_boxes)
        for (int d = 0; d < shape->ndim; d++) layout.boxes[0].extent[d] = shape->dims[d];
    *out = layout;
    return HX_OK;
}

hx_status hx_layout_slice(const hx_shape *shape, int dim, int64_t start, int64_t length, hx_layout *out) {
    char text[HX_SHAPE_TEXT];
    HX_TRY(hx_shape_check(shape));
    if (dim < 0 || dim >= shape->ndim)
        return HX_FAIL(HX_ERR_SHAPE, "dim %d of shape %s: expected 0..%d", dim, hx_shape_text(shape, text),
                       shape->ndim - 1);
    if (start < 0 || length < 0 || start > shape->dims[dim] || length > shape->dims[dim] - start)
        return HX_FAIL(HX_ERR_SHAPE, "%lld indices from %lld on in dim %d of shape %s: they do not fit",
                       (long long)length, (long long)start, dim, hx_shape_text(shape, text));
    bool empty = length == 0 || hx_shape_count(shape) == 0;
    hx_layout layout;
    HX_TRY(layout_alloc(shape, !empty, &layout));
    if (!empty) {
        for (int d = 0; d < shape->ndim; d++) layout.boxes[0].extent[d] = shape->dims[d];
        layout.boxes[0].start[dim] = start;
        layout.boxes[0].extent[dim] = length;
    }
    *out = layout;
    return HX_OK;
}

static int compare_local(const void *a, const void *b) {
    int64_t x = ((const hx_box *)a)->local, y = ((const hx_box *)b)->local;
    return (x > y) - (x < y);
}

static bool boxes_overlap(const hx_box *a, const hx_box *b, int ndim) {
    for (int d = 0; d < ndim; d++)
        if (a->start[d] >= b->start[d] + b->extent[d] || b->start[d] >= a->start[d] + a->extent[d]) return false;
    return true;
}

static hx_status box_check(const hx_shape *shape, const hx_box *box, int number) {
    char text[HX_SHAPE_TEXT];
    for (int d = 0; d < shape->ndim; d++) {
        int64_t start = box->start[d], extent = box->extent[d], size = shape->dims[d];
        if (start < 0 || extent <= 0 || start > size || extent > size - start)
            return HX_FAIL(HX_ERR_SHAPE, "box %d: start %lld and extent %lld in dim %d leave shape %s", number,
                           (long long)start, (long long)extent, d, hx_shape_text(shape, text));
    }
    if (shape->ndim > 0 && hx_shape_count(shape) == 0)
        return HX_FAIL(HX_ERR_SHAPE, "box %d in the empty shape %s", number, hx_shape_text(shape, text));
    if (box->local < 0 || box->local > INT64_MAX - hx_box_count(box, shape->ndim))
        return HX_FAIL(HX_ERR_SHAPE, "box %d: local offset %lld with %lld elements: expected a range in 0..2^63-1",
                       number, (long long)box->local, (long long)hx_box_count(box, shape->ndim));
    return HX_OK;
}

/* `boxes` are sorted by local offset. Pairs are compared one by one: lists have as many boxes as a fused
 * parameter has parts, times the pieces of a flat range, which is a few dozen at most. */
static hx_status boxes_check_disjoint(const hx_shape *shape, const hx_box *boxes, int n_boxes) {
    for (int i = 1; i < n_boxes; i++) {
        int64_t end = boxes[i - 1].local + hx_box_count(&boxes[i - 1], shape->ndim);
        if (boxes[i].local < end)
            return HX_FAIL(HX_ERR_SHAPE, "two boxes overlap in local storage: one ends at %lld, the next starts at %lld",
                           (long long)end, (long long)boxes[i].local);
    }
    for (int i = 0; i < n_boxes; i++)
        for (int j = 0; j < i; j++)
            if (boxes_overlap(&boxes[i], &boxes[j], shape->ndim))
                return HX_FAIL(HX_ERR_SHAPE, "the boxes at local offsets %lld and %lld hold the same global elements",
                               (long long)boxes[j].local, (long long)boxes[i].local);
    return HX_OK;
}

hx_status hx_layout_boxes(const hx_shape *shape, const hx_box *boxes, int n_boxes, hx_layout *out) {
    HX_TRY(hx_shape_check(shape));
    if (n_boxes < 0 || (n_boxes > 0 && !boxes))
        return HX_FAIL(HX_ERR_ARG, "%d boxes at %p: expected a list", n_boxes, (const void *)boxes);
    for (int i = 0; i < n_boxes; i++) HX_TRY(box_check(shape, &boxes[i], i));
    HX_CLEANUP(hx_layout_destroy) hx_layout layout = {0};
    HX_TRY(layout_alloc(shape, n_boxes, &layout));
    if (n_boxes) {
        memcpy(layout.boxes, boxes, (size_t)n_boxes * sizeof *boxes);
        qsort(layout.boxes, (size_t)n_boxes, sizeof *boxes, compare_local);
    }
    HX_TRY(boxes_check_disjoint(shape, layout.boxes, n_boxes));
    *out = layout;
    layout.boxes = NULL; /* handed on */
    return HX_OK;
}

/* A flat range of a box, cut into boxes. Seen from dim d inwards a range is a part of a first row, whole rows in
 * the middle, and a part of a last row; the parts are ranges of the dims further in. Only the outermost dim in
 * which the range spans several rows yields both a head and a tail, hence at most 2*ndim-1 pieces. */
typedef struct cutter {
    int ndim;
    int64_t inner[HX_MAX_DIMS]; /* [ndim] elements of the box per index of the dim */
    hx_box current;             /* start and extent of the outer dims, which are fixed by now */
    const hx_box *whole;
    hx_box *pieces;
    int n_pieces;
    int64_t local; /* of the next piece */
} cutter;

static void cut_emit(cutter *c, int dim, int64_t first, int64_t n_rows) {
    c->current.start[dim] = c->whole->start[dim] + first;
    c->current.extent[dim] = n_rows;
    for (int d = dim + 1; d < c->ndim; d++) {
        c->current.start[d] = c->whole->start[d];
        c->current.extent[d] = c->whole->extent[d];
    }
    c->current.local = c->local;
    c->local += n_rows * c->inner[dim];
    c->pieces[c->n_pieces++] = c->current;
}

static void cut(cutter *c, int dim, int64_t begin, int64_t end) {
    int64_t inner = c->inner[dim], first = begin / inner, last = end / inner; /* rows [first, last), then a tail */
    if (begin % inner) {
        int64_t stop = end < (first + 1) * inner ? end : (first + 1) * inner;
        c->current.start[dim] = c->whole->start[dim] + first;
        c->current.extent[dim] = 1;
        cut(c, dim + 1, begin - first * inner, stop - first * inner);
        first++;
    }
    if (last > first) cut_emit(c, dim, first, last - first);
    if (last >= first && end % inner) {
        c->current.start[dim] = c->whole->start[dim] + last;
        c->current.extent[dim] = 1;
        cut(c, dim + 1, 0, end - last * inner);
    }
}

/* Pieces of box elements [begin, end), which is not empty; their local offsets start at `local`. */
static int box_cut(const hx_box *box, int ndim, int64_t begin, int64_t end, int64_t local, hx_box *pieces) {
    if (ndim == 0) {
        pieces[0] = *box;
        pieces[0].local = local;
        return 1;
    }
    cutter c = {.ndim = ndim, .whole = box, .pieces = pieces, .local = local};
    c.inner[ndim - 1] = 1;
    for (int d = ndim - 2; d >= 0; d--) c.inner[d] = c.inner[d + 1] * box->extent[d + 1];
    cut(&c, 0, begin, end);
    return c.n_pieces;
}

hx_status hx_layout_restrict(const hx_layout *layout, int64_t begin, int64_t end, hx_layout *out) {
    if (begin < 0 || end < begin)
        return HX_FAIL(HX_ERR_ARG, "range [%lld, %lld): expected 0 <= begin <= end", (long long)begin, (long long)end);
    int ndim = layout->shape.ndim, most = ndim > 0 ? 2 * ndim - 1 : 1, n_hit = 0;
    for (int i = 0; i < layout->n_boxes; i++) {
        const hx_box *box = &layout->boxes[i];
        n_hit += box->local < end && box->local + hx_box_count(box, ndim) > begin;
    }
    if (n_hit > INT32_MAX / most) return HX_FAIL(HX_ERR_OVERFLOW, "%d boxes with up to %d pieces each", n_hit, most);
    hx_layout part;
    HX_TRY(layout_alloc(&layout->shape, n_hit * most, &part));
    int n = 0;
    for (int i = 0; i < layout->n_boxes; i++) {
        const hx_box *box = &layout->boxes[i];
        int64_t stop = box->local + hx_box_count(box, ndim);
        int64_t from = box->local > begin ? box->local : begin, to = stop < end ? stop : end;
        if (from < to) n += box_cut(box, ndim, from - box->local, to - box->local, from - begin, &part.boxes[n]);
    }
    part.n_boxes = n;
    if (n == 0) hx_layout_destroy(&part);
    part.shape = layout->shape;
    *out = part;
    return HX_OK;
}

hx_status hx_layout_copy(const hx_layout *layout, hx_layout *out) {
    hx_layout copy;
    HX_TRY(layout_alloc(&layout->shape, layout->n_boxes, &copy));
    if (copy.n_boxes) memcpy(copy.boxes, layout->boxes, (size_t)copy.n_boxes * sizeof(hx_box));
    *out = copy;
    return HX_OK;
}

void hx_layout_destroy(hx_layout *layout) {
    if (!layout) return;
    hx_mem_free((void **)&layout->boxes);
    layout->n_boxes = 0;
}

int64_t hx_layout_count(const hx_layout *layout) {
    int64_t n = 0;
    for (int i = 0; i < layout->n_boxes; i++) n += hx_box_count(&layout->boxes[i], layout->shape.ndim);
    return n;
}

int64_t hx_layout_find(const hx_layout *layout, const int64_t *index) {
    int ndim = layout->shape.ndim;
    for (int i = 0; i < layout->n_boxes; i++) {
        const hx_box *box = &layout->boxes[i];
        int64_t offset = 0;
        int d = 0;
        while (d < ndim && index[d] >= box->start[d] && index[d] - box->start[d] < box->extent[d]) {
            offset = offset * box->extent[d] + (index[d] - box->start[d]);
            d++;
        }
        if (d == ndim) return box->local + offset;
    }
    return -1;
}

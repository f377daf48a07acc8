/* Layouts are checked by enumeration: storage is filled with the flat global index of each element, and every
 * operation must agree with what that storage says. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/tensor/layout.h"

#define N_MOST 4096

static int64_t flat(const hx_shape *s, const int64_t *index) {
    int64_t f = 0;
    for (int d = 0; d < s->ndim; d++) f = f * s->dims[d] + index[d];
    return f;
}

static bool advance(const int64_t *dims, int ndim, int64_t *index) {
    for (int d = ndim - 1; d >= 0; d--) {
        if (++index[d] < dims[d]) return true;
        index[d] = 0;
    }
    return false;
}

/* storage[local] = flat global index, -1 where the layout holds nothing. Returns elements held. */
static int64_t draw(const hx_layout *l, int64_t storage[N_MOST]) {
    for (int i = 0; i < N_MOST; i++) storage[i] = -1;
    int64_t n = 0;
    for (int b = 0; b < l->n_boxes; b++) {
        int64_t i[HX_MAX_DIMS] = {0}, at = l->boxes[b].local;
        if (b) cr_assert_geq(at, l->boxes[b - 1].local);
        do {
            int64_t index[HX_MAX_DIMS];
            for (int d = 0; d < l->shape.ndim; d++) {
                index[d] = l->boxes[b].start[d] + i[d];
                cr_assert(index[d] < l->shape.dims[d]);
            }
            cr_assert(at < N_MOST && storage[at] == -1, "local offset %lld is held twice", (long long)at);
            storage[at++] = flat(&l->shape, index);
            n++;
        } while (advance(l->boxes[b].extent, l->shape.ndim, i));
    }
    return n;
}

/* restrict to each of `parts` ranges of [0, n_storage) and compare with the drawing of the whole. */
static void check_restrict(const hx_layout *l, int64_t n_storage, int parts) {
    static int64_t whole[N_MOST], part[N_MOST];
    draw(l, whole);
    int64_t held = 0;
    for (int p = 0; p < parts; p++) {
        int64_t begin = n_storage * p / parts, end = n_storage * (p + 1) / parts;
        hx_layout mine;
        cr_assert_eq(hx_layout_restrict(l, begin, end, &mine), HX_OK);
        held += draw(&mine, part);
        cr_assert(hx_shape_equal(&mine.shape, &l->shape));
        int most = l->shape.ndim ? 2 * l->shape.ndim - 1 : 1;
        cr_assert_leq(mine.n_boxes, most * (l->n_boxes ? l->n_boxes : 1));
        for (int64_t i = 0; i < N_MOST; i++)
            cr_assert_eq(part[i], i < end - begin ? whole[begin + i] : -1, "part %d of %d, local %lld", p, parts,
                         (long long)i);
        hx_layout_destroy(&mine);
    }
    cr_assert_eq(held, hx_layout_count(l));
}

Test(layout, full_holds_every_element_in_order) {
    hx_layout l;
    cr_assert_eq(hx_layout_full(&HX_SHAPE(3, 4, 5), &l), HX_OK);
    static int64_t storage[N_MOST];
    cr_assert_eq(draw(&l, storage), 60);
    for (int i = 0; i < 60; i++) cr_assert_eq(storage[i], i);
    hx_layout_destroy(&l);
}

Test(layout, scalar_is_one_element) {
    hx_layout l, first, none;
    cr_assert_eq(hx_layout_full(&HX_SCALAR, &l), HX_OK);
    cr_assert_eq(hx_layout_count(&l), 1);
    cr_assert_eq(hx_layout_find(&l, (int64_t[1]){0}), 0);
    cr_assert_eq(hx_layout_restrict(&l, 0, 1, &first), HX_OK);
    cr_assert_eq(hx_layout_restrict(&l, 1, 9, &none), HX_OK);
    cr_assert_eq(hx_layout_count(&first), 1);
    cr_assert_eq(none.n_boxes, 0);
    hx_layout_destroy(&l);
    hx_layout_destroy(&first);
    hx_layout_destroy(&none);
}

Test(layout, empty_tensor_has_no_box) {
    hx_layout l, part;
    cr_assert_eq(hx_layout_full(&HX_SHAPE(4, 0, 3), &l), HX_OK);
    cr_assert_eq(l.n_boxes, 0);
    cr_assert_eq(hx_layout_restrict(&l, 0, 10, &part), HX_OK);
    cr_assert_eq(part.n_boxes, 0);
    cr_assert_eq(hx_layout_slice(&HX_SHAPE(4, 3), 1, 3, 0, &l), HX_OK);
    cr_assert_eq(l.n_boxes, 0);
}

Test(layout, flat_zero_ranges_of_any_shape_partition_it) {
    static const hx_shape shapes[] = {{0, {0}},       {1, {17}},         {2, {5, 7}},          {2, {1, 9}},
                                      {3, {3, 4, 5}}, {4, {2, 3, 4, 5}}, {5, {3, 1, 2, 1, 4}}, {8, {2, 2, 2, 2, 2, 2, 2, 2}}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        hx_layout l;
        cr_assert_eq(hx_layout_full(&shapes[s], &l), HX_OK);
        for (int parts = 1; parts <= 13; parts++) check_restrict(&l, hx_shape_count(&shapes[s]), parts);
        hx_layout_destroy(&l);
    }
}

Test(layout, tensor_parallel_slices_of_any_dim_partition_it_also_under_zero) {
    hx_shape shape = HX_SHAPE(6, 4, 9);
    static int64_t storage[N_MOST];
    for (int dim = 0; dim < 3; dim++)
        for (int tp = 1; tp <= 4; tp++) {
            bool seen[6 * 4 * 9] = {false};
            for (int r = 0; r < tp; r++) {
                int64_t from = shape.dims[dim] * r / tp, to = shape.dims[dim] * (r + 1) / tp;
                hx_layout l;
                cr_assert_eq(hx_layout_slice(&shape, dim, from, to - from, &l), HX_OK);
                int64_t n = draw(&l, storage);
                cr_assert_eq(n, 6 * 4 * 9 / shape.dims[dim] * (to - from));
                for (int64_t i = 0; i < n; i++) {
                    cr_assert(!seen[storage[i]]);
                    seen[storage[i]] = true;
                }
                for (int zero = 1; zero <= 5; zero++) check_restrict(&l, n, zero);
                hx_layout_destroy(&l);
            }
            for (int i = 0; i < 6 * 4 * 9; i++) cr_assert(seen[i]);
        }
}

/* Fused [Hq + 2 Hkv, D, E] storage of TP rank r of tp: its q heads, then its k heads, then its v heads. Grouped
 * queries: fewer kv heads than q heads. */
Test(layout, q_k_v_over_fused_storage_survive_tp_and_zero) {
    enum { Hq = 8, Hkv = 4, D = 3, E = 5 };
    const int64_t row = D * E;
    for (int tp = 1; tp <= 4; tp *= 2)
        for (int r = 0; r < tp; r++) {
            int64_t q = Hq / tp, kv = Hkv / tp, n_storage = (q + 2 * kv) * row;
            int64_t heads[3] = {q, kv, kv}, total[3] = {Hq, Hkv, Hkv}, local = 0;
            int64_t held = 0;
            for (int part = 0; part < 3; part++) {
                hx_shape shape = HX_SHAPE(total[part] * D, E);
                hx_box box = {.start = {heads[part] * r * D, 0}, .extent = {heads[part] * D, E}, .local = local};
                hx_layout l;
                cr_assert_eq(hx_layout_boxes(&shape, &box, 1, &l), HX_OK);
                static int64_t storage[N_MOST];
                held += draw(&l, storage);
                for (int64_t i = 0; i < heads[part] * row; i++)
                    cr_assert_eq(storage[local + i], heads[part] * r * row + i);
                for (int zero = 1; zero <= 7; zero++) check_restrict(&l, n_storage, zero);
                hx_layout_destroy(&l);
                local += heads[part] * row;
            }
            cr_assert_eq(held, n_storage);
        }
}

/* Heads interleaved per group in storage: [group][q q k v] rows, so q is one box per group. */
Test(layout, interleaved_groups_are_several_boxes) {
    enum { G = 4, D = 2, E = 3 };
    hx_box q[G], k[G];
    for (int g = 0; g < G; g++) {
        q[G - 1 - g] = (hx_box){.start = {g * 2 * D, 0}, .extent = {2 * D, E}, .local = g * 4 * D * E};
        k[g] = (hx_box){.start = {g * D, 0}, .extent = {D, E}, .local = (g * 4 + 2) * D * E};
    }
    hx_layout lq, lk, twice;
    cr_assert_eq(hx_layout_boxes(&HX_SHAPE(G * 2 * D, E), q, G, &lq), HX_OK);
    cr_assert_eq(hx_layout_boxes(&HX_SHAPE(G * D, E), k, G, &lk), HX_OK);
    cr_assert_eq(hx_layout_count(&lq), G * 2 * D * E);
    cr_assert_eq(hx_layout_find(&lq, (int64_t[]){2 * D + 1, 2}), 4 * D * E + E + 2);
    for (int zero = 1; zero <= 11; zero++) {
        check_restrict(&lq, G * 4 * D * E, zero);
        check_restrict(&lk, G * 4 * D * E, zero);
    }
    /* a restriction of a restriction is the restriction by the inner range */
    cr_assert_eq(hx_layout_restrict(&lq, 5, 70, &twice), HX_OK);
    check_restrict(&twice, 65, 4);
    hx_layout_destroy(&twice);
    hx_layout_destroy(&lq);
    hx_layout_destroy(&lk);
}

Test(layout, find_inverts_the_boxes) {
    hx_shape shape = HX_SHAPE(4, 5, 6);
    hx_layout slice, l;
    cr_assert_eq(hx_layout_slice(&shape, 1, 1, 3, &slice), HX_OK);
    cr_assert_eq(hx_layout_restrict(&slice, 7, 61, &l), HX_OK);
    static int64_t storage[N_MOST];
    int64_t n = draw(&l, storage), found = 0, index[HX_MAX_DIMS] = {0};
    do {
        int64_t at = hx_layout_find(&l, index);
        if (at >= 0) {
            cr_assert_eq(storage[at], flat(&shape, index));
            found++;
        }
    } while (advance(shape.dims, 3, index));
    cr_assert_eq(found, n);
    hx_layout copy;
    cr_assert_eq(hx_layout_copy(&l, &copy), HX_OK);
    cr_assert_eq(copy.n_boxes, l.n_boxes);
    cr_assert_arr_eq(copy.boxes, l.boxes, (size_t)l.n_boxes * sizeof(hx_box));
    hx_layout_destroy(&copy);
    hx_layout_destroy(&l);
    hx_layout_destroy(&slice);
}

Test(layout, random_boxes_restrict_like_their_storage) {
    hx_rng rng = {.seed = 7};
    uint64_t at = 0;
    for (int round = 0; round < 200; round++) {
        hx_shape shape = {.ndim = 1 + (int)hx_rng_below(rng, at++, 4)};
        hx_box box = {.local = (int64_t)hx_rng_below(rng, at++, 20)};
        for (int d = 0; d < shape.ndim; d++) {
            shape.dims[d] = 1 + (int64_t)hx_rng_below(rng, at++, 6);
            box.start[d] = (int64_t)hx_rng_below(rng, at++, (uint64_t)shape.dims[d]);
            box.extent[d] = 1 + (int64_t)hx_rng_below(rng, at++, (uint64_t)(shape.dims[d] - box.start[d]));
        }
        hx_layout l;
        cr_assert_eq(hx_layout_boxes(&shape, &box, 1, &l), HX_OK);
        check_restrict(&l, box.local + hx_box_count(&box, shape.ndim) + 3, 1 + (int)hx_rng_below(rng, at++, 6));
        hx_layout_destroy(&l);
    }
}

static void expect_refused(const hx_shape *shape, const hx_box *boxes, int n, hx_status status, const char *word) {
    hx_layout l = {.n_boxes = 99};
    cr_assert_eq(hx_layout_boxes(shape, boxes, n, &l), status);
    cr_assert_eq(l.n_boxes, 99, "a failure wrote its result");
    cr_assert(strstr(hx_error_message(), word), "`%s` lacks `%s`", hx_error_message(), word);
}

Test(layout, boxes_outside_the_shape_are_refused) {
    hx_shape s = HX_SHAPE(4, 5);
    expect_refused(&s, &(hx_box){.start = {0, 3}, .extent = {4, 3}}, 1, HX_ERR_SHAPE, "[4,5]");
    expect_refused(&s, &(hx_box){.start = {-1, 0}, .extent = {1, 1}}, 1, HX_ERR_SHAPE, "-1");
    expect_refused(&s, &(hx_box){.start = {0, 0}, .extent = {0, 1}}, 1, HX_ERR_SHAPE, "extent 0");
    expect_refused(&s, &(hx_box){.start = {1, 1}, .extent = {INT64_MAX, 1}}, 1, HX_ERR_SHAPE, "dim 0");
    expect_refused(&s, &(hx_box){.extent = {4, 5}, .local = INT64_MAX - 3}, 1, HX_ERR_SHAPE, "local");
    expect_refused(&s, &(hx_box){.extent = {4, 5}, .local = -1}, 1, HX_ERR_SHAPE, "local");
    expect_refused(&s, NULL, 1, HX_ERR_ARG, "1 boxes");
    expect_refused(&s, NULL, -1, HX_ERR_ARG, "-1");
    expect_refused(&HX_SHAPE(INT64_MAX, 3), NULL, 0, HX_ERR_OVERFLOW, "");
}

Test(layout, overlapping_boxes_are_refused) {
    hx_shape s = HX_SHAPE(4, 5);
    hx_box global[2] = {{.start = {0, 0}, .extent = {2, 3}, .local = 0}, {.start = {1, 2}, .extent = {1, 1}, .local = 6}};
    hx_box local[2] = {{.start = {0, 0}, .extent = {1, 5}, .local = 4}, {.start = {1, 0}, .extent = {1, 5}, .local = 0}};
    expect_refused(&s, global, 2, HX_ERR_SHAPE, "same global elements");
    expect_refused(&s, local, 2, HX_ERR_SHAPE, "overlap in local storage");
}

Test(layout, slices_and_ranges_that_do_not_fit_are_refused) {
    hx_layout l, out;
    cr_assert_eq(hx_layout_slice(&HX_SHAPE(4, 5), 2, 0, 1, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_slice(&HX_SHAPE(4, 5), -1, 0, 1, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_slice(&HX_SCALAR, 0, 0, 1, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_slice(&HX_SHAPE(4, 5), 0, 3, 2, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_slice(&HX_SHAPE(4, 5), 0, 1, INT64_MAX, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_slice(&HX_SHAPE(4, 5), 0, -1, 2, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_full(&(hx_shape){.ndim = 9}, &l), HX_ERR_SHAPE);
    cr_assert_eq(hx_layout_full(&HX_SHAPE(4, 5), &l), HX_OK);
    cr_assert_eq(hx_layout_restrict(&l, -1, 3, &out), HX_ERR_ARG);
    cr_assert_eq(hx_layout_restrict(&l, 4, 3, &out), HX_ERR_ARG);
    hx_layout_destroy(&l);
}

#include "core/train/profiler.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

/* A phase is made of what runs in it; the time that is its own is the machinery's. */
static bool is_phase(hx_span_kind kind) {
    switch (kind) {
    case HX_SPAN_STEP:
    case HX_SPAN_FORWARD:
    case HX_SPAN_BACKWARD:
    case HX_SPAN_RECOMPUTE:
    case HX_SPAN_OPTIMIZER:
    case HX_SPAN_EVAL: return true;
    default: return false;
    }
}

static bool is_of_row(const hx_profile_row *row, const hx_span *span, int thread) {
    return row->owner == span->owner && row->thread == thread && (row->name == span->name || strcmp(row->name, span->name) == 0);
}

static hx_status find_row(hx_profile *p, int64_t *capacity, const hx_span *span, hx_profile_row **out) {
    const int thread = span->step >= 0 ? -1 : span->thread;
    for (int64_t i = 0; i < p->n_rows; i++)
        if (is_of_row(&p->rows[i], span, thread)) {
            *out = &p->rows[i];
            return HX_OK;
        }
    HX_TRY(hx_mem_grow((void **)&p->rows, capacity, p->n_rows + 1, sizeof *p->rows));
    *out = &p->rows[p->n_rows++];
    **out = (hx_profile_row){.owner = span->owner, .name = span->name, .thread = thread};
    p->n_within += thread < 0;
    return HX_OK;
}

static void add_step(hx_profile *p, const hx_span *span) {
    if (p->n_steps++ == 0) p->first_step = span->n_bytes;
    p->last_step = span->n_bytes;
    p->seconds += 1e-9 * (double)(span->end_ns - span->begin_ns);
}

static hx_status add_span(hx_profile *p, int64_t *capacity, const hx_span *span) {
    const double seconds = 1e-9 * (double)span->own_ns;
    hx_profile_row *row;
    if (span->kind == HX_SPAN_STEP) add_step(p, span);
    if (is_phase(span->kind) && span->step >= 0) {
        p->rest_s += seconds;
        return HX_OK;
    }
    HX_TRY(find_row(p, capacity, span, &row));
    row->n_calls++;
    row->seconds += seconds;
    row->flops += span->flops;
    row->n_bytes += (double)span->n_bytes;
    return HX_OK;
}

static int by_owner(const void *a, const void *b) {
    const hx_profile_row *x = a, *y = b;
    if ((x->thread < 0) != (y->thread < 0)) return x->thread < 0 ? -1 : 1;
    if (x->owner != y->owner) return x->owner < y->owner ? -1 : 1;
    return x->seconds > y->seconds ? -1 : x->seconds < y->seconds;
}

hx_status hx_profile_of(const hx_span_list *spans, hx_profile *out) {
    hx_profile p = {0};
    int64_t capacity = 0;
    hx_status status = HX_OK;
    for (int64_t i = 0; i < spans->n && status == HX_OK; i++) status = add_span(&p, &capacity, &spans->spans[i]);
    if (status != HX_OK) {
        hx_profile_destroy(&p);
        return status;
    }
    if (p.n_rows > 0) qsort(p.rows, (size_t)p.n_rows, sizeof *p.rows, by_owner);
    *out = p;
    return HX_OK;
}

void hx_profile_destroy(hx_profile *profile) {
    hx_mem_free((void **)&profile->rows);
    *profile = (hx_profile){0};
}

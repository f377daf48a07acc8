/* A ring of slots: one that was handed out last, behind it those that are queued or made, in the order of the guesses.
 * The thread owns a slot from when its job is queued until its signal is set; all else is the caller's alone. */
#include "io/data/ahead_impl.h"

#include <stdatomic.h>
#include <stdio.h>
#include "core/base/mem.h"
#include "core/base/threads.h"
#include "core/base/trace.h"

#define N_SLOTS (HX__PREFETCH_SLOTS + 1)

typedef struct slot {
    hx__ahead *owner;
    int64_t cursor, index;
    void *memory; /* owned */
    hx_signal *made;
    hx_status status;
    char message[1024]; /* of a failure: the thread's own is not seen by others */
} slot;

/* The indices asked for at one cursor: first, first + stride, ..., `count` of them. */
typedef struct pattern {
    int64_t cursor, first, stride, count;
    int64_t last, n_asked; /* so far */
} pattern;

struct hx__ahead {
    hx__ahead_maker maker;
    bool is_threaded;
    hx_queue *queue; /* made with the first guess */
    slot slots[N_SLOTS];
    int head, n_waiting; /* slots [head, head + n_waiting) of the ring were guessed */
    pattern asked;
    int64_t guessed_cursor, n_guessed; /* the last guess: number n_guessed - 1 of that cursor's */
    atomic_bool is_dropping; /* jobs that have not begun are left out */
};

hx_status hx__ahead_create(const hx__ahead_maker *maker, bool is_threaded, hx__ahead **out) {
    HX_CLEANUP(hx__ahead_destroy) hx__ahead *a = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *a, (void **)&a));
    a->maker = *maker;
    a->is_threaded = is_threaded;
    a->asked.cursor = -1;
    for (int i = 0; i < (is_threaded ? N_SLOTS : 1); i++) {
        a->slots[i].owner = a;
        HX_TRY(hx_mem_alloc(maker->n_bytes, &a->slots[i].memory));
        HX_TRY(hx_signal_create(&a->slots[i].made));
    }
    *out = a;
    a = NULL; /* handed on */
    return HX_OK;
}

void hx__ahead_destroy(hx__ahead **ahead) {
    hx__ahead *a = *ahead;
    if (a == NULL) return;
    atomic_store(&a->is_dropping, true);
    hx_queue_destroy(&a->queue);
    for (int i = 0; i < N_SLOTS; i++) {
        if (a->slots[i].made != NULL) hx_signal_destroy(&a->slots[i].made);
        hx_mem_free(&a->slots[i].memory);
    }
    hx_mem_free((void **)ahead);
}

/* ---- guesses ---- */

static void note_asked(hx__ahead *a, int64_t cursor, int64_t index) {
    pattern *p = &a->asked;
    if (cursor != p->cursor) {
        int64_t n_micro, next;
        a->maker.guess(a->maker.self, cursor, &n_micro, &next);
        /* the last cursor's count where there is one: in elastic training a rank takes some of the micro-batches only */
        p->count = p->n_asked > 0 && p->first == index ? p->n_asked : n_micro - index;
        if (p->stride == 0) p->stride = 1;
        p->cursor = cursor;
        p->first = index;
        p->n_asked = 0;
    } else if (p->n_asked == 1 && index > p->last) {
        p->stride = index - p->last;
    }
    p->last = index;
    p->n_asked++;
}

/* After number n - 1 of a cursor's comes number n, or the first of the next cursor's. */
static void next_guess(const hx__ahead *a, int64_t *cursor, int64_t *n) {
    int64_t n_micro, next;
    if (*n < a->asked.count) {
        ++*n;
        return;
    }
    a->maker.guess(a->maker.self, *cursor, &n_micro, &next);
    *cursor = next;
    *n = 1;
}

/* ---- the thread's part ---- */

static void make(slot *s) {
    hx__ahead *a = s->owner;
    s->status = HX_TRACED(HX_SPAN_DATA, "make batch", a->maker.make(a->maker.self, s->cursor, s->index, s->memory));
    if (s->status != HX_OK) snprintf(s->message, sizeof s->message, "%s", hx_error_message());
}

static hx_status run_job(void *arg) {
    slot *s = *(slot **)arg;
    if (!atomic_load(&s->owner->is_dropping)) make(s);
    hx_signal_set(s->made);
    return HX_OK; /* a failure is the slot's, and no reason to leave out others */
}

/* ---- the caller's part ---- */

static hx_status push_guesses(hx__ahead *a) {
    if (a->queue == NULL) HX_TRY(hx_queue_create("hx data", &a->queue));
    if (a->n_waiting == 0) {
        a->guessed_cursor = a->asked.cursor;
        a->n_guessed = a->asked.n_asked;
    }
    while (a->n_waiting < HX__PREFETCH_SLOTS) {
        slot *s = &a->slots[(a->head + a->n_waiting) % N_SLOTS];
        next_guess(a, &a->guessed_cursor, &a->n_guessed);
        s->cursor = a->guessed_cursor;
        s->index = a->asked.first + (a->n_guessed - 1) * a->asked.stride;
        hx_signal_reset(s->made);
        HX_TRY(hx_queue_push(a->queue, run_job, &s, sizeof s));
        a->n_waiting++;
    }
    return HX_OK;
}

static void drop_guesses(hx__ahead *a) {
    atomic_store(&a->is_dropping, true);
    for (; a->n_waiting > 0; a->n_waiting--) hx_signal_wait(a->slots[(a->head + a->n_waiting - 1) % N_SLOTS].made);
    atomic_store(&a->is_dropping, false);
}

/* The slot of a micro-batch, made. */
static slot *find_slot(hx__ahead *a, int64_t cursor, int64_t index) {
    slot *s = &a->slots[a->head];
    if (a->n_waiting > 0 && s->cursor == cursor && s->index == index) {
        const int64_t began = hx_span_begin();
        hx_signal_wait(s->made);
        hx_span_end(began, HX_SPAN_DATA, "wait for batch", 0, 0);
        a->n_waiting--;
    } else {
        drop_guesses(a);
        s->cursor = cursor;
        s->index = index;
        make(s);
    }
    if (a->is_threaded) a->head = (a->head + 1) % N_SLOTS;
    return s;
}

hx_status hx__ahead_take(hx__ahead *a, int64_t cursor, int64_t index, const void **memory) {
    const slot *s = find_slot(a, cursor, index);
    note_asked(a, cursor, index);
    if (s->status != HX_OK) {
        drop_guesses(a);
        return hx_error_adopt(s->status, s->message);
    }
    if (a->is_threaded) HX_TRY(push_guesses(a));
    *memory = s->memory;
    return HX_OK;
}

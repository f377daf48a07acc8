/* A block's threads: who runs, barriers, and calls of the warp. */
#include "tests/emu/emu.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
emu_thread *emu_now;

/* of the running block */
static const emu_kernel *running;
static std::vector<emu_thread> threads;
static struct {
    uint8_t lanes[32]; /* that can run, in no order */
    unsigned n;
} ready[32]; /* by warp */
static uint32_t ready_warps; /* bit per warp: n > 0 */
static unsigned warp_now;
static unsigned n_threads, n_returned, n_at_barrier, n_true, n_true_before;
static emu_site barrier_at;
static uint64_t block_number;

const emu_kernel *emu_running() { return running; }
uint64_t emu_block_number() { return block_number; }
emu_thread *emu_thread_at(unsigned number) { return number < n_threads ? &threads[number] : nullptr; }


static void become(emu_thread *thread) {
    emu_now = thread;
    if (thread != nullptr) threadIdx = thread->index;
}
static std::string place(emu_site at) { return std::string(emu_path(at.file)) + ":" + std::to_string(at.line); }

void emu_make_ready(emu_thread *thread) {
    auto &warp = ready[thread->number / 32];
    thread->state = EMU_READY;
    warp.lanes[warp.n++] = (uint8_t)(thread->number % 32);
    ready_warps |= 1u << thread->number / 32;
}

/* ---- who runs ---- */

static const char *index_text(const emu_thread *thread) {
    static char text[4][48];
    static int i;
    i = (i + 1) % 4;
    snprintf(text[i], sizeof *text, "%u,%u,%u", thread->index.x, thread->index.y, thread->index.z);
    return text[i];
}

static std::string whereabouts(const emu_thread *t) {
    const std::string who = std::string("thread ") + index_text(t);
    switch (t->state) {
    case EMU_AT_BARRIER: return who + " waits at the barrier " + place(barrier_at);
    case EMU_IN_WARP: return who + " waits in " + t->call->what + " " + place(t->call->at);
    case EMU_RETURNED: return who + " has returned";
    default: return who + " runs";
    }
}

/* The first lane that the call waits for, in words. */
static std::string missing_lane(const emu_thread *waiting) {
    const unsigned first = waiting->number / 32 * 32;
    for (unsigned lane = 0; lane < 32; lane++) {
        if (!(waiting->call->mask >> lane & 1)) continue;
        const emu_thread *t = emu_thread_at(first + lane);
        if (t == nullptr) return "lane " + std::to_string(lane) + " does not exist";
        if (t->state != EMU_IN_WARP) return whereabouts(t);
    }
    return "nobody is missing";
}

[[noreturn]] static void fail_stuck() {
    for (unsigned i = 0; i < n_threads; i++) {
        become(&threads[i]);
        if (threads[i].state == EMU_IN_WARP)
            emu_fail("deadlock: a lane waits in %s %s with mask %08x, %s", threads[i].call->what,
                     place(threads[i].call->at).c_str(), threads[i].call->mask, missing_lane(&threads[i]).c_str());
    }
    emu_fail("deadlock: no thread of the block can run");
}

/* Any warp; or, in bursts, the one that ran last for as long as it can: it gets far ahead of the others, which threads that
 * take turns never do. */
static void draw_warp() {
    if (running->in_bursts && ready_warps >> warp_now & 1) return;
    uint32_t left = ready_warps;
    for (uint32_t skip = emu_kernel_draws().below((uint32_t)__builtin_popcount(left)); skip > 0; skip--) left &= left - 1;
    warp_now = (unsigned)__builtin_ctz(left);
}

/* NULL: all have returned */
static emu_thread *draw() {
    if (ready_warps == 0) {
        if (n_returned < n_threads) fail_stuck();
        return nullptr;
    }
    draw_warp();
    auto &warp = ready[warp_now];
    const uint32_t i = emu_kernel_draws().below(warp.n);
    emu_thread *thread = &threads[warp_now * 32 + warp.lanes[i]];
    warp.lanes[i] = warp.lanes[--warp.n];
    if (warp.n == 0) ready_warps &= ~(1u << warp_now);
    return thread;
}

static void finish_thread() {
    emu_thread *me = emu_now;
    emu_cp_async_finish();
    me->state = EMU_RETURNED;
    n_returned++;
    if (n_at_barrier > 0)
        emu_fail("divergent barrier: this thread has returned, %u threads wait at the barrier %s", n_at_barrier,
                 place(barrier_at).c_str());
}

/* A fiber runs threads one after the other: a thread that never waits costs no change of stacks. */
static void fiber_main() {
    for (;;) {
        emu_fiber *fiber = emu_now->fiber;
        running->thread();
        finish_thread();
        emu_thread *next = draw();
        if (next != nullptr && next->fiber == nullptr) {
            next->fiber = fiber;
            become(next);
            continue;
        }
        emu_fiber_give(fiber);
        become(next);
        emu_fiber_go(fiber, next != nullptr ? next->fiber : nullptr);
    }
}

void emu_suspend(emu_state state) {
    emu_thread *me = emu_now;
    if (state != EMU_READY) me->state = state;
    emu_thread *next = draw();
    if (next == me) return;
    if (next->fiber == nullptr) next->fiber = emu_fiber_take(fiber_main);
    become(next);
    emu_fiber_go(me->fiber, next->fiber);
}

static void begin(const emu_kernel &kernel) {
    n_threads = kernel.block.x * kernel.block.y * kernel.block.z;
    n_returned = n_at_barrier = n_true = 0;
    block_number++;
    if (threads.size() < n_threads) threads.resize(n_threads);
    for (unsigned i = 0; i < n_threads; i++) {
        emu_thread *t = &threads[i];
        t->index = uint3{i % kernel.block.x, i / kernel.block.x % kernel.block.y, i / kernel.block.x / kernel.block.y};
        t->number = i;
        t->fiber = nullptr;
        t->n_commits = 0;
        emu_make_ready(t);
    }
}

void emu_block_run(const emu_kernel &kernel) {
    running = &kernel;
    begin(kernel);
    emu_shared_begin(kernel.shared_bytes);
    emu_thread *first = draw();
    first->fiber = emu_fiber_take(fiber_main);
    become(first);
    emu_fiber_enter(first->fiber);
    emu_shared_end();
    running = nullptr;
}

/* ---- the barrier ---- */

static int outcome(emu_vote vote, unsigned n) {
    return vote == EMU_COUNT ? (int)n : vote == EMU_AND ? n == n_threads : n > 0;
}

int emu_barrier(emu_site at, bool predicate, emu_vote vote) {
    if (emu_planted("barrier", at)) return outcome(vote, predicate ? n_threads : 0);
    if (n_returned > 0)
        emu_fail("divergent barrier: this thread is at %s, %u threads have returned", place(at).c_str(), n_returned);
    if (n_at_barrier == 0) barrier_at = at;
    if (barrier_at.line != at.line || (barrier_at.file != at.file && strcmp(barrier_at.file, at.file) != 0))
        emu_fail("divergent barrier: this thread is at %s, others are at %s", place(at).c_str(), place(barrier_at).c_str());
    n_true += predicate;
    emu_now->state = EMU_AT_BARRIER;
    if (++n_at_barrier == n_threads) {
        n_true_before = n_true;
        n_at_barrier = n_true = 0;
        for (unsigned i = 0; i < n_threads; i++) emu_make_ready(&threads[i]);
    }
    emu_suspend(emu_now->state);
    return outcome(vote, n_true_before);
}

/* ---- the warp ---- */

int emu_lane() { return (int)(emu_now->number % 32); }

/* Fail unless the lanes of the mask that have arrived are in the same call. */
static void expect_same(const emu_lane_call *mine, const emu_thread *other) {
    const emu_lane_call *theirs = other->call;
    if (other->state != EMU_IN_WARP) return;
    if (theirs->mask == mine->mask && theirs->at.line == mine->at.line && theirs->finish == mine->finish) return;
    emu_fail("divergent warp: this lane is in %s %s with mask %08x, thread %s in %s %s with mask %08x", mine->what,
             place(mine->at).c_str(), mine->mask, index_text(other), theirs->what, place(theirs->at).c_str(), theirs->mask);
}

void emu_meet(emu_lane_call *call) {
    emu_thread *me = emu_now;
    const unsigned first = me->number / 32 * 32, lane = me->number % 32;
    emu_lane_call *lanes[32] = {};
    unsigned arrived = 1u << lane;
    if (!(call->mask >> lane & 1))
        emu_fail("%s %s: the calling lane %u is not in mask %08x", call->what, place(call->at).c_str(), lane, call->mask);
    me->call = call;
    lanes[lane] = call;
    for (unsigned rest = call->mask & ~arrived; rest != 0; rest &= rest - 1) {
        const unsigned other = (unsigned)__builtin_ctz(rest);
        const emu_thread *t = emu_thread_at(first + other);
        if (t == nullptr) continue;
        expect_same(call, t);
        if (t->state != EMU_IN_WARP) continue;
        lanes[other] = t->call;
        arrived |= 1u << other;
    }
    if (arrived != call->mask) return emu_suspend(EMU_IN_WARP);
    call->finish(lanes, call->mask);
    for (unsigned rest = arrived; rest != 0; rest &= rest - 1) emu_make_ready(&threads[first + (unsigned)__builtin_ctz(rest)]);
    emu_suspend(EMU_READY);
}

/* Shuffles, votes, matrix loads, matrix products: calls in which the lanes of a warp meet; and the asynchronous copies of a
 * thread. */
#include "tests/emu/emu.h"

/* ---- shuffles (PTX ISA, shfl.sync) ---- */

namespace {
struct shuffle_call : emu_lane_call {
    uint64_t value, result;
    emu_move move;
    int by, width;
    bool is_planted;
};
struct gather_call : emu_lane_call {
    uint64_t value;
    uint64_t *values;
};
struct mma_call : emu_lane_call {
    float *d;
    const uint32_t *a, *b;
    float (*widen)(uint16_t);
};
struct ldmatrix_call : emu_lane_call {
    uint32_t *r;
    const uint16_t *row;
    bool trans;
};
} // namespace

/* The lane to read from; the own one where the move leaves the segment of `width` lanes. */
static int source_of(const shuffle_call *c, int lane) {
    const int first = lane & ~(c->width - 1), last = first + c->width - 1;
    int from = lane;
    switch (c->move) {
    case EMU_INDEX: return first | (c->by & (c->width - 1));
    case EMU_UP: from = lane - c->by; return from < first ? lane : from;
    case EMU_DOWN: from = lane + c->by; break;
    case EMU_XOR: from = lane ^ c->by; break;
    }
    return from > last ? lane : from;
}

static void finish_shuffle(emu_lane_call *const *lanes, unsigned mask) {
    for (int lane = 0; lane < 32; lane++) {
        shuffle_call *c = static_cast<shuffle_call *>(lanes[lane]);
        if (!(mask >> lane & 1)) continue;
        const int from = (source_of(c, lane) + c->is_planted) & 31;
        if (!(mask >> from & 1))
            emu_fail("shuffle %s:%d: lane %d reads from lane %d, which is not in mask %08x", emu_path(c->at.file), c->at.line,
                     lane, from, mask);
        c->result = static_cast<shuffle_call *>(lanes[from])->value;
    }
}

uint64_t emu_shuffle(emu_site at, unsigned mask, uint64_t value, emu_move move, int by, int width) {
    static const char *const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
    if (width < 1 || width > 32 || (width & (width - 1)) != 0)
        emu_fail("%s %s:%d: width %d is no power of 2 up to 32", names[move], emu_path(at.file), at.line, width);
    shuffle_call call;
    call.what = names[move];
    call.at = at;
    call.mask = mask;
    call.finish = finish_shuffle;
    call.value = value;
    call.move = move;
    call.by = by;
    call.width = width;
    call.is_planted = emu_planted("shuffle", at);
    emu_meet(&call);
    return call.result;
}

static void finish_gather(emu_lane_call *const *lanes, unsigned mask) {
    uint64_t values[32] = {};
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) values[lane] = static_cast<gather_call *>(lanes[lane])->value;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) memcpy(static_cast<gather_call *>(lanes[lane])->values, values, sizeof values);
}

void emu_gather(emu_site at, const char *what, unsigned mask, uint64_t value, uint64_t values[32]) {
    gather_call call;
    call.what = what;
    call.at = at;
    call.mask = mask;
    call.finish = finish_gather;
    call.value = value;
    call.values = values;
    emu_meet(&call);
}

unsigned emu_ballot(emu_site at, unsigned mask, bool predicate) {
    uint64_t values[32];
    unsigned ballot = 0;
    emu_gather(at, "a vote", mask, predicate, values);
    for (int lane = 0; lane < 32; lane++) ballot |= (unsigned)values[lane] << lane;
    return ballot;
}

static void finish_nothing(emu_lane_call *const *, unsigned) {}

void emu_sync_warp(emu_site at, unsigned mask) {
    emu_lane_call call = {"__syncwarp", at, mask, finish_nothing};
    emu_meet(&call);
}

/* ---- matrices ---- */

static float element(float (*widen)(uint16_t), uint32_t pair, int column) { return widen((uint16_t)(pair >> 16 * (column & 1))); }

static void finish_mma(emu_lane_call *const *lanes, unsigned) {
    float a[16][16], b[16][8]; /* [m,k], [k,n] */
    const auto at = [lanes](int lane) { return static_cast<mma_call *>(lanes[lane]); };
    for (int lane = 0; lane < 32; lane++) {
        const mma_call *c = at(lane);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 8; i++) a[g + 8 * (i / 2 % 2)][2 * t + 8 * (i / 4) + i % 2] = element(c->widen, c->a[i / 2], i);
        for (int i = 0; i < 4; i++) b[2 * t + 8 * (i / 2) + i % 2][g] = element(c->widen, c->b[i / 2], i);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            float sum = 0.0f;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            at(lane)->d[i] += sum;
        }
}

void emu_mma(emu_site at, float *d, const uint32_t *a, const uint32_t *b, float (*widen)(uint16_t)) {
    mma_call call;
    call.what = "hx_mma";
    call.at = at;
    call.mask = 0xffffffffu;
    call.finish = finish_mma;
    call.d = d;
    call.a = a;
    call.b = b;
    call.widen = widen;
    emu_meet(&call);
}

static void finish_ldmatrix(emu_lane_call *const *lanes, unsigned) {
    const auto at = [lanes](int lane) { return static_cast<ldmatrix_call *>(lanes[lane]); };
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const int g = lane / 4, t = lane % 4;
            const bool trans = at(lane)->trans;
            const uint16_t low = trans ? at(8 * i + 2 * t)->row[g] : at(8 * i + g)->row[2 * t];
            const uint16_t high = trans ? at(8 * i + 2 * t + 1)->row[g] : at(8 * i + g)->row[2 * t + 1];
            at(lane)->r[i] = (uint32_t)high << 16 | low;
        }
}

static void expect_aligned(emu_site at, const char *what, const void *p) {
    if ((uintptr_t)p % 16 != 0)
        emu_fail("misaligned: %s %s:%d with address %p, expected a multiple of 16", what, emu_path(at.file), at.line, p);
}

void emu_ldmatrix(emu_site at, uint32_t *r, const void *row, bool trans) {
    ldmatrix_call call;
    expect_aligned(at, "hx_ldmatrix_x4", row);
    emu_shared_check(at, "hx_ldmatrix_x4", row, 16);
    call.what = "hx_ldmatrix_x4";
    call.at = at;
    call.mask = 0xffffffffu;
    call.finish = finish_ldmatrix;
    call.r = r;
    call.row = static_cast<const uint16_t *>(row);
    call.trans = trans;
    emu_meet(&call);
}

/* ---- asynchronous copies: done at once, or when they are waited for ---- */

static void copy_now(const emu_copy &copy) {
    if (copy.valid) memcpy(copy.shared, copy.global, 16);
    else memset(copy.shared, 0, 16);
}

void emu_cp_async_16(emu_site at, void *shared, const void *global, bool valid) {
    emu_thread *me = emu_now;
    expect_aligned(at, "hx_cp_async_16", shared);
    if (valid) expect_aligned(at, "hx_cp_async_16", global);
    emu_shared_check(at, "hx_cp_async_16", shared, 16);
    const emu_copy copy = {shared, global, valid, me->n_commits};
    if (emu_kernel_draws().below(2) == 0) copy_now(copy);
    else me->copies.push_back(copy);
}

void emu_cp_async_commit() { emu_now->n_commits++; }

void emu_cp_async_wait(int n) {
    emu_thread *me = emu_now;
    size_t kept = 0;
    for (const emu_copy &copy : me->copies)
        if (copy.group < me->n_commits - n) copy_now(copy);
        else me->copies[kept++] = copy;
    me->copies.resize(kept);
}

/* What nobody waited for arrives when the thread has returned. */
void emu_cp_async_finish() {
    emu_thread *me = emu_now;
    for (const emu_copy &copy : me->copies) copy_now(copy);
    me->copies.clear();
}

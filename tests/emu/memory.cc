/* Memory of the emulated devices, and pinned memory of the host. Each block is a mapping of its own between guard pages and
 * ends at one, up to 16 bytes of alignment; one in eight starts at one instead. Addresses are used once, so that a stale
 * pointer is known as one. */
#include "tests/emu/emu.h"

#include <algorithm>
#include <deque>
#include <map>

#include <sys/mman.h>

enum { PAGE = 4096, ALIGN = 16, CANARY = 0xa5, CANARY_NEAR = 64, FREED_KEPT = 1 << 14 };

static char *arena, *arena_end, *fresh;
static std::map<const char *, emu_block> &live = *new std::map<const char *, emu_block>;  /* by their last byte's page end */
static std::map<const char *, emu_block> &freed = *new std::map<const char *, emu_block>; /* the latest */
static std::deque<const char *> &freed_order = *new std::deque<const char *>;
static std::map<int, size_t> &used = *new std::map<int, size_t>; /* bytes by device */
static uint64_t n_blocks;
static bool is_open = true;

static size_t whole_pages(size_t n_bytes) { return (n_bytes + PAGE - 1) / PAGE * PAGE; }
static char *pages_end(const emu_block &b) { return b.pages + b.n_page_bytes; }

static void reserve() {
    for (size_t n_bytes = (size_t)16 << 40; n_bytes >= (size_t)1 << 36; n_bytes /= 2) {
        void *memory = mmap(nullptr, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) continue;
        arena = static_cast<char *>(memory);
        arena_end = arena + n_bytes;
        fresh = arena + PAGE;
        return;
    }
    emu_fail("no address space for device memory");
}

static void protect(const emu_block &b, int access) {
    if (mprotect(b.pages, b.n_page_bytes, access) != 0) emu_fail("mprotect of %zu bytes failed", b.n_page_bytes);
}

/* ---- canaries: what of the pages is not the block's ---- */

static const char *spoilt(const char *p, const char *end) {
    for (; p < end; p++)
        if (static_cast<unsigned char>(*p) != CANARY) return p;
    return nullptr;
}

static void expect_intact(const emu_block &b, size_t reach, const char *after) {
    const char *end = b.at + b.n_bytes;
    const char *before = spoilt(std::max<const char *>(b.pages, b.at - reach), b.at);
    const char *behind = spoilt(end, std::min<const char *>(pages_end(b), end + reach));
    const char *at = before != nullptr ? before : behind;
    if (at != nullptr) emu_fail("out of bounds: %s wrote %p, %s", after, static_cast<const void *>(at), emu_memory_describe(at).c_str());
}

void emu_memory_check_canaries(const char *after) {
    for (const auto &entry : live) expect_intact(entry.second, CANARY_NEAR, after);
}

/* ---- blocks ---- */

void *emu_memory_alloc(emu_memory_kind kind, int device, size_t n_bytes) {
    const size_t limit = (size_t)emu_option("HELIX_EMU_MEMORY", (int64_t)4 << 30);
    if (kind == EMU_DEVICE && (n_bytes > limit || used[device] > limit - n_bytes)) return nullptr;
    if (arena == nullptr) reserve();
    emu_block b = {};
    b.n_bytes = n_bytes;
    b.n_page_bytes = whole_pages(n_bytes);
    if ((size_t)(arena_end - fresh) < b.n_page_bytes + 2 * PAGE) emu_fail("the emulator's address space is used up");
    b.pages = fresh;
    fresh += b.n_page_bytes + PAGE;
    protect(b, PROT_READ | PROT_WRITE);
    const bool at_start = emu_common_draws().below(8) == 0;
    b.at = at_start ? b.pages : pages_end(b) - (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    b.kind = kind;
    b.device = device;
    b.id = ++n_blocks;
    memset(b.pages, CANARY, (size_t)(b.at - b.pages));
    memset(b.at, 0xff, n_bytes);
    memset(b.at + n_bytes, CANARY, (size_t)(pages_end(b) - b.at) - n_bytes);
    if (kind == EMU_DEVICE) used[device] += n_bytes;
    if (kind == EMU_DEVICE && !is_open) protect(b, PROT_NONE);
    live[pages_end(b)] = b;
    return b.at;
}

static void forget_oldest() {
    if (freed_order.size() <= FREED_KEPT) return;
    freed.erase(freed_order.front());
    freed_order.pop_front();
}

void emu_memory_free(emu_memory_kind kind, void *p) {
    const emu_block *found = emu_memory_find(p);
    if (found == nullptr || found->at != p || found->kind != kind)
        emu_fail("free of %p, %s, which is not the start of a live block", p, emu_memory_describe(p).c_str());
    emu_block b = *found;
    if (kind == EMU_DEVICE && !is_open) protect(b, PROT_READ);
    expect_intact(b, b.n_page_bytes, "something");
    if (kind == EMU_DEVICE) used[b.device] -= b.n_bytes;
    if (mmap(b.pages, b.n_page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        emu_fail("unmapping %zu bytes failed", b.n_page_bytes);
    b.is_freed = true;
    live.erase(pages_end(b));
    freed[pages_end(b)] = b;
    freed_order.push_back(pages_end(b));
    forget_oldest();
}

const emu_block *emu_memory_find(const void *p) {
    const char *at = static_cast<const char *>(p);
    const auto found = live.upper_bound(at);
    return found != live.end() && at >= found->second.at && at < found->second.at + found->second.n_bytes ? &found->second : nullptr;
}

void emu_memory_check(const char *what, const void *p, size_t n_bytes) {
    const char *at = static_cast<const char *>(p);
    const emu_block *b = emu_memory_find(p);
    if (n_bytes == 0 || (b == nullptr && (at < arena || at >= arena_end))) return;
    if (b == nullptr || n_bytes > (size_t)(b->at + b->n_bytes - at))
        emu_fail("out of bounds: %s of %zu bytes at %p, %s", what, n_bytes, p, emu_memory_describe(p).c_str());
}

size_t emu_memory_used(int device) { return used[device]; }

/* ---- words ---- */

static int64_t distance(const emu_block &b, const char *p) {
    return p < b.at ? b.at - p : p >= b.at + b.n_bytes ? p - (b.at + b.n_bytes) : 0;
}

static void nearest(const std::map<const char *, emu_block> &blocks, const char *p, const emu_block **best) {
    auto next = blocks.lower_bound(p);
    if (next != blocks.begin()) next--;
    for (int i = 0; i < 3 && next != blocks.end(); i++, next++)
        if (*best == nullptr || distance(next->second, p) < distance(**best, p)) *best = &next->second;
}

std::string emu_memory_describe(const void *address) {
    const char *p = static_cast<const char *>(address);
    const emu_block *b = nullptr;
    char text[256];
    if (p < arena || p >= arena_end) return "no memory of a device";
    nearest(live, p, &b);
    nearest(freed, p, &b);
    if (b == nullptr) return "far from any block";
    const bool is_inside = p >= b->at && p < b->at + b->n_bytes;
    snprintf(text, sizeof text, "%sbyte %lld of the %s%sblock %llu of %zu bytes", is_inside && b->is_freed ? "use after free: " : "",
             (long long)(p - b->at), b->is_freed ? "freed " : "", b->kind == EMU_PINNED ? "pinned " : "",
             (unsigned long long)b->id, b->n_bytes);
    return text;
}

/* ---- copies ---- */

struct emu_snapshot {
    std::vector<std::pair<emu_block, std::unique_ptr<char[]>>> copies;
};

std::shared_ptr<emu_snapshot> emu_snapshot_take() {
    auto snapshot = std::make_shared<emu_snapshot>();
    for (const auto &entry : live) {
        const emu_block &b = entry.second;
        if (b.kind != EMU_DEVICE) continue;
        std::unique_ptr<char[]> bytes(new char[b.n_bytes]);
        memcpy(bytes.get(), b.at, b.n_bytes);
        snapshot->copies.emplace_back(b, std::move(bytes));
    }
    return snapshot;
}

void emu_snapshot_restore(const emu_snapshot &snapshot) {
    for (const auto &copy : snapshot.copies)
        if (memcmp(copy.first.at, copy.second.get(), copy.first.n_bytes) != 0)
            memcpy(copy.first.at, copy.second.get(), copy.first.n_bytes);
}

void emu_snapshot_compare(const emu_snapshot &other, const char *kernel) {
    for (const auto &copy : other.copies) {
        const emu_block &b = copy.first;
        const char *one = copy.second.get();
        size_t i = 0;
        uint32_t words[2] = {};
        if (memcmp(one, b.at, b.n_bytes) == 0) continue;
        while (one[i] == b.at[i]) i++;
        const size_t word = i / 4 * 4, n = std::min<size_t>(4, b.n_bytes - word);
        memcpy(&words[0], one + word, n);
        memcpy(&words[1], b.at + word, n);
        emu_fail("race: kernel %s gives other results in another order of threads: byte %zu of block %llu of %zu bytes, %08x (%g) "
                 "and %08x (%g)", kernel, i, (unsigned long long)b.id, b.n_bytes, words[0], (double)__uint_as_float(words[0]),
                 words[1], (double)__uint_as_float(words[1]));
    }
}

void emu_memory_open(bool open) {
    if (open == is_open) return;
    is_open = open;
    for (const auto &entry : live)
        if (entry.second.kind == EMU_DEVICE) protect(entry.second, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* Streams and events. A stream is a queue; nothing runs when it is enqueued. Whenever the host waits, the heads of streams
 * that can run are drawn until what it waits for has happened. Where work is pending and the host stays away, as one that
 * waits for a host function does, a thread of the emulator drives. */
#include "tests/emu/emu.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <set>
#include <thread>

#include <unistd.h>

struct emu_record {
    bool is_done;
    std::chrono::steady_clock::time_point at;
};
struct CUevent_st {
    std::shared_ptr<emu_record> latest; /* NULL: never recorded */
    unsigned flags;
};

namespace {
struct operation {
    const char *name;
    std::function<bool()> poll;          /* NULL: a wait or a host function */
    std::shared_ptr<emu_record> waits;   /* until it is done */
    std::function<void()> host;          /* called without the lock */
};
enum outcome { NOTHING, TRIED, DONE };
} // namespace
struct CUstream_st {
    std::deque<operation> queue;
    bool is_busy; /* its host function runs */
    bool is_gone; /* destroyed, with work left */
};

static std::mutex &mutex = *new std::mutex;
static std::vector<cudaStream_t> &streams = *new std::vector<cudaStream_t>;
static std::set<cudaEvent_t> &events = *new std::set<cudaEvent_t>;
static std::atomic<uint64_t> n_calls; /* of the host, so that the emulator's thread sees that it stays away */
static int n_driving;
static int64_t n_waits;
static bool is_over;
static std::condition_variable &turn = *new std::condition_variable;
static bool is_exclusive; /* one thread has CUDA to itself: */
static std::thread::id owner;

std::unique_lock<std::mutex> emu_lock() {
    n_calls++;
    std::unique_lock<std::mutex> lock(mutex);
    turn.wait(lock, [] { return !is_exclusive || owner == std::this_thread::get_id(); });
    return lock;
}

static cudaStream_t stream_of(cudaStream_t handle) {
    static const cudaStream_t standard = [] {
        streams.push_back(new CUstream_st());
        return streams.back();
    }();
    return handle == nullptr ? standard : handle;
}

static bool is_lost() { return emu_option("HELIX_EMU_LOST", 0) != 0; }

bool emu_is_stream(cudaStream_t handle) {
    const cudaStream_t stream = stream_of(handle);
    return !is_lost() && std::find(streams.begin(), streams.end(), stream) != streams.end() && !stream->is_gone;
}

bool emu_stream_is_idle(cudaStream_t handle) {
    const cudaStream_t stream = stream_of(handle);
    return is_lost() || (stream->queue.empty() && !stream->is_busy);
}
bool emu_all_idle() { return std::all_of(streams.begin(), streams.end(), emu_stream_is_idle); }

/* ---- driving ---- */

static bool can_run(cudaStream_t stream) {
    return !is_lost() && !stream->is_busy && !stream->queue.empty() && (!stream->queue.front().waits || stream->queue.front().waits->is_done);
}

static void retire(cudaStream_t stream) {
    stream->queue.pop_front();
    if (!stream->is_gone || !stream->queue.empty()) return;
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
}

/* A host function may take locks that another thread holds while it calls CUDA: it runs without ours. */
static void call_host(std::unique_lock<std::mutex> &lock, cudaStream_t stream) {
    stream->is_busy = true;
    lock.unlock();
    stream->queue.front().host();
    lock.lock();
    stream->is_busy = false;
}

static outcome step(std::unique_lock<std::mutex> &lock) {
    std::vector<cudaStream_t> able;
    for (cudaStream_t stream : streams)
        if (can_run(stream)) able.push_back(stream);
    if (able.empty()) return NOTHING;
    const cudaStream_t stream = able[emu_common_draws().below((uint32_t)able.size())];
    operation &head = stream->queue.front();
    if (head.host) call_host(lock, stream);
    else if (head.poll && !head.poll()) return TRIED;
    retire(stream);
    return DONE;
}

static void pause(std::unique_lock<std::mutex> &lock) {
    lock.unlock();
    usleep(50);
    lock.lock();
}

static void begin_driving() {
    emu_faults_catch();
    if (n_driving++ == 0) emu_memory_open(true);
}
static void end_driving() {
    if (--n_driving == 0 && emu_is_checking()) emu_memory_open(false);
}

void emu_drive(std::unique_lock<std::mutex> &lock, const char *what, const std::function<bool()> &done) {
    int n_tried = 0;
    if (done()) return;
    begin_driving();
    while (!done()) {
        const outcome got = step(lock);
        n_tried = got == TRIED ? n_tried + 1 : 0;
        if (got == NOTHING && n_driving == 1 && std::none_of(streams.begin(), streams.end(), [](cudaStream_t s) { return s->is_busy; }))
            emu_fail("the host waits for %s, but no stream can go on", what);
        if (got == NOTHING || n_tried > 16) pause(lock);
    }
    end_driving();
}

void emu_synchronize(std::unique_lock<std::mutex> &lock, const char *why) {
    static const bool is_lazy = emu_option("HELIX_EMU_LAZY", 0) != 0;
    if (!is_lazy || is_exclusive) return;
    is_exclusive = true;
    owner = std::this_thread::get_id();
    emu_drive(lock, why, emu_all_idle);
    is_exclusive = false;
    turn.notify_all();
}

/* A query sees a device that works meanwhile. */
static void drive_a_little(std::unique_lock<std::mutex> &lock) {
    begin_driving();
    for (uint32_t n = emu_common_draws().below(4); n > 0; n--) step(lock);
    end_driving();
}

static void drive_in_absence() {
    uint64_t seen = n_calls;
    int n_quiet = 0;
    for (;;) {
        usleep(2000);
        std::unique_lock<std::mutex> lock(mutex);
        if (is_over) return;
        n_quiet = seen == n_calls && n_driving == 0 ? n_quiet + 1 : 0;
        seen = n_calls;
        if (n_quiet < 10) continue;
        while (seen == n_calls && !is_over && !emu_all_idle()) {
            begin_driving();
            const outcome got = step(lock);
            end_driving();
            if (got != DONE) break;
            lock.unlock();
            lock.lock();
        }
    }
}

static void start_thread() {
    static pid_t started_in; /* a fork leaves threads behind */
    if (started_in == getpid()) return;
    if (started_in == 0)
        atexit([] {
            std::unique_lock<std::mutex> lock(mutex);
            is_over = true;
        });
    started_in = getpid();
    std::thread(drive_in_absence).detach();
}

static void enqueue(cudaStream_t handle, operation op) {
    start_thread();
    stream_of(handle)->queue.push_back(std::move(op));
}

void emu_enqueue(cudaStream_t stream, const char *name, std::function<bool()> poll) {
    enqueue(stream, {name, std::move(poll), nullptr, nullptr});
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int) {
    auto lock = emu_lock();
    stream_of(nullptr);
    *out = new CUstream_st();
    streams.push_back(*out);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *out) { return cudaStreamCreateWithFlags(out, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned int flags, int) { return cudaStreamCreateWithFlags(out, flags); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    auto lock = emu_lock();
    if (stream == nullptr || !emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    stream->is_gone = true;
    if (!emu_stream_is_idle(stream)) return cudaSuccess;
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    auto lock = emu_lock();
    if (!emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    emu_drive(lock, "a stream", [stream] { return emu_stream_is_idle(stream); });
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    auto lock = emu_lock();
    if (!emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    drive_a_little(lock);
    return emu_stream_is_idle(stream) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
    auto lock = emu_lock();
    emu_drive(lock, "the device", emu_all_idle);
    return cudaSuccess;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void *user_data, unsigned int flags) {
    if (flags != 0) return emu_error(cudaErrorInvalidValue);
    auto lock = emu_lock();
    if (!emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    enqueue(stream, {"a host function", nullptr, nullptr, [callback, stream, user_data] { callback(stream, cudaSuccess, user_data); }});
    return cudaSuccess;
}

/* ---- the driver ---- */

static cudaError_t wait_value(cudaStream_t stream, unsigned long long address, unsigned value, unsigned flags) {
    const volatile uint32_t *word = reinterpret_cast<const volatile uint32_t *>(address);
    auto lock = emu_lock();
    const emu_block *b = emu_memory_find(const_cast<const uint32_t *>(word));
    if (flags != 0 || address % 4 != 0 || b == nullptr || b->kind != EMU_PINNED) return cudaErrorInvalidValue;
    if (!emu_is_stream(stream)) return cudaErrorInvalidResourceHandle;
    emu_enqueue(stream, "a wait for the host's word", [word, value] {
        return (int32_t)(__atomic_load_n(word, __ATOMIC_ACQUIRE) - value) >= 0;
    });
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int version, unsigned long long,
                                             enum cudaDriverEntryPointQueryResult *found) {
    const bool is_here = strcmp(symbol, "cuStreamWaitValue32") == 0 && emu_option("HELIX_EMU_WAIT_VALUE", 1) != 0;
    *function = is_here && version >= 11070 ? reinterpret_cast<void *>(wait_value) : nullptr;
    *found = *function != nullptr ? cudaDriverEntryPointSuccess
             : is_here            ? cudaDriverEntryPointVersionNotSufficent
                                  : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags) {
    auto lock = emu_lock();
    *out = new CUevent_st{nullptr, flags};
    events.insert(*out);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    auto lock = emu_lock();
    if (events.erase(event) == 0) return emu_error(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    auto lock = emu_lock();
    if (events.count(event) == 0 || !emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    auto record = std::make_shared<emu_record>();
    event->latest = record;
    emu_enqueue(stream, "a record", [record] {
        record->at = std::chrono::steady_clock::now();
        return record->is_done = true;
    });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    auto lock = emu_lock();
    if (events.count(event) == 0 || !emu_is_stream(stream)) return emu_error(cudaErrorInvalidResourceHandle);
    if (!event->latest || emu_planted_wait(++n_waits)) return cudaSuccess;
    enqueue(stream, {"a wait", nullptr, event->latest, nullptr});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    auto lock = emu_lock();
    if (events.count(event) == 0) return emu_error(cudaErrorInvalidResourceHandle);
    const auto record = event->latest;
    if (record) emu_drive(lock, "an event", [record] { return record->is_done || is_lost(); });
    return is_lost() ? emu_error(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    auto lock = emu_lock();
    if (events.count(event) == 0) return emu_error(cudaErrorInvalidResourceHandle);
    if (is_lost()) return emu_error(cudaErrorLaunchFailure);
    drive_a_little(lock);
    return !event->latest || event->latest->is_done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    auto lock = emu_lock();
    for (cudaEvent_t event : {start, end}) {
        if (events.count(event) == 0 || !event->latest || event->flags & cudaEventDisableTiming)
            return emu_error(cudaErrorInvalidResourceHandle);
        if (!event->latest->is_done) return cudaErrorNotReady;
    }
    *ms = std::chrono::duration<float, std::milli>(end->latest->at - start->latest->at).count();
    return cudaSuccess;
}

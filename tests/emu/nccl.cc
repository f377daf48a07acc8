/* NCCL over MPI: each rank is a process with an emulated GPU of its own. An operation waits for its turn on its stream like a
 * kernel; then it sends what this rank gives to whom it concerns, is in flight until everything has come, and reduces in the
 * order of ranks. Only nonblocking MPI is used: two ranks whose streams were drawn in other orders do not block each other.
 *
 * Reported as failures: a buffer that is touched while its operation is in flight, ranks that call different operations, a
 * call while the one before is in progress, a communicator destroyed with work left.
 *
 * HELIX_EMU_NCCL, read when it matters, plants faults on the rank that has it in its environment:
 *   version:N  ncclGetVersion says N        absent     the rank does not join new communicators
 *   stall:N    the N-th operation, from 1, of a communicator never starts
 *   error:N    so does this one, and the communicator reports ncclRemoteError
 *   refuse:N   the call of it fails
 *   busy:N     the call of it is in progress for ever
 */
#include <nccl.h>

#include "tests/emu/emu.h"

#include <mpi.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>

#include <unistd.h>

namespace {

enum { FIRST_TAG = 4096, N_TAGS = 12000 };
enum kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, PAIR };

struct header { /* travels with each message */
    int kind, type;
    size_t count;
};

struct planted {
    char what[16];
    int64_t n;
};

struct communicator {
    int rank, size, creator, tag;
    bool is_nonblocking, is_aborted, has_failed;
    std::vector<int> world;           /* ranks in MPI_COMM_WORLD; empty until all have joined */
    int n_busy;                       /* looks until the last call is through */
    int64_t n_begun, n_running;
    std::list<std::function<void()>> pending; /* enqueued on the stream when it is */
    /* joining */
    int own[2];
    std::vector<int> entries; /* [2*size] of the creator */
    std::vector<MPI_Request> requests;
    int phase; /* 0: entries on their way to the creator; 1: the table on its way back; 2: joined */
};
typedef std::shared_ptr<communicator> shared;

struct transfer {
    int peer;
    bool is_send;
    char *at;      /* of the user's memory; NULL: only for the reduction */
    size_t n_bytes;
    header head;
    std::vector<char> message;
};
struct range {
    char *at;
    size_t n_bytes;
    bool is_written;
    std::vector<char> image; /* what it must be while the operation is in flight */
};
struct operation {
    shared comm;
    int64_t number;
    bool has_begun;
    std::vector<transfer> transfers;
    std::vector<range> ranges;
    std::vector<MPI_Request> requests;
    std::function<void(operation &)> finish; /* reduces; may be empty */
};

planted read_plant() {
    planted p = {"", 0};
    const char *text = getenv("HELIX_EMU_NCCL");
    long long n = 0;
    if (text != nullptr && sscanf(text, "%15[a-z]:%lld", p.what, &n) >= 1) p.n = n;
    return p;
}
bool is_planted(const char *what, int64_t n) {
    const planted p = read_plant();
    return strcmp(p.what, what) == 0 && p.n == n;
}

} // namespace

struct ncclComm {
    shared c;
};

static size_t bytes_of(ncclDataType_t type) {
    switch (type) {
    case ncclInt8:
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    default: return 8;
    }
}

/* ---- library ---- */

ncclResult_t ncclGetVersion(int *version) {
    const planted p = read_plant();
    *version = strcmp(p.what, "version") == 0 ? (int)p.n : NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return (unsigned)result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t) { return ""; }

/* Each process is a host of its own as far as its GPUs go; with HELIX_EMU_NCCL=shared all have the same ones. */
cudaError_t cudaDeviceGetPCIBusId(char *text, int n_bytes, int device) {
    snprintf(text, (size_t)n_bytes, "%08x:%02x:00.0", strcmp(read_plant().what, "shared") == 0 ? 0 : (unsigned)getpid(), (unsigned)device);
    return cudaSuccess;
}

/* ---- joining: entries go to the creator of the id, which answers with the table ---- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    auto lock = emu_lock();
    static int serial;
    int creator, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &creator);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const int made[2] = {creator, FIRST_TAG + 2 * ((serial++ * size + creator) % N_TAGS)};
    memset(id, 0, sizeof *id);
    memcpy(id->internal, made, sizeof made);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
    auto lock = emu_lock();
    int me, from[2];
    if (size < 1 || rank < 0 || rank >= size || config->magic != 0xcafebeef || config->size != sizeof *config) return ncclInvalidArgument;
    memcpy(from, id.internal, sizeof from);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    auto c = std::make_shared<communicator>();
    c->rank = rank;
    c->size = size;
    c->creator = from[0];
    c->tag = from[1];
    c->is_nonblocking = config->blocking == 0;
    c->own[0] = rank;
    c->own[1] = me;
    *out = new ncclComm{c};
    if (is_planted("absent", 0)) return ncclInProgress;
    c->requests.resize(1);
    MPI_Isend(c->own, 2, MPI_INT, c->creator, c->tag, MPI_COMM_WORLD, &c->requests[0]);
    if (me == c->creator) {
        c->entries.resize(2 * (size_t)size);
        c->requests.resize(1 + (size_t)size);
        for (int i = 0; i < size; i++)
            MPI_Irecv(&c->entries[2 * (size_t)i], 2, MPI_INT, MPI_ANY_SOURCE, c->tag, MPI_COMM_WORLD, &c->requests[1 + (size_t)i]);
    }
    return ncclInProgress;
}

/* Lock held. */
static void join(communicator &c) {
    int done = 0;
    if (c.phase == 2 || c.requests.empty()) return;
    MPI_Testall((int)c.requests.size(), c.requests.data(), &done, MPI_STATUSES_IGNORE);
    if (!done) return;
    if (c.phase++ == 1) return;
    c.requests.assign(1, MPI_REQUEST_NULL);
    c.world.resize((size_t)c.size);
    MPI_Irecv(c.world.data(), c.size, MPI_INT, c.creator, c.tag + 1, MPI_COMM_WORLD, &c.requests[0]);
    if (c.own[1] != c.creator) return;
    std::vector<int> table((size_t)c.size);
    for (int i = 0; i < c.size; i++) table[(size_t)c.entries[2 * (size_t)i]] = c.entries[2 * (size_t)i + 1];
    c.entries = table;
    for (int rank = 0; rank < c.size; rank++) {
        MPI_Request request;
        MPI_Isend(c.entries.data(), c.size, MPI_INT, table[(size_t)rank], c.tag + 1, MPI_COMM_WORLD, &request);
        c.requests.push_back(request);
    }
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result) {
    auto lock = emu_lock();
    communicator &c = *comm->c;
    join(c);
    if (c.n_busy > 0) c.n_busy--;
    if (c.n_busy == 0 && c.phase == 2)
        for (; !c.pending.empty(); c.pending.pop_front()) c.pending.front()();
    *result = c.has_failed ? ncclRemoteError : c.phase < 2 || c.n_busy > 0 ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

/* Lock held. What has begun to travel may still arrive: its memory stays. */
static void abort_communicator(communicator &c) {
    static std::vector<std::vector<int>> &kept = *new std::vector<std::vector<int>>;
    c.is_aborted = true;
    c.pending.clear();
    if (c.phase == 2) return;
    for (MPI_Request &request : c.requests)
        if (request != MPI_REQUEST_NULL) MPI_Cancel(&request), MPI_Request_free(&request);
    kept.push_back(std::move(c.entries));
    kept.push_back(std::move(c.world));
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    auto lock = emu_lock();
    abort_communicator(*comm->c);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    auto lock = emu_lock();
    comm->c->n_busy = 2;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    auto lock = emu_lock();
    if (comm->c->n_running > 0) emu_fail("nccl: a communicator is destroyed with %lld operations left", (long long)comm->c->n_running);
    delete comm;
    return ncclSuccess;
}

/* ---- operations ---- */

static void begin(operation &op) {
    const int tag = op.comm->tag + 1;
    for (range &r : op.ranges) emu_memory_check("an operation of nccl", r.at, r.n_bytes);
    for (transfer &t : op.transfers) {
        t.message.resize(sizeof t.head + t.n_bytes);
        memcpy(t.message.data(), &t.head, sizeof t.head);
        if (t.is_send) memcpy(t.message.data() + sizeof t.head, t.at, t.n_bytes);
    }
    for (range &r : op.ranges)
        if (r.is_written) memset(r.at, 0xFF, r.n_bytes);
    for (range &r : op.ranges) r.image.assign(r.at, r.at + r.n_bytes);
    for (transfer &t : op.transfers) {
        MPI_Request request;
        const int peer = op.comm->world[(size_t)t.peer], n = (int)t.message.size();
        if (t.is_send) MPI_Isend(t.message.data(), n, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request);
        else MPI_Irecv(t.message.data(), n, MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request);
        op.requests.push_back(request);
    }
    op.has_begun = true;
}

static void check_arrived(const operation &op) {
    for (const range &r : op.ranges)
        if (memcmp(r.image.data(), r.at, r.n_bytes) != 0)
            emu_fail("nccl: a buffer of %zu bytes was written while operation %lld of its communicator was in flight", r.n_bytes,
                     (long long)op.number);
    for (const transfer &t : op.transfers) {
        header came;
        memcpy(&came, t.message.data(), sizeof came);
        if (!t.is_send && memcmp(&came, &t.head, sizeof came) != 0)
            emu_fail("nccl: rank %d called operation %d of %zu elements of type %d, and rank %d %d of %zu of %d", t.peer, came.kind,
                     came.count, came.type, op.comm->rank, t.head.kind, t.head.count, t.head.type);
    }
}

static bool poll(const std::shared_ptr<operation> &op) {
    static std::vector<std::shared_ptr<operation>> &kept = *new std::vector<std::shared_ptr<operation>>;
    communicator &c = *op->comm;
    int done = 0;
    if (c.is_aborted) {
        c.n_running--;
        if (op->has_begun) kept.push_back(op); /* MPI still knows its memory */
        return true;
    }
    if (is_planted("stall", op->number)) return false;
    if (is_planted("error", op->number)) {
        c.has_failed = true;
        return false;
    }
    if (!op->has_begun) begin(*op);
    MPI_Testall((int)op->requests.size(), op->requests.data(), &done, MPI_STATUSES_IGNORE);
    if (!done) return false;
    check_arrived(*op);
    for (transfer &t : op->transfers)
        if (!t.is_send && t.at != nullptr) memcpy(t.at, t.message.data() + sizeof t.head, t.n_bytes);
    if (op->finish) op->finish(*op);
    c.n_running--;
    return true;
}

/* Lock held. */
static ncclResult_t submit(const std::shared_ptr<operation> &op, cudaStream_t stream) {
    communicator &c = *op->comm;
    if (c.phase != 2 || c.n_busy > 0) emu_fail("nccl: an operation is called while the last call is in progress");
    op->number = ++c.n_begun;
    if (is_planted("refuse", op->number)) return ncclSystemError;
    c.n_running++;
    c.pending.push_back([op, stream] { emu_enqueue(stream, "an operation of nccl", [op] { return poll(op); }); });
    if (c.is_nonblocking) {
        c.n_busy = is_planted("busy", op->number) ? INT_MAX : (int)emu_common_draws().below(3);
        if (c.n_busy > 0) return ncclInProgress;
    }
    for (; !c.pending.empty(); c.pending.pop_front()) c.pending.front()();
    return ncclSuccess;
}

/* Operations between ncclGroupStart and ncclGroupEnd of a thread become one. */
static thread_local int group_depth;
static thread_local std::shared_ptr<operation> group;
static thread_local cudaStream_t group_stream;

static ncclResult_t call(const std::shared_ptr<operation> &op, cudaStream_t stream) {
    if (group_depth == 0) {
        auto lock = emu_lock();
        return submit(op, stream);
    }
    if (!group) {
        group = op;
        group_stream = stream;
        return ncclSuccess;
    }
    if (group->comm != op->comm || group_stream != stream || op->finish) return ncclInvalidUsage; /* nobody has needed it */
    for (transfer &t : op->transfers) group->transfers.push_back(t);
    for (range &r : op->ranges) group->ranges.push_back(r);
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) return ncclInvalidUsage;
    if (--group_depth > 0 || !group) return ncclSuccess;
    const auto op = std::move(group);
    group = nullptr;
    return call(op, group_stream);
}

/* ---- what each operation sends ---- */

namespace {
struct builder {
    std::shared_ptr<operation> op = std::make_shared<operation>();
    header head;
    size_t n_bytes;

    builder(ncclComm_t comm, kind what, size_t count, ncclDataType_t type) : n_bytes(count * bytes_of(type)) {
        memset(&head, 0, sizeof head);
        head.kind = what;
        head.type = type;
        head.count = count;
        op->comm = comm->c;
    }
    void send(int peer, const void *at) { op->transfers.push_back({peer, true, (char *)at, n_bytes, head, {}}); }
    void recv(int peer, void *at) { op->transfers.push_back({peer, false, (char *)at, n_bytes, head, {}}); }
    void reads(const void *at, size_t n) { op->ranges.push_back({(char *)at, n, false, {}}); }
    void writes(void *at, size_t n) { op->ranges.push_back({(char *)at, n, true, {}}); }
};
} // namespace

template <class T> static void fold(T *sum, const T *x, size_t count, ncclRedOp_t op) {
    for (size_t i = 0; i < count; i++)
        sum[i] = op == ncclSum ? (T)(sum[i] + x[i]) : op == ncclMax ? (x[i] > sum[i] ? x[i] : sum[i]) : (x[i] < sum[i] ? x[i] : sum[i]);
}

static void fold_as(void *sum, const void *x, size_t count, ncclDataType_t type, ncclRedOp_t op) {
    switch (type) {
    case ncclInt8: return fold((int8_t *)sum, (const int8_t *)x, count, op);
    case ncclUint8: return fold((uint8_t *)sum, (const uint8_t *)x, count, op);
    case ncclInt32: return fold((int32_t *)sum, (const int32_t *)x, count, op);
    case ncclInt64: return fold((int64_t *)sum, (const int64_t *)x, count, op);
    case ncclFloat32: return fold((float *)sum, (const float *)x, count, op);
    case ncclFloat64: return fold((double *)sum, (const double *)x, count, op);
    default: emu_fail("nccl: no reduction of type %d", (int)type);
    }
}

/* What came is in the order of ranks. */
static std::function<void(operation &)> reduction(void *out, size_t count, ncclDataType_t type, ncclRedOp_t op) {
    return [=](operation &o) {
        std::vector<char> sum;
        for (const transfer &t : o.transfers) {
            if (t.is_send) continue;
            const char *x = t.message.data() + sizeof t.head;
            if (sum.empty()) sum.assign(x, x + t.n_bytes);
            else fold_as(sum.data(), x, count, type, op);
        }
        memcpy(out, sum.data(), sum.size());
    };
}

static ncclResult_t reduce_to_all(ncclComm_t comm, kind what, const void *send, size_t stride, void *recv, size_t count,
                                  ncclDataType_t type, ncclRedOp_t op, cudaStream_t stream) {
    builder b(comm, what, count, type);
    for (int peer = 0; peer < comm->c->size; peer++) {
        b.send(peer, (const char *)send + (size_t)peer * stride);
        b.recv(peer, nullptr);
    }
    b.reads(send, stride ? stride * (size_t)comm->c->size : b.n_bytes);
    b.writes(recv, b.n_bytes);
    b.op->finish = reduction(recv, count, type, op);
    return call(b.op, stream);
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
    return reduce_to_all(comm, ALL_REDUCE, send, 0, recv, count, type, op, stream);
}

ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream) {
    return reduce_to_all(comm, REDUCE_SCATTER, send, count * bytes_of(type), recv, count, type, op, stream);
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
    builder b(comm, ALL_GATHER, count, type);
    for (int peer = 0; peer < comm->c->size; peer++) {
        b.send(peer, send);
        b.recv(peer, (char *)recv + (size_t)peer * b.n_bytes);
    }
    b.reads(send, b.n_bytes);
    b.writes(recv, b.n_bytes * (size_t)comm->c->size);
    return call(b.op, stream);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    builder b(comm, BROADCAST, count, type);
    for (int peer = 0; comm->c->rank == root && peer < comm->c->size; peer++) b.send(peer, send);
    b.recv(root, recv);
    if (comm->c->rank == root) b.reads(send, b.n_bytes);
    b.writes(recv, b.n_bytes);
    return call(b.op, stream);
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    builder b(comm, PAIR, count, type);
    b.send(peer, send);
    b.reads(send, b.n_bytes);
    return call(b.op, stream);
}

ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    builder b(comm, PAIR, count, type);
    b.recv(peer, recv);
    b.writes(recv, b.n_bytes);
    return call(b.op, stream);
}

/* The emulator's inside: what its files, and the stand-ins of the libraries around CUDA (matrix products, NCCL), share.
 *
 * The emulator runs the cuda backend's sources, compiled for the host, so that kernels and the order of streams are tested
 * where there is no GPU. It is no model of a GPU's speed. Whatever CUDA leaves open it draws from a seed: the order of
 * blocks, of a block's threads, of streams, when an asynchronous copy arrives. What CUDA leaves undefined it reports, as a
 * line on stderr that begins with "emu:", and ends the process with EMU_EXIT.
 *
 *   HELIX_EMU_SEED=n      of all draws (1); failures print it
 *   HELIX_EMU_CHECK=1     run each kernel twice from the same memory in two orders: results must have the same bits; and
 *                         let the host touch no device memory
 *   HELIX_EMU_GPUS=n      devices (1); 0: none      HELIX_EMU_MEMORY=bytes  of each (4 GiB)
 *   HELIX_EMU_PINNED=bytes  the largest block of pinned memory that can be had (any)
 *   HELIX_EMU_LAZY=1      what CUDA may do: to allocate or free memory, and to launch a kernel for the first time, wait for
 *                         the whole device, and let no other thread call until then
 *   HELIX_EMU_WAIT_VALUE=0  the driver has no cuStreamWaitValue32
 *   HELIX_EMU_LOST=1      from now on the device is lost: streams do nothing more, and calls that concern them fail
 *   HELIX_EMU_PLANT=...   a fault: barrier:FILE:LINE leaves that __syncthreads out, shuffle:FILE:LINE reads from the next
 *                         lane, wait:N leaves out the N-th cudaStreamWaitEvent, counted from 1
 *   HELIX_EMU_LOG=path    append the name of each kernel that is launched, a line for each
 *   HELIX_EMU_SITES=path  append "barrier:FILE:LINE" and "shuffle:FILE:LINE" for those that ran
 *
 * One lock guards everything: functions say where it is held. Only one operation runs at a time, on whichever thread of the
 * host waits; a thread of the emulator takes over where nobody waits for long.
 */
#ifndef HX_TESTS_EMU_EMU_H
#define HX_TESTS_EMU_EMU_H

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#define EMU_EXIT 66

/* ---- reports and draws: report.cc ---- */

/** Print "emu: ..." with the kernel, block and thread that runs, if any, and the seed; end the process. */
[[noreturn]] void emu_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int64_t emu_option(const char *name, int64_t standard);
bool emu_is_checking();

struct emu_draws {
    uint64_t state;
    explicit emu_draws(uint64_t of);
    uint64_t next();
    uint32_t below(uint32_t n) { return (uint32_t)(((next() >> 32) * n) >> 32); }
};
/** The draws of the emulator outside kernels; lock held. */
emu_draws &emu_common_draws();
uint64_t emu_seed();

/** A barrier, shuffle ("what") is reached: note it for HELIX_EMU_SITES. True if HELIX_EMU_PLANT names it. */
bool emu_planted(const char *what, emu_site at);
/** The n-th wait, from 1, is the planted one. */
bool emu_planted_wait(int64_t n);
/** The path inside the tree. */
const char *emu_path(const char *file);

/* ---- memory: memory.cc; lock held ---- */

enum emu_memory_kind { EMU_DEVICE, EMU_PINNED };
struct emu_block {
    char *at;
    size_t n_bytes;
    emu_memory_kind kind;
    int device;
    uint64_t id; /* counts allocations */
    char *pages;
    size_t n_page_bytes;
    bool is_freed;
};
/** A mapping of its own that abuts a guard page, filled with 0xFF. @return NULL: more than the device has */
void *emu_memory_alloc(emu_memory_kind kind, int device, size_t n_bytes);
/** Unmap. Fails the process if p is no such block, or its surroundings were written. */
void emu_memory_free(emu_memory_kind kind, void *p);
/** The live block that holds p, or NULL. */
const emu_block *emu_memory_find(const void *p);
/** The bytes lie in one live block, or in none and are not the emulator's; else fail, naming what. */
void emu_memory_check(const char *what, const void *p, size_t n_bytes);
/** "12 bytes after block 7 of 64 bytes", of live and freed blocks; "" if p is far from any. */
std::string emu_memory_describe(const void *p);
void emu_memory_check_canaries(const char *after);
size_t emu_memory_used(int device);
/** Copies of all live device memory, to run a kernel twice. */
struct emu_snapshot;
std::shared_ptr<emu_snapshot> emu_snapshot_take();
void emu_snapshot_restore(const emu_snapshot &snapshot);
/** Fail if memory is not what the snapshot, of a run in another order, says. */
void emu_snapshot_compare(const emu_snapshot &other, const char *kernel);
/** While closed, a touch of device memory faults. */
void emu_memory_open(bool open);

/* ---- streams: stream.cc ---- */

std::unique_lock<std::mutex> emu_lock();
/** Add work to a stream (NULL: the default one). It is called, lock held, when the earlier work of the stream is done and it
 *  is drawn, and again until it returns true: false means that it is in flight. Lock held. */
void emu_enqueue(cudaStream_t stream, const char *name, std::function<bool()> poll);
/** Drive streams until done() holds; lock held by the argument. Fails if nothing is left that could make it hold. */
void emu_drive(std::unique_lock<std::mutex> &lock, const char *what, const std::function<bool()> &done);
/** With HELIX_EMU_LAZY: wait for the device; calls of other threads wait for that. Lock held. */
void emu_synchronize(std::unique_lock<std::mutex> &lock, const char *why);
bool emu_is_stream(cudaStream_t stream);
bool emu_stream_is_idle(cudaStream_t stream);
bool emu_all_idle();
/** The process-wide number of the calling thread's device. */
int emu_current_device();
/** Keep a failure for cudaGetLastError. @return it */
cudaError_t emu_error(cudaError_t error);

/* ---- kernels: launch.cc, block.cc, fiber.cc ---- */

struct emu_fiber;
struct emu_copy {
    void *shared;
    const void *global;
    bool valid;
    int group; /* commits before it */
};
enum emu_state { EMU_READY, EMU_AT_BARRIER, EMU_IN_WARP, EMU_RETURNED };
struct emu_thread {
    uint3 index;
    unsigned number; /* in the block */
    emu_state state;
    emu_fiber *fiber;     /* NULL before the start */
    emu_lane_call *call;  /* while in one */
    int n_commits;
    std::vector<emu_copy> copies; /* asynchronous, not done yet */
};
struct emu_kernel {
    std::string name;
    const void *address;
    dim3 grid, block;
    size_t shared_bytes;
    std::function<void()> thread;
    uint64_t draws;
    bool in_bursts; /* a warp runs for as long as it can */
};
/** The kernel whose threads run, or NULL. */
const emu_kernel *emu_running();
/** Bytes of dynamic shared memory that the kernel has been opted in to; 0: it has not. */
size_t emu_opted(const void *kernel);
emu_draws &emu_kernel_draws();
emu_thread *emu_thread_at(unsigned number);
/** The thread that runs; NULL outside kernels. */
extern emu_thread *emu_now;
void emu_kernel_run(emu_kernel &kernel);
void emu_block_run(const emu_kernel &kernel);
/** A number for each block run. */
uint64_t emu_block_number();
/** Wait, as a fiber, in this state until emu_make_ready; EMU_READY: was called already. */
void emu_suspend(emu_state state);
void emu_make_ready(emu_thread *thread);
void emu_cp_async_finish();

void emu_shared_begin(size_t dynamic_bytes);
void emu_shared_end();

/* fiber.cc */
extern "C" void emu_switch(void **from, void *to);
emu_fiber *emu_fiber_take(void (*main)());
void emu_fiber_give(emu_fiber *fiber);
void emu_fiber_enter(emu_fiber *to);                  /* from the host's stack */
void emu_fiber_go(emu_fiber *from, emu_fiber *to);    /* NULL: to the host's stack */
/** The address lies in the guard page of a fiber's stack. */
bool emu_fiber_guards(const void *p);

void emu_faults_catch();

#endif

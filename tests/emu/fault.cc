/* Faults of the processor while kernels run, as reports; and what the compiler's checks of the kernels' code find. */
#include "tests/emu/emu.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

static struct sigaction before[NSIG];
static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE};

static std::string code_place(const void *context) {
    const void *pc = reinterpret_cast<const void *>(static_cast<const ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP]);
    char text[512] = "unknown code";
    Dl_info info;
    if (dladdr(pc, &info) != 0)
        snprintf(text, sizeof text, "%s+%#zx", info.dli_fname, (size_t)(static_cast<const char *>(pc) - static_cast<const char *>(info.dli_fbase)));
    return text;
}

static void report(int signal, siginfo_t *info, void *context) {
    const std::string memory = emu_memory_describe(info->si_addr), code = code_place(context);
    const bool is_ours = memory != "no memory of a device";
    if (emu_running() == nullptr && !is_ours) {
        sigaction(signal, &before[signal], nullptr); /* it happens again, to whoever cared before */
        return;
    }
    if (signal == SIGFPE) emu_fail("division by zero at %s", code.c_str());
    if (emu_fiber_guards(info->si_addr)) emu_fail("a thread's stack is full at %s", code.c_str());
    if (info->si_code == SI_KERNEL) emu_fail("misaligned: vector access, or an address that cannot be, at %s", code.c_str());
    if (emu_running() == nullptr) emu_fail("the host touched device memory at %p, %s; at %s", info->si_addr, memory.c_str(), code.c_str());
    emu_fail("out of bounds: access to %p, %s; at %s", info->si_addr, memory.c_str(), code.c_str());
}

/* Handlers for all, a stack for them for the calling thread: the one at fault may be a fiber's that is full. */
void emu_faults_catch() {
    static thread_local bool has_stack;
    static bool is_set;
    if (!has_stack) {
        stack_t stack = {};
        has_stack = true;
        stack.ss_size = 128 * 1024;
        stack.ss_sp = malloc(stack.ss_size); /* for as long as the thread lives */
        sigaltstack(&stack, nullptr);
    }
    if (is_set) return;
    is_set = true;
    struct sigaction action = {};
    action.sa_sigaction = report;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : signals) sigaction(signal, &action, &before[signal]);
}

/* ---- -fsanitize=alignment,bounds without its runtime: the two functions that the compiler calls ---- */

namespace {
struct source_place {
    const char *file;
    uint32_t line, column;
};
} // namespace

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(const source_place *at, const void *p) {
    emu_fail("misaligned: address %p at %s:%u", p, emu_path(at->file), at->line);
}
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(const source_place *at, const void *index) {
    emu_fail("out of bounds: index %lld of an array at %s:%u", (long long)reinterpret_cast<intptr_t>(index), emu_path(at->file), at->line);
}

/* Stacks to run the threads of a block on, and the change from one to another. */
#include "tests/emu/emu.h"

#include <sys/mman.h>
#include <unistd.h>

enum { STACK_BYTES = 128 * 1024, GUARD_BYTES = 4096 };

struct emu_fiber {
    void *sp; /* while another runs */
    char *stack;
};

static std::vector<emu_fiber *> all, idle;
static void *host_sp;

/* Registers that a called function keeps are pushed on the old stack and popped from the new one (System V ABI). */
#ifndef __x86_64__
#error "the emulator changes stacks on x86-64 only"
#endif
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n");

static emu_fiber *make(void (*main)()) {
    void *memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) emu_fail("no memory for stacks");
    emu_fiber *fiber = new emu_fiber;
    fiber->stack = static_cast<char *>(memory);
    /* six registers, the address to return to, and that function's own, so that the stack is as a call leaves it */
    void **top = reinterpret_cast<void **>(fiber->stack + GUARD_BYTES + STACK_BYTES) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void *>(main);
    fiber->sp = top - 6;
    memset(fiber->sp, 0, 6 * sizeof *top);
    all.push_back(fiber);
    return fiber;
}

emu_fiber *emu_fiber_take(void (*main)()) {
    if (idle.empty()) return make(main);
    emu_fiber *fiber = idle.back();
    idle.pop_back();
    return fiber;
}

void emu_fiber_give(emu_fiber *fiber) { idle.push_back(fiber); }

void emu_fiber_enter(emu_fiber *to) { emu_switch(&host_sp, to->sp); }

void emu_fiber_go(emu_fiber *from, emu_fiber *to) { emu_switch(&from->sp, to != nullptr ? to->sp : host_sp); }

bool emu_fiber_guards(const void *p) {
    for (const emu_fiber *fiber : all)
        if (p >= fiber->stack && p < fiber->stack + GUARD_BYTES) return true;
    return false;
}

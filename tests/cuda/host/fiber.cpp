/* fiber.cpp - the switch from one stack to another: what a call must keep is put on the old stack
 * and taken from the new one. */
#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOSTDEVICE_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#endif

extern "C" void hostdevice_switch(void **save, void *to);

#if defined(__x86_64__)

asm(".text\n"
    ".globl hostdevice_switch\n"
    ".hidden hostdevice_switch\n"
    ".type hostdevice_switch,@function\n"
    "hostdevice_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size hostdevice_switch,.-hostdevice_switch\n");

/* Six registers and the address that `ret` takes, which leaves the stack as after a call. */
static constexpr size_t frame_words = 8;
static constexpr size_t entry_word = 6;

#elif defined(__aarch64__)

asm(".text\n"
    ".globl hostdevice_switch\n"
    ".hidden hostdevice_switch\n"
    ".type hostdevice_switch,%function\n"
    "hostdevice_switch:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size hostdevice_switch,.-hostdevice_switch\n");

static constexpr size_t frame_words = 20;
static constexpr size_t entry_word = 11; /* x30 */

#else
#error "the host device has no switch of stacks for this processor"
#endif

namespace hostdevice {

static Fiber *left; /* the fiber that the last switch came from */

void fiber_rewind(Fiber *fiber, void (*entry)()) {
#ifdef HOSTDEVICE_ASAN
    __asan_unpoison_memory_region(fiber->stack_base, fiber->stack_bytes);
#endif
    auto *top = static_cast<const char *>(fiber->stack_base) + fiber->stack_bytes;
    auto *frame = reinterpret_cast<uintptr_t *>(const_cast<char *>(top)) - frame_words;
    for (size_t i = 0; i < frame_words; i++)
        frame[i] = 0;
    frame[entry_word] = reinterpret_cast<uintptr_t>(entry);
    fiber->stack_pointer = frame;
    fiber->fake_stack = nullptr;
}

/* A page that nobody may touch lies below the stack. */
Fiber *fiber_new(void (*entry)()) {
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void *map = mmap(nullptr, guard + fiber_stack_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map, guard, PROT_NONE) != 0) {
        perror("hostdevice: a thread's stack");
        abort();
    }
    auto *fiber = new Fiber{nullptr, static_cast<char *>(map) + guard, fiber_stack_bytes, nullptr};
    fiber_rewind(fiber, entry);
    return fiber;
}

void fiber_switch(Fiber *from, Fiber *to) {
    left = from;
#ifdef HOSTDEVICE_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack_base, to->stack_bytes);
#endif
    hostdevice_switch(&from->stack_pointer, to->stack_pointer);
#ifdef HOSTDEVICE_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, &left->stack_base, &left->stack_bytes);
#endif
}

void fiber_entered() {
#ifdef HOSTDEVICE_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &left->stack_base, &left->stack_bytes);
#endif
}

} // namespace hostdevice

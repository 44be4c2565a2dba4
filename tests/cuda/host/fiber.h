/* fiber.h - stacks of their own for the threads of a block. */
#ifndef HOSTDEVICE_FIBER_H
#define HOSTDEVICE_FIBER_H

#include <stddef.h>

namespace hostdevice {

struct Fiber {
    void *stack_pointer;    /* while it does not run */
    const void *stack_base; /* lowest address */
    size_t stack_bytes;
    void *fake_stack; /* AddressSanitizer's */
};

constexpr size_t fiber_stack_bytes = 256 << 10;

/* A fiber that enters `entry` when it is first switched to; entry never returns. */
Fiber *fiber_new(void (*entry)());
/* As fiber_new left it: what its stack held is forgotten. */
void fiber_rewind(Fiber *fiber, void (*entry)());
/* Goes on in `to`; comes back when somebody switches to `from`. */
void fiber_switch(Fiber *from, Fiber *to);
/* First thing in an entry. */
void fiber_entered();

} // namespace hostdevice

#endif

/* atomic.cpp - atomic functions: plain changes, as one operating system thread makes them all. */
#include "race.h"

#include "device_atomics.h"

using hostdevice::Access;
using hostdevice::race_access;

#define HERE __builtin_return_address(0)

template <class T, class Change> static T changed(T *p, const void *code, Change change) {
    race_access(p, sizeof(T), Access::atomic, code);
    const T old = *p;
    *p = change(old);
    return old;
}

#define ATOMIC(name, type, expression)                                                             \
    type name(type *p, type value) {                                                               \
        return changed(p, HERE, [value](type old) -> type { return expression; });                 \
    }
#define FOR_INTEGERS(name, expression)                                                             \
    ATOMIC(name, int, expression)                                                                  \
    ATOMIC(name, unsigned, expression)                                                             \
    ATOMIC(name, unsigned long long, expression)

FOR_INTEGERS(atomicAnd, old &value)
FOR_INTEGERS(atomicOr, old | value)
FOR_INTEGERS(atomicXor, old ^ value)
FOR_INTEGERS(atomicMin, value < old ? value : old)
FOR_INTEGERS(atomicMax, value > old ? value : old)
ATOMIC(atomicMin, long long, value < old ? value : old)
ATOMIC(atomicMax, long long, value > old ? value : old)

static int wrapped(unsigned sum) {
    return static_cast<int>(sum);
}

ATOMIC(atomicAdd, int, wrapped(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
ATOMIC(atomicAdd, unsigned, old + value)
ATOMIC(atomicAdd, unsigned long long, old + value)
ATOMIC(atomicAdd, float, old + value)
ATOMIC(atomicAdd, double, old + value)
ATOMIC(atomicSub, int, wrapped(static_cast<unsigned>(old) - static_cast<unsigned>(value)))
ATOMIC(atomicSub, unsigned, old - value)

#define EXCHANGE(type)                                                                             \
    type atomicExch(type *p, type value) {                                                         \
        return changed(p, HERE, [value](type) { return value; });                                  \
    }
EXCHANGE(int)
EXCHANGE(unsigned)
EXCHANGE(unsigned long long)
EXCHANGE(float)

#define COMPARE_AND_SWAP(type)                                                                     \
    type atomicCAS(type *p, type expected, type value) {                                           \
        return changed(p, HERE, [=](type old) { return old == expected ? value : old; });          \
    }
COMPARE_AND_SWAP(int)
COMPARE_AND_SWAP(unsigned)
COMPARE_AND_SWAP(unsigned long long)
COMPARE_AND_SWAP(unsigned short)

unsigned atomicInc(unsigned *p, unsigned limit) {
    return changed(p, HERE, [limit](unsigned old) { return old >= limit ? 0 : old + 1; });
}

unsigned atomicDec(unsigned *p, unsigned limit) {
    return changed(p, HERE,
                   [limit](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}

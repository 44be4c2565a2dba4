/* race_hooks.cpp - the functions that a compiler calls before every access when it compiles for
 * ThreadSanitizer. libtsan is not linked. Calls of memcpy and its like come here by the linker's
 * --wrap. */
#include "race.h"

#include <string.h>

using hostdevice::Access;
using hostdevice::race_access;

#define HERE __builtin_return_address(0)

extern "C" {

#pragma GCC visibility push(default)

#define HOOKS(bytes)                                                                               \
    void __tsan_read##bytes(void *p) {                                                             \
        race_access(p, bytes, Access::read, HERE);                                                 \
    }                                                                                              \
    void __tsan_write##bytes(void *p) {                                                            \
        race_access(p, bytes, Access::write, HERE);                                                \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(void *p) {                                                   \
        race_access(p, bytes, Access::read, HERE);                                                 \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *p) {                                                  \
        race_access(p, bytes, Access::write, HERE);                                                \
    }                                                                                              \
    void __tsan_read_write##bytes(void *p) {                                                       \
        race_access(p, bytes, Access::read, HERE);                                                 \
        race_access(p, bytes, Access::write, HERE);                                                \
    }                                                                                              \
    void __tsan_unaligned_read_write##bytes(void *p) {                                             \
        race_access(p, bytes, Access::read, HERE);                                                 \
        race_access(p, bytes, Access::write, HERE);                                                \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void **) {}
void __tsan_vptr_update(void **, void *) {}

void *__wrap_memcpy(void *to, const void *from, size_t n) {
    race_access(from, n, Access::read, HERE);
    race_access(to, n, Access::write, HERE);
    return memcpy(to, from, n);
}

void *__wrap_memmove(void *to, const void *from, size_t n) {
    race_access(from, n, Access::read, HERE);
    race_access(to, n, Access::write, HERE);
    return memmove(to, from, n);
}

void *__wrap_memset(void *to, int value, size_t n) {
    race_access(to, n, Access::write, HERE);
    return memset(to, value, n);
}

#pragma GCC visibility pop
}

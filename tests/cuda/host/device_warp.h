/* device_warp.h - barriers and warp functions under CUDA's names. */
#ifndef HOSTDEVICE_DEVICE_WARP_H
#define HOSTDEVICE_DEVICE_WARP_H

#include "engine.h"

namespace hostdevice {

template <class T>
inline T shuffle(WarpOperation operation, const char *file, int line, unsigned mask, T value,
                 int argument, int width = 32) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves a scalar");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = warp_value(operation, mask, bits, argument, width, file, line);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline unsigned ballot(unsigned mask, int predicate, const char *file, int line) {
    return static_cast<unsigned>(
        warp_value(WarpOperation::ballot, mask, predicate != 0, 0, 32, file, line));
}

inline void warp_barrier(const char *file, int line, unsigned mask = 0xffffffffu) {
    warp_value(WarpOperation::sync, mask, 0, 0, 32, file, line);
}

inline unsigned reduce(WarpOperation operation, WarpOperation, const char *file, int line,
                       unsigned mask, unsigned value) {
    return static_cast<unsigned>(warp_value(operation, mask, value, 0, 32, file, line));
}

inline int reduce(WarpOperation, WarpOperation of_signed, const char *file, int line, unsigned mask,
                  int value) {
    const uint64_t bits = static_cast<unsigned>(value);
    return static_cast<int>(warp_value(of_signed, mask, bits, 0, 32, file, line));
}

} // namespace hostdevice

#define HOSTDEVICE_HERE __FILE__, __LINE__
#define HOSTDEVICE_BARRIER(vote, p)                                                                \
    ::hostdevice::block_barrier(::hostdevice::Vote::vote, (p), HOSTDEVICE_HERE)
#define __syncthreads() static_cast<void>(HOSTDEVICE_BARRIER(none, 0))
#define __syncthreads_or(p) HOSTDEVICE_BARRIER(any, p)
#define __syncthreads_and(p) HOSTDEVICE_BARRIER(all, p)
#define __syncthreads_count(p) HOSTDEVICE_BARRIER(count, p)

#define HOSTDEVICE_SHUFFLE(which, ...)                                                             \
    ::hostdevice::shuffle(::hostdevice::WarpOperation::shuffle_##which, HOSTDEVICE_HERE,           \
                          __VA_ARGS__)
#define __shfl_sync(...) HOSTDEVICE_SHUFFLE(index, __VA_ARGS__)
#define __shfl_up_sync(...) HOSTDEVICE_SHUFFLE(up, __VA_ARGS__)
#define __shfl_down_sync(...) HOSTDEVICE_SHUFFLE(down, __VA_ARGS__)
#define __shfl_xor_sync(...) HOSTDEVICE_SHUFFLE(xor, __VA_ARGS__)

/* A macro's empty argument list cannot be told from none before C++20: GNU's ## takes the comma. */
#define __syncwarp(...) ::hostdevice::warp_barrier(HOSTDEVICE_HERE, ##__VA_ARGS__)
#define __ballot_sync(mask, p) ::hostdevice::ballot((mask), (p), HOSTDEVICE_HERE)
#define __any_sync(mask, p) (::hostdevice::ballot((mask), (p), HOSTDEVICE_HERE) != 0)
#define __all_sync(mask, p) (::hostdevice::ballot((mask), !(p), HOSTDEVICE_HERE) == 0)
#define __activemask() ::hostdevice::active_mask()

#define HOSTDEVICE_REDUCE(unsigned_one, signed_one, mask, value)                                   \
    ::hostdevice::reduce(::hostdevice::WarpOperation::reduce_##unsigned_one,                       \
                         ::hostdevice::WarpOperation::reduce_##signed_one, HOSTDEVICE_HERE,        \
                         (mask), (value))
#define __reduce_add_sync(mask, value) HOSTDEVICE_REDUCE(add, add, mask, value)
#define __reduce_min_sync(mask, value) HOSTDEVICE_REDUCE(min, min_signed, mask, value)
#define __reduce_max_sync(mask, value) HOSTDEVICE_REDUCE(max, max_signed, mask, value)
#define __reduce_and_sync(mask, value) HOSTDEVICE_REDUCE(and, and, mask, value)
#define __reduce_or_sync(mask, value) HOSTDEVICE_REDUCE(or, or, mask, value)
#define __reduce_xor_sync(mask, value) HOSTDEVICE_REDUCE(xor, xor, mask, value)

#define __trap() ::hostdevice::trap(HOSTDEVICE_HERE)

#endif

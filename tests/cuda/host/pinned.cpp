/* pinned.cpp - the host's memory that is pinned: allocated so, or registered. It begins as bytes
 * 0xff; behind what was allocated here lies a red zone. */
#include "internal.h"

#include <stdlib.h>

namespace hostdevice {

static constexpr size_t alignment = 4096;
static constexpr size_t red_zone = 512;
static constexpr unsigned char red = 0xa5;

struct Pinned {
    size_t bytes;
    bool is_ours; /* allocated here, not registered */
};
static std::map<const char *, Pinned> &pinned = *new std::map<const char *, Pinned>;

static std::map<const char *, Pinned>::iterator pinned_around(const void *p) {
    auto after = pinned.upper_bound(static_cast<const char *>(p));
    if (after == pinned.begin())
        return pinned.end();
    auto found = std::prev(after);
    return static_cast<const char *>(p) < found->first + found->second.bytes ? found : pinned.end();
}

static void release_pinned(std::map<const char *, Pinned>::iterator found) {
    const char *base = found->first;
    const size_t bytes = found->second.bytes;
    pinned.erase(found);
    for (size_t i = 0; i < red_zone; i++)
        if (static_cast<unsigned char>(base[bytes + i]) != red) {
            hostdevice_report("a write %zu bytes past the end of %zu bytes of pinned memory", i,
                              bytes);
            break;
        }
    free(const_cast<char *>(base));
}

size_t live_pinned_objects() {
    return pinned.size();
}

void reset_pinned() {
    for (auto p = pinned.begin(); p != pinned.end(); p = pinned.begin()) {
        if (p->second.is_ours)
            release_pinned(p);
        else
            pinned.erase(p);
    }
}

} // namespace hostdevice

using namespace hostdevice;

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned int) {
    HOSTDEVICE_LOCK();
    *out = nullptr;
    if (const cudaError_t error = call_may_fail())
        return error;
    if (bytes == 0)
        return cudaSuccess;
    char *p = static_cast<char *>(
        aligned_alloc(alignment, (bytes + red_zone + alignment - 1) / alignment * alignment));
    if (p == nullptr)
        return noted(cudaErrorMemoryAllocation);
    memset(p, 0xff, bytes);
    memset(p + bytes, red, red_zone);
    pinned[p] = {bytes, true};
    *out = p;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *p) {
    HOSTDEVICE_LOCK();
    if (p == nullptr)
        return noted(lost_error());
    finish_all();
    auto found = pinned.find(static_cast<const char *>(p));
    if (found == pinned.end() || !found->second.is_ours) {
        hostdevice_report("cudaFreeHost of %p, which cudaHostAlloc did not give", p);
        return noted(cudaErrorInvalidValue);
    }
    release_pinned(found);
    return noted(lost_error());
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned int) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    if (p == nullptr || bytes == 0 || is_device_address(p))
        return noted(cudaErrorInvalidValue);
    auto next = pinned.lower_bound(static_cast<const char *>(p));
    const bool meets_next = next != pinned.end() && next->first < static_cast<char *>(p) + bytes;
    if (meets_next || pinned_around(p) != pinned.end())
        return noted(cudaErrorHostMemoryAlreadyRegistered);
    pinned[static_cast<const char *>(p)] = {bytes, false};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p) {
    HOSTDEVICE_LOCK();
    finish_all();
    auto found = pinned.find(static_cast<const char *>(p));
    if (found == pinned.end() || found->second.is_ours)
        return noted(cudaErrorHostMemoryNotRegistered);
    pinned.erase(found);
    return noted(lost_error());
}

int hostdevice_is_pinned_range(const void *p, size_t n) {
    auto found = pinned_around(p);
    if (found == pinned.end())
        return 0;
    const size_t at = static_cast<size_t>(static_cast<const char *>(p) - found->first);
    return n <= found->second.bytes - at;
}

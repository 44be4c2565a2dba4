/* copy.cpp - the runtime's copies between memories, and what fills memory. */
#include "internal.h"

namespace hostdevice {

static const void *readable(const void *p) {
    const void *through = device_alias(p);
    return through != nullptr ? through : p;
}

static void *writable(void *p) {
    void *through = device_alias(p);
    return through != nullptr ? through : p;
}

/* Whether p and the n bytes from it are what the kind of copy says of it. */
static bool is_right_memory(const void *p, size_t n, bool device, const char *what) {
    if (device && !hostdevice_is_device_range(p, n)) {
        hostdevice_report("%s: %zu bytes at %s are not inside one allocation of the device", what,
                          n, describe_address(p).c_str());
        return false;
    }
    if (!device && is_device_address(p)) {
        hostdevice_report("%s: the device's address %p where the host's belongs", what, p);
        return false;
    }
    return true;
}

static cudaMemcpyKind kind_of(void *to, const void *from, cudaMemcpyKind kind) {
    if (kind != cudaMemcpyDefault)
        return kind;
    if (is_device_address(to))
        return is_device_address(from) ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
    return is_device_address(from) ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

static void count_copy(cudaMemcpyKind kind, size_t n) {
    if (kind == cudaMemcpyHostToDevice)
        counts.to_device_bytes += n;
    else if (kind == cudaMemcpyDeviceToHost)
        counts.to_host_bytes += n;
    else if (kind == cudaMemcpyDeviceToDevice)
        counts.on_device_bytes += n;
}

struct Copy {
    void *to;
    const void *from;
    size_t n;
    cudaMemcpyKind kind;
    bool from_host() const {
        return kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost;
    }
    bool to_host() const {
        return kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
    }
};

/* Pageable memory is read at the call, into a buffer of the runtime's; pinned memory when the
 * stream comes to the copy. */
static cudaError_t queue_copy(const Copy &copy, cudaStream_t stream) {
    count_copy(copy.kind, copy.n);
    void *to = copy.to;
    const size_t n = copy.n;
    if (copy.from_host() && !hostdevice_is_pinned_range(copy.from, n)) {
        auto *bytes = static_cast<const unsigned char *>(copy.from);
        auto staged = std::make_shared<std::vector<unsigned char>>(bytes, bytes + n);
        return enqueue(stream, [=] { memcpy(writable(to), staged->data(), n); });
    }
    const void *from = copy.from;
    return enqueue(stream, [=] { memmove(writable(to), readable(from), n); });
}

static cudaError_t checked_copy(const Copy &copy, cudaStream_t stream, const char *what) {
    if (const cudaError_t error = call_may_fail())
        return error;
    if (copy.n == 0)
        return cudaSuccess;
    if (!is_right_memory(copy.to, copy.n, !copy.to_host(), what) ||
        !is_right_memory(copy.from, copy.n, !copy.from_host(), what))
        return noted(cudaErrorInvalidValue);
    return queue_copy(copy, stream);
}

static cudaError_t fill(void *p, int value, size_t n, cudaStream_t stream, const char *what) {
    if (const cudaError_t error = call_may_fail())
        return error;
    if (n == 0)
        return cudaSuccess;
    if (!is_right_memory(p, n, is_device_address(p) || !hostdevice_is_pinned_range(p, n), what))
        return noted(cudaErrorInvalidValue);
    counts.set_bytes += n;
    return enqueue(stream, [=] { memset(writable(p), value, n); });
}

} // namespace hostdevice

using namespace hostdevice;

/* A copy to pageable memory has been made when the call returns. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    HOSTDEVICE_LOCK();
    const Copy copy = {to, from, n, kind_of(to, from, kind)};
    const cudaError_t error = checked_copy(copy, stream, "cudaMemcpyAsync");
    if (error != cudaSuccess || n == 0 || !copy.to_host() || hostdevice_is_pinned_range(to, n))
        return error;
    return finish_stream(stream);
}

/* The host waits, but for a copy on the device, and for one from pageable memory to it no longer
 * than until it is staged. */
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind) {
    HOSTDEVICE_LOCK();
    const Copy copy = {to, from, n, kind_of(to, from, kind)};
    const cudaError_t error = checked_copy(copy, nullptr, "cudaMemcpy");
    if (error != cudaSuccess || n == 0 || copy.kind == cudaMemcpyDeviceToDevice)
        return error;
    if (copy.kind == cudaMemcpyHostToDevice && !hostdevice_is_pinned_range(from, n))
        return cudaSuccess;
    return finish_stream(nullptr);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
    HOSTDEVICE_LOCK();
    return fill(p, value, n, stream, "cudaMemsetAsync");
}

cudaError_t cudaMemset(void *p, int value, size_t n) {
    HOSTDEVICE_LOCK();
    return fill(p, value, n, nullptr, "cudaMemset");
}

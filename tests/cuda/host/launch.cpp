/* launch.cpp - a kernel on its way to a stream: what a launch may ask for, and whether an
 * interpreter of PTX takes it. */
#include "internal.h"

namespace hostdevice {

static hostdevice_ptx_has_fn ptx_has;
static hostdevice_ptx_grid_fn ptx_grid;

static bool is_possible(const Launch &launch) {
    const dim3 g = launch.grid, b = launch.block;
    const bool block_fits = b.x <= 1024 && b.y <= 1024 && b.z <= 64;
    const bool grid_fits = g.x <= INT32_MAX && g.y <= 65535 && g.z <= 65535;
    const bool any = g.x != 0 && g.y != 0 && g.z != 0 && b.x != 0 && b.y != 0 && b.z != 0;
    return any && grid_fits && block_fits && size_t{b.x} * b.y * b.z <= 1024;
}

static cudaError_t launch_error(const Launch &launch) {
    if (const cudaError_t error = call_may_fail())
        return error;
    const dim3 g = launch.grid, b = launch.block;
    if (!is_possible(launch)) {
        hostdevice_report("%s: no such grid and block: (%u,%u,%u) of (%u,%u,%u)", launch.name, g.x,
                          g.y, g.z, b.x, b.y, b.z);
        return cudaErrorInvalidConfiguration;
    }
    const size_t limit = dynamic_shared_limit(launch.kernel);
    if (launch.shared_bytes > limit) {
        hostdevice_report("%s: %zu bytes of dynamic shared memory, of which it may have %zu",
                          launch.name, launch.shared_bytes, limit);
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

static void run_ptx(const Launch &launch, const std::string &mangled) {
    kernel_counts(launch.name)->launches++;
    if (ptx_grid(mangled.c_str(), launch.grid, launch.block, launch.shared_bytes,
                 launch.parameters.data(), launch.parameters.size()) != 0)
        lose_device(cudaErrorLaunchFailure);
    check_red_zones(launch.name);
}

/* A template's instance was written in parentheses. */
static const char *plain_name(const char *name) {
    std::string text = name;
    if (text.size() > 2 && text.front() == '(' && text.back() == ')')
        text = text.substr(1, text.size() - 2);
    return kernel_counts(text.c_str())->name;
}

void launch_kernel(Launch launch) {
    HOSTDEVICE_LOCK();
    launch.name = plain_name(launch.name);
    if (const cudaError_t error = launch_error(launch)) {
        noted(error);
        return;
    }
    counts.launches++;
    const std::string mangled = ptx_has != nullptr ? symbol_of(launch.kernel) : "";
    const cudaStream_t stream = launch.stream;
    if (!mangled.empty() && ptx_has(mangled.c_str()) != 0)
        enqueue(stream, [launch = std::move(launch), mangled] { run_ptx(launch, mangled); });
    else
        enqueue(stream, [launch = std::move(launch)] { run_grid(launch); });
}

} // namespace hostdevice

void hostdevice_set_ptx(hostdevice_ptx_has_fn has, hostdevice_ptx_grid_fn grid) {
    hostdevice::ptx_has = has;
    hostdevice::ptx_grid = grid;
}

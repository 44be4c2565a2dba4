/* runtime.cpp - the runtime's questions about devices, functions and errors. */
#include "internal.h"

#include <stdio.h>

namespace hostdevice {

static constexpr int multiprocessors = 132;
static constexpr int threads_per_multiprocessor = 2048;
static constexpr int blocks_per_multiprocessor = 32;
static constexpr size_t default_shared = 48 << 10;

static thread_local int current_device;

/* Dynamic shared memory that kernels have opted in to. */
static std::map<const void *, size_t> &opted_in = *new std::map<const void *, size_t>;

size_t dynamic_shared_limit(const void *kernel) {
    auto found = opted_in.find(kernel);
    return found != opted_in.end() ? found->second : default_shared;
}

void forget_attributes() {
    opted_in.clear();
}

/* Errors before any other: no driver, no device, no such device. */
static cudaError_t device_error(int device) {
    if (settings.devices < 0)
        return noted(cudaErrorInsufficientDriver);
    if (settings.devices == 0)
        return noted(cudaErrorNoDevice);
    return device < 0 || device >= settings.devices ? noted(cudaErrorInvalidDevice) : cudaSuccess;
}

static int attribute_value(cudaDeviceAttr attribute) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
        return 1024;
    case cudaDevAttrMaxBlockDimZ:
        return 64;
    case cudaDevAttrMaxGridDimX:
        return INT32_MAX;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return default_shared;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return static_cast<int>(settings.shared_limit);
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return static_cast<int>(settings.shared_limit) + 1024;
    case cudaDevAttrWarpSize:
        return 32;
    case cudaDevAttrMultiProcessorCount:
        return multiprocessors;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return threads_per_multiprocessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        return blocks_per_multiprocessor;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        return 65536;
    case cudaDevAttrTotalConstantMemory:
        return 65536;
    case cudaDevAttrComputeCapabilityMajor:
        return settings.major;
    case cudaDevAttrComputeCapabilityMinor:
        return settings.minor;
    case cudaDevAttrL2CacheSize:
        return 50 << 20;
    case cudaDevAttrAsyncEngineCount:
        return 3;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrMemoryPoolsSupported:
        return 1;
    default:
        return 0;
    }
}

static void fill_properties(cudaDeviceProp *p) {
    *p = {};
    snprintf(p->name, sizeof p->name, "host device");
    p->totalGlobalMem = settings.capacity;
    p->sharedMemPerBlock = default_shared;
    p->sharedMemPerBlockOptin = settings.shared_limit;
    p->sharedMemPerMultiprocessor = settings.shared_limit + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = INT32_MAX;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 65536;
    p->major = settings.major;
    p->minor = settings.minor;
    p->multiProcessorCount = multiprocessors;
    p->maxThreadsPerMultiProcessor = threads_per_multiprocessor;
    p->maxBlocksPerMultiProcessor = blocks_per_multiprocessor;
    p->l2CacheSize = 50 << 20;
    p->asyncEngineCount = 3;
    p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = 1;
    p->hostRegisterSupported = p->memoryPoolsSupported = 1;
}

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};

static constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

static const ErrorText *text_of(cudaError_t error) {
    for (const ErrorText &text : error_texts)
        if (text.error == error)
            return &text;
    return nullptr;
}

} // namespace hostdevice

using namespace hostdevice;

/* Without a driver the count is not touched, as with NVIDIA's runtime. */
cudaError_t cudaGetDeviceCount(int *count) {
    HOSTDEVICE_LOCK();
    if (settings.devices < 0)
        return noted(cudaErrorInsufficientDriver);
    *count = settings.devices;
    return settings.devices == 0 ? noted(cudaErrorNoDevice) : call_may_fail();
}

cudaError_t cudaSetDevice(int device) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = device_error(device))
        return error;
    if (const cudaError_t error = call_may_fail())
        return error;
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = device_error(0))
        return error;
    *device = current_device;
    return call_may_fail();
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = device_error(device))
        return error;
    *value = attribute_value(attribute);
    return call_may_fail();
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = device_error(device))
        return error;
    fill_properties(properties);
    return call_may_fail();
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = settings.devices < 0 ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > settings.shared_limit)
        return noted(cudaErrorInvalidValue);
    opted_in[kernel] = static_cast<size_t>(value);
    return cudaSuccess;
}

/* What only a compiler for the device knows, registers and static shared memory, is plausible. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(dynamic_shared_limit(kernel));
    attributes->binaryVersion = attributes->ptxVersion = 10 * settings.major + settings.minor;
    return cudaSuccess;
}

/* By threads, blocks and dynamic shared memory alone. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *,
                                                          int block_threads, size_t shared_bytes) {
    HOSTDEVICE_LOCK();
    if (const cudaError_t error = call_may_fail())
        return error;
    if (block_threads <= 0 || block_threads > 1024)
        return noted(cudaErrorInvalidValue);
    const int threads = (block_threads + 31) / 32 * 32;
    const size_t by_shared = (settings.shared_limit + 1024) / (shared_bytes + 1024);
    *blocks = threads_per_multiprocessor / threads;
    if (*blocks > blocks_per_multiprocessor)
        *blocks = blocks_per_multiprocessor;
    if (static_cast<size_t>(*blocks) > by_shared)
        *blocks = static_cast<int>(by_shared);
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error) {
    const ErrorText *found = text_of(error);
    return found != nullptr ? found->name : "cudaErrorOther";
}

const char *cudaGetErrorString(cudaError_t error) {
    const ErrorText *found = text_of(error);
    return found != nullptr ? found->text : "another error";
}

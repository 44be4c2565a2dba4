/* cuda_runtime.h - shadows the toolkit's header of this name where kernels are compiled as C++17
 * for the host device (LISA_HOST_DEVICE; this folder stands before the toolkit's).
 *
 * Types and prototypes of the runtime's C functions are the toolkit's own, so that a host device
 * that drifts from them does not compile. What a CUDA compiler builds in is defined here. */
#ifndef HOSTDEVICE_CUDA_RUNTIME_H
#define HOSTDEVICE_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#ifdef __cplusplus

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
/* One linker section holds all of them, so that the engine can spoil them before every block. */
#define __shared__ static __attribute__((section("hostdevice_shared")))

#include "engine.h"

#include "device_atomics.h"
#include "device_math.h"
#include "device_warp.h"

#define threadIdx (::hostdevice::current->index)
#define blockIdx (::hostdevice::block_index)
#define blockDim (::hostdevice::block_size)
#define gridDim (::hostdevice::grid_size)
static constexpr int warpSize = 32;

/* The toolkit's conveniences for C++. */
template <class T> inline cudaError_t cudaMalloc(T **out, size_t bytes) {
    return ::cudaMalloc(reinterpret_cast<void **>(out), bytes);
}

template <class T>
inline cudaError_t cudaMallocHost(T **out, size_t bytes, unsigned int flags = 0) {
    return ::cudaHostAlloc(reinterpret_cast<void **>(out), bytes, flags);
}

template <class T> inline cudaError_t cudaHostAlloc(T **out, size_t bytes, unsigned int flags) {
    return ::cudaHostAlloc(reinterpret_cast<void **>(out), bytes, flags);
}

template <class T>
inline cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute attribute, int value) {
    return ::cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

template <class T>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, T *kernel) {
    return ::cudaFuncGetAttributes(attributes, reinterpret_cast<const void *>(kernel));
}

template <class T>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T kernel, int threads,
                                                                 size_t shared) {
    return ::cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks, reinterpret_cast<const void *>(kernel), threads, shared);
}

#endif
#endif

/* planted.cu - kernels with one error each, and their twins without it. */
#include "planted.h"

#include "backend/cuda/dialect.cuh"

constexpr unsigned threads = PLANTED_OUTPUTS;

static __device__ float number() {
    return static_cast<float>(threadIdx.x);
}

/* ---- barriers ---- */

template <bool right> __global__ void barrier(float *out) {
    __shared__ float s[threads];
    s[threads - 1 - threadIdx.x] = number();
    if (right)
        __syncthreads();
    out[threads - 1 - threadIdx.x] = s[threadIdx.x];
}

template <bool right> __global__ void divergent(float *out) {
    if (right || threadIdx.x < 32) {
        out[threadIdx.x] = number();
        __syncthreads();
    } else {
        out[threadIdx.x] = number();
        __syncthreads();
    }
}

template <bool right> __global__ void early_exit(float *out) {
    out[threadIdx.x] = number();
    if (!right && threadIdx.x >= 40)
        return;
    __syncthreads();
}

template <bool right> __global__ void barrier_and_shuffle(float *out) {
    float x = number();
    if (right || threadIdx.x < 16)
        x = __shfl_sync(0xffffffffu, x, static_cast<int>(threadIdx.x));
    if (right || threadIdx.x >= 16)
        __syncthreads();
    out[threadIdx.x] = x;
}

/* ---- warps ---- */

template <bool right> __global__ void outside_mask(float *out) {
    float x = number();
    if (threadIdx.x % 32 < 16)
        x = __shfl_xor_sync(0x0000ffffu, x, right ? 0 : 16);
    out[threadIdx.x] = x;
}

template <bool right> __global__ void not_in_mask(float *out) {
    const unsigned mask = right ? 0xffffffffu : 0x7fffffffu;
    if (right || threadIdx.x % 32 == 31)
        __syncwarp(mask);
    out[threadIdx.x] = number();
}

template <bool right> __global__ void mask_of_the_gone(float *out) {
    out[threadIdx.x] = number();
    if (threadIdx.x % 32 >= 20)
        return;
    const unsigned mask = right ? 0x000fffffu : 0xffffffffu;
    out[threadIdx.x] = __shfl_sync(mask, number(), static_cast<int>(threadIdx.x % 32));
}

template <bool right> __global__ void warp_race(float *out) {
    __shared__ float s[threads];
    s[threadIdx.x ^ 31] = number();
    if (right)
        __syncwarp();
    out[threadIdx.x ^ 31] = s[threadIdx.x];
}

/* ---- memory ---- */

template <bool right> __global__ void past_the_end(float *out) {
    out[threadIdx.x] = number();
    if (!right && threadIdx.x == 0)
        out[threads] = 1;
}

template <bool right> __global__ void far_outside(float *out) {
    out[threadIdx.x] = number();
    if (!right && threadIdx.x == 0)
        out[1 << 26] = 1;
}

template <bool right> __global__ void wide_read(float *out) {
    out[threadIdx.x] = number();
    __syncthreads();
    if (threadIdx.x == 0)
        lisa_store16(out, lisa_load16(right ? out : out + threads));
    __syncthreads();
    out[threadIdx.x] = number();
}

template <bool right> __global__ void before_the_start(float *out) {
    out[threadIdx.x] = number();
    if (!right && threadIdx.x == 0)
        *(out - 1) = 1;
}

template <bool right> __global__ void past_shared(float *out) {
    LISA_SHARED(float, s);
    s[threadIdx.x + (right ? 0 : 1)] = number();
    __syncthreads();
    out[threadIdx.x] = number();
}

template <bool right> __global__ void unwritten_shared(float *out) {
    __shared__ float s[threads];
    if (right || threadIdx.x != 3)
        s[threadIdx.x] = number();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}

template <bool right> __global__ void host_memory(float *out, const float *host) {
    out[threadIdx.x] = number();
    if (!right && *host == 1)
        out[threadIdx.x] = number();
}

template <bool right> __global__ void misaligned(float *out) {
    out[threadIdx.x] = number();
    __syncthreads();
    if (threadIdx.x == 0)
        lisa_store16(out + (right ? 4 : 5), lisa_load16(out + (right ? 4 : 5)));
}

/* ---- asynchronous copies ---- */

/* Two stages: the older one may be read while the newer is under way. */
template <bool right> __global__ void async_wait(float *out) {
    __shared__ __align__(16) float s[2][threads];
    out[threadIdx.x] = number();
    __syncthreads();
    for (int stage = 0; stage < 2; stage++) {
        if (threadIdx.x < threads / 4)
            lisa_copy_async16(&s[stage][4 * threadIdx.x], out + 4 * threadIdx.x, true);
        lisa_copy_async_commit();
    }
    lisa_copy_async_wait(1);
    __syncthreads();
    const float first = s[0][threadIdx.x];
    if (right)
        lisa_copy_async_wait(0);
    __syncthreads();
    out[threadIdx.x] = 0.5f * (first + s[1][threadIdx.x]);
}

template <bool right> __global__ void async_commit(float *out) {
    __shared__ __align__(16) float s[threads];
    out[threadIdx.x] = number();
    __syncthreads();
    if (threadIdx.x < threads / 4)
        lisa_copy_async16(s + 4 * threadIdx.x, out + 4 * threadIdx.x, true);
    if (right)
        lisa_copy_async_commit();
    lisa_copy_async_wait(0);
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}

/* ---- races between blocks ---- */

template <bool right> __global__ void between_blocks(float *out) {
    if (right && blockIdx.x != 0)
        return;
    out[threadIdx.x] = number();
}

template <bool right> __global__ void counted(float *out) {
    if (threadIdx.x == 0 && right)
        atomicAdd(out, 0.0f);
    else if (threadIdx.x == 0)
        out[0] = out[0] + 0.0f;
    if (blockIdx.x == 0 && threadIdx.x > 0)
        out[threadIdx.x] = number();
}

/* Reads of a byte by one thread while its neighbour writes the next byte are none of a race. */
template <bool right> __global__ void bytes(float *out) {
    __shared__ unsigned char s[threads];
    s[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
    if (!right && threadIdx.x > 0)
        s[threadIdx.x - 1] = static_cast<unsigned char>(threadIdx.x - 1);
    out[threadIdx.x] = s[threadIdx.x];
}

/* ---- the table ---- */

#define LAUNCHER(kernel, blocks, shared)                                                           \
    template <bool right> static void run_##kernel(float *out) {                                   \
        LISA_LAUNCH((kernel<right>), blocks, threads, shared, nullptr, out);                       \
    }
LAUNCHER(barrier, 1, 0)
LAUNCHER(divergent, 1, 0)
LAUNCHER(early_exit, 1, 0)
LAUNCHER(barrier_and_shuffle, 1, 0)
LAUNCHER(outside_mask, 1, 0)
LAUNCHER(not_in_mask, 1, 0)
LAUNCHER(mask_of_the_gone, 1, 0)
LAUNCHER(warp_race, 1, 0)
LAUNCHER(past_the_end, 1, 0)
LAUNCHER(before_the_start, 1, 0)
LAUNCHER(far_outside, 1, 0)
LAUNCHER(wide_read, 1, 0)
LAUNCHER(past_shared, 1, threads * sizeof(float))
LAUNCHER(unwritten_shared, 1, 0)
LAUNCHER(misaligned, 1, 0)
LAUNCHER(async_wait, 1, 0)
LAUNCHER(async_commit, 1, 0)
LAUNCHER(between_blocks, 4, 0)
LAUNCHER(counted, 4, 0)
LAUNCHER(bytes, 1, 0)

template <bool right> static void run_host_memory(float *out) {
    float *host = new float(1);
    LISA_LAUNCH((host_memory<right>), 1, threads, 0, nullptr, out, right ? out : host);
    delete host;
}

#define BOTH(kernel, report, race_lane, spoils)                                                    \
    {#kernel, run_##kernel<false>, report, race_lane, spoils}, {                                   \
#kernel " (right)", run_##kernel < true>, nullptr, false, false                            \
    }

const PlantedKernel planted_kernels[] = {
    BOTH(barrier, "race", true, true),
    BOTH(divergent, "divergent barrier", false, false),
    BOTH(early_exit, "24 of 64 threads had returned", false, false),
    BOTH(barrier_and_shuffle, "stands still", false, false),
    BOTH(outside_mask, "outside mask 0000ffff", false, false),
    BOTH(not_in_mask, "not in its own mask", false, false),
    BOTH(mask_of_the_gone, "which have returned or never were", false, false),
    BOTH(warp_race, "race", true, true),
    BOTH(past_the_end, "past the end of a device allocation", false, false),
    BOTH(before_the_start, "before a device allocation", false, false),
    BOTH(far_outside, "outside every allocation", false, false),
    BOTH(wide_read, "outside every allocation", false, false),
    BOTH(past_shared, "dynamic shared memory", false, false),
    BOTH(unwritten_shared, nullptr, false, true),
    BOTH(misaligned, "not aligned", false, false),
    BOTH(async_wait, nullptr, false, true),
    BOTH(async_commit, nullptr, false, true),
    BOTH(between_blocks, "race", true, false),
    BOTH(counted, "race", true, false),
    BOTH(bytes, "race", true, false),
    BOTH(host_memory, "the host's memory", true, false),
};
const size_t planted_kernel_count = sizeof planted_kernels / sizeof planted_kernels[0];

/* ---- for the host's side ---- */

static __global__ void add_one(const float *in, float *out, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        out[i] = in[i] + 1.0f;
}

void planted_add_one(const float *in, float *out, int n, void *stream) {
    LISA_LAUNCH(add_one, static_cast<unsigned>(n + 127) / 128, 128, 0,
                static_cast<cudaStream_t>(stream), in, out, n);
}

static __global__ void ask(float *out) {
    LISA_SHARED(float, s);
    if (threadIdx.x == 0)
        out[0] = s == nullptr ? 1.0f : 0.0f;
}

void planted_ask(float *out, unsigned block_threads, size_t shared, bool opt_in) {
    if (opt_in)
        cudaFuncSetAttribute(ask, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared));
    LISA_LAUNCH(ask, 1, block_threads, shared, nullptr, out);
}

static __global__ void sum(const float *in, float *out, unsigned *count) {
    float x = in[threadIdx.x];
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_down_sync(0xffffffffu, x, apart);
    if (threadIdx.x % 32 == 0)
        atomicAdd(out, x);
    const unsigned ones = __reduce_add_sync(0xffffffffu, 1u);
    if (threadIdx.x % 32 == 0)
        atomicAdd(count, ones);
}

void planted_sum(const float *in, float *out, unsigned *count, unsigned blocks) {
    LISA_LAUNCH(sum, blocks, 256, 0, nullptr, in, out, count);
}

static __global__ void load(const float *in, float *out, int stride) {
    out[threadIdx.x] = in[static_cast<int>(threadIdx.x) * stride];
}

void planted_load(const float *in, float *out, int stride) {
    LISA_LAUNCH(load, 1, 32, 0, nullptr, in, out, stride);
}

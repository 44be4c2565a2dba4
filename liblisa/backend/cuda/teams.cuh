/* teams.cuh - vectors of any length, each shared out among a team of threads: a power of two of
 * them within a warp, or a whole block. A thread holds LISA_TEAM_ELEMENTS elements; where the team
 * does not hold the vector at once, it goes on in tiles. */
#ifndef LISA_BACKEND_CUDA_TEAMS_CUH
#define LISA_BACKEND_CUDA_TEAMS_CUH

#include "backend/cuda/storage.cuh"

#include <type_traits>

#define LISA_TEAM_ELEMENTS 16
#define LISA_TEAM_THREADS 512
#define LISA_TEAM_COLUMNS (UINT32_C(1) << 31) /* at most */

struct lisa__teams {
    uint32_t size;  /* threads of a team */
    uint32_t block; /* threads of a block */
    uint32_t tiles; /* of a vector */
};

static inline lisa__teams lisa__teams_for(uint64_t cols) {
    const uint64_t most = LISA_TEAM_THREADS;
    const uint64_t threads = lisa__blocks_for(cols, LISA_TEAM_ELEMENTS);
    if (threads > 32) {
        const uint64_t size = (threads < most ? threads + 31 : most) / 32 * 32;
        const uint64_t tiles = lisa__blocks_for(cols, size * LISA_TEAM_ELEMENTS);
        return {static_cast<uint32_t>(size), static_cast<uint32_t>(size),
                static_cast<uint32_t>(tiles)};
    }
    uint32_t size = 1;
    while (size < threads)
        size *= 2;
    return {size, 128, 1};
}

/* v[k] becomes its sum over the team, in each of its threads; all threads of the block call. */
template <int K> __device__ __forceinline__ void lisa__team_sum(float (&v)[K], uint32_t team) {
    const uint32_t lanes = team < 32 ? team : 32, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (uint32_t step = lanes / 2; step > 0; step /= 2)
        LISA_UNROLL
    for (int k = 0; k < K; k++)
        v[k] += __shfl_xor_sync(0xFFFFFFFFu, v[k], step);
    if (team <= 32)
        return;
    __shared__ float sums[K][32];
    __syncthreads(); /* the last sums have been read */
    if (lane == 0)
        LISA_UNROLL
    for (int k = 0; k < K; k++)
        sums[k][warp] = v[k];
    __syncthreads();
    LISA_UNROLL
    for (int k = 0; k < K; k++)
        v[k] = lane < team / 32 ? sums[k][lane] : 0.0f;
    for (uint32_t step = 16; step > 0; step /= 2)
        LISA_UNROLL
    for (int k = 0; k < K; k++)
        v[k] += __shfl_xor_sync(0xFFFFFFFFu, v[k], step);
}

/* What one thread has of a vector, in runs of N neighbours. Vectors are aligned for requests of N
 * elements, and N divides their length. */
template <int N> struct lisa__share {
    static constexpr int K = LISA_TEAM_ELEMENTS / N;
    uint32_t cols, team, member;

    /* Where its run k of a tile begins, if there is one. */
    __device__ __forceinline__ uint32_t column(uint32_t tile, int k) const {
        return ((tile * K + k) * team + member) * N;
    }
    __device__ __forceinline__ bool has(uint32_t tile, int k) const {
        return column(tile, k) < cols;
    }

    /* Zeros are what it has not. */
    template <class T>
    __device__ __forceinline__ void read(float (&x)[K][N], const T *vector, uint32_t tile) const {
        T stored[K][N] = {};
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            if (has(tile, k))
                lisa__fetch_wide(stored[k], vector + column(tile, k));
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            LISA_UNROLL
        for (int i = 0; i < N; i++)
            x[k][i] = lisa__widen(stored[k][i]);
    }

    template <class T>
    __device__ __forceinline__ void write(T *vector, const float (&x)[K][N], uint32_t tile) const {
        LISA_UNROLL
        for (int k = 0; k < K; k++) {
            T stored[N];
            LISA_UNROLL
            for (int i = 0; i < N; i++)
                stored[i] = lisa__narrow<T>(x[k][i]);
            if (has(tile, k))
                lisa__put_wide(vector + column(tile, k), stored);
        }
    }

    /* From element `at` on of an array of T, or (void) of a type known when the kernel runs. */
    template <class T>
    __device__ __forceinline__ void read_as(float (&x)[K][N], lisa_typed from, size_t at,
                                            uint32_t tile) const {
        if constexpr (!std::is_void<T>::value)
            read(x, static_cast<const T *>(from.data) + at, tile);
        else if (from.dtype == LISA_DTYPE_F32)
            read(x, static_cast<const float *>(from.data) + at, tile);
        else if (from.dtype == LISA_DTYPE_BF16)
            read(x, static_cast<const __nv_bfloat16 *>(from.data) + at, tile);
        else
            read(x, static_cast<const __half *>(from.data) + at, tile);
    }

    template <class T>
    __device__ __forceinline__ void write_as(lisa_typed to, size_t at, const float (&x)[K][N],
                                             uint32_t tile) const {
        if constexpr (!std::is_void<T>::value)
            write(static_cast<T *>(to.data) + at, x, tile);
        else if (to.dtype == LISA_DTYPE_F32)
            write(static_cast<float *>(to.data) + at, x, tile);
        else if (to.dtype == LISA_DTYPE_BF16)
            write(static_cast<__nv_bfloat16 *>(to.data) + at, x, tile);
        else
            write(static_cast<__half *>(to.data) + at, x, tile);
    }
};

#endif

/* storage.cuh - what kernels over arrays share: elements of a storage type as floats, several by
 * one request, and the division of work into launches. */
#ifndef LISA_BACKEND_CUDA_STORAGE_CUH
#define LISA_BACKEND_CUDA_STORAGE_CUH

#include "backend/cuda/cuda.h"
#include "backend/cuda/dialect.cuh"
#include "core/error.h"

#include <string.h>

#define LISA_BLOCK 256u /* threads of a block, where nothing speaks for another number */

/* ---- elements ---- */

template <class T> __device__ __forceinline__ float lisa__widen(T value);
template <> __device__ __forceinline__ float lisa__widen(float value) {
    return value;
}
template <> __device__ __forceinline__ float lisa__widen(__nv_bfloat16 value) {
    return __bfloat162float(value);
}
template <> __device__ __forceinline__ float lisa__widen(__half value) {
    return __half2float(value);
}

/* To nearest even. */
template <class T> __device__ __forceinline__ T lisa__narrow(float value);
template <> __device__ __forceinline__ float lisa__narrow(float value) {
    return value;
}
template <> __device__ __forceinline__ __nv_bfloat16 lisa__narrow(float value) {
    return __float2bfloat16_rn(value);
}
template <> __device__ __forceinline__ __half lisa__narrow(float value) {
    return __float2half_rn(value);
}

/* Elements of T in 16 bytes, and how many of A and B go through a thread at a time: requests stay
 * side by side where the wider type fills 16 bytes. */
template <class T> constexpr int lisa__per_16 = 16 / sizeof(T);
template <class A, class B>
constexpr int lisa__at_once = lisa__per_16<A> < lisa__per_16<B> ? lisa__per_16<A> : lisa__per_16<B>;

/* N elements of less than 16 bytes that move by one request. */
template <int N, class T> struct alignas(N * sizeof(T)) lisa__pack { T x[N]; };

/* N elements by as few requests as there can be; p is aligned to 16 bytes or to the N elements. */
template <int N, class T> __device__ __forceinline__ void lisa__fetch_wide(T (&x)[N], const T *p) {
    if constexpr (N * sizeof(T) < 16) {
        const lisa__pack<N, T> from = *reinterpret_cast<const lisa__pack<N, T> *>(p);
        memcpy(x, from.x, sizeof x);
    } else {
        LISA_UNROLL
        for (int i = 0; i < N; i += lisa__per_16<T>) {
            const uint4 from = lisa_load16(p + i);
            memcpy(x + i, &from, 16);
        }
    }
}

template <int N, class T> __device__ __forceinline__ void lisa__put_wide(T *p, const T (&x)[N]) {
    if constexpr (N * sizeof(T) < 16) {
        lisa__pack<N, T> to;
        memcpy(to.x, x, sizeof x);
        *reinterpret_cast<lisa__pack<N, T> *>(p) = to;
    } else {
        LISA_UNROLL
        for (int i = 0; i < N; i += lisa__per_16<T>) {
            uint4 to;
            memcpy(&to, x + i, 16);
            lisa_store16(p + i, to);
        }
    }
}

/* Of N elements the first n, if there are not as many; the others become 0. `wide`: p and all of
 * its kind are aligned for wide requests. */
template <int N, class T>
__device__ __forceinline__ void lisa__fetch(T (&x)[N], const T *p, size_t n, bool wide) {
    if (wide && n >= N) {
        lisa__fetch_wide(x, p);
        return;
    }
    LISA_UNROLL
    for (uint32_t i = 0; i < N; i++)
        x[i] = i < n ? p[i] : T();
}

template <int N, class T>
__device__ __forceinline__ void lisa__put(T *p, const T (&x)[N], size_t n, bool wide) {
    if (wide && n >= N) {
        lisa__put_wide(p, x);
        return;
    }
    LISA_UNROLL
    for (uint32_t i = 0; i < N; i++)
        if (i < n)
            p[i] = x[i];
}

/* The same as floats. */
template <int N, class T>
__device__ __forceinline__ void lisa__read(float (&x)[N], const T *p, size_t n, bool wide) {
    T stored[N];
    lisa__fetch(stored, p, n, wide);
    LISA_UNROLL
    for (int i = 0; i < N; i++)
        x[i] = lisa__widen(stored[i]);
}

template <int N, class T>
__device__ __forceinline__ void lisa__write(T *p, const float (&x)[N], size_t n, bool wide) {
    T stored[N];
    LISA_UNROLL
    for (int i = 0; i < N; i++)
        stored[i] = lisa__narrow<T>(x[i]);
    lisa__put(p, stored, n, wide);
}

/* From element `at` on, of an array whose type is known when the kernel runs: for what is small
 * beside the rest. */
template <int N>
__device__ __forceinline__ void lisa__read_typed(float (&x)[N], lisa_typed from, size_t at,
                                                 size_t n, bool wide) {
    if (from.dtype == LISA_DTYPE_F32)
        lisa__read(x, static_cast<const float *>(from.data) + at, n, wide);
    else if (from.dtype == LISA_DTYPE_BF16)
        lisa__read(x, static_cast<const __nv_bfloat16 *>(from.data) + at, n, wide);
    else
        lisa__read(x, static_cast<const __half *>(from.data) + at, n, wide);
}

template <int N>
__device__ __forceinline__ void lisa__write_typed(lisa_typed to, size_t at, const float (&x)[N],
                                                  size_t n, bool wide) {
    if (to.dtype == LISA_DTYPE_F32)
        lisa__write(static_cast<float *>(to.data) + at, x, n, wide);
    else if (to.dtype == LISA_DTYPE_BF16)
        lisa__write(static_cast<__nv_bfloat16 *>(to.data) + at, x, n, wide);
    else
        lisa__write(static_cast<__half *>(to.data) + at, x, n, wide);
}

/* ---- launches ---- */

/* Whether wide requests may start at p; rows of N elements at a time stay so where N divides their
 * distance. NULL is in nobody's way. */
static inline bool lisa__is_aligned(const void *p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

static inline uint64_t lisa__blocks_for(uint64_t n, uint64_t each) {
    return n / each + (n % each != 0);
}

/* Blocks of a grid in x: a function of the shape alone. Where there is more work, a kernel goes on
 * by the whole grid. */
static inline uint32_t lisa__grid(uint64_t blocks) {
    const uint64_t most = UINT32_C(1) << 20;
    return static_cast<uint32_t>(blocks < most ? blocks : most);
}

/* Where a thread begins in an array that is worked off N elements at a time, and how far it is to
 * its next ones. */
template <int N> __device__ __forceinline__ size_t lisa__first_place() {
    return (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
}

template <int N> __device__ __forceinline__ size_t lisa__next_place() {
    return static_cast<size_t>(gridDim.x) * blockDim.x * N;
}

/* A matrix worked off by blocks of `width` threads side by side in a row, each with some elements,
 * and as many rows as then fit: the grid's x goes across, its y down and on. */
struct lisa__sheet {
    dim3 grid, block;
};

static inline lisa__sheet lisa__sheet_for(uint64_t rows, uint64_t pieces) {
    uint32_t width = LISA_BLOCK;
    while (width / 2 >= pieces && width > 1)
        width /= 2;
    const uint64_t down = lisa__blocks_for(rows, LISA_BLOCK / width);
    return {dim3(static_cast<uint32_t>(lisa__blocks_for(pieces, width)),
                 static_cast<uint32_t>(down < 65535 ? down : 65535)),
            dim3(width, LISA_BLOCK / width)};
}

template <int N> __device__ __forceinline__ size_t lisa__sheet_column() {
    return lisa__first_place<N>();
}

__device__ __forceinline__ size_t lisa__sheet_row() {
    return static_cast<size_t>(blockIdx.y) * blockDim.y + threadIdx.y;
}

__device__ __forceinline__ size_t lisa__sheet_next_row() {
    return static_cast<size_t>(gridDim.y) * blockDim.y;
}

/* ---- types that are known when an operation is called ---- */

static inline bool lisa__is_storage(uint32_t dtype) {
    return dtype == LISA_DTYPE_F32 || dtype == LISA_DTYPE_BF16 || dtype == LISA_DTYPE_F16;
}

/* call(T()) for the T that dtype names, or a refusal. */
template <class Call>
lisa_status lisa__with_type(lisa_backend *be, uint32_t dtype, const char *refusal, Call call) {
    switch (dtype) {
    case LISA_DTYPE_F32:
        return call(float());
    case LISA_DTYPE_BF16:
        return call(__nv_bfloat16());
    case LISA_DTYPE_F16:
        return call(__half());
    default:
        return lisa__cuda_refuse(be, refusal);
    }
}

/* Two types of one operation: no backend's operands are bf16 and f16. */
template <class A, class B> constexpr bool lisa__go_together = true;
template <> inline constexpr bool lisa__go_together<__nv_bfloat16, __half> = false;
template <> inline constexpr bool lisa__go_together<__half, __nv_bfloat16> = false;

/* call(A(), B()) */
template <class Call>
lisa_status lisa__with_types(lisa_backend *be, uint32_t a, uint32_t b, const char *refusal,
                             Call call) {
    return lisa__with_type(be, a, refusal, [=](auto x) {
        return lisa__with_type(be, b, refusal, [=](auto y) -> lisa_status {
            if constexpr (lisa__go_together<decltype(x), decltype(y)>)
                return call(x, y);
            else
                return lisa__cuda_refuse(be, refusal);
        });
    });
}

#endif

/* dialect.cuh - the few words that kernels are written in, so that one source is compiled by nvcc
 * for a GPU and by a C++ compiler for the tests' host device (tests/cuda/host).
 *
 * - Kernels are launched by LISA_LAUNCH, never by <<<>>>.
 * - Dynamic shared memory is named by LISA_SHARED, 16-byte aligned; static by __shared__.
 * - Accesses of 16 bytes go through lisa_load16 and lisa_store16: one visible request each.
 * - Inline PTX stands here alone, each piece with its twin in the host device's runtime.
 * - 16-bit types are storage; arithmetic is in float. */
#ifndef LISA_BACKEND_CUDA_DIALECT_CUH
#define LISA_BACKEND_CUDA_DIALECT_CUH

#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* C[16,8] += A[16,16] B[16,8], in the fragments of mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments
 * for mma.m16n8k16"): with group = lane / 4 and pair = lane % 4, a[0] holds A[group, 2 pair +
 * {0,1}], a[1] row group + 8, a[2] and a[3] the same 8 columns on; b[0] holds B[2 pair + {0,1},
 * group], b[1] 8 rows down; c[0..1] C[group, 2 pair + {0,1}], c[2..3] row group + 8. */

#ifdef LISA_HOST_DEVICE

#define LISA_LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
    ::hostdevice::launch(#kernel, kernel, dim3(grid), dim3(block), (shared), (stream), __VA_ARGS__)
#define LISA_SHARED(type, name) type *name = static_cast<type *>(::hostdevice::dynamic_shared())

#define lisa_load16(p) ::hostdevice::load16(p, __FILE__, __LINE__)
#define lisa_store16(p, value) ::hostdevice::store16(p, value, __FILE__, __LINE__)
#define lisa_mma_bf16(c, a, b) ::hostdevice::mma_bf16(c, a, b, __FILE__, __LINE__)
#define lisa_mma_f16(c, a, b) ::hostdevice::mma_f16(c, a, b, __FILE__, __LINE__)
#define lisa_ldmatrix4(out, row) ::hostdevice::ldmatrix4(out, row, 0, __FILE__, __LINE__)
#define lisa_ldmatrix4_transposed(out, row) ::hostdevice::ldmatrix4(out, row, 1, __FILE__, __LINE__)
#define lisa_copy_async16(to_shared, from, is_there)                                               \
    ::hostdevice::copy_async16(to_shared, from, is_there, __FILE__, __LINE__)
#define lisa_copy_async_commit() ::hostdevice::copy_async_commit()
#define lisa_copy_async_wait(n) ::hostdevice::copy_async_wait(n)
#define lisa_exp2(x) ::exp2f(x)
#define LISA_UNROLL

#else

#define LISA_LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
    (kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
/* Before a loop over registers: arrays whose places are not constants lie in memory. */
#define LISA_UNROLL _Pragma("unroll")
#define LISA_SHARED(type, name)                                                                    \
    extern __shared__ __align__(16) unsigned char lisa_dynamic_shared[];                           \
    type *name = reinterpret_cast<type *>(lisa_dynamic_shared)

/* A type of 16 bytes, aligned so. */
template <class T> __device__ __forceinline__ uint4 lisa_load16(const T *p) {
    return *reinterpret_cast<const uint4 *>(p);
}

template <class T> __device__ __forceinline__ void lisa_store16(T *p, uint4 value) {
    *reinterpret_cast<uint4 *>(p) = value;
}

__device__ __forceinline__ void lisa_mma_bf16(float (&c)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void lisa_mma_f16(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lane i names row i % 8 of matrix i / 8
 * (16 bytes, aligned so); out[j] of lane i holds elements 2 (i % 4) + {0,1} of row i / 4 of matrix
 * j, or of its transpose. */
__device__ __forceinline__ void lisa_ldmatrix4(uint32_t (&out)[4], const void *row) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

__device__ __forceinline__ void lisa_ldmatrix4_transposed(uint32_t (&out)[4], const void *row) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes from global to shared memory, zeros where !is_there (`from` is not read then). Done
 * after a wait for the group that the next commit closes, and visible to others after a barrier. */
__device__ __forceinline__ void lisa_copy_async16(void *to_shared, const void *from,
                                                  bool is_there) {
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
    const int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void lisa_copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most n (a constant) of the newest groups are under way. */
#define lisa_copy_async_wait(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

/* 2^x within 2 units; 0 below 2^-126. */
__device__ __forceinline__ float lisa_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

#endif

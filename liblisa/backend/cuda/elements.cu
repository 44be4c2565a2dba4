/* Operations on elements one by one: conversion and dropout. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"
#include "backend/elementwise.h"

namespace {

template <class D, class S> __device__ __forceinline__ D converted(S value) {
    return lisa__narrow<D>(lisa__widen(value));
}
template <> __device__ __forceinline__ double converted(float value) {
    return value;
}
template <> __device__ __forceinline__ double converted(__nv_bfloat16 value) {
    return __bfloat162float(value);
}
template <> __device__ __forceinline__ double converted(__half value) {
    return __half2float(value);
}
template <> __device__ __forceinline__ double converted(double value) {
    return value;
}
template <> __device__ __forceinline__ float converted(double value) {
    return static_cast<float>(value);
}
/* By way of an odd float, so that the value is rounded once. */
template <> __device__ __forceinline__ __nv_bfloat16 converted(double value) {
    return __float2bfloat16_rn(lisa__f64_to_f32_odd(value));
}
template <> __device__ __forceinline__ __half converted(double value) {
    return __float2half_rn(lisa__f64_to_f32_odd(value));
}

template <class D, class S>
__global__ void convert_kernel(D *dst, const S *src, size_t n, bool wide) {
    for (size_t i = lisa__first_place<4>(); i < n; i += lisa__next_place<4>()) {
        S from[4];
        D to[4];
        lisa__fetch(from, src + i, n - i, wide);
        LISA_UNROLL
        for (int k = 0; k < 4; k++)
            to[k] = converted<D>(from[k]);
        lisa__put(dst + i, to, n - i, wide);
    }
}

template <class Call>
lisa_status with_any_type(lisa_backend *be, uint32_t dtype, const char *refusal, Call call) {
    if (dtype == LISA_DTYPE_F64)
        return call(double());
    return lisa__with_type(be, dtype, refusal, call);
}

template <class X, class Y>
__global__ void dropout_kernel(lisa_dropout op, uint32_t threshold, float scale, bool wide) {
    constexpr int N = 4;
    const X *x = static_cast<const X *>(op.x.data);
    Y *y = static_cast<Y *>(op.y.data);
    for (size_t i = lisa__first_place<N>(); i < op.n; i += lisa__next_place<N>()) {
        float from[N], to[N] = {};
        uint32_t
            draws[2 * N]; /* of the element and those before it in its block of Philox, and on */
        const uint64_t place = op.first + i;
        const uint32_t skip = place % N;
        lisa__read(from, x + i, op.n - i, wide);
        if (op.accumulate)
            lisa__read(to, y + i, op.n - i, wide);
        lisa__philox(op.seed, place / N, op.stream, draws);
        if (skip != 0)
            lisa__philox(op.seed, place / N + 1, op.stream, draws + N);
        LISA_UNROLL
        for (uint32_t k = 0; k < N; k++) {
            uint32_t draw = draws[k];
            LISA_UNROLL
            for (uint32_t s = 1; s < N; s++)
                draw = s == skip ? draws[k + s] : draw;
            const float kept = draw >= threshold ? __fmul_rn(from[k], scale) : 0.0f;
            to[k] = op.accumulate ? __fadd_rn(to[k], kept) : kept;
        }
        lisa__write(y + i, to, op.n - i, wide);
    }
}

template <class D, class S>
lisa_status convert(struct lisa__cuda *cuda, void *dst, const void *src, size_t n) {
    const bool wide = lisa__is_aligned(dst) && lisa__is_aligned(src);
    if (n == 0)
        return LISA_OK;
    LISA_LAUNCH((convert_kernel<D, S>), lisa__grid(lisa__blocks_for(n, 4 * LISA_BLOCK)), LISA_BLOCK,
                0, cuda->stream, static_cast<D *>(dst), static_cast<const S *>(src), n, wide);
    return lisa__cuda_launched(&cuda->base, "convert");
}

template <class X, class Y> lisa_status dropout(struct lisa__cuda *cuda, const lisa_dropout *op) {
    const bool wide = lisa__is_aligned(op->x.data) && lisa__is_aligned(op->y.data);
    if (op->n == 0)
        return LISA_OK;
    LISA_LAUNCH((dropout_kernel<X, Y>), lisa__grid(lisa__blocks_for(op->n, 4 * LISA_BLOCK)),
                LISA_BLOCK, 0, cuda->stream, *op, lisa__dropout_threshold(op->p),
                static_cast<float>(1.0 / (1.0 - op->p)), wide);
    return lisa__cuda_launched(&cuda->base, "dropout");
}

} // namespace

lisa_status lisa__cuda_convert(lisa_backend *be, lisa_typed dst, lisa_typed src, size_t n) {
    const char *refusal = "cuda: convert: a dtype that is none of f32, bf16, f16, f64";
    return with_any_type(be, dst.dtype, refusal, [=](auto to) {
        return with_any_type(be, src.dtype, refusal, [=](auto from) {
            return convert<decltype(to), decltype(from)>(lisa__cuda_of(be), dst.data, src.data, n);
        });
    });
}

lisa_status lisa__cuda_dropout(lisa_backend *be, const lisa_dropout *op) {
    return lisa__with_types(
        be, op->x.dtype, op->y.dtype,
        "cuda: dropout: x or y is none of f32, bf16, f16, or they are of two "
        "16-bit types",
        [=](auto x, auto y) { return dropout<decltype(x), decltype(y)>(lisa__cuda_of(be), op); });
}

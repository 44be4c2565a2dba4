/* Activations, in float: an element moves once and its arithmetic hides behind that. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"
#include "backend/elementwise.h"

namespace {

/* act(x) and its slope. */
struct bend {
    float value, slope;
};

/* The sigmoid and 1 - sigmoid, neither as a difference of what is nearly equal. */
struct sigmoid {
    float value, rest;
};

__device__ __forceinline__ sigmoid sigmoid_of(float x) {
    const float z = expf(-fabsf(x)), larger = 1.0f / (1.0f + z), smaller = z / (1.0f + z);
    return x < 0.0f ? sigmoid{smaller, larger} : sigmoid{larger, smaller};
}

__device__ __forceinline__ bend silu(float x) {
    const sigmoid s = sigmoid_of(x);
    return {x * s.value, s.value * (1.0f + x * s.rest)};
}

/* (1 + tanh(u)) / 2 is the sigmoid of 2 u. */
__device__ __forceinline__ bend gelu_tanh(float x) {
    const float twice = static_cast<float>(2.0 * LISA_SQRT_2_OVER_PI);
    const float cube = static_cast<float>(LISA_GELU_CUBE);
    const sigmoid s = sigmoid_of(twice * (x + cube * x * x * x));
    const float flat = s.value * s.rest;
    /* Where the sigmoid has come to its limit the slope of its argument may be Inf. */
    const float turn = flat == 0.0f ? 0.0f : flat * (twice * (1.0f + 3.0f * cube * x * x));
    return {x * s.value, s.value + x * turn};
}

__device__ __forceinline__ bend gelu_erf(float x) {
    const float phi = 0.5f * erfcf(-x * static_cast<float>(LISA_SQRT_1_OVER_2));
    const float density = static_cast<float>(LISA_1_OVER_SQRT_2PI) * expf(-0.5f * x * x);
    return {x * phi, phi + x * density};
}

/* NaN stays NaN. */
__device__ __forceinline__ bend relu(float x) {
    return {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f};
}

__device__ __forceinline__ bend activate(uint32_t kind, float x) {
    switch (kind) {
    case LISA_ACT_SILU:
        return silu(x);
    case LISA_ACT_GELU_TANH:
        return gelu_tanh(x);
    case LISA_ACT_GELU_ERF:
        return gelu_erf(x);
    default:
        return relu(x);
    }
}

template <class T> __global__ void forward_kernel(lisa_activation op, bool wide) {
    constexpr int N = lisa__per_16<T>;
    const T *gates = static_cast<const T *>(op.gate), *ups = static_cast<const T *>(op.up);
    T *y = static_cast<T *>(op.y);
    for (size_t i = lisa__first_place<N>(); i < op.n; i += lisa__next_place<N>()) {
        float gate[N], up[N];
        lisa__read(gate, gates + i, op.n - i, wide);
        if (ups != nullptr)
            lisa__read(up, ups + i, op.n - i, wide);
        LISA_UNROLL
        for (int k = 0; k < N; k++) {
            const float value = activate(op.kind, gate[k]).value;
            gate[k] = ups != nullptr ? value * up[k] : value;
        }
        lisa__write(y + i, gate, op.n - i, wide);
    }
}

template <class T> __global__ void backward_kernel(lisa_activation op, bool wide) {
    constexpr int N = lisa__per_16<T>;
    const T *gates = static_cast<const T *>(op.gate), *ups = static_cast<const T *>(op.up);
    const T *dys = static_cast<const T *>(op.dy);
    for (size_t i = lisa__first_place<N>(); i < op.n; i += lisa__next_place<N>()) {
        float gate[N], up[N], dy[N];
        lisa__read(gate, gates + i, op.n - i, wide);
        lisa__read(dy, dys + i, op.n - i, wide);
        if (ups != nullptr)
            lisa__read(up, ups + i, op.n - i, wide);
        LISA_UNROLL
        for (int k = 0; k < N; k++) {
            const bend at = activate(op.kind, gate[k]);
            gate[k] = (ups != nullptr ? dy[k] * up[k] : dy[k]) * at.slope;
            up[k] = dy[k] * at.value;
        }
        lisa__write(static_cast<T *>(op.dgate) + i, gate, op.n - i, wide);
        if (ups != nullptr)
            lisa__write(static_cast<T *>(op.dup) + i, up, op.n - i, wide);
    }
}

lisa_status check(lisa_backend *be, const lisa_activation *op) {
    if (op->kind < LISA_ACT_SILU || op->kind > LISA_ACT_RELU)
        return lisa__cuda_refuse(be, "cuda: activation kind is no LISA_ACT_*");
    return LISA_OK;
}

template <class T> uint32_t grid_of(size_t n) {
    return lisa__grid(lisa__blocks_for(n, lisa__per_16<T> * LISA_BLOCK));
}

template <class T> lisa_status forward(struct lisa__cuda *cuda, const lisa_activation *op) {
    const bool wide =
        lisa__is_aligned(op->gate) && lisa__is_aligned(op->up) && lisa__is_aligned(op->y);
    if (op->n == 0)
        return LISA_OK;
    LISA_LAUNCH(forward_kernel<T>, grid_of<T>(op->n), LISA_BLOCK, 0, cuda->stream, *op, wide);
    return lisa__cuda_launched(&cuda->base, "activation_forward");
}

template <class T> lisa_status backward(struct lisa__cuda *cuda, const lisa_activation *op) {
    const bool wide = lisa__is_aligned(op->gate) && lisa__is_aligned(op->up) &&
                      lisa__is_aligned(op->dy) && lisa__is_aligned(op->dgate) &&
                      lisa__is_aligned(op->dup);
    if (op->n == 0)
        return LISA_OK;
    LISA_LAUNCH(backward_kernel<T>, grid_of<T>(op->n), LISA_BLOCK, 0, cuda->stream, *op, wide);
    return lisa__cuda_launched(&cuda->base, "activation_backward");
}

} // namespace

lisa_status lisa__cuda_activation_forward(lisa_backend *be, const lisa_activation *op) {
    LISA_TRY(check(be, op));
    return lisa__with_type(be, op->dtype,
                           "cuda: activation_forward: a dtype that is none of f32, bf16, f16",
                           [=](auto y) { return forward<decltype(y)>(lisa__cuda_of(be), op); });
}

lisa_status lisa__cuda_activation_backward(lisa_backend *be, const lisa_activation *op) {
    LISA_TRY(check(be, op));
    return lisa__with_type(be, op->dtype,
                           "cuda: activation_backward: a dtype that is none of f32, bf16, f16",
                           [=](auto y) { return backward<decltype(y)>(lisa__cuda_of(be), op); });
}

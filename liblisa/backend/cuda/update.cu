/* AdamW, the fp32 masters of 16-bit weights, and the verdict over an update. What is rounded, and
 * when, is promised to the bit: the arithmetic of elements is spelled out in operations that no
 * compiler contracts, or is that of elementwise.h and moments.h, which has nothing to contract. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"
#include "backend/judge.h"
#include "backend/moments.h"

namespace {

constexpr int N = 4; /* elements at a time, for which Philox draws one block */

/* ---- masters: loaded and stored from element i on, of n that are left ---- */

template <class W>
__device__ void load_masters(float (&x)[N], lisa_typed weight, const void *low, size_t i, size_t n,
                             bool wide);
template <class W>
__device__ void store_masters(lisa_typed weight, void *low, size_t i, const float (&x)[N], size_t n,
                              bool wide);

template <>
__device__ __forceinline__ void load_masters<float>(float (&x)[N], lisa_typed weight, const void *,
                                                    size_t i, size_t n, bool wide) {
    lisa__read(x, static_cast<const float *>(weight.data) + i, n, wide);
}

template <>
__device__ __forceinline__ void store_masters<float>(lisa_typed weight, void *, size_t i,
                                                     const float (&x)[N], size_t n, bool wide) {
    lisa__write(static_cast<float *>(weight.data) + i, x, n, wide);
}

template <>
__device__ __forceinline__ void load_masters<__nv_bfloat16>(float (&x)[N], lisa_typed weight,
                                                            const void *low, size_t i, size_t n,
                                                            bool wide) {
    uint16_t high[N];
    int16_t rest[N];
    lisa__fetch(high, static_cast<const uint16_t *>(weight.data) + i, n, wide);
    lisa__fetch(rest, static_cast<const int16_t *>(low) + i, n, wide);
    LISA_UNROLL
    for (int k = 0; k < N; k++)
        x[k] = lisa__master_join(high[k], rest[k]);
}

template <>
__device__ __forceinline__ void store_masters<__nv_bfloat16>(lisa_typed weight, void *low, size_t i,
                                                             const float (&x)[N], size_t n,
                                                             bool wide) {
    uint16_t high[N];
    int16_t rest[N];
    LISA_UNROLL
    for (int k = 0; k < N; k++)
        lisa__master_split(x[k], &high[k], &rest[k]);
    lisa__put(static_cast<uint16_t *>(weight.data) + i, high, n, wide);
    lisa__put(static_cast<int16_t *>(low) + i, rest, n, wide);
}

template <>
__device__ __forceinline__ void load_masters<__half>(float (&x)[N], lisa_typed, const void *low,
                                                     size_t i, size_t n, bool wide) {
    lisa__read(x, static_cast<const float *>(low) + i, n, wide);
}

template <>
__device__ __forceinline__ void store_masters<__half>(lisa_typed weight, void *low, size_t i,
                                                      const float (&x)[N], size_t n, bool wide) {
    uint16_t half[N];
    LISA_UNROLL
    for (int k = 0; k < N; k++)
        half[k] = lisa__f32_to_f16_finite(x[k]);
    lisa__put(static_cast<uint16_t *>(weight.data) + i, half, n, wide);
    lisa__write(static_cast<float *>(low) + i, x, n, wide);
}

/* ---- moments: a warp keeps a block of them, RUNS times N elements in each lane ---- */

constexpr int RUNS = LISA_MOMENTS_BLOCK / 32 / N;

struct moments {
    float m[RUNS][N], v[RUNS][N];
};

/* The block's index, and where its elements are. */
struct place {
    size_t block, end;

    __device__ __forceinline__ size_t first(int run) const {
        return block * LISA_MOMENTS_BLOCK + (run * 32 + threadIdx.x % 32) * N;
    }
    __device__ __forceinline__ size_t left(int run) const {
        return first(run) < end ? end - first(run) : 0;
    }
};

/* How moments are kept: as what LISA_MOMENTS_* names. */
struct kept_f32 {
    static __device__ __forceinline__ void load(moments &x, const lisa_adamw &op, const place &at,
                                                bool wide) {
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            lisa__read(x.m[r], static_cast<float *>(op.m) + at.first(r), at.left(r), wide);
            lisa__read(x.v[r], static_cast<float *>(op.v) + at.first(r), at.left(r), wide);
        }
    }

    static __device__ __forceinline__ void store(const moments &x, const lisa_adamw &op,
                                                 const place &at, bool wide) {
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            lisa__write(static_cast<float *>(op.m) + at.first(r), x.m[r], at.left(r), wide);
            lisa__write(static_cast<float *>(op.v) + at.first(r), x.v[r], at.left(r), wide);
        }
    }
};

struct kept_bf16 {
    static __device__ __forceinline__ void load(moments &x, const lisa_adamw &op, const place &at,
                                                bool wide) {
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            uint16_t m[N], v[N];
            lisa__fetch(m, static_cast<uint16_t *>(op.m) + at.first(r), at.left(r), wide);
            lisa__fetch(v, static_cast<uint16_t *>(op.v) + at.first(r), at.left(r), wide);
            LISA_UNROLL
            for (int k = 0; k < N; k++) {
                x.m[r][k] = lisa__bf16_to_f32(m[k]);
                x.v[r][k] = lisa__bf16_to_f32(v[k]);
            }
        }
    }

    static __device__ __forceinline__ void store(const moments &x, const lisa_adamw &op,
                                                 const place &at, bool wide) {
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            uint16_t m[N], v[N];
            uint32_t draws[N];
            lisa__philox(op.seed, (op.first + at.first(r)) / N, op.stream, draws);
            LISA_UNROLL
            for (int k = 0; k < N; k++) {
                m[k] = lisa__round_bf16(x.m[r][k], draws[k] << 16);
                v[k] = lisa__v_bf16(x.v[r][k], draws[k] >> 16);
            }
            lisa__put(static_cast<uint16_t *>(op.m) + at.first(r), m, at.left(r), wide);
            lisa__put(static_cast<uint16_t *>(op.v) + at.first(r), v, at.left(r), wide);
        }
    }
};

/* Of the magnitudes' bits, over the warp. */
__device__ __forceinline__ uint32_t largest_bits(const float (&x)[RUNS][N]) {
    uint32_t largest = 0;
    LISA_UNROLL
    for (int r = 0; r < RUNS; r++)
        LISA_UNROLL
    for (int k = 0; k < N; k++) {
        const uint32_t bits = lisa__bits_of(x[r][k]) & 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    for (uint32_t step = 16; step > 0; step /= 2) {
        const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, largest, step);
        largest = other > largest ? other : largest;
    }
    return largest;
}

struct kept_8bit {
    static __device__ __forceinline__ void load(moments &x, const lisa_adamw &op, const place &at,
                                                bool wide) {
        const float m_scale = op.m_scale[at.block], v_scale = op.v_scale[at.block];
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            uint8_t m[N], v[N];
            lisa__fetch(m, static_cast<uint8_t *>(op.m) + at.first(r), at.left(r), wide);
            lisa__fetch(v, static_cast<uint8_t *>(op.v) + at.first(r), at.left(r), wide);
            LISA_UNROLL
            for (int k = 0; k < N; k++) {
                x.m[r][k] = lisa__m_value(m[k], m_scale);
                x.v[r][k] = lisa__v_value(v[k], v_scale);
            }
        }
    }

    static __device__ __forceinline__ void store(const moments &x, const lisa_adamw &op,
                                                 const place &at, bool wide) {
        const float m_scale = lisa__block_scale(largest_bits(x.m));
        const float v_scale = lisa__block_scale(largest_bits(x.v));
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            uint8_t m[N], v[N];
            uint32_t draws[N];
            lisa__philox(op.seed, (op.first + at.first(r)) / N, op.stream, draws);
            LISA_UNROLL
            for (int k = 0; k < N; k++) {
                m[k] = lisa__m_code(x.m[r][k], m_scale, draws[k] & 0xFFFFu);
                v[k] = lisa__v_code(x.v[r][k], v_scale, draws[k] >> 16);
            }
            lisa__put(static_cast<uint8_t *>(op.m) + at.first(r), m, at.left(r), wide);
            lisa__put(static_cast<uint8_t *>(op.v) + at.first(r), v, at.left(r), wide);
        }
        __syncwarp(); /* all lanes have read the old scales */
        if (threadIdx.x % 32 == 0) {
            op.m_scale[at.block] = m_scale;
            op.v_scale[at.block] = v_scale;
        }
    }
};

/* ---- the update ---- */

/* What depends on scalars alone: combined in double, then used as float. */
struct factors {
    float keep, beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step_size, sqrt_correction2, eps;
};

factors factors_of(const lisa_adamw *op) {
    return {
        static_cast<float>(1.0 - op->lr * op->weight_decay),
        static_cast<float>(op->beta1),
        static_cast<float>(1.0 - op->beta1),
        static_cast<float>(op->beta2),
        static_cast<float>(1.0 - op->beta2),
        static_cast<float>(op->lr / op->correction1),
        static_cast<float>(sqrt(op->correction2)),
        static_cast<float>(op->eps),
    };
}

/* The new weight; m and v become new. */
__device__ __forceinline__ float updated(const factors &f, float w, float g, float &m, float &v) {
    const float square = __fmul_rn(__fmul_rn(f.one_minus_beta2, g), g);
    m = __fadd_rn(__fmul_rn(f.beta1, m), __fmul_rn(f.one_minus_beta1, g));
    v = __fadd_rn(__fmul_rn(f.beta2, v), square);
    const float root = __fdiv_rn(__fsqrt_rn(v), f.sqrt_correction2);
    const float step = __fdiv_rn(__fmul_rn(f.step_size, m), __fadd_rn(root, f.eps));
    return __fsub_rn(__fmul_rn(w, f.keep), step);
}

template <class W, class Kept> __global__ void adamw_kernel(lisa_adamw op, factors f, bool wide) {
    if (op.control->verdict != LISA_VERDICT_OK)
        return;
    const float scale = static_cast<float>(op.control->scale);
    const size_t warps = static_cast<size_t>(gridDim.x) * (blockDim.x / 32);
    place at = {static_cast<size_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32, op.n};
    for (; at.block * LISA_MOMENTS_BLOCK < op.n; at.block += warps) {
        float w[RUNS][N], g[RUNS][N];
        moments x;
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            load_masters<W>(w[r], op.weight, op.low, at.first(r), at.left(r), wide);
            lisa__read(g[r], static_cast<const float *>(op.gradient) + at.first(r), at.left(r),
                       wide);
        }
        Kept::load(x, op, at, wide);
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++)
            LISA_UNROLL
        for (int k = 0; k < N; k++)
            w[r][k] = updated(f, w[r][k], __fmul_rn(g[r][k], scale), x.m[r][k], x.v[r][k]);
        Kept::store(x, op, at, wide);
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++)
            store_masters<W>(op.weight, op.low, at.first(r), w[r], at.left(r), wide);
    }
}

template <class W, class Kept> lisa_status update(struct lisa__cuda *cuda, const lisa_adamw *op) {
    const bool wide = lisa__is_aligned(op->weight.data) && lisa__is_aligned(op->low) &&
                      lisa__is_aligned(op->gradient) && lisa__is_aligned(op->m) &&
                      lisa__is_aligned(op->v);
    if (op->n == 0)
        return LISA_OK;
    LISA_LAUNCH((adamw_kernel<W, Kept>),
                lisa__grid(lisa__blocks_for(op->n, LISA_BLOCK / 32 * LISA_MOMENTS_BLOCK)),
                LISA_BLOCK, 0, cuda->stream, *op, factors_of(op), wide);
    return lisa__cuda_launched(&cuda->base, "adamw");
}

/* ---- masters by themselves ---- */

template <class W> __device__ __forceinline__ void open(const lisa_master &op, size_t i, bool wide);

template <>
__device__ __forceinline__ void open<__nv_bfloat16>(const lisa_master &op, size_t i, bool wide) {
    const int16_t none[N] = {};
    lisa__put(static_cast<int16_t *>(op.low) + i, none, op.n - i, wide);
}

template <>
__device__ __forceinline__ void open<__half>(const lisa_master &op, size_t i, bool wide) {
    float x[N];
    lisa__read(x, static_cast<const __half *>(op.weight.data) + i, op.n - i, wide);
    lisa__write(static_cast<float *>(op.low) + i, x, op.n - i, wide);
}

template <class W> __device__ __forceinline__ uint16_t rounded(float x, uint32_t draw);
template <> __device__ __forceinline__ uint16_t rounded<__nv_bfloat16>(float x, uint32_t draw) {
    return lisa__round_bf16(x, draw);
}
template <> __device__ __forceinline__ uint16_t rounded<__half>(float x, uint32_t draw) {
    return lisa__round_f16(x, draw);
}

template <class W>
__device__ __forceinline__ void close(const lisa_master &op, const float (&x)[N], size_t i,
                                      bool wide) {
    uint16_t weight[N];
    uint32_t draws[N];
    lisa__philox(op.seed, (op.first + i) / N, op.stream, draws);
    LISA_UNROLL
    for (int k = 0; k < N; k++)
        weight[k] = rounded<W>(x[k], draws[k]);
    lisa__put(static_cast<uint16_t *>(op.weight.data) + i, weight, op.n - i, wide);
}

template <class W> __global__ void master_kernel(lisa_master op, bool wide) {
    for (size_t i = lisa__first_place<N>(); i < op.n; i += lisa__next_place<N>()) {
        float x[N];
        if (op.what == LISA_MASTER_OPEN) {
            open<W>(op, i, wide);
        } else if (op.what == LISA_MASTER_WRITE) {
            lisa__read(x, op.values + i, op.n - i, wide);
            store_masters<W>(op.weight, op.low, i, x, op.n - i, wide);
        } else {
            load_masters<W>(x, op.weight, op.low, i, op.n - i, wide);
            if (op.what == LISA_MASTER_READ)
                lisa__write(op.values + i, x, op.n - i, wide);
            else
                close<W>(op, x, i, wide);
        }
    }
}

__global__ void judge_kernel(lisa_judge op) {
    lisa__judge(&op, LISA_DTYPE_F32);
}

} // namespace

lisa_status lisa__cuda_adamw(lisa_backend *be, const lisa_adamw *op) {
    struct lisa__cuda *cuda = lisa__cuda_of(be);
    return lisa__with_type(be, op->weight.dtype,
                           "cuda: adamw: the weight is none of f32, bf16, f16", [=](auto element) {
                               using W = decltype(element);
                               switch (op->moments) {
                               case LISA_MOMENTS_F32:
                                   return update<W, kept_f32>(cuda, op);
                               case LISA_MOMENTS_BF16:
                                   return update<W, kept_bf16>(cuda, op);
                               case LISA_MOMENTS_8BIT:
                                   return update<W, kept_8bit>(cuda, op);
                               default:
                                   return lisa__cuda_refuse(
                                       be, "cuda: adamw's `moments` is no LISA_MOMENTS_*");
                               }
                           });
}

lisa_status lisa__cuda_master(lisa_backend *be, const lisa_master *op) {
    const uint32_t dtype = op->weight.dtype;
    if (dtype != LISA_DTYPE_BF16 && dtype != LISA_DTYPE_F16)
        return lisa__cuda_refuse(be, "cuda: only bf16 and f16 weights have masters");
    if (op->what < LISA_MASTER_OPEN || op->what > LISA_MASTER_WRITE)
        return lisa__cuda_refuse(be, "cuda: master's `what` is no LISA_MASTER_*");
    const bool wide = lisa__is_aligned(op->weight.data) && lisa__is_aligned(op->low) &&
                      lisa__is_aligned(op->values);
    const uint32_t grid = lisa__grid(lisa__blocks_for(op->n, LISA_BLOCK * N));
    if (grid == 0)
        return LISA_OK;
    if (dtype == LISA_DTYPE_BF16)
        LISA_LAUNCH(master_kernel<__nv_bfloat16>, grid, LISA_BLOCK, 0, lisa__cuda_of(be)->stream,
                    *op, wide);
    else
        LISA_LAUNCH(master_kernel<__half>, grid, LISA_BLOCK, 0, lisa__cuda_of(be)->stream, *op,
                    wide);
    return lisa__cuda_launched(be, "master");
}

lisa_status lisa__cuda_judge(lisa_backend *be, const lisa_judge *op) {
    LISA_LAUNCH(judge_kernel, 1, 1, 0, lisa__cuda_of(be)->stream, *op);
    return lisa__cuda_launched(be, "judge");
}

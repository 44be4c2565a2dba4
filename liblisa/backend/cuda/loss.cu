/* Cross-entropy. A block reads a row of logits twice: for its largest and its sum of exponentials,
 * and for the gradient. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"

#include <float.h>

namespace {

constexpr int N = 4;            /* logits by one request */
constexpr int RUNS = 2;         /* of them that a thread has at once */
constexpr uint32_t MOST = 1024; /* threads */

/* Of some logits: the first of the largest, and the sum of exp(logit - greatest). NaN is never the
 * largest but makes the sum NaN, as does Inf. */
struct summary {
    float greatest, sum;
    uint32_t place;
};

/* No logit is below what an empty summary starts from but -Inf, which adds nothing. */
__device__ __forceinline__ summary nothing() {
    return {-FLT_MAX, 0.0f, 0xFFFFFFFFu};
}

/* Of two that are apart, however their places lie. */
__device__ __forceinline__ summary merged(summary a, summary b) {
    const bool b_leads = b.greatest > a.greatest || (b.greatest == a.greatest && b.place < a.place);
    const float greatest = b_leads ? b.greatest : a.greatest;
    return {greatest, a.sum * expf(a.greatest - greatest) + b.sum * expf(b.greatest - greatest),
            b_leads ? b.place : a.place};
}

/* Of n logits from place j on; those behind them do not count. */
__device__ __forceinline__ summary summary_of(const float (&x)[N], uint32_t j, uint32_t n) {
    summary s = nothing();
    LISA_UNROLL
    for (uint32_t i = 0; i < N; i++)
        if (i < n && x[i] > s.greatest) {
            s.greatest = x[i];
            s.place = j + i;
        }
    LISA_UNROLL
    for (uint32_t i = 0; i < N; i++)
        s.sum += i < n ? expf(x[i] - s.greatest) : 0.0f;
    return s;
}

/* The warp's, in its first lane. */
__device__ __forceinline__ summary over_warp(summary s) {
    for (uint32_t step = 16; step > 0; step /= 2)
        s = merged(s, {__shfl_down_sync(0xFFFFFFFFu, s.greatest, step),
                       __shfl_down_sync(0xFFFFFFFFu, s.sum, step),
                       __shfl_down_sync(0xFFFFFFFFu, s.place, step)});
    return s;
}

/* The block's, in every thread. */
__device__ __forceinline__ summary over_block(summary s) {
    __shared__ summary warps[MOST / 32], whole;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    s = over_warp(s);
    if (lane == 0)
        warps[warp] = s;
    __syncthreads();
    if (warp == 0) {
        s = over_warp(lane < blockDim.x / 32 ? warps[lane] : nothing());
        if (lane == 0)
            whole = s;
    }
    __syncthreads();
    return whole;
}

__device__ __forceinline__ summary summary_of_row(const float *logits, uint32_t cols, bool wide) {
    summary s = nothing();
    const uint32_t step = blockDim.x * N;
    for (size_t base = threadIdx.x * N; base < cols; base += RUNS * step) {
        float x[RUNS][N];
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            const size_t j = base + r * step;
            lisa__read(x[r], logits + j, j < cols ? cols - j : 0, wide);
        }
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            const size_t j = base + r * step;
            if (j < cols)
                s = merged(s, summary_of(x[r], j, cols - j));
        }
    }
    return over_block(s);
}

/* Where the gradient lies on the logits and is narrower, an element of it covers a logit of the
 * first half of what has been read: all threads read before any writes. */
template <class D>
__device__ __forceinline__ void put_gradient(D *dlogits, const float *logits, summary s,
                                             float weight, uint32_t target, uint32_t cols,
                                             bool wide) {
    const float factor = weight / s.sum;
    const uint32_t step = blockDim.x * N;
    for (size_t tile = 0; tile < cols; tile += RUNS * step) {
        const size_t base = tile + threadIdx.x * N;
        float x[RUNS][N];
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            const size_t j = base + r * step;
            lisa__read(x[r], logits + j, j < cols ? cols - j : 0, wide);
        }
        __syncthreads();
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++) {
            const size_t j = base + r * step;
            LISA_UNROLL
            for (int i = 0; i < N; i++) {
                x[r][i] = expf(x[r][i] - s.greatest) * factor;
                x[r][i] -= j + i == target ? weight : 0.0f;
            }
            lisa__write(dlogits + j, x[r], j < cols ? cols - j : 0, wide);
        }
    }
}

template <class D>
__global__ void __launch_bounds__(MOST) loss_kernel(lisa_cross_entropy op, bool wide) {
    for (size_t row = blockIdx.x; row < op.rows; row += gridDim.x) {
        const float *logits = static_cast<const float *>(op.logits) + row * op.ldlogits;
        const uint32_t target = op.targets[row];
        const float weight = op.weights[row];
        const summary s = summary_of_row(logits, op.cols, wide);
        if (threadIdx.x == 0) {
            const double log_prob =
                static_cast<double>(logits[target]) - s.greatest - log(static_cast<double>(s.sum));
            op.nll[row] = -weight * log_prob;
            if (op.log_probs != nullptr)
                op.log_probs[row] = static_cast<float>(log_prob);
            if (op.greedy != nullptr)
                op.greedy[row] = s.place == target;
        }
        if (op.dlogits.data != nullptr)
            put_gradient(static_cast<D *>(op.dlogits.data) + row * op.lddlogits, logits, s,
                         static_cast<float>(op.gradient_scale * weight), target, op.cols, wide);
    }
}

uint32_t block_for(uint64_t cols) {
    const uint64_t threads = lisa__blocks_for(cols, N * RUNS);
    return static_cast<uint32_t>((threads < MOST ? threads + 31 : MOST) / 32 * 32);
}

template <class D>
lisa_status cross_entropy(struct lisa__cuda *cuda, const lisa_cross_entropy *op) {
    const bool wide = lisa__is_aligned(op->logits) && op->ldlogits % N == 0 &&
                      lisa__is_aligned(op->dlogits.data) &&
                      (op->dlogits.data == nullptr || op->lddlogits % N == 0);
    if (op->rows == 0)
        return LISA_OK;
    LISA_LAUNCH(loss_kernel<D>, lisa__grid(op->rows), block_for(op->cols), 0, cuda->stream, *op,
                wide);
    return lisa__cuda_launched(&cuda->base, "cross_entropy");
}

} // namespace

lisa_status lisa__cuda_cross_entropy(lisa_backend *be, const lisa_cross_entropy *op) {
    const uint32_t dtype = op->dlogits.data != nullptr ? op->dlogits.dtype : LISA_DTYPE_F32;
    return lisa__with_type(
        be, dtype, "cuda: cross_entropy: dlogits is none of f32, bf16, f16",
        [=](auto d) { return cross_entropy<decltype(d)>(lisa__cuda_of(be), op); });
}

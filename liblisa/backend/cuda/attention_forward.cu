/* attention_forward.cu - attention on tensor cores.
 *
 * A block takes 128 queries of a head and goes through the keys that they see, tile by tile. The
 * scores of a tile and what becomes of them stay in registers: softmax keeps each query's largest
 * score so far and the sum of the weights relative to it, in float. Weights are rounded to the
 * operands' type before they multiply values. While a tile's scores are made its values are on
 * their way, and while the values are added up the next tile's keys are. */
#include "backend/cuda/attention_tensor.cuh"

namespace {

/* A warp's rows: what it reads of keys and values serves two products. */
constexpr int kM = 2;
constexpr int kQueries = kM * kRows;

/* Keys of a tile: as many as registers have room for beside the output's 128 * D. */
template <int D> constexpr int kKeys = D > 80 ? 32 : 64;

/* Of a thread's rows. `shift` is the largest score so far, in units in which weights are powers of
 * 2; the sum is of the thread's own columns. */
struct softmax {
    float shift[kM][2], sum[kM][2];
};

/* Over the 4 threads of a row. */
__device__ __forceinline__ float row_maximum(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* What is not seen has a score of -Inf. */
template <int N>
__device__ __forceinline__ void hide(float (&scores)[kM][N][4], const lisa__sight &sight,
                                     int first_place, int key, const float *marks) {
    LISA_UNROLL
    for (int m = 0; m < kM; m++)
        LISA_UNROLL
    for (int n = 0; n < N; n++)
        LISA_UNROLL
    for (int e = 0; e < 4; e++) {
        const int column = column_of(n, e);
        scores[m][n][e] = sight.sees(first_place + row_of(m, e), key + column)
                              ? scores[m][n][e] + marks[column]
                              : -INFINITY;
    }
}

/* A row's scores x[n][i], x[n][i + 1] become weights; returns the factor that brings sums made
 * before to the new largest score. A row that has seen nothing has a shift of -Inf, which may not
 * be subtracted; a NaN is no maximum and gets into the sum. */
template <int N>
__device__ __forceinline__ float weigh_row(float (&x)[N][4], int i, float &row_shift, float &sum,
                                           float scale) {
    float largest = -INFINITY, added = 0.0f;
    LISA_UNROLL
    for (int n = 0; n < N; n++)
        largest = fmaxf(largest, fmaxf(x[n][i], x[n][i + 1]));
    const float shift = fmaxf(row_shift, row_maximum(largest) * scale);
    const float finite = shift == -INFINITY ? 0.0f : shift;
    LISA_UNROLL
    for (int n = 0; n < N; n++)
        LISA_UNROLL
    for (int e = i; e < i + 2; e++) {
        x[n][e] = lisa_exp2(fmaf(x[n][e], scale, -finite));
        added += x[n][e];
    }
    const float factor = lisa_exp2(row_shift - finite);
    row_shift = shift;
    sum = fmaf(sum, factor, added);
    return factor;
}

template <int D, int N>
__device__ __forceinline__ void weigh(float (&scores)[kM][N][4], softmax &s,
                                      float (&out)[kM][D / 8][4], float scale) {
    LISA_UNROLL
    for (int m = 0; m < kM; m++)
        LISA_UNROLL
    for (int half = 0; half < 2; half++) {
        const float factor =
            weigh_row(scores[m], 2 * half, s.shift[m][half], s.sum[m][half], scale);
        LISA_UNROLL
        for (int d = 0; d < D / 8; d++) {
            out[m][d][2 * half] *= factor;
            out[m][d][2 * half + 1] *= factor;
        }
    }
}

/* Sums become those of whole rows. */
__device__ __forceinline__ void finish(softmax &s, float (&factors)[kM][2]) {
    LISA_UNROLL
    for (int m = 0; m < kM; m++)
        LISA_UNROLL
    for (int half = 0; half < 2; half++) {
        s.sum[m][half] = row_sum(s.sum[m][half]);
        factors[m][half] = 1.0f / s.sum[m][half];
    }
}

__device__ __forceinline__ void store_lse(const lisa__attention_job &job, const lisa__head &at,
                                          int first_row, const softmax &s) {
    if (job.op.lse == nullptr || lane() % 4 != 0)
        return;
    float *lse =
        static_cast<float *>(job.op.lse) + static_cast<size_t>(at.index) * job.op.n_queries;
    LISA_UNROLL
    for (int m = 0; m < kM; m++)
        LISA_UNROLL
    for (int half = 0; half < 2; half++) {
        const int row = first_row + row_of(m, 2 * half);
        if (row < static_cast<int>(job.op.n_queries))
            lse[row] = fmaf(s.shift[m][half], kLn2, logf(s.sum[m][half]));
    }
}

/* The blocks with the most keys, those of the last queries, come first. */
template <class T, int D>
__global__ void __launch_bounds__(kThreads, kBlocks)
    attention_forward(const lisa__attention_job job) {
    constexpr int kN = kKeys<D> / 8;
    LISA_SHARED(T, queries);
    T *keys = queries + kTileSize<D, kQueries>;
    T *values = keys + kTileSize<D, kKeys<D>>;
    float *marks = reinterpret_cast<float *>(values + kTileSize<D, kKeys<D>>);
    const lisa__head at = lisa__head_of(job, blockIdx.x % job.n_heads);
    const int tile = static_cast<int>(gridDim.x / job.n_heads - 1 - blockIdx.x / job.n_heads);
    const int first_row = tile * kQueries;
    const lisa__sight sight = lisa__sight_of(job, at);
    const int first_place = sight.first_place + first_row;
    const int last = sight.last_key(first_place, kQueries);
    const float scale = job.scale * kLog2e;
    const auto k = lisa__key_rows<const T>(job, at, job.op.k, job.op.ldk);
    const auto v = lisa__key_rows<const T>(job, at, job.op.v, job.op.ldv);

    int key = sight.first_key(first_place);
    load_tile<D, kQueries>(queries, lisa__query_rows<const T>(job, at, job.op.q, job.op.ldq),
                           first_row);
    load_tile<D, kKeys<D>>(keys, k, key);
    lisa_copy_async_commit();
    float out[kM][D / 8][4];
    clear(out);
    softmax s;
    for (int m = 0; m < kM; m++)
        for (int half = 0; half < 2; half++) {
            s.shift[m][half] = -INFINITY;
            s.sum[m][half] = 0.0f;
        }
    for (; key <= last; key += kKeys<D>) {
        lisa_copy_async_wait(0);
        __syncthreads();
        load_tile<D, kKeys<D>>(values, v, key);
        lisa_copy_async_commit();
        float scores[kM][kN][4];
        multiply_rows<D>(scores, queries, keys);
        lisa_copy_async_wait(0);
        __syncthreads();
        if (key + kKeys<D> <= last)
            load_tile<D, kKeys<D>>(keys, k, key + kKeys<D>);
        lisa_copy_async_commit();
        if (!sight.sees_all(first_place, kQueries, key, kKeys<D>)) {
            set_apart<D, kKeys<D>>(values, marks);
            __syncthreads();
            hide(scores, sight, first_place, key, marks);
        }
        weigh<D>(scores, s, out, scale);
        add_rows<D>(out, scores, values);
    }
    float factors[kM][2];
    finish(s, factors);
    store_rows<D>(out, factors, queries, lisa__query_rows<T>(job, at, job.op.out, job.op.ldout),
                  first_row);
    store_lse(job, at, first_row, s);
}

template <class T, int D>
lisa_status launch_forward(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    const size_t bytes =
        kTileSize<D, kQueries + 2 * kKeys<D>> * sizeof(T) + kKeys<D> * sizeof(float);
    uint32_t blocks;
    LISA_TRY(prepare(cuda, attention_forward<T, D>, job, kQueries, false, bytes, &blocks));
    LISA_LAUNCH((attention_forward<T, D>), blocks, kThreads, bytes, cuda->stream, *job);
    return lisa__cuda_launched(&cuda->base, "attention");
}

} // namespace

lisa_status lisa__attention_forward_tensor(struct lisa__cuda *cuda,
                                           const struct lisa__attention_job *job) {
    return LISA_ATTENTION_DISPATCH(job->op, launch_forward, cuda, job);
}

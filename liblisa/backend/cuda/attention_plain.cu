/* attention_plain.cu - attention of any type, head_dim and alignment, without tensor cores.
 *
 * A block of 256 threads works on a tile of 64 rows (queries, or keys where their gradients are
 * made) against tiles of 64 others, and makes at most 128 columns of its outputs: a wider head
 * takes several blocks, each with scores of its own. Of a tile, thread (x, y) of 16 x 16 has rows
 * 4 y + i and columns x + 16 j, so that the threads of a row are half a warp.
 *
 * Softmax's weights and the scores' gradients are rounded to the operands' type before they
 * multiply rows, as on the tensor cores. What does not see each other is left out of every sum, so
 * that not even a NaN gets across. */
#include "backend/cuda/attention.cuh"

#include <math.h>

namespace {

/* One block of 8 warps to a multiprocessor: 150 to 200 registers for each thread. */
constexpr int kThreads = 256;
constexpr int kTile = 64;
constexpr int kDepth = 32;    /* of a head's columns: what a product of rows reads at a time */
constexpr int kRows = 16;     /* of a tile: what a sum of rows reads at a time */
constexpr int kColumns = 128; /* of an output */
constexpr int kMine = kTile / 16, kMineWide = kColumns / 16;

struct shared_memory {
    float a[kTile][kDepth + 1], b[kTile][kDepth + 1];
    float rows[kRows][kColumns];
    float weights[kTile][kTile + 1];
};

/* What a block makes. */
struct place {
    lisa__head at;
    int tile; /* its first row */
    int first_column;
};

__device__ place place_of(const lisa__attention_job &job, uint32_t group) {
    const uint32_t n_parts = (job.op.head_dim + kColumns - 1) / kColumns;
    const uint32_t n_heads = job.n_heads / group, rest = blockIdx.x / n_heads;
    return {lisa__head_of(job, blockIdx.x % n_heads * group),
            static_cast<int>(rest / n_parts) * kTile, static_cast<int>(rest % n_parts) * kColumns};
}

__device__ __forceinline__ int my_row(int i) {
    return static_cast<int>(threadIdx.x / 16) * kMine + i;
}

__device__ __forceinline__ int my_column(int j) {
    return static_cast<int>(threadIdx.x % 16) + 16 * j;
}

/* Zeros behind the last row and column. */
template <class T>
__device__ float element(const lisa__head_rows<T> &x, int row, int column, int n_columns) {
    if (row >= x.rows || column >= n_columns)
        return 0.0f;
    return lisa__widen(x.first[static_cast<size_t>(row) * x.ld + column]);
}

template <class T>
__device__ void load_depth(float (&to)[kTile][kDepth + 1], const lisa__head_rows<T> &x, int tile,
                           int column, int n_columns) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += kThreads)
        to[i / kDepth][i % kDepth] = element(x, tile + i / kDepth, column + i % kDepth, n_columns);
}

/* products = A B^T of a tile of each. */
template <class T>
__device__ void multiply(float (&products)[kMine][kMine], const lisa__head_rows<T> &a, int tile_a,
                         const lisa__head_rows<T> &b, int tile_b, int head_dim,
                         shared_memory &shared) {
    for (int i = 0; i < kMine; i++)
        for (int j = 0; j < kMine; j++)
            products[i][j] = 0.0f;
    for (int column = 0; column < head_dim; column += kDepth) {
        __syncthreads();
        load_depth(shared.a, a, tile_a, column, head_dim);
        load_depth(shared.b, b, tile_b, column, head_dim);
        __syncthreads();
#pragma unroll 4
        for (int d = 0; d < kDepth; d++)
            for (int i = 0; i < kMine; i++)
                for (int j = 0; j < kMine; j++)
                    products[i][j] =
                        fmaf(shared.a[my_row(i)][d], shared.b[my_column(j)][d], products[i][j]);
    }
}

__device__ void put_weights(const float (&weights)[kMine][kMine], shared_memory &shared) {
    __syncthreads();
    for (int i = 0; i < kMine; i++)
        for (int j = 0; j < kMine; j++)
            shared.weights[my_row(i)][my_column(j)] = weights[i][j];
}

/* sums += the weights times x's rows from tile_x on, where seen(row, row of x) in the tiles. */
template <class T, class Seen>
__device__ void add_rows(float (&sums)[kMine][kMineWide], const lisa__head_rows<T> &x, int tile_x,
                         int first_column, int head_dim, shared_memory &shared, Seen seen) {
    for (int first = 0; first < kTile; first += kRows) {
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < kRows * kColumns; i += kThreads)
            shared.rows[i / kColumns][i % kColumns] =
                element(x, tile_x + first + i / kColumns, first_column + i % kColumns, head_dim);
        __syncthreads();
#pragma unroll 1
        for (int row = 0; row < kRows; row++)
            for (int i = 0; i < kMine; i++) {
                if (!seen(my_row(i), first + row))
                    continue;
                const float weight = shared.weights[my_row(i)][first + row];
                for (int j = 0; j < kMineWide; j++)
                    sums[i][j] = fmaf(weight, shared.rows[row][my_column(j)], sums[i][j]);
            }
    }
}

template <class T>
__device__ void store(const float (&sums)[kMine][kMineWide], const lisa__head_rows<T> &to,
                      const place &p, int head_dim, const float (&factors)[kMine]) {
    for (int i = 0; i < kMine; i++)
        for (int j = 0; j < kMineWide; j++) {
            const int row = p.tile + my_row(i), column = p.first_column + my_column(j);
            if (row < to.rows && column < head_dim)
                to.first[static_cast<size_t>(row) * to.ld + column] =
                    lisa__narrow<T>(sums[i][j] * factors[i]);
        }
}

/* Over the threads of a row. */
__device__ float row_maximum(float x) {
    for (int step = 8; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

__device__ float row_sum(float x) {
    for (int step = 8; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* Softmax as the keys come: of each row the largest score so far, and the sum of what
 * exp(score - largest) gives. */
struct softmax {
    float largest[kMine], sum[kMine];
};

/* Scores become weights; sums made before are brought to the new largest score. A row that has seen
 * nothing has a largest score of -Inf, from which nothing may be subtracted; a NaN is no maximum
 * and gets into the sum. */
template <class T, class Seen>
__device__ void weigh(float (&scores)[kMine][kMine], softmax &s, float (&sums)[kMine][kMineWide],
                      Seen seen) {
    for (int i = 0; i < kMine; i++) {
        float largest = s.largest[i], sum = 0.0f;
        for (int j = 0; j < kMine; j++) {
            if (!seen(my_row(i), my_column(j)))
                scores[i][j] = -INFINITY;
            largest = fmaxf(largest, scores[i][j]);
        }
        largest = row_maximum(largest);
        const float shift = largest == -INFINITY ? 0.0f : largest;
        for (int j = 0; j < kMine; j++) {
            const float weight = expf(scores[i][j] - shift);
            sum += weight;
            scores[i][j] = lisa__widen(lisa__narrow<T>(weight));
        }
        const float factor = expf(s.largest[i] - shift);
        s.largest[i] = largest;
        s.sum[i] = s.sum[i] * factor + row_sum(sum);
        for (int j = 0; j < kMineWide; j++)
            sums[i][j] *= factor;
    }
}

__device__ void store_lse(const lisa__attention_job &job, const place &p, const softmax &s) {
    float *lse = static_cast<float *>(job.op.lse);
    if (lse == nullptr || p.first_column > 0 || my_column(0) > 0)
        return;
    for (int i = 0; i < kMine; i++) {
        const uint32_t row = static_cast<uint32_t>(p.tile + my_row(i));
        if (row < job.op.n_queries)
            lse[static_cast<size_t>(p.at.index) * job.op.n_queries + row] =
                s.largest[i] + logf(s.sum[i]);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward_plain(const lisa__attention_job job) {
    __shared__ shared_memory shared;
    const place p = place_of(job, 1);
    const int head_dim = static_cast<int>(job.op.head_dim);
    const lisa__sight sight = lisa__sight_of(job, p.at);
    const int first_place = sight.first_place + p.tile;
    const auto q = lisa__query_rows<const T>(job, p.at, job.op.q, job.op.ldq);
    const auto k = lisa__key_rows<const T>(job, p.at, job.op.k, job.op.ldk);
    const auto v = lisa__key_rows<const T>(job, p.at, job.op.v, job.op.ldv);
    softmax s;
    float sums[kMine][kMineWide] = {};
    for (int i = 0; i < kMine; i++) {
        s.largest[i] = -INFINITY;
        s.sum[i] = 0.0f;
    }
    const int last = sight.last_key(first_place, kTile);
    for (int key = sight.first_key(first_place); key <= last; key += kTile) {
        const bool all = sight.sees_all(first_place, kTile, key, kTile);
        const auto seen = [&](int row, int column) {
            return all || sight.sees(first_place + row, key + column);
        };
        float scores[kMine][kMine];
        multiply(scores, q, p.tile, k, key, head_dim, shared);
        for (int i = 0; i < kMine; i++)
            for (int j = 0; j < kMine; j++)
                scores[i][j] *= job.scale;
        weigh<T>(scores, s, sums, seen);
        put_weights(scores, shared);
        add_rows(sums, v, key, p.first_column, head_dim, shared, seen);
    }
    float factors[kMine];
    for (int i = 0; i < kMine; i++)
        factors[i] = 1.0f / s.sum[i];
    store(sums, lisa__query_rows<T>(job, p.at, job.op.out, job.op.ldout), p, head_dim, factors);
    store_lse(job, p, s);
}

/* delta, the row sums of dout * out: a warp for each row. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_row_sums_plain(const lisa__attention_job job) {
    const size_t row = (static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
    const size_t n = job.op.n_queries, query = row % n;
    const uint32_t lane = threadIdx.x % 32;
    if (row >= job.n_heads * n)
        return;
    const lisa__head at = lisa__head_of(job, static_cast<uint32_t>(row / n));
    const auto out = lisa__query_rows<const T>(job, at, job.op.out, job.op.ldout);
    const auto dout = lisa__query_rows<const T>(job, at, job.op.dout, job.op.lddout);
    const T *a = out.first + query * out.ld, *b = dout.first + query * dout.ld;
    float sum = 0.0f;
    for (uint32_t d = lane; d < job.op.head_dim; d += 32)
        sum = fmaf(lisa__widen(a[d]), lisa__widen(b[d]), sum);
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0)
        job.delta[row] = sum;
}

/* What backward has of a query: lse, and delta, the row sum of dout * out. */
struct query_row {
    float lse, delta;
};

__device__ query_row query_row_of(const lisa__attention_job &job, const lisa__head &at, int query) {
    const size_t n = job.op.n_queries;
    if (query >= static_cast<int>(n))
        return {0.0f, 0.0f};
    return {static_cast<const float *>(job.op.lse)[at.index * n + query],
            job.delta[(at.index - job.first_head) * n + query]};
}

/* Of a score and the product of dout and v: softmax's weight, and the score's gradient. */
template <class T> struct pair {
    float weight, gradient;

    __device__ pair(float score, float dout_v, const query_row &row, bool seen) {
        const float exact = seen ? expf(score - row.lse) : 0.0f;
        weight = lisa__widen(lisa__narrow<T>(exact));
        gradient = seen ? lisa__widen(lisa__narrow<T>(exact * (dout_v - row.delta))) : 0.0f;
    }
};

/* dq = scale times the sum of the scores' gradients times k. */
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    attention_query_gradients_plain(const lisa__attention_job job) {
    __shared__ shared_memory shared;
    const place p = place_of(job, 1);
    const int head_dim = static_cast<int>(job.op.head_dim);
    const lisa__sight sight = lisa__sight_of(job, p.at);
    const auto q = lisa__query_rows<const T>(job, p.at, job.op.q, job.op.ldq);
    const auto dout = lisa__query_rows<const T>(job, p.at, job.op.dout, job.op.lddout);
    const auto k = lisa__key_rows<const T>(job, p.at, job.op.k, job.op.ldk);
    const auto v = lisa__key_rows<const T>(job, p.at, job.op.v, job.op.ldv);
    query_row rows[kMine];
    float sums[kMine][kMineWide] = {}, factors[kMine];
    for (int i = 0; i < kMine; i++) {
        rows[i] = query_row_of(job, p.at, p.tile + my_row(i));
        factors[i] = job.scale;
    }
    const int last = sight.last_key(p.tile, kTile);
    for (int key = sight.first_key(p.tile); key <= last; key += kTile) {
        const bool all = sight.sees_all(p.tile, kTile, key, kTile);
        const auto seen = [&](int row, int column) {
            return all || sight.sees(p.tile + row, key + column);
        };
        float scores[kMine][kMine], dout_v[kMine][kMine];
        multiply(scores, q, p.tile, k, key, head_dim, shared);
        multiply(dout_v, dout, p.tile, v, key, head_dim, shared);
        for (int i = 0; i < kMine; i++)
            for (int j = 0; j < kMine; j++)
                scores[i][j] = pair<T>(scores[i][j] * job.scale, dout_v[i][j], rows[i],
                                       seen(my_row(i), my_column(j)))
                                   .gradient;
        put_weights(scores, shared);
        add_rows(sums, k, key, p.first_column, head_dim, shared, seen);
    }
    store(sums, lisa__query_rows<T>(job, p.at, job.op.dq, job.op.lddq), p, head_dim, factors);
}

/* A query head's part of dk (without the scale) and dv. */
template <class T>
__device__ void add_query_head(const lisa__attention_job &job, const place &p, const lisa__head &at,
                               float (&dk)[kMine][kMineWide], float (&dv)[kMine][kMineWide],
                               shared_memory &shared) {
    const int head_dim = static_cast<int>(job.op.head_dim);
    const lisa__sight sight = lisa__sight_of(job, at);
    const auto q = lisa__query_rows<const T>(job, at, job.op.q, job.op.ldq);
    const auto dout = lisa__query_rows<const T>(job, at, job.op.dout, job.op.lddout);
    const auto k = lisa__key_rows<const T>(job, at, job.op.k, job.op.ldk);
    const auto v = lisa__key_rows<const T>(job, at, job.op.v, job.op.ldv);
    const int last = sight.last_place(p.tile, kTile);
    for (int query = p.tile; query <= last; query += kTile) {
        const bool all = sight.sees_all(query, kTile, p.tile, kTile);
        const auto seen = [&](int row, int column) {
            return all || sight.sees(query + column, p.tile + row);
        };
        float weights[kMine][kMine], gradients[kMine][kMine];
        multiply(weights, k, p.tile, q, query, head_dim, shared);
        multiply(gradients, v, p.tile, dout, query, head_dim, shared);
        for (int j = 0; j < kMine; j++) {
            const query_row row = query_row_of(job, at, query + my_column(j));
            for (int i = 0; i < kMine; i++) {
                const pair<T> of(weights[i][j] * job.scale, gradients[i][j], row,
                                 seen(my_row(i), my_column(j)));
                weights[i][j] = of.weight;
                gradients[i][j] = of.gradient;
            }
        }
        put_weights(weights, shared);
        add_rows(dv, dout, query, p.first_column, head_dim, shared, seen);
        put_weights(gradients, shared);
        add_rows(dk, q, query, p.first_column, head_dim, shared, seen);
    }
}

/* dk and dv of a tile of keys: sums over the query heads of its key head, in their order. */
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    attention_key_gradients_plain(const lisa__attention_job job) {
    __shared__ shared_memory shared;
    const uint32_t group = job.op.heads / job.op.kv_heads;
    const place p = place_of(job, group);
    const int head_dim = static_cast<int>(job.op.head_dim);
    float dk[kMine][kMineWide] = {}, dv[kMine][kMineWide] = {}, factors[kMine], ones[kMine];
    for (uint32_t i = 0; i < group; i++)
        add_query_head<T>(job, p, lisa__head_of(job, p.at.index - job.first_head + i), dk, dv,
                          shared);
    for (int i = 0; i < kMine; i++) {
        factors[i] = job.scale;
        ones[i] = 1.0f;
    }
    store(dk, lisa__key_rows<T>(job, p.at, job.op.dk, job.op.lddk), p, head_dim, factors);
    store(dv, lisa__key_rows<T>(job, p.at, job.op.dv, job.op.lddv), p, head_dim, ones);
}

/* Blocks of a head: its tiles, each as often as there are parts of its columns. */
uint64_t blocks_of(const lisa__attention_job *job) {
    return lisa__blocks_for(job->op.n_queries, kTile) *
           lisa__blocks_for(job->op.head_dim, kColumns);
}

template <class T>
lisa_status launch_forward(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    uint32_t blocks;
    LISA_TRY(lisa__attention_grid(cuda, job, blocks_of(job), false, &blocks));
    LISA_LAUNCH(attention_forward_plain<T>, blocks, kThreads, 0, cuda->stream, *job);
    return lisa__cuda_launched(&cuda->base, "attention");
}

template <class T>
lisa_status launch_backward(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    const uint64_t rows = static_cast<uint64_t>(job->n_heads) * job->op.n_queries;
    uint32_t blocks = static_cast<uint32_t>(lisa__blocks_for(rows, kThreads / 32));
    LISA_LAUNCH(attention_row_sums_plain<T>, blocks, kThreads, 0, cuda->stream, *job);
    LISA_TRY(lisa__cuda_launched(&cuda->base, "attention's row sums"));
    LISA_TRY(lisa__attention_grid(cuda, job, blocks_of(job), true, &blocks));
    LISA_LAUNCH(attention_key_gradients_plain<T>, blocks, kThreads, 0, cuda->stream, *job);
    LISA_TRY(lisa__cuda_launched(&cuda->base, "attention's gradients of keys"));
    LISA_TRY(lisa__attention_grid(cuda, job, blocks_of(job), false, &blocks));
    LISA_LAUNCH(attention_query_gradients_plain<T>, blocks, kThreads, 0, cuda->stream, *job);
    return lisa__cuda_launched(&cuda->base, "attention's gradients of queries");
}

} // namespace

lisa_status lisa__attention_forward_plain(struct lisa__cuda *cuda,
                                          const struct lisa__attention_job *job) {
    if (job->op.dtype == LISA_DTYPE_F32)
        return launch_forward<float>(cuda, job);
    if (job->op.dtype == LISA_DTYPE_BF16)
        return launch_forward<__nv_bfloat16>(cuda, job);
    return launch_forward<__half>(cuda, job);
}

lisa_status lisa__attention_backward_plain(struct lisa__cuda *cuda,
                                           const struct lisa__attention_job *job) {
    if (job->op.dtype == LISA_DTYPE_F32)
        return launch_backward<float>(cuda, job);
    if (job->op.dtype == LISA_DTYPE_BF16)
        return launch_backward<__nv_bfloat16>(cuda, job);
    return launch_backward<__half>(cuda, job);
}

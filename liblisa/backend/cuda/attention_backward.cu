/* attention_backward.cu - attention's gradients on tensor cores, without atomics: one kernel makes
 * row sums, a second the gradients of keys and values, a third those of queries; the latter two
 * have scores of their own.
 *
 * With p = softmax's weights and delta = the row sums of dout * out:
 *   ds = p (dout v^T - delta);  dv = p^T dout;  dk = scale ds^T q;  dq = scale ds k
 * p and ds are rounded to the operands' type before they multiply rows; scale comes in float, at
 * the end. Tiles travel as in the forward: each is on its way while another one is worked on. */
#include "backend/cuda/attention_tensor.cuh"

namespace {

constexpr int kStep = 32; /* queries, or keys, that a block's 64 rows meet at a time */
constexpr int kN = kStep / 8;

/* Of a query: lse, in units in which weights are powers of 2, and delta. Zeros behind the last. */
__device__ __forceinline__ float row_lse(const lisa__attention_job &job, const lisa__head &at,
                                         int query) {
    const size_t n = job.op.n_queries;
    if (query >= static_cast<int>(n))
        return 0.0f;
    return static_cast<const float *>(job.op.lse)[at.index * n + query] * kLog2e;
}

__device__ __forceinline__ float row_delta(const lisa__attention_job &job, const lisa__head &at,
                                           int query) {
    const size_t n = job.op.n_queries;
    if (query >= static_cast<int>(n))
        return 0.0f;
    return job.delta[(at.index - job.first_head) * n + query];
}

/* ---- rows ---- */

/* Threads of a row: each has at most 8 columns, one access of out and one of dout. */
constexpr int kSharers = 16;

/* The sum of the products of 8 elements. */
template <class T> __device__ __forceinline__ float multiply_pieces(uint4 a, uint4 b) {
    T x[8], y[8];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    float sum = 0.0f;
    LISA_UNROLL
    for (int i = 0; i < 8; i++)
        sum = fmaf(lisa__widen(x[i]), lisa__widen(y[i]), sum);
    return sum;
}

/* delta. */
template <class T, int D>
__global__ void __launch_bounds__(kThreads) attention_row_sums(const lisa__attention_job job) {
    const size_t row = (static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x) / kSharers;
    const size_t n = job.op.n_queries, query = row % n;
    const int column = static_cast<int>(threadIdx.x) % kSharers * 8;
    const bool is_there = row < job.n_heads * n;
    float sum = 0.0f;
    if (is_there && column < D) {
        const lisa__head at = lisa__head_of(job, static_cast<uint32_t>(row / n));
        const auto out = lisa__query_rows<const T>(job, at, job.op.out, job.op.ldout);
        const auto dout = lisa__query_rows<const T>(job, at, job.op.dout, job.op.lddout);
        sum = multiply_pieces<T>(lisa_load16(out.first + query * out.ld + column),
                                 lisa_load16(dout.first + query * dout.ld + column));
    }
    for (int step = kSharers / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (is_there && column == 0)
        job.delta[row] = sum;
}

/* ---- queries ---- */

/* A thread's two rows. */
struct query_rows {
    float lse[2], delta[2];
};

__device__ __forceinline__ query_rows query_rows_of(const lisa__attention_job &job,
                                                    const lisa__head &at, int first_row) {
    query_rows rows;
    LISA_UNROLL
    for (int half = 0; half < 2; half++) {
        const int query = first_row + row_of(0, 2 * half);
        rows.lse[half] = row_lse(job, at, query);
        rows.delta[half] = row_delta(job, at, query);
    }
    return rows;
}

/* Scores become ds, where all sees all. */
__device__ __forceinline__ void differentiate(float (&scores)[1][kN][4],
                                              const float (&dout_v)[1][kN][4],
                                              const query_rows &rows, float scale) {
    LISA_UNROLL
    for (int n = 0; n < kN; n++)
        LISA_UNROLL
    for (int e = 0; e < 4; e++)
        scores[0][n][e] = lisa_exp2(fmaf(scores[0][n][e], scale, -rows.lse[e / 2])) *
                          (dout_v[0][n][e] - rows.delta[e / 2]);
}

/* What is not seen has no part in anything: its ds is 0, whatever its product is. */
__device__ __forceinline__ void hide(float (&ds)[1][kN][4], const lisa__sight &sight, int query,
                                     int key, const float *marks) {
    LISA_UNROLL
    for (int n = 0; n < kN; n++)
        LISA_UNROLL
    for (int e = 0; e < 4; e++) {
        const int column = column_of(n, e);
        ds[0][n][e] =
            sight.sees(query + row_of(0, e), key + column) ? ds[0][n][e] + marks[column] : 0.0f;
    }
}

/* dq of 64 queries. The blocks with the most keys, those of the last queries, come first. */
template <class T, int D>
__global__ void __launch_bounds__(kThreads, kBlocks)
    attention_query_gradients(const lisa__attention_job job) {
    LISA_SHARED(T, queries);
    T *douts = queries + kTileSize<D, kRows>;
    T *keys = douts + kTileSize<D, kRows>;
    T *values = keys + kTileSize<D, kStep>;
    float *marks = reinterpret_cast<float *>(values + kTileSize<D, kStep>);
    const lisa__head at = lisa__head_of(job, blockIdx.x % job.n_heads);
    const int tile = static_cast<int>(gridDim.x / job.n_heads - 1 - blockIdx.x / job.n_heads);
    const int first_row = tile * kRows;
    const lisa__sight sight = lisa__sight_of(job, at);
    const int last = sight.last_key(first_row, kRows);
    const auto k = lisa__key_rows<const T>(job, at, job.op.k, job.op.ldk);
    const auto v = lisa__key_rows<const T>(job, at, job.op.v, job.op.ldv);

    int key = sight.first_key(first_row);
    load_tile<D, kRows>(queries, lisa__query_rows<const T>(job, at, job.op.q, job.op.ldq),
                        first_row);
    load_tile<D, kRows>(douts, lisa__query_rows<const T>(job, at, job.op.dout, job.op.lddout),
                        first_row);
    load_tile<D, kStep>(values, v, key);
    lisa_copy_async_commit();
    const query_rows rows = query_rows_of(job, at, first_row);
    float dq[1][D / 8][4];
    clear(dq);
    for (; key <= last; key += kStep) {
        lisa_copy_async_wait(0);
        __syncthreads();
        load_tile<D, kStep>(keys, k, key);
        lisa_copy_async_commit();
        float scores[1][kN][4], dout_v[1][kN][4];
        multiply_rows<D>(dout_v, douts, values);
        lisa_copy_async_wait(0);
        __syncthreads();
        if (key + kStep <= last)
            load_tile<D, kStep>(values, v, key + kStep);
        lisa_copy_async_commit();
        const bool all = sight.sees_all(first_row, kRows, key, kStep);
        if (!all) {
            set_apart<D, kStep>(keys, marks);
            __syncthreads();
        }
        multiply_rows<D>(scores, queries, keys);
        differentiate(scores, dout_v, rows, job.scale * kLog2e);
        if (!all)
            hide(scores, sight, first_row, key, marks);
        add_rows<D>(dq, scores, keys);
    }
    const float factors[1][2] = {{job.scale, job.scale}};
    store_rows<D>(dq, factors, queries, lisa__query_rows<T>(job, at, job.op.dq, job.op.lddq),
                  first_row);
}

/* ---- keys ---- */

/* lse and delta of a step's queries, in shared memory, and marks of their q and dout. */
struct step_rows {
    float lse[2][kStep], delta[2][kStep]; /* of two steps in turn */
    float marks[2][kStep];
};

/* Where a block stands among the steps: query heads of its key head, and queries that see its
 * keys. */
struct step {
    uint32_t head; /* of the job's */
    int query;
};

/* This thread's part of step_rows, of lse or delta. */
__device__ __forceinline__ float fetch(const lisa__attention_job &job, const step &next) {
    const lisa__head at = lisa__head_of(job, next.head);
    const int query = next.query + lane();
    if (threadIdx.x < kStep)
        return row_lse(job, at, query);
    return threadIdx.x < 2 * kStep ? row_delta(job, at, query) : 0.0f;
}

__device__ __forceinline__ void put(step_rows *rows, int turn, float fetched) {
    if (threadIdx.x < kStep)
        rows->lse[turn][lane()] = fetched;
    else if (threadIdx.x < 2 * kStep)
        rows->delta[turn][lane()] = fetched;
}

/* Scores become weights, and products of v and dout become ds. */
__device__ __forceinline__ void differentiate(float (&weights)[1][kN][4], float (&ds)[1][kN][4],
                                              const step_rows *rows, int turn, float scale) {
    LISA_UNROLL
    for (int n = 0; n < kN; n++)
        LISA_UNROLL
    for (int j = 0; j < 2; j++) {
        const float lse = rows->lse[turn][column_of(n, j)];
        const float delta = rows->delta[turn][column_of(n, j)];
        LISA_UNROLL
        for (int e = j; e < 4; e += 2) {
            weights[0][n][e] = lisa_exp2(fmaf(weights[0][n][e], scale, -lse));
            ds[0][n][e] = weights[0][n][e] * (ds[0][n][e] - delta);
        }
    }
}

__device__ __forceinline__ void hide(float (&weights)[1][kN][4], float (&ds)[1][kN][4],
                                     const lisa__sight &sight, int query, int key,
                                     const step_rows *rows) {
    LISA_UNROLL
    for (int n = 0; n < kN; n++)
        LISA_UNROLL
    for (int e = 0; e < 4; e++) {
        const int column = column_of(n, e);
        const float mark = rows->marks[0][column] + rows->marks[1][column];
        const bool seen = sight.sees(query + column, key + row_of(0, e));
        weights[0][n][e] = seen ? weights[0][n][e] + mark : 0.0f;
        ds[0][n][e] = seen ? ds[0][n][e] + mark : 0.0f;
    }
}

/* dk and dv of 64 keys: sums over the query heads of their key head, in order, and for each over
 * the queries that see them. The blocks with the most queries, those of the first keys, come first.
 */
template <class T, int D>
__global__ void __launch_bounds__(kThreads, kBlocks)
    attention_key_gradients(const lisa__attention_job job) {
    LISA_SHARED(T, keys);
    T *values = keys + kTileSize<D, kRows>;
    T *queries = values + kTileSize<D, kRows>;
    T *douts = queries + kTileSize<D, kStep>;
    step_rows *rows = reinterpret_cast<step_rows *>(douts + kTileSize<D, kStep>);
    const uint32_t group = job.op.heads / job.op.kv_heads, n_heads = job.n_heads / group;
    step now = {blockIdx.x % n_heads * group, static_cast<int>(blockIdx.x / n_heads) * kRows};
    const uint32_t end = now.head + group;
    const int first_key = now.query;
    const lisa__head first = lisa__head_of(job, now.head);
    const lisa__sight sight = lisa__sight_of(job, first);
    const int last = sight.last_place(first_key, kRows);
    const float scale = job.scale * kLog2e;
    const auto q = [&](const step &s) {
        return lisa__query_rows<const T>(job, lisa__head_of(job, s.head), job.op.q, job.op.ldq);
    };
    const auto dout = [&](const step &s) {
        return lisa__query_rows<const T>(job, lisa__head_of(job, s.head), job.op.dout,
                                         job.op.lddout);
    };

    load_tile<D, kRows>(keys, lisa__key_rows<const T>(job, first, job.op.k, job.op.ldk), first_key);
    load_tile<D, kRows>(values, lisa__key_rows<const T>(job, first, job.op.v, job.op.ldv),
                        first_key);
    load_tile<D, kStep>(douts, dout(now), now.query);
    lisa_copy_async_commit();
    put(rows, 0, fetch(job, now));
    float dk[1][D / 8][4], dv[1][D / 8][4];
    clear(dk);
    clear(dv);
    for (int turn = 0; now.head < end; turn ^= 1) {
        step next = {now.head, now.query + kStep};
        if (next.query > last)
            next = {now.head + 1, first_key};
        const bool more = next.head < end;
        lisa_copy_async_wait(0);
        __syncthreads();
        load_tile<D, kStep>(queries, q(now), now.query);
        lisa_copy_async_commit();
        const float fetched = more ? fetch(job, next) : 0.0f;
        float weights[1][kN][4], ds[1][kN][4];
        multiply_rows<D>(ds, values, douts);
        lisa_copy_async_wait(0);
        __syncthreads();
        const bool all = sight.sees_all(now.query, kStep, first_key, kRows);
        if (!all) {
            set_apart<D, kStep>(queries, rows->marks[0]);
            set_apart<D, kStep>(douts, rows->marks[1]);
            __syncthreads();
        }
        multiply_rows<D>(weights, keys, queries);
        differentiate(weights, ds, rows, turn, scale);
        if (!all)
            hide(weights, ds, sight, now.query, first_key, rows);
        add_rows<D>(dv, weights, douts);
        __syncthreads();
        if (more)
            load_tile<D, kStep>(douts, dout(next), next.query);
        lisa_copy_async_commit();
        put(rows, turn ^ 1, fetched);
        add_rows<D>(dk, ds, queries);
        now = next;
    }
    const float scales[1][2] = {{job.scale, job.scale}}, ones[1][2] = {{1.0f, 1.0f}};
    store_rows<D>(dk, scales, keys, lisa__key_rows<T>(job, first, job.op.dk, job.op.lddk),
                  first_key);
    store_rows<D>(dv, ones, values, lisa__key_rows<T>(job, first, job.op.dv, job.op.lddv),
                  first_key);
}

/* ---- launches ---- */

template <class T, int D>
lisa_status launch_row_sums(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    const uint64_t rows = static_cast<uint64_t>(job->n_heads) * job->op.n_queries;
    const uint32_t blocks = static_cast<uint32_t>(lisa__blocks_for(rows, kThreads / kSharers));
    LISA_LAUNCH((attention_row_sums<T, D>), blocks, kThreads, 0, cuda->stream, *job);
    return lisa__cuda_launched(&cuda->base, "attention's row sums");
}

/* Bytes of the tiles that both of the others have. */
template <class T, int D>
constexpr size_t kTileBytes = kTileSize<D, 2 * kRows + 2 * kStep> * sizeof(T);

template <class T, int D>
lisa_status launch_key_gradients(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    const size_t bytes = kTileBytes<T, D> + sizeof(step_rows);
    uint32_t blocks;
    LISA_TRY(prepare(cuda, attention_key_gradients<T, D>, job, kRows, true, bytes, &blocks));
    LISA_LAUNCH((attention_key_gradients<T, D>), blocks, kThreads, bytes, cuda->stream, *job);
    return lisa__cuda_launched(&cuda->base, "attention's gradients of keys");
}

template <class T, int D>
lisa_status launch_query_gradients(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    const size_t bytes = kTileBytes<T, D> + kStep * sizeof(float);
    uint32_t blocks;
    LISA_TRY(prepare(cuda, attention_query_gradients<T, D>, job, kRows, false, bytes, &blocks));
    LISA_LAUNCH((attention_query_gradients<T, D>), blocks, kThreads, bytes, cuda->stream, *job);
    return lisa__cuda_launched(&cuda->base, "attention's gradients of queries");
}

template <class T, int D>
lisa_status launch_backward(struct lisa__cuda *cuda, const lisa__attention_job *job) {
    LISA_TRY((launch_row_sums<T, D>(cuda, job)));
    LISA_TRY((launch_key_gradients<T, D>(cuda, job)));
    return launch_query_gradients<T, D>(cuda, job);
}

} // namespace

lisa_status lisa__attention_backward_tensor(struct lisa__cuda *cuda,
                                            const struct lisa__attention_job *job) {
    return LISA_ATTENTION_DISPATCH(job->op, launch_backward, cuda, job);
}

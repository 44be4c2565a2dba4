/* RMSNorm and LayerNorm. A team of threads holds a vector in registers from its sums to what is
 * made with them, so that it moves once; one of more than LISA_TEAM_THREADS * LISA_TEAM_ELEMENTS
 * columns is read again. */
#include "backend/cuda/columns.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/teams.cuh"

namespace {

/* What a launch is about beside its operation. */
struct plan {
    lisa__teams teams;
    size_t vectors;
    float eps;
    bool layer, wide;
    float *parts; /* backward: each team's of dweight and dbias, or NULL */
    uint32_t part_floats;
};

/* The vector that a team works on, if there is one left for it. */
struct place {
    size_t vector, row, column;
    bool there;
};

__device__ __forceinline__ place place_of(const lisa_norm &op, const plan &p, size_t base) {
    const size_t vector = base + threadIdx.x / p.teams.size;
    if (op.segments == 1)
        return {vector, vector, 0, vector < p.vectors};
    return {vector, vector / op.segments, vector % op.segments * op.cols, vector < p.vectors};
}

template <int N>
__device__ __forceinline__ lisa__share<N> share_of(const lisa_norm &op, const plan &p,
                                                   const place &at) {
    return {at.there ? op.cols : 0, p.teams.size, threadIdx.x % p.teams.size};
}

/* Vectors that a block works on at once. */
__device__ __forceinline__ size_t round_of(const plan &p) {
    return blockDim.x / p.teams.size;
}

struct statistics {
    float mean, rstd;
};

__device__ __forceinline__ void put_statistics(const lisa_norm &op, const plan &p, size_t vector,
                                               statistics s) {
    float *stats = static_cast<float *>(op.stats);
    if (p.layer) {
        stats[2 * vector] = s.mean;
        stats[2 * vector + 1] = s.rstd;
    } else {
        stats[vector] = s.rstd;
    }
}

__device__ __forceinline__ statistics get_statistics(const lisa_norm &op, const plan &p,
                                                     const place &at) {
    const float *stats = static_cast<const float *>(op.stats);
    if (!at.there)
        return {0.0f, 0.0f};
    if (p.layer)
        return {stats[2 * at.vector], stats[2 * at.vector + 1]};
    return {0.0f, stats[at.vector]};
}

/* The sum of (x - mean)^power over a vector; x holds its last tile afterwards. */
template <int POWER, int N, class X>
__device__ __forceinline__ float power_sum(float (&x)[lisa__share<N>::K][N], const X *vector,
                                           const lisa__share<N> &share, const plan &p, float mean,
                                           bool held) {
    float sum[1] = {0.0f};
    for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
        if (!held || p.teams.tiles > 1)
            share.read(x, vector, tile, p.wide);
#pragma unroll
        for (int k = 0; k < share.K; k++)
#pragma unroll
            for (uint32_t i = 0; i < N; i++) {
                const float d = i < share.left(share.column(tile, k)) ? x[k][i] - mean : 0.0f;
                sum[0] += POWER == 1 ? d : d * d;
            }
    }
    lisa__team_sum(sum, p.teams.size);
    return sum[0];
}

template <int N, class X>
__device__ __forceinline__ statistics measure(float (&x)[lisa__share<N>::K][N], const X *vector,
                                              const lisa__share<N> &share, uint32_t cols,
                                              const plan &p) {
    statistics s = {0.0f, 0.0f};
    if (p.layer)
        s.mean = power_sum<1>(x, vector, share, p, 0.0f, false) / cols;
    const float squares = power_sum<2>(x, vector, share, p, s.mean, p.layer);
    s.rstd = 1.0f / sqrtf(squares / cols + p.eps);
    return s;
}

/* Of a tile: the weights and the biases. */
template <int N> struct affine {
    static constexpr int K = lisa__share<N>::K;
    float weight[K][N], bias[K][N];

    __device__ __forceinline__ void take(const lisa_norm &op, const lisa__share<N> &share,
                                         uint32_t tile, bool wide) {
#pragma unroll
        for (int k = 0; k < K; k++) {
            const uint32_t column = share.column(tile, k), n = share.left(column);
            lisa__read_typed(weight[k], op.weight, column, n, wide);
            if (op.bias.data != nullptr) {
                lisa__read_typed(bias[k], op.bias, column, n, wide);
                continue;
            }
#pragma unroll
            for (int i = 0; i < N; i++)
                bias[k][i] = 0.0f;
        }
    }
};

template <class Y, int N>
__device__ __forceinline__ void
put_normalised(const float (&x)[lisa__share<N>::K][N], const affine<N> &by, const lisa_norm &op,
               const plan &p, const place &at, const lisa__share<N> &share, statistics s,
               uint32_t tile) {
#pragma unroll
    for (int k = 0; k < share.K; k++) {
        const uint32_t column = share.column(tile, k), n = share.left(column);
        const size_t to = at.column + column;
        float y[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            y[i] = (x[k][i] - s.mean) * s.rstd * by.weight[k][i] + by.bias[k][i];
        lisa__write(static_cast<Y *>(op.y.data) + at.row * op.ldy + to, y, n, p.wide);
        if (op.copy != nullptr)
            lisa__write(static_cast<float *>(op.copy) + at.row * op.ldx + to, x[k], n, p.wide);
    }
}

template <class X, class Y>
__global__ void __launch_bounds__(LISA_TEAM_THREADS) forward_kernel(lisa_norm op, plan p) {
    constexpr int N = lisa__at_once<X, Y>;
    const lisa__share<N> whole = {op.cols, p.teams.size, threadIdx.x % p.teams.size};
    const bool one_tile = p.teams.tiles == 1;
    affine<N> by;
    by.take(op, whole, 0, p.wide);
    for (size_t base = blockIdx.x * round_of(p); base < p.vectors;
         base += gridDim.x * round_of(p)) {
        const place at = place_of(op, p, base);
        const lisa__share<N> share = share_of<N>(op, p, at);
        const X *vector = static_cast<const X *>(op.x.data) + at.row * op.ldx + at.column;
        float x[share.K][N];
        const statistics s = measure(x, vector, share, op.cols, p);
        if (at.there && share.member == 0)
            put_statistics(op, p, at.vector, s);
        for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
            if (!one_tile) {
                share.read(x, vector, tile, p.wide);
                by.take(op, whole, tile, p.wide);
            }
            put_normalised<Y>(x, by, op, p, at, share, s, tile);
        }
    }
}

/* A tile of a vector on its way back: dy, dy times the weights, and x normalised. */
template <int N> struct returning {
    static constexpr int K = lisa__share<N>::K;
    float dy[K][N], g[K][N], xhat[K][N];

    template <class X, class D>
    __device__ __forceinline__ void take(const lisa_norm &op, const plan &p, const place &at,
                                         const lisa__share<N> &share, statistics s, uint32_t tile) {
        const X *x = static_cast<const X *>(op.x.data) + at.row * op.ldx + at.column;
        const D *d = static_cast<const D *>(op.dy.data) + at.row * op.lddy + at.column;
        share.read(xhat, x, tile, p.wide);
        share.read(dy, d, tile, p.wide);
#pragma unroll
        for (int k = 0; k < K; k++) {
            const uint32_t column = share.column(tile, k);
            float w[N];
            lisa__read_typed(w, op.weight, column, share.left(column), p.wide);
#pragma unroll
            for (int i = 0; i < N; i++) {
                g[k][i] = dy[k][i] * w[i];
                xhat[k][i] = (xhat[k][i] - s.mean) * s.rstd;
            }
        }
    }

    /* Adds to the sums of g and of g xhat. What a thread does not have is 0 in g. */
    __device__ __forceinline__ void add_up(float (&sums)[2]) const {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int i = 0; i < N; i++) {
                sums[0] += g[k][i];
                sums[1] += g[k][i] * xhat[k][i];
            }
    }
};

/* A thread's part of dweight and dbias, of one tile. */
template <int N> struct part {
    static constexpr int K = lisa__share<N>::K;
    float dweight[K][N], dbias[K][N];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int i = 0; i < N; i++)
                dweight[k][i] = dbias[k][i] = 0.0f;
    }

    __device__ __forceinline__ void add(const returning<N> &r) {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int i = 0; i < N; i++) {
                dweight[k][i] += r.dy[k][i] * r.xhat[k][i];
                dbias[k][i] += r.dy[k][i];
            }
    }

    /* memory: dweight's columns, then dbias's, those that are wanted. */
    __device__ __forceinline__ void load(const lisa_norm &op, const lisa__share<N> &share,
                                         const float *memory, uint32_t tile, bool wide) {
        if (op.dweight != nullptr)
            share.read(dweight, memory, tile, wide);
        if (op.dbias != nullptr)
            share.read(dbias, memory + (op.dweight != nullptr ? op.cols : 0), tile, wide);
    }

    __device__ __forceinline__ void store(const lisa_norm &op, const lisa__share<N> &share,
                                          float *memory, uint32_t tile, bool wide) const {
        if (op.dweight != nullptr)
            share.write(memory, dweight, tile, wide);
        if (op.dbias != nullptr)
            share.write(memory + (op.dweight != nullptr ? op.cols : 0), dbias, tile, wide);
    }
};

/* With xhat = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - xhat mean(g xhat)), where RMS
 * has no mean(g). */
template <class G, int N>
__device__ __forceinline__ void put_dx(const returning<N> &r, const lisa_norm &op, const plan &p,
                                       const place &at, const lisa__share<N> &share, float rstd,
                                       const float (&means)[2], uint32_t tile) {
#pragma unroll
    for (int k = 0; k < share.K; k++) {
        const uint32_t column = share.column(tile, k), n = share.left(column);
        const size_t to = at.row * op.lddx + at.column + column;
        G *dx = static_cast<G *>(op.dx.data) + to;
        float before[N] = {}, d[N];
        if (op.accumulate)
            lisa__read(before, dx, n, p.wide);
#pragma unroll
        for (int i = 0; i < N; i++)
            d[i] = before[i] + rstd * (r.g[k][i] - means[0] - r.xhat[k][i] * means[1]);
        lisa__write(dx, d, n, p.wide);
        if (op.operand.data != nullptr)
            lisa__write_typed(op.operand, to, d, n, p.wide);
    }
}

template <class X, class D, class G>
__global__ void __launch_bounds__(LISA_TEAM_THREADS) backward_kernel(lisa_norm op, plan p) {
    constexpr int N = lisa__at_once<X, D> < lisa__per_16<G> ? lisa__at_once<X, D> : lisa__per_16<G>;
    const lisa__share<N> whole = {op.cols, p.teams.size, threadIdx.x % p.teams.size};
    const size_t first = blockIdx.x * round_of(p), team = first + threadIdx.x / p.teams.size;
    float *memory = p.parts + team * p.part_floats;
    const bool one_tile = p.teams.tiles == 1, wide_parts = op.cols % N == 0;
    part<N> sums;
    sums.clear();
    for (size_t base = first; base < p.vectors; base += gridDim.x * round_of(p)) {
        const place at = place_of(op, p, base);
        const lisa__share<N> share = share_of<N>(op, p, at);
        const statistics s = get_statistics(op, p, at);
        returning<N> r;
        float means[2] = {0.0f, 0.0f};
        for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
            r.template take<X, D>(op, p, at, share, s, tile);
            r.add_up(means);
            if (p.parts == nullptr)
                continue;
            if (!one_tile && base != first)
                sums.load(op, whole, memory, tile, wide_parts);
            sums.add(r);
            if (!one_tile) {
                sums.store(op, whole, memory, tile, wide_parts);
                sums.clear();
            }
        }
        lisa__team_sum(means, p.teams.size);
        means[0] = p.layer ? means[0] / op.cols : 0.0f;
        means[1] /= op.cols;
        for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
            if (!one_tile)
                r.template take<X, D>(op, p, at, share, s, tile);
            put_dx<G>(r, op, p, at, share, s.rstd, means, tile);
        }
    }
    if (p.parts != nullptr && one_tile)
        sums.store(op, whole, memory, 0, wide_parts);
}

/* ---- launches ---- */

lisa_status check(lisa_backend *be, const lisa_norm *op) {
    if (op->kind != LISA_NORM_RMS && op->kind != LISA_NORM_LAYER)
        return lisa__cuda_refuse(be, "cuda: norm kind is neither RMS nor LAYER");
    if (!lisa__is_storage(op->weight.dtype) ||
        (op->bias.data != nullptr && !lisa__is_storage(op->bias.dtype)))
        return lisa__cuda_refuse(be, "cuda: a norm's weight is none of f32, bf16, f16");
    if (op->operand.data != nullptr && !lisa__is_storage(op->operand.dtype))
        return lisa__cuda_refuse(be, "cuda: norm_backward: the operand is none of f32, bf16, f16");
    return LISA_OK;
}

plan plan_of(const lisa_norm *op) {
    plan p = {};
    p.teams = lisa__teams_for(op->cols);
    p.vectors = static_cast<size_t>(op->rows) * op->segments;
    p.eps = static_cast<float>(op->eps);
    p.layer = op->kind == LISA_NORM_LAYER;
    return p;
}

uint32_t teams_in_block(const plan &p) {
    return p.teams.block / p.teams.size;
}

/* Of rows that lie ld apart, where segments are `cols` apart within. */
bool keeps_wide(const lisa_norm *op, const void *data, size_t ld, uint32_t at_once) {
    return lisa__is_aligned(data) && ld % at_once == 0 &&
           (op->segments == 1 || op->cols % at_once == 0);
}

template <class X, class Y> lisa_status forward(struct lisa__cuda *cuda, const lisa_norm *op) {
    constexpr uint32_t N = lisa__at_once<X, Y>;
    plan p = plan_of(op);
    p.wide = keeps_wide(op, op->x.data, op->ldx, N) && keeps_wide(op, op->y.data, op->ldy, N) &&
             lisa__is_aligned(op->copy) && lisa__is_aligned(op->weight.data) &&
             lisa__is_aligned(op->bias.data);
    if (p.vectors == 0)
        return LISA_OK;
    /* Where there are many, a team takes the weights for some vectors at once. */
    const uint64_t some = p.vectors / teams_in_block(p) / 1024, each = some < 4 ? some : 4;
    const uint64_t blocks = lisa__blocks_for(p.vectors, teams_in_block(p) * (each > 0 ? each : 1));
    LISA_LAUNCH((forward_kernel<X, Y>), lisa__grid(blocks), p.teams.block, 0, cuda->stream, *op, p);
    return lisa__cuda_launched(&cuda->base, "norm_forward");
}

/* Teams sum up the vectors that they come by: some each, and no more teams than scratch holds the
 * parts of. Returns the blocks. */
uint32_t divide(plan *p, const lisa_norm *op, float *scratch) {
    p->part_floats = op->cols * ((op->dweight != nullptr) + (op->dbias != nullptr));
    if (p->part_floats == 0)
        return lisa__grid(lisa__blocks_for(p->vectors, teams_in_block(*p)));
    p->parts = scratch;
    const uint64_t blocks = lisa__blocks_for(p->vectors, 4 * teams_in_block(*p));
    const uint64_t held = LISA_CUDA_SCRATCH / p->part_floats / teams_in_block(*p);
    const uint64_t most = held < 512 ? held : 512;
    return static_cast<uint32_t>(blocks < most ? blocks : most);
}

lisa_status add_parts(struct lisa__cuda *cuda, const lisa_norm *op, const plan &p,
                      uint32_t n_parts) {
    const float *parts = p.parts;
    if (op->dweight != nullptr) {
        LISA_TRY(lisa__cuda_add_parts(cuda, static_cast<float *>(op->dweight), parts, n_parts,
                                      p.part_floats, op->cols, "norm_backward"));
        parts += op->cols;
    }
    if (op->dbias != nullptr)
        LISA_TRY(lisa__cuda_add_parts(cuda, static_cast<float *>(op->dbias), parts, n_parts,
                                      p.part_floats, op->cols, "norm_backward"));
    return LISA_OK;
}

template <class X, class D, class G>
lisa_status backward(struct lisa__cuda *cuda, const lisa_norm *op) {
    constexpr uint32_t N =
        lisa__at_once<X, D> < lisa__per_16<G> ? lisa__at_once<X, D> : lisa__per_16<G>;
    plan p = plan_of(op);
    p.wide = keeps_wide(op, op->x.data, op->ldx, N) && keeps_wide(op, op->dy.data, op->lddy, N) &&
             keeps_wide(op, op->dx.data, op->lddx, N) && lisa__is_aligned(op->operand.data) &&
             lisa__is_aligned(op->weight.data);
    if (p.vectors == 0)
        return LISA_OK;
    const uint32_t blocks = divide(&p, op, cuda->scratch);
    LISA_LAUNCH((backward_kernel<X, D, G>), blocks, p.teams.block, 0, cuda->stream, *op, p);
    LISA_TRY(lisa__cuda_launched(&cuda->base, "norm_backward"));
    return add_parts(cuda, op, p, blocks * teams_in_block(p));
}

} // namespace

lisa_status lisa__cuda_norm_forward(lisa_backend *be, const lisa_norm *op) {
    LISA_TRY(check(be, op));
    return lisa__with_types(
        be, op->x.dtype, op->y.dtype,
        "cuda: norm_forward: x and y are none of f32, bf16, f16, or of two "
        "16-bit types",
        [=](auto x, auto y) { return forward<decltype(x), decltype(y)>(lisa__cuda_of(be), op); });
}

lisa_status lisa__cuda_norm_backward(lisa_backend *be, const lisa_norm *op) {
    const char *refusal = "cuda: norm_backward: x, dy and dx are none of f32, bf16, f16, or of two "
                          "16-bit types";
    LISA_TRY(check(be, op));
    if (op->cols > LISA_CUDA_SCRATCH / 2)
        return lisa__cuda_refuse(be, "cuda: norm_backward: more than 524288 columns");
    return lisa__with_types(be, op->x.dtype, op->dy.dtype, refusal, [=](auto x, auto dy) {
        using X = decltype(x);
        using D = decltype(dy);
        return lisa__with_type(be, op->dx.dtype, refusal, [=](auto dx) -> lisa_status {
            using G = decltype(dx);
            if constexpr (lisa__go_together<X, G> && lisa__go_together<D, G>)
                return backward<X, D, G>(lisa__cuda_of(be), op);
            else
                return lisa__cuda_refuse(be, refusal);
        });
    });
}

/* RMSNorm and LayerNorm. A team of threads holds a vector in registers from its sums to what is
 * made with them, so that it moves once; one of more than LISA_TEAM_THREADS * LISA_TEAM_ELEMENTS
 * columns is read again. Kernels are made for the types of what moves row by row; those of <void,
 * void> are for what is not aligned: any types, an element at a time. */
#include "backend/cuda/columns.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/teams.cuh"

namespace {

template <class A, class B> constexpr int at_once = lisa__at_once<A, B>;
template <> constexpr int at_once<void, void> = 1;

/* What a launch is about beside its operation. */
struct plan {
    lisa__teams teams;
    size_t vectors;
    float eps;
    bool layer;
    bool holds;   /* backward: weights stay in shared memory from a team's vector to its next */
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

/* A thread's share of any vector, and of the one at a place. */
template <int N>
__device__ __forceinline__ lisa__share<N> share_of(const lisa_norm &op, const plan &p) {
    return {op.cols, p.teams.size, threadIdx.x % p.teams.size};
}

template <int N>
__device__ __forceinline__ lisa__share<N> share_at(const lisa_norm &op, const plan &p,
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

/* ---- forward ---- */

/* The sum of (x - mean)^power over a vector; x holds its last tile afterwards, or `held` it. */
template <int POWER, class X, int N>
__device__ __forceinline__ float power_sum(float (&x)[lisa__share<N>::K][N],
                                           const lisa__share<N> &share, const lisa_norm &op,
                                           const plan &p, const place &at, float mean, bool held) {
    float sum[1] = {0.0f};
    for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
        if (!held || p.teams.tiles > 1)
            share.template read_as<X>(x, op.x, at.row * op.ldx + at.column, tile);
        LISA_UNROLL
        for (int k = 0; k < share.K; k++)
            LISA_UNROLL
        for (int i = 0; i < N; i++) {
            const float d = share.has(tile, k) ? x[k][i] - mean : 0.0f;
            sum[0] += POWER == 1 ? d : d * d;
        }
    }
    lisa__team_sum(sum, p.teams.size);
    return sum[0];
}

template <class X, int N>
__device__ __forceinline__ statistics measure(float (&x)[lisa__share<N>::K][N],
                                              const lisa__share<N> &share, const lisa_norm &op,
                                              const plan &p, const place &at) {
    statistics s = {0.0f, 0.0f};
    if (p.layer)
        s.mean = power_sum<1, X>(x, share, op, p, at, 0.0f, false) / op.cols;
    const float squares = power_sum<2, X>(x, share, op, p, at, s.mean, p.layer);
    s.rstd = 1.0f / sqrtf(squares / op.cols + p.eps);
    return s;
}

/* Of a tile: the weights and the biases. */
template <int N> struct affine {
    static constexpr int K = lisa__share<N>::K;
    float weight[K][N], bias[K][N];

    __device__ __forceinline__ void take(const lisa__share<N> &share, const lisa_norm &op,
                                         uint32_t tile) {
        share.template read_as<void>(weight, op.weight, 0, tile);
        if (op.bias.data != nullptr) {
            share.template read_as<void>(bias, op.bias, 0, tile);
            return;
        }
        LISA_UNROLL
        for (int i = 0; i < K * N; i++)
            bias[i / N][i % N] = 0.0f;
    }
};

template <class Y, int N>
__device__ __forceinline__ void put_y(float (&x)[lisa__share<N>::K][N], const affine<N> &by,
                                      const lisa__share<N> &share, const lisa_norm &op,
                                      const place &at, statistics s, uint32_t tile) {
    if (op.copy != nullptr)
        share.write(static_cast<float *>(op.copy) + at.row * op.ldx + at.column, x, tile);
    LISA_UNROLL
    for (int k = 0; k < share.K; k++)
        LISA_UNROLL
    for (int i = 0; i < N; i++)
        x[k][i] = (x[k][i] - s.mean) * s.rstd * by.weight[k][i] + by.bias[k][i];
    share.template write_as<Y>(op.y, at.row * op.ldy + at.column, x, tile);
}

template <class X, class Y>
__global__ void __launch_bounds__(LISA_TEAM_THREADS) forward_kernel(lisa_norm op, plan p) {
    constexpr int N = at_once<X, Y>;
    const lisa__share<N> any = share_of<N>(op, p);
    const bool one_tile = p.teams.tiles == 1;
    affine<N> by;
    by.take(any, op, 0);
    for (size_t base = blockIdx.x * round_of(p); base < p.vectors;
         base += gridDim.x * round_of(p)) {
        const place at = place_of(op, p, base);
        const lisa__share<N> share = share_at<N>(op, p, at);
        float x[share.K][N];
        const statistics s = measure<X>(x, share, op, p, at);
        if (at.there && share.member == 0)
            put_statistics(op, p, at.vector, s);
        for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
            if (!one_tile) {
                share.template read_as<X>(x, op.x, at.row * op.ldx + at.column, tile);
                by.take(any, op, tile);
            }
            put_y<Y>(x, by, share, op, at, s, tile);
        }
    }
}

/* ---- backward ---- */

/* A tile of a vector on its way back: dy, dy times the weights, and x normalised. */
template <int N> struct returning {
    static constexpr int K = lisa__share<N>::K;
    float dy[K][N], g[K][N], xhat[K][N];

    /* Weights that a thread holds are of the first tile, and its own alone. */
    static __device__ __forceinline__ float *held(int k) {
        LISA_SHARED(float, all);
        return all + (k * blockDim.x + threadIdx.x) * N;
    }

    __device__ __forceinline__ void hold_weights() const {
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            lisa__put_wide(held(k), g[k]);
    }

    __device__ __forceinline__ void fetch_weights() {
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            lisa__fetch_wide(g[k], held(k));
    }

    template <class X, class D>
    __device__ __forceinline__ void take(const lisa__share<N> &share, const lisa_norm &op,
                                         const plan &p, const place &at, statistics s,
                                         uint32_t tile, bool first) {
        share.template read_as<X>(xhat, op.x, at.row * op.ldx + at.column, tile);
        share.template read_as<D>(dy, op.dy, at.row * op.lddy + at.column, tile);
        if (first || !p.holds)
            share.template read_as<void>(g, op.weight, 0, tile);
        else
            fetch_weights();
        if (first && p.holds)
            hold_weights();
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            LISA_UNROLL
        for (int i = 0; i < N; i++) {
            g[k][i] *= dy[k][i];
            xhat[k][i] = (xhat[k][i] - s.mean) * s.rstd;
        }
    }

    /* Adds to the sums of g and of g xhat. What a thread does not have is 0 in g. */
    __device__ __forceinline__ void add_up(float (&sums)[2]) const {
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            LISA_UNROLL
        for (int i = 0; i < N; i++) {
            sums[0] += g[k][i];
            sums[1] += g[k][i] * xhat[k][i];
        }
    }
};

/* A team's part of dweight and dbias, of one tile. */
template <int N> struct part {
    static constexpr int K = lisa__share<N>::K;
    float dweight[K][N], dbias[K][N];

    __device__ __forceinline__ void clear() {
        LISA_UNROLL
        for (int i = 0; i < K * N; i++)
            dweight[i / N][i % N] = dbias[i / N][i % N] = 0.0f;
    }

    __device__ __forceinline__ void add(const returning<N> &r) {
        LISA_UNROLL
        for (int k = 0; k < K; k++)
            LISA_UNROLL
        for (int i = 0; i < N; i++) {
            dweight[k][i] += r.dy[k][i] * r.xhat[k][i];
            dbias[k][i] += r.dy[k][i];
        }
    }

    /* memory: dweight's columns, then dbias's, those that are wanted. */
    __device__ __forceinline__ void load(const lisa__share<N> &share, const lisa_norm &op,
                                         const float *memory, uint32_t tile) {
        if (op.dweight != nullptr)
            share.read(dweight, memory, tile);
        if (op.dbias != nullptr)
            share.read(dbias, memory + (op.dweight != nullptr ? op.cols : 0), tile);
    }

    __device__ __forceinline__ void store(const lisa__share<N> &share, const lisa_norm &op,
                                          float *memory, uint32_t tile) const {
        if (op.dweight != nullptr)
            share.write(memory, dweight, tile);
        if (op.dbias != nullptr)
            share.write(memory + (op.dweight != nullptr ? op.cols : 0), dbias, tile);
    }
};

/* With xhat = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - xhat mean(g xhat)), where RMS
 * has no mean(g). */
template <int N>
__device__ __forceinline__ void put_dx(returning<N> &r, const lisa__share<N> &share,
                                       const lisa_norm &op, const place &at, float rstd,
                                       const float (&means)[2], uint32_t tile) {
    const size_t to = at.row * op.lddx + at.column;
    LISA_UNROLL
    for (int k = 0; k < share.K; k++)
        LISA_UNROLL
    for (int i = 0; i < N; i++)
        r.g[k][i] = rstd * (r.g[k][i] - means[0] - r.xhat[k][i] * means[1]);
    if (op.accumulate) {
        float(&before)[lisa__share<N>::K][N] = r.xhat; /* done with: registers are scarce */
        share.template read_as<void>(before, op.dx, to, tile);
        LISA_UNROLL
        for (int i = 0; i < share.K * N; i++)
            r.g[i / N][i % N] += before[i / N][i % N];
    }
    share.template write_as<void>(op.dx, to, r.g, tile);
    if (op.operand.data != nullptr)
        share.template write_as<void>(op.operand, to, r.g, tile);
}

/* Parts of a vector of one tile stay in registers until the end, those of others in memory. */
template <class X, class D>
__global__ void __launch_bounds__(LISA_TEAM_THREADS) backward_kernel(lisa_norm op, plan p) {
    constexpr int N = at_once<X, D>;
    const lisa__share<N> any = share_of<N>(op, p);
    const size_t first = blockIdx.x * round_of(p), team = first + threadIdx.x / p.teams.size;
    float *memory = p.parts + team * p.part_floats;
    const bool one_tile = p.teams.tiles == 1;
    part<N> sums;
    sums.clear();
    for (size_t base = first; base < p.vectors; base += gridDim.x * round_of(p)) {
        const place at = place_of(op, p, base);
        const lisa__share<N> share = share_at<N>(op, p, at);
        const statistics s = get_statistics(op, p, at);
        returning<N> r;
        float means[2] = {0.0f, 0.0f};
        for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
            r.template take<X, D>(share, op, p, at, s, tile, base == first);
            r.add_up(means);
            if (p.parts == nullptr)
                continue;
            if (!one_tile && base != first)
                sums.load(any, op, memory, tile);
            sums.add(r);
            if (!one_tile) {
                sums.store(any, op, memory, tile);
                sums.clear();
            }
        }
        lisa__team_sum(means, p.teams.size);
        means[0] = p.layer ? means[0] / op.cols : 0.0f;
        means[1] /= op.cols;
        for (uint32_t tile = 0; tile < p.teams.tiles; tile++) {
            if (!one_tile)
                r.template take<X, D>(share, op, p, at, s, tile, true);
            put_dx(r, share, op, at, s.rstd, means, tile);
        }
    }
    if (p.parts != nullptr && one_tile)
        sums.store(any, op, memory, 0);
}

/* ---- launches ---- */

bool is_named(lisa_typed x) {
    return x.data == nullptr || lisa__is_storage(x.dtype);
}

lisa_status check(lisa_backend *be, const lisa_norm *op) {
    if (op->kind != LISA_NORM_RMS && op->kind != LISA_NORM_LAYER)
        return lisa__cuda_refuse(be, "cuda: norm kind is neither RMS nor LAYER");
    if (!is_named(op->weight) || !is_named(op->bias))
        return lisa__cuda_refuse(be, "cuda: a norm's weight is none of f32, bf16, f16");
    if (op->cols > LISA_TEAM_COLUMNS)
        return lisa__cuda_refuse(be, "cuda: a norm of more than 2147483648 columns");
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

/* Vectors that a team takes one after the other, for which its weights move once: some, where there
 * are threads enough to fill a device all the same. */
uint64_t vectors_each(const plan &p) {
    const uint64_t enough = UINT32_C(1) << 16, some = p.vectors * p.teams.size / enough;
    return some < 1 ? 1 : some < 4 ? some : 4;
}

/* Whether n elements can move at once as far as x, the weight and `other` go. */
bool is_wide(const lisa_norm *op, lisa_typed other, size_t ld_other, int n) {
    return lisa__is_aligned(op->x.data) && lisa__is_aligned(op->weight.data) &&
           lisa__is_aligned(other.data) && op->cols % n == 0 && op->ldx % n == 0 &&
           ld_other % n == 0;
}

template <class X, class Y>
lisa_status launch_forward(struct lisa__cuda *cuda, const lisa_norm *op) {
    const plan p = plan_of(op);
    const uint64_t blocks = lisa__blocks_for(p.vectors, teams_in_block(p) * vectors_each(p));
    if (blocks == 0)
        return LISA_OK;
    LISA_LAUNCH((forward_kernel<X, Y>), lisa__grid(blocks), p.teams.block, 0, cuda->stream, *op, p);
    return lisa__cuda_launched(&cuda->base, "norm_forward");
}

template <class X, class Y> lisa_status forward(struct lisa__cuda *cuda, const lisa_norm *op) {
    const bool wide = is_wide(op, op->y, op->ldy, at_once<X, Y>) &&
                      lisa__is_aligned(op->bias.data) && lisa__is_aligned(op->copy);
    return wide ? launch_forward<X, Y>(cuda, op) : launch_forward<void, void>(cuda, op);
}

/* Teams sum up the vectors that they come by: some each, and no more teams than scratch holds the
 * parts of. Returns the blocks. */
uint32_t divide(plan *p, const lisa_norm *op, float *scratch) {
    p->part_floats = op->cols * ((op->dweight != nullptr) + (op->dbias != nullptr));
    if (p->part_floats == 0)
        return lisa__grid(lisa__blocks_for(p->vectors, teams_in_block(*p) * vectors_each(*p)));
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

template <class X, class D>
lisa_status launch_backward(struct lisa__cuda *cuda, const lisa_norm *op) {
    plan p = plan_of(op);
    const uint32_t blocks = divide(&p, op, cuda->scratch);
    if (blocks == 0)
        return LISA_OK;
    p.holds = p.teams.tiles == 1 && p.vectors > static_cast<uint64_t>(blocks) * teams_in_block(p);
    const size_t held = p.holds ? p.teams.block * LISA_TEAM_ELEMENTS * sizeof(float) : 0;
    LISA_LAUNCH((backward_kernel<X, D>), blocks, p.teams.block, held, cuda->stream, *op, p);
    LISA_TRY(lisa__cuda_launched(&cuda->base, "norm_backward"));
    return add_parts(cuda, op, p, blocks * teams_in_block(p));
}

template <class X, class D> lisa_status backward(struct lisa__cuda *cuda, const lisa_norm *op) {
    const bool wide = is_wide(op, op->dy, op->lddy, at_once<X, D>) &&
                      lisa__is_aligned(op->dx.data) && lisa__is_aligned(op->operand.data) &&
                      op->lddx % at_once<X, D> == 0;
    return wide ? launch_backward<X, D>(cuda, op) : launch_backward<void, void>(cuda, op);
}

} // namespace

lisa_status lisa__cuda_norm_forward(lisa_backend *be, const lisa_norm *op) {
    LISA_TRY(check(be, op));
    return lisa__with_types(
        be, op->x.dtype, op->y.dtype,
        "cuda: norm_forward: x or y is none of f32, bf16, f16, or they are of "
        "two 16-bit types",
        [=](auto x, auto y) { return forward<decltype(x), decltype(y)>(lisa__cuda_of(be), op); });
}

lisa_status lisa__cuda_norm_backward(lisa_backend *be, const lisa_norm *op) {
    LISA_TRY(check(be, op));
    if (!is_named(op->dx) || !is_named(op->operand))
        return lisa__cuda_refuse(be, "cuda: norm_backward: dx is none of f32, bf16, f16");
    if (op->cols > LISA_CUDA_SCRATCH / 2)
        return lisa__cuda_refuse(be, "cuda: norm_backward: more than 524288 columns");
    return lisa__with_types(be, op->x.dtype, op->dy.dtype,
                            "cuda: norm_backward: x or dy is none of f32, bf16, f16, or they are "
                            "of two 16-bit types",
                            [=](auto x, auto dy) {
                                return backward<decltype(x), decltype(dy)>(lisa__cuda_of(be), op);
                            });
}

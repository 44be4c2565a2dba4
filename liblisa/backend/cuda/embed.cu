/* An embedding's gradient: the rows of one token are added to its row of the table in ascending
 * order, which fixes every bit. First each row learns which one of the same token is the next, then
 * the first of each token follows that chain. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"

namespace {

/* Rows that are chained at once: two numbers of each fit in scratch. */
constexpr uint32_t CHAINED = LISA_CUDA_SCRATCH / 2;

struct chains {
    const int32_t *index;
    uint32_t rows;
    uint32_t *next;  /* [rows], `rows` where there is none */
    uint32_t *later; /* [rows], 1: some row's next */
};

/* A warp for each row looks at those behind it, which its block fetches for all its warps. */
__global__ void chain_kernel(chains c) {
    __shared__ int32_t tokens[LISA_BLOCK];
    const uint32_t first = blockIdx.x * (LISA_BLOCK / 32), lane = threadIdx.x % 32;
    const uint32_t row = first + threadIdx.x / 32;
    const int32_t token = row < c.rows ? c.index[row] : -1;
    uint32_t next = c.rows;
    for (uint32_t from = first; from < c.rows; from += LISA_BLOCK) {
        tokens[threadIdx.x] = from + threadIdx.x < c.rows ? c.index[from + threadIdx.x] : -1;
        __syncthreads();
        for (uint32_t i = 0; i < LISA_BLOCK && next == c.rows; i += 32) {
            const bool is_same = from + i + lane > row && tokens[i + lane] == token;
            const uint32_t same = __ballot_sync(0xFFFFFFFFu, is_same);
            if (same != 0)
                next = from + i + __ffs(static_cast<int>(same)) - 1;
        }
        if (__syncthreads_and(next != c.rows) != 0)
            break;
    }
    if (lane != 0 || row >= c.rows)
        return;
    c.next[row] = next;
    if (next < c.rows)
        c.later[next] = 1;
}

constexpr int N = 4;     /* columns by one request */
constexpr int RUNS = 2;  /* of them that a thread has */
constexpr int AHEAD = 4; /* rows of a chain that are on their way at once */
constexpr uint32_t BLOCK = 128;

/* A thread's columns of a row: N from `first` on, N more a block's width behind, and so on. */
struct columns {
    size_t first;
    uint32_t cols;
    bool wide;

    __device__ __forceinline__ size_t place(int run) const {
        return first + run * BLOCK * N;
    }
    __device__ __forceinline__ void read(float (&x)[RUNS][N], const float *row) const {
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++)
            lisa__read(x[r], row + place(r), place(r) < cols ? cols - place(r) : 0, wide);
    }
    __device__ __forceinline__ void write(float *row, const float (&x)[RUNS][N]) const {
        LISA_UNROLL
        for (int r = 0; r < RUNS; r++)
            lisa__write(row + place(r), x[r], place(r) < cols ? cols - place(r) : 0, wide);
    }
};

__device__ __forceinline__ void add(float (&sum)[RUNS][N], const float (&x)[RUNS][N]) {
    LISA_UNROLL
    for (int r = 0; r < RUNS; r++)
        LISA_UNROLL
    for (int i = 0; i < N; i++)
        sum[r][i] += x[r][i];
}

/* A block for a row and some of its columns. */
__global__ void add_kernel(chains c, const float *dout, float *dtable, uint32_t cols, bool wide) {
    const columns of = {(static_cast<size_t>(blockIdx.y) * RUNS * BLOCK + threadIdx.x) * N, cols,
                        wide};
    if (of.first >= cols || c.later[blockIdx.x] != 0)
        return;
    float *to = dtable + static_cast<size_t>(c.index[blockIdx.x]) * cols;
    float sum[RUNS][N];
    of.read(sum, to);
    for (uint32_t row = blockIdx.x; row < c.rows;) {
        float rows[AHEAD][RUNS][N];
        uint32_t n = 0;
        LISA_UNROLL
        for (int k = 0; k < AHEAD; k++) {
            if (row >= c.rows)
                continue;
            of.read(rows[k], dout + static_cast<size_t>(row) * cols);
            row = c.next[row];
            n++;
        }
        LISA_UNROLL
        for (uint32_t k = 0; k < AHEAD; k++)
            if (k < n)
                add(sum, rows[k]);
    }
    of.write(to, sum);
}

lisa_status add_rows(struct lisa__cuda *cuda, const lisa_embed *op, uint32_t first) {
    const uint32_t left = op->rows - first, rows = left < CHAINED ? left : CHAINED;
    const float *dout =
        static_cast<const float *>(op->dout) + static_cast<size_t>(first) * op->cols;
    float *dtable = static_cast<float *>(op->dtable);
    uint32_t *numbers = reinterpret_cast<uint32_t *>(cuda->scratch);
    const chains c = {op->index + first, rows, numbers, numbers + CHAINED};
    const bool wide = lisa__is_aligned(op->dout) && lisa__is_aligned(dtable) && op->cols % N == 0;
    const cudaError_t error = cudaMemsetAsync(c.later, 0, rows * sizeof *c.later, cuda->stream);
    if (error != cudaSuccess)
        return lisa__cuda_fail(&cuda->base, error, "embed_backward");
    LISA_LAUNCH(chain_kernel, static_cast<uint32_t>(lisa__blocks_for(rows, LISA_BLOCK / 32)),
                LISA_BLOCK, 0, cuda->stream, c);
    LISA_TRY(lisa__cuda_launched(&cuda->base, "embed_backward"));
    const dim3 grid(rows, static_cast<uint32_t>(lisa__blocks_for(op->cols, RUNS * BLOCK * N)));
    LISA_LAUNCH(add_kernel, grid, BLOCK, 0, cuda->stream, c, dout, dtable, op->cols, wide);
    return lisa__cuda_launched(&cuda->base, "embed_backward");
}

} // namespace

lisa_status lisa__cuda_embed_backward(lisa_backend *be, const lisa_embed *op) {
    if (op->cols > 65535 * RUNS * BLOCK * N)
        return lisa__cuda_refuse(be, "cuda: embed_backward: more than 67107840 columns");
    if (op->cols == 0)
        return LISA_OK;
    for (uint64_t first = 0; first < op->rows; first += CHAINED)
        LISA_TRY(add_rows(lisa__cuda_of(be), op, static_cast<uint32_t>(first)));
    return LISA_OK;
}

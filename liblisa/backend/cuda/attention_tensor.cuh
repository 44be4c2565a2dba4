/* attention_tensor.cuh - tiles in shared memory and fragments in registers, for attention on
 * tensor cores.
 *
 * A block has 4 warps and a tile of M * 64 rows (queries, or keys where their gradients are made),
 * of which 16 in each 64 are a warp's. Of an accumulator x[m][n][4], the thread of lane
 * 4 group + pair has in x[m][n][2 i + j] row 64 m + 16 warp + group + 8 i, column 8 n + 2 pair + j.
 */
#ifndef LISA_BACKEND_CUDA_ATTENTION_TENSOR_CUH
#define LISA_BACKEND_CUDA_ATTENTION_TENSOR_CUH

#include "backend/cuda/attention.cuh"

#include <math.h>
#include <string.h>

namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;
constexpr int kWarpRows = 16;
constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

/* Blocks that a multiprocessor is to have at a time. On every device since compute capability 8.0
 * there is room for two: 255 registers for each thread and, of the smallest shared memory (100 KiB,
 * of which each block costs 1 KiB), 49 KiB. Two blocks of 4 warps, each with many independent
 * products, keep the tensor cores busier than more blocks whose warps share less of what they read
 * from shared memory. */
constexpr int kBlocks = 2;

/* The 8 rows that ldmatrix reads at a time should lie in different banks. Where a row is a multiple
 * of 128 bytes, its pieces of 16 bytes trade places for that, piece p of row r with p ^ (r % 8);
 * else rows lie a piece further apart than they are long. */
template <int D> constexpr bool kTraded = D % 64 == 0;
template <int D> constexpr int kPitch = kTraded<D> ? D : D + 8;
template <int D, int ROWS> constexpr int kTileSize = ROWS *kPitch<D>;

template <int D> __device__ __forceinline__ int tile_place(int row, int column) {
    if (kTraded<D>)
        column ^= row % 8 * 8;
    return row * kPitch<D> + column;
}

__device__ __forceinline__ int lane() {
    return static_cast<int>(threadIdx.x % 32);
}

__device__ __forceinline__ int warp_row(int m) {
    return m * kRows + static_cast<int>(threadIdx.x / 32) * kWarpRows;
}

/* Of an accumulator's element [m][.][e] and [.][n][e]. */
__device__ __forceinline__ int row_of(int m, int e) {
    return warp_row(m) + lane() / 4 + e / 2 * 8;
}

__device__ __forceinline__ int column_of(int n, int e) {
    return 8 * n + lane() % 4 * 2 + e % 2;
}

__device__ __forceinline__ void multiply_fragments(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2], __nv_bfloat16) {
    lisa_mma_bf16(c, a, b);
}

__device__ __forceinline__ void multiply_fragments(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2], __half) {
    lisa_mma_f16(c, a, b);
}

/* b: two fragments side by side. */
template <class T>
__device__ __forceinline__ void multiply_pair(float (&c0)[4], float (&c1)[4],
                                              const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
    multiply_fragments(c0, a, b0, T());
    multiply_fragments(c1, a, b1, T());
}

/* Two neighbours of a row. */
__device__ __forceinline__ uint32_t pack(float low, float high, __nv_bfloat16) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}

__device__ __forceinline__ uint32_t pack(float low, float high, __half) {
    const __half2 both = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}

/* A tile from row `row` of x on, on its way; zeros behind the last row. */
template <int D, int ROWS, class T>
__device__ __forceinline__ void load_tile(T *tile, const lisa__head_rows<const T> &x, int row) {
    constexpr int kPieces = D / 8; /* of 16 bytes, in a row */
    LISA_UNROLL
    for (int piece = static_cast<int>(threadIdx.x); piece < ROWS * kPieces; piece += kThreads) {
        const int r = piece / kPieces, column = piece % kPieces * 8;
        const bool is_there = row + r < x.rows;
        const T *from = x.first + (is_there ? static_cast<size_t>(row + r) * x.ld + column : 0);
        lisa_copy_async16(tile + tile_place<D>(r, column), from, is_there);
    }
}

/* A[16,16] from row `row` and column `column` of a tile on. */
template <int D, class T>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const T *tile, int row, int column) {
    lisa_ldmatrix4(a, tile + tile_place<D>(row + lane() % 16, column + lane() / 16 * 8));
}

/* Two B[16,8] side by side, whose columns are the 16 rows of the tile from `row` on. */
template <int D, class T>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const T *tile, int row, int column) {
    const int r = row + lane() % 8 + lane() / 16 * 8;
    lisa_ldmatrix4(b, tile + tile_place<D>(r, column + lane() / 8 % 2 * 8));
}

/* Two B[16,8] side by side, as they lie in the tile. */
template <int D, class T>
__device__ __forceinline__ void load_b_as_it_lies(uint32_t (&b)[4], const T *tile, int row,
                                                  int column) {
    lisa_ldmatrix4_transposed(b, tile + tile_place<D>(row + lane() % 16, column + lane() / 16 * 8));
}

template <int M, int N> __device__ __forceinline__ void clear(float (&x)[M][N][4]) {
    LISA_UNROLL
    for (int m = 0; m < M; m++)
        LISA_UNROLL
    for (int n = 0; n < N; n++)
        LISA_UNROLL
    for (int e = 0; e < 4; e++)
        x[m][n][e] = 0.0f;
}

/* The products of the warp's rows of tile `a` with the N * 8 rows of tile `b`. */
template <int D, int M, int N, class T>
__device__ __forceinline__ void multiply_rows(float (&products)[M][N][4], const T *a, const T *b) {
    clear(products);
    LISA_UNROLL
    for (int d = 0; d < D; d += 16) {
        uint32_t rows[M][4];
        LISA_UNROLL
        for (int m = 0; m < M; m++)
            load_a<D>(rows[m], a, warp_row(m), d);
        LISA_UNROLL
        for (int n = 0; n < N; n += 2) {
            uint32_t columns[4];
            load_b<D>(columns, b, n * 8, d);
            LISA_UNROLL
            for (int m = 0; m < M; m++)
                multiply_pair<T>(products[m][n], products[m][n + 1], rows[m], columns);
        }
    }
}

/* sums += weights, rounded to T, times the N * 8 rows of a tile. */
template <int D, int M, int N, class T>
__device__ __forceinline__ void add_rows(float (&sums)[M][D / 8][4],
                                         const float (&weights)[M][N][4], const T *tile) {
    LISA_UNROLL
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4];
        LISA_UNROLL
        for (int m = 0; m < M; m++)
            LISA_UNROLL
        for (int i = 0; i < 4; i++) {
            const float(&from)[4] = weights[m][n + i / 2];
            a[m][i] = pack(from[i % 2 * 2], from[i % 2 * 2 + 1], T());
        }
        LISA_UNROLL
        for (int d = 0; d < D / 8; d += 2) {
            uint32_t rows[4];
            load_b_as_it_lies<D>(rows, tile, n * 8, d * 8);
            LISA_UNROLL
            for (int m = 0; m < M; m++)
                multiply_pair<T>(sums[m][d], sums[m][d + 1], a[m], rows);
        }
    }
}

/* Whether one of two elements is Inf or NaN. */
__device__ __forceinline__ bool spoilt(uint32_t pair, __nv_bfloat16) {
    return (pair & 0x7F80u) == 0x7F80u || (pair & 0x7F800000u) == 0x7F800000u;
}

__device__ __forceinline__ bool spoilt(uint32_t pair, __half) {
    return (pair & 0x7C00u) == 0x7C00u || (pair & 0x7C000000u) == 0x7C000000u;
}

/* A weight of 0 does not keep NaN or Inf out of a product. In a tile that not all see, pieces of
 * rows with such elements become 0, and marks[row] is NaN where there were some, else 0: it is
 * added to the scores of those that do see the row. Barriers before and after are the caller's. */
template <int D, int ROWS, class T> __device__ void set_apart(T *tile, float *marks) {
    constexpr int kSharers = kThreads / ROWS; /* of a row */
    const int row = static_cast<int>(threadIdx.x) / kSharers;
    const int share = static_cast<int>(threadIdx.x) % kSharers;
    int found = 0;
    for (int piece = share; piece < D / 8; piece += kSharers) {
        T *at = tile + tile_place<D>(row, piece * 8);
        const uint4 x = lisa_load16(at);
        if (spoilt(x.x, T()) || spoilt(x.y, T()) || spoilt(x.z, T()) || spoilt(x.w, T())) {
            lisa_store16(at, make_uint4(0, 0, 0, 0));
            found = 1;
        }
    }
    for (int step = 1; step < kSharers; step *= 2)
        found |= __shfl_xor_sync(0xffffffffu, found, step);
    if (share == 0)
        marks[row] = found ? NAN : 0.0f;
}

/* The warp's rows times factors[m][i] for the i-th 8 of them, by way of the tile `stage`, whose
 * rows of this warp nobody else uses: memory gets whole rows. */
template <int D, int M, class T>
__device__ __forceinline__ void store_rows(const float (&x)[M][D / 8][4],
                                           const float (&factors)[M][2], T *stage,
                                           const lisa__head_rows<T> &to, int first_row) {
    constexpr int kPieces = D / 8;
    __syncwarp();
    LISA_UNROLL
    for (int m = 0; m < M; m++)
        LISA_UNROLL
    for (int n = 0; n < D / 8; n++)
        LISA_UNROLL
    for (int e = 0; e < 4; e += 2) {
        const float factor = factors[m][e / 2];
        const uint32_t both = pack(x[m][n][e] * factor, x[m][n][e + 1] * factor, T());
        memcpy(stage + tile_place<D>(row_of(m, e), column_of(n, e)), &both, sizeof both);
    }
    __syncwarp();
    for (int m = 0; m < M; m++)
        for (int piece = lane(); piece < kWarpRows * kPieces; piece += 32) {
            const int row = warp_row(m) + piece / kPieces, column = piece % kPieces * 8;
            if (first_row + row < to.rows)
                lisa_store16(to.first + static_cast<size_t>(first_row + row) * to.ld + column,
                             lisa_load16(stage + tile_place<D>(row, column)));
        }
}

/* Lets a kernel have its shared memory, and counts its blocks: one for each `rows` rows. */
template <class Kernel>
lisa_status prepare(struct lisa__cuda *cuda, Kernel kernel, const lisa__attention_job *job,
                    uint32_t rows, bool by_key_head, size_t shared_bytes, uint32_t *blocks) {
    LISA_TRY(lisa__attention_grid(cuda, job, lisa__blocks_for(job->op.n_queries, rows), by_key_head,
                                  blocks));
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    return error == cudaSuccess ? LISA_OK : lisa__cuda_fail(&cuda->base, error, "attention");
}

/* function<T, D>(...) for the operation's type and head_dim. */
#define LISA_ATTENTION_DISPATCH(op, function, ...)                                                 \
    ((op).dtype == LISA_DTYPE_BF16                                                                 \
         ? ((op).head_dim == 64   ? function<__nv_bfloat16, 64>(__VA_ARGS__)                       \
            : (op).head_dim == 80 ? function<__nv_bfloat16, 80>(__VA_ARGS__)                       \
                                  : function<__nv_bfloat16, 128>(__VA_ARGS__))                     \
         : ((op).head_dim == 64   ? function<__half, 64>(__VA_ARGS__)                              \
            : (op).head_dim == 80 ? function<__half, 80>(__VA_ARGS__)                              \
                                  : function<__half, 128>(__VA_ARGS__)))

} // namespace

#endif

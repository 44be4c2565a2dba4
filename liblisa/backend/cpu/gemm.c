#include "backend/cpu/ops.h"
#include "core/error.h"

#include <math.h>

/* Rows of A up to which a product with a transposed B (a matrix of weights) reads the weights once,
 * row by row, rather than packing them for sgemm: generation is one row. */
#define FEW_ROWS 4

/* Larger products are cut to WANTED_TILES at least, for machines of many processors, if the tiles
 * are then still worth a task (TILE_FLOPS) and not mostly packing of their rows of A and columns of
 * B (TILE_AREA). 16 tiles cost 5 to 10 % against one product for each of two threads. */
#define WANTED_TILES 16.0
#define TILE_FLOPS 6.0e7
#define TILE_AREA 2.0e4

struct product {
    const struct lisa__cpu *cpu;
    const lisa_gemm *op;
    uint32_t tile_m, tile_n, n_rows; /* of tiles, n_rows of them below each other */
};

static uint32_t round_up(uint32_t x, uint32_t unit) {
    return (x + unit - 1) / unit * unit;
}

static uint32_t ceil_div(uint32_t a, uint32_t b) {
    return (uint32_t)lisa__ceil_div(a, b);
}

static uint32_t wanted_tiles(const lisa_gemm *op) {
    const double area = (double)op->m * op->n;
    return 1 + (uint32_t)fmin(WANTED_TILES - 1.0,
                              fmin(2.0 * area * op->k / TILE_FLOPS, area / TILE_AREA));
}

/* The tiles that pack the least, of those that are enough in number. They depend on m, n and k
 * alone. Returns their number. */
static uint32_t choose_tiles(struct product *p) {
    const lisa_gemm *op = p->op;
    const uint32_t wanted = wanted_tiles(op);
    const uint32_t least_rows = ceil_div(op->m, LISA_BLAS_MAX_M);
    const uint32_t least_columns = ceil_div(op->n, LISA_BLAS_MAX_N);
    double least = INFINITY;
    for (uint32_t rows = least_rows; rows <= least_rows + wanted; rows++) {
        uint32_t columns = ceil_div(wanted, rows);
        columns = columns > least_columns ? columns : least_columns;
        double packed = (double)columns * op->m + (double)rows * op->n;
        if (packed < least) {
            least = packed;
            p->tile_m = round_up(ceil_div(op->m, rows), 16);
            p->tile_n = round_up(ceil_div(op->n, columns), 16);
        }
    }
    p->n_rows = ceil_div(op->m, p->tile_m);
    return p->n_rows * ceil_div(op->n, p->tile_n);
}

/* Points part's B at block [k0, k0 + part->k) x [j0, j0 + part->n), as floats. */
static void take_b(const struct product *p, struct lisa__sgemm *part, uint32_t j0, uint32_t k0,
                   float *scratch) {
    const lisa_gemm *op = p->op;
    size_t row = op->trans_b ? j0 : k0, column = op->trans_b ? k0 : j0;
    size_t n_rows = op->trans_b ? part->n : part->k, n_columns = op->trans_b ? part->k : part->n;
    lisa_typed b = lisa__typed_at(op->b, row * op->ldb + column);
    part->b = b.data;
    part->ldb = op->ldb;
    if (b.dtype == LISA_DTYPE_F32)
        return;
    part->b = scratch;
    part->ldb = n_columns;
    for (size_t i = 0; i < n_rows; i++)
        p->cpu->vector->widen(scratch + i * n_columns, lisa__typed_at(b, i * op->ldb).data, b.dtype,
                              n_columns);
}

/* The tile's sum over k in blocks, so that a block of a 16-bit B, widened, is no larger than the
 * scratch; a B of floats has the same blocks and so gives the same bits. */
static void sum_blocks(const struct product *p, struct lisa__sgemm *part, uint32_t i0, uint32_t j0,
                       uint32_t thread) {
    const lisa_gemm *op = p->op;
    const float *a = op->a;
    /* Blocks begin at multiples of 16, so one may be longer than the mean by as much. */
    const uint32_t most = (uint32_t)(LISA_CPU_SCRATCH / p->tile_n) - 16;
    const uint32_t n_blocks = op->k > 0 ? ceil_div(op->k, most) : 1;
    for (uint32_t l = 0; l < n_blocks; l++) {
        uint32_t k0 = (uint32_t)((uint64_t)op->k * l / n_blocks / 16 * 16);
        uint32_t k1 = (uint32_t)((uint64_t)op->k * (l + 1) / n_blocks / 16 * 16);
        part->k = (l + 1 < n_blocks ? k1 : op->k) - k0;
        part->beta = l == 0 ? (float)op->beta : 1.0f;
        part->a = a + (op->trans_a ? k0 * op->lda + i0 : i0 * op->lda + k0);
        take_b(p, part, j0, k0, lisa__cpu_scratch(p->cpu, thread));
        lisa__sgemm(lisa__cpu_blas_buffer(p->cpu, thread), part);
    }
}

/* Tiles are numbered down the columns, whose tiles share their part of B. */
static void tile_task(void *arg, uint32_t i, uint32_t thread) {
    const struct product *p = arg;
    const lisa_gemm *op = p->op;
    uint32_t i0 = i % p->n_rows * p->tile_m, j0 = i / p->n_rows * p->tile_n;
    struct lisa__sgemm part = {
        .m = (uint32_t)lisa__min(p->tile_m, op->m - i0),
        .n = (uint32_t)lisa__min(p->tile_n, op->n - j0),
        .trans_a = op->trans_a,
        .trans_b = op->trans_b,
        .alpha = (float)op->alpha,
        .c = (float *)op->c + i0 * op->ldc + j0,
        .lda = op->lda,
        .ldc = op->ldc,
    };
    sum_blocks(p, &part, i0, j0, thread);
}

/* Columns [from, to) of a product of few rows. */
static void dots_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_gemm *op = all->op;
    const float alpha = (float)op->alpha, beta = (float)op->beta;
    for (size_t j = from; j < to; j++) {
        const void *weights = lisa__typed_at(op->b, j * op->ldb).data;
        for (size_t i = 0; i < op->m; i++) {
            const float *a = (const float *)op->a + i * op->lda;
            float *c = (float *)op->c + i * op->ldc + j;
            float product = alpha * all->cpu->vector->dot(a, weights, op->b.dtype, op->k);
            *c = beta == 0.0f ? product : beta * *c + product;
        }
    }
}

static lisa_status check_gemm(lisa_backend *be, const lisa_gemm *op) {
    LISA_TRY(lisa__cpu_check_dtype(be, op->b));
    if (op->lda > INT32_MAX || op->ldb > INT32_MAX || op->ldc > INT32_MAX)
        return lisa__cpu_refuse(be, "cpu: a matrix's rows are more than 2^31 elements apart");
    return LISA_OK;
}

lisa_status lisa__cpu_gemm(lisa_backend *be, const lisa_gemm *op) {
    LISA_TRY(check_gemm(be, op));
    if (op->m == 0 || op->n == 0)
        return LISA_OK;
    struct lisa__cpu *cpu = lisa__cpu_of(be);
    if (op->m <= FEW_ROWS && !op->trans_a && op->trans_b) {
        lisa__cpu_in_pieces(cpu, op, op->n, lisa__cpu_rows(op->k), dots_piece);
        return LISA_OK;
    }
    struct product p = {.cpu = cpu, .op = op};
    uint32_t n_tiles = choose_tiles(&p);
    be->host->parallel(be->host->self, n_tiles, tile_task, &p);
    return LISA_OK;
}

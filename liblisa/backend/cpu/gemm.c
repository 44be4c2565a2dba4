#include "backend/cpu/ops.h"
#include "core/error.h"

#include <math.h>

/* Rows of A up to which a product with a transposed B (a matrix of weights) reads the weights once,
 * row by row, rather than packing them for sgemm: generation is one row. */
#define FEW_ROWS 4

/* Larger products are cut into an even number of tiles, each one call on one thread. Every tile
 * packs its rows of A and its columns of B anew, and widens the latter, so few tiles are fast and
 * many keep many processors busy: 4 tiles for each thread of two cost 5 to 10 % against one. A tile
 * should therefore be worth TILE_FLOPS and have TILE_AREA elements of C; but from PAIR_FLOPS on,
 * which are some 20 us, a product has two: of the skinny products of an adapter no more can be
 * asked. */
#define MOST_TILES 16.0
#define TILE_FLOPS 2.3e8
#define TILE_AREA 1.5e5
#define PAIR_FLOPS 2.0e6

/* Where C is small and the sum long (the gradient of what the head read: a vocabulary long), parts
 * of the sum are tasks instead, of the largest tiles: all but the first go to memory of their own
 * and are added in the end, in order. */
#define SPLIT_PARTS 4
#define SPLIT_LENGTH 2048 /* of a part at least: adding costs less than 1 % */

/* To pack an element of A takes that of B times so much; the former lies in shorter rows. */
#define COST_OF_A 1.5

#define LEAST_COLUMNS 320 /* of a tile that is made narrower to have all of k in one block */

/* Tiles begin at multiples of so many rows and columns. */
#define UNIT 16

struct product {
    const struct lisa__cpu *cpu;
    const lisa_gemm *op;
    uint32_t n_rows, n_columns; /* of tiles */
    uint32_t n_parts;           /* of the sum over k */
};

static uint32_t ceil_div(uint32_t a, uint32_t b) {
    return (uint32_t)lisa__ceil_div(a, b);
}

/* Where part i of n begins, of parts of [0, length) that differ by a unit at most. */
static uint32_t part_begin(uint32_t length, uint32_t i, uint32_t n) {
    const uint64_t units = ceil_div(length, UNIT);
    return (uint32_t)lisa__min(length, units * i / n * UNIT);
}

static uint32_t longest_part(uint32_t length, uint32_t n) {
    return ceil_div(ceil_div(length, UNIT), n) * UNIT;
}

/* 1, or an even number. */
static uint32_t wanted_tiles(const lisa_gemm *op) {
    const double area = (double)op->m * op->n, flops = 2.0 * area * op->k;
    if (flops < PAIR_FLOPS)
        return 1;
    const double tiles = fmin(MOST_TILES, fmin(flops / TILE_FLOPS, area / TILE_AREA));
    return 2 * (uint32_t)fmax(1.0, ceil(tiles / 2));
}

/* The least number of parts, `least` or more, of which `rows` rows make an even number of tiles. */
static uint32_t columns_for(uint32_t rows, uint32_t wanted, uint32_t least) {
    const uint32_t columns = (uint32_t)fmax(least, ceil_div(wanted, rows));
    return columns + (wanted > 1 && rows * columns % 2 != 0);
}

/* Tiles of fewer columns where there are many anyway, if then whole rows of a transposed B fit into
 * the scratch: a wide model's head, whose weights come from memory and are widened once. */
static uint32_t fewest_columns(const lisa_gemm *op) {
    const uint32_t fewest = ceil_div(op->n, LISA_BLAS_MAX_N);
    const uint32_t whole = (uint32_t)(LISA_CPU_SCRATCH / ((size_t)op->k + UNIT) / UNIT * UNIT);
    if (!op->trans_b || fewest < MOST_TILES || whole < LEAST_COLUMNS || whole > LISA_BLAS_MAX_N)
        return fewest;
    return ceil_div(op->n, whole);
}

/* In how many parts the sum over k is, where the fewest tiles are `tiles`. */
static uint32_t parts_of_sum(const lisa_gemm *op, uint32_t tiles) {
    const size_t area = (size_t)op->m * op->n;
    const int is_long = op->k >= SPLIT_PARTS * SPLIT_LENGTH &&
                        2.0 * (double)area * op->k >= SPLIT_PARTS * PAIR_FLOPS;
    const int fits = (SPLIT_PARTS - 1) * area <= LISA_CPU_PARTIALS;
    return is_long && fits && tiles <= 2 ? SPLIT_PARTS : 1;
}

/* The tiles that pack the least, of those that are enough in number. They depend on the shape
 * alone. */
static void choose_tiles(struct product *p) {
    const lisa_gemm *op = p->op;
    const uint32_t wanted = wanted_tiles(op);
    const uint32_t row_units = ceil_div(op->m, UNIT), column_units = ceil_div(op->n, UNIT);
    const uint32_t least_rows = ceil_div(op->m, LISA_BLAS_MAX_M);
    const uint32_t least_columns = fewest_columns(op);
    double least = INFINITY;
    p->n_rows = least_rows;
    p->n_columns = least_columns;
    p->n_parts = parts_of_sum(op, least_rows * least_columns);
    if (p->n_parts > 1)
        return;
    for (uint32_t rows = least_rows; rows <= least_rows + wanted && rows <= row_units; rows++) {
        uint32_t columns = columns_for(rows, wanted, least_columns);
        double packed = COST_OF_A * columns * op->m + (double)rows * op->n;
        if (columns <= column_units && packed < least) {
            least = packed;
            p->n_rows = rows;
            p->n_columns = columns;
        }
    }
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

/* What a task computes: op(A)'s rows from i0, op(B)'s columns from j0, k from k0 to k1. */
struct tile {
    uint32_t i0, j0, k0, k1;
};

/* The tile's sum over k in blocks, so that a block of a 16-bit B, widened, is no larger than the
 * scratch; a B of floats has the same blocks and so gives the same bits. `part`: all but A, B, k.
 */
static void sum_blocks(const struct product *p, const struct tile *t, struct lisa__sgemm *part,
                       uint32_t thread) {
    const lisa_gemm *op = p->op;
    const float *a = op->a.data, beta = part->beta;
    /* Blocks begin at multiples of a unit, so one may be longer than the mean by as much. */
    const uint32_t most = (uint32_t)(LISA_CPU_SCRATCH / longest_part(op->n, p->n_columns)) - UNIT;
    const uint32_t length = t->k1 - t->k0, n_blocks = length > 0 ? ceil_div(length, most) : 1;
    for (uint32_t l = 0; l < n_blocks; l++) {
        const uint32_t begin = part_begin(length, l, n_blocks), k0 = t->k0 + begin;
        part->k = part_begin(length, l + 1, n_blocks) - begin;
        part->beta = l == 0 ? beta : 1.0f;
        part->a = a + (op->trans_a ? k0 * op->lda + t->i0 : t->i0 * op->lda + k0);
        take_b(p, part, t->j0, k0, lisa__cpu_scratch(p->cpu, thread));
        lisa__sgemm(lisa__cpu_blas_buffer(p->cpu, thread), part);
    }
}

/* Part `part` of the sum, 1 or more, as a matrix of n columns. */
static float *partial_sum(const struct product *p, uint32_t part) {
    return lisa__cpu_partials(p->cpu) + (size_t)(part - 1) * p->op->m * p->op->n;
}

/* Tiles are numbered down the columns, whose tiles share their part of B. */
static void tile_task(void *arg, uint32_t i, uint32_t thread) {
    const struct product *p = arg;
    const lisa_gemm *op = p->op;
    const uint32_t row = i % p->n_rows, column = i / p->n_rows % p->n_columns;
    const uint32_t part = i / p->n_rows / p->n_columns;
    const struct tile t = {
        .i0 = part_begin(op->m, row, p->n_rows),
        .j0 = part_begin(op->n, column, p->n_columns),
        .k0 = part_begin(op->k, part, p->n_parts),
        .k1 = part_begin(op->k, part + 1, p->n_parts),
    };
    float *c = part == 0 ? op->c.data : partial_sum(p, part);
    const size_t ldc = part == 0 ? op->ldc : op->n;
    struct lisa__sgemm product = {
        .m = part_begin(op->m, row + 1, p->n_rows) - t.i0,
        .n = part_begin(op->n, column + 1, p->n_columns) - t.j0,
        .trans_a = op->trans_a,
        .trans_b = op->trans_b,
        .alpha = (float)op->alpha,
        .beta = part == 0 ? (float)op->beta : 0.0f,
        .c = c + t.i0 * ldc + t.j0,
        .lda = op->lda,
        .ldc = ldc,
    };
    sum_blocks(p, &t, &product, thread);
}

/* Adds the other parts of the sum to rows [from, to) of C. */
static void add_parts(const struct lisa__pieces *all, size_t from, size_t to) {
    const struct product *p = all->op;
    const lisa_gemm *op = p->op;
    for (uint32_t part = 1; part < p->n_parts; part++)
        for (size_t i = from; i < to; i++) {
            const float *restrict more = partial_sum(p, part) + i * op->n;
            float *restrict c = (float *)op->c.data + i * op->ldc;
            for (size_t j = 0; j < op->n; j++)
                c[j] += more[j];
        }
}

/* Columns [from, to) of a product of few rows. */
static void dots_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_gemm *op = all->op;
    const float alpha = (float)op->alpha, beta = (float)op->beta;
    for (size_t j = from; j < to; j++) {
        const void *weights = lisa__typed_at(op->b, j * op->ldb).data;
        for (size_t i = 0; i < op->m; i++) {
            const float *a = (const float *)op->a.data + i * op->lda;
            float *c = (float *)op->c.data + i * op->ldc + j;
            float product = alpha * all->cpu->vector->dot(a, weights, op->b.dtype, op->k);
            *c = beta == 0.0f ? product : beta * *c + product;
        }
    }
}

static lisa_status check_gemm(lisa_backend *be, const lisa_gemm *op) {
    LISA_TRY(lisa__cpu_check_real(be, op->a.dtype));
    LISA_TRY(lisa__cpu_check_dtype(be, op->b));
    LISA_TRY(lisa__cpu_check_real(be, op->c.dtype));
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
    choose_tiles(&p);
    be->host->parallel(be->host->self, p.n_rows * p.n_columns * p.n_parts, tile_task, &p);
    if (p.n_parts > 1)
        lisa__cpu_in_pieces(cpu, &p, op->m, lisa__cpu_rows(op->n), add_parts);
    return LISA_OK;
}

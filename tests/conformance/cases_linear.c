/* cases_linear.c - products, biases, rows of tables. */
#include "conformance/harness.h"

CONF_CALL(gemm, lisa_gemm)
CONF_CALL(bias_forward, lisa_bias)
CONF_CALL(bias_backward, lisa_bias)
CONF_CALL(embed_forward, lisa_embed)
CONF_CALL(embed_backward, lisa_embed)
CONF_CALL(gather, lisa_rows)
CONF_CALL(scatter, lisa_rows)

typedef struct product {
    uint32_t m, n, k, pad;
} product;

/* element: C's. */
static void check_gemm_to(product p, uint32_t trans, uint32_t dtype, double alpha, double beta,
                          uint32_t element) {
    uint32_t trans_a = trans & 1, trans_b = trans >> 1;
    size_t rows_a = trans_a ? p.k : p.m, lda = (trans_a ? p.m : p.k) + p.pad;
    size_t rows_b = trans_b ? p.n : p.k, ldb = (trans_b ? p.k : p.n) + 2 * (size_t)p.pad;
    size_t ldc = p.n + 3 * (size_t)p.pad;
    lisa_gemm op = {.m = p.m,
                    .n = p.n,
                    .k = p.k,
                    .trans_a = trans_a,
                    .trans_b = trans_b,
                    .lda = lda,
                    .b.dtype = dtype,
                    .ldb = ldb,
                    .ldc = ldc,
                    .alpha = alpha,
                    .beta = beta};
    conf_case c;
    conf_begin(&c, call_gemm, &op, sizeof op, "gemm %ux%ux%u pad %u trans %u%u dtype %u %g %g", p.m,
               p.n, p.k, p.pad, trans_a, trans_b, dtype, alpha, beta);
    conf_in(&c, "A", offsetof(lisa_gemm, a), CONF_TYPED_OPERAND, conf_noise(rows_a * lda, 1.0),
            rows_a * lda);
    conf_in(&c, "B", offsetof(lisa_gemm, b.data), dtype,
            conf_typed_noise(dtype, rows_b * ldb, 0.5).data, rows_b * ldb);
    size_t n_c = p.m * ldc;
    conf_out(&c, "C", offsetof(lisa_gemm, c), element,
             beta == 0.0 ? conf_nans(n_c) : conf_noise(n_c, 1.0), p.m, p.n, ldc, BOUND_SUM(p.k));
    conf_run(&c);
}

static void check_gemm(product p, uint32_t trans, uint32_t dtype, double alpha, double beta) {
    check_gemm_to(p, trans, dtype, alpha, beta, CONF_TYPED_REAL);
    if (conf.operand != 0)
        check_gemm_to(p, trans, dtype, alpha, beta, CONF_TYPED_OPERAND);
}

START_TEST(gemm_shapes) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    static const product products[] = {{1, 1, 1, 0},      {1, 7, 5, 1},      {5, 1, 9, 0},
                                       {3, 4, 1, 2},      {17, 33, 65, 1},   {64, 64, 64, 0},
                                       {70, 131, 93, 3},  {1, 300, 129, 0},  {257, 9, 31, 0},
                                       {3, 300, 2100, 1}, {20, 40, 1200, 2}, {600, 19, 7, 1}};
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        for (uint32_t trans = 0; trans < 4; trans++) {
            check_gemm(products[i], trans, dtype, 1.0, 0.0);
            check_gemm(products[i], trans, dtype, 1.0, 1.0);
            check_gemm(products[i], trans, dtype, -0.5, 2.0);
        }
}
END_TEST

/* Such sums may be taken in parts. */
START_TEST(gemm_long_sums) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    static const product products[] = {{26, 35, 8801, 1}, {300, 3, 9000, 0}};
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        for (uint32_t trans = 0; trans < 4; trans++) {
            check_gemm(products[i], trans, dtype, 1.0, 0.0);
            check_gemm(products[i], trans, dtype, -0.5, 2.0);
        }
}
END_TEST

START_TEST(gemm_random_shapes) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    for (int i = 0; i < 24; i++) {
        product p = {1 + conf_below(90), 1 + conf_below(90), 1 + conf_below(300), conf_below(3)};
        check_gemm(p, conf_below(4), dtype, 1.0, (double)conf_below(2));
    }
}
END_TEST

START_TEST(gemm_of_nothing) {
    for (uint32_t trans = 0; trans < 4; trans++) {
        check_gemm((product){0, 5, 3, 1}, trans, LISA_DTYPE_F32, 1.0, 0.0);
        check_gemm((product){5, 0, 3, 1}, trans, LISA_DTYPE_F32, 1.0, 1.0);
        check_gemm((product){4, 3, 0, 1}, trans, LISA_DTYPE_F32, 1.0, 0.0);
        check_gemm((product){4, 3, 0, 1}, trans, LISA_DTYPE_F32, 1.0, 0.5);
        check_gemm((product){4, 3, 6, 1}, trans, LISA_DTYPE_F32, 0.0, 0.5);
    }
}
END_TEST

/* Enough work that any backend divides it: a sample against sums in double, and equal bits. */
START_TEST(gemm_large) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0 || !conf.large_products)
        return;
    enum { M = 1030, N = 1031, K = 515, SAMPLES = 500 };
    float *a = conf_noise((size_t)M * K, 1.0);
    lisa_typed b = conf_typed_noise(dtype, (size_t)N * K, 1.0);
    float *results[CONF_THREADS];
    for (uint32_t t = 0; t < CONF_THREADS; t++) {
        results[t] = conf_nans((size_t)M * N);
        lisa_gemm op = {.m = M,
                        .n = N,
                        .k = K,
                        .trans_b = 1,
                        .a = {a, LISA_DTYPE_F32},
                        .lda = K,
                        .b = b,
                        .ldb = K,
                        .c = {results[t], LISA_DTYPE_F32},
                        .ldc = N,
                        .alpha = 1.0};
        ck_assert_int_eq(conf.ops->gemm(conf.backends[t], &op), LISA_OK);
        ck_assert_mem_eq(results[0], results[t], sizeof(float) * M * N);
    }
    for (int s = 0; s < SAMPLES; s++) {
        size_t i = conf_below(M), j = conf_below(N);
        double sum = 0.0;
        for (size_t l = 0; l < K; l++)
            sum += a[i * K + l] * lisa__load(b.data, b.dtype, j * K + l);
        ck_assert_double_eq_tol(results[0][i * N + j], sum, BOUND_SUM(K) * sqrt(K));
    }
}
END_TEST

static void check_bias(uint32_t rows, uint32_t cols, uint32_t pad, uint32_t dtype) {
    size_t ld = cols + pad;
    lisa_bias op = {.rows = rows, .cols = cols, .ldy = ld, .bias.dtype = dtype};
    conf_case c;
    conf_begin(&c, call_bias_forward, &op, sizeof op, "bias_forward %ux%u dtype %u", rows, cols,
               dtype);
    conf_in(&c, "bias", offsetof(lisa_bias, bias.data), dtype,
            conf_typed_noise(dtype, cols, 1.0).data, cols);
    conf_out(&c, "y", offsetof(lisa_bias, y), CONF_TYPED_OPERAND, conf_noise(rows * ld, 1.0), rows,
             cols, ld, BOUND_ROUNDING);
    conf_run(&c);
    conf_begin(&c, call_bias_backward, &op, sizeof op, "bias_backward %ux%u", rows, cols);
    conf_in(&c, "dy", offsetof(lisa_bias, y), CONF_TYPED_OPERAND, conf_noise(rows * ld, 1.0),
            rows * ld);
    conf_out(&c, "dbias", offsetof(lisa_bias, dbias), CONF_REAL, conf_noise(cols, 1.0), 1, cols,
             cols, BOUND_SUM(rows));
    conf_run(&c);
}

START_TEST(bias) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    check_bias(1, 1, 0, dtype);
    check_bias(0, 5, 0, dtype);
    check_bias(300, 67, 5, dtype);
    check_bias(7, 1031, 0, dtype);
}
END_TEST

static int32_t *random_index(uint32_t n, uint32_t below) {
    int32_t *index = conf_take(n * sizeof *index);
    for (uint32_t i = 0; i < n; i++)
        index[i] = (int32_t)conf_below(below);
    return index;
}

static void check_embed(uint32_t rows, uint32_t cols, uint32_t table_rows, uint32_t dtype) {
    const int32_t *index = random_index(rows, table_rows);
    size_t n = (size_t)rows * cols, n_table = (size_t)table_rows * cols;
    conf_case c;
    for (uint32_t accumulate = 0; accumulate < 2; accumulate++) {
        lisa_embed op = {.rows = rows,
                         .cols = cols,
                         .table_rows = table_rows,
                         .table.dtype = dtype,
                         .accumulate = accumulate};
        conf_begin(&c, call_embed_forward, &op, sizeof op, "embed_forward %ux%u of %u dtype %u +%u",
                   rows, cols, table_rows, dtype, accumulate);
        conf_in(&c, "index", offsetof(lisa_embed, index), CONF_I32, index, rows);
        conf_in(&c, "table", offsetof(lisa_embed, table.data), dtype,
                conf_typed_noise(dtype, n_table, 1.0).data, n_table);
        conf_out(&c, "out", offsetof(lisa_embed, out), CONF_REAL,
                 accumulate ? conf_noise(n, 1.0) : conf_nans(n), rows, cols, cols, BOUND_ROUNDING);
        conf_run(&c);
    }
    lisa_embed op = {.rows = rows, .cols = cols, .table_rows = table_rows};
    conf_begin(&c, call_embed_backward, &op, sizeof op, "embed_backward %ux%u into %u", rows, cols,
               table_rows);
    conf_in(&c, "index", offsetof(lisa_embed, index), CONF_I32, index, rows);
    conf_in(&c, "dout", offsetof(lisa_embed, dout), CONF_REAL, conf_noise(n, 1.0), n);
    conf_out(&c, "dtable", offsetof(lisa_embed, dtable), CONF_REAL, conf_noise(n_table, 1.0),
             table_rows, cols, cols, 0.0);
    c.exact = 1; /* the order of additions is promised */
    conf_run(&c);
}

START_TEST(embed) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    check_embed(0, 3, 2, dtype);
    check_embed(1, 1, 1, dtype);
    check_embed(200, 67, 11, dtype);
    check_embed(9, 515, 1000, dtype);
}
END_TEST

/* Distinct places among twice as many rows. */
static int32_t *distinct_index(uint32_t n) {
    int32_t *index = conf_take(n * sizeof *index);
    for (uint32_t i = 0; i < n; i++)
        index[i] = (int32_t)(2 * ((i * 7u) % n) + conf_below(2));
    return index;
}

/* n is no multiple of 7. */
static void check_rows_of(uint32_t n, uint32_t cols, int with_operand) {
    const int32_t *index = distinct_index(n);
    size_t few = (size_t)n * cols, many = 2 * few;
    lisa_rows op = {.rows = n, .cols = cols};
    conf_case c;
    conf_begin(&c, call_gather, &op, sizeof op, "gather %ux%u", n, cols);
    conf_in(&c, "index", offsetof(lisa_rows, index), CONF_I32, index, n);
    conf_in(&c, "src", offsetof(lisa_rows, src), CONF_REAL, conf_noise(many, 1.0), many);
    conf_out(&c, "dst", offsetof(lisa_rows, dst), CONF_REAL, conf_nans(few), n, cols, cols, 0.0);
    c.exact = 1;
    conf_run(&c);
    conf_begin(&c, call_scatter, &op, sizeof op, "scatter %ux%u", n, cols);
    conf_in(&c, "index", offsetof(lisa_rows, index), CONF_I32, index, n);
    conf_in(&c, "src", offsetof(lisa_rows, src), CONF_REAL, conf_noise(few, 1.0), few);
    conf_out(&c, "dst", offsetof(lisa_rows, dst), CONF_REAL, conf_noise(many, 1.0), 2 * (size_t)n,
             cols, cols, 0.0);
    conf_out(&c, "operand", offsetof(lisa_rows, operand), CONF_TYPED_OPERAND,
             with_operand ? conf_noise(many, 1.0) : NULL, 2 * (size_t)n, cols, cols, 0.0);
    c.exact = 1;
    conf_run(&c);
}

START_TEST(rows_of_tables) {
    if (conf_use_dtype(_i) == 0)
        return;
    for (int with_operand = 0; with_operand < 2; with_operand++) {
        check_rows_of(0, 3, with_operand);
        check_rows_of(1, 1, with_operand);
        check_rows_of(13, 65, with_operand);
        check_rows_of(300, 129, with_operand);
        check_rows_of(17, 128, with_operand);
    }
}
END_TEST

TCase *conformance_linear(void) {
    TCase *tcase = tcase_create("linear");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, gemm_shapes, 0, CONF_DTYPES);
    tcase_add_loop_test(tcase, gemm_long_sums, 0, CONF_DTYPES);
    tcase_add_loop_test(tcase, gemm_random_shapes, 0, CONF_DTYPES);
    tcase_add_test(tcase, gemm_of_nothing);
    tcase_add_loop_test(tcase, gemm_large, 0, 2);
    tcase_add_loop_test(tcase, bias, 0, CONF_DTYPES);
    tcase_add_loop_test(tcase, embed, 0, CONF_DTYPES);
    tcase_add_loop_test(tcase, rows_of_tables, 0, CONF_DTYPES);
    return tcase;
}

/* Every backward operation of reference64 against central differences of its forward, in double.
 *
 * The scalar that is differentiated is sum(c * output) with random c, so that the backward's input
 * is c. With steps of 1e-5 a central difference of smooth functions of order 1 is off by about
 * 1e-10 (curvature) + 1e-11 (rounding); 1e-6 leaves room for steep places, and no error of a
 * formula. */
#include "backend/reference/reference.h"

#include "check_main.h"
#include "core/dtype.h"
#include "lisa/model.h"
#include "noise.h"
#include "test_host.h"

#include <math.h>
#include <string.h>

#define STEP 1e-5
#define BOUND 1e-6

static test_host host;
static lisa_backend *be;
static uint64_t seed;

static void setup(void) {
    test_host_init(&host, 1);
    be = test_host_start(&host, &lisa__backend_reference64);
    seed = 1;
}

static void teardown(void) {
    be->ops->stop(be);
    test_host_finish(&host);
}

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, host.text)

static double *zeros(size_t n) {
    return test_host_take(&host, n * sizeof(double));
}

static double *noise(size_t n) {
    double *x = zeros(n);
    noise_fill(x, n, 1.0, &seed);
    return x;
}

/* What an operation that writes must overwrite. */
static double *poison(size_t n) {
    double *x = zeros(n);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

static double *duplicate(const double *x, size_t n) {
    double *y = zeros(n);
    memcpy(y, x, n * sizeof *y);
    return y;
}

static lisa_typed f64(const double *x) {
    return (lisa_typed){(void *)(uintptr_t)x, LISA_DTYPE_F64};
}

static double inner(const double *a, const double *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

typedef double (*objective)(const void *problem);

/* A gradient that an operation claims, over a matrix x; `before` is what lay in its place when the
 * operation adds, else NULL. */
typedef struct claim {
    const char *name;
    double *x;
    const double *gradient, *before;
    size_t rows, cols, ldx, ldg;
} claim;

static double slope(objective f, const void *problem, double *x) {
    double at = *x;
    *x = at + STEP;
    double above = f(problem);
    *x = at - STEP;
    double below = f(problem);
    *x = at;
    return (above - below) / (2.0 * STEP);
}

static void check(objective f, const void *problem, claim k) {
    double worst = 0.0, largest = 0.0;
    for (size_t i = 0; i < k.rows; i++)
        for (size_t j = 0; j < k.cols; j++) {
            double want = slope(f, problem, &k.x[i * k.ldx + j]);
            double got = k.gradient[i * k.ldg + j];
            got -= k.before != NULL ? k.before[i * k.ldg + j] : 0.0;
            ck_assert_msg(isfinite(got), "%s[%zu,%zu] = %g", k.name, i, j, got);
            worst = fmax(worst, fabs(got - want));
            largest = fmax(largest, fabs(want));
        }
    ck_assert_msg(largest > 0.0, "%s: nothing to compare", k.name);
    ck_assert_msg(worst / largest < BOUND, "%s: error %.3g", k.name, worst / largest);
}

static void check_vector(const char *name, objective f, const void *problem, double *x,
                         const double *gradient, const double *before, size_t n) {
    check(f, problem, (claim){name, x, gradient, before, 1, n, n, n});
}

/* ---- products ---- */

static double gemm_naive(const lisa_gemm *op, const double *c, size_t i, size_t j) {
    const double *a = op->a.data, *b = op->b.data;
    double sum = 0.0;
    for (size_t l = 0; l < op->k; l++)
        sum += a[op->trans_a ? l * op->lda + i : i * op->lda + l] *
               b[op->trans_b ? j * op->ldb + l : l * op->ldb + j];
    return op->alpha * sum + (op->beta == 0.0 ? 0.0 : op->beta * c[i * op->ldc + j]);
}

static void check_gemm(uint32_t trans_a, uint32_t trans_b, double alpha, double beta) {
    enum { M = 5, N = 7, K = 9, LD = 11 };
    double *c = beta == 0.0 ? poison(M * LD) : noise(M * LD);
    const double *before = duplicate(c, M * LD);
    lisa_gemm op = {.m = M,
                    .n = N,
                    .k = K,
                    .trans_a = trans_a,
                    .trans_b = trans_b,
                    .a = f64(noise(LD * LD)),
                    .lda = LD,
                    .b = f64(noise(LD * LD)),
                    .ldb = LD,
                    .c = f64(c),
                    .ldc = LD,
                    .alpha = alpha,
                    .beta = beta};
    OK(be->ops->gemm(be, &op));
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < LD; j++) {
            double want = j < N ? gemm_naive(&op, before, i, j) : before[i * LD + j];
            double got = c[i * LD + j];
            ck_assert_msg(fabs(got - want) < 1e-14 || (isnan(got) && isnan(want) && j >= N),
                          "trans %u %u alpha %g beta %g: C[%zu,%zu] = %g, not %g", trans_a, trans_b,
                          alpha, beta, i, j, got, want);
        }
}

START_TEST(gemm_is_the_naive_product) {
    static const double scalars[][2] = {{1, 0}, {1, 1}, {0.5, -2}, {0, 1}, {-1, 0}};
    for (size_t s = 0; s < sizeof scalars / sizeof *scalars; s++)
        check_gemm(_i & 1, _i >> 1, scalars[s][0], scalars[s][1]);
}
END_TEST

typedef struct bias_problem {
    lisa_bias op;
    const double *x, *c;
    double *y;
} bias_problem;

enum { BIAS_ROWS = 5, BIAS_COLS = 3, BIAS_LD = 4 };

static double bias_objective(const void *problem) {
    const bias_problem *p = problem;
    memcpy(p->y, p->x, BIAS_ROWS * BIAS_LD * sizeof *p->y);
    OK(be->ops->bias_forward(be, &p->op));
    double sum = 0.0;
    for (size_t i = 0; i < BIAS_ROWS; i++)
        sum += inner(p->y + i * BIAS_LD, p->c + i * BIAS_LD, BIAS_COLS);
    return sum;
}

START_TEST(bias_backward) {
    double *b = noise(BIAS_COLS), *dbias = noise(BIAS_COLS), *y = zeros(BIAS_ROWS * BIAS_LD);
    const double *before = duplicate(dbias, BIAS_COLS);
    double *c = noise(BIAS_ROWS * BIAS_LD);
    bias_problem p = {
        {.rows = BIAS_ROWS, .cols = BIAS_COLS, .y = f64(y), .ldy = BIAS_LD, .bias = f64(b)},
        noise(BIAS_ROWS * BIAS_LD),
        c,
        y};
    lisa_bias backward = p.op;
    backward.y = f64(c);
    backward.dbias = dbias;
    OK(be->ops->bias_backward(be, &backward));
    check_vector("dbias", bias_objective, &p, b, dbias, before, BIAS_COLS);
}
END_TEST

typedef struct embed_problem {
    lisa_embed op;
    const double *out0, *c;
} embed_problem;

enum { EMBED_ROWS = 7, EMBED_COLS = 3, EMBED_TABLE = 5 };

static double embed_objective(const void *problem) {
    const embed_problem *p = problem;
    const size_t n = EMBED_ROWS * EMBED_COLS;
    memcpy(p->op.out, p->out0, n * sizeof(double));
    OK(be->ops->embed_forward(be, &p->op));
    return inner(p->op.out, p->c, n);
}

START_TEST(embed_backward) {
    static const int32_t index[EMBED_ROWS] = {4, 0, 4, 2, 4, 0, 1};
    const size_t n = EMBED_ROWS * EMBED_COLS, n_table = EMBED_TABLE * EMBED_COLS;
    double *table = noise(n_table), *dtable = noise(n_table);
    const double *before = duplicate(dtable, n_table);
    embed_problem p = {{.rows = EMBED_ROWS,
                        .cols = EMBED_COLS,
                        .table_rows = EMBED_TABLE,
                        .index = index,
                        .table = f64(table),
                        .out = zeros(n),
                        .accumulate = (uint32_t)_i},
                       _i ? noise(n) : poison(n),
                       noise(n)};
    lisa_embed backward = p.op;
    backward.dout = p.c;
    backward.dtable = dtable;
    OK(be->ops->embed_backward(be, &backward));
    check_vector("dtable", embed_objective, &p, table, dtable, before, n_table);
    ck_assert_double_eq(dtable[3 * EMBED_COLS], before[3 * EMBED_COLS]);
}
END_TEST

/* ---- norms and positions ---- */

typedef struct norm_problem {
    lisa_norm op;
    const double *c; /* laid out as y */
} norm_problem;

static double rows_inner(const double *a, const double *b, size_t rows, size_t cols, size_t ld) {
    double sum = 0.0;
    for (size_t i = 0; i < rows; i++)
        sum += inner(a + i * ld, b + i * ld, cols);
    return sum;
}

static double norm_objective(const void *problem) {
    const norm_problem *p = problem;
    OK(be->ops->norm_forward(be, &p->op));
    return rows_inner(p->op.y.data, p->c, p->op.rows, (size_t)p->op.segments * p->op.cols,
                      p->op.ldy);
}

enum { NORM_ROWS = 4, NORM_COLS = 7 };

static void check_norm(uint32_t kind, uint32_t segments, int has_bias, uint32_t accumulate) {
    const size_t width = (size_t)segments * NORM_COLS, ld = width + 3, n = NORM_ROWS * ld;
    double *x = noise(n), *weight = noise(NORM_COLS), *bias = noise(NORM_COLS);
    norm_problem p = {{.kind = kind,
                       .rows = NORM_ROWS,
                       .segments = segments,
                       .cols = NORM_COLS,
                       .eps = 1e-2,
                       .x = f64(x),
                       .ldx = ld,
                       .weight = f64(weight),
                       .bias = f64(has_bias ? bias : NULL),
                       .y = f64(zeros(n)),
                       .ldy = ld,
                       .stats = poison(2 * NORM_ROWS * segments)},
                      noise(n)};
    OK(be->ops->norm_forward(be, &p.op));
    lisa_norm backward = p.op;
    double *dx = accumulate ? noise(n) : poison(n);
    double *dweight = noise(NORM_COLS), *dbias = noise(NORM_COLS);
    const double *dx0 = duplicate(dx, n), *dweight0 = duplicate(dweight, NORM_COLS);
    const double *dbias0 = duplicate(dbias, NORM_COLS);
    backward.y.data = NULL;
    backward.dy = f64(p.c);
    backward.lddy = ld;
    backward.dx = f64(dx);
    backward.lddx = ld;
    backward.accumulate = accumulate;
    backward.dweight = dweight;
    backward.dbias = has_bias ? dbias : NULL;
    OK(be->ops->norm_backward(be, &backward));
    check(norm_objective, &p,
          (claim){"dx", x, dx, accumulate ? dx0 : NULL, NORM_ROWS, width, ld, ld});
    check_vector("dweight", norm_objective, &p, weight, dweight, dweight0, NORM_COLS);
    if (has_bias)
        check_vector("dbias", norm_objective, &p, bias, dbias, dbias0, NORM_COLS);

    /* In place, and for a frozen weight. */
    double *dy = duplicate(p.c, n), *plain = zeros(n);
    backward.accumulate = 0;
    backward.dx = f64(plain);
    OK(be->ops->norm_backward(be, &backward));
    backward.dy = backward.dx = f64(dy);
    backward.dweight = backward.dbias = NULL;
    OK(be->ops->norm_backward(be, &backward));
    for (size_t i = 0; i < NORM_ROWS; i++)
        ck_assert_mem_eq(dy + i * ld, plain + i * ld, width * sizeof(double));
}

START_TEST(norm_rms) {
    check_norm(LISA_NORM_RMS, (uint32_t)_i, 0, 0);
    check_norm(LISA_NORM_RMS, (uint32_t)_i, 0, 1);
}
END_TEST

START_TEST(norm_layer) {
    for (uint32_t flags = 0; flags < 4; flags++)
        check_norm(LISA_NORM_LAYER, (uint32_t)_i, flags & 1, flags >> 1);
}
END_TEST

typedef struct rope_problem {
    lisa_rope op;
    const double *x, *c;
    size_t n;
} rope_problem;

static double rope_objective(const void *problem) {
    const rope_problem *p = problem;
    memcpy(p->op.x.data, p->x, p->n * sizeof(double));
    OK(be->ops->rope(be, &p->op));
    return rows_inner(p->op.x.data, p->c, p->op.rows, (size_t)p->op.heads * p->op.head_dim,
                      p->op.ldx);
}

static void check_rope(uint32_t head_dim, uint32_t rotary_dim) {
    enum { ROWS = 5, HEADS = 3, POSITIONS = 6 };
    static const int32_t position[ROWS] = {0, 1, 5, 0, 3};
    const size_t width = HEADS * head_dim, ld = width + 2, n = ROWS * ld;
    const size_t half = rotary_dim / 2;
    double *cosines = zeros(POSITIONS * half), *sines = zeros(POSITIONS * half), *x = noise(n);
    for (size_t i = 0; i < POSITIONS * half; i++) {
        cosines[i] = cos(0.7 * (double)i);
        sines[i] = sin(0.7 * (double)i);
    }
    rope_problem p = {{.rows = ROWS,
                       .heads = HEADS,
                       .head_dim = head_dim,
                       .rotary_dim = rotary_dim,
                       .x = f64(zeros(n)),
                       .ldx = ld,
                       .cos = cosines,
                       .sin = sines,
                       .position = position},
                      x,
                      noise(n),
                      n};
    double *dx = duplicate(p.c, n);
    lisa_rope backward = p.op;
    backward.x = f64(dx);
    backward.inverse = 1;
    OK(be->ops->rope(be, &backward));
    check(rope_objective, &p, (claim){"dx", x, dx, NULL, ROWS, width, ld, ld});
}

START_TEST(rope_backward) {
    check_rope(6, 6);
    check_rope(7, 4);
    check_rope(8, 2);
}
END_TEST

/* ---- attention ---- */

typedef struct attention_problem {
    lisa_attention op;
    const double *c; /* laid out as out */
} attention_problem;

static double attention_objective(const void *problem) {
    const attention_problem *p = problem;
    OK(be->ops->attention_forward(be, &p->op));
    return rows_inner(p->op.out, p->c, (size_t)p->op.batch * p->op.n_queries,
                      (size_t)p->op.heads * p->op.head_dim, p->op.ldout);
}

static void check_attention(uint32_t heads, uint32_t kv_heads, uint32_t window,
                            const int32_t *documents) {
    enum { BATCH = 2, TOKENS = 6, DIM = 3, ROWS = BATCH * TOKENS };
    const size_t width = heads * DIM, kv_width = kv_heads * DIM;
    const size_t ldq = width + 1, ldk = kv_width + 2, ldv = kv_width + 3, ldo = width + 4;
    double *q = noise(ROWS * ldq), *k = noise(ROWS * ldk), *v = noise(ROWS * ldv);
    attention_problem p = {{.dtype = LISA_DTYPE_F64,
                            .batch = BATCH,
                            .n_queries = TOKENS,
                            .n_keys = TOKENS,
                            .key_stride = TOKENS,
                            .heads = heads,
                            .kv_heads = kv_heads,
                            .head_dim = DIM,
                            .window = window,
                            .scale = 0.8,
                            .documents = documents,
                            .q = q,
                            .k = k,
                            .v = v,
                            .ldq = ldq,
                            .ldk = ldk,
                            .ldv = ldv,
                            .out = poison(ROWS * ldo),
                            .ldout = ldo,
                            .lse = poison(ROWS * heads)},
                           noise(ROWS * ldo)};
    OK(be->ops->attention_forward(be, &p.op));
    lisa_attention backward = p.op;
    double *dq = poison(ROWS * ldq), *dk = poison(ROWS * ldk), *dv = poison(ROWS * ldv);
    backward.out = duplicate(p.op.out, ROWS * ldo);
    backward.lse = duplicate(p.op.lse, (size_t)ROWS * heads);
    backward.dout = p.c;
    backward.lddout = ldo;
    backward.dq = dq;
    backward.dk = dk;
    backward.dv = dv;
    backward.lddq = ldq;
    backward.lddk = ldk;
    backward.lddv = ldv;
    OK(be->ops->attention_backward(be, &backward));
    check(attention_objective, &p, (claim){"dq", q, dq, NULL, ROWS, width, ldq, ldq});
    check(attention_objective, &p, (claim){"dk", k, dk, NULL, ROWS, kv_width, ldk, ldk});
    check(attention_objective, &p, (claim){"dv", v, dv, NULL, ROWS, kv_width, ldv, ldv});
}

START_TEST(attention_backward) {
    static const uint32_t heads[][2] = {{1, 1}, {3, 3}, {4, 2}, {6, 2}, {3, 1}};
    static const int32_t documents[] = {0, 0, 1, 1, 1, 1, 7, 7, 7, 7, 3, 3};
    for (uint32_t window = 0; window < 9; window += 3) {
        check_attention(heads[_i][0], heads[_i][1], window, NULL);
        check_attention(heads[_i][0], heads[_i][1], window, documents);
    }
}
END_TEST

/* With a window of one, each query sees itself alone: out = v, and the scores have no gradient. */
START_TEST(attention_of_one_key) {
    enum { ROWS = 4, DIM = 5 };
    double *q = noise(ROWS * DIM), *k = noise(ROWS * DIM), *v = noise(ROWS * DIM);
    double *out = poison(ROWS * DIM), *lse = poison(ROWS), *dout = noise(ROWS * DIM);
    double *dq = poison(ROWS * DIM), *dk = poison(ROWS * DIM), *dv = poison(ROWS * DIM);
    lisa_attention op = {.dtype = LISA_DTYPE_F64,
                         .batch = 1,
                         .n_queries = ROWS,
                         .n_keys = ROWS,
                         .key_stride = ROWS,
                         .heads = 1,
                         .kv_heads = 1,
                         .head_dim = DIM,
                         .window = 1,
                         .scale = 1.0,
                         .q = q,
                         .k = k,
                         .v = v,
                         .ldq = DIM,
                         .ldk = DIM,
                         .ldv = DIM,
                         .out = out,
                         .ldout = DIM,
                         .lse = lse,
                         .dout = dout,
                         .lddout = DIM,
                         .dq = dq,
                         .dk = dk,
                         .dv = dv,
                         .lddq = DIM,
                         .lddk = DIM,
                         .lddv = DIM};
    OK(be->ops->attention_forward(be, &op));
    OK(be->ops->attention_backward(be, &op));
    for (size_t i = 0; i < ROWS * DIM; i++) {
        ck_assert_double_eq(out[i], v[i]);
        ck_assert_double_eq_tol(dv[i], dout[i], 1e-15);
        ck_assert_double_eq_tol(dq[i], 0.0, 1e-15);
        ck_assert_double_eq_tol(dk[i], 0.0, 1e-15);
    }
}
END_TEST

/* ---- activations and the loss ---- */

typedef struct activation_problem {
    lisa_activation op;
    const double *c;
} activation_problem;

static double activation_objective(const void *problem) {
    const activation_problem *p = problem;
    OK(be->ops->activation_forward(be, &p->op));
    return inner(p->op.y, p->c, p->op.n);
}

static void check_activation(uint32_t kind, int gated) {
    enum { N = 41 };
    double *gate = noise(N), *up = noise(N);
    for (size_t i = 0; i < N; i++)
        gate[i] = 5.0 * gate[i] + (gate[i] < 0.0 ? -0.01 : 0.01); /* off ReLU's corner */
    activation_problem p = {{.kind = kind,
                             .dtype = LISA_DTYPE_F64,
                             .n = N,
                             .gate = gate,
                             .up = gated ? up : NULL,
                             .y = poison(N)},
                            noise(N)};
    double *dgate = poison(N), *dup = poison(N);
    lisa_activation backward = p.op;
    backward.y = NULL;
    backward.dy = p.c;
    backward.dgate = dgate;
    backward.dup = gated ? dup : NULL;
    OK(be->ops->activation_backward(be, &backward));
    check_vector("dgate", activation_objective, &p, gate, dgate, NULL, N);
    if (gated)
        check_vector("dup", activation_objective, &p, up, dup, NULL, N);

    /* In place: dgate over gate, dup over up. */
    double *both[2] = {duplicate(gate, N), duplicate(up, N)};
    backward.gate = backward.dgate = both[0];
    backward.up = backward.dup = gated ? both[1] : NULL;
    OK(be->ops->activation_backward(be, &backward));
    ck_assert_mem_eq(both[0], dgate, N * sizeof(double));
    if (gated)
        ck_assert_mem_eq(both[1], dup, N * sizeof(double));
}

START_TEST(activation_backward) {
    check_activation((uint32_t)_i, 0);
    check_activation((uint32_t)_i, 1);
}
END_TEST

typedef struct loss_problem {
    lisa_cross_entropy op;
    const double *logits;
    size_t n;
} loss_problem;

static double loss_objective(const void *problem) {
    const loss_problem *p = problem;
    memcpy(p->op.logits, p->logits, p->n * sizeof(double));
    OK(be->ops->cross_entropy(be, &p->op));
    double sum = 0.0;
    for (size_t i = 0; i < p->op.rows; i++)
        sum += p->op.nll[i];
    return sum;
}

START_TEST(cross_entropy_backward) {
    enum { ROWS = 4, COLS = 9, LD = 11 };
    static const int32_t targets[ROWS] = {0, 8, 3, 3};
    static const float weights[ROWS] = {1.0f, 0.25f, 0.0f, 3.0f};
    double nll[ROWS];
    double *logits = zeros(ROWS * LD), *dlogits = zeros(ROWS * LD);
    noise_fill(logits, ROWS * LD, 4.0, &seed);
    memcpy(dlogits, logits, ROWS * LD * sizeof *logits);
    loss_problem p = {{.rows = ROWS,
                       .cols = COLS,
                       .logits = dlogits,
                       .ldlogits = LD,
                       .targets = targets,
                       .weights = weights,
                       .nll = nll,
                       .dlogits = f64(dlogits),
                       .lddlogits = LD,
                       .gradient_scale = 1.0},
                      logits,
                      ROWS * LD};
    OK(be->ops->cross_entropy(be, &p.op));
    for (size_t j = 0; j < COLS; j++)
        ck_assert_double_eq(dlogits[2 * LD + j], 0.0);
    p.op.logits = zeros(ROWS * LD);
    p.op.dlogits.data = NULL;
    check(loss_objective, &p, (claim){"dlogits", logits, dlogits, NULL, ROWS, COLS, LD, LD});
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("gradients of operations");
    TCase *tcase = tcase_create("reference64");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_loop_test(tcase, gemm_is_the_naive_product, 0, 4);
    tcase_add_test(tcase, bias_backward);
    tcase_add_loop_test(tcase, embed_backward, 0, 2);
    tcase_add_loop_test(tcase, norm_rms, 1, 4);
    tcase_add_loop_test(tcase, norm_layer, 1, 3);
    tcase_add_test(tcase, rope_backward);
    tcase_add_loop_test(tcase, attention_backward, 0, 5);
    tcase_add_test(tcase, attention_of_one_key);
    tcase_add_loop_test(tcase, activation_backward, LISA_ACT_SILU, LISA_ACT_RELU + 1);
    tcase_add_test(tcase, cross_entropy_backward);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

/* cases_spoilt.c - a NaN or an Inf on the way in shows in what comes out: that is how a broken step
 * is told before it is taken. */
#include "conformance/harness.h"

CONF_CALL(gemm, lisa_gemm)
CONF_CALL(norm_forward, lisa_norm)
CONF_CALL(attention_forward, lisa_attention)
CONF_CALL(attention_backward, lisa_attention)
CONF_CALL(activation_forward, lisa_activation)
CONF_CALL(activation_backward, lisa_activation)
CONF_CALL(cross_entropy, lisa_cross_entropy)

static const float bad[] = {NAN, INFINITY, -INFINITY};

/* Noise with one bad element; `which` counts through the elements of bad. */
static float *spoil(size_t n, size_t place, int which) {
    float *x = conf_noise(n, 1.0);
    x[place] = bad[which];
    return x;
}

/* gemm: A or B, in a product of few rows and in one of many. */
START_TEST(gemm) {
    static const uint32_t rows[] = {1, 3, 40};
    enum { N = 37, K = 70 };
    for (size_t r = 0; r < 3; r++)
        for (uint32_t trans_b = 0; trans_b < 2; trans_b++)
            for (int in_b = 0; in_b < 2; in_b++) {
                uint32_t m = rows[r];
                lisa_gemm op = {.m = m,
                                .n = N,
                                .k = K,
                                .trans_b = trans_b,
                                .lda = K,
                                .b.dtype = LISA_DTYPE_F32,
                                .ldb = trans_b ? K : N,
                                .ldc = N,
                                .alpha = 1.0};
                const float *a = in_b ? conf_noise(m * K, 1.0) : spoil(m * K, m * K - 1, _i);
                const float *b = in_b ? spoil(N * K, 5, _i) : conf_noise(N * K, 1.0);
                conf_case c;
                conf_begin(&c, call_gemm, &op, sizeof op, "gemm spoilt %d m %u trans_b %u in %s",
                           _i, m, trans_b, in_b ? "B" : "A");
                conf_in(&c, "A", offsetof(lisa_gemm, a), CONF_TYPED_OPERAND, a, m * K);
                conf_in(&c, "B", offsetof(lisa_gemm, b.data), LISA_DTYPE_F32, b, N * K);
                conf_out(&c, "C", offsetof(lisa_gemm, c), CONF_TYPED_REAL, conf_noise(m * N, 0.0),
                         m, N, N, 0.0);
                c.spoilt = 1;
                conf_run(&c);
            }
}
END_TEST

START_TEST(norm) {
    enum { ROWS = 3, COLS = 67 };
    for (uint32_t kind = LISA_NORM_RMS; kind <= LISA_NORM_LAYER; kind++) {
        lisa_norm op = {.kind = kind,
                        .rows = ROWS,
                        .segments = 1,
                        .cols = COLS,
                        .eps = 1e-5,
                        .ldx = COLS,
                        .ldy = COLS,
                        .weight.dtype = LISA_DTYPE_F32};
        conf_case c;
        conf_begin(&c, call_norm_forward, &op, sizeof op, "norm spoilt %d kind %u", _i, kind);
        conf_in(&c, "x", offsetof(lisa_norm, x), CONF_TYPED_REAL, spoil(ROWS * COLS, COLS + 1, _i),
                ROWS * COLS);
        conf_in(&c, "weight", offsetof(lisa_norm, weight.data), LISA_DTYPE_F32,
                conf_noise(COLS, 1.0), COLS);
        conf_out(&c, "y", offsetof(lisa_norm, y), CONF_TYPED_OPERAND, conf_noise(ROWS * COLS, 0.0),
                 ROWS, COLS, COLS, 0.0);
        conf_out(&c, "stats", offsetof(lisa_norm, stats), CONF_REAL, conf_noise(2 * ROWS, 0.0), 1,
                 2 * ROWS, 2 * ROWS, 0.0);
        c.spoilt = 1;
        conf_run(&c);
    }
}
END_TEST

START_TEST(activation) {
    enum { N = 50, PLACE = 21 };
    for (uint32_t kind = LISA_ACT_SILU; kind <= LISA_ACT_RELU; kind++)
        for (int in_up = 0; in_up < 2; in_up++) {
            lisa_activation op = {.kind = kind, .n = N};
            float *gate = conf_noise(N, 1.0), *up = conf_noise(N, 1.0);
            gate[PLACE] = 0.75f;
            (in_up ? up : gate)[PLACE] = in_up ? bad[_i] : bad[_i < 2 ? _i : 0];
            conf_case c;
            /* The slope at an infinite gate may be its limit, which is finite. */
            int last = in_up || _i == 0;
            for (int backward = 0; backward <= last; backward++) {
                conf_begin(&c, backward ? call_activation_backward : call_activation_forward, &op,
                           sizeof op, "activation %u spoilt %d in %s%s", kind, _i,
                           in_up ? "up" : "gate", backward ? " backward" : "");
                c.dtype_offset = offsetof(lisa_activation, dtype);
                conf_in(&c, "gate", offsetof(lisa_activation, gate), CONF_OPERAND, gate, N);
                conf_in(&c, "up", offsetof(lisa_activation, up), CONF_OPERAND, up, N);
                conf_in(&c, "dy", offsetof(lisa_activation, dy), CONF_OPERAND, conf_noise(N, 1.0),
                        N);
                if (backward) {
                    conf_out(&c, "dgate", offsetof(lisa_activation, dgate), CONF_OPERAND,
                             conf_noise(N, 0.0), 1, N, N, 0.0);
                    conf_out(&c, "dup", offsetof(lisa_activation, dup), CONF_OPERAND,
                             conf_noise(N, 0.0), 1, N, N, 0.0);
                } else {
                    conf_out(&c, "y", offsetof(lisa_activation, y), CONF_OPERAND,
                             conf_noise(N, 0.0), 1, N, N, 0.0);
                }
                c.spoilt = 1;
                conf_run(&c);
            }
        }
}
END_TEST

enum { TOKENS = 9, HEADS = 2, DIM = 8, WIDTH = HEADS * DIM, SIZE = TOKENS * WIDTH };

static lisa_attention attention_op(void) {
    return (lisa_attention){.batch = 1,
                            .n_queries = TOKENS,
                            .n_keys = TOKENS,
                            .key_stride = TOKENS,
                            .heads = HEADS,
                            .kv_heads = HEADS,
                            .head_dim = DIM,
                            .scale = 0.5,
                            .ldq = WIDTH,
                            .ldk = WIDTH,
                            .ldv = WIDTH,
                            .ldout = WIDTH,
                            .lddout = WIDTH,
                            .lddq = WIDTH,
                            .lddk = WIDTH,
                            .lddv = WIDTH};
}

/* In q, k or v of the fourth token. An Inf in q or k may rightly vanish: a score of -Inf. */
START_TEST(attention) {
    static const size_t places[] = {offsetof(lisa_attention, q), offsetof(lisa_attention, k),
                                    offsetof(lisa_attention, v)};
    static const char *const names[] = {"q", "k", "v"};
    lisa_attention op = attention_op();
    for (size_t where = 0; where < 3; where++) {
        conf_case c;
        conf_begin(&c, call_attention_forward, &op, sizeof op, "attention spoilt %d in %s", _i,
                   names[where]);
        c.dtype_offset = offsetof(lisa_attention, dtype);
        for (size_t m = 0; m < 3; m++)
            conf_in(&c, names[m], places[m], CONF_OPERAND,
                    m == where ? spoil(SIZE, 3 * WIDTH + 1, where == 2 ? _i : 0)
                               : conf_noise(SIZE, 1.0),
                    SIZE);
        conf_out(&c, "out", offsetof(lisa_attention, out), CONF_OPERAND, conf_noise(SIZE, 0.0), 1,
                 SIZE, SIZE, 0.0);
        c.spoilt = 1;
        conf_run(&c);
    }
}
END_TEST

START_TEST(attention_backward) {
    lisa_attention op = attention_op();
    conf_case c;
    conf_begin(&c, call_attention_backward, &op, sizeof op, "attention_backward spoilt %d", _i);
    c.dtype_offset = offsetof(lisa_attention, dtype);
    conf_in(&c, "q", offsetof(lisa_attention, q), CONF_OPERAND, conf_noise(SIZE, 1.0), SIZE);
    conf_in(&c, "k", offsetof(lisa_attention, k), CONF_OPERAND, conf_noise(SIZE, 1.0), SIZE);
    conf_in(&c, "v", offsetof(lisa_attention, v), CONF_OPERAND, conf_noise(SIZE, 1.0), SIZE);
    conf_in(&c, "out", offsetof(lisa_attention, out), CONF_OPERAND, conf_noise(SIZE, 1.0), SIZE);
    conf_in(&c, "lse", offsetof(lisa_attention, lse), CONF_REAL, conf_noise(TOKENS * HEADS, 1.0),
            TOKENS * HEADS);
    conf_in(&c, "dout", offsetof(lisa_attention, dout), CONF_OPERAND,
            spoil(SIZE, 3 * WIDTH + 1, _i), SIZE);
    conf_out(&c, "dq", offsetof(lisa_attention, dq), CONF_OPERAND, conf_noise(SIZE, 0.0), 1, SIZE,
             SIZE, 0.0);
    conf_out(&c, "dk", offsetof(lisa_attention, dk), CONF_OPERAND, conf_noise(SIZE, 0.0), 1, SIZE,
             SIZE, 0.0);
    conf_out(&c, "dv", offsetof(lisa_attention, dv), CONF_OPERAND, conf_noise(SIZE, 0.0), 1, SIZE,
             SIZE, 0.0);
    c.spoilt = 1;
    conf_run(&c);
}
END_TEST

/* NaN or +Inf anywhere in a row, first and last place included; -Inf at the target. */
START_TEST(cross_entropy) {
    enum { COLS = 77 };
    static const size_t places[] = {0, 1, 33, COLS - 1};
    float weight = 1.0f;
    int32_t target = 33;
    for (size_t p = 0; p < 4; p++) {
        if (_i == 2 && places[p] != 33)
            continue;
        lisa_cross_entropy op = {
            .rows = 1, .cols = COLS, .ldlogits = COLS, .lddlogits = COLS, .gradient_scale = 1.0};
        double nll = 0.0;
        conf_case c;
        conf_begin(&c, call_cross_entropy, &op, sizeof op, "cross_entropy spoilt %d at %zu", _i,
                   places[p]);
        conf_in(&c, "targets", offsetof(lisa_cross_entropy, targets), CONF_I32, &target, 1);
        conf_in(&c, "weights", offsetof(lisa_cross_entropy, weights), LISA_DTYPE_F32, &weight, 1);
        conf_in(&c, "logits", offsetof(lisa_cross_entropy, logits), CONF_REAL,
                spoil(COLS, places[p], _i), COLS);
        conf_out(&c, "dlogits", offsetof(lisa_cross_entropy, dlogits), CONF_TYPED_OPERAND,
                 conf_noise(COLS, 0.0), 1, COLS, COLS, 0.0);
        conf_out(&c, "nll", offsetof(lisa_cross_entropy, nll), LISA_DTYPE_F64, &nll, 1, 1, 1, 0.0);
        c.spoilt = 1;
        conf_run(&c);
    }
}
END_TEST

TCase *conformance_spoilt(void) {
    TCase *tcase = tcase_create("spoilt");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, gemm, 0, 3);
    tcase_add_loop_test(tcase, norm, 0, 3);
    tcase_add_loop_test(tcase, activation, 0, 3);
    tcase_add_loop_test(tcase, attention, 0, 3);
    tcase_add_loop_test(tcase, attention_backward, 0, 3);
    tcase_add_loop_test(tcase, cross_entropy, 0, 3);
    return tcase;
}

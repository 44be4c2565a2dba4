/* What no comparison of backends and no gradient can show: that the reference means the right
 * thing. Expected numbers are from PyTorch in float64, or small enough to be seen. */
#include "backend/elementwise.h"
#include "backend/reference/reference.h"

#include "check_main.h"
#include "noise.h"
#include "test_host.h"

#include <string.h>

static test_host host;
static lisa_backend *be;

static void setup(void) {
    test_host_init(&host, 1);
    be = test_host_start(&host, &lisa__backend_reference64);
}

static void teardown(void) {
    be->ops->stop(be);
    test_host_finish(&host);
}

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, host.text)

static lisa_typed f64(const double *x) {
    return (lisa_typed){(void *)(uintptr_t)x, LISA_DTYPE_F64};
}

static void check_near(const double *got, const double *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(fabs(got[i] - want[i]) <= 1e-15 * fmax(1.0, fabs(want[i])),
                      "element %zu is %.17g, not %.17g", i, got[i], want[i]);
}

START_TEST(activations) {
    static const double x[] = {-3.7, -1.0, -0.2, 0.6, 2.5};
    static const double want[4][5] = {
        {-0.089269979245376024, -0.2689414213699951, -0.090033200537504438, 0.38739378373547723,
         2.3103545499468914},
        {-0.00027180602139212362, -0.15880800939172324, -0.084148570217893737, 0.43541519923081473,
         2.4849157339100012},
        {-0.00039885901386641501, -0.15865525393145702, -0.084148058112179402, 0.43544812934995586,
         2.4844758366855597},
        {0.0, 0.0, 0.0, 0.6, 2.5},
    };
    double y[5];
    lisa_activation op = {.kind = (uint32_t)_i, .dtype = LISA_DTYPE_F64, .n = 5, .gate = x, .y = y};
    OK(be->ops->activation_forward(be, &op));
    check_near(y, want[_i - 1], 5);
    static const double up[] = {2.0, -3.0, 0.5, 0.0, 1.0};
    op.up = up;
    OK(be->ops->activation_forward(be, &op));
    for (int i = 0; i < 5; i++)
        ck_assert_double_eq_tol(y[i], want[_i - 1][i] * up[i], 1e-15);
}
END_TEST

START_TEST(norms) {
    static const double x[] = {0.5, -1.5, 2.0, 3.0};
    static const double layer[] = {-0.19437240470473191, -2.7437240470473192, -0.28874480940946384,
                                   0.98874480940946385};
    static const double rms[] = {0.25367314471592051, -1.522038868295523, -1.014692578863682,
                                 0.76101943414776152};
    double weight[] = {1.0, 2.0, -1.0, 0.5}, bias[] = {0.1, 0.2, 0.3, 0.4}, y[4], stats[2];
    lisa_norm op = {.kind = LISA_NORM_LAYER,
                    .rows = 1,
                    .segments = 1,
                    .cols = 4,
                    .eps = 1e-2,
                    .x = f64(x),
                    .ldx = 4,
                    .weight = f64(weight),
                    .bias = f64(bias),
                    .y = f64(y),
                    .ldy = 4,
                    .stats = stats};
    OK(be->ops->norm_forward(be, &op));
    check_near(y, layer, 4);
    ck_assert_double_eq_tol(stats[0], 1.0, 1e-15);
    ck_assert_double_eq_tol(stats[1], 1.0 / sqrt(2.875 + 1e-2), 1e-15);
    op.kind = LISA_NORM_RMS;
    op.bias.data = NULL;
    OK(be->ops->norm_forward(be, &op));
    check_near(y, rms, 4);
    ck_assert_double_eq_tol(stats[0], 1.0 / sqrt(3.875 + 1e-2), 1e-15);
}
END_TEST

/* A quarter turn and an eighth: (x, y) -> (-y, x), ((x - y), (x + y)) / sqrt 2; the rest stays. */
START_TEST(rope) {
    const double r = sqrt(0.5);
    double cosines[] = {9.0, 9.0, 0.0, r}, sines[] = {9.0, 9.0, 1.0, r};
    double x[] = {1.0, 2.0, 3.0, 4.0, 5.0};
    const double want[] = {-3.0, -2.0 * r, 1.0, 6.0 * r, 5.0}, before[] = {1.0, 2.0, 3.0, 4.0, 5.0};
    int32_t position = 1;
    lisa_rope op = {.rows = 1,
                    .heads = 1,
                    .head_dim = 5,
                    .rotary_dim = 4,
                    .x = f64(x),
                    .ldx = 5,
                    .cos = cosines,
                    .sin = sines,
                    .position = &position};
    OK(be->ops->rope(be, &op));
    check_near(x, want, 5);
    op.inverse = 1;
    OK(be->ops->rope(be, &op));
    check_near(x, before, 5);
}
END_TEST

/* Who sees whom, one line per query, one letter per key. With equal scores, out is the mean of the
 * seen values, and v = powers of two tells which they are. */
static void check_sight(lisa_attention op, const char *const *lines) {
    double q[8] = {0}, k[8] = {0}, v[8], out[8], lse[8];
    for (int j = 0; j < 8; j++)
        v[j] = 1 << j;
    op.dtype = LISA_DTYPE_F64;
    op.batch = op.heads = op.kv_heads = op.head_dim = 1;
    op.key_stride = op.n_keys;
    op.scale = 1.0;
    op.q = q;
    op.k = k;
    op.v = v;
    op.ldq = op.ldk = op.ldv = op.ldout = 1;
    op.out = out;
    op.lse = lse;
    OK(be->ops->attention_forward(be, &op));
    for (uint32_t t = 0; t < op.n_queries; t++) {
        double sum = 0.0, seen = 0.0;
        for (uint32_t j = 0; j < op.n_keys; j++)
            if (lines[t][j] == 'x') {
                sum += v[j];
                seen += 1.0;
            }
        ck_assert_double_eq_tol(out[t], sum / seen, 1e-12);
        ck_assert_double_eq_tol(lse[t], log(seen), 1e-12);
    }
}

START_TEST(attention_sees) {
    static const char *const causal[] = {"x...", "xx..", "xxx.", "xxxx"};
    static const char *const window[] = {"x....", "xx...", ".xx..", "..xx.", "...xx"};
    static const char *const cache[] = {"xxxx..", "xxxxx.", "xxxxxx"};
    static const char *const cache_window[] = {".xxx..", "..xxx.", "...xxx"};
    static const char *const documents[] = {"x.....", "xx....", "..x...",
                                            "..xx..", "xx..x.", "..xx.x"};
    static const char *const both[] = {"x.....", "xx....", "..x...", "..xx..", "....x.", "...x.x"};
    static const int32_t ids[] = {5, 5, 3, 3, 5, 3};
    check_sight((lisa_attention){.n_queries = 4, .n_keys = 4}, causal);
    check_sight((lisa_attention){.n_queries = 5, .n_keys = 5, .window = 2}, window);
    check_sight((lisa_attention){.n_queries = 3, .n_keys = 6}, cache);
    check_sight((lisa_attention){.n_queries = 3, .n_keys = 6, .window = 3}, cache_window);
    check_sight((lisa_attention){.n_queries = 6, .n_keys = 6, .documents = ids}, documents);
    check_sight((lisa_attention){.n_queries = 6, .n_keys = 6, .documents = ids, .window = 3}, both);
}
END_TEST

/* Six query heads on two key heads, in two sequences of a cache of three rows: the first three
 * share the first, the others the second. One key each, so out is its value. */
START_TEST(attention_groups_heads) {
    double q[12] = {0}, k[12] = {0}, out[12];
    const double v[12] = {1.0, 2.0, -9.0, -9.0, -9.0, -9.0, 3.0, 4.0, -9.0, -9.0, -9.0, -9.0};
    const double want[12] = {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4};
    lisa_attention op = {.dtype = LISA_DTYPE_F64,
                         .batch = 2,
                         .n_queries = 1,
                         .n_keys = 1,
                         .key_stride = 3,
                         .heads = 6,
                         .kv_heads = 2,
                         .head_dim = 1,
                         .scale = 1.0,
                         .q = q,
                         .k = k,
                         .v = v,
                         .ldq = 6,
                         .ldk = 2,
                         .ldv = 2,
                         .out = out,
                         .ldout = 6};
    OK(be->ops->attention_forward(be, &op));
    check_near(out, want, 12);
}
END_TEST

START_TEST(attention_weighs) {
    const double q[] = {0.0, 2.0}, k[] = {1.0, -0.5}, v[] = {10.0, 20.0};
    double out[2], lse[2];
    lisa_attention op = {.dtype = LISA_DTYPE_F64,
                         .batch = 1,
                         .n_queries = 2,
                         .n_keys = 2,
                         .key_stride = 2,
                         .heads = 1,
                         .kv_heads = 1,
                         .head_dim = 1,
                         .scale = 0.5,
                         .q = q,
                         .k = k,
                         .v = v,
                         .ldq = 1,
                         .ldk = 1,
                         .ldv = 1,
                         .out = out,
                         .ldout = 1,
                         .lse = lse};
    OK(be->ops->attention_forward(be, &op));
    ck_assert_double_eq_tol(lse[1], log(exp(1.0) + exp(-0.5)), 1e-15);
    ck_assert_double_eq_tol(out[1], (10.0 * exp(1.0) + 20.0 * exp(-0.5)) / (exp(1.0) + exp(-0.5)),
                            1e-13);
}
END_TEST

START_TEST(cross_entropy) {
    double logits[] = {1.0, -2.0, 0.5, 7.0, 7.0, 1.0}, nll[2];
    float weights[] = {0.25f, 1.0f}, log_probs[2];
    int32_t targets[] = {2, 0};
    uint8_t greedy[2];
    static const double gradient[] = {0.15093722403715645, 0.0075147218923935057,
                                      -0.15845194592954995};
    lisa_cross_entropy op = {.rows = 2,
                             .cols = 3,
                             .logits = logits,
                             .ldlogits = 3,
                             .targets = targets,
                             .weights = weights,
                             .nll = nll,
                             .log_probs = log_probs,
                             .greedy = greedy,
                             .dlogits = f64(logits),
                             .lddlogits = 3,
                             .gradient_scale = 1.0};
    OK(be->ops->cross_entropy(be, &op));
    ck_assert_double_eq_tol(nll[0], 0.25114922558557085, 1e-15);
    ck_assert_float_eq(log_probs[0], (float)(-0.25114922558557085 / 0.25));
    check_near(logits, gradient, 3);
    ck_assert_uint_eq(greedy[0], 0);
    ck_assert_uint_eq(greedy[1], 1); /* the first of equal maxima */
}
END_TEST

/* ---- elementwise.h ---- */

static void check_split(uint32_t bits) {
    uint32_t sign = bits & 0x80000000u, magnitude = bits & 0x7FFFFFFFu;
    uint16_t bf16;
    int16_t low;
    lisa__master_split(lisa__float_of(bits), &bf16, &low);
    uint32_t joined = lisa__bits_of(lisa__master_join(bf16, low));
    uint32_t want = bits;
    if (magnitude > 0x7F800000u)
        want = sign | 0x7FC00000u;
    else if (magnitude >= 0x7F7F8000u && magnitude != 0x7F800000u)
        want = sign | 0x7F7F7FFFu;
    if (joined != want)
        ck_abort_msg("%08x splits to %04x and %d, which joins to %08x", bits, bf16, low, joined);
}

/* Every low half beside edges of the high half, and every high half beside some low ones. */
START_TEST(masters_make_the_round_trip) {
    static const uint32_t highs[] = {0x0000, 0x0001, 0x007F, 0x0080, 0x3F7F, 0x3F80,
                                     0x3F81, 0x7F7E, 0x7F7F, 0x7F80, 0x7FFF, 0x8000,
                                     0xBF80, 0xFF7F, 0xFF80, 0xFFFF};
    for (size_t h = 0; h < sizeof highs / sizeof *highs; h++)
        for (uint32_t low = 0; low < 0x10000u; low++)
            check_split(highs[h] << 16 | low);
    for (uint32_t bits = 0; bits < 0xFFFFFFFFu - 251u; bits += 251u)
        check_split(bits);
}
END_TEST

START_TEST(masters_split_to_nearest) {
    static const struct {
        uint32_t bits;
        uint16_t bf16;
        int16_t low;
    } cases[] = {
        {0x3F800000u, 0x3F80, 0},     {0x3F807FFFu, 0x3F80, 32767},  {0x3F808000u, 0x3F81, -32768},
        {0x3F80FFFFu, 0x3F81, -1},    {0xBF808000u, 0xBF81, -32768}, {0x80000000u, 0x8000, 0},
        {0x7F7F8000u, 0x7F7F, 32767}, {0xFF7FFFFFu, 0xFF7F, 32767},  {0x7F800000u, 0x7F80, 0},
        {0x7F800001u, 0x7FC0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint16_t bf16;
        int16_t low;
        lisa__master_split(lisa__float_of(cases[i].bits), &bf16, &low);
        ck_assert_uint_eq(bf16, cases[i].bf16);
        ck_assert_int_eq(low, cases[i].low);
    }
}
END_TEST

/* The nearest 16-bit value to a double, ties to even, by search among all of them. */
static uint16_t search_nearest(double x, uint32_t dtype, uint16_t inf) {
    uint16_t below = 0, above = inf;
    while (above - below > 1) {
        uint16_t middle = (uint16_t)((below + above) / 2);
        if (lisa__load(&middle, dtype, 0) <= x)
            below = middle;
        else
            above = middle;
    }
    /* Inf stands where the next value would be. */
    double low = lisa__load(&below, dtype, 0), high = lisa__load(&above, dtype, 0);
    uint16_t before = (uint16_t)(below - 1);
    if (isinf(high))
        high = 2.0 * low - lisa__load(&before, dtype, 0);
    if (x - low != high - x)
        return x - low < high - x ? below : above;
    return below & 1 ? above : below;
}

static void check_narrow(double x) {
    uint16_t bf16 = lisa__f64_to_bf16(x), f16 = lisa__f64_to_f16(x);
    if (bf16 != search_nearest(x, LISA_DTYPE_BF16, 0x7F80) ||
        f16 != search_nearest(x, LISA_DTYPE_F16, 0x7C00) ||
        lisa__f64_to_bf16(-x) != (bf16 | 0x8000u) || lisa__f64_to_f16(-x) != (f16 | 0x8000u))
        ck_abort_msg("%.17g becomes bf16 %04x and f16 %04x", x, bf16, f16);
}

START_TEST(doubles_are_rounded_once) {
    uint64_t seed = 5;
    for (int i = 0; i < 20000; i++) {
        double x = ldexp(1.0 + fabs(noise_uniform(&seed)), (int)noise_below(&seed, 300) - 160);
        check_narrow(x);
        /* Beside the ties, closer than a float can say. */
        uint16_t bits = (uint16_t)(noise_below(&seed, 0x7BFF));
        double tie = (lisa__f16_to_f32(bits) + (double)lisa__f16_to_f32((uint16_t)(bits + 1))) / 2;
        check_narrow(tie);
        check_narrow(tie * (1.0 + 0x1p-45));
        check_narrow(tie * (1.0 - 0x1p-45));
        tie = (lisa__bf16_to_f32(bits) + (double)lisa__bf16_to_f32((uint16_t)(bits + 1))) / 2;
        check_narrow(tie * (1.0 + 0x1p-45));
    }
    check_narrow(65519.999999999);
    check_narrow(65520.0);
    check_narrow(1e300);
    check_narrow(1e-300);
    check_narrow(0.0);
    ck_assert_uint_eq(lisa__f64_to_bf16((double)NAN) & 0x7FC0u, 0x7FC0u);
}
END_TEST

START_TEST(refusals_have_a_text) {
    lisa_gemm gemm = {.b.dtype = 77};
    ck_assert_int_eq(be->ops->gemm(be, &gemm), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(host.text, "dtype"));
    lisa_norm norm = {.kind = 3, .weight.dtype = LISA_DTYPE_F32};
    ck_assert_int_eq(be->ops->norm_forward(be, &norm), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(host.text, "norm kind"));
    lisa_activation activation = {.kind = 0};
    ck_assert_int_eq(be->ops->activation_backward(be, &activation), LISA_E_INVAL);
    lisa_attention attention = {.heads = 3, .kv_heads = 2};
    ck_assert_int_eq(be->ops->attention_forward(be, &attention), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(host.text, "kv_heads"));
    attention = (lisa_attention){.heads = 2, .kv_heads = 2, .n_queries = 3, .n_keys = 2};
    ck_assert_int_eq(be->ops->attention_forward(be, &attention), LISA_E_INVAL);
    attention = (lisa_attention){.heads = 1, .kv_heads = 1, .n_keys = 2, .key_stride = 2};
    ck_assert_int_eq(be->ops->attention_backward(be, &attention), LISA_E_INVAL);
    lisa_master master = {.what = LISA_MASTER_OPEN, .weight.dtype = LISA_DTYPE_F32};
    ck_assert_int_eq(be->ops->master(be, &master), LISA_E_INVAL);
    lisa_adamw adamw = {.weight.dtype = LISA_DTYPE_F32, .moments = LISA_MOMENTS_8BIT + 1};
    ck_assert_int_eq(be->ops->adamw(be, &adamw), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(host.text, "moments"));
}
END_TEST

/* A first update with betas of 0: m is the gradient, v its square. */
static void keep_once(const double *gradient, size_t n, uint64_t stream, uint8_t *m, uint8_t *v,
                      float scales[2]) {
    double weight[8] = {0};
    memset(m, 0, n);
    memset(v, 0, n);
    scales[0] = scales[1] = 0.0f;
    const lisa_control control = {.scale = 1.0};
    const lisa_adamw op = {.n = n,
                           .weight = f64(weight),
                           .gradient = gradient,
                           .m = m,
                           .v = v,
                           .moments = LISA_MOMENTS_8BIT,
                           .m_scale = &scales[0],
                           .v_scale = &scales[1],
                           .seed = 3,
                           .stream = stream,
                           .eps = 1e-8,
                           .control = &control,
                           .correction1 = 1.0,
                           .correction2 = 1.0};
    OK(be->ops->adamw(be, &op));
}

/* Numbers that have a code: sign, exponent and mantissa are where lisa_adamw's comment puts them.
 */
START_TEST(codes) {
    static const double g[] = {1.5, -1.0, 0.0, 0x1p-14, -0x1.8p-16, 0x1p-20};
    static const uint8_t m_want[] = {0x7C, 0x80 | 0x78, 0, 0x08, 0x80 | 0x03, 0};
    uint8_t m[6], v[6];
    float scales[2];
    keep_once(g, 6, 0, m, v, scales);
    ck_assert_float_eq(scales[0], 1.0f);
    ck_assert_float_eq(scales[1], 2.0f); /* 2.25 is more than 1.875 */
    for (int i = 0; i < 5; i++)
        ck_assert_msg(m[i] == m_want[i], "code of %g is %#x, not %#x", g[i], m[i], m_want[i]);
    ck_assert_uint_le(m[5], 1);    /* 2^-20 is an eighth of the least code */
    ck_assert_uint_eq(v[0], 0xF9); /* 1.125 times 2 */
    ck_assert_uint_eq(v[1], 0xF0);
    ck_assert_uint_eq(v[2], 0);
    ck_assert_uint_eq(v[3], 0x10); /* 2^-29 of 2 */
    static const double top[] = {1.875, 1.9375};
    keep_once(top, 1, 0, m, v, scales);
    ck_assert_float_eq(scales[0], 1.0f);
    keep_once(top + 1, 1, 0, m, v, scales);
    ck_assert_float_eq(scales[0], 2.0f);
}
END_TEST

/* v > 0 keeps a code above 0, also where the block or a float has nothing so small. */
START_TEST(codes_of_little) {
    static const double g[] = {1.0, 1e-10, 0.0}, tiny[] = {1e-25}, below[] = {0x1p-50};
    uint8_t m[3], v[3];
    float scales[2];
    for (uint64_t stream = 0; stream < 50; stream++) {
        keep_once(g, 3, stream, m, v, scales);
        ck_assert_uint_eq(v[1], 1);
        ck_assert_uint_eq(v[2], 0);
        keep_once(tiny, 1, stream, m, v, scales);
        ck_assert_uint_eq(v[0], 1);
        keep_once(below, 1, stream, m, v, scales); /* v = 2^-100 */
        ck_assert_float_eq(scales[1], 0x1p-96f);
        ck_assert_uint_eq(v[0], 0xF8 - 4 * 8);
    }
}
END_TEST

/* What is not finite stays, as the scale of its block; a large but finite v is finite. */
START_TEST(codes_of_much) {
    static const double infinite[] = {1e200, 0.0, 1.0}, large[] = {1e19, 1.0, 0.0};
    const double nan[] = {NAN, 0.0, 1.0};
    uint8_t m[3], v[3];
    float scales[2];
    keep_once(infinite, 3, 0, m, v, scales);
    ck_assert_float_eq(scales[0], 0x1p127f); /* m is finite as a double */
    ck_assert(isinf(scales[1]));
    ck_assert_uint_eq(v[0], 255);
    ck_assert_uint_eq(v[1], 0);
    ck_assert_uint_eq(v[2], 255);
    keep_once(nan, 3, 0, m, v, scales);
    ck_assert(isnan(scales[0]) && isnan(scales[1]));
    ck_assert(v[0] != 0 && m[0] != 0 && v[1] == 0);
    keep_once(large, 3, 0, m, v, scales);
    ck_assert_float_eq(scales[1], 0x1p126f);
    ck_assert_uint_eq(v[1], 1);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("the reference's meaning");
    TCase *tcase = tcase_create("meaning");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, activations, LISA_ACT_SILU, LISA_ACT_RELU + 1);
    tcase_add_test(tcase, norms);
    tcase_add_test(tcase, rope);
    tcase_add_test(tcase, attention_sees);
    tcase_add_test(tcase, attention_groups_heads);
    tcase_add_test(tcase, attention_weighs);
    tcase_add_test(tcase, cross_entropy);
    tcase_add_test(tcase, masters_make_the_round_trip);
    tcase_add_test(tcase, masters_split_to_nearest);
    tcase_add_test(tcase, doubles_are_rounded_once);
    tcase_add_test(tcase, codes);
    tcase_add_test(tcase, codes_of_little);
    tcase_add_test(tcase, codes_of_much);
    tcase_add_test(tcase, refusals_have_a_text);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

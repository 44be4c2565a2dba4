/* The inner loops of the cpu backend: their bounds, and that every instruction set gives the same
 * bits. */
#include "backend/cpu/vector.h"
#include "backend/elementwise.h"

#include "check_main.h"

#include <string.h>

enum { MAX_SETS = 3, N = 1003 };

static const struct lisa__vector *sets[MAX_SETS];
static size_t n_sets;

/* From the one for every processor up to the best of this one. */
static void find_sets(void) {
    static const struct lisa__vector *const all[] = {&lisa__vector_base, &lisa__vector_avx2,
                                                     &lisa__vector_avx512};
    n_sets = 0;
    for (size_t i = 0; i < MAX_SETS; i++) {
        sets[n_sets++] = all[i];
        if (all[i] == lisa__vector_choose())
            break;
    }
}

static uint32_t state = 1;

static float draw(float low, float high) {
    state = state * 1664525u + 1013904223u;
    return low + (high - low) * (float)(state >> 8) / (1 << 24);
}

static void fill(float *x, size_t n, float low, float high) {
    for (size_t i = 0; i < n; i++)
        x[i] = draw(low, high);
}

static float exp_of(float x) {
    sets[0]->exponentiate(&x, 0.0f, 1.0f, 1);
    return x;
}

START_TEST(test_exp) {
    double worst = 0.0;
    for (float x = -86.0f; x <= 88.722f; x += 0.00137f) {
        double right = exp(x);
        worst = fmax(worst, fabs(exp_of(x) - right) / right);
    }
    ck_assert_double_lt(worst, 3e-7);
    ck_assert_float_eq(exp_of(0.0f), 1.0f);
    ck_assert_float_eq(exp_of(-86.01f), 0.0f);
    ck_assert_float_eq(exp_of(-INFINITY), 0.0f);
    ck_assert_float_eq(exp_of(88.73f), INFINITY);
    ck_assert_float_eq(exp_of(INFINITY), INFINITY);
    ck_assert(isnan(exp_of(NAN)));
}
END_TEST

static void check_activation(uint32_t kind, float x) {
    float value, slope, one = 1.0f;
    sets[0]->activate(kind, &value, &x, NULL, 1);
    sets[0]->activate_back(kind, &slope, NULL, &x, NULL, &one, 1);
    double right = lisa__activation(kind, x), right_slope = lisa__activation_slope(kind, x);
    ck_assert_msg(fabs(value - right) <= 5e-7 * fmax(1.0, fabs(right)), "kind %u at %g: %g, not %g",
                  kind, x, value, right);
    ck_assert_msg(fabs(slope - right_slope) <= 5e-7 * fmax(1.0, fabs(right_slope)),
                  "kind %u at %g: slope %g, not %g", kind, x, slope, right_slope);
}

START_TEST(test_activations) {
    static const float far[] = {0.0f,    -0.0f, 99.0f, -99.0f, 101.0f,
                                -101.0f, 1e4f,  -1e4f, 1e15f,  -1e15f};
    for (uint32_t kind = LISA_ACT_SILU; kind <= LISA_ACT_RELU; kind++) {
        for (float x = -20.0f; x <= 20.0f; x += 0.00317f)
            check_activation(kind, x);
        for (size_t i = 0; i < sizeof far / sizeof *far; i++)
            check_activation(kind, far[i]);
        float x = NAN, y;
        sets[0]->activate(kind, &y, &x, NULL, 1);
        ck_assert(isnan(y));
    }
}
END_TEST

/* All 65536 values of both 16-bit types, in every set. */
START_TEST(test_halves) {
    static uint16_t halves[65536];
    static float wide[65536];
    for (uint32_t i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    for (size_t s = 0; s < n_sets; s++) {
        sets[s]->widen(wide, halves, LISA_DTYPE_BF16, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            ck_assert_uint_eq(lisa__bits_of(wide[i]), i << 16);
        sets[s]->widen(wide, halves, LISA_DTYPE_F16, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            ck_assert_uint_eq(lisa__bits_of(wide[i]), lisa__bits_of(lisa__f16_to_f32((uint16_t)i)));
    }
}
END_TEST

START_TEST(test_narrowing) {
    static float wide[N];
    static uint16_t bf16[N], f16[N];
    for (int round = 0; round < 100; round++) {
        for (size_t i = 0; i < N; i++)
            wide[i] =
                round % 2 ? draw(-1.0f, 1.0f) : lisa__float_of((state = state * 1664525u + 1));
        for (size_t s = 0; s < n_sets; s++) {
            sets[s]->narrow(bf16, LISA_DTYPE_BF16, wide, N);
            sets[s]->narrow(f16, LISA_DTYPE_F16, wide, N);
            for (size_t i = 0; i < N; i++) {
                ck_assert_uint_eq(bf16[i], lisa__f32_to_bf16(wide[i]));
                ck_assert_uint_eq(f16[i], lisa__f32_to_f16(wide[i]));
            }
        }
    }
}
END_TEST

/* Everything that one set computes from the same inputs, in one struct. */
struct results {
    float scaled[N], added[N], x[N], y[N], normal[N], input[N], weights[N], slopes[N], lanes[2][16];
    float value[N], dgate[N], dup[N], w[N], m[N], v[N];
    float dots[3], largest, sum_exp;
    double columns[N], sums[2], dw[N], db[N], sum, squares;
    uint16_t half[N];
    int16_t low[N];
    uint8_t kept[2][2][2 * N]; /* m and v, as BF16 and as 8BIT */
    float loaded[2][2][N], scales[2];
};

struct inputs {
    float a[N], b[N], c[N], positive[N];
    uint16_t half[N];
    uint32_t draws[N];
};

static void normalise_all(const struct lisa__vector *set, const struct inputs *in, size_t n,
                          struct results *out) {
    const struct lisa__moments s = {0.125f, 1.5f};
    const float means[2] = {0.25f, -0.5f};
    out->sum = set->sum(in->a, n);
    out->squares = set->sum_squares(in->a, 0.1f, n);
    set->add_columns(out->columns, in->a, n);
    set->normalize(out->normal, in->a, s, in->b, in->c, n);
    set->norm_sums(out->sums, in->a, in->b, s, in->c, n);
    set->norm_input(out->input, in->a, in->b, s, in->c, means, 1, n);
    set->norm_columns(out->dw, out->db, in->a, in->b, s, n);
}

static void keep_all(const struct lisa__vector *set, const struct inputs *in, size_t n,
                     struct results *out) {
    const size_t block = n < LISA_MOMENTS_BLOCK ? n : LISA_MOMENTS_BLOCK;
    for (int i = 0; i < 2; i++) {
        const uint32_t moments = i == 0 ? LISA_MOMENTS_BF16 : LISA_MOMENTS_8BIT;
        const struct lisa__kept kept = {out->kept[0][i], out->kept[1][i], &out->scales[0],
                                        &out->scales[1]};
        set->kept_store(moments, kept, in->a, in->positive, in->draws, block);
        set->kept_load(moments, kept, out->loaded[0][i], out->loaded[1][i], block);
    }
}

static void compute_all(const struct lisa__vector *set, const struct inputs *in, size_t n,
                        struct results *out) {
    const struct lisa__adamw_factors f = {0.5f,   0.99f, 0.9f, 0.1f, 0.999f,
                                          0.001f, 1e-2f, 0.7f, 1e-8f};
    const size_t bytes = n * sizeof(float);
    memset(out, 0, sizeof *out);
    normalise_all(set, in, n, out);
    memcpy(out->scaled, in->a, bytes), set->scale(out->scaled, 0.3f, n);
    memcpy(out->added, in->a, bytes), set->add(out->added, in->b, n);
    memcpy(out->x, in->a, bytes), memcpy(out->y, in->b, bytes);
    set->rotate(out->x, out->y, in->b, in->c, -1.0f, n);
    out->dots[0] = set->dot(in->a, in->b, LISA_DTYPE_F32, n);
    out->dots[1] = set->dot(in->a, in->half, LISA_DTYPE_BF16, n);
    out->dots[2] = set->dot(in->a, in->half, LISA_DTYPE_F16, n);
    out->largest = set->maximum(in->a, n);
    out->sum_exp = set->sum_exp(in->a, 1.0f, n);
    memcpy(out->weights, in->a, bytes);
    set->exponentiate(out->weights, 1.0f, 0.7f, n);
    memcpy(out->slopes, in->b, bytes);
    set->lane_maximum(out->lanes[0], in->a, 16, n / 16, 16);
    set->lane_exp(out->lanes[1], out->slopes, 16, out->lanes[0], n / 16, 16);
    set->lane_slope(out->slopes, in->a, 16, out->lanes[1], 0.3f, n / 16, 16);
    for (uint32_t kind = LISA_ACT_SILU; kind <= LISA_ACT_RELU; kind++) {
        float value[N];
        set->activate(kind, value, in->a, in->b, n);
        set->add(out->value, value, n);
        set->activate_back(kind, out->dgate, value, in->a, in->b, in->c, n);
        set->add(out->dup, value, n);
    }
    memcpy(out->m, in->b, bytes), memcpy(out->v, in->positive, bytes);
    memcpy(out->half, in->half, n * 2);
    set->adamw(&f, (lisa_typed){out->half, LISA_DTYPE_BF16}, out->low, in->a, out->m, out->v, n);
    memcpy(out->w, in->c, bytes);
    set->adamw(&f, (lisa_typed){out->w, LISA_DTYPE_F32}, NULL, in->b, out->m, out->v, n);
    keep_all(set, in, n, out);
}

START_TEST(test_sets_agree) {
    static struct inputs in;
    static struct results base, other;
    static const size_t lengths[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, N};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        fill(in.a, N, -8.0f, 8.0f), fill(in.b, N, -1.0f, 1.0f), fill(in.c, N, -1.0f, 1.0f);
        fill(in.positive, N, 0.0f, 1.0f);
        for (size_t j = 0; j < N; j++) {
            in.draws[j] = lisa__bits_of(in.b[j]) * 2654435761u;
            in.positive[j] =
                ldexpf(in.positive[j], -(int)(j % 40)); /* over all of a code's range */
        }
        sets[0]->narrow(in.half, LISA_DTYPE_BF16, in.c, N);
        compute_all(sets[0], &in, lengths[i], &base);
        for (size_t s = 1; s < n_sets; s++) {
            compute_all(sets[s], &in, lengths[i], &other);
            ck_assert_msg(memcmp(&base, &other, sizeof base) == 0, "%s differs at length %zu",
                          sets[s]->name, lengths[i]);
        }
    }
}
END_TEST

/* Also where the counter's lower word overflows. */
START_TEST(test_draws) {
    static const uint64_t blocks[] = {0, 12345, UINT32_MAX - 20, UINT64_MAX - 40};
    const uint64_t seed = 0x0123456789ABCDEFu, stream = 0xFEDCBA9876543210u;
    uint32_t words[LISA_CPU_DRAWS], expected[4];
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
            sets[s]->draws(seed, stream, blocks[b], words);
            for (uint64_t i = 0; i < LISA_CPU_DRAWS / 4; i++) {
                lisa__philox(seed, blocks[b] + i, stream, expected);
                ck_assert_msg(memcmp(words + 4 * i, expected, sizeof expected) == 0,
                              "%s: block %zu + %zu", sets[s]->name, b, (size_t)i);
            }
        }
    }
}
END_TEST

static Suite *vector_suite(void) {
    find_sets();
    Suite *suite = suite_create("cpu vectors");
    TCase *tcase = tcase_create("cpu vectors");
    tcase_add_test(tcase, test_exp);
    tcase_add_test(tcase, test_activations);
    tcase_add_test(tcase, test_halves);
    tcase_add_test(tcase, test_narrowing);
    tcase_add_test(tcase, test_draws);
    tcase_add_test(tcase, test_sets_agree);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(vector_suite)

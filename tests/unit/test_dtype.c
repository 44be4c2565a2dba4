/* Conversions of single values, against a formula in double that knows nothing of bit tricks. */
#include "core/dtype.h"

#include "check_main.h"

#include <float.h>
#include <math.h>

/* A 16-bit format: exponent bits, mantissa bits, and what the library makes of it. */
static const struct format {
    uint32_t dtype;
    int exponent_bits;
    int mantissa_bits;
    float (*widen)(uint16_t value);
    uint16_t (*narrow)(float value);
} formats[] = {
    {LISA_DTYPE_BF16, 8, 7, lisa__bf16_to_f32, lisa__f32_to_bf16},
    {LISA_DTYPE_F16, 5, 10, lisa__f16_to_f32, lisa__f32_to_f16},
};
enum { N_FORMATS = 2 };

static int bias_of(const struct format *format) {
    return (1 << (format->exponent_bits - 1)) - 1;
}

static double decode(const struct format *format, uint16_t pattern) {
    const int mantissa = pattern & ((1 << format->mantissa_bits) - 1);
    const int largest = (1 << format->exponent_bits) - 1;
    const int exponent = pattern >> format->mantissa_bits & largest;
    const double sign = pattern & 0x8000 ? -1 : 1;
    if (exponent == largest)
        return mantissa == 0 ? sign * (double)INFINITY : (double)NAN;
    const int hidden = exponent == 0 ? 0 : 1 << format->mantissa_bits;
    const int power = (exponent == 0 ? 1 : exponent) - bias_of(format) - format->mantissa_bits;
    return sign * ldexp(hidden + mantissa, power);
}

/* The nearest value of the format, ties to even (nearbyint's default). */
static double rounded(const struct format *format, double value) {
    const int least = 1 - bias_of(format);
    const double limit = ldexp(1, bias_of(format) + 1);
    if (isinf(value) || value == 0)
        return value;
    const int exponent = ilogb(value) > least ? ilogb(value) : least;
    const int power = exponent - format->mantissa_bits;
    const double result = ldexp(nearbyint(ldexp(value, -power)), power);
    return fabs(result) >= limit ? copysign((double)INFINITY, value) : result;
}

static void expect_narrowed(const struct format *format, float value) {
    const uint16_t pattern = format->narrow(value);
    const double result = decode(format, pattern);
    const double expected = rounded(format, (double)value);
    if (result != expected || !signbit(result) != !signbit(value))
        ck_abort_msg("%a (%08x) became %04x = %a, expected %a", (double)value, lisa__bits_of(value),
                     pattern, result, expected);
}

START_TEST(every_pattern_widens_and_comes_back) {
    const struct format *format = &formats[_i];
    for (uint32_t p = 0; p <= 0xFFFF; p++) {
        const uint16_t pattern = (uint16_t)p;
        const double expected = decode(format, pattern);
        const float value = format->widen(pattern);
        const uint16_t back = format->narrow(value);
        if (isnan(expected)) {
            if (!isnan(value) || !isnan(decode(format, back)) || (back ^ pattern) & 0x8000)
                ck_abort_msg("NaN %04x became %a and %04x", pattern, (double)value, back);
        } else if ((double)value != expected || !signbit(value) != !signbit(expected) ||
                   back != pattern) {
            ck_abort_msg("%04x became %a and %04x, expected %a", pattern, (double)value, back,
                         expected);
        }
    }
}
END_TEST

/* Between every two neighbours, the infinity after the largest included. */
START_TEST(ties_round_to_even) {
    const struct format *format = &formats[_i];
    const int infinity = ((1 << format->exponent_bits) - 1) << format->mantissa_bits;
    for (int p = 0; p < infinity; p++) {
        const double low = decode(format, (uint16_t)p);
        const double high =
            p + 1 < infinity ? decode(format, (uint16_t)(p + 1)) : ldexp(1, bias_of(format) + 1);
        const float middle = (float)(low + (high - low) / 2);
        const uint16_t even = (uint16_t)(p + (p & 1));
        if (format->narrow(middle) != even || format->narrow(-middle) != (even | 0x8000))
            ck_abort_msg("the tie %a became %04x, expected %04x", (double)middle,
                         format->narrow(middle), even);
        if (format->narrow(nextafterf(middle, -FLT_MAX)) != p ||
            format->narrow(nextafterf(middle, INFINITY)) != p + 1)
            ck_abort_msg("beside the tie %a", (double)middle);
    }
}
END_TEST

START_TEST(floats_of_all_sizes_narrow) {
    const struct format *format = &formats[_i];
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 4093) {
        const float value = lisa__float_of((uint32_t)bits);
        if (!isnan(value))
            expect_narrowed(format, value);
        else if (!isnan(decode(format, format->narrow(value))))
            ck_abort_msg("NaN %08x became a number", (uint32_t)bits);
    }
    expect_narrowed(format, FLT_MAX);
    expect_narrowed(format, -FLT_MAX);
    expect_narrowed(format, FLT_MIN);
    expect_narrowed(format, FLT_TRUE_MIN);
    expect_narrowed(format, -0.0f);
    expect_narrowed(format, -INFINITY);
}
END_TEST

/* Payloads that lie below what a 16-bit NaN can hold must not turn into infinity. */
START_TEST(nan_stays_nan_with_its_sign) {
    const struct format *format = &formats[_i];
    const uint32_t nans[] = {0x7F800001, 0x7FC00000, 0x7FFFFFFF,
                             0xFF800001, 0xFFFFFFFF, 0xFF80FFFF};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        const uint16_t pattern = format->narrow(lisa__float_of(nans[i]));
        ck_assert(isnan(decode(format, pattern)));
        ck_assert_uint_eq(pattern >> 15, nans[i] >> 31);
    }
}
END_TEST

START_TEST(arrays_of_every_type_load_and_store) {
    const uint32_t dtypes[] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16, LISA_DTYPE_F64};
    const size_t sizes[] = {4, 2, 2, 8};
    /* The last is no float: f64 alone keeps it. */
    const double values[] = {0, -1.5, 0.09375, 240, 1 + 0x1p-40};
    for (int d = 0; d < 4; d++) {
        unsigned char bytes[48];
        memset(bytes, 0x5A, sizeof bytes);
        const size_t size = lisa__dtype_size(dtypes[d]);
        ck_assert_uint_eq(size, sizes[d]);
        double array[6]; /* aligned for every type */
        memcpy(array, bytes, sizeof array);
        for (size_t i = 0; i < 5; i++)
            lisa__store(array, dtypes[d], i, values[i]);
        for (size_t i = 0; i < 5; i++)
            ck_assert_double_eq(lisa__load(array, dtypes[d], i),
                                i == 4 && dtypes[d] != LISA_DTYPE_F64 ? 1 : values[i]);
        ck_assert_mem_eq((unsigned char *)array + 5 * size, bytes, sizeof bytes - 5 * size);
    }
    ck_assert_uint_eq(lisa__dtype_size(0), 0);
    ck_assert_uint_eq(lisa__dtype_size(5), 0);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("dtype");
    TCase *tcase = tcase_create("dtype");
    tcase_add_loop_test(tcase, every_pattern_widens_and_comes_back, 0, N_FORMATS);
    tcase_add_loop_test(tcase, ties_round_to_even, 0, N_FORMATS);
    tcase_add_loop_test(tcase, floats_of_all_sizes_narrow, 0, N_FORMATS);
    tcase_add_loop_test(tcase, nan_stays_nan_with_its_sign, 0, N_FORMATS);
    tcase_add_test(tcase, arrays_of_every_type_load_and_store);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

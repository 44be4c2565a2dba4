/* The choice of a token against the same rule written down naively: everything sorted, in long
 * double; and against what is known of the draw. */
#include "model/choose.h"

#include "check_main.h"
#include "noise.h"
#include "rig.h"
#include "sampler/philox.h"

#include <math.h>
#include <string.h>

enum { MOST = 2000 };

static double logits[MOST];
static uint32_t scratch[MOST];

static uint32_t choose(const struct lisa__choice *how, uint32_t n, uint64_t index) {
    memset(scratch, 0xFF, sizeof scratch);
    return lisa__choose(how, logits, n, scratch, index);
}

static int by_rank(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (logits[x] != logits[y])
        return logits[x] > logits[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Tokens by rank, with the probability of each after all filters; returns how many are left. */
static uint32_t reference(const struct lisa__choice *how, uint32_t n, uint32_t *ids,
                          long double *probability) {
    uint32_t left = how->top_k != 0 && how->top_k < n ? how->top_k : n, kept = 0;
    long double total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i;
    qsort(ids, n, sizeof *ids, by_rank);
    for (uint32_t i = 0; i < left; i++) {
        probability[i] = expl(((long double)logits[ids[i]] - logits[ids[0]]) / how->temperature);
        total += probability[i];
    }
    const long double least = how->top_p > 0 && how->top_p < 1 ? how->top_p * total : total * 2;
    while (kept < left && sum < least)
        sum += probability[kept++];
    for (uint32_t i = 0; i < kept; i++)
        probability[i] /= sum;
    return kept;
}

static long double uniform(uint64_t seed, uint64_t index) {
    uint32_t word[4];
    lisa__philox(seed, index, 0, word);
    return ldexpl((long double)((uint64_t)(word[0] >> 5) * 67108864 + (word[1] >> 6)), -53);
}

static uint32_t reference_choice(const struct lisa__choice *how, uint32_t n, uint64_t index) {
    static uint32_t ids[MOST];
    static long double probability[MOST];
    const uint32_t left = reference(how, n, ids, probability);
    const long double u = uniform(how->seed, index);
    long double sum = 0;
    for (uint32_t i = 0; i < left; i++)
        if ((sum += probability[i]) > u)
            return ids[i];
    return ids[left - 1];
}

/* Logits of several kinds: spread out, nearly flat, with many ties, and with one token far above.
 */
static void make_logits(uint32_t n, uint64_t *state) {
    const uint32_t kind = noise_below(state, 4);
    static const double scales[] = {8, 0.1, 3, 2};
    noise_fill(logits, n, scales[kind], state);
    for (uint32_t i = 0; kind == 2 && i < n; i++)
        logits[i] = floor(logits[i]);
    if (kind == 3)
        logits[noise_below(state, n)] = 40;
}

START_TEST(as_written_down) {
    static const uint32_t sizes[] = {1, 2, 3, 17, 64, 501, MOST};
    static const double temperatures[] = {0.05, 0.7, 1, 3, 1e6}, top_ps[] = {0, 1e-9, 0.3, 0.9, 1};
    uint64_t state = 1;
    for (uint64_t i = 0; i < 4000; i++) {
        const uint32_t n = sizes[noise_below(&state, 7)];
        const uint32_t top_ks[] = {0, 1, 2, 1 + noise_below(&state, n), n, n + 5};
        const struct lisa__choice how = {temperatures[noise_below(&state, 5)],
                                         top_ps[noise_below(&state, 5)],
                                         top_ks[noise_below(&state, 6)], noise_bits(&state)};
        make_logits(n, &state);
        const uint32_t found = choose(&how, n, i), expected = reference_choice(&how, n, i);
        ck_assert_msg(found == expected, "T %g, top_k %u, top_p %g of %u: %u, expected %u",
                      how.temperature, how.top_k, how.top_p, n, found, expected);
    }
}
END_TEST

/* Pearson's statistic of DRAWS draws with seeds 0, 1, 2 ... stays below the 0.999 quantile of
 * chi-square (Wilson and Hilferty's approximation). */
START_TEST(frequencies_are_probabilities) {
    enum { N = 40, DRAWS = 20000 };
    static const struct lisa__choice ways[] = {
        {1, 0, 0, 0}, {0.5, 0, 0, 0}, {2, 0, 7, 0}, {1, 0.8, 0, 0}, {1.5, 0.9, 12, 0}};
    uint32_t ids[N], counts[N] = {0};
    long double probability[N];
    uint64_t state = 3;
    noise_fill(logits, N, 2, &state);
    struct lisa__choice how = ways[_i];
    const uint32_t left = reference(&how, N, ids, probability);
    for (how.seed = 0; how.seed < DRAWS; how.seed++)
        counts[choose(&how, N, 5)]++;
    double statistic = 0;
    uint32_t seen = 0;
    for (uint32_t i = 0; i < left; i++) {
        const double expected = (double)probability[i] * DRAWS;
        statistic += pow(counts[ids[i]] - expected, 2) / expected;
        seen += counts[ids[i]];
    }
    const double f = left - 1, w = 2 / (9 * f);
    ck_assert_uint_eq(seen, DRAWS); /* nothing that was filtered out */
    ck_assert_uint_gt(left, 3);
    ck_assert_double_lt(statistic, f * pow(1 - w + 3.09 * sqrt(w), 3));
}
END_TEST

START_TEST(no_temperature_is_greedy) {
    const struct lisa__choice how = {0, 0.5, 3, 9};
    uint64_t state = 5;
    make_logits(100, &state);
    logits[70] = logits[30] = 41;
    ck_assert_uint_eq(lisa__choose(&how, logits, 100, NULL, 0), 30);
}
END_TEST

START_TEST(one_token_is_greedy) {
    uint64_t state = 6;
    for (uint64_t i = 0; i < 200; i++) {
        const struct lisa__choice greedy = {0, 0, 0, 0}, top_k = {2, 0, 1, i},
                                  top_p = {2, 1e-6, 0, i}, cold = {1e-300, 0, 0, i};
        make_logits(64, &state);
        const uint32_t best = choose(&greedy, 64, 0);
        ck_assert_uint_eq(choose(&top_k, 64, i), best);
        ck_assert_uint_eq(choose(&top_p, 64, i), best);
        ck_assert(logits[choose(&cold, 64, i)] == logits[best]);
    }
}
END_TEST

/* Of equals the lower ids stay: of 10, three by top_k, and half the mass by top_p. */
START_TEST(ties_go_to_the_lower_id) {
    for (int i = 0; i < 10; i++)
        logits[i] = 1;
    for (uint64_t seed = 0; seed < 300; seed++) {
        const struct lisa__choice top_k = {1, 0, 3, seed}, top_p = {1, 0.5, 0, seed};
        ck_assert_uint_lt(choose(&top_k, 10, 0), 3);
        ck_assert_uint_lt(choose(&top_p, 10, 0), 5);
    }
}
END_TEST

/* Far apart, at the ends of what a double holds: the likely one is drawn, never one of mass 0. */
START_TEST(extremes) {
    const double most = 1.7e308;
    for (uint64_t seed = 0; seed < 300; seed++) {
        const struct lisa__choice plain = {1, 0, 0, seed}, filtered = {1e-3, 0.99, 2, seed};
        for (int i = 0; i < 8; i++)
            logits[i] = i == 6 ? most : -most;
        ck_assert_uint_eq(choose(&plain, 8, 0), 6);
        ck_assert_uint_eq(choose(&filtered, 8, 0), 6);
    }
}
END_TEST

/* What lisa_model_generate hands over: all its options, and the number of the token. With a head of
 * zeros every token is as likely as any other, so that the draw alone decides. */
START_TEST(generate_asks_for_it) {
    enum { N_NEW = 20 };
    const int32_t prompt[] = {1, 2, 3};
    int32_t made[N_NEW];
    uint32_t index = 0, n_made = 0;
    rig_spec spec;
    rig r;
    lisa_generate_options options;
    rig_spec_init(&spec, _i == 0 ? "reference64" : "cpu");
    rig_make(&r, &spec);
    OK(lisa_model_tensor_find(r.model, "lm_head.weight", &index));
    double *values = rig_read(&r, index);
    const uint64_t n_values = rig_tensor(&r, index).n_elements;
    memset(values, 0, n_values * sizeof *values);
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, n_values));
    free(values);
    OK(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = N_NEW;
    options.temperature = 0.5;
    options.seed = UINT64_C(0x123456789abcdef0);
    static const struct {
        uint32_t top_k;
        double top_p;
        uint32_t left;
    } ways[] = {{0, 0, 61}, {7, 0, 7}, {0, 0.5, 31}, {20, 0.25, 5}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        options.top_k = ways[w].top_k;
        options.top_p = ways[w].top_p;
        OK(lisa_model_generate(r.model, prompt, 3, &options, made, &n_made));
        ck_assert_uint_eq(n_made, N_NEW);
        for (uint32_t i = 0; i < n_made; i++)
            ck_assert_int_eq(made[i], (int32_t)(uniform(options.seed, i) * ways[w].left));
    }
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("choose");
    TCase *tcase = tcase_create("choose");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, as_written_down);
    tcase_add_loop_test(tcase, frequencies_are_probabilities, 0, 5);
    tcase_add_test(tcase, no_temperature_is_greedy);
    tcase_add_test(tcase, one_token_is_greedy);
    tcase_add_test(tcase, ties_go_to_the_lower_id);
    tcase_add_test(tcase, extremes);
    tcase_add_loop_test(tcase, generate_asks_for_it, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

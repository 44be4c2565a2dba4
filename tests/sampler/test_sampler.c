/* The sampler: distributions, the edges of its options, purity, and the vectors of docs/lisa.md.
 *
 * Seeds are fixed, so nothing here is up to chance. Bounds are such that a right sampler with a
 * fresh seed would miss one about once in a thousand seeds (chi-square: its degrees of freedom plus
 * four standard deviations) or a million (counts: five standard deviations). */
#include "lisa/sampler.h"

#include "check_main.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define MAX_LAYERS LISA_SAMPLER_MAX_LAYERS

/* For loops of many thousand turns: Check's own assertions write to a pipe even when they hold. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s is false", #condition);                                               \
    } while (0)

static lisa_sampler_options options_of(uint32_t kind, uint32_t n_layers, uint32_t n_active) {
    lisa_sampler_options options;
    ck_assert_int_eq(lisa_sampler_options_init(&options, sizeof options), LISA_OK);
    options.kind = kind;
    options.n_layers = n_layers;
    options.n_active = n_active;
    options.interval_steps = 1;
    options.seed = 20240326;
    return options;
}

static lisa_sampler *create(const lisa_sampler_options *options) {
    lisa_sampler *sampler = NULL;
    const lisa_status status = lisa_sampler_create(&sampler, options);
    ck_assert_msg(status == LISA_OK, "%s: %s", lisa_status_name(status), lisa_error_last());
    return sampler;
}

/* Lists the layers that train at a step; returns how many. */
static uint32_t layers_at(const lisa_sampler *sampler, uint64_t step, uint32_t *layers) {
    uint8_t mask[MAX_LAYERS + 2];
    const uint32_t n_layers = lisa_sampler_n_groups(sampler) - 2;
    uint32_t n = 0;
    REQUIRE(lisa_sampler_mask(sampler, step, mask, n_layers + 2) == LISA_OK);
    for (uint32_t l = 0; l < n_layers; l++) {
        REQUIRE(mask[1 + l] <= 1);
        if (mask[1 + l])
            layers[n++] = l;
    }
    return n;
}

static void expect_layers(const lisa_sampler *sampler, uint64_t step, uint32_t n,
                          const uint32_t *expected) {
    uint32_t layers[MAX_LAYERS];
    REQUIRE(layers_at(sampler, step, layers) == n);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_uint_eq(layers[i], expected[i]);
}

/* ---- distributions ---- */

static double chi_square(const uint32_t *counts, uint32_t n, double expected) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    return sum;
}

static void expect_chi_square(double statistic, uint32_t freedom, const char *what) {
    const double bound = 4 * sqrt(2.0 * freedom);
    ck_assert_msg(fabs(statistic - freedom) < bound,
                  "%s: chi-square %.1f with %u degrees of freedom", what, statistic, freedom);
}

static uint32_t kinds_of_uniform_pairs(int i) {
    static const uint32_t kinds[] = {LISA_SAMPLER_UNIFORM, LISA_SAMPLER_WEIGHTED};
    return kinds[i];
}

/* With weights that no binary fraction equals, so that WEIGHTED's rounding is exercised. */
static lisa_sampler *create_even(uint32_t kind, uint32_t n_layers, uint32_t n_active) {
    double weights[MAX_LAYERS];
    lisa_sampler_options options = options_of(kind, n_layers, n_active);
    for (uint32_t l = 0; l < n_layers; l++)
        weights[l] = 0.1;
    options.weights = weights;
    return create(&options);
}

START_TEST(marginals_are_uniform) {
    enum { LAYERS = 30, ACTIVE = 4, PERIODS = 30000 };
    lisa_sampler *sampler = create_even(kinds_of_uniform_pairs(_i), LAYERS, ACTIVE);
    uint32_t counts[LAYERS] = {0}, layers[LAYERS];
    for (uint64_t step = 0; step < PERIODS; step++) {
        REQUIRE(layers_at(sampler, step, layers) == ACTIVE);
        for (uint32_t i = 0; i < ACTIVE; i++)
            counts[layers[i]]++;
    }
    /* Counts of a draw without replacement vary less than a multinomial's, by this factor. */
    const double factor = (double)(LAYERS - ACTIVE) / (LAYERS - 1);
    expect_chi_square(chi_square(counts, LAYERS, (double)PERIODS * ACTIVE / LAYERS) / factor,
                      LAYERS - 1, "marginals");
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(pairs_are_uniform) {
    enum { LAYERS = 32, PAIRS = LAYERS * (LAYERS - 1) / 2, PERIODS = 100 * PAIRS };
    lisa_sampler *sampler = create_even(kinds_of_uniform_pairs(_i), LAYERS, 2);
    uint32_t counts[PAIRS] = {0}, layers[LAYERS];
    for (uint64_t step = 0; step < PERIODS; step++) {
        REQUIRE(layers_at(sampler, step, layers) == 2);
        counts[layers[1] * (layers[1] - 1) / 2 + layers[0]]++;
    }
    expect_chi_square(chi_square(counts, PAIRS, 100), PAIRS - 1, "pairs");
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(triples_are_uniform) {
    enum { LAYERS = 8, TRIPLES = 56, PERIODS = 200 * TRIPLES };
    lisa_sampler *sampler = create_even(kinds_of_uniform_pairs(_i), LAYERS, 3);
    uint32_t counts[TRIPLES] = {0}, layers[LAYERS];
    for (uint64_t step = 0; step < PERIODS; step++) {
        REQUIRE(layers_at(sampler, step, layers) == 3);
        const uint32_t a = layers[0], b = layers[1], c = layers[2];
        counts[c * (c - 1) * (c - 2) / 6 + b * (b - 1) / 2 + a]++;
    }
    expect_chi_square(chi_square(counts, TRIPLES, 200), TRIPLES - 1, "triples");
    lisa_sampler_destroy(sampler);
}
END_TEST

/* (layer of a period, layer of the next one): also between seeds that differ by one. */
START_TEST(periods_and_seeds_are_independent) {
    enum { LAYERS = 12, CELLS = LAYERS * LAYERS, PERIODS = 100 * CELLS };
    lisa_sampler_options options = options_of(LISA_SAMPLER_UNIFORM, LAYERS, 1);
    lisa_sampler *sampler = create(&options);
    options.seed++;
    lisa_sampler *neighbour = create(&options);
    uint32_t in_time[CELLS] = {0}, in_seed[CELLS] = {0};
    uint32_t now[LAYERS], next[LAYERS], beside[LAYERS];
    for (uint64_t period = 0; period < PERIODS; period++) {
        layers_at(sampler, 2 * period, now);
        layers_at(sampler, 2 * period + 1, next);
        layers_at(neighbour, 2 * period, beside);
        in_time[now[0] * LAYERS + next[0]]++;
        in_seed[now[0] * LAYERS + beside[0]]++;
    }
    expect_chi_square(chi_square(in_time, CELLS, 100), CELLS - 1, "successive periods");
    expect_chi_square(chi_square(in_seed, CELLS, 100), CELLS - 1, "neighbouring seeds");
    lisa_sampler_destroy(neighbour);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* Counts of every layer over `periods` against `probabilities`. */
static void expect_frequencies(const lisa_sampler *sampler, const double *probabilities,
                               uint32_t periods) {
    uint32_t counts[MAX_LAYERS] = {0}, layers[MAX_LAYERS];
    const uint32_t n_layers = lisa_sampler_n_groups(sampler) - 2;
    for (uint64_t step = 0; step < periods; step++) {
        const uint32_t n = layers_at(sampler, step, layers);
        REQUIRE(n <= lisa_sampler_max_active(sampler));
        for (uint32_t i = 0; i < n; i++)
            counts[layers[i]]++;
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        const double p = probabilities[l];
        if (fabs(counts[l] - periods * p) > 5 * sqrt(periods * p * (1 - p)))
            ck_abort_msg("layer %u: %u of %u, probability %g", l, counts[l], periods, p);
    }
}

static void expect_own_frequencies(const lisa_sampler *sampler, uint32_t periods) {
    double probabilities[MAX_LAYERS];
    ck_assert_int_eq(
        lisa_sampler_probabilities(sampler, probabilities, lisa_sampler_n_groups(sampler) - 2),
        LISA_OK);
    expect_frequencies(sampler, probabilities, periods);
}

/* ---- WEIGHTED ---- */

/* p = min(1, c w) with one c and sum n_active: what defines the probabilities. */
static void expect_proportional(const lisa_sampler_options *options) {
    lisa_sampler *sampler = create(options);
    double p[MAX_LAYERS], largest = 0, c = 0, sum = 0;
    ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, options->n_layers), LISA_OK);
    for (uint32_t l = 0; l < options->n_layers; l++) {
        sum += p[l];
        if (p[l] < 1 && p[l] > largest) {
            largest = p[l];
            c = p[l] / options->weights[l];
        }
    }
    ck_assert_double_eq_tol(sum, options->n_active, 1e-12 * options->n_layers);
    for (uint32_t l = 0; l < options->n_layers; l++) {
        const double proportional = c * options->weights[l];
        REQUIRE(p[l] == 1 ? c == 0 || proportional > 1 - 1e-12
                          : p[l] < 1 && fabs(p[l] - proportional) < 1e-15);
    }
    lisa_sampler_destroy(sampler);
}

START_TEST(weighted_probabilities_are_proportional) {
    double weights[MAX_LAYERS];
    lisa_sampler_options options = options_of(LISA_SAMPLER_WEIGHTED, 32, 2);
    options.weights = weights;
    for (uint32_t n_active = 0; n_active <= 32; n_active++) {
        options.n_active = n_active;
        for (uint32_t l = 0; l < 32; l++)
            weights[l] = 1 + 0.37 * l;
        expect_proportional(&options);
        for (uint32_t l = 0; l < 32; l++)
            weights[l] = pow(1.5, l);
        expect_proportional(&options);
        for (uint32_t l = 0; l < 32; l++)
            weights[l] = 1 / 3.0;
        expect_proportional(&options);
    }
    options.n_layers = MAX_LAYERS;
    options.n_active = MAX_LAYERS - 1;
    for (uint32_t l = 0; l < MAX_LAYERS; l++)
        weights[l] = 1 / (1.0 + l);
    expect_proportional(&options);
}
END_TEST

START_TEST(weighted_frequencies_are_exact) {
    double weights[32];
    lisa_sampler_options options = options_of(LISA_SAMPLER_WEIGHTED, 32, 2 + 3 * (uint32_t)_i);
    for (uint32_t l = 0; l < 32; l++)
        weights[l] = l == 7 ? 0 : pow(1.25, l);
    options.weights = weights;
    lisa_sampler *sampler = create(&options);
    expect_own_frequencies(sampler, 20000);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* The layer order without a permutation would let 480 of these 496 pairs never occur. */
START_TEST(weighted_lets_every_pair_occur) {
    enum { LAYERS = 32, PAIRS = LAYERS * (LAYERS - 1) / 2 };
    double weights[LAYERS];
    uint32_t counts[PAIRS] = {0}, layers[LAYERS];
    lisa_sampler_options options = options_of(LISA_SAMPLER_WEIGHTED, LAYERS, 2);
    for (uint32_t l = 0; l < LAYERS; l++)
        weights[l] = 20 + l;
    options.weights = weights;
    lisa_sampler *sampler = create(&options);
    for (uint64_t step = 0; step < 60 * PAIRS; step++) {
        REQUIRE(layers_at(sampler, step, layers) == 2);
        counts[layers[1] * (layers[1] - 1) / 2 + layers[0]]++;
    }
    for (uint32_t pair = 0; pair < PAIRS; pair++)
        ck_assert_uint_gt(counts[pair], 0);
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(weighted_takes_certain_layers_out_first) {
    /* 100 is certain of 3; then 10 of the remaining 2 (2 * 10 >= 16); then 1 of {1 x 4, 2}. */
    const double weights[] = {1, 10, 1, 100, 2, 1, 1, 0};
    const double expected[] = {1 / 6.0, 1, 1 / 6.0, 1, 2 / 6.0, 1 / 6.0, 1 / 6.0, 0};
    double p[8];
    lisa_sampler_options options = options_of(LISA_SAMPLER_WEIGHTED, 8, 3);
    options.weights = weights;
    lisa_sampler *sampler = create(&options);
    ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, 8), LISA_OK);
    for (int l = 0; l < 8; l++)
        ck_assert_double_eq_tol(p[l], expected[l], 1e-15);
    expect_frequencies(sampler, expected, 20000);
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(weighted_survives_extreme_weights) {
    const double cases[][5] = {
        {1.7e308, 1.7e308, 1.7e308, 1.7e308, 1.7e308},
        {5e-324, 5e-324, 5e-324, 5e-324, 5e-324},
        {1.7e308, 1, 5e-324, 1e-300, 1e300},
        {1, 1e-17, 1e-17, 1e-17, 1e-17},
        {1, 1, 1, 1, 1 + 2.3e-16},
        {0, 1e-320, 0, 3, -0.0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (uint32_t n_active = 0; n_active <= (i == 5 ? 2u : 5u); n_active++) {
            uint32_t layers[5];
            lisa_sampler_options options = options_of(LISA_SAMPLER_WEIGHTED, 5, n_active);
            options.weights = cases[i];
            lisa_sampler *sampler = create(&options);
            for (uint64_t step = 0; step < 50; step++)
                REQUIRE(layers_at(sampler, step, layers) == n_active);
            expect_own_frequencies(sampler, 2000);
            lisa_sampler_destroy(sampler);
        }
    }
}
END_TEST

/* ---- BERNOULLI ---- */

START_TEST(bernoulli_draws_each_layer_alone) {
    const double weights[] = {0, 1, 0.5, 0.125, 0.9, 1e-300, 0.3};
    double p[7], lent[7];
    lisa_sampler_options options = options_of(LISA_SAMPLER_BERNOULLI, 7, 2);
    memcpy(lent, weights, sizeof lent);
    options.weights = lent;
    lisa_sampler *sampler = create(&options);
    memset(lent, 0, sizeof lent); /* the sampler has its own copy */
    ck_assert_uint_eq(lisa_sampler_max_active(sampler), 6);
    ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, 7), LISA_OK);
    for (int l = 0; l < 7; l++)
        ck_assert_double_eq(p[l], weights[l]);
    expect_frequencies(sampler, weights, 20000);

    uint32_t both[4] = {0};
    for (uint64_t step = 0; step < 20000; step++) {
        uint8_t mask[9];
        REQUIRE(lisa_sampler_mask(sampler, step, mask, 9) == LISA_OK);
        both[mask[1 + 2] * 2 + mask[1 + 4]]++;
    }
    const double expected[4] = {0.5 * 0.1, 0.5 * 0.9, 0.5 * 0.1, 0.5 * 0.9};
    for (int i = 0; i < 4; i++)
        ck_assert_double_le(fabs(both[i] - 20000 * expected[i]),
                            5 * sqrt(20000 * expected[i] * (1 - expected[i])));
    lisa_sampler_destroy(sampler);
}
END_TEST

/* Sums over all subsets that can be drawn. */
static void truncated_by_enumeration(const double *p, uint32_t n, uint32_t limit, double *out) {
    memset(out, 0, n * sizeof *out);
    for (uint32_t set = 0; set < 1u << n; set++) {
        double probability = 1;
        uint32_t size = 0;
        for (uint32_t l = 0; l < n; l++) {
            probability *= set >> l & 1 ? p[l] : 1 - p[l];
            size += set >> l & 1;
        }
        for (uint32_t l = 0; l < n; l++)
            if (set >> l & 1)
                out[l] += probability * (size > limit ? (double)limit / size : 1);
    }
}

START_TEST(bernoulli_truncation_is_exact) {
    const double weights[] = {0, 1, 0.5, 0.125, 0.9, 0.75, 0.3, 1, 0.5000001, 1e-9};
    double p[10], expected[10];
    lisa_sampler_options options = options_of(LISA_SAMPLER_BERNOULLI, 10, 2);
    options.weights = weights;
    for (uint32_t limit = 1; limit <= 10; limit++) {
        options.max_active = limit;
        lisa_sampler *sampler = create(&options);
        ck_assert_uint_eq(lisa_sampler_max_active(sampler), limit < 9 ? limit : 9);
        ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, 10), LISA_OK);
        truncated_by_enumeration(weights, 10, limit, expected);
        for (uint32_t l = 0; l < 10; l++)
            ck_assert_double_eq_tol(p[l], expected[l], 1e-14);
        expect_frequencies(sampler, expected, 10000);
        lisa_sampler_destroy(sampler);
    }
}
END_TEST

/* One layer's probability, from the distribution of the number of the others drawn. */
static double truncated_leaving_out(const double *p, uint32_t n, uint32_t limit, uint32_t layer) {
    static double q[MAX_LAYERS + 1];
    memset(q, 0, sizeof q);
    q[0] = 1;
    for (uint32_t l = 0; l < n; l++)
        if (l != layer)
            for (uint32_t k = n; k-- > 0;)
                q[k] = q[k] * (1 - p[l]) + (k > 0 ? q[k - 1] * p[l] : 0);
    double stays = 0;
    for (uint32_t k = 0; k < n; k++)
        stays += q[k] * (k < limit ? 1 : (double)limit / (k + 1));
    return p[layer] * stays;
}

START_TEST(bernoulli_truncation_holds_for_many_layers) {
    static double weights[MAX_LAYERS], p[MAX_LAYERS];
    lisa_sampler_options options = options_of(LISA_SAMPLER_BERNOULLI, MAX_LAYERS, 2);
    options.weights = weights;
    options.max_active = 2000;
    for (uint32_t l = 0; l < MAX_LAYERS; l++)
        weights[l] = l % 5 == 0 ? 0.5 : (l % 1000) / 999.0;
    lisa_sampler *sampler = create(&options);
    ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, MAX_LAYERS), LISA_OK);
    for (uint32_t l = 0; l < MAX_LAYERS; l += 700)
        ck_assert_double_eq_tol(p[l], truncated_leaving_out(weights, MAX_LAYERS, 2000, l), 1e-11);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* ---- RESHUFFLE, ROUND_ROBIN, FIXED ---- */

static void expect_epochs_to_cover(uint32_t n_layers, uint32_t n_active) {
    lisa_sampler_options options = options_of(LISA_SAMPLER_RESHUFFLE, n_layers, n_active);
    lisa_sampler *sampler = create(&options);
    const uint32_t n_deals = (n_layers + n_active - 1) / n_active;
    uint32_t layers[MAX_LAYERS], first[MAX_LAYERS];
    for (uint32_t epoch = 0; epoch < 20; epoch++) {
        uint32_t times[MAX_LAYERS] = {0};
        for (uint32_t deal = 0; deal < n_deals; deal++) {
            const uint32_t n = layers_at(sampler, (uint64_t)epoch * n_deals + deal, layers);
            REQUIRE(n == n_active);
            for (uint32_t i = 0; i < n; i++)
                times[layers[i]]++;
            if (deal == 0)
                memcpy(first, layers, n * sizeof *first);
        }
        uint32_t twice = 0;
        for (uint32_t l = 0; l < n_layers; l++) {
            REQUIRE(times[l] >= 1);
            twice += times[l] - 1;
        }
        ck_assert_uint_eq(twice, n_deals * n_active - n_layers);
        /* The top-up comes from the first deal. */
        for (uint32_t i = 0; i < n_active; i++)
            twice -= times[first[i]] - 1;
        ck_assert_uint_eq(twice, 0);
    }
    lisa_sampler_destroy(sampler);
}

START_TEST(reshuffle_covers_every_layer_in_every_epoch) {
    for (uint32_t n_layers = 1; n_layers <= 13; n_layers++)
        for (uint32_t n_active = 1; n_active <= n_layers; n_active++)
            expect_epochs_to_cover(n_layers, n_active);
    expect_epochs_to_cover(MAX_LAYERS, 1000);
}
END_TEST

START_TEST(reshuffle_marginals_are_uniform_in_every_deal) {
    enum { LAYERS = 10, ACTIVE = 3, DEALS = 4, EPOCHS = 10000 };
    uint32_t counts[DEALS][LAYERS] = {{0}}, layers[LAYERS];
    lisa_sampler_options options = options_of(LISA_SAMPLER_RESHUFFLE, LAYERS, ACTIVE);
    lisa_sampler *sampler = create(&options);
    for (uint64_t step = 0; step < DEALS * EPOCHS; step++) {
        REQUIRE(layers_at(sampler, step, layers) == ACTIVE);
        for (uint32_t i = 0; i < ACTIVE; i++)
            counts[step % DEALS][layers[i]]++;
    }
    const double factor = (double)(LAYERS - ACTIVE) / (LAYERS - 1);
    for (int deal = 0; deal < DEALS; deal++)
        expect_chi_square(chi_square(counts[deal], LAYERS, (double)EPOCHS * ACTIVE / LAYERS) /
                              factor,
                          LAYERS - 1, "a deal's marginals");
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(round_robin_goes_around) {
    lisa_sampler_options options = options_of(LISA_SAMPLER_ROUND_ROBIN, 7, 2);
    lisa_sampler *up = create(&options);
    options.descending = 1;
    lisa_sampler *down = create(&options);
    const uint32_t expected_up[][2] = {{0, 1}, {2, 3}, {4, 5}, {0, 6}, {1, 2}, {3, 4}, {5, 6}};
    const uint32_t expected_down[][2] = {{5, 6}, {3, 4}, {1, 2}, {0, 6}, {4, 5}, {2, 3}, {0, 1}};
    for (uint64_t period = 0; period < 21; period++) {
        expect_layers(up, period, 2, expected_up[period % 7]);
        expect_layers(down, period, 2, expected_down[period % 7]);
    }
    /* 2^63 = 2^64 - 1 = 1 (mod 7): a product of 64 bits that overflows would tell. */
    expect_layers(up, UINT64_C(1) << 63, 2, expected_up[1]);
    expect_layers(up, UINT64_MAX, 2, expected_up[1]);
    expect_layers(down, UINT64_MAX, 2, expected_down[1]);
    lisa_sampler_destroy(down);
    lisa_sampler_destroy(up);
}
END_TEST

START_TEST(fixed_is_what_is_listed) {
    uint32_t listed[] = {6, 0, 3};
    const uint32_t expected[] = {0, 3, 6};
    lisa_sampler_options options = options_of(LISA_SAMPLER_FIXED, 7, 3);
    options.layers = listed;
    lisa_sampler *sampler = create(&options);
    listed[0] = 5;
    expect_layers(sampler, 0, 3, expected);
    expect_layers(sampler, UINT64_MAX, 3, expected);
    expect_own_frequencies(sampler, 10);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* ---- all kinds: periods, edges, purity ---- */

/* Arrays that fit every kind. */
static lisa_sampler_options any_options(uint32_t kind, uint32_t n_layers, uint32_t n_active) {
    static double weights[MAX_LAYERS];
    static uint32_t layers[MAX_LAYERS];
    lisa_sampler_options options = options_of(kind, n_layers, n_active);
    for (uint32_t l = 0; l < n_layers; l++) {
        weights[l] = (1.0 + l) / n_layers;
        layers[l] = n_layers - 1 - l;
    }
    options.weights = weights;
    options.layers = layers;
    return options;
}

static void expect_same_mask(const lisa_sampler *a, uint64_t step_a, const lisa_sampler *b,
                             uint64_t step_b) {
    uint8_t mask_a[MAX_LAYERS + 2], mask_b[MAX_LAYERS + 2];
    const uint32_t n = lisa_sampler_n_groups(a);
    ck_assert_uint_eq(lisa_sampler_n_groups(b), n);
    ck_assert_int_eq(lisa_sampler_mask(a, step_a, mask_a, n), LISA_OK);
    ck_assert_int_eq(lisa_sampler_mask(b, step_b, mask_b, n), LISA_OK);
    ck_assert_mem_eq(mask_a, mask_b, n);
}

START_TEST(masks_depend_on_the_period_alone) {
    lisa_sampler_options options = any_options((uint32_t)_i, 9, 2);
    lisa_sampler *by_period = create(&options);
    options.interval_steps = 7;
    options.first_step = 1000;
    lisa_sampler *sampler = create(&options);
    for (uint64_t step = 1000; step < 1200; step++)
        expect_same_mask(sampler, step, by_period, (step - 1000) / 7);
    options.interval_steps = UINT32_MAX;
    lisa_sampler *slow = create(&options);
    expect_same_mask(slow, 999 + (uint64_t)UINT32_MAX, by_period, 0);
    expect_same_mask(slow, 1000 + (uint64_t)UINT32_MAX, by_period, 1);
    lisa_sampler_destroy(slow);
    lisa_sampler_destroy(sampler);
    lisa_sampler_destroy(by_period);
}
END_TEST

START_TEST(late_steps_work) {
    uint32_t layers[9];
    lisa_sampler_options options = any_options((uint32_t)_i, 9, 2);
    lisa_sampler *sampler = create(&options);
    for (uint64_t back = 0; back < 50; back++) {
        const uint32_t most = lisa_sampler_max_active(sampler);
        REQUIRE(layers_at(sampler, UINT64_MAX - back, layers) <= most);
        REQUIRE(layers_at(sampler, (UINT64_C(1) << 63) + back, layers) <= most);
    }
    options.first_step = UINT64_MAX;
    lisa_sampler *last = create(&options);
    expect_same_mask(last, UINT64_MAX, sampler, 0);
    lisa_sampler_destroy(last);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* The high words of period and seed must reach the generator. */
START_TEST(all_bits_of_period_and_seed_count) {
    lisa_sampler_options options = options_of(LISA_SAMPLER_UNIFORM, 4096, 100);
    lisa_sampler *sampler = create(&options);
    options.seed += UINT64_C(1) << 32;
    lisa_sampler *other = create(&options);
    uint8_t a[4098], b[4098];
    ck_assert_int_eq(lisa_sampler_mask(sampler, 5, a, 4098), LISA_OK);
    ck_assert_int_eq(lisa_sampler_mask(sampler, 5 + (UINT64_C(1) << 32), b, 4098), LISA_OK);
    ck_assert_mem_ne(a, b, 4098);
    ck_assert_int_eq(lisa_sampler_mask(other, 5, b, 4098), LISA_OK);
    ck_assert_mem_ne(a, b, 4098);
    lisa_sampler_destroy(other);
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(edge_sizes_work) {
    const uint32_t kind = (uint32_t)_i;
    const uint32_t sizes[][2] = {{1, 0}, {1, 1}, {5, 0}, {5, 5}, {MAX_LAYERS, MAX_LAYERS}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        static uint32_t layers[MAX_LAYERS];
        const uint32_t n_layers = sizes[i][0], n_active = sizes[i][1];
        lisa_sampler_options options = any_options(kind, n_layers, n_active);
        lisa_sampler *sampler = create(&options);
        for (uint64_t step = 0; step < 5; step++) {
            const uint32_t n = layers_at(sampler, step, layers);
            if (kind == LISA_SAMPLER_BERNOULLI)
                ck_assert_uint_le(n, n_layers);
            else
                ck_assert_uint_eq(n, n_active);
        }
        ck_assert_uint_eq(lisa_sampler_n_groups(sampler), n_layers + 2);
        ck_assert_uint_eq(lisa_sampler_max_active(sampler),
                          kind == LISA_SAMPLER_BERNOULLI ? n_layers : n_active);
        lisa_sampler_destroy(sampler);
    }
}
END_TEST

START_TEST(other_groups_are_switched_one_by_one) {
    for (uint32_t flags = 0; flags < 4; flags++) {
        uint8_t mask[7];
        lisa_sampler_options options = any_options((uint32_t)_i, 5, 2);
        options.train_embedding = flags & 1;
        options.train_head = flags >> 1;
        lisa_sampler *sampler = create(&options);
        for (uint64_t step = 0; step < 10; step++) {
            ck_assert_int_eq(lisa_sampler_mask(sampler, step, mask, 7), LISA_OK);
            ck_assert_uint_eq(mask[0], options.train_embedding);
            ck_assert_uint_eq(mask[6], options.train_head);
        }
        lisa_sampler_destroy(sampler);
    }
}
END_TEST

START_TEST(probabilities_match_frequencies) {
    lisa_sampler_options options = any_options((uint32_t)_i, 12, 3);
    lisa_sampler *sampler = create(&options);
    /* A multiple of ROUND_ROBIN's and RESHUFFLE's cycle of four periods. */
    expect_own_frequencies(sampler, 12000);
    lisa_sampler_destroy(sampler);
}
END_TEST

enum { N_THREADS = 4, N_STEPS = 1500, N_GROUPS = 32 };

struct walk {
    const lisa_sampler *sampler;
    uint32_t stride; /* coprime to N_STEPS: another order for every thread */
    uint8_t masks[N_STEPS][N_GROUPS];
};

static void *walk_steps(void *arg) {
    struct walk *walk = arg;
    for (uint32_t i = 0; i < N_STEPS; i++) {
        const uint32_t step = (uint32_t)((uint64_t)i * walk->stride % N_STEPS);
        if (lisa_sampler_mask(walk->sampler, step, walk->masks[step], N_GROUPS) != LISA_OK)
            memset(walk->masks[step], 0xFF, N_GROUPS);
    }
    return NULL;
}

START_TEST(order_and_thread_do_not_matter) {
    static struct walk alone, walks[N_THREADS];
    static const uint32_t strides[N_THREADS] = {1, 7, 1499, 641};
    lisa_sampler_options options = any_options((uint32_t)_i, N_GROUPS - 2, 3);
    lisa_sampler *sampler = create(&options);
    lisa_sampler *again = create(&options);
    pthread_t threads[N_THREADS];
    for (int t = 0; t < N_THREADS; t++) {
        walks[t] = (struct walk){.sampler = sampler, .stride = strides[t]};
        ck_assert_int_eq(pthread_create(&threads[t], NULL, walk_steps, &walks[t]), 0);
    }
    alone = (struct walk){.sampler = again, .stride = 1};
    walk_steps(&alone);
    for (int t = 0; t < N_THREADS; t++) {
        ck_assert_int_eq(pthread_join(threads[t], NULL), 0);
        ck_assert_mem_eq(walks[t].masks, alone.masks, sizeof alone.masks);
    }
    lisa_sampler_destroy(again);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* ---- what is refused ---- */

static void expect_refused(const lisa_sampler_options *options, lisa_status expected,
                           const char *words) {
    lisa_sampler *sampler = (lisa_sampler *)&sampler;
    ck_assert_int_eq(lisa_sampler_create(&sampler, options), expected);
    ck_assert_ptr_null(sampler);
    ck_assert_msg(strstr(lisa_error_last(), words) != NULL, "\"%s\" does not say \"%s\"",
                  lisa_error_last(), words);
    ck_assert_ptr_null(strchr(lisa_error_last(), '\n'));
}

#define EXPECT_BAD(kind, field, value, words)                                                      \
    do {                                                                                           \
        lisa_sampler_options bad = any_options(kind, 5, 2);                                        \
        bad.field = (value);                                                                       \
        expect_refused(&bad, LISA_E_INVAL, words);                                                 \
    } while (0)

START_TEST(bad_numbers_are_refused) {
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, kind, 0, "kind is 0");
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, kind, 7, "kind is 7");
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, n_layers, 0, "n_layers is 0");
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, n_layers, MAX_LAYERS + 1, "n_layers is 4097");
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, interval_steps, 0, "interval_steps");
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, train_embedding, 2, "train_embedding is 2");
    EXPECT_BAD(LISA_SAMPLER_UNIFORM, train_head, 2, "train_head is 2");
    EXPECT_BAD(LISA_SAMPLER_ROUND_ROBIN, descending, 2, "descending is 2");
    EXPECT_BAD(LISA_SAMPLER_BERNOULLI, max_active, 6, "max_active is 6");
    EXPECT_BAD(LISA_SAMPLER_BERNOULLI, weights, NULL, "weights is NULL");
    EXPECT_BAD(LISA_SAMPLER_WEIGHTED, weights, NULL, "weights is NULL");
    EXPECT_BAD(LISA_SAMPLER_FIXED, layers, NULL, "layers is NULL");
    for (uint32_t kind = LISA_SAMPLER_UNIFORM; kind <= LISA_SAMPLER_FIXED; kind++)
        if (kind != LISA_SAMPLER_BERNOULLI)
            EXPECT_BAD(kind, n_active, 6, "n_active is 6");
}
END_TEST

START_TEST(options_of_other_kinds_are_ignored) {
    lisa_sampler_options options = any_options(LISA_SAMPLER_BERNOULLI, 5, 99);
    lisa_sampler_destroy(create(&options));
    options = options_of(LISA_SAMPLER_UNIFORM, 5, 2);
    options.max_active = 99;
    lisa_sampler_destroy(create(&options));
    options = options_of(LISA_SAMPLER_FIXED, 5, 0);
    lisa_sampler_destroy(create(&options));
}
END_TEST

START_TEST(bad_weights_are_refused) {
    double weights[4] = {1, 1, 1, 1};
    lisa_sampler_options weighted = options_of(LISA_SAMPLER_WEIGHTED, 4, 2);
    lisa_sampler_options bernoulli = options_of(LISA_SAMPLER_BERNOULLI, 4, 2);
    const double bad[] = {(double)NAN,       -(double)NAN, (double)INFINITY,
                          -(double)INFINITY, -1,           -5e-324};
    weighted.weights = bernoulli.weights = weights;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        weights[3] = bad[i];
        expect_refused(&weighted, LISA_E_INVAL, "weights[3] is ");
        expect_refused(&bernoulli, LISA_E_INVAL, "weights[3] is ");
    }
    weights[3] = nextafter(1, 2);
    lisa_sampler_destroy(create(&weighted));
    expect_refused(&bernoulli, LISA_E_INVAL, "weights[3] is ");
}
END_TEST

START_TEST(too_few_positive_weights_are_refused) {
    double weights[5] = {0, 3, 0, 0, 1};
    const uint32_t both[] = {1, 4};
    lisa_sampler_options options = options_of(LISA_SAMPLER_WEIGHTED, 5, 3);
    options.weights = weights;
    expect_refused(&options, LISA_E_INVAL, "2 positive values, expected at least n_active = 3");
    options.n_active = 2;
    lisa_sampler *sampler = create(&options);
    weights[0] = 1e9; /* the sampler has its own copy */
    for (uint64_t step = 0; step < 20; step++)
        expect_layers(sampler, step, 2, both);
    lisa_sampler_destroy(sampler);
    memset(weights, 0, sizeof weights);
    expect_refused(&options, LISA_E_INVAL, "0 positive values");
}
END_TEST

START_TEST(bad_lists_are_refused) {
    uint32_t layers[3] = {0, 4, 0};
    lisa_sampler_options options = options_of(LISA_SAMPLER_FIXED, 5, 3);
    options.layers = layers;
    expect_refused(&options, LISA_E_INVAL, "layers[2] is 0 a second time");
    layers[2] = 5;
    expect_refused(&options, LISA_E_INVAL, "layers[2] is 5, expected less than n_layers = 5");
}
END_TEST

START_TEST(struct_sizes_are_read) {
    struct {
        lisa_sampler_options options;
        unsigned char tail[16];
    } longer;
    lisa_sampler_options options = options_of(LISA_SAMPLER_UNIFORM, 5, 2);
    ck_assert_int_eq(lisa_sampler_options_init(&options, sizeof options - 1), LISA_E_ABI);
    ck_assert_int_eq(lisa_sampler_options_init(NULL, sizeof options), LISA_E_INVAL);
    options.struct_size = 0;
    expect_refused(&options, LISA_E_ABI, "struct_size is 0");
    options.struct_size = sizeof options - 1;
    expect_refused(&options, LISA_E_ABI, "struct_size");

    ck_assert_int_eq(lisa_sampler_options_init(&longer.options, sizeof longer), LISA_OK);
    longer.options.n_layers = 5;
    for (size_t i = 0; i < sizeof longer.tail; i++)
        ck_assert_uint_eq(longer.tail[i], 0);
    lisa_sampler_destroy(create(&longer.options));
    longer.tail[15] = 1;
    expect_refused(&longer.options, LISA_E_ABI, "older");
    expect_refused(NULL, LISA_E_INVAL, "NULL");
}
END_TEST

START_TEST(defaults_are_the_documented_ones) {
    lisa_sampler_options options;
    memset(&options, 0xFF, sizeof options);
    ck_assert_int_eq(lisa_sampler_options_init(&options, sizeof options), LISA_OK);
    ck_assert_uint_eq(options.struct_size, sizeof options);
    ck_assert_uint_eq(options.kind, LISA_SAMPLER_UNIFORM);
    ck_assert_uint_eq(options.n_active, 2);
    ck_assert_uint_eq(options.interval_steps, 20);
    ck_assert_uint_eq(options.train_embedding, 1);
    ck_assert_uint_eq(options.train_head, 1);
    ck_assert(options.seed == 0 && options.first_step == 0 && options.n_layers == 0);
    ck_assert(options.max_active == 0 && options.descending == 0);
    ck_assert(options.weights == NULL && options.layers == NULL);
}
END_TEST

START_TEST(bad_calls_are_refused_and_write_nothing) {
    uint8_t mask[8];
    double p[6] = {-1, -1, -1, -1, -1, -1};
    lisa_sampler_options options = options_of(LISA_SAMPLER_UNIFORM, 5, 2);
    options.first_step = 10;
    lisa_sampler *sampler = create(&options);
    memset(mask, 0xAA, sizeof mask);
    ck_assert_int_eq(lisa_sampler_mask(sampler, 9, mask, 7), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "first_step = 10"));
    ck_assert_int_eq(lisa_sampler_mask(sampler, 10, mask, 5), LISA_E_INVAL);
    ck_assert_int_eq(lisa_sampler_mask(sampler, 10, mask, 8), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "n_groups is 8"));
    ck_assert_int_eq(lisa_sampler_mask(sampler, 10, NULL, 7), LISA_E_INVAL);
    ck_assert_int_eq(lisa_sampler_mask(NULL, 10, mask, 7), LISA_E_INVAL);
    for (size_t i = 0; i < sizeof mask; i++)
        ck_assert_uint_eq(mask[i], 0xAA);
    ck_assert_int_eq(lisa_sampler_mask(sampler, 10, mask, 7), LISA_OK);
    ck_assert_uint_eq(mask[7], 0xAA);

    ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, 6), LISA_E_INVAL);
    ck_assert_int_eq(lisa_sampler_probabilities(sampler, NULL, 5), LISA_E_INVAL);
    ck_assert_int_eq(lisa_sampler_probabilities(NULL, p, 5), LISA_E_INVAL);
    ck_assert_double_eq(p[0], -1);
    ck_assert_int_eq(lisa_sampler_probabilities(sampler, p, 5), LISA_OK);
    ck_assert_double_eq(p[5], -1);
    ck_assert_int_eq(lisa_sampler_create(NULL, &options), LISA_E_INVAL);
    ck_assert_uint_eq(lisa_sampler_n_groups(NULL), 0);
    ck_assert_uint_eq(lisa_sampler_max_active(NULL), 0);
    lisa_sampler_destroy(NULL);
    lisa_sampler_destroy(sampler);
}
END_TEST

/* ---- the vectors of docs/lisa.md ---- */

static const double golden_probabilities[] = {0.9, 0.1, 0.5, 0.25, 0.75, 0.5, 1, 0};
static const double golden_weights[] = {1, 2, 3, 4, 5, 6, 7, 40};
static const double golden_even[] = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
static const double golden_halves[] = {1, 1, 2, 4, 40, 0, 0, 0};
static const uint32_t golden_layers[] = {6, 1, 4};

static const struct golden {
    uint32_t kind, n_layers, n_active, max_active, descending;
    uint64_t seed;
    const double *weights;
    const char *row;
} goldens[] = {
    {LISA_SAMPLER_UNIFORM, 8, 3, 0, 0, 42, NULL, "3 4 7 | 5 6 7 | 3 4 5 | 0 4 5 | 3 5 6"},
    {LISA_SAMPLER_UNIFORM, 32, 2, 0, 0, 0x0123456789ABCDEF, NULL,
     "12 14 | 0 6 | 1 31 | 3 16 | 9 10"},
    {LISA_SAMPLER_BERNOULLI, 8, 0, 0, 0, 42, golden_probabilities,
     "0 1 2 3 4 5 6 | 2 3 4 6 | 0 2 4 5 6 | 0 2 3 4 5 6 | 0 1 2 4 6"},
    {LISA_SAMPLER_BERNOULLI, 8, 0, 3, 0, 42, golden_probabilities,
     "1 4 5 | 2 4 6 | 0 5 6 | 2 3 6 | 0 1 4"},
    {LISA_SAMPLER_RESHUFFLE, 8, 3, 0, 0, 42, NULL, "3 4 7 | 1 2 5 | 0 3 6 | 5 6 7 | 3 5 6"},
    {LISA_SAMPLER_WEIGHTED, 8, 3, 0, 0, 42, golden_weights,
     "4 5 7 | 4 6 7 | 4 6 7 | 3 4 7 | 2 6 7"},
    {LISA_SAMPLER_WEIGHTED, 8, 3, 0, 0, 42, golden_even, "1 3 6 | 1 4 7 | 0 2 4 | 5 6 7 | 0 3 4"},
    {LISA_SAMPLER_WEIGHTED, 8, 3, 0, 0, 42, golden_halves, "0 3 4 | 1 3 4 | 2 3 4 | 1 3 4 | 2 3 4"},
    {LISA_SAMPLER_ROUND_ROBIN, 8, 3, 0, 0, 42, NULL, "0 1 2 | 3 4 5 | 0 6 7 | 1 2 3 | 0 1 2"},
    {LISA_SAMPLER_ROUND_ROBIN, 8, 3, 0, 1, 42, NULL, "5 6 7 | 2 3 4 | 0 1 7 | 4 5 6 | 5 6 7"},
    {LISA_SAMPLER_FIXED, 8, 3, 0, 0, 42, NULL, "1 4 6 | 1 4 6 | 1 4 6 | 1 4 6 | 1 4 6"},
};
static const uint64_t golden_periods[] = {0, 1, 2, 3, UINT64_C(1) << 63};

static lisa_sampler *create_golden(const struct golden *golden) {
    lisa_sampler_options options = options_of(golden->kind, golden->n_layers, golden->n_active);
    options.seed = golden->seed;
    options.max_active = golden->max_active;
    options.descending = golden->descending;
    options.weights = golden->weights;
    options.layers = golden_layers;
    return create(&options);
}

START_TEST(golden_masks) {
    const struct golden *golden = &goldens[_i];
    lisa_sampler *sampler = create_golden(golden);
    char row[256] = "";
    size_t used = 0;
    for (size_t p = 0; p < sizeof golden_periods / sizeof *golden_periods; p++) {
        uint32_t layers[32];
        const uint32_t n = layers_at(sampler, golden_periods[p], layers);
        used += (size_t)snprintf(row + used, sizeof row - used, "%s", p == 0 ? "" : " |");
        for (uint32_t i = 0; i < n; i++)
            used += (size_t)snprintf(row + used, sizeof row - used, "%s%u", used == 0 ? "" : " ",
                                     layers[i]);
    }
    ck_assert_str_eq(row, golden->row);
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(golden_masks_are_documented) {
    static char page[1 << 16];
    FILE *file = fopen(LISA_TEST_DATA "/../../docs/lisa.md", "rb");
    ck_assert_ptr_nonnull(file);
    const size_t size = fread(page, 1, sizeof page - 1, file);
    fclose(file);
    ck_assert_uint_gt(size, 0);
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++)
        ck_assert_msg(strstr(page, goldens[i].row) != NULL, "docs/lisa.md lacks the masks \"%s\"",
                      goldens[i].row);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name) {
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return tcase;
}

static void add_every_kind(TCase *tcase, const TTest *test) {
    tcase_add_loop_test(tcase, test, LISA_SAMPLER_UNIFORM, LISA_SAMPLER_FIXED + 1);
}

static Suite *make_suite(void) {
    Suite *suite = suite_create("sampler");
    TCase *statistics = add_case(suite, "statistics");
    tcase_add_loop_test(statistics, marginals_are_uniform, 0, 2);
    tcase_add_loop_test(statistics, pairs_are_uniform, 0, 2);
    tcase_add_loop_test(statistics, triples_are_uniform, 0, 2);
    tcase_add_test(statistics, periods_and_seeds_are_independent);
    tcase_add_loop_test(statistics, weighted_frequencies_are_exact, 0, 8);
    tcase_add_test(statistics, weighted_lets_every_pair_occur);
    tcase_add_test(statistics, reshuffle_marginals_are_uniform_in_every_deal);

    TCase *kinds = add_case(suite, "kinds");
    tcase_add_test(kinds, weighted_probabilities_are_proportional);
    tcase_add_test(kinds, weighted_takes_certain_layers_out_first);
    tcase_add_test(kinds, weighted_survives_extreme_weights);
    tcase_add_test(kinds, bernoulli_draws_each_layer_alone);
    tcase_add_test(kinds, bernoulli_truncation_is_exact);
    tcase_add_test(kinds, bernoulli_truncation_holds_for_many_layers);
    tcase_add_test(kinds, reshuffle_covers_every_layer_in_every_epoch);
    tcase_add_test(kinds, round_robin_goes_around);
    tcase_add_test(kinds, fixed_is_what_is_listed);

    TCase *every_kind = add_case(suite, "every kind");
    add_every_kind(every_kind, masks_depend_on_the_period_alone);
    add_every_kind(every_kind, late_steps_work);
    add_every_kind(every_kind, edge_sizes_work);
    add_every_kind(every_kind, other_groups_are_switched_one_by_one);
    add_every_kind(every_kind, probabilities_match_frequencies);
    add_every_kind(every_kind, order_and_thread_do_not_matter);
    tcase_add_test(every_kind, all_bits_of_period_and_seed_count);

    TCase *refusals = add_case(suite, "refusals");
    tcase_add_test(refusals, defaults_are_the_documented_ones);
    tcase_add_test(refusals, struct_sizes_are_read);
    tcase_add_test(refusals, bad_numbers_are_refused);
    tcase_add_test(refusals, options_of_other_kinds_are_ignored);
    tcase_add_test(refusals, bad_weights_are_refused);
    tcase_add_test(refusals, too_few_positive_weights_are_refused);
    tcase_add_test(refusals, bad_lists_are_refused);
    tcase_add_test(refusals, bad_calls_are_refused_and_write_nothing);

    TCase *golden = add_case(suite, "golden");
    tcase_add_loop_test(golden, golden_masks, 0, sizeof goldens / sizeof *goldens);
    tcase_add_test(golden, golden_masks_are_documented);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

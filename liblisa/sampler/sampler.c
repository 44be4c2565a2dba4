#include "sampler/sampler.h"

#include "core/error.h"
#include "sampler/philox.h"

#include <math.h>
#include <string.h>

/* The words of one period (RESHUFFLE: of one epoch): word i is word i % 4 of the Philox block whose
 * counter is (period, i / 4). */
struct stream {
    uint64_t seed;
    uint64_t period;
    uint64_t next;
    uint32_t block[4];
};

static struct stream stream_of(const struct lisa__sampler *sampler, uint64_t period) {
    return (struct stream){.seed = sampler->options.seed, .period = period};
}

static uint32_t draw_word(struct stream *stream) {
    if (stream->next % 4 == 0)
        lisa__philox(stream->seed, stream->period, stream->next / 4, stream->block);
    return stream->block[stream->next++ % 4];
}

static uint64_t draw_two_words(struct stream *stream) {
    const uint64_t high = draw_word(stream);
    return (high << 32) | draw_word(stream);
}

/* Uniform in [0, n), without bias: as many low bits as n - 1 has, drawn again until below n. */
static uint64_t draw_below(struct stream *stream, uint64_t n) {
    uint64_t bits = n - 1;
    for (unsigned shift = 1; shift < 64; shift *= 2)
        bits |= bits >> shift;
    uint64_t value;
    do
        value = (bits > UINT32_MAX ? draw_two_words(stream) : draw_word(stream)) & bits;
    while (value >= n);
    return value;
}

/* Fisher and Yates, stopped after the first n_wanted places: those hold a uniform ordered sample.
 */
static void shuffle(struct stream *stream, uint16_t *items, uint32_t n, uint32_t n_wanted) {
    for (uint32_t i = 0; i < n_wanted; i++) {
        const uint32_t j = i + (uint32_t)draw_below(stream, n - i);
        const uint16_t drawn = items[j];
        items[j] = items[i];
        items[i] = drawn;
    }
}

static void list_all(uint16_t *items, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        items[i] = (uint16_t)i;
}

static void mark(const uint16_t *items, uint32_t n, uint8_t *layers) {
    for (uint32_t i = 0; i < n; i++)
        layers[items[i]] = 1;
}

static void mask_uniform(const struct lisa__sampler *sampler, uint64_t period, uint8_t *layers) {
    const lisa_sampler_options *options = &sampler->options;
    uint16_t items[LISA_SAMPLER_MAX_LAYERS];
    struct stream stream = stream_of(sampler, period);
    list_all(items, options->n_layers);
    shuffle(&stream, items, options->n_layers, options->n_active);
    mark(items, options->n_active, layers);
}

static uint32_t limit_of(const lisa_sampler_options *options) {
    return options->max_active != 0 ? options->max_active : options->n_layers;
}

static void mask_bernoulli(const struct lisa__sampler *sampler, uint64_t period, uint8_t *layers) {
    const lisa_sampler_options *options = &sampler->options;
    const uint32_t limit = limit_of(options);
    uint16_t items[LISA_SAMPLER_MAX_LAYERS];
    uint32_t n = 0;
    struct stream stream = stream_of(sampler, period);
    for (uint32_t l = 0; l < options->n_layers; l++) {
        /* Both sides are exact: 53 bits, and a product with a power of two. */
        const double draw = (double)(draw_two_words(&stream) >> 11);
        if (draw < options->weights[l] * 0x1p53)
            items[n++] = (uint16_t)l;
    }
    if (n > limit) {
        shuffle(&stream, items, n, limit);
        n = limit;
    }
    mark(items, n, layers);
}

static void mask_reshuffle(const struct lisa__sampler *sampler, uint64_t period, uint8_t *layers) {
    const lisa_sampler_options *options = &sampler->options;
    const uint32_t n = options->n_layers;
    const uint32_t n_active = options->n_active;
    if (n_active == 0)
        return;
    const uint32_t n_deals = (n + n_active - 1) / n_active;
    const uint32_t first = (uint32_t)(period % n_deals) * n_active;
    uint16_t items[LISA_SAMPLER_MAX_LAYERS];
    struct stream stream = stream_of(sampler, period / n_deals);
    list_all(items, n);
    shuffle(&stream, items, n, n);
    for (uint32_t i = 0; i < n_active; i++)
        layers[items[(first + i) % n]] = 1;
}

/* Systematic sampling with sizes proportional to the shares. The permutation makes every pair
 * possible; the sum of the shares, a multiple of the unit, makes the number of layers constant. */
static void mask_weighted(const struct lisa__sampler *sampler, uint64_t period, uint8_t *layers) {
    uint16_t items[LISA_SAMPLER_MAX_LAYERS];
    uint32_t n = 0;
    for (uint32_t l = 0; l < sampler->options.n_layers; l++) {
        if (sampler->shares[l] == LISA__SHARE_CERTAIN)
            layers[l] = 1;
        else if (sampler->shares[l] != 0)
            items[n++] = (uint16_t)l;
    }
    if (n == 0)
        return;
    struct stream stream = stream_of(sampler, period);
    shuffle(&stream, items, n, n);
    uint64_t filled = draw_below(&stream, sampler->share_unit);
    for (uint32_t i = 0; i < n; i++) {
        filled += sampler->shares[items[i]];
        if (filled >= sampler->share_unit) {
            filled -= sampler->share_unit;
            layers[items[i]] = 1;
        }
    }
}

static void mask_round_robin(const struct lisa__sampler *sampler, uint64_t period,
                             uint8_t *layers) {
    const lisa_sampler_options *options = &sampler->options;
    const uint32_t n = options->n_layers;
    const uint32_t first = (uint32_t)(period % n) * options->n_active % n;
    for (uint32_t i = 0; i < options->n_active; i++) {
        const uint32_t place = (first + i) % n;
        layers[options->descending ? n - 1 - place : place] = 1;
    }
}

static void mask_fixed(const struct lisa__sampler *sampler, uint8_t *layers) {
    for (uint32_t i = 0; i < sampler->options.n_active; i++)
        layers[sampler->options.layers[i]] = 1;
}

void lisa__sampler_mask(const struct lisa__sampler *sampler, uint64_t step, uint8_t *mask) {
    const lisa_sampler_options *options = &sampler->options;
    const uint64_t period = (step - options->first_step) / options->interval_steps;
    uint8_t *layers = mask + 1;
    memset(layers, 0, options->n_layers);
    mask[0] = (uint8_t)options->train_embedding;
    mask[options->n_layers + 1] = (uint8_t)options->train_head;
    switch (options->kind) {
    case LISA_SAMPLER_UNIFORM:
        mask_uniform(sampler, period, layers);
        break;
    case LISA_SAMPLER_BERNOULLI:
        mask_bernoulli(sampler, period, layers);
        break;
    case LISA_SAMPLER_RESHUFFLE:
        mask_reshuffle(sampler, period, layers);
        break;
    case LISA_SAMPLER_WEIGHTED:
        mask_weighted(sampler, period, layers);
        break;
    case LISA_SAMPLER_ROUND_ROBIN:
        mask_round_robin(sampler, period, layers);
        break;
    default:
        mask_fixed(sampler, layers);
        break;
    }
}

static lisa_status check_flag(const char *name, uint32_t value) {
    if (value > 1)
        return lisa__fail(LISA_E_INVAL, "lisa_sampler_options.%s is %u, expected 0 or 1", name,
                          value);
    return LISA_OK;
}

static lisa_status check_numbers(const lisa_sampler_options *o) {
    if (o->kind < LISA_SAMPLER_UNIFORM || o->kind > LISA_SAMPLER_FIXED)
        return lisa__fail(
            LISA_E_INVAL,
            "lisa_sampler_options.kind is %u, expected a LISA_SAMPLER_* kind, %d to %d", o->kind,
            LISA_SAMPLER_UNIFORM, LISA_SAMPLER_FIXED);
    if (o->n_layers < 1 || o->n_layers > LISA_SAMPLER_MAX_LAYERS)
        return lisa__fail(LISA_E_INVAL, "lisa_sampler_options.n_layers is %u, expected 1 to %d",
                          o->n_layers, LISA_SAMPLER_MAX_LAYERS);
    if (o->kind != LISA_SAMPLER_BERNOULLI && o->n_active > o->n_layers)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_sampler_options.n_active is %u, expected at most n_layers = %u",
                          o->n_active, o->n_layers);
    if (o->kind == LISA_SAMPLER_BERNOULLI && o->max_active > o->n_layers)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_sampler_options.max_active is %u, expected at most n_layers = %u",
                          o->max_active, o->n_layers);
    if (o->interval_steps < 1)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_sampler_options.interval_steps is 0, expected at least 1");
    LISA_TRY(check_flag("descending", o->descending));
    LISA_TRY(check_flag("train_embedding", o->train_embedding));
    return check_flag("train_head", o->train_head);
}

static lisa_status check_weights(const lisa_sampler_options *options) {
    const int is_probability = options->kind == LISA_SAMPLER_BERNOULLI;
    uint32_t n_positive = 0;
    if (options->weights == NULL)
        return lisa__fail(LISA_E_INVAL, "lisa_sampler_options.weights is NULL, expected %u values",
                          options->n_layers);
    for (uint32_t l = 0; l < options->n_layers; l++) {
        const double weight = options->weights[l];
        if (!isfinite(weight) || weight < 0 || (is_probability && weight > 1))
            return lisa__fail(LISA_E_INVAL, "lisa_sampler_options.weights[%u] is %g, expected a %s",
                              l, weight,
                              is_probability ? "probability from 0 to 1" : "finite value >= 0");
        n_positive += weight > 0;
    }
    if (!is_probability && n_positive < options->n_active)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_sampler_options.weights has %u positive values, expected at least "
                          "n_active = %u",
                          n_positive, options->n_active);
    return LISA_OK;
}

static lisa_status check_layers(const lisa_sampler_options *options) {
    uint8_t seen[LISA_SAMPLER_MAX_LAYERS] = {0};
    if (options->layers == NULL && options->n_active != 0)
        return lisa__fail(LISA_E_INVAL, "lisa_sampler_options.layers is NULL, expected %u indices",
                          options->n_active);
    for (uint32_t i = 0; i < options->n_active; i++) {
        const uint32_t layer = options->layers[i];
        if (layer >= options->n_layers)
            return lisa__fail(LISA_E_INVAL,
                              "lisa_sampler_options.layers[%u] is %u, expected less than n_layers "
                              "= %u",
                              i, layer, options->n_layers);
        if (seen[layer])
            return lisa__fail(LISA_E_INVAL,
                              "lisa_sampler_options.layers[%u] is %u a second time, expected "
                              "distinct indices",
                              i, layer);
        seen[layer] = 1;
    }
    return LISA_OK;
}

lisa_status lisa__sampler_check(const lisa_sampler_options *options) {
    LISA_TRY(check_numbers(options));
    if (options->kind == LISA_SAMPLER_BERNOULLI || options->kind == LISA_SAMPLER_WEIGHTED)
        return check_weights(options);
    if (options->kind == LISA_SAMPLER_FIXED)
        return check_layers(options);
    return LISA_OK;
}

static int is_drawn(uint64_t share) {
    return share != 0 && share != LISA__SHARE_CERTAIN;
}

/* Makes the shares of the layers still to be drawn integers, 2^51 for the heaviest, so that all
 * that follows is exact: n_active times a share, and the sum of all shares, stay within 2^63.
 * Returns that sum. */
static uint64_t quantise(struct lisa__sampler *sampler) {
    const lisa_sampler_options *options = &sampler->options;
    double heaviest = 0;
    uint64_t sum = 0;
    for (uint32_t l = 0; l < options->n_layers; l++)
        if (is_drawn(sampler->shares[l]) && options->weights[l] > heaviest)
            heaviest = options->weights[l];
    for (uint32_t l = 0; l < options->n_layers; l++) {
        if (!is_drawn(sampler->shares[l]))
            continue;
        const uint64_t share = (uint64_t)(options->weights[l] / heaviest * 0x1p51 + 0.5);
        sampler->shares[l] = share != 0 ? share : 1;
        sum += sampler->shares[l];
    }
    return sum;
}

/* A layer whose probability n_drawn * share / sum reaches 1 is taken out, which raises those of the
 * others: again, until none is left that does. */
static uint32_t take_certain(struct lisa__sampler *sampler, uint32_t n_drawn, uint64_t sum) {
    uint32_t n_certain = 0;
    for (uint32_t l = 0; l < sampler->options.n_layers; l++) {
        if (!is_drawn(sampler->shares[l]) || n_drawn * sampler->shares[l] < sum)
            continue;
        sampler->shares[l] = LISA__SHARE_CERTAIN;
        n_certain++;
    }
    return n_certain;
}

void lisa__sampler_prepare(struct lisa__sampler *sampler) {
    const lisa_sampler_options *options = &sampler->options;
    if (options->kind != LISA_SAMPLER_WEIGHTED)
        return;
    for (uint32_t l = 0; l < options->n_layers; l++)
        sampler->shares[l] = options->n_active != 0 && options->weights[l] > 0;
    uint32_t n_drawn = options->n_active;
    uint32_t n_certain = 0;
    do {
        n_drawn -= n_certain;
        sampler->share_unit = quantise(sampler);
        n_certain = take_certain(sampler, n_drawn, sampler->share_unit);
    } while (n_certain != 0);
    for (uint32_t l = 0; l < options->n_layers; l++)
        if (is_drawn(sampler->shares[l]))
            sampler->shares[l] *= n_drawn;
}

/* distribution[k] = P(k of the n layers are drawn), the Poisson-binomial distribution: layer by
 * layer. */
static void count_distribution(const double *p, uint32_t n, double *distribution) {
    distribution[0] = 1;
    for (uint32_t l = 0; l < n; l++) {
        distribution[l + 1] = distribution[l] * p[l];
        for (uint32_t k = l; k > 0; k--)
            distribution[k] = distribution[k] * (1 - p[l]) + distribution[k - 1] * p[l];
        distribution[0] *= 1 - p[l];
    }
}

/* P(a drawn layer stays | j others were drawn). */
static double staying(uint32_t limit, uint32_t j) {
    return j < limit ? 1 : (double)limit / (j + 1);
}

/* E[staying] over the number of other layers drawn. That number's distribution q follows from all
 * layers' distribution f by undoing the layer's own step, f[k] = q[k] (1 - p) + q[k - 1] p, from
 * the end on which the error does not grow. */
static double mean_staying(const double *f, uint32_t n, double p, uint32_t limit) {
    double q = 0;
    double mean = 0;
    if (p <= 0.5) {
        for (uint32_t k = 0; k < n; k++) {
            q = (f[k] - q * p) / (1 - p);
            mean += q * staying(limit, k);
        }
        return mean;
    }
    for (uint32_t k = n; k > 0; k--) {
        q = (f[k] - q * (1 - p)) / p;
        mean += q * staying(limit, k - 1);
    }
    return mean;
}

static void bernoulli_probabilities(const lisa_sampler_options *options, double *probabilities) {
    const double *p = options->weights;
    const uint32_t n = options->n_layers;
    double distribution[LISA_SAMPLER_MAX_LAYERS + 1];
    memcpy(probabilities, p, n * sizeof *p);
    if (limit_of(options) == n)
        return;
    count_distribution(p, n, distribution);
    for (uint32_t l = 0; l < n; l++) {
        const double mean = mean_staying(distribution, n, p[l], options->max_active);
        probabilities[l] = p[l] * (mean < 1 ? mean : 1); /* rounding may exceed it */
    }
}

static void weighted_probabilities(const struct lisa__sampler *sampler, double *probabilities) {
    for (uint32_t l = 0; l < sampler->options.n_layers; l++)
        probabilities[l] = sampler->shares[l] == LISA__SHARE_CERTAIN ? 1
                           : sampler->shares[l] == 0
                               ? 0
                               : (double)sampler->shares[l] / (double)sampler->share_unit;
}

void lisa__sampler_probabilities(const struct lisa__sampler *sampler, double *probabilities) {
    const lisa_sampler_options *options = &sampler->options;
    switch (options->kind) {
    case LISA_SAMPLER_BERNOULLI:
        bernoulli_probabilities(options, probabilities);
        break;
    case LISA_SAMPLER_WEIGHTED:
        weighted_probabilities(sampler, probabilities);
        break;
    case LISA_SAMPLER_FIXED:
        memset(probabilities, 0, options->n_layers * sizeof *probabilities);
        for (uint32_t i = 0; i < options->n_active; i++)
            probabilities[options->layers[i]] = 1;
        break;
    default:
        for (uint32_t l = 0; l < options->n_layers; l++)
            probabilities[l] = (double)options->n_active / options->n_layers;
        break;
    }
}

uint32_t lisa__sampler_max_active(const struct lisa__sampler *sampler) {
    const lisa_sampler_options *options = &sampler->options;
    if (options->kind != LISA_SAMPLER_BERNOULLI)
        return options->n_active;
    uint32_t n_possible = 0;
    for (uint32_t l = 0; l < options->n_layers; l++)
        n_possible += options->weights[l] > 0;
    return n_possible < limit_of(options) ? n_possible : limit_of(options);
}

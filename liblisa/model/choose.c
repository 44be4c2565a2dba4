/* Temperature, top-k and top-p, and a draw from what they leave.
 *
 * Everything asked for concerns the first few tokens by likelihood, so that the vocabulary is not
 * sorted but made a heap, from which tokens are taken as they are needed. */
#include "model/choose.h"

#include "sampler/philox.h"

#include <math.h>

/* ids: a heap of the tokens that were not taken, then those that were, the first one last. */
struct ranking {
    const double *logits;
    uint32_t *ids;
    uint32_t n, taken;
    double most, temperature;
};

static uint32_t most_likely(const double *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* More likely, or as likely with the lower id. */
static int before(const struct ranking *r, uint32_t a, uint32_t b) {
    const double x = r->logits[a], y = r->logits[b];
    return x > y || (x == y && a < b);
}

static void sift_down(struct ranking *r, uint32_t at, uint32_t n) {
    const uint32_t moving = r->ids[at];
    for (uint64_t child; (child = 2 * (uint64_t)at + 1) < n; at = (uint32_t)child) {
        if (child + 1 < n && before(r, r->ids[child + 1], r->ids[child]))
            child++;
        if (!before(r, r->ids[child], moving))
            break;
        r->ids[at] = r->ids[child];
    }
    r->ids[at] = moving;
}

static void begin(struct ranking *r) {
    for (uint32_t i = 0; i < r->n; i++)
        r->ids[i] = i;
    for (uint32_t i = r->n / 2; i-- > 0;)
        sift_down(r, i, r->n);
}

/* The token of a rank, 0 the most likely. */
static uint32_t ranked(struct ranking *r, uint32_t rank) {
    while (r->taken <= rank) {
        const uint32_t last = r->n - 1 - r->taken++;
        const uint32_t top = r->ids[0];
        r->ids[0] = r->ids[last];
        r->ids[last] = top;
        sift_down(r, 0, last);
    }
    return r->ids[r->n - 1 - rank];
}

/* Of a token, 1 for the most likely. */
static double mass(const struct ranking *r, uint32_t id) {
    return exp((r->logits[id] - r->most) / r->temperature);
}

/* Of the `count` most likely; of all in the order of their ids, which needs no ranks. */
static double mass_of_first(struct ranking *r, uint32_t count) {
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += mass(r, count < r->n ? ranked(r, i) : i);
    return sum;
}

/* Shortens *count to the fewest of them whose mass reaches `least`, and returns that mass. */
static double shorten(struct ranking *r, uint32_t *count, double least) {
    double sum = 0;
    uint32_t kept = 0;
    while (kept < *count && sum < least)
        sum += mass(r, ranked(r, kept++));
    *count = kept;
    return sum;
}

/* The first token, by rank, whose mass with that of all before it exceeds `target`; where rounding
 * lets none, the last that has any. */
static uint32_t at_mass(struct ranking *r, uint32_t count, double target) {
    uint32_t found = ranked(r, 0);
    double sum = 0;
    for (uint32_t i = 0; i < count && sum <= target; i++) {
        const uint32_t id = ranked(r, i);
        const double own = mass(r, id);
        if (own == 0)
            break;
        sum += own;
        found = id;
    }
    return found;
}

/* In [0, 1), 53 bits. */
static double uniform(uint64_t seed, uint64_t index) {
    uint32_t word[4];
    lisa__philox(seed, index, 0, word);
    return (double)((uint64_t)(word[0] >> 5) << 26 | word[1] >> 6) / 9007199254740992.0; /* 2^53 */
}

uint32_t lisa__choose(const struct lisa__choice *choice, const double *logits, uint32_t n,
                      uint32_t *ids, uint64_t index) {
    const uint32_t best = most_likely(logits, n);
    if (choice->temperature == 0)
        return best;
    struct ranking r = {logits, ids, n, 0, logits[best], choice->temperature};
    begin(&r);
    uint32_t count = choice->top_k != 0 && choice->top_k < n ? choice->top_k : n;
    double total = mass_of_first(&r, count);
    if (choice->top_p > 0 && choice->top_p < 1)
        total = shorten(&r, &count, choice->top_p * total);
    return at_mass(&r, count, uniform(choice->seed, index) * total);
}

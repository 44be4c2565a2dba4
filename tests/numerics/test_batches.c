/* What a batch may say beside its tokens, in terms of simpler batches: labels, weights, padding,
 * documents and sizes below the largest; and what an evaluation says, in terms of logits. */
#include "check_main.h"
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = 3, T = 11, N = B * T, VOCABULARY = 61 };

/* Loop index -> backend, and how close sums in another order are. */
static const struct {
    const char *backend;
    double bound;
} SETTINGS[] = {{"reference64", 1e-13}, {"reference", 1e-5}, {"cpu", 1e-5}};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS };

/* A batch of N tokens with everything that can be said about it; NULL where nothing is. */
struct said {
    const int32_t *tokens, *labels, *documents;
    const float *weights;
    uint32_t n_batch, n_tokens;
};

static rig a, b;
static int32_t tokens[N], labels[N];

static void make_with(int setting, uint32_t learned_positions) {
    rig_spec spec;
    rig_spec_init(&spec, SETTINGS[setting].backend);
    if (learned_positions) {
        spec.config.rope = LISA_ROPE_NONE;
        spec.config.learned_positions = 1;
    }
    spec.max_batch = B;
    spec.max_tokens = T;
    spec.batch.head_rows = 4; /* several chunks, the last one short */
    rig_make(&a, &spec);
    rig_make(&b, &spec);
    rig_random_tokens(tokens, N, VOCABULARY, 2);
    rig_random_tokens(labels, N, VOCABULARY, 3);
}

static void make(int setting) {
    make_with(setting, 0);
}

static void teardown(void) {
    rig_destroy(&a);
    rig_destroy(&b);
}

static void set(rig *r, const struct said *s) {
    OK(lisa_batch_set(r->batch, s->tokens, s->labels, s->n_batch, s->n_tokens));
    if (s->documents != NULL)
        OK(lisa_batch_set_documents(r->batch, s->documents));
    if (s->weights != NULL)
        OK(lisa_batch_set_weights(r->batch, s->weights));
}

/* Adds a batch to the window. */
static void add(rig *r, struct said s) {
    set(r, &s);
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
}

/* The window's sums, the sum of weights first; free() them. */
static double *sums_of(rig *r, size_t *n) {
    void *data;
    uint64_t count;
    uint32_t dtype;
    OK(lisa_optimizer_gradients(r->optimizer, &data, &count, &dtype));
    *n = (size_t)count;
    double *sums = malloc(*n * sizeof *sums);
    ck_assert_ptr_nonnull(sums);
    for (size_t i = 0; i < *n; i++)
        sums[i] = dtype == LISA_DTYPE_F64 ? ((double *)data)[i] : (double)((float *)data)[i];
    return sums;
}

/* Both windows hold the same, and something; bound 0: to the bit. */
static void assert_same_sums(double bound) {
    size_t n, m;
    double *x = sums_of(&a, &n), *y = sums_of(&b, &m);
    ck_assert_uint_eq(n, m);
    ck_assert(x[0] == y[0] && x[0] > 0);
    if (bound == 0)
        ck_assert_mem_eq(x, y, n * sizeof *x);
    else
        ck_assert_double_le(rig_error(x + 1, y + 1, n - 1), bound);
    double most = 0;
    for (size_t i = 1; i < n; i++)
        most = fmax(most, fabs(x[i]));
    ck_assert_double_gt(most, 0);
    free(x);
    free(y);
}

static double log_softmax(const double *logits, int32_t id) {
    double most = logits[0], sum = 0;
    for (int i = 1; i < VOCABULARY; i++)
        most = fmax(most, logits[i]);
    for (int i = 0; i < VOCABULARY; i++)
        sum += exp(logits[i] - most);
    return logits[id] - most - log(sum);
}

static int is_most_likely(const double *logits, int32_t id) {
    for (int i = 0; i < VOCABULARY; i++)
        if (logits[i] > logits[id] || (logits[i] == logits[id] && i < id))
            return 0;
    return 1;
}

/* The label of token t is scored on the logits behind token t - 1, if they are of one document. */
static void check_evaluation(const struct said *s, double bound) {
    static double logits[N * VOCABULARY];
    const uint32_t n = s->n_batch * s->n_tokens;
    double loss = 0, expected_loss = 0, weight_sum = 0;
    float log_probs[N];
    uint8_t greedy[N];
    uint32_t n_scored = 0, n_greedy = 0;
    set(&a, s);
    OK(lisa_model_logits(a.model, a.batch, logits, LISA_DTYPE_F64, (uint64_t)n * VOCABULARY));
    OK(lisa_model_evaluate(a.model, a.batch, &loss, log_probs, greedy));
    for (uint32_t i = 0; i < n; i++) {
        const double weight = s->weights != NULL ? (double)s->weights[i] : 1;
        const int32_t label = s->labels[i];
        if (i % s->n_tokens == 0 || label == LISA_IGNORE_LABEL || weight == 0 ||
            (s->documents != NULL && s->documents[i] != s->documents[i - 1])) {
            ck_assert(log_probs[i] == 0 && greedy[i] == 0);
            continue;
        }
        const double *row = logits + (size_t)(i - 1) * VOCABULARY;
        const double expected = log_softmax(row, label);
        ck_assert_double_le(fabs((double)log_probs[i] - expected), 2e-6 * fabs(expected));
        ck_assert_uint_eq(greedy[i], is_most_likely(row, label));
        expected_loss -= weight * expected;
        weight_sum += weight;
        n_scored++;
        n_greedy += greedy[i];
    }
    expected_loss /= weight_sum;
    ck_assert_uint_eq(lisa_batch_n_targets(a.batch), n_scored);
    ck_assert_uint_gt(n_greedy, 2);
    ck_assert_uint_lt(n_greedy, n_scored);
    ck_assert_double_le(rig_error(&loss, &expected_loss, 1), bound);
}

/* Every third label is the most likely token. */
static void make_some_likely(void) {
    static double logits[N * VOCABULARY];
    OK(lisa_batch_set(a.batch, tokens, NULL, B, T));
    OK(lisa_model_logits(a.model, a.batch, logits, LISA_DTYPE_F64, N * VOCABULARY));
    for (int i = 2; i < N; i += 3)
        for (int32_t id = 0; id < VOCABULARY; id++)
            if (is_most_likely(logits + (i - 1) * VOCABULARY, id))
                labels[i] = id;
}

START_TEST(test_evaluation_is_of_the_logits) {
    float weights[N];
    int32_t documents[N];
    make(_i);
    const double bound = _i == 0 ? 1e-14 : 1e-6;
    struct said s = {tokens, labels, NULL, NULL, B, T};
    make_some_likely();
    labels[4] = labels[20] = labels[N - 1] = LISA_IGNORE_LABEL;
    check_evaluation(&s, bound);
    for (int i = 0; i < N; i++) {
        weights[i] = 0.25f * (float)(i % 5);
        documents[i] =
            i % T < 10; /* the last token of a row is alone: the others stay as they are */
    }
    s.weights = weights;
    check_evaluation(&s, bound);
    s.documents = documents;
    check_evaluation(&s, bound);
}
END_TEST

/* -100 is a weight of 0, to the bit. */
START_TEST(test_ignored_is_weight_zero) {
    float weights[N];
    int32_t some[N];
    make(_i);
    for (int i = 0; i < N; i++) {
        weights[i] = i % 4 == 1 ? 0 : 1;
        some[i] = i % 4 == 1 ? LISA_IGNORE_LABEL : labels[i];
    }
    add(&a, (struct said){tokens, some, NULL, NULL, B, T});
    add(&b, (struct said){tokens, labels, NULL, weights, B, T});
    assert_same_sums(0);
}
END_TEST

/* Labels in two parts, each part with the rest ignored, add up to all of them. */
START_TEST(test_labels_add_up) {
    int32_t even[N], odd[N];
    make(_i);
    for (int i = 0; i < N; i++) {
        even[i] = i % 2 == 0 ? labels[i] : LISA_IGNORE_LABEL;
        odd[i] = i % 2 == 1 ? labels[i] : LISA_IGNORE_LABEL;
    }
    add(&a, (struct said){tokens, labels, NULL, NULL, B, T});
    add(&b, (struct said){tokens, even, NULL, NULL, B, T});
    add(&b, (struct said){tokens, odd, NULL, NULL, B, T});
    assert_same_sums(SETTINGS[_i].bound);
}
END_TEST

/* Weights 0 to 4 are so many times the label. */
START_TEST(test_weights_are_repetitions) {
    float weights[N];
    int32_t some[N];
    make(_i);
    for (int i = 0; i < N; i++)
        weights[i] = (float)(i * 7 % 5);
    add(&a, (struct said){tokens, labels, NULL, weights, B, T});
    for (int times = 1; times <= 4; times++) {
        for (int i = 0; i < N; i++)
            some[i] = i * 7 % 5 >= times ? labels[i] : LISA_IGNORE_LABEL;
        add(&b, (struct said){tokens, some, NULL, NULL, B, T});
    }
    assert_same_sums(SETTINGS[_i].bound);
}
END_TEST

/* Rows of 11, 7 and 2 tokens, padded on the right, are three batches; with what is nothing. */
START_TEST(test_right_padding) {
    static const uint32_t lengths[B] = {11, 7, 2};
    int32_t padded[N], padded_labels[N], otherwise[N];
    make(_i);
    for (int i = 0; i < N; i++) {
        const int real = (uint32_t)(i % T) < lengths[i / T];
        padded[i] = real ? tokens[i] : 0;
        otherwise[i] = real ? tokens[i] : 60 - i;
        padded_labels[i] = real ? labels[i] : LISA_IGNORE_LABEL;
    }
    add(&a, (struct said){padded, padded_labels, NULL, NULL, B, T});
    for (uint32_t row = 0; row < B; row++)
        add(&b, (struct said){tokens + row * T, labels + row * T, NULL, NULL, 1, lengths[row]});
    assert_same_sums(SETTINGS[_i].bound);
    OK(lisa_optimizer_discard(b.optimizer));
    add(&b, (struct said){otherwise, padded_labels, NULL, NULL, B, T});
    assert_same_sums(0);
}
END_TEST

/* Every size up to the largest, in a batch made for the largest and after it was used in full, is a
 * batch made for that size. */
START_TEST(test_sizes_are_free) {
    rig_spec spec;
    make(_i);
    rig_spec_init(&spec, SETTINGS[_i].backend);
    spec.batch.head_rows = 4;
    for (uint32_t n_batch = 1; n_batch <= B; n_batch++)
        for (uint32_t n_tokens = 2; n_tokens <= T; n_tokens += 3) {
            const struct said s = {tokens, labels, NULL, NULL, n_batch, n_tokens};
            rig_destroy(&b);
            spec.max_batch = n_batch;
            spec.max_tokens = n_tokens;
            rig_make(&b, &spec);
            add(&a, (struct said){tokens, labels, NULL, NULL, B, T});
            OK(lisa_optimizer_discard(a.optimizer));
            add(&a, s);
            add(&b, s);
            assert_same_sums(0);
            OK(lisa_optimizer_discard(a.optimizer));
        }
}
END_TEST

/* Packed rows of several documents each, weighted, are their documents one by one; learned
 * positions show whether they restart. */
START_TEST(test_documents_do_not_see_each_other) {
    static const uint32_t lengths[] = {4, 1, 6, 11, 2, 2, 7};
    int32_t documents[N];
    float weights[N];
    make_with(_i, 1);
    for (uint32_t d = 0, at = 0; d < sizeof lengths / sizeof *lengths; d++)
        for (uint32_t i = 0; i < lengths[d]; i++, at++) {
            documents[at] = 5 - (int32_t)d;
            weights[at] = 0.5f * (float)(1 + at % 3);
        }
    add(&a, (struct said){tokens, labels, documents, weights, B, T});
    for (uint32_t d = 0, at = 0; d < sizeof lengths / sizeof *lengths; at += lengths[d++])
        add(&b, (struct said){tokens + at, labels + at, NULL, weights + at, 1, lengths[d]});
    assert_same_sums(SETTINGS[_i].bound);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("batches");
    TCase *tcase = tcase_create("batches");
    tcase_add_checked_fixture(tcase, NULL, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_evaluation_is_of_the_logits, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_ignored_is_weight_zero, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_labels_add_up, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_weights_are_repetitions, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_right_padding, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_sizes_are_free, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_documents_do_not_see_each_other, 0, N_SETTINGS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

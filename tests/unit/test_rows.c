/* Which rows of a batch are scored, on what, and where positions restart. */
#include "data/rows.h"

#include "check_main.h"
#include "noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, lisa_error_last())

enum { MAX_BATCH = 2, MAX_TOKENS = 6, VOCABULARY = 50 };

static lisa_context *context;
static struct lisa__rows rows;

static void setup(void) {
    lisa_context_options options;
    OK(lisa_context_options_init(&options, sizeof options));
    options.backend = "reference";
    options.n_threads = 1;
    OK(lisa_context_create(&context, &options));
    OK(lisa__rows_create(&rows, context, MAX_BATCH, MAX_TOKENS, VOCABULARY));
}

static void teardown(void) {
    lisa__rows_destroy(&rows, context);
    lisa_context_destroy(context);
}

/* What should be scored: the row in the batch, its label and the label's weight. */
struct score {
    int32_t index, target;
    float weight;
};

static void expect_scores(const struct score *scores, uint32_t n) {
    double sum = 0;
    ck_assert_uint_eq(rows.n_scored, n);
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_int_eq(rows.index[i], scores[i].index);
        ck_assert_int_eq(rows.target[i], scores[i].target);
        ck_assert(rows.weight[i] == scores[i].weight);
        sum += scores[i].weight;
    }
    ck_assert(rows.weight_sum == sum);
}

static void expect_positions(const int32_t *positions, size_t n) {
    ck_assert_mem_eq(rows.position, positions, n * sizeof *positions);
}

static const int32_t TOKENS[12] = {10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25};

START_TEST(tokens_are_their_own_labels) {
    static const struct score scores[] = {{0, 11, 1}, {1, 12, 1}, {3, 14, 1}, {4, 15, 1}};
    static const int32_t positions[] = {0, 1, 2, 0, 1, 2};
    OK(lisa__rows_set(&rows, TOKENS, NULL, 2, 3));
    ck_assert_uint_eq(rows.batch, 2);
    ck_assert_uint_eq(rows.tokens, 3);
    ck_assert_mem_eq(rows.token, TOKENS, 6 * sizeof *TOKENS);
    expect_scores(scores, 4);
    expect_positions(positions, 6);
}
END_TEST

START_TEST(ignored_labels_are_not_scored) {
    static const int32_t labels[] = {30, LISA_IGNORE_LABEL, 32, LISA_IGNORE_LABEL, 34, 35};
    static const struct score scores[] = {{1, 32, 1}, {3, 34, 1}, {4, 35, 1}};
    static const int32_t none[] = {30, -100, -100, -100, -100, -100};
    OK(lisa__rows_set(&rows, TOKENS, labels, 1, 6));
    expect_scores(scores, 3);
    OK(lisa__rows_set(&rows, TOKENS, none, 1, 6)); /* the first label has no token before it */
    expect_scores(NULL, 0);
}
END_TEST

START_TEST(a_single_token_predicts_nothing) {
    OK(lisa__rows_set(&rows, TOKENS, NULL, 2, 1));
    expect_scores(NULL, 0);
}
END_TEST

START_TEST(documents_end_scores_and_restart_positions) {
    static const int32_t documents[] = {5, 5, 7, 7, 7, 6, -1, -1, -1, -1, -1, -1};
    static const int32_t positions[] = {0, 1, 0, 1, 2, 0, 0, 1, 2, 3, 4, 5};
    static const int32_t plain[] = {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5};
    static const struct score scores[] = {{0, 11, 1}, {2, 13, 1}, {3, 14, 1}, {6, 21, 1},
                                          {7, 22, 1}, {8, 23, 1}, {9, 24, 1}, {10, 25, 1}};
    OK(lisa__rows_set(&rows, TOKENS, NULL, 2, 6));
    OK(lisa__rows_set_documents(&rows, documents));
    expect_scores(scores, 8);
    expect_positions(positions, 12);
    OK(lisa__rows_set_documents(&rows, NULL));
    ck_assert_uint_eq(rows.n_scored, 10);
    expect_positions(plain, 12);
    /* The same id in another row is another document. */
    static const int32_t shared[] = {1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1};
    OK(lisa__rows_set_documents(&rows, shared));
    ck_assert_uint_eq(rows.n_scored, 8);
}
END_TEST

START_TEST(weights_belong_to_labels) {
    static const float weights[] = {9, 0.5f, 0, 2, 1, 0.25f};
    static const struct score scores[] = {{0, 11, 0.5f}, {2, 13, 2}, {3, 14, 1}, {4, 15, 0.25f}};
    static const float zeros[6] = {0};
    OK(lisa__rows_set(&rows, TOKENS, NULL, 1, 6));
    OK(lisa__rows_set_weights(&rows, weights));
    expect_scores(scores, 4);
    OK(lisa__rows_set_weights(&rows, zeros));
    expect_scores(NULL, 0);
    OK(lisa__rows_set_weights(&rows, NULL));
    ck_assert_uint_eq(rows.n_scored, 5);
}
END_TEST

START_TEST(documents_and_weights_meet_and_are_reset) {
    static const int32_t documents[] = {1, 1, 1, 2, 2, 2};
    static const float weights[] = {1, 3, 0, 1, 1, 4};
    static const struct score scores[] = {{0, 11, 3}, {3, 14, 1}, {4, 15, 4}};
    OK(lisa__rows_set(&rows, TOKENS, NULL, 1, 6));
    OK(lisa__rows_set_weights(&rows, weights));
    OK(lisa__rows_set_documents(&rows, documents));
    expect_scores(scores, 3);
    OK(lisa__rows_set(&rows, TOKENS, NULL, 1, 6));
    ck_assert_uint_eq(rows.n_scored, 5);
    ck_assert_uint_eq(rows.has_documents, 0);
    ck_assert(rows.weight_sum == 5);
}
END_TEST

static void expect_refused(lisa_status expected, lisa_status status, const char *words) {
    ck_assert_int_eq(status, expected);
    ck_assert_msg(strstr(lisa_error_last(), words) != NULL, "\"%s\" does not say \"%s\"",
                  lisa_error_last(), words);
}

START_TEST(what_is_refused_changes_nothing) {
    static const struct score scores[] = {{0, 11, 1}, {2, 13, 1}, {3, 14, 3}};
    static const int32_t documents[] = {1, 1, 2, 2, 2};
    static const float weights[] = {1, 1, 1, 1, 3};
    static const int32_t returning[] = {1, 2, 2, 1, 1}, crossing[] = {1, 2, 1, 2, 2};
    int32_t bad[5] = {1, 2, 3, 4, VOCABULARY}, below[5] = {1, 2, 3, -1, 5}, label[5] = {0, 0, -99};
    float negative[5] = {1, 1, 1, 1, -1}, nan[5] = {1, NAN}, infinite[5] = {INFINITY};
    OK(lisa__rows_set(&rows, TOKENS, NULL, 1, 5));
    OK(lisa__rows_set_documents(&rows, documents));
    OK(lisa__rows_set_weights(&rows, weights));
    label[3] = label[4] = 0;
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, bad, NULL, 1, 5), "tokens[4]");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, below, NULL, 1, 5), "tokens[3]");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, TOKENS, label, 1, 5), "targets[2]");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, TOKENS, NULL, 3, 1), "3 x 1");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, TOKENS, NULL, 1, 7), "1 x 7");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, TOKENS, NULL, 0, 1), "0 x 1");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, TOKENS, NULL, 1, 0), "1 x 0");
    expect_refused(LISA_E_INVAL, lisa__rows_set(&rows, NULL, NULL, 1, 1), "NULL");
    expect_refused(LISA_E_INVAL, lisa__rows_set_documents(&rows, returning), "returns at token 3");
    expect_refused(LISA_E_INVAL, lisa__rows_set_documents(&rows, crossing), "returns at token 2");
    expect_refused(LISA_E_INVAL, lisa__rows_set_weights(&rows, negative), "weights[4]");
    expect_refused(LISA_E_INVAL, lisa__rows_set_weights(&rows, nan), "weights[1]");
    expect_refused(LISA_E_INVAL, lisa__rows_set_weights(&rows, infinite), "weights[0]");
    ck_assert_uint_eq(rows.tokens, 5);
    ck_assert_mem_eq(rows.token, TOKENS, 5 * sizeof *TOKENS);
    expect_scores(scores, 3);
}
END_TEST

/* Against a comparison of all with all, on rows of few ids, negative ones among them. */
START_TEST(documents_are_contiguous) {
    uint64_t state = 1;
    uint32_t refused = 0;
    for (int round = 0; round < 2000; round++) {
        int32_t documents[12];
        int returns = 0;
        const uint32_t n_ids = 2 + noise_below(&state, 9);
        for (int i = 0; i < 12; i++)
            documents[i] = i % 6 != 0 && noise_below(&state, 2) == 0
                               ? documents[i - 1]
                               : (int32_t)noise_below(&state, n_ids) - 4;
        for (int t = 0; t < 12; t++)
            for (int k = t / 6 * 6; k < t; k++)
                returns |= documents[k] == documents[t] && documents[t - 1] != documents[t];
        OK(lisa__rows_set(&rows, TOKENS, NULL, 2, 6));
        const lisa_status status = lisa__rows_set_documents(&rows, documents);
        ck_assert_int_eq(status, returns ? LISA_E_INVAL : LISA_OK);
        ck_assert_uint_eq(rows.has_documents, !returns);
        refused += (uint32_t)returns;
    }
    ck_assert_uint_gt(refused, 200);
    ck_assert_uint_lt(refused, 1800);
}
END_TEST

/* As many documents as tokens, in no order: the time does not grow with their square. */
START_TEST(many_documents) {
    enum { N = 1 << 20 };
    struct lisa__rows many;
    int32_t *ids = malloc(2 * N * sizeof *ids), *tokens = ids + N;
    ck_assert_ptr_nonnull(ids);
    for (uint32_t i = 0; i < N; i++) {
        ids[i] = (int32_t)(i * 2654435769u);
        tokens[i] = 0;
    }
    OK(lisa__rows_create(&many, context, 1, N, VOCABULARY));
    OK(lisa__rows_set(&many, tokens, NULL, 1, N));
    OK(lisa__rows_set_documents(&many, ids));
    ck_assert_uint_eq(many.n_scored, 0);
    ids[N - 1] = ids[7];
    expect_refused(LISA_E_INVAL, lisa__rows_set_documents(&many, ids), "returns at token 1048575");
    lisa__rows_destroy(&many, context);
    free(ids);
}
END_TEST

START_TEST(tokens_come_first) {
    static const int32_t documents[1] = {0};
    static const float weights[1] = {1};
    expect_refused(LISA_E_STATE, lisa__rows_set_documents(&rows, documents), "lisa_batch_set");
    expect_refused(LISA_E_STATE, lisa__rows_set_weights(&rows, weights), "lisa_batch_set");
}
END_TEST

START_TEST(memory_is_given_back) {
    struct lisa__rows other;
    uint64_t before = 0, after = 0;
    OK(lisa_context_memory(context, LISA_MEM_HANDLES, &before, NULL));
    OK(lisa__rows_create(&other, context, 3, 7, VOCABULARY));
    OK(lisa_context_memory(context, LISA_MEM_HANDLES, &after, NULL));
    ck_assert_uint_gt(after, before);
    lisa__rows_destroy(&other, context);
    OK(lisa_context_memory(context, LISA_MEM_HANDLES, &after, NULL));
    ck_assert_uint_eq(after, before);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("rows");
    TCase *tcase = tcase_create("rows");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, tokens_are_their_own_labels);
    tcase_add_test(tcase, ignored_labels_are_not_scored);
    tcase_add_test(tcase, a_single_token_predicts_nothing);
    tcase_add_test(tcase, documents_end_scores_and_restart_positions);
    tcase_add_test(tcase, weights_belong_to_labels);
    tcase_add_test(tcase, documents_and_weights_meet_and_are_reset);
    tcase_add_test(tcase, what_is_refused_changes_nothing);
    tcase_add_test(tcase, documents_are_contiguous);
    tcase_add_test(tcase, many_documents);
    tcase_add_test(tcase, tokens_come_first);
    tcase_add_test(tcase, memory_is_given_back);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

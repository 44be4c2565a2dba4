/* Generation with a KV cache says what the whole model says of every prefix; its rules and limits.
 * Public headers only. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { LONG_PROMPT = 300, POSITIONS = 320, N_NEW = 8 };

/* Loop index -> backend, and a window of visible keys or learned positions. */
static const struct {
    const char *backend;
    uint32_t window, learned;
} SETTINGS[] = {
    {"reference64", 0, 0}, {"reference64", 7, 0}, {"reference64", 0, 1},
    {"cpu", 0, 0},         {"cpu", 7, 0},         {"cpu", 270, 0},
};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS };

static rig r;
static rig_spec spec;
static lisa_generate_options options;

static void make(int setting) {
    rig_spec_init(&spec, SETTINGS[setting].backend);
    spec.config.max_positions = POSITIONS;
    spec.config.sliding_window = SETTINGS[setting].window;
    spec.config.learned_positions = SETTINGS[setting].learned;
    spec.max_batch = 1;
    spec.max_tokens = POSITIONS;
    rig_make(&r, &spec);
    OK(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = N_NEW;
}

static void setup(void) {
    make(0);
}

static void teardown(void) {
    rig_destroy(&r);
}

/* The most likely token behind n tokens, from the logits of all of them. */
static int32_t most_likely(const int32_t *tokens, uint32_t n) {
    const uint32_t vocab = r.config.vocab_size;
    double *logits = malloc((size_t)n * vocab * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    OK(lisa_batch_set(r.batch, tokens, NULL, 1, n));
    OK(lisa_model_logits(r.model, r.batch, logits, LISA_DTYPE_F64, (uint64_t)n * vocab));
    const double *last = logits + (size_t)(n - 1) * vocab;
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (last[i] > last[best])
            best = i;
    free(logits);
    return (int32_t)best;
}

static void check_prompt(uint32_t n_prompt) {
    int32_t tokens[POSITIONS], made[N_NEW];
    uint32_t n_made = 0;
    rig_random_tokens(tokens, n_prompt, r.config.vocab_size, n_prompt);
    OK(lisa_model_generate(r.model, tokens, n_prompt, &options, made, &n_made));
    ck_assert_uint_eq(n_made, N_NEW);
    for (uint32_t i = 0; i < n_made; i++) {
        ck_assert_int_eq(made[i], most_likely(tokens, n_prompt + i));
        tokens[n_prompt + i] = made[i];
    }
}

START_TEST(test_every_prefix) {
    static const uint32_t lengths[] = {1, 2, 13, 256, 257, LONG_PROMPT};
    make(_i);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        check_prompt(lengths[i]);
}
END_TEST

START_TEST(test_stop_tokens) {
    int32_t prompt[5], all[N_NEW], made[N_NEW];
    uint32_t n_all = 0, n_made = 0;
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    OK(lisa_model_generate(r.model, prompt, 5, &options, all, &n_all));
    uint32_t first = 0; /* where the fourth token is made for the first time */
    while (all[first] != all[3])
        first++;
    const int32_t stops[] = {-1, all[3]};
    options.stop_tokens = stops;
    options.n_stop_tokens = 1;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(n_made, n_all);
    options.n_stop_tokens = 2;
    memset(made, 0xFF, sizeof made);
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(n_made, first + 1);
    ck_assert_mem_eq(made, all, n_made * sizeof *made);
    ck_assert_int_eq(made[n_made], -1);
}
END_TEST

struct heard {
    int32_t tokens[N_NEW];
    uint32_t n, stop_at;
};

static int32_t hear(void *user, int32_t token) {
    struct heard *heard = user;
    heard->tokens[heard->n++] = token;
    return heard->n == heard->stop_at;
}

START_TEST(test_callback) {
    int32_t prompt[5], made[N_NEW];
    uint32_t n_made = 0;
    struct heard all = {.stop_at = 0}, some = {.stop_at = 3}, stopped = {.stop_at = 0};
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    options.on_token = hear;
    options.on_token_user = &all;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(all.n, N_NEW);
    ck_assert_mem_eq(all.tokens, made, sizeof made);
    options.on_token_user = &some;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(n_made, 3);
    ck_assert_uint_eq(some.n, 3);
    options.on_token_user = &stopped;
    options.stop_tokens = all.tokens;
    options.n_stop_tokens = 1;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(n_made, 1);
    ck_assert_uint_eq(stopped.n, 1); /* a stop token is heard too */
    ck_assert_int_eq(stopped.tokens[0], all.tokens[0]);
}
END_TEST

static void expect_refused(const int32_t *prompt, uint32_t n_prompt) {
    int32_t made[1];
    uint32_t n_made = 9;
    ck_assert_int_eq(lisa_model_generate(r.model, prompt, n_prompt, &options, made, &n_made),
                     LISA_E_INVAL);
    ck_assert_uint_eq(n_made, 0);
}

START_TEST(test_limits) {
    int32_t prompt[POSITIONS] = {0}, made[N_NEW];
    uint32_t n_made = 0;
    expect_refused(NULL, 5);
    expect_refused(prompt, 0);
    expect_refused(prompt, POSITIONS - N_NEW + 1);
    options.max_new_tokens = UINT32_MAX;
    expect_refused(prompt, 5);
    options.max_new_tokens = N_NEW;
    options.n_stop_tokens = 1;
    expect_refused(prompt, 5);
    options.n_stop_tokens = 0;
    prompt[2] = (int32_t)r.config.vocab_size;
    expect_refused(prompt, 5);
    prompt[2] = -1;
    expect_refused(prompt, 5);
    prompt[2] = 0;
    OK(lisa_model_generate(r.model, prompt, POSITIONS - N_NEW, &options, made, &n_made));
    ck_assert_uint_eq(n_made, N_NEW);
    options.max_new_tokens = 0;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(n_made, 0);
}
END_TEST

static void expect_bad_option(const char *name) {
    const int32_t prompt[] = {1, 2};
    expect_refused(prompt, 2);
    ck_assert_msg(strstr(lisa_error_last(), name) != NULL, "\"%s\" does not name %s",
                  lisa_error_last(), name);
}

START_TEST(test_bad_options) {
    static const double bad_temperatures[] = {-1, NAN, INFINITY}, bad_top_ps[] = {-0.1, 1.001, NAN};
    for (int i = 0; i < 3; i++) {
        options.temperature = bad_temperatures[i];
        expect_bad_option("lisa_generate_options.temperature");
        options.temperature = 0;
        options.top_p = bad_top_ps[i];
        expect_bad_option("lisa_generate_options.top_p");
        options.top_p = 0;
    }
    options.reserved = 1;
    expect_bad_option("lisa_generate_options.reserved");
}
END_TEST

/* A host of version 0.1 ends its struct before the temperature. */
START_TEST(test_older_host) {
    int32_t prompt[5], expected[N_NEW], made[N_NEW];
    uint32_t n_made = 0;
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    OK(lisa_model_generate(r.model, prompt, 5, &options, expected, &n_made));
    options.temperature = options.top_p = -7;
    OK(lisa_generate_options_init(&options, offsetof(lisa_generate_options, temperature)));
    ck_assert(options.temperature == -7);
    options.max_new_tokens = N_NEW;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_uint_eq(n_made, N_NEW);
    ck_assert_mem_eq(made, expected, sizeof made);
}
END_TEST

enum { N_DRAWN = 64 };

static void draw(int32_t made[N_DRAWN], uint64_t seed) {
    const int32_t prompt[] = {4, 5, 6};
    uint32_t n_made = 0;
    options.max_new_tokens = N_DRAWN;
    options.temperature = 1.5;
    options.top_p = 0.95;
    options.top_k = 40;
    options.seed = seed;
    OK(lisa_model_generate(r.model, prompt, 3, &options, made, &n_made));
    ck_assert_uint_eq(n_made, N_DRAWN);
}

START_TEST(test_seeds) {
    int32_t first[N_DRAWN], again[N_DRAWN], high[N_DRAWN], other[N_DRAWN];
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        rig_destroy(&r);
        make(3);
        rig_destroy(&r);
        spec.context.n_threads = n_threads;
        rig_make(&r, &spec);
        draw(n_threads == 1 ? first : again, 7);
        if (n_threads > 1)
            ck_assert_mem_eq(again, first, sizeof first);
    }
    draw(again, 7);
    draw(other, 8);
    draw(high, UINT64_C(1) << 32 | 7);
    ck_assert_mem_eq(again, first, sizeof first);
    ck_assert_mem_ne(other, first, sizeof first);
    ck_assert_mem_ne(high, first, sizeof first);
}
END_TEST

/* Drawn from one token is greedy, through the cache and behind it. */
START_TEST(test_top_1_is_greedy) {
    int32_t prompt[5], greedy[N_NEW], made[N_NEW];
    uint32_t n_made = 0;
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    OK(lisa_model_generate(r.model, prompt, 5, &options, greedy, &n_made));
    options.temperature = 10;
    options.top_k = 1;
    OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
    ck_assert_mem_eq(made, greedy, sizeof made);
}
END_TEST

/* What a generation holds is what the plan says, with a vocabulary whose staging is more than a
 * conversion's. */
START_TEST(test_held_is_planned) {
    enum { PROMPT = 290 };
    int32_t prompt[PROMPT] = {0}, made[N_NEW];
    uint32_t n_made = 0;
    uint64_t evaluation = 0, staging = 0;
    lisa_plan_request request;
    lisa_plan_report plan = {.struct_size = sizeof plan};
    rig_destroy(&r);
    rig_spec_init(&spec, "cpu");
    spec.config.max_positions = POSITIONS;
    spec.config.vocab_size = 400000;
    spec.config.d_model = 4;
    spec.config.n_heads = 1;
    spec.config.n_layers = 1;
    spec.no_optimizer = 1;
    spec.batch.inference_only = 1;
    rig_make(&r, &spec);
    OK(lisa_model_generate(r.model, prompt, PROMPT, &options, made, &n_made));
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = &r.config;
    request.context = &spec.context;
    request.generate_tokens = PROMPT + N_NEW;
    OK(lisa_plan(&request, &plan));
    OK(lisa_context_memory(r.context, LISA_MEM_EVALUATION, NULL, &evaluation));
    OK(lisa_context_memory(r.context, LISA_MEM_STAGING, NULL, &staging));
    ck_assert_uint_eq(evaluation, plan.bytes[LISA_MEM_EVALUATION]);
    ck_assert_uint_eq(staging, plan.bytes[LISA_MEM_STAGING]);
    ck_assert_uint_gt(staging, 4u << 20);
}
END_TEST

static int32_t polls_left;

static int32_t interrupt(void *user) {
    (void)user;
    return polls_left >= 0 && polls_left-- == 0;
}

/* Cancelled in the third token: the first two are there, and nothing is held. */
START_TEST(test_cancelled) {
    int32_t prompt[5], all[N_NEW], made[N_NEW];
    uint32_t n_made = 0;
    uint64_t held = 1;
    polls_left = -1;
    spec.context.interrupt = interrupt;
    rig_destroy(&r);
    rig_make(&r, &spec);
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    OK(lisa_model_generate(r.model, prompt, 5, &options, all, &n_made));
    polls_left = 2 * (int32_t)r.config.n_layers;
    ck_assert_int_eq(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made),
                     LISA_E_CANCELLED);
    ck_assert_uint_eq(n_made, 2);
    ck_assert_mem_eq(made, all, 2 * sizeof *made);
    OK(lisa_context_memory(r.context, LISA_MEM_EVALUATION, &held, NULL));
    ck_assert_uint_eq(held, 0);
    OK(lisa_context_memory(r.context, LISA_MEM_STAGING, &held, NULL));
    ck_assert_uint_eq(held, 0);
}
END_TEST

/* Between a forward and its backward, in a window: the step is the one without the interruption. */
START_TEST(test_within_a_window) {
    int32_t prompt[5], made[N_NEW];
    uint32_t n_made = 0;
    rig calm;
    rig_make(&calm, &spec);
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    for (uint64_t i = 0; i < 2; i++) {
        rig_random_batch(&r, 1, 40, i);
        rig_random_batch(&calm, 1, 40, i);
        OK(lisa_forward(r.model, r.batch, NULL));
        OK(lisa_forward(calm.model, calm.batch, NULL));
        OK(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made));
        OK(lisa_model_evaluate(r.model, r.batch, NULL, NULL, NULL));
        OK(lisa_backward(r.model, r.batch));
        OK(lisa_backward(calm.model, calm.batch));
    }
    OK(lisa_optimizer_step(r.optimizer, NULL));
    OK(lisa_optimizer_step(calm.optimizer, NULL));
    rig_assert_same_weights(&r, &calm, "with and without a generation in the window");
    rig_destroy(&calm);
}
END_TEST

/* A logit that is not finite is refused wherever in the vocabulary it is. */
START_TEST(test_nonfinite_logit) {
    int32_t prompt[5], made[N_NEW];
    uint32_t index = 0, n_made = 0;
    rig_destroy(&r);
    make(3);
    OK(lisa_model_tensor_find(r.model, "lm_head.weight", &index));
    const lisa_tensor_info info = rig_tensor(&r, index);
    double *values = rig_read(&r, index);
    for (uint64_t i = 0; i < info.shape[1]; i++)
        values[5 * info.shape[1] + i] = i % 2 == 0 ? 3e38 : -3e38;
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, info.n_elements));
    free(values);
    rig_random_tokens(prompt, 5, r.config.vocab_size, 2);
    ck_assert_int_eq(lisa_model_generate(r.model, prompt, 5, &options, made, &n_made),
                     LISA_E_NONFINITE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "logit"));
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("generate");
    TCase *alone = tcase_create("prefixes"), *tcase = tcase_create("rules");
    tcase_add_checked_fixture(alone, NULL, teardown);
    tcase_set_timeout(alone, 120);
    tcase_add_loop_test(alone, test_every_prefix, 0, N_SETTINGS);
    suite_add_tcase(suite, alone);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_stop_tokens);
    tcase_add_test(tcase, test_callback);
    tcase_add_test(tcase, test_limits);
    tcase_add_test(tcase, test_bad_options);
    tcase_add_test(tcase, test_older_host);
    tcase_add_test(tcase, test_seeds);
    tcase_add_test(tcase, test_top_1_is_greedy);
    tcase_add_test(tcase, test_held_is_planned);
    tcase_add_test(tcase, test_cancelled);
    tcase_add_test(tcase, test_within_a_window);
    tcase_add_test(tcase, test_nonfinite_logit);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

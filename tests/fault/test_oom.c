/* Every allocation of a whole scenario fails in turn, once and for ever after: the call says
 * LISA_E_NOMEM in one line, nothing leaks, and where memory comes back the same call goes on to the
 * same weights as if nothing had happened. */
#include "check_main.h"
#include "scenario.h"

static scenario calm, disturbed;

static int is_no_memory(lisa_status status) {
    return status == LISA_E_NOMEM;
}

START_TEST(test_every_allocation) {
    rig_spec spec;
    uint64_t n_faults = 0;
    make_scenario_dir(&spec);
    run_calm(&calm, &spec);
    for (uint64_t at = 1; at <= calm.n_allocations; at += stride()) {
        memset(&disturbed, 0, sizeof disturbed);
        disturbed.expects = is_no_memory;
        disturbed.once = !_i;
        disturbed.memory.fail_at = at;
        disturbed.memory.for_ever = _i;
        const int ended = run(&disturbed, &spec);
        ck_assert_uint_ge(disturbed.memory.n_failed, 1);
        ck_assert(!ended || !_i);
        n_faults += disturbed.memory.n_failed;
        assert_left(&disturbed, &calm, ended, "allocation", at);
    }
    printf("%llu allocations, %llu failures injected (%s)\n",
           (unsigned long long)calm.n_allocations, (unsigned long long)n_faults,
           _i ? "for ever after" : "once");
    remove_scenario_dir();
}
END_TEST

/* A life that begins with another's checkpoint; of the embedding rows come as they are needed. */
static int come_back(scenario *s, const rig_spec *spec, const int32_t *tokens) {
    if (!open_all(s, spec, tokens))
        return 0;
    TRY(s, load_checkpoint(s, 1));
    return 1;
}

START_TEST(test_every_allocation_of_a_return) {
    rig_spec spec;
    int32_t tokens[22];
    make_scenario_dir(&spec);
    spec.optimizer.embedding_rows = 22;
    rig_random_tokens(tokens, 22, spec.config.vocab_size, 3);
    memset(&calm, 0, sizeof calm);
    ck_assert(open_all(&calm, &spec, tokens));
    OK(set_and_step(&calm, 0));
    OK(save_checkpoint(&calm, 1));
    read_weights(&calm);
    clear(&calm);
    for (uint64_t at = 1;; at += stride()) {
        memset(&disturbed, 0, sizeof disturbed);
        disturbed.expects = is_no_memory;
        disturbed.once = !_i;
        disturbed.memory.fail_at = at;
        disturbed.memory.for_ever = _i;
        const int ended = come_back(&disturbed, &spec, tokens);
        assert_left(&disturbed, &calm, ended, "allocation", at);
        if (disturbed.memory.n_failed == 0)
            break;
        ck_assert(!ended || !_i);
    }
    remove_scenario_dir();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("out of memory");
    TCase *tcase = tcase_create("fault loop");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_every_allocation, 0, 2);
    tcase_add_loop_test(tcase, test_every_allocation_of_a_return, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

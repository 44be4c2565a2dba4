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

static Suite *make_suite(void) {
    Suite *suite = suite_create("out of memory");
    TCase *tcase = tcase_create("fault loop");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_every_allocation, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

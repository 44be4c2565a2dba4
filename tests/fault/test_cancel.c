/* The interrupt callback says stop at every point at which it is asked, once and for ever after:
 * the call is LISA_E_CANCELLED, and the next goes on to the same weights. */
#include "check_main.h"
#include "scenario.h"

static scenario calm, disturbed;

static struct {
    uint64_t n_asked, stop_at;
    int for_ever;
} interrupt;

static int32_t ask(void *user) {
    (void)user;
    interrupt.n_asked++;
    return interrupt.stop_at != 0 &&
           (interrupt.n_asked == interrupt.stop_at ||
            (interrupt.for_ever && interrupt.n_asked > interrupt.stop_at));
}

static int is_cancelled(lisa_status status) {
    return status == LISA_E_CANCELLED;
}

START_TEST(test_every_point) {
    rig_spec spec;
    make_scenario_dir(&spec);
    spec.context.interrupt = ask;
    run_calm(&calm, &spec);
    const uint64_t n_points = interrupt.n_asked;
    for (uint64_t at = 1; at <= n_points; at += stride()) {
        memset(&disturbed, 0, sizeof disturbed);
        memset(&interrupt, 0, sizeof interrupt);
        interrupt.stop_at = at;
        interrupt.for_ever = _i;
        disturbed.expects = is_cancelled;
        disturbed.once = !_i;
        const int ended = run(&disturbed, &spec);
        ck_assert_msg(disturbed.n_told == 1, "point %llu: told %llu times", (unsigned long long)at,
                      (unsigned long long)disturbed.n_told);
        ck_assert_int_eq(ended, !_i);
        interrupt.stop_at = 0;
        assert_left(&disturbed, &calm, ended, "point", at);
    }
    printf("cancelled at %llu of %llu points (%s)\n",
           (unsigned long long)((n_points + stride() - 1) / stride()), (unsigned long long)n_points,
           _i ? "for ever after" : "once");
    ck_assert_uint_gt(n_points, 50);
    remove_scenario_dir();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("cancelled");
    TCase *tcase = tcase_create("fault loop");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_every_point, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

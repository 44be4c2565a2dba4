/* Every system call on files fails in turn, once and for ever after, in a whole scenario; then the
 * disk is full at every size, and calls are short and interrupted. A failure is told in one line,
 * nothing is left open, the last checkpoint stays, and the same call goes on to the same weights.
 */
#include "check_main.h"
#include "scenario.h"

static scenario calm, disturbed;

static int is_of_files(lisa_status status) {
    return status == LISA_E_IO || status == LISA_E_NOTFOUND || status == LISA_E_NOMEM;
}

static void start(rig_spec *spec) {
    make_scenario_dir(spec);
    spec->optimizer.state_policy = LISA_STATE_OFFLOAD;
    spec->optimizer.scratch_dir = scenario_dir;
    run_calm(&calm, spec);
}

static int has_checkpoint(void) {
    char path[256];
    lisa__io = &lisa__io_system;
    return lisa_checkpoint_find(in_scenario_dir("checkpoints"), path, sizeof path) == LISA_OK;
}

static void empty(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s", in_scenario_dir(name));
    empty_dir(path);
    rmdir(path);
}

/* From a directory with nothing but the model, or with what an earlier life left. */
static int disturb(const rig_spec *spec, int once) {
    memset(&disturbed, 0, sizeof disturbed);
    disturbed.expects = is_of_files;
    disturbed.once = once;
    return run(&disturbed, spec);
}

static void assert_after(uint64_t at, int ended, const char *what) {
    assert_left(&disturbed, &calm, ended, what, at);
    ck_assert_msg(faults.n_open == 0, "%d files open after %s %llu", faults.n_open, what,
                  (unsigned long long)at);
}

START_TEST(test_every_call) {
    rig_spec spec;
    start(&spec);
    inject_nothing();
    ck_assert_int_eq(disturb(&spec, 0), 1);
    clear(&disturbed);
    const uint64_t n_calls = faults.n_calls;
    uint64_t n_told = 0;
    for (uint64_t at = 1; at <= n_calls; at += stride()) {
        if (at % 2)
            empty("checkpoints");
        const int had_one = has_checkpoint();
        inject(at, _i, EIO);
        const int ended = disturb(&spec, !_i);
        n_told += disturbed.n_told;
        faults.fail_at = 0;
        assert_after(at, ended, "call");
        ck_assert(has_checkpoint() || !had_one);
    }
    printf("%llu calls on files, failures told %llu (%s)\n", (unsigned long long)n_calls,
           (unsigned long long)n_told, _i ? "for ever after" : "once");
    ck_assert_uint_ge(n_told, n_calls / stride() / 2);
    remove_scenario_dir();
}
END_TEST

/* Room for so many bytes, and then for none. */
START_TEST(test_full_disk) {
    rig_spec spec;
    uint64_t n_full = 0;
    start(&spec);
    for (int64_t room = 0; room < 1000000; room += room / 8 + 97) {
        const int had_one = has_checkpoint();
        inject_nothing();
        faults.room = room;
        const int ended = disturb(&spec, 0);
        n_full += !ended;
        ck_assert(ended || strstr(lisa_error_last(), strerror(ENOSPC)) != NULL);
        faults.room = -1;
        assert_after((uint64_t)room, ended, "room for");
        ck_assert(has_checkpoint() || !had_one);
    }
    printf("a full disk, %llu times\n", (unsigned long long)n_full);
    ck_assert_uint_gt(n_full, 20);
    remove_scenario_dir();
}
END_TEST

START_TEST(test_small_bites) {
    rig_spec spec;
    start(&spec);
    inject_nothing();
    faults.in_small_bites = 1;
    assert_after(0, disturb(&spec, 0), "bite");
    remove_scenario_dir();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("files that fail");
    TCase *tcase = tcase_create("fault loop");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_every_call, 0, 2);
    tcase_add_test(tcase, test_full_disk);
    tcase_add_test(tcase, test_small_bites);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

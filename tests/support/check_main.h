/* check_main.h - main of a Check binary: one suite, one summary line. */
#ifndef LISA_CHECK_MAIN_H
#define LISA_CHECK_MAIN_H

#include <check.h>
#include <stdlib.h>

static inline int lisa_check_run(Suite *suite) {
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define LISA_CHECK_MAIN(make_suite)                                                                \
    int main(void) {                                                                               \
        return lisa_check_run(make_suite());                                                       \
    }

#endif

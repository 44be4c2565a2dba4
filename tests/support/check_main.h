/* check_main.h - main of a Check binary: one suite, one summary line. */
#ifndef LISA_CHECK_MAIN_H
#define LISA_CHECK_MAIN_H

#include <check.h>
#include <stdlib.h>

#define LISA_CHECK_MAIN(make_suite)                                                                \
    int main(void) {                                                                               \
        SRunner *runner = srunner_create(make_suite());                                            \
        srunner_run_all(runner, CK_ENV);                                                           \
        int failed = srunner_ntests_failed(runner);                                                \
        srunner_free(runner);                                                                      \
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;                                          \
    }

#endif

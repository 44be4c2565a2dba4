/* cuda_main.h - the main of a test that needs the cuda backend: skipped where it does not start. */
#ifndef LISA_CUDA_MAIN_H
#define LISA_CUDA_MAIN_H

#include "check_main.h"
#include "lisa/lisa.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static inline int lisa_cuda_starts(void) {
    lisa_context *context;
    lisa_context_options options;
    lisa_context_options_init(&options, sizeof options);
    options.backend = "cuda";
    const int starts = lisa_context_create(&context, &options) == LISA_OK;
    if (!starts)
        printf("%s\n", lisa_error_last());
    lisa_context_destroy(context);
    fflush(stdout);
    return starts;
}

/* In a process of its own: CUDA does not survive the fork that Check makes for each test. */
static inline int lisa_cuda_missing(void) {
    int status = 0;
    const pid_t child = fork();
    if (child == 0)
        _exit(lisa_cuda_starts() ? 0 : 1);
    return child < 0 || waitpid(child, &status, 0) != child || status != 0;
}

#define LISA_CUDA_MAIN(make_suite)                                                                 \
    int main(void) {                                                                               \
        return lisa_cuda_missing() ? 77 : lisa_check_run(make_suite());                            \
    }

#endif

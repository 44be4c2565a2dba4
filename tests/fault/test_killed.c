/* A process that trains and saves checkpoints is killed at random moments, some hundred times, and
 * each time another goes on from what lies on the disk: always a whole checkpoint, never an older
 * one than was complete, and at the end the weights of a training that was never interrupted. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LONGEST_US = 30000 };

static char directory[] = "/var/tmp/lisa-killed-XXXXXX";

static void make_spec(rig_spec *spec) {
    rig_spec_init(spec, "cpu");
    spec->config.weights_dtype = LISA_DTYPE_BF16;
    spec->optimizer.max_active_layers = 1;
    spec->optimizer.moments_layers = LISA_MOMENTS_8BIT;
}

static lisa_sampler *make_sampler(void) {
    lisa_sampler *sampler;
    lisa_sampler_options options;
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = 3;
    options.n_active = 1;
    options.interval_steps = 3;
    OK(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static void train(rig *r, const lisa_sampler *sampler, uint64_t step) {
    rig_random_batch(r, 2, 11, step);
    OK(lisa_train_step(r->model, sampler, r->optimizer, r->batch, step, NULL));
}

/* The step of the newest checkpoint, which is loaded; 0 where there is none. */
static uint64_t go_on(const rig *r) {
    char path[256];
    lisa_checkpoint_info info = {.struct_size = sizeof info};
    const lisa_status status = lisa_checkpoint_find(directory, path, sizeof path);
    if (status == LISA_E_NOTFOUND)
        return 0;
    OK(status);
    OK(lisa_checkpoint_load(r->optimizer, path, &info));
    return info.step;
}

/* Until it is killed. Each complete save is told through the pipe. */
static void train_for_ever(int pipe) {
    rig_spec spec;
    rig r;
    lisa_checkpoint_options options;
    const lisa_sampler *sampler = make_sampler();
    make_spec(&spec);
    rig_make(&r, &spec);
    OK(lisa_checkpoint_options_init(&options, sizeof options));
    options.keep = 2;
    for (uint64_t step = go_on(&r);;) {
        train(&r, sampler, step++);
        OK(lisa_checkpoint_save(r.optimizer, directory, step, &options));
        if (write(pipe, &step, sizeof step) != sizeof step)
            _exit(1);
    }
}

/* The last step whose save was complete; 0: none was. */
static uint64_t kill_one(unsigned microseconds) {
    int ends[2], status;
    uint64_t step = 0;
    ck_assert_int_eq(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0)
        train_for_ever(ends[1]);
    ck_assert_int_gt(child, 0);
    close(ends[1]);
    /* Begun, or it would spend its life in preparations. */
    const ssize_t begun = read(ends[0], &step, sizeof step);
    usleep(microseconds);
    kill(child, SIGKILL);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && begun == sizeof step);
    while (read(ends[0], &step, sizeof step) == sizeof step) {
    }
    close(ends[0]);
    return step;
}

static void assert_uninterrupted(const rig_spec *spec, const rig *resumed, uint64_t n_steps) {
    rig through;
    lisa_sampler *sampler = make_sampler();
    rig_make(&through, spec);
    for (uint64_t step = 0; step < n_steps; step++)
        train(&through, sampler, step);
    rig_assert_same_weights(&through, resumed, "killed, and not");
    lisa_sampler_destroy(sampler);
    rig_destroy(&through);
}

START_TEST(test_killed) {
    const char *wanted = getenv("LISA_TEST_KILLS");
    const int n_kills = wanted != NULL ? atoi(wanted) : 60;
    rig_spec spec;
    rig r;
    uint64_t step = 0;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    make_spec(&spec);
    srand(7);
    for (int i = 0; i < n_kills; i++) {
        const uint64_t complete = kill_one((unsigned)(rand() % LONGEST_US));
        rig_make(&r, &spec);
        const uint64_t found = go_on(&r);
        ck_assert_uint_ge(found, complete);
        ck_assert_uint_gt(found, step);
        step = found;
        rig_destroy(&r);
    }
    rig_make(&r, &spec);
    ck_assert_uint_eq(go_on(&r), step);
    assert_uninterrupted(&spec, &r, step);
    rig_destroy(&r);
    printf("killed %d times in %llu steps\n", n_kills, (unsigned long long)step);
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("killed");
    TCase *tcase = tcase_create("kill -9");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_killed);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

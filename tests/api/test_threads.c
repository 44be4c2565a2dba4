/* What docs/threads.md promises: contexts side by side, callbacks on the caller's thread, and what
 * a forked child may do. Public headers only. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ThreadSanitizer ends a forked child that starts threads. */
#if defined(__SANITIZE_THREAD__)
#define NO_THREADS_AFTER_FORK 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_THREADS_AFTER_FORK 1
#endif
#endif

enum { N_STEPS = 6, N_TOKENS = 32, N_ROUNDS = 12 };

/* A training run: what it starts from, and where it came to. */
typedef struct run {
    rig_spec spec;
    uint64_t seed;
    double losses[N_STEPS];
    uint32_t n_cancelled; /* steps that were made again */
    double *weights;
    size_t n_weights;
} run;

static run make_run(uint32_t n_threads, uint64_t seed) {
    run x = {.seed = seed};
    rig_spec_init(&x.spec, "cpu");
    /* Large enough for runs to overlap, and for products to be the BLAS's. */
    x.spec.config.d_model = 96;
    x.spec.config.n_heads = 6;
    x.spec.config.n_kv_heads = 2;
    x.spec.config.d_ff = 200;
    x.spec.config.vocab_size = 701;
    x.spec.max_tokens = N_TOKENS;
    x.spec.context.n_threads = n_threads;
    x.spec.config.weights_dtype = LISA_DTYPE_BF16;
    x.spec.model.seed = seed;
    x.spec.optimizer.max_active_layers = 1;
    return x;
}

static lisa_sampler *make_sampler(uint64_t seed) {
    lisa_sampler *sampler;
    lisa_sampler_options options;
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = 3;
    options.n_active = 1;
    options.interval_steps = 1;
    options.seed = seed;
    OK(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static lisa_status step(run *x, rig *r, const lisa_sampler *sampler, uint64_t at) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    rig_random_batch(r, 2, N_TOKENS, x->seed + at);
    const lisa_status status =
        lisa_train_step(r->model, sampler, r->optimizer, r->batch, at, &stats);
    x->losses[at] = stats.loss;
    return status;
}

/* Steps from `first` on; a step that is cancelled is made again. */
static void steps(run *x, rig *r, uint64_t first, uint64_t end) {
    lisa_sampler *sampler = make_sampler(x->seed);
    for (uint64_t at = first; at < end; at++) {
        lisa_status status = step(x, r, sampler, at);
        for (; status == LISA_E_CANCELLED; status = step(x, r, sampler, at))
            x->n_cancelled++;
        ck_assert_msg(status == LISA_OK, "step %u: %s", (unsigned)at, lisa_error_last());
    }
    lisa_sampler_destroy(sampler);
}

static void *train(void *arg) {
    run *x = arg;
    rig r;
    rig_make(&r, &x->spec);
    steps(x, &r, 0, N_STEPS);
    x->weights = rig_snapshot(&r, &x->n_weights);
    rig_destroy(&r);
    return NULL;
}

static void assert_came_to(run *x, const run *expected) {
    ck_assert_mem_eq(x->losses, expected->losses, sizeof x->losses);
    ck_assert_uint_eq(x->n_weights, expected->n_weights);
    ck_assert_mem_eq(x->weights, expected->weights, x->n_weights * sizeof *x->weights);
    free(x->weights);
}

static pthread_t start(void *(*function)(void *), void *arg) {
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, function, arg), 0);
    return thread;
}

/* The same run again and again, so that the other thread is met everywhere in it. */
static void *train_again(void *arg) {
    const run *alone = arg;
    for (int i = 0; i < N_ROUNDS; i++) {
        run again = *alone;
        train(&again);
        assert_came_to(&again, alone);
    }
    return NULL;
}

static void train_side_by_side(run runs[2]) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        train(&runs[i]);
    for (int i = 0; i < 2; i++)
        threads[i] = start(train_again, &runs[i]);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        free(runs[i].weights);
    }
}

static char directory[32];

static void make_directory(void) {
    strcpy(directory, "/var/tmp/lisa-threads-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void remove_directory(void) {
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(test_contexts_side_by_side) {
    run runs[2] = {make_run(2, 10), make_run(3, 11)};
    train_side_by_side(runs);
}
END_TEST

static void save_model(const rig_spec *spec) {
    rig r;
    rig_make(&r, spec);
    OK(lisa_model_save(r.model, directory, NULL));
    rig_destroy(&r);
}

/* The same files, mapped twice; and what reads and parses them. */
START_TEST(test_contexts_share_files) {
    run runs[2] = {make_run(2, 10), make_run(2, 11)};
    save_model(&runs[0].spec);
    runs[0].spec.directory = runs[1].spec.directory = directory;
    train_side_by_side(runs);
}
END_TEST

/* Fails in its own words, and reads them while others fail. */
static void *fail_often(void *arg) {
    const uint32_t n_layers = *(const uint32_t *)arg;
    char words[32];
    snprintf(words, sizeof words, "n_layers is %u,", n_layers);
    lisa_sampler_options options;
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = n_layers;
    for (int i = 0; i < 2000; i++) {
        lisa_sampler *sampler;
        ck_assert_int_eq(lisa_sampler_create(&sampler, &options), LISA_E_INVAL);
        ck_assert_ptr_nonnull(strstr(lisa_error_last(), words));
    }
    return NULL;
}

START_TEST(test_last_error_is_the_threads_own) {
    uint32_t n_layers[] = {5001, 6002, 7003};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        threads[i] = start(fail_often, &n_layers[i]);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_str_eq(lisa_error_last(), "");
}
END_TEST

/* What a host's callbacks see. */
typedef struct host {
    pthread_t caller;
    atomic_uint n_calls[3];
    atomic_uint n_elsewhere; /* calls on another thread than the caller's */
    atomic_int stop, is_waiting;
    uint32_t wait_at; /* the poll that waits to be stopped; 0: none */
    uint32_t n_asked;
} host;

enum { ALLOC, RELEASE, INTERRUPT };

static host *called(void *user, int callback) {
    host *h = user;
    atomic_fetch_add(&h->n_calls[callback], 1);
    if (!pthread_equal(pthread_self(), h->caller))
        atomic_fetch_add(&h->n_elsewhere, 1);
    return h;
}

static void *host_alloc(void *user, size_t size, size_t align) {
    void *ptr = NULL;
    called(user, ALLOC);
    return posix_memalign(&ptr, align, size) == 0 ? ptr : NULL;
}

static void host_release(void *user, void *ptr, size_t size, size_t align) {
    (void)size;
    (void)align;
    called(user, RELEASE);
    free(ptr);
}

/* Takes the order back, so that the step that is made again passes. */
static int32_t host_interrupt(void *user) {
    host *h = called(user, INTERRUPT);
    if (atomic_load(&h->n_calls[INTERRUPT]) == h->wait_at) {
        atomic_store(&h->is_waiting, 1);
        while (!atomic_load(&h->stop))
            usleep(10);
        atomic_store(&h->is_waiting, 0);
    }
    const int stop = atomic_exchange(&h->stop, 0);
    h->n_asked += (uint32_t)stop;
    return stop;
}

static run make_hosted_run(host *h) {
    run x = make_run(3, 20);
    memset(h, 0, sizeof *h);
    x.spec.context.alloc = host_alloc;
    x.spec.context.release = host_release;
    x.spec.context.alloc_user = h;
    x.spec.context.interrupt = host_interrupt;
    x.spec.context.interrupt_user = h;
    return x;
}

typedef struct hosted {
    run x;
    host h;
    atomic_int is_done;
} hosted;

static void *train_hosted(void *arg) {
    hosted *t = arg;
    t->h.caller = pthread_self();
    train(&t->x);
    atomic_store(&t->is_done, 1);
    return NULL;
}

START_TEST(test_callbacks_on_the_callers_thread) {
    static hosted t;
    t.x = make_hosted_run(&t.h);
    train_hosted(&t);
    for (int i = ALLOC; i <= INTERRUPT; i++)
        ck_assert_uint_gt(atomic_load(&t.h.n_calls[i]), 0);
    ck_assert_uint_eq(atomic_load(&t.h.n_elsewhere), 0);
    free(t.x.weights);
}
END_TEST

static void ask_to_stop(hosted *t) {
    uint32_t next = 0;
    while (!atomic_load(&t->is_done)) {
        const uint32_t n_polls = atomic_load(&t->h.n_calls[INTERRUPT]);
        if (atomic_load(&t->h.is_waiting) || n_polls >= next) {
            atomic_store(&t->h.stop, 1);
            next = n_polls + 37;
        }
        usleep(20);
    }
}

/* Another thread asks for a stop, at any time; whatever was stopped is made again. */
START_TEST(test_cancelled_from_another_thread) {
    static hosted t;
    run calm = make_run(3, 20);
    train(&calm);
    t.x = make_hosted_run(&t.h);
    t.h.wait_at = 10;
    const pthread_t trainer = start(train_hosted, &t);
    ask_to_stop(&t);
    ck_assert_int_eq(pthread_join(trainer, NULL), 0);
    ck_assert_uint_gt(t.h.n_asked, 0);
    ck_assert_uint_eq(t.x.n_cancelled, t.h.n_asked);
    ck_assert_uint_eq(atomic_load(&t.h.n_elsewhere), 0);
    assert_came_to(&t.x, &calm);
    free(calm.weights);
}
END_TEST

/* ---- fork ---- */

/* A child that hangs is ended by its alarm. */
static pid_t fork_child(void) {
    fflush(NULL);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        alarm(60);
    return child;
}

static void assert_ends_well(pid_t child) {
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x", status);
}

/* A run whose trained layers and states lie in scratch files, which a child shares. */
static run make_scratch_run(void) {
    run x = make_run(3, 30);
    save_model(&x.spec);
    x.spec.directory = directory;
    x.spec.model.scratch_dir = x.spec.optimizer.scratch_dir = directory;
    x.spec.optimizer.state_policy = LISA_STATE_OFFLOAD;
    return x;
}

enum { LEAVES, DESTROYS };

static void end_child(rig *inherited, int what) {
    if (what == DESTROYS)
        rig_destroy(inherited);
    exit(EXIT_SUCCESS); /* with all that is registered for it */
}

/* Halfway through a run a child inherits all of it; the parent's half that is left is the same. */
START_TEST(test_child_leaves_or_destroys) {
    run calm = make_scratch_run(), forked = make_scratch_run();
    rig r;
    train(&calm);
    rig_make(&r, &forked.spec);
    steps(&forked, &r, 0, N_STEPS / 2);
    usleep(20000); /* until the workers wait */
    const pid_t child = fork_child();
    if (child == 0)
        end_child(&r, _i);
    assert_ends_well(child);
    steps(&forked, &r, N_STEPS / 2, N_STEPS);
    forked.weights = rig_snapshot(&r, &forked.n_weights);
    rig_destroy(&r);
    assert_came_to(&forked, &calm);
    free(calm.weights);
}
END_TEST

#ifndef NO_THREADS_AFTER_FORK
/* Beside the threads of a context that it leaves alone; guest.c forks while another thread trains,
 * which here could hold a lock of Check's. */
START_TEST(test_child_trains) {
    run expected = make_run(3, 40), again = make_run(3, 40);
    lisa_sampler *sampler = make_sampler(1);
    uint8_t mask[5], inherited[5];
    rig r;
    train(&expected);
    rig_make(&r, &expected.spec);
    OK(lisa_sampler_mask(sampler, 3, mask, 5));
    const pid_t child = fork_child();
    if (child == 0) {
        OK(lisa_sampler_mask(sampler, 3, inherited, 5));
        ck_assert_mem_eq(mask, inherited, 5);
        train(&again);
        assert_came_to(&again, &expected);
        _exit(EXIT_SUCCESS);
    }
    assert_ends_well(child);
    lisa_sampler_destroy(sampler);
    rig_destroy(&r);
    free(expected.weights);
}
END_TEST
#endif

static Suite *make_suite(void) {
    Suite *suite = suite_create("threads");
    TCase *threads = tcase_create("threads"), *forks = tcase_create("fork");
    tcase_add_unchecked_fixture(threads, make_directory, remove_directory);
    tcase_add_test(threads, test_contexts_side_by_side);
    tcase_add_test(threads, test_contexts_share_files);
    tcase_add_test(threads, test_last_error_is_the_threads_own);
    tcase_add_test(threads, test_callbacks_on_the_callers_thread);
    tcase_add_test(threads, test_cancelled_from_another_thread);
    tcase_add_unchecked_fixture(forks, make_directory, remove_directory);
    tcase_add_loop_test(forks, test_child_leaves_or_destroys, LEAVES, DESTROYS + 1);
#ifndef NO_THREADS_AFTER_FORK
    tcase_add_test(forks, test_child_trains);
#endif
    suite_add_tcase(suite, threads);
    suite_add_tcase(suite, forks);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

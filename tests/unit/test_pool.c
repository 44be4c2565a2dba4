#define _GNU_SOURCE 1

#include "core/pool.h"

#include "check_main.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct account {
    size_t held;
    int refuse;
};

static void *counted_alloc(void *user, size_t size, size_t align) {
    struct account *account = user;
    if (account->refuse)
        return NULL;
    account->held += size;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void counted_release(void *user, void *ptr, size_t size, size_t align) {
    struct account *account = user;
    (void)align;
    account->held -= size;
    free(ptr);
}

static struct lisa__pool *make(struct account *account, uint32_t n_threads) {
    struct lisa__pool *pool;
    memset(account, 0, sizeof *account);
    ck_assert_int_eq(lisa__pool_create(&pool, n_threads, counted_alloc, counted_release, account),
                     LISA_OK);
    return pool;
}

#define MAX_TASKS 5000
#define MAX_THREADS 8

struct tally {
    atomic_uint times[MAX_TASKS];
    atomic_uint busy[MAX_THREADS];
    atomic_uint errors;
    uint32_t n_threads;
};

static void count_task(void *arg, uint32_t i, uint32_t thread) {
    struct tally *tally = arg;
    if (thread >= tally->n_threads || atomic_fetch_add(&tally->busy[thread], 1) != 0)
        atomic_fetch_add(&tally->errors, 1);
    atomic_fetch_add(&tally->times[i], 1);
    atomic_fetch_sub(&tally->busy[thread], 1);
}

static void check_run(struct lisa__pool *pool, uint32_t n) {
    static struct tally tally;
    memset(&tally, 0, sizeof tally);
    tally.n_threads = lisa__pool_n_threads(pool);
    lisa__pool_run(pool, n, count_task, &tally);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_uint_eq(atomic_load(&tally.times[i]), 1);
    ck_assert_uint_eq(atomic_load(&tally.errors), 0);
}

START_TEST(test_every_task_once) {
    static const uint32_t sizes[] = {0, 1, 2, 3, 7, 64, MAX_TASKS};
    for (uint32_t n_threads = 1; n_threads <= MAX_THREADS; n_threads++) {
        struct account account;
        struct lisa__pool *pool = make(&account, n_threads);
        ck_assert_uint_eq(lisa__pool_n_threads(pool), n_threads);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_run(pool, sizes[i]);
        lisa__pool_destroy(pool);
        ck_assert_uint_eq(account.held, 0);
    }
}
END_TEST

START_TEST(test_many_runs_parked_and_spinning) {
    struct account account;
    struct lisa__pool *pool = make(&account, 4);
    for (int run = 0; run < 3000; run++) {
        check_run(pool, (uint32_t)(run % 9));
        if (run % 300 == 0)
            usleep(2000);
    }
    lisa__pool_destroy(pool);
}
END_TEST

struct meeting {
    pthread_barrier_t barrier;
    atomic_uint threads;
};

static void meet(void *arg, uint32_t i, uint32_t thread) {
    struct meeting *meeting = arg;
    (void)i;
    atomic_fetch_or(&meeting->threads, 1u << thread);
    pthread_barrier_wait(&meeting->barrier);
}

/* Each task waits for all the others: this returns only if every thread takes part. */
START_TEST(test_threads_run_together) {
    struct account account;
    struct lisa__pool *pool = make(&account, 3);
    usleep(5000);
    for (int run = 0; run < 20; run++) {
        struct meeting meeting;
        pthread_barrier_init(&meeting.barrier, NULL, 3);
        atomic_init(&meeting.threads, 0);
        lisa__pool_run(pool, 3, meet, &meeting);
        ck_assert_uint_eq(atomic_load(&meeting.threads), 7);
        pthread_barrier_destroy(&meeting.barrier);
    }
    lisa__pool_destroy(pool);
}
END_TEST

struct masks {
    pthread_barrier_t barrier;
    atomic_uint blocked;
    pthread_t caller;
};

static void look_at_mask(void *arg, uint32_t i, uint32_t thread) {
    struct masks *masks = arg;
    sigset_t mask;
    (void)i;
    (void)thread;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    if (!pthread_equal(pthread_self(), masks->caller) && sigismember(&mask, SIGUSR1) == 1 &&
        sigismember(&mask, SIGINT) == 1)
        atomic_fetch_add(&masks->blocked, 1);
    pthread_barrier_wait(&masks->barrier);
}

START_TEST(test_signals_are_the_hosts) {
    struct account account;
    struct lisa__pool *pool = make(&account, 2);
    struct masks masks;
    pthread_barrier_init(&masks.barrier, NULL, 2);
    atomic_init(&masks.blocked, 0);
    masks.caller = pthread_self();
    lisa__pool_run(pool, 2, look_at_mask, &masks);
    ck_assert_uint_eq(atomic_load(&masks.blocked), 1);
    pthread_barrier_destroy(&masks.barrier);
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    ck_assert_int_eq(sigismember(&mask, SIGUSR1), 0);
    lisa__pool_destroy(pool);
}
END_TEST

START_TEST(test_no_memory) {
    struct account account = {.refuse = 1};
    struct lisa__pool *pool = (struct lisa__pool *)&account;
    ck_assert_int_eq(lisa__pool_create(&pool, 2, counted_alloc, counted_release, &account),
                     LISA_E_NOMEM);
    ck_assert_ptr_null(pool);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "2 threads"));
}
END_TEST

static int exit_code_of(pid_t child) {
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The sanitizers' own memory does not fit under the limit that this test sets. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifndef SANITIZED
/* An address space too small for the stacks stands for a system out of threads. In a process of its
 * own, which would otherwise keep the limit. */
static int lacks_threads(void) {
    struct account account = {0};
    struct lisa__pool *pool = NULL;
    struct rlimit limit = {.rlim_cur = (rlim_t)1 << 28, .rlim_max = (rlim_t)1 << 28};
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return 1;
    lisa_status status = lisa__pool_create(&pool, 1000, counted_alloc, counted_release, &account);
    if (status != LISA_E_NOMEM || pool != NULL || account.held != 0)
        return 2;
    return strstr(lisa_error_last(), "n_threads = 1000") == NULL ? 3 : 0;
}

START_TEST(test_no_threads) {
    pid_t child = fork();
    if (child == 0)
        _exit(lacks_threads());
    ck_assert_int_eq(exit_code_of(child), 0);
}
END_TEST
#endif

START_TEST(test_forked_child_goes_on_alone) {
    struct account account;
    struct lisa__pool *pool = make(&account, 3);
    check_run(pool, 10);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        check_run(pool, 10);
        lisa__pool_destroy(pool);
        _exit(0);
    }
    ck_assert_int_eq(exit_code_of(child), 0);
    check_run(pool, 10);
    lisa__pool_destroy(pool);
}
END_TEST

static Suite *pool_suite(void) {
    Suite *suite = suite_create("pool");
    TCase *tcase = tcase_create("pool");
    tcase_set_timeout(tcase, 60);
    TCase *native = tcase_create("limits");
    tcase_set_tags(native, "native"); /* not under an emulator */
    tcase_set_timeout(native, 60);
    tcase_add_test(tcase, test_every_task_once);
    tcase_add_test(tcase, test_many_runs_parked_and_spinning);
    tcase_add_test(tcase, test_threads_run_together);
    tcase_add_test(tcase, test_signals_are_the_hosts);
    tcase_add_test(tcase, test_no_memory);
#ifndef SANITIZED
    tcase_add_test(native, test_no_threads);
#endif
    tcase_add_test(tcase, test_forked_child_goes_on_alone);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, native);
    return suite;
}

LISA_CHECK_MAIN(pool_suite)

/* A step in the middle of a period: everything it needs was taken before. */
#include "check_main.h"
#include "rig.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { TOKENS = 96, N_ROUNDS = 25 };

static void *count_alloc(void *user, size_t size, size_t alignment) {
    ++*(size_t *)user;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void count_release(void *user, void *ptr, size_t size, size_t alignment) {
    (void)user;
    (void)size;
    (void)alignment;
    free(ptr);
}

static void spec_of(rig_spec *spec, size_t *n_allocations) {
    rig_spec_init(spec, "cpu");
    spec->context.n_threads = 2;
    spec->context.alloc = count_alloc;
    spec->context.release = count_release;
    spec->context.alloc_user = n_allocations;
    spec->config.d_model = 96;
    spec->config.n_heads = 6;
    spec->config.n_kv_heads = 2;
    spec->config.d_ff = 256;
    spec->config.vocab_size = 2000;
    spec->config.max_positions = TOKENS;
    spec->config.weights_dtype = LISA_DTYPE_BF16;
    spec->max_tokens = TOKENS;
    spec->optimizer.max_active_layers = 1;
}

/* The ways that a step may take through the library. */
static const struct way {
    const char *name;
    uint32_t activations, moments, in_backward, embedding_rows;
    int adapted;
} WAYS[] = {
    {"stored", LISA_ACTIVATIONS_STORE, LISA_MOMENTS_F32, 0, 0, 0},
    {"recomputed, 8 bits", LISA_ACTIVATIONS_RECOMPUTE, LISA_MOMENTS_8BIT, 0, 0, 0},
    {"inside backward", LISA_ACTIVATIONS_STORE, LISA_MOMENTS_BF16, 1, 0, 0},
    {"rows", LISA_ACTIVATIONS_STORE, LISA_MOMENTS_F32, 0, 1500, 0},
    {"an adapter", LISA_ACTIVATIONS_STORE, LISA_MOMENTS_F32, 0, 0, 1},
};
enum { N_WAYS = sizeof WAYS / sizeof *WAYS };

static void make(rig *r, const struct way *way, size_t *n_allocations) {
    rig_spec spec;
    spec_of(&spec, n_allocations);
    spec.batch.activations = way->activations;
    spec.optimizer.moments_embedding = spec.optimizer.moments_layers = way->moments;
    spec.optimizer.moments_head = way->moments;
    spec.optimizer.update_in_backward = way->in_backward;
    spec.optimizer.embedding_rows = way->embedding_rows;
    spec.adapted = way->adapted;
    spec.adapter.rank = 4;
    rig_make(r, &spec);
}

static void train(rig *r, uint64_t from, uint64_t to) {
    static const uint8_t mask[] = {1, 0, 1, 0, 1};
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, sizeof mask));
    for (uint64_t step = from; step < to; step++) {
        rig_random_batch(r, 2, TOKENS, step % 3);
        OK(lisa_train_step(r->model, NULL, r->optimizer, r->batch, step, NULL));
    }
}

START_TEST(test_a_step_takes_no_memory) {
    size_t n_allocations = 0;
    rig r;
    make(&r, &WAYS[_i], &n_allocations);
    train(&r, 0, 1);
    n_allocations = 0;
    train(&r, 1, 6);
    ck_assert_msg(n_allocations == 0, "%s: %zu allocations", WAYS[_i].name, n_allocations);
    rig_destroy(&r);
}
END_TEST

static long faults(void) {
    struct rusage usage;
    ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_minflt;
}

static long faults_of_steps(rig *r, uint64_t from, uint64_t to) {
    const long before = faults();
    train(r, from, to);
    return faults() - before;
}

/* A handful are the runtime's own: stacks, and counters of the kernel. A busy machine may add some
 * now and then, which a step that touches new pages does each time: so of the rounds one must be
 * clean. */
START_TEST(test_a_step_touches_no_new_page) {
    size_t n_allocations = 0;
    rig r;
    if (SANITIZED)
        return;
    make(&r, &WAYS[_i], &n_allocations);
    train(&r, 0, 4);
    long fewest = LONG_MAX;
    for (uint64_t round = 0; round < N_ROUNDS && fewest >= 20; round++) {
        const long n = faults_of_steps(&r, 4 + 20 * round, 24 + 20 * round);
        fewest = n < fewest ? n : fewest;
    }
    ck_assert_msg(fewest < 20, "%s: %ld page faults in 20 steps", WAYS[_i].name, fewest);
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("steady");
    TCase *tcase = tcase_create("steady");
    tcase_add_loop_test(tcase, test_a_step_takes_no_memory, 0, N_WAYS);
    suite_add_tcase(suite, tcase);
    TCase *pages = tcase_create("pages");
    tcase_set_tags(pages, "native");
    tcase_add_loop_test(pages, test_a_step_touches_no_new_page, 0, N_WAYS);
    suite_add_tcase(suite, pages);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

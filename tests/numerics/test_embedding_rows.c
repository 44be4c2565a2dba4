/* A row-sparse embedding: the same updates as of a dense one, with state for fewer rows. */
#include "check_main.h"
#include "rig.h"

#include <stdlib.h>
#include <string.h>

static const struct kind {
    const char *backend;
    uint32_t dtype, in_backward;
} KINDS[] = {
    {"reference64", LISA_DTYPE_F64, 0}, {"reference", LISA_DTYPE_F32, 0},
    {"cpu", LISA_DTYPE_F32, 0},         {"cpu", LISA_DTYPE_BF16, 0},
    {"cpu", LISA_DTYPE_F16, 0},         {"cpu", LISA_DTYPE_BF16, 1},
    {"reference", LISA_DTYPE_F16, 1},
};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS, TOKENS = 22 };

static void spec_of(rig_spec *spec, const struct kind *kind, uint32_t rows) {
    rig_spec_init(spec, kind->backend);
    spec->config.weights_dtype = kind->dtype;
    spec->optimizer.lr = 1e-3;
    spec->optimizer.weight_decay = 0.1;
    spec->optimizer.max_active_layers = 2;
    spec->optimizer.update_in_backward = kind->in_backward;
    spec->optimizer.embedding_rows = rows;
}

/* Tokens below `most`, so that some rows never come. */
static void set_batch(rig *r, uint32_t most, uint64_t seed) {
    int32_t tokens[TOKENS];
    rig_random_tokens(tokens, TOKENS, most, seed);
    OK(lisa_batch_set(r->batch, tokens, NULL, 2, TOKENS / 2));
}

/* The embedding rests now and then. */
static void apply_mask(rig *r, uint64_t step) {
    uint8_t mask[RIG_MAX_GROUPS] = {0};
    mask[0] = step % 4 != 2;
    mask[r->n_groups - 1] = 1;
    mask[1 + step / 2 % r->config.n_layers] = 1;
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
}

static void run(rig *r) {
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
}

static void backward(rig *r, uint32_t most, uint64_t seed) {
    set_batch(r, most, seed);
    run(r);
}

static void assert_same_gradients(const rig *a, const rig *b) {
    const uint64_t n = rig_tensor(a, 0).n_elements;
    double *x = rig_read_gradient(a, 0), *y = rig_read_gradient(b, 0), p, q;
    ck_assert_mem_eq(x, y, n * sizeof *x);
    OK(lisa_optimizer_gradient_norm(a->optimizer, 0, &p));
    OK(lisa_optimizer_gradient_norm(b->optimizer, 0, &q));
    ck_assert_double_eq_tol(p, q, 1e-6 * q);
    free(x);
    free(y);
}

static void step(rig *r) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    OK(lisa_optimizer_step(r->optimizer, &stats));
    ck_assert_uint_eq(stats.updated, 1);
}

START_TEST(test_as_dense) {
    const struct kind *kind = &KINDS[_i];
    rig_spec spec;
    rig sparse, dense;
    spec_of(&spec, kind, 15);
    rig_make(&sparse, &spec);
    spec.optimizer.embedding_rows = 0;
    rig_make(&dense, &spec);
    for (uint64_t s = 0; s < 9; s++) {
        apply_mask(&sparse, s);
        apply_mask(&dense, s);
        for (uint64_t k = 0; k < (kind->in_backward ? 1 : 2); k++) {
            backward(&sparse, 6 + (uint32_t)s, 2 * s + k);
            backward(&dense, 6 + (uint32_t)s, 2 * s + k);
        }
        if (!kind->in_backward && s % 4 != 2)
            assert_same_gradients(&sparse, &dense);
        step(&sparse);
        step(&dense);
        rig_assert_same_weights(&sparse, &dense, kind->backend);
    }
    rig_destroy(&sparse);
    rig_destroy(&dense);
}
END_TEST

/* In fewer bits the draws are others, and a block ends with its row: near, not the same. */
START_TEST(test_as_dense_in_few_bits) {
    const struct kind kind = {"cpu", LISA_DTYPE_BF16, 0};
    rig_spec spec;
    rig sparse, dense, start;
    size_t n, unused;
    spec_of(&spec, &kind, 15);
    spec.optimizer.moments_embedding = _i == 0 ? LISA_MOMENTS_BF16 : LISA_MOMENTS_8BIT;
    rig_make(&start, &spec);
    rig_make(&sparse, &spec);
    spec.optimizer.embedding_rows = 0;
    rig_make(&dense, &spec);
    for (uint64_t s = 0; s < 9; s++) {
        backward(&sparse, 15, s);
        backward(&dense, 15, s);
        step(&sparse);
        step(&dense);
    }
    n = rig_tensor(&dense, 0).n_elements;
    double *a = rig_read(&sparse, 0), *b = rig_read(&dense, 0), *c = rig_read(&start, 0);
    double moved = 0, apart = 0;
    for (unused = 0; unused < n; unused++) {
        moved += (b[unused] - c[unused]) * (b[unused] - c[unused]);
        apart += (b[unused] - a[unused]) * (b[unused] - a[unused]);
    }
    ck_assert_double_gt(moved, 0);
    ck_assert_double_lt(apart, 0.02 * moved);
    free(a);
    free(b);
    free(c);
    rig_destroy(&start);
    rig_destroy(&sparse);
    rig_destroy(&dense);
}
END_TEST

/* The first new token of the batch that was too much for 5 rows, alone. */
static void run_first_refused(rig *r) {
    int32_t tokens[TOKENS];
    size_t i = 0;
    rig_random_tokens(tokens, TOKENS, 30, 2);
    while (tokens[i] < 5)
        i++;
    for (size_t j = 0; j < TOKENS; j++)
        tokens[j] = tokens[i];
    OK(lisa_batch_set(r->batch, tokens, NULL, 2, TOKENS / 2));
    run(r);
}

/* The batch that is too much changes nothing, and smaller ones go on. */
START_TEST(test_more_rows_than_there_are) {
    const struct kind *kind = &KINDS[_i];
    rig_spec spec;
    rig r, twin;
    size_t n;
    spec_of(&spec, kind, 6);
    rig_make(&r, &spec);
    rig_make(&twin, &spec);
    backward(&r, 5, 1);
    step(&r);
    backward(&twin, 5, 1);
    step(&twin);
    double *before = rig_snapshot(&r, &n);
    set_batch(&r, 30, 2);
    ck_assert_int_eq(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 1, NULL), LISA_E_BUDGET);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "embedding_rows = 6, of which 5 are taken"));
    rig_assert_unchanged(&r, before, n);
    run_first_refused(&r);
    step(&r);
    run_first_refused(&twin);
    step(&twin);
    rig_assert_same_weights(&r, &twin, "after a refused batch");
    free(before);
    rig_destroy(&r);
    rig_destroy(&twin);
}
END_TEST

/* Yes at the call that the counter reaches. */
static int32_t at_count(void *user) {
    uint32_t *left = user;
    return (*left)-- == 0;
}

/* Rows that a backward took and that were not updated are free again. */
START_TEST(test_cancelled_rows) {
    const struct kind *kind = &KINDS[_i];
    uint32_t left = 2;
    rig_spec spec;
    rig r;
    spec_of(&spec, kind, 6);
    spec.context.interrupt = at_count;
    spec.context.interrupt_user = &left;
    rig_make(&r, &spec);
    for (int32_t first = 0; first < 12; first += 6) {
        int32_t tokens[TOKENS];
        for (int32_t i = 0; i < TOKENS; i++)
            tokens[i] = first + i % 6;
        OK(lisa_batch_set(r.batch, tokens, NULL, 2, TOKENS / 2));
        left = UINT32_MAX;
        OK(lisa_forward(r.model, r.batch, NULL));
        left = first == 0 ? 0 : UINT32_MAX;
        ck_assert_int_eq(lisa_backward(r.model, r.batch), first == 0 ? LISA_E_CANCELLED : LISA_OK);
    }
    step(&r);
    rig_destroy(&r);
}
END_TEST

/* A host's write reaches the masters of rows that train and the weights of all. */
START_TEST(test_write) {
    const struct kind *kind = &KINDS[_i];
    rig_spec spec;
    rig sparse, dense;
    spec_of(&spec, kind, 15);
    rig_make(&sparse, &spec);
    spec.optimizer.embedding_rows = 0;
    rig_make(&dense, &spec);
    const uint64_t n = rig_tensor(&dense, 0).n_elements;
    double *values = malloc(n * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (uint64_t i = 0; i < n; i++)
        values[i] = 0.001 * (double)((i * 7919) % 1000) - 0.5;
    for (uint64_t s = 0; s < 4; s++) {
        backward(&sparse, 10, s);
        backward(&dense, 10, s);
        step(&sparse);
        step(&dense);
        if (s == 1) {
            OK(lisa_model_tensor_write(sparse.model, 0, values, LISA_DTYPE_F64, n));
            OK(lisa_model_tensor_write(dense.model, 0, values, LISA_DTYPE_F64, n));
        }
        rig_assert_same_weights(&sparse, &dense, kind->backend);
    }
    free(values);
    rig_destroy(&sparse);
    rig_destroy(&dense);
}
END_TEST

START_TEST(test_gradients_stay_here) {
    rig_spec spec;
    rig r;
    void *data;
    uint64_t n;
    uint32_t dtype;
    spec_of(&spec, &KINDS[2], 15);
    rig_make(&r, &spec);
    backward(&r, 15, 1);
    ck_assert_int_eq(lisa_optimizer_gradients(r.optimizer, &data, &n, &dtype), LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "embedding_rows"));
    rig_destroy(&r);
}
END_TEST

static void assert_refused(const rig_spec *given, const char *word) {
    rig_spec bare = *given;
    rig r;
    lisa_optimizer *optimizer;
    bare.no_optimizer = 1;
    rig_make(&r, &bare);
    ck_assert_int_eq(lisa_optimizer_create(&optimizer, r.model, &given->optimizer), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "embedding_rows"));
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), word));
    rig_destroy(&r);
}

START_TEST(test_refusals) {
    rig_spec spec;
    spec_of(&spec, &KINDS[2], 15);
    spec.config.tied_head = 1;
    assert_refused(&spec, "tied head");
    spec.config.tied_head = 0;
    spec.optimizer.train_embedding = 0;
    assert_refused(&spec, "train_embedding");
    spec.optimizer.train_embedding = 1;
    spec.optimizer.embedding_rows = spec.config.vocab_size + 1;
    assert_refused(&spec, "rows");
    spec.optimizer.embedding_rows = 15;
    spec.adapted = 1;
    OK(lisa_adapter_options_init(&spec.adapter, sizeof spec.adapter));
    spec.adapter.rank = 2;
    assert_refused(&spec, "adapter");
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("embedding_rows");
    TCase *tcase = tcase_create("embedding_rows");
    tcase_add_loop_test(tcase, test_as_dense, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_as_dense_in_few_bits, 0, 2);
    tcase_add_loop_test(tcase, test_more_rows_than_there_are, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_cancelled_rows, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_write, 0, N_KINDS);
    tcase_add_test(tcase, test_gradients_stay_here);
    tcase_add_test(tcase, test_refusals);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

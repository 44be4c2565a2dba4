/* Two ways to the same numbers: what is only another order of calls, another place in memory or
 * another number of threads must not change a bit. */
#include "check_main.h"
#include "fixture.h"
#include "optim/optimizer.h"
#include "rig.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const BACKENDS[] = {"reference64", "reference", "cpu"};
enum { N_BACKENDS = sizeof BACKENDS / sizeof *BACKENDS };

/* A disk: scratch files are refused on tmpfs. */
static const char *scratch_directory(void) {
    const char *directory = getenv("LISA_TEST_SCRATCH");
    return directory != NULL ? directory : "/var/tmp";
}

enum { N_STEPS = 7 };

/* Loop index -> backend, and whether the weights are bf16 (on the float backends). */
enum { N_SETTINGS = 2 * N_BACKENDS - 1 };

static void spec_of(rig_spec *spec, int setting) {
    rig_spec_init(spec, BACKENDS[setting < N_BACKENDS ? setting : setting - N_BACKENDS + 1]);
    if (setting >= N_BACKENDS)
        spec->config.weights_dtype = LISA_DTYPE_BF16;
    spec->optimizer.weight_decay = 0.1;
    spec->optimizer.max_grad_norm = 1.0;
}

static lisa_sampler *make_sampler(uint32_t n_active, uint32_t interval) {
    lisa_sampler *sampler;
    lisa_sampler_options options;
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = 3;
    options.n_active = n_active;
    options.interval_steps = interval;
    options.seed = 11;
    OK(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static void assert_same_stats(const lisa_step_stats *a, const lisa_step_stats *b) {
    ck_assert_mem_eq(&a->loss, &b->loss, sizeof a->loss);
    ck_assert_mem_eq(&a->grad_norm, &b->grad_norm, sizeof a->grad_norm);
    ck_assert(a->weight_sum == b->weight_sum && a->lr == b->lr);
    ck_assert_uint_eq(a->n_targets, b->n_targets);
    ck_assert_uint_eq(a->n_active_layers, b->n_active_layers);
    ck_assert_uint_eq(a->n_backward, b->n_backward);
    ck_assert_uint_eq(a->updated, b->updated);
}

/* One train step on both, on the same batch, to the same bits. */
static void step_both(rig *a, const lisa_sampler *sampler_a, rig *b, const lisa_sampler *sampler_b,
                      uint64_t step) {
    lisa_step_stats sa = {.struct_size = sizeof sa}, sb = {.struct_size = sizeof sb};
    rig_random_batch(a, 2, 11, step);
    rig_random_batch(b, 2, 11, step);
    OK(lisa_train_step(a->model, sampler_a, a->optimizer, a->batch, step, &sa));
    OK(lisa_train_step(b->model, sampler_b, b->optimizer, b->batch, step, &sb));
    ck_assert_uint_eq(sa.updated, 1);
    assert_same_stats(&sa, &sb);
}

/* Two specs under the same sampler (gamma 2, K 2). */
static void assert_same_training(const rig_spec *spec_a, const rig_spec *spec_b, const char *what) {
    rig a, b;
    lisa_sampler *sampler = make_sampler(2, 2);
    rig_make(&a, spec_a);
    rig_make(&b, spec_b);
    rig_assert_same_weights(&a, &b, what);
    for (uint64_t step = 0; step < N_STEPS; step++)
        step_both(&a, sampler, &b, sampler, step);
    rig_assert_same_weights(&a, &b, what);
    lisa_sampler_destroy(sampler);
    rig_destroy(&a);
    rig_destroy(&b);
}

static void check_full_equals_gamma_l(int setting, uint32_t interval) {
    rig_spec spec;
    rig full, lisa;
    spec_of(&spec, setting);
    lisa_sampler *sampler = make_sampler(3, interval);
    rig_make(&full, &spec);
    rig_make(&lisa, &spec);
    for (uint64_t step = 0; step < N_STEPS; step++)
        step_both(&full, NULL, &lisa, sampler, step);
    rig_assert_same_weights(&full, &lisa, "full AdamW and gamma = L");
    lisa_sampler_destroy(sampler);
    rig_destroy(&full);
    rig_destroy(&lisa);
}

START_TEST(test_full_adamw_is_gamma_l) {
    check_full_equals_gamma_l(_i, 1);
    check_full_equals_gamma_l(_i, 3);
}
END_TEST

/* Masks under which layers take slots in another order than 0, 1, 2. The last is the same as when
 * layers 1 and 2 come at once. */
static void permute_slots(rig *r) {
    static const uint8_t masks[][5] = {
        {1, 0, 0, 1, 1}, {1, 1, 0, 1, 1}, {1, 1, 0, 0, 1}, {1, 1, 0, 1, 1}, {1, 0, 1, 1, 1}};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        OK(lisa_optimizer_apply_mask(r->optimizer, masks[i], 5));
}

/* Without this the two tests below would compare a run with itself. */
static void assert_bound_differently(const rig *a, const rig *b) {
    const struct lisa__group *x = a->optimizer->groups, *y = b->optimizer->groups;
    ck_assert_int_ge(x[2].slot, 0);
    ck_assert_int_ge(y[2].slot, 0);
    ck_assert_int_ne(x[2].slot, y[2].slot);
}

START_TEST(test_slot_order_does_not_matter) {
    static const uint8_t all[5] = {1, 1, 1, 1, 1};
    rig_spec spec;
    rig straight, permuted;
    spec_of(&spec, _i);
    rig_make(&straight, &spec);
    rig_make(&permuted, &spec);
    permute_slots(&permuted);
    OK(lisa_optimizer_apply_mask(permuted.optimizer, all, 5));
    assert_bound_differently(&straight, &permuted);
    for (uint64_t step = 0; step < N_STEPS; step++)
        step_both(&straight, NULL, &permuted, NULL, step);
    rig_assert_same_weights(&straight, &permuted, "slots in another order");
    rig_destroy(&straight);
    rig_destroy(&permuted);
}
END_TEST

/* The same with two slots, under a sampler. */
START_TEST(test_slot_order_does_not_matter_under_masks) {
    static const uint8_t layers_1_2[5] = {1, 0, 1, 1, 1};
    rig_spec spec;
    rig straight, permuted;
    spec_of(&spec, _i);
    spec.optimizer.max_active_layers = 2;
    lisa_sampler *sampler = make_sampler(2, 2);
    rig_make(&straight, &spec);
    rig_make(&permuted, &spec);
    OK(lisa_optimizer_apply_mask(straight.optimizer, layers_1_2, 5));
    permute_slots(&permuted);
    assert_bound_differently(&straight, &permuted);
    for (uint64_t step = 0; step < N_STEPS; step++)
        step_both(&straight, sampler, &permuted, sampler, step);
    rig_assert_same_weights(&straight, &permuted, "two slots in another order");
    lisa_sampler_destroy(sampler);
    rig_destroy(&straight);
    rig_destroy(&permuted);
}
END_TEST

static void step_by_parts(rig *r, const lisa_sampler *sampler, uint64_t step, int with_loss,
                          lisa_step_stats *stats) {
    uint8_t mask[RIG_MAX_GROUPS];
    double loss = -1;
    OK(lisa_sampler_mask(sampler, step, mask, r->n_groups));
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
    OK(lisa_forward(r->model, r->batch, with_loss ? &loss : NULL));
    OK(lisa_backward(r->model, r->batch));
    OK(lisa_optimizer_step(r->optimizer, stats));
    if (with_loss)
        ck_assert_mem_eq(&loss, &stats->loss, sizeof loss);
}

START_TEST(test_train_step_is_its_parts) {
    rig_spec spec;
    rig whole, parts, parts_with_loss;
    spec_of(&spec, _i);
    spec.optimizer.max_active_layers = 2;
    lisa_sampler *sampler = make_sampler(2, 2);
    rig_make(&whole, &spec);
    rig_make(&parts, &spec);
    rig_make(&parts_with_loss, &spec);
    for (uint64_t step = 0; step < N_STEPS; step++) {
        lisa_step_stats stats[3] = {{.struct_size = sizeof *stats},
                                    {.struct_size = sizeof *stats},
                                    {.struct_size = sizeof *stats}};
        rig_random_batch(&whole, 2, 11, step);
        rig_random_batch(&parts, 2, 11, step);
        rig_random_batch(&parts_with_loss, 2, 11, step);
        OK(lisa_train_step(whole.model, sampler, whole.optimizer, whole.batch, step, &stats[0]));
        step_by_parts(&parts, sampler, step, 0, &stats[1]);
        step_by_parts(&parts_with_loss, sampler, step, 1, &stats[2]);
        assert_same_stats(&stats[0], &stats[1]);
        assert_same_stats(&stats[0], &stats[2]);
    }
    rig_assert_same_weights(&whole, &parts, "train_step and its parts");
    rig_assert_same_weights(&whole, &parts_with_loss, "train_step and its parts with a loss");
    lisa_sampler_destroy(sampler);
    rig_destroy(&whole);
    rig_destroy(&parts);
    rig_destroy(&parts_with_loss);
}
END_TEST

/* Rows 2h and 2h + 1 of a batch of 4 x 11. */
static void set_rows(rig *r, const int32_t *tokens, const int32_t *labels, uint32_t first,
                     uint32_t rows) {
    OK(lisa_batch_set(r->batch, tokens + first * 11, labels + first * 11, rows, 11));
}

START_TEST(test_accumulation) {
    rig_spec spec;
    rig whole, halves;
    int32_t tokens[44], labels[44];
    /* The BLAS sums 44 rows in another order than 22 and 22, and which depends on the processor. */
    double bound = _i == 0 ? 1e-13 : 16 * FLT_EPSILON;
    spec_of(&spec, _i);
    spec.max_batch = 4;
    rig_make(&whole, &spec);
    spec.max_batch = 2;
    rig_make(&halves, &spec);
    rig_random_tokens(tokens, 44, 61, 9);
    memcpy(labels, tokens, sizeof labels);
    for (int i = 0; i < 9; i++) /* the halves have different numbers of targets */
        labels[i] = LISA_IGNORE_LABEL;
    set_rows(&whole, tokens, labels, 0, 4);
    OK(lisa_forward(whole.model, whole.batch, NULL));
    OK(lisa_backward(whole.model, whole.batch));
    for (uint32_t first = 0; first < 4; first += 2) {
        set_rows(&halves, tokens, labels, first, 2);
        OK(lisa_forward(halves.model, halves.batch, NULL));
        OK(lisa_backward(halves.model, halves.batch));
    }
    for (uint32_t i = 0; i < whole.n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(&whole, i);
        double *a = rig_read_gradient(&whole, i), *b = rig_read_gradient(&halves, i);
        double error = rig_error(b, a, (size_t)info.n_elements);
        ck_assert_msg(error < bound, "'%s' is off by %g", info.name, error);
        free(a);
        free(b);
    }
    lisa_step_stats sa = {.struct_size = sizeof sa}, sb = {.struct_size = sizeof sb};
    OK(lisa_optimizer_step(whole.optimizer, &sa));
    OK(lisa_optimizer_step(halves.optimizer, &sb));
    ck_assert_uint_eq(sa.n_targets, sb.n_targets);
    ck_assert_uint_eq(sb.n_backward, 2);
    ck_assert(sa.weight_sum == sb.weight_sum);
    ck_assert_double_le(rig_error(&sb.loss, &sa.loss, 1), bound);
    ck_assert_double_le(rig_error(&sb.grad_norm, &sa.grad_norm, 1), bound);
    rig_destroy(&whole);
    rig_destroy(&halves);
}
END_TEST

/* Sizes at which a backend has several tiles and tasks to deal out; the head's product has 8. */
static void enlarge(rig_spec *spec) {
    spec->config.d_model = 120;
    spec->config.n_heads = 6;
    spec->config.n_kv_heads = 2;
    spec->config.d_ff = 1300;
    spec->config.vocab_size = 4099;
    spec->config.max_positions = 64;
    spec->config.init_std = 0.02;
    spec->max_batch = 3;
    spec->max_tokens = 50;
}

static const uint32_t THREADS[] = {1, 2, 3, 4, 8, 16};
enum { N_THREADS = sizeof THREADS / sizeof *THREADS };

static void step_on_all_threads(rig r[N_THREADS], const rig_spec *spec, const lisa_sampler *sampler,
                                uint64_t step) {
    lisa_step_stats first = {.struct_size = sizeof first};
    for (int t = 0; t < N_THREADS; t++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        rig_random_batch(&r[t], spec->max_batch, spec->max_tokens, step);
        OK(lisa_train_step(r[t].model, sampler, r[t].optimizer, r[t].batch, step, &stats));
        ck_assert_uint_eq(stats.updated, 1);
        if (t == 0)
            first = stats;
        assert_same_stats(&first, &stats);
    }
}

/* So that the adapter can be compared with the weights. */
static void merge(rig *r) {
    lisa_optimizer_destroy(r->optimizer);
    r->optimizer = NULL;
    OK(lisa_adapter_merge(r->adapter));
}

static void check_threads(rig_spec *spec, const lisa_sampler *sampler) {
    rig r[N_THREADS];
    char what[32];
    for (int t = 0; t < N_THREADS; t++) {
        spec->context.n_threads = THREADS[t];
        rig_make(&r[t], spec);
        ck_assert_uint_eq(lisa_context_n_threads(r[t].context), THREADS[t]);
    }
    for (uint64_t step = 0; step < 3; step++)
        step_on_all_threads(r, spec, sampler, step);
    for (int t = 0; t < N_THREADS; t++) {
        if (spec->adapted)
            merge(&r[t]);
        snprintf(what, sizeof what, "1 and %u threads", THREADS[t]);
        rig_assert_same_weights(&r[0], &r[t], what);
    }
    for (int t = 0; t < N_THREADS; t++)
        rig_destroy(&r[t]);
}

static void threads_spec_of(rig_spec *spec, int setting) {
    spec_of(spec, setting);
    if (strcmp(spec->context.backend, "cpu") == 0)
        enlarge(spec);
}

START_TEST(test_threads) {
    rig_spec spec;
    threads_spec_of(&spec, _i);
    check_threads(&spec, NULL);
}
END_TEST

/* LISA with a swap before every step, and moments that are rounded at random. */
START_TEST(test_threads_of_lisa) {
    rig_spec spec;
    lisa_sampler *sampler = make_sampler(2, 1);
    threads_spec_of(&spec, _i);
    spec.optimizer.max_active_layers = 2;
    spec.optimizer.moments_embedding = LISA_MOMENTS_8BIT;
    spec.optimizer.moments_layers = LISA_MOMENTS_8BIT;
    spec.optimizer.moments_head = LISA_MOMENTS_8BIT;
    check_threads(&spec, sampler);
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(test_threads_of_an_adapter) {
    rig_spec spec;
    threads_spec_of(&spec, _i);
    spec.adapted = 1;
    spec.adapter.rank = 64; /* its products are worth more than one task */
    spec.adapter.targets = LISA_TARGET_ALL_LAYERS;
    spec.adapter.dropout = 0.1;
    spec.adapter.seed = 11;
    check_threads(&spec, NULL);
}
END_TEST

START_TEST(test_store_is_recompute) {
    rig_spec store, recompute;
    spec_of(&store, _i);
    store.optimizer.max_active_layers = 2;
    store.batch.activations = LISA_ACTIVATIONS_STORE;
    recompute = store;
    recompute.batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    assert_same_training(&store, &recompute, "store and recompute");
}
END_TEST

/* Logits in chunks of other sizes: the same bits of the loss by the reference, and gradients whose
 * sums are cut elsewhere; the cpu's products of another shape round otherwise. */
START_TEST(test_chunks) {
    static const uint32_t rows[] = {0, 1, 4, 7};
    rig_spec spec;
    rig r[4];
    double loss[4];
    spec_of(&spec, _i);
    for (int i = 0; i < 4; i++) {
        spec.batch.head_rows = rows[i];
        rig_make(&r[i], &spec);
        rig_random_batch(&r[i], 2, 11, 3);
        OK(lisa_forward(r[i].model, r[i].batch, &loss[i]));
        OK(lisa_backward(r[i].model, r[i].batch));
        ck_assert_double_le(fabs(loss[i] - loss[0]),
                            strcmp(spec.context.backend, "cpu") == 0 ? 1e-6 * loss[0] : 0);
    }
    for (int i = 1; i < 4; i++)
        for (uint32_t t = 0; t < r[0].n_tensors; t++) {
            double *a = rig_read_gradient(&r[0], t), *b = rig_read_gradient(&r[i], t);
            ck_assert_double_le(rig_error(b, a, rig_tensor(&r[0], t).n_elements), 1e-6);
            free(a);
            free(b);
        }
    for (int i = 0; i < 4; i++)
        rig_destroy(&r[i]);
}
END_TEST

START_TEST(test_map_is_copy) {
    static const char *const directories[] = {"llama-untied", "llama-tied", "llama-tied-sharded"};
    for (size_t i = 0; i < 3; i++) {
        rig_spec map, copy;
        spec_of(&map, _i);
        map.optimizer.max_active_layers = 2;
        map.directory = fixture_path(directories[i]);
        map.model.load = LISA_LOAD_MAP;
        copy = map;
        copy.model.load = LISA_LOAD_COPY;
        assert_same_training(&map, &copy, "map and copy");
    }
}
END_TEST

START_TEST(test_scratch_file_is_memory) {
    rig_spec memory, scratch;
    spec_of(&memory, _i);
    memory.optimizer.max_active_layers = 2;
    memory.directory = fixture_path("llama-untied");
    scratch = memory;
    scratch.model.scratch_dir = scratch_directory();
    assert_same_training(&memory, &scratch, "trained weights in memory and in a scratch file");
}
END_TEST

START_TEST(test_keep_is_offload) {
    rig_spec keep, offload;
    spec_of(&keep, _i);
    keep.optimizer.max_active_layers = 2;
    keep.optimizer.state_policy = LISA_STATE_KEEP;
    offload = keep;
    offload.optimizer.state_policy = LISA_STATE_OFFLOAD;
    offload.optimizer.scratch_dir = scratch_directory();
    assert_same_training(&keep, &offload, "KEEP and OFFLOAD");
}
END_TEST

/* The un-normalised gradients of the window so far; free() them. */
static double *gradients_of(rig *r, size_t *n) {
    *n = 0;
    for (uint32_t i = 0; i < r->n_tensors; i++)
        *n += (size_t)rig_tensor(r, i).n_elements;
    double *all = malloc(*n * sizeof *all);
    ck_assert_ptr_nonnull(all);
    for (size_t i = 0, at = 0; i < r->n_tensors; i++) {
        uint64_t count = rig_tensor(r, (uint32_t)i).n_elements;
        OK(lisa_optimizer_gradient_read(r->optimizer, (uint32_t)i, all + at, LISA_DTYPE_F64,
                                        count));
        at += (size_t)count;
    }
    return all;
}

static void add_batch(rig *r, const int32_t *tokens, const int32_t *documents, uint32_t rows,
                      uint32_t n_tokens) {
    OK(lisa_batch_set(r->batch, tokens, NULL, rows, n_tokens));
    OK(lisa_batch_set_documents(r->batch, documents));
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
}

/* Two documents packed into a row, and the same two in batches of their own. */
START_TEST(test_packed_documents) {
    static const int32_t documents[11] = {7, 7, 7, 7, 2, 2, 2, 2, 2, 2, 2};
    int32_t tokens[11];
    double bound = _i == 0 ? 1e-13 : 1e-5;
    rig_spec spec;
    rig packed, apart;
    size_t n;
    spec_of(&spec, _i);
    spec.config.sliding_window = 3;
    if (_i % 2 == 0) { /* absolute positions show whether they restart */
        spec.config.rope = LISA_ROPE_NONE;
        spec.config.learned_positions = 1;
    }
    rig_make(&packed, &spec);
    rig_make(&apart, &spec);
    rig_random_tokens(tokens, 11, 61, 3);
    add_batch(&packed, tokens, documents, 1, 11);
    add_batch(&apart, tokens, NULL, 1, 4);
    add_batch(&apart, tokens + 4, NULL, 1, 7);
    double *a = gradients_of(&packed, &n), *b = gradients_of(&apart, &n);
    ck_assert_double_le(rig_error(a, b, n), bound);
    free(a);
    free(b);
    rig_destroy(&packed);
    rig_destroy(&apart);
}
END_TEST

/* Logits of a single row of tokens. */
static double *logits_of(rig *r, const int32_t *tokens, uint32_t n_tokens) {
    size_t n = (size_t)n_tokens * r->config.vocab_size;
    double *logits = malloc(n * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    OK(lisa_batch_set(r->batch, tokens, NULL, 1, n_tokens));
    OK(lisa_model_logits(r->model, r->batch, logits, LISA_DTYPE_F64, n));
    return logits;
}

/* What a token can reach: in one layer with a window of 3, itself and the two after it. */
START_TEST(test_reach_of_a_token) {
    int32_t tokens[11];
    rig_spec spec;
    rig r;
    spec_of(&spec, _i);
    spec.config.n_layers = 1;
    spec.config.sliding_window = 3;
    rig_make(&r, &spec);
    rig_random_tokens(tokens, 11, 61, 4);
    double *before = logits_of(&r, tokens, 11);
    tokens[5] = (tokens[5] + 1) % 61;
    double *after = logits_of(&r, tokens, 11);
    for (int t = 0; t < 11; t++) {
        int same = memcmp(before + t * 61, after + t * 61, 61 * sizeof *after) == 0;
        ck_assert_msg(same == (t < 5 || t > 7), "token 5 and the logits of token %d", t);
    }
    free(before);
    free(after);
    rig_destroy(&r);
}
END_TEST

/* What the host does between steps leaves training alone. */
START_TEST(test_looking_changes_nothing) {
    rig_spec spec;
    rig plain, watched;
    spec_of(&spec, _i);
    rig_make(&plain, &spec);
    rig_make(&watched, &spec);
    for (uint64_t step = 0; step < 3; step++) {
        const int32_t prompt[] = {1, 2, 3};
        int32_t tokens[5];
        uint32_t n_tokens;
        double value, *gradient;
        lisa_generate_options options;
        OK(lisa_generate_options_init(&options, sizeof options));
        options.max_new_tokens = 5;
        rig_random_batch(&plain, 2, 11, step);
        rig_random_batch(&watched, 2, 11, step);
        double loss = rig_step(&plain), same;
        OK(lisa_forward(watched.model, watched.batch, NULL));
        OK(lisa_model_evaluate(watched.model, watched.batch, &same, NULL, NULL));
        ck_assert_double_le(rig_error(&same, &loss, 1), 1e-5);
        OK(lisa_backward(watched.model, watched.batch));
        OK(lisa_model_generate(watched.model, prompt, 3, &options, tokens, &n_tokens));
        OK(lisa_model_weight_norm(watched.model, 1, &value));
        OK(lisa_optimizer_gradient_norm(watched.optimizer, 1, &value));
        gradient = rig_read_gradient(&watched, 0);
        free(gradient);
        OK(lisa_optimizer_step(watched.optimizer, NULL));
    }
    rig_assert_same_weights(&plain, &watched, "evaluate, generate and reads inside a window");
    rig_destroy(&plain);
    rig_destroy(&watched);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("equivalence");
    TCase *tcase = tcase_create("bit for bit");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_full_adamw_is_gamma_l, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_slot_order_does_not_matter, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_slot_order_does_not_matter_under_masks, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_train_step_is_its_parts, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_accumulation, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_threads, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_threads_of_lisa, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_threads_of_an_adapter, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_store_is_recompute, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_chunks, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_map_is_copy, 0, N_BACKENDS);
    tcase_add_loop_test(tcase, test_scratch_file_is_memory, 0, N_BACKENDS);
    tcase_add_loop_test(tcase, test_keep_is_offload, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_packed_documents, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_reach_of_a_token, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_looking_changes_nothing, 0, N_SETTINGS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

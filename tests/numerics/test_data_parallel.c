/* Two replicas in one process, each with half of every batch: the host adds up their gradient
 * regions as an all-reduce would, and both make the step that one context makes on the whole batch.
 */
#include "check_main.h"
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HALF = 2, TOKENS = 11, N = 2 * HALF * TOKENS, N_STEPS = 9, INTERVAL = 2, N_MICRO = 3 };

/* Loop index -> backend, how close the weights are to those of the single context after all steps,
 * and the largest difference in a region of sums. */
static const struct {
    const char *backend;
    double weights, gradients;
} SETTINGS[] = {{"reference64", 1e-12, 1e-13}, {"reference", 1e-6, 1e-5}, {"cpu", 1e-6, 1e-5}};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS };

static rig whole, half[2];
static lisa_sampler *sampler;

static void spec_of(rig_spec *spec, int setting) {
    rig_spec_init(spec, SETTINGS[setting].backend);
    spec->config.n_layers = 4;
    spec->optimizer.max_active_layers = 2;
    spec->optimizer.weight_decay = 0.1;
    spec->optimizer.max_grad_norm = 0.3; /* less than the norm of any step: every one is clipped */
    spec->optimizer.lr = 2e-4; /* what AdamW makes of a sum's rounding is a part of this */
    spec->max_tokens = TOKENS;
}

static void make(rig_spec *spec) {
    lisa_sampler_options options;
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = 4;
    options.n_active = 2;
    options.interval_steps = INTERVAL;
    options.seed = 3;
    OK(lisa_sampler_create(&sampler, &options));
    spec->max_batch = 2 * HALF;
    rig_make(&whole, spec);
    spec->max_batch = HALF;
    rig_make(&half[0], spec);
    rig_make(&half[1], spec);
}

static void teardown(void) {
    lisa_sampler_destroy(sampler);
    sampler = NULL;
    rig_destroy(&whole);
    rig_destroy(&half[0]);
    rig_destroy(&half[1]);
}

static void add_pass(rig *r, const int32_t *tokens, const int32_t *labels, uint32_t rows) {
    OK(lisa_batch_set(r->batch, tokens, labels, rows, TOKENS));
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
}

/* The whole batch on one context, its halves on the replicas. The first half has fewer targets; in
 * every fourth pass it has none. */
static void add_passes(uint64_t seed) {
    int32_t tokens[N], labels[N];
    rig_random_tokens(tokens, N, whole.config.vocab_size, seed);
    memcpy(labels, tokens, sizeof labels);
    for (int i = 0; i < (seed % 4 == 3 ? N / 2 : 9); i++)
        labels[i] = LISA_IGNORE_LABEL;
    add_pass(&whole, tokens, labels, 2 * HALF);
    for (int i = 0; i < 2; i++)
        add_pass(&half[i], tokens + i * N / 2, labels + i * N / 2, HALF);
}

struct region {
    void *data;
    uint64_t n;
    uint32_t dtype;
};

static struct region region_of(const rig *r) {
    struct region region = {NULL, 0, 0};
    OK(lisa_optimizer_gradients(r->optimizer, &region.data, &region.n, &region.dtype));
    return region;
}

static double element(const struct region *region, uint64_t i) {
    return region->dtype == LISA_DTYPE_F64 ? ((double *)region->data)[i]
                                           : (double)((float *)region->data)[i];
}

/* What MPI_Allreduce(MPI_IN_PLACE, data, n, type, MPI_SUM, ...) leaves on both. */
static void all_reduce(void) {
    const struct region a = region_of(&half[0]), b = region_of(&half[1]);
    ck_assert_uint_eq(a.n, b.n);
    ck_assert_uint_eq(a.dtype, b.dtype);
    for (uint64_t i = 0; i < a.n; i++)
        if (a.dtype == LISA_DTYPE_F64)
            ((double *)a.data)[i] = ((double *)b.data)[i] += ((double *)a.data)[i];
        else
            ((float *)a.data)[i] = ((float *)b.data)[i] += ((float *)a.data)[i];
}

static void assert_same_sums(double bound) {
    const struct region a = region_of(&whole), b = region_of(&half[0]);
    double most = 0, off = 0;
    ck_assert_uint_eq(a.n, b.n);
    ck_assert(element(&a, 0) == element(&b, 0)); /* the weights of the targets */
    for (uint64_t i = 1; i < a.n; i++) {
        const double size = fabs(element(&a, i)), gap = fabs(element(&a, i) - element(&b, i));
        ck_assert(size >= 0 && gap >= 0); /* no NaN passes for a small difference */
        most = size > most ? size : most;
        off = gap > off ? gap : off;
    }
    ck_assert_double_gt(most, 0);
    ck_assert_double_le(off / most, bound);
}

static void assert_same_stats(const lisa_step_stats *one, const lisa_step_stats *other,
                              double bound) {
    ck_assert_uint_eq(other->updated, one->updated);
    ck_assert(other->weight_sum == one->weight_sum);
    ck_assert_double_le(rig_error(&other->grad_norm, &one->grad_norm, 1), bound);
}

static void mask_all(uint64_t step) {
    uint8_t mask[RIG_MAX_GROUPS];
    rig *const all[] = {&whole, &half[0], &half[1]};
    OK(lisa_sampler_mask(sampler, step, mask, whole.n_groups));
    for (int i = 0; i < 3; i++)
        OK(lisa_optimizer_apply_mask(all[i]->optimizer, mask, whole.n_groups));
}

static void step_all(int setting) {
    lisa_step_stats one = {.struct_size = sizeof one}, parts[2] = {one, one};
    const double bound = SETTINGS[setting].gradients;
    all_reduce();
    assert_same_sums(bound);
    OK(lisa_optimizer_step(whole.optimizer, &one));
    for (int i = 0; i < 2; i++) {
        OK(lisa_optimizer_step(half[i].optimizer, &parts[i]));
        assert_same_stats(&one, &parts[i], bound);
    }
    ck_assert_double_gt(one.grad_norm, 0.3);
    ck_assert_uint_eq(parts[0].n_targets + parts[1].n_targets, one.n_targets);
    const double loss =
        (parts[0].loss * (double)parts[0].n_targets + parts[1].loss * (double)parts[1].n_targets) /
        (double)one.n_targets;
    ck_assert_double_le(rig_error(&loss, &one.loss, 1), bound);
    rig_assert_same_weights(&half[0], &half[1], "the replicas");
}

static void assert_same_as_whole(int setting) {
    for (uint32_t i = 0; i < whole.n_tensors; i++) {
        double *a = rig_read(&whole, i), *b = rig_read(&half[0], i);
        const double error = rig_error(b, a, (size_t)rig_tensor(&whole, i).n_elements);
        free(a);
        free(b);
        ck_assert_msg(error <= SETTINGS[setting].weights, "'%s' is off by %g",
                      rig_tensor(&whole, i).name, error);
    }
}

START_TEST(test_two_halves_are_the_whole) {
    rig_spec spec;
    spec_of(&spec, _i);
    make(&spec);
    for (uint64_t step = 0; step < N_STEPS; step++) {
        mask_all(step);
        add_passes(step);
        step_all(_i);
    }
    assert_same_as_whole(_i);
}
END_TEST

/* One all-reduce for a window of several batches. */
START_TEST(test_accumulation) {
    rig_spec spec;
    spec_of(&spec, _i);
    make(&spec);
    for (uint64_t step = 0; step < 5; step++) {
        mask_all(step);
        for (uint64_t pass = 0; pass < N_MICRO; pass++)
            add_passes(step * N_MICRO + pass);
        step_all(_i);
    }
    assert_same_as_whole(_i);
}
END_TEST

/* 16-bit weights round at a swap: by the same numbers on every replica, also when some leave their
 * state behind. */
START_TEST(test_replicas_of_16_bits_stay_the_same) {
    rig_spec spec;
    spec_of(&spec, 2);
    spec.config.weights_dtype = _i % 2 == 0 ? LISA_DTYPE_BF16 : LISA_DTYPE_F16;
    spec.optimizer.state_policy = _i < 2 ? LISA_STATE_DROP : LISA_STATE_KEEP;
    make(&spec);
    for (uint64_t step = 0; step < N_STEPS; step++) {
        mask_all(step);
        add_passes(step);
        all_reduce();
        for (int i = 0; i < 2; i++)
            OK(lisa_optimizer_step(half[i].optimizer, NULL));
        OK(lisa_optimizer_discard(whole.optimizer));
        rig_assert_same_weights(&half[0], &half[1], "the replicas");
    }
}
END_TEST

static double *adapter_of(const rig *r, uint32_t index, uint64_t *n) {
    lisa_tensor_info info = {.struct_size = sizeof info};
    OK(lisa_adapter_tensor_info(r->adapter, index, &info));
    double *values = malloc(info.n_elements * sizeof *values);
    ck_assert_ptr_nonnull(values);
    OK(lisa_adapter_tensor_read(r->adapter, index, values, LISA_DTYPE_F64, info.n_elements));
    *n = info.n_elements;
    return values;
}

static void assert_same_adapters(int setting) {
    for (uint32_t i = 0; i < lisa_adapter_n_tensors(whole.adapter); i++) {
        uint64_t n = 0;
        double *a = adapter_of(&whole, i, &n), *b = adapter_of(&half[0], i, &n),
               *c = adapter_of(&half[1], i, &n);
        ck_assert_mem_eq(b, c, n * sizeof *b);
        for (uint64_t k = 0; k < n; k++) /* B began at zero: it is still small */
            ck_assert_msg(fabs(b[k] - a[k]) <= SETTINGS[setting].weights, "tensor %u is off by %g",
                          i, b[k] - a[k]);
        free(a);
        free(b);
        free(c);
    }
}

/* LoRA travels as LISA does: the adapters of the layers in the mask. */
START_TEST(test_adapters) {
    rig_spec spec;
    spec_of(&spec, _i);
    spec.adapted = 1;
    spec.adapter.rank = 3;
    spec.adapter.targets = LISA_TARGET_ALL_LAYERS;
    spec.optimizer.max_grad_norm = 0;
    make(&spec);
    for (uint64_t step = 0; step < N_STEPS; step++) {
        mask_all(step);
        add_passes(step);
        all_reduce();
        assert_same_sums(SETTINGS[_i].gradients);
        OK(lisa_optimizer_step(whole.optimizer, NULL));
        for (int i = 0; i < 2; i++)
            OK(lisa_optimizer_step(half[i].optimizer, NULL));
    }
    assert_same_adapters(_i);
}
END_TEST

/* No target anywhere: nothing changes on any replica. */
START_TEST(test_no_targets) {
    rig_spec spec;
    int32_t tokens[N / 2], labels[N / 2];
    spec_of(&spec, _i);
    make(&spec);
    rig_random_tokens(tokens, N / 2, whole.config.vocab_size, 1);
    for (int i = 0; i < N / 2; i++)
        labels[i] = LISA_IGNORE_LABEL;
    mask_all(0);
    for (int i = 0; i < 2; i++)
        add_pass(&half[i], tokens, labels, HALF);
    all_reduce();
    for (int i = 0; i < 2; i++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        OK(lisa_optimizer_step(half[i].optimizer, &stats));
        ck_assert_uint_eq(stats.updated, 0);
        rig_assert_same_weights(&half[i], &whole, "a step without targets");
    }
}
END_TEST

/* Every mask of embedding, head and up to two of four layers: what travels is a header and the
 * active groups' tensors, each filled up to 16 elements. */
START_TEST(test_active_groups_alone_travel) {
    rig_spec spec;
    uint64_t padded[RIG_MAX_GROUPS] = {0}, all = 0;
    spec_of(&spec, _i);
    spec.config.n_layers = 4;
    make(&spec);
    for (uint32_t i = 0; i < whole.n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(&whole, i);
        padded[info.group] += (info.n_elements + 15) / 16 * 16;
        all += info.n_elements;
    }
    for (uint32_t bits = 0; bits < 1u << whole.n_groups; bits++) {
        uint8_t mask[RIG_MAX_GROUPS];
        uint64_t expected = 16;
        uint32_t n_layers = 0;
        for (uint32_t g = 0; g < whole.n_groups; g++) {
            mask[g] = bits >> g & 1;
            expected += mask[g] ? padded[g] : 0;
            n_layers += g > 0 && g + 1 < whole.n_groups ? mask[g] : 0u;
        }
        if (n_layers > 2)
            continue;
        OK(lisa_optimizer_apply_mask(whole.optimizer, mask, whole.n_groups));
        ck_assert_uint_eq(region_of(&whole).n, expected);
        ck_assert(expected < all);
    }
    /* One layer, without embedding and head: a quarter of the layers and little else. */
    static const uint8_t one[] = {0, 0, 1, 0, 0, 0};
    OK(lisa_optimizer_apply_mask(whole.optimizer, one, 6));
    ck_assert_uint_lt(region_of(&whole).n, (all - padded[0] - padded[5]) / 3);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("data parallel");
    TCase *tcase = tcase_create("two replicas");
    tcase_add_checked_fixture(tcase, NULL, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_two_halves_are_the_whole, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_accumulation, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_replicas_of_16_bits_stay_the_same, 0, 4);
    tcase_add_loop_test(tcase, test_adapters, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_no_targets, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_active_groups_alone_travel, 0, N_SETTINGS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

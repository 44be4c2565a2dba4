/* What a step asks of a device, counted by the host device: launches, allocations, waits. Skipped
 * on a GPU, which does not count. */
#include "host_device.h"
#include "rig.h"

#include <stdio.h>

static hostdevice_counts counts(void) {
    hostdevice_counts now = {0};
    ON_HOST_DEVICE(hostdevice_get_counts)(&now);
    return now;
}

/* A LLaMA in bf16 whose heads take the tensor-core path. */
static void llama(rig *r, uint32_t n_layers, uint32_t activations) {
    rig_spec spec;
    rig_spec_init(&spec, "cuda");
    spec.config.n_layers = n_layers;
    spec.config.d_model = 128;
    spec.config.n_heads = 2;
    spec.config.n_kv_heads = 1;
    spec.config.head_dim = 64;
    spec.config.d_ff = 192;
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    spec.batch.activations = activations;
    spec.optimizer.max_active_layers = 1;
    rig_make(r, &spec);
}

static void mask_of(rig *r, int with_layer) {
    uint8_t mask[RIG_MAX_GROUPS] = {0};
    mask[0] = mask[r->n_groups - 1] = 1;
    mask[1] = with_layer != 0;
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
}

typedef struct launches {
    uint64_t forward, backward;
} launches;

static launches launches_of(uint32_t n_layers, uint32_t activations, int with_layer) {
    rig r;
    llama(&r, n_layers, activations);
    mask_of(&r, with_layer);
    rig_random_batch(&r, 2, 11, 1);
    const uint64_t begin = counts().launches;
    OK(lisa_forward(r.model, r.batch, NULL));
    const uint64_t middle = counts().launches;
    OK(lisa_backward(r.model, r.batch));
    const uint64_t end = counts().launches;
    rig_destroy(&r);
    return (launches){middle - begin, end - middle};
}

/* Of one frozen layer: what two more make, halved. */
static launches frozen_layer(uint32_t activations) {
    const launches few = launches_of(3, activations, 0), more = launches_of(5, activations, 0);
    return (launches){(more.forward - few.forward) / 2, (more.backward - few.backward) / 2};
}

static void check_launches(const char *what, uint64_t got, uint64_t most) {
    printf("launches of a layer, %s: %llu\n", what, (unsigned long long)got);
    ck_assert_msg(got > 0 && got <= most, "%s: %llu launches, at most %llu", what,
                  (unsigned long long)got, (unsigned long long)most);
}

START_TEST(test_launches) {
    const launches stored = frozen_layer(LISA_ACTIVATIONS_STORE);
    const launches recomputed = frozen_layer(LISA_ACTIVATIONS_RECOMPUTE);
    const launches without = launches_of(3, LISA_ACTIVATIONS_STORE, 0);
    const launches with = launches_of(3, LISA_ACTIVATIONS_STORE, 1);
    check_launches("forward", stored.forward, 14);
    check_launches("backward, frozen", stored.backward, 16);
    check_launches("backward, frozen, recomputed", recomputed.backward, 24);
    check_launches("backward, active", stored.backward + with.backward - without.backward, 34);
}
END_TEST

static void step(rig *r, uint64_t seed, lisa_step_stats *stats) {
    rig_random_batch(r, 2, 11, seed);
    OK(lisa_train_step(r->model, NULL, r->optimizer, r->batch, seed, stats));
}

/* After the first step no memory is taken; the host waits once where it asks for stats, and else
 * not at all. */
START_TEST(test_waits) {
    rig r;
    lisa_step_stats stats = {.struct_size = sizeof stats};
    llama(&r, 3, LISA_ACTIVATIONS_STORE);
    mask_of(&r, 1);
    step(&r, 0, &stats);
    const hostdevice_counts before = counts();
    for (uint64_t seed = 1; seed < 5; seed++)
        step(&r, seed, NULL);
    const hostdevice_counts without = counts();
    for (uint64_t seed = 5; seed < 9; seed++)
        step(&r, seed, &stats);
    const hostdevice_counts with = counts();
    ck_assert_uint_eq(with.allocations, before.allocations);
    printf("waits of a step: %llu without stats, %llu with them\n",
           (unsigned long long)(without.synchronisations - before.synchronisations) / 4,
           (unsigned long long)(with.synchronisations - without.synchronisations) / 4);
    ck_assert_uint_eq(without.synchronisations, before.synchronisations);
    ck_assert_uint_eq(with.synchronisations, without.synchronisations + 4);
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("counts on cuda");
    TCase *tcase = tcase_create("cuda");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_launches);
    tcase_add_test(tcase, test_waits);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_HOST_DEVICE_MAIN(make_suite)

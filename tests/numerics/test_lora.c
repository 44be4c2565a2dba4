/* LoRA: gradients against central differences, the laws that tie adapters to the base, to masks and
 * to memory. Equality with PEFT is test_lora_parity.c's. */
#include "check_main.h"
#include "fixture.h"
#include "model/run.h"
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const FAMILIES[] = {"llama-untied", "gpt2", "phi", "qwen3", "mistral"};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

static lisa_tensor_info info_of(const rig *r, uint32_t index) {
    lisa_tensor_info info = {.struct_size = sizeof info};
    OK(lisa_adapter_tensor_info(r->adapter, index, &info));
    return info;
}

static double *read_adapter(const rig *r, uint32_t index) {
    const uint64_t n = info_of(r, index).n_elements;
    double *values = malloc(n * sizeof *values);
    ck_assert_ptr_nonnull(values);
    OK(lisa_adapter_tensor_read(r->adapter, index, values, LISA_DTYPE_F64, n));
    return values;
}

static void write_adapter(const rig *r, uint32_t index, const double *values) {
    OK(lisa_adapter_tensor_write(r->adapter, index, values, LISA_DTYPE_F64,
                                 info_of(r, index).n_elements));
}

/* B begins at zero, where A has no gradient: another start for both. */
static void shake(const rig *r, uint64_t seed) {
    for (uint32_t i = 0; i < lisa_adapter_n_tensors(r->adapter); i++) {
        const uint64_t n = info_of(r, i).n_elements;
        double *values = malloc(n * sizeof *values);
        int32_t *draws = malloc(n * sizeof *draws);
        rig_random_tokens(draws, n, 2001, seed + i);
        for (uint64_t k = 0; k < n; k++)
            values[k] = (float)(3e-4 * (draws[k] - 1000));
        write_adapter(r, i, values);
        free(draws);
        free(values);
    }
}

static void spec_of(rig_spec *spec, const char *backend, const char *family) {
    rig_spec_init(spec, backend);
    spec->directory = family == NULL ? NULL : fixture_path(family);
    spec->adapted = 1;
    spec->adapter.rank = 3;
    spec->adapter.alpha = 5;
    spec->adapter.targets = LISA_TARGET_ALL_LAYERS;
    spec->adapter.seed = 11;
    spec->optimizer.lr = 1e-2;
}

static void assert_same_adapters(const rig *a, const rig *b, const char *what) {
    for (uint32_t i = 0; i < lisa_adapter_n_tensors(a->adapter); i++) {
        double *x = read_adapter(a, i), *y = read_adapter(b, i);
        ck_assert_msg(memcmp(x, y, info_of(a, i).n_elements * sizeof *x) == 0, "%s: %s differs",
                      what, info_of(a, i).name);
        free(x);
        free(y);
    }
}

static double loss_of(const rig *r) {
    double loss = 0;
    OK(lisa_forward(r->model, r->batch, &loss));
    return loss;
}

static double evaluate(const rig *r) {
    double loss = 0;
    OK(lisa_model_evaluate(r->model, r->batch, &loss, NULL, NULL));
    return loss;
}

/* d loss / d value k of a tensor, by differences of the fourth order. */
static double difference(const rig *r, uint32_t index, uint64_t k) {
    static const double steps[] = {-2, -1, 1, 2}, factors[] = {1, -8, 8, -1};
    const double h = 2e-4; /* the error of the differences falls as its fourth power */
    double *values = read_adapter(r, index);
    const double was = values[k];
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        values[k] = was + steps[i] * h;
        write_adapter(r, index, values);
        sum += factors[i] * loss_of(r);
    }
    values[k] = was;
    write_adapter(r, index, values);
    free(values);
    return sum / (12 * h);
}

enum { SAMPLES = 7 };

static uint64_t sample(uint64_t size, uint32_t i) {
    return size * i / SAMPLES;
}

/* Differences come first: a backward draws another dropout. */
static void check_gradients(const rig *r, const char *what) {
    const uint32_t n = lisa_adapter_n_tensors(r->adapter);
    const double weight = (double)lisa_batch_n_targets(r->batch);
    double(*expected)[SAMPLES] = malloc(n * sizeof *expected);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < SAMPLES; k++)
            expected[i][k] = difference(r, i, sample(info_of(r, i).n_elements, k));
    loss_of(r);
    OK(lisa_backward(r->model, r->batch));
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t size = info_of(r, i).n_elements;
        double *gradient = malloc(size * sizeof *gradient);
        double largest = 0;
        OK(lisa_optimizer_gradient_read(r->optimizer, i, gradient, LISA_DTYPE_F64, size));
        for (uint64_t k = 0; k < size; k++)
            largest = fmax(largest, fabs(gradient[k] / weight));
        ck_assert_msg(largest > 0, "%s: %s has no gradient", what, info_of(r, i).name);
        for (uint32_t k = 0; k < SAMPLES; k++) {
            const double off = fabs(gradient[sample(size, k)] / weight - expected[i][k]);
            ck_assert_msg(off <= 1e-6 * largest, "%s: %s is off by %g of %g", what,
                          info_of(r, i).name, off, largest);
        }
        free(gradient);
    }
    free(expected);
}

static void check_family(const char *family, const rig_spec *spec) {
    rig r;
    rig_make(&r, spec);
    shake(&r, 1);
    rig_random_batch(&r, 2, 9, 4);
    check_gradients(&r, family);
    rig_destroy(&r);
}

START_TEST(test_gradients) {
    rig_spec spec;
    spec_of(&spec, "reference64", FAMILIES[_i]);
    spec.batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    check_family(FAMILIES[_i], &spec);
}
END_TEST

START_TEST(test_gradients_through_dropout) {
    rig_spec spec;
    spec_of(&spec, "reference64", FAMILIES[_i]);
    spec.adapter.dropout = 0.3;
    spec.adapter.use_rslora = 1;
    if (strcmp(FAMILIES[_i], "phi") == 0 || strcmp(FAMILIES[_i], "llama-untied") == 0)
        spec.adapter.targets |= LISA_TARGET_HEAD;
    check_family(FAMILIES[_i], &spec);
}
END_TEST

/* Each step draws its own dropout, a forward that is made again the same; evaluation draws none. */
START_TEST(test_dropout_belongs_to_the_step) {
    rig_spec spec;
    rig r;
    spec_of(&spec, "cpu", NULL);
    spec.adapter.dropout = 0.4;
    rig_make(&r, &spec);
    shake(&r, 3);
    rig_random_batch(&r, 2, 11, 4);
    const double clean = evaluate(&r), first = loss_of(&r);
    ck_assert(first != clean);
    ck_assert(evaluate(&r) == clean);
    ck_assert(loss_of(&r) == first);
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_optimizer_discard(r.optimizer));
    ck_assert(loss_of(&r) != first);
    ck_assert(evaluate(&r) == clean);
    rig_destroy(&r);
}
END_TEST

/* Sequences 256 rows apart, alike but for their dropout: rows of another chunk draw their own. */
START_TEST(test_rows_draw_apart) {
    enum { B = 32, T = 16 };
    static int32_t tokens[B * T], labels[B * T];
    double losses[2];
    rig_spec spec;
    rig r;
    spec_of(&spec, "cpu", NULL);
    spec.adapter.dropout = 0.4;
    spec.max_batch = B;
    spec.max_tokens = T;
    rig_make(&r, &spec);
    shake(&r, 3);
    rig_random_tokens(tokens, B * T / 2, r.config.vocab_size, 1);
    memcpy(tokens + B * T / 2, tokens, sizeof tokens / 2);
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < B * T; i++)
            labels[i] = i / T == half * B / 2 ? tokens[i] : LISA_IGNORE_LABEL;
        OK(lisa_batch_set(r.batch, tokens, labels, B, T));
        losses[half] = loss_of(&r);
    }
    ck_assert(losses[0] != losses[1]);
    rig_destroy(&r);
}
END_TEST

/* ... and so does every map of every layer. */
START_TEST(test_maps_draw_apart) {
    static const uint32_t roles[] = {LISA__Q_W,    LISA__K_W,  LISA__V_W,   LISA__O_W,
                                     LISA__GATE_W, LISA__UP_W, LISA__DOWN_W};
    enum { N_ROLES = sizeof roles / sizeof *roles };
    uint32_t seen[64] = {0};
    rig_spec spec;
    rig r;
    spec_of(&spec, "cpu", NULL);
    rig_make(&r, &spec);
    for (uint32_t layer = 0; layer < r.config.n_layers; layer++)
        for (int i = 0; i < N_ROLES; i++) {
            const struct lisa__linear l = lisa__linear_of(r.model, layer, roles[i]);
            ck_assert_ptr_nonnull(l.lora_a);
            ck_assert_uint_lt(l.site, lisa_adapter_n_tensors(r.adapter));
            ck_assert_uint_eq(seen[l.site]++, 0);
        }
    rig_destroy(&r);
}
END_TEST

static void train(rig *r, uint32_t n_steps, uint64_t seed) {
    for (uint32_t step = 0; step < n_steps; step++) {
        rig_random_batch(r, 2, 11, seed + step);
        rig_step(r);
    }
}

/* Stored or recomputed, on one thread or three: the same bits, dropout included. */
START_TEST(test_recompute_and_threads_change_nothing) {
    rig_spec spec;
    rig a, b;
    spec_of(&spec, "cpu", NULL);
    spec.adapter.dropout = 0.25;
    spec.batch.activations = LISA_ACTIVATIONS_STORE;
    rig_make(&a, &spec);
    spec.batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    spec.context.n_threads = 3;
    rig_make(&b, &spec);
    train(&a, 5, 1);
    train(&b, 5, 1);
    assert_same_adapters(&a, &b, "recomputed");
    rig_destroy(&a);
    rig_destroy(&b);
}
END_TEST

/* A fresh adapter changes no bit of the loss; training moves it and nothing of the base. */
START_TEST(test_the_base_stays_frozen) {
    rig_spec spec;
    rig r;
    size_t n;
    spec_of(&spec, "cpu", FAMILIES[_i]);
    rig_make(&r, &spec);
    double *before = rig_snapshot(&r, &n);
    rig_random_batch(&r, 2, 11, 9);
    const double with = evaluate(&r);
    OK(lisa_model_set_adapter(r.model, NULL));
    const double base = evaluate(&r);
    ck_assert(with == base);
    OK(lisa_model_set_adapter(r.model, r.adapter));
    train(&r, 6, 1);
    double *after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    rig_random_batch(&r, 2, 11, 9);
    ck_assert(evaluate(&r) != base);
    OK(lisa_model_set_adapter(r.model, NULL));
    ck_assert(evaluate(&r) == base);
    for (uint32_t g = 0; g < r.n_groups; g++) {
        double norm = 0;
        OK(lisa_adapter_weight_norm(r.adapter, g, &norm));
        ck_assert_msg((norm > 0) == (g > 0 && g + 1 < r.n_groups), "group %u has norm %g", g, norm);
    }
    free(before);
    free(after);
    rig_destroy(&r);
}
END_TEST

/* A mask trains the adapters of its layers alone, and one with all layers is no mask at all. */
START_TEST(test_masks_select_adapters) {
    rig_spec spec;
    rig r, all;
    spec_of(&spec, "cpu", NULL);
    rig_make(&all, &spec);
    spec.optimizer.max_active_layers = 1;
    rig_make(&r, &spec);
    const uint32_t n = lisa_adapter_n_tensors(r.adapter);
    for (uint32_t layer = 0; layer < r.config.n_layers; layer++) {
        uint8_t mask[RIG_MAX_GROUPS] = {0};
        double **before = malloc(n * sizeof *before);
        mask[0] = mask[1 + layer] = mask[r.n_groups - 1] = 1;
        for (uint32_t i = 0; i < n; i++)
            before[i] = read_adapter(&r, i);
        OK(lisa_optimizer_apply_mask(r.optimizer, mask, r.n_groups));
        train(&r, 2, layer);
        for (uint32_t i = 0; i < n; i++) {
            double *after = read_adapter(&r, i);
            const lisa_tensor_info info = info_of(&r, i);
            const int same = memcmp(before[i], after, info.n_elements * sizeof *after) == 0;
            ck_assert_msg(same == (info.group != 1 + layer), "layer %u trains: %s %s", layer,
                          info.name, same ? "stayed" : "moved");
            free(after);
            free(before[i]);
        }
        free(before);
    }
    rig_destroy(&r);
    spec.optimizer.max_active_layers = 0;
    rig_make(&r, &spec);
    lisa_sampler *sampler;
    lisa_sampler_options options;
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = options.n_active = r.config.n_layers;
    options.interval_steps = 2;
    OK(lisa_sampler_create(&sampler, &options));
    for (uint64_t step = 0; step < 5; step++) {
        rig_random_batch(&r, 2, 11, step);
        OK(lisa_train_step(r.model, sampler, r.optimizer, r.batch, step, NULL));
        rig_random_batch(&all, 2, 11, step);
        OK(lisa_train_step(all.model, NULL, all.optimizer, all.batch, step, NULL));
    }
    assert_same_adapters(&r, &all, "gamma = L");
    lisa_sampler_destroy(sampler);
    rig_destroy(&r);
    rig_destroy(&all);
}
END_TEST

/* w (1 - lr decay) before the update, for A and B alike. */
START_TEST(test_decay_is_on_both) {
    rig_spec spec;
    rig plain, decayed;
    spec_of(&spec, "reference64", NULL);
    rig_make(&plain, &spec);
    spec.optimizer.weight_decay = 0.5;
    rig_make(&decayed, &spec);
    shake(&plain, 8);
    shake(&decayed, 8);
    const uint32_t n = lisa_adapter_n_tensors(plain.adapter);
    double **before = malloc(n * sizeof *before);
    for (uint32_t i = 0; i < n; i++)
        before[i] = read_adapter(&plain, i);
    train(&plain, 1, 1);
    train(&decayed, 1, 1);
    for (uint32_t i = 0; i < n; i++) {
        double *a = read_adapter(&plain, i), *b = read_adapter(&decayed, i);
        for (uint64_t k = 0; k < info_of(&plain, i).n_elements; k++)
            ck_assert_double_le(fabs(a[k] - b[k] - 1e-2 * 0.5 * before[i][k]), 1e-12);
        free(a);
        free(b);
        free(before[i]);
    }
    free(before);
    rig_destroy(&plain);
    rig_destroy(&decayed);
}
END_TEST

/* More rows than pass through an adapter at once: what it computes is the merged weights'. */
START_TEST(test_merged_computes_the_same) {
    rig_spec spec;
    rig r;
    spec_of(&spec, _i % 2 ? "cpu" : "reference64", FAMILIES[_i / 2]);
    spec.max_batch = 19;
    spec.max_tokens = 16;
    spec.no_optimizer = 1;
    rig_make(&r, &spec);
    shake(&r, 5);
    rig_random_batch(&r, 19, 16, 4);
    const double base = (OK(lisa_model_set_adapter(r.model, NULL)), evaluate(&r));
    OK(lisa_model_set_adapter(r.model, r.adapter));
    const double attached = evaluate(&r);
    OK(lisa_adapter_merge(r.adapter));
    const double merged = evaluate(&r);
    const double bound = _i % 2 ? 1e-6 : 1e-13;
    ck_assert_msg(fabs(merged - attached) <= bound * fabs(attached), "%s: %.17g, merged %.17g",
                  FAMILIES[_i / 2], attached, merged);
    ck_assert(fabs(base - attached) > 1e-3);
    /* It is detached, and keeps its values. */
    OK(lisa_model_set_adapter(r.model, r.adapter));
    ck_assert(evaluate(&r) != merged);
    rig_destroy(&r);
}
END_TEST

/* bf16: the fp32 sum rounded to nearest even; a sum beyond f16's range changes nothing at all. */
START_TEST(test_merge_rounds_once) {
    rig_spec spec;
    rig r;
    uint32_t index;
    spec_of(&spec, "reference", NULL);
    spec.no_optimizer = 1;
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    spec.adapter.rank = 1;
    spec.adapter.alpha = 1;
    spec.adapter.targets = LISA_TARGET_Q;
    rig_make(&r, &spec);
    shake(&r, 6);
    OK(lisa_model_tensor_find(r.model, "model.layers.1.self_attn.q_proj.weight", &index));
    const uint32_t at = 2; /* layer 1's A, then its B */
    double *a = read_adapter(&r, at), *b = read_adapter(&r, at + 1), *w = rig_read(&r, index);
    OK(lisa_adapter_merge(r.adapter));
    double *merged = rig_read(&r, index);
    const uint64_t n_in = info_of(&r, at).shape[1], n_out = info_of(&r, at + 1).shape[0];
    for (uint64_t i = 0; i < n_out * n_in; i++) {
        const float sum = (float)w[i] + (float)b[i / n_in] * (float)a[i % n_in];
        uint32_t bits;
        memcpy(&bits, &sum, sizeof bits);
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u;
        float expected;
        memcpy(&expected, &bits, sizeof expected);
        ck_assert_msg(merged[i] == expected, "element %llu: %.9g, expected %.9g",
                      (unsigned long long)i, merged[i], (double)expected);
    }
    free(a);
    free(b);
    free(w);
    free(merged);
    rig_destroy(&r);
}
END_TEST

START_TEST(test_merge_that_overflows_changes_nothing) {
    rig_spec spec;
    rig r;
    size_t n;
    spec_of(&spec, "cpu", NULL);
    spec.no_optimizer = 1;
    spec.config.weights_dtype = LISA_DTYPE_F16;
    rig_make(&r, &spec);
    shake(&r, 6);
    const uint32_t last = lisa_adapter_n_tensors(r.adapter) - 1;
    double *b = read_adapter(&r, last);
    b[0] = 1e9;
    write_adapter(&r, last, b);
    double *before = rig_snapshot(&r, &n);
    ck_assert_int_eq(lisa_adapter_merge(r.adapter), LISA_E_NONFINITE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "layers.2.mlp.down_proj.weight"));
    double *after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    free(b);
    free(before);
    free(after);
    rig_destroy(&r);
}
END_TEST

/* One base, two adapters and a run that is looked at from outside: the same bits as undisturbed. */
START_TEST(test_adapters_are_swapped) {
    rig_spec spec;
    rig a, b;
    lisa_adapter *other;
    spec_of(&spec, "cpu", NULL);
    rig_make(&a, &spec);
    rig_make(&b, &spec);
    spec.adapter.rank = 7;
    spec.adapter.targets = LISA_TARGET_MLP;
    OK(lisa_adapter_create(&other, a.model, &spec.adapter));
    for (uint64_t step = 0; step < 4; step++) {
        rig_random_batch(&a, 2, 11, step);
        OK(lisa_forward(a.model, a.batch, NULL));
        OK(lisa_backward(a.model, a.batch));
        OK(lisa_model_set_adapter(a.model, NULL));
        evaluate(&a);
        OK(lisa_model_set_adapter(a.model, other));
        evaluate(&a);
        OK(lisa_forward(a.model, a.batch, NULL));
        ck_assert_int_eq(lisa_backward(a.model, a.batch), LISA_E_STATE);
        ck_assert_ptr_nonnull(strstr(lisa_error_last(), "another is"));
        ck_assert_int_eq(lisa_train_step(a.model, NULL, a.optimizer, a.batch, step, NULL),
                         LISA_E_STATE);
        OK(lisa_model_set_adapter(a.model, a.adapter));
        OK(lisa_optimizer_step(a.optimizer, NULL));
        rig_random_batch(&b, 2, 11, step);
        rig_step(&b);
    }
    assert_same_adapters(&a, &b, "swapped");
    ck_assert_int_eq(lisa_model_set_adapter(b.model, other), LISA_E_INVAL);
    ck_assert_int_eq(lisa_adapter_merge(other), LISA_E_STATE);
    /* A forward saw what is attached: after a swap there must be another. */
    OK(lisa_forward(a.model, a.batch, NULL));
    OK(lisa_model_set_adapter(a.model, other));
    OK(lisa_model_set_adapter(a.model, a.adapter));
    ck_assert_int_eq(lisa_backward(a.model, a.batch), LISA_E_STATE);
    lisa_adapter_destroy(other);
    rig_destroy(&a);
    rig_destroy(&b);
}
END_TEST

/* Handles may go in any order; the optimizer holds its adapter. */
START_TEST(test_destroyed_in_any_order) {
    rig_spec spec;
    rig r;
    spec_of(&spec, "cpu", NULL);
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    lisa_adapter_destroy(r.adapter);
    r.adapter = NULL;
    ck_assert_int_eq(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL), LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "none is"));
    evaluate(&r);
    rig_destroy(&r);
    rig_make(&r, &spec);
    lisa_model_destroy(r.model);
    lisa_context_destroy(r.context);
    lisa_batch_destroy(r.batch);
    lisa_optimizer_destroy(r.optimizer);
    lisa_adapter_destroy(r.adapter);
    lisa_adapter_destroy(NULL);
}
END_TEST

START_TEST(test_options_are_checked) {
    rig_spec spec;
    rig r;
    lisa_adapter *adapter = NULL;
    spec_of(&spec, "cpu", "gpt2");
    spec.adapted = 0;
    rig_make(&r, &spec);
    const struct {
        const char *named;
        lisa_status status;
        lisa_adapter_options options;
    } bad[] = {
        {"rank", LISA_E_INVAL, {.rank = 0, .alpha = 1, .targets = 1}},
        {"rank", LISA_E_INVAL, {.rank = 5000, .alpha = 1, .targets = 1}},
        {"alpha", LISA_E_INVAL, {.rank = 1, .alpha = 0, .targets = 1}},
        {"alpha", LISA_E_INVAL, {.rank = 1, .alpha = NAN, .targets = 1}},
        {"dropout", LISA_E_INVAL, {.rank = 1, .alpha = 1, .targets = 1, .dropout = 1}},
        {"dropout", LISA_E_INVAL, {.rank = 1, .alpha = 1, .targets = 1, .dropout = -0.1}},
        {"use_rslora", LISA_E_INVAL, {.rank = 1, .alpha = 1, .targets = 1, .use_rslora = 2}},
        {"targets", LISA_E_INVAL, {.rank = 1, .alpha = 1, .targets = 0}},
        {"targets", LISA_E_INVAL, {.rank = 1, .alpha = 1, .targets = 256}},
        {"targets", LISA_E_INVAL, {.rank = 1, .alpha = 1, .targets = LISA_TARGET_GATE}},
        {"targets", LISA_E_UNSUPPORTED, {.rank = 1, .alpha = 1, .targets = LISA_TARGET_HEAD}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lisa_adapter_options options = bad[i].options;
        options.struct_size = sizeof options;
        ck_assert_int_eq(lisa_adapter_create(&adapter, r.model, &options), bad[i].status);
        ck_assert_msg(strstr(lisa_error_last(), bad[i].named) != NULL, "%s", lisa_error_last());
        ck_assert_ptr_null(adapter);
    }
    OK(lisa_adapter_create(&adapter, r.model, NULL));
    ck_assert_uint_eq(lisa_adapter_n_tensors(adapter), 2 * r.config.n_layers);
    /* The optimizer of this rig trains the model's own weights. */
    OK(lisa_model_set_adapter(r.model, adapter));
    rig_random_batch(&r, 2, 11, 1);
    ck_assert_int_eq(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL), LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "own weights"));
    lisa_adapter_destroy(adapter);
    rig_destroy(&r);
}
END_TEST

/* A within +-1/sqrt(in), spread over it; B zero; another seed is another A. */
START_TEST(test_first_values) {
    rig_spec spec;
    rig r, again;
    spec_of(&spec, "cpu", NULL);
    spec.no_optimizer = 1;
    spec.adapter.rank = 64;
    rig_make(&r, &spec);
    rig_make(&again, &spec);
    assert_same_adapters(&r, &again, "the same seed");
    rig_destroy(&again);
    spec.adapter.seed++;
    rig_make(&again, &spec);
    for (uint32_t i = 0; i < lisa_adapter_n_tensors(r.adapter); i++) {
        const lisa_tensor_info info = info_of(&r, i);
        double *values = read_adapter(&r, i), *others = read_adapter(&again, i);
        double squares = 0, largest = 0, moved = 0;
        for (uint64_t k = 0; k < info.n_elements; k++) {
            squares += values[k] * values[k];
            largest = fmax(largest, fabs(values[k]));
            moved += values[k] != others[k];
        }
        if (i % 2 == 1) {
            ck_assert(squares == 0);
        } else {
            const double bound = 1 / sqrt((double)info.shape[1]);
            const double variance = squares / (double)info.n_elements;
            ck_assert(largest <= bound && largest > 0.97 * bound);
            ck_assert(fabs(variance / (bound * bound / 3) - 1) < 0.15);
            ck_assert(moved > 0.99 * (double)info.n_elements);
        }
        free(values);
        free(others);
    }
    rig_destroy(&r);
    rig_destroy(&again);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("lora");
    TCase *tcase = tcase_create("adapters");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_gradients, 0, N_FAMILIES);
    tcase_add_loop_test(tcase, test_gradients_through_dropout, 0, N_FAMILIES);
    tcase_add_test(tcase, test_dropout_belongs_to_the_step);
    tcase_add_test(tcase, test_rows_draw_apart);
    tcase_add_test(tcase, test_maps_draw_apart);
    tcase_add_test(tcase, test_recompute_and_threads_change_nothing);
    tcase_add_loop_test(tcase, test_the_base_stays_frozen, 0, N_FAMILIES);
    tcase_add_test(tcase, test_masks_select_adapters);
    tcase_add_test(tcase, test_decay_is_on_both);
    tcase_add_loop_test(tcase, test_merged_computes_the_same, 0, 2 * N_FAMILIES);
    tcase_add_test(tcase, test_merge_rounds_once);
    tcase_add_test(tcase, test_merge_that_overflows_changes_nothing);
    tcase_add_test(tcase, test_adapters_are_swapped);
    tcase_add_test(tcase, test_destroyed_in_any_order);
    tcase_add_test(tcase, test_options_are_checked);
    tcase_add_test(tcase, test_first_values);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

/* Tensors by name: what they are, their values out and in, masters included. Public headers only.
 */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rig r;
static rig_spec spec;
static char directory[] = "/var/tmp/lisa-tensors-XXXXXX";

static void setup(void) {
    rig_spec_init(&spec, "cpu");
    memset(&r, 0, sizeof r);
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void teardown(void) {
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    rig_destroy(&r);
    ck_assert_int_eq(system(command), 0);
}

static uint32_t find(const rig *of, const char *name) {
    uint32_t index = 0;
    OK(lisa_model_tensor_find(of->model, name, &index));
    return index;
}

START_TEST(test_info) {
    static const struct {
        const char *name;
        uint32_t group, n_dims;
        uint64_t rows, cols;
    } some[] = {
        {"model.embed_tokens.weight", 0, 2, 61, 20},
        {"model.layers.0.input_layernorm.weight", 1, 1, 20, 1},
        {"model.layers.0.self_attn.k_proj.weight", 1, 2, 4, 20},
        {"model.layers.2.mlp.down_proj.weight", 3, 2, 20, 28},
        {"model.norm.weight", 4, 1, 20, 1},
        {"lm_head.weight", 4, 2, 61, 20},
    };
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    rig_make(&r, &spec);
    ck_assert_uint_eq(r.n_tensors, 3 * 9 + 3);
    uint32_t group = 0, index = 0;
    for (uint32_t i = 0; i < r.n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(&r, i);
        ck_assert_uint_ge(info.group, group);
        ck_assert_uint_eq(find(&r, info.name), i);
        ck_assert_uint_eq(info.n_elements, info.shape[0] * info.shape[1]);
        ck_assert_uint_eq(info.dtype, LISA_DTYPE_BF16);
        group = info.group;
    }
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const lisa_tensor_info info = rig_tensor(&r, find(&r, some[i].name));
        ck_assert_uint_eq(info.group, some[i].group);
        ck_assert_uint_eq(info.n_dims, some[i].n_dims);
        ck_assert_uint_eq(info.shape[0], some[i].rows);
        ck_assert_uint_eq(info.shape[1], some[i].cols);
    }
    lisa_tensor_info info = {.struct_size = sizeof info};
    ck_assert_int_eq(lisa_model_tensor_info(r.model, r.n_tensors, &info), LISA_E_INVAL);
    info.struct_size = 8;
    ck_assert_int_eq(lisa_model_tensor_info(r.model, 0, &info), LISA_E_ABI);
    ck_assert_int_eq(lisa_model_tensor_find(r.model, "model.norm", &index), LISA_E_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "\"model.norm\""));
}
END_TEST

/* A value that is held as given in every type, and one that 16-bit types round down. */
static const double EXACT = -1.5, BETWEEN = 1 + 0x1p-13;

START_TEST(test_read_and_write) {
    static const uint32_t dtypes[] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16,
                                      LISA_DTYPE_F64};
    const uint32_t dtype = dtypes[_i];
    const int is_short = dtype == LISA_DTYPE_BF16 || dtype == LISA_DTYPE_F16;
    spec.config.weights_dtype = dtype;
    rig_make(&r, &spec);
    const uint32_t index = find(&r, "model.norm.weight");
    double doubles[20], read[20];
    float floats[20], read_floats[20];
    for (int i = 0; i < 20; i++)
        floats[i] = (float)(doubles[i] = i % 2 == 0 ? EXACT : BETWEEN);
    OK(lisa_model_tensor_write(r.model, index, doubles, LISA_DTYPE_F64, 20));
    OK(lisa_model_tensor_read(r.model, index, read, LISA_DTYPE_F64, 20));
    ck_assert(read[0] == EXACT && read[1] == (is_short ? 1 : BETWEEN));
    memset(doubles, 0, sizeof doubles);
    OK(lisa_model_tensor_write(r.model, index, doubles, LISA_DTYPE_F64, 20));
    OK(lisa_model_tensor_write(r.model, index, floats, LISA_DTYPE_F32, 20));
    OK(lisa_model_tensor_read(r.model, index, read_floats, LISA_DTYPE_F32, 20));
    ck_assert(read_floats[18] == EXACT && read_floats[19] == (is_short ? 1 : (float)BETWEEN));
}
END_TEST

START_TEST(test_refused_writes) {
    double values[20], before[20], after[20];
    spec.config.weights_dtype = LISA_DTYPE_F16;
    rig_make(&r, &spec);
    const uint32_t index = find(&r, "model.norm.weight");
    OK(lisa_model_tensor_read(r.model, index, before, LISA_DTYPE_F64, 20));
    memset(values, 0, sizeof values);
    ck_assert_int_eq(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_BF16, 20),
                     LISA_E_INVAL);
    ck_assert_int_eq(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, 19),
                     LISA_E_INVAL);
    ck_assert_int_eq(lisa_model_tensor_write(r.model, r.n_tensors, values, LISA_DTYPE_F64, 20),
                     LISA_E_INVAL);
    values[19] = NAN;
    ck_assert_int_eq(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, 20),
                     LISA_E_NONFINITE);
    values[19] = 1e6; /* finite, but not as f16 */
    ck_assert_int_eq(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, 20),
                     LISA_E_NONFINITE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "f16"));
    OK(lisa_model_tensor_read(r.model, index, after, LISA_DTYPE_F64, 20));
    ck_assert_mem_eq(before, after, sizeof before);
}
END_TEST

/* How many weights of a norm are 1 + ulp, when each master was written just below the middle
 * between 1 and 1 + ulp and then trained by steps of an eighth of it: none, if the writes lost what
 * a 16-bit weight cannot hold. `frozen`: written while the layer is out of the mask. */
static uint32_t crossings(uint32_t dtype, uint32_t policy, int frozen) {
    const double ulp = dtype == LISA_DTYPE_BF16 ? 0x1p-7 : 0x1p-10;
    static const uint8_t with[5] = {1, 0, 1, 0, 1}, without[5] = {1, 1, 0, 0, 1};
    double values[20];
    uint32_t n = 0;
    spec.config.weights_dtype = dtype;
    spec.optimizer.max_active_layers = 1;
    spec.optimizer.state_policy = policy;
    spec.optimizer.scratch_dir = "/var/tmp";
    spec.optimizer.lr = ulp / 8;
    rig_make(&r, &spec);
    const uint32_t index = find(&r, "model.layers.1.input_layernorm.weight");
    OK(lisa_optimizer_apply_mask(r.optimizer, with, 5));
    if (frozen)
        OK(lisa_optimizer_apply_mask(r.optimizer, without, 5));
    for (int i = 0; i < 20; i++)
        values[i] = 1 + ulp / 2 - ulp / 32;
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, 20));
    double *before = rig_read(&r, index);
    OK(lisa_optimizer_apply_mask(r.optimizer, with, 5));
    rig_random_batch(&r, 2, 11, 1);
    rig_step(&r);
    double *after = rig_read(&r, index);
    for (int i = 0; i < 20; i++) {
        ck_assert(before[i] == 1);
        ck_assert(after[i] == 1 || after[i] == 1 + ulp);
        n += after[i] != 1;
    }
    free(before);
    free(after);
    return n;
}

START_TEST(test_a_write_replaces_the_master) {
    static const struct {
        uint32_t policy;
        int frozen, is_kept;
    } cases[] = {
        {LISA_STATE_DROP, 0, 1},    {LISA_STATE_KEEP, 0, 1},
        {LISA_STATE_OFFLOAD, 0, 1}, {LISA_STATE_DROP, 1, 0}, /* no master while frozen */
        {LISA_STATE_KEEP, 1, 1},    {LISA_STATE_OFFLOAD, 1, 1},
    };
    const uint32_t dtype = _i % 2 == 0 ? LISA_DTYPE_BF16 : LISA_DTYPE_F16;
    const int i = _i / 2;
    const uint32_t n = crossings(dtype, cases[i].policy, cases[i].frozen);
    ck_assert_msg((n > 0) == cases[i].is_kept, "%s, policy %u, frozen %d: %u crossed",
                  lisa_dtype_name(dtype), cases[i].policy, cases[i].frozen, n);
}
END_TEST

/* A forward is stale after a write; the gradients of the window so far are not. */
START_TEST(test_a_write_within_a_window) {
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    double *gradient = rig_read_gradient(&r, 0), *values = rig_read(&r, 0);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_model_tensor_write(r.model, 0, values, LISA_DTYPE_F64, 61 * 20));
    double *again = rig_read_gradient(&r, 0);
    ck_assert_mem_eq(gradient, again, 61 * 20 * sizeof *again);
    ck_assert_int_eq(lisa_backward(r.model, r.batch), LISA_E_STATE);
    free(gradient);
    free(values);
    free(again);
}
END_TEST

START_TEST(test_weight_norm) {
    spec.config.weights_dtype = _i == 0 ? LISA_DTYPE_F32 : LISA_DTYPE_BF16;
    rig_make(&r, &spec);
    double norm = 0;
    for (uint32_t group = 0; group < r.n_groups; group++) {
        double sum = 0;
        for (uint32_t i = 0; i < r.n_tensors; i++) {
            const lisa_tensor_info info = rig_tensor(&r, i);
            double *values = rig_read(&r, i);
            for (uint64_t k = 0; info.group == group && k < info.n_elements; k++)
                sum += values[k] * values[k];
            free(values);
        }
        OK(lisa_model_weight_norm(r.model, group, &norm));
        ck_assert_double_eq_tol(norm, sqrt(sum), 1e-6 * norm);
    }
    ck_assert_int_eq(lisa_model_weight_norm(r.model, r.n_groups, &norm), LISA_E_INVAL);
}
END_TEST

/* Tensor i of the checkpoint that write_mixed makes. */
static const uint32_t MIX[] = {LISA_DTYPE_BF16, LISA_DTYPE_F32, LISA_DTYPE_F16, LISA_DTYPE_F64};
static const char *const MIX_NAMES[] = {"BF16", "F32", "F16", "F64"};
static const uint64_t MIX_SIZES[] = {2, 4, 2, 8};

/* k / 256 for small k is a number of all four types. */
static double mixed_value(uint32_t tensor, uint64_t i) {
    return (double)((int)((tensor * 31 + i * 7) % 61) - 30) / 256;
}

static void put_mixed_value(FILE *file, uint32_t dtype, double value) {
    const float single = (float)value;
    uint32_t bits;
    uint16_t half;
    memcpy(&bits, &single, sizeof bits);
    if (dtype == LISA_DTYPE_F64) {
        ck_assert_uint_eq(fwrite(&value, sizeof value, 1, file), 1);
    } else if (dtype == LISA_DTYPE_F32) {
        ck_assert_uint_eq(fwrite(&single, sizeof single, 1, file), 1);
    } else {
        half = (uint16_t)(bits >> 16);
        if (dtype == LISA_DTYPE_F16) /* a normal number, or zero */
            half = value == 0 ? 0
                              : (uint16_t)((bits >> 16 & 0x8000) |
                                           ((((bits & 0x7FFFFFFF) >> 13) - (112 << 10)) & 0x7FFF));
        ck_assert_uint_eq(fwrite(&half, sizeof half, 1, file), 1);
    }
}

/* A checkpoint whose tensors take turns with the types. */
static void write_mixed(void) {
    char path[sizeof directory + 32], header[8192];
    rig source;
    uint64_t end = 0;
    rig_make(&source, &spec);
    OK(lisa_model_save(source.model, directory, NULL));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    int length = snprintf(header, sizeof header, "{");
    for (uint32_t i = 0; i < source.n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(&source, i);
        const uint64_t begin = end;
        end += info.n_elements * MIX_SIZES[i % 4];
        length += snprintf(header + length, sizeof header - (size_t)length,
                           "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", i == 0 ? "" : ",",
                           info.name, MIX_NAMES[i % 4], (unsigned long long)info.shape[0]);
        if (info.n_dims == 2)
            length += snprintf(header + length, sizeof header - (size_t)length, ",%llu",
                               (unsigned long long)info.shape[1]);
        length += snprintf(header + length, sizeof header - (size_t)length,
                           "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                           (unsigned long long)end);
    }
    length += snprintf(header + length, sizeof header - (size_t)length, "}%*s", 8, "");
    length -= length % 8;
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    for (int i = 0; i < 8; i++)
        fputc((int)((uint64_t)length >> (8 * i) & 0xFF), file);
    ck_assert_uint_eq(fwrite(header, 1, (size_t)length, file), (size_t)length);
    for (uint32_t i = 0; i < source.n_tensors; i++)
        for (uint64_t k = 0; k < rig_tensor(&source, i).n_elements; k++)
            put_mixed_value(file, MIX[i % 4], mixed_value(i, k));
    ck_assert_int_eq(fclose(file), 0);
    rig_destroy(&source);
}

/* The values that every tensor has in the file. */
static void assert_mixed(const rig *of) {
    for (uint32_t i = 0; i < of->n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(of, i);
        double *values = rig_read(of, i);
        for (uint64_t k = 0; k < info.n_elements; k++)
            ck_assert_msg(values[k] == mixed_value(i, k), "%s[%llu] is %g", info.name,
                          (unsigned long long)k, values[k]);
        free(values);
    }
}

START_TEST(test_mixed_types) {
    char out[sizeof directory + 8];
    write_mixed();
    spec.directory = directory;
    spec.model.load = _i % 2 == 0 ? LISA_LOAD_MAP : LISA_LOAD_COPY;
    spec.context.backend = _i < 2 ? "cpu" : "reference64";
    spec.optimizer.max_active_layers = 1;
    rig_make(&r, &spec);
    assert_mixed(&r);
    for (uint32_t i = 0; i < r.n_tensors; i++) {
        const uint32_t held = MIX[i % 4] == LISA_DTYPE_F64 ? LISA_DTYPE_F32 : MIX[i % 4];
        ck_assert_uint_eq(rig_tensor(&r, i).dtype, _i < 2 ? held : LISA_DTYPE_F64);
    }
    /* Saved in the types that they came in, before and after training. */
    snprintf(out, sizeof out, "%s/out", directory);
    OK(lisa_model_save(r.model, out, NULL));
    for (int step = 0; step < 3; step++) {
        const uint8_t mask[5] = {1, step == 0, step == 1, step == 2, 1};
        OK(lisa_optimizer_apply_mask(r.optimizer, mask, 5));
        rig_random_batch(&r, 2, 11, (uint64_t)step);
        rig_step(&r);
    }
    rig_spec again = spec;
    rig saved;
    again.directory = out;
    rig_make(&saved, &again);
    assert_mixed(&saved);
    for (uint32_t i = 0; i < r.n_tensors; i++)
        ck_assert_uint_eq(rig_tensor(&saved, i).dtype, rig_tensor(&r, i).dtype);
    rig_destroy(&saved);
    OK(lisa_model_save(r.model, out, NULL));
    rig_make(&saved, &again);
    if (_i < 2)
        rig_assert_same_weights(&r, &saved, "trained in mixed types, saved and opened");
    rig_destroy(&saved);
}
END_TEST

/* Saving as f16 what f16 cannot hold would write an infinity. */
START_TEST(test_save_refuses_to_overflow) {
    char out[sizeof directory + 8];
    double values[20];
    lisa_save_options options;
    lisa_model *model = NULL;
    OK(lisa_save_options_init(&options, sizeof options));
    options.dtype = LISA_DTYPE_F16;
    rig_make(&r, &spec);
    snprintf(out, sizeof out, "%s/out", directory);
    OK(lisa_model_save(r.model, out, &options));
    const uint32_t index = find(&r, "model.norm.weight");
    for (int i = 0; i < 20; i++)
        values[i] = i == 7 ? 1e6 : 2;
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, 20));
    ck_assert_int_eq(lisa_model_save(r.model, out, &options), LISA_E_NONFINITE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "\"model.norm.weight\""));
    OK(lisa_model_open(&model, r.context, out, NULL)); /* the files are what they were */
    OK(lisa_model_tensor_read(model, index, values, LISA_DTYPE_F64, 20));
    ck_assert(values[7] == 1);
    lisa_model_destroy(model);
    options.dtype = LISA_DTYPE_BF16;
    OK(lisa_model_save(r.model, out, &options));
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("tensors");
    TCase *tcase = tcase_create("tensors");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_info);
    tcase_add_loop_test(tcase, test_read_and_write, 0, 4);
    tcase_add_test(tcase, test_refused_writes);
    tcase_add_loop_test(tcase, test_a_write_replaces_the_master, 0, 12);
    tcase_add_test(tcase, test_a_write_within_a_window);
    tcase_add_loop_test(tcase, test_weight_norm, 0, 2);
    tcase_add_loop_test(tcase, test_mixed_types, 0, 4);
    tcase_add_test(tcase, test_save_refuses_to_overflow);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

#include "check_main.h"
#include "files.h"
#include "fixture.h"
#include "lisa/lisa.h"

#include "core/dtype.h"
#include "core/json.h"
#include "formats/peft.h"
#include "formats/writer.h"
#include "model/adapter.h"

#include <math.h>

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, lisa_error_last())
#define LORA "{\"peft_type\":\"LORA\""
#define CONFIG LORA ",\"r\":2,\"lora_alpha\":3}"

/* ---- adapter_config.json ---- */

static lisa_model_config described;
static lisa_adapter_options options;

static lisa_status read_for(const char *family, const char *directory, const char *text) {
    memset(&described, 0, sizeof described);
    snprintf(described.family, sizeof described.family, "%s", family);
    const struct lisa__peft_base base = {&described, directory};
    memset(&options, 0, sizeof options);
    options.seed = 7;
    options.targets = 9;
    return lisa__peft_config_read(&options, fresh_context(), &base, text, strlen(text), "F");
}

START_TEST(reads_defaults) {
    OK(read_for("llama", NULL, LORA "}"));
    ck_assert_uint_eq(options.rank, 8);
    ck_assert(options.alpha == 8);
    ck_assert(options.dropout == 0);
    ck_assert_uint_eq(options.use_rslora, 0);
    ck_assert_uint_eq(options.seed, 7);
    ck_assert_uint_eq(options.targets, 9);
    ck_assert_str_eq(host.log, "");
}
END_TEST

START_TEST(reads_values) {
    OK(read_for("gpt2", "/base",
                LORA ",\"r\":4096,\"lora_alpha\":0.5,\"lora_dropout\":0.25,\"use_rslora\":true,"
                     "\"fan_in_fan_out\":true,\"bias\":\"none\",\"task_type\":\"CAUSAL_LM\","
                     "\"base_model_name_or_path\":\"/base\",\"target_modules\":\"all-linear\","
                     "\"modules_to_save\":[],\"rank_pattern\":{},\"alpha_pattern\":{},"
                     "\"use_dora\":false,\"init_lora_weights\":\"gaussian\",\"loftq_config\":{},"
                     "\"megatron_core\":\"megatron.core\",\"layers_to_transform\":null}"));
    ck_assert_uint_eq(options.rank, 4096);
    ck_assert(options.alpha == 0.5);
    ck_assert(options.dropout == 0.25);
    ck_assert_uint_eq(options.use_rslora, 1);
    ck_assert_str_eq(host.log, "");
}
END_TEST

START_TEST(says_what_it_passes_over) {
    OK(read_for("llama", "/here",
                LORA ",\"base_model_name_or_path\":\"a/b\",\"revision\":\"r1\",\"my_key\":1,"
                     "\"fan_in_fan_out\":true,\"task_type\":\"SEQ_CLS\"}"));
    ck_assert_ptr_nonnull(strstr(host.log, "F: made for \"a/b\", revision r1, used with /here"));
    ck_assert_ptr_nonnull(strstr(host.log, "\"my_key\" is not known; ignored"));
    ck_assert_ptr_nonnull(strstr(host.log, "\"fan_in_fan_out\" is true; for llama it is false"));
    ck_assert_ptr_nonnull(strstr(host.log, "\"task_type\" is \"SEQ_CLS\"; ignored"));
    OK(read_for("gpt2", NULL, LORA ",\"fan_in_fan_out\":false}"));
    ck_assert_ptr_nonnull(strstr(host.log, "\"fan_in_fan_out\" is false; for gpt2 it is true"));
}
END_TEST

static const struct {
    const char *text;
    lisa_status status;
    const char *said;
} refused[] = {
    {"[]", LISA_E_FORMAT, "an object expected"},
    {"{", LISA_E_FORMAT, "F"},
    {"{}", LISA_E_FORMAT, "\"peft_type\" is missing"},
    {"{\"peft_type\":3}", LISA_E_FORMAT, "\"peft_type\" is 3"},
    {"{\"peft_type\":\"IA3\"}", LISA_E_UNSUPPORTED, "\"peft_type\" is \"IA3\""},
    {LORA ",\"r\":0}", LISA_E_FORMAT, "\"r\" is 0"},
    {LORA ",\"r\":4097}", LISA_E_FORMAT, "1 to 4096"},
    {LORA ",\"r\":8,\"r\":8}", LISA_E_FORMAT, "duplicate"},
    {LORA ",\"r\":2.0}", LISA_E_FORMAT, "\"r\""},
    {LORA ",\"lora_alpha\":0}", LISA_E_FORMAT, "\"lora_alpha\" is 0, above 0 expected"},
    {LORA ",\"lora_alpha\":-1}", LISA_E_FORMAT, "\"lora_alpha\""},
    {LORA ",\"lora_alpha\":\"8\"}", LISA_E_FORMAT, "\"lora_alpha\""},
    {LORA ",\"lora_alpha\":1e999}", LISA_E_FORMAT, "F"},
    {LORA ",\"lora_dropout\":1}", LISA_E_FORMAT, "\"lora_dropout\" is 1, below 1"},
    {LORA ",\"lora_dropout\":-0.1}", LISA_E_FORMAT, "\"lora_dropout\""},
    {LORA ",\"use_rslora\":1}", LISA_E_FORMAT, "\"use_rslora\""},
    {LORA ",\"fan_in_fan_out\":\"yes\"}", LISA_E_FORMAT, "\"fan_in_fan_out\""},
    {LORA ",\"revision\":1}", LISA_E_FORMAT, "\"revision\""},
    {LORA ",\"base_model_name_or_path\":[]}", LISA_E_FORMAT, "\"base_model_name_or_path\""},
    {LORA ",\"task_type\":1}", LISA_E_FORMAT, "\"task_type\""},
    {LORA ",\"bias\":\"all\"}", LISA_E_UNSUPPORTED, "\"bias\" is \"all\"; only \"none\""},
    {LORA ",\"bias\":\"lora_only\"}", LISA_E_UNSUPPORTED, "\"bias\""},
    {LORA ",\"lora_bias\":true}", LISA_E_UNSUPPORTED, "\"lora_bias\""},
    {LORA ",\"use_dora\":true}", LISA_E_UNSUPPORTED, "\"use_dora\" is true; only null"},
    {LORA ",\"use_qalora\":true}", LISA_E_UNSUPPORTED, "\"use_qalora\""},
    {LORA ",\"use_bdlora\":{\"a\":1}}", LISA_E_UNSUPPORTED, "\"use_bdlora\""},
    {LORA ",\"modules_to_save\":[\"lm_head\"]}", LISA_E_UNSUPPORTED,
     "\"modules_to_save\" is [\"lm_head\"]"},
    {LORA ",\"rank_pattern\":{\"q\":4}}", LISA_E_UNSUPPORTED, "\"rank_pattern\""},
    {LORA ",\"alpha_pattern\":{\"q\":4}}", LISA_E_UNSUPPORTED, "\"alpha_pattern\""},
    {LORA ",\"layers_to_transform\":0}", LISA_E_UNSUPPORTED, "\"layers_to_transform\" is 0"},
    {LORA ",\"layers_to_transform\":[0,1]}", LISA_E_UNSUPPORTED, "\"layers_to_transform\""},
    {LORA ",\"layer_replication\":[[0,2]]}", LISA_E_UNSUPPORTED, "\"layer_replication\""},
    {LORA ",\"megatron_config\":{\"a\":1}}", LISA_E_UNSUPPORTED, "\"megatron_config\""},
    {LORA ",\"trainable_token_indices\":[1]}", LISA_E_UNSUPPORTED, "\"trainable_token_indices\""},
    {LORA ",\"target_parameters\":[\"w\"]}", LISA_E_UNSUPPORTED, "\"target_parameters\""},
    {LORA ",\"alora_invocation_tokens\":[1]}", LISA_E_UNSUPPORTED, "\"alora_invocation_tokens\""},
    {LORA ",\"arrow_config\":{\"a\":1}}", LISA_E_UNSUPPORTED, "\"arrow_config\""},
    {LORA ",\"kasa_config\":{\"a\":1}}", LISA_E_UNSUPPORTED, "\"kasa_config\""},
    {LORA ",\"monteclora_config\":{\"a\":1}}", LISA_E_UNSUPPORTED, "\"monteclora_config\""},
    {LORA ",\"enable_lora\":[true]}", LISA_E_UNSUPPORTED, "\"enable_lora\""},
    {LORA ",\"init_lora_weights\":\"pissa\"}", LISA_E_UNSUPPORTED, "\"init_lora_weights\""},
    {LORA ",\"init_lora_weights\":\"olora\"}", LISA_E_UNSUPPORTED, "\"olora\""},
    {LORA ",\"init_lora_weights\":\"loftq\"}", LISA_E_UNSUPPORTED, "\"loftq\""},
    {LORA ",\"init_lora_weights\":1}", LISA_E_UNSUPPORTED, "\"init_lora_weights\" is 1"},
};

START_TEST(refuses_by_name) {
    const lisa_status status = read_for("llama", NULL, refused[_i].text);
    ck_assert_msg(status == refused[_i].status, "%s: %s", refused[_i].text, lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), refused[_i].said) != NULL, "%s: %s", refused[_i].text,
                  lisa_error_last());
    ck_assert_uint_eq(options.rank, 0); /* nothing was read */
}
END_TEST

static const char *base_directory = "/base";

static json_t *written_for(const char *family, uint32_t targets, double alpha, const char *kept) {
    json_t *json;
    char *text;
    uint64_t n;
    memset(&described, 0, sizeof described);
    snprintf(described.family, sizeof described.family, "%s", family);
    const struct lisa__peft_base base = {&described, base_directory};
    OK(lisa_adapter_options_init(&options, sizeof options));
    options.targets = targets;
    options.alpha = alpha;
    OK(lisa__peft_config_text(&text, &n, &options, &base, kept, kept == NULL ? 0 : strlen(kept)));
    ck_assert_int_eq(text[n - 1], '\n');
    OK(lisa__json_parse(&json, text, n, "F"));
    free(text);
    return json;
}

static const struct {
    const char *family;
    uint32_t targets;
    const char *names;
} named[] = {
    {"llama", LISA_TARGET_Q | LISA_TARGET_V, "[\"q_proj\",\"v_proj\"]"},
    {"llama", LISA_TARGET_MLP | LISA_TARGET_HEAD,
     "[\"gate_proj\",\"up_proj\",\"down_proj\",\"lm_head\"]"},
    {"phi", LISA_TARGET_ALL_LAYERS, "[\"q_proj\",\"k_proj\",\"v_proj\",\"dense\",\"fc1\",\"fc2\"]"},
    {"gpt2", LISA_TARGET_Q, "[\"c_attn\"]"},
    {"gpt2", LISA_TARGET_O, "[\"attn.c_proj\"]"},
    {"gpt2", LISA_TARGET_UP | LISA_TARGET_DOWN, "[\"c_fc\",\"mlp.c_proj\"]"},
};

/* Names that end only the modules that are meant. */
START_TEST(writes_targets) {
    json_t *json = written_for(named[_i].family, named[_i].targets, 8, NULL);
    char *names = json_dumps(json_object_get(json, "target_modules"), JSON_COMPACT);
    ck_assert_str_eq(names, named[_i].names);
    free(names);
    json_decref(json);
}
END_TEST

static void expect_json(const json_t *json, const char *expected) {
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    ck_assert_str_eq(text, expected);
    free(text);
}

START_TEST(writes_what_peft_wants) {
    json_t *json = written_for("gpt2", LISA_TARGET_Q, 16, NULL);
    expect_json(json, "{\"base_model_name_or_path\":\"/base\",\"bias\":\"none\","
                      "\"fan_in_fan_out\":true,\"inference_mode\":true,\"init_lora_weights\":true,"
                      "\"lora_alpha\":16,\"lora_dropout\":0.0,\"modules_to_save\":null,"
                      "\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"c_attn\"],"
                      "\"task_type\":\"CAUSAL_LM\",\"use_dora\":false,\"use_rslora\":false}");
    json_decref(json);
    json = written_for("llama", LISA_TARGET_Q, 0.1, NULL);
    ck_assert(json_real_value(json_object_get(json, "lora_alpha")) == 0.1);
    ck_assert(json_is_false(json_object_get(json, "fan_in_fan_out")));
    json_decref(json);
}
END_TEST

/* A directory may have any bytes for its name, a JSON text may not. */
START_TEST(writes_no_name_that_is_not_utf8) {
    base_directory = "/b\xE4se";
    json_t *json = written_for("llama", LISA_TARGET_Q, 8, NULL);
    base_directory = "/base";
    ck_assert(json_is_null(json_object_get(json, "base_model_name_or_path")));
    json_decref(json);
}
END_TEST

START_TEST(keeps_other_keys) {
    json_t *json = written_for("llama", LISA_TARGET_Q, 4,
                               "{\"my_key\":[1],\"r\":2,\"base_model_name_or_path\":\"a/b\","
                               "\"target_modules\":\"all-linear\",\"fan_in_fan_out\":true}");
    expect_json(json, "{\"base_model_name_or_path\":\"a/b\",\"fan_in_fan_out\":false,"
                      "\"inference_mode\":true,\"lora_alpha\":4,\"lora_dropout\":0.0,\"my_key\":[1]"
                      ",\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q_proj\"],"
                      "\"use_rslora\":false}");
    json_decref(json);
}
END_TEST

/* ---- directories ---- */

static lisa_context *context;
static lisa_model *model;

static int32_t n_polls_left; /* until the host says stop; below 0: it never does */

static int32_t ask(void *user) {
    (void)user;
    return n_polls_left >= 0 && n_polls_left-- == 0;
}

static void open_model_on(const char *backend) {
    lisa_context_options with;
    n_polls_left = -1;
    make_test_dir();
    inject_nothing();
    memset(&host, 0, sizeof host);
    OK(lisa_context_options_init(&with, sizeof with));
    with.backend = backend;
    with.interrupt = ask;
    with.n_threads = 1;
    with.alloc = host_alloc;
    with.release = host_release;
    with.log = host_log;
    with.log_level = LISA_LOG_INFO;
    OK(lisa_context_create(&context, &with));
    OK(lisa_model_open(&model, context, fixture_path("llama-untied"), NULL));
}

static void open_model(void) {
    open_model_on("reference");
}

static void open_wide_model(void) {
    open_model_on("reference64");
}

static void close_model(void) {
    lisa_model_destroy(model);
    lisa_context_destroy(context);
    remove_test_dir();
}

/* An adapter's file to be: value j of tensor i is (i + 1) / 4 + j. */
enum { MOST = 16 };
static struct {
    char names[MOST][160];
    struct lisa__write_tensor tensors[MOST];
    uint32_t n;
    int bad_at; /* the tensor whose last value is `bad`, or -1 */
    double bad;
} forged;

static lisa_status forge(void *user, uint32_t index, uint64_t begin, uint64_t n, void *dst) {
    const struct lisa__write_tensor *t = &forged.tensors[index];
    (void)user;
    for (uint64_t j = 0; j < n; j++)
        lisa__store(dst, t->dtype, j, (double)(index + 1) / 4 + (double)(begin + j));
    if ((int)index == forged.bad_at)
        lisa__store(dst, t->dtype, n - 1, forged.bad);
    return LISA_OK;
}

/* Rank 2 on v of the three layers. */
static void forge_begin(uint32_t dtype) {
    memset(&forged, 0, sizeof forged);
    forged.n = 6;
    forged.bad_at = -1;
    for (uint32_t i = 0; i < MOST; i++) {
        snprintf(forged.names[i], sizeof forged.names[i],
                 "base_model.model.model.layers.%u.self_attn.v_proj.lora_%c.weight", i / 2,
                 i % 2 == 0 ? 'A' : 'B');
        forged.tensors[i] = (struct lisa__write_tensor){
            .name = forged.names[i], .dtype = dtype, .n_dims = 2, .shape = {2, 20}};
        if (i % 2 == 1)
            memcpy(forged.tensors[i].shape, (const uint64_t[]){4, 2}, sizeof(uint64_t[2]));
    }
}

static void forge_end(void) {
    for (uint32_t i = 0; i < forged.n; i++) {
        struct lisa__write_tensor *t = &forged.tensors[i];
        t->n_elements = t->shape[0] * (t->n_dims == 2 ? t->shape[1] : 1);
    }
    const struct lisa__write_pair pair = {
        LISA__PEFT_TENSORS, forged.tensors, forged.n,      forge, NULL,
        LISA__PEFT_CONFIG,  CONFIG,         strlen(CONFIG)};
    OK(lisa__write_pair(context, test_dir, &pair));
}

static void expect_refusal(lisa_status expected, const char *said) {
    lisa_adapter *adapter;
    const lisa_status status = lisa_adapter_open(&adapter, model, test_dir, NULL);
    ck_assert_msg(status == expected, "%s", lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), said) != NULL, "%s", lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), test_dir) != NULL, "%s", lisa_error_last());
    ck_assert_ptr_null(adapter);
}

START_TEST(opens_every_type) {
    const uint32_t dtypes[] = {LISA_DTYPE_F32, LISA_DTYPE_F64, LISA_DTYPE_F16, LISA_DTYPE_BF16};
    lisa_adapter *adapter;
    float values[40];
    forge_begin(dtypes[_i]);
    /* Once the adapter's own name stood in a key. */
    snprintf(forged.names[2], sizeof forged.names[2],
             "base_model.model.model.layers.1.self_attn.v_proj.lora_A.default.weight");
    forge_end();
    OK(lisa_adapter_open(&adapter, model, test_dir, NULL));
    lisa_adapter_options got = {.struct_size = sizeof got};
    OK(lisa_adapter_get_options(adapter, &got));
    ck_assert_uint_eq(got.targets, LISA_TARGET_V);
    ck_assert_uint_eq(got.rank, 2);
    ck_assert(got.alpha == 3);
    ck_assert_uint_eq(lisa_adapter_n_tensors(adapter), 6);
    for (uint32_t i = 0; i < 6; i++) {
        const uint64_t n = i % 2 == 0 ? 40 : 8;
        OK(lisa_adapter_tensor_read(adapter, i, values, LISA_DTYPE_F32, n));
        for (uint64_t j = 0; j < n; j++) {
            unsigned char held[8];
            lisa__store(held, dtypes[_i], 0, (double)(i + 1) / 4 + (double)j);
            ck_assert(values[j] == (float)lisa__load(held, dtypes[_i], 0));
        }
    }
    lisa_adapter_destroy(adapter);
}
END_TEST

START_TEST(refuses_other_tensors) {
    static const char *const names[] = {
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.3.self_attn.v_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.v_proj.lora_C.weight",
        "base_model.model.model.layers.0.self_attn.v_proj.lora_A.a.b.weight",
        "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weights",
        "base_model.model.model.layers.0.self_attn.v_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.input_layernorm.lora_A.weight",
        "model.layers.0.self_attn.v_proj.lora_A.weight",
        "b",
        "",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        forge_begin(LISA_DTYPE_F32);
        snprintf(forged.names[6], sizeof forged.names[6], "%s", names[i]);
        forged.n = 7;
        forge_end();
        char said[200];
        snprintf(said, sizeof said, "tensor \"%s\" belongs to no linear map", names[i]);
        expect_refusal(LISA_E_UNSUPPORTED, said);
    }
}
END_TEST

START_TEST(refuses_what_does_not_fit) {
    forge_begin(LISA_DTYPE_F32);
    forged.tensors[3].shape[0] = 5;
    forge_end();
    expect_refusal(LISA_E_FORMAT, "layers.1.self_attn.v_proj.lora_B.weight\" has 2 dimensions, "
                                  "first 5 x 2; its rank and this model want 2: 4 x 2");
    forge_begin(LISA_DTYPE_F32);
    forged.tensors[0].n_dims = 1;
    forge_end();
    expect_refusal(LISA_E_FORMAT, "has 1 dimensions");
    forge_begin(LISA_DTYPE_F32);
    forged.n = 5;
    forge_end();
    expect_refusal(LISA_E_FORMAT, "no tensor \"base_model.model.model.layers.2.self_attn.v_proj."
                                  "lora_B.weight\"");
    forge_begin(LISA_DTYPE_F32);
    forged.n = 0;
    forge_end();
    expect_refusal(LISA_E_FORMAT, "has no tensor");
    forge_begin(LISA_DTYPE_F32);
    forged.n = 7;
    snprintf(forged.names[6], sizeof forged.names[6],
             "base_model.model.model.layers.0.self_attn.v_proj.lora_A.other.weight");
    forge_end();
    expect_refusal(LISA_E_FORMAT, "is there again as");
}
END_TEST

START_TEST(refuses_what_is_not_finite) {
    const double bad[] = {NAN, HUGE_VAL, -HUGE_VAL, 1e300};
    for (size_t i = 0; i < 4; i++) {
        forge_begin(i == 3 ? LISA_DTYPE_F64 : LISA_DTYPE_BF16);
        forged.bad_at = 5;
        forged.bad = bad[i];
        forge_end();
        expect_refusal(LISA_E_NONFINITE, "layers.2.self_attn.v_proj.lora_B.weight\": a value is "
                                         "not finite as f32");
    }
}
END_TEST

START_TEST(refuses_other_types) {
    static const char header[] =
        "{\"base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight\":"
        "{\"dtype\":\"I8\",\"shape\":[2,20],\"data_offsets\":[0,40]}}";
    put_text(LISA__PEFT_CONFIG, CONFIG);
    put_safetensors(LISA__PEFT_TENSORS, header, strlen(header), 40);
    expect_refusal(LISA_E_UNSUPPORTED, "has dtype I8, expected F32");
}
END_TEST

START_TEST(names_the_file_that_is_missing) {
    expect_refusal(LISA_E_NOTFOUND, "/adapter_config.json");
    put_text(LISA__PEFT_CONFIG, CONFIG);
    expect_refusal(LISA_E_NOTFOUND, "/adapter_model.safetensors");
    put_text(LISA__PEFT_TENSORS, "");
    expect_refusal(LISA_E_FORMAT, "0 bytes, at least 8 expected");
}
END_TEST

/* Cut at any byte, or with one more. */
START_TEST(refuses_cut_files) {
    size_t n;
    forge_begin(LISA_DTYPE_F32);
    forge_end();
    char *whole = get_file(LISA__PEFT_TENSORS, &n);
    for (size_t i = 0; i <= n + 1; i += i < 700 ? 7 : 1) {
        lisa_adapter *adapter;
        put_file(LISA__PEFT_TENSORS, whole, i);
        const lisa_status status = lisa_adapter_open(&adapter, model, test_dir, NULL);
        ck_assert_msg(status == (i == n ? LISA_OK : LISA_E_FORMAT), "%zu of %zu: %s", i, n,
                      lisa_error_last());
        lisa_adapter_destroy(adapter);
    }
    free(whole);
    put_text(LISA__PEFT_CONFIG, LORA ",\"r\":2");
    expect_refusal(LISA_E_FORMAT, "adapter_config.json");
}
END_TEST

static lisa_adapter *make_adapter(uint32_t rank, uint64_t seed) {
    lisa_adapter *adapter;
    lisa_adapter_options with;
    OK(lisa_adapter_options_init(&with, sizeof with));
    with.rank = rank;
    with.alpha = rank + 0.5;
    with.dropout = 0.125;
    with.seed = seed;
    with.use_rslora = 1;
    with.targets = LISA_TARGET_ALL_LAYERS | LISA_TARGET_HEAD;
    OK(lisa_adapter_create(&adapter, model, &with));
    return adapter;
}

/* Whether a directory holds an adapter, whole. */
static int holds(const char *directory, lisa_adapter *adapter) {
    lisa_adapter *opened;
    int same = 1;
    if (lisa_adapter_open(&opened, model, directory, &adapter->options) != LISA_OK)
        return 0;
    same &= memcmp(&opened->options, &adapter->options, sizeof adapter->options) == 0;
    same &= opened->own.n == adapter->own.n;
    for (uint32_t i = 0; same && i < adapter->own.n; i++)
        same = strcmp(opened->own.descs[i].name, adapter->own.descs[i].name) == 0 &&
               memcmp(opened->own.tensors[i].value.data, adapter->own.tensors[i].value.data,
                      adapter->own.descs[i].n_elements * sizeof(float)) == 0;
    lisa_adapter_destroy(opened);
    return same;
}

START_TEST(takes_any_path) {
    char long_path[5000];
    lisa_adapter *adapter = make_adapter(2, 1), *none;
    memset(long_path, 'x', sizeof long_path);
    long_path[sizeof long_path - 1] = '\0';
    char deep[512];
    snprintf(deep, sizeof deep, "%s", in_test_dir("a//b/"));
    OK(lisa_adapter_save(adapter, deep));
    ck_assert(holds(deep, adapter));
    ck_assert(holds(in_test_dir("a/b"), adapter));
    ck_assert_uint_eq(count_files(deep), 2);
    ck_assert_int_eq(chdir(test_dir), 0);
    OK(lisa_adapter_save(adapter, "here"));
    ck_assert(holds("./here", adapter));
    ck_assert_int_eq(lisa_adapter_save(adapter, ""), LISA_E_INVAL);
    ck_assert_int_eq(lisa_adapter_open(&none, model, "", NULL), LISA_E_INVAL);
    ck_assert_int_eq(lisa_adapter_save(adapter, long_path), LISA_E_INVAL);
    ck_assert_int_eq(lisa_adapter_open(&none, model, long_path, NULL), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "the path is too long"));
    lisa_adapter_destroy(adapter);
}
END_TEST

START_TEST(refuses_null) {
    lisa_adapter *adapter = make_adapter(2, 1), *out = adapter;
    ck_assert_int_eq(lisa_adapter_open(NULL, model, test_dir, NULL), LISA_E_INVAL);
    ck_assert_int_eq(lisa_adapter_open(&out, NULL, test_dir, NULL), LISA_E_INVAL);
    ck_assert_ptr_null(out);
    ck_assert_int_eq(lisa_adapter_open(&out, model, NULL, NULL), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "directory"));
    ck_assert_int_eq(lisa_adapter_save(NULL, test_dir), LISA_E_INVAL);
    ck_assert_int_eq(lisa_adapter_save(adapter, NULL), LISA_E_INVAL);
    ck_assert_uint_eq(count_files(test_dir), 0);
    lisa_adapter_destroy(adapter);
}
END_TEST

START_TEST(keeps_its_configuration) {
    size_t n;
    lisa_adapter *adapter;
    forge_begin(LISA_DTYPE_F32);
    forge_end();
    put_text(LISA__PEFT_CONFIG, LORA ",\"r\":2,\"lora_alpha\":3,\"my_key\":\"mine\"}");
    OK(lisa_adapter_open(&adapter, model, test_dir, NULL));
    OK(lisa_adapter_save(adapter, in_test_dir("again")));
    ck_assert(holds(in_test_dir("again"), adapter));
    char *text = get_file("again/adapter_config.json", &n);
    ck_assert_ptr_nonnull(strstr(text, "\"my_key\": \"mine\""));
    ck_assert_ptr_nonnull(strstr(text, "\"v_proj\""));
    free(text);
    lisa_adapter_destroy(adapter);
}
END_TEST

/* ---- faults ---- */

/* One failing call leaves the old adapter or the new one, nothing else. Where all calls fail from
 * some point on, nothing that was renamed can come back. */
START_TEST(keeps_the_old_adapter_through_every_fault) {
    lisa_adapter *old = make_adapter(3, 1), *new = make_adapter(2, 2);
    unsigned n_failures = 0, n_mixed = 0;
    int was_reached = 1;
    for (uint64_t at = 1; was_reached; at++) {
        empty_dir(test_dir);
        OK(lisa_adapter_save(old, test_dir));
        inject(at, _i, EIO);
        const lisa_status status = lisa_adapter_save(new, test_dir);
        was_reached = faults.n_calls >= at;
        ck_assert_int_eq(faults.n_open, 0);
        const int said = status == LISA_OK || strstr(lisa_error_last(), test_dir) != NULL;
        ck_assert_msg(said, "%s", lisa_error_last());
        inject_nothing();
        n_failures += status != LISA_OK;
        n_mixed += !holds(test_dir, old) && !holds(test_dir, new);
        ck_assert(status != LISA_OK || holds(test_dir, new));
        ck_assert(status == LISA_OK || status == LISA_E_IO);
        if (!_i && status != LISA_OK)
            ck_assert_uint_eq(count_files(test_dir), 2);
    }
    ck_assert_uint_gt(n_failures, 12);
    ck_assert_uint_eq(n_mixed, _i ? 1 : 0);
    lisa_adapter_destroy(old);
    lisa_adapter_destroy(new);
}
END_TEST

START_TEST(leaves_nothing_of_a_first_save_that_failed) {
    lisa_adapter *adapter = make_adapter(3, 1);
    int was_reached = 1;
    for (uint64_t at = 1; was_reached; at++) {
        empty_dir(test_dir);
        inject(at, 0, EIO);
        const lisa_status status = lisa_adapter_save(adapter, test_dir);
        was_reached = faults.n_calls >= at;
        inject_nothing();
        const int whole = holds(test_dir, adapter);
        ck_assert(status != LISA_OK || whole);
        ck_assert_uint_eq(count_files(test_dir), whole ? 2 : 0);
    }
    lisa_adapter_destroy(adapter);
}
END_TEST

START_TEST(survives_a_full_disk) {
    lisa_adapter *old = make_adapter(3, 1), *new = make_adapter(2, 2);
    lisa_status status = LISA_E_IO;
    OK(lisa_adapter_save(old, test_dir));
    for (int64_t room = 0; status != LISA_OK; room += 997) {
        inject(0, 0, 0);
        faults.room = room;
        status = lisa_adapter_save(new, test_dir);
        inject_nothing();
        ck_assert(holds(test_dir, status == LISA_OK ? new : old));
        ck_assert_uint_eq(count_files(test_dir), 2);
    }
    lisa_adapter_destroy(old);
    lisa_adapter_destroy(new);
}
END_TEST

START_TEST(opens_or_says_why_not) {
    lisa_adapter *adapter = make_adapter(3, 1), *opened;
    unsigned n_failures = 0;
    int was_reached = 1;
    OK(lisa_adapter_save(adapter, test_dir));
    for (uint64_t at = 1; was_reached; at++) {
        inject(at, _i, EIO);
        const lisa_status status = lisa_adapter_open(&opened, model, test_dir, NULL);
        was_reached = faults.n_calls >= at;
        ck_assert_int_eq(faults.n_open, 0);
        ck_assert_int_eq(status == LISA_OK, opened != NULL);
        ck_assert(status == LISA_OK || strstr(lisa_error_last(), test_dir) != NULL);
        inject_nothing();
        lisa_adapter_destroy(opened);
        n_failures += status != LISA_OK;
    }
    ck_assert_uint_gt(n_failures, 6);
    lisa_adapter_destroy(adapter);
}
END_TEST

static uint64_t held(void) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < LISA_MEM_CLASSES; i++)
        bytes += context->current[i];
    return bytes;
}

START_TEST(survives_every_failing_allocation) {
    lisa_adapter *old = make_adapter(3, 1), *adapter = make_adapter(2, 2), *opened;
    lisa_status status = LISA_E_NOMEM;
    OK(lisa_adapter_save(old, test_dir));
    const uint64_t before = held();
    for (uint64_t at = 1; status != LISA_OK; at++) {
        host.n_allocs = 0;
        host.fail_at = at;
        status = _i ? lisa_adapter_open(&opened, model, test_dir, NULL)
                    : lisa_adapter_save(adapter, test_dir);
        host.fail_at = 0;
        ck_assert_int_eq(status, host.n_allocs >= at ? LISA_E_NOMEM : LISA_OK);
        if (status == LISA_OK && _i)
            lisa_adapter_destroy(opened);
        ck_assert_uint_eq(held(), before);
        ck_assert(holds(test_dir, !_i && status == LISA_OK ? adapter : old));
    }
    lisa_adapter_destroy(old);
    lisa_adapter_destroy(adapter);
}
END_TEST

START_TEST(stops_where_the_host_says_so) {
    lisa_adapter *old = make_adapter(3, 1), *new = make_adapter(2, 2), *opened;
    lisa_status status = LISA_E_CANCELLED;
    OK(lisa_adapter_save(old, test_dir));
    int n = 0;
    for (; status != LISA_OK; n++) {
        n_polls_left = n;
        status = _i ? lisa_adapter_open(&opened, model, test_dir, NULL)
                    : lisa_adapter_save(new, test_dir);
        n_polls_left = -1;
        ck_assert(status == LISA_OK || status == LISA_E_CANCELLED);
        if (_i)
            lisa_adapter_destroy(opened);
        ck_assert(holds(test_dir, !_i && status == LISA_OK ? new : old));
        ck_assert_uint_eq(count_files(test_dir), 2);
    }
    ck_assert_int_gt(n, 20);
    lisa_adapter_destroy(old);
    lisa_adapter_destroy(new);
}
END_TEST

/* A value that float64 holds and the file does not. */
START_TEST(saves_no_infinity) {
    lisa_adapter *adapter = make_adapter(3, 1);
    double values[60] = {[7] = 1e300};
    ck_assert_uint_eq(adapter->own.descs[0].n_elements, 60);
    OK(lisa_adapter_tensor_write(adapter, 0, values, LISA_DTYPE_F64, 60));
    ck_assert_int_eq(lisa_adapter_save(adapter, test_dir), LISA_E_NONFINITE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), adapter->own.descs[0].name));
    ck_assert_uint_eq(count_files(test_dir), 0);
    lisa_adapter_destroy(adapter);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("peft");
    TCase *config = tcase_create("config");
    tcase_add_test(config, reads_defaults);
    tcase_add_test(config, reads_values);
    tcase_add_test(config, says_what_it_passes_over);
    tcase_add_loop_test(config, refuses_by_name, 0, sizeof refused / sizeof *refused);
    tcase_add_loop_test(config, writes_targets, 0, sizeof named / sizeof *named);
    tcase_add_test(config, writes_what_peft_wants);
    tcase_add_test(config, writes_no_name_that_is_not_utf8);
    tcase_add_test(config, keeps_other_keys);
    suite_add_tcase(suite, config);
    TCase *directory = tcase_create("directory");
    tcase_add_checked_fixture(directory, open_model, close_model);
    tcase_add_loop_test(directory, opens_every_type, 0, 4);
    tcase_add_test(directory, refuses_other_tensors);
    tcase_add_test(directory, refuses_what_does_not_fit);
    tcase_add_test(directory, refuses_what_is_not_finite);
    tcase_add_test(directory, refuses_other_types);
    tcase_add_test(directory, names_the_file_that_is_missing);
    tcase_add_test(directory, refuses_cut_files);
    tcase_add_test(directory, takes_any_path);
    tcase_add_test(directory, refuses_null);
    tcase_add_test(directory, keeps_its_configuration);
    tcase_add_loop_test(directory, keeps_the_old_adapter_through_every_fault, 0, 2);
    tcase_add_test(directory, leaves_nothing_of_a_first_save_that_failed);
    tcase_add_test(directory, survives_a_full_disk);
    tcase_add_loop_test(directory, opens_or_says_why_not, 0, 2);
    tcase_add_loop_test(directory, survives_every_failing_allocation, 0, 2);
    tcase_add_loop_test(directory, stops_where_the_host_says_so, 0, 2);
    tcase_set_timeout(directory, 60);
    suite_add_tcase(suite, directory);
    TCase *wide = tcase_create("float64");
    tcase_add_checked_fixture(wide, open_wide_model, close_model);
    tcase_add_test(wide, saves_no_infinity);
    suite_add_tcase(suite, wide);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

#include "check_main.h"
#include "files.h"

#include "core/json.h"
#include "formats/hf_config.h"
#include "model/family.h"

#include <locale.h>

/* A complete config.json; `more` is put in front and may repeat none of its keys. */
#define SIZES                                                                                      \
    "\"vocab_size\":64,\"hidden_size\":24,\"intermediate_size\":40,\"num_hidden_layers\":3,"       \
    "\"num_attention_heads\":4"
#define LLAMA "{\"model_type\":\"llama\"," SIZES

static lisa_model_config config;

static lisa_status read_text(const char *text) {
    put_text("config.json", text);
    memset(&config, 0xEE, sizeof config);
    return lisa__hf_config_read(&config, fresh_context(), test_dir);
}

static void expect_ok(const char *text) {
    const lisa_status status = read_text(text);
    ck_assert_msg(status == LISA_OK, "%s\n  got: %s", text, lisa_error_last());
}

/* ---- what is read ---- */

START_TEST(fills_llama_defaults) {
    expect_ok(LLAMA "}");
    ck_assert_uint_eq(config.struct_size, sizeof config);
    ck_assert_str_eq(config.family, "llama");
    ck_assert_uint_eq(config.n_layers, 3);
    ck_assert_uint_eq(config.d_model, 24);
    ck_assert_uint_eq(config.n_heads, 4);
    ck_assert_uint_eq(config.n_kv_heads, 4);
    ck_assert_uint_eq(config.head_dim, 6);
    ck_assert_uint_eq(config.rotary_dim, 6);
    ck_assert_uint_eq(config.d_ff, 40);
    ck_assert_uint_eq(config.vocab_size, 64);
    ck_assert_uint_eq(config.max_positions, 2048);
    ck_assert_uint_eq(config.weights_dtype, LISA_DTYPE_F32);
    ck_assert_uint_eq(config.norm, LISA_NORM_RMS);
    ck_assert_uint_eq(config.activation, LISA_ACT_SILU);
    ck_assert_uint_eq(config.gated_mlp, 1);
    ck_assert_uint_eq(config.tied_head, 0);
    ck_assert_uint_eq(config.attention_bias, 0);
    ck_assert_uint_eq(config.mlp_bias, 0);
    ck_assert_uint_eq(config.rope, LISA_ROPE_DEFAULT);
    ck_assert(config.rope_theta == 10000.0);
    ck_assert(config.norm_eps == 1e-6);
    ck_assert(config.init_std == 0.02);
    ck_assert_uint_eq(config.qk_norm + config.parallel_residual + config.learned_positions +
                          config.sliding_window + config.head_bias,
                      0);
    ck_assert_str_eq(host.log, "");
}
END_TEST

START_TEST(reads_transformers_4) {
    expect_ok(LLAMA
              ",\"architectures\":[\"LlamaForCausalLM\"],\"num_key_value_heads\":2,\"head_dim\":8,"
              "\"hidden_act\":\"gelu_new\",\"max_position_embeddings\":512,"
              "\"rms_norm_eps\":1e-05,\"tie_word_embeddings\":true,\"attention_bias\":true,"
              "\"mlp_bias\":true,\"torch_dtype\":\"bfloat16\",\"rope_theta\":500000,"
              "\"rope_scaling\":{\"factor\":8.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
              "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},"
              "\"initializer_range\":0.041666666666666664,\"pretraining_tp\":1,"
              "\"rope_interleaved\":false,\"transformers_version\":\"4.40.2\",\"use_cache\":true,"
              "\"eos_token_id\":[1,2],\"attention_dropout\":0.0,\"pad_token_id\":null}");
    ck_assert_uint_eq(config.n_kv_heads, 2);
    ck_assert_uint_eq(config.head_dim, 8);
    ck_assert_uint_eq(config.activation, LISA_ACT_GELU_TANH);
    ck_assert_uint_eq(config.max_positions, 512);
    ck_assert(config.norm_eps == 1e-5);
    ck_assert_uint_eq(config.tied_head, 1);
    ck_assert_uint_eq(config.attention_bias, 1);
    ck_assert_uint_eq(config.attention_output_bias, 1);
    ck_assert_uint_eq(config.mlp_bias, 1);
    ck_assert_uint_eq(config.weights_dtype, LISA_DTYPE_BF16);
    ck_assert_uint_eq(config.rope, LISA_ROPE_LLAMA3);
    ck_assert(config.rope_theta == 500000.0);
    ck_assert(config.rope_factor == 8.0);
    ck_assert(config.rope_low_freq_factor == 1.0);
    ck_assert(config.rope_high_freq_factor == 4.0);
    ck_assert_uint_eq(config.rope_original_positions, 8192);
    ck_assert(config.init_std == 0.041666666666666664);
    ck_assert_str_eq(host.log, "");
}
END_TEST

START_TEST(reads_transformers_5) {
    expect_ok(LLAMA ",\"dtype\":\"float16\",\"torch_dtype\":\"float32\","
                    "\"layer_types\":[\"full_attention\",\"full_attention\"],"
                    "\"rope_parameters\":{\"rope_theta\":1000.0,\"rope_type\":\"default\","
                    "\"partial_rotary_factor\":1.0}}");
    ck_assert_uint_eq(config.weights_dtype, LISA_DTYPE_F16);
    ck_assert_uint_eq(config.rope, LISA_ROPE_DEFAULT);
    ck_assert(config.rope_theta == 1000.0);
    expect_ok(LLAMA ",\"rope_parameters\":{\"rope_theta\":1000.0}}");
    ck_assert_uint_eq(config.rope, LISA_ROPE_DEFAULT);
    expect_ok(LLAMA ",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.5},"
                    "\"rope_theta\":77}");
    ck_assert_uint_eq(config.rope, LISA_ROPE_LINEAR);
    ck_assert(config.rope_factor == 2.5);
    ck_assert(config.rope_theta == 77.0);
}
END_TEST

START_TEST(reads_the_old_key_of_scaling) {
    expect_ok(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}");
    ck_assert_uint_eq(config.rope, LISA_ROPE_LINEAR);
    ck_assert(config.rope_factor == 4.0);
    expect_ok(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":3},"
                    "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5.0}}");
    ck_assert_uint_eq(config.rope, LISA_ROPE_LINEAR);
    ck_assert(config.rope_theta == 5.0);
    expect_ok(LLAMA ",\"rope_scaling\":null}");
    ck_assert_uint_eq(config.rope, LISA_ROPE_DEFAULT);
}
END_TEST

START_TEST(reports_what_it_passes_over) {
    expect_ok(LLAMA ",\"attention_dropout\":0.1,\"my_own_key\":[1]}");
    ck_assert_ptr_nonnull(strstr(host.log, "\"attention_dropout\" is 0.1; read, not applied"));
    ck_assert_ptr_nonnull(strstr(host.log, "\"my_own_key\" is not known; ignored"));
    put_text("config.json", LLAMA ",\"my_own_key\":[1]}");
    ck_assert_int_eq(lisa__hf_config_read(&config, NULL, test_dir), LISA_OK);
}
END_TEST

START_TEST(depends_on_no_locale) {
    /* Where the system has no such locale, this is the plain case once more. */
    setlocale(LC_ALL, "de_DE.UTF-8");
    expect_ok(LLAMA ",\"rms_norm_eps\":0.125,\"rope_theta\":2.5}");
    ck_assert(config.norm_eps == 0.125);
    ck_assert_int_eq(lisa__hf_config_write(&test_context, &config, test_dir, NULL), LISA_OK);
    ck_assert_int_eq(lisa__hf_config_read(&config, &test_context, test_dir), LISA_OK);
    ck_assert(config.norm_eps == 0.125);
    ck_assert(config.rope_theta == 2.5);
}
END_TEST

/* ---- the other families ---- */

#define OTHER(family) "{\"model_type\":\"" family "\"," SIZES
#define GPT2 "{\"model_type\":\"gpt2\",\"vocab_size\":64,\"n_embd\":24,\"n_layer\":3,\"n_head\":4"

START_TEST(fills_gpt2_defaults) {
    expect_ok(GPT2 "}");
    ck_assert_str_eq(config.family, "gpt2");
    ck_assert_uint_eq(config.n_layers, 3);
    ck_assert_uint_eq(config.d_model, 24);
    ck_assert_uint_eq(config.n_heads, 4);
    ck_assert_uint_eq(config.n_kv_heads, 4);
    ck_assert_uint_eq(config.head_dim, 6);
    ck_assert_uint_eq(config.d_ff, 96);
    ck_assert_uint_eq(config.max_positions, 1024);
    ck_assert_uint_eq(config.norm, LISA_NORM_LAYER);
    ck_assert(config.norm_eps == 1e-5);
    ck_assert(config.init_std == 0.02);
    ck_assert_uint_eq(config.activation, LISA_ACT_GELU_TANH);
    ck_assert_uint_eq(config.gated_mlp, 0);
    ck_assert_uint_eq(config.tied_head, 1);
    ck_assert_uint_eq(config.attention_bias & config.attention_output_bias & config.mlp_bias, 1);
    ck_assert_uint_eq(config.head_bias, 0);
    ck_assert_uint_eq(config.learned_positions, 1);
    ck_assert_uint_eq(config.rope, LISA_ROPE_NONE);
    ck_assert_uint_eq(config.parallel_residual + config.qk_norm + config.sliding_window, 0);
    ck_assert_str_eq(host.log, "");
}
END_TEST

START_TEST(reads_gpt2_as_published) {
    expect_ok(GPT2 ",\"architectures\":[\"GPT2LMHeadModel\"],\"n_ctx\":32,\"n_positions\":32,"
                   "\"n_inner\":null,\"activation_function\":\"relu\","
                   "\"layer_norm_epsilon\":1e-03,\"scale_attn_weights\":true,"
                   "\"scale_attn_by_inverse_layer_idx\":false,\"reorder_and_upcast_attn\":true,"
                   "\"tie_word_embeddings\":false,\"summary_type\":\"cls_index\","
                   "\"summary_use_proj\":true,\"summary_activation\":null,"
                   "\"summary_proj_to_labels\":true,\"summary_first_dropout\":0.1,"
                   "\"task_specific_params\":{\"text-generation\":{\"max_length\":50}}}");
    ck_assert_uint_eq(config.max_positions, 32);
    ck_assert_uint_eq(config.d_ff, 96);
    ck_assert_uint_eq(config.activation, LISA_ACT_RELU);
    ck_assert(config.norm_eps == 1e-3);
    ck_assert_uint_eq(config.tied_head, 0);
    ck_assert_str_eq(host.log, "");
    expect_ok(GPT2 ",\"n_inner\":7,\"resid_pdrop\":0.1}");
    ck_assert_uint_eq(config.d_ff, 7);
    ck_assert_ptr_nonnull(strstr(host.log, "\"resid_pdrop\" is 0.1; read, not applied"));
}
END_TEST

START_TEST(fills_mistral_defaults) {
    put_text("config.json", "{\"model_type\":\"mistral\",\"vocab_size\":64,\"hidden_size\":32,"
                            "\"intermediate_size\":40,\"num_hidden_layers\":2,"
                            "\"num_attention_heads\":16}");
    ck_assert_int_eq(lisa__hf_config_read(&config, fresh_context(), test_dir), LISA_OK);
    ck_assert_uint_eq(config.n_kv_heads, 8);
    ck_assert_uint_eq(config.head_dim, 2);
    ck_assert_uint_eq(config.sliding_window, 4096);
    ck_assert_uint_eq(config.max_positions, 131072);
    ck_assert_uint_eq(config.norm, LISA_NORM_RMS);
    ck_assert(config.norm_eps == 1e-6);
    ck_assert(config.rope_theta == 10000.0);
    ck_assert_uint_eq(config.tied_head + config.attention_bias + config.mlp_bias, 0);
    ck_assert_uint_eq(config.gated_mlp, 1);
    ck_assert_uint_eq(config.activation, LISA_ACT_SILU);
    expect_ok(OTHER("mistral") ",\"num_key_value_heads\":null,\"sliding_window\":null,"
                               "\"head_dim\":null}");
    ck_assert_uint_eq(config.n_kv_heads, 4);
    ck_assert_uint_eq(config.head_dim, 6);
    ck_assert_uint_eq(config.sliding_window, 0);
    expect_ok(OTHER("mistral") ",\"num_key_value_heads\":2,\"sliding_window\":5,\"head_dim\":8,"
                               "\"layer_types\":[\"sliding_attention\",\"sliding_attention\","
                               "\"sliding_attention\"],\"rope_parameters\":{\"rope_theta\":7.0,"
                               "\"rope_type\":\"default\"}}");
    ck_assert_uint_eq(config.sliding_window, 5);
    ck_assert_uint_eq(config.head_dim, 8);
    ck_assert(config.rope_theta == 7.0);
    ck_assert_str_eq(host.log, "");
}
END_TEST

START_TEST(fills_phi_defaults) {
    expect_ok(OTHER("phi") ",\"num_key_value_heads\":null,\"qk_layernorm\":false}");
    ck_assert_uint_eq(config.n_kv_heads, 4);
    ck_assert_uint_eq(config.rotary_dim, 3);
    ck_assert_uint_eq(config.norm, LISA_NORM_LAYER);
    ck_assert(config.norm_eps == 1e-5);
    ck_assert_uint_eq(config.activation, LISA_ACT_GELU_TANH);
    ck_assert_uint_eq(config.max_positions, 2048);
    ck_assert_uint_eq(config.attention_bias & config.attention_output_bias & config.mlp_bias &
                          config.head_bias & config.parallel_residual,
                      1);
    ck_assert_uint_eq(config.gated_mlp + config.tied_head + config.qk_norm, 0);
    ck_assert_str_eq(host.log, "");
    expect_ok(OTHER("phi") ",\"partial_rotary_factor\":0.4,\"head_dim\":80}");
    ck_assert_uint_eq(config.rotary_dim, 32);
    expect_ok(OTHER("phi") ",\"num_key_value_heads\":2,\"rope_parameters\":{\"rope_theta\":9.0,"
                           "\"partial_rotary_factor\":0.7,\"rope_type\":\"default\"}}");
    ck_assert_uint_eq(config.rotary_dim, 4);
    ck_assert_uint_eq(config.n_kv_heads, 2);
    ck_assert(config.rope_theta == 9.0);
    expect_ok(OTHER("phi") ",\"partial_rotary_factor\":0.4,\"rope_scaling\":{\"type\":"
                           "\"linear\",\"factor\":2.0}}");
    ck_assert_uint_eq(config.rotary_dim, 2);
    ck_assert_uint_eq(config.rope, LISA_ROPE_LINEAR);
}
END_TEST

#define KV ",\"num_key_value_heads\":2"

START_TEST(fills_qwen2_defaults) {
    expect_ok(OTHER("qwen2") KV "}");
    ck_assert_uint_eq(config.attention_bias, 1);
    ck_assert_uint_eq(config.attention_output_bias + config.mlp_bias + config.qk_norm, 0);
    ck_assert_uint_eq(config.max_positions, 32768);
    ck_assert(config.norm_eps == 1e-6);
    ck_assert_uint_eq(config.tied_head, 0);
    ck_assert_uint_eq(config.head_dim, 6);
    ck_assert_uint_eq(config.sliding_window, 0);
    ck_assert_uint_eq(config.gated_mlp, 1);
    expect_ok(OTHER("qwen2") ",\"num_key_value_heads\":null}");
    ck_assert_uint_eq(config.n_kv_heads, 4);
    ck_assert_str_eq(host.log, "");
}
END_TEST

/* The window is there for layers from max_window_layers on, if it is switched on: for all or none.
 */
START_TEST(reads_the_switched_window) {
    static const struct {
        const char *keys;
        uint32_t window;
    } cases[] = {
        {",\"sliding_window\":5,\"max_window_layers\":1}", 0},
        {",\"use_sliding_window\":false,\"sliding_window\":5,\"max_window_layers\":1}", 0},
        {",\"use_sliding_window\":true,\"sliding_window\":5,\"max_window_layers\":0}", 5},
        {",\"use_sliding_window\":true,\"sliding_window\":5,\"max_window_layers\":3}", 0},
        {",\"use_sliding_window\":true,\"sliding_window\":5}", 0},
        {",\"use_sliding_window\":true,\"sliding_window\":null,\"max_window_layers\":1}", 0},
        {",\"use_sliding_window\":true,\"max_window_layers\":0}", 4096},
        {",\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]}", 0},
    };
    static const char *const families[] = {OTHER("qwen2") KV, OTHER("qwen3") KV};
    char text[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "%s%s", families[_i], cases[i].keys);
        expect_ok(text);
        ck_assert_msg(config.sliding_window == cases[i].window, "%s: %u", text,
                      config.sliding_window);
    }
}
END_TEST

START_TEST(fills_qwen3_defaults) {
    expect_ok(OTHER("qwen3") KV "}");
    ck_assert_uint_eq(config.head_dim, 128);
    ck_assert_uint_eq(config.qk_norm, 1);
    ck_assert_uint_eq(config.attention_bias + config.attention_output_bias + config.mlp_bias, 0);
    ck_assert_uint_eq(config.max_positions, 32768);
    ck_assert(config.norm_eps == 1e-6);
    ck_assert_uint_eq(config.tied_head, 0);
    expect_ok(OTHER("qwen3") KV ",\"head_dim\":10,\"attention_bias\":true}");
    ck_assert_uint_eq(config.head_dim, 10);
    ck_assert_uint_eq(config.attention_bias & config.attention_output_bias, 1);
}
END_TEST

/* ---- what is refused ---- */

static const struct {
    lisa_status status;
    const char *json;
    const char *text; /* a part of the error's */
} refused[] = {
    {LISA_E_FORMAT, "", "JSON"},
    {LISA_E_FORMAT, "[]", "an object expected"},
    {LISA_E_FORMAT, "{\"model_type\":\"llama\"", "JSON"},
    {LISA_E_FORMAT, LLAMA ",\"vocab_size\":64}", "duplicate"},
    {LISA_E_FORMAT, LLAMA ",\"rms_norm_eps\":NaN}", "JSON"},
    {LISA_E_FORMAT, LLAMA ",\"rms_norm_eps\":1e999}", "JSON"},
    {LISA_E_FORMAT, "{" SIZES "}", "\"model_type\" is missing"},
    {LISA_E_FORMAT, "{\"model_type\":7," SIZES "}", "\"model_type\" is 7, a string expected"},
    {LISA_E_UNSUPPORTED, "{\"model_type\":\"phi-msft\"," SIZES "}",
     "\"model_type\" is \"phi-msft\": Phi's first layout, with fused Wqkv"},
    {LISA_E_UNSUPPORTED, "{\"model_type\":\"gemma\"," SIZES "}",
     "\"model_type\" is \"gemma\"; implemented: llama, gpt2, mistral, phi, qwen2, qwen3"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"architectures\":[\"LlamaForSequenceClassification\"]}",
     "LlamaForSequenceClassification"},
    {LISA_E_FORMAT, LLAMA ",\"architectures\":\"LlamaForCausalLM\"}", "\"architectures\""},
    {LISA_E_FORMAT, LLAMA ",\"architectures\":[1]}", "a list of strings"},
    {LISA_E_FORMAT, LLAMA ",\"torch_dtype\":16}", "\"torch_dtype\""},
    {LISA_E_FORMAT, LLAMA ",\"dtype\":16}", "\"dtype\""},
    {LISA_E_UNSUPPORTED, LLAMA ",\"dtype\":\"torch.int8\"}", "\"int8\""},
    {LISA_E_FORMAT, "{\"model_type\":\"llama\",\"vocab_size\":64}", "\"hidden_size\" is missing"},
    {LISA_E_FORMAT, LLAMA ",\"num_key_value_heads\":0}",
     "\"num_key_value_heads\" is 0, an integer from 1 to 2147483647 expected"},
    {LISA_E_FORMAT, LLAMA ",\"num_key_value_heads\":3}", "a divisor of num_attention_heads' 4"},
    {LISA_E_FORMAT, LLAMA ",\"num_key_value_heads\":-4}", "is -4, an integer from 1"},
    {LISA_E_FORMAT, LLAMA ",\"num_key_value_heads\":4.0}", "is a number, an integer from 1"},
    {LISA_E_FORMAT, LLAMA ",\"num_key_value_heads\":\"4\"}", "is \"4\", an integer from 1"},
    {LISA_E_FORMAT, LLAMA ",\"head_dim\":2147483648}", "is 2147483648, an integer from 1"},
    {LISA_E_FORMAT, LLAMA ",\"head_dim\":99999999999999999999}", "JSON"},
    {LISA_E_FORMAT,
     "{\"model_type\":\"llama\",\"vocab_size\":64,\"hidden_size\":25,\"intermediate_size\":40,"
     "\"num_hidden_layers\":3,\"num_attention_heads\":4}",
     "\"hidden_size\" is 25, a multiple of"},
    {LISA_E_FORMAT, LLAMA ",\"tie_word_embeddings\":1}", "is 1, true or false expected"},
    {LISA_E_FORMAT, LLAMA ",\"rms_norm_eps\":-1e-6}", "\"rms_norm_eps\" is a number"},
    {LISA_E_FORMAT, LLAMA ",\"rms_norm_eps\":\"1e-6\"}", "\"rms_norm_eps\" is \"1e-6\""},
    {LISA_E_FORMAT, LLAMA ",\"rope_theta\":0}", "\"rope_theta\" is 0"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"hidden_act\":\"quick_gelu\"}",
     "\"hidden_act\" is \"quick_gelu\""},
    {LISA_E_FORMAT, LLAMA ",\"hidden_act\":3}", "\"hidden_act\" is 3, a string expected"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"torch_dtype\":\"float8_e4m3fn\"}", "float8_e4m3fn"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}}",
     "\"rope_scaling.rope_type\" is \"dynamic\""},
    {LISA_E_UNSUPPORTED, LLAMA ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":2.0}}",
     "\"rope_parameters.rope_type\" is \"yarn\""},
    {LISA_E_UNSUPPORTED, LLAMA ",\"rope_scaling\":{\"rope_type\":\"longrope\"}}", "longrope"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1}}}",
     "\"rope_parameters.full_attention\""},
    {LISA_E_UNSUPPORTED, LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
     "\"rope_parameters.partial_rotary_factor\" is 0.5"},
    {LISA_E_FORMAT, LLAMA ",\"rope_scaling\":{\"factor\":2.0}}",
     "\"rope_scaling.rope_type\" is missing"},
    {LISA_E_FORMAT, LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}",
     "\"rope_scaling.factor\" is missing"},
    {LISA_E_FORMAT, LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":-1}}",
     "\"rope_scaling.factor\" is -1"},
    {LISA_E_FORMAT, LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}}",
     "\"rope_scaling.low_freq_factor\" is missing"},
    {LISA_E_FORMAT,
     LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
           "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
     "more than low_freq_factor's 4 expected"},
    {LISA_E_FORMAT, LLAMA ",\"rope_scaling\":\"linear\"}", "\"rope_scaling\": an object or null"},
    {LISA_E_FORMAT, LLAMA ",\"rope_theta\":5,\"rope_parameters\":{\"rope_theta\":6}}",
     "\"rope_theta\" is 5, but \"rope_parameters.rope_theta\" is 6"},
    {LISA_E_FORMAT, LLAMA ",\"attention_dropout\":2}", "\"attention_dropout\" is 2"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"quantization_config\":{\"quant_method\":\"gptq\"}}",
     "\"quantization_config\" is {\"quant_method\":\"gptq\"}"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"final_logit_softcapping\":30.0}", "\"final_logit_softcapping\""},
    {LISA_E_UNSUPPORTED, LLAMA ",\"attn_logit_softcapping\":50}",
     "\"attn_logit_softcapping\" is 50"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"query_pre_attn_scalar\":256}",
     "\"query_pre_attn_scalar\" is 256"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"residual_multiplier\":0.22}", "for llama only 1 is implemented"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"embedding_multiplier\":12}", "\"embedding_multiplier\" is 12"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"logits_scaling\":8}", "\"logits_scaling\" is 8"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"attention_multiplier\":1}", "\"attention_multiplier\" is 1"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"num_local_experts\":8}", "\"num_local_experts\" is 8"},
    {LISA_E_UNSUPPORTED,
     LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]}",
     "\"layer_types\""},
    {LISA_E_UNSUPPORTED, LLAMA ",\"sliding_window\":4096}", "\"sliding_window\" is 4096"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"partial_rotary_factor\":0.5}",
     "\"partial_rotary_factor\" is 0.5"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"use_qk_norm\":true}", "\"use_qk_norm\" is true"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"clip_qkv\":8.0}", "\"clip_qkv\" is 8.0"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"rope_interleaved\":true}", "\"rope_interleaved\" is true"},
    {LISA_E_UNSUPPORTED, LLAMA ",\"pretraining_tp\":2}", "\"pretraining_tp\" is 2"},
    {LISA_E_FORMAT, "{\"model_type\":\"gpt2\"," SIZES "}", "\"n_embd\" is missing"},
    {LISA_E_FORMAT,
     "{\"model_type\":\"gpt2\",\"vocab_size\":64,\"n_embd\":25,\"n_layer\":3,\"n_head\":4}",
     "\"n_embd\" is 25, a multiple of n_head' 4"},
    {LISA_E_FORMAT,
     "{\"model_type\":\"gpt2\",\"vocab_size\":64,\"n_embd\":1073741824,\"n_layer\":3,"
     "\"n_head\":4}",
     "\"n_embd\" is 1073741824, at most 536870911 expected"},
    {LISA_E_UNSUPPORTED, GPT2 ",\"scale_attn_weights\":false}",
     "\"scale_attn_weights\" is false; true is implemented"},
    {LISA_E_UNSUPPORTED, GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}",
     "\"scale_attn_by_inverse_layer_idx\" is true"},
    {LISA_E_UNSUPPORTED, GPT2 ",\"add_cross_attention\":true}", "\"add_cross_attention\""},
    {LISA_E_UNSUPPORTED, GPT2 ",\"architectures\":[\"GPT2DoubleHeadsModel\"]}",
     "GPT2LMHeadModel is implemented"},
    {LISA_E_FORMAT, OTHER("mistral") "}",
     "\"num_key_value_heads\" is 8, a divisor of num_attention_heads' 4"},
    {LISA_E_FORMAT, OTHER("mistral") KV ",\"sliding_window\":0}", "\"sliding_window\" is 0"},
    {LISA_E_UNSUPPORTED,
     OTHER("mistral") KV ",\"layer_types\":[\"sliding_attention\",\"full_attention\","
                         "\"sliding_attention\"]}",
     "\"layer_types\" has \"full_attention\""},
    {LISA_E_UNSUPPORTED, OTHER("mistral") KV ",\"attention_bias\":true}", "\"attention_bias\""},
    {LISA_E_UNSUPPORTED, OTHER("phi") ",\"qk_layernorm\":true}", "\"qk_layernorm\" is true"},
    {LISA_E_FORMAT, OTHER("phi") ",\"partial_rotary_factor\":0.1}",
     "\"partial_rotary_factor\" is 0.1"},
    {LISA_E_FORMAT, OTHER("phi") ",\"partial_rotary_factor\":1.5}",
     "\"partial_rotary_factor\" is 1.5"},
    {LISA_E_FORMAT,
     OTHER("phi") ",\"partial_rotary_factor\":0.5,\"rope_parameters\":{"
                  "\"partial_rotary_factor\":1.0}}",
     "\"partial_rotary_factor\" is 0.5, but \"rope_parameters.partial_rotary_factor\" is 1"},
    {LISA_E_UNSUPPORTED, OTHER("phi") ",\"architectures\":[\"PhiForTokenClassification\"]}",
     "PhiForCausalLM is implemented"},
    {LISA_E_UNSUPPORTED, OTHER("qwen2") KV ",\"use_sliding_window\":true,\"max_window_layers\":2}",
     "\"max_window_layers\" is 2"},
    {LISA_E_UNSUPPORTED,
     OTHER("qwen2") KV ",\"layer_types\":[\"full_attention\",\"full_attention\","
                       "\"sliding_attention\"]}",
     "\"layer_types\" has \"sliding_attention\""},
    {LISA_E_FORMAT, OTHER("qwen2") KV ",\"layer_types\":[\"full_attention\"]}",
     "\"layer_types\": a list of 3 expected"},
    {LISA_E_UNSUPPORTED, OTHER("qwen2") KV ",\"use_mrope\":true}", "\"use_mrope\" is true"},
    {LISA_E_FORMAT, OTHER("qwen3") "}", "\"num_key_value_heads\" is 32, a divisor of"},
    {LISA_E_UNSUPPORTED, OTHER("qwen3") KV ",\"num_experts\":128}", "\"num_experts\" is 128"},
    {LISA_E_UNSUPPORTED, "{\"model_type\":\"qwen3_moe\"," SIZES "}", "qwen3_moe"},
};

START_TEST(refuses_by_name) {
    lisa_model_config untouched;
    memset(&untouched, 0xEE, sizeof untouched);
    ck_assert_int_eq(read_text(refused[_i].json), refused[_i].status);
    ck_assert_msg(strstr(lisa_error_last(), refused[_i].text) != NULL, "%s\n  got: %s",
                  refused[_i].text, lisa_error_last());
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), in_test_dir("config.json")));
    ck_assert_mem_eq(&config, &untouched, sizeof config);
}
END_TEST

START_TEST(lets_neutral_values_pass) {
    expect_ok(LLAMA ",\"quantization_config\":null,\"final_logit_softcapping\":null,"
                    "\"residual_multiplier\":1.0,\"logits_scaling\":1,\"num_local_experts\":0,"
                    "\"layer_types\":null,\"sliding_window\":null,\"partial_rotary_factor\":1.0,"
                    "\"use_qk_norm\":false,\"clip_qkv\":null,\"num_key_value_heads\":null,"
                    "\"head_dim\":null,\"use_sliding_window\":false,"
                    "\"architectures\":[\"LLaMAForCausalLM\"]}");
    ck_assert_str_eq(host.log, "");
    ck_assert_uint_eq(config.head_dim, 6);
}
END_TEST

START_TEST(says_that_there_is_none) {
    ck_assert_int_eq(lisa__hf_config_read(&config, fresh_context(), test_dir), LISA_E_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), in_test_dir("config.json")));
}
END_TEST

START_TEST(bounds_the_file) {
    char *text = malloc((1 << 20) + 2);
    ck_assert_ptr_nonnull(text);
    memset(text, ' ', (1 << 20) + 1);
    text[(1 << 20) + 1] = '\0';
    ck_assert_int_eq(read_text(text), LISA_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "at most 1048576 expected"));
    free(text);
}
END_TEST

/* ---- the type of the weights ---- */

START_TEST(takes_the_type_from_the_headers) {
    static const char header[] = "{\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[1],"
                                 "\"data_offsets\":[0,2]}}";
    expect_ok(LLAMA "}");
    lisa__fail(LISA_OK, "as before");
    ck_assert_int_eq(lisa__hf_weights_dtype(&config, NULL, test_dir), LISA_OK);
    ck_assert_uint_eq(config.weights_dtype, LISA_DTYPE_F32);
    ck_assert_str_eq(lisa_error_last(), "as before");
    put_safetensors("model.safetensors", header, sizeof header - 1, 2);
    ck_assert_int_eq(lisa__hf_weights_dtype(&config, &test_context, test_dir), LISA_OK);
    ck_assert_uint_eq(config.weights_dtype, LISA_DTYPE_BF16);
    assert_nothing_held();
}
END_TEST

/* ---- writing ---- */

static void expect_round_trip(const char *text) {
    lisa_model_config first, second;
    expect_ok(text);
    first = config;
    ck_assert_int_eq(lisa__hf_config_write(&test_context, &first, in_test_dir("new"), NULL),
                     LISA_OK);
    ck_assert_int_eq(lisa__hf_config_read(&second, &test_context, in_test_dir("new")), LISA_OK);
    ck_assert_mem_eq(&first, &second, sizeof first);
    assert_nothing_held();
}

START_TEST(writes_what_it_reads) {
    expect_round_trip(LLAMA "}");
    expect_round_trip(LLAMA ",\"num_key_value_heads\":2,\"head_dim\":8,\"hidden_act\":\"relu\","
                            "\"rms_norm_eps\":1e-05,\"tie_word_embeddings\":true,\"torch_dtype\":"
                            "\"bfloat16\",\"rope_theta\":3.3,\"rope_scaling\":{\"type\":\"linear\","
                            "\"factor\":2.7},\"initializer_range\":0.041666666666666664}");
    expect_round_trip(LLAMA ",\"attention_bias\":true,\"mlp_bias\":true,\"hidden_act\":\"gelu\","
                            "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
                            "\"low_freq_factor\":1,\"high_freq_factor\":4,"
                            "\"original_max_position_embeddings\":64}}");
}
END_TEST

START_TEST(writes_every_family) {
    expect_round_trip(GPT2 "}");
    expect_round_trip(GPT2 ",\"n_positions\":32,\"n_inner\":7,\"activation_function\":\"gelu\","
                           "\"layer_norm_epsilon\":1e-03,\"tie_word_embeddings\":false,"
                           "\"torch_dtype\":\"float16\",\"initializer_range\":0.3}");
    expect_round_trip(OTHER("mistral") KV "}");
    expect_round_trip(OTHER("mistral") KV ",\"sliding_window\":null,\"head_dim\":10}");
    expect_round_trip(OTHER("phi") ",\"partial_rotary_factor\":0.7}");
    expect_round_trip(OTHER("phi") ",\"head_dim\":80,\"partial_rotary_factor\":0.4,"
                                   "\"tie_word_embeddings\":true,\"rope_theta\":3.0}");
    expect_round_trip(OTHER("qwen2") KV "}");
    expect_round_trip(OTHER("qwen2") KV ",\"use_sliding_window\":true,\"sliding_window\":7,"
                                        "\"max_window_layers\":0,\"tie_word_embeddings\":true}");
    expect_round_trip(OTHER("qwen3") KV "}");
    expect_round_trip(OTHER("qwen3") KV ",\"attention_bias\":true,\"head_dim\":10}");
}
END_TEST

/* Every part of a rotary share comes back, however the division rounds. */
START_TEST(writes_every_rotary_share) {
    expect_ok(OTHER("phi") "}");
    for (uint32_t dim = 2; dim <= 130; dim += 16)
        for (uint32_t rotary = 2; rotary <= dim; rotary += 2) {
            lisa_model_config again;
            config.head_dim = dim;
            config.rotary_dim = rotary;
            ck_assert_int_eq(
                lisa__hf_config_write(&test_context, &config, in_test_dir("new"), NULL), LISA_OK);
            ck_assert_int_eq(lisa__hf_config_read(&again, &test_context, in_test_dir("new")),
                             LISA_OK);
            ck_assert_uint_eq(again.rotary_dim, rotary);
        }
}
END_TEST

START_TEST(keeps_the_source) {
    size_t n;
    put_text("config.json", LLAMA ",\"mine\":{\"a\":1e-05},\"dtype\":\"float32\",\"torch_dtype\":"
                                  "\"float32\",\"bos_token_id\":7,\"rope_theta\":10000.0}");
    ck_assert_int_eq(lisa__hf_config_read(&config, fresh_context(), test_dir), LISA_OK);
    config.weights_dtype = LISA_DTYPE_F16;
    config.tied_head = 1;
    ck_assert_int_eq(lisa__hf_config_write(&test_context, &config, in_test_dir("new"), test_dir),
                     LISA_OK);
    char *text = get_file("new/config.json", &n);
    ck_assert_ptr_nonnull(strstr(text, "\"mine\": {\n    \"a\": 1e-5\n  }"));
    ck_assert_ptr_nonnull(strstr(text, "\"dtype\": \"float16\""));
    ck_assert_ptr_nonnull(strstr(text, "\"torch_dtype\": \"float16\""));
    ck_assert_ptr_nonnull(strstr(text, "\"bos_token_id\": 7"));
    ck_assert_ptr_nonnull(strstr(text, "\"tie_word_embeddings\": true"));
    ck_assert_ptr_nonnull(strstr(text, "\"rope_theta\": 10000.0"));
    free(text);
}
END_TEST

/* transformers would train with its own rates where a key is absent. */
START_TEST(writes_that_there_is_no_dropout) {
    size_t n;
    expect_ok(GPT2 "}");
    ck_assert_int_eq(lisa__hf_config_write(&test_context, &config, in_test_dir("new"), NULL),
                     LISA_OK);
    char *text = get_file("new/config.json", &n);
    ck_assert_ptr_nonnull(strstr(text, "\"attn_pdrop\": 0.0"));
    ck_assert_ptr_nonnull(strstr(text, "\"embd_pdrop\": 0.0"));
    ck_assert_ptr_nonnull(strstr(text, "\"resid_pdrop\": 0.0"));
    free(text);
}
END_TEST

START_TEST(writes_the_description_where_the_source_is_gone) {
    expect_ok(LLAMA "}");
    ck_assert_int_eq(
        lisa__hf_config_write(&test_context, &config, in_test_dir("new"), in_test_dir("gone")),
        LISA_OK);
    ck_assert_ptr_nonnull(strstr(host.log, "is gone"));
    ck_assert_int_eq(lisa__hf_config_read(&config, &test_context, in_test_dir("new")), LISA_OK);
}
END_TEST

static const struct {
    const char *family, *json, *what;
    uint32_t field, value;
} unsaid[] = {
    {"llama", LLAMA "}", "norm", LISA__FIELD(norm), LISA_NORM_LAYER},
    {"llama", LLAMA "}", "qk_norm", LISA__FIELD(qk_norm), 1},
    {"llama", LLAMA "}", "sliding_window", LISA__FIELD(sliding_window), 3},
    {"llama", LLAMA "}", "attention_bias", LISA__FIELD(attention_output_bias), 1},
    {"llama", LLAMA "}", "rotary_dim", LISA__FIELD(rotary_dim), 4},
    {"llama", LLAMA "}", "rope", LISA__FIELD(rope), LISA_ROPE_NONE},
    {"gpt2", GPT2 "}", "n_kv_heads", LISA__FIELD(n_kv_heads), 2},
    {"gpt2", GPT2 "}", "head_dim", LISA__FIELD(head_dim), 8},
    {"gpt2", GPT2 "}", "attention_bias", LISA__FIELD(attention_bias), 0},
    {"gpt2", GPT2 "}", "learned_positions", LISA__FIELD(learned_positions), 0},
    {"mistral", OTHER("mistral") KV "}", "mlp_bias", LISA__FIELD(mlp_bias), 1},
    {"phi", OTHER("phi") ",\"head_dim\":8}", "head_bias", LISA__FIELD(head_bias), 0},
    {"phi", OTHER("phi") ",\"head_dim\":8}", "gated_mlp", LISA__FIELD(gated_mlp), 1},
    {"phi", OTHER("phi") ",\"head_dim\":8}", "parallel_residual", LISA__FIELD(parallel_residual),
     0},
    {"qwen2", OTHER("qwen2") KV "}", "attention_bias", LISA__FIELD(attention_bias), 0},
    {"qwen3", OTHER("qwen3") KV "}", "qk_norm", LISA__FIELD(qk_norm), 0},
};

START_TEST(refuses_what_a_family_cannot_say) {
    char text[64];
    expect_ok(unsaid[_i].json);
    memcpy((unsigned char *)&config + unsaid[_i].field, &unsaid[_i].value, sizeof unsaid[_i].value);
    ck_assert_int_eq(lisa__hf_config_write(&test_context, &config, in_test_dir("new"), NULL),
                     LISA_E_UNSUPPORTED);
    snprintf(text, sizeof text, "the %s of this model cannot be said in a %s", unsaid[_i].what,
             unsaid[_i].family);
    ck_assert_msg(strstr(lisa_error_last(), text) != NULL, "%s", lisa_error_last());
    ck_assert_int_eq(has_file("new/config.json"), 0);
}
END_TEST

START_TEST(survives_every_failing_call) {
    expect_ok(LLAMA "}");
    for (uint64_t at = 1;; at++) {
        inject(at, _i, EIO);
        const lisa_status status = lisa__hf_config_read(&config, fresh_context(), test_dir);
        const int was_reached = faults.n_calls >= at;
        ck_assert(status == LISA_OK || status == LISA_E_IO);
        ck_assert(status == LISA_OK || strstr(lisa_error_last(), test_dir) != NULL);
        ck_assert_int_eq(faults.n_open, 0);
        if (!was_reached)
            break;
    }
    inject_nothing();
}
END_TEST

static uint64_t n_allocs, fail_alloc_at;
static int fail_allocs_for_ever;

static void *allocate(size_t bytes) {
    n_allocs++;
    const int due = n_allocs == fail_alloc_at || (fail_allocs_for_ever && n_allocs > fail_alloc_at);
    return due ? NULL : malloc(bytes);
}

START_TEST(survives_every_failing_allocation) {
    lisa_status status;
    fail_alloc_at = 0;
    fail_allocs_for_ever = _i;
    put_text("config.json", LLAMA ",\"architectures\":[\"LlamaForCausalLM\"],\"mine\":{}}");
    lisa__json_allocate = allocate;
    do {
        n_allocs = 0;
        fail_alloc_at++;
        status = lisa__hf_config_read(&config, fresh_context(), test_dir);
        ck_assert_int_eq(status, n_allocs >= fail_alloc_at ? LISA_E_NOMEM : LISA_OK);
    } while (status != LISA_OK);
    lisa__json_allocate = malloc;
    /* A shared jansson calls its own malloc, and then there was nothing to fail. */
    ck_assert(fail_alloc_at > 20 || n_allocs == 0);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("hf_config");
    TCase *tests = tcase_create("hf_config");
    tcase_add_checked_fixture(tests, make_test_dir, remove_test_dir);
    tcase_add_test(tests, fills_llama_defaults);
    tcase_add_test(tests, reads_transformers_4);
    tcase_add_test(tests, reads_transformers_5);
    tcase_add_test(tests, reads_the_old_key_of_scaling);
    tcase_add_test(tests, reports_what_it_passes_over);
    tcase_add_test(tests, depends_on_no_locale);
    tcase_add_test(tests, fills_gpt2_defaults);
    tcase_add_test(tests, reads_gpt2_as_published);
    tcase_add_test(tests, fills_mistral_defaults);
    tcase_add_test(tests, fills_phi_defaults);
    tcase_add_test(tests, fills_qwen2_defaults);
    tcase_add_test(tests, fills_qwen3_defaults);
    tcase_add_loop_test(tests, reads_the_switched_window, 0, 2);
    tcase_add_loop_test(tests, refuses_by_name, 0, sizeof refused / sizeof *refused);
    tcase_add_test(tests, lets_neutral_values_pass);
    tcase_add_test(tests, says_that_there_is_none);
    tcase_add_test(tests, bounds_the_file);
    tcase_add_test(tests, takes_the_type_from_the_headers);
    tcase_add_test(tests, writes_what_it_reads);
    tcase_add_test(tests, keeps_the_source);
    tcase_add_test(tests, writes_the_description_where_the_source_is_gone);
    tcase_add_test(tests, writes_that_there_is_no_dropout);
    tcase_add_test(tests, writes_every_family);
    tcase_add_test(tests, writes_every_rotary_share);
    tcase_add_loop_test(tests, refuses_what_a_family_cannot_say, 0, sizeof unsaid / sizeof *unsaid);
    tcase_add_loop_test(tests, survives_every_failing_call, 0, 2);
    tcase_add_loop_test(tests, survives_every_failing_allocation, 0, 2);
    suite_add_tcase(suite, tests);
    return suite;
}

LISA_CHECK_MAIN(make_suite)

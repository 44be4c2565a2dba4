/* model.h - a language model: its description, its weights, files in and out.
 *
 * Shapes: B sequences, T tokens each, C = d_model, V = vocab_size, L = n_layers.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_MODEL_H
#define LISA_MODEL_H

#include "batch.h"
#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A transformer's mathematics as data. What a family fixes is filled in from config.json. */
#define LISA_NORM_RMS 1
#define LISA_NORM_LAYER 2

#define LISA_ACT_SILU 1
#define LISA_ACT_GELU_TANH 2 /* "gelu_new", "gelu_pytorch_tanh" */
#define LISA_ACT_GELU_ERF 3  /* "gelu" */
#define LISA_ACT_RELU 4

#define LISA_ROPE_NONE 0
#define LISA_ROPE_DEFAULT 1
#define LISA_ROPE_LINEAR 2 /* inv_freq / rope_factor */
#define LISA_ROPE_LLAMA3 3 /* Llama 3.1's frequency-dependent scaling */

typedef struct lisa_model_config {
    size_t struct_size;
    /* "llama", "gpt2", "mistral", "phi", "qwen2" or "qwen3": names tensors and files, decides no
     * arithmetic. */
    char family[32];
    uint32_t n_layers; /* L */
    uint32_t d_model;  /* C */
    uint32_t n_heads;
    uint32_t n_kv_heads; /* divides n_heads; 0 means n_heads */
    uint32_t head_dim;   /* 0 means d_model / n_heads */
    uint32_t d_ff;
    uint32_t vocab_size; /* V */
    uint32_t max_positions;
    uint32_t weights_dtype;  /* LISA_DTYPE_*: what the files hold, or what create() makes */
    uint32_t norm;           /* LISA_NORM_* */
    uint32_t activation;     /* LISA_ACT_* */
    uint32_t gated_mlp;      /* 1: down(act(gate(x)) * up(x)); 0: down(act(up(x))) */
    uint32_t tied_head;      /* 1: the head is the embedding */
    uint32_t attention_bias; /* biases on q, k, v */
    uint32_t attention_output_bias;
    uint32_t mlp_bias;
    uint32_t head_bias;
    uint32_t parallel_residual; /* 1: x + attention(norm x) + mlp(norm x) */
    uint32_t qk_norm;           /* 1: RMSNorm over head_dim on q and k before RoPE */
    uint32_t learned_positions; /* 1: a table of max_positions rows is added to the embedding */
    uint32_t sliding_window;    /* keys visible to a query, itself included; 0: all before it */
    uint32_t rope;              /* LISA_ROPE_* */
    uint32_t rotary_dim;        /* leading dims of a head that rotate; 0 means head_dim */
    uint32_t rope_original_positions; /* LLAMA3 */
    double rope_theta;
    double rope_factor;           /* LINEAR, LLAMA3 */
    double rope_low_freq_factor;  /* LLAMA3 */
    double rope_high_freq_factor; /* LLAMA3 */
    double norm_eps;
    double init_std; /* create(): standard deviation of the normal draws; 0 means 0.02 */
} lisa_model_config;

/* Sets a LLaMA-shaped default: RMSNorm 1e-5, SiLU gated, RoPE theta 10000, untied, f32. The sizes
 * stay 0 and must be set. */
LISA_API lisa_status lisa_model_config_init(lisa_model_config *config, size_t struct_size);

/* Fills *config (struct_size set) from DIR/config.json, and weights_dtype from the weights' headers
 * if they are there. No weights are loaded. LISA_E_UNSUPPORTED names the key or the model_type. */
LISA_API lisa_status lisa_model_config_read(lisa_model_config *config, const char *directory);

/* Threads: as its context. */
typedef struct lisa_model lisa_model;

#define LISA_LOAD_MAP 1  /* frozen weights stay file pages; see docs/errors.md on truncation */
#define LISA_LOAD_COPY 2 /* every weight is read into memory; the files may change afterwards */

#define LISA_WEIGHTS_AUTO 0     /* STREAMED where a device's memory_limit is less than twice them */
#define LISA_WEIGHTS_RESIDENT 1 /* all of them in the backend's memory */
#define LISA_WEIGHTS_STREAMED 2 /* frozen layers in host memory: they come when they are used */

typedef struct lisa_model_options {
    size_t struct_size;
    const char *scratch_dir; /* non-NULL: trained layers go to an unlinked file there */
    uint64_t seed;           /* create(): of the random weights */
    uint32_t load;           /* LISA_LOAD_*; default MAP */
    uint32_t weights;        /* LISA_WEIGHTS_*; default AUTO */
} lisa_model_options;

LISA_API lisa_status lisa_model_options_init(lisa_model_options *options, size_t struct_size);

/* Opens a Hugging Face directory: config.json with model.safetensors, or shards with their index.
 * options may be NULL. */
LISA_API lisa_status lisa_model_open(lisa_model **out, lisa_context *context, const char *directory,
                                     const lisa_model_options *options);

/* Makes a model from a description: norms 1, biases 0, all else normal(0, init_std) from `seed`,
 * the same on every backend and thread count. */
LISA_API lisa_status lisa_model_create(lisa_model **out, lisa_context *context,
                                       const lisa_model_config *config,
                                       const lisa_model_options *options);

/* Gives up the host's reference; NULL is a no-op. */
LISA_API void lisa_model_destroy(lisa_model *model);

/* Copies the description; config->struct_size must be set. */
LISA_API lisa_status lisa_model_get_config(const lisa_model *model, lisa_model_config *config);

typedef struct lisa_save_options {
    size_t struct_size;
    uint64_t max_shard_bytes; /* 0: 5 GB, Hugging Face's own default */
    uint32_t dtype;           /* 0: each tensor's own; else LISA_DTYPE_F32, BF16 or F16 */
    uint32_t reserved;
} lisa_save_options;

LISA_API lisa_status lisa_save_options_init(lisa_save_options *options, size_t struct_size);

/* Writes a Hugging Face directory: config.json, safetensors, and every other small file of the
 * directory the model came from (tokenizer, templates, generation config). 16-bit weights are their
 * masters rounded to nearest. DIRECTORY is made if need be, and may be the one that the model came
 * from; files appear whole or not at all. An attached adapter is no part of it: lisa_adapter_save
 * writes it, lisa_adapter_merge makes it one. LISA_E_NONFINITE where options->dtype cannot hold a
 * weight. options may be NULL. */
LISA_API lisa_status lisa_model_save(lisa_model *model, const char *directory,
                                     const lisa_save_options *options);

typedef struct lisa_tensor_info {
    size_t struct_size;
    const char *name; /* Hugging Face name; borrowed from the model */
    uint64_t n_elements;
    uint64_t shape[2]; /* as in the file; shape[1] is 1 for a vector */
    uint32_t n_dims;
    uint32_t dtype; /* as stored */
    uint32_t group; /* 0 embedding, 1 + l layer l, L + 1 final norm and head */
    uint32_t reserved;
} lisa_tensor_info;

/* Tensors in group order. A tied head is not listed apart. */
LISA_API uint32_t lisa_model_n_tensors(const lisa_model *model);
LISA_API lisa_status lisa_model_tensor_info(const lisa_model *model, uint32_t index,
                                            lisa_tensor_info *info);

/* Index of the tensor with a Hugging Face name; LISA_E_NOTFOUND. GPT-2's names are known with and
 * without "transformer.", however the model's files spell them. */
LISA_API lisa_status lisa_model_tensor_find(const lisa_model *model, const char *name,
                                            uint32_t *index);

/* Copies a tensor's n_elements values out, or in, converted from or to `dtype` (F32 or F64).
 * A read gives the weight that a save would write, not its fp32 master; a write replaces both.
 * Non-finite values are LISA_E_NONFINITE. The first write to a tensor that lies in a mapped file
 * reserves private memory for all such tensors of the embedding, of the layers, or of the head,
 * whichever it is one of, as an optimizer would: LISA_E_BUDGET or LISA_E_NOMEM where there is none.
 */
LISA_API lisa_status lisa_model_tensor_read(lisa_model *model, uint32_t index, void *data,
                                            uint32_t dtype, uint64_t n_elements);
LISA_API lisa_status lisa_model_tensor_write(lisa_model *model, uint32_t index, const void *data,
                                             uint32_t dtype, uint64_t n_elements);

/* Euclidean norm of a group's weights (the statistic of arXiv 2403.17919, section 3.1). */
LISA_API lisa_status lisa_model_weight_norm(lisa_model *model, uint32_t group, double *norm);

/* Mean loss over the batch's targets, and per token, each NULL or [B*T]: log-probabilities of the
 * targets in nats (0 where there is none) and whether the target was the most likely token. Touches
 * no gradients or saved activations: may be called at any time. */
LISA_API lisa_status lisa_model_evaluate(lisa_model *model, lisa_batch *batch, double *loss,
                                         float *log_probs, uint8_t *greedy);

/* Logits of every position of the batch, row-major [B*T, V], `dtype` F32 or F64. For tests and
 * small models: the library's own paths never hold them whole. */
LISA_API lisa_status lisa_model_logits(lisa_model *model, lisa_batch *batch, void *logits,
                                       uint32_t dtype, uint64_t n_elements);

/* Called with each new token, a stop token included; non-zero ends the generation there. Must not
 * call back into the same context. */
typedef int32_t (*lisa_token_fn)(void *user, int32_t token);

typedef struct lisa_generate_options {
    size_t struct_size;
    uint32_t max_new_tokens; /* default 128 */
    uint32_t n_stop_tokens;
    const int32_t *stop_tokens; /* [n_stop_tokens]: a generation ends behind one of these */
    lisa_token_fn on_token;     /* NULL: none */
    void *on_token_user;
    double temperature; /* default 0: greedy; finite and >= 0 */
    double top_p;       /* 0 to 1; default 0 and 1: all tokens */
    uint32_t top_k;     /* default 0: all tokens */
    uint32_t reserved;
    uint64_t seed; /* default 0 */
} lisa_generate_options;

LISA_API lisa_status lisa_generate_options_init(lisa_generate_options *options, size_t struct_size);

/* Continues `prompt` [n_prompt] with a KV cache; options may be NULL. Writes up to max_new_tokens
 * to `tokens`, a stop token included, and their number to *n_tokens, on failure those made before
 * it. n_prompt + max_new_tokens must not exceed max_positions. Touches no gradients or saved
 * activations: may be called at any time.
 *
 * Temperature 0 takes the most likely token, the lowest id of equals. Otherwise logits are divided
 * by the temperature; the top_k most likely tokens stay (equals by the lower id); of these the
 * fewest most likely whose probability among them reaches top_p, at least one; and from what is
 * left, renormalised, a token is drawn: the first, from the most likely down, with which the sum of
 * probabilities exceeds u = (word0 >> 5 << 26 | word1 >> 6) / 2^53, the words being those of
 * Philox4x32-10 with key = seed and counter = the number of the new token, counted from 0. Sums are
 * in double. The same seed makes the same tokens on any number of threads. */
LISA_API lisa_status lisa_model_generate(lisa_model *model, const int32_t *prompt,
                                         uint32_t n_prompt, const lisa_generate_options *options,
                                         int32_t *tokens, uint32_t *n_tokens);

#ifdef __cplusplus
}
#endif

#endif

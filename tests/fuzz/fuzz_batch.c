/* What a host may give a batch: sizes, tokens, labels, documents and weights, as they come. What is
 * taken can be trained on. */
#include "lisa/lisa.h"
#include "memory_files.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_BATCH = 3, MAX_TOKENS = 8, MOST = MAX_BATCH * MAX_TOKENS };

static struct {
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
} fuzzed;

static void make_model(void) {
    lisa_context_options options;
    lisa_model_config config;
    must(lisa_context_options_init(&options, sizeof options) == LISA_OK);
    options.n_threads = 1;
    must(lisa_context_create(&fuzzed.context, &options) == LISA_OK);
    must(lisa_model_config_init(&config, sizeof config) == LISA_OK);
    config.n_layers = 1;
    config.d_model = 8;
    config.n_heads = 2;
    config.d_ff = 8;
    config.vocab_size = 11;
    config.max_positions = MAX_TOKENS;
    must(lisa_model_create(&fuzzed.model, fuzzed.context, &config, NULL) == LISA_OK);
    must(lisa_batch_create(&fuzzed.batch, fuzzed.model, MAX_BATCH, MAX_TOKENS, NULL) == LISA_OK);
    must(lisa_optimizer_create(&fuzzed.optimizer, fuzzed.model, NULL) == LISA_OK);
}

/* The next n bytes as values of 8 bits, sign and all, now and then as they are. */
static const uint8_t *take(const uint8_t *data, const uint8_t *end, int32_t *out, uint32_t n) {
    for (uint32_t i = 0; i < n && data < end; i++, data++) {
        out[i] = (int8_t)*data;
        if (out[i] == -128 && end - data > 4) {
            memcpy(&out[i], data + 1, 4);
            data += 4;
        }
    }
    return data;
}

/* Weights near the ends of float can leave nothing to divide by, or gradients that are not finite:
 * then that is said, and nothing is trained. */
static void train(int extreme) {
    double loss;
    lisa_step_stats stats = {.struct_size = sizeof stats};
    must(lisa_forward(fuzzed.model, fuzzed.batch, &loss) == LISA_OK || extreme);
    lisa_status status = lisa_backward(fuzzed.model, fuzzed.batch);
    if (status == LISA_OK)
        status = lisa_optimizer_step(fuzzed.optimizer, &stats);
    must(status == LISA_OK || (extreme && lisa_error_last()[0] != '\0'));
}

FUZZ_ENTRY(fuzz_batch) {
    int32_t tokens[MOST] = {0}, targets[MOST] = {0}, documents[MOST] = {0}, raw[MOST] = {0};
    float weights[MOST];
    int extreme = 0;
    if (fuzzed.model == NULL)
        make_model();
    if (size < 3)
        return 0;
    const uint8_t *end = data + size, *at = data + 3;
    const uint32_t batch = data[0] % (MAX_BATCH + 2), n_tokens = data[1] % (MAX_TOKENS + 2);
    at = take(at, end, tokens, MOST);
    at = take(at, end, targets, MOST);
    at = take(at, end, documents, MOST);
    take(at, end, raw, MOST);
    for (uint32_t i = 0; i < MOST; i++) {
        memcpy(&weights[i], &raw[i], sizeof weights[i]);
        if (raw[i] >= -127 && raw[i] <= 127)
            weights[i] = (float)raw[i] / 16;
        extreme |= !(fabsf(weights[i]) < 1e30f) || (weights[i] != 0 && fabsf(weights[i]) < 1e-30f);
    }
    lisa_status status =
        lisa_batch_set(fuzzed.batch, tokens, data[2] & 1 ? targets : NULL, batch, n_tokens);
    if (status == LISA_OK && data[2] & 2)
        status = lisa_batch_set_documents(fuzzed.batch, documents);
    if (status == LISA_OK && data[2] & 4)
        status = lisa_batch_set_weights(fuzzed.batch, weights);
    if (status == LISA_OK)
        train((data[2] & 4) != 0 && extreme);
    else
        must(lisa_error_last()[0] != '\0');
    return 0;
}

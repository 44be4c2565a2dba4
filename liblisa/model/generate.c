/* Generation with a KV cache. */
#include "model/pass.h"

#include "core/dtype.h"
#include "model/choose.h"

#include <math.h>
#include <string.h>

struct generation {
    struct lisa__run run;
    const lisa_generate_options *options;
    struct lisa__generation_host host;
    uint32_t capacity; /* rows of one pass */
};

/* Runs n <= capacity tokens behind those in the cache. */
static lisa_status feed(struct generation *g, const int32_t *tokens, uint32_t n) {
    const lisa_backend_ops *ops = g->run.be->ops;
    for (uint32_t i = 0; i < n; i++)
        g->host.positions[i] = (int32_t)(g->run.past + i);
    LISA_TRY(ops->upload(g->run.be, g->run.a->tokens, tokens, n * sizeof *tokens));
    LISA_TRY(ops->upload(g->run.be, g->run.a->positions, g->host.positions, n * sizeof *tokens));
    g->run.batch = 1;
    g->run.tokens = n;
    LISA_TRY(lisa__trunk_forward(&g->run));
    g->run.past += n;
    return LISA_OK;
}

/* Logits behind the last row of the last pass, as doubles: the backend's numbers go to the end of
 * their room and are widened from the front, which never catches up with them. */
static lisa_status last_logits(struct generation *g) {
    const lisa_backend_ops *ops = g->run.be->ops;
    const size_t vocab = g->run.model->config.vocab_size, size = g->run.model->real_size;
    double *logits = g->host.logits;
    unsigned char *narrow = (unsigned char *)logits + vocab * (sizeof *logits - size);
    const int32_t last = (int32_t)g->run.tokens - 1;
    LISA_TRY(ops->upload(g->run.be, g->run.a->head_index, &last, sizeof last));
    LISA_TRY(lisa__head_logits(&g->run));
    LISA_TRY(ops->download(g->run.be, narrow, g->run.a->logits, vocab * size));
    for (size_t i = 0; i < vocab; i++) {
        double real;
        memcpy(&real, narrow + i * size, size);
        logits[i] = lisa__load(&real, ops->real_dtype, 0);
        if (!isfinite(logits[i]))
            return lisa__blame_weights(g->run.model, "a logit");
    }
    return LISA_OK;
}

static lisa_status choose(struct generation *g, uint32_t index, int32_t *token) {
    const lisa_generate_options *o = g->options;
    const struct lisa__choice choice = {o->temperature, o->top_p, o->top_k, o->seed};
    LISA_TRY(last_logits(g));
    *token = (int32_t)lisa__choose(&choice, g->host.logits, g->run.model->config.vocab_size,
                                   g->host.ids, index);
    return LISA_OK;
}

static int ends(const lisa_generate_options *options, int32_t token) {
    int end = options->on_token != NULL && options->on_token(options->on_token_user, token) != 0;
    for (uint32_t i = 0; i < options->n_stop_tokens; i++)
        end |= options->stop_tokens[i] == token;
    return end;
}

static lisa_status generate(struct generation *g, const int32_t *prompt, uint32_t n_prompt,
                            int32_t *tokens, uint32_t *n_tokens) {
    for (uint32_t at = 0; at < n_prompt; at += g->capacity) {
        const uint32_t left = n_prompt - at;
        LISA_TRY(feed(g, prompt + at, left < g->capacity ? left : g->capacity));
    }
    for (uint32_t n = 0; n < g->options->max_new_tokens; n++) {
        if (n > 0)
            LISA_TRY(feed(g, tokens + n - 1, 1));
        LISA_TRY(choose(g, n, tokens + n));
        *n_tokens = n + 1;
        if (ends(g->options, tokens[n]))
            break;
    }
    return LISA_OK;
}

static lisa_status check_options(const lisa_generate_options *options) {
    if (options->n_stop_tokens != 0 && options->stop_tokens == NULL)
        return lisa__fail(LISA_E_INVAL, "lisa_generate_options: stop_tokens is NULL, expected %u",
                          options->n_stop_tokens);
    if (!(options->temperature >= 0) || !isfinite(options->temperature))
        return lisa__fail(LISA_E_INVAL,
                          "lisa_generate_options.temperature: %g, expected finite and >= 0",
                          options->temperature);
    if (!(options->top_p >= 0 && options->top_p <= 1))
        return lisa__fail(LISA_E_INVAL, "lisa_generate_options.top_p: %g, expected 0 to 1",
                          options->top_p);
    if (options->reserved != 0)
        return lisa__fail(LISA_E_INVAL, "lisa_generate_options.reserved: %u, expected 0",
                          options->reserved);
    return LISA_OK;
}

static lisa_status check_prompt(const lisa_model *model, const int32_t *prompt, uint32_t n_prompt,
                                const lisa_generate_options *options) {
    const lisa_model_config *c = &model->config;
    if (prompt == NULL || n_prompt == 0)
        return lisa__fail(LISA_E_INVAL, "lisa_model_generate: the prompt is empty");
    if ((uint64_t)n_prompt + options->max_new_tokens > c->max_positions)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_model_generate: %u prompt and %u new tokens, the model has %u "
                          "positions",
                          n_prompt, options->max_new_tokens, c->max_positions);
    for (uint32_t i = 0; i < n_prompt; i++)
        if (prompt[i] < 0 || (uint32_t)prompt[i] >= c->vocab_size)
            return lisa__fail(LISA_E_INVAL,
                              "lisa_model_generate: prompt[%u] is %d, expected 0 to %u", i,
                              prompt[i], c->vocab_size - 1);
    return LISA_OK;
}

static lisa_status with_memory(struct generation *g, const struct lisa__activations_shape *shape,
                               const int32_t *prompt, uint32_t n_prompt, int32_t *tokens,
                               uint32_t *n_tokens) {
    lisa_model *m = g->run.model;
    const uint64_t staging_bytes = lisa__generation_host(shape, NULL, &g->host);
    void *staging = NULL;
    struct lisa__layout layout;
    struct lisa__activations a;
    memset(&layout, 0, sizeof layout);
    lisa__activations_layout(&layout, &a, shape);
    LISA_TRY(lisa__layout_alloc(&layout, m->context));
    lisa__activations_layout(&layout, &a, shape);
    g->run.a = &a;
    lisa_status status = lisa__layout_check(&layout);
    if (status == LISA_OK)
        status = lisa__rope_tables(m, &a);
    if (status == LISA_OK)
        staging = lisa__alloc(m->context, LISA_MEM_STAGING, staging_bytes, &status);
    if (status == LISA_OK) {
        lisa__generation_host(shape, staging, &g->host);
        status = generate(g, prompt, n_prompt, tokens, n_tokens);
    }
    lisa__release(m->context, LISA_MEM_STAGING, staging, staging_bytes);
    lisa__layout_free(&layout, m->context);
    g->run.a = NULL;
    return status;
}

lisa_status lisa__generate(lisa_model *model, const int32_t *prompt, uint32_t n_prompt,
                           const lisa_generate_options *options, int32_t *tokens,
                           uint32_t *n_tokens) {
    *n_tokens = 0;
    LISA_TRY(check_options(options));
    LISA_TRY(check_prompt(model, prompt, n_prompt, options));
    LISA_TRY(lisa__model_check(model));
    const struct lisa__activations_shape shape = lisa__generation_shape(
        &model->config, model->kinds, n_prompt, n_prompt + options->max_new_tokens);
    struct generation g = {
        .run = {.model = model, .be = model->be},
        .options = options,
        .capacity = (uint32_t)shape.rows,
    };
    return with_memory(&g, &shape, prompt, n_prompt, tokens, n_tokens);
}

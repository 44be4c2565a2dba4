#include "plan/activations.h"

#include "core/dtype.h"

#include <string.h>

/* A chunk of logits aims at this many bytes of f32: large enough that the head's product runs at
 * full speed, small beside the weights. */
static const uint64_t LOGITS_BYTES = UINT64_C(48) << 20;
static const uint32_t HEAD_ROWS_LEAST = 64;

uint32_t lisa__head_rows(const lisa_model_config *config, uint64_t rows, uint32_t asked) {
    uint64_t chosen = asked;
    if (chosen == 0) {
        chosen = LOGITS_BYTES / (4u * (uint64_t)config->vocab_size);
        if (chosen < HEAD_ROWS_LEAST)
            chosen = HEAD_ROWS_LEAST;
    }
    return (uint32_t)(chosen < rows ? chosen : rows);
}

static uint64_t aligned(uint64_t bytes) {
    return (bytes + LISA__ALIGN - 1) / LISA__ALIGN * LISA__ALIGN;
}

static size_t real_size(const struct lisa__activations_shape *s) {
    return lisa__dtype_size(s->kinds.real);
}

static size_t operand_size(const struct lisa__activations_shape *s) {
    return lisa__dtype_size(s->kinds.operand);
}

static void *piece(void *base, uint64_t *offset, uint64_t count, size_t size) {
    void *at = base == NULL ? NULL : (unsigned char *)base + *offset;
    *offset += aligned(count * size);
    return at;
}

/* The pieces of one layer from `base`; their total goes to *bytes. */
static struct lisa__saved saved_pieces(const struct lisa__activations_shape *s, void *base,
                                       uint64_t *bytes) {
    const lisa_model_config *c = s->config;
    const uint64_t n = s->rows;
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim;
    const uint64_t kv = (uint64_t)c->n_kv_heads * c->head_dim;
    const uint64_t statistics = c->norm == LISA_NORM_LAYER ? 2 * n : n;
    const int cached = s->cache_rows != 0;
    const size_t operand = operand_size(s), real = real_size(s);
    struct lisa__saved out;
    memset(&out, 0, sizeof out);
    uint64_t at = 0;
    out.q = piece(base, &at, n * q, operand);
    if (!cached) {
        out.k = piece(base, &at, n * kv, operand);
        out.v = piece(base, &at, n * kv, operand);
    }
    out.attention = piece(base, &at, n * q, operand);
    out.lse = piece(base, &at, n * c->n_heads, real);
    out.norm1 = piece(base, &at, statistics, real);
    if (!c->parallel_residual) {
        out.middle = piece(base, &at, n * c->d_model, real);
        out.norm2 = piece(base, &at, statistics, real);
    }
    if (c->gated_mlp)
        out.gate = piece(base, &at, n * c->d_ff, operand);
    out.up = piece(base, &at, n * c->d_ff, operand);
    *bytes = at;
    return out;
}

static uint64_t largest(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* The pieces of the attention's turn from `base`; their total goes to *bytes. */
static struct lisa__attention_phase phase_pieces(const struct lisa__activations_shape *s,
                                                 void *base, uint64_t *bytes) {
    const lisa_model_config *c = s->config;
    const uint64_t q = s->rows * c->n_heads * c->head_dim;
    const uint64_t kv = s->rows * c->n_kv_heads * c->head_dim;
    const size_t real = real_size(s), operand = operand_size(s);
    const int backward = !s->forward_only;
    struct lisa__attention_phase out;
    const struct {
        void **to;
        uint64_t elements;
        size_t size;
        int is_needed;
    } pieces[] = {
        {&out.q_stats, s->rows * c->n_heads, real, c->qk_norm != 0},
        {&out.k_stats, s->rows * c->n_kv_heads, real, c->qk_norm != 0},
        {&out.q, q, operand, c->qk_norm && backward},
        {&out.k, kv, operand, c->qk_norm && backward},
        {&out.dq, q, operand, backward},
        {&out.dout, q, operand, backward},
        {&out.dk, kv, operand, backward},
        {&out.dv, kv, operand, backward},
    };
    *bytes = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        void *at = piece(base, bytes, pieces[i].is_needed ? pieces[i].elements : 0, pieces[i].size);
        *pieces[i].to = pieces[i].is_needed ? at : NULL;
    }
    return out;
}

struct lisa__attention_phase lisa__attention_phase(const struct lisa__activations *a) {
    uint64_t unused;
    return phase_pieces(&a->shape, a->phase, &unused);
}

/* Bytes of the buffer that the MLP and the attention of a layer use in turn. */
static uint64_t phase_bytes(const struct lisa__activations_shape *s) {
    uint64_t attention;
    phase_pieces(s, NULL, &attention);
    return largest(s->rows * s->config->d_ff * operand_size(s), attention);
}

struct classes {
    uint32_t saved, recompute, logits, workspace;
};

static void take_streams(struct lisa__layout *layout, struct lisa__activations *a,
                         const struct classes *k) {
    const struct lisa__activations_shape *s = &a->shape;
    const uint64_t width = s->config->d_model;
    const uint32_t streams = s->forward_only ? 2 : s->config->n_layers + 1;
    uint64_t layer_bytes = 0;
    saved_pieces(s, NULL, &layer_bytes);
    a->stream = lisa__take(layout, k->saved, streams, aligned(s->rows * width * real_size(s)));
    a->stored = lisa__take(layout, k->saved, s->stored_layers, layer_bytes);
    if (s->stored_layers < s->config->n_layers)
        a->recomputed = lisa__take(layout, k->recompute, 1, layer_bytes);
    if (s->cache_rows != 0)
        a->cache =
            lisa__take(layout, k->saved, 2 * (uint64_t)s->config->n_layers * s->cache_rows,
                       (uint64_t)s->config->n_kv_heads * s->config->head_dim * operand_size(s));
}

static void take_workspace(struct lisa__layout *layout, struct lisa__activations *a,
                           const struct classes *k) {
    const struct lisa__activations_shape *s = &a->shape;
    const uint64_t stream = s->rows * s->config->d_model;
    const uint32_t c = k->workspace;
    const size_t real = real_size(s);
    a->normed = lisa__take(layout, c, stream, operand_size(s));
    a->phase = lisa__take(layout, c, phase_bytes(s), 1);
    if (!s->forward_only) {
        a->dstream = lisa__take(layout, c, stream, real);
        a->dnormed = lisa__take(layout, c, stream, real);
        if (s->kinds.operand != s->kinds.real)
            a->doperand = lisa__take(layout, c, stream, operand_size(s));
    }
    if (s->config->rope != LISA_ROPE_NONE) {
        const uint64_t angles = (uint64_t)s->positions * (s->config->rotary_dim / 2);
        a->cos = lisa__take(layout, c, angles, real);
        a->sin = lisa__take(layout, c, angles, real);
    }
    a->tokens = lisa__take(layout, c, s->rows, sizeof *a->tokens);
    a->positions = lisa__take(layout, c, s->rows, sizeof *a->positions);
    a->documents = lisa__take(layout, c, s->rows, sizeof *a->documents);
}

static void take_head(struct lisa__layout *layout, struct lisa__activations *a,
                      const struct classes *k) {
    const struct lisa__activations_shape *s = &a->shape;
    const uint64_t width = s->config->d_model, rows = s->head_rows;
    const size_t real = real_size(s);
    a->head_index = lisa__take(layout, k->workspace, s->rows, sizeof *a->head_index);
    a->head_targets = lisa__take(layout, k->workspace, s->rows, sizeof *a->head_targets);
    a->head_weights = lisa__take(layout, k->workspace, s->rows, sizeof *a->head_weights);
    a->head_nll = lisa__take(layout, k->workspace, s->rows, sizeof *a->head_nll);
    a->loss = lisa__take(layout, k->workspace, 1, sizeof *a->loss);
    if (!s->forward_only)
        a->posted_loss = lisa__take(layout, LISA_MEM_HOST, 1, sizeof *a->posted_loss);
    if (s->forward_only) {
        a->head_log_probs = lisa__take(layout, k->workspace, s->rows, sizeof *a->head_log_probs);
        a->head_greedy = lisa__take(layout, k->workspace, s->rows, sizeof *a->head_greedy);
    }
    a->head_in = lisa__take(layout, k->logits, rows * width, real);
    a->head_normed = lisa__take(layout, k->logits, rows * width, operand_size(s));
    a->head_stats = lisa__take(layout, k->logits, rows * 2, real);
    a->logits = lisa__take(layout, k->logits, rows * s->config->vocab_size, real);
    if (!s->forward_only)
        a->head_din = lisa__take(layout, k->logits, rows * width, real);
}

void lisa__activations_layout(struct lisa__layout *layout, struct lisa__activations *out,
                              const struct lisa__activations_shape *shape) {
    const uint32_t e = LISA_MEM_EVALUATION;
    const struct classes training = {LISA_MEM_ACTIVATIONS, LISA_MEM_RECOMPUTE, LISA_MEM_LOGITS,
                                     LISA_MEM_WORKSPACE};
    const struct classes evaluation = {e, e, e, e};
    const struct classes *k = shape->forward_only ? &evaluation : &training;
    memset(out, 0, sizeof *out);
    out->shape = *shape;
    take_streams(layout, out, k);
    take_workspace(layout, out, k);
    take_head(layout, out, k);
}

void *lisa__stream(const struct lisa__activations *a, uint32_t layer) {
    const struct lisa__activations_shape *s = &a->shape;
    const uint64_t bytes = aligned(s->rows * s->config->d_model * real_size(s));
    return (unsigned char *)a->stream + (s->forward_only ? layer % 2 : layer) * bytes;
}

int lisa__is_stored(const struct lisa__activations *a, uint32_t layer) {
    return layer >= a->shape.config->n_layers - a->shape.stored_layers;
}

struct lisa__saved lisa__saved_at(const struct lisa__activations *a, uint32_t layer) {
    uint64_t bytes = 0;
    if (!lisa__is_stored(a, layer))
        return saved_pieces(&a->shape, a->recomputed, &bytes);
    saved_pieces(&a->shape, NULL, &bytes);
    const uint32_t first = a->shape.config->n_layers - a->shape.stored_layers;
    return saved_pieces(&a->shape, (unsigned char *)a->stored + (layer - first) * bytes, &bytes);
}

/* Keeps every size below 2^63 whatever the description says; see check_sizes. */
static const uint64_t MOST_ROWS = UINT64_C(1) << 26;

lisa_status lisa__batch_check_size(const lisa_model_config *config, uint32_t max_batch,
                                   uint32_t max_tokens) {
    if (max_batch == 0 || max_tokens == 0 || (uint64_t)max_batch * max_tokens > MOST_ROWS)
        return lisa__fail(LISA_E_INVAL, "batch: %u x %u tokens at most, expected 1 to 2^26 in all",
                          max_batch, max_tokens);
    if (max_tokens > config->max_positions)
        return lisa__fail(LISA_E_INVAL, "batch: max_tokens is %u, the model has %u positions",
                          max_tokens, config->max_positions);
    return LISA_OK;
}

static uint64_t measured(const struct lisa__activations_shape *shape) {
    struct lisa__layout layout;
    struct lisa__activations unused;
    memset(&layout, 0, sizeof layout);
    lisa__activations_layout(&layout, &unused, shape);
    uint64_t total = 0;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        total += layout.used[c];
    return layout.overflow ? UINT64_MAX : total;
}

struct lisa__activations_shape lisa__evaluation_shape(const lisa_model_config *config,
                                                      struct lisa__kinds kinds, uint32_t batch,
                                                      uint32_t tokens, uint32_t head_rows) {
    const uint64_t rows = (uint64_t)batch * tokens;
    return (struct lisa__activations_shape){
        .config = config,
        .kinds = kinds,
        .rows = rows,
        .positions = tokens,
        .head_rows = head_rows < rows ? head_rows : (uint32_t)rows,
        .forward_only = 1,
    };
}

struct lisa__activations_shape lisa__generation_shape(const lisa_model_config *config,
                                                      struct lisa__kinds kinds, uint32_t n_prompt,
                                                      uint32_t n_total) {
    const uint32_t most = 256; /* rows of the prompt in one pass */
    struct lisa__activations_shape shape =
        lisa__evaluation_shape(config, kinds, 1, n_prompt < most ? n_prompt : most, 1);
    shape.positions = n_total;
    shape.cache_rows = n_total;
    return shape;
}

uint64_t lisa__generation_host(const struct lisa__activations_shape *shape, void *base,
                               struct lisa__generation_host *out) {
    const uint64_t vocab = shape->config->vocab_size;
    uint64_t at = 0;
    out->logits = piece(base, &at, vocab, sizeof *out->logits);
    out->ids = piece(base, &at, vocab, sizeof *out->ids);
    out->positions = piece(base, &at, shape->rows, sizeof *out->positions);
    return at;
}

struct lisa__activations_shape
lisa__training_shape(const lisa_model_config *config, struct lisa__kinds kinds, uint32_t max_batch,
                     uint32_t max_tokens, const lisa_batch_options *options, uint64_t spare) {
    const uint64_t rows = (uint64_t)max_batch * max_tokens;
    const uint32_t head_rows = lisa__head_rows(config, rows, options->head_rows);
    struct lisa__activations_shape shape = {
        .config = config,
        .kinds = kinds,
        .rows = rows,
        .positions = max_tokens,
        .head_rows = head_rows,
        .stored_layers = options->activations == LISA_ACTIVATIONS_RECOMPUTE ? 0 : config->n_layers,
    };
    if (options->activations != LISA_ACTIVATIONS_AUTO)
        return shape;
    /* What a conversion and an evaluation of the same batch will want beside the training. */
    const struct lisa__activations_shape evaluation =
        lisa__evaluation_shape(config, kinds, max_batch, max_tokens, head_rows);
    const uint64_t aside = measured(&evaluation) + LISA__STAGING_BYTES;
    const uint64_t limit = spare > aside ? spare - aside : 0;
    while (shape.stored_layers > 0 && measured(&shape) > limit)
        shape.stored_layers--;
    return shape;
}

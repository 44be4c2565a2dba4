/* One transformer layer, forward and backward, for every family:
 *
 *   sequential: middle = x + attention(norm1 x);  out = middle + mlp(norm2 middle)
 *   parallel:   out = x + attention(norm1 x) + mlp(norm1 x)
 */
#include "model/run.h"

#include "core/dtype.h"

#include <math.h>

struct norm {
    const struct lisa__tensor *weight, *bias;
    void *stats;
};

static struct norm norm_of(const lisa_model *model, uint32_t layer, uint32_t role, void *stats) {
    return (struct norm){lisa__model_tensor(model, layer, role),
                         lisa__model_tensor(model, layer, role + 1), stats};
}

static uint32_t rows_of(const struct lisa__run *run) {
    return run->batch * run->tokens;
}

static lisa_norm norm_op(const struct lisa__run *run, const struct norm *n, const void *x) {
    const lisa_model_config *c = &run->model->config;
    return (lisa_norm){
        .kind = c->norm,
        .rows = rows_of(run),
        .segments = 1,
        .cols = c->d_model,
        .eps = c->norm_eps,
        .x = lisa__real(run, x),
        .ldx = c->d_model,
        .weight = n->weight->value,
        .bias = n->bias != NULL ? n->bias->value : (lisa_typed){NULL, 0},
        .stats = n->stats,
    };
}

/* a->normed = norm(x); copy (or NULL) = x. */
static lisa_status norm_forward(const struct lisa__run *run, const struct norm *n, const void *x,
                                void *copy) {
    lisa_norm op = norm_op(run, n, x);
    op.y = lisa__operand(run, run->a->normed);
    op.ldy = op.cols;
    op.copy = copy;
    return run->be->ops->norm_forward(run->be, &op);
}

/* dstream += the gradient through a layer's norm of dnormed. */
static lisa_status norm_backward(const struct lisa__run *run, uint32_t layer, uint32_t role,
                                 void *stats, const void *x) {
    const struct norm norm = norm_of(run->model, layer, role, stats), *n = &norm;
    lisa_norm op = norm_op(run, n, x);
    op.dy = lisa__real(run, run->a->dnormed);
    op.lddy = op.cols;
    op.dx = lisa__real(run, run->a->dstream);
    op.lddx = op.cols;
    op.operand = lisa__operand(run, run->a->doperand);
    op.accumulate = 1;
    op.dweight = n->weight->gradient;
    op.dbias = n->bias != NULL ? n->bias->gradient : NULL;
    LISA_TRY(run->be->ops->norm_backward(run->be, &op));
    return lisa__gradients_whole(run->model, layer, role);
}

static lisa_status map_forward(const struct lisa__run *run, uint32_t layer, uint32_t role,
                               const void *x, lisa_typed y, int accumulate) {
    const struct lisa__linear l = lisa__linear_of(run->model, layer, role);
    return lisa__linear_forward(run, &l, lisa__operand(run, x), y, accumulate, rows_of(run));
}

/* lisa__linear_backward of a layer's map, after which nothing needs its weight. */
static lisa_status map_backward(const struct lisa__run *run, uint32_t layer, uint32_t role,
                                const void *x, lisa_typed dy, lisa_typed dx, int accumulate) {
    const struct lisa__linear l = lisa__linear_of(run->model, layer, role);
    LISA_TRY(
        lisa__linear_backward(run, &l, lisa__operand(run, x), dy, dx, accumulate, rows_of(run)));
    return lisa__gradients_whole(run->model, layer, role);
}

/* What attention reads of a pass: queries, keys and values, behind the rows of a KV cache. */
struct heads {
    void *q, *k, *v;
    void *first_k, *first_v; /* where keys and values begin, rows before the pass included */
};

static struct heads heads_of(const struct lisa__run *run, uint32_t layer,
                             const struct lisa__saved *s) {
    const lisa_model_config *c = &run->model->config;
    const uint32_t capacity = run->a->shape.cache_rows;
    if (capacity == 0) {
        const struct lisa__attention_phase p = lisa__attention_phase(run->a);
        void *q = p.q != NULL ? p.q : s->q, *k = p.k != NULL ? p.k : s->k;
        return (struct heads){q, k, s->v, k, s->v};
    }
    const size_t row =
        (size_t)c->n_kv_heads * c->head_dim * lisa__dtype_size(run->model->kinds.operand);
    unsigned char *k = (unsigned char *)run->a->cache + (size_t)layer * capacity * row;
    unsigned char *v = k + (size_t)c->n_layers * capacity * row;
    return (struct heads){s->q, k + run->past * row, v + run->past * row, k, v};
}

/* Each head is a vector of its own, of one weight. */
static lisa_norm head_norm_op(const struct lisa__run *run, uint32_t layer, uint32_t role,
                              const void *x) {
    const lisa_model_config *c = &run->model->config;
    const struct lisa__attention_phase p = lisa__attention_phase(run->a);
    const int is_q = role == LISA__Q_NORM_W;
    lisa_norm op = {
        .kind = LISA_NORM_RMS,
        .rows = rows_of(run),
        .segments = is_q ? c->n_heads : c->n_kv_heads,
        .cols = c->head_dim,
        .eps = c->norm_eps,
        .x = lisa__operand(run, x),
        .weight = lisa__model_tensor(run->model, layer, role)->value,
        .stats = is_q ? p.q_stats : p.k_stats,
    };
    op.ldx = op.ldy = op.lddx = op.lddy = (size_t)op.segments * op.cols;
    return op;
}

static lisa_status head_norm_forward(const struct lisa__run *run, uint32_t layer, uint32_t role,
                                     const void *x, void *y) {
    lisa_norm op = head_norm_op(run, layer, role, x);
    op.y = lisa__operand(run, y);
    return run->be->ops->norm_forward(run->be, &op);
}

/* In place of the gradient. */
static lisa_status head_norm_backward(const struct lisa__run *run, uint32_t layer, uint32_t role,
                                      const void *x, void *gradient) {
    lisa_norm op = head_norm_op(run, layer, role, x);
    op.dy = op.dx = lisa__operand(run, gradient);
    op.dweight = lisa__model_tensor(run->model, layer, role)->gradient;
    return run->be->ops->norm_backward(run->be, &op);
}

/* Queries and keys. */
static lisa_status rotate(const struct lisa__run *run, void *q, void *k, int inverse) {
    const lisa_model_config *c = &run->model->config;
    if (c->rope == LISA_ROPE_NONE)
        return LISA_OK;
    const lisa_rope op = {
        .rows = rows_of(run),
        .heads = c->n_heads,
        .head_dim = c->head_dim,
        .rotary_dim = c->rotary_dim,
        .x = lisa__operand(run, q),
        .ldx = (size_t)c->n_heads * c->head_dim,
        .also = k,
        .ldalso = (size_t)c->n_kv_heads * c->head_dim,
        .also_heads = c->n_kv_heads,
        .cos = run->a->cos,
        .sin = run->a->sin,
        .position = run->a->positions,
        .inverse = inverse ? 1 : 0,
    };
    return run->be->ops->rope(run->be, &op);
}

/* From the projections to what attention reads. */
static lisa_status finish_heads(const struct lisa__run *run, uint32_t layer, const void *q,
                                const void *k, const struct heads *to) {
    const lisa_model_config *c = &run->model->config;
    if (c->qk_norm) {
        LISA_TRY(head_norm_forward(run, layer, LISA__Q_NORM_W, q, to->q));
        LISA_TRY(head_norm_forward(run, layer, LISA__K_NORM_W, k, to->k));
    }
    return rotate(run, to->q, to->k, 0);
}

static lisa_attention attention_op(const struct lisa__run *run, const struct lisa__saved *s,
                                   const struct heads *heads) {
    const lisa_model_config *c = &run->model->config;
    const size_t kv = (size_t)c->n_kv_heads * c->head_dim;
    const size_t q = (size_t)c->n_heads * c->head_dim;
    const uint32_t n_keys = run->past + run->tokens;
    return (lisa_attention){
        .dtype = run->model->kinds.operand,
        .batch = run->batch,
        .n_queries = run->tokens,
        .n_keys = n_keys,
        .key_stride = run->a->shape.cache_rows != 0 ? run->a->shape.cache_rows : n_keys,
        .heads = c->n_heads,
        .kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .window = c->sliding_window,
        .scale = 1 / sqrt((double)c->head_dim),
        .documents = run->has_documents ? run->a->documents : NULL,
        .q = heads->q,
        .k = heads->first_k,
        .v = heads->first_v,
        .ldq = q,
        .ldk = kv,
        .ldv = kv,
        .out = s->attention,
        .ldout = q,
        .lse = s->lse,
    };
}

static lisa_status attention_forward(const struct lisa__run *run, uint32_t layer,
                                     const struct lisa__saved *s) {
    const struct heads heads = heads_of(run, layer, s);
    void *k = s->k != NULL ? s->k : heads.k;
    const struct {
        uint32_t role;
        void *to;
    } projections[] = {{LISA__Q_W, s->q}, {LISA__K_W, k}, {LISA__V_W, heads.v}};
    for (int i = 0; i < 3; i++) {
        LISA_TRY(map_forward(run, layer, projections[i].role, run->a->normed,
                             lisa__operand(run, projections[i].to), 0));
    }
    LISA_TRY(finish_heads(run, layer, s->q, k, &heads));
    const lisa_attention op = attention_op(run, s, &heads);
    return run->be->ops->attention_forward(run->be, &op);
}

/* The MLP's hidden activation, [N, F], from what was saved. */
static lisa_status hidden(const struct lisa__run *run, const struct lisa__saved *s) {
    const lisa_model_config *c = &run->model->config;
    const lisa_activation op = {
        .kind = c->activation,
        .dtype = run->model->kinds.operand,
        .n = (size_t)rows_of(run) * c->d_ff,
        .gate = c->gated_mlp ? s->gate : s->up,
        .up = c->gated_mlp ? s->up : NULL,
        .y = run->a->phase,
    };
    return run->be->ops->activation_forward(run->be, &op);
}

static lisa_status mlp_in(const struct lisa__run *run, uint32_t layer,
                          const struct lisa__saved *s) {
    const void *x = run->a->normed;
    if (run->model->config.gated_mlp)
        LISA_TRY(map_forward(run, layer, LISA__GATE_W, x, lisa__operand(run, s->gate), 0));
    return map_forward(run, layer, LISA__UP_W, x, lisa__operand(run, s->up), 0);
}

/* to += the MLP's part. */
static lisa_status mlp_out(const struct lisa__run *run, uint32_t layer, const struct lisa__saved *s,
                           void *to) {
    LISA_TRY(hidden(run, s));
    return map_forward(run, layer, LISA__DOWN_W, run->a->phase, lisa__real(run, to), 1);
}

lisa_status lisa__block_forward(const struct lisa__run *run, uint32_t layer, int rebuild) {
    const lisa_model *m = run->model;
    const struct lisa__saved s = lisa__saved_at(run->a, layer);
    const int parallel = m->config.parallel_residual != 0;
    void *x = lisa__stream(run->a, layer), *out = rebuild ? NULL : lisa__stream(run->a, layer + 1);
    /* Attention adds to what comes between it and the MLP; where nothing does, to the output. */
    void *sum = parallel ? out : s.middle;
    const struct norm norm1 = norm_of(m, layer, LISA__ATTN_NORM_W, s.norm1);
    LISA_TRY(norm_forward(run, &norm1, x, sum));
    LISA_TRY(attention_forward(run, layer, &s));
    if (sum != NULL)
        LISA_TRY(map_forward(run, layer, LISA__O_W, s.attention, lisa__real(run, sum), 1));
    if (!parallel) {
        const struct norm norm2 = norm_of(m, layer, LISA__MLP_NORM_W, s.norm2);
        LISA_TRY(norm_forward(run, &norm2, s.middle, out));
    }
    LISA_TRY(mlp_in(run, layer, &s));
    return rebuild ? LISA_OK : mlp_out(run, layer, &s, out);
}

/* The MLP's part of dnormed from dstream. normed holds its input where the layer trains. */
static lisa_status mlp_backward(const struct lisa__run *run, uint32_t layer,
                                const struct lisa__saved *s) {
    const lisa_model_config *c = &run->model->config;
    const struct lisa__activations *a = run->a;
    const struct lisa__linear down = lisa__linear_of(run->model, layer, LISA__DOWN_W);
    if (lisa__linear_trains(&down))
        LISA_TRY(hidden(run, s));
    /* The gradient of `hidden` may take its place: weight_gradient has read it by then. */
    LISA_TRY(map_backward(run, layer, LISA__DOWN_W, a->phase, lisa__dstream_operand(run),
                          lisa__operand(run, a->phase), 0));
    const lisa_activation op = {
        .kind = c->activation,
        .dtype = run->model->kinds.operand,
        .n = (size_t)rows_of(run) * c->d_ff,
        .gate = c->gated_mlp ? s->gate : s->up,
        .up = c->gated_mlp ? s->up : NULL,
        .dy = a->phase,
        .dgate = c->gated_mlp ? s->gate : s->up,
        .dup = c->gated_mlp ? s->up : NULL,
    };
    LISA_TRY(run->be->ops->activation_backward(run->be, &op));
    const lisa_typed dnormed = lisa__real(run, a->dnormed);
    LISA_TRY(
        map_backward(run, layer, LISA__UP_W, a->normed, lisa__operand(run, s->up), dnormed, 0));
    if (!c->gated_mlp)
        return LISA_OK;
    return map_backward(run, layer, LISA__GATE_W, a->normed, lisa__operand(run, s->gate), dnormed,
                        1);
}

/* The attention's part of dnormed from dstream. normed as above. */
static lisa_status attention_backward(const struct lisa__run *run, uint32_t layer,
                                      const struct lisa__saved *s, int accumulate) {
    const lisa_model_config *c = &run->model->config;
    const size_t q = (size_t)c->n_heads * c->head_dim, kv = (size_t)c->n_kv_heads * c->head_dim;
    const struct lisa__attention_phase p = lisa__attention_phase(run->a);
    const struct heads heads = heads_of(run, layer, s);

    if (c->qk_norm)
        LISA_TRY(finish_heads(run, layer, s->q, s->k, &heads));
    LISA_TRY(map_backward(run, layer, LISA__O_W, s->attention, lisa__dstream_operand(run),
                          lisa__operand(run, p.dout), 0));
    lisa_attention op = attention_op(run, s, &heads);
    op.dout = p.dout;
    op.lddout = q;
    op.dq = p.dq;
    op.dk = p.dk;
    op.dv = p.dv;
    op.lddq = q;
    op.lddk = op.lddv = kv;
    LISA_TRY(run->be->ops->attention_backward(run->be, &op));
    LISA_TRY(rotate(run, p.dq, p.dk, 1));
    if (c->qk_norm) {
        LISA_TRY(head_norm_backward(run, layer, LISA__Q_NORM_W, s->q, p.dq));
        LISA_TRY(head_norm_backward(run, layer, LISA__K_NORM_W, s->k, p.dk));
        LISA_TRY(lisa__gradients_whole(run->model, layer, LISA__Q_NORM_W));
    }
    const struct {
        uint32_t role;
        void *from;
    } projections[] = {{LISA__Q_W, p.dq}, {LISA__K_W, p.dk}, {LISA__V_W, p.dv}};
    for (int i = 0; i < 3; i++)
        LISA_TRY(map_backward(run, layer, projections[i].role, run->a->normed,
                              lisa__operand(run, projections[i].from),
                              lisa__real(run, run->a->dnormed), accumulate || i > 0));
    return lisa__gradients_whole(run->model, layer, LISA__QKV_W);
}

lisa_status lisa__block_backward(const struct lisa__run *run, uint32_t layer) {
    const lisa_model *m = run->model;
    const struct lisa__saved s = lisa__saved_at(run->a, layer);
    const int parallel = m->config.parallel_residual != 0;
    const int active = lisa__group_trains(m, 1 + layer);
    void *x = lisa__stream(run->a, layer);
    const struct norm norm1 = norm_of(m, layer, LISA__ATTN_NORM_W, s.norm1);
    if (!lisa__is_stored(run->a, layer))
        LISA_TRY(lisa__block_forward(run, layer, 1));
    if (!parallel) {
        const struct norm norm2 = norm_of(m, layer, LISA__MLP_NORM_W, s.norm2);
        if (active)
            LISA_TRY(norm_forward(run, &norm2, s.middle, NULL));
        LISA_TRY(mlp_backward(run, layer, &s));
        LISA_TRY(norm_backward(run, layer, LISA__MLP_NORM_W, s.norm2, s.middle));
    }
    if (active)
        LISA_TRY(norm_forward(run, &norm1, x, NULL));
    if (parallel)
        LISA_TRY(mlp_backward(run, layer, &s));
    LISA_TRY(attention_backward(run, layer, &s, parallel));
    return norm_backward(run, layer, LISA__ATTN_NORM_W, s.norm1, x);
}

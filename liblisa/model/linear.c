#include "model/run.h"

#include "core/dtype.h"
#include "model/adapter.h"

/* The bias role stands right behind its weight's. */
static struct lisa__linear whole(const lisa_model *model, uint32_t layer, uint32_t role,
                                 uint32_t n_in, uint32_t n_out) {
    struct lisa__linear l = {
        .weight = lisa__model_tensor(model, layer, role),
        .bias = lisa__model_tensor(model, layer, role + 1),
        .n_in = n_in,
        .n_out = n_out,
        .ld_out = n_out,
        .total_out = n_out,
        .transposed = model->family->conv1d && role < LISA__BLOCK_ROLES,
    };
    lisa__adapter_join(&l, model, layer, role);
    return l;
}

static struct lisa__linear part_of_fused(const lisa_model *model, uint32_t layer, uint32_t first,
                                         uint32_t n_out) {
    const lisa_model_config *c = &model->config;
    struct lisa__linear l = whole(model, layer, LISA__QKV_W, c->d_model, n_out);
    l.first_out = first;
    l.total_out = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    return l;
}

struct lisa__linear lisa__linear_of(const lisa_model *model, uint32_t layer, uint32_t role) {
    const lisa_model_config *c = &model->config;
    const uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int fused = model->family->names[LISA__QKV_W] != NULL;
    switch (role) {
    case LISA__Q_W:
        return fused ? part_of_fused(model, layer, 0, q) : whole(model, layer, role, c->d_model, q);
    case LISA__K_W:
        return fused ? part_of_fused(model, layer, q, kv)
                     : whole(model, layer, role, c->d_model, kv);
    case LISA__V_W:
        return fused ? part_of_fused(model, layer, q + kv, kv)
                     : whole(model, layer, role, c->d_model, kv);
    case LISA__O_W:
        return whole(model, layer, role, q, c->d_model);
    case LISA__DOWN_W:
        return whole(model, layer, role, c->d_ff, c->d_model);
    case LISA__HEAD_W: {
        struct lisa__linear head = whole(model, layer, role, c->d_model, c->vocab_size);
        if (c->tied_head)
            head.weight = lisa__model_tensor(model, layer, LISA__EMBED_W);
        return head;
    }
    default: /* gate and up */
        return whole(model, layer, role, c->d_model, c->d_ff);
    }
}

static void *at(void *base, uint64_t elements, size_t size) {
    return (unsigned char *)base + elements * size;
}

/* Where output `first_out` begins in the stored matrix. */
static uint64_t weight_offset(const struct lisa__linear *l) {
    return l->transposed ? l->first_out : (uint64_t)l->first_out * l->n_in;
}

static lisa_typed weight_of(const struct lisa__linear *l) {
    const lisa_typed w = l->weight->value;
    return (lisa_typed){at(w.data, weight_offset(l), lisa__dtype_size(w.dtype)), w.dtype};
}

static size_t weight_stride(const struct lisa__linear *l) {
    return l->transposed ? l->total_out : l->n_in;
}

static lisa_status add_bias(const struct lisa__run *run, const struct lisa__linear *l, lisa_typed y,
                            uint32_t rows) {
    const lisa_typed b = l->bias->value;
    const lisa_bias bias = {
        .rows = rows,
        .cols = l->n_out,
        .y = y,
        .ldy = l->ld_out,
        .bias = {at(b.data, l->first_out, lisa__dtype_size(b.dtype)), b.dtype},
    };
    return run->be->ops->bias_forward(run->be, &bias);
}

lisa_status lisa__linear_forward(const struct lisa__run *run, const struct lisa__linear *l,
                                 lisa_typed x, lisa_typed y, int accumulate, uint32_t rows) {
    const lisa_gemm product = {
        .m = rows,
        .n = l->n_out,
        .k = l->n_in,
        .trans_b = !l->transposed,
        .a = x,
        .lda = l->n_in,
        .b = weight_of(l),
        .ldb = weight_stride(l),
        .c = y,
        .ldc = l->ld_out,
        .alpha = 1,
        .beta = accumulate ? 1 : 0,
    };
    LISA_TRY(run->be->ops->gemm(run->be, &product));
    if (l->bias != NULL)
        LISA_TRY(add_bias(run, l, y, rows));
    return l->lora_a == NULL ? LISA_OK : lisa__lora_forward(run, l, x, y, rows);
}

int lisa__linear_trains(const struct lisa__linear *l) {
    return l->weight->gradient != NULL || (l->lora_a != NULL && l->lora_a->gradient != NULL);
}

/* dW[out, in] += dy^T x, or dW[in, out] += x^T dy where stored so. */
static lisa_status weight_gradient(const struct lisa__run *run, const struct lisa__linear *l,
                                   lisa_typed x, lisa_typed dy, uint32_t rows) {
    const lisa_gemm product = {
        .m = l->transposed ? l->n_in : l->n_out,
        .n = l->transposed ? l->n_out : l->n_in,
        .k = rows,
        .trans_a = 1,
        .a = l->transposed ? x : dy,
        .lda = l->transposed ? l->n_in : l->ld_out,
        .b = l->transposed ? dy : x,
        .ldb = l->transposed ? l->ld_out : l->n_in,
        .c = lisa__real(run, at(l->weight->gradient, weight_offset(l), run->model->real_size)),
        .ldc = weight_stride(l),
        .alpha = 1,
        .beta = 1,
    };
    return run->be->ops->gemm(run->be, &product);
}

static lisa_status bias_gradient(const struct lisa__run *run, const struct lisa__linear *l,
                                 lisa_typed dy, uint32_t rows) {
    const lisa_bias bias = {
        .rows = rows,
        .cols = l->n_out,
        .y = dy,
        .ldy = l->ld_out,
        .dbias = at(l->bias->gradient, l->first_out, run->model->real_size),
    };
    return run->be->ops->bias_backward(run->be, &bias);
}

lisa_status lisa__linear_backward(const struct lisa__run *run, const struct lisa__linear *l,
                                  lisa_typed x, lisa_typed dy, lisa_typed dx, int accumulate,
                                  uint32_t rows) {
    if (l->weight->gradient != NULL)
        LISA_TRY(weight_gradient(run, l, x, dy, rows));
    if (l->bias != NULL && l->bias->gradient != NULL)
        LISA_TRY(bias_gradient(run, l, dy, rows));
    /* Before x, whose place dx may take, is written over. */
    if (l->lora_a != NULL)
        LISA_TRY(lisa__lora_backward(run, l, x, dy, dx, accumulate, rows));
    if (dx.data == NULL)
        return LISA_OK;
    const lisa_gemm product = {
        .m = rows,
        .n = l->n_in,
        .k = l->n_out,
        .trans_b = l->transposed,
        .a = dy,
        .lda = l->ld_out,
        .b = weight_of(l),
        .ldb = weight_stride(l),
        .c = dx,
        .ldc = l->n_in,
        .alpha = 1,
        .beta = accumulate || l->lora_a != NULL ? 1 : 0,
    };
    return run->be->ops->gemm(run->be, &product);
}

/* An adapter's s B A, added to the base's weights. */
#include "core/dtype.h"
#include "model/adapter.h"
#include "model/fill.h"

#include <math.h>
#include <string.h>

/* Values of a tile. Four buffers of as many doubles are the staging of a merge. */
enum { TILE = 1 << 17 };
_Static_assert(sizeof(double) * 4 * TILE == LISA__STAGING_BYTES, "a merge's staging is planned");

struct merge {
    lisa_adapter *adapter;
    double *weights, *deltas;
    void *staging; /* what a conversion needs */
    void *product; /* on the device */
    int writes;    /* 0: only whether every sum is finite */
};

/* One adapted map: its stored matrix [rows, cols], A and B. */
struct target {
    struct lisa__tensor *weight;
    const char *name;
    uint64_t rows, cols;
    uint64_t n_in;
    lisa_typed a, b;
    int transposed;
};

/* A piece of the matrix that is contiguous: whole rows, or a part of one. */
struct tile {
    uint64_t row, col, rows, cols;
};

static struct target target_of(const lisa_adapter *adapter, uint32_t index) {
    const lisa_model *m = adapter->model;
    const struct lisa__tensor_desc *a = &adapter->own.descs[index];
    struct lisa__tensor *weight = lisa__model_tensor(m, a->group - 1, a->role);
    const struct lisa__tensor_desc *d = &m->base.descs[weight - m->base.tensors];
    return (struct target){
        .weight = weight,
        .name = d->name,
        .rows = d->shape[0],
        .cols = d->shape[1],
        .n_in = a->shape[1],
        .a = adapter->own.tensors[index].value,
        .b = adapter->own.tensors[index + 1].value,
        .transposed = m->family->conv1d && a->role < LISA__BLOCK_ROLES,
    };
}

/* The tile of s B A, or of its transpose where the matrix is stored so. */
static lisa_status multiply(const struct merge *m, const struct target *t, const struct tile *k) {
    const lisa_model *model = m->adapter->model;
    const uint32_t rank = m->adapter->options.rank;
    const uint64_t row = t->transposed ? k->row : k->row * rank;
    const uint64_t col = t->transposed ? k->col * rank : k->col;
    const lisa_gemm op = {
        .m = (uint32_t)k->rows,
        .n = (uint32_t)k->cols,
        .k = rank,
        .trans_a = (uint32_t)t->transposed,
        .trans_b = (uint32_t)t->transposed,
        .a = lisa__values_from(t->transposed ? &t->a : &t->b, row),
        .lda = t->transposed ? t->n_in : rank,
        .b = lisa__values_from(t->transposed ? &t->b : &t->a, col),
        .ldb = t->transposed ? rank : t->n_in,
        .c = {m->product, model->kinds.real},
        .ldc = k->cols,
        .alpha = lisa__lora_scale(&m->adapter->options),
    };
    return model->be->ops->gemm(model->be, &op);
}

/* weights[i] + deltas[i] as the weight's type, in place of the deltas: an addition in fp32. Double
 * has more than twice float's bits, so that a sum of floats rounded to it first rounds to the same
 * float, and a store to 16 bits rounds to float on its way. */
static lisa_status add(const struct merge *m, const struct target *t, uint64_t n) {
    const uint32_t dtype = t->weight->value.dtype;
    for (uint64_t i = 0; i < n; i++) {
        lisa__store(m->deltas, dtype, i, m->weights[i] + m->deltas[i]);
        if (!isfinite(lisa__load(m->deltas, dtype, i)))
            return lisa__fail(LISA_E_NONFINITE,
                              "lisa_adapter_merge: tensor \"%s\" would not be finite as %s",
                              t->name, lisa_dtype_name(dtype));
    }
    return LISA_OK;
}

static lisa_status merge_tile(const struct merge *m, const struct target *t, const struct tile *k) {
    lisa_model *model = m->adapter->model;
    const lisa_typed product = {m->product, model->be->ops->real_dtype};
    const uint64_t n = k->rows * k->cols, begin = k->row * t->cols + k->col;
    const size_t size = lisa__dtype_size(t->weight->value.dtype);
    LISA_TRY(multiply(m, t, k));
    LISA_TRY(lisa__typed_get_staged(model, &product, 0, n, m->deltas, LISA_DTYPE_F64, m->staging));
    LISA_TRY(lisa__typed_get_staged(model, &t->weight->value, begin, n, m->weights, LISA_DTYPE_F64,
                                    m->staging));
    LISA_TRY(add(m, t, n));
    if (!m->writes)
        return lisa__poll(model->context);
    t->weight->changed = 1;
    return model->be->ops->upload(model->be, (unsigned char *)t->weight->value.data + begin * size,
                                  m->deltas, n * size);
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static lisa_status merge_target(const struct merge *m, const struct target *t) {
    const uint64_t rows = t->cols < TILE ? TILE / t->cols : 1;
    for (uint64_t row = 0; row < t->rows; row += rows)
        for (uint64_t col = 0; col < t->cols; col += TILE) {
            const struct tile k = {row, col, least(rows, t->rows - row),
                                   least(TILE, t->cols - col)};
            LISA_TRY(merge_tile(m, t, &k));
        }
    return LISA_OK;
}

static lisa_status merge_all(const struct merge *m) {
    for (uint32_t i = 0; i < m->adapter->own.n; i += 2) {
        const struct target t = target_of(m->adapter, i);
        LISA_TRY(merge_target(m, &t));
    }
    return LISA_OK;
}

static lisa_status each_group(const lisa_adapter *adapter,
                              lisa_status (*act)(lisa_model *model, uint32_t group)) {
    for (uint32_t i = 0; i < adapter->own.n; i += 2)
        LISA_TRY(act(adapter->model, adapter->own.descs[i].group));
    return LISA_OK;
}

/* Nothing moves before there is memory for all of it; on failure the model holds what it held. */
static lisa_status make_writable(const lisa_adapter *adapter) {
    lisa_model *model = adapter->model;
    uint32_t before[LISA__PARTS];
    memcpy(before, model->reserved, sizeof before);
    const lisa_status status = each_group(adapter, lisa__reserve_group);
    if (status != LISA_OK)
        lisa__model_unreserve(model, before);
    return status == LISA_OK ? each_group(adapter, lisa__make_writable) : status;
}

/* Everything that can fail is done before the first weight changes. */
static lisa_status merge(struct merge *m) {
    struct lisa__parameters *base = &m->adapter->model->base;
    LISA_TRY(merge_all(m));
    LISA_TRY(make_writable(m->adapter));
    m->writes = 1;
    m->adapter->model->version++;
    LISA_TRY(lisa__change_begin(base, "a merge"));
    return lisa__change_end(base, merge_all(m));
}

lisa_status lisa__adapter_merge(lisa_adapter *adapter) {
    lisa_model *model = adapter->model;
    const uint64_t bytes = TILE * sizeof(double);
    struct merge m = {.adapter = adapter};
    lisa_status status;
    if (model->optimizer != NULL)
        return lisa__fail(LISA_E_STATE, "lisa_adapter_merge: the model has an optimizer");
    LISA_TRY(lisa__model_check(model));
    LISA_TRY(lisa__parameters_check(&adapter->own));
    m.weights = lisa__alloc(model->context, LISA_MEM_STAGING, 3 * bytes, &status);
    if (m.weights == NULL)
        return status;
    m.deltas = m.weights + TILE;
    m.staging = m.deltas + TILE;
    status = model->be->ops->alloc(model->be, &m.product, LISA_MEM_STAGING, bytes);
    if (status == LISA_OK) {
        status = merge(&m);
        model->be->ops->release(model->be, m.product, LISA_MEM_STAGING, bytes);
    }
    lisa__release(model->context, LISA_MEM_STAGING, m.weights, 3 * bytes);
    if (status == LISA_OK && model->adapter == adapter)
        lisa__adapter_attach(model, NULL);
    return status;
}

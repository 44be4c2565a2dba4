#include "model/adapter.h"

#include "core/dtype.h"
#include "model/fill.h"

#include <math.h>
#include <string.h>

/* Dropout takes the streams below. */
static const uint64_t INIT_STREAMS = UINT64_C(1) << 63;

static lisa_status alloc_tables(lisa_adapter *a) {
    lisa_context *context = a->model->context;
    lisa_status status = LISA_OK;
    a->own.n = lisa__lora_count(&a->options, &a->model->config);
    a->own.descs = lisa__alloc(context, LISA_MEM_HANDLES, a->own.n * sizeof *a->own.descs, &status);
    if (a->own.descs == NULL)
        return status;
    a->own.tensors =
        lisa__alloc(context, LISA_MEM_HANDLES, a->own.n * sizeof *a->own.tensors, &status);
    if (a->own.tensors == NULL)
        return status;
    memset(a->own.tensors, 0, a->own.n * sizeof *a->own.tensors);
    return lisa__lora_list(&a->options, &a->model->config, a->model->kinds.operand, a->own.descs);
}

static lisa_status alloc_values(lisa_adapter *a) {
    lisa_context *context = a->model->context;
    const uint64_t bytes = a->own.n * sizeof(void *);
    lisa_status status;
    void **values = lisa__alloc(context, LISA_MEM_HANDLES, bytes, &status);
    if (values == NULL)
        return status;
    lisa__lora_layout(&a->layout, NULL, &a->workspace, a->own.descs, a->own.n, &a->options,
                      lisa__dtype_size(a->model->kinds.operand));
    status = lisa__layout_alloc(&a->layout, context);
    if (status == LISA_OK) {
        lisa__lora_layout(&a->layout, values, &a->workspace, a->own.descs, a->own.n, &a->options,
                          lisa__dtype_size(a->model->kinds.operand));
        status = lisa__layout_check(&a->layout);
    }
    for (uint32_t i = 0; i < a->own.n && status == LISA_OK; i++) {
        a->own.tensors[i].value = (lisa_typed){values[i], a->own.descs[i].dtype};
        a->own.tensors[i].file_dtype = LISA_DTYPE_F32;
        status = a->model->be->ops->zero(a->model->be, values[i],
                                         a->own.descs[i].n_elements *
                                             lisa__dtype_size(a->model->kinds.operand));
    }
    lisa__release(context, LISA_MEM_HANDLES, values, bytes);
    return status;
}

lisa_status lisa__adapter_make(lisa_adapter **out, lisa_model *model,
                               const lisa_adapter_options *options) {
    LISA_TRY(lisa__lora_check(options, &model->config));
    lisa_status status;
    lisa_adapter *a = lisa__alloc(model->context, LISA_MEM_HANDLES, sizeof *a, &status);
    if (a == NULL)
        return status;
    memset(a, 0, sizeof *a);
    a->references = 1;
    a->model = lisa__model_retain(model);
    a->options = *options;
    status = alloc_tables(a);
    if (status == LISA_OK)
        status = alloc_values(a);
    if (status != LISA_OK) {
        lisa__adapter_release(a);
        return status;
    }
    *out = a;
    return LISA_OK;
}

/* PEFT's kaiming_uniform(a = sqrt(5)) is this. */
static lisa_status fill_a(lisa_adapter *a, uint32_t index) {
    const struct lisa__tensor_desc *d = &a->own.descs[index];
    return lisa__fill_uniform(a->model, &a->own.tensors[index].value, d->n_elements,
                              1 / sqrt((double)d->shape[1]), a->options.seed, INIT_STREAMS + index);
}

lisa_status lisa__adapter_create(lisa_adapter **out, lisa_model *model,
                                 const lisa_adapter_options *options) {
    lisa_adapter *a;
    lisa_status status = LISA_OK;
    LISA_TRY(lisa__adapter_make(&a, model, options));
    for (uint32_t i = 0; i < a->own.n && status == LISA_OK; i += 2)
        status = fill_a(a, i);
    if (status != LISA_OK) {
        lisa__adapter_release(a);
        return status;
    }
    *out = a;
    return LISA_OK;
}

lisa_adapter *lisa__adapter_retain(lisa_adapter *adapter) {
    adapter->references++;
    return adapter;
}

void lisa__adapter_release(lisa_adapter *a) {
    if (a == NULL || --a->references != 0)
        return;
    lisa_model *model = a->model;
    lisa_context *context = model->context;
    lisa__layout_free(&a->layout, context);
    lisa__release(context, LISA_MEM_HANDLES, a->config, a->config_bytes);
    lisa__release(context, LISA_MEM_HANDLES, a->own.tensors, a->own.n * sizeof *a->own.tensors);
    lisa__release(context, LISA_MEM_HANDLES, a->own.descs, a->own.n * sizeof *a->own.descs);
    lisa__release(context, LISA_MEM_HANDLES, a, sizeof *a);
    lisa__model_release(model);
}

void lisa__adapter_attach(lisa_model *model, lisa_adapter *adapter) {
    if (model->adapter == adapter)
        return;
    model->adapter = adapter;
    model->version++;
}

void lisa__adapter_join(struct lisa__linear *l, const lisa_model *model, uint32_t layer,
                        uint32_t role) {
    const lisa_adapter *a = model->adapter;
    if (a == NULL)
        return;
    for (uint32_t i = 0; i < a->own.n; i += 2) {
        const struct lisa__tensor_desc *d = &a->own.descs[i];
        if (d->role != role || (role < LISA__BLOCK_ROLES && d->group != 1 + layer))
            continue;
        l->lora_a = &a->own.tensors[i];
        l->lora_b = &a->own.tensors[i + 1];
        l->site = i;
    }
}

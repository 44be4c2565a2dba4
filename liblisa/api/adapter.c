#include "model/adapter.h"

#include "api/check.h"
#include "api/options.h"
#include "api/tensors.h"
#include "core/options.h"
#include "model/fill.h"

#include <math.h>

lisa_status lisa_adapter_options_init(lisa_adapter_options *options, size_t struct_size) {
    LISA_TRY(lisa__options_init(options, struct_size, sizeof *options, "lisa_adapter_options"));
    options->rank = 8;
    options->alpha = 8;
    options->targets = LISA_TARGET_Q | LISA_TARGET_V;
    return LISA_OK;
}

lisa_status lisa__adapter_options_read(lisa_adapter_options *own,
                                       const lisa_adapter_options *given) {
    LISA_TRY(lisa_adapter_options_init(own, sizeof *own));
    if (given != NULL)
        LISA_TRY(lisa__options_read(own, sizeof *own, sizeof *own, given, "lisa_adapter_options"));
    if (own->reserved != 0)
        return lisa__fail(LISA_E_INVAL, "lisa_adapter_options.reserved: %u, expected 0",
                          own->reserved);
    return LISA_OK;
}

lisa_status lisa_adapter_create(lisa_adapter **out, lisa_model *model,
                                const lisa_adapter_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(model);
    lisa_adapter_options own;
    LISA_TRY(lisa__adapter_options_read(&own, options));
    return lisa__adapter_create(out, model, &own);
}

lisa_status lisa_adapter_open(lisa_adapter **out, lisa_model *model, const char *directory,
                              const lisa_adapter_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(model);
    LISA_REQUIRE(directory);
    lisa_adapter_options own;
    LISA_TRY(lisa__adapter_options_read(&own, options));
    return lisa__adapter_open(out, model, directory, &own);
}

void lisa_adapter_destroy(lisa_adapter *adapter) {
    if (adapter == NULL)
        return;
    if (adapter->model->adapter == adapter)
        lisa__adapter_attach(adapter->model, NULL);
    lisa__adapter_release(adapter);
}

lisa_status lisa_adapter_get_options(const lisa_adapter *adapter, lisa_adapter_options *options) {
    LISA_REQUIRE(adapter);
    return lisa__options_write(options, sizeof *options, &adapter->options, sizeof adapter->options,
                               "lisa_adapter_options");
}

lisa_status lisa_adapter_save(lisa_adapter *adapter, const char *directory) {
    LISA_REQUIRE(adapter);
    LISA_REQUIRE(directory);
    return lisa__adapter_save(adapter, directory);
}

lisa_status lisa_model_set_adapter(lisa_model *model, lisa_adapter *adapter) {
    LISA_REQUIRE(model);
    if (adapter != NULL && adapter->model != model)
        return lisa__fail(LISA_E_INVAL, "lisa_model_set_adapter: the adapter is another model's");
    lisa__adapter_attach(model, adapter);
    return LISA_OK;
}

lisa_status lisa_adapter_merge(lisa_adapter *adapter) {
    LISA_REQUIRE(adapter);
    return lisa__adapter_merge(adapter);
}

uint32_t lisa_adapter_n_tensors(const lisa_adapter *adapter) {
    return adapter == NULL ? 0 : adapter->own.n;
}

lisa_status lisa_adapter_tensor_info(const lisa_adapter *adapter, uint32_t index,
                                     lisa_tensor_info *info) {
    LISA_REQUIRE(adapter);
    return lisa__tensor_info_write(&adapter->own, index, info);
}

lisa_status lisa_adapter_tensor_read(lisa_adapter *adapter, uint32_t index, void *data,
                                     uint32_t dtype, uint64_t n_elements) {
    LISA_REQUIRE(adapter);
    LISA_REQUIRE(data);
    LISA_TRY(lisa__transfer_check(&adapter->own, index, dtype, n_elements));
    LISA_TRY(lisa__parameters_check(&adapter->own));
    return lisa__typed_get(adapter->model, &adapter->own.tensors[index].value, 0, n_elements, data,
                           dtype);
}

lisa_status lisa_adapter_tensor_write(lisa_adapter *adapter, uint32_t index, const void *data,
                                      uint32_t dtype, uint64_t n_elements) {
    LISA_REQUIRE(adapter);
    LISA_REQUIRE(data);
    LISA_TRY(lisa__transfer_check(&adapter->own, index, dtype, n_elements));
    LISA_TRY(lisa__parameters_check(&adapter->own));
    LISA_TRY(lisa__values_put(adapter->model, &adapter->own, index, 0, n_elements, data, dtype));
    adapter->model->version++;
    return LISA_OK;
}

lisa_status lisa_adapter_weight_norm(lisa_adapter *adapter, uint32_t group, double *norm) {
    LISA_REQUIRE(adapter);
    LISA_REQUIRE(norm);
    double sum = 0;
    LISA_TRY(lisa__group_check(adapter->model->config.n_layers, group));
    LISA_TRY(lisa__parameters_check(&adapter->own));
    LISA_TRY(lisa__group_sum_squares(adapter->model, &adapter->own, group, &sum));
    *norm = sqrt(sum);
    return LISA_OK;
}

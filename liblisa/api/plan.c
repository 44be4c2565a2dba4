#include "plan/plan.h"

#include "api/check.h"
#include "api/options.h"
#include "core/options.h"
#include "model/lora.h"
#include "optim/optimizer.h"

/* Bytes of the struct in version 0.1. */
#define REQUEST_0_1 offsetof(lisa_plan_request, adapter)

lisa_status lisa_plan_request_init(lisa_plan_request *request, size_t struct_size) {
    return lisa__options_init(request, struct_size, REQUEST_0_1, "lisa_plan_request");
}

static lisa_status read_request(struct lisa__plan *plan, const lisa_plan_request *request) {
    lisa_plan_request own;
    LISA_TRY(lisa__options_read(&own, sizeof own, REQUEST_0_1, request, "lisa_plan_request"));
    LISA_TRY(lisa__options_read(&plan->config, sizeof plan->config, sizeof plan->config, own.config,
                                "lisa_model_config"));
    LISA_TRY(lisa__config_check(&plan->config));
    LISA_TRY(lisa__context_options_read(&plan->context, own.context));
    LISA_TRY(lisa__model_options_read(&plan->model, own.model));
    LISA_TRY(lisa__batch_options_read(&plan->batch, own.batch));
    LISA_TRY(lisa__optimizer_options_read(&plan->optimizer, own.optimizer));
    LISA_TRY(lisa__optimizer_check(&plan->optimizer, &plan->config, own.adapter != NULL));
    if (own.adapter != NULL) {
        LISA_TRY(lisa__adapter_options_read(&plan->adapter, own.adapter));
        LISA_TRY(lisa__lora_check(&plan->adapter, &plan->config));
        lisa__lora_restrict(&plan->adapter, &plan->optimizer);
    }
    plan->adapted = own.adapter != NULL;
    plan->trains = own.optimizer != NULL;
    plan->max_batch = own.max_batch;
    plan->max_tokens = own.max_tokens;
    plan->generate_tokens = own.generate_tokens;
    return LISA_OK;
}

lisa_status lisa_plan(const lisa_plan_request *request, lisa_plan_report *report) {
    LISA_REQUIRE(request);
    struct lisa__plan plan;
    lisa_plan_report own;
    LISA_TRY(lisa__options_read(&own, sizeof own, sizeof own, report, "lisa_plan_report"));
    LISA_TRY(read_request(&plan, request));
    LISA_TRY(lisa__plan(&plan, &own));
    return lisa__options_write(report, sizeof own, &own, sizeof own, "lisa_plan_report");
}

/* plan.h - the memory plan of a whole run: every layout measured, nothing taken. */
#ifndef LISA_PLAN_PLAN_H
#define LISA_PLAN_PLAN_H

#include "core/context.h"
#include "lisa/plan.h"

/* What a plan is for; every struct read and filled in. */
struct lisa__plan {
    lisa_model_config config; /* checked */
    lisa_context_options context;
    lisa_model_options model;
    lisa_batch_options batch;
    lisa_optimizer_options optimizer;
    lisa_adapter_options adapter;
    uint32_t trains;  /* 0: no optimizer */
    uint32_t adapted; /* 1: an adapter is attached, and trains if anything does */
    uint32_t max_batch, max_tokens, generate_tokens;
};

lisa_status lisa__plan(const struct lisa__plan *plan, lisa_plan_report *report);

#endif

/* plan.h - how many bytes a training run takes, before anything is loaded.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_PLAN_H
#define LISA_PLAN_H

#include "adapter.h"
#include "batch.h"
#include "context.h"
#include "model.h"
#include "optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is planned for: the same structs that the create functions take. NULL means their defaults,
 * `optimizer` = NULL means no training (evaluate and generate alone). */
typedef struct lisa_plan_request {
    size_t struct_size;
    const lisa_model_config *config; /* required */
    const lisa_context_options *context;
    const lisa_model_options *model;
    const lisa_batch_options *batch;
    const lisa_optimizer_options *optimizer;
    uint32_t max_batch;
    uint32_t max_tokens;
    uint32_t generate_tokens; /* longest prompt + continuation; 0: none is planned */
    uint32_t reserved;
    const lisa_adapter_options *adapter; /* NULL: none; else the optimizer trains the adapter */
} lisa_plan_request;

typedef struct lisa_plan_report {
    size_t struct_size;
    uint64_t bytes[16]; /* by LISA_MEM_* class: the most that will be held at once */
    uint64_t total;     /* all classes that a memory_limit counts */
    uint64_t n_parameters;
    uint64_t n_trained;     /* parameters with gradients and moments at any one time */
    uint32_t stored_layers; /* layers whose activations are kept, of L; the others recompute */
    uint32_t head_rows;     /* rows of logits that exist at once */
    uint32_t fits;          /* 1: total is within the memory limit, or there is none */
    uint32_t largest_class; /* the class that takes most of `total` */
} lisa_plan_report;

LISA_API lisa_status lisa_plan_request_init(lisa_plan_request *request, size_t struct_size);

/* Fills *report (struct_size set). Private weights are counted as after every trainable layer has
 * been visited. A plan that does not fit is not an error here. */
LISA_API lisa_status lisa_plan(const lisa_plan_request *request, lisa_plan_report *report);

#ifdef __cplusplus
}
#endif

#endif

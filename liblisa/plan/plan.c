#include "plan/plan.h"

#include "core/dtype.h"
#include "formats/writer.h"
#include "model/lora.h"
#include "plan/activations.h"
#include "plan/state.h"

#include <stdlib.h>
#include <string.h>

struct planner {
    const struct lisa__plan *plan;
    const lisa_backend_ops *ops;
    size_t real_size;
    struct lisa__kinds kinds;
    struct lisa__tensor_desc *descs;
    uint32_t n_tensors;
    const struct lisa__tensor_desc *trained; /* the weights, or the adapter's tensors */
    uint32_t n_trained;
    int streamed;         /* frozen layers are in host memory */
    uint64_t layer_bytes; /* of one, streamed */
    uint64_t bytes[LISA_MEM_CLASSES];
};

/* Saving holds the writer's staging and one side of a conversion. */
_Static_assert(LISA__WRITE_STAGING + LISA__STAGING_BYTES / 2 <= LISA__STAGING_BYTES, "staging");

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static lisa_status add(struct planner *p, const struct lisa__layout *layout) {
    if (layout->overflow)
        return lisa__fail(LISA_E_BUDGET, "plan: the sizes asked for exceed 2^62 bytes");
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        p->bytes[c] += layout->used[c];
    return LISA_OK;
}

static uint64_t limited_total(const uint64_t bytes[LISA_MEM_CLASSES]) {
    uint64_t total = 0;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        total += lisa__is_limited(c) ? bytes[c] : 0;
    return total;
}

/* Weights as lisa_model_open holds them: in the mapping where the backend can use them there. */
static lisa_status plan_weights(struct planner *p) {
    const uint32_t file = p->plan->config.weights_dtype;
    const uint32_t held = lisa__held_dtype(p->ops, file);
    const int mapped = p->plan->model.load == LISA_LOAD_MAP && held == file &&
                       (p->ops->flags & LISA_BACKEND_HOST_MEMORY) != 0;
    struct lisa__layout layout;
    void *unused[2];
    memset(&layout, 0, sizeof layout);
    for (uint32_t i = 0; i < p->n_tensors; i++)
        p->descs[i].dtype = held;
    p->streamed = lisa__is_streamed(&p->plan->model, p->ops, p->descs, p->n_tensors,
                                    p->plan->context.memory_limit);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        struct lisa__tensor_desc *d = &p->descs[i];
        const int is_layer = d->group != 0 && d->group != p->plan->config.n_layers + 1;
        d->mapped = mapped && !(p->streamed && is_layer);
        if (d->mapped)
            p->bytes[LISA_MEM_WEIGHTS_MAPPED] += d->n_elements * lisa__dtype_size(held);
        else if (!(p->streamed && is_layer))
            lisa__take(&layout, LISA_MEM_WEIGHTS_PRIVATE, d->n_elements, lisa__dtype_size(held));
    }
    if (p->streamed)
        p->layer_bytes = lisa__stream_layout(&layout, p->descs, p->n_tensors,
                                             p->plan->config.n_layers, &unused[0], &unused[1]);
    (void)lisa__take_number(&layout);
    return add(p, &layout);
}

/* Private copies of what may train. */
static lisa_status plan_homes(struct planner *p, uint32_t part) {
    uint32_t first, last;
    struct lisa__layout layout;
    memset(&layout, 0, sizeof layout);
    lisa__part_groups(&p->plan->config, part, &first, &last);
    lisa__homes_layout(&layout, NULL, p->descs, p->n_tensors, first, last);
    if (part == LISA__PART_LAYERS && p->plan->model.scratch_dir != NULL) {
        p->bytes[LISA_MEM_DISK] += layout.used[LISA_MEM_WEIGHTS_PRIVATE];
        return LISA_OK;
    }
    return add(p, &layout);
}

/* The adapter's tensors and workspace. */
static lisa_status plan_adapter(struct planner *p) {
    struct lisa__layout layout;
    struct lisa__lora_workspace unused;
    memset(&layout, 0, sizeof layout);
    lisa__lora_layout(&layout, NULL, &unused, p->trained, p->n_trained, &p->plan->adapter,
                      lisa__dtype_size(p->kinds.operand));
    return add(p, &layout);
}

static uint64_t trained_elements(const struct planner *p, const struct lisa__state_shape *s) {
    uint64_t total = 0, layer = 0;
    for (uint32_t i = 0; i < p->n_trained; i++) {
        const struct lisa__tensor_desc *d = &p->trained[i];
        total += d->group == 0 && s->train_embedding ? lisa__trained_elements(s, d) : 0;
        total += d->group == s->n_layers + 1 && s->train_head ? d->n_elements : 0;
        layer += d->group == 1 ? d->n_elements : 0;
    }
    return total + s->max_active * layer;
}

/* Private copies of the weights that may train. */
static lisa_status plan_all_homes(struct planner *p, const struct lisa__state_shape *shape) {
    if (p->streamed)
        p->bytes[LISA_MEM_WEIGHTS_PRIVATE] += shape->max_active * p->layer_bytes;
    else if (shape->max_active != 0)
        LISA_TRY(plan_homes(p, LISA__PART_LAYERS));
    if (shape->train_embedding)
        LISA_TRY(plan_homes(p, LISA__PART_EMBEDDING));
    if (shape->train_head)
        LISA_TRY(plan_homes(p, LISA__PART_HEAD));
    return LISA_OK;
}

static lisa_status plan_training(struct planner *p, lisa_plan_report *report) {
    const struct lisa__plan *plan = p->plan;
    const struct lisa__state_shape shape =
        lisa__state_shape_of(p->trained, p->n_trained, &plan->config, &plan->optimizer, p->ops);
    struct lisa__layout layout;
    struct lisa__state_memory unused;
    memset(&layout, 0, sizeof layout);
    if (!plan->adapted)
        LISA_TRY(plan_all_homes(p, &shape));
    lisa__state_layout(&layout, &unused, &shape);
    p->bytes[LISA_MEM_DISK] += lisa__offload_bytes(&shape);
    report->n_trained = trained_elements(p, &shape);
    return add(p, &layout);
}

static lisa_status plan_activations(struct planner *p, lisa_plan_report *report) {
    const struct lisa__plan *plan = p->plan;
    const uint64_t limit = plan->context.memory_limit, taken = limited_total(p->bytes);
    const uint64_t spare = limit == 0 ? UINT64_MAX : limit > taken ? limit - taken : 0;
    const struct lisa__activations_shape shape = lisa__training_shape(
        &plan->config, p->kinds, plan->max_batch, plan->max_tokens, &plan->batch, spare);
    struct lisa__layout layout;
    struct lisa__activations unused;
    memset(&layout, 0, sizeof layout);
    report->head_rows = shape.head_rows;
    if (plan->batch.inference_only)
        return LISA_OK;
    report->stored_layers = shape.stored_layers;
    lisa__activations_layout(&layout, &unused, &shape);
    return add(p, &layout);
}

static lisa_status plan_evaluation(struct planner *p, const lisa_plan_report *report) {
    const struct lisa__plan *plan = p->plan;
    const struct lisa__activations_shape shapes[] = {
        lisa__evaluation_shape(&plan->config, p->kinds, plan->max_batch, plan->max_tokens,
                               report->head_rows),
        lisa__generation_shape(&plan->config, p->kinds, plan->generate_tokens,
                               plan->generate_tokens),
    };
    uint64_t most = 0;
    for (int i = 0; i < (plan->generate_tokens != 0 ? 2 : 1); i++) {
        struct lisa__layout layout;
        struct lisa__activations unused;
        memset(&layout, 0, sizeof layout);
        lisa__activations_layout(&layout, &unused, &shapes[i]);
        if (layout.overflow)
            return add(p, &layout);
        most = larger(most, layout.used[LISA_MEM_EVALUATION]);
    }
    p->bytes[LISA_MEM_EVALUATION] = most;
    return LISA_OK;
}

/* Either a conversion or a generation is under way. */
static uint64_t staging_bytes(const struct planner *p) {
    const uint32_t n = p->plan->generate_tokens;
    const struct lisa__activations_shape shape =
        lisa__generation_shape(&p->plan->config, p->kinds, n, n);
    struct lisa__generation_host unused;
    return n == 0 ? LISA__STAGING_BYTES
                  : larger(LISA__STAGING_BYTES, lisa__generation_host(&shape, NULL, &unused));
}

static lisa_status plan_all(struct planner *p, lisa_plan_report *report) {
    const struct lisa__plan *plan = p->plan;
    const uint32_t n_threads =
        plan->context.n_threads != 0 ? plan->context.n_threads : lisa__processors();
    LISA_TRY(plan_weights(p));
    p->bytes[LISA_MEM_WORKSPACE] += p->ops->workspace_bytes(n_threads);
    if (plan->adapted)
        LISA_TRY(plan_adapter(p));
    if (plan->trains)
        LISA_TRY(plan_training(p, report));
    if (plan->max_batch != 0)
        LISA_TRY(plan_activations(p, report));
    if (plan->max_batch != 0 || plan->generate_tokens != 0)
        LISA_TRY(plan_evaluation(p, report));
    p->bytes[LISA_MEM_STAGING] = staging_bytes(p);
    return LISA_OK;
}

static void fill_report(const struct planner *p, lisa_plan_report *report) {
    const uint64_t limit = p->plan->context.memory_limit;
    memcpy(report->bytes, p->bytes, sizeof p->bytes);
    report->total = limited_total(p->bytes);
    report->fits = limit == 0 || report->total <= limit;
    for (uint32_t i = 0; i < p->n_tensors; i++)
        report->n_parameters += p->descs[i].n_elements;
    report->largest_class = LISA_MEM_WEIGHTS_PRIVATE;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        if (lisa__is_limited(c) && p->bytes[c] > p->bytes[report->largest_class])
            report->largest_class = c;
}

static lisa_status plan_adapted(struct planner *p, lisa_plan_report *report) {
    const lisa_adapter_options *options = &p->plan->adapter;
    p->n_trained = lisa__lora_count(options, &p->plan->config);
    struct lisa__tensor_desc *descs = calloc(p->n_trained, sizeof *descs);
    if (descs == NULL)
        return lisa__fail(LISA_E_NOMEM, "out of memory: a plan of %u tensors", p->n_trained);
    p->trained = descs;
    lisa_status status = lisa__lora_list(options, &p->plan->config, p->kinds.operand, descs);
    if (status == LISA_OK)
        status = plan_all(p, report);
    free(descs);
    return status;
}

lisa_status lisa__plan(const struct lisa__plan *plan, lisa_plan_report *report) {
    struct planner p = {.plan = plan};
    memset(report, 0, sizeof *report);
    report->struct_size = sizeof *report;
    LISA_TRY(lisa__context_choose(&p.ops, &plan->context));
    if (plan->max_batch != 0 || plan->max_tokens != 0)
        LISA_TRY(lisa__batch_check_size(&plan->config, plan->max_batch, plan->max_tokens));
    if (plan->generate_tokens > plan->config.max_positions)
        return lisa__fail(LISA_E_INVAL, "plan: generate_tokens is %u, the model has %u positions",
                          plan->generate_tokens, plan->config.max_positions);
    p.real_size = lisa__dtype_size(p.ops->real_dtype);
    p.kinds = lisa__kinds_of(p.ops, lisa__held_dtype(p.ops, plan->config.weights_dtype));
    p.n_tensors = lisa__tensor_count(&plan->config);
    p.descs = calloc(p.n_tensors, sizeof *p.descs);
    if (p.descs == NULL)
        return lisa__fail(LISA_E_NOMEM, "out of memory: a plan of %u tensors", p.n_tensors);
    lisa__tensor_list(&plan->config, p.descs);
    p.trained = p.descs;
    p.n_trained = p.n_tensors;
    const lisa_status status = plan->adapted ? plan_adapted(&p, report) : plan_all(&p, report);
    if (status == LISA_OK)
        fill_report(&p, report);
    free(p.descs);
    return status;
}

#include "model/lora.h"

#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

uint32_t lisa__lora_target(uint32_t role) {
    switch (role) {
    case LISA__QKV_W:
        return LISA_TARGET_Q | LISA_TARGET_K | LISA_TARGET_V;
    case LISA__Q_W:
        return LISA_TARGET_Q;
    case LISA__K_W:
        return LISA_TARGET_K;
    case LISA__V_W:
        return LISA_TARGET_V;
    case LISA__O_W:
        return LISA_TARGET_O;
    case LISA__GATE_W:
        return LISA_TARGET_GATE;
    case LISA__UP_W:
        return LISA_TARGET_UP;
    case LISA__DOWN_W:
        return LISA_TARGET_DOWN;
    case LISA__HEAD_W:
        return LISA_TARGET_HEAD;
    default:
        return 0;
    }
}

lisa_status lisa__lora_check(const lisa_adapter_options *o, const lisa_model_config *config) {
    const uint32_t known = LISA_TARGET_ALL_LAYERS | LISA_TARGET_HEAD;
    if (o->rank == 0 || o->rank > LISA__MAX_RANK)
        return lisa__fail(LISA_E_INVAL, "lisa_adapter_options.rank: %u, expected 1 to %u", o->rank,
                          LISA__MAX_RANK);
    if (!(isfinite(o->alpha) && o->alpha > 0))
        return lisa__fail(LISA_E_INVAL, "lisa_adapter_options.alpha: %g, expected above 0",
                          o->alpha);
    if (!(o->dropout >= 0 && o->dropout < 1))
        return lisa__fail(LISA_E_INVAL, "lisa_adapter_options.dropout: %g, expected 0 to below 1",
                          o->dropout);
    if (o->use_rslora > 1)
        return lisa__fail(LISA_E_INVAL, "lisa_adapter_options.use_rslora: %u, expected 0 or 1",
                          o->use_rslora);
    if ((o->targets & ~known) != 0)
        return lisa__fail(LISA_E_INVAL, "lisa_adapter_options.targets: %u has bits above %u",
                          o->targets, known);
    if ((o->targets & LISA_TARGET_HEAD) != 0 && config->tied_head)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "lisa_adapter_options.targets: the head of this model is its embedding, "
                          "which has no adapter");
    if (lisa__lora_count(o, config) == 0)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_adapter_options.targets: %u names no linear map of this model",
                          o->targets);
    return LISA_OK;
}

void lisa__lora_restrict(const lisa_adapter_options *adapter, lisa_optimizer_options *optimizer) {
    optimizer->train_embedding = 0;
    optimizer->train_head &= (adapter->targets & LISA_TARGET_HEAD) != 0;
}

double lisa__lora_scale(const lisa_adapter_options *o) {
    return o->alpha / (o->use_rslora ? sqrt((double)o->rank) : (double)o->rank);
}

/* What a walk over the base's tensors makes of them. */
struct listing {
    const lisa_adapter_options *options;
    const struct lisa__family *family;
    uint32_t dtype, n;
    struct lisa__tensor_desc *out; /* NULL: only counted */
    lisa_status status;
};

/* "base_model.model." + the map's module + ".lora_A.weight". A description's names are those of a
 * whole model's state_dict, however its files spell them. */
static lisa_status name_of(char *out, const char *weight, const char *which) {
    static const char suffix[] = ".weight";
    const size_t length = strlen(weight);
    if (length == 0)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "lisa_adapter_options.targets: the model's family has no name for a map "
                          "of theirs");
    if (length < sizeof suffix || strcmp(weight + length - (sizeof suffix - 1), suffix) != 0)
        return lisa__fail(LISA_E_INTERNAL, "tensor \"%s\": no weight of a linear map", weight);
    const int n = snprintf(out, LISA__MAX_NAME, "base_model.model.%.*s.lora_%s.weight",
                           (int)(length - (sizeof suffix - 1)), weight, which);
    return n < LISA__MAX_NAME
               ? LISA_OK
               : lisa__fail(LISA_E_INTERNAL, "tensor \"%s\": the name is too long", weight);
}

static lisa_status describe(struct lisa__tensor_desc *out, const struct listing *listing,
                            const struct lisa__tensor_desc *base, int is_b) {
    const uint32_t rank = listing->options->rank;
    const int swapped = listing->family->conv1d && base->role < LISA__BLOCK_ROLES;
    *out = *base;
    out->shape[0] = is_b ? base->shape[swapped] : rank;
    out->shape[1] = is_b ? rank : base->shape[!swapped];
    out->n_elements = out->shape[0] * out->shape[1];
    out->dtype = listing->dtype;
    out->mapped = 0;
    out->decays = 1;
    return name_of(out->name, base->name, is_b ? "B" : "A");
}

static void list_one(void *user, const struct lisa__tensor_desc *base) {
    struct listing *listing = user;
    if ((lisa__lora_target(base->role) & listing->options->targets) == 0)
        return;
    for (int is_b = 0; is_b < 2; is_b++, listing->n++)
        if (listing->out != NULL && listing->status == LISA_OK)
            listing->status = describe(&listing->out[listing->n], listing, base, is_b);
}

static struct listing walk(const lisa_adapter_options *options, const lisa_model_config *config,
                           uint32_t dtype, struct lisa__tensor_desc *out) {
    struct listing listing = {
        .options = options,
        .family = lisa__family_find(config->family),
        .dtype = dtype,
        .out = out,
    };
    lisa__tensor_visit(config, list_one, &listing);
    return listing;
}

uint32_t lisa__lora_count(const lisa_adapter_options *options, const lisa_model_config *config) {
    return walk(options, config, 0, NULL).n;
}

lisa_status lisa__lora_list(const lisa_adapter_options *options, const lisa_model_config *config,
                            uint32_t dtype, struct lisa__tensor_desc *out) {
    return walk(options, config, dtype, out).status;
}

void lisa__lora_layout(struct lisa__layout *layout, void **values,
                       struct lisa__lora_workspace *workspace,
                       const struct lisa__tensor_desc *descs, uint32_t n,
                       const lisa_adapter_options *options, size_t operand_size) {
    const uint64_t rows = lisa__lora_rows(options);
    uint64_t widest = 0;
    for (uint32_t i = 0; i < n; i++) {
        void *value =
            lisa__take(layout, LISA_MEM_WEIGHTS_PRIVATE, descs[i].n_elements, operand_size);
        if (values != NULL)
            values[i] = value;
        if (i % 2 == 0 && descs[i].shape[1] > widest)
            widest = descs[i].shape[1];
    }
    memset(workspace, 0, sizeof *workspace);
    workspace->inner = lisa__take(layout, LISA_MEM_WORKSPACE, rows * options->rank, operand_size);
    if (options->dropout > 0)
        workspace->input = lisa__take(layout, LISA_MEM_WORKSPACE, rows * widest, operand_size);
}

#include "formats/peft.h"

#include <string.h>

/* Whether a file's tensor is the one that PEFT calls `name` now: once the adapter's own name stood
 * before "weight" ("lora_A.default.weight"). */
static int is_called(const char *given, const char *name) {
    const size_t prefix = strlen(name) - strlen("weight");
    if (strncmp(given, name, prefix) != 0)
        return 0;
    const char *rest = given + prefix;
    const char *dot = strchr(rest, '.');
    return strcmp(dot == NULL ? rest : dot + 1, "weight") == 0;
}

static uint32_t find(const struct lisa__tensor_desc *all, uint32_t n_all, const char *given) {
    uint32_t i = 0;
    while (i < n_all && !is_called(given, all[i].name))
        i++;
    return i;
}

static lisa_status bind_tensor(uint32_t *targets, const struct lisa__st_tensor **sources,
                               const struct lisa__tensor_desc *all, uint32_t n_all,
                               const struct lisa__st_tensor *s, const char *path) {
    const uint32_t i = find(all, n_all, s->name);
    if (i == n_all)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "%s: tensor \"%.200s\" belongs to no linear map of this model", path,
                          s->name);
    if (sources[i] != NULL)
        return lisa__fail(LISA_E_FORMAT, "%s: tensor \"%.200s\" is there again as \"%.200s\"", path,
                          sources[i]->name, s->name);
    if (s->dtype == 0)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "%s: tensor \"%s\" has dtype %s, expected F32, BF16, F16 or F64", path,
                          s->name, s->dtype_name);
    if (s->n_dims != 2 || s->shape[0] != all[i].shape[0] || s->shape[1] != all[i].shape[1])
        return lisa__fail(LISA_E_FORMAT,
                          "%s: tensor \"%s\" has %u dimensions, first %llu x %llu; its rank and "
                          "this model want 2: %llu x %llu",
                          path, s->name, s->n_dims,
                          (unsigned long long)(s->n_dims > 0 ? s->shape[0] : 1),
                          (unsigned long long)(s->n_dims > 1 ? s->shape[1] : 1),
                          (unsigned long long)all[i].shape[0], (unsigned long long)all[i].shape[1]);
    sources[i] = s;
    *targets |= lisa__lora_target(all[i].role);
    return LISA_OK;
}

lisa_status lisa__peft_bind(uint32_t *targets, const struct lisa__st_tensor **sources,
                            const struct lisa__tensor_desc *all, uint32_t n_all,
                            const struct lisa__weights *file, const char *directory) {
    const uint32_t n = lisa__weights_count(file);
    *targets = 0;
    memset(sources, 0, n_all * sizeof *sources);
    if (n == 0)
        return lisa__fail(LISA_E_FORMAT, "%s/%s: has no tensor", directory, LISA__PEFT_TENSORS);
    for (uint32_t i = 0; i < n; i++) {
        const struct lisa__st_tensor *s = lisa__weights_at(file, i);
        LISA_TRY(bind_tensor(targets, sources, all, n_all, s, lisa__weights_path(file, s)));
    }
    for (uint32_t i = 0; i < n_all; i++)
        if ((lisa__lora_target(all[i].role) & *targets) != 0 && sources[i] == NULL)
            return lisa__fail(LISA_E_FORMAT, "%s/%s: no tensor \"%s\", which others there want",
                              directory, LISA__PEFT_TENSORS, all[i].name);
    return LISA_OK;
}

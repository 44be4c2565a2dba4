#include "api/tensors.h"

#include "core/options.h"

static lisa_status check_index(const struct lisa__parameters *p, uint32_t index) {
    if (index >= p->n)
        return lisa__fail(LISA_E_INVAL, "tensor index %u, there are %u tensors", index, p->n);
    return LISA_OK;
}

lisa_status lisa__tensor_info_write(const struct lisa__parameters *p, uint32_t index,
                                    lisa_tensor_info *info) {
    LISA_TRY(check_index(p, index));
    const struct lisa__tensor_desc *d = &p->descs[index];
    const lisa_tensor_info own = {
        .struct_size = sizeof own,
        .name = d->name,
        .n_elements = d->n_elements,
        .shape = {d->shape[0], d->shape[1]},
        .n_dims = d->n_dims,
        .dtype = d->dtype,
        .group = d->group,
    };
    return lisa__options_write(info, sizeof own, &own, sizeof own, "lisa_tensor_info");
}

lisa_status lisa__transfer_check(const struct lisa__parameters *p, uint32_t index, uint32_t dtype,
                                 uint64_t n_elements) {
    LISA_TRY(check_index(p, index));
    if (dtype != LISA_DTYPE_F32 && dtype != LISA_DTYPE_F64)
        return lisa__fail(LISA_E_INVAL, "tensor values: dtype %u, expected f32 or f64", dtype);
    if (n_elements != p->descs[index].n_elements)
        return lisa__fail(LISA_E_INVAL, "tensor \"%s\": %llu values given, it has %llu",
                          p->descs[index].name, (unsigned long long)n_elements,
                          (unsigned long long)p->descs[index].n_elements);
    return LISA_OK;
}

lisa_status lisa__group_check(uint32_t n_layers, uint32_t group) {
    if (group > n_layers + 1)
        return lisa__fail(LISA_E_INVAL, "group %u, the model's last is %u", group, n_layers + 1);
    return LISA_OK;
}

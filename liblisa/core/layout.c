#include "core/layout.h"

#include <string.h>

static const uint64_t LARGEST = UINT64_C(1) << 62;

void *lisa__take(struct lisa__layout *layout, uint32_t memory_class, uint64_t count,
                 uint64_t size) {
    if (size != 0 && count > LARGEST / size) {
        layout->overflow = 1;
        return NULL;
    }
    const uint64_t bytes = (count * size + LISA__ALIGN - 1) / LISA__ALIGN * LISA__ALIGN;
    const uint64_t begin = layout->used[memory_class];
    if (begin > LARGEST - bytes ||
        (layout->carving && begin + bytes > layout->size[memory_class])) {
        layout->overflow = 1;
        return NULL;
    }
    layout->used[memory_class] = begin + bytes;
    return layout->base[memory_class] == NULL ? NULL : layout->base[memory_class] + begin;
}

lisa_status lisa__layout_alloc(struct lisa__layout *layout, lisa_context *context) {
    if (layout->overflow)
        return lisa__fail(LISA_E_BUDGET, "plan: the sizes asked for exceed 2^62 bytes");
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        const uint64_t bytes = layout->used[c];
        void *base = NULL;
        if (bytes != 0) {
            lisa_status status = context->be->ops->alloc(context->be, &base, c, bytes);
            if (status != LISA_OK) {
                lisa__layout_free(layout, context);
                return status;
            }
        }
        layout->base[c] = base;
        layout->size[c] = bytes;
    }
    memset(layout->used, 0, sizeof layout->used);
    layout->carving = 1;
    return LISA_OK;
}

lisa_status lisa__layout_check(const struct lisa__layout *layout) {
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        if (layout->overflow || layout->used[c] != layout->size[c])
            return lisa__fail(LISA_E_INTERNAL,
                              "plan: memory class %u was measured as %llu bytes and carved as %llu",
                              c, (unsigned long long)layout->size[c],
                              (unsigned long long)layout->used[c]);
    return LISA_OK;
}

void lisa__layout_free(struct lisa__layout *layout, lisa_context *context) {
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        if (layout->base[c] != NULL)
            context->be->ops->release(context->be, layout->base[c], c, layout->size[c]);
    memset(layout, 0, sizeof *layout);
}

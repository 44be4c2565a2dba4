#include "core/context.h"

#include "api/check.h"
#include "api/options.h"
#include "core/options.h"

lisa_status lisa_context_options_init(lisa_context_options *options, size_t struct_size) {
    return lisa__options_init(options, struct_size, sizeof *options, "lisa_context_options");
}

lisa_status lisa__context_options_read(lisa_context_options *own,
                                       const lisa_context_options *given) {
    LISA_TRY(lisa_context_options_init(own, sizeof *own));
    if (given != NULL)
        LISA_TRY(lisa__options_read(own, sizeof *own, sizeof *own, given, "lisa_context_options"));
    if ((own->alloc == NULL) != (own->release == NULL))
        return lisa__fail(LISA_E_INVAL,
                          "lisa_context_options: alloc and release must be set together");
    if (own->n_threads > 1024)
        return lisa__fail(LISA_E_INVAL, "lisa_context_options.n_threads: %u, expected at most 1024",
                          own->n_threads);
    return LISA_OK;
}

lisa_status lisa_context_create(lisa_context **out, const lisa_context_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    lisa_context_options own;
    LISA_TRY(lisa__context_options_read(&own, options));
    return lisa__context_create(out, &own);
}

void lisa_context_destroy(lisa_context *context) {
    lisa__context_release(context);
}

lisa_status lisa_context_memory(const lisa_context *context, uint32_t memory_class,
                                uint64_t *current, uint64_t *peak) {
    LISA_REQUIRE(context);
    if (memory_class >= LISA_MEM_CLASSES)
        return lisa__fail(LISA_E_INVAL, "lisa_context_memory: class %u, expected below %u",
                          memory_class, LISA_MEM_CLASSES);
    if (current != NULL)
        *current = context->current[memory_class];
    if (peak != NULL)
        *peak = context->peak[memory_class];
    return LISA_OK;
}

const char *lisa_context_backend(const lisa_context *context) {
    return context == NULL ? "" : context->be->ops->name;
}

uint32_t lisa_context_n_threads(const lisa_context *context) {
    return context == NULL ? 0 : context->n_threads;
}

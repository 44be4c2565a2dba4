#include "backend/registry.h"

#include "backend/cpu/cpu.h"
#include "backend/reference/reference.h"
#include "core/error.h"

#include <string.h>

static const lisa_backend_ops *const builtin[] = {
    &lisa__backend_cpu,
    &lisa__backend_reference,
    &lisa__backend_reference64,
};

lisa_status lisa__backend_find(const lisa_backend_ops **out, const char *name) {
    /* "auto" is the best that is there. */
    if (name == NULL || strcmp(name, "auto") == 0)
        name = builtin[0]->name;
    for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++)
        if (strcmp(builtin[i]->name, name) == 0) {
            *out = builtin[i];
            return LISA_OK;
        }
    return lisa__fail(LISA_E_BACKEND,
                      "backend \"%s\": not in this build, expected cpu, auto, reference or "
                      "reference64",
                      name);
}
